# SPDX-License-Identifier: Apache-2.0
"""Silero VAD decides whether somebody speaks. The test is the share of the dense float network's decisions kept."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

import openese
from examples.distill.task import Task
from examples.distill.voices import SEED, Voice, heard
from examples.silero_vad.network import THRESHOLD, Silero
from openese.sw.reference.floating import run as run_float
from openese.sw.speech.features import RATE
from openese.sw.training import relative_error

__all__ = ["Vad"]

_PAUSE = 1.5  # seconds between pieces, at most
_DECIBELS = (0, 40)


@dataclass(frozen=True)
class Vad(Task):
    """Silero VAD's LSTM, 128 -> 128, with its unchanged decoder."""

    name: str = "vad"
    config: object = openese.preset("demo")
    updates: int = 8000
    batch: int = 24
    steps: int = 128
    judged_by: tuple = ("clips", "synthetic", "recordings")
    silero: Silero = field(default_factory=Silero.load)

    def network(self):
        network = torch.nn.LSTM(128, 128)
        network.load_state_dict({f"{name}_l0": torch.from_numpy(self.silero.tensors[f"lstm_cell.{name}"])
                                 for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")})
        return network

    def loss(self, outputs, dense):
        logits, dense_logits = (self._logits(y) for y, _ in (outputs, dense))
        return (binary_cross_entropy_with_logits(logits, torch.sigmoid(dense_logits))
                + 0.2 * relative_error(outputs, dense))

    def _logits(self, y):
        weight, bias = (torch.from_numpy(self.silero.tensors[f"final_conv.{name}"]) for name in ("weight", "bias"))
        return torch.relu(y) @ weight[0, :, 0] + bias

    def imported(self, path):
        return openese.load(path)

    def features(self, audio):
        return self.silero.features(audio)

    def training(self, voices):
        rng = np.random.default_rng(SEED)
        paused = [Voice(voice.name, [_with_pauses(rng, voice.pieces)]) for voice in voices]
        takes = [paused, heard(rng, paused, _DECIBELS), heard(rng, paused, _DECIBELS, speeds=(0.85, 1.18))]
        return [[[self.features(10 ** rng.uniform(-1, 0.3) * piece).astype(np.float16) for piece in voice.pieces]
                 for voice in take] for take in takes]

    def examine(self, run, tests):
        return {name: self._examine(run, voices) for name, voices in tests.items()}

    def _examine(self, run, voices):
        sequences = [self.features(piece) for voice in voices for piece in voice.pieces]
        kept = [self._decisions(y) == self._decisions(run_float(self.silero.lstm, x[:, None])[0][:, 0])
                for y, x in zip(run(sequences), sequences, strict=True)]
        return {"kept": float(np.mean(np.concatenate(kept))), "windows": sum(map(len, kept))}

    def _decisions(self, y):
        return self.silero.probability(y) >= THRESHOLD


def _with_pauses(rng, pieces):
    """Join pieces with silence between them."""
    parts = [part for piece in pieces for part in (np.zeros(int(rng.uniform(0, _PAUSE) * RATE), np.float32), piece)]
    return np.concatenate(parts)
