# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Bundles: their ports by name, and wires that go one way."""

import pytest
from amaranth.hdl import ClockDomain, Module, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from bench import simulate

from openese.rtl.bundles import Bundle, ValidPort


class Pair(Bundle):
    """A value, and an answer to it."""

    def __init__(self, bits=8):
        super().__init__({"value": Out(bits), "answer": In(signed(4))})


class Block(wiring.Component):
    """Has what it is told to have."""

    def elaborate(self, platform):
        return Module()


class Outer(wiring.Component):
    """Hands its own pair on to a block within."""

    def __init__(self):
        self.inner = Block(Pair().flip().ports("in_"))
        super().__init__(Pair().flip().ports())

    def elaborate(self, platform):
        m = Module()
        m.domains.sync = ClockDomain("sync")
        m.submodules.inner = self.inner
        Pair().connect(m, wiring.flipped(self), self.inner, "", "in_")
        return m


def test_names_of_ports():
    assert Pair().ports("x_") == {"x_value": Out(8), "x_answer": In(signed(4))}
    assert Pair().flip().ports() == {"value": In(8), "answer": Out(signed(4))}
    assert ValidPort(3).ports("line") == {"line": Out(3), "line_valid": Out(1)}


def test_both_ways():
    dut = Outer()

    async def bench(ctx):
        ctx.set(dut.value, 200)
        ctx.set(dut.inner.in_answer, -3)
        assert ctx.get(dut.inner.in_value) == 200
        assert ctx.get(dut.answer) == -3
        await ctx.tick()

    simulate(dut, bench, limit=5)


@pytest.mark.parametrize("sink", [Pair().ports(), Pair(9).flip().ports()], ids=["direction", "width"])
def test_ends_that_do_not_fit_are_refused(sink):
    with pytest.raises(wiring.ConnectionError, match=r"port value of .* is (Out\(8\)|In\(9\)), not In\(8\)"):
        Pair().connect(Module(), Block(Pair().ports()), Block(sink))
