# SPDX-License-Identifier: Apache-2.0
"""Resource estimates by Yosys."""
