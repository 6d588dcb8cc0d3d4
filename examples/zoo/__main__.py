# SPDX-License-Identifier: Apache-2.0
"""``python -m examples.zoo`` compares every model, dense and at 10 % density, with its own runtime."""

import sys
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from rich.console import Console

import openese
from docs.markdown import DOCS, with_table
from examples.silero_vad.clips import CLIPS, load_all
from examples.zoo.exhibits import Exhibit, exhibits
from openese.output import write_text
from openese.sw import files
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
class Recordings:
    """The frames of all clips for an exhibit, and the outputs of its own runtime.

    Attributes
    ----------
    calibration : ndarray, (T, B, I)
        Every second clip, from the first.
    frames : list of ndarray, (T, B, I)
        The other clips.
    exact : list of ndarray, (T, B, P)
        The runtime's outputs for ``frames``.
    imported : float
        The largest difference of the imported float model from ``exact``.
    """

    calibration: np.ndarray
    frames: list
    exact: list
    imported: float


def run_original(exhibit: Exhibit, clips) -> Recordings:
    """Run all clips through an exhibit's front end, and the held-out ones through its runtime."""
    features = [exhibit.features(clip.audio) for clip in clips]
    held_out = features[1::2]
    exact = [exhibit.runtime(frames) for frames in held_out]
    network = openese.load(exhibit.file, exhibit.select)
    floats = [FloatRunner(direction.model) for direction in network.directions]
    imported = max(float(np.abs(network.run(frames, floats)[0] - outputs).max())
                   for frames, outputs in zip(held_out, exact, strict=True))
    return Recordings(_joined(features[::2])[0], held_out, exact, imported)


def _joined(sequences):
    """Return batches (T, B, I) as one batch, padded with zeros, and the length of each sequence."""
    longest = max(len(frames) for frames in sequences)
    padded = [np.pad(frames, ((0, longest - len(frames)), (0, 0), (0, 0))) for frames in sequences]
    lengths = [len(frames) for frames in sequences for _ in range(frames.shape[1])]
    return np.concatenate(padded, axis=1), np.array(lengths)


def _split(outputs, frames):
    """Return joined outputs as one array for each batch in ``frames``."""
    ends = np.cumsum([batch.shape[1] for batch in frames])
    return [outputs[:len(batch), end - batch.shape[1]:end] for batch, end in zip(frames, ends, strict=True)]


def _machine_outputs(compiled, recordings, simulate):
    """Return the reference's outputs for each clip; with ``simulate``, compare them with the Verilog's."""
    frames, lengths = _joined(recordings.frames)
    y = compiled.run(frames, lengths)
    if simulate:
        verilog = compiled.run(frames, lengths, "sim")
        if not np.array_equal(verilog, y):
            raise files.FileError(f"{compiled.network.name}: {np.count_nonzero(verilog != y)} outputs of the Verilog "
                                  f"differ from the reference's")
    return _split(y, recordings.frames)


def _packed(network, recordings, preset):
    """Return the network packed for a preset; if it does not fit, for the preset that streams its weights."""
    quantized = openese.quantize(network, recordings.calibration, preset)
    try:
        return openese.pack(quantized)
    except CapacityError as error:
        click.echo(f"openese: {error}; taking preset {LARGER}", err=True)
        return openese.pack(quantized, LARGER)


def row(exhibit: Exhibit, recordings: Recordings, density: float, simulate: bool) -> str:
    """Return a row of the table."""
    network = openese.load(exhibit.file, exhibit.select)
    layers = ", ".join(f"{layer.inputs} -> {layer.cells}" for direction in network.directions
                       for layer in direction.model.layers)
    if density < 1:
        network = openese.prune(network, density, exhibit.preset)
    compiled = _packed(network, recordings, exhibit.preset)
    outputs = _machine_outputs(compiled, recordings, simulate)
    difference, signal = (np.concatenate([part.ravel() for part in parts]) for parts in (
        [a - b for a, b in zip(outputs, recordings.exact, strict=True)], recordings.exact))
    error = np.sqrt(np.mean(difference**2) / np.mean(signal**2))
    return (f"| {exhibit.name} | {layers} | {density:.0%} | {compiled.config.name} "
            f"| {sum(image.bytes for image in compiled.images):,} B | {recordings.imported:.1e} | {error:.2%} "
            f"| {exhibit.meaning(outputs, recordings.exact)} "
            f"| {'reference = Verilog' if simulate else 'reference'} |")


@click.command()
@click.option("--simulate/--no-simulate", default=True, help="Also run the Verilog of the demo machine.")
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE",
              help="A file for the table.  [default: the page of the documentation]")
def main(simulate: bool, output: Path | None) -> None:
    """Import every model of the zoo, compile it, run it on recorded speech, and write the table of results."""
    clips = load_all(CLIPS)
    console, lines = Console(stderr=True), []
    for exhibit in exhibits():
        with console.status(f"{exhibit.name}: the original runtime"):
            recordings = run_original(exhibit, clips)
        for density in DENSITIES:
            with console.status(f"{exhibit.name} at {density:.0%}"):
                lines.append(row(exhibit, recordings, density, simulate and exhibit.preset == "demo"))
            click.echo(lines[-1])
    table = HEADER + "\n".join(lines).replace("%", " %") + "\n"
    if output is None:
        write_text(PAGE, with_table(PAGE.read_text(), "zoo", table))
    else:
        write_text(output, table)


if __name__ == "__main__":
    try:
        main(standalone_mode=False)
    except ValueError as problem:
        sys.exit(f"openese: {problem}")
