# SPDX-License-Identifier: Apache-2.0
"""The task: is somebody speaking? What the dense float network answers, and how others compare."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from examples.silero_vad.clips import CLIPS, lay_out, load_all, pick_up, schedule
from examples.silero_vad.network import THRESHOLD, Silero
from openese.sw.reference import floating

__all__ = ["Task"]


@dataclass(frozen=True)
class Task:
    """Clips, the network, and the decisions that count as right.

    Every other clip, by name, is for calibration: number formats are chosen on those. The others are
    held out.

    Attributes
    ----------
    silero : Silero
    clips : list of Clip
    """

    silero: Silero
    clips: list

    @classmethod
    def load(cls, folder=CLIPS):
        """The network from its package and all clips of a folder."""
        return cls(Silero.load(), load_all(folder))

    @cached_property
    def calibrates(self):
        """(clips,) bool: is the clip for calibration?"""
        return np.arange(len(self.clips)) % 2 == 0

    @cached_property
    def features(self):
        """What the LSTM sees of each clip: list of (T_clip, 128)."""
        return [self.silero.features(clip.audio) for clip in self.clips]

    @property
    def windows(self):
        """Windows of all clips together."""
        return sum(len(vectors) for vectors in self.features)

    @cached_property
    def calibration_frames(self):
        """The clips for calibration side by side, (T, B, 128), zeros where one has ended."""
        chosen = [self.features[k] for k in np.flatnonzero(self.calibrates)]
        return lay_out(chosen, schedule([len(v) for v in chosen], len(chosen)), len(chosen))[0]

    def float_outputs(self, model):
        """Outputs of ``model`` in float64: list of (T_clip, 128)."""
        turns = schedule([len(vectors) for vectors in self.features], len(self.features))
        frames, _, _ = lay_out(self.features, turns, len(self.features))
        return pick_up(floating.run(model, frames)[0], turns)

    @cached_property
    def dense_outputs(self):
        """Outputs of the dense float LSTM: list of (T_clip, 128)."""
        return self.float_outputs(self.silero.lstm)

    def decisions(self, outputs):
        """Is there speech? List of (T_clip,) bool."""
        return [self.silero.probability(y) >= THRESHOLD for y in outputs]

    def changed(self, outputs):
        """(clips,) windows of each clip that are decided otherwise than by the dense float network."""
        pairs = zip(self.decisions(outputs), self.decisions(self.dense_outputs), strict=True)
        return np.array([np.count_nonzero(ours != right) for ours, right in pairs])

    def kept(self, changed, which=None):
        """Share of the decisions that are kept, over all clips or over those of a mask ``which``."""
        which = np.ones(len(self.clips), bool) if which is None else which
        lengths = np.array([len(vectors) for vectors in self.features])
        return float(1 - changed[which].sum() / lengths[which].sum())
