# SPDX-License-Identifier: Apache-2.0
"""Tensors around an LSTM in files without a graph: each is computed as PyTorch does, or the LSTM is refused."""

import itertools
import os
import re
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from import_tools import assert_close, run_float

import openese
from openese.sw import importers
from openese.sw.cli import main
from openese.sw.importers import ImportRefused, from_torch
from openese.sw.model.layers import ModelError

torch = pytest.importorskip("torch")
nn = torch.nn
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.nn.utils import parametrizations, parametrize, prune
    from torch.nn.utils import spectral_norm as old_spectral_norm
    from torch.nn.utils import weight_norm as old_weight_norm

LSTMS = {"one": {}, "two, both ways": {"num_layers": 2, "bidirectional": True}, "projected": {"proj_size": 3}}


@pytest.fixture
def save(tmp_path):
    def save(value, name="net.pt"):
        torch.save(value, tmp_path / name)
        return tmp_path / name
    return save


@pytest.fixture
def x():
    return torch.from_numpy(np.random.default_rng(5).normal(size=(9, 3, 5)))


def check(path, x, wanted, select=None, **named):
    """Check that a file's network computes what PyTorch does; return the network."""
    network = importers.load(path, select, **named)
    assert_close(run_float(network, x.numpy())[0], wanted.detach().numpy())
    return network


def lstm(**named):
    torch.manual_seed(3)
    return nn.LSTM(5, 6, **named).double()


# -- tensors that stand for a parameter --------------------------------------------------------------


def warmed(module, x, name):
    """Return the module after steps of training, which let the power iterations converge."""
    for _ in range(20):
        module(x)
    return module.eval()


def spread(module):
    """Give weight norm another magnitude, so that its direction alone would be wrong."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith(("_g", "original0")):
                parameter *= 1.7
    return module


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:RNN module weights are not part of single:UserWarning")
@pytest.mark.parametrize("named", LSTMS.values(), ids=LSTMS)
@pytest.mark.parametrize("wrap", [
    old_weight_norm, parametrizations.weight_norm, old_spectral_norm, parametrizations.spectral_norm,
    lambda module, name: old_weight_norm(module, name, dim=1), lambda module, name: old_weight_norm(module, name, None),
    lambda module, name: parametrizations.weight_norm(module, name, 1),
    lambda module, name: prune.l1_unstructured(module, name, 0.4)],
    ids=["weight norm", "weight norm, parametrized", "spectral norm", "spectral norm, parametrized",
         "weight norm, dim 1", "weight norm, dim None", "parametrized, dim 1", "pruned"])
def test_computed_parameters(save, x, wrap, named):
    module = lstm(**named)
    for name in [name for name in module.state_dict() if name.startswith("weight_h")]:
        wrap(module, name)
    wrap(module, "weight_ih_l0")
    module = spread(warmed(module, x, named))
    wanted, _ = module(x)
    network = check(save({f"net.{key}": value for key, value in module.state_dict().items()}), x, wanted)
    assert not [note for note in network.notes if "left out" in note]
    assert_close(run_float(from_torch.from_module(module).load(), x.numpy())[0], wanted.detach().numpy())


def test_weight_norm_in_a_whole_module(save, x):
    """The module holds a copy of the weights beside the tensors that they are computed from."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = old_weight_norm(lstm(), "weight_hh_l0")
    module(x)
    spread(module)
    path = save(module)
    check(path, x, module(x)[0])


@pytest.mark.parametrize("changed, reason", [
    ({"weight_hh_l0_v": torch.zeros(24, 6)}, "nan is not a finite number"),
    ({"bias_ih_l0": torch.full((24,), 3e38), "bias_hh_l0": torch.full((24,), 3e38)}, "inf is not a finite number"),
    ({"weight_hh_l0_g": torch.ones(6)}, "weight_hh_l0 is missing, and cannot be computed from 'weight_hh_l0_v', 'w"),
    ({"weight_hh_l0_g": torch.ones(24, 1, dtype=torch.int8)}, "weight_hh_l0_g has type Char, not floating point")])
def test_parameters_that_cannot_be_computed(save, changed, reason):
    state = nn.LSTM(5, 6).state_dict()
    state |= {"weight_hh_l0_v": state.pop("weight_hh_l0"), "weight_hh_l0_g": torch.ones(24, 1), **changed}
    with pytest.raises((ImportRefused, ModelError), match=reason):
        importers.load(save(state))


@pytest.mark.parametrize("wrap, names", [
    (parametrizations.orthogonal, r"'parametrizations.weight_hh_l0.original', 'parametrizations.weight_hh_l0.0.base'"),
    (lambda module, name: parametrize.register_parametrization(module, name, nn.ReLU()),
     "'parametrizations.weight_hh_l0.original'")], ids=["orthogonal", "own"])
def test_other_parametrizations_are_refused(save, wrap, names):
    module = lstm()
    wrap(module, "weight_hh_l0")
    with pytest.raises(ImportRefused, match=f"weight_hh_l0: a parametrization that is not known here; call torch.nn."
                                            f"utils.parametrize.remove_parametrizations before saving: {names}"):
        importers.load(save(module.state_dict()))


def test_two_parametrizations_of_one_weight_are_refused(save):
    module = parametrizations.spectral_norm(lstm(), "weight_ih_l0")
    parametrizations.spectral_norm(module, "weight_ih_l0")
    with pytest.raises(ImportRefused, match="weight_ih_l0: a parametrization that is not known here"):
        importers.load(save(module.state_dict()))


class ScaledLSTM(nn.LSTM):
    """Each parameter w has a scale s, and stands for w exp(s)."""

    def __init__(self, *sizes, **named):
        super().__init__(*sizes, **named)
        for name in list(self._flat_weights_names):
            setattr(self, f"{name}_scale", nn.Parameter(torch.randn(())))

    def forward(self, x):
        scaled = nn.LSTM(self.input_size, self.hidden_size, self.num_layers, proj_size=self.proj_size).double()
        state = self.state_dict()
        scaled.load_state_dict({name: state[name] * state[f"{name}_scale"].exp() for name in scaled.state_dict()})
        return scaled(x)


class ScaledLinear(nn.Linear):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.weight_scale, self.bias_scale = nn.Parameter(torch.randn(())), nn.Parameter(torch.randn(()))

    def forward(self, x):
        return nn.functional.linear(x, self.weight * self.weight_scale.exp(), self.bias * self.bias_scale.exp())


@pytest.mark.parametrize("whole", [False, True])
def test_scales_of_icefall(save, x, whole):
    torch.manual_seed(2)
    net = nn.ModuleDict({"rnn": ScaledLSTM(5, 6, 2, proj_size=3), "out": ScaledLinear(3, 2)}).double()
    wanted = net["out"](net["rnn"](x)[0])
    network = check(save(net if whole else {"model": net.state_dict()}), x, wanted,
                    "rnn,out" if whole else "model.rnn,model.out")
    assert "multiplied by the exponential of its _scale" in " ".join(network.notes)


def test_a_class_of_that_name_without_scales_is_not_known(save):
    module = lstm()
    module.__class__ = type("ScaledLSTM", (nn.LSTM,), {"__module__": __name__, "__qualname__": "ScaledLSTM"})
    source = from_torch.from_module(nn.ModuleDict({"rnn": module}))
    assert "ScaledLSTM is not PyTorch's" in source.entries()[0].problem


def test_a_scale_for_some_parameters_is_not_understood(save):
    state = {**lstm().state_dict(), "weight_hh_l0_scale": torch.zeros(())}
    with pytest.raises(ImportRefused, match="'weight_hh_l0_scale' beside its weights: not those of an LSTM"):
        importers.load(save(state))


class WeightDrop(nn.Module):
    """Dropout of recurrent weights, whose originals are ``_raw``: here, as fastai has it, or inside the LSTM."""

    def __init__(self, module, outside, variational=False):
        super().__init__()
        self.module, self.variational = module, variational
        raw = module._parameters.pop("weight_hh_l0")
        (self if outside else module).register_parameter("weight_hh_l0_raw", raw)
        self.outside = outside

    def forward(self, x):
        raw = (self if self.outside else self.module).weight_hh_l0_raw
        weight = nn.functional.dropout(raw, 0.5, self.training)
        self.module.weight_hh_l0 = nn.Parameter(weight) if self.outside == "kept" else weight
        return self.module(x)


@pytest.mark.parametrize("outside", [False, True, "kept"])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.filterwarnings("ignore:RNN module weights are not part of single:UserWarning")
def test_weights_before_dropout(save, x, outside, whole):
    """The last step of training left a copy with zeros in it."""
    net = nn.Sequential(WeightDrop(lstm(), outside))
    net(x)
    if not outside:
        net[0].module.weight_hh_l0 = net[0].module.weight_hh_l0.detach()
    elif outside is True:
        net[0].module.weight_hh_l0 = None
    path = save(net if whole else net.state_dict())
    wanted, _ = net.eval()(x)
    network = check(path, x, wanted)
    assert "before dropout are read (_raw)" in " ".join(network.notes)


def test_variational_dropout_of_weights_is_refused(save):
    with pytest.raises(ImportRefused, match="'0' beside its weights: its dropout of weights is variational"):
        importers.load(save(nn.Sequential(WeightDrop(lstm(), False, variational=True))))


# -- cells of users ----------------------------------------------------------------------------------


class OwnCell(nn.Module):
    """A cell with the names of nn.LSTMCell, one bias, and perhaps peepholes."""

    def __init__(self, **peepholes):
        super().__init__()
        torch.manual_seed(1)
        self.weight_ih, self.weight_hh = nn.Parameter(torch.randn(24, 5)), nn.Parameter(torch.randn(24, 6))
        self.bias = nn.Parameter(torch.randn(24))
        for name, shape in peepholes.items():
            setattr(self, name, nn.Parameter(torch.randn(shape)))
        self.names = list(peepholes)

    def forward(self, x):
        h = c = torch.zeros(x.shape[1], 6, dtype=x.dtype)
        p_i, p_f, p_o = (torch.cat([getattr(self, name).flatten() for name in self.names]).chunk(3)
                         if self.names else (0, 0, 0))
        outputs = []
        for frame in x:
            i, f, g, o = (frame @ self.weight_ih.T + h @ self.weight_hh.T + self.bias).chunk(4, 1)
            c = (f + p_f * c).sigmoid() * c + (i + p_i * c).sigmoid() * g.tanh()
            h = (o + p_o * c).sigmoid() * c.tanh()
            outputs.append(h)
        return torch.stack(outputs)


@pytest.mark.parametrize("peepholes", [
    {}, {"weight_ch": (18,)}, {"weight_ch": (18, 1)},
    *({form.format(gate): shape for gate in "ifo"} for form, shape in (
        ("weight_c{}", (6,)), ("w_c{}", (1, 6)), ("W_c{}", (6,)), ("w_{}c", (6,)), ("peephole_{}", (6,)),
        ("p_{}", (6, 1))))], ids=str)
def test_one_bias_and_peepholes(save, x, peepholes):
    cell = OwnCell(**peepholes).double()
    state = {f"cell.{name}": value for name, value in cell.state_dict().items()}
    network = check(save(state), x, cell(x))
    assert "gates in the order i, f, g, o" in " ".join(network.notes)
    with pytest.raises(ImportRefused, match=r"its class \S*OwnCell is not PyTorch's, so the file does not tell what it "
                                            r"computes; if it computes an LSTM, give --ignore lstm"):
        importers.load(save(cell))
    check(save(cell), x, cell(x), ignore="lstm")


@pytest.mark.parametrize("peepholes", [{"weight_ch": (18, 6)}, {"weight_ch": (24, 6)},
                                       {"w_ci": (6, 6), "w_cf": (6, 6), "w_co": (6, 6)}], ids=str)
def test_peepholes_as_matrices_are_refused(save, peepholes):
    with pytest.raises(ImportRefused, match="beside its weights: peepholes as matrices; the machine has one"):
        importers.load(save(OwnCell(**peepholes).state_dict()))


@pytest.mark.parametrize("extra, reason", [
    ({"weight_ci": (6,), "weight_cf": (6,)}, "'weight_ci', 'weight_cf' beside its weights: not those of an LSTM"),
    ({"weight_ch": (18,), "peephole_i": (6,), "peephole_f": (6,), "peephole_o": (6,)}, "'weight_ch', 'peephole_i'"),
    ({"bias_ih": (24,), "bias_hh": (24,)}, "'bias' beside its weights"),
    ({"lora_A": (2, 5)}, "'lora_A' beside its weights: not those of an LSTM, so their effect is not known")], ids=str)
def test_doubt_about_a_cell_refuses_it(save, extra, reason):
    with pytest.raises(ImportRefused, match=reason):
        importers.load(save(OwnCell(**extra).state_dict()))


class NormedCell(nn.LSTMCell):
    def __init__(self):
        super().__init__(5, 6)
        self.ln_ih, self.ln_c = nn.LayerNorm(24), nn.LayerNorm(6)


NORMS = ["rnn.ln_ih.weight", "rnn.ln_ih.bias", "rnn.ln_c.weight", "rnn.ln_c.bias"]


def test_layer_norm_in_a_cell_is_refused(save):
    net = nn.ModuleDict({"rnn": NormedCell()})
    path = save(net.state_dict())
    entry, = importers.entries(path)
    assert entry.problem == (f"{', '.join(map(repr, NORMS))} beside its weights: normalization inside the cell, which "
                             f"the machine does not compute; give --ignore NAME for each that has no effect")
    with pytest.raises(ImportRefused, match="^net.pt: no layer that can be imported: LSTMCell 'rnn': 'rnn.ln_ih"):
        importers.load(path)
    with pytest.raises(ImportRefused, match="LSTMCell 'rnn': 'rnn.ln_c.weight', 'rnn.ln_c.bias' beside its weights"):
        importers.load(path, ignore=NORMS[:2])
    with pytest.raises(ImportRefused, match=r"its class \S*NormedCell is not PyTorch's"):
        importers.load(save(net))


def test_ignored_tensors(save, x):
    net = nn.ModuleDict({"rnn": NormedCell(), "norm": nn.LayerNorm(6)}).double()
    path = save(net.state_dict())
    plain = nn.LSTMCell(5, 6).double()
    plain.load_state_dict({name: value for name, value in net["rnn"].state_dict().items() if "ln" not in name})
    state, wanted = None, []
    for frame in x:
        state = plain(frame, state)
        wanted.append(state[0])
    for ignore in (NORMS, ("rnn.ln_ih", "rnn.ln_c")):
        network = check(path, x, torch.stack(wanted), ignore=ignore)
        assert network.notes == ("left out of the network: 'norm'; import --list names everything in the file",)
    for ignore, reason in (("rnn.absent", "no tensor or module has this name"), ("norm", "nothing has to be ignored"),
                           ("rnn.weight_hh", "nothing has to be ignored"), (["rnn.ln_c", "norm"], "--ignore norm")):
        with pytest.raises(ImportRefused, match=f"^net.pt: .*{reason}"):
            importers.load(path, ignore=ignore)
    assert openese.compile(path, "tiny", ignore=NORMS).network.outputs == 6
    assert openese.load(path, ignore=NORMS).outputs == 6


def test_ignoring_is_for_files_without_a_graph(tmp_path):
    path = tmp_path / "own.npz"
    model = openese.Model(layers=(openese.Layer(name="a", w_x=np.ones((4, 2, 3)), w_r=np.ones((4, 2, 2)),
                                                bias=np.zeros((4, 2))),))
    model.save(path)
    with pytest.raises(ImportRefused, match="own.npz: --ignore w: only tensors of a file without a graph"):
        importers.load(path, ignore="w")
    with pytest.raises(ValueError, match="select and ignore take parts of a file"):
        openese.compile(model, "tiny", ignore=["w"])


def test_ignore_on_the_command_line(save, tmp_path, capsys):
    path = save({"rnn." + name: value for name, value in NormedCell().state_dict().items()})
    for command in (["import", path, "-o", tmp_path / "n.npz"],
                    ["compile", path, "--preset", "tiny", "-o", tmp_path / "n.img"]):
        command = list(map(str, command))
        assert main([*command, "--ignore", "rnn.ln_ih", "--ignore", "rnn.ln_c"]) == 0
        capsys.readouterr()
        assert main([*command, "--ignore", "rnn.ln_ih"]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("openese: net.pt: no layer that can be imported: LSTMCell 'rnn': 'rnn.ln_c.weight'")


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("sizes", [(5, 6, 3), (5, 6)], ids=str)
def test_the_cell_for_training(save, x, whole, sizes):
    """`openese.LSTMP`, plain and with the masks of a pruner."""
    torch.manual_seed(4)
    net = nn.ModuleDict({"rnn": openese.LSTMP(*sizes).double()})
    nn.init.normal_(net["rnn"].peephole)
    check(save(net if whole else net.state_dict()), x, net["rnn"](x)[0])
    prune.l1_unstructured(net["rnn"], "w_r", 0.5)
    network = check(save(net if whole else net.state_dict()), x, net["rnn"](x)[0])
    assert network.model.layers[0].nonzeros < network.model.layers[0].weights


# -- initial states ----------------------------------------------------------------------------------


@pytest.mark.parametrize("named, shape", [({}, (1, 1)), ({}, (1,)), ({}, ()), ({"proj_size": 3}, (1, 1)),
                                          ({"num_layers": 2, "bidirectional": True}, (4, 1)),
                                          ({"num_layers": 2, "bidirectional": True}, (4,))], ids=str)
@pytest.mark.parametrize("names", [("h0", "c0"), ("c_0", "h_0"), ("init_hidden", "init_cell")], ids=str)
def test_learned_initial_states(save, x, named, shape, names):
    net = nn.Module()
    net.lstm = lstm(**named)
    count = net.lstm.num_layers * (2 if net.lstm.bidirectional else 1)
    states = {}
    for name in names:
        kind = "h" if "h" in name else "c"
        value = torch.randn(*shape, (net.lstm.proj_size or 6) if kind == "h" else 6).double()
        setattr(net, name, nn.Parameter(value))
        states[kind] = value.reshape(count, 1, -1).expand(-1, 3, -1).contiguous()
    wanted, _ = net.lstm(x, (states["h"], states["c"]))
    for saved in (net.state_dict(), {"model": net}):
        network = check(save(saved), x, wanted)
        assert "starts from " in " ".join(network.notes)
    with_zero, _ = net.lstm(x)
    check(save(net.state_dict()), x, with_zero, ignore=names)


@pytest.mark.parametrize("named", [{}, {"num_layers": 2, "bidirectional": True}], ids=str)
def test_the_initial_state_of_a_gru(save, x, named):
    net = nn.Module()
    net.gru = nn.GRU(5, 6, **named).double()
    count = net.gru.num_layers * (2 if net.gru.bidirectional else 1)
    net.h0 = nn.Parameter(torch.randn(count, 1, 6).double())
    wanted, _ = net.gru(x, net.h0.expand(-1, 3, -1).contiguous())
    network = check(save(net.state_dict()), x, wanted)
    assert "starts from h0" in " ".join(network.notes)
    net.c0 = nn.Parameter(torch.randn(count, 1, 6).double())
    with pytest.raises(ImportRefused, match=r"'h0', 'c0' beside its weights: perhaps initial states"):
        importers.load(save(net.state_dict()))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:RNN module weights are not part of single:UserWarning")
@pytest.mark.parametrize("wrap", [parametrizations.weight_norm, lambda *given: prune.l1_unstructured(*given, 0.4)])
def test_computed_parameters_of_a_gru(save, x, wrap):
    torch.manual_seed(3)
    module = nn.GRU(5, 6).double()
    wrap(module, "weight_hh_l0")
    wanted, _ = spread(module)(x)
    check(save({f"net.{key}": value for key, value in module.state_dict().items()}), x, wanted)
    check(save(nn.ModuleDict({"net": module}).state_dict()), x, wanted)


@pytest.mark.parametrize("extra, reason", [
    ({"bias_l0": (18,)}, "'net.bias_l0' beside its weights: not those of a GRU"),
    ({"weight_hr_l0": (6, 6)}, "'net.weight_hr_l0' beside its weights: not those of a GRU"),
    ({"ln.weight": (6,)}, "'net.ln.weight' beside its weights: normalization inside the cell")])
def test_what_a_gru_has_not(save, extra, reason):
    state = {f"net.{key}": value for key, value in nn.GRU(5, 6, bias=False).state_dict().items()}
    with pytest.raises(ImportRefused, match=reason):
        importers.load(save({**state, **{f"net.{name}": torch.ones(shape) for name, shape in extra.items()}}))


@pytest.mark.parametrize("states, lstms, reason", [
    ({"h0": (1, 4, 6), "c0": (1, 4, 6)}, 1, r"'h0', 'c0' beside its weights: perhaps initial states, but \(1, 4, 6\)"),
    ({"h0": (1, 1, 6)}, 1, r"'h0' beside its weights: perhaps initial states"),
    ({"h0": (6,), "c0": (6,), "h_1": (6,)}, 1, None),
    ({"h0": (6,), "c0": (6,)}, 2, "initial states, but it is not clear for which of 'lstm0', 'lstm1'"),
    ({"hidden_state": (1, 1, 6), "cell_state": (1, 1, 6)}, 1, "perhaps initial states")], ids=str)
def test_doubt_about_initial_states(save, states, lstms, reason):
    net = nn.Module()
    for number in range(lstms):
        setattr(net, f"lstm{number}", nn.LSTM(6, 6))
    for name, shape in states.items():
        setattr(net, name, nn.Parameter(torch.randn(shape)))
    path = save(net.state_dict())
    if reason is None:
        assert "left out of the network: 'h_1'" in " ".join(importers.load(path).notes)
        return
    with pytest.raises(ImportRefused, match=reason):
        importers.load(path, "lstm0" if lstms > 1 else None)
    assert importers.load(path, "lstm0", ignore=list(states)).plain


# -- the rest of the file ----------------------------------------------------------------------------


class Front(nn.Module):
    def __init__(self, norm=True):
        super().__init__()
        torch.manual_seed(7)
        self.front, self.act, self.lstm = nn.Linear(5, 8), nn.ReLU(), nn.LSTM(8, 6, 2)
        self.norm = nn.LayerNorm(6) if norm else nn.Dropout(0.3)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.norm(self.lstm(self.act(self.front(x)))[0]))


def save_scripted(net, path):
    torch.jit.script(net).save(str(path))


@pytest.mark.parametrize("saver", [torch.save, save_scripted])
def test_stacks_of_a_module_lack_nothing(tmp_path, saver):
    path = tmp_path / "front.pt"
    saver(Front(), path)
    with pytest.raises(ImportRefused, match=r"^front.pt: beside 'lstm' the file has 'front' \(Linear\), 'act' "
                                            r"\(ReLU\), 'norm' \(LayerNorm\), 'head' \(Linear\), which the network "
                                            r"would lack; name the layers to take \(--select lstm or more of them\), "
                                            r"or compile the whole network with --trust"):
        importers.load(path)
    with pytest.raises(ImportRefused, match=r"'act' \(ReLU\), 'norm' \(LayerNorm\) may lie between the layers 'lstm', "
                                            r"'head', and would be left out; give --ignore NAME for each that does "
                                            r"not, or compile the whole network with --trust"):
        importers.load(path, "lstm,head")
    with pytest.raises(ImportRefused, match=r"'norm' \(LayerNorm\) may lie between"):
        importers.load(path, "lstm,head", ignore="act")
    with pytest.raises(ImportRefused, match="--ignore front: no selected layer depends on it"):
        importers.load(path, "lstm,head", ignore=["act", "norm", "front"])
    assert importers.load(path, "lstm,head", ignore=["act", "norm"]).head is not None
    note, = importers.load(path, "lstm").notes
    assert set(note.split("'")[1::2]) == {"act", "front", "head", "norm"}


def test_modules_without_effect(save, x):
    net = nn.Sequential(nn.Dropout(0.1), lstm(), nn.Identity())
    check(save(net), x, net[1](x)[0])
    net = nn.Sequential(nn.Linear(5, 4), nn.Dropout(0.1), nn.LSTM(4, 6), nn.Linear(6, 2)).double()
    wanted = net[3](net[2](net[0](x))[0])
    network = check(save(net), x, wanted, "0,2,3")
    assert "does not tell what its code computes between them" in network.notes[-1]


@pytest.mark.parametrize("held", [lambda net: setattr(net, "scale", nn.Parameter(torch.ones(6))),
                                  lambda net: setattr(net, "scale", nn.ParameterList([torch.ones(6)])),
                                  lambda net: net.register_buffer("scale", torch.ones(6)),
                                  lambda net: setattr(net, "scale", torch.ones(6)),
                                  lambda net: setattr(net, "scale", {"of": [torch.ones(6)]})])
def test_tensors_of_a_module_around_an_lstm(save, held):
    net = nn.Sequential(nn.LSTM(5, 6), nn.Linear(6, 2))
    held(net)
    with pytest.raises(ImportRefused, match=r"beside '0' the file has '1' \(Linear\), 'scale\S*' \(tensor\), which"):
        importers.load(save(net))
    with pytest.raises(ImportRefused, match=r"'scale\S*' \(tensor\) may lie between the layers '0', '1', and would be"):
        importers.load(save(net), "0,1")
    assert importers.load(save(net), "0,1", ignore="scale").head is not None


def test_weights_of_a_loss_do_not_matter(save, x):
    net = nn.Sequential(lstm())
    path = save([net, nn.CrossEntropyLoss(weight=torch.ones(3))])
    check(path, x, net[0](x)[0])


def test_a_module_that_is_used_twice(save):
    net = nn.ModuleDict({"a": nn.LSTM(6, 6)})
    net["b"] = net["a"]
    path = save(net)
    assert [(entry.name, entry.kind, entry.elsewhere) for entry in importers.entries(path)] == [
        ("a", "LSTM", False), ("b", "LSTM", True)]
    with pytest.raises(ImportRefused, match=r"beside 'a' the file has 'b' \(LSTM\)"):
        importers.load(path)


def test_a_state_dict_does_not_tell_what_lies_between(save, x):
    net = Front(norm=False).double()
    state = net.state_dict()
    path = save(state)
    assert [(entry.name, entry.kind) for entry in importers.entries(path)] == [
        ("lstm", "LSTM"), ("front", "Linear"), ("head", "Linear")]
    wanted = net.head(net.lstm(net.front(x))[0])
    network = check(path, x, wanted, "front,lstm,head")
    assert network.notes[-1] == ("front, lstm, head are stacked in this order; the file does not tell what its code "
                                 "computes between them")
    alone = importers.load(path)
    assert alone.notes == ("left out of the network: 'front', 'head'; import --list names everything in the file",)


def test_linear_layers_alone_are_refused(save):
    """Their file does not have the functions between them."""
    path = save(nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3), nn.LSTM(3, 2)).state_dict())
    with pytest.raises(ImportRefused, match="no LSTM or GRU is selected; select at least one"):
        importers.load(path, "0,2")


def test_a_linear_layer_with_more_than_its_weights_is_elsewhere(save):
    net = nn.ModuleDict({"lstm": nn.LSTM(5, 6), "head": nn.Linear(6, 3)})
    for extra in ("head.lora_A", "head.lora_A.default.weight"):
        path = save({**net.state_dict(), extra: torch.ones(2, 6)})
        assert "head" not in [entry.name for entry in importers.entries(path) if not entry.elsewhere]
        with pytest.raises(ImportRefused, match="'head' is no layer that can be selected"):
            importers.load(path, "lstm,head")


class Chain(nn.Sequential):
    """Layers one after the other, of which LSTMs give more than their outputs."""

    def forward(self, x):
        for layer in self:
            x = layer(x)
            x = x[0] if isinstance(x, tuple) else x
        return x


KINDS = {"lstm": nn.LSTM, "both": lambda n, m: nn.LSTM(n, m, 2, bidirectional=True), "linear": nn.Linear,
         "dropout": lambda n, m: nn.Dropout(), "identity": lambda n, m: nn.Identity(), "relu": lambda n, m: nn.ReLU(),
         "norm": lambda n, m: nn.LayerNorm(n), "block": None}
DRAWN = ["lstm"] * 4 + ["both"] * 2 + ["linear"] * 3 + ["dropout", "identity", "relu", "norm", "block", "block"]


def random_chain(draw, size, depth=0):
    chain = Chain()
    for number in range(draw(st.integers(1, 5), label="layers")):
        kind = draw(st.sampled_from(DRAWN), label="kind")
        outputs = draw(st.integers(1, 3), label="outputs")
        if kind == "block":
            if depth:
                continue
            layer, size = random_chain(draw, size, depth + 1)
        else:
            layer = KINDS[kind](size, outputs)
            size = {"lstm": outputs, "linear": outputs, "both": 2 * outputs}.get(kind, size)
        chain.add_module(f"{kind}{number}", layer)
    return chain, size


@settings(max_examples=int(os.environ.get("OPENESE_RANDOM_CHAINS", 80)), deadline=None)
@given(st.data())
def test_random_modules_are_right_or_refused(data):
    """What is loaded from a whole module is what the module computes from the first to the last selected layer."""
    torch.manual_seed(data.draw(st.integers(0, 99), label="seed"))
    net, _ = random_chain(data.draw, 2)
    net = net.double().eval()
    leaves = [(name, module) for name, module in net.named_modules() if not isinstance(module, Chain)]
    choices = [name for name, module in leaves if isinstance(module, (nn.LSTM, nn.Linear))]
    chosen = sorted(data.draw(st.sets(st.sampled_from(choices)), label="select"), key=choices.index) if choices else []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chain.pt"
        torch.save(net, path)
        try:
            network = importers.load(path, chosen or None)
        except (ImportRefused, ModelError) as error:
            event("refused: " + re.sub(r"'\S+'", "", str(error))[:60])
            return
    event(f"loaded, {len(chosen)} selected")
    names = [name for name, _ in leaves]
    first, last = (names.index(chosen[0]), names.index(chosen[-1])) if chosen else (0, len(names) - 1)
    part = Chain(*(module for _, module in leaves[first:last + 1])).eval()
    x = torch.randn(4, 2, network.inputs).double()
    if isinstance(leaves[first][1], nn.Linear):
        x = torch.randn(4, 2, leaves[first][1].in_features).double()
    with torch.no_grad():
        assert_close(run_float(network, x.numpy())[0], part(x).numpy())


def test_layers_that_cannot_be_taken_are_not_passed_over(save):
    state = nn.ModuleDict({"a": nn.LSTM(5, 6), "b": nn.RNN(6, 6)}).state_dict()
    with pytest.raises(ImportRefused, match=r"select one of 'a', or several to stack them \(--select NAME,NAME\); RNN "
                                            r"'b' cannot be imported"):
        importers.load(save(state))


def everything():
    """Return a checkpoint with all kinds of things in it, and the names of its tensors."""
    net = nn.ModuleDict({"conv": nn.Conv1d(2, 3, 3), "front": nn.Linear(5, 8), "lstm": nn.LSTM(8, 6),
                         "cell": NormedCell(), "norm": nn.BatchNorm1d(6), "head": nn.Linear(6, 3),
                         "gru": nn.GRU(6, 2), "embed": nn.Embedding(9, 7)})
    steps = {number: {"step": torch.ones(()), "exp_avg": value} for number, value in enumerate(net.parameters())}
    checkpoint = {"epoch": 3, "model": net.state_dict(), "optimizer": {"state": steps}, "mean": torch.ones(5),
                  "lists": [torch.ones(2), (torch.ones(3), {"deep": torch.ones(4)})]}
    return checkpoint, list(net.state_dict())


def test_every_tensor_has_a_place(save):
    checkpoint, names = everything()
    entries = importers.entries(save(checkpoint))
    text = "\n".join(f"{entry.name}.{part}" for entry in entries for part in (entry.summary.split(", ") or [""]))
    for name in names:
        prefix, _, own = f"model.{name}".rpartition(".")
        assert any(f"model.{name}".startswith(f"{entry.name}.") and (not entry.elsewhere or own in entry.summary)
                   for entry in entries), name
    for name in ("optimizer.state.0.exp_avg ", "optimizer.state.1.step ", "(the file itself).mean ", "lists.0 ",
                 "lists.1.0 ", "lists.1.1.deep "):
        assert name in text
    kinds = {entry.name: (entry.kind, entry.problem is None, entry.elsewhere) for entry in entries}
    assert kinds["model.lstm"] == ("LSTM", True, False) and kinds["model.front"] == ("Linear", True, False)
    assert kinds["model.cell"] == ("LSTMCell", False, False) and kinds["model.gru"] == ("GRU", True, False)
    assert kinds["model.conv"] == kinds["model.norm"] == kinds["model.embed"] == ("tensors", True, True)
    del checkpoint["model"]["cell.ln_c.weight"]
    assert importers.load(save(checkpoint), "model.lstm").notes == (
        "left out of the network: 'model.cell', 'model.gru', 'model.front', 'model.head', 'model.conv', 'model.norm', "
        "'model.embed', 'optimizer' and 2 more; import --list names everything in the file",)
    with pytest.raises(ImportRefused, match="'model.conv' is no layer that can be selected; select from 'model.lstm'"):
        importers.load(save(checkpoint), "model.conv")


def test_batch_first_frames_are_noticed(save, tmp_path, capsys):
    path = save(nn.LSTM(5, 6, batch_first=True))
    assert importers.load(path).batch_first and not importers.load(save(nn.LSTM(5, 6), "other.pt")).batch_first
    frames = np.random.default_rng(1).normal(size=(3, 9, 5))
    np.save(tmp_path / "x.npy", frames)
    np.save(tmp_path / "one.npy", frames[0])
    np.savez(tmp_path / "x.npz", frames=frames.swapaxes(0, 1))

    def compiled(name):
        return main(["compile", str(path), "--select", "lstm", "--preset", "tiny", "--calibrate", str(tmp_path / name),
                     "-o", str(tmp_path / "net.img")])

    assert compiled("x.npy") == 2
    assert "takes (batch, time, features), but frames are (T, B, I) here" in capsys.readouterr().err
    assert compiled("one.npy") == compiled("x.npz") == 0
    with pytest.raises(ValueError, match="calibrate: the file's network takes"):
        openese.compile(path, "tiny", select="lstm", calibrate=frames)
    frames = frames.swapaxes(0, 1)
    assert openese.compile(path, "tiny", select="lstm", calibrate=frames, lengths=[9, 9, 4]).network.outputs == 6
    assert openese.compile(openese.load(path), "tiny", calibrate=frames).network.outputs == 6


@pytest.mark.parametrize("bidirectional", [False, True])
def test_images_know_the_axes_of_the_network_they_come_from(save, tmp_path, monkeypatch, capsys, bidirectional):
    monkeypatch.chdir(tmp_path)
    save(nn.LSTM(5, 6, batch_first=True, bidirectional=bidirectional), "net.pt")
    save(nn.LSTM(5, 6, batch_first=True, bidirectional=bidirectional).state_dict(), "state.pt")
    frames = np.random.default_rng(1).normal(size=(3, 9, 5))
    np.save("x.npy", frames)
    np.save("one.npy", frames[0])
    np.savez("x.npz", frames=frames.swapaxes(0, 1))
    for line in ("import net.pt -o net.npz", "quantize net.npz --preset tiny --calibrate x.npz -o q.npz",
                 "prune net.npz --preset tiny --density 0.5 -o half.npz", "pack q.npz -o net.img",
                 "compile state.pt --preset tiny --calibrate x.npy -o state.img"):
        assert main(line.split()) == 0
    refusal = "x.npy: the file's network takes (batch, time, features), but frames are (T, B, I) here, time first"
    for line in ("run net.img x.npy -o y.npy", "quantize half.npz --preset tiny --calibrate x.npy -o h.npz"):
        capsys.readouterr()
        assert main(line.split()) == 2 and refusal in capsys.readouterr().err
    for image, name in (("net.img", "one.npy"), ("net.img", "x.npz"), ("state.img", "x.npy")):
        assert main(["run", image, name, "-o", "y.npy"]) == 0


def test_files_of_many_lstms_are_read_in_time(save):
    """The work for a name does not grow with the file."""
    small = nn.LSTM(1, 1).state_dict()
    state = {f"m{number}.{part}.{name}": value for number, part in itertools.product(range(300), "ab")
             for name, value in small.items()}
    assert len(importers.entries(save(state))) == 600
