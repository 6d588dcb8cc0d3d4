# SPDX-License-Identifier: Apache-2.0
"""Voices do not disturb each other: all that other voices bring along is secret, and no secret reaches voice 0.

Voice 0 stands for each voice: the voices of a block differ only in their numbers.
"""

from amaranth.hdl import Cat, Const, Mux, Value

from openese.rtl.config import preset
from openese.rtl.elementwise import Kind, Slice
from openese.rtl.elementwise.settings import Stages
from openese.rtl.spmv import SpMV
from tests.formal.engine import implies, proof
from tests.formal.sizes import describe, small

WIDE = small(channels=2, weight_bits=12, activation_bits=16, cell_bits=24, index_bits=6, align_bits=3,
             accumulator_rows=512, row_nonzeros=512)
#: Two voices and two PE rows take turns in a lane.
TURNS = small(pes=2, channels=2, slices=1, slice_width=1, cell_rows=16)
#: The same, of LSTMs and GRUs.
GRUS = TURNS.replace(cell_bits=24, cells="lstm+gru+gru_before")
#: A slice of `ese`.
LARGE = preset("ese").replace(pes=1, slices=1, slice_width=preset("ese").slice_width)
SLICE = ("channels", "slice_width", "activation_bits", "cell_bits", "cell_rows")


def others_secret(h, config, value, bits):
    """Drive words of ``bits`` for each voice, those of other voices with secrets."""
    words = Value.cast(value)
    for place in range(len(words) // bits):
        h.m.d.comb += words.word_select(place, bits).eq(h.secret(bits) if place % config.channels else h.free(bits))


def words_of_voice(config, value, bits):
    """The words of voice 0 among words of ``bits`` for each voice."""
    words = Value.cast(value)
    return Cat(words.word_select(place, bits) for place in range(0, len(words) // bits, config.channels))


@proof("SpMV", "isolation: whatever the activations and sums of other voices, the accumulators of a voice are read and "
       "written alike, and all its entries taken in the same cycles",
       describe(WIDE, "channels", "weight_bits", "activation_bits", "accumulator_rows"))
def test_spmv(h):
    dut = SpMV(WIDE)
    accumulators, = h.add(dut, opened=lambda depth: depth == WIDE.accumulator_rows)
    read, write = accumulators.reads[0], accumulators.writes[0]
    others_secret(h, WIDE, dut.columns.payload, WIDE.activation_bits)
    others_secret(h, WIDE, read.data, WIDE.accumulator_bits)
    h.protect(read.addr, read.en, write.addr, write.en, dut.entries.ready, dut.columns.ready, dut.done,
              dut.busy, dut.padding, dut.hazard,
              *(words_of_voice(WIDE, value, WIDE.accumulator_bits) for value in (write.data, dut.drained)))
    h.leak(write.data, dut.drained)
    h.cover(write.en & (Value.cast(write.data[0]) != 0))


def slice_isolation(h, config):
    """A slice whose cell states, sums and flags of other voices are secret."""
    dut, stages, m = Slice(config), Stages.of(config), h.m
    tables, depth = 1 << config.table_index_bits, config.cell_rows * config.beats
    opened = h.add(dut, opened=lambda rows: rows in (tables, config.parameter_lines, depth))
    parameters, = (memory for memory in opened if memory.depth == config.parameter_lines)
    cells, = (memory for memory in opened if memory.depth == depth)
    read, write, cell = cells.reads[0], cells.writes[0], config.cell_bits
    beat_bits = (config.beats - 1).bit_length()

    def is_mine(beat, lane):
        """The lane works on voice 0 in the beat."""
        return Const(lane % config.channels == 0, 1) if config.slice_width >= config.channels else \
            (beat[:beat_bits] * config.slice_width + lane)[:(config.channels - 1).bit_length()] == 0

    others_secret(h, config, dut.drained, config.accumulator_bits)
    for flags in (dut.settings.active, dut.settings.reset):
        others_secret(h, config, flags, 1)
    formats = Value.cast(dut.settings)[:-2 * config.channels]
    m.d.comb += formats.eq(h.free(len(formats)))
    # The sample behind a secret argument is secret.
    for port in (port for memory in opened if memory.depth == tables for port in memory.reads):
        address = h.past(port.addr, reset_less=True)
        m.d.comb += port.data.eq(Mux(address.xor(), h.free(config.table_bits), h.free(config.table_bits)))

    # The host sets a cell state a cycle later.
    set_at = h.past(dut.beat.beat, stages.cell)
    read_at = h.past(read.addr, reset_less=True)
    seen_at = h.past(read_at, reset_less=True)
    may_write = h.past(dut.beat.valid & dut.beat.last & (dut.beat.kind == Kind.F), stages.cell + 1)
    m.d.comb += dut.cell_data.eq(Mux(is_mine(set_at, 0), h.free(cell), h.secret(cell)))
    for lane in range(config.slice_width):
        m.d.comb += Value.cast(read.data[lane]).eq(Mux(is_mine(read_at, lane), h.free(cell), h.secret(cell)))
        written = Mux(may_write | h.past(dut.cell_write[lane]), Value.cast(write.data[lane]), 0)
        h.protect(Mux(is_mine(write.addr, lane), Cat(write.en[lane], written), 0),
                  Mux(is_mine(seen_at, lane), dut.cells[lane], 0))
        h.prove(implies(write.en[lane], may_write | h.past(dut.cell_write[lane])))
    h.protect(read.addr, write.addr, parameters.reads[0].addr,
              words_of_voice(config, dut.columns, config.activation_bits))
    h.leak(dut.columns, dut.cells, write.en, write.data)
    h.cover(words_of_voice(config, dut.columns, config.activation_bits) != 0, write.en[0] & may_write)


ISOLATION = ("isolation: whatever the sums, cell states and flags of other voices, and the cells that the host sets in "
             "them, c, m and y of a voice are alike, for any control, formats, parameters and tables")


@proof("Slice", ISOLATION, describe(TURNS, *SLICE))
def test_slice(h):
    slice_isolation(h, TURNS)


@proof("Slice", ISOLATION, "LSTMs and GRUs: " + describe(GRUS, *SLICE))
def test_slice_of_grus(h):
    slice_isolation(h, GRUS)


@proof("Slice", ISOLATION, "a slice of `ese`: " + describe(LARGE, *SLICE))
def test_large_slice(h):
    slice_isolation(h, LARGE)
