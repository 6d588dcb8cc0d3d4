# SPDX-License-Identifier: Apache-2.0
"""Synthetic speech with exact phones, from the library of espeak-ng and from the command flite.

Both are Debian packages (``espeak-ng``, ``flite``). The library returns the same samples for the same calls only in a
new process, so reproducible speech needs its own process.
"""

import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import soxr

from examples.recognizer.speech import MissingData, Speech
from openese.sw.speech.features import RATE
from openese.sw.speech.phones import PHONES, SILENCE

__all__ = ["FLITE_VOICES", "UnknownPhoneme", "espeak", "flite"]

FLITE_VOICES = ("slt", "rms", "awb", "kal16")

_RATE, _PITCH = 1, 3  # parameters of espeak_SetParameter
_PHONEME = 7  # a type of event
_SYNCHRONOUS, _PHONEME_EVENTS, _NO_EXIT = 2, 1, 0x8000
_CHARS_UTF8 = 1

# Accents that speak every written r.
_RHOTIC = ("gmw/en-US", "gmw/en-GB-scotland")
_ALIKE = {
    "AA": "A: 0 aa A~", "AE": "a", "AH": "@ @2 @5 @- a# V", "AO": "O: O O2", "AW": "aU", "AY": "aI aI2", "B": "b",
    "CH": "tS", "D": "d d[ d#", "DH": "D", "EH": "E E2", "EY": "eI e", "F": "f", "G": "g", "HH": "h", "IH": "I I2 I#",
    "IY": "i i:", "JH": "dZ", "K": "k x C", "L": "l l#", "M": "m m-", "N": "n n-", "NG": "N", "OW": "oU o", "OY": "OI",
    "P": "p", "R": "r r-", "S": "s", "SH": "S", "T": "t t# t2 t[ ?", "TH": "T", "UH": "U", "UW": "u: u", "V": "v",
    "W": "w w#", "Y": "j", "Z": "z z#", "ZH": "Z", "ER": "3: VR IR ER",
    SILENCE: "_: _ _! _| _:: _;_ _^_", "AH L": "@L",
}
_WITH_R = {"ER": "3", "IH R": "i@ i@3", "EH R": "e@", "UH R": "U@", "AA R": "A@", "AO R": "O@ o@", "AY R": "aI3",
           "AY AH": "aI@", "AW R": "aU@"}
_WITHOUT_R = {"AH": "3", "IH AH": "i@ i@3", "EH AH": "e@", "UH AH": "U@", "AA": "A@", "AO": "O@ o@",
              "AY AH": "aI3 aI@", "AW AH": "aU@"}


class UnknownPhoneme(ValueError):
    """A phoneme of espeak-ng is not in the CMU dictionary."""


def _by_phoneme(*tables):
    return {phoneme: tuple(PHONES.index(phone) for phone in phones.split())
            for table in tables for phones, phonemes in table.items() for phoneme in phonemes.split()}


_RHOTIC_PHONES = _by_phoneme(_ALIKE, _WITH_R)
_OTHER_PHONES = _by_phoneme(_ALIKE, _WITHOUT_R)


class _Value(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int), ("unique_identifier", ctypes.c_uint), ("text_position", ctypes.c_int),
                ("length", ctypes.c_int), ("audio_position", ctypes.c_int), ("sample", ctypes.c_int),
                ("user_data", ctypes.c_void_p), ("id", _Value)]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class _Espeak:
    """The library of espeak-ng; it has one voice and one callback at a time."""

    def __init__(self):
        try:
            self._library = ctypes.CDLL("libespeak-ng.so.1")
        except OSError:
            raise MissingData("libespeak-ng is missing: apt install espeak-ng") from None
        self.rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, None, _PHONEME_EVENTS | _NO_EXIT)
        if self.rate <= 0:
            raise MissingData("espeak-ng does not start: apt install espeak-ng-data")
        self._samples, self._phonemes = [], []
        self._callback = _Callback(self._take)
        self._library.espeak_SetSynthCallback(self._callback)

    def _take(self, samples, count, events):
        if samples and count:
            self._samples.append(ctypes.string_at(samples, 2 * count))
        number = 0
        while events[number].type:
            if events[number].type == _PHONEME:
                self._phonemes.append((events[number].sample, events[number].id.string.decode()))
            number += 1
        return 0

    def say(self, voice, text, speed, pitch):
        """Return the samples, and (first sample, phoneme) of each phoneme."""
        if self._library.espeak_SetVoiceByName(voice.encode()):
            raise MissingData(f"espeak-ng has no voice {voice!r}: apt install espeak-ng-data")
        self._library.espeak_SetParameter(_RATE, speed, 0)
        self._library.espeak_SetParameter(_PITCH, pitch, 0)
        self._samples.clear()
        self._phonemes.clear()
        spoken = text.encode()
        self._library.espeak_Synth(spoken, len(spoken) + 1, 0, 1, 0, _CHARS_UTF8, None, None)
        return np.frombuffer(b"".join(self._samples), np.int16), list(self._phonemes)


@functools.cache
def _library():
    return _Espeak()


def espeak(voice, text, speed=175, pitch=50):
    """Return `Speech` of espeak-ng.

    Parameters
    ----------
    voice : str
        Accent and variant, such as ``gmw/en-US+f3``.
    text : str
    speed : int
        In words a minute.
    pitch : int
        From 0 to 99; 50 is the voice's normal pitch.

    Raises
    ------
    UnknownPhoneme
        If the voice uses a phoneme that is not English.
    MissingData
        If espeak-ng is not installed.
    """
    samples, events = _library().say(voice, text, speed, pitch)
    known = _RHOTIC_PHONES if voice.startswith(_RHOTIC) else _OTHER_PHONES
    starts, phones = [0], [PHONES.index(SILENCE)]
    ends = [sample for sample, _ in events[1:]] + [len(samples)]
    for (start, phoneme), end in zip(events, ends, strict=True):
        if phoneme in ("", ";"):  # palatalization belongs to the phoneme before
            continue
        if phoneme not in known:
            raise UnknownPhoneme(f"phoneme {phoneme!r} of voice {voice!r} in {text!r}")
        parts = known[phoneme]
        starts += [start + (end - start) * n // len(parts) for n in range(len(parts))]
        phones += parts
    rate = _library().rate
    audio = soxr.resample(samples.astype(np.float32) / 32768, rate, RATE, quality="HQ")
    return Speech(audio, np.array(starts) / rate, np.array(phones))


def flite(voice, text):
    """Return `Speech` of flite with one of `FLITE_VOICES`.

    Raises
    ------
    MissingData
        If flite is not installed.
    """
    program = shutil.which("flite")
    if program is None:
        raise MissingData("flite is missing: apt install flite")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        phones_and_ends = subprocess.run([program, "-voice", voice, "-psdur", "-t", text, "-o", path],
                                         check=True, capture_output=True, text=True).stdout
        audio, rate = soundfile.read(path, dtype="float32")
    pairs = [item.rsplit(":", 1) for item in phones_and_ends.split()]
    names = {"PAU": SILENCE, "AX": "AH"}
    phones = [PHONES.index(names.get(phone.upper(), phone.upper())) for phone, _ in pairs]
    ends = [float(end) for _, end in pairs]
    if rate != RATE:
        audio = soxr.resample(audio, rate, RATE, quality="HQ")
    return Speech(audio, np.array([0.0, *ends[:-1]]), np.array(phones))
