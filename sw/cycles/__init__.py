# SPDX-License-Identifier: Apache-2.0
"""The cycle model: the cycles of a step, equal to the RTL's; and the share of a machine that a model takes."""
