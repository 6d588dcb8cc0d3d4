# SPDX-License-Identifier: Apache-2.0
"""What the recognizer is trained and tested on, made from packages: the same bytes for the same packages.

``splits.json`` says which voices and which prompts belong to which part; sentences are the fortunes of the
Debian package ``fortunes``, one in twenty of them for tests only. A part is made in shards, each in a process
of its own, and kept as a file, so that what was interrupted goes on where it stopped.
"""

import hashlib
import json
import multiprocessing
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr

from examples.recognizer.prompts import align, aligned
from examples.recognizer.speech import MissingData, Speech, noisy, room
from examples.recognizer.synthesis import UnknownPhoneme, espeak, flite

__all__ = ["ACCENTS", "PARTS", "Part", "Utterances", "load", "make", "sentences", "splits"]

SPLITS = Path(__file__).with_name("splits.json")
FORTUNES = Path("/usr/share/games/fortunes")
SEED = 20170222  # the day on which the paper was presented
ACCENTS = ("gmw/en-US", "gmw/en", "gmw/en-GB-scotland", "gmw/en-GB-x-gbclan", "gmw/en-GB-x-rp", "gmw/en-GB-x-gbcwmd",
           "gmw/en-029", "gmw/en-US-nyc")
_AMERICAN = 0.6  # share of the first accent
_ALIGNMENTS = "alignments.json"
_CLEAN = 60.0  # dB: no noise that is heard


@dataclass(frozen=True)
class Part:
    """A part of the corpus.

    Attributes
    ----------
    source : str
        ``espeak``, ``flite`` or ``prompts``.
    split : str
        ``train``, ``dev`` or ``test``.
    shards : int
    utterances : int
        In a shard; of prompts, all are in each.
    decibels : (low, high)
        Of speech over noise.
    clean : float
        Share that is heard as it is.
    rooms : bool
        Whether the others are also heard through other microphones, with reverberation and babble, or only with noise.
    """

    source: str
    split: str
    shards: int
    utterances: int = 0
    decibels: tuple[float, float] = (0, 20)
    clean: float = 0.15
    rooms: bool = True


PARTS = {
    "espeak-train": Part("espeak", "train", 16, 400),
    "flite-train": Part("flite", "train", 6, 400),
    "prompts-train": Part("prompts", "train", 10),
    "espeak-dev": Part("espeak", "dev", 1, 150, (0, 15), 0.0, rooms=False),
    "prompts-dev": Part("prompts", "dev", 1, clean=1.0),
    "espeak-test": Part("espeak", "test", 1, 120, (0, 15), 0.0, rooms=False),
    "espeak-test-clean": Part("espeak", "test", 1, 60, clean=1.0),
    "espeak-test-rooms": Part("espeak", "test", 1, 60, (0, 15), 0.0),
    "flite-test": Part("flite", "test", 1, 60, (0, 15), 0.0, rooms=False),
    "prompts-test": Part("prompts", "test", 1, clean=1.0),
    "prompts-test-noisy": Part("prompts", "test", 1, decibels=(0, 15), clean=0.0, rooms=False),
}


def splits():
    """Voices and prompts by split: ``{"espeak": {"train": [...], ...}, "flite": ..., "prompts": ...}``."""
    return json.loads(SPLITS.read_text())


def sentences(split):
    """Sentences of 3 to 12 words; those of ``train`` are in no other split."""
    if not FORTUNES.is_dir():
        raise MissingData(f"{FORTUNES} is missing: apt install fortunes")
    found = set()
    for path in sorted(FORTUNES.iterdir()):
        if path.suffix or not path.is_file():
            continue
        text = re.sub(r"[ \t]*\n[ \t]*", " ", path.read_text(errors="ignore").replace("\n%", "."))
        for sentence in re.split(r"[.!?:;\"()]+|--", text):
            sentence = sentence.strip()
            if re.fullmatch(r"[A-Za-z' ,]+", sentence) and 3 <= len(sentence.split()) <= 12:
                found.add(sentence)
    held_out = [sentence for sentence in sorted(found)
                if int(hashlib.sha256(sentence.encode()).hexdigest(), 16) % 20 == 0]
    return held_out if split != "train" else sorted(found.difference(held_out))


def _synthetic(rng, part):
    """Endless (Speech) of a synthesizer, with voices, accents, speeds and pitches at random."""
    voices, texts = splits()[part.source][part.split], sentences(part.split)
    while True:
        voice, text = voices[rng.integers(len(voices))], texts[rng.integers(len(texts))]
        accent = ACCENTS[0 if rng.random() < _AMERICAN else rng.integers(1, len(ACCENTS))]
        speed, pitch = int(rng.integers(140, 211)), int(rng.integers(30, 71))
        if part.source == "flite":
            yield flite(voice, text)
            continue
        try:
            yield espeak(f"{accent}+{voice}", text, speed, pitch)
        except UnknownPhoneme:
            continue


def _prompts(rng, part, alignments):
    """The prompts of a split, in their order; those to train on at another speed, and so pitch, each."""
    for speech in aligned(alignments, splits()["prompts"][part.split]):
        if part.split == "train":
            factor = rng.uniform(0.85, 1.18)
            speech = Speech(soxr.resample(speech.audio, 16000 * factor, 16000), speech.starts / factor, speech.phones)
        yield speech


def _heard(rng, part, alignments):
    """Speech as it is heard in rooms."""
    recent = []
    speeches = _prompts(rng, part, alignments) if part.source == "prompts" else _synthetic(rng, part)
    for number, speech in enumerate(speeches):
        if part.utterances and number == part.utterances:
            return
        recent = [*recent[-11:], speech.audio]
        if rng.random() < part.clean:
            yield room(rng, speech, _CLEAN, echo=0.0) if part.split == "train" else speech
        else:
            decibels = rng.uniform(*part.decibels)
            yield room(rng, speech, decibels, recent[:-1]) if part.rooms else noisy(rng, speech, decibels)


def _make_shard(job):
    """Write one shard; called in a process of its own."""
    name, shard, path = job
    part = PARTS[name]
    rng = np.random.default_rng([SEED, list(PARTS).index(name), shard])
    frames = [speech.frames() for speech in _heard(rng, part, path.with_name(_ALIGNMENTS))]
    values, phones = zip(*frames, strict=True)
    partial = path.with_suffix(".partial")
    with open(partial, "wb") as file:
        np.savez(file, values=np.concatenate(values).astype(np.float16), phones=np.concatenate(phones).astype(np.int8),
                 lengths=np.array([len(part) for part in values]))
    partial.rename(path)


def _path(folder, name, shard):
    return folder / f"{name}-{shard:02d}.npz"


def make(folder, wanted, advance=lambda: None):
    """Make the shards that are not there yet.

    Parameters
    ----------
    folder : Path
    wanted : mapping
        Name of a part -> number of shards.
    advance : callable
        Called when a shard is there.
    """
    jobs = []
    for name, count in wanted.items():
        for shard in range(count):
            if _path(folder, name, shard).exists():
                advance()
            else:
                jobs.append((name, shard, _path(folder, name, shard)))
    if not jobs:
        return
    folder.mkdir(parents=True, exist_ok=True)
    alignments = folder / _ALIGNMENTS
    recorded = [job for job in jobs if PARTS[job[0]].source == "prompts"]
    synthetic = [job for job in jobs if job not in recorded]
    with multiprocessing.get_context("spawn").Pool(maxtasksperchild=1) as pool:
        aligning = pool.apply_async(align, [alignments]) if recorded and not alignments.exists() else None
        for _ in pool.imap(_make_shard, synthetic, chunksize=1):
            advance()
        if aligning:
            aligning.get()
        for _ in pool.imap(_make_shard, recorded, chunksize=1):
            advance()


@dataclass(frozen=True)
class Utterances:
    """Static features (T, 51) float16 and phones (T,) of each utterance."""

    values: list
    phones: list

    @property
    def frames(self):
        return sum(map(len, self.phones))


def load(folder, name, shards):
    """Utterances of the first shards of a part, which must have been made."""
    values, phones = [], []
    for shard in range(shards):
        with np.load(_path(folder, name, shard)) as file:
            ends = np.cumsum(file["lengths"])[:-1]
            values += np.split(file["values"], ends)
            phones += np.split(file["phones"], ends)
    return Utterances(values, phones)
