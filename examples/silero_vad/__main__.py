# SPDX-License-Identifier: Apache-2.0
"""``python -m examples.silero_vad`` takes a trained network to decisions by the Verilog."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from examples.silero_vad import picture
from examples.silero_vad.clips import lay_out, schedule
from examples.silero_vad.density import KEEP, Trial, clips_option, lowest
from examples.silero_vad.figures import Figures, Job, gather, table
from examples.silero_vad.machine import Trace, Watched, trace
from examples.silero_vad.task import Task
from openese import PRESETS, Config, Device, Reference
from openese.output import write_text
from openese.sw.pack.image import pack
from openese.sw.pack.schedule import schedule as place

TRACE_SKIPS, TRACE_STEPS, TRACE_INTERVAL = 3, 2, 50  # steps, steps, cycles


@contextmanager
def _stage(progress: Progress, text: str, total: int | None = None) -> Iterator[TaskID]:
    """Show a line in the progress display; without ``total`` the bar has no end."""
    task = progress.add_task(text, total=total)
    yield task
    total = total or 1
    progress.update(task, total=total, completed=total)


def choose(task: Task, config: Config, keep: float, progress: Progress) -> Trial:
    """Return the trial of the lowest density that keeps the share ``keep`` of the decisions."""
    with _stage(progress, "prune, quantize, judge") as line:
        def show(made: Trial) -> None:
            progress.update(line, description=f"prune to {made.density:.0%}: {made.kept:.2%} kept")
        chosen = lowest(task, config, keep, show)[-1]
        progress.update(line, description=f"prune to {chosen.density:.0%}: {chosen.kept:.2%} kept")
    return chosen


def run_clips(task: Task, chosen: Trial, config: Config, progress: Progress) -> tuple[Job, Trace]:
    """Pack the chosen model, and run all clips on the reference and on the Verilog."""
    turns = schedule([len(vectors) for vectors in task.features], config.channels)
    vectors, active, reset = lay_out(task.features, turns, config.channels)
    frames, saturated = chosen.model.quantize_input(vectors)
    with _stage(progress, "encode and pack"):
        plan = place(chosen.model, config)
        image = pack(plan)
    with _stage(progress, "integer reference"):
        reference = Reference(chosen.model, config.channels)
        expected = reference.run(frames, active, reset)
    with _stage(progress, "emit and build the simulator"):
        simulator = Watched(config)
    with simulator, _stage(progress, "Verilog", len(frames)) as line:
        simulator.progress = partial(progress.advance, line)
        device = Device(simulator, image)
        words = device.run(frames, active, reset)
        counters = device.counters()
        period = counters["cycles"] // counters["steps"]
        busy = trace(simulator, frames, TRACE_SKIPS * period, (TRACE_SKIPS + TRACE_STEPS) * period,
                     TRACE_INTERVAL)
    return Job(task, chosen, plan, image, turns, expected, words, saturated,
               sum(reference.saturations.values()), counters, simulator.cycles_per_second), busy


def save(job: Job, busy: Trace, figures: Figures, folder: Path) -> None:
    """Write the figures, the picture and the image to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "silero_vad.json", json.dumps(figures.to_dict(), indent=2) + "\n")
    picture.draw(job, busy, folder / "silero_vad.png")
    job.image.save(folder / "silero_vad.oese")


@click.command()
@click.option("--preset", "name", type=click.Choice(sorted(PRESETS)), default="demo", show_default=True,
              help="The machine.")
@click.option("--keep", type=click.FloatRange(0, 1), default=KEEP, show_default=True,
              help="The share of decisions that pruning must keep.")
@clips_option
@click.option("--output", "-o", type=click.Path(file_okay=False, path_type=Path), default="build/silero_vad",
              show_default=True, help="The folder for the figures, the picture and the image.")
def main(name: str, keep: float, clips: Path, output: Path) -> None:
    """Prune Silero VAD, pack it, run it on recorded speech, and compare every word with the reference.

    The exit status is 1 if a word or the number of saturations differs from the reference, and 2 if a package or a
    recording is missing.
    """
    console = Console()
    columns = TextColumn("{task.description:<32}"), BarColumn(), TimeElapsedColumn()
    try:
        with Progress(*columns, console=console) as progress:
            with _stage(progress, "front end and float network"):
                task = Task.load(clips)
                task.changed(task.dense_outputs)
            chosen = choose(task, PRESETS[name], keep, progress)
            job, busy = run_clips(task, chosen, PRESETS[name], progress)
    except ValueError as error:
        click.echo(f"silero_vad: {error}", err=True)
        sys.exit(2)
    figures = gather(job)
    save(job, busy, figures, output)
    console.print(table(figures))
    console.print(f"Figures, picture and image: {output}/")
    sys.exit(0 if figures.right else 1)


if __name__ == "__main__":
    main()
