# SPDX-License-Identifier: Apache-2.0
"""From floating point to the machine's integers. Calibration frames decide the formats:

- The binary point of a weight matrix is the one with the smallest error at the layer's output when only this matrix is
  quantized. The candidates go from the scale that clips nothing to the one that clips the largest percent. The
  matrices W_x and W_r of a gate must meet in one accumulator: their alignment is limited, and no row may overflow.
  Where the best two cannot meet, the quantizer takes the pair with the smallest summed error among the nearest pairs
  that can.
- The binary point of the first layer's x is measured likewise, but x is clipped to half its range, since later frames
  may be twice as loud. Among all points with an error within a tenth of the smallest, the one with the largest range
  wins.
- Inputs of very different size share one binary point. Where x and W_x cost more than a hundredth of the layer's
  output, input i is multiplied by ``2**k[i]`` and column i of W_x is divided by it; ``k[i]`` is half the binary
  logarithm of the RMS of the column over that of the input, at which the errors of both are smallest. This stays if it
  halves the error.
- The binary points of a projection's y and of c leave room for twice the largest y and eight times the largest c of the
  frames. A saturated c does harm for many steps. With 12-bit weights, the three bits of c change the error of y by
  less than a hundredth.
- Each table has the narrowest range with an error within a tenth of the smallest.
- The y of a dense layer without a table leaves room for twice the largest y of the frames, as a projection's does.
- Peepholes and biases get as many fraction bits as fit.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from openese.rtl.activation import Activation
from openese.rtl.config import Config
from openese.rtl.fixed import saturate, to_fixed
from openese.sw.model.arrays import Float64Array, Int64Array, IntArray, real_array
from openese.sw.model.layers import DENSE, GRU, LSTM, TENSORS, Layer, Model, ModelError
from openese.sw.model.network import check_sequences, spread_state
from openese.sw.model.quantized import (
    SELECTS,
    SHIFTS,
    TABLES,
    Formats,
    QuantizedLayer,
    QuantizedModel,
    QuantizeError,
    activation_table,
    argument_fraction,
    check_cells,
    m_fraction,
    row_limit,
    weight_type,
)
from openese.sw.model.state import State, initial_state
from openese.sw.quantize.calibrate import (
    Change,
    FormatCosts,
    Range,
    Recording,
    max_fraction,
    ranges,
    record,
    segments,
    symmetric,
)
from openese.sw.quantize.compare import compare
from openese.sw.reference import floating

__all__ = ["QuantizeError", "QuantizedLayer", "QuantizedModel", "append_dense", "dense_in_formats", "quantize",
           "requantize"]

SIGMOID_RANGES = range(4, 8)
TANH_RANGES = range(3, 8)
Y_HEADROOM = 2.0
CELL_HEADROOM = 8.0
_TABLE_SAMPLES = 100_000
_SCALING_ERROR = 0.01  # of the RMS of y: up to this error of x and W_x, inputs are not scaled
_SCALING_GAIN = 0.25  # of the squared error: scaling that does not reach this is not worth it
_GATE_TENSORS = ("w_x", "w_r")


class _Tables(NamedTuple):
    """Ranges of both tables, and their errors by range."""

    sigmoid: int
    tanh: int
    errors: dict[str, dict[str, float]]


class _Gate(NamedTuple):
    """Binary points and alignments of a gate's two matrices, x first."""

    fractions: tuple[int, int]
    aligns: tuple[int, int]


def quantize(model: Model, frames: ArrayLike, config: Config, *, lengths: ArrayLike | None = None,
             initial: State | None = None, sigmoid_range: int | None = None,
             tanh_range: int | None = None) -> QuantizedModel:
    """Quantize ``model`` for the widths of ``config``.

    Parameters
    ----------
    model : `Model`
    frames : array (T, B, I)
        Calibration frames: real input, T steps of B voices.
    config : `openese.rtl.config.Config`
        The machine.
    lengths : integers (B,), optional
        Frames of each voice, where they are padded to the longest.
    initial : State, optional
        The state before the first frame: of each voice, or of one voice for all. Zero by default. The formats of c and
        y hold it too; a y beyond 1 fits only a layer with a projection.
    sigmoid_range, tanh_range : int, optional
        The tables span ``[-2**range, 2**range)``. By default the frames decide; the paper has 6 and 7.

    Returns
    -------
    `QuantizedModel`
        With a report on its errors on ``frames``.

    Raises
    ------
    QuantizeError
        The frames, lengths or states have the wrong shape or are not finite, no format of the machine holds the
        weights, or the machine has no cells of a layer's kind.
    """
    check_cells(model.layers, config)
    x, counts = _checked_frames(model, frames, lengths)
    start = _checked_state(model, x.shape[1], initial)
    layers, tables = _choose(model, x, counts, start, config, sigmoid_range, tanh_range)
    quantized = QuantizedModel(
        layers=layers, config=config, head=model.head, name=model.name, batch_first=model.batch_first,
        sigmoid_range=tables.sigmoid, sigmoid_table=activation_table("sigmoid", tables.sigmoid, config),
        tanh_range=tables.tanh, tanh_table=activation_table("tanh", tables.tanh, config))
    return dataclasses.replace(quantized, report=compare(model, quantized, x, counts, start, tables.errors))


def _choose(model: Model, x: Float64Array, counts: IntArray, start: State, config: Config, sigmoid_range: int | None,
            tanh_range: int | None) -> tuple[tuple[QuantizedLayer, ...], _Tables]:
    """The layers in integers, and the tables. What was measured for this is gone afterwards, which saves memory."""
    pieces = segments(model, counts)
    recordings = record(model, pieces.of(x), pieces.begin(start))
    tables = _choose_tables(model, recordings, config, sigmoid_range, tanh_range)
    seen = ranges(model, x, counts, start)
    layers = [_quantize_first(model.layers[0], recordings[0], seen[0], x, config, tables)]
    for layer, recording, of_layer in zip(model.layers[1:], recordings[1:], seen[1:], strict=True):
        # A layer's quantizer is large, so only one exists at a time.
        layers.append(_LayerQuantizer(layer, recording, of_layer, config, tables).quantize(layers[-1].y_fraction))
    return tuple(layers), tables


def _quantize_first(layer: Layer, recording: Recording, seen: dict[str, Range], x: Float64Array, config: Config,
                    tables: _Tables) -> QuantizedLayer:
    """The first layer in integers, with scaled inputs where that is much better; x (T, B, I) are all frames."""
    plain, cost = _LayerQuantizer(layer, recording, seen, config, tables).quantize_with_cost()
    if cost <= _SCALING_ERROR ** 2 * np.mean(np.square(recording.y)):
        return plain
    exponents = _input_exponents(layer, recording.x)
    if not any(exponents):
        return plain
    peak = float(np.ldexp(np.abs(x).max(axis=(0, 1)), exponents).max())
    scaled, scaled_cost = _LayerQuantizer(
        layer.for_scaled_input(exponents), recording._replace(x=np.ldexp(recording.x, exponents)),
        seen | {"x": Range(-peak, peak)}, config, tables).quantize_with_cost()
    if scaled_cost > _SCALING_GAIN * cost:
        return plain
    return dataclasses.replace(scaled, x_exponents=exponents)


def _input_exponents(layer: Layer, x: Float64Array) -> tuple[int, ...]:
    """The exponents (I,) of inputs x (T, B, I) at which the errors of x and W_x together are smallest.

    An input that is always zero, here or in W_x, gets the smallest exponent, which leaves most room.
    """
    weights, inputs = (np.sqrt(np.mean(np.square(values, dtype=np.float64), axis=(0, 1))) for values in (layer.w_x, x))
    used = (weights > 0) & (inputs > 0)
    exponents = np.zeros(len(inputs), np.int64)
    if used.any():
        exponents[used] = np.round((np.log2(weights[used]) - np.log2(inputs[used])) / 2)
        exponents[~used] = exponents[used].min()
        exponents -= int(np.median(exponents[used]))
    return tuple(exponents.tolist())


def append_dense(quantized: QuantizedModel, layer: Layer, frames: ArrayLike,
                 lengths: ArrayLike | None = None) -> QuantizedModel:
    """A quantized model with one dense layer more, whose formats are chosen on frames; the other layers stay as they
    are.

    Parameters
    ----------
    quantized : `QuantizedModel`
        For a machine with dense layers.
    layer : `Layer`
        Dense.
    frames, lengths
        As for `quantize`.

    Returns
    -------
    `QuantizedModel`
        Without a head, and without a report.

    Raises
    ------
    QuantizeError
        As for `quantize`.
    """
    check_cells([layer], quantized.config)
    model = Model(layers=(*quantized.floating_point().layers, layer), name=quantized.name)
    x, counts = _checked_frames(model, frames, lengths)
    start, pieces = _checked_state(model, x.shape[1], None), segments(model, counts)
    recording = record(model, pieces.of(x), pieces.begin(start))[-1]
    seen = ranges(model, x, counts, start)[-1]
    tables = _Tables(quantized.sigmoid_range, quantized.tanh_range, {})
    dense = _LayerQuantizer(layer, recording, seen, quantized.config, tables).quantize(quantized.layers[-1].y_fraction)
    return dataclasses.replace(quantized, layers=(*quantized.layers, dense), head=None, report=None)


def dense_in_formats(layer: Layer, x_fraction: int, y_fraction: int, w_x_fraction: int, align_x: int,
                     config: Config) -> QuantizedLayer:
    """A dense layer without a table in integers of these formats."""
    return QuantizedLayer(
        name=layer.name, cell=layer.cell, activation=layer.activation,
        w_x=_rounded_weights(layer.w_x, [w_x_fraction], config), bias=_rounded_bias(layer.bias, [y_fraction], config),
        x_fraction=x_fraction, y_fraction=y_fraction, w_x_fraction=(w_x_fraction,), w_r_fraction=(), align_x=(align_x,),
        align_r=(), cell_select=0, peephole_select=0)


def requantize(model: Model, quantized: QuantizedModel) -> QuantizedModel:
    """Quantize other weights of the same shapes in the formats of a quantized model, without calibration.

    Weights beyond a format are clamped. The result has no report.

    Raises
    ------
    QuantizeError
        The layers have other shapes, or a row could overflow in these formats.
    """
    if len(model.layers) != len(quantized.layers):
        raise QuantizeError(f"model {model.name!r} has {len(model.layers)} layers, the quantized one "
                            f"{len(quantized.layers)}")
    layers = tuple(_in_formats(layer, old, formats, quantized.config) for layer, old, formats in zip(
        model.layers, quantized.layers, quantized.formats, strict=True))
    return dataclasses.replace(quantized, layers=layers, head=model.head, report=None, name=model.name)


def _in_formats(layer: Layer, old: QuantizedLayer, formats: Formats, config: Config) -> QuantizedLayer:
    layer = layer.for_scaled_input(old.x_exponents)
    owner = f"layer {layer.name!r}"
    for tensor in TENSORS:
        shape, expected = (None if array is None else np.shape(array)
                           for array in (getattr(layer, tensor), getattr(old, tensor)))
        if shape != expected:
            raise QuantizeError(f"{owner} {tensor}: expected shape {expected}, found {shape}")
    if layer.activation != old.activation:
        raise QuantizeError(f"{owner} activation: expected {old.activation}, found {layer.activation}")
    peephole, w_ym = layer.peephole, layer.w_ym
    return dataclasses.replace(
        old, name=layer.name, bias=_rounded_bias(layer.bias, formats.argument_fraction, config),
        bias_rn=None if layer.bias_rn is None else _rounded_bias(layer.bias_rn, formats.argument_fraction[-1:], config),
        w_x=_rounded_weights(layer.w_x, old.w_x_fraction, config),
        w_r=_rounded_weights(layer.w_r, old.w_r_fraction, config),
        peephole=None if peephole is None else _rounded_peephole(peephole, formats.peephole_fraction, config),
        w_ym=None if w_ym is None else symmetric(w_ym, old.w_ym_fraction or 0, config.weight_bits))


def _rounded_weights(values: NDArray[Any], fractions: Sequence[int], config: Config) -> IntArray:
    weights = np.empty(values.shape, weight_type(config.weight_bits))
    for number, fraction in enumerate(fractions):
        weights[number] = symmetric(values[number], fraction, config.weight_bits)
    weights.setflags(write=False)
    return weights


def _rounded_bias(bias: NDArray[Any], fractions: Sequence[int], config: Config) -> Int64Array:
    """Biases (G, H), or (H,) of one accumulator, at the ``fractions`` of their table arguments."""
    of_rows = np.reshape(fractions[:len(bias)], (-1, 1)) if bias.ndim > 1 else fractions[0]
    return saturate(to_fixed(bias, of_rows), config.argument_bits)


def _rounded_peephole(values: NDArray[Any], fraction: int, config: Config) -> Int64Array:
    return saturate(to_fixed(values, fraction), config.peephole_bits)


def _checked_frames(model: Model, frames: ArrayLike, lengths: ArrayLike | None) -> tuple[Float64Array, IntArray]:
    """Frames (T, B, I) and the number of frames of each voice (B,)."""
    x = real_array("frames", frames, QuantizeError)
    if x.ndim != 3 or x.shape[2] != model.inputs or not x.size:
        raise QuantizeError(f"frames: expected shape (T, B, {model.inputs}), found {x.shape}")
    if not np.isfinite(x).all():
        raise QuantizeError(f"frames{np.argwhere(~np.isfinite(x))[0].tolist()} is not a finite number")
    try:
        padded, counts = check_sequences(x, lengths, model.inputs)
    except ModelError as error:
        raise QuantizeError(str(error)) from None
    if not counts.any():
        raise QuantizeError("lengths: every sequence is empty")
    return np.asarray(padded, np.float64), counts


def _checked_state(model: Model, voices: int, initial: State | None) -> State:
    if initial is None:
        return tuple(initial_state(model, voices))
    try:
        return spread_state(model, initial, voices)
    except ModelError as error:
        raise QuantizeError(str(error)) from None


# -- tables ------------------------------------------------------------------------------------------------


def _choose_tables(model: Model, recordings: Sequence[Recording], config: Config, sigmoid_range: int | None,
                   tanh_range: int | None) -> _Tables:
    arguments: dict[str, list[tuple[Float64Array, Float64Array]]] = {"sigmoid": [], "tanh": []}
    for layer, recording in zip(model.layers, recordings, strict=True):
        for number, gate in enumerate(layer.gates):
            function = {"g": layer.g_activation, "n": "tanh", "y": layer.activation}.get(gate, "sigmoid")
            if function in TABLES:
                arguments[function].append((recording.z[:, number], np.asarray(layer.bias[number], np.float64)))
        if layer.kind is LSTM:
            arguments["tanh"].append((recording.c, np.zeros(layer.cells)))
    errors = {function: {r: _table_error(function, r, arguments[function], config) for r in candidates}
              for function, candidates in (("sigmoid", SIGMOID_RANGES), ("tanh", TANH_RANGES))}
    return _Tables(_first_within_a_tenth(errors["sigmoid"]) if sigmoid_range is None else sigmoid_range,
                   _first_within_a_tenth(errors["tanh"]) if tanh_range is None else tanh_range,
                   {function: {str(r): error for r, error in of.items()} for function, of in errors.items()})


def _first_within_a_tenth(errors: Mapping[int, float]) -> int:
    """The first choice with an error within a tenth of the smallest."""
    return next(choice for choice, error in errors.items() if error <= 1.1 * min(errors.values()))


def _table_error(function: str, table_range: int, arguments: Sequence[tuple[Float64Array, Float64Array]],
                 config: Config) -> float:
    """RMS error of a table on (pre-activations, biases); 0 without any. The biases are clipped to its range, as in the
    machine."""
    exact = floating.sigmoid if function == "sigmoid" else np.tanh
    table = activation_table(function, table_range, config)
    fraction = argument_fraction(config, table_range)
    squares = []
    for z, bias in arguments:
        held = np.clip(bias, -2.0 ** table_range, 2.0 ** table_range)
        stride = -(-z.size // _TABLE_SAMPLES)
        argument = saturate(to_fixed(z + (held - bias), fraction), config.argument_bits).ravel()[::stride]
        value = np.ldexp(Activation.model(config, table, argument).astype(np.float64), -config.gate_fraction)
        squares.append((value - exact(z.ravel()[::stride])) ** 2)
    return float(np.sqrt(np.mean(np.concatenate(squares)))) if squares else 0.0


# -- one layer ---------------------------------------------------------------------------------------------


class _LayerQuantizer:
    """Chooses the formats of one layer."""

    def __init__(self, layer: Layer, recording: Recording, seen: dict[str, Range], config: Config,
                 tables: _Tables) -> None:
        self._costs = FormatCosts(layer, recording, config)
        self._layer = layer
        self._owner = f"layer {layer.name!r}"
        self._seen = seen
        self._config = config
        self._of_sigmoid = argument_fraction(config, tables.sigmoid)
        self._of_tanh = argument_fraction(config, tables.tanh)
        of_g = self._of_tanh if layer.g_activation == "tanh" else self._of_sigmoid
        last = self._of_tanh if layer.kind is GRU else self._of_sigmoid
        self._arguments: tuple[int, ...] = (self._of_sigmoid, self._of_sigmoid, of_g, last)

    def quantize(self, x_fraction: int | None) -> QuantizedLayer:
        """The layer in integers; ``x_fraction`` is the binary point of x, if the layer below decides it."""
        layer, config, costs = self._layer, self._config, self._costs
        x_fractions = costs.input_fractions(self._seen["x"].peak) if x_fraction is None else [x_fraction]
        # Most costs are measured at once, which is faster.
        likely = [Change("x", 0, fraction) for fraction in x_fractions if len(x_fractions) > 1]
        likely += [change for tensor, gate in self._matrices() for change in costs.weight_changes(tensor, gate)]
        costs.measure(likely)
        if layer.kind is DENSE:
            return self._quantize_dense(x_fractions)
        w_ym_fraction, y_fraction = self._choose_output()
        x_fraction, gates = self._choose_gates(x_fractions, y_fraction)
        w_x_fraction, w_r_fraction = zip(*(gate.fractions for gate in gates), strict=True)
        align_x, align_r = zip(*(gate.aligns for gate in gates), strict=True)
        cell_select = self._choose_cell()
        peephole_select, peephole = self._quantize_peephole(cell_select)
        w_ym = None
        if layer.w_ym is not None and w_ym_fraction is not None:
            w_ym = symmetric(layer.w_ym, w_ym_fraction, config.weight_bits)
        return QuantizedLayer(
            name=layer.name, g_activation=layer.g_activation, cell=layer.cell, reset_after=layer.reset_after,
            w_x=_rounded_weights(layer.w_x, w_x_fraction, config),
            w_r=_rounded_weights(layer.w_r, w_r_fraction, config),
            bias=_rounded_bias(layer.bias, self._arguments, config),
            bias_rn=None if layer.bias_rn is None else _rounded_bias(layer.bias_rn, self._arguments[-1:], config),
            peephole=peephole, w_ym=w_ym, x_fraction=x_fraction, y_fraction=y_fraction,
            w_x_fraction=w_x_fraction, w_r_fraction=w_r_fraction, w_ym_fraction=w_ym_fraction,
            align_x=align_x, align_r=align_r, cell_select=cell_select, peephole_select=peephole_select)

    def _quantize_dense(self, x_fractions: Sequence[int]) -> QuantizedLayer:
        """A dense layer in integers."""
        layer, config, costs = self._layer, self._config, self._costs
        tables = {"sigmoid": self._of_sigmoid, "tanh": self._of_tanh}
        best: dict[int, tuple[int, int, int]] = {}
        refusal = QuantizeError(f"{self._owner}: x has no binary point")
        for x_fraction in x_fractions:
            try:
                best[x_fraction] = self._affine(x_fraction, tables.get(layer.activation))
            except QuantizeError as error:
                refusal = error
        if not best:
            raise refusal
        x_fraction = next(iter(best))
        if len(best) > 1:
            x_fraction = _first_within_a_tenth({fraction: costs.cost(Change("x", 0, fraction))
                                                + costs.cost(Change("w_x", 0, weights))
                                                for fraction, (weights, _, _) in best.items()})
        fraction, align, argument = best[x_fraction]
        return QuantizedLayer(
            name=layer.name, cell=layer.cell, activation=layer.activation,
            w_x=_rounded_weights(layer.w_x, [fraction], config), bias=_rounded_bias(layer.bias, [argument], config),
            x_fraction=x_fraction, y_fraction=m_fraction(config) if layer.activation in tables else argument,
            w_x_fraction=(fraction,), w_r_fraction=(), align_x=(align,), align_r=(), cell_select=0, peephole_select=0)

    def _affine(self, x_fraction: int, of_table: int | None) -> tuple[int, int, int]:
        """Fraction bits and alignment of a dense layer's weights, and fraction bits of its bias: those of y, if it has
        no table whose argument has ``of_table``."""
        config, costs = self._config, self._costs
        most = (1 << config.align_bits) - 1
        wanted = self._cheapest("w_x", 0)
        argument = of_table
        if argument is None:
            argument = max_fraction(Y_HEADROOM * self._seen["y"].peak, config.activation_bits)
            if wanted is not None:
                argument = min(argument, x_fraction + wanted + most)
        without = argument - x_fraction  # with so many fraction bits, neither shift is needed
        fraction = without if wanted is None else min(max(wanted, without - most), without + SHIFTS[-1])
        while True:
            align = max(0, without - fraction)
            if costs.row_sums(Change("w_x", 0, fraction)).max() << align < row_limit(config):
                return fraction, align, argument
            if fraction > without:
                fraction -= 1
            elif of_table is None:
                argument, without = argument - 1, without - 1
            else:
                raise QuantizeError(f"{self._owner}: w_x fits no {config.accumulator_bits}-bit accumulator with at "
                                    f"least {argument} fraction bits that no row can overflow")

    def quantize_with_cost(self) -> tuple[QuantizedLayer, float]:
        """The first layer in integers, and the summed cost of the formats of x and W_x."""
        chosen = self.quantize(None)
        changes = [Change("x", 0, chosen.x_fraction),
                   *(Change("w_x", gate, fraction) for gate, fraction in enumerate(chosen.w_x_fraction))]
        self._costs.measure(changes)
        return chosen, sum(map(self._costs.cost, changes))

    def _matrices(self) -> list[tuple[str, int]]:
        """Tensor and gate of each matrix."""
        matrices = [(tensor, number) for number in range(len(self._layer.gates))
                    for tensor in _GATE_TENSORS if tensor in self._layer.kind.tensors]
        return matrices if self._layer.w_ym is None else [*matrices, ("w_ym", 0)]

    def _choose_output(self) -> tuple[int | None, int]:
        """Binary points of w_ym and y."""
        of_m, bits = m_fraction(self._config), self._config.activation_bits
        if self._layer.w_ym is None:
            return None, of_m
        y_fraction = max_fraction(Y_HEADROOM * self._seen["y"].peak, bits)
        cheapest = self._cheapest("w_ym", 0)
        highest = y_fraction + SHIFTS[-1] - of_m
        fraction = highest if cheapest is None else min(cheapest, highest)
        while self._costs.row_sums(Change("w_ym", 0, fraction)).max() >= row_limit(self._config):
            fraction -= 1
        return fraction, min(y_fraction, fraction + of_m)

    def _choose_gates(self, x_fractions: Sequence[int], y_fraction: int) -> tuple[int, list[_Gate]]:
        """The binary point of x and the formats of the gates with the smallest summed cost."""
        options: dict[int, list[list[_Gate]]] = {}
        refusal = QuantizeError(f"{self._owner}: x has no binary point")
        for x_fraction in x_fractions:
            try:
                options[x_fraction] = [self._nearest(number, x_fraction, y_fraction)
                                       for number in range(len(self._layer.gates))]
            except QuantizeError as error:
                refusal = error
        if not options:
            raise refusal
        self._costs.measure(change for gates in options.values() for number, nearest in enumerate(gates)
                            for gate in nearest for change in _changes(number, gate))
        best = {x_fraction: [min(nearest, key=partial(self._gate_cost, number)) for number, nearest in enumerate(gates)]
                for x_fraction, gates in options.items()}
        if len(best) == 1:
            return best.popitem()
        costs = {x_fraction: self._costs.cost(Change("x", 0, x_fraction)) + sum(
            self._gate_cost(number, gate) for number, gate in enumerate(gates)) for x_fraction, gates in best.items()}
        x_fraction = _first_within_a_tenth(costs)
        return x_fraction, best[x_fraction]

    def _nearest(self, number: int, x_fraction: int, y_fraction: int) -> list[_Gate]:
        """The formats nearest to the best among those at which both products of a gate can meet."""
        inputs = (x_fraction, y_fraction)
        best = [self._cheapest(tensor, number) for tensor in _GATE_TENSORS]
        argument = self._arguments[number]
        if self._layer.gates[number] == "n" and self._layer.reset_after:
            return [self._apart(number, best, inputs)]
        meeting = [self._meet(best, inputs, argument + shift) for shift in SHIFTS]
        nearest: dict[tuple[int, ...], _Gate] = {}
        # Formats between a gate and the best come before it, so few need their rows summed.
        for gate in sorted(meeting, key=lambda gate: sum(map(abs, _offsets(gate, best)))):
            away = _offsets(gate, best)
            if away not in nearest and not any(_nearer(other, away) for other in nearest) and self._holds(number, gate):
                nearest[away] = gate
        if not nearest:
            raise QuantizeError(
                f"{self._owner} gate {self._layer.gates[number]}: products of x ({x_fraction} fraction bits) and y "
                f"({y_fraction}) meet in no {self._config.accumulator_bits}-bit accumulator with at least "
                f"{argument} fraction bits that no row can overflow")
        return sorted(nearest.values(), key=meeting.index)

    def _apart(self, number: int, best: Sequence[int | None], inputs: Sequence[int]) -> _Gate:
        """The formats of a gate whose products have an accumulator each: for each the best that fits."""
        config, argument = self._config, self._arguments[number]
        most = (1 << config.align_bits) - 1
        fractions, aligns = [], []
        for tensor, wanted, of_input in zip(_GATE_TENSORS, best, inputs, strict=True):
            without = argument - of_input  # with so many fraction bits, neither shift is needed
            fraction = without if wanted is None else min(max(wanted, without - most), without + SHIFTS[-1])
            align = max(0, without - fraction)
            while self._costs.row_sums(Change(tensor, number, fraction)).max() << align >= row_limit(config):
                if fraction <= without:
                    raise QuantizeError(
                        f"{self._owner} gate {self._layer.gates[number]}: {tensor} fits no {config.accumulator_bits}-"
                        f"bit accumulator with at least {argument} fraction bits that no row can overflow")
                fraction -= 1
            fractions.append(fraction)
            aligns.append(align)
        return _Gate((fractions[0], fractions[1]), (aligns[0], aligns[1]))

    def _meet(self, best: Sequence[int | None], inputs: Sequence[int], total: int) -> _Gate:
        """The formats of a gate whose products have ``total`` fraction bits."""
        most = (1 << self._config.align_bits) - 1
        fractions = [total - of_input if wanted is None else
                     min(max(wanted, total - of_input - most), total - of_input)
                     for wanted, of_input in zip(best, inputs, strict=True)]
        aligns = [total - own - of_input for own, of_input in zip(fractions, inputs, strict=True)]
        return _Gate((fractions[0], fractions[1]), (aligns[0], aligns[1]))

    def _holds(self, number: int, gate: _Gate) -> bool:
        """Whether no row of a gate can overflow."""
        rows = sum(self._costs.row_sums(change) << align
                   for change, align in zip(_changes(number, gate), gate.aligns, strict=True))
        return bool(np.max(rows) < row_limit(self._config))

    def _cheapest(self, tensor: str, number: int) -> int | None:
        cheapest = min(self._costs.weight_changes(tensor, number), key=self._costs.cost, default=None)
        return None if cheapest is None else cheapest.fraction

    def _gate_cost(self, number: int, gate: _Gate) -> float:
        return sum(map(self._costs.cost, _changes(number, gate)))

    def _choose_cell(self) -> int:
        """``cell_select`` of the finest format of c that has the headroom and from which tanh's argument is a shift."""
        config = self._config
        if self._layer.kind is GRU:
            return 0
        finest = config.cell_fraction_max
        wanted = finest - max_fraction(CELL_HEADROOM * self._seen["c"].peak, config.cell_bits)
        coarsest = finest + config.cell_argument_left - self._of_tanh
        return min(max(wanted, SELECTS[0]), SELECTS[-1], coarsest)

    def _quantize_peephole(self, cell_select: int) -> tuple[int, Int64Array | None]:
        """``peephole_select`` and the peepholes, with as many fraction bits as fit."""
        config = self._config
        if self._layer.peephole is None:
            return 0, None
        coarsest = config.peephole_shift_base - (config.cell_fraction_max - cell_select) + self._of_sigmoid
        peak = float(np.abs(self._layer.peephole).max())
        select = min(max(max_fraction(peak, config.peephole_bits) - coarsest, SELECTS[0]), SELECTS[-1])
        return select, _rounded_peephole(self._layer.peephole, coarsest + select, config)


def _changes(number: int, gate: _Gate) -> list[Change]:
    """The changes that the formats of a gate make."""
    return [Change(tensor, number, fraction) for tensor, fraction in zip(_GATE_TENSORS, gate.fractions, strict=True)]


def _offsets(gate: _Gate, best: Sequence[int | None]) -> tuple[int, ...]:
    """The distances of both binary points from the best; a matrix of zeros has none."""
    return tuple(0 if wanted is None else own - wanted
                 for own, wanted in zip(gate.fractions, best, strict=True))


def _nearer(other: tuple[int, ...], offsets: tuple[int, ...]) -> bool:
    """Whether ``other`` is between ``offsets`` and the best, and so is not worse."""
    return other != offsets and all(
        min(away, 0) <= between <= max(away, 0) for between, away in zip(other, offsets, strict=True))
