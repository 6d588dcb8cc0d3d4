# SPDX-License-Identifier: Apache-2.0
"""From a trained network to what `sw/speech` ships: image, head, and the record of how they came to be."""

import platform
from dataclasses import asdict
from functools import cache
from importlib.metadata import version

import numpy as np

from examples.recognizer import corpus
from examples.recognizer.machine import CONFIG, machine_logits, quantized
from examples.recognizer.network import logits
from examples.recognizer.score import compare, edits, given, score
from openese.sw.pack.image import pack
from openese.sw.pack.schedule import schedule
from openese.sw.speech.features import FEATURES, HOP, RATE
from openese.sw.speech.phones import PHONES
from openese.sw.speech.recognizer import Recognizer

__all__ = ["choose_penalty", "evaluate", "make"]

_PENALTIES = np.arange(0, 10.1, 0.5)
_TESTS = ("espeak-test", "espeak-test-clean", "espeak-test-rooms", "flite-test", "prompts-test", "prompts-test-noisy")
_PACKAGES = ("numpy", "torch", "pocketsphinx", "soxr")


def choose_penalty(network, folder, names=("espeak-dev", "prompts-dev")):
    """The penalty of `decode` with the fewest errors of a network on the parts kept for such choices."""
    errors = np.zeros(len(_PENALTIES))
    for part in (corpus.load(folder, name, 1) for name in names):
        found, counts = edits(logits(network, given(part)), part.phones, _PENALTIES)
        errors += found.sum(axis=1) / counts.sum()
    return float(_PENALTIES[int(np.argmin(errors))])


def evaluate(rows, tests, penalties, advance=lambda: None):
    """Scores of each of ``rows`` (name -> function from sequences to logits) on each of ``tests`` (name -> part)."""
    found = {}
    for test, part in tests.items():
        sequences = given(part)
        for row, recognize in rows.items():
            found.setdefault(row, {})[test] = asdict(score(recognize(sequences), part.phones, penalties[row]))
            advance()
    return found


def _tests(plan, folder):
    return {name: corpus.load(folder, name, 1) for name in _TESTS if name in plan.shards}


def make(plan, trained, folder, advance=lambda: None):
    """The `Recognizer` of a plan's sparse network.

    Parameters
    ----------
    plan : `Plan`
    trained : mapping
        Name of a run -> its network, a `Recognizer` of `network`, and what training recorded.
    folder : Path
        The corpus.
    advance : callable
        Called when a test has been recognized once.
    """
    networks = {row: trained[getattr(plan, row)][0] for row in ("dense", "sparse", "sparser")}
    penalty, compared = _beside(plan, trained, folder, advance)
    penalties = {row: penalty(getattr(plan, row)) for row in networks}
    heard = [sequence for name in ("espeak-dev", "prompts-train") for sequence in given(corpus.load(folder, name, 1))]
    model, sparser = networks["sparse"].model(f"phones-{plan.sparse}"), networks["sparser"].model("sparser")
    integers = quantized(model, heard)
    image = pack(schedule(integers, CONFIG))
    rows = {name: lambda sequences, network=network: logits(network, sequences) for name, network in networks.items()}
    rows["machine"] = _through(integers, model.head)
    rows["sparser machine"] = _through(quantized(sparser, heard), sparser.head)
    penalties |= {"machine": penalties["sparse"], "sparser machine": penalties["sparser"]}
    record = {
        "penalty": penalties["sparse"],
        "penalties": penalties,
        "model": _described(plan.run(plan.sparse), image),
        "calibration": _output(integers),
        "scores": evaluate(rows, _tests(plan, folder), penalties, advance),
        "compared": {test: {row: compared(test, plan.dense, getattr(plan, row)) for row in ("sparse", "sparser")}
                     for test in plan.wide},
        "stages": _stages(plan, compared),
        "training": _trained(plan, trained) | {"corpus": _heard(plan, folder)},
    }
    return Recognizer(image, model.head, penalties["sparse"], record)


def _beside(plan, trained, folder, advance):
    """Functions that give the penalty of a run, and `compare` of two on a test, in floating point, on much speech; each
    network hears a test once."""
    @cache
    def penalty(run):
        return choose_penalty(trained[run][0], folder)

    @cache
    def part(test):
        return corpus.load(folder, test, plan.wide[test])

    @cache
    def heard(test, run):
        found = logits(trained[run][0], given(part(test)))
        advance()
        return found

    def compared(test, *runs):
        return compare(*(heard(test, run) for run in runs), part(test).phones, tuple(map(penalty, runs)))

    return penalty, compared


def _stages(plan, compared):
    """Dense and sparse on one test whenever they had been trained equally long: `compare`, with the updates."""
    updates, found = 0, []
    for dense, sparse in zip(plan.way(plan.dense), plan.way(plan.sparse), strict=True):
        updates += dense.updates
        if dense != sparse:
            found.append({"updates": updates, **compared(next(iter(plan.wide)), dense.name, sparse.name)})
    return found


def _through(integers, head):
    return lambda sequences: machine_logits(integers, head, sequences)


def _described(run, image):
    return {"inputs": FEATURES, "cells": run.cells, "outputs": run.outputs, "phones": len(PHONES),
            "density": run.density, "pes": CONFIG.pes, "weight_bits": CONFIG.weight_bits,
            "activation_bits": CONFIG.activation_bits, "image_bytes": image.bytes,
            "nonzeros": sum(operation["nonzeros"] for operation in image.manifest["operations"])}


def _output(integers):
    """How far the integers are from floating point on the calibration frames."""
    output = integers.report.outputs[-1]
    return {"output_rms": output.rms_output, "rms_error": output.rms_error,
            "signal_to_noise_db": 20 * float(np.log10(output.rms_output / output.rms_error))}


def _trained(plan, trained):
    updates = sum(run.updates for run in plan.way(plan.sparse))
    return {
        "seed": corpus.SEED, "batch": plan.batch, "steps": plan.steps,
        "hours_heard": round(updates * plan.batch * plan.steps * HOP / RATE / 3600, 2),
        "runs": {run.name: asdict(run) | {"loss": _ends(record["curve"]),
                                          "device": record["device"], "products": record["products"],
                                          "seconds": record["seconds"]}
                 for run, (_, record) in ((run, trained[run.name]) for run in plan.runs)},
        "python": platform.python_version(), "packages": {name: version(name) for name in _PACKAGES}}


def _heard(plan, folder):
    """Each part of the corpus: its share in training, and how much of it there is."""
    parts = {name: corpus.load(folder, name, count) for name, count in plan.shards.items()}
    return {name: {"share": plan.shares.get(name), "utterances": len(part.phones),
                   "minutes": round(part.frames * HOP / RATE / 60, 1)} for name, part in parts.items()}


def _ends(curve):
    """Mean loss of the first and of the last updates."""
    return [round(float(np.mean(part)), 3) for part in (curve[:10], curve[-10:])]
