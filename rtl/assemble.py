# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Assemble: drains the PEs row by row, runs the slices on the rows and writes the columns."""

from typing import NamedTuple

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from openese.rtl.array import PEArray
from openese.rtl.attributes import fanout
from openese.rtl.bundles import DrainPort
from openese.rtl.config import bits_for
from openese.rtl.elementwise import Beat, Kind, Settings, Slice, SliceControl
from openese.rtl.interfaces import activations
from openese.rtl.program import Instruction, Opcode

__all__ = ["Assemble"]

#: Columns that one step picks from.
_PICK = 8
#: Gates of a cell row in the order of a slice's work; tanh(c) and o belong to the row before.
ORDER = (Kind.G, Kind.I, Kind.F, Kind.CELL_TANH, Kind.O)


class Place(NamedTuple):
    """Where Assemble is.

    Attributes
    ----------
    row, slot, phase, cycle : Signal
        Row of the instruction, slot of the row, phase of the slot, cycle of the phase.
    phase_row : Signal
        Accumulators from the first phase's to this phase's.
    has_row, has_before, is_last : Signal
        There is a row ``row``; there is one before it; it is the last, found out a cycle late, of many.
    """

    row: Signal
    slot: Signal
    phase: Signal
    cycle: Signal
    phase_row: Signal
    has_row: Signal
    has_before: Signal
    is_last: Signal

    @classmethod
    def new(cls, config):
        """Registers for a machine of capacity ``config``."""
        row = Signal(bits_for(config.cell_rows))
        slot = Signal(range(len(ORDER)))
        phase = Signal(3)
        cycle = Signal(range(config.slot))
        phase_row = Signal(bits_for(config.accumulator_rows - 1))
        has_row, has_before, is_last = Signal(), Signal(), Signal()
        return cls(row, slot, phase, cycle, phase_row, has_row, has_before, is_last)


class Work(NamedTuple):
    """The work of a slot: its ``kind``, whether it ``works`` and ``drains``, whether it is the ``last_phase`` and the
    ``last_slot`` of its row and ``completes`` it, and the ``local`` row it is for."""

    kind: Signal
    works: Signal
    drains: Signal
    last_phase: Signal
    last_slot: Signal
    completes: Signal
    local: Value


class Assemble(wiring.Component):
    """Carries out ELEMENTWISE and PROJECT (paper: Assemble and the blocks behind it).

    It drains the PEs row by row into their slices, which all work in step, and writes the columns that they assemble to
    the vector memory. A cell row takes five slots of ``slot`` cycles, one for each of `ORDER`; the slot of a gate is
    repeated for every phase of its sums. tanh(c) and o run a row behind, which covers the slices' latency. A row of a
    projection takes a slot for each phase. Writing a row takes `lines` cycles beside that. A CLEAR clears all
    accumulators, a row each cycle; after a reset Assemble does this first. A column is picked out of those of a row in
    steps of eight to one.

    Latency: `go_delay` cycle from ``go`` to the first slot; `turn_delay` cycle from a slot to its ``drain``;
    `write_delay` from a row's last slot to its first line. Cost: a multiplexer over all columns of a row.

    Members
    -------
    start : In(1) — take ``instruction``, ``dst_base``, ``acc_base`` and ``settings``; only while not ``busy``.
    instruction : In(Instruction) — an ELEMENTWISE, PROJECT or CLEAR.
    dst_base : In(line_bits) — first line that it writes.
    acc_base : In(bits_for(accumulator_rows - 1)) — first accumulator of its rows.
    settings : In(Settings) — number formats and voices.
    go : In(1) — the sums are complete: begin.
    busy : Out(1) — an instruction is under way, or accumulators are being cleared.
    lines_done : Out(line_bits + 1) — lines that the instruction has written.
    drain : Out(1) — read and clear a row of all PEs.
    drain_address : Out(bits_for(accumulator_rows - 1)) — the row's address.
    control : Out(SliceControl) — the slices' work on it.
    columns : In(array(row_pes, activations)) — the columns that the slices assemble.
    write_valid : Out(1) — write a line of the vector memory, in all banks.
    write_line : Out(line_bits) — its number.
    write_channels : Out(channels) — channels to write.
    write_columns : Out(array(groups, activations)) — a column for each bank.
    state_row : In(bits_for(cell_rows - 1)) — cell row that the slices read while not ``busy``; see `StateAccess`.
    state_beat : In(bits_for(beats - 1)) — beat that they read.
    state_bank : In(bank_bits) — bank that they read. Only if the machine has several.
    """

    go_delay = 1
    turn_delay = 1

    def __init__(self, config):
        self._config = config
        line = config.line_bits
        super().__init__({
            "start": In(1),
            "instruction": In(Instruction(config)),
            "dst_base": In(line),
            "acc_base": In(bits_for(config.accumulator_rows - 1)),
            "settings": In(Settings(config)),
            "go": In(1),
            "busy": Out(1),
            "lines_done": Out(line + 1),
            **DrainPort(config).ports(),
            "control": Out(SliceControl(config)),
            "columns": In(data.ArrayLayout(activations(config), config.row_pes)),
            "write_valid": Out(1),
            "write_line": Out(line),
            "write_channels": Out(config.channels),
            "write_columns": Out(data.ArrayLayout(activations(config), config.groups)),
            "state_row": In(bits_for(config.cell_rows - 1)),
            "state_beat": In(bits_for(config.beats - 1)),
            **({"state_bank": In(config.bank_bits)} if config.banks > 1 else {}),
        })
        for signal in (self.drain, self.drain_address):
            signal.attrs.update(fanout(64))  # a load for each PE
        self.write_valid.attrs.update(fanout(128))
        a_slice = Slice(config)
        #: Steps of at most eight to one in which a column is picked out of those of a row.
        self._picks = 1 if self.lines <= _PICK else 2
        self._y_delay = PEArray.drain_delay + a_slice.y_delay
        self._m_delay = PEArray.drain_delay + a_slice.m_delay

    @property
    def spacing(self):
        """Least cycles between the last slots of two rows: a row is written before the next is assembled."""
        return self._config.beats + self.lines + 1

    @property
    def lines(self):
        """Lines of the vector memory that a row fills, one a cycle."""
        return self._config.row_pes // self._config.groups

    def write_delay(self, project):
        """Cycles from the first cycle of a row's last slot to the first of its lines being written. The line counts in
        ``lines_done`` a cycle later.
        """
        return (self._y_delay if project else self._m_delay) + self._config.beats + 1 + self._picks

    def elaborate(self, platform):
        m = Module()
        config = self._config
        instruction = Signal(Instruction(config))
        dst_base = Signal.like(self.dst_base)
        acc_base = Signal.like(self.acc_base)
        settings = Signal(Settings(config))
        project = Signal()
        with m.If(self.start):
            m.d.sync += [
                instruction.eq(self.instruction),
                project.eq(self.instruction.opcode == Opcode.PROJECT),
                dst_base.eq(self.dst_base),
                acc_base.eq(self.acc_base),
                settings.eq(self.settings),
            ]
        if config.banks > 1:
            with m.Elif(~self.busy):
                m.d.sync += settings.bank.eq(self.state_bank)
        flushed = Signal(name="_flushed")
        beat, row_issued = self._sequence(m, instruction, acc_base, project, flushed)
        self._control(m, beat, settings)
        self._write(m, instruction, dst_base, settings, project, row_issued, flushed)
        return m

    def _sequence(self, m, instruction, acc_base, project, flushed):
        """Walk rows, slots, phases and cycles. Returns the slices' beat, and a pulse for each row."""
        config = self._config
        row, slot, phase, cycle, phase_row, has_row, has_before, is_last = place = Place.new(config)
        since_row = Signal(range(self.spacing))
        beat = Signal(Beat(config))
        row_issued = Signal()
        sweep = Signal.like(acc_base)
        work = self._work(m, instruction, project, place)
        m.d.sync += [
            self.drain.eq(0),
            beat.valid.eq(0),
            row_issued.eq(0),
            is_last.eq(row + 1 == instruction.rows),
        ]
        with m.If(since_row != 0):
            m.d.sync += since_row.eq(since_row - 1)
        with m.FSM() as fsm:
            with m.State("CLEAR"):
                m.d.sync += [self.drain.eq(1), self.drain_address.eq(sweep), sweep.eq(sweep + 1)]
                with m.If(sweep == config.accumulator_rows - 1):
                    m.next = "IDLE"
            with m.State("IDLE"):
                m.d.sync += [beat.row.eq(self.state_row), beat.beat.eq(self.state_beat)]
                with m.If(self.start):
                    m.d.sync += [row.eq(0), slot.eq(0), phase.eq(0), cycle.eq(0), phase_row.eq(0)]
                    m.next = "WAIT"
            with m.State("WAIT"):
                m.d.sync += [has_row.eq(instruction.rows != 0), has_before.eq(0)]
                with m.If(self.go):
                    m.next = "RUN"
                with m.If(instruction.opcode == Opcode.CLEAR):
                    m.next = "CLEAR"
            with m.State("RUN"):
                with m.If((cycle != 0) | ~work.completes | (since_row == 0)):
                    m.d.sync += [
                        cycle.eq(cycle + 1),
                        self.drain.eq(work.drains & (cycle == 0)),
                        self.drain_address.eq(acc_base + phase_row
                                              + Mux(project, row, Cat(work.kind[:2], work.local))),
                        beat.valid.eq(work.works & (cycle < config.beats)),
                        beat.kind.eq(Mux(project, Kind.PROJECTION, work.kind)),
                        beat.row.eq(instruction.cell_base + work.local),
                        beat.beat.eq(cycle),
                        beat.first.eq(phase == 0),
                        beat.last.eq(work.last_phase),
                    ]
                    with m.If((cycle == 0) & work.completes):
                        m.d.sync += [since_row.eq(self.spacing - 1), row_issued.eq(1)]
                    with m.If(cycle == config.slot - 1):
                        m.d.sync += [cycle.eq(0), phase.eq(phase + 1),
                                     phase_row.eq(phase_row + instruction.phase_stride)]
                        with m.If(work.last_phase):
                            m.d.sync += [phase.eq(0), phase_row.eq(0), slot.eq(slot + 1)]
                            with m.If(work.last_slot):
                                m.d.sync += [slot.eq(0), row.eq(row + 1), has_row.eq(~is_last), has_before.eq(1)]
                                with m.If(Mux(project, is_last, ~has_row)):
                                    m.next = "FLUSH"
            with m.State("FLUSH"):
                with m.If(flushed):
                    m.next = "IDLE"
        m.d.comb += self.busy.eq(~fsm.ongoing("IDLE"))
        return beat, row_issued

    def _work(self, m, instruction, project, place):
        """The work of the slot at ``place``."""
        row, slot, phase, _, _, has_row, has_before, _ = place
        kind = Signal(3)
        works = Signal()
        drains = Signal()
        last_phase = Signal()
        last_slot = Signal()
        completes = Signal()
        behind = (slot >= 3) & ~project
        on_time = has_row & ~behind
        delayed = behind & has_before
        m.d.comb += [
            kind.eq(Array(ORDER)[slot]),
            works.eq(on_time | delayed),
            drains.eq(works & (project | (kind != Kind.CELL_TANH))),
            last_phase.eq((phase == instruction.phase_last) | (~project & (kind == Kind.CELL_TANH)) | ~works),
            last_slot.eq(project | (slot == len(ORDER) - 1)),
            completes.eq(works & last_phase & last_slot),
        ]
        return Work(kind, works, drains, last_phase, last_slot, completes, local=Mux(behind, row - 1, row))

    def _control(self, m, beat, settings):
        """The beat follows its drain through the array to the slices."""
        ahead = PEArray.drain_delay - PEArray.input_delay
        beats = [beat] + [Signal(Beat(self._config), name=f"beat_after{k}") for k in range(ahead)]
        drains = [self.drain] + [Signal(name=f"drain_after{k}") for k in range(ahead)]
        for values in (beats, drains):
            m.d.sync += [after.eq(before) for before, after in zip(values, values[1:], strict=False)]
        m.d.comb += [
            self.control.capture.eq(drains[-1]),
            self.control.beat.eq(beats[-1]),
            self.control.settings.eq(settings),
        ]

    def _write(self, m, instruction, dst_base, settings, project, row_issued, flushed):
        """Write a row's columns as soon as they are assembled, one for each group a cycle."""
        config = self._config
        lines = self.lines
        pulses = Signal(self._m_delay + config.beats)
        m.d.sync += pulses.eq(Mux(self.start, 0, (pulses << 1) | row_issued))
        complete = Mux(project, pulses[self._y_delay + config.beats - 2], pulses[self._m_delay + config.beats - 2])
        index = Signal(range(max(2, lines)), name="index", attrs=fanout(256))
        picking = Signal()
        with m.If(complete):
            m.d.sync += [picking.eq(1), index.eq(0)]
        with m.Elif(picking):
            m.d.sync += [index.eq(index + 1), picking.eq(index != lines - 1)]
        writing = self._pick(m, picking, index)
        done = Signal.like(self.lines_done)
        with m.If(self.start):
            m.d.sync += [done.eq(0), self.lines_done.eq(0)]
        with m.Elif(writing):
            m.d.sync += done.eq(done + 1)
        with m.If(~self.start):
            m.d.sync += self.lines_done.eq(done)
        m.d.sync += [
            flushed.eq(done == instruction.rows * lines),
            self.write_valid.eq(writing),
            self.write_line.eq(dst_base + done),
            self.write_channels.eq(Mux(instruction.masked, settings.active | settings.reset,
                                       (1 << config.channels) - 1)),
        ]

    def _pick(self, m, picking, index):
        """Pick column ``index`` of each group. Returns ``picking``, as late as the columns before the last step."""
        config, lines = self._config, self.lines
        picked = Signal.like(self.write_columns, reset_less=True)
        m.d.comb += self.write_columns.eq(picked)
        fine = (_PICK - 1).bit_length()
        writing, coarse = picking, index
        if self._picks > 1:
            coarse = Signal(len(index) - fine, name="coarse", attrs=fanout(256))
            writing = Signal(name="writing")
            m.d.sync += [coarse.eq(index[fine:]), writing.eq(picking)]
        for group in range(config.groups):
            columns = [self.columns[k * config.groups + group] for k in range(lines)]
            if self._picks > 1:
                near = [Signal.like(columns[0], name=f"near{group}_{k}", reset_less=True)
                        for k in range(lines // _PICK)]
                m.d.sync += [one.eq(Array(columns[k * _PICK:(k + 1) * _PICK])[index[:fine]])
                             for k, one in enumerate(near)]
                columns = near
            m.d.sync += picked[group].eq(Array(columns)[coarse] if len(columns) > 1 else columns[0])
        return writing
