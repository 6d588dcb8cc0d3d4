# SPDX-License-Identifier: Apache-2.0
"""Live voices on a machine: each comes, sends frames at its own pace, takes its answers and goes.

A machine computes channels of banks. A host has callers. `Voices` places the callers in channels and banks, fills each
step with every caller of a bank that has a frame, and keeps the answers of each caller in order.
"""

import itertools
from collections import deque
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from openese.sw.model.arrays import Float64Array, Int64Array
from openese.sw.model.quantized import QuantizedModel
from openese.sw.model.state import ChannelState, LayerState

__all__ = ["Voice", "VoiceClosed", "Voices"]

#: The most steps that a machine computes in one go.
_STEPS = 256


class VoiceClosed(ValueError):
    """The voice is closed."""


class BankedMachine(Protocol):
    """A machine with a model in it: `Reference` or `Device`."""

    model: QuantizedModel
    channels: int
    banks: int

    def run(self, frames: ArrayLike, active: ArrayLike | None = None, reset: ArrayLike | None = None, *,
            banks: ArrayLike = 0) -> Int64Array:
        """Compute steps for frames (T, C, I) with masks (T, C) and banks (T,); returns y (T, C, P)."""

    def get_states(self, voices: Sequence[int]) -> list[ChannelState]:
        """The states of some voices, layer by layer: c (voices, H) and y (voices, P)."""

    def set_states(self, voices: Sequence[int], states: Sequence[ChannelState]) -> None:
        """Replace the states of some voices."""


class Voice:
    """One caller. `Voices.open` makes it.

    Attributes
    ----------
    saturations : int
        Numbers in its frames and its initial state that did not fit their formats and were clamped.
    """

    def __init__(self, voices: "Voices", state: list[ChannelState] | None, saturations: int) -> None:
        self._voices = voices
        self._frames: deque[tuple[int, Int64Array]] = deque()  # number of arrival, frame
        self._answers: list[Int64Array] = []
        self._open = True
        # Its place, or -1. A voice without a place has its state here; None is zero.
        self._place = -1
        self._state = state
        # The machine does not have its state, in the place that it has, before its first frame there.
        self._fresh = state is None
        self._used = 0  # steps before its last frame
        self.saturations = saturations

    @property
    def waiting(self) -> int:
        """Frames that are pushed and not yet computed."""
        return len(self._frames)

    def push(self, frames: ArrayLike) -> None:
        """Add one frame (I,) or several (n, I), real numbers. They are computed by `Voices.run`.

        Raises
        ------
        VoiceClosed
        ValueError
            The frames have the wrong shape. `QuantizeError`, one of them, if a value is not finite.
        """
        self._check()
        model = self._voices.machine.model
        real = np.asarray(frames, np.float64)
        real = real[None] if real.ndim == 1 else real
        if real.ndim != 2 or real.shape[1] != model.inputs:
            raise ValueError(f"frames must have shape ({model.inputs},) or (n, {model.inputs}), not {np.shape(frames)}")
        integers, saturated = model.quantize_input(real)
        self.saturations += saturated
        self._frames.extend(self._voices.arrivals(integers))

    def take(self) -> Float64Array:
        """The answers (n, P) that have been computed since the last call, in the order of their frames."""
        model = self._voices.machine.model
        answers, self._answers = self._answers, []
        return model.dequantize_output(np.array(answers, np.int64).reshape(len(answers), model.outputs))

    def state(self) -> tuple[LayerState, ...]:
        """c (H,) and y (P,) of each layer after the frames that have been computed.

        Raises
        ------
        VoiceClosed
        """
        self._check()
        model = self._voices.machine.model
        held = self._voices.state_of(self)
        if held is None:
            return tuple(LayerState(np.zeros(layer.cells), np.zeros(layer.feedback)) for layer in model.layers)
        return model.dequantize_state(held)

    def close(self) -> None:
        """Give up the voice, and frames of it that have not been computed. Its answers can still be taken."""
        if self._open:
            self._open = False
            self._frames.clear()
            self._voices.forget(self)

    def _check(self) -> None:
        if not self._open:
            raise VoiceClosed("the voice is closed; open another")


class Voices:
    """The voices on a machine.

    A voice keeps its place, a channel of a bank, while it has frames. There may be more voices than places: then the
    state of a voice without frames is read out, for one that has frames, and written back before its next frames.

    Parameters
    ----------
    machine : `Reference` or `Device`
        No one else may use it meanwhile.

    Attributes
    ----------
    places : int
        Voices whose states the machine holds.
    steps, frames, moves : int
        Steps that the machine has computed, frames in them, and states that were written into it.

    Examples
    --------
    >>> import numpy as np
    >>> import openese
    >>> rng = np.random.default_rng(1)
    >>> lstm = openese.Layer(name="lstm", bias=np.zeros((4, 16)), w_x=rng.normal(scale=0.2, size=(4, 16, 8)),
    ...                      w_r=rng.normal(scale=0.2, size=(4, 16, 16)))
    >>> model = openese.compile(openese.Model(layers=(lstm,)), "tiny", calibrate=rng.normal(size=(9, 2, 8))).images[0]
    >>> voices = openese.Voices(openese.Reference(model.model(), channels=2))
    >>> first, second = voices.open(), voices.open()
    >>> first.push(rng.normal(size=(5, 8)))
    >>> second.push(rng.normal(size=(3, 8)))
    >>> voices.run()
    >>> first.take().shape, second.take().shape
    ((5, 16), (3, 16))
    """

    def __init__(self, machine: BankedMachine) -> None:
        self.machine = machine
        self.places = machine.channels * machine.banks
        self.steps = self.frames = self.moves = 0
        self._seated: dict[int, Voice] = {}
        self._open: list[Voice] = []
        self._arrived = 0

    def open(self, state: Sequence[LayerState] | None = None) -> Voice:
        """A new voice, which starts from zero, or from ``state``: c (H,) and y (P,) of each layer, real numbers."""
        integers, saturated = None, 0
        if state is not None:
            integers, saturated = self.machine.model.quantize_state(state)
        voice = Voice(self, integers, saturated)
        self._open.append(voice)
        return voice

    def run(self) -> None:
        """Compute all frames that have been pushed. A bank whose oldest frame came first is first."""
        while any(voice.waiting for voice in self._open):
            self._seat()
            self._compute()

    # -- for `Voice` ---------------------------------------------------------------------------

    def arrivals(self, frames: Int64Array) -> list[tuple[int, Int64Array]]:
        """Frames with the numbers of their arrival."""
        start, self._arrived = self._arrived, self._arrived + len(frames)
        return list(enumerate(frames, start))

    def state_of(self, voice: Voice) -> list[ChannelState] | None:
        """A voice's state in integers; None for zero."""
        if voice._place < 0 or voice._fresh:
            return voice._state
        return [ChannelState(c[0], y[0]) for c, y in self.machine.get_states([voice._place])]

    def forget(self, voice: Voice) -> None:
        """Free the place of a voice that is closed."""
        self._open.remove(voice)
        self._seated.pop(voice._place, None)

    # -- places --------------------------------------------------------------------------------

    def _seat(self) -> None:
        """Give places to voices that have frames, the longest waiting first: those that are free, then those of voices
        that have none."""
        coming = sorted((voice for voice in self._open if voice.waiting and voice._place < 0),
                        key=lambda voice: voice._frames[0][0])
        free = self._free()
        idle = sorted((voice for voice in self._seated.values() if not voice.waiting), key=lambda voice: voice._used)
        free += self._unseat(idle[:max(0, len(coming) - len(free))])
        known = []
        for voice, place in zip(coming, free, strict=False):
            voice._place = place
            self._seated[place] = voice
            if voice._state is not None:
                known.append((place, voice._state))
        if known:
            self.machine.set_states([place for place, _ in known], [
                ChannelState(np.stack([c for c, _ in layer]), np.stack([y for _, y in layer]))
                for layer in zip(*(state for _, state in known), strict=True)])
            self.moves += len(known)

    def _unseat(self, voices: list[Voice]) -> list[int]:
        """Read out the states of voices; returns the places that they had."""
        places = [voice._place for voice in voices]
        if places:
            states = self.machine.get_states(places)
            for number, voice in enumerate(voices):
                del self._seated[voice._place]
                voice._place, voice._state = -1, [ChannelState(c[number], y[number]) for c, y in states]
        return places

    def _free(self) -> list[int]:
        """Free places, those of the fullest bank first: its steps serve the most voices."""
        channels = self.machine.channels
        taken = np.bincount([place // channels for place in self._seated], minlength=self.machine.banks)
        banks = np.argsort(-taken, kind="stable").tolist()
        return [place for bank in banks for place in range(bank * channels, (bank + 1) * channels)
                if place not in self._seated]

    # -- steps ---------------------------------------------------------------------------------

    def _compute(self) -> None:
        """Compute frames of the voices that have places; if others wait for one, at most until one may be free."""
        machine = self.machine
        others = any(voice.waiting and voice._place < 0 for voice in self._open)
        members: list[list[Voice]] = [[] for _ in range(machine.banks)]
        for place, voice in sorted(self._seated.items()):
            members[place // machine.channels].append(voice)
        left = {voice: voice.waiting for voice in self._seated.values()}
        banks: list[int] = []
        parts: list[list[Voice]] = []

        def next_arrival(bank: int) -> int:
            return min((voice._frames[voice.waiting - left[voice]][0] for voice in members[bank] if left[voice]),
                       default=self._arrived)

        while len(banks) < _STEPS:
            bank = min(range(machine.banks), key=next_arrival)
            ready = [voice for voice in members[bank] if left[voice]]
            if not ready:
                break
            banks.append(bank)
            parts.append(ready)
            for voice in ready:
                left[voice] -= 1
            if others and any(not left[voice] for voice in ready):
                break
        self._run(banks, parts)

    def _run(self, banks: list[int], parts: list[list[Voice]]) -> None:
        machine = self.machine
        shape = (len(banks), machine.channels)
        x = np.zeros((*shape, machine.model.inputs), np.int64)
        active, reset = np.zeros(shape, bool), np.zeros(shape, bool)
        taken = dict.fromkeys(itertools.chain(*parts), 0)
        for step, voices in enumerate(parts):
            for voice in voices:
                channel = voice._place % machine.channels
                x[step, channel] = voice._frames[taken[voice]][1]
                active[step, channel] = True
                reset[step, channel] = voice._fresh and not taken[voice]
                taken[voice] += 1
        y = machine.run(x, active, reset, banks=banks)
        for step, voices in enumerate(parts):
            for voice in voices:
                voice._frames.popleft()
                voice._answers.append(y[step, voice._place % machine.channels])
                voice._fresh, voice._used = False, self.steps + step
        self.steps += len(banks)
        self.frames += sum(taken.values())
