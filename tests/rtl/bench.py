# SPDX-License-Identifier: Apache-2.0
"""What the benches of the blocks share: streams with random stalls, and a simulation that ends.

A bench is an ``async`` function of a simulator context. Everything random comes from one generator,
made from the test's ``seed``, which pytest shows in the name of a test that fails.
"""

import numpy as np
import pytest
from amaranth.hdl import ClockDomain, Module, Value
from amaranth.sim import Simulator

from openese.rtl.config import preset

__all__ = ["TINY", "seeds", "generator", "integers", "simulate", "cycles", "until", "put", "get", "pause",
           "resettable", "feed", "collect", "check_held", "pack", "unpack", "raw", "scramble",
           "trace"]

TINY = preset("tiny")


def seeds(count):
    """Decorator: run the test with each of the seeds 0..count-1."""
    return pytest.mark.parametrize("seed", range(count))


def generator(seed):
    """The random generator of a test; the seed is printed where the test fails."""
    print(f"seed {seed}")
    return np.random.default_rng(seed)


def integers(rng, bits, size=None):
    """Random signed integers of ``bits`` bits, one in eight of them an extreme, as Python integers."""
    limit = 1 << (bits - 1)
    values = rng.integers(-limit, limit, size)
    extremes = rng.choice([-limit, limit - 1, 0, -1], size)
    return np.where(rng.random(size) < 0.125, extremes, values).tolist()


def simulate(dut, *benches, limit, background=(), domains=("sync",)):
    """Run ``benches`` to their ends, which must come within ``limit`` cycles, then stop."""
    simulator = Simulator(dut)
    for domain in domains:
        simulator.add_clock(1e-6, domain=domain)
    failures = []

    def guarded(bench):
        async def run(ctx):
            try:
                await bench(ctx)
            except Exception as failure:
                failures.append(failure)
        return run

    async def watchdog(ctx):
        await cycles(ctx, limit)
        raise TimeoutError(f"{type(dut).__name__} not done after {limit} cycles")

    for bench in benches:
        simulator.add_testbench(guarded(bench))
    for bench in (*background, watchdog):
        simulator.add_testbench(guarded(bench), background=True)
    while simulator.advance() and not failures:
        pass
    # Raised here, not within the simulator, whose frames would hide where.
    if failures:
        raise failures[0]


def resettable(dut):
    """A module with ``dut`` in it, and the signal that resets it."""
    m = Module()
    m.domains.sync = domain = ClockDomain("sync")
    m.submodules.dut = dut
    return m, domain.rst


async def cycles(ctx, count):
    """Wait ``count`` cycles."""
    for _ in range(count):
        await ctx.tick()


async def until(ctx, condition, *signals):
    """Wait for the end of a cycle in which ``condition`` is 1; return the ``signals`` of that cycle."""
    while True:
        _, _, met, *values = await ctx.tick().sample(condition, *signals)
        if met:
            return values


async def put(ctx, stream, payload):
    """Offer ``payload`` until it is taken."""
    ctx.set(stream.payload, payload)
    ctx.set(stream.valid, 1)
    await until(ctx, stream.ready)
    ctx.set(stream.valid, 0)


async def get(ctx, stream):
    """Be ready until a payload comes; return it."""
    ctx.set(stream.ready, 1)
    payload, = await until(ctx, stream.valid, stream.payload)
    ctx.set(stream.ready, 0)
    return payload


async def pause(ctx, rng, chance):
    """Wait some cycles, with probability ``chance`` of each one more."""
    while rng.random() < chance:
        await ctx.tick()


def feed(stream, payloads, rng=None, chance=0.0):
    """Bench that puts ``payloads`` one after another, with random pauses."""
    async def bench(ctx):
        for payload in payloads:
            if rng is not None:
                await pause(ctx, rng, chance)
            await put(ctx, stream, payload)
    return bench


def collect(stream, count, results, rng=None, chance=0.0):
    """Bench that appends the next ``count`` payloads to ``results``, with random pauses."""
    async def bench(ctx):
        for _ in range(count):
            if rng is not None:
                await pause(ctx, rng, chance)
            results.append(await get(ctx, stream))
    return bench


def check_held(stream):
    """Background bench: once valid, a stream keeps its payload until it is taken."""
    payload = raw(stream.payload)

    async def bench(ctx):
        offered = None
        async for _, _, valid, ready, value in ctx.tick().sample(stream.valid, stream.ready, payload):
            if offered is not None:
                assert valid, "valid was withdrawn"
                assert value == offered, "the payload changed before it was taken"
            offered = value if valid and not ready else None
    return bench


def pack(values, bits):
    """Signed integers as fields of ``bits`` bits of one integer, the first lowest."""
    return sum((value & ((1 << bits) - 1)) << (k * bits) for k, value in enumerate(values))


def unpack(word, bits, count):
    """The ``count`` signed integers that `pack` made one of."""
    fields = [word >> (k * bits) & ((1 << bits) - 1) for k in range(count)]
    return [field - (field >> (bits - 1) << bits) for field in fields]


def raw(view):
    """The bits of a signal, whatever its shape."""
    return Value.cast(view).as_unsigned()


def scramble(ctx, rng, *ports):
    """Random bits on ``ports``: what stands there does not count while nothing says that it is valid."""
    for port in ports:
        ctx.set(raw(port), int.from_bytes(rng.bytes(-(-len(raw(port)) // 8)), "little") & (1 << len(raw(port))) - 1)


def trace(*signals):
    """Background bench and the list to which it appends the ``signals`` of every cycle."""
    seen = []

    async def bench(ctx):
        async for _, _, *values in ctx.tick().sample(*signals):
            seen.append(tuple(values))
    return bench, seen
