# SPDX-License-Identifier: Apache-2.0
"""``python -m examples.zoo``: every model, dense and at 10 % density, against its own runtime."""

import sys
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from rich.console import Console

from docs.markdown import DOCS, with_table
from examples.silero_vad.clips import CLIPS, load_all
from examples.zoo.exhibits import Exhibit, exhibits
from openese.sw import compile as pipeline
from openese.sw import files, importers
from openese.sw.pack.schedule import CapacityError
from openese.sw.run.runners import FloatRunner

DENSITIES = (1.0, 0.1)
LARGER = "ese_stream"
PAGE = DOCS / "results" / "index.md"
HEADER = """\
| model | layers | density | machine | image | import | error | which means | words |
|---|---|---|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Heard:
    """What an exhibit is given, and what its runtime answers, clip by clip.

    ``imported`` is the largest difference of our float model from that.
    """

    calibration: np.ndarray
    frames: list
    exact: list
    imported: float


def listen(exhibit: Exhibit, clips) -> Heard:
    """All clips through an exhibit's front end; those held out through its runtime and our float model."""
    given = [exhibit.hear(clip.audio) for clip in clips]
    held_out = given[1::2]
    exact = [exhibit.runtime(frames) for frames in held_out]
    network = importers.load(exhibit.file, exhibit.select)
    floats = [FloatRunner(direction.model) for direction in network.directions]
    imported = max(float(np.abs(network.run(frames, floats)[0] - right).max())
                   for frames, right in zip(held_out, exact, strict=True))
    return Heard(_side_by_side(given[::2])[0], held_out, exact, imported)


def _side_by_side(sequences):
    """Batches (T, B, I) as one, padded with zeros, and the length of each sequence."""
    longest = max(len(frames) for frames in sequences)
    padded = [np.pad(frames, ((0, longest - len(frames)), (0, 0), (0, 0))) for frames in sequences]
    lengths = [len(frames) for frames in sequences for _ in range(frames.shape[1])]
    return np.concatenate(padded, axis=1), np.array(lengths)


def _apart(outputs, frames):
    """`_side_by_side` undone."""
    ends = np.cumsum([given.shape[1] for given in frames])
    return [outputs[:len(given), end - given.shape[1]:end] for given, end in zip(frames, ends, strict=True)]


def _machine_outputs(compiled, heard, simulate):
    """Outputs of the reference, clip by clip; with ``simulate``, checked against the Verilog's."""
    frames, lengths = _side_by_side(heard.frames)
    y = compiled.run(frames, lengths)
    if simulate:
        seen = compiled.run(frames, lengths, "sim")
        if not np.array_equal(seen, y):
            raise files.FileError(f"{compiled.network.name}: {np.count_nonzero(seen != y)} outputs of the Verilog "
                                  f"differ from the reference's")
    return _apart(y, heard.frames)


def _packed(network, heard, preset):
    """The network for a preset; where that is too small, for the one that reads its weights from memory."""
    quantized = pipeline.quantize(network, heard.calibration, preset)
    try:
        return pipeline.pack(quantized)
    except CapacityError as error:
        click.echo(f"openese: {error}; taking preset {LARGER}", err=True)
        return pipeline.pack(quantized, LARGER)


def row(exhibit: Exhibit, heard: Heard, density: float, simulate: bool) -> str:
    """One line of the table."""
    network = importers.load(exhibit.file, exhibit.select)
    layers = ", ".join(f"{layer.inputs} -> {layer.cells}" for direction in network.directions
                       for layer in direction.model.layers)
    if density < 1:
        network = pipeline.prune(network, density, exhibit.preset)
    compiled = _packed(network, heard, exhibit.preset)
    found = _machine_outputs(compiled, heard, simulate)
    difference, signal = (np.concatenate([part.ravel() for part in parts]) for parts in (
        [a - b for a, b in zip(found, heard.exact, strict=True)], heard.exact))
    error = np.sqrt(np.mean(difference**2) / np.mean(signal**2))
    return (f"| {exhibit.name} | {layers} | {density:.0%} | {compiled.config.name} "
            f"| {sum(image.bytes for image in compiled.images):,} B | {heard.imported:.1e} | {error:.2%} "
            f"| {exhibit.meaning(found, heard.exact)} "
            f"| {'reference = Verilog' if simulate else 'reference'} |")


@click.command()
@click.option("--simulate/--no-simulate", default=True, help="Also run the Verilog of the demo machine.")
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE",
              help="A file for the table.  [default: the page of the documentation]")
def main(simulate: bool, output: Path | None) -> None:
    """Import every model of the zoo, compile it, run it on recorded speech, and write the table."""
    clips = load_all(CLIPS)
    console, lines = Console(stderr=True), []
    for exhibit in exhibits():
        with console.status(f"{exhibit.name}: the original runtime"):
            heard = listen(exhibit, clips)
        for density in DENSITIES:
            with console.status(f"{exhibit.name} at {density:.0%}"):
                lines.append(row(exhibit, heard, density, simulate and exhibit.preset == "demo"))
            click.echo(lines[-1])
    table = HEADER + "\n".join(lines).replace("%", " %") + "\n"
    if output is None:
        PAGE.write_text(with_table(PAGE.read_text(), "zoo", table))
    else:
        output.write_text(table)


if __name__ == "__main__":
    try:
        main(standalone_mode=False)
    except ValueError as problem:
        sys.exit(f"openese: {problem}")
