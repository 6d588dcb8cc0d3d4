# SPDX-License-Identifier: Apache-2.0
"""``python -m rtl.build``: writes a configuration's Verilog."""

import sys
from pathlib import Path

import click

from .config import PRESETS
from .emit import emit
from .top import Top

__all__ = ["verilog", "main"]


def verilog(config):
    """Verilog of the machine: module ``openese``, the same text for the same ``config``."""
    return emit(Top(config), "openese")


@click.command()
@click.option("--config", "name", type=click.Choice(sorted(PRESETS)), required=True, help="Which preset.")
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), required=True,
              help="Folder to write to; it is made if it is not there.")
def main(name, output):
    """Write the Verilog of a configuration, for Vivado or any other synthesis, to OUTPUT/openese.v."""
    output.mkdir(parents=True, exist_ok=True)
    path = output / "openese.v"
    path.write_text(verilog(PRESETS[name]))
    print(f"{path}: {PRESETS[name].pes} PEs x {PRESETS[name].channels} channels", file=sys.stderr)


if __name__ == "__main__":
    main()
