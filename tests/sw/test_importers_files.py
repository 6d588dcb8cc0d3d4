# SPDX-License-Identifier: Apache-2.0
"""Files of named arrays, the choice of an importer, and files that every importer refuses."""

import io
import json
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
from import_tools import assert_close, assert_survives, run_float
from models import random_gru

from openese.sw import importers
from openese.sw.importers import ImportRefused, base
from openese.sw.model.layers import TENSORS, Dense, Layer, Model, ModelError
from openese.sw.model.network import Network

SEED = 7
INPUTS, H, P = 3, 4, 2


def layer(name="lstmp", inputs=INPUTS, rng=None):
    """An LSTMP with peepholes."""
    rng = rng or np.random.default_rng(SEED)
    return Layer(name=name, w_x=rng.normal(size=(4, H, inputs)), w_r=rng.normal(size=(4, H, P)),
                 bias=rng.normal(size=(4, H)), peephole=rng.normal(size=(3, H)), w_ym=rng.normal(size=(P, H)))


def kaldi(layer, prefix=""):
    """Kaldi's names and order: g, i, f, o along one axis."""
    gifo = [2, 0, 1, 3]
    tensors = {"w_gifo_x": np.concatenate(layer.w_x[gifo]), "w_gifo_r": np.concatenate(layer.w_r[gifo]),
               "bias": np.concatenate(layer.bias[gifo]), "w_r_m": layer.w_ym,
               "peephole_i_c": layer.peephole[0], "peephole_f_c": layer.peephole[1],
               "peephole_o_c": layer.peephole[2]}
    return {prefix + name: value for name, value in tensors.items()}


def paper(layer, prefix=""):
    """The paper's names: one array for each gate."""
    tensors = {"w_ym": layer.w_ym}
    for number, gate in enumerate("ifco"):
        tensors |= {f"w_{gate}x": layer.w_x[number], f"w_{gate}r": layer.w_r[number],
                    f"b_{gate}": layer.bias[number]}
    for number, gate in enumerate("ifo"):
        tensors[f"w_{gate}c"] = layer.peephole[number]
    return {prefix + name: value for name, value in tensors.items()}


def assert_same(layer, expected):
    for tensor in TENSORS:
        np.testing.assert_array_equal(getattr(layer, tensor), getattr(expected, tensor))


@pytest.fixture(params=["npz", "safetensors"])
def save(request, tmp_path):
    def save(tensors):
        path = tmp_path / f"model.{request.param}"
        if request.param == "npz":
            np.savez(path, **tensors)
        else:
            numpy = pytest.importorskip("safetensors.numpy")
            numpy.save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, path)
        return path
    return save


@pytest.mark.parametrize("names", [kaldi, paper])
def test_documented_names(save, names):
    saved = layer()
    assert_same(importers.load(save(names(saved))).model.layers[0], saved)


@pytest.mark.parametrize("names", [kaldi, paper])
def test_numbered_layers_are_stacked(save, names):
    rng = np.random.default_rng(SEED)
    tensors = {}
    for number in (10, 9, 2):
        tensors |= names(layer(inputs=INPUTS if number == 2 else P, rng=rng), f"net.layer{number}.")
    tensors["out.weight"], tensors["out.bias"] = rng.normal(size=(5, P)), rng.normal(size=5)
    path = save(tensors)
    layers = importers.load(path).model.layers
    assert [layer.name for layer in layers] == ["net.layer2", "net.layer9", "net.layer10"]
    assert "out" in [entry.name for entry in importers.entries(path)]
    network = importers.load(path, ["net.layer2", "out"])
    np.testing.assert_array_equal(network.head.weight, tensors["out.weight"])


@pytest.mark.parametrize("names, absent, reason", [
    (kaldi, "bias", r"^model\.\w+: lstm: bias is missing"), (paper, "b_c", "lstm: b_c is missing"),
    (kaldi, "peephole_f_c", "peephole_f_c is missing"), (paper, "w_ic", "w_ic is missing"),
    (paper, "w_or", "w_or is missing")])
def test_missing_tensors_are_named(save, names, absent, reason):
    tensors = names(layer())
    del tensors[absent]
    with pytest.raises(ImportRefused, match=reason):
        importers.load(save(tensors))


@pytest.mark.parametrize("names, changed, shape, reason", [
    (kaldi, "bias", (15,), r"expected shape \(4H,\), found \(15,\)"),
    (kaldi, "w_gifo_x", (15, INPUTS), r"expected shape \(16, any\)"),
    (kaldi, "peephole_i_c", (5,), r"expected shape \(4,\), found \(5,\)"),
    (paper, "w_fx", (H, INPUTS + 1), r"w_fx: expected shape \(4, 3\), found \(4, 4\)"),
    (paper, "b_o", (3,), "b_o: expected"), (paper, "w_ym", (P, H + 1), "w_ym: expected"),
    (paper, "w_ix", (), "expected")])
def test_wrong_shapes_are_named(save, names, changed, shape, reason):
    with pytest.raises(ValueError, match=reason):
        importers.load(save(names(layer()) | {changed: np.ones(shape)}))


def test_values_must_be_finite_floats(save):
    with pytest.raises(ModelError, match=r"w_x\[0, 1, 2\]: nan is not a finite number"):
        w_ix = np.ones((H, INPUTS))
        w_ix[1, 2] = np.nan
        importers.load(save(paper(layer()) | {"w_ix": w_ix}))
    with pytest.raises(ImportRefused, match="w_ix has type .*8, not floating point"):
        importers.load(save(paper(layer()) | {"w_ix": np.ones((H, INPUTS), np.int8)}))


def test_own_models(save):
    model = Model(layers=(layer(),), head=Dense(weight=np.ones((2, P)), bias=np.ones(2)))
    path = save({"layer0.w_x": model.layers[0].w_x, "layer0.w_r": model.layers[0].w_r,
                 "layer0.bias": model.layers[0].bias, "layer0.peephole": model.layers[0].peephole,
                 "layer0.w_ym": model.layers[0].w_ym,
                 "head.weight": np.ones((2, P)), "head.bias": np.ones(2)})
    network = importers.load(path)
    assert_same(network.model.layers[0], model.layers[0])
    assert network.head.weight.shape == (2, P)
    entry, = importers.entries(path)
    assert entry.summary == "3 -> 2, 1 layers"
    with pytest.raises(ImportRefused, match="no layer is named 'x'; select from 'model'"):
        importers.load(path, "x")


def test_saved_networks_come_back(tmp_path):
    model = Model(layers=(layer(),))
    path = tmp_path / "mine.npz"
    Network.of(model).save(path)
    x = np.random.default_rng(1).normal(size=(5, 2, INPUTS))
    assert_close(run_float(importers.load(path), x)[0], run_float(Network.of(model), x)[0])


@pytest.mark.parametrize("dtype, word", [(np.float16, "float16 weights"), (np.float32, ""), (np.float64, "")])
def test_float_types(save, dtype, word):
    tensors = {name: value.astype(dtype) for name, value in kaldi(layer()).items()}
    network = importers.load(save(tensors))
    assert word in " ".join(network.notes) and bool(network.notes) == bool(word)
    np.testing.assert_array_equal(network.model.layers[0].w_ym, tensors["w_r_m"])


def test_big_endian_arrays(tmp_path):
    path, saved = tmp_path / "big.npz", layer()
    np.savez(path, **{name: value.astype(">f8") for name, value in kaldi(saved).items()})
    assert_same(importers.load(path).model.layers[0], saved)


def test_bfloat16(tmp_path):
    pytest.importorskip("safetensors")
    values = np.random.default_rng(SEED).normal(size=(2, 16, 4)).astype(np.float32).view(np.uint32) >> 16
    head = json.dumps({name: {"dtype": "BF16", "shape": [16, 4], "data_offsets": [128 * n, 128 * n + 128]}
                       for n, name in enumerate(("weight_ih", "weight_hh"))}).encode()
    path = tmp_path / "b.safetensors"
    path.write_bytes(len(head).to_bytes(8, "little") + head + values.astype("<u2").tobytes())
    network = importers.load(path)
    assert "bfloat16 weights" in network.notes[0]
    np.testing.assert_array_equal(network.model.layers[0].w_x.reshape(16, 4),
                                  (values[0] << 16).astype(np.uint32).view(np.float32))


# -- untrusted files -------------------------------------------------------------------------------


def npz(tmp_path, **members):
    path = tmp_path / "bad.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return path


def test_no_pickles_in_npz(tmp_path):
    path = tmp_path / "bad.npz"
    np.savez(path, w_ix=np.array([object()], dtype=object))
    with pytest.raises(ImportRefused, match="bad.npz: w_ix.npy: Python objects are not read"):
        importers.load(path)


def header(shape):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


@pytest.mark.parametrize("data, reason", [
    (b"", "not a .npy array"), (b"\x93NUMPY\x01\x00", "not a .npy array"),
    (header((1 << 40, 1 << 20)) + bytes(64), "needs .* bytes, not 64"),
    (header((3,)) + bytes(23), "needs 24 bytes, not 23")])
def test_damaged_arrays(tmp_path, data, reason):
    with pytest.raises(ImportRefused, match=f"bad.npz: w_ix.npy: .*{reason}"):
        importers.load(npz(tmp_path, w_ix=data))


def test_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(base.read_member, "__defaults__", (1 << 20,))
    path = npz(tmp_path, w_ix=header((13 << 20,)) + bytes(104 << 20))
    assert path.stat().st_size < 1 << 20
    tracemalloc.start()
    assert [entry.name for entry in importers.entries(path)] == ["lstm"]
    with pytest.raises(ImportRefused, match=r"^bad.npz: lstm: member 'w_ix.npy' unpacks to 109,05.* bytes; at most "):
        importers.load(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 22
    tracemalloc.stop()


def test_a_member_that_lies_about_its_size(tmp_path):
    path = npz(tmp_path, w_ix=header((1000,)) + bytes(8000))
    data = bytearray(path.read_bytes())
    for at in (data.index(b"PK\x03\x04") + 22, data.index(b"PK\x01\x02") + 24):
        data[at:at + 4] = (100).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(ImportRefused, match="^bad.npz: "):
        importers.load(path)


@pytest.mark.parametrize("name", ["model.npz", "model.pt", "model.keras", "model.onnx", "model.safetensors",
                                  "model.h5"])
def test_garbage_and_cut_files(tmp_path, name):
    path = tmp_path / name
    for data in (b"", b"PK\x03\x04" + bytes(100), bytes(range(256)), b"\x89HDF\r\n\x1a\n" + bytes(100)):
        path.write_bytes(data)
        with pytest.raises(ImportRefused, match=f"^(reading|{name}: )"):
            importers.load(path)


def test_unknown_files(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"anything")
    with pytest.raises(ImportRefused, match="model.tflite: of no known kind; openese reads NumPy .npz"):
        importers.load(path)
    with pytest.raises(FileNotFoundError):
        importers.load(tmp_path / "absent.onnx")


@pytest.mark.parametrize("module, extra, name, content", [
    ("onnx", "onnx", "model.onnx", b"\x08\x08"), ("h5py", "keras", "model.h5", b"\x89HDF\r\n\x1a\n"),
    ("safetensors", "safetensors", "model.safetensors", b"\x02" + bytes(7) + b"{}")])
def test_absent_libraries_are_one_line(tmp_path, monkeypatch, module, extra, name, content):
    monkeypatch.setitem(sys.modules, module, None)
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ImportRefused) as caught:
        importers.load(path)
    assert str(caught.value).endswith(f"needs the '{extra}' extra: pip install openese[{extra}]")
    assert "\n" not in str(caught.value)


def test_damaged_files(save):
    assert_survives(save(kaldi(layer())))


# -- sharded safetensors -----------------------------------------------------------------------------

INDEX = "model.safetensors.index.json"
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


@pytest.fixture
def sharded(tmp_path):
    """The tensors of an LSTM in two shards, and a function that changes the index."""
    numpy = pytest.importorskip("safetensors.numpy", reason="the extra `safetensors` is not installed")
    tensors = {name: np.ascontiguousarray(value) for name, value in kaldi(layer(), "net.").items()}
    names = {name: SHARDS["peephole" in name] for name in tensors}
    for shard in SHARDS:
        numpy.save_file({name: value for name, value in tensors.items() if names[name] == shard}, tmp_path / shard)

    def write(names=names):
        (tmp_path / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names}))
        return tmp_path

    write.names = names
    write()
    return write


@pytest.mark.parametrize("name", [INDEX, *SHARDS])
def test_shards_are_read_by_their_index(sharded, name):
    assert_same(importers.load(sharded() / name).model.layers[0], layer())


@pytest.mark.parametrize("change, reason", [
    (lambda names: dict.fromkeys(names, "../model.safetensors"), "'../model.safetensors' is not in the folder of the"),
    (lambda names: dict.fromkeys(names, "/etc/passwd"), "'/etc/passwd' is not in the folder of the index"),
    (lambda names: {**names, "more": "model-00003-of-00003.safetensors"}, "'model-00003-of-00003.safetensors' missing"),
    (lambda names: {**names, "net.more": SHARDS[0]}, "model-00001-of-00002.safetensors has no tensor 'net.more'"),
    (lambda names: {name: shard for name, shard in names.items() if name != "net.bias"}, "'net.bias' is in a shard"),
    (lambda names: {**names, "net.bias": SHARDS[1]}, r"\S+ has no tensor 'net.bias'"),
    (lambda names: {"net.bias": 3}, r"not an index of shards \(TypeError"),
    (lambda names: list(names), "not an index of shards")])
def test_indices_that_do_not_fit(sharded, change, reason):
    with pytest.raises(ImportRefused, match=f"^{INDEX}: {reason}"):
        importers.load(sharded(change(sharded.names)) / INDEX)


def test_shards_elsewhere_are_not_read(sharded, tmp_path_factory):
    folder = sharded()
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "shard"
    (folder / SHARDS[0]).rename(elsewhere)
    with pytest.raises(ImportRefused, match=f"'{SHARDS[0]}' missing; put all shards beside the index"):
        importers.load(folder / INDEX)
    (folder / SHARDS[0]).symlink_to(elsewhere)
    with pytest.raises(ImportRefused, match=f"'{SHARDS[0]}' links to another folder; links are not followed"):
        importers.load(folder / INDEX)


def test_damaged_shards(sharded):
    folder = sharded()
    assert_survives(folder / INDEX)
    assert_survives(folder / SHARDS[0])
    (folder / INDEX).write_text("[" * 100_000)
    with pytest.raises(ImportRefused, match=f"^{INDEX}: "):
        importers.load(folder / INDEX)


def test_a_shard_without_its_index(sharded):
    folder = sharded()
    (folder / INDEX).unlink()
    for shard in SHARDS:
        with pytest.raises(ImportRefused, match=f"^{shard}: one of 2 shards, but there is no {INDEX} beside it"):
            importers.load(folder / shard)


# -- names -------------------------------------------------------------------------------------------


def test_names_of_mlx(save):
    """Wx, Wh and bias, gates in the order i, f, g, o."""
    given = Layer(name="net", w_x=layer().w_x, w_r=np.random.default_rng(2).normal(size=(4, H, H)), bias=layer().bias)
    path = save({"net.Wx": given.w_x.reshape(4 * H, -1), "net.Wh": given.w_r.reshape(4 * H, -1),
                 "net.bias": given.bias.reshape(-1)})
    assert_same(importers.load(path).model.layers[0], given)


def test_grus_of_mlx(save):
    """Wx, Wh, b and bhn, gates in the order r, z, n; one bias alone is not understood."""
    given = random_gru(np.random.default_rng(3), "net", 3, H)
    tensors = {"net.Wx": given.w_x.reshape(3 * H, -1), "net.Wh": given.w_r.reshape(3 * H, -1),
               "net.b": given.bias.reshape(-1), "net.bhn": given.bias_rn}
    assert_same(importers.load(save(tensors)).model.layers[0], given)
    del tensors["net.bhn"]
    with pytest.raises(ImportRefused, match="'net.b' beside its weights: not those of a GRU, so their effect is not"):
        importers.load(save(tensors))


def test_names_that_cannot_be_printed(tmp_path):
    path = tmp_path / "odd.npz"
    np.savez(path, **{"\x1b[2J\n.weight_hh": np.ones((8, 2)), "\x1b[2J\n.weight_ih": np.ones((8, 3))})
    assert [entry.name for entry in importers.entries(path)] == [r"\x1b[2J\n"]
    assert importers.load(path).inputs == 3


def test_tensors_that_are_not_understood(save):
    """In a file without modules, whatever lies beside the arrays of an LSTM belongs to it."""
    path = save({**kaldi(layer()), "mean": np.ones(3)})
    with pytest.raises(ImportRefused, match="'mean' beside its weights: not those of an LSTM"):
        importers.load(path)
    assert_same(importers.load(path, ignore="mean").model.layers[0], layer())
