# SPDX-License-Identifier: Apache-2.0
"""The references: the machine's integers in numpy, and the same cell in floating point."""
