# SPDX-License-Identifier: Apache-2.0
"""Pruning a trained network without its training set: the sparse network learns what the dense one answers.

Any input of the kind that the network was made for will do; labels are not needed. The network is pruned over the
first updates, while it already learns to give the answers that it gave when it was dense.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from openese.sw.prune import Density, PruneError
from openese.sw.training.pruner import Pruner

__all__ = ["distill", "relative_error"]

_CLIP = 1.0  # norm of the gradient


def relative_error(found: Any, right: Any) -> Tensor:
    """Squared error over mean square; of tuples, as ``nn.LSTM`` gives them, the first tensor counts."""
    while isinstance(found, tuple):
        found, right = found[0], right[0]
    return (found - right).square().mean() / right.square().mean()


def distill(network: nn.Module, batches: Iterable[Any], updates: int, density: Density, pes: int, *,
            loss: Callable[[Any, Any], Tensor] = relative_error, rate: float = 2e-3, falling: float = 0.4,
            groups: int = 1, balanced: bool = True,
            progress: Callable[[int, float], None] = lambda updates, loss: None) -> list[float]:
    """Prune a network and train it to answer as before.

    Parameters
    ----------
    network : nn.Module
        Trained, dense, with ``nn.LSTM``, ``nn.LSTMCell`` or `LSTMP` in it; called with a batch. It is changed, and
        answers for the dense one are those of a copy in evaluation mode.
    batches : iterable
        At least ``updates`` inputs. Sequences should begin with zero state and be as long as what the state remembers.
    updates : int
    density, pes, groups, balanced
        As for `Pruner`.
    loss : callable
        Of the network's answer and the dense network's, a scalar.
    rate : float
        Learning rate of Adam; over the second half of the updates it falls to zero as a line.
    falling : float
        Share of the updates over which the density falls.
    progress : callable
        Called after each update with their number and the loss.

    Returns
    -------
    list of float
        The loss of each update. The network's pruning is permanent: ordinary parameters with zeros in them.

    Raises
    ------
    PruneError
        As `Pruner`; for fewer than one update, or if there are fewer batches than updates.
    """
    if updates < 1:
        raise PruneError(f"updates must be at least 1, not {updates}")
    dense = copy.deepcopy(network).eval().requires_grad_(False)
    network.train()
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: min(1.0, 2 * (1 - update / updates)))
    pruner = Pruner(network, density, pes, groups, balanced, steps=int(falling * updates))
    curve: list[float] = []
    for _, batch in zip(range(updates), batches, strict=False):
        with torch.no_grad():
            right = dense(batch)
        found = loss(network(batch), right)
        optimizer.zero_grad()
        found.backward()
        nn.utils.clip_grad_norm_(network.parameters(), _CLIP)
        optimizer.step()
        schedule.step()
        pruner.step()
        curve.append(float(found.detach()))
        progress(len(curve), curve[-1])
    if len(curve) < updates:
        raise PruneError(f"batches ended after {len(curve)} of {updates} updates")
    pruner.make_permanent()
    network.eval()
    return curve
