# SPDX-License-Identifier: Apache-2.0
"""AXI4-Lite: the subordinate in front of the registers."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from openese.rtl.fifo import Fifo

__all__ = ["OKAY", "SLVERR", "AXI4LiteSignature", "AXI4LiteSubordinate"]

OKAY = 0
SLVERR = 2


class AXI4LiteSignature(wiring.Signature):
    """An AXI4-Lite bus of 32 bits, seen by the manager.

    Members
    -------
    aw : Out(stream(address)) — ``addr`` and ``prot`` of a write.
    w : Out(stream(data)) — ``data`` and ``strb``.
    b : In(stream(2)) — the response to a write.
    ar : Out(stream(address)) — ``addr`` and ``prot`` of a read.
    r : In(stream(data)) — ``data`` and ``resp``.
    """

    def __init__(self, address_width):
        address = data.StructLayout({"addr": address_width, "prot": 3})
        super().__init__({
            "aw": Out(stream.Signature(address)),
            "w": Out(stream.Signature(data.StructLayout({"data": 32, "strb": 4}))),
            "b": In(stream.Signature(2)),
            "ar": Out(stream.Signature(address)),
            "r": In(stream.Signature(data.StructLayout({"data": 32, "resp": 2}))),
        })


class AXI4LiteSubordinate(wiring.Component):
    """Turns AXI4-Lite into single reads and writes of registers, one of each at a time.

    No output follows an input in the same cycle, and no input goes further than to a register or a queue's memory.
    Addresses, data and responses of two writes may wait; a write is taken in every cycle, a read in every fourth.

    Latency: a write is done two cycles after its address and data are both there, a read one cycle after its address;
    then comes the response, for a read another cycle later. Cost: a register of a write, two words of distributed RAM
    for each of address, data and response.

    Parameters
    ----------
    address_width : int
    streamed : int
        Word address whose writes do not wait for ``write_wait``.

    Attributes
    ----------
    accepts : Signal
        A write is carried out or refused in this cycle.
    waiting : int
        Writes that may wait.

    Members
    -------
    bus : In(AXI4LiteSignature(address_width)) — the bus. A write that does not set all byte strobes gets SLVERR and
        changes nothing.
    write : Out(1) — a write.
    write_address : Out(address_width - 2) — its word address.
    write_wait : In(1) — in the same cycle: a write that is not to ``streamed`` has to wait.
    write_hold : In(1) — in the same cycle: every write has to wait.
    write_data : Out(32) — its value.
    write_known : In(1) — in the same cycle: it is allowed.
    read_asked : Out(1) — there is a read.
    read : Out(1) — it is carried out.
    read_address : Out(address_width - 2) — its word address.
    read_wait : In(1) — in the same cycle: a read there has to wait.
    read_data : In(32) — a cycle later: the value.
    read_known : In(1) — a cycle later: it is allowed.
    """

    waiting = 2

    def __init__(self, address_width, streamed=0):
        word = address_width - 2
        self._streamed = streamed
        self.accepts = Signal()
        super().__init__({
            "bus": In(AXI4LiteSignature(address_width)),
            "write": Out(1),
            "write_address": Out(word),
            "write_wait": In(1),
            "write_hold": In(1),
            "write_data": Out(32),
            "write_known": In(1),
            "read_asked": Out(1),
            "read": Out(1),
            "read_address": Out(word),
            "read_wait": In(1),
            "read_data": In(32),
            "read_known": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        bus = self.bus
        m.submodules.addresses = addresses = Fifo(len(self.write_address), self.waiting)
        m.submodules.words = words = Fifo(bus.w.payload.shape(), self.waiting)
        for channel, queue, value in ((bus.aw, addresses, bus.aw.payload.addr[2:]), (bus.w, words, bus.w.payload)):
            m.d.comb += [
                channel.ready.eq(queue.level != self.waiting),
                queue.i.eq(value),
                queue.i_valid.eq(channel.valid & channel.ready),
            ]
        m.submodules.responses = responses = Fifo(len(bus.b.payload), self.waiting)
        wiring.connect(m, responses.o, wiring.flipped(bus.b))
        accepts = self.accepts
        filled, whole, goes_on, fills = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            accepts.eq(filled & ~self.write_hold & (goes_on | ~self.write_wait) & (responses.level != self.waiting)),
            fills.eq(addresses.o.valid & words.o.valid & (accepts | ~filled)),
            addresses.o.ready.eq(fills),
            words.o.ready.eq(fills),
            self.write.eq(accepts & whole),
            responses.i.eq(Mux(whole & self.write_known, OKAY, SLVERR)),
            responses.i_valid.eq(accepts),
        ]
        m.d.sync += filled.eq(fills | (filled & ~accepts))
        with m.If(fills):
            m.d.sync += [
                self.write_address.eq(addresses.o.payload),
                self.write_data.eq(words.o.payload.data),
                whole.eq(words.o.payload.strb.all()),
                goes_on.eq(addresses.o.payload == self._streamed),
            ]

        requested, answered = Signal(), Signal()
        address = Signal.like(self.read_address)
        m.d.comb += [
            bus.ar.ready.eq(~requested & ~answered & ~bus.r.valid),
            self.read_asked.eq(requested),
            self.read.eq(requested & ~self.read_wait),
            self.read_address.eq(address),
        ]
        m.d.sync += [
            requested.eq((bus.ar.valid & bus.ar.ready) | (requested & self.read_wait)),
            answered.eq(self.read),
        ]
        with m.If(bus.ar.ready):
            m.d.sync += address.eq(bus.ar.payload.addr[2:])
        with m.If(answered):
            m.d.sync += [bus.r.valid.eq(1), bus.r.payload.data.eq(self.read_data), bus.r.payload.resp.eq(SLVERR)]
            with m.If(self.read_known):
                m.d.sync += bus.r.payload.resp.eq(OKAY)
        with m.Elif(bus.r.ready):
            m.d.sync += bus.r.valid.eq(0)
        return m
