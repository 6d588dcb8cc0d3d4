# SPDX-License-Identifier: Apache-2.0
"""The host's side of the machine: load an image, run frames, read counters and voices' states."""

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from openese.rtl.config import Config
from openese.rtl.loader import MAGIC, VERSION, ImageError, Section
from openese.rtl.registers import ADDRESS, COUNTERS, Control, Status
from openese.sw.model.arrays import Int64Array
from openese.sw.model.state import ChannelState
from openese.sw.pack.image import Image

__all__ = ["Device", "DeviceError", "Link"]


class DeviceError(ValueError):
    """The machine refused something, or is not the one that was expected; the message says which and why."""


class Link(Protocol):
    """A way to a machine: the simulator's pins, or a cable."""

    config: Config

    def write(self, address: int, value: int) -> None:
        """Write a register."""

    def read(self, address: int) -> int:
        """Read a register."""

    def access(self, accesses: Iterable[tuple[int, int | None]]) -> list[int]:
        """Register accesses in order: writes (address, value) and reads (address, None); returns what was read."""

    def load(self, address: int, words: ArrayLike) -> None:
        """Write words to one register, one after another."""

    def abandon(self) -> None:
        """Give up all frames that were not sent or not received."""

    def place(self, data: NDArray[np.uint8]) -> int:
        """Put bytes into the memory behind the machine's AXI4 port; returns their address."""

    def run_frames(self, header: ArrayLike, columns: ArrayLike,
                   outputs: int) -> tuple[NDArray[np.uint16], NDArray[np.int16]]:
        """Send frames, headers (T, C) and columns (T, I, C); receive as many, headers and (T, P, C)."""


class Device:
    """A machine with a model in it; the same interface as `openese.sw.reference.machine.Reference`.

    Parameters
    ----------
    link : `Link`
        To a machine of the image's configuration.
    image : `Image`

    Attributes
    ----------
    model : `QuantizedModel`
        What is in the machine.
    channels : int

    Raises
    ------
    DeviceError
        If there is no such machine at the link, or it refuses the image.
    """

    def __init__(self, link: Link, image: Image) -> None:
        self._link = link
        self._image = image
        self.model = image.model()
        self.channels = image.config.channels
        self._identify()
        self._place_stream()
        self.load(image.words())

    def _identify(self) -> None:
        actual = {name: self._link.read(ADDRESS[name]) for name in ("ID", "VERSION", "FINGERPRINT")}
        config = self._image.config
        wanted = {"ID": MAGIC, "VERSION": VERSION, "FINGERPRINT": config.fingerprint}
        for name, value in wanted.items():
            if actual[name] != value:
                raise DeviceError(f"the machine's {name} is {actual[name]:08x}; config {config.name!r} "
                                  f"of the image has {value:08x}")

    def _place_stream(self) -> None:
        """Weights that are streamed go to the memory behind the machine's AXI4 port."""
        lines = self._image.sections.get(Section.STREAM)
        if lines is None:
            return
        base = self._link.place(lines.astype("<u4").view(np.uint8).reshape(-1))
        self._link.write(ADDRESS["STREAM_BASE_LOW"], base & 0xFFFFFFFF)
        self._link.write(ADDRESS["STREAM_BASE_HIGH"], base >> 32)

    def load(self, words: NDArray[np.uint32]) -> None:
        """Load an image's words; all voices start anew.

        Raises
        ------
        DeviceError
            If the machine refuses it or still waits for more of it. Another image may be loaded afterwards.
        """
        link = self._link
        link.write(ADDRESS["CONTROL"], Control.LOAD)
        link.load(ADDRESS["LOAD"], words)
        if not link.read(ADDRESS["STATUS"]) & Status.LOADED:
            word = link.read(ADDRESS["IMAGE_ERROR"])
            error = ImageError(word & 0xFF)
            if error is ImageError.NONE:
                raise DeviceError("the machine waits for more of the image: it is truncated")
            where = f" in section {word >> 8}" if error >= ImageError.SECTION else ""
            raise DeviceError(f"the machine refused the image: wrong {error.name.lower().replace('_', ' ')}{where}")
        self._fresh = np.ones(self.channels, bool)
        link.write(ADDRESS["CONTROL"], Control.RUN)

    def reset(self) -> None:
        """Abandon whatever is under way, with every voice's state; the image stays."""
        self._link.write(ADDRESS["CONTROL"], Control.RESET | Control.RUN)
        self._link.abandon()
        # A frame that had been offered is still taken, and computed for nobody.
        while not self._link.read(ADDRESS["STATUS"]) & Status.IDLE:
            pass
        self._link.abandon()
        self._fresh[:] = True

    def run(self, frames: ArrayLike, active: ArrayLike | None = None,
            reset: ArrayLike | None = None) -> Int64Array:
        """Steps for frames (T, C, I), as `Reference.run`; a voice's first frame starts it anew.

        Raises
        ------
        ValueError
            For frames of the wrong shape, or activations beyond ``activation_bits``.
        """
        x = np.asarray(frames)
        steps = len(x)
        if x.shape != (steps, self.channels, self.model.inputs):
            raise ValueError(f"frames: expected shape (T, {self.channels}, {self.model.inputs}), found {x.shape}")
        limit = 1 << (self._image.config.activation_bits - 1)
        if x.size and (x.max() >= limit or x.min() < -limit):
            raise ValueError(f"frames: {x.max()} or {x.min()} does not fit {self._image.config.activation_bits} bits")
        shape = (steps, self.channels)
        running = np.ones(shape, bool) if active is None else np.broadcast_to(np.asarray(active, bool), shape)
        anew = np.zeros(shape, bool) if reset is None else np.array(np.broadcast_to(np.asarray(reset, bool), shape))
        if steps:
            anew[0] |= self._fresh
            self._fresh[:] = False
        header = running | anew.astype(np.uint16) << 1
        columns = np.ascontiguousarray(x.transpose(0, 2, 1)).astype(np.int16)
        echoed, y = self._link.run_frames(header, columns, self.model.outputs)
        if (echoed != running).any():
            step = int(np.argwhere((echoed != running).any(axis=1))[0, 0])
            raise DeviceError(f"frame {step} came back for other voices than it was sent for")
        return y.transpose(0, 2, 1).astype(np.int64)

    def counters(self) -> dict[str, int]:
        """The counters since the image was loaded, by the names of `openese.rtl.registers.COUNTERS`."""
        return {name: self._link.read(ADDRESS[f"{name.upper()}_LOW"]) | self._link.read(
            ADDRESS[f"{name.upper()}_HIGH"]) << 32 for name in COUNTERS}

    # -- state ---------------------------------------------------------------------------------

    def _places(self, channel: int) -> Iterable[tuple[int, str, Int64Array]]:
        """STATE_SELECT words of one channel: layer, "c" or "y", words."""
        if not 0 <= channel < self.channels:
            raise ValueError(f"channel must be between 0 and {self.channels - 1}, not {channel}")
        config = self._image.config
        for number, fields in enumerate(self._image.manifest["layers"]):
            cells = fields["cell_base"] * config.row_pes + np.arange(fields["cells"])
            columns = fields["y_line"] * config.groups + np.arange(fields["outputs"])
            yield number, "c", cells | channel << 16 | 1 << 31
            yield number, "y", columns | channel << 16

    def get_state(self, channel: int) -> list[ChannelState]:
        """The state of one channel, layer by layer. Nothing may be under way."""
        parts: list[dict[str, Any]] = [{} for _ in self.model.layers]
        for number, name, words in self._places(channel):
            values = np.zeros(len(words), np.int64)
            if not self._fresh[channel]:
                values[:] = self._link.access(
                    access for word in words for access in ((ADDRESS["STATE_SELECT"], int(word)),
                                                            (ADDRESS["STATE_DATA"], None)))
            parts[number][name] = values - ((values >> 31) << 32)
        return [ChannelState(**layer) for layer in parts]

    def set_state(self, channel: int, state: list[ChannelState]) -> None:
        """Replace the state of one channel. Nothing may be under way.

        Raises
        ------
        ValueError
            For a state of the wrong shape, or numbers that do not fit.
        """
        config = self._image.config
        if len(state) != len(self.model.layers):
            raise ValueError(f"state: expected {len(self.model.layers)} layers, found {len(state)}")
        places = list(self._places(channel))
        for number, name, words in places:
            values = np.asarray(getattr(state[number], name))
            limit = 1 << ((config.cell_bits if name == "c" else config.activation_bits) - 1)
            layer = self.model.layers[number].name
            if values.shape != words.shape:
                raise ValueError(f"{name} of layer {layer!r}: expected shape {words.shape}, found {values.shape}")
            if values.size and (values.max() >= limit or values.min() < -limit):
                raise ValueError(f"{name} of layer {layer!r}: {values.max()} or {values.min()} does not fit")
        self._fresh[channel] = not any(np.any(part) for layer in state for part in layer)
        if self._fresh[channel]:
            return
        for number, name, words in places:
            values = np.asarray(getattr(state[number], name))
            self._link.access(
                access for word, value in zip(words, values, strict=True)
                for access in ((ADDRESS["STATE_SELECT"], int(word)), (ADDRESS["STATE_DATA"], int(value) & 0xFFFFFFFF)))
