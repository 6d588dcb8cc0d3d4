# SPDX-License-Identifier: Apache-2.0
"""Compares the integer reference with floating point, tensor by tensor."""

import dataclasses
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from openese.rtl.config import Config
from openese.rtl.fixed import to_fixed
from openese.sw.model.arrays import Float64Array, FloatArray, Int64Array, IntArray
from openese.sw.model.layers import DENSE, GRU, LSTM, Layer, Model
from openese.sw.model.quantized import TABLES, Formats, QuantizedLayer, QuantizedModel, m_fraction
from openese.sw.model.report import LayerError, Report, TensorReport
from openese.sw.model.state import LayerState, State
from openese.sw.reference.floating import FloatLayer
from openese.sw.reference.machine import Reference

__all__ = ["compare"]

_BLOCK_NUMBERS = 1 << 18  # pre-activations in memory at a time


class _Tally:
    """Compares one tensor's integers with floating point, part by part."""

    def __init__(self, layer: str, tensor: str, bits: int, fraction: int, symmetric: bool = False) -> None:
        self._name = (layer, tensor)
        self._format = (bits, fraction)
        self._high = (1 << (bits - 1)) - 1
        self._low = -self._high - (not symmetric)
        self._minimum, self._maximum = np.inf, -np.inf
        self._saturated = self._count = 0
        self._squares = self._signal = self._largest = 0.0

    def widen(self, exact: Float64Array) -> None:
        """Let the range hold values that are not compared."""
        self._minimum, self._maximum = min(self._minimum, float(exact.min())), max(self._maximum, float(exact.max()))

    def add_zeros(self, count: int) -> None:
        """Add ``count`` values that are zero in both."""
        if count:
            self._minimum, self._maximum = min(self._minimum, 0.0), max(self._maximum, 0.0)
        self._count += count

    def add(self, exact: NDArray[np.floating[Any]], integers: IntArray) -> None:
        """Add values of the tensor. Values of z are compared as the table gets them: clamped."""
        if not exact.size:
            return
        fraction = self._format[1]
        fixed = to_fixed(exact, fraction)
        self._saturated += int(np.count_nonzero((fixed < self._low) | (fixed > self._high)))
        expected = np.asarray(exact, np.float64)
        if self._name[1].startswith("z"):
            expected = np.clip(expected, *np.ldexp([float(self._low), float(self._high)], -fraction))
        error = np.ldexp(integers.astype(np.float64), -fraction) - expected
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
        """Error and signal of the tensor."""
        return LayerError(layer=self._name[0], rms_output=float(np.sqrt(self._signal / self._count)),
                          rms_error=float(np.sqrt(self._squares / self._count)), max_error=self._largest)


def _stored_tallies(layer: Layer, quantized: QuantizedLayer, formats: Formats,
                    config: Config) -> list[_Tally]:
    """Tallies of a layer's weights, biases and peepholes."""
    tallies = []

    def add(tensor: str, bits: int, fraction: int, exact: FloatArray, integers: IntArray) -> None:
        tally = _Tally(layer.name, tensor, bits, fraction, symmetric=tensor.startswith("w_"))
        there = (exact != 0) | (integers != 0)
        tally.add(exact[there], integers[there])
        tally.add_zeros(there.size - int(np.count_nonzero(there)))
        tallies.append(tally)

    for n, gate in enumerate(layer.gates):
        for tensor, fractions in (("w_x", quantized.w_x_fraction), ("w_r", quantized.w_r_fraction)):
            if not fractions:
                continue
            add(f"{tensor}[{gate}]", config.weight_bits, fractions[n],
                getattr(layer, tensor)[n], getattr(quantized, tensor)[n])
        add(f"bias[{gate}]", config.argument_bits, formats.argument_fraction[n],
            layer.bias[n], quantized.bias[n])
    if layer.bias_rn is not None and quantized.bias_rn is not None:
        add("bias_rn", config.argument_bits, formats.argument_fraction[-1], layer.bias_rn, quantized.bias_rn)
    if layer.peephole is not None and quantized.peephole is not None:
        add("peephole", config.peephole_bits, formats.peephole_fraction,
            layer.peephole, quantized.peephole)
    if layer.w_ym is not None and quantized.w_ym is not None and quantized.w_ym_fraction is not None:
        add("w_ym", config.weight_bits, quantized.w_ym_fraction, layer.w_ym, quantized.w_ym)
    return tallies


def _running_tallies(quantized: QuantizedLayer, formats: Formats, config: Config) -> dict[str, _Tally]:
    """Empty tallies of the tensors that a layer computes."""
    formats_by_tensor = {"x": (config.activation_bits, quantized.x_fraction)}
    # A sum without a table keeps its bits beyond y.
    without = quantized.kind is DENSE and quantized.activation not in TABLES
    formats_by_tensor |= {f"z[{gate}]": (config.sum_bits if without else config.argument_bits, fraction)
              for gate, fraction in zip(quantized.gates, formats.argument_fraction, strict=False)}
    if quantized.kind is GRU:
        formats_by_tensor |= ({"n_h": (config.sum_bits, formats.argument_fraction[-1])} if quantized.reset_after else
                              {"rh": (config.activation_bits, m_fraction(config))})
    if quantized.kind is not DENSE:
        formats_by_tensor["c"] = config.cell_bits, formats.cell_fraction
    if quantized.kind is LSTM:
        formats_by_tensor["m"] = config.activation_bits, m_fraction(config)
    formats_by_tensor["y"] = config.activation_bits, quantized.y_fraction
    return {tensor: _Tally(quantized.name, tensor, *form) for tensor, form in formats_by_tensor.items()}


class _Recorder(defaultdict[str, list[NDArray[Any]]]):
    """Observes one layer and keeps the values of every step: by tensor, and z by gate."""

    def __init__(self, gates: tuple[str, ...]) -> None:
        super().__init__(list)
        self._gates = gates

    def observe(self, tensor: str, values: NDArray[Any]) -> None:
        if tensor == "z":
            for gate, part in zip(self._gates, values, strict=True):
                self[f"z[{gate}]"].append(part)
        else:
            self[tensor].append(values)

    def observe_layer(self, layer: int, tensor: str, values: NDArray[Any]) -> None:
        self.observe(tensor, values)


class _Outputs(NamedTuple):
    """One layer's y (T, B, P) in floating point and in integers, and the counts of clamped values."""

    exact: Float64Array
    integers: Int64Array
    saturations: dict[str, int]


def _compare_running(layer: Layer, quantized: QuantizedModel, x: Float64Array, integers: Int64Array,
                     state: LayerState, active: NDArray[np.bool_], tallies: Mapping[str, _Tally]) -> _Outputs:
    """Run a layer in both references over x (T, B, I) from ``state``, and compare steps of ``active`` voices (T, B);
    ``quantized`` has only this layer."""
    steps, voices, _ = x.shape
    floating, reference = FloatLayer.of(layer), Reference(quantized, voices)
    (before,), unfit = quantized.quantize_state([state])
    reference.c, reference.y = [before.c], [before.y]
    for tensor, values in state._asdict().items():
        if values.size:
            tallies[tensor].widen(values)
    y = _Outputs(np.empty((steps, voices, layer.outputs)), np.empty((steps, voices, layer.outputs), np.int64), {})
    block = max(1, _BLOCK_NUMBERS // (4 * voices * layer.w_x.shape[1]))
    for start in range(0, steps, block):
        part = slice(start, start + block)
        in_reals, in_integers = _Recorder(layer.gates), _Recorder(layer.gates)
        y.exact[part], state = floating.run(x[part], state, in_reals.observe)
        y.integers[part] = reference.run(integers[part], active[part], observe=in_integers.observe_layer)
        for tensor, tally in tallies.items():
            tally.add(np.stack(in_reals[tensor])[active[part]], np.stack(in_integers[tensor])[active[part]])
    y.saturations.update(reference.saturations | {"initial": unfit})
    return y


def compare(model: Model, quantized: QuantizedModel, frames: ArrayLike, lengths: IntArray, initial: State,
            table_errors: Mapping[str, Mapping[str, float]]) -> Report:
    """Run both references over the same frames from the same states, and compare every tensor.

    Input i and column i of the first layer's w_x are those of the machine: scaled by ``2**x_exponents[i]`` and
    ``2**-x_exponents[i]``.

    It goes layer by layer, so only one layer's matrices are prepared for products at a time.

    Parameters
    ----------
    model : `Model`; quantized : `QuantizedModel`
        The same model in floating point and in integers.
    frames : array (T, B, I)
    lengths : integers (B,)
        Frames of each voice; the others are padding.
    initial : State
        Of each voice before its first frame.
    table_errors : mapping
        The report's ``table_errors``.

    Returns
    -------
    `Report`
    """
    config = quantized.config
    real = np.asarray(frames, np.float64)
    steps, voices, _ = real.shape
    active = np.arange(steps)[:, None] < lengths
    tallies: list[_Tally] = []
    outputs = []
    saturations = {"cell": 0, "output": 0, "initial": 0}
    exponents = quantized.layers[0].x_exponents
    x, integers = np.ldexp(real, exponents or 0), quantized.quantize_input(real)[0]
    layers = [model.layers[0].for_scaled_input(exponents), *model.layers[1:]]
    for layer, whole, formats, state in zip(layers, quantized.layers, quantized.formats, initial, strict=True):
        running = _running_tallies(whole, formats, config)
        alone = dataclasses.replace(quantized, layers=(whole,))
        x, integers, clamped = _compare_running(layer, alone, x, integers, state, active, running)
        tallies += [*_stored_tallies(layer, whole, formats, config), *running.values()]
        outputs.append(running["y"].layer_error())
        saturations = {name: count + clamped[name] for name, count in saturations.items()}
    return Report(steps=int(lengths.max()), voices=voices, tensors=tuple(tally.tensor_report() for tally in tallies),
                  outputs=tuple(outputs), table_errors=table_errors, saturations=saturations)
