# SPDX-License-Identifier: Apache-2.0
"""Other weights in the formats of a quantized model, and the format of the cell state."""

from dataclasses import replace

import numpy as np
import pytest
from machines import TINY
from models import random_model, speech_like

from openese.sw.quantize.choose import QuantizeError, quantize, requantize
from openese.sw.reference.floating import run

ARRAYS = ("w_x", "w_r", "w_ym", "bias", "peephole")


@pytest.fixture(scope="module")
def model():
    return random_model(3, 5, (9, 6), 7, peephole=True)


@pytest.fixture(scope="module")
def quantized(model):
    return quantize(model, speech_like(1, 20, TINY.channels, 5), TINY)


def test_the_same_weights_give_the_same_integers(model, quantized):
    again = requantize(model, quantized)
    assert again.report is None and again.name == model.name
    for layer, before in zip(again.layers, quantized.layers, strict=True):
        for name in ARRAYS:
            np.testing.assert_array_equal(getattr(layer, name), getattr(before, name))


def test_weights_beyond_a_format_are_clamped(model, quantized):
    first = replace(model.layers[0], bias=model.layers[0].bias + 1e9)
    again = requantize(replace(model, layers=(first, *model.layers[1:])), quantized)
    assert (again.layers[0].bias == (1 << TINY.argument_bits - 1) - 1).all()
    np.testing.assert_array_equal(again.layers[1].bias, quantized.layers[1].bias)


def test_other_layers_are_refused(model, quantized):
    with pytest.raises(QuantizeError, match="has 1 layers, the quantized one 2"):
        requantize(replace(model, layers=model.layers[:1]), quantized)
    with pytest.raises(QuantizeError, match="expected shape"):
        requantize(random_model(3, 5, (9, 5), 7, peephole=True), quantized)


@pytest.mark.parametrize("scale", [0.01, 1.0, 4.0])
def test_the_cell_state_has_the_finest_format_with_headroom(scale):
    """Eight times the largest cell state that was seen, and no coarser format than that needs."""
    model = random_model(4, 5, 9, scale=scale)
    x = speech_like(1, 30, TINY.channels, 5)
    layer = quantize(model, x, TINY).layers[0]
    peak = max(np.abs(run(model, x[:length])[1][0].c).max() for length in range(1, len(x) + 1))
    finest = TINY.cell_fraction_max

    def holds(select):
        return 8 * peak * 2.0 ** (finest - select) < 1 << TINY.cell_bits - 1
    assert holds(layer.cell_select)
    assert layer.cell_select == 0 or not holds(layer.cell_select - 1)
