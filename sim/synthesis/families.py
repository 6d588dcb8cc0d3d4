# SPDX-License-Identifier: Apache-2.0
"""FPGA families: how Yosys synthesizes for each, and what its cells are worth."""

from dataclasses import dataclass, replace
from pathlib import Path

from openese.rtl.targets.ulx3s import SYNTHESIS

__all__ = ["FAMILIES", "CellModels", "Family"]

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class CellModels:
    """Verilog in the place of a netlist's cells, so that the netlist can be simulated.

    Attributes
    ----------
    luts : Path
        Of the LUTs.
    shared : tuple of str
        Of other cells: files of Yosys, below its folder of shared files.
    own : Path
        Of the cells that Yosys has only as black boxes.
    """

    luts: Path
    shared: tuple[str, ...]
    own: Path


@dataclass(frozen=True)
class Family:
    """FPGAs that Yosys synthesizes for in the same way.

    Attributes
    ----------
    commands : tuple of str
        Yosys's commands, as `yosys.run` takes them; ``{top}`` stands for the top module.
    products : tuple of str
        The same for modules that multiply.
    resources : dict
        By cell, how much it takes of each resource.
    logic : dict
        By cell that signals pass through, the levels of logic: 1 for a LUT or a LUT's memory, else 0.
    chains : frozenset of str
        Cells of carry chains.
    chain_inputs : frozenset of str
        Their inputs from the cell before.
    clocks : dict
        By cell, its clock inputs.
    models : `CellModels`, optional
        None for families whose netlists cannot be simulated.
    """

    commands: tuple[str, ...]
    products: tuple[str, ...]
    resources: dict[str, dict[str, float]]
    logic: dict[str, int]
    chains: frozenset[str]
    chain_inputs: frozenset[str]
    clocks: dict[str, tuple[str, ...]]
    models: CellModels | None = None

    def script(self, top: str, *, multiplies: bool = False) -> list[str]:
        """The commands for module ``top``, which perhaps ``multiplies``."""
        return [command.replace("{top}", top) for command in (self.products if multiplies else self.commands)]


_LUTS = {f"LUT{inputs}": 1 for inputs in range(1, 7)}
_XILINX_RAMS = {"RAM32M16": 8, "RAM64M8": 8, "RAM32M": 4, "RAM64M": 4, "RAM32X1D": 2, "RAM64X1D": 2, "RAM128X1D": 4,
                "RAM256X1D": 8, "RAM512X1S": 8, "RAM256X1S": 4, "RAM128X1S": 2, "RAM64X1S": 1, "RAM32X1S": 1}

_XILINX = "synth_xilinx -family xcu -noiopad -noclkbuf -widemux 5"
_XCU = (f"{_XILINX} -top {{top}} -run begin:map_dsp", "techmap -map {wide_mux}", f"{_XILINX} -run map_dsp:")
_XC7, _XCUP = (tuple(command.replace("-family xcu", f"-family {family}") for command in _XCU)
               for family in ("xc7", "xcup"))
# The steps of synth_xilinx from map_dsp on, for the 7 series.
_XC7_DSP = (
    "memory_dff", "alumacc -macc-only", "maccmap -unmap", "opt_clean",
    "techmap -map +/mul2dsp.v -map +/xilinx/xc7_dsp_map.v -D DSP_A_MAXWIDTH=25 -D DSP_B_MAXWIDTH=18"
    " -D DSP_A_MAXWIDTH_PARTIAL=18 -D DSP_A_MINWIDTH=2 -D DSP_B_MINWIDTH=2 -D DSP_Y_MINWIDTH=9 -D DSP_SIGNEDONLY=1"
    " -D DSP_NAME=$__MUL25X18",
    "select a:mul2dsp", "setattr -unset mul2dsp", "opt_expr -fine", "wreduce", "select -clear",
    "xilinx_dsp -family xc7", "chtype -set $mul t:$__soft_mul")
_ULTRASCALE = Family(
    commands=_XCU, products=_XCU,
    resources={
        **{cell: {"LUT": 1} for cell in (*_LUTS, "INV")},
        **{cell: {"LUT": luts, "LUTRAM": luts} for cell, luts in _XILINX_RAMS.items()},
        **{cell: {"LUT": 1, "LUTRAM": 1} for cell in ("SRL16E", "SRLC32E")},
        **{cell: {"FF": 1} for cell in ("FDRE", "FDSE", "FDCE", "FDPE")},
        **{cell: {} for cell in ("CARRY4", "CARRY8", "MUXF7", "MUXF8", "MUXF9", "VCC", "GND")},
        **dict.fromkeys(("RAMB18E1", "RAMB18E2"), {"BRAM": 0.5}),
        **dict.fromkeys(("RAMB36E1", "RAMB36E2"), {"BRAM": 1}), "URAM288": {"URAM": 1},
        **dict.fromkeys(("DSP48E1", "DSP48E2"), {"DSP": 1})},
    logic={**_LUTS, **dict.fromkeys(_XILINX_RAMS, 1), **dict.fromkeys(("SRL16E", "SRLC32E"), 0), "INV": 0,
           **dict.fromkeys(("CARRY4", "CARRY8", "MUXF7", "MUXF8", "MUXF9", "DSP48E2"), 0)},
    chains=frozenset({"CARRY4", "CARRY8"}), chain_inputs=frozenset({"CI"}),
    clocks={**dict.fromkeys(("FDRE", "FDSE", "FDCE", "FDPE"), ("C",)), **dict.fromkeys(_XILINX_RAMS, ("WCLK",)),
            **dict.fromkeys(("SRL16E", "SRLC32E", "DSP48E1", "DSP48E2", "URAM288"), ("CLK",)),
            **dict.fromkeys(("RAMB18E1", "RAMB18E2", "RAMB36E1", "RAMB36E2"), ("CLKARDCLK", "CLKBWRCLK"))})
_ECP5 = (*SYNTHESIS[:-1], f"{SYNTHESIS[-1]} -top {{top}}")

#: By the name that the command line gives them.
FAMILIES = {
    "xcu": _ULTRASCALE,
    "xcup": replace(_ULTRASCALE, commands=_XCUP, products=_XCUP),
    # A DSP48E1 that is packed begins and ends paths: its registers are in it.
    "xcu_dsp": replace(_ULTRASCALE, products=(*_XCU[:-1], *_XC7_DSP, f"{_XILINX} -run coarse:")),
    "xc7": replace(_ULTRASCALE, commands=_XC7, products=_XC7),
    "ecp5": Family(
        commands=_ECP5, products=_ECP5,
        resources={
            "LUT4": {"LUT": 1}, "CCU2C": {"LUT": 2}, "PFUMX": {}, "L6MUX21": {}, "TRELLIS_FF": {"FF": 1},
            # Two of a PFU's four slices hold the memory, a third writes it.
            "TRELLIS_DPR16X4": {"LUT": 6, "LUTRAM": 6}, "DP16KD": {"BRAM": 1}, "PDPW16KD": {"BRAM": 1},
            "MULT18X18D": {"DSP": 1}, "VCC": {}, "GND": {}},
        logic={"LUT4": 1, "PFUMX": 0, "L6MUX21": 0, "CCU2C": 0, "TRELLIS_DPR16X4": 1, "MULT18X18D": 0},
        chains=frozenset({"CCU2C"}), chain_inputs=frozenset({"CIN"}),
        clocks={"TRELLIS_FF": ("CLK",), "TRELLIS_DPR16X4": ("WCK",), "DP16KD": ("CLKA", "CLKB"),
                "PDPW16KD": ("CLKR", "CLKW"), "MULT18X18D": ("CLK0", "CLK1", "CLK2", "CLK3")},
        models=CellModels(_HERE / "cells" / "ecp5_luts.v", ("lattice/common_sim.vh", "lattice/ccu2c_sim.vh"),
                          _HERE / "cells" / "ecp5.v")),
}
