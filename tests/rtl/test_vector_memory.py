# SPDX-License-Identifier: Apache-2.0
"""VectorMemory: lines of all banks, written by bank and channel, read `VectorMemory.delay` cycles later."""

import numpy as np
import pytest
from bench import TINY, cycles, generator, integers, seeds, simulate

from openese.rtl.vector_memory import VectorMemory

CONFIGS = {
    "tiny": TINY,
    "one channel": TINY.replace(channels=1, slice_width=1, vector_depth=16),
    "two groups": TINY.replace(groups=2, slices=2, vector_depth=32),
    "four groups": TINY.replace(pes=16, groups=4, slices=1, channels=4, vector_depth=64),
}


@seeds(2)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_columns_are_those_last_written(config, seed):
    """Reads and writes in every cycle, never of the same line at once."""
    rng = generator(seed)
    dut = VectorMemory(config)
    lines = config.vector_depth // config.groups
    contents = np.zeros((lines, config.groups, config.channels), np.int64)
    expected, got = [], []

    async def bench(ctx):
        for _ in range(400):
            columns = integers(rng, config.activation_bits, (config.groups, config.channels))
            line = int(rng.integers(lines))
            banks, channels = (int(rng.integers(1 << n)) for n in (config.groups, config.channels))
            reads = rng.integers(0, lines - 1, config.groups)
            reads += reads >= line
            ctx.set(dut.write_columns, columns)
            ctx.set(dut.write_line, line)
            ctx.set(dut.write_bank, banks)
            ctx.set(dut.write_channels, channels)
            ctx.set(dut.read_line, reads.tolist())
            expected.append([contents[reads[group], group].tolist() for group in range(config.groups)])
            for group in range(config.groups):
                for channel in range(config.channels):
                    if banks >> group & channels >> channel & 1:
                        contents[line, group, channel] = columns[group][channel]
            _, _, value = await ctx.tick().sample(dut.columns)
            got.append([list(column) for column in value])
        ctx.set(dut.write_bank, 0)
        for _ in range(dut.delay):
            _, _, value = await ctx.tick().sample(dut.columns)
            got.append([list(column) for column in value])

    simulate(dut, bench, limit=1000)
    assert got[dut.delay:] == expected


def test_a_write_without_bank_or_channel_changes_nothing():
    dut = VectorMemory(TINY)
    values = []

    async def bench(ctx):
        for bank, channels, columns in ((1, 3, [1, 2]), (0, 3, [3, 4]), (1, 0, [5, 6]), (1, 2, [7, 8])):
            ctx.set(dut.write_bank, bank)
            ctx.set(dut.write_channels, channels)
            ctx.set(dut.write_columns, [columns])
            await ctx.tick()
        ctx.set(dut.write_bank, 0)
        await cycles(ctx, dut.delay)
        values.extend(list(ctx.get(dut.columns)[0]))

    simulate(dut, bench, limit=20)
    assert values == [1, 8]
