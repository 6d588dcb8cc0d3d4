# SPDX-License-Identifier: Apache-2.0
"""Vivado: the machine alone, built out of context, for its area, timing and power."""

from openese.rtl.targets import write_files
from openese.rtl.targets.vivado import constraints, settings
from openese.rtl.verilog import TOP, verilog

__all__ = ["write"]


def write(config, folder):
    """Write Verilog, constraints, and ``ooc.tcl``, which synthesizes and implements the machine and writes reports."""
    write_files(folder, {
        f"{TOP}.v": verilog(config),
        "openese.xdc": constraints("openese.xdc"),
        "openese_ooc.xdc": constraints("openese_ooc.xdc"),
        "ooc.tcl": constraints("ooc.tcl"),
        "settings.tcl": settings(config, {}),
    })
