# SPDX-License-Identifier: Apache-2.0
"""Benches of the registers: what a host reads before it has loaded anything."""

import random

import cocotb
from cocotbext.axi import AxiResp

from openese.rtl.loader import VERSION
from openese.rtl.registers import ADDRESS
from openese.sim.testbench import TB, stalled


@cocotb.test()
@stalled
async def identity(dut, idle, backpressure):
    """Identity, version, fingerprint and capacity are those of the configuration."""
    tb = await TB.start(dut, idle=idle, backpressure=backpressure)
    config = tb.config
    expected = {
        "ID": int.from_bytes(b"OESE", "little"),
        "VERSION": VERSION,
        "FINGERPRINT": config.fingerprint,
        "CAPACITY": config.groups << 24 | config.channels << 16 | config.pes,
    }
    for name, value in expected.items():
        assert await tb.read(ADDRESS[name]) == (value, AxiResp.OKAY), name


@cocotb.test()
@stalled
async def interrupt_enable_keeps_what_is_written(dut, idle, backpressure):
    """A register that can be written reads back, and a reset clears it."""
    tb = await TB.start(dut, idle=idle, backpressure=backpressure)
    for _ in range(20):
        value = random.getrandbits(5)
        assert await tb.write(ADDRESS["INTERRUPT_ENABLE"], value) == AxiResp.OKAY
        assert await tb.read(ADDRESS["INTERRUPT_ENABLE"]) == (value, AxiResp.OKAY)
    await tb.write(ADDRESS["INTERRUPT_ENABLE"], 31)
    await tb.reset()
    assert await tb.read(ADDRESS["INTERRUPT_ENABLE"]) == (0, AxiResp.OKAY)
