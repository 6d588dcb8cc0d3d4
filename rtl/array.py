# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""PEArray: the PEs, and the element-wise slices beside them."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from openese.rtl.act_queue import ActQueue
from openese.rtl.attributes import DISTANCE
from openese.rtl.distance import FULL_DELAY, join_delay
from openese.rtl.elementwise import SliceControl, slice_members
from openese.rtl.emit import instantiate
from openese.rtl.interfaces import BLOCKS, MAX_OPERATIONS, activations
from openese.rtl.pe import PE, pe_members
from openese.rtl.spmv import SpMV
from openese.rtl.tile import Tile, join

__all__ = ["PEArray"]


class PEArray(wiring.Component):
    """``groups`` x ``row_pes`` PEs behind one broadcast (paper, section 4), in ``slices`` tiles.

    PE number ``group * row_pes + row`` takes the columns of its group and the rows ``r`` with ``r % row_pes == row``.

    Latency, in cycles:

    - `column_delay` from ``column`` to its ``activations`` at the input;
    - `input_delay` from the inputs to the PEs and slices, but for ``drain``;
    - `drain_delay` from ``drain`` to the drained row at the slices;
    - `full_delay` from the number of columns in a queue to ``full``;
    - `join_delay` from the last pulse of a PE to ``done`` and ``released``.

    Each input but the context goes straight to a register in each tile: two registers without logic between them, one
    on either side where the FPGA consists of several dies.

    Cost: the tiles; a register of the context.

    Members
    -------
    column : In(Column) — a column of the broadcast, or the end of an operation.
    column_valid : In(1) — there is one. It cannot be held up.
    activations : In(array(groups, activations)) — its activations, one column for each group.
    context : In(Context) — context of an operation, before its first column.
    context_valid : In(1) — set the context.
    context_operation : In(operation_bits) — number of its operation.
    full : Out(1) — send no more columns.
    drain : In(1) — read and clear a row of every PE. See `SpMV` for the rows it must not name.
    drain_address : In(bits_for(accumulator_rows - 1)) — the row's address.
    done : Out(1) — pulses when all PEs have completed an operation.
    busy : Out(bits_for(pes)) — PEs that multiplied an entry.
    padding : Out(bits_for(pes)) — PEs that a padding entry passed.
    hazard : Out(bits_for(pes)) — PEs in which an entry waited for its accumulator.
    weights : In(weight_line(pes)) — line of the weight memories, from the loader or the stream.
    weights_valid : In(1) — write the line.
    pointers : In(pointer_line(pes)) — line of the pointer memories.
    pointers_valid : In(1) — write the line.
    streamed : In(1) — the weights are streamed. Only if the machine streams weights, as the next three.
    written : In(position_bits) — lines written so far, modulo twice the depth.
    released : Out(1) — pulses when all PEs have read a block.
    starved : Out(bits_for(pes)) — PEs that wait for a streamed line.
    control : In(SliceControl) — the work of all slices; see `Slice`.
    columns : Out(array(row_pes, activations)) — columns that the slices assemble, PE row after PE row.
    saturated : Out(bits_for(slices * slice_width)) — lanes whose cell state or output was clamped.
    cells : Out(array(slices * slice_width, signed(cell_bits))) — cell states at the control's row and beat.
    cell_write : In(slices * slice_width) — lanes whose cell state is set, two cycles later.
    cell_data : In(signed(cell_bits)) — the value to set.
    parameters : In(parameter_line(slices)) — line of the parameter memories.
    parameters_valid : In(1) — write the line.
    tables : In(table_line) — pair of samples for every slice.
    tables_valid : In(1) — write the pair.
    """

    column_delay = staticmethod(PE.column_delay)
    input_delay = Tile.input_delay
    drain_delay = SpMV.drain_delay
    full_delay = ActQueue.full_delay + FULL_DELAY
    join_delay = staticmethod(join_delay)

    def __init__(self, config):
        self._config = config
        self.tiles = [Tile(config) for _ in range(config.slices)]
        super().__init__({
            **pe_members(config, config.pes),
            **slice_members(config, config.slices),
            "activations": In(data.ArrayLayout(activations(config), config.groups)),
            "control": In(SliceControl(config)),
            "columns": Out(data.ArrayLayout(activations(config), config.row_pes)),
        })

    def elaborate(self, platform):
        m = Module()
        config = self._config
        shared = {name: getattr(self, name) for name in (
            "column", "column_valid", "activations", "drain", "drain_address", "control", "cell_data",
            "weights_valid", "pointers_valid", "parameters_valid", "tables", "tables_valid",
            *(("streamed", "written") if config.stream else ()))}
        # The controller finds the context out late in a cycle.
        for name in ("context", "context_valid", "context_operation"):
            port = getattr(self, name)
            shared[name] = Signal(port.shape(), name=f"{name}_registered", attrs=DISTANCE,
                                  reset_less=not name.endswith("valid"))
            m.d.sync += shared[name].eq(port)

        tiles = self.tiles
        for index, tile in enumerate(tiles):
            m.submodules[f"tile{index}"] = instantiate(platform, tile)
            m.d.comb += [getattr(tile, name).eq(value) for name, value in shared.items()]
            self._lines(m, index, tile)
            lanes = slice(index * config.slice_width, (index + 1) * config.slice_width)
            m.d.comb += tile.cell_write.eq(self.cell_write[lanes])

        m.d.comb += [
            self.columns.eq(Cat(tile.columns for tile in tiles)),
            self.cells.eq(Cat(tile.cells for tile in tiles)),
            self.done.eq(join(m, "done", [tile.done for tile in tiles], MAX_OPERATIONS)),
        ]
        m.d.sync += [
            self.full.eq(Cat(tile.full for tile in tiles).any()),
            self.saturated.eq(sum(tile.saturated for tile in tiles)),
        ]
        counted = ["busy", "padding", "hazard"]
        if config.stream:
            m.d.comb += self.released.eq(join(m, "released", [tile.released for tile in tiles], BLOCKS))
            counted.append("starved")
        for name in counted:
            self._count(m, name, [getattr(tile, name) for tile in tiles])
        return m

    def _lines(self, m, index, tile):
        """The tile's part of every line: the words of its PE rows, group after group."""
        config = self._config
        rows = config.rows_per_slice
        for name, bits, groups in (("weights", rows * config.entry_bits, config.groups),
                                   ("pointers", rows * config.count_bits, config.groups),
                                   ("parameters", config.parameter_line_bits, 1)):
            line = getattr(self, name)
            m.d.comb += [
                getattr(tile, name).address.eq(line.address),
                getattr(tile, name).data.eq(Cat(line.data.word_select(group * config.slices + index, bits)
                                                for group in range(groups))),
            ]

    def _count(self, m, name, values):
        """Sum ``values`` up in ``name``, in registered steps of eight."""
        level = 0
        statements = []
        while len(values) > 8:
            sums = []
            for start in range(0, len(values), 8):
                total = sum(values[start:start + 8])
                registered = Signal.like(total, name=f"{name}{level}_{start}")
                statements.append(registered.eq(total))
                sums.append(registered)
            values = sums
            level += 1
        # What comes first keeps its name in the Verilog.
        m.d.sync += [getattr(self, name).eq(sum(values)), *statements]
