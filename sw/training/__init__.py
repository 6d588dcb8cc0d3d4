# SPDX-License-Identifier: Apache-2.0
"""Training for the machine, with PyTorch (extra ``train``): the paper's cell, and pruning that balances the PEs."""

from .distill import distill, relative_error
from .lstmp import LSTMP, fast_products
from .pruner import Pruner
from .sensitivity import Sensitivity, scan

__all__ = ["LSTMP", "Pruner", "Sensitivity", "distill", "fast_products", "relative_error", "scan"]
