# SPDX-License-Identifier: Apache-2.0
"""The weight stream, from its AXI4 reads to the entries: for any program and any memory that answers what it was asked.
"""

from amaranth.hdl import Cat, Mux, Signal, Value

from openese.rtl.config import preset
from openese.rtl.interfaces import BLOCKS, MAX_OPERATIONS, Entry
from openese.rtl.spmat_read import SpmatRead
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


class Ring:
    """SpmatRead at its ring, any tokens, and lines that come one at a time, as far as the blocks given back leave room.
    The number of an operation's lines is known two cycles before its first token. The entries of a PE are no more than
    the lines, and fewer by less than two rings.

    Attributes
    ----------
    passes, ends : Value
        A line has its turn; an operation ends.
    gap : Signal
        Lines that are written and have not had their turn.
    passed : Signal
        Lines that had their turn and are not given back.
    rest : Signal
        Lines of the operation that have not had their turn.
    due : Signal
        Entries of the column that have not had their turn.
    """

    def __init__(self, h):
        self.dut = dut = SpmatRead(MACHINE)
        weights, _, stops = h.add(dut, opened=lambda depth: depth in (MACHINE.entry_depth, MAX_OPERATIONS))
        m, token, go = h.m, dut.tokens.payload, dut.entries.ready
        self.position, takes, skips, finishes = h.inside(dut, "position", "takes", "skips", "finishes")
        bits, self.read = len(self.position), weights.reads[0]
        self.takes, self.skips, self.passes, self.ends = go & takes, go & skips, go & (takes | skips), go & finishes
        # A line holds the end of its number.
        self.kept = Signal.like(self.read.addr)
        with m.If(self.read.en):
            m.d.sync += self.kept.eq(self.read.addr)
        m.d.comb += [Value.cast(self.read.data).eq(self.kept), dut.streamed.eq(1)]

        self.gap, self.passed = Signal(bits), Signal(bits)
        arrives = h.free()
        m.d.comb += dut.written.eq(self.position + self.gap + arrives)
        m.d.sync += [self.gap.eq(self.gap + arrives - self.passes),
                     self.passed.eq(self.passed + self.passes - Mux(dut.released, BLOCK, 0))]

        # This operation and the next: their lines, and for how many cycles these have been known, up to two.
        self.rest, following, lines = Signal(bits + 1), Signal(bits + 1), h.free(bits + 1)
        known, known_following = Signal(2), Signal(2)
        opens = h.free()
        with m.If(known == 1):
            m.d.sync += known.eq(2)
        with m.If(known_following == 1):
            m.d.sync += known_following.eq(2)
        m.d.sync += self.rest.eq(self.rest - self.passes)
        with m.If(self.ends):
            m.d.sync += [known.eq(Mux(known_following == 0, opens, 2)), known_following.eq(0),
                         self.rest.eq(Mux(known_following == 0, lines, following))]
        with m.Elif(opens & (known == 0)):
            m.d.sync += [known.eq(1), self.rest.eq(lines)]
        with m.Elif(opens):
            m.d.sync += [known_following.eq(1), following.eq(lines)]
        end = self.position + self.rest
        for port, is_known, value in zip(stops.reads, (known, known_following), (end, end + following), strict=True):
            m.d.comb += Value.cast(port.data).eq(Mux(is_known == 0, h.free(bits), value))

        self.due = Signal(bits + 1)
        m.d.sync += self.due.eq(self.due + Mux(fire(dut.tokens) & ~token.end, token.count, 0) - self.takes)
        h.assume(
            implies(arrives, self.gap + self.passed < MACHINE.entry_depth),
            implies(opens, known_following == 0),
            h.held(dut.tokens), implies(dut.tokens.valid, known == 2),
            implies(dut.tokens.valid & ~token.end, (token.count != 0) & (self.due + token.count <= self.rest)),
            implies(dut.tokens.valid & token.end, self.rest - self.due < 2 * MACHINE.entry_depth))


@proof("SpmatRead", "ring: an entry is the line whose turn it is; no line is read before it is written, nor after the "
       "ring's next round has overwritten it; a block is given back when its last line is read, once", WIDTHS)
def test_ring(h):
    ring = Ring(h)
    dut, m, go = ring.dut, h.m, ring.dut.entries.ready
    address, valids, *stages = h.inside(dut, "address", "valids", "stage0", "stage1")
    holds = [valid & ~entry.end for valid, entry in zip(
        valids, [*(Entry(MACHINE)(stage) for stage in stages), dut.entries.payload], strict=True)]
    lines = [(ring.position - 1)[:len(address)], Signal.like(address), Signal.like(address)]
    with m.If(go):
        m.d.sync += [lines[1].eq(lines[0]), lines[2].eq(lines[1])]
    entry = Cat(dut.entries.payload.weight, dut.entries.payload.skip)
    h.prove(
        implies(ring.passes, ring.gap != 0), implies(holds[0], ring.gap < MACHINE.entry_depth),
        implies(holds[0], address == lines[0]), implies(holds[1], ring.kept == lines[1]),
        implies(holds[2], entry[:len(address)] == lines[2]), dut.entries.valid == valids[2],
        ring.passed <= BLOCK, dut.released == (go & (ring.passed == BLOCK)),
        (ring.position - ring.passed)[:(BLOCK - 1).bit_length()] == 0)
    h.refute(implies(ring.passes, ring.gap != 1), implies(holds[0], ring.gap == 0))
    h.cover(holds[2] & (lines[2] == 3), holds[0] & ~go & (ring.gap != 0), ring.skips)


@proof("SpmatRead", "progress: whenever entries are taken, a token waits and the next line is there, a line has its "
       "turn or the operation ends; a column has its entries, and an operation all its lines", WIDTHS)
def test_ring_progress(h):
    ring = Ring(h)
    dut, token = ring.dut, ring.dut.tokens.payload
    takes_token = fire(dut.tokens)
    works = dut.entries.ready & ((ring.due != 0) | dut.tokens.valid)
    h.prove(
        implies(works & ((ring.gap != 0) | ((ring.rest == 0) & (ring.due == 0))), ring.passes | ring.ends),
        implies(takes_token, ring.due == 0), implies(ring.takes & (ring.due == 0), takes_token & ~token.end),
        ring.ends == (takes_token & token.end), implies(ring.ends, ring.rest == 0),
        ring.due <= ring.rest, implies(ring.passes, ring.rest != 0))
    h.refute(implies(works, ring.passes | ring.ends), implies(ring.ends, ring.gap == 0))
    h.cover(ring.skips & (ring.rest == 3), ring.ends & (ring.gap != 0))
