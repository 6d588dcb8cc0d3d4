# SPDX-License-Identifier: Apache-2.0
"""``python -m examples.distill`` prunes Silero VAD, Resemblyzer and g2p-en by distillation and in one shot, and tests
them."""

import sys
from functools import cached_property
from pathlib import Path

import click
import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import openese
from examples.distill import phonemes, voices
from examples.distill.speaker import Speaker
from examples.distill.task import Streams
from examples.distill.vad import Vad
from examples.recognizer.ledger import Ledger
from examples.recognizer.machine import float_outputs, machine_outputs
from examples.recognizer.speech import MissingData
from openese.output import replacing

#: For each task: its class, the densities for distillation on speech, and those for distillation on artificial sounds.
TASKS = {"vad": (Vad, (0.1, 0.2, 0.3, 0.5), (0.1,)), "speaker": (Speaker, (0.1,), ())}
PHONEMES = "phonemes"
SEED = 1
RESULTS = Path(__file__).parents[2] / "docs" / "results" / "distillation.json"
_CALIBRATION = 16, 128  # pieces of training speech for calibration, and frames of each
_SMALL_UPDATES = 150


class Packages:
    """Speech of packages, and of an optional folder of recordings; each speaker is in one split only."""

    def __init__(self, recordings):
        self._recordings = recordings

    def train(self):
        """Return the speech for training, by source."""
        return {"synthetic": voices.synthetic("train"), "prompts": voices.prompts(), **self._recorded("train")}

    def test(self):
        """Return the speech for tests, by source."""
        return {"clips": voices.clips(), "synthetic": voices.synthetic("test"), **self._recorded("test")}

    def _recorded(self, split):
        return {"recordings": voices.recordings(self._recordings, split)} if self._recordings else {}


class Clips:
    """The clips of the repository: every second one, from the first, is for training."""

    def train(self):
        return {"clips": voices.clips()[::2]}

    def test(self):
        return {"clips": voices.clips()[1::2]}


class Study:
    """The networks of a task for speech at several densities, and their results.

    Parameters
    ----------
    task : `Task`
    speech : `Packages` or `Clips`
    folder : Path
        The folder for features and networks.
    ledger : `Ledger`
        The results.
    """

    def __init__(self, task, speech, folder, ledger):
        self._task, self._speech, self._folder, self._ledger = task, speech, folder, ledger

    def _features(self, name, sources):
        """Return the training features of ``sources()``, a list of (T, I), and the source of each; computed once."""
        path = self._folder / f"{self._task.name}-{name}.npz"
        if not path.exists():
            speech = sources()
            self._ledger.measure(f"{self._task.name}/{name}", "learned from", _amount, speech)
            names = [source for source, spoken in speech.items() for _ in spoken]
            takes = self._task.training([voice for spoken in speech.values() for voice in spoken])
            sequences, labels = zip(*((sequence, source) for take in takes
                                      for source, pieces in zip(names, take, strict=True) for sequence in pieces),
                                    strict=True)
            with replacing(path) as written:
                np.savez(written, values=np.concatenate(sequences), lengths=[len(sequence) for sequence in sequences],
                         sources=labels)
        with np.load(path) as file:
            return np.split(file["values"], np.cumsum(file["lengths"])[:-1]), file["sources"].tolist()

    def _streams(self, features):
        sequences, sources = features
        shares = self._task.shares
        weights = shares and [shares[source] / sources.count(source) for source in sources]
        return Streams(sequences, self._task.batch, self._task.steps, weights, self._task.vary)

    @cached_property
    def _speech_features(self):
        return self._features("speech", self._speech.train)

    @cached_property
    def _artificial_features(self):
        return self._features("artificial", lambda: {"artificial": voices.artificial()})

    @cached_property
    def _tests(self):
        sources = {name: spoken for name, spoken in self._speech.test().items() if name in self._task.judged_by}
        self._ledger.measure(f"{self._task.name}/speech", "judged by", _amount, sources)
        return sources

    def _by_float(self, network):
        return self._task.examine(lambda sequences: float_outputs(network, sequences), self._tests)

    def _by_machine(self, network, features):
        frames = Streams(features[0], *_CALIBRATION).pieces(np.random.default_rng(SEED))
        models = openese.quantize(network, frames, self._task.config).models
        return self._task.examine(lambda sequences: machine_outputs(network, models, sequences), self._tests)

    def _measured(self, name, network, features):
        """Measure a network in floating point and on the machine, calibrated on ``features``; return the latter."""
        self._ledger.measure(f"{self._task.name}/nonzeros", name, _nonzeros, network)
        self._ledger.measure(f"{self._task.name}/float", name, self._by_float, network)
        return self._ledger.measure(f"{self._task.name}/machine", name, self._by_machine, network, features)

    def _network(self, name, make):
        """Return the network with this name; ``make()`` trains it if its file is missing."""
        path = self._folder / f"{self._task.name}-{name}.pt"
        if not path.exists():
            network = make()
            torch.save(network.state_dict(), path)
        return self._task.imported(path)

    def _taught(self, kind, density, features, progress):
        name = f"{kind}-{round(100 * density)}"
        network = self._network(name, lambda: self._distilled(density, features, progress))
        return self._measured(name, network, features)

    def _distilled(self, density, features, progress):
        torch.manual_seed(SEED)
        task, network = self._task, self._task.network()
        openese.distill(network, self._streams(features).batches(SEED), task.updates, density, task.config,
                        loss=task.loss, rate=task.rate, progress=progress)
        return network

    def distilled(self, density, progress):
        """Prune by distillation on speech, and return the machine's figures."""
        return self._taught("distilled", density, self._speech_features, progress)

    def without_speech(self, density, progress):
        """Prune by distillation on artificial sounds only, and return the machine's figures."""
        return self._taught("artificial", density, self._artificial_features, progress)

    def one_shot(self, density):
        """Prune in one shot, not at all for a density of one, and return the machine's figures."""
        dense = self._network("dense", self._task.network)
        if density == 1:
            return self._measured("dense", dense, self._speech_features)
        network = openese.prune(dense, density, self._task.config)
        return self._measured(f"one-shot-{round(100 * density)}", network, self._speech_features)


def _nonzeros(network):
    return sum(int(np.count_nonzero(matrix)) for direction in network.directions for layer in direction.model.layers
               for matrix in (layer.w_x, layer.w_r))


def _amount(sources):
    """Return the number of voices and the minutes of each source."""
    return {name: {"voices": len(spoken), "minutes": round(sum(voice.seconds for voice in spoken) / 60, 1)}
            for name, spoken in sources.items()}


def _study(study, densities, artificial, updates, progress):
    """Yield a description and the figures of each network of a task, the most important first."""
    for density, teach, meaning in (*((density, study.distilled, "") for density in densities),
                                    *((density, study.without_speech, " without speech") for density in artificial)):
        line = progress.add_task(f"distill to {density:.0%}{meaning}", total=updates)

        def show(count, loss, line=line, stage=f"distill to {density:.0%}{meaning}"):
            progress.update(line, completed=count, description=f"{stage}: loss {loss:.3f}")

        yield f"distilled to {density:.0%}{meaning}", teach(density, show)
        progress.update(line, completed=updates)
    for density in (*densities, 1.0):
        yield f"one-shot to {density:.0%}" if density < 1 else "dense", study.one_shot(density)


@click.command()
@click.argument("tasks", nargs=-1, type=click.Choice(sorted([*TASKS, PHONEMES])))
@click.option("--speech", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="FOLDER",
              help="A folder of recordings of many speakers, named SPEAKER-*.flac as in LibriSpeech. Two of three "
                   "speakers are for training, one is for tests.")
@click.option("--small", is_flag=True, help="Take a minute: only the VAD at 10 %, on the repository's clips.")
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), default="build/distill", show_default=True,
              help="The folder for features and networks. Existing files are used again.")
@click.option("--output", "-o", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="The JSON file of the results. Results in it are not measured again.  [default: the file of the "
                   "documentation; with --small a file in the folder]")
def main(tasks: tuple[str, ...], speech: Path | None, small: bool, folder: Path, output: Path | None) -> None:
    """Distil trained networks of other packages to low densities, and test them on the reference.

    TASKS are `vad` (Silero VAD), `speaker` (Resemblyzer) and `phonemes` (g2p-en); by default all.
    """
    torch.set_num_threads(1)
    folder = folder / "small" if small else folder
    folder.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(output or (folder / "distillation.json" if small else RESULTS))
    columns = TextColumn("{task.description:<32}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        for name in ("vad",) if small else tasks or (*TASKS, PHONEMES):
            if name == PHONEMES:
                spellings = phonemes.Spellings(folder, ledger)
                for stage, figures in _study(spellings, phonemes.DENSITIES, (), phonemes.UPDATES, progress):
                    click.echo(f"{name}, {stage}: {figures}")
                continue
            make, densities, artificial = (Vad, (0.1,), ()) if small else TASKS[name]
            task = make(updates=_SMALL_UPDATES) if small else make()
            study = Study(task, Clips() if small else Packages(speech), folder, ledger)
            for stage, figures in _study(study, densities, artificial, task.updates, progress):
                click.echo(f"{name}, {stage}: {figures}")


if __name__ == "__main__":
    try:
        main(standalone_mode=False)
    except (MissingData, ValueError) as problem:
        sys.exit(f"distill: {problem}")
