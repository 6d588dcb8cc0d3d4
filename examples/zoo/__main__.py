# SPDX-License-Identifier: Apache-2.0
"""``python -m examples.zoo`` runs every network on its machine, and compares it with its own runtime."""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import click
from rich.console import Console

from docs.results import zoo
from examples.silero_vad.network import MissingWeights
from examples.zoo.cut import CUTS, cut
from examples.zoo.exhibits import exhibits
from examples.zoo.measure import Measurement
from examples.zoo.packages import MissingPackage
from openese.output import write_text


@click.command()
@click.option("--vad-web", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
              help="The package @ricky0123/vad-web, as `npm pack` writes it.")
@click.option("--only", multiple=True, metavar="TEXT", help="Networks whose package or file has TEXT in its name.")
@click.option("--simulate/--no-simulate", default=True, help="Also run one example of each on the Verilog.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), default=zoo.DATA, metavar="FILE",
              help="Measurements, by network; those of other networks stay.  [default: docs/results/zoo.json]")
def main(vad_web: Path | None, only: tuple[str, ...], simulate: bool, output: Path) -> None:
    """Run networks of other packages on a machine, compare them with their own runtimes, and write the figures."""
    console = Console(stderr=True)
    held = json.loads(output.read_text()) if output.exists() else {"networks": {}, "cut": {}}
    with TemporaryDirectory() as folder:
        for exhibit in exhibits(vad_web, Path(folder)):
            if only and not any(text in exhibit.name for text in only):
                continue
            try:
                with console.status("") as status:
                    def tell(stage: str, name: str = exhibit.name) -> None:
                        status.update(f"{name}: {stage}")
                    measurement = Measurement(exhibit, tell)
                    held["networks"][exhibit.name] = measurement.figures(simulate)
                    if exhibit.name in CUTS:
                        held["cut"][exhibit.name] = cut(exhibit.name, tell)
            except (MissingPackage, MissingWeights) as missing:
                click.echo(f"{exhibit.name}: skipped: {missing}", err=True)
                continue
            write_text(output, json.dumps(held, indent=1) + "\n")
            click.echo(zoo.results({exhibit.name: held["networks"][exhibit.name]}))


if __name__ == "__main__":
    try:
        main(standalone_mode=False)
    except ValueError as problem:
        sys.exit(f"openese: {problem}")
