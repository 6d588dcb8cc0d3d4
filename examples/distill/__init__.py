# SPDX-License-Identifier: Apache-2.0
"""Trained networks of other packages, pruned by distillation and run on the reference."""
