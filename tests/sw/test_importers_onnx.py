# SPDX-License-Identifier: Apache-2.0
"""ONNX LSTMs and GRUs: the node tests of ONNX, random nodes against onnxruntime, and graphs around LSTMs."""

import re
import warnings
from contextlib import ExitStack

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from import_tools import assert_close, assert_survives, run_float

from openese.rtl.config import preset
from openese.sim.simulator import Simulator
from openese.sw import compile as pipeline
from openese.sw import importers
from openese.sw.importers import ImportRefused
from openese.sw.reference.machine import Reference
from openese.sw.run.device import Device
from openese.sw.run.runners import MachineRunner

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
#: The largest error of the reference against the outputs of ONNX's node tests.
INTEGER_BOUND = 5e-4
DIRECTIONS = ("forward", "reverse", "bidirectional")


def model_of(nodes, tensors, inputs=("X",), outputs=("Y",), opset=21):
    """Return a model with the initializers ``tensors`` and float inputs."""
    graph = helper.make_graph(
        nodes, "test", [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def lstm_node(given_inputs, name="lstm", outputs=("Y", "Y_h", "Y_c"), kind="LSTM", **attributes):
    inputs = [key if key in {"X", *given_inputs} else "" for key in INPUTS]
    while not inputs[-1]:
        inputs.pop()
    return helper.make_node(kind, inputs, list(outputs), name=name, **attributes)


def gru_node(given_inputs, name="gru", outputs=("Y", "Y_h"), **attributes):
    return lstm_node(given_inputs, name, outputs, "GRU", **attributes)


def weights(rng, inputs, cells, ways=1, peepholes=False, dtype=np.float32, gates=4):
    shapes = {"W": (ways, gates * cells, inputs), "R": (ways, gates * cells, cells), "B": (ways, 2 * gates * cells)}
    if peepholes:
        shapes["P"] = ways, 3 * cells
    return {name: rng.normal(size=shape, scale=0.5).astype(dtype) for name, shape in shapes.items()}


def saved(tmp_path, model, name="model.onnx"):
    onnx.save(model, tmp_path / name)
    return tmp_path / name


def as_onnx(y, states):
    """Return the network's outputs in ONNX's shapes: Y (T, D, B, H), Y_h and, of LSTMs, Y_c (D, B, H)."""
    steps, voices, _ = y.shape
    return [y.reshape(steps, voices, len(states), -1).swapaxes(1, 2),
            np.stack([state[0].y for state in states]), np.stack([state[0].c for state in states])]


# -- the node tests that ONNX ships ----------------------------------------------------------------


def node_tests():
    from onnx.backend.test.case import node
    with warnings.catch_warnings():  # it makes the cases of all operators
        warnings.simplefilter("ignore")
        cases = node.collect_testcases(None)
    return {case.name: case for case in cases if case.name.startswith(("test_lstm", "test_gru"))}


NODE_TESTS = node_tests()


def node_network(tmp_path, name):
    """Return a node test's network, its input (T, B, I), and its outputs by name in ONNX's shapes for layout 0."""
    case = NODE_TESTS[name]
    node = case.model.graph.node[0]
    (values, expected), = case.data_sets
    named = dict(zip((value.name for value in case.model.graph.input), values, strict=True))
    x = named.pop("X")
    outputs = dict(zip((value.name for value in case.model.graph.output), expected, strict=True))
    model = model_of([node], named, opset=case.model.opset_import[0].version)
    if any(attribute.name == "layout" and attribute.i for attribute in node.attribute):
        x = x.swapaxes(0, 1)
        outputs = {key: value.transpose(1, 2, 0, 3) if key == "Y" else value.swapaxes(0, 1)
                   for key, value in outputs.items()}
    return importers.load(saved(tmp_path, model)), x, outputs


@pytest.mark.parametrize("name", NODE_TESTS)
def test_node(tmp_path, name):
    network, x, outputs = node_network(tmp_path, name)
    ours = dict(zip(("Y", "Y_h", "Y_c"), as_onnx(*run_float(network, x)), strict=True))
    assert outputs
    for key, expected in outputs.items():
        assert_close(ours[key], expected)


@pytest.mark.parametrize("name", [name for name in NODE_TESTS if "lstm" in name])
def test_node_in_integers(tmp_path, name):
    """The reference with 12-bit weights and 16-bit activations is close to ONNX."""
    network, x, outputs = node_network(tmp_path, name)
    models = pipeline.quantize(network, x, preset("tiny")).models
    runners = [MachineRunner(Reference(model, channels=2)) for model in models]
    integers = dict(zip(("Y", "Y_h", "Y_c"), as_onnx(*network.run(x, runners)), strict=True))
    for key, expected in outputs.items():
        assert abs(integers[key] - expected).max() < INTEGER_BOUND


@pytest.mark.sim
@pytest.mark.parametrize("name", [name for name in NODE_TESTS if re.search("peepholes|lstm_bidirectional", name)])
def test_node_in_verilog(tmp_path, name):
    """Every word of the machine's outputs and states equals the reference's."""
    network, x, _ = node_network(tmp_path, name)
    images = pipeline.pack(pipeline.quantize(network, x, "tiny")).images
    with ExitStack() as stack:
        links = [stack.enter_context(Simulator(image.config)) for image in images]
        devices = [MachineRunner(Device(link, image)) for link, image in zip(links, images, strict=True)]
        verilog = as_onnx(*network.run(x, devices))
    twins = [MachineRunner(Reference(image.model(), channels=2)) for image in images]
    for word, expected in zip(verilog, as_onnx(*network.run(x, twins)), strict=True):
        np.testing.assert_array_equal(word, expected)


def test_there_are_node_tests():
    names = ("defaults", "with_initial_bias", "batchwise")
    assert {f"test_{kind}_{name}" for name in names for kind in ("lstm", "gru")} <= set(NODE_TESTS)
    assert {"test_lstm_with_peepholes", "test_gru_seq_length"} <= set(NODE_TESTS)


# -- onnxruntime -----------------------------------------------------------------------------------


def runtime(model, **feeds):
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    return ort.InferenceSession(model.SerializeToString(), options).run(None, feeds)


@st.composite
def cases(draw):
    """Draw a random LSTM node: its tensors, its attributes, and a batch of frames."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    direction = draw(st.sampled_from(DIRECTIONS))
    ways = 2 if direction == "bidirectional" else 1
    inputs, cells, steps, voices = (draw(st.integers(1, 8)) for _ in range(4))
    tensors = weights(rng, inputs, cells, ways, draw(st.booleans()))
    if draw(st.booleans()):
        del tensors["B"]
    if draw(st.booleans()):
        tensors["sequence_lens"] = rng.integers(1, steps + 1, voices).astype(np.int32)
    for name in ("initial_h", "initial_c"):
        if draw(st.booleans()):
            tensors[name] = rng.normal(size=(ways, voices, cells)).astype(np.float32)
    attributes = {"direction": direction, "hidden_size": cells}
    if draw(st.booleans()):
        g_activation = draw(st.sampled_from(["Tanh", "Sigmoid", "tanh"]))
        attributes["activations"] = ["Sigmoid", g_activation, "Tanh"] * ways
    if draw(st.booleans()):
        attributes["clip"] = 30.0
    x = rng.normal(size=(steps, voices, inputs)).astype(np.float32)
    return tensors, attributes, x


@settings(max_examples=300, deadline=None)
@given(cases())
def test_random_nodes_equal_onnxruntime(tmp_path_factory, case):
    tensors, attributes, x = case
    model = model_of([lstm_node(tensors, **attributes)], tensors, outputs=("Y", "Y_h", "Y_c"))
    network = importers.load(saved(tmp_path_factory.mktemp("onnx"), model))
    results = as_onnx(*run_float(network, x, lengths=tensors.get("sequence_lens")))
    for result, expected in zip(results, runtime(model, X=x), strict=True):
        assert_close(result, expected)


@st.composite
def gru_cases(draw):
    """Draw a random GRU node, likewise."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    direction = draw(st.sampled_from(DIRECTIONS))
    ways = 2 if direction == "bidirectional" else 1
    inputs, cells, steps, voices = (draw(st.integers(1, 8)) for _ in range(4))
    tensors = weights(rng, inputs, cells, ways, gates=3)
    if draw(st.booleans()):
        del tensors["B"]
    if draw(st.booleans()):
        tensors["sequence_lens"] = rng.integers(1, steps + 1, voices).astype(np.int32)
    if draw(st.booleans()):
        tensors["initial_h"] = rng.normal(size=(ways, voices, cells)).astype(np.float32)
    attributes = {"direction": direction, "hidden_size": cells}
    if draw(st.booleans()):
        attributes["linear_before_reset"] = draw(st.integers(0, 1))
    if draw(st.booleans()):
        attributes["activations"] = ["Sigmoid", draw(st.sampled_from(["Tanh", "tanh"]))] * ways
    return tensors, attributes, rng.normal(size=(steps, voices, inputs)).astype(np.float32)


@settings(max_examples=100, deadline=None)
@given(gru_cases())
def test_random_grus_equal_onnxruntime(tmp_path_factory, case):
    tensors, attributes, x = case
    model = model_of([gru_node(tensors, **attributes)], tensors, outputs=("Y", "Y_h"))
    network = importers.load(saved(tmp_path_factory.mktemp("onnx"), model))
    y, y_h, _ = as_onnx(*run_float(network, x, lengths=tensors.get("sequence_lens")))
    for result, expected in zip((y, y_h), runtime(model, X=x), strict=True):
        assert_close(result, expected)


def test_a_stack_of_lstm_and_gru(tmp_path):
    """Both ways, as exporters write it."""
    rng = np.random.default_rng(8)
    lstm, gru = weights(rng, 5, 4, 2), weights(rng, 8, 3, 2, gates=3)
    tensors = {"shape": np.array([0, 0, -1]),
               **{f"{name}0": value for name, value in lstm.items()},
               **{f"{name}1": value for name, value in gru.items()}}
    nodes = [helper.make_node("LSTM", ["X", "W0", "R0", "B0"], ["Y0"], name="lstm", hidden_size=4,
                              direction="bidirectional"),
             helper.make_node("Transpose", ["Y0"], ["turned"], perm=[0, 2, 1, 3]),
             helper.make_node("Reshape", ["turned", "shape"], ["middle"]),
             helper.make_node("GRU", ["middle", "W1", "R1", "B1"], ["Y"], name="gru", hidden_size=3,
                              direction="bidirectional", linear_before_reset=1)]
    model = model_of(nodes, tensors)
    x = rng.normal(size=(6, 2, 5)).astype(np.float32)
    network = importers.load(saved(tmp_path, model))
    assert [direction.model.layers[0].cell for direction in network.directions] == ["lstm", "lstm", "gru", "gru"]
    y, _ = run_float(network, x)
    assert_close(y.reshape(6, 2, 2, 3).swapaxes(1, 2), runtime(model, X=x)[0])


@pytest.mark.parametrize("attributes, reason", [
    ({"clip": 30.0}, "clip 30: the machine does not clip sums; export without clip"),
    ({"activations": ["HardSigmoid", "Tanh"]}, "activation HardSigmoid of the gates z, r"),
    ({"activations": ["Sigmoid", "Relu"]}, "activation Relu of the gate h: the machine computes only Tanh"),
    ({"activations": ["Sigmoid", "ScaledTanh"]}, "activation ScaledTanh of the gate h"),
    ({"activations": ["Sigmoid", "Tanh", "Tanh"]}, "expected 2 activations, 2 for each direction, found 3"),
    ({"linear_before_reset": "yes"}, "attribute linear_before_reset must be a whole number"),
    ({"hidden_size": 3}, r"R: expected shape \(directions, 3H, H\) = \(1, 9, 3\), found \(1, 12, 4\)")])
def test_grus_refused_by_name(tmp_path, attributes, reason):
    tensors = weights(np.random.default_rng(3), 3, 4, gates=3)
    path = saved(tmp_path, model_of([gru_node(tensors, **{"hidden_size": 4, **attributes})], tensors))
    with pytest.raises(ImportRefused, match=f"GRU 'gru': {reason}"):
        importers.load(path)


def test_a_gru_has_no_inputs_of_an_lstm(tmp_path):
    tensors = {**weights(np.random.default_rng(3), 3, 4, gates=3), "initial_c": np.zeros((1, 1, 4), np.float32)}
    with pytest.raises(ImportRefused, match="it has an input 'initial_c', which a GRU of ONNX has not"):
        importers.load(saved(tmp_path, model_of([gru_node(tensors, hidden_size=4)], tensors)))


@pytest.mark.parametrize("peepholes", [False, True])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_input_forget(tmp_path, direction, peepholes):
    """f = 1 - i, as onnxruntime computes it."""
    rng = np.random.default_rng(1)
    tensors = weights(rng, 3, 4, 2 if direction == "bidirectional" else 1, peepholes)
    model = model_of([lstm_node(tensors, direction=direction, hidden_size=4, input_forget=1)], tensors)
    x = rng.normal(size=(6, 2, 3)).astype(np.float32)
    network = importers.load(saved(tmp_path, model))
    assert "input_forget" in network.notes[0]
    assert_close(as_onnx(*run_float(network, x))[0], runtime(model, X=x)[0])


def test_scaled_tanh(tmp_path):
    """The inner scale moves into the weights of g. Lists of alpha and beta skip functions without them."""
    rng = np.random.default_rng(2)
    tensors = weights(rng, 3, 4, 2, peepholes=True)
    functions = ["Sigmoid", "ScaledTanh", "Tanh", "Sigmoid", "ScaledTanh", "ScaledTanh"]
    model = model_of([lstm_node(tensors, direction="bidirectional", hidden_size=4, activations=functions,
                                activation_alpha=[1.0, 1.0, 1.0], activation_beta=[0.5, 1.5, 1.0])], tensors)
    x = rng.normal(size=(6, 2, 3)).astype(np.float32)
    assert_close(as_onnx(*run_float(importers.load(saved(tmp_path, model)), x))[0], runtime(model, X=x)[0])


@pytest.mark.parametrize("attributes, reason", [
    ({"clip": 3.0}, "clip 3: the machine does not clip sums; export without clip, or with 16 or more"),
    ({"activations": ["HardSigmoid", "Tanh", "Tanh"]}, "activation HardSigmoid of the gates i, o, f"),
    ({"activations": ["Sigmoid", "Relu", "Tanh"]}, "activation Relu of the cell's input"),
    ({"activations": ["Sigmoid", "Tanh", "Softsign"]}, "activation Softsign of the cell's output"),
    ({"activations": ["Sigmoid", "Tanh", "Sigmoid"]}, "activation Sigmoid of the cell's output"),
    ({"activations": ["Sigmoid", "ScaledTanh", "Tanh"], "activation_alpha": [1.7]}, "activation ScaledTanh"),
    ({"activations": [1, 2, 3]}, "attribute activations must be several times text"),
    ({"activations": ["Sigmoid", "ScaledTanh", "Tanh"], "activation_alpha": ["a"]}, "attribute activation_alpha must"),
    ({"clip": "much"}, "attribute clip must be a number, not much"),
    ({"activations": ["Sigmoid", "Tanh"]}, "expected 3 activations, 3 for each direction, found 2"),
    ({"activations": ["Sigmoid", "ScaledTanh", "Tanh"], "activation_beta": [0.5], "clip": 20.0},
     "clip 20: .* with 32 or more"),
    ({"direction": "sideways"}, "direction 'sideways' is none of forward, reverse, bidirectional"),
])
def test_refused_by_name(tmp_path, attributes, reason):
    tensors = weights(np.random.default_rng(3), 3, 4)
    model = model_of([lstm_node(tensors, hidden_size=4, **attributes)], tensors)
    path = saved(tmp_path, model)
    entry, = importers.entries(path)
    assert re.search(reason, entry.problem)
    with pytest.raises(ImportRefused, match=f"LSTM 'lstm': {reason}"):
        importers.load(path)


@pytest.mark.parametrize("operator, domain", [("RNN", ""), ("DynamicQuantizeLSTM", "com.microsoft")])
def test_other_operators_are_refused(tmp_path, operator, domain):
    tensors = weights(np.random.default_rng(3), 3, 4)
    node = helper.make_node(operator, ["X", "W", "R"], ["Y"], name="other", domain=domain)
    with pytest.raises(ImportRefused, match=f"{operator} 'other': a .*{operator} is not an LSTM or GRU"):
        importers.load(saved(tmp_path, model_of([node], tensors)))


def test_weights_must_be_constant_and_fit(tmp_path):
    tensors = weights(np.random.default_rng(3), 3, 4)
    node = lstm_node(tensors, hidden_size=4)
    live = dict(tensors)
    del live["R"]
    path = saved(tmp_path, model_of([node], live, inputs=("X", "R")))
    with pytest.raises(ImportRefused, match="R is computed by the graph; export the model with constant weights"):
        importers.load(path)
    tensors["B"] = tensors["B"][:, :-1]
    with pytest.raises(ImportRefused, match=r"B: expected shape \(directions, 8H\) = \(1, 32\), found .*31"):
        importers.load(saved(tmp_path, model_of([node], tensors)))


# -- constants in disguise -------------------------------------------------------------------------


def constant_node(name, value):
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))


def as_constants(tensors):
    return [constant_node(name, value) for name, value in tensors.items()], {}, 0.0


def as_halves(tensors):
    halves = {f"{name}_half": value.astype(np.float16) for name, value in tensors.items()}
    casts = [helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT) for name in tensors]
    return casts, halves, 2e-3


def as_sliced(tensors):
    """As exporters without constant folding write them: slices that are concatenated."""
    nodes, pieces = [], {}
    for name, value in tensors.items():
        half = value.shape[1] // 2
        pieces[f"{name}_all"] = np.concatenate([value[0, half:], value[0, :half]])
        pieces[f"{name}_axis"] = np.array([0])
        for part, (start, end) in (("high", (half, 2 * half)), ("low", (0, half))):
            limits = [f"{name}_{part}_start", f"{name}_{part}_end"]
            pieces |= dict(zip(limits, (np.array([start]), np.array([end])), strict=True))
            inputs = [f"{name}_all", *limits, f"{name}_axis"]
            nodes.append(helper.make_node("Slice", inputs, [f"{name}_{part}"]))
        nodes += [helper.make_node("Concat", [f"{name}_high", f"{name}_low"], [f"{name}_flat"], axis=0),
                  helper.make_node("Unsqueeze", [f"{name}_flat", f"{name}_axis"], [name])]
    return nodes, pieces, 0.0


def as_quantized(tensors):
    nodes, stored = [], {}
    for name, value in tensors.items():
        scale = np.float32(abs(value).max() / 127)
        stored |= {f"{name}_scale": scale, f"{name}_zero": np.int8(0),
                   f"{name}_int": np.clip(np.round(value / scale), -127, 127).astype(np.int8)}
        inputs = [f"{name}_int", f"{name}_scale", f"{name}_zero"]
        nodes.append(helper.make_node("DequantizeLinear", inputs, [name]))
    return nodes, {name: np.asarray(value) for name, value in stored.items()}, 2e-2


def as_fake_quantized(tensors):
    nodes, stored = [], {}
    for name, value in tensors.items():
        stored |= {f"{name}_scale": np.float32(abs(value).max() / 127), f"{name}_zero": np.int8(0),
                   f"{name}_float": value}
        rest = [f"{name}_scale", f"{name}_zero"]
        nodes += [helper.make_node("QuantizeLinear", [f"{name}_float", *rest], [f"{name}_int"]),
                  helper.make_node("DequantizeLinear", [f"{name}_int", *rest], [name])]
    return nodes, {name: np.asarray(value) for name, value in stored.items()}, 2e-2


@pytest.mark.parametrize("disguise, word", [(as_constants, ""), (as_sliced, ""),
                                            (as_halves, "float16 weights"),
                                            (as_quantized, "quantized weights"),
                                            (as_fake_quantized, "quantized weights")])
def test_constants_in_disguise(tmp_path, disguise, word):
    rng = np.random.default_rng(4)
    tensors = weights(rng, 3, 4, peepholes=True)
    nodes, stored, loss = disguise(tensors)
    model = model_of([*nodes, lstm_node(tensors, hidden_size=4)], stored)
    network = importers.load(saved(tmp_path, model))
    assert word in " ".join(network.notes)
    x = rng.normal(size=(6, 2, 3)).astype(np.float32)
    y = run_float(network, x)[0]
    assert_close(y[:, None], runtime(model, X=x)[0])
    plain = importers.load(saved(tmp_path, model_of([lstm_node(tensors, hidden_size=4)], tensors)))
    assert abs(y - run_float(plain, x)[0]).max() <= loss


@pytest.mark.parametrize("opset, axis", [(10, None), (13, 1), (17, None), (17, 1)])
def test_quantized_weights_in_older_versions(tmp_path, opset, axis):
    """With one scale, and from version 13 on with one for each row."""
    rng = np.random.default_rng(41)
    tensors = weights(rng, 3, 4)
    stored = {name: value for name, value in tensors.items() if name != "W"}
    scale = np.float32(0.01) if axis is None else rng.uniform(0.005, 0.02, 16).astype("f")
    stored |= {"scale": np.asarray(scale), "zero": np.zeros(np.shape(scale), np.int8),
               "integers": rng.integers(-127, 128, tensors["W"].shape).astype(np.int8)}
    node = helper.make_node("DequantizeLinear", ["integers", "scale", "zero"], ["W"],
                            **({} if axis is None else {"axis": axis}))
    model = model_of([node, lstm_node(tensors, hidden_size=4)], stored, opset=opset)
    x = rng.normal(size=(6, 2, 3)).astype(np.float32)
    assert_close(run_float(importers.load(saved(tmp_path, model)), x)[0][:, None], runtime(model, X=x)[0])


def test_half_model(tmp_path):
    tensors = weights(np.random.default_rng(5), 3, 4, dtype=np.float16)
    network = importers.load(saved(tmp_path, model_of([lstm_node(tensors, hidden_size=4)], tensors)))
    np.testing.assert_array_equal(network.model.layers[0].w_x[0], tensors["W"][0, :4].astype(np.float32))
    assert "float16 weights" in network.notes[0]


# -- larger graphs ---------------------------------------------------------------------------------


def zero_states(ways=1, cells=4):
    """Return nodes that make zeros of the batch's size, as exporters write them."""
    return [helper.make_node("Shape", ["X"], ["shape"]),
            helper.make_node("Gather", ["shape", "one"], ["voices"], axis=0),
            helper.make_node("Concat", ["ways", "voices", "cells"], ["state_shape"], axis=0),
            helper.make_node("ConstantOfShape", ["state_shape"], ["zeros"])], \
        {"one": np.array([1]), "ways": np.array([ways]), "cells": np.array([cells])}


def chain(rng, direction="forward", dense=True, activation=None):
    """Return two LSTMs with a linear layer between them and a head, as exporters write them."""
    ways = 2 if direction == "bidirectional" else 1
    zero_nodes, tensors = zero_states(ways)
    for k, inputs in ((0, 3), (1, 5 if dense else 4 * ways)):
        tensors |= {f"{name}{k}": value for name, value in weights(rng, inputs, 4, ways).items()}
    tensors |= {"flat": np.array([0, 0, -1]), "M": rng.normal(size=(4 * ways, 5)).astype(np.float32),
                "m": rng.normal(size=5).astype(np.float32),
                "G": rng.normal(size=(4 * ways, 2)).astype(np.float32),
                "g": rng.normal(size=2).astype(np.float32)}

    def layer(k, x):
        return [helper.make_node("LSTM", [x, f"W{k}", f"R{k}", f"B{k}", "", "zeros", "zeros"], [f"Y{k}"],
                                 name=f"lstm{k}", hidden_size=4, direction=direction),
                helper.make_node("Transpose", [f"Y{k}"], [f"T{k}"], perm=[0, 2, 1, 3]),
                helper.make_node("Reshape", [f"T{k}", "flat"], [f"F{k}"])]

    middle = [helper.make_node("MatMul", ["F0", "M"], ["D"], name="between"),
              helper.make_node("Add", ["m", "D"], ["E"])]
    if activation:
        middle.append(helper.make_node(activation, ["E"], ["E2"]))
    nodes = [*zero_nodes, *layer(0, "X"), *(middle if dense else []),
             *layer(1, ("E2" if activation else "E") if dense else "F0"),
             helper.make_node("MatMul", ["F1", "G"], ["H"], name="head"),
             helper.make_node("Add", ["H", "g"], ["Y"])]
    return model_of(nodes, tensors)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_chain_is_imported_whole(tmp_path, direction, dense):
    rng = np.random.default_rng(6)
    model = chain(rng, direction, dense)
    path = saved(tmp_path, model)
    network = importers.load(path)
    x = rng.normal(size=(7, 2, 3)).astype(np.float32)
    assert_close(run_float(network, x)[0], runtime(model, X=x)[0])
    assert network.plain == (direction == "forward")
    assert {entry.name for entry in importers.entries(path)} == {"lstm0", "lstm1", "head"} | (
        {"between"} if dense else set())


def test_chain_broken_by_an_activation(tmp_path):
    path = saved(tmp_path, chain(np.random.default_rng(7), activation="Relu"))
    with pytest.raises(ImportRefused, match="the layers 'lstm0', 'lstm1' are not one chain; compile takes the whole"):
        importers.load(path)
    with pytest.raises(ImportRefused, match="between 'between' and 'lstm1' is Relu 'E2', which would be left out"):
        importers.load(path, "lstm0,between,lstm1")
    with pytest.raises(ImportRefused, match="between 'lstm0' and 'lstm1' is Relu 'E2', which would be left out"):
        importers.load(path, "lstm0,lstm1")
    network = importers.load(path, "lstm1,head")
    assert network.inputs == 5 and network.head is not None
    assert network.notes == ("left out before 'lstm1': LSTM 'lstm0', Transpose 'T0', Reshape 'F0', MatMul 'between', "
                             "Add 'E', Relu 'E2'",)


@pytest.mark.parametrize("last", ["gather", "slice", "state"])
def test_head_on_the_last_frame(tmp_path, last):
    rng = np.random.default_rng(8)
    tensors = weights(rng, 3, 4) | {
        "G": rng.normal(size=(2, 4)).astype(np.float32), "g": rng.normal(size=2).astype(np.float32),
        "zero": np.array([0]), "one": np.array([1]), "last": np.array(-1), "from": np.array([-1]),
        "to": np.array([2**31])}
    way = {"gather": [helper.make_node("Squeeze", ["Y0", "one"], ["S"]),
                      helper.make_node("Gather", ["S", "last"], ["L"], axis=0)],
           "slice": [helper.make_node("Squeeze", ["Y0", "one"], ["S"]),
                     helper.make_node("Slice", ["S", "from", "to", "zero"], ["L1"]),
                     helper.make_node("Squeeze", ["L1", "zero"], ["L"])],
           "state": [helper.make_node("Squeeze", ["Yh", "zero"], ["L"])]}[last]
    nodes = [lstm_node(tensors, outputs=("Y0", "Yh"), hidden_size=4), *way,
             helper.make_node("Gemm", ["L", "G", "g"], ["Y"], name="head", transB=1, alpha=0.5, beta=2.0)]
    model = model_of(nodes, tensors)
    network = importers.load(saved(tmp_path, model))
    x = rng.normal(size=(7, 2, 3)).astype(np.float32)
    assert_close(run_float(network, x)[0][-1], runtime(model, X=x)[0])
    assert "some frames only" in " ".join(network.notes)


def test_scrambled_features_are_no_head(tmp_path):
    """A MatMul that reads frames as features is not a head, even if its size fits."""
    rng = np.random.default_rng(9)
    tensors = weights(rng, 3, 4) | {"G": rng.normal(size=(4, 2)).astype(np.float32), "one": np.array([1])}
    nodes = [lstm_node(tensors, outputs=("Y0",), hidden_size=4),
             helper.make_node("Squeeze", ["Y0", "one"], ["S"]),
             helper.make_node("Transpose", ["S"], ["T"], perm=[2, 1, 0]),
             helper.make_node("MatMul", ["T", "G"], ["Y"], name="head")]
    model = model_of(nodes, tensors)
    model.graph.input[0].type.tensor_type.shape.CopyFrom(
        helper.make_tensor_type_proto(TensorProto.FLOAT, [4, 2, 3]).tensor_type.shape)
    path = saved(tmp_path, model)
    assert [entry.name for entry in importers.entries(path)] == ["lstm"]
    with pytest.raises(ImportRefused, match="has more than recurrent and linear layers: MatMul 'head'; compile takes"):
        importers.load(path)
    network = importers.load(path, "lstm")
    assert network.head is None and network.notes == ("left out beside and after: MatMul 'head'",)


@pytest.mark.parametrize("operator", ["If", "Loop"])
def test_bodies(tmp_path, operator):
    """LSTMs in the bodies of If and Loop, some with equal names, with weights of the graph around them."""
    rng = np.random.default_rng(10)
    tensors = weights(rng, 3, 4)
    node = lstm_node(tensors, outputs=("Y0",), hidden_size=4)
    out = [helper.make_empty_tensor_value_info("Y0")]
    if operator == "If":
        bodies = {f"{way}_branch": helper.make_graph([node], way, [], out) for way in ("then", "else")}
        outer = helper.make_node("If", ["cond"], ["Y"], name="choice", **bodies)
        names = ["lstm", "choice.else_branch/lstm"]
    else:
        ins = [helper.make_tensor_value_info("i", TensorProto.INT64, []),
               helper.make_tensor_value_info("go", TensorProto.BOOL, [])]
        body = helper.make_graph([helper.make_node("Identity", ["go"], ["on"]), node], "body", ins,
                                 [helper.make_tensor_value_info("on", TensorProto.BOOL, []), *out])
        outer = helper.make_node("Loop", ["", "cond"], ["Y"], name="loop", body=body)
        names = ["lstm"]
    path = saved(tmp_path, model_of([outer], tensors, inputs=("X", "cond")))
    listed = [entry.name for entry in importers.entries(path)]
    assert len(listed) == len(names) and listed[0] == "lstm"
    for name in listed:
        layer = importers.load(path, name).model.layers[0]
        np.testing.assert_array_equal(layer.w_x[3], tensors["W"][0, 4:8])


def test_notes_name_states_from_the_graph(tmp_path):
    tensors = weights(np.random.default_rng(11), 3, 4)
    node = lstm_node({*tensors, "initial_h", "sequence_lens"}, hidden_size=4)
    model = model_of([node], tensors, inputs=("X", "initial_h", "sequence_lens"))
    notes = " ".join(importers.load(saved(tmp_path, model)).notes)
    assert "sequence_lens is ignored; give the lengths" in notes and "initial_h is computed by the graph" in notes


# -- what is around the layers -----------------------------------------------------------------------


def around(tmp_path, nodes, extra, sizes=("t", "b", 3), outputs=("Y",), **named):
    """Save an LSTM from f to Y0, a squeezed s, and these nodes; x is the input."""
    rng = np.random.default_rng(15)
    front = any("f" in node.output for node in nodes)
    tensors = weights(rng, 3, 4) | {"one": np.array([1]), "G": rng.normal(size=(4, 2)).astype("f")}
    tensors |= {name: np.asarray(value, np.float32 if np.asarray(value).dtype.kind == "f" else None)
                for name, value in extra.items()}
    lstm = lstm_node(tensors, outputs=("Y0", "Yh", "Yc"), hidden_size=4, **named)
    lstm.input[0] = "f" if front else "X"
    squeeze = helper.make_node("Squeeze", ["Y0", "one"], ["s"], name="squeeze")
    before = [node for node in nodes if not ({"s", "Y0", "Yh", "p"} & set(node.input))] if front else []
    after = [node for node in nodes if node not in before]
    model = model_of([*before, lstm, squeeze, *after], tensors, outputs=outputs)
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("X", TensorProto.FLOAT, sizes))
    return saved(tmp_path, model), model


def op(kind, inputs, output, **attributes):
    return helper.make_node(kind, inputs.split(), [output], name=f"{kind.lower()}_{output}", **attributes)


BIAS = np.array([2.5, -1.5])


@pytest.mark.parametrize("tail, extra", [
    ([op("Add", "p c", "Y")], {"c": BIAS}),
    ([op("Add", "c p", "Y")], {"c": BIAS}),
    ([op("Add", "p c", "Y")], {"c": BIAS[None]}),
    ([op("Add", "p c", "Y")], {"c": BIAS[None, None]}),
    ([op("Add", "p c", "Y")], {"c": 0.5}),
    ([op("Cast", "p", "q", to=TensorProto.FLOAT), op("Add", "q c", "Y")], {"c": BIAS}),
    ([op("Mul", "p d", "q"), op("Add", "q c", "Y")], {"c": BIAS, "d": BIAS}),
    ([op("Div", "p d", "q"), op("Sub", "q c", "Y")], {"c": BIAS, "d": BIAS}),
    ([op("Sub", "c p", "Y")], {"c": BIAS}),
    ([op("Reshape", "p flat", "q"), op("Add", "q c", "r"), op("Reshape", "r back", "Y")],
     {"c": BIAS, "flat": np.array([-1, 2]), "back": np.array([-1, 2, 2])}),
], ids=["last", "first", "(1, K)", "(1, 1, K)", "one number", "Cast", "Mul", "Div and Sub", "Sub from", "Reshape"])
def test_bias_of_a_head(tmp_path, tail, extra):
    """As converters write it; the sizes are open, so a Reshape to numbers cannot be followed everywhere."""
    sizes = ("t", 2, 3) if "flat" in extra else ("t", "b", 3)
    path, model = around(tmp_path, [op("MatMul", "s G", "p"), *tail], extra, sizes)
    network = importers.load(path)
    x = np.random.default_rng(1).normal(size=(7, 2, 3)).astype(np.float32)
    assert_close(run_float(network, x)[0], runtime(model, X=x)[0].reshape(7, 2, 2))


@pytest.mark.parametrize("gemm", [False, True])
def test_dense_as_converters_write_it(tmp_path, gemm):
    """Frames and voices in one axis, MatMul or Gemm, and the bias after a Reshape back."""
    nodes = [op("Reshape", "s flat", "q"), op("Gemm" if gemm else "MatMul", "q G", "p"),
             *([op("Add", "p c", "u"), op("Reshape", "u back", "Y")] if gemm else
               [op("Reshape", "p back", "u"), op("Add", "u c", "Y")])]
    extra = {"c": BIAS, "flat": np.array([-1, 4]), "back": np.array([-1, 2, 2])}
    path, model = around(tmp_path, nodes, extra, ("t", 2, 3))
    x = np.random.default_rng(1).normal(size=(7, 2, 3)).astype(np.float32)
    assert_close(run_float(importers.load(path), x)[0], runtime(model, X=x)[0])


def test_a_head_that_is_read_twice(tmp_path):
    """Its bias belongs to one of the readers."""
    nodes = [op("MatMul", "s G", "p"), op("Identity", "p", "logits"), op("Add", "p c", "Y")]
    path, _ = around(tmp_path, nodes, {"c": BIAS}, outputs=("Y", "logits"))
    with pytest.raises(ImportRefused, match="more than recurrent and linear layers: Add 'add_Y'; compile takes the"):
        importers.load(path)
    network = importers.load(path, "lstm,matmul_p")
    assert not network.head.bias.any() and network.notes == ("left out beside and after: Add 'add_Y'",)


@pytest.mark.parametrize("nodes, extra, named", [
    ([op("Relu", "s", "Y")], {}, "Relu 'relu_Y'"),
    ([op("Softmax", "s", "Y")], {}, "Softmax 'softmax_Y'"),
    ([op("Add", "s c", "Y")], {"c": np.ones(4)}, "Add 'add_Y'"),
    ([op("Slice", "X from to zero back", "f"), op("Identity", "s", "Y")],
     {"from": np.array([-1]), "to": np.array([-(2**31)]), "zero": np.array([0]), "back": np.array([-1])},
     "Slice 'slice_f'"),
    ([op("Relu", "X", "f"), op("Identity", "s", "Y")], {}, "Relu 'relu_f'"),
    ([op("MatMul", "X M", "m"), op("Relu", "m", "f"), op("Identity", "s", "Y")], {"M": np.eye(3)},
     "MatMul 'matmul_m', Relu 'relu_f'"),
    ([op("Reshape", "X swap", "f"), op("Identity", "s", "Y")], {"swap": np.array([2, -1, 3])}, "Reshape 'reshape_f'"),
    ([op("Concat", "s X", "Y", axis=2)], {}, "Concat 'concat_Y'"),
], ids=["Relu", "Softmax", "sum", "flip", "front", "front and Relu", "reshaped", "input again"])
def test_what_else_a_file_has(tmp_path, nodes, extra, named):
    """It is refused without a selection, and named in a note with one."""
    path, _ = around(tmp_path, nodes, extra)
    with pytest.raises(ImportRefused, match=f"^model.onnx: has more than recurrent and linear layers: {named}; compile "
                                            f"takes the whole network, --select lstm these layers alone$"):
        importers.load(path)
    where = "before 'lstm'" if any("f" in node.output for node in nodes) else "beside and after"
    assert importers.load(path, "lstm").notes == (f"left out {where}: {named}",)


def reversed_nodes(path):
    """The file with its nodes in the opposite order, which onnxruntime runs as well."""
    model = onnx.load(path)
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, path)


@pytest.mark.parametrize("nodes", [
    [op("MatMul", "s G", "p"), op("Add", "p c", "Y")], [op("MatMul", "s G", "p"), op("Relu", "p", "Y")],
], ids=["bias", "activation"])
def test_the_order_of_nodes_does_not_matter(tmp_path, nodes):
    path, model = around(tmp_path, nodes, {"c": BIAS})
    reversed_nodes(path)
    if nodes[-1].op_type == "Relu":
        with pytest.raises(ImportRefused, match="has more than recurrent and linear layers: Relu 'relu_Y'"):
            importers.load(path)
        return
    x = np.random.default_rng(1).normal(size=(7, 2, 3)).astype(np.float32)
    assert_close(run_float(importers.load(path), x)[0], runtime(model, X=x)[0])


def test_states_as_outputs_are_no_more(tmp_path):
    nodes = [op("Concat", "Yh Yc", "states", axis=0), op("Transpose", "s", "Y", perm=[1, 0, 2])]
    path, _ = around(tmp_path, nodes, {}, outputs=("Y", "states"))
    assert not importers.load(path).notes


@pytest.mark.parametrize("turned", [False, True])
def test_linear_before_the_first_lstm(tmp_path, turned):
    """It is multiplied into the weights; a batch in front is told."""
    turn = [op("Transpose", "q", "f", perm=[1, 0, 2])] if turned else [op("Identity", "q", "f")]
    nodes = [op("MatMul", "X M", "m"), op("Add", "m c", "q"), *turn, op("Identity", "s", "Y")]
    extra = {"M": np.arange(15.0).reshape(5, 3) / 9, "c": np.ones((1, 3))}
    path, model = around(tmp_path, nodes, extra, (None, None, 5))
    network = importers.load(path)
    x = np.random.default_rng(1).normal(size=(7, 2, 5)).astype(np.float32)
    want = runtime(model, X=x.swapaxes(0, 1) if turned else x)[0]
    assert network.inputs == 5
    assert_close(run_float(network, x)[0], want)
    note = "the file has the batch before the frames; here frames come first: (T, B, I)"
    assert (note in network.notes) == turned
    assert [entry.name for entry in importers.entries(path)] == ["matmul_m", "lstm"]
    assert importers.load(path, "lstm").notes[0].startswith("left out before 'lstm': MatMul 'matmul_m', Add 'add_q'")


def test_stacking_with_something_between(tmp_path):
    rng = np.random.default_rng(16)
    tensors = {**weights(rng, 3, 4), **{f"{name}2": value for name, value in weights(rng, 4, 4).items()},
               "one": np.array([1]), "H": rng.normal(size=(4, 4)).astype("f")}
    second = helper.make_node("LSTM", ["m", "W2", "R2", "B2"], ["Y2"], name="second", hidden_size=4)
    for label, nodes, reason in (
            ("residual", [op("MatMul", "X E", "e"), op("Add", "s e", "m")], "is Add 'add_m', which would be left"),
            ("turned", [op("Transpose", "s", "m", perm=[1, 0, 2])],
             "does not get the outputs of 'lstm' frame by frame"),
            ("linear", [op("MatMul", "s H", "m")], "'matmul_m' is between 'lstm' and 'second'; select it too"),
            ("other", [op("MatMul", "X E", "m")], "'second' does not read what 'lstm' gives")):
        first = lstm_node(tensors, outputs=("Y1",), hidden_size=4)
        model = model_of([first, helper.make_node("Squeeze", ["Y1", "one"], ["s"]), *nodes, second],
                         tensors | {"E": rng.normal(size=(3, 4)).astype("f")}, outputs=("Y1", "Y2"))
        path = saved(tmp_path, model, f"{label}.onnx")
        with pytest.raises(ImportRefused, match=reason):
            importers.load(path, "lstm,second")
    network = importers.load(tmp_path / "linear.onnx", "lstm,matmul_m,second")
    assert len(network.model.layers) == 2


def test_states_of_an_encoder_are_not_dropped(tmp_path):
    rng = np.random.default_rng(17)
    tensors = {**weights(rng, 3, 4), **{f"{name}2": value for name, value in weights(rng, 4, 4).items()},
               "one": np.array([1])}
    nodes = [lstm_node(tensors, outputs=("Y1", "h1", "c1"), hidden_size=4),
             helper.make_node("Squeeze", ["Y1", "one"], ["s"]),
             helper.make_node("LSTM", ["s", "W2", "R2", "B2", "", "h1", "c1"], ["Y"], name="decoder", hidden_size=4)]
    path = saved(tmp_path, model_of(nodes, tensors))
    with pytest.raises(ImportRefused, match="LSTM 'decoder' begins in a state that the graph computes; compile takes"):
        importers.load(path)
    assert "initial_h is computed by the graph and is taken as zero" in " ".join(
        importers.load(path, "lstm,decoder").notes)


def test_an_lstm_that_does_not_fit_is_refused(tmp_path):
    """As an exporter writes an LSTM with a projection, which ONNX does not have."""
    tensors = weights(np.random.default_rng(18), 3, 4) | {"initial_h": np.zeros((1, 2, 4), "f"),
                                                          "initial_c": np.zeros((1, 2, 8), "f")}
    path = saved(tmp_path, model_of([lstm_node(tensors, hidden_size=4)], tensors))
    with pytest.raises(ImportRefused, match=r"initial_c: expected shape .* = \(1, any, 4\), found \(1, 2, 8\)"):
        importers.load(path)


# -- untrusted files -------------------------------------------------------------------------------


def external(tmp_path, location):
    tensors = weights(np.random.default_rng(12), 3, 4)
    model = model_of([lstm_node(tensors, hidden_size=4)], tensors)
    for tensor in model.graph.initializer:
        if tensor.name == "W":
            data = tensor.raw_data
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=location)
            tensor.external_data.add(key="offset", value="8")
    (tmp_path / "inner").mkdir()
    for folder in (tmp_path, tmp_path / "inner"):
        (folder / "weights.bin").write_bytes(b"8 bytes " + data)
    (tmp_path / "inner" / "link.bin").symlink_to(tmp_path / "weights.bin")
    path = tmp_path / "inner" / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path, tensors


def test_external_tensors(tmp_path):
    path, tensors = external(tmp_path, "weights.bin")
    np.testing.assert_array_equal(importers.load(path).model.layers[0].w_x[0], tensors["W"][0, :4])
    (path.parent / "weights.bin").write_bytes(b"short")
    with pytest.raises(ImportRefused, match="weights.bin is too short for tensor 'W'"):
        importers.load(path)


@pytest.mark.parametrize("location", ["../weights.bin", "link.bin", "/etc/passwd"])
def test_external_tensors_cannot_escape(tmp_path, location):
    path, _ = external(tmp_path, location)
    with pytest.raises(ImportRefused, match="outside of the model's folder"):
        importers.load(path)


@pytest.mark.parametrize("data", [b"", b"\x08\x0a", b"not a model at all", bytes(1000)])
def test_garbage(tmp_path, data):
    path = tmp_path / "bad.onnx"
    path.write_bytes(data)
    with pytest.raises(ImportRefused, match="^bad.onnx: not an ONNX model"):
        importers.load(path)


def test_silero_everywhere():
    """The package's own files: as a node, in If bodies, and in half precision."""
    from importlib.util import find_spec
    spec = find_spec("silero_vad")
    if spec is None:
        pytest.skip("silero-vad is not installed")
    folder = f"{spec.submodule_search_locations[0]}/data/"
    with pytest.raises(ImportRefused, match="has more than recurrent and linear layers: Pad '/stft/padding/Pad', "):
        importers.load(folder + "silero_vad_16k_sequence.onnx")
    want = importers.load(folder + "silero_vad_16k_sequence.onnx", "/recurrent/LSTM").model.layers[0]
    for file, select in (("silero_vad_16k_op15.onnx", "/model/decoder/rnn/LSTM"),
                         ("silero_vad.onnx", "If_0_then_branch__Inline_0__/decoder/rnn/LSTM"),
                         ("silero_vad_openvino_16k.onnx", "F2::If_0_then_branch__Inline_0__/decoder/rnn/LSTM"),
                         ("silero_vad.jit", "_model.decoder.rnn")):
        layer = importers.load(folder + file, select).model.layers[0]
        for tensor in ("w_x", "w_r", "bias"):
            np.testing.assert_array_equal(getattr(layer, tensor), getattr(want, tensor))
    with pytest.raises(ImportRefused, match="no LSTM"):
        importers.load(folder + "silero_vad_op18_ifless.onnx")


@pytest.mark.parametrize("disguise", [as_constants, as_sliced, as_quantized])
def test_damaged_files(tmp_path, disguise):
    tensors = weights(np.random.default_rng(13), 3, 4, peepholes=True)
    nodes, stored, _ = disguise(tensors)
    assert_survives(saved(tmp_path, model_of([*nodes, lstm_node(tensors, hidden_size=4)], stored)))


def test_damaged_chains(tmp_path):
    assert_survives(saved(tmp_path, chain(np.random.default_rng(14), "bidirectional")))
