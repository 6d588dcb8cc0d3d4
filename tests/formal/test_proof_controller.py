# SPDX-License-Identifier: Apache-2.0
"""Controller: it starts blocks in order, and comes to the end of every instruction, whatever the program."""

from amaranth.hdl import Array, Const, Signal

from openese.rtl.controller import Controller
from openese.rtl.interfaces import MAX_OPERATIONS
from openese.rtl.program import Opcode
from tests.formal.engine import implies, proof
from tests.formal.sizes import SMALL, describe

#: Cycles that an instruction takes at most if every block ends `PACE` cycles after it can.
LONGEST, PACE = 16, 3
MACHINE = describe(SMALL, "channels", "program_depth")


class Surroundings:
    """The controller, a program that may hold anything, and blocks that end their work as the controller relies on:
    Assemble not before its operations are complete, the output not before Assemble.

    Parameters
    ----------
    prompt : bool
        They end it within `PACE` cycles; otherwise at any time or never.

    Attributes
    ----------
    under_way : Value
        Operations sent and not completed.
    owed : Signal
        Operations sent before Assemble was started and not completed.
    begun : Signal
        Assemble was told that its operations are complete.
    """

    def __init__(self, h, prompt=False):
        self.dut = dut = Controller(SMALL)
        h.add(dut, opened=lambda depth: True)
        m = h.m

        def ends(can_end):
            """A block ends its work when it pleases after ``can_end``."""
            late = h.waiting(~can_end, PACE) == PACE if prompt else Const(0)
            return can_end & (h.free() | late)

        def work(starts, can_end):
            busy = Signal()
            end = ends(busy & can_end)
            with m.If(starts):
                m.d.sync += busy.eq(1)
            with m.Elif(end):
                m.d.sync += busy.eq(0)
            return busy

        self.sent, self.done = h.count(4, dut.multiply), h.count(4, dut.operation_done)
        self.under_way = (self.sent - self.done)[:4]
        self.begun = Signal()
        m.d.sync += self.begun.eq((self.begun | dut.assemble_go) & ~dut.assemble)
        assembling = work(dut.assemble, self.begun)
        m.d.comb += [
            dut.multiply_busy.eq(work(dut.multiply, Const(1))),
            dut.operation_done.eq(ends(self.under_way != 0)),
            dut.assemble_busy.eq(assembling),
            dut.output_busy.eq(work(dut.output, ~assembling)),
        ]
        self.owed = Signal(4)
        with m.If(dut.assemble):
            m.d.sync += self.owed.eq(self.under_way - dut.operation_done)
        with m.Elif(dut.operation_done & (self.owed != 0)):
            m.d.sync += self.owed.eq(self.owed - 1)


@proof("Controller", f"any program: no more than {MAX_OPERATIONS} operations are under way; Assemble begins only when "
       "the operations sent before it are complete; no block is started while it is busy, no "
       "operation before all accumulators are clear, and Assemble not while a c of the host is on its way", MACHINE)
def test_order(h):
    around = Surroundings(h)
    dut = around.dut
    clears = dut.instruction.opcode == Opcode.CLEAR
    clearing = Signal()
    with h.m.If(dut.assemble):
        h.m.d.sync += clearing.eq(clears)
    h.prove(
        around.under_way <= MAX_OPERATIONS,
        implies(dut.assemble_busy & dut.assemble_go, around.owed == 0),
        implies(dut.assemble, ~dut.assemble_busy & ~dut.state_writing), implies(dut.output, ~dut.output_busy),
        implies(dut.multiply, ~dut.multiply_busy), dut.context_valid == dut.multiply,
        implies(dut.assemble & dut.instruction.sent & ~clears, ~dut.output_busy),
        implies(dut.assemble & clears, around.sent == around.done),
        implies(dut.multiply & clearing, ~dut.assemble_busy),
        implies(dut.frame_take, (dut.frame_ready | dut.frame_coming) & dut.run),
        implies(dut.frame_drop, dut.frame_broken), implies(dut.frame_drop | dut.frame_release, ~dut.frame_partial),
        implies(dut.idle, ~dut.assemble_busy & ~dut.output_busy & ~dut.multiply_busy),
    )
    h.refute(around.under_way < MAX_OPERATIONS, implies(dut.assemble_busy, around.owed == 0))
    h.cover(dut.assemble_go & (around.owed == 0) & h.past(around.owed == 1), dut.frame_take & dut.assemble_busy,
            clearing & dut.multiply)


@proof("Controller", "any program: every instruction but one that waits for a frame ends, given that the blocks do: in "
       f"at most {LONGEST} cycles if every block ends {PACE} cycles after it can, and no c of the host is on its way",
       MACHINE)
def test_ends(h):
    dut = Surroundings(h, prompt=True).dut
    state, = h.inside(dut, "fsm_state")
    # Of the states, two are left only when the instruction ends, the others in the next cycle.
    stays = h.waiting((state != h.past(state)) | dut.waiting_frame | dut.frame_partial | ~dut.run | dut.state_writing,
                      LONGEST)
    h.prove(stays < LONGEST)
    h.refute(stays < 5)
    h.cover((stays == 3) & dut.assemble)


@proof("Controller", "any program: while ELEMENTWISE drains a bank of gate accumulators, no operation that fills that "
       "bank is under way", MACHINE)
def test_banks(h):
    around = Surroundings(h)
    dut, m = around.dut, h.m
    # The bank shows in the address of the accumulators.
    h.assume(implies(dut.multiply | dut.assemble, (dut.instruction.acc_base == 0) & (dut.instruction.acc_offset == 1)))
    banks = Array(Signal(name=f"bank{k}") for k in range(MAX_OPERATIONS))
    drained, drains = Signal(), Signal()
    with m.If(dut.multiply):
        m.d.sync += banks[around.sent[:2]].eq(dut.acc_base[0])
    with m.If(dut.assemble):
        m.d.sync += [drained.eq(dut.acc_base[0]), drains.eq(dut.instruction.opcode == Opcode.ELEMENTWISE)]
    at_work = dut.assemble_busy & drains & (around.begun | dut.assemble_go)
    for place in range(MAX_OPERATIONS):
        fills = (around.under_way > place) & (banks[(around.done + place)[:2]] == drained)
        h.prove(implies(at_work, ~fills))
    h.prove(implies(at_work & dut.multiply, dut.acc_base[0] != drained))
    h.refute(implies(at_work, around.under_way == 0), implies(at_work, ~drained))
    h.cover(at_work & (around.under_way == 3))
