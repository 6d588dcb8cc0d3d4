# SPDX-License-Identifier: Apache-2.0
"""The zoo's front end for Resemblyzer. ``nox -s zoo`` runs the models."""

import numpy as np

from examples.zoo import mel


def test_mel_spectra_are_librosa_s():
    """Numbers from librosa 0.11's ``melspectrogram(n_fft=400, hop_length=160, n_mels=40)``."""
    audio = np.random.default_rng(0).normal(size=20000).astype(np.float32) * np.float32(0.1)
    spectra = mel.spectrogram(audio)
    assert spectra.shape == (126, 40)
    expected = [0.01854457, 0.01364002, 0.01363796, 0.02420872]
    np.testing.assert_allclose(spectra[[0, 3, 50, 125], [0, 5, 30, 39]], expected, rtol=1e-5)
    np.testing.assert_allclose(spectra.sum(), 186.26068, rtol=1e-5)


def test_mel_windows():
    frames = np.arange(500.0)[:, None] * np.ones(40)
    windows = mel.windows(frames)
    assert windows.shape == (160, 5, 40)
    np.testing.assert_array_equal(windows[0, :, 0], [0, 80, 160, 240, 320])
    short = mel.windows(frames[:30])
    assert short.shape == (160, 1, 40) and not short[30:].any()


def test_quiet_clips_are_raised():
    raised = mel.normalized(np.full(1000, 0.001))
    np.testing.assert_allclose(20 * np.log10(raised), -30)
    loud = np.full(1000, 0.5)
    np.testing.assert_array_equal(mel.normalized(loud), loud)
