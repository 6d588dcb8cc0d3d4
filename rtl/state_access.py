# SPDX-License-Identifier: Apache-2.0
"""StateAccess: lets the host read and write c and y of a voice while nothing is under way."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from openese.rtl.bundles import Bundle
from openese.rtl.config import bits_for
from openese.rtl.interfaces import activations

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
    """Access to one number of a voice's state, from the registers to `StateAccess`.

    Members
    -------
    select : Out(Select) — the number.
    write : Out(1) — set it to ``data``.
    data : Out(32) — the value to set.
    value : In(signed(32)) — the number.
    """

    def __init__(self):
        super().__init__({"select": Out(Select()), "write": Out(1), "data": Out(32), "value": In(signed(32))})


class StateAccess(wiring.Component):
    """Points the ports of the slices and of the vector memory at one number, while the core is idle.

    Wait: a ``value`` is right, and a ``write`` has taken effect, `wait` cycles after it was asked for. This is a round
    number longer than the way through any machine's slices, and the registers hold the bus for that time.
    Cost: a multiplexer over all slices, one over all channels.

    Members
    -------
    select : In(Select) — the number.
    write : In(1) — set it to ``data``.
    data : In(32) — the value to set.
    value : Out(signed(32)) — the number.
    cell_row : Out(bits_for(cell_rows - 1)) — cell row for the slices' control.
    cell_beat : Out(bits_for(beats - 1)) — beat for it.
    cell_bank : Out(bank_bits) — bank for it. Only if the machine has several.
    cells : In(array(slices * slice_width, signed(cell_bits))) — the cell states that the slices read there.
    cell_write : Out(slices * slice_width) — lanes whose cell state is set to ``data``.
    line : Out(line_bits) — line of the vector memory.
    bank : Out(groups) — banks to write.
    write_channels : Out(channels) — channels to write.
    columns : In(array(groups, activations)) — the columns that the vector memory reads.
    """

    wait = 32

    def __init__(self, config):
        self._config = config
        super().__init__({
            **StatePort().flip().ports(),
            "cell_row": Out(bits_for(config.cell_rows - 1)),
            "cell_beat": Out(bits_for(config.beats - 1)),
            **({"cell_bank": Out(config.bank_bits)} if config.banks > 1 else {}),
            "cells": In(data.ArrayLayout(signed(config.cell_bits), config.slices * config.slice_width)),
            "cell_write": Out(config.slices * config.slice_width),
            "line": Out(config.line_bits),
            "bank": Out(config.groups),
            "write_channels": Out(config.channels),
            "columns": In(data.ArrayLayout(activations(config), config.groups)),
        })

    def elaborate(self, platform):
        m = Module()
        config = self._config
        select = self.select

        def bits(value, low, count):
            """``value // low % count`` for powers of two."""
            start = low.bit_length() - 1
            return value[start:start + count.bit_length() - 1]

        channel_bits = config.channels.bit_length() - 1
        lane = Cat(select.channel[:channel_bits], bits(select.index, 1, config.rows_per_slice))
        port = Cat(bits(lane, 1, config.slice_width), bits(select.index, config.rows_per_slice, config.slices))
        group = bits(select.index, 1, config.groups)
        cell_value = Signal(signed(config.cell_bits))
        y_value = Signal(signed(config.activation_bits))
        m.d.comb += [
            self.cell_row.eq(select.index >> (config.row_pes.bit_length() - 1)),
            self.cell_beat.eq(bits(lane, config.slice_width, config.beats)),
            self.line.eq(select.index >> (config.groups.bit_length() - 1)),
            self.bank.eq(Mux(self.write & ~select.cell, 1 << group, 0)),
            self.write_channels.eq(1 << select.channel[:channel_bits]),
            self.cell_write.eq(Mux(self.write & select.cell, 1 << port, 0)),
        ]
        if config.banks > 1:
            m.d.comb += self.cell_bank.eq(select.bank)
        m.d.sync += [
            cell_value.eq(Array(self.cells)[port] if len(port) else self.cells[0]),
            y_value.eq(Array(value for column in self.columns for value in column)[
                Cat(select.channel[:channel_bits], group)]),
            self.value.eq(Mux(select.cell, cell_value, y_value)),
        ]
        return m
