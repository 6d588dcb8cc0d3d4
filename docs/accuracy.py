# SPDX-License-Identifier: Apache-2.0
"""The table of accuracy.md: what was measured by `examples.recognizer`, kept in ``sw/speech/recognizer.json``."""

import json
from pathlib import Path

__all__ = ["TABLES"]

ROOT = Path(__file__).parent
_TESTS = {
    "espeak-test": "voices never trained on, noise 0 to 15 dB", "espeak-test-clean": "the same voices without noise",
    "espeak-test-rooms": "the same voices, noise or babble, reverberation, other microphones",
    "flite-test": "a synthesizer never trained on, noise 0 to 15 dB",
    "prompts-test": "real speech: prompts never trained on", "prompts-test-noisy": "the same with noise 0 to 15 dB"}
_ROWS = {"dense": "dense, float", "sparse": "10 %, float", "machine": "**10 %, 12/16-bit machine**"}


def _record():
    return json.loads((ROOT.parent / "sw" / "speech" / "recognizer.json").read_text())


def _table(columns, rows):
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def _percent(value):
    return f"{100 * value:.1f}"


def shipped():
    """The recognizer of the paper's size: errors by test."""
    scores = _record()["scores"]
    rows = [name for name in _ROWS if name in scores]
    return _table(["test", "phones", *(_ROWS[row] for row in rows)], [
        [f"`{test}`: {meaning}", f"{scores['dense'][test]['phones']:,}",
         *(f"{_percent(scores[row][test]['decoded'])} ({_percent(scores[row][test]['errors'])}; "
           f"{_percent(scores[row][test]['frames'])})" for row in rows)]
        for test, meaning in _TESTS.items() if test in scores["dense"]])


#: By page and marker.
TABLES = {("accuracy.md", "shipped"): shipped}
