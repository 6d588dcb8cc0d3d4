# SPDX-License-Identifier: Apache-2.0
"""The corpus for training and tests, made from packages; the same packages give the same bytes.

``splits.json`` assigns voices and prompts to splits. The sentences come from the Debian package ``fortunes``; one in
twenty is for development and tests only. A part of the corpus consists of shards. Each is made in its own process and
saved as a file, so an interrupted run can continue.
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
from openese.output import replacing

__all__ = ["ACCENTS", "PARTS", "Part", "Utterances", "load", "make", "sentences", "splits"]

SPLITS = Path(__file__).with_name("splits.json")
FORTUNES = Path("/usr/share/games/fortunes")
SEED = 20170222  # the day on which the paper was presented
ACCENTS = ("gmw/en-US", "gmw/en", "gmw/en-GB-scotland", "gmw/en-GB-x-gbclan", "gmw/en-GB-x-rp", "gmw/en-GB-x-gbcwmd",
           "gmw/en-029", "gmw/en-US-nyc")
_AMERICAN = 0.6  # share of the first accent
_ALIGNMENTS = "alignments.json"
_CLEAN = 60.0  # dB over noise: inaudible noise


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
        The number in a shard; a shard of prompts has all prompts.
    decibels : (low, high)
        The range of levels of speech over noise.
    clean : float
        The share of utterances without noise.
    rooms : bool
        Whether the other utterances also have other microphones, reverberation and babble, or only noise.
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
    """Return voices and prompts by split: ``{"espeak": {"train": [...], ...}, "flite": ..., "prompts": ...}``."""
    return json.loads(SPLITS.read_text())


def sentences(split):
    """Return sentences of 3 to 12 words; sentences of ``train`` are in no other split.

    Raises
    ------
    MissingData
        If the package ``fortunes`` is not installed.
    """
    if not FORTUNES.is_dir():
        raise MissingData(f"{FORTUNES} is missing: apt install fortunes")
    texts = set()
    for path in sorted(FORTUNES.iterdir()):
        if path.suffix or not path.is_file():
            continue
        text = re.sub(r"[ \t]*\n[ \t]*", " ", path.read_text(errors="ignore").replace("\n%", "."))
        for sentence in re.split(r"[.!?:;\"()]+|--", text):
            sentence = sentence.strip()
            if re.fullmatch(r"[A-Za-z' ,]+", sentence) and 3 <= len(sentence.split()) <= 12:
                texts.add(sentence)
    held_out = [sentence for sentence in sorted(texts)
                if int(hashlib.sha256(sentence.encode()).hexdigest(), 16) % 20 == 0]
    return held_out if split != "train" else sorted(texts.difference(held_out))


def _synthetic(rng, part):
    """Yield synthetic `Speech` without end, with random voices, accents, speeds and pitches."""
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
    """Yield the prompts of a split in order; prompts for training have random speeds and pitches."""
    for speech in aligned(alignments, splits()["prompts"][part.split]):
        if part.split == "train":
            factor = rng.uniform(0.85, 1.18)
            speech = Speech(soxr.resample(speech.audio, 16000 * factor, 16000), speech.starts / factor, speech.phones)
        yield speech


def _heard(rng, part, alignments):
    """Yield the speech of a part as heard in random rooms."""
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
    """Write one shard; this runs in its own process."""
    name, shard, path = job
    part = PARTS[name]
    rng = np.random.default_rng([SEED, list(PARTS).index(name), shard])
    frames = [speech.frames() for speech in _heard(rng, part, path.with_name(_ALIGNMENTS))]
    values, phones = zip(*frames, strict=True)
    with replacing(path) as file:
        np.savez(file, values=np.concatenate(values).astype(np.float16), phones=np.concatenate(phones).astype(np.int8),
                 lengths=np.array([len(part) for part in values]))


def _path(folder, name, shard):
    return folder / f"{name}-{shard:02d}.npz"


def make(folder, shards, advance=lambda: None):
    """Make the missing shards.

    Parameters
    ----------
    folder : Path
    shards : mapping
        Name of a part -> number of shards.
    advance : callable
        Called when a shard exists.

    Raises
    ------
    MissingData
        If a package is not installed.
    """
    jobs = []
    for name, count in shards.items():
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
    """Return the `Utterances` of the first ``shards`` shards of a part, which `make` has made."""
    values, phones = [], []
    for shard in range(shards):
        with np.load(_path(folder, name, shard)) as file:
            ends = np.cumsum(file["lengths"])[:-1]
            values += np.split(file["values"], ends)
            phones += np.split(file["phones"], ends)
    return Utterances(values, phones)
