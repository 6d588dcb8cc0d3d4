# SPDX-License-Identifier: Apache-2.0
"""One lane of a slice: the arithmetic of one cell a beat, one method a box of the paper.

Registers are named for the lane, so that a waveform shows which is which.
"""

from typing import Any, NamedTuple

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed
from amaranth.lib import memory

from openese.rtl.attributes import DSP, LUT_RAM
from openese.rtl.elementwise.settings import Beat, Kind, Stages
from openese.rtl.elementwise.shared import (
    Cells,
    ElemMulShifts,
    Exchanges,
    HiddenSelects,
    Parameters,
    PreActivationShifts,
    delayed,
    words_per_line,
)
from openese.rtl.fixed import Saturated, narrow_value, round_shift_value, saturate_value
from openese.rtl.program import ACTIVATIONS

__all__ = ["Lane", "Shared"]


class Shared(NamedTuple):
    """The parts of a slice that its lanes use.

    Attributes
    ----------
    control : list of Signal
        The beat at each stage.
    settings : Settings
    held : Signal
        The row that was captured.
    cells : Cells
    parameters : Parameters
    shifts : PreActivationShifts
    elem_mul_shifts : ElemMulShifts
    exchanges : Exchanges
    hidden_selects : HiddenSelects or None
        Of a machine with GRUs.
    activation : Activation
    host_write, host_data : Signal
        Cell states that the host sets: one bit a lane, and the value.
    columns : Signal
        The row's columns of m or y.
    """

    control: list[Signal]
    settings: Any
    held: Signal
    cells: Cells
    parameters: Parameters
    shifts: PreActivationShifts
    elem_mul_shifts: ElemMulShifts
    exchanges: Exchanges
    hidden_selects: HiddenSelects | None
    activation: Any
    host_write: Any
    host_data: Any
    columns: Signal


class Lane:
    """Lane ``index`` of a slice. `elaborate` adds it to the slice's module."""

    def __init__(self, config, shared, index):
        self._config = config
        self._stages = Stages.of(config)
        self._shared = shared
        self._index = index

    def elaborate(self, m: Module):
        """Add the lane; returns whether its cell state or output was clamped."""
        total = self._total(m, self._adder_tree(m))
        fresh = self._fresh(m)
        pre_activation = self._pre_activation(m, total)
        argument = self._argument(m, pre_activation, fresh)
        gate = self._gate(m, argument)
        product = self._elem_mul(m, gate, fresh)
        saturated, total = self._cell(m, product)
        y, table_y = pre_activation.register, None
        if self._config.dense:
            y, table_y = argument, self._table_output(m, gate)
        return saturated | self._assemble(m, y, table_y, product, total)

    def _register(self, name, shape, **attributes):
        return Signal(shape, name=f"{name}{self._index}", reset_less=True, attrs=attributes)

    def _channel_flag(self, flags, beat):
        """The bit of ``flags`` (one a channel) of the voice that the lane works on in ``beat``."""
        config = self._config
        if config.slice_width >= config.channels:
            return flags[self._index % config.channels]
        beats = (config.channels // config.slice_width).bit_length() - 1
        lanes = Array(flags[k + self._index] for k in range(0, config.channels, config.slice_width))
        return lanes[beat.beat[:beats]]

    def _adder_tree(self, m):
        """Up to stage ``added``: pick the lane out of the row, and add its groups."""
        config, lane, control = self._config, self._index, self._shared.control
        picks = self._stages.picks
        fine = picks.bit_length() - 1

        def pick(values, beat, name):
            value = Signal(signed(config.accumulator_bits), name=name, reset_less=True)
            m.d.sync += value.eq(Array(values)[beat] if len(values) > 1 else values[0])
            return value

        values = []
        for group in range(config.groups):
            name = f"picked{lane}_{group}"
            lanes = [self._shared.held.word_select(group * config.lanes + index, config.accumulator_bits).as_signed()
                     for index in range(lane, config.lanes, config.slice_width)]
            if len(lanes) == 1 and config.groups > 1:
                values += lanes
                continue
            picked = [pick(lanes[k:k + picks], control[0].beat[:fine], f"{name}_{k}")
                      for k in range(0, len(lanes), picks)]
            values.append(pick(picked, control[1].beat[fine:], name) if len(picked) > 1 else picked[0])
        while len(values) > 1:
            sums = []
            for left, right in zip(values[::2], values[1::2], strict=True):
                added = Signal.like(left, name=f"added{lane}_{len(values)}_{len(sums)}", reset_less=True)
                m.d.sync += added.eq(left + right)
                sums.append(added)
            values = sums
        return values[0]

    def _total(self, m, added):
        """Stage ``total``: add the phases of a row whose sums lie in several accumulators."""
        config, lane = self._config, self._index
        beat, ahead = self._shared.control[self._stages.added], self._shared.control[self._stages.added - 1]
        before = self._register("before", signed(config.accumulator_bits))
        total = Signal.like(before, name=f"total{lane}")
        partial = Signal.like(before, name=f"partial{lane}")
        m.d.comb += partial.eq(added + before)
        if config.beats == 1:
            so_far = partial
        else:
            m.submodules[f"phases{lane}"] = phases = memory.Memory(
                shape=signed(config.accumulator_bits), depth=config.beats, init=[], attrs=LUT_RAM)
            read = phases.read_port(domain="comb")
            write = phases.write_port()
            m.d.comb += [
                read.addr.eq(ahead.beat),
                write.addr.eq(beat.beat),
                write.data.eq(partial),
                write.en.eq(beat.valid),
            ]
            so_far = read.data
        m.d.sync += [before.eq(Mux(ahead.first, 0, so_far)), total.eq(partial)]
        return total

    def _fresh(self, m):
        """Stage ``total``: the voice starts anew, so i and f see a c of zero."""
        beat = self._shared.control[self._stages.added]
        fresh = self._register("fresh", 1)
        m.d.sync += fresh.eq(self._channel_flag(self._shared.settings.reset, beat) & (beat.kind <= Kind.F))
        return fresh

    def _pre_activation(self, m, total):
        """From stage ``total`` to ``pre_activation``: the sum, or c for its tanh, rounded to the format of a table
        argument. Each shift keeps no more bits than the next can bring down, and whether there were others."""
        config, shifts = self._config, self._shared.shifts

        def shifted(source, ways, select, bits, name):
            narrowed = [narrow_value(source >> shift, bits) for shift in ways]
            result, beyond = self._register(name, signed(bits)), self._register(f"{name}_beyond", 1)
            m.d.sync += [
                result.eq(Array(value for value, _ in narrowed)[select]),
                beyond.eq(Array(overflow for _, overflow in narrowed)[select]),
            ]
            return result, beyond

        cell = self._shared.cells.read[self._index]
        doubled = Cat(0, Mux(shifts.of_cell, cell << config.cell_argument_left, total)).as_signed()
        source = self._register("source", doubled.shape())
        m.d.sync += source.eq(Mux(shifts.first[4], doubled >> 16, doubled))
        # With half a unit below, and so much above that rounding cannot overflow.
        bits = config.sum_bits + 2
        coarse, beyond = shifted(source, (0, 4, 8, 12), shifts.second[2:], bits + 3, f"coarse{self._index}_")
        fine, beyond_fine = shifted(coarse, range(4), shifts.third, bits, f"fine{self._index}_")
        before = self._register("coarse_beyond_before", 1)
        m.d.sync += before.eq(beyond)
        rounded = Saturated(config.sum_bits, f"rounded{self._index}")
        # Rounding may take the sign of what is left of a number that is too small: -1 becomes 0.
        overflow = before | beyond_fine
        rounded.load(m, round_shift_value(fine, 1), overflow & ~fine[-1], overflow & fine[-1])
        return rounded

    def _peephole(self, m, fresh):
        """One stage behind ``pre_activation``'s last but one: bias + peephole . c, for the gates that have them."""
        config, parameters = self._config, self._shared.parameters
        stage = self._stages.pre_activation
        control = self._shared.control
        ahead, before = control[stage - 3].kind, control[stage - 1].kind
        place = self._index // config.channels if words_per_line(config) > 1 else 0
        word, weight = parameters.words[place], parameters.weights[place]
        product1 = self._register("peephole1_", signed(len(weight) + config.cell_bits), **DSP)
        product2 = self._register("peephole2_", product1.shape(), **DSP)
        rights = [config.peephole_shift_base + right for right in (2, 5, 8)]
        half = Array(1 << (right - 1) for right in rights)[parameters.right]
        peephole = Saturated(config.sum_bits, f"peephole3_{self._index}")
        addend = self._register("addend", signed(config.sum_bits + 1))
        bias = delayed(m, word[:config.argument_bits].as_signed(), 3)
        m.d.sync += [
            product1.eq(Mux(fresh, 0, weight * self._shared.cells.read[self._index])),
            product2.eq(Mux(ahead[2] | (ahead == Kind.G), 0, product1 + half)),
            addend.eq(Mux(self._has_no_bias(before), 0, peephole.added_to(bias))),
        ]
        shifted = Signal(signed(len(product2) - rights[0]), name=f"peephole_shifted{self._index}")
        choice = Array(product2 >> right for right in rights)[parameters.right]
        m.d.comb += shifted.eq(choice | self._gated(m) if config.gru else choice)
        peephole.load(m, shifted)
        return addend

    def _has_no_bias(self, kind):
        """Whether a beat of ``kind`` has none: for tanh c and a projection, but not for a dense layer."""
        if not self._config.dense:
            return kind[2]
        return kind[2] & ~(kind[0] & self._shared.settings.dense)

    def _gated(self, m):
        """Two stages before ``pre_activation``: r . n_h for n_x, which has no peephole, and 0 for the others."""
        kind = self._shared.control[self._stages.pre_activation - 3].kind
        gated = self._register("gated_read", signed(self._config.cell_bits + 1))
        settings = self._shared.settings
        after = settings.gru & ~settings.reset_before if self._config.gru_before else settings.gru
        m.d.sync += gated.eq(Mux(after & (kind == Kind.N_X), self._shared.exchanges.gated.read[self._index], 0))
        return gated

    def _argument(self, m, pre_activation, fresh):
        """One stage behind ``pre_activation``: + bias + peephole . c."""
        config = self._config
        addend = self._peephole(m, fresh)
        total = self._register("total_argument", signed(config.sum_bits + 2))
        m.d.sync += total.eq(pre_activation.added_to(addend))
        if config.gru:
            m.d.comb += self._shared.exchanges.recurrent.written[self._index].eq(total)
        return total

    def _gate(self, m, total):
        """From `_argument` to stage ``gate``: the table (Sigmoid, Tanh)."""
        config, activation, settings = self._config, self._shared.activation, self._shared.settings
        argument = self._register("argument", config.argument_bits)
        function = self._register("function", 1)
        kind = self._shared.control[self._stages.pre_activation + 1].kind
        is_tanh = (kind == Kind.CELL_TANH) | ((kind == Kind.G) & ~settings.g_sigmoid)
        if config.dense:
            is_tanh |= (kind == Kind.PROJECTION) & settings.activation[0]
        m.d.sync += [
            argument.eq(saturate_value(total, config.argument_bits)[0] ^ (1 << (config.argument_bits - 1))),
            function.eq(is_tanh),
        ]
        m.d.comb += [
            activation.argument[self._index].eq(argument),
            activation.function[self._index].eq(function),
        ]
        return activation.value[self._index]

    def _elem_mul(self, m, gate, fresh):
        """From stage ``gate`` to ``product`` (ElemMul): i . g, f . c' or o . tanh(c), rounded to the format of c or
        m. Of a GRU: r . n_h in the format of n_h, n in that of h, and z . (h' - n); or r . h', as z . h'."""
        config, lane, stages = self._config, self._index, self._stages
        exchanges, shifts = self._shared.exchanges, self._shared.elem_mul_shifts
        lifted, before = exchanges.kept.written[lane], self._register(
            "old_read", signed(config.cell_bits + (1 if config.gru else 0)))
        kept = self._register("kept_read", lifted.shape())
        # One of the two is zero: their sum is a choice that a DSP slice makes in front of its multiplier.
        operand = Signal(signed(max(len(before), len(kept))), name=f"operand{lane}")
        product1 = self._register("product1_", signed(config.table_bits + len(operand)), **DSP)
        product2 = self._register("product2_", product1.shape(), **DSP)
        # Two gates: so much less than a gate and a cell state.
        gates = Cat(0, product2[:config.table_bits + len(kept)]).as_signed()
        doubled = Cat(0, product2).as_signed()
        input_shift = 2 * config.gate_fraction - config.cell_fraction_max + 3
        output_shift = 2 * config.gate_fraction - (config.activation_bits - 1)
        shifted = self._register("product3_", signed(max(len(doubled) - config.gate_fraction,
                                                         len(gates) - input_shift)))
        is_f = self._shared.control[stages.gate - 1].kind == Kind.F
        was_fresh = delayed(m, fresh, stages.gate - 1 - stages.total)
        m.d.comb += [lifted.eq(gate << shifts.lift), operand.eq(kept + before)]
        if config.gru:
            self._hidden_operand(m, kept, before, is_f, was_fresh)
        else:
            m.d.sync += [
                kept.eq(Mux(is_f, 0, exchanges.kept.read[lane])),
                before.eq(Mux(is_f & ~was_fresh, exchanges.old.read[lane], 0)),
            ]
        m.d.sync += [
            product1.eq(gate * operand),
            product2.eq(product1),
        ]
        m.d.sync += shifted.eq(Array((gates >> input_shift, gates >> (input_shift + 4), gates >> output_shift,
                                      doubled >> config.gate_fraction))[shifts.product])
        value = Saturated(config.cell_bits, f"value{lane}")
        value.load(m, round_shift_value(shifted, 1))
        if config.gru:
            m.d.comb += exchanges.gated.written[lane].eq(value.register)
        return value

    def _hidden_operand(self, m, kept, before, is_f, was_fresh):
        """Stage ``gate``: the same operands for an LSTM. For a GRU: n_h, h' - n, or what brings n to the format of
        h."""
        config, lane, selects, gru = self._config, self._index, self._shared.hidden_selects, self._shared.settings.gru
        exchanges = self._shared.exchanges
        state = Mux(selects.recurrent, exchanges.recurrent.read[lane], Mux(was_fresh, 0, exchanges.old.read[lane]))
        m.d.sync += [
            kept.eq(Mux(is_f | gru, 0, exchanges.kept.read[lane])),
            before.eq(state - Mux(selects.less_n, exchanges.kept.read[lane], 0)),
        ]
        with m.If(selects.blank):
            m.d.sync += before.eq(Mux(gru, 1 << config.hidden_fraction, 0))

    def _cell(self, m, product):
        """From stage ``product`` to ``cell``: c = f . c' + i . g, or h = z . (h' - n) + n, for voices that are active,
        zero for a voice that is only reset. Returns whether it was clamped, and the sum a stage earlier."""
        config, lane, shared = self._config, self._index, self._shared
        beat = shared.control[self._stages.product + 1]
        written, read = (values[lane] for values in shared.exchanges.added)
        added = self._register("added_input_read", signed(config.cell_bits))
        clamped_before, clamped_input = (Signal(name=f"{name}{lane}", reset_less=True)
                                         for name in ("clamped_before", "clamped_input"))
        total = self._register("total_cell", signed(config.cell_bits + 1))
        m.d.comb += [
            written.value.eq(product.register),
            written.below.eq(product.below),
            written.clamped.eq(product.clamped),
        ]
        m.d.sync += [
            added.eq(read.value),
            clamped_before.eq(read.clamped),
            clamped_input.eq(clamped_before),
            total.eq(product.added_to(added)),
        ]
        with m.If(read.below):
            m.d.sync += added.eq(1 << (config.cell_bits - 1))
        if config.gru_before:
            # r . h' is a result of its own.
            with m.If(shared.control[self._stages.product - 1].kind == Kind.R):
                m.d.sync += added.eq(0)
        state = self._register("state", signed(config.cell_bits))
        narrow, clamped = saturate_value(total, config.cell_bits)
        saturated, writes = Signal(name=f"saturated_cell{lane}"), Signal(name=f"writes{lane}")
        active = self._channel_flag(shared.settings.active, beat)
        reset = self._channel_flag(shared.settings.reset, beat)
        updates = beat.valid & beat.last & (beat.kind == Kind.F)
        if shared.cells.coming is not None:
            m.d.comb += [
                shared.cells.coming[lane].eq(Mux(active, narrow, 0)),
                shared.cells.comes[lane].eq(updates & (active | reset)),
            ]
        m.d.sync += [
            state.eq(Mux(shared.host_write[lane], shared.host_data, Mux(active, narrow, 0))),
            writes.eq((updates & (active | reset)) | shared.host_write[lane]),
            saturated.eq(updates & active & (clamped | clamped_input)),
        ]
        m.d.comb += [
            shared.cells.write.data[lane].eq(state),
            shared.cells.write.en[lane].eq(writes),
        ]
        return saturated, total

    def _assemble(self, m, y, table_y, product, total):
        """Behind stage ``product`` for m, ``affine`` for y, ``cell`` for the y of a GRU, and a stage behind ``gate``
        for that of a table (Assemble): put the lane in its place in the row's columns."""
        config, lane, control = self._config, self._index, self._shared.control
        of_y, of_m = control[self._stages.affine - 1], control[self._stages.product - 1]
        is_y = Signal(name=f"is_y{lane}")
        is_m = Signal(name=f"is_m{lane}")
        active = Signal(name=f"result_active{lane}")
        if config.dense:
            of_y, y = self._dense_output(m, of_y, y, table_y)
        result, clamped = saturate_value(Mux(is_y, y, product.register), config.activation_bits)
        chosen = Signal(Beat(config), name=f"result_beat{lane}")
        beat = Signal.like(chosen.beat, name=f"result_place{lane}", reset_less=True)
        comes_y = of_y.valid & of_y.last & (of_y.kind == Kind.PROJECTION)
        is_output = of_m.kind == Kind.O
        if config.gru:
            gru, of_m = self._shared.settings.gru, Signal(Beat(config), name=f"output_beat{lane}")
            is_h = Signal(name=f"is_h{lane}")
            m.d.comb += of_m.eq(Mux(gru, control[self._stages.cell - 1], control[self._stages.product - 1]))
            m.d.sync += is_h.eq(gru & ~comes_y)
            is_output = of_m.kind == Mux(gru, Kind.Z, Kind.O)
            if config.gru_before:
                is_output |= self._shared.settings.reset_before & (of_m.kind == Kind.R)
            result = Mux(is_h, self._hidden_output(m, total), result)
        m.d.comb += chosen.eq(Mux(comes_y, of_y, of_m))
        m.d.sync += [
            is_y.eq(comes_y),
            is_m.eq(of_m.valid & of_m.last & is_output),
            beat.eq(chosen.beat),
            active.eq(self._channel_flag(self._shared.settings.active, chosen)),
        ]
        for position in range(config.beats):
            index = position * config.slice_width + lane
            place = self._shared.columns.word_select(index, config.activation_bits)
            with m.If((is_y | is_m) & (beat == position)):
                m.d.sync += place.eq(Mux(active, result, 0))
        if config.dense:
            # As m, a table's value is clamped by design, where 1.0 becomes the largest number.
            clamped &= ~self._shared.settings.activation[1]
        return is_y & active & clamped

    def _table_output(self, m, gate):
        """A stage behind ``gate``: the table's value, rounded and saturated to y."""
        config = self._config
        y = Saturated(config.activation_bits, f"table_output{self._index}")
        shift = config.gate_fraction - (config.activation_bits - 1)
        y.load(m, round_shift_value(gate, shift) if shift > 0 else gate << -shift)
        return y.register

    def _dense_output(self, m, of_affine, affine, table_y):
        """The beat of a y that comes to its place in the next cycle, and the y that does now: of a table or not."""
        settings, lane = self._shared.settings, self._index
        of_y = Signal(Beat(self._config), name=f"output_of{lane}")
        y = Signal(affine.shape(), name=f"output{lane}")
        m.d.comb += [
            of_y.eq(Mux(settings.activation[1], self._shared.control[self._stages.gate], of_affine)),
            y.eq(Mux(settings.activation[1], table_y,
                     Mux((settings.activation == ACTIVATIONS.index("relu")) & affine[-1], 0, affine))),
        ]
        return of_y, y

    def _hidden_output(self, m, total):
        """At stage ``cell``: h, or r . h', rounded and saturated to y."""
        config = self._config
        y = Saturated(config.activation_bits, f"hidden{self._index}")
        y.load(m, round_shift_value(total, config.hidden_fraction - (config.activation_bits - 1)))
        return saturate_value(y.register, config.activation_bits)[0]
