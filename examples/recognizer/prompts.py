# SPDX-License-Identifier: Apache-2.0
"""Asterisk's English prompts, recorded by one professional speaker, with phones aligned by pocketsphinx.

The Debian package ``asterisk-core-sounds-en-g722`` holds the prompts, and ``asterisk-core-sounds-en`` holds their
texts. pocketsphinx has an acoustic model and the CMU dictionary.
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
from openese.output import write_text
from openese.sw.speech.phones import PHONES, SILENCE

__all__ = ["align", "aligned", "decode"]

SOUNDS = Path("/usr/share/asterisk/sounds/en")
TRANSCRIPTS = Path("/usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz")
_FRAME = 0.01  # seconds of an alignment's frame
_DIGITS = dict(zip("0123456789", "zero one two three four five six seven eight nine".split(), strict=True))


@dataclass(frozen=True)
class Prompt:
    """A recording and its words."""

    name: str
    words: tuple[str, ...]
    path: Path

    def audio(self):
        """Return the samples (n,), float32, at 16 kHz."""
        return decode(self.path)


def decode(path):
    """Return the samples (n,) of a prompt's file, float32, at 16 kHz."""
    with av.open(str(path), format="g722") as file:
        parts = [frame.to_ndarray().ravel() for frame in file.decode(audio=0)]
    return np.concatenate(parts).astype(np.float32) / 32768


def _all():
    """Return all prompts with known words, sorted by name.

    Raises
    ------
    MissingData
        If the packages are not installed.
    """
    for path in (TRANSCRIPTS, SOUNDS):
        if not path.exists():
            raise MissingData(f"{path} is missing: apt install asterisk-core-sounds-en asterisk-core-sounds-en-g722")
    all_prompts = []
    for line in gzip.open(TRANSCRIPTS, "rt", encoding="utf-8", errors="replace"):
        name, _, text = line.strip().partition(":")
        path = SOUNDS / f"{name}.g722"
        if line.startswith(";") or "[" in text or "(" in text or not path.is_file():
            continue
        text = re.sub(r"\b([0-9])\b", lambda match: _DIGITS[match[1]], text.lower())
        words = tuple(re.findall(r"[a-z]+(?:'[a-z]+)?", text))
        if words and not re.search(r"[0-9]", text):
            all_prompts.append(Prompt(name, words, path))
    return sorted(all_prompts, key=lambda prompt: prompt.name)


class _Aligner:
    """Find the phones of recordings with known words."""

    def __init__(self):
        self._decoder = Decoder(samprate=16000, loglevel="FATAL")

    def __call__(self, audio, words):
        """Return `Speech`; None if a word is unknown or the recording does not fit the words."""
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
    """Align all prompts, and write [start in seconds, phone] of each phone, by prompt, to a JSON file."""
    aligner, alignments = _Aligner(), {}
    for prompt in _all():
        speech = aligner(prompt.audio(), prompt.words)
        if speech is not None:
            alignments[prompt.name] = [[round(float(start), 2), PHONES[phone]]
                                       for start, phone in zip(speech.starts, speech.phones, strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(alignments))


def aligned(path, names):
    """Yield the `Speech` of the named prompts that `align` has aligned, sorted by name."""
    alignments = json.loads(path.read_text())
    for prompt in _all():
        if prompt.name in names and prompt.name in alignments:
            starts, phones = zip(*alignments[prompt.name], strict=True)
            yield Speech(prompt.audio(), np.array(starts), np.array([PHONES.index(phone) for phone in phones]))
