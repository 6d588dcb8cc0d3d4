# SPDX-License-Identifier: Apache-2.0
"""Runners of a `Network`'s models over whole sequences: in floating point, or on a machine."""

from collections.abc import Callable
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

    def get_state(self, channel: int) -> list[ChannelState]:
        """The state of one channel, layer by layer."""

    def set_state(self, channel: int, state: list[ChannelState]) -> None:
        """Replace the state of one channel."""


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
        return tuple(LayerState(np.zeros((voices, layer.cells)), np.zeros((voices, layer.outputs)))
                     for layer in self._machine.model.layers)

    def run(self, x: FloatArray, lengths: NDArray[np.intp], state: State) -> tuple[FloatArray, State]:
        """Outputs and states as of `network.Runner.run`: real numbers, computed in the machine's integers."""
        machine = self._machine
        outputs = np.zeros((*x.shape[:2], machine.model.outputs))
        after = tuple(LayerState(layer.c.copy(), layer.y.copy()) for layer in state)
        for start in range(0, x.shape[1], machine.channels):
            voices = np.arange(start, min(start + machine.channels, x.shape[1]))
            steps = int(lengths[voices].max(initial=0))
            for channel, voice in enumerate(voices):
                integers, saturated = machine.model.quantize_state([LayerState(c[voice], y[voice]) for c, y in state])
                machine.set_state(channel, integers)
                self.input_saturations += saturated
            frames = np.zeros((steps, machine.channels, x.shape[2]), np.int64)
            frames[:, :len(voices)], saturated = machine.model.quantize_input(x[:steps, voices])
            self.input_saturations += saturated
            active = np.zeros((steps, machine.channels), bool)
            active[:, :len(voices)] = np.arange(steps)[:, None] < lengths[voices]
            for first in range(0, steps, STEPS):
                part = slice(first, min(first + STEPS, steps))
                y = machine.run(frames[part], active[part])
                outputs[part, voices] = machine.model.dequantize_output(y[:, :len(voices)])
                self._advance(part.stop - part.start)
            for channel, voice in enumerate(voices):
                end = machine.model.dequantize_state(machine.get_state(channel))
                for layer, last in zip(after, end, strict=True):
                    layer.c[voice], layer.y[voice] = last
        return outputs, after
