# SPDX-License-Identifier: Apache-2.0
"""Whole Keras networks, against Keras."""

import os

import numpy as np
import pytest

pytest.importorskip("torch")
os.environ["KERAS_BACKEND"] = "torch"
keras = pytest.importorskip("keras")
L = keras.layers

from openese.sw.whole import keras_layers  # noqa: E402
from openese.sw.whole.engine import Engine, Recorder, float_runners  # noqa: E402
from openese.sw.whole.host import HostError  # noqa: E402

SEED = 5


def filled(model):
    """The model with every weight random: zero biases would hide their order."""
    rng = np.random.default_rng(SEED)
    for variable in model.weights:
        scaled = rng.normal(size=variable.shape, scale=0.5)
        variable.assign(abs(scaled) + 0.1 if "variance" in variable.name else scaled)
    return model


def chain(*layers, inputs=5):
    keras.utils.set_random_seed(SEED)
    return filled(keras.Sequential([keras.Input((None, inputs)), *layers]))


def frames(steps=7, voices=3, inputs=5, holes=False):
    x = np.random.default_rng(SEED).normal(size=(voices, steps, inputs)).astype(np.float32)
    if holes:
        x[0, :3] = x[1, 2:4] = x[2, 5:] = 0
    return x


def results(model, x):
    return [keras_layers.to_numpy(keras, tensor) for tensor in keras.tree.flatten(model(x))]


def replaced(model, engine=Recorder):
    twin = keras_layers.copy_model(model)
    machine = keras_layers.replace(twin, model)
    machine.engine = engine(machine.parts)
    return twin, machine


def assert_same(model, x, *parts):
    twin, machine = replaced(model)
    wanted = results(model, x)
    assert list(machine.parts) == list(parts)
    for found, value in zip(results(twin, x), wanted, strict=True):
        np.testing.assert_allclose(found, value, atol=1e-5)
    assert all(machine.engine.recorded(part) is not None for part in parts)


@pytest.mark.parametrize("merge", ["sum", "mul", "ave", "concat"])
@pytest.mark.parametrize("sequences", [True, False])
def test_bidirectional_layers_under_a_mask(merge, sequences):
    model = chain(L.Masking(), L.Bidirectional(L.LSTM(4, return_sequences=sequences, name="l"), merge_mode=merge,
                                               name="b"))
    assert_same(model, frames(holes=True), "b/forward_l", "b/backward_l")


def test_a_subclassed_network_is_copied_and_computed():
    class Tagger(keras.Model):
        def __init__(self, **named):
            super().__init__(**named)
            self.cell = L.LSTMCell(4, name="cell")
            self.rest = [L.LSTM(3, return_sequences=True, name="rest"), L.Dense(2)]

        def call(self, x):
            state = self.cell.get_initial_state(batch_size=x.shape[0])
            outputs = []
            for step in range(x.shape[1]):
                y, state = self.cell(x[:, step], state)
                outputs.append(y)
            return self.rest[1](self.rest[0](keras.ops.stack(outputs, axis=1)))

    model = Tagger()
    with pytest.raises(HostError, match="call it once"):
        keras_layers.replace(model)
    model(frames())
    assert_same(filled(model), frames(), "cell", "rest")


def test_a_layer_on_the_machine_does_not_train():
    model = chain(L.LSTM(4, name="l"), L.Dense(2))
    _, machine = replaced(model)
    machine.engine = None
    twin, machine = replaced(model)
    with pytest.raises(HostError, match="l: layers on the machine do not train"):
        twin(frames(), training=True)


def test_predict_and_evaluate_go_on_working():
    model = chain(L.LSTM(4), L.Dense(2))
    model.compile(loss="mse", metrics=["mae"])
    x = frames()
    twin, _ = replaced(model, lambda parts: Engine(parts, float_runners(parts)))
    np.testing.assert_allclose(twin.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-5)
    y = np.zeros((3, 2))
    np.testing.assert_allclose(twin.evaluate(x, y, verbose=0), model.evaluate(x, y, verbose=0), atol=1e-5)
