# SPDX-License-Identifier: Apache-2.0
"""Linear layers of live PyTorch networks, on machines with dense layers, and their pruning in training."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="live networks need PyTorch: the extra `train`")

from test_offload import Net, check, relative  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.utils import parametrizations  # noqa: E402

import openese  # noqa: E402
from openese.sw.prune import PruneError  # noqa: E402
from openese.sw.training.pruner import find_weights  # noqa: E402
from openese.sw.whole.host import HostError  # noqa: E402

DENSE = openese.preset("demo").replace(name="dense", cells="lstm+gru+dense")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(1)


def places(offloaded):
    """The part of each layer on the machine, and the reason of each other one."""
    return {item.name: item.detail.removeprefix("part ").removeprefix("PyTorch: ") for item in offloaded.items}


class Tagger(nn.Module):
    """A front, a GRU, and a head of several layers with functions and Dropout between."""

    def __init__(self):
        super().__init__()
        self.front = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.Tanh())
        self.gru = nn.GRU(6, 10, batch_first=True)
        self.head = nn.Sequential(nn.Linear(10, 12), nn.Sigmoid(), nn.Dropout(), nn.Linear(12, 4, bias=False),
                                  nn.GELU())

    def forward(self, x):
        return self.head(self.gru(self.front(x))[0])


def test_linear_layers_are_parts():
    offloaded = check(Net(), torch.randn(9, 4, 5), machine=DENSE)
    assert list(offloaded.parts) == ["front", "head", "a", "b"]
    assert places(offloaded) == {"front": "front", "a": "a", "norm": "PyTorch", "b": "b", "head": "head"}
    assert "part head: 12 -> 3, density 100.0 %, error" in offloaded.report
    assert isinstance(offloaded.head, nn.Linear) and "part='head'" in repr(offloaded.head)
    on_host = openese.offload(Net(), DENSE, calibrate=torch.randn(9, 4, 5), dense="host")
    assert list(on_host.parts) == ["a", "b"]
    with pytest.raises(ValueError, match="dense must be machine or host, not 'fpga'"):
        openese.offload(Net(), DENSE, calibrate=torch.randn(9, 4, 5), dense="fpga")


def test_layers_of_a_sequential_that_follow_each_other_are_one_part():
    offloaded = check(Tagger(), torch.randn(3, 9, 5), machine=DENSE)
    assert list(offloaded.parts) == ["front.0 to front.2", "gru", "head.0", "head.3"]
    assert places(offloaded) == {
        "front.0": "front.0 to front.2", "front.1": "front.0 to front.2", "front.2": "front.0 to front.2",
        "front.3": "front.0 to front.2", "gru": "gru", "head.0": "head.0", "head.1": "head.0", "head.2": "PyTorch",
        "head.3": "head.3", "head.4": "PyTorch"}
    layers = [layer for part in offloaded.networks.values() for layer in part.model.layers]
    assert [(layer.name, layer.activation) for layer in layers if layer.cell == "dense"] == [
        ("front.0", "relu"), ("front.2", "tanh"), ("head.0", "sigmoid"), ("head.3", "none")]


@pytest.mark.parametrize("shape", [(5,), (7, 5), (2, 3, 4, 5), (0, 5)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_every_vector_is_one(shape, dtype):
    net = nn.Linear(5, 3).to(dtype)
    offloaded = openese.offload(net, DENSE, calibrate=torch.randn(40, 5, dtype=dtype))
    assert list(offloaded.parts) == ["dense"]
    x = torch.randn(*shape, dtype=dtype)
    y = offloaded(x)
    assert y.shape == net(x).shape and y.dtype == dtype
    assert not x.numel() or relative(y, net(x)) < 0.01


def test_networks_of_linear_layers_alone():
    offloaded = check(nn.Sequential(nn.Linear(5, 9), nn.ReLU(), nn.Linear(9, 4)), torch.randn(40, 5), machine=DENSE)
    assert list(offloaded.parts) == ["0 to 2"]
    y = offloaded(torch.randn(3, 5))
    with pytest.raises(HostError, match="a machine has no gradients"):
        y.sum().backward()


class Loose(nn.Module):
    """Layers that are used in other ways than by calling them, or not at all."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
        self.unused, self.tied = nn.Linear(6, 6), nn.Linear(6, 6)
        self.attention, self.encoder = nn.MultiheadAttention(6, 2), nn.TransformerEncoderLayer(6, 2, 8)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.encoder(self.attention(x, x, x)[0]) @ self.tied.weight


def test_layers_that_do_not_run_stay():
    offloaded = check(Loose(), torch.randn(9, 4, 6), machine=DENSE)
    assert list(offloaded.parts) == ["layers.0", "layers.2"]
    told = places(offloaded)
    assert told["layers.1"] == "PyTorch"
    assert told["unused"] == told["tied"] == "the calibration does not call it"
    assert told["encoder.linear1"] == told["encoder.linear2"] == "it may compute the whole Transformer layer in one " \
                                                                 "kernel"
    assert type(offloaded.unused) is nn.Linear
    offloaded.unused(torch.randn(3, 6)).sum().backward()


class Adapter(nn.Linear):
    """A linear layer with a second product beside it."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)
        self.down, self.up = nn.Parameter(torch.randn(2, inputs)), nn.Parameter(torch.randn(outputs, 2))

    def forward(self, x):
        return super().forward(x) + x @ self.down.T @ self.up.T


def test_subclasses_and_weights_that_are_computed():
    class Plain(nn.Linear):
        pass

    net = nn.Sequential(Adapter(5, 7), Plain(7, 8), nn.Linear(8, 9), nn.Linear(9, 4))
    parametrizations.weight_norm(net[2])
    with torch.no_grad():
        net[2].parametrizations.weight.original0.mul_(2)
    offloaded = check(net, torch.randn(30, 5), machine=DENSE)
    assert list(offloaded.parts) == ["1 to 3"] and places(offloaded)["0"] == "PyTorch"
    with torch.no_grad():
        offloaded.network[3].weight.mul_(2)
    with pytest.raises(HostError, match="^1 to 3: the weights have changed since the network was offloaded"):
        offloaded(torch.randn(2, 5))


def test_hooks():
    """Before, they keep a layer out of a part of several; later ones cannot run there."""
    net, seen = Tagger(), []
    net.front[1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    offloaded = check(net, torch.randn(3, 9, 5), machine=DENSE)
    assert set(offloaded.parts) == {"front.0", "front.2", "gru", "head.0", "head.3"} and seen
    offloaded.network.front[0].register_forward_hook(lambda module, inputs, output: output * 2)
    offloaded(torch.randn(3, 9, 5))
    offloaded.network.front[2].register_forward_pre_hook(lambda module, inputs: None)
    with pytest.raises(HostError, match="^front.2: a layer has a hook, but the machine computes it together"):
        offloaded(torch.randn(3, 9, 5))


def test_weights_of_the_calibration():
    """A weight that a wrapper computes before every call."""
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.raw, self.linear = nn.Parameter(torch.randn(3, 5)), nn.Linear(5, 3)

        def forward(self, x):
            with torch.no_grad():
                self.linear.weight.copy_(2 * self.raw)
            return self.linear(x)

    check(Scaled(), torch.randn(30, 5), machine=DENSE)


def test_what_does_not_fit_can_stay():
    with pytest.raises(ValueError, match=r"'front.0 to front.2' does not fit config 'dense': needs .*; it "
                                         r'fits with its dense layers on the host: .* dense="host" in Python$'):
        net = Tagger()
        net.front = nn.Sequential(nn.Linear(5, 3000), nn.ReLU(), nn.Linear(3000, 6))
        openese.offload(net, DENSE, calibrate=torch.randn(3, 9, 5))


@pytest.mark.parametrize("dense", ["machine", "host"])
def test_the_pruner_prunes_linear_layers(dense):
    """Balanced as all others, with the masks that `openese.prune` chooses, and by the names of `offload`."""
    net, x = Tagger(), torch.randn(3, 9, 5)
    whole = copy.deepcopy(net)
    pruner = openese.Pruner(net, 0.25, DENSE, dense=dense)
    linear = {"front.0", "front.2", "head.0", "head.3"} if dense == "machine" else set()
    assert set(pruner.counts()) == linear | {"gru.l0"}
    pruner.make_permanent()
    masked, pruned = (
        {layer.name: layer for part in offloaded.networks.values() for layer in part.model.layers} for offloaded in (
            openese.offload(net, DENSE, calibrate=x, backend="float", dense=dense),
            openese.offload(whole, DENSE, calibrate=x, backend="float", dense=dense, density=0.25)))
    assert masked.keys() == pruned.keys() == {weights.layer for weights in find_weights(net, dense == "machine")}
    for name, layer in masked.items():
        assert 0.15 < layer.density < 0.4
        for ours, theirs in zip(layer.matrices(), pruned[name].matrices(), strict=True):
            np.testing.assert_array_equal(ours.values, theirs.values)
    assert dense == "machine" or net.head[0].weight.count_nonzero() == net.head[0].weight.numel()
    with pytest.raises(PruneError, match="has no LSTM or GRU to prune; .*; an nn.Linear needs a machine with dense"):
        openese.Pruner(nn.Linear(4, 4), 0.5, "demo")
    with pytest.raises(PruneError, match="an LSTMP, or an nn.Linear$"):
        openese.Pruner(nn.ReLU(), 0.5, DENSE)


def test_distillation_and_sensitivity_of_linear_layers():
    net = nn.Sequential(nn.Linear(8, 24), nn.Tanh(), nn.Linear(24, 4))
    sensitivity = openese.scan(net, lambda: float(net(torch.ones(2, 8)).square().mean()), [0.5], DENSE)
    assert set(sensitivity.errors) == {("0", "w_x"), ("2", "w_x")}
    losses = openese.distill(net, (torch.randn(64, 8) for _ in range(60)), 60, {"0": 0.5, "2": 0.5}, DENSE, rate=5e-3)
    assert net[0].weight.count_nonzero() == 96 and losses[-1] < 0.1
