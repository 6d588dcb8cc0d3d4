# SPDX-License-Identifier: Apache-2.0
"""Cells with random parameters, for the benches of Slice and of Assemble."""

import numpy as np
from bench import integers

from openese.rtl.elementwise import Slice
from openese.rtl.fixed import round_shift, saturate

__all__ = ["Cells", "mask", "near_powers", "random_settings", "spread"]


def spread(rng, bits, size):
    """Signed integers of every magnitude up to ``bits`` bits."""
    return np.array(integers(rng, bits, size), np.int64) >> rng.integers(0, bits, size)


def near_powers(rng, bits, size):
    """Signed integers of ``bits`` bits that differ from a power of two, or its negative, by at most 1."""
    powers = rng.choice([-1, 1], size) << rng.integers(0, bits, size)
    return np.clip(powers + rng.integers(-1, 2, size), -1 << (bits - 1), (1 << (bits - 1)) - 1)


def curve(function, exponent):
    """A table as an image has it: 2048 samples over [-2**exponent, 2**exponent), Q16."""
    at = (np.arange(2048) - 1024) * 2.0 ** (exponent - 10)
    return np.floor(function(at) * 65536 + 0.5).astype(np.int64)


def random_settings(rng, channels, gru=False, dense=False, reset_before=False):
    """Fields of `openese.rtl.elementwise.Settings`: number formats, active and reset voices (booleans)."""
    formats = {
        "shift": rng.integers(0, 32, 4).tolist(),
        "cell_argument_shift": int(rng.integers(0, 32)),
        "peephole_select": int(rng.integers(0, 8)),
        "cell_select": int(rng.integers(0, 8)),
        "g_sigmoid": int(rng.integers(0, 2)),
    }
    if gru:
        formats |= {"gru": 1, "cell_select": 0, "g_sigmoid": 0}
    if reset_before:
        formats["reset_before"] = 1
    if dense:
        formats |= {"dense": 1, "activation": int(rng.integers(0, 4))}
    return formats, rng.random(channels) < 0.75, rng.random(channels) < 0.25


def mask(flags):
    """Booleans as the bits of an integer."""
    return int(flags @ (1 << np.arange(len(flags))))


class Cells:
    """Parameters, tables and state of the cells on ``pe_rows`` PE rows: what `Slice.model` leaves to others.

    ``cell`` is the state, (cell rows, PE rows, channels); ``bias``, ``peephole`` (cell rows, gates, PE rows).
    """

    def __init__(self, config, rng, pe_rows, real_tables):
        self.config = config
        self.cell = np.zeros((config.cell_rows, pe_rows, config.channels), np.int64)
        shape = (config.cell_rows, 4, pe_rows)
        self.bias = spread(rng, config.argument_bits, shape)
        self.peephole = spread(rng, config.peephole_bits, shape)
        if real_tables:
            self.tables = [curve(lambda v: 1 / (1 + np.exp(-v)), 4), curve(np.tanh, 3)]
        else:
            self.tables = np.array(integers(rng, config.table_bits, (2, 2048)))

    def step(self, row, sums, formats, active, reset):
        """One ELEMENTWISE of a cell row with ``sums`` of all gates; returns m and what was clamped. Of a GRU with the
        reset before the product, it is the second pass."""
        before, bias = np.where(reset, 0, self.cell[row]), self.bias[row][:, :, None].copy()
        if formats.get("reset_before"):
            sums, bias[3] = [*sums[:3], np.zeros_like(sums[3])], 0
        after = Slice.model(
            self.config, np.stack(sums), before, bias,
            self.peephole[row][[0, 1, 3]][:, :, None], formats, *self.tables)
        self.cell[row] = np.where(active, after.cell, before)
        return np.where(active, after.m, 0), after.saturated & active

    def reset(self, row, sums, formats, active, reset):
        """The first pass of a GRU with the reset before the product, with ``sums`` of r: r . h'."""
        before = np.where(reset, 0, self.cell[row])
        result = Slice.model_reset(self.config, sums, before, self.bias[row][0, :, None], formats["shift"][0],
                                   self.tables[0])
        return np.where(active, result, 0), np.zeros_like(active)

    def project(self, sums, formats, active):
        """One row of a PROJECT: y and what was clamped."""
        rounded = round_shift(sums, formats["shift"][0])
        y = saturate(rounded, self.config.activation_bits)
        return np.where(active, y, 0), (y != rounded) & active

    def dense(self, place, sums, formats, active):
        """One row of a dense layer, whose biases are at ``place``: four to a cell row."""
        bias = self.bias[place // 4, place % 4][:, None]
        _, y, saturated = Slice.model_dense(self.config, sums, bias, formats, *self.tables)
        return np.where(active, y, 0), saturated & active

    def table_lines(self):
        """(address, data) of all pairs of samples."""
        bits = self.config.table_bits
        pairs = np.array(self.tables).reshape(-1, 2) & ((1 << bits) - 1)
        return [(address, int(even) | int(odd) << bits) for address, (even, odd) in enumerate(pairs)]

    def parameter_lines(self):
        """(address, data): cell row, then gate, then PE rows of a slice; all slices in a line."""
        config = self.config
        pairs = (self.bias & ((1 << config.argument_bits) - 1)
                 | (self.peephole & ((1 << config.peephole_bits) - 1)) << config.argument_bits)
        together = max(1, config.slice_width // config.channels)
        slices = pairs.shape[-1] // config.rows_per_slice
        words = pairs.reshape(config.cell_rows, 4, slices, -1, together).transpose(0, 1, 3, 2, 4)
        lines = words.reshape(-1, slices * together)
        return [(address, sum(int(pair) << (k * config.parameter_bits) for k, pair in enumerate(line)))
                for address, line in enumerate(lines)]

    async def load(self, ctx, dut):
        """Write both through ``dut``'s ports; returns the cycles that it took."""
        lines = [(dut.tables, dut.tables_valid, line) for line in self.table_lines()]
        lines += [(dut.parameters, dut.parameters_valid, line) for line in self.parameter_lines()]
        for port, valid, (address, data) in lines:
            ctx.set(port, {"address": address, "data": data})
            ctx.set(valid, 1)
            await ctx.tick()
            ctx.set(valid, 0)
        return len(lines)
