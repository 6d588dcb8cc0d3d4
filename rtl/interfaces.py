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
    """Layout of one column of activations: a signed number for each channel."""
    return data.ArrayLayout(signed(config.activation_bits), config.channels)


class Column(data.StructLayout):
    """A column on its way to PtrRead, or the end of an operation.

    Fields
    ------
    index : bits_for(column_depth - 1) — line of its pointers.
    operation : operation_bits — number of its operation.
    end : 1 — no column, but the end of the operation.
    """

    def __init__(self, config):
        super().__init__({
            "index": bits_for(config.column_depth - 1),
            "operation": config.operation_bits,
            "end": 1,
        })


class Token(data.StructLayout):
    """A column that waits in an ActQueue, or the end of an operation.

    Fields
    ------
    count : count_bits — its entries on this PE.
    operation : operation_bits — number of its operation.
    end : 1 — no column, but the end of the operation.
    """

    def __init__(self, config):
        super().__init__({
            "count": config.count_bits,
            "operation": config.operation_bits,
            "end": 1,
        })


class Entry(data.StructLayout):
    """An encoded weight, or the end of an operation.

    An entry advances the row by ``skip + 1``. An entry whose weight is zero only bridges a gap: it advances the row by
    ``(skip + 1) << index_bits``.

    Fields
    ------
    weight : signed(weight_bits) — the weight.
    skip : index_bits — rows that it skips.
    operation : operation_bits — number of its operation.
    first : 1 — the first entry of its column.
    fresh : 1 — the first entry of its operation.
    end : 1 — no entry, but the end of the operation.
    """

    def __init__(self, config):
        super().__init__({
            "weight": signed(config.weight_bits),
            "skip": config.index_bits,
            "operation": config.operation_bits,
            "first": 1,
            "fresh": 1,
            "end": 1,
        })


class Context(data.StructLayout):
    """The fields of an operation that a PE needs, as in `openese.rtl.program.Instruction`.

    Fields
    ------
    entry_base : position_bits — line of its first entry.
    entry_stop : position_bits — end of its lines, up to which a PE with fewer entries reads too. Only if the machine
        streams weights.
    acc_base : bits_for(accumulator_rows - 1) — its first accumulator.
    phase_stride : bits_for(accumulator_rows - 1) — accumulators from one phase to the next.
    phase_last : 3 — number of the last phase.
    align : array(4, align_bits) — alignment of the rows whose number ends in 0 to 3, even if the operation is not
        gated.
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
    """A write of one line of a memory, from the loader.

    Fields
    ------
    address : address_bits — number of the line.
    data : data_bits — its bits.
    """

    def __init__(self, address_bits, data_bits):
        super().__init__({"address": address_bits, "data": data_bits})
