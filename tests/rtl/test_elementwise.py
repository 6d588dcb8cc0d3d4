# SPDX-License-Identifier: Apache-2.0
"""Slice: gates, cell state, m and y of `Slice.model`, in every cycle at the place where they are due."""

from collections import deque

import numpy as np
import pytest
from bench import TINY, generator, integers, pack, simulate, trace, unpack
from cells import Cells, mask, near_powers, random_settings, spread

from openese.rtl.elementwise import Kind, Slice, Stages, rows_ahead

CONFIGS = {
    "tiny": TINY,
    "one channel": TINY.replace(channels=1, slice_width=1),
    "two beats": TINY.replace(slice_width=1),
    "eight channels": TINY.replace(channels=8),
    "wide slice": TINY.replace(slices=1, slice_width=4),
    "narrow slice": TINY.replace(slices=2, slice_width=1),
    "many beats": TINY.replace(channels=8, slices=1, slice_width=1),
    "two groups": TINY.replace(groups=2, slices=1),
    "one beat of groups": TINY.replace(pes=16, groups=4),
    "four groups": TINY.replace(pes=16, groups=4, slices=1, cell_bits=27),
    "forward": TINY.replace(forward=True),
    "two beats forward": TINY.replace(slice_width=1, forward=True),
    "groups forward": TINY.replace(pes=16, groups=4, slices=2, slice_width=4, forward=True),
}
GRUS = {name: CONFIGS[name].replace(cells="lstm+gru")
        for name in ("tiny", "one channel", "two beats", "many beats", "one beat of groups", "four groups", "forward",
                     "groups forward")}
BEFORE = {name: config.replace(cells="lstm+gru+gru_before") for name, config in GRUS.items()} | {
    "with dense layers": TINY.replace(cells="lstm+gru+gru_before+dense"),
    "short words": TINY.replace(cells="lstm+gru+gru_before", activation_bits=8)}
DENSE = {name: CONFIGS[name].replace(cells="lstm+dense")
         for name in ("one channel", "many beats", "two groups", "one beat of groups")} | {
    "with GRUs": TINY.replace(cells="lstm+gru+dense"),
    "short words": TINY.replace(cells="lstm+dense", activation_bits=8),
    "long words": TINY.replace(cells="lstm+dense", activation_bits=18)}
#: Cell rows of a GRU, which have no peepholes.
GRU_ROWS = 4


class Bench:
    """A script of beats, and in which cycle each column and each saturation must be seen."""

    def __init__(self, config, rng, real_tables):
        self.config = config
        self.rng = rng
        self.spread = spread
        self.dut = Slice(config)
        #: Cycles from a gate to the first that can read what it leaves.
        self.left = 1 if config.forward else 2
        self.rows, self.channels = config.rows_per_slice, config.channels
        self.beats_at = {}
        self.captures_at = {}
        self.settings_at = {}
        self.columns_at = {}
        self.saturated_at = {}
        self.cycle = 0
        self.cells = Cells(config, rng, self.rows, real_tables)
        self.initial = np.array(integers(rng, config.cell_bits, self.cells.cell.shape))
        self.cells.cell[:] = self.initial
        if config.gru:
            self.cells.peephole[:GRU_ROWS] = 0

    # -- the script --------------------------------------------------------------------------------

    def phase(self, kind, row, sums=None, first=1, last=1):
        """One phase: a capture if it has sums, (group, PE row, channel), and its beats. Returns its cycle. ``row`` is a
        cell row, or one of four rows of a dense layer in it: (cell row, place)."""
        row, place = row if isinstance(row, tuple) else (row, int(kind) & 3)
        start = self.cycle
        if sums is not None:
            self.captures_at[start] = pack(sums.reshape(-1).tolist(), self.config.accumulator_bits)
        for beat in range(self.config.beats):
            self.beats_at[start + beat] = {"valid": 1, "kind": int(kind), "row": row, "beat": beat,
                                           "first": first, "last": last,
                                           **({"place": place} if self.config.dense else {})}
        self.cycle += self.config.beats + last * int(self.rng.integers(0, 3))
        return start

    def summed(self, kind, row, phases):
        """All phases of a row of random sums, back to back. Returns the last one's cycle and the total."""
        config = self.config
        bits = config.accumulator_bits - (config.groups * phases - 1).bit_length()
        total = np.zeros((self.rows, self.channels), np.int64)
        for phase in range(phases):
            sums = self.spread(self.rng, bits, (config.groups, self.rows, self.channels))
            total += sums.sum(axis=0)
            start = self.phase(kind, row, sums, int(phase == 0), int(phase == phases - 1))
        return start, total

    def lanes(self, values, start, delay):
        """(cycle, lanes, values) of each beat of a row of (PE row, channel) values."""
        flat = values.reshape(-1)
        for beat in range(self.config.beats):
            lanes = range(beat * self.config.slice_width, (beat + 1) * self.config.slice_width)
            yield start + beat + delay, lanes, flat[lanes]

    def expect(self, columns, start, delay):
        for cycle, lanes, values in self.lanes(columns, start, delay):
            self.columns_at[cycle] = dict(zip(lanes, values.tolist(), strict=True))

    def expect_saturated(self, flags, start, delay):
        for cycle, _, values in self.lanes(flags, start, delay):
            self.saturated_at[cycle] = int(values.sum())

    def new_settings(self, given=None, **kind):
        """Random number formats, but those that are ``given``, and voices, once the pipeline is empty."""
        rng = self.rng
        self.cycle += Stages.of(self.config).cell + 1 + self.config.beats
        formats, active, reset = random_settings(rng, self.channels, **kind)
        formats |= given or {}
        self.settings_at[self.cycle] = {**formats, "active": mask(active), "reset": mask(reset)}
        return formats, active, reset

    def step(self, rows, base, phases):
        """An ELEMENTWISE of ``rows`` cell rows from ``base``; tanh(c) and o come among gates of later rows."""
        settings = self.new_settings()
        before = deque((row, kind) for row in range(base, base + rows) for kind in (Kind.G, Kind.I, Kind.F))
        behind = deque((row, kind) for row in range(base, base + rows) for kind in (Kind.CELL_TANH, Kind.O))
        sums, forgotten, written, possible = {}, {}, {}, {}
        while behind:
            early = behind[0] not in written and behind[0][1] is Kind.CELL_TANH
            row, kind = (before if before and (early or self.rng.random() < 0.5) else behind).popleft()
            # As early as what the operation needs of others allows: c, or what a gate leaves for the next.
            self.cycle = max(self.cycle, written.get((row, kind), 0), possible.get(kind, 0))
            if kind is Kind.CELL_TANH:
                start = self.phase(kind, row)
            else:
                start, sums[row, kind] = self.summed(kind, row, phases)
            if kind is Kind.F:
                written[row, Kind.CELL_TANH] = start + self.dut.c_delay
                forgotten[row] = start
            elif kind is Kind.O:
                self.output(settings, row, start, forgotten[row], sums)
            else:
                possible[{Kind.G: Kind.I, Kind.I: Kind.F, Kind.CELL_TANH: Kind.O}[kind]] = start + self.left

    def output(self, settings, row, start, forgotten, sums):
        m, saturated = self.cells.step(row, [sums[row, kind] for kind in (Kind.I, Kind.F, Kind.G, Kind.O)], *settings)
        self.expect(m, start, self.dut.m_delay)
        self.expect_saturated(saturated, forgotten, Stages.of(self.config).cell + 2)

    def gru_step(self, rows, base, phases):
        """An ELEMENTWISE of a GRU; n_x and z come among gates of later rows."""
        settings = self.new_settings(gru=True)
        before = deque((row, kind) for row in range(base, base + rows) for kind in (Kind.N_H, Kind.R))
        behind = deque((row, kind) for row in range(base, base + rows) for kind in (Kind.N_X, Kind.Z))
        sums, possible = {}, {}
        while behind:
            row, kind = behind[0]
            early = kind is Kind.N_X and (row, Kind.N_X) not in possible
            room = before and before[0][0] - row < rows_ahead(self.config)
            row, kind = (before if room and (early or self.rng.random() < 0.5) else behind).popleft()
            self.cycle = max(self.cycle, possible.get((row, kind), 0))
            start, sums[row, kind] = self.summed(kind, row, phases)
            if kind is Kind.R:
                possible[row, Kind.N_X] = start + self.dut.r_delay - (phases - 1) * self.config.beats
            elif kind is Kind.N_X:
                possible[row, Kind.Z] = start + self.left
            elif kind is Kind.Z:
                y, saturated = self.cells.step(
                    row, [sums[row, kind] for kind in (Kind.R, Kind.Z, Kind.N_X, Kind.N_H)], *settings)
                self.expect(y, start, self.dut.h_delay)
                self.expect_saturated(saturated, start, Stages.of(self.config).cell + 2)

    def reset_step(self, rows, base, phases):
        """Both ELEMENTWISE of a GRU with the reset before the product, as of different steps."""
        settings = self.new_settings(gru=True, reset_before=True)
        for row in range(base, base + rows):
            start, total = self.summed(Kind.R, row, phases)
            self.expect(self.cells.reset(row, total, *settings)[0], start, self.dut.h_delay)
        settings = self.new_settings(gru=True, reset_before=True)
        for row in range(base, base + rows):
            ready, of_n = self.summed(Kind.N_X, row, phases)
            self.cycle = max(self.cycle, ready + 2)
            start, of_z = self.summed(Kind.Z, row, phases)
            y, saturated = self.cells.step(row, [of_n, of_z, of_n, of_n], *settings)
            self.expect(y, start, self.dut.h_delay)
            self.expect_saturated(saturated, start, Stages.of(self.config).cell + 2)

    def project(self, rows, phases, given=None):
        """A PROJECT: sums, rounded and saturated to y."""
        formats, active, _ = self.new_settings(given)
        for row in range(rows):
            start, total = self.summed(Kind.PROJECTION, row, phases)
            y, saturated = self.cells.project(total, formats, active)
            self.expect(y, start, self.dut.y_delay)
            self.expect_saturated(saturated, start, self.dut.y_delay)

    def dense(self, rows, base, phases):
        """A dense layer of ``rows`` rows, with biases from cell row ``base`` on."""
        formats, active, _ = self.new_settings(dense=True)
        delay = self.dut.table_delay if formats["activation"] > 1 else self.dut.y_delay
        for row in range(rows):
            start, total = self.summed(Kind.PROJECTION, (base + row // 4, row % 4), phases)
            y, saturated = self.cells.dense(4 * base + row, total, formats, active)
            self.expect(y, start, delay)
            self.expect_saturated(saturated, start, delay)
        return formats["activation"]

    # -- the simulation ----------------------------------------------------------------------------

    async def write_cells(self, ctx):
        """The initial cell state, lane by lane; each is given when its beat is at the last stage."""
        config, dut = self.config, self.dut
        delay = Stages.of(config).cell
        lanes = self.initial.reshape(config.cell_rows, config.beats, config.slice_width)
        rows = (*range(GRU_ROWS if config.gru else 1), *range(config.cell_rows - 4, config.cell_rows))
        places = [place for place in np.ndindex(lanes.shape) if place[0] in rows]
        for cycle in range(len(places) + delay):
            if cycle < len(places):
                row, beat, _ = places[cycle]
                ctx.set(dut.beat, {"row": row, "beat": beat})
            if cycle >= delay:
                place = places[cycle - delay]
                ctx.set(dut.cell_write, 1 << place[2])
                ctx.set(dut.cell_data, int(lanes[place]))
            await ctx.tick()
        ctx.set(dut.cell_write, 0)
        return len(places) + delay

    def run(self):
        config, dut, rng = self.config, self.dut, self.rng
        total = self.cycle + Stages.of(config).cell + config.beats + 3
        watch, seen = trace(dut.columns, dut.saturated)
        beats = {key: bits for key, bits in (("kind", 6), ("row", config.cell_rows), ("beat", config.beats),
                                             ("first", 2), ("last", 2))}
        loaded = []

        async def bench(ctx):
            loaded.append(await self.cells.load(ctx, dut) + await self.write_cells(ctx))
            for cycle in range(total):
                if cycle in self.settings_at:
                    ctx.set(dut.settings, self.settings_at[cycle])
                ctx.set(dut.capture, cycle in self.captures_at)
                if cycle in self.captures_at:
                    ctx.set(dut.drained, self.captures_at[cycle])
                elif cycle - 1 in self.captures_at:
                    ctx.set(dut.drained, int.from_bytes(rng.bytes(len(dut.drained) // 8), "little"))
                noise = {"valid": 0, **{name: int(rng.integers(limit)) for name, limit in beats.items()}}
                ctx.set(dut.beat, self.beats_at.get(cycle, noise))
                await ctx.tick()

        simulate(dut, bench, limit=total + 10_000, background=[watch])
        self.compare(seen[loaded[0]:])

    def compare(self, seen):
        bits = self.config.activation_bits
        lanes = np.zeros(self.rows * self.channels, np.int64)
        for cycle, (columns, saturated) in enumerate(seen):
            for lane, value in self.columns_at.get(cycle, {}).items():
                lanes[lane] = value
            assert unpack(columns, bits, len(lanes)) == lanes.tolist(), f"columns in cycle {cycle}"
            assert saturated == self.saturated_at.get(cycle, 0), f"saturated in cycle {cycle}"


@pytest.mark.parametrize("seed, name", list(enumerate(CONFIGS)))
def test_steps_equal_the_model(name, seed):
    """Steps of one, two and four phases, a projection between them, tables real and random."""
    rng = generator(seed)
    config = CONFIGS[name]
    bench = Bench(config, rng, real_tables=seed % 2 == 0)
    for phases in (1, 2, 4, 1):
        bench.step(rows=4, base=config.cell_rows - 4, phases=phases)
        bench.project(rows=2, phases=phases)
    bench.step(rows=1, base=0, phases=1)
    bench.run()
    assert any(bench.saturated_at.values())
    assert len({value for lanes in bench.columns_at.values() for value in lanes.values()}) > 5


@pytest.mark.parametrize("seed, name", list(enumerate(GRUS)))
def test_steps_of_a_gru_equal_the_model(name, seed):
    """Steps of one, two and four phases, between those of an LSTM and projections."""
    rng = generator(seed)
    bench = Bench(GRUS[name], rng, real_tables=seed % 2 == 0)
    for phases in (1, 2, 4, 1):
        bench.gru_step(rows=GRU_ROWS, base=0, phases=phases)
        bench.step(rows=2, base=bench.config.cell_rows - 4, phases=phases)
        bench.project(rows=1, phases=phases)
        bench.gru_step(rows=2, base=1, phases=1)
    bench.run()
    assert len({value for lanes in bench.columns_at.values() for value in lanes.values()}) > 5


@pytest.mark.parametrize("seed, name", list(enumerate(BEFORE)))
def test_both_passes_of_a_gru_with_the_reset_before_the_product(name, seed):
    """Between steps of other GRUs and of LSTMs, and projections."""
    rng = generator(seed)
    bench = Bench(BEFORE[name], rng, real_tables=seed % 2 == 0)
    for phases in (1, 2, 4, 1):
        bench.reset_step(rows=GRU_ROWS, base=0, phases=phases)
        bench.step(rows=2, base=bench.config.cell_rows - 4, phases=phases)
        bench.reset_step(rows=2, base=1, phases=1)
        bench.project(rows=1, phases=phases)
        bench.gru_step(rows=2, base=1, phases=1)
    bench.run()
    assert len({value for lanes in bench.columns_at.values() for value in lanes.values()}) > 5


@pytest.mark.parametrize("seed, name", list(enumerate(DENSE)))
def test_dense_layers_equal_the_model(name, seed):
    """With every function, between cells and projections, which have no bias; tables real and random."""
    rng = generator(seed)
    bench = Bench(DENSE[name], rng, real_tables=seed % 2 == 0)
    seen = set()
    for phases in (1, 2, 4, 1, 1, 1, 1, 1):
        seen.add(bench.dense(rows=6, base=int(rng.integers(0, 4)), phases=phases))
        bench.project(rows=2, phases=phases)
        bench.step(rows=1, base=bench.config.cell_rows - 4, phases=1)
    while len(seen) < 4:
        seen.add(bench.dense(rows=2, base=bench.config.cell_rows - 1, phases=1))
    if bench.config.gru:
        bench.gru_step(rows=2, base=0, phases=1)
        bench.dense(rows=3, base=0, phases=1)
    bench.run()
    assert any(bench.saturated_at.values())


@pytest.mark.parametrize("seed, config", [(1, TINY), (3, TINY), (6, TINY), (11, GRUS["tiny"])])
def test_numbers_beside_powers_of_two(seed, config):
    """Every number is a power of two, or beside one: where sums carry and roundings saturate."""
    rng = generator(seed)
    bench = Bench(config, rng, real_tables=False)
    bench.spread, cells = near_powers, bench.cells
    cells.tables = near_powers(rng, TINY.table_bits, (2, 64)).repeat(32, axis=1)
    cells.bias[:] = near_powers(rng, TINY.argument_bits, cells.bias.shape)
    cells.peephole[:] = near_powers(rng, TINY.peephole_bits, cells.peephole.shape)
    bench.initial[:] = cells.cell[:] = near_powers(rng, TINY.cell_bits, bench.initial.shape)
    cells.peephole[:GRU_ROWS if config.gru else 0] = 0
    for phases in (1, 2, 1, 1, 1, 1):
        if config.gru:
            bench.gru_step(rows=GRU_ROWS, base=0, phases=phases)
        else:
            bench.step(rows=4, base=TINY.cell_rows - 4, phases=phases)
        bench.project(rows=2, phases=phases)
    bench.run()
    assert any(bench.saturated_at.values())


def test_sums_saturate_at_every_shift():
    """Powers of two beside the largest that a shifted sum may be."""
    rng = generator(0)
    bench = Bench(TINY, rng, real_tables=False)
    for shift in range(TINY.accumulator_bits - TINY.sum_bits):
        def beside(rng, bits, size, shift=shift):
            powers = np.minimum(TINY.sum_bits + shift + rng.integers(-1, 3, size), bits - 2)
            return rng.choice([-1, 1], size) << powers

        bench.spread = beside
        bench.project(rows=4, phases=1, given={"shift": [shift] * 4})
    bench.run()
    assert any(bench.saturated_at.values())
