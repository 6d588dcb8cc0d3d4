# SPDX-License-Identifier: Apache-2.0
"""The float reference against the paper's equations, one number at a time."""

import dataclasses
from math import exp, tanh

import numpy as np
import pytest
from models import random_gru, random_layer, random_model

from openese.sw.model.layers import Model
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


def gru_step(layer, x, h):
    """One step of a GRU, gate by gate, as ONNX writes it."""
    (w_r, w_z, w_n), (r_r, r_z, r_n), (b_r, b_z, b_n) = layer.w_x, layer.w_r, layer.bias
    r = 1 / (1 + np.exp(-(w_r @ x + r_r @ h + b_r)))
    z = 1 / (1 + np.exp(-(w_z @ x + r_z @ h + b_z)))
    n = np.tanh(w_n @ x + b_n + (r * (r_n @ h + layer.bias_rn) if layer.reset_after else r_n @ (r * h)))
    return (1 - z) * n + z * h


@pytest.mark.parametrize("reset_after", [False, True])
def test_gru_equals_its_equations(reset_after):
    rng = np.random.default_rng(5)
    model = Model(layers=(random_gru(rng, "a", 3, 5, reset_after=reset_after, scale=3), random_layer(rng, "b", 5, 4, 3),
                          random_gru(rng, "c", 3, 2, reset_after=reset_after, scale=3)))
    frames = rng.normal(size=(6, 2, 3))
    held = [rng.normal(size=(2, layer.cells)) for layer in model.layers]
    state = [LayerState(h, h if layer.cell == "gru" else rng.normal(size=(2, layer.outputs)))
             for h, layer in zip(held, model.layers, strict=True)]
    y, after = run(model, frames, state)
    for voice in range(2):
        now = [[part[voice] for part in layer] for layer in state]
        for t in range(6):
            x = frames[t, voice]
            for number, layer in enumerate(model.layers):
                if layer.cell == "gru":
                    now[number] = [gru_step(layer, x, now[number][1])] * 2
                else:
                    now[number] = [np.array(part) for part in scalar_step(layer, x, *now[number])]
                x = now[number][1]
            np.testing.assert_allclose(y[t, voice], x, atol=1e-13)
        for (c, of_y), expected in zip(after, now, strict=True):
            np.testing.assert_allclose(c[voice], expected[0], atol=1e-13)
            np.testing.assert_allclose(of_y[voice], expected[1], atol=1e-13)


def test_gru_equals_torch():
    torch = pytest.importorskip("torch")
    module = torch.nn.GRU(4, 6).double()
    w_x, w_r, b_x, b_r = (parameter.detach().numpy().reshape(3, 6, -1) for parameter in module.parameters())
    layer = dataclasses.replace(
        random_gru(np.random.default_rng(6), "gru", 4, 6), w_x=w_x, w_r=w_r, bias_rn=b_r[2, :, 0],
        bias=np.concatenate([b_x[:2] + b_r[:2], b_x[2:]])[:, :, 0])
    frames, h = torch.randn(9, 2, 4).double(), torch.randn(1, 2, 6).double()
    y, last = module(frames, h)
    found, (state,) = run(Model(layers=(layer,)), frames.numpy(), [LayerState(h[0].numpy(), h[0].numpy())])
    np.testing.assert_allclose(found, y.detach().numpy(), atol=1e-13)
    np.testing.assert_allclose(state.c, last[0].detach().numpy(), atol=1e-13)


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
