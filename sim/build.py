# SPDX-License-Identifier: Apache-2.0
"""Emits Verilog and compiles it with the harness to a shared library, once for each content.

Both are kept under ``$OPENESE_CACHE``, else ``$XDG_CACHE_HOME/openese``, else ``~/.cache/openese``.
A file's name is the hash of all that went into it, so it is never stale; builds of the same content
wait for each other, and a file appears whole or not at all.
"""

import fcntl
import hashlib
import logging
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import amaranth

from openese import rtl
from openese.rtl.config import Config
from openese.rtl.verilog import TOP, verilog
from openese.sim import verilator

__all__ = ["HERE", "TOP", "cache_folder", "digest", "emitted", "kept", "library", "processor"]

HERE = Path(__file__).parent
KEPT = 24  # files of a kind, where nothing else is said

_HARNESS = HERE / "harness.cpp"
# Everything starts at the value that the Verilog gives it, else at 0, or at random where the harness is
# asked to scramble. Measured on 32 x 32: -march=native is worth a fifth; -O3 and threads are worth nothing;
# -fno-dfg and `_alike` take off two fifths of the build, since instances then share their code.
_OPTIONS = ("-O3", "-fno-dfg", "--x-assign", "fast", "--x-initial", "unique", "-Wno-fatal",
            "--timescale", "1ps/1ps")
_COMPILE = "-fPIC -fvisibility=hidden -march=native"
_OPTIMIZE = ("OPT_FAST=-O2", "OPT_SLOW=-O0", "OPT_GLOBAL=-O1")

_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """The folder that keeps what was built; made if need be."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get("OPENESE_CACHE") or Path(home) / "openese")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def digest(sources: Sequence[Path], *parts: str) -> str:
    """16 hex digits for the bytes of ``sources`` and for ``parts``."""
    hashed = hashlib.sha256()
    for part in [*(Path(source).read_bytes() for source in sources), *(part.encode() for part in parts)]:
        hashed.update(len(part).to_bytes(8, "little") + part)
    return hashed.hexdigest()[:16]


def kept(name: str, make: Callable[[Path], Path], most: int | None = None) -> Path:
    """The file or folder ``name`` of the cache.

    Parameters
    ----------
    name : str
        With a digest of all that it depends on, and a suffix for its kind.
    make : callable
        Makes it, if it is not there, in the folder that it is given; returns its path.
    most : int, optional
        Files of its kind that the cache keeps, `KEPT` when left out; the least recently used go first.
    """
    path = cache_folder() / name
    with open(f"{path}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            _log.info("making %s", path)
            with tempfile.TemporaryDirectory(prefix=f"{path.stem}-", dir=path.parent) as folder:
                make(Path(folder)).rename(path)
        path.touch()
    _forget(path, most or KEPT)
    return path


def _forget(newest: Path, most: int) -> None:
    alike = sorted(newest.parent.glob(f"*{newest.suffix}"), key=lambda path: path.stat().st_mtime)
    for path in alike[:-most]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def emitted(config: Config) -> Path:
    """The Verilog of ``config`` as `openese.rtl.verilog` writes it."""
    modules = sorted(Path(rtl.__path__[0]).rglob("*.py"))

    def make(folder: Path) -> Path:
        path = folder / f"{TOP}.v"
        path.write_text(verilog(config))
        return path

    return kept(f"{digest(modules, repr(config), amaranth.__version__)}.v", make)


def library(sources: Sequence[Path], *, trace: bool = False) -> Path:
    """The shared library of the machine ``openese`` in ``sources``.

    Parameters
    ----------
    sources : sequence of Path
        Verilog files.
    trace : bool
        Able to write VCD traces, which makes it slower.

    Returns
    -------
    Path
        The library, built unless there is one of the same content.

    Raises
    ------
    openese.sim.verilator.ToolError
        A tool is missing, or does not take the sources.
    """
    tool = verilator.find()
    options = (*_OPTIONS, *(["--trace-vcd"] if trace else []))
    alike = _alike(sources)
    key = digest([*sources, _HARNESS], tool.version, processor(), alike, *options, _COMPILE, *_OPTIMIZE)

    def make(folder: Path) -> Path:
        control = folder / "alike.vlt"
        control.write_text(alike)
        tool.run([
            "--cc", "--exe", "--build", "-j", str(min(4, os.cpu_count() or 1)), "--Mdir", folder,
            "--top-module", TOP, "--prefix", f"V{TOP}", *options,
            "-CFLAGS", _COMPILE, "-LDFLAGS", "-shared", "-MAKEFLAGS", " ".join(_OPTIMIZE),
            control, *(Path(source).resolve() for source in sources), _HARNESS, "-o", f"{TOP}.so",
        ], log=cache_folder() / f"{key}.log")
        return folder / f"{TOP}.so"

    return kept(f"{key}.so", make)


def _alike(sources: Sequence[Path]) -> str:
    """Text of a control file for Verilator that keeps the instances of a block alike, to the last bit of their code.

    It would otherwise read an input, as it still does the clock, from wherever that is driven: elsewhere for
    each instance.
    """
    lines = ["`verilator_config"]
    text = "\n".join(Path(source).read_text() for source in sources)
    for block in re.finditer(r"(?ms)^module (\w+)\(.*?^endmodule", text):
        if "/* verilator no_inline_module */" in block[0]:
            lines += [f'public_flat_rd -module "{block[1]}" -var "{name}"'
                      for name in re.findall(r"(?m)^  input (?:\[.*\] )?\\?(\w+) ?;", block[0]) if name != "clk"]
    return "\n".join(lines) + "\n"


def processor() -> str:
    """What -march=native stands for here: a home folder may be shared by unlike machines."""
    return subprocess.run(["g++", "-march=native", "-Q", "--help=target", "--version"], text=True,
                          capture_output=True).stdout

