# SPDX-License-Identifier: Apache-2.0
"""SpmatRead: the entries of `SpmatRead.model`, one a cycle, whoever stalls."""

import numpy as np
import pytest
from bench import TINY, check_held, collect, feed, generator, integers, pause, put, seeds, simulate, trace

from openese.rtl.spmat_read import SpmatRead

CONFIGS = {"tiny": TINY, "index3": TINY.replace(index_bits=3, entry_depth=256, weight_bits=8)}
FLAGS = ("operation", "first", "fresh", "end")


def signed(words, bits):
    """The lower ``bits`` bits of ``words`` as signed integers."""
    half = 1 << (bits - 1)
    return ((np.asarray(words) & (2 * half - 1)) ^ half) - half


class Work:
    """Random weights, operations and what must come of them."""

    def __init__(self, config, rng, operations, longest=9):
        self.words = rng.integers(0, 1 << config.entry_bits, config.entry_depth)
        self.tokens, self.bases, self.entries = [], [], []
        for number in range(operations):
            operation = number % 4
            counts = rng.integers(1, longest + 1, rng.integers(0, 8)).tolist()
            base = int(rng.integers(0, config.entry_depth - sum(counts) + 1))
            self.bases.append(base)
            self.tokens += [{"count": count, "operation": operation, "end": 0} for count in counts]
            self.tokens.append({"count": 0, "operation": operation, "end": 1})
            for index, (address, first) in enumerate(SpmatRead.model(counts, base)):
                word = self.words[address]
                self.entries.append((int(signed(word, config.weight_bits)), int(word >> config.weight_bits),
                                     operation, int(first), int(index == 0), 0))
            self.entries.append((None, None, operation, 0, None, 1))

    async def load(self, ctx, dut, rng):
        """Write the weights, in any order."""
        ctx.set(dut.load_valid, 1)
        for address in rng.permutation(len(self.words)):
            ctx.set(dut.load, {"address": int(address), "data": int(self.words[address])})
            await ctx.tick()
        ctx.set(dut.load_valid, 0)
        ctx.set(dut.load, {"address": self.bases[0], "data": 0})

    async def set_base(self, ctx, dut, number):
        """Announce an operation."""
        ctx.set(dut.base, self.bases[number])
        ctx.set(dut.base_operation, number % 4)
        ctx.set(dut.base_valid, 1)
        await ctx.tick()
        ctx.set(dut.base_valid, 0)

    def feed(self, dut, rng, chance):
        """Bench: load, then all tokens. Each base comes just before its operation's first token."""
        async def bench(ctx):
            await self.load(ctx, dut, rng)
            await self.set_base(ctx, dut, 0)
            number = 0
            for token in self.tokens:
                await pause(ctx, rng, chance)
                await put(ctx, dut.tokens, token)
                if token["end"] and number + 1 < len(self.bases):
                    number += 1
                    await self.set_base(ctx, dut, number)
        return bench


def plain(entry):
    """An entry as integers; of an end only what it says."""
    flags = [entry[name] for name in FLAGS]
    if entry.end:
        return (None, None, flags[0], flags[1], None, 1)
    return (entry.weight, entry.skip, *flags)


@seeds(2)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("stalls", [(0.0, 0.0), (0.0, 0.6), (0.7, 0.0), (0.3, 0.5)])
def test_entries_of_the_tokens(config, stalls, seed):
    rng = generator(seed)
    work = Work(config, rng, operations=10)
    dut = SpmatRead(config)
    results = []
    simulate(dut, work.feed(dut, rng, stalls[0]),
             collect(dut.entries, len(work.entries), results, rng, stalls[1]),
             limit=config.entry_depth + 4000, background=[check_held(dut.entries)])
    assert [plain(entry) for entry in results] == work.entries


def test_no_gap_between_columns_and_latency():
    """`delay` cycles after the first token there is an entry in every cycle until the last."""
    counts = [3, 1, 1, 5, 2]
    dut = SpmatRead(TINY)
    tokens = [{"count": count, "operation": 0, "end": 0} for count in counts]
    tokens += [{"count": 0, "operation": 0, "end": 1}, *tokens]
    watch, seen = trace(dut.tokens.valid, dut.entries.valid, dut.entries.payload.end)

    async def ready(ctx):
        ctx.set(dut.entries.ready, 1)
        for _ in range(40):
            await ctx.tick()

    simulate(dut, feed(dut.tokens, tokens), ready, limit=60, background=[watch])
    start = next(cycle for cycle, (valid, *_) in enumerate(seen) if valid)
    expected = [0] * dut.delay + [1] * (2 * sum(counts) + 1)
    assert [valid for _, valid, _ in seen[start:start + len(expected) + 4]] == expected + [0] * 4
    assert [cycle for cycle, (*_, end) in enumerate(seen) if end] == [start + dut.delay + sum(counts)]


@seeds(1)
def test_weights_may_be_any(seed):
    """Extremes of the weight and of the skip pass through."""
    rng = generator(seed)
    work = Work(TINY, rng, operations=1)
    dut = SpmatRead(TINY)
    weights = integers(rng, TINY.weight_bits, TINY.entry_depth)
    skips = rng.choice([0, 1, (1 << TINY.index_bits) - 1], TINY.entry_depth)
    work.words = (np.array(weights) & ((1 << TINY.weight_bits) - 1)) | (skips << TINY.weight_bits)
    work.bases = [0]
    work.tokens = [{"count": TINY.accumulator_rows - 1, "operation": 0, "end": 0}]
    results = []
    simulate(dut, work.feed(dut, rng, 0.0), collect(dut.entries, TINY.accumulator_rows - 1, results),
             limit=TINY.entry_depth + 500)
    assert [(entry.weight, entry.skip) for entry in results] == [
        (weight, skip) for weight, skip in zip(weights, skips, strict=True)][:TINY.accumulator_rows - 1]
