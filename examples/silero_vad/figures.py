# SPDX-License-Identifier: Apache-2.0
"""Gather the figures of a run, print them as a table, and keep them as JSON."""

import dataclasses
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from rich.table import Table

from examples.silero_vad.clips import Turn, pick_up
from examples.silero_vad.density import Trial
from examples.silero_vad.task import Task
from openese import Image
from openese.sw.pack.schedule import Schedule

__all__ = ["Deviation", "Figures", "Job", "Matrix", "gather", "table"]


@dataclass(frozen=True)
class Job:
    """The inputs and results of a run.

    Attributes
    ----------
    expected, words : ndarray, (T, channels, P)
        Output words of the reference, and of the Verilog.
    input_saturations, reference_saturations : int
        Saturated inputs, and saturated cell states and outputs in the reference.
    counters : dict of str to int
        The machine's counters, by the names in `openese.rtl.registers.COUNTERS`.
    cycles_per_second : float
        The speed of the simulation.
    """

    task: Task
    chosen: Trial
    plan: Schedule
    image: Image
    turns: list[Turn]
    expected: np.ndarray
    words: np.ndarray
    input_saturations: int
    reference_saturations: int
    counters: dict[str, int]
    cycles_per_second: float

    @cached_property
    def outputs(self) -> list[np.ndarray]:
        """The outputs of the Verilog as real numbers, (T_clip, P) for each clip."""
        return pick_up(self.chosen.model.dequantize_output(self.words), self.turns)


@dataclass(frozen=True)
class Matrix:
    """A stored matrix of a layer, with stacked gates.

    Attributes
    ----------
    density : float
        The share of weights that are not zero.
    entries : (int, int)
        The smallest and largest number of encoded entries on a PE, including padding.
    padding : int
        Entries of all PEs that hold no weight and only bridge a gap.
    """

    layer: str
    matrix: str
    density: float
    entries: tuple[int, int]
    padding: int


@dataclass(frozen=True)
class Deviation:
    """The machine's outputs against a float model: largest and RMS error, and changed decisions."""

    largest: float
    rms: float
    changed: int


@dataclass(frozen=True)
class Figures:
    """The figures of a run.

    Attributes
    ----------
    density : float
        The density given to the pruning.
    kept, held_out : float
        The shares of the dense float network's decisions that the machine also makes: on all clips, and on clips
        that are not used for calibration.
    from_pruned, from_dense : Deviation
        From the pruned float model (the cost of the integers), and from the dense one (the cost of pruning and
        integers).
    steps, cycles_per_step, busy :
        The simulated machine's steps, cycles a step, and share of multiplier cycles spent on weights.
    words, wrong_words : int
        Output words compared with the reference, and those that differ.
    saturations, reference_saturations : int
        Saturated cell states and outputs in the machine, and in the reference.
    """

    model: str
    config: str
    pes: int
    channels: int
    clips: int
    seconds: float
    windows: int
    density: float
    kept: float
    held_out: float
    matrices: tuple[Matrix, ...]
    image_bytes: int
    float_bytes: int
    from_pruned: Deviation
    from_dense: Deviation
    input_saturations: int
    reference_saturations: int
    steps: int
    words: int
    wrong_words: int
    saturations: int
    cycles_per_step: float
    busy: float
    cycles_per_second: float

    @property
    def right(self):
        """Whether every word and the number of saturations equal the reference's."""
        return not self.wrong_words and self.saturations == self.reference_saturations

    def to_dict(self):
        """Return the figures as plain types for JSON."""
        return dataclasses.asdict(self) | {"right": self.right}


def _deviation(task: Task, outputs: list[np.ndarray], exact: list[np.ndarray]) -> Deviation:
    error = np.concatenate(outputs) - np.concatenate(exact)
    decisions = zip(task.decisions(outputs), task.decisions(exact), strict=True)
    return Deviation(largest=float(np.abs(error).max()), rms=float(np.sqrt(np.mean(error * error))),
                     changed=sum(int(np.count_nonzero(ours != theirs)) for ours, theirs in decisions))


def _matrices(plan: Schedule) -> tuple[Matrix, ...]:
    """Return the stored matrices; the parts of a split matrix are added."""
    lengths: dict[tuple[int, str], np.ndarray] = {}
    for operation in plan.operations:
        place = operation.layer, operation.matrix
        lengths[place] = lengths.get(place, 0) + operation.encoded.lengths
    matrices = []
    for (number, name), entries in lengths.items():
        layer = plan.model.layers[number]
        weights = getattr(layer, name)
        nonzeros = int(np.count_nonzero(weights))
        matrices.append(Matrix(layer=layer.name, matrix=name, density=nonzeros / weights.size,
                               entries=(int(entries.min()), int(entries.max())),
                               padding=int(entries.sum()) - nonzeros))
    return tuple(matrices)


def gather(job: Job) -> Figures:
    """Compare the outputs with the reference and with both float models."""
    task, chosen, outputs, counters = job.task, job.chosen, job.outputs, job.counters
    config, dense, changed = job.plan.config, task.silero.lstm, task.changed(job.outputs)
    return Figures(
        model=chosen.model.name, config=config.name, pes=config.pes, channels=config.channels,
        clips=len(task.clips), seconds=sum(clip.seconds for clip in task.clips), windows=task.windows,
        density=chosen.density, kept=task.kept(changed), held_out=task.kept(changed, ~task.calibrates),
        matrices=_matrices(job.plan), image_bytes=job.image.bytes, float_bytes=4 * dense.parameters,
        from_pruned=_deviation(task, outputs, task.float_outputs(chosen.pruned)),
        from_dense=_deviation(task, outputs, task.dense_outputs),
        input_saturations=job.input_saturations, reference_saturations=job.reference_saturations,
        steps=counters["steps"], words=job.words.size,
        wrong_words=int(np.count_nonzero(job.words != job.expected)),
        saturations=counters["saturated"], cycles_per_step=counters["cycles"] / counters["steps"],
        busy=counters["busy"] / (counters["cycles"] * config.pes),
        cycles_per_second=job.cycles_per_second)


def table(figures: Figures) -> Table:
    """Return the figures as a table."""
    f = figures
    verdict = "[bold green]yes[/]" if f.right else "[bold red]NO[/]"
    rows = Table(title=f"{f.model} on {f.config}: {f.pes} PEs x {f.channels} channels", show_header=False)
    rows.add_column(style="bold")
    rows.add_column()
    rows.add_row("speech", f"{f.clips} clips, {f.seconds:.1f} s, {f.windows:,} windows in {f.steps} steps")
    for matrix in f.matrices:
        least, most = matrix.entries
        rows.add_row(f"{matrix.layer} {matrix.matrix}",
                     f"density {matrix.density:.2%}; entries per PE: min {least:,}, max {most:,} "
                     f"({matrix.padding:,} padding entries in total)")
    rows.add_row("image", f"{f.image_bytes:,} bytes: {f.float_bytes / f.image_bytes:.2f} x smaller "
                                 f"than float32 ({f.float_bytes:,})")
    rows.add_row("cycles per step", f"{f.cycles_per_step:,.0f}")
    rows.add_row("multipliers busy", f"{f.busy:.2%}")
    rows.add_row("Verilog == reference", f"{verdict}: {f.words - f.wrong_words:,} of {f.words:,} output words")
    for name, error in (("same weights in float", f.from_pruned), ("dense float network", f.from_dense)):
        rows.add_row(f"error: {name}", f"max {error.largest:.4f}, RMS {error.rms:.5f}; {error.changed} of "
                                       f"{f.windows:,} decisions changed ({error.changed / f.windows:.2%})")
    rows.add_row("decisions kept", f"{f.kept:.2%}; on held-out clips {f.held_out:.2%}")
    rows.add_row("saturations", f"{f.saturations} in cell states and outputs (reference "
                                f"{f.reference_saturations}), {f.input_saturations} at the input")
    rows.add_row("simulation", f"{f.cycles_per_second:,.0f} cycles per second")
    return rows
