# SPDX-License-Identifier: Apache-2.0
"""What synthesis makes of a PE and of a machine, under the benches that their Verilog passes; `nox -s netlist`."""

from pathlib import Path

import pytest

from openese.rtl.config import preset

pytest.importorskip("pyosys", reason="needs the extra 'synth'")
benches = pytest.importorskip("openese.sim.benches", reason="needs the extra 'sim'")

TINY = preset("tiny")

pytestmark = pytest.mark.sim


@pytest.mark.parametrize("family", [None, "ecp5"])
def test_pe(family, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "rtl")
    benches.run("bench_pe", TINY, tmp_path, top="pe", family=family)


@pytest.mark.parametrize("bench", ["bench_registers", "bench_machine"])
def test_machine(bench, tmp_path):
    """`tests/sim/test_benches.py` runs these on the emitted Verilog."""
    benches.run(bench, TINY, tmp_path, family="ecp5")
