# SPDX-License-Identifier: Apache-2.0
"""What can be measured on calibration frames in floating point, before there are integers.

Two things: the range of every tensor over all frames, and, on segments of them, how much a layer's output
changes when one tensor is rounded and clipped to a format. The quantizer chooses by the second.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openese.rtl.config import Config
from openese.rtl.fixed import saturate, to_fixed
from openese.sw.model.arrays import Float64Array, Int64Array
from openese.sw.model.layers import GATES, Layer, Model
from openese.sw.model.state import LayerState, zero_state
from openese.sw.reference import floating
from openese.sw.reference.floating import FloatLayer
from openese.sw.reference.products import Weights, multiply, replace_values, stored_values

__all__ = ["Change", "FormatCosts", "Range", "Recording", "max_fraction", "ranges", "record", "segments", "symmetric"]

SEGMENT_STEPS = 64
SEGMENTS = 16
#: Products of one layer on all segments. Of a layer with more than four million weights there are fewer segments.
SEGMENT_PRODUCTS = 1 << 32
CLIP_PERCENTILE = 99.0
_BATCH_NUMBERS = 1 << 24  # of what is held for the changes that are measured together
_ROUNDING = 1e-24  # a cost below this share of the power of y is float64's own rounding


class Range(NamedTuple):
    """Smallest and largest value seen."""

    minimum: float
    maximum: float

    @property
    def peak(self) -> float:
        """Largest magnitude."""
        return max(abs(self.minimum), abs(self.maximum))


def max_fraction(peak: float, bits: int) -> int:
    """The most fraction bits with which ``peak`` still fits a signed number of ``bits`` bits."""
    limit = (1 << (bits - 1)) - 1
    return int(np.floor(np.log2(limit / peak))) if peak > 0 else bits - 1


def symmetric(values: NDArray[Any], fraction: int, bits: int) -> Int64Array:
    """Real numbers as integers whose magnitude is at most ``2**(bits-1) - 1``."""
    limit = (1 << (bits - 1)) - 1
    return np.clip(to_fixed(values, fraction), -limit, limit)


def ranges(model: Model, frames: Float64Array) -> list[dict[str, Range]]:
    """By layer, the `Range` of x, c, m and y, and of z (pre-activations) by gate, over frames (T, B, I)."""
    seen: list[dict[str, Range]] = [{} for _ in model.layers]

    def observe(layer: int, tensor: str, values: Float64Array) -> None:
        parts = {tensor: values}
        if tensor == "z":
            parts = {f"z[{gate}]": part for gate, part in zip(GATES, values, strict=True)}
        for name, part in parts.items():
            low, high = float(part.min()), float(part.max())
            before = seen[layer].get(name, Range(low, high))
            seen[layer][name] = Range(min(low, before.minimum), max(high, before.maximum))

    floating.run(model, frames, observe=observe)
    return seen


def segments(model: Model, frames: Float64Array) -> Float64Array:
    """Pieces of at most 64 steps, evenly spread over frames (T, B, I), as (steps, pieces, I).

    At most 16, and for large models as few as keep to `SEGMENT_PRODUCTS`, but at least one.
    """
    steps, voices, inputs = frames.shape
    length = min(steps, SEGMENT_STEPS)
    count = steps // length
    pieces = frames[:count * length].reshape(count, length, voices, inputs).transpose(2, 0, 1, 3)
    pieces = pieces.reshape(count * voices, length, inputs)
    affordable = SEGMENT_PRODUCTS // (length * max(layer.weights for layer in model.layers))
    chosen = np.linspace(0, len(pieces) - 1, min(len(pieces), SEGMENTS, max(1, affordable))).round().astype(int)
    return pieces[chosen].transpose(1, 0, 2)


class Recording(NamedTuple):
    """What one layer does on segments.

    Attributes
    ----------
    x : (T, B, I), y : (T, B, P)
    z : (T, 4, B, H) pre-activations, c : (T, B, H)
    """

    x: Float64Array
    z: Float64Array
    c: Float64Array
    y: Float64Array


def record(model: Model, x: Float64Array) -> list[Recording]:
    """The `Recording` of each layer on x (T, B, I), every voice from the zero state."""
    seen: list[dict[str, list[Float64Array]]] = [{"x": [], "z": [], "c": [], "m": [], "y": []} for _ in model.layers]
    floating.run(model, x, observe=lambda layer, tensor, values: seen[layer][tensor].append(values))
    return [Recording(*(np.stack(of_layer[tensor]) for tensor in Recording._fields)) for of_layer in seen]


class Change(NamedTuple):
    """One tensor of a layer in a format: ``w_x`` or ``w_r`` of a gate, ``w_ym`` or ``x``, whose gate is 0."""

    tensor: str
    gate: int
    fraction: int


class FormatCosts:
    """One layer on segments: what a format of one tensor costs at its output.

    A cost is the mean squared difference of y from floating point, when that tensor alone is quantized. Small
    errors of different tensors are independent, so costs are added.

    Many changes are measured by one run, each on voices of its own, since all but one product of each is with
    the same weights. To that one, the product with what the change adds to the weights is added.

    Parameters
    ----------
    layer : `Layer`
    recording : `Recording`, of that layer.
    """

    def __init__(self, layer: Layer, recording: Recording, config: Config) -> None:
        self._layer = layer
        self._recording = recording
        self._config = config
        self._float = FloatLayer(layer)
        cells = layer.cells
        self._matrices = {(tensor, gate): weights[gate * cells:(gate + 1) * cells] for gate in range(len(GATES))
                          for tensor, weights in (("w_x", self._float.w_x), ("w_r", self._float.w_r))}
        if self._float.w_ym is not None:
            self._matrices["w_ym", 0] = self._float.w_ym
        self._weight_changes: dict[tuple[str, int], list[Change]] = {}
        self._costs: dict[Change, float] = {}
        self._row_sums: dict[Change, Int64Array] = {}

    def weight_changes(self, tensor: str, gate: int) -> list[Change]:
        """Binary points worth a try: from what clips nothing to what clips the largest percent of non-zeros.

        Empty for a matrix of zeros.
        """
        if (tensor, gate) not in self._weight_changes:
            magnitudes = np.abs(stored_values(self._matrices[tensor, gate]))
            magnitudes = magnitudes[magnitudes > 0]
            fractions = _fractions(magnitudes, self._config.weight_bits) if magnitudes.size else ()
            self._weight_changes[tensor, gate] = [Change(tensor, gate, fraction) for fraction in fractions]
        return self._weight_changes[tensor, gate]

    def input_fractions(self, peak: float) -> range:
        """Binary points of x worth a try, likewise; ``peak`` is the largest magnitude of all frames.

        One bit is kept free: frames to come may be twice as loud.
        """
        magnitudes = np.abs(self._recording.x[self._recording.x != 0])
        return _fractions(np.append(magnitudes, peak), self._config.activation_bits - 1)

    def _integers(self, change: Change) -> Weights:
        """The matrix of a change in ``weight_bits``."""
        exact = self._matrices[change.tensor, change.gate]
        values = symmetric(stored_values(exact), change.fraction, self._config.weight_bits)
        return replace_values(exact, values.astype(np.float64))

    def row_sums(self, change: Change) -> Int64Array:
        """Summed magnitudes of each row's integers, not aligned."""
        if change not in self._row_sums:
            self._row_sums[change] = np.asarray(abs(self._integers(change)).sum(axis=1)).astype(np.int64)
        return self._row_sums[change]

    def cost(self, change: Change) -> float:
        """Cost of one change; x is clipped at half of what ``activation_bits`` hold."""
        self.measure([change])
        return self._costs[change]

    def measure(self, changes: Iterable[Change]) -> None:
        """Find the costs of many changes together, which takes less time than one after the other."""
        for batch in self._batches([change for change in dict.fromkeys(changes) if change not in self._costs]):
            self._costs.update(zip(batch, self._measured(batch), strict=True))

    def _batches(self, changes: Sequence[Change]) -> Iterator[list[Change]]:
        """Changes that are measured together: as many as their matrices and products allow."""
        steps, voices, _ = self._recording.x.shape
        products = steps * voices * self._float.w_x.shape[0]
        batch: list[Change] = []
        held = 0
        for change in changes:
            size = {"x": products, "w_x": products // len(GATES)}.get(change.tensor)
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
        """The costs of changes, from one run with voices of its own for each."""
        recording, layer = self._recording, self._float
        steps, voices, inputs = recording.x.shape
        copies, cells = len(changes), self._layer.cells
        products = multiply(recording.x.reshape(-1, inputs), layer.w_x).reshape(steps, voices, -1)
        added = [self._added(change) for change in changes]
        state = zero_state(self._layer, copies * voices)
        squares = np.zeros(copies)
        for t in range(steps):
            sums = multiply(state.y, layer.w_r).reshape(copies, voices, len(GATES), cells)
            sums += products[t].reshape(voices, len(GATES), cells)
            before = state.y.reshape(copies, voices, -1)
            for number, (change, more) in enumerate(zip(changes, added, strict=True)):
                if change.tensor == "x":
                    sums[number] += more[t]
                elif change.tensor == "w_x":
                    sums[number, :, change.gate] += more[t]
                elif change.tensor == "w_r":
                    sums[number, :, change.gate] += multiply(before[number], more)
            _, c, m = layer.cells(sums.reshape(copies * voices, -1), state.c)
            state = LayerState(c, layer.project(m))
            y = state.y.reshape(copies, voices, -1)
            for number, (change, more) in enumerate(zip(changes, added, strict=True)):
                if change.tensor == "w_ym":
                    y[number] += multiply(m.reshape(copies, voices, -1)[number], more)
            squares += np.square(y - recording.y[t]).sum(axis=(1, 2))
        costs = squares / recording.y.size
        return np.where(costs > _ROUNDING * np.mean(np.square(recording.y)), costs, 0.0)

    def _added(self, change: Change) -> Weights:
        """What a change adds: to W_x x of all gates (T, B, 4, H) or of its own (T, B, H), or to its matrix."""
        recording = self._recording
        steps, voices, inputs = recording.x.shape
        if change.tensor == "x":
            integers = saturate(to_fixed(recording.x, change.fraction), self._config.activation_bits - 1)
            error = np.ldexp(integers.astype(np.float64), -change.fraction) - recording.x
            return multiply(error.reshape(-1, inputs), self._float.w_x).reshape(steps, voices, len(GATES), -1)
        exact = self._matrices[change.tensor, change.gate]
        rounded = np.ldexp(stored_values(self._integers(change)), -change.fraction)
        errors = replace_values(exact, rounded - stored_values(exact))
        if change.tensor == "w_x":
            return multiply(recording.x.reshape(-1, inputs), errors).reshape(steps, voices, -1)
        return errors


def _fractions(magnitudes: NDArray[Any], bits: int) -> range:
    clipped = float(np.percentile(magnitudes, CLIP_PERCENTILE))
    return range(max_fraction(float(magnitudes.max()), bits), max_fraction(clipped, bits) + 1)
