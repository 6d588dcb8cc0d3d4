# SPDX-License-Identifier: Apache-2.0
"""All of it in one picture: what was heard, what was decided, how busy the multipliers were."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes

from examples.silero_vad.figures import Job
from examples.silero_vad.machine import Trace
from examples.silero_vad.network import SAMPLE_RATE, THRESHOLD, WINDOW
from examples.silero_vad.task import Task

__all__ = ["draw"]

DPI = 100
FLOAT, RTL, CHANGED = "#9a9a9a", "#0b5fa5", "#d1495b"


def draw(job: Job, seen: Trace, path: Path) -> None:
    """Write a PNG: the clip on which most decisions changed, and the busy share over some steps."""
    matplotlib.use("Agg")
    figure, (spectrum, decisions, busy) = pyplot.subplots(
        3, 1, figsize=(10, 7.5), height_ratios=(2, 2, 1.4), layout="constrained")
    number = int(np.argmax(job.task.changed(job.outputs)))
    _spectrum(spectrum, job.task, number)
    decisions.sharex(spectrum)
    _decisions(decisions, job, number)
    _busy(busy, job, seen)
    figure.savefig(path, dpi=DPI)
    pyplot.close(figure)


def _spectrum(axes: Axes, task: Task, number: int) -> None:
    clip = task.clips[number]
    magnitude = task.silero.magnitude(clip.audio)
    level = 20 * np.log10(np.maximum(magnitude.transpose(1, 0, 2).reshape(magnitude.shape[1], -1), 1e-4))
    seconds = len(magnitude) * WINDOW / SAMPLE_RATE
    axes.imshow(level, origin="lower", aspect="auto", interpolation="nearest", cmap="magma", vmin=-50,
                extent=(0, seconds, 0, SAMPLE_RATE / 2000))
    axes.set(ylabel="kHz")
    axes.set_title(f"What is heard: {clip.name}", loc="left")
    axes.tick_params(labelbottom=False)


def _decisions(axes: Axes, job: Job, number: int) -> None:
    ours, right = (job.task.silero.probability(outputs[number])
                   for outputs in (job.outputs, job.task.dense_outputs))
    limits = np.arange(len(ours) + 1) * WINDOW / SAMPLE_RATE
    different = np.flatnonzero((ours >= THRESHOLD) != (right >= THRESHOLD))
    for window in different:
        axes.axvspan(limits[window], limits[window + 1], color=CHANGED, alpha=0.3, lw=0,
                     label="decision changed" if window == different[0] else None)
    axes.stairs(right, limits, baseline=None, color=FLOAT, lw=2.5, label="dense float network")
    axes.stairs(ours, limits, baseline=None, color=RTL, lw=1.2,
                label=f"RTL: {job.chosen.density:.0%} of the weights, 12 bits")
    axes.axhline(THRESHOLD, color="black", lw=0.8, ls=":")
    axes.set(ylim=(-0.03, 1.03), ylabel="probability", xlabel="seconds")
    axes.set_title("What is decided: speech?", loc="left")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False, borderaxespad=0)


def _busy(axes: Axes, job: Job, seen: Trace) -> None:
    config = job.plan.config
    axes.stairs(100 * seen.busy, seen.cycles, color=RTL, fill=True, alpha=0.85)
    for cycle in seen.steps:
        axes.axvline(cycle, color="black", lw=1, ls="--")
    axes.set(xlim=seen.cycles[[0, -1]], ylim=(0, 105), ylabel="busy, %", xlabel="clock cycles")
    axes.set_title(f"How busy the {config.multipliers} multipliers are (dashed: a step is done)", loc="left")
