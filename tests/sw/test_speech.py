# SPDX-License-Identifier: Apache-2.0
"""The bundled recognizer: features, phones, recordings, the image, and `openese transcribe`."""

import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from openese.rtl.config import preset
from openese.sw.cli import main
from openese.sw.files import verify_image
from openese.sw.model.layers import Dense, Layer, Model
from openese.sw.reference.machine import Reference
from openese.sw.speech import features as hearing
from openese.sw.speech import recognizer
from openese.sw.speech.phones import PHONES, SILENCE, collapse, decode
from openese.sw.speech.recognizer import DELAY, Recognizer

CLIPS = Path(__file__).parents[2] / "examples" / "silero_vad" / "clips"
CLIP = CLIPS / "austen-0880.wav"
# "He was not an ill-disposed young man": the CMU dictionary's phones.
SAID = "HH IY W AA Z N AA T AE N IH L D IH S P OW Z D Y AH NG M AE N".split()
# 8 PEs with room for the recognizer, for one voice: simulates in seconds.
SINGLE = {"pes": 8, "channels": 1, "slices": 8, "slice_width": 1, "entry_depth": 65536, "cell_rows": 128,
          "accumulator_rows": 2048}


@pytest.fixture(scope="module")
def shipped():
    return Recognizer.load()


def tone(frequency, seconds=0.5, amplitude=0.1):
    return amplitude * np.sin(2 * np.pi * frequency * np.arange(int(seconds * hearing.RATE)) / hearing.RATE)


def noise(samples=8000, seed=1):
    return np.random.default_rng(seed).normal(scale=0.1, size=samples)


# -- features ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [1, 399, 400, 559, 560, 561, 8000])
def test_a_window_every_ten_milliseconds(samples):
    features = hearing.features(noise(samples))
    windows = 1 + max(0, samples - 400) // 160
    assert features.shape == (hearing.count_windows(samples), hearing.FEATURES) == (windows, 153)
    assert np.isfinite(features).all()


def test_loudness_does_not_matter():
    quiet, loud = (hearing.features(scale * noise()) for scale in (0.1, 1))
    np.testing.assert_allclose(quiet, loud, atol=1e-3)


def test_differences_are_slopes():
    ramp = np.arange(10, dtype=np.float32)[:, None] * np.ones(hearing.STATIC, np.float32)
    features = hearing.with_differences(ramp).reshape(10, 3, hearing.STATIC)
    scales = features[4, 1, 0], features[5, 0, 0] / 5
    assert np.allclose(features[2:-2, 1], scales[0]) and scales[0] > 0
    assert np.allclose(features[:, 0], scales[1] * ramp)
    assert np.allclose(features[4:-4, 2], 0, atol=1e-6)


def test_bands_are_ordered_by_frequency():
    loudest = [int(np.argmax(np.log(hearing.spectrogram(tone(f)) @ hearing._filters() + 1e-9).mean(axis=0)))
               for f in (150, 300, 600, 1200, 2400, 4800, 7000)]
    assert loudest == sorted(set(loudest)) and loudest[0] < 5 and loudest[-1] > 44


@pytest.mark.parametrize("audio", [np.zeros(0), np.zeros((2, 400))])
def test_audio_must_be_one_channel(audio):
    with pytest.raises(ValueError, match="expected one channel with samples"):
        hearing.features(audio)


# -- phones ------------------------------------------------------------------------------------------------


def best_path(logits, penalty):
    """`decode` by trying every path."""
    def value(path):
        changes = sum(a != b for a, b in zip(path, path[1:], strict=False))
        return sum(row[phone] for row, phone in zip(logits, path, strict=True)) - penalty * changes

    return max(product(range(logits.shape[1]), repeat=len(logits)), key=value)


@pytest.mark.parametrize("penalty", [0.0, 0.7, 2.0, 100.0])
@pytest.mark.parametrize("seed", range(5))
def test_decoding_finds_the_best_path(penalty, seed):
    logits = np.random.default_rng(seed).normal(size=(6, 4))
    assert tuple(decode(logits, penalty)) == best_path(logits, penalty)


def test_decoding_with_several_penalties_is_that_with_each():
    logits, penalties = np.random.default_rng(5).normal(size=(40, 6)), np.array([[0.0, 0.5, 2], [1, 3, 9]])
    paths = decode(logits, penalties)
    assert paths.shape == (2, 3, 40)
    for index, penalty in np.ndenumerate(penalties):
        assert paths[index].tolist() == decode(logits, float(penalty)).tolist()


def test_phones_are_runs_without_silence():
    names = "SIL SIL AH AH T SIL T T SIL".split()
    assert [PHONES[phone] for phone in collapse(np.array([PHONES.index(name) for name in names]))] == ["AH", "T", "T"]
    assert len(PHONES) == len(set(PHONES)) == 40 and PHONES[0] == SILENCE


# -- recordings --------------------------------------------------------------------------------------------


def write(path, samples, rate, **options):
    soundfile = pytest.importorskip("soundfile", reason="recordings need the extra `speech`")
    soundfile.write(path, samples, rate, **options)
    return path


def test_recordings_become_one_channel_at_16_khz(tmp_path):
    from openese.sw.speech import audio

    left = np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)
    samples = audio.read(write(tmp_path / "a.wav", np.stack([left, 0 * left], axis=1), 8000))
    right = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    assert samples.dtype == np.float32 and samples.shape == (16000,)
    np.testing.assert_allclose(samples[1000:-1000], right[1000:-1000], atol=2e-3)


@pytest.mark.parametrize("name", ["a.flac", "a.ogg"])
def test_other_kinds_of_files(name, tmp_path):
    from openese.sw.speech import audio

    samples = audio.read(write(tmp_path / name, tone(440), 16000))
    assert samples.shape == (8000,) and np.corrcoef(samples, tone(440))[0, 1] > 0.99


def damaged(path, kind):
    """A file that cannot be recognized."""
    if kind == "empty":
        return write(path, np.zeros(0), 16000)
    if kind == "no number":
        return write(path, np.array([0, np.nan, 0]), 16000, subtype="FLOAT")
    if kind == "too long":
        return write(path, np.zeros(601 * 100), 100)
    path.write_bytes(b"no sound at all")
    return path


@pytest.mark.parametrize(("kind", "message"), [
    ("empty", "holds no samples"), ("no number", "sample 1 is not a finite number"),
    ("too long", "601 s long; cut it to at most 600 s"), ("text", "Format not recognised")])
def test_unfit_recordings_are_refused_by_name(kind, message, tmp_path, capsys):
    pytest.importorskip("soundfile", reason="recordings need the extra `speech`")
    path = damaged(tmp_path / "bad.wav", kind)
    assert main(["transcribe", str(CLIP), str(path)]) == 2
    error = capsys.readouterr().err
    assert "bad.wav" in error and message in error and error.count("\n") == 1


def test_a_missing_recording_is_named(tmp_path, capsys):
    pytest.importorskip("soundfile", reason="recordings need the extra `speech`")
    assert main(["transcribe", str(tmp_path / "nowhere.wav")]) == 2
    assert "nowhere.wav" in capsys.readouterr().err


# -- the image ---------------------------------------------------------------------------------------------


def test_the_image_is_whole_and_what_its_record_says(shipped):
    verify_image(shipped.image)
    layer, said = shipped.image.model().layers[0], shipped.record["model"]
    assert (layer.inputs, layer.cells, layer.outputs) == (153, 1024, 512) == (
        said["inputs"], said["cells"], said["outputs"])
    assert layer.peephole is not None and shipped.head.weight.shape == (40, 512)
    nonzeros = sum(np.count_nonzero(matrix) for matrix in (layer.w_x, layer.w_r, layer.w_ym))
    weights = layer.w_x.size + layer.w_r.size + layer.w_ym.size
    assert nonzeros == said["nonzeros"] and nonzeros <= 0.1 * weights
    assert shipped.image.bytes == said["image_bytes"] < 1_000_000
    assert shipped.image.config.fingerprint == preset("ese").fingerprint


def test_the_machine_is_as_fast_as_the_bench_says(shipped):
    assert 10_000 < shipped.cycles_per_step() < 10_400


def test_what_was_saved_is_loaded(shipped, tmp_path):
    shipped.save(tmp_path)
    again = Recognizer.load(tmp_path)
    assert np.array_equal(again.image.words(), shipped.image.words()) and again.record == shipped.record
    assert np.array_equal(again.head.weight, shipped.head.weight) and again.penalty == shipped.penalty


def edits(found, wanted):
    """Levenshtein's distance."""
    row = list(range(len(wanted) + 1))
    for number, phone in enumerate(found, 1):
        before, row = row, [number]
        for place, other in enumerate(wanted, 1):
            row.append(min(before[place] + 1, row[-1] + 1, before[place - 1] + (phone != other)))
    return row[-1]


def clip(path=CLIP):
    import wave

    with wave.open(str(path)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768


def test_a_recording_is_recognized(shipped):
    audio = clip()
    machine, = shipped.run([audio], Reference(shipped.image.model(), 1))
    exact, = shipped.run_float([audio])
    assert machine.logits.shape == (hearing.count_windows(len(audio)), 40)
    np.testing.assert_allclose(machine.posteriors.sum(axis=1), 1)
    assert edits(machine.text.split(), SAID) <= 0.7 * len(SAID)
    assert np.sqrt(np.mean((machine.logits - exact.logits) ** 2)) < 0.01 * np.sqrt(np.mean(exact.logits**2))
    assert machine.phones[0].start == 0 and machine.phones[-1].stop == pytest.approx(len(machine.logits) / 100)
    assert all(a.stop == b.start for a, b in zip(machine.phones, machine.phones[1:], strict=False))


def test_voices_do_not_disturb_each_other(shipped):
    recordings = [clip()[:8000], noise(3000), clip(CLIPS / "cards-001.wav")[:6000]]
    model = shipped.image.model()
    steps = []
    together = shipped.run(recordings, Reference(model, 2), steps.append)
    alone = [shipped.run([recording], Reference(model, 1))[0] for recording in recordings]
    for one, other in zip(together, alone, strict=True):
        # The machine's words are the same; the head's sums, in floating point, depend on how many are made at once.
        np.testing.assert_allclose(one.logits, other.logits, rtol=0, atol=1e-10)
    assert sum(steps) == shipped.machine_steps(recordings, 2) == 2 * DELAY + 48 + 36


def test_a_machine_with_dense_layers_gives_the_logits(shipped):
    """The head is the last layer of its image, and takes little time."""
    audio = clip()
    whole = shipped.on(preset("ese_whole"))
    assert whole.whole and not shipped.whole and whole.floating_point.head is None
    machine, = whole.run([audio], Reference(whole.image.model(), 1))
    beside, = shipped.run([audio], Reference(shipped.image.model(), 1))
    assert machine.text == beside.text
    size = np.sqrt(np.mean(beside.logits**2))
    assert np.sqrt(np.mean((machine.logits - beside.logits) ** 2)) < 0.005 * size
    exact, = whole.run_float([audio])
    assert np.sqrt(np.mean((machine.logits - exact.logits) ** 2)) < 0.01 * size
    assert whole.on(whole.image.config).whole
    assert whole.cycles_per_step() < 1.15 * shipped.cycles_per_step()


def test_weights_in_floating_point_are_those_of_the_image(shipped):
    quantized = shipped.image.model()
    layer, real = quantized.layers[0], shipped.floating_point.layers[0]
    for gate in range(4):
        assert np.array_equal(real.w_r[gate] * 2.0 ** layer.w_r_fraction[gate], layer.w_r[gate])
        assert np.array_equal(real.bias[gate] * 2.0 ** quantized.formats[0].argument_fraction[gate], layer.bias[gate])
    assert np.array_equal(real.peephole * 2.0 ** quantized.formats[0].peephole_fraction, layer.peephole)
    assert np.array_equal(real.w_ym * 2.0 ** layer.w_ym_fraction, layer.w_ym)


# -- the command -------------------------------------------------------------------------------------------


def test_transcribe_prints_and_draws(shipped, tmp_path, capsys):
    pytest.importorskip("soundfile", reason="recordings need the extra `speech`")
    pytest.importorskip("matplotlib", reason="pictures need the extra `speech`")
    assert main(["transcribe", str(CLIP), "-o", str(tmp_path / "clip.png")]) == 0
    printed = capsys.readouterr().out
    machine, = shipped.run([clip()], Reference(shipped.image.model(), 1))
    dense, = shipped.run_float([clip()], Recognizer.dense(), shipped.dense_penalty)
    rows = dict(line.split("  ", 1) for line in printed.splitlines() if "  " in line)
    found = {name: rows[name].strip() for name in ("machine", "the same weights in float", "dense, in float")}
    assert found["machine"] == machine.text and found["dense, in float"] == dense.text
    assert "real-time factor 0.0" in printed
    assert (tmp_path / "clip.png").read_bytes().startswith(b"\x89PNG")


def test_the_dense_network_is_decoded_with_its_own_penalty(shipped, capsys):
    pytest.importorskip("soundfile", reason="recordings need the extra `speech`")
    path = CLIPS / "cards-002.wav"
    assert main(["transcribe", str(path)]) == 0
    rows = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines() if "  " in line)
    own, other = (shipped.run_float([clip(path)], Recognizer.dense(), penalty)[0].text
                  for penalty in (shipped.dense_penalty, None))
    assert rows["dense, in float"].strip() == own != other


def test_without_the_dense_network_it_says_how_to_get_the_comparison(shipped, monkeypatch, tmp_path, capsys):
    """As in an installed package; the file, fetched from the repository, gives the same row."""
    pytest.importorskip("soundfile", reason="recordings need the extra `speech`")
    path = CLIPS / "cards-002.wav"
    monkeypatch.setattr(recognizer, "DENSE", tmp_path / "dense.npz")
    assert main(["transcribe", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "dense, in float" not in printed
    assert "sw/speech/dense.npz from the project's repository and give --beside dense.npz" in printed
    assert main(["transcribe", str(path), "--beside", str(Path(recognizer.__file__).parent / "dense.npz")]) == 0
    rows = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines() if "  " in line)
    wanted, = shipped.run_float([clip(path)], Recognizer.dense(), shipped.dense_penalty)
    assert rows["dense"].strip() == wanted.text


def test_spoken_words_are_shown_beside_what_is_recognized(tmp_path, capsys):
    pytest.importorskip("soundfile", reason="recordings need the extra `speech`")
    for name, text in (("said", "ten of clubs\nand more\n"), ("unknown", None)):
        write(tmp_path / f"{name}.wav", clip(CLIPS / "cards-001.wav"), 16000)
        if text:
            (tmp_path / f"{name}.txt").write_text(text)
    assert main(["transcribe", str(tmp_path / "said.wav"), str(tmp_path / "unknown.wav")]) == 0
    said, unknown = capsys.readouterr().out.split("unknown.wav")
    assert re.search(r"(?m)^spoken +ten of clubs *$", said) and "spoken" not in unknown


def test_clips_have_the_words_of_their_list():
    table = (CLIPS / "README.md").read_text()
    listed = dict(re.findall(r"(?m)^\| `([\w-]+)` \| `[^`]+` \| (.+?) \| `[0-9a-f]{64}` \|$", table))
    assert listed == {path.stem: path.read_text().rstrip("\n") for path in CLIPS.glob("*.txt")}
    assert listed.keys() == {path.stem for path in CLIPS.glob("*.wav")}


def test_transcribe_several_beside_another_model(shipped, tmp_path, capsys):
    pytest.importorskip("soundfile", reason="recordings need the extra `speech`")
    pytest.importorskip("matplotlib", reason="pictures need the extra `speech`")
    shipped.floating_point.save(tmp_path / "other.npz")
    short = [write(tmp_path / f"{n}.wav", clip()[4000 * n:4000 * n + 8000], 16000) for n in range(2)]
    assert main(["transcribe", *map(str, short), "--beside", str(tmp_path / "other.npz"),
                 "-o", str(tmp_path / "new" / "pictures")]) == 0
    printed = capsys.readouterr().out
    assert printed.count("other ") == 2 and "0.wav" in printed and "1.wav" in printed
    assert len(list((tmp_path / "new" / "pictures").glob("*.png"))) == 2


def test_a_picture_needs_a_folder_before_the_work_begins(tmp_path, capsys):
    pytest.importorskip("soundfile", reason="recordings need the extra `speech`")
    assert main(["transcribe", str(CLIP), "-o", str(tmp_path / "absent" / "heard.png")]) == 2
    heard = capsys.readouterr()
    assert "there is no folder" in heard.err and not heard.out


def test_a_model_of_something_else_is_refused(tmp_path, capsys):
    pytest.importorskip("soundfile", reason="recordings need the extra `speech`")
    layer = Layer(name="l", w_x=np.zeros((4, 2, 3)), w_r=np.zeros((4, 2, 2)), bias=np.zeros((4, 2)))
    Model(layers=(layer,), head=Dense(weight=np.zeros((40, 2)), bias=np.zeros(40)), name="m").save(tmp_path / "m.npz")
    assert main(["transcribe", str(CLIP), "--beside", str(tmp_path / "m.npz")]) == 2
    assert "model 'm' does not take 153 features and give 40 phones" in capsys.readouterr().err


def test_a_machine_that_is_too_small_is_refused(capsys):
    assert main(["transcribe", str(CLIP), "--preset", "tiny"]) == 2
    assert "does not fit config 'tiny'" in capsys.readouterr().err


@pytest.mark.sim
@pytest.mark.parametrize("more", [{}, {"cells": "lstm+dense", "column_depth": 4096, "cell_rows": 256}], ids=str)
def test_the_verilog_recognizes_the_same(tmp_path, capsys, more):
    """With its head on the host, or on the machine."""
    short = write(tmp_path / "short.wav", clip()[8000:11200], 16000)
    settings = [word for name, value in (SINGLE | more).items() for word in ("--set", f"{name}={value}")]
    assert main(["transcribe", str(short), "--backend", "sim", *settings]) == 0
    printed = capsys.readouterr().out
    assert "output words are the reference's" in printed and "8 PEs x 1 channels" in printed
