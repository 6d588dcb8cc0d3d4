# SPDX-License-Identifier: Apache-2.0
"""Measure how pruning each weight matrix changes the error, and propose densities.

As in the paper, one matrix at a time is pruned at several densities, without training, while the others stay dense.
The errors do not predict the error after training, but they show which matrices to keep denser.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from openese.rtl.config import Config, machine_config
from openese.sw.compile import on_machine
from openese.sw.prune import PruneError, keep_mask
from openese.sw.training.pruner import find_weights

__all__ = ["Sensitivity", "scan"]

Key = tuple[str, str]


@dataclass(frozen=True)
class Sensitivity:
    """The errors that `scan` measured.

    Attributes
    ----------
    densities : tuple of float
        In falling order; the first is 1.
    errors : dict
        (layer, tensor) -> error at each density.
    sizes : dict
        (layer, tensor) -> number of weights.
    """

    densities: tuple[float, ...]
    errors: dict[Key, tuple[float, ...]]
    sizes: dict[Key, int]

    def propose(self, density: float) -> dict[str, dict[str, float]]:
        """Return densities by layer and tensor that keep at most the share ``density`` of all weights.

        Start from dense matrices. Repeatedly lower one matrix to the next density of the scan: the one whose error
        rises least for each weight removed. Errors of different matrices are assumed to add up. `Pruner` and
        `openese.prune` accept the result.

        Raises
        ------
        PruneError
            If the lowest densities of the scan keep more weights.
        """
        allowed = density * sum(self.sizes.values())
        chosen = dict.fromkeys(self.errors, 0)

        def kept() -> float:
            return sum(self.sizes[key] * self.densities[level] for key, level in chosen.items())

        def cost(key: Key) -> float:
            level, errors = chosen[key], self.errors[key]
            saved = self.sizes[key] * (self.densities[level] - self.densities[level + 1])
            return (errors[level + 1] - errors[level]) / saved

        while kept() > allowed:
            candidates = [key for key, level in chosen.items() if level + 1 < len(self.densities)]
            if not candidates:
                raise PruneError(f"density {density} is below the lowest of the scan, {self.densities[-1]}; "
                                 "scan lower densities")
            chosen[min(candidates, key=cost)] += 1
        proposed: dict[str, dict[str, float]] = {}
        for (layer, tensor), level in chosen.items():
            proposed.setdefault(layer, {})[tensor] = self.densities[level]
        return proposed


@torch.no_grad()
def scan(network: nn.Module, error: Callable[[], float], densities: Sequence[float], machine: str | Config,
         balanced: bool = True, dense: str = "machine") -> Sensitivity:
    """Prune one matrix at a time and measure the error of the network.

    Parameters
    ----------
    network : nn.Module
        A network without masks. Its weights are restored at the end.
    error : callable
        Returns the network's error; smaller is better.
    densities : sequence of float
        Densities between 0 and 1.
    machine : str or `Config`
        The machine, or a preset's name.
    balanced : bool
        As for `openese.sw.prune.keep_mask`.
    dense : str
        As for `Pruner`.

    Raises
    ------
    PruneError
        If the network has no layer to prune, or a density is not between 0 and 1.
    """
    config = machine_config(machine)
    prunable = find_weights(network, on_machine(dense, config))
    levels = (1.0, *sorted(set(densities) - {1.0}, reverse=True))
    errors, sizes, dense_error = {}, {}, error()
    for weights in prunable:
        parameter = getattr(weights.module, weights.parameter)
        before, measured = parameter.detach().clone(), [dense_error]
        try:
            for density in levels[1:]:
                for values in weights.matrices(parameter.data):
                    keep = keep_mask(values.cpu().numpy(), density, config.pes, config.groups, balanced)
                    values.mul_(torch.from_numpy(keep))
                measured.append(error())
                parameter.data.copy_(before)
        finally:
            parameter.data.copy_(before)
        errors[weights.layer, weights.tensor] = tuple(measured)
        sizes[weights.layer, weights.tensor] = parameter.numel()
    return Sensitivity(levels, errors, sizes)
