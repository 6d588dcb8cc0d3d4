# SPDX-License-Identifier: Apache-2.0
"""The proofs mean something: what is wrong is refuted, and induction does not prove what it cannot."""

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

pytest.importorskip("pyosys", reason="needs the extra 'formal'")
from tests.formal.engine import Harness  # noqa: E402


class Counter(wiring.Component):
    """Counts from 0 to ``last``, and again."""

    def __init__(self, last):
        self.last = last
        super().__init__({"up": In(1), "value": Out(4)})

    def elaborate(self, platform):
        m = Module()
        with m.If(self.up):
            m.d.sync += self.value.eq(self.value + 1)
            with m.If(self.value == self.last):
                m.d.sync += self.value.eq(0)
        return m


@pytest.mark.parametrize("last, most, inductive, message", [
    (5, 5, True, None),
    (5, 6, True, "neither proved nor refuted"),  # from 6 it would go on
    (5, 6, False, None),
    (9, 8, True, "neither proved nor refuted"),
    (9, 8, False, "refuted in cycle 9"),
    (9, 1, True, "refuted in cycle 2"),
])
def test_proofs_of_a_counter(tmp_path, last, most, inductive, message):
    h = Harness()
    counter = Counter(last)
    h.add(counter)
    h.prove(counter.value <= most)
    h.refute(counter.value != 3)
    h.cover(counter.value == 4)
    if message is None:
        h.check(tmp_path, inductive=inductive)
    else:
        with pytest.raises(AssertionError, match=message):
            h.check(tmp_path, inductive=inductive)
