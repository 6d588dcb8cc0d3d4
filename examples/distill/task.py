# SPDX-License-Identifier: Apache-2.0
"""What a network is distilled on and judged by."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch

__all__ = ["Streams", "Task"]


class Streams:
    """Pieces of long sequences at random, always the same for the same seed.

    Parameters
    ----------
    sequences : list of ndarray, (T, I)
        Those of at least ``steps`` are used.
    batch, steps : int
        Pieces side by side, and frames of each.
    weights : sequence of float, optional
        How often each sequence is used, beside the others; all equally often without.
    vary : callable
        Of a generator and a piece (steps, I), the piece as it is heard this time.
    """

    def __init__(self, sequences, batch, steps, weights=None, vary=lambda rng, piece: piece):
        long = [number for number, sequence in enumerate(sequences) if len(sequence) >= steps]
        if not long:
            raise ValueError(f"no recording is {steps} frames long")
        self._sequences = [sequences[number] for number in long]
        self._weights = None if weights is None else np.asarray(weights, float)[long]
        self._batch, self._steps, self._vary = batch, steps, vary

    def pieces(self, rng):
        """(steps, batch, I) float32."""
        found = []
        for number in self._numbers(rng):
            sequence = self._sequences[number]
            start = rng.integers(len(sequence) - self._steps + 1)
            found.append(self._vary(rng, sequence[start:start + self._steps]))
        return np.stack(found, axis=1).astype(np.float32)

    def _numbers(self, rng):
        if self._weights is None:
            return rng.integers(len(self._sequences), size=self._batch)
        return rng.choice(len(self._sequences), size=self._batch, p=self._weights / self._weights.sum())

    def batches(self, seed):
        """Endless tensors (steps, batch, I)."""
        rng = np.random.default_rng(seed)
        while True:
            yield torch.from_numpy(self.pieces(rng))


@dataclass(frozen=True)
class Task(ABC):
    """A trained network of another package, and what it is for.

    Attributes
    ----------
    name : str
    config : `openese.rtl.config.Config`
        The machine.
    updates, batch, steps : int
        Of the distillation.
    judged_by : tuple of str
        Sources of speech.
    rate : float
        Learning rate.
    shares : mapping, optional
        How much of what is learned from comes from each source that is there; by default all pieces count alike.
    """

    name: str
    config: object
    updates: int
    batch: int
    steps: int
    judged_by: tuple
    rate: float = 2e-3
    shares: dict | None = None

    @abstractmethod
    def network(self):
        """The trained network, dense, in PyTorch, on (T, B, I)."""

    @abstractmethod
    def loss(self, found, right):
        """How far an answer of `network` is from the dense one's."""

    @abstractmethod
    def imported(self, path):
        """The `openese.sw.model.network.Network` in a file with the parameters of `network`."""

    @abstractmethod
    def features(self, audio):
        """What the LSTM is given of audio: (T, I)."""

    @abstractmethod
    def training(self, voices):
        """What is learned from: for each take of all voices and each of them, a list of (T, I)."""

    def vary(self, rng, piece):
        """A piece (steps, I) of that as it is heard this time; as it is, unless a task says otherwise."""
        return piece

    @abstractmethod
    def examine(self, run, tests):
        """How well the task is done: by test, figures.

        Parameters
        ----------
        run : callable
            Outputs of each of a list of sequences (T, I), as those of `examples.recognizer.machine`.
        tests : mapping of str to list of `Voice`
        """
