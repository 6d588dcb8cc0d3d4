# SPDX-License-Identifier: Apache-2.0
"""Bytes over two wires: a UART with 8 data bits, no parity and 1 stop bit."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["DIVISOR_BITS", "UARTReceiver", "UARTTransmitter", "levels"]

#: Width of a divisor.
DIVISOR_BITS = 12

_BITS = 10  # start, eight of data, stop


def levels(byte):
    """The ten levels of the line for one byte, in order of time: the model of both blocks."""
    return [0, *(byte >> k & 1 for k in range(8)), 1]


class UARTReceiver(wiring.Component):
    """Samples every bit in its middle. A byte whose stop bit is low is dropped.

    Latency: 2 cycles from ``pin`` to the first sample's level. The byte is there in the middle of its stop bit, so a
    sender may be up to some 4 % faster or slower. Cost: 25 LUTs, 35 registers or so.

    Members
    -------
    divisor : In(DIVISOR_BITS) — cycles a bit, at least 4.
    pin : In(1, init=1) — the line.
    o : Out(8) — a byte.
    o_valid : Out(1) — there is one; it cannot be held up.
    """

    def __init__(self):
        super().__init__({"divisor": In(DIVISOR_BITS), "pin": In(1, init=1), "o": Out(8), "o_valid": Out(1)})

    def elaborate(self, platform):
        m = Module()
        line = Signal(2, init=0b11)
        level = line[1]
        left = Signal(range(_BITS + 1))
        timer = Signal(DIVISOR_BITS)
        bits = Signal(8, reset_less=True)
        m.d.sync += [line.eq(Cat(self.pin, line)), self.o_valid.eq(0), timer.eq(timer - 1)]
        m.d.comb += self.o.eq(bits)
        with m.If(left == 0):
            m.d.sync += timer.eq((self.divisor >> 1) - 1)
            with m.If(~level):
                m.d.sync += left.eq(_BITS)
        with m.Elif(timer == 0):
            m.d.sync += [timer.eq(self.divisor - 1), left.eq(left - 1)]
            with m.If((left == _BITS) & level):
                m.d.sync += left.eq(0)  # too short for a start bit
            with m.If(left == 1):
                m.d.sync += self.o_valid.eq(level)
            with m.Else():
                m.d.sync += bits.eq(Cat(bits[1:], level))
        return m


class UARTTransmitter(wiring.Component):
    """Sends byte after byte.

    Latency: 1 cycle from a byte being taken to its start bit. Cost: 20 LUTs, 26 registers or so.

    Members
    -------
    divisor : In(DIVISOR_BITS) — cycles a bit, at least 2.
    i : In(stream(8)) — bytes; the next is taken when the one before is through its stop bit.
    pin : Out(1, init=1) — the line.
    """

    def __init__(self):
        super().__init__({"divisor": In(DIVISOR_BITS), "i": In(stream.Signature(8)), "pin": Out(1, init=1)})

    def elaborate(self, platform):
        m = Module()
        left = Signal(range(_BITS + 1))
        timer = Signal(DIVISOR_BITS)
        bits = Signal(_BITS - 1, init=-1)
        m.d.comb += self.i.ready.eq(left == 0)
        m.d.sync += timer.eq(timer - 1)
        with m.If(left == 0):
            m.d.sync += [timer.eq(self.divisor - 1), self.pin.eq(1)]
            with m.If(self.i.valid):
                m.d.sync += [left.eq(_BITS), self.pin.eq(0), bits.eq(Cat(self.i.payload, 1))]
        with m.Elif(timer == 0):
            m.d.sync += [timer.eq(self.divisor - 1), left.eq(left - 1), self.pin.eq(bits), bits.eq(Cat(bits[1:], 1))]
        return m
