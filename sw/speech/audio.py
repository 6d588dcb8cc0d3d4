# SPDX-License-Identifier: Apache-2.0
"""Read recordings in the formats of libsndfile as one channel at 16 kHz."""

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openese.sw.speech.features import RATE

__all__ = ["AudioError", "read"]

LONGEST = 600  # seconds


class AudioError(ValueError):
    """A recording cannot be read or recognized; the message names the file and the reason."""


def read(path: str | os.PathLike[str]) -> NDArray[np.float32]:
    """Return the samples (n,) of a recording as float32 at 16 kHz, from -1 to 1; channels are averaged.

    Raises
    ------
    AudioError
        If the file is not a recording, holds no samples, more than ten minutes or numbers that are not finite, or if
        a package is not installed.
    OSError
        If the file cannot be opened.
    """
    soundfile, soxr = _libraries()
    name = os.fspath(path)
    with open(path, "rb") as file:
        try:
            with soundfile.SoundFile(file) as recording:
                rate = recording.samplerate
                if recording.frames > LONGEST * rate:
                    raise AudioError(f"{name}: the recording is {recording.frames / rate:.0f} s long; "
                                     f"cut it to at most {LONGEST} s")
                samples = recording.read(dtype="float32", always_2d=True).mean(axis=1)
        except soundfile.LibsndfileError as error:
            raise AudioError(f"{name}: {error.error_string.rstrip('.')}") from None
    if not samples.size:
        raise AudioError(f"{name}: the recording holds no samples")
    if not np.isfinite(samples).all():
        raise AudioError(f"{name}: sample {int(np.argmin(np.isfinite(samples)))} is not a finite number")
    return np.asarray(samples if rate == RATE else soxr.resample(samples, rate, RATE), np.float32)


def _libraries() -> Any:
    try:
        import soundfile
        import soxr
    except ImportError as error:
        raise AudioError(f"reading recordings needs the package {error.name!r}: pip install openese[speech]") from None
    return soundfile, soxr
