# SPDX-License-Identifier: Apache-2.0
"""UARTReceiver and UARTTransmitter: every byte, at their own speed and at others nearly the same."""

import pytest
from amaranth.hdl import Module
from bench import cycles, generator, pause, put, seeds, simulate, trace

from openese.rtl.serial.uart import UARTReceiver, UARTTransmitter, levels


def received(receiver, found):
    """A bench that appends to ``found`` the bytes that a receiver gives."""
    async def collect(ctx):
        async for _, _, valid, byte in ctx.tick().sample(receiver.o_valid, receiver.o):
            if valid:
                found.append(byte)
    return collect


def random_bytes(rng, count):
    return [int(byte) for byte in rng.integers(0, 256, count)]


@seeds(2)
@pytest.mark.parametrize("divisor", [2, 4, 7, 25])
@pytest.mark.parametrize("chance", [0.0, 0.9], ids=["no stalls", "stalls"])
def test_the_transmitter_holds_every_bit(divisor, chance, seed):
    rng = generator(seed)
    dut = UARTTransmitter()
    sent = random_bytes(rng, 12)
    watch, seen = trace(dut.pin)

    async def source(ctx):
        ctx.set(dut.divisor, divisor)
        for byte in sent:
            await pause(ctx, rng, chance)
            await put(ctx, dut.i, byte)
        await cycles(ctx, 11 * divisor)

    simulate(dut, source, limit=20000, background=[watch])
    line = [level for level, in seen]
    found = []
    at = 0
    while 0 in line[at:]:
        at = line.index(0, at)
        byte = line[at:at + 10 * divisor]
        assert byte == [level for level in byte[::divisor] for _ in range(divisor)]
        found.append(byte[::divisor])
        at += 10 * divisor
    assert found == [levels(byte) for byte in sent]


@seeds(2)
@pytest.mark.parametrize("divisor", [4, 7, 25, 100])
@pytest.mark.parametrize("drift", [-0.035, 0.0, 0.035])
def test_the_receiver_takes_every_byte(divisor, drift, seed):
    """Also of a sender that is a little too fast or too slow."""
    rng = generator(seed)
    dut = UARTReceiver()
    sent = random_bytes(rng, 20)
    found = []
    period = divisor * (1 + drift if divisor >= 25 else 1)

    async def line(ctx):
        ctx.set(dut.divisor, divisor)
        now, due = 0, 5.0 + rng.random()
        for byte in sent:
            for level in levels(byte):
                await cycles(ctx, int(due) - now)
                now = int(due)
                ctx.set(dut.pin, level)
                due += period
            due += float(rng.integers(0, 3)) * rng.random() * divisor
        await cycles(ctx, 2 * divisor)

    simulate(dut, line, limit=60000, background=[received(dut, found)])
    assert found == sent


def test_glitches_and_broken_bytes_are_dropped():
    """A start bit that is too short is none; a byte without a stop bit is dropped, and the next one is taken."""
    dut = UARTReceiver()
    found = []

    async def line(ctx):
        ctx.set(dut.divisor, 8)
        for level, length in [(0, 2), (1, 40), (0, 8 * 10), (1, 20)] + [(level, 8) for level in levels(0x5A)]:
            ctx.set(dut.pin, level)
            await cycles(ctx, length)
        await cycles(ctx, 20)

    simulate(dut, line, limit=1000, background=[received(dut, found)])
    assert found == [0x5A]


def test_they_understand_each_other():
    rng = generator(5)
    m = Module()
    m.submodules.transmitter = transmitter = UARTTransmitter()
    m.submodules.receiver = receiver = UARTReceiver()
    m.d.comb += receiver.pin.eq(transmitter.pin)
    sent, found = random_bytes(rng, 256), []

    async def source(ctx):
        for part in (transmitter, receiver):
            ctx.set(part.divisor, 4)
        for byte in sent:
            await put(ctx, transmitter.i, byte)
        await cycles(ctx, 60)

    simulate(m, source, limit=20000, background=[received(receiver, found)])
    assert found == sent


