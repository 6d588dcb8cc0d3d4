# SPDX-License-Identifier: Apache-2.0
"""Load-balance-aware pruning during training, with the masks of `torch.nn.utils.prune`.

Three lines in a training loop::

    pruner = Pruner(network, 0.1, "ese", steps=1000)
    for batch in batches:
        ...
        optimizer.step()
        pruner.step()
    pruner.make_permanent()

A parameter ``weight`` becomes ``weight_orig`` and ``weight_mask``; their product replaces it before every forward
pass. `openese.sw.prune.keep_mask` chooses the weights that stay, so training and the command ``openese prune`` keep
the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from openese.rtl.config import Config, machine_config
from openese.sw.compile import on_machine
from openese.sw.prune import Density, PruneError, densities, keep_mask, slice_counts
from openese.sw.training.lstmp import LSTMP

__all__ = ["Pruner", "Weights", "find_weights", "is_dense", "root_name"]

_OF_TORCH = {"weight_ih": "w_x", "weight_hh": "w_r", "weight_hr": "w_ym"}


class Weights(NamedTuple):
    """A parameter that can be pruned, its layer, and its tensor's name in `openese.Layer`."""

    module: nn.Module
    parameter: str
    layer: str
    tensor: str

    def matrices(self, values: Tensor) -> tuple[Tensor, ...]:
        """Split values of the parameter's shape into matrices: one for each gate, or the only one."""
        if self.tensor == "w_ym" or isinstance(self.module, nn.Linear):
            return (values,)
        gates = 3 if isinstance(self.module, (nn.GRU, nn.GRUCell)) else 4
        return values.unflatten(0, (gates, -1)).unbind() if values.dim() == 2 else values.unbind()


def root_name(module: nn.Module) -> str:
    """The name of a layer that is the network itself."""
    if isinstance(module, nn.Linear):
        return "dense"
    return "gru" if isinstance(module, (nn.GRU, nn.GRUCell)) else "lstm"


def is_dense(module: nn.Module) -> bool:
    """Whether a module computes what a dense layer of a machine does, and nothing else."""
    return (isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward
            and not isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear)
            and module.weight.is_floating_point())


def _weights(network: nn.Module, dense: bool) -> Iterator[Weights]:
    for path, module in network.named_modules():
        if dense and is_dense(module):
            yield Weights(module, "weight", path or root_name(module), "w_x")
        if isinstance(module, LSTMP):
            for tensor in ("w_x", "w_r", "w_ym"):
                if getattr(module, tensor) is not None:
                    yield Weights(module, tensor, path or "lstm", tensor)
        elif isinstance(module, (nn.LSTM, nn.LSTMCell, nn.GRU, nn.GRUCell)):
            cell = isinstance(module, (nn.LSTMCell, nn.GRUCell))
            for parameter in [name for name, _ in module.named_parameters()]:
                kind, _, layer = (parameter, "", "") if cell else parameter.partition("_l")
                if kind in _OF_TORCH:
                    name = ".".join(part for part in (path, layer and f"l{layer}") if part)
                    yield Weights(module, parameter, name or root_name(module), _OF_TORCH[kind])


def find_weights(network: nn.Module, dense: bool = False) -> list[Weights]:
    """Return the input, recurrent and projection weights of each LSTM and GRU in a network, and with ``dense`` those of
    each ``nn.Linear``.

    Raises
    ------
    PruneError
        If the network has no such layer.
    """
    weights = list(_weights(network, dense))
    if not weights:
        raise PruneError(f"{type(network).__name__} has no LSTM or GRU to prune; it needs an nn.LSTM, nn.GRU, "
                         f"one of their cells, or an LSTMP"
                         f"{', or an nn.Linear' if dense else '; an nn.Linear needs a machine with dense layers'}")
    return weights


class Pruner:
    """Prune the LSTMs and GRUs of a network during training, and the dense layers that the machine computes.

    Parameters
    ----------
    network : nn.Module
        A network with ``nn.LSTM``, ``nn.LSTMCell``, ``nn.GRU``, ``nn.GRUCell`` or `LSTMP` layers; all of them are
        pruned, and every ``nn.Linear`` if the machine has dense layers. Parameters stay the same objects, so an
        existing optimizer keeps working.
    density : float or mapping
        The final share of weights to keep, as `openese.sw.prune.Density`. A layer's name is the path of its module.
        Layers of an ``nn.LSTM`` or ``nn.GRU`` add ``.l0``, ``.l1``, ``.l0_reverse``. If the network itself is one, the
        names are ``l0``, ...; of a single cell it is ``lstm`` or ``gru``, of a single ``nn.Linear`` ``dense``.
    machine : str or `Config`
        The machine, or a preset's name: each of its PEs keeps the same share of its weights of every matrix.
    balanced : bool
        False keeps the largest weights of each whole matrix: magnitude pruning, for comparison.
    steps : int
        The number of calls of `step` in which densities move from their present values (1 for a dense network) to
        the final ones. The distance shrinks as the cube of the remaining steps (Zhu and Gupta, 2017). If a density
        rises, pruned weights with the largest gradients return. Zero prunes at once.
    every : int
        The number of calls of `step` from one choice of masks to the next.
    exchange : float
        The share of kept weights that each choice replaces by the pruned weights with the largest gradients, which
        start at zero (Evci et al., 2020, *RigL*). It falls to zero as half a cosine over ``exchange_steps``.
    exchange_steps : int
        The number of calls of `step` with exchanges; zero for none.
    equal : bool
        Each PE keeps the same number of weights instead; see `openese.sw.prune.keep_mask`.
    dense : str
        ``"machine"``: on a machine with dense layers, each ``nn.Linear`` is pruned too. ``"host"``: they stay whole.

    Raises
    ------
    PruneError
        If the network has no layer to prune, or an argument is out of its range.
    """

    def __init__(self, network: nn.Module, density: Density, machine: str | Config, balanced: bool = True,
                 steps: int = 0, every: int = 10, exchange: float = 0.0, exchange_steps: int = 0,
                 equal: bool = False, dense: str = "machine") -> None:
        if steps < 0 or exchange_steps < 0 or every < 1:
            raise PruneError("steps and exchange_steps must be at least 0 and every at least 1, "
                             f"not {steps}, {exchange_steps} and {every}")
        if not 0 <= exchange < 1:
            raise PruneError(f"exchange must be a share of at least 0 and below 1, not {exchange}")
        if bool(exchange) != bool(exchange_steps):
            raise PruneError(f"exchange and exchange_steps must both be zero or both be positive, "
                             f"not {exchange} and {exchange_steps}")
        self._config, self._balanced, self._equal = machine_config(machine), balanced, equal
        prunable = find_weights(network, on_machine(dense, self._config))
        by_layer = densities(list(dict.fromkeys(weights.layer for weights in prunable)), density)
        self._steps, self._every = steps, every
        self._exchange, self._exchange_steps = exchange, exchange_steps
        self._count = 0
        final = [by_layer[weights.layer][weights.tensor] for weights in prunable]
        self._masked = [(weights, self._first(weights, end), end)
                        for weights, end in zip(prunable, final, strict=True)]
        for module, parameter, _, _ in prunable:
            torch_prune.custom_from_mask(module, parameter, torch.ones_like(getattr(module, parameter)))
        growing = {weights.module: None for weights, first, end in self._masked if self._grows(first, end)}
        self._hooks = [module.register_forward_hook(self._keep_gradients) for module in growing]
        self._choose(0.0)

    @property
    def left(self) -> float:
        """The remaining share of the way to the final densities: 1 at the start, 0 at the end."""
        return max(0.0, 1 - self._count / self._steps) ** 3 if self._steps else 0.0

    def step(self) -> None:
        """Choose new masks if densities still change or weights are exchanged; call it after each optimizer step.

        Raises
        ------
        PruneError
            If pruned weights should return, and there are no gradients because no backward pass has run.
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
        """Return the density at the start; the final density if the weights are already pruned to it."""
        values = getattr(weights.module, weights.parameter)
        nonzeros = int(torch.count_nonzero(values))
        kept = sum(int(self._keep(matrix, final).sum()) for matrix in weights.matrices(values))
        return final if nonzeros == kept or final == 1 else nonzeros / values.numel()

    def _grows(self, first: float, final: float) -> bool:
        return self._exchange_steps > 0 or self._steps > 0 and first < final

    def _exchanged(self) -> float:
        left = 1 - self._count / self._exchange_steps if self._count < self._exchange_steps else 0.0
        return self._exchange * (1 - math.cos(math.pi * left)) / 2

    def _keep_gradients(self, module: nn.Module, given: Any, answer: Any) -> None:
        """Make autograd keep the gradients of all weights, including pruned ones."""
        for weights, _, _ in self._masked:
            if weights.module is module and getattr(module, weights.parameter).requires_grad:
                getattr(module, weights.parameter).retain_grad()

    def _remove_hooks(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def make_permanent(self) -> None:
        """Set pruned weights to zero and remove the masks.

        Raises
        ------
        PruneError
            If the final densities are not reached yet.
        """
        if self._count < self._steps:
            raise PruneError(f"the pruner is at step {self._count} of {self._steps}; call step() after each step of "
                             "the optimizer until the final densities are reached")
        self._remove_hooks()
        for weights, _, _ in self._masked:
            torch_prune.remove(weights.module, weights.parameter)

    def counts(self) -> dict[str, dict[str, list[tuple[int, int]]]]:
        """Return the smallest and largest number of weights on a PE for each matrix, by layer and tensor."""
        counts: dict[str, dict[str, list[tuple[int, int]]]] = {}
        for weights, _, _ in self._masked:
            per_pe = [slice_counts(matrix.cpu().numpy(), self._config.pes, self._config.groups)
                      for matrix in weights.matrices(getattr(weights.module, f"{weights.parameter}_mask"))]
            counts.setdefault(weights.layer, {})[weights.tensor] = [(int(n.min()), int(n.max())) for n in per_pe]
        return counts

    def state_dict(self) -> dict[str, Any]:
        """Return the number of steps done. The masks are in the network's own state."""
        return {"count": self._count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`. Load the network's own state first."""
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
                    # Weights that stay rank above every gradient.
                    chosen = gradient.abs() / gradient.abs().max().clamp(min=1e-30) + 2 * stays
                kept.copy_(self._keep(chosen, density))
            setattr(weights.module, weights.parameter, dense * mask)

    def _gradients(self, weights: Weights) -> Tensor:
        gradients = getattr(weights.module, weights.parameter).grad
        if gradients is None:
            raise PruneError(f"{weights.layer}: {weights.tensor} has no gradient; call backward() before step(), "
                             "because gradients choose the weights that return")
        return gradients

    def _keep(self, values: Tensor, density: float) -> Tensor:
        keep = keep_mask(values.detach().cpu().numpy(), density, self._config.pes, self._config.groups,
                         self._balanced, self._equal)
        return torch.from_numpy(keep)
