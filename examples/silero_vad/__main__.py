# SPDX-License-Identifier: Apache-2.0
"""``python -m examples.silero_vad``: the whole way from a trained network to decisions by the RTL."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from examples.silero_vad import machine, picture
from examples.silero_vad.clips import CLIPS, lay_out, schedule
from examples.silero_vad.density import KEEP, Trial, lowest
from examples.silero_vad.figures import Expected, Figures, Job, gather, table
from examples.silero_vad.task import Task
from rtl.config import PRESETS, Config, preset
from sw.image import pack
from sw.reference import Reference
from sw.schedule import schedule as place

OUTPUT = Path("build/demo")
TRACE_SKIPS, TRACE_STEPS, TRACE_INTERVAL = 3, 2, 50  # steps, steps, cycles


@contextmanager
def _stage(progress: Progress, text: str, total: int | None = None) -> Iterator[TaskID]:
    """A line of the progress display; without ``total`` its bar only says that something is going on."""
    task = progress.add_task(text, total=total)
    yield task
    total = total or 1
    progress.update(task, total=total, completed=total)


def choose(task: Task, config: Config, keep: float, progress: Progress) -> Trial:
    """The lowest density that keeps the decisions."""
    with _stage(progress, "prune, quantize, judge") as line:
        def say(made: Trial) -> None:
            progress.update(line, description=f"prune to {made.density:.0%}: {made.kept:.2%} kept")
        chosen = lowest(task, config, keep, say)[-1]
        progress.update(line, description=f"prune to {chosen.density:.0%}: {chosen.kept:.2%} kept")
    return chosen


def listen(task: Task, chosen: Trial, config: Config, progress: Progress) -> tuple[Job, machine.Trace]:
    """Pack the chosen model and run all clips through the reference and the RTL."""
    turns = schedule([len(vectors) for vectors in task.features], config.channels)
    vectors, active, reset = lay_out(task.features, turns, config.channels)
    frames, saturated = chosen.model.quantize_input(vectors)
    with _stage(progress, "encode and pack"):
        plan = place(chosen.model, config)
        image = pack(plan)
    with _stage(progress, "integer reference"):
        reference = Reference(chosen.model, config.channels)
        outputs = reference.run(frames, active, reset)
        expected = Expected(active, outputs, saturated, sum(reference.saturations.values()))
    with _stage(progress, "emit and build the simulator"):
        simulator = machine.loaded(config, image)
    with simulator, _stage(progress, "RTL", len(frames)) as line:
        heard = machine.run(simulator, frames, active, reset, outputs.shape[2],
                            lambda steps: progress.advance(line, steps))
        period = heard.counters["cycles"] // heard.counters["steps"]
        start = TRACE_SKIPS * period
        trace = machine.trace(simulator, frames, active, reset, start, start + TRACE_STEPS * period,
                              TRACE_INTERVAL)
    return Job(task, chosen, plan, image, turns, expected, heard), trace


def keep_files(job: Job, trace: machine.Trace, found: Figures, folder: Path) -> None:
    """Write the figures, the picture and the memory image."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "demo.json").write_text(json.dumps(found.to_dict(), indent=2) + "\n")
    picture.draw(job, trace, folder / "demo.png")
    job.image.save(folder / "silero_vad.oese")


def main(config: Annotated[str, typer.Option(help=f"The machine: {', '.join(PRESETS)}.")] = "demo",
         keep: Annotated[float, typer.Option(min=0, max=1, help="Share of decisions to keep.")] = KEEP,
         clips: Annotated[Path, typer.Option(help="Folder of WAV files, 16 kHz, 16 bits, mono.")] = CLIPS,
         output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = OUTPUT,
         ) -> None:
    """Prune Silero VAD, pack it, run recorded speech through the RTL, and compare every word.

    Exits with 1 if a word or a count of saturations differs from the integer reference, with 2 if
    something is missing.
    """
    console = Console()
    try:
        with Progress(TextColumn("{task.description:<32}"), BarColumn(), TimeElapsedColumn(),
                      console=console) as progress:
            with _stage(progress, "front end and float network"):
                task = Task.load(clips)
                task.changed(task.dense_outputs)
            chosen = choose(task, preset(config), keep, progress)
            job, trace = listen(task, chosen, preset(config), progress)
    except ValueError as error:
        console.print(f"[red]{error}[/]")
        raise typer.Exit(2) from None
    found = gather(job)
    keep_files(job, trace, found, output)
    console.print(table(found))
    console.print(f"Figures, picture and memory image: {output}/")
    raise typer.Exit(0 if found.right else 1)


if __name__ == "__main__":
    typer.run(main)
