# SPDX-License-Identifier: Apache-2.0
"""The float reference against the paper's equations, one number at a time."""

from math import exp, tanh

import numpy as np
import pytest
from models import random_model

from openese.sw.model.quantized import sigmoid
from openese.sw.model.state import LayerState
from openese.sw.reference.floating import run


def scalar_step(layer, x, c, y):
    """One step of one voice, as the paper prints it."""
    def logistic(z):
        return 1 / (1 + exp(-z))

    def dot(weights, values):
        return sum(float(w) * v for w, v in zip(weights, values, strict=True))

    new_c, m = [], []
    for h in range(layer.cells):
        z = [dot(layer.w_x[k, h], x) + dot(layer.w_r[k, h], y) + float(layer.bias[k, h]) for k in range(4)]
        of_i, of_f, of_o = (0, 0, 0) if layer.peephole is None else layer.peephole[:, h]
        i, f = logistic(z[0] + of_i * c[h]), logistic(z[1] + of_f * c[h])
        g = tanh(z[2]) if layer.g_activation == "tanh" else logistic(z[2])
        new_c.append(f * c[h] + i * g)
        m.append(logistic(z[3] + of_o * new_c[h]) * tanh(new_c[h]))
    return new_c, m if layer.w_ym is None else [dot(row, m) for row in layer.w_ym]


@pytest.mark.parametrize("layers", [(4,), ((5, 3),), ((5, 3), 4, (3, 2))])
@pytest.mark.parametrize("peephole", [False, True])
@pytest.mark.parametrize("g_activation", ["tanh", "sigmoid"])
def test_equals_the_paper(layers, peephole, g_activation):
    model = random_model(1, 3, *layers, peephole=peephole, g_activation=g_activation, scale=3)
    rng = np.random.default_rng(2)
    frames = rng.normal(size=(6, 2, 3))
    state = [LayerState(rng.normal(size=(2, layer.cells)), rng.normal(size=(2, layer.outputs)))
             for layer in model.layers]
    y, after = run(model, frames, state)
    for voice in range(2):
        now = [(c[voice].tolist(), of_y[voice].tolist()) for c, of_y in state]
        for t in range(6):
            x = frames[t, voice].tolist()
            for number, layer in enumerate(model.layers):
                now[number] = scalar_step(layer, x, *now[number])
                x = now[number][1]
            np.testing.assert_allclose(y[t, voice], x, atol=1e-13)
        for (c, of_y), expected in zip(after, now, strict=True):
            np.testing.assert_allclose(c[voice], expected[0], atol=1e-13)
            np.testing.assert_allclose(of_y[voice], expected[1], atol=1e-13)


def test_goes_on_from_its_state():
    model = random_model(3, 3, (5, 2), 4, peephole=True)
    frames = np.random.default_rng(3).normal(size=(9, 2, 3))
    whole, end = run(model, frames)
    first, state = run(model, frames[:4])
    second, final = run(model, frames[4:], state)
    np.testing.assert_array_equal(np.concatenate([first, second]), whole)
    np.testing.assert_array_equal(final[1].c, end[1].c)


def test_sigmoid_never_overflows():
    with np.errstate(all="raise"):
        np.testing.assert_array_equal(sigmoid([-1e300, -1e4, 0, 1e4, 1e300]), [0, 0, 0.5, 1, 1])


def test_wrong_shapes_are_named():
    model = random_model(4, 3, (5, 2))
    with pytest.raises(ValueError, match=r"^frames: expected shape \(T, B, 3\), found \(2, 3\)$"):
        run(model, np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"^state: expected 1 layers, found 0$"):
        run(model, np.zeros((2, 1, 3)), [])
    with pytest.raises(ValueError, match=r"of layer 'lstm0', y: expected shape \(1, 2\), found \(2, 2\)"):
        run(model, np.zeros((2, 1, 3)), [LayerState(np.zeros((1, 5)), np.zeros((2, 2)))])
