# SPDX-License-Identifier: Apache-2.0
"""ActQueue: everything comes out, in order, however the two sides stall."""

import pytest
from bench import TINY, check_held, collect, cycles, generator, integers, seeds, simulate, trace

from openese.rtl.act_queue import ActQueue
from openese.rtl.spmat_read import column_lead

CONFIGS = [TINY, TINY.replace(channels=1, slice_width=1, queue_depth=32), TINY.replace(forward=True)]
IDS = ["tiny", "deep", "forward"]


def random_columns(rng, config, count):
    """Tokens and the activations that go with them."""
    return [({"count": int(rng.integers(1, config.accumulator_rows)),
              "operation": int(rng.integers(4)),
              "end": int(rng.random() < 0.1)},
             integers(rng, config.activation_bits, config.channels)) for _ in range(count)]


class Writer:
    """Drives columns, and their activations `column_lead` cycles later."""

    def __init__(self, dut, config):
        self.dut = dut
        self.late = [None] * column_lead(config)

    def __call__(self, ctx, column):
        """Drive one column, or none, for the cycle that follows."""
        ctx.set(self.dut.i_valid, column is not None)
        if column is not None:
            ctx.set(self.dut.i, column[0])
        self.late.append(column)
        if (due := self.late.pop(0)) is not None:
            ctx.set(self.dut.activations, due[1])


def plain(token):
    """A token as a dictionary of integers."""
    return {name: token[name] for name in ("count", "operation", "end")}


@seeds(2)
@pytest.mark.parametrize("config", CONFIGS, ids=IDS)
@pytest.mark.parametrize("stalls", [(0.0, 0.0, 0.0), (0.0, 0.7, 0.8), (0.0, 0.8, 0.7), (0.5, 0.2, 0.2)])
def test_everything_comes_out_in_order(config, stalls, seed):
    rng = generator(seed)
    dut = ActQueue(config)
    columns = random_columns(rng, config, 300)
    tokens, activations = [], []

    async def writer(ctx):
        """Stop as late as is allowed: `margin` columns after ``full`` has risen."""
        left, write = list(columns), Writer(dut, config)
        credit = dut.margin
        while left:
            credit = credit - 1 if ctx.get(dut.full) else dut.margin
            goes = credit >= 0 and rng.random() >= stalls[0]
            write(ctx, left.pop(0) if goes else None)
            await ctx.tick()
        for _ in range(1 + column_lead(config)):
            write(ctx, None)
            await ctx.tick()

    expected = ActQueue.model([token for token, _ in columns])
    queued = [values for token, values in columns if not token["end"]]
    simulate(dut, writer,
             collect(dut.tokens, len(expected), tokens, rng, stalls[1]),
             collect(dut.columns, len(queued), activations, rng, stalls[2]),
             background=[check_held(dut.tokens), check_held(dut.columns)], limit=10_000)
    assert [plain(token) for token in tokens] == expected
    assert [list(values) for values in activations] == queued


@pytest.mark.parametrize("config", CONFIGS, ids=IDS)
def test_full_leaves_room_for_the_margin(config):
    """With nobody taking, ``full`` rises, and exactly what is under way still fits."""
    dut = ActQueue(config)
    columns = [({"count": 1 + k % 100, "operation": k % 4, "end": 0}, [k] * config.channels)
               for k in range(2 * config.queue_depth)]
    tokens, activations = [], []
    written, write = [], Writer(dut, config)

    async def bench(ctx):
        while not ctx.get(dut.full):
            write(ctx, columns[len(written)])
            written.append(columns[len(written)])
            await ctx.tick()
        assert len(written) > (config.queue_depth - dut.margin) // 2, "full rises too early to be of use"
        for _ in range(dut.margin):
            write(ctx, columns[len(written)])
            written.append(columns[len(written)])
            await ctx.tick()
        for _ in range(1 + column_lead(config)):
            write(ctx, None)
            await ctx.tick()
        await collect(dut.tokens, len(written), tokens)(ctx)
        assert ctx.get(dut.full), "the columns are still there"
        await collect(dut.columns, len(written), activations)(ctx)
        await cycles(ctx, 2)
        assert not ctx.get(dut.full)

    simulate(dut, bench, limit=1000)
    assert [plain(token) for token in tokens] == [token for token, _ in written]
    assert [list(values) for values in activations] == [values for _, values in written]


def test_latency_is_one_cycle_and_an_end_has_no_column():
    dut = ActQueue(TINY)
    write = Writer(dut, TINY)
    watch, seen = trace(dut.i_valid, dut.tokens.valid, dut.columns.valid)

    async def bench(ctx):
        ctx.set(dut.tokens.ready, 1)
        ctx.set(dut.columns.ready, 1)
        for end in (0, 1, 0):
            write(ctx, ({"count": 3, "operation": 1, "end": end}, [5, -7]))
            await ctx.tick()
            write(ctx, None)
            await cycles(ctx, 3)

    simulate(dut, bench, limit=50, background=[watch])
    pulses = [(0, 0, 0)] * 2
    assert seen[:12] == [(1, 0, 0), (0, 1, 1), *pulses, (1, 0, 0), (0, 1, 0), *pulses,
                           (1, 0, 0), (0, 1, 1), *pulses]
