# SPDX-License-Identifier: Apache-2.0
"""PEArray: every PE its own rows of the same columns, behind the broadcast that feeds it."""

from collections import deque

import numpy as np
import pytest
from amaranth.hdl import Cat, Module
from amaranth.lib import wiring
from bench import TINY, generator, seeds, simulate, trace, unpack, until
from sparse import random_operation

from openese.rtl.array import PEArray
from openese.rtl.broadcast import Broadcast
from openese.rtl.vector_memory import VectorMemory

CONFIGS = {
    "tiny": TINY,
    "two groups": TINY.replace(groups=2, slices=2),
    "many PEs": TINY.replace(pes=16, channels=1, slices=1),
    "wide pointers": TINY.replace(pes=16, channels=1, groups=2, slices=2, wide_pointers=True, ultra_weights=True,
                                  block_weights=3),
    "wide pointers, forward": TINY.replace(pes=8, channels=1, slices=1, wide_pointers=True, forward=True),
}


class Fed(wiring.Component):
    """The array, its broadcast and the vector memory, as in the machine."""

    def __init__(self, config):
        self.array = PEArray(config)
        self.broadcast = Broadcast(config)
        self.vectors = VectorMemory(config)
        super().__init__({})

    def elaborate(self, platform):
        m = Module()
        array, broadcast, vectors = self.array, self.broadcast, self.vectors
        m.submodules.array, m.submodules.broadcast, m.submodules.vectors = array, broadcast, vectors
        m.d.comb += [
            array.column.eq(broadcast.column),
            array.column_valid.eq(broadcast.column_valid),
            array.activations.eq(broadcast.activations),
            broadcast.full.eq(array.full),
            vectors.read_line.eq(broadcast.read_line),
            broadcast.columns.eq(vectors.columns),
        ]
        return m


class Bench:
    """Operations that add to the same rows; their columns lie one after another in the vector memory."""

    def __init__(self, config, rng, count, *, rows=12, columns=16, density=0.2):
        self.config = config
        self.rng = rng
        self.dut = Fed(config)
        self.lines = config.vector_depth // config.groups
        self.accumulator = np.zeros((config.pes, config.accumulator_rows, config.channels), np.int64)
        self.values = np.zeros((self.lines, config.groups, config.channels), np.int64)
        # By operation: one a PE.
        self.operations = []
        words = line = 0
        for _ in range(count):
            shared = random_operation(rng, config, base=int(rng.integers(8)), rows=rows, phases=2,
                                      columns=columns, density=density)
            parts = []
            for pe in range(config.pes):
                part = random_operation(rng, config, base=0, rows=rows, phases=2, columns=columns,
                                        density=density, empty=True)
                part.context = {**shared.context, "entry_base": words}
                group = pe // config.row_pes
                # The PEs of a group see the same activations.
                source = part if pe % config.row_pes == 0 else parts[group * config.row_pes]
                part.columns = [(values, entries) for (values, _), (_, entries)
                                in zip(source.columns, part.columns, strict=True)]
                self.values[line:line + columns, group] = [values for values, _ in part.columns]
                part.add_to(self.accumulator[pe])
                parts.append(part)
            self.operations.append((parts, line))
            words += max(sum(len(entries) for _, entries in part.columns) for part in parts)
            line += columns
        assert words <= config.entry_depth
        array = self.dut.array
        self._watch, self.seen = trace(array.done, array.busy, array.padding, array.hazard, array.full)

    async def load(self, ctx):
        """Order, pointers, weights and vectors."""
        config, dut = self.config, self.dut
        array, broadcast, vectors = dut.array, dut.broadcast, dut.vectors
        bits = (self.lines - 1).bit_length()
        ctx.set(vectors.write_channels, (1 << config.channels) - 1)
        for port in (broadcast.order_valid, array.pointers_valid):
            ctx.set(port, 1)
        for parts, base in self.operations:
            for k in range(len(parts[0].columns)):
                line = base + k
                ctx.set(vectors.write_line, line)
                ctx.set(vectors.write_bank, ((1 << config.groups) - 1) << line % config.write_lines * config.groups)
                ctx.set(vectors.write_columns, self.values[line].tolist() * config.write_lines)
                ctx.set(broadcast.order, {"address": line, "data": sum(line << (group * bits)
                                                                      for group in range(config.groups))})
                counts = sum(len(part.columns[k][1]) << (pe * config.count_bits)
                             for pe, part in enumerate(parts))
                ctx.set(array.pointers, {"address": line, "data": counts})
                await ctx.tick()
        for port in (broadcast.order_valid, array.pointers_valid, vectors.write_bank):
            ctx.set(port, 0)
        ctx.set(array.weights_valid, 1)
        for parts, _ in self.operations:
            words = [[weight & ((1 << config.weight_bits) - 1) | skip << config.weight_bits
                      for _, entries in part.columns for weight, skip in entries] for part in parts]
            for k in range(max(map(len, words))):
                data = sum(mine[k] << (pe * config.entry_bits)
                           for pe, mine in enumerate(words) if k < len(mine))
                ctx.set(array.weights, {"address": parts[0].context["entry_base"] + k, "data": data})
                await ctx.tick()
        ctx.set(array.weights_valid, 0)

    async def broadcast(self, ctx):
        """One operation after another, at most four at once."""
        array, broadcast = self.dut.array, self.dut.broadcast
        for number, (parts, line) in enumerate(self.operations):
            while ctx.get(broadcast.busy) or sum(values[0] for values in self.seen) < number - 3:
                await ctx.tick()
            for name, value in (("count", len(parts[0].columns)), ("order_base", line), ("src_base", 0),
                                ("operation", number % 4), ("start", 1)):
                ctx.set(getattr(broadcast, name), value)
            ctx.set(array.context, parts[0].context)
            ctx.set(array.context_operation, number % 4)
            ctx.set(array.context_valid, 1)
            await ctx.tick()
            ctx.set(broadcast.start, 0)
            ctx.set(array.context_valid, 0)

    async def drain(self, ctx):
        """All rows, one a cycle; each is at its slice after `drain_delay`."""
        array = self.dut.array
        config = self.config
        drained_rows = Cat(tile.slice.drained for tile in array.tiles)
        due = deque([None] * PEArray.drain_delay)
        addresses = self.rng.permutation(self.config.accumulator_rows).tolist()
        for address in [*addresses, *[None] * PEArray.drain_delay]:
            ctx.set(array.drain, address is not None)
            if address is not None:
                ctx.set(array.drain_address, address)
            due.append(address)
            _, _, drained = await ctx.tick().sample(drained_rows)
            now = due.popleft()
            if now is not None:
                rows = self.accumulator[:, now].reshape(config.groups, config.slices, -1)
                expected = rows.swapaxes(0, 1).reshape(-1).tolist()
                assert unpack(drained, self.config.accumulator_bits, len(expected)) == expected, f"row {now}"

    def check_counters(self):
        parts = [part for parts, _ in self.operations for part in parts]
        assert sum(values[0] for values in self.seen) == len(self.operations)
        assert sum(values[1] for values in self.seen) == sum(part.busy for part in parts)
        assert sum(values[2] for values in self.seen) == sum(part.padding for part in parts)


@seeds(1)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_sums_of_all_pes(config, seed):
    """Operations back to back; the rows are drained from the cycle of the last ``done``."""
    rng = generator(seed)
    bench = Bench(config, rng, 6 if config.pes == 4 else 2)

    async def run(ctx):
        await bench.load(ctx)
        await bench.broadcast(ctx)
        while sum(values[0] for values in bench.seen) < len(bench.operations):
            await ctx.tick()
        await bench.drain(ctx)

    simulate(bench.dut, run, limit=6000, background=[bench._watch])
    bench.check_counters()


def test_a_broadcast_into_a_stalled_array_loses_nothing():
    """The queues' margin covers what is on its way from the broadcast when ``full`` rises."""
    rng = generator(0)
    bench = Bench(TINY, rng, 1, columns=60, density=0.3)

    async def run(ctx):
        array = bench.dut.array
        await bench.load(ctx)
        # Nothing is multiplied while something is drained; row 100 is not in use.
        ctx.set(array.drain, 1)
        ctx.set(array.drain_address, 100)
        await bench.broadcast(ctx)
        for _ in range(100):
            await ctx.tick()
        assert ctx.get(array.full)
        ctx.set(array.drain, 0)
        await until(ctx, array.done)
        await bench.drain(ctx)

    simulate(bench.dut, run, limit=6000, background=[bench._watch])
    bench.check_counters()
