# SPDX-License-Identifier: Apache-2.0
"""Programs and libraries in C, with the host library and the header of an image."""

import ctypes
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

from openese.rtl.targets import build
from openese.sw.run.header import write_header

__all__ = ["COMPILERS", "Io", "RESULTS", "compiled", "files", "sanitizes"]

ROOT = Path(__file__).parents[1]
#: C compilers that are here.
COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]
_STRICT = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Wundef", "-Werror"]
_SANITIZED = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


class Io(ctypes.Structure):
    """``openese_io``."""

    READ = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32, ctypes.POINTER(ctypes.c_uint32))
    WRITE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32)
    FRAME = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint8), ctypes.c_size_t)
    RECEIVED = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_size_t))
    PLAIN = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
    _fields_ = [("context", ctypes.c_void_p), ("read", READ), ("write", WRITE), ("send", FRAME), ("receive", FRAME),
                ("received", RECEIVED), ("abandon", PLAIN), ("wait", PLAIN), ("place", ctypes.c_void_p)]


def _results():
    """The numbers of ``enum openese_result``, as openese.h has them."""
    text = (ROOT / "rtl" / "targets" / "driver" / "openese.h").read_text()
    table = text[text.index("#define OPENESE_RESULTS"):text.index("enum openese_result")]
    found = {}
    for line in table.splitlines():
        if line.startswith("    _("):
            name, number = line.strip()[2:].split(",")[:2]
            found[name] = int(number)
    return found


#: Numbers of results, by name.
RESULTS = _results()


def files(folder, config, image=None):
    """Write the host library for ``config`` into ``folder``, and net.img with net.h."""
    build(config, folder, "c")
    if image is not None:
        image.save(folder / "net.img")
        write_header(folder / "net.img", folder / "net.h")


@cache
def sanitizes(compiler):
    """Whether the compiler has the sanitizers, with what they link."""
    done = subprocess.run([compiler, *_SANITIZED, "-x", "c", "-", "-o", "/dev/null"], input="int main(void){return 0;}",
                          text=True, capture_output=True)
    return done.returncode == 0


def compiled(folder, output, *sources, library=False, sanitize=False, compiler=None, optimize="-O0"):
    """Compile all C files of ``folder``, and others, strictly; skips where there is no compiler."""
    if not COMPILERS:
        pytest.skip("needs a C compiler: apt install gcc")
    compiler = compiler or COMPILERS[0]
    if sanitize and not sanitizes(compiler):
        pytest.skip(f"{compiler} cannot link its sanitizers")
    options = ["-fPIC", "-shared"] if library else []
    paths = [*sorted(folder.glob("*.c")), *sources]
    command = [compiler, *_STRICT, *(_SANITIZED if sanitize else [optimize]), *options, f"-I{folder}",
               *sorted({f"-I{path.parent}" for path in sources}), *map(str, paths), "-o", str(folder / output), "-lm",
               "-ldl"]
    done = subprocess.run(command, text=True, capture_output=True)
    assert not done.returncode, done.stderr
    return folder / output
