# SPDX-License-Identifier: Apache-2.0
"""Prune a trained network without its training set: the sparse network learns the outputs of the dense one.

This needs typical inputs but no labels. The density falls during the first updates, while the network already learns.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from openese.rtl.config import Config
from openese.sw.prune import Density, PruneError
from openese.sw.training.pruner import Pruner

__all__ = ["distill", "relative_error"]

_CLIP = 1.0  # norm of the gradient


def relative_error(outputs: Any, dense: Any) -> Tensor:
    """Return the mean squared error over the mean square of ``dense``; of a tuple, the first tensor counts."""
    while isinstance(outputs, tuple):
        outputs, dense = outputs[0], dense[0]
    return (outputs - dense).square().mean() / dense.square().mean()


def distill(network: nn.Module, batches: Iterable[Any], updates: int, density: Density,
            machine: str | Config, *,
            loss: Callable[[Any, Any], Tensor] = relative_error, rate: float = 2e-3, falling: float = 0.4,
            balanced: bool = True, dense: str = "machine",
            progress: Callable[[int, float], None] = lambda updates, loss: None) -> list[float]:
    """Prune a network in place and train it to give the outputs of the dense network.

    Parameters
    ----------
    network : nn.Module
        A trained, dense network with layers that `Pruner` prunes, called with one batch. Its copy in evaluation mode
        gives the dense outputs.
    batches : iterable
        At least ``updates`` inputs. Sequences start with zero state and should be at least as long as the network's
        memory.
    updates : int
        The number of updates.
    density, machine, balanced, dense
        As for `Pruner`.
    loss : callable
        ``loss(outputs, dense_outputs)`` returns a scalar.
    rate : float
        The learning rate of Adam. It falls linearly to zero in the second half of the updates.
    falling : float
        The share of updates in which the density falls.
    progress : callable
        Called after each update with the number of updates done and the loss.

    Returns
    -------
    list of float
        The loss of each update. The pruning is permanent: the parameters are ordinary again, with zeros.

    Raises
    ------
    PruneError
        If `Pruner` refuses an argument, ``updates`` is less than one, or there are fewer batches than updates.
    """
    if updates < 1:
        raise PruneError(f"updates must be at least 1, not {updates}")
    teacher = copy.deepcopy(network).eval().requires_grad_(False)
    network.train()
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: min(1.0, 2 * (1 - update / updates)))
    pruner = Pruner(network, density, machine, balanced, steps=int(falling * updates), dense=dense)
    curve: list[float] = []
    for _, batch in zip(range(updates), batches, strict=False):
        with torch.no_grad():
            dense_outputs = teacher(batch)
        error = loss(network(batch), dense_outputs)
        optimizer.zero_grad()
        error.backward()
        nn.utils.clip_grad_norm_(network.parameters(), _CLIP)
        optimizer.step()
        schedule.step()
        pruner.step()
        curve.append(float(error.detach()))
        progress(len(curve), curve[-1])
    if len(curve) < updates:
        raise PruneError(f"batches ended after {len(curve)} of {updates} updates; give one batch for each update")
    pruner.make_permanent()
    network.eval()
    return curve
