# SPDX-License-Identifier: Apache-2.0
"""The way of a column from Broadcast to the queues of the PEs: nothing is lost on it, and no queue overflows."""

from unittest import mock

from amaranth.hdl import Cat, Mux, Signal, Value

from openese.rtl.act_queue import ActQueue
from openese.rtl.array import PEArray
from openese.rtl.broadcast import Broadcast
from openese.rtl.ptr_read import PtrRead
from openese.rtl.spmat_read import column_lead
from tests.formal.engine import implies, proof
from tests.formal.sizes import SMALL, describe, small

DEPTHS = describe(SMALL, "queue_depth", "column_depth", "vector_depth")

SHORT = small(vector_depth=8)


def fire(stream):
    """A word is taken."""
    return stream.valid & stream.ready


@proof("ActQueue", "a queue whose writer stops in time never overflows, tokens and columns apart; `full` rises "
       "while room for the margin is left", DEPTHS)
def test_queue(h):
    dut = ActQueue(SMALL)
    h.add(dut, opened=lambda depth: True)
    tokens = h.count(6, dut.i_valid, fire(dut.tokens))
    columns = h.count(6, dut.i_valid & ~dut.i.end, fire(dut.columns))
    # The writer writes no more than the margin and one behind the rise of `full`.
    late = Signal(range(ActQueue.margin + 2))
    with h.m.If(~dut.full):
        h.m.d.sync += late.eq(0)
    with h.m.Elif(dut.i_valid):
        h.m.d.sync += late.eq(late + 1)
    h.assume(implies(dut.i_valid & dut.full, late < ActQueue.margin))
    h.prove(tokens <= SMALL.queue_depth, columns <= SMALL.queue_depth,
            dut.tokens.valid == (tokens != 0), dut.columns.valid == (columns != 0),
            implies(h.past((tokens >= ActQueue.limit(SMALL)) | (columns >= ActQueue.limit(SMALL))), dut.full))
    h.refute(tokens != SMALL.queue_depth, ~dut.full, tokens == columns)
    h.cover(dut.tokens.valid & ~dut.columns.valid)


@proof("PtrRead", "one for two PEs gives each the tokens that a PtrRead of its own gives it, and has the pointers of "
       "both at the same line", describe(SMALL, "column_depth", "accumulator_rows"))
def test_pointers_of_several(h):
    wide, *narrow = (PtrRead(SMALL, pes) for pes in (2, 1, 1))
    (together,), *alone = (h.add(block, f"reader{k}", opened=lambda depth: True)
                           for k, block in enumerate((wide, *narrow)))
    alone = [one for one, in alone]
    written = Cat(block.load.data for block in narrow)
    for block in narrow:
        h.m.d.comb += [Value.cast(block.i).eq(wide.i), block.i_valid.eq(wide.i_valid),
                       block.load.address.eq(wide.load.address), block.load_valid.eq(wide.load_valid)]
    h.m.d.comb += wide.load.data.eq(written)
    # The memories hold the same, and are read at the same place.
    h.assume(together.reads[0].data == Cat(one.reads[0].data for one in alone))
    h.prove(*(together.reads[0].addr == one.reads[0].addr for one in alone),
            *(together.writes[0].addr == one.writes[0].addr for one in alone),
            *(together.writes[0].en == one.writes[0].en for one in alone),
            together.writes[0].data == Cat(one.writes[0].data for one in alone),
            wide.o_valid == Cat(block.o_valid for block in narrow),
            *(Value.cast(wide.o[pe]) == Value.cast(block.o) for pe, block in enumerate(narrow)))
    h.refute(wide.o_valid != 1, wide.o_valid != 2)
    h.cover(wide.o_valid == 3, wide.o[0].count != wide.o[1].count)


def path(h, margin, config=SMALL):
    """Broadcast, PtrRead and ActQueue with the registers of the array between them. Returns the levels."""
    with mock.patch.object(ActQueue, "margin", margin):
        broadcast, reader, queue = Broadcast(config), PtrRead(config), ActQueue(config)
        h.add(broadcast, "broadcast", opened=lambda depth: True)
        h.add(reader, "reader", opened=lambda depth: True)
        h.add(queue, "queue", opened=lambda depth: True)
    m = h.m
    m.d.comb += [
        Value.cast(reader.i).eq(h.past(broadcast.column, PEArray.input_delay)),
        reader.i_valid.eq(h.past(broadcast.column_valid, PEArray.input_delay)),
        Value.cast(queue.i).eq(reader.o), queue.i_valid.eq(reader.o_valid),
        broadcast.full.eq(h.past(queue.full, PEArray.full_delay - ActQueue.full_delay)),
    ]
    h.assume(implies(broadcast.start, ~broadcast.busy))
    tokens = h.count(6, queue.i_valid, fire(queue.tokens))
    column, lead = queue.i_valid & ~queue.i.end, column_lead(config)
    columns = h.count(6, h.past(column, lead) if lead else column, fire(queue.columns))
    return tokens, columns


@proof("Broadcast, PtrRead, ActQueue", "whatever the program, the pointers and the pace of the PE, no queue overflows "
       f"with the margin, the {ActQueue.margin} columns on their way", DEPTHS)
def test_margin(h):
    margin(h, SMALL)


@proof("Broadcast, PtrRead, ActQueue with forward", "the same, where activations come later than their tokens", DEPTHS)
def test_margin_of_late_columns(h):
    margin(h, small(forward=True))


def margin(h, config):
    """The claims about the margin, on a machine with or without ``forward``."""
    tokens, columns = path(h, ActQueue.margin, config)
    h.prove(tokens <= SMALL.queue_depth, columns <= SMALL.queue_depth)
    h.refute(tokens < SMALL.queue_depth, columns < SMALL.queue_depth)
    h.cover(tokens == 3)


@proof("Broadcast, PtrRead, ActQueue", f"a margin of {ActQueue.margin - 1} is too small: a queue overflows by one",
       DEPTHS)
def test_less_margin(h):
    tokens, columns = path(h, ActQueue.margin - 1)
    h.prove(tokens <= SMALL.queue_depth + 1, columns <= SMALL.queue_depth + 1)
    h.refute(tokens <= SMALL.queue_depth, columns <= SMALL.queue_depth)
    h.cover(tokens == 3)


def broadcast(h, config):
    """Broadcast with an order memory whose lines hold their numbers; its instruction as it is carried out."""
    dut = Broadcast(config)
    order, = h.add(dut, opened=lambda depth: True)
    m = h.m
    read = order.reads[0]
    kept = Signal.like(read.addr)
    with m.If(read.en):
        m.d.sync += kept.eq(read.addr)
    m.d.comb += Value.cast(read.data).eq(kept)
    h.assume(implies(dut.start, ~dut.busy & (dut.count <= config.vector_depth)))
    return dut


def instruction(h, start, *values):
    """The ``values`` at the last ``start``."""
    kept = [Signal.like(Value.cast(value)) for value in values]
    with h.m.If(start):
        h.m.d.sync += [one.eq(Value.cast(value)) for one, value in zip(kept, values, strict=True)]
    return kept


@proof("Broadcast", "an operation sends its columns in the order of the order memory, each once, then its end",
       describe(SHORT, "column_depth", "vector_depth"))
def test_broadcast_order(h):
    dut = broadcast(h, SHORT)
    m = h.m
    # The end of the operation before may still be on its way when the next one starts.
    values = (dut.count, dut.order_base, dut.operation)
    start = h.past(dut.start, 3)
    count, first, operation = instruction(h, start, *(h.past(value, 3) for value in values))
    place, under_way = Signal.like(dut.count), Signal()
    sends = dut.column_valid
    with m.If(sends):
        m.d.sync += [place.eq(place + 1), under_way.eq(~dut.column.end)]
    with m.If(start):
        m.d.sync += [place.eq(0), under_way.eq(1)]
    h.prove(
        implies(sends, under_way & (dut.column.operation == operation)),
        implies(sends, dut.column.end == (place == count)),
        implies(sends & ~dut.column.end, dut.column.index == (first + place)[:len(dut.column.index)]),
        implies(under_way, dut.busy | h.past(dut.busy, 2)),
    )
    h.refute(implies(sends, place != 5), implies(sends, ~dut.column.end))
    h.cover(sends & dut.column.end & (place == 6), sends & dut.column.end & dut.busy)


@proof("Broadcast", "the activations of a column are those of the line that the order memory names, zero for voices "
       "that start anew", describe(SMALL, "column_depth", "vector_depth"))
def test_broadcast_activations(h):
    dut = broadcast(h, SMALL)
    h.m.d.comb += Value.cast(dut.columns).eq(h.past(dut.read_line.as_value(), 2))
    source, clear = instruction(h, h.past(dut.start, 3), h.past(dut.src_base, 3), h.past(dut.clear, 3))
    later = Broadcast.activations_delay(SMALL)
    sent = h.past(dut.column_valid & ~dut.column.end, later)
    line = h.past((source + dut.column.index)[:len(source)], later)
    h.prove(implies(sent, Value.cast(dut.activations) == Mux(h.past(clear, later), 0, line)))
    h.refute(implies(sent, Value.cast(dut.activations) == line), implies(sent, Value.cast(dut.activations) == 0))
    h.cover(sent & (dut.activations[0][0] == 5))


@proof("Broadcast", "an operation that follows another one, or a frame, reads no column before it is written; `full` "
       "stops it; with neither it sends a column a cycle", describe(SMALL, "column_depth", "vector_depth"))
def test_broadcast_waits(h):
    dut = broadcast(h, SMALL)
    follow, of_frame, source = instruction(h, dut.start, dut.follow, dut.of_frame, dut.src_base)
    told = h.past(Mux(of_frame, dut.lines_received, dut.lines_computed), 2)
    line = (dut.read_line[0] - source)[:len(source)]
    idle = h.waiting(dut.column_valid | ~dut.busy | dut.full | dut.blocked_follow, 7)
    stopped = h.waiting(~dut.full, 7)
    h.prove(
        implies(dut.read_valid & follow, line < told),
        implies(dut.blocked_follow, follow & ~dut.full),
        implies(dut.blocked_full, dut.full),
        implies(stopped > Broadcast.send_delay, ~dut.column_valid),
        idle < Broadcast.delay,
    )
    h.refute(implies(dut.read_valid, line < told), implies(dut.full, ~dut.column_valid))
    h.cover(dut.blocked_follow, dut.blocked_full, idle == Broadcast.delay - 1)
