# SPDX-License-Identifier: Apache-2.0
"""Recorded speech, and how clips share the channels of a machine.

The committed clips are described, with source and licence, in ``clips/README.md``. A machine has a
fixed number of channels and there may be any number of clips: a channel that has finished its clip
takes up the next one, with its state reset, while its neighbours go on undisturbed.
"""

import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from examples.silero_vad.network import SAMPLE_RATE

__all__ = ["CLIPS", "BadClip", "Clip", "Turn", "lay_out", "load", "load_all", "pick_up", "schedule"]

CLIPS = Path(__file__).with_name("clips")


class BadClip(ValueError):
    """A recording that is not 16-bit mono WAV at 16 kHz, or a folder without any."""


@dataclass(frozen=True)
class Clip:
    """One recording.

    Attributes
    ----------
    name : str
        File name without suffix.
    audio : ndarray, (samples,), float32
        Samples in -1 .. 1 at 16 kHz.
    """

    name: str
    audio: np.ndarray

    @property
    def seconds(self):
        return len(self.audio) / SAMPLE_RATE


def load(path):
    """Read one 16-bit mono WAV file at 16 kHz.

    Raises
    ------
    BadClip
        Naming the file, what was expected and what it holds.
    """
    try:
        with wave.open(str(path), "rb") as file:
            found = file.getnchannels(), 8 * file.getsampwidth(), file.getframerate()
            samples = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise BadClip(f"{path}: not a WAV file ({error})") from None
    if found != (1, 16, SAMPLE_RATE):
        raise BadClip(f"{path}: expected 1 channel of 16 bits at {SAMPLE_RATE} Hz, "
                      f"found {found[0]} of {found[1]} bits at {found[2]} Hz")
    if not samples:
        raise BadClip(f"{path}: holds no samples")
    return Clip(Path(path).stem, np.frombuffer(samples, "<i2").astype(np.float32) / 32768)


def load_all(folder=CLIPS):
    """The WAV files of a folder, by name.

    Raises
    ------
    BadClip
        For an unfit file, or if there are fewer than two: one to calibrate on, one held out.
    """
    clips = [load(path) for path in sorted(Path(folder).glob("*.wav"))]
    if len(clips) < 2:
        raise BadClip(f"{folder}: expected at least 2 WAV files, found {len(clips)}")
    return clips


@dataclass(frozen=True)
class Turn:
    """Clip ``clip`` has channel ``channel`` in the steps ``start`` <= t < ``stop``."""

    clip: int
    channel: int
    start: int
    stop: int


def schedule(lengths, channels):
    """Give every clip a turn on the channel that is free first, the longest clips before the others.

    Parameters
    ----------
    lengths : sequence of int
        Windows of each clip.
    channels : int

    Returns
    -------
    list of Turn
        In the order of the clips.
    """
    free = [0] * channels
    turns = {}
    for clip in sorted(range(len(lengths)), key=lambda clip: -lengths[clip]):
        channel = free.index(min(free))
        turns[clip] = Turn(clip, channel, free[channel], free[channel] + lengths[clip])
        free[channel] += lengths[clip]
    return [turns[clip] for clip in range(len(lengths))]


def lay_out(vectors, turns, channels):
    """What a machine is given in every step.

    Parameters
    ----------
    vectors : list of ndarray, (T_clip, I)
    turns : list of Turn
    channels : int

    Returns
    -------
    frames : ndarray, (T, channels, I)
        Zeros where a channel has nothing to do.
    active : ndarray, (T, channels), bool
    reset : ndarray, (T, channels), bool
        Set in the first step of each turn.
    """
    steps = max(turn.stop for turn in turns)
    frames = np.zeros((steps, channels, vectors[0].shape[1]), dtype=vectors[0].dtype)
    active, reset = np.zeros((2, steps, channels), dtype=bool)
    for turn in turns:
        frames[turn.start:turn.stop, turn.channel] = vectors[turn.clip]
        active[turn.start:turn.stop, turn.channel] = True
        reset[turn.start, turn.channel] = True
    return frames, active, reset


def pick_up(outputs, turns):
    """The inverse of `lay_out`: (T, channels, P) -> list of (T_clip, P), one for each clip."""
    return [outputs[turn.start:turn.stop, turn.channel] for turn in turns]
