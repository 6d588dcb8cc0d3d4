# SPDX-License-Identifier: Apache-2.0
"""Verilator warns of nothing in the Verilog of any preset, nor of one with GRUs and dense layers."""

import pytest
from machines import DENSE, GRU

from openese.rtl.config import PRESETS
from openese.sim.lint import lint

MOST = 512  # PEs

pytestmark = [pytest.mark.sim, pytest.mark.slow]


@pytest.mark.parametrize("name", sorted(PRESETS, key=lambda name: -PRESETS[name].pes))
def test_a_preset_is_clean(name):
    """A very wide one with fewer of its tiles."""
    config = PRESETS[name]
    fewer = max(1, config.pes // MOST)
    lint(config.replace(pes=config.pes // fewer, slices=config.slices // fewer))


@pytest.mark.parametrize("config", [GRU, DENSE], ids=lambda config: config.name)
def test_a_machine_with_other_layers_is_clean(config):
    lint(config)
