# SPDX-License-Identifier: Apache-2.0
"""Resemblyzer tells speakers apart: three LSTMs in PyTorch turn 1.6 s of speech into a vector of the voice.

The network is built and called by the package's own code. The spectra are those of `mel`, because the package's own
front end needs librosa and webrtcvad.
"""

import sys
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from itertools import combinations
from types import ModuleType, SimpleNamespace
from unittest.mock import patch

import numpy as np
import torch  # noqa: F401  the patched modules forget what is imported meanwhile

from examples.silero_vad.clips import CLIPS, load_all
from examples.zoo import mel
from examples.zoo.exhibit import Exhibit, Outcome
from examples.zoo.packages import package_folder

__all__ = ["Speaker"]

_ALIKE = 0.75  # cosine of two recordings of one speaker, at least


@dataclass(frozen=True)
class Speaker(Exhibit):
    """Resemblyzer's network."""

    asks: str = "pairs of recordings"
    least: float = 1.0

    def network(self):
        return _encoder()

    def original(self):
        return _encoder()

    def examples(self):
        clips = [mel.normalized(clip.audio) for clip in load_all(CLIPS)]
        return clips[::2], clips[1::2], [min(clips[1::2], key=len)]

    def run(self, network, examples):
        embedded = [network.embed_utterance(audio, return_partials=True)[:2] for audio in examples]
        alike = [float(a @ b) >= _ALIKE for (a, _), (b, _) in combinations(embedded, 2)]
        return Outcome({"embedding": [pieces for _, pieces in embedded]}, alike)

    def detail(self, found, wanted):
        cosines = [np.sum(a * b, axis=1) for a, b in zip(*(outcome.outputs["embedding"] for outcome in (found, wanted)),
                                                         strict=True)]
        return f"cosine of embeddings {np.mean(np.concatenate(cosines)):.3f}"


@cache
def _encoder():
    """Return the package's network with its weights."""
    package = ModuleType("resemblyzer")
    package.__path__ = [str(package_folder("resemblyzer"))]
    package.audio = SimpleNamespace(wav_to_mel_spectrogram=mel.spectrogram)
    with patch.dict(sys.modules, resemblyzer=package):
        return import_module("resemblyzer.voice_encoder").VoiceEncoder("cpu", verbose=False)
