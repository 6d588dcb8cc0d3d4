# SPDX-License-Identifier: Apache-2.0
"""PE: from a column on the broadcast to a drained row."""

import numpy as np
import pytest
from bench import TINY, cycles, generator, integers, resettable, scramble, seeds, simulate, trace, unpack
from sparse import Drainer, Operation, random_jobs

from openese.rtl.act_queue import ActQueue
from openese.rtl.pe import PE
from openese.rtl.ptr_read import PtrRead
from openese.rtl.spmat_read import SpmatRead
from openese.rtl.spmv import SpMV

CONFIGS = {
    "tiny": TINY,
    "one channel": TINY.replace(channels=1, slice_width=1, queue_depth=32),
    "index3": TINY.replace(index_bits=3, weight_bits=8),
    "kinds": TINY.replace(channels=4, accumulator_rows=144, lut_channels=1, ultra_channels=2, ultra_weights=True),
    "forward": TINY.replace(forward=True),
    # The array takes two cycles to join ``done``, or none.
    "forward in tiles": TINY.replace(pes=16, slices=2, channels=1, slice_width=2, forward=True),
    "forward alone": TINY.replace(pes=1, channels=1, slice_width=1, forward=True),
}


class Bench:
    """Loads the weights of all operations, then broadcasts their columns as fast as the PE allows."""

    def __init__(self, config, rng, jobs, *, gaps=0.0, drain_chance=1.0):
        self.config = config
        self.rng = rng
        self.jobs = jobs
        self.gaps = gaps
        self.dut = PE(config, config.ultra_weights)
        self.drainer = Drainer(self.dut, config, rng, jobs, drain_chance)
        dut = self.dut
        self.watch, self.seen = trace(dut.done, dut.busy, dut.padding, dut.hazard,
                                      dut.column_valid, dut.full)
        # Columns and entries anywhere in their memories, but the entries of an operation in one piece.
        places = iter(rng.permutation(config.column_depth).tolist())
        lengths = [sum(len(entries) for _, entries in operation.columns) for operation in self.operations]
        apart = rng.multinomial(config.entry_depth - sum(lengths), [1 / len(lengths)] * len(lengths))
        words = 0
        self.indices = []
        for operation, length, gap in zip(self.operations, lengths, apart.tolist(), strict=True):
            operation.context["entry_base"] = words + gap
            words += gap + length
            self.indices.append([next(places) for _ in operation.columns])

    @property
    def operations(self):
        return [operation for job in self.jobs for operation in job]

    def run(self, limit=20_000):
        simulate(self.dut, self.broadcast, self.drainer.bench, limit=limit, background=[self.watch])

    def count(self, index):
        """Pulses of ``done``, ``busy``, ``padding``, ``hazard``, ``column_valid`` or ``full`` (0 to 5)."""
        return sum(values[index] for values in self.seen)

    async def load(self, ctx):
        """Write weights and pointers, both memories at once."""
        config, dut, rng = self.config, self.dut, self.rng
        weights, pointers = [], []
        for operation, indices in zip(self.operations, self.indices, strict=True):
            pointers += [(index, len(entries)) for (_, entries), index in zip(operation.columns, indices, strict=True)]
            words = [weight & ((1 << config.weight_bits) - 1) | skip << config.weight_bits
                     for _, entries in operation.columns for weight, skip in entries]
            weights += enumerate(words, operation.context["entry_base"])
        for port, valid, writes in ((dut.weights, dut.weights_valid, weights),
                                    (dut.pointers, dut.pointers_valid, pointers)):
            ctx.set(valid, 1)
            for address, value in writes:
                ctx.set(port, {"address": address, "data": value})
                await ctx.tick()
            ctx.set(valid, 0)
            scramble(ctx, rng, port)

    async def send(self, ctx, column, values):
        """Send a column, or nothing; ``values`` go with the column of `column_delay` cycles ago."""
        dut = self.dut
        self._late.append(values)
        ctx.set(dut.column_valid, column is not None)
        if column is not None:
            ctx.set(dut.column, column)
        else:
            scramble(ctx, self.rng, dut.column)
        ctx.set(dut.activations, self._late.pop(0))
        await ctx.tick()

    def noise(self):
        return integers(self.rng, self.config.activation_bits, self.config.channels)

    async def broadcast(self, ctx):
        """Contexts and columns, `ActQueue.margin` of them after ``full`` has risen."""
        dut = self.dut
        await self.load(ctx)
        self._late = [self.noise() for _ in range(dut.column_delay(self.config))]
        credit, number = 0, 0
        for index, job in enumerate(self.jobs):
            while self.drainer.drained < index - 1:
                await self.send(ctx, None, self.noise())
            for operation, indices in zip(job, self.indices[number:number + len(job)], strict=True):
                # No more than four operations at once.
                while self.drainer.done < number - 3:
                    await self.send(ctx, None, self.noise())
                ctx.set(dut.context, operation.context)
                ctx.set(dut.context_operation, number % 4)
                ctx.set(dut.context_valid, 1)
                await self.send(ctx, None, self.noise())
                ctx.set(dut.context_valid, 0)
                scramble(ctx, self.rng, dut.context, dut.context_operation)
                ends = [{"operation": number % 4, "end": 1, "index": 0}]
                columns = [{"operation": number % 4, "end": 0, "index": index} for index in indices] + ends
                values = [values for values, _ in operation.columns] + [self.noise()]
                while columns:
                    # A column takes `PtrRead.delay` cycles to the queue: so many are on their way already.
                    credit = credit - 1 if ctx.get(dut.full) else ActQueue.margin - PtrRead.delay
                    if credit < 0 or self.rng.random() < self.gaps:
                        await self.send(ctx, None, self.noise())
                    else:
                        await self.send(ctx, columns.pop(0), values.pop(0))
                number += 1
        for _ in range(dut.column_delay(self.config)):
            await self.send(ctx, None, self.noise())


@seeds(1)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("gaps, drain_chance", [(0.0, 1.0), (0.3, 0.4)])
def test_columns_become_sums(config, gaps, drain_chance, seed):
    rng = generator(seed)
    jobs = random_jobs(rng, config, 6, phases=2, rows=(4, 20), density=0.15, empty=True)
    bench = Bench(config, rng, jobs, gaps=gaps, drain_chance=drain_chance)
    bench.run()
    assert bench.count(0) == len(bench.operations)
    assert bench.count(1) == sum(operation.busy for operation in bench.operations)
    assert bench.count(2) == sum(operation.padding for operation in bench.operations)


def operation_of(rng, columns):
    """An operation with so many entries a column, no two near columns with a row in common."""
    context = dict.fromkeys(("entry_base", "acc_base", "phase_stride", "phase_last"), 0)
    work = []
    for number, count in enumerate(columns):
        rows = np.arange(count) + number % 5 * 8
        skips = (np.diff([-1, *rows]) - 1).tolist()
        work.append(([number, -number], [(int(rng.integers(1, 1000)), skip) for skip in skips]))
    return Operation({**context, "align": [0] * 4}, work)


@pytest.mark.parametrize("columns, entries", [
    ([0] * 40, 0),
    ([0, 0, 0, 1] * 10, 10),
    ([1] * 40, 40),
])
def test_cycles_of_sparse_columns(columns, entries):
    """One column a cycle, whether it is empty or not; then the delays of the blocks to ``done``."""
    rng = generator(0)
    bench = Bench(TINY, rng, [[operation_of(rng, columns)]])
    bench.run()
    sent = [cycle for cycle, values in enumerate(bench.seen) if values[4]]
    done, = [cycle for cycle, values in enumerate(bench.seen) if values[0]]
    assert (bench.count(1), bench.count(3)) == (entries, 0)
    assert sent[-1] - sent[0] == len(columns)
    assert done == sent[-1] + PtrRead.delay + 1 + SpmatRead.delay + SpMV.done_delay(TINY)


def test_multipliers_never_idle_while_columns_wait():
    """Long columns: from the first entry to the last one is multiplied in every cycle."""
    rng = generator(0)
    bench = Bench(TINY, rng, [[operation_of(rng, [7, 0, 5, 8, 1, 6, 0, 0, 8, 3] * 5)]])
    bench.run()
    assert bench.count(5) > 0, "the queue never filled"
    busy = [values[1] for values in bench.seen]
    start = busy.index(1)
    total = bench.operations[0].busy
    assert busy[start:start + total] == [1] * total


@pytest.mark.parametrize("columns", [[1 << k for k in range(TINY.accumulator_rows.bit_length() - 1)], [20] * 40],
                         ids=["powers of two", "a full queue"])
def test_columns_of_many_entries(columns):
    """A sender that stops as late as it may finds room for every column."""
    rng = generator(0)
    bench = Bench(TINY, rng, [[operation_of(rng, columns)]])
    bench.run(limit=4_000)
    assert bench.count(1) == sum(columns)


@seeds(2)
def test_rows_that_wait_for_themselves(seed):
    """Few rows, so that many entries need a sum that is still under way."""
    rng = generator(seed)
    bench = Bench(TINY, rng, random_jobs(rng, TINY, 8, phases=1 + seed, rows=(2, 6), density=0.5))
    bench.run()
    assert bench.count(1) == sum(operation.busy for operation in bench.operations)
    assert bench.count(3) > 40


@pytest.mark.parametrize("config, delay", [(TINY, PtrRead.delay),
                                           (CONFIGS["forward"], PtrRead.delay + SpmatRead.delay)],
                         ids=["tiny", "forward"])
def test_column_delay_is_that_of_the_pointers(config, delay):
    """Activations are sampled exactly `column_delay` cycles after their column."""
    rng = generator(0)
    dut = PE(config)
    value = []

    async def bench(ctx):
        ctx.set(dut.weights, {"address": 0, "data": 1})
        ctx.set(dut.weights_valid, 1)
        ctx.set(dut.pointers, {"address": 9, "data": 1})
        ctx.set(dut.pointers_valid, 1)
        ctx.set(dut.context_valid, 1)
        await ctx.tick()
        ctx.set(dut.weights_valid, 0)
        ctx.set(dut.pointers_valid, 0)
        ctx.set(dut.context_valid, 0)
        ctx.set(dut.column, {"index": 9, "operation": 0, "end": 0})
        ctx.set(dut.column_valid, 1)
        for cycle in range(20):
            ctx.set(dut.activations, [100 + cycle, int(rng.integers(-5, 5))])
            await ctx.tick()
            ctx.set(dut.column_valid, 0)
        ctx.set(dut.drain, 1)
        await cycles(ctx, SpMV.drain_delay)
        value.append(unpack(ctx.get(dut.drained), TINY.accumulator_bits, 1)[0])

    simulate(dut, bench, limit=100)
    assert value == [100 + dut.column_delay(config)] == [100 + delay]


def test_a_reset_ends_all_work():
    """In whatever cycle of it: from the next cycle on nothing is under way, and nothing counts."""
    dut = PE(TINY)
    top, reset = resettable(dut)
    busy = []

    async def bench(ctx):
        ctx.set(dut.pointers, {"address": 9, "data": 4})
        ctx.set(dut.pointers_valid, 1)
        ctx.set(dut.weights_valid, 1)
        for line in range(8):
            ctx.set(dut.weights, {"address": line, "data": 1})
            await ctx.tick()
        ctx.set(dut.pointers_valid, 0)
        ctx.set(dut.weights_valid, 0)
        for after in range(20):
            ctx.set(dut.context_valid, 1)
            await ctx.tick()
            ctx.set(dut.context_valid, 0)
            ctx.set(dut.column_valid, 1)
            for end in (0, 1):
                ctx.set(dut.column, {"index": 9, "operation": 0, "end": end})
                await ctx.tick()
            ctx.set(dut.column_valid, 0)
            await cycles(ctx, after)
            ctx.set(reset, 1)
            busy.append(ctx.get(dut.busy))
            await ctx.tick()
            ctx.set(reset, 0)
            for _ in range(12):
                assert not any(ctx.get(signal) for signal in (dut.busy, dut.padding, dut.hazard, dut.done, dut.full))
                await ctx.tick()

    simulate(top, bench, limit=1500)
    assert any(busy) and not all(busy)
