# SPDX-License-Identifier: Apache-2.0
"""A model in the machine's integers. The quantizer makes it, the packer packs it, the reference runs it.

Each matrix has its own binary point: a weight ``w`` means ``w * 2**-fraction``. The products of x and of the previous
y meet in one accumulator per row, so the coarser of the two matrices is shifted left (``align``) until both have the
accumulator's fraction. A `QuantizedModel` checks all rules of the formats when it is made, so it runs without overflow.
"""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from openese.output import replacing
from openese.rtl.config import Config
from openese.rtl.fixed import saturate, to_fixed
from openese.rtl.program import ACTIVATIONS
from openese.sw.model.arrays import Float64Array, Int64Array, IntArray
from openese.sw.model.layers import (
    DENSE,
    GRU,
    LSTM,
    TENSORS,
    CellKind,
    Dense,
    Layer,
    LayerTensors,
    Model,
    ModelError,
    activate,
    frozen,
    read_npz,
)
from openese.sw.model.report import Report
from openese.sw.model.state import ChannelState, LayerState, State

__all__ = ["GRU_BEFORE_PLACES", "GRU_PLACES", "TABLES", "Formats", "QuantizeError", "QuantizedLayer", "QuantizedModel",
           "activation_table", "cells_with", "check_cells", "unsupported", "weight_type"]


#: By matrix of a GRU: the gates whose weights it has, and their accumulators. With the reset before the product, the
#: tensor ``w_r`` makes two matrices; ``w_rn`` multiplies r . h'.
GRU_PLACES = {"w_x": ([0, 1, 2], [0, 1, 2]), "w_r": ([0, 1, 2], [0, 1, 3])}
GRU_BEFORE_PLACES = GRU_PLACES | {"w_r": ([0, 1], [0, 1]), "w_rn": ([2], [2])}
#: Functions of dense layers that are tables.
TABLES = ACTIVATIONS[2:]
SHIFTS = range(32)
SELECTS = range(8)
_VERSION = 1
#: Words of `Config.cells` in their order.
_CELL_NAMES = ("lstm", "gru", "gru_before", "dense")
# Of a layer in a file: only if they are not at their defaults.
_LATER = ("x_exponents", "cell", "activation", "reset_after")
_WIDTHS = ("weight_bits", "activation_bits", "cell_bits", "accumulator_bits")


class QuantizeError(ValueError):
    """Numbers break a rule of the formats. The message names the layer, the tensor and the rule."""


class Formats(NamedTuple):
    """A layer's binary points and shifts that follow from its other formats and from the tables.

    Attributes
    ----------
    accumulator_fraction : fraction bits of the sums of i, f, g, o, or of `QuantizedLayer.accumulators`.
    argument_fraction : fraction bits of their table arguments, and so of their biases; of a dense layer without a
        table, those of y.
    gate_shift : right shifts from the sums to the arguments.
    cell_fraction : fraction bits of c; of h of a GRU.
    cell_argument_shift : right shift of ``c << cell_argument_left`` to an argument of the tanh table.
    peephole_shift : right shift of a product of peephole and c to an argument of the sigmoid table.
    peephole_fraction : fraction bits of the peepholes.
    output_shift : right shift of the projection's sums to y; None without projection.

    The shifts of c and the formats of peepholes are 0 for a GRU, and for a dense layer that of c too.
    """

    accumulator_fraction: tuple[int, ...]
    argument_fraction: tuple[int, ...]
    gate_shift: tuple[int, ...]
    cell_fraction: int
    cell_argument_shift: int
    peephole_shift: int
    peephole_fraction: int
    output_shift: int | None


def m_fraction(config: Config) -> int:
    """Fraction bits of m, whose magnitude never exceeds 1."""
    return config.activation_bits - 1


def argument_fraction(config: Config, table_range: int) -> int:
    """Fraction bits of an argument of a table over ``[-2**table_range, 2**table_range)``."""
    return config.argument_bits - 1 - table_range


def sigmoid(x: ArrayLike) -> Float64Array:
    """The logistic function, without overflow."""
    return activate("sigmoid", np.asarray(x, np.float64))


def activation_table(function: str, table_range: int, config: Config, samples: int | None = None,
                     offset: float = 0.0) -> NDArray[np.int32]:
    """Samples of ``sigmoid`` or ``tanh`` over ``[-2**table_range, 2**table_range)``, in Q16.

    Parameters
    ----------
    function : str
        ``"sigmoid"`` or ``"tanh"``.
    table_range : int
    config : Config
    samples : int, optional
        A power of two; by default the size of the machine's table.
    offset : float
        Where a sample is taken, behind its place, as a share of the distance between samples.

    Returns
    -------
    int32 (samples,)
    """
    half = (samples or 1 << config.table_index_bits) // 2
    x = (np.arange(-half, half) + offset) * 2.0 ** table_range / half
    values = sigmoid(x) if function == "sigmoid" else np.tanh(x)
    return to_fixed(values, config.gate_fraction).astype(np.int32)


def weight_type(bits: int) -> type[np.int16] | type[np.int32]:
    """The smallest type of `QuantizedLayer` that holds signed weights of ``bits`` bits."""
    return np.int16 if bits <= 16 else np.int32


def _integers(owner: str, tensor: str, value: ArrayLike) -> IntArray:
    """A read-only array: int16 keeps its type, other integers become int32."""
    array = np.asarray(value)
    if array.dtype.kind not in "iu":
        raise QuantizeError(f"{owner} {tensor}: expected integers, found type {array.dtype}")
    if array.dtype not in (np.int16, np.int32):
        if array.size and (array.max() >= 1 << 31 or array.min() < -(1 << 31)):
            raise QuantizeError(f"{owner} {tensor}: values do not fit 32 bits")
        array = array.astype(np.int32)
    return frozen(array)


@dataclass(frozen=True, eq=False, kw_only=True)
class QuantizedLayer(LayerTensors):
    """One layer's integers and binary points. Sizes: gates G, inputs I, cells H, outputs P; gate order i, f, g, o of an
    LSTM, and r, z, n of a GRU. A dense layer has one, y.

    The machine has four sums for each cell, its *accumulators*. A GRU has the two products of n in two of them: n_x
    and n_h. With the reset before the product, n has one, and the fourth is not used. A dense layer has one for each
    output.

    Attributes
    ----------
    w_x : int16 or int32 (G, H, I); w_r : (G, H, P)
        Gate weights, symmetric in ``weight_bits``, at ``w_x_fraction[gate]`` and ``w_r_fraction[gate]``. A dense layer
        has no w_r: (1, P, 0).
    bias : int32 (G, H)
        At the fraction of the gate's table argument, in ``argument_bits``; of a dense layer without a table, at that of
        y.
    cell : str
        ``"lstm"``, ``"gru"`` or ``"dense"``.
    bias_rn : int32 (H,), only of a GRU with ``reset_after``
        The recurrent bias of n, in the format of its bias.
    reset_after : bool
        Of a GRU: whether r multiplies the product of w_r[n] and y, or y, as of `Layer`. r . y has the format of y.
    peephole : int32 (3, H), optional
        Of i, f, o, in ``peephole_bits``; see `Formats`.
    w_ym : int16 or int32 (P, H), optional
        Projection, at ``w_ym_fraction``. Without it y is m, and P == H.
    x_fraction, y_fraction : int
        Fraction bits of the input and the output.
    x_exponents : I ints, or none
        Input i comes in as ``x[i] * 2**x_exponents[i]``, and column i of ``w_x`` is divided by the same power. Only the
        first layer has them.
    w_x_fraction, w_r_fraction : G ints; w_ym_fraction : int or None
        Binary point of each matrix. A dense layer has no ``w_r_fraction`` and no ``align_r``: ().
    align_x, align_r : G ints
        Left shift of the weights that brings both products of a gate to one fraction.
    cell_select, peephole_select : int
        See `Formats`: ``cell_fraction_max - cell_select``, ``peephole_shift_base + peephole_select``. 0 of a GRU and of
        a dense layer.
    g_activation : str
        ``"tanh"`` or ``"sigmoid"``.
    activation : str
        Of a dense layer, as of `Layer`.

    Raises
    ------
    QuantizeError
        An array is not of integers, or has the wrong shape. `QuantizedModel` checks the formats.
    """

    name: str
    w_x: IntArray
    w_r: IntArray = cast(IntArray, None)
    bias: IntArray
    peephole: IntArray | None = None
    w_ym: IntArray | None = None
    x_fraction: int
    y_fraction: int
    w_x_fraction: tuple[int, ...]
    w_r_fraction: tuple[int, ...]
    w_ym_fraction: int | None = None
    align_x: tuple[int, ...]
    align_r: tuple[int, ...]
    cell_select: int
    peephole_select: int
    g_activation: str = "tanh"
    x_exponents: tuple[int, ...] = ()
    cell: str = LSTM.name
    bias_rn: IntArray | None = None
    reset_after: bool = True
    activation: str = "none"

    def __post_init__(self) -> None:
        self._check(_integers, QuantizeError)
        object.__setattr__(self, "x_exponents", tuple(int(n) for n in self.x_exponents))
        if self.x_exponents and len(self.x_exponents) != self.inputs:
            raise QuantizeError(f"{self._owner} x_exponents: expected one for each of {self.inputs} inputs, found "
                                f"{len(self.x_exponents)}")
        for field in ("w_x_fraction", "w_r_fraction", "align_x", "align_r"):
            object.__setattr__(self, field, tuple(int(n) for n in getattr(self, field)))
            of_none = self.kind is DENSE and field in ("w_r_fraction", "align_r")
            if len(getattr(self, field)) != (0 if of_none else len(self.gates)):
                wanted = "none" if of_none else f"one for each of {', '.join(self.gates)}"
                raise QuantizeError(f"{self._owner} {field}: expected {wanted}, found {getattr(self, field)}")
        if (self.w_ym is None) != (self.w_ym_fraction is None):
            raise QuantizeError(f"{self._owner} w_ym and w_ym_fraction come together or not at all")

    @property
    def accumulators(self) -> tuple[str, ...]:
        """The names of a cell's sums; a dense layer has one."""
        return ("r", "z", "n_x", "n_h") if self.kind is GRU and self.reset_after else self.gates

    @property
    def stacked(self) -> bool:
        """Whether the rows of a cell's accumulators are interleaved: all but those of a dense layer."""
        return self.kind is not DENSE

    @property
    def products(self) -> dict[str, IntArray]:
        """By its name, each matrix that the machine multiplies, or the tensor that it is a part of."""
        matrices = {"w_x": self.w_x}
        if self.feedback:
            matrices["w_r"] = self.w_r
        if self.kind is GRU and not self.reset_after:
            matrices["w_rn"] = self.w_r
        if self.w_ym is not None:
            matrices["w_ym"] = self.w_ym
        return matrices

    def by_accumulator(self, field: str) -> Any:
        """One of `products` but ``w_ym``, its alignment (as ``align_x``), or ``bias`` with four rows, one for each
        accumulator of the cell.

        Zeros stand for what an accumulator has not. The ``w_x`` of a dense layer is (P, I).
        """
        if self.kind is GRU:
            return self._gru_by_accumulator(field)
        value = getattr(self, field)
        if self.kind is DENSE:
            return value[0] if field == "w_x" else (*value, 0, 0, 0) if field == "align_x" else value
        return value

    def _gru_by_accumulator(self, field: str) -> Any:
        if field == "bias":
            of_n_h = np.zeros(self.cells, self.bias.dtype) if self.bias_rn is None else self.bias_rn
            return np.concatenate([self.bias, of_n_h[None]])
        name, _, part = field.partition("_")
        value = getattr(self, f"{name}_{part[0]}")
        gates, places = self.places[f"w_{part}"]
        rows = np.zeros((4, *np.shape(value)[1:]), np.asarray(value).dtype)
        rows[places] = np.asarray(value)[gates]
        return rows if isinstance(value, np.ndarray) else tuple(rows.tolist())

    @property
    def places(self) -> dict[str, tuple[list[int], list[int]]]:
        """Of a GRU, by matrix: its gates, and their accumulators."""
        return GRU_PLACES if self.reset_after else GRU_BEFORE_PLACES

    def row_sums(self) -> Int64Array:
        """Summed magnitudes (accumulators, H) of each row's weights as they meet the accumulators, aligned; (1, P) of a
        dense layer."""
        if self.kind is DENSE:
            return _row_sums(self.w_x) << self.align_x[0]
        sums: Int64Array = np.zeros((len(self.accumulators), self.cells), np.int64)
        places = list(range(len(self.gates)))
        sums[places] += _row_sums(self.w_x) << np.reshape(self.align_x, (-1, 1))
        if "n_h" in self.accumulators:
            places = [0, 1, 3]
        sums[places] += _row_sums(self.w_r) << np.reshape(self.align_r, (-1, 1))
        return sums


@dataclass(frozen=True, eq=False, kw_only=True)
class QuantizedModel:
    """Layers in the order in which data meets them, with the tables that they share.

    Attributes
    ----------
    layers : tuple of `QuantizedLayer`
    config : `openese.rtl.config.Config`
        The machine that it is quantized for. It runs on every machine with the same widths: `check_fits`.
    sigmoid_range, tanh_range : int
        A table spans ``[-2**range, 2**range)``.
    sigmoid_table, tanh_table : int32 (2048,)
        Samples in Q16.
    head : `Dense`, optional
        In floating point, for the host.
    report : `Report`, optional
        The quantizer's measurements.
    batch_first : bool
        As of `Model`.

    Raises
    ------
    QuantizeError
        A rule is broken. The message names the layer, the tensor or gate, the rule, and the value.
    """

    layers: tuple[QuantizedLayer, ...]
    config: Config
    sigmoid_range: int
    tanh_range: int
    sigmoid_table: IntArray
    tanh_table: IntArray
    head: Dense | None = None
    report: Report | None = None
    name: str = "model"
    batch_first: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        if not self.layers:
            raise QuantizeError(f"model {self.name!r} has no layers")
        check_cells(self.layers, self.config)
        for function in ("sigmoid", "tanh"):
            self._check_table(function)
        for layer, formats in zip(self.layers, self.formats, strict=True):
            _check_values(layer, self.config)
            _check_formats(layer, formats, self.config)
            _check_sums(layer, self.config)
        for before, layer in zip(self.layers, self.layers[1:], strict=False):
            if layer.inputs != before.outputs:
                raise QuantizeError(f"layer {layer.name!r} has {layer.inputs} inputs, layer {before.name!r} "
                                    f"before it {before.outputs} outputs")
            if layer.x_exponents:
                raise QuantizeError(f"layer {layer.name!r} must have no x_exponents: its input is layer "
                                    f"{before.name!r}")
            if layer.x_fraction != before.y_fraction:
                raise QuantizeError(f"layer {layer.name!r} x_fraction {layer.x_fraction} must be y_fraction "
                                    f"{before.y_fraction} of layer {before.name!r}")

    def _check_table(self, function: str) -> None:
        table = _integers("model", f"{function}_table", getattr(self, f"{function}_table"))
        object.__setattr__(self, f"{function}_table", table)
        size = 1 << self.config.table_index_bits
        if table.shape != (size,):
            raise QuantizeError(f"{function}_table: expected shape ({size},), found {table.shape}")
        _check_width("model", f"{function}_table", table, self.config.table_bits)
        table_range = getattr(self, f"{function}_range")
        if table_range not in range(self.config.argument_bits):
            raise QuantizeError(f"{function}_range must be between 0 and {self.config.argument_bits - 1}, "
                                f"not {table_range}")

    @cached_property
    def formats(self) -> tuple[Formats, ...]:
        """`Formats` of each layer."""
        return tuple(derived_formats(layer, self.config, self.sigmoid_range, self.tanh_range)
                     for layer in self.layers)

    @property
    def inputs(self) -> int:
        """I of the first layer."""
        return self.layers[0].inputs

    @property
    def input_fractions(self) -> Int64Array:
        """Fraction bits of the machine's integers of each input (I,)."""
        first = self.layers[0]
        return first.x_fraction + np.asarray(first.x_exponents or (0,) * first.inputs, np.int64)

    @property
    def outputs(self) -> int:
        """P of the last layer."""
        return self.layers[-1].outputs

    def check_fits(self, config: Config) -> None:
        """Refuse a machine with other number formats than the model's, or without cells of its kind.

        Raises
        ------
        QuantizeError
            A width differs, or a kind of cell is missing. The message names it.
        """
        check_cells(self.layers, config)
        for width in _WIDTHS:
            if getattr(config, width) != getattr(self.config, width):
                raise QuantizeError(f"model {self.name!r} was quantized for {width} "
                                    f"{getattr(self.config, width)}; config {config.name!r} has "
                                    f"{getattr(config, width)}")

    def quantize_input(self, x: ArrayLike) -> tuple[Int64Array, int]:
        """x (..., I) as the machine's integers at ``x_fraction`` and ``x_exponents``, and the number that saturate.

        Raises
        ------
        QuantizeError
            A value is not a finite number. The message has its index.
        """
        real = np.asarray(x, np.float64)
        if not np.isfinite(real).all():
            index = [int(n) for n in np.argwhere(~np.isfinite(real))[0]]
            raise QuantizeError(f"x{index}: {real[tuple(index)]} is not a finite number")
        exact = to_fixed(real, self.input_fractions)
        values = saturate(exact, self.config.activation_bits)
        return values, int(np.count_nonzero(values != exact))

    def quantize_state(self, state: Sequence[LayerState]) -> tuple[list[ChannelState], int]:
        """The real c (..., H) and y (..., P) of each layer as the machine's integers, and how many of them saturate."""
        config, saturated = self.config, 0
        integers = []
        for held, layer, formats in zip(state, self.layers, self.formats, strict=True):
            c, y = to_fixed(held.c, formats.cell_fraction), to_fixed(held.y, layer.y_fraction)
            integers.append(ChannelState(saturate(c, config.cell_bits), saturate(y, config.activation_bits)))
            saturated += int(np.count_nonzero(integers[-1].c != c) + np.count_nonzero(integers[-1].y != y))
        return integers, saturated

    def dequantize_state(self, state: Sequence[ChannelState]) -> State:
        """Integers c (..., H) and y (..., P) of each layer as real numbers."""
        return tuple(LayerState(np.ldexp(np.asarray(c, np.float64), -formats.cell_fraction),
                                np.ldexp(np.asarray(y, np.float64), -layer.y_fraction))
                     for (c, y), layer, formats in zip(state, self.layers, self.formats, strict=True))

    def dequantize_output(self, y: ArrayLike) -> Float64Array:
        """The last layer's integers y (..., P) as real numbers."""
        return np.ldexp(np.asarray(y, np.float64), -self.layers[-1].y_fraction)

    def floating_point(self) -> Model:
        """The model with exactly the weights that the integers mean."""
        return Model(layers=tuple(_real_layer(layer, formats)
                                  for layer, formats in zip(self.layers, self.formats, strict=True)),
                     head=self.head, name=self.name, batch_first=self.batch_first)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an ``.npz``: one array per tensor, everything else as JSON under ``manifest``."""
        arrays: dict[str, ArrayLike] = {"manifest": json.dumps(self._manifest()),
                                        "sigmoid_table": self.sigmoid_table, "tanh_table": self.tanh_table}
        for number, layer in enumerate(self.layers):
            for tensor in TENSORS:
                if getattr(layer, tensor) is not None:
                    arrays[f"layer{number}.{tensor}"] = getattr(layer, tensor)
        if self.head is not None:
            arrays.update(self.head.arrays())
        with replacing(path) as file:
            np.savez(file, **cast(Any, arrays))

    def _manifest(self) -> dict[str, Any]:
        layers = [{field.name: getattr(layer, field.name) for field in dataclasses.fields(layer)
                   if field.name not in TENSORS and (field.name not in _LATER or
                                                     getattr(layer, field.name) != field.default)}
                  for layer in self.layers]
        return {"openese-quantized": _VERSION, "name": self.name, "config": self.config.fields(),
                "sigmoid_range": self.sigmoid_range, "tanh_range": self.tanh_range, "layers": layers,
                "report": None if self.report is None else self.report.to_dict(),
                **({"batch_first": True} if self.batch_first else {})}

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "QuantizedModel":
        """Read what `save` wrote; all rules are checked anew.

        Raises
        ------
        QuantizeError
            For a file that is not one of these, or breaks a rule.
        OSError
            If the file cannot be read.
        """
        try:
            return cls._from_arrays(read_npz(path))
        except QuantizeError:
            raise
        except ModelError as error:
            raise QuantizeError(str(error)) from None
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
            raise QuantizeError(f"{os.fspath(path)}: not a quantized model ({error})") from None

    @classmethod
    def _from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "QuantizedModel":
        manifest = json.loads(str(arrays["manifest"]))
        if manifest["openese-quantized"] != _VERSION:
            raise QuantizeError(f"quantized model has version {manifest['openese-quantized']}, "
                                f"this program reads {_VERSION}")
        layers = []
        for number, fields in enumerate(manifest["layers"]):
            keys = {tensor: f"layer{number}.{tensor}" for tensor in TENSORS}
            fields |= {tensor: arrays[key] for tensor, key in keys.items() if key in arrays}
            layers.append(QuantizedLayer(**fields))
        return cls(layers=tuple(layers), name=manifest["name"], head=Dense.from_arrays(arrays),
                   config=Config(**manifest["config"]),
                   sigmoid_range=manifest["sigmoid_range"], tanh_range=manifest["tanh_range"],
                   sigmoid_table=arrays["sigmoid_table"], tanh_table=arrays["tanh_table"],
                   report=Report.from_dict(manifest["report"]) if manifest["report"] else None,
                   batch_first=manifest.get("batch_first", False) is True)


def _real_layer(layer: QuantizedLayer, formats: Formats) -> Layer:
    def real(values: IntArray | None, *fractions: int | None) -> Float64Array | None:
        if values is None or not fractions:
            return None
        scales = np.reshape([-(fraction or 0) for fraction in fractions], (-1, *[1] * (values.ndim - 1)))
        return np.ldexp(values.astype(np.float64), scales)

    real_arrays: dict[str, Any] = {
        "w_x": real(layer.w_x, *layer.w_x_fraction), "w_r": real(layer.w_r, *layer.w_r_fraction),
        "bias": real(layer.bias, *formats.argument_fraction[:len(layer.gates)]),
        "bias_rn": real(layer.bias_rn, formats.argument_fraction[-1]),
        "peephole": real(layer.peephole, formats.peephole_fraction), "w_ym": real(layer.w_ym, layer.w_ym_fraction)}
    if layer.x_exponents:
        real_arrays["w_x"] = np.ldexp(real_arrays["w_x"], layer.x_exponents)
    return Layer(name=layer.name, g_activation=layer.g_activation, cell=layer.cell, activation=layer.activation,
                 reset_after=layer.reset_after, **real_arrays)


def derived_formats(layer: QuantizedLayer, config: Config, sigmoid_range: int, tanh_range: int) -> Formats:
    """The layer's `Formats`, from its other formats and the ranges of the tables."""
    of_sigmoid, of_tanh = (argument_fraction(config, r) for r in (sigmoid_range, tanh_range))
    sums = tuple(w + align + layer.x_fraction
                 for w, align in zip(layer.w_x_fraction, layer.align_x, strict=True))
    if layer.kind is GRU:
        arguments: tuple[int, ...] = (of_sigmoid, of_sigmoid, of_tanh)
        if layer.reset_after:
            sums = (*sums, layer.w_r_fraction[-1] + layer.align_r[-1] + layer.y_fraction)
            arguments = (*arguments, of_tanh)
        return Formats(sums, arguments, tuple(s - a for s, a in zip(sums, arguments, strict=True)),
                       config.hidden_fraction, 0, 0, 0, None)
    if layer.kind is DENSE:
        argument = {"sigmoid": of_sigmoid, "tanh": of_tanh}.get(layer.activation, layer.y_fraction)
        return Formats(sums, (argument,), (sums[0] - argument,), 0, 0, 0, 0, None)
    of_g = of_tanh if layer.g_activation == "tanh" else of_sigmoid
    arguments = (of_sigmoid, of_sigmoid, of_g, of_sigmoid)
    cell_fraction = config.cell_fraction_max - layer.cell_select
    peephole_shift = config.peephole_shift_base + layer.peephole_select
    output_shift = None
    if layer.w_ym_fraction is not None:
        output_shift = layer.w_ym_fraction + m_fraction(config) - layer.y_fraction
    return Formats(sums, arguments, tuple(s - a for s, a in zip(sums, arguments, strict=True)),
                   cell_fraction, cell_fraction + config.cell_argument_left - of_tanh,
                   peephole_shift, peephole_shift - cell_fraction + of_sigmoid, output_shift)


def _check_width(owner: str, tensor: str, values: IntArray, bits: int, symmetric: bool = False) -> None:
    high = (1 << (bits - 1)) - 1
    low = -high if symmetric else -high - 1
    if values.min() < low or values.max() > high:
        index = [int(n) for n in np.argwhere((values < low) | (values > high))[0]]
        raise QuantizeError(f"{owner} {tensor}{index}: {values[tuple(index)]} is not within {low}..{high}")


def _check_in(owner: str, name: str, value: int, allowed: range) -> None:
    if value not in allowed:
        raise QuantizeError(f"{owner} {name} must be between {allowed[0]} and {allowed[-1]}, not {value}")


def _check_values(layer: QuantizedLayer, config: Config) -> None:
    owner = f"layer {layer.name!r}"
    for tensor in ("w_x", "w_r", "w_ym"):
        if tensor in layer.kind.tensors and getattr(layer, tensor) is not None:
            _check_width(owner, tensor, getattr(layer, tensor), config.weight_bits, symmetric=True)
    _check_width(owner, "bias", layer.bias, config.argument_bits)
    if layer.bias_rn is not None:
        _check_width(owner, "bias_rn", layer.bias_rn, config.argument_bits)
    if layer.peephole is not None:
        _check_width(owner, "peephole", layer.peephole, config.peephole_bits)


def unsupported(kind: CellKind, reset_after: bool = True, config: Config | None = None) -> str | None:
    """Why a machine does not compute layers of a kind; None if it does, or if there is no ``config``."""
    if config is None or (cells := cells_with(config.cells, kind, reset_after)) == config.cells:
        return None
    which = "" if reset_after else " with the reset before the product"
    return (f"{kind.a_title}{which}, but config {config.name!r} has cells {config.cells!r}. Take a machine with cells "
            f"{cells!r}")


def cells_with(cells: str, kind: CellKind, reset_after: bool = True) -> str:
    """The ``cells`` of a machine that has layers of a kind too."""
    names = {*cells.split("+"), kind.name, *([] if reset_after else ["gru_before"])}
    return "+".join(name for name in _CELL_NAMES if name in names)


def check_cells(layers: Sequence[LayerTensors], config: Config) -> None:
    """Refuse a machine without the layers' kinds of cells.

    Raises
    ------
    QuantizeError
        A layer is of a kind that the machine cannot compute.
    """
    for layer in layers:
        problem = unsupported(layer.kind, layer.reset_after, config)
        if problem is not None:
            raise QuantizeError(f"layer {layer.name!r}: {problem}")


def _check_formats(layer: QuantizedLayer, formats: Formats, config: Config) -> None:
    owner = f"layer {layer.name!r}"
    for number, gate in enumerate(layer.gates):
        _check_in(owner, f"align_x[{gate}]", layer.align_x[number], range(1 << config.align_bits))
        if layer.kind is DENSE:
            continue
        _check_in(owner, f"align_r[{gate}]", layer.align_r[number], range(1 << config.align_bits))
        of_x = formats.accumulator_fraction[number]
        of_r = layer.w_r_fraction[number] + layer.align_r[number] + layer.y_fraction
        if of_x != of_r and gate in layer.accumulators:
            raise QuantizeError(f"{owner} gate {gate}: products of x have {of_x} fraction bits, "
                                f"those of y {of_r}; they must agree")
    for gate, shift in zip(layer.accumulators, formats.gate_shift, strict=True):
        _check_in(owner, f"gate_shift[{gate}]", shift, SHIFTS)
    for name in ("cell_select", "peephole_select"):
        select = getattr(layer, name)
        if layer.kind is not LSTM and select:
            raise QuantizeError(f"{owner} {name} must be 0 of {layer.kind.a_title}, not {select}")
        _check_in(owner, name, select, SELECTS)
    _check_in(owner, "cell_argument_shift", formats.cell_argument_shift, SHIFTS)
    if formats.output_shift is not None:
        _check_in(owner, "output_shift", formats.output_shift, SHIFTS)
    elif layer.y_fraction != m_fraction(config) and (layer.kind is not DENSE or layer.activation in TABLES):
        what = "without projection" if layer.kind is not DENSE else f"with {layer.activation}"
        raise QuantizeError(f"{owner} y_fraction must be {m_fraction(config)} {what}, "
                            f"not {layer.y_fraction}")


def row_limit(config: Config) -> int:
    """The bound on the summed magnitudes of a row's aligned weights. Below it, no activations overflow the row."""
    return 1 << (config.accumulator_bits - config.activation_bits)


def _row_sums(weights: IntArray) -> Int64Array:
    """Summed magnitudes along the last axis in 64 bits, matrix by matrix to save memory."""
    sums = np.empty(weights.shape[:-1], np.int64)
    for index in np.ndindex(weights.shape[:-2]):
        sums[index] = np.abs(weights[index].astype(np.int64)).sum(axis=-1)
    return sums


def _check_sums(layer: QuantizedLayer, config: Config) -> None:
    limit = row_limit(config)
    sums = [(f"gate {gate}", rows) for gate, rows in zip(layer.accumulators, layer.row_sums(), strict=True)]
    if layer.w_ym is not None:
        sums.append(("w_ym", _row_sums(layer.w_ym)))
    for name, rows in sums:
        if rows.max() >= limit:
            raise QuantizeError(f"layer {layer.name!r} {name} row {rows.argmax()}: weights sum to "
                                f"{rows.max()}, which can overflow {config.accumulator_bits}-bit "
                                f"accumulators (must be below {limit})")
