# SPDX-License-Identifier: Apache-2.0
"""What compile, run, info and verify do with whole networks."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click
import numpy as np
from rich.console import Console

from openese.rtl.config import Config
from openese.sw import files
from openese.sw.cli import show
from openese.sw.cli.machines import Backend, progress, status
from openese.sw.cli.options import parse_densities
from openese.sw.whole import arrays
from openese.sw.whole.engine import Engine
from openese.sw.whole.host import Arrays, Host, HostError
from openese.sw.whole.network import (
    CompiledWhole,
    check_place,
    compile_host,
    differences,
    first_calls,
    open_host,
    original_calls,
    run_calls,
    same_numbers,
)

__all__ = ["compile_file", "info", "parse_carry", "run", "verify"]


def parse_carry(values: Sequence[str]) -> dict[str, str]:
    """The outputs and inputs of --carry OUTPUT=INPUT.

    Raises
    ------
    click.BadParameter
    """
    carry: dict[str, str] = {}
    for value in values:
        output, _, given = value.partition("=")
        if not output or not given:
            raise click.BadParameter(f"--carry {value!r}: expected OUTPUT=INPUT")
        if output in carry:
            raise click.BadParameter(f"--carry {value!r}: {output} is given twice")
        carry[output] = given
    return carry


def compile_file(host: Host, output: Path, config: Config, density: Sequence[str], calibrate: Sequence[Path],
                 carry: Sequence[str]) -> None:
    """Compile a whole network into the folder ``output``, and show the figures that decide."""
    check_place(output)
    calls = [arrays.load(path, host.inputs) for path in calibrate]
    directions = [direction for part in host.parts.values() for direction in part.directions]
    layers = [layer for direction in directions for layer in direction.model.layers]
    with status() as tell:
        compiled = compile_host(host, config, density=parse_densities(density, layers) if density else None,
                                calibrate=calls or None, carry=parse_carry(carry), tell=tell)
        tell("counting cycles")
        summaries = compiled.summaries
    compiled.save(output)
    show.guess("INPUTS", calls)
    if calls and compiled.guessed:
        click.echo(f"openese: no calibration input but zeros reaches {', '.join(compiled.guessed)}: number formats "
                   f"there are chosen on random numbers, a guess", err=True)
    if compiled.clamped:
        click.echo(f"openese: {compiled.clamped:,} numbers of inputs and states do not fit the number formats and are "
                   f"clamped: the machine's h lies within -1..1", err=True)
    show.places(host.items)
    for name, part in compiled.parts.items():
        for image in part.images:
            show.image(image, memories=False)
        show.summary(summaries[name])
    show.differences(compiled.differences)


@contextmanager
def _engine(compiled: CompiledWhole, backend: Backend, title: str) -> Iterator[Engine]:
    """The engine of a backend, with a progress bar of machine steps; it shows the machines' counters at the end."""
    images = [image for part in compiled.parts.values() for image in part.images]
    with ExitStack() as stack:
        machines = iter(opened := backend.open(images, stack))
        by_part = {name: [next(machines) for _ in part.images] for name, part in compiled.parts.items()}
        advance = stack.enter_context(progress(title, None))
        engine = compiled.engine(by_part, advance)
        yield engine
        show.ran(opened, engine.input_saturations)
    if not all(getattr(machine, "written", True) for machine in opened):
        click.echo("openese: --trace-steps: some machine had fewer steps, and wrote no waveform", err=True)


def run(path: Path, frames: Path, output: Path, backend: Backend, checked: bool, against: Path | None, trust: bool,
        carry: Sequence[str]) -> None:
    """Run a whole network, and write its outputs."""
    compiled = CompiledWhole.load(path, trust)
    host = compiled.host
    arrays.check_output(output, host.outputs)
    carried = parse_carry(carry) or compiled.carry
    inputs = arrays.load(frames, host.inputs)
    wanted = None if against is None else [_original(against, inputs, carried, trust)]
    with _engine(compiled, backend, backend.name) as engine:
        found = run_calls(host, inputs, engine, carried)
    if checked:
        with _engine(compiled, Backend("reference"), "reference") as engine:
            _check(found, run_calls(host, inputs, engine, carried))
    rows = () if wanted is None else differences([found], wanted)
    arrays.save(output, found)
    for port in host.outputs:
        show.line(f"{port.name}: {found[port.name].dtype} {found[port.name].shape}")
    show.differences(rows)


def _original(path: Path, inputs: Arrays, carry: dict[str, str], trust: bool) -> Arrays:
    """The outputs of the original network: first, so that a wrong file is told before a long run."""
    original = open_host(path, trust, lambda: first_calls(inputs, carry))
    if original is None:
        raise HostError(f"--against {path}: not a file with a whole network")
    with Console(stderr=True).status("running the original network"):
        try:
            return original_calls(original, inputs, carry)
        except HostError as error:
            raise HostError(f"--against {path}: {error}") from None


def _check(outputs: Arrays, wanted: Arrays) -> None:
    """Fail unless all outputs are the reference's."""
    different = sum(int(np.count_nonzero(~same_numbers(outputs[name], wanted[name]))) for name in wanted)
    total = sum(array.size for array in wanted.values())
    if different:
        raise files.FileError(f"{different:,} of {total:,} output numbers differ from the reference's")
    show.line(f"all {total:,} output numbers are the reference's")


def info(path: Path, trust: bool) -> None:
    """Show inputs, outputs and images of a compiled whole network."""
    compiled = CompiledWhole.load(path, trust)
    host = compiled.host
    show.line(f"{host.name}: the host's part needs {host.runtime} (pip install 'openese[{host.extra}]')")
    show.ports(host.inputs, host.outputs)
    for output, given in compiled.carry.items():
        show.line(f"{output} is the {given} of the next call")
    for part in compiled.parts.values():
        for image in part.images:
            show.image(image)


def verify(path: Path, trust: bool) -> None:
    """Check the images of a compiled whole network, and that the host's part can be read."""
    for part in CompiledWhole.load(path, trust).parts.values():
        for image in part.images:
            files.verify_image(image)
            show.verified(image)
