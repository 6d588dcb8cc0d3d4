# SPDX-License-Identifier: Apache-2.0
"""The element-wise part of an LSTM cell, beside the PEs whose rows it drains."""

import enum
from typing import NamedTuple

import numpy as np
from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from openese.rtl.activation import Activation
from openese.rtl.attributes import DSP, LUT_RAM, block_ram
from openese.rtl.config import bits_for
from openese.rtl.fixed import Saturated, narrow_value, round_shift, round_shift_value, saturate, saturate_value
from openese.rtl.interfaces import LineWrite

__all__ = ["Kind", "Beat", "CellStep", "Settings", "SliceControl", "Slice", "slice_members"]


class Kind(enum.IntEnum):
    """What a slice does with the row it is given; the gates are numbered as their rows are interleaved."""

    I = 0       # noqa: E741
    F = 1
    G = 2
    O = 3       # noqa: E741
    CELL_TANH = 4
    PROJECTION = 5


class Beat(data.StructLayout):
    """One cycle of a slice's work: ``slice_width`` lanes of one local row.

    ``first`` and ``last`` mark the phases of a row whose sums lie in several accumulators.
    """

    def __init__(self, config):
        super().__init__({
            "valid": 1,
            "kind": 3,
            "row": bits_for(config.cell_rows - 1),
            "beat": bits_for(config.beats - 1),
            "first": 1,
            "last": 1,
        })


class Settings(data.StructLayout):
    """Number formats of a layer and the voices of a step; constant while an instruction is under way."""

    def __init__(self, config):
        super().__init__({
            "shift": data.ArrayLayout(5, 4),
            "cell_argument_shift": 5,
            "peephole_select": 3,
            "cell_select": 3,
            "g_sigmoid": 1,
            "active": config.channels,
            "reset": config.channels,
        })


class SliceControl(data.StructLayout):
    """What all slices do in a cycle; see `Slice`."""

    def __init__(self, config):
        super().__init__({"capture": 1, "beat": Beat(config), "settings": Settings(config)})


def slice_members(config, slices=1):
    """Members of `Slice` that what holds ``slices`` of them has too: a line has the words of all."""
    lanes = slices * config.slice_width
    return {
        "saturated": Out(bits_for(lanes)),
        "cells": Out(data.ArrayLayout(signed(config.cell_bits), lanes)),
        "cell_write": In(lanes),
        "cell_data": In(signed(config.cell_bits)),
        "parameters": In(LineWrite(bits_for(config.parameter_lines - 1), slices * config.parameter_line_bits)),
        "parameters_valid": In(1),
        "tables": In(LineWrite(config.table_index_bits, 2 * config.table_bits)),
        "tables_valid": In(1),
    }


class CellStep(NamedTuple):
    """What `Slice.model` computes: table arguments (4, ...), cell state, m in Q15, which cells were clamped."""

    arguments: np.ndarray
    cell: np.ndarray
    m: np.ndarray
    saturated: np.ndarray


class Slice(wiring.Component):
    """Gates, cell state and output of the cells on ``rows_per_slice`` PE rows (paper: Assemble, AdderTree,
    ElemMul, Sigmoid, Tanh).

    A local row of a gate is drained from all PEs at once and held here; its lanes (PE rows x channels) then
    pass one pipeline, ``slice_width`` a cycle::

        hold -> AdderTree -> sum of phases -> shift -> + bias + peephole -> table -> ElemMul -> + -> c, m

    For a cell row k the gates come in the order g, i, f, then tanh(c) and o, which the sequencer delays until
    c is written. What one gate leaves for the next (g, then i.g; tanh c) waits in small memories.

    Latency, from ``beat``: `y_delay` to y, `m_delay` to m, `c_delay` to c being readable.
    Cost: per lane of ``slice_width`` three multipliers (peephole, interpolation, ElemMul), a barrel shifter of
    ``accumulator_bits``, three more of a choice among three or four, four memories of ``beats`` rows, and a mux over
    as many; per slice `Activation`'s tables, the cell state and the biases.

    Members
    -------
    drained : a row of every PE served, group after group, PE row after PE row; ``capture`` takes it.
    beat : the pipeline's control. ``settings`` must be constant while beats are in the pipeline.
    columns : m or y of the row, assembled: complete one cycle after the last beat's delay.
    saturated : lanes whose cell state or output was clamped, one cycle each.
    cells : the cell state at the row and beat of ``beat``; ``cell_write`` sets lanes of it to ``cell_data``, a cycle
        later (for the host, with a beat that is held and not valid).
    parameters : (bias, peephole) pairs, gate by gate; ``tables`` : see `Activation`.
    """

    def __init__(self, config):
        self.config = config
        # A lane is picked from up to 16 at once, from more in two stages.
        self._picks = 8 if config.beats > 16 else config.beats
        self._tree = (config.groups - 1).bit_length() + (config.beats > 16)
        self._sum = 6 + self._tree
        self.y_delay = self._sum + 2
        self.m_delay = self._sum + 14
        self.c_delay = self._sum + 15
        width = config.slice_width
        self._per_word = max(1, width // config.channels)
        self._words = config.rows_per_slice // self._per_word
        super().__init__({
            "drained": In(config.groups * config.lanes * config.accumulator_bits),
            "capture": In(1),
            "beat": In(Beat(config)),
            "settings": In(Settings(config)),
            "columns": Out(config.lanes * config.activation_bits),
            **slice_members(config),
        })

    @property
    def module_name(self):
        """Name of the Verilog module, shared by all instances."""
        return "elementwise"

    @staticmethod
    def model(config, sums, cell, bias, peephole, settings, sigmoid, tanh):
        """One step of some cells, in the integers of the hardware.

        Parameters
        ----------
        sums : int64 (4, ...) accumulators of i, f, g, o.
        cell : int64 (...) cell state.
        bias : int64 (4, ...) at the format of table arguments; peephole : int64 (3, ...) of i, f, o, or None.
            Both broadcast against the cells.
        settings : mapping with the fields of `Settings` but the voices.
        sigmoid, tanh : 2048 samples each.

        Returns
        -------
        `CellStep`
        """
        def product(gate, state):
            shift = config.peephole_shift_base + settings["peephole_select"]
            return saturate(round_shift(peephole[gate] * state, shift), config.sum_bits)

        def narrow(arguments):
            return saturate(arguments, config.argument_bits)

        shift = np.reshape(settings["shift"], (4,) + (1,) * (np.ndim(sums) - 1))
        arguments = saturate(round_shift(sums, shift), config.sum_bits) + bias
        if peephole is not None:
            arguments[0] += product(0, cell)
            arguments[1] += product(1, cell)
        arguments[:3] = narrow(arguments[:3])
        i, f = Activation.model(config, sigmoid, arguments[:2])
        g = Activation.model(config, sigmoid if settings["g_sigmoid"] else tanh, arguments[2])

        fraction = config.cell_fraction_max - settings["cell_select"]
        exact = round_shift(i * g, 2 * config.gate_fraction - fraction)
        added = saturate(exact, config.cell_bits)
        kept = saturate(round_shift(f * cell, config.gate_fraction), config.cell_bits)
        state = saturate(kept + added, config.cell_bits)
        saturated = (added != exact) | (state != kept + added)

        if peephole is not None:
            arguments[3] += product(2, state)
        arguments[3] = narrow(arguments[3])
        o = Activation.model(config, sigmoid, arguments[3])
        argument = round_shift(state << config.cell_argument_left, settings["cell_argument_shift"])
        squashed = Activation.model(config, tanh, narrow(argument))
        m = round_shift(o * squashed, 2 * config.gate_fraction - (config.activation_bits - 1))
        return CellStep(arguments, state, saturate(m, config.activation_bits), saturated)

    def elaborate(self, platform):
        m = Module()
        config = self.config
        self._control = [Signal(Beat(config), name=f"beat{k}") for k in range(self.c_delay)]
        m.d.sync += self._control[0].eq(self.beat)
        m.d.sync += [after.eq(before) for before, after in zip(self._control, self._control[1:], strict=False)]

        held = Signal.like(self.drained, reset_less=True)
        with m.If(self.capture):
            m.d.sync += held.eq(self.drained)

        m.submodules.activation = self._activation = Activation(config, config.slice_width)
        m.d.comb += [
            self._activation.load.eq(self.tables),
            self._activation.load_valid.eq(self.tables_valid),
        ]
        self._memories(m)
        self._shifts = self._pre_activation_shifts(m)
        self._elem_mul_shifts(m)
        self._exchanges(m)
        self._columns = Signal.like(self.columns, reset_less=True)
        m.d.comb += self.columns.eq(self._columns)
        m.d.sync += self.saturated.eq(sum(self._lane(m, lane, held) for lane in range(config.slice_width)))
        return m

    def _memories(self, m):
        """Cell state and parameters, read at the first stage and delayed until the adder tree is through."""
        config = self.config
        first, last = self._control[0], self._control[-1]
        m.submodules.cells = cells = memory.Memory(
            shape=data.ArrayLayout(signed(config.cell_bits), config.slice_width),
            depth=config.cell_rows * config.beats, init=[], attrs=block_ram(config.cell_rows * config.beats))
        self._cell_write = cells.write_port(granularity=1)
        read = cells.read_port()
        m.submodules.parameters = parameters = memory.Memory(
            shape=data.ArrayLayout(config.parameter_bits, self._per_word),
            depth=config.cell_rows * 4 * self._words, init=[])
        parameter_read = parameters.read_port()
        parameter_write = parameters.write_port()
        beat_bits = (config.beats - 1).bit_length()
        word_bits = (self._words - 1).bit_length()
        word = first.beat[beat_bits - word_bits:beat_bits]
        m.d.comb += [
            read.addr.eq(Cat(first.beat[:beat_bits], first.row)),
            read.en.eq(1),
            self._cell_write.addr.eq(Cat(last.beat[:beat_bits], last.row)),
            parameter_read.addr.eq(Cat(word, first.kind[:2], first.row)),
            parameter_read.en.eq(1),
            parameter_write.addr.eq(self.parameters.address),
            parameter_write.data.eq(self.parameters.data),
            parameter_write.en.eq(self.parameters_valid),
        ]
        self._cells = self._delayed(m, read.data, 1 + self._tree)
        m.d.comb += self.cells.eq(self._cells)
        parameters = self._delayed(m, parameter_read.data, self._tree)
        self._parameters = self._delayed(m, parameters, 1)
        self._peepholes(m, parameters)

    def _peepholes(self, m, parameters):
        """Peephole weights as they are multiplied. Of a product's shift by s, 2 - s % 3 bits are taken back in front of
        the multiplier, once for all lanes, and 2, 5 or 8 done behind it."""
        config = self.config
        left, self._peephole_right = Signal(2), Signal(2)
        with m.Switch(self.settings.peephole_select):
            for select in range(8):
                with m.Case(select):
                    m.d.comb += [left.eq(2 - select % 3), self._peephole_right.eq(select // 3)]
        self._weights = []
        for k in range(self._per_word):
            weight = Signal(signed(config.peephole_bits + 2), name=f"peephole_weight{k}", reset_less=True)
            m.d.sync += weight.eq(parameters[k][config.argument_bits:].as_signed() << left)
            self._weights.append(weight)

    def _delayed(self, m, value, cycles):
        for k in range(cycles):
            after = Signal(value.shape(), name=f"delayed{k}", reset_less=True)
            m.d.sync += after.eq(value)
            value = after
        return value

    def _channel_flag(self, flags, control, lane):
        """The bit of ``flags`` (one a channel) that belongs to the lane of a beat."""
        config = self.config
        if config.slice_width >= config.channels:
            return flags[lane % config.channels]
        beats = (config.channels // config.slice_width).bit_length() - 1
        lanes = Array(flags[k + lane] for k in range(0, config.channels, config.slice_width))
        return lanes[control.beat[:beats]]

    def _lane(self, m, lane, held):
        total = self._total(m, lane, held)
        fresh = self._starts_anew(m, lane)
        pre_activation = self._pre_activation(m, lane, total)
        gate = self._gate(m, lane, pre_activation, fresh)
        value = self._elem_mul(m, lane, gate, fresh)
        return self._update(m, lane, value) | self._assemble(m, lane, pre_activation, value)

    def _total(self, m, lane, held):
        """Stages 0 to 2: pick the lane, add its groups (AdderTree), add its phases."""
        config = self.config

        def pick(values, beat, name):
            value = Signal(signed(config.accumulator_bits), name=name, reset_less=True)
            m.d.sync += value.eq(Array(values)[beat] if len(values) > 1 else values[0])
            return value

        values = []
        fine = self._picks.bit_length() - 1
        for group in range(config.groups):
            name = f"picked{lane}_{group}"
            lanes = [held.word_select(group * config.lanes + index, config.accumulator_bits).as_signed()
                     for index in range(lane, config.lanes, config.slice_width)]
            picked = [pick(lanes[k:k + self._picks], self._control[0].beat[:fine], f"{name}_{k}")
                      for k in range(0, len(lanes), self._picks)]
            values.append(pick(picked, self._control[1].beat[fine:], name) if len(picked) > 1 else picked[0])
        while len(values) > 1:
            sums = []
            for left, right in zip(values[::2], values[1::2], strict=True):
                added = Signal.like(left, name=f"added{lane}_{len(values)}_{len(sums)}", reset_less=True)
                m.d.sync += added.eq(left + right)
                sums.append(added)
            values = sums

        control, ahead = self._control[1 + self._tree], self._control[self._tree]
        m.submodules[f"phases{lane}"] = phases = memory.Memory(
            shape=signed(config.accumulator_bits), depth=max(2, config.beats), init=[], attrs=LUT_RAM)
        read = phases.read_port(domain="comb")
        write = phases.write_port()
        before = Signal(signed(config.accumulator_bits), name=f"before{lane}", reset_less=True)
        total = Signal.like(before, name=f"total{lane}")
        partial = Signal.like(before, name=f"partial{lane}")
        m.d.comb += [
            partial.eq(values[0] + before),
            read.addr.eq(ahead.beat),
            write.addr.eq(control.beat),
            write.data.eq(partial),
            write.en.eq(control.valid),
        ]
        m.d.sync += [before.eq(Mux(ahead.first, 0, read.data)), total.eq(partial)]
        return total

    def _starts_anew(self, m, lane):
        """Stage 2: the lane's voice starts anew, so that c is zero for i and f, whatever the memory has."""
        control = self._control[1 + self._tree]
        fresh = Signal(name=f"fresh{lane}", reset_less=True)
        m.d.sync += fresh.eq(self._channel_flag(self.settings.reset, control, lane) & (control.kind <= Kind.F))
        return fresh

    def _pre_activation_shifts(self, m):
        """Stages 2 to 4: is the beat for tanh c, and how far its argument is still to be shifted. A quarter of the
        ways is left after each stage: one LUT a bit."""
        kind = self._control[1 + self._tree].kind
        of_cell = Signal(reset_less=True)
        shift2, shift3, shift4 = (Signal(bits, name=name, reset_less=True)
                                  for name, bits in (("shift2", 5), ("shift3", 4), ("shift4", 2)))
        m.d.sync += [of_cell.eq(kind == Kind.CELL_TANH), shift3.eq(shift2), shift4.eq(shift3)]
        with m.Switch(kind):
            for gate in (Kind.F, Kind.G, Kind.O):
                with m.Case(gate):
                    m.d.sync += shift2.eq(self.settings.shift[gate])
            with m.Case(Kind.CELL_TANH):
                m.d.sync += shift2.eq(self.settings.cell_argument_shift)
            with m.Default():
                m.d.sync += shift2.eq(self.settings.shift[0])
        return of_cell, shift2, shift3, shift4

    def _pre_activation(self, m, lane, total):
        """Stages 2 to 6: the sum, or c for its tanh, rounded to the format of a table argument. Each shift keeps no
        more bits than the next can bring down, and whether there were others."""
        config = self.config

        def register(name, shape):
            return Signal(shape, name=f"{name}{lane}", reset_less=True)

        def shifted(source, shifts, select, bits, name):
            narrowed = [narrow_value(source >> shift, bits) for shift in shifts]
            result, beyond = register(name, signed(bits)), register(f"{name}_beyond", 1)
            m.d.sync += [
                result.eq(Array(value for value, _ in narrowed)[select]),
                beyond.eq(Array(overflow for _, overflow in narrowed)[select]),
            ]
            return result, beyond

        of_cell, shift2, shift3, shift4 = self._shifts
        cell = self._cells[lane]
        doubled = Cat(0, Mux(of_cell, cell << config.cell_argument_left, total)).as_signed()
        source = register("source", doubled.shape())
        m.d.sync += source.eq(Mux(shift2[4], doubled >> 16, doubled))
        # With half a unit below, and so much above that rounding cannot overflow.
        bits = config.sum_bits + 2
        coarse, beyond = shifted(source, (0, 4, 8, 12), shift3[2:], bits + 3, f"coarse{lane}_")
        fine, beyond_fine = shifted(coarse, range(4), shift4, bits, f"fine{lane}_")
        before = register("coarse_beyond_before", 1)
        m.d.sync += before.eq(beyond)
        rounded = Saturated(config.sum_bits, f"rounded{lane}")
        rounded.load(m, round_shift_value(fine, 1), before | beyond_fine)
        return rounded

    def _gate(self, m, lane, pre_activation, fresh):
        """Stages 2 to 14: + bias + peephole . c, then the table. The gate is at stage 14."""
        config = self.config
        stage = self._sum
        ahead, before = self._control[stage - 3].kind, self._control[stage - 1].kind

        def register(name, shape, **attributes):
            return Signal(shape, name=f"{name}{lane}", reset_less=True, attrs=attributes)

        place = lane // config.channels if self._per_word > 1 else 0
        word, weight = self._parameters[place], self._weights[place]
        product1 = register("peephole1_", signed(len(weight) + config.cell_bits), **DSP)
        product2 = register("peephole2_", product1.shape(), **DSP)
        rights = [config.peephole_shift_base + right for right in (2, 5, 8)]
        half = Array(1 << (right - 1) for right in rights)[self._peephole_right]
        peephole = Saturated(config.sum_bits, f"peephole3_{lane}")
        addend = register("addend", signed(config.sum_bits + 1))
        bias = self._delayed(m, word[:config.argument_bits].as_signed(), 3)
        m.d.sync += [
            product1.eq(Mux(fresh, 0, weight * self._cells[lane])),
            product2.eq(Mux(ahead[2] | (ahead == Kind.G), 0, product1 + half)),
            addend.eq(Mux(before[2], 0, peephole.added_to(bias))),
        ]
        shifted = Signal(signed(len(product2) - rights[0]), name=f"peephole_shifted{lane}")
        m.d.comb += shifted.eq(Array(product2 >> right for right in rights)[self._peephole_right])
        peephole.load(m, shifted)
        total = register("total_argument", signed(config.sum_bits + 2))
        argument = register("argument", config.argument_bits)
        function = register("function", 1)
        kind = self._control[stage + 1].kind
        m.d.sync += [
            total.eq(pre_activation.added_to(addend)),
            argument.eq(saturate_value(total, config.argument_bits)[0] ^ (1 << (config.argument_bits - 1))),
            function.eq((kind == Kind.CELL_TANH) | ((kind == Kind.G) & ~self.settings.g_sigmoid)),
        ]
        m.d.comb += [
            self._activation.argument[lane].eq(argument),
            self._activation.function[lane].eq(function),
        ]
        return self._activation.value[lane]

    def _exchange(self, m, name, shape, stage, read_stage, kinds):
        """A memory of one value of every lane a beat: beats of ``kinds`` write at ``stage``; any beat reads, for what
        it does at ``read_stage``, before that is written anew. Returns what is written and what is read."""
        control = self._control[stage]
        m.submodules[name] = storage = memory.Memory(
            shape=data.ArrayLayout(shape, self.config.slice_width), depth=max(2, self.config.beats), init=[],
            attrs=LUT_RAM)
        write = storage.write_port()
        read = storage.read_port(domain="comb")
        m.d.comb += [
            write.addr.eq(control.beat),
            write.en.eq(control.valid & control.last & Cat(control.kind == kind for kind in kinds).any()),
            read.addr.eq(self._control[read_stage - 1].beat),
        ]
        return write.data, read.data

    def _exchanges(self, m):
        """What one gate leaves for the next, and the old c for f."""
        config = self.config
        stage, cell = self._sum + 8, signed(config.cell_bits)
        self._kept = self._exchange(m, "kept", signed(config.table_bits + 3), stage, stage, (Kind.G, Kind.CELL_TANH))
        self._old = self._exchange(m, "old", cell, 2 + self._tree, stage, (Kind.F,))
        m.d.comb += self._old[0].eq(self._cells)
        self._added = self._exchange(m, "added_input", data.StructLayout({
            "value": signed(config.cell_bits + 1), "below": 1, "clamped": 1}), stage + 4, stage + 4, (Kind.I,))

    def _elem_mul_shifts(self, m):
        """How g is shifted before it is kept, and which shift the product takes: by 4 bits more or less for i . g, of
        which g's shift is the rest; for o . tanh(c); for f . c'."""
        stage = self._sum + 8
        select = self.settings.cell_select
        self._lift, self._product_shift = Signal(2, reset_less=True), Signal(2, reset_less=True)
        m.d.sync += self._lift.eq(Mux(self._control[stage - 1].kind == Kind.G, ~select[:2], 0))
        with m.Switch(self._control[stage + 1].kind):
            with m.Case(Kind.I):
                m.d.sync += self._product_shift.eq(select[2])
            with m.Case(Kind.F):
                m.d.sync += self._product_shift.eq(3)
            with m.Default():
                m.d.sync += self._product_shift.eq(2)

    def _elem_mul(self, m, lane, gate, fresh):
        """Stages 14 to 18: i . g, f . c' or o . tanh(c), rounded to the format of c or m."""
        config = self.config
        stage = self._sum + 8

        def register(name, shape, **attributes):
            return Signal(shape, name=f"{name}{lane}", reset_less=True, attrs=attributes)

        lifted, before = self._kept[0][lane], register("old_read", signed(config.cell_bits))
        kept = register("kept_read", lifted.shape())
        # One of the two is zero: their sum is a choice that a DSP slice makes in front of its multiplier.
        operand = Signal(signed(max(len(before), len(kept))), name=f"operand{lane}")
        product1 = register("product1_", signed(config.table_bits + len(operand)), **DSP)
        product2 = register("product2_", product1.shape(), **DSP)
        # Two gates: so much less than a gate and a cell state.
        gates = Cat(0, product2[:config.table_bits + len(kept)]).as_signed()
        doubled = Cat(0, product2).as_signed()
        input_shift = 2 * config.gate_fraction - config.cell_fraction_max + 3
        output_shift = 2 * config.gate_fraction - (config.activation_bits - 1)
        shifted = register("product3_", signed(max(len(doubled) - config.gate_fraction, len(gates) - input_shift)))
        is_f = self._control[stage - 1].kind == Kind.F
        was_fresh = self._delayed(m, fresh, stage - 1 - (2 + self._tree))
        m.d.comb += [lifted.eq(gate << self._lift), operand.eq(kept + before)]
        m.d.sync += [
            kept.eq(Mux(is_f, 0, self._kept[1][lane])),
            before.eq(Mux(is_f & ~was_fresh, self._old[1][lane], 0)),
            product1.eq(gate * operand),
            product2.eq(product1),
        ]
        m.d.sync += shifted.eq(Array((gates >> input_shift, gates >> (input_shift + 4), gates >> output_shift,
                                      doubled >> config.gate_fraction))[self._product_shift])
        value = Saturated(config.cell_bits, f"value{lane}")
        value.load(m, round_shift_value(shifted, 1))
        return value

    def _update(self, m, lane, value):
        """Stages 18 to 20: c = f . c' + i . g, for voices that are active; zero for one that is only reset."""
        config = self.config
        stage = self._sum + 12
        control = self._control[stage + 1]
        written, read = (values[lane] for values in self._added)
        added = Signal(signed(config.cell_bits), name=f"added_input_read{lane}", reset_less=True)
        clamped_before, clamped_input = (Signal(name=f"{name}{lane}", reset_less=True)
                                         for name in ("clamped_before", "clamped_input"))
        total = Signal(signed(config.cell_bits + 1), name=f"total_cell{lane}", reset_less=True)
        m.d.comb += [
            written.value.eq(value.register),
            written.below.eq(value.below),
            written.clamped.eq(value.clamped),
        ]
        m.d.sync += [
            added.eq(read.value),
            clamped_before.eq(read.clamped),
            clamped_input.eq(clamped_before),
            total.eq(value.added_to(added)),
        ]
        with m.If(read.below):
            m.d.sync += added.eq(1 << (config.cell_bits - 1))
        state = Signal(signed(config.cell_bits), name=f"state{lane}", reset_less=True)
        narrow, clamped = saturate_value(total, config.cell_bits)
        saturated, writes = Signal(name=f"saturated_cell{lane}"), Signal(name=f"writes{lane}")
        active = self._channel_flag(self.settings.active, control, lane)
        reset = self._channel_flag(self.settings.reset, control, lane)
        updates = control.valid & control.last & (control.kind == Kind.F)
        m.d.sync += [
            state.eq(Mux(self.cell_write[lane], self.cell_data, Mux(active, narrow, 0))),
            writes.eq((updates & (active | reset)) | self.cell_write[lane]),
            saturated.eq(updates & active & (clamped | clamped_input)),
        ]
        m.d.comb += [
            self._cell_write.data[lane].eq(state),
            self._cell_write.en[lane].eq(writes),
        ]
        return saturated

    def _assemble(self, m, lane, pre_activation, value):
        """Stage 18 for m, stage 6 for y: put the lane in its place in the row's columns."""
        config = self.config
        of_y, of_m = self._control[self._sum - 1], self._control[self._sum + 11]
        is_y = Signal(name=f"is_y{lane}")
        is_m = Signal(name=f"is_m{lane}")
        active = Signal(name=f"result_active{lane}")
        result, clamped = saturate_value(Mux(is_y, pre_activation.register, value.register), config.activation_bits)
        control = Signal(Beat(config), name=f"result_beat{lane}")
        beat = Signal.like(control.beat, name=f"result_place{lane}", reset_less=True)
        comes_y = of_y.valid & of_y.last & (of_y.kind == Kind.PROJECTION)
        m.d.comb += control.eq(Mux(comes_y, of_y, of_m))
        m.d.sync += [
            is_y.eq(comes_y),
            is_m.eq(of_m.valid & of_m.last & (of_m.kind == Kind.O)),
            beat.eq(control.beat),
            active.eq(self._channel_flag(self.settings.active, control, lane)),
        ]
        for position in range(config.beats):
            index = position * config.slice_width + lane
            place = self._columns.word_select(index, config.activation_bits)
            with m.If((is_y | is_m) & (beat == position)):
                m.d.sync += place.eq(Mux(active, result, 0))
        return is_y & active & clamped
