# SPDX-License-Identifier: Apache-2.0
"""Trained networks from other packages, pruned to a tenth by distillation and run by the integer machine."""
