# SPDX-License-Identifier: Apache-2.0
"""Words that pass between the blocks of the array."""

from amaranth.hdl import signed
from amaranth.lib import data

from openese.rtl.config import bits_for

__all__ = ["Column", "Token", "Entry", "Context", "activations", "LineWrite", "BLOCKS", "MAX_OPERATIONS"]

#: Operations (MULTIPLY instructions) that may be under way in the array at once.
MAX_OPERATIONS = 4

#: Parts of the weight memories that are given back to a stream as a whole.
BLOCKS = 8


def activations(config):
    """One column of activations: a signed number for every channel."""
    return data.ArrayLayout(signed(config.activation_bits), config.channels)


class Column(data.StructLayout):
    """A column on its way to PtrRead: the address of its pointers, or the end of an operation."""

    def __init__(self, config):
        super().__init__({
            "index": bits_for(config.column_depth - 1),
            "operation": bits_for(MAX_OPERATIONS - 1),
            "end": 1,
        })


class Token(data.StructLayout):
    """A column that waits in an ActQueue: its number of entries, or the end of an operation."""

    def __init__(self, config):
        super().__init__({
            "count": config.count_bits,
            "operation": bits_for(MAX_OPERATIONS - 1),
            "end": 1,
        })


class Entry(data.StructLayout):
    """An encoded weight.

    It advances the row by ``skip + 1``. An entry whose weight is zero only bridges a gap, and advances the row by
    ``(skip + 1) << index_bits``. ``first`` marks the first entry of a column, ``fresh`` the first of an operation.
    ``end`` is no entry but the end of the operation.
    """

    def __init__(self, config):
        super().__init__({
            "weight": signed(config.weight_bits),
            "skip": config.index_bits,
            "operation": bits_for(MAX_OPERATIONS - 1),
            "first": 1,
            "fresh": 1,
            "end": 1,
        })


class Context(data.StructLayout):
    """The fields of an operation that a PE needs, named as in `openese.rtl.program.Instruction`.

    ``align`` is the alignment of the rows whose number ends in 0 to 3, even in an operation that is not ``gated``.
    ``entry_stop`` is the end of its lines. A PE that has fewer entries reads a stream up to there too.
    """

    def __init__(self, config):
        accumulator = bits_for(config.accumulator_rows - 1)
        super().__init__({
            "entry_base": config.position_bits,
            **({"entry_stop": config.position_bits} if config.stream else {}),
            "acc_base": accumulator,
            "phase_stride": accumulator,
            "phase_last": 3,
            "align": data.ArrayLayout(config.align_bits, 4),
        })


class LineWrite(data.StructLayout):
    """A write of one line of a memory, from the loader."""

    def __init__(self, address_bits, data_bits):
        super().__init__({"address": address_bits, "data": data_bits})
