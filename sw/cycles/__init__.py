# SPDX-License-Identifier: Apache-2.0
"""The cycle model: the cycles of a step, equal to the RTL's."""
