# SPDX-License-Identifier: Apache-2.0
"""AXI4 reads of the weight stream: for any program and any memory that answers what it was asked."""

from amaranth.hdl import Cat, Mux, Signal, Value

from openese.rtl.config import preset
from openese.rtl.interfaces import BLOCKS
from openese.rtl.weight_stream import StreamFetch, StreamReader, burst_lines
from tests.formal.engine import implies, proof
from tests.formal.sizes import describe

#: With the widths of `ese_stream`: lines of 512 bits.
MACHINE = preset("ese_stream").replace(channels=1, column_depth=16, vector_depth=16, cell_rows=2, accumulator_rows=16,
                                       program_depth=8)
BLOCK = MACHINE.entry_depth // BLOCKS
WIDTHS = f"stream_bits {MACHINE.stream_bits}, " + describe(MACHINE, "entry_depth", "program_depth")
BYTES = MACHINE.stream_bits // 8


def fire(stream):
    """A word is taken."""
    return stream.valid & stream.ready


def address_rules(h, reader):
    """Of an address that is offered."""
    address = reader.bus.ar.payload
    return (
        h.held(reader.bus.ar),
        implies(reader.bus.ar.valid, address.addr[:12] + (address.len + 1) * BYTES <= 4096),
        implies(reader.bus.ar.valid, (address.addr[:12] & (BYTES - 1)) == 0),
        implies(reader.bus.ar.valid, (address.size == BYTES.bit_length() - 1) & (address.burst == 1)),
    )


class Memory:
    """A memory that answers only bursts that it was asked for, in order. It may set RLAST at any time.

    Attributes
    ----------
    outstanding : Signal
        Bursts asked for and not answered.
    beats : Signal
        Beats of the burst that is answered.
    ends : Value
        The beat is the last of the burst, by the number of lines.
    oldest : Burst
        The burst that is answered. That a queue gives its oldest word is proved of Fifo.
    """

    def __init__(self, h, bus, asked):
        self.oldest = asked.reads[0].data
        self.beats = Signal(7)
        self.ends = self.beats + 1 == self.oldest.lines
        done = fire(bus.r) & self.ends
        with h.m.If(fire(bus.r)):
            h.m.d.sync += self.beats.eq(Mux(self.ends, 0, self.beats + 1))
        self.outstanding = h.count(6, fire(bus.ar), done)
        oldest = Value.cast(self.oldest)
        h.assume(implies(bus.r.valid, self.outstanding != 0), self.oldest.lines > self.beats, self.oldest.lines <= 64,
                 implies(self.beats != 0, oldest == h.past(oldest)))


@proof("StreamReader", "an address stays until taken; no burst crosses 4 KB or leaves its lines; never more than "
       f"{StreamReader.most} are outstanding; `idle` is right; RREADY never falls", WIDTHS)
def test_reader(h):
    dut = StreamReader(MACHINE)
    asked, = h.add(dut, opened=lambda depth: depth > StreamReader.addresses)
    bus, burst = dut.bus, dut.bursts.payload
    memory = Memory(h, bus, asked)
    longest = burst_lines(MACHINE)
    place = burst.line[:longest.bit_length() - 1]
    h.assume(
        dut.base[:12] == 0,
        implies(dut.bursts.valid, (burst.lines != 0) & (place + burst.lines <= longest)))
    h.prove(
        *address_rules(h, dut), bus.r.ready,
        memory.outstanding <= StreamReader.most,
        implies(dut.idle, (memory.outstanding == 0) & ~bus.ar.valid),
    )
    h.refute(memory.outstanding < StreamReader.most, implies(bus.ar.valid, bus.ar.payload.len < longest - 1))
    h.cover(dut.idle & h.past(fire(bus.r)), fire(bus.ar) & (memory.outstanding == 5))


@proof("StreamReader", "lines are the beats, in order, up to the first that fails or has a wrong RLAST; no burst is "
       "taken after it; the error and its line stay until `flush`", WIDTHS)
def test_reader_errors(h):
    dut = StreamReader(MACHINE)
    asked, = h.add(dut, opened=lambda depth: depth > StreamReader.addresses)
    m, bus = h.m, dut.bus
    memory = Memory(h, bus, asked)
    error, line = Signal.like(dut.error), Signal.like(dut.error_line)
    taken = fire(bus.r)
    failure = Cat(bus.r.payload.resp, bus.r.payload.last != memory.ends)
    with m.If(taken & (failure != 0) & (error == 0)):
        m.d.sync += [error.eq(failure), line.eq(memory.oldest.line + memory.beats)]
    with m.If(dut.flush):
        m.d.sync += [error.eq(0), line.eq(0)]
    good = taken & (error == 0) & (failure == 0) & ~dut.flush
    h.prove(
        dut.line_valid == h.past(good), implies(dut.line_valid, dut.line == h.past(bus.r.payload.data)),
        dut.error == error, implies(error != 0, dut.error_line == line),
        implies(dut.bursts.ready, (error == 0) & ~dut.flush),
    )
    h.refute(error != 4, implies(bus.ar.valid, error == 0), implies(error != 0, line == memory.oldest.line))
    h.cover(h.past(error != 0) & (error == 0), dut.line_valid & (memory.beats == 3))


def fetch(h):
    """StreamFetch with any program, and PEs that release no more than they were sent; the lines asked for and not yet
    released."""
    dut = StreamFetch(MACHINE)
    h.add(dut, opened=lambda depth: True)
    taken = Mux(fire(dut.bursts), dut.bursts.payload.lines, 0)
    asked = Signal(range(2 * MACHINE.entry_depth))
    h.m.d.sync += asked.eq(asked + taken - Mux(dut.released, BLOCK, 0))
    h.assume(implies(dut.released, asked >= BLOCK))
    return dut, asked


@proof("StreamFetch", "bursts stay until taken, have 1 to 64 lines, and do not leave their page", WIDTHS)
def test_fetch_bursts(h):
    dut, _ = fetch(h)
    burst, longest = dut.bursts.payload, burst_lines(MACHINE)
    place = burst.line[:longest.bit_length() - 1]
    h.prove(h.held(dut.bursts), implies(dut.bursts.valid, (burst.lines != 0) & (place + burst.lines <= longest)))
    h.refute(implies(dut.bursts.valid, place == 0), implies(dut.bursts.valid, burst.lines == longest))
    h.cover(fire(dut.bursts) & (place == 3) & (burst.lines == longest - 3))


@proof("StreamFetch", "never more lines are asked for than the ring has room for, whatever the program; lines are "
       "written one behind another", WIDTHS)
def test_fetch_ring(h):
    dut, asked = fetch(h)
    arrived = h.count(len(dut.written), dut.arrived)
    h.prove(asked <= MACHINE.entry_depth, dut.write_address == arrived[:len(dut.write_address)],
            dut.written == (arrived + dut.arrived)[:len(arrived)])
    h.refute(asked < MACHINE.entry_depth, ~dut.released)
    h.cover(asked > MACHINE.entry_depth - BLOCK)
