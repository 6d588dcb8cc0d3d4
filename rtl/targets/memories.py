# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""The memories of a machine, and how Yosys maps each to block RAMs or to LUTs, by costs that are the same here."""

from dataclasses import dataclass
from functools import cache, lru_cache
from math import ceil
from typing import Literal, NamedTuple

from openese.rtl.attributes import LUT_RAM_ROWS
from openese.rtl.config import DEPTHS, Config
from openese.rtl.frames import beat_bytes
from openese.rtl.interfaces import Context, Token
from openese.rtl.program import Instruction
from openese.rtl.state_access import StateAccess

__all__ = ["BLOCK_RAMS", "FAMILIES", "Family", "Mapped", "Memory", "memories", "of_any_depth", "ways"]


@dataclass(frozen=True)
class Family:
    """FPGAs with the same memories and multipliers.

    Attributes
    ----------
    rams : tuple of (float, int, int, int)
        Of each size of block RAM: how much it counts, Yosys's cost, address bits at a width of one, and largest width.
    lut_cost, lut_rows, lut_bits, lut_parts :
        Yosys's cost of a LUT RAM, its rows and bits, and whether a part of one costs a part.
    luts : int
        LUTs that a LUT RAM takes.
    halves : bool
        Whether a LUT RAM has twice the bits at half the rows.
    operand_bits : int
        Widest operand of a product with an activation that takes one multiplier.
    state_bits : int
        Widest operand of a product with a gate or a peephole that takes one multiplier.
    packs : bool
        Whether Yosys puts registers and adders into the multipliers.
    lut_inputs : int
        Inputs of a LUT.
    shifts : bool
        Whether LUTs can be shift registers.
    """

    rams: tuple[tuple[float, int, int, int], ...]
    lut_cost: int
    lut_rows: int
    lut_bits: int
    lut_parts: bool
    luts: int
    halves: bool
    operand_bits: int
    state_bits: int
    packs: bool = False
    lut_inputs: int = 6
    shifts: bool = True


FAMILIES = {
    # RAMB18 and RAMB36; RAM64M8, and DSP48E2 of 27 x 18 bits.
    "xcu": Family(((0.5, 129, 14, 36), (1, 257, 15, 72)), 16, 64, 7, True, 8, True, 27, 27),
    # The same block RAMs; RAM64M, and DSP48E1 of 25 x 18 bits.
    "xc7": Family(((0.5, 129, 14, 36), (1, 257, 15, 72)), 8, 64, 3, True, 4, True, 25, 25, packs=True),
    # DP16KD; TRELLIS_DPR16X4, and multipliers of 18 x 18 bits.
    "ecp5": Family(((1, 128, 14, 36),), 4, 16, 4, False, 6, False, 19, 18, lut_inputs=4,
                   shifts=False),
}
# UltraScale+ has the same, and UltraRAM.
FAMILIES["xcup"] = FAMILIES["xcu"]


class Mapped(NamedTuple):
    """What memories take.

    Attributes
    ----------
    block_rams : float
    luts : float
        LUTs as memory.
    choices : float
        LUTs that choose between memories one behind another.
    registers : float
        Of the bits that are read, where these are not part of a block RAM.
    ultra_rams : float
    """

    block_rams: float
    luts: float
    choices: float
    registers: float
    ultra_rams: float = 0


#: Fields of a machine that say which memories are no block RAMs, or are shared, as if all were and none was.
BLOCK_RAMS = {"lut_channels": 0, "ultra_channels": 0, "ultra_weights": False, "block_weights": 0,
              "wide_pointers": False}


def ways(count: int, inputs: int) -> int:
    """LUTs of so many inputs, 4 or 6, that choose one of ``count`` bits, as Yosys has them."""
    if count < 2:
        return 0
    if inputs == 4:
        return ceil(count / 2)
    return 1 if count <= 4 else count // 2 if count <= 8 else _tree(count)


def _tree(count: int) -> int:
    return 1 if count <= 4 else count // 4 + (count % 4 > 1) + _tree(-(-count // 4))


@dataclass(frozen=True)
class Memory:
    """Memories of one kind in an instance of a block.

    Attributes
    ----------
    count : float
        How many there are, on average over the instances.
    depth, width : int
        Rows, and bits of a row.
    lanes : int
        Parts of a row that are written apart.
    kind : str
        What the Verilog asks for: ``"block"`` RAM, ``"LUT"`` RAM, ``"ultra"``, or ``"any"``.
    unread : int
        Lowest bits that nothing reads. A LUT RAM that has no others is left out.
    clocked : bool
        A LUT RAM that is read with a clock. Its last rows are in LUT RAMs of half the rows if they fit these.
    """

    count: float
    depth: int
    width: int
    lanes: int = 1
    kind: Literal["block", "LUT", "ultra", "any"] = "any"
    unread: int = 0
    clocked: bool = False

    def mapped(self, family: Family) -> Mapped:
        """What Yosys makes of it."""
        return _mapped(self, family)

    def _map(self, family: Family) -> Mapped:
        if self.kind == "ultra":
            # Of 4,096 rows of 72 bits, each of which may hold several narrow ones.
            return Mapped(0, 0, 0, 0, self.count * min(
                ceil(self.width / bits) * ceil(self.depth * bits / (72 << 12)) for bits in (9, 18, 36, 72)))
        # A lane begins at a whole byte of 9 bits.
        width = self.width if self.lanes == 1 else 9 * ceil(self.width / self.lanes / 9) * self.lanes
        rams, cost, rows = min((self._row(width, *ram) for ram in family.rams), key=lambda row: row[1])
        bits = self.width / family.lut_bits
        in_luts = (family.lut_cost * ceil(self.depth / family.lut_rows) * (bits if family.lut_parts else ceil(bits))
                   + self._choice(family.lut_rows))
        if self.kind == "block" or self.kind == "any" and cost <= in_luts:
            return Mapped(self.count * rams, 0, self._choices(rows, family), 0)
        return Mapped(0, self.count * self._luts(family), self._choices(family.lut_rows, family),
                      self.count * self.width * (self.kind == "any" or self.clocked))

    def _choices(self, rows: int, family: Family) -> float:
        parts = ceil(self.depth / rows)
        # What is read without a clock and then kept is chosen by LUTs alone: each chooses one of four.
        luts = ceil((parts - 1) / 3) if self.clocked and family.lut_inputs == 6 else ways(parts, family.lut_inputs)
        return self.count * self.width * luts

    def _luts(self, family: Family) -> int:
        last = self.depth % LUT_RAM_ROWS if self.clocked else 0
        parts = (self.depth - last, last) if 0 < last <= LUT_RAM_ROWS // 2 else (self.depth,)
        return sum(self._part(rows, family) for rows in parts if rows)

    def _part(self, depth: int, family: Family) -> int:
        """LUTs of a LUT RAM of so many rows."""
        rows, bits = family.lut_rows, family.lut_bits
        if family.halves and depth <= rows // 2:
            rows, bits = rows // 2, 2 * bits
        columns = ceil(self.width / self.lanes / bits) - self.unread // bits
        return family.luts * ceil(depth / rows) * self.lanes * columns

    def _row(self, width: int, taken: float, cost: int, address_bits: int, widest: int) -> tuple[float, float, int]:
        """Block RAMs, cost and rows of each, where all are used in the cheapest of their shapes."""
        shapes = []
        for step, bits in enumerate((1, 2, 4, 9, 18, 36, 72)):
            if bits <= widest:
                rows = 1 << (address_bits - step)
                number = ceil(width / bits) * ceil(self.depth / rows)
                shapes.append((number * taken, number * cost + self._choice(rows), rows))
        return min(shapes, key=lambda shape: shape[1])

    def _choice(self, rows: int) -> float:
        """Cost of choosing among memories of so many rows each."""
        return 0.5 * (ceil(self.depth / rows) - 1) * self.width


@cache
def _mapped(memory: Memory, family: Family) -> Mapped:
    """`Memory.mapped`, which finds the same for many machines."""
    return memory._map(family)


def of_any_depth(config: Config) -> Config:
    """A machine with the same pipelines and order of work: machines that differ in the depths and kinds of memories and
    in the widths of numbers share it."""
    depths = {name: 1024 for name in DEPTHS} | {"vector_depth": max(1024, 512 * config.groups), "program_depth": 64}
    # A machine that streams has few widths of weights. With `forward`, the width of a beat decides about the lines of a
    # write.
    widths = ({} if config.forward else {"activation_bits": 14}) | ({} if config.stream else {"weight_bits": 12})
    return config.replace(name="any depth", **BLOCK_RAMS, **depths, **widths)


@cache
def _posted_depth(config: Config) -> int:
    return StateAccess(config).posted_depth


@lru_cache(maxsize=64)
def memories(config: Config) -> dict[str, list[Memory]]:
    """The memories of one instance of each block, by the block's name; those of a few rows only if their width depends
    on the machine."""
    def memory(depth: int, width: int, lanes: int = 1, count: int = 1) -> Memory:
        return Memory(count, depth, width, lanes, "block" if depth >= 512 else "any")

    def in_luts(depth: int, width: int, count: int = 1) -> Memory:
        return Memory(count, depth, width, kind="LUT")

    groups, width, banks = config.groups, config.slice_width, config.write_columns
    column = config.channels * config.activation_bits
    beat_bits = (config.beats - 1).bit_length()
    # SpmatRead keeps the lines of an operation's weights, which come first in its context.
    lines = config.position_bits * (1 + config.stream)
    program = Memory(1, config.program_depth, Instruction(config).size)
    beat = 8 * beat_bytes(config)
    found = {
        "PtrRead": [memory(config.column_depth, config.count_bits * (config.tile_pes if config.wide_pointers else 1))],
        "ActQueue": [in_luts(config.queue_depth, Token(config).size), in_luts(config.queue_depth, column)],
        "SpmatRead": [*_weights(config),
                      in_luts(1 << config.operation_bits, config.position_bits)],
        "SpMV": [*_accumulators(config),
                 Memory(1, 1 << config.operation_bits, Context(config).size, kind="LUT", unread=lines)],
        # Two banks. One of a block RAM's two ports writes, and each reads for a lane.
        "Activation": [memory(1 << config.table_index_bits, config.table_bits, count=2 * ceil(width / 2))],
        "Slice": [
            memory(config.banks * config.cell_rows * config.beats, config.cell_bits * width, width),
            Memory(1, config.parameter_lines, config.parameter_line_bits),
            # g and tanh(c), the old c, i . g, and the sums of a row's phases.
            in_luts(2 << beat_bits, (config.table_bits + 3) * width),
            in_luts(1 << max(4, beat_bits), config.cell_bits * width),
            in_luts(max(2, 1 << beat_bits), (config.cell_bits + 3) * width),
            *([in_luts(config.beats, config.accumulator_bits, width)] if config.beats > 1 else [])],
        "Broadcast": [memory(config.column_depth, config.line_bits * groups)],
        "Controller": [program],
        "VectorMemory": [Memory(banks, config.vector_depth // banks, column, config.channels,
                                "block" if config.vector_depth // groups >= 512 else "any")],
        # Numbers read ahead, and posted ones with their slice and lane.
        "StateAccess": [in_luts(StateAccess.queue_depth, 32),
                        in_luts(_posted_depth(of_any_depth(config)),
                                config.cell_bits + (config.slices * width - 1).bit_length())],
        "FrameGuard": [in_luts(8, beat + 2)],
        "Top": [in_luts(2, beat + 1)],
    }
    if config.stream:
        found["StreamFetch"] = [program]
    return found


def _weights(config: Config) -> list[Memory]:
    """The weights of a PE, in block RAM on some PEs of a tile and in UltraRAM on others."""
    depth, bits = config.entry_depth, config.entry_bits
    in_block = config.block_weights / config.tile_pes if config.ultra_weights else 1
    kinds = (Memory(in_block, depth, bits, kind="block" if depth >= 512 else "any"),
             Memory(1 - in_block, depth, bits, kind="ultra"))
    return [kind for kind in kinds if kind.count]


def _accumulators(config: Config) -> list[Memory]:
    """The accumulators of a PE, by kind of memory."""
    rows, bits, block = config.accumulator_rows, config.accumulator_bits, config.block_channels
    kinds = (Memory(1, rows, block * bits, kind="any" if block == config.channels and rows < 512 else "block"),
             Memory(1, rows, config.lut_channels * bits, kind="LUT", clocked=True),
             Memory(1, rows, config.ultra_channels * bits, kind="ultra"))
    return [kind for kind in kinds if kind.width]
