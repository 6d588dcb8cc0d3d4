# SPDX-License-Identifier: Apache-2.0
"""Commands that make a page: the search for the best machine, and the report on a compiled network."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click

from openese.output import write_text
from openese.rtl.targets.devices import Device
from openese.sw.cli import show
from openese.sw.cli.machines import progress, status
from openese.sw.cli.options import (
    NEW_FILE,
    PATH,
    DeviceName,
    Positive,
    carry_option,
    ignore_option,
    keep_inputs,
    parse_settings,
    select_option,
    trust_option,
)
from openese.sw.cli.whole import parse_carry
from openese.sw.cycles.load import CLOCK, PERIOD
from openese.sw.explore.explore import FILL, commands, machine_file
from openese.sw.explore.explore import explore as search
from openese.sw.explore.goal import Goal
from openese.sw.explore.report import report as report_page

__all__ = ["explore", "report"]

_page_option = click.option("--output", "-o", type=NEW_FILE, required=True, metavar="PAGE.html",
                            help="The page to write.")
_clock_option = click.option("--clock", type=Positive(), default=CLOCK / 1e6, show_default=True, metavar="MHZ",
                             help="The clock that is assumed.")


@click.command(short_help="Search for the best machine for a network on an FPGA.")
@click.argument("file", type=PATH)
@click.option("--device", type=DeviceName(), required=True, metavar="NAME",
              help="An FPGA or board of `openese devices`.")
@_page_option
@click.option("--latency", type=Positive(), metavar="US",
              help="Goal: the answer to a frame within so many microseconds, on a machine at rest.")
@click.option("--voices", type=click.IntRange(min=1), metavar="N", help="Goal: so many live voices.")
@click.option("--throughput", is_flag=True, help="Goal: the most frames a second. This is the default.")
@click.option("--max-loss", type=float, metavar="X",
              help="The most loss: RMS error of the outputs as a share of these, or what --loss returns.")
@click.option("--density", metavar="D,D,...",
              help="Densities to try; 1 prunes nothing.  [default: 1, and with --max-loss 0.7, 0.5, 0.3, 0.2 and 0.1]")
@click.option("--try", "settings", multiple=True, metavar="FIELD=N,N,...",
              help="Values to try for a field of the machine, in the place of those that are tried anyway. May be "
                   "repeated.")
@click.option("--calibrate", type=PATH, multiple=True, metavar="INPUTS",
              help="Real input, on which number formats are chosen and the loss is measured, as for `openese compile`.")
@carry_option
@click.option("--loss", metavar="MODULE:FUNCTION",
              help="Your own loss: a function of a machine and a density (None prunes nothing). It is your code, and "
                   "runs.")
@click.option("--fill", type=click.FloatRange(0, 1, min_open=True), default=FILL, show_default=True, metavar="SHARE",
              help="The most of any resource of the device that a machine may take.")
@_clock_option
@click.option("--period", type=Positive(), default=PERIOD * 1e3, show_default=True, metavar="MS",
              help="Milliseconds from a live voice's frame to the next.")
@click.option("--most", type=click.IntRange(min=1), default=400, show_default=True, metavar="N",
              help="The most candidates that the cycle model runs on.")
@click.option("--jobs", type=click.IntRange(min=1), metavar="N", help="Processes.  [default: one for each core]")
@click.option("--scheduler", metavar="ADDRESS",
              help="Search on the workers of the Dask scheduler at this address, as tcp://host:8786.")
@click.option("--json", "figures", type=NEW_FILE, metavar="FILE", help="Also write all figures as JSON.")
@select_option
@ignore_option
@trust_option
def explore(file: Path, device: Device, output: Path, latency: float | None, voices: int | None, throughput: bool,
            max_loss: float | None, density: str | None, settings: Sequence[str], calibrate: Sequence[Path],
            carry: Sequence[str], loss: str | None, fill: float, clock: float, period: float, most: int,
            jobs: int | None, scheduler: str | None, figures: Path | None, select: str | None, ignore: Sequence[str],
            trust: bool) -> None:
    """Search configurations, densities and word lengths for the best machine.

    It writes a page with the front of times, sizes and losses, and beside it the best machine as a file for --config.
    It ends with the command lines that build this machine.

    \b
    Examples:
      openese explore net.onnx --device kv260 --calibrate inputs.npz --max-loss 0.05 -o net.html
      openese explore net.npz --device aws-f1 --latency 3 --density 0.1 -o fast.html
      openese explore net.onnx --device u50 --voices 500 --scheduler tcp://host:8786 -o voices.html
    """
    goal = _goal(latency, voices, throughput, clock * 1e6, period / 1e3)
    machine = output.with_suffix(".toml")
    for path, option in ((output, "--output"), (machine, "--output"), (figures, "--json")):
        if path is not None:
            keep_inputs(path, file, *calibrate, option=option)
    densities = None if density is None else _numbers(density)
    given = parse_settings(settings)
    if jobs is not None and scheduler is not None:
        raise click.UsageError("--jobs goes without --scheduler, whose workers do the work")
    _check_plotly()
    with _stages() as tell:
        found = search(file, device, goal=goal, max_loss=max_loss, densities=densities, given=given,
                       calibrate=list(calibrate) or None, carry=parse_carry(carry), loss=loss, fill=fill, most=most,
                       jobs=jobs, scheduler=scheduler, select=select, ignore=ignore, trust=trust, tell=tell)
    options = [*(["--select", select] if select is not None else []), *(["--trust"] if trust else []),
               *(word for name in ignore for word in ("--ignore", name)),
               *(word for pair in carry for word in ("--carry", pair))]
    lines = commands(file, machine, found.density, calibrate, options, whole=bool(found.folder))
    write_text(output, found.page(lines))
    write_text(machine, machine_file(found.machine, machine.stem))
    if figures is not None:
        write_text(figures, json.dumps(found.to_dict() | {"commands": lines}, indent=2) + "\n")
    show.explored(found)
    show.line(f"{output}: the page; {machine}: the machine. These commands build it:")
    for line in lines:
        show.line(f"  {line}")


def _goal(latency: float | None, voices: int | None, throughput: bool, clock: float, period: float) -> Goal:
    named = [name for name, given in (("--latency", latency is not None), ("--voices", voices is not None),
                                      ("--throughput", throughput)) if given]
    if len(named) > 1:
        raise click.UsageError(f"{' and '.join(named)} exclude each other: each is a goal")
    if latency is not None:
        return Goal("latency", latency * 1e-6, clock, period)
    return Goal("throughput", clock=clock, period=period) if voices is None else Goal("voices", voices, clock, period)


def _numbers(text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"--density {text!r}: expected numbers with commas between them") from None


def _check_plotly() -> None:
    """Raise `ModuleNotFoundError` before the search if the page cannot be made."""
    import plotly  # noqa: F401


@contextmanager
def _stages() -> Iterator[Callable[[str, int | None], Callable[[int], None]]]:
    """Progress bars, one after another."""
    with ExitStack() as stack:
        def tell(stage: str, total: int | None) -> Callable[[int], None]:
            stack.close()
            return stack.enter_context(progress(stage, total))

        yield tell


@click.command(short_help="Write a page about a compiled network.")
@click.argument("net", type=PATH)
@_page_option
@click.option("--device", type=DeviceName(), metavar="NAME",
              help="An FPGA or board of `openese devices`, to compare the machine with.")
@click.option("--calibrate", type=PATH, metavar="INPUTS",
              help="Input, on which saturations and errors are measured. A quantized network has those of its "
                   "calibration.")
@_clock_option
@trust_option
def report(net: Path, output: Path, device: Device | None, calibrate: Path | None, clock: float, trust: bool) -> None:
    """Write a page about NET, which is compiled or quantized: times, memories, the balance over the PEs, the timeline
    of a step, saturations and errors by layer.

    \b
    Example:
      openese report net.img --device kv260 --calibrate speech.npy -o net.html
    """
    keep_inputs(output, net, calibrate)
    _check_plotly()
    with status() as tell:
        tell("counting cycles")
        write_text(output, report_page(net, device=device, goal=Goal(clock=clock * 1e6), calibrate=calibrate,
                                       trust=trust))
    show.line(f"{output}: the page")
