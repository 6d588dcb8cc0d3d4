# SPDX-License-Identifier: Apache-2.0
"""Recordings in files: whatever libsndfile reads, as one channel at 16 kHz."""

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openese.sw.speech.features import RATE

__all__ = ["AudioError", "read"]

LONGEST = 600  # seconds


class AudioError(ValueError):
    """A recording that cannot be read or is not fit to be recognized; the message names the file."""


def read(path: str | os.PathLike[str]) -> NDArray[np.float32]:
    """Samples (n,) at 16 kHz, -1 to 1; several channels are averaged.

    Raises
    ------
    AudioError
        For a file that holds no sound, more than ten minutes of it, or numbers that are not finite.
    OSError
        If there is no such file.
    """
    soundfile, soxr = _libraries()
    name = os.fspath(path)
    with open(path, "rb") as file:
        try:
            with soundfile.SoundFile(file) as recording:
                rate = recording.samplerate
                if recording.frames > LONGEST * rate:
                    raise AudioError(f"{name}: {recording.frames / rate:.0f} s long; at most {LONGEST} s are read")
                samples = recording.read(dtype="float32", always_2d=True).mean(axis=1)
        except soundfile.LibsndfileError as error:
            raise AudioError(f"{name}: {error.error_string.rstrip('.')}") from None
    if not samples.size:
        raise AudioError(f"{name}: holds no samples")
    if not np.isfinite(samples).all():
        raise AudioError(f"{name}: sample {int(np.argmin(np.isfinite(samples)))} is not a finite number")
    return np.asarray(samples if rate == RATE else soxr.resample(samples, rate, RATE), np.float32)


def _libraries() -> Any:
    try:
        import soundfile
        import soxr
    except ImportError as error:
        raise AudioError(f"recordings need the package {error.name!r}: pip install openese[speech]") from None
    return soundfile, soxr
