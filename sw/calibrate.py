# SPDX-License-Identifier: Apache-2.0
"""What can be measured on calibration frames in floating point, before there are integers.

Two things: the range of every tensor over all frames, and, on segments of them, how much a layer's output
changes when one tensor is rounded and clipped to a format. The quantizer chooses by the second.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rtl.config import Config
from rtl.fixed import saturate, to_fixed

from . import float_reference
from .model import GATES, Layer, Model

__all__ = ["Bench", "Range", "max_fraction", "ranges", "segments", "symmetric"]

Float64Array = NDArray[np.float64]

SEGMENT_STEPS = 64
SEGMENTS = 16
CLIP_PERCENTILE = 99.0


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


def symmetric(values: NDArray[Any], fraction: int, bits: int) -> NDArray[np.int64]:
    """Real numbers as integers whose magnitude is at most ``2**(bits-1) - 1``."""
    limit = (1 << (bits - 1)) - 1
    return np.clip(to_fixed(values, fraction), -limit, limit)


def ranges(model: Model, frames: Float64Array) -> list[dict[str, Range]]:
    """By layer, the `Range` of x, c, m and y, and of z (pre-activations) by gate, over frames (T, B, I)."""
    found: list[dict[str, Range]] = [{} for _ in model.layers]

    def observe(layer: int, tensor: str, values: Float64Array) -> None:
        parts = {tensor: values}
        if tensor == "z":
            parts = {f"z[{gate}]": part for gate, part in zip(GATES, values, strict=True)}
        for name, part in parts.items():
            low, high = float(part.min()), float(part.max())
            before = found[layer].get(name, Range(low, high))
            found[layer][name] = Range(min(low, before.minimum), max(high, before.maximum))

    float_reference.run(model, frames, observe=observe)
    return found


def segments(frames: Float64Array) -> Float64Array:
    """At most 16 pieces of at most 64 steps, evenly spread over frames (T, B, I), as (steps, pieces, I)."""
    steps, voices, inputs = frames.shape
    length = min(steps, SEGMENT_STEPS)
    count = steps // length
    pieces = frames[:count * length].reshape(count, length, voices, inputs).transpose(2, 0, 1, 3)
    pieces = pieces.reshape(count * voices, length, inputs)
    chosen = np.linspace(0, len(pieces) - 1, min(len(pieces), SEGMENTS)).round().astype(int)
    return pieces[chosen].transpose(1, 0, 2)


class Bench:
    """One layer run on segments: what a format of one tensor costs at its output.

    A cost is the mean squared difference of y from floating point, when that tensor alone is quantized. Small
    errors of different tensors are independent, so costs are added.

    Attributes
    ----------
    layer : `Layer`
    x : (T, B, I), y : (T, B, P)
    z : (T, 4, B, H) pre-activations, c : (T, B, H)
    """

    def __init__(self, layer: Layer, x: Float64Array, config: Config) -> None:
        self.layer = layer
        self.x = x
        self._config = config
        self._costs: dict[tuple[str, int, int], float] = {}
        self._row_sums: dict[tuple[str, int, int], NDArray[np.int64]] = {}
        seen: dict[str, list[Float64Array]] = {"x": [], "z": [], "c": [], "m": [], "y": []}
        model = Model(layers=(layer,))
        float_reference.run(model, x, observe=lambda _, tensor, values: seen[tensor].append(values))
        self.z, self.c, self.y = (np.stack(seen[tensor]) for tensor in ("z", "c", "y"))

    def matrix(self, tensor: str, gate: int) -> NDArray[Any]:
        """``w_x`` or ``w_r`` of a gate, or ``w_ym``, whose gate is 0."""
        values = getattr(self.layer, tensor)
        return values if tensor == "w_ym" else values[gate]

    def weight_fractions(self, tensor: str, gate: int) -> range:
        """Binary points worth a try: from what clips nothing to what clips the largest percent of non-zeros.

        Empty for a matrix of zeros.
        """
        magnitudes = np.abs(self.matrix(tensor, gate))
        magnitudes = magnitudes[magnitudes > 0]
        if not magnitudes.size:
            return range(0)
        return self._fractions(magnitudes, self._config.weight_bits)

    def input_fractions(self, peak: float) -> range:
        """Binary points of x worth a try, likewise; ``peak`` is the largest magnitude of all frames.

        One bit is kept free: frames to come may be twice as loud.
        """
        magnitudes = np.abs(self.x[self.x != 0])
        return self._fractions(np.append(magnitudes, peak), self._config.activation_bits - 1)

    @staticmethod
    def _fractions(magnitudes: NDArray[Any], bits: int) -> range:
        clipped = float(np.percentile(magnitudes, CLIP_PERCENTILE))
        return range(max_fraction(float(magnitudes.max()), bits), max_fraction(clipped, bits) + 1)

    def weight_cost(self, tensor: str, gate: int, fraction: int) -> float:
        """Cost of one matrix in ``weight_bits`` with that many fraction bits."""
        key = (tensor, gate, fraction)
        if key not in self._costs:
            weights = symmetric(self.matrix(tensor, gate), fraction, self._config.weight_bits)
            rounded = np.array(getattr(self.layer, tensor), np.float64)
            rounded[... if tensor == "w_ym" else gate] = np.ldexp(weights.astype(np.float64), -fraction)
            changes: dict[str, Any] = {tensor: rounded}
            self._costs[key] = self._cost(dataclasses.replace(self.layer, **changes), self.x)
        return self._costs[key]

    def row_sums(self, tensor: str, gate: int, fraction: int) -> NDArray[np.int64]:
        """Summed magnitudes of each row's integers, not aligned."""
        key = (tensor, gate, fraction)
        if key not in self._row_sums:
            weights = symmetric(self.matrix(tensor, gate), fraction, self._config.weight_bits)
            self._row_sums[key] = np.abs(weights).sum(axis=1)
        return self._row_sums[key]

    def input_cost(self, fraction: int) -> float:
        """Cost of x with that many fraction bits, clipped at half of what ``activation_bits`` hold."""
        key = ("x", 0, fraction)
        if key not in self._costs:
            x = saturate(to_fixed(self.x, fraction), self._config.activation_bits - 1)
            self._costs[key] = self._cost(self.layer, np.ldexp(x.astype(np.float64), -fraction))
        return self._costs[key]

    def _cost(self, layer: Layer, x: Float64Array) -> float:
        y, _ = float_reference.run(Model(layers=(layer,)), x)
        return float(np.mean((y - self.y) ** 2))
