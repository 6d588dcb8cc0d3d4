# SPDX-License-Identifier: Apache-2.0
"""The machines that proofs are about: as small as a block allows."""

from openese.rtl.config import Config

__all__ = ["SMALL", "describe", "small"]

SMALL = Config(name="small", pes=1, channels=1, activation_bits=8, weight_bits=2, cell_bits=14, index_bits=1,
               align_bits=1, queue_depth=16, entry_depth=16, column_depth=16, vector_depth=16, cell_rows=2,
               accumulator_rows=16, row_nonzeros=1, program_depth=8)


def small(**changes):
    """`SMALL` with ``changes``."""
    return SMALL.replace(**changes)


def describe(config, *fields):
    """The values of a machine's ``fields``, in words."""
    return ", ".join(f"{field} {getattr(config, field)}" for field in fields)
