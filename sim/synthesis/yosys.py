# SPDX-License-Identifier: Apache-2.0
"""Runs Yosys, as the package pyosys carries it, in a process of its own."""

import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from openese.sim.verilator import ToolError

__all__ = ["SCRIPT", "WIDE_MUX", "Module", "SynthesisError", "release", "run", "shared_files"]

Module = dict[str, Any]
"""A module as Yosys's ``write_json`` describes it: ``ports`` and ``cells`` by name."""

#: Yosys needs too long for wide multiplexers; this file takes them apart.
WIDE_MUX = Path(__file__).with_name("wide_mux.v")

#: The program of the process. It is part of what a result depends on.
SCRIPT = """
import sys
from pyosys import libyosys
design = libyosys.Design()
for line in sys.stdin.read().splitlines():
    libyosys.run_pass("tee -q " + line, design)
"""


class SynthesisError(ToolError):
    """Yosys is missing or refuses the Verilog, or its netlist cannot be judged."""


def release() -> str:
    """The release of pyosys.

    Raises
    ------
    SynthesisError
        pyosys is not installed.
    """
    try:
        return version("pyosys")
    except PackageNotFoundError:
        raise SynthesisError("synthesis needs Yosys: pip install 'openese[synth]'") from None


def shared_files() -> Path:
    """The folder of the files that Yosys brings along, with its simulation models of cells."""
    spec = find_spec("pyosys")
    return Path(spec.origin or "").parent / "share" if spec else Path()


def run(commands: Iterable[str], module: str) -> None:
    """Run Yosys's ``commands`` one after another; errors name ``module``.

    ``{wide_mux}`` in a command stands for the file `WIDE_MUX`.

    Raises
    ------
    SynthesisError
        A command fails. The message is Yosys's last line.
    """
    script = "\n".join(commands).replace("{wide_mux}", str(WIDE_MUX))
    done = subprocess.run([sys.executable, "-c", SCRIPT], input=script, text=True, capture_output=True)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise SynthesisError(f"Yosys failed on module {module}: {lines[-1] if lines else done.returncode}")
