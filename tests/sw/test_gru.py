# SPDX-License-Identifier: Apache-2.0
"""GRUs in whole networks of every framework and in training, and what is told of those that stay with the host."""

import dataclasses
import os

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime_extensions")
os.environ["KERAS_BACKEND"] = "torch"
keras = pytest.importorskip("keras")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.utils import parametrizations, rnn  # noqa: E402

import openese  # noqa: E402
from openese.sw.prune import prune, slice_counts  # noqa: E402
from openese.sw.run.runners import FloatRunner  # noqa: E402
from openese.sw.training.pruner import Pruner, find_weights  # noqa: E402
from openese.sw.training.sensitivity import scan  # noqa: E402
from openese.sw.whole import keras_layers  # noqa: E402
from openese.sw.whole.engine import Engine, Recorder, float_runners  # noqa: E402
from openese.sw.whole.network import CompiledWhole, compile_host, open_host  # noqa: E402

L = keras.layers
SEED = 4


#: A machine with GRU cells; presets have those of LSTMs.
MACHINE = dataclasses.replace(openese.preset("demo"), cells="lstm+gru")
BOTH = dataclasses.replace(MACHINE, cells="lstm+gru+gru_before")
LACKS = "a GRU, but config 'demo' has cells 'lstm'. Take a machine with cells 'lstm+gru'"
BEFORE = ("a GRU with the reset before the product, but config 'demo' has cells 'lstm+gru'. Take a machine with cells "
          "'lstm+gru+gru_before'")


# -- PyTorch -------------------------------------------------------------------------------------------


def flat(outputs):
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    return [] if outputs is None else [tensor for output in outputs for tensor in flat(output)]


def check(network, *arguments, machine=MACHINE):
    """Compare a network with itself offloaded, in floating point and in integers."""
    network.eval()
    with torch.no_grad():
        wanted = network(*arguments)
        for backend, bound in (("float", 1e-5), ("reference", 0.01)):
            offloaded = openese.offload(network, machine, calibrate=arguments, backend=backend)
            found = offloaded(*arguments)
            assert type(found) is type(wanted)
            for ours, theirs in zip(flat(found), flat(wanted), strict=True):
                assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
                torch.testing.assert_close(ours, theirs, atol=bound, rtol=bound)
    return offloaded


SHAPES = {"plain": {}, "batch first": {"batch_first": True}, "no bias": {"bias": False},
          "two layers": {"num_layers": 2}, "all": {"batch_first": True, "num_layers": 2, "bidirectional": True}}


@pytest.mark.parametrize("named", SHAPES.values(), ids=SHAPES)
def test_offloaded_modules(named):
    torch.manual_seed(SEED)
    gru = nn.GRU(6, 9, **named)
    h = torch.randn(gru.num_layers * (1 + gru.bidirectional), 3, 9).tanh()
    x = torch.randn(*((3, 7) if gru.batch_first else (7, 3)), 6)
    packed = rnn.pack_padded_sequence(x, torch.tensor([5, 1, 7]), gru.batch_first, enforce_sorted=False)
    for given in ((x,), (x, h), (torch.randn(7, 6),), (torch.randn(7, 6), h[:, 0]), (packed,), (packed, h)):
        offloaded = check(gru, *given)
    assert list(offloaded.parts) == list(offloaded.networks) == ["gru"]
    names = [layer.name for d in offloaded.networks["gru"].directions for layer in d.model.layers]
    assert names == list(dict.fromkeys(weights.layer for weights in find_weights(gru)))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("voices", [(), (3,)])
def test_offloaded_cells(bias, voices):
    cell = nn.GRUCell(6, 9, bias=bias)
    check(cell, torch.randn(*voices, 6))
    check(cell, torch.randn(*voices, 6), torch.randn(*voices, 9).tanh())


class Mixed(nn.Module):
    """An LSTM and a GRU; ``hidden`` is a GRU that PyTorch does not find."""

    def __init__(self):
        super().__init__()
        self.lstm, self.gru, self.cell, self.hidden = nn.LSTM(5, 8), nn.GRU(8, 8), nn.GRUCell(8, 8), [nn.GRU(8, 8)]

    def forward(self, x):
        y = self.gru(self.lstm(x)[0])[0]
        return self.hidden[0](torch.stack([self.cell(frame) for frame in y]))[0]


def test_places_in_pytorch():
    torch.manual_seed(SEED)
    offloaded = check(Mixed(), torch.randn(7, 3, 5))
    assert [(item.name, item.kind, item.place) for item in offloaded.items] == [
        ("lstm", "LSTM", "machine"), ("gru", "GRU", "machine"), ("cell", "GRUCell", "machine"),
        ("gru", "function", "host")]
    assert "that is no module of the network; keep it as an attribute" in offloaded.items[-1].detail


def test_grus_stay_if_the_machine_lacks_them():
    torch.manual_seed(SEED)
    offloaded = check(Mixed(), torch.randn(7, 3, 5), machine="demo")
    assert list(offloaded.networks) == ["lstm"]
    told = {item.name: (item.place, item.detail) for item in offloaded.items}
    assert told["gru"] == told["cell"] == ("host", f"PyTorch: {LACKS}")
    with pytest.raises(ValueError, match="no LSTM or GRU that the machine can compute: GRU 'gru': PyTorch: a GRU, but"):
        openese.offload(nn.GRU(4, 4), "demo", calibrate=torch.randn(5, 2, 4))


def norm(gru):
    parametrizations.weight_norm(gru, "weight_hh_l0")
    with torch.no_grad():
        gru.parametrizations.weight_hh_l0.original0.mul_(2)


COMPUTED = {
    "weight norm": norm, "spectral norm": lambda gru: parametrizations.spectral_norm(gru, "weight_hh_l0"),
    "masks": lambda gru: openese.Pruner(gru, 0.3, MACHINE), "none": lambda gru: None}


@pytest.mark.parametrize("suffix", ["pt", "safetensors", "npz"])
@pytest.mark.parametrize("computed", COMPUTED)
@pytest.mark.parametrize("learned", [False, True], ids=["", "h0"])
def test_tensors_of_modules(tmp_path, suffix, computed, learned):
    """As of LSTMs: weights that are computed, and a state that is learned."""
    torch.manual_seed(SEED)
    net = nn.Module()
    net.gru = nn.GRU(5, 6, num_layers=2, bidirectional=True)
    COMPUTED[computed](net.gru)
    net.eval()
    if learned:
        net.h0 = nn.Parameter(torch.randn(4, 1, 6).tanh())
    x = torch.randn(7, 3, 5)
    with torch.no_grad():
        wanted = net.gru(x, net.h0.expand(4, 3, 6).contiguous() if learned else None)[0].numpy()
    path = tmp_path / f"net.{suffix}"
    tensors = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
    if suffix == "pt":
        torch.save(tensors, path)
    elif suffix == "npz":
        np.savez(path, **{name: tensor.numpy() for name, tensor in tensors.items()})
    else:
        pytest.importorskip("safetensors.torch").save_file(tensors, path)
    network = openese.load(path)
    runners = [FloatRunner(direction.model) for direction in network.directions]
    np.testing.assert_allclose(network.run(x.numpy(), runners)[0], wanted, atol=1e-6)


# -- ONNX ----------------------------------------------------------------------------------------------


def onnx_weights(rng, gates, inputs, size, ways, suffix):
    shapes = {"W": (ways, gates * size, inputs), "R": (ways, gates * size, size), "B": (ways, 2 * gates * size)}
    return {f"{name}{suffix}": rng.normal(size=shape, scale=0.5).astype("f") for name, shape in shapes.items()}


def onnx_file(path, nodes, tensors, inputs, outputs):
    ports = [[helper.make_tensor_value_info(name, TensorProto.INT32 if name == "lens" else TensorProto.FLOAT, shape)
              for name, shape in items.items()] for items in (inputs, outputs)]
    graph = helper.make_graph(nodes, "test", *ports,
                              [numpy_helper.from_array(array, name) for name, array in tensors.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def assert_original(host, inputs):
    found, wanted = host.run(inputs, Engine(host.parts, float_runners(host.parts))), host.original(inputs)
    for name, expected in wanted.items():
        assert found[name].shape == expected.shape and found[name].dtype == expected.dtype
        np.testing.assert_allclose(found[name], expected, atol=1e-4)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("after", [0, 1])
def test_gru_nodes(tmp_path, direction, after):
    """With a front that is folded, lengths, an initial state, and a final one."""
    rng, ways = np.random.default_rng(SEED), 1 + (direction == "bidirectional")
    tensors = {**onnx_weights(rng, 3, 4, 5, ways, ""), "F": rng.normal(size=(3, 4)).astype("f"),
               "offset": rng.normal(size=4).astype("f")}
    nodes = [helper.make_node("MatMul", ["x", "F"], ["f"], "front"),
             helper.make_node("Add", ["f", "offset"], ["g"], "add"),
             helper.make_node("GRU", ["g", "W", "R", "B", "lens", "h"], ["Y", "hn"], "gru", hidden_size=5,
                              direction=direction, linear_before_reset=after),
             helper.make_node("Relu", ["Y"], ["y"], "relu")]
    path = onnx_file(tmp_path / "net.onnx", nodes, tensors, {"x": ["t", "b", 3], "lens": ["b"], "h": None},
                     {"y": None, "hn": None})
    inputs = {"x": rng.normal(size=(6, 3, 3)), "lens": np.array([6, 0, 2]), "h": np.tanh(rng.normal(size=(ways, 3, 5)))}
    for machine in (MACHINE, BOTH):
        host = open_host(path, machine=machine)
        assert_original(host, inputs)
        item, = (item for item in host.items if item.name == "gru")
        taken = after or machine is BOTH
        assert (item.place, item.detail) == (("machine", "gru") if taken else ("host", f"onnxruntime: {BEFORE}"))
    compiled = compile_host(host, BOTH, calibrate=inputs)
    compiled.save(tmp_path / "net")
    for name, found in CompiledWhole.load(tmp_path / "net").run(inputs).items():
        np.testing.assert_allclose(found, host.original(inputs)[name], atol=0.02)


def test_lstm_and_gru_are_one_part(tmp_path):
    rng = np.random.default_rng(SEED)
    tensors = {**onnx_weights(rng, 4, 3, 5, 1, "0"), **onnx_weights(rng, 3, 5, 4, 1, "1"), "axis": np.array([1])}
    nodes = [helper.make_node("LSTM", ["x", "W0", "R0", "B0", "", "h", "c"], ["Y0", "hn", "cn"], "lstm", hidden_size=5),
             helper.make_node("Squeeze", ["Y0", "axis"], ["middle"], "drop"),
             helper.make_node("GRU", ["middle", "W1", "R1", "B1", "", "k"], ["Y1", "kn"], "gru", hidden_size=4,
                              linear_before_reset=1)]
    host = open_host(onnx_file(tmp_path / "net.onnx", nodes, tensors, {"x": ["t", "b", 3], "h": None, "c": None,
                                                                       "k": None},
                               {"Y1": None, "hn": None, "cn": None, "kn": None}))
    assert list(host.parts) == ["lstm to gru"]
    assert [layer.cell for layer in host.parts["lstm to gru"].directions[0].model.layers] == ["lstm", "gru"]
    states = {name: rng.normal(size=(1, 2, size)) for name, size in (("h", 5), ("c", 5), ("k", 4))}
    assert_original(host, {"x": rng.normal(size=(6, 2, 3)), **states})


def test_equal_weights_of_other_cells_are_other_parts(tmp_path):
    """Two GRUs that differ only in the recurrent bias of n are two parts; two equal ones are one."""
    rng = np.random.default_rng(SEED)
    tensors = {**onnx_weights(rng, 3, 3, 4, 1, ""), "C": np.zeros((1, 24), "f")}
    tensors["C"][:] = tensors["B"]
    tensors["C"][0, 20:] += 1
    nodes = [helper.make_node("GRU", ["x", "W", "R", bias], [name], name, hidden_size=4, linear_before_reset=1)
             for name, bias in (("a", "B"), ("b", "C"), ("c", "B"))]
    host = open_host(onnx_file(tmp_path / "net.onnx", nodes, tensors, {"x": ["t", "b", 3]},
                               {"a": None, "b": None, "c": None}))
    assert list(host.parts) == ["a", "b"]
    assert_original(host, {"x": rng.normal(size=(6, 2, 3))})


@pytest.mark.parametrize("kind", ["module", "cell"])
@pytest.mark.filterwarnings("ignore")
def test_programs_of_pytorch(tmp_path, kind):
    torch.manual_seed(SEED)
    network = nn.Sequential(nn.Linear(5, 6), nn.ReLU())
    if kind == "module":
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.front, self.gru = network, nn.GRU(6, 4, bidirectional=True)

            def forward(self, x):
                return self.gru(self.front(x))[0]
        net, x = Net().eval(), torch.randn(7, 2, 5)
    else:
        net, x = nn.Sequential(network, nn.GRUCell(6, 4), nn.Tanh()).eval(), torch.randn(3, 5)
    exported = torch.export.export(net, (x,))
    torch.export.save(exported, tmp_path / "net.pt2")
    host = open_host(tmp_path / "net.pt2", trust=True)
    assert len(host.parts) == 1
    name, = (port.name for port in host.inputs)
    found, = host.run({name: x.numpy()}, Engine(host.parts, float_runners(host.parts))).values()
    np.testing.assert_allclose(found, net(x).detach().numpy(), atol=1e-5)


# -- Keras ---------------------------------------------------------------------------------------------


def gru(units, **named):
    return L.GRU(units, return_sequences=True, **named)


def keras_model(*layers, batch=None):
    keras.utils.set_random_seed(SEED)
    model = keras.Sequential([keras.Input((None, 5)) if batch is None else keras.Input(batch_shape=batch), *layers])
    rng = np.random.default_rng(SEED)
    for variable in model.weights:
        variable.assign(rng.normal(size=variable.shape, scale=0.5))
    return model


KERAS = {
    "plain": lambda: keras_model(gru(6, name="a"), L.Dense(3)),
    "no bias": lambda: keras_model(gru(6, use_bias=False), L.GRU(4)),
    "bidirectional": lambda: keras_model(L.Bidirectional(gru(6)), L.Bidirectional(L.GRU(3), merge_mode="sum")),
    "backwards": lambda: keras_model(gru(6, go_backwards=True), gru(4)),
    "masked": lambda: keras_model(L.Masking(), gru(6), gru(4, zero_output_for_mask=True), L.Bidirectional(gru(3))),
    "before": lambda: keras_model(L.Masking(), gru(6, reset_after=False), gru(4), L.GRU(3, reset_after=False)),
    "before, both ways": lambda: keras_model(L.Bidirectional(gru(6, reset_after=False, use_bias=False)), L.Dense(3)),
    "cell before": lambda: keras_model(L.RNN([L.LSTMCell(6), L.GRUCell(4, reset_after=False)])),
    "cell": lambda: keras_model(L.RNN(L.GRUCell(4), return_sequences=True)),
    "mixed cells": lambda: keras_model(L.RNN([L.LSTMCell(6), L.GRUCell(4), L.LSTMCell(3)], return_sequences=True)),
    "masked cells": lambda: keras_model(L.Masking(), L.RNN([L.GRUCell(4), L.LSTMCell(3)])),
    "stateful": lambda: keras_model(gru(6, stateful=True), batch=(3, 7, 5)),
    "unrolled": lambda: keras_model(gru(6, unroll=True), batch=(3, 7, 5)),
}


def keras_frames():
    x = np.random.default_rng(SEED).normal(size=(3, 7, 5)).astype(np.float32)
    x[0, :3] = x[1, 2:4] = x[2, 5:] = 0
    return x


@pytest.mark.parametrize("name", KERAS)
def test_keras_layers(tmp_path, name):
    """Alive and from a file."""
    model = KERAS[name]()
    twin = keras_layers.copy_model(model)
    layers = keras_layers.replace(twin, model)
    layers.engine = Recorder(layers.parts)
    x = keras_frames()
    wanted = keras_layers.to_numpy(keras, model(x))
    np.testing.assert_allclose(keras_layers.to_numpy(keras, twin(x)), wanted, atol=1e-5)
    assert layers.parts and all(layers.engine.recorded(part) is not None for part in layers.parts)
    model.save(tmp_path / "net.keras")
    host = open_host(tmp_path / "net.keras")
    assert host.parts.keys() == layers.parts.keys()
    for _ in range(2):  # a stateful layer begins from zero again
        assert_original(host, {host.inputs[0].name: x})


def test_a_keras_cell_with_its_state():
    class Steps(keras.Model):
        def __init__(self, **named):
            super().__init__(**named)
            self.cell = L.GRUCell(4, name="cell")

        def call(self, x):
            state, outputs = self.cell.get_initial_state(batch_size=x.shape[0]), []
            for step in range(x.shape[1]):
                y, state = self.cell(x[:, step], state)
                outputs.append(y)
            return keras.ops.stack(outputs, axis=1)

    model, x = Steps(), keras_frames()
    wanted = keras_layers.to_numpy(keras, model(x))
    twin = keras_layers.copy_model(model)
    layers = keras_layers.replace(twin, model)
    layers.engine = Recorder(layers.parts)
    np.testing.assert_allclose(keras_layers.to_numpy(keras, twin(x)), wanted, atol=1e-5)
    assert list(layers.parts) == ["cell"]


def test_the_reset_before_the_product_stays_with_keras_if_the_machine_lacks_it(tmp_path):
    model = keras_model(gru(6, name="a"), gru(4, reset_after=False, name="b"),
                        L.RNN([L.LSTMCell(3), L.GRUCell(2, reset_after=False)], name="c"))
    model.save(tmp_path / "net.keras")
    for machine in (MACHINE, BOTH):
        host = open_host(tmp_path / "net.keras", machine=machine)
        told = {item.name: (item.place, item.detail) for item in host.items if item.kind != "weight"}
        assert told["a"] == ("machine", "a")
        assert told["b"] == (("machine", "b") if machine is BOTH else ("host", BEFORE))
        assert told["c"] == (("machine", "c") if machine is BOTH else ("host", BEFORE))
        assert_original(host, {host.inputs[0].name: keras_frames()})


def test_keras_with_the_reset_before_the_product_in_integers():
    model = keras_model(gru(12, reset_after=False), L.Bidirectional(gru(8, reset_after=False)), gru(6))
    x = keras_frames()
    offloaded = openese.offload(model, BOTH, calibrate=x, density=1)
    np.testing.assert_allclose(keras_layers.to_numpy(keras, offloaded(x)), keras_layers.to_numpy(keras, model(x)),
                               atol=0.01)


# -- training ------------------------------------------------------------------------------------------


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru, self.head = nn.GRU(12, 16, 2, bidirectional=True), nn.Linear(32, 3)

    def forward(self, x):
        return self.head(self.gru(x)[0])


def test_a_pruner_keeps_what_prune_keeps():
    torch.manual_seed(SEED)
    network = Tagger()
    given = openese.sw.importers.from_torch.from_module(network).load("gru")
    pruner = Pruner(network, 0.25, "tiny")
    assert set(pruner.counts()) == {"gru.l0", "gru.l0_reverse", "gru.l1", "gru.l1_reverse"}
    assert {len(per_gate) for tensors in pruner.counts().values() for per_gate in tensors.values()} == {3}
    pruner.make_permanent()
    config = openese.preset("tiny")
    wanted = given.map(lambda model: prune(model, 0.25, config.pes, config.groups))
    found = openese.sw.importers.from_torch.from_module(network).load("gru")
    for ours, theirs in zip(found.directions, wanted.directions, strict=True):
        for layer, expected in zip(ours.model.layers, theirs.model.layers, strict=True):
            np.testing.assert_array_equal(layer.w_x, expected.w_x)
            np.testing.assert_array_equal(layer.w_r, expected.w_r)
            counts = slice_counts(layer.w_r[2], config.pes, config.groups)
            assert counts.min() == counts.max()


def test_distillation_and_scan():
    torch.manual_seed(SEED)
    network = Tagger()
    batches = [torch.randn(10, 8, 12) for _ in range(60)]
    curve = openese.distill(network, batches, 60, 0.3, "tiny")
    assert np.mean(curve[-5:]) < 0.5 * np.mean(curve[20:25])
    densities = [float(parameter.count_nonzero() / parameter.numel()) for name, parameter in network.named_parameters()
                 if name.startswith("gru.weight")]
    assert all(0.25 < density <= 0.3 for density in densities)
    measured = scan(network, lambda: float(network(batches[0]).square().mean()), [0.1], "tiny")
    assert set(measured.errors) == {(f"gru.l{layer}{way}", tensor) for layer in (0, 1) for way in ("", "_reverse")
                                    for tensor in ("w_x", "w_r")}


def test_a_cell_alone_has_a_name():
    assert {weights.layer for weights in find_weights(nn.GRUCell(3, 4))} == {"gru"}
