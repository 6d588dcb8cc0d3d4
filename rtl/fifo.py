# SPDX-License-Identifier: Apache-2.0
"""Fifo: the shallow queue between blocks."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from openese.rtl.attributes import LUT_RAM
from openese.rtl.config import bits_for

__all__ = ["Fifo"]


class Fifo(wiring.Component):
    """A shallow FIFO whose head is visible without a clock edge.

    There is no ready at the input. The writer watches ``level`` and writes only while it is below ``depth``.

    Latency: `delay` cycle from ``i`` to ``o``. Cost: ``depth`` words of distributed RAM.

    Parameters
    ----------
    shape : ShapeLike
        Of one word.
    depth : int
        Words, a power of two.

    Members
    -------
    i : In(shape) — the word to write.
    i_valid : In(1) — write it.
    o : Out(stream(shape)) — the oldest word.
    level : Out(bits_for(depth)) — words in the queue.
    """

    delay = 1

    def __init__(self, shape, depth):
        if depth < 2 or depth & (depth - 1):
            raise ValueError(f"Fifo depth must be a power of two of at least 2, not {depth}")
        self._depth = depth
        super().__init__({
            "i": In(shape),
            "i_valid": In(1),
            "o": Out(stream.Signature(shape)),
            "level": Out(bits_for(depth)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.storage = storage = memory.Memory(
            shape=self.i.shape(), depth=self._depth, init=[], attrs=LUT_RAM)
        write = storage.write_port()
        read = storage.read_port(domain="comb")
        head = Signal(range(self._depth))
        tail = Signal(range(self._depth))
        taken = self.o.valid & self.o.ready
        single = Signal()  # level == 1
        m.d.comb += [
            write.addr.eq(tail),
            write.data.eq(self.i),
            write.en.eq(self.i_valid),
            read.addr.eq(head),
            self.o.payload.eq(read.data),
        ]
        m.d.sync += [
            tail.eq(tail + self.i_valid),
            head.eq(head + taken),
            self.level.eq(self.level + self.i_valid - taken),
            single.eq(Mux(taken == self.i_valid, single, self.level == Mux(taken, 2, 0))),
            self.o.valid.eq(self.i_valid | (self.o.valid & ~(taken & single))),
        ]
        return m
