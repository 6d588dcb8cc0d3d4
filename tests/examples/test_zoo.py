# SPDX-License-Identifier: Apache-2.0
"""The zoo: its front ends, its networks where their packages are installed, and its results.

``nox -s zoo`` runs the networks on all examples and on the Verilog.
"""

import io
import json
import tarfile
from dataclasses import dataclass, replace

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("onnxruntime_extensions", reason="needs the extra `onnx`")
torch = pytest.importorskip("torch", reason="needs PyTorch: the extra `train`")

import openese  # noqa: E402
from docs.results import zoo  # noqa: E402
from examples.silero_vad.network import MissingWeights, package_file  # noqa: E402
from examples.zoo import mel, ocr, packages, vad  # noqa: E402
from examples.zoo.__main__ import main  # noqa: E402
from examples.zoo.exhibits import exhibits  # noqa: E402
from examples.zoo.measure import Measurement  # noqa: E402
from examples.zoo.pictures import picture  # noqa: E402
from openese.sw.whole.engine import Engine, float_runners  # noqa: E402
from openese.sw.whole.network import open_host  # noqa: E402

SEED = 20170222


def exhibit(name):
    """Return a network of the zoo; the test is skipped if its package is missing."""
    found = next(one for one in exhibits(None, None) if name in one.name)
    try:
        found.network()
    except (MissingWeights, packages.MissingPackage) as missing:
        pytest.skip(str(missing))
    return found


# -- front ends ----------------------------------------------------------------------------------


def test_mel_spectra_are_librosa_s():
    """Numbers from librosa 0.11's ``melspectrogram(n_fft=400, hop_length=160, n_mels=40)``."""
    audio = np.random.default_rng(0).normal(size=20000).astype(np.float32) * np.float32(0.1)
    spectra = mel.spectrogram(audio)
    assert spectra.shape == (126, 40)
    expected = [0.01854457, 0.01364002, 0.01363796, 0.02420872]
    np.testing.assert_allclose(spectra[[0, 3, 50, 125], [0, 5, 30, 39]], expected, rtol=1e-5)
    np.testing.assert_allclose(spectra.sum(), 186.26068, rtol=1e-5)


def test_mel_windows():
    frames = np.arange(500.0)[:, None] * np.ones(40)
    windows = mel.windows(frames)
    assert windows.shape == (160, 5, 40)
    np.testing.assert_array_equal(windows[0, :, 0], [0, 80, 160, 240, 320])
    short = mel.windows(frames[:30])
    assert short.shape == (160, 1, 40) and not short[30:].any()


def test_quiet_clips_are_raised():
    raised = mel.normalized(np.full(1000, 0.001))
    np.testing.assert_allclose(20 * np.log10(raised), -30)
    loud = np.full(1000, 0.5)
    np.testing.assert_array_equal(mel.normalized(loud), loud)


@pytest.mark.parametrize("hertz, gain", [(100, 1), (1000, 1), (3000, 1), (5000, 0), (7000, 0)])
def test_halved_audio_has_no_aliases(hertz, gain):
    time = np.arange(16000) / 16000
    half = vad.halved(np.sin(2 * np.pi * hertz * time))
    middle = slice(1000, -1000)
    assert half.shape == (8000,)
    np.testing.assert_allclose(half[middle], gain * np.sin(2 * np.pi * hertz * time[::2])[middle], atol=0.01)


def test_pictures_are_the_same_every_time():
    text, image = picture(3)
    again, same = picture(3)
    assert text == again and 4 <= len(text) <= 6
    np.testing.assert_array_equal(np.asarray(image), np.asarray(same))
    assert picture(4)[0] != text
    columns = ocr.prepared(image)
    assert columns.shape == (1, 1, 64, image.width * 64 // 60) and columns.dtype == np.float32
    assert 0 <= columns.min() < 0.4 and 0.8 < columns.max() <= 1


@pytest.mark.parametrize("classes, expected", [
    ([0, 0], ""), ([1, 1, 0, 1, 2], "aab"), ([2, 0, 2], "bb"), ([3, 3, 2, 2, 0], "cb")])
def test_text_joins_classes(classes, expected):
    assert ocr.text(np.eye(4)[classes], ["", "a", "b", "c"]) == expected


# -- packages ------------------------------------------------------------------------------------


def test_a_file_out_of_an_archive(tmp_path):
    archive = tmp_path / "package.tgz"
    with tarfile.open(archive, "w:gz") as packed:
        member = tarfile.TarInfo("package/dist/net.onnx")
        member.size = 3
        packed.addfile(member, io.BytesIO(b"net"))
    assert packages.archive_member(archive, "dist/net.onnx", tmp_path).read_bytes() == b"net"
    with pytest.raises(packages.MissingPackage, match="no dist/other.onnx in it"):
        packages.archive_member(archive, "dist/other.onnx", tmp_path)
    (tmp_path / "damaged.tgz").write_bytes(b"no archive")
    with pytest.raises(packages.MissingPackage, match=r"damaged\.tgz"):
        packages.archive_member(tmp_path / "damaged.tgz", "dist/other.onnx", tmp_path)


def test_without_npm_its_package_is_skipped(tmp_path):
    result = CliRunner().invoke(main, ["--only", "vad-web", "--output", str(tmp_path / "zoo.json")])
    assert result.exit_code == 0
    assert result.stderr.count("skipped: npm is not installed") == 2
    assert not (tmp_path / "zoo.json").exists()


# -- networks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["silero_vad.onnx", "silero_vad_16k_op15.onnx", "silero_vad_half.onnx",
                                  "silero_vad_openvino_16k.onnx", "silero_vad_16k_sequence.onnx"])
def test_every_file_of_silero_vad_is_whole(file):
    try:
        host = open_host(package_file(file))
    except MissingWeights as missing:
        pytest.skip(str(missing))
    rng = np.random.default_rng(SEED)
    engine = Engine(host.parts, float_runners(host.parts))
    for rate, samples in [(16000, 576), *([(8000, 288)] if file == "silero_vad.onnx" else [])]:
        given = {"input": (1, samples), "state": (2, 1, 128), "h": (1, 1, 128), "c": (1, 1, 128), "sr": ()}
        inputs = {port.name: np.float32(0.3) * rng.normal(size=given[port.name]).astype(np.float32)
                  for port in host.inputs}
        if "sr" in inputs:
            inputs["sr"] = np.array(rate)
        found, wanted = host.run(inputs, engine), host.original(inputs)
        assert found.keys() == wanted.keys() and len(found) > 1
        for name in wanted:
            np.testing.assert_allclose(found[name], wanted[name], atol=1e-4, err_msg=f"{name}, seed {SEED}")


def test_the_decoder_of_silero_vad_is_on_a_machine_with_dense_layers():
    """Relu, a Conv whose kernel has one element, and Sigmoid behind the LSTM, with a Transpose between them."""
    try:
        path = package_file("silero_vad_16k_sequence.onnx")
    except MissingWeights as missing:
        pytest.skip(str(missing))
    host = open_host(path, machine=openese.preset("demo").replace(cells="lstm+dense"))
    part, = host.parts.values()
    assert [(layer.outputs, layer.activation) for layer in part.model.layers] == [
        (128, "none"), (128, "relu"), (1, "sigmoid")]
    rng = np.random.default_rng(SEED)
    inputs = {"input": rng.normal(size=(9, 576), scale=0.3), "h": np.zeros((1, 1, 128)), "c": np.zeros((1, 1, 128))}
    found, wanted = host.run(inputs, Engine(host.parts, float_runners(host.parts))), host.original(inputs)
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], atol=1e-4, err_msg=f"{name}, seed {SEED}")


def test_a_network_that_spells_its_lstm_out_is_refused():
    try:
        path = package_file("silero_vad_op18_ifless.onnx")
    except MissingWeights as missing:
        pytest.skip(str(missing))
    with pytest.raises(ValueError, match="no LSTM or GRU that the machine can compute"):
        openese.offload(path, "demo", calibrate={})


@pytest.mark.parametrize("name", ["silero_vad.onnx", "with its decoder", "safetensors", "resemblyzer", "g2p-en"])
def test_networks_in_floating_point_are_the_original(name):
    one = exhibit(name)
    examples = one.examples()[2]
    with openese.offload(one.network(), one.machine, backend="float",
                         calibrate=lambda network: one.run(network, examples)) as network:
        found = one.run(network, examples)
    wanted = one.run(one.original(), examples)
    assert one.kept(found, wanted) == (len(wanted.answers),) * 2
    for output, arrays in wanted.outputs.items():
        for ours, theirs in zip(found.outputs[output], arrays, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-4)


@dataclass(frozen=True)
class Short(vad.Sequence):
    """One short recording for everything."""

    def examples(self):
        shortest = super().examples()[2]
        return shortest, shortest, shortest


def test_figures_of_a_network(tmp_path):
    whole = exhibit("sequence.onnx")
    short = Short(whole.package, whole.file, whole.machine)
    stages = []
    found = Measurement(short, stages.append).figures(simulate=False)
    assert found["layers"] == [(128, 128)] and found["machine"] == "demo" and found["float_difference"] < 1e-4
    dense, *sparse = found["rows"]
    assert dense["density"] == 1 and dense["kept"] == dense["total"] == len(short.examples()[0][0][0]) // 512 + 1
    assert 1e-5 < dense["errors"]["speech_probs"] < 0.01 and dense["verilog"] is None
    assert min(found["one_shot"], default=1) <= sparse[0]["density"] < 1 and sparse[0]["bytes"] < dense["bytes"]
    assert sparse[0]["kept"] >= 0.99 * sparse[0]["total"]
    assert any("number formats" in stage for stage in stages)
    lines = zoo.results({short.name: json.loads(json.dumps(found))}).splitlines()
    assert len(lines) == 4 and "128 -> 128" in lines[2] and "100 %" in lines[2]


def test_a_task_that_is_lost_is_not_shown():
    whole = exhibit("sequence.onnx")
    strict = replace(Short(whole.package, whole.file, whole.machine), least=1.01)
    assert [row["density"] for row in Measurement(strict, str).figures(simulate=False)["rows"]] == [1.0]
