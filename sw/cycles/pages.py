# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""The cycles in which a host reads or writes the state of a voice."""

from openese.rtl.state_access import StateAccess
from openese.sw.model.layers import DENSE
from openese.sw.pack.schedule import Schedule

__all__ = ["page_cycles"]

#: Cycles of AXI4-Lite: a read, a read that waits for its number, a write, and a row of writes beyond one a cycle.
_READ, _WAIT, _WRITE, _WRITES = 4, 5, 4, 3


def page_cycles(plan: Schedule) -> tuple[int, int]:
    """Cycles that a read of one voice's state takes, and a write: c and y of all layers, one run after another.

    The machine is at rest, which a read of STATUS shows first. The manager of the bus never waits.
    """
    access = StateAccess(plan.config)
    read = written = _READ  # of STATUS
    before = 0  # what a selection waits for: a c that is on its way
    for layer in filter(lambda layer: layer.kind is not DENSE, plan.model.layers):
        for count, delay, after in ((layer.cells, access.cell_delay, access.write_delay),
                                    (layer.outputs, access.column_delay, 0)):
            read += _WRITE + delay + access.period + 3 + _WAIT + (count - 1) * _READ
            written += _WRITE + before + count + _WRITES
            before = after
    return read, written
