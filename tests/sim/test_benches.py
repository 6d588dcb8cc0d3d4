# SPDX-License-Identifier: Apache-2.0
"""Runs the cocotb benches, every module on every machine."""

import json

import pytest
from machines import GROUPS, TINY

benches = pytest.importorskip("openese.sim.benches", reason="needs the extra 'sim'")

CONFIGS = {config.name: config for config in [TINY, TINY.replace(name="one voice", channels=1, slice_width=1)]}

# Another shape of model, and where it matters another machine.
MACHINES = {
    "projection, peepholes": (TINY, [5, [9, 6]]),
    "one layer": (TINY, [5, 9]),
    "two layers": (TINY, [5, [9, 6], 7]),
    "one voice": (CONFIGS["one voice"], [4, [6, 3]]),
    "8 PEs, 2 groups, 3 index bits": (GROUPS, [5, [18, 12]]),
}


@pytest.mark.sim
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_registers(config, tmp_path):
    benches.run("bench_registers", config, tmp_path)


@pytest.mark.sim
@pytest.mark.parametrize(("config", "shape"), MACHINES.values(), ids=MACHINES)
def test_machine(config, shape, tmp_path, monkeypatch):
    monkeypatch.setenv("MODEL_SHAPE", json.dumps(shape))
    benches.run("bench_machine", config, tmp_path)
