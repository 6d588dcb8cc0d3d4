# SPDX-License-Identifier: Apache-2.0
"""``python -m examples.distill``: Silero VAD and Resemblyzer, pruned in one shot and by distillation, and judged."""

import sys
from functools import cached_property
from pathlib import Path

import click
import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from examples.distill import voices
from examples.distill.speaker import Speaker
from examples.distill.task import Streams
from examples.distill.vad import Vad
from examples.recognizer.ledger import Ledger
from examples.recognizer.machine import float_outputs, machine_outputs
from examples.recognizer.speech import MissingData
from openese.sw import compile as pipeline
from openese.sw.training import distill

#: Networks, densities that they are distilled to, and of those without speech.
TASKS = {"vad": (Vad, (0.1, 0.2, 0.3, 0.5), (0.1,)), "speaker": (Speaker, (0.1,), ())}
SEED = 1
RESULTS = Path(__file__).parents[2] / "docs" / "results" / "distillation.json"
_CALIBRATION = 16, 128  # pieces of training speech, and frames of each, that formats are chosen on
_SMALL_UPDATES = 150


class Packages:
    """Speech of packages, and of a folder of recordings where there is one; each voice is in one split only."""

    def __init__(self, recordings):
        self._recordings = recordings

    def train(self):
        """Sources of what is learned from."""
        return {"synthetic": voices.synthetic("train"), "prompts": voices.prompts(), **self._recorded("train")}

    def test(self):
        """Sources of what is judged by."""
        return {"clips": voices.clips(), "synthetic": voices.synthetic("test"), **self._recorded("test")}

    def _recorded(self, split):
        return {"recordings": voices.recordings(self._recordings, split)} if self._recordings else {}


class Clips:
    """Speech of the repository alone: every other clip is learned from."""

    def train(self):
        return {"clips": voices.clips()[::2]}

    def test(self):
        return {"clips": voices.clips()[1::2]}


class Study:
    """One task: its network at several densities, and the ledger.

    Parameters
    ----------
    task : `Task`
    speech : `Packages` or `Clips`
    folder : Path
        Where features and networks are kept.
    ledger : `Ledger`
    """

    def __init__(self, task, speech, folder, ledger):
        self._task, self._speech, self._folder, self._ledger = task, speech, folder, ledger

    def _features(self, name, sources):
        """What is learned from ``sources()``, made once: a list of (T, I), and the source of each."""
        path = self._folder / f"{self._task.name}-{name}.npz"
        if not path.exists():
            found = sources()
            self._ledger.measure(f"{self._task.name}/{name}", "learned from", _amount, found)
            names = [source for source, spoken in found.items() for _ in spoken]
            takes = self._task.training([voice for spoken in found.values() for voice in spoken])
            sequences, labels = zip(*((sequence, source) for take in takes
                                      for source, pieces in zip(names, take, strict=True) for sequence in pieces),
                                    strict=True)
            np.savez(path, values=np.concatenate(sequences), lengths=[len(sequence) for sequence in sequences],
                     sources=labels)
        with np.load(path) as file:
            return np.split(file["values"], np.cumsum(file["lengths"])[:-1]), file["sources"].tolist()

    def _streams(self, learned):
        """What is learned from, a piece at a time."""
        sequences, sources = learned
        shares = self._task.shares
        weights = shares and [shares[source] / sources.count(source) for source in sources]
        return Streams(sequences, self._task.batch, self._task.steps, weights, self._task.vary)

    @cached_property
    def _learned(self):
        return self._features("speech", self._speech.train)

    @cached_property
    def _artificial(self):
        return self._features("artificial", lambda: {"artificial": voices.artificial()})

    @cached_property
    def _tests(self):
        sources = {name: found for name, found in self._speech.test().items() if name in self._task.judged_by}
        self._ledger.measure(f"{self._task.name}/speech", "judged by", _amount, sources)
        return sources

    def _by_float(self, network):
        return self._task.examine(lambda given: float_outputs(network, given), self._tests)

    def _by_machine(self, network, learned):
        frames = Streams(learned[0], *_CALIBRATION).pieces(np.random.default_rng(SEED))
        models = pipeline.quantize(network, frames, self._task.config).models
        return self._task.examine(lambda given: machine_outputs(network, models, given), self._tests)

    def _measured(self, name, network, learned):
        """The task's figures in floating point and by the machine, its formats chosen on what is learned from; the
        machine's are returned."""
        self._ledger.measure(f"{self._task.name}/nonzeros", name, _nonzeros, network)
        self._ledger.measure(f"{self._task.name}/float", name, self._by_float, network)
        return self._ledger.measure(f"{self._task.name}/machine", name, self._by_machine, network, learned)

    def _network(self, name, make):
        """The network of a name, made once."""
        path = self._folder / f"{self._task.name}-{name}.pt"
        if not path.exists():
            network = make()
            torch.save(network.state_dict(), path)
        return self._task.imported(path)

    def _taught(self, kind, density, learned, progress):
        name = f"{kind}-{round(100 * density)}"
        network = self._network(name, lambda: self._distilled(density, learned, progress))
        return self._measured(name, network, learned)

    def _distilled(self, density, learned, progress):
        torch.manual_seed(SEED)
        task, network = self._task, self._task.network()
        distill(network, self._streams(learned).batches(SEED), task.updates, density, task.config.pes,
                loss=task.loss, rate=task.rate, progress=progress)
        return network

    def distilled(self, density, progress):
        """Pruned to a density by distillation."""
        return self._taught("distilled", density, self._learned, progress)

    def without_speech(self, density, progress):
        """The same, on artificial sounds alone."""
        return self._taught("artificial", density, self._artificial, progress)

    def one_shot(self, density):
        """Pruned to a density in one shot; dense at a density of one."""
        dense = self._network("dense", self._task.network)
        if density == 1:
            return self._measured("dense", dense, self._learned)
        network = pipeline.prune(dense, density, self._task.config)
        return self._measured(f"one-shot-{round(100 * density)}", network, self._learned)


def _nonzeros(network):
    return sum(int(np.count_nonzero(matrix)) for direction in network.directions for layer in direction.model.layers
               for matrix in (layer.w_x, layer.w_r))


def _amount(sources):
    """By source, voices and minutes."""
    return {name: {"voices": len(found), "minutes": round(sum(voice.seconds for voice in found) / 60, 1)}
            for name, found in sources.items()}


def _study(study, densities, artificial, updates, progress):
    """Everything about a task, the most wanted first."""
    for density, teach, meaning in (*((density, study.distilled, "") for density in densities),
                                    *((density, study.without_speech, " without speech") for density in artificial)):
        line = progress.add_task(f"distill to {density:.0%}{meaning}", total=updates)

        def say(count, loss, line=line, what=f"distill to {density:.0%}{meaning}"):
            progress.update(line, completed=count, description=f"{what}: loss {loss:.3f}")

        yield f"distilled to {density:.0%}{meaning}", teach(density, say)
        progress.update(line, completed=updates)
    for density in (*densities, 1.0):
        yield f"one-shot to {density:.0%}" if density < 1 else "dense", study.one_shot(density)


@click.command()
@click.argument("tasks", nargs=-1, type=click.Choice(sorted(TASKS)))
@click.option("--speech", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="FOLDER",
              help="Recordings of many voices, as LibriSpeech has them: SPEAKER-*.flac. Two of three voices are "
                   "learned from, one is judged by.")
@click.option("--small", is_flag=True, help="A minute: the VAD at 10 %, with the repository's own recordings.")
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), default="build/distill", show_default=True,
              help="Where features and networks are kept; what is there is not made again.")
@click.option("--output", "-o", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="The JSON file; what it holds already is not measured again. By default that of the documentation, "
                   "with --small one in the folder.")
def main(tasks: tuple[str, ...], speech: Path | None, small: bool, folder: Path, output: Path | None) -> None:
    """Distil trained networks of other packages to low densities, and judge them through the integer machine.

    TASKS are `vad` (Silero VAD) and `speaker` (Resemblyzer); by default both.
    """
    torch.set_num_threads(1)
    folder = folder / "small" if small else folder
    folder.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(output or (folder / "distillation.json" if small else RESULTS))
    columns = TextColumn("{task.description:<32}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        for name in ("vad",) if small else tasks or TASKS:
            make, densities, artificial = (Vad, (0.1,), ()) if small else TASKS[name]
            task = make(updates=_SMALL_UPDATES) if small else make()
            study = Study(task, Clips() if small else Packages(speech), folder, ledger)
            for what, found in _study(study, densities, artificial, task.updates, progress):
                click.echo(f"{name}, {what}: {found}")


if __name__ == "__main__":
    try:
        main(standalone_mode=False)
    except (MissingData, ValueError) as problem:
        sys.exit(f"distill: {problem}")
