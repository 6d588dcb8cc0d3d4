# SPDX-License-Identifier: Apache-2.0
"""The front end, the decoder and the recordings of the main job.

What needs the weights is skipped where ``silero-vad`` is not installed, and what needs onnxruntime
where that is missing; the nox session ``oracles`` has both.
"""

import hashlib
import re
import wave
from pathlib import Path

import numpy as np
import pytest

from examples.silero_vad import clips, network
from sw import float_reference

GOLDEN = Path(__file__).parent / "data" / "silero_vad.npz"
SEED = 20170222


@pytest.fixture(scope="module")
def silero():
    pytest.importorskip("safetensors")
    try:
        return network.Silero.load()
    except network.MissingWeights as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def oracle(silero):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    import silero_oracle
    return silero_oracle


def probability(silero, audio):
    """The whole network in float: (T,) probabilities of speech."""
    y, _ = float_reference.run(silero.lstm(), silero.features(audio)[:, None])
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
    found = network.windows(audio)
    assert found.shape == (count, 576)
    assert not found[0, :64].any()
    np.testing.assert_array_equal(found[1:, :64], found[:-1, -64:])
    np.testing.assert_array_equal(found[:, 64:].ravel()[:samples], audio)
    assert not found[:, 64:].ravel()[samples:].any()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("n", [1, 2, 4, 5])
def test_convolve_is_the_sum_it_says(n, stride):
    rng = np.random.default_rng(SEED)
    x, weight, bias = rng.normal(size=(3, 5, n)), rng.normal(size=(7, 5, 3)), rng.normal(size=7)
    found = network.convolve(x, weight, bias, stride)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1)))
    assert found.shape == (3, 7, (n - 1) // stride + 1)
    for t, filter_, k in np.ndindex(found.shape):
        expected = (padded[t, :, k * stride:k * stride + 3] * weight[filter_]).sum() + bias[filter_]
        assert found[t, filter_, k] == pytest.approx(expected)


def test_weights_of_another_shape_are_named(silero):
    with pytest.raises(network.MissingWeights, match=r"conv2.bias: expected \(64,\), found \(3,\)"):
        network.Silero({**silero.tensors, "conv2.bias": np.zeros(3)})
    with pytest.raises(network.MissingWeights, match=r"stft_conv.weight: .* found no such tensor"):
        network.Silero({})


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


def test_untouched_graph_gives_the_same_as_its_weights_in_our_network(oracle):
    graph = oracle.graph()
    ours = network.Silero(oracle.tensors_of(graph))
    for clip in clips.load_all():
        np.testing.assert_allclose(probability(ours, clip.audio), oracle.probabilities(graph, clip.audio),
                                   atol=5e-6, err_msg=clip.name)


# -- recordings ----------------------------------------------------------------------------------


def test_recordings_are_those_that_their_readme_names():
    rows = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|.*`([0-9a-f]{64})` \|$",
                      (clips.CLIPS / "README.md").read_text(), re.MULTILINE)
    assert [name for name, _, _ in rows] == [clip.name for clip in clips.load_all()]
    for name, source, digest in rows:
        data = (clips.CLIPS / f"{name}.wav").read_bytes()
        if source.endswith(".raw"):
            data = data[44:]  # the header that was put before the samples
        assert hashlib.sha256(data).hexdigest() == digest, name


@pytest.mark.parametrize("wrong, found", [
    ({"channels": 2}, "2 of 16 bits at 16000 Hz"),
    ({"width": 1}, "1 of 8 bits at 16000 Hz"),
    ({"rate": 8000}, "1 of 16 bits at 8000 Hz"),
])
def test_unfit_recordings_are_refused(tmp_path, wrong, found):
    with pytest.raises(clips.BadClip, match=f"a.wav: expected 1 channel .* found {found}"):
        clips.load(write_wav(tmp_path / "a.wav", **wrong))


def test_what_is_no_recording_is_refused(tmp_path):
    (tmp_path / "text.wav").write_text("not RIFF")
    with pytest.raises(clips.BadClip, match="text.wav: not a WAV file"):
        clips.load(tmp_path / "text.wav")
    with pytest.raises(clips.BadClip, match="silent.wav: holds no samples"):
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
    for vector, found in zip(vectors, clips.pick_up(frames, turns), strict=True):
        np.testing.assert_array_equal(found, vector)


def test_schedule_keeps_the_channels_busy():
    assert [turn.stop - turn.start for turn in clips.schedule([3, 5, 2], 2)] == [3, 5, 2]
    assert max(turn.stop for turn in clips.schedule([3, 5, 2], 2)) == 5
