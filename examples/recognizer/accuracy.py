# SPDX-License-Identifier: Apache-2.0
"""``python -m examples.recognizer.accuracy`` measures the cost of density, balance and word lengths in recognition.

It trains a network of 256 cells and 128 outputs on recorded speech for several seeds and densities, and tests it on
held-out prompts in the machine's integers. A JSON file keeps each result, so an interrupted study continues.
`docs.results.accuracy` makes the page and the plots from this file.
"""

import dataclasses
import sys
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path

import click
import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from examples.recognizer import corpus
from examples.recognizer.ledger import Ledger
from examples.recognizer.machine import (
    CONFIG,
    float_logits,
    float_outputs,
    machine_logits,
    machine_outputs,
    quantized,
    quantized_network,
    short_peepholes,
    tables,
)
from examples.recognizer.network import logits
from examples.recognizer.plans import FULL
from examples.recognizer.score import compare, frames_of, score
from examples.recognizer.ship import TESTS, choose_penalty
from examples.recognizer.speech import MissingData
from examples.recognizer.train import MACHINE, Batches, Run, load, train
from openese import preset, scan
from openese.sw.cycles.model import estimate
from openese.sw.pack.image import pack
from openese.sw.pack.schedule import schedule
from openese.sw.speech.recognizer import Recognizer

DENSITIES = (0.5, 0.3, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03)
WEIGHT_BITS = (16, 10, 8, 6)  # in addition to the machine's 12
ACTIVATION_BITS = (14, 12, 10, 8)  # in addition to the machine's 16
SHORT = preset("ku060")  # has shorter weights and activations
SIGMOID_RANGES = (4, 5, 6, 7)
TABLE_SAMPLES = (256, 512, 1024, 2048, 4096)
PEEPHOLE_BITS = (16, 12, 8, 6, 4)
SCANNED = (0.5, 0.3, 0.2, 0.1, 0.05)
SEEDS = (1, 2, 3)
MORE_SEEDS = range(4, 11)  # only at 10 %: balance makes a smaller difference than the seed
BASE, BRANCH, RATE = 250, 150, 4e-3
CELLS, OUTPUTS = 256, 128
VARIANTS = {"layered": {"cells": 160, "outputs": 96, "layers": 2}, "both": {"cells": 160, "outputs": 64, "both": True}}
BATCH, STEPS = 32, 128
HOUR = "espeak-train", 4  # four shards: 54 minutes
HOUR_UPDATES = 250, 750  # of the base, and of its branches
HOUR_TESTS = {"espeak-test": 8, "espeak-test-clean": 8}
PAPER = FULL.runs[0].cells, FULL.runs[0].outputs
_ARITHMETIC = 2 * len(ACTIVATION_BITS) + len(SIGMOID_RANGES) + 2 * len(TABLE_SAMPLES) + len(PEEPHOLE_BITS)
RESULTS = Path(__file__).parents[2] / "docs" / "results" / "accuracy.json"


def _base(seed):
    return Run(f"base-{seed}", CELLS, OUTPUTS, BASE, RATE, decay=False, seed=seed)


def _branch(seed, density, balanced=True):
    name = "dense" if density is None else f"{'balanced' if balanced else 'global'}-{round(100 * density):02d}"
    return Run(f"{name}-{seed}", CELLS, OUTPUTS, BRANCH, RATE, decay=True, parent=f"base-{seed}", density=density,
               balanced=balanced, stage=1, seed=seed)


def _runs(seed):
    """Return all branches of a seed, the most important first."""
    return [_branch(seed, None), *_at(seed, 0.1),
            *(run for density in DENSITIES if density != 0.1 for run in _at(seed, density))]


def _at(seed, density):
    return [_branch(seed, density, balanced) for balanced in (True, False)]


def _costs(models, config):
    """Return size and cycles of quantized models that run one after the other, and their signal-to-noise ratio."""
    outputs = [integers.report.outputs[-1] for integers in models]
    matrices = [matrix for integers in models for layer in integers.layers
                for matrix in (layer.w_x, layer.w_r, layer.w_ym)]
    timed = [estimate(schedule(integers, config)) for integers in models]
    cycles = [one.cycles_per_step for one in timed]
    power, error = (sum(getattr(output, name)**2 for output in outputs) for name in ("rms_output", "rms_error"))
    return {"signal_to_noise_db": 10 * float(np.log10(power / error)),
            "nonzeros": sum(int(np.count_nonzero(matrix)) for matrix in matrices),
            "weights": sum(matrix.size for matrix in matrices), "bytes": sum(pack(one.plan).bytes for one in timed),
            "cycles": sum(cycles),
            "busy": sum(one.busy * part for one, part in zip(timed, cycles, strict=True)) / sum(cycles)}


def _on_an_hour(cells, outputs):
    """Return the runs on an hour of speech: a base, and its branches, dense and at 10 %."""
    size = f"{cells}-{outputs}"
    base = Run(f"base-{size}", cells, outputs, HOUR_UPDATES[0], 2e-3, decay=False)
    dense = dataclasses.replace(base, name=f"dense-{size}", updates=HOUR_UPDATES[1], decay=True, parent=base.name,
                                stage=1)
    return base, dense, dataclasses.replace(dense, name=f"balanced-10-{size}", density=0.1)


class Study:
    """The study: networks, speech and results. It trains networks and makes speech only for missing results.

    Parameters
    ----------
    folder : Path
        The working folder of `examples.recognizer`.
    ledger : `Ledger`
        The results.
    """

    def __init__(self, folder, ledger):
        self._folder, self._parts, self._ledger = folder / "real", folder / "corpus", ledger
        self._paper, self._less = folder / FULL.folder, folder / "hour"

    def _part(self, name, shards=1):
        """Return a part of the corpus; it is made if it is missing."""
        corpus.make(self._parts, {name: shards})
        return corpus.load(self._parts, name, shards)

    @cached_property
    def _test(self):
        return self._part("prompts-test")

    @cached_property
    def _sequences(self):
        return frames_of(self._test)

    @cached_property
    def _calibration(self):
        return frames_of(self._part("prompts-train"))

    @cached_property
    def _batches(self):
        return Batches([(self._part("prompts-train", FULL.shards["prompts-train"]), 1.0)], BATCH, STEPS)

    @cached_property
    def _penalty(self):
        """The decoder penalty of all networks, chosen for the dense network of the first seed."""
        return self._ledger.measure("choices", "penalty", self._choose_penalty)

    def _choose_penalty(self):
        self._part("prompts-dev")
        return choose_penalty(self._network(_branch(SEEDS[0], None)), self._parts, ("prompts-dev",))

    def _network(self, run, base=None):
        """Return the trained network of a branch of ``base``; by default of its seed's base."""
        train(base or _base(run.seed), self._folder, self._batches)
        train(run, self._folder, self._batches)
        return load(run, self._folder)[0]

    def _model(self, run):
        return self._network(run).model(run.name)

    def _score(self, answers):
        return asdict(score(answers, self._test.phones, self._penalty))

    def _float(self, run):
        return self._score(logits(self._network(run), self._sequences))

    def _integers(self, model, config=CONFIG, **ranges):
        return quantized(model, self._calibration, config, **ranges)

    @cached_property
    def _exact(self):
        """The 10 % network of the first seed in integers, its head, and its logits in floating point."""
        model = self._model(_branch(SEEDS[0], 0.1))
        integers = self._integers(model)
        exact = float_logits(dataclasses.replace(integers.floating_point(), head=model.head), self._sequences)
        return integers, model.head, exact

    def _changed(self, change=lambda integers: integers, make_tables=lambda integers: None):
        """Score these integers with a change or with other tables, and return also their signal-to-noise ratio."""
        integers, head, exact = self._exact
        answers = machine_logits(change(integers), head, self._sequences, make_tables(integers))
        error = np.concatenate(answers) - np.concatenate(exact)
        return self._score(answers) | {
            "signal_to_noise_db": 10 * float(np.log10(np.mean(np.square(np.concatenate(exact))) / np.mean(error**2)))}

    def _through(self, model, config=CONFIG, **ranges):
        """Score a model in the machine's integers, and return also its size and cycles."""
        integers = self._integers(model, config, **ranges)
        return self._score(machine_logits(integers, model.head, self._sequences)) | _costs([integers], config)

    def _run_through(self, run, config=CONFIG, **ranges):
        """Score the network of a run in the machine's integers, and return also its size and cycles."""
        return self._through(self._model(run), config, **ranges)

    def _network_through(self, run, base):
        """Score a network of several directions, which run one after the other, likewise."""
        network = self._network(run, base).network(run.name)
        models = quantized_network(network, self._calibration)
        return self._score(machine_outputs(network, models, self._sequences)) | _costs(models, CONFIG)

    def _network_float(self, run, base):
        return self._score(float_outputs(self._network(run, base).network(run.name), self._sequences))

    def _both(self, run):
        """Measure the network of a run in floating point and in the machine's integers."""
        self._ledger.measure("float", run.name, self._float, run)
        self._ledger.measure("machine", run.name, self._run_through, run)

    def densities(self, seed, advance):
        """Measure each density. Other weight widths: all densities of the first seed, dense and 10 % of the others."""
        for run in _runs(seed):
            self._both(run)
            if seed == SEEDS[0] or run.name.rpartition("-")[0] in ("dense", "balanced-10"):
                for bits in WEIGHT_BITS:
                    self._ledger.measure("weight_bits", f"{run.name}/{bits}", self._run_through, run,
                                         CONFIG.replace(weight_bits=bits))
            advance()

    def balance(self, seed):
        """Measure 10 % with and without balance."""
        for run in _at(seed, 0.1):
            self._both(run)

    def arithmetic(self, advance):
        """Measure activation widths (dense and 10 %, first seed), and tables and peepholes (10 %, first seed)."""
        dense, sparse = _branch(SEEDS[0], None), _branch(SEEDS[0], 0.1)
        for run in (dense, sparse):
            for bits in ACTIVATION_BITS:
                self._ledger.measure("activation_bits", f"{run.name}/{bits}", self._run_through, run,
                                     CONFIG.replace(activation_bits=bits))
                advance()
        for sigmoid_range in SIGMOID_RANGES:
            self._ledger.measure("tables", str(sigmoid_range), self._run_through, sparse, sigmoid_range=sigmoid_range,
                                 tanh_range=sigmoid_range - 1)
            advance()
        for samples in TABLE_SAMPLES:
            for interpolated in (True, False):
                self._ledger.measure("table_samples", f"{samples}/{'linear' if interpolated else 'none'}",
                                     self._changed, make_tables=partial(
                                         tables, samples=samples, interpolated=interpolated))
                advance()
        for bits in PEEPHOLE_BITS:
            self._ledger.measure("peephole_bits", str(bits), self._changed, partial(short_peepholes, bits=bits))
            advance()

    def variants(self, advance):
        """Measure networks of two layers and of two directions with as many weights, dense and at 10 %."""
        for variant, shape in VARIANTS.items():
            base = dataclasses.replace(_base(SEEDS[0]), name=f"base-{variant}", **shape)
            for name, density in (("dense", None), ("balanced-10", 0.1)):
                run = dataclasses.replace(_branch(SEEDS[0], density), name=f"{name}-{variant}", parent=base.name,
                                          **shape)
                self._ledger.measure(variant, f"{name}/float", self._network_float, run, base)
                self._ledger.measure(variant, f"{name}/machine", self._network_through, run, base)
                advance()

    def sensitivity(self):
        """Measure the densities that a scan of the dense network on the development prompts proposes for 10 %."""
        proposed = self._ledger.measure("choices", "sensitivity", self._scanned)["proposed"]
        self._both(dataclasses.replace(_branch(SEEDS[0], 0.1), name="proposed-10-1", density=proposed))

    def _scanned(self):
        network, part = self._network(_branch(SEEDS[0], None)), self._part("prompts-dev")
        sequences = frames_of(part)

        def wrong():
            return 1 - score(logits(network, sequences), part.phones, 0.0).frames

        sensitivity = scan(network, wrong, SCANNED, MACHINE)
        return {"densities": sensitivity.densities,
                "errors": {tensor: errors for (_, tensor), errors in sensitivity.errors.items()},
                "sizes": {tensor: size for (_, tensor), size in sensitivity.sizes.items()},
                "proposed": sensitivity.propose(0.1)["lstm"]}

    def an_hour(self, advance):
        """Measure networks trained on an hour of speech: the paper's size, dense and at 10 %, and a small dense one.

        The small network has as many weights as the sparse one.
        """
        for test, shards in HOUR_TESTS.items():
            self._ledger.measure("hour", test, self._compared, test, shards)
            advance()

    @cached_property
    def _hour(self):
        """The networks of the study on an hour of speech, each with its penalty."""
        base, dense, sparse = _on_an_hour(*PAPER)
        small_base, small, _ = _on_an_hour(CELLS, OUTPUTS)
        batches = Batches([(self._part(*HOUR), 1.0)], BATCH, STEPS)
        for run in (base, dense, sparse, small_base, small):
            train(run, self._less, batches)
        self._part("espeak-dev")
        networks = {row: load(run, self._less)[0] for row, run in
                    {"dense": dense, "sparse": sparse, "small": small}.items()}
        return {row: (network, choose_penalty(network, self._parts, ("espeak-dev",)))
                for row, network in networks.items()}

    def _compared(self, test, shards):
        """Score these networks, and the sparse one in the machine's integers; compare each with the dense one."""
        part, model = self._part(test, shards), self._hour["sparse"][0].model("sparse")
        sequences = frames_of(part)
        rows = {row: (logits(network, sequences), penalty) for row, (network, penalty) in self._hour.items()}
        integers = quantized(model, frames_of(self._part(HOUR[0])))
        rows["machine"] = machine_logits(integers, model.head, sequences), rows["sparse"][1]
        scores = {}
        for row, (answers, penalty) in rows.items():
            against_dense = compare(rows["dense"][0], answers, part.phones, (rows["dense"][1], penalty))
            scores[row] = asdict(score(answers, part.phones, penalty)) | {
                key: against_dense[key] for key in ("more", "deviation")}
        return scores

    def paper_size(self, advance):
        """Measure the bundled recognizer with other weight widths, if its training is in the working folder."""
        run = FULL.run(FULL.sparse)
        if not (self._paper / f"{run.name}.pt").exists():
            return
        model = load(run, self._paper)[0].model(run.name)
        self._ledger.measure("paper", "float64", self._float64, model)
        for bits in (CONFIG.weight_bits, *WEIGHT_BITS):
            self._ledger.measure("paper", str(bits), self._through, model, CONFIG.replace(weight_bits=bits))
            advance()

    def short_words(self, advance):
        """Test the bundled recognizer as it is, and quantized anew for shorter words."""
        for test in TESTS:
            self._ledger.measure("short_words", test, self._short_words, test)
            advance()

    @cached_property
    def _bundled(self):
        """The bundled recognizer, and its layers in integers: its own, and those of shorter words."""
        recognizer = Recognizer.load()
        integers = recognizer.image.model()
        calibration = [sequence for name in ("espeak-dev", "prompts-train") for sequence in frames_of(self._part(name))]
        return recognizer, {"own": integers, "short": quantized(integers.floating_point(), calibration, SHORT)}

    def _short_words(self, test):
        """Score both, and compare them, on as much speech as there is."""
        recognizer, models = self._bundled
        part, penalty = self._part(test, FULL.wide.get(test, 1)), recognizer.penalty
        answers = {name: machine_logits(integers, recognizer.head, frames_of(part))
                   for name, integers in models.items()}
        compared = compare(answers["own"], answers["short"], part.phones, (penalty, penalty))
        return {name: asdict(score(logits, part.phones, penalty)) for name, logits in answers.items()} | {
            key: compared[key] for key in ("more", "deviation")}

    def _float64(self, model):
        return self._score(float_logits(model, self._sequences))


@click.command()
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), default="build/recognizer",
              show_default=True, help="The folder for the corpus and the networks.")
@click.option("--output", "-o", type=click.Path(dir_okay=False, path_type=Path), default=RESULTS,
              help="The JSON file of the results. Results in it are not measured again.")
@click.option("--seeds", type=click.IntRange(1, len(SEEDS)), default=len(SEEDS), show_default=True,
              help="The number of seeds.")
def main(folder: Path, output: Path, seeds: int) -> None:
    """Train small networks, and measure in the machine's integers the results that the JSON file lacks."""
    torch.set_num_threads(1)
    columns = TextColumn("{task.description:<32}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console()) as progress:
        study = Study(folder, Ledger(output))
        line = progress.add_task("the paper's size", total=len(WEIGHT_BITS) + 1)
        study.paper_size(lambda: progress.advance(line))
        line = progress.add_task("shorter words", total=len(TESTS))
        study.short_words(lambda: progress.advance(line))
        line = progress.add_task("arithmetic", total=_ARITHMETIC)
        study.arithmetic(lambda: progress.advance(line))
        study.sensitivity()
        line = progress.add_task("an hour of speech", total=len(HOUR_TESTS))
        study.an_hour(lambda: progress.advance(line))
        line = progress.add_task("layers and directions", total=2 * len(VARIANTS))
        study.variants(lambda: progress.advance(line))
        for seed in SEEDS[:seeds]:
            line = progress.add_task(f"densities, seed {seed}", total=len(_runs(seed)))
            study.densities(seed, lambda line=line: progress.advance(line))
        if seeds == len(SEEDS):
            for seed in progress.track(MORE_SEEDS, description="balance, more seeds"):
                study.balance(seed)


if __name__ == "__main__":
    try:
        main(standalone_mode=False)
    except (MissingData, ValueError) as problem:
        sys.exit(f"accuracy: {problem}")
