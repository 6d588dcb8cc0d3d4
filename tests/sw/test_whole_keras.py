# SPDX-License-Identifier: Apache-2.0
"""Whole Keras networks, against Keras."""

import dataclasses
import importlib.util
import io
import json
import os
import shutil
import sys
import warnings
import zipfile
from collections import Counter

import numpy as np
import pytest

pytest.importorskip("torch")
os.environ["KERAS_BACKEND"] = "torch"
h5py = pytest.importorskip("h5py")
keras = pytest.importorskip("keras")
L = keras.layers

from import_tools import damaged  # noqa: E402
from keras_networks import random_network  # noqa: E402

from openese.rtl.config import machine_config  # noqa: E402
from openese.sw.importers import ImportRefused  # noqa: E402
from openese.sw.reference.machine import Reference  # noqa: E402
from openese.sw.run.runners import MachineRunner  # noqa: E402
from openese.sw.whole import keras_layers  # noqa: E402
from openese.sw.whole.engine import Engine, Recorder, float_runners  # noqa: E402
from openese.sw.whole.host import HostError  # noqa: E402
from openese.sw.whole.keras_host import KerasHost  # noqa: E402
from openese.sw.whole.network import CompiledWhole, compile_host, open_host, pack_parts, quantize_parts  # noqa: E402
from openese.sw.whole.offload import offload  # noqa: E402

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
    """Outputs as arrays; stateful layers begin from zero."""
    for layer in model._flatten_layers():
        if getattr(layer, "stateful", False) and hasattr(layer, "reset_state"):
            layer.reset_state()
    return [keras_layers.to_numpy(keras, tensor) for tensor in keras.tree.flatten(model(x))]


def replaced(model, engine=Recorder, on=None):
    twin = keras_layers.copy_model(model)
    machine = keras_layers.replace(twin, model, on)
    machine.engine = engine(machine.parts)
    return twin, machine


def assert_same(model, x, *parts, on=None):
    twin, machine = replaced(model, on=on)
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


class Twice(L.Dense):
    """A Dense layer with a call of its own."""

    def call(self, inputs, training=None):
        return 2 * super().call(inputs, training=training)


def test_dense_layers():
    """Alone, for each frame, shared, with other functions, without a bias, and in other layers."""
    keras.utils.set_random_seed(SEED)
    x = keras.Input((None, 5), name="x")
    shared = L.Dense(5, activation="relu", name="shared")
    y = shared(shared(L.Masking()(x)))
    y = L.Dense(6, activation="gelu", use_bias=False, name="gelu")(L.LSTM(4, return_sequences=True, name="a")(y))
    y = L.TimeDistributed(L.Dense(4, activation="sigmoid", name="inner"), name="each")(y)
    y = L.Dense(3, activation=L.LeakyReLU(), name="leaky")(Twice(4, name="twice")(y))
    deep = keras.Sequential([keras.Input((4,)), L.Dense(4, activation="tanh", name="h")], name="deep")
    z = L.Dense(2, activation="softmax", name="z")(deep(L.LSTM(4, name="b")(y)))
    model = filled(keras.Model(x, [z, L.Bidirectional(L.LSTM(2, name="l"), name="both")(y)]))
    dense = ["shared", "gelu", "each/inner", "leaky", "z", "deep/h"]
    machine = replaced(model, on=DENSES)[1]
    assert set(machine.parts) == {*dense, "a", "b", "both/forward_l", "both/backward_l"}
    assert_same(model, frames(), *machine.parts, on=DENSES)
    assert [machine.parts[name].model.layers[0].activation for name in dense] == [
        "relu", "none", "sigmoid", "none", "none", "tanh"]
    assert not [name for name in replaced(model, on=GRUS)[1].parts if name in dense]
    with pytest.raises(HostError, match="shared: layers on the machine do not train"):
        replaced(model, on=DENSES)[0](frames(), training=True)
    alone = replaced(chain(L.Dense(4)), on=DENSES)[0]
    assert results(alone, frames()[:, :0])[0].shape == (3, 0, 4)


def test_a_file_with_dense_layers(tmp_path):
    model = chain(L.Dense(6, activation="relu", name="front"), L.GRU(4, name="g"),
                  L.Dense(3, activation="softmax", name="y"))
    path = saved(model, tmp_path / "net.keras")
    host = open_host(path, machine=DENSES)
    assert list(host.parts) == ["front", "g", "y"]
    assert list(open_host(path, machine=DENSES, dense="host").parts) == ["g"] == list(open_host(path).parts)
    inputs = {host.inputs[0].name: frames()}
    compiled = compile_host(host, DENSES, calibrate=inputs)
    difference, = compiled.differences
    assert 0 < difference.error.rms_error < 0.01 * difference.error.rms_output
    compiled.save(tmp_path / "net")
    path.unlink()
    loaded = CompiledWhole.load(tmp_path / "net")
    np.testing.assert_array_equal(loaded.run(inputs)["y"], compiled.run(inputs)["y"])
    with zipfile.ZipFile(tmp_path / "net" / "host.keras") as archive:
        weights = h5py.File(io.BytesIO(archive.read("model.weights.h5")))
    assert np.isnan(weights["layers/dense/vars/0"][()]).all()


@pytest.mark.parametrize("missing, reason", [
    (("keras",), r"Keras, which is not installed: pip install 'openese\[keras\]'"),
    (("torch", "tensorflow", "jax"), "none is installed: pip install torch")])
def test_a_missing_library_is_named(monkeypatch, missing, reason):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else found(name))
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    if "torch" in missing:
        monkeypatch.delitem(sys.modules, "keras")
    with pytest.raises(HostError, match=reason):
        keras_layers.import_keras()


# -- files -----------------------------------------------------------------------------------------


def saved(model, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(path)
    return path


def in_float(host, inputs):
    return host.run(inputs, Engine(host.parts, float_runners(host.parts)))


def close(host, inputs, bound=1e-5):
    wanted = host.original(inputs)
    found = in_float(host, inputs)
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=bound / 5, atol=bound, err_msg=name)
    return wanted


def relative_error(found, wanted):
    return float(np.sqrt(np.mean((found - wanted)**2)) / max(1e-6, np.sqrt(np.mean(wanted**2))))


def lstm(units, **named):
    return L.LSTM(units, **{"return_sequences": True, **named})


def initial_state():
    frames, image = keras.Input((None, 5), name="x"), keras.Input((7,), name="image")
    y = lstm(6)(frames, initial_state=[L.Dense(6)(image), L.Dense(6)(image)])
    return keras.Model([frames, image], L.Dense(3)(y))


def encoder_and_decoder():
    frames, image = keras.Input((None, 5), name="x"), keras.Input((None, 4), name="source")
    _, h, c = L.LSTM(6, return_state=True)(image)
    y, h, c = lstm(6, return_state=True, name="decoder")(frames, initial_state=[h, c])
    return keras.Model([frames, image], {"y": L.Dense(3)(y), "states": [h, c]})


def called_twice():
    x = keras.Input((None, 5), name="x")
    layer = lstm(5)
    return keras.Model(x, layer(layer(x)))


def residual():
    x = keras.Input((None, 5), name="x")
    return keras.Model(x, lstm(4)(L.Add()([lstm(5)(x), x])))


def frozen_half():
    model = chain(L.Bidirectional(lstm(4)), L.Dense(3))
    model.layers[0].forward_layer.trainable = False
    return model


def frozen_cell():
    model = chain(L.RNN([L.LSTMCell(6), L.LSTMCell(4)], return_sequences=True))
    model.layers[0].cell.cells[0].trainable = False
    return model


WHOLE = {
    "backwards, forwards": lambda: chain(lstm(6, go_backwards=True), lstm(4)),
    "backwards, backwards": lambda: chain(lstm(6, go_backwards=True), lstm(4, go_backwards=True)),
    "backwards, bidirectional": lambda: chain(lstm(6, go_backwards=True), L.Bidirectional(lstm(4))),
    "masked": lambda: chain(L.Masking(), lstm(6), lstm(4, go_backwards=True), L.Dense(3)),
    "masked to zero": lambda: chain(L.Masking(), lstm(6, zero_output_for_mask=True),
                                    L.LSTM(4, zero_output_for_mask=True)),
    "masked cells": lambda: chain(L.Masking(), L.RNN([L.LSTMCell(6), L.GRUCell(4), L.LSTMCell(3)])),
    "initial state": initial_state, "encoder and decoder": encoder_and_decoder, "called twice": called_twice,
    "residual": residual, "frozen half": frozen_half, "frozen cell": frozen_cell,
    "batch norm": lambda: chain(lstm(6), L.BatchNormalization(), lstm(4)),
    "layer norm": lambda: chain(lstm(6), L.LayerNormalization(), lstm(4)),
    "leaky": lambda: chain(lstm(6), L.LeakyReLU(negative_slope=0.1), lstm(4)),
    "autoencoder": lambda: chain(L.LSTM(6), L.RepeatVector(7), lstm(4), L.TimeDistributed(L.Dense(5))),
    "pooling": lambda: chain(lstm(6), L.MaxPooling1D(2), lstm(4)),
    "nested": lambda: chain(chain(lstm(6, name="inner")), L.Dense(3)),
    "relu beside": lambda: chain(lstm(6, activation="relu"), lstm(4)),
    "unrolled": lambda: keras.Sequential([keras.Input((7, 5)), lstm(6, unroll=True)]),
    "stateful": lambda: keras.Sequential([keras.Input(batch_shape=(3, 7, 5)), lstm(6, stateful=True)]),
}


@pytest.mark.parametrize("name", WHOLE)
def test_files_equal_keras(tmp_path, name):
    keras.utils.set_random_seed(SEED)
    model = filled(WHOLE[name]())
    rng = np.random.default_rng(SEED)
    others = {"image": rng.normal(size=(3, 7)), "source": rng.normal(size=(3, 4, 4))}
    suffixes = ("keras",) if "masked" in name else ("keras", "h5")  # Keras does not load masks from .h5
    for suffix in suffixes:
        host = open_host(saved(model, tmp_path / f"net.{suffix}"))
        inputs = {port.name: others.get(port.name, frames(holes=True)) for port in host.inputs}
        assert host.parts
        for _ in range(2):  # a stateful layer begins from zero again
            wanted = close(host, inputs)
        model_inputs = [inputs[port.name] for port in host.inputs]
        for value, exact in zip(results(model, model_inputs if len(model_inputs) > 1 else model_inputs[0]),
                                wanted.values(), strict=True):
            np.testing.assert_allclose(value, exact, atol=1e-5)


@pytest.mark.parametrize("policy", ["float16", "bfloat16", "float64", "mixed_float16"])
def test_other_number_types(tmp_path, policy):
    options = {"dtype": policy, "recurrent_initializer": "glorot_uniform"}
    host = open_host(saved(chain(lstm(6, **options), L.Dense(3, dtype=policy)), tmp_path / "net.keras"))
    close(host, {host.inputs[0].name: frames()}, bound=0.02)


def test_compile_save_and_load(tmp_path):
    model = chain(L.Masking(), L.Bidirectional(lstm(6)), L.LayerNormalization(), L.LSTM(4), L.Dense(3, name="y"))
    path = saved(model, tmp_path / "net.keras")
    host = open_host(path)
    inputs = {host.inputs[0].name: frames(holes=True)}
    compiled = compile_host(host, "demo", calibrate=inputs)
    difference, = compiled.differences
    assert difference.name == "y" and difference.error.rms_error < 0.01 * difference.error.rms_output
    compiled.save(tmp_path / "net")
    path.unlink()
    loaded = CompiledWhole.load(tmp_path / "net")
    longer = {host.inputs[0].name: frames(steps=11, voices=2)}
    for given in (inputs, longer):
        np.testing.assert_array_equal(loaded.run(given)["y"], compiled.run(given)["y"])
    with zipfile.ZipFile(tmp_path / "net" / "host.keras") as archive:
        weights = h5py.File(io.BytesIO(archive.read("model.weights.h5")))
    assert np.isnan(weights["layers/lstm/cell/vars/0"][()]).all()
    assert relative_error(loaded.run(longer)["y"], results(model, longer[host.inputs[0].name])[0]) < 0.02


def test_every_layer_and_weight_has_a_place(tmp_path):
    model = chain(L.Masking(name="m"), L.Bidirectional(L.GRU(3, return_sequences=True, name="g"), name="b"),
                  lstm(4, name="a"), lstm(4, activation="relu", name="r"), L.Dense(2, name="d"))
    host = open_host(saved(model, tmp_path / "net.keras"), machine=machine_config("demo"))
    places = {item.name: (item.kind, item.place, item.detail) for item in host.items}
    assert places["m"] == ("Masking", "host", "keras")
    assert places["b"] == ("Bidirectional", "host", (
        "a GRU, but config 'demo' has cells 'lstm'. Take a machine with cells 'lstm+gru'"))
    assert places["a"] == ("LSTM", "machine", "a")
    both = open_host(saved(chain(L.Bidirectional(lstm(4), name="both")), tmp_path / "both.keras"))
    assert [(item.place, item.detail) for item in both.items if item.name == "both"] == [("machine", "both directions")]
    assert places["a/lstm_cell/kernel"] == ("weight", "machine", "a")
    assert places["r"] == ("LSTM", "host", "activation 'relu': the machine computes only 'tanh' there")
    assert sum(kind == "weight" for kind, _, _ in places.values()) == len(model.weights)


def test_programs_run_only_with_trust(tmp_path):
    path = saved(chain(L.Lambda(lambda x: 2 * x, name="twice"), L.LSTM(4), L.Dense(2, name="y")),
                 tmp_path / "net.keras")
    with pytest.raises(ImportRefused, match=r"^net.keras: 'twice' is a Lambda, which is a program; --trust runs it"):
        open_host(path)
    host = open_host(path, trust=True)
    inputs = {host.inputs[0].name: frames()}
    close(host, inputs)
    compile_host(host, "demo", calibrate=inputs).save(tmp_path / "net")
    with pytest.raises(HostError, match="'twice' is a Lambda"):
        CompiledWhole.load(tmp_path / "net")
    assert CompiledWhole.load(tmp_path / "net", trust=True).run(inputs)["y"].shape == (3, 2)


class Foreign(L.LSTM):
    pass


def test_classes_of_others_are_refused(tmp_path):
    path = saved(chain(Foreign(4, name="mine")), tmp_path / "net.keras")
    with pytest.raises(ImportRefused, match="'mine' is of a class that is not of Keras, 'Foreign'; openese.offload"):
        open_host(path)


class Twofold(L.LSTM):
    def call(self, sequences, initial_state=None, mask=None, training=False):
        return super().call(2 * sequences, initial_state=initial_state, mask=mask, training=training)


def test_a_network_whose_only_lstm_stays_names_the_reason():
    model = chain(Twofold(4, name="mine"), L.Dense(2))
    with pytest.raises(HostError, match="that the machine can compute: Twofold 'mine': Twofold has a loop of its own"):
        offload(model, "tiny", calibrate=frames())


def changed(path, target, old, new):
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as archive:
        for name in source.namelist():
            data = source.read(name)
            archive.writestr(name, data.replace(old, new) if name == "config.json" else data)
    return target


@pytest.mark.parametrize("old, new, reason", [
    (b'{"module": "keras.layers", "class_name": "Dense"', b'{"module": "keras.utils", "class_name": "get_file"',
     "a class that is not of Keras, 'get_file'"),
    (b'"class_name": "Dense"', b'"class_name": "TFSMLayer"', "a TFSMLayer, which is a program"),
    (b'"activation": "linear"', b'"activation": {"module": "builtins", "class_name": "function", "config": "a>b"}',
     "a function of its own, 'a>b'"),
    (b'"units": 4', b'"units": 40000', "more than [0-9,]+ weights, and the file holds 170"),
    (b'"units": 4', b'"units": 5', "Keras cannot load the network")])
def test_files_that_are_not_trusted(tmp_path, old, new, reason):
    path = saved(chain(L.LSTM(4), L.Dense(2)), tmp_path / "net.keras")
    with pytest.raises(ImportRefused, match=f"^changed.keras: .*{reason}"):
        open_host(changed(path, tmp_path / "changed.keras", old, new))


def test_damaged_files(tmp_path):
    """Read, or refused in one line."""
    path = saved(chain(L.LSTM(4, name="l"), L.Dense(2)), tmp_path / "net.keras")
    with zipfile.ZipFile(path) as source:
        config = source.read("config.json")
    refused = 0
    for copy in damaged(config, 40):
        try:
            open_host(changed(path, tmp_path / "changed.keras", config, copy))
        except (ImportRefused, HostError) as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused


# -- files of Keras 2 ------------------------------------------------------------------------------


def as_keras_2(path, target, change):
    """A ``.h5`` file whose configuration is changed to what Keras 2 writes."""
    shutil.copyfile(path, target)
    with h5py.File(target, "r+") as file:
        model = json.loads(file.attrs["model_config"])
        for layer in model["config"]["layers"]:
            change(layer)
        file.attrs["model_config"] = json.dumps(model)
    return target


def old_options(layer):
    if layer["class_name"] == "LSTM":
        layer["config"] |= {"time_major": False, "implementation": 2}
    if "inbound_nodes" in layer:
        layer["inbound_nodes"] = [[[*history, {}] for history in histories(call)] for call in layer["inbound_nodes"]]


def histories(call):
    if isinstance(call, dict) and "keras_history" in call:
        yield call["keras_history"]
    elif isinstance(call, (dict, list)):
        for inner in call.values() if isinstance(call, dict) else call:
            yield from histories(inner)


@pytest.mark.parametrize("model", [lambda: chain(lstm(6, name="a"), L.Dense(3)), encoder_and_decoder])
def test_files_of_keras_2(tmp_path, model):
    path = saved(filled(model()), tmp_path / "net.h5")
    new = open_host(path)
    old = open_host(as_keras_2(path, tmp_path / "old.h5", old_options))
    rng = np.random.default_rng(SEED)
    inputs = {port.name: rng.normal(size=(3, 7, port.shape[-1])) for port in new.inputs}
    wanted = new.original(inputs)
    for name, value in in_float(old, inputs).items():
        np.testing.assert_allclose(value, wanted[name], atol=1e-5)


def test_time_in_front_is_refused(tmp_path):
    def change(layer):
        if layer["class_name"] == "LSTM":
            layer["config"]["time_major"] = True

    path = saved(chain(lstm(6)), tmp_path / "net.h5")
    with pytest.raises(ImportRefused, match="time_major"):
        open_host(as_keras_2(path, tmp_path / "old.h5", change))


def test_weights_in_another_order_than_keras_reads_are_refused(tmp_path):
    """Keras 2 does not save that one half of a Bidirectional is frozen."""
    def change(layer):
        if layer["class_name"] == "Bidirectional":
            layer["config"]["layer"]["config"]["trainable"] = True

    path = saved(frozen_half(), tmp_path / "net.h5")
    with pytest.raises(ImportRefused, match="weights of 'bidirectional.*' are in another order than Keras reads them"):
        open_host(as_keras_2(path, tmp_path / "old.h5", change))


def test_inputs_that_do_not_fit(tmp_path):
    host = open_host(saved(chain(L.LSTM(4), L.Dense(2)), tmp_path / "net.keras"))
    name = host.inputs[0].name
    for inputs, reason in (({}, "is missing"), ({name: np.zeros((3, 7, 4))}, r"found the shape \(3, 7, 4\)"),
                           ({name: np.full((3, 7, 5), np.nan)}, "lstm.*: x: not all numbers are finite")):
        with pytest.raises(HostError, match=reason) as error:
            in_float(host, inputs)
        assert "\n" not in str(error.value)
    fixed = keras.Sequential([keras.Input((None, 5)), L.LSTM(4, return_sequences=True), L.Reshape((2, 14))])
    host = open_host(saved(fixed, tmp_path / "fixed.keras"))
    with pytest.raises(HostError, match="^fixed: .*reshape|^fixed: .*shape") as error:
        in_float(host, {host.inputs[0].name: frames(steps=6)})
    assert "\n" not in str(error.value)


def test_damaged_hosts_are_refused(tmp_path):
    with pytest.raises(HostError, match="host.keras"):
        KerasHost.load(tmp_path)
    (tmp_path / "host.keras").write_bytes(b"PK no archive")
    with pytest.raises(HostError, match="host.keras"):
        KerasHost.load(tmp_path)


# -- random networks -------------------------------------------------------------------------------

NETWORKS = int(os.environ.get("OPENESE_KERAS_NETWORKS", "8"))
#: Of these all recurrent layers are GRUs.
GRU_NETWORKS = int(os.environ.get("OPENESE_KERAS_GRUS", "3"))
#: A machine with GRU cells of both kinds.
GRUS = dataclasses.replace(machine_config("demo"), cells="lstm+gru+gru_before")
#: And with dense layers.
DENSES = dataclasses.replace(GRUS, cells="lstm+gru+gru_before+dense")
#: The root of the mean square of the error of the machine's integers, relative to that of the outputs.
INTEGERS = 0.03


@pytest.mark.filterwarnings("ignore:Layer .* was passed an input with a mask:UserWarning")
@pytest.mark.parametrize("grus", [False, True], ids=["any", "grus"])
def test_random_networks(tmp_path, grus):
    """Alive and from files: equal to Keras in floating point, near it in integers, or refused by name."""
    counts = Counter()
    worst = 0.0
    networks = GRU_NETWORKS if grus else NETWORKS
    for seed in range(networks):
        case = random_network(keras, seed, grus)
        inputs = list(case.inputs.values())
        inputs = inputs if len(inputs) > 1 else inputs[0]
        wanted = results(case.model, inputs)
        on = DENSES if seed % 2 else GRUS
        twin, machine = replaced(case.model, on=on)
        found = results(twin, inputs)
        for value, exact in zip(found, wanted, strict=True):
            np.testing.assert_allclose(value, exact, rtol=case.bound / 5, atol=case.bound, err_msg=f"seed {seed}")
        counts["equal"] += 1
        counts["parts"] += len(machine.parts)
        cells = {layer.cell for part in machine.parts.values() for layer in part.model.layers}
        counts["networks with GRUs"] += "gru" in cells
        counts["networks with dense layers"] += "dense" in cells
        if machine.parts:
            compiled = pack_parts(quantize_parts(machine.engine, on))
            images = {name: part.images[0] for name, part in compiled.items()}
            runners = {name: [MachineRunner(Reference(image.model(), image.config.channels))]
                       for name, image in images.items()}
            machine.engine = Engine(machine.parts, runners)
            error = max(relative_error(value, exact) for value, exact in zip(results(twin, inputs), found, strict=True))
            worst = max(worst, error)
            assert error < INTEGERS, f"seed {seed}"
            counts["integers"] += 1
        suffix = ("keras", "keras", "h5")[seed % 3]
        try:
            host = open_host(saved(case.model, tmp_path / f"net.{suffix}"), machine=on)
        except ImportRefused as error:
            assert suffix == "h5" and "save it as .keras" in str(error)
            counts["refused .h5"] += 1
            continue
        original = close(host, case.inputs, case.bound)
        for value, exact in zip(original.values(), wanted, strict=True):
            np.testing.assert_allclose(value, exact, atol=1e-5, err_msg=f"seed {seed}")
        counts[f"equal .{suffix}"] += 1
    print(f"{networks} networks{' of GRUs' if grus else ''}: {dict(counts)}, "
          f"largest error of integers {100 * worst:.2g} %")
