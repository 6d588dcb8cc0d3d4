# SPDX-License-Identifier: Apache-2.0
"""Activation: any two tables, any argument, on every port, `Activation.delay` cycles later."""

import numpy as np
import pytest
from bench import TINY, cycles, generator, integers, seeds, simulate, trace

from openese.rtl.activation import Activation


async def load(ctx, dut, rng, tables, bits):
    """Write both tables, pair by pair, in any order."""
    ctx.set(dut.load_valid, 1)
    mask = (1 << bits) - 1
    for address in rng.permutation(2048).tolist():
        function, pair = divmod(address, 1024)
        even, odd = (int(tables[function][2 * pair + k]) & mask for k in range(2))
        ctx.set(dut.load, {"address": address, "data": even | odd << bits})
        await ctx.tick()
    ctx.set(dut.load_valid, 0)


def arguments(rng, config, count):
    """Signed table arguments: some at the ends, some just beside a sample, the others anywhere."""
    half = 1 << (config.argument_bits - 1)
    step = 1 << config.fraction_bits
    anywhere = rng.integers(-half, half, count)
    beside = np.clip(rng.integers(-half // step, half // step, count) * step + rng.integers(-1, 2, count),
                     -half, half - 1)
    ends = rng.choice([-half, half - 1, half - step, -half + step - 1, 0, -1], count)
    return rng.permuted(np.stack([anywhere, beside, ends]), axis=0)[0]


@seeds(2)
@pytest.mark.parametrize("ports", [1, 2, 4, 5])
def test_values_equal_the_model(ports, seed):
    config = TINY
    rng = generator(seed)
    tables = np.array(integers(rng, config.table_bits, (2, 2048)))
    dut = Activation(config, ports)
    watch, seen = trace(*(dut.value[port] for port in range(ports)))
    count = 300
    asked = [arguments(rng, config, count) for _ in range(ports)]
    functions = [rng.integers(0, 2, count) for _ in range(ports)]
    half = 1 << (config.argument_bits - 1)

    async def bench(ctx):
        await load(ctx, dut, rng, tables, config.table_bits)
        for k in range(count):
            for port in range(ports):
                ctx.set(dut.argument[port], int(asked[port][k]) + half)
                ctx.set(dut.function[port], int(functions[port][k]))
            await ctx.tick()
        await cycles(ctx, dut.delay)

    simulate(dut, bench, limit=3000, background=[watch])
    for port in range(ports):
        values = [row[port] for row in seen[2048 + dut.delay:]][:count]
        models = np.stack([Activation.model(config, table, asked[port]) for table in tables])
        np.testing.assert_array_equal(values, models[functions[port], np.arange(count)])


def test_the_model_interpolates():
    """On a straight line the model is the line, to half a unit."""
    config = TINY
    table = np.arange(2048) * 16 - 16384
    argument = np.arange(-(1 << 19), (1 << 19) - 512, 37)
    error = Activation.model(config, table, argument) - argument * 16 / 512
    assert np.abs(error).max() <= 0.5
