# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Fifo: every word comes out, in order, and the whole depth can be used."""

import pytest
from bench import check_held, generator, get, pause, seeds, simulate, trace

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


@pytest.mark.parametrize("depth", [0, 1, 6])
def test_a_depth_that_is_no_power_of_two_is_refused(depth):
    with pytest.raises(ValueError, match=f"Fifo depth must be a power of two of at least 2, not {depth}"):
        Fifo(8, depth)
