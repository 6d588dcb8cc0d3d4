# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Assemble: drains the PEs row by row, runs the slices on the rows and writes the columns."""

from functools import reduce
from operator import or_
from typing import NamedTuple

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from openese.rtl.array import PEArray
from openese.rtl.attributes import fanout
from openese.rtl.bundles import DrainPort
from openese.rtl.config import bits_for
from openese.rtl.elementwise import Beat, Kind, Settings, Slice, SliceControl, rows_ahead
from openese.rtl.elementwise.shared import delayed
from openese.rtl.interfaces import activations
from openese.rtl.program import Instruction, Opcode
from openese.rtl.spmat_read import column_lead
from openese.rtl.vector_memory import lines_of

__all__ = ["Assemble"]

#: Choices in the first of two steps in which a line is picked: one LUT of six inputs a bit. One step does for eight.
_PICK, _PICK_ALL = 4, 8
#: Gates of a cell row in the order of a slice's work: up to c, and then, when c is written, to m.
BEFORE, BEHIND = (Kind.G, Kind.I, Kind.F), (Kind.CELL_TANH, Kind.O)
#: Those of a GRU: up to r . n_h, and then, when this is there, to y.
GRU_BEFORE, GRU_BEHIND = (Kind.N_H, Kind.R), (Kind.N_X, Kind.Z)
#: Rows whose m or y come as early as they can. With ``forward``, the sums of the others' gates up to c are drained
#: first: the array then needs its accumulators for the next layer.
FIRST_ROWS = 4


class Part(NamedTuple):
    """A part of the work on each row: the gates up to c, or what is left for m, or y. Of a GRU: the gates up to
    r . n_h, or what is left for y.

    Attributes
    ----------
    kind : Signal
        Its next operation.
    row : Signal
        The row of that operation.
    left : Signal
        Rows whose last operation has not begun.
    """

    kind: Signal
    row: Signal
    left: Signal

    @classmethod
    def new(cls, config, name):
        """Registers for a machine of capacity ``config``."""
        rows = bits_for(config.dense_rows * config.cell_rows)
        return cls(Signal(3, name=f"{name}_kind"), Signal(rows, name=f"{name}_row"), Signal(rows, name=f"{name}_left"))


class Operation(NamedTuple):
    """The operation that the slices are given.

    Attributes
    ----------
    active, kind, row : Signal
        There is one; its kind, and its row of the instruction.
    phase, beat : Signal
        Where it is.
    phase_row : Signal
        Accumulators from the first phase's to this phase's.
    last_phase, ends : Signal
        It is in its last phase, and in its last cycle.
    """

    active: Signal
    kind: Signal
    row: Signal
    phase: Signal
    beat: Signal
    phase_row: Signal
    last_phase: Signal
    ends: Signal

    @classmethod
    def new(cls, config):
        """Registers for a machine of capacity ``config``."""
        return cls(
            active=Signal(name="_active"), kind=Signal(3, name="_kind"),
            row=Signal(bits_for(config.dense_rows * config.cell_rows), name="_row"), phase=Signal(3, name="_phase"),
            beat=Signal(range(config.beats), name="_beat"),
            phase_row=Signal(bits_for(config.accumulator_rows - 1), name="_phase_row"),
            last_phase=Signal(name="_last_phase"), ends=Signal(name="_ends"))


class Assemble(wiring.Component):
    """Carries out ELEMENTWISE and PROJECT (paper: Assemble and the blocks behind it).

    It drains the PEs row by row into their slices, which all work in step, and writes the columns that they assemble to
    the vector memory. An operation of a gate takes ``beats`` cycles for every phase of its sums. A cell row takes the
    operations g, i and f, and when c is written, tanh(c) and o. Rows overlap: when an operation ends, the next is one
    of the oldest row whose c is there, or else of the row that comes next. With ``forward``, after the first rows, g, i
    and f of the rows to come go before tanh(c) and o of the others. A row of a GRU takes n_h and r, and when
    r . n_h is there, n_x and z; at most `rows_ahead` rows wait for these. With the reset before the product, one
    instruction takes r of every row, and another n_x and z. A row of a projection takes one operation, and so does one
    of a dense layer. Its biases take the places of a cell row's four gates, four rows a cell row.
    A CLEAR clears all accumulators, a row each cycle; after a reset Assemble does this first.

    The lines of a row are written one a cycle, or as many as `Config.write_lines`, while the slices work on the next
    row. The place of a column in a slice is free for the next row as soon as it is picked. Each channel is picked as
    early as all lines of it allow, and then waits for the others.

    Latency: `turn_delay` cycle from ``go`` to the first ``drain``; `control_delay` from ``state_row`` to ``control``;
    `write_delay` from the first cycle of a row's last phase to its first line. Two rows are at least `spacing` cycles
    apart. Cost: a multiplexer over all columns of a row; a shift register for each bit of a line that is picked early.

    Members
    -------
    start : In(1) — take ``instruction``, ``dst_base``, ``acc_base`` and ``settings``; only while not ``busy``.
    instruction : In(Instruction) — an ELEMENTWISE or PROJECT of at least one row, or a CLEAR.
    dst_base : In(line_bits) — first line that it writes.
    acc_base : In(bits_for(accumulator_rows - 1)) — first accumulator of its rows.
    settings : In(Settings) — number formats and voices.
    go : In(1) — the sums are complete: begin.
    busy : Out(1) — an instruction is under way, or accumulators are being cleared.
    lines_done : Out(line_bits + 1) — lines that the instruction has written.
    lines_coming : Out(line_bits + 1) — those that can be read two cycles later, with ``forward`` `column_lead` more.
    drain : Out(1) — read and clear a row of all PEs.
    drain_address : Out(bits_for(accumulator_rows - 1)) — the row's address.
    control : Out(SliceControl) — the slices' work on it.
    columns : In(array(row_pes, activations)) — the columns that the slices assemble.
    write_valid : Out(1) — write all banks of the vector memory.
    write_line : Out(line_bits) — the line, or the first of those that are written.
    write_channels : Out(channels) — channels to write.
    write_columns : Out(array(write_columns, activations)) — a column for each bank.
    state_row : In(bits_for(cell_rows - 1)) — cell row that the slices read while not ``busy``; see `StateAccess`.
    state_beat : In(bits_for(beats - 1)) — beat that they read.
    state_bank : In(bank_bits) — bank that they read. Only if the machine has several.
    """

    turn_delay = 1
    control_delay = 1 + PEArray.drain_delay - PEArray.input_delay

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
            "lines_coming": Out(line + 1),
            **DrainPort(config).ports(),
            "control": Out(SliceControl(config)),
            "columns": In(data.ArrayLayout(activations(config), config.row_pes)),
            "write_valid": Out(1),
            "write_line": Out(line),
            "write_channels": Out(config.channels),
            "write_columns": Out(data.ArrayLayout(activations(config), config.write_columns)),
            "state_row": In(bits_for(config.cell_rows - 1)),
            "state_beat": In(bits_for(config.beats - 1)),
            **({"state_bank": In(config.bank_bits)} if config.banks > 1 else {}),
        })
        for signal in (self.drain, self.drain_address):
            signal.attrs.update(fanout(64))  # a load for each PE
        self.write_valid.attrs.update(fanout(128))
        a_slice = Slice(config)
        #: Steps in which a column is picked out of those of a row.
        self.picks = 1 if config.row_writes <= _PICK_ALL else 2
        self._y_delay = PEArray.drain_delay + a_slice.y_delay
        self._m_delay = PEArray.drain_delay + a_slice.m_delay
        self._h_delay = PEArray.drain_delay + a_slice.h_delay
        self._table_delay = PEArray.drain_delay + a_slice.table_delay
        self.c_delay, self.r_delay = a_slice.c_delay, a_slice.r_delay
        #: By bank and channel, the beat of its column in each write; and the cycle, after that of the first beat, from
        #: which on those of a write are picked in each cycle.
        self._beats = {(bank, channel): [self._beat(row, channel)
                                         for row in range(bank, config.row_pes, config.write_columns)]
                       for bank in range(config.write_columns) for channel in range(config.channels)}
        self._picked_from = {place: max(beat - write for write, beat in enumerate(beats))
                             for place, beats in self._beats.items()}

    def _beat(self, pe_row, channel):
        """The beat of a slice's work in which a column of ``pe_row`` is assembled."""
        config = self._config
        return (pe_row % config.rows_per_slice * config.channels + channel) // config.slice_width

    @property
    def spacing(self):
        """Least cycles between two rows: the lines of a row are written, and a column is picked before its place takes
        the next row's.
        """
        held = [first + write - beat + 1 for place, first in self._picked_from.items()
                for write, beat in enumerate(self._beats[place])]
        return max(self._config.beats, self._config.row_writes, *held)

    @property
    def waits(self):
        """Cycles that the picked columns of each bank and channel wait for the latest."""
        latest = max(self._picked_from.values())
        return [latest - start for start in self._picked_from.values()]

    def write_delay(self, kind, table=False):
        """Cycles from the first cycle of the last phase of a row's last operation, which is of ``kind``, to the first
        of its lines being written. The line counts in ``lines_done`` a cycle later. ``table``: of a dense layer with
        one.
        """
        delay = self._table_delay if table else {
            Kind.PROJECTION: self._y_delay, Kind.O: self._m_delay, Kind.Z: self._h_delay,
            Kind.R: self._h_delay}[kind]
        return delay + 1 + max(self._picked_from.values()) + self.picks

    def elaborate(self, platform):
        m = Module()
        config = self._config
        instruction = Signal(Instruction(config))
        dst_base = Signal.like(self.dst_base)
        acc_base = Signal.like(self.acc_base)
        settings = Signal(Settings(config))
        project = Signal()
        starts_project = Signal()
        m.d.comb += starts_project.eq(self._by_rows(self.instruction))
        with m.If(self.start):
            m.d.sync += [
                instruction.eq(self.instruction),
                project.eq(starts_project),
                dst_base.eq(self.dst_base),
                acc_base.eq(self.acc_base),
                settings.eq(self.settings),
            ]
        if config.banks > 1:
            with m.Elif(~self.busy):
                m.d.sync += settings.bank.eq(self.state_bank)
        flushed = Signal(name="_flushed")
        operation = Operation.new(config)
        before, behind = Part.new(config, "before"), Part.new(config, "behind")
        beat = Signal(Beat(config))
        runs = self._sequence(m, instruction.opcode == Opcode.CLEAR, operation, beat, behind, flushed)
        self._issue(m, runs, operation, beat, instruction, acc_base, project)
        self._choose(m, runs, operation, before, behind, instruction)
        with m.If(self.start):
            self._begin(m, operation, before, behind, starts_project)
        row_issued = Signal()
        last_gate = Mux(instruction.gru, Kind.Z, Kind.O) if config.gru else Kind.O
        if config.gru_before:
            last_gate = Mux(instruction.resets, Kind.R, last_gate)
        m.d.sync += row_issued.eq(runs & operation.active & operation.last_phase & (operation.beat == 0)
                                  & ((operation.kind == last_gate) | project))
        self._control(m, beat, settings)
        self._write(m, instruction, dst_base, settings, project, row_issued, flushed)
        return m

    def _by_rows(self, instruction):
        """Whether an instruction is a projection or a dense layer, whose rows are no cells."""
        projects = instruction.opcode == Opcode.PROJECT
        return projects | instruction.dense if self._config.dense else projects

    def _sequence(self, m, clears, operation, beat, behind, flushed):
        """Clear the accumulators, then carry out instructions. Returns whether one has begun and not ended.

        ``clears``: the instruction only clears them.
        """
        sweep = Signal.like(self.drain_address, name="sweep")
        runs, begun = Signal(name="_runs"), Signal(name="_begun")
        m.d.sync += [self.drain.eq(0), beat.valid.eq(0)]
        with m.FSM() as fsm:
            with m.State("CLEAR"):
                m.d.sync += [self.drain.eq(1), self.drain_address.eq(sweep), sweep.eq(sweep + 1)]
                with m.If(sweep == self._config.accumulator_rows - 1):
                    m.next = "IDLE"
                    if self._config.accumulator_rows.bit_count() > 1:
                        m.d.sync += sweep.eq(0)
            with m.State("IDLE"):
                m.d.sync += [beat.row.eq(self.state_row), beat.beat.eq(self.state_beat), begun.eq(0)]
                with m.If(self.start):
                    m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += runs.eq((begun | self.go) & ~clears)
                m.d.sync += begun.eq(runs)
                with m.If(clears):
                    m.next = "CLEAR"
                with m.If(operation.ends & (behind.left == 0)):
                    m.next = "FLUSH"
            with m.State("FLUSH"):
                with m.If(flushed):
                    m.next = "IDLE"
        m.d.comb += self.busy.eq(~fsm.ongoing("IDLE"))
        return runs

    def _begin(self, m, operation, before, behind, project):
        """At an instruction's start, take its first operation."""
        rows = self.instruction.rows
        m.d.sync += [
            operation.active.eq(1), operation.row.eq(0),
            operation.phase.eq(0), operation.beat.eq(0), operation.phase_row.eq(0),
            before.row.eq(0), behind.row.eq(0),
        ]
        with m.If(project):
            m.d.sync += [operation.kind.eq(Kind.PROJECTION), behind.kind.eq(Kind.PROJECTION), before.left.eq(0),
                         behind.row.eq(1), behind.left.eq(rows - 1)]
        with m.Else():
            m.d.sync += [operation.kind.eq(Kind.G), before.kind.eq(Kind.I), behind.kind.eq(Kind.CELL_TANH),
                         before.left.eq(rows), behind.left.eq(rows)]
            if self._config.gru:
                with m.If(self.instruction.gru):
                    m.d.sync += [operation.kind.eq(Kind.N_H), before.kind.eq(Kind.R), behind.kind.eq(Kind.N_X)]
            if self._config.gru_before:
                with m.If(self.instruction.resets):
                    m.d.sync += [operation.kind.eq(Kind.R), behind.kind.eq(Kind.R), before.left.eq(0),
                                 behind.row.eq(1), behind.left.eq(rows - 1)]
                with m.Elif(self.instruction.reset_before):
                    m.d.sync += [operation.kind.eq(Kind.N_X), behind.kind.eq(Kind.Z), before.left.eq(0)]

    def _issue(self, m, runs, operation, beat, instruction, acc_base, project):
        """Give the slices the operation's beat, drain its row, and go on to the next phase."""
        last_beat = Signal(name="_last_beat")
        m.d.comb += [
            last_beat.eq(operation.beat == self._config.beats - 1),
            operation.last_phase.eq((operation.phase == instruction.phase_last) | (operation.kind == Kind.CELL_TANH)),
            operation.ends.eq(runs & operation.active & last_beat & operation.last_phase),
        ]
        with m.If(runs):
            m.d.sync += [
                self.drain.eq(operation.active & (operation.beat == 0) & (operation.kind != Kind.CELL_TANH)),
                self.drain_address.eq(acc_base + operation.phase_row
                                      + Mux(project, operation.row, Cat(operation.kind[:2], operation.row))),
                beat.valid.eq(operation.active),
                beat.kind.eq(operation.kind),
                beat.row.eq(instruction.cell_base + (Mux(project, operation.row >> 2, operation.row)
                                                     if self._config.dense else operation.row)),
                beat.beat.eq(operation.beat),
                beat.first.eq(operation.phase == 0),
                beat.last.eq(operation.last_phase),
                *([beat.place.eq(Mux(project, operation.row, operation.kind))] if self._config.dense else []),
            ]
            with m.If(operation.active):
                m.d.sync += operation.beat.eq(operation.beat + 1)
                with m.If(last_beat):
                    m.d.sync += [operation.beat.eq(0), operation.phase.eq(operation.phase + 1),
                                 operation.phase_row.eq(operation.phase_row + instruction.phase_stride)]

    def _choose(self, m, runs, operation, before, behind, instruction):
        """When there is no operation, or it ends, take the next."""
        config = self._config
        gru = instruction.gru if config.gru else None
        since_row = Signal(range(self.spacing), name="_since_row")
        waiting = Signal(bits_for(config.cell_rows), name="_waiting")  # rows whose c, or r . n_h, is there
        free, takes_behind, takes_before = (Signal(name=f"_{name}")
                                            for name in ("free", "takes_behind", "takes_before"))
        too_early = self._too_early(operation, gru)
        is_row, ends_before = behind.kind != Kind.CELL_TANH, before.kind == BEFORE[-1]
        if gru is not None:
            is_row &= behind.kind != Kind.N_X
            ends_before |= gru & (before.kind == Kind.R)
            too_early["before"] |= self._held_up(m, gru, takes_before & ends_before, takes_behind & is_row)
        can_before = (before.left != 0) & ~too_early["before"]
        can_behind = (behind.left != 0) & Mux(is_row, since_row == 0, waiting != 0) & ~too_early["behind"]
        if config.forward:
            can_behind &= is_row | ~can_before | (behind.row < FIRST_ROWS)
        m.d.comb += [
            free.eq(runs & (~operation.active | operation.ends)),
            takes_behind.eq(free & can_behind),
            takes_before.eq(free & can_before & ~takes_behind),
        ]
        with m.If(runs & (since_row != 0)):
            m.d.sync += since_row.eq(since_row - 1)
        with m.If(free):
            m.d.sync += [operation.active.eq(takes_before | takes_behind), operation.phase.eq(0),
                         operation.phase_row.eq(0)]
        with m.If(takes_behind):
            m.d.sync += [operation.kind.eq(behind.kind), operation.row.eq(behind.row)]
            with m.If(is_row):
                m.d.sync += [behind.row.eq(behind.row + 1), behind.left.eq(behind.left - 1),
                             since_row.eq(self.spacing - 1)]
            alternates = behind.kind != Kind.PROJECTION
            if config.gru_before:
                alternates &= ~instruction.resets
            with m.If(alternates):
                m.d.sync += behind.kind.eq(Mux(is_row, Kind.CELL_TANH, Kind.O))
                if gru is not None:
                    with m.If(gru):
                        m.d.sync += behind.kind.eq(Mux(is_row, *GRU_BEHIND))
        with m.If(takes_before):
            m.d.sync += [operation.kind.eq(before.kind), operation.row.eq(before.row)]
            with m.Switch(before.kind):
                for kind, after in zip(BEFORE, (*BEFORE[1:], BEFORE[0]), strict=True):
                    with m.Case(kind):
                        m.d.sync += before.kind.eq(after)
            if gru is not None:
                with m.If(gru):
                    m.d.sync += before.kind.eq(Mux(ends_before, *GRU_BEFORE))
            with m.If(ends_before):
                m.d.sync += [before.row.eq(before.row + 1), before.left.eq(before.left - 1)]
        with m.If(self.start):
            # A projection begins with a row.
            begins_with_row = self._by_rows(self.instruction)
            if config.gru_before:
                begins_with_row |= self.instruction.resets
            m.d.sync += since_row.eq(Mux(begins_with_row, self.spacing - 1, 0))
        written = Signal(self.c_delay - 2, name="_written")
        last_before, arrives = BEFORE[-1], written[-1]
        if gru is not None:
            last_before, arrives = Mux(gru, *(part[-1] for part in (GRU_BEFORE, BEFORE))), Mux(
                gru, written[self.r_delay - 3], arrives)
        writes = operation.active & operation.last_phase & (operation.beat == 0) & (operation.kind == last_before)
        m.d.sync += [
            written.eq(Cat(runs & writes, written)),
            waiting.eq(waiting + arrives - (takes_behind & ~is_row)),
        ]
        if config.gru_before:
            # Where r . h' is there, the n_x of all rows can be taken, and that of the first is.
            second = self.instruction.reset_before & ~self.instruction.resets
            with m.If(self.start):
                m.d.sync += waiting.eq(Mux(second, self.instruction.rows - 1, 0))

    def _too_early(self, operation, gru):
        """Whether the operation that ends, one of a single beat, has not left what the next of its part reads.

        What g leaves for i, i for f, tanh(c) for o and n for z can be read two cycles later, with ``forward`` one.
        """
        waits = self._config.beats == 1 and not self._config.forward
        kinds = {"before": (Kind.G, Kind.I), "behind": (Kind.CELL_TANH,)} if waits else {}
        too_early = {name: operation.active & Cat(operation.kind == kind for kind in kinds.get(name, ())).any()
                     for name in ("before", "behind")}
        if gru is not None and kinds:
            too_early = {"before": too_early["before"] & ~gru,
                         "behind": too_early["behind"] | (operation.active & gru & (operation.kind == Kind.N_X))}
        return too_early

    def _held_up(self, m, gru, row_before, row_behind):
        """Whether as many rows of a GRU wait for n_x and z as the slices keep r . n_h of. The arguments say that the
        last operation of a row's part is taken."""
        most = rows_ahead(self._config)
        ahead = Signal(range(most + 1), name="_ahead")
        with m.If(self.start):
            m.d.sync += ahead.eq(0)
        with m.Else():
            m.d.sync += ahead.eq(ahead + row_before - row_behind)
        return gru & (ahead == most)

    def _control(self, m, beat, settings):
        """The beat follows its drain through the array to the slices."""
        ahead = self.control_delay - 1
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
        """Write a row's columns as soon as they are assembled, one for each bank a cycle."""
        config = self._config
        writes, lines = config.row_writes, config.write_lines
        first = min(self._picked_from.values())
        pulses = Signal((self._h_delay if config.gru else self._m_delay) + first - 1)
        m.d.sync += pulses.eq(Mux(self.start, 0, (pulses << 1) | row_issued))

        def writes_of_rows(lead):
            """Whether the columns of a write are picked in the next cycle and in this one, and its number in its row,
            ``lead`` cycles ahead."""
            last = first - 2 - lead
            of_rows, of_cells = pulses[self._y_delay + last], pulses[self._m_delay + last]
            if config.dense:
                of_rows = Mux(instruction.activation[1], pulses[self._table_delay + last], of_rows)
            if config.gru:
                of_cells = Mux(instruction.gru, pulses[self._h_delay + last], of_cells)
            index = Signal(range(max(2, writes)), name="index")
            picking = Signal()
            begins, goes_on = Signal(), Signal()
            m.d.comb += [
                begins.eq(Mux(project, of_rows, of_cells)),
                goes_on.eq(picking & (index != writes - 1)),
            ]
            m.d.sync += picking.eq(begins | goes_on)
            with m.If(begins):
                m.d.sync += index.eq(0)
            with m.Elif(picking):
                m.d.sync += index.eq(index + 1)
            return begins | goes_on, picking, index

        ahead, writing = self._pick(m, *writes_of_rows(0))
        if lead := column_lead(config):
            comes, *_ = writes_of_rows(lead)
            steps = max(self._picked_from.values()) - first + self.picks
            ahead = delayed(m, comes, steps - 1, reset_less=False)
        done = Signal.like(self.lines_done)
        with m.If(self.start):
            m.d.sync += [done.eq(0), self.lines_done.eq(0), self.lines_coming.eq(0)]
        with m.Else():
            m.d.sync += [done.eq(done + lines_of(config, writing)),
                         self.lines_coming.eq(self.lines_coming + lines_of(config, ahead))]
        with m.If(~self.start):
            m.d.sync += self.lines_done.eq(done)
        m.d.sync += [
            flushed.eq(done == instruction.rows * (writes * lines)),
            self.write_valid.eq(writing),
            self.write_line.eq(dst_base + done),
            self.write_channels.eq(Mux(instruction.masked, settings.active | settings.reset,
                                       (1 << config.channels) - 1)),
        ]

    def _pick(self, m, ahead, picking, index):
        """Pick column ``index`` of each bank and channel. Returns ``ahead``, which is ``picking`` a cycle before, and
        ``picking``, as late as the columns before the last step."""
        first, last = min(self._picked_from.values()), max(self._picked_from.values())
        indices = [index] + [Signal.like(index, name=f"index_after{k}") for k in range(1, last - first + 1)]
        m.d.sync += [after.eq(before) for before, after in zip(indices, indices[1:], strict=False)]
        width = self._config.write_columns
        for (bank, channel), start in self._picked_from.items():
            columns = [self.columns[row][channel] for row in range(bank, self._config.row_pes, width)]
            picked = self._picked(m, columns, indices[start - first], f"{bank}_{channel}")
            m.d.comb += self.write_columns[bank][channel].eq(delayed(m, picked, last - start))
        after = Signal(last - first + self.picks, name="picking_after")
        m.d.comb += after[0].eq(picking)
        m.d.sync += after[1:].eq(after)
        return (ahead, *after)[-2:]

    def _picked(self, m, columns, index, name):
        """One of ``columns``, `picks` cycles later. In the first of two steps, all registers but that of the group
        picked from become zero; the second is their OR."""
        picked = Signal.like(columns[0], name=f"picked{name}", reset_less=True)
        if self.picks == 1:
            m.d.sync += picked.eq(Array(columns)[index] if len(columns) > 1 else columns[0])
            return picked
        near = [Signal(len(picked), name=f"near{name}_{k}", reset_less=True) for k in range(len(columns) // _PICK)]
        fine = (_PICK - 1).bit_length()
        for k, one in enumerate(near):
            with m.If(index[fine:] == k):
                m.d.sync += one.eq(Array(columns[k * _PICK:(k + 1) * _PICK])[index[:fine]])
            with m.Else():
                m.d.sync += one.eq(0)
        m.d.sync += picked.eq(reduce(or_, near))
        return picked
