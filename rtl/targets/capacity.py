# SPDX-License-Identifier: Apache-2.0
"""What a machine takes of an FPGA, as Yosys maps it, and whether the FPGA has as much.

Block RAMs, UltraRAMs and multipliers are exact. LUTs and registers are by the model of `logic`.
"""

from dataclasses import dataclass

from openese.rtl.config import PRESETS, Config
from openese.rtl.targets import TargetError
from openese.rtl.targets.devices import DEVICES, RESOURCES
from openese.rtl.targets.logic import Amount, logic
from openese.rtl.targets.memories import FAMILIES, memories

__all__ = ["FPGAS", "Fpga", "block_rams", "check_fits", "multipliers", "resources", "ultra_rams"]


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


#: By target. What Vivado adds to a board's design, as PCIe, DDR4 and DMA, is not counted.
FPGAS = {
    "ooc": Fpga("xcku060", "XCKU060"),
    "kcu105": Fpga("kcu105", "XCKU040 of the KCU105"),
    "kv260": Fpga("kv260", "XCK26 of the KV260"),
    "pynq-z2": Fpga("pynq-z2", "XC7Z020 of the PYNQ-Z2"),
    "ulx3s": Fpga("ulx3s-85f", "LFE5U-85F of the ULX3S", beside=2),
}


def _instances(config: Config, block: str) -> int:
    """How many of a block a machine has."""
    shared = ("Activation", "Slice", *(["PtrRead"] if config.wide_pointers else []))
    if block in ("PtrRead", "ActQueue", "SpmatRead", "SpMV") and block not in shared:
        return config.pes
    return config.slices if block in shared else 1


def block_rams(config: Config, family: str) -> float:
    """Block RAMs of a machine: DP16KD for ``"ecp5"``, RAMB36 for the others, where a RAMB18 is half of one."""
    return sum(_instances(config, block) * memory.mapped(FAMILIES[family]).block_rams
               for block, held in memories(config).items() for memory in held)


def ultra_rams(config: Config, family: str) -> int:
    """UltraRAMs of a machine, whether the family has some or not."""
    return int(sum(_instances(config, block) * memory.mapped(FAMILIES[family]).ultra_rams
                   for block, held in memories(config).items() for memory in held))


def multipliers(config: Config, family: str) -> int:
    """Multipliers of a machine: multipliers of 18 x 18 bits for ``"ecp5"``, DSP slices for the others."""
    traits = FAMILIES[family]
    each = 1 if config.operand_bits <= traits.operand_bits else 2
    # Of a lane: to interpolate; peephole times c; a gate times c, or times another gate of three more bits.
    lane = 1 + sum(1 if bits <= traits.state_bits else 2
                   for bits in (config.cell_bits, max(config.cell_bits, config.table_bits + 3)))
    return config.multipliers * each + config.slices * config.slice_width * lane


def resources(config: Config, family: str) -> dict[str, Amount]:
    """What a machine takes of an FPGA of a family, by the names of `openese.rtl.targets.devices.RESOURCES`."""
    found = logic(config, family)
    exact = {"BRAM": block_rams(config, family), "URAM": ultra_rams(config, family), "DSP": multipliers(config, family)}
    return {name: found[name] if name in found else Amount(exact[name], 0) for name in RESOURCES}


def _short(config: Config, fpga: Fpga) -> list[str]:
    device = DEVICES[fpga.device]
    needs = (("block RAMs", block_rams(config, device.family) + fpga.beside, device.block_rams),
             ("UltraRAMs", ultra_rams(config, device.family), device.urams),
             ("multipliers", multipliers(config, device.family), device.multipliers))
    return [f"{need:,.12g} {what}, {need - there:,.12g} more than the FPGA's {there:,}" for what, need, there in needs
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
