# SPDX-License-Identifier: Apache-2.0
"""What a format costs, measured for many at once, against one after the other by its definition."""

import dataclasses

import numpy as np
import pytest
from models import random_model, speech_like

from openese.rtl.config import preset
from openese.rtl.fixed import saturate, to_fixed
from openese.sw.model.layers import GATES, Model
from openese.sw.prune import prune
from openese.sw.quantize import calibrate
from openese.sw.quantize.calibrate import Change, FormatCosts, record, segments, symmetric
from openese.sw.reference import floating, products

TINY = preset("tiny")


def rounded(values, fraction):
    return np.ldexp(symmetric(values, fraction, TINY.weight_bits).astype(float), -fraction)


def cost_by_definition(layer, run, change):
    """Run the layer with one tensor replaced by what its format makes of it."""
    x = run.x
    if change.tensor == "x":
        x = np.ldexp(saturate(to_fixed(x, change.fraction), TINY.activation_bits - 1).astype(float), -change.fraction)
    else:
        values = np.array(getattr(layer, change.tensor), np.float64)
        part = ... if change.tensor == "w_ym" else change.gate
        values[part] = rounded(values[part], change.fraction)
        layer = dataclasses.replace(layer, **{change.tensor: values})
    return np.mean((floating.run(Model(layers=(layer,)), x)[0] - run.y) ** 2)


@pytest.fixture(params=["dense", "sparse"])
def kind(request, monkeypatch):
    monkeypatch.setattr(products, "SPARSE_SIZE", 0 if request.param == "sparse" else 1 << 60)
    return request.param


@pytest.mark.parametrize("held", [1, 2000, 1 << 24], ids=["alone", "some at once", "all at once"])
@pytest.mark.parametrize("cells", [24, (32, 16)], ids=["plain", "projection"])
def test_costs_equal_their_definition(kind, held, cells, monkeypatch):
    monkeypatch.setattr(calibrate, "_BATCH_NUMBERS", held)
    model = random_model(1, 20, cells, peephole=True, scale=2)
    if kind == "sparse":
        model = prune(model, 0.14, 4)
    layer = model.layers[0]
    run = record(model, speech_like(1, 30, 3, 20))[0]
    costs = FormatCosts(layer, run, TINY)
    changes = [Change(tensor, gate, fraction) for tensor in ("w_x", "w_r") for gate in range(len(GATES))
               for fraction in (7, 9, 11)]
    changes += [Change("x", 0, fraction) for fraction in (8, 14)]
    if layer.w_ym is not None:
        changes += [Change("w_ym", 0, fraction) for fraction in (8, 10)]
    costs.measure(changes)
    for change in changes:
        assert costs.cost(change) == pytest.approx(cost_by_definition(layer, run, change), rel=1e-9)


def test_what_changes_nothing_costs_nothing():
    """Not even what float64 rounds differently with other vectors beside."""
    model = random_model(2, 20, (32, 16))
    costs = FormatCosts(model.layers[0], record(model, np.zeros((20, 3, 20)))[0], TINY)
    changes = [Change("w_x", gate, 3) for gate in range(len(GATES))]
    costs.measure(changes)
    assert [costs.cost(change) for change in changes] == [0] * len(GATES)
    assert costs.cost(Change("w_r", 0, 3)) > 0


def test_row_sums(kind):
    model = prune(random_model(3, 20, (32, 16)), 0.14, 4)
    layer = model.layers[0]
    costs = FormatCosts(layer, record(model, speech_like(1, 3, 1, 20))[0], TINY)
    for change, values in ((Change("w_r", 2, 12), layer.w_r[2]), (Change("w_ym", 0, 10), layer.w_ym)):
        expected = np.abs(symmetric(values, change.fraction, TINY.weight_bits)).sum(axis=1)
        np.testing.assert_array_equal(costs.row_sums(change), expected)


def test_segments_spread_over_all_frames():
    frames = np.arange(200 * 3 * 2).reshape(200, 3, 2)
    model = random_model(1, 2, 4)
    pieces = segments(model, frames, np.full(3, 200))
    assert pieces.shape == (64, 9, 2)
    np.testing.assert_array_equal(pieces[:, 0], frames[:64, 0])
    np.testing.assert_array_equal(pieces[:, -1], frames[128:192, 2])
    assert segments(model, np.zeros((640, 4, 2)), np.full(4, 640)).shape == (64, 16, 2)
    assert segments(model, np.zeros((3, 40, 2)), np.full(40, 3)).shape == (3, 16, 2)


def test_large_models_get_fewer_segments(monkeypatch):
    model = random_model(1, 2, 4, 5)
    weights = max(layer.weights for layer in model.layers)
    for budget, pieces in ((5 * 64 * weights, 5), (5 * 64 * weights - 1, 4), (1, 1)):
        monkeypatch.setattr(calibrate, "SEGMENT_PRODUCTS", budget)
        assert segments(model, np.zeros((640, 4, 2)), np.full(4, 640)).shape == (64, pieces, 2)
