# SPDX-License-Identifier: Apache-2.0
"""Make the recognizer's image, head, and record of training and tests from a trained network."""

import dataclasses
import platform
from dataclasses import asdict
from functools import cache
from importlib.metadata import version

import numpy as np

from examples.recognizer import corpus
from examples.recognizer.machine import CONFIG, machine_logits, quantized
from examples.recognizer.network import logits
from examples.recognizer.score import compare, edits, frames_of, score
from openese.sw.model.layers import dense_layer
from openese.sw.pack.image import pack
from openese.sw.pack.schedule import schedule
from openese.sw.quantize.choose import append_dense
from openese.sw.speech.features import FEATURES, HOP, RATE
from openese.sw.speech.phones import PHONES
from openese.sw.speech.recognizer import Recognizer, side_by_side

__all__ = ["TESTS", "choose_penalty", "evaluate", "make"]

_PENALTIES = np.arange(0, 10.1, 0.5)
TESTS = ("espeak-test", "espeak-test-clean", "espeak-test-rooms", "flite-test", "prompts-test", "prompts-test-noisy")
_PACKAGES = ("numpy", "torch", "pocketsphinx", "soxr")


def choose_penalty(network, folder, names=("espeak-dev", "prompts-dev")):
    """Return the penalty of `decode` with the fewest errors of a network on the development parts."""
    errors = np.zeros(len(_PENALTIES))
    for part in (corpus.load(folder, name, 1) for name in names):
        distances, counts = edits(logits(network, frames_of(part)), part.phones, _PENALTIES)
        errors += distances.sum(axis=1) / counts.sum()
    return float(_PENALTIES[int(np.argmin(errors))])


def evaluate(rows, tests, penalties, advance=lambda: None):
    """Return the scores of each of ``rows`` (name -> function from sequences to logits) on each test (name -> part)."""
    scores = {}
    for test, part in tests.items():
        sequences = frames_of(part)
        for row, recognize in rows.items():
            scores.setdefault(row, {})[test] = asdict(score(recognize(sequences), part.phones, penalties[row]))
            advance()
    return scores


def _tests(plan, folder):
    return {name: corpus.load(folder, name, 1) for name in TESTS if name in plan.shards}


def make(plan, trained, folder, advance=lambda: None):
    """Return the `Recognizer` of a plan's sparse network.

    Parameters
    ----------
    plan : `Plan`
    trained : mapping
        Name of a run -> its network (a `network.Recognizer`) and the record of its training.
    folder : Path
        The corpus.
    advance : callable
        Called after each network's run on each test.
    """
    networks = {row: trained[getattr(plan, row)][0] for row in ("dense", "sparse", "sparser")}
    penalty, compared = _comparison(plan, trained, folder, advance)
    penalties = {row: penalty(getattr(plan, row)) for row in networks}
    calibration = [sequence for name in ("espeak-dev", "prompts-train")
                   for sequence in frames_of(corpus.load(folder, name, 1))]
    model, sparser = networks["sparse"].model(f"phones-{plan.sparse}"), networks["sparser"].model("sparser")
    integers = quantized(model, calibration)
    image = pack(schedule(integers, CONFIG))
    rows = {name: lambda sequences, network=network: logits(network, sequences) for name, network in networks.items()}
    rows["machine"] = _through(integers, model.head)
    rows["sparser machine"] = _through(quantized(sparser, calibration), sparser.head)
    penalties |= {"machine": penalties["sparse"], "sparser machine": penalties["sparser"]}
    record = {
        "penalty": penalties["sparse"],
        "head": _head_formats(integers, model.head, calibration),
        "penalties": penalties,
        "model": _described(plan.run(plan.sparse), image),
        "calibration": _output(integers),
        "scores": evaluate(rows, _tests(plan, folder), penalties, advance),
        "compared": {test: {row: compared(test, plan.dense, getattr(plan, row)) for row in ("sparse", "sparser")}
                     for test in plan.wide},
        "stages": _stages(plan, compared),
        "training": _trained(plan, trained) | {"corpus": _corpus(plan, folder)},
    }
    return Recognizer(image, model.head, penalties["sparse"], record)


def _head_formats(integers, head, calibration):
    """Number formats of the head on a machine with dense layers."""
    frames, lengths = side_by_side(calibration)
    layer = dense_layer("head", head)
    whole = dataclasses.replace(integers, config=integers.config.replace(cells="lstm+dense"))
    chosen = append_dense(whole, layer, frames, lengths).layers[-1]
    return {"y_fraction": chosen.y_fraction, "w_x_fraction": chosen.w_x_fraction[0], "align_x": chosen.align_x[0]}


def _comparison(plan, trained, folder, advance):
    """Return two functions: ``penalty(run)``, and ``compared(test, run, run)``, which compares in floating point.

    Each network runs on each test once.
    """
    @cache
    def penalty(run):
        return choose_penalty(trained[run][0], folder)

    @cache
    def part(test):
        return corpus.load(folder, test, plan.wide[test])

    @cache
    def answers(test, run):
        values = logits(trained[run][0], frames_of(part(test)))
        advance()
        return values

    def compared(test, *runs):
        return compare(*(answers(test, run) for run in runs), part(test).phones, tuple(map(penalty, runs)))

    return penalty, compared


def _stages(plan, compared):
    """Compare dense and sparse on one test after each pair of runs with the same number of updates."""
    updates, stages = 0, []
    for dense, sparse in zip(plan.way(plan.dense), plan.way(plan.sparse), strict=True):
        updates += dense.updates
        if dense != sparse:
            stages.append({"updates": updates, **compared(next(iter(plan.wide)), dense.name, sparse.name)})
    return stages


def _through(integers, head):
    return lambda sequences: machine_logits(integers, head, sequences)


def _described(run, image):
    return {"inputs": FEATURES, "cells": run.cells, "outputs": run.outputs, "phones": len(PHONES),
            "density": run.density, "pes": CONFIG.pes, "weight_bits": CONFIG.weight_bits,
            "activation_bits": CONFIG.activation_bits, "image_bytes": image.bytes,
            "nonzeros": sum(operation["nonzeros"] for operation in image.manifest["operations"])}


def _output(integers):
    """Return the error of the integers against floating point on the calibration frames."""
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


def _corpus(plan, folder):
    """Return for each part of the corpus its share in the training, its utterances and its minutes."""
    parts = {name: corpus.load(folder, name, count) for name, count in plan.shards.items()}
    return {name: {"share": plan.shares.get(name), "utterances": len(part.phones),
                   "minutes": round(part.frames * HOP / RATE / 60, 1)} for name, part in parts.items()}


def _ends(curve):
    """Return the mean loss of the first ten and of the last ten updates."""
    return [round(float(np.mean(part)), 3) for part in (curve[:10], curve[-10:])]
