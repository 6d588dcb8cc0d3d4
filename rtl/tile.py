# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Tile: an element-wise slice and the PEs whose rows it drains."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from openese.rtl.activation import table_line
from openese.rtl.bundles import CellsPort, ContextPort, DrainPort, StreamPort, ValidPort
from openese.rtl.elementwise import Slice, SliceControl, parameter_line, slice_members
from openese.rtl.emit import instantiate
from openese.rtl.interfaces import BLOCKS, MAX_OPERATIONS, Column, activations
from openese.rtl.pe import PE, pe_members

__all__ = ["Tile"]


class Tile(wiring.Component):
    """``rows_per_slice`` PEs of every group, and the slice that works on their sums. Sums never leave a tile.

    The PEs are counted group after group, PE row after PE row. ``weights`` and ``pointers`` have their words in that
    order.

    Latency: that of `PE` and `Slice`; the counts come a cycle later. Cost: its blocks; a counter of three bits for each
    PE.

    Members
    -------
    column : In(Column) — a column of the broadcast, or the end of an operation.
    column_valid : In(1) — there is one.
    activations : In(array(groups, activations)) — its activations, `PE.column_delay` cycles later.
    context : In(Context) — context of an operation, before its first column.
    context_valid : In(1) — set the context.
    context_operation : In(bits_for(MAX_OPERATIONS - 1)) — number of its operation.
    full : Out(1) — the queue of a PE takes no more columns than its margin.
    drain : In(1) — read and clear a row of every PE.
    drain_address : In(bits_for(accumulator_rows - 1)) — the row's address.
    done : Out(1) — every PE has completed an operation that is not yet taken.
    done_taken : In(1) — take it.
    busy : Out(bits_for(tile_pes)) — PEs that multiplied an entry.
    padding : Out(bits_for(tile_pes)) — PEs that a padding entry passed.
    hazard : Out(bits_for(tile_pes)) — PEs in which an entry waited for its accumulator.
    weights : In(weight_line(tile_pes)) — line of the weight memories.
    weights_valid : In(1) — write the line.
    pointers : In(pointer_line(tile_pes)) — line of the pointer memories.
    pointers_valid : In(1) — write the line.
    streamed : In(1) — the weights are streamed. Only if the machine streams weights, as the next four.
    written : In(position_bits) — lines written so far, modulo twice the depth.
    released : Out(1) — every PE has read a block that is not yet taken.
    released_taken : In(1) — take it.
    starved : Out(bits_for(tile_pes)) — PEs that wait for a streamed line.
    control : In(SliceControl) — the slice's work; see `Slice`.
    columns : Out(lanes * activation_bits) — columns that the slice assembles.
    saturated : Out(bits_for(slice_width)) — lanes whose cell state or output was clamped.
    cells : Out(array(slice_width, signed(cell_bits))) — cell states at the control's row and beat.
    cell_write : In(slice_width) — lanes whose cell state is set, a cycle later.
    cell_data : In(signed(cell_bits)) — the value to set.
    parameters : In(parameter_line) — line of the parameter memory.
    parameters_valid : In(1) — write the line.
    tables : In(table_line) — pair of samples.
    tables_valid : In(1) — write the pair.
    """

    def __init__(self, config):
        self.config = config
        self.slice = Slice(config)
        self._pes = config.groups * config.rows_per_slice
        streaming = {"released_taken": In(1)}
        super().__init__({
            **pe_members(config, self._pes),
            **slice_members(config),
            "activations": In(data.ArrayLayout(activations(config), config.groups)),
            "done_taken": In(1),
            "control": In(SliceControl(config)),
            "columns": Out(config.lanes * config.activation_bits),
            **(streaming if config.stream else {}),
        })

    @property
    def module_name(self):
        """Name of the Verilog module, shared by all instances."""
        return "tile"

    def elaborate(self, platform):
        m = Module()
        config = self.config
        part = self.slice
        m.submodules.elementwise = instantiate(platform, part)
        ports = wiring.flipped(self)
        CellsPort(config).connect(m, part, ports)
        ValidPort(parameter_line(config)).connect(m, ports, part, "parameters")
        ValidPort(table_line(config)).connect(m, ports, part, "tables")
        m.d.comb += [
            part.capture.eq(self.control.capture),
            part.beat.eq(self.control.beat),
            part.settings.eq(self.control.settings),
            self.columns.eq(part.columns),
            self.saturated.eq(part.saturated),
        ]

        pes = [PE(config) for _ in range(self._pes)]
        for index, pe in enumerate(pes):
            m.submodules[f"pe{index}"] = instantiate(platform, pe)
            ValidPort(Column(config)).connect(m, ports, pe, "column")
            ContextPort(config).connect(m, ports, pe)
            DrainPort(config).connect(m, ports, pe)
            if config.stream:
                StreamPort(config).connect(m, ports, pe)
            m.d.comb += pe.activations.eq(self.activations[index // config.rows_per_slice])
            for name, bits in (("weights", config.entry_bits), ("pointers", config.count_bits)):
                line = getattr(self, name)
                m.d.comb += [
                    getattr(pe, name).address.eq(line.address),
                    getattr(pe, name).data.eq(line.data.word_select(index, bits)),
                    getattr(pe, f"{name}_valid").eq(getattr(self, f"{name}_valid")),
                ]
        m.d.comb += [
            part.drained.eq(Cat(pe.drained for pe in pes)),
            self.full.eq(Cat(pe.full for pe in pes).any()),
        ]
        self._join(m, "done", [pe.done for pe in pes], MAX_OPERATIONS)
        counted = ["busy", "padding", "hazard"]
        if config.stream:
            self._join(m, "released", [pe.released for pe in pes], BLOCKS)
            counted.append("starved")
        for name in counted:
            m.d.sync += getattr(self, name).eq(sum(getattr(pe, name) for pe in pes))
        return m

    def _join(self, m, name, pulses, most):
        """Set ``name`` while every PE is ahead of the pulses taken. No PE is ahead by more than ``most``."""
        waiting = []
        for index, pulse in enumerate(pulses):
            ahead = Signal(range(most + 1), name=f"{name}_ahead{index}")
            m.d.sync += ahead.eq(ahead + pulse - getattr(self, f"{name}_taken"))
            waiting.append(ahead != 0)
        m.d.comb += getattr(self, name).eq(Cat(waiting).all())
