# SPDX-License-Identifier: Apache-2.0
"""The bench of the PE in Amaranth's simulator, `test_pe.Bench`, on the module in Verilog or after synthesis."""

import json
import os

import cocotb
from amaranth.hdl import Value
from amaranth.lib import data
from bench import generator
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, RisingEdge, Timer, with_timeout
from sparse import random_jobs
from test_pe import Bench

from openese.rtl.config import Config
from openese.sim.benches import CONFIG

PERIOD = 10  # ns
SETTLED = 1  # ns after an edge
LIMIT = 20_000  # cycles


class Tick:
    """The next edge, with what is sampled right before it, as ``ctx.tick()`` of Amaranth's simulator."""

    def __init__(self, context, signals=()):
        self._context, self._signals = context, signals

    def sample(self, *signals):
        return Tick(self._context, signals)

    def __await__(self):
        return self._edge().__await__()

    async def __aiter__(self):
        while True:
            yield await self._edge()

    async def _edge(self):
        await FallingEdge(self._context.dut.clk)
        values = [self._context.get(signal) for signal in self._signals]
        await RisingEdge(self._context.dut.clk)
        await Timer(SETTLED, "ns")
        return True, False, *values


class Context:
    """What a bench for Amaranth's simulator wants of its context, for ``component``, whose module ``dut`` is."""

    def __init__(self, dut, component):
        self.dut = dut
        members = component.signature.members
        self._names = {id(Value.cast(getattr(component, name))): name for name in members}
        for name, member in members.items():
            if member.flow.name == "In":
                getattr(dut, name).value = 0

    def _handle(self, signal):
        return getattr(self.dut, self._names[id(Value.cast(signal))])

    def get(self, signal):
        return int(self._handle(signal).value)

    def set(self, signal, value):
        if isinstance(signal, data.View):
            value = data.Layout.cast(signal.shape()).const(value).as_bits()
        self._handle(signal).value = int(value)

    def tick(self):
        return Tick(self)


@cocotb.test()
@cocotb.parametrize((("gaps", "drain_chance"), [(0.0, 1.0), (0.3, 0.4)]))
async def columns_become_sums(dut, gaps, drain_chance):
    """Every row that is drained is the sum of its products; what the PE counts is what there was."""
    config = Config(**json.loads(os.environ[CONFIG]))
    rng = generator(0)
    jobs = random_jobs(rng, config, 6, phases=2, rows=(4, 20), density=0.15, empty=True)
    bench = Bench(config, rng, jobs, gaps=gaps, drain_chance=drain_chance)
    context = Context(dut, bench.dut)
    cocotb.start_soon(Clock(dut.clk, PERIOD, unit="ns").start())
    dut.rst.value = 1
    await context.tick()
    dut.rst.value = 0
    watch = cocotb.start_soon(bench.watch(context))
    running = [cocotb.start_soon(part(context)) for part in (bench.broadcast, bench.drainer.bench)]
    for part in running:
        await with_timeout(part, LIMIT * PERIOD, "ns")
    watch.cancel()
    assert bench.count(0) == len(bench.operations)
    assert bench.count(1) == sum(operation.busy for operation in bench.operations)
    assert bench.count(2) == sum(operation.padding for operation in bench.operations)
