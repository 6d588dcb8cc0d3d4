# SPDX-License-Identifier: Apache-2.0
"""Netlists after synthesis, as Verilog that the benches of the RTL run on.

Yosys's own simulation models replace the carry chains, multiplexers, registers and LUT RAMs of the netlist, and
expressions replace its LUTs. Yosys has no models of block RAMs and multipliers; those are in ``cells/``.
"""

import re
from pathlib import Path

from openese.rtl.config import Config
from openese.rtl.emit import without_zeros
from openese.sim import build
from openese.sim.synthesis import yosys
from openese.sim.synthesis.families import FAMILIES

__all__ = ["netlist"]


def netlist(config: Config, family: str, top: str = build.TOP) -> list[Path]:
    """Verilog of a machine after synthesis, or of one block.

    Parameters
    ----------
    config : Config
    family : str
        A key of `FAMILIES` whose netlists can be simulated: ``ecp5``.
    top : str
        The module; those below it keep their names and ports.

    Returns
    -------
    list of Path
        The netlist, and the models of its block RAMs and multipliers.

    Raises
    ------
    SynthesisError
        Yosys is missing, or does not take the Verilog.
    ValueError
        The family has no models for simulation.
    """
    models = FAMILIES[family].models
    if models is None:
        raise ValueError(f"netlists of family {family!r} cannot be simulated: there are no models of its cells")
    source = build.emitted(config)
    text = source.read_text()
    commands = FAMILIES[family].script(top)
    key = build.digest([source, models.luts, Path(__file__)], *commands, *models.shared, top, yosys.SCRIPT,
                       yosys.release())

    def make(folder: Path) -> Path:
        target, read = folder / f"{top}.v", folder / "source.v"
        read.write_text(without_zeros(text))
        maps = " ".join(f"-map {path}" for path in (models.luts, *map(yosys.shared_files().joinpath, models.shared)))
        yosys.run([
            f"read_verilog -sv {read}", f"hierarchy -top {top}", *commands, f"techmap -autoproc {maps}",
            # Yosys makes vectors of unrelated wires, which a simulator would take for loops. Of two models of a cell
            # it takes the first. The names it makes up have hundreds of letters; hidden, they become numbers.
            "opt_expr -mux_undef", "splitnets", "opt_clean -purge", "rename -hide w:*",
            f"write_verilog -noattr -simple-lhs {target}"], top)
        target.write_text(_simulated(target.read_text(), text))
        return target

    return [build.kept(f"{key}.{family}.v", make), models.own]


def _simulated(text: str, source: str) -> str:
    """The netlist without the zeros that block RAMs start with; blocks that Verilator does not inline in the source
    are not inlined here."""
    text = re.sub(r"(?m)^ +\.INIT(?:VAL|P)?_[0-9A-F]{2}\(\d+'(?:h0+|b0+)\),\n", "", text)
    for block in re.findall(r"(?m)^module (\w+)\([^;]*;\n  /\* verilator no_inline_module", source):
        text = re.sub(rf"(?m)^(module {block}\([^;]*;)$", r"\1\n  /* verilator no_inline_module */", text)
    return text
