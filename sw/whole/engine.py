# SPDX-License-Identifier: Apache-2.0
"""The engine that a host calls for the parts of a network that a machine computes.

A part is a `Network` without a head: an LSTM or GRU, a chain of them and dense layers, or dense layers alone. The host
gives it sequences, lengths and initial states, and gets outputs and final states.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from openese.sw.model.arrays import FloatArray
from openese.sw.model.network import Network, Runner, check_sequences
from openese.sw.model.state import LayerState, State, initial_state
from openese.sw.run.runners import FloatRunner

__all__ = ["Engine", "Recorded", "Recorder", "float_runners"]

_MOST_NUMBERS = 1 << 27  # of the recorded frames of one part, with their padding


class Recorded(NamedTuple):
    """The input of one part: frames (T, B, I), lengths (B,), and the state of each direction before the first frame."""

    frames: FloatArray
    lengths: NDArray[np.intp]
    initial: tuple[State, ...]


class Engine:
    """Runs the parts of a network.

    Parameters
    ----------
    parts : mapping of str to `Network`
        By their names.
    runners : mapping of str to sequence of `Runner`
        For each part, one runner for each of its directions.
    """

    def __init__(self, parts: Mapping[str, Network], runners: Mapping[str, Sequence[Runner]]) -> None:
        self.parts = dict(parts)
        self._runners = {name: tuple(runners[name]) for name in parts}

    @property
    def input_saturations(self) -> int:
        """Numbers in frames and states so far that did not fit their formats and were clamped."""
        return sum(getattr(runner, "input_saturations", 0) for runners in self._runners.values() for runner in runners)

    def call(self, name: str, x: ArrayLike, lengths: ArrayLike | None = None,
             initial: Sequence[State] | None = None) -> tuple[FloatArray, tuple[State, ...]]:
        """Run sequences through one part.

        Parameters
        ----------
        name : str
        x : array (T, B, I)
        lengths : integers (B,), optional
            Frames of each sequence; T by default.
        initial : sequence of State, optional
            One for each direction; zero by default.

        Returns
        -------
        y : float64 (T, B, P)
            Zero from ``lengths[b]`` on.
        states : tuple of State
            Of each direction, after the last frame that it gets.

        Raises
        ------
        ModelError
            A shape does not fit, or a number is not finite.
        """
        return self.parts[name].run(x, self._runners[name], lengths, initial)

    def call_dense(self, name: str, x: ArrayLike) -> FloatArray:
        """The outputs (..., P) of a part of dense layers alone for vectors (..., I), each for itself.

        Raises
        ------
        ModelError
            A shape does not fit, or a number is not finite.
        """
        vectors = np.atleast_1d(x)
        y, _ = self.call(name, vectors.reshape(1, -1, vectors.shape[-1]))
        return y.reshape(*vectors.shape[:-1], y.shape[-1])


def float_runners(parts: Mapping[str, Network]) -> dict[str, tuple[FloatRunner, ...]]:
    """Runners in float64 for every part."""
    return {name: tuple(FloatRunner(direction.model) for direction in part.directions)
            for name, part in parts.items()}


class _Sequence:
    """One voice over the calls in which it goes on from its last state."""

    def __init__(self, initial: list[list[LayerState]]) -> None:
        self.initial = initial
        self.frames: list[FloatArray] = []

    @property
    def length(self) -> int:
        return sum(len(part) for part in self.frames)


class Recorder(Engine):
    """An engine in floating point that keeps the input of every part, on which number formats are chosen.

    A voice whose initial state is the final state of an earlier call goes on with that sequence, so a network that is
    called once a step is calibrated on its whole sequence.

    Parameters
    ----------
    parts : mapping of str to `Network`
    """

    def __init__(self, parts: Mapping[str, Network]) -> None:
        super().__init__(parts, float_runners(parts))
        self._sequences: dict[str, list[_Sequence]] = {name: [] for name in parts}
        self._open: dict[str, dict[bytes, _Sequence]] = {name: {} for name in parts}

    def call(self, name: str, x: ArrayLike, lengths: ArrayLike | None = None,
             initial: Sequence[State] | None = None) -> tuple[FloatArray, tuple[State, ...]]:
        """Run and record; see `Engine.call`."""
        part = self.parts[name]
        frames, counts = check_sequences(x, lengths, part.inputs)
        before = tuple(initial) if initial is not None else tuple(
            tuple(initial_state(direction.model, frames.shape[1])) for direction in part.directions)
        y, after = super().call(name, frames, counts, before)
        joins = not any(direction.reverse for direction in part.directions) and any(
            layer.feedback for direction in part.directions for layer in direction.model.layers)
        waiting = self._open[name]
        ended = []
        for voice in np.flatnonzero(counts).tolist():
            sequence = waiting.pop(_key(before, voice), None) if joins else None
            if sequence is None:
                sequence = _Sequence([[LayerState(*(held[voice] for held in layer)) for layer in state]
                                      for state in before])
                self._sequences[name].append(sequence)
            sequence.frames.append(frames[:counts[voice], voice].copy())
            if joins:
                ended.append((_key(after, voice), sequence))
        waiting.update(ended)
        return y, after

    def reached(self, name: str) -> bool:
        """Whether one part got a number that is not zero: zeros tell nothing about number formats."""
        return any(np.any(array) for sequence in self._sequences[name]
                   for array in (*sequence.frames, *(held for state in sequence.initial for layer in state
                                                     for held in layer)))

    def recorded(self, name: str) -> Recorded | None:
        """The input of one part so far, the longest sequences first; None if nothing but zeros reached it.

        The shortest sequences are left out where all with their padding would not fit into memory.
        """
        if not self.reached(name):
            return None
        sequences = sorted(self._sequences[name], key=lambda sequence: -sequence.length)
        part = self.parts[name]
        steps = sequences[0].length
        sequences = sequences[:max(1, _MOST_NUMBERS // (steps * part.inputs))]
        frames = np.zeros((steps, len(sequences), part.inputs))
        for voice, sequence in enumerate(sequences):
            frames[:sequence.length, voice] = np.concatenate(sequence.frames)
        initial = tuple(tuple(LayerState(*(np.stack([sequence.initial[d][k][tensor] for sequence in sequences])
                                           for tensor in (0, 1)))
                              for k in range(len(direction.model.layers)))
                        for d, direction in enumerate(part.directions))
        return Recorded(frames, np.array([sequence.length for sequence in sequences], np.intp), initial)


def _key(states: Sequence[State], voice: int) -> bytes:
    """The state of a voice in the float32 that hosts keep it in."""
    return b"".join(np.asarray(held[voice], np.float32).tobytes()
                    for state in states for layer in state for held in layer)
