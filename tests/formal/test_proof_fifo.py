# SPDX-License-Identifier: Apache-2.0
"""Fifo: nothing is lost, doubled or reordered, for any writer that watches the level."""

from amaranth.hdl import Signal

from openese.rtl.fifo import Fifo
from tests.formal.engine import implies, proof

WIDTH, DEPTH = 2, 8


def watch(h, push, word, pop, depth, choose):
    """Follow one word, whichever ``choose`` picks, through a queue. Returns the words in the queue, and signals: the
    word is the oldest one, and the word."""
    m = h.m
    level = h.count(range(depth + 1), push, pop)
    watching, done = Signal(), Signal()
    ahead = Signal(range(depth + 1))
    item = Signal.like(word)
    with m.If(push & choose & ~watching & ~done):
        m.d.sync += [watching.eq(1), item.eq(word), ahead.eq(level - pop)]
    with m.Elif(watching & pop):
        m.d.sync += ahead.eq(ahead - 1)
        with m.If(ahead == 0):
            m.d.sync += [watching.eq(0), done.eq(1)]
    h.prove(implies(watching, ahead < level))
    h.cover(done)
    return level, watching & (ahead == 0), item


@proof("Fifo", "words come out in order, none is lost or doubled; `level` and `valid` are right",
       f"{DEPTH} words of {WIDTH} bits")
def test_order(h):
    dut = Fifo(WIDTH, DEPTH)
    h.add(dut)
    push, pop = dut.i_valid, dut.o.valid & dut.o.ready
    level, oldest, item = watch(h, push, dut.i, pop, DEPTH, h.free())
    h.assume(implies(push, level != DEPTH))
    h.prove(dut.level == level, dut.o.valid == (level != 0), implies(oldest, dut.o.payload == item), h.held(dut.o))
    h.refute(level != DEPTH, implies(dut.o.valid, dut.o.payload == h.past(dut.o.payload)))
    h.cover(push & pop & (level == DEPTH - 1))
