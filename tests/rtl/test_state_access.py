# SPDX-License-Identifier: Apache-2.0
"""StateAccess: every number of every voice, at the place where the machine keeps it."""

import numpy as np
import pytest
from bench import TINY, cycles, generator, integers, seeds, simulate

from openese.rtl.state_access import StateAccess

CONFIGS = {
    "tiny": TINY,
    "one channel": TINY.replace(channels=1, slice_width=1),
    "one slice": TINY.replace(slices=1),
    "wide slice": TINY.replace(slices=2, slice_width=4),
    "narrow slice": TINY.replace(slices=2, slice_width=1),
    "two groups": TINY.replace(groups=2, slices=1),
}


@seeds(1)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_every_number_has_its_place(config, seed):
    """Reads and writes of c and y, against memories that are only arrays."""
    rng = generator(seed)
    dut = StateAccess(config)
    # As a host counts: (cell, channel) and (column, channel).
    c = np.array(integers(rng, config.cell_bits, (config.cell_rows * config.row_pes, config.channels)))
    y = np.array(integers(rng, config.activation_bits, (config.vector_depth, config.channels)))
    # As the machine keeps them: cell row, slice, beat, lane; and line, bank, channel.
    cells = c.reshape(config.cell_rows, config.slices, config.beats, config.slice_width).copy()
    vectors = y.reshape(-1, config.groups, config.channels).copy()

    async def memories(ctx):
        """Read in the cycle of the address; written where a write is set."""
        while True:
            row, beat, line = ctx.get(dut.cell_row), ctx.get(dut.cell_beat), ctx.get(dut.line)
            lanes = cells[row, :, beat].reshape(-1)
            for index in range(len(lanes)):
                if ctx.get(dut.cell_write) >> index & 1:
                    place = divmod(index, config.slice_width)
                    cells[row, place[0], beat, place[1]] = ctx.get(dut.data)
            for group in range(config.groups):
                for channel in range(config.channels):
                    if ctx.get(dut.bank) >> group & ctx.get(dut.write_channels) >> channel & 1:
                        vectors[line, group, channel] = ctx.get(dut.data)
            ctx.set(dut.cells, lanes.tolist())
            ctx.set(dut.columns, vectors[line].tolist())
            await ctx.tick()

    async def host(ctx):
        for _ in range(60):
            kept, cell = (c, 1) if rng.random() < 0.5 else (y, 0)
            index, channel = int(rng.integers(len(kept))), int(rng.integers(config.channels))
            ctx.set(dut.select, {"index": index, "channel": channel, "cell": cell})
            await cycles(ctx, 5)
            assert ctx.get(dut.value) == kept[index, channel]
            kept[index, channel] = int(rng.integers(128))
            ctx.set(dut.data, int(kept[index, channel]))
            ctx.set(dut.write, 1)
            await ctx.tick()
            ctx.set(dut.write, 0)
            await ctx.tick()
            assert (cells.reshape(c.shape) == c).all() and (vectors.reshape(y.shape) == y).all()

    simulate(dut, host, limit=1000, background=[memories])
