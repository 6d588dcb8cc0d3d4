# SPDX-License-Identifier: Apache-2.0
"""A piece of speech with its phones, and how it is made to sound like speech in other rooms."""

from dataclasses import dataclass

import numpy as np

from openese.sw.speech.features import HOP, RATE, static

__all__ = ["MissingData", "Speech", "noisy", "room"]

_FRAME_CENTRE = 200 / RATE  # seconds from a window's first sample


class MissingData(RuntimeError):
    """A package that is not installed; the message says how to get it."""


@dataclass(frozen=True)
class Speech:
    """Audio (samples,) at 16 kHz; phone ``phones[n]`` begins at ``starts[n]`` seconds."""

    audio: np.ndarray
    starts: np.ndarray
    phones: np.ndarray

    def frames(self):
        """Static features (T, 51) and the phone of each frame (T,)."""
        values = static(self.audio)
        times = np.arange(len(values)) * HOP / RATE + _FRAME_CENTRE
        return values, self.phones[np.maximum(np.searchsorted(self.starts, times, side="right") - 1, 0)]


def _coloured(rng, spectrum_size):
    """A smooth random curve over the bins of a spectrum, in nepers, of about 5 dB to each side."""
    knots = rng.normal(scale=0.5, size=7)
    position = np.linspace(0, 1, spectrum_size) ** 0.5  # more detail where speech has it
    return np.interp(position, np.linspace(0, 1, len(knots)), knots)


def _noise(rng, size, transform):
    """Noise of unit power whose spectrum falls, or not, at random."""
    spectrum = np.fft.rfft(rng.normal(size=size).astype(np.float32), transform)
    tilt = np.arange(1, len(spectrum) + 1) ** -rng.uniform(0, 0.8)
    noise = np.fft.irfft(spectrum * tilt * np.exp(_coloured(rng, len(spectrum))), transform)[:size]
    return noise / np.sqrt(np.mean(noise**2))


def _babble(rng, others, size):
    """Several pieces of speech at once, of unit power; zeros without any."""
    mixed = np.zeros(size)
    for number in rng.choice(len(others), size=min(4, len(others)), replace=False) if others else ():
        other = others[number]
        mixed += np.resize(np.roll(other, rng.integers(len(other))), size)
    return mixed / np.sqrt(np.mean(mixed**2) + 1e-12)


def room(rng, speech, decibels, others=(), echo=0.3):
    """The speech in a room of its own: another microphone, reverberation, noise.

    Parameters
    ----------
    rng : numpy Generator
    speech : `Speech`
    decibels : float
        Level of the speech over the noise.
    others : list of ndarray
        What noise that is babble is made of.
    echo : float
        Probability of reverberation.
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
    """The speech as it is, ``decibels`` over noise."""
    size = len(speech.audio)
    return _mixed(speech, _noise(rng, size, 1 << (size - 1).bit_length()), decibels)


def _mixed(speech, noise, decibels):
    level = np.sqrt(np.mean(speech.audio**2) + 1e-12)
    heard = speech.audio / level + noise * 10 ** (-decibels / 20)
    return Speech((0.05 * heard).astype(np.float32), speech.starts, speech.phones)
