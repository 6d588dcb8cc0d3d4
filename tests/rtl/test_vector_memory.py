# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""VectorMemory: lines of all banks, written by bank and channel, read `VectorMemory.delay` cycles later."""

import numpy as np
import pytest
from amaranth.hdl import Elaboratable, Module
from bench import TINY, cycles, generator, integers, seeds, simulate

from openese.rtl.assemble import Assemble
from openese.rtl.broadcast import Broadcast
from openese.rtl.frames import FrameInput, FrameOutput
from openese.rtl.state_access import StateAccess
from openese.rtl.vector_memory import VectorMemory, share_ports

CONFIGS = {
    "tiny": TINY,
    "one channel": TINY.replace(channels=1, slice_width=1, vector_depth=16),
    "two groups": TINY.replace(groups=2, slices=2, vector_depth=32),
    "four groups": TINY.replace(pes=16, groups=4, slices=1, channels=4, vector_depth=64),
    "half a line a beat": TINY.replace(pes=64, groups=8, channels=16, vector_depth=64),
    "four lines a write": TINY.replace(pes=16, groups=2, slices=2, slice_width=8, forward=True),
}


@seeds(2)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_columns_are_those_last_written(config, seed):
    """Reads and writes in every cycle, never of the same lines at once."""
    rng = generator(seed)
    dut = VectorMemory(config)
    lines, width = config.vector_depth // config.groups, config.write_columns
    contents = np.zeros((config.vector_depth // width, width, config.channels), np.int64)
    expected, got = [], []

    async def bench(ctx):
        for _ in range(400):
            columns = integers(rng, config.activation_bits, (width, config.channels))
            line = int(rng.integers(lines))
            banks, channels = int(rng.integers(1 << width)), int(rng.integers(1 << config.channels))
            reads = rng.choice([other for other in range(lines) if other // config.write_lines
                                != line // config.write_lines], config.groups)
            if rng.integers(2):
                reads[:] = reads[0]
            ctx.set(dut.write_columns, columns)
            ctx.set(dut.write_line, line)
            ctx.set(dut.write_bank, banks)
            ctx.set(dut.write_channels, channels)
            ctx.set(dut.read_line, reads.tolist())
            same = len(set(reads.tolist())) == 1
            expected.append(([contents.reshape(lines, config.groups, -1)[reads[group], group].tolist()
                              for group in range(config.groups)],
                             contents[reads[0] // config.write_lines].tolist() if same else None))
            for bank in range(width):
                for channel in range(config.channels):
                    if banks >> bank & channels >> channel & 1:
                        contents[line // config.write_lines, bank, channel] = columns[bank][channel]
            _, _, *values = await ctx.tick().sample(dut.columns, dut.banks)
            got.append([[list(column) for column in value] for value in values])
        ctx.set(dut.write_bank, 0)
        for _ in range(dut.delay):
            _, _, *values = await ctx.tick().sample(dut.columns, dut.banks)
            got.append([[list(column) for column in value] for value in values])

    simulate(dut, bench, limit=1000)
    assert any(block for _, block in expected)
    for (columns, block), (wanted, whole) in zip(got[dut.delay:], expected, strict=True):
        assert columns == wanted
        assert whole is None or block == whole


def test_a_write_without_bank_or_channel_changes_nothing():
    dut = VectorMemory(TINY)
    values = []

    async def bench(ctx):
        for bank, channels, columns in ((1, 3, [1, 2]), (0, 3, [3, 4]), (1, 0, [5, 6]), (1, 2, [7, 8])):
            ctx.set(dut.write_bank, bank)
            ctx.set(dut.write_channels, channels)
            ctx.set(dut.write_columns, [columns])
            await ctx.tick()
        ctx.set(dut.write_bank, 0)
        await cycles(ctx, dut.delay)
        values.extend(list(ctx.get(dut.columns)[0]))

    simulate(dut, bench, limit=20)
    assert values == [1, 8]


class Shared(Elaboratable):
    """The ports of the memory, shared by blocks that are ports alone."""

    def __init__(self, config):
        self.config = config
        self.vectors = VectorMemory(config)
        self.blocks = [block(config) for block in (Broadcast, FrameOutput, FrameInput, Assemble, StateAccess)]

    def elaborate(self, platform):
        m = Module()
        m.submodules.vectors = self.vectors
        m.d.comb += self.vectors.read_line.eq(self.blocks[0].read_line)
        share_ports(m, self.config, self.vectors, *self.blocks)
        return m


@seeds(1)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_ports_go_to_the_first_block_that_wants_them(config, seed):
    """Broadcast, FrameOutput, StateAccess for reading; Assemble, StateAccess, FrameInput for writing."""
    rng = generator(seed)
    dut = Shared(config)
    vectors, (broadcast, frame_output, frame_input, assemble, state) = dut.vectors, dut.blocks
    lines = config.vector_depth // config.groups
    width = config.write_columns
    everyone, everywhere = (1 << config.channels) - 1, (1 << width) - 1
    served = set()

    def number(limit):
        return int(rng.integers(limit))

    async def bench(ctx):
        for _ in range(200):
            inputs = {(block, name): number(lines) for block, name in (
                (frame_output, "read_line"), (frame_input, "write_line"), (assemble, "write_line"), (state, "line"))}
            wanted = {(block, name): number(2) for block, name in (
                (broadcast, "read_valid"), (frame_output, "busy"), (frame_input, "write_valid"),
                (assemble, "write_valid"))}
            channels = {block: number(everyone + 1) for block in (assemble, state)}
            banks = {frame_input: everywhere if config.beat_columns > 1 else 1 << number(config.groups),
                     state: 1 << number(width) if rng.random() < 0.5 else 0}
            for (block, name), value in (inputs | wanted).items():
                ctx.set(getattr(block, name), value)
            reads = rng.integers(0, lines, config.groups).tolist()
            ctx.set(broadcast.read_line, reads)
            for block, value in channels.items():
                ctx.set(block.write_channels, value)
            ctx.set(frame_input.write_bank, banks[frame_input])
            ctx.set(state.bank, banks[state])
            arrived = integers(rng, config.activation_bits, (config.beat_columns, config.channels))
            columns = integers(rng, config.activation_bits, (width, config.channels))
            value = integers(rng, config.activation_bits)
            ctx.set(frame_input.write_columns, arrived)
            ctx.set(assemble.write_columns, columns)
            ctx.set(state.data, value & 0xFFFF)

            reader = (broadcast if wanted[broadcast, "read_valid"] else
                      frame_output if wanted[frame_output, "busy"] else state)
            expected = {broadcast: reads, frame_output: [inputs[frame_output, "read_line"]] * config.groups,
                        state: [inputs[state, "line"]] * config.groups}[reader]
            assert list(ctx.get(vectors.read_line)) == expected
            writer = assemble if wanted[assemble, "write_valid"] else state if banks[state] else frame_input
            line, bank, written, values = {
                assemble: (inputs[assemble, "write_line"], everywhere, channels[assemble], columns),
                state: (inputs[state, "line"], banks[state], channels[state],
                        [[value] * config.channels] * width),
                frame_input: (inputs[frame_input, "write_line"],
                              banks[frame_input] * wanted[frame_input, "write_valid"], everyone,
                              arrived * (width // config.beat_columns)),
            }[writer]
            assert (ctx.get(vectors.write_line), ctx.get(vectors.write_bank)) == (line, bank)
            assert ctx.get(vectors.write_channels) == written
            assert [list(values) for values in ctx.get(vectors.write_columns)] == values
            served.update((("reads", reader), ("writes", writer)))
            await ctx.tick()

    simulate(dut, bench, limit=300)
    assert len(served) == 6
