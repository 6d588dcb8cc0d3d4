# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Assemble: instruction after instruction, the columns it writes and the rows it drains."""

from collections import deque

import numpy as np
import pytest
from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from bench import TINY, cycles, generator, pack, pause, simulate, trace, until
from cells import Cells, mask, random_settings, spread

from openese.rtl.activation import Activation
from openese.rtl.array import PEArray
from openese.rtl.assemble import Assemble
from openese.rtl.config import preset
from openese.rtl.controller import Controller
from openese.rtl.elementwise import Beat, Kind, Slice, Stages
from openese.rtl.interfaces import LineWrite
from openese.rtl.program import Opcode
from openese.rtl.spmat_read import column_lead
from openese.rtl.spmv import SpMV

CONFIGS = {
    "tiny": TINY,
    # Writing a row takes longer than projecting one.
    "two beats": TINY.replace(slice_width=1),
    "many PEs": TINY.replace(pes=16, slices=4, channels=1, slice_width=1),
    "one slice": TINY.replace(slices=1),
    "two groups": TINY.replace(groups=2, slices=1),
    "one beat of groups": TINY.replace(pes=16, groups=4),
    "four groups": TINY.replace(pes=16, groups=4, slices=2),
    "forward": TINY.replace(pes=16, slices=4, channels=1, slice_width=1, forward=True),
    "lines": TINY.replace(pes=16, groups=2, slices=2, slice_width=8, forward=True),
    "groups forward": TINY.replace(pes=16, groups=4, slices=2, slice_width=4, forward=True),
}
GRUS = {name: CONFIGS[name].replace(cells="lstm+gru")
        for name in ("tiny", "two beats", "many PEs", "one slice", "four groups", "groups forward")}
BEFORE = {name: GRUS[name].replace(cells="lstm+gru+gru_before")
          for name in ("two beats", "many PEs", "four groups", "groups forward")} | {
    "with dense layers": CONFIGS["tiny"].replace(cells="lstm+gru+gru_before+dense")}
DENSE = {name: CONFIGS[name].replace(cells="lstm+dense")
         for name in ("tiny", "two beats", "one slice", "four groups")} | {
    "with GRUs": CONFIGS["many PEs"].replace(cells="lstm+gru+dense")}


class Sliced(wiring.Component):
    """Assemble and the slices it drives, which drain ``drained``: what the accumulators of all PEs hold."""

    def __init__(self, config):
        self.config = config
        self.assemble = Assemble(config)
        self.slices = [Slice(config) for _ in range(config.slices)]
        self.drained = Signal(config.pes * config.channels * config.accumulator_bits)
        self.parameters = Signal(LineWrite(len(self.slices[0].parameters.address),
                                           config.slices * config.parameter_line_bits))
        self.parameters_valid = Signal()
        self.tables = Signal.like(self.slices[0].tables)
        self.tables_valid = Signal()
        self.saturated = Signal(16)
        super().__init__({})

    def __getattr__(self, name):
        return getattr(self.assemble, name)

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.assemble = self.assemble
        width = config.lanes * config.accumulator_bits
        # The registers of a tile.
        capture, beat = Signal(), Signal(Beat(config))
        m.d.sync += [capture.eq(self.assemble.control.capture), beat.eq(self.assemble.control.beat)]
        for index, part in enumerate(self.slices):
            m.submodules[f"slice{index}"] = part
            m.d.comb += [
                part.drained.eq(Cat(self.drained.word_select(group * config.slices + index, width)
                                    for group in range(config.groups))),
                part.capture.eq(capture),
                part.beat.eq(beat),
                part.settings.eq(self.assemble.control.settings),
                part.parameters.address.eq(self.parameters.address),
                part.parameters.data.eq(self.parameters.data.word_select(index, config.parameter_line_bits)),
                part.parameters_valid.eq(self.parameters_valid),
                part.tables.eq(self.tables),
                part.tables_valid.eq(self.tables_valid),
            ]
        m.d.comb += [
            self.assemble.columns.eq(Cat(part.columns for part in self.slices)),
            self.saturated.eq(sum(part.saturated for part in self.slices)),
        ]
        return m


class Bench:
    """Random instructions, back to back or not, on an array that is only its accumulators."""

    def __init__(self, config, rng, real_tables, pauses):
        self.config = config
        self.rng = rng
        self.pauses = pauses
        self.dut = dut = Sliced(config)
        self.cells = Cells(config, rng, config.row_pes, real_tables)
        self.accumulator = np.zeros((config.pes, config.accumulator_rows, config.channels), np.int64)
        self.lines = config.row_pes // config.groups
        self.writes, self.expected, self.saturated, self.starts = [], [], 0, []
        self._watch, self.seen = trace(dut.saturated, dut.busy, dut.drain)

    def run(self, opcodes):
        simulate(self.dut, lambda ctx: self.instructions(ctx, opcodes),
                 background=[self.array, self.record, self._watch], limit=60_000)
        assert len(self.writes) == len(self.expected)
        for number, (got, expected) in enumerate(zip(self.writes, self.expected, strict=True)):
            assert got == expected, f"write {number}"
        assert sum(values[0] for values in self.seen) == self.saturated
        assert not self.accumulator.any(), "every row that was given sums was drained"

    async def instructions(self, ctx, opcodes):
        dut, rng = self.dut, self.rng
        if self.config.gru:
            self.cells.peephole[:] = 0  # of both kinds of cells, which share their rows here
        await self.cells.load(ctx, dut)
        for opcode in opcodes:
            while ctx.get(dut.busy):
                await ctx.tick()
            assert len(self.writes) == len(self.expected), "idle, but not everything is written"
            await pause(ctx, rng, self.pauses)
            instruction, ports = self.instruction(opcode)
            ctx.set(dut.instruction, instruction)
            for name, value in ports.items():
                ctx.set(getattr(dut, name), value)
            ctx.set(dut.start, 1)
            ctx.set(dut.go, 0)
            await ctx.tick()
            ctx.set(dut.start, 0)
            # What is on the ports later does not count.
            ctx.set(dut.instruction, {"rows": 1, "opcode": Opcode.FRAME})
            await pause(ctx, rng, self.pauses)
            ctx.set(dut.go, 1)
            self.starts.append((len(self.seen), len(self.expected)))
        while ctx.get(dut.busy):
            await ctx.tick()
        await cycles(ctx, 100)

    def instruction(self, opcode):
        """A random instruction and what it must write."""
        config, rng = self.config, self.rng
        dense = bool(config.dense and rng.integers(2))
        elementwise = opcode is Opcode.ELEMENTWISE and not dense
        rows, phases = int(rng.integers(1, 9)), int(rng.integers(1, 5))
        height = rows * 4 if elementwise else rows
        while phases * height > config.accumulator_rows:
            phases -= 1
        stride = height + int(rng.integers(0, config.accumulator_rows // phases - height + 1))
        base = int(rng.integers(0, config.accumulator_rows - (phases - 1) * stride - height + 1))
        cell_base = int(rng.integers(0, config.cell_rows - rows + 1))
        destination = config.write_lines * int(rng.integers(
            0, (config.vector_depth // config.groups - rows * self.lines) // config.write_lines + 1))
        masked = int(rng.integers(2))
        gru = bool(elementwise and config.gru and rng.integers(2))
        reset_before = bool(gru and config.gru_before and rng.integers(3))
        resets = bool(reset_before and rng.integers(2))
        formats, active, reset = random_settings(rng, config.channels, gru, dense, reset_before)
        voices = {"active": mask(active), "reset": mask(reset)}

        bits = config.accumulator_bits - (config.groups * phases - 1).bit_length()
        sums = spread(rng, bits, (config.groups, config.row_pes, phases, height, config.channels))
        if reset_before:
            drained = np.isin(np.arange(height) % 4, [Kind.R] if resets else [Kind.N_X, Kind.Z])
            sums *= drained[:, None]
        for phase in range(phases):
            place = base + phase * stride
            self.accumulator[:, place:place + height] = sums[:, :, phase].reshape(
                config.pes, height, config.channels)
        # (height, PE rows, channels)
        total = sums.sum(axis=(0, 2)).transpose(1, 0, 2)
        for row in range(rows):
            if elementwise:
                gates = list(total[4 * row:4 * row + 4])
                if resets:
                    columns, clamped = self.cells.reset(cell_base + row, gates[0], formats, active, reset)
                else:
                    columns, clamped = self.cells.step(cell_base + row, gates, formats, active, reset)
            elif dense:
                columns, clamped = self.cells.dense(4 * cell_base + row, total[row], formats, active)
            else:
                columns, clamped = self.cells.project(total[row], formats, active)
            self.saturated += int(clamped.sum())
            channels = mask(active | reset) if masked else (1 << config.channels) - 1
            for line in range(0, self.lines, config.write_lines):
                self.expected.append((destination + row * self.lines + line, channels,
                                      columns[line * config.groups:][:config.write_columns].tolist()))
        instruction = {**formats, "opcode": opcode, "rows": rows, "phase_stride": stride,
                       "phase_last": phases - 1, "cell_base": cell_base,
                       "masked": masked, **({"resets": 1} if resets else {})}
        return instruction, {"dst_base": destination, "acc_base": base, "settings": {**formats, **voices}}

    async def array(self, ctx):
        """Drained rows come `PEArray.drain_delay` cycles later; otherwise there is noise."""
        config, dut = self.config, self.dut
        late = deque([None] * (PEArray.drain_delay - 1))
        rows = None
        while True:
            _, _, drain, address = await ctx.tick().sample(dut.drain, dut.drain_address)
            late.append(None)
            if drain:
                late[-1] = pack(self.accumulator[:, address].reshape(-1).tolist(), config.accumulator_bits)
                self.accumulator[:, address] = 0
            before, rows = rows, late.popleft()
            if rows is not None:
                ctx.set(dut.drained, rows)
            elif before is not None:
                ctx.set(dut.drained, int.from_bytes(self.rng.bytes(len(dut.drained) // 8), "little"))

    async def record(self, ctx):
        """Writes; ``lines_done`` may count a line from the cycle after its write, ``lines_coming`` the cycle before, or
        with ``forward`` `column_lead` earlier."""
        dut, before, lead, lines = self.dut, 0, column_lead(self.config), self.config.write_lines
        coming = deque([0] * (1 + lead))
        async for _, _, start, valid, line, channels, columns, done, told in ctx.tick().sample(
                dut.start, dut.write_valid, dut.write_line, dut.write_channels, dut.write_columns,
                dut.lines_done, dut.lines_coming):
            if self.starts:
                assert done <= lines * (len(self.writes) - before)
                assert done >= lines * (len(self.writes) - before - 1)
                assert coming[0] == lines * (len(self.writes) - before + valid)
            coming.append(told)
            coming.popleft()
            if start:
                before, coming = len(self.writes), deque([0] * (1 + lead))
            if valid:
                self.writes.append((line, channels, [list(column) for column in columns]))


@pytest.mark.parametrize("seed, name", list(enumerate([*CONFIGS, "lines", "lines"])))
def test_columns_of_random_instructions(name, seed):
    """Every kind behind every kind, some back to back, others with pauses before and after the start."""
    rng = generator(seed)
    bench = Bench(CONFIGS[name], rng, real_tables=seed % 2 == 0, pauses=seed % 3 * 0.4)
    bench.run([Opcode.ELEMENTWISE, Opcode.PROJECT, Opcode.PROJECT, Opcode.ELEMENTWISE, Opcode.ELEMENTWISE,
               Opcode.PROJECT, Opcode.ELEMENTWISE])


@pytest.mark.parametrize("seed, name", list(enumerate(GRUS)))
def test_columns_of_grus(name, seed):
    """Rows of LSTMs and GRUs, and projections, one behind the other."""
    bench = Bench(GRUS[name], generator(seed), real_tables=seed % 2 == 0, pauses=seed % 3 * 0.4)
    bench.run([Opcode.ELEMENTWISE, Opcode.ELEMENTWISE, Opcode.PROJECT, *[Opcode.ELEMENTWISE] * 5])


@pytest.mark.parametrize("seed, name", list(enumerate(BEFORE)))
def test_columns_of_grus_with_the_reset_before_the_product(name, seed):
    """Both passes, in any order, among other cells, projections and dense layers."""
    bench = Bench(BEFORE[name], generator(seed), real_tables=seed % 2 == 0, pauses=seed % 3 * 0.4)
    bench.run([*[Opcode.ELEMENTWISE] * 5, Opcode.PROJECT] * 4)


@pytest.mark.parametrize("seed, name", list(enumerate(DENSE)))
def test_columns_of_dense_layers(name, seed):
    """Dense layers as ELEMENTWISE and as PROJECT, with and without a table, between cells and projections."""
    bench = Bench(DENSE[name], generator(seed), real_tables=seed % 2 == 0, pauses=seed % 3 * 0.4)
    bench.run([Opcode.ELEMENTWISE, Opcode.PROJECT] * 6)


def test_a_reset_clears_every_accumulator():
    """Whatever the accumulators held, they are drained once before the first instruction."""
    config = TINY
    bench = Bench(config, generator(0), real_tables=True, pauses=0.0)
    bench.accumulator[:] = 1
    simulate(bench.dut, lambda ctx: until(ctx, ~bench.dut.busy), limit=500,
             background=[bench.array, bench._watch])
    assert not bench.accumulator.any()
    assert sum(values[2] for values in bench.seen) == config.accumulator_rows


@pytest.mark.parametrize("go, rows", [(0, 128), (1, 128), (0, 48)])
def test_a_clear_drains_every_accumulator_once(go, rows):
    """Whatever ``go`` says, and without work for the slices."""
    config = TINY.replace(accumulator_rows=rows)
    bench = Bench(config, generator(0), real_tables=True, pauses=0.0)
    dut = bench.dut

    async def clear(ctx):
        ctx.set(dut.go, go)
        await until(ctx, ~dut.busy)
        await cycles(ctx, 2)
        bench.seen.clear()
        bench.accumulator[:] = 1
        ctx.set(dut.instruction, {"opcode": Opcode.CLEAR})
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        for _ in range(config.accumulator_rows + 10):
            assert not ctx.get(dut.control.beat.valid) and not ctx.get(dut.write_valid)
            await ctx.tick()
        assert not ctx.get(dut.busy)

    simulate(dut, clear, limit=800, background=[bench.array, bench._watch])
    assert not bench.accumulator.any()
    assert sum(values[2] for values in bench.seen) == config.accumulator_rows


def test_slices_follow_the_state_that_the_host_points_at():
    """While nothing is under way; a row in every cycle, and without work for the slices."""
    config = CONFIGS["one slice"]
    dut = Assemble(config)
    places = [(row, place) for row in (*(1 << bit for bit in range(config.cell_rows.bit_length() - 1)),
                                       config.cell_rows - 1, 0) for place in range(config.beats)]

    async def bench(ctx):
        await until(ctx, ~dut.busy)
        for cycle in range(len(places) + dut.control_delay):
            if cycle < len(places):
                ctx.set(dut.state_row, places[cycle][0])
                ctx.set(dut.state_beat, places[cycle][1])
            if cycle >= dut.control_delay:
                beat = ctx.get(dut.control.beat)
                assert (beat.row, beat.beat, beat.valid) == (*places[cycle - dut.control_delay], 0)
            await ctx.tick()

    simulate(dut, bench, limit=2000)


@pytest.mark.parametrize("name, done, join, y, m, c, line, spacing", [
    ("ese", 2, 1, 8, 20, 21, 17, 32), ("latency", 0, 2, 9, 21, 18, 1, 2)])
def test_the_cycles_from_a_sum_to_a_column(name, done, join, y, m, c, line, spacing):
    """As docs/explain/timing.md has them."""
    config = preset(name)
    assemble, stages = Assemble(config), Stages.of(config)
    assert (SpMV.done_delay(config), SpMV.delay - SpMV.latency, PEArray.join_delay(config)) == (done, 2, join)
    assert Controller.done_delay + Assemble.turn_delay == SpMV.turn_delay
    assert (stages.y_delay, stages.m_delay, stages.c_delay) == (y, m, c)
    assert (stages.h_delay, stages.r_delay) == (m + 2, 16)
    assert assemble.write_delay(Kind.PROJECTION) == 1 + PEArray.drain_delay + y + line
    dense = Assemble(config.replace(cells="lstm+dense"))
    assert dense.write_delay(Kind.PROJECTION) == 1 + PEArray.drain_delay + y + 1 + line
    # Bias and argument, the table, rounding.
    table = 2 + Activation.delay + 1
    assert dense.write_delay(Kind.PROJECTION, table=True) == 1 + PEArray.drain_delay + y + table + line
    assert assemble.write_delay(Kind.O) == 1 + PEArray.drain_delay + m + line
    assert assemble.write_delay(Kind.Z) == 1 + PEArray.drain_delay + m + 2 + line
    assert assemble.spacing == spacing
