# SPDX-License-Identifier: Apache-2.0
"""What the recognizer hears: 51 numbers every 10 ms, with their first and second differences, 153 in all.

The 51 are the logarithms of 50 mel bands and of the energy of a window of 25 ms, less their means over the
recording, so that neither loudness nor a microphone's colour matters. Differences are regressions over two
frames to each side; all are scaled to a standard deviation of about one, which suits fixed point.
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
_LEVEL = 0.05  # root of the mean square to which a recording is brought; full scale is 1
_FLOOR = 1e-7  # of a band's power
_SCALES = (0.35, 1.4, 3.0)  # of the features and of their differences

FloatArray = NDArray[np.float32]


def _mel(hertz: ArrayLike) -> NDArray[np.float64]:
    return 2595 * np.log10(1 + np.asarray(hertz, np.float64) / 700)


def _filters() -> FloatArray:
    """Triangles on the mel scale over the bins of a window: (TRANSFORM // 2 + 1, BANDS)."""
    edges = np.linspace(_mel(_LOWEST), _mel(_HIGHEST), BANDS + 2)
    bins = _mel(np.fft.rfftfreq(TRANSFORM, 1 / RATE))[:, None]
    rising = (bins - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - bins) / np.diff(edges)[1:]
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


_FILTERS = _filters()
_HAMMING = np.hamming(WINDOW).astype(np.float32)


def count_windows(samples: int) -> int:
    """Windows of a recording of so many samples."""
    return max(0, samples - WINDOW) // HOP + 1


def spectrogram(audio: ArrayLike) -> FloatArray:
    """Power (T, 257) of each window of audio (samples,) at 16 kHz; a short recording is one window."""
    samples = np.asarray(audio, np.float32)
    if samples.ndim != 1 or not samples.size:
        raise ValueError(f"audio: expected one channel with samples, found shape {samples.shape}")
    samples = np.append(samples[:1], samples[1:] - np.float32(_EMPHASIS) * samples[:-1])
    samples = np.pad(samples, (0, max(0, WINDOW - samples.size)))
    windows = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP]
    return np.square(np.abs(np.fft.rfft(windows * _HAMMING, TRANSFORM, axis=1))).astype(np.float32)


def static(audio: ArrayLike) -> FloatArray:
    """The 51 numbers of each window (T, 51), less their means over the recording, not scaled.

    Raises
    ------
    ValueError
        For audio that is not one channel with samples.
    """
    samples = np.asarray(audio, np.float32)
    scale = np.float32(_LEVEL / max(1e-6, np.sqrt(np.mean(np.square(samples))))) if samples.size else 1
    power = spectrogram(scale * samples) / np.float32(TRANSFORM)
    bands = np.concatenate([power @ _FILTERS, power.sum(axis=1, keepdims=True)], axis=1)
    logs = np.log(bands + np.float32(_FLOOR))
    return logs - logs.mean(axis=0)


def _difference(values: FloatArray) -> FloatArray:
    """Slope over two frames to each side, along the last axis but one; the ends are repeated."""
    padding = [(0, 0)] * (values.ndim - 2) + [(2, 2), (0, 0)]
    wide = np.pad(values, padding, mode="edge")
    near, far = wide[..., 3:-1, :] - wide[..., 1:-3, :], wide[..., 4:, :] - wide[..., :-4, :]
    return (near + 2 * far) / np.float32(10)


def with_differences(values: FloatArray) -> FloatArray:
    """`static` features (..., T, 51) with their differences, scaled: (..., T, 153)."""
    first = _difference(values)
    parts = (values, first, _difference(first))
    return np.concatenate([np.float32(scale) * part for scale, part in zip(_SCALES, parts, strict=True)], axis=-1)


def features(audio: ArrayLike) -> FloatArray:
    """What the network is given of a recording: (T, 153) for audio (samples,) at 16 kHz."""
    return with_differences(static(audio))
