# SPDX-License-Identifier: Apache-2.0
"""Commands that answer before any hardware: what a network takes of a machine and of an FPGA, and the FPGAs."""

import json
from collections.abc import Sequence
from pathlib import Path

import click

from openese.output import write_text
from openese.rtl.config import PRESETS, Config
from openese.rtl.targets.devices import Device
from openese.sw.cli import show
from openese.sw.cli.machines import status
from openese.sw.cli.options import (
    NEW_FILE,
    PATH,
    DeviceName,
    Positive,
    density_help,
    ignore_option,
    keep_inputs,
    machine_options,
    parse_densities,
    select_option,
    trust_option,
)
from openese.sw.cycles.load import CLOCK, PERIOD
from openese.sw.estimate import Estimated, estimate_opened, open_network, presets_for

__all__ = ["devices", "estimate"]


@click.command("estimate", short_help="Tell what a network takes of a machine, and the machine of an FPGA.")
@click.argument("file", type=PATH, metavar="NET-OR-FILE")
@machine_options("")
@click.option("--all", "every", is_flag=True,
              help="Estimate all presets, one line each; with GRU cells if the network has GRUs.")
@click.option("--device", "fpga", type=DeviceName(), metavar="NAME",
              help="An FPGA or board of `openese devices`, to compare the machine with.")
@click.option("--density", multiple=True, metavar="D", help=density_help + " Without it nothing is pruned.")
@click.option("--clock", type=Positive(), default=CLOCK / 1e6, show_default=True, metavar="MHZ",
              help="The clock that is assumed.")
@click.option("--period", type=Positive(), default=PERIOD * 1e3, show_default=True, metavar="MS",
              help="Milliseconds from a live voice's frame to the next.")
@select_option
@ignore_option
@trust_option
@click.option("--json", "path", type=NEW_FILE, metavar="FILE", help="Also write all figures as JSON.")
def estimate(file: Path, config: Config | None, every: bool, fpga: Device | None, density: Sequence[str],
             clock: float, period: float, select: str | None, ignore: Sequence[str], trust: bool,
             path: Path | None) -> None:
    """Tell what a network takes of a machine, and the machine of an FPGA, before there is any.

    NET-OR-FILE is a file to import, or a network in any stage. The figures need no calibration: number formats do not
    decide about time. A network that is quantized or compiled is estimated as it is, on its own machine if no other is
    given.

    \b
    Examples:
      openese estimate net.onnx --all --density 0.1
      openese estimate net.onnx --preset demo --device kv260 --clock 150
      openese estimate net.img --json net.json
    """
    if every and config is not None:
        raise click.UsageError("--all takes every preset; leave out --preset, --config, --for and --set")
    if path is not None:
        keep_inputs(path, file, option="--json")
    with status() as tell:
        tell("reading")
        network = open_network(file, select, ignore, trust)
        layers = [layer for part in network.floating().values() for direction in part.directions
                  for layer in direction.model.layers]
        kept = parse_densities(density, layers) if density else None
        found: list[Estimated] = []
        for machine in presets_for(network) if every else (config or network.machine or PRESETS["demo"],):
            tell(f"estimating {machine.name}")
            found.append(estimate_opened(network, machine, device=fpga, density=kept, clock=clock * 1e6,
                                         period=period / 1e3))
    if path is not None:
        result = [one.to_dict() for one in found] if every else found[0].to_dict()
        write_text(path, json.dumps(result, indent=2) + "\n")
    if every:
        show.estimates(found)
    else:
        show.estimated(found[0])


@click.command()
def devices() -> None:
    """List the FPGAs and boards that machines are compared with.

    \b
    Example:
      openese devices
    """
    show.devices()
