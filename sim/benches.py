# SPDX-License-Identifier: Apache-2.0
"""Runs cocotb benches from pytest, on the emitted Verilog or on the netlist after synthesis.

The cache of `build` keeps the simulators. A bench that fails raises an error with its message; cocotb's own runner
would end the process.
"""

import dataclasses
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from unittest import mock
from xml.etree import ElementTree

import find_libpython
from cocotb import __version__ as cocotb_version
from cocotb_tools.runner import Runner, get_runner

from openese.rtl.config import Config
from openese.sim import build, verilator
from openese.sim.synthesis.netlist import netlist

__all__ = ["CONFIG", "BenchFailure", "run"]

CONFIG = "OPENESE_CONFIG"  # environment variable: the machine's configuration, for the bench

# Data-flow optimization of a netlist takes longer than the rest of its build.
_OPTIONS = ("--no-public-flat-rw", "--x-initial", "unique", "-Wno-fatal", "-Wno-lint", "-fno-dfg")
# The build and Python take most of the time, the machine little.
_OPTIMIZE = "OPT_FAST=-O0 OPT_GLOBAL=-O1"


class BenchFailure(AssertionError):
    """Benches fail. The message lists them, with theirs."""


def run(module: str, config: Config, folder: Path, *, seed: int = 1, log: Path | None = None, top: str = build.TOP,
        family: str | None = None) -> None:
    """Run all benches of a module on one machine.

    Parameters
    ----------
    module : str
        Importable name of the module with the ``cocotb.test`` functions.
    config : Config
        The machine.
    folder : Path
        For the results, and for ``dump.vcd`` if the environment variable ``WAVES`` is 1.
    seed : int
        Seeds everything random in the benches.
    log : Path, optional
        File for cocotb's output; without it, the output is printed.
    top : str
        Module that the benches drive: the machine, or a block of it.
    family : str, optional
        A key of `openese.sim.synthesis.families.FAMILIES`: run the netlist after synthesis for this family, not the
        emitted Verilog.

    Raises
    ------
    BenchFailure
        A bench fails.
    openese.sim.verilator.ToolError
        A tool is missing, or refuses the Verilog.
    """
    if not find_libpython.find_libpython():
        raise verilator.ToolError("cocotb needs Python as a shared library: apt install libpython3-dev")
    runner = get_runner("verilator")
    results = folder / "results.xml"
    try:
        runner.test(module, hdl_toplevel=top, hdl_toplevel_lang="verilog",
                    build_dir=_built(runner, _sources(config, top, family), top, log), test_dir=folder,
                    results_xml=str(results), seed=seed, log_file=log,
                    extra_env={CONFIG: json.dumps(dataclasses.asdict(config))})
    except SystemExit:
        pass  # the results say why, or are missing
    failures = _failures(results)
    if failures:
        raise BenchFailure(f"seed {seed}: " + "\n".join(failures))


def _sources(config: Config, top: str, family: str | None) -> list[Path]:
    if family is None:
        return [build.emitted(config)]
    return netlist(config, family, top)


def _ports(sources: Sequence[Path], top: str) -> str:
    """Text of a control file for Verilator that makes the ports public, which is all that the benches need.

    By default cocotb makes every signal public. That doubles the build and slows the run.
    """
    text = next(match[1] for source in sources
                if (match := re.search(rf"(?ms)^module {top}\((.*?)\);", source.read_text())))
    names = re.findall(r"[A-Za-z_]\w*", text)
    return "\n".join(["`verilator_config", *(f'public_flat_rw -module "{top}" -var "{name}"' for name in names)]) + "\n"


def _built(runner: Runner, sources: Sequence[Path], top: str, log: Path | None) -> Path:
    """The folder of the simulator of module ``top``."""
    tool = verilator.find()
    ports = _ports(sources, top)
    waves = os.environ.get("WAVES") == "1"

    def make(folder: Path) -> Path:
        verilator.check_programs()
        with mock.patch.dict(os.environ, tool.environment):
            os.environ["MAKEFLAGS"] = f"{os.environ.get('MAKEFLAGS', '')} {_OPTIMIZE}".strip()
            control = folder / "ports.vlt"
            control.write_text(ports)
            with build.runtime(folder, tool.version, cocotb_version, str(waves), *_OPTIONS, _OPTIMIZE):
                runner.build(sources=[control, *sources], hdl_toplevel=top, build_dir=folder, waves=waves,
                             timescale=("1ns", "1ps"), build_args=_OPTIONS, log_file=log)
        program = folder / "program"
        program.mkdir()
        return (folder / top).rename(program / top).parent

    key = build.digest(sources, ports, tool.version, cocotb_version, str(waves), *_OPTIONS, _OPTIMIZE)
    return build.kept(f"{key}.cocotb", make)


def _failures(results: Path) -> list[str]:
    if not results.exists():
        return ["the simulation ended without results"]
    cases = list(ElementTree.parse(results).iter("testcase"))
    if not cases:
        return ["there is no bench"]
    return [f"{case.get('name')}: {fault.get('type')}: {fault.get('message')}"
            for case in cases for fault in [*case.findall("failure"), *case.findall("error")]]
