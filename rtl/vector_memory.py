# SPDX-License-Identifier: Apache-2.0
"""VectorMemory: the vectors x, m and y, column by column, and the sharing of its ports."""

from amaranth.hdl import Array, Module, Mux, Signal, signed
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from openese.rtl.attributes import block_ram, fanout
from openese.rtl.interfaces import activations

__all__ = ["VectorMemory", "lines_of", "share_ports"]


def lines_of(config, writes):
    """The lines of as many writes, as hardware."""
    return writes << (config.write_lines.bit_length() - 1)


class VectorMemory(wiring.Component):
    """Holds the columns that are broadcast (paper: Act Buffer, H Buffer): x twice, then m and y of each layer.

    Column ``v`` is line ``v // groups`` of bank ``v % groups``, so every group reads a column of its own each cycle.
    Where `Config.write_lines` L is more than one, column ``v`` is in bank ``v % (L * groups)``, and that many columns
    are written in a cycle: L lines, from a multiple of L on.

    Latency: `delay` cycles from ``read_line`` to ``columns``. Cost: ``vector_depth`` x ``channels`` x
    ``activation_bits`` of block RAM; a multiplexer of each column over ``write_lines`` memories.

    Members
    -------
    read_line : In(array(groups, line_bits)) — line to read, for each group.
    columns : Out(array(groups, activations)) — the columns read.
    banks : Out(array(write_columns, activations)) — all columns that were written with them, if every group reads the
        same line.
    write_line : In(line_bits) — line to write, or any of the L.
    write_bank : In(write_columns) — banks to write.
    write_channels : In(channels) — channels to write.
    write_columns : In(array(write_columns, activations)) — the columns to write.
    """

    delay = 2

    def __init__(self, config):
        self._config = config
        line = config.line_bits
        columns = data.ArrayLayout(activations(config), config.groups)
        banks = data.ArrayLayout(activations(config), config.write_columns)
        super().__init__({
            "read_line": In(data.ArrayLayout(line, config.groups)),
            "columns": Out(columns),
            "banks": Out(banks),
            "write_line": In(line),
            "write_bank": In(config.write_columns),
            "write_channels": In(config.channels),
            "write_columns": In(banks),
        })

    def elaborate(self, platform):
        m = Module()
        config = self._config
        lines = config.write_lines
        place_bits = (lines - 1).bit_length()
        depth = config.vector_depth // config.write_columns
        for group in range(config.groups):
            found = []
            for place in range(lines):
                number = place * config.groups + group
                m.submodules[f"bank{number}"] = storage = memory.Memory(
                    shape=data.ArrayLayout(signed(config.activation_bits), config.channels), depth=depth, init=[],
                    attrs=block_ram(config.vector_depth // config.groups))
                read = storage.read_port()
                write = storage.write_port(granularity=1)
                m.d.comb += [
                    read.addr.eq(self.read_line[group][place_bits:]),
                    read.en.eq(1),
                    write.addr.eq(self.write_line[place_bits:]),
                    write.data.eq(self.write_columns[number]),
                    write.en.eq(self.write_channels & self.write_bank[number].replicate(config.channels)),
                ]
                found.append(read.data)
            column = Signal(activations(config), name=f"column{group}", reset_less=True)
            m.d.comb += self.columns[group].eq(column)
            if lines == 1:
                m.d.sync += column.eq(found[0])
                m.d.comb += self.banks[group].eq(column)
                continue
            place = Signal(place_bits, name=f"place{group}")
            m.d.sync += [place.eq(self.read_line[group]), column.eq(Array(found)[place])]
            for number, one in enumerate(found):
                column = Signal(activations(config), name=f"read{number * config.groups + group}", reset_less=True)
                m.d.sync += column.eq(one)
                m.d.comb += self.banks[number * config.groups + group].eq(column)
        return m


def share_ports(m, config, vectors, broadcast, frame_output, frame_input, assemble, state):
    """Adds the multiplexers in front of the ports of ``vectors`` to the module that has all of these blocks.

    The read port belongs to Broadcast, then to FrameOutput while it is busy, then to StateAccess. The write port
    belongs to Assemble, then to StateAccess, then to FrameInput, which is told to ``hold`` while another block writes.
    """
    with m.If(~broadcast.read_valid):
        line = Mux(frame_output.busy, frame_output.read_line, state.line)
        m.d.comb += [bank_line.eq(line) for bank_line in vectors.read_line]
    for column in range(config.write_columns):
        m.d.comb += vectors.write_columns[column].eq(frame_input.write_columns[column % config.beat_columns])
    m.d.comb += [
        vectors.write_line.eq(frame_input.write_line),
        vectors.write_bank.eq(Mux(frame_input.write_valid, frame_input.write_bank, 0)),
        vectors.write_channels.eq((1 << config.channels) - 1),
    ]
    set_by_host = Signal(attrs=fanout(128))
    value = state.data[:config.activation_bits]
    m.d.comb += set_by_host.eq(state.bank.any())
    with m.If(assemble.write_valid):
        m.d.comb += [
            vectors.write_line.eq(assemble.write_line),
            vectors.write_bank.eq((1 << config.write_columns) - 1),
            vectors.write_channels.eq(assemble.write_channels),
            vectors.write_columns.eq(assemble.write_columns),
        ]
    with m.Elif(set_by_host):
        m.d.comb += [
            vectors.write_line.eq(state.line),
            vectors.write_bank.eq(state.bank),
            vectors.write_channels.eq(state.write_channels),
            vectors.write_columns.eq(value.replicate(config.write_columns * config.channels)),
        ]
