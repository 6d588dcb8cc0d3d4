# SPDX-License-Identifier: Apache-2.0
"""A machine from the host's side: load an image, run frames, read counters and voices' states."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from openese.rtl.config import Config
from openese.rtl.frames import BANK_SHIFT, MODEL_SHIFT
from openese.rtl.loader import MAGIC, VERSION, ImageError, Section
from openese.rtl.registers import ADDRESS, COUNTERS, Control, Status
from openese.sw.model.arrays import Int64Array
from openese.sw.model.layers import DENSE
from openese.sw.model.state import ChannelState
from openese.sw.pack.image import Image

__all__ = ["Device", "DeviceError", "Link", "state_runs"]


#: Reads of STATUS after which a machine that is not idle is given up.
_PATIENCE = 100_000


class DeviceError(ValueError):
    """The machine refuses something, or is not the expected one. The message says what and why."""


class Link(Protocol):
    """A connection to a machine: the simulator's pins, or a cable."""

    config: Config

    def write(self, address: int, value: int) -> None:
        """Write a register."""

    def read(self, address: int) -> int:
        """Read a register."""

    def access(self, accesses: Iterable[tuple[int, int | None]]) -> list[int]:
        """Write (address, value) and read (address, None) registers in order; returns the values of the reads.

        It is best at many accesses of one address in a row.
        """

    def load(self, address: int, words: ArrayLike) -> None:
        """Write words to one register, one after another."""

    def abandon(self) -> None:
        """Drop all frames that were not sent or not received."""

    def place(self, data: NDArray[np.uint8]) -> int:
        """Put bytes into the memory at the machine's AXI4 port; returns their address."""

    def run_frames(self, header: ArrayLike, columns: ArrayLike,
                   outputs: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Send T frames, headers (T, C) and columns (T, I, C); returns T headers and columns (T, ``outputs``, C)."""


def state_runs(image: Image, voice: int) -> Iterator[tuple[int, str, int, int]]:
    """The runs of numbers of one voice's state: for each layer its number, "c" or "y", the STATE_SELECT word of the
    first, and how many there are.

    Raises
    ------
    DeviceError
        STATE_SELECT does not reach a number.
    """
    config = image.config
    bank, channel = divmod(voice, config.channels)
    lines = bank * int(image.manifest.get("bank_lines", 0))
    for number, fields in enumerate(image.part["layers"]):
        if fields.get("cell") == DENSE.name:
            continue
        for name, first, count, place in (
                ("c", fields["cell_base"] * config.row_pes, fields["cells"], bank << 24 | 1 << 31),
                ("y", (fields["y_line"] + lines) * config.groups, fields["outputs"], 0)):
            if first + count > 1 << 16:
                raise DeviceError(f"{name} of layer {number} reaches place {first + count - 1}, beyond the "
                                  f"{1 << 16} of STATE_SELECT")
            yield number, name, first | channel << 16 | place, count


class Device:
    """A machine with a model in it. It has the methods of `openese.sw.reference.machine.Reference`.

    Parameters
    ----------
    link : `Link`
        The connection to a machine of the image's configuration.
    image : `Image`
        If it holds several models, the device runs the one that the image stands for. `of` gives the others.

    Attributes
    ----------
    model : `QuantizedModel`
        The model in the machine.
    channels : int
        Voices side by side, C.
    banks : int
        Banks of voices, B. Voice v is channel v % C of bank v // C.

    Raises
    ------
    DeviceError
        The machine at the link has another configuration, or it refuses the image.
    """

    def __init__(self, link: Link, image: Image) -> None:
        self._link = link
        #: The devices of the models in the machine that are in use.
        self._models = {image.which: self}
        self._hold_model(image)
        self._identify()
        self._place_stream()
        self.load(image.words())

    def _hold_model(self, image: Image) -> None:
        self._image = image
        self.model = image.model()
        self.channels = image.config.channels
        self.banks = int(image.manifest.get("banks", 1))
        self._forget()

    def _forget(self) -> None:
        """All voices start from zero."""
        self._fresh = np.ones(self.banks * self.channels, bool)
        self._held: dict[int, list[ChannelState]] = {}  # states in the machine, by voice, as far as they are known

    def of(self, model: int | str) -> "Device":
        """The device of another model in the same machine, by name or number. Each model has voices of its own.

        Raises
        ------
        ValueError
            There is no such model. The message lists those that there are.
        """
        image = self._image.select(model)
        if image.which not in self._models:
            other = object.__new__(Device)
            other._link, other._models = self._link, self._models
            other._hold_model(image)
            self._models[image.which] = other
        return self._models[image.which]

    def _identify(self) -> None:
        actual = {name: self._link.read(ADDRESS[name]) for name in ("ID", "VERSION", "FINGERPRINT")}
        config = self._image.config
        wanted = {"ID": MAGIC, "VERSION": VERSION, "FINGERPRINT": config.fingerprint}
        for name, value in wanted.items():
            if actual[name] != value:
                raise DeviceError(f"the machine's {name} is {actual[name]:08x}; config {config.name!r} "
                                  f"of the image has {value:08x}")

    def _place_stream(self) -> None:
        """Put streamed weights into the memory at the machine's AXI4 port."""
        lines = self._image.sections.get(Section.STREAM)
        if lines is None:
            return
        base = self._link.place(lines.astype("<u4").view(np.uint8).reshape(-1))
        self._link.write(ADDRESS["STREAM_BASE_LOW"], base & 0xFFFFFFFF)
        self._link.write(ADDRESS["STREAM_BASE_HIGH"], base >> 32)

    def load(self, words: NDArray[np.uint32]) -> None:
        """Load an image's words (n,). All voices start from zero.

        Raises
        ------
        DeviceError
            The machine refuses the image, or the image is truncated. Another image can be loaded afterwards.
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
        for device in self._models.values():
            device._forget()
        self._rest(abandon_after=self._image.config.accumulator_rows)
        link.write(ADDRESS["CONTROL"], Control.RUN)

    def _rest(self, abandon_after: int | None = None) -> None:
        """Wait until the machine is idle: after a load or reset it clears its accumulators.

        Parameters
        ----------
        abandon_after : int, optional
            After so many reads of STATUS, drop frames that still come: they keep the machine from being idle.

        Raises
        ------
        DeviceError
            It does not become idle.
        """
        for reads in range(_PATIENCE):
            if abandon_after is not None and reads >= abandon_after:
                self._link.abandon()
            if self._link.read(ADDRESS["STATUS"]) & Status.IDLE:
                return
        raise DeviceError(f"the machine is still not idle, {_PATIENCE:,} reads of STATUS later")

    def reset(self) -> None:
        """Drop all frames and every voice's state, of all models. The image stays."""
        self._link.write(ADDRESS["CONTROL"], Control.RESET | Control.RUN)
        # The machine still takes and computes a frame that was already offered; its answer is dropped.
        self._rest(abandon_after=0)
        self._link.abandon()
        for device in self._models.values():
            device._forget()

    def run(self, frames: ArrayLike, active: ArrayLike | None = None,
            reset: ArrayLike | None = None, banks: ArrayLike = 0) -> Int64Array:
        """Compute steps for frames, as `Reference.run`. A voice's first frame starts it from zero.

        Parameters
        ----------
        frames : integers (T, C, I)
            Activations at the first layer's ``x_fraction``: see `QuantizedModel.quantize_input`.
        active, reset : bool (T, C), optional
            As for `Reference.step`.
        banks : integers (T,)
            The bank of the voices of each frame.

        Returns
        -------
        int64 (T, C, P)

        Raises
        ------
        ValueError
            The frames have the wrong shape, an activation does not fit ``activation_bits``, or there is no such bank.
        DeviceError
            A frame comes back for other voices.
        """
        x = np.asarray(frames)
        steps = len(x)
        if x.shape != (steps, self.channels, self.model.inputs):
            raise ValueError(f"frames: expected shape (T, {self.channels}, {self.model.inputs}), found {x.shape}")
        limit = 1 << (self._image.config.activation_bits - 1)
        if x.size and (x.max() >= limit or x.min() < -limit):
            worst = x.max() if x.max() >= limit else x.min()
            raise ValueError(f"frames: {worst} does not fit {self._image.config.activation_bits} bits")
        shape = (steps, self.channels)
        running = np.ones(shape, bool) if active is None else np.broadcast_to(np.asarray(active, bool), shape)
        anew = np.zeros(shape, bool) if reset is None else np.array(np.broadcast_to(np.asarray(reset, bool), shape))
        numbers = np.broadcast_to(np.asarray(banks), steps)
        if steps and not 0 <= numbers.min() <= numbers.max() < self.banks:
            worst = numbers.max() if numbers.max() >= self.banks else numbers.min()
            raise ValueError(f"banks must be from 0 to {self.banks - 1}, not {worst}")
        for bank, first in zip(*np.unique(numbers, return_index=True), strict=True):
            voices = slice(bank * self.channels, (bank + 1) * self.channels)
            anew[first] |= self._fresh[voices]
            self._fresh[voices] = False
            for channel in np.flatnonzero((running | anew)[numbers == bank].any(axis=0)).tolist():
                self._held.pop(voices.start + channel, None)
        wanted = running.astype(np.int32)
        wanted[:, 0] |= numbers.astype(np.int32) << BANK_SHIFT | self._image.which << MODEL_SHIFT
        header = wanted | anew.astype(np.int32) << 1
        echoed, y = self._link.run_frames(header, x.transpose(0, 2, 1), self.model.outputs)
        if (echoed != wanted).any():
            step = int(np.argwhere((echoed != wanted).any(axis=1))[0, 0])
            raise DeviceError(f"frame {step} came back for other voices than it was sent for")
        return y.transpose(0, 2, 1).astype(np.int64)

    def counters(self) -> dict[str, int]:
        """The counters since the image was loaded or the machine was reset, by the names of
        `openese.rtl.registers.COUNTERS`.

        RUN is cleared meanwhile, so all of them are of the same time.
        """
        control, = self._link.access([(ADDRESS["CONTROL"], None), (ADDRESS["CONTROL"], 0)])
        values = self._link.access([*((ADDRESS[f"{name.upper()}_{half}"], None) for name in COUNTERS
                                      for half in ("LOW", "HIGH")), (ADDRESS["CONTROL"], control)])
        return {name: low | high << 32 for name, low, high in zip(COUNTERS, values[::2], values[1::2], strict=True)}

    # -- state ---------------------------------------------------------------------------------

    def _runs(self, voice: int) -> Iterator[tuple[int, str, int, int]]:
        """`state_runs` of one voice.

        Raises
        ------
        ValueError
            There is no such voice.
        DeviceError
            STATE_SELECT does not reach a number.
        """
        if not 0 <= voice < self.banks * self.channels:
            raise ValueError(f"voice must be from 0 to {self.banks * self.channels - 1}, not {voice}")
        return state_runs(self._image, voice)

    def get_state(self, voice: int) -> list[ChannelState]:
        """The state of one voice, layer by layer; see `get_states`."""
        return [ChannelState(c[0], y[0]) for c, y in self.get_states([voice])]

    def get_states(self, voices: Sequence[int]) -> list[ChannelState]:
        """The states of some voices, layer by layer: c (voices, H) and y (voices, P).

        Raises
        ------
        ValueError
            There is no such voice.
        DeviceError
            The machine does not become idle: an output frame waits to be received.
        """
        states = [ChannelState(*(np.zeros((len(voices), size), np.int64) for size in (layer.cells, layer.feedback)))
                  for layer in self.model.layers]
        self._rest()
        for row, voice in enumerate(voices):
            runs = list(self._runs(voice))
            if self._fresh[voice] or not runs:
                continue
            values = np.array(self._link.access(itertools.chain.from_iterable(
                [(ADDRESS["STATE_SELECT"], word), *[(ADDRESS["STATE_DATA"], None)] * count]
                for _, _, word, count in runs)), np.int64)
            values -= values >> 31 << 32
            for (number, name, _, count), stop in zip(runs, itertools.accumulate(run[-1] for run in runs), strict=True):
                getattr(states[number], name)[row] = values[stop - count:stop]
            self._hold(voice, [ChannelState(c[row], y[row]) for c, y in states])
        return states

    def _hold(self, voice: int, state: Sequence[ChannelState]) -> None:
        self._held[voice] = [ChannelState(np.array(c), np.array(y)) for c, y in state]

    def set_states(self, voices: Sequence[int], states: Sequence[ChannelState]) -> None:
        """Replace the states of some voices: c (voices, H) and y (voices, P); see `set_state`."""
        for number, voice in enumerate(voices):
            self.set_state(voice, [ChannelState(c[number], y[number]) for c, y in states])

    def set_state(self, voice: int, state: Sequence[ChannelState]) -> None:
        """Replace the state of one voice. The state that was last read or written there is not written again.

        Raises
        ------
        ValueError
            The state has the wrong shape, or a number does not fit.
        DeviceError
            The machine does not become idle: an output frame waits to be received.
        """
        config = self._image.config
        if len(state) != len(self.model.layers):
            raise ValueError(f"state: expected {len(self.model.layers)} layers, found {len(state)}")
        accesses: list[tuple[int, int | None]] = []
        for number, name, word, count in self._runs(voice):
            values = np.asarray(getattr(state[number], name))
            limit = 1 << ((config.cell_bits if name == "c" else config.activation_bits) - 1)
            layer = self.model.layers[number].name
            if values.shape != (count,):
                raise ValueError(f"{name} of layer {layer!r}: expected shape {(count,)}, found {values.shape}")
            if values.size and (values.max() >= limit or values.min() < -limit):
                worst = values.max() if values.max() >= limit else values.min()
                raise ValueError(f"{name} of layer {layer!r}: {worst} does not fit {limit.bit_length()} bits")
            accesses.append((ADDRESS["STATE_SELECT"], word))
            accesses += [(ADDRESS["STATE_DATA"], int(value) & 0xFFFFFFFF) for value in values]
        self._fresh[voice] = not any(np.any(part) for layer in state for part in layer)
        if self._fresh[voice]:
            return
        held = self._held.pop(voice, None)
        if held is None or any(np.any(part != known) for layer, before in zip(state, held, strict=True)
                               for part, known in zip(layer, before, strict=True)):
            self._rest()
            self._link.access(accesses)
        self._hold(voice, state)
