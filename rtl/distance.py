# SPDX-License-Identifier: Apache-2.0
"""Registers on the way from Broadcast to the queues of the PEs and back: they decide when a queue must be full."""

from openese.rtl.ptr_read import PtrRead

__all__ = ["FULL_DELAY", "INPUT_DELAY", "MARGIN", "SEND_DELAY", "join_delay", "tile_join_delay"]

#: Cycles from a column's turn to Broadcast's output.
SEND_DELAY = 2
#: Cycles from there to the PEs.
INPUT_DELAY = 1
#: Cycles from a queue's ``full`` to Broadcast.
FULL_DELAY = 2
#: Columns that a queue still gets after its ``full`` has risen.
MARGIN = SEND_DELAY + INPUT_DELAY + PtrRead.delay + FULL_DELAY


def tile_join_delay(config):
    """Cycles from the last pulse of a PE, ``done`` or ``released``, to that of its tile."""
    return int(config.pes > config.slices)


def join_delay(config):
    """Cycles from the last pulse of a PE to that of the array."""
    return tile_join_delay(config) + (config.slices > 1)
