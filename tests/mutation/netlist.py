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
from amaranth.hdl import Shape, Value
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


def _place(block, path):
    """The lowest bit of a port or of a field of it, ``path`` as "port.field", and the bits."""
    port, *keys = path.split(".")
    shape = functools.reduce(getattr, port.split("__"), block).shape()
    low = 0
    for key in keys:
        field = shape[key]
        low, shape = low + field.offset, field.shape
    return low, Shape.cast(shape).width


def contract(block, qualified, assumed):
    """A Verilog module ``block`` around the module ``inner``: outputs that do not count are ones.

    Parameters
    ----------
    block : wiring.Component
    qualified : dict of str to str
        By output or field of one, "port.field", a Verilog expression of such: it counts while that is 1.
    assumed : sequence of str
        Expressions that the surroundings keep 1. After the first cycle in which they do not, no output counts.
    """
    ports = {name: (len(value), is_input) for name, value, is_input in ports_of(block)}
    outputs = {name: width for name, (width, is_input) in ports.items() if not is_input}
    inputs = {"clk": 1, "rst": 1, SELECT: WIDTH, **{name: width for name, (width, is_input) in ports.items()
                                                    if is_input}}

    def bits(path, port):
        low, width = _place(block, path)
        return rf"{port}[{low + width - 1}:{low}]"

    def inside(expression):
        """The expression of what the block inside shows; a name may be a word of Verilog."""
        return re.sub(r"[a-z]\w*(\.\w+)*", lambda path: bits(path[0], "of_" + path[0].split(".")[0]), expression)

    declared = [rf"{way} [{width - 1}:0] \{name} " for way, those in (("input", inputs), ("output", outputs))
                for name, width in those.items()]
    wires = [f"  wire [{width - 1}:0] of_{name};" for name, width in outputs.items()]
    wires += [rf"  wire [{width - 1}:0] of_{name} = \{name} ;" for name, width in inputs.items()]
    connected = [rf".\{name} (of_{name})" for name in (*inputs, *outputs)]
    counts = {name: ["kept"] * width for name, width in outputs.items()}
    shown = []
    for number, (path, condition) in enumerate(qualified.items()):
        shown.append(f"  wire counts{number} = kept & ({inside(condition)});")
        low, width = _place(block, path)
        counts[path.split(".")[0]][low:low + width] = [f"counts{number}"] * width
    shown += [rf"  assign \{name} = of_{name} | ~{{{', '.join(reversed(counts[name]))}}};" for name in outputs]
    return "\n".join([
        f"module block({', '.join(declared)});", *wires, "  reg broken = 0;",
        f"  wire kept = ~broken & {' & '.join(f'({inside(one)})' for one in [*assumed, '1'])};",
        "  always @(posedge of_clk) broken <= ~of_rst & ~kept;",
        *shown, f"  inner inner({', '.join(connected)});", "endmodule", ""])


def _outputs(text):
    """Of RTLIL: the wires that the bits of each register's output are, as name and bit, from the lowest."""
    widths = {name: int(width or 1) for width, name in re.findall(r"(?m)^  wire (?:width (\d+) )?.*?(\S+)$", text)}
    registers = {}
    for cell, body in re.findall(r"(?ms)^  cell \$\w*ff\w* (\S+)\n(.*?)^  end$", text):
        signal = re.search(r"(?m)^    connect \\Q (.*)$", body)[1].strip("{} ")
        bits = []
        for name, high, low in re.findall(r"(\S+)(?: \[(\d+)(?::(\d+))?\])?", signal):
            first, last = (low or high, high) if high else (0, widths[name] - 1)
            bits[:0] = [(name, bit) for bit in range(int(first), int(last) + 1)]
        registers[cell] = bits
    return registers


def _initialized(golden, mutated):
    """RTLIL of the mutations with the initial values that `mutate` leaves on the wires behind them."""
    values = {name: value[::-1] for value, name in re.findall(
        r"(?m)^  attribute \\init \d+'(\S+)\n(?:  attribute .*\n)*  wire .*?(\S+)$", golden)}
    before, after = _outputs(golden), _outputs(mutated)
    new = {name: values[wire][bit] for cell in before
           for (wire, bit), (name, _) in zip(before[cell], after[cell], strict=True)
           if wire != name and wire in values}
    return re.sub(r"(?m)^  wire .*?(\S+)$", lambda wire: (
        f"  attribute \\init 1'{new[wire[1]]}\n{wire[0]}" if wire[1] in new else wire[0]), mutated)


class Netlist:
    """The files of a block's netlist with its mutations, in ``folder``, whose name is the block's.

    Parameters
    ----------
    block : Elaboratable
    folder : Path
    count, seed : int
        Of the mutations.
    qualified, assumed
        See `contract`. The tests meet a netlist in which outputs that do not count are ones: so they show that nobody
        reads them.

    Attributes
    ----------
    module, choice, verilog : str
        The netlist as a Verilog module, a module that chooses its mutation, and the text of both.
    variable : str
        The environment variable with the number that is chosen.
    """

    def __init__(self, block, folder, count, seed, qualified=None, assumed=()):
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
        around = []
        if qualified or assumed:
            (folder / "contract.v").write_text(contract(block, qualified or {}, assumed))
            around = ["rename block inner", f"read_verilog {folder / 'contract.v'}", "hierarchy -check -top block",
                      "proc", "flatten -noscopeinfo", "opt_expr -keepdc", "opt_clean"]
        mutated = folder / "mutated.il"
        yosys.run([f"read_rtlil {folder / 'golden.il'}", f"script {listed}", f"write_rtlil {mutated}"], "block")
        mutated.write_text(_initialized((folder / "golden.il").read_text(), mutated.read_text()))
        yosys.run([f"read_rtlil {mutated}", "opt_clean", *around, f"write_rtlil {mutated}",
                   f"rename -top {self.module}", f"write_verilog -noattr {folder / 'mutated.v'}",
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
