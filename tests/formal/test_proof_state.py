# SPDX-License-Identifier: Apache-2.0
"""StateAccess: the host reads and writes the number that it names, and no other, one after another."""

from amaranth.hdl import Cat, Mux, Signal, Value

from openese.rtl.state_access import StateAccess
from tests.formal.engine import implies, proof
from tests.formal.sizes import describe, small

#: Each group has two slices of two PE rows; a slice takes up two of eight lanes in a beat.
MACHINE = small(pes=8, groups=2, slices=2, slice_width=2, channels=4, cell_rows=16, vector_depth=32)
#: For runs of reads: two slices of one PE row, which take up one of two lanes in a beat.
READ = small(pes=4, groups=2, slices=2, slice_width=1, channels=2)
FIELDS = ("pes", "groups", "slices", "channels", "slice_width")
CYCLES = 24
#: The least delays of the slices: for reading and for writing a c.
CELL, WRITE = 2, 3
#: Cycles from a request to the number, at most, if no c is on its way.
ANSWER = CELL + 2 + 3


class Short(StateAccess):
    """With small delays and a small queue: nothing else depends on them."""

    period = 2
    queue_depth = 4

    def __init__(self, config):
        super().__init__(config)
        self.cell_delay, self.write_delay = CELL, WRITE


def places(config, index, channel):
    """Row, beat and port of a cell's place; line and group of a column's."""
    lane = index % config.rows_per_slice * config.channels + channel
    row = index % config.row_pes
    return ((index // config.row_pes), lane // config.slice_width,
            row // config.rows_per_slice * config.slice_width + lane % config.slice_width,
            index // config.groups, index % config.groups)


@proof("StateAccess", "c of a cell is written at its own row, beat and lane, after the row's way through the slices; y "
       "of a column at its own line, bank and channel; nothing else is written; until then a c is on its way",
       describe(MACHINE, *FIELDS))
def test_writes(h):
    dut, config = Short(MACHINE), MACHINE
    h.add(dut)
    select = dut.select
    channel = select.channel[:2]
    row, beat, port, line, group = places(config, select.index, channel)
    of_c = dut.write & select.cell
    h.prove(
        implies(dut.write, (dut.cell_row == row[:len(dut.cell_row)]) & (dut.cell_beat == beat)),
        implies(dut.write, dut.line == line[:len(dut.line)]),
        dut.bank == Mux(dut.write & ~select.cell, 1 << group, 0),
        dut.write_channels == 1 << channel,
        dut.cell_write == h.past(Mux(of_c, 1 << port, 0), dut.write_delay),
        implies(dut.cell_write != 0, dut.cell_data == h.past(dut.data[:config.cell_bits].as_signed(), dut.write_delay)),
        # Two registers behind it, as it is in the slices.
        dut.writing == Cat(h.past(of_c, cycles) for cycles in range(1, dut.write_delay + 3)).any(),
    )
    h.refute(dut.cell_write == 0, dut.bank != 1, ~dut.writing)
    h.cover((dut.cell_write == 1 << 3) & h.past(dut.cell_write == 1 << 2))


@proof("StateAccess", "the number that is given is that of the place that is named, as its memory holds it; the next "
       f"is that of the next place, and none is left out; it arrives within {ANSWER} cycles, and is never older than a "
       "write", f"{describe(READ, *FIELDS)}; delays {CELL} and {Short.column_delay}", bound=CYCLES)
def test_reads(h):
    dut, config, m = Short(READ), READ, h.m
    h.add(dut)
    # The registers: the index goes on with every access, or is set anew.
    channel, cell = h.constant(), h.constant()
    index, selected = Signal(16), Signal()
    selects = h.free()
    m.d.sync += selected.eq(selects)
    with m.If(selects):
        m.d.sync += index.eq(h.free(16))
    with m.Elif(dut.write | dut.take):
        m.d.sync += index.eq(index + 1)
    m.d.comb += [dut.select.index.eq(index), dut.select.channel.eq(channel), dut.select.cell.eq(cell)]
    h.assume(implies(selected, dut.restart), implies(dut.take, dut.value_valid & ~dut.restart & ~dut.write),
             implies(dut.write, ~dut.wanted))
    h.assume(index[3:] == 0)
    # One place, and the value that its memory holds. It is there when its address has stood for a period.
    watched, held = h.constant(3), h.constant(config.cell_bits)
    row, beat, port, line, group = places(config, watched, channel)
    of_c = (dut.cell_row == row[:len(dut.cell_row)]) & (dut.cell_beat == beat) & ~dut.write
    of_y = (dut.line == line[:len(dut.line)]) & ~dut.write
    for addressed, delay, values, bits, place in (
            (of_c, dut.cell_delay, dut.cells, config.cell_bits, port),
            (of_y, dut.column_delay, dut.columns, config.activation_bits, group * config.channels + channel)):
        stood = Cat(h.past(addressed, delay + cycles) for cycles in range(dut.period)).all()
        everything = Value.cast(values)
        for number in range(len(everything) // bits):
            m.d.comb += everything.word_select(number, bits).eq(
                Mux(stood & (place == number), held[:bits], h.free(bits)))
    number = Mux(cell, held.as_signed(), held[:config.activation_bits].as_signed())
    waits = h.waiting(dut.value_valid | ~dut.wanted | dut.restart | dut.write | dut.writing, ANSWER + 1)
    fresh = ~dut.restart & ~dut.write
    h.prove(
        implies(dut.value_valid & fresh & (index == watched), dut.value == number),
        waits <= ANSWER,
        implies(h.past(dut.restart | dut.write), ~dut.value_valid),
        implies(dut.value_valid, ~dut.writing),
    )
    h.refute(implies(dut.value_valid, index != watched), waits < ANSWER)
    h.cover(dut.take & h.past(dut.take, 2) & h.past(dut.take, 4) & (index == watched) & cell,
            dut.take & h.past(dut.take, 2) & h.past(dut.take, 4) & (index == watched) & ~cell)
