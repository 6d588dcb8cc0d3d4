# SPDX-License-Identifier: Apache-2.0
"""Train and prune networks for the machine with PyTorch (extra ``train``)."""

from openese.sw.training.distill import distill, relative_error
from openese.sw.training.lstmp import LSTMP, fast_products
from openese.sw.training.pruner import Pruner
from openese.sw.training.sensitivity import Sensitivity, scan

__all__ = ["LSTMP", "Pruner", "Sensitivity", "distill", "fast_products", "relative_error", "scan"]
