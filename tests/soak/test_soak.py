# SPDX-License-Identifier: Apache-2.0
"""A few cases of each campaign, and the program that runs them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from soak import __main__, engine, files, fuzz

SEED = 7
TESTS = Path(fuzz.__file__).parents[1]


@pytest.mark.sim
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in engine.CAMPAIGNS if name != "files"])
def test_a_case(name, tmp_path, monkeypatch):
    monkeypatch.setattr("soak.hardware.MODELS", 2)
    entry = engine.carry_out(name, SEED, 0, tmp_path)
    assert entry["failure"] is None, entry["failure"]
    assert sum(entry["counts"].values()) > 0


@pytest.mark.parametrize("suffix", [".npz", ".img"])
def test_files(suffix, tmp_path):
    counts = files.fuzz(suffix, SEED, 2, tmp_path)
    assert counts[f"{suffix} files"] > 0


def wrong(case):
    done = {"cases": 1}
    assert case.number != 1, "the second case fails"
    return done


@pytest.fixture
def only_wrong(monkeypatch, tmp_path):
    monkeypatch.setattr(engine, "CAMPAIGNS", {"wrong": engine.Campaign("wrong", "", 1.0, wrong)})
    monkeypatch.setattr(__main__, "CAMPAIGNS", engine.CAMPAIGNS)
    monkeypatch.setenv("OPENESE_CACHE", "")

    def soak(*arguments):
        return CliRunner().invoke(__main__.main, ["--folder", str(tmp_path), "--minutes", "0", *arguments])
    return soak


def test_a_run_goes_on_and_a_failure_can_be_repeated(only_wrong, tmp_path):
    first = only_wrong()
    assert first.exit_code == 0, first.output
    second = only_wrong("--resume")
    assert second.exit_code == 1
    assert "FAILED: nox -s soak -- --only wrong --seed 1 --case 1" in second.output
    summary = json.loads((tmp_path / "summary.json").read_text())["campaigns"]["wrong"]
    assert (summary["cases"], summary["failures"], summary["counts"]) == (2, 1, {"cases": 1})
    again = engine.carry_out("wrong", 1, 1, tmp_path)
    assert "the second case fails" in again["failure"]


def test_a_broken_reader_is_found(tmp_path):
    """The loop without atheris finds what reading raises, and keeps the file."""
    corpus, crashes = tmp_path / "corpus", tmp_path / "crashes"
    files.seed_files(".img", corpus)
    crashes.mkdir()

    def one(data):
        assert len(data) % 4 == 0, "an odd length"

    assert fuzz.unguided(corpus, crashes, 5, SEED, "", one) == 1
    assert len(next(crashes.iterdir()).read_bytes()) % 4


def test_a_file_is_replayed(tmp_path):
    path = tmp_path / "model.img"
    path.write_bytes(b"OESE" + bytes(40))
    # In a process of its own, whose memory it limits.
    command = [sys.executable, "-c", f"from soak.fuzz import replay; replay({str(path)!r})"]
    said = subprocess.run(command, cwd=TESTS, text=True, capture_output=True, check=True).stdout
    assert said == f"{path}: read or refused\n"
