# SPDX-License-Identifier: Apache-2.0
"""Files of named arrays, the choice of an importer, and files that every importer refuses."""

import io
import json
import sys
import zipfile

import numpy as np
import pytest
from import_tools import assert_close, assert_survives, run_float

from openese.sw import importers
from openese.sw.importers import ImportRefused, base
from openese.sw.model.layers import Dense, Layer, Model, ModelError
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
    for tensor in ("w_x", "w_r", "bias", "peephole", "w_ym"):
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
    path = npz(tmp_path, w_ix=bytes(100 << 20))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(ImportRefused, match="unpacks to 104,857,600 bytes; at most 1,048,576 are read"):
        importers.load(path)


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
