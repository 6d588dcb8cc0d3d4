# SPDX-License-Identifier: Apache-2.0
"""A machine's Verilog that counts its lines, and the states and transitions of its state machines.

Verilator counts lines. For each state and transition of Amaranth's `FSM`, the Verilog gets a cover property.
"""

import os
import re
import shutil
from bisect import bisect
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

from amaranth.hdl import Module

from openese.rtl.verilog import TOP, verilog
from openese.sim import build, verilator

__all__ = ["Counted", "Fsm"]

_OPTIONS = ("-O3", "--x-assign", "fast", "--x-initial", "unique", "-Wno-fatal", "--timescale", "1ps/1ps",
            "--coverage-line", "--coverage-user")


class Fsm:
    """An Amaranth `FSM`: its states by value, and its transitions as pairs of values.

    A reset, which leads to the first state from everywhere, is no transition.
    """

    def __init__(self, encoding):
        self.encoding = encoding
        self._named = set()

    def add(self, before, after):
        """Add the transition between two states, by name."""
        if before != after:
            self._named.add((before, after))

    @property
    def states(self):
        """Names by value."""
        return {value: name for name, value in self.encoding.items()}

    @property
    def transitions(self):
        return {(self.encoding[before], self.encoding[after]) for before, after in self._named}


@contextmanager
def _recorded():
    """A list of the `Fsm` of all modules that are elaborated meanwhile."""
    found, now = [], []
    kept = {name: getattr(Module, name) for name in ("FSM", "State", "next")}

    @contextmanager
    def fsm(self, *arguments, **named):
        with kept["FSM"](self, *arguments, **named) as one:
            found.append(Fsm(one.encoding))
            now.append([found[-1], None])
            yield one
            now.pop()

    @contextmanager
    def state(self, name):
        now[-1][1] = name
        with kept["State"](self, name):
            yield

    def following(self, name):
        kept["next"].fset(self, name)
        now[-1][0].add(now[-1][1], name)

    Module.FSM, Module.State, Module.next = fsm, state, kept["next"].setter(following)
    try:
        yield found
    finally:
        for name, value in kept.items():
            setattr(Module, name, value)


def _transitions(module, register):
    """The transitions of a register in the Verilog of a module, as pairs of values."""
    state = re.escape(register)
    following = re.search(rf"(?ms)^    (\w+) = {state};\n(?:    \(\*[^\n]*\n)?    casez \({state}\)\n(.*?)"
                          r"^    endcase$", module)
    found, before = set(), []
    for line in following[2].splitlines():
        label = re.fullmatch(r"      ((?:\d+'h[0-9a-f]+(?:, )?)+):", line)
        if label:
            before = [int(value, 16) for value in re.findall(r"'h([0-9a-f]+)", label[1])]
        after = re.search(rf"\b{following[1]} = \d+'h([0-9a-f]+);", line)
        if after:
            found |= {(one, int(after[1], 16)) for one in before}
    return {(before, after) for before, after in found if before != after}


def _covered(module, fsms):
    """The module with cover properties, and by their line in it what each is about."""
    lines, points = module.splitlines(), {}
    end = lines.index("endmodule")
    for width, register in re.findall(r"(?m)^  reg \[(\d+):0\] (\\?fsm_state\S*)(?: | = .*);$", module):
        clock = re.search(rf"(?m)^  always @\(posedge (\w+)\)\n    {re.escape(register)} <= ", module)[1]
        seen = _transitions(module, register)
        matching = [fsm for fsm in fsms if fsm.transitions == seen]
        if len(matching) != 1:
            raise ValueError(f"{len(matching)} state machines have the transitions {sorted(seen)} of {lines[0]}")
        states = matching[0].states
        before = f"before_{end}"
        added = [f"  reg [{width}:0] {before} = 0;", f"  always @(posedge {clock}) {before} <= {register};"]
        for value, name in states.items():
            points[end + len(added)] = [name]
            added.append(f"  cover property (@(posedge {clock}) {register} == {value});")
        for one, other in sorted(seen):
            points[end + len(added)] = [states[one], states[other]]
            added.append(f"  cover property (@(posedge {clock}) {before} == {one} && {register} == {other});")
        lines[end:end] = added
        end += len(added)
    return lines, points


class Counted:
    """Stands in for `openese.sim.build`: machines that count.

    Parameters
    ----------
    folder : Path
        Keeps the Verilog, the libraries, and a file of counts of each machine that was simulated.
    """

    def __init__(self, folder):
        self._folder = folder
        self._data = folder / "data"
        self._data.mkdir(parents=True, exist_ok=True)
        for path in self._data.iterdir():
            path.unlink()
        self._sources, self._known = {}, {}

    @contextmanager
    def installed(self):
        """All simulators that are made meanwhile count."""
        kept = build.emitted, build.library, os.environ.get("OPENESE_COVERAGE")
        build.emitted, build.library = self.emitted, self.library
        os.environ["OPENESE_COVERAGE"] = f"{self._data}/"
        try:
            yield
        finally:
            build.emitted, build.library = kept[:2]
            del os.environ["OPENESE_COVERAGE"]

    def emitted(self, config):
        """The Verilog of ``config``, which is the same file if it has not changed since an earlier run."""
        if config in self._sources:
            return self._sources[config]
        path = self._sources[config] = self._folder / f"{config.name}-{config.fingerprint:08x}" / f"{TOP}.v"
        with _recorded() as fsms:
            text = verilog(config)
        lines, points, blocks = [], {}, {}
        for part in re.split(r"(?m)^(?=module )", text):
            name = re.match(r"module (\w+)", part)
            added, about = _covered(part, fsms) if name else (part.splitlines(), {})
            if name:
                points |= {len(lines) + 1 + line: (name[1], *what) for line, what in about.items()}
                blocks[name[1]] = len(lines) + 1
            lines += added
        # Yosys' way to carry out a block at the beginning is no line of the machine.
        idle = {number for number, line in enumerate(lines, 1) if re.search(r"_dump_module_\d+\) begin end", line)}
        self._known[path] = config.name, points, blocks, idle
        text = "\n".join(lines) + "\n"
        if not path.exists() or path.read_text() != text:
            shutil.rmtree(path.parent, ignore_errors=True)
            path.parent.mkdir(parents=True)
            path.write_text(text)
        return path

    def library(self, sources, *, trace=False):
        """As `build.library`, of Verilog of `emitted`."""
        source, = sources
        path = source.parent / f"{TOP}.so"
        if not path.exists():
            verilator.find().run([
                "--cc", "--exe", "--build", "-j", "2", "--Mdir", source.parent / "build", "--top-module", TOP,
                "--prefix", f"V{TOP}", *_OPTIONS, "-CFLAGS", "-fPIC -fvisibility=hidden", "-LDFLAGS", "-shared",
                "-MAKEFLAGS", "OPT_FAST=-O1 OPT_SLOW=-O0 OPT_GLOBAL=-O1", source, build.HERE / "harness.cpp", "-o",
                path], log=source.parent / "verilator.log")
        return path

    def counts(self):
        """By machine and block: ``lines`` and how many of them ``ran``, and how often each of ``states`` and
        ``transitions`` was seen."""
        found = {path: (Counter(), Counter()) for path in self._known}
        for data in self._data.iterdir():
            for entry, count in re.findall(r"(?m)^C '(.*)' (\d+)$", data.read_text(errors="replace")):
                fields = dict(re.findall("\x01(\\w+)\x02([^\x01]*)", entry))
                lines, covers = found[Path(fields["f"])]
                if fields["page"].startswith("v_user"):
                    covers[int(fields["l"])] += int(count)
                else:  # the same place in several instances
                    lines[int(fields["l"]), fields.get("n"), fields.get("o")] += int(count)
        return {self._known[path][0]: self._by_block(path, *counts) for path, counts in found.items()}

    def _by_block(self, path, lines, covers):
        _, points, starts, idle = self._known[path]
        blocks = {name: {"lines": 0, "ran": 0, "states": {}, "transitions": {}} for name in starts}
        names, first = list(starts), list(starts.values())
        for (line, _, _), count in lines.items():
            if line not in idle:
                block = blocks[names[bisect(first, line) - 1]]
                block["lines"] += 1
                block["ran"] += count > 0
        for line, count in covers.items():
            name, *what = points[line]
            blocks[name]["states" if len(what) == 1 else "transitions"][" -> ".join(what)] = count
        return blocks
