# SPDX-License-Identifier: Apache-2.0
"""AXI4LiteSubordinate: every access once, answered in order, whichever channel stalls."""

import pytest
from bench import check_held, generator, get, pause, put, raw, seeds, simulate

from openese.rtl.axi import OKAY, SLVERR, AXI4LiteSubordinate

WIDTH = 6
#: A word whose writes do not wait.
STREAMED = 4
#: Words that may be written and read.
WRITABLE = set(range(0, 12, 2))
READABLE = set(range(0, 12, 3))


@seeds(1)
def test_no_output_follows_an_input_in_its_cycle(seed):
    rng = generator(seed)
    dut = AXI4LiteSubordinate(WIDTH)
    bus = dut.bus
    inputs = [bus.aw.valid, raw(bus.aw.payload), bus.w.valid, raw(bus.w.payload), bus.b.ready, bus.ar.valid,
              raw(bus.ar.payload), bus.r.ready, dut.write_known, dut.write_wait, dut.write_hold, dut.read_data,
              dut.read_known, dut.read_wait]
    outputs = [bus.aw.ready, bus.w.ready, bus.b.valid, bus.b.payload, bus.ar.ready, bus.r.valid, raw(bus.r.payload)]
    seen = set()

    async def bench(ctx):
        for _ in range(1000):
            before = [ctx.get(port) for port in outputs]
            for port in inputs:
                ctx.set(port, int(rng.integers(1 << port.shape().width)))
            assert [ctx.get(port) for port in outputs] == before
            seen.add(tuple(before[:6]))
            await ctx.tick()

    simulate(dut, bench, limit=1100)
    assert len(seen) > 10


@seeds(3)
@pytest.mark.parametrize("chance", [0.0, 0.6])
@pytest.mark.parametrize("wait", [0.0, 0.5])
def test_reads_and_writes(wait, chance, seed):
    rng = generator(seed)
    dut = AXI4LiteSubordinate(WIDTH, STREAMED)
    writes = [(int(rng.integers(16)), int(rng.integers(1 << 32)),
               15 if rng.random() < 0.7 else int(rng.integers(15))) for _ in range(60)]
    reads = rng.integers(0, 16, 60).tolist()
    written, responses, answers = [], [], []

    async def feed(ctx, stream, payloads):
        for payload in payloads:
            await pause(ctx, rng, chance)
            await put(ctx, stream, payload)

    async def write_addresses(ctx):
        await feed(ctx, dut.bus.aw, [{"addr": word << 2 | int(rng.integers(4)), "prot": int(rng.integers(8))}
                                     for word, *_ in writes])

    async def write_data(ctx):
        await feed(ctx, dut.bus.w, [{"data": data, "strb": strobe} for _, data, strobe in writes])

    async def write_responses(ctx):
        for _ in writes:
            await pause(ctx, rng, chance)
            responses.append(await get(ctx, dut.bus.b))

    async def read_addresses(ctx):
        await feed(ctx, dut.bus.ar, [{"addr": word << 2, "prot": 0} for word in reads])

    async def read_data(ctx):
        for _ in reads:
            await pause(ctx, rng, chance)
            answer = await get(ctx, dut.bus.r)
            answers.append((answer.data, answer.resp))

    async def registers(ctx):
        """What answers to writes in the same cycle, to reads a cycle later; it counts the reads, as a register with
        effects would."""
        count, read, word = 0, False, 0
        while True:
            ctx.set(dut.write_wait, rng.random() < wait)
            ctx.set(dut.write_hold, rng.random() < wait / 2)
            ctx.set(dut.read_wait, rng.random() < wait)
            ctx.set(dut.read_known, word in READABLE if read else int(rng.integers(2)))
            ctx.set(dut.read_data, word << 16 | count if read else int(rng.integers(1 << 32)))
            count += read
            address = ctx.get(dut.write_address)
            ctx.set(dut.write_known, address in WRITABLE)
            _, _, write, waits, holds, address, data, known, read, word = await ctx.tick().sample(
                dut.write, dut.write_wait, dut.write_hold, dut.write_address, dut.write_data, dut.write_known, dut.read,
                dut.read_address)
            if write:
                assert known == (address in WRITABLE)
                assert not holds and (not waits or address == STREAMED)
                written.append((address, data))

    simulate(dut, write_addresses, write_data, write_responses, read_addresses, read_data,
             background=[registers, check_held(dut.bus.b), check_held(dut.bus.r)], limit=3000)
    assert written == [(word, data) for word, data, strobe in writes if strobe == 15]
    assert responses == [OKAY if strobe == 15 and word in WRITABLE else SLVERR for word, _, strobe in writes]
    assert [resp for _, resp in answers] == [OKAY if word in READABLE else SLVERR for word in reads]
    assert [data for data, _ in answers] == [word << 16 | count for count, word in enumerate(reads)]
