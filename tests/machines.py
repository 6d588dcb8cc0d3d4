# SPDX-License-Identifier: Apache-2.0
"""Machines that several tests simulate: each is built once."""

from openese.rtl.config import Config, preset

__all__ = ["DENSE", "GROUPS", "GRU", "MIXED", "STREAM", "TINY"]

TINY = preset("tiny")
#: With GRUs of both kinds, and accumulators in two kinds of memory, whose rows are no power of two.
GRU = TINY.replace(name="grus", cells="lstm+gru+gru_before", accumulator_rows=144, lut_channels=1)
#: With GRUs and dense layers.
DENSE = TINY.replace(name="dense", cells="lstm+gru+dense")
#: Can read weights from memory, and can hold those of small models.
STREAM = TINY.replace(name="streaming", index_bits=4, entry_depth=512, stream=True)
#: One voice, two column groups.
GROUPS = Config(name="groups", pes=8, channels=1, groups=2, slices=2, index_bits=3, entry_depth=1024, column_depth=256,
                vector_depth=256, cell_rows=32, accumulator_rows=128, queue_depth=16)

_MORE = {"models": 3, "banks": 2, "program_depth": 128, "vector_depth": 512, "column_depth": 512, "cell_rows": 64,
         "accumulator_rows": 256}
#: Hold several models, for voices in two banks.
MIXED = {"tiny": TINY.replace(name="models", entry_depth=2048, cells="lstm+gru+gru_before+dense", **_MORE),
         "groups": GROUPS.replace(name="models of groups", entry_depth=2048, wide_pointers=True, ultra_weights=True,
                                  block_weights=3, forward=True, **_MORE),
         "stream": STREAM.replace(name="streamed models", cells="lstm+dense", **_MORE)}
