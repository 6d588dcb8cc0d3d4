# SPDX-License-Identifier: Apache-2.0
"""Read recorded speech, and share a machine's channels among clips.

``clips/README.md`` names source and licence of the clips in this repository. A machine has a fixed number of
channels, and there may be more clips. A channel that has finished a clip takes the next one with its state reset,
while the other channels continue.
"""

import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from examples.silero_vad.network import SAMPLE_RATE

__all__ = ["CLIPS", "BadClip", "Clip", "Turn", "lay_out", "load", "load_all", "pick_up", "schedule"]

CLIPS = Path(__file__).with_name("clips")


class BadClip(ValueError):
    """A recording is not 16-bit mono WAV at 16 kHz, or a folder has too few; the message names it."""


@dataclass(frozen=True)
class Clip:
    """A recording.

    Attributes
    ----------
    name : str
        The file name without suffix.
    audio : ndarray, (samples,), float32
        Samples from -1 to 1 at 16 kHz.
    """

    name: str
    audio: np.ndarray

    @property
    def seconds(self):
        return len(self.audio) / SAMPLE_RATE


def load(path):
    """Read a 16-bit mono WAV file at 16 kHz.

    Raises
    ------
    BadClip
        If the file has another format, or no samples.
    """
    try:
        with wave.open(str(path), "rb") as file:
            kind = file.getnchannels(), 8 * file.getsampwidth(), file.getframerate()
            samples = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise BadClip(f"{path}: not a WAV file ({error})") from None
    if kind != (1, 16, SAMPLE_RATE):
        raise BadClip(f"{path}: expected 1 channel of 16 bits at {SAMPLE_RATE} Hz, "
                      f"found {kind[0]} of {kind[1]} bits at {kind[2]} Hz; convert the file")
    if not samples:
        raise BadClip(f"{path}: the recording holds no samples")
    return Clip(Path(path).stem, np.frombuffer(samples, "<i2").astype(np.float32) / 32768)


def load_all(folder=CLIPS):
    """Return the WAV files of a folder in the order of their names.

    Raises
    ------
    BadClip
        If a file has another format, or there are fewer than two files: one for calibration, one held out.
    """
    clips = [load(path) for path in sorted(Path(folder).glob("*.wav"))]
    if len(clips) < 2:
        raise BadClip(f"{folder}: expected at least 2 WAV files, found {len(clips)}")
    return clips


@dataclass(frozen=True)
class Turn:
    """A clip on a channel in the steps ``start`` <= t < ``stop``."""

    clip: int
    channel: int
    start: int
    stop: int


def schedule(lengths, channels):
    """Give every clip a turn on the channel that is free first, longest clips first.

    Parameters
    ----------
    lengths : sequence of int
        The number of windows of each clip.
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
    """Arrange the clips' frames for the machine's channels.

    Parameters
    ----------
    vectors : list of ndarray, (T_clip, I)
    turns : list of Turn
    channels : int

    Returns
    -------
    frames : ndarray, (T, channels, I)
        Zeros for idle channels.
    active : ndarray, (T, channels), bool
    reset : ndarray, (T, channels), bool
        True in the first step of each turn.
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
    """Return the outputs of each clip, a list of (T_clip, P), from outputs (T, channels, P)."""
    return [outputs[turn.start:turn.stop, turn.channel] for turn in turns]
