# SPDX-License-Identifier: Apache-2.0
"""Speech of many voices without labels, from packages and from a folder of recordings, and artificial sounds."""

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
_PIECE = 10  # seconds of joined pieces
_PROMPT_SECONDS, _RECORDED_SECONDS, _SYNTHETIC_SECONDS = 300, 60, 15
_ARTIFICIAL_VOICES, _ARTIFICIAL_SECONDS = 120, 15
_RESONANCES = ((250, 900), (900, 2500), (2200, 3800))  # Hz: lowest and highest frequency of each
_EVERY = 3  # one of three recorded voices is for tests


@dataclass(frozen=True)
class Voice:
    """A speaker with pieces of audio, (samples,) float32 at 16 kHz."""

    name: str
    pieces: list

    @property
    def seconds(self):
        return sum(map(len, self.pieces)) / RATE


def _first(pieces, seconds):
    """Return the first pieces that together have at least ``seconds``."""
    taken, samples = [], 0
    for piece in pieces:
        if samples >= seconds * RATE:
            break
        taken.append(piece)
        samples += len(piece)
    return taken


def _joined(pieces):
    """Join short pieces to pieces of at least ten seconds; only the last may be shorter."""
    joined, current = [], []
    for piece in pieces:
        current.append(piece)
        if sum(map(len, current)) >= _PIECE * RATE:
            joined.append(np.concatenate(current))
            current = []
    return [*joined, np.concatenate(current)] if current else joined


def _read(path):
    audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    audio = audio.mean(axis=1)
    return audio if rate == RATE else soxr.resample(audio, rate, RATE).astype(np.float32)


def recordings(folder, split):
    """Return the voices of a folder of recordings; every third by name is for ``test``, the others for ``train``.

    A file's name starts with the voice's name and a hyphen, as in LibriSpeech. At most a minute of each voice is used.

    Raises
    ------
    MissingData
        If there are fewer than two voices.
    """
    files = {}
    for path in sorted(Path(folder).rglob("*")):
        if path.suffix.lower() in _FORMATS:
            files.setdefault(path.stem.partition("-")[0], []).append(path)
    if len(files) < 2:
        raise MissingData(f"{folder}: expected recordings of at least 2 voices, found {len(files)}; "
                          "name the files VOICE-*.flac")
    return [Voice(name, _first(map(_read, files[name]), _RECORDED_SECONDS))
            for number, name in enumerate(sorted(files)) if (number % _EVERY == 0) == (split == "test")]


def prompts():
    """Return the speakers of Asterisk's prompts in all installed languages, five minutes of each.

    Raises
    ------
    MissingData
        If no prompts are installed.
    """
    folders = [path for path in sorted(PROMPTS.glob("*_*_*_*")) if path.is_dir()]
    if not folders:
        raise MissingData(f"{PROMPTS} holds no prompts: apt install asterisk-core-sounds-en-g722")
    rng = np.random.default_rng(SEED)
    voices = []
    for folder in folders:
        files = [path for path in sorted(folder.rglob("*.g722")) if path.stat().st_size]
        order = (files[number] for number in rng.permutation(len(files)))
        voices.append(Voice(folder.name, _joined(_first(map(decode, order), _PROMPT_SECONDS))))
    return voices


def _said(rng, say, texts):
    while True:
        try:
            yield say(texts[rng.integers(len(texts))]).audio
        except UnknownPhoneme:
            continue


def synthetic(split):
    """Return voices of espeak-ng, each in two accents, and of flite, for ``train`` or ``test``.

    Raises
    ------
    MissingData
        If a package is not installed.
    """
    rng = np.random.default_rng([SEED, split == "test"])
    texts, voices = sentences(split), []
    for voice in splits()["espeak"][split]:
        for accent in rng.choice(ACCENTS, size=2, replace=False):
            speed, pitch, name = int(rng.integers(140, 211)), int(rng.integers(30, 71)), f"{accent}+{voice}"
            pieces = _said(rng, lambda text, name=name, how=(speed, pitch): espeak(name, text, *how), texts)
            voices.append(Voice(name, _joined(_first(pieces, _SYNTHETIC_SECONDS))))
    for voice in splits()["flite"][split]:
        pieces = _said(rng, lambda text, voice=voice: flite(voice, text), texts)
        voices.append(Voice(voice, _joined(_first(pieces, _SYNTHETIC_SECONDS))))
    return voices


def _syllable(rng, pitch):
    """Return up to 0.4 seconds of silence, or of pulses or noise through resonances that rise and fall."""
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
    """Return artificial voices: random pulses and noises with length, pitch and resonances of syllables."""
    voices = []
    for number in range(_ARTIFICIAL_VOICES):
        rng = np.random.default_rng([SEED, number])
        pitch, parts = np.exp(rng.uniform(np.log(80), np.log(300))), []
        while sum(map(len, parts)) < _ARTIFICIAL_SECONDS * RATE:
            parts.append(_syllable(rng, pitch))
        voices.append(Voice(f"artificial {number}", [(0.1 * np.concatenate(parts)).astype(np.float32)]))
    return voices


def clips():
    """Return the recordings of `examples.silero_vad`, each as one voice."""
    return [Voice(clip.name, [clip.audio]) for clip in load_all(CLIPS)]


def heard(rng, voices, decibels, echo=0.3, speeds=(1.0, 1.0)):
    """Return the voices as heard in random rooms, at other speeds and pitches, for training.

    Parameters
    ----------
    rng : numpy Generator
    voices : list of `Voice`
    decibels : (low, high)
        The range of levels of speech over noise.
    echo : float
        The probability of reverberation.
    speeds : (low, high)
        The range of speeds; 1 is unchanged.
    """
    takes, others = [], []
    for voice in voices:
        factor, pieces = rng.uniform(*speeds), []
        for piece in voice.pieces:
            spoken = soxr.resample(piece, RATE * factor, RATE) if factor != 1 else piece
            speech = room(rng, Speech(spoken, np.zeros(1), np.zeros(1, int)), rng.uniform(*decibels), others, echo)
            pieces.append(speech.audio)
        others = [*others[-7:], voice.pieces[0]]
        takes.append(Voice(f"{voice.name} heard", pieces))
    return takes
