# SPDX-License-Identifier: Apache-2.0
"""Whole ONNX networks: onnxruntime with the LSTMs on an engine, against onnxruntime alone."""

import dataclasses
import os
import signal
import threading
import warnings
from collections import Counter

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from openese.rtl.config import machine_config
from openese.sw.model.layers import DENSE, ModelError
from openese.sw.pack.schedule import CapacityError
from openese.sw.whole.engine import Engine, float_runners
from openese.sw.whole.host import HostError
from openese.sw.whole.network import CompiledWhole, compile_host

onnx = pytest.importorskip("onnx", reason="needs the extra `onnx`")
pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")
pytest.importorskip("onnxruntime_extensions", reason="needs the extra `onnx`")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx_networks import random_network  # noqa: E402

from openese.sw.importers import ImportRefused  # noqa: E402
from openese.sw.whole import onnx_operator  # noqa: E402
from openese.sw.whole.onnx_host import OnnxHost, open_file  # noqa: E402

#: The largest error of the floating-point engine, by the scale of an output.
BOUND = 1e-4
#: The same where onnxruntime rounds to float16 between its nodes.
HALF_BOUND = 3e-3
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


def opened(tmp_path, model, name="net.onnx", machine=None):
    (tmp_path / name).write_bytes(model.SerializeToString())
    return open_file(tmp_path / name, machine=machine)


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
    call = engine.call

    def interrupted(*given):
        signal.raise_signal(signal.SIGINT)
        return call(*given)

    engine.call = interrupted
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores the signal for its jobs
    try:
        with pytest.raises(KeyboardInterrupt):
            host.run({"x": np.zeros((2, 1, 3))}, engine)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("releases", [onnx_operator._TAKE_ARRAYS, ()], ids=["arrays", "lists"])
def test_results_leave_the_operator(tmp_path, monkeypatch, releases):
    """onnxruntime-extensions takes an operator's outputs as arrays, and of an unknown release as lists."""
    monkeypatch.setattr(onnx_operator, "_TAKE_ARRAYS", releases)
    taken = []
    monkeypatch.setattr(onnx_operator._Result, "tolist", lambda result: taken.append(result) or np.array(result))
    tensors = weights(np.random.default_rng(4), 3, 4, ways=2)
    nodes = [helper.make_node("LSTM", ["x", "W", "R", "B"], ["y", "h", "c"], "lstm", hidden_size=4,
                              direction="bidirectional")]
    host = opened(tmp_path, model_of(nodes, tensors, ["x"], ["y", "h", "c"]))
    x = np.random.default_rng(5).normal(size=(7, 5, 3))
    outputs = host.run({"x": x}, engine_of(host))
    assert len(taken) == (3 if releases else 0)
    for name, array in host.original({"x": x}).items():
        np.testing.assert_allclose(outputs[name], array, atol=1e-6)


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


# -- folds -----------------------------------------------------------------------------------------


def node(kind, inputs, outputs, name="", **attributes):
    return helper.make_node(kind, inputs.split(), outputs.split(), name or kind, **attributes)


def folded(tmp_path, nodes, extra, shape=("t", "b", 3), opset=17, size=3, cells=4):
    """A network of these nodes from x to f (T, B, ``size``) and an LSTM; its places, after a comparison."""
    rng = np.random.default_rng(5)
    tensors = weights(rng, size, cells) | {name: np.asarray(array, "f" if np.asarray(array).dtype.kind == "f" else None)
                                           for name, array in extra.items()}
    nodes = [*nodes, node("LSTM", "f W R B", "y", "lstm", hidden_size=cells)]
    host = opened(tmp_path, model_of(nodes, tensors, [value("x", shape=shape)], ["y"], opset))
    sizes = [size if isinstance(size, int) else {"t": 6, "b": 2}.get(size, 3) for size in shape]
    assert_equal(host, {"x": rng.normal(size=sizes)})
    return places(host), host


M, K = np.linspace(-1, 1, 9).reshape(3, 3) + 0.1, np.array([0.5, -0.25, 1.5])


@pytest.mark.parametrize("bias", [K, K[None], K[None, None], K[:1], K[0], np.array([0.0] * 3)])
@pytest.mark.parametrize("order", ["p c", "c p"])
def test_linear_is_folded(tmp_path, bias, order):
    nodes = [node("MatMul", "x m", "p"), node("Add", order, "f")]
    found, host = folded(tmp_path, nodes, {"m": M, "c": bias})
    assert found == {"MatMul": "folded", "Add": "folded", "lstm": "machine", "W": "machine", "R": "machine",
                     "B": "machine", "m": "machine", "c": "machine"}
    assert [item.detail for item in host.items if item.name in ("MatMul", "Add")] == ["into 'lstm'"] * 2
    assert host.parts["lstm"].inputs == 3


@pytest.mark.parametrize("nodes, extra, names", [
    ([node("Gemm", "x2 m c", "g", transB=1, alpha=0.5, beta=2.0), node("Unsqueeze", "g one", "f")],
     {"m": M, "c": K, "one": np.array([1])}, ["Gemm"]),
    ([node("Gemm", "x2 m", "g"), node("Unsqueeze", "g one", "f")], {"m": M, "one": np.array([1])}, ["Gemm"]),
    ([node("Mul", "x c", "a"), node("Sub", "a d", "f")], {"c": K, "d": K[None]}, ["Mul", "Sub"]),
    ([node("Sub", "d x", "a"), node("Div", "a c", "f")], {"c": K, "d": K}, ["Sub", "Div"]),
    ([node("Div", "x c", "f")], {"c": np.float32(3)}, ["Div"]),
    ([node("Transpose", "x", "u", "turn", perm=[1, 2, 0]), node("BatchNormalization", "u s o m v", "n", epsilon=1e-2),
      node("Transpose", "n", "f", "back", perm=[2, 0, 1])],
     {"s": K, "o": K, "m": K, "v": np.array([0.5, 1.0, 2.0])}, ["BatchNormalization"]),
    ([node("Transpose", "x", "u", "turn", perm=[1, 0, 2]), node("MatMul", "u m", "p"), node("Mul", "p c", "q"),
      node("Transpose", "q", "f", "back", perm=[1, 0, 2])], {"m": M, "c": K}, ["MatMul", "Mul"]),
    ([node("MatMul", "x m", "p"), node("MatMul", "p n", "q", "second"), node("Identity", "q", "f")],
     {"m": M, "n": M.T}, ["MatMul", "second"]),
], ids=["Gemm", "Gemm without bias", "scale", "scale from the other side", "one scale", "batch norm", "between turns",
        "two"])
def test_folds(tmp_path, nodes, extra, names):
    two = nodes[0].input[0] == "x2"
    nodes = [node("Squeeze", "x one", "x2"), *nodes] if two else nodes
    found, _ = folded(tmp_path, nodes, extra, ("t", 1, 3) if two else ("t", "b", 3))
    assert [name for name, place in found.items() if place == "folded"] == names


@pytest.mark.parametrize("nodes, extra, shape", [
    ([node("MatMul", "x m", "p"), node("Relu", "p", "f")], {"m": M}, ("t", "b", 3)),
    ([node("MatMul", "x m", "f")], {"m": np.ones((5, 3))}, ("t", "b", 5)),  # more inputs
    ([node("Add", "x c", "f")], {"c": np.linspace(0, 1, 6).reshape(6, 1, 1)}, ("t", "b", 3)),  # other for each frame
    ([node("Add", "x c", "f")], {"c": K}, ("t", "b", 1)),  # repeats the data
    ([node("Add", "x c", "f")], {"c": K}, ("t", "b", "any")),  # may repeat the data
    ([node("Add", "x2 c", "f"), ], {"c": K[None, None]}, (6, 3)),  # adds an axis
    ([node("Mul", "x c", "f")], {"c": np.array([1.0, 100.0, 1.0])}, ("t", "b", 3)),  # spreads the scales
    ([node("Add", "x c", "f")], {"c": K * 100}, ("t", "b", 3)),  # moves the inputs off zero
    ([node("Div", "c x", "f")], {"c": K}, ("t", "b", 3)),
    ([node("BatchNormalization", "x s o m v", "f")],
     {"s": np.ones(2), "o": np.ones(2), "m": np.ones(2), "v": np.ones(2)}, ("t", 2, 3)),  # voices are its channels
    ([node("Softmax", "x", "f", axis=2)], {}, ("t", "b", 3)),
    ([node("MatMul", "x m", "p"), node("Transpose", "p", "f", "turn", perm=[0, 2, 1])], {"m": M}, ("t", 3, 3)),
], ids=["activation", "wider", "frames", "one input", "unknown inputs", "axis", "scales", "offset", "Div", "channels",
        "Softmax", "voices"])
def test_not_folded(tmp_path, nodes, extra, shape):
    if nodes[0].input[0] == "x2":
        nodes = [node("Identity", "x", "x2"), *nodes]
    found, _ = folded(tmp_path, nodes, extra, shape)
    assert "folded" not in found.values() and found["lstm"] == "machine"


def test_what_others_read_is_not_folded(tmp_path):
    rng = np.random.default_rng(5)
    nodes = [node("MatMul", "x m", "p"), node("Add", "p c", "f"), node("LSTM", "f W R B", "y", "lstm", hidden_size=4),
             node("Relu", "p", "z")]
    model = model_of(nodes, weights(rng, 3, 4) | {"m": M.astype("f"), "c": K.astype("f")}, ["x"], ["y", "z"])
    host = opened(tmp_path, model)
    assert_equal(host, {"x": rng.normal(size=(4, 2, 3))})
    assert places(host)["Add"] == "host"  # the size of p is open
    model.graph.input[0].CopyFrom(value("x", shape=["t", "b", 3]))
    host = opened(tmp_path, model)
    assert_equal(host, {"x": rng.normal(size=(4, 2, 3))})
    assert places(host)["Add"] == "folded" and places(host)["MatMul"] == "host"


# -- chains ----------------------------------------------------------------------------------------


def stack(tmp_path, moves, directions=("forward", "forward"), extra=None, between="m", shape=("t", "b", 3), second="",
          first="", outputs=("y2",), more=()):
    """Two LSTMs with nodes from y1 to m between; compared on several sizes where the file leaves them open."""
    rng = np.random.default_rng(6)
    ways = [2 if direction == "bidirectional" else 1 for direction in directions]
    tensors = weights(rng, 3, 4, ways[0], "1") | weights(rng, 4 * ways[0], 4, ways[1], "2") | (extra or {})
    nodes = [node("LSTM", f"x W1 R1 B1 {first}", "y1 h1 c1", "one", hidden_size=4, direction=directions[0]), *moves,
             node("LSTM", f"{between} W2 R2 B2 {second}", "y2 h2 c2", "two", hidden_size=4, direction=directions[1]),
             *more]
    for number in (0, -1 - len(more)):
        names = [name if name != "-" else "" for name in nodes[number].input]
        nodes[number].ClearField("input")
        nodes[number].input.extend(names)
    model = model_of(nodes, tensors, [value("x", shape=shape)], outputs)
    host = opened(tmp_path, model)
    for steps, voices in ((5, 2), (2, 5), (1, 3), (3, 1)):
        x = rng.normal(size=(steps, voices, 3))
        if runs(host, {"x": x}):
            assert_equal(host, {"x": x})
    return host


FORWARD = [node("Squeeze", "y1 one", "m")]
BOTH = [node("Transpose", "y1", "u", perm=[0, 2, 1, 3]), node("Reshape", "u flat", "m")]
ONE, FLAT = {"one": np.array([1])}, {"flat": np.array([0, 0, -1])}


@pytest.mark.parametrize("directions", [("forward", "forward"), ("reverse", "forward"), ("forward", "reverse"),
                                        ("bidirectional", "bidirectional"), ("bidirectional", "forward"),
                                        ("forward", "bidirectional")])
def test_a_chain_is_one_part(tmp_path, directions):
    """With the final states of both."""
    host = stack(tmp_path, BOTH, directions, FLAT, outputs=("y2", "h1", "c1", "h2", "c2"))
    part, = host.parts.values()
    assert list(host.parts) == ["one to two"] and len(part.stages) == (1 if set(directions) == {"forward"} else 2)
    found = {item.name: (item.place, item.detail) for item in host.items}
    assert found["one"] == found["two"] == ("machine", "one to two")
    assert found["Transpose"] == ("folded", "into 'one to two'")


def test_a_chain_with_states_and_lengths(tmp_path):
    rng = np.random.default_rng(7)
    states = {name: rng.normal(size=(1, 2, 4)).astype("f") for name in ("p", "q", "r")}
    given = {"lens": np.array([1, 3], np.int32), **states, **ONE}
    host = stack(tmp_path, FORWARD, extra=given, first="lens p q", second="lens - r", outputs=("y2", "h1", "c2"))
    assert len(host.parts) == 1


@pytest.mark.parametrize("moves, extra", [
    ([node("Squeeze", "y1 one", "u"), node("Identity", "u", "v"), node("Unsqueeze", "v one", "w"),
      node("Reshape", "w s", "m")], {**ONE, "s": np.array([0, -1, 4])}),
    ([node("Squeeze", "y1 one", "u"), node("Transpose", "u", "v", perm=[1, 0, 2]),
      node("Transpose", "v", "m", "back", perm=[1, 0, 2])], ONE),
    ([node("Squeeze", "y1 one", "u"), node("Dropout", "u", "m")], ONE),
    ([node("Squeeze", "y1 one", "u"), node("MatMul", "u e", "m")],
     {**ONE, "e": np.random.default_rng(1).normal(size=(4, 4)).astype("f")}),
], ids=["reshapes", "there and back", "Dropout", "linear"])
def test_what_stands_in_a_chain(tmp_path, moves, extra):
    host = stack(tmp_path, moves, extra=extra)
    assert list(host.parts) == ["one to two"]


@pytest.mark.parametrize("moves, extra, named", [
    ([node("Squeeze", "y1", "m")], {}, {}),  # drops more where there is one frame
    ([node("Squeeze", "y1 one", "u"), node("Transpose", "u", "m", perm=[1, 0, 2])], ONE, {}),
    ([node("Squeeze", "y1 one", "u"), node("Reshape", "u s", "m")], {**ONE, "s": np.array([-1, 2, 4])}, {}),
    ([node("Reshape", "y1 s", "m")], {"s": np.array([2, -1, 4])}, {}),
    ([node("Squeeze", "y1 one", "u"), node("Relu", "u", "m")], ONE, {}),
    ([node("Squeeze", "y1 one", "u"), node("Slice", "u a b", "m")],
     {**ONE, "a": np.array([0]), "b": np.array([4])}, {}),
    ([node("Squeeze", "y1 one", "u"), node("Cast", "u", "v", to=TensorProto.INT32),
      node("Cast", "v", "m", "back", to=TensorProto.FLOAT)], ONE, {}),
    (FORWARD, ONE, {"outputs": ("y2", "y1")}),
    (FORWARD, ONE, {"outputs": ("y2", "m")}),
    (FORWARD, ONE, {"second": "- h1 c1"}),  # its initial states come from the first
    (FORWARD, {**ONE, "lens": np.array([1, 3], np.int32)}, {"first": "lens"}),
    ([node("Squeeze", "h1 zero", "u"), node("Unsqueeze", "u zero", "m")], {"zero": np.array([0])}, {}),
], ids=["Squeeze", "turned", "sizes", "sizes of the frames", "Relu", "Slice", "Cast", "output", "output between",
        "states", "lengths", "final state"])
def test_two_parts(tmp_path, moves, extra, named):
    assert list(stack(tmp_path, moves, extra=extra, **named).parts) == ["one", "two"]


def test_sizes_in_the_file_decide(tmp_path):
    """A Reshape to the sizes of the network's inputs."""
    moves = [node("Squeeze", "y1 one", "u"), node("Reshape", "u s", "m")]
    host = stack(tmp_path, moves, extra={**ONE, "s": np.array([5, 2, 4])}, shape=(5, 2, 3))
    assert list(host.parts) == ["one to two"]


def test_chains_that_wait_for_each_other(tmp_path):
    """Each of two chains has the other's state in its second LSTM: only one of them can be one operator."""
    rng = np.random.default_rng(8)
    tensors = {**ONE}
    for suffix, size in (("1", 3), ("2", 3), ("3", 4), ("4", 4)):
        tensors |= weights(rng, size, 4, suffix=suffix)

    def lstm(x, number, state=""):
        made = node("LSTM", f"{x} W{number} R{number} B{number}", f"y{number} h{number} c{number}", f"lstm{number}",
                    hidden_size=4)
        made.input.extend(["", state, state] if state else [])
        return made

    nodes = [lstm("x", 1), lstm("x", 2), node("Squeeze", "y1 one", "u1", "s1"), node("Squeeze", "y2 one", "u2", "s2"),
             lstm("u1", 3, "h2"), lstm("u2", 4, "h1")]
    host = opened(tmp_path, model_of(nodes, tensors, ["x"], ["y3", "y4", "h1"]))
    assert_equal(host, {"x": rng.normal(size=(4, 2, 3))})
    assert len(host.parts) == 3


def test_readers_of_states_move_behind_a_chain(tmp_path):
    """A node between two LSTMs of a chain reads a final state of the first."""
    moves = [node("Relu", "h1", "r"), *FORWARD]
    host = stack(tmp_path, moves, extra=ONE, outputs=("y2", "z"), more=[node("Neg", "r", "z")])
    assert len(host.parts) == 1


def test_a_dead_choice(tmp_path):
    """Nothing reads an If; what its bodies read is read elsewhere too."""
    rng = np.random.default_rng(26)
    tensors = weights(rng, 3, 4)
    bodies = {f"{way}_branch": helper.make_graph([node("Neg", "s", "n"), node("Abs", "n", "a")], way, [], [value("a")])
              for way in ("then", "else")}
    nodes = [node("Relu", "x", "s"), helper.make_node("If", ["cond"], ["unread"], "choice", **bodies),
             node("LSTM", "s W R B", "Y", "lstm", hidden_size=4)]
    host = opened(tmp_path, model_of(nodes, tensors, ["x", value("cond", TensorProto.BOOL, [])], ["Y"]))
    assert places(host)["choice"] == "unused" and places(host)["Relu"] == "host"
    assert_equal(host, {"x": rng.normal(size=(4, 2, 3)), "cond": np.array(True)})


def test_shared_weights_are_one_part(tmp_path):
    rng = np.random.default_rng(9)
    nodes = [node("LSTM", f"{x} W R B", f"y{x}", f"on_{x}", hidden_size=4) for x in ("a", "b")]
    host = opened(tmp_path, model_of(nodes, weights(rng, 3, 4), ["a", "b"], ["ya", "yb"]))
    assert_equal(host, {name: rng.normal(size=(4, 2, 3)) for name in "ab"})
    assert list(host.parts) == ["on_a"] and places(host)["on_b"] == "machine"


# -- files -----------------------------------------------------------------------------------------


def lstm_of(tensors, x="x", y="Y", name="lstm", cells=4, **attributes):
    return node("LSTM", f"{x} W R B", y, name, hidden_size=cells, **attributes)


def test_types_and_layouts(tmp_path):
    """Nodes that onnxruntime does not run as they are: the original is an equal network then."""
    rng = np.random.default_rng(10)
    for kind, dtype, bound in (("DOUBLE", np.float64, BOUND), ("FLOAT16", np.float16, HALF_BOUND)):
        model = model_of([lstm_of({}, layout=1)], weights(rng, 3, 4, dtype=dtype),
                         [value("x", getattr(TensorProto, kind))], [value("Y", getattr(TensorProto, kind))])
        host = opened(tmp_path, model)
        assert places(host)["lstm"] == "machine"
        assert_equal(host, {"x": rng.normal(size=(2, 5, 3))}, bound)
    model = model_of([node("GRU", "x W R", "Y", hidden_size=4, layout=1)],
                     {"W": rng.normal(size=(1, 12, 3)).astype("f"), "R": rng.normal(size=(1, 12, 4)).astype("f")},
                     ["x"], ["Y"])
    for machine, place in ((GRUS, "machine"), (dataclasses.replace(GRUS, cells="lstm+gru"), "host")):
        host = opened(tmp_path, model, machine=machine)
        assert host.items[0].place == place
        assert ("a GRU with the reset before the product" in host.items[0].detail) == (place == "host")
        assert_equal(host, {"x": rng.normal(size=(2, 5, 3))})


def test_inputs_with_values_in_the_file(tmp_path):
    """They are optional; weights of a part are no inputs any more."""
    rng = np.random.default_rng(11)
    tensors = weights(rng, 3, 4) | {"gain": np.float32(2)}
    nodes = [lstm_of(tensors), node("Mul", "Y gain", "y")]
    model = model_of(nodes, tensors, [value("x", shape=["t", "b", 3]), *tensors], ["y"])
    x = rng.normal(size=(4, 2, 3))
    host = opened(tmp_path, model)
    assert [(port.name, port.optional) for port in host.inputs] == [("x", False), ("gain", True)]
    one = assert_equal(host, {"x": x})
    other = assert_equal(host, {"x": x, "gain": np.float32(4)})
    np.testing.assert_allclose(other["y"], 2 * one["y"], rtol=1e-6)
    with pytest.raises(HostError, match="'W' is no input of the network"):
        host.run({"x": x, "W": tensors["W"]}, engine_of(host))
    model.ir_version = 3  # all initializers are inputs, and fixed
    host = opened(tmp_path, model)
    assert [port.name for port in host.inputs] == ["x"]
    assert_equal(host, {"x": x})


def test_functions_of_the_file(tmp_path):
    rng = np.random.default_rng(12)
    function = helper.make_function("local", "Recur", ["u", "w", "r"], ["v"], [
        node("LSTM", "u w r", "v", "inside", hidden_size=4)], [helper.make_opsetid("", 17)])
    tensors = weights(rng, 3, 4)
    model = model_of([helper.make_node("Recur", ["x", "W", "R"], ["y"], domain="local")],
                     {name: tensors[name] for name in "WR"}, ["x"], ["y"])
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("local", 1))
    host = opened(tmp_path, model)
    assert [item.place for item in host.items if item.kind == "LSTM"] == ["machine"]
    assert_equal(host, {"x": rng.normal(size=(4, 2, 3))})


def test_numbers_and_text_that_only_the_host_sees(tmp_path):
    rng = np.random.default_rng(13)
    tensors = weights(rng, 3, 4) | {"table": rng.normal(size=(7, 3)).astype("f")}
    nodes = [node("Gather", "table ids", "f"), lstm_of(tensors, "f"), node("Identity", "label", "text")]
    ports = [value("ids", TensorProto.INT64, ["t", "b"]), value("label", TensorProto.STRING, [1])]
    model = model_of(nodes, tensors, ports, ["Y", value("text", TensorProto.STRING)])
    host = opened(tmp_path, model)
    outputs = host.run({"ids": rng.integers(0, 7, (4, 2)), "label": np.array(["a word"])}, engine_of(host))
    assert outputs["text"].tolist() == ["a word"] and outputs["Y"].shape == (4, 1, 2, 4)
    with pytest.raises(HostError, match=r"input ids int64 \(t, b\): float64 numbers do not fit int64 without a change"):
        host.run({"ids": np.full((4, 2), 0.5), "label": np.array(["a"])}, engine_of(host))


@pytest.mark.parametrize("domain", ["foreign", "ai.onnx.contrib"])
@pytest.mark.parametrize("inside", [False, True])
def test_foreign_operators_are_refused(tmp_path, domain, inside):
    other = helper.make_node("OpeneseLstm1", ["x"], ["z"], "other", domain=domain)
    if inside:
        body = helper.make_graph([other], "body", [], [value("z")])
        other = helper.make_node("If", ["cond"], ["z"], "choice", then_branch=body, else_branch=body)
    tensors = weights(np.random.default_rng(14), 3, 4)
    model = model_of([lstm_of(tensors), other], tensors, ["x", value("cond", TensorProto.BOOL, [])], ["Y", "z"])
    model.opset_import.append(helper.make_opsetid(domain, 1))
    name = "choice.else_branch/other" if inside else "other"
    with pytest.raises(ImportRefused, match=f"^net.onnx: node '{name}' is the operator {domain}.OpeneseLstm1, which "
                                            f"onnxruntime does not have; export the network with"):
        opened(tmp_path, model)


def with_external_weights(tmp_path, location):
    tensors = weights(np.random.default_rng(15), 3, 4)
    model = model_of([lstm_of(tensors)], tensors, ["x"], ["Y"])
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "W")
    data = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    (tmp_path / "inner").mkdir()
    for folder in (tmp_path, tmp_path / "inner"):
        (folder / "weights.bin").write_bytes(data)
    return opened(tmp_path / "inner", model)


def test_tensors_in_other_files(tmp_path):
    host = with_external_weights(tmp_path, "weights.bin")
    assert_equal(host, {"x": np.ones((3, 2, 3))})


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/passwd"])
def test_tensors_outside_the_folder_are_refused(tmp_path, location):
    with pytest.raises(ImportRefused, match="outside of the model's folder"):
        with_external_weights(tmp_path, location)


def test_what_onnxruntime_does_not_load_is_refused(tmp_path):
    tensors = weights(np.random.default_rng(16), 3, 4)
    model = model_of([lstm_of(tensors), node("Relu", "nothing", "z")], tensors, ["x"], ["Y", "z"])
    with pytest.raises(ImportRefused, match="^net: onnxruntime does not load it: .*nothing"):
        opened(tmp_path, model)
    (tmp_path / "net.onnx").write_bytes(b"\x08\x0a")
    with pytest.raises(ImportRefused, match="^net.onnx: not an ONNX model"):
        open_file(tmp_path / "net.onnx")


def test_an_lstm_that_does_not_fit_stays_with_onnxruntime(tmp_path):
    """As an exporter writes an LSTM with a projection, which ONNX does not have: it does not run."""
    tensors = weights(np.random.default_rng(17), 3, 4) | {"h": np.zeros((1, 2, 4), "f"), "c": np.zeros((1, 2, 8), "f")}
    nodes = [helper.make_node("LSTM", ["x", "W", "R", "B", "", "h", "c"], ["Y"], "lstm", hidden_size=4)]
    host = opened(tmp_path, model_of(nodes, tensors, ["x"], ["Y"]))
    assert not host.parts and "initial_c: expected shape" in host.items[0].detail
    for run in (host.original, lambda inputs: host.run(inputs, engine_of(host))):
        with pytest.raises(HostError, match="onnxruntime: .*initial_c must have shape"):
            run({"x": np.zeros((3, 2, 3))})
    with pytest.raises(HostError, match="no LSTM or GRU that the machine can compute: LSTM 'lstm': onnxruntime: init"):
        compile_host(host, "tiny")


def test_states_for_another_number_of_voices(tmp_path):
    rng = np.random.default_rng(18)
    tensors = weights(rng, 3, 4) | {"h": np.tanh(rng.normal(size=(1, 2, 4))).astype("f")}
    nodes = [helper.make_node("LSTM", ["x", "W", "R", "B", "", "h", "h"], ["Y"], "lstm", hidden_size=4)]
    host = opened(tmp_path, model_of(nodes, tensors, ["x"], ["Y"]))
    assert_equal(host, {"x": np.ones((3, 2, 3))})
    with pytest.raises(HostError, match=r"lstm: initial_h has the shape \(1, 2, 4\), not .* = \(1, 3, 4\)"):
        host.run({"x": np.ones((3, 3, 3))}, engine_of(host))


def test_nothing_to_run(tmp_path):
    """onnxruntime's LSTM ends the process where there is no sequence."""
    host = small(tmp_path)
    for shape in ((3, 0, 3), (0, 2, 3)):
        with pytest.raises(HostError, match="lstm: the input of an LSTM is empty: its shape is"):
            host.run({"x": np.zeros(shape)}, engine_of(host))
    with pytest.raises(HostError, match="input 'x' is empty; give an LSTM at least one sequence"):
        host.original({"x": np.zeros((3, 0, 3))})


@pytest.mark.parametrize("lengths", [[4, 1], [-1, 1]])
def test_lengths_that_do_not_fit(tmp_path, lengths):
    tensors = weights(np.random.default_rng(19), 3, 4)
    nodes = [node("LSTM", "x W R B lens", "Y", hidden_size=4)]
    host = opened(tmp_path, model_of(nodes, tensors, ["x", value("lens", TensorProto.INT32, ["b"])], ["Y"]))
    with pytest.raises(ModelError, match="lengths: expected 2 whole numbers of 0 to 3"):
        host.run({"x": np.zeros((3, 2, 3)), "lens": np.array(lengths)}, engine_of(host))


def test_damaged_hosts(tmp_path):
    with pytest.raises(HostError, match="host.onnx: No such file or directory; compile the network again"):
        OnnxHost.load(tmp_path)
    host = small(tmp_path)
    host.save(tmp_path)
    model = onnx.load(tmp_path / "host.onnx")
    for change in (lambda node: setattr(node, "op_type", "PyOp"), lambda node: node.ClearField("attribute"),
                   lambda node: setattr(node, "op_type", "OpeneseLstm99999999")):
        changed = onnx.ModelProto.FromString(model.SerializeToString())
        change(next(node for node in changed.graph.node if node.domain))
        (tmp_path / "host.onnx").write_bytes(changed.SerializeToString())
        with pytest.raises(HostError, match="host.onnx: changed since it was written; compile the network again"):
            OnnxHost.load(tmp_path)
    data = model.SerializeToString()
    rng = np.random.default_rng(20)
    for _ in range(30):
        damaged = bytearray(data[:rng.integers(1, len(data))] if rng.random() < 0.3 else data)
        damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
        (tmp_path / "host.onnx").write_bytes(damaged)
        try:
            OnnxHost.load(tmp_path)
        except HostError:
            pass


def test_damaged_files(tmp_path):
    """They are read or refused."""
    small(tmp_path)
    data = (tmp_path / "net.onnx").read_bytes()
    rng = np.random.default_rng(24)
    for _ in range(60):
        damaged = bytearray(data)
        damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
        (tmp_path / "net.onnx").write_bytes(damaged)
        try:
            open_file(tmp_path / "net.onnx")
        except ImportRefused:
            pass


@pytest.mark.parametrize("optimized", ["ENABLE_BASIC", "ENABLE_EXTENDED", "ENABLE_ALL"])
def test_files_that_onnxruntime_wrote(tmp_path, optimized):
    """After its optimizer, which puts operators of its own into the graph."""
    import onnxruntime
    rng = np.random.default_rng(21)
    tensors = weights(rng, 6, 4) | {"K": rng.normal(size=(6, 3, 3)).astype("f"), "c": np.ones(2, "f"),
                                    "G": rng.normal(size=(4, 2)).astype("f"), "one": np.array([1])}
    nodes = [node("Conv", "x K", "u", pads=[1, 1]), node("Relu", "u", "r"), node("Transpose", "r", "f", perm=[2, 0, 1]),
             lstm_of(tensors, "f"), node("Squeeze", "Y one", "s"), node("MatMul", "s G", "p"), node("Add", "p c", "y")]
    host = opened(tmp_path, model_of(nodes, tensors, [value("x", shape=[2, 3, 9])], ["y"]))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{optimized}")
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), options, providers=["CPUExecutionProvider"])
    x = {"x": rng.normal(size=(2, 3, 9))}
    again = open_file(tmp_path / "optimized.onnx")
    assert list(again.parts) == ["lstm"]
    np.testing.assert_allclose(again.run(x, engine_of(again))["y"], host.original(x)["y"], atol=1e-5)


def test_an_lstm_that_onnxruntime_quantized(tmp_path):
    """It stays with onnxruntime, with the reason."""
    quantization = pytest.importorskip("onnxruntime.quantization")
    rng = np.random.default_rng(22)
    tensors = weights(rng, 3, 4)
    opened(tmp_path, model_of([lstm_of(tensors)], tensors, ["x"], ["Y"]))
    quantization.quantize_dynamic(str(tmp_path / "net.onnx"), str(tmp_path / "q.onnx"))
    host = open_file(tmp_path / "q.onnx")
    assert not host.parts
    assert_equal(host, {"x": rng.normal(size=(4, 2, 3))})
    with pytest.raises(HostError, match="the machine can compute: com.microsoft.DynamicQuantizeLSTM '.*': "
                                        "onnxruntime: a com.microsoft.DynamicQuantizeLSTM is not an LSTM or GRU of"):
        compile_host(host, "tiny")


# -- networks of the converter for TensorFlow ----------------------------------------------------------


def as_from_tensorflow(rng, backwards=False):
    """LSTM and Dense on sequences (B, T, 3), as tf2onnx writes them: zero states and Dense's shape are computed."""
    tensors = weights(rng, 3, 4) | {
        "zero": np.array(0, "f"), "cells": np.array([4], "i"), "first": np.array([0]), "second": np.array([1]),
        "free": np.array([0, 1], "i"), "flat": np.array([-1, 4]), "units": np.array([2], "i"),
        "kernel": rng.normal(size=(4, 2)).astype("f")}
    make = helper.make_node
    nodes = [make("Transpose", ["x"], ["t"], perm=[1, 0, 2]), make("Shape", ["x"], ["s"]),
             make("Cast", ["s"], ["s32"], to=TensorProto.INT32),
             make("Slice", ["s32", "first", "second", "first"], ["batch"]),
             make("Concat", ["batch", "cells"], ["packed"], axis=0),
             make("Cast", ["packed"], ["sizes"], to=TensorProto.INT64), make("Expand", ["zero", "sizes"], ["zeros"]),
             make("Unsqueeze", ["zeros", "first"], ["h"]),
             make("LSTM", ["r" if backwards else "t", "W", "R", "B", "", "h", "h"], ["Y", "hn", "cn"], "lstm",
                  hidden_size=4, activations=["Sigmoid", "Tanh", "Tanh"], direction="forward"),
             make("Squeeze", ["Y", "second"], ["u"]), make("Transpose", ["u"], ["v"], perm=[1, 0, 2]),
             make("Shape", ["v"], ["vs"]), make("Cast", ["vs"], ["vs32"], to=TensorProto.INT32),
             make("Gather", ["vs32", "free"], ["kept"], axis=0), make("Concat", ["kept", "units"], ["out32"], axis=0),
             make("Cast", ["out32"], ["out"], to=TensorProto.INT64), make("Reshape", ["v", "flat"], ["rows"]),
             make("MatMul", ["rows", "kernel"], ["product"]), make("Reshape", ["product", "out"], ["y"])]
    if backwards:
        nodes[1:1] = [make("Shape", ["t"], ["ts"]), make("Gather", ["ts", "second"], ["voices"]),
                      make("Gather", ["ts", "first"], ["steps"]), make("Expand", ["steps", "voices"], ["lengths"]),
                      make("ReverseSequence", ["t", "lengths"], ["r"], batch_axis=1, time_axis=0)]
    return model_of(nodes, tensors, [value("x", shape=["batch", "time", 3])], ["y"])


@pytest.mark.parametrize("backwards", [False, True])
def test_a_network_from_tensorflow(tmp_path, backwards):
    rng = np.random.default_rng(31)
    host = opened(tmp_path, as_from_tensorflow(rng, backwards))
    assert list(host.parts) == ["lstm"]
    for batch, steps in ((2, 5), (3, 7)):
        assert_equal(host, {"x": rng.normal(size=(batch, steps, 3))})


def test_an_lstm_in_single_operations_is_not_recognized(tmp_path):
    """As tf2onnx writes an LSTM with Masking, and PyTorch an ``nn.LSTMCell``."""
    rng = np.random.default_rng(32)
    tensors = {"W": rng.normal(size=(3, 16)).astype("f"), "R": rng.normal(size=(4, 16)).astype("f")}
    make = helper.make_node
    nodes = [make("MatMul", ["x", "W"], ["a"]), make("MatMul", ["h", "R"], ["b"]), make("Add", ["a", "b"], ["z"]),
             make("Split", ["z"], ["i", "f", "g", "o"], axis=1), make("Sigmoid", ["i"], ["si"]),
             make("Tanh", ["g"], ["tg"]), make("Mul", ["si", "tg"], ["y"])]
    host = opened(tmp_path, model_of(nodes, tensors, ["x", "h"], ["y"], opset=13))
    with pytest.raises(HostError, match="no LSTM or GRU operator; a cell in single operations, .* use openese.offload"):
        compile_host(host, "tiny")


# -- networks of PyTorch's exporter ------------------------------------------------------------------


def torch_networks():
    """Networks with all kinds of things around their LSTMs, each with its inputs and the axes that stay open."""
    import torch
    from torch import nn
    from torch_networks import Block

    class Between(nn.Module):
        def __init__(self, kind):
            super().__init__()
            self.kind, self.a, self.b = kind, nn.LSTM(8, 8), nn.LSTM(8, 8)
            self.norm, self.head, self.front = nn.LayerNorm(8), nn.Linear(8, 3), nn.Linear(8, 8)

        def forward(self, x):
            if self.kind == "front":
                return self.head(self.a(self.front(x))[0])
            if self.kind == "front and ReLU":
                return self.head(self.a(self.front(x).relu())[0])
            if self.kind == "flip":
                return self.head(self.a(x.flip(0))[0].flip(0))
            y = self.a(x)[0]
            y = {"residual": lambda: y + x, "norm": lambda: self.norm(y), "tanh": lambda: y.tanh(),
                 "concat": lambda: torch.cat([y, x], -1)[..., 4:12]}[self.kind]()
            return self.head(self.b(y)[0])

    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.out = nn.LSTM(12, 16), nn.LSTM(16, 16), nn.Linear(16, 12)

        def forward(self, x, s):
            y, first = self.a(x, (s[0, 0], s[0, 1]))
            y, second = self.b(y, (s[1, 0], s[1, 1]))
            return self.out(y).sigmoid(), torch.stack([torch.stack(first), torch.stack(second)])

    class Deep(nn.Module):
        def __init__(self, **named):
            super().__init__()
            self.lstm = nn.LSTM(6, 5, 3, **named)

        def forward(self, x):
            y, (h, c) = self.lstm(x)
            return y, h, c

    free = {0: "t", 1: "b"}
    for kind in ("residual", "norm", "tanh", "concat", "front", "front and ReLU", "flip"):
        yield kind, Between(kind), (torch.randn(10, 2, 8),), free
    for label, axes in (("view", None), ("view with open sizes", free)):
        yield label, nn.Sequential(Block(12, 8, 8), Block(8, 8, 5)), (torch.randn(9, 2, 12),), axes
    yield "step", Step(), (torch.randn(1, 1, 12), torch.randn(2, 2, 1, 1, 16).tanh()), None
    for label, named in (("three", {}), ("three both ways", {"bidirectional": True}),
                         ("batch first", {"batch_first": True})):
        yield label, Deep(**named), (torch.randn(7, 3, 6),), free


def test_networks_of_pytorch(tmp_path):
    torch = pytest.importorskip("torch")
    torch.manual_seed(81)
    parts = {}
    for label, module, inputs, axes in torch_networks():
        path = tmp_path / f"{label}.onnx"
        names = ["x", "s"][:len(inputs)]
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(module.eval(), inputs, path, dynamo=False, opset_version=17, input_names=names,
                              dynamic_axes={} if axes is None else {"x": axes})
            wanted = module(*inputs)
        host = open_file(path)
        found = assert_equal(host, dict(zip(names, (given.numpy() for given in inputs), strict=True)))
        for ours, theirs in zip(found.values(), wanted if isinstance(wanted, tuple) else [wanted], strict=True):
            np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5)
        if axes is not None:
            assert_equal(host, {"x": np.random.default_rng(1).normal(size=(4, 5, inputs[0].shape[2]))})
        parts[label] = len(host.parts)
    two = ("residual", "norm", "tanh", "concat", "view", "view with open sizes")
    assert parts == {label: 2 if label in two else 1 for label in parts}


# -- integers --------------------------------------------------------------------------------------

#: The largest relative RMS error at an output of the machine's integers: 12-bit weights and 16-bit activations. The
#: worst of 338 outputs of 160 random networks is 0.0035.
INTEGER_BOUND = 0.01


def assert_integers(host, inputs, names=None, config="demo"):
    compiled = compile_host(host, config, calibrate=inputs)
    for difference in compiled.differences:
        if difference.error is not None and (names is None or difference.name in names):
            error = difference.error
            assert error.rms_error <= INTEGER_BOUND * max(error.rms_output, 1e-3), difference
    return compiled


@pytest.mark.parametrize("inputs, cells, layers, direction", [
    (1, 20, 1, "forward"), (2, 24, 1, "forward"), (1, 1, 3, "forward"), (257, 7, 1, "forward"),
    (3, 16, 4, "forward"), (5, 9, 2, "bidirectional")])
def test_sizes(tmp_path, inputs, cells, layers, direction):
    """Small audio models, one cell, odd sizes, deep stacks."""
    rng = np.random.default_rng(23)
    ways = 2 if direction == "bidirectional" else 1
    tensors, nodes, name = dict(FLAT), [], "x"
    for layer in range(layers):
        size = inputs if layer == 0 else ways * cells
        tensors |= {key: array / np.sqrt(max(size, cells)) for key, array in
                    weights(rng, size, cells, ways, str(layer)).items()}
        nodes += [node("LSTM", f"{name} W{layer} R{layer} B{layer}", f"Y{layer}", f"lstm{layer}", hidden_size=cells,
                       direction=direction),
                  node("Transpose", f"Y{layer}", f"T{layer}", f"turn{layer}", perm=[0, 2, 1, 3]),
                  node("Reshape", f"T{layer} flat", f"F{layer}", f"join{layer}")]
        name = f"F{layer}"
    tensors = {key: array.astype("f") if array.dtype.kind == "f" else array for key, array in tensors.items()}
    host = opened(tmp_path, model_of(nodes, tensors, [value("x", shape=["t", "b", inputs])], [name]))
    compiled = assert_integers(host, {"x": rng.normal(size=(40, 3, inputs), scale=0.5)})
    assert len(compiled.parts) == 1


# -- random networks -------------------------------------------------------------------------------

#: A machine with GRU cells of both kinds.
GRUS = dataclasses.replace(machine_config("demo"), cells="lstm+gru+gru_before")
#: With GRU cells of one kind, and dense layers.
DENSES = dataclasses.replace(GRUS, cells="lstm+gru+gru_before+dense")
#: How many; all reports want at least 300.
NETWORKS = int(os.environ.get("OPENESE_ONNX_NETWORKS", "25"))
#: Of these all recurrent nodes but RNNs are GRUs.
GRU_NETWORKS = int(os.environ.get("OPENESE_ONNX_GRUS", "6"))
REFUSALS = {"foreign operator": "is the operator foreign.Mystery, which onnxruntime does not have",
            "sequence output": r"is seq\(tensor\(float\)\), not a tensor of numbers or text"}


@pytest.mark.parametrize("grus", [False, True], ids=["any", "grus"])
def test_random_networks(tmp_path, grus):
    """Equal to onnxruntime, or refused by name."""
    counts = {"equal": Counter(), "refused": Counter(), "integers": Counter()}

    @settings(max_examples=GRU_NETWORKS if grus else NETWORKS, deadline=None, derandomize=True, database=None,
              phases=[Phase.generate])
    @given(st.integers(0, 2**32 - 1))
    def check(seed):
        case = random_network(seed, grus=grus)
        refused = sorted(REFUSALS.keys() & case.features)
        if refused:
            with pytest.raises(ImportRefused, match=REFUSALS[refused[0]]):
                opened(tmp_path, case.model)
        else:
            machine = DENSES if seed % 2 else GRUS
            host = opened(tmp_path, case.model, machine=machine)
            bound = HALF_BOUND if "half" in case.features else BOUND
            assert_equal(host, case.inputs, bound)
            if case.longer and runs(host, case.longer):
                assert_equal(host, case.longer, bound)
            if host.parts and seed % 4 < 2 and "half" not in case.features:
                assert_integers(host, case.inputs, case.smooth, machine)
                counts["integers"]["networks"] += 1
        counts["refused" if refused else "equal"].update({"networks", *case.features})

    check()
    print(f"{'GRUs: ' if grus else ''}{counts['integers']['networks']} also in integers")
    for feature, count in (counts["equal"] + counts["refused"]).most_common():
        print(f"{feature:26} {count:4} equal {counts['equal'][feature]:4} refused {counts['refused'][feature]:4}")


def test_random_dense_layers(tmp_path):
    """Dense layers before, between and behind LSTMs and GRUs, most of them on the machine: equal to onnxruntime in
    floating point, and within the bound in integers."""
    counts = Counter()

    @settings(max_examples=NETWORKS, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
    @given(st.integers(0, 2**32 - 1))
    def check(seed):
        case = random_network(seed, dense=True)
        host = opened(tmp_path, case.model, machine=DENSES)
        layers = [layer for part in host.parts.values() for direction in part.directions
                  for layer in direction.model.layers]
        counts.update(["networks", *(f"dense: {layer.activation}" for layer in layers if layer.kind is DENSE)])
        counts["with dense layers"] += any(layer.kind is DENSE for layer in layers)
        counts["functions alone"] += sum(layer.is_identity for layer in layers)
        counts["convolutions"] += sum(item.kind == "Conv" and item.place == "machine" for item in host.items)
        assert_equal(host, case.inputs)
        if case.longer and runs(host, case.longer):
            assert_equal(host, case.longer)
        if host.parts and seed % 4 == 0:
            assert_integers(host, case.inputs, case.smooth, DENSES)
            counts["also in integers"] += 1

    check()
    print(counts)
    assert counts["with dense layers"] > NETWORKS // 3
    assert counts["functions alone"] and counts["convolutions"]


@pytest.mark.parametrize("shape", [("b", 5), ("t", "b", 5), (2, "t", 3, 5)], ids=str)
def test_a_network_of_dense_layers(tmp_path, shape):
    """Chains of dense layers are parts of their own; every vector is one."""
    rng = np.random.default_rng(7)
    tensors = {"w1": rng.normal(size=(5, 9)), "b1": rng.normal(size=9), "w2": rng.normal(size=(9, 6)),
               "w3": rng.normal(size=(6, 4)), "b3": rng.normal(size=(1, 4)), "two": np.array(2.0)}
    tensors = {name: array.astype(np.float32) for name, array in tensors.items()}
    nodes = [node("MatMul", "x w1", "a", "one"), node("Add", "b1 a", "b"), node("Relu", "b", "c"),
             node("MatMul", "c w2", "d", "two"), node("Softmax", "d", "e", axis=-1),
             node("MatMul", "e w3", "f", "three"), node("Sub", "f b3", "g"), node("Mul", "g two", "h"),
             node("Sigmoid", "h", "y")]
    model = model_of(nodes, tensors, [value("x", shape=shape)], [value("y"), value("e")])
    x = rng.normal(size=[size if isinstance(size, int) else 4 for size in shape]).astype(np.float32)
    host = opened(tmp_path, model, machine=DENSES)
    assert list(host.parts) == ["one to two", "three"]
    assert {name for name, place in places(host).items() if place == "host"} == {"Softmax"}
    assert_equal(host, {"x": x})
    compiled = assert_integers(host, {"x": x}, config=DENSES)
    compiled.save(tmp_path / "net")
    again = CompiledWhole.load(tmp_path / "net")
    for name, array in compiled.run({"x": x}).items():
        np.testing.assert_array_equal(again.run({"x": x})[name], array)
    with pytest.raises(HostError, match="the input of a dense layer is empty|found the shape"):
        compiled.run({"x": x[:0]})
    with pytest.raises(CapacityError, match=r" short\)[^-]*$"):  # a host would have nothing for the machine
        compile_host(opened(tmp_path, model, machine=DENSES), DENSES.replace(vector_depth=16), calibrate={"x": x})
    alone = opened(tmp_path, model, machine=GRUS)
    assert not alone.parts and {place for place in places(alone).values()} == {"host"}


def decoder(tmp_path, nodes, tensors, cells=6, voices="b"):
    """An LSTM of which the nodes read s (T, B, C), on a machine with dense layers, compared with onnxruntime."""
    rng = np.random.default_rng(17)
    held = weights(rng, 5, cells) | {name: array.astype("f") for name, array in tensors(rng).items()} | {
        "one": np.array([1]), "last": np.array([3])}
    lstm = [node("LSTM", "x W R B", "Y", "lstm", hidden_size=cells), node("Squeeze", "Y one", "s", "directions")]
    host = opened(tmp_path, model_of(lstm + nodes, held, [value("x", shape=["t", voices, 5])], ["y"]), machine=DENSES)
    x = rng.normal(size=(40, 3 if voices == "b" else voices, 5))
    assert_equal(host, {"x": x})
    assert_equal(host, {"x": x[:1]})
    return host, {"x": x}


def layers_of(host):
    """Kind and function of the layers of the only part."""
    part, = host.parts.values()
    return [(layer.cell, layer.activation) for direction in part.directions for layer in direction.model.layers]


def kernel(*shape):
    return lambda rng: {"K": rng.normal(size=shape), "b": rng.normal(size=shape[0])}


TURN = node("Transpose", "r", "t", perm=[1, 2, 0])


@pytest.mark.parametrize("before, after, shape, options", [
    ([TURN], [node("Transpose", "c", "d", "back", perm=[0, 2, 1])], (1, 6, 1), {}),
    ([TURN], [node("Identity", "c", "d")], (4, 6, 1), {"auto_pad": "VALID"}),
    ([node("Transpose", "r", "u", perm=[1, 2, 0]), node("Unsqueeze", "u last", "t")],
     [node("Squeeze", "c last", "d")], (2, 6, 1, 1), {"kernel_shape": [1, 1], "dilations": [2, 3]})],
    ids=["one axis", "automatic", "two axes"])
def test_a_convolution_of_one_element(tmp_path, before, after, shape, options):
    """A decoder as Silero VAD has it: a function, a Conv and a function behind the LSTM. The moves stay."""
    nodes = [node("Relu", "s", "r"), *before, node("Conv", "t K b", "e", **options), node("Sigmoid", "e", "c"), *after,
             node("Neg", "d", "y")]
    host, inputs = decoder(tmp_path, nodes, kernel(*shape))
    assert layers_of(host) == [("lstm", "none"), ("dense", "relu"), ("dense", "sigmoid")]
    assert {name for name, place in places(host).items() if place == "machine"} == {
        "lstm", "Relu", "Conv", "Sigmoid", "W", "R", "B", "K", "b"}
    compiled = assert_integers(host, inputs, config=DENSES)
    compiled.save(tmp_path / "net")
    np.testing.assert_array_equal(CompiledWhole.load(tmp_path / "net").run(inputs)["y"], compiled.run(inputs)["y"])
    with pytest.raises(CapacityError, match="; it fits with its dense layers on the host: --dense host"):
        compile_host(host, DENSES.replace(cell_rows=2), calibrate=inputs)


@pytest.mark.parametrize("shape, options, perm", [
    ((2, 6, 3), {"pads": [1, 1]}, [1, 2, 0]), ((2, 6, 1), {"strides": [2]}, [1, 2, 0]),
    ((2, 3, 1), {"group": 2}, [1, 2, 0]), ((2, 6, 1), {"pads": [1, 0]}, [1, 2, 0]),
    ((2, 6, 1), {}, [0, 1, 2])], ids=str)
def test_other_convolutions_stay_on_the_host(tmp_path, shape, options, perm):
    """The last one is over voices, of which there are as many as cells."""
    nodes = [node("Relu", "s", "r"), node("Transpose", "r", "t", perm=perm), node("Conv", "t K b", "e", **options),
             node("Sigmoid", "e", "y")]
    host, _ = decoder(tmp_path, nodes, kernel(*shape), voices=6)
    assert layers_of(host) == [("lstm", "none")]
    assert {places(host)[name] for name in ("Relu", "Conv", "Sigmoid")} == {"host"}


SECOND = [node("LSTM", "r W2 R2 B2", "Z", "second", hidden_size=4), node("Squeeze", "Z one", "y", "end")]


@pytest.mark.parametrize("nodes, expected", [
    ([node("Relu", "s", "y")], ["none"]),
    ([node("Tanh", "s", "r"), *SECOND], ["none", "tanh", "none"]),
    ([node("Relu", "s", "q"), node("Sigmoid", "q", "r"), *SECOND], ["none", "relu", "sigmoid", "none"]),
    ([node("Relu", "s", "r"), node("Tanh", "r", "q"), node("MatMul", "q M", "m"), node("Relu", "m", "n", "after"),
      node("Sigmoid", "n", "y")], ["none", "relu", "tanh", "relu"]),
    ([node("MatMul", "s M", "m"), node("Relu", "m", "n"), node("Sigmoid", "n", "r"), *SECOND],
     ["none", "relu", "sigmoid", "none"]),
    ([node("Elu", "s", "r"), *SECOND], None)], ids=["last", "between", "two", "before a matrix", "behind", "unknown"])
def test_a_function_alone_is_a_layer_where_another_follows(tmp_path, nodes, expected):
    host, inputs = decoder(tmp_path, nodes, lambda rng: {"M": rng.normal(size=(6, 6)), **weights(rng, 6, 4, 1, "2")})
    if expected is None:
        assert list(host.parts) == ["lstm", "second"]
    else:
        assert [activation for _, activation in layers_of(host)] == expected
    assert_integers(host, inputs, config=DENSES)


@pytest.mark.parametrize("shape", [(5, 3, 1), (5, 3, 2)], ids=str)
def test_a_convolution_before_an_lstm(tmp_path, shape):
    rng = np.random.default_rng(19)
    tensors = weights(rng, 5, 4) | {"K": rng.normal(size=shape).astype("f")}
    nodes = [node("Conv", "x K", "c"), node("Relu", "c", "r"), node("Transpose", "r", "t", perm=[2, 0, 1]),
             node("LSTM", "t W R B", "y", "lstm", hidden_size=4)]
    host = opened(tmp_path, model_of(nodes, tensors, [value("x", shape=["b", 3, "t"])], ["y"]), machine=DENSES)
    assert places(host)["Conv"] == ("machine" if shape[2] == 1 else "host")
    assert len(layers_of(host)) == 3 - shape[2]
    inputs = {"x": rng.normal(size=(2, 3, 30))}
    assert_equal(host, inputs)
    assert_integers(host, inputs, config=DENSES)


def runs(host, inputs):
    """Whether onnxruntime runs these inputs: a network may have sizes of its inputs in constants."""
    try:
        host.original(inputs)
    except HostError:
        return False
    return True
