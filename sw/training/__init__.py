# SPDX-License-Identifier: Apache-2.0
"""Training for the machine, with PyTorch (extra ``train``): the paper's cell, and pruning that balances the PEs."""

from openese.sw.training.distill import distill, relative_error
from openese.sw.training.lstmp import LSTMP, fast_products
from openese.sw.training.pruner import Pruner
from openese.sw.training.sensitivity import Sensitivity, scan

__all__ = ["LSTMP", "Pruner", "Sensitivity", "distill", "fast_products", "relative_error", "scan"]
