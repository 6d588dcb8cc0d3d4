# SPDX-License-Identifier: Apache-2.0
"""Draw the run: a spectrogram, the decisions, and the busy share of the multipliers."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes

from examples.silero_vad.figures import Job
from examples.silero_vad.machine import Trace
from examples.silero_vad.network import SAMPLE_RATE, THRESHOLD, WINDOW
from examples.silero_vad.task import Task
from openese.output import replacing

__all__ = ["draw"]

DPI = 100
FLOAT, VERILOG, CHANGED = "#9a9a9a", "#0b5fa5", "#d1495b"


def draw(job: Job, trace: Trace, path: Path) -> None:
    """Write a PNG of the clip with the most changed decisions, and of the busy share over some steps."""
    matplotlib.use("Agg")
    figure, (spectrum, decisions, busy) = pyplot.subplots(
        3, 1, figsize=(10, 7.5), height_ratios=(2, 2, 1.4), layout="constrained")
    number = int(np.argmax(job.task.changed(job.outputs)))
    _spectrum(spectrum, job.task, number)
    decisions.sharex(spectrum)
    _decisions(decisions, job, number)
    _busy(busy, job, trace)
    with replacing(path) as file:
        figure.savefig(file, dpi=DPI, format="png")
    pyplot.close(figure)


def _spectrum(axes: Axes, task: Task, number: int) -> None:
    clip = task.clips[number]
    magnitude = task.silero.magnitude(clip.audio)
    level = 20 * np.log10(np.maximum(magnitude.transpose(1, 0, 2).reshape(magnitude.shape[1], -1), 1e-4))
    seconds = len(magnitude) * WINDOW / SAMPLE_RATE
    axes.imshow(level, origin="lower", aspect="auto", interpolation="nearest", cmap="magma", vmin=-50,
                extent=(0, seconds, 0, SAMPLE_RATE / 2000))
    axes.set(ylabel="kHz")
    axes.set_title(f"Spectrogram of {clip.name}", loc="left")
    axes.tick_params(labelbottom=False)


def _decisions(axes: Axes, job: Job, number: int) -> None:
    ours, dense = (job.task.silero.probability(outputs[number])
                   for outputs in (job.outputs, job.task.dense_outputs))
    limits = np.arange(len(ours) + 1) * WINDOW / SAMPLE_RATE
    different = np.flatnonzero((ours >= THRESHOLD) != (dense >= THRESHOLD))
    for window in different:
        axes.axvspan(limits[window], limits[window + 1], color=CHANGED, alpha=0.3, lw=0,
                     label="decision changed" if window == different[0] else None)
    axes.stairs(dense, limits, baseline=None, color=FLOAT, lw=2.5, label="dense float network")
    axes.stairs(ours, limits, baseline=None, color=VERILOG, lw=1.2,
                label=f"Verilog: density {job.chosen.density:.0%}, 12-bit weights")
    axes.axhline(THRESHOLD, color="black", lw=0.8, ls=":")
    axes.set(ylim=(-0.03, 1.03), ylabel="probability", xlabel="seconds")
    axes.set_title("Probability of speech", loc="left")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False, borderaxespad=0)


def _busy(axes: Axes, job: Job, trace: Trace) -> None:
    config = job.plan.config
    axes.stairs(100 * trace.busy, trace.cycles, color=VERILOG, fill=True, alpha=0.85)
    for cycle in trace.steps:
        axes.axvline(cycle, color="black", lw=1, ls="--")
    axes.set(xlim=trace.cycles[[0, -1]], ylim=(0, 105), ylabel="busy, %", xlabel="clock cycles")
    axes.set_title(f"Busy share of the {config.multipliers} multipliers (dashed: end of a step)", loc="left")
