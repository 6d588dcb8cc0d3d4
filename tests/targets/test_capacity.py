# SPDX-License-Identifier: Apache-2.0
"""Block RAMs and multipliers of a machine are those that Yosys finds; a machine that does not fit is refused."""

import json
from pathlib import Path

import pytest

from openese import build
from openese.rtl.config import PRESETS, preset
from openese.rtl.targets import TargetError
from openese.rtl.targets.capacity import FPGAS, block_rams, check_fits, multipliers, ultra_rams
from openese.rtl.targets.memories import FAMILIES, Mapped, Memory

BASELINES = json.loads((Path(__file__).parents[1] / "baselines" / "synth.json").read_text())


@pytest.mark.parametrize("family, name", [(family, name) for family, presets in BASELINES.items() for name in presets])
def test_presets_take_what_yosys_maps(family, name):
    config, total = PRESETS[name], BASELINES[family][name]["total"]
    family = family.removesuffix("_dsp")
    assert (block_rams(config, family), multipliers(config, family)) == (total["BRAM"], total["DSP"])
    assert ultra_rams(config, family) == total.get("URAM", 0)


# RAMB36 and DP16KD that Yosys 0.70 maps a memory of rows, bits, lanes to, with or without the request for block RAM.
# On the 7 series, whose LUT RAMs are smaller, these are as many RAMB36 as on UltraScale.
@pytest.mark.parametrize("memory, xcu, ecp5", [
    ((128, 36, 1, False), 0.5, 1), ((256, 7, 1, False), 0, 1), ((256, 18, 1, False), 0.5, 1),
    ((128, 48, 2, False), 0, 2), ((256, 48, 2, False), 1, 2), ((64, 144, 1, False), 0, 4),
    ((256, 150, 1, False), 2.5, 5), ((12288, 18, 1, True), 6, 12), ((3072, 18, 1, True), 1.5, 3),
    ((5120, 18, 1, True), 2.5, 5), ((16384, 12, 1, True), 6, 12), ((32768, 14, 1, True), 14, 28),
    ((131072, 10, 1, True), 40, 80), ((512, 80, 1, True), 1.5, 3), ((4096, 20, 1, True), 2.5, 5),
    ((4096, 64, 4, True), 8, 16), ((1024, 35, 1, True), 1, 2), ((65536, 11, 1, True), 22, 44)])
def test_memories_take_what_yosys_maps(memory, xcu, ecp5):
    depth, width, lanes, block = memory
    held = Memory(1, depth, width, lanes, "block" if block else "any")
    counted = {name: held.mapped(family).block_rams for name, family in FAMILIES.items()}
    assert counted == {"xcu": xcu, "xcup": xcu, "xc7": 1 if memory == (128, 48, 2, False) else xcu, "ecp5": ecp5}


@pytest.mark.parametrize("rows, width, taken", [
    (144, 364, Mapped(0, 1040, 364, 364)), (144, 56, Mapped(0, 160, 56, 56)), (128, 56, Mapped(0, 128, 56, 56))])
def test_the_last_rows_of_accumulators_in_luts_take_half(rows, width, taken):
    """As Yosys maps accumulators of 28 bits, of 13 and of two channels."""
    assert Memory(1, rows, width, kind="LUT", clocked=True).mapped(FAMILIES["xcu"]) == taken


def test_accumulators_and_weights_in_ultra_ram():
    """As Yosys maps them for UltraScale+: 84 bits in rows of 72; 16,384 weights in 4,096 rows."""
    config = preset("tiny").replace(pes=2, channels=4, weight_bits=8, activation_bits=12, ultra_channels=3)
    assert (config.accumulator_bits, ultra_rams(config, "xcup")) == (28, 2 * 2)
    deep = config.replace(entry_depth=16384, ultra_weights=True)
    assert ultra_rams(deep, "xcup") == 2 * (2 + 1) and block_rams(deep, "xcup") < block_rams(config, "xcup")


def test_pointers_of_a_tile_and_weights_of_two_kinds():
    """As Yosys maps them for UltraScale+: a block RAM for 24 bits of pointers, UltraRAMs for three PEs of four."""
    config = preset("tiny").replace(
        pes=8, channels=1, groups=2, slices=2, entry_depth=2048, column_depth=1024, vector_depth=1024,
        accumulator_rows=64, lut_channels=1, ultra_weights=True, block_weights=1, wide_pointers=True)
    assert (block_rams(config, "xcup"), ultra_rams(config, "xcup")) == (11.5, 6)
    assert block_rams(config.replace(wide_pointers=False), "xcup") == 11.5 - 2 * 1 + 8 * 0.5
    assert block_rams(config.replace(block_weights=0), "xcup") == 11.5 - 2 and ultra_rams(
        config.replace(block_weights=0), "xcup") == 8


@pytest.mark.parametrize("weight_bits, each", [(11, 1), (12, 1), (13, 2), (18, 2)])
def test_wide_weights_take_two_multipliers_of_18_bits(weight_bits, each):
    """As Yosys maps products of 16 bits with operands of 18, 19, 20 and 25."""
    config = preset("tiny").replace(weight_bits=weight_bits)
    assert multipliers(config, "ecp5") == 8 * each + 4 * 2 * 5


@pytest.mark.parametrize("name, target", [("ese", "ooc"), ("ku060", "ooc"), ("demo", "kcu105"), ("demo", "kv260"),
                                          ("tiny", "pynq-z2"), ("ulx3s", "ulx3s"), ("kv260", "kv260")])
def test_a_machine_that_fits(name, target):
    check_fits(preset(name), target)


@pytest.mark.parametrize("name, target, reason", [
    ("ese", "kcu105", "machine 'ese' does not fit the XCKU040 of the KCU105: it takes 833 block RAMs, 233 more than "
                      "the FPGA's 600. Presets that fit: tiny, demo, ulx3s"),
    ("ku115", "ooc", "does not fit the XCKU060: it takes 1,473.5 block RAMs, 393.5 more than the FPGA's 1,080"),
    ("ese", "ulx3s", "it takes 1,673 block RAMs, 1,465 more than the FPGA's 208 and 1,344 multipliers, 1,188 more ")])
def test_a_machine_that_does_not_fit_is_refused_with_what_is_short(tmp_path, name, target, reason):
    folder = tmp_path / "folder"
    with pytest.raises(TargetError, match=reason.replace("(", r"\(")):
        build(name, folder, target)
    assert not folder.exists()


def test_targets_without_an_fpga_take_any_machine():
    assert FPGAS.keys() == {"ooc", "kcu105", "kv260", "pynq-z2", "ulx3s"}
    check_fits(preset("latency"), "verilog")
    check_fits(preset("latency"), "ip")


def test_another_preset_or_target_is_named(tmp_path):
    with pytest.raises(ValueError, match="no preset 'esse'; there are tiny, demo, ese"):
        build("esse", tmp_path)
    with pytest.raises(ValueError, match="no target 'ku105'; there are verilog, ooc"):
        build("ese", tmp_path, "ku105")
