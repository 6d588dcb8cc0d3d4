# SPDX-License-Identifier: Apache-2.0
"""Damaged files that a fuzzer found: each is refused in a sentence, and in little memory."""

import io
import tracemalloc
import zipfile

import numpy as np
import pytest
from models import random_model

from openese.sw import importers
from openese.sw.importers import ImportRefused
from openese.sw.model.layers import ModelError
from openese.sw.model.network import Network


def saved(tmp_path):
    path = tmp_path / "model.npz"
    Network.of(random_model(1, 2, 3)).save(path)
    return path


def repacked(path, change, compression=zipfile.ZIP_STORED):
    """Write the archive again with ``change(name, content)`` for each member."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, change(name, content))


def test_a_header_that_is_no_python(tmp_path):
    path = saved(tmp_path)
    repacked(path, lambda name, content: content.replace(b"(2,", b"((2").replace(b"(4,", b"((4"))
    with pytest.raises(ModelError, match="model.npz: not an .npz of plain arrays"):
        Network.load(path)
    with pytest.raises(ImportRefused, match="not a .npy array"):
        importers.load(path)


def test_a_member_larger_than_its_archive(tmp_path):
    """Reading it would take as much memory as it claims."""
    path = saved(tmp_path)
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02") + 20  # its packed size in the directory
    data[at:at + 4] = (1_999_999_999).to_bytes(4, "little")
    path.write_bytes(data)
    tracemalloc.start()
    with pytest.raises(ModelError, match="an array of 1,999,999,999 bytes in a file of"):
        Network.load(path)
    with pytest.raises(ImportRefused, match="damaged .member '.*' has 1,999,999,999 bytes, the archive"):
        importers.load(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_a_tensor_that_ends_within_a_number(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "model.pt"
    torch.save(torch.nn.LSTM(2, 3).state_dict(), path)
    repacked(path, lambda name, content: content[:-1] if name.endswith("/data/0") else content)
    with pytest.raises(ImportRefused, match="95 bytes are no whole number of Float elements"):
        importers.load(path)


@pytest.mark.parametrize(("reads", "product", "problem"), [
    ([], (["S", "K"], ["Z"]), "the Squeeze node 'lost' has no input"),
    (["Z"], (["S", "K"], ["Z"]), "the (Squeeze|MatMul) node '(lost|product)' reads its own output"),
    (["X"], (["S", "K"], []), "the MatMul node 'product' has no output"),
    (["X"], (["S", "K"], [""]), "the MatMul node 'product' has no output"),
    (["X"], (["S"], ["Z"]), "the MatMul node 'product' has 1 of its 2 inputs"),
    (["X"], (["", "K"], ["Z"]), "the MatMul node 'product' has 1 of its 2 inputs")])
def test_nodes_that_cannot_be(tmp_path, reads, product, problem):
    onnx = pytest.importorskip("onnx")
    helper, kinds = onnx.helper, onnx.TensorProto
    weight = onnx.numpy_helper.from_array(np.ones((3, 2), np.float32), "K")
    nodes = [helper.make_node("Squeeze", reads, ["S"], name="lost"),
             helper.make_node("MatMul", *product, name="product")]
    graph = helper.make_graph(nodes, "g", [], [helper.make_tensor_value_info("Z", kinds.FLOAT, None)], [weight])
    file = io.BytesIO()
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), file)
    path = tmp_path / "model.onnx"
    path.write_bytes(file.getvalue())
    with pytest.raises(ImportRefused, match=f"model.onnx: the file is damaged: {problem}"):
        importers.entries(path)
