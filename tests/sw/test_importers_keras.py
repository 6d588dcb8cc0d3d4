# SPDX-License-Identifier: Apache-2.0
"""Keras models in both kinds of file, against Keras."""

import io
import json
import os
import struct
import zipfile

import numpy as np
import pytest
from import_tools import assert_close, assert_survives, run_float

from openese.sw import importers
from openese.sw.importers import ImportRefused
from openese.sw.importers.hdf5 import endless

h5py = pytest.importorskip("h5py")
pytest.importorskip("torch")
os.environ["KERAS_BACKEND"] = "torch"
keras = pytest.importorskip("keras")
L = keras.layers

SUFFIXES = ("keras", "h5")
SEED = 3


def built(*layers):
    keras.utils.set_random_seed(SEED)
    model = keras.Sequential([keras.Input((None, 3)), *layers])
    for variable in model.weights:  # zero biases would hide their order
        variable.assign(np.random.default_rng(SEED).normal(size=variable.shape, scale=0.5))
    return model


@pytest.fixture
def save(tmp_path):
    def save(model, suffix):
        path = tmp_path / f"model.{suffix}"
        model.save(path)
        return path
    return save


def frames(steps=6, voices=2, inputs=3):
    return np.random.default_rng(SEED).normal(size=(steps, voices, inputs))


def expected(model, x):
    return keras.ops.convert_to_numpy(model(x.swapaxes(0, 1).astype(np.float32))).swapaxes(0, 1)


def lstm(cells, **named):
    return L.LSTM(cells, return_sequences=True, **named)


def gru(cells, **named):
    return L.GRU(cells, return_sequences=True, **named)


def cells(*counts):
    return L.RNN([L.LSTMCell(count) for count in counts], return_sequences=True)


MODELS = {
    "lstm": lambda: [lstm(4)],
    "no bias": lambda: [lstm(4, use_bias=False)],
    "stacked": lambda: [lstm(4), L.Dropout(0.2), lstm(5, dropout=0.1)],
    "cell": lambda: [L.RNN(L.LSTMCell(4), return_sequences=True)],
    "cells": lambda: [cells(4, 2), lstm(3)],
    "bidirectional": lambda: [L.Bidirectional(lstm(4)), lstm(2)],
    "two kinds": lambda: [L.Bidirectional(lstm(4), backward_layer=lstm(2, go_backwards=True))],
    "bidirectional cells": lambda: [L.Bidirectional(cells(4, 2))],
    "gru": lambda: [gru(4)],
    "gru, reset before": lambda: [gru(4, reset_after=False)],
    "gru, no bias": lambda: [gru(4, use_bias=False), gru(3, use_bias=False, reset_after=False)],
    "gru cells": lambda: [L.RNN(L.GRUCell(4, reset_after=True), return_sequences=True)],
    "mixed cells": lambda: [L.RNN([L.GRUCell(4), L.LSTMCell(2), L.GRUCell(3, reset_after=False), L.LSTMCell(5)],
                                  return_sequences=True)],
    "gru, bidirectional": lambda: [L.Bidirectional(gru(4)), lstm(2), L.Dense(3)],
    "gru and lstm": lambda: [L.Bidirectional(gru(4), backward_layer=lstm(2, go_backwards=True))],
    "dense": lambda: [lstm(4), L.Dense(2)],
    "dense with functions": lambda: [L.Dense(6, activation="relu"), lstm(4), L.Dense(3), L.Dense(5, activation="tanh"),
                                     L.Bidirectional(gru(4)), L.Dense(3, activation="sigmoid"), lstm(2),
                                     L.Dense(7, activation="relu")],
    "dense alone": lambda: [L.Dense(8, activation="relu"), L.Dense(4), L.Dense(5, activation="tanh"), L.Dense(2)],
    "dense between": lambda: [lstm(4), L.TimeDistributed(L.Dense(5)), L.Dense(2, use_bias=False), lstm(3),
                              L.Dense(7)],
}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", MODELS)
def test_equals_keras(save, name, suffix):
    model = built(*MODELS[name]())
    x = frames()
    assert_close(run_float(importers.load(save(model, suffix)), x)[0], expected(model, x))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_notes_name_the_last_output_and_the_activation(save, suffix):
    model = built(L.LSTM(4), L.Dense(2, activation="softmax"))
    network = importers.load(save(model, suffix))
    x = frames()
    logits = run_float(network, x)[0][-1]
    soft = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert_close(soft, expected(model, x).swapaxes(0, 1))
    notes = " ".join(network.notes)
    assert "return_sequences=False" in notes and "'softmax' is not part of the network" in notes


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_backwards_alone(save, suffix):
    model = built(L.LSTM(4, return_sequences=True, go_backwards=True))
    network = importers.load(save(model, suffix))
    x = frames()
    assert_close(run_float(network, x)[0][::-1], expected(model, x))
    assert "go_backwards" in network.notes[0]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_functional_models(save, suffix):
    keras.utils.set_random_seed(SEED)
    given = keras.Input((None, 3))
    hidden = L.Dropout(0.1)(L.LSTM(4, return_sequences=True, name="first")(given))
    last = L.LSTM(5, return_sequences=True, name="second")(hidden)
    model = keras.Model(given, L.Dense(2, name="out")(last))
    path = save(model, suffix)
    x = frames()
    assert_close(run_float(importers.load(path), x)[0], expected(model, x))
    assert [entry.name for entry in importers.entries(path)] == ["first", "second", "out"]
    assert importers.load(path, "second").inputs == 4


def test_branches_are_not_guessed(save):
    given = keras.Input((None, 3))
    model = keras.Model(given, L.Concatenate()([L.LSTM(4, name="a")(given), L.LSTM(5, name="b")(given)]))
    path = save(model, "keras")
    with pytest.raises(ImportRefused, match="LSTM 'b' is beside the others.*takes the whole network.*: 'a', 'b'"):
        importers.load(path)
    assert importers.load(path, "b").outputs == 5


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_nested_models(save, suffix):
    model = built(built(L.LSTM(4, return_sequences=True, name="inner")), L.Dense(2))
    path = save(model, suffix)
    name, = (entry.name for entry in importers.entries(path) if entry.kind == "LSTM")
    assert name.endswith("/inner")
    x = frames()
    assert_close(run_float(importers.load(path, name), x)[0], expected(model.layers[0], x))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("layer, reason", [
    (lambda: L.LSTM(4, recurrent_activation="hard_sigmoid"), "recurrent_activation 'hard_sigmoid'"),
    (lambda: L.LSTM(4, activation="relu"), "activation 'relu'"),
    (lambda: L.Bidirectional(L.LSTM(4), merge_mode="sum"), "merge_mode 'sum' is not supported; only 'concat' is"),
    (lambda: L.GRU(4, activation="relu"), "activation 'relu': the machine computes only 'tanh' there"),
    (lambda: L.SimpleRNN(4), "no layer that can be imported: SimpleRNN .*: a SimpleRNN is no LSTM or GRU"),
    (lambda: L.RNN([L.LSTMCell(4), L.SimpleRNNCell(2)]), "a SimpleRNNCell is not an LSTM or GRU cell"),
])
def test_refused_by_name(save, layer, reason, suffix):
    path = save(built(layer()), suffix)
    with pytest.raises(ImportRefused, match=reason):
        importers.load(path)


def between(*layers):
    return built(lstm(4, name="a"), *layers, lstm(2, name="b"))


def residual():
    given = keras.Input((None, 4))
    return keras.Model(given, lstm(2, name="b")(L.Add(name="sum")([lstm(4, name="a")(given), given])))


def called_twice():
    given = keras.Input((None, 4))
    layer = lstm(4, name="a")
    return keras.Model(given, lstm(2, name="b")(layer(layer(given))))


def inner_output():
    given = keras.Input((None, 3))
    middle = lstm(4, name="a")(given)
    return keras.Model(given, [lstm(2, name="b")(middle), middle])


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("model, stacked, alone", [
    (lambda: between(L.BatchNormalization(name="n")), "BatchNormalization 'n' lies between them", "'n'"),
    (lambda: between(L.LayerNormalization(name="n")), "LayerNormalization 'n' lies between them", "'n'"),
    (lambda: between(L.LeakyReLU(name="n")), "LeakyReLU 'n' lies between them", "'n'"),
    (lambda: between(L.MaxPooling1D(2, name="n")), "MaxPooling1D 'n' lies between them", "'n'"),
    (lambda: between(L.Dense(4, activation="gelu", name="n")), "Dense 'n' lies between them", "'gelu'"),
    (lambda: built(L.LSTM(4, name="a"), L.RepeatVector(3, name="n"), lstm(2, name="b")),
     "RepeatVector 'n' lies between them", "'n'"),
    (lambda: built(lstm(4, name="a", go_backwards=True), lstm(2, name="b")), "last frame first", "last frame first"),
    (residual, "Add 'sum' lies between them", "'sum'"),
    (called_twice, "LSTM 'a' is called 2 times", "LSTM 'a' is called 2 times"),
    (inner_output, None, "not those of the last layer alone"),
    (lambda: built(L.Masking(name="m"), lstm(4, name="a"), lstm(2, name="b")), None, "Masking 'm'"),
    (lambda: built(L.Dense(5, activation="gelu", name="d"), lstm(4, name="a"), lstm(2, name="b")), None, "'gelu'"),
])
def test_what_is_not_in_a_chain(save, model, stacked, alone, suffix):
    path = save(model(), suffix)
    with pytest.raises(ImportRefused, match=f"{alone}.*'openese compile' takes the whole network"):
        importers.load(path)
    if stacked:
        with pytest.raises(ImportRefused, match=f"'a' and 'b' cannot be stacked: .*{stacked}"):
            importers.load(path, "a,b")
    else:
        assert importers.load(path, "a,b").outputs == 2
    note = importers.load(path, "a").notes[-1]
    assert "left out" in note and "LSTM 'b'" in note


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_initial_states_of_the_network_are_refused(save, suffix):
    given, other = keras.Input((None, 3)), keras.Input((None, 2))
    _, h, c = L.LSTM(4, return_state=True, name="encoder")(other)
    path = save(keras.Model([given, other], lstm(4, name="decoder")(given, initial_state=[h, c])), suffix)
    with pytest.raises(ImportRefused, match="LSTM 'decoder': it is called with initial states"):
        importers.load(path, "decoder")
    assert importers.load(path, "encoder").inputs == 2


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_linear_layer_in_front_is_multiplied_in(save, suffix):
    model = built(L.Dense(5, name="front"), lstm(4), L.Dense(2))
    x = frames()
    assert_close(run_float(importers.load(save(model, suffix)), x)[0], expected(model, x))


def frozen_half():
    model = built(L.Bidirectional(lstm(4)))
    model.layers[0].forward_layer.trainable = False
    return model


def frozen_cell():
    model = built(cells(4, 2))
    model.layers[0].cell.cells[0].trainable = False
    return model


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("model", [frozen_half, frozen_cell])
def test_frozen_weights_are_listed_last(save, model, suffix):
    model, x = model(), frames()
    assert_close(run_float(importers.load(save(model, suffix)), x)[0], expected(model, x))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("policy", ["bfloat16", "float16", "float64"])
def test_weights_of_other_types(save, policy, suffix):
    model = built(lstm(4, dtype=policy, recurrent_initializer="glorot_uniform"))
    twin = built(lstm(4))
    for weight, given in zip(twin.weights, model.weights, strict=True):
        weight.assign(keras.ops.cast(given, "float32"))
    x = frames()
    assert_close(run_float(importers.load(save(model, suffix)), x)[0], expected(twin, x))


def test_weights_beside_a_kernel(save):
    """Low-rank updates: Keras adds them to the kernel in ``.keras``, and saves them alone in ``.h5``."""
    model, x = built(lstm(4), L.Dense(2)), frames()
    model.layers[-1].enable_lora(2)
    model.layers[-1].lora_kernel_b.assign(np.ones((2, 2)))
    assert_close(run_float(importers.load(save(model, "keras")), x)[0], expected(model, x))
    with pytest.raises(ImportRefused, match="Dense 'dense.*': it also has the weights lora_kernel_a, lora_kernel_b"):
        importers.load(save(model, "h5"))


def test_a_class_of_its_own_is_refused(save):
    class Tagger(keras.Model):
        def __init__(self, **named):
            super().__init__(**named)
            self.lstm = lstm(4)

        def call(self, inputs):
            return self.lstm(inputs)

    model = Tagger()
    model(np.zeros((1, 2, 3), np.float32))
    with pytest.raises(ImportRefused, match="a class of its own, 'Tagger'.*openese.offload takes it"):
        importers.load(save(model, "keras"))


def test_an_lstm_over_another_axis_is_refused(save):
    model = keras.Sequential([keras.Input((2, 5, 3)), L.TimeDistributed(L.LSTM(4), name="t")])
    with pytest.raises(ImportRefused, match="TimeDistributed 't': it runs over an axis behind another one"):
        importers.load(save(model, "keras"))


def test_weights_alone_are_refused(tmp_path):
    model = built(L.LSTM(4))
    model.save_weights(tmp_path / "model.weights.h5")
    with pytest.raises(ImportRefused, match="weights only.*save the whole model as .keras"):
        importers.load(tmp_path / "model.weights.h5")


# -- untrusted files -------------------------------------------------------------------------------


def rewritten(path, target, change):
    """Copy a .keras file with weights changed by ``change(h5 file)``."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as archive:
        for name in source.namelist():
            data = io.BytesIO(source.read(name))
            if name.endswith(".h5"):
                with h5py.File(data, "r+") as file:
                    change(file)
            archive.writestr(name, data.getvalue())
    return target


def relink(link):
    def change(file):
        group = file["layers/lstm/cell/vars"]
        del group["1"]
        group["1"] = link
    return change


@pytest.mark.parametrize("link", [h5py.ExternalLink("/etc/passwd", "/x"),
                                  h5py.SoftLink("/layers/lstm/cell/vars/0")])
def test_links_are_not_followed(save, tmp_path, link):
    path = rewritten(save(built(L.LSTM(4)), "keras"), tmp_path / "linked.keras", relink(link))
    with pytest.raises(ImportRefused, match="links to another place"):
        importers.load(path)


def test_external_data_is_not_read(save, tmp_path):
    def change(file):
        group = file["layers/lstm/cell/vars"]
        del group["1"]
        group.create_dataset("1", (4, 16), "f4", external=[(str(tmp_path / "raw"), 0, 256)])
    path = rewritten(save(built(L.LSTM(4)), "keras"), tmp_path / "external.keras", change)
    with pytest.raises(ImportRefused, match="not an array in the file itself"):
        importers.load(path)


def test_huge_arrays_are_refused_unread(save, tmp_path):
    def change(file):
        group = file["layers/lstm/cell/vars"]
        del group["1"]
        group.create_dataset("1", (1 << 20, 1 << 20), "f4", chunks=(1024, 1024), compression="gzip")
    path = rewritten(save(built(L.LSTM(4)), "keras"), tmp_path / "bomb.keras", change)
    with pytest.raises(ImportRefused, match=r"has shape \(1048576, 1048576\); at most 268,435,456 numbers are read"):
        importers.load(path)


@pytest.mark.parametrize("config, reason", [
    (b"[]", ""), (b"{}", r"\(key 'config' is missing\); save it again with model.save"), (b"not json", ""),
    (b'{"config": {"layers": [{}]}}', "key 'class_name' is missing"), (b"[" * 100_000, "nested too deeply"),
    (json.dumps({"config": {"layers": [None]}}).encode(), "")])
def test_bad_configurations(save, tmp_path, config, reason):
    path = save(built(L.LSTM(4)), "keras")
    target = tmp_path / "bad.keras"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as archive:
        for name in source.namelist():
            archive.writestr(name, config if name == "config.json" else source.read(name))
    with pytest.raises(ImportRefused, match=f"^bad.keras: .*{reason}"):
        importers.load(target)


def test_shapes_that_do_not_fit_are_named(save, tmp_path):
    def change(file):
        group = file["layers/lstm/cell/vars"]
        del group["2"]
        group["2"] = np.zeros(15, np.float32)
    path = rewritten(save(built(L.LSTM(4)), "keras"), tmp_path / "odd.keras", change)
    with pytest.raises(ImportRefused, match=r"LSTM 'lstm.*': bias: expected shape \(16,\), found \(15,\)"):
        importers.load(path)


def test_damaged_files(save):
    """Only ``.keras``: the HDF5 library hangs on some damaged ``.h5`` files."""
    assert_survives(save(built(lstm(4), L.Dense(2)), "keras"))


def circle(data):
    """The bytes with the first free list of a local heap bound to itself."""
    start = data.index(b"HEAP")
    free, address = struct.unpack_from("<QQ", data, start + 16)
    struct.pack_into("<Q", data, address + free, free)


def standstill(data):
    """The bytes with free space of no size in the first global heap."""
    start = data.index(b"GCOL")
    struct.pack_into("<HH4xQ", data, start + 16, 0, 0, 0)


@pytest.mark.parametrize("damage, reason", [
    (circle, "the free list of the local heap at byte [0-9]+ is a circle"),
    (standstill, "the global heap at byte [0-9]+ has an object of no size")])
def test_files_that_would_keep_the_hdf5_library_busy_are_refused(save, damage, reason):
    path = save(built(lstm(4), L.Dense(2)), "h5")
    data = bytearray(path.read_bytes())
    damage(data)
    path.write_bytes(data)
    with pytest.raises(ImportRefused, match=f"^{path.name}: .*{reason}"):
        importers.entries(path)


def test_heaps_that_end_within_the_file():
    """Signatures at the end, and lists that leave the file, are left to the library."""
    for data in (b"HEAP", b"GCOL", b"HEAP" + bytes(4) + struct.pack("<QQQ", 100, 96, 10),
                 b"GCOL" + bytes(4) + struct.pack("<Q", 1 << 40) + struct.pack("<HH4xQ", 1, 1, 1 << 60)):
        assert endless(data) is None
