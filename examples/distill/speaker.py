# SPDX-License-Identifier: Apache-2.0
"""Resemblyzer tells speakers apart. The test is the equal error rate on speakers that are not in the training."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cosine_similarity

import openese
from examples.distill.task import Task
from examples.distill.voices import SEED, heard
from examples.zoo import mel
from examples.zoo.packages import package_folder
from openese.sw.training import relative_error

__all__ = ["Embedder", "Speaker", "equal_error_rate"]

_CELLS, _LAYERS = 256, 3
_DECIBELS = (5, 40)
_FRACTION = 12  # fraction bits of the input that calibration chooses for this network
_WARM_UP = 40  # frames at the start of a sequence whose embeddings do not count
_TOGETHER = (1, 5)  # windows whose embeddings are averaged: 1.6 and 4.8 seconds
_HALF = 4  # windows (4 seconds) that each half of a speaker's speech must exceed
_THROAT, _COLOUR, _LOUDNESS, _KNOTS = 0.06, 0.1, 0.35, 7  # variation in nepers, and knots over the bands


class Embedder(nn.Module):
    """Resemblyzer's three layers and its linear head; it returns the outputs of each layer and of the head.

    In training, its inputs are rounded to 16 bits as on the machine, which clips the loudest frames and loses detail
    of the softest.
    """

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.LSTM(_CELLS if number else mel.BANDS, _CELLS) for number in range(_LAYERS))
        self.linear = nn.Linear(_CELLS, _CELLS)

    def forward(self, x):
        if self.training:
            x = torch.clamp(torch.round(x * 2**_FRACTION), -(2**15), 2**15 - 1) / 2**_FRACTION
        outputs = []
        for layer in self.layers:
            x, _ = layer(x)
            outputs.append(x)
        return outputs, self.linear(x)


@dataclass(frozen=True)
class Speaker(Task):
    """Resemblyzer, 40 -> 256 -> 256 -> 256 and a linear head, which runs on the host."""

    name: str = "speaker"
    config: object = openese.preset("ese")
    updates: int = 4000
    batch: int = 16
    steps: int = mel.FRAMES
    judged_by: tuple = ("synthetic", "recordings")
    shares: dict = field(default_factory=lambda: {"synthetic": 0.3, "prompts": 0.2, "recordings": 0.5})
    file: Path = field(default_factory=lambda: package_folder("resemblyzer") / "pretrained.pt")

    def network(self):
        trained = torch.load(self.file, weights_only=True, map_location="cpu")["model_state"]
        network = Embedder()
        network.load_state_dict({_name(name): trained[name] for name in trained if _name(name)})
        return network

    def loss(self, outputs, dense):
        (layers, embedding), (dense_layers, dense_embedding) = outputs, dense
        cosine = cosine_similarity(torch.relu(embedding[_WARM_UP:]), torch.relu(dense_embedding[_WARM_UP:]), dim=-1)
        return sum(map(relative_error, layers, dense_layers)) + 2 * (1 - cosine).mean()

    def imported(self, path):
        return openese.load(path, "layers.0,layers.1,layers.2,linear")

    def features(self, audio):
        return mel.spectrogram(mel.normalized(audio))

    def training(self, voices):
        rng = np.random.default_rng(SEED)
        takes = [voices, heard(rng, voices, _DECIBELS, speeds=(0.85, 1.18))]
        return [[[self.features(piece) * 10 ** rng.uniform(-0.3, 0.3) for piece in voice.pieces] for voice in take]
                for take in takes]

    def vary(self, rng, piece):
        """Return the piece as from another microphone and a throat of another length."""
        bands = np.arange(mel.BANDS)
        moved = np.clip(bands * np.exp(rng.uniform(-_THROAT, _THROAT)), 0, mel.BANDS - 1)
        below = np.minimum(moved.astype(int), mel.BANDS - 2)
        part = moved - below
        heard = piece[:, below] * (1 - part) + piece[:, below + 1] * part
        knots = rng.normal(scale=_COLOUR, size=_KNOTS)
        colour = np.interp(bands, np.linspace(0, mel.BANDS - 1, _KNOTS), knots)
        return heard * np.exp(colour + rng.uniform(-_LOUDNESS, _LOUDNESS))

    def examine(self, run, tests):
        return {name: self._examine(run, voices) for name, voices in tests.items()}

    def _examine(self, run, voices):
        windows = [np.concatenate([mel.windows(self.features(piece)) for piece in voice.pieces], axis=1)
                   for voice in voices]
        outputs = run([part[:, number] for part in windows for number in range(part.shape[1])])
        raw = np.maximum([y[-1] for y in outputs], 0)
        unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
        ends = np.cumsum([part.shape[1] for part in windows])[:-1]
        embeddings = np.split(unit, ends)
        halves = [_halves(part) for part in embeddings if len(part) > 2 * _HALF]
        return {"voices": len(voices), "halved": len(halves), "errors": {
            str(count): equal_error_rate([_averaged(part, count) for part in embeddings]) for count in _TOGETHER}
            | {"halves": equal_error_rate(halves)}}


def _name(name):
    """Return the name in `Embedder` of a parameter in Resemblyzer's file; empty for other parameters."""
    module, _, parameter = name.partition(".")
    if module == "lstm":
        return f"layers.{parameter[-1]}.{parameter[:-1]}0"
    return name if module == "linear" else ""


def _averaged(embeddings, count):
    """Return means of ``count`` windows without common frames, (n, 256), of length 1."""
    starts = range(0, len(embeddings) - count + 1, count + 1)
    means = [embeddings[start:start + count].mean(axis=0) for start in starts]
    return np.array([mean / np.linalg.norm(mean) for mean in means]).reshape(-1, embeddings.shape[1])


def _halves(embeddings):
    """Return the means of the first and of the last windows, without common frames: (2, 256), of length 1."""
    count = (len(embeddings) - 1) // 2
    means = np.stack([embeddings[:count].mean(axis=0), embeddings[-count:].mean(axis=0)])
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def equal_error_rate(voices):
    """Return the error rate at the threshold where pairs of one speaker and of two speakers fail equally often.

    Parameters
    ----------
    voices : list of ndarray, (n, D)
        Embeddings of each speaker, of length 1. All pairs are compared by their cosines.

    Returns
    -------
    float
        From 0 to 1.

    Raises
    ------
    ValueError
        If no two embeddings are from one speaker, or none are from two.
    """
    unit, owner = np.concatenate(voices), np.repeat(np.arange(len(voices)), [len(voice) for voice in voices])
    first, second = np.triu_indices(len(unit), 1)
    cosines, one = (unit @ unit.T)[first, second], owner[first] == owner[second]
    same, other = np.sort(cosines[one]), np.sort(cosines[~one])
    if not len(same) or not len(other):
        raise ValueError(f"{len(voices)} voices: {len(same)} pairs of one voice and {len(other)} of two; "
                         "an equal error rate needs both")
    limits = np.sort(cosines)
    missed = np.searchsorted(same, limits) / len(same)
    accepted = 1 - np.searchsorted(other, limits) / len(other)
    nearest = np.argmin(np.abs(missed - accepted))
    return float(missed[nearest] + accepted[nearest]) / 2
