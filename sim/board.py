# SPDX-License-Identifier: Apache-2.0
"""``openese board``: the ULX3S in Verilator, its USB serial port a pseudo-terminal of this computer.

It runs the Verilog that goes to place and route, from its pins on; a model that passes the clock on replaces the PLL.
For the host's program, only the speed differs from the board's.
"""

import mmap
import os
import pty
import random
import select
import socket
import struct
import subprocess
import tempfile
import threading
import tty
from pathlib import Path
from typing import NamedTuple

from openese.rtl.config import Config
from openese.rtl.targets import ulx3s
from openese.sim import build, verilator

__all__ = ["BoardSimulator", "Line"]

_HARNESS = build.HERE / "board.cpp"
_PLL = build.HERE / "ehxplll.v"
_OPTIONS = ("-O3", "--x-assign", "fast", "--x-initial", "unique", "-Wno-fatal", "--timescale", "1ps/1ps")
_COMPILE = "-march=native"
_OPTIMIZE = ("OPT_FAST=-O2", "OPT_SLOW=-O1", "OPT_GLOBAL=-O1")


def program(config: Config) -> Path:
    """The simulator of the board with a machine of ``config``; it is built unless the cache has it.

    Raises
    ------
    openese.sim.verilator.ToolError
        A tool is missing.
    """
    tool = verilator.find()
    files = ulx3s.sources(config)
    key = build.digest([_HARNESS, _PLL], *files.values(), tool.version, build.processor(), *_OPTIONS, _COMPILE,
                       *_OPTIMIZE)

    def make(folder: Path) -> Path:
        for name, text in files.items():
            (folder / name).write_text(text)
        tool.run(["--cc", "--exe", "--build", "-j", str(min(4, os.cpu_count() or 1)), "--Mdir", folder / "build",
                  "--top-module", ulx3s.NAME, "--prefix", f"V{ulx3s.NAME}", *_OPTIONS, "-CFLAGS", _COMPILE,
                  "-MAKEFLAGS", " ".join(_OPTIMIZE), *(folder / name for name in files), _PLL, _HARNESS,
                  "-o", ulx3s.NAME], log=build.cache_folder() / f"{key}.log")
        return folder / "build" / ulx3s.NAME

    return build.kept(f"{key}.board", make)


class Line(NamedTuple):
    """Traffic on the serial port of a simulated board, at its pins.

    Attributes
    ----------
    cycles : int
        Cycles of the machine's clock from the first bit of each request to the last bit of its answer, summed. The
        host's time between an answer and its next request does not count.
    received, sent : int
        Bytes.
    """

    cycles: int
    received: int
    sent: int

    def since(self, before: "Line") -> "Line":
        """The traffic since ``before``."""
        return Line(*(now - then for now, then in zip(self, before, strict=True)))


_PANEL = struct.Struct("=4Q")  # of board.cpp: the switch, then a Line


class BoardSimulator:
    """A running board, and its cable.

    A context manager: it switches the board off at its end.

    Parameters
    ----------
    config : Config
        The machine.
    fast : bool
        Turn the first DIP switch on: a bit then takes `FAST_DIVISOR` cycles.

    Attributes
    ----------
    fast : bool
        The switch. Change it only while no request is under way.
    port : str
        The serial port's name, while the cable is plugged in.
    spoiled : int
        Bytes dropped, doubled, changed or made up so far.
    """

    def __init__(self, config: Config, *, fast: bool = True) -> None:
        self._line, there = socket.socketpair()
        with tempfile.TemporaryFile() as panel:
            panel.truncate(_PANEL.size)
            self._panel = mmap.mmap(panel.fileno(), _PANEL.size)
            self.fast = fast
            descriptors = [there.fileno(), panel.fileno()]
            divisors = [round(ulx3s.CLOCK / ulx3s.BAUD), ulx3s.FAST_DIVISOR]
            self._process = subprocess.Popen([program(config), *map(str, descriptors + divisors)],
                                             pass_fds=descriptors)
        there.close()
        self._cable: tuple[int, int] | None = None
        self._lock = threading.Lock()
        self._share, self._chance = 0.0, random.Random(0)
        self.spoiled = 0
        self._running = True
        self.plug()
        self._thread = threading.Thread(target=self._relay, daemon=True)
        self._thread.start()

    def __enter__(self) -> "BoardSimulator":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Switch it off."""
        self._running = False
        self._thread.join()
        self.unplug()
        self._line.close()
        self._process.wait()

    @property
    def fast(self) -> bool:
        """Whether the first DIP switch is on."""
        return bool(_PANEL.unpack(self._panel)[0])

    @fast.setter
    def fast(self, on: bool) -> None:
        struct.pack_into("=Q", self._panel, 0, on)

    def line(self) -> Line:
        """The traffic so far; exact while no request is under way."""
        return Line(*_PANEL.unpack(self._panel)[1:])

    def plug(self) -> None:
        """Plug the cable in. The `port` may get another name."""
        near, far = pty.openpty()
        tty.setraw(far)
        os.set_blocking(near, False)
        with self._lock:
            self._cable = near, far
        self.port = os.ttyname(far)

    def unplug(self) -> None:
        """Pull the cable. The board keeps running."""
        with self._lock:
            if self._cable:
                for end in self._cable:
                    os.close(end)
            self._cable = None

    def spoil(self, share: float, seed: int = 1) -> None:
        """From now on drop, double, change or make up a ``share`` (0 to 1) of the bytes, in both directions."""
        self._share, self._chance = share, random.Random(seed)

    def _spoiled(self, given: bytes) -> bytes:
        if not self._share:
            return given
        chance = self._chance
        passed = bytearray()
        for byte in given:
            if chance.random() >= self._share:
                passed.append(byte)
                continue
            self.spoiled += 1
            kind = chance.randrange(4)
            if kind == 1:
                passed += bytes([byte, byte])
            elif kind == 2:
                passed.append(byte ^ 1 << chance.randrange(8))
            elif kind == 3:
                passed += bytes([byte]) + chance.randbytes(chance.randrange(1, 20))
        return bytes(passed)

    def _relay(self) -> None:
        while self._running:
            with self._lock:
                near = self._cable[0] if self._cable else None
                ends: list[socket.socket | int] = [self._line] if near is None else [self._line, near]
                ready, _, _ = select.select(ends, [], [], 0)
                if self._line in ready:
                    sent = self._spoiled(self._line.recv(4096))
                    if near is not None:
                        self._write(near, sent)
                if near is not None and near in ready:
                    try:
                        self._line.sendall(self._spoiled(os.read(near, 4096)))
                    except OSError:
                        pass  # nobody has the port open
            if not ready:
                select.select([self._line], [], [], 0.001)

    def _write(self, near: int, sent: bytes) -> None:
        try:
            os.write(near, sent)
        except BlockingIOError:
            pass  # nobody reads, and the terminal's buffer is full: a serial port loses bytes too
