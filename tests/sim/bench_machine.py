# SPDX-License-Identifier: Apache-2.0
"""Benches of the whole machine: load an image, run LSTM steps, and compare every word with the reference."""

import json
import os

import cocotb
import numpy as np
from cocotbext.axi import AxiResp, AxiStreamFrame
from models import random_quantized

from openese.rtl.frames import beat_bytes
from openese.rtl.loader import ImageError
from openese.rtl.registers import ADDRESS, Control, Interrupt, Status
from openese.sim.testbench import TB, stalled
from openese.sw.pack.image import pack
from openese.sw.pack.schedule import schedule
from openese.sw.reference.machine import Reference


class Both:
    """A bench, a random model in the machine, and the reference that takes the same steps."""

    def __init__(self, tb, seed=1):
        shape = json.loads(os.environ.get("MODEL_SHAPE", "[5, [9, 6]]"))
        layers = [tuple(layer) if isinstance(layer, list) else layer for layer in shape[1:]]
        self.tb = tb
        self.model = random_quantized(seed, tb.config, shape[0], *layers, peephole=len(layers) != 2)
        self.words = pack(schedule(self.model, tb.config)).words()
        self.rng = np.random.default_rng(seed)
        self.fresh()

    def fresh(self):
        self.reference = Reference(self.model, self.tb.config.channels)
        self.first = True

    async def load(self, words=None):
        assert await self.tb.write(ADDRESS["CONTROL"], Control.LOAD) == AxiResp.OKAY
        await self.tb.load(ADDRESS["LOAD"], self.words if words is None else words)
        status, _ = await self.tb.read(ADDRESS["STATUS"])
        self.fresh()
        return bool(status & Status.LOADED)

    async def run(self):
        await self.tb.write(ADDRESS["CONTROL"], Control.RUN)

    def frame(self):
        """Header and columns of a random frame; in the first, all voices start anew."""
        channels = self.tb.config.channels
        active = self.rng.random(channels) < 0.7
        reset = (self.rng.random(channels) < 0.3) | self.first
        self.first = False
        x = self.rng.integers(-1 << 15, 1 << 15, (channels, self.model.inputs))
        return active, reset, x

    async def step(self, count):
        """Send frames, and compare what comes back."""
        expected = []
        for _ in range(count):
            active, reset, x = self.frame()
            await self.tb.send_frame(active | reset.astype(int) << 1, x.T)
            expected.append((active, self.reference.step(x, active, reset)))
        for number, (active, y) in enumerate(expected):
            header, columns = await self.tb.receive_frame(y.shape[1])
            assert (header == active).all(), f"frame {number}: header {header}"
            assert (columns.T == y).all(), f"frame {number}: {np.argwhere(columns.T != y)[0]}"


@cocotb.test()
@stalled
async def steps_equal_the_reference(dut, idle, backpressure):
    """Voices join, leave and start anew; the counters say what happened."""
    machine = Both(await TB.start(dut, idle=idle, backpressure=backpressure))
    assert await machine.load()
    await machine.run()
    await machine.step(5)
    steps, _ = await machine.tb.read(ADDRESS["STEPS_LOW"])
    saturated, _ = await machine.tb.read(ADDRESS["SATURATED_LOW"])
    assert (steps, saturated) == (5, sum(machine.reference.saturations.values()))


@cocotb.test()
async def reset_in_the_middle_of_a_step(dut):
    """What was under way is lost, and nothing of it is left; aresetn takes the image too."""
    machine = Both(await TB.start(dut))
    assert await machine.load()
    for cycles in (7, 60, 150):
        await machine.run()
        active, reset, x = machine.frame()
        await machine.tb.send_frame(active | reset.astype(int) << 1, x.T)
        await machine.tb.clock(cycles)
        await machine.tb.write(ADDRESS["CONTROL"], Control.RESET | Control.RUN)
        await machine.tb.source.wait()
        await machine.tb.clock(2000)
        machine.tb.sink.clear()
        machine.fresh()
        await machine.step(2)
    await machine.tb.reset()
    status, _ = await machine.tb.read(ADDRESS["STATUS"])
    assert not status & Status.LOADED
    assert await machine.load()
    await machine.run()
    await machine.step(1)


@cocotb.test()
async def a_corrupt_image_is_refused(dut):
    """The error is named, an interrupt is raised, and the next image is taken."""
    machine = Both(await TB.start(dut))
    await machine.tb.write(ADDRESS["INTERRUPT_ENABLE"], Interrupt.IMAGE_REFUSED)
    damaged = machine.words.copy()
    damaged[-3] ^= 1
    assert not await machine.load(damaged)
    error, _ = await machine.tb.read(ADDRESS["IMAGE_ERROR"])
    assert error & 0xFF == ImageError.SECTION_CRC
    assert dut.irq.value == 1
    await machine.tb.write(ADDRESS["INTERRUPT"], Interrupt.IMAGE_REFUSED)
    assert await machine.load()
    assert dut.irq.value == 0
    await machine.run()
    await machine.step(2)


@cocotb.test()
async def a_frame_of_the_wrong_length_is_dropped(dut):
    """The voices do not notice; an interrupt says which way it was wrong."""
    machine = Both(await TB.start(dut))
    assert await machine.load()
    await machine.run()
    await machine.step(1)
    beat = beat_bytes(machine.tb.config)
    for beats, interrupt in ((3, Interrupt.FRAME_SHORT), (40, Interrupt.FRAME_LONG)):
        await machine.tb.source.send(AxiStreamFrame(bytes([3] * beat * beats)))
        await machine.step(1)
        raised, _ = await machine.tb.read(ADDRESS["INTERRUPT"])
        assert raised & interrupt
        await machine.tb.write(ADDRESS["INTERRUPT"], 0xFFFFFFFF)


@cocotb.test()
async def wrong_accesses_are_answered_with_an_error(dut):
    """A register that is not there, one that is only read, a state while a step is under way."""
    machine = Both(await TB.start(dut))
    assert (await machine.tb.read(0xFFC))[1] == AxiResp.SLVERR
    assert await machine.tb.write(ADDRESS["ID"], 1) == AxiResp.SLVERR
    assert await machine.tb.write(ADDRESS["STATE_SELECT"], 0) == AxiResp.SLVERR
    assert (await machine.tb.read(ADDRESS["STATE_DATA"]))[1] == AxiResp.SLVERR
    assert await machine.load()
    await machine.run()
    await machine.step(1)


@cocotb.test()
@stalled
async def numbers_of_a_state_move_in_runs(dut, idle, backpressure):
    """What was written is read back, in order; reads and writes at once all count, and none waits for ever."""
    machine = Both(await TB.start(dut, idle=idle, backpressure=backpressure))
    tb = machine.tb
    assert await machine.load()
    while not (await tb.read(ADDRESS["STATUS"]))[0] & Status.IDLE:
        await tb.clock(20)
    for cell, bits in ((0, tb.config.activation_bits), (1, tb.config.cell_bits)):
        values = machine.rng.integers(-1 << bits - 1, 1 << bits - 1, 24).tolist()
        select = cell << 31 | 5
        assert await tb.write(ADDRESS["STATE_SELECT"], select) == AxiResp.OKAY
        await tb.load(ADDRESS["STATE_DATA"], [value & 0xFFFFFFFF for value in values])
        assert await tb.write(ADDRESS["STATE_SELECT"], select) == AxiResp.OKAY
        found = [await tb.read(ADDRESS["STATE_DATA"]) for _ in values]
        assert found == [(value & 0xFFFFFFFF, AxiResp.OKAY) for value in values]
        writes = cocotb.start_soon(tb.load(ADDRESS["STATE_DATA"], [0] * 15))
        for _ in range(10):
            assert (await tb.read(ADDRESS["STATE_DATA"]))[1] == AxiResp.OKAY
        await writes
        assert await tb.read(ADDRESS["STATE_SELECT"]) == (select + 24 + 25, AxiResp.OKAY)
