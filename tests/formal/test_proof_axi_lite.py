# SPDX-License-Identifier: Apache-2.0
"""AXI4-Lite: the subordinate keeps the rules of the bus, for any manager that keeps them."""

from amaranth.hdl import Mux, Signal, Value

from openese.rtl.axi import OKAY, SLVERR, AXI4LiteSubordinate
from tests.formal.engine import implies, proof

ADDRESS_BITS = 6
#: Word whose writes do not wait.
STREAMED = 3
WIDTHS = f"{ADDRESS_BITS} address bits"
#: Cycles from a request to its response, if nothing holds it up.
ANSWER = 5


def subordinate(h):
    """The block, with a manager that keeps the rules."""
    dut = AXI4LiteSubordinate(ADDRESS_BITS, STREAMED)
    h.add(dut)
    h.assume(*(h.held(channel) for channel in (dut.bus.aw, dut.bus.w, dut.bus.ar)))
    return dut


def fire(channel):
    """A transfer takes place."""
    return channel.valid & channel.ready


def opened(h, channel, response):
    """Whether a request of ``channel`` waits for its response, in a cycle and as registered, and its payload."""
    m = h.m
    before = Signal()
    kept = Signal.like(Value.cast(channel.payload))
    with m.If(fire(channel)):
        m.d.sync += [before.eq(1), kept.eq(channel.payload)]
    with m.Elif(fire(response)):
        m.d.sync += before.eq(0)
    h.prove(implies(fire(channel), ~before | fire(response)))
    payload = Signal(channel.payload.shape())
    m.d.comb += Value.cast(payload).eq(Mux(fire(channel), channel.payload, kept))
    return before | fire(channel), before, payload


@proof("AXI4LiteSubordinate", "a write gets one response, which stays until taken; it takes place once, in order, with "
       "its own address and data, only with all strobes; OKAY only if it took place and is allowed", WIDTHS)
def test_writes(h):
    dut = subordinate(h)
    m, bus = h.m, dut.bus
    # Follow one of eight writes that come one after another, whichever. No more are outstanding.
    watched = h.constant(3)
    addresses, words, responses = (h.count(4, fire(channel)) for channel in (bus.aw, bus.w, bus.b))
    accepted = h.count(4, dut.accepts)
    address, word = Signal(bus.aw.payload.shape()), Signal(bus.w.payload.shape())
    with m.If(fire(bus.aw) & (addresses[:3] == watched)):
        m.d.sync += address.eq(bus.aw.payload)
    with m.If(fire(bus.w) & (words[:3] == watched)):
        m.d.sync += word.eq(bus.w.payload)
    waiting = [(count - accepted)[:4] for count in (addresses, words)]
    answers = (accepted - responses)[:4]
    mine = accepted[:3] == watched
    response = Signal.like(bus.b.payload)
    with m.If(dut.accepts & mine):
        m.d.sync += response.eq(Mux(dut.write & dut.write_known, OKAY, SLVERR))
    h.prove(
        h.held(bus.b), *(count <= dut.waiting + 1 for count in waiting), answers <= dut.waiting,
        implies(dut.write, dut.accepts),
        implies(dut.accepts, ~dut.write_hold & (~dut.write_wait | (dut.write_address == STREAMED))
                & (waiting[0] != 0) & (waiting[1] != 0)),
        implies(dut.accepts & mine, dut.write == word.strb.all()),
        implies(dut.write & mine, (dut.write_data == word.data) & (dut.write_address == address.addr[2:])),
        bus.b.valid == (answers != 0),
        implies(bus.b.valid & (responses[:3] == watched), bus.b.payload == response),
    )
    h.refute(implies(bus.b.valid, bus.b.payload == OKAY), implies(dut.write, dut.write_address == address.addr[2:]))
    h.cover(fire(bus.b) & dut.write & mine, bus.b.valid & (bus.b.payload == SLVERR), waiting[0] == 3,
            dut.write & dut.write_wait)


@proof("AXI4LiteSubordinate", "a read gets one response, which stays until taken, with the value read at its own "
       "address; OKAY only if it is allowed", WIDTHS)
def test_reads(h):
    dut = subordinate(h)
    m, bus = h.m, dut.bus
    is_open, before, address = opened(h, bus.ar, bus.r)
    value, allowed, done = Signal(32), Signal(), Signal()
    with m.If(h.past(dut.read)):
        m.d.sync += [value.eq(dut.read_data), allowed.eq(dut.read_known), done.eq(1)]
    with m.Elif(fire(bus.r)):
        m.d.sync += done.eq(0)
    h.prove(
        h.held(bus.r),
        implies(dut.read_asked, is_open & (dut.read_address == address.addr[2:])),
        implies(dut.read, dut.read_asked & ~dut.read_wait & (~done | fire(bus.r))),
        implies(bus.r.valid, before & done),
        implies(bus.r.valid, (bus.r.payload.data == value) & (bus.r.payload.resp == Mux(allowed, OKAY, SLVERR))),
    )
    h.refute(implies(bus.r.valid, bus.r.payload.resp == OKAY), implies(dut.read, dut.read_address == 0))
    h.cover(fire(bus.r) & (bus.r.payload.resp == SLVERR), fire(bus.r) & bus.ar.valid)


@proof("AXI4LiteSubordinate", f"every request is answered within {ANSWER} cycles in which the manager takes responses "
       "and nothing has to wait", WIDTHS)
def test_answers(h):
    dut = subordinate(h)
    bus = dut.bus
    unhindered = bus.b.ready & bus.r.ready & ~dut.write_wait & ~dut.write_hold & ~dut.read_wait
    write = h.waiting(fire(bus.b) | ~(bus.aw.valid & bus.w.valid) | ~unhindered, ANSWER + 1)
    read = h.waiting(fire(bus.r) | ~bus.ar.valid | ~unhindered, ANSWER + 1)
    h.prove(write <= ANSWER, read <= ANSWER)
    h.refute(write == 0, read == 0)
    h.cover(fire(bus.b) & fire(bus.r))
