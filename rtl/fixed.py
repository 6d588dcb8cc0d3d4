# SPDX-License-Identifier: Apache-2.0
"""Rounding and saturation, for every integer between x and y, in numpy and in Amaranth.

There is one rounding mode, *round half up*: add half of the weight of the last bit kept, then shift arithmetically.
Narrowing always saturates.
"""

import numpy as np
from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, ValueLike, signed
from numpy.typing import ArrayLike, NDArray

__all__ = ["round_shift", "saturate", "to_fixed", "round_shift_value", "saturate_value", "narrow_value", "Saturated"]


def round_shift(value: ArrayLike, shift: ArrayLike) -> NDArray[np.int64]:
    """``value / 2**shift``, rounded half up.

    Parameters
    ----------
    value : integers
        At least one bit short of 64, so that the added half cannot overflow.
    shift : integers, 0..62
        Broadcast against ``value``. A shift of 0 changes nothing.
    """
    shift = np.asarray(shift, np.int64)
    return (np.asarray(value, np.int64) + ((np.int64(1) << shift) >> 1)) >> shift


def saturate(value: ArrayLike, bits: int) -> NDArray[np.int64]:
    """``value`` clamped to a signed number of ``bits`` bits: -2**(bits-1) .. 2**(bits-1)-1."""
    limit = 1 << (bits - 1)
    return np.clip(np.asarray(value, np.int64), -limit, limit - 1)


def to_fixed(value: ArrayLike, fraction: ArrayLike) -> NDArray[np.int64]:
    """Real numbers as integers with ``fraction`` fraction bits, rounded half up, not saturated.

    Values whose integers would not fit 62 bits are clamped to that, far beyond any format in use.
    """
    with np.errstate(over="ignore"):
        scaled = np.ldexp(np.asarray(value, np.float64), np.asarray(fraction, np.int32))
    return np.clip(np.floor(scaled + 0.5), -(2.0 ** 62), 2.0 ** 62).astype(np.int64)


def round_shift_value(value: ValueLike, shift: int) -> Value:
    """`round_shift` of a signed Amaranth value by a constant.

    A barrel shifter keeps one bit below its result and leaves the rounding to ``round_shift_value(_, 1)``.
    """
    value = Value.cast(value)
    if shift == 0:
        return value
    return (value[shift - 1:].as_signed() + 1) >> 1


def saturate_value(value: ValueLike, bits: int) -> tuple[Value, Value]:
    """`saturate` of a signed Amaranth value; returns the result and whether it was clamped."""
    value = Value.cast(value)
    if len(value) <= bits:
        return value, Const(0, 1)
    clamped = ~(value[bits - 1:].all() | ~value[bits - 1:].any())
    limit = Mux(value[-1], Const(-(1 << (bits - 1)), signed(bits)), Const((1 << (bits - 1)) - 1, signed(bits)))
    return Mux(clamped, limit, value[:bits].as_signed()), clamped


def narrow_value(value: ValueLike, bits: int) -> tuple[Value, Value]:
    """The lowest bits of a signed value below its sign, ``bits`` in all, and whether the value does not fit them."""
    value = Value.cast(value)
    if len(value) <= bits:
        return value, Const(0, 1)
    fits = value[bits - 1:].all() | ~value[bits - 1:].any()
    return Cat(value[:bits - 1], value[-1]).as_signed(), ~fits


class Saturated:
    """A register for `saturate` of a signed value that takes no LUT for each bit: a clamped value sets the lowest bits.

    Attributes
    ----------
    register : Signal, signed, one bit wider
        The number. For the least number it is that number less 1, which saturates to the same in fewer bits.
    below : Signal
        1 for the least number: the number is ``register + below``.
    clamped : Signal
        1 if the value was clamped.
    """

    def __init__(self, bits: int, name: str) -> None:
        self._bits = bits
        self.register = Signal(signed(bits + 1), name=name, reset_less=True)
        self.below = Signal(name=f"{name}_below", reset_less=True)
        self.clamped = Signal(name=f"{name}_clamped", reset_less=True)

    def load(self, m: Module, value: ValueLike, above: ValueLike = 0, below: ValueLike = 0) -> None:
        """Take ``value`` with the next clock. ``above`` and ``below`` say that it is too large, or too small, whatever
        its bits are."""
        value = Value.cast(value)
        narrow, clamps = narrow_value(value, self._bits)
        clamped, negative = (Signal(name=f"{self.register.name}_{name}") for name in ("clamps", "negative"))
        m.d.comb += [clamped.eq(clamps | above | below), negative.eq(value[-1] | below)]
        m.d.sync += [
            self.register.eq(Cat(narrow[:-1], negative).as_signed()),
            self.below.eq(clamped & negative),
            self.clamped.eq(clamped),
        ]
        with m.If(clamped):
            m.d.sync += self.register[:self._bits].eq((1 << (self._bits - 1)) - 1)

    def added_to(self, other: ValueLike) -> Value:
        """The sum with a signed value; ``below`` is its carry."""
        return (Cat(Const(1, 1), other).as_signed() + Cat(self.below, self.register).as_signed()) >> 1
