# SPDX-License-Identifier: Apache-2.0
"""The link to a machine at a serial port: the host's side of `openese.rtl.serial.packets`.

One request is under way at a time. Without an answer in time the host sends it again with the same number. The machine
knows the number, so it never carries out a request twice, and no request is lost when bytes are.
"""

import itertools
import time
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from openese.rtl.config import Config, machine_config
from openese.rtl.frames import beat_bytes, frame_beats, pack_frames, unpack_frames
from openese.rtl.serial.packets import DEPTH, END, PROTOCOL, Kind, Packet, decode, encode
from openese.sw.run.device import DeviceError

__all__ = ["BAUD", "LONGEST", "LinkError", "SerialLink"]

#: Default bits a second: the fastest of the ULX3S's FT231X.
BAUD = 3_000_000
#: The longest wait for an answer, in seconds.
LONGEST = 5.0


class LinkError(DeviceError):
    """The machine at the port does not answer, answers wrongly, or refuses. The message names the port."""


class SerialLink:
    """A machine at a serial port.

    It is the link of a `Device`. A context manager: it closes the port at its end.

    Parameters
    ----------
    port : str
        The port's name for pyserial: ``/dev/ttyUSB0``, ``COM3``.
    config : str or Config
        The machine.
    baud : int
        Bits a second.
    timeout : float
        Seconds without an answer, beyond the time for its bytes, after which a request is sent again. The time doubles
        with each try, up to `LONGEST`.
    tries : int
        How often a request is sent at most.
    patience : float
        `run_frames` gives up when no beat goes in or out for so many seconds.

    Attributes
    ----------
    repeated : int
        Requests that were sent again.

    Raises
    ------
    LinkError
        The port cannot be opened, pyserial is missing, there is no answer, or the machine has another protocol or
        number of channels.
    """

    def __init__(self, port: str, config: str | Config, *, baud: int = BAUD, timeout: float = 0.2, tries: int = 8,
                 patience: float = 20.0) -> None:
        try:
            import serial
        except ImportError:
            raise LinkError(f"{port}: a serial port needs pyserial: pip install 'openese[serial]'") from None
        self.config = config = machine_config(config)
        self.repeated = 0
        self._name = port
        self._gone = serial.SerialException
        self._tries, self._patience = tries, patience
        # A request or answer of full size, with every byte escaped, there and back.
        self._timeout = timeout + 2 * 8 * (DEPTH + 2) * 10 / baud
        self._words = -(-beat_bytes(config) // 4)
        self._sequence = 0
        self._line = bytearray()
        try:
            self._port = serial.Serial(port, baud, timeout=0.02, write_timeout=5)
        except (self._gone, ValueError) as error:
            raise LinkError(f"{port}: cannot be opened: {error}") from None
        try:
            self._port.set_low_latency_mode(True)  # FTDI's drivers else collect bytes for 16 ms
        except (AttributeError, OSError, ValueError, NotImplementedError):
            pass
        try:
            self._greet()
        except LinkError:
            self.close()
            raise

    def __enter__(self) -> "SerialLink":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the port. The machine keeps its state."""
        self._port.close()

    def _greet(self) -> None:
        word, = self._request(Kind.HELLO, [])
        protocol, words, depth = int(word) & 0xFF, int(word) >> 8 & 0xFF, int(word) >> 16
        for name, there, wanted in (("protocol", protocol, PROTOCOL), ("words a beat", words, self._words),
                                    ("words a packet", depth, DEPTH)):
            if there != wanted:
                raise LinkError(f"{self._name}: the machine there has {name} {there}, "
                                f"config {self.config.name!r} needs {wanted}")

    # -- packets -------------------------------------------------------------------------------

    def _request(self, kind: Kind, payload: ArrayLike) -> NDArray[np.uint32]:
        """Send a request; returns the payload of its answer."""
        self._sequence = (self._sequence + 1) % 256
        line = encode(kind, self._sequence, payload)
        try:
            for attempt in range(self._tries):
                self.repeated += attempt > 0
                self._port.write(line)
                longest = max(LONGEST, self._timeout)
                for packet in self._packets(time.monotonic() + min(longest, self._timeout * 2 ** attempt)):
                    if packet.sequence != self._sequence:
                        continue
                    if packet.kind == Kind.REFUSED:
                        raise LinkError(f"{self._name}: the machine does not know {kind.name} requests")
                    if packet.kind == kind | Kind.ANSWER:
                        return packet.payload
        except (self._gone, OSError) as error:
            raise LinkError(f"{self._name}: the port is gone: {error}") from None
        raise LinkError(f"{self._name}: no answer to {kind.name}, asked {self._tries} times")

    def _packets(self, deadline: float) -> Iterator[Packet]:
        """The valid packets that come before ``deadline``."""
        while time.monotonic() < deadline:
            self._line += self._port.read(max(1, self._port.in_waiting))
            *packets, self._line = self._line.split(bytes([END]))
            for line in packets:
                packet = decode(bytes(line)) if line else None
                if packet:
                    yield packet

    # -- registers -----------------------------------------------------------------------------

    def access(self, accesses: Iterable[tuple[int, int | None]]) -> list[int]:
        """Write (address, value) and read (address, None) registers in order; returns the values of the reads.

        Accesses of one address in a row are one command, of which a packet takes as many as fit.

        Raises
        ------
        LinkError
            The machine refuses an access. The message names the first.
        """
        values: list[int] = []
        payload: list[int] = []
        addresses: dict[int, tuple[str, int]] = {}
        reads = 0
        for (address, is_read), run in itertools.groupby(accesses, lambda access: (access[0], access[1] is None)):
            given = [value for _, value in run]
            done = 0
            while done < len(given):
                if len(payload) + 2 > DEPTH or reads == DEPTH - 1:
                    values += self._registers(payload, addresses)
                    payload, addresses, reads = [], {}, 0
                part = given[done:done + DEPTH - 1 - (reads if is_read else len(payload))]
                done += len(part)
                addresses[len(payload)] = ("read of" if is_read else "write to", address)
                payload.append((not is_read) << 31 | (len(part) - 1) << 16 | address)
                reads += len(part) if is_read else 0
                payload += [value & 0xFFFFFFFF for value in part if value is not None]
        return values + (self._registers(payload, addresses) if payload else [])

    def _registers(self, payload: ArrayLike, addresses: dict[int, tuple[str, int]]) -> list[int]:
        status, *values = self._request(Kind.REGISTERS, payload).tolist()
        if status & 0xFFFF:
            what, address = addresses[status >> 16]
            raise LinkError(f"{self._name}: {what} register 0x{address:03x} was refused")
        return values

    def write(self, address: int, value: int) -> None:
        """Write a register."""
        self.access([(address, value)])

    def read(self, address: int) -> int:
        """Read a register."""
        value, = self.access([(address, None)])
        return value

    def load(self, address: int, words: ArrayLike) -> None:
        """Write words to one register, one after another."""
        self.access((address, word) for word in np.asarray(words, np.uint32).tolist())

    def place(self, data: NDArray[np.uint8]) -> int:
        """Raise `LinkError`: a serial link has no memory for weights."""
        raise LinkError(f"{self._name}: no memory there for weights to be streamed from; pack the model as resident")

    # -- frames --------------------------------------------------------------------------------

    def _exchange(self, beats: NDArray[np.uint32], last: bool,
                  wanted: int) -> tuple[int, bool, NDArray[np.uint32], bool]:
        """Send beats (n, words), and receive beats until there are ``wanted``.

        Returns the number of beats that were taken, whether a frame is part-way in, the beats that came, and whether
        they end a frame.
        """
        answer = self._request(Kind.FRAMES, [last << 31 | wanted, *beats.reshape(-1)])
        status = int(answer[0])
        return status & 0xFFFF, bool(status >> 30 & 1), answer[1:].reshape(-1, self._words), bool(status >> 31)

    def abandon(self) -> None:
        """Drop all frames that were not sent or not received."""
        nothing = np.zeros((0, self._words), np.uint32)
        _, midway, given, _ = self._exchange(nothing, False, 0)
        if midway:
            self._exchange(np.zeros((1, self._words), np.uint32), True, 0)
        while len(given) or midway:
            _, midway, given, _ = self._exchange(nothing, False, 1)

    def run_frames(self, header: ArrayLike, columns: ArrayLike,
                   outputs: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Send T frames, headers (T, C) and columns (T, I, C); returns T headers and columns (T, P, C).

        A frame goes in while the frame before is computed.

        Raises
        ------
        LinkError
            No beat goes in or out for too long, or a frame comes back with another number of beats than ``outputs``
            columns take.
        """
        beats = pack_frames(self.config, header, columns)
        frames, length, size = beats.shape
        padded = np.zeros((frames, length, 4 * self._words), np.uint8)
        padded[:, :, :size] = beats
        words = padded.view("<u4")
        back = frame_beats(self.config, outputs)
        answers = np.zeros((frames, back, self._words), "<u4")
        most = (DEPTH - 1) // self._words
        sent = received = begun = part = 0  # frames; beats of the frames in the middle of which we are
        moved = time.monotonic()
        while received < frames:
            rest = words[sent, begun:begun + most] if sent < frames else words[:0, 0]
            wanted = back - part if sent > received else 0
            taken, _, given, ended = self._exchange(rest, begun + len(rest) == length, wanted)
            begun += taken
            if begun == length:
                sent, begun = sent + 1, 0
            if part + len(given) > back or ended != (part + len(given) == back):
                raise LinkError(f"{self._name}: frame {received} came back with another number of beats than the "
                                f"{back} of {outputs} columns")
            answers[received, part:part + len(given)] = given
            part += len(given)
            if ended:
                received, part = received + 1, 0
            if taken or len(given):
                moved = time.monotonic()
            elif time.monotonic() - moved > self._patience:
                raise LinkError(f"{self._name}: no beat in or out for {self._patience:.0f} s; {sent} of {frames} "
                                f"frames are in, {received} out")
        return unpack_frames(self.config, answers.view(np.uint8), outputs)


