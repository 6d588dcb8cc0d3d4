# SPDX-License-Identifier: Apache-2.0
"""What a format costs, measured for many at once, against one after the other by its definition."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from models import random_model, speech_like

from openese.rtl.config import preset
from openese.rtl.fixed import saturate, to_fixed
from openese.sw.model.layers import GATES, Model
from openese.sw.model.state import LayerState, initial_state
from openese.sw.prune import prune
from openese.sw.quantize import calibrate
from openese.sw.quantize.calibrate import Change, FormatCosts, ranges, record, segments, symmetric
from openese.sw.reference import floating, products

TINY = preset("tiny")


def rounded(values, fraction):
    return np.ldexp(symmetric(values, fraction, TINY.weight_bits).astype(float), -fraction)


def recording(model, x, state=None):
    return record(model, x, tuple(initial_state(model, x.shape[1])) if state is None else state)[0]


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
    return np.mean((floating.run(Model(layers=(layer,)), x, [run.before])[0] - run.y) ** 2)


@pytest.fixture(params=["dense", "sparse"])
def kind(request, monkeypatch):
    monkeypatch.setattr(products, "SPARSE_SIZE", 0 if request.param == "sparse" else 1 << 60)
    return request.param


@pytest.mark.parametrize("held", [1, 2000, 1 << 24], ids=["alone", "some at once", "all at once"])
@pytest.mark.parametrize("cells", [24, (32, 16), ("gru", 24), ("before", 24)], ids=str)
@pytest.mark.parametrize("start", [0.0, 1.5], ids=["from zero", "from a state"])
def test_costs_equal_their_definition(kind, held, cells, start, monkeypatch):
    monkeypatch.setattr(calibrate, "_BATCH_NUMBERS", held)
    model = random_model(1, 20, cells, peephole=True, scale=2)
    if kind == "sparse":
        model = prune(model, 0.14, 4)
    layer = model.layers[0]
    rng = np.random.default_rng(1)
    state = LayerState(*(start * rng.normal(size=(3, size)) for size in (layer.cells, layer.outputs)))
    run = recording(model, speech_like(1, 30, 3, 20), (state,))
    costs = FormatCosts(layer, run, TINY)
    changes = [Change(tensor, gate, fraction) for tensor in ("w_x", "w_r") for gate in range(len(layer.gates))
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
    costs = FormatCosts(model.layers[0], recording(model, np.zeros((20, 3, 20))), TINY)
    changes = [Change("w_x", gate, 3) for gate in range(len(GATES))]
    costs.measure(changes)
    assert [costs.cost(change) for change in changes] == [0] * len(GATES)
    assert costs.cost(Change("w_r", 0, 3)) > 0


def test_row_sums(kind):
    model = prune(random_model(3, 20, (32, 16)), 0.14, 4)
    layer = model.layers[0]
    costs = FormatCosts(layer, recording(model, speech_like(1, 3, 1, 20)), TINY)
    for change, values in ((Change("w_r", 2, 12), layer.w_r[2]), (Change("w_ym", 0, 10), layer.w_ym)):
        expected = np.abs(symmetric(values, change.fraction, TINY.weight_bits)).sum(axis=1)
        np.testing.assert_array_equal(costs.row_sums(change), expected)


def test_segments_spread_over_all_frames():
    frames = np.arange(200 * 3 * 2).reshape(200, 3, 2)
    model = random_model(1, 2, 4)
    pieces = segments(model, np.full(3, 200)).of(frames)
    assert pieces.shape == (64, 9, 2)
    np.testing.assert_array_equal(pieces[:, 0], frames[:64, 0])
    np.testing.assert_array_equal(pieces[:, -1], frames[128:192, 2])
    assert segments(model, np.full(4, 640)).of(np.zeros((640, 4, 2))).shape == (64, 16, 2)
    assert segments(model, np.full(40, 3)).of(np.zeros((3, 40, 2))).shape == (3, 16, 2)


def test_segments_begin_in_the_initial_state_of_their_sequence():
    """And within a sequence from zero, as a voice does that joins there."""
    model = random_model(1, 2, (4, 3), 5)
    state = tuple(LayerState(np.arange(3)[:, None] + np.ones((3, layer.cells)), np.full((3, layer.outputs), 7.0))
                  for layer in model.layers)
    pieces = segments(model, np.array([130, 64, 63]))
    np.testing.assert_array_equal(np.transpose([pieces.voice, pieces.start]), [[0, 0], [0, 64], [1, 0]])
    for number, layer in enumerate(pieces.begin(state)):
        np.testing.assert_array_equal(layer.c[:, 0], [1, 0, 2])
        np.testing.assert_array_equal(layer.y[:, 0], [7, 0, 7])
        assert layer.c.shape[1] == model.layers[number].cells and layer.y.shape[1] == model.layers[number].outputs


def test_ranges_hold_the_initial_states():
    model = random_model(1, 2, (4, 3), 5)
    x, lengths = speech_like(1, 20, 3, 2), np.array([20, 0, 11])
    zero = tuple(initial_state(model, 3))
    for tensor, value in (("c", 40.0), ("c", -40.0), ("y", 9.0)):
        state = zero[0]._replace(**{tensor: zero[0]._asdict()[tensor] + np.array([[0], [value], [0]])})
        seen = ranges(model, x, lengths, (state, zero[1]))
        # Voice 1 computes nothing, but starts there.
        assert seen[0][tensor].peak == abs(value)
        assert seen[1] == ranges(model, x, lengths, zero)[1]


def test_large_models_get_fewer_segments(monkeypatch):
    model = random_model(1, 2, 4, 5)
    weights = max(layer.weights for layer in model.layers)
    for budget, pieces in ((5 * 64 * weights, 5), (5 * 64 * weights - 1, 4), (1, 1)):
        monkeypatch.setattr(calibrate, "SEGMENT_PRODUCTS", budget)
        assert len(segments(model, np.full(4, 640)).voice) == pieces


def test_four_million_weights_have_all_segments():
    for weights, pieces in ((1 << 22, 16), ((1 << 22) + 1, 15), (1 << 26, 1), (1 << 40, 1)):
        model = SimpleNamespace(layers=(SimpleNamespace(weights=weights), SimpleNamespace(weights=5)))
        assert len(segments(model, np.full(4, 640)).voice) == pieces


def test_one_bit_of_x_stays_free():
    """3.0 in half the range of 16 bits has 12 fraction bits; 1.0, which all but one percent do not exceed, has 13."""
    model = random_model(4, 20, 8)
    x = np.where(np.arange(600).reshape(10, 3, 20) % 2, -1.0, 1.0)
    costs = FormatCosts(model.layers[0], recording(model, x), TINY)
    assert costs.input_fractions(3.0) == range(12, 14)


@pytest.mark.parametrize("tensor, size", [("x", 5 * 3 * 4 * 8), ("w_x", 5 * 3 * 8), ("w_r", 8 * 6), ("w_ym", 6 * 8)])
def test_as_many_costs_as_memory_holds_are_measured_at_once(tensor, size, monkeypatch):
    """Of 5 steps of 3 voices through 8 cells: the numbers that a change adds to products, or to its matrix."""
    model = random_model(5, 20, (8, 6))
    run = recording(model, speech_like(5, 5, 3, 20))
    for limit, sizes in ((3 * size, [3, 3, 1]), (3 * size - 1, [2, 2, 2, 1]), (1, [1] * 7)):
        monkeypatch.setattr(calibrate, "_BATCH_NUMBERS", limit)
        costs, batches = FormatCosts(model.layers[0], run, TINY), []
        monkeypatch.setattr(costs, "_measured",
                            lambda batch, seen=batches: seen.append(len(batch)) or [0.0] * len(batch))
        costs.measure([Change(tensor, 0, fraction) for fraction in range(7)])
        assert batches == sizes
