# SPDX-License-Identifier: Apache-2.0
"""``python -m openese.sim.lint``: Verilator lints the Verilog of every preset, with all warnings on."""

import sys

import click

from openese.rtl.config import PRESETS, Config, machine_config
from openese.sim import build, verilator

__all__ = ["lint", "main"]

_WAIVERS = build.HERE / "lint.vlt"


def lint(machine: str | Config) -> None:
    """Lint the Verilog of a machine, given by a preset's name or as a `Config`.

    Raises
    ------
    openese.sim.verilator.ToolError
        There is a warning that ``lint.vlt`` does not waive. The message is the first.
    """
    # -fno-dfg: an optimization that finds nothing, and takes a fifth of the time.
    verilator.find().run(["--lint-only", "-Wall", "-fno-dfg", "--top-module", build.TOP, _WAIVERS,
                          build.emitted(machine_config(machine))])


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(sorted(PRESETS)))
def main(names: tuple[str, ...]) -> None:
    """Lint the Verilog of presets NAMES, or of all."""
    for name in names or sorted(PRESETS):
        try:
            lint(name)
        except verilator.ToolError as error:
            sys.exit(f"{name}: {error}")
        print(f"{name}: clean")


if __name__ == "__main__":
    main()
