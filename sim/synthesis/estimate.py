# SPDX-License-Identifier: Apache-2.0
"""The resources, the logic depth and the fan-out of a machine on an FPGA, as Yosys estimates them, block by block.

Each module of the emitted Verilog is synthesized once, with its hierarchy kept, and counted for each of its instances.
Yosys packs neither two small LUTs into one nor logic across modules, so the counts are higher than after place and
route. It cannot pack registers and adders into UltraScale's multipliers, but it can for the 7 series. Family
``xcu_dsp`` is ``xcu`` with DSP48E1 of the 7 series in the place of DSP48E2, which has all features of DSP48E1.
"""

import json
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Collection, Container, Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from openese.rtl.config import PRESETS, Config
from openese.rtl.emit import without_zeros
from openese.rtl.verilog import TOP, verilog
from openese.sim import build
from openese.sim.synthesis import yosys
from openese.sim.synthesis.baselines import MEASURED, Baselines, Change
from openese.sim.synthesis.depth import Depths
from openese.sim.synthesis.families import FAMILIES, Family
from openese.sim.synthesis.fanout import KINDS, Net, nets
from openese.sim.synthesis.yosys import Module, SynthesisError

__all__ = ["BLOCKS", "estimate", "loads", "report", "synthesized", "table"]

#: Blocks of a machine by the beginnings of their modules' names, longest first where one begins as another.
BLOCKS = {
    "pe_ptr_read": "PtrRead", "pe_act_queue": "ActQueue", "pe_spmat_read": "SpmatRead", "pe_spmv": "SpMV", "pe": "PE",
    # Of some machines: a PtrRead of a tile, and PEs with their weights in UltraRAM.
    "ptr_read": "PtrRead", "ultra_pe_ptr_read": "PtrRead", "ultra_pe_act_queue": "ActQueue",
    "ultra_pe_spmat_read": "SpmatRead", "ultra_pe_spmv": "SpMV", "ultra_pe": "PE",
    "elementwise_activation": "Activation", "elementwise": "Slice", "tile": "Tile",
    "openese_core_array": "PEArray", "openese_core_assemble": "Assemble", "openese_core_broadcast": "Broadcast",
    "openese_core_controller": "Controller", "openese_core_frame_input": "FrameInput",
    "openese_core_frame_output": "FrameOutput", "openese_core_state": "StateAccess",
    "openese_core_vectors": "VectorMemory", "openese_core_fetch": "StreamFetch", "openese_core": "Core",
    "openese_loader": "Loader", "openese_reader": "StreamReader", "openese_bus": "AXI4LiteSubordinate",
    "openese_guard": "FrameGuard", "openese_watchdog": "Watchdog", "openese": "Top",
}


_KEPT = 1000  # netlists in the cache
_LARGEST = 12  # nets that a report names


def estimate(config: Config, family: str) -> dict[str, Any]:
    """Resources, logic depth and fan-out of a machine.

    Netlists are cached: an unchanged module is not synthesized again.

    Parameters
    ----------
    config : Config
    family : str
        A key of `FAMILIES`.

    Returns
    -------
    dict
        ``blocks``: by block, the number of ``instances``, and for one of them the numbers of ``LUT`` (``LUTRAM`` are
        among these), ``FF``, ``BRAM`` (of 36 Kb), ``URAM`` and ``DSP``.
        ``total``: the same numbers for the machine.
        ``depth``: by block, the most ``luts`` and the most carry ``chains`` on a path that ends in it. A path begins
        and ends at registers and pins.
        ``fanout``: by block, the most loads of a net that a ``register`` there drives, and of a net that ``logic``
        drives; for the machine as a whole, those of a ``pin``.
        ``nets``: block, name, kind and loads of the nets with the most loads.

    Raises
    ------
    SynthesisError
        Yosys is missing or refuses the Verilog; a cell or a module is not known here; an output of a unit follows an
        input without a register between them.
    """
    text = verilog(config)
    target = FAMILIES[family]
    netlist = _netlist(text, target)
    counts = _instances(netlist)
    blocks: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    total: dict[str, float] = defaultdict(float)
    for name, number in counts.items():
        for resource, taken in _resources(netlist[name], netlist, target).items():
            blocks[_block(name)][resource] += taken * number
            total[resource] += taken * number
    instances: Counter[str] = Counter()
    for prefix, block in BLOCKS.items():
        instances[block] += counts[prefix]
    depths: dict[str, Depths] = {}
    for unit in (*re.findall(r"(?m)^module (\w+)\([^;]*;\n  /\* verilator no_inline_module", text), TOP):
        depths[unit] = Depths(netlist, unit, target, depths, _block)
        if unit != TOP and depths[unit].combinational:
            raise SynthesisError(f"module {unit}: an output follows an input without a register between them")
    depth: dict[str, dict[str, int]] = defaultdict(lambda: {"luts": 0, "chains": 0})
    for levels in depths.values():
        for block, (luts, chains) in levels.ends.items():
            depth[block] = {"luts": max(luts, depth[block]["luts"]), "chains": max(chains, depth[block]["chains"])}
    driven = nets(netlist, TOP, target, _block)
    return {
        "blocks": {block: {"instances": instances[block], **{
            resource: _plain(number / instances[block]) for resource, number in sorted(blocks[block].items())}}
            for block in BLOCKS.values() if block in blocks},
        "total": {resource: _plain(number) for resource, number in sorted(total.items())},
        "depth": {block: depth[block] for block in BLOCKS.values() if block in depth},
        "fanout": _fanout(driven),
        "nets": [list(net) for net in driven[:_LARGEST]],
    }


def synthesized(config: Config, family: str, names: Collection[str]) -> dict[str, dict[str, float]]:
    """As ``blocks`` of `estimate`, of one instance of each of the blocks ``names``, without ``instances``. The other
    blocks are not synthesized. The modules of a block must be in it once each."""
    target, text = FAMILIES[family], verilog(config)
    modules = set(re.findall(r"(?m)^module (\w+)", text))
    found: dict[str, dict[str, float]] = {name: defaultdict(float) for name in names}
    for name, module in _netlist(text, target, names).items():
        for resource, taken in _resources(module, modules, target).items():
            found[_block(name)][resource] += taken
    return {name: {resource: _plain(number) for resource, number in sorted(taken.items())}
            for name, taken in found.items()}


def _fanout(driven: Iterable[Net]) -> dict[str, dict[str, int]]:
    """The most loads of the nets of each block, by what drives them."""
    most: dict[str, dict[str, int]] = {block: {} for block in BLOCKS.values()}
    for net in driven:
        most[net.block].setdefault(net.kind, net.loads)
    return {block: {kind: found[kind] for kind in KINDS if kind in found} for block, found in most.items() if found}


def _plain(number: float) -> float:
    return int(number) if number == int(number) else round(number, 3)


def _netlist(text: str, family: Family, blocks: Collection[str] = tuple(BLOCKS.values())) -> dict[str, Module]:
    """The mapped modules by name, of some blocks. Memories are flattened into the modules that use them."""
    sources = {match[1]: match[0]
               for match in re.finditer(r"(?ms)^module (\w+) ?\(.*?^endmodule", without_zeros(text))}
    modules = {}
    for name, source in sources.items():
        if name.startswith("memory_") or _block(name) not in blocks:
            continue
        below = [other for other in sources if re.search(rf"(?m)^  {other} \\?\S+ +\(", source)]
        parts = [sources[other] if other.startswith("memory_") else _ports(sources[other]) for other in below]
        script = family.script("top", multiplies=" * " in source)
        key = build.digest([yosys.WIDE_MUX], source, *parts, *script, yosys.SCRIPT, yosys.release()) + ".named.netlist"

        def make(folder: Path, name: str = name, script: Sequence[str] = script) -> Path:
            (folder / "netlist.json").write_text(json.dumps(_mapped(name, sources, script)))
            return folder / "netlist.json"

        modules[name] = json.loads(build.kept(key, make, _KEPT).read_text())
    return modules


def _ports(source: str) -> str:
    """The beginning of a module, with its ports."""
    return source[:source.index(";\n") + 2]


def _mapped(name: str, sources: dict[str, str], script: Sequence[str]) -> Module:
    """A module, synthesized by itself; the modules in it become black boxes.

    Yosys reads the other modules too. It breaks ties by its numbering of names, which depends on them, so a level or
    a few LUTs may differ when another module changes.
    """
    outside = [other for other in sources if other != name and not other.startswith("memory_")]
    # Yosys would put clock buffers into a top, so the module is the only instance in another, without connections.
    top = f"module top;\n  (* keep *) {name} {name}_ ();\nendmodule"
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "source.v"), Path(folder, "netlist.json")
        source.write_text("\n".join([*sources.values(), top]))
        yosys.run([
            f"read_verilog -sv {source}", *(f"blackbox {other}" for other in outside), "hierarchy -top top",
            f"setattr -mod -set keep_hierarchy 1 {name}",
            # Memories are modules of their own; Yosys can share a port only where it sees the logic at the port.
            "proc", "flatten -noscopeinfo", *script, f"write_json {target}"], name)
        module = json.loads(target.read_text())["modules"][name]
    names: dict[int, str] = {}
    for net, found in module["netnames"].items():
        if not found["hide_name"]:
            names.update({bit: f"{net}[{index}]" if len(found["bits"]) > 1 else net
                          for index, bit in enumerate(found["bits"]) if bit not in names})
    return {"ports": module["ports"], "cells": module["cells"], "names": names}


def _instances(netlist: dict[str, Module]) -> Counter[str]:
    """The number of instances of each module."""
    counts: Counter[str] = Counter()

    def visit(name: str, number: int) -> None:
        counts[name] += number
        for below, times in Counter(cell["type"] for cell in netlist[name]["cells"].values()).items():
            if below in netlist:
                visit(below, number * times)

    visit(TOP, 1)
    return counts


def _resources(module: Module, modules: Container[str], family: Family) -> dict[str, float]:
    """The resources of a module's cells, without those of the modules in it."""
    taken: dict[str, float] = defaultdict(float)
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


def table(config: Config, family: str, figures: dict[str, Any]) -> Table:
    """The figures of a machine, block by block."""
    shown = Table(title=f"{config.name}, {family}: {config.pes} x {config.channels} multipliers")
    columns = ("LUT", "LUTRAM", "FF", "BRAM", *(["URAM"] if "URAM" in figures["total"] else []), "DSP")
    driven = (f"loads: {kind}" for kind in KINDS)
    for heading in ("block", "instances", *columns, "LUT levels", "carry chains", *driven):
        shown.add_column(heading, justify="left" if heading == "block" else "right")
    for block, taken in figures["blocks"].items():
        depth, fanout = figures["depth"].get(block, {}), figures["fanout"].get(block, {})
        shown.add_row(block, str(taken["instances"]), *(f"{taken.get(column, 0):,}" for column in columns),
                      str(depth.get("luts", "")), str(depth.get("chains", "")),
                      *(f"{fanout[kind]:,}" if kind in fanout else "" for kind in KINDS))
    shown.add_section()
    total = figures["total"]
    shown.add_row("all", "", *(f"{total.get(column, 0):,}" for column in columns))
    each = (f"{total.get(column, 0) / config.multipliers:.2f}" for column in columns)
    shown.add_row("a multiplier", "", *each)
    return shown


def loads(config: Config, family: str, figures: dict[str, Any]) -> Table:
    """The nets of a machine with the most loads."""
    shown = Table(title=f"{config.name}, {family}: largest fan-outs")
    for heading in ("block of the driver", "net", "driver", "loads"):
        shown.add_column(heading, justify="right" if heading == "loads" else "left")
    for block, name, kind, number in figures["nets"]:
        shown.add_row(block, name, kind, f"{number:,}")
    return shown


def report(configs: Sequence[Config] = (), families: Sequence[str] = (), *, update: bool = False) -> bool:
    """Estimate machines, print their figures, and compare presets with their baselines.

    Parameters
    ----------
    configs : sequence of Config
        Left out: every preset that has a baseline.
    families : sequence of str
        Keys of `FAMILIES`. Left out: all.
    update : bool
        Make the figures the baselines.

    Returns
    -------
    bool
        Whether all figures are within tolerance; those that are not are printed.

    Raises
    ------
    SynthesisError
        As `estimate`.
    ValueError
        ``update`` for a machine that is not a preset, or outside of a checkout.
    """
    console = Console(width=140)
    baselines = Baselines()
    grown: list[tuple[str, Change]] = []
    for family in families or FAMILIES:
        presets = MEASURED[family] if update else baselines.machines(family)
        for config in configs or [PRESETS[name] for name in presets]:
            with Console(stderr=True).status(f"synthesizing {config.name} for {family}"):
                figures = estimate(config, family)
            console.print(table(config, family, figures), loads(config, family, figures))
            if update:
                baselines.update(config, family, figures)
            else:
                grown += [(f"{config.name}, {family}", change)
                          for change in baselines.changes(config, family, figures)]
    if grown:
        shown = Table(title="beyond tolerance; `openese synth --update` makes these figures the baselines")
        for heading in ("machine", "part", "figure", "baseline", "now"):
            shown.add_column(heading)
        for machine, change in grown:
            shown.add_row(machine, change.part, change.figure, f"{change.before:,}", f"{change.now:,}")
        console.print(shown)
    return not grown
