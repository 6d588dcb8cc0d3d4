# SPDX-License-Identifier: Apache-2.0
"""Runs the tests on each mutation of a block, in a process of its own for each.

First the tests run on the netlist without a mutation, in the block's place. Those that pass and use the block are the
ones that count. The tests of a machine as Verilog come first, since they take seconds. A mutation that survives them is
compared with the block, formally: one that changes nothing does not count. The others meet the tests of the blocks, in
Amaranth's simulator.
"""

import contextlib
import functools
import hashlib
import json
import os
import re
import resource
import select
import signal
import time
import traceback
from pathlib import Path

import pytest

from openese import rtl
from openese.output import write_text
from openese.rtl.verilog import TOP, verilog
from openese.sim import build
from openese.sim.simulator import Simulator
from openese.sw.run import device

from .blocks import BLOCKS, TINY
from .equivalence import same, same_after_reset
from .netlist import Netlist
from .standin import StandIn

__all__ = ["Campaign", "Machine", "finish", "in_a_process", "start"]

#: Seconds that tests may compute, at least, and how many times as long as without a mutation.
_PATIENCE, _SLOWER = 20, 5
#: How many times as long it may wait for others that compute.
_WAITS = 30


#: Cycles in which a mutated machine must move, so that one that hangs costs little; reads of STATUS: a tenth.
_STUCK = 20_000


class _DiedError(RuntimeError):
    """A process ended without an answer."""


class _Watch:
    """A plugin of pytest: the tests that passed with the block in use, with the times that they computed; and the first
    that failed.

    ``use.used`` counts how often the block was used so far.
    """

    def __init__(self, use):
        self._use, self._before, self._began = use, 0, 0.0
        self.passed, self.failed = [], None

    def pytest_runtest_setup(self, item):
        self._before, self._began = self._use.used, time.process_time()

    def pytest_runtest_logreport(self, report):
        if report.when == "call" and report.passed and self._use.used > self._before:
            self.passed.append((report.nodeid, time.process_time() - self._began))
        if report.failed and self.failed is None:
            self.failed = report.nodeid


def start(work, seconds=None):
    """Begin ``work()`` in a process of its own; returns the process, and the end of a pipe with what it returns.

    It ends when it has computed for ``seconds``.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        return child, reading
    os.setsid()
    if seconds is not None:
        limit = int(seconds) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 1))
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
    """What the work returned; None if it does not end: within ``seconds`` by the clock, or within those of `start`.

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
    _, status = os.waitpid(child, 0)
    if late or (not said and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
        return None
    if not said:
        raise _DiedError("the process died")
    answer = json.loads(said)
    if "broken" in answer:
        raise RuntimeError(answer["broken"])
    return answer["done"]


def in_a_process(work, seconds=None):
    """What ``work()`` returns; None if it computes for longer than ``seconds``, however busy the computer is."""
    return finish(*start(work, seconds), seconds and _WAITS * seconds)


def _pass(tests, use, stop):
    """Run tests; those that passed in ``use``, and the first that failed."""
    watch = _Watch(use)
    options = ["-q", "--no-header", "-p", "no:cacheprovider", *(["-x"] if stop else [])]
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # which takes longer than most tests
    status = pytest.main([*options, *tests], plugins=[watch])
    return {"passed": watch.passed, "failed": watch.failed, "status": int(status)}


class _Tests:
    """Tests that count: those of ``names`` that pass in ``run(names, number, stop)`` without a mutation, number 0.

    They are found when a mutation is judged first, and kept in the file ``place``. With ``all_pass`` it is an error if
    one of them fails: a contract of the block is wrong.
    """

    def __init__(self, names, run, place, all_pass):
        self._names, self._run, self._place, self._all_pass = names, run, place, all_pass

    def prepare(self, again):
        """Import what they need, so that it need not be imported for each mutation. With ``again``, find them anew."""
        if again:
            self._place.unlink(missing_ok=True)
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            pytest.main(["-q", "--collect-only", "-p", "no:cacheprovider", *self._names])

    def _times(self):
        if not self._place.exists():
            passed = in_a_process(lambda: self._run(self._names, 0, False), 3600)
            if not passed or not passed["passed"]:
                raise RuntimeError(f"no test passes with the netlist in the block's place: {passed}")
            if passed["failed"] and self._all_pass:
                raise RuntimeError(f"{passed['failed']} fails with the netlist in the block's place")
            write_text(self._place, json.dumps(dict(sorted(passed["passed"], key=lambda test: test[1]))))
        return json.loads(self._place.read_text())

    def judge(self, number, first=()):
        """The first test that fails, "time", "death", or None. Those in ``first`` come first, then the fastest.

        A simulator ends its process when the netlist does not settle.
        """
        times = self._times()
        tests = sorted(times, key=lambda name: name not in first)
        seconds = max(_PATIENCE, _SLOWER * sum(times.values()))
        try:
            judged = in_a_process(lambda: self._run(tests, number, True), seconds)
        except _DiedError:
            return "death"
        if judged is None:
            return "time"
        if judged["status"] and not judged["failed"]:
            raise RuntimeError(f"the tests end with status {judged['status']}")
        return judged["failed"]


class Machine:
    """The Verilog of a machine in which the blocks of all ``campaigns`` have their mutations. It is built once.

    An environment variable for each block chooses one when a simulation starts.
    """

    def __init__(self, campaigns, folder):
        self.campaigns, self._folder = campaigns, folder
        self._digest = hashlib.sha256("".join(campaign.digest for campaign in campaigns).encode()).hexdigest()[:16]
        #: How many simulations were made.
        self.used = 0

    def tests(self, campaign):
        """The `_Tests` of the block of ``campaign``. Builds the simulator unless there is one."""
        in_a_process(self._build)
        return _Tests(campaign.block.machine, functools.partial(self._pass, campaign),
                      self._folder / f"machine-{self._digest}.json", any(each.contract for each in self.campaigns))

    def _build(self):
        with self._in_place():
            Simulator(TINY).close()

    def _pass(self, campaign, tests, number, stop):
        os.environ[campaign.netlist.variable] = str(number)
        original = Simulator.__init__

        def hurried(simulator, *arguments, **named):
            original(simulator, *arguments, **named)
            simulator.patience = min(simulator.patience, _STUCK)

        Simulator.__init__, device._PATIENCE = hurried, _STUCK // 10
        with self._in_place():
            return _pass(tests, self, stop)

    @contextlib.contextmanager
    def _in_place(self):
        """Everything that is emitted has the mutations."""
        os.environ["OPENESE_CACHE"] = str(self._folder / "cache")
        build.emitted = self._emitted
        with contextlib.ExitStack() as stack:
            for campaign in self.campaigns:
                stack.enter_context(campaign.stand_in(0).installed())
            yield

    def _emitted(self, config):
        """In place of `build.emitted`."""
        def make(folder):
            text = verilog(config)
            netlists = [campaign.netlist for campaign in self.campaigns]
            missing = [netlist.module for netlist in netlists if f"  {netlist.module} " not in text]
            if missing:
                raise RuntimeError(f"the machine has no {' and no '.join(missing)}")
            path = folder / f"{TOP}.v"
            path.write_text(text + "".join(netlist.verilog for netlist in netlists))
            return path

        self.used += 1
        modules = sorted(Path(rtl.__path__[0]).rglob("*.py"))
        return build.kept(f"{build.digest(modules, repr(config), self._digest)}.v", make)


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

    Attributes
    ----------
    machine : Machine or None
        The Verilog that has the block too.
    """

    def __init__(self, name, folder, count, seed):
        self.name, self.block, self.machine = name, BLOCKS[name], None
        self.folder = folder / name
        self.netlist = Netlist(self.block.make(), self.folder, count, seed, self.block.qualified,
                               self.block.assumed)
        self.mutations = self.netlist.mutations
        netlist = re.sub(r"(?m)^ *attribute \\src .*\n", "", (self.folder / "mutated.il").read_text())
        netlist = netlist.replace(str(self.folder), "")  # which is part of names
        self.digest = hashlib.sha256(netlist.encode()).hexdigest()[:16]
        self._results = folder / "results.jsonl"
        #: Whether the block has one.
        self.contract = bool(self.block.qualified or self.block.assumed)
        self._tests = _Tests(self.block.tests, self._pass, self.folder / f"tests-{self.digest}.json", self.contract)
        self._machine_tests = None

    def stand_in(self, number):
        """The `StandIn` for the mutation ``number``."""
        return StandIn(self.block.make(), self.netlist, number)

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
        if self.machine:
            self._machine_tests = self.machine.tests(self)
            self._machine_tests.prepare(again)
        self._tests.prepare(again)

    def _pass(self, tests, number, stop):
        stand_in = self.stand_in(number)
        with stand_in.installed():
            return _pass(tests, stand_in, stop)

    def run(self, number):
        """Judge one mutation; returns its entry."""
        began, compared = time.monotonic(), False
        result, by = "killed", None
        # Those that killed others come first.
        killers = {entry["by"] for entry in self.known().values()}
        if self._machine_tests:
            by = self._machine_tests.judge(number, killers)
            compared = not by and same(self.netlist, number)
        if not by and not compared:
            by = self._tests.judge(number, killers)
            compared = not by and ((not self._machine_tests and same(self.netlist, number))
                                   or same_after_reset(self.netlist, number))
        if not by:
            result, by = ("same", "equivalence") if compared else ("survived", None)
        return {"block": self.name, "digest": self.digest, "mutation": number, "what": self.netlist.place(number),
                "result": result, "by": by, "seconds": round(time.monotonic() - began, 1)}

    def keep(self, entry):
        """Add an entry to the results."""
        with self._results.open("a") as file:
            file.write(json.dumps(entry) + "\n")
