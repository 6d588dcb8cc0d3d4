# SPDX-License-Identifier: Apache-2.0
"""The integer reference beside floating point, tensor by tensor: what every format costs."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rtl.config import Config
from rtl.fixed import to_fixed

from .float_reference import FloatReference, initial_state
from .model import GATES, FloatArray, Layer, Model
from .quantize_report import LayerError, Report, TensorReport
from .quantized import Formats, IntArray, QuantizedLayer, QuantizedModel, m_fraction
from .reference import Reference

__all__ = ["compare"]

_Number = TypeVar("_Number", np.float64, np.int64)


class _Tally:
    """Running comparison of one tensor's integers with floating point."""

    def __init__(self, layer: str, tensor: str, bits: int, fraction: int, symmetric: bool = False) -> None:
        self._name = (layer, tensor)
        self._format = (bits, fraction)
        self._high = (1 << (bits - 1)) - 1
        self._low = -self._high - (not symmetric)
        self._minimum, self._maximum = np.inf, -np.inf
        self._saturated = self._count = 0
        self._squares = self._signal = self._largest = 0.0

    def add(self, exact: NDArray[np.floating[Any]], found: NDArray[np.int64]) -> None:
        """More values of the tensor. For z, what both give the table is compared: that is clamped."""
        fraction = self._format[1]
        fixed = to_fixed(exact, fraction)
        self._saturated += int(np.count_nonzero((fixed < self._low) | (fixed > self._high)))
        expected = np.asarray(exact, np.float64)
        if self._name[1].startswith("z"):
            expected = np.clip(expected, *np.ldexp([float(self._low), float(self._high)], -fraction))
        error = np.ldexp(found.astype(np.float64), -fraction) - expected
        self._minimum = min(self._minimum, float(exact.min()))
        self._maximum = max(self._maximum, float(exact.max()))
        self._largest = max(self._largest, float(np.abs(error).max()))
        self._squares += float(np.sum(error * error))
        self._signal += float(np.sum(expected * expected))
        self._count += exact.size

    def tensor_report(self) -> TensorReport:
        """Range, format and error."""
        return TensorReport(layer=self._name[0], tensor=self._name[1], minimum=self._minimum,
                            maximum=self._maximum, bits=self._format[0], fraction=self._format[1],
                            saturated=self._saturated, count=self._count,
                            rms_error=float(np.sqrt(self._squares / self._count)))

    def layer_error(self) -> LayerError:
        """Error as a share of the signal."""
        return LayerError(layer=self._name[0], rms_output=float(np.sqrt(self._signal / self._count)),
                          rms_error=float(np.sqrt(self._squares / self._count)), max_error=self._largest)


def _stored_tallies(layer: Layer, quantized: QuantizedLayer, formats: Formats,
                    config: Config) -> list[_Tally]:
    """Comparison of the weights, biases and peepholes of a layer."""
    tallies = []

    def add(tensor: str, bits: int, fraction: int, exact: FloatArray, found: IntArray) -> None:
        tallies.append(_Tally(layer.name, tensor, bits, fraction, symmetric=tensor.startswith("w_")))
        tallies[-1].add(exact, found.astype(np.int64))

    for n, gate in enumerate(GATES):
        for tensor, fractions in (("w_x", quantized.w_x_fraction), ("w_r", quantized.w_r_fraction)):
            add(f"{tensor}[{gate}]", config.weight_bits, fractions[n],
                getattr(layer, tensor)[n], getattr(quantized, tensor)[n])
        add(f"bias[{gate}]", config.argument_bits, formats.argument_fraction[n],
            layer.bias[n], quantized.bias[n])
    if layer.peephole is not None and quantized.peephole is not None:
        add("peephole", config.peephole_bits, formats.peephole_fraction,
            layer.peephole, quantized.peephole)
    if layer.w_ym is not None and quantized.w_ym is not None and quantized.w_ym_fraction is not None:
        add("w_ym", config.weight_bits, quantized.w_ym_fraction, layer.w_ym, quantized.w_ym)
    return tallies


def _running_tallies(quantized: QuantizedLayer, formats: Formats, config: Config) -> dict[str, _Tally]:
    """Comparison, still empty, of what a layer computes."""
    found = {"x": (config.activation_bits, quantized.x_fraction)}
    found |= {f"z[{gate}]": (config.argument_bits, fraction)
              for gate, fraction in zip(GATES, formats.argument_fraction, strict=True)}
    found |= {"c": (config.cell_bits, formats.cell_fraction),
              "m": (config.activation_bits, m_fraction(config)),
              "y": (config.activation_bits, quantized.y_fraction)}
    return {tensor: _Tally(quantized.name, tensor, *form) for tensor, form in found.items()}


def _recorder(seen: dict[tuple[int, str], NDArray[_Number]]) -> Callable[[int, str, NDArray[_Number]], None]:
    """An observer that keeps what it sees by layer and tensor, z by gate."""
    def observe(layer: int, tensor: str, values: NDArray[_Number]) -> None:
        if tensor == "z":
            seen.update({(layer, f"z[{gate}]"): part for gate, part in zip(GATES, values, strict=True)})
        else:
            seen[layer, tensor] = values
    return observe


def compare(model: Model, quantized: QuantizedModel, frames: ArrayLike,
            table_errors: Mapping[str, Mapping[str, float]]) -> Report:
    """Run both references over the same frames, each voice from the zero state, and compare every tensor.

    Parameters
    ----------
    model : `Model`; quantized : `QuantizedModel`
        The same in floating point and in integers.
    frames : array (T, B, I)
    table_errors : mapping
        Goes into the report as it is; see `Report`.
    """
    config = quantized.config
    layers = list(zip(model.layers, quantized.layers, quantized.formats, strict=True))
    stored = [_stored_tallies(layer, integers, formats, config) for layer, integers, formats in layers]
    running = [_running_tallies(integers, formats, config) for _, integers, formats in layers]
    real = np.asarray(frames, np.float64)
    steps, voices, _ = real.shape
    floating, reference = FloatReference(model), Reference(quantized, voices)
    state = initial_state(model, voices)
    for x in real:
        exact: dict[tuple[int, str], NDArray[np.float64]] = {}
        found: dict[tuple[int, str], NDArray[np.int64]] = {}
        _, state = floating.step(x, state, _recorder(exact))
        reference.step(quantized.quantize_input(x)[0], observe=_recorder(found))
        for (number, tensor), values in exact.items():
            running[number][tensor].add(values, found[number, tensor])
    tallies = [tally for of_layer, now in zip(stored, running, strict=True)
               for tally in (*of_layer, *now.values())]
    return Report(steps=steps, voices=voices, tensors=tuple(tally.tensor_report() for tally in tallies),
                  outputs=tuple(now["y"].layer_error() for now in running), table_errors=table_errors,
                  saturations=reference.saturations)
