# SPDX-License-Identifier: Apache-2.0
"""SpMV: the sums of `SpMV.model`, whatever waits, stalls or is drained meanwhile."""

import numpy as np
import pytest
from bench import TINY, cycles, feed, generator, integers, pause, put, seeds, simulate, trace, unpack
from sparse import Drainer, Operation, random_jobs, random_operation

from openese.rtl.spmv import SpMV

CONFIGS = {
    "tiny": TINY,
    "one channel": TINY.replace(channels=1, slice_width=1),
    "index3": TINY.replace(index_bits=3, weight_bits=8),
    "kinds": TINY.replace(channels=4, accumulator_rows=144, lut_channels=1, ultra_channels=2),
    "forward": TINY.replace(forward=True),
    "forward in tiles": TINY.replace(pes=16, slices=2, channels=1, slice_width=2, accumulator_rows=144, lut_channels=1,
                                     forward=True),
    "forward alone": TINY.replace(pes=1, channels=1, slice_width=1, forward=True),
}
FORWARD = {name: config for name, config in CONFIGS.items() if config.forward}


class Bench:
    """Runs jobs (see `Drainer`), and watches the counters."""

    def __init__(self, config, rng, jobs, *, entry_pauses=0.0, drain_chance=1.0):
        self.rng = rng
        self.jobs = jobs
        self.entry_pauses = entry_pauses
        self.dut = SpMV(config)
        self.drainer = Drainer(self.dut, config, rng, jobs, drain_chance)
        self._watch, self.seen = trace(self.dut.done, self.dut.busy, self.dut.padding, self.dut.hazard,
                                       self.dut.entries.valid & self.dut.entries.ready)

    @property
    def operations(self):
        return [operation for job in self.jobs for operation in job]

    def run(self, limit=20_000):
        columns = [values for operation in self.operations for values, _ in operation.columns]
        simulate(self.dut, self.entries, self.drainer.bench, feed(self.dut.columns, columns), limit=limit,
                 background=[self._watch])

    def count(self, index):
        """Pulses of ``done``, ``busy``, ``padding``, ``hazard`` or entries taken (0 to 4)."""
        return sum(values[index] for values in self.seen)

    async def entries(self, ctx):
        """Contexts, and entries with random pauses."""
        dut, number = self.dut, 0
        for index, job in enumerate(self.jobs):
            while self.drainer.drained < index - 1:
                await ctx.tick()
            for operation in job:
                ctx.set(dut.context, operation.context)
                ctx.set(dut.context_operation, number % 4)
                ctx.set(dut.context_valid, 1)
                await ctx.tick()
                ctx.set(dut.context_valid, 0)
                for first_column, (_, pairs) in enumerate(operation.columns):
                    for first, (weight, skip) in enumerate(pairs):
                        await pause(ctx, self.rng, self.entry_pauses)
                        await put(ctx, dut.entries, {
                            "weight": weight, "skip": skip, "operation": number % 4, "first": int(first == 0),
                            "fresh": int(first_column == 0 and first == 0), "end": 0})
                await put(ctx, dut.entries, {"weight": int(self.rng.integers(-8, 8)), "skip": 1,
                                             "operation": number % 4, "first": 0, "fresh": 0, "end": 1})
                number += 1


def check_counters(bench):
    assert bench.count(0) == len(bench.operations)
    assert bench.count(1) == sum(operation.busy for operation in bench.operations)
    assert bench.count(2) == sum(operation.padding for operation in bench.operations)
    assert bench.count(4) == sum(len(operation.slots) for operation in bench.operations)


@seeds(1)
@pytest.mark.parametrize("config", [TINY, *FORWARD.values()], ids=["tiny", *FORWARD])
@pytest.mark.parametrize("phases", [1, 2, 3, 4])
def test_sums_with_stalls_on_both_sides(phases, config, seed):
    rng = generator(seed)
    bench = Bench(config, rng, random_jobs(rng, config, 4, phases=phases, rows=(4, 15)),
                  entry_pauses=0.3, drain_chance=0.4)
    bench.run()
    check_counters(bench)


@seeds(2)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_sums_at_full_speed(config, seed):
    """No pauses: many hazards in few rows, padding in many; drains in every cycle they are allowed."""
    rng = generator(seed)
    few = random_jobs(rng, config, 4, phases=1, rows=(1, 4))
    many = random_jobs(rng, config, 4, phases=2, rows=(16, 30), density=0.05)
    bench = Bench(config, rng, few + many)
    bench.run()
    check_counters(bench)
    assert config.forward or bench.count(3) > 0


@seeds(2)
@pytest.mark.parametrize("config", FORWARD.values(), ids=FORWARD)
def test_rows_are_forwarded(config, seed):
    """The same row in each of four entries, in any pattern: none waits, with pauses and drains among them or not."""
    rng = generator(seed)
    half = config.accumulator_rows // 2
    jobs = [[single(rng, rng.choice(2 if job % 2 else 4, (60, 1)), {"acc_base": job % 2 * half}, config)]
            for job in range(6)]
    for pauses in (0.0, 0.3):
        bench = Bench(config, rng, jobs, entry_pauses=pauses, drain_chance=0.5)
        bench.run()
        check_counters(bench)
        assert bench.count(3) == 0


def single(rng, columns, context=None, config=TINY):
    """An operation of columns given as row lists, ascending, at weights and activations not zero."""
    context = {"entry_base": 0, "acc_base": 0, "phase_stride": 0, "phase_last": 0,
               "align": [0] * 4, **(context or {})}
    work = []
    for rows in columns:
        skips = np.diff([-1, *rows]) - 1
        work.append((rng.integers(1, 1000, config.channels).tolist(),
                     [(int(rng.integers(1, 1000)), int(skip)) for skip in skips]))
    return Operation(context, work)


@pytest.mark.parametrize("distance", [1, 2, 3, 4, 5])
def test_a_row_waits_for_its_way_back(distance):
    """The same row ``distance`` entries later waits until `latency` cycles have passed, and no longer."""
    rng = generator(distance)
    operation = single(rng, [[2, *range(10, 9 + distance)], [2, 20]] * 2)
    bench = Bench(TINY, rng, [[operation]])
    bench.run()
    waits = max(0, SpMV.latency - distance)
    # Back from the second column's row 20 to the third's row 2 it is two entries.
    between = max(0, SpMV.latency - 2)
    assert bench.count(3) == operation.stalls == 2 * waits + between


def test_other_rows_never_wait():
    rng = generator(0)
    operation = single(rng, [[0, 1], [2, 3], [0, 1], [2, 3]])
    bench = Bench(TINY, rng, [[operation]])
    bench.run()
    assert bench.count(3) == operation.stalls == 0


@seeds(6)
def test_cycles_are_entries_and_hazards_and_the_delay(seed):
    """Every cycle from the first entry to ``done`` is accounted for."""
    rng = generator(seed)
    operation = random_operation(rng, TINY, base=3, rows=6, phases=1 + seed % 3, columns=20,
                                 density=0.3)
    bench = Bench(TINY, rng, [[operation]])
    bench.run()
    taken = [cycle for cycle, values in enumerate(bench.seen) if values[4]]
    done, = [cycle for cycle, values in enumerate(bench.seen) if values[0]]
    assert bench.count(3) == operation.stalls
    assert done == taken[0] + len(operation.slots) - 1 + operation.stalls + SpMV.done_delay(TINY)


def test_done_comes_with_the_end_if_sums_are_forwarded():
    rng = generator(0)
    config = CONFIGS["forward"]
    operation = random_operation(rng, config, base=3, rows=6, phases=1, columns=20, density=0.3)
    bench = Bench(config, rng, [[operation]])
    bench.run()
    taken = [cycle for cycle, values in enumerate(bench.seen) if values[4]]
    done, = [cycle for cycle, values in enumerate(bench.seen) if values[0]]
    assert done == taken[0] + len(operation.slots) - 1 + SpMV.done_delay(config) == taken[-1]


def test_a_row_can_be_read_after_the_delay():
    """`delay` cycles after a lone entry its row is complete, though no operation has ended."""
    dut = SpMV(TINY)
    value = []

    async def bench(ctx):
        ctx.set(dut.context, {"acc_base": 5})
        ctx.set(dut.context_valid, 1)
        await ctx.tick()
        ctx.set(dut.context_valid, 0)
        ctx.set(dut.columns.payload, [30, -40])
        ctx.set(dut.columns.valid, 1)
        await put(ctx, dut.entries, {"weight": -3, "skip": 2, "first": 1, "fresh": 1})
        # The entry was taken in the cycle before this one.
        await cycles(ctx, dut.delay - 1)
        ctx.set(dut.drain, 1)
        ctx.set(dut.drain_address, 7)
        await ctx.tick()
        ctx.set(dut.drain, 0)
        await cycles(ctx, dut.drain_delay - 1)
        value.extend(unpack(ctx.get(dut.drained), TINY.accumulator_bits, 2))

    simulate(dut, bench, limit=50)
    assert value == [-90, 120]


@pytest.mark.parametrize("config", [TINY, CONFIGS["forward"]], ids=["tiny", "forward"])
@pytest.mark.parametrize("cycle", range(7))
def test_an_entry_may_come_right_behind_the_drain_of_its_row(cycle, config):
    """Decoding takes two cycles, so the entry of cycle 0 meets the drain of cycle 2; later ones follow."""
    dut = SpMV(config)
    values = []

    async def bench(ctx):
        ctx.set(dut.columns.payload, [30, -40])
        ctx.set(dut.columns.valid, 1)
        ctx.set(dut.entries.payload, {"weight": 1, "skip": 0, "first": 1, "fresh": 1})
        for arrival, drains in ((0, False), (cycle, True)):
            waiting = True
            for now in range(20):
                ctx.set(dut.entries.valid, waiting and now >= arrival)
                ctx.set(dut.drain, drains and now == 2 - dut.read_delay)
                waiting = waiting and not ctx.get(dut.entries.valid & dut.entries.ready)
                await ctx.tick()
        ctx.set(dut.drain, 1)
        await cycles(ctx, dut.drain_delay)
        values.extend(unpack(ctx.get(dut.drained), TINY.accumulator_bits, 2))

    simulate(dut, bench, limit=100)
    assert values == [30, -40]


def test_padding_adds_nothing_and_takes_one_cycle():
    """A row next to the padding's stays zero; padding never waits."""
    rng = generator(0)
    context = single(rng, []).context
    columns = [([1000, -1000], [(0, 0), (0, 0), (5, 0), (0, 2), (7, 0)])] * 3
    config = TINY.replace(index_bits=2)
    operation = Operation(context, columns, config.index_bits)
    bench = Bench(config, rng, [[operation]])
    bench.run()
    assert (bench.count(1), bench.count(2)) == (6, 9)
    assert bench.count(3) == operation.stalls == 0


def test_padding_behind_an_entry_that_waits_is_counted_once():
    """Row 0 waits for its way back, with padding behind it, which bridges 64 rows."""
    rng = generator(0)
    columns = [([100, -100], [(5, 0), (0, 0), (7, 0)])] * 6
    operation = Operation(single(rng, []).context, columns, TINY.index_bits)
    bench = Bench(TINY, rng, [[operation]])
    bench.run()
    assert bench.count(3) == operation.stalls > 0
    assert (bench.count(1), bench.count(2)) == (12, 6)
    check_counters(bench)


def test_an_operation_without_entries_is_done():
    rng = generator(0)
    second = {"acc_base": TINY.accumulator_rows // 2}
    bench = Bench(TINY, rng, [[single(rng, [])], [single(rng, [], second), single(rng, [[1]], second)]])
    bench.run()
    assert bench.count(0) == 3


def test_accumulators_hold_what_the_config_promises():
    """``row_nonzeros`` full-scale products of both signs, at the largest alignment that leaves as many."""
    config = TINY.replace(row_nonzeros=16)
    weight = (1 << (config.weight_bits - 1)) - 1
    lowest = -1 << (config.activation_bits - 1)
    context = {"entry_base": 0, "acc_base": 0, "phase_stride": 0, "phase_last": 0}
    rng = generator(0)
    work = []
    for align, columns in ((0, 16), (1, 8), (2, 4), (3, 2), (4, 1)):
        # Row 3 grows to the one end and row 7 to the other.
        work.append([Operation({**context, "align": [0, 0, 0, align]},
                               [([lowest, -lowest - 1], [(weight, 3), (-weight, 3)])] * columns)])
    bench = Bench(config, rng, work)
    for index, job in enumerate(work):
        job[0].context["acc_base"] = index % 2 * config.accumulator_rows // 2
    bench.run()


@seeds(1)
def test_activations_are_those_of_the_column(seed):
    """Columns of one entry, each with activations of its own."""
    rng = generator(seed)
    operation = Operation(single(rng, []).context,
                          [(integers(rng, 16, 2), [(1, row % 32)]) for row in range(64)])
    Bench(TINY, rng, [[operation]], entry_pauses=0.3, drain_chance=0.5).run()
