# SPDX-License-Identifier: Apache-2.0
"""Rounding and saturation: the Amaranth helpers against numpy, and numpy against unlimited integers."""

import numpy as np
import pytest
from amaranth.hdl import Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In
from amaranth.sim import Simulator
from bench import generator, integers, seeds, simulate
from hypothesis import given
from hypothesis import strategies as st

from openese.rtl.fixed import Saturated, narrow_value, round_shift, round_shift_value, saturate, saturate_value


def evaluate(value, results, inputs):
    """The values of ``results``, expressions of the signal ``value``, for each of ``inputs``."""
    class Expressions(wiring.Component):
        unused: In(1)

        def elaborate(self, platform):
            m = Module()
            for k, result in enumerate(results):
                output = Signal.like(result, name=f"result{k}")
                m.d.comb += output.eq(result)
                outputs.append(output)
            return m

    outputs, rows = [], []

    async def bench(ctx):
        for number in inputs:
            ctx.set(value, int(number))
            rows.append([ctx.get(output) for output in outputs])

    simulator = Simulator(Expressions())
    simulator.add_testbench(bench)
    simulator.run()
    return np.array(rows).T


@given(st.integers(-(1 << 62), (1 << 62) - 1), st.integers(0, 62))
def test_round_shift_rounds_half_up(value, shift):
    assert round_shift(value, shift) == (2 * value + (1 << shift)) // (2 << shift)


@given(st.integers(-(1 << 62), (1 << 62) - 1), st.integers(1, 62))
def test_saturate_clamps(value, bits):
    assert saturate(value, bits) == min(max(value, -(1 << (bits - 1))), (1 << (bits - 1)) - 1)


@pytest.mark.parametrize("bits", [1, 2, 5, 8])
def test_round_shift_value_equals_numpy(bits):
    """Every value of ``bits`` bits and every shift up to one more than the width."""
    value = Signal(signed(bits))
    inputs = np.arange(-(1 << (bits - 1)), 1 << (bits - 1))
    # Beyond the width there is no bit to slice; the machine never shifts by more.
    shifts = range(bits + 1)
    results = evaluate(value, [round_shift_value(value, shift) for shift in shifts], inputs)
    for shift, result in zip(shifts, results, strict=True):
        np.testing.assert_array_equal(result, round_shift(inputs, shift))


@pytest.mark.parametrize("bits", [1, 2, 5, 8])
def test_saturate_value_equals_numpy(bits):
    """Every value of ``bits`` bits, narrowed to every width, with the flag that says that it changed."""
    value = Signal(signed(bits))
    inputs = np.arange(-(1 << (bits - 1)), 1 << (bits - 1))
    widths = range(1, bits + 2)
    results = evaluate(value, [part for width in widths for part in saturate_value(value, width)], inputs)
    for width, result, clamped in zip(widths, results[::2], results[1::2], strict=True):
        np.testing.assert_array_equal(result, saturate(inputs, width))
        np.testing.assert_array_equal(clamped, saturate(inputs, width) != inputs)


@pytest.mark.parametrize("bits", [2, 5, 8])
def test_narrow_value_keeps_what_fits(bits):
    """Every value of ``bits`` bits and every width: the value where it fits, else that it does not, and its sign."""
    value = Signal(signed(bits))
    inputs = np.arange(-(1 << (bits - 1)), 1 << (bits - 1))
    widths = range(2, bits + 2)
    results = evaluate(value, [part for width in widths for part in narrow_value(value, width)], inputs)
    for width, result, beyond in zip(widths, results[::2], results[1::2], strict=True):
        fits = saturate(inputs, width) == inputs
        np.testing.assert_array_equal(beyond, ~fits)
        np.testing.assert_array_equal(result[fits], inputs[fits])
        np.testing.assert_array_equal(result < 0, inputs < 0)


@pytest.mark.parametrize("bits, width", [(8, 5), (8, 7), (8, 8), (5, 8)])
def test_saturated_equals_numpy(bits, width):
    """Every value of ``bits`` bits and every flag: what is read a cycle later, added to and saturated further."""
    class Registered(wiring.Component):
        value: In(signed(bits))
        above: In(1)
        below: In(1)

        def elaborate(self, platform):
            m = Module()
            m.d.comb += further.eq(saturate_value(saturated.register, width - 2)[0])
            saturated.load(m, self.value, self.above, self.below)
            m.d.comb += total.eq(saturated.added_to(other))
            return m

    other, total, further = Signal(signed(4), init=-3), Signal(signed(16)), Signal(signed(width - 2))
    saturated, dut, limit = Saturated(width, "saturated"), Registered(), 1 << (width - 1)

    async def bench(ctx):
        for value in range(-(1 << (bits - 1)), 1 << (bits - 1)):
            for above, below in ((0, 0), (value >= 0, 0), (0, 1)):
                ctx.set(dut.value, value)
                ctx.set(dut.above, above)
                ctx.set(dut.below, below)
                await ctx.tick()
                expected = -limit if below else limit - 1 if above else int(saturate(value, width))
                assert ctx.get(saturated.register) + ctx.get(saturated.below) == expected
                assert ctx.get(saturated.clamped) == (above or below or expected != value)
                assert ctx.get(total) == expected - 3
                assert ctx.get(further) == saturate(expected, width - 2)

    simulate(dut, bench, limit=900)


@seeds(2)
def test_wide_values_equal_numpy(seed):
    """The widths of the machine: an accumulator, rounded and narrowed to a sum."""
    rng = generator(seed)
    value = Signal(signed(36))
    inputs = np.array(integers(rng, 36, 200))
    shifts = [0, 1, 9, 16, 31]
    results = evaluate(value, [part for shift in shifts
                               for part in saturate_value(round_shift_value(value, shift), 24)], inputs)
    for shift, result, clamped in zip(shifts, results[::2], results[1::2], strict=True):
        rounded = round_shift(inputs, shift)
        np.testing.assert_array_equal(result, saturate(rounded, 24))
        np.testing.assert_array_equal(clamped, saturate(rounded, 24) != rounded)


@pytest.mark.parametrize("split", [0, 1, 3])
def test_a_barrel_shifter_may_round_afterwards(split):
    """One bit kept below the result, however the shift is split, rounds like one shift."""
    value = Signal(signed(8))
    inputs = np.arange(-128, 128)
    results = evaluate(value, [round_shift_value(((value << 1) >> split) >> (shift - split), 1)
                               for shift in range(split, 10)], inputs)
    for shift, result in zip(range(split, 10), results, strict=True):
        np.testing.assert_array_equal(result, round_shift(inputs, shift))
