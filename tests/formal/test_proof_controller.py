# SPDX-License-Identifier: Apache-2.0
"""Controller: it starts blocks in order, whatever the program."""

from amaranth.hdl import Signal

from openese.rtl.controller import Controller
from openese.rtl.interfaces import MAX_OPERATIONS
from openese.rtl.program import Opcode
from tests.formal.engine import implies, proof
from tests.formal.sizes import SMALL, describe

#: Cycles that a block takes at most, once it can.
PACE = 3
#: Cycles from one operation being completed to the next, at most.
OPERATION = 7
MACHINE = describe(SMALL, "channels", "program_depth")


class Surroundings:
    """The controller, a program that may hold anything, and blocks that end their work in time.

    Attributes
    ----------
    sent, done : Signal
        Operations sent and completed.
    owed : Signal
        Operations sent before Assemble was started and not completed.
    """

    def __init__(self, h):
        self.dut = dut = Controller(SMALL)
        h.add(dut, opened=lambda depth: True)
        m = h.m

        def work(starts, can_end):
            """A block that is busy from ``starts`` on, until it pleases after ``can_end``."""
            busy = Signal()
            late = h.waiting(~busy | ~can_end, PACE)
            with m.If(starts):
                m.d.sync += busy.eq(1)
            with m.Elif(can_end & (h.free() | (late == PACE))):
                m.d.sync += busy.eq(0)
            return busy

        self.sent, self.done = h.count(4, dut.multiply), h.count(4, dut.operation_done)
        under_way = (self.sent - self.done)[:4]
        late = h.waiting((under_way == 0) | dut.operation_done, OPERATION)
        went = Signal()
        m.d.sync += went.eq((went | dut.assemble_go) & ~dut.assemble)
        assembling = work(dut.assemble, went)
        m.d.comb += [
            dut.multiply_busy.eq(work(dut.multiply, 1)),
            dut.operation_done.eq((under_way != 0) & (h.free() | (late == OPERATION))),
            dut.assemble_busy.eq(assembling),
            dut.output_busy.eq(work(dut.output, ~assembling)),
        ]
        self.owed = Signal(4)
        with m.If(dut.assemble):
            m.d.sync += self.owed.eq(under_way - dut.operation_done)
        with m.Elif(dut.operation_done & (self.owed != 0)):
            m.d.sync += self.owed.eq(self.owed - 1)


@proof("Controller", f"any program: no more than {MAX_OPERATIONS} operations are under way; Assemble begins only when "
       "the operations sent before it are complete; no block is started while it is busy, and no "
       "operation before all accumulators are clear", MACHINE)
def test_order(h):
    around = Surroundings(h)
    dut = around.dut
    clears = dut.instruction.opcode == Opcode.CLEAR
    clearing = Signal()
    with h.m.If(dut.assemble):
        h.m.d.sync += clearing.eq(clears)
    h.prove(
        (around.sent - around.done)[:4] <= MAX_OPERATIONS,
        implies(dut.assemble_busy & dut.assemble_go, around.owed == 0),
        implies(dut.assemble, ~dut.assemble_busy), implies(dut.output, ~dut.output_busy),
        implies(dut.multiply, ~dut.multiply_busy), dut.context_valid == dut.multiply,
        implies(dut.assemble & dut.instruction.sent & ~clears, ~dut.output_busy),
        implies(dut.assemble & clears, around.sent == around.done),
        implies(dut.multiply & clearing, ~dut.assemble_busy),
        implies(dut.frame_take, dut.frame_ready & dut.run),
        implies(dut.idle, ~dut.assemble_busy & ~dut.output_busy & ~dut.multiply_busy),
    )
    h.refute((around.sent - around.done)[:4] < MAX_OPERATIONS, implies(dut.assemble_busy, around.owed == 0))
    h.cover(dut.assemble_go & (around.owed == 0) & h.past(around.owed == 1), dut.frame_take & dut.assemble_busy,
            clearing & dut.multiply)
