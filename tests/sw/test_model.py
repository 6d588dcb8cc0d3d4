# SPDX-License-Identifier: Apache-2.0
"""The canonical model: what it holds, what it refuses and how it says so, and its file."""

import dataclasses
import tracemalloc
import zipfile

import numpy as np
import pytest
from models import random_gru, random_layer, random_model

from openese.sw.model.layers import TENSORS, Dense, Layer, Model, ModelError, read_npz

FIELDS = ("name", "w_x", "w_r", "bias", "peephole", "w_ym", "g_activation")
GRU_FIELDS = ("name", "cell", "w_x", "w_r", "bias", "bias_rn", "reset_after")


def layer_fields(**changes):
    """Fields of a layer with I 3, H 5, P 2."""
    layer = random_layer(np.random.default_rng(0), "first", 3, 5, 2, peephole=True)
    return {**{field: getattr(layer, field) for field in FIELDS}, **changes}


def arrays(model):
    """All arrays of a model with their names."""
    tensors = {f"{layer.name}.{field}": getattr(layer, field)
             for layer in model.layers for field in TENSORS}
    if model.head is not None:
        tensors |= {"head.weight": model.head.weight, "head.bias": model.head.bias}
    return tensors


def assert_equal(a, b):
    assert (a.name, [layer.name for layer in a.layers]) == (b.name, [layer.name for layer in b.layers])
    for setting in ("cell", "g_activation", "reset_after"):
        assert [getattr(layer, setting) for layer in a.layers] == [getattr(layer, setting) for layer in b.layers]
    assert arrays(a).keys() == arrays(b).keys()
    for name, array in arrays(a).items():
        if array is None:
            assert arrays(b)[name] is None
        else:
            np.testing.assert_array_equal(array, arrays(b)[name], strict=True)


def gru_fields(**changes):
    """Fields of a GRU layer with I 3, H 5."""
    layer = random_gru(np.random.default_rng(0), "first", 3, 5)
    return {**{field: getattr(layer, field) for field in GRU_FIELDS}, **changes}


@pytest.mark.parametrize("tensor, shape, message", [
    ("w_x", (3, 5, 3), "layer 'first' w_x: expected shape (4, H, I) = (4, any, any), found (3, 5, 3)"),
    ("w_x", (4, 5), "layer 'first' w_x: expected shape (4, H, I) = (4, any, any), found (4, 5)"),
    ("w_x", (4, 5, 0), "layer 'first' w_x: expected shape (4, H, I) = (4, any, any), found (4, 5, 0)"),
    ("w_r", (4, 5, 3), "layer 'first' w_r: expected shape (4, H, P) = (4, 5, 2), found (4, 5, 3)"),
    ("bias", (20,), "layer 'first' bias: expected shape (4, H) = (4, 5), found (20,)"),
    ("peephole", (3, 4), "layer 'first' peephole: expected shape (3, H) = (3, 5), found (3, 4)"),
    ("w_ym", (2, 4), "layer 'first' w_ym: expected shape (P, H) = (any, 5), found (2, 4)"),
])
def test_a_wrong_shape_is_named(tensor, shape, message):
    with pytest.raises(ModelError) as error:
        Layer(**layer_fields(**{tensor: np.zeros(shape)}))
    assert str(error.value) == message


def test_without_projection_the_cells_are_the_outputs():
    with pytest.raises(ModelError, match=r"'first' w_r: expected .* = \(4, 5, 5\), found \(4, 5, 2\)"):
        Layer(**layer_fields(w_ym=None))
    layer = Layer(**layer_fields(w_ym=None, w_r=np.zeros((4, 5, 5))))
    assert (layer.inputs, layer.cells, layer.outputs) == (3, 5, 5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_named(value):
    w_r = np.ones((4, 5, 2))
    w_r[2, 4, 1] = w_r[3, 0, 0] = value
    with pytest.raises(ModelError, match=rf"^layer 'first' w_r\[2, 4, 1\]: {value} is not a finite number$"):
        Layer(**layer_fields(w_r=w_r))
    with pytest.raises(ModelError, match=rf"^head bias\[1\]: {value} is not a finite number$"):
        Dense(weight=np.zeros((2, 3)), bias=[0, value])


@pytest.mark.parametrize("changes, message", [
    ({"bias": np.zeros((4, 5), complex)}, "layer 'first' bias: expected real numbers, found type complex128"),
    ({"bias": np.array([["a"] * 5] * 4)}, "layer 'first' bias: expected real numbers, found type <U1"),
    ({"g_activation": "relu"}, "layer 'first' g_activation: expected tanh or sigmoid, found 'relu'"),
    ({"name": ""}, "layer name must be a non-empty string, not ''"),
])
def test_other_nonsense_is_named(changes, message):
    with pytest.raises(ModelError) as error:
        Layer(**layer_fields(**changes))
    assert str(error.value) == message


@pytest.mark.parametrize("changes, message", [
    ({"w_x": np.zeros((4, 5, 3))}, "w_x: expected shape (3, H, I) = (3, any, any), found (4, 5, 3)"),
    ({"w_r": np.zeros((3, 5, 4))}, "w_r: expected shape (3, H, P) = (3, 5, 5), found (3, 5, 4)"),
    ({"bias": np.zeros((4, 5))}, "bias: expected shape (3, H) = (3, 5), found (4, 5)"),
    ({"bias_rn": np.zeros((1, 5))}, "bias_rn: expected shape (H) = (5), found (1, 5)"),
    ({"bias_rn": None}, "bias_rn: it is missing; a GRU with reset_after has it"),
    ({"reset_after": False}, "bias_rn: a GRU without reset_after has none; add it to the bias of n"),
    ({"reset_after": 1}, "reset_after: expected True or False, found 1"),
    ({"peephole": np.zeros((3, 5))}, "peephole: a GRU has none"),
    ({"w_ym": np.zeros((2, 5))}, "w_ym: a GRU has none"),
    ({"g_activation": "sigmoid"}, "g_activation: a GRU has none"),
    ({"cell": "rnn"}, "cell: expected lstm, gru or dense, found 'rnn'")])
def test_attributes_of_a_gru(changes, message):
    with pytest.raises(ModelError) as error:
        Layer(**gru_fields(**changes))
    assert str(error.value) == f"layer 'first' {message}"


def test_attributes_of_a_gru_are_no_lstms():
    with pytest.raises(ModelError, match=r"'first' bias_rn: an LSTM has none"):
        Layer(**layer_fields(bias_rn=np.zeros(5)))
    with pytest.raises(ModelError, match=r"'first' reset_after: an LSTM has none"):
        Layer(**layer_fields(reset_after=False))


def test_counts_of_a_gru():
    layer = Layer(**gru_fields())
    assert (layer.inputs, layer.cells, layer.outputs, layer.gates) == (3, 5, 5, ("r", "z", "n"))
    assert layer.weights == layer.nonzeros == 3 * 5 * (3 + 5) and layer.parameters == layer.weights + 4 * 5
    assert [matrix.label for matrix in layer.matrices()] == [
        "w_x[r]", "w_r[r]", "w_x[z]", "w_r[z]", "w_x[n]", "w_r[n]"]


def test_layers_must_fit_each_other():
    first, second = random_model(0, 3, (5, 2), 4).layers
    with pytest.raises(ModelError, match=r"'lstm0' w_x: expected .* = \(4, 5, 4\), found \(4, 5, 3\)"):
        Model(layers=(second, first))
    with pytest.raises(ModelError, match=r"model 'x' has 2 layers named 'lstm0'"):
        Model(layers=(first, dataclasses.replace(second, name="lstm0")), name="x")
    with pytest.raises(ModelError, match=r"head weight: expected shape .* = \(any, 4\), found \(1, 2\)"):
        Model(layers=(first, second), head=Dense(weight=[[1, 2]], bias=[0]))
    with pytest.raises(ModelError, match=r"head bias: expected shape \(K\) = \(1\), found \(2,\)"):
        Dense(weight=[[1, 2]], bias=[0, 0])
    with pytest.raises(ModelError, match=r"model 'model' has no layers"):
        Model(layers=())


def test_arrays_are_the_models_own():
    w_x = np.ones((4, 5, 3), np.float32)
    layer = Layer(**layer_fields(w_x=w_x))
    w_x[:] = 7
    assert layer.w_x.max() == 1 and layer.w_x.dtype == np.float32
    with pytest.raises(ValueError, match="read-only"):
        layer.w_x[0, 0, 0] = 2
    assert Layer(**layer_fields(bias=np.ones((4, 5), np.int8))).bias.dtype == np.float64


def test_arrays_that_nobody_can_write_to_are_not_copied():
    w_x = np.ones((4, 5, 3))
    view = w_x[:]
    view.setflags(write=False)
    assert not np.shares_memory(Layer(**layer_fields(w_x=view)).w_x, w_x)
    w_x.setflags(write=False)
    layer = Layer(**layer_fields(w_x=w_x))
    assert layer.w_x is w_x
    assert dataclasses.replace(layer, name="other").w_x is w_x
    assert Layer(**layer_fields(w_x=np.asfortranarray(w_x))).w_x.flags.c_contiguous


def test_counts():
    w_x = np.zeros((4, 5, 3))
    w_x[0] = 1
    layer = Layer(**layer_fields(w_x=w_x))
    assert layer.weights == 4 * 5 * 3 + 4 * 5 * 2 + 2 * 5
    assert layer.nonzeros == 5 * 3 + 4 * 5 * 2 + 2 * 5
    assert layer.density == layer.nonzeros / layer.weights
    assert layer.parameters == layer.weights + 4 * 5 + 3 * 5
    model = Model(layers=(layer, random_layer(np.random.default_rng(1), "second", 2, 4)))
    assert model.weights == layer.weights + 4 * 4 * 2 + 4 * 4 * 4
    assert (model.inputs, model.outputs) == (3, 4)
    assert [matrix.label for matrix in layer.matrices()] == [
        "w_x[i]", "w_r[i]", "w_x[f]", "w_r[f]", "w_x[g]", "w_r[g]", "w_x[o]", "w_r[o]", "w_ym"]


def test_the_paper_counts():
    """3,248,128 matrix weights in all."""
    sizes = {"w_x": (4, 1024, 153), "w_r": (4, 1024, 512), "bias": (4, 1024), "w_ym": (512, 1024)}
    layer = Layer(name="ese", **{tensor: np.zeros(shape, np.float32) for tensor, shape in sizes.items()})
    assert layer.weights == 3_248_128 and layer.nonzeros == 0


@pytest.mark.parametrize("model", [
    random_model(1, 3, 5),
    random_model(2, 3, (5, 2), (4, 3), 6, peephole=True, g_activation="sigmoid", head=2),
    Model(layers=(random_gru(np.random.default_rng(3), "a", 3, 5), random_layer(np.random.default_rng(4), "b", 5, 2),
                  random_gru(np.random.default_rng(5), "c", 2, 4, reset_after=False)))])
def test_the_file_gives_the_model_back(model, tmp_path):
    path = tmp_path / "model"
    model.save(path)
    assert path.exists()
    assert_equal(Model.load(path), model)
    again = tmp_path / "again"
    Model.load(path).save(again)
    assert again.read_bytes() == path.read_bytes()


def test_keys_may_be_absent(tmp_path):
    path = tmp_path / "plain.npz"
    np.savez(path, **{"layer0.w_x": np.ones((4, 2, 3)), "layer0.w_r": np.ones((4, 2, 2)),
                      "layer0.bias": np.zeros((4, 2))})
    model = Model.load(path)
    assert (model.name, model.layers[0].name, model.layers[0].g_activation) == ("plain", "layer0", "tanh")
    assert model.layers[0].peephole is model.layers[0].w_ym is model.head is None


@pytest.mark.parametrize("changes, message", [
    ({"layer0.bias": None}, "key 'layer0.bias' is missing"),
    ({"layer0.weight": 0}, "unknown key 'layer0.weight'; a layer has name, cell, w_x, w_r, bias"),
    ({"layer0.reset_after": 1}, "key 'layer0.reset_after': expected one boolean, found shape () of type int64"),
    ({"layer2.w_x": 0}, "key 'layer1.w_x' is missing"),
    ({"head.bias": [0]}, "head needs both keys 'head.weight' and 'head.bias'"),
    ({"layer0.w_x": None, "layer0.w_r": None, "layer0.bias": None}, "no layers: key 'layer0.w_x' is missing"),
])
def test_wrong_keys_are_named(changes, message, tmp_path):
    fields = {"layer0.w_x": np.ones((4, 2, 3)), "layer0.w_r": np.ones((4, 2, 2)),
              "layer0.bias": np.zeros((4, 2)), **changes}
    np.savez(tmp_path / "model.npz", **{key: value for key, value in fields.items() if value is not None})
    with pytest.raises(ModelError) as error:
        Model.load(tmp_path / "model.npz")
    assert str(error.value).startswith(message)


def test_what_is_no_npz_is_refused(tmp_path):
    path = tmp_path / "model.npz"
    random_model(3, 3, 5).save(path)
    whole = path.read_bytes()
    np.savez(tmp_path / "pickled.npz", **{"layer0.w_x": np.array([{}], object)})
    np.save(tmp_path / "single.npy", np.zeros(3))
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("layer0.w_x", "not an array")
    damaged = bytearray(whole)
    damaged[300] ^= 255
    (tmp_path / "short").write_bytes(whole[:-30])
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "damaged").write_bytes(damaged)
    for name in ("pickled.npz", "single.npy", "other.zip", "short", "empty", "damaged"):
        with pytest.raises(ModelError, match=rf"{name}: not an .npz of plain arrays"):
            Model.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        Model.load(tmp_path / "absent")


def test_an_npz_unpacks_to_a_limited_size(tmp_path):
    """The size that it declares is checked before anything is unpacked."""
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("layer0.w_x.npy", "w") as member:
        for _ in range(300):
            member.write(bytes(1 << 20))
    tracemalloc.start()
    with pytest.raises(ModelError, match="it unpacks to 314,572,800 bytes; at most 268,435,456 are read"):
        Model.load(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    np.savez_compressed(tmp_path / "thin.npz", frames=np.zeros((1000, 1000)))
    assert (read_npz(tmp_path / "thin.npz")["frames"] == 0).all()
