# SPDX-License-Identifier: Apache-2.0
"""Streamed weights: the program's lines asked for in order, read over AXI4, and taken up as they arrive."""

from collections import deque

import pytest
from bench import TINY, check_held, cycles, generator, pause, resettable, seeds, simulate, trace, until

from openese.rtl.interfaces import BLOCKS
from openese.rtl.program import Instruction, Opcode, Take, When
from openese.rtl.spmat_read import SpmatRead
from openese.rtl.weight_stream import StreamFetch, StreamReader, burst_lines

STREAM = TINY.replace(index_bits=4, entry_depth=128, stream=True)
DEPTH = STREAM.entry_depth


# -- SpmatRead: a ring that is written while it is read ------------------------------------------------


@seeds(2)
@pytest.mark.parametrize("supply, demand", [(1.0, 1.0), (0.3, 1.0), (1.0, 0.4), (0.6, 0.6)])
def test_entries_of_a_ring(supply, demand, seed):
    """Every PE passes every line, its own entries come out, and a block is released when it was read."""
    rng = generator(seed)
    dut = SpmatRead(STREAM)
    words = rng.integers(0, 1 << STREAM.entry_bits, 1000).tolist()
    operations, position = [], 0
    while position < 600:
        counts = rng.integers(1, 20, rng.integers(0, 6)).tolist()
        # Another PE may have more entries than this one.
        lines = sum(counts) + int(rng.integers(0, 30))
        operations.append((position, counts, lines))
        position += lines
    expected = []
    for number, (base, counts, _) in enumerate(operations):
        for index, (address, first) in enumerate(SpmatRead.model(counts, base)):
            word = words[address]
            expected.append((word & 0xFFF, word >> 12, number % 4, first, index == 0, 0))
        expected.append((0, 0, number % 4, 0, 0, 1))
    released, got = [0], []
    modulus = 1 << STREAM.position_bits

    async def memory(ctx):
        """A line is counted in the cycle after its write, and only written where there is room."""
        for line, word in enumerate(words[:position]):
            while line - released[0] * (DEPTH // BLOCKS) >= DEPTH:
                await ctx.tick()
            await pause(ctx, rng, 1 - supply)
            ctx.set(dut.load, {"address": line % DEPTH, "data": word})
            ctx.set(dut.load_valid, 1)
            await ctx.tick()
            ctx.set(dut.load_valid, 0)
            ctx.set(dut.written, (line + 1) % modulus)

    async def tokens(ctx):
        ctx.set(dut.streamed, 1)
        for number, (base, counts, lines) in enumerate(operations):
            ctx.set(dut.base, base % modulus)
            ctx.set(dut.stop, (base + lines) % modulus)
            ctx.set(dut.base_operation, number % 4)
            ctx.set(dut.base_valid, 1)
            await ctx.tick()
            ctx.set(dut.base_valid, 0)
            await ctx.tick()
            tokens = [{"count": count, "operation": number % 4, "end": 0} for count in counts]
            for token in [*tokens, {"operation": number % 4, "end": 1}]:
                ctx.set(dut.tokens.payload, token)
                ctx.set(dut.tokens.valid, 1)
                while True:
                    _, _, ready = await ctx.tick().sample(dut.tokens.ready)
                    if ready:
                        break
                ctx.set(dut.tokens.valid, 0)

    async def entries(ctx):
        while len(got) < len(expected):
            ctx.set(dut.entries.ready, rng.random() < demand)
            _, _, ready, valid, entry = await ctx.tick().sample(
                dut.entries.ready, dut.entries.valid, dut.entries.payload)
            if ready and valid:
                fields = (entry.weight & 0xFFF, entry.skip) if not entry.end else (0, 0)
                got.append((*fields, entry.operation, entry.first, entry.fresh, entry.end))
        await cycles(ctx, 5)

    async def releases(ctx):
        async for _, _, pulse in ctx.tick().sample(dut.released):
            released[0] += pulse

    watch, seen = trace(dut.starved)
    simulate(dut, memory, tokens, entries, background=[releases, watch, check_held(dut.entries)], limit=8000)
    assert got == expected
    assert released[0] == position // (DEPTH // BLOCKS)
    assert any(values[0] for values in seen) or supply == 1.0


# -- StreamReader: bursts over AXI4 ----------------------------------------------------------------------


def random_bursts(rng, count):
    longest = burst_lines(STREAM)
    bursts = []
    for _ in range(count):
        line = int(rng.integers(0, 1 << 16))
        bursts.append((line, int(rng.integers(1, longest - line % longest + 1))))
    return bursts


def held(line):
    """What the memory holds there; every bit changes from line to line."""
    return (line + 1) * 0x9E37_79B9_7F4A_7C15 % (1 << STREAM.stream_bits)


class Bus:
    """An AXI4 subordinate that answers bursts in order; some lines come with an error."""

    def __init__(self, rng, bus, base, speed, errors=None, wrong_last=()):
        self.rng, self.bus, self.base, self.speed = rng, bus, base, speed
        self.errors = errors or {}
        self.wrong_last = wrong_last
        self.queue = deque()
        self.bytes = STREAM.stream_bits // 8

    async def addresses(self, ctx):
        bus = self.bus
        while True:
            ctx.set(bus.ar.ready, self.rng.random() < self.speed)
            _, _, valid, ready, ar = await ctx.tick().sample(bus.ar.valid, bus.ar.ready, bus.ar.payload)
            if valid and ready:
                assert (ar.burst, 1 << ar.size) == (1, self.bytes)
                first, last = ar.addr, ar.addr + (ar.len + 1) * self.bytes - 1
                assert first >> 12 == last >> 12, "a burst crosses a page"
                assert (ar.addr - self.base) % self.bytes == 0
                self.queue.append(((ar.addr - self.base) // self.bytes, ar.len + 1))

    async def data(self, ctx):
        bus = self.bus
        while True:
            if not self.queue:
                await ctx.tick()
                continue
            line, lines = self.queue[0]
            for k in range(lines):
                await pause(ctx, self.rng, 1 - self.speed)
                ctx.set(bus.r.payload, {"data": held(line + k), "resp": self.errors.get(line + k, 0),
                                        "last": int((k == lines - 1) != (line + k in self.wrong_last))})
                ctx.set(bus.r.valid, 1)
                while True:
                    _, _, ready = await ctx.tick().sample(bus.r.ready)
                    if ready:
                        break
                ctx.set(bus.r.valid, 0)
            self.queue.popleft()


@seeds(2)
@pytest.mark.parametrize("speed", [1.0, 0.4])
def test_bursts_are_read_in_order(speed, seed):
    rng = generator(seed)
    dut = StreamReader(STREAM)
    bursts = random_bursts(rng, 40)
    base = 0x1_2345_6000
    bus = Bus(rng, dut.bus, base, speed)
    lines = []

    async def ask(ctx):
        ctx.set(dut.base, base)
        for line, count in bursts:
            ctx.set(dut.bursts.payload, {"line": line, "lines": count})
            ctx.set(dut.bursts.valid, 1)
            while True:
                _, _, ready = await ctx.tick().sample(dut.bursts.ready)
                if ready:
                    break
            ctx.set(dut.bursts.valid, 0)
        while not ctx.get(dut.idle):
            await ctx.tick()
        await cycles(ctx, 3)

    async def record(ctx):
        async for _, _, valid, line in ctx.tick().sample(dut.line_valid, dut.line):
            if valid:
                lines.append(line)

    simulate(dut, ask, background=[bus.addresses, bus.data, record, check_held(dut.bus.ar)], limit=6000)
    assert lines == [held(line + k) for line, count in bursts for k in range(count)]


@seeds(2)
@pytest.mark.parametrize("error", [2, 4, 6], ids=["refused", "wrong RLAST", "both"])
def test_an_error_stops_the_stream_until_it_is_flushed(error, seed):
    rng = generator(seed)
    dut = StreamReader(STREAM)
    bursts = [(100, 8), (108, 4), (112, 8), (200, 5)]
    wrong = int(rng.integers(100, 120))
    bus = Bus(rng, dut.bus, 0, 0.7, {wrong: error & 3, 203: 3}, [wrong] if error & 4 else [])
    lines = []

    async def ask(ctx, wanted):
        for line, count in wanted:
            ctx.set(dut.bursts.payload, {"line": line, "lines": count})
            ctx.set(dut.bursts.valid, 1)
            for _ in range(60):
                _, _, ready = await ctx.tick().sample(dut.bursts.ready)
                if ready:
                    break
            ctx.set(dut.bursts.valid, 0)

    async def run(ctx):
        await ask(ctx, bursts)
        while not ctx.get(dut.idle):
            await ctx.tick()
        await cycles(ctx, 3)
        assert (ctx.get(dut.error), ctx.get(dut.error_line)) == (error, wrong)
        assert lines == [held(line) for line in range(100, wrong)]
        ctx.set(dut.flush, 1)
        await ctx.tick()
        assert (ctx.get(dut.error), ctx.get(dut.error_line)) == (0, 0)
        ctx.set(dut.flush, 0)
        lines.clear()
        await ask(ctx, [(300, 4)])
        while not ctx.get(dut.idle):
            await ctx.tick()
        await cycles(ctx, 3)
        assert ctx.get(dut.error) == 0
        assert lines == [held(line) for line in range(300, 304)]

    async def record(ctx):
        async for _, _, valid, line in ctx.tick().sample(dut.line_valid, dut.line):
            if valid:
                lines.append(line)

    simulate(dut, run, background=[bus.addresses, bus.data, record], limit=3000)


def test_a_memory_without_rlast_is_done_with_when_all_lines_have_come():
    """So a reset, which waits for that, comes to its end."""
    dut = StreamReader(STREAM)
    bus = Bus(generator(0), dut.bus, 0, 1.0, wrong_last=[103, 105])
    reads = []

    async def run(ctx):
        for burst in ({"line": 100, "lines": 4}, {"line": 104, "lines": 2}):
            ctx.set(dut.bursts.payload, burst)
            ctx.set(dut.bursts.valid, 1)
            await ctx.tick()
        ctx.set(dut.bursts.valid, 0)
        while not ctx.get(dut.idle):
            await ctx.tick()
        await cycles(ctx, 2)
        assert (ctx.get(dut.error), ctx.get(dut.error_line), len(reads)) == (4, 103, 6)

    async def record(ctx):
        async for _, _, valid in ctx.tick().sample(dut.bus.r.valid):
            reads.extend([1] * valid)

    simulate(dut, run, background=[bus.addresses, bus.data, record], limit=200)


def test_lines_of_any_number_at_any_address():
    """The address of a burst, and the line of an error in its second beat, carry from any bit to the next."""
    dut = StreamReader(STREAM)
    size = STREAM.stream_bits // 8

    async def bench(ctx):
        for bit in range(12, 64):
            base, line = (1 << bit) - 4096 * (bit % 2), (1 << bit % 24) - 1
            ctx.set(dut.base, base)
            ctx.set(dut.bursts.payload, {"line": line, "lines": 2})
            ctx.set(dut.bursts.valid, 1)
            await until(ctx, dut.bursts.ready)
            ctx.set(dut.bursts.valid, 0)
            ctx.set(dut.bus.ar.ready, 1)
            address, length = await until(ctx, dut.bus.ar.valid, dut.bus.ar.payload.addr, dut.bus.ar.payload.len)
            assert (address, length) == ((base + line * size) % (1 << 64), 1)
            ctx.set(dut.bus.ar.ready, 0)
            ctx.set(dut.bus.r.valid, 1)
            for last in (0, 1):
                ctx.set(dut.bus.r.payload, {"resp": 2 * last, "last": last})
                await ctx.tick()
            ctx.set(dut.bus.r.valid, 0)
            assert (ctx.get(dut.error), ctx.get(dut.error_line)) == (2, (line + 1) % (1 << 24))
            ctx.set(dut.flush, 1)
            await ctx.tick()
            ctx.set(dut.flush, 0)

    simulate(dut, bench, limit=1000)


def test_only_so_many_bursts_are_outstanding():
    """Of a memory that takes addresses and answers none; all of its answers are then taken, one a cycle."""
    dut = StreamReader(STREAM)
    taken, got = [], []

    async def bench(ctx):
        ctx.set(dut.bus.ar.ready, 1)
        ctx.set(dut.bursts.payload, {"line": 4, "lines": 1})
        ctx.set(dut.bursts.valid, 1)
        for _ in range(4 * dut.most):
            _, _, ready = await ctx.tick().sample(dut.bursts.ready)
            taken.append(ready)
        ctx.set(dut.bursts.valid, 0)
        assert sum(taken) == dut.most and not ctx.get(dut.idle)
        ctx.set(dut.bus.r.valid, 1)
        for number in range(dut.most):
            assert not ctx.get(dut.idle)
            ctx.set(dut.bus.r.payload, {"data": number, "last": 1})
            await ctx.tick()
            got.append((ctx.get(dut.line_valid), ctx.get(dut.line)))
        ctx.set(dut.bus.r.valid, 0)
        assert ctx.get(dut.idle)
        await ctx.tick()
        assert not ctx.get(dut.line_valid)

    simulate(dut, bench, limit=300)
    assert got == [(1, number) for number in range(dut.most)]


def test_addresses_wait_for_the_memory_and_bursts_for_them():
    dut = StreamReader(STREAM)
    addresses = []

    async def bench(ctx):
        ctx.set(dut.bursts.valid, 1)
        taken = 0
        for _ in range(20):
            ctx.set(dut.bursts.payload, {"line": 16 * taken, "lines": taken + 1})
            _, _, ready = await ctx.tick().sample(dut.bursts.ready)
            taken += ready
        ctx.set(dut.bursts.valid, 0)
        assert taken == dut.addresses and not ctx.get(dut.idle)
        ctx.set(dut.bus.ar.ready, 1)
        for _ in range(10):
            _, _, valid, ar = await ctx.tick().sample(dut.bus.ar.valid, dut.bus.ar.payload)
            if valid:
                addresses.append((ar.addr, ar.len, ar.size, ar.burst, ar.cache))
        assert not ctx.get(dut.idle)

    simulate(dut, bench, limit=100, background=[check_held(dut.bus.ar)])
    size = STREAM.stream_bits // 8
    assert addresses == [(16 * size * k, k, size.bit_length() - 1, 1, 0b0011) for k in range(dut.addresses)]


# -- StreamFetch: the program, ahead of the controller ---------------------------------------------------


def random_program(rng):
    """A loop of MULTIPLYs under every condition, with a FRAME TRY somewhere."""
    program = [{"opcode": Opcode.FORMAT, "streamed": 1}, {"opcode": Opcode.FRAME, "when": Take.WAIT}]
    length = int(rng.integers(4, 10))
    for _ in range(length):
        program.append({"opcode": Opcode.MULTIPLY, "when": When(int(rng.integers(3))),
                        "entry_base": int(rng.integers(0, 1 << 20)), "entry_lines": int(rng.integers(0, 60))})
        if rng.random() < 0.3:
            program.append({"opcode": Opcode.ELEMENTWISE})
    program.insert(2 + int(rng.integers(length)), {"opcode": Opcode.FRAME, "when": Take.TRY})
    return [*program, {"opcode": Opcode.JUMP, "src_base": 1}]


def expected_lines(program, decisions, count):
    """The first ``count`` lines that a program needs, given what every FRAME TRY decided."""
    decisions = iter(decisions)
    lines, counter, missed = [], 1, True
    while len(lines) < count:
        step = program[counter]
        counter += 1
        if step["opcode"] is Opcode.JUMP:
            counter = 1
        elif step["opcode"] is Opcode.FRAME and step["when"] == Take.TRY:
            missed = not next(decisions)
        elif step["opcode"] is Opcode.MULTIPLY and not (
                (step["when"] == When.TAKEN and missed) or (step["when"] == When.MISSED and not missed)):
            lines += range(step["entry_base"], step["entry_base"] + step["entry_lines"])
    return lines[:count]


@seeds(4)
def test_lines_of_a_program(seed):
    rng = generator(seed)
    program = random_program(rng)
    dut = StreamFetch(STREAM)
    lines, decisions = [], []
    taken = {"arrived": 0, "released": 0, "frames": 0}
    block = DEPTH // BLOCKS

    async def load(ctx):
        layout = Instruction(STREAM)
        for address, fields in enumerate(program):
            ctx.set(dut.program, {"address": address, "data": layout.pack(**fields)})
            ctx.set(dut.program_valid, 1)
            await ctx.tick()
        ctx.set(dut.program_valid, 0)
        ctx.set(dut.run, 1)

    async def run(ctx):
        await load(ctx)
        for _ in range(1500):
            frame = rng.random() < 0.02
            # At most two frames wait in the buffers.
            frame = frame and taken["frames"] - sum(decisions) < 2
            taken["frames"] += frame
            ctx.set(dut.frame_complete, frame)
            arrives = taken["arrived"] < len(lines) and rng.random() < 0.8
            ctx.set(dut.arrived, arrives)
            releases = taken["arrived"] - taken["released"] * block >= block and rng.random() < 0.2
            ctx.set(dut.released, releases)
            ctx.set(dut.bursts.ready, rng.random() < 0.6)
            ctx.set(dut.decisions.ready, rng.random() < 0.5)
            assert ctx.get(dut.written) == (taken["arrived"] + arrives) % (2 * DEPTH)
            assert ctx.get(dut.write_address) == taken["arrived"] % DEPTH
            _, _, valid, ready, burst, decided, read, decision = await ctx.tick().sample(
                dut.bursts.valid, dut.bursts.ready, dut.bursts.payload,
                dut.decisions.valid, dut.decisions.ready, dut.decisions.payload)
            taken["arrived"] += arrives
            taken["released"] += releases
            if valid and ready:
                assert 1 <= burst.lines <= burst_lines(STREAM) - burst.line % burst_lines(STREAM)
                lines.extend(range(burst.line, burst.line + burst.lines))
                assert len(lines) - (taken["released"] - releases) * block <= DEPTH, "no room in the ring"
            if decided and read:
                decisions.append(decision)
        # What has been decided, but not read yet.
        ctx.set(dut.bursts.ready, 0)
        ctx.set(dut.decisions.ready, 1)
        for _ in range(10):
            _, _, decided, decision = await ctx.tick().sample(dut.decisions.valid, dut.decisions.payload)
            if decided:
                decisions.append(decision)
        assert sum(decisions) <= taken["frames"]

    simulate(dut, run, limit=3000)
    assert len(lines) > 100
    assert lines == expected_lines(program, [*decisions, 0], len(lines))


async def write_program(ctx, dut, program, first=0):
    layout = Instruction(STREAM)
    for address, fields in enumerate(program, first):
        ctx.set(dut.program, {"address": address, "data": layout.pack(**fields)})
        ctx.set(dut.program_valid, 1)
        await ctx.tick()
    ctx.set(dut.program_valid, 0)


def test_operations_of_any_length_at_any_line():
    """Lengths and first lines of every magnitude: an operation asks for line after line, until the ring is full."""
    dut = StreamFetch(STREAM)
    top, resets = resettable(dut)

    async def bench(ctx):
        await write_program(ctx, dut, [{"opcode": Opcode.FORMAT, "streamed": 1}])
        ctx.set(dut.bursts.ready, 1)
        for bit in range(DEPTH.bit_length() - 1, 24):
            first = (1 << bit) - 40
            await write_program(ctx, dut, [{"opcode": Opcode.MULTIPLY, "entry_base": first, "entry_lines": 1 << bit},
                                           {"opcode": Opcode.JUMP, "src_base": 1}], first=1)
            lines = []
            ctx.set(dut.run, 1)
            for _ in range(30):
                _, _, valid, burst = await ctx.tick().sample(dut.bursts.valid, dut.bursts.payload)
                if valid:
                    lines += range(burst.line, burst.line + burst.lines)
            assert DEPTH - 2 * burst_lines(STREAM) < len(lines) <= DEPTH
            assert lines == list(range(first, first + len(lines)))
            ctx.set(dut.run, 0)
            ctx.set(resets, 1)
            await ctx.tick()
            ctx.set(resets, 0)

    simulate(top, bench, limit=2000)


def test_an_operation_in_the_last_lines_there_are():
    dut = StreamFetch(STREAM)
    first, lines = (1 << 24) - 21, []

    async def bench(ctx):
        await write_program(ctx, dut, [
            {"opcode": Opcode.FORMAT, "streamed": 1},
            {"opcode": Opcode.MULTIPLY, "entry_base": first, "entry_lines": 21},
            {"opcode": Opcode.MULTIPLY, "entry_base": 7, "entry_lines": 3}, {"opcode": Opcode.JUMP, "src_base": 3}])
        ctx.set(dut.bursts.ready, 1)
        ctx.set(dut.run, 1)
        for _ in range(40):
            _, _, valid, burst = await ctx.tick().sample(dut.bursts.valid, dut.bursts.payload)
            if valid:
                lines.extend(range(burst.line, burst.line + burst.lines))

    simulate(dut, bench, limit=100)
    assert lines == [*range(first, first + 21), 7, 8, 9]


def test_decisions_wait_for_the_controller_and_the_program_for_them():
    """As many as there may be, in order; the weights behind the next one are not asked for."""
    dut, rng = StreamFetch(STREAM), generator(0)
    decided, read = [], []

    async def bench(ctx):
        await write_program(ctx, dut, [
            {"opcode": Opcode.FORMAT, "streamed": 1}, {"opcode": Opcode.FRAME, "when": Take.TRY},
            {"opcode": Opcode.MULTIPLY, "when": When.TAKEN, "entry_base": 1, "entry_lines": 1},
            {"opcode": Opcode.MULTIPLY, "when": When.MISSED, "entry_base": 0, "entry_lines": 1},
            {"opcode": Opcode.JUMP, "src_base": 1}])
        ctx.set(dut.run, 1)
        ctx.set(dut.bursts.ready, 1)
        frames = 0
        for ready in (0, 1, 0, 1, 0):
            ctx.set(dut.decisions.ready, ready)
            for _ in range(150):
                frame = rng.random() < 0.1 and frames - sum(decided) < 2
                frames += frame
                ctx.set(dut.frame_complete, frame)
                _, _, asks, burst, valid, decision = await ctx.tick().sample(
                    dut.bursts.valid, dut.bursts.payload, dut.decisions.valid, dut.decisions.payload)
                if asks:
                    decided.append(burst.line)
                if valid and ready:
                    read.append(decision)
            assert len(decided) - len(read) == (0 if ready else dut.ahead)

    simulate(dut, bench, limit=1000)
    assert read == decided[:len(read)] and {0, 1} == set(read)
