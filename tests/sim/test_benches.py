# SPDX-License-Identifier: Apache-2.0
"""Runs the cocotb benches, every module on every machine."""

import pytest

from rtl.config import preset

benches = pytest.importorskip("sim.benches", reason="needs the extra 'sim'")

CONFIGS = {config.name: config for config in [
    preset("tiny"),
    preset("tiny").replace(name="one voice", channels=1, slice_width=1),
]}


@pytest.mark.sim
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("module", ["bench_registers"])
def test_bench(module, config, tmp_path):
    benches.run(module, config, tmp_path)
