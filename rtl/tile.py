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
    """``rows_per_slice`` PEs of every group, and the slice that works on what they drain. Sums never leave it.

    Its PEs are counted group after group, PE row after PE row; ``weights`` and ``pointers`` have their words in
    that order.

    Latency: as `PE` and `Slice`, which it adds nothing to; the counts come a cycle later.
    Cost: its blocks; a counter of three bits a PE.

    Members
    -------
    column, column_valid, activations, context... : see `PE`; activations for every group.
    drain, drain_address, full : see `PE`.
    done : every PE has completed an operation that was not ``done_taken``.
    busy, padding, hazard : how many PEs did so, in one cycle.
    control, columns, cells, cell_write, cell_data, saturated : see `Slice`.
    weights, pointers, parameters, tables : lines from the loader or the stream.
    streamed, written : see `SpmatRead`. ``released`` : every PE is through a block that was not ``released_taken``.
        ``starved`` : how many wait for an entry.
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
        """Sets ``name`` while every PE is ahead of what was taken; none is by more than ``most``."""
        waiting = []
        for index, pulse in enumerate(pulses):
            ahead = Signal(range(most + 1), name=f"{name}_ahead{index}")
            m.d.sync += ahead.eq(ahead + pulse - getattr(self, f"{name}_taken"))
            waiting.append(ahead != 0)
        m.d.comb += getattr(self, name).eq(Cat(waiting).all())
