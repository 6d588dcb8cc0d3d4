# SPDX-License-Identifier: Apache-2.0
"""The cycle model: how many cycles a step takes, as the RTL."""
