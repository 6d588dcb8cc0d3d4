# SPDX-License-Identifier: Apache-2.0
"""The block RAMs and multipliers of a machine, as Yosys maps them, and whether an FPGA has as many.

The memories of a machine follow from its `Config`. Yosys maps each to the cheaper of block RAMs and LUTs, by costs
that are the same here. Logic is not counted.
"""

from dataclasses import dataclass
from math import ceil

from openese.rtl.config import PRESETS, Config
from openese.rtl.program import Instruction
from openese.rtl.targets import TargetError
from openese.rtl.targets.devices import DEVICES

__all__ = ["FPGAS", "Fpga", "block_rams", "check_fits", "multipliers", "resources"]


@dataclass(frozen=True)
class _Family:
    """FPGAs with the same block RAMs.

    Attributes
    ----------
    rams : tuple of (float, int, int, int)
        Of each size of block RAM: how much it counts, Yosys's cost, address bits at a width of one, and largest width.
    lut_cost, lut_rows, lut_bits, lut_parts :
        Yosys's cost of a LUT RAM, its rows and bits, and whether a part of one costs a part.
    lane_multipliers : int
        Multipliers of an element-wise lane.
    operand_bits : int
        Widest operand of a product with an activation that takes one multiplier.
    """

    rams: tuple[tuple[float, int, int, int], ...]
    lut_cost: int
    lut_rows: int
    lut_bits: int
    lut_parts: bool
    lane_multipliers: int
    operand_bits: int


_FAMILIES = {
    # RAMB18 and RAMB36. Activation, peephole and ElemMul take one DSP each.
    "xcu": _Family(((0.5, 129, 14, 36), (1, 257, 15, 72)), 16, 64, 7, True, 3, 27),
    # As xcu, with narrower multipliers and other LUT RAMs.
    "xc7": _Family(((0.5, 129, 14, 36), (1, 257, 15, 72)), 8, 64, 3, True, 3, 25),
    # DP16KD. Peephole and ElemMul take two multipliers of 18 bits.
    "ecp5": _Family(((1, 128, 14, 36),), 4, 16, 4, False, 5, 19),
}


@dataclass(frozen=True)
class Fpga:
    """The FPGA of a target.

    Attributes
    ----------
    device : str
        A key of `DEVICES`.
    title : str
    beside : int
        Block RAMs of the board's own logic.
    """

    device: str
    title: str
    beside: int = 0


#: By target. What Vivado adds to the KCU105's design, PCIe and DDR4, is not counted.
FPGAS = {
    "ooc": Fpga("xcku060", "XCKU060"),
    "kcu105": Fpga("kcu105", "XCKU040 of the KCU105"),
    "ulx3s": Fpga("ulx3s-85f", "LFE5U-85F of the ULX3S", beside=2),
}


@dataclass(frozen=True)
class _Memory:
    """Memories of one kind: how many, rows, bits of a row and the lanes that are written apart; ``block`` where the
    Verilog asks for block RAM."""

    count: int
    depth: int
    width: int
    lanes: int = 1
    block: bool = False

    def block_rams(self, family: _Family) -> float:
        # A lane begins at a whole byte of 9 bits.
        width = self.width if self.lanes == 1 else 9 * ceil(self.width / self.lanes / 9) * self.lanes
        taken, cost = min((self._row(width, *ram) for ram in family.rams), key=lambda row: row[1])
        bits = self.width / family.lut_bits
        in_luts = (family.lut_cost * ceil(self.depth / family.lut_rows) * (bits if family.lut_parts else ceil(bits))
                   + self._choice(family.lut_rows))
        return self.count * taken if self.block or cost <= in_luts else 0

    def _row(self, width: int, taken: float, cost: int, address_bits: int, widest: int) -> tuple[float, float]:
        """Block RAMs and cost, where all are used in the cheapest of their shapes."""
        shapes = []
        for step, bits in enumerate((1, 2, 4, 9, 18, 36, 72)):
            if bits <= widest:
                rows = 1 << (address_bits - step)
                number = ceil(width / bits) * ceil(self.depth / rows)
                shapes.append((number * taken, number * cost + self._choice(rows)))
        return min(shapes, key=lambda shape: shape[1])

    def _choice(self, rows: int) -> float:
        """Cost of choosing among memories of so many rows each."""
        return 0.5 * (ceil(self.depth / rows) - 1) * self.width


def _memories(config: Config) -> list[_Memory]:
    """The memories that may be in block RAM."""
    def memory(count: int, depth: int, width: int, lanes: int = 1) -> _Memory:
        return _Memory(count, depth, width, lanes, depth >= 512)

    channels, groups, width = config.channels, config.groups, config.slice_width
    return [
        memory(config.pes, config.column_depth, config.count_bits),
        memory(config.pes, config.entry_depth, config.entry_bits),
        memory(config.pes, config.accumulator_rows, config.accumulator_bits * channels),
        # Two banks with a port for each lane; a block RAM has two.
        memory(2 * config.slices * ceil(width / 2), 1 << config.table_index_bits, config.table_bits),
        memory(config.slices, config.banks * config.cell_rows * config.beats, config.cell_bits * width, width),
        _Memory(config.slices, config.parameter_lines, config.parameter_line_bits),
        memory(1, config.column_depth, config.line_bits * groups),
        memory(groups, config.vector_depth // groups, config.activation_bits * channels, channels),
        # The controller's program, and that of the unit that fetches weights.
        _Memory(2 if config.stream else 1, config.program_depth, Instruction(config).size),
    ]


def block_rams(config: Config, family: str) -> float:
    """Block RAMs of a machine: RAMB36 for ``"xcu"`` and ``"xc7"``, where a RAMB18 is half of one, DP16KD for
    ``"ecp5"``."""
    return sum(memory.block_rams(_FAMILIES[family]) for memory in _memories(config))


def multipliers(config: Config, family: str) -> int:
    """Multipliers of a machine: DSP slices for ``"xcu"`` and ``"xc7"``, multipliers of 18 x 18 bits for
    ``"ecp5"``."""
    traits = _FAMILIES[family]
    each = 1 if config.operand_bits <= traits.operand_bits else 2
    return config.multipliers * each + config.slices * config.slice_width * traits.lane_multipliers


def resources(config: Config, family: str) -> dict[str, float]:
    """What a machine takes of an FPGA of a family, by the names of `openese.rtl.targets.devices.RESOURCES`."""
    return {"BRAM": block_rams(config, family), "URAM": 0, "DSP": multipliers(config, family)}


def _short(config: Config, fpga: Fpga) -> list[str]:
    device = DEVICES[fpga.device]
    needs = (("block RAMs", block_rams(config, device.family) + fpga.beside, device.block_rams),
             ("multipliers", multipliers(config, device.family), device.multipliers))
    return [f"{need:,g} {what}, {need - there:,g} more than the FPGA's {there:,}" for what, need, there in needs
            if need > there]


def check_fits(config: Config, target: str) -> None:
    """Raise unless a machine fits the FPGA of a target, as far as `FPGAS` knows it.

    Raises
    ------
    TargetError
        Naming what is short, and the presets that fit.
    """
    fpga = FPGAS.get(target)
    short = _short(config, fpga) if fpga else []
    if fpga and short:
        fitting = [preset.name for preset in PRESETS.values() if not _short(preset, fpga)]
        raise TargetError(f"machine {config.name!r} does not fit the {fpga.title}: it takes {' and '.join(short)}. "
                          f"Presets that fit: {', '.join(fitting)}")
