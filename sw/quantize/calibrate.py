# SPDX-License-Identifier: Apache-2.0
"""Measurements on calibration frames in floating point, on which the quantizer chooses the formats.

There are two: the range of every tensor over all frames, and the error at a layer's output when one tensor is rounded
and clipped to a format, on segments of the frames.
"""

import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openese.rtl.config import Config
from openese.rtl.fixed import saturate, to_fixed
from openese.sw.model.arrays import Float64Array, Int64Array, IntArray
from openese.sw.model.layers import Layer, Model
from openese.sw.model.state import LayerState, State
from openese.sw.reference import floating
from openese.sw.reference.floating import Cells, FloatDense, FloatGru, FloatLayer, FloatLstm
from openese.sw.reference.products import Weights, multiply, replace_values, stored_values

__all__ = ["Change", "FormatCosts", "Range", "Recording", "Segments", "max_fraction", "ranges", "record",
           "segments", "symmetric"]

SEGMENT_STEPS = 64
SEGMENTS = 16
#: The most products of one layer on all segments. A layer with more than four million weights has fewer segments.
SEGMENT_PRODUCTS = 1 << 32
CLIP_PERCENTILE = 99.0
_BATCH_NUMBERS = 1 << 22  # numbers in memory for the changes that are measured together
_OF_N = 2  # the gate n of a GRU
_ROUNDING = 1e-24  # a cost below this share of the power of y is float64's own rounding


class Range(NamedTuple):
    """Smallest and largest value."""

    minimum: float
    maximum: float

    @property
    def peak(self) -> float:
        """Largest magnitude."""
        return max(abs(self.minimum), abs(self.maximum))


def max_fraction(peak: float, bits: int) -> int:
    """The most fraction bits with which ``peak`` fits a signed number of ``bits`` bits."""
    limit = (1 << (bits - 1)) - 1
    if peak <= 0:
        return bits - 1
    with np.errstate(over="ignore"):
        return int(np.floor(np.log2(min(limit / np.float64(peak), sys.float_info.max))))


def symmetric(values: NDArray[Any], fraction: int, bits: int) -> Int64Array:
    """Real numbers as integers with ``fraction`` fraction bits, clipped to magnitudes up to ``2**(bits-1) - 1``."""
    limit = (1 << (bits - 1)) - 1
    return np.clip(to_fixed(values, fraction), -limit, limit)


class Segments(NamedTuple):
    """Pieces of sequences (T, B, ...), all of the same number of steps.

    Attributes
    ----------
    voice, start : integers (pieces,)
        The sequence of each piece, and its first step there.
    steps : int
    """

    voice: NDArray[np.intp]
    start: NDArray[np.intp]
    steps: int

    def of(self, frames: Float64Array) -> Float64Array:
        """The pieces of frames (T, B, I), as (steps, pieces, I)."""
        return frames[self.start + np.arange(self.steps)[:, None], self.voice]

    def begin(self, initial: State) -> State:
        """The state of each piece before its first step: ``initial`` at the beginning of a sequence, zero within one.

        The state that floating point has there would choose formats of the same quality.
        """
        first = (self.start == 0)[:, None]
        return tuple(LayerState(c[self.voice] * first, y[self.voice] * first) for c, y in initial)


def segments(model: Model, lengths: IntArray) -> Segments:
    """Pieces of at most `SEGMENT_STEPS` steps, evenly spread over sequences of ``lengths`` (B,).

    There are at most `SEGMENTS`, and fewer for large models: see `SEGMENT_PRODUCTS`. Sequences that are shorter than a
    piece are left out.
    """
    length = min(int(lengths.max()), SEGMENT_STEPS)
    voice = np.repeat(np.arange(len(lengths)), lengths // length)
    start = np.concatenate([np.arange(count) * length for count in lengths // length])
    affordable = SEGMENT_PRODUCTS // (length * max(layer.weights for layer in model.layers))
    chosen = np.linspace(0, len(voice) - 1, min(len(voice), SEGMENTS, max(1, affordable))).round().astype(int)
    return Segments(voice[chosen], start[chosen], length)


def ranges(model: Model, frames: Float64Array, lengths: IntArray, initial: State) -> list[dict[str, Range]]:
    """The `Range` of each layer's x, c, m, y, n_h, rh and z[gate] (pre-activations) over the first ``lengths[b]`` of
    frames (T, B, I), from the states ``initial``, which the ranges of c and y hold too."""
    seen: list[dict[str, Range]] = [{} for _ in model.layers]
    step: Counter[tuple[int, str]] = Counter()

    def widen(layer: int, tensor: str, values: Float64Array) -> None:
        if not values.size:  # a dense layer has no c
            return
        low, high = float(values.min()), float(values.max())
        before = seen[layer].get(tensor, Range(low, high))
        seen[layer][tensor] = Range(min(low, before.minimum), max(high, before.maximum))

    def observe(layer: int, tensor: str, values: Float64Array) -> None:
        running = step[layer, tensor] < lengths
        step[layer, tensor] += 1
        if not running.any():
            return
        if not running.all():
            values = values[..., running, :]
        parts = {tensor: values}
        if tensor == "z":
            parts = {f"z[{gate}]": part for gate, part in zip(model.layers[layer].gates, values, strict=True)}
        for name, part in parts.items():
            widen(layer, name, part)

    for layer, state in enumerate(initial):
        widen(layer, "c", state.c)
        widen(layer, "y", state.y)
    floating.run(model, frames, initial, observe)
    return seen


class Recording(NamedTuple):
    """The values of one layer on segments.

    Attributes
    ----------
    x : float64 (T, B, I)
    z : float64 (T, G, B, H)
        Pre-activations.
    c : float64 (T, B, H)
    y : float64 (T, B, P)
    before : `LayerState`
        The state before the first step.
    """

    x: Float64Array
    z: Float64Array
    c: Float64Array
    y: Float64Array
    before: LayerState


def record(model: Model, x: Float64Array, state: State) -> list[Recording]:
    """The `Recording` of each layer on x (T, B, I), from ``state``."""
    seen: list[dict[str, list[Float64Array]]] = [defaultdict(list) for _ in model.layers]
    floating.run(model, x, state, lambda layer, tensor, values: seen[layer][tensor].append(values))
    return [Recording(**{tensor: np.stack(of_layer[tensor]) for tensor in ("x", "z", "c", "y")}, before=before)
            for of_layer, before in zip(seen, state, strict=True)]


class Change(NamedTuple):
    """One tensor of a layer in a format: ``w_x`` or ``w_r`` of a gate, ``w_ym`` or ``x``, whose gate is 0."""

    tensor: str
    gate: int
    fraction: int


class FormatCosts:
    """The costs of number formats: the errors that they make at one layer's output.

    The cost of a format of one tensor is the mean squared difference of y from floating point when only that tensor is
    quantized. Small errors of different tensors are independent, so costs add up.

    One run measures many changes, each on its own voices, since all products but one use the same weights for all. To
    that one, the run adds the product with the difference that the change makes to the weights.

    Parameters
    ----------
    layer : `Layer`
    recording : `Recording`
        The layer on segments.
    config : Config
        The machine.
    """

    def __init__(self, layer: Layer, recording: Recording, config: Config) -> None:
        self._layer = layer
        self._recording = recording
        self._config = config
        self._float = FloatLayer.of(layer)
        self._gates = len(layer.gates)
        cells = layer.w_x.shape[1]
        self._matrices = {(tensor, gate): weights[gate * cells:(gate + 1) * cells] for gate in range(self._gates)
                          for tensor, weights in (("w_x", self._float.w_x), ("w_r", self._float.w_r))}
        if self._float.w_ym is not None:
            self._matrices["w_ym", 0] = self._float.w_ym
        self._weight_changes: dict[tuple[str, int], list[Change]] = {}
        self._costs: dict[Change, float] = {}
        self._row_sums: dict[Change, Int64Array] = {}

    def weight_changes(self, tensor: str, gate: int) -> list[Change]:
        """The binary points to try: from the one that clips nothing to the one that clips the largest percent.

        A matrix of zeros has none.
        """
        if (tensor, gate) not in self._weight_changes:
            magnitudes = np.abs(stored_values(self._matrices[tensor, gate]))
            magnitudes = magnitudes[magnitudes > 0]
            fractions = _fractions(magnitudes, self._config.weight_bits) if magnitudes.size else ()
            self._weight_changes[tensor, gate] = [Change(tensor, gate, fraction) for fraction in fractions]
        return self._weight_changes[tensor, gate]

    def input_fractions(self, peak: float) -> range:
        """The binary points of x to try, likewise; ``peak`` is the largest magnitude of all frames.

        One bit stays free, since later frames may be twice as loud.
        """
        magnitudes = np.abs(self._recording.x[self._recording.x != 0])
        return _fractions(np.append(magnitudes, peak), self._config.activation_bits - 1)

    def _integers(self, change: Change) -> Weights:
        """The matrix of a change as integers of ``weight_bits``."""
        exact = self._matrices[change.tensor, change.gate]
        values = symmetric(stored_values(exact), change.fraction, self._config.weight_bits)
        return replace_values(exact, values.astype(np.float64))

    def row_sums(self, change: Change) -> Int64Array:
        """Summed magnitudes of each row's integers, not aligned."""
        if change not in self._row_sums:
            self._row_sums[change] = np.asarray(abs(self._integers(change)).sum(axis=1)).astype(np.int64)
        return self._row_sums[change]

    def cost(self, change: Change) -> float:
        """The cost of one change. x is clipped to half the range of ``activation_bits``."""
        self.measure([change])
        return self._costs[change]

    def measure(self, changes: Iterable[Change]) -> None:
        """Measure the costs of many changes together, which is faster than one by one."""
        for batch in self._batches([change for change in dict.fromkeys(changes) if change not in self._costs]):
            self._costs.update(zip(batch, self._measured(batch), strict=True))

    def _batches(self, changes: Sequence[Change]) -> Iterator[list[Change]]:
        """The changes in batches of at most `_BATCH_NUMBERS` numbers."""
        steps, voices, _ = self._recording.x.shape
        products = steps * voices * self._float.w_x.shape[0]
        batch: list[Change] = []
        held = 0
        for change in changes:
            size = {"x": products, "w_x": products // self._gates}.get(change.tensor)
            if size is None:
                size = stored_values(self._matrices[change.tensor, change.gate]).size
            if batch and held + size > _BATCH_NUMBERS:
                yield batch
                batch, held = [], 0
            batch.append(change)
            held += size
        if batch:
            yield batch

    def _measured(self, changes: Sequence[Change]) -> Float64Array:
        """The costs of changes, from one run with separate voices for each."""
        recording, layer = self._recording, self._float
        steps, voices, inputs = recording.x.shape
        copies = len(changes)
        products = multiply(recording.x.reshape(-1, inputs), layer.w_x).reshape(steps, voices, -1)
        added = [self._added(change) for change in changes]
        state = LayerState(*(np.tile(part, (copies, 1)) for part in recording.before))
        squares = np.zeros(copies)
        resets_first = isinstance(layer, FloatGru) and not layer.reset_after
        for t in range(steps):
            of_y = multiply(state.y, layer.w_r).reshape(copies, voices, self._gates, -1)
            of_x = self._of_x(products[t].reshape(voices, self._gates, -1), of_y)
            before = state.y.reshape(copies, voices, -1)
            for number, (change, more) in enumerate(zip(changes, added, strict=True)):
                if change.tensor == "x":
                    of_x[number] += more[t]
                elif change.tensor == "w_x":
                    of_x[number, :, change.gate] += more[t]
                elif change.tensor == "w_r" and not (resets_first and change.gate == _OF_N):
                    of_y[number, :, change.gate] += multiply(before[number], more)
            if resets_first:
                self._add_reset(changes, added, of_x, of_y, before)
            cells = self._cells(of_x.reshape(copies * voices, -1), of_y.reshape(copies * voices, -1), state.c)
            outputs = layer.project(cells.m)
            y = outputs.reshape(copies, voices, -1)
            for number, (change, more) in enumerate(zip(changes, added, strict=True)):
                if change.tensor == "w_ym":
                    y[number] += multiply(cells.m.reshape(copies, voices, -1)[number], more)
            state = layer.after(cells, outputs)
            squares += np.square(y - recording.y[t]).sum(axis=(1, 2))
        costs = squares / recording.y.size
        return np.where(costs > _ROUNDING * np.mean(np.square(recording.y)), costs, 0.0)

    def _add_reset(self, changes: Sequence[Change], added: Sequence[Weights], of_x: Float64Array, of_y: Float64Array,
                   y: Float64Array) -> None:
        """Put the product of r y into gate n of the recurrent products ``of_y`` (copies, B, G, H)."""
        assert isinstance(self._float, FloatGru)
        copies, voices, gates, cells = of_y.shape
        rh = self._float.reset(of_x.reshape(copies * voices, -1), of_y.reshape(copies * voices, -1),
                               y.reshape(copies * voices, -1))
        of_y[:, :, _OF_N] = multiply(rh, self._float.w_r[_OF_N * cells:]).reshape(copies, voices, cells)
        for number, (change, more) in enumerate(zip(changes, added, strict=True)):
            if change.tensor == "w_r" and change.gate == _OF_N:
                of_y[number, :, _OF_N] += multiply(rh.reshape(copies, voices, -1)[number], more)

    def _of_x(self, products: Float64Array, of_y: Float64Array) -> Float64Array:
        """W_x x for all copies; an LSTM adds it to W_r y, which is the result, and a dense layer to zeros."""
        if isinstance(self._float, FloatGru):
            return np.repeat(products[None], len(of_y), axis=0)
        of_y += products
        return of_y

    def _cells(self, of_x: Float64Array, of_y: Float64Array, c: Float64Array) -> Cells:
        """The cells from the results of `_of_x`."""
        if isinstance(self._float, FloatGru):
            return self._float.cells(of_x, of_y, c)
        if isinstance(self._float, FloatDense):
            return self._float.step(of_y, LayerState(c, c))
        assert isinstance(self._float, FloatLstm)
        return self._float.cells(of_y, c)

    def _added(self, change: Change) -> Weights:
        """The difference that a change makes to W_x x, (T, B, G, H) or of one gate (T, B, H), or to a matrix."""
        recording = self._recording
        steps, voices, inputs = recording.x.shape
        if change.tensor == "x":
            integers = saturate(to_fixed(recording.x, change.fraction), self._config.activation_bits - 1)
            error = np.ldexp(integers.astype(np.float64), -change.fraction) - recording.x
            return multiply(error.reshape(-1, inputs), self._float.w_x).reshape(steps, voices, self._gates, -1)
        exact = self._matrices[change.tensor, change.gate]
        rounded = np.ldexp(stored_values(self._integers(change)), -change.fraction)
        errors = replace_values(exact, rounded - stored_values(exact))
        if change.tensor == "w_x":
            return multiply(recording.x.reshape(-1, inputs), errors).reshape(steps, voices, -1)
        return errors


def _fractions(magnitudes: NDArray[Any], bits: int) -> range:
    clipped = float(np.percentile(magnitudes, CLIP_PERCENTILE))
    return range(max_fraction(float(magnitudes.max()), bits), max_fraction(clipped, bits) + 1)
