# SPDX-License-Identifier: Apache-2.0
"""The netlist of a block with many mutations in it, of which a number chooses one.

Yosys's `mutate` picks the mutations and puts them in. The same netlist is compiled for Amaranth's simulator (by CXXRTL)
and written as Verilog, and equivalence is decided on it.
"""

import functools
import os
import re
import subprocess
from pathlib import Path

from amaranth.back import rtlil
from amaranth.hdl import Value
from amaranth.lib import wiring

from openese.sim.synthesis import yosys

__all__ = ["SELECT", "WIDTH", "Netlist", "description", "ports_of"]

#: The port that chooses a mutation; 0 is none.
SELECT, WIDTH = "mutation_select", 16
#: The module that reads an environment variable when a simulation begins, in Verilator's own extension of Verilog.
_CHOICE = """
module {choice}(output reg [{high}:0] {select});
  initial {select} = $c("(std::getenv(\\"{variable}\\") ? std::atoi(std::getenv(\\"{variable}\\")) : 0)");
endmodule
"""

#: Ports of registers and memories that are the clock, or constants of a form that Yosys needs.
_CONSTANT = {"CLK", "RD_CLK", "WR_CLK", "RD_ARST", "RD_SRST"}


def ports_of(block):
    """Name, value and whether it is an input, of each port of a block, which may list them itself."""
    if not isinstance(block, wiring.Component):
        return block.ports()
    return [("__".join(map(str, path)), Value.cast(value), member.flow is wiring.In)
            for path, member, value in block.signature.flatten(block)]


def description(block, elaborate=None, src=False):
    """RTLIL of ``block``; the same for blocks that are the same."""
    named = {name: (value, None) for name, value, _ in ports_of(block)}
    original = type(block).elaborate
    try:
        if elaborate is not None:
            type(block).elaborate = elaborate
        return rtlil.convert(block, name="block", ports=named, emit_src=src)
    finally:
        type(block).elaborate = original


class Netlist:
    """The files of a block's netlist with its mutations, in ``folder``, whose name is the block's.

    Parameters
    ----------
    block : Elaboratable
    folder : Path
    count, seed : int
        Of the mutations.

    Attributes
    ----------
    module, choice, verilog : str
        The netlist as a Verilog module, a module that chooses its mutation, and the text of both.
    variable : str
        The environment variable with the number that is chosen.
    """

    def __init__(self, block, folder, count, seed):
        self.folder = folder
        self.module, self.choice = f"mutant_{folder.name}", f"choice_{folder.name}"
        self.variable = f"OPENESE_MUTATION_{folder.name.upper()}"
        self.ports = [(name, len(value), is_input) for name, value, is_input in ports_of(block)]
        folder.mkdir(parents=True, exist_ok=True)
        listed = folder / "mutations.ys"
        (folder / "block.il").write_text(description(block, src=True))
        prepared = ["proc", "flatten -noscopeinfo", "opt_expr -keepdc", "opt_clean", "memory_collect",
                    "delete t:$print t:$check", "opt_clean"]
        yosys.run([f"read_rtlil {folder / 'block.il'}", "hierarchy -check -top block", *prepared,
                   f"write_rtlil {folder / 'golden.il'}",
                   f"mutate -list {2 * count} -seed {seed} -o {listed}"], "block")
        lines = [line for line in listed.read_text().splitlines() if line.startswith("mutate ")
                 and re.search(r" -port (\w+)", line)[1] not in _CONSTANT]
        self.mutations = [line.replace("mutate ", f"mutate -ctrl {SELECT} {WIDTH} {number} ", 1)
                          for number, line in enumerate(lines[:count], 1)]
        listed.write_text("\n".join(self.mutations) + "\n")
        yosys.run([f"read_rtlil {folder / 'golden.il'}", f"script {listed}", "opt_clean",
                   f"write_rtlil {folder / 'mutated.il'}", f"rename -top {self.module}",
                   f"write_verilog -noattr {folder / 'mutated.v'}",
                   "rename -top block", f"write_cxxrtl -O4 -g3 {folder / 'mutated.cc'}"], "block")
        self.verilog = (folder / "mutated.v").read_text() + _CHOICE.format(
            choice=self.choice, select=SELECT, high=WIDTH - 1, variable=self.variable)

    @functools.cached_property
    def library(self):
        """The shared library of CXXRTL."""
        path = self.folder / "mutated.so"
        source = self.folder / "mutated.cc"
        if path.exists() and path.stat().st_mtime >= source.stat().st_mtime:
            return path
        runtime = yosys.shared_files() / "include" / "backends" / "cxxrtl" / "runtime"
        subprocess.run(["g++", "-std=c++14", "-O1", "-shared", "-fPIC", "-DCXXRTL_INCLUDE_CAPI_IMPL", f"-I{runtime}",
                        source, "-o", path], check=True, capture_output=True)
        return path

    def place(self, number):
        """What the mutation ``number`` changes: mode, cell, port, and the line of the block's source."""
        line = self.mutations[number - 1]
        found = dict(re.findall(r"-(\w+) (\S+)", line))
        sources = re.findall(r"-src (\S+)", line)
        rtl = [Path(source.split(":")[0]).name + ":" + source.split(":")[1] for source in sources
               if f"{os.sep}rtl{os.sep}" in source or source.startswith("rtl")]
        where = " ".join(found.get(key, "") for key in ("cell", "port", "portbit"))
        return f"{found['mode']} {where} {' '.join(dict.fromkeys(rtl))}".strip()
