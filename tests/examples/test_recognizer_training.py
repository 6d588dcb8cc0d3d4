# SPDX-License-Identifier: Apache-2.0
"""The training of the recognizer: pieces of speech, interrupted runs, scores, and synthetic voices."""

import shutil
import subprocess
import sys

import numpy as np
import pytest

for package in ("torch", "av", "pocketsphinx", "rapidfuzz", "soundfile", "soxr"):
    pytest.importorskip(package, reason="the recognizer's training needs the extra `recognizer`")

import torch  # noqa: E402
from torch.nn.functional import kl_div  # noqa: E402

from examples.recognizer import accuracy, corpus, prompts, synthesis  # noqa: E402
from examples.recognizer.corpus import Utterances  # noqa: E402
from examples.recognizer.ledger import Ledger  # noqa: E402
from examples.recognizer.machine import (  # noqa: E402
    float_logits,
    float_outputs,
    machine_logits,
    machine_outputs,
    quantized,
    quantized_network,
    short_peepholes,
    tables,
)
from examples.recognizer.network import logits  # noqa: E402
from examples.recognizer.plans import FULL, SMALL  # noqa: E402
from examples.recognizer.score import compare, frames_of, score  # noqa: E402
from examples.recognizer.speech import Speech, room  # noqa: E402
from examples.recognizer.train import Batches, Run, load, train  # noqa: E402
from examples.silero_vad.clips import CLIPS  # noqa: E402
from openese.sw.prune import report  # noqa: E402
from openese.sw.speech.audio import read  # noqa: E402
from openese.sw.speech.features import FEATURES, STATIC  # noqa: E402
from openese.sw.speech.phones import PHONES, collapse  # noqa: E402
from openese.sw.speech.recognizer import DELAY, Recognizer  # noqa: E402


@pytest.fixture(scope="module")
def utterances():
    """Artificial speech: each phone is a vector with noise."""
    rng = np.random.default_rng(1)
    shapes = rng.normal(size=(len(PHONES), STATIC))
    phones = [np.repeat(rng.integers(0, 6, 30), 8).astype(np.int8)[:size] for size in (240, 200, 90, 240)]
    values = [(shapes[part] + 0.3 * rng.normal(size=(len(part), STATIC))).astype(np.float16) for part in phones]
    return Utterances(values, phones)


@pytest.fixture
def batches(utterances):
    return Batches([(utterances, 1.0)], 4, 48)


def run(name, updates=12, **changes):
    return Run(name, 64, 32, updates, **{"rate": 1e-2, "decay": False, **changes})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU with CUDA")
def test_a_gpu_trains_as_a_processor_does(tmp_path, batches):
    dense = run("dense", decay=True)
    runs = [dense, run("sparse", parent="dense", teacher="dense", density=0.2, stage=1)]
    curves = {}
    for device in ("cpu", "cuda"):
        for one in runs:
            train(one, tmp_path / device, batches, device=device)
            curves[device, one.name] = load(one, tmp_path / device)[1]["curve"]
    for one in runs:
        assert curves["cuda", one.name] == pytest.approx(curves["cpu", one.name], rel=0.02)
        assert curves["cpu", one.name][0] > curves["cpu", one.name][-1]


def test_no_voice_and_no_prompt_is_in_two_parts():
    for source, parts in corpus.splits().items():
        names = [name for part in parts.values() for name in part]
        assert len(names) == len(set(names)), source


def test_plans_use_parts_for_training_that_are():
    for plan in (FULL, SMALL):
        assert all(corpus.PARTS[name].split == "train" for name in plan.shares)
        assert all(count <= corpus.PARTS[name].shards for name, count in plan.shards.items())


def test_dense_and_sparse_are_trained_equally_long():
    for plan in (FULL, SMALL):
        dense, sparse, sparser = (plan.way(name) for name in (plan.dense, plan.sparse, plan.sparser))
        assert [run.updates for run in dense] == [run.updates for run in sparse] == [run.updates for run in sparser]
        assert sparser[:-1] == sparse[:-1]
        assert [run.density for run in sparse] == [None, 0.1, 0.1, 0.1] and not any(run.density for run in dense)
        assert [run.density for run in sparser] == [None, 0.1, 0.1, 0.05]
        assert [run.teacher for run in sparse] == [None, None, dense[1].name, dense[1].name]


def test_pieces_are_the_same_for_the_same_update(batches):
    (x, labels), (again, same), (other, _) = batches(1, 5), batches(1, 5), batches(1, 6)
    assert torch.equal(x, again) and torch.equal(labels, same) and not torch.equal(x, other)
    assert x.shape == (48, 4, FEATURES) and labels.shape == (48, 4)
    assert (labels[:DELAY] < 0).all() and (labels[DELAY:] >= 0).float().mean() > 0.8


def test_labels_are_delayed(utterances):
    utterances = Utterances(utterances.values[:1], utterances.phones[:1])
    _, labels = Batches([(utterances, 1.0)], 1, 240)(1, 0)
    assert labels[DELAY:, 0].tolist() == utterances.phones[0][:240 - DELAY].tolist()


def test_an_interrupted_run_goes_on_where_it_was(batches, tmp_path, monkeypatch):
    monkeypatch.setattr("examples.recognizer.train._SAVE_EVERY", 3)

    def stop(updates, loss):
        if updates == 8:
            raise KeyboardInterrupt

    for folder in (tmp_path / "whole", tmp_path / "parts"):
        train(run("base"), folder, batches)
        branch = run("branch", decay=True, parent="base", density=0.25, stage=1)
        if folder.name == "parts":
            with pytest.raises(KeyboardInterrupt):
                train(branch, folder, batches, stop)
        train(branch, folder, batches)
    (whole, record), (parts, same) = (load(branch, tmp_path / name) for name in ("whole", "parts"))
    assert record["curve"] == same["curve"] and len(record["curve"]) == 12
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))
    counts = report(whole.model("m"), 32)
    assert all(row.smallest == row.largest and row.density < 0.26 for row in counts)


def test_a_taught_network_answers_as_its_teacher(batches, tmp_path):
    train(run("base", updates=60), tmp_path, batches)
    train(run("sparse", 12, decay=True, parent="base", density=0.1, stage=1), tmp_path, batches)
    x, labels = batches(7, 0)

    def distance(name):
        answers, right = (load(run(run_name), tmp_path)[0](x)[labels >= 0] for run_name in (name, "base"))
        return kl_div(answers.log_softmax(-1), right.log_softmax(-1), log_target=True, reduction="batchmean")

    for name, teacher in (("alone", None), ("taught", "base")):
        tuned = run(name, 40, decay=True, parent="sparse", teacher=teacher, density=0.1, stage=2)
        train(tuned, tmp_path, batches)
        assert sum(1 for row in report(load(tuned, tmp_path)[0].model("m"), 32) if row.density > 0.11) == 0
    assert distance("taught") < distance("alone") < distance("sparse")


def test_an_optimizer_goes_on_unless_its_rate_had_fallen(batches, tmp_path):
    rates = []

    class Adam(torch.optim.Adam):
        def step(self, closure=None):
            rates.append(self.param_groups[0]["lr"])
            return super().step(closure)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.optim.Adam", Adam)
        train(run("base", 3), tmp_path, batches)
        train(run("branch", 3, decay=True, parent="base", stage=1), tmp_path, batches)
        train(run("tuned", 3, decay=True, parent="branch", stage=2), tmp_path, batches)
    warm = [1e-2 * count / 50 for count in (1, 2, 3)]
    falling = [1, 2 / 3, 1 / 3]
    assert rates == pytest.approx([*warm, *(1e-2 * left for left in falling),
                                   *(rate * left for rate, left in zip(warm, falling, strict=True))])


def test_tables_and_peepholes_of_other_sizes(utterances, batches, tmp_path):
    train(run("base", updates=60), tmp_path, batches)
    sequences = frames_of(utterances)
    model = load(run("base"), tmp_path)[0].model("m")
    integers = quantized(model, sequences)
    own = machine_logits(integers, model.head, sequences)

    def error(integers, *tables):
        changed = machine_logits(integers, model.head, sequences, *tables)
        return max(np.abs(a - b).max() for a, b in zip(changed, own, strict=True))

    assert error(integers, tables(integers, 2048, True)) == 0
    coarse = [error(integers, tables(integers, samples, False)) for samples in (4096, 1024, 256)]
    assert coarse[0] < coarse[1] < coarse[2] and error(integers, tables(integers, 256, True)) < coarse[1]
    assert error(short_peepholes(integers, 16)) == 0 < error(short_peepholes(integers, 4))
    assert all(len(np.unique(row)) <= 16 for row in short_peepholes(integers, 4).layers[0].peephole)


def test_a_trained_network_recognizes_also_as_a_machine(utterances, batches, tmp_path):
    train(run("base", updates=60), tmp_path, batches)
    network, record = load(run("base"), tmp_path)
    assert record["curve"][-1] < 0.5 * record["curve"][0]
    model, sequences = network.model("m"), frames_of(utterances)
    integers = quantized(model, sequences)
    rows = [logits(network, sequences), float_logits(model, sequences), machine_logits(integers, model.head, sequences)]
    scores = [score(row, utterances.phones, 1.0) for row in rows]
    assert all(row.frames > 0.9 and row.decoded < 0.2 for row in scores)
    for row in rows:
        assert [len(part) for part in row] == [len(part) + DELAY for part in utterances.phones]
    assert max(np.abs(a - b).max() for a, b in zip(rows[0], rows[1], strict=True)) < 1e-3
    assert max(np.abs(a - b).max() for a, b in zip(rows[1], rows[2], strict=True)) < 0.2


def test_a_network_of_both_directions_recognizes_also_as_a_machine(utterances, batches, tmp_path):
    both = run("both", updates=60, both=True)
    train(both, tmp_path, batches)
    network, sequences = load(both, tmp_path)[0], frames_of(utterances)
    exact = [network(torch.from_numpy(sequence[:, None])).detach().numpy()[:, 0] for sequence in sequences]
    whole = network.network("both")
    models = quantized_network(whole, sequences)
    assert len(models) == 2
    rows = [exact, float_outputs(whole, sequences), machine_outputs(whole, models, sequences)]
    assert all(score(row, utterances.phones, 1.0).frames > 0.9 for row in rows)
    assert max(np.abs(a - b).max() for a, b in zip(rows[0], rows[1], strict=True)) < 1e-3
    assert max(np.abs(a - b).max() for a, b in zip(rows[1], rows[2], strict=True)) < 0.2


@pytest.fixture
def study(tmp_path, monkeypatch, utterances):
    """A function that makes a study of tiny networks on artificial speech, and returns its results."""
    for name, value in {"SEEDS": (1,), "DENSITIES": (0.1,), "WEIGHT_BITS": (8,), "ACTIVATION_BITS": (10,),
                        "SIGMOID_RANGES": (5,), "TABLE_SAMPLES": (256,), "PEEPHOLE_BITS": (6,), "SCANNED": (0.5, 0.1),
                        "BASE": 60, "BRANCH": 4, "CELLS": 64, "OUTPUTS": 32, "PAPER": (64, 32), "BATCH": 4,
                        "STEPS": 48, "HOUR_UPDATES": (30, 4),
                        "VARIANTS": {"both": {"cells": 64, "outputs": 32, "both": True}}}.items():
        monkeypatch.setattr(accuracy, name, value)
    monkeypatch.setattr(corpus, "make", lambda folder, shards: None)
    monkeypatch.setattr(corpus, "load", lambda folder, name, shards: utterances)

    def make(folder=tmp_path):
        ledger = Ledger(tmp_path / "accuracy.json")
        study = accuracy.Study(folder, ledger)
        for measure in (study.paper_size, study.arithmetic, study.an_hour, study.variants):
            measure(lambda: None)
        study.sensitivity()
        study.densities(1, lambda: None)
        return Ledger(tmp_path / "accuracy.json").results  # as read from JSON
    return make


@pytest.mark.slow
def test_the_study_measures_only_missing_results(study, tmp_path, monkeypatch):
    results = study()
    assert {section: set(entries) for section, entries in results.items()} == {
        "activation_bits": {"dense-1/10", "balanced-10-1/10"}, "choices": {"penalty", "sensitivity"}, "tables": {"5"},
        "table_samples": {"256/linear", "256/none"}, "peephole_bits": {"6"}, "hour": set(accuracy.HOUR_TESTS),
        "both": {f"{name}/{way}" for name in ("dense", "balanced-10") for way in ("float", "machine")},
        "float": (runs := {"proposed-10-1", "dense-1", "balanced-10-1", "global-10-1"}), "machine": runs,
        "weight_bits": {"dense-1/8", "balanced-10-1/8", "global-10-1/8"}}
    assert results["float"]["dense-1"]["frames"] > 0.5
    hour = results["hour"]["espeak-test"]
    assert hour["sparse"]["more"] == pytest.approx(hour["sparse"]["decoded"] - hour["dense"]["decoded"])
    assert hour["dense"]["more"] == 0 and abs(hour["machine"]["decoded"] - hour["sparse"]["decoded"]) < 0.1
    linear, nearest = (results["table_samples"][f"256/{kind}"]["signal_to_noise_db"] for kind in ("linear", "none"))
    assert linear > nearest + 10

    def refuse(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(accuracy, "train", refuse)
    assert study(tmp_path / "nowhere") == results


def says(phones):
    """Return logits that clearly name these phones."""
    return np.pad(np.where(np.arange(len(PHONES)) == np.array(phones)[:, None], 5.0, -5.0), ((DELAY, 0), (0, 0)))


def test_scores_count_edits_of_phones():
    counted = score([says([0, 0, 1, 1, 2, 3, 0])], [np.array([0, 0, 1, 1, 2, 2, 0])], 0.0)
    assert (counted.phones, counted.errors, counted.decoded) == (2, 0.5, 0.5) and counted.frames == pytest.approx(6 / 7)


def test_two_networks_are_compared_utterance_by_utterance():
    truth = [np.array([0, 1, 1, 2, 0]), np.array([0, 3, 3, 4, 0])] * 50
    right, wrong = [says(part) for part in truth], [says([0, 1, 1, 5, 0]), says([0, 3, 3, 4, 0])] * 50
    assert compare(right, right, truth, (0.0, 0.0)) == {"phones": 200, "errors": [0, 0], "more": 0, "deviation": 0}
    compared = compare(right, wrong, truth, (0.0, 0.0))
    assert (compared["errors"], compared["more"]) == ([0, 0.25], 0.25)
    assert compared["deviation"] == pytest.approx(0.25 / 10)  # half of 100 utterances have one more, of two phones
    assert compare(wrong, right, truth, (0.0, 0.0))["more"] == -0.25


@pytest.mark.parametrize("decibels", [0, 10, 60])
def test_rooms_keep_time_and_add_noise(decibels):
    rng = np.random.default_rng(1)
    audio = np.where(np.arange(16000) % 8000 < 4000, 1, 0.0).astype(np.float32) * rng.normal(size=16000)
    heard = room(rng, Speech(audio, np.zeros(1), np.zeros(1, int)), decibels, echo=0.0).audio
    loud, quiet = (np.sqrt(np.mean(heard[start:start + 3000] ** 2)) for start in (500, 4500))
    assert heard.shape == audio.shape and (loud / quiet > 5) == (decibels == 60)


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
@pytest.mark.parametrize("accent", corpus.ACCENTS)
def test_espeak_says_what_it_is_told(accent):
    speech = synthesis.espeak(f"{accent}+f3", "My cat sat.")
    values, phones = speech.frames()
    names = [PHONES[phone] for phone in collapse(phones)]
    assert names[:2] == ["M", "AY"] and names[2:] == "K AE T S AE T".split()
    assert len(values) == len(phones) and np.all(np.diff(speech.starts) >= 0)


@pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed")
@pytest.mark.parametrize("voice", synthesis.FLITE_VOICES)
def test_flite_says_what_it_is_told(voice):
    _, phones = synthesis.flite(voice, "My cat sat.").frames()
    assert [PHONES[phone] for phone in collapse(phones)] == "M AY K AE T S AE T".split()


def lacking():
    """Return the missing packages of the training speech."""
    installed = {"espeak-ng": shutil.which("espeak-ng"), "flite": shutil.which("flite"),
                 "fortunes": corpus.FORTUNES.is_dir(), "asterisk-core-sounds-en": prompts.TRANSCRIPTS.exists(),
                 "asterisk-core-sounds-en-g722": prompts.SOUNDS.is_dir()}
    return [package for package, path in installed.items() if not path]


@pytest.mark.skipif(bool(lacking()), reason=f"not installed: {', '.join(lacking())}")
@pytest.mark.slow
def test_a_small_recognizer_from_packages_to_an_image(tmp_path):
    """`nox -s train` with a tiny network."""
    command = [sys.executable, "-m", "examples.recognizer", "--small", "--folder", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    recognizer = Recognizer.load(tmp_path / SMALL.folder)
    scores = recognizer.record["scores"]
    assert set(scores) == {"dense", "sparse", "sparser", "machine", "sparser machine"}
    for test in ("espeak-test", "prompts-test"):
        # Guessing gets one phone in forty right; always silence a fifth of the frames.
        assert scores["dense"][test]["frames"] > 0.35 and scores["dense"][test]["decoded"] < 0.8
        for row in ("sparse", "sparser"):
            through = "machine" if row == "sparse" else "sparser machine"
            assert abs(scores[through][test]["decoded"] - scores[row][test]["decoded"]) < 0.01
    counts = report(recognizer.floating_point, 32)
    assert all(row.smallest == row.largest and row.density <= 0.1 for row in counts)
    clip = read(CLIPS / "numbers.wav")
    sparse, = recognizer.run_float([clip])
    dense, = recognizer.run_float([clip], Recognizer.dense(tmp_path / SMALL.folder))
    assert sparse.logits.shape == dense.logits.shape and sparse.text and dense.text
