# SPDX-License-Identifier: Apache-2.0
"""SpMV: what a drain gives is the sum of the products of all entries, added one after another.

The claim falls into three. Decode: an entry reads the row that the format names. Hazards: no row is read while a new
value for it is under way. Data: the value written behind a read is the value read plus the product of its entry, or
zero behind a drain. The accumulators may hold anything.
"""

from amaranth.hdl import Mux, Signal, Value, signed

from openese.rtl.spmv import SpMV
from tests.formal.engine import implies, proof
from tests.formal.sizes import describe, small

CONTROL = small(accumulator_rows=512, index_bits=2)
FULL = small(weight_bits=12, activation_bits=16, cell_bits=24, index_bits=6, align_bits=3, accumulator_rows=512,
             row_nonzeros=512)
NARROW = small(channels=2)
FORWARD = small(forward=True)
FIELDS = ("channels", "weight_bits", "activation_bits", "index_bits", "align_bits", "accumulator_rows")


def spmv(h, config):
    """The block with entries that stay until taken, and the ports of its accumulators."""
    dut = SpMV(config)
    accumulators, = h.add(dut, opened=lambda depth: depth == config.accumulator_rows)
    h.assume(h.held(dut.entries), dut.columns.valid)
    return dut, accumulators.reads[0], accumulators.writes[0]


@proof("SpMV", "hazards: no entry reads a row that an entry or a drain before it has read and not yet written, nor in "
       "the cycle in which it is written", describe(CONTROL, *FIELDS))
def test_hazards(h):
    dut, read, write = spmv(h, CONTROL)
    # `busy` says a cycle later that an entry's row was read.
    address, drained = h.past(read.addr), h.past(dut.drain, 1 + SpMV.read_delay)
    later = range(1, SpMV.latency)
    entries = [h.past(dut.busy, k) for k in later]
    reads = [h.past(dut.busy | drained, k) for k in later]
    addresses = [h.past(address, k) for k in later]
    # A drain names no row with entries or a clearing under way.
    h.assume(*(implies(drained & was, address != before) for was, before in zip(reads, addresses, strict=True)))
    same = [was & (address == before) for was, before in zip(reads, addresses, strict=True)]
    h.prove(*(implies(dut.busy, ~clash) for clash in same),
            implies(dut.busy & h.past(write.en), h.past(write.addr) != address))
    h.refute(implies(dut.busy, ~h.past(reads[-1] & (addresses[-1] == address))), ~dut.hazard)
    h.cover(dut.busy & entries[0] & entries[1] & entries[2])


def decoded(h, dut, config):
    """The rows, aligned weights and columns of the entries, as the format has them: that the entry taken names."""
    m = h.m
    entry = dut.entries.payload
    contexts = [Signal(dut.context.shape(), reset_less=True) for _ in range(1 << config.operation_bits)]
    context = Signal.like(dut.context)
    for number, kept in enumerate(contexts):
        with m.If(dut.context_valid & (dut.context_operation == number)):
            m.d.sync += kept.eq(dut.context)
        with m.If(entry.operation == number):
            m.d.comb += context.eq(kept)
    row, phase = Signal(config.count_bits, reset_less=True), Signal(3, reset_less=True)
    base = Signal(range(config.accumulator_rows), reset_less=True)
    new_row, new_phase, new_base = Signal.like(row), Signal.like(phase), Signal.like(base)
    wraps = entry.fresh | (phase == context.phase_last)
    padding = entry.weight == 0
    m.d.comb += [
        new_row.eq(Mux(entry.first, 0, row + 1)
                   + Mux(padding, ((entry.skip + 1) << config.index_bits) - 1, entry.skip)),
        new_base.eq(Mux(entry.first, Mux(wraps, context.acc_base, base + context.phase_stride), base)),
        new_phase.eq(Mux(entry.first, Mux(wraps, 0, phase + 1), phase)),
    ]
    taken = dut.entries.valid & dut.entries.ready
    began = Signal()
    with m.If(taken):
        m.d.sync += [row.eq(new_row), base.eq(new_base), phase.eq(new_phase), began.eq(1)]
    h.assume(implies(entry.fresh, entry.first), implies(entry.end, ~entry.first),
             implies(taken & ~began, entry.fresh))
    weight = Signal(signed(config.operand_bits))
    align = Signal(config.align_bits)
    for k in range(4):
        with m.If(new_row[:2] == k):
            m.d.comb += align.eq(context.align[k])
    m.d.comb += weight.eq(entry.weight << align)
    return taken & ~entry.end & ~padding, (new_base + new_row)[:len(base)], weight


@proof("SpMV", "decode: every entry but padding reads its row once, in order, at the place that skips, phases and "
       "the context name", describe(FULL, *FIELDS))
def test_decode(h):
    dut, read, _ = spmv(h, FULL)
    m = h.m
    counts, address, _ = decoded(h, dut, FULL)
    valid, place = [Signal(), Signal()], [Signal.like(address, reset_less=True) for _ in range(2)]
    go = dut.entries.ready
    with m.If(go):
        m.d.sync += [valid[0].eq(counts), place[0].eq(address), valid[1].eq(valid[0]), place[1].eq(place[0])]
    reads = valid[1] & go
    h.prove(implies(reads, read.addr == place[1]), dut.busy == h.past(reads),
            implies(h.past(dut.drain), ~go & (read.addr == h.past(dut.drain_address, reset_less=True))))
    h.refute(implies(reads, place[1] == h.past(place[1])), implies(valid[1], go))
    h.cover(reads & (place[1] == 300), reads & dut.entries.payload.fresh & (place[1] != 0))


@proof("SpMV", "data: three cycles behind a read the row gets what was read plus weight times activation of its own "
       "entry, behind a drain zero; nothing else is written; a drain gives the row", describe(NARROW, *FIELDS))
def test_data(h):
    data(h, NARROW)


@proof("SpMV with forward", "data: three cycles behind a read the row gets its latest value, in the memory or on its "
       "way, plus weight times activation of its own entry, behind a drain zero; nothing else is written; a drain "
       "gives the row; no entry waits but for a drain", describe(FORWARD, *FIELDS))
def test_forwarded_data(h):
    dut = data(h, FORWARD)
    h.prove(dut.entries.ready == ~h.past(dut.drain), ~dut.hazard)


def data(h, config):
    """The claims about what is written, on a machine with or without ``forward``. Returns the block."""
    dut, read, write = spmv(h, config)
    m = h.m
    counts, _, weight = decoded(h, dut, config)
    values = Signal.like(Value.cast(dut.columns.payload), reset_less=True)
    current = Signal.like(values)
    m.d.comb += current.eq(Mux(dut.columns.ready, Value.cast(dut.columns.payload), values))
    with m.If(dut.columns.ready):
        m.d.sync += values.eq(Value.cast(dut.columns.payload))
    go = dut.entries.ready
    weights = [Signal.like(weight, reset_less=True) for _ in range(2)]
    columns = [Signal.like(values, reset_less=True) for _ in range(2)]
    with m.If(go):
        m.d.sync += [weights[0].eq(weight), weights[1].eq(weights[0]),
                     columns[0].eq(current), columns[1].eq(columns[0])]
    reads = dut.busy  # of a cycle before
    drained = h.past(dut.drain, 3 + SpMV.read_delay)
    h.prove(write.en == (h.past(reads, 2) | drained),
            implies(write.en, write.addr == h.past(read.addr, 3, reset_less=True)),
            dut.columns.ready == (dut.entries.valid & go & dut.entries.payload.first))

    def past(value, cycles=1):
        return h.past(value, cycles, reset_less=True)

    bits = config.accumulator_bits
    for channel in range(config.channels):
        activation = past(columns[1].word_select(channel, config.activation_bits)).as_signed()
        product = past(past(weights[1]).as_signed() * activation)
        before, written = past(Value.cast(read.data[channel])), Value.cast(write.data[channel]).as_unsigned()
        latest = before
        if config.forward:
            # The row of a read is that of a read one, two or three cycles before, whose new value is the latest.
            for k in reversed(range(1, SpMV.latency)):
                under_way = h.past(dut.busy, 1 + k) | h.past(dut.drain, 2 + k + SpMV.read_delay)
                # A drain is at least two cycles behind.
                reads = h.past(dut.busy) | (h.past(dut.drain, 2 + SpMV.read_delay) & int(k > 1))
                same = reads & under_way & (past(read.addr, 2) == past(read.addr, 2 + k))
                latest = Mux(same, past(written, k - 1) if k > 1 else written, latest.as_unsigned()).as_signed()
        total = (latest + product.as_signed())[:bits]
        after = past(Mux(h.past(dut.drain, 2 + SpMV.read_delay), 0, total))
        gives = h.past(dut.drain, SpMV.drain_delay) if config.forward else 1
        h.prove(implies(write.en, written == after),
                implies(gives, dut.drained.word_select(channel, bits) == latest.as_unsigned()))
    h.refute(implies(write.en, written == 0), ~write.en | drained)
    h.cover(write.en & ~drained & (weights[1] == 2))
    return dut
