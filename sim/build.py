# SPDX-License-Identifier: Apache-2.0
"""Emits Verilog and compiles it with the harness to a shared library; a cache keeps both.

The cache is ``$OPENESE_CACHE``, else ``$XDG_CACHE_HOME/openese``, else ``~/.cache/openese``. A file's name is the
hash of its sources and options, so it is never stale. Builds of the same content wait for each other, and a file
appears whole or not at all. A checksum beside each file is compared before the file is used; what is damaged is built
again. A build that was killed leaves a folder and a lock, which the next build removes.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import amaranth

from openese import rtl
from openese.rtl.config import Config
from openese.rtl.verilog import TOP, verilog
from openese.sim import verilator

__all__ = ["HERE", "TOP", "cache_folder", "digest", "emitted", "kept", "library", "locked", "processor",
           "runtime"]

HERE = Path(__file__).parent
KEPT = 24  # files of a kind, where nothing else is said

_HARNESS = HERE / "harness.cpp"
# Everything starts at the value in the Verilog, else at 0, or at random if the harness scrambles. On 32 x 32,
# -march=native makes the simulator a fifth faster, -O3 and threads do not; -fno-dfg and `_alike` take two fifths off
# the build, since instances then share their code.
_OPTIONS = ("-O3", "-fno-dfg", "--x-assign", "fast", "--x-initial", "unique", "-Wno-fatal",
            "--timescale", "1ps/1ps")
_COMPILE = "-fPIC -fvisibility=hidden -march=native"
_OPTIMIZE = ("OPT_FAST=-O2", "OPT_SLOW=-O0", "OPT_GLOBAL=-O1")

#: Lines of /proc/cpuinfo that tell processors apart, on x86 and Arm.
_PROCESSOR = r"(vendor_id|cpu family|model|flags|Features|CPU (implementer|part|variant))\s*:"

_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """The folder of the cache; it is made if it does not exist."""
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
        A digest of everything that the file depends on, and a suffix for its kind.
    make : callable
        Makes a missing file in the folder that it is given, and returns the file's path.
    most : int, optional
        The number of files of this kind that the cache keeps, `KEPT` by default. The least recently used go first.
    """
    path = cache_folder() / name
    with locked(path):
        made = not _sound(path)
        if made:
            _log.info("making %s", path)
            _remove(path)
            with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=path.parent) as folder:
                result = make(Path(folder))
                _sums(path).write_text(json.dumps(_checksums(result)))
                result.rename(path)
        path.touch()
    if made:
        _forget(path, most or KEPT)
        _sweep(path.parent)
    return path


@contextlib.contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Holds the lock of a file, such as an entry, and removes the lock's own file at the end. Without ``wait`` it is
    false if another process has the lock."""
    lock = Path(f"{path}.lock")
    while True:
        with open(lock, "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            try:
                if not os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                    continue  # whoever had it removed the file, and another made it again
            except FileNotFoundError:
                continue
            try:
                yield True
            finally:
                lock.unlink(missing_ok=True)
            return


def _sums(path: Path) -> Path:
    """The file with the checksums of an entry."""
    return Path(f"{path}.sums")


def _checksums(path: Path) -> dict[str, str]:
    """SHA-256 of a file, or of each file below a folder, by relative path."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return {"" if file == path else str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in files}


def _sound(path: Path) -> bool:
    """Whether an entry is as it was made; files that were added to a folder do not count."""
    try:
        return path.exists() and json.loads(_sums(path).read_text()).items() <= _checksums(path).items()
    except (OSError, ValueError, AttributeError):
        return False


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
    _sums(path).unlink(missing_ok=True)


def _forget(newest: Path, most: int) -> None:
    ages = {}
    for path in newest.parent.glob(f"*{newest.suffix}"):
        with contextlib.suppress(FileNotFoundError):  # another process may forget it meanwhile
            ages[path] = path.stat().st_mtime
    for path in sorted(ages, key=lambda path: ages[path])[:-most]:
        _remove(path)


def _sweep(folder: Path) -> None:
    """Remove the folders and locks of builds that were killed."""
    for path in folder.iterdir():
        left = re.fullmatch(r"(.+\.\w+)(?:-\w{8}|\.lock)", path.name)
        if left:
            with locked(folder / left[1], wait=False) as free:
                if free and path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def runtime(folder: Path, *parts: str) -> Iterator[None]:
    """Around a build in ``folder``: compiles Verilator's own sources only once for all builds.

    Parameters
    ----------
    folder : Path
        Folder of the build. It gets the objects, if there are any; make then does not compile them again.
    *parts : str
        All that the objects depend on: version and options.
    """
    name = f"{digest([], *parts)}.runtime"
    later = time.time() + 3600  # make compares them with a makefile that is yet to be written
    for path in (cache_folder() / name).glob("*.o"):
        os.utime(shutil.copy(path, folder), (later, later))
    yield

    def make(there: Path) -> Path:
        objects = there / "objects"
        objects.mkdir()
        for path in folder.glob("verilated*.o"):
            shutil.copy(path, objects)
        return objects

    kept(name, make)


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
        Build a library that can write VCD waveforms. It is slower.

    Returns
    -------
    Path
        The library. It is built unless the cache has it.

    Raises
    ------
    openese.sim.verilator.ToolError
        A tool is missing, or refuses the sources.
    """
    tool = verilator.find()
    options = (*_OPTIONS, *(["--trace-vcd"] if trace else []))
    alike = _alike(sources)
    key = digest([*sources, _HARNESS], tool.version, processor(), alike, *options, _COMPILE, *_OPTIMIZE)

    def make(folder: Path) -> Path:
        control = folder / "alike.vlt"
        control.write_text(alike)
        with runtime(folder, tool.version, processor(), *options, _COMPILE, *_OPTIMIZE):
            tool.run([
                "--cc", "--exe", "--build", "-j", str(min(4, os.cpu_count() or 1)), "--Mdir", folder,
                "--top-module", TOP, "--prefix", f"V{TOP}", *options,
                "-CFLAGS", _COMPILE, "-LDFLAGS", "-shared", "-MAKEFLAGS", " ".join(_OPTIMIZE),
                control, *(Path(source).resolve() for source in sources), _HARNESS, "-o", f"{TOP}.so",
            ], log=cache_folder() / f"{key}.log")
        return folder / f"{TOP}.so"

    return kept(f"{key}.so", make)


def _alike(sources: Sequence[Path]) -> str:
    """Text of a control file for Verilator that makes it use the same code for all instances of a block.

    Otherwise Verilator would read an input from the place that drives it, which differs from instance to instance.
    """
    lines = ["`verilator_config"]
    text = "\n".join(Path(source).read_text() for source in sources)
    for block in re.finditer(r"(?ms)^module (\w+)\(.*?^endmodule", text):
        if "/* verilator no_inline_module */" in block[0]:
            lines += [f'public_flat_rd -module "{block[1]}" -var "{name}"'
                      for name in re.findall(r"(?m)^  input (?:\[.*\] )?\\?(\w+) ?;", block[0]) if name != "clk"]
    return "\n".join(lines) + "\n"


def processor() -> str:
    """The processor that -march=native names: computers with different processors may share a home folder."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return "\n".join(line for line in first.splitlines() if re.match(_PROCESSOR, line))

