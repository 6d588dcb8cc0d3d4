# SPDX-License-Identifier: Apache-2.0
"""Whole networks on the command line: every input and output by name, and how it says no."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs the extra `onnx`")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")
pytest.importorskip("onnxruntime_extensions", reason="needs the extra `onnx`")

from models import random_model  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

import openese as package  # noqa: E402
from openese.sw import cli  # noqa: E402

INPUTS, CELLS, STEPS, VOICES = 5, 8, 12, 3


def save_network(path, seed=3):
    """An LSTM with a state in and out between a front and a head with a residual."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.normal(scale=0.4, size=shape).astype(np.float32)

    tensors = {"A": normal(INPUTS, CELLS), "a": normal(CELLS), "W": normal(1, 4 * CELLS, CELLS),
               "R": normal(1, 4 * CELLS, CELLS), "B": normal(1, 8 * CELLS), "M": normal(CELLS, 2),
               "one": np.array([1], np.int64)}
    nodes = [helper.make_node("MatMul", ["x", "A"], ["p"], "front"), helper.make_node("Add", ["p", "a"], ["q"]),
             helper.make_node("Relu", ["q"], ["r"], "relu"),
             helper.make_node("LSTM", ["r", "W", "R", "B", "", "h", "c"], ["y", "hn", "cn"], "lstm",
                              hidden_size=CELLS),
             helper.make_node("Squeeze", ["y", "one"], ["s"], "squeeze"),
             helper.make_node("Add", ["s", "r"], ["t"], "residual"),
             helper.make_node("MatMul", ["t", "M"], ["z"], "head")]
    info = helper.make_tensor_value_info
    state = [1, "voices", CELLS]
    graph = helper.make_graph(
        nodes, "net", [info("x", TensorProto.FLOAT, ["steps", "voices", INPUTS]), info("h", TensorProto.FLOAT, state),
                       info("c", TensorProto.FLOAT, state)],
        [info("z", TensorProto.FLOAT, ["steps", "voices", 2]), info("hn", TensorProto.FLOAT, state),
         info("cn", TensorProto.FLOAT, state)],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def inputs(seed=4, voices=VOICES, steps=STEPS):
    rng = np.random.default_rng(seed)
    return {"x": rng.normal(size=(steps, voices, INPUTS)).astype(np.float32),
            "h": rng.uniform(-0.5, 0.5, (1, voices, CELLS)).astype(np.float32),
            "c": rng.normal(size=(1, voices, CELLS)).astype(np.float32)}


def original(path, given):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, given), strict=True))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_network("net.onnx")
    np.savez("in.npz", **inputs())
    return tmp_path


@pytest.fixture
def openese(capsys):
    """Runs a command line: its standard output and error, after a check of the status."""
    def run(line, status=0):
        found = cli.main(line.split())
        printed = capsys.readouterr()
        assert found == status, printed.err
        return printed.out if status == 0 else printed.err
    return run


COMPILE = "compile net.onnx --preset tiny --calibrate in.npz -o net"


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """A folder in which the network is compiled."""
    place = tmp_path_factory.mktemp("once")
    save_network(place / "net.onnx")
    package.compile(place / "net.onnx", "tiny", calibrate=inputs()).save(place / "net")
    return place / "net"


@pytest.fixture
def compiled(folder, once):
    """A folder to work in, with the compiled network ``net``."""
    shutil.copytree(once, folder / "net")
    return folder


def test_the_list_has_everything_with_its_place(folder, openese):
    listed = openese("import net.onnx --list").splitlines()
    places = {line.split()[0]: line.split()[2] for line in listed[3:]}
    assert places["lstm"] == "machine"
    assert {places[name] for name in ("front", "relu", "squeeze", "residual", "head")} == {"host"}
    assert {"A", "a", "W", "R", "B", "M", "one"} <= places.keys()


def test_all_outputs_by_name(folder, openese):
    said = openese(COMPILE)
    assert all(name in said for name in ("z", "hn", "cn", "relative"))
    Path("net.onnx").rename("away.onnx")  # the folder needs it no more
    other = inputs(9, voices=2, steps=20)
    np.savez("other.npz", **other)
    said = openese("run net other.npz -o out.npz --check --against away.onnx")
    assert "all 112 output numbers are the reference's" in said
    found, wanted = np.load("out.npz"), original("away.onnx", other)
    assert set(found.files) == wanted.keys()
    for name, exact in wanted.items():
        np.testing.assert_allclose(found[name], exact, atol=0.01)


def test_python_and_command_line_agree(folder, openese):
    openese(COMPILE)
    openese("run net in.npz -o out.npz")
    compiled = package.compile("net.onnx", "tiny", calibrate=inputs())
    assert isinstance(compiled, package.CompiledWhole)
    found = compiled.run(inputs())
    for name, value in np.load("out.npz").items():
        np.testing.assert_array_equal(found[name], value)
    assert {difference.name: difference.error.rms_error < 0.01 for difference in compiled.differences} \
        == {"z": True, "hn": True, "cn": True}


def test_calls_with_carried_states_are_one_sequence(folder, openese):
    given = inputs()
    np.savez("calls.npz", x=given["x"][:, None], h=given["h"], c=given["c"])  # a call of one step each
    carry = "--carry hn=h --carry cn=c"
    openese(f"compile net.onnx --preset tiny --calibrate calls.npz {carry} -o net")
    openese("run net calls.npz -o steps.npz")
    openese("run net in.npz -o whole.npz")
    steps, whole = np.load("steps.npz"), np.load("whole.npz")
    np.testing.assert_allclose(steps["z"][:, 0], whole["z"], atol=1e-6)
    np.testing.assert_array_equal(steps["hn"], whole["hn"])


def test_density_and_what_reaches_the_lstm(folder, openese):
    said = openese(COMPILE.replace("--calibrate", "--density 0.25 --calibrate"))
    assert "error against the network before pruning" not in said  # of one part; the outputs tell
    weights = package.CompiledWhole.load("net").parts["lstm"].network.directions[0].model.layers[0]
    assert weights.density == pytest.approx(0.25, abs=0.05)


def test_the_estimate_of_a_whole_network(compiled, openese):
    """Of the file, and of the compiled folder, whose machine it is for."""
    said = openese("estimate net.onnx --preset tiny --json file.json")
    assert "places: host" in said and "machine tiny, 4 PEs x 2 channels" in said
    host = {item["name"]: item["kind"] for item in json.loads(Path("file.json").read_text())["host"]}
    assert host.keys() >= {"front", "relu", "residual", "head"} and host["relu"] == "Relu"
    assert "note: the host computes 'net': onnxruntime: all but the machine's parts" in openese(
        "estimate net --json folder.json")
    whole = package.CompiledWhole.load("net")
    load, = next(iter(whole.summaries.values())).loads
    found = json.loads(Path("folder.json").read_text())
    assert (found["cycles_per_step"], found["cycles_at_rest"], found["bytes"]) == (
        load.cycles_per_step, load.cycles_at_rest, load.bytes)
    assert "goes with a file without a graph" in openese("estimate net.onnx --ignore A", 2)
    assert "this is compiled or quantized" in openese("estimate net --select lstm", 2)
    assert "in floating point" not in openese("estimate net.onnx --select lstm --preset tiny")


def test_a_network_may_be_verified_shown_and_named_for_its_machine(compiled, openese):
    assert "all CRCs match" in openese("verify net")
    assert "x float32 (steps, voices, 5)" in openese("info net")
    random_model(1, 6, 8).save("other.npz")
    assert openese("prune other.npz --for net --density 0.5 -o sparse.npz")


@pytest.mark.parametrize(("line", "reason"), [
    ("compile net.onnx --preset tiny --calibrate x.npy -o a", "give them by name in an .npz"),
    ("compile net.onnx --preset tiny --calibrate short.npz -o a", "the input c float32 (1, voices, 8) is missing"),
    ("compile net.onnx --preset tiny --calibrate more.npz -o a", "'q' is no input of the network"),
    ("compile net.onnx --preset tiny --calibrate wide.npz -o a", "found the shape (12, 3, 6)"),
    ("compile net.onnx --preset tiny --calibrate in.npz --carry hn=q -o a", "'q' is no input"),
    ("compile net.onnx --preset tiny --calibrate in.npz --carry q=h -o a", "'q' is no output"),
    ("compile net.onnx --preset tiny --calibrate in.npz --carry q -o a", "expected OUTPUT=INPUT"),
    ("compile net.onnx --preset tiny --calibrate in.npz -o taken", "no whole network"),
    ("compile net.onnx --preset tiny --calibrate in.npz --density other=0.5 -o a", "'other' is neither"),
    ("run net in.npz -o out.npy", "the network has the outputs z, hn, cn"),
    ("run net wide.npz -o out.npz", "found the shape (12, 3, 6)"),
    ("run net in.npz -o out.npz --model net.onnx", "--against"),
    ("run net in.npz -o out.npz --backend serial", "needs 1 --port"),
    ("run net in.npz -o in.npz", "would overwrite an input"),
    ("run net in.npz -o out.npz --against other.onnx", "--against other.onnx: 'x' is no input of the network"),
    ("import net.onnx --list --calibrate in.npz", "--calibrate goes with --list --trust"),
    ("verify net --quantized in.npz", "--quantized goes with an image"),
])
def test_refusals(compiled, openese, line, reason):
    given = inputs()
    np.save("x.npy", given["x"])
    np.savez("short.npz", x=given["x"], h=given["h"])
    np.savez("more.npz", **given, q=given["h"])
    np.savez("wide.npz", **{**given, "x": np.zeros((STEPS, VOICES, INPUTS + 1), np.float32)})
    other = onnx.load("net.onnx")
    other.graph.input[0].name = other.graph.node[0].input[0] = "z0"
    onnx.save(other, "other.onnx")
    Path("taken").mkdir()
    Path("taken", "file").write_text("mine")
    before = {file: file.read_bytes() for file in compiled.rglob("*") if file.is_file()}
    said = openese(line, 2)
    assert reason in said and said.startswith("openese: ") and said.count("\n") == 1
    assert {file: file.read_bytes() for file in compiled.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("change", [
    lambda manifest: manifest.pop("host"), lambda manifest: manifest.update(host="other"),
    lambda manifest: manifest.update(parts={"lstm": "../part0"}), lambda manifest: manifest.update(version=99),
    lambda manifest: manifest.update(parts=[]), lambda manifest: manifest.update(carry={"hn": 3}),
    lambda manifest: manifest.update(parts={"other": "part0"}),
])
def test_damaged_folders(compiled, openese, change):
    place = Path("net", "network.json")
    manifest = json.loads(place.read_text())
    change(manifest)
    place.write_text(json.dumps(manifest))
    said = openese("run net in.npz -o out.npz", 2)
    assert said.startswith("openese: ") and said.count("\n") == 1


def test_another_part_s_image_is_refused(compiled, openese):
    Path("net", "part0.img").write_bytes(b"none")
    assert openese("run net in.npz -o out.npz", 2).startswith("openese: net/part0.img")


@pytest.mark.sim
def test_the_verilog_gives_the_same(compiled, openese):
    assert "all 120 output numbers are the reference's" in openese("run net in.npz -o out.npz --backend sim --check")


def test_explore_and_report_a_whole_network(folder, openese):
    """The frames of the search are those that the part gets; the commands that it tells work; NET has its page."""
    pytest.importorskip("plotly", reason="needs Plotly: pip install 'openese[explore]'")
    said = openese("explore net.onnx --device pynq-z2 --calibrate in.npz --latency 20 --jobs 1 --try pes=4 "
                   "--try slices=2 --json f.json -o best.html")
    found = json.loads(Path("f.json").read_text())
    for line in found["commands"]:
        assert line in said
        openese(line.removeprefix("openese "))
    compiled = package.CompiledWhole.load("best")
    part, = compiled.parts.values()
    load, = part.summary.loads
    assert load.cycles_at_rest == found["winner"]["cycles_at_rest"] and "places: host" in said
    assert "on the frames that were given" in " ".join(found["notes"])
    page = Path("best.html").read_text()
    openese("report best --calibrate in.npz -o report.html")
    for text in (page, Path("report.html").read_text()):
        assert f"{STEPS} steps of {VOICES} voices" in text
    assert "give the file that it was compiled from" in openese("explore best --device pynq-z2 -o p.html", 2)
    assert "select and ignore" not in openese("explore net.onnx --device pynq-z2 --ignore a -o p.html", 2)
