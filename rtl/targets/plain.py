# SPDX-License-Identifier: Apache-2.0
"""The Verilog alone."""

from openese.rtl.targets import write_files
from openese.rtl.verilog import TOP, verilog

__all__ = ["write"]


def write(config, folder):
    """Write ``openese.v`` into ``folder``."""
    write_files(folder, {f"{TOP}.v": verilog(config)})
