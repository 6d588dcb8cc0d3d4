# SPDX-License-Identifier: Apache-2.0
"""Sigmoid and Tanh: tables from the memory image, with linear interpolation."""

import numpy as np
from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from openese.rtl.attributes import DSP, block_ram
from openese.rtl.bundles import ValidPort
from openese.rtl.fixed import round_shift
from openese.rtl.interfaces import LineWrite

__all__ = ["Activation", "table_line"]


def table_line(config):
    """A write of an (even, odd) pair of samples."""
    return LineWrite(config.table_index_bits, 2 * config.table_bits)


class Activation(wiring.Component):
    """Evaluates one of two functions on ``ports`` arguments a cycle (paper: Sigmoid, Tanh).

    Each function is 2048 samples, the paper's size, over ``[-2**R, 2**R)``. The samples come from the image, and so do
    the range and the function itself. The upper bits of an argument are the number of a sample, offset to be unsigned;
    the lower ``fraction_bits`` interpolate. Even and odd samples lie in separate memories, so both neighbours are read
    at once. The last sample is its own right neighbour.

    Latency: `delay` cycles. Cost: for each two ports two memories of 2048 x 18 bits with two read ports, of which the
    first also writes: such a memory is a block RAM. For each port a multiplier-adder of 19 x 10 + 29 bits and two
    adders.

    Parameters
    ----------
    config : Config
    ports : int
        Arguments a cycle.

    Members
    -------
    argument : In(argument_bits).array(ports) — table arguments, unsigned.
    function : In(1).array(ports) — 0 for the sigmoid's table, 1 for the tanh's.
    value : Out(signed(table_bits)).array(ports) — function values in Q16, `delay` cycles later.
    load : In(table_line) — pair of samples; the address is function * 1024 + pair.
    load_valid : In(1) — write the pair. Even ports give no value for an argument of the same cycle.
    """

    delay = 6

    def __init__(self, config, ports):
        self._config = config
        self._ports = ports
        super().__init__({
            "argument": In(config.argument_bits).array(ports),
            "function": In(1).array(ports),
            "value": Out(signed(config.table_bits)).array(ports),
            **ValidPort(table_line(config)).flip().ports("load"),
        })

    @staticmethod
    def model(config, table, argument):
        """The interpolated value of ``table`` at signed table arguments, as the hardware has it.

        The hardware's tables have 2048 samples; any power of two, up to one for each argument, may be tried here.
        """
        fraction_bits = config.argument_bits - (len(table) - 1).bit_length()
        offset = np.asarray(argument, np.int64) + (1 << (config.argument_bits - 1))
        index = offset >> fraction_bits
        left = np.asarray(table, np.int64)[index]
        slope = np.diff(table, append=table[-1:]).astype(np.int64)[index]
        slope *= offset & ((1 << fraction_bits) - 1)
        return left + round_shift(slope, fraction_bits)

    def elaborate(self, platform):
        m = Module()
        config = self._config
        depth = 1 << config.table_index_bits
        for first in range(0, self._ports, 2):
            ports = range(first, min(first + 2, self._ports))
            banks = []
            for bank, half in (("even", slice(0, config.table_bits)), ("odd", slice(config.table_bits, None))):
                m.submodules[f"{bank}{first or ''}"] = samples = memory.Memory(
                    shape=signed(config.table_bits), depth=depth, init=[], attrs=block_ram(depth))
                write = samples.write_port()
                reads = [samples.read_port() for _ in ports]
                m.d.comb += [
                    write.addr.eq(reads[0].addr),
                    write.data.eq(self.load.data[half]),
                    write.en.eq(self.load_valid),
                ]
                banks.append(reads)
            for port, even, odd in zip(ports, *banks, strict=True):
                self._interpolate(m, port, even, odd)
        return m

    def _interpolate(self, m, port, even, odd):
        config = self._config
        bits = config.fraction_bits
        index = self.argument[port][bits:]
        pair = index[1:]

        def register(name, shape, **attributes):
            return Signal(shape, name=f"{name}{port}", reset_less=True, attrs=attributes)

        sample = signed(config.table_bits)
        is_odd = [register(f"is_odd{k}_", 1) for k in range(2)]
        is_last = register("is_last", 1)
        fraction = register("fraction", bits)
        weight1, weight2 = (register(name, signed(bits + 1)) for name in ("weight1_", "weight2_"))
        at_even, at_odd, left1, left2, value = (
            register(name, sample) for name in ("at_even", "at_odd", "left1_", "left2_", "value"))
        slope = register("slope", signed(config.table_bits + 1))
        product1 = register("product1_", signed(len(slope) + len(weight1)), **DSP)
        product2 = register("product2_", product1.shape(), **DSP)
        # From an odd sample to its even neighbour the slope is the other way round: its weight is.
        weight = Cat(fraction ^ is_odd[0].replicate(bits), is_odd[0]).as_signed() + is_odd[0]
        # The left sample, and half a unit for the rounding.
        start = Cat(Const(1 << (bits - 1), bits), left2).as_signed()
        m.d.comb += [
            even.addr.eq(Cat((index + 1)[1:config.table_index_bits], self.function[port])),
            odd.addr.eq(Cat(pair, self.function[port])),
            even.en.eq(1),
            odd.en.eq(1),
        ]
        if port % 2 == 0:
            with m.If(self.load_valid):
                m.d.comb += [even.addr.eq(self.load.address), odd.addr.eq(self.load.address)]
        m.d.sync += [
            is_odd[0].eq(index[0]),
            is_odd[1].eq(is_odd[0]),
            is_last.eq(index.all()),
            fraction.eq(self.argument[port][:bits]),
            weight1.eq(Mux(is_last, 0, weight)),
            weight2.eq(weight1),
            at_even.eq(even.data),
            at_odd.eq(odd.data),
            left1.eq(Mux(is_odd[1], at_odd, at_even)),
            slope.eq(at_odd - at_even),
            left2.eq(left1),
            product1.eq(slope * weight2),
            product2.eq(product1 + start),
            value.eq(product2 >> bits),
        ]
        m.d.comb += self.value[port].eq(value)
