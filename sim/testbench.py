# SPDX-License-Identifier: Apache-2.0
"""The base of every cocotb bench of the machine: clock, reset, and the bus partners of cocotbext-axi."""

import itertools
import json
import logging
import os
import random
from collections.abc import Callable, Iterator
from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, with_timeout
from cocotbext.axi import (
    AxiLiteBus,
    AxiLiteMaster,
    AxiResp,
    AxiStreamBus,
    AxiStreamFrame,
    AxiStreamSink,
    AxiStreamSource,
)
from numpy.typing import ArrayLike, NDArray

from openese.rtl.config import Config
from openese.rtl.frames import beat_bytes, frame_beats, pack_frames, unpack_frames
from openese.sim.benches import CONFIG
from openese.sim.build import TOP

__all__ = ["PERIOD", "TB", "stalled"]

PERIOD = 5  # ns: 200 MHz
PATIENCE = 2  # ms of simulated time for one transfer

#: Runs a bench four times: without and with pauses of the senders, and of the receivers.
stalled = cocotb.parametrize(idle=(False, True), backpressure=(False, True))


class TB:
    """The machine with an AXI4-Lite master on s_axi and a source and a sink of frames.

    Parameters
    ----------
    dut : cocotb handle
        The top.

    Attributes
    ----------
    config : Config
        The machine.
    axil, source, sink
        The bus partners.
    """

    def __init__(self, dut: Any) -> None:
        logging.getLogger(f"cocotb.{TOP}").setLevel(logging.WARNING)  # a line for each write costs more than the write
        self.dut = dut
        self.config = Config(**json.loads(os.environ[CONFIG]))
        Clock(dut.aclk, PERIOD, unit="ns").start()
        reset = {"clock": dut.aclk, "reset": dut.aresetn, "reset_active_level": False}
        self.axil = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axi"), **reset)
        self.source = AxiStreamSource(AxiStreamBus.from_prefix(dut, "s_axis"), **reset)
        self.sink = AxiStreamSink(AxiStreamBus.from_prefix(dut, "m_axis"), **reset)

    @classmethod
    async def start(cls, dut: Any, *, idle: bool = False, backpressure: bool = False) -> "TB":
        """A bench out of reset. With ``idle`` the senders pause, with ``backpressure`` the receivers."""
        tb = cls(dut)
        if idle:
            tb.set_idle(_pauses)
        if backpressure:
            tb.set_backpressure(_pauses)
        await tb.reset()
        return tb

    def set_idle(self, pauses: Callable[[], Iterator[bool]]) -> None:
        """Give each sender of ours its own generator of pauses, made by ``pauses()``."""
        for channel in (self.source, self.axil.write_if.aw_channel, self.axil.write_if.w_channel,
                        self.axil.read_if.ar_channel):
            channel.set_pause_generator(pauses())

    def set_backpressure(self, pauses: Callable[[], Iterator[bool]]) -> None:
        """Give each receiver of ours its own generator of pauses, made by ``pauses()``."""
        for channel in (self.sink, self.axil.write_if.b_channel, self.axil.read_if.r_channel):
            channel.set_pause_generator(pauses())

    async def clock(self, cycles: int = 1) -> None:
        """Wait for rising edges."""
        await ClockCycles(self.dut.aclk, cycles)

    async def reset(self, cycles: int = 16) -> None:
        """Hold the machine in reset for ``cycles``; the partners drop their transfers."""
        self.dut.aresetn.value = 0
        await self.clock(cycles)
        self.dut.aresetn.value = 1
        await self.clock()

    async def write(self, address: int, value: int) -> AxiResp:
        """Write a register; returns the response."""
        done = self.axil.write(address, value.to_bytes(4, "little"))
        return (await with_timeout(done, PATIENCE, "ms")).resp

    async def read(self, address: int) -> tuple[int, AxiResp]:
        """Read a register; returns the value and the response."""
        done = await with_timeout(self.axil.read(address, 4), PATIENCE, "ms")
        return int.from_bytes(done.data, "little"), done.resp

    async def load(self, address: int, words: ArrayLike) -> None:
        """Write words to one address, without waiting for each response."""
        writes = [self.axil.init_write(address, int(word).to_bytes(4, "little"))
                  for word in np.asarray(words, np.uint32)]
        for write in writes:
            await with_timeout(write.wait(), PATIENCE, "ms")
            assert write.data.resp == AxiResp.OKAY, f"write to 0x{address:03x}: {write.data.resp!r}"

    async def send_frame(self, header: ArrayLike, columns: ArrayLike) -> None:
        """Queue a frame: header (C,) of bit 0 active and bit 1 reset, columns (I, C) of activations."""
        beats = pack_frames(self.config, header, columns)
        await self.source.send(AxiStreamFrame(beats.tobytes()))

    async def receive_frame(self, outputs: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The next frame, of ``outputs`` columns: header (C,), columns (P, C)."""
        frame = await with_timeout(self.sink.recv(), PATIENCE, "ms")
        data = np.frombuffer(bytes(frame.tdata), np.uint8).reshape(-1, beat_bytes(self.config))
        assert len(data) == frame_beats(self.config, outputs), f"{len(data)} beats for {outputs} columns"
        return unpack_frames(self.config, data, outputs)


def _pauses() -> Iterator[bool]:
    chance = random.Random(random.getrandbits(32))  # cocotb seeds the module's own for each bench
    return (chance.random() < 0.5 for _ in itertools.repeat(None))
