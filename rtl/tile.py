# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Tile: an element-wise slice and the PEs whose rows it drains."""

from amaranth.hdl import Cat, Module, ResetSignal, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from openese.rtl.attributes import DISTANCE, fanout
from openese.rtl.bundles import DrainPort, StreamPort
from openese.rtl.distance import INPUT_DELAY, tile_join_delay
from openese.rtl.elementwise import Slice, SliceControl, slice_members
from openese.rtl.emit import instantiate
from openese.rtl.interfaces import BLOCKS, MAX_OPERATIONS, activations
from openese.rtl.pe import PE, pe_members
from openese.rtl.ptr_read import PtrRead

__all__ = ["Tile", "join"]


def join(m, name, pulses, most):
    """A pulse for every pulse that all of ``pulses`` have given, a cycle later; a single one is the same pulse.

    None of them is ahead by more than ``most``.
    """
    if len(pulses) == 1:
        return pulses[0]
    together = Signal(name=f"{name}_together")
    waiting = []
    for index, pulse in enumerate(pulses):
        ahead = Signal(range(most + 1), name=f"{name}_ahead{index}")
        m.d.sync += ahead.eq(ahead + pulse - together)
        waiting.append(ahead != 0)
    m.d.comb += together.eq(Cat(waiting).all())
    return together


class Tile(wiring.Component):
    """``rows_per_slice`` PEs of every group, and the slice that works on their sums. Sums never leave a tile.

    The PEs are counted group after group, PE row after PE row. ``weights`` and ``pointers`` have their words in that
    order. The first `block_weights` of them have their weights in block RAM, the others in UltraRAM, if the machine has
    weights in both. With `wide_pointers` one PtrRead serves all PEs.

    What comes from afar ends in a register of the tile, and so does its reset. Drains end in a register of `SpMV`,
    number formats and voices in the slice.

    Latency: that of `PE` and `Slice`; `input_delay` more from the inputs but ``drain``, `full_delay` from a PE's
    ``full``, `join_delay` from a PE's ``done`` and ``released``; the counts come a cycle later. Cost: its blocks; a
    register for each bit of its inputs; a counter of three bits for each of several PEs.

    Members
    -------
    column : In(Column) — a column of the broadcast, or the end of an operation.
    column_valid : In(1) — there is one.
    activations : In(array(groups, activations)) — its activations, `PE.column_delay` cycles later.
    context : In(Context) — context of an operation, before its first column.
    context_valid : In(1) — set the context.
    context_operation : In(operation_bits) — number of its operation.
    full : Out(1) — the queue of a PE takes no more columns than its margin.
    drain : In(1) — read and clear a row of every PE.
    drain_address : In(bits_for(accumulator_rows - 1)) — the row's address.
    done : Out(1) — pulses when all PEs have completed an operation.
    busy : Out(bits_for(tile_pes)) — PEs that multiplied an entry.
    padding : Out(bits_for(tile_pes)) — PEs that a padding entry passed.
    hazard : Out(bits_for(tile_pes)) — PEs in which an entry waited for its accumulator.
    weights : In(weight_line(tile_pes)) — line of the weight memories.
    weights_valid : In(1) — write the line.
    pointers : In(pointer_line(tile_pes)) — line of the pointer memories.
    pointers_valid : In(1) — write the line.
    streamed : In(1) — the weights are streamed. Only if the machine streams weights, as the next three.
    written : In(position_bits) — lines written so far, modulo twice the depth.
    released : Out(1) — pulses when all PEs have read a block.
    starved : Out(bits_for(tile_pes)) — PEs that wait for a streamed line.
    control : In(SliceControl) — the slice's work; see `Slice`.
    columns : Out(lanes * activation_bits) — columns that the slice assembles.
    saturated : Out(bits_for(slice_width)) — lanes whose cell state or output was clamped.
    cells : Out(array(slice_width, signed(cell_bits))) — cell states at the control's row and beat.
    cell_write : In(slice_width) — lanes whose cell state is set, two cycles later.
    cell_data : In(signed(cell_bits)) — the value to set.
    parameters : In(parameter_line) — line of the parameter memory.
    parameters_valid : In(1) — write the line.
    tables : In(table_line) — pair of samples.
    tables_valid : In(1) — write the pair.
    """

    input_delay = INPUT_DELAY
    full_delay = 1
    join_delay = staticmethod(tile_join_delay)

    def __init__(self, config):
        self.config = config
        self.slice = Slice(config)
        super().__init__({
            **pe_members(config, config.tile_pes),
            **slice_members(config),
            "activations": In(data.ArrayLayout(activations(config), config.groups)),
            "control": In(SliceControl(config)),
            "columns": Out(config.lanes * config.activation_bits),
        })

    @property
    def module_name(self):
        """Name of the Verilog module, shared by all instances."""
        return "tile"

    def elaborate(self, platform):
        m = Module()
        config = self.config
        reset = Signal(reset_less=True, attrs={**DISTANCE, **fanout(256)})
        m.d.sync += reset.eq(ResetSignal())
        part = self.slice
        m.submodules.elementwise = instantiate(platform, part, reset)
        capture = self._arrived(m, "capture", self.control.capture, **fanout(256))
        m.d.comb += [
            part.capture.eq(capture),
            part.beat.eq(self._arrived(m, "beat", self.control.beat, reset_less=False)),
            part.settings.eq(self.control.settings),
            part.cell_write.eq(self._arrived(m, "cell_write", self.cell_write)),
            part.cell_data.eq(self._arrived(m, "cell_data", self.cell_data)),
            self.cells.eq(part.cells),
            self.columns.eq(part.columns),
            self.saturated.eq(part.saturated),
        ]
        self._load(m, part, ("parameters", "tables"))

        pes = [PE(config, config.ultra_weights and index >= config.block_weights) for index in range(config.tile_pes)]
        for index, pe in enumerate(pes):
            m.submodules[f"pe{index}"] = instantiate(platform, pe, reset)
            DrainPort(config).connect(m, wiring.flipped(self), pe)
        activations = self._arrived(m, "activations", self.activations)
        reader = PtrRead(config, config.tile_pes) if config.wide_pointers else None
        if reader is not None:
            m.submodules.ptr_read = instantiate(platform, reader, reset)
            for index, pe in enumerate(pes):
                m.d.comb += [pe.token.eq(reader.o[index]), pe.token_valid.eq(reader.o_valid[index])]
        names = ["column", "column_valid", "context", "context_valid", "context_operation"]
        for name in [*names, *StreamPort(config).members] if config.stream else names:
            value = self._arrived(m, name, getattr(self, name), reset_less=not name.endswith("valid"))
            if reader is not None and name.startswith("column"):
                m.d.comb += getattr(reader, name.replace("column", "i")).eq(value)
            else:
                m.d.comb += [getattr(pe, name).eq(value) for pe in pes]
        for index, pe in enumerate(pes):
            m.d.comb += pe.activations.eq(activations[index // config.rows_per_slice])
        self._load_pes(m, pes, reader)
        m.d.comb += part.drained.eq(Cat(pe.drained for pe in pes))
        m.d.sync += self.full.eq(Cat(pe.full for pe in pes).any())
        m.d.comb += self.done.eq(join(m, "done", [pe.done for pe in pes], MAX_OPERATIONS))
        counted = ["busy", "padding", "hazard"]
        if config.stream:
            m.d.comb += self.released.eq(join(m, "released", [pe.released for pe in pes], BLOCKS))
            counted.append("starved")
        for name in counted:
            m.d.sync += getattr(self, name).eq(sum(getattr(pe, name) for pe in pes))
        return m

    def _arrived(self, m, name, value, *, reset_less=True, **attributes):
        """The register in which ``value`` arrives."""
        register = Signal(value.shape(), name=f"{name}_arrived", reset_less=reset_less,
                          attrs={**DISTANCE, **attributes})
        m.d.sync += register.eq(value)
        return register

    def _load(self, m, part, names):
        """Lines for the memories of the slice. The core is in reset while an image is loaded: nothing here is."""
        for name in names:
            line, to = getattr(self, name), getattr(part, name)
            m.d.comb += [
                to.address.eq(self._arrived(m, f"{name}_address", line.address)),
                to.data.eq(self._arrived(m, f"{name}_data", line.data)),
                getattr(part, f"{name}_valid").eq(self._arrived(m, f"{name}_valid", getattr(self, f"{name}_valid"))),
            ]

    def _load_pes(self, m, pes, reader):
        """Lines for the memories of the PEs, and of the PtrRead that they share, likewise."""
        config = self.config
        for name, bits in (("weights", config.entry_bits), ("pointers", config.count_bits)):
            line = self._arrived(m, name, getattr(self, name))
            valid = self._arrived(m, f"{name}_valid", getattr(self, f"{name}_valid"))
            if reader is not None and name == "pointers":
                m.d.comb += [reader.load.eq(line), reader.load_valid.eq(valid)]
                continue
            for index, pe in enumerate(pes):
                m.d.comb += [
                    getattr(pe, name).address.eq(line.address),
                    getattr(pe, name).data.eq(line.data.word_select(index, bits)),
                    getattr(pe, f"{name}_valid").eq(valid),
                ]
