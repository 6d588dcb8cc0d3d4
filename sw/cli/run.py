# SPDX-License-Identifier: Apache-2.0
"""The command run."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from rich.console import Console

from openese.sw import files
from openese.sw.cli import show, whole
from openese.sw.cli.machines import Backend, progress, reference
from openese.sw.cli.options import NEW_FILE, PATH, carry_option, file_output_option, keep_inputs, trust_option
from openese.sw.compile import CompiledNetwork
from openese.sw.model.arrays import FloatArray
from openese.sw.model.network import Network
from openese.sw.model.sequences import Sequences
from openese.sw.run.runners import FloatRunner, Machine, MachineRunner
from openese.sw.run.serial_link import BAUD

__all__ = ["check", "run"]


@click.command()
@click.argument("compiled", type=PATH)
@click.argument("inputs", type=PATH)
@file_output_option
@click.option("--backend", type=click.Choice(["reference", "sim", "serial"]), default="reference", show_default=True,
              help="The integer model in numpy, the Verilog in Verilator, or a board.")
@click.option("--port", "ports", multiple=True, metavar="PORT",
              help="The board's serial port, as /dev/ttyUSB0; one for each image of the network.")
@click.option("--baud", type=click.IntRange(min=1), default=BAUD, show_default=True,
              help="Bits a second on the serial port.")
@click.option("--name", metavar="NAME", help="Of an image that holds several models, the one to run.")
@click.option("--model", type=PATH, metavar="NETWORK",
              help="Of an image, the network in floating point: apply its head, and show the error against it.")
@click.option("--against", type=PATH, metavar="FILE",
              help="Of a whole network, the file that it was compiled from: show the error of every output against "
                   "it, run by its own runtime.")
@carry_option
@trust_option
@click.option("--check", "checked", is_flag=True,
              help="Also run the reference, and fail unless every output word is the same.")
@click.option("--trace", type=NEW_FILE, metavar="FILE",
              help="Write a waveform (VCD) of some steps of the Verilog, and a view of it for GTKWave beside it; "
                   "one for each image of the network.")
@click.option("--trace-steps", default="0:2", show_default=True, metavar="FIRST:STOP", help="Which steps.")
def run(compiled: Path, inputs: Path, output: Path, backend: str, ports: Sequence[str], baud: int, name: str | None,
        model: Path | None, against: Path | None, carry: Sequence[str], trust: bool, checked: bool, trace: Path | None,
        trace_steps: str) -> None:
    """Run INPUTS through COMPILED.

    COMPILED is what compile or pack wrote. Of a whole network, INPUTS and the outputs are arrays by name (.npz), or
    one array (.npy) of a network of one input or output; their axes are those of the network's file. Of an image,
    INPUTS are frames; the outputs are a .npy array, (T, P) or (T, B, P) as the frames; if PATH ends in .npz, with the
    lengths.

    \b
    Examples:
      openese run net speech.npz -o out.npz --against net.onnx
      openese run net.img speech.npy -o out.npy
      openese run both.img speech.npy -o out.npy --name first
      openese run net.img speech.npy -o out.npy --backend sim --check --model sparse.npz
      openese run net.img speech.npy -o out.npy --backend serial --port /dev/ttyUSB0
      openese run net.img speech.npy -o out.npy --backend sim --trace wave.vcd --trace-steps 10:12
    """
    keep_inputs(output, compiled, inputs, model, against)
    machines = Backend(backend, ports, baud, trace, _trace_window(trace_steps))
    if files.kind(compiled) == "whole":
        if model is not None:
            raise click.UsageError("--model goes with an image; a whole network is compared by --against FILE")
        if name is not None:
            raise click.UsageError("--name goes with an image of several models; this is a whole network")
        whole.run(compiled, inputs, output, machines, checked, against, trust, carry)
        return
    for option, given in (("--against", against), ("--carry", carry), ("--trust", trust)):
        if given:
            raise click.UsageError(f"{option} goes with a whole network; {compiled} is an image of LSTMs alone")
    _run_image(compiled, name, inputs, output, machines, model, checked)


def _run_image(path: Path, name: str | None, frames: Path, output: Path, backend: Backend, model: Path | None,
               checked: bool) -> None:
    exact = files.load_network(model) if model is not None else None
    held = CompiledNetwork.load(path)
    names = held.images[0].names
    if name is None and len(names) > 1:
        raise click.UsageError(f"{path} holds the models {', '.join(names)}: choose one by --name")
    compiled = replace(held, images=tuple(image.select(name or 0) for image in held.images), given=exact or held.given)
    sequences = Sequences.load(frames, compiled.network.inputs, compiled.network.batch_first)
    total = sequences.machine_steps(compiled.config.channels)
    if backend.trace is not None and backend.steps.start >= total:
        raise click.UsageError(f"--trace-steps {backend.steps.start}:{backend.steps.stop}: the run has {total:,} steps")
    with ExitStack() as stack:
        y = _run(compiled.network, backend.open(compiled.images, stack), sequences, backend.name)
    if checked:
        twins: list[Machine] = [reference(held) for held in compiled.images]
        check(y, _run(compiled.network, twins, sequences, "reference"))
    sequences.save(output, y)
    if exact is not None:
        runners = [FloatRunner(direction.model) for direction in exact.directions]
        with Console(stderr=True).status("running the network in floating point"):
            wanted, _ = exact.run(sequences.frames, runners, sequences.lengths)
        show.error(y, wanted)


def _trace_window(steps: str) -> range:
    """The steps to trace."""
    first, _, stop = steps.partition(":")
    if not (first.isdecimal() and stop.isdecimal() and int(first) < int(stop)):
        raise click.BadParameter(f"--trace-steps {steps!r}: expected FIRST:STOP, two numbers, the second larger")
    return range(int(first), int(stop))


def _run(network: Network, machines: Sequence[Machine], sequences: Sequences, title: str) -> FloatArray:
    """Outputs of all sequences, with a progress bar."""
    with progress(title, len(machines) * sequences.machine_steps(machines[0].channels)) as advance:
        runners = [MachineRunner(machine, advance) for machine in machines]
        y, _ = network.run(sequences.frames, runners, sequences.lengths)
    show.ran(machines, sum(runner.input_saturations for runner in runners))
    return y


def check(outputs: FloatArray, wanted: FloatArray) -> None:
    """Fail unless all output words are the reference's."""
    different = int(np.count_nonzero(outputs != wanted))
    if different:
        raise files.FileError(f"{different:,} of {outputs.size:,} output words differ from the reference's")
    show.line(f"all {outputs.size:,} output words are the reference's")
