# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""VectorMemory: which block has its ports."""

from types import SimpleNamespace

from amaranth.hdl import Mux, Signal, Value

from openese.rtl.assemble import Assemble
from openese.rtl.broadcast import Broadcast
from openese.rtl.frames import FrameInput, FrameOutput
from openese.rtl.state_access import StateAccess
from openese.rtl.vector_memory import VectorMemory, share_ports
from tests.formal.engine import implies, proof
from tests.formal.sizes import describe, small

MACHINE = small(channels=2, vector_depth=16)


def ports(h, block, *names):
    """The outputs ``names`` of a ``block``, free; without the block."""
    kinds = block(MACHINE).signature.members
    signals = {name: Signal(kinds[name].shape) for name in names}
    h.expose(*signals.values())
    return SimpleNamespace(**signals)


@proof("VectorMemory", "a write of Assemble, of FrameInput or of the host reaches its own line and channels, and "
       "nothing else; a read of Broadcast or of FrameOutput gets its own line",
       describe(MACHINE, "channels", "vector_depth"))
def test_ports(h):
    dut = VectorMemory(MACHINE)
    memory, = h.add(dut, opened=lambda depth: True)
    read, write = memory.reads[0], memory.writes[0]
    broadcast = ports(h, Broadcast, "read_valid", "read_line")
    output = ports(h, FrameOutput, "busy", "read_line")
    frames = ports(h, FrameInput, "write_valid", "write_line", "write_bank", "write_columns")
    assemble = ports(h, Assemble, "write_valid", "write_line", "write_channels", "write_columns")
    state = ports(h, StateAccess, "line", "bank", "write_channels")
    state.data = h.free(32)
    h.m.d.comb += dut.read_line.eq(broadcast.read_line)
    share_ports(h.m, MACHINE, dut, broadcast, output, frames, assemble, state)
    # FrameInput holds while another block writes, and the host writes only while Assemble is idle.
    host = state.bank.any()
    h.assume(implies(assemble.write_valid | host, ~frames.write_valid), ~(assemble.write_valid & host),
             implies(frames.write_valid, frames.write_bank == 1))
    bits = MACHINE.activation_bits
    enabled = Mux(assemble.write_valid, assemble.write_channels,
                  Mux(host, state.write_channels, frames.write_valid.replicate(2)))
    line = Mux(assemble.write_valid, assemble.write_line, Mux(host, state.line, frames.write_line))
    column = Mux(assemble.write_valid, Value.cast(assemble.write_columns),
                 Mux(host, state.data[:bits].replicate(2), Value.cast(frames.write_columns)))
    h.prove(
        Value.cast(write.en) == enabled, implies(enabled, write.addr == line),
        implies(enabled, Value.cast(write.data) == column), read.en,
        implies(broadcast.read_valid, read.addr == broadcast.read_line[0]),
        implies(~broadcast.read_valid & output.busy, read.addr == output.read_line),
    )
    h.refute(Value.cast(write.en) != 1, implies(output.busy, read.addr == output.read_line))
    h.cover(assemble.write_valid & (write.addr == 3), host & (Value.cast(write.en) == 2))
