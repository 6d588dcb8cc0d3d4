# SPDX-License-Identifier: Apache-2.0
"""SerialBridge: requests are carried out once each, whatever happens on the line."""

from collections import deque

import numpy as np
import pytest
from bench import TINY, cycles, generator, get, pack, pause, put, seeds, simulate

from openese.rtl.axi import OKAY, SLVERR
from openese.rtl.serial.bridge import SerialBridge
from openese.rtl.serial.packets import DEPTH, END, ESCAPE, PROTOCOL, Kind, decode, encode

CONFIGS = {
    "tiny": TINY,
    "one channel": TINY.replace(channels=1, slice_width=1),
    "eight channels": TINY.replace(channels=8),
    "eight groups": TINY.replace(pes=64, groups=8, channels=1),
}
stalls = pytest.mark.parametrize("chance", [0.0, 0.5], ids=["no stalls", "stalls"])


class Host:
    """The other end of the line, and behind the bridge a machine of 16 registers that echoes frames."""

    def __init__(self, config, rng, chance=0.0):
        self.config, self.rng, self.chance = config, rng, chance
        self.dut = SerialBridge(config, patience=96)
        self.beat_words = self.dut.beat_words
        self.registers = {4 * k: int(value) for k, value in enumerate(rng.integers(0, 1 << 32, 16))}
        self.written = []
        self.beats_in = []
        self.beats_out = deque()
        self.echo = True
        self.line = bytearray()
        self.sequence = 0

    # -- behind the bridge -----------------------------------------------------------------------

    async def _wait(self, ctx):
        await pause(ctx, self.rng, self.chance)

    async def writes(self, ctx):
        bus = self.dut.bus
        while True:
            order = [(bus.aw, "addr"), (bus.w, "data")]
            taken = {}
            for channel, field in order if self.rng.random() < 0.5 else order[::-1]:
                await self._wait(ctx)
                taken[field] = getattr(await get(ctx, channel), field)
            known = taken["addr"] in self.registers
            if known:
                self.written.append((taken["addr"], taken["data"]))
                self.registers[taken["addr"]] = taken["data"]
            await self._wait(ctx)
            await put(ctx, bus.b, OKAY if known else SLVERR)

    async def reads(self, ctx):
        bus = self.dut.bus
        while True:
            await self._wait(ctx)
            address = (await get(ctx, bus.ar)).addr
            await self._wait(ctx)
            await put(ctx, bus.r, {"data": self.registers.get(address, 0),
                                   "resp": OKAY if address in self.registers else SLVERR})

    async def takes(self, ctx):
        while True:
            await self._wait(ctx)
            if not self.echo:
                await ctx.tick()
                continue
            beat = await get(ctx, self.dut.frames)
            self.beats_in.append((beat.data, beat.last))
            self.beats_out.append({"data": beat.data ^ 1, "last": beat.last})

    async def gives(self, ctx):
        while True:
            await self._wait(ctx)
            if self.beats_out:
                await put(ctx, self.dut.results, self.beats_out.popleft())
            else:
                await ctx.tick()

    async def listens(self, ctx):
        while True:
            await self._wait(ctx)
            byte = await get(ctx, self.dut.o)
            self.line.append(byte)

    # -- the line --------------------------------------------------------------------------------

    async def say(self, ctx, line):
        for byte in line:
            ctx.set(self.dut.i, byte)
            ctx.set(self.dut.i_valid, 1)
            await ctx.tick()
            ctx.set(self.dut.i_valid, 0)
            await ctx.tick()
            await self._wait(ctx)

    async def hear(self, ctx, patience=20000):
        """The next packet."""
        for _ in range(patience):
            if self.line.count(END) >= 2:
                _, found, rest = bytes(self.line).split(bytes([END]), 2)
                self.line = bytearray(rest)
                packet = decode(found)
                assert packet is not None
                await cycles(ctx, 8)  # much less than the last byte spends on the line
                return packet
            await ctx.tick()
        raise AssertionError("no answer")

    async def ask(self, ctx, kind, payload=()):
        self.sequence = (self.sequence + 1) % 256
        await self.say(ctx, encode(kind, self.sequence, payload))
        answer = await self.hear(ctx)
        assert (answer.kind, answer.sequence) == (kind | Kind.ANSWER, self.sequence)
        return [int(word) for word in answer.payload]

    def run(self, bench, limit=400_000):
        parts = [self.writes, self.reads, self.takes, self.gives, self.listens]
        simulate(self.dut, bench, limit=limit, background=parts)


def write(address, values):
    return [1 << 31 | (len(values) - 1) << 16 | address, *values]


def read(address, times=1):
    return [(times - 1) << 16 | address]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_hello(config):
    host = Host(config, generator(1))

    async def bench(ctx):
        assert await host.ask(ctx, Kind.HELLO) == [PROTOCOL | host.beat_words << 8 | DEPTH << 16]

    host.run(bench)


@seeds(2)
@stalls
def test_registers(chance, seed):
    """Random commands; those that are refused are counted, and the first is named."""
    rng = generator(seed)
    host = Host(TINY, rng, chance)

    async def bench(ctx):
        for _ in range(12):
            payload, answers, refused, expected = [], [], [], []
            known = dict(host.registers)
            for _ in range(rng.integers(0, 8)):
                address, times = int(rng.integers(0, 20)) * 4, int(rng.integers(1, 4))
                wrong = [len(payload)] * times if address not in known else []
                refused += wrong
                if rng.random() < 0.5:
                    values = [int(value) for value in rng.integers(0, 1 << 32, times)]
                    payload += write(address, values)
                    if not wrong:
                        expected += [(address, value) for value in values]
                        known[address] = values[-1]
                else:
                    payload += read(address, times)
                    answers += [known.get(address, 0)] * times
            host.written.clear()
            found = await host.ask(ctx, Kind.REGISTERS, payload)
            assert found == [len(refused) | (refused[0] if refused else 0) << 16, *answers]
            assert host.written == expected

    host.run(bench)


@seeds(2)
@stalls
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_frames(config, chance, seed):
    """Frames in parts of any size, back as they were sent."""
    rng = generator(seed)
    host = Host(config, rng, chance)
    words = host.beat_words
    words_of_beat = config.beat_columns * config.channels
    bits = words_of_beat * config.activation_bits

    async def bench(ctx):
        for length in (1, 5, 17):
            beats = [pack(rng.integers(-1 << 15, 1 << 15, words_of_beat).tolist(), config.activation_bits)
                     for _ in range(length)]
            host.beats_in.clear()
            back, ended, sent = [], 0, 0
            while not ended:
                part = beats[sent:sent + int(rng.integers(1, 8))]
                last = sent + len(part) == length
                payload = [(last and len(part) > 0) << 31 | (length - len(back) if last else 0)]
                payload += [beat >> 32 * k & 0xFFFFFFFF for beat in part for k in range(words)]
                status, *found = await host.ask(ctx, Kind.FRAMES, payload)
                taken, given, midway, ended = (status & 0xFFFF, status >> 16 & 0x3FFF, status >> 30 & 1, status >> 31)
                assert taken == len(part) and len(found) == given * words
                sent += taken
                assert midway == (sent < length)
                back += [sum(word << 32 * k for k, word in enumerate(found[start:start + words]))
                         for start in range(0, len(found), words)]
            assert host.beats_in == [(beat, k == length - 1) for k, beat in enumerate(beats)]
            assert back == [(beat ^ 1) & ((1 << bits) - 1) for beat in beats]

    host.run(bench)


def test_a_machine_that_takes_nothing_is_not_waited_for():
    """Beats that are not taken are not lost: the answer says how many were."""
    host = Host(TINY, generator(1))
    host.echo = False

    async def bench(ctx):
        assert await host.ask(ctx, Kind.FRAMES, [1 << 31, 5, 6, 7]) == [1 | 1 << 30]
        host.echo = True
        status, *found = await host.ask(ctx, Kind.FRAMES, [1 << 31 | 3, 6, 7])
        assert (status & 0xFFFF, status >> 31, found) == (2, 1, [4, 7, 6])

    host.run(bench)


def test_an_answer_ends_where_it_is_full():
    host = Host(TINY, generator(1))

    async def bench(ctx):
        host.beats_out.extend({"data": number, "last": number == DEPTH} for number in range(DEPTH + 1))
        status, *found = await host.ask(ctx, Kind.FRAMES, [2 * DEPTH])
        assert (status >> 16, found) == (DEPTH - 1, list(range(DEPTH - 1)))
        status, *found = await host.ask(ctx, Kind.FRAMES, [2 * DEPTH])
        assert (status >> 16, found) == (1 << 15 | 2, [DEPTH - 1, DEPTH])

    host.run(bench)


@seeds(3)
def test_garbage_is_survived(seed):
    """Whatever is on the line before it, and whatever became of packets before it, a right packet is carried out."""
    rng = generator(seed)
    host = Host(TINY, rng)

    def damaged():
        line = bytearray(encode(Kind.REGISTERS, 77, write(0, [int(rng.integers(0, 1 << 32))] * 3)))
        kind, at = rng.integers(0, 5), int(rng.integers(1, len(line) - 1))
        if kind == 0:
            del line[at:]
        elif kind == 1:
            del line[at]
        elif kind == 2:
            line.insert(at, line[at])
        elif kind == 3:
            line[at] ^= 1 << int(rng.integers(0, 8))
        else:
            line = bytearray(rng.integers(0, 256, 50).astype(np.uint8).tobytes()) + bytes([ESCAPE])
        return line if decode(bytes(line).strip(bytes([END]))) is None else bytearray()

    async def bench(ctx):
        assert await host.ask(ctx, Kind.HELLO)
        for number in range(25):
            await host.say(ctx, damaged())
            assert await host.ask(ctx, Kind.REGISTERS, write(4, [number])) == [0]
            assert host.written == [(4, number)]
            host.written.clear()
        assert not host.line
        await host.say(ctx, encode(Kind.REGISTERS, 1, range(DEPTH))[:-6] + bytes(40))
        assert await host.ask(ctx, Kind.REGISTERS, read(4)) == [0, 24]

    host.run(bench)


def test_a_repeated_request_is_answered_and_not_done_again():
    host = Host(TINY, generator(1))

    async def bench(ctx):
        for payload in (write(8, [1, 2]), write(8, [3]) + read(12)):
            found = await host.ask(ctx, Kind.REGISTERS, payload)
            for _ in range(2):
                await host.say(ctx, encode(Kind.REGISTERS, host.sequence, payload))
                answer = await host.hear(ctx)
                assert [int(word) for word in answer.payload] == found
        assert host.written == [(8, 1), (8, 2), (8, 3)]
        # HELLO begins anew: the next request may have any number.
        await host.ask(ctx, Kind.HELLO)
        await host.ask(ctx, Kind.REGISTERS, write(8, [4]))
        assert host.written[3:] == [(8, 4)]

    host.run(bench)


def test_unknown_requests_are_refused():
    host = Host(TINY, generator(1))

    async def bench(ctx):
        await host.say(ctx, encode(9, 5, [1, 2, 3]))
        assert (await host.hear(ctx))[:2] == (Kind.REFUSED, 5)
        # Commands that end too soon do what they can.
        assert await host.ask(ctx, Kind.REGISTERS, [1 << 31 | 3 << 16, 9]) == [0]
        await cycles(ctx, 10)
        assert host.written == [(0, 9)]

    host.run(bench)
