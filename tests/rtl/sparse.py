# SPDX-License-Identifier: Apache-2.0
"""Random sparse operations for the benches of SpMV and of all that contains it."""

from collections import deque

import numpy as np
from bench import integers, unpack

from openese.rtl.distance import join_delay
from openese.rtl.spmv import SpMV

__all__ = ["Drainer", "Operation", "encode", "random_jobs", "random_operation"]


def encode(rows, weights, index_bits):
    """(weight, skip) pairs of one column; gaps that a skip cannot hold get entries of weight zero."""
    longest = (1 << index_bits) - 1
    entries, at = [], 0
    for row, weight in zip(rows, weights, strict=True):
        while row - at > longest:
            units = min((row - at) >> index_bits, longest + 1)
            entries.append((0, units - 1))
            at += units << index_bits
        entries.append((weight, row - at))
        at = row + 1
    return entries


class Operation:
    """A context as `openese.rtl.interfaces.Context` has it, and columns as `SpMV.model` takes them.

    ``columns`` are all that are broadcast; SpMV sees those that have entries.
    """

    def __init__(self, context, columns, index_bits=6):
        self.context = context
        self.index_bits = index_bits
        self.columns = columns

    @property
    def queued(self):
        """The columns that reach the queue: the others do not count for the phase either."""
        return [column for column in self.columns if column[1]]

    @property
    def slots(self):
        """Per entry its accumulator address, None for padding; last the end, also None."""
        slots, phase = [], 0
        for _, entries in self.queued:
            row = -1
            for weight, skip in entries:
                row += skip + 1 if weight else (skip + 1) << self.index_bits
                address = self.context["acc_base"] + phase * self.context["phase_stride"] + row
                slots.append(address if weight else None)
            phase = 0 if phase == self.context["phase_last"] else phase + 1
        return [*slots, None]

    @property
    def stalls(self):
        """Cycles for which entries wait for their rows, if nothing else holds them up."""
        issued, cycle = {}, -1
        for address in self.slots:
            cycle += 1
            if address is not None:
                cycle = max(cycle, issued.get(address, -SpMV.latency) + SpMV.latency)
                issued[address] = cycle
        return cycle + 1 - len(self.slots)

    @property
    def busy(self):
        """Entries that are multiplied."""
        return sum(address is not None for address in self.slots)

    @property
    def padding(self):
        """Entries of weight zero."""
        return len(self.slots) - 1 - self.busy

    def add_to(self, accumulator):
        """`SpMV.model` on ``accumulator`` (rows, channels), in place."""
        columns = [(np.array(values), entries) for values, entries in self.queued]
        SpMV.model(accumulator, self.context, columns, self.index_bits)


def random_operation(rng, config, *, base, rows, phases, columns, density, entry_base=0, empty=False):
    """Random weights, aligned so little that no accumulator can overflow.

    ``rows`` counts the rows of one phase. Columns have at least one entry, unless ``empty`` allows none.
    """
    most = max(0, min(7, config.accumulator_bits - config.weight_bits - config.activation_bits
                      - int(columns).bit_length()))
    context = {
        "entry_base": entry_base,
        "acc_base": base,
        "phase_stride": rows + int(rng.integers(0, 2)) if phases > 1 else 0,
        "phase_last": phases - 1,
        "align": rng.integers(0, most + 1, 4).tolist(),
    }
    work = []
    for _ in range(columns):
        chosen = np.flatnonzero(rng.random(rows) < density)
        if not len(chosen) and not empty:
            chosen = rng.integers(0, rows, 1)
        weights = [weight or 1 for weight in integers(rng, config.weight_bits, len(chosen))]
        work.append((integers(rng, config.activation_bits, config.channels),
                     encode(chosen.tolist(), weights, config.index_bits)))
    return Operation(context, work, config.index_bits)


def random_jobs(rng, config, count, *, phases, rows=(4, 16), density=0.3, empty=False):
    """``count`` jobs of one or two random operations, which take the two halves of the rows in turn."""
    half = config.accumulator_rows // 2
    made = []
    for index in range(count):
        made.append([])
        for _ in range(rng.integers(1, 3)):
            many = int(rng.integers(*rows))
            made[-1].append(random_operation(
                rng, config, base=index % 2 * half + int(rng.integers(0, half - phases * (many + 1))),
                rows=many, phases=phases, columns=int(rng.integers(0, 24)), density=density,
                empty=empty))
    return made


class Drainer:
    """Drains jobs: lists of operations that add to the same rows, which are drained after the last.

    Jobs use the two halves of the accumulators in turn, so that the next job's entries flow while the rows of
    the one before are drained. Each row is drained twice, to see that it was cleared.
    """

    def __init__(self, dut, config, rng, jobs, chance):
        self.dut = dut
        self.config = config
        self.rng = rng
        self.jobs = jobs
        self.chance = chance
        #: Operations that are done, and jobs whose rows have been drained.
        self.done = 0
        self.drained = 0

    def expected(self, index):
        """Address and sums of every row of a job, the rows that were written last in front."""
        half = self.config.accumulator_rows // 2
        accumulator = np.zeros((self.config.accumulator_rows, self.config.channels), np.int64)
        written = []
        for operation in self.jobs[index]:
            operation.add_to(accumulator)
            written += operation.slots
        latest = list(dict.fromkeys(address for address in reversed(written) if address is not None))[:8]
        others = [row for row in range(index % 2 * half, (index % 2 + 1) * half) if row not in latest]
        order = latest + self.rng.permutation(others).tolist()
        return [(row, accumulator[row].tolist()) for row in order]

    async def bench(self, ctx):
        """From `SpMV.turn_delay` cycles after ``done`` on, drain and compare; each row twice. With ``forward``, no
        drain is among these cycles, and there are as many more as the array takes to join ``done``.
        """
        dut = self.dut
        lasts = np.cumsum([len(job) for job in self.jobs]).tolist()
        pending, due = deque(), deque([None] * SpMV.drain_delay)
        turn, quiet = SpMV.turn_delay, []
        if self.config.forward:
            turn, quiet = 0, [()] * (turn + join_delay(self.config))
        ready = deque([[] for _ in range(turn)])
        while self.drained < len(self.jobs) or any(due):
            ready.append([])
            if ctx.get(dut.done):
                self.done += 1
                if self.done in lasts:
                    rows = self.expected(lasts.index(self.done))
                    ready[-1] = [*quiet, *rows, *((row, [0] * self.config.channels) for row, _ in rows), None]
            pending.extend(ready.popleft())
            if pending and pending[0] is None:
                pending.popleft()
                self.drained += 1
            drain = pending.popleft() or None if pending and self.rng.random() < self.chance else None
            ctx.set(dut.drain, drain is not None)
            if drain is not None:
                ctx.set(dut.drain_address, drain[0])
            due.append(drain)
            _, _, value = await ctx.tick().sample(dut.drained)
            check = due.popleft()
            if check is not None:
                got = unpack(value, self.config.accumulator_bits, self.config.channels)
                assert got == check[1], f"row {check[0]} after {self.done} operations"
