# SPDX-License-Identifier: Apache-2.0
"""Speech of many voices, without labels: from packages, and from a folder of recordings; and sounds that are none."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from scipy.signal import lfilter

from examples.recognizer.corpus import ACCENTS, sentences, splits
from examples.recognizer.prompts import decode
from examples.recognizer.speech import MissingData, Speech, room
from examples.recognizer.synthesis import UnknownPhoneme, espeak, flite
from examples.silero_vad.clips import CLIPS, load_all
from openese.sw.speech.features import RATE

__all__ = ["Voice", "artificial", "clips", "heard", "prompts", "recordings", "synthetic"]

PROMPTS = Path("/usr/share/asterisk/sounds")
SEED = 20170222
_FORMATS = {".flac", ".ogg", ".opus", ".mp3", ".wav"}
_PIECE = 10  # seconds, of what is joined
_PROMPT_SECONDS, _RECORDED_SECONDS, _SYNTHETIC_SECONDS = 300, 60, 15
_ARTIFICIAL_VOICES, _ARTIFICIAL_SECONDS = 120, 15
_RESONANCES = ((250, 900), (900, 2500), (2200, 3800))  # Hz, from where to where
_EVERY = 3  # of so many recorded voices, one is for tests


@dataclass(frozen=True)
class Voice:
    """A speaker: audio pieces (samples,) float32 at 16 kHz."""

    name: str
    pieces: list

    @property
    def seconds(self):
        return sum(map(len, self.pieces)) / RATE


def _first(pieces, seconds):
    """Pieces until there are so many seconds."""
    found, samples = [], 0
    for piece in pieces:
        if samples >= seconds * RATE:
            break
        found.append(piece)
        samples += len(piece)
    return found


def _joined(pieces):
    """Short pieces one after the other, to pieces of ten seconds or more, but for the last."""
    found, current = [], []
    for piece in pieces:
        current.append(piece)
        if sum(map(len, current)) >= _PIECE * RATE:
            found.append(np.concatenate(current))
            current = []
    return [*found, np.concatenate(current)] if current else found


def _read(path):
    audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    audio = audio.mean(axis=1)
    return audio if rate == RATE else soxr.resample(audio, rate, RATE).astype(np.float32)


def recordings(folder, split):
    """Voices of a folder of recordings, for ``train`` or ``test``: every third, by name, is for tests.

    The voice is what stands before the first hyphen of a file's name, as in LibriSpeech; at most a minute of each is
    taken.

    Raises
    ------
    MissingData
        If there are fewer voices than one for tests and one to train on.
    """
    files = {}
    for path in sorted(Path(folder).rglob("*")):
        if path.suffix.lower() in _FORMATS:
            files.setdefault(path.stem.partition("-")[0], []).append(path)
    if len(files) < 2:
        raise MissingData(f"{folder}: expected recordings of at least 2 voices, found {len(files)}")
    return [Voice(name, _first(map(_read, files[name]), _RECORDED_SECONDS))
            for number, name in enumerate(sorted(files)) if (number % _EVERY == 0) == (split == "test")]


def prompts():
    """The speakers of Asterisk's prompts, in every language that is installed, five minutes of each."""
    folders = [path for path in sorted(PROMPTS.glob("*_*_*_*")) if path.is_dir()]
    if not folders:
        raise MissingData(f"{PROMPTS} holds no prompts: apt install asterisk-core-sounds-en-g722")
    rng = np.random.default_rng(SEED)
    found = []
    for folder in folders:
        files = [path for path in sorted(folder.rglob("*.g722")) if path.stat().st_size]
        order = (files[number] for number in rng.permutation(len(files)))
        found.append(Voice(folder.name, _joined(_first(map(decode, order), _PROMPT_SECONDS))))
    return found


def _said(rng, say, texts):
    while True:
        try:
            yield say(texts[rng.integers(len(texts))]).audio
        except UnknownPhoneme:
            continue


def synthetic(split):
    """Voices of espeak-ng, each in two accents, and of flite, for ``train`` or ``test``."""
    rng = np.random.default_rng([SEED, split == "test"])
    texts, found = sentences(split), []
    for voice in splits()["espeak"][split]:
        for accent in rng.choice(ACCENTS, size=2, replace=False):
            speed, pitch, name = int(rng.integers(140, 211)), int(rng.integers(30, 71)), f"{accent}+{voice}"
            pieces = _said(rng, lambda text, name=name, how=(speed, pitch): espeak(name, text, *how), texts)
            found.append(Voice(name, _joined(_first(pieces, _SYNTHETIC_SECONDS))))
    for voice in splits()["flite"][split]:
        pieces = _said(rng, lambda text, voice=voice: flite(voice, text), texts)
        found.append(Voice(voice, _joined(_first(pieces, _SYNTHETIC_SECONDS))))
    return found


def _syllable(rng, pitch):
    """Half a second at most of silence, or of pulses or noise through resonances, that rises and falls."""
    time = np.arange(int(rng.uniform(0.05, 0.4) * RATE)) / RATE
    if rng.random() < 0.2:
        return np.zeros(len(time))
    if rng.random() < 0.7:
        phase = np.cumsum(pitch * np.geomspace(*rng.uniform(0.8, 1.25, size=2), len(time))) / RATE
        sound = lfilter([1], [1, -0.95], np.diff(np.floor(phase), prepend=0) + 0.01 * rng.normal(size=len(time)))
    else:
        sound = 0.1 * rng.normal(size=len(time))
    for low, high in _RESONANCES:
        radius, angle = np.exp(-np.pi * rng.uniform(60, 250) / RATE), 2 * np.pi * rng.uniform(low, high) / RATE
        sound = 0.1 * sound + lfilter([1 - radius], [1, -2 * radius * np.cos(angle), radius**2], sound)
    envelope = np.sin(np.pi * np.linspace(0, 1, len(time))) ** rng.uniform(0.3, 2)
    return rng.uniform(0.2, 1) * envelope * sound / (np.sqrt(np.mean(sound**2)) + 1e-9)


def artificial():
    """Voices that never spoke: pulses and noises at random, about as long, as high and as hollow as syllables."""
    found = []
    for number in range(_ARTIFICIAL_VOICES):
        rng = np.random.default_rng([SEED, number])
        pitch, parts = np.exp(rng.uniform(np.log(80), np.log(300))), []
        while sum(map(len, parts)) < _ARTIFICIAL_SECONDS * RATE:
            parts.append(_syllable(rng, pitch))
        found.append(Voice(f"artificial {number}", [(0.1 * np.concatenate(parts)).astype(np.float32)]))
    return found


def clips():
    """The recordings of `examples.silero_vad`, each by itself."""
    return [Voice(clip.name, [clip.audio]) for clip in load_all(CLIPS)]


def heard(rng, voices, decibels, echo=0.3, speeds=(1.0, 1.0)):
    """The voices in rooms of their own, at other speeds (and pitches): what is learned from.

    Parameters
    ----------
    rng : numpy Generator
    voices : list of `Voice`
    decibels : (low, high)
        Of speech over noise.
    echo : float
        Probability of reverberation.
    speeds : (low, high)
    """
    found, others = [], []
    for voice in voices:
        factor, pieces = rng.uniform(*speeds), []
        for piece in voice.pieces:
            spoken = soxr.resample(piece, RATE * factor, RATE) if factor != 1 else piece
            speech = room(rng, Speech(spoken, np.zeros(1), np.zeros(1, int)), rng.uniform(*decibels), others, echo)
            pieces.append(speech.audio)
        others = [*others[-7:], voice.pieces[0]]
        found.append(Voice(f"{voice.name} heard", pieces))
    return found
