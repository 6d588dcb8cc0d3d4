# SPDX-License-Identifier: Apache-2.0
"""Vivado scripts run by a real Tcl, which records Vivado's own commands."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

__all__ = ["Call", "run"]

STUBS = Path(__file__).with_name("stubs.tcl")


class Call(NamedTuple):
    """A command that is not Tcl's own, and its words."""

    name: str
    words: list

    def option(self, switch):
        """The word behind a switch."""
        return self.words[self.words.index(switch) + 1]


def run(script, folder, *arguments, slack="0.1"):
    """The Vivado commands of ``script``, in order, when it runs in ``folder``.

    Raises
    ------
    RuntimeError
        The script stops with an error; the message is Tcl's.
    """
    tclsh = shutil.which("tclsh")
    assert tclsh, "these tests run Tcl scripts: apt install tcl"
    record = folder / "record"
    done = subprocess.run([tclsh, STUBS, script, record, *arguments], cwd=folder, text=True,
                          capture_output=True, env={**os.environ, "SLACK": slack})
    if done.returncode:
        raise RuntimeError(done.stderr)
    calls = [[bytes.fromhex(word).decode() for word in line.split(",")] for line in record.read_text().splitlines()]
    return [Call(name, words) for name, *words in calls]
