# SPDX-License-Identifier: Apache-2.0
"""Watchdog: notices that work does not go on."""

import enum

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from openese.rtl.config import bits_for

__all__ = ["Stall", "Watchdog"]


class Stall(enum.IntFlag):
    """What the work waits for; none of them: for something within the machine."""

    STREAM = 1
    OUTPUT = 2
    FRAME = 4


class Watchdog(wiring.Component):
    """Counts the cycles in which work is under way and nothing moves.

    Latency: `limit` cycles from the last move to ``stalled``. Cost: a counter of 21 bits, and the causes.

    Attributes
    ----------
    limit : int
        Cycles without a move after which the work has stalled: 5 ms at 200 MHz. A memory answers sooner by far.

    Members
    -------
    works : In(1) — work is under way.
    moves : In(1) — something moves.
    waits : In(len(Stall)) — what is waited for, in the bit of each `Stall`.
    clear : In(1) — forget the cause.
    stalled : Out(1) — nothing has moved for `limit` cycles. It falls with the next move.
    cause : Out(len(Stall)) — what was waited for when ``stalled`` rose last, until ``clear``.
    """

    limit = 1 << 20

    def __init__(self):
        super().__init__({
            "works": In(1),
            "moves": In(1),
            "waits": In(len(Stall)),
            "clear": In(1),
            "stalled": Out(1),
            "cause": Out(len(Stall)),
        })

    def elaborate(self, platform):
        m = Module()
        count = Signal(bits_for(self.limit))
        with m.If(~self.works | self.moves):
            m.d.sync += [count.eq(0), self.stalled.eq(0)]
        with m.Elif(~self.stalled):
            m.d.sync += count.eq(count + 1)
            with m.If(count == self.limit - 1):
                m.d.sync += [self.stalled.eq(1), self.cause.eq(self.waits)]
        with m.If(self.clear):
            m.d.sync += self.cause.eq(0)
        return m
