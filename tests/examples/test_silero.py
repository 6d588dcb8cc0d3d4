# SPDX-License-Identifier: Apache-2.0
"""The example Silero VAD: network, recordings, search for a density, figures, and the whole program.

Tests are skipped if they need ``silero-vad``, onnxruntime or matplotlib and it is not installed.
"""

import dataclasses
import hashlib
import json
import re
import shutil
import wave
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

from examples.silero_vad import clips, density, figures, network
from examples.silero_vad.task import Task
from openese.rtl.config import PRESETS
from openese.rtl.registers import COUNTERS
from openese.sw.pack.image import pack
from openese.sw.pack.schedule import schedule as place
from openese.sw.reference import floating
from openese.sw.reference.machine import Reference

GOLDEN = Path(__file__).parent / "data" / "silero_vad.npz"
SEED = 20170222


@pytest.fixture(scope="module")
def silero():
    try:
        return network.Silero.load()
    except network.MissingWeights as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def oracle(silero):
    pytest.importorskip("onnx", reason="needs the extra `onnx`")
    pytest.importorskip("onnxruntime", reason="needs the extra `dev`")
    import silero_oracle
    return silero_oracle


def probability(silero, audio):
    """Return the probabilities of speech (T,) by the whole network in floating point."""
    y, _ = floating.run(silero.lstm, silero.features(audio)[:, None])
    return silero.probability(y[:, 0])


def write_wav(path, channels=1, width=2, rate=16000, samples=4):
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, width, rate, 0, "NONE", ""))
        file.writeframes(bytes(channels * width * samples))
    return path


# -- front end -----------------------------------------------------------------------------------


@pytest.mark.parametrize("samples, count", [(1, 1), (511, 1), (512, 1), (513, 2), (1536, 3)])
def test_windows_carry_context_and_end_in_zeros(samples, count):
    audio = np.arange(1, samples + 1, dtype=np.float32)
    windows = network.windows(audio)
    assert windows.shape == (count, 576)
    assert not windows[0, :64].any()
    np.testing.assert_array_equal(windows[1:, :64], windows[:-1, -64:])
    np.testing.assert_array_equal(windows[:, 64:].ravel()[:samples], audio)
    assert not windows[:, 64:].ravel()[samples:].any()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("n", [1, 2, 4, 5])
def test_convolve_is_the_sum_it_says(n, stride):
    rng = np.random.default_rng(SEED)
    x, weight, bias = rng.normal(size=(3, 5, n)), rng.normal(size=(7, 5, 3)), rng.normal(size=7)
    y = network.convolve(x, weight, bias, stride)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1)))
    assert y.shape == (3, 7, (n - 1) // stride + 1)
    for t, filter_, k in np.ndindex(y.shape):
        expected = (padded[t, :, k * stride:k * stride + 3] * weight[filter_]).sum() + bias[filter_]
        assert y[t, filter_, k] == pytest.approx(expected)


def test_weights_of_another_shape_are_named(silero):
    with pytest.raises(network.MissingWeights, match=r"conv2.bias: expected \(64,\), found \(3,\)"):
        network.Silero({**silero.tensors, "conv2.bias": np.zeros(3)}, silero.lstm)
    with pytest.raises(network.MissingWeights, match=r"stft_conv.weight: .* found no such tensor"):
        network.Silero({}, silero.lstm)


def test_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(network, "PACKAGE", "no-such-package")
    with pytest.raises(network.MissingWeights, match="pip install --no-deps no-such-package"):
        network.package_file("x")


def test_missing_file_is_named(silero):
    with pytest.raises(network.MissingWeights, match="has no x.safetensors"):
        network.package_file("x.safetensors")


# -- the whole network ---------------------------------------------------------------------------


def test_golden_probabilities(silero):
    from_onnxruntime = np.load(GOLDEN)
    recordings = clips.load_all()
    assert sorted(from_onnxruntime) == [clip.name for clip in recordings]
    for clip in recordings:
        np.testing.assert_allclose(probability(silero, clip.audio), from_onnxruntime[clip.name], atol=2e-6)


def test_golden_probabilities_come_from_onnxruntime(silero, oracle):
    golden = np.load(GOLDEN)
    for name, expected in oracle.golden().items():
        np.testing.assert_allclose(golden[name], expected, atol=1e-6, err_msg=name)


def test_untouched_graph_gives_the_same_as_its_weights_in_our_network(oracle, tmp_path):
    graph = oracle.graph()
    save_file(oracle.tensors_of(graph), tmp_path / "graph.safetensors")
    ours = network.Silero.load(tmp_path / "graph.safetensors")
    for clip in clips.load_all():
        np.testing.assert_allclose(probability(ours, clip.audio), oracle.probabilities(graph, clip.audio),
                                   atol=5e-6, err_msg=clip.name)


# -- recordings ----------------------------------------------------------------------------------


def test_recordings_are_the_ones_in_their_readme():
    rows = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|.*`([0-9a-f]{64})` \|$",
                      (clips.CLIPS / "README.md").read_text(), re.MULTILINE)
    assert [name for name, _, _ in rows] == [clip.name for clip in clips.load_all()]
    for name, source, digest in rows:
        data = (clips.CLIPS / f"{name}.wav").read_bytes()
        if source.endswith(".raw"):
            data = data[44:]  # the header that was put before the samples
        assert hashlib.sha256(data).hexdigest() == digest, name


@pytest.mark.parametrize("wrong, kind", [
    ({"channels": 2}, "2 of 16 bits at 16000 Hz"),
    ({"width": 1}, "1 of 8 bits at 16000 Hz"),
    ({"rate": 8000}, "1 of 16 bits at 8000 Hz"),
])
def test_unfit_recordings_are_refused(tmp_path, wrong, kind):
    with pytest.raises(clips.BadClip, match=f"a.wav: expected 1 channel .* found {kind}"):
        clips.load(write_wav(tmp_path / "a.wav", **wrong))


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text.wav").write_text("not RIFF")
    with pytest.raises(clips.BadClip, match="text.wav: not a WAV file"):
        clips.load(tmp_path / "text.wav")
    with pytest.raises(clips.BadClip, match="silent.wav: the recording holds no samples"):
        clips.load(write_wav(tmp_path / "silent.wav", samples=0))
    with pytest.raises(clips.BadClip, match="at least 2 WAV files, found 0"):
        clips.load_all(tmp_path / "nowhere")


# -- channels ------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 3, 8, 32])
def test_every_clip_has_a_channel_of_its_own(channels):
    rng = np.random.default_rng(SEED)
    vectors = [rng.normal(size=(length, 3)) for length in rng.integers(1, 40, size=13)]
    turns = clips.schedule([len(vector) for vector in vectors], channels)
    frames, active, reset = clips.lay_out(vectors, turns, channels)
    assert frames.shape[:2] == active.shape == reset.shape
    assert active.sum() == sum(len(vector) for vector in vectors)
    assert reset.sum() == len(vectors) and not (reset & ~active).any()
    assert not frames[~active].any()
    for vector, picked in zip(vectors, clips.pick_up(frames, turns), strict=True):
        np.testing.assert_array_equal(picked, vector)


def test_schedule_keeps_the_channels_busy():
    assert [turn.stop - turn.start for turn in clips.schedule([3, 5, 2], 2)] == [3, 5, 2]
    assert max(turn.stop for turn in clips.schedule([3, 5, 2], 2)) == 5


# -- the search for a density --------------------------------------------------------------------


@pytest.mark.parametrize("fails, answer", [
    (lambda percent: percent < 59, 59),
    (lambda percent: percent <= 60, 61),
    (lambda percent: percent < 59 or percent == 80, 81),  # 59 passes again, below the first that fails
    (lambda percent: False, 1),
    (lambda percent: percent < 100, 100),
])
def test_search_stops_at_the_first_density_that_fails(monkeypatch, fails, answer):
    tried = []

    def trial(task, share, config):
        tried.append(share)
        return SimpleNamespace(density=share, kept=0.98 if fails(round(100 * share)) else 0.99)

    monkeypatch.setattr(density, "trial", trial)
    passed = density.lowest(None, None)
    assert passed[-1].density == answer / 100
    assert [made.density for made in passed] == [share for share in tried if not fails(round(100 * share))]


def test_search_says_when_nothing_passes(monkeypatch):
    monkeypatch.setattr(density, "trial", lambda *_: SimpleNamespace(density=1.0, kept=0.5))
    with pytest.raises(ValueError, match="the dense model keeps less than 99.0% of the decisions; lower --keep"):
        density.lowest(None, None)


# -- figures -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def job(silero):
    """A job on two short clips, with the reference in place of the machine."""
    task = Task(silero, [clips.load(clips.CLIPS / f"cards-00{k}.wav") for k in (1, 4)])
    chosen = density.trial(task, 0.59, PRESETS["demo"])
    plan = place(chosen.model, PRESETS["demo"])
    turns = clips.schedule([len(vectors) for vectors in task.features], 8)
    frames, active, reset = clips.lay_out(task.features, turns, 8)
    words = Reference(chosen.model, 8).run(chosen.model.quantize_input(frames)[0], active, reset)
    counters = {**dict.fromkeys(COUNTERS, 0), "cycles": 1000, "steps": len(frames), "busy": 4000}
    return figures.Job(task, chosen, plan, pack(plan), turns, words, words, 0, 0, counters, 1e5)


def test_figures_of_a_right_machine(job):
    gathered = figures.gather(job)
    assert gathered.right and not gathered.wrong_words and gathered.words == job.words.size
    assert gathered.busy == 0.5 and gathered.cycles_per_step == 1000 / gathered.steps
    assert gathered.kept == 1 - gathered.from_dense.changed / gathered.windows == job.chosen.kept
    assert gathered.from_pruned.largest < 0.02 and gathered.from_pruned.rms < 1e-3 < gathered.from_dense.rms
    for matrix in gathered.matrices:
        least, most = matrix.entries
        assert 0 < least <= most <= least + matrix.padding + 8  # rounding may make a kept weight zero
        assert matrix.density == pytest.approx(0.59, abs=1e-3)
    assert json.loads(json.dumps(gathered.to_dict()))["right"] is True


@pytest.mark.parametrize("wrong", ["word", "saturations"])
def test_figures_of_a_wrong_machine(job, wrong):
    if wrong == "word":
        words = job.words.copy()
        words[5, 0, 7] ^= 1
        gathered = figures.gather(dataclasses.replace(job, words=words))
        assert gathered.wrong_words == 1
    else:
        gathered = figures.gather(dataclasses.replace(job, counters={**job.counters, "saturated": 1}))
    assert not gathered.right and gathered.to_dict()["right"] is False


def test_picture_is_drawn(job, tmp_path):
    pytest.importorskip("matplotlib", reason="pictures need the extra `demo`")
    from examples.silero_vad import machine, picture
    trace = machine.Trace(np.arange(0, 550, 50), np.linspace(0, 1, 10), np.array([200]))
    picture.draw(job, trace, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


# -- the program ---------------------------------------------------------------------------------


def test_missing_clips_are_one_line(silero, tmp_path):
    pytest.importorskip("matplotlib", reason="pictures need the extra `demo`")
    from examples.silero_vad.__main__ import main
    done = CliRunner().invoke(main, ["--clips", str(tmp_path)])
    assert done.exit_code == 2
    assert done.output.splitlines()[-1] == f"silero_vad: {tmp_path}: expected at least 2 WAV files, found 0"


@pytest.mark.sim
def test_the_program_on_two_clips(silero, tmp_path):
    pytest.importorskip("matplotlib", reason="pictures need the extra `demo`")
    from examples.silero_vad.__main__ import main
    for k in (1, 4):
        shutil.copy(clips.CLIPS / f"cards-00{k}.wav", tmp_path)
    done = CliRunner().invoke(main, ["--clips", str(tmp_path), "-o", str(tmp_path), "--keep", "0.9"])
    assert done.exit_code == 0, done.output
    figures = json.loads((tmp_path / "silero_vad.json").read_text())
    assert figures["right"] and figures["steps"] == 49 and figures["words"] == 49 * 8 * 128
    assert 0.9 < figures["busy"] <= 1 and figures["kept"] >= 0.9
