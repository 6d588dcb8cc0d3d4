# SPDX-License-Identifier: Apache-2.0
"""Assemble: every row is drained once, when its sums are complete, every line is written once, and then it ends."""

from itertools import zip_longest

from amaranth.hdl import Cat, Mux, Signal
from amaranth.lib import data

from openese.rtl.assemble import Assemble
from openese.rtl.elementwise import Kind
from openese.rtl.program import Instruction, Opcode
from tests.formal.engine import implies, proof
from tests.formal.sizes import describe, small

#: States of Assemble.
CLEAR, IDLE, RUN, FLUSH = range(4)
#: A row has four lines; an operation takes two cycles.
LINES, BEATS = small(pes=4), small(channels=2, slice_width=1)


def machine(config):
    return describe(config, "pes", "channels", "slice_width", "cell_rows", "accumulator_rows") + ", up to two phases"


class Instructions:
    """Assemble, and ELEMENTWISE and PROJECT of any rows and up to two phases, from any accumulator on, and CLEAR.

    Attributes
    ----------
    project, rows, phases, line, base : Signal
        Of the last instruction.
    works : Signal
        It is under way, and no CLEAR.
    begun : Value
        Its sums are complete.
    ended : Value
        It ends in this cycle.
    inside : Inside
        The registers of Assemble.
    """

    def __init__(self, h, config):
        self.dut = dut = Assemble(config)
        h.add(dut)
        #: Accumulators from a phase to the next: those of the gates of all cells.
        self.stride = 4 * config.cell_rows
        m, given = h.m, dut.instruction
        self.project, self.rows, self.phases = Signal(), Signal.like(given.rows), Signal(2)
        self.line, self.base = Signal.like(dut.write_line), Signal.like(dut.acc_base)
        self.works, self.complete = Signal(), Signal()
        self.begun = self.complete | dut.go
        work = (given.opcode == Opcode.ELEMENTWISE) | (given.opcode == Opcode.PROJECT)
        h.assume(implies(dut.start, ~dut.busy & (work | (given.opcode == Opcode.CLEAR))),
                 implies(dut.start & work, (given.rows != 0) & (given.rows <= config.cell_rows)
                         & (given.phase_last <= 1) & (given.phase_stride == self.stride)))
        with m.If(dut.start):
            m.d.sync += [
                self.project.eq(given.opcode == Opcode.PROJECT), self.rows.eq(given.rows),
                self.phases.eq(given.phase_last + 1), self.line.eq(dut.dst_base), self.base.eq(dut.acc_base),
                self.works.eq(work), self.complete.eq(0)]
        with m.Elif(self.works):
            m.d.sync += [self.complete.eq(self.begun), self.works.eq(dut.busy)]
        self.ended = self.works & ~dut.busy & ~h.past(dut.start)
        self.inside = Inside(h, self, config)


class Part:
    """A part of the work on each row; see `openese.rtl.assemble.Part`."""

    def __init__(self, h, dut, name):
        self.kind, self.row, self.left = h.inside(dut, f"{name}_kind", f"{name}_row", f"{name}_left")


class Inside:
    """The registers of Assemble, and what they have to do with each other: with it, a proof needs no more than a step.

    Attributes
    ----------
    invariants : list of Value
    """

    def __init__(self, h, around, config):
        self._around, self._dut, self._config, self._writes = around, around.dut, config, config.row_writes
        dut = around.dut
        self.state, self.active, self.kind, self.row, self.phase, self.beat = h.inside(
            dut, "fsm_state", "_active", "_kind", "_row", "_phase", "_beat")
        self.since_row, self.waiting, self.written = h.inside(dut, "_since_row", "_waiting", "_written")
        self.done, self.flushed = h.inside(dut, "done", "_flushed")
        self.before, self.behind = Part(h, dut, "before"), Part(h, dut, "behind")
        #: It carries out an instruction, and no CLEAR.
        self.runs = around.works & ((self.state == RUN) | (self.state == FLUSH))
        self.phase_last = around.phases - 1
        #: Cycles that the operation has taken.
        self.cycles = self.phase * config.beats + self.beat
        #: The operation has not come to its last phase.
        self.early = (self.phase < self.phase_last) | (self.beat == 0)
        self._rows_written(h)
        self.invariants = [*self._of_states(h), *self._of_parts(), *self._of_operations(h), *self._of_rows()]

    def _rows_written(self, h):
        """Where the rows are whose last operation has begun."""
        dut = self._dut
        row_issued, pulses, picking, index, after = h.inside(
            dut, "row_issued", "pulses", "picking", "index", "picking_after")
        last = min(dut._picked_from.values()) - 2
        chosen = [picking & (index == line) for line in range(self._writes)]
        of_y, of_m = ([row_issued, *pulses[:delay + last + 1]] for delay in (dut._y_delay, dut._m_delay))

        def either(*pair):
            return [Mux(self._around.project, y, m) for y, m in zip_longest(*pair, fillvalue=0)]

        #: Rows on their way to the choice of their columns, by the cycles that they have been.
        self.rows = either(of_y, of_m)
        #: As well those whose columns are being chosen.
        self.places = either(of_y + chosen, of_m + chosen)
        #: Columns on their way to the memory, or still to be chosen.
        self.columns = [*(picking & (index <= line) for line in range(self._writes)), *after[1:]]
        self.writing = after[-1]
        self.index_fits = implies(picking, index < self._writes)
        #: A set bit moves on in every cycle.
        self.way = [*self.places, *after[1:]]

    def _of_states(self, h):
        around = self._around
        instruction, project, dst_base, acc_base, begun = h.inside(
            self._dut, "instruction", "project", "dst_base", "acc_base", "_begun")
        held = data.View(Instruction(self._config), instruction)
        quiet = (self.state == CLEAR) | (self.state == IDLE)
        return [
            implies(around.works, self.state != CLEAR),
            implies(self.state == FLUSH, around.works),
            implies(around.works & (self.state == RUN), begun == around.complete),
            implies(self.state == RUN, around.works | (held.opcode == Opcode.CLEAR)),
            implies(around.works, (held.opcode != Opcode.CLEAR) & (project == around.project)
                    & (held.rows == around.rows) & (held.phase_last == self.phase_last)
                    & (held.phase_stride == around.stride) & (dst_base == around.line) & (acc_base == around.base)
                    & (around.rows != 0) & (around.rows <= self._config.cell_rows)
                    & (around.phases != 0) & (around.phases <= 2)),
            implies(quiet | ~around.works, ~Cat(self.places).any() & ~Cat(self.columns).any() & ~self._dut.write_valid
                    & (self.waiting == 0) & (self.written == 0)),
        ]

    def _of_parts(self):
        around, before, behind = self._around, self.before, self.behind
        cell = self.runs & ~around.project
        return [
            implies(self.runs, behind.row + behind.left == around.rows),
            implies(self.runs & around.project, (before.left == 0) & (behind.kind == Kind.PROJECTION)),
            implies(cell, before.row + before.left == around.rows),
            implies(cell, (before.kind == Kind.G) | (before.kind == Kind.I) | (before.kind == Kind.F)),
            implies(cell & (before.left == 0), before.kind == Kind.G),
            implies(cell, (behind.kind == Kind.CELL_TANH) | (behind.kind == Kind.O)),
            implies(cell & (behind.left == 0), behind.kind == Kind.CELL_TANH),
            # A cell whose f has begun waits for c, or for o, or has been taken on.
            implies(cell, before.row == behind.row + (behind.kind == Kind.O) + self.waiting + sum(self.written)
                    + (self.active & (self.kind == Kind.F) & self.early)),
            implies(self.runs & around.project, (self.waiting == 0) & (self.written == 0)),
            implies(self.state == FLUSH, (behind.left == 0) & ~self.active),
            implies(self.runs & (self.state == RUN), (behind.left != 0) | self.active),
        ]

    def _of_operations(self, h):
        around, before, behind = self._around, self.before, self.behind
        phase_row, = h.inside(self._dut, "_phase_row")
        active = self.runs & self.active
        return [
            implies(self.runs & ~around.complete, self.active & (self.cycles == 0) & (self.row == 0)
                    & (self.kind == Mux(around.project, Kind.PROJECTION, Kind.G)) & (self.state == RUN)),
            implies(active, (self.kind == Kind.PROJECTION) == around.project),
            implies(active & (self.kind == Kind.G),
                    (before.kind == Kind.I) & (self.row == before.row) & (before.left != 0)),
            implies(active & (self.kind == Kind.I),
                    (before.kind == Kind.F) & (self.row == before.row) & (before.left != 0)),
            implies(active & (self.kind == Kind.F), (before.kind == Kind.G) & (self.row + 1 == before.row)),
            implies(active & (self.kind == Kind.CELL_TANH),
                    (behind.kind == Kind.O) & (self.row == behind.row) & (behind.left != 0) & (self.phase == 0)),
            implies(active & (self.kind == Kind.O), (behind.kind == Kind.CELL_TANH) & (self.row + 1 == behind.row)),
            implies(active & around.project, self.row + 1 == behind.row),
            implies(active, (self.kind <= Kind.PROJECTION) & (self.phase <= self.phase_last)),
            implies(self.runs, (self.beat < self._config.beats)
                    & (phase_row == (self.phase * around.stride)[:len(phase_row)])),
            implies(self.runs & ~self.active, self.cycles == 0),
        ]

    def _of_rows(self):
        around, dut = self._around, self._dut
        spacing, last = dut.spacing, self.phase_last * self._config.beats
        pending = self.active & ((self.kind == Kind.O) | around.project) & self.early
        apart = [~(self.places[k] & self.places[k + gap])
                 for k in range(len(self.places)) for gap in range(1, spacing) if k + gap < len(self.places)]
        later = [implies(self.runs & place, (k + self.since_row + last + 2 >= spacing)
                         & implies(pending, k + last - self.cycles + 1 >= spacing))
                 for k, place in enumerate(self.places[:spacing])]
        return [
            self.index_fits, *apart, *later,
            self.since_row < max(spacing, 1),
            implies(self.runs & pending, self.since_row + self.cycles + 1 >= spacing),
            # Every row whose last operation has been taken is written, or on its way.
            implies(around.works, self._writes * self.behind.row == self.done + sum(self.columns)
                    + self._writes * (sum(self.rows) + (self.runs & pending))),
            implies((self.state == FLUSH) & self.flushed, self.done == around.rows * self._writes),
            implies(around.works & (self.state == IDLE), (self.behind.left == 0) & (self.behind.row == around.rows)),
        ]


    def left(self):
        """A measure of what is left to do of an instruction whose sums are complete; more than the cycles that it
        takes."""
        before, behind, config = self.before, self.behind, self._config
        # Of the row of the next operation, those that are taken.
        taken = Mux(before.kind == Kind.I, 1, Mux(before.kind == Kind.F, 2, 0))
        operations = Mux(self._around.project, behind.left,
                         3 * before.left - taken + 2 * behind.left - (behind.kind == Kind.O))[:8]
        until_c = len(self.written)
        for place, bit in enumerate(self.written):
            until_c = Mux(bit, len(self.written) - place, until_c)
        wait = Mux(behind.kind != Kind.CELL_TANH, self.since_row, Mux(self.waiting != 0, 0, until_c))
        # More than a wait, and than an operation and the wait behind it.
        longest = len(self.written) + self._dut.spacing + 1
        most = longest + 2 * config.beats + 1
        until_written = Mux(self.flushed, 1, 2)
        for place, bit in reversed(list(enumerate(self.way))):
            until_written = Mux(bit, 3 + len(self.way) - place, until_written)
        running = operations * most + Mux(self.active, longest + 2 * config.beats - self.cycles, wait)
        return Mux(self.state == RUN, 3 + len(self.way) + running, until_written)


def drains(h, config):
    around = Instructions(h, config)
    dut, m, inside = around.dut, h.m, around.inside
    # One accumulator, from the first one of the instruction on, stands for each.
    chosen, count = h.constant(len(dut.drain_address)), Signal(2)
    drained = around.works & dut.drain & ((dut.drain_address - around.base)[:len(chosen)] == chosen)
    with m.If(dut.start):
        m.d.sync += count.eq(0)
    with m.Elif(drained & (count != 3)):
        m.d.sync += count.eq(count + 1)
    place, phase = chosen % around.stride, chosen // around.stride
    owed = (place < Mux(around.project, around.rows, around.rows << 2)) & (phase < around.phases)
    kind, row = Mux(around.project, Kind.PROJECTION, place[:2]), Mux(around.project, place, place >> 2)
    before, behind = inside.before, inside.behind
    taken = Mux(kind == Kind.G, (row < before.row) | (row == before.row) & (before.kind != Kind.G),
                Mux(kind == Kind.I, (row < before.row) | (row == before.row) & (before.kind == Kind.F),
                    Mux(kind == Kind.F, row < before.row, row < behind.row)))
    now = inside.runs & inside.active & (inside.kind == kind) & (inside.row == row) & (
        (phase > inside.phase) | (phase == inside.phase) & (inside.beat == 0))
    h.prove(
        implies(around.works & dut.drain, h.past(around.begun)),
        implies(drained, (count == 0) & owed),
        implies(around.ended, count == owed),
        *inside.invariants,
        implies(around.works, count + drained == (owed & taken & ~now)),
    )
    h.refute(implies(around.ended, owed), implies(drained, chosen != 2))
    h.cover(around.ended & (count == 1))


def writes(h, config):
    around = Instructions(h, config)
    dut, m, inside = around.dut, h.m, around.inside
    lines = Signal.like(dut.lines_done)
    with m.If(dut.start):
        m.d.sync += lines.eq(0)
    with m.Elif(dut.write_valid):
        m.d.sync += lines.eq(lines + 1)
    left = inside.left()
    goes_on = around.works & around.complete & dut.busy
    h.prove(
        implies(goes_on & h.past(goes_on), left < h.past(left)),
        implies(dut.write_valid, around.works & (dut.write_line == (around.line + lines)[:len(dut.write_line)])),
        implies(dut.write_valid, lines < around.rows * config.row_writes),
        implies(around.ended, lines == around.rows * config.row_writes),
        implies(around.works, dut.lines_done == lines),
        implies(around.works, dut.lines_coming == inside.done + inside.writing),
        implies(around.works & h.past(around.works & ~dut.start),
                h.past(dut.lines_coming) == lines + dut.write_valid),
        *inside.invariants,
        implies(around.works, inside.done == lines + dut.write_valid),
    )
    h.refute(implies(dut.write_valid, lines == 0), implies(around.ended, around.rows == 1))
    h.cover(around.ended & (lines == 2 * config.row_writes), inside.runs & ~around.project & (inside.behind.row != 0))


DRAINS = ("no row is drained before the operations that fill it are complete; in an instruction, each row of each "
          "phase and gate is drained once, and no other")
WRITES = ("an instruction writes its lines in order, each once, counts them, and tells them a cycle ahead; it ends "
          "when all are written, and it ends: once its sums are complete, less is left to do in every cycle")


@proof("Assemble", DRAINS, machine(LINES), inductive=True)
def test_drains(h):
    drains(h, LINES)


@proof("Assemble", DRAINS, machine(BEATS), inductive=True)
def test_drains_of_two_beats(h):
    drains(h, BEATS)


@proof("Assemble", WRITES, machine(LINES), inductive=True)
def test_writes(h):
    writes(h, LINES)


@proof("Assemble", WRITES, machine(BEATS), inductive=True)
def test_writes_of_two_beats(h):
    writes(h, BEATS)
