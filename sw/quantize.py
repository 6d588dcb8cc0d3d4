# SPDX-License-Identifier: Apache-2.0
"""From floating point to the machine's integers, with every format chosen by calibration.

What is chosen by what:

- Binary point of each weight matrix: by the error that it alone makes at the layer's output, measured on real
  frames, from the scale that clips nothing to the one that clips the largest percent. Where the best of W_x
  and W_r of a gate cannot meet in one accumulator (their alignment is limited, and no row may ever overflow),
  the pair of least summed error among those nearest to them that can.
- Binary point of the first layer's x: likewise, but clipped at half of what it holds, since frames to come
  may be twice as loud; of those whose error is within a tenth of the least, the one that holds most.
- Binary points of a projection's y and of c: so that y holds twice and c eight times what was seen. A c that
  saturates does harm for many steps, and its bits are to spare: at 12-bit weights the three that are given up
  change the error of y by less than a hundredth.
- Range of the tables: the narrowest whose measured error is within a tenth of the least.
- Peepholes and biases: as fine as they fit.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rtl.activation import Activation
from rtl.config import Config
from rtl.fixed import saturate, to_fixed

from . import float_reference
from .calibrate import Bench, Range, max_fraction, ranges, segments, symmetric
from .compare import compare
from .model import GATES, Model
from .quantized import (
    SELECTS,
    SHIFTS,
    QuantizedLayer,
    QuantizedModel,
    QuantizeError,
    activation_table,
    argument_fraction,
    m_fraction,
    row_limit,
)

__all__ = ["QuantizeError", "QuantizedLayer", "QuantizedModel", "quantize"]

SIGMOID_RANGES = range(4, 8)
TANH_RANGES = range(3, 8)
Y_HEADROOM = 2.0
CELL_HEADROOM = 8.0
_TABLE_SAMPLES = 100_000
_GATE_TENSORS = ("w_x", "w_r")

Float64Array = NDArray[np.float64]


class _Tables(NamedTuple):
    """Ranges of both tables, and the errors they were chosen by."""

    sigmoid: int
    tanh: int
    errors: dict[str, dict[str, float]]


class _Gate(NamedTuple):
    """Binary points and alignments of a gate's two matrices, x first."""

    fractions: tuple[int, int]
    aligns: tuple[int, int]


def quantize(model: Model, frames: ArrayLike, config: Config, *, sigmoid_range: int | None = None,
             tanh_range: int | None = None) -> QuantizedModel:
    """Quantize ``model`` for the widths of ``config``.

    Parameters
    ----------
    model : `Model`
    frames : array (T, B, I)
        Real input: T steps of B voices, each from the zero state.
    config : `rtl.config.Config`
    sigmoid_range, tanh_range : int, optional
        The tables span ``[-2**range, 2**range)``. Measured by default; the paper has 6 and 7.

    Returns
    -------
    `QuantizedModel`
        With a report of what its integers do on ``frames``.

    Raises
    ------
    QuantizeError
        For frames of the wrong shape, or weights that no format of the machine can hold.
    """
    x = _checked_frames(model, frames)
    benches = _benches(model, x, config)
    tables = _choose_tables(benches, config, sigmoid_range, tanh_range)
    layers: list[QuantizedLayer] = []
    for bench, seen in zip(benches, ranges(model, x), strict=True):
        x_fractions = [layers[-1].y_fraction] if layers else bench.input_fractions(seen["x"].peak)
        layers.append(_LayerQuantizer(bench, seen, config, tables).quantize(x_fractions))
    quantized = QuantizedModel(
        layers=tuple(layers), config=config, head=model.head, name=model.name,
        sigmoid_range=tables.sigmoid, sigmoid_table=activation_table("sigmoid", tables.sigmoid, config),
        tanh_range=tables.tanh, tanh_table=activation_table("tanh", tables.tanh, config))
    return dataclasses.replace(quantized, report=compare(model, quantized, x, tables.errors))


def _checked_frames(model: Model, frames: ArrayLike) -> Float64Array:
    x = np.asarray(frames, np.float64)
    if x.ndim != 3 or x.shape[2] != model.inputs or not x.size:
        raise QuantizeError(f"frames: expected shape (T, B, {model.inputs}), found {x.shape}")
    if not np.isfinite(x).all():
        raise QuantizeError(f"frames{np.argwhere(~np.isfinite(x))[0].tolist()} is not a finite number")
    return x


def _benches(model: Model, frames: Float64Array, config: Config) -> list[Bench]:
    benches: list[Bench] = []
    for layer in model.layers:
        benches.append(Bench(layer, benches[-1].y if benches else segments(frames), config))
    return benches


# -- tables ------------------------------------------------------------------------------------------------


def _choose_tables(benches: Sequence[Bench], config: Config, sigmoid_range: int | None,
                   tanh_range: int | None) -> _Tables:
    arguments: dict[str, list[tuple[Float64Array, Float64Array]]] = {"sigmoid": [], "tanh": []}
    for bench in benches:
        for number, gate in enumerate(GATES):
            function = bench.layer.g_activation if gate == "g" else "sigmoid"
            arguments[function].append((bench.z[:, number], np.asarray(bench.layer.bias[number], np.float64)))
        arguments["tanh"].append((bench.c, np.zeros(bench.layer.cells)))
    errors = {function: {r: _table_error(function, r, arguments[function], config) for r in candidates}
              for function, candidates in (("sigmoid", SIGMOID_RANGES), ("tanh", TANH_RANGES))}
    return _Tables(_first_within_a_tenth(errors["sigmoid"]) if sigmoid_range is None else sigmoid_range,
                   _first_within_a_tenth(errors["tanh"]) if tanh_range is None else tanh_range,
                   {function: {str(r): error for r, error in of.items()} for function, of in errors.items()})


def _first_within_a_tenth(errors: Mapping[int, float]) -> int:
    """The first choice that is hardly worse than the best."""
    return next(choice for choice, error in errors.items() if error <= 1.1 * min(errors.values()))


def _table_error(function: str, table_range: int, arguments: Sequence[tuple[Float64Array, Float64Array]],
                 config: Config) -> float:
    """RMS error of a table on (pre-activations, biases), where the biases are held in its range as well."""
    exact = float_reference.sigmoid if function == "sigmoid" else np.tanh
    table = activation_table(function, table_range, config)
    fraction = argument_fraction(config, table_range)
    squares = []
    for z, bias in arguments:
        held = np.clip(bias, -2.0 ** table_range, 2.0 ** table_range)
        stride = -(-z.size // _TABLE_SAMPLES)
        argument = saturate(to_fixed(z + (held - bias), fraction), config.argument_bits).ravel()[::stride]
        value = np.ldexp(Activation.model(config, table, argument).astype(np.float64), -config.gate_fraction)
        squares.append((value - exact(z.ravel()[::stride])) ** 2)
    return float(np.sqrt(np.mean(np.concatenate(squares))))


# -- one layer ---------------------------------------------------------------------------------------------


class _LayerQuantizer:
    """Chooses the formats of one layer."""

    def __init__(self, bench: Bench, seen: dict[str, Range], config: Config, tables: _Tables) -> None:
        self._bench = bench
        self._layer = bench.layer
        self._owner = f"layer {bench.layer.name!r}"
        self._seen = seen
        self._config = config
        self._of_sigmoid = argument_fraction(config, tables.sigmoid)
        self._of_tanh = argument_fraction(config, tables.tanh)
        of_g = self._of_tanh if bench.layer.g_activation == "tanh" else self._of_sigmoid
        self._arguments = (self._of_sigmoid, self._of_sigmoid, of_g, self._of_sigmoid)

    def quantize(self, x_fractions: Sequence[int]) -> QuantizedLayer:
        """The layer in integers; ``x_fractions`` are the binary points that x may have."""
        layer, config = self._layer, self._config
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
            name=layer.name, g_activation=layer.g_activation,
            w_x=self._weights("w_x", w_x_fraction), w_r=self._weights("w_r", w_r_fraction),
            bias=saturate(to_fixed(layer.bias, np.reshape(self._arguments, (4, 1))), config.argument_bits),
            peephole=peephole, w_ym=w_ym, x_fraction=x_fraction, y_fraction=y_fraction,
            w_x_fraction=w_x_fraction, w_r_fraction=w_r_fraction, w_ym_fraction=w_ym_fraction,
            align_x=align_x, align_r=align_r, cell_select=cell_select, peephole_select=peephole_select)

    def _weights(self, tensor: str, fractions: Sequence[int]) -> NDArray[np.int64]:
        return np.stack([symmetric(values, fraction, self._config.weight_bits)
                         for values, fraction in zip(getattr(self._layer, tensor), fractions, strict=True)])

    def _choose_output(self) -> tuple[int | None, int]:
        """Binary points of w_ym and y."""
        of_m, bits = m_fraction(self._config), self._config.activation_bits
        if self._layer.w_ym is None:
            return None, of_m
        y_fraction = max_fraction(Y_HEADROOM * self._seen["y"].peak, bits)
        cheapest = self._cheapest("w_ym", 0, self._bench.weight_fractions("w_ym", 0))
        highest = y_fraction + SHIFTS[-1] - of_m
        fraction = highest if cheapest is None else min(cheapest, highest)
        while self._bench.row_sums("w_ym", 0, fraction).max() >= row_limit(self._config):
            fraction -= 1
        return fraction, min(y_fraction, fraction + of_m)

    def _choose_gates(self, x_fractions: Sequence[int], y_fraction: int) -> tuple[int, list[_Gate]]:
        """Binary point of x and formats of the four gates, of least summed cost."""
        costs: dict[int, float] = {}
        options: dict[int, list[_Gate]] = {}
        refusal = QuantizeError(f"{self._owner}: x has no binary point")
        for x_fraction in x_fractions:
            try:
                gates = [self._choose_gate(number, x_fraction, y_fraction) for number in range(len(GATES))]
            except QuantizeError as error:
                refusal = error
                continue
            options[x_fraction] = gates
            costs[x_fraction] = self._bench.input_cost(x_fraction) + sum(
                self._gate_cost(number, gate) for number, gate in enumerate(gates))
        if not options:
            raise refusal
        x_fraction = _first_within_a_tenth(costs)
        return x_fraction, options[x_fraction]

    def _choose_gate(self, number: int, x_fraction: int, y_fraction: int) -> _Gate:
        """For every accumulator fraction, the binary points nearest to the best; of these, the cheapest."""
        inputs = (x_fraction, y_fraction)
        best = [self._cheapest(tensor, number, self._bench.weight_fractions(tensor, number))
                for tensor in _GATE_TENSORS]
        argument = self._arguments[number]
        gates: dict[tuple[int, ...], _Gate] = {}
        for shift in SHIFTS:
            gate = self._meet(number, best, inputs, argument + shift)
            if gate:
                gates.setdefault(_offsets(gate, best), gate)
        if not gates:
            raise QuantizeError(
                f"{self._owner} gate {GATES[number]}: products of x ({x_fraction} fraction bits) and y "
                f"({y_fraction}) meet in no {self._config.accumulator_bits}-bit accumulator with at least "
                f"{argument} fraction bits that no row can overflow")
        nearest = [gate for away, gate in gates.items() if not any(_nearer(other, away) for other in gates)]
        return min(nearest, key=lambda gate: self._gate_cost(number, gate))

    def _meet(self, number: int, best: Sequence[int | None], inputs: Sequence[int],
              total: int) -> _Gate | None:
        """The gate whose products have ``total`` fraction bits, if no row can overflow."""
        most = (1 << self._config.align_bits) - 1
        fractions = [total - of_input if wanted is None else
                     min(max(wanted, total - of_input - most), total - of_input)
                     for wanted, of_input in zip(best, inputs, strict=True)]
        aligns = [total - own - of_input for own, of_input in zip(fractions, inputs, strict=True)]
        rows = sum(self._bench.row_sums(tensor, number, own) << align
                   for tensor, own, align in zip(_GATE_TENSORS, fractions, aligns, strict=True))
        if np.max(rows) >= row_limit(self._config):
            return None
        return _Gate((fractions[0], fractions[1]), (aligns[0], aligns[1]))

    def _cheapest(self, tensor: str, number: int, fractions: Sequence[int]) -> int | None:
        return min(fractions, key=lambda f: self._bench.weight_cost(tensor, number, f), default=None)

    def _gate_cost(self, number: int, gate: _Gate) -> float:
        return sum(self._bench.weight_cost(tensor, number, fraction)
                   for tensor, fraction in zip(_GATE_TENSORS, gate.fractions, strict=True))

    def _choose_cell(self) -> int:
        """The finest format with that headroom, and from which the tanh's argument can be had."""
        config = self._config
        finest = config.cell_fraction_max
        wanted = finest - max_fraction(CELL_HEADROOM * self._seen["c"].peak, config.cell_bits)
        coarsest = finest + config.cell_argument_left - self._of_tanh
        return min(max(wanted, SELECTS[0]), SELECTS[-1], coarsest)

    def _quantize_peephole(self, cell_select: int) -> tuple[int, NDArray[np.int64] | None]:
        """``peephole_select`` and the peepholes, as fine as they fit."""
        config = self._config
        if self._layer.peephole is None:
            return 0, None
        coarsest = config.peephole_shift_base - (config.cell_fraction_max - cell_select) + self._of_sigmoid
        peak = float(np.abs(self._layer.peephole).max())
        select = min(max(max_fraction(peak, config.peephole_bits) - coarsest, SELECTS[0]), SELECTS[-1])
        return select, saturate(to_fixed(self._layer.peephole, coarsest + select), config.peephole_bits)


def _offsets(gate: _Gate, best: Sequence[int | None]) -> tuple[int, ...]:
    """How far the binary points of both matrices are from the best; zeros have no best."""
    return tuple(0 if wanted is None else own - wanted
                 for own, wanted in zip(gate.fractions, best, strict=True))


def _nearer(other: tuple[int, ...], offsets: tuple[int, ...]) -> bool:
    """Whether ``other`` lies between ``offsets`` and the best, and so is no worse."""
    return other != offsets and all(
        min(away, 0) <= between <= max(away, 0) for between, away in zip(other, offsets, strict=True))
