# SPDX-License-Identifier: Apache-2.0
"""Asterisk's English prompts (one professional speaker, recorded) with phones aligned by pocketsphinx.

The prompts are the Debian packages ``asterisk-core-sounds-en-g722`` and, for what is said,
``asterisk-core-sounds-en``; pocketsphinx brings an acoustic model and the CMU dictionary.
"""

import gzip
import json
import re
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from pocketsphinx import Decoder

from examples.recognizer.speech import MissingData, Speech
from openese.sw.speech.phones import PHONES, SILENCE

__all__ = ["align", "aligned", "decode"]

SOUNDS = Path("/usr/share/asterisk/sounds/en")
TRANSCRIPTS = Path("/usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz")
_FRAME = 0.01  # seconds of an alignment's frame
_DIGITS = dict(zip("0123456789", "zero one two three four five six seven eight nine".split(), strict=True))


@dataclass(frozen=True)
class Prompt:
    """A recording and the words in it."""

    name: str
    words: tuple[str, ...]
    path: Path

    def audio(self):
        """Samples (n,) float32 at 16 kHz."""
        return decode(self.path)


def decode(path):
    """Samples (n,) float32 at 16 kHz of a prompt's file."""
    with av.open(str(path), format="g722") as file:
        parts = [frame.to_ndarray().ravel() for frame in file.decode(audio=0)]
    return np.concatenate(parts).astype(np.float32) / 32768


def _all():
    """All prompts with words, by name.

    Raises
    ------
    MissingData
        If the packages are not installed.
    """
    for path in (TRANSCRIPTS, SOUNDS):
        if not path.exists():
            raise MissingData(f"{path} is missing: apt install asterisk-core-sounds-en asterisk-core-sounds-en-g722")
    found = []
    for line in gzip.open(TRANSCRIPTS, "rt", encoding="utf-8", errors="replace"):
        name, _, text = line.strip().partition(":")
        path = SOUNDS / f"{name}.g722"
        if line.startswith(";") or "[" in text or "(" in text or not path.is_file():
            continue
        text = re.sub(r"\b([0-9])\b", lambda match: _DIGITS[match[1]], text.lower())
        words = tuple(re.findall(r"[a-z]+(?:'[a-z]+)?", text))
        if words and not re.search(r"[0-9]", text):
            found.append(Prompt(name, words, path))
    return sorted(found, key=lambda prompt: prompt.name)


class _Aligner:
    """Finds the phones of recordings whose words are known."""

    def __init__(self):
        self._decoder = Decoder(samprate=16000, loglevel="FATAL")

    def __call__(self, audio, words):
        """`Speech`, or None if a word is unknown or the recording does not fit the words."""
        if any(self._decoder.lookup_word(word) is None for word in words):
            return None
        samples = (np.clip(audio, -1, 1) * 32767).astype("<i2").tobytes()
        try:
            self._decoder.set_align_text(" ".join(words))
            self._decode(samples)
            if self._decoder.hyp() is None:
                return None
            self._decoder.set_alignment()
            self._decode(samples)
        except RuntimeError:
            return None
        alignment = self._decoder.get_alignment()
        if alignment is None:
            return None
        phones = list(alignment.phones())
        names = [phone.name if phone.name in PHONES else SILENCE for phone in phones]
        return Speech(audio, np.array([phone.start for phone in phones]) * _FRAME,
                      np.array([PHONES.index(name) for name in names]))

    def _decode(self, samples):
        self._decoder.start_utt()
        self._decoder.process_raw(samples, full_utt=True)
        self._decoder.end_utt()


def align(path):
    """Align all prompts and keep the result as a file: by name, [start in seconds, phone] of each phone."""
    aligner, found = _Aligner(), {}
    for prompt in _all():
        speech = aligner(prompt.audio(), prompt.words)
        if speech is not None:
            found[prompt.name] = [[round(float(start), 2), PHONES[phone]]
                                  for start, phone in zip(speech.starts, speech.phones, strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found))


def aligned(path, names):
    """`Speech` of those of ``names`` that `align` could align, in their order."""
    found = json.loads(path.read_text())
    for prompt in _all():
        if prompt.name in names and prompt.name in found:
            starts, phones = zip(*found[prompt.name], strict=True)
            yield Speech(prompt.audio(), np.array(starts), np.array([PHONES.index(phone) for phone in phones]))
