# SPDX-License-Identifier: Apache-2.0
"""VectorMemory: the vectors x, m and y, column by column, and the sharing of its ports."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from openese.rtl.attributes import block_ram, fanout
from openese.rtl.interfaces import activations

__all__ = ["VectorMemory", "share_ports"]


class VectorMemory(wiring.Component):
    """Holds the columns that are broadcast (paper: Act Buffer, H Buffer): x twice, then m and y of each layer.

    Column ``v`` is line ``v // groups`` of bank ``v % groups``, so every group reads a column of its own each cycle.
    All banks write the same line.

    Latency: `delay` cycles from ``read_line`` to ``columns``. Cost: ``vector_depth`` x ``channels`` x
    ``activation_bits`` of block RAM.

    Members
    -------
    read_line : In(array(groups, line_bits)) — line to read, for each bank.
    columns : Out(array(groups, activations)) — the columns read.
    write_line : In(line_bits) — line to write.
    write_bank : In(groups) — banks to write.
    write_channels : In(channels) — channels to write.
    write_columns : In(array(groups, activations)) — the columns to write.
    """

    delay = 2

    def __init__(self, config):
        self._config = config
        line = config.line_bits
        columns = data.ArrayLayout(activations(config), config.groups)
        super().__init__({
            "read_line": In(data.ArrayLayout(line, config.groups)),
            "columns": Out(columns),
            "write_line": In(line),
            "write_bank": In(config.groups),
            "write_channels": In(config.channels),
            "write_columns": In(columns),
        })

    def elaborate(self, platform):
        m = Module()
        config = self._config
        for bank in range(config.groups):
            m.submodules[f"bank{bank}"] = storage = memory.Memory(
                shape=data.ArrayLayout(signed(config.activation_bits), config.channels),
                depth=config.vector_depth // config.groups, init=[],
                attrs=block_ram(config.vector_depth // config.groups))
            read = storage.read_port()
            write = storage.write_port(granularity=1)
            column = Signal(activations(config), name=f"column{bank}", reset_less=True)
            m.d.comb += [
                read.addr.eq(self.read_line[bank]),
                read.en.eq(1),
                write.addr.eq(self.write_line),
                write.data.eq(self.write_columns[bank]),
                write.en.eq(self.write_channels & self.write_bank[bank].replicate(config.channels)),
                self.columns[bank].eq(column),
            ]
            m.d.sync += column.eq(read.data)
        return m


def share_ports(m, config, vectors, broadcast, frame_output, frame_input, assemble, state):
    """Adds the multiplexers in front of the ports of ``vectors`` to the module that has all of these blocks.

    The read port belongs to Broadcast, then to FrameOutput while it is busy, then to StateAccess. The write port
    belongs to Assemble, then to StateAccess, then to FrameInput, which is told to ``hold`` while another block writes.
    """
    with m.If(~broadcast.read_valid):
        line = Mux(frame_output.busy, frame_output.read_line, state.line)
        m.d.comb += [bank_line.eq(line) for bank_line in vectors.read_line]
    for group in range(config.groups):
        m.d.comb += vectors.write_columns[group].eq(frame_input.write_columns[group % config.beat_columns])
    m.d.comb += [
        vectors.write_line.eq(frame_input.write_line),
        vectors.write_bank.eq(Mux(frame_input.write_valid, frame_input.write_bank, 0)),
        vectors.write_channels.eq((1 << config.channels) - 1),
    ]
    set_by_host = Signal(attrs=fanout(128))
    m.d.comb += set_by_host.eq(state.bank.any())
    with m.If(assemble.write_valid):
        m.d.comb += [
            vectors.write_line.eq(assemble.write_line),
            vectors.write_bank.eq((1 << config.groups) - 1),
            vectors.write_channels.eq(assemble.write_channels),
            vectors.write_columns.eq(assemble.write_columns),
        ]
    with m.Elif(set_by_host):
        m.d.comb += [
            vectors.write_line.eq(state.line),
            vectors.write_bank.eq(state.bank),
            vectors.write_channels.eq(state.write_channels),
            vectors.write_columns.eq(state.data[:config.activation_bits].replicate(config.groups * config.channels)),
        ]
