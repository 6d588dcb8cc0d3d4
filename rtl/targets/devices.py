# SPDX-License-Identifier: Apache-2.0
"""FPGAs, and boards that people own, with the resources of each and where the numbers are from.

Number of LUTs that can be memory: a data sheet gives the largest size of distributed RAM, of 64 bits a LUT. Clocks,
processors and shells that a board or a cloud puts beside the machine are not counted.
"""

import difflib
from dataclasses import dataclass

__all__ = ["DEVICES", "RESOURCES", "Device", "device"]

#: The resources of an FPGA by their short names, and what each is.
RESOURCES = {"LUT": "LUTs", "LUTRAM": "LUTs as memory", "FF": "registers", "BRAM": "block RAMs", "URAM": "UltraRAMs",
             "DSP": "multipliers"}


@dataclass(frozen=True, kw_only=True)
class Device:
    """An FPGA.

    Attributes
    ----------
    name : str
        As the command line takes it.
    fpga : str
        The vendor's name of the part.
    title : str
        For people.
    family : str
        The kind of its cells: ``"xcu"`` (UltraScale), ``"xcup"`` (UltraScale+), ``"xc7"`` (7 series) or ``"ecp5"``.
    luts, ffs : int
        LUTs (of six inputs, of an ECP5 of four) and registers.
    lutrams : int
        LUTs that can be memory. An ECP5 takes two more for each four that are.
    block_rams : int
        Of 36 Kbit, each of which can be two of 18; of an ECP5 of 18 Kbit.
    urams : int
        UltraRAMs of 288 Kbit.
    multipliers : int
        DSP slices; of an ECP5 multipliers of 18 x 18 bits.
    source : str
        The document of the vendor.
    """

    name: str
    fpga: str
    title: str
    family: str
    luts: int
    ffs: int
    lutrams: int
    block_rams: int
    urams: int
    multipliers: int
    source: str

    @property
    def resources(self) -> dict[str, int]:
        """How many there are, by the names of `RESOURCES`."""
        return {"LUT": self.luts, "LUTRAM": self.lutrams, "FF": self.ffs, "BRAM": self.block_rams, "URAM": self.urams,
                "DSP": self.multipliers}


_ULTRASCALE = "AMD DS890, UltraScale Architecture and Product Data Sheet: Overview"
_MPSOC = "AMD DS891, Zynq UltraScale+ MPSoC Data Sheet: Overview"

#: By name, small ones first.
DEVICES = {device.name: device for device in [
    Device(name="ulx3s-85f", fpga="LFE5U-85F", title="ULX3S with an LFE5U-85F", family="ecp5", luts=83_640, ffs=83_640,
           lutrams=62_730, block_rams=208, urams=0, multipliers=156,
           source="Lattice FPGA-DS-02012, ECP5 and ECP5-5G Family Data Sheet; LUTs as nextpnr counts them"),
    Device(name="pynq-z2", fpga="XC7Z020", title="PYNQ-Z2 with an XC7Z020", family="xc7", luts=53_200, ffs=106_400,
           lutrams=17_400, block_rams=140, urams=0, multipliers=220,
           source="AMD DS190, Zynq-7000 SoC Data Sheet: Overview; LUTs as memory as Vivado counts them"),
    Device(name="arty-a7-100t", fpga="XC7A100T", title="Arty A7-100T with an XC7A100T", family="xc7", luts=63_400,
           ffs=126_800, lutrams=19_000, block_rams=135, urams=0, multipliers=240,
           source="AMD DS180, 7 Series FPGAs Data Sheet: Overview"),
    Device(name="kv260", fpga="XCK26", title="KV260 with an XCK26", family="xcup", luts=117_120, ffs=234_240,
           lutrams=57_600, block_rams=144, urams=64, multipliers=1_248,
           source=f"AMD DS987, Kria K26 SOM Data Sheet; its XCK26 is the XCZU5EV of {_MPSOC}"),
    Device(name="zcu104", fpga="XCZU7EV", title="ZCU104 with an XCZU7EV", family="xcup", luts=230_400, ffs=460_800,
           lutrams=101_760, block_rams=312, urams=96, multipliers=1_728, source=_MPSOC),
    Device(name="kcu105", fpga="XCKU040", title="KCU105 with an XCKU040", family="xcu", luts=242_400, ffs=484_800,
           lutrams=112_800, block_rams=600, urams=0, multipliers=1_920, source=_ULTRASCALE),
    Device(name="xcku060", fpga="XCKU060", title="XCKU060, the paper's FPGA", family="xcu", luts=331_680, ffs=663_360,
           lutrams=146_880, block_rams=1_080, urams=0, multipliers=2_760, source=_ULTRASCALE),
    Device(name="u50", fpga="XCU50", title="Alveo U50 with an XCU50", family="xcup", luts=871_680, ffs=1_743_360,
           lutrams=403_200, block_rams=1_344, urams=640, multipliers=5_952,
           source=f"AMD DS965, Alveo U50 Data Center Accelerator Card Data Sheet; its XCU50 is the XCVU35P of "
                  f"{_ULTRASCALE}"),
    Device(name="aws-f1", fpga="XCVU9P", title="AWS F1 with an XCVU9P", family="xcup", luts=1_182_240, ffs=2_364_480,
           lutrams=591_840, block_rams=2_160, urams=960, multipliers=6_840, source=_ULTRASCALE),
    Device(name="vcu118", fpga="XCVU9P", title="VCU118 with an XCVU9P", family="xcup", luts=1_182_240, ffs=2_364_480,
           lutrams=591_840, block_rams=2_160, urams=960, multipliers=6_840,
           source=f"AMD UG1224, VCU118 Evaluation Board User Guide; its XCVU9P is that of {_ULTRASCALE}"),
    Device(name="aws-f2", fpga="XCVU47P", title="AWS F2 with an XCVU47P", family="xcup", luts=1_303_680, ffs=2_607_360,
           lutrams=600_960, block_rams=2_016, urams=960, multipliers=9_024, source=_ULTRASCALE),
]}


def device(name: str) -> Device:
    """The device of this name, or the first with this FPGA; upper and lower case are the same.

    Raises
    ------
    ValueError
        There is none; the message names the nearest, or all.
    """
    wanted = name.lower()
    found = DEVICES.get(wanted) or next((held for held in DEVICES.values() if held.fpga.lower() == wanted), None)
    if found is None:
        near = difflib.get_close_matches(wanted, [*DEVICES, *(held.fpga.lower() for held in DEVICES.values())], 1)
        there = f"did you mean {near[0]}?" if near else f"there are {', '.join(DEVICES)}"
        raise ValueError(f"no device {name!r}; {there}")
    return found
