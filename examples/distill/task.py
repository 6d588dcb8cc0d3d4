# SPDX-License-Identifier: Apache-2.0
"""A network for distillation with its training data and tests."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch

__all__ = ["Streams", "Task"]


class Streams:
    """Random pieces of long sequences, the same for the same seed.

    Parameters
    ----------
    sequences : list of ndarray, (T, I)
        Sequences shorter than ``steps`` are not used.
    batch, steps : int
        The number of pieces in a batch, and of frames in a piece.
    weights : sequence of float, optional
        The relative frequency of each sequence; by default all are equal.
    vary : callable
        ``vary(rng, piece)`` returns a variation of a piece (steps, I).

    Raises
    ------
    ValueError
        If no sequence has ``steps`` frames.
    """

    def __init__(self, sequences, batch, steps, weights=None, vary=lambda rng, piece: piece):
        long = [number for number, sequence in enumerate(sequences) if len(sequence) >= steps]
        if not long:
            raise ValueError(f"no recording is {steps} frames long; use longer recordings")
        self._sequences = [sequences[number] for number in long]
        self._weights = None if weights is None else np.asarray(weights, float)[long]
        self._batch, self._steps, self._vary = batch, steps, vary

    def pieces(self, rng):
        """Return a batch of pieces, (steps, batch, I) float32."""
        pieces = []
        for number in self._numbers(rng):
            sequence = self._sequences[number]
            start = rng.integers(len(sequence) - self._steps + 1)
            pieces.append(self._vary(rng, sequence[start:start + self._steps]))
        return np.stack(pieces, axis=1).astype(np.float32)

    def _numbers(self, rng):
        if self._weights is None:
            return rng.integers(len(self._sequences), size=self._batch)
        return rng.choice(len(self._sequences), size=self._batch, p=self._weights / self._weights.sum())

    def batches(self, seed):
        """Yield tensors (steps, batch, I) without end."""
        rng = np.random.default_rng(seed)
        while True:
            yield torch.from_numpy(self.pieces(rng))


@dataclass(frozen=True)
class Task(ABC):
    """A trained network of another package and its test.

    Attributes
    ----------
    name : str
    config : `openese.Config`
        The machine.
    updates, batch, steps : int
        The updates of the distillation, the pieces in a batch, and the frames in a piece.
    judged_by : tuple of str
        The sources of the test speech.
    rate : float
        The learning rate.
    shares : mapping, optional
        The share of each source in the training; by default all pieces are equally frequent.
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
        """Return the trained, dense network in PyTorch, for inputs (T, B, I)."""

    @abstractmethod
    def loss(self, outputs, dense):
        """Return the distance of outputs of `network` from the outputs of the dense network, a scalar."""

    @abstractmethod
    def imported(self, path):
        """Return the `openese.Network` in a file with the parameters of `network`."""

    @abstractmethod
    def features(self, audio):
        """Return the LSTM's inputs (T, I) for audio."""

    @abstractmethod
    def training(self, voices):
        """Return training features: for each take, and for each voice in it, a list of (T, I)."""

    def vary(self, rng, piece):
        """Return a variation of a piece (steps, I) for training; by default the piece itself."""
        return piece

    @abstractmethod
    def examine(self, run, tests):
        """Return the figures of each test.

        Parameters
        ----------
        run : callable
            ``run(sequences)`` returns the outputs of each sequence (T, I).
        tests : mapping of str to list of `Voice`
        """
