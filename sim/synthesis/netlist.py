# SPDX-License-Identifier: Apache-2.0
"""Netlists after synthesis, as Verilog that the benches of the RTL run on.

Every carry chain, multiplexer, register and LUT RAM of the netlist is replaced by Yosys's own simulation model of it,
and every LUT by an expression. Block RAMs and multipliers stay as they are: Yosys has no models of those, ``cells/``
has.
"""

import re
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from openese.rtl.config import Config
from openese.rtl.emit import without_zeros
from openese.rtl.targets.ulx3s import SYNTHESIS
from openese.sim import build
from openese.sim.verilator import ToolError

__all__ = ["FAMILIES", "Family", "netlist"]


class Family(NamedTuple):
    """FPGAs whose netlists can be simulated.

    Attributes
    ----------
    commands : tuple of str
        Of Yosys, that synthesize for them.
    luts : Path
        What takes the place of their LUTs.
    models : tuple of str
        Yosys's models of their other cells, below its folder of shared files.
    cells : Path
        Ours, of the cells that Yosys has only as black boxes.
    """

    commands: tuple[str, ...]
    luts: Path
    models: tuple[str, ...]
    cells: Path


_CELLS = Path(__file__).with_name("cells")
FAMILIES = {"ecp5": Family(SYNTHESIS, _CELLS / "ecp5_luts.v", ("lattice/common_sim.vh", "lattice/ccu2c_sim.vh"),
                           _CELLS / "ecp5.v")}

# Yosys makes vectors of wires that have nothing to do with each other; to a simulator they would be loops. Of two
# models of a cell it takes the first. Names that it makes up are hundreds of letters long; hidden, they are numbers.
_SCRIPT = """
import sys
from pyosys import libyosys
source, target, commands, top, *models = sys.argv[1:]
design = libyosys.Design()
for line in (f"read_verilog -sv {source}", f"hierarchy -top {top}", *commands.split("\\n"),
             "techmap -autoproc " + " ".join(f"-map {model}" for model in models), "opt_expr -mux_undef", "splitnets",
             "opt_clean -purge", "rename -hide w:*", f"write_verilog -noattr -simple-lhs {target}"):
    libyosys.run_pass("tee -q " + line, design)
"""


def netlist(config: Config, family: str, top: str = build.TOP) -> Path:
    """Verilog of what synthesis makes of a machine, or of one block.

    Parameters
    ----------
    config : Config
    family : str
        A key of `FAMILIES`.
    top : str
        The module; those below it keep their names and ports.

    Returns
    -------
    Path
        Complete but for the ``cells`` of the family.

    Raises
    ------
    openese.sim.verilator.ToolError
        Yosys does not take the Verilog.
    """
    source = build.emitted(config)
    commands, luts, models, _ = FAMILIES[family]
    text = source.read_text()
    key = build.digest([source, luts, Path(__file__)], *commands, *models, top, version("pyosys"))

    def make(folder: Path) -> Path:
        target = folder / f"{top}.v"
        spec = find_spec("pyosys")
        share = Path(spec.origin or "").parent / "share" if spec else Path()
        read = folder / "source.v"
        read.write_text(without_zeros(text))
        maps = [luts, *(share / model for model in models)]
        done = subprocess.run([sys.executable, "-c", _SCRIPT, str(read), str(target), "\n".join(commands), top,
                               *map(str, maps)], text=True, capture_output=True)
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines()
            raise ToolError(f"Yosys failed on module {top}: {said[-1] if said else done.returncode}")
        target.write_text(_simulated(target.read_text(), text))
        return target

    return build.kept(f"{key}.{family}.v", make)


def _simulated(text: str, source: str) -> str:
    """Without the contents that block RAMs start with, which are zeros; blocks that are not inlined in the source
    are not here."""
    text = re.sub(r"(?m)^ +\.INIT(?:VAL|P)?_[0-9A-F]{2}\(\d+'(?:h0+|b0+)\),\n", "", text)
    for block in re.findall(r"(?m)^module (\w+)\([^;]*;\n  /\* verilator no_inline_module", source):
        text = re.sub(rf"(?m)^(module {block}\([^;]*;)$", r"\1\n  /* verilator no_inline_module */", text)
    return text
