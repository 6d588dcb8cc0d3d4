# SPDX-License-Identifier: Apache-2.0
"""The command transcribe: the recognizer that comes with the program, on recordings."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
from rich.console import Console

from openese.rtl.config import Config
from openese.sw.cli import show
from openese.sw.cli.machines import open_machine, progress, reference
from openese.sw.cli.options import NEW_PATH, PATH, machine_options
from openese.sw.cli.run import check
from openese.sw.files import load_network
from openese.sw.model.arrays import FloatArray
from openese.sw.model.layers import Model
from openese.sw.run.runners import Machine

if TYPE_CHECKING:
    from openese.sw.speech.recognizer import Recognizer, Transcript

__all__ = ["transcribe"]


@click.command()
@click.argument("files", type=PATH, nargs=-1, required=True, metavar="FILE...")
@click.option("--output", "-o", type=PATH, metavar="PATH",
              help="Draw the recording and its phones: a PNG, or a folder for several files.")
@click.option("--backend", type=click.Choice(["reference", "sim"]), default="reference", show_default=True,
              help="The integer model in numpy, or the Verilog in Verilator, which is then compared with it.")
@machine_options("ese")
@click.option("--beside", type=PATH, metavar="NETWORK",
              help="A network for the same phones in floating point, whose transcript is shown too.  "
                   "[default: the network before it was pruned, which a checkout holds]")
def transcribe(files: Sequence[Path], output: Path | None, backend: str, config: Config, beside: Path | None) -> None:
    """Recognize the phones in recordings.

    The network has the size of the ESE paper's, 10 % of its weights, and is part of this program. Recordings, up to as
    many as the machine has voices, run side by side. If X.txt lies beside X.wav, its first line is shown as the words
    that are spoken. On a machine with dense layers, as ese_whole, the host computes nothing between the features of the
    sound and the scores of the phones.

    \b
    Examples:
      openese transcribe speech.wav -o speech.png
      openese transcribe speech.wav --preset ese_whole
      openese transcribe speech.wav --backend sim --set channels=1
    """
    from openese.sw.speech import audio, recognizer
    if output is not None and len(files) > 1:
        output.mkdir(parents=True, exist_ok=True)
    elif output is not None:
        NEW_PATH(output)
    shipped = recognizer.Recognizer.load().on(config)
    other = _other(beside)
    recordings = [audio.read(path) for path in files]
    with ExitStack() as stack:
        machine = open_machine(shipped.image, backend, stack, voices=len(files))
        heard = _recognized(shipped, recordings, machine, backend)
    if backend == "sim":
        twin = _recognized(shipped, recordings, reference(shipped.image, len(files)), "reference")
        check(np.concatenate([one.logits for one in heard]), np.concatenate([one.logits for one in twin]))
    with Console(stderr=True).status("running the networks in floating point"):
        transcripts = {"machine": heard, "the same weights in float": shipped.run_float(recordings)}
        if other is not None:
            title = "dense, in float" if beside is None else beside.stem
            transcripts[title] = shipped.run_float(recordings, other, shipped.penalty_for(other))
    for number, path in enumerate(files):
        rows = {title: of_all[number].text or "(silence)" for title, of_all in transcripts.items()}
        show.transcripts(path.name, _spoken(path) | rows)
    show.real_time(shipped, len(files))
    if other is None:
        show.line("No comparison with the dense network: this installation does not hold it. For a row of it, take "
                  "sw/speech/dense.npz from the project's repository and give --beside dense.npz.")
    if output is not None:
        _draw(output, files, recordings, heard)


def _other(beside: Path | None) -> Model | None:
    """The network to compare with, if there is one."""
    from openese.sw.speech.recognizer import DENSE, Recognizer
    if beside is not None:
        return load_network(beside).model
    return Recognizer.dense() if DENSE.exists() else None


def _spoken(path: Path) -> dict[str, str]:
    """A row with the words in the text file beside a recording, if there is one."""
    text = path.with_suffix(".txt")
    if text == path or not text.is_file():
        return {}
    lines = text.read_text(encoding="utf-8", errors="replace").split("\n", 1)
    return {"spoken": lines[0].strip()}


def _recognized(shipped: "Recognizer", recordings: Sequence[FloatArray], machine: Machine,
                title: str) -> "list[Transcript]":
    """Transcripts, with a progress bar."""
    with progress(title, shipped.machine_steps(recordings, machine.channels)) as advance:
        return shipped.run(recordings, machine, advance)


def _draw(output: Path, files: Sequence[Path], recordings: Sequence[FloatArray],
          heard: "Sequence[Transcript]") -> None:
    """One PNG, or several in a folder, which is there."""
    from openese.sw.speech import picture
    for number, (path, recording, transcript) in enumerate(zip(files, recordings, heard, strict=True)):
        target = output if len(files) == 1 else output / f"{number:02d}-{path.stem}.png"
        picture.draw(path.name, recording, transcript, target)
