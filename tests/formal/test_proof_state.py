# SPDX-License-Identifier: Apache-2.0
"""StateAccess: the host reads and writes the number that it names, and no other."""

from amaranth.hdl import Array, Cat, Mux, Value

from openese.rtl.state_access import StateAccess
from tests.formal.engine import proof
from tests.formal.sizes import describe, small

#: Each group has two slices of two PE rows; a slice takes up two of eight lanes in a beat.
MACHINE = small(pes=8, groups=2, slices=2, slice_width=2, channels=4, cell_rows=16, vector_depth=32)


@proof("StateAccess", "c of a cell is read and written at its own row, beat and lane, y of a column at its own line, "
       "bank and channel; nothing else is written; a number arrives within `wait` cycles",
       describe(MACHINE, "pes", "groups", "slices", "channels", "slice_width"))
def test_places(h):
    dut, config = StateAccess(MACHINE), MACHINE
    h.add(dut)
    select = dut.select
    row, channel = select.index % config.row_pes, select.channel[:2]
    lane = row % config.rows_per_slice * config.channels + channel
    port = row // config.rows_per_slice * config.slice_width + lane % config.slice_width
    group = select.index % config.groups
    c, y = (Array(Value.cast(values).word_select(k, bits) for k in range(len(Value.cast(values)) // bits))
            for values, bits in ((dut.cells, config.cell_bits), (dut.columns, config.activation_bits)))
    seen = Cat(select, dut.cells, dut.columns)
    asked = h.waiting(seen != h.past(seen), StateAccess.wait)  # for so many cycles, without a change
    number = Mux(select.cell, c[port].as_signed(), y[group * config.channels + channel].as_signed())
    h.prove(
        dut.cell_row == (select.index // config.row_pes)[:len(dut.cell_row)],
        dut.cell_beat == lane // config.slice_width,
        dut.cell_write == Mux(dut.write & select.cell, 1 << port, 0),
        dut.line == (select.index // config.groups)[:len(dut.line)],
        dut.bank == Mux(dut.write & ~select.cell, 1 << group, 0),
        dut.write_channels == 1 << channel,
        (asked < 2) | (dut.value == h.past(number)),
    )
    h.refute(dut.value == h.past(number), h.past(dut.cell_write) != 1 << 3)
    h.cover((asked == 4) & (dut.value == -5) & select.cell)
