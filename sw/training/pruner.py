# SPDX-License-Identifier: Apache-2.0
"""Load-balance-aware pruning while a network is trained, in the manner of `torch.nn.utils.prune`.

Three lines in a training loop::

    pruner = Pruner(network, density=0.1, pes=32, steps=1000)
    for batch in batches:
        ...
        optimizer.step()
        pruner.step()
    pruner.make_permanent()

The masks are those of `torch.nn.utils.prune`: a parameter ``weight`` becomes ``weight_orig`` and ``weight_mask``, and
their product takes its place before every forward pass. `openese.sw.prune.keep_mask` chooses the weights that stay,
so training and the command line prune alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from openese.sw.prune import Density, PruneError, densities, keep_mask, slice_counts
from openese.sw.training.lstmp import LSTMP

__all__ = ["Pruner", "Weights", "find_weights"]

_OF_TORCH = {"weight_ih": "w_x", "weight_hh": "w_r", "weight_hr": "w_ym"}


class Weights(NamedTuple):
    """A parameter that can be pruned, with its layer and tensor as `openese.sw.model.layers.Layer` names them."""

    module: nn.Module
    parameter: str
    layer: str
    tensor: str

    def matrices(self, values: Tensor) -> tuple[Tensor, ...]:
        """The matrices in values of the parameter's shape: one for each gate, or the projection."""
        if self.tensor == "w_ym":
            return (values,)
        return values.unflatten(0, (4, -1)).unbind() if values.dim() == 2 else values.unbind()


def find_weights(network: nn.Module) -> Iterator[Weights]:
    """Input, recurrent and projection weights of each LSTM in a network."""
    for path, module in network.named_modules():
        if isinstance(module, LSTMP):
            for tensor in ("w_x", "w_r", "w_ym"):
                if getattr(module, tensor) is not None:
                    yield Weights(module, tensor, path or "lstm", tensor)
        elif isinstance(module, (nn.LSTM, nn.LSTMCell)):
            for parameter in [name for name, _ in module.named_parameters()]:
                kind, _, layer = parameter.partition("_l") if isinstance(module, nn.LSTM) else (parameter, "", "")
                if kind in _OF_TORCH:
                    name = ".".join(part for part in (path, layer and f"l{layer}") if part)
                    yield Weights(module, parameter, name or "lstm", _OF_TORCH[kind])


class Pruner:
    """Prunes the LSTMs of a network while it is trained.

    Parameters
    ----------
    network : nn.Module
        Anything that holds `LSTMP`, ``nn.LSTM`` or ``nn.LSTMCell``; all of them are pruned. Their parameters stay the
        same objects, so an optimizer that was made before goes on.
    density : float or mapping
        Share of the weights that stay in the end, as `openese.sw.prune.Density`. A layer's name is the path of its
        module, with ``.l0``, ``.l1``, ``.l0_reverse`` behind it for the layers of an ``nn.LSTM``; ``lstm`` and ``l0``
        where the module is the network.
    pes, groups : int
        The machine's PEs and column groups.
    balanced : bool
        False keeps the largest weights wherever they lie, to compare.
    steps : int
        Over so many calls of `step` densities go from what they are, of a dense network from 1, to the wanted ones,
        fast at first, as the cube of what is left of them (Zhu and Gupta, 2017). Where one rises, weights with the
        largest gradients join. Zero prunes at once.
    every : int
        Masks are chosen anew every so many steps.
    exchange : float
        Share of what stays that gives way each time to the pruned weights with the largest gradients, which begin at
        zero (Evci et al., 2020, *RigL*). It falls to nothing as half a cosine, over ``exchange_steps``.
    exchange_steps : int
        Calls of `step` with exchanges; zero without.

    Raises
    ------
    PruneError
        For a network without LSTMs, an impossible density or machine, negative steps, or an exchange that is none.
    """

    def __init__(self, network: nn.Module, density: Density, pes: int, groups: int = 1, balanced: bool = True,
                 steps: int = 0, every: int = 10, exchange: float = 0.0, exchange_steps: int = 0) -> None:
        if steps < 0 or exchange_steps < 0 or every < 1:
            raise PruneError("steps must not be negative and every at least 1, "
                             f"not {steps}, {exchange_steps} and {every}")
        if not 0 <= exchange < 1:
            raise PruneError(f"what is exchanged must be a share from 0 to below 1, not {exchange}")
        if bool(exchange) != bool(exchange_steps):
            raise PruneError(f"exchange and exchange_steps belong together, not {exchange} and {exchange_steps}")
        found = list(find_weights(network))
        if not found:
            raise PruneError(f"{type(network).__name__} has no LSTM to prune")
        wanted = densities(list(dict.fromkeys(weights.layer for weights in found)), density)
        self._pes, self._groups, self._balanced = pes, groups, balanced
        self._steps, self._every = steps, every
        self._exchange, self._exchange_steps = exchange, exchange_steps
        self._count = 0
        final = [wanted[weights.layer][weights.tensor] for weights in found]
        self._masked = [(weights, self._first(weights, end), end) for weights, end in zip(found, final, strict=True)]
        for module, parameter, _, _ in found:
            torch_prune.custom_from_mask(module, parameter, torch.ones_like(getattr(module, parameter)))
        growing = {weights.module: None for weights, first, end in self._masked if self._grows(first, end)}
        self._hooks = [module.register_forward_hook(self._keep_gradients) for module in growing]
        self._choose(0.0)

    @property
    def left(self) -> float:
        """What is left of the way to the final densities: 1 at first, 0 in the end."""
        return max(0.0, 1 - self._count / self._steps) ** 3 if self._steps else 0.0

    def step(self) -> None:
        """To be called after each step of the optimizer: chooses the masks anew while densities still change, or
        weights are exchanged.

        Raises
        ------
        PruneError
            If weights are to join or be exchanged, and there was no backward pass to tell which.
        """
        last = max(self._steps, self._exchange_steps)
        if self._count >= last:
            return
        self._count += 1
        if self._count % self._every == 0 or self._count == last:
            self._choose(self._exchanged())
        if self._count == last:
            self._remove_hooks()

    def _first(self, weights: Weights, final: float) -> float:
        """The density at first; the final one, where only rounding tells them apart."""
        values = getattr(weights.module, weights.parameter)
        there = int(torch.count_nonzero(values))
        wanted = sum(int(self._keep(matrix, final).sum()) for matrix in weights.matrices(values))
        return final if there == wanted or final == 1 else there / values.numel()

    def _grows(self, first: float, final: float) -> bool:
        return self._exchange_steps > 0 or self._steps > 0 and first < final

    def _exchanged(self) -> float:
        left = 1 - self._count / self._exchange_steps if self._count < self._exchange_steps else 0.0
        return self._exchange * (1 - math.cos(math.pi * left)) / 2

    def _keep_gradients(self, module: nn.Module, given: Any, answer: Any) -> None:
        """Have autograd keep the gradients of all weights, also of those that are pruned."""
        for weights, _, _ in self._masked:
            if weights.module is module and getattr(module, weights.parameter).requires_grad:
                getattr(module, weights.parameter).retain_grad()

    def _remove_hooks(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def make_permanent(self) -> None:
        """Set what is pruned to zero, and take the masks away.

        Raises
        ------
        PruneError
            If densities are still changing.
        """
        if self._count < self._steps:
            raise PruneError(f"step {self._count} of {self._steps}: the densities have not been reached")
        self._remove_hooks()
        for weights, _, _ in self._masked:
            torch_prune.remove(weights.module, weights.parameter)

    def counts(self) -> dict[str, dict[str, list[tuple[int, int]]]]:
        """By layer and tensor, the smallest and the largest number of weights on a PE, for each matrix."""
        found: dict[str, dict[str, list[tuple[int, int]]]] = {}
        for weights, _, _ in self._masked:
            per_pe = [slice_counts(matrix.cpu().numpy(), self._pes, self._groups)
                      for matrix in weights.matrices(getattr(weights.module, f"{weights.parameter}_mask"))]
            found.setdefault(weights.layer, {})[weights.tensor] = [(int(n.min()), int(n.max())) for n in per_pe]
        return found

    def state_dict(self) -> dict[str, Any]:
        """How far the schedule is; the masks are in the state of the network."""
        return {"count": self._count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`, after the network has been given its own state."""
        self._count = int(state["count"])

    @torch.no_grad()
    def _choose(self, exchanged: float) -> None:
        for weights, first, final in self._masked:
            dense = getattr(weights.module, f"{weights.parameter}_orig")
            mask = getattr(weights.module, f"{weights.parameter}_mask")
            density = final + (first - final) * self.left
            grows = self._count > 0 and self._grows(first, final)
            if grows:
                dense.mul_(mask)
            gradients = weights.matrices(self._gradients(weights) if grows else mask)
            for values, kept, gradient in zip(weights.matrices(dense), weights.matrices(mask), gradients, strict=True):
                chosen = values
                if grows:
                    stays = self._keep(values, density * (1 - exchanged)) & (values != 0)
                    # Those that stay come before any gradient.
                    chosen = gradient.abs() / gradient.abs().max().clamp(min=1e-30) + 2 * stays
                kept.copy_(self._keep(chosen, density))
            setattr(weights.module, weights.parameter, dense * mask)

    def _gradients(self, weights: Weights) -> Tensor:
        found = getattr(weights.module, weights.parameter).grad
        if found is None:
            raise PruneError(f"{weights.layer}: {weights.tensor} has no gradient: what grows is chosen by the last "
                             "backward pass")
        return found

    def _keep(self, values: Tensor, density: float) -> Tensor:
        keep = keep_mask(values.detach().cpu().numpy(), density, self._pes, self._groups, self._balanced)
        return torch.from_numpy(keep)
