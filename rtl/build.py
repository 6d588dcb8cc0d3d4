# SPDX-License-Identifier: Apache-2.0
"""``python -m rtl.build``: writes a configuration's Verilog, and what a tool or a board needs beside it."""

import sys
from pathlib import Path

import click

from openese.rtl.config import PRESETS
from openese.rtl.targets import TARGETS, TargetError

__all__ = ["main"]


@click.command(epilog="\b\nTargets:\n" + "\n".join(f"  {name:8} {target.summary}" for name, target in TARGETS.items()))
@click.option("--config", "name", type=click.Choice(sorted(PRESETS)), required=True, help="Which preset.")
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), required=True,
              help="Folder to write to; it is made if it is not there.")
@click.option("--target", type=click.Choice(list(TARGETS)), default="verilog", show_default=True,
              help="What to write; see below.")
def main(name, output, target):
    """Write the Verilog of a configuration, and what its target needs beside it, to OUTPUT."""
    output.mkdir(parents=True, exist_ok=True)
    config = PRESETS[name]
    try:
        TARGETS[target].write(config, output)
    except TargetError as error:
        sys.exit(f"{target}: {error}")
    print(f"{output}: {config.pes} PEs x {config.channels} channels, target {target}", file=sys.stderr)


if __name__ == "__main__":
    main()
