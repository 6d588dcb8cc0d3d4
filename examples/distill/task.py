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
        Those of at least ``steps`` are used, equally often.
    batch, steps : int
        Pieces side by side, and frames of each.
    """

    def __init__(self, sequences, batch, steps):
        self._sequences = [sequence for sequence in sequences if len(sequence) >= steps]
        if not self._sequences:
            raise ValueError(f"no recording is {steps} frames long")
        self._batch, self._steps = batch, steps

    def pieces(self, rng):
        """(steps, batch, I) float32."""
        found = []
        for number in rng.integers(len(self._sequences), size=self._batch):
            sequence = self._sequences[number]
            start = rng.integers(len(sequence) - self._steps + 1)
            found.append(sequence[start:start + self._steps])
        return np.stack(found, axis=1).astype(np.float32)

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
    config : `rtl.config.Config`
        The machine.
    updates, batch, steps : int
        Of the distillation.
    judged_by : tuple of str
        Sources of speech.
    rate : float
        Learning rate.
    """

    name: str
    config: object
    updates: int
    batch: int
    steps: int
    judged_by: tuple
    rate: float = 2e-3

    @abstractmethod
    def network(self):
        """The trained network, dense, in PyTorch, on (T, B, I)."""

    @abstractmethod
    def loss(self, found, right):
        """How far an answer of `network` is from the dense one's."""

    @abstractmethod
    def imported(self, path):
        """The `sw.network.Network` in a file with the parameters of `network`."""

    @abstractmethod
    def features(self, audio):
        """What the LSTM is given of audio: (T, I)."""

    @abstractmethod
    def training(self, voices):
        """What is learned from: a list of (T, I)."""

    @abstractmethod
    def examine(self, run, tests):
        """How well the task is done: by test, figures.

        Parameters
        ----------
        run : callable
            Outputs of each of a list of sequences (T, I), as those of `examples.recognizer.machine`.
        tests : mapping of str to list of `Voice`
        """
