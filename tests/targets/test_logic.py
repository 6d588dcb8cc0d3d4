# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""LUTs and registers of the model are those of Yosys, on machines that it was not fitted to."""

import json
from pathlib import Path

import pytest

from openese.rtl.assemble import Assemble
from openese.rtl.config import PRESETS, preset
from openese.rtl.state_access import StateAccess
from openese.rtl.targets.capacity import resources
from openese.rtl.targets.logic import FILE, FITTED, LIKE, Amount, _picking, blocks, logic
from openese.rtl.targets.memories import FAMILIES, of_any_depth
from openese.sim.synthesis.estimate import BLOCKS
from openese.sim.synthesis.fit import DESIGNS, compared, fitted

BASELINES = json.loads((Path(__file__).parents[1] / "baselines" / "synth.json").read_text())
FIT = json.loads(FILE.read_text())
#: How far the model may be from Yosys on a preset.
MOST = 0.05


@pytest.mark.parametrize("family, name", [(family, name) for family in FAMILIES for name in BASELINES.get(family, ())])
def test_presets_take_what_yosys_counts(family, name):
    """None of them is fitted. If this fails after a change of the hardware: python -m openese.sim.synthesis.fit."""
    assert PRESETS[name] not in DESIGNS
    found, total = logic(PRESETS[name], family), BASELINES[family][name]["total"]
    for resource in FITTED:
        off = found[resource].number / total[resource] - 1
        assert abs(off) <= MOST, (resource, off)
        assert abs(off) <= found[resource].error + 0.01, (resource, off)


@pytest.mark.parametrize("family", FIT)
def test_the_file_is_of_the_blocks_that_there_are(family):
    coefficients = FIT[LIKE.get(family, family)]["blocks"]
    assert coefficients.keys() <= set(BLOCKS.values())
    for changes in ({}, {"stream": True, "index_bits": 4, "entry_depth": 1024}):
        there = blocks(preset("tiny").replace(**changes), family)
        assert there.keys() == {name for name in BLOCKS.values()
                                if name != "PE" and (changes or not name.startswith("Stream"))}
        assert all(coefficients[name][resource].keys() <= block.terms[resource].keys()
                   for name, block in there.items() for resource in FITTED)
    for resource in FITTED:
        off = [abs(found[resource]) for found in FIT[family]["compared"].values()]
        assert max(off) <= FIT[family]["errors"][resource] <= MOST


@pytest.mark.parametrize("change", [{"channels": 4}, {"pes": 8}, {"weight_bits": 16}, {"activation_bits": 18},
                                    {"queue_depth": 64}, {"cell_bits": 27}])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_larger_machine_takes_more(family, change):
    small, large = (logic(preset("tiny").replace(**fields), family) for fields in ({}, change))
    assert large["LUT"].number > small["LUT"].number or large["LUTRAM"].number > small["LUTRAM"].number
    assert large["FF"].number > small["FF"].number


def test_dense_layers_take_what_yosys_counts():
    """LUTs and registers of tiny with dense layers."""
    found = logic(preset("tiny").replace(cells="lstm+dense"), "xcu")
    assert abs(found["LUT"].number / 9_186 - 1) < 0.01 and abs(found["FF"].number / 14_252 - 1) < 0.01


def test_exact_numbers_have_no_range():
    taken = resources(preset("ese"), "xcu")
    assert taken["BRAM"] == Amount(833, 0) and taken["DSP"] == Amount(1216, 0) and taken["URAM"] == Amount(0, 0)
    assert taken["BRAM"].least == taken["BRAM"].most == 833
    assert taken["LUT"].least < 119_273 < taken["LUT"].most
    assert Amount(1000, 0.031).least == 969 and Amount(1000, 0.031).most == 1031


def test_the_fit_finds_coefficients_that_are_there():
    """Of figures that are sums of terms; whole numbers, as Yosys counts them."""
    machines = [(config, {name: {"instances": block.count} | {
        resource: round(number) for resource, number in block.taken(FIT["xcu"]["blocks"][name]).items()}
        for name, block in blocks(config, "xcu").items()}) for config in DESIGNS]
    coefficients = fitted(machines, "xcu")
    for found in compared(machines, "xcu", coefficients).values():
        assert all(abs(error) < 0.005 for error in found.values())
    like = fitted(machines[:2], "xcu", FIT["xcu"]["blocks"])
    # Neither of the two has dense layers.
    assert like["Slice"]["LUT"]["denses"] == pytest.approx(FIT["xcu"]["blocks"]["Slice"]["LUT"]["denses"], rel=0.05)
    other, = compared(machines[3:4], "xcu", like).values()
    assert all(abs(error) < 0.02 for error in other.values())


@pytest.mark.parametrize("changes", [{}, {"stream": True, "index_bits": 4, "entry_depth": 128},
                                     {"groups": 2, "vector_depth": 2048, "activation_bits": 18}, {"slices": 2},
                                     {"cell_bits": 14, "activation_bits": 12}, {"models": 16, "weight_bits": 18},
                                     {"lut_channels": 1, "ultra_weights": True},
                                     {"pes": 64, "slices": 64, "channels": 1, "slice_width": 1, "groups": 1,
                                      "activation_bits": 18, "forward": True}])
def test_what_is_kept_of_a_machine_of_any_depth_is_its_own(changes):
    config = preset("tiny").replace(**changes)
    assemble = Assemble(config)
    shared = of_any_depth(config)
    assert _picking(shared) == (config.row_writes, assemble.picks, assemble.waits)
    assert StateAccess(shared).posted_depth == StateAccess(config).posted_depth
    assert of_any_depth(config.replace(column_depth=1024, weight_bits=config.weight_bits, name="other")) == shared
