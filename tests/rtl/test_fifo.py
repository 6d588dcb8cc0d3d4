# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Fifo: every word comes out, in order, and the whole depth can be used."""

import pytest
from bench import check_held, generator, get, pause, resettable, seeds, simulate, trace

from openese.rtl.fifo import Fifo


@seeds(2)
@pytest.mark.parametrize("depth", [2, 8])
def test_fifo_fills_to_its_depth(depth, seed):
    """A writer that watches ``level`` may use every place."""
    rng = generator(seed)
    dut = Fifo(8, depth)
    values = rng.integers(0, 256, 200).tolist()
    results = []
    watch, levels = trace(dut.level)

    async def writer(ctx):
        left = list(values)
        while left:
            goes = ctx.get(dut.level) < depth
            ctx.set(dut.i_valid, goes)
            if goes:
                ctx.set(dut.i, left.pop(0))
            await ctx.tick()
        ctx.set(dut.i_valid, 0)

    async def reader(ctx):
        for _ in values:
            await pause(ctx, rng, 0.6)
            results.append(await get(ctx, dut.o))

    simulate(dut, writer, reader, limit=5000, background=[watch, check_held(dut.o)])
    assert results == values
    assert max(levels) == (depth,)


@seeds(2)
@pytest.mark.parametrize("reader", [0.0, 0.3, 0.6])
@pytest.mark.parametrize("writer", [0.0, 0.3, 0.8])
@pytest.mark.parametrize("depth", [2, 8])
def test_every_cycle_is_that_of_a_queue(depth, writer, reader, seed):
    """Full, empty or between, and after a reset: ``level``, ``valid`` and the oldest word are those of a queue."""
    rng = generator(seed)
    dut = Fifo(8, depth)
    queue, lengths = [], set()

    async def bench(ctx):
        for _ in range(300):
            assert (ctx.get(dut.level), ctx.get(dut.o.valid)) == (len(queue), len(queue) > 0)
            assert not queue or ctx.get(dut.o.payload) == queue[0]
            lengths.add(len(queue))
            reset = rng.random() < 0.01
            writes, reads = len(queue) < depth and rng.random() >= writer, rng.random() >= reader
            word = int(rng.integers(256))
            ctx.set(resets, reset)
            ctx.set(dut.i, word)
            ctx.set(dut.i_valid, writes)
            ctx.set(dut.o.ready, reads)
            await ctx.tick()
            queue[:] = [] if reset else queue[int(reads):] + [word] * writes

    top, resets = resettable(dut)
    simulate(top, bench, limit=400)
    assert 0 in lengths and len(lengths) > 1


@pytest.mark.parametrize("depth", [0, 1, 6])
def test_a_depth_that_is_no_power_of_two_is_refused(depth):
    with pytest.raises(ValueError, match=f"Fifo depth must be a power of two of at least 2, not {depth}"):
        Fifo(8, depth)
