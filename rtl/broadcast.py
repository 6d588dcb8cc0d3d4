# SPDX-License-Identifier: Apache-2.0
"""Broadcast: sends the columns of an operation to the array."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from openese.rtl.array import PEArray
from openese.rtl.attributes import block_ram
from openese.rtl.bundles import ValidPort
from openese.rtl.config import bits_for
from openese.rtl.distance import SEND_DELAY
from openese.rtl.elementwise.shared import delayed
from openese.rtl.interfaces import Column, LineWrite, activations
from openese.rtl.spmat_read import column_lead
from openese.rtl.vector_memory import VectorMemory

__all__ = ["Broadcast", "order_line"]


def order_line(config):
    """A write of a line of the order memory: for each group the line of the vector memory that it takes."""
    return LineWrite(bits_for(config.column_depth - 1), config.groups * config.line_bits)


class Broadcast(wiring.Component):
    """Sends column after column from the vector memory to the array, in the order that the packer chose.

    Line ``order_base + k`` of the order memory names, for each group, the ``k``-th column that it multiplies. A good
    order keeps the PEs' queues level. Columns without any entry are not in the order. The pointers of the ``k``-th
    columns are at the same line in every PE. After the last column goes the end of the operation.

    An operation with ``follow`` takes only columns that have been written, so it can start while they are computed, or
    while the frame comes in.

    Latency: `delay` cycles from ``start`` to the first ``column``; `activations_delay` cycles from a column to its
    activations. Cost: one memory of ``column_depth`` x ``groups`` x ``line_bits``.

    Attributes
    ----------
    turns : int
        Columns in a row that wait for ``full`` or ``follow``. The last one is sent in its turn.
    send_delay : int
        Cycles from a column's turn to ``column``.

    Raises
    ------
    ValueError
        If the array takes activations at another time.

    Members
    -------
    start : In(1) — begin an operation; only while not ``busy``.
    count : In(bits_for(vector_depth)) — its columns for each group.
    order_base : In(bits_for(column_depth)) — its first line in the order memory and in the PEs' pointer memories.
    src_base : In(line_bits) — line of the vector memory that line numbers in the order count from.
    follow : In(1) — wait until a column is written.
    clear : In(channels) — channels whose activations are sent as zero.
    operation : In(operation_bits) — its number.
    busy : Out(1) — the end of the operation is not sent yet.
    full : In(1) — send no column.
    of_frame : In(1) — they are columns of a frame; only if ``follow``.
    lines_computed : In(line_bits + 1) — lines of the vector that is computed that can be read two cycles later, or
        with ``forward`` `column_lead` more.
    lines_received : In(line_bits + 1) — lines of the frame that comes in that can be read two cycles later.
    blocked_full : Out(1) — no column is sent because of ``full``.
    blocked_follow : Out(1) — no column is sent because it is not written yet.
    read_line : Out(array(groups, line_bits)) — line of the vector memory for each group.
    read_valid : Out(1) — the read port is in use.
    columns : In(array(groups, activations)) — the columns read.
    column : Out(Column) — a column, or the end of the operation.
    column_valid : Out(1) — there is one.
    activations : Out(array(groups, activations)) — its activations.
    order : In(order_line) — line of the order memory.
    order_valid : In(1) — write the line.
    """

    turns = 2
    send_delay = SEND_DELAY
    delay = turns + 1 + send_delay

    @classmethod
    def activations_delay(cls, config):
        """Cycles from a column to its activations."""
        return 1 + column_lead(config) + VectorMemory.delay + 1 - cls.send_delay

    def __init__(self, config):
        if self.activations_delay(config) != PEArray.column_delay(config):
            raise ValueError(f"Broadcast sends activations {self.activations_delay(config)} cycles after their column, "
                             f"but PEArray takes them {PEArray.column_delay(config)} cycles after it")
        self._config = config
        line = config.line_bits
        columns = data.ArrayLayout(activations(config), config.groups)
        super().__init__({
            "start": In(1),
            "count": In(bits_for(config.vector_depth)),
            "order_base": In(bits_for(config.column_depth)),
            "src_base": In(line),
            "follow": In(1),
            "clear": In(config.channels),
            "operation": In(config.operation_bits),
            "busy": Out(1),
            "full": In(1),
            "of_frame": In(1),
            "lines_computed": In(line + 1),
            "lines_received": In(line + 1),
            "blocked_full": Out(1),
            "blocked_follow": Out(1),
            "read_line": Out(data.ArrayLayout(line, config.groups)),
            "read_valid": Out(1),
            "columns": In(columns),
            **ValidPort(Column(config)).ports("column"),
            "activations": Out(columns),
            **ValidPort(order_line(config)).flip().ports("order"),
        })

    def elaborate(self, platform):
        m = Module()
        config = self._config
        m.submodules.order = order = memory.Memory(
            shape=data.ArrayLayout(self.src_base.shape(), config.groups), depth=config.column_depth, init=[],
            attrs=block_ram(config.column_depth))
        read = order.read_port()
        write = order.write_port()

        src_base = Signal.like(self.src_base)
        follow, of_frame = Signal(), Signal(name="_of_frame")
        lines_done = Signal.like(self.lines_computed)
        m.d.sync += lines_done.eq(Mux(of_frame, self.lines_received, self.lines_computed))
        clear = Signal.like(self.clear)
        operation = Signal.like(self.operation)
        left = Signal.like(self.count)
        index = Signal(bits_for(config.column_depth - 1))
        # Turns at stage 0 (being read) and 1 (offsets known); `left` counts the columns still to come.
        running = Signal()
        turns = [Signal(Column(config), name=f"turn{k}") for k in range(self.turns)]
        valids = Signal(self.turns)
        lines = Signal(data.ArrayLayout(src_base.shape(), config.groups))
        written = Cat(lines[g] < lines_done for g in range(config.groups)).all()
        waits = valids[1] & follow & ~turns[1].end & ~written
        go = Signal()
        m.d.comb += [
            go.eq(~(waits | self.full)),
            self.blocked_full.eq(self.full & (valids != 0)),
            self.blocked_follow.eq(waits & ~self.full),
            self.busy.eq(running | (valids != 0)),
            read.addr.eq(index),
            read.en.eq(go),
            write.addr.eq(self.order.address),
            write.data.eq(self.order.data),
            write.en.eq(self.order_valid),
        ]
        with m.If(self.start):
            m.d.sync += [
                running.eq(1),
                left.eq(self.count),
                index.eq(self.order_base),
                src_base.eq(self.src_base),
                follow.eq(self.follow),
                of_frame.eq(self.of_frame),
                clear.eq(self.clear),
                operation.eq(self.operation),
            ]
        with m.Elif(go & running):
            m.d.sync += [index.eq(index + 1), left.eq(left - 1), running.eq(left != 0)]
        with m.If(go):
            m.d.sync += [
                valids.eq((valids << 1) | running),
                turns[0].index.eq(index),
                turns[0].operation.eq(operation),
                turns[0].end.eq(left == 0),
                turns[1].eq(turns[0]),
            ]
        self._fetch(m, go, read, lines, src_base, clear, turns, valids)
        return m

    def _fetch(self, m, go, read, lines, src_base, clear, turns, valids):
        """From stage 1 on: read the vector memory, and send the column ahead of its activations."""
        config = self._config
        lead = column_lead(config)
        delay = lead + VectorMemory.delay
        sent = Signal()
        ahead = Signal(Column(config))
        clears = [Signal.like(clear, name=f"clear{k}") for k in range(delay + 1)]
        with m.If(go):
            m.d.sync += lines.eq(read.data)
        for group in range(config.groups):
            m.d.sync += self.read_line[group].eq(delayed(m, src_base + lines[group], lead))
        m.d.sync += [
            sent.eq(valids[1] & go),
            self.read_valid.eq(delayed(m, valids[1] & go & ~turns[1].end, lead, reset_less=False)),
            ahead.eq(turns[1]),
            self.column.eq(ahead),
            self.column_valid.eq(sent),
            clears[0].eq(clear),
        ]
        m.d.sync += [after.eq(before) for before, after in zip(clears, clears[1:], strict=False)]
        sending = Signal.like(self.activations, reset_less=True)
        m.d.comb += self.activations.eq(sending)
        for group in range(config.groups):
            for channel in range(config.channels):
                m.d.sync += sending[group][channel].eq(
                    Mux(clears[delay][channel], 0, self.columns[group][channel]))
