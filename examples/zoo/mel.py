# SPDX-License-Identifier: Apache-2.0
"""Compute the mel spectra for Resemblyzer in numpy; they equal librosa's with its defaults.

At 16 kHz, a Hann window of 400 samples every 160 samples gives the power in 40 bands on Slaney's scale.
"""

import numpy as np

__all__ = ["BANDS", "filters", "normalized", "spectrogram", "windows"]

RATE, WINDOW, HOP, BANDS = 16000, 400, 160, 40
FRAMES, STRIDE = 160, 80
LOUDNESS_DBFS = -30.0


def _to_mel(hertz):
    """Return frequencies on Slaney's scale: linear to 1 kHz, then logarithmic."""
    hertz = np.asarray(hertz, np.float64)
    bend = 15 + 27 * np.log(np.maximum(hertz, 1000) / 1000) / np.log(6.4)
    return np.where(hertz < 1000, hertz * 3 / 200, bend)


def _to_hertz(mels):
    mels = np.asarray(mels, np.float64)
    return np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((mels - 15) * np.log(6.4) / 27))


def filters():
    """Return triangular filters of unit area, (BANDS, WINDOW // 2 + 1)."""
    edges = _to_hertz(np.linspace(0, _to_mel(RATE / 2), BANDS + 2))
    bins = np.linspace(0, RATE / 2, WINDOW // 2 + 1)
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    return np.maximum(0, np.minimum(rising, falling)) * 2 / (edges[2:] - edges[:-2])[:, None]


def normalized(audio):
    """Return audio (samples,), raised to -30 dBFS if it is quieter."""
    loudness = 10 * np.log10(np.mean(np.square(audio, dtype=np.float64)))
    return audio * 10 ** (max(0.0, LOUDNESS_DBFS - loudness) / 20)


def spectrogram(audio):
    """Return the mel spectra (T, BANDS), float32; windows are centred, with zeros around the clip."""
    padded = np.pad(audio, WINDOW // 2)
    parts = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    spectra = np.fft.rfft(parts * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)), axis=1)
    return (np.square(np.abs(spectra)) @ filters().T).astype(np.float32)


def windows(frames):
    """Return all windows of FRAMES frames, STRIDE apart, as sequences (FRAMES, B, BANDS); short clips are padded."""
    frames = np.pad(frames, ((0, max(0, FRAMES - len(frames))), (0, 0)))
    starts = range(0, len(frames) - FRAMES + 1, STRIDE)
    return np.stack([frames[start:start + FRAMES] for start in starts], axis=1)
