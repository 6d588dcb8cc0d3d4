# SPDX-License-Identifier: Apache-2.0
"""Training runs: resumable, and the same for the same seed and packages.

A *run* trains a network over a number of updates, from scratch or from where another run ended. The dense network
and the sparse ones branch off one run, so that all are trained on the same number of frames.
"""

import json
import time
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch.nn.functional import cross_entropy, softmax

from examples.recognizer.network import Recognizer
from sw.speech.features import STATIC, with_differences
from sw.speech.recognizer import DELAY
from sw.training import Pruner

__all__ = ["PES", "Batches", "Run", "load", "train"]

PES = 32

_IGNORED = -100
_KEEP_EVERY = 40  # updates
_CLIP = 1.0  # norm of the gradient
_BETAS = (0.9, 0.98)  # of Adam
_WARM_UP = 50  # updates


@dataclass(frozen=True)
class Run:
    """A run of training.

    Attributes
    ----------
    name : str
    cells, outputs : int
    updates : int
    rate : float
        Learning rate of Adam at the beginning.
    decay : bool
        Whether the rate falls to zero, as a line, or stays.
    parent : str, optional
        The run that it goes on from; with its optimizer, unless its rate had fallen to zero.
    teacher : str, optional
        The run whose network's answers are learned too, half and half with the labels (Hinton et al., 2015).
    density : float or mapping, optional
        As for `Pruner`; dense without it.
    balanced : bool
    falling : float
        Share of the updates over which the density falls.
    stage : int
        How many runs there are before it, one from the other.
    seed : int
    layers : int
    both : bool
        As for `Recognizer`.
    """

    name: str
    cells: int
    outputs: int
    updates: int
    rate: float
    decay: bool
    parent: str | None = None
    teacher: str | None = None
    density: float | dict | None = None
    balanced: bool = True
    falling: float = 0.4
    stage: int = 0
    seed: int = 1
    layers: int = 1
    both: bool = False


class Batches:
    """Pieces of utterances at random, always the same for the same update.

    Parameters
    ----------
    sources : sequence of (Utterances, share)
    batch, steps : int
        Pieces side by side, and frames of each.
    """

    def __init__(self, sources, batch, steps):
        self._sources = [utterances for utterances, _ in sources]
        shares = np.array([share for _, share in sources], float)
        self._shares = shares / shares.sum()
        self._weights = []
        for utterances in self._sources:
            lengths = np.array([len(phones) for phones in utterances.phones], float)
            self._weights.append(np.cumsum(lengths) / lengths.sum())
        self._batch, self._steps = batch, steps

    def __call__(self, seed, update):
        """Features (T, B, 153) and phones (T, B), delayed; -100 where there is no answer."""
        rng = np.random.default_rng([seed, update])
        values = np.zeros((self._batch, self._steps, STATIC), np.float32)
        wanted = np.full((self._batch, self._steps), _IGNORED)
        for row, source in enumerate(rng.choice(len(self._sources), self._batch, p=self._shares)):
            number = int(np.searchsorted(self._weights[source], rng.random()))
            piece, phones = self._sources[source].values[number], self._sources[source].phones[number]
            start = 0 if rng.random() < 0.2 else int(rng.integers(0, max(1, len(phones) + DELAY - self._steps + 1)))
            part = piece[start:start + self._steps]
            values[row, :len(part)] = part
            answers = phones[start:start + self._steps - DELAY]
            wanted[row, DELAY:DELAY + len(answers)] = answers
            self._hide(rng, values[row, :len(part)])
        features = with_differences(values).transpose(1, 0, 2)
        return torch.from_numpy(np.ascontiguousarray(features)), torch.from_numpy(np.ascontiguousarray(wanted.T))

    @staticmethod
    def _hide(rng, values):
        """Set some bands, or some frames, to their means."""
        if rng.random() < 0.5:
            first, width = int(rng.integers(0, STATIC - 1)), int(rng.integers(1, 9))
            values[:, first:first + width] = 0
        if rng.random() < 0.3:
            first, width = int(rng.integers(0, len(values))), int(rng.integers(1, 11))
            values[first:first + width] = 0


class _Training:
    """A run under way."""

    def __init__(self, run, folder):
        self.run, self._folder = run, folder
        torch.manual_seed(run.seed)
        self.network = self._network(run.parent)
        self._optimizer = torch.optim.Adam(self.network.parameters(), lr=run.rate, betas=_BETAS)
        self._warm_up = _WARM_UP
        self._keep_moments()
        self._teacher = None if run.teacher is None else self._network(run.teacher).requires_grad_(False)
        self.pruner = None if run.density is None else Pruner(
            self.network, run.density, PES, balanced=run.balanced, steps=int(run.falling * run.updates))
        self.curve, self.seconds = [], 0.0
        if self._state_file.exists():
            self._go_on(torch.load(self._state_file, weights_only=True))

    def _network(self, name):
        """The trained network of a run, or one to begin with."""
        network = Recognizer(self.run.cells, self.run.outputs, torch.bfloat16, self.run.layers, self.run.both)
        if name is not None:
            network.load_state_dict(torch.load(self._folder / f"{name}.pt", weights_only=True))
        return network

    def _keep_moments(self):
        """Go on with the optimizer of the parent, if it left it."""
        moments = self._folder / f"{self.run.parent}.optimizer"
        if self.run.parent is not None and moments.exists():
            self._optimizer.load_state_dict(torch.load(moments, weights_only=True))
            self._warm_up = 0

    @property
    def _state_file(self):
        return self._folder / f"{self.run.name}.state"

    def _go_on(self, state):
        self.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.curve, self.seconds = state["curve"], state["seconds"]
        if self.pruner:
            self.pruner.load_state_dict(state["pruner"])

    def keep(self):
        """Write all that is needed to go on from here."""
        state = {"network": self.network.state_dict(), "optimizer": self._optimizer.state_dict(), "curve": self.curve,
                 "seconds": self.seconds, "pruner": self.pruner.state_dict() if self.pruner else {}}
        _replace(self._state_file, lambda path: torch.save(state, path))

    def _rate(self):
        update, run = len(self.curve), self.run
        left = 1 - update / run.updates if run.decay else 1.0
        warm = min(1.0, (update + 1) / self._warm_up) if self._warm_up else 1.0
        return run.rate * left * warm

    def _loss(self, x, wanted):
        answered = wanted != _IGNORED
        given = self.network(x)[answered]
        loss = cross_entropy(given, wanted[answered])
        if self._teacher is None:
            return loss
        with torch.no_grad():
            taught = softmax(self._teacher(x)[answered], dim=-1)
        return (loss + cross_entropy(given, taught)) / 2

    def update(self, batches):
        """One step of the optimizer."""
        began = time.process_time()
        # A run meets other pieces than the one that it goes on from.
        x, wanted = batches(self.run.seed + 1000 * self.run.stage, len(self.curve))
        self._optimizer.param_groups[0]["lr"] = self._rate()
        loss = self._loss(x, wanted)
        self._optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), _CLIP)
        self._optimizer.step()
        if self.pruner:
            self.pruner.step()
        self.curve.append(loss.item())
        self.seconds += time.process_time() - began

    def finish(self):
        """Make masks permanent, and write the network and the record of its training."""
        if self.pruner:
            self.pruner.make_permanent()
        record = {"run": asdict(self.run), "processor_seconds": round(self.seconds),
                  "curve": [round(loss, 4) for loss in self.curve]}
        (self._folder / f"{self.run.name}.json").write_text(json.dumps(record) + "\n")
        if not self.run.decay:
            state = self._optimizer.state_dict()
            _replace(self._folder / f"{self.run.name}.optimizer", lambda path: torch.save(state, path))
        _replace(self._folder / f"{self.run.name}.pt", lambda path: torch.save(self.network.state_dict(), path))
        self._state_file.unlink()


def load(run, folder):
    """The trained network of a run, and the record of its training.

    Raises
    ------
    FileNotFoundError
        If it has not been trained.
    """
    network = Recognizer(run.cells, run.outputs, layers=run.layers, both=run.both)
    network.load_state_dict(torch.load(folder / f"{run.name}.pt", weights_only=True))
    return network, json.loads((folder / f"{run.name}.json").read_text())


def train(run, folder, batches, advance=lambda updates, loss: None):
    """Train, or go on with what was interrupted; nothing happens where that was done before.

    Parameters
    ----------
    run : `Run`
    folder : Path
        Where runs keep their states, and where that of ``run.parent`` is.
    batches : `Batches`
    advance : callable
        Called with the number of updates made so far and the last loss.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / f"{run.name}.pt").exists():
        return
    training = _Training(run, folder)
    while len(training.curve) < run.updates:
        training.update(batches)
        advance(len(training.curve), training.curve[-1])
        if len(training.curve) % _KEEP_EVERY == 0:
            training.keep()
    training.keep()
    training.finish()


def _replace(path, write):
    """Write a file whole or not at all."""
    partial = path.with_suffix(path.suffix + ".partial")
    write(partial)
    partial.rename(path)
