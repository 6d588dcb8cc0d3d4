# SPDX-License-Identifier: Apache-2.0
"""Keeps the PEs of a streamed operation so level that they never wait for each other in a circle.

The weight memories are a ring. A PE that is ahead can wait for a line that has no room yet, because a PE that is behind
still needs old lines. The PE behind goes on while it has columns. It runs out of them if the queue of the PE ahead is
full, since that stops the broadcast for all. Then nothing moves any more.

The criterion, with ``lead = ring_lead(config)`` and ``limit = ActQueue.limit(config)``: for all columns ``k``, the
PE with the most entries up to column ``k`` has at most ``lead + 1`` entries more than the PE with the fewest up to
column ``k + limit - 1``. It is sufficient:

1. Suppose that nothing moves. The PE that has passed the fewest lines finds its next line (`ring_lead`), so it has no
   column left. It has passed the entries of all columns that were sent.
2. If the broadcast waits for anything but a full queue, it waits for operations whose columns are all sent. By 1 every
   PE passes these to their end, so this wait ends.
3. So some queue is full, and its PE waits for a line in a column ``k``. At least ``limit`` columns from ``k`` on are
   sent. By 1 the PE behind has passed all entries up to column ``k + limit - 1``. By the criterion the line that the
   other PE waits for is at most ``lead`` lines ahead, so it arrives. If the operation has no such column, its end is
   sent, and the PE behind has passed all of its lines.

Any matrix can be brought to fulfil it: a PE that is too far behind gets entries that only bridge a gap. It would be
idle in their time, unless the PEs take turns at being ahead.
"""

from dataclasses import replace

import numpy as np

from openese.rtl.act_queue import ActQueue
from openese.rtl.config import Config
from openese.rtl.weight_stream import ring_lead
from openese.sw.model.arrays import Int64Array
from openese.sw.pack.encode import EncodedMatrix

__all__ = ["level", "missing_entries", "target_lead"]


def target_lead(config: Config) -> int:
    """The lead to which `level` pads: a quarter of the ring. It is less than `ring_lead`, so the memory has time."""
    return config.entry_depth // 4


def missing_entries(counts: Int64Array, lead: int, limit: int) -> Int64Array:
    """Entries that PEs lack to fulfil the criterion.

    Parameters
    ----------
    counts : int64 (slots, pes)
        Entries of each slot's column on each PE.
    lead : int
        Lines that a PE may be ahead of the PE that is furthest behind, and still find its line.
    limit : int
        Columns in a queue that stop the broadcast.

    Returns
    -------
    int64 (slots, pes)
        Entries to add to the slot's column on each PE. No column becomes longer than the longest.
    """
    missing = np.zeros_like(counts)
    passed = np.zeros(counts.shape[1], np.int64)
    most: list[int] = []
    for slot, column in enumerate(counts):
        passed = passed + column
        if slot + 1 >= limit:
            # With a limit of 1 this is the PE that is ahead in this very slot.
            ahead = most[slot - limit + 1] if limit > 1 else int(passed.max())
            missing[slot] = np.maximum(ahead - 1 - lead - passed, 0)
            passed = passed + missing[slot]
        most.append(int(passed.max()))
    return missing


def level(encoded: EncodedMatrix, config: Config) -> EncodedMatrix:
    """The matrix with the padding that a machine needs to stream it; see the module."""
    lead = min(target_lead(config), ring_lead(config))
    missing = missing_entries(encoded.counts, lead, ActQueue.limit(config))
    if not missing.any():
        return encoded
    counts = encoded.counts + missing
    lengths = counts.sum(axis=0)
    # Padding goes behind the entries of its column.
    column_of = [np.repeat(np.arange(len(counts)), column) for column in encoded.counts.T]
    weights, skips = (np.zeros((int(lengths.max()), config.pes), np.int16) for _ in range(2))
    shift = np.cumsum(missing, axis=0) - missing
    for pe, slots in enumerate(column_of):
        line = np.arange(len(slots)) + shift[slots, pe]
        weights[line, pe] = encoded.weights[:len(slots), pe]
        skips[line, pe] = encoded.skips[:len(slots), pe]
    return replace(encoded, counts=counts, weights=weights, skips=skips, lengths=lengths)
