# SPDX-License-Identifier: Apache-2.0
"""ActQueue: the columns that wait for a PE."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from openese.rtl.attributes import LUT_RAM
from openese.rtl.config import bits_for
from openese.rtl.interfaces import Token, activations

__all__ = ["ActQueue", "Fifo"]


class Fifo(wiring.Component):
    """A shallow FIFO whose head is visible without a cycle of latency (distributed RAM).

    ``i`` must not be valid when the FIFO is full: whoever writes watches ``level``.
    """

    def __init__(self, shape, depth):
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


class ActQueue(wiring.Component):
    """Queue of (activations, number of entries) in front of one PE (paper, section 4: ActQueue).

    The number of entries is needed some cycles before the activations, while SpmatRead fetches, so the two
    halves are taken separately: ``tokens`` by SpmatRead, ``columns`` by SpMV.

    Latency: `delay` cycles; ``full`` follows a queue's level by `full_delay`.
    Cost: distributed RAM of ``queue_depth`` x (``channels`` x ``activation_bits`` + token).

    Members
    -------
    i, i_valid : token from PtrRead.
    activations : the activations of the token's column, in the same cycle.
    full : no more columns, please. Raised early enough for the `margin` that are already on their way.
    tokens, columns : the two halves, in order. A token that ends an operation has no column.
    """

    delay = 1
    full_delay = 1

    #: Columns that may still arrive after ``full`` has risen.
    margin = 10

    def __init__(self, config):
        self._config = config
        super().__init__({
            "i": In(Token(config)),
            "i_valid": In(1),
            "activations": In(activations(config)),
            "full": Out(1),
            "tokens": Out(stream.Signature(Token(config))),
            "columns": Out(stream.Signature(activations(config))),
        })

    @classmethod
    def limit(cls, config):
        """Columns at which ``full`` rises: one more is written in the cycle in which it does."""
        return config.queue_depth - cls.margin - 1

    @staticmethod
    def model(tokens):
        """What comes out is what went in, in order."""
        return list(tokens)

    def elaborate(self, platform):
        m = Module()
        depth = self._config.queue_depth
        m.submodules.tokens = tokens = Fifo(Token(self._config), depth)
        m.submodules.columns = columns = Fifo(data.ArrayLayout(self.activations.shape().elem_shape,
                                                               self._config.channels), depth)
        wiring.connect(m, tokens.o, wiring.flipped(self.tokens))
        wiring.connect(m, columns.o, wiring.flipped(self.columns))
        m.d.comb += [
            tokens.i.eq(self.i),
            tokens.i_valid.eq(self.i_valid),
            columns.i.eq(self.activations),
            columns.i_valid.eq(self.i_valid & ~self.i.end),
        ]
        limit = self.limit(self._config)
        m.d.sync += self.full.eq((tokens.level >= limit) | (columns.level >= limit))
        return m
