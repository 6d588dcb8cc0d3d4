# SPDX-License-Identifier: Apache-2.0
"""The parts of a slice that serve all its lanes: memories, peephole weights, choices of shifts."""

from typing import Any, NamedTuple

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, memory

from openese.rtl.attributes import LUT_RAM, block_ram
from openese.rtl.elementwise.settings import Kind, Stages, rows_ahead

__all__ = ["Cells", "ElemMulShifts", "Exchange", "Exchanges", "HiddenSelects", "Parameters", "PreActivationShifts",
           "cell_memory", "delayed", "elem_mul_shifts", "exchanges", "hidden_selects", "parameter_memory",
           "pre_activation_shifts", "words_per_line"]


class Cells(NamedTuple):
    """The cell states: ``read`` of every lane of the beat at stage ``total``, and the port that ``write``s them. With
    ``forward``, a stage before they are written: the states that are ``coming``, and the lanes that ``comes`` names.
    """

    read: Any
    write: Any
    coming: Any = None
    comes: Any = None


class Parameters(NamedTuple):
    """Biases and peepholes of the PE rows of a beat.

    ``words`` are at stage ``total``; ``weights`` are the peepholes in them, shifted left as far as a product's shift is
    not a multiple of three; ``right`` is 0, 1 or 2 for the rest of that shift.
    """

    words: Any
    weights: list[Any]
    right: Signal


class PreActivationShifts(NamedTuple):
    """Control of the shift: ``of_cell`` says, at stage ``total``, that the beat is for tanh c. ``first``, ``second``
    and ``third`` are the shifts left at that stage and at the two behind it.
    """

    of_cell: Signal
    first: Signal
    second: Signal
    third: Signal


class ElemMulShifts(NamedTuple):
    """``lift`` is the left shift of a gate before it is kept; ``product`` chooses the shift of the product."""

    lift: Signal
    product: Signal


class Exchange(NamedTuple):
    """One value of every lane that one gate writes and another reads."""

    written: Any
    read: Any


class Exchanges(NamedTuple):
    """``kept``: g for i, and tanh c for o; n for z. ``old``: the old c for f; the old h for z, and for r if the reset
    is before the product. ``added``: i . g for f; n for z. Of a GRU, if the machine has them: ``recurrent``: the sum
    n_h for r; ``gated``: r . n_h for n_x.
    """

    kept: Exchange
    old: Exchange
    added: Exchange
    recurrent: Exchange | None = None
    gated: Exchange | None = None


class HiddenSelects(NamedTuple):
    """What a machine with GRUs takes in front of the multiplier of ElemMul, at stage ``gate - 1``: nothing (``blank``),
    n_h (``recurrent``), or the old state less n (``less_n``)."""

    blank: Signal
    recurrent: Signal
    less_n: Signal


def hidden_selects(m, config, control, settings):
    """`HiddenSelects` of each beat."""
    kind = control[Stages.of(config).gate - 2].kind
    is_r = kind == Kind.R
    blank, recurrent, less_n = (Signal(name=name, reset_less=True) for name in ("blank", "recurrent", "less_n"))
    m.d.sync += [
        blank.eq((kind != Kind.Z) & ~(settings.gru & (kind == Kind.R))),
        recurrent.eq(is_r & ~settings.reset_before if config.gru_before else is_r),
        less_n.eq(settings.gru & (kind == Kind.Z)),
    ]
    return HiddenSelects(blank, recurrent, less_n)


def delayed(m: Module, value, cycles, *, reset_less=True):
    """``value``, ``cycles`` later."""
    for k in range(cycles):
        after = Signal(value.shape(), name=f"delayed{k}", reset_less=reset_less)
        m.d.sync += after.eq(value)
        value = after
    return value


def words_per_line(config):
    """PE rows whose parameters a slice takes up in one cycle."""
    return max(1, config.slice_width // config.channels)


def cell_memory(m, config, control, settings):
    """The cell state: read beside the adder tree, written at the last stage."""
    stages = Stages.of(config)
    first, last = control[stages.read], control[stages.cell]
    beat_bits = (config.beats - 1).bit_length()
    depth = config.banks * config.cell_rows * config.beats
    bank = settings.bank if config.banks > 1 else Const(0, 0)
    m.submodules.cells = cells = memory.Memory(
        shape=data.ArrayLayout(signed(config.cell_bits), config.slice_width), depth=depth, init=[],
        attrs=block_ram(depth))
    _cell_write = cells.write_port(granularity=1)  # the name that it has in the Verilog
    read = cells.read_port()
    m.d.comb += [
        read.addr.eq(Cat(first.beat[:beat_bits], first.row, bank)),
        read.en.eq(1),
        _cell_write.addr.eq(Cat(last.beat[:beat_bits], last.row, bank)),
    ]
    if not stages.early:
        return Cells(delayed(m, read.data, 1), _cell_write)
    coming, comes = Signal(_cell_write.data.shape(), name="coming_cells"), Signal(config.slice_width, name="cells_come")
    # The states of a stage behind the write; and whether the beat that reads is that of one of the three stages.
    after, written = (Signal.like(value, name=name) for value, name in (
        (_cell_write.data, "cells_after"), (_cell_write.en, "cells_written")))
    reads = Signal(_cell_write.data.shape(), name="cells_read", reset_less=True)
    met = Signal(stages.early, name="cells_met")
    m.d.sync += [
        after.eq(_cell_write.data),
        written.eq(_cell_write.en),
        met.eq(Cat(beat.valid & beat.last & (beat.kind == Kind.F) & (beat.row == first.row) & (beat.beat == first.beat)
                   for beat in control[stages.cell - 2:stages.cell + 1])),
    ]
    for lane in range(config.slice_width):
        m.d.sync += reads[lane].eq(read.data[lane])
        for place, (comes_there, state) in reversed(list(enumerate((
                (comes, coming), (_cell_write.en, _cell_write.data), (written, after))))):
            with m.If(met[place] & comes_there[lane]):
                m.d.sync += reads[lane].eq(state[lane])
    return Cells(reads, _cell_write, coming, comes)


def parameter_memory(m, config, control, load, load_valid, peephole_select):
    """Biases and peepholes, read beside the adder tree.

    A product of a peephole is shifted right by a constant plus ``peephole_select``. Of these s bits, 2 - s % 3 are
    taken back in front of the multiplier, once for all lanes, and 2, 5 or 8 are done behind it.
    """
    stages = Stages.of(config)
    first = control[stages.read]
    per_line = words_per_line(config)
    lines = config.rows_per_slice // per_line
    m.submodules.parameters = parameters = memory.Memory(
        shape=data.ArrayLayout(config.parameter_bits, per_line), depth=config.cell_rows * 4 * lines, init=[])
    parameter_read = parameters.read_port()
    parameter_write = parameters.write_port()
    beat_bits = (config.beats - 1).bit_length()
    line_bits = (lines - 1).bit_length()
    line = first.beat[beat_bits - line_bits:beat_bits]
    m.d.comb += [
        parameter_read.addr.eq(Cat(line, first.place if config.dense else first.kind[:2], first.row)),
        parameter_read.en.eq(1),
        parameter_write.addr.eq(load.address),
        parameter_write.data.eq(load.data),
        parameter_write.en.eq(load_valid),
    ]
    ahead = parameter_read.data
    words = delayed(m, ahead, 1)
    left, right = (Signal(2) for _ in range(2))
    with m.Switch(peephole_select):
        for select in range(8):
            with m.Case(select):
                m.d.comb += [left.eq(2 - select % 3), right.eq(select // 3)]
    weights = []
    for k in range(per_line):
        weight = Signal(signed(config.peephole_bits + 2), name=f"peephole_weight{k}", reset_less=True)
        m.d.sync += weight.eq(ahead[k][config.argument_bits:].as_signed() << left)
        weights.append(weight)
    return Parameters(words, weights, right)


def pre_activation_shifts(m, config, control, settings):
    """The shift of a sum, or of c for its tanh. A quarter of the ways is left after each stage: one LUT a bit."""
    kind = control[Stages.of(config).added].kind
    of_cell = Signal(reset_less=True)
    shift2, shift3, shift4 = (Signal(bits, name=name, reset_less=True)
                              for name, bits in (("shift2", 5), ("shift3", 4), ("shift4", 2)))
    m.d.sync += [of_cell.eq(kind == Kind.CELL_TANH), shift3.eq(shift2), shift4.eq(shift3)]
    with m.Switch(kind):
        for gate in (Kind.F, Kind.G, Kind.O):
            with m.Case(gate):
                m.d.sync += shift2.eq(settings.shift[gate])
        with m.Case(Kind.CELL_TANH):
            m.d.sync += shift2.eq(settings.cell_argument_shift)
        with m.Default():
            m.d.sync += shift2.eq(settings.shift[0])
    return PreActivationShifts(of_cell, shift2, shift3, shift4)


def elem_mul_shifts(m, config, control, settings):
    """Control of the product's shift. For i . g it is one of two shifts, 4 bits apart; g's lift makes up the rest.
    There is one for o . tanh(c) and one for f . c', which is also that of all products of a GRU.
    """
    stage = Stages.of(config).gate
    select = settings.cell_select
    lift, product_shift = (Signal(2, reset_less=True) for _ in range(2))
    m.d.sync += lift.eq(Mux(control[stage - 1].kind == Kind.G, ~select[:2], 0))
    with m.Switch(control[stage + 1].kind):
        with m.Case(Kind.I):
            m.d.sync += product_shift.eq(select[2])
        with m.Case(Kind.F):
            m.d.sync += product_shift.eq(3)
        with m.Default():
            m.d.sync += product_shift.eq(2)
    if config.gru:
        with m.If(settings.gru):
            m.d.sync += product_shift.eq(3)
    return ElemMulShifts(lift, product_shift)


def _exchange(m, config, control, name, shape, write_stage, read_stage, writes, place):
    """A memory of one value of every lane a beat, at the beat's ``place``, a `Value`. Beats whose kind ``writes`` write
    at ``write_stage``. Every beat reads, for its work at ``read_stage``, before the value is written anew."""
    beat = control[write_stage]
    address = place(beat)
    m.submodules[name] = storage = memory.Memory(
        shape=data.ArrayLayout(shape, config.slice_width), depth=max(2, 1 << len(address)), init=[], attrs=LUT_RAM)
    write = storage.write_port()
    read = storage.read_port(domain="comb")
    m.d.comb += [
        write.addr.eq(address),
        write.en.eq(beat.valid & beat.last & writes(beat.kind)),
        read.addr.eq(place(control[read_stage - 1])),
    ]
    if not config.forward or config.beats > 1 or read_stage != write_stage:
        return Exchange(write.data, read.data)
    # The beat behind reads while the value is being written.
    value = Signal.like(read.data, name=f"{name}_forwarded")
    m.d.comb += value.eq(read.data)
    with m.If(write.en & (read.addr == write.addr)):
        m.d.comb += value.eq(write.data)
    return Exchange(write.data, value)


def exchanges(m, config, control, cells, settings):
    """The values that one gate leaves for the next, and the old c for f.

    One row is on its way to c while tanh(c) and o of another are computed. The old c of several rows with few beats is
    on its way to the multiplier.
    """
    stages = Stages.of(config)
    beat_bits = (config.beats - 1).bit_length()

    def place(beat):
        return beat.beat[:beat_bits]

    def place_of_part(beat):
        return Cat(place(beat), beat.kind >= Kind.O)

    def place_of_row(beat):
        return Cat(place(beat), beat.row)[:max(4, beat_bits)]

    def is_one_of(*kinds):
        return lambda kind: Cat(kind == one for one in kinds).any()

    def adds(kind):
        return Mux(settings.gru, kind == Kind.N_X, kind == Kind.I) if config.gru else is_one_of(Kind.I)(kind)

    def takes_state(kind):
        is_f = is_one_of(Kind.F)(kind)
        return is_f | (settings.reset_before & (kind == Kind.R)) if config.gru_before else is_f

    kept = _exchange(m, config, control, "kept", signed(config.table_bits + 3), stages.gate, stages.gate,
                     is_one_of(Kind.G, Kind.CELL_TANH), place_of_part)
    old = _exchange(m, config, control, "old", signed(config.cell_bits), stages.total, stages.gate,
                    takes_state, place_of_row)
    m.d.comb += old.written.eq(cells.read)
    value = data.StructLayout({"value": signed(config.cell_bits + 1), "below": 1, "clamped": 1})
    added = _exchange(m, config, control, "added_input", value, stages.product, stages.product, adds, place)
    if not config.gru:
        return Exchanges(kept, old, added)
    rows = (rows_ahead(config) - 1).bit_length()
    recurrent = _exchange(m, config, control, "recurrent", signed(config.sum_bits + 1), stages.pre_activation + 1,
                          stages.gate, is_one_of(Kind.N_H), place_of_row)
    gated = _exchange(m, config, control, "gated", signed(config.cell_bits + 1), stages.product,
                      stages.pre_activation - 2, is_one_of(Kind.R),
                      lambda beat: Cat(place(beat), beat.row[:rows]))
    return Exchanges(kept, old, added, recurrent, gated)
