# SPDX-License-Identifier: Apache-2.0
"""The emitted machine, verilated, as a Python object with the machine's own ports."""

import ctypes
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from openese.rtl.config import Config
from openese.sim import build

__all__ = ["SimulationError", "BusError", "StuckError", "Simulator"]

SLICE = 1 << 16  # cycles in one call of the library, between which Python sees a Ctrl-C


class SimulationError(ValueError):
    """The machine or the caller has broken a rule of a bus; the message names port and rule."""


class BusError(SimulationError):
    """An AXI4-Lite access was answered with an error."""


class StuckError(SimulationError):
    """Nothing moved for as long as the simulator is patient; the message names what is waited for."""


class _Goal(IntEnum):  # as in harness.cpp
    CYCLES, WRITTEN, READ, SENT, RECEIVED = range(5)


class _Outcome(IntEnum):  # as in harness.cpp
    DONE, UNDER_WAY, STUCK, FAULT = range(4)


class _MemoryTraits(ctypes.Structure):  # as in harness.cpp
    _fields_ = [
        ("data", ctypes.c_void_p), ("base", ctypes.c_uint64), ("size", ctypes.c_uint64),
        ("latency", ctypes.c_uint32), ("jitter", ctypes.c_uint32),
        ("outstanding", ctypes.c_uint32), ("interleave", ctypes.c_uint32),
        ("share", ctypes.c_double), ("seed", ctypes.c_uint64),
        ("error_start", ctypes.c_uint64), ("error_stop", ctypes.c_uint64),
    ]


class Simulator:
    """One machine, out of reset.

    A context manager; closed at its end.

    Parameters
    ----------
    config : Config
        Of the machine.
    sources : sequence of Path, optional
        Verilog files with its top ``openese``. Emitted from ``config`` when left out.
    scramble : int
        When not 0, seeds random contents of everything that the Verilog gives no initial value.
    trace : bool
        Able to `trace`; slower.
    patience : int
        Cycles without a handshake on the ports that a call waits for, after which it gives up.

    Raises
    ------
    openese.sim.verilator.ToolError
        A tool is missing, or does not take the Verilog.
    SimulationError
        The stream ports do not fit ``config``.
    """

    def __init__(self, config: Config, *, sources: Sequence[Path] | None = None, scramble: int = 0,
                 trace: bool = False, patience: int = 1_000_000):
        self._machine = None
        self.config = config
        self.patience = patience
        self._library = _load(build.library(sources or [build.emitted(config)], trace=trace))
        channels = self._library.openese_channels()
        if channels != config.channels:
            raise SimulationError(f"s_axis_tdata carries {channels} channels, config {config.name!r} "
                                  f"has {config.channels}")
        self._traceable = trace
        self._memory: NDArray[np.uint8] | None = None
        self._traits: dict[str, Any] = {}
        self._machine = self._library.openese_create(scramble)
        self.reset()

    def __enter__(self) -> "Simulator":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the machine; nothing else may be called after."""
        if self._machine:
            self._library.openese_destroy(self._machine)
            self._machine = None

    __del__ = close

    # -- the clock -----------------------------------------------------------------------------

    @property
    def cycles(self) -> int:
        """Clock cycles since the simulator was made."""
        return self._call("cycles")

    @property
    def irq(self) -> bool:
        """Level of the interrupt."""
        return bool(self._call("irq"))

    def clock(self, cycles: int = 1) -> None:
        """Run for ``cycles``; what was sent goes on, and what the machine sends is kept.

        Raises
        ------
        SimulationError
            The machine broke a rule of a bus.
        """
        while cycles > 0:
            self._run(_Goal.CYCLES, cycles=min(cycles, SLICE))
            cycles -= SLICE

    def reset(self, cycles: int = 16) -> None:
        """Hold ``aresetn`` low for ``cycles``. What was sent and not yet received is dropped."""
        self._call("reset", True)
        self.clock(cycles)
        self._call("reset", False)
        self.clock(1)

    def pace(self, valid: float = 1.0, ready: float = 1.0, seed: int = 1) -> None:
        """In which share of the cycles the bus partners are willing, at random from ``seed``.

        Parameters
        ----------
        valid, ready : float
            Share, 0 to 1, of the cycles in which they offer what they send (s_axis, and the address and
            data of s_axi), and in which they take what the machine sends (m_axis, and answers of s_axi).
        seed : int
            Of the choice.
        """
        self._call("pace", seed, valid, ready)

    # -- s_axi ---------------------------------------------------------------------------------

    def write(self, address: int, value: int) -> None:
        """Write a register.

        Raises
        ------
        BusError
            The answer is an error.
        StuckError
            No answer.
        """
        self._write(address, np.array([value & 0xFFFFFFFF], np.uint32))

    def read(self, address: int) -> int:
        """Read a register, unsigned; raises as `write`."""
        self._call("read", address)
        self._run(_Goal.READ)
        response = self._call("response", True).decode()
        if response != "OKAY":
            raise BusError(f"read of 0x{address:03x} answered {response}")
        return self._call("value")

    def access(self, accesses: Iterable[tuple[int, int | None]]) -> list[int]:
        """Register accesses in order, raising as `write`.

        Parameters
        ----------
        accesses : iterable of (int, int or None)
            Addresses with what to write, or with None to read.

        Returns
        -------
        list of int
            What was read.
        """
        values = []
        for address, value in accesses:
            if value is None:
                values.append(self.read(address))
            else:
                self.write(address, value)
        return values

    def load(self, address: int, words: ArrayLike) -> None:
        """Write words to one address, back to back.

        Parameters
        ----------
        address : int
            Of the register that takes them.
        words : array_like of uint32, shape (n,)
            In order.

        Raises
        ------
        BusError
            An answer is an error: the message names the first such word. All words have been written.
        StuckError
            No answer.
        """
        self._write(address, np.ascontiguousarray(words, np.uint32))

    def _write(self, address: int, words: NDArray[np.uint32]) -> None:
        self._call("write", address, words.ctypes.data, words.size)
        self._run(_Goal.WRITTEN)
        refused = self._call("refused")
        if refused:
            response = self._call("response", False).decode()
            raise BusError(f"write {refused} of {words.size} to 0x{address:03x} answered {response}")

    # -- s_axis and m_axis ---------------------------------------------------------------------

    def run_frames(self, header: ArrayLike, columns: ArrayLike, outputs: int,
                   ) -> tuple[NDArray[np.uint16], NDArray[np.int16]]:
        """Send frames and receive as many: `send_frames`, then `receive_frames`."""
        header = np.asarray(header)
        self.send_frames(header, columns)
        return self.receive_frames(len(header), outputs)

    def send_frames(self, header: ArrayLike, columns: ArrayLike) -> None:
        """Hand frames over to be sent; they go out as the clock turns.

        Parameters
        ----------
        header : array_like of uint16, shape (T, C)
            Per channel: bit 0 active, bit 1 reset.
        columns : array_like of int16, shape (T, I, C)
            Activations.
        """
        header = np.asarray(header, np.uint16)
        columns = np.asarray(columns, np.int16)
        frames, channels = header.shape
        if columns.ndim != 3 or columns.shape[::2] != (frames, channels) or channels != self.config.channels:
            raise SimulationError(f"frames must be headers (T, {self.config.channels}) and columns "
                                  f"(T, I, {self.config.channels}), not {header.shape} and {columns.shape}")
        beats = np.concatenate([header[:, None, :], columns.view(np.uint16)], axis=1)
        last = np.zeros(beats.shape[:2], np.uint8)
        last[:, -1] = 1
        self.send_beats(beats.reshape(-1, channels), last.ravel())

    def receive_frames(self, count: int, outputs: int) -> tuple[NDArray[np.uint16], NDArray[np.int16]]:
        """Turn the clock until frames have been received.

        Parameters
        ----------
        count : int
            Frames, T.
        outputs : int
            Columns in each of them, P.

        Returns
        -------
        header : ndarray of uint16, shape (T, C)
            Per channel: bit 0 active.
        columns : ndarray of int16, shape (T, P, C)
            Activations.

        Raises
        ------
        StuckError
            No beat went in or out for too long.
        SimulationError
            A frame is of another length, or the machine broke a rule of a bus.
        """
        self._run(_Goal.RECEIVED, count)
        beats, last = self._take(count)
        ends = np.flatnonzero(last)
        lengths = np.diff(ends, prepend=-1)
        wrong = np.flatnonzero(lengths != 1 + outputs)
        if wrong.size:
            raise SimulationError(f"frame {wrong[0]} of {count} received has {lengths[wrong[0]]} beats, "
                                  f"not a header and {outputs} columns")
        beats = beats.reshape(count, 1 + outputs, self.config.channels)
        return beats[:, 0].copy(), beats[:, 1:].view(np.int16)

    def send_beats(self, beats: NDArray[np.uint16], last: NDArray[np.uint8]) -> None:
        """Hand over any beats: ``beats`` (n, C) with ``last`` (n,), TLAST of each."""
        beats = np.ascontiguousarray(beats, np.uint16)
        last = np.ascontiguousarray(last, np.uint8)
        self._call("send", beats.ctypes.data, last.ctypes.data, len(last))

    def drain(self) -> None:
        """Turn the clock until all that was handed over has gone in; raises as `receive_frames`."""
        self._run(_Goal.SENT)

    def abandon(self) -> None:
        """Give up all frames: those not begun are not sent, those received are dropped.

        A frame that has begun is sent to its end, and what the machine sends meanwhile is dropped too.
        """
        self._call("forget", False)
        self._run(_Goal.SENT)
        self.clock(64)
        self._call("forget", True)

    def _take(self, frames: int) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
        length = self._call("length", frames)
        beats = np.empty((length, self.config.channels), np.uint16)
        last = np.empty(length, np.uint8)
        self._call("take", length, beats.ctypes.data, last.ctypes.data)
        return beats, last

    # -- m_axi ---------------------------------------------------------------------------------

    def attach_memory(self, data: NDArray[np.uint8], base: int = 0, *, latency: int = 60, jitter: int = 0,
                      share: float = 1.0, outstanding: int = 64, interleave: bool = False,
                      error: tuple[int, int] = (0, 0), seed: int = 1) -> None:
        """Put a memory behind the AXI4 read master.

        Addresses outside it answer DECERR. A burst that AXI4 forbids is a `SimulationError`.

        Parameters
        ----------
        data : ndarray of uint8, shape (n,)
            Contents: shared, so that a change shows at once.
        base : int
            Address of its first byte.
        latency, jitter : int
            Cycles from a burst's address to its first beat: the least, and the most that chance adds.
        share : float
            Of the cycles, 0 to 1, in which it gives a beat that is due.
        outstanding : int
            Bursts that it takes before the first is answered.
        interleave : bool
            Whether beats of bursts with different identities mix, in any order.
        error : (int, int)
            First address, and first after it, that answer SLVERR.
        seed : int
            Of what is left to chance.
        """
        if not self._library.openese_has_memory():
            raise SimulationError(f"machine {self.config.name!r} has no AXI4 master m_axi")
        if data.dtype != np.uint8 or not data.flags.c_contiguous:
            raise SimulationError(f"memory contents must be contiguous uint8, not {data.dtype}")
        self._memory = data
        traits = _MemoryTraits(data.ctypes.data, base, data.size, latency, jitter, outstanding, interleave,
                               share, seed, *error)
        self._call("memory", ctypes.byref(traits))

    def place(self, data: NDArray[np.uint8], **traits: Any) -> int:
        """Attach memory ``data`` at address 0, which is returned; other traits as given, or as before."""
        self._traits |= traits
        self.attach_memory(data, 0, **self._traits)
        return 0

    # -- traces --------------------------------------------------------------------------------

    @contextmanager
    def trace(self, path: str | Path, names: Iterable[str] = ()) -> Iterator[None]:
        """Write all signals, or those of given ``names`` (``core.array.busy``), to a VCD file in the ``with`` block."""
        if not self._traceable:
            raise SimulationError("this simulator was made without trace=True")
        self._call("trace", str(path).encode(), "".join(f"TOP.{build.TOP}.{name} " for name in names).encode())
        try:
            yield
        finally:
            self._call("trace", None, b"")

    # -- the library ---------------------------------------------------------------------------

    def _run(self, goal: _Goal, count: int = 0, cycles: int = SLICE) -> None:
        outcome = _Outcome.UNDER_WAY
        while outcome is _Outcome.UNDER_WAY:
            outcome = _Outcome(self._call("run", goal, count, cycles, self.patience))
            if goal is _Goal.CYCLES:
                break
        if outcome in (_Outcome.STUCK, _Outcome.FAULT):
            reason = self._call("waiting", goal).decode()
            if outcome is _Outcome.FAULT:
                raise SimulationError(f"cycle {self.cycles}: {reason}")
            raise StuckError(f"cycle {self.cycles}: nothing moved for {self.patience} cycles: {reason}")

    def _call(self, name: str, *arguments: Any) -> Any:
        return getattr(self._library, f"openese_{name}")(self._machine, *arguments)


@cache
def _load(path: Path) -> ctypes.CDLL:
    pointer, size, u32, u64 = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint32, ctypes.c_uint64
    integer, real, text = ctypes.c_int, ctypes.c_double, ctypes.c_char_p
    library = ctypes.CDLL(str(path))
    for name, result, *arguments in [
        ("channels", u32), ("has_memory", u32),
        ("create", pointer, u64), ("destroy", None, pointer), ("reset", None, pointer, integer),
        ("pace", None, pointer, u64, real, real), ("cycles", u64, pointer), ("irq", integer, pointer),
        ("trace", None, pointer, text, text), ("write", None, pointer, u32, pointer, size),
        ("refused", size, pointer), ("read", None, pointer, u32), ("value", u32, pointer),
        ("response", text, pointer, integer), ("send", None, pointer, pointer, pointer, size),
        ("length", size, pointer, size), ("take", None, pointer, size, pointer, pointer),
        ("forget", None, pointer, integer),
        ("memory", None, pointer, pointer), ("run", integer, pointer, integer, size, u64, u64),
        ("waiting", text, pointer, integer),
    ]:
        function = getattr(library, f"openese_{name}")
        function.restype, function.argtypes = result, arguments
    return library
