# SPDX-License-Identifier: Apache-2.0
"""Assemble: every row is drained once, when its sums are complete, every line is written once, and then it ends."""

from amaranth.hdl import Mux, Signal

from openese.rtl.assemble import Assemble
from openese.rtl.program import Opcode
from tests.formal.engine import implies, proof
from tests.formal.sizes import SMALL, describe

#: Accumulators from a phase to the next: those of the gates of all cells.
STRIDE = 4 * SMALL.cell_rows
#: Cycles of a run: an instruction of one row, or a projection, comes to its end.
BOUND = 70
MACHINE = describe(SMALL, "pes", "channels", "cell_rows", "accumulator_rows") + ", up to two phases"


class Instructions:
    """Assemble, and ELEMENTWISE and PROJECT of any rows and up to two phases, from accumulator 0 on.

    Attributes
    ----------
    project, rows, phases, line : Signal
        Of the last instruction.
    works : Signal
        It is under way.
    begun : Value
        Its sums are complete.
    ended : Value
        It ends in this cycle.
    """

    def __init__(self, h):
        self.dut = dut = Assemble(SMALL)
        h.add(dut)
        m, given = h.m, dut.instruction
        self.project, self.rows, self.phases = Signal(), Signal.like(given.rows), Signal(2)
        self.line = Signal.like(dut.write_line)
        self.works, complete = Signal(), Signal()
        self.begun = complete | dut.go
        h.assume(implies(dut.start, ~dut.busy & (given.rows != 0) & (given.rows <= SMALL.cell_rows)
                         & (given.phase_last <= 1) & (given.phase_stride == STRIDE) & (dut.acc_base == 0)
                         & ((given.opcode == Opcode.ELEMENTWISE) | (given.opcode == Opcode.PROJECT))))
        with m.If(dut.start):
            m.d.sync += [
                self.project.eq(given.opcode == Opcode.PROJECT), self.rows.eq(given.rows),
                self.phases.eq(given.phase_last + 1), self.line.eq(dut.dst_base), self.works.eq(1), complete.eq(0)]
        with m.Elif(self.works):
            m.d.sync += [complete.eq(self.begun), self.works.eq(dut.busy)]
            self.ended = self.works & ~dut.busy & ~h.past(dut.start)


@proof("Assemble", "no row is drained before the operations that fill it are complete; in an instruction, each row of "
       "each phase and gate is drained once, and no other", MACHINE, BOUND)
def test_drains(h):
    around = Instructions(h)
    dut, m = around.dut, h.m
    # One accumulator stands for each.
    chosen, drains = h.constant(len(dut.drain_address)), Signal(2)
    drained = around.works & dut.drain & (dut.drain_address == chosen)
    with m.If(dut.start):
        m.d.sync += drains.eq(0)
    with m.Elif(drained & (drains != 3)):
        m.d.sync += drains.eq(drains + 1)
    row, phase = chosen % STRIDE, chosen // STRIDE
    owed = (row < Mux(around.project, around.rows, around.rows << 2)) & (phase < around.phases)
    h.prove(
        implies(around.works & dut.drain, h.past(around.begun)),
        implies(drained, (drains == 0) & owed),
        implies(around.ended, drains == owed),
    )
    h.refute(implies(around.ended, owed), implies(drained, row != 2))
    h.cover(around.ended & (drains == 1))


@proof("Assemble", "an instruction writes its lines in order, each once, and counts them, and tells them a cycle "
       "ahead; it ends when all are written", MACHINE, BOUND)
def test_writes(h):
    around = Instructions(h)
    dut, m = around.dut, h.m
    lines = Signal.like(dut.lines_done)
    with m.If(dut.start):
        m.d.sync += lines.eq(0)
    with m.Elif(dut.write_valid):
        m.d.sync += lines.eq(lines + 1)
    h.prove(
        implies(dut.write_valid, around.works & (dut.write_line == (around.line + lines)[:len(dut.write_line)])),
        implies(dut.write_valid, lines < around.rows * dut.lines),
        implies(around.ended, lines == around.rows * dut.lines),
        implies(around.works, dut.lines_done <= lines),
        implies(around.works & h.past(around.works), h.past(dut.lines_coming) <= lines + dut.write_valid),
    )
    h.refute(implies(dut.write_valid, lines == 0), implies(around.ended, around.rows == 1))
    h.cover(around.ended & (lines == 2))
