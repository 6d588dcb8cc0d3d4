# SPDX-License-Identifier: Apache-2.0
"""How much each weight matrix minds being pruned, and what densities follow from that.

As the paper does: one matrix at a time is pruned in one shot, at several densities, all others stay dense, and the
error of the network is measured. What a matrix loses alone says little about what it loses after training
with the mask, but much about which matrix to spare.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from openese.sw.prune import PruneError, keep_mask
from openese.sw.training.pruner import find_weights

__all__ = ["Sensitivity", "scan"]

Key = tuple[str, str]


@dataclass(frozen=True)
class Sensitivity:
    """What a scan found.

    Attributes
    ----------
    densities : tuple of float
        Falling, the first is 1.
    errors : dict
        (layer, tensor) -> error at each of the densities.
    sizes : dict
        (layer, tensor) -> number of weights.
    """

    densities: tuple[float, ...]
    errors: dict[Key, tuple[float, ...]]
    sizes: dict[Key, int]

    def propose(self, density: float) -> dict[str, dict[str, float]]:
        """Densities of the scan, by layer and tensor, with at most ``density`` of all weights together.

        From all dense, the step down that costs least for each weight that it saves is taken, until enough are saved;
        the costs of matrices are taken to add up. The result is what `Pruner` and `openese.sw.prune.prune` take.

        Raises
        ------
        PruneError
            If even the lowest densities keep more.
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
            left = [key for key, level in chosen.items() if level + 1 < len(self.densities)]
            if not left:
                raise PruneError(f"density {density} is below the lowest of the scan, {self.densities[-1]}")
            chosen[min(left, key=cost)] += 1
        proposed: dict[str, dict[str, float]] = {}
        for (layer, tensor), level in chosen.items():
            proposed.setdefault(layer, {})[tensor] = self.densities[level]
        return proposed


@torch.no_grad()
def scan(network: nn.Module, error: Callable[[], float], densities: Sequence[float], pes: int, groups: int = 1,
         balanced: bool = True) -> Sensitivity:
    """Prune one matrix at a time and measure.

    Parameters
    ----------
    network : nn.Module
        Without masks; it is as it was when this returns.
    error : callable
        The network's error, the less the better.
    densities : sequence of float
        Between 0 and 1.
    pes, groups, balanced
        As for `openese.sw.prune.keep_mask`.

    Raises
    ------
    PruneError
        For a network without LSTMs, or impossible densities or PEs.
    """
    found = list(find_weights(network))
    if not found:
        raise PruneError(f"{type(network).__name__} has no LSTM to prune")
    levels = (1.0, *sorted(set(densities) - {1.0}, reverse=True))
    errors, sizes, whole = {}, {}, error()
    for weights in found:
        parameter = getattr(weights.module, weights.parameter)
        before, measured = parameter.detach().clone(), [whole]
        try:
            for density in levels[1:]:
                for values in weights.matrices(parameter.data):
                    keep = keep_mask(values.cpu().numpy(), density, pes, groups, balanced)
                    values.mul_(torch.from_numpy(keep))
                measured.append(error())
                parameter.data.copy_(before)
        finally:
            parameter.data.copy_(before)
        errors[weights.layer, weights.tensor] = tuple(measured)
        sizes[weights.layer, weights.tensor] = parameter.numel()
    return Sensitivity(levels, errors, sizes)
