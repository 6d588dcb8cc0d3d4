# SPDX-License-Identifier: Apache-2.0
"""StateAccess: every number of every voice, at the place where the machine keeps it, one after another."""

import itertools
from collections import deque

import numpy as np
import pytest
from bench import TINY, cycles, generator, integers, pause, seeds, simulate, until

from openese.rtl.state_access import StateAccess

CONFIGS = {
    "tiny": TINY,
    "one channel": TINY.replace(channels=1, slice_width=1),
    "one slice": TINY.replace(slices=1),
    "wide slice": TINY.replace(slices=2, slice_width=4),
    "narrow slice": TINY.replace(slices=2, slice_width=1),
    "two groups": TINY.replace(groups=2, slices=1),
    "two banks": TINY.replace(banks=2),
    "four lines a write": TINY.replace(pes=16, groups=2, slices=2, slice_width=8, forward=True),
}


class Memories:
    """The memories of c and y as the machine keeps them, behind their pipelines; and as a host counts them."""

    def __init__(self, config, rng):
        self.config = config
        self.dut = StateAccess(config)
        #: By bank, cell and channel; and by column and channel.
        self.c = np.array(integers(rng, config.cell_bits,
                                   (config.banks, config.cell_rows * config.row_pes, config.channels)))
        self.y = np.array(integers(rng, config.activation_bits, (config.vector_depth, config.channels)))
        # By bank, cell row, slice, beat, lane; and by line, bank of the vector memory, channel.
        self._cells = self.c.reshape(config.banks, config.cell_rows, config.slices, config.beats,
                                     config.slice_width).copy()
        self._vectors = self.y.reshape(-1, config.groups, config.channels).copy()

    def equal(self):
        return (self._cells.reshape(self.c.shape) == self.c).all() and (
            self._vectors.reshape(self.y.shape) == self.y).all()

    def _stood(self, addresses, delay, other):
        """The address that has been read for so long, or another."""
        stood = set(itertools.islice(addresses, delay, delay + self.dut.period))
        return addresses[delay] if len(stood) == 1 else other

    async def run(self, ctx):
        """A cycle after the other. What is read is right only when its address has stood for `period` cycles."""
        dut, config = self.dut, self.config
        longest = max(dut.write_delay, dut.cell_delay, dut.column_delay) + dut.period
        places, lines = deque([(0, 0, 0)] * longest, longest), deque([0] * longest, longest)
        written = deque([[]] * 3, 3)  # a register in the tile, and one in the slice
        while True:
            bank = ctx.get(dut.cell_bank) if config.banks > 1 else 0
            places.appendleft((bank, ctx.get(dut.cell_row), ctx.get(dut.cell_beat)))
            lines.appendleft(ctx.get(dut.line))
            bank, row, beat = self._stood(places, dut.cell_delay, (0, 0, 0))
            ctx.set(dut.cells, self._cells[bank, row, :, beat].reshape(-1).tolist())
            ctx.set(dut.columns, self._vectors[self._stood(lines, dut.column_delay, 0)].tolist())
            lanes = ctx.get(dut.cell_write)
            place = places[dut.write_delay]
            written.append([(index, ctx.get(dut.cell_data), place) for index in range(lanes.bit_length())
                            if lanes >> index & 1])
            for index, value, (bank, row, beat) in written[0]:
                slice_, lane = divmod(index, config.slice_width)
                self._cells[bank, row, slice_, beat, lane] = value
            for column in range(config.write_columns):
                for channel in range(config.channels):
                    if ctx.get(dut.bank) >> column & ctx.get(dut.write_channels) >> channel & 1:
                        bits = config.activation_bits
                        value = ctx.get(dut.data) & (1 << bits) - 1
                        line = lines[0] // config.write_lines * config.write_lines + column // config.groups
                        self._vectors[line, column % config.groups, channel] = value - (value >> bits - 1 << bits)
            await ctx.tick()


class Host:
    """Accesses, as the registers make them."""

    def __init__(self, memories, rng, stalls):
        self.dut, self._memories, self._rng, self._stalls = memories.dut, memories, rng, stalls
        self.index = 0

    async def begin(self, ctx, cell):
        """Begin at the first number of c, or of y, of a voice that is chosen."""
        await self.select(ctx)
        self.cell, self.index, self.kept = cell, 0, self._memories.c[0] if cell else self._memories.y
        self._point(ctx)
        await self._pulse(ctx, self.dut.restart)

    async def select(self, ctx):
        config, rng = self._memories.config, self._rng
        self.cell, self.channel = int(rng.integers(2)), int(rng.integers(config.channels))
        self.bank = int(rng.integers(config.banks))
        self.kept = self._memories.c[self.bank] if self.cell else self._memories.y
        self.index = int(rng.integers(len(self.kept)))
        await until(ctx, ~self.dut.writing)
        self._point(ctx)
        await self._pulse(ctx, self.dut.restart)

    def _point(self, ctx):
        ctx.set(self.dut.select, {"index": self.index, "channel": self.channel, "bank": self.bank, "cell": self.cell})

    async def _pulse(self, ctx, signal):
        ctx.set(signal, 1)
        await ctx.tick()
        ctx.set(signal, 0)

    async def read(self, ctx):
        await pause(ctx, self._rng, self._stalls)
        ctx.set(self.dut.wanted, 1)
        waited = 0
        while not ctx.get(self.dut.value_valid):
            await ctx.tick()
            waited += 1
        ctx.set(self.dut.wanted, 0)
        assert ctx.get(self.dut.value) == self.kept[self.index, self.channel], (self.index, self.cell)
        self.index += 1
        await self._pulse(ctx, self.dut.take)
        self._point(ctx)
        return waited

    async def write(self, ctx):
        await pause(ctx, self._rng, self._stalls)
        bits = self._memories.config.cell_bits if self.cell else self._memories.config.activation_bits
        value = int(self._rng.integers(-1 << bits - 1, 1 << bits - 1))
        self.kept[self.index, self.channel] = value
        ctx.set(self.dut.data, value & 0xFFFFFFFF)
        self.index += 1
        await self._pulse(ctx, self.dut.write)
        self._point(ctx)

    @property
    def left(self):
        return len(self.kept) - self.index


@seeds(2)
@pytest.mark.parametrize("stalls", [0.0, 0.6])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_every_number_has_its_place(config, stalls, seed):
    """Runs of reads and writes of c and y, against memories that are arrays behind delays."""
    rng = generator(seed)
    memories = Memories(config, rng)
    host = Host(memories, rng, stalls)

    async def bench(ctx):
        for _ in range(12):
            await host.select(ctx)
            for _ in range(int(rng.integers(1, 4))):
                access = host.read if rng.random() < 0.5 else host.write
                for _ in range(min(host.left, int(rng.integers(1, 14)))):
                    await access(ctx)
        await cycles(ctx, memories.dut.write_delay + 3)
        assert memories.equal()

    simulate(memories.dut, bench, limit=9000, background=[memories.run])


@pytest.mark.parametrize("cell", [0, 1])
def test_a_number_in_four_cycles(cell):
    """However long it takes to the first."""
    memories = Memories(TINY, generator(1))
    host = Host(memories, generator(1), 0.0)

    async def bench(ctx):
        await host.begin(ctx, cell)
        delay = host.dut.cell_delay if cell else host.dut.column_delay
        assert await host.read(ctx) == delay + host.dut.period + 3
        for _ in range(30):
            await cycles(ctx, 3)  # and one in which the number is taken
            assert await host.read(ctx) == 0

    simulate(memories.dut, bench, limit=400, background=[memories.run])


@pytest.mark.parametrize("cell", [0, 1])
def test_numbers_wait_for_the_host(cell):
    """However long it does not ask, none is lost and none comes twice."""
    memories = Memories(TINY, generator(2))
    host = Host(memories, generator(2), 0.0)

    async def bench(ctx):
        await host.begin(ctx, cell)
        for number in range(30):
            await host.read(ctx)
            await cycles(ctx, 100 * (number % 8 == 2))

    simulate(memories.dut, bench, limit=1500, background=[memories.run])


@pytest.mark.parametrize("apart", [1, 2, 7])
def test_a_c_is_on_its_way_until_it_is_in_its_memory(apart):
    """Two cycles from the last ``cell_write``; a y takes effect at once."""
    dut, seen = StateAccess(TINY), []

    async def bench(ctx):
        for cell, count in ((1, 1), (1, 3), (0, 1)):
            ctx.set(dut.select, {"cell": cell})
            for _ in range(count):
                ctx.set(dut.write, 1)
                await ctx.tick()
                ctx.set(dut.write, 0)
                await cycles(ctx, apart - 1)
            seen.append(0)
            while ctx.get(dut.writing):
                seen[-1] += 1
                await ctx.tick()

    simulate(dut, bench, limit=200)
    assert seen == [dut.write_delay + 3 - apart] * 2 + [0]
