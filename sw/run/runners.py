# SPDX-License-Identifier: Apache-2.0
"""Runners of a `Network`'s models over whole sequences: in floating point, or on a machine."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from openese.sw.model.arrays import FloatArray, Int64Array
from openese.sw.model.layers import Model
from openese.sw.model.quantized import QuantizedModel
from openese.sw.model.state import ChannelState, LayerState, State
from openese.sw.reference.floating import run

__all__ = ["FloatRunner", "Machine", "MachineRunner"]


STEPS = 64  # steps between two reports of progress


class Machine(Protocol):
    """A machine with a model in it: `Reference`, `Device` or `TracedDevice`."""

    model: QuantizedModel
    channels: int

    def run(self, frames: ArrayLike, active: ArrayLike | None = None) -> Int64Array:
        """Compute steps for frames (T, C, I) of the ``active`` channels (T, C); returns y (T, C, P)."""

    def get_states(self, channels: Sequence[int]) -> list[ChannelState]:
        """The states of some channels, layer by layer: c (channels, H) and y (channels, P)."""

    def set_states(self, channels: Sequence[int], states: Sequence[ChannelState]) -> None:
        """Replace the states of some channels."""


class FloatRunner:
    """Runs a model in float64, sequences of the same length together."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def run(self, x: FloatArray, lengths: NDArray[np.intp], state: State) -> tuple[FloatArray, State]:
        """Outputs and states as of `network.Runner.run`."""
        outputs = np.zeros((*x.shape[:2], self._model.outputs))
        after = tuple(LayerState(layer.c.copy(), layer.y.copy()) for layer in state)
        for length in np.unique(lengths):
            voices = np.flatnonzero(lengths == length)
            before = [LayerState(layer.c[voices], layer.y[voices]) for layer in state]
            outputs[:length, voices], final = run(self._model, x[:length, voices], before)
            for layer, end in zip(after, final, strict=True):
                layer.c[voices], layer.y[voices] = end
        return outputs, after


class MachineRunner:
    """Runs sequences on a machine, as many side by side as it has channels.

    When a sequence has ended, its channel is not active any more and keeps its state.

    Parameters
    ----------
    machine : Machine
    advance : callable, optional
        Called after every `STEPS` steps with the number of steps since the last call.

    Attributes
    ----------
    input_saturations : int
        Numbers in frames and states so far that did not fit their formats and were clamped.
    """

    def __init__(self, machine: Machine, advance: Callable[[int], None] = lambda steps: None) -> None:
        self._machine = machine
        self._advance = advance
        self.input_saturations = 0

    def zero_state(self, voices: int) -> State:
        """The zero state of voices."""
        return tuple(LayerState(np.zeros((voices, layer.cells)), np.zeros((voices, layer.feedback)))
                     for layer in self._machine.model.layers)

    def run(self, x: FloatArray, lengths: NDArray[np.intp], state: State) -> tuple[FloatArray, State]:
        """Outputs and states as of `network.Runner.run`: real numbers, computed in the machine's integers."""
        machine, model = self._machine, self._machine.model
        outputs = np.zeros((*x.shape[:2], model.outputs))
        after = tuple(LayerState(np.empty_like(layer.c), np.empty_like(layer.y)) for layer in state)
        for start in range(0, x.shape[1], machine.channels):
            voices = slice(start, min(start + machine.channels, x.shape[1]))
            counts = lengths[voices]
            used = slice(0, len(counts))
            integers, saturated = model.quantize_state([LayerState(c[voices], y[voices]) for c, y in state])
            self.input_saturations += saturated
            running = np.flatnonzero(counts).tolist()
            machine.set_states(running, [ChannelState(c[running], y[running]) for c, y in integers])
            steps = int(counts.max(initial=0))
            active = np.zeros((steps, machine.channels), bool)
            active[:, used] = np.arange(steps)[:, None] < counts
            for first in range(0, steps, STEPS):
                part = slice(first, min(first + STEPS, steps))
                frames = np.zeros((part.stop - part.start, machine.channels, x.shape[2]), np.int64)
                frames[:, used], saturated = model.quantize_input(x[part, voices])
                self.input_saturations += saturated
                outputs[part, voices] = model.dequantize_output(machine.run(frames, active[part])[:, used])
                self._advance(part.stop - part.start)
            for held, last in zip(integers, machine.get_states(running), strict=True):
                held.c[running], held.y[running] = last
            for layer, end in zip(after, model.dequantize_state(integers), strict=True):
                layer.c[voices], layer.y[voices] = end
        return outputs, after
