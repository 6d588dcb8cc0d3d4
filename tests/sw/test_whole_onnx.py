# SPDX-License-Identifier: Apache-2.0
"""Whole ONNX networks: onnxruntime with the LSTMs on an engine, against onnxruntime alone."""

import os
import signal
import threading

import numpy as np
import pytest

from openese.sw.model.layers import ModelError
from openese.sw.whole.engine import Engine, float_runners
from openese.sw.whole.host import HostError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxruntime_extensions")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from openese.sw.whole.onnx_host import OnnxHost, open_file  # noqa: E402

#: The largest error of the floating-point engine, by the scale of an output.
BOUND = 1e-4
DIRECTIONS = ("forward", "reverse", "bidirectional")


def value(name, type_=TensorProto.FLOAT, shape=None):
    return helper.make_tensor_value_info(name, type_, shape)


def model_of(nodes, tensors, inputs, outputs, opset=17):
    """A model; inputs and outputs are names of floats of any shape, or value infos."""
    ports = [[value(item) if isinstance(item, str) else item for item in items] for items in (inputs, outputs)]
    graph = helper.make_graph(nodes, "test", *ports,
                              [numpy_helper.from_array(array, name) for name, array in tensors.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def weights(rng, inputs, cells, ways=1, suffix="", dtype=np.float32):
    shapes = {"W": (ways, 4 * cells, inputs), "R": (ways, 4 * cells, cells), "B": (ways, 8 * cells)}
    return {f"{name}{suffix}": rng.normal(size=shape, scale=0.5).astype(dtype) for name, shape in shapes.items()}


def opened(tmp_path, model, name="net.onnx"):
    (tmp_path / name).write_bytes(model.SerializeToString())
    return open_file(tmp_path / name)


def engine_of(host):
    return Engine(host.parts, float_runners(host.parts))


def assert_equal(host, inputs, bound=BOUND):
    """The engine in floating point gives the outputs of onnxruntime."""
    found, wanted = host.run(inputs, engine_of(host)), host.original(inputs)
    assert found.keys() == wanted.keys()
    for name, expected in wanted.items():
        assert found[name].shape == expected.shape and found[name].dtype == expected.dtype
        if expected.dtype.kind == "f":
            scale = max(1e-3, np.abs(expected).max(initial=0))
            np.testing.assert_allclose(found[name], expected, rtol=0, atol=bound * scale)
        else:
            np.testing.assert_array_equal(found[name], expected)
    return found


def places(host):
    return {item.name: item.place for item in host.items}


def test_a_network(tmp_path):
    """A front, a bidirectional LSTM with lengths and states, and a head; saved and loaded."""
    rng = np.random.default_rng(1)
    tensors = weights(rng, 5, 4, 2) | {
        "F": rng.normal(size=(3, 5)).astype("f"), "G": rng.normal(size=(8, 2)).astype("f"),
        "flat": np.array([0, 0, -1]), "never": np.zeros(3, "f")}
    nodes = [helper.make_node("MatMul", ["x", "F"], ["f"], "front"), helper.make_node("Relu", ["f"], ["r"], "relu"),
             helper.make_node("LSTM", ["r", "W", "R", "B", "lens", "h", "c"], ["Y", "hn", "cn"], "lstm", hidden_size=4,
                              direction="bidirectional"),
             helper.make_node("Transpose", ["Y"], ["T"], "turn", perm=[0, 2, 1, 3]),
             helper.make_node("Reshape", ["T", "flat"], ["S"], "join"),
             helper.make_node("MatMul", ["S", "G"], ["y"], "head"), helper.make_node("Neg", ["y"], ["z"], "nowhere")]
    ports = [value("x", shape=["t", "b", 3]), value("lens", TensorProto.INT32, ["b"]), "h", "c"]
    model = model_of(nodes, tensors, ports, ["y", "hn", "cn"])
    host = opened(tmp_path, model)
    inputs = {"x": rng.normal(size=(6, 3, 3)), "lens": np.array([6, 0, 2]), "h": rng.normal(size=(2, 3, 4)),
              "c": rng.normal(size=(2, 3, 4))}
    outputs = assert_equal(host, inputs)
    assert [port.text() for port in host.inputs] == ["x float32 (t, b, 3)", "lens int32 (b)", "h float32", "c float32"]
    assert places(host) == {
        "front": "host", "relu": "host", "lstm": "machine", "turn": "host", "join": "host", "head": "host",
        "nowhere": "unused", "W": "machine", "R": "machine", "B": "machine", "F": "host", "G": "host", "flat": "host",
        "never": "unused"}
    folder = tmp_path / "net"
    folder.mkdir()
    host.save(folder)
    (tmp_path / "net.onnx").unlink()
    again = OnnxHost.load(folder)
    assert (again.name, again.inputs, again.outputs) == ("net", host.inputs, host.outputs) and not again.parts
    for name, array in again.run(inputs, engine_of(host)).items():
        np.testing.assert_array_equal(array, outputs[name])
    with pytest.raises(HostError, match="net: the original network is not here; open its file"):
        again.original(inputs)


def small(tmp_path, name="net.onnx", seed=2):
    tensors = weights(np.random.default_rng(seed), 3, 4)
    nodes = [helper.make_node("LSTM", ["x", "W", "R", "B"], ["Y"], "lstm", hidden_size=4),
             helper.make_node("Relu", ["Y"], ["y"])]
    return opened(tmp_path, model_of(nodes, tensors, ["x"], ["y"]), name)


def test_errors_of_the_engine_leave_the_run(tmp_path):
    host = small(tmp_path)
    x = np.zeros((2, 1, 3))
    for error in (ValueError("broken"), KeyboardInterrupt(), SystemExit(3)):
        engine = engine_of(host)

        def fail(*given, error=error):
            raise error

        engine.call = fail
        with pytest.raises(type(error)) as caught:
            host.run({"x": x}, engine)
        assert caught.value is error
    with pytest.raises(ModelError, match="not all numbers are finite"):
        host.run({"x": x + np.nan}, engine_of(host))
    with pytest.raises(HostError, match=r"lstm: the input of an LSTM has the shape \(2, 3\)"):
        host.run({"x": x[:, 0]}, engine_of(host))
    assert host.run({"x": x}, engine_of(host))["y"].shape == (2, 1, 1, 4)


@pytest.mark.skipif(not hasattr(signal, "raise_signal") or os.name == "nt", reason="signals of POSIX systems")
def test_interrupt(tmp_path):
    """Ctrl-C while the engine works, and while onnxruntime does."""
    host = small(tmp_path)
    engine = engine_of(host)
    call, before = engine.call, signal.getsignal(signal.SIGINT)

    def interrupted(*given):
        signal.raise_signal(signal.SIGINT)
        return call(*given)

    engine.call = interrupted
    with pytest.raises(KeyboardInterrupt):
        host.run({"x": np.zeros((2, 1, 3))}, engine)
    assert signal.getsignal(signal.SIGINT) is before


def test_sessions_do_not_mix(tmp_path):
    """Several hosts alive, in several threads."""
    hosts = [small(tmp_path, f"net{seed}.onnx", seed) for seed in range(4)]
    x = np.random.default_rng(3).normal(size=(20, 2, 3))
    wanted = [host.original({"x": x})["y"] for host in hosts]
    found = [None] * len(hosts)

    def run(number):
        for _ in range(5):
            found[number] = hosts[number].run({"x": x}, engine_of(hosts[number]))["y"]

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(hosts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
