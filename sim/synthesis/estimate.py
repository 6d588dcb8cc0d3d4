# SPDX-License-Identifier: Apache-2.0
"""``python -m openese.sim.synthesis.estimate``: what a machine takes of an FPGA, as Yosys estimates it, block by block.

Every module of the emitted Verilog is synthesized once, its hierarchy kept, and counted as often as there are
instances of it. Yosys packs neither two small LUTs into one nor anything across modules, so the counts are on the high
side of what place and route makes of them. It leaves the registers and the adders of UltraScale's multipliers in the
fabric, but knows those of the 7 series: family ``xcu_dsp`` is ``xcu`` with these, DSP48E1 in the place of DSP48E2,
which has all that DSP48E1 has.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Container, Iterable
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import click
from rich.console import Console
from rich.table import Table

from openese.rtl.config import PRESETS, Config
from openese.rtl.emit import without_zeros
from openese.rtl.targets.ulx3s import SYNTHESIS
from openese.rtl.verilog import TOP, verilog
from openese.sim import build

__all__ = ["BASELINES", "BLOCKS", "FAMILIES", "MEASURED", "WIDE_MUX", "Change", "Family", "SynthesisError", "changes",
           "estimate", "main"]

#: Blocks of a machine by the beginnings of their modules' names, longest first where one begins as another.
BLOCKS = {
    "pe_ptr_read": "PtrRead", "pe_act_queue": "ActQueue", "pe_spmat_read": "SpmatRead", "pe_spmv": "SpMV", "pe": "PE",
    "elementwise_activation": "Activation", "elementwise": "Slice", "tile": "Tile",
    "openese_core_array": "PEArray", "openese_core_assemble": "Assemble", "openese_core_broadcast": "Broadcast",
    "openese_core_controller": "Controller", "openese_core_frame_input": "FrameInput",
    "openese_core_frame_output": "FrameOutput", "openese_core_state": "StateAccess",
    "openese_core_vectors": "VectorMemory", "openese_core_fetch": "StreamFetch", "openese_core": "Core",
    "openese_loader": "Loader", "openese_reader": "StreamReader", "openese_bus": "AXI4LiteSubordinate",
    "openese_guard": "FrameGuard", "openese": "Top",
}


class SynthesisError(Exception):
    """Yosys does not take the Verilog, or maps it to a cell that is not known here."""


@dataclass(frozen=True)
class Family:
    """FPGAs that are synthesized for in the same way.

    Attributes
    ----------
    commands : tuple of str
        Of Yosys, where ``{wide_mux}`` is the file `WIDE_MUX`.
    products : tuple of str
        Of Yosys, for modules that multiply.
    resources : dict
        What each cell takes: resource and number.
    logic : dict
        Levels of logic of the cells through which signals pass: 1 for a LUT or a LUT's memory, else 0.
    chains : frozenset of str
        Cells of carry chains.
    chain_inputs : frozenset of str
        Their inputs from the cell before.
    """

    commands: tuple[str, ...]
    products: tuple[str, ...]
    resources: dict[str, dict[str, float]]
    logic: dict[str, int]
    chains: frozenset[str]
    chain_inputs: frozenset[str]


_LUTS = {f"LUT{inputs}": 1 for inputs in range(1, 7)}
_XILINX_RAMS = {"RAM32M16": 8, "RAM64M8": 8, "RAM32M": 4, "RAM64M": 4, "RAM32X1D": 2, "RAM64X1D": 2, "RAM128X1D": 4,
                "RAM256X1D": 8, "RAM512X1S": 8, "RAM256X1S": 4, "RAM128X1S": 2, "RAM64X1S": 1, "RAM32X1S": 1}

#: Takes apart what Yosys would take too long for.
WIDE_MUX = Path(__file__).with_name("wide_mux.v")
_XILINX = "synth_xilinx -family xcu -noiopad -noclkbuf -widemux 5"
_XCU = (f"{_XILINX} -top top -run begin:map_dsp", "techmap -map {wide_mux}", f"{_XILINX} -run map_dsp:")
# What synth_xilinx does at map_dsp for the 7 series.
_XC7_DSP = (
    "memory_dff", "alumacc -macc-only", "maccmap -unmap", "opt_clean",
    "techmap -map +/mul2dsp.v -map +/xilinx/xc7_dsp_map.v -D DSP_A_MAXWIDTH=25 -D DSP_B_MAXWIDTH=18"
    " -D DSP_A_MAXWIDTH_PARTIAL=18 -D DSP_A_MINWIDTH=2 -D DSP_B_MINWIDTH=2 -D DSP_Y_MINWIDTH=9 -D DSP_SIGNEDONLY=1"
    " -D DSP_NAME=$__MUL25X18",
    "select a:mul2dsp", "setattr -unset mul2dsp", "opt_expr -fine", "wreduce", "select -clear",
    "xilinx_dsp -family xc7", "chtype -set $mul t:$__soft_mul")
_ULTRASCALE = Family(
    _XCU, _XCU,
    {**{cell: {"LUT": 1} for cell in (*_LUTS, "INV")},
     **{cell: {"LUT": luts, "LUTRAM": luts} for cell, luts in _XILINX_RAMS.items()},
     **{cell: {"LUT": 1, "LUTRAM": 1} for cell in ("SRL16E", "SRLC32E")},
     **{cell: {"FF": 1} for cell in ("FDRE", "FDSE", "FDCE", "FDPE")},
     **{cell: {} for cell in ("CARRY4", "CARRY8", "MUXF7", "MUXF8", "MUXF9", "VCC", "GND")},
     "RAMB18E2": {"BRAM": 0.5}, "RAMB36E2": {"BRAM": 1}, "DSP48E2": {"DSP": 1}, "DSP48E1": {"DSP": 1}},
    {**_LUTS, **dict.fromkeys(_XILINX_RAMS, 1), **dict.fromkeys(("SRL16E", "SRLC32E"), 0), "INV": 0,
     **dict.fromkeys(("CARRY4", "CARRY8", "MUXF7", "MUXF8", "MUXF9", "DSP48E2"), 0)},
    frozenset({"CARRY4", "CARRY8"}), frozenset({"CI"}))
_ECP5 = (*SYNTHESIS[:-1], f"{SYNTHESIS[-1]} -top top")

FAMILIES = {
    "xcu": _ULTRASCALE,
    # A DSP48E1 that is packed begins and ends paths: its registers are in it.
    "xcu_dsp": replace(_ULTRASCALE, products=(*_XCU[:-1], *_XC7_DSP, f"{_XILINX} -run coarse:")),
    "ecp5": Family(
        _ECP5, _ECP5,
        {"LUT4": {"LUT": 1}, "CCU2C": {"LUT": 2}, "PFUMX": {}, "L6MUX21": {}, "TRELLIS_FF": {"FF": 1},
         # Two of a PFU's four slices hold the memory, a third writes it.
         "TRELLIS_DPR16X4": {"LUT": 6, "LUTRAM": 6}, "DP16KD": {"BRAM": 1}, "PDPW16KD": {"BRAM": 1},
         "MULT18X18D": {"DSP": 1}, "VCC": {}, "GND": {}},
        {"LUT4": 1, "PFUMX": 0, "L6MUX21": 0, "CCU2C": 0, "TRELLIS_DPR16X4": 1, "MULT18X18D": 0},
        frozenset({"CCU2C"}), frozenset({"CIN"})),
}


Module = dict[str, Any]

_KEPT = 1000  # netlists in the cache


def estimate(config: Config, family: str) -> dict[str, Any]:
    """Resources and logic depth of a machine. What was synthesized before is not synthesized again.

    Parameters
    ----------
    config : Config
    family : str
        A key of `FAMILIES`.

    Returns
    -------
    dict
        ``blocks``: by block, ``instances`` and what one of them takes: ``LUT``, of which ``LUTRAM``, ``FF``, ``BRAM``,
        ``DSP``.
        ``total``: what the machine takes.
        ``depth``: by unit (PE, Slice, Tile and the rest), between any two registers, the most ``luts`` and the most
        ``chains`` of carries on a path.

    Raises
    ------
    SynthesisError
    """
    text = verilog(config)
    found = FAMILIES[family]
    netlist = _netlist(text, found)
    counts = _instances(netlist)
    blocks: dict[str, Counter[str]] = defaultdict(Counter)
    total: Counter[str] = Counter()
    for name, number in counts.items():
        for resource, taken in _resources(netlist[name], netlist, found).items():
            blocks[_block(name)][resource] += taken * number
            total[resource] += taken * number
    instances = {block: counts.get(prefix, 1) for prefix, block in BLOCKS.items()}
    depths: dict[str, _Depths] = {}
    for unit in (*re.findall(r"(?m)^module (\w+)\([^;]*;\n  /\* verilator no_inline_module", text), TOP):
        depths[unit] = _Depths(netlist, unit, found, depths)
        if unit != TOP and depths[unit].combinational:
            raise SynthesisError(f"module {unit}: an output follows an input without a register between them")
    return {
        "blocks": {block: {"instances": instances[block], **{
            resource: _plain(number / instances[block]) for resource, number in sorted(blocks[block].items())}}
            for block in BLOCKS.values() if block in blocks},
        "total": {resource: _plain(number) for resource, number in sorted(total.items())},
        "depth": {_block(unit): found.worst() for unit, found in depths.items()},
    }


def _plain(number: float) -> float:
    return int(number) if number == int(number) else round(number, 3)


_SCRIPT = """
import sys
from pyosys import libyosys
design = libyosys.Design()
for line in sys.stdin.read().splitlines():
    libyosys.run_pass("tee -q " + line, design)
"""


def _netlist(text: str, family: Family) -> dict[str, Module]:
    """The mapped modules by name, memories flattened into those that they are in."""
    sources = {match[1]: match[0]
               for match in re.finditer(r"(?ms)^module (\w+) ?\(.*?^endmodule", without_zeros(text))}
    found = {}
    for name, source in sources.items():
        if name.startswith("memory_"):
            continue
        below = [other for other in sources if re.search(rf"(?m)^  {other} \\?\S+ +\(", source)]
        parts = [sources[other] if other.startswith("memory_") else _ports(sources[other]) for other in below]
        commands = family.products if re.search(r" \* ", source) else family.commands
        key = build.digest([WIDE_MUX], source, *parts, *commands, _SCRIPT, version("pyosys")) + ".netlist"

        def make(folder: Path, name: str = name, commands: Iterable[str] = commands) -> Path:
            (folder / "netlist.json").write_text(json.dumps(_mapped(name, sources, commands)))
            return folder / "netlist.json"

        found[name] = json.loads(build.kept(key, make, _KEPT).read_text())
    return found


def _ports(source: str) -> str:
    """The beginning of a module, which says what its ports are."""
    return re.match(r"(?s)module .*?;\n", source)[0]  # type: ignore[index]


def _mapped(name: str, sources: dict[str, str], commands: Iterable[str]) -> Module:
    """A module, synthesized by itself; what is in it stays outside. Yosys reads the others too, and its numbering of
    names, which breaks ties, follows them: a level or a few LUTs may differ with what they are."""
    outside = [other for other in sources if other != name and not other.startswith("memory_")]
    # Below another that nothing is connected to: a top would get buffers for clocks.
    top = f"module top;\n  (* keep *) {name} {name}_ ();\nendmodule"
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "source.v"), Path(folder, "netlist.json")
        source.write_text("\n".join([*sources.values(), top]))
        lines = [
            f"read_verilog -sv {source}", *(f"blackbox {name}" for name in outside), "hierarchy -top top",
            f"setattr -mod -set keep_hierarchy 1 {name}",
            # Memories are modules of their own, whose ports can only be shared where it is seen what is at them.
            "proc", "flatten -noscopeinfo", *(line.replace("{wide_mux}", str(WIDE_MUX)) for line in commands),
            f"write_json {target}"]
        done = subprocess.run([sys.executable, "-c", _SCRIPT], input="\n".join(lines), text=True, capture_output=True)
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines()
            raise SynthesisError(f"Yosys failed on {name}: {said[-1] if said else done.returncode}")
        module = json.loads(target.read_text())["modules"][name]
    return {part: module[part] for part in ("ports", "cells")}


def _instances(netlist: dict[str, Module]) -> Counter[str]:
    """How many there are of each module."""
    counts: Counter[str] = Counter()

    def visit(name: str, number: int) -> None:
        counts[name] += number
        for below, times in Counter(cell["type"] for cell in netlist[name]["cells"].values()).items():
            if below in netlist:
                visit(below, number * times)

    visit(TOP, 1)
    return counts


def _resources(module: Module, modules: Container[str], family: Family) -> Counter[str]:
    """What the cells of a module take, without those of the modules in it."""
    taken: Counter[str] = Counter()
    for name, number in Counter(cell["type"] for cell in module["cells"].values()).items():
        if name in modules:
            continue
        if name not in family.resources:
            raise SynthesisError(f"cell {name} is not known")
        for resource, each in family.resources[name].items():
            taken[resource] += each * number
    return taken


def _block(module: str) -> str:
    """The block that a module belongs to."""
    for prefix in sorted(BLOCKS, key=len, reverse=True):
        if module == prefix or module.startswith(f"{prefix}_"):
            return BLOCKS[prefix]
    raise SynthesisError(f"module {module} belongs to no known block")


#: Pins of a LUT's memory that its outputs follow at once.
_READ_ADDRESS = ("ADDR", "DPRA", "RAD")


@dataclass(frozen=True)
class _Arc:
    """A cell through which signals pass: its input and output bits, and the levels that it adds."""

    sources: list[int]
    sinks: list[int]
    luts: int
    chains: int


class _Depths:
    """The most LUTs, and the most carry chains, in front of and behind every bit of a module and of those in it.

    ``units`` are those of the modules that are not looked into again; only registers may stand between their ports.
    """

    def __init__(self, netlist: dict[str, Module], top: str, family: Family, units: dict[str, "_Depths"]) -> None:
        self._arrival: dict[int, tuple[int, int]] = defaultdict(lambda: (0, 0))
        self._departure: dict[int, tuple[int, int]] = defaultdict(lambda: (0, 0))
        numbers = count()
        cells: list[Module] = []

        def flatten(name: str, outside: dict[int, int]) -> dict[int, int]:
            inside: dict[int, int] = defaultdict(lambda: next(numbers), outside)
            for cell in netlist[name]["cells"].values():
                pins = {pin: [inside[bit] for bit in bits if isinstance(bit, int)]
                        for pin, bits in cell["connections"].items()}
                if cell["type"] in netlist and cell["type"] not in units:
                    flatten(cell["type"], {
                        inner: inside[bit] for pin, bits in cell["connections"].items()
                        for inner, bit in zip(netlist[cell["type"]]["ports"][pin]["bits"], bits, strict=True)
                        if isinstance(bit, int) and isinstance(inner, int)})
                elif cell["type"] in units:
                    self._place(cell, inside, units[cell["type"]])
                elif cell["type"] in family.logic:
                    cells.append({**cell, "connections": pins})
            return inside

        bits = flatten(top, {})
        self.ports = {pin: [bits[bit] if isinstance(bit, int) else None for bit in port["bits"]]
                      for pin, port in netlist[top]["ports"].items()}
        directions = {pin: port["direction"] for pin, port in netlist[top]["ports"].items()}
        carries = {bit for cell in cells if cell["type"] in family.chains
                   for pin, found in cell["connections"].items() if cell["port_directions"][pin] == "output"
                   for bit in found}
        arcs = _sorted([arc for cell in cells for arc in _arcs(cell, family, carries)])
        follows = {bit for pin, found in self.ports.items() if directions[pin] == "input" for bit in found}
        for arc in arcs:
            if not follows.isdisjoint(arc.sources):
                follows.update(arc.sinks)
            luts, chains = _most(self._arrival[bit] for bit in arc.sources)
            for bit in arc.sinks:
                self._arrival[bit] = _most([self._arrival[bit], (luts + arc.luts, chains + arc.chains)])
        self.combinational = any(bit in follows and bit is not None for pin, found in self.ports.items()
                                 if directions[pin] == "output" for bit in found)
        for arc in reversed(arcs):
            luts, chains = _most(self._departure[bit] for bit in arc.sinks)
            for bit in arc.sources:
                self._departure[bit] = _most([self._departure[bit], (luts + arc.luts, chains + arc.chains)])

    def _place(self, cell: Module, inside: dict[int, int], unit: "_Depths") -> None:
        """Begins and ends paths at the ports of a unit."""
        for pin, bits in cell["connections"].items():
            for outer, inner in zip(bits, unit.ports[pin], strict=True):
                if not isinstance(outer, int) or inner is None:
                    continue
                bit = inside[outer]
                if cell["port_directions"][pin] == "output":
                    self._arrival[bit] = _most([self._arrival[bit], unit._arrival[inner]])
                else:
                    self._departure[bit] = _most([self._departure[bit], unit._departure[inner]])

    def worst(self) -> dict[str, int]:
        """The most LUTs and the most chains of any path."""
        bits = {*self._arrival, *self._departure}
        through = [(self._arrival[bit], self._departure[bit]) for bit in bits]
        luts, chains = _most((before[0] + behind[0], before[1] + behind[1]) for before, behind in through)
        return {"luts": luts, "chains": chains}


def _most(levels: Iterable[tuple[int, ...]]) -> tuple[int, int]:
    """LUTs and chains, each the most of all."""
    found = list(levels)
    return max((luts for luts, _ in found), default=0), max((chains for _, chains in found), default=0)


def _arcs(cell: Module, family: Family, carries: set[int]) -> list[_Arc]:
    """A cell's ways from inputs to outputs."""
    ways: dict[str, list[int]] = {"input": [], "output": []}
    linked = []
    memory = cell["type"].startswith(("RAM", "TRELLIS_DPR"))
    for pin, bits in cell["connections"].items():
        direction = cell["port_directions"][pin]
        single = cell["type"].endswith("X1S") and pin.startswith("A")  # one address, to read and to write
        if memory and direction == "input" and not (single or pin.startswith(_READ_ADDRESS)):
            continue
        found = [bit for bit in bits if isinstance(bit, int)]
        if direction == "input" and cell["type"] in family.chains and pin in family.chain_inputs:
            linked += [bit for bit in found if bit in carries]
            found = [bit for bit in found if bit not in carries]
        ways[direction] += found
    luts, chain = family.logic[cell["type"]], int(cell["type"] in family.chains)
    return [_Arc(sources, ways["output"], luts, chains)
            for sources, chains in ((ways["input"], chain), (linked, 0)) if sources]


def _sorted(arcs: list[_Arc]) -> list[_Arc]:
    """The arcs, each behind those that drive it."""
    drivers: dict[int, list[int]] = defaultdict(list)
    for number, arc in enumerate(arcs):
        for bit in arc.sinks:
            drivers[bit].append(number)
    sorter = TopologicalSorter({number: {driver for bit in arc.sources for driver in drivers.get(bit, ())}
                                for number, arc in enumerate(arcs)})
    try:
        return [arcs[number] for number in sorter.static_order()]
    except CycleError:
        raise SynthesisError("a loop of logic without a register") from None


# -- baselines --------------------------------------------------------------------------------------------------------

#: What `--update` makes baselines of, where nothing else is asked for: presets by family.
MEASURED = {"xcu": ("tiny", "demo", "ese", "ese_stream", "ku060"), "xcu_dsp": ("ese", "ese_stream"),
            "ecp5": ("tiny", "ulx3s")}
#: By how much a figure may differ from its baseline: a share of it, and a number.
TOLERANCES = {"LUT": (0.03, 8), "LUTRAM": (0.03, 8), "FF": (0.03, 8), "BRAM": (0, 0), "DSP": (0, 0), "luts": (0, 0),
              "chains": (0, 0)}
BASELINES = Path(__file__).resolve().parents[2] / "tests" / "baselines" / "synth.json"


class Change(NamedTuple):
    """A figure that differs from its baseline by more than it may."""

    part: str
    figure: str
    before: float
    now: float


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[Change]:
    """Figures of `estimate` that differ by more than their tolerance, those of the whole machine first."""
    found = []
    for kind in ("total", "depth", "blocks"):
        olds, news = ({"machine": found[kind]} if kind == "total" else found[kind] for found in (before, now))
        for part in dict.fromkeys([*news, *olds]):
            old, new = olds.get(part, {}), news.get(part, {})
            for figure, (share, number) in TOLERANCES.items():
                was, is_now = old.get(figure, 0), new.get(figure, 0)
                if abs(is_now - was) > max(share * was, number):
                    found.append(Change(f"{part} (depth)" if kind == "depth" else part, figure, was, is_now))
    return found


def table(name: str, family: str, figures: dict[str, Any]) -> Table:
    """The figures of a machine, block by block."""
    config = PRESETS[name]
    shown = Table(title=f"{name}, {family}: {config.pes} x {config.channels} multipliers")
    columns = ("LUT", "LUTRAM", "FF", "BRAM", "DSP")
    for heading in ("block", "instances", *columns, "LUT levels", "carry chains"):
        shown.add_column(heading, justify="left" if heading == "block" else "right")
    for block, taken in figures["blocks"].items():
        depth = figures["depth"].get(block, {})
        shown.add_row(block, str(taken["instances"]), *(f"{taken.get(column, 0):,}" for column in columns),
                      str(depth.get("luts", "")), str(depth.get("chains", "")))
    shown.add_section()
    total = figures["total"]
    shown.add_row("all", "", *(f"{total.get(column, 0):,}" for column in columns), "", "")
    each = (f"{total.get(column, 0) / config.multipliers:.2f}" for column in columns)
    shown.add_row("a multiplier", "", *each, "", "")
    return shown


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(sorted(PRESETS)))
@click.option("--family", type=click.Choice(list(FAMILIES)), help="Only this one.")
@click.option("--update", is_flag=True, help="Make what is found the baseline.")
def main(names: tuple[str, ...], family: str | None, update: bool) -> None:
    """Estimate what presets NAMES, or all that have a baseline, take of an FPGA, and compare with the baselines."""
    console = Console(width=110)
    baselines = json.loads(BASELINES.read_text()) if BASELINES.exists() else {}
    grown: list[tuple[str, Change]] = []
    for kind in (family,) if family else FAMILIES:
        for name in names or (MEASURED[kind] if update else baselines.get(kind, ())):
            with Console(stderr=True).status(f"synthesizing {name} for {kind}"):
                figures = estimate(PRESETS[name], kind)
            console.print(table(name, kind, figures))
            if update:
                baselines.setdefault(kind, {})[name] = figures
            elif name in baselines.get(kind, {}):
                grown += [(f"{name}, {kind}", change) for change in changes(baselines[kind][name], figures)]
    if update:
        BASELINES.parent.mkdir(exist_ok=True)
        BASELINES.write_text(json.dumps(baselines, indent=1) + "\n")
    if grown:
        shown = Table(title="beyond tolerance; `python -m openese.sim.synthesis.estimate --update` if it is meant")
        for heading in ("machine", "part", "figure", "baseline", "now"):
            shown.add_column(heading)
        for machine, change in grown:
            shown.add_row(machine, change.part, change.figure, f"{change.before:,}", f"{change.now:,}")
        console.print(shown)
        sys.exit(1)


if __name__ == "__main__":
    main()
