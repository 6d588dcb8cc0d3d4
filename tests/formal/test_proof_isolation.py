# SPDX-License-Identifier: Apache-2.0
"""Voices do not disturb each other: two copies of a block get the same for voice 0, anything for voice 1."""

from amaranth.hdl import Value

from openese.rtl.spmv import SpMV
from tests.formal.engine import proof
from tests.formal.sizes import describe, small

WIDE = small(channels=2, weight_bits=12, activation_bits=16, cell_bits=24, index_bits=6, align_bits=3,
             accumulator_rows=512, row_nonzeros=512)


def same(h, first, second, *names):
    """Drive both copies' inputs ``names`` alike, with anything."""
    for name in names:
        shared = h.free(len(Value.cast(getattr(first, name))))
        h.m.d.comb += [Value.cast(getattr(block, name)).eq(shared) for block in (first, second)]


def partly(h, bits, first, second):
    """Drive the lowest ``bits`` of two values alike, the others with anything."""
    shared = h.free(bits)
    for value in (Value.cast(first), Value.cast(second)):
        h.m.d.comb += [value[:bits].eq(shared), value[bits:].eq(h.free(len(value) - bits))]


@proof("SpMV", "isolation: the accumulators of a voice are read and written alike, whatever the activations and sums "
       "of another voice", describe(WIDE, "channels", "weight_bits", "activation_bits", "accumulator_rows"))
def test_spmv(h):
    copies = SpMV(WIDE), SpMV(WIDE)
    first, second = copies
    accumulators = [h.add(copy, name, opened=lambda depth: depth == WIDE.accumulator_rows)[0]
                    for copy, name in zip(copies, ("first", "second"), strict=True)]
    same(h, first, second, "context", "context_valid", "context_operation", "drain", "drain_address")
    same(h, first.entries, second.entries, "payload", "valid")
    same(h, first.columns, second.columns, "valid")
    partly(h, WIDE.activation_bits, first.columns.payload, second.columns.payload)
    partly(h, WIDE.accumulator_bits, *(memory.reads[0].data for memory in accumulators))
    reads, writes = zip(*((memory.reads[0], memory.writes[0]) for memory in accumulators), strict=True)
    sums = [Value.cast(write.data)[:WIDE.accumulator_bits] for write in writes]
    h.prove(
        first.entries.ready == second.entries.ready, first.done == second.done,
        reads[0].addr == reads[1].addr, writes[0].en == writes[1].en, writes[0].addr == writes[1].addr,
        sums[0] == sums[1], first.drained[:WIDE.accumulator_bits] == second.drained[:WIDE.accumulator_bits])
    h.refute(first.drained == second.drained)
    h.cover(writes[0].en & (sums[0] != 0))
