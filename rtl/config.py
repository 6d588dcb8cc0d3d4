# SPDX-License-Identifier: Apache-2.0
"""The capacity of a machine, and every width that follows from it.

A `Config` says how much hardware there is. The model that the machine runs comes later, in an image. All modules of
`rtl` and all of `sw` take their widths from here and nowhere else.
"""

import dataclasses
import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

__all__ = ["BANK_SHIFT", "CELLS", "DEPTHS", "FLAGS", "MODEL_SHIFT", "Config", "LATER_FIELDS", "PRESETS", "PURPOSES",
           "preset", "machine_config", "bits_for"]

#: Fields that images of earlier releases do not have: at their defaults they stand in no file and no fingerprint.
LATER_FIELDS = ("banks", "models", "cells", "lut_channels", "ultra_channels", "ultra_weights",
                "block_weights", "wide_pointers", "forward")

#: Fields that say how much a memory holds.
DEPTHS = ("entry_depth", "column_depth", "vector_depth", "cell_rows", "accumulator_rows", "program_depth")

#: Place of the bank's number in the first word of a frame's header, and of the model's.
BANK_SHIFT, MODEL_SHIFT = 2, 8

#: Kinds of layers that a machine may have.
CELLS = ("lstm", "lstm+gru", "lstm+gru+gru_before", "lstm+dense", "lstm+gru+dense", "lstm+gru+gru_before+dense")

#: Fields that are true or false.
FLAGS = ("stream", "ultra_weights", "wide_pointers", "forward")

#: Bits of a beat of a frame, beyond which it has one column: the widest stream that AXI DMA takes.
_WIDEST_BEAT = 1024
#: Bits up to which `Config.forward` widens a beat: the width of the usual bridges from PCI Express.
_WIDENED_BEAT = 512


def bits_for(n: int) -> int:
    """Bits that hold every unsigned number up to and including ``n`` (at least one)."""
    return max(1, int(n).bit_length())


def _power_of_two(n: int) -> bool:
    return n > 0 and n & (n - 1) == 0


@dataclass(frozen=True, kw_only=True)
class Config:
    """Capacity of one machine. Immutable; checked at construction.

    Attributes
    ----------
    name : str
        For people; not part of the fingerprint.
    pes : int
        Processing elements, a power of two. Each has one decoder and ``channels`` multipliers.
    channels : int
        Voices computed side by side (the paper's batch), a power of two.
    banks : int
        Banks of voices: a machine keeps the state of ``banks`` x ``channels`` voices. A step computes those of one.
    groups : int
        Column groups, a power of two. Group ``g`` takes the columns ``j`` with ``j % groups == g``;
        row ``r`` lives on the PEs ``r % (pes // groups)`` of every group and is summed at the drain.
    slices : int
        Element-wise slices; each serves ``pes // groups // slices`` PE rows. 0: one for each.
    slice_width : int
        Cells that a slice takes up per cycle. 0: two where there are two.
    weight_bits, activation_bits, cell_bits : int
        Signed widths of weights, of x, y and m, and of the cell state c.
    index_bits : int
        Width of the count of zero rows skipped before an entry (the paper: 4).
    align_bits : int
        Width of the left shift that aligns a matrix's products with its row's accumulator. An aligned weight is
        ``2**align_bits - 1`` bits wider: 19 by default, 15 with 2, for multipliers of 18 bits.
    queue_depth : int
        Depth of every ActQueue, in columns.
    entry_depth : int
        Encoded weights that each PE can hold: a power of two, or without ``stream`` a multiple of 1,024.
    column_depth : int
        Columns over all matrices: the depth of the pointer memories and of the order memory.
    vector_depth : int
        Columns of x, m and y that the vector memory holds (each ``channels`` activations); of y for every bank.
        A power of two, or a multiple of 512 for each group.
    cell_rows : int
        Cells per PE row over all layers: depth of the parameter memories, and of the cell-state memories for each bank.
    accumulator_rows : int
        Accumulators per PE and channel, over both gate banks and the projection; a multiple of 16.
    row_nonzeros : int
        Non-zeros of full scale in one row of stacked ``[W_x W_r]`` or of ``W_ym`` that can never
        overflow an accumulator, whatever the activations.
    program_depth : int
        Instructions of the step program.
    stream : bool
        Can read the weights from memory in every step, for models of which ``entry_depth`` is only a buffer.
    models : int
        Models that an image may hold. They share the memories, and each has the states of its own voices.
    cells : str
        Kinds of layers: ``"lstm"``, and behind it ``"+gru"``, ``"+dense"`` or both. ``"+gru+gru_before"`` stands for
        GRUs with the reset after or before the product. A machine with GRUs has a ``cell_bits`` of at least 24.
    lut_channels, ultra_channels : int
        Channels of every PE whose accumulators are in LUT RAM, and in UltraRAM of UltraScale+. Those of the others are
        in block RAM.
    ultra_weights : bool
        The weights of the PEs are in UltraRAM, too.
    block_weights : int
        PEs of every tile whose weights are in block RAM nevertheless.
    wide_pointers : bool
        The pointers of all PEs of a tile are in one wide memory. It takes fewer block RAMs if the memory of a PE would
        fill a small part of one.
    forward : bool
        Values are forwarded past their memories: no entry waits for its accumulator, and columns, gates and c come
        earlier. A frame's beats are as wide as the lines that `write_lines` counts. This takes LUTs for every channel,
        and is meant for machines of one.

    Raises
    ------
    ValueError
        Naming the field, the rule and the value.
    """

    name: str
    pes: int
    channels: int
    groups: int = 1
    slices: int = 0
    slice_width: int = 0
    weight_bits: int = 12
    activation_bits: int = 16
    cell_bits: int = 24
    index_bits: int = 6
    align_bits: int = 3
    queue_depth: int = 32
    entry_depth: int = 1024
    column_depth: int = 1024
    vector_depth: int = 1024
    cell_rows: int = 64
    accumulator_rows: int = 512
    row_nonzeros: int = 512
    program_depth: int = 64
    stream: bool = False
    banks: int = 1
    models: int = 1
    cells: str = "lstm"
    lut_channels: int = 0
    ultra_channels: int = 0
    ultra_weights: bool = False
    block_weights: int = 0
    wide_pointers: bool = False
    forward: bool = False

    def __post_init__(self) -> None:
        self._check_types()
        self._check_powers(["pes", "channels", "groups"])
        for field in FLAGS:
            object.__setattr__(self, field, bool(getattr(self, field)))
        for field in ("slices", "slice_width"):
            if getattr(self, field) == 0:
                object.__setattr__(self, field, self._left_out(field))
        powers = ["slices", "slice_width", "queue_depth", "column_depth", "cell_rows",
                  "row_nonzeros", "program_depth"]
        if self.stream or self.entry_depth % 1024:
            powers.append("entry_depth")
        if self.vector_depth % (512 * self.groups):
            powers.append("vector_depth")
        self._check_powers(powers)
        if self.accumulator_rows % 16:
            raise ValueError(f"Config accumulator_rows must be a multiple of 16, not {self.accumulator_rows}")
        ranges = {"pes": (1, 1 << 15), "row_nonzeros": (1, 1 << 30), "weight_bits": (2, 18), "activation_bits": (8, 18),
                  "cell_bits": (max(14, self.activation_bits), 27), "index_bits": (1, 10), "align_bits": (1, 3),
                  "queue_depth": (16, 512), "program_depth": (8, 256),
                  # Assemble writes a column of every group at once, out of one a PE row.
                  "groups": (1, min(8, max(1, self.row_pes))), "vector_depth": (2 * self.write_columns, 65536),
                  "entry_depth": (16, 1 << 20), "column_depth": (16, 65536), "cell_rows": (2, 4096),
                  "accumulator_rows": (16, 4096), "channels": (1, 64), "banks": (1, 64), "models": (1, 16),
                  "lut_channels": (0, self.channels), "ultra_channels": (0, self.channels - self.lut_channels),
                  "slices": (1, self.row_pes),
                  "block_weights": (0, (self.tile_pes - 1) * self.ultra_weights),
                  "slice_width": (1, max(1, self.row_pes // self.slices) * self.channels)}
        for field, (low, high) in ranges.items():
            value = getattr(self, field)
            if not low <= value <= high:
                raise ValueError(f"Config {field} must be between {low} and {high}, not {value}")
        if self.cells not in CELLS:
            raise ValueError(f"Config cells must be one of {', '.join(CELLS)}, not {self.cells!r}")
        if self.gru and self.cell_bits < self.sum_bits:
            raise ValueError(f"Config cell_bits must be at least {self.sum_bits} with cells {self.cells!r}, "
                             f"not {self.cell_bits}")
        if self.weight_bits + self.index_bits > 32:
            raise ValueError(f"Config weight_bits + index_bits must be at most 32, "
                             f"not {self.weight_bits + self.index_bits}")

        if self.models > 1:
            self._check_models()
        if self.stream and (not _power_of_two(self.stream_bits) or not 32 <= self.stream_bits <= 1024):
            raise ValueError(f"Config stream needs pes x (weight_bits + index_bits) to be an AXI4 data width: a power "
                             f"of two between 32 and 1024, not {self.stream_bits}")
        if self.stream and self.entry_depth < 128:
            raise ValueError(f"Config stream needs an entry_depth of at least 128, not {self.entry_depth}")

    def _check_models(self) -> None:
        # The words of a header are signed numbers.
        if MODEL_SHIFT + self.model_bits >= self.activation_bits:
            raise ValueError(f"Config models of {self.models} takes activation_bits of at least "
                             f"{MODEL_SHIFT + self.model_bits + 1}, not {self.activation_bits}: the first word of a "
                             "frame's header names the model")

    def _check_types(self) -> None:
        for name, value in vars(self).items():
            text = name in ("name", "cells")
            wanted = "text" if text else "true or false" if name in FLAGS else "a whole number"
            if not isinstance(value, str if text else int) or (wanted == "a whole number" and
                                                                         isinstance(value, bool)):
                raise ValueError(f"Config {name} must be {wanted}, not {value!r}")

        # It stands in comments of the files that are written.
        if not self.name.strip() or not self.name.isprintable() or "*/" in self.name:
            raise ValueError(f"Config name must be a line of text without */, not {self.name!r}")

    def _check_powers(self, names: list[str]) -> None:
        for name in names:
            if not _power_of_two(getattr(self, name)):
                raise ValueError(f"Config {name} must be a power of two, not {getattr(self, name)!r}")

    def _left_out(self, field: str) -> int:
        """The value of ``slices`` or ``slice_width`` if it is left out."""
        return max(1, self.pes // max(1, self.groups)) if field == "slices" else min(2, max(1, self.lanes))

    # -- structure -----------------------------------------------------------------------------

    @property
    def row_pes(self) -> int:
        """PEs over which the rows are interleaved: row ``r`` is on PE row ``r % row_pes``."""
        return self.pes // self.groups

    @property
    def multipliers(self) -> int:
        """Multipliers of the array."""
        return self.pes * self.channels

    @property
    def block_channels(self) -> int:
        """Channels of every PE whose accumulators are in block RAM."""
        return self.channels - self.lut_channels - self.ultra_channels

    @property
    def rows_per_slice(self) -> int:
        """PE rows that one element-wise slice serves."""
        return self.row_pes // self.slices

    @property
    def tile_pes(self) -> int:
        """PEs of a tile: those whose sums one element-wise slice takes up."""
        return self.groups * self.rows_per_slice

    @property
    def lanes(self) -> int:
        """Cells of one local row that one slice serves: PE rows times channels."""
        return self.rows_per_slice * self.channels

    @property
    def beats(self) -> int:
        """Cycles in which a slice takes up one local row."""
        return self.lanes // self.slice_width

    @property
    def write_lines(self) -> int:
        """Lines of the vector memory that are written in a cycle: one; with ``forward``, as many of a row as a beat of
        a frame holds in 512 bits.
        """
        lines, bits = 1, self.groups * self.channels * self.activation_bits
        if self.forward:
            while self.row_pes // self.groups // lines > self.beats and 2 * lines * bits <= _WIDENED_BEAT:
                lines *= 2
        return lines

    @property
    def write_columns(self) -> int:
        """Columns of those lines. The memory has a bank for each."""
        return self.groups * self.write_lines

    @property
    def row_writes(self) -> int:
        """Cycles in which a local row of all PEs is written."""
        return self.row_pes // self.write_columns

    @property
    def beat_columns(self) -> int:
        """Columns of a beat of a frame: `write_columns`, or as large a power of two as 1,024 bits hold."""
        columns = self.write_columns
        while columns > 1 and columns * self.channels * self.activation_bits > _WIDEST_BEAT:
            columns //= 2
        return columns

    @property
    def gru(self) -> bool:
        """Whether the machine has GRU cells beside those of an LSTM."""
        return "gru" in self.cells.split("+")

    @property
    def gru_before(self) -> bool:
        """Whether the machine also has GRU cells with the reset before the product."""
        return "gru_before" in self.cells.split("+")

    @property
    def dense(self) -> bool:
        """Whether the machine has dense layers beside recurrent ones."""
        return "dense" in self.cells.split("+")

    @property
    def dense_rows(self) -> int:
        """Rows of a dense layer whose biases take the place of a cell row's; 1 if the machine has no dense layers."""
        return 4 if self.dense else 1

    # -- widths --------------------------------------------------------------------------------

    @property
    def operand_bits(self) -> int:
        """Width of an aligned weight at the multiplier."""
        return self.weight_bits + (1 << self.align_bits) - 1

    @property
    def accumulator_bits(self) -> int:
        """Width of an accumulator: holds ``row_nonzeros`` products of full-scale weights and activations, signed."""
        return (self.weight_bits - 1) + (self.activation_bits - 1) + bits_for(self.row_nonzeros - 1) + 1

    @property
    def entry_bits(self) -> int:
        """Width of an encoded weight: value and skip."""
        return self.weight_bits + self.index_bits

    @property
    def stream_bits(self) -> int:
        """Bits of a line of weights: one entry for every PE."""
        return self.pes * self.entry_bits

    @property
    def position_bits(self) -> int:
        """Width of a place in the weights: an address, and one bit more if the memory is a ring."""
        return bits_for(self.entry_depth - 1) + self.stream

    @property
    def count_bits(self) -> int:
        """Width of a pointer: the entries of one column on one PE, padding included. There are no more of them than
        rows of the matrix, and no matrix has all accumulators.
        """
        return bits_for(self.accumulator_rows - 1)

    @property
    def operation_bits(self) -> int:
        """Width of an operation's number. With ``forward``, an operation counts as complete while its last entries are
        still decoded: their context stays until four more have begun.
        """
        return 3 if self.forward else 2

    @property
    def table_index_bits(self) -> int:
        """Width of a sample's number: tables have 2048 entries, as in the paper."""
        return 11

    @property
    def fraction_bits(self) -> int:
        """Bits of a table argument below its index: the interpolation's resolution."""
        return 9

    @property
    def argument_bits(self) -> int:
        """Width of a table argument; also of a bias, which is kept in that format."""
        return self.table_index_bits + self.fraction_bits

    @property
    def table_bits(self) -> int:
        """Width of a table sample and of a gate: Q16, so that 1.0 is exact."""
        return 18

    @property
    def gate_fraction(self) -> int:
        """Fraction bits of a gate value."""
        return 16

    @property
    def sum_bits(self) -> int:
        """Width at which pre-activations are summed before they are clamped to a table argument."""
        return self.argument_bits + 4

    @property
    def peephole_bits(self) -> int:
        """Width of a peephole weight."""
        return 16

    @property
    def peephole_shift_base(self) -> int:
        """Least right shift of a peephole product; a layer adds 0 to 7."""
        return self.cell_bits - 14

    @property
    def cell_fraction_max(self) -> int:
        """Most fraction bits of the cell state; a layer takes 0 to 7 off."""
        return self.cell_bits - 4

    @property
    def hidden_fraction(self) -> int:
        """Fraction bits of h, the state of a GRU."""
        return self.gate_fraction + 3

    @property
    def cell_argument_left(self) -> int:
        """Left shift of c in front of the right shift that makes it a table argument."""
        return 8

    @property
    def parameter_bits(self) -> int:
        """Width of a (bias, peephole) pair."""
        return self.argument_bits + self.peephole_bits

    @property
    def parameter_line_bits(self) -> int:
        """Width of a slice's parameter memory: pairs of the PE rows that it takes up in one cycle."""
        return max(1, self.slice_width // self.channels) * self.parameter_bits

    @property
    def parameter_lines(self) -> int:
        """Depth of a slice's parameter memory: cell rows, gates, PE rows that are not side by side."""
        return self.cell_rows * 4 * self.rows_per_slice // max(1, self.slice_width // self.channels)

    @property
    def bank_bits(self) -> int:
        """Width of a bank's number; 0 if there is one bank."""
        return (self.banks - 1).bit_length()

    @property
    def model_bits(self) -> int:
        """Width of a model's number; 0 if there is one model."""
        return (self.models - 1).bit_length()

    @property
    def line_bits(self) -> int:
        """Width of a line number of the vector memory."""
        return bits_for(self.vector_depth // self.groups - 1)

    @cached_property
    def fingerprint(self) -> int:
        """CRC-32 over all `fields` but the name: an image fits exactly the machines that share it."""
        fields = [item for item in self.fields().items() if item[0] != "name"]
        return zlib.crc32(repr(sorted(fields)).encode())

    def fields(self) -> dict[str, Any]:
        """The fields by name, for files; those of `LATER_FIELDS` only if they are not at their defaults."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)
                if f.name not in LATER_FIELDS or getattr(self, f.name) != f.default}

    def replace(self, **changes: Any) -> "Config":
        """A copy with ``changes``, checked anew. ``slices`` and ``slice_width`` follow if they have the values that
        they get when they are left out.
        """
        for field in ("slices", "slice_width"):
            if getattr(self, field) == self._left_out(field):
                changes.setdefault(field, 0)
        return dataclasses.replace(self, **changes)


PRESETS = {config.name: config for config in [
    Config(name="tiny", pes=4, channels=2, entry_depth=1024, column_depth=256, vector_depth=256,
           cell_rows=32, accumulator_rows=128, queue_depth=16),
    Config(name="demo", pes=8, channels=8, entry_depth=16384, column_depth=512, vector_depth=1024,
           cell_rows=32, accumulator_rows=256),
    Config(name="ese", pes=32, channels=32, entry_depth=10240, column_depth=2048, vector_depth=2048,
           cell_rows=32, accumulator_rows=512),
    # As ese, with the memories that the recognizer takes with its head.
    Config(name="ese_whole", pes=32, channels=32, entry_depth=11264, column_depth=4096, vector_depth=2048,
           cell_rows=64, accumulator_rows=512, cells="lstm+gru+dense"),
    # Entries of 16 bits, 512 bits a cycle, as in the paper.
    Config(name="ese_stream", pes=32, channels=32, index_bits=4, entry_depth=1024, column_depth=2048,
           vector_depth=2048, cell_rows=32, accumulator_rows=512, stream=True),
    # 4 x 4, for which nextpnr finds wires on an LFE5U-85F. Multipliers are of 18 bits, encoded weights of 14.
    Config(name="ulx3s", pes=4, channels=4, slices=1, slice_width=1, index_bits=2, align_bits=2, entry_depth=32768,
           column_depth=512, vector_depth=512, cell_rows=32, accumulator_rows=256, row_nonzeros=256),
    # Sums of 28 bits. In block RAM those of all channels take 800 of the XCKU060's 1,080; 13 channels in LUTs leave a
    # seventh of both. 144 rows are two banks of the paper's gates, and two phases of its projection.
    Config(name="ku060", pes=64, channels=32, slices=32, slice_width=4, weight_bits=8, activation_bits=12,
           entry_depth=6144, column_depth=2048, vector_depth=2048, cell_rows=16, accumulator_rows=144, lut_channels=13),
    # As ese, with banks that leave 15 % of the block RAMs. The y of the paper's layer have room in three.
    Config(name="ku060_voices", pes=32, channels=32, entry_depth=10240, column_depth=2048, vector_depth=3072,
           cell_rows=32, accumulator_rows=512, banks=4),
    Config(name="ku115", pes=64, channels=32, groups=2, slices=32, slice_width=4, entry_depth=6144,
           column_depth=2048, vector_depth=2048, cell_rows=32, accumulator_rows=512),
    # Of three UltraScale+ and 7-series boards, by `openese estimate`: no resource but UltraRAM above 90 %.
    Config(name="arty_a7", pes=8, channels=16, slices=4, slice_width=2, weight_bits=8, activation_bits=12,
           entry_depth=12288, column_depth=1024, vector_depth=1024, cell_rows=64, accumulator_rows=512, lut_channels=4),
    Config(name="kv260", pes=16, channels=16, slices=8, slice_width=2, weight_bits=8, activation_bits=12,
           entry_depth=16384, column_depth=2048, vector_depth=2048, cell_rows=64, accumulator_rows=512, lut_channels=8,
           ultra_weights=True),
    Config(name="zcu104", pes=32, channels=16, slices=16, slice_width=2, weight_bits=8, activation_bits=12,
           entry_depth=12288, column_depth=2048, vector_depth=2048, cell_rows=32, accumulator_rows=288, lut_channels=5,
           ultra_weights=True),
    # For an XCVU9P: no more than 80 % of a resource. Four groups, since it has three dies: the columns of 32 PE rows
    # cross their borders, not of 64.
    Config(name="vu9p", pes=128, channels=32, groups=4, slices=32, slice_width=8, entry_depth=8192, column_depth=4096,
           vector_depth=4096, cell_rows=64, accumulator_rows=512, lut_channels=4, ultra_channels=10,
           ultra_weights=True),
    # A column takes all PEs of a group three cycles, so there are eight groups.
    Config(name="latency", pes=512, channels=1, groups=8, slices=32, entry_depth=1024, column_depth=512,
           vector_depth=4096, cell_rows=16, accumulator_rows=512, forward=True),
    # Of the UltraRAMs of an XCVU9P, 12 PEs of each tile of 32 take 80 %; the other PEs' weights leave 16 % of the block
    # RAMs. The sums of 64 rows, of 35 bits, are in five LUT RAMs.
    Config(name="latency_vu9p", pes=2048, channels=1, groups=8, slices=64, slice_width=1, entry_depth=2048,
           column_depth=1024, vector_depth=8192, cell_rows=16, accumulator_rows=64, row_nonzeros=256, lut_channels=1,
           ultra_weights=True, block_weights=20, wide_pointers=True, forward=True),
]}

#: What each preset is for.
PURPOSES = {
    "tiny": "tests and first tries: simulates in a blink",
    "demo": "small networks, such as the dense LSTM of a voice activity detector",
    "ese": "the paper's 1,024 multipliers, with its 153/1024/512 layer at 10 % density on the chip",
    "ese_whole": "as ese, with GRUs and dense layers: holds the bundled recognizer with its head",
    "ese_stream": "as ese, but weights come from memory in every step, as in the paper: for larger networks",
    "ulx3s": "the ULX3S board with an LFE5U-85F: holds the same dense LSTM as demo",
    "ku060": "the paper's FPGA, an XCKU060, filled: twice the paper's multipliers, of 8-bit weights and 12-bit "
             "activations",
    "ku060_voices": "the paper's FPGA with the states of up to 128 live voices",
    "ku115": "twice the paper's multipliers, for an FPGA with twice the block RAMs",
    "arty_a7": "the Arty A7-100T board: 128 multipliers of 8-bit weights and 12-bit activations",
    "kv260": "the KV260 board: 256 such multipliers, with the weights in its UltraRAMs",
    "zcu104": "the ZCU104 board: 512 such multipliers, with the paper's layer at 10 % density in its UltraRAMs",
    "vu9p": "an XCVU9P, as on the VCU118 board: four times the paper's multipliers, with weights and accumulators in "
            "its UltraRAMs",
    "latency": "one voice with the shortest delay",
    "latency_vu9p": "as latency, four times as wide, for an FPGA as large as an XCVU9P, as that of an AWS F1",
}


def preset(name: str) -> Config:
    """The named preset.

    Raises
    ------
    ValueError
        If there is none of that name; the message lists the names.
    """
    if not isinstance(name, str) or name not in PRESETS:
        raise ValueError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]


def machine_config(machine: str | Config) -> Config:
    """The `Config` of a machine that is given as one, or by a preset's name.

    Raises
    ------
    ValueError
        For another name, listing those there are.
    """
    return machine if isinstance(machine, Config) else preset(machine)
