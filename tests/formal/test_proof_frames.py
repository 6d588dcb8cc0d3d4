# SPDX-License-Identifier: Apache-2.0
"""Frames in and out: AXI4-Stream while the core is reset at any time."""

from amaranth.hdl import Array, Cat, Const, Mux, Signal

from openese.rtl.frames import BANK_SHIFT, MODEL_SHIFT, FrameGuard, FrameInput, FrameOutput
from tests.formal.engine import implies, proof
from tests.formal.sizes import SMALL, describe, small

WIDTHS = describe(SMALL, "channels", "activation_bits", "vector_depth")

SHORT = small(vector_depth=8)

# Two columns a beat.
PAIRS = small(pes=4, groups=2)
SHORT_PAIRS = small(pes=4, groups=2, vector_depth=8)
PAIRS_WIDTHS = describe(PAIRS, "channels", "groups", "activation_bits", "vector_depth")
# Two lines of two columns a beat.
LINES = small(pes=8, groups=2, slices=2, slice_width=2, forward=True)
LINES_WIDTHS = describe(LINES, "channels", "groups", "write_lines", "activation_bits", "vector_depth")


def fire(stream):
    """A beat is taken."""
    return stream.valid & stream.ready


@proof("FrameGuard", "under aborts at any time: beats out stay until taken; frames begin with a header and end with "
       "TLAST; every beat of the core goes out once; an aborted frame ends with one beat of zeros; `midway` is right",
       WIDTHS + ", a queue of 4 beats")
def test_guard(h):
    dut = FrameGuard(SMALL)
    dut.depth = 4
    h.add(dut)
    m, i, o = h.m, dut.i, dut.o
    # The core marks the first beat of a frame by bit 0 and every beat by bit 1, so beats that are made up show.
    inside = Signal()
    with m.If(dut.abort):
        m.d.sync += inside.eq(0)
    with m.Elif(dut.i_valid):
        m.d.sync += inside.eq(~i.last)
    h.assume(implies(dut.i_valid, (i.data[0] == ~inside) & i.data[1]),
             implies(dut.i_valid, (dut.level < dut.depth - 1) & ~h.past(dut.abort)))
    opened = Signal()
    with m.If(fire(o)):
        m.d.sync += opened.eq(~o.payload.last)
    real = o.payload.data[1]
    under_way = h.count(4, dut.i_valid & ~dut.abort, fire(o) & real)
    quiet = h.waiting(dut.abort | ~o.ready, 5)
    midway = Signal()
    with m.If(dut.accepted):
        m.d.sync += midway.eq(~dut.last)
    h.prove(
        h.held(o),
        implies(o.valid, o.payload.data[0] == ~opened),
        under_way <= dut.depth,
        implies(o.valid & real, under_way != 0), implies(~o.valid, under_way == 0),
        implies(o.valid & ~real, opened & o.payload.last & (o.payload.data == 0)),
        implies((quiet == 5) & opened & ~o.valid, inside),
        dut.midway == midway,
    )
    h.refute(implies(o.valid, real), implies(dut.abort, ~o.valid))
    h.cover(o.valid & ~real & h.past(fire(o) & real), fire(o) & o.payload.last & real)


# Two models.
MODELS = small(models=2, activation_bits=16, cell_bits=16, vector_depth=8)
MODELS_WIDTHS = describe(MODELS, "channels", "models", "activation_bits", "vector_depth")

INPUT = ("under resets at any time: a frame completes if and only if it has the right length and bank and was seen "
         "whole; a wrong length or bank is reported; at most two frames are held, and none is overwritten before its "
         "release; each column is written once, to its own place; a frame that is taken while it comes in becomes "
         "complete or broken, and tells no line before it is written")


def check_input(h, config):
    """FrameInput, with a beat for all banks of the vector memory."""
    dut = FrameInput(config)
    m, width, lines = h.m, config.write_columns, config.write_lines
    aborted = h.free()  # the core's reset; h.reset resets the sender and FrameGuard too
    h.add(dut, reset=aborted)
    beats = dut.beats
    taken, last = fire(beats), beats.payload.last
    place = Signal(range(32))  # of the beat in its frame, as FrameGuard sees it
    with m.If(taken):
        m.d.sync += place.eq(Mux(last, 0, Mux(place == 31, 31, place + 1)))
    m.d.comb += dut.midway.eq(place != 0)
    whole = Signal(init=1)  # the block has seen the frame from its header on
    formatted, count = Signal(), Signal.like(dut.count, init=1)  # never 0, which is the header's place
    several = config.models > 1
    formats = Signal(2)  # models whose size is known
    counts = Array(Signal.like(dut.count) for _ in range(config.models))
    bases = [Signal.like(base) for base in dut.bases]
    held, complete, fill = Signal(2), Signal(2), Signal()
    claimed, broken = Signal(), Signal()  # the frame that was taken is coming in; it had a wrong length
    right = taken & last & whole & (place == count)
    wrong = taken & whole & (place != 0) & (place <= count) & (last ^ (place == count))
    early = dut.take & dut.coming
    foreign = taken & ~last & whole & (place == 0) & (beats.payload.data[BANK_SHIFT:8] != 0)
    if several:
        model = beats.payload.data[MODEL_SHIFT:config.activation_bits]
        foreign |= taken & ~last & whole & (place == 0) & (model >= config.models)
        with m.If(taken & (place == 0)):
            m.d.sync += count.eq(counts[model[:config.model_bits]])
        h.assume(dut.models == config.models, implies(dut.format, dut.index == formats))
    with m.If(dut.format):
        size = dut.count // width + (dut.count % width != 0)
        of_model = counts[formats[:config.model_bits]] if several else count
        m.d.sync += [of_model.eq(size), formats.eq(formats + 1)]
        m.d.sync += [formatted.eq(formats + 1 == config.models),
                     bases[0].eq(dut.bases[0]), bases[1].eq(dut.bases[1])]
    with m.If(taken & last):
        m.d.sync += whole.eq(1)
    with m.Elif(foreign):
        m.d.sync += whole.eq(0)
    m.d.sync += [
        held.eq(held + (dut.take & ~early) + (dut.complete & (claimed | early)) - dut.release),
        complete.eq(complete + (dut.complete & ~(claimed | early)) - (dut.take & ~early)),
        claimed.eq((claimed | early) & ~right & ~wrong),
        broken.eq((broken & ~dut.drop) | ((claimed | early) & wrong)),
        fill.eq(fill ^ dut.complete)]
    with m.If(aborted):
        m.d.sync += [formatted.eq(0), formats.eq(0), held.eq(0), complete.eq(0), fill.eq(0), claimed.eq(0),
                     broken.eq(0), whole.eq(Mux(taken, last, place == 0))]
    h.assume(
        h.held(beats),
        implies(dut.format, ~formatted & (dut.count != 0) & (dut.count <= 7)),
        implies(dut.take, (dut.ready | dut.coming) & ~claimed & ~broken), implies(dut.release, held != 0),
        implies(dut.drop, broken))
    rules = [
        held + complete <= 2,
        dut.ready == (complete != 0), dut.partial == claimed, dut.broken == broken,
        implies(dut.coming, ~dut.ready & ~claimed & whole & (place != 0) & (place <= count)),
        implies((dut.ready | dut.coming) & ~claimed & ~broken, dut.buffer == fill ^ complete[0]),
        implies(claimed, dut.lines_done <= lines * (place - 1 + dut.write_valid)),
        implies(~claimed, dut.lines_done.all()),
        dut.complete == right,
        implies(dut.write_valid, taken & whole & (held + complete < 2) & ~dut.hold),
        implies(dut.write_valid,
                (place != 0) & (place <= count) & (dut.write_columns.as_value() == beats.payload.data)),
        implies(dut.write_valid, dut.write_bank == (1 << width) - 1),
        implies(dut.write_valid, dut.write_line == (
            Mux(fill, bases[1], bases[0]) + lines * (place - 1))[:len(dut.write_line)]),
        implies(taken & whole & (place != 0) & (place <= count), dut.write_valid),
        dut.short == (taken & last & whole & (place < count)),
        dut.long == (taken & ~last & whole & (place == count)),
        dut.wrong_bank == foreign,
    ]
    h.prove(*(implies(~aborted, rule) for rule in rules))
    h.refute(implies(~aborted, ~dut.short), held + complete != 2)
    h.cover(broken & (complete == 1), early & right, dut.complete & (complete == 1), dut.long & ~aborted,
            dut.complete & h.past(aborted, 2 + config.models))


@proof("FrameInput", INPUT, WIDTHS + ", frames of up to 7 columns")
def test_input(h):
    check_input(h, SMALL)


@proof("FrameInput", INPUT, PAIRS_WIDTHS + ", frames of up to 7 columns")
def test_input_of_pairs(h):
    check_input(h, PAIRS)


@proof("FrameInput", INPUT, LINES_WIDTHS + ", frames of up to 7 columns")
def test_input_of_lines(h):
    check_input(h, LINES)


@proof("FrameInput", INPUT.replace("bank", "bank and model"), MODELS_WIDTHS + ", frames of up to 7 columns")
def test_input_of_models(h):
    check_input(h, MODELS)


def output(h, config):
    """The block, and the beats that wait behind it."""
    dut = FrameOutput(config)
    h.add(dut)
    taken = h.free()
    level = h.count(4, dut.beat_valid, taken)
    h.m.d.comb += dut.level.eq(level)
    h.assume(implies(dut.start, ~dut.busy & (dut.count != 0) & (dut.count <= config.vector_depth)),
             implies(taken, level != 0))
    return dut, level


@proof("FrameOutput", "the queue behind it never overflows, whoever takes the read port, and keeps a place; a beat "
       "comes only while it is `busy`, or in the cycle after", WIDTHS)
def test_output_level(h):
    dut, level = output(h, SMALL)
    h.prove(
        level < FrameGuard.depth, implies(dut.beat_valid, level < FrameGuard.depth - 1),
        implies(dut.beat_valid, h.past(dut.busy)))
    h.refute(level != FrameGuard.depth - 1, implies(dut.start, level == 0))
    h.cover(dut.beat_valid & dut.beat.last & (level == FrameGuard.depth - 2))


ORDER = ("a frame is a header and its columns in order, TLAST with the last; no line is read before it is written; "
         "voices that are away and columns that are none of the frame get zeros")


def check_order(h, config):
    """FrameOutput, with a beat for all banks of the vector memory."""
    dut, _ = output(h, config)
    m, groups, bits = h.m, config.groups, config.activation_bits
    width, lines = config.write_columns, config.write_lines
    h.assume(implies(dut.start, dut.src_base % lines == 0), dut.lines_done % lines == 0)
    count, base, active = Signal.like(dut.count), Signal.like(dut.src_base), Signal()
    # The memory answers two cycles later. A line that is written holds its number, and above it that of the bank.
    complete = Signal()
    m.d.sync += complete.eq(dut.complete | (complete & ~dut.start))
    stored = complete | ((dut.read_line - base)[:len(base)] < dut.lines_done)
    line = Mux(h.past(stored, 2), h.past(dut.read_line, 2), ~h.past(dut.read_line, 2))

    def column(first, k):
        """What bank k holds of the lines from ``first`` on."""
        return Cat((first + k // groups)[:len(base)], Const(k % groups, bits - len(base)))

    banks = [Signal(bits) for _ in range(width)]
    m.d.comb += [bank.eq(column(line, k)) for k, bank in enumerate(banks)]
    m.d.comb += dut.columns.as_value().eq(Cat(banks))
    # What is written is the next line, until the frame is complete.
    following = (base + dut.lines_done)[:len(base)]
    following = Mux(dut.write_valid & ~complete, following, ~following)
    m.d.comb += dut.write_columns.as_value().eq(Cat(column(following, k) for k in range(width)))
    place, under_way = Signal.like(dut.count), Signal()
    with m.If(dut.beat_valid):
        m.d.sync += place.eq(place + 1)
        with m.If(dut.beat.last):
            m.d.sync += under_way.eq(0)
    with m.If(dut.start):
        m.d.sync += [count.eq(dut.count), base.eq(dut.src_base), active.eq(dut.active), under_way.eq(1), place.eq(0)]
    expected = []
    for k in range(width):
        there = active & ((place - 1) * width + k < count)
        expected.append(Mux(place == 0, active if k == 0 else 0,
                            Mux(there, column(base + lines * (place - 1), k), 0))[:bits])
    h.prove(
        implies(dut.beat_valid, under_way),
        implies(dut.beat_valid, dut.beat.data == Cat(expected)),
        implies(dut.beat_valid, dut.beat.last == ((place != 0) & (place * width >= count))),
        implies(under_way & ~dut.beat_valid, dut.busy | h.past(dut.busy, 2)),
    )
    most = config.vector_depth // width
    h.refute(implies(dut.beat_valid & (place != 0), dut.beat.data == Cat(banks)),
             implies(dut.beat_valid, place != most))
    h.cover(dut.beat_valid & dut.beat.last & (count == config.vector_depth) & active)
    h.cover(dut.beat_valid & dut.beat.last & h.past(dut.write_valid & ~dut.complete & ~complete) & active)
    if width > 1:
        h.cover(dut.beat_valid & dut.beat.last & (place != 1) & (count % width != 0) & active)


@proof("FrameOutput", ORDER, describe(SHORT, "channels", "activation_bits", "vector_depth"))
def test_output_order(h):
    check_order(h, SHORT)


@proof("FrameOutput", ORDER, describe(SHORT_PAIRS, "channels", "groups", "activation_bits", "vector_depth"))
def test_output_order_of_pairs(h):
    check_order(h, SHORT_PAIRS)


@proof("FrameOutput", ORDER, LINES_WIDTHS)
def test_output_order_of_lines(h):
    check_order(h, LINES)
