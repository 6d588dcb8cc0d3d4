# SPDX-License-Identifier: Apache-2.0
"""PyTorch files in every form, against PyTorch."""

import io
import json
import os
import pickle
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from import_tools import assert_close, assert_survives, run_float

from openese.sw import importers
from openese.sw.importers import ImportRefused, from_torch, torch_archive
from openese.sw.importers.tensors import TensorSource, stored

torch = pytest.importorskip("torch")
nn = torch.nn


#: What users' model files were made with: a class that the importer never has.
class Tagger(nn.Module):
    def __init__(self, **named):
        super().__init__()
        self.embed = nn.Linear(3, 5)
        self.lstm = nn.LSTM(5, 4, **named)
        self.head = nn.Linear((named.get("proj_size") or 4) * (2 if named.get("bidirectional") else 1), 2)

    def forward(self, x):
        return self.head(self.lstm(self.embed(x))[0])


def expected(lstm, x, state=None):
    lstm = lstm.double().eval()
    with torch.no_grad():
        y, _ = lstm(torch.from_numpy(x), state)
    return y.numpy()


def frames(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


@st.composite
def lstms(draw):
    cells = draw(st.integers(1, 9))
    torch.manual_seed(draw(st.integers(0, 2**31)))
    return nn.LSTM(draw(st.integers(1, 9)), cells, draw(st.integers(1, 3)), bias=draw(st.booleans()),
                   dropout=0.25, bidirectional=draw(st.booleans()),
                   proj_size=draw(st.integers(0, cells - 1)))


@settings(max_examples=200, deadline=None)
@given(lstms(), st.integers(1, 7), st.integers(1, 4), st.data())
@pytest.mark.filterwarnings("ignore:dropout option adds dropout:UserWarning")
def test_random_lstms_equal_torch(lstm, steps, voices, data):
    """Any nn.LSTM, from any initial state, with sequences of any lengths."""
    network = from_torch.from_module(lstm).load()
    lengths = data.draw(st.lists(st.integers(1, steps), min_size=voices, max_size=voices), label="lengths")
    x = frames(steps, steps, voices, lstm.input_size)
    ways = 2 if lstm.bidirectional else 1
    h0 = frames(1, ways * lstm.num_layers, voices, lstm.proj_size or lstm.hidden_size)
    c0 = frames(2, ways * lstm.num_layers, voices, lstm.hidden_size)
    y, states = run_float(network, x, lengths=lengths, initial=torch_states(network, h0, c0))
    packed = nn.utils.rnn.pack_padded_sequence(torch.from_numpy(x), lengths, enforce_sorted=False)
    with torch.no_grad():
        out, (h, c) = lstm.double().eval()(packed, (torch.from_numpy(h0), torch.from_numpy(c0)))
    assert_close(y, nn.utils.rnn.pad_packed_sequence(out, total_length=steps)[0].numpy())
    for state, torch_state in zip(states, torch_states(network, h.numpy(), c.numpy()), strict=True):
        for layer, (torch_c, torch_y) in zip(state, torch_state, strict=True):
            assert_close(layer.c, torch_c)
            assert_close(layer.y, torch_y)


@st.composite
def grus(draw):
    torch.manual_seed(draw(st.integers(0, 2**31)))
    return nn.GRU(draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(st.integers(1, 3)), bias=draw(st.booleans()),
                  dropout=0.25, bidirectional=draw(st.booleans()))


@settings(max_examples=60, deadline=None)
@given(grus(), st.integers(1, 7), st.integers(1, 4), st.booleans(), st.data())
@pytest.mark.filterwarnings("ignore:dropout option adds dropout:UserWarning")
def test_random_grus_equal_torch(gru, steps, voices, whole, data):
    """Any nn.GRU, alive or as a state dict, from any initial state, with sequences of any lengths."""
    tensors = {f"net.{name}": stored(value.numpy()) for name, value in gru.state_dict().items()}
    source = from_torch.from_module(gru) if whole else TensorSource(Path("net.pt"), tensors)
    network = source.load()
    assert [entry.kind for entry in source.entries()] == ["GRU"]
    lengths = data.draw(st.lists(st.integers(1, steps), min_size=voices, max_size=voices), label="lengths")
    x = frames(steps, steps, voices, gru.input_size)
    h0 = frames(1, (2 if gru.bidirectional else 1) * gru.num_layers, voices, gru.hidden_size)
    y, states = run_float(network, x, lengths=lengths, initial=torch_states(network, h0, h0))
    packed = nn.utils.rnn.pack_padded_sequence(torch.from_numpy(x), lengths, enforce_sorted=False)
    with torch.no_grad():
        out, h = gru.double().eval()(packed, torch.from_numpy(h0))
    assert_close(y, nn.utils.rnn.pad_packed_sequence(out, total_length=steps)[0].numpy())
    for state, torch_state in zip(states, torch_states(network, h.numpy(), h.numpy()), strict=True):
        for layer, (_, torch_y) in zip(state, torch_state, strict=True):
            assert_close(layer.c, torch_y)
            assert_close(layer.y, torch_y)


def torch_states(network, h, c):
    """Return PyTorch's states (layers * ways, B, n) as one State for each direction of the network."""
    from openese.sw.model.state import LayerState
    rows = iter(LayerState(c_row, h_row) for c_row, h_row in zip(c, h, strict=True))
    return [tuple(next(rows) for _ in direction.model.layers) for direction in network.directions]


def save_legacy(value, path):
    torch.save(value, path, _use_new_zipfile_serialization=False)


SAVERS = {
    "state_dict": lambda module, path: torch.save(module.state_dict(), path),
    "legacy": lambda module, path: save_legacy(module.state_dict(), path),
    "checkpoint": lambda module, path: torch.save({"epoch": 3, "state": module.state_dict(),
                                                   "optimizer": {"state": {0: {"step": 1}}}}, path),
    "whole model": lambda module, path: torch.save(module, path),
    "whole model, legacy": save_legacy,
    "scripted": lambda module, path: torch.jit.script(module).save(str(path)),
    "traced": lambda module, path: torch.jit.trace(module.eval(), torch.zeros(2, 1, 3)).save(str(path)),
}


@pytest.mark.parametrize("saver", SAVERS)
@pytest.mark.parametrize("named", [{}, {"num_layers": 2, "bidirectional": True}, {"proj_size": 2}], ids=str)
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_every_form_of_file(tmp_path, saver, named):
    module = Tagger(**named)
    path = tmp_path / "tagger.pt"
    SAVERS[saver](module, path)
    prefix = "state." if saver == "checkpoint" else ""
    names = [entry.name for entry in importers.entries(path)]
    assert f"{prefix}lstm" in names and f"{prefix}head" in names
    network = importers.load(path, f"{prefix}lstm,{prefix}head")
    x = frames(7, 6, 2, 5)
    with torch.no_grad():
        y = module.double().eval().head(module.lstm(torch.from_numpy(x))[0]).numpy()
    assert_close(run_float(network, x)[0], y)


def test_nothing_in_a_file_is_run(tmp_path):
    """The file names os.system, which becomes an inert object; the tensors beside it are read."""
    class Evil:
        def __reduce__(self):
            import os
            return os.system, (f"touch {tmp_path}/ran",)

    path = tmp_path / "evil.pt"
    torch.save({"net": nn.LSTM(2, 3).state_dict(), "evil": Evil()}, path)
    assert importers.load(path).outputs == 3
    assert not (tmp_path / "ran").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "ran").exists(), "the file runs no code in PyTorch either"


def test_a_file_cannot_change_the_importer(tmp_path):
    """A pickle's BUILD sets attributes of objects; functions of the importer must not keep them."""
    opcodes = (b"\x80\x02" b"ctorch._utils\n_rebuild_tensor_v2\n"
               b"}(X\x08\x00\x00\x00injectedK\x01u" b"b.")
    path = tmp_path / "evil.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("evil/data.pkl", opcodes)
    with pytest.raises(ImportRefused, match="no LSTM"):
        importers.load(path)
    assert not hasattr(torch_archive._tensor, "injected")


@pytest.mark.parametrize("data, reason", [
    (b"\x80\x02" + b"r\xff\xff\xff\x7f.", "memo of 2,147,483,647 entries"),
    (b"\x80\x02X\xff\xff\xff\x7fabc.", "damaged"),
    (b"garbage", "damaged"),
    (b"\x80\x02}", "damaged"),
    (pickle.dumps(list(range(5)), 2), "no LSTM"),
])
def test_damaged_pickles(tmp_path, data, reason):
    path = tmp_path / "bad.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("bad/data.pkl", data)
    with pytest.raises(ImportRefused, match=f"^bad.pt: .*{reason}"):
        importers.load(path)


def test_truncated_files(tmp_path):
    whole, cut = io.BytesIO(), tmp_path / "cut.pt"
    torch.save(nn.LSTM(2, 3).state_dict(), whole, _use_new_zipfile_serialization=False)
    for length in range(20, len(whole.getvalue()), 97):
        cut.write_bytes(whole.getvalue()[:length])
        with pytest.raises(ImportRefused, match="^cut.pt: "):
            importers.load(cut)


def test_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_archive, "_PICKLE_LIMIT", 1000)
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", bytes(10_000_000))
    assert path.stat().st_size < 20_000
    with pytest.raises(ImportRefused, match="unpacks to 10,000,000 bytes; at most 1,000 are read"):
        importers.load(path)


def test_vocabulary_beside_the_weights(tmp_path):
    path = tmp_path / "vocabulary.pt"
    torch.save({"state_dict": {f"encoder.{name}": value for name, value in nn.LSTM(2, 3).state_dict().items()},
                "word_to_index": {f"w{number}": number for number in range(150_000)}}, path)
    assert [entry.name for entry in importers.entries(path)] == ["state_dict.encoder"]
    assert importers.load(path).outputs == 3


def test_objects_that_would_fill_memory(tmp_path, monkeypatch):
    """A byte may stand for an object of 216 bytes; the limit is on memory, and grows with the file."""
    monkeypatch.setattr(torch_archive, "_OBJECTS", 1 << 20)
    path = tmp_path / "sets.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("sets/data.pkl", b"\x80\x02]" + b"(" + b"\x8f" * (1 << 20) + b"e.")
    assert path.stat().st_size < 1 << 12
    tracemalloc.start()
    with pytest.raises(ImportRefused, match=r"^sets.pt: the objects in the pickle would take more than 1,048,576 "
                                            r"bytes of memory; save only the model's weights: torch.save\("):
        importers.load(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 26
    tracemalloc.stop()


def test_deep_files(tmp_path):
    """Nesting without tensors is passed; tensors too deep for a name are refused; neither recurses."""
    deep: object = {"part": nn.LSTM(2, 3).state_dict()}
    for _ in range(101):
        deep = {"part": deep}
    torch.save(deep, tmp_path / "deep.pt")
    with pytest.raises(ImportRefused, match="^deep.pt: tensors are nested more than 100 levels deep; save only"):
        importers.load(tmp_path / "deep.pt")
    data = b"\x80\x02(" + b"]" * 200_000 + b"a" * 199_999 + b"X\x01\0\0\0ad."
    with zipfile.ZipFile(tmp_path / "lists.pt", "w") as archive:
        archive.writestr("lists/data.pkl", data)
    with pytest.raises(ImportRefused, match="^lists.pt: "):
        importers.load(tmp_path / "lists.pt")


def test_tensor_beyond_its_storage(tmp_path):
    state = nn.LSTM(2, 3).state_dict()
    buffer = io.BytesIO()
    torch.save(state, buffer)
    path = tmp_path / "short.pt"
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            target.writestr(name, data[:8] if name.endswith("data/0") else data)
    with pytest.raises(ImportRefused, match="reaches beyond its 2 stored elements"):
        importers.load(path)


@pytest.mark.parametrize("module, kind", [(nn.RNN(2, 3), "RNN"), (nn.RNNCell(2, 3), "RNNCell")])
@pytest.mark.parametrize("whole", [False, True])
def test_others_are_refused_by_name(tmp_path, module, kind, whole):
    path = tmp_path / "other.pt"
    net = nn.ModuleDict({"net": module})
    torch.save(net if whole else net.state_dict(), path)
    assert [(entry.kind, entry.name) for entry in importers.entries(path)] == [(kind, "net")]
    with pytest.raises(ImportRefused, match=f"{kind} 'net': an RNN is no LSTM or GRU: the machine has no RNN"):
        importers.load(path)


def test_gru_cell_equals_torch():
    cell = nn.GRUCell(3, 4).double()
    x = frames(3, 5, 2, 3)
    h, outputs = None, []
    for frame in torch.from_numpy(x):
        h = cell(frame, h)
        outputs.append(h.detach().numpy())
    source = from_torch.from_module(cell)
    assert [(entry.name, entry.kind) for entry in source.entries()] == [("gru", "GRUCell")]
    assert_close(run_float(source.load(), x)[0], outputs)


@pytest.mark.parametrize("saver", SAVERS)
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_grus_in_every_form_of_file(tmp_path, saver):
    """Whole modules know their class; of a state dict, 3 rows a cell tell a GRU."""
    module = Tagger()
    module.lstm = nn.GRU(5, 4, 2, bidirectional=True)
    module.head = nn.Linear(8, 2)
    path = tmp_path / "tagger.pt"
    SAVERS[saver](module, path)
    prefix = "state." if saver == "checkpoint" else ""
    assert {entry.name: entry.kind for entry in importers.entries(path)}[f"{prefix}lstm"] == "GRU"
    network = importers.load(path, f"{prefix}lstm,{prefix}head")
    x = frames(7, 6, 2, 5)
    with torch.no_grad():
        y = module.double().eval().head(module.lstm(torch.from_numpy(x))[0]).numpy()
    assert_close(run_float(network, x)[0], y)


@pytest.mark.parametrize("cls, rows, reason", [
    ("GRU", 16, r"weight_hh_l0 has shape \(16, 4\); a GRU has \(3H, H\)"),
    ("LSTM", 12, r"weight_hh_l0 has shape \(12, 4\); an LSTM has \(4H, H\)"),
    (None, 8, r"weight_hh has shape \(8, 4\); an LSTM has \(4H, H\), or \(4H, P\) with a projection, and a GRU")])
def test_the_class_and_the_rows_must_agree(cls, rows, reason):
    tensors = {name: stored(np.ones(shape, np.float32)) for name, shape in (
        ("net.weight_ih_l0", (rows, 3)), ("net.weight_hh_l0", (rows, 4)))}
    modules = {"net": {"class": f"torch.nn.modules.rnn.{cls}"}} if cls else {}
    with pytest.raises(ImportRefused, match=reason):
        TensorSource(Path("net.pt"), tensors, modules).load()


def test_cell_equals_torch():
    cell = nn.LSTMCell(3, 4).double()
    x = frames(3, 5, 2, 3)
    state, outputs = None, []
    for frame in torch.from_numpy(x):
        state = cell(frame, state)
        outputs.append(state[0].detach().numpy())
    assert_close(run_float(from_torch.from_module(cell).load(), x)[0], outputs)


def test_notes_name_ignored_attributes(tmp_path):
    path = tmp_path / "said.pt"
    torch.save(nn.LSTM(2, 3, 2, batch_first=True, dropout=0.5), path)
    notes = " ".join(importers.load(path).notes)
    assert "batch_first" in notes and "dropout 0.5 is ignored" in notes


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types(tmp_path, dtype):
    lstm = nn.LSTM(3, 4).to(dtype)
    path = tmp_path / "half.pt"
    torch.save(lstm.state_dict(), path)
    network = importers.load(path)
    assert bool(network.notes) == (dtype != torch.float64)
    x = frames(4, 3, 1, 3)
    assert_close(run_float(network, x)[0], expected(lstm, x))


def test_views_and_strides(tmp_path):
    """Tensors that share a storage, transposed and with an offset."""
    lstm = nn.LSTM(4, 4)
    storage = torch.randn(2, 4, 16)
    state = OrderedDict(lstm.state_dict())
    state["weight_ih_l0"], state["weight_hh_l0"] = storage[0].T, storage[1].T
    path = tmp_path / "views.pt"
    torch.save(state, path)
    layer = importers.load(path).model.layers[0]
    np.testing.assert_array_equal(layer.w_r.reshape(16, 4), storage[1].T.numpy())


def test_strides_of_zero_do_not_fill_memory(tmp_path):
    """A few bytes in the file may not become gigabytes; a small tensor may repeat its elements."""
    state = OrderedDict(nn.LSTM(4, 4).state_dict())
    state["bias_ih_l0"] = torch.ones(1).expand(16)
    torch.save(state, tmp_path / "small.pt")
    assert importers.load(tmp_path / "small.pt").model.layers[0].cells == 4
    state["weight_ih_l0"] = torch.ones(1).expand(16, 1 << 20)
    torch.save(state, tmp_path / "large.pt")
    tracemalloc.start()
    with pytest.raises(ImportRefused, match=r"of shape \(16, 1048576\) repeats its 1 stored elements"):
        importers.load(tmp_path / "large.pt")
    assert tracemalloc.get_traced_memory()[1] < 1 << 22
    tracemalloc.stop()


def test_pruned_by_torch(tmp_path):
    from torch.nn.utils import prune
    lstm = nn.LSTM(3, 4)
    prune.random_unstructured(lstm, "weight_hh_l0", 0.5)
    torch.save(lstm.state_dict(), tmp_path / "pruned.pt")
    layer = importers.load(tmp_path / "pruned.pt").model.layers[0]
    np.testing.assert_array_equal(layer.w_r.reshape(16, 4), lstm.weight_hh_l0.detach().numpy())
    assert layer.nonzeros < layer.weights


@pytest.mark.filterwarnings("ignore:torch.*quantiz")
def test_quantized_modules_are_refused(tmp_path):
    quantized = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.LSTM(3, 4)), {nn.LSTM})
    torch.save(quantized, tmp_path / "int8.pt")
    with pytest.raises(ImportRefused, match="packs its weights; import the model before it is quantized"):
        importers.load(tmp_path / "int8.pt")


def test_several_are_not_guessed(tmp_path):
    path = tmp_path / "two.pt"
    torch.save(nn.ModuleDict({"a": nn.LSTM(3, 4), "b": nn.LSTM(4, 2)}), path)
    with pytest.raises(ImportRefused, match="select one of 'a', 'b', or several to stack them"):
        importers.load(path)
    with pytest.raises(ImportRefused, match="no layer is named 'c'; select from 'a', 'b'"):
        importers.load(path, "c")
    with pytest.raises(ImportRefused, match="'a' is selected 2 times"):
        importers.load(path, "a,a")
    with pytest.raises(ValueError, match="'a' takes 3 inputs, but 'b' before it gives 2"):
        importers.load(path, "b,a")
    assert importers.load(path, ["a", "b"]).outputs == 2


def test_stacked_selection_equals_torch(tmp_path):
    """LSTM, linear, LSTM, linear: the first linear is folded, the last is the head."""
    path = tmp_path / "stack.pt"
    net = nn.ModuleDict({"a": nn.LSTM(3, 4), "mid": nn.Linear(4, 6), "b": nn.LSTM(6, 2, bidirectional=True),
                         "out": nn.Linear(4, 3)}).double()
    torch.save(net, path)
    network = importers.load(path, "a,mid,b,out")
    x = frames(5, 6, 2, 3)
    with torch.no_grad():
        y = net["out"](net["b"](net["mid"](net["a"](torch.from_numpy(x))[0]))[0]).numpy()
    assert_close(run_float(network, x)[0], y)
    assert [len(stage.directions) for stage in network.stages] == [1, 2]
    assert "multiplied into its input weights" in " ".join(network.notes)


SHARDS = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
INDEX = "pytorch_model.bin.index.json"


@pytest.fixture
def sharded(tmp_path):
    """A network whose second LSTM layer and head are in a second file, and the folder."""
    torch.manual_seed(7)
    network = Tagger(num_layers=2)
    names = {name: SHARDS["l1" in name or "head" in name] for name in network.state_dict()}
    for shard in SHARDS:
        torch.save({name: value for name, value in network.state_dict().items() if names[name] == shard},
                   tmp_path / shard)
    (tmp_path / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": names}))
    return network, tmp_path


@pytest.mark.parametrize("name", [INDEX, *SHARDS])
def test_shards_are_read_by_their_index(sharded, name):
    network, folder = sharded
    x = frames(3, 4, 2, 5)
    assert_close(run_float(importers.load(folder / name, "lstm"), x)[0], expected(network.lstm, x))


@pytest.mark.parametrize("absent", SHARDS)
def test_missing_shards_are_named(sharded, absent):
    _, folder = sharded
    (folder / absent).unlink()
    with pytest.raises(ImportRefused, match=f"^{INDEX}: '{absent}' missing; put all shards beside the index"):
        importers.load(folder / INDEX)


def test_a_shard_without_its_index_is_no_network(sharded):
    """The first file alone holds an LSTM of one layer."""
    _, folder = sharded
    (folder / INDEX).unlink()
    with pytest.raises(ImportRefused, match=f"^{SHARDS[0]}: one of 2 shards, but there is no {INDEX} beside it"):
        importers.load(folder / SHARDS[0], "lstm")


def test_damaged_shards(sharded):
    _, folder = sharded
    assert_survives(folder / INDEX)
    (folder / SHARDS[1]).write_bytes(b"PK")
    with pytest.raises(ImportRefused, match=f"^{SHARDS[1]}: "):
        importers.load(folder / INDEX)


def test_resemblyzer(tmp_path):
    """A real checkpoint: the format before PyTorch 1.6, saved on a GPU."""
    from importlib.util import find_spec
    spec = find_spec("resemblyzer")
    if spec is None:
        pytest.skip("resemblyzer is not installed")
    path = f"{spec.submodule_search_locations[0]}/pretrained.pt"
    network = importers.load(path, "model_state.lstm,model_state.linear")
    lstm, linear = nn.LSTM(40, 256, 3), nn.Linear(256, 256)
    state = torch.load(path, weights_only=True, map_location="cpu")["model_state"]
    for module, name in ((lstm, "lstm"), (linear, "linear")):
        module.load_state_dict({k.removeprefix(f"{name}."): v for k, v in state.items()
                                if k.startswith(f"{name}.")})
    x = frames(6, 20, 2, 40)
    with torch.no_grad():
        y = linear.double()(lstm.double()(torch.from_numpy(x))[0]).numpy()
    assert_close(run_float(network, x)[0], y)


# -- whatever else lies in a file --------------------------------------------------------------------


class Config:
    """A node of a tree whose nodes point at their parents, as configuration libraries have them."""

    def __init__(self, content, parent=None):
        self._parent, self._metadata = parent, {"flags": {}, "key": None}
        self._content = {key: Config(value, self) if isinstance(value, dict) else value
                         for key, value in content.items()}


class Tagged(torch.Tensor):
    """A subclass of the tensor, as libraries for images and for parallel training have."""


class Settings(dict):
    pass


def with_attribute(tensor):
    tensor.tensor_model_parallel = False
    return tensor


def state_dict():
    torch.manual_seed(5)
    return nn.LSTM(5, 4).state_dict()


FILES = {
    "configuration": lambda state: {"state_dict": state, "hyper_parameters": Config({"a": {"b": {"c": 1}}, "d": [1]})},
    "list of state dicts": lambda state: [state],
    "tuple": lambda state: ("Net", state, {1, 2}),
    "names of two parts": lambda state: {("rnn", name): value for name, value in state.items()},
    "subclass of dict": lambda state: Settings(net=Settings(state)),
    "subclass of tensor": lambda state: {name: value.as_subclass(Tagged) for name, value in state.items()},
    "tensors with attributes": lambda state: {name: with_attribute(value) for name, value in state.items()},
    "parameters with attributes": lambda state: {name: with_attribute(nn.Parameter(value))
                                                 for name, value in state.items()},
    "numpy arrays": lambda state: {name: value.numpy() for name, value in state.items()},
    "numpy, big endian": lambda state: {name: value.numpy().astype(">f8") for name, value in state.items()},
    "numpy, by columns": lambda state: {name: np.asfortranarray(value.numpy()) for name, value in state.items()},
    "numpy beside": lambda state: {"net": state, "best": np.float64(0.5), "rng": np.random.default_rng(1),
                                   "objects": np.array([{}, None])},
    "complex and small numbers": lambda state: {"net": state, "window": torch.ones(3, dtype=torch.complex64),
                                                "eight": torch.ones(3).to(torch.float8_e4m3fn)},
    "quantized tensor": lambda state: {"net": state,
                                       "q": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)},
    "sparse tensor": lambda state: {"net": state, "s": torch.eye(3).to_sparse()},
    "a module beside": lambda state: [{"net": state}, nn.CrossEntropyLoss(), torch.device("cpu"), torch.float32],
    "by hooks": lambda state: OrderedDict(state, _metadata={"version": 1}),
}


@pytest.mark.filterwarnings("ignore:.*quantize:UserWarning", "ignore:torch.quantize:DeprecationWarning")
@pytest.mark.parametrize("made", FILES.values(), ids=FILES)
@pytest.mark.parametrize("legacy", [False, True])
def test_files_with_anything_in_them(tmp_path, made, legacy):
    path = tmp_path / "checkpoint.ckpt"
    state = state_dict()
    try:
        torch.save(made(state), path, _use_new_zipfile_serialization=not legacy)
    except (RuntimeError, KeyError, AttributeError):  # types that the old format does not have
        assert legacy
        return
    lstm = nn.LSTM(5, 4)
    lstm.load_state_dict(state_dict())
    x = frames(2, 6, 2, 5)
    assert_close(run_float(importers.load(path), x)[0], expected(lstm, x))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_protocols_of_pickles(tmp_path, protocol):
    path = tmp_path / "numpy.pt"
    torch.save({name: value.numpy() for name, value in state_dict().items()}, path, pickle_protocol=protocol)
    layer = importers.load(path).model.layers[0]
    np.testing.assert_array_equal(layer.w_r.reshape(16, 4), state_dict()["weight_hh_l0"].numpy())


def test_model_criterion_optimizer(tmp_path):
    net = Tagger()
    torch.save([net, nn.CrossEntropyLoss(), torch.optim.SGD(net.parameters(), 1.0)], tmp_path / "triple.pt")
    assert [(entry.name, entry.kind) for entry in importers.entries(tmp_path / "triple.pt")] == [
        ("0.lstm", "LSTM"), ("0.embed", "Linear"), ("0.head", "Linear")]
    x = frames(2, 6, 2, 3)
    with torch.no_grad():
        y = net.double()(torch.from_numpy(x)).numpy()
    assert_close(run_float(importers.load(tmp_path / "triple.pt", "0.embed,0.lstm,0.head"), x)[0], y)


def test_two_tensors_of_one_name(tmp_path):
    state = state_dict()
    torch.save({"a.b": state["bias_ih_l0"], "a": {"b": state["bias_hh_l0"]}}, tmp_path / "two.pt")
    with pytest.raises(ImportRefused, match="^two.pt: two tensors are named 'a.b'; save them under different names"):
        importers.load(tmp_path / "two.pt")


@pytest.mark.filterwarnings("ignore:`torch.jit.freeze` is deprecated:DeprecationWarning")
def test_frozen_torchscript(tmp_path):
    frozen = torch.jit.freeze(torch.jit.script(Tagger().eval()))
    frozen.save(str(tmp_path / "frozen.pt"))
    entry, = importers.entries(tmp_path / "frozen.pt")
    assert (entry.name, entry.kind) == ("frozen", "TorchScript")
    with pytest.raises(ImportRefused, match=r"TorchScript 'frozen': its weights are constants in its code "
                                            r"\(torch.jit.freeze\), which is not run here; compile the whole network "
                                            r"with --trust, or save its state dict"):
        importers.load(tmp_path / "frozen.pt")


def test_exported_programs(tmp_path):
    with zipfile.ZipFile(tmp_path / "net.pt2", "w") as archive:
        archive.writestr("net/models/model.json", b"{}")
        archive.writestr("net/data/weights/weight_0", b"")
    with pytest.raises(ImportRefused, match="^net.pt2: a program of torch.export, which is not run here; compile the"):
        importers.load(tmp_path / "net.pt2")


@pytest.mark.filterwarnings("ignore:torch.*quantiz")
def test_state_dicts_of_quantized_networks(tmp_path):
    quantized = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.LSTM(3, 4)), {nn.LSTM})
    prepared = nn.ModuleDict({"net": torch.ao.nn.quantizable.LSTM(3, 4)})
    for state, name, reason in (
            (quantized.state_dict(), "0", "its weights are packed by torch.ao.quantization.quantize_dynamic; save the "
                                          "network before it is quantized"),
            (prepared.state_dict(), "net", r"prepared for quantization \(torch.ao.nn.quantizable.LSTM\); save the "
                                           r"network before torch.ao.quantization.prepare")):
        torch.save(state, tmp_path / "int8.pt")
        with pytest.raises(ImportRefused, match=f"no layer that can be imported: quanti\\w+ \\w+ '{name}': {reason}"):
            importers.load(tmp_path / "int8.pt")


OPCODES = [b"(", b"]", b"}", b"\x8f", b")", b"a", b"e", b"s", b"u", b"t", b"l", b"d", b"\x85", b"\x86", b"\x87", b"N",
           b"\x88", b"K\x03", b"M\xff\xff", b"G" + bytes(8), b"X\x01\0\0\0k", b"R", b"\x81", b"b", b"Q", b"0", b"2",
           b"q\x00", b"q\x01", b"h\x00", b"h\x01", b"\x94", b"\x90", b"X\x07\0\0\0storage", b"\x93", b"o", b"1"]
GLOBALS = [
    b"c%s\n%s\n" % pair for pair in (
        (b"torch._utils", b"_rebuild_tensor_v2"), (b"torch._utils", b"_rebuild_tensor_v3"), (b"torch", b"FloatStorage"),
        (b"torch._tensor", b"_rebuild_from_type_v2"), (b"torch._utils", b"_rebuild_parameter"),
        (b"collections", b"OrderedDict"), (b"numpy.core.multiarray", b"_reconstruct"), (b"numpy", b"dtype"),
        (b"_codecs", b"encode"),
        (b"numpy._core.numeric", b"_frombuffer"), (b"builtins", b"set"), (b"builtins", b"dict"), (b"os", b"system"),
        (b"my.net", b"Net"), (b"torch", b"ScriptObject"))]


def test_random_pickles(tmp_path):
    """Random operations, most of which are no sensible program, are read or refused."""
    rng = np.random.default_rng(11)
    path, choices, read = tmp_path / "random.pt", OPCODES + GLOBALS, 0
    for _ in range(int(os.environ.get("OPENESE_RANDOM_PICKLES", 1000))):
        body = b"".join(choices[number] for number in rng.integers(0, len(choices), rng.integers(2, 25)))
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("random/data.pkl", b"\x80\x02" + body + b".")
        try:
            torch_archive.read_archive(path)
            read += 1
            importers.entries(path)
        except ImportRefused as error:
            assert "\n" not in str(error) and str(error).startswith("random.pt: ")
    assert read > 20


@pytest.mark.parametrize("saver", ["state_dict", "legacy", "whole model", "scripted"])
def test_damaged_files(tmp_path, saver):
    SAVERS[saver](Tagger(num_layers=2), tmp_path / "tagger.pt")
    assert_survives(tmp_path / "tagger.pt")
