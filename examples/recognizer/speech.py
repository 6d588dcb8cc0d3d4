# SPDX-License-Identifier: Apache-2.0
"""Speech with its phones, and simulated rooms with other microphones, reverberation and noise."""

from dataclasses import dataclass

import numpy as np

from openese.sw.speech.features import HOP, RATE, static

__all__ = ["MissingData", "Speech", "noisy", "room"]

_FRAME_CENTRE = 200 / RATE  # seconds from a window's first sample


class MissingData(RuntimeError):
    """A package or a recording is missing; the message says how to get it."""


@dataclass(frozen=True)
class Speech:
    """Audio (samples,) at 16 kHz; phone ``phones[n]`` begins at ``starts[n]`` seconds."""

    audio: np.ndarray
    starts: np.ndarray
    phones: np.ndarray

    def frames(self):
        """Return the static features (T, 51), and the phone of each frame (T,)."""
        values = static(self.audio)
        times = np.arange(len(values)) * HOP / RATE + _FRAME_CENTRE
        return values, self.phones[np.maximum(np.searchsorted(self.starts, times, side="right") - 1, 0)]


def _coloured(rng, spectrum_size):
    """Return a smooth random curve over the bins of a spectrum, in nepers, with deviations of about 5 dB."""
    knots = rng.normal(scale=0.5, size=7)
    position = np.linspace(0, 1, spectrum_size) ** 0.5  # more detail at low frequencies, as in speech
    return np.interp(position, np.linspace(0, 1, len(knots)), knots)


def _noise(rng, size, transform):
    """Return noise of unit power with a random tilt of its spectrum."""
    spectrum = np.fft.rfft(rng.normal(size=size).astype(np.float32), transform)
    tilt = np.arange(1, len(spectrum) + 1) ** -rng.uniform(0, 0.8)
    noise = np.fft.irfft(spectrum * tilt * np.exp(_coloured(rng, len(spectrum))), transform)[:size]
    return noise / np.sqrt(np.mean(noise**2))


def _babble(rng, others, size):
    """Return up to four pieces of speech at once, of unit power; zeros if ``others`` is empty."""
    mixed = np.zeros(size)
    for number in rng.choice(len(others), size=min(4, len(others)), replace=False) if others else ():
        other = others[number]
        mixed += np.resize(np.roll(other, rng.integers(len(other))), size)
    return mixed / np.sqrt(np.mean(mixed**2) + 1e-12)


def room(rng, speech, decibels, others=(), echo=0.3):
    """Return the speech in a random room with its own microphone, reverberation and noise.

    Parameters
    ----------
    rng : numpy Generator
    speech : `Speech`
    decibels : float
        The level of the speech over the noise.
    others : list of ndarray
        Other speech, for babble.
    echo : float
        The probability of reverberation.
    """
    audio, size = speech.audio, len(speech.audio)
    transform = 1 << (size + RATE // 2 - 1).bit_length()
    spectrum = np.fft.rfft(audio, transform)
    spectrum *= np.exp(_coloured(rng, len(spectrum)))
    if rng.random() < echo:
        times = np.arange(RATE // 2) / RATE
        tail = rng.normal(size=len(times)) * np.exp(-6.9 * times / rng.uniform(0.1, 0.5))
        tail *= rng.uniform(0.2, 0.7) / np.sqrt(np.sum(tail**2))
        tail[0] += 1
        spectrum *= np.fft.rfft(tail, transform)
    heard = Speech(np.fft.irfft(spectrum, transform)[:size], speech.starts, speech.phones)
    noise = _babble(rng, others, size) if others and rng.random() < 0.2 else _noise(rng, size, transform)
    return _mixed(heard, noise, decibels)


def noisy(rng, speech, decibels):
    """Return the unchanged speech with noise; its level is ``decibels`` over the noise."""
    size = len(speech.audio)
    return _mixed(speech, _noise(rng, size, 1 << (size - 1).bit_length()), decibels)


def _mixed(speech, noise, decibels):
    level = np.sqrt(np.mean(speech.audio**2) + 1e-12)
    heard = speech.audio / level + noise * 10 ** (-decibels / 20)
    return Speech((0.05 * heard).astype(np.float32), speech.starts, speech.phones)
