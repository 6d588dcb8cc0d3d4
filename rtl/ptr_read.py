# SPDX-License-Identifier: Apache-2.0
"""PtrRead: looks up the number of entries of a column on a PE, or on all PEs of a tile."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import Out

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

    All PEs get a column at the same time, and its pointers are at the same line. With `wide_pointers` one block
    therefore looks up a column for all PEs of a tile: one wide memory fills its block RAMs, of which the memory of a
    single PE takes a small part.

    Latency: `delay` cycles. Cost: one memory of ``column_depth`` x ``pes`` x ``count_bits``.

    Parameters
    ----------
    config : Config
    pes : int
        PEs that it serves.

    Members
    -------
    i : In(Column) — a column of the broadcast, or the end of an operation.
    i_valid : In(1) — there is one. It cannot be held up.
    o : Out(array(pes, Token)) — the token of each PE, `delay` cycles later.
    o_valid : Out(pes) — the PEs that have one: none for a column without entries on the PE.
    load : In(pointer_line(pes)) — line of the pointer memory.
    load_valid : In(1) — write the line.
    """

    delay = 2

    def __init__(self, config, pes=1):
        self._config = config
        self._pes = pes
        super().__init__({
            **ValidPort(Column(config)).flip().ports("i"),
            "o": Out(data.ArrayLayout(Token(config), pes)),
            "o_valid": Out(pes),
            **ValidPort(pointer_line(config, pes)).flip().ports("load"),
        })

    @property
    def module_name(self):
        """Name of the Verilog module, if it is shared by several instances."""
        return "ptr_read"

    @staticmethod
    def model(counts, indices):
        """Tokens of the columns ``indices`` of one operation: the counts that are not zero."""
        return [int(counts[index]) for index in indices if counts[index]]

    def elaborate(self, platform):
        m = Module()
        m.submodules.counts = counts = memory.Memory(
            shape=len(self.load.data), depth=self._config.column_depth, init=[],
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
        count = Signal(len(read.data), reset_less=True)
        first, *others = self.o
        m.d.sync += [
            valid.eq((valid << 1) | self.i_valid),
            operation.eq(self.i.operation),
            end.eq(self.i.end),
            count.eq(read.data),
            first.operation.eq(operation),
            first.end.eq(end),
        ]
        for token in others:
            m.d.comb += [token.operation.eq(first.operation), token.end.eq(first.end)]
        for index, token in enumerate(self.o):
            of_pe = count.word_select(index, self._config.count_bits)
            m.d.comb += [token.count.eq(of_pe), self.o_valid[index].eq(valid[1] & (first.end | (of_pe != 0)))]
        return m
