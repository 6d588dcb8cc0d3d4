# SPDX-License-Identifier: Apache-2.0
"""The Verilog alone."""

from ..verilog import TOP, verilog
from . import write_files

__all__ = ["write"]


def write(config, folder):
    """``openese.v``."""
    write_files(folder, {f"{TOP}.v": verilog(config)})
