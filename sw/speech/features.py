# SPDX-License-Identifier: Apache-2.0
"""Compute the recognizer's features: 153 numbers every 10 ms.

They are 51 static features and their first and second differences. The static features are the logarithms of 50 mel
bands and of the energy in a window of 25 ms. Their means over the recording are subtracted, which removes loudness
and the microphone's frequency response. Differences are regressions over two frames on each side. All features are
scaled to a standard deviation of about one, which suits fixed point.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["BANDS", "FEATURES", "HOP", "RATE", "STATIC", "count_windows", "features", "spectrogram", "static",
           "with_differences"]

RATE = 16_000
WINDOW, HOP, TRANSFORM = 400, 160, 512
BANDS = 50
STATIC = BANDS + 1
FEATURES = 3 * STATIC

_LOWEST, _HIGHEST = 60.0, 7800.0  # Hz
_EMPHASIS = 0.97
_LEVEL = 0.05  # root mean square to which a recording is scaled; full scale is 1
_FLOOR = 1e-7  # of a band's power
_SCALES = (0.35, 1.4, 3.0)  # of the features and of their differences

FloatArray = NDArray[np.float32]


def _mel(hertz: ArrayLike) -> NDArray[np.float64]:
    return 2595 * np.log10(1 + np.asarray(hertz, np.float64) / 700)


def _filters() -> FloatArray:
    """Return triangular filters on the mel scale, (TRANSFORM // 2 + 1, BANDS)."""
    edges = np.linspace(_mel(_LOWEST), _mel(_HIGHEST), BANDS + 2)
    bins = _mel(np.fft.rfftfreq(TRANSFORM, 1 / RATE))[:, None]
    rising = (bins - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - bins) / np.diff(edges)[1:]
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


_FILTERS = _filters()
_HAMMING = np.hamming(WINDOW).astype(np.float32)


def count_windows(samples: int) -> int:
    """Return the number of windows in a recording of ``samples`` samples."""
    return max(0, samples - WINDOW) // HOP + 1


def spectrogram(audio: ArrayLike) -> FloatArray:
    """Return the power (T, 257) of each window of audio (samples,) at 16 kHz; a short recording is one window.

    Raises
    ------
    ValueError
        If audio has another shape, or no samples.
    """
    samples = np.asarray(audio, np.float32)
    if samples.ndim != 1 or not samples.size:
        raise ValueError(f"audio: expected one channel with samples, (samples,), found shape {samples.shape}")
    samples = np.append(samples[:1], samples[1:] - np.float32(_EMPHASIS) * samples[:-1])
    samples = np.pad(samples, (0, max(0, WINDOW - samples.size)))
    windows = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP]
    return np.square(np.abs(np.fft.rfft(windows * _HAMMING, TRANSFORM, axis=1))).astype(np.float32)


def static(audio: ArrayLike) -> FloatArray:
    """Return the static features (T, 51), minus their means over the recording, before scaling.

    Raises
    ------
    ValueError
        If audio is not of shape (samples,), or has no samples.
    """
    samples = np.asarray(audio, np.float32)
    scale = np.float32(_LEVEL / max(1e-6, np.sqrt(np.mean(np.square(samples))))) if samples.size else 1
    power = spectrogram(scale * samples) / np.float32(TRANSFORM)
    bands = np.concatenate([power @ _FILTERS, power.sum(axis=1, keepdims=True)], axis=1)
    logs = np.log(bands + np.float32(_FLOOR))
    return logs - logs.mean(axis=0)


def _difference(values: FloatArray) -> FloatArray:
    """Return the slope over two frames on each side, along the last axis but one; end frames are repeated."""
    padding = [(0, 0)] * (values.ndim - 2) + [(2, 2), (0, 0)]
    wide = np.pad(values, padding, mode="edge")
    near, far = wide[..., 3:-1, :] - wide[..., 1:-3, :], wide[..., 4:, :] - wide[..., :-4, :]
    return (near + 2 * far) / np.float32(10)


def with_differences(values: FloatArray) -> FloatArray:
    """Return `static` features (..., T, 51) with their differences, scaled: (..., T, 153)."""
    first = _difference(values)
    parts = (values, first, _difference(first))
    return np.concatenate([np.float32(scale) * part for scale, part in zip(_SCALES, parts, strict=True)], axis=-1)


def features(audio: ArrayLike) -> FloatArray:
    """Return the features (T, 153) of audio (samples,) at 16 kHz.

    Raises
    ------
    ValueError
        If audio is not of shape (samples,), or has no samples.
    """
    return with_differences(static(audio))
