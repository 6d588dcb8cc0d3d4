# SPDX-License-Identifier: Apache-2.0
"""Runs the tests on each mutation of a block, in a process of its own for each.

First the tests run on the netlist without a mutation, in its place in Amaranth's simulator. Those that pass and use the
block are the ones that count. A mutation that survives them is compared with the block, formally: one that changes
nothing does not count. The others meet the tests of the machine's Verilog.
"""

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import re
import select
import signal
import time
import traceback
from collections import Counter
from pathlib import Path

import pytest

from openese import rtl
from openese.rtl.verilog import TOP, verilog
from openese.sim import build

from .blocks import BLOCKS
from .equivalence import same
from .netlist import CHOICE, NUMBER, Netlist
from .standin import StandIn

__all__ = ["Campaign", "finish", "start"]

#: Seconds that a test may take, at least, and how many times as long as without a mutation.
_PATIENCE, _SLOWER = 120, 20


class _Watch:
    """A plugin of pytest: the tests that passed with the block in use, with their times; and the first that failed."""

    def __init__(self, stand_in):
        self._stand_in, self._before = stand_in, 0
        self.passed, self.failed = [], None

    def pytest_runtest_setup(self, item):
        self._before = self._stand_in.used

    def pytest_runtest_logreport(self, report):
        if report.when == "call" and report.passed and self._stand_in.used > self._before:
            self.passed.append((report.nodeid, report.duration))
        if report.failed and self.failed is None:
            self.failed = report.nodeid


def start(work):
    """Begin ``work()`` in a process of its own; returns the process, and the end of a pipe with what it returns."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        return child, reading
    os.setsid()
    os.close(reading)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    try:
        try:
            answer = {"done": work()}
        except BaseException:
            answer = {"broken": traceback.format_exc()}
        with open(writing, "w") as pipe:
            json.dump(answer, pipe)
    finally:
        os._exit(0)


def finish(child, reading, seconds=None):
    """What the work returned; None if it does not end within ``seconds``.

    Raises
    ------
    RuntimeError
        The work raised an exception, or the process died.
    """
    said, late = b"", False
    ended = time.monotonic() + seconds if seconds else None
    while not late:
        if select.select([reading], [], [], 1.0)[0]:
            part = os.read(reading, 1 << 16)
            if not part:
                break
            said += part
        late = ended is not None and time.monotonic() >= ended
    os.close(reading)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    if late:
        return None
    answer = json.loads(said or '{"broken": "the process died"}')
    if "broken" in answer:
        raise RuntimeError(answer["broken"])
    return answer["done"]


def _in_a_process(work, seconds):
    return finish(*start(work), seconds)


class Campaign:
    """The mutations of one block.

    Parameters
    ----------
    name : str
        A key of `BLOCKS`.
    folder : Path
        Keeps the netlist and the results.
    count, seed : int
        Of the mutations.
    machine : bool
        Whether survivors meet the machine's Verilog.
    """

    def __init__(self, name, folder, count, seed, machine=True):
        self.name, self._machine, self._block = name, machine, BLOCKS[name]
        self.folder = folder / name
        self.netlist = Netlist(self._block.make(), self.folder, count, seed)
        self.mutations = self.netlist.mutations
        netlist = re.sub(r"(?m)^ *attribute \\src .*\n", "", (self.folder / "mutated.il").read_text())
        self.digest = hashlib.sha256(netlist.encode()).hexdigest()[:16]
        self._results = folder / "results.jsonl"

    def known(self):
        """The results so far, by the mutation's number."""
        if not self._results.exists():
            return {}
        entries = map(json.loads, self._results.read_text().splitlines())
        return {entry["mutation"]: entry for entry in entries
                if (entry["block"], entry["digest"]) == (self.name, self.digest)}

    def prepare(self, again=False):
        """Compile the netlist, and find the tests that count; once for a netlist, or ``again``."""
        assert self.netlist.library
        place = self.folder / f"tests-{self.digest}.json"
        if again or not place.exists():
            passed = _in_a_process(lambda: self._pass(self._block.tests, 0, False), 3600)
            if not passed or not passed["passed"]:
                raise RuntimeError(f"{self.name}: no test passes with the netlist in the block's place")
            place.write_text(json.dumps(sorted(passed["passed"], key=lambda test: test[1])))
        self._tests = json.loads(place.read_text())
        # What is imported here need not be imported for each mutation.
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            pytest.main(["-q", "--collect-only", "-p", "no:cacheprovider", *self._block.tests])

    def _on_the_machine(self, number):
        """The first test of the machine's Verilog that fails, or None."""
        place = self.folder / f"machine-{self.digest}.json"
        with open(self.folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self._block.machine and not place.exists():
                for _ in range(2):  # the first time, simulators are built
                    passed = _in_a_process(lambda: self._pass(self._block.machine, 0, False), 3600)
                if not passed or not passed["passed"]:
                    raise RuntimeError(f"{self.name}: no test of a machine passes with the netlist in it: {passed}")
                place.write_text(json.dumps(sorted(passed["passed"], key=lambda test: test[1])))
        tests = json.loads(place.read_text()) if self._block.machine else []
        if not tests:
            return None
        seconds = max(_PATIENCE, _SLOWER * sum(duration for _, duration in tests))
        judged = _in_a_process(lambda: self._pass([name for name, _ in tests], number, True), seconds)
        return "time" if judged is None else judged["failed"]

    def _pass(self, tests, number, stop):
        """Run tests on a mutation; those that passed in use of the block, and the first that failed."""
        os.environ["OPENESE_CACHE"] = str(self.folder / "cache")
        os.environ[NUMBER] = str(number)
        stand_in = StandIn(self._block.make(), self.netlist, number)
        build.emitted = functools.partial(self._emitted, stand_in)
        watch = _Watch(stand_in)
        options = ["-q", "--no-header", "-p", "no:cacheprovider", *(["-x"] if stop else [])]
        with stand_in.installed():
            status = pytest.main([*options, *tests], plugins=[watch])
        return {"passed": watch.passed, "failed": watch.failed, "status": int(status)}

    def _emitted(self, stand_in, config):
        """In place of `build.emitted`: the machine with the mutations in it, which counts as a use of ``stand_in``."""
        def make(folder):
            text = verilog(config)
            path = folder / f"{TOP}.v"
            path.write_text(text + self.netlist.verilog if f"  {CHOICE} " in text else text)
            return path

        modules = sorted(Path(rtl.__path__[0]).rglob("*.py"))
        path = build.kept(f"{build.digest(modules, repr(config), self.digest)}.v", make)
        stand_in.used += CHOICE in path.read_text()
        return path

    def run(self, number):
        """Judge one mutation; returns its entry. The tests come first that killed most, then the fastest."""
        began = time.monotonic()
        kills = Counter(entry["by"] for entry in self.known().values())
        tests = sorted((name for name, _ in self._tests), key=lambda name: -kills[name])
        seconds = max(_PATIENCE, _SLOWER * sum(duration for _, duration in self._tests))
        judged = _in_a_process(lambda: self._pass(tests, number, True), seconds)
        if judged is None:
            result, by = "killed", "time"
        elif judged["failed"]:
            result, by = "killed", judged["failed"]
        elif judged["status"]:
            result, by = "error", str(judged["status"])
        elif same(self.netlist, number):
            result, by = "same", "equivalence"
        else:
            judged = self._on_the_machine(number) if self._machine else None
            result, by = ("killed", judged) if judged else ("survived", None)
        return {"block": self.name, "digest": self.digest, "mutation": number, "what": self.netlist.place(number),
                "result": result, "by": by, "seconds": round(time.monotonic() - began, 1)}

    def keep(self, entry):
        """Add an entry to the results."""
        with self._results.open("a") as file:
            file.write(json.dumps(entry) + "\n")
