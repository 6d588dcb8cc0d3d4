# SPDX-License-Identifier: Apache-2.0
"""Proofs of blocks by Yosys and ABC, as the package pyosys carries both.

A harness is a function with the decorator `proof`. It gets a `Harness`, puts the block into it, says what the block may
rely on (`Harness.assume`) and what must hold in every cycle of every run (`Harness.prove`). Two kinds of property show
that the proof says something: one that must be refuted (`Harness.refute`), and events that must be reachable
(`Harness.cover`). Some inputs may be secrets that have no influence on some outputs (`Harness.secret`,
`Harness.protect`, `Harness.leak`). All inputs of the block that the harness does not drive are free. The block may be
reset at any time.

The harness becomes an and-inverter graph. ABC proves by property directed reachability, for runs of any length; by
induction, where the properties of a cycle imply those of the next; or by bounded model checking, for runs of up to
``bound`` cycles.
"""

import functools
import re
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import pytest
from amaranth.back import rtlil
from amaranth.hdl import Cat, ClockDomain, Elaboratable, Fragment, Module, Mux, ResetInserter, Signal, Value
from amaranth.lib import memory

from openese.sim.synthesis import yosys
from tests.formal.flow import Graph, follow

__all__ = ["PROOFS", "Harness", "Proof", "implies", "proof"]

#: Seconds that ABC may take for one property.
LIMIT = 200
#: Cycles in which a refutation or an event must be found.
REACH = 80

#: Every proof, by its file and the line where it begins.
PROOFS = {}


@dataclass(frozen=True)
class Proof:
    """A row of the table of proofs.

    Attributes
    ----------
    block : str
        The block or the blocks.
    claim : str
        The property, in words.
    machine : str
        The widths and depths with which it is proved.
    bound : int or None
        Cycles of a run; None: runs of any length.
    """

    block: str
    claim: str
    machine: str
    bound: int | None


def implies(condition, consequence):
    """``condition`` only if ``consequence``."""
    return ~Value.cast(condition).any() | Value.cast(consequence).any()


class OpenMemory(Elaboratable):
    """Stands in for a memory. Its ports are visible, and it may answer anything: what is proved with it holds for any
    contents."""

    def __init__(self, *, shape, depth, init, attrs=None):
        self.shape, self.depth = shape, depth
        self.reads, self.writes = [], []

    def write_port(self, *, domain="sync", granularity=None):
        port = memory.WritePort.Signature(addr_width=(self.depth - 1).bit_length(), shape=self.shape,
                                          granularity=granularity).create()
        self.writes.append(port)
        return port

    def read_port(self, *, domain="sync", transparent_for=()):
        port = memory.ReadPort.Signature(addr_width=(self.depth - 1).bit_length(), shape=self.shape).create()
        self.reads.append(port)
        return port

    def elaborate(self, platform):
        return Module()


class Harness:
    """The surroundings of a block under proof.

    Attributes
    ----------
    m : Module
        Of the harness: drive the block's inputs and add monitors here. A monitor is reset with the block, unless its
        signals are ``reset_less``.
    reset : Signal
        The block is reset in this cycle.
    """

    def __init__(self):
        self.m = Module()
        self.m.domains.sync = domain = ClockDomain("sync")
        self.reset = domain.rst
        self._ports = [domain.clk, domain.rst]
        self._assumed = []
        self._proved = []
        self._refuted = []
        self._covered = []
        self._secrets = []
        self._protected = []
        self._leaking = []
        self._insides = {}
        self._count = 0
        self._first = Signal(init=1, reset_less=True, name="first_cycle")
        self.m.d.sync += self._first.eq(0)

    def _name(self, prefix):
        self._count += 1
        return f"{prefix}_{self._count}"

    def add(self, block, name="dut", opened=None, reset=None):
        """Put ``block`` into the harness; all its ports that the harness does not drive are free.

        Parameters
        ----------
        opened : callable, optional
            Given the depth of a memory of the block, whether an `OpenMemory` takes its place.
        reset : Value, optional
            Resets this block alone.

        Returns
        -------
        list of OpenMemory
            Those that took the place of a memory, in the order in which the block makes them.
        """
        memories = []

        class Chosen(memory.Memory):
            def __new__(cls, **parameters):
                if not opened(parameters["depth"]):
                    return super().__new__(cls)
                memories.append(OpenMemory(**parameters))
                return memories[-1]

        with ExitStack() as stack:
            if opened is not None:
                stack.enter_context(mock.patch.object(memory, "Memory", Chosen))
            fragment = Fragment.get(block, None)
        self._insides[block] = {signal.name: signal for statements in fragment.statements.values()
                                for statement in statements for signal in statement._lhs_signals()}
        self.m.submodules[name] = fragment if reset is None else ResetInserter(reset)(fragment)
        self._ports += [Value.cast(value) for _, _, value in block.signature.flatten(block)]
        self._ports += [Value.cast(port.data) for opened in memories for port in opened.reads]
        return memories

    def inside(self, block, *names):
        """Registers and wires of a ``block`` that was added, by their names: what is proved of them helps the proof."""
        return [self._insides[block][name] for name in names]

    def expose(self, *signals):
        """Leave ``signals`` of an opened part free."""
        self._ports += [Value.cast(signal) for signal in signals]

    def free(self, shape=1, name=None):
        """A signal that may have any value in any cycle."""
        signal = Signal(shape, name=name or self._name("free"))
        self._ports.append(Value.cast(signal))
        return signal

    def constant(self, shape=1):
        """A signal that may have any value, the same in all cycles of a run."""
        value = self.free(shape)
        kept = Signal(shape, name=self._name("kept"), reset_less=True)
        constant = Signal(shape, name=self._name("constant"))
        self.m.d.comb += Value.cast(constant).eq(Mux(self._first, value, kept))
        self.m.d.sync += Value.cast(kept).eq(constant)
        return constant

    def secret(self, shape=1):
        """A free signal whose value must not matter to what is protected."""
        self._secrets.append(self.free(shape, self._name("secret")))
        return self._secrets[-1]

    def past(self, value, cycles=1, reset_less=False):
        """The value of ``cycles`` before; 0 after a reset, unless ``reset_less``."""
        value = Value.cast(value)
        for _ in range(cycles):
            before = Signal(value.shape(), name=self._name("past"), reset_less=reset_less)
            self.m.d.sync += before.eq(value)
            value = before
        return value

    def count(self, bits, up, down=0):
        """A counter of ``bits`` bits: how often ``up`` was set, less how often ``down`` was."""
        counter = Signal(bits, name=self._name("count"))
        self.m.d.sync += counter.eq(counter + up - down)
        return counter

    def waiting(self, event, limit):
        """Cycles in a row, up to ``limit``, in which ``event`` was not set."""
        counter = Signal(range(limit + 1), name=self._name("waiting"))
        self.m.d.sync += counter.eq(Mux(event, 0, Mux(counter == limit, limit, counter + 1)))
        return counter

    def held(self, stream):
        """Whether the rule of streams holds: VALID stays, and the payload with it, until READY."""
        payload = Value.cast(stream.payload)
        stalled = self.past(stream.valid & ~stream.ready)
        return implies(stalled, stream.valid & (payload == self.past(payload)))

    def assume(self, *conditions):
        """Look only at runs in which ``conditions`` hold in every cycle."""
        self._assumed += conditions

    def prove(self, *properties):
        """``properties`` hold in every cycle."""
        self._proved += properties

    def refute(self, *properties):
        """Each of ``properties`` is wrong in some cycle: the proof would notice."""
        self._refuted += properties

    def cover(self, *events):
        """Each of ``events`` happens in some run: the proof is not about nothing."""
        self._covered += events

    def protect(self, *values):
        """No secret has any influence on ``values``, in any cycle."""
        self._protected += values

    def leak(self, *values):
        """A secret has an influence on each of ``values``, in some cycle: the proof would notice."""
        self._leaking += values

    def _outputs(self):
        """Name and value of each output: 1 in the last cycle of a run that shows it."""
        def all_of(conditions):
            return Cat(Value.cast(condition).any() for condition in conditions).all()

        legal = Signal(init=1, reset_less=True, name="legal_before")
        legally = Signal(name="legal")
        self.m.d.comb += legally.eq(legal & all_of(self._assumed))
        self.m.d.sync += legal.eq(legally)
        if self._proved:
            yield "out_proved", legally & ~all_of(self._proved)
        for index, wrong in enumerate(self._refuted):
            yield f"out_refuted{index}", legally & ~Value.cast(wrong).any()
        for index, event in enumerate(self._covered):
            yield f"out_covered{index}", legally & Value.cast(event).any()
        if self._assumed and self._secrets:
            yield "out_legal", legally
        if self._protected:
            yield "out_protected", Cat(Value.cast(value) for value in self._protected)
        for index, value in enumerate(self._leaking):
            yield f"out_leaking{index}", Value.cast(value)

    def _write(self, folder):
        """Write the and-inverter graph; return the numbers of its outputs by name."""
        ports = list(self._ports)
        outputs = dict(self._outputs())
        for name, value in outputs.items():
            output = Signal(len(value), name=name)
            self.m.d.comb += output.eq(value)
            ports.append(output)
        (folder / "harness.il").write_text(rtlil.convert(self.m, name="top", ports=_leaves(ports), emit_src=False))
        yosys.run([
            f"read_rtlil {folder / 'harness.il'}", "hierarchy -check -top top", "proc", "flatten -noscopeinfo",
            "opt_clean", "delete -output w:* w:out_* %d", "opt_clean", "memory_nordff", "opt -fast", "memory_map",
            "opt -fast", "setundef -undriven -anyseq", "techmap", "opt -fast", "simplemap", "dffunmap", "opt_clean",
            "aigmap", "opt_clean",
            f"write_aiger -zinit -map {folder / 'harness.map'} {folder / 'harness.aig'}",
        ], "harness")
        found = (folder / "harness.map").read_text()
        numbers = {}
        for number, name in re.findall(r"^output (\d+) \d+ (\w+)", found, re.MULTILINE):
            numbers.setdefault(name, []).append(int(number))
        missing = outputs.keys() - numbers
        assert not missing, f"constant: {', '.join(sorted(missing))}"
        if self._secrets:
            secrets = {int(number) for number in re.findall(r"^input (\d+) \d+ secret_\d+$", found, re.MULTILINE)}
            self._follow(folder / "harness.aig", secrets, numbers)
        return {name: number for name, (number,) in numbers.items()}

    def _follow(self, path, secrets, numbers):
        """Let outputs in ``numbers`` say whether a secret is where it should not be, in the graph at ``path``."""
        graph, of_secrets = follow(Graph.read(path), secrets)
        legal = graph.outputs[numbers.pop("out_legal")[0]] if self._assumed else 1
        for name in [name for name in numbers if name.startswith(("out_protected", "out_leaking"))]:
            reached = graph.both(legal, graph.any([of_secrets[bit] for bit in numbers[name]]))
            if name == "out_protected":
                del numbers[name]
                name = "out_proved"
                reached = graph.any([reached, *(graph.outputs[number] for number in numbers.get(name, ()))])
            numbers[name] = [len(graph.outputs)]
            graph.outputs.append(reached)
        graph.write(path)

    def check(self, folder, bound=None, inductive=False):
        """Raise AssertionError unless all properties are as the harness says."""
        assert self._proved or self._protected, "a harness proves"
        assert self._refuted or self._leaking, "a harness refutes"
        assert self._covered, "a harness covers"
        graph = folder / "harness.aig"
        numbers = self._write(folder)
        literals = Graph.read(graph).outputs
        for name, number in numbers.items():
            if name == "out_proved" and literals[number] == 0:
                continue
            # What simplification leaves without a gate and a register is a constant, which three cycles tell apart.
            command = (f"bmc3 -F {REACH} -T {LIMIT}" if name != "out_proved" else
                       f"bmc3 -F {bound} -T {LIMIT}" if bound is not None else
                       f"bmc3 -F 3; ind -F 2 -T {LIMIT}" if inductive else
                       f"bmc3 -F 3; scorr; print_stats; pdr -T {LIMIT}")
            said = subprocess.run([_abc(), "-c", f"read_aiger {graph}; cone -O {number}; strash; scleanup; {command}"],
                                  text=True, capture_output=True).stdout
            reached = re.search(r"was asserted in frame (\d+)", said)
            if name != "out_proved":
                assert reached, f"{name.removeprefix('out_')} is not reached in {REACH} cycles: {said[-500:]}"
                continue
            assert not reached, f"refuted in cycle {reached[1]}"
            right = (f"No output asserted in {bound} frames. Resource limit reached .conf" if bound is not None else
                     "No output asserted in 3 frames[^~]*Networks are equivalent" if inductive else
                     r"Property proved|Explored all reachable states|"
                     r"No output asserted in 3 frames[^~]*lat = +0 +and = +0 ")
            assert re.search(right, said), f"neither proved nor refuted: {said[-500:]}"


def _leaves(ports):
    """The signals that the values ``ports`` are made of, each once."""
    return list({id(signal): signal for port in ports for signal in port._rhs_signals()}.values())


@functools.cache
def _abc():
    return str(Path(find_spec("pyosys").origin).with_name("yosys-abc"))


def proof(block, claim, machine, bound=None, inductive=False):
    """Decorator: a test that carries out the proof, and a row of the table; see `Proof`.

    With ``inductive``, whatever state has the properties, the next one has them too. This is proved at once, where a
    search for such properties may take minutes.
    """
    def decorate(harness):
        code = harness.__code__
        PROOFS[Path(code.co_filename).name, code.co_firstlineno] = Proof(block, claim, machine, bound)

        def test(tmp_path):
            pytest.importorskip("pyosys", reason="needs the extra 'formal'")
            surroundings = Harness()
            harness(surroundings)
            surroundings.check(tmp_path, bound, inductive)

        test.__name__, test.__doc__, test.__module__ = harness.__name__, harness.__doc__, harness.__module__
        return test
    return decorate
