# SPDX-License-Identifier: Apache-2.0
"""Whether a mutation changes anything at all."""

import re
import resource
import subprocess
from importlib.util import find_spec
from pathlib import Path

from openese.sim.synthesis import yosys

from .netlist import SELECT, WIDTH

__all__ = ["same", "same_after_reset"]

#: Seconds that ABC may compute.
LIMIT = 120


def _without_memories(text):
    """RTLIL with each memory cut: what is read becomes an input, what goes in becomes outputs."""
    def cut(match):
        def number(name):
            return int(re.search(rf"(?m)^    parameter \\{name} (\d+)$", match[0])[1])

        reads, writes, width, address = (number(name) for name in ("RD_PORTS", "WR_PORTS", "WIDTH", "ABITS"))
        widths = {"RD_DATA": reads * width, "RD_ADDR": reads * address, "RD_EN": reads,
                  "WR_DATA": writes * width, "WR_ADDR": writes * address, "WR_EN": writes * width}
        lines = []
        for port, signal in re.findall(r"(?m)^    connect \\(\w+) (.+)$", match[0]):
            if widths.get(port):
                name = rf"\cut{match.start()}_{port}"
                way, ends = ("input", f"{signal} {name}") if port == "RD_DATA" else ("output", f"{name} {signal}")
                lines += [f"  wire width {widths[port]} {way} 99 {name}", f"  connect {ends}"]
        return "\n".join(lines) + "\n"

    return re.sub(r"(?ms)^  cell \$mem_v2 \S+\n.*?^  end\n", cut, text)


def same(netlist, number):
    """Whether no input and no state tells the mutation ``number`` from the block.

    Registers and memories are cut: block and mutation get the same, free state, and must make the same next state and
    outputs of it. What differs only in states that are never reached counts as different. False if ABC finds no answer.
    """
    said = _compared(netlist, number, "cut", ["expose -evert-dff block", "opt_clean"], [], "iprove -v")
    return "UNSATISFIABLE" in said


def same_after_reset(netlist, number):
    """Whether no input tells the mutation ``number`` from the block, in any cycle after the start.

    Memories are cut: they give both the same words, and both must do the same to them. False if ABC finds no answer.
    """
    said = _compared(netlist, number, "open", [], ["-zinit"], "bmc3 -F 3; scorr; print_stats; pdr")
    reached = "was asserted" in said or "is asserted" in said
    proved = re.search(r"Property proved|Explored all reachable states|No output asserted in 3 frames[^~]*lat = +0 "
                       r"+and = +0 ", said)
    return bool(proved) and not reached


def _compared(netlist, number, name, prepare, form, command):
    """What ABC says to ``command`` about a circuit whose output is 1 where block and mutation differ."""
    folder = netlist.folder
    cut, mutated = folder / f"{name}.il", folder / "mutated.il"
    if not cut.exists() or cut.stat().st_mtime < mutated.stat().st_mtime:
        # Only wires with names of their own become ports.
        named = r"(?:\$flatten\\inner\.)?\$auto\$mutate\.cc:\d+:(\w+)\$(\d+)"
        text = re.sub(named, r"\\\1_\2", mutated.read_text())
        (folder / "named.il").write_text(_without_memories(text))
        yosys.run([f"read_rtlil {folder / 'named.il'}", "opt_expr", "opt_clean", "setundef -undriven -zero",
                   "dffunmap", "simplemap", "splitnets", "opt_clean", *prepare, f"write_rtlil {cut}"], "equivalence")
    graph = folder / f"miter-{number}.aig"
    commands = [f"read_rtlil {cut}"]
    for copy, value in (("gold", 0), ("gate", number)):
        commands += [f"copy block {copy}", f"select -module {copy}", f"connect -set {SELECT} {WIDTH}'d{value}",
                     f"delete -input w:{SELECT}", "select -clear"]
    yosys.run([*commands, "delete block", "miter -equiv -flatten gold gate miter", "hierarchy -top miter", "opt -fast",
               "techmap", "opt -fast", "setundef -zero", "dffunmap", "simplemap", "aigmap", "opt_clean",
               " ".join(["write_aiger", *form, str(graph)])], "equivalence")
    abc = Path(find_spec("pyosys").origin).with_name("yosys-abc")
    said = subprocess.run([abc, "-c", f"read_aiger {graph}; strash; {command}"], text=True, capture_output=True,
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (LIMIT, LIMIT))).stdout
    graph.unlink()
    return said
