# SPDX-License-Identifier: Apache-2.0
"""The targets of ``openese build``: the machine as a tool or a board wants it.

A target is a module of this package with a function ``write(config, folder)`` and a line in `TARGETS`. What it writes
depends on the configuration alone, byte by byte, but for what other programs make of it.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from openese.output import replacing_folder
from openese.rtl.config import Config, machine_config

__all__ = ["Target", "TargetError", "TARGETS", "build", "write_files"]


class TargetError(ValueError):
    """A target cannot be written: the message says what is missing or does not fit."""


@dataclass(frozen=True)
class Target:
    """A module of this package, and which of its boards.

    It is imported only when it is used, since it may need optional packages.
    """

    module: str
    summary: str
    board: str | None = None

    def write(self, config: Config, folder: Path) -> None:
        """Write the files for ``config`` into ``folder``, which exists.

        Raises
        ------
        TargetError
        """
        write: Callable[..., None] = import_module(f".{self.module}", __name__).write
        write(config, folder, *([] if self.board is None else [self.board]))


#: By the name that the command line gives them.
TARGETS = {
    "verilog": Target("plain", "openese.v alone, for any synthesis"),
    "ooc": Target("ooc", "Vivado: the machine alone on a KU060, for its figures"),
    "c": Target("c", "the host library in C alone, for a program that drives the machine"),
    "ip": Target("ip", "Vivado: packaged IP, with the host library in C"),
    "kcu105": Target("boards", "Vivado: a design for the KCU105, with PCIe and DDR4", "kcu105"),
    "kv260": Target("boards", "Vivado: a design for the KV260, with its processors and memory", "kv260"),
    "pynq-z2": Target("boards", "Vivado: a design for the PYNQ-Z2, with its processors and memory", "pynq-z2"),
    "ulx3s": Target("ulx3s", "a bitstream for the ULX3S 85F, by Yosys and nextpnr"),
}


def build(machine: str | Config, folder: str | os.PathLike[str], target: str = "verilog") -> None:
    """Write the Verilog of a machine, and the files that a target needs beside it, or those of its host.

    Parameters
    ----------
    machine : str or `Config`
        A preset's name, or a machine of your own.
    folder : path
        It is made if it is not there.
    target : str
        A key of `TARGETS`.

    Raises
    ------
    TargetError
        If the machine does not fit the target's FPGA, the target cannot be written for it for another reason, or needs
        a package that is missing.
    ValueError
        For an unknown preset or target.
    """
    config = machine_config(machine)
    if target not in TARGETS:
        raise ValueError(f"no target {target!r}; there are {', '.join(TARGETS)}")
    from openese.rtl.targets.capacity import check_fits
    check_fits(config, target)
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    TARGETS[target].write(config, path)


def write_files(folder: Path, files: dict[str, str]) -> None:
    """Write ``files``, texts by their path below ``folder``, with the same line ends on every system."""
    with replacing_folder(folder) as beside:
        for path, text in files.items():
            (beside / path).parent.mkdir(parents=True, exist_ok=True)
            (beside / path).write_text(text, encoding="utf-8", newline="\n")
