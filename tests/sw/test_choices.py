# SPDX-License-Identifier: Apache-2.0
"""The formats that the quantizer chooses, against their definition, by trying all of them."""

import dataclasses
from itertools import product

import numpy as np
import pytest
from machines import TINY
from models import random_model, speech_like

from openese.rtl.activation import Activation
from openese.rtl.fixed import saturate, to_fixed
from openese.sw.model.layers import Model
from openese.sw.model.quantized import activation_table, argument_fraction, m_fraction, row_limit
from openese.sw.model.state import initial_state
from openese.sw.quantize import choose
from openese.sw.quantize.calibrate import Change, FormatCosts, max_fraction, record, segments
from openese.sw.quantize.choose import QuantizeError, quantize
from openese.sw.reference import floating

TENSORS = ("w_x", "w_r")


def one_layer(seed, cells=(12, 8), inputs=10, **scales):
    """A model of one layer, whose tensors are multiplied by ``scales``."""
    layer = random_model(seed, inputs, cells, peephole=True).layers[0]
    return Model(layers=(dataclasses.replace(layer, **{name: getattr(layer, name) * scale
                                                      for name, scale in scales.items()}),))


def recorded(model, frames):
    lengths = np.full(frames.shape[1], len(frames))
    pieces = segments(model, lengths)
    return record(model, pieces.of(frames), pieces.begin(tuple(initial_state(model, frames.shape[1]))))[0]


class Choice:
    """All formats of a layer, by definition."""

    def __init__(self, model, frames, config, tables):
        self.layer, self.config = model.layers[0], config
        self.recording = recorded(model, frames)
        self.costs = FormatCosts(self.layer, self.recording, config)
        self.frames = frames
        of_sigmoid, of_tanh = (argument_fraction(config, table) for table in tables)
        self.arguments = [of_sigmoid, of_sigmoid, of_tanh if self.layer.g_activation == "tanh" else of_sigmoid,
                          of_sigmoid]

    def cheapest(self, tensor, gate):
        """The binary point of least cost, or None for a matrix of zeros."""
        changes = self.costs.weight_changes(tensor, gate)
        return min(changes, key=self.costs.cost).fraction if changes else None

    def sums(self, tensor, gate, fraction):
        """Magnitudes of the integers of each row."""
        return self.costs.row_sums(Change(tensor, gate, fraction))

    def output(self):
        """Binary points of w_ym and y."""
        of_m, bits = m_fraction(self.config), self.config.activation_bits
        if self.layer.w_ym is None:
            return None, of_m
        wanted = max_fraction(2 * np.abs(self.recording.y).max(), bits)
        cheapest = self.cheapest("w_ym", 0)
        fraction = next(fraction for fraction in range(wanted + 31 - of_m, -99, -1)
                        if (cheapest is None or fraction <= cheapest)
                        and self.sums("w_ym", 0, fraction).max() < row_limit(self.config))
        return fraction, min(wanted, fraction + of_m)

    def gate(self, gate, inputs):
        """Cost, fractions and aligns of the gate's matrices, or None if their products cannot meet."""
        best = [self.cheapest(tensor, gate) for tensor in TENSORS]
        tried = [range(-20, 40) if one is None else range(one - 16, one + 17) for one in best]
        feasible = {}
        for shift, *aligns in product(range(32), *[range(1 << self.config.align_bits)] * 2):
            fractions = [self.arguments[gate] + shift - of_input - align
                         for of_input, align in zip(inputs, aligns, strict=True)]
            away = tuple(0 if one is None else own - one for own, one in zip(fractions, best, strict=True))
            if away in feasible or not all(own in some for own, some in zip(fractions, tried, strict=True)):
                continue
            if any(one is None and align for one, align in zip(best, aligns, strict=True)):
                continue  # zeros have the accumulator's binary point
            rows = sum(self.sums(tensor, gate, own) << align
                       for tensor, own, align in zip(TENSORS, fractions, aligns, strict=True))
            if rows.max() < row_limit(self.config):
                feasible[away] = fractions, aligns
        nearest = [found for away, found in feasible.items() if not any(
            other != away and all(min(one, 0) <= between <= max(one, 0)
                                  for one, between in zip(away, other, strict=True)) for other in feasible)]
        costs = [sum(self.costs.cost(Change(tensor, gate, own)) for tensor, own, one in zip(
            TENSORS, fractions, best, strict=True) if one is not None) for fractions, _ in nearest]
        return min(zip(costs, nearest, strict=True), key=lambda pair: pair[0], default=None)

    def all(self):
        """By name, what the quantized layer must have."""
        w_ym_fraction, y_fraction = self.output()
        options = {}
        for x_fraction in self.costs.input_fractions(np.abs(self.frames).max()):
            gates = [self.gate(gate, (x_fraction, y_fraction)) for gate in range(4)]
            if all(gates):
                options[x_fraction] = gates
        costs = {x: self.costs.cost(Change("x", 0, x)) + sum(cost for cost, _ in gates)
                 for x, gates in options.items()}
        x_fraction = next(x for x, cost in costs.items() if cost <= 1.1 * min(costs.values()))
        chosen = [found for _, found in options[x_fraction]]
        return {"x_fraction": x_fraction, "y_fraction": y_fraction, "w_ym_fraction": w_ym_fraction,
                "w_x_fraction": tuple(fractions[0] for fractions, _ in chosen),
                "w_r_fraction": tuple(fractions[1] for fractions, _ in chosen),
                "align_x": tuple(aligns[0] for _, aligns in chosen),
                "align_r": tuple(aligns[1] for _, aligns in chosen)}


def overflowing():
    """Rows of full scale in w_x, which must lose bits beside w_r."""
    model = one_layer(11, 6, inputs=700)
    rng = np.random.default_rng(11)
    layer = dataclasses.replace(model.layers[0], w_x=rng.choice([-0.1, 0.1], model.layers[0].w_x.shape))
    return Model(layers=(layer,))


def with_peaks(quiet):
    """Frames with a few values of 1 in the first input, where other inputs are ``quiet``."""
    frames = speech_like(9, 64, 4, 10) * quiet
    frames[..., 0] = np.random.default_rng(9).random((64, 4)) < 0.05
    return frames


CASES = {
    "projection": (lambda: one_layer(1), speech_like(1, 40, 3, 10), {}),
    "plain": (lambda: one_layer(2, 9), speech_like(2, 40, 3, 10), {}),
    "far apart": (lambda: one_layer(3, 9, w_r=1 / 8, w_x=1 / 20), speech_like(3, 40, 3, 10) * 2000, {}),
    "far apart, projection": (lambda: one_layer(4, w_x=1 / 300), speech_like(4, 40, 3, 10) * 1000, {}),
    "the other way": (lambda: one_layer(5, w_x=100), speech_like(5, 40, 3, 10) / 1000, {}),
    "no w_r": (lambda: one_layer(6, w_r=0), speech_like(6, 40, 3, 10), {}),
    "no w_x": (lambda: one_layer(7, w_x=0), speech_like(7, 40, 3, 10), {}),
    "no w_ym": (lambda: one_layer(7, w_ym=0), speech_like(7, 40, 3, 10), {}),
    "small w_ym": (lambda: one_layer(8, w_ym=1e-3), speech_like(8, 40, 3, 10), {}),
    "overflow": (overflowing, speech_like(11, 20, 2, 700) / 10, {}),
    "peaks of x": (lambda: one_layer(9, 9, w_x=300), with_peaks(0.02), {"activation_bits": 10}),
    "peaks of x, few weight bits": (lambda: one_layer(9, 9), with_peaks(0.02), {"weight_bits": 4}),
    "many weight bits": (lambda: one_layer(10), speech_like(10, 40, 3, 10), {"weight_bits": 17}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_formats_are_those_of_the_definition(case):
    make, frames, widths = case
    model, config = make(), TINY.replace(**widths)
    quantized = quantize(model, frames, config)
    assert not quantized.layers[0].x_exponents
    wanted = Choice(model, frames, config, (quantized.sigmoid_range, quantized.tanh_range)).all()
    assert {name: getattr(quantized.layers[0], name) for name in wanted} == wanted


@pytest.mark.parametrize("make, frames", [(overflowing, CASES["overflow"][1]),
                                          (lambda: one_layer(1, w_ym=50), CASES["projection"][1])],
                         ids=["gates", "projection"])
def test_a_row_may_reach_the_limit_but_for_one(make, frames, monkeypatch):
    """With a limit of the largest row itself, the same formats overflow."""
    model = make()
    kept = quantize(model, frames, TINY).layers[0]
    choice = Choice(model, frames, TINY, (4, 3))
    if kept.w_ym is None:
        sums = [choice.sums("w_x", gate, kept.w_x_fraction[gate]) << kept.align_x[gate]
                for gate in range(4)]
        sums = np.max([of_x + (choice.sums("w_r", gate, kept.w_r_fraction[gate]) << kept.align_r[gate])
                       for gate, of_x in enumerate(sums)])
    else:
        sums = choice.sums("w_ym", 0, kept.w_ym_fraction).max()

    def fractions(limit):
        monkeypatch.setattr(choose, "row_limit", lambda config: int(limit))
        found = choose._choose(model, np.asarray(frames, float), np.full(frames.shape[1], len(frames)),
                               tuple(initial_state(model, frames.shape[1])), TINY, 4, 3)[0][0]
        return found.w_ym_fraction if kept.w_ym is not None else found.w_x_fraction + found.align_x

    assert fractions(sums + 1) != fractions(sums)


@pytest.mark.parametrize("seed, peephole", [(1, 1e-3), (2, 1.0), (3, 30.0), (4, 1e5)])
def test_peepholes_have_as_many_fraction_bits_as_fit(seed, peephole):
    model = one_layer(seed, peephole=peephole)
    quantized = quantize(model, speech_like(seed, 20, 2, 10), TINY)
    layer, fraction = quantized.layers[0], quantized.formats[0].peephole_fraction
    peak, limit = np.abs(model.layers[0].peephole).max(), 2 ** (TINY.peephole_bits - 1) - 1
    assert layer.peephole_select == 0 or peak * 2.0 ** fraction <= limit
    assert layer.peephole_select == 7 or peak * 2.0 ** (fraction + 1) > limit
    np.testing.assert_array_equal(layer.peephole, saturate(to_fixed(model.layers[0].peephole, fraction),
                                                           TINY.peephole_bits))


def test_the_layer_below_decides_about_x():
    model = random_model(6, 10, (12, 8), (9, 5), 7)
    layers = quantize(model, speech_like(6, 20, 2, 10), TINY).layers
    assert [layer.x_fraction for layer in layers[1:]] == [layer.y_fraction for layer in layers[:-1]]


@pytest.mark.parametrize("g_activation", ["tanh", "sigmoid"])
def test_errors_of_tables_are_those_of_their_definition(g_activation):
    """On all arguments that the frames make, with biases beyond the narrow tables."""
    model = random_model(5, 10, 8, 6, g_activation=g_activation)
    model = Model(layers=tuple(dataclasses.replace(layer, bias=30 * layer.bias) for layer in model.layers))
    frames = speech_like(5, 30, 2, 10)
    report = quantize(model, frames, TINY).report
    lengths, start = np.full(2, 30), tuple(initial_state(model, 2))
    pieces = segments(model, lengths)
    runs = record(model, pieces.of(frames), pieces.begin(start))
    for function, exact, ranges in (("sigmoid", floating.sigmoid, range(4, 8)), ("tanh", np.tanh, range(3, 8))):
        assert list(report.table_errors[function]) == [str(one) for one in ranges]
        for table_range in ranges:
            table = activation_table(function, table_range, TINY)
            errors = []
            for layer, run in zip(model.layers, runs, strict=True):
                parts = [(run.z[:, gate], layer.bias[gate]) for gate in range(4)
                         if (function == "tanh") == (gate == 2 and g_activation == "tanh")]
                parts += [(run.c, np.zeros(layer.cells))] * (function == "tanh")
                for z, bias in parts:
                    held = z - bias + np.clip(bias, -2.0 ** table_range, 2.0 ** table_range)
                    argument = saturate(to_fixed(held, argument_fraction(TINY, table_range)), TINY.argument_bits)
                    value = Activation.model(TINY, table, argument.ravel()) / 2.0 ** TINY.gate_fraction
                    errors.append(value - exact(z.ravel()))
            error = np.sqrt(np.mean(np.concatenate(errors) ** 2))
            assert report.table_errors[function][str(table_range)] == pytest.approx(error, rel=1e-6)


@pytest.mark.parametrize("bias, narrowest", [(0, 4), (40, 6), (100, 7)])
def test_a_bias_beyond_a_table_widens_it(bias, narrowest):
    """A forget gate that is closed by its bias and opened by x."""
    layer = random_model(7, 8, 12).layers[0]
    open_again = np.full_like(layer.w_x[1], bias / 8)
    layer = dataclasses.replace(layer, bias=layer.bias - [[0], [bias], [0], [0]],
                                w_x=np.stack([layer.w_x[0], open_again, *layer.w_x[2:]]) if bias else layer.w_x)
    quantized = quantize(Model(layers=(layer,)), np.abs(speech_like(7, 40, 3, 8)), TINY)
    assert quantized.sigmoid_range == narrowest


@pytest.mark.parametrize("arguments, message", [
    ({"lengths": [20, 21]}, "lengths: expected 2 whole numbers of 0 to 20"),
    ({"initial": initial_state(one_layer(1), 3)}, "initial states of model .* are for 3 voices, but the frames have 2"),
])
def test_wrong_lengths_and_states_are_named(arguments, message):
    with pytest.raises(QuantizeError, match=message):
        quantize(one_layer(1), np.zeros((20, 2, 10)), TINY, **arguments)
