# SPDX-License-Identifier: Apache-2.0
"""A machine's emitted Verilog in Verilator, as a Python object with the machine's ports."""

import ctypes
import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from openese.rtl.config import Config, machine_config
from openese.rtl.frames import beat_bytes, frame_beats, pack_beats, pack_frames, unpack_frames
from openese.sim import build

__all__ = ["SimulationError", "BusError", "StuckError", "Simulator"]

SLICE = 1 << 16  # cycles in one call of the library; between calls, Python handles Ctrl-C


class SimulationError(ValueError):
    """The machine or the caller breaks a rule of a bus. The message names the port and the rule."""


class BusError(SimulationError):
    """The machine answers an AXI4-Lite access with an error."""


class StuckError(SimulationError):
    """Nothing moves for `Simulator.patience` cycles. The message says what the simulator waits for."""


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
        ("last_start", ctypes.c_uint64), ("last_stop", ctypes.c_uint64),
    ]


class Simulator:
    """One machine in Verilator, out of reset.

    It is the link of a `openese.sw.run.device.Device`. A context manager: it frees the machine at its end.

    Parameters
    ----------
    config : str or Config
        The machine: a preset's name, or one of your own.
    sources : sequence of Path, optional
        Verilog files with the top ``openese``; by default the Verilog emitted from ``config``.
    scramble : int
        If not 0, it seeds random contents for everything without an initial value in the Verilog.
    trace : bool
        Build a simulator that can write waveforms: see `trace`. It is slower.
    patience : int
        A call gives up after so many cycles without a handshake on the port that it waits for.

    Raises
    ------
    openese.sim.verilator.ToolError
        A tool is missing, or refuses the Verilog.
    SimulationError
        The stream ports do not fit ``config``.
    """

    def __init__(self, config: str | Config, *, sources: Sequence[Path] | None = None, scramble: int = 0,
                 trace: bool = False, patience: int = 1_000_000):
        self._machine = None
        self.config = config = machine_config(config)
        self.patience = patience
        self._library = _load(build.library(sources or [build.emitted(config)], trace=trace))
        self._beat = self._library.openese_beat()
        needed = beat_bytes(config)
        if self._beat != _port_bytes(needed):
            raise SimulationError(f"s_axis_tdata takes {self._beat} bytes in Verilator; config {config.name!r} has "
                                  f"beats of {needed} bytes, which take {_port_bytes(needed)}")
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
        """Free the machine. No other method may be called afterwards."""
        if self._machine:
            self._library.openese_destroy(self._machine)
            self._machine = None

    __del__ = close

    # -- the clock -----------------------------------------------------------------------------

    @property
    def cycles(self) -> int:
        """Clock cycles since the simulator started."""
        return self._call("cycles")

    @property
    def irq(self) -> bool:
        """Whether the interrupt is raised."""
        return bool(self._call("irq"))

    def clock(self, cycles: int = 1) -> None:
        """Run for ``cycles``. Frames that were sent go in meanwhile, and frames that come out are kept.

        Raises
        ------
        SimulationError
            The machine breaks a rule of a bus.
        """
        while cycles > 0:
            self._run(_Goal.CYCLES, cycles=min(cycles, SLICE))
            cycles -= SLICE

    def reset(self, cycles: int = 16) -> None:
        """Hold ``aresetn`` low for ``cycles``. Frames that were sent and not yet received are dropped."""
        self._call("reset", True)
        self.clock(cycles)
        self._call("reset", False)
        self.clock(1)

    def pace(self, valid: float = 1.0, ready: float = 1.0, seed: int = 1) -> None:
        """Make the bus partners pause at random.

        Parameters
        ----------
        valid : float
            Share of the cycles, 0 to 1, in which senders offer a beat: on s_axis, and address and data of s_axi.
        ready : float
            Share of the cycles, 0 to 1, in which receivers take a beat: on m_axis, and answers of s_axi.
        seed : int
            Seeds the choice of cycles.
        """
        self._call("pace", seed, valid, ready)

    # -- s_axi ---------------------------------------------------------------------------------

    def write(self, address: int, value: int) -> None:
        """Write a register.

        Raises
        ------
        BusError
            The machine answers with an error.
        StuckError
            The machine does not answer.
        """
        self._write(address, np.array([value & 0xFFFFFFFF], np.uint32))

    def read(self, address: int) -> int:
        """Read a register as an unsigned number; raises as `write`."""
        return int(self._read(address, 1)[0])

    def access(self, accesses: Iterable[tuple[int, int | None]]) -> list[int]:
        """Read and write registers in order, runs of one address back to back; raises as `write`.

        Parameters
        ----------
        accesses : iterable of (int, int or None)
            Each an address, and the value to write or None to read.

        Returns
        -------
        list of int
            The values of the reads.
        """
        values: list[int] = []
        for (address, reads), run in itertools.groupby(accesses, lambda access: (access[0], access[1] is None)):
            if reads:
                values += self._read(address, sum(1 for _ in run)).tolist()
            else:
                self._write(address, np.array([value & 0xFFFFFFFF for _, value in run if value is not None],
                                              np.uint32))
        return values

    def load(self, address: int, words: ArrayLike) -> None:
        """Write words to one address, back to back.

        Parameters
        ----------
        address : int
            The register.
        words : array_like of uint32, shape (n,)

        Raises
        ------
        BusError
            The machine answers with an error. The message names the first such word; all words were sent.
        StuckError
            The machine does not answer.
        """
        self._write(address, np.ascontiguousarray(words, np.uint32))

    def _read(self, address: int, count: int) -> NDArray[np.uint32]:
        self._call("read", address, count)
        self._run(_Goal.READ)
        refused = self._call("read_refused")
        if refused:
            which = f"read {refused} of {count}" if count > 1 else "read"
            response = self._call("response", True).decode()
            raise BusError(f"{which} of 0x{address:03x} answered {response}")
        values = np.empty(count, np.uint32)
        self._call("values", values.ctypes.data)
        return values

    def _write(self, address: int, words: NDArray[np.uint32]) -> None:
        self._call("write", address, words.ctypes.data, words.size)
        self._run(_Goal.WRITTEN)
        refused = self._call("refused")
        if refused:
            response = self._call("response", False).decode()
            raise BusError(f"write {refused} of {words.size} to 0x{address:03x} answered {response}")

    # -- s_axis and m_axis ---------------------------------------------------------------------

    def run_frames(self, header: ArrayLike, columns: ArrayLike, outputs: int,
                   ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Send frames and receive as many: `send_frames`, then `receive_frames`."""
        header = np.asarray(header)
        self.send_frames(header, columns)
        return self.receive_frames(len(header), outputs)

    def send_frames(self, header: ArrayLike, columns: ArrayLike) -> None:
        """Queue frames; they go in while the clock runs.

        Parameters
        ----------
        header : integers (T, C)
            Per channel: bit 0 active, bit 1 reset.
        columns : integers (T, I, C)
            Activations, of ``activation_bits``.
        """
        header, columns = np.asarray(header), np.asarray(columns)
        frames, channels = header.shape
        if columns.ndim != 3 or columns.shape[::2] != (frames, channels) or channels != self.config.channels:
            raise SimulationError(f"frames must be headers (T, {self.config.channels}) and columns "
                                  f"(T, I, {self.config.channels}), not {header.shape} and {columns.shape}")
        beats = pack_frames(self.config, header, columns)
        last = np.zeros(beats.shape[:2], np.uint8)
        last[:, -1] = 1
        self._send(beats.reshape(-1, beats.shape[-1]), last.ravel())

    def receive_frames(self, count: int, outputs: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Run until the machine has sent ``count`` frames.

        Parameters
        ----------
        count : int
            Frames, T.
        outputs : int
            Columns in each of them, P.

        Returns
        -------
        header : int32 (T, C)
            Per channel: bit 0 active.
        columns : int32 (T, P, C)
            Activations.

        Raises
        ------
        StuckError
            No beat goes in or out for `patience` cycles.
        SimulationError
            A frame has another number of beats, or the machine breaks a rule of a bus.
        """
        self._run(_Goal.RECEIVED, count)
        beats, last = self._take(count)
        ends = np.flatnonzero(last)
        lengths = np.diff(ends, prepend=-1)
        length = frame_beats(self.config, outputs)
        wrong = np.flatnonzero(lengths != length)
        if wrong.size:
            raise SimulationError(f"frame {wrong[0]} of {count} received has {lengths[wrong[0]]} beats; a header and "
                                  f"{outputs} columns take {length}")
        return unpack_frames(self.config, beats.reshape(count, length, self._beat), outputs)

    def send_beats(self, beats: NDArray[np.integer[Any]], last: NDArray[np.uint8]) -> None:
        """Queue single beats: words ``beats`` (n, beat_columns * C), and TLAST of each in ``last`` (n,)."""
        self._send(pack_beats(self.config, beats), last)

    def _send(self, beats: NDArray[np.uint8], last: NDArray[np.uint8]) -> None:
        packed = np.zeros((len(beats), self._beat), np.uint8)
        packed[:, :beat_bytes(self.config)] = beats
        last = np.ascontiguousarray(last, np.uint8)
        self._call("send", packed.ctypes.data, last.ctypes.data, len(last))

    def drain(self) -> None:
        """Run until all queued frames have gone in; raises as `receive_frames`."""
        self._run(_Goal.SENT)

    def abandon(self) -> None:
        """Drop all frames that wait to go in, and all that came out.

        A frame that is going in is sent to its end; frames that the machine sends meanwhile are dropped too.
        """
        self._call("forget", False)
        self._run(_Goal.SENT)
        self.clock(64)
        self._call("forget", True)

    def _take(self, frames: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        length = self._call("length", frames)
        beats = np.empty((length, self._beat), np.uint8)
        last = np.empty(length, np.uint8)
        self._call("take", length, beats.ctypes.data, last.ctypes.data)
        return beats, last

    # -- m_axi ---------------------------------------------------------------------------------

    def attach_memory(self, data: NDArray[np.uint8], base: int = 0, *, latency: int = 60, jitter: int = 0,
                      share: float = 1.0, outstanding: int = 64, interleave: bool = False,
                      error: tuple[int, int] = (0, 0), wrong_last: tuple[int, int] = (0, 0), seed: int = 1) -> None:
        """Put a memory behind the AXI4 read master.

        Addresses outside of it answer DECERR. A burst that AXI4 forbids raises `SimulationError`.

        Parameters
        ----------
        data : ndarray of uint8, shape (n,)
            Contents. The array is shared: the machine sees later changes.
        base : int
            Address of the first byte.
        latency, jitter : int
            Cycles from a burst's address to its first beat: ``latency``, and a random number up to ``jitter`` more.
        share : float
            Share of the cycles, 0 to 1, in which the memory gives a beat that is due.
        outstanding : int
            Bursts that the memory accepts before it answers the first.
        interleave : bool
            Whether beats of bursts with different identities mix, in any order.
        error : (int, int)
            Addresses from the first to before the second answer SLVERR.
        wrong_last : (int, int)
            RLAST of beats from the first of these addresses to before the second is wrong.
        seed : int
            Seeds jitter, share and interleaving.

        Raises
        ------
        SimulationError
            The machine has no such port, or ``data`` is of another type.
        """
        if not self._library.openese_has_memory():
            raise SimulationError(f"machine {self.config.name!r} has no AXI4 master m_axi")
        if data.dtype != np.uint8 or not data.flags.c_contiguous:
            raise SimulationError(f"memory contents must be contiguous uint8, not {data.dtype}")
        self._memory = data
        traits = _MemoryTraits(data.ctypes.data, base, data.size, latency, jitter, outstanding, interleave,
                               share, seed, *error, *wrong_last)
        self._call("memory", ctypes.byref(traits))

    def place(self, data: NDArray[np.uint8], **traits: Any) -> int:
        """Attach memory ``data`` at address 0, and return 0. Traits that are not given stay as they are."""
        self._traits |= traits
        self.attach_memory(data, 0, **self._traits)
        return 0

    # -- traces --------------------------------------------------------------------------------

    @contextmanager
    def trace(self, path: str | Path, names: Iterable[str] = ()) -> Iterator[None]:
        """In the ``with`` block, write all signals, or those in ``names`` (``core.array.busy``), to a VCD file."""
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


def _port_bytes(size: int) -> int:
    """Bytes of a port of ``size`` bytes in Verilator: 1, 2, 4, 8, or words of 32 bits."""
    return 1 << (size - 1).bit_length() if size <= 8 else -(-size // 4) * 4


@cache
def _load(path: Path) -> ctypes.CDLL:
    pointer, size, u32, u64 = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint32, ctypes.c_uint64
    integer, real, text = ctypes.c_int, ctypes.c_double, ctypes.c_char_p
    library = ctypes.CDLL(str(path))
    for name, result, *arguments in [
        ("beat", u32), ("has_memory", u32),
        ("create", pointer, u64), ("destroy", None, pointer), ("reset", None, pointer, integer),
        ("pace", None, pointer, u64, real, real), ("cycles", u64, pointer), ("irq", integer, pointer),
        ("trace", None, pointer, text, text), ("write", None, pointer, u32, pointer, size),
        ("refused", size, pointer), ("read", None, pointer, u32, size), ("read_refused", size, pointer),
        ("values", None, pointer, pointer),
        ("response", text, pointer, integer), ("send", None, pointer, pointer, pointer, size),
        ("length", size, pointer, size), ("take", None, pointer, size, pointer, pointer),
        ("forget", None, pointer, integer),
        ("memory", None, pointer, pointer), ("run", integer, pointer, integer, size, u64, u64),
        ("waiting", text, pointer, integer),
    ]:
        function = getattr(library, f"openese_{name}")
        function.restype, function.argtypes = result, arguments
    return library
