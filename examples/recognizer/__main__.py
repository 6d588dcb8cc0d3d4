# SPDX-License-Identifier: Apache-2.0
"""``python -m examples.recognizer`` trains the recognizer on speech from packages; every stage can be resumed."""

import shutil
import sys
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from examples.recognizer import corpus, ship
from examples.recognizer.network import save_rounded
from examples.recognizer.plans import FULL, SMALL
from examples.recognizer.speech import MissingData
from examples.recognizer.train import Batches, load, train
from openese.sw.speech.recognizer import Recognizer

SHIPPED = Path(__file__).parents[2] / "sw" / "speech"


def _train_all(plan, folder, parts, device, progress):
    """Train every run of a plan."""
    batches = None
    for run in plan.runs:
        line = progress.add_task(f"train {run.name}", total=run.updates)

        def show(updates, loss, line=line, name=run.name):
            progress.update(line, completed=updates, description=f"train {name}: loss {loss:.3f}")

        if batches is None:
            sources = [(corpus.load(parts, name, plan.shards[name]), share) for name, share in plan.shares.items()]
            batches = Batches(sources, plan.batch, plan.steps)
        train(run, folder, batches, show, device)
        progress.update(line, completed=run.updates)


def _finish(plan, folder, parts, progress):
    """Save the recognizer of a plan, and the dense network that ``openese transcribe`` compares with."""
    trained = {run.name: load(run, folder) for run in plan.runs}
    save_rounded(trained[plan.dense][0].model("dense"), folder / "dense.npz")
    line = progress.add_task("recognize the tests", total=None)
    recognizer = ship.make(plan, trained, parts, lambda: progress.advance(line))
    progress.update(line, total=1, completed=1)
    recognizer.save(folder)
    return recognizer


@click.command()
@click.option("--small", is_flag=True, help="Train a tiny network on little speech, as a test.")
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), default="build/recognizer",
              show_default=True, help="The working folder.")
@click.option("--install", is_flag=True, help="Replace the recognizer in sw/speech by the result.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cuda" if torch.cuda.is_available() else "cpu",
              show_default="cuda if there is one", help="The device for training.")
def main(small: bool, folder: Path, install: bool, device: str) -> None:
    """Make the corpus, train a dense and sparse networks, quantize, test, and write the recognizer.

    An interrupted run continues when you start it again.
    """
    plan = SMALL if small else FULL
    torch.set_num_threads(1)  # more cores gain less than another process would
    console = Console()
    columns = (TextColumn("{task.description:<32}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TimeRemainingColumn())
    parts, runs = folder / "corpus", folder / plan.folder
    with Progress(*columns, console=console) as progress:
        shards = plan.shards | plan.wide
        line = progress.add_task("speech", total=sum(shards.values()))
        corpus.make(parts, shards, lambda: progress.advance(line))
        _train_all(plan, runs, parts, device, progress)
        recognizer = _finish(plan, runs, parts, progress)
    for row, tests in recognizer.record["scores"].items():
        for test, scores in tests.items():
            console.print(f"{row:<12} {test:<20} frames right {scores['frames']:.1%}, phone error rate "
                          f"{scores['errors']:.1%}, decoded {scores['decoded']:.1%}")
    console.print(f"{recognizer.image.bytes:,} bytes: {runs}/recognizer.img")
    if install:
        Recognizer.load(runs).save(SHIPPED)
        shutil.copyfile(runs / "dense.npz", SHIPPED / "dense.npz")


if __name__ == "__main__":
    try:
        main(standalone_mode=False)
    except (MissingData, ValueError) as problem:
        sys.exit(f"recognizer: {problem}")
