# SPDX-License-Identifier: Apache-2.0
"""Find the lowest density at which one-shot pruning keeps the decisions.

Each trial prunes with load balance, quantizes on the calibration clips, and runs all clips on the reference. It
trains no weight.

``python -m examples.silero_vad.density`` prints the decisions kept at each density.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table

import openese
from examples.silero_vad.clips import CLIPS, lay_out, pick_up, schedule
from examples.silero_vad.task import Task
from openese import PRESETS, Config, Model, QuantizedModel, Reference

__all__ = ["KEEP", "Trial", "clips_option", "lowest", "steps_down", "trial"]

KEEP = 0.99
COARSE, FINE = 10, 1  # percent


@dataclass(frozen=True)
class Trial:
    """The result of one density.

    Attributes
    ----------
    density : float
        The given density. The model keeps slightly less, because every slice rounds down.
    pruned : Model
        In floating point.
    model : QuantizedModel
        The same model in integers.
    changed : ndarray, (clips,)
        The number of windows whose decision differs from the dense float network's.
    kept, calibration, held_out : float
        The shares of decisions kept: on all clips, on the calibration clips, and on the others.
    saturations : int
        Saturated cell states and outputs in all steps.
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
    """Prune to ``density`` for the machine ``config``, quantize, and run all clips on the reference."""
    pruned = openese.prune(task.silero.lstm, density, config)
    model, = openese.quantize(pruned, task.calibration_frames, config).models
    turns = schedule([len(vectors) for vectors in task.features], config.channels)
    frames, active, reset = lay_out(task.features, turns, config.channels)
    reference = Reference(model, config.channels)
    y = reference.run(model.quantize_input(frames)[0], active, reset)
    changed = task.changed(pick_up(model.dequantize_output(y), turns))
    return Trial(density=density, pruned=pruned.model, model=model, changed=changed, kept=task.kept(changed),
                 calibration=task.kept(changed, task.calibrates),
                 held_out=task.kept(changed, ~task.calibrates),
                 saturations=sum(reference.saturations.values()))


def steps_down(first: int, last: int, step: int) -> list[float]:
    """Return falling densities from ``first`` to ``last`` percent."""
    return [percent / 100 for percent in range(first, last - 1, -step)]


def lowest(task: Task, config: Config, keep: float = KEEP,
           progress: Callable[[Trial], None] = lambda trial: None) -> list[Trial]:
    """Lower the density from 100 % in steps of 10 %, then of 1 %, while the share ``keep`` of decisions is kept.

    The search stops at the first density that fails, although a lower one may pass by chance. All tried densities
    above the answer pass.

    Parameters
    ----------
    task : Task
    config : Config
        The machine.
    keep : float
        The share of decisions to keep.
    progress : callable
        Called with every trial.

    Returns
    -------
    list of Trial
        The trials that pass, by falling density; the last is the answer.

    Raises
    ------
    ValueError
        If the dense model keeps less than ``keep``.
    """
    passed: list[Trial] = []
    floor = FINE
    for step in (COARSE, FINE):
        first = round(100 * passed[-1].density) - step if passed else 100
        for density in steps_down(first, floor, step):
            made = trial(task, density, config)
            progress(made)
            if made.kept < keep:
                floor = round(100 * density) + FINE
                break
            passed.append(made)
    if not passed:
        raise ValueError(f"the dense model keeps less than {keep:.1%} of the decisions; lower --keep")
    return passed


clips_option = click.option(
    "--clips", type=click.Path(path_type=Path), default=CLIPS, metavar="FOLDER",
    help="A folder of WAV files (16 kHz, 16 bits, mono) to use instead of the bundled clips.")


@click.command()
@click.option("--preset", "name", type=click.Choice(sorted(PRESETS)), default="demo", show_default=True,
              help="The machine.")
@clips_option
@click.option("--step", type=click.IntRange(1, 50), default=5, show_default=True,
              help="From one density to the next, in percent.")
def main(name: str, clips: Path, step: int) -> None:
    """Print the share of Silero VAD's decisions that one-shot pruning keeps at each density."""
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
