# SPDX-License-Identifier: Apache-2.0
"""Config: what follows from what."""

import pytest

from openese.rtl.config import PRESETS, Config, preset


@pytest.mark.parametrize(("changes", "slices", "width"), [
    ({"pes": 16}, 16, 2), ({"pes": 16, "groups": 2}, 8, 2), ({"channels": 1}, 4, 1), ({"pes": 1, "channels": 1}, 1, 1),
    ({"pes": 16, "slices": 2}, 2, 2), ({"slice_width": 1}, 4, 1)])
def test_slices_follow_unless_they_are_given(changes, slices, width):
    config = preset("tiny").replace(**changes)
    assert (config.slices, config.slice_width) == (slices, width)


def test_slices_that_were_given_stay():
    config = Config(name="wide", pes=4, channels=2, slices=1, slice_width=4).replace(pes=8)
    assert (config.slices, config.slice_width) == (1, 4)


@pytest.mark.parametrize(("groups", "channels", "bits", "columns"), [
    (1, 64, 18, 1), (2, 32, 16, 2), (2, 32, 17, 1), (8, 1, 16, 8), (8, 8, 18, 4), (8, 64, 16, 1), (4, 64, 8, 2)])
def test_a_beat_has_a_column_of_each_group_up_to_1024_bits(groups, channels, bits, columns):
    config = preset("tiny").replace(pes=64, groups=groups, channels=channels, activation_bits=bits)
    assert config.beat_columns == columns


def test_a_machine_says_which_cells_it_has():
    config = preset("tiny")
    assert (config.cells, "cells" in config.fields()) == ("lstm", False)
    both = config.replace(cells="lstm+gru")
    assert both.fields()["cells"] == "lstm+gru" and both.fingerprint != config.fingerprint
    with pytest.raises(ValueError, match=r"^Config cells must be one of lstm, lstm\+gru, .+, not 'gru'$"):
        config.replace(cells="gru")
    with pytest.raises(ValueError, match="^Config cell_bits must be at least 24 with cells 'lstm[+]gru', not 23$"):
        both.replace(cell_bits=23)


def test_accumulators_are_in_up_to_three_kinds_of_memory():
    config = preset("tiny").replace(channels=8, accumulator_rows=144, lut_channels=3, ultra_channels=4)
    assert config.block_channels == 1 and config.count_bits == 8
    assert not {"lut_channels", "ultra_channels"} & preset("tiny").fields().keys()
    assert config.fingerprint != config.replace(lut_channels=2).fingerprint
    assert config.replace(ultra_weights=1).ultra_weights is True
    with pytest.raises(ValueError, match="^Config ultra_weights must be true or false, not 'yes'$"):
        config.replace(ultra_weights="yes")
    with pytest.raises(ValueError, match="^Config block_weights must be between 0 and 0, not 1$"):
        preset("tiny").replace(block_weights=1)
    assert preset("tiny").replace(slices=1, ultra_weights=True, block_weights=3).tile_pes == 4
    with pytest.raises(ValueError, match="^Config block_weights must be between 0 and 3, not 4$"):
        preset("tiny").replace(slices=1, ultra_weights=True, block_weights=4)
    with pytest.raises(ValueError, match="^Config accumulator_rows must be a multiple of 16, not 136$"):
        config.replace(accumulator_rows=136)
    with pytest.raises(ValueError, match="^Config ultra_channels must be between 0 and 5, not 6$"):
        config.replace(ultra_channels=6)


@pytest.mark.parametrize("name", PRESETS)
def test_a_copy_without_changes_is_the_same_machine(name):
    assert preset(name).replace(name="copy").fingerprint == preset(name).fingerprint
