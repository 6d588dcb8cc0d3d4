# SPDX-License-Identifier: Apache-2.0
"""The reference: the machine's integers in numpy, bit for bit as in the RTL, vectorised over channels.

All sums are exact. Products are summed in floating point, which is exact because a `QuantizedModel` keeps every partial
sum below 2**53. Everything else is 64-bit integers.

Sizes: channels C, inputs I, cells H, outputs P.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from openese.rtl.config import Config
from openese.rtl.elementwise import CellStep, Slice
from openese.rtl.fixed import round_shift, saturate
from openese.rtl.program import ACTIVATIONS
from openese.sw.model.arrays import Float64Array, Int64Array, IntArray
from openese.sw.model.layers import DENSE, GRU
from openese.sw.model.quantized import Formats, QuantizedLayer, QuantizedModel
from openese.sw.model.state import ChannelState
from openese.sw.reference.products import Weights, multiply, prepare

__all__ = ["AccumulatorOverflow", "Observer", "Reference"]

BoolArray = NDArray[np.bool_]

Observer = Callable[[int, str, Int64Array], None]
"""Called with a layer's number, ``x``, ``z`` (table arguments, (G, C, H)), ``c``, ``m`` or ``y``, and its value; for a
GRU, whose c is h and whose m is y, with ``n_h`` or ``rh`` (C, H) too. Of a dense layer, c is (C, 0), z the sums with
their biases (1, C, P), as its table gets them if it has one, and m is y."""

_BLOCK = 256  # vectors of x in one product
_EXACT_BITS = 54  # a float64 holds every signed integer of so many bits


class AccumulatorOverflow(ValueError):
    """A sum does not fit the accumulators: an array of the model was changed after its checks."""

    def __init__(self, row: int, channel: int, total: float, bits: int) -> None:
        super().__init__(f"row {row}, channel {channel}: sum {total:.0f} does not fit {bits}-bit accumulators")
        self.row, self.channel, self.total, self.bits = row, channel, total, bits


def accumulate(weights: Weights, vectors: Int64Array, bits: int, scale: Float64Array | float = 1.0,
               addend: Float64Array | float = 0.0) -> Int64Array:
    """``(vectors @ weights.T) * scale + addend`` of integers, exactly.

    Parameters
    ----------
    weights : integers (rows, columns), from `products.prepare`
    vectors : int64 (C, columns)
    bits : int
        Width of an accumulator, at most 54.
    scale : powers of two (rows,), optional
    addend : integers (C, rows), optional
        Other products of the same rows.

    Returns
    -------
    int64 (C, rows)

    Raises
    ------
    AccumulatorOverflow
        A sum does not fit. The message names the first row and channel.
    """
    return _exact(multiply(vectors.astype(np.float64), weights) * scale + addend, bits)


def _exact(sums: Float64Array, bits: int) -> Int64Array:
    """Sums (C, rows) as integers, which must fit accumulators of ``bits``."""
    limit = 2.0 ** (bits - 1)
    if sums.max() >= limit or sums.min() < -limit:
        channel, row = np.argwhere((sums >= limit) | (sums < -limit))[0].tolist()
        raise AccumulatorOverflow(row, channel, sums[channel, row], bits)
    return sums.astype(np.int64)


class _Outcome(NamedTuple):
    """The results of one layer in one step: cells, y (C, P), and a mask of clamped outputs. Of the cells of a dense
    layer, ``m`` is y."""

    cells: CellStep
    y: Int64Array
    output_saturated: BoolArray


class _Cell:
    """One layer's arithmetic, without state."""

    def __init__(self, layer: QuantizedLayer, formats: Formats, config: Config,
                 tables: tuple[IntArray, IntArray]) -> None:
        self._config = config
        self._formats = formats
        self._w_x, self._w_r = prepare(layer.w_x), prepare(layer.w_r)
        self._scale_x, self._scale_r = (np.repeat(np.ldexp(1.0, align), layer.cells)
                                        for align in (layer.align_x, layer.align_r))
        self._gru = layer.kind is GRU
        self._reset_before = self._gru and not layer.reset_after
        self._bias = layer.by_accumulator("bias").astype(np.int64)[:, None, :]
        self._peephole = None if layer.peephole is None else layer.peephole.astype(np.int64)
        self._w_ym = None if layer.w_ym is None else prepare(layer.w_ym)
        self._tables = tables
        self._settings = {
            "shift": (*formats.gate_shift, 0)[:4], "cell_argument_shift": formats.cell_argument_shift,
            "peephole_select": layer.peephole_select, "cell_select": layer.cell_select,
            "g_sigmoid": layer.g_activation == "sigmoid", "gru": self._gru}

    def input_products(self, x: Int64Array) -> Float64Array:
        """The sums (n, G * H) that x (n, I) adds to the accumulators of the gates."""
        return multiply(x.astype(np.float64), self._w_x) * self._scale_x

    def step(self, products: Float64Array, before: Int64Array, y: Int64Array) -> _Outcome:
        """One step from `input_products` (C, G * H) and the state: ``before``, the old c (C, H), and the old y
        (C, P)."""
        bits = self._config.accumulator_bits
        if self._reset_before:
            cells = self._reset_first(products, before, y)
            return _Outcome(cells, *self._project(cells.m))
        if self._gru:
            r_and_z = 2 * before.shape[1]
            of_n = _exact(products[:, r_and_z:], bits)
            sums = accumulate(self._w_r, y, bits, self._scale_r,
                              np.pad(products[:, :r_and_z], ((0, 0), (0, before.shape[1]))))
            sums = np.concatenate([sums[:, :r_and_z], of_n, sums[:, r_and_z:]], axis=1)
        else:
            sums = accumulate(self._w_r, y, bits, self._scale_r, products)
        gates = sums.reshape(len(y), 4, -1).transpose(1, 0, 2)
        cells = Slice.model(self._config, gates, before, self._bias, self._peephole, self._settings, *self._tables)
        return _Outcome(cells, *self._project(cells.m))

    def _reset_first(self, products: Float64Array, before: Int64Array, y: Int64Array) -> CellStep:
        """`step` of a GRU with the reset before the product: its cells."""
        config, r_and_z = self._config, 2 * before.shape[1]
        bits, scale = config.accumulator_bits, self._scale_r
        gates = accumulate(self._w_r[:r_and_z], y, bits, scale[:r_and_z], products[:, :r_and_z])
        gates = gates.reshape(len(y), 2, -1).transpose(1, 0, 2)
        rh = Slice.model_reset(config, gates[0], before, self._bias[0], self._formats.gate_shift[0],
                               self._tables[0])
        of_n = accumulate(self._w_r[r_and_z:], rh, bits, scale[r_and_z:], products[:, r_and_z:])
        sums = np.stack([*gates, of_n, np.zeros_like(of_n)])
        cells = Slice.model(config, sums, before, self._bias, None, self._settings, *self._tables)
        return cells._replace(n_h=None, rh=rh)

    def _project(self, m: Int64Array) -> tuple[Int64Array, BoolArray]:
        if self._w_ym is None or self._formats.output_shift is None:
            return m, np.zeros(m.shape, bool)
        sums = accumulate(self._w_ym, m, self._config.accumulator_bits)
        exact = round_shift(sums, self._formats.output_shift)
        y = saturate(exact, self._config.activation_bits)
        return y, y != exact


class _Affine:
    """A dense layer's arithmetic: as `_Cell`."""

    def __init__(self, layer: QuantizedLayer, formats: Formats, config: Config,
                 tables: tuple[IntArray, IntArray]) -> None:
        self._config = config
        self._w_x, self._scale_x = prepare(layer.w_x), 2.0 ** layer.align_x[0]
        self._bias = layer.bias[0].astype(np.int64)
        self._tables = tables
        self._settings = {"shift": formats.gate_shift, "activation": ACTIVATIONS.index(layer.activation)}

    def input_products(self, x: Int64Array) -> Float64Array:
        """The sums (n, P) of x (n, I)."""
        return multiply(x.astype(np.float64), self._w_x) * self._scale_x

    def step(self, products: Float64Array, before: Int64Array, y: Int64Array) -> _Outcome:
        """One step from `input_products` (C, P). ``before`` and ``y``, the state, are (C, 0)."""
        sums = _exact(products, self._config.accumulator_bits)
        z, y, saturated = Slice.model_dense(self._config, sums, self._bias, self._settings, *self._tables)
        return _Outcome(CellStep(z[None], before, y, np.zeros(before.shape, bool)), y, saturated)


def _ignore(layer: int, tensor: str, values: Int64Array) -> None:
    pass


class Reference:
    """The integer model of a machine that runs a `QuantizedModel`: the same words as the hardware.

    Parameters
    ----------
    model : `QuantizedModel`
    channels : int
        Voices side by side.
    tables : pair of integers, optional
        Samples of sigmoid and tanh instead of the model's, for comparisons: a power of two of each.
    banks : int
        Banks of voices, B. Voice v is channel v % C of bank v // C.

    Attributes
    ----------
    c : list of int64 (B * C, H), y : list of int64 (B * C, P)
        The state of each layer, voice by voice. Of a dense layer, both are (B * C, 0).
    layer_saturations : list of dict
        For each layer, the numbers of clamped values of active channels: ``cell``, and ``output`` of the projection.
        m is clamped by design, where 1.0 becomes the largest number; it does not count.

    Raises
    ------
    ValueError
        There is less than one channel or bank, or the accumulators have more than 54 bits.
    """

    def __init__(self, model: QuantizedModel, channels: int, tables: tuple[IntArray, IntArray] | None = None,
                 banks: int = 1) -> None:
        if min(channels, banks) < 1:
            raise ValueError(f"channels and banks must be at least 1, not {channels} and {banks}")
        if model.config.accumulator_bits > _EXACT_BITS:
            raise ValueError(f"accumulator_bits must be at most {_EXACT_BITS} for an exact reference, "
                             f"not {model.config.accumulator_bits}")
        self.model = model
        self.channels = channels
        self.banks = banks
        self.c = [np.zeros((banks * channels, layer.cells), np.int64) for layer in model.layers]
        self.y = [np.zeros((banks * channels, layer.feedback), np.int64) for layer in model.layers]
        self.layer_saturations = [{"cell": 0, "output": 0} for _ in model.layers]
        tables = tables or (model.sigmoid_table, model.tanh_table)
        self._layers = [(_Affine if layer.kind is DENSE else _Cell)(layer, formats, model.config, tables)
                        for layer, formats in zip(model.layers, model.formats, strict=True)]

    @property
    def saturations(self) -> dict[str, int]:
        """The sum of `layer_saturations` over the layers."""
        return {name: sum(counts[name] for counts in self.layer_saturations) for name in ("cell", "output")}

    def get_state(self, voice: int) -> list[ChannelState]:
        """A copy of the state of one voice, layer by layer."""
        return [ChannelState(c[voice].copy(), y[voice].copy())
                for c, y in zip(self.c, self.y, strict=True)]

    def get_states(self, voices: Sequence[int]) -> list[ChannelState]:
        """A copy of the states of some voices, layer by layer: c (voices, H) and y (voices, P)."""
        return [ChannelState(c[voices], y[voices]) for c, y in zip(self.c, self.y, strict=True)]

    def set_state(self, voice: int, state: Sequence[ChannelState]) -> None:
        """Replace the state of one voice.

        Raises
        ------
        ValueError
            The state has the wrong shape, or a number does not fit.
        """
        self._set(voice, (), state)

    def set_states(self, voices: Sequence[int], states: Sequence[ChannelState]) -> None:
        """Replace the states of some voices: c (voices, H) and y (voices, P) of each layer.

        Raises
        ------
        ValueError
            The states have the wrong shape, or a number does not fit.
        """
        self._set(voices, (len(voices),), states)

    def _set(self, voices: int | Sequence[int], shape: tuple[int, ...], state: Sequence[ChannelState]) -> None:
        if len(state) != len(self._layers):
            raise ValueError(f"state: expected {len(self._layers)} layers, found {len(state)}")
        config = self.model.config
        checked = [
            ChannelState(
                _checked(f"c of layer {layer.name!r}", c, (*shape, layer.cells), config.cell_bits),
                _checked(f"y of layer {layer.name!r}", y, (*shape, layer.feedback), config.activation_bits))
            for layer, (c, y) in zip(self.model.layers, state, strict=True)]
        for number, (c, y) in enumerate(checked):
            self.c[number][voices], self.y[number][voices] = c, y

    def step(self, x: ArrayLike, active: ArrayLike | None = None, reset: ArrayLike | None = None,
             observe: Observer = _ignore, bank: int = 0) -> Int64Array:
        """Compute one step of all layers.

        Parameters
        ----------
        x : integers (C, I)
            Activations at the first layer's ``x_fraction``: see `QuantizedModel.quantize_input`.
        active : bool (C,), optional
            Channels that take the step; the others keep their state and output zeros. All by default.
        reset : bool (C,), optional
            Channels, active or not, whose state becomes zero before the step. None by default.
        observe : `Observer`, optional
            Gets the inner values of every layer, for inactive channels too.
        bank : int
            The bank of the voices.

        Returns
        -------
        y : int64 (C, P)
            Output of the last layer.

        Raises
        ------
        ValueError
            An array has the wrong shape, an activation does not fit ``activation_bits``, or there is no such bank.
        """
        now = _checked("x", x, (self.channels, self.model.inputs), self.model.config.activation_bits)
        return self._step(now, self._layers[0].input_products(now), self._flags("active", active, True),
                          self._flags("reset", reset, False), observe, *self._bank(bank))

    def _bank(self, bank: int) -> tuple[list[Int64Array], list[Int64Array]]:
        """Views of c and y of a bank, layer by layer."""
        if not 0 <= bank < self.banks:
            raise ValueError(f"bank must be from 0 to {self.banks - 1}, not {bank}")
        voices = slice(bank * self.channels, (bank + 1) * self.channels)
        return [c[voices] for c in self.c], [y[voices] for y in self.y]

    def _step(self, now: Int64Array, products: Float64Array, running: BoolArray, cleared: BoolArray,
              observe: Observer, c: list[Int64Array], y: list[Int64Array]) -> Int64Array:
        """`step` with checked arguments, and the first layer's `input_products`; ``c`` and ``y`` are changed."""
        for number, cell in enumerate(self._layers):
            c[number][cleared] = 0
            y[number][cleared] = 0
            outcome = cell.step(products if number == 0 else cell.input_products(now), c[number], y[number])
            for tensor, values in (("x", now), ("z", outcome.cells.arguments), ("c", outcome.cells.cell),
                                   ("m", outcome.cells.m), ("y", outcome.y)):
                observe(number, tensor, values)
            for tensor, held in (("n_h", outcome.cells.n_h), ("rh", outcome.cells.rh)):
                if held is not None:
                    observe(number, tensor, held)
            now = outcome.y
            c[number][running] = outcome.cells.cell[running]
            y[number][running] = outcome.y[running][:, :y[number].shape[1]]
            counts = self.layer_saturations[number]
            counts["cell"] += int(np.count_nonzero(outcome.cells.saturated[running]))
            counts["output"] += int(np.count_nonzero(outcome.output_saturated[running]))
        return np.where(running[:, None], now, 0)

    def run(self, frames: ArrayLike, active: ArrayLike | None = None, reset: ArrayLike | None = None,
            observe: Observer = _ignore, banks: ArrayLike = 0) -> Int64Array:
        """Compute steps for frames (T, C, I) with masks (T, C) and ``banks`` (T,), from the present state on; see
        `step`.

        Returns
        -------
        y : int64 (T, C, P)
        """
        x = np.asarray(frames)
        if x.ndim != 3:
            raise ValueError(f"frames: expected shape (T, {self.channels}, {self.model.inputs}), "
                             f"found {x.shape}")
        x = _checked("frames", x, (len(x), self.channels, self.model.inputs), self.model.config.activation_bits)
        running, cleared = (np.broadcast_to(default if mask is None else np.asarray(mask, bool), x.shape[:2])
                            for mask, default in ((active, True), (reset, False)))
        numbers = np.broadcast_to(np.asarray(banks), len(x))
        changes = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(x)]
        parts = [self._run_bank(int(numbers[start]), x[start:stop], running[start:stop], cleared[start:stop], observe)
                 for start, stop in itertools.pairwise(changes) if stop > start]
        return np.concatenate([np.zeros((0, self.channels, self.model.outputs), np.int64), *parts])

    def _run_bank(self, bank: int, x: Int64Array, running: BoolArray, cleared: BoolArray,
                  observe: Observer) -> Int64Array:
        """`run` of frames of one bank, with checked arguments."""
        of_bank = self._bank(bank)
        used = running.any(axis=0)
        if observe is not _ignore or used.all():
            return self._run(x, running, cleared, observe, *of_bank)
        # Channels that are never active are not computed.
        for held in itertools.chain(*of_bank):
            held[cleared.any(axis=0) & ~used] = 0
        outputs = np.zeros((len(x), self.channels, self.model.outputs), np.int64)
        if not used.any():
            return outputs
        c, y = ([held[used] for held in state] for state in of_bank)
        try:
            outputs[:, used] = self._run(x[:, used], running[:, used], cleared[:, used], observe, c, y)
        except AccumulatorOverflow as error:
            channel = int(np.flatnonzero(used)[error.channel])
            raise AccumulatorOverflow(error.row, channel, error.total, error.bits) from None
        for after, held in zip((*c, *y), itertools.chain(*of_bank), strict=True):
            held[used] = after
        return outputs

    def _run(self, x: Int64Array, running: BoolArray, cleared: BoolArray, observe: Observer, c: list[Int64Array],
             y: list[Int64Array]) -> Int64Array:
        """`run` of some channels with checked arguments; their states ``c`` and ``y`` are changed."""
        steps, channels, inputs = x.shape
        outputs = np.empty((steps, channels, self.model.outputs), np.int64)
        block = max(1, _BLOCK // channels)
        for start in range(0, steps, block):
            part = x[start:start + block]
            ahead = self._layers[0].input_products(part.reshape(-1, inputs))
            for t, products in enumerate(ahead.reshape(len(part), channels, -1), start):
                outputs[t] = self._step(x[t], products, running[t], cleared[t], observe, c, y)
        return outputs

    def _flags(self, name: str, values: ArrayLike | None, default: bool) -> BoolArray:
        flags = np.full(self.channels, default) if values is None else np.asarray(values, bool)
        if flags.shape != (self.channels,):
            raise ValueError(f"{name}: expected shape ({self.channels},), found {flags.shape}")
        return flags


def _checked(name: str, values: ArrayLike, shape: tuple[int, ...], bits: int) -> Int64Array:
    array = np.asarray(values)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name}: expected integers, found type {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, found {array.shape}")
    limit = 1 << (bits - 1)
    if array.size and (array.min() < -limit or array.max() >= limit):
        raise ValueError(f"{name}: values must be within {-limit}..{limit - 1}, "
                         f"found {array.min()}..{array.max()}")
    return array.astype(np.int64)
