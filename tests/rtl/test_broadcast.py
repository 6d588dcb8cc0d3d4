# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Broadcast: columns in their order, each with its activations, however it is held up."""

from collections import deque

import numpy as np
import pytest
from bench import TINY, generator, integers, pause, seeds, simulate, trace

from openese.rtl.array import PEArray
from openese.rtl.broadcast import Broadcast
from openese.rtl.spmat_read import column_lead
from openese.rtl.vector_memory import VectorMemory

SMALL = TINY.replace(column_depth=64)
CONFIGS = {
    "tiny": SMALL,
    "one channel": SMALL.replace(channels=1, slice_width=1),
    "two groups": SMALL.replace(groups=2, slices=2),
    "forward": SMALL.replace(groups=2, slices=2, forward=True),
}


class Bench:
    """Random operations on a vector memory that is only an array."""

    def __init__(self, config, rng, operations, *, full=0.0, slow=0.0):
        self.config = config
        self.rng = rng
        self.full = full
        self.slow = slow
        self.dut = Broadcast(config)
        self.lines = config.vector_depth // config.groups
        self.order = rng.integers(0, self.lines, (config.column_depth, config.groups))
        self.vectors = np.array(integers(rng, config.activation_bits,
                                         (self.lines, config.groups, config.channels)))
        self.operations = [self.operation(number) for number in range(operations)]
        # Per column: index, operation, end; activations, not of ends.
        self.expected = []
        self.columns, self.activations = [], []
        self.lines_done, self.current = 0, None
        dut = self.dut
        self._watch, self.seen = trace(dut.start, dut.column_valid, dut.full, dut.blocked_full,
                                       dut.blocked_follow, dut.read_valid, dut.busy)

    def operation(self, number):
        rng, config = self.rng, self.config
        follow = int(rng.integers(2))
        count = config.column_depth if number == 1 else int(rng.integers(0, 30))
        return {
            "count": count,
            "order_base": int(rng.integers(0, config.column_depth - count + 1)),
            "src_base": int(rng.integers(0, self.lines)),
            "follow": follow,
            "of_frame": int(rng.integers(2)) if follow else 0,
            "clear": int(rng.integers(0, 1 << config.channels)),
            "operation": number % 4,
        }

    def run(self):
        simulate(self.dut, self.run_operations, limit=20_000,
                 background=[self.memory, self.hold, self.record, self._watch])
        assert self.columns == [column for column, _ in self.expected]
        assert self.activations == [values for _, values in self.expected]
        for _, _, full, blocked_full, blocked_follow, _, busy in self.seen:
            assert not blocked_full or full and busy
            assert not blocked_follow or busy and not full

    async def run_operations(self, ctx):
        dut = self.dut
        ctx.set(dut.order_valid, 1)
        bits = (self.lines - 1).bit_length()
        for address, lines in enumerate(self.order.tolist()):
            ctx.set(dut.order, {"address": address,
                                "data": sum(line << (k * bits) for k, line in enumerate(lines))})
            await ctx.tick()
        ctx.set(dut.order_valid, 0)
        for fields in self.operations:
            while ctx.get(dut.busy):
                await ctx.tick()
            self.expect(fields)
            self.current = fields
            for name, value in fields.items():
                ctx.set(getattr(dut, name), value)
            self.tell(ctx, 0)
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            for name, value in fields.items():
                ctx.set(getattr(dut, name), 0 if value else 1)
            while self.lines_done < self.lines:
                await pause(ctx, self.rng, self.slow)
                self.tell(ctx, self.lines_done + (1 if self.slow else self.lines))
                if not ctx.get(dut.busy):
                    break
        while len(self.columns) < len(self.expected) or len(self.activations) < len(self.expected):
            await ctx.tick()

    def tell(self, ctx, lines):
        """So many lines of the vector that is followed are there; of the other one any number."""
        sources = [self.dut.lines_computed, self.dut.lines_received]
        ctx.set(sources[self.current["of_frame"]], lines)
        ctx.set(sources[not self.current["of_frame"]], int(self.rng.integers(self.lines + 1)))
        self.lines_done = lines

    def expect(self, fields):
        """Columns of an operation."""
        keep = np.array([not fields["clear"] >> k & 1 for k in range(self.config.channels)])
        base = fields["order_base"]
        for index in range(base, base + fields["count"]):
            lines = (fields["src_base"] + self.order[index]) % self.lines
            values = self.vectors[lines, np.arange(self.config.groups)] * keep
            self.expected.append(((index, fields["operation"], 0), values.tolist()))
        self.expected.append((((base + fields["count"]) % self.config.column_depth, fields["operation"], 1),
                              None))

    async def memory(self, ctx):
        """`VectorMemory.delay` cycles behind, and nothing is read that was not there two cycles before, or with
        ``forward`` `column_lead` more."""
        dut = self.dut
        late = deque([self.vectors[0].tolist()] * (VectorMemory.delay - 1))
        lead = column_lead(self.config)
        told, operations = deque([0] * (2 + lead)), deque([self.current] * (1 + lead))
        while True:
            current = operations.popleft()
            operations.append(self.current)
            _, _, valid, lines, *sources = await ctx.tick().sample(
                dut.read_valid, dut.read_line, dut.lines_computed, dut.lines_received)
            told.append(sources[operations[-1]["of_frame"]] if operations[-1] else 0)
            done = told.popleft()
            if valid and current["follow"]:
                for group in range(self.config.groups):
                    line = (lines[group] - current["src_base"]) % self.lines
                    assert line < done, f"line {line} is read, {done} are written"
            lines = [lines[group] if valid else int(self.rng.integers(self.lines))
                     for group in range(self.config.groups)]
            late.append(self.vectors[lines, np.arange(self.config.groups)].tolist())
            ctx.set(dut.columns, late.popleft())

    async def hold(self, ctx):
        while self.full:
            ctx.set(self.dut.full, self.rng.random() < self.full)
            await ctx.tick()

    async def record(self, ctx):
        """Columns, and their activations `PEArray.column_delay` cycles later."""
        dut = self.dut
        due = deque([None] * PEArray.column_delay(self.config))
        async for _, _, valid, column, activations in ctx.tick().sample(
                dut.column_valid, dut.column, dut.activations):
            due.append((column.index, column.operation, column.end) if valid else None)
            if valid:
                self.columns.append(due[-1])
            now = due.popleft()
            if now is not None:
                self.activations.append(None if now[2] else [list(values) for values in activations])


@seeds(1)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("full, slow", [(0.0, 0.0), (0.5, 0.0), (0.3, 0.5)])
def test_columns_in_their_order(config, full, slow, seed):
    Bench(config, generator(seed), 10, full=full, slow=slow).run()


@pytest.mark.parametrize("lines, slow", [
    (list(range(20)), 0.9),
    # Of every magnitude, one behind another and apart.
    (sorted({(1 << bit) - less for bit in range(8) for less in (0, 1)} | {255}), 0.5),
    ([1 << bit for bit in range(8)], 0.5)], ids=["first", "any", "apart"])
def test_an_operation_that_follows_waits_for_its_lines(lines, slow):
    """No line is read before it is written, and then at once; in each cycle before, it is seen to wait."""
    rng, count = generator(0), len(lines)
    bench = Bench(SMALL, rng, 1, slow=slow)
    bench.order[20:20 + count, 0] = lines
    bench.operations[0].update(count=count, order_base=20, follow=1, of_frame=1, src_base=100)
    sent, written = [], [0] * 6

    async def check(ctx):
        dut = bench.dut
        async for _, _, valid, done in ctx.tick().sample(dut.read_valid, dut.lines_received):
            sent.append(valid)
            written.append(done)
            # What is told is read two cycles later, a line a cycle; only the first one waits for the start too.
            ready = sum(line < written[-3] for line in lines)
            assert sum(sent) <= ready
            assert sum(sent) >= ready or valid or not sum(sent)

    simulate(bench.dut, bench.run_operations, limit=5000,
             background=[bench.memory, bench.record, check, bench._watch])
    assert sum(sent) == count
    turns = [before[4] + after[5] for before, after in zip(bench.seen, bench.seen[1 + column_lead(SMALL):],
                                                           strict=False)]
    assert set("".join(map(str, turns)).strip("0")) == {"1"}


def test_one_column_a_cycle_after_the_delay():
    bench = Bench(SMALL, generator(0), 1)
    bench.operations[0].update(count=25, order_base=3, follow=0, of_frame=0)
    bench.run()
    start, = [cycle for cycle, values in enumerate(bench.seen) if values[0]]
    valid = [values[1] for values in bench.seen[start:]]
    assert valid == [0] * bench.dut.delay + [1] * 26 + [0] * (len(valid) - bench.dut.delay - 26)


def test_columns_stop_when_full():
    """After ``full`` at most two columns still come."""
    bench = Bench(SMALL, generator(0), 1)
    bench.operations[0].update(count=60, order_base=3, follow=0, of_frame=0)

    async def hold(ctx):
        while sum(values[1] for values in bench.seen) < 20:
            await ctx.tick()
        ctx.set(bench.dut.full, 1)
        for _ in range(30):
            await ctx.tick()
        ctx.set(bench.dut.full, 0)

    bench.hold = hold
    bench.run()
    late = [values[1] for values in bench.seen if values[2]]
    assert sum(late) <= 2
    assert sum(values[3] for values in bench.seen) == 30


def test_activations_at_another_time_than_the_array_s_are_refused(monkeypatch):
    monkeypatch.setattr(PEArray, "column_delay", lambda config: 3)
    with pytest.raises(ValueError, match="activations 2 cycles after their column, but PEArray takes them 3"):
        Broadcast(SMALL)
