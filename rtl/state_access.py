# SPDX-License-Identifier: Apache-2.0
"""StateAccess: lets the host read and write c and y of a voice while nothing is under way."""

from amaranth.hdl import Array, Cat, Module, Mux, ResetInserter, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from openese.rtl.array import PEArray
from openese.rtl.assemble import Assemble
from openese.rtl.bundles import Bundle
from openese.rtl.config import bits_for
from openese.rtl.elementwise import Stages
from openese.rtl.fifo import Fifo
from openese.rtl.interfaces import activations
from openese.rtl.vector_memory import VectorMemory

__all__ = ["Select", "StateAccess", "StatePort"]


class Select(data.StructLayout):
    """STATE_SELECT: one number of one channel.

    Fields
    ------
    index : 16 — for c: the cell's place, cell row times ``row_pes`` plus PE row. For y: its column of the vector
        memory.
    channel : 8 — the channel.
    bank : 6 — for c: the bank.
    _ : 1 — not used.
    cell : 1 — c, not y.
    """

    def __init__(self):
        super().__init__({"index": 16, "channel": 8, "bank": 6, "_": 1, "cell": 1})


class StatePort(Bundle):
    """Access to the numbers of a voice's state one after another, from the registers to `StateAccess`.

    Members
    -------
    select : Out(Select) — the next number. Its index grows by one in the cycle after a ``write`` or ``take``. All else
        stays while ``writing``.
    restart : Out(1) — forget what is read ahead.
    write : Out(1) — set the next number to ``data``.
    data : Out(32) — the value to set.
    writing : In(1) — a c is on its way to its memory.
    wanted : Out(1) — the next number is asked for.
    take : Out(1) — ``value`` is taken; only if it is valid.
    value : In(signed(32)) — the next number.
    value_valid : In(1) — it is there.
    """

    def __init__(self):
        super().__init__({
            "select": Out(Select()), "restart": Out(1), "write": Out(1), "data": Out(32), "writing": In(1),
            "wanted": Out(1), "take": Out(1), "value": In(signed(32)), "value_valid": In(1),
        })


class StateAccess(wiring.Component):
    """Reads and writes the numbers of a state through the ports of the slices and of the vector memory, while the core
    is idle.

    A number that is asked for starts the reading of those behind it: a number in every `period` cycles, as long as no
    more than `queue_depth` are on their way or wait in a queue. What is read stands for that time, since it comes from
    all over the FPGA. Nothing is read while a number is being set. A y is set at once. The row of a c goes through the
    pipeline of the slices, and the value meets it at its end; a number may be set in every cycle.

    Latency: `cell_delay` or `column_delay` from the address of a number to its arrival, `write_delay` from ``write``
    to ``cell_write``; see `openese.rtl.elementwise.Slice`. From ``wanted`` to ``value_valid``: `period` + 3 more.
    Cost: two counters of an index, a multiplexer over all slices, one over all channels, two queues in distributed RAM.

    Attributes
    ----------
    period : int
        Cycles from a number that is read to the next.
    queue_depth : int
        Numbers that are read ahead.
    posted_depth : int
        Numbers that may be posted: a power of two of at least `write_delay`.

    Members
    -------
    select : In(Select) — the next number.
    restart : In(1) — forget what is read ahead.
    write : In(1) — set the next number to ``data``.
    data : In(32) — the value to set.
    writing : Out(1) — a c is on its way to its memory.
    wanted : In(1) — the next number is asked for.
    take : In(1) — ``value`` is taken.
    value : Out(signed(32)) — the next number.
    value_valid : Out(1) — it is there.
    cell_row : Out(bits_for(cell_rows - 1)) — cell row for the slices' control.
    cell_beat : Out(bits_for(beats - 1)) — beat for it.
    cell_bank : Out(bank_bits) — bank for it. Only if the machine has several.
    cells : In(array(slices * slice_width, signed(cell_bits))) — the cell states that the slices read there.
    cell_write : Out(slices * slice_width) — lanes whose cell state is set to ``cell_data``.
    cell_data : Out(signed(cell_bits)) — the value to set.
    line : Out(line_bits) — line of the vector memory.
    bank : Out(write_columns) — banks to write.
    write_channels : Out(channels) — channels to write.
    columns : In(array(groups, activations)) — the columns that the vector memory reads.
    """

    period = 4
    queue_depth = 8
    column_delay = VectorMemory.delay

    def __init__(self, config):
        self._config = config
        stages = Stages.of(config)
        self.cell_delay = Assemble.control_delay + PEArray.input_delay + stages.cells_delay
        self.write_delay = Assemble.control_delay + stages.cell_write_delay
        self.posted_depth = 1 << (self.write_delay - 1).bit_length()
        super().__init__({
            **StatePort().flip().ports(),
            "cell_row": Out(bits_for(config.cell_rows - 1)),
            "cell_beat": Out(bits_for(config.beats - 1)),
            **({"cell_bank": Out(config.bank_bits)} if config.banks > 1 else {}),
            "cells": In(data.ArrayLayout(signed(config.cell_bits), config.slices * config.slice_width)),
            "cell_write": Out(config.slices * config.slice_width),
            "cell_data": Out(signed(config.cell_bits)),
            "line": Out(config.line_bits),
            "bank": Out(config.write_columns),
            "write_channels": Out(config.channels),
            "columns": In(data.ArrayLayout(activations(config), config.groups)),
        })

    def elaborate(self, platform):
        m = Module()
        config = self._config
        ahead = Signal(16)  # of the number whose address goes out
        index = Signal(16)
        channel = self.select.channel[:config.channels.bit_length() - 1]
        m.d.comb += [
            index.eq(Mux(self.write, self.select.index, ahead)),
            self.cell_row.eq(index >> (config.row_pes.bit_length() - 1)),
            self.cell_beat.eq(_bits(self._lane(index), config.slice_width, config.beats)),
            self.line.eq(index >> (config.groups.bit_length() - 1)),
            self.bank.eq(Mux(self.write & ~self.select.cell, 1 << _bits(index, 1, config.write_columns), 0)),
            self.write_channels.eq(1 << channel),
        ]
        if config.banks > 1:
            m.d.comb += self.cell_bank.eq(self.select.bank)
        self._write_cells(m)
        self._read(m, ahead)
        return m

    def _lane(self, index):
        """The lane of a cell among those of its slice."""
        config = self._config
        channel = self.select.channel[:config.channels.bit_length() - 1]
        return Cat(channel, _bits(index, 1, config.rows_per_slice))

    def _port(self, index):
        """The place of a cell among the lanes that all slices take up in a cycle."""
        config = self._config
        return Cat(_bits(self._lane(index), 1, config.slice_width),
                   _bits(index, config.rows_per_slice, config.slices))

    def _write_cells(self, m):
        """A c waits until its row is at the end of the slices' pipeline."""
        config = self._config
        port = self._port(self.select.index)
        shape = data.StructLayout({"data": signed(config.cell_bits), "port": len(port)})
        m.submodules.posted = posted = Fifo(shape, self.posted_depth)
        begins = Signal()
        due = Signal(self.write_delay - 1)
        # Cycles until the last c is in its memory, two from ``cell_write``.
        left = Signal(range(self.write_delay + 3))
        m.d.comb += [
            begins.eq(self.write & self.select.cell),
            posted.i.data.eq(self.data),
            posted.i.port.eq(port),
            posted.i_valid.eq(begins),
            posted.o.ready.eq(due[-1]),
        ]
        m.d.sync += [
            due.eq(Cat(begins, due)),
            self.cell_data.eq(posted.o.payload.data),
            self.cell_write.eq(Mux(due[-1], 1 << posted.o.payload.port, 0)),
        ]
        with m.If(begins):
            m.d.sync += [left.eq(self.write_delay + 2), self.writing.eq(1)]
        with m.Elif(self.writing):
            m.d.sync += [left.eq(left - 1), self.writing.eq(left != 1)]

    def _read(self, m, ahead):
        """Numbers one after another, from the one that was asked for on."""
        config = self._config
        cell = self.select.cell
        channel = self.select.channel[:config.channels.bit_length() - 1]
        arriving = Signal(16)  # of the number that arrives next
        reading, stops = Signal(), Signal()
        turn = Signal(range(self.period))
        room = Signal(range(self.queue_depth + 1))
        # By cycles since an address went out for the first time.
        issued = Signal(max(self.cell_delay, self.column_delay) + self.period - 1)
        arrives, arrived = Signal(), Signal()
        cell_value = Signal(signed(config.cell_bits))
        y_value = Signal(signed(config.activation_bits))
        port = self._port(arriving)
        m.submodules.queue = queue = ResetInserter(stops)(Fifo(
            signed(max(config.cell_bits, config.activation_bits)), self.queue_depth))
        m.d.comb += [
            stops.eq(self.restart | self.write),
            arrives.eq(Mux(cell, *(issued[delay + self.period - 2] for delay in (self.cell_delay, self.column_delay)))),
            queue.i.eq(Mux(cell, cell_value, y_value)),
            queue.i_valid.eq(arrived),
            queue.o.ready.eq(~self.value_valid | self.take),
        ]
        # They take what stands there in every cycle: there is an exception for the way to them.
        m.d.sync += [
            cell_value.eq(Array(self.cells)[port] if len(port) else self.cells[0]),
            y_value.eq(Array(value for column in self.columns for value in column)[
                Cat(channel, _bits(arriving, 1, config.groups))]),
        ]
        issues, ends = Signal(), Signal()
        m.d.comb += [issues.eq(reading & (room != 0) & (turn == 0)), ends.eq(turn == self.period - 1)]
        with m.If(stops):
            m.d.sync += [reading.eq(0), issued.eq(0), arrived.eq(0), self.value_valid.eq(0)]
        with m.Else():
            m.d.sync += [
                issued.eq(Cat(issues, issued)),
                arrived.eq(arrives),
                turn.eq(Mux(ends, 0, turn + (issues | (turn != 0)))),
                ahead.eq(ahead + ends),
                arriving.eq(arriving + arrives),
                room.eq(room - issues + self.take),
            ]
            with m.If(~reading & self.wanted & ~self.writing):
                m.d.sync += [reading.eq(1), turn.eq(0), ahead.eq(self.select.index), arriving.eq(self.select.index),
                             room.eq(self.queue_depth)]
            with m.If(queue.o.ready):
                m.d.sync += [self.value.eq(queue.o.payload), self.value_valid.eq(queue.o.valid)]


def _bits(value, low, count):
    """``value // low % count`` for powers of two."""
    start = low.bit_length() - 1
    return value[start:start + count.bit_length() - 1]
