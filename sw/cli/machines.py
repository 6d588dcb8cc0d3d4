# SPDX-License-Identifier: Apache-2.0
"""Machines with images in them, for the commands that run something, and their progress on stderr."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from openese.sw.pack.image import Image
from openese.sw.reference.machine import Reference
from openese.sw.run.device import Device
from openese.sw.run.runners import Machine
from openese.sw.run.serial_link import BAUD, SerialLink

__all__ = ["Backend", "open_machine", "progress", "reference", "status"]


@dataclass(frozen=True)
class Backend:
    """What the options of `run` say about machines.

    Attributes
    ----------
    name : str
        ``reference``, ``sim`` or ``serial``.
    ports : sequence of str
        Serial ports, one for each image.
    baud : int
    trace : Path, optional
        The waveform to write, of ``steps``.
    steps : range

    Raises
    ------
    click.UsageError
        For options that exclude each other.
    """

    name: str
    ports: Sequence[str] = ()
    baud: int = BAUD
    trace: Path | None = None
    steps: range = range(0)

    def __post_init__(self) -> None:
        if self.ports and self.name != "serial":
            raise click.UsageError("--port needs --backend serial")
        if self.trace is not None and self.name != "sim":
            raise click.UsageError("--trace needs --backend sim: only the Verilog has a waveform")

    def open(self, images: Sequence[Image], stack: ExitStack) -> list[Machine]:
        """A machine for each image; ``stack`` closes them.

        Raises
        ------
        click.UsageError
            For another number of serial ports than of images.
        """
        if self.name == "serial":
            if len(self.ports) != len(images):
                raise click.UsageError(f"--backend serial needs {len(images)} --port, not {len(self.ports)}")
            return [Device(stack.enter_context(SerialLink(port, held.config, baud=self.baud)), held)
                    for port, held in zip(self.ports, images, strict=True)]
        return [open_machine(held, self.name, stack, _numbered(self.trace, number, len(images)), self.steps)
                for number, held in enumerate(images)]


def _numbered(trace: Path | None, number: int, count: int) -> Path | None:
    """The waveform of one of ``count`` images."""
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


@contextmanager
def progress(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr, if that is a terminal; the result is called with the steps that are done.

    Without a ``total`` it counts.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(title, total=total)
        yield lambda steps: bar.advance(task, steps)


@contextmanager
def status() -> Iterator[Callable[[str], None]]:
    """A spinner on stderr, if that is a terminal; it is told the stage."""
    with Console(stderr=True).status("") as spinner:
        yield spinner.update
