# SPDX-License-Identifier: Apache-2.0
"""``python -m examples.silero_vad.board`` runs Silero VAD on the ULX3S over its serial port.

Without ``--port`` the board is simulated in Verilator, from its pins on. The program uploads the image, runs recorded
speech, and compares every word with the reference. On a simulated board it also measures the serial line: the time of
a step at the real bit rate, without the host.
"""

import sys
import time
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from examples.silero_vad.clips import lay_out, schedule
from examples.silero_vad.density import clips_option, trial
from examples.silero_vad.task import Task
from openese import PRESETS, Device, Reference, SerialLink
from openese.rtl.targets.ulx3s import CLOCK
from openese.sim.board import BoardSimulator, Line
from openese.sw.pack.image import pack
from openese.sw.pack.schedule import schedule as place

__all__ = ["main"]

PATIENCE = 600  # seconds that a request may take in simulation


def row(name: str, line: Line, share: int = 1) -> tuple[str, ...]:
    """Return a row of the table; its figures are divided by ``share``."""
    seconds = line.cycles / CLOCK
    return (name, f"{line.received / share:,.0f}", f"{line.sent / share:,.0f}", f"{line.cycles / share:,.0f}",
            f"{1e3 * seconds / share:,.2f}", f"{(line.received + line.sent) / seconds:,.0f}")


def line_table(upload: Line, run: Line, steps: int, slow: bool) -> Table:
    """Return the traffic of an upload and of a step as a table."""
    table = Table(title="the serial line, from request to answer")
    for heading in ("", "bytes in", "out", "cycles", f"ms at {CLOCK / 1e6:g} MHz", "bytes/s"):
        table.add_column(heading, justify="right" if heading else "left")
    table.add_row(*row("upload" if slow else "upload, DIP switch on", upload))
    table.add_row(*row("a step", run, steps))
    return table


@click.command()
@click.option("--density", type=click.FloatRange(0.01, 1), default=1.0, show_default=True,
              help="The share of weights to keep.")
@click.option("--steps", type=click.IntRange(1), default=4, show_default=True, help="The number of steps to run.")
@click.option("--skip", type=click.IntRange(0), default=30, show_default=True,
              help="The number of windows to skip at the beginning of the recordings.")
@click.option("--slow-upload", is_flag=True, help="Simulate the upload at the real bit rate: six times as long.")
@click.option("--port", metavar="PORT", help="The serial port of a real board.")
@clips_option
def main(density: float, steps: int, skip: int, slow_upload: bool, port: str | None, clips: Path) -> None:
    """Run Silero VAD on preset ulx3s over a serial port, and compare every word with the reference.

    The exit status is 1 if a word differs, and 2 if a package, a recording or the port is missing.
    """
    config = PRESETS["ulx3s"]
    console = Console()
    try:
        task = Task.load(clips)
        model = trial(task, density, config).model
        image = pack(place(model, config))
        turns = schedule([len(vectors) for vectors in task.features], config.channels)
        vectors, active, reset = lay_out(task.features, turns, config.channels)
        chosen = slice(skip, skip + steps)
        frames = model.quantize_input(vectors[chosen])[0]
        expected = Reference(model, config.channels).run(frames, active[chosen], reset[chosen])
        began = time.perf_counter()
        with ExitStack() as stack:
            board = None if port else stack.enter_context(BoardSimulator(config, fast=not slow_upload))
            link = stack.enter_context(SerialLink(board.port, config, timeout=PATIENCE, patience=PATIENCE) if board else
                                       SerialLink(port, config))
            lines = [board.line()] if board else []
            device = Device(link, image)
            uploaded = time.perf_counter()
            if board:
                lines.append(board.line())
                board.fast = False
            words = device.run(frames, active[chosen], reset[chosen])
            ended = time.perf_counter()
            if board:
                lines.append(board.line())
            repeated = link.repeated
    except ValueError as error:
        click.echo(f"board: {error}", err=True)
        sys.exit(2)
    wrong = int(np.count_nonzero(words != expected))
    console.print(f"{words.size - wrong:,} of {words.size:,} words equal to the reference; {steps} steps of "
                  f"{config.channels} voices, density {density:.0%}, image of {image.words().nbytes:,} bytes; "
                  f"{repeated} requests repeated; {uploaded - began:.1f} s to upload, {ended - uploaded:.1f} s to run")
    if lines:
        upload, run = (after.since(before) for before, after in pairwise(lines))
        console.print(line_table(upload, run, steps, slow_upload))
        console.print(f"{steps * config.channels * CLOCK / run.cycles:,.0f} frames/s, without the time of the host")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
