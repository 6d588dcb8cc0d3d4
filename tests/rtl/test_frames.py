# SPDX-License-Identifier: Apache-2.0
"""FrameInput and FrameOutput: whole frames in and out, wrong ones dropped, stalls on every side."""

from collections import deque

import numpy as np
import pytest
from bench import TINY, check_held, cycles, generator, get, integers, pack, pause, put, seeds, simulate, trace, unpack

from openese.rtl.frames import (
    BANK_SHIFT,
    MODEL_SHIFT,
    Beats,
    FrameGuard,
    FrameInput,
    FrameOutput,
    frame_beats,
    pack_frames,
    unpack_beats,
    unpack_frames,
)
from openese.rtl.vector_memory import VectorMemory

CONFIGS = {
    "tiny": TINY,
    "one channel": TINY.replace(channels=1, slice_width=1),
    "two groups": TINY.replace(groups=2, slices=2),
    "three banks": TINY.replace(banks=3),
    "three models": TINY.replace(models=3, banks=2),
    "eight groups, one channel": TINY.replace(pes=64, groups=8, channels=1, slice_width=1),
    "half a line a beat": TINY.replace(pes=64, groups=8, channels=8, activation_bits=18),
    "four lines a beat": TINY.replace(pes=16, groups=2, slices=2, slice_width=8, forward=True),
}
stalls = pytest.mark.parametrize("chance", [0.0, 0.5], ids=["no stalls", "stalls"])
configs = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def random_frames(rng, config, count, columns):
    """(beats, active, reset, columns, bank, model): of as many ``columns`` as the model has, some with fewer or more
    beats behind the header, some for no bank or model."""
    frames = []
    for _ in range(count):
        model = int(rng.integers(config.models) if rng.random() < 0.8 or config.models == 1 else rng.integers(64))
        size = columns[model % config.models]
        right = frame_beats(config, size) - 1
        length = right if rng.random() < 0.6 else int(rng.integers(0, 2 * right + 1))
        active, reset = (int(rng.integers(0, 1 << config.channels)) for _ in range(2))
        frames.append((length, active, reset, [integers(rng, config.activation_bits, config.channels)
                                               for _ in range(size)],
                       int(rng.integers(config.banks) if rng.random() < 0.8 else rng.integers(64)), model))
    return frames


def beats(rng, config, frame):
    """A frame's beats; what neither its header nor its columns define is noise."""
    length, active, reset, columns, bank, model = frame
    words = np.array(integers(rng, config.activation_bits, (length + 1, config.beat_columns, config.channels)))
    words[0, 0] = [word & ~3 | active >> k & 1 | (reset >> k & 1) << 1 for k, word in enumerate(words[0, 0])]
    words[0, 0, 0] = words[0, 0, 0] & ~(63 << BANK_SHIFT) | bank << BANK_SHIFT
    if config.models > 1:
        words[0, 0, 0] = words[0, 0, 0] & ((1 << MODEL_SHIFT) - 1) | model << MODEL_SHIFT
    places = words[1:].reshape(-1, config.channels)
    count = min(len(columns), len(places))
    places[:count] = np.reshape(columns[:count], (count, config.channels))
    return [{"data": pack(beat.ravel().tolist(), config.activation_bits), "last": int(k == length)}
            for k, beat in enumerate(words)]


@pytest.mark.parametrize("bits", range(8, 19))
@pytest.mark.parametrize("channels, groups", [(1, 1), (2, 1), (8, 1), (64, 1), (1, 8), (4, 2), (16, 8)])
def test_the_host_packs_frames_as_the_machine(bits, channels, groups):
    config = TINY.replace(activation_bits=bits, channels=channels, groups=groups, pes=groups ** 2)
    width, rng = config.beat_columns, generator(bits)
    for count in range(2 * groups + 1):
        header, columns = (np.array(integers(rng, bits, (3, n, channels)), int).reshape(3, n, channels)
                           for n in (1, count))
        packed = pack_frames(config, header[:, 0], columns)
        filled = -(-count // width) * width - count
        words = np.concatenate([header, np.zeros((3, width - 1, channels), int), columns,
                                np.zeros((3, filled, channels), int)], axis=1).reshape(3, -1, width * channels)
        assert [[int.from_bytes(beat.tobytes(), "little") for beat in frame] for frame in packed] == [
            [pack(row, bits) for row in frame] for frame in words.tolist()]
        assert packed.shape[1:] == (frame_beats(config, count), (Beats(config).members["payload"].shape.size - 1) // 8)
        assert (unpack_beats(config, packed) == words).all()
        for frames in (0, 3):
            given = header[:frames, 0], columns[:frames]
            for sent, back in zip(given, unpack_frames(config, pack_frames(config, *given), count), strict=True):
                assert sent.shape == back.shape and (sent == back).all()


@seeds(2)
@configs
@stalls
def test_right_frames_arrive_and_wrong_ones_are_reported(config, chance, seed):
    rng = generator(seed)
    dut = FrameInput(config)
    sizes = rng.integers(2, 20, config.models).tolist()
    lines = config.vector_depth // config.groups
    frames = random_frames(rng, config, 30 * config.models, sizes)

    def length(frame):
        return frame_beats(config, len(frame[3])) - 1

    def known(frame):
        return frame[4] < config.banks and frame[5] < config.models

    good = [frame for frame in frames if frame[0] == length(frame) and known(frame)]
    wrong_bank = [frame for frame in frames if frame[0] and not known(frame)]
    others = [frame for frame in frames if frame not in wrong_bank]
    memory = np.zeros((lines, config.groups, config.channels), np.int64)
    bases = [3 * config.write_lines, lines - 20]
    taken = []
    watch, seen = trace(dut.short, dut.long, dut.wrong_bank)

    async def source(ctx):
        # Nothing is accepted before the format is known.
        for k, base in enumerate(bases):
            ctx.set(dut.bases[k], base)
        if config.banks > 1:
            ctx.set(dut.banks, config.banks)
        for model, size in enumerate(sizes):
            ctx.set(dut.count, size)
            if config.models > 1:
                ctx.set(dut.index, model)
                ctx.set(dut.models, config.models)
            ctx.set(dut.beats.valid, 1)
            await cycles(ctx, 3)
            assert not ctx.get(dut.beats.ready)
            ctx.set(dut.beats.valid, 0)
            ctx.set(dut.format, 1)
            await ctx.tick()
            ctx.set(dut.format, 0)
        ctx.set(dut.count, 1)
        for frame in frames:
            for beat in beats(rng, config, frame):
                await pause(ctx, rng, chance)
                await put(ctx, dut.beats, beat)

    async def write(ctx):
        async for _, _, valid, hold, line, bank, columns in ctx.tick().sample(
                dut.write_valid, dut.hold, dut.write_line, dut.write_bank, dut.write_columns):
            if valid:
                assert not hold
                banks = [k for k in range(config.write_columns) if bank >> k & 1]
                assert len(banks) == config.beat_columns and line % config.write_lines == 0
                for k in banks:
                    memory[line + k // config.groups, k % config.groups] = list(columns[k % config.beat_columns])

    async def follow(ctx):
        """No line of a frame that comes in is told before it is written, at the latest in the next cycle."""
        written = [0]
        async for _, _, partial, done, valid, line, bank in ctx.tick().sample(
                dut.partial, dut.lines_done, dut.write_valid, dut.write_line, dut.write_bank):
            if valid:
                first = min(bases, key=lambda base: (line - base) % lines)
                written.append((line - first) % lines + (bank >> config.write_columns - 1) * config.write_lines)
            if partial:
                assert done <= written[-1]

    async def hold(ctx):
        while chance:
            ctx.set(dut.hold, rng.random() < chance / 2)
            await ctx.tick()

    async def consume(ctx):
        held = deque()
        early, early_takes = None, [0, 0]  # the voices of a frame that was taken while it came in; whole, broken
        while len(taken) < len(good) or held:
            now = ctx.get(dut.buffer), (ctx.get(dut.active), ctx.get(dut.reset),
                                        ctx.get(dut.bank) if config.banks > 1 else 0,
                                        ctx.get(dut.model) if config.models > 1 else 0)
            take, drop = False, ctx.get(dut.broken) and rng.random() < 0.2
            release = bool(held) and rng.random() < 0.1
            if early:
                assert not (ctx.get(dut.partial) and ctx.get(dut.broken))
                if drop or not (ctx.get(dut.partial) or ctx.get(dut.broken)):
                    early_takes[drop] += 1
                    if not drop:
                        taken.append(early[1])
                        held.append((early[0], good[len(taken) - 1][3]))
                        assert ctx.get(dut.lines_done) >= -(-len(held[-1][1]) // config.groups)
                    early = None
            elif len(held) < 2:
                take = bool(ctx.get(dut.ready) or ctx.get(dut.coming)) and rng.random() < 0.5
            if take:
                assert now[0] == len(taken) % 2
                if ctx.get(dut.coming):
                    early = now
                else:
                    taken.append(now[1])
                    held.append((now[0], good[len(taken) - 1][3]))
            if release:
                buffer, columns = held.popleft()
                places = bases[buffer] * config.groups + np.arange(len(columns))
                assert memory.reshape(-1, config.channels)[places].tolist() == columns
            ctx.set(dut.take, take)
            ctx.set(dut.drop, drop)
            ctx.set(dut.release, release)
            await ctx.tick()
        ctx.set(dut.take, 0)
        ctx.set(dut.release, 0)
        assert all(early_takes), "some are whole, some are not"

    simulate(dut, source, consume, limit=16000 * config.models, background=[watch, write, hold, follow])
    assert taken == [(*frame[1:3], *frame[4:]) for frame in good]
    assert sum(values[0] for values in seen) == sum(frame[0] < length(frame) for frame in others)
    assert sum(values[1] for values in seen) == sum(frame[0] > length(frame) for frame in others)
    assert sum(values[2] for values in seen) == len(wrong_bank) > 0


def test_a_header_alone_is_no_frame():
    """Whatever came before it, which may have lacked a single column."""
    dut, count = FrameInput(TINY), 3
    watch, seen = trace(dut.complete, dut.short, dut.long)
    lengths = [count - 1, 0, 0, count + 1, 0, count, 0, count + 2, 0, count]

    async def source(ctx):
        ctx.set(dut.count, count)
        ctx.set(dut.format, 1)
        await ctx.tick()
        ctx.set(dut.format, 0)
        for length in lengths:
            for beat in beats(generator(0), TINY, (length, 3, 0, [[1, 2]] * length, 0, 0)):
                await put(ctx, dut.beats, beat)
        await ctx.tick()

    simulate(dut, source, limit=100, background=[watch])
    events = [values for values in seen if any(values)]
    assert events == [(int(length == count), int(length < count), int(length > count)) for length in lengths]


def test_the_input_takes_two_frames_and_no_more():
    """A third frame waits until a buffer is released, not only taken."""
    dut = FrameInput(TINY)
    frame = (2, 3, 0, [[1, 2], [3, 4]], 0, 0)
    watch, seen = trace(dut.beats.valid & dut.beats.ready)

    async def source(ctx):
        ctx.set(dut.count, 2)
        ctx.set(dut.format, 1)
        await ctx.tick()
        ctx.set(dut.format, 0)
        for _ in range(3):
            for beat in beats(generator(0), TINY, frame):
                await put(ctx, dut.beats, beat)

    async def consume(ctx):
        await cycles(ctx, 20)
        assert sum(values[0] for values in seen) == 6
        ctx.set(dut.take, 1)
        await ctx.tick()
        ctx.set(dut.take, 0)
        await cycles(ctx, 10)
        assert sum(values[0] for values in seen) == 6
        ctx.set(dut.release, 1)
        await ctx.tick()
        ctx.set(dut.release, 0)

    simulate(dut, source, consume, limit=100, background=[watch])
    # At full speed: a beat in every cycle from the format on.
    assert [values[0] for values in seen[:8]] == [0, 1, 1, 1, 1, 1, 1, 0]


@pytest.mark.parametrize("count", [1 << bit for bit in range(1, TINY.vector_depth.bit_length())])
def test_frames_of_any_length_anywhere(count):
    """Lengths of every magnitude, in the first and in the last lines: every column comes, at its own place."""
    dut = FrameInput(TINY)
    # The sum of a base and an index may carry anywhere.
    bases = [min(TINY.vector_depth - count, (count >> 1) + 1), TINY.vector_depth - count]
    columns = [[k, -k] for k in range(count)]
    written = []

    async def source(ctx):
        for k, base in enumerate(bases):
            ctx.set(dut.bases[k], base)
        ctx.set(dut.count, count)
        ctx.set(dut.format, 1)
        await ctx.tick()
        ctx.set(dut.format, 0)
        for frame in ((count - 1, 3, 0, columns[1:], 0, 0), (count, 3, 0, columns, 0, 0),
                      (count + 1, 3, 0, [*columns, [0, 0]], 0, 0), (count, 3, 0, columns, 0, 0)):
            for beat in beats(generator(0), TINY, frame):
                await put(ctx, dut.beats, beat)
        assert ctx.get(dut.ready)

    async def write(ctx):
        async for _, _, valid, done, line, column in ctx.tick().sample(
                dut.write_valid, dut.complete, dut.write_line, dut.write_columns[0]):
            if valid:
                written.append((line, list(column)))
            if done:
                frames.append(written[-count:])

    frames = []
    simulate(dut, source, limit=8 * count + 50, background=[write])
    assert frames == [[(base + k, column) for k, column in enumerate(columns)] for base in bases]


@pytest.mark.parametrize("count", [1 << bit for bit in range(1, TINY.vector_depth.bit_length())])
def test_columns_of_frames_of_any_length_are_read_in_order(count):
    dut = FrameOutput(TINY)
    bases = [min(TINY.vector_depth - count, (count >> 1) + 1), TINY.vector_depth - count]
    got = []

    async def start(ctx):
        ctx.set(dut.read_grant, 1)
        ctx.set(dut.complete, 1)
        ctx.set(dut.count, count)
        ctx.set(dut.active, 3)
        for base in bases:
            ctx.set(dut.src_base, base)
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            while ctx.get(dut.busy):
                await ctx.tick()
        await cycles(ctx, 2)

    async def vectors(ctx):
        late = deque([0] * (VectorMemory.delay - 1))
        while True:
            _, _, line = await ctx.tick().sample(dut.read_line)
            late.append(line)
            line = late.popleft()
            ctx.set(dut.columns, [[line, ~line]])

    async def sink(ctx):
        async for _, _, valid, beat in ctx.tick().sample(dut.beat_valid, dut.beat):
            if valid:
                got.append((unpack(beat.data, TINY.activation_bits, 2), bool(beat.last)))

    simulate(dut, start, limit=8 * count + 200, background=[vectors, sink])
    expected = []
    for base in bases:
        expected.append(([1, 1], False))
        expected += [([line, ~line], line == base + count - 1) for line in range(base, base + count)]
    assert got == expected


@seeds(2)
@configs
@pytest.mark.parametrize("grants, chance", [(1.0, 0.0), (1.0, 0.6), (0.4, 0.0), (0.5, 0.5)])
def test_frames_are_sent_whole(config, grants, chance, seed):
    """Each line is sent when it is written, or read after that, while the next lines are still to come."""
    rng = generator(seed)
    dut = FrameOutput(config)
    # What is written at once: so many lines.
    writes, size = config.vector_depth // config.write_columns, config.write_lines
    contents = np.array(integers(rng, config.activation_bits, (writes, config.write_columns, config.channels)))
    memory = np.array(integers(rng, config.activation_bits, contents.shape))
    last = writes - 24 // config.write_columns
    jobs = [{"count": int(rng.integers(1, 25)), "src_base": size * int(rng.integers(0, last)),
             "active": int(rng.integers(0, 1 << config.channels)),
             **({"bank": int(rng.integers(config.banks))} if config.banks > 1 else {}),
             **({"model": int(rng.integers(config.models))} if config.models > 1 else {})} for _ in range(8)]
    expected = []
    for job in jobs:
        keep = np.array([job["active"] >> k & 1 for k in range(config.channels)])
        columns = contents.reshape(-1, config.channels)[job["src_base"] * config.groups:][:job["count"]]
        flags = keep.copy()
        flags[0] |= job.get("bank", 0) << BANK_SHIFT | job.get("model", 0) << MODEL_SHIFT
        sent = pack_frames(config, flags, columns * keep)
        expected += [(int.from_bytes(beat.tobytes(), "little"), k == len(sent) - 1) for k, beat in enumerate(sent)]
    got = []
    watch, seen = trace(dut.beat_valid, dut.busy, dut.level)

    async def start(ctx):
        for job in jobs:
            while ctx.get(dut.busy):
                await ctx.tick()
            for name, value in job.items():
                ctx.set(getattr(dut, name), value)
            # Assemble has written some lines, or all of them.
            base, count = job["src_base"] // size, -(-job["count"] // config.write_columns)
            done = int(rng.integers(0, count + 1))
            memory[base:base + count] = integers(rng, config.activation_bits, contents[base:base + count].shape)
            memory[base:base + done] = contents[base:base + done]
            ctx.set(dut.lines_done, size * done)
            ctx.set(dut.complete, done == count and rng.random() < 0.5)
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            for name in job:
                ctx.set(getattr(dut, name), 1)
            for write in range(done, count):
                for _ in range(rng.integers(0, 8)):
                    await ctx.tick()
                    assert ctx.get(dut.busy)
                ctx.set(dut.write_valid, 1)
                ctx.set(dut.write_columns, contents[base + write].tolist())
                await ctx.tick()
                ctx.set(dut.write_valid, 0)
                memory[base + write] = contents[base + write]
                ctx.set(dut.lines_done, size * (write + 1))
            await cycles(ctx, int(rng.integers(0, 4)))
            ctx.set(dut.complete, 1)
            await ctx.tick()
            # The next instruction may begin before all is read, and writes lines of its own.
            ctx.set(dut.complete, 0)
            while ctx.get(dut.busy):
                ctx.set(dut.write_valid, int(rng.integers(2)))
                ctx.set(dut.write_columns, integers(rng, config.activation_bits, contents[0].shape))
                ctx.set(dut.lines_done, size * int(rng.integers(count + 1)))
                await ctx.tick()
            ctx.set(dut.write_valid, 0)

    async def vectors(ctx):
        """`VectorMemory.delay` cycles behind; without a grant somebody else reads."""
        late = deque([memory[0]] * (VectorMemory.delay - 1))
        while True:
            ctx.set(dut.read_grant, rng.random() < grants)
            _, _, line, grant = await ctx.tick().sample(dut.read_line, dut.read_grant)
            late.append(memory[line // size if grant else rng.integers(writes)].copy())
            ctx.set(dut.columns, late.popleft().tolist())

    async def queue(ctx):
        """Like that of FrameGuard, whose last place is for the end of a frame that is cut."""
        level = 0
        while len(got) < len(expected) or level:
            takes = level > 0 and rng.random() >= chance
            _, _, valid, beat = await ctx.tick().sample(dut.beat_valid, dut.beat)
            level += valid - takes
            assert level < FrameGuard.depth
            ctx.set(dut.level, level)
            if valid:
                got.append((beat.data, bool(beat.last)))
        await cycles(ctx, 10)

    simulate(dut, start, queue, limit=6000, background=[vectors, watch])
    assert got == expected
    assert chance < 0.6 or config.groups > 1 or max(values[2] for values in seen) == FrameGuard.depth - 1
    # From its first beat on a frame is busy, or its last beat is there.
    sent = 0
    lengths = np.cumsum([frame_beats(config, job["count"]) for job in jobs])
    for valid, busy, _ in seen:
        assert valid or busy or sent == 0 or sent in lengths
        sent += valid


@pytest.mark.parametrize("last", ["header", "read", "written"])
def test_a_queue_that_nobody_takes_from_fills_up(last):
    """But for the place that is kept; whether its last beat is a header, a line read, or a line that is written."""
    dut = FrameOutput(TINY)
    count = 2 if last == "header" else 9
    level = 0

    async def start(ctx):
        ctx.set(dut.read_grant, 1)
        ctx.set(dut.count, count)
        ctx.set(dut.complete, last != "written")
        ctx.set(dut.lines_done, FrameGuard.depth - 3)  # with the header, all but one of those that fit
        for _ in range(3 if last == "header" else 1):
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            await cycles(ctx, 20)
        assert level == FrameGuard.depth - 1 - (last == "written")
        ctx.set(dut.write_valid, last == "written")
        await ctx.tick()
        ctx.set(dut.write_valid, 0)
        await cycles(ctx, 5)
        assert level == FrameGuard.depth - 1

    async def queue(ctx):
        nonlocal level
        async for _, _, valid in ctx.tick().sample(dut.beat_valid):
            level += valid
            ctx.set(dut.level, level)

    simulate(dut, start, limit=100, background=[queue])


@seeds(3)
@pytest.mark.parametrize("chance", [0.0, 0.6], ids=["no stalls", "stalls"])
@pytest.mark.parametrize("longest", [1, 6])
def test_a_reset_ends_the_frame_that_was_on_its_way_out(longest, chance, seed):
    """Whenever the core is reset, be it for a cycle, the receiver sees whole frames: a zero ends the cut."""
    rng = generator(seed)
    dut = FrameGuard(TINY)
    frames, sent, got = [], [], []
    watch, seen = trace(dut.sent)

    async def core(ctx):
        """Frames of numbers that count up; a reset abandons the frame, and whatever was offered."""
        for number in range(60):
            length = int(rng.integers(1, 6))
            frames.append([1000 * (number + 1) + k for k in range(length)])
            sent.append([])
            reset = False
            while len(sent[-1]) < length and not reset:
                at = len(sent[-1])
                room = ctx.get(dut.level) < FrameGuard.depth - 1
                ctx.set(dut.i, {"data": frames[-1][at], "last": int(at == length - 1)})
                ctx.set(dut.i_valid, room)
                await ctx.tick()
                if room:
                    sent[-1].append(frames[-1][at])
                reset = rng.random() < 0.08
            if reset:
                # In the first cycle of a reset there may still be a beat.
                ctx.set(dut.i, {"data": 7, "last": 1})
                ctx.set(dut.i_valid, int(rng.integers(2)))
                ctx.set(dut.abort, 1)
                await ctx.tick()
                ctx.set(dut.i_valid, 0)
                await cycles(ctx, int(rng.integers(longest)))
                ctx.set(dut.abort, 0)
                await ctx.tick()
            ctx.set(dut.i_valid, 0)
            await pause(ctx, rng, chance)
        for _ in range(100):
            await ctx.tick()

    async def sink(ctx):
        while True:
            await pause(ctx, rng, chance)
            got.append(await get(ctx, dut.o))

    simulate(dut, core, limit=8000, background=[sink, watch, check_held(dut.o)])
    whole, part = [], []
    for beat in got:
        part.append(beat.data)
        if beat.last:
            whole.append(part)
            part = []
    assert not part, "the last frame was not ended"
    expected = [values if values == frame else [*values, 0]
                for values, frame in zip(sent, frames, strict=True) if values]
    assert whole == expected
    # A frame that was cut is not reported as sent.
    assert sum(values[0] for values in seen) == sum(values == frame for values, frame in zip(sent, frames, strict=True))


def test_the_guard_knows_when_a_frame_is_under_way():
    dut = FrameGuard(TINY)
    seen = []

    async def bench(ctx):
        for accepted, last in ((1, 0), (0, 1), (1, 0), (1, 1), (0, 0), (1, 1)):
            ctx.set(dut.accepted, accepted)
            ctx.set(dut.last, last)
            await ctx.tick()
            seen.append(ctx.get(dut.midway))

    simulate(dut, bench, limit=20)
    assert seen == [1, 1, 1, 0, 0, 0]


def test_the_rest_of_a_frame_is_dropped_after_a_reset():
    """A core that comes out of reset midway drops up to the frame's last beat, before any format is known."""
    dut = FrameInput(TINY)
    frame = (2, 3, 0, [[1, 2], [3, 4]], 0, 0)
    watch, seen = trace(dut.complete)

    async def bench(ctx):
        ctx.set(dut.midway, 1)
        ctx.set(dut.count, 2)
        for data, last in ((7, 0), (8, 0), (9, 1)):
            await put(ctx, dut.beats, {"data": data, "last": last})
        ctx.set(dut.format, 1)
        await ctx.tick()
        ctx.set(dut.format, 0)
        for beat in beats(generator(0), TINY, frame):
            await put(ctx, dut.beats, beat)
        assert ctx.get(dut.ready)

    simulate(dut, bench, limit=50, background=[watch])
    assert sum(values[0] for values in seen) == 1
