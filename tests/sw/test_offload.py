# SPDX-License-Identifier: Apache-2.0
"""Live networks on a machine: everything that PyTorch's LSTM layers take, and what the user is told."""

import copy
import gc
import warnings
import weakref

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="live networks need PyTorch: the extra `train`")

from torch import nn  # noqa: E402
from torch.nn.utils import parametrizations, rnn  # noqa: E402

import openese  # noqa: E402
from openese.sw.whole import offload as module  # noqa: E402
from openese.sw.whole.host import Host, HostError, Item, Port  # noqa: E402


def relative(found, wanted):
    """RMS of the difference, relative to the RMS of what is wanted."""
    found, wanted = (values.detach().double() for values in (found, wanted))
    return float((found - wanted).square().mean().sqrt() / wanted.square().mean().sqrt().clamp(min=1e-12))


def flat(outputs):
    """The tensors in outputs of any structure."""
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    if isinstance(outputs, dict):
        outputs = outputs.values()
    if not isinstance(outputs, (list, tuple, type({}.values()))):
        return []
    return [tensor for output in outputs for tensor in flat(output)]


def check(network, *arguments, calibrate=None, machine="demo", **named):
    """Compare a network with itself offloaded: outputs, types and shapes; in floating point and in integers."""
    network.eval()
    with torch.no_grad():
        wanted = network(*arguments, **named)
    given = calibrate or (named or arguments)
    exact, integers = (openese.offload(network, machine, calibrate=given, backend=backend)
                       for backend in ("float", "reference"))
    with torch.no_grad():
        results = [offloaded(*arguments, **named) for offloaded in (exact, integers)]
    for found, bound in zip(results, (1e-5, 0.03), strict=True):
        assert type(found) is type(wanted)
        for ours, theirs in zip(flat(found), flat(wanted), strict=True):
            assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
            assert relative(ours, theirs) < bound
    assert any((ours != theirs).any() for ours, theirs in zip(flat(results[1]), flat(wanted), strict=True))
    return integers


class Net(nn.Module):
    """Linear and ReLU, two LSTMs, LayerNorm, and a head."""

    def __init__(self, **named):
        super().__init__()
        self.front, self.norm, self.head = nn.Linear(5, 8), nn.LayerNorm(12), nn.Linear(12, 3)
        self.a, self.b = nn.LSTM(8, 10, **named), nn.LSTM(10, 12, **named)

    def forward(self, x):
        return self.head(self.norm(self.b(self.a(self.front(x).relu())[0])[0]))


SHAPES = {
    "plain": {}, "batch first": {"batch_first": True}, "no bias": {"bias": False}, "two layers": {"num_layers": 2},
    "both ways": {"bidirectional": True}, "projected": {"proj_size": 4}, "dropout": {"num_layers": 2, "dropout": 0.5},
    "all": {"batch_first": True, "num_layers": 2, "bidirectional": True, "proj_size": 5},
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(1)


@pytest.fixture(params=list(SHAPES))
def lstm(request):
    return nn.LSTM(6, 9, **SHAPES[request.param]).eval()


def states(lstm, *voices):
    """Random h and c."""
    count = lstm.num_layers * (1 + lstm.bidirectional)
    return tuple(torch.randn(count, *voices, size).tanh() for size in (lstm.proj_size or lstm.hidden_size,
                                                                      lstm.hidden_size))


@pytest.mark.parametrize("given", [False, True], ids=["zero state", "initial state"])
def test_batches(lstm, given):
    x = torch.randn(*((3, 7) if lstm.batch_first else (7, 3)), 6)
    check(lstm, x, *((states(lstm, 3),) if given else ()))


@pytest.mark.parametrize("given", [False, True], ids=["zero state", "initial state"])
def test_one_sequence(lstm, given):
    check(lstm, torch.randn(7, 6), *((states(lstm),) if given else ()))


@pytest.mark.parametrize("given", [False, True], ids=["zero state", "initial state"])
@pytest.mark.parametrize("ordered", [False, True])
def test_packed_sequences(lstm, given, ordered):
    lengths = torch.tensor([7, 5, 5, 1] if ordered else [5, 1, 7, 5])
    x = torch.randn(*((4, 7) if lstm.batch_first else (7, 4)), 6)
    packed = rnn.pack_padded_sequence(x, lengths, lstm.batch_first, enforce_sorted=ordered)
    offloaded = check(lstm, packed, *((states(lstm, 4),) if given else ()))
    with torch.no_grad():
        ours, theirs = offloaded(packed)[0], lstm(packed)[0]
    for name in ("batch_sizes", "sorted_indices", "unsorted_indices"):
        assert (getattr(ours, name) is None) == (getattr(theirs, name) is None)
        assert getattr(ours, name) is None or torch.equal(getattr(ours, name), getattr(theirs, name))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("voices", [(), (3,)])
def test_cells(bias, voices):
    cell = nn.LSTMCell(6, 9, bias=bias)
    check(cell, torch.randn(*voices, 6))
    check(cell, torch.randn(*voices, 6), (torch.randn(*voices, 9).tanh(), torch.randn(*voices, 9)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_types(dtype):
    net = Net().to(dtype).eval()
    x = torch.randn(7, 3, 5, dtype=dtype)
    offloaded = openese.offload(net, "demo", calibrate=x)
    with torch.no_grad():
        ours, theirs = offloaded(x), net(x)
    assert ours.dtype == dtype and relative(ours, theirs) < 0.05


def test_autocast():
    net, x = Net().eval(), torch.randn(7, 3, 5)
    offloaded = openese.offload(net, "demo", calibrate=x)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        y = torch.randn(7, 3, 8)
        for ours, theirs in zip(flat(offloaded.a(y)), flat(net.a(y)), strict=True):
            assert ours.dtype == theirs.dtype == torch.bfloat16
        assert relative(offloaded(x), net(x)) < 0.05


def test_a_network_of_layers():
    net = Net()
    offloaded = check(net, torch.randn(9, 4, 5))
    assert list(offloaded.parts) == ["a", "b"] and offloaded.machine.name == "demo"
    assert {item.name: item.place for item in offloaded.items} == {
        "front": "host", "a": "machine", "norm": "host", "b": "machine", "head": "host"}
    assert "part a: 8 -> 10, density 100.0 %, error" in offloaded.report
    assert offloaded.parts["a"].summary.loads[0].cycles_per_step > 0
    assert type(net.a) is nn.LSTM and isinstance(offloaded.network, Net) and isinstance(offloaded.a, nn.LSTM)


class Decoder(nn.Module):
    """An encoder whose state goes to a decoder cell, which feeds itself."""

    def __init__(self):
        super().__init__()
        self.encoder, self.cell, self.out = nn.LSTM(4, 8), nn.LSTMCell(4, 8), nn.Linear(8, 4)

    def forward(self, x, steps=3):
        _, (h, c) = self.encoder(x)
        h, c, y, outputs = h[0], c[0], x[-1], []
        for _ in range(steps):
            h, c = self.cell(y, (h, c))
            y = self.out(h)
            outputs.append(y)
        return {"outputs": torch.stack(outputs), "state": (h, c)}


def test_an_encoder_and_a_decoder():
    offloaded = check(Decoder(), torch.randn(6, 2, 4), steps=5, calibrate=lambda net: net(torch.randn(6, 8, 4)))
    assert list(offloaded.parts) == ["encoder", "cell"]


def test_a_layer_that_is_used_twice_is_one_part():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.LSTM(6, 6)
            self.again = self.a

        def forward(self, x):
            return self.again(self.a(x)[0])[0]

    offloaded = check(Twice(), torch.randn(7, 3, 6))
    assert list(offloaded.parts) == ["a"] and offloaded.a is offloaded.again


def test_what_calibrates():
    net, x = Net().eval(), torch.randn(9, 4, 5)
    with torch.no_grad():
        wanted = net(x)
    found = []
    for given in (x, x.numpy(), x.double().numpy(), (x,), {"x": x}, [x], [(x,)], lambda net: net(x)):
        found.append(openese.offload(net, "demo", calibrate=given)(x).detach())
        assert torch.equal(found[0], found[-1])
    assert relative(found[0], wanted) < 0.03


def test_states_join_calls_to_one_sequence():
    lstm, x = nn.LSTM(6, 9).eval(), torch.randn(12, 2, 6)

    def stepwise(net):
        state, outputs = None, []
        for frame in x:
            y, state = net(frame[None], state)
            outputs.append(y)
        return torch.cat(outputs)

    at_once, steps = openese.offload(lstm, "demo", calibrate=x), openese.offload(lstm, "demo", calibrate=stepwise)
    assert steps.parts["lstm"].calibration == at_once.parts["lstm"].calibration == (12, 2)
    with torch.no_grad():
        assert torch.equal(at_once(x)[0], stepwise(steps))


@pytest.mark.parametrize("density", [0.3, {"w_x": 0.5, "w_r": 0.2}, {"a.l0": 0.4, "b.l1_reverse": 0.2}],
                         ids=["one", "matrices", "layers"])
def test_densities_are_those_of_prune(density):
    net, x = Net(), torch.randn(9, 4, 5)
    net.a, net.b = nn.LSTM(8, 10), nn.LSTM(10, 6, num_layers=2, bidirectional=True)
    offloaded = openese.offload(net, "demo", calibrate=x, density=density, backend="float")
    layers = {layer.name: layer for part in offloaded.networks.values() for direction in part.directions
              for layer in direction.model.layers}
    assert list(layers) == ["a.l0", "b.l0", "b.l0_reverse", "b.l1", "b.l1_reverse"]
    for name, layer in layers.items():
        for tensor in ("w_x", "w_r"):
            matrix = getattr(layer, tensor)
            wanted = density if isinstance(density, float) else density.get(tensor, density.get(name, 1))
            assert abs(np.count_nonzero(matrix) / matrix.size - wanted) < 0.15
    assert all(weight.count_nonzero() == weight.numel() for weight in net.a.parameters())


@pytest.mark.parametrize("permanent", [False, True])
def test_masks_of_a_pruner_stay(permanent):
    net, x = Net(), torch.randn(9, 4, 5)
    pruner = openese.Pruner(net, 0.2, "demo")
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    net(x).square().sum().backward()
    optimizer.step()  # the product of weight and mask lags behind now, and belongs to autograd
    if permanent:
        pruner.make_permanent()
    wanted = copy.deepcopy(net.state_dict())
    offloaded = openese.offload(net, "demo", calibrate=x, backend="float")
    for name in ("a", "b"):
        layer = offloaded.networks[name].model.layers[0]
        assert layer.nonzeros <= 0.25 * layer.weights
    net.eval()
    assert relative(offloaded(x), net(x)) < 1e-5
    assert all(torch.equal(value, wanted[key]) for key, value in net.state_dict().items())


def test_norms_of_weights():
    net = Net()
    parametrizations.weight_norm(net.a, "weight_hh_l0")
    parametrizations.spectral_norm(net.b, "weight_ih_l0")
    offloaded = check(net, torch.randn(9, 4, 5))
    folded = [item.name for item in offloaded.items if item.place == "folded"]
    assert "a.parametrizations.weight_hh_l0.0" in folded and "b.parametrizations.weight_ih_l0.0" in folded
    old = Net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.weight_norm(old.a, "weight_hh_l0")
    old(torch.randn(9, 4, 5)).sum().backward()
    with torch.no_grad():
        old.a.weight_hh_l0_g.mul_(2)
    check(old, torch.randn(9, 4, 5))


class WeightDrop(nn.Module):
    """Computes the weights of its LSTM before every call, as AWD-LSTM does."""

    def __init__(self, lstm):
        super().__init__()
        self.lstm = lstm
        self.raw = nn.Parameter(lstm.weight_hh_l0.detach() * 2)
        del lstm._parameters["weight_hh_l0"]
        lstm.weight_hh_l0 = torch.zeros_like(self.raw)

    def forward(self, x):
        self.lstm.weight_hh_l0 = nn.functional.dropout(self.raw * 1, 0.5, self.training)
        return self.lstm.forward(x)[0]


def test_weights_that_a_wrapper_computes():
    offloaded = check(WeightDrop(nn.LSTM(6, 9)), torch.randn(7, 3, 6))
    offloaded.train()
    with pytest.raises(HostError, match="lstm: the weights have changed since the network was offloaded"):
        offloaded(torch.randn(7, 3, 6))


def test_weights_that_never_stay_are_refused():
    class Noisy(WeightDrop):
        def forward(self, x):
            self.lstm.weight_hh_l0 = self.raw + torch.randn_like(self.raw)
            return self.lstm(x)[0]

    with pytest.raises(HostError, match="the weights of a layer change from call to call"):
        openese.offload(Noisy(nn.LSTM(6, 9)), "demo", calibrate=torch.randn(7, 3, 6))


def test_weights_that_are_loaded_later_are_refused():
    net, x = Net(), torch.randn(9, 4, 5)
    offloaded = openese.offload(net, "demo", calibrate=x)
    offloaded.load_state_dict(net.state_dict())
    offloaded(x)
    offloaded.load_state_dict(Net().state_dict())
    with pytest.raises(HostError, match="a: the weights have changed since the network was offloaded; offload it"):
        offloaded(x)


class Around(nn.LSTM):
    """Another forward pass, with PyTorch's own inside."""

    def forward(self, x):
        return super().forward(x.flip(0))[0].flip(0)


class Own(nn.LSTM):
    """Another cell with the same weights."""

    def forward(self, x):
        h = x.new_zeros(x.shape[1], self.hidden_size)
        return torch.stack([h := (frame @ self.weight_ih_l0[:9].T + h @ self.weight_hh_l0[:9].T).tanh() for frame in x])


def test_subclasses():
    check(Around(6, 9), torch.randn(7, 3, 6))
    net = nn.Sequential(Own(6, 9), Around(9, 5))
    offloaded = check(net, torch.randn(7, 3, 6))
    assert list(offloaded.parts) == ["1"]
    assert "\n0  Own     host     PyTorch: it has a forward pass of its own" in f"\n{offloaded.report}"
    with pytest.raises(HostError, match="no LSTM or GRU that the machine can compute: Own 'lstm': PyTorch: it has"):
        openese.offload(Own(6, 9), "demo", calibrate=torch.randn(7, 3, 6))


def test_what_stays_in_pytorch_is_told():
    class Many(Net):
        def __init__(self):
            super().__init__()
            self.gru, self.hidden = nn.GRU(12, 12), [nn.LSTM(12, 12)]

        def forward(self, x):
            y = self.b(self.a(self.front(x).relu())[0])[0]
            return self.head(self.hidden[0](self.gru(y)[0])[0])

    offloaded = check(Many(), torch.randn(9, 4, 5))
    told = {item.name: item.detail for item in offloaded.items}
    assert told["gru"] .startswith("PyTorch: a GRU, but config 'demo' has cells 'lstm'")
    assert told["lstm"].startswith("PyTorch: an LSTM or GRU that is no module of the network; keep it")


def test_quantized_layers_stay():
    net = nn.Sequential(nn.Linear(5, 8), nn.LSTM(8, 8))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized = torch.ao.quantization.quantize_dynamic(net.eval(), {nn.LSTM})
    with pytest.raises(HostError, match="can compute: LSTM '1': PyTorch: LSTM is a cell of its own class"):
        openese.offload(quantized, "demo", calibrate=torch.randn(9, 4, 5))


def test_the_papers_cell():
    net = openese.LSTMP(6, 9, outputs=4)
    with torch.no_grad():
        net.peephole.normal_()
    offloaded = check(net, torch.randn(7, 3, 6))
    state = openese.offload(net, "demo", calibrate=torch.randn(7, 3, 6), backend="float")(torch.randn(7, 3, 6))[1]
    x = torch.randn(5, 3, 6)
    assert relative(offloaded(x, state)[0], net(x, state)[0]) < 0.03


def test_training_is_refused():
    net, x = Net(num_layers=2, dropout=0.5), torch.randn(9, 4, 5)
    assert net.training
    offloaded = openese.offload(net, "demo", calibrate=x)
    assert net.training and not offloaded.training
    y = offloaded(x)
    with pytest.raises(HostError, match="a machine has no gradients: train the original network"):
        y.sum().backward()
    offloaded.train()
    with pytest.raises(HostError, match="a: dropout acts between its layers in training mode.*call eval"):
        offloaded(x)


def test_programs_and_traces_are_refused():
    net, x = Net().eval(), torch.randn(9, 4, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(HostError, match="TorchScript program, whose layers cannot be replaced"):
            openese.offload(torch.jit.script(net), "demo", calibrate=x)
        with pytest.raises(HostError, match="cannot be traced or exported; export the original network"):
            torch.jit.trace(openese.offload(net, "demo", calibrate=x).network, x)


def test_refusals():
    net, x = Net(), torch.randn(9, 4, 5)
    for given, error, text in (
            ({"backend": "fpga"}, ValueError, "backend must be one of reference, sim, float, not 'fpga'"),
            ({"carry": {"a": "b"}}, HostError, "carry is for files"),
            ({"density": 2}, ValueError, "density"),
            ({"density": {"c.l0": 0.5}}, ValueError, r"'c.l0' is neither a matrix .* nor a layer \('a.l0', 'b.l0'\)")):
        with pytest.raises(error, match=text):
            openese.offload(net, "demo", calibrate=x, **given)
    with pytest.raises(HostError, match="no LSTM or GRU that the machine can compute: GRU 'gru': PyTorch: a GRU, but"):
        openese.offload(nn.GRU(4, 4), "demo", calibrate=x)
    with pytest.raises(TypeError, match="expected a torch.nn.Module, a keras.Model or the path"):
        openese.offload(np.zeros(3), "demo", calibrate=x)
    with pytest.raises(RuntimeError, match="input.size"):
        openese.offload(nn.LSTM(4, 4), "demo", calibrate=x)
    with pytest.raises(ValueError, match="x: not all numbers are finite"):
        openese.offload(net, "demo", calibrate=x / 0)
    with pytest.raises(ValueError, match="'a' does not fit config 'tiny'"):
        openese.offload(nn.ModuleDict({"a": nn.LSTM(5, 999)}), "tiny", calibrate=lambda net: net["a"](x))


def test_a_layer_without_calibration_is_told():
    net = nn.ModuleDict({"a": nn.LSTM(5, 8), "unused": nn.LSTM(5, 8)})
    with pytest.warns(UserWarning, match="calibrate gives unused no input but zeros: number formats there"):
        openese.offload(net, "demo", calibrate=lambda net: net["a"](torch.randn(9, 4, 5)))
    wide = (torch.randn(9, 4, 5), (2 * torch.ones(1, 4, 8), torch.zeros(1, 4, 8)))
    with pytest.warns(UserWarning, match="^lstm: 32 numbers .* are clamped; .* A state h that begins outside of -1..1"):
        openese.offload(nn.LSTM(5, 8), "demo", calibrate=wide)(*wide)
    with pytest.warns(UserWarning, match="calibrate gives lstm no input but zeros"):
        openese.offload(nn.LSTM(5, 8), "demo", calibrate=torch.zeros(9, 4, 5))


def test_copies_and_wrappers_of_pytorch():
    net, x = Net().eval(), torch.randn(9, 4, 5)
    offloaded = openese.offload(net, "demo", calibrate=x)
    wanted = offloaded(x)
    again = copy.deepcopy(offloaded.network)
    assert torch.equal(again(x), wanted)
    assert torch.equal(openese.offload(nn.DataParallel(net), "demo", calibrate=x)(x), wanted)
    assert torch.equal(openese.offload(torch.compile(net), "demo", calibrate=x)(x), wanted)
    net.a = torch.compile(net.a)
    inside = openese.offload(net, "demo", calibrate=x)
    assert torch.equal(inside(x), wanted) and list(inside.parts) == ["a", "b"]


def test_attributes_are_those_of_the_network():
    net = Net()
    offloaded = openese.offload(net, "demo", calibrate=torch.randn(9, 4, 5))
    offloaded.threshold = 0.5
    assert offloaded.network.threshold == 0.5 and next(offloaded.parameters()).shape == (8, 5)
    assert not hasattr(net, "threshold") and not hasattr(offloaded, "nothing")


def test_closing():
    x = torch.randn(9, 4, 5)
    with openese.offload(Net(), "demo", calibrate=x) as offloaded:
        offloaded(x)
    with pytest.raises(HostError, match="the network is closed"):
        offloaded(x)


@pytest.mark.sim
def test_simulators_end_with_the_network():
    x = torch.randn(9, 4, 5)
    network = openese.offload(Net(), "tiny", calibrate=x, backend="sim").network
    again = copy.deepcopy(network)
    machine = weakref.ref(network.a._link.switch._machines["a"][0]._machine)
    del network
    gc.collect()
    again(x)
    del again
    gc.collect()
    assert machine() is None


@pytest.mark.sim
def test_the_verilog():
    net, x = Net(bidirectional=False).eval(), torch.randn(6, 3, 5)
    net.b = nn.LSTM(10, 6, bidirectional=True)
    net.eval()
    reference = openese.offload(net, "tiny", calibrate=x)
    with openese.offload(net, "tiny", calibrate=x, backend="sim") as verilog, torch.no_grad():
        for _ in range(2):
            assert torch.equal(verilog(x), reference(x))


def test_networks_of_keras(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras", reason="networks of Keras need Keras: the extra `oracles`")
    layers = keras.layers
    inputs = keras.Input((None, 6), name="x")
    y = layers.Bidirectional(layers.LSTM(9, return_sequences=True))(layers.Dense(8, activation="relu")(inputs))
    net = keras.Model(inputs, layers.Dense(3)(layers.LSTM(5)(layers.LayerNormalization()(y))))
    x = np.random.default_rng(1).normal(size=(4, 9, 6)).astype(np.float32)
    wanted = net.predict(x, verbose=0)
    with openese.offload(net, "demo", calibrate=x, backend="float") as offloaded:
        assert np.abs(offloaded.predict(x, verbose=0) - wanted).max() < 1e-5
    found = [openese.offload(net, "demo", calibrate=given).predict(x, verbose=0)
             for given in (x, {"x": x}, (x,), [x], lambda net: net.predict(x, verbose=0))]
    assert all(np.array_equal(found[0], other) for other in found)
    assert 0 < np.abs(found[0] - wanted).max() < 0.02
    with pytest.raises(HostError, match="carry is for files"):
        openese.offload(net, "demo", calibrate=x, carry={"a": "b"})
    with pytest.raises(HostError, match="network is closed"):
        offloaded.predict(x, verbose=0)


class StubHost(Host):
    """A file of two inputs: y = LSTM(x) from a state, and the state."""

    kind, runtime, extra, name = "stub", "numpy", "none", "net"
    inputs = (Port("x", "float32", ("time", 1, 6)), Port("s", "float32", (2, 1, 9)))
    outputs = (Port("y", "float32", ("time", 1, 9)), Port("t", "float32", (2, 1, 9)))
    items = (Item("lstm", "LSTM", "machine"),)

    def __init__(self):
        lstm = nn.LSTM(6, 9)
        self.original_lstm = lstm
        self.parts = openese.offload(lstm, "demo", calibrate=torch.randn(3, 1, 6), backend="float").networks

    def run(self, inputs, engine):
        h, c = inputs["s"]
        state = openese.sw.model.state.LayerState(c, h)
        y, ((after,),) = engine.call("lstm", inputs["x"], initial=((state,),))
        return {"y": y.astype(np.float32), "t": np.stack([after.y, after.c]).astype(np.float32)}

    def original(self, inputs):
        raise NotImplementedError

    save = load = drop_original = original


@pytest.fixture
def file(monkeypatch):
    monkeypatch.setattr(module, "open_host", lambda path, machine: StubHost() if str(path) == "net.onnx" else None)
    return "net.onnx"


@pytest.mark.parametrize("way", ["list", "callable"])
def test_files_have_the_interface_of_onnxruntime(file, way):
    rng = np.random.default_rng(1)
    frames, zero = rng.normal(size=(5, 2, 1, 6)).astype(np.float32), np.zeros((2, 1, 9), np.float32)

    def passes_states_on(session):
        state = zero
        for x in frames:
            y, state = session.run(None, {"x": x, "s": state})

    calls = [{"x": frames[0], "s": zero}, *({"x": x} for x in frames[1:])]
    session = openese.offload(file, "demo", **({"calibrate": calls, "carry": {"t": "s"}} if way == "list"
                                               else {"calibrate": passes_states_on}))
    assert session.parts["lstm"].calibration == (10, 1)
    assert [(port.name, port.type, port.shape) for port in session.get_inputs()] == [
        ("x", "tensor(float)", ["time", 1, 6]), ("s", "tensor(float)", [2, 1, 9])]
    assert [port.name for port in session.get_outputs()] == ["y", "t"]
    feed = {"x": frames[0], "s": zero}
    y, t = session.run(None, feed)
    assert y.shape == (2, 1, 9) and np.array_equal(session.run(["t"], feed)[0], t)
    assert np.array_equal(session.run(["t", "y"], feed)[1], y)
    with pytest.raises(HostError, match="'z' is no output of the network; its outputs are y, t"):
        session.run(["z"], feed)


def test_refused_files(file):
    with pytest.raises(HostError, match="weights.pt: has tensors, but no graph"):
        openese.offload("weights.pt", "demo", calibrate=np.zeros((3, 1, 6)))
    with pytest.raises(HostError, match="the network has the inputs x .*, s .*; give calibrate a dict"):
        openese.offload(file, "demo", calibrate=np.zeros((3, 1, 6)))
    with pytest.raises(HostError, match="carry: 'z' is no output"):
        openese.offload(file, "demo", carry={"z": "s"},
                        calibrate=[{"x": np.zeros((3, 1, 6)), "s": np.zeros((2, 1, 9))}])
