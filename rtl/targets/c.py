# SPDX-License-Identifier: Apache-2.0
"""The host library in C alone."""

from openese.rtl.targets import write_files
from openese.rtl.targets.driver import library

__all__ = ["write"]


def write(config, folder):
    """Write the C files into ``folder``."""
    write_files(folder, library(config))
