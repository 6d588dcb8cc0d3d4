# SPDX-License-Identifier: Apache-2.0
"""PtrRead: looks up the number of entries of a column on a PE."""

from amaranth.hdl import Module, Signal
from amaranth.lib import memory, wiring

from openese.rtl.attributes import block_ram
from openese.rtl.bundles import ValidPort
from openese.rtl.config import bits_for
from openese.rtl.interfaces import Column, LineWrite, Token

__all__ = ["PtrRead", "pointer_line"]


def pointer_line(config, pes=1):
    """A write of a line of the pointer memories of ``pes`` PEs."""
    return LineWrite(bits_for(config.column_depth - 1), pes * config.count_bits)


class PtrRead(wiring.Component):
    """Looks up a column's pointer before the column is queued, so an empty column costs nothing (paper: PtrRead).

    The entries of a matrix are stored in the order of its columns. A pointer is therefore only a count: a column starts
    where the previous column ends.

    Latency: `delay` cycles. Cost: one memory of ``column_depth`` x ``count_bits``.

    Members
    -------
    i : In(Column) — a column of the broadcast, or the end of an operation.
    i_valid : In(1) — there is one. It cannot be held up.
    o : Out(Token) — the token, `delay` cycles later.
    o_valid : Out(1) — there is one: 0 for a column without entries on this PE.
    load : In(pointer_line) — line of the pointer memory.
    load_valid : In(1) — write the line.
    """

    delay = 2

    def __init__(self, config):
        self._config = config
        super().__init__({
            **ValidPort(Column(config)).flip().ports("i"),
            **ValidPort(Token(config)).ports("o"),
            **ValidPort(pointer_line(config)).flip().ports("load"),
        })

    @staticmethod
    def model(counts, indices):
        """Tokens of the columns ``indices`` of one operation: the counts that are not zero."""
        return [int(counts[index]) for index in indices if counts[index]]

    def elaborate(self, platform):
        m = Module()
        m.submodules.counts = counts = memory.Memory(
            shape=self._config.count_bits, depth=self._config.column_depth, init=[],
            attrs=block_ram(self._config.column_depth))
        read = counts.read_port()
        write = counts.write_port()
        m.d.comb += [
            write.addr.eq(self.load.address),
            write.data.eq(self.load.data),
            write.en.eq(self.load_valid),
            read.addr.eq(self.i.index),
            read.en.eq(1),
        ]

        valid = Signal(2)
        operation = Signal.like(self.i.operation)
        end = Signal()
        count = Signal(self._config.count_bits, reset_less=True)
        m.d.sync += [
            valid.eq((valid << 1) | self.i_valid),
            operation.eq(self.i.operation),
            end.eq(self.i.end),
            count.eq(read.data),
            self.o.operation.eq(operation),
            self.o.end.eq(end),
        ]
        m.d.comb += [
            self.o.count.eq(count),
            self.o_valid.eq(valid[1] & (self.o.end | (count != 0))),
        ]
        return m
