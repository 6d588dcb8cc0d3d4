# SPDX-License-Identifier: Apache-2.0
"""The command run, and machines with an image in them."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from openese.sw import files
from openese.sw.cli import show
from openese.sw.cli.options import NEW_FILE, PATH, file_output_option, keep_inputs
from openese.sw.compile import CompiledNetwork
from openese.sw.model.arrays import FloatArray
from openese.sw.model.network import Network
from openese.sw.model.sequences import Sequences
from openese.sw.pack.image import Image
from openese.sw.reference.machine import Reference
from openese.sw.run.device import Device
from openese.sw.run.runners import FloatRunner, Machine, MachineRunner
from openese.sw.run.serial_link import BAUD, SerialLink

__all__ = ["check", "open_machine", "progress", "reference", "run"]


@click.command()
@click.argument("image", type=PATH)
@click.argument("frames", type=PATH)
@file_output_option
@click.option("--backend", type=click.Choice(["reference", "sim", "serial"]), default="reference", show_default=True,
              help="The integer model in numpy, the Verilog in Verilator, or a board.")
@click.option("--port", "ports", multiple=True, metavar="PORT",
              help="The board's serial port, as /dev/ttyUSB0; one for each direction of the network.")
@click.option("--baud", type=click.IntRange(min=1), default=BAUD, show_default=True,
              help="Bits a second on the serial port.")
@click.option("--model", type=PATH, metavar="NETWORK",
              help="The network in floating point: apply its head, and show the error against it.")
@click.option("--check", "checked", is_flag=True,
              help="Also run the reference, and fail unless every output word is the same.")
@click.option("--trace", type=NEW_FILE, metavar="FILE",
              help="Write a waveform (VCD) of some steps of the Verilog, and a view of it for GTKWave beside it; "
                   "one for each direction of the network.")
@click.option("--trace-steps", default="0:2", show_default=True, metavar="FIRST:STOP", help="Which steps.")
def run(image: Path, frames: Path, output: Path, backend: str, ports: Sequence[str], baud: int, model: Path | None,
        checked: bool, trace: Path | None, trace_steps: str) -> None:
    """Run FRAMES through IMAGE.

    The outputs are a .npy array, (T, P) or (T, B, P) as the frames; if PATH ends in .npz, with the lengths.

    \b
    Examples:
      openese run net.img speech.npy -o out.npy
      openese run net.img speech.npy -o out.npy --backend sim --check --model sparse.npz
      openese run net.img speech.npy -o out.npy --backend serial --port /dev/ttyUSB0
      openese run net.img speech.npy -o out.npy --backend sim --trace wave.vcd --trace-steps 10:12
    """
    keep_inputs(output, image, frames, model)
    window = _trace_window(backend, trace, trace_steps)
    if ports and backend != "serial":
        raise click.UsageError("--port needs --backend serial")
    exact = files.load_network(model) if model is not None else None
    compiled = CompiledNetwork.load(image, exact)
    sequences = Sequences.load(frames, compiled.network.inputs)
    total = sequences.machine_steps(compiled.config.channels)
    if trace is not None and window[1].start >= total:
        raise click.UsageError(f"--trace-steps {trace_steps}: the run has {total:,} steps")
    with ExitStack() as stack:
        if backend == "serial":
            if len(ports) != len(compiled.images):
                raise click.UsageError(f"--backend serial needs {len(compiled.images)} --port, not {len(ports)}")
            machines: list[Machine] = [Device(stack.enter_context(SerialLink(port, held.config, baud=baud)), held)
                                       for port, held in zip(ports, compiled.images, strict=True)]
        else:
            count = len(compiled.images)
            machines = [open_machine(held, backend, stack, _numbered(window[0], number, count), window[1])
                        for number, held in enumerate(compiled.images)]
        y = _run(compiled.network, machines, sequences, backend)
    if checked:
        twins: list[Machine] = [reference(held) for held in compiled.images]
        check(y, _run(compiled.network, twins, sequences, "reference"))
    sequences.save(output, y)
    if exact is not None:
        runners = [FloatRunner(direction.model) for direction in exact.directions]
        with Console(stderr=True).status("running the network in floating point"):
            wanted, _ = exact.run(sequences.frames, runners, sequences.lengths)
        show.error(y, wanted)


def _trace_window(backend: str, trace: Path | None, steps: str) -> tuple[Path | None, range]:
    """The steps to trace, and the file for them."""
    first, _, stop = steps.partition(":")
    if not (first.isdecimal() and stop.isdecimal() and int(first) < int(stop)):
        raise click.BadParameter(f"--trace-steps {steps!r}: expected FIRST:STOP, two numbers, the second larger")
    if trace is not None and backend != "sim":
        raise click.UsageError("--trace needs --backend sim: only the Verilog has a waveform")
    return trace, range(int(first), int(stop))


def _numbered(trace: Path | None, number: int, count: int) -> Path | None:
    """The waveform of one of ``count`` directions."""
    return trace if trace is None or count == 1 else trace.with_name(f"{trace.stem}.{number}{trace.suffix}")


def open_machine(image: Image, backend: str, stack: ExitStack, trace: Path | None = None,
                 steps: range = range(0), voices: int | None = None) -> Machine:
    """A machine with the image in it, which writes a ``trace`` of some ``steps``; ``stack`` closes it.

    The reference has no more channels than ``voices``.
    """
    if backend == "reference":
        return reference(image, voices)
    from openese.sim.simulator import Simulator
    with Console(stderr=True).status("building the simulator"):
        simulator = stack.enter_context(Simulator(image.config, trace=trace is not None))
    device = Device(simulator, image)
    if trace is None:
        return device
    from openese.sw.run.traced import TracedDevice
    return TracedDevice(device, simulator, trace, steps)


def reference(image: Image, voices: int | None = None) -> Reference:
    """The integer model of the machine, with as many of its channels as ``voices`` need."""
    return Reference(image.model(), min(image.config.channels, voices or image.config.channels))


def _run(network: Network, machines: Sequence[Machine], sequences: Sequences, title: str) -> FloatArray:
    """Outputs of all sequences, with a progress bar."""
    with progress(title, len(machines) * sequences.machine_steps(machines[0].channels)) as advance:
        runners = [MachineRunner(machine, advance) for machine in machines]
        y, _ = network.run(sequences.frames, runners, sequences.lengths)
    show.ran(machines, sum(runner.input_saturations for runner in runners))
    return y


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr, if that is a terminal; the result is called with the steps that are done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(title, total=total)
        yield lambda steps: bar.advance(task, steps)


def check(outputs: FloatArray, wanted: FloatArray) -> None:
    """Fail unless all output words are the reference's."""
    different = int(np.count_nonzero(outputs != wanted))
    if different:
        raise files.FileError(f"{different:,} of {outputs.size:,} output words differ from the reference's")
    show.line(f"all {outputs.size:,} output words are the reference's")
