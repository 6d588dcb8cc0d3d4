# SPDX-License-Identifier: Apache-2.0
"""How far the LSTM can be pruned in one shot before its decisions change.

Every density is tried in full: load-balanced pruning, quantization on the clips for calibration, and
all clips through the integer reference. No weight is trained anew.

``python -m examples.silero_vad.density`` prints the whole curve.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from examples.silero_vad.clips import CLIPS, lay_out, pick_up, schedule
from examples.silero_vad.task import Task
from openese.rtl.config import PRESETS, Config
from openese.sw.model.layers import Model
from openese.sw.prune import prune
from openese.sw.quantize.choose import QuantizedModel, quantize
from openese.sw.reference.machine import Reference

__all__ = ["KEEP", "Trial", "clips_option", "lowest", "steps_down", "trial"]

KEEP = 0.99
COARSE, FINE = 10, 1  # percent


@dataclass(frozen=True)
class Trial:
    """What one density does.

    Attributes
    ----------
    density : float
        That was asked for; what is left is a little less, as every slice rounds down.
    pruned : Model
        In floating point.
    model : QuantizedModel
        The same in integers.
    changed : ndarray, (clips,)
        Windows decided otherwise than by the dense float network.
    kept, calibration, held_out : float
        Shares of decisions kept: over all clips, over those that the number formats were chosen on,
        and over the others.
    saturations : int
        In the cell state and at the outputs, over all steps.
    """

    density: float
    pruned: Model
    model: QuantizedModel
    changed: np.ndarray
    kept: float
    calibration: float
    held_out: float
    saturations: int


def trial(task: Task, density: float, config: Config) -> Trial:
    """Prune to ``density`` for the PEs of ``config``, quantize, and hear all clips."""
    pruned = prune(task.silero.lstm, density, config.pes, config.groups)
    model = quantize(pruned, task.calibration_frames, config)
    turns = schedule([len(vectors) for vectors in task.features], config.channels)
    frames, active, reset = lay_out(task.features, turns, config.channels)
    reference = Reference(model, config.channels)
    y = reference.run(model.quantize_input(frames)[0], active, reset)
    changed = task.changed(pick_up(model.dequantize_output(y), turns))
    return Trial(density=density, pruned=pruned, model=model, changed=changed, kept=task.kept(changed),
                 calibration=task.kept(changed, task.calibrates),
                 held_out=task.kept(changed, ~task.calibrates),
                 saturations=sum(reference.saturations.values()))


def steps_down(first: int, last: int, step: int) -> list[float]:
    """Densities from ``first`` to ``last`` percent."""
    return [percent / 100 for percent in range(first, last - 1, -step)]


def lowest(task: Task, config: Config, keep: float = KEEP,
           progress: Callable[[Trial], None] = lambda trial: None) -> list[Trial]:
    """Walk down from the dense model, in steps of 10 % and then of 1 %, while ``keep`` holds.

    What is kept does not fall steadily with the density, so a lower one may by luck do better than the
    first that fails. The walk stops there all the same: all tried densities above the answer hold too.

    Parameters
    ----------
    progress : callable
        Called with every trial as it is made.

    Returns
    -------
    list of Trial
        By falling density, without those that fail; the last is the answer.

    Raises
    ------
    ValueError
        If not even the dense model keeps ``keep``.
    """
    held: list[Trial] = []
    floor = FINE
    for step in (COARSE, FINE):
        first = round(100 * held[-1].density) - step if held else 100
        for density in steps_down(first, floor, step):
            made = trial(task, density, config)
            progress(made)
            if made.kept < keep:
                floor = round(100 * density) + FINE
                break
            held.append(made)
    if not held:
        raise ValueError(f"not even the dense model keeps {keep:.1%} of the decisions")
    return held


clips_option = click.option(
    "--clips", type=click.Path(path_type=Path), default=CLIPS, metavar="FOLDER",
    help="WAV files, 16 kHz, 16 bits, mono, instead of the project's own.")


@click.command()
@click.option("--preset", "name", type=click.Choice(sorted(PRESETS)), default="demo", show_default=True,
              help="The machine.")
@clips_option
@click.option("--step", type=click.IntRange(1, 50), default=5, show_default=True, help="In percent.")
def main(name: str, clips: Path, step: int) -> None:
    """Print how many of Silero VAD's decisions survive one-shot pruning, density by density."""
    task = Task.load(clips)
    rows = Table(title=f"{task.windows:,} windows, {len(task.clips)} clips, preset {name}")
    for heading in ("density", "changed", "kept", "calibration clips", "held-out clips", "saturations"):
        rows.add_column(heading, justify="right")
    for density in steps_down(100, step, step):
        made = trial(task, density, PRESETS[name])
        rows.add_row(f"{made.density:.0%}", f"{made.changed.sum()}", f"{made.kept:.2%}",
                     f"{made.calibration:.2%}", f"{made.held_out:.2%}", f"{made.saturations}")
    Console().print(rows)


if __name__ == "__main__":
    main()
