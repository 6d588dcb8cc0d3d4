# SPDX-License-Identifier: Apache-2.0
"""Networks of PyTorch by three ways: live, by its exporters, and as files that are programs; against PyTorch."""

import dataclasses
import os
import re
from collections import Counter

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: the extra `train`")
pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")
pytest.importorskip("onnxruntime_extensions", reason="needs the extra `onnx`")

from torch import nn  # noqa: E402
from torch_networks import Block, flat, random_network  # noqa: E402

import openese  # noqa: E402
from openese.sw import cli  # noqa: E402
from openese.sw.importers import ImportRefused  # noqa: E402
from openese.sw.whole import torch_export  # noqa: E402
from openese.sw.whole.engine import Engine, float_runners  # noqa: E402
from openese.sw.whole.host import HostError  # noqa: E402
from openese.sw.whole.network import open_host  # noqa: E402
from openese.sw.whole.torch_export import quiet  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")

FLOAT, INTEGERS = 1e-4, 0.05
#: A machine with GRU cells.
GRUS = dataclasses.replace(openese.preset("demo"), cells="lstm+gru")
#: And with dense layers.
DENSES = dataclasses.replace(GRUS, cells="lstm+gru+dense")
#: All reports want at least 100. An exporter takes longer for a network, and the one on dynamo seconds.
NETWORKS, PROGRAMS, BY_DYNAMO = (int(os.environ.get("OPENESE_TORCH_NETWORKS", usual)) for usual in (10, 5, 2))
#: Of these all recurrent layers are GRUs.
GRU_NETWORKS = int(os.environ.get("OPENESE_TORCH_GRUS", "3"))


def arrays(inputs):
    return {name: value.numpy() for name, value in inputs.items()}


def results(network, inputs):
    with torch.no_grad():
        return [value.numpy() for value in flat(network(**inputs))]


def largest(found, wanted):
    """The largest error, by the largest number of an output."""
    assert [value.shape for value in found] == [value.shape for value in wanted]
    return max(float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-3))
               for ours, theirs in zip(found, wanted, strict=True))


def root_mean_square(found, wanted):
    """The RMS error, relative to the RMS of an output."""
    return max(float(np.sqrt(np.mean((ours - theirs) ** 2) / max(np.mean(theirs**2), 1e-6)))
               for ours, theirs in zip(found, wanted, strict=True))


def run(host, inputs):
    return list(host.run(arrays(inputs), Engine(host.parts, float_runners(host.parts))).values())


# -- random networks -------------------------------------------------------------------------------

@pytest.mark.parametrize("grus", [False, True], ids=["any", "grus"])
def test_random_networks_through_offload(grus):
    """Equal in floating point, near in integers."""
    counts, worst = Counter(), 0.0
    for seed in range(GRU_NETWORKS if grus else NETWORKS):
        case = random_network(seed, grus)
        wanted = [results(case.network, inputs) for inputs in (case.inputs, case.longer)]
        machine = DENSES if seed % 2 else GRUS
        exact = openese.offload(case.network, machine, calibrate=case.longer, backend="float")
        integers = openese.offload(case.network, machine, calibrate=[case.inputs, case.longer])
        for inputs, expected in zip((case.inputs, case.longer), wanted, strict=True):
            assert largest(results(exact, inputs), expected) < FLOAT, f"seed {seed}"
            worst = max(worst, root_mean_square(results(integers, inputs), expected))
            assert worst < INTEGERS, f"seed {seed}"
        counts.update({"networks", *case.features})
        counts["parts"] += len(exact.networks)
        counts["with dense layers"] += any(layer.cell == "dense" for part in exact.networks.values()
                                           for direction in part.directions for layer in direction.model.layers)
    print(f"offload: {counts.pop('networks')} networks{' of GRUs' if grus else ''} equal, "
          f"largest error of integers {100 * worst:.2g} %; "
          f"{dict(counts.most_common())}")


def by_exporter(case, path, dynamo):
    """Export as a user does. Refusals of the exporter are PyTorch's, not ours."""
    names = list(case.inputs)
    given = {} if dynamo else {"dynamic_axes": {name: {axis: f"{name}{axis}" for axis in range(value.dim())}
                                                for name, value in case.inputs.items()}, "opset_version": 17}
    if dynamo:
        given = {"verbose": False, "external_data": False}
    torch.onnx.export(case.network, (), path, kwargs=case.inputs, dynamo=dynamo, input_names=names, **given)


@pytest.mark.parametrize("dynamo", [pytest.param(False, id="trace"),
                                    pytest.param(True, id="dynamo", marks=pytest.mark.slow)])
def test_random_networks_through_an_exporter(tmp_path, dynamo):
    """Equal to PyTorch, or refused: by the exporter, or because its file is wrong."""
    if dynamo:
        pytest.importorskip("onnxscript", reason="the exporter on dynamo needs onnxscript")
    counts, reasons = Counter(), Counter()
    for seed in range(NETWORKS)[-BY_DYNAMO if dynamo else 0:]:
        case = random_network(seed)
        wanted = results(case.network, case.inputs)
        path = tmp_path / f"{seed}.onnx"
        with quiet():
            try:
                by_exporter(case, path, dynamo)
            except Exception as error:
                counts["refused by the exporter"] += 1
                reasons[torch_export._line(error)[:60]] += 1
                continue
        try:
            host = open_host(path)
            found = run(host, case.inputs)
        except (ImportRefused, HostError) as error:
            counts["refused"] += 1
            reasons[str(error).removeprefix(f"{seed}")[:70]] += 1
            with pytest.raises(Exception, match="."):  # onnxruntime refuses the file too
                torch_export._session(path).run(None, arrays(case.inputs))
            continue
        theirs = list(host.original(arrays(case.inputs)).values())
        assert largest(found, theirs) < FLOAT, f"seed {seed}"
        counts["equal" if largest(theirs, wanted) < FLOAT else "equal to a wrong file"] += 1
        counts["parts"] += len(host.parts)
    print(f"{'dynamo' if dynamo else 'trace'}: {dict(counts)} {dict(reasons)}")
    assert counts["equal"]


@pytest.mark.parametrize("kind", ["pickled", "traced"])
def test_random_programs(tmp_path, kind):
    """Files that are programs: equal for other sizes than those they were exported with, or refused by name."""
    counts, reasons = Counter(), Counter()
    for seed in range(PROGRAMS):
        case = random_network(seed)
        path = tmp_path / f"{seed}.pt"
        if kind == "pickled":
            torch.save(case.network, path)
        else:
            with quiet():
                torch.jit.trace(case.network, example_kwarg_inputs=case.inputs, strict=False).save(path)
        try:
            host = open_host(path, True, lambda case=case: [arrays(case.inputs)])
        except ImportRefused as error:
            counts["refused"] += 1
            reasons[str(error).partition(": ")[2][:70]] += 1
            continue
        assert largest(run(host, case.inputs), results(case.network, case.inputs)) < FLOAT, f"seed {seed}"
        counts["equal"] += 1
        try:
            found = run(host, case.longer)
        except HostError as error:
            assert "found the shape" in str(error), f"seed {seed}"
            continue
        assert largest(found, results(case.network, case.longer)) < FLOAT, f"seed {seed}"
        counts["equal for other sizes"] += 1
    print(f"{kind}: {dict(counts)} {dict(reasons)}")
    assert counts["equal"]


# -- networks that people have ---------------------------------------------------------------------

class Streaming(nn.Module):
    """One step of two LSTMs, whose states are one tensor: an input and an output."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.out = nn.LSTM(12, 16), nn.LSTM(16, 16), nn.Linear(16, 12)

    def forward(self, x, s):
        y, (h0, c0) = self.a(x, (s[0, 0], s[0, 1]))
        y, (h1, c1) = self.b(y, (s[1, 0], s[1, 1]))
        return self.out(y).sigmoid(), torch.stack([torch.stack([h0, c0]), torch.stack([h1, c1])])


class Around(nn.Module):
    """Something before, between or behind LSTMs."""

    def __init__(self, kind="residual"):
        super().__init__()
        self.kind, self.norm, self.front, self.head = kind, nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.a = nn.LSTM(8, 8)
        if kind in ("residual", "norm", "tanh", "concat"):
            self.b = nn.LSTM(8, 8)
        nn.init.uniform_(self.norm.weight, 0.5, 2)

    def forward(self, x):
        if self.kind == "front":
            return self.head(self.a(self.front(x))[0])
        if self.kind == "front relu":
            return self.head(self.a(self.front(x).relu())[0])
        if self.kind == "flip":
            return self.head(self.a(x.flip(0))[0].flip(0))
        if self.kind == "relu head":
            return self.head(self.front(self.a(x)[0]).relu())
        y = self.a(x)[0]
        if self.kind == "residual":
            y = y + x
        elif self.kind == "norm":
            y = self.norm(y)
        elif self.kind == "tanh":
            y = y.tanh()
        else:
            y = torch.cat([y, x], -1)[..., 4:12]
        return self.head(self.b(y)[0])


class Learned(nn.Module):
    """An LSTM whose state before the first frame is learned."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 8)
        self.h0, self.c0 = (nn.Parameter(torch.rand(1, 1, 8) - 0.5) for _ in range(2))

    def forward(self, x):
        count = x.shape[1]
        return self.lstm(x, (self.h0.repeat(1, count, 1), self.c0.repeat(1, count, 1)))[0]


class Peepholes(nn.Module):
    """A cell of its own."""

    def __init__(self):
        super().__init__()
        self.cells = nn.Linear(8, 8)

    def forward(self, x):
        return self.cells(x).tanh()


def agree(host, network, *inputs):
    """A host against its network, in floating point."""
    names = [port.name for port in host.inputs]
    for given in inputs:
        given = given if isinstance(given, tuple) else (given,)
        with torch.no_grad():
            wanted = [value.numpy() for value in flat(network(*given))]
        assert largest(run(host, dict(zip(names, given, strict=True))), wanted) < FLOAT


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(1)


@pytest.mark.parametrize("kind", ["residual", "norm", "tanh", "concat", "front", "front relu", "flip", "relu head"])
def test_what_lies_around_lstms(tmp_path, kind):
    network, x, other = Around(kind).eval(), torch.randn(10, 2, 8), torch.randn(7, 3, 8)
    with quiet():
        torch.onnx.export(network, (x,), tmp_path / "net.onnx", dynamo=False, opset_version=17, input_names=["x"],
                          dynamic_axes={"x": {0: "t", 1: "b"}})
    agree(open_host(tmp_path / "net.onnx"), network, x, other)
    offloaded = openese.offload(network, "demo", calibrate=x, backend="float")
    assert largest(results(offloaded, {"x": other}), results(network, {"x": other})) < FLOAT


def test_blocks_of_a_crnn(tmp_path):
    network = nn.Sequential(Block(12, 8, 8), Block(8, 8, 5)).eval()
    x, other = torch.randn(9, 2, 12), torch.randn(4, 3, 12)
    with quiet():
        torch.onnx.export(network, (x,), tmp_path / "static.onnx", dynamo=False, opset_version=12)
    agree(open_host(tmp_path / "static.onnx"), network, x)
    torch.save(network, tmp_path / "net.pt")
    agree(open_host(tmp_path / "net.pt", True, lambda: [x.numpy()]), network, x, other)


def test_an_onnx_file_through_offload(tmp_path):
    network, x, other = Around("norm").eval(), torch.randn(10, 2, 8), torch.randn(7, 3, 8)
    with quiet():
        torch.onnx.export(network, (x,), tmp_path / "net.onnx", dynamo=False, opset_version=17, input_names=["x"],
                          output_names=["y"], dynamic_axes={"x": {0: "t", 1: "b"}})
    session = openese.offload(tmp_path / "net.onnx", "demo", calibrate={"x": x.numpy()})
    assert [port.shape for port in session.get_inputs()] == [["t", "b", 8]] and len(session.parts) == 2
    with torch.no_grad():
        error = root_mean_square(session.run(["y"], {"x": other.numpy()}), [network(other).numpy()])
    assert 0 < error < 0.01


def saved(network, kind, path, x):
    """A file that is a program."""
    if kind == "pt2":
        with quiet():
            torch.export.save(torch.export.export(network, (x,)), path)
    elif kind == "traced":
        torch.jit.trace(network, x).save(path)
    elif kind == "scripted":
        torch.jit.script(network).save(path)
    elif kind == "frozen":
        torch.jit.freeze(torch.jit.script(network)).save(path)
    elif kind == "lite":
        torch.jit.script(network)._save_for_lite_interpreter(str(path))
    else:
        optimizer = torch.optim.SGD(network.parameters(), lr=1)
        torch.save({"pickled": network, "parallel": nn.DataParallel(network), "in a dict": {"model": network, "lr": 1},
                    "in a list": [network, nn.MSELoss(), optimizer]}[kind], path)


KINDS = {"pt2": "program of torch.export", "traced": "TorchScript program", "scripted": "TorchScript program",
            "frozen": "TorchScript program", "lite": "TorchScript program", "pickled": "pickled network",
            "parallel": "pickled network", "in a dict": "pickled network", "in a list": "pickled network"}


@pytest.mark.parametrize("kind", list(KINDS))
def test_files_that_are_programs(tmp_path, kind):
    network, x, other = Around("norm").eval(), torch.randn(10, 2, 8), torch.randn(7, 3, 8)
    path = tmp_path / f"net.{'pt2' if kind == 'pt2' else 'pt'}"
    saved(network, kind, str(path), x)
    assert torch_export.program(path) == KINDS[kind]
    with pytest.raises(ImportRefused, match=rf"net.pt2?: a {KINDS[kind]} is code.*trust it \(--trust\)"):
        open_host(path)
    host = open_host(path, True, lambda: [{"x": x.numpy()}])
    assert [port.text() for port in host.inputs] == [
        "x float32 (10, 2, 8)" if kind == "pt2" else "x float32 (size0, size1, 8)"]
    agree(host, network, x, *([] if kind == "pt2" else [other]))
    if kind == "pt2":
        agree(open_host(path, True), network, x)  # it has an example of its own
        return
    with pytest.raises(ImportRefused, match=r"an example of the inputs \(x\) .*; give --calibrate INPUTS"):
        open_host(path, True)


def test_sizes_that_an_exported_program_leaves_open(tmp_path):
    pytest.importorskip("onnxscript", reason="the exporter on dynamo needs onnxscript")
    network, x, other = Around("norm").eval(), torch.randn(10, 2, 8), torch.randn(10, 3, 8)
    with quiet():
        program = torch.export.export(network, (x,), dynamic_shapes=({1: torch.export.Dim("batch")},))
        torch.export.save(program, tmp_path / "net.pt2")
    host = open_host(tmp_path / "net.pt2", True)
    assert [port.text() for port in host.inputs] == ["x float32 (10, size0, 8)"]
    agree(host, network, x, other)


def test_a_streaming_program(tmp_path):
    network = Streaming().eval()
    torch.jit.script(network).save(tmp_path / "step.pt")
    x, zero = torch.randn(50, 1, 1, 12), torch.zeros(2, 2, 1, 1, 16)
    compiled = openese.compile(tmp_path / "step.pt", "demo", calibrate={"x": x.numpy(), "s": zero.numpy()},
                               carry={"output.1": "s"}, trust=True)
    assert {part.calibration for part in compiled.parts.values()} == {(50, 1)}
    found = compiled.run({"x": x.numpy(), "s": zero.numpy()})
    state, wanted = zero, []
    with torch.no_grad():
        for frame in x:
            y, state = network(frame, state)
            wanted.append(y)
    assert root_mean_square([found["output.0"], found["output.1"]], [torch.stack(wanted).numpy(), state.numpy()]) < 1e-3


class Named(nn.Module):
    """Outputs with the names of inputs."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 8)

    def forward(self, x, h, c):
        y, (h, c) = self.lstm(x, (h, c))
        return {"y": y, "h": h, "c": c}


def test_outputs_with_the_names_of_inputs(tmp_path):
    network, x, h, c = Named().eval(), torch.randn(5, 2, 8), torch.rand(1, 2, 8), torch.randn(1, 2, 8)
    torch.save(network, tmp_path / "net.pt")
    host = open_host(tmp_path / "net.pt", True, lambda: [{"x": x.numpy(), "h": h.numpy(), "c": c.numpy()}])
    assert [port.name for port in host.outputs] == ["y", "h.next", "c.next"]
    agree(host, network, (x, h, c))


def test_learned_states_and_cells_of_their_own(tmp_path):
    for network in (Learned().eval(), nn.Sequential(Peepholes(), Learned()).eval()):
        x = torch.randn(10, 2, 8)
        offloaded = openese.offload(network, "demo", calibrate=x, backend="float")
        assert largest(results(offloaded, {"x" if isinstance(network, Learned) else "input": x}),
                       results(network, {"x" if isinstance(network, Learned) else "input": x})) < FLOAT
        torch.save(network, tmp_path / "net.pt")
        agree(open_host(tmp_path / "net.pt", True, lambda x=x: [x.numpy()]), network, x, torch.randn(5, 3, 8))


class Branching(nn.Module):
    """Does something else for other numbers."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 8)

    def forward(self, x):
        y = self.lstm(x)[0]
        return y if bool(x.sum() > 0) else -y


def test_the_list_of_a_program(tmp_path, capsys):
    """Its tensors; with trust and an example, everything with its place."""
    path, x = tmp_path / "net.pt", tmp_path / "x.npy"
    torch.save(nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.GRU(4, 3)), path)
    np.save(x, np.ones((5, 2, 8), np.float32))

    def run(*arguments):
        status = cli.main(["import", str(path), "--list", *map(str, arguments)])
        return status, *capsys.readouterr()

    status, listed, said = run()
    assert status == 0 and "GRU" in listed and said.count("\n") == 1 and "read without running it" in said
    status, _, said = run("--trust")
    assert status == 2 and "give --calibrate INPUTS" in said and said.count("\n") == 1
    status, listed, said = run("--trust", "--calibrate", x)
    assert status == 0 and not said
    assert re.search(r"GRU +machine", listed) and re.search(r"Gemm|MatMul", listed) and "cells=lstm+gru" in listed


def test_the_list_of_an_exported_program(tmp_path, capsys):
    path = tmp_path / "net.pt2"
    saved(Around("front").eval(), "pt2", str(path), torch.randn(10, 2, 8))
    for command in (["import", str(path), "--list"], ["compile", str(path), "-o", str(tmp_path / "net")]):
        assert cli.main(command) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "--trust" in said and "--select" not in said
    assert cli.main(["import", str(path), "--list", "--trust"]) == 0
    assert re.search(r"LSTM +machine", capsys.readouterr().out)


@pytest.mark.slow
def test_refused_programs(tmp_path):
    x, path = torch.randn(10, 2, 8), tmp_path / "net.pt"
    network = Around("norm").eval()

    def refused(thing, text, given=None, **named):
        if isinstance(thing, torch.jit.ScriptModule):
            thing.save(path)
        elif thing is not None:
            torch.save(thing, path)
        with pytest.raises(ImportRefused, match=text) as caught:
            open_host(path, True, lambda: [{"x": x.numpy()} if given is None else given])
        assert "\n" not in str(caught.value)

    refused(Branching(), r"cannot write it as ONNX \(ValueError: test_whole_torch.py line \d+: Converting a tensor to")
    refused({"a": network, "b": Around("tanh")}, r"has 2 networks \(Around, Around\); save one of them alone")
    refused(network, "'y' is no input of the network; its inputs are x", {"y": x.numpy()})
    refused(network, "the network does not take these inputs .RuntimeError", {"x": x[..., :5].numpy()})
    refused(Streaming(), "the network has the inputs x, s; give them by name", x.numpy())
    refused(Streaming(), "the input s is missing; the tensors of a tuple are s.0, s.1")
    refused(nn.LSTM(8, 8, proj_size=4), "the LSTM has projections .proj_size., which an LSTM of ONNX does not have")
    refused(torch.jit.script(nn.LSTM(8, 8)), "has no method 'forward'")
    path.write_bytes(path.read_bytes()[:-200])
    refused(None, "net.pt: ")


def test_networks_without_a_class_are_refused(tmp_path, monkeypatch):
    torch.save(Around("norm"), tmp_path / "net.pt")
    monkeypatch.delattr(Around.__module__ + ".Around")
    with pytest.raises(ImportRefused, match="PyTorch does not load it .AttributeError.*use openese.offload there"):
        open_host(tmp_path / "net.pt", True, lambda: [np.zeros((3, 1, 8), np.float32)])


def test_state_dicts_are_no_programs(tmp_path):
    state = Around("norm").state_dict()
    for name, thing in {"sd.pt": state, "ckpt.pt": {"state_dict": state, "epoch": 3}}.items():
        torch.save(thing, tmp_path / name)
        assert torch_export.program(tmp_path / name) is None and open_host(tmp_path / name) is None


def test_frames_as_people_have_them():
    network, calm = nn.LSTM(6, 16).eval(), torch.randn(60, 4, 6)
    offloaded = openese.offload(network, "demo", calibrate=calm)
    many = torch.randn(5, 130, 6)
    assert root_mean_square(results(offloaded, {"input": many}), results(network, {"input": many})) < 0.01
    with pytest.warns(UserWarning, match="lstm: .* numbers of its inputs and initial states do not fit"):
        offloaded(calm * 100)
    for bad in (calm / 0, calm * float("nan")):
        with pytest.raises(ValueError, match="not all numbers are finite"):
            offloaded(bad)
    for bad in (calm[..., :5], (calm * 1000).to(torch.int16), calm > 0, calm.to(torch.complex64)):
        for run_it in (network, offloaded):
            with pytest.raises((RuntimeError, ValueError), match="input"):
                run_it(bad)
