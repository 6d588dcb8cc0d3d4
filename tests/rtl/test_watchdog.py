# SPDX-License-Identifier: Apache-2.0
"""Watchdog: work that does not go on is noticed after exactly its limit, with what it waits for."""

import pytest
from bench import generator, seeds, simulate, trace

from openese.rtl.watchdog import Stall, Watchdog


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(Watchdog, "limit", 20)
    return Watchdog()


@seeds(3)
def test_stalls_are_noticed_with_their_cause(short, seed):
    rng = generator(seed)
    watch, seen = trace(short.works, short.moves, short.waits, short.clear, short.stalled, short.cause)

    async def bench(ctx):
        for _ in range(1500):
            # Long spells of work in which little moves.
            ctx.set(short.works, rng.random() < 0.98)
            ctx.set(short.moves, rng.random() < 0.03)
            ctx.set(short.waits, int(rng.integers(1 << len(Stall))))
            ctx.set(short.clear, rng.random() < 0.02)
            await ctx.tick()

    simulate(short, bench, limit=2000, background=[watch])
    still = cause = stalls = 0
    for works, moves, waits, clear, stalled, given in seen:
        assert (stalled, given) == (still >= short.limit, cause)
        still = still + 1 if works and not moves else 0
        stalls += still == short.limit
        cause = 0 if clear else waits if still == short.limit else cause
    assert stalls > 3
