# SPDX-License-Identifier: Apache-2.0
"""The task: decide for every window whether somebody speaks, and compare with the dense float network."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from examples.silero_vad.clips import CLIPS, lay_out, load_all, pick_up, schedule
from examples.silero_vad.network import THRESHOLD, Silero
from openese.sw.reference import floating

__all__ = ["Task"]


@dataclass(frozen=True)
class Task:
    """Clips, the network, and the decisions of the dense float network, which count as right.

    Every second clip by name, from the first, is for calibration. The others are held out.

    Attributes
    ----------
    silero : Silero
    clips : list of Clip
    """

    silero: Silero
    clips: list

    @classmethod
    def load(cls, folder=CLIPS):
        """Return the task with the network from its package and all clips of a folder."""
        return cls(Silero.load(), load_all(folder))

    @cached_property
    def calibrates(self):
        """Whether each clip is for calibration, bool (clips,)."""
        return np.arange(len(self.clips)) % 2 == 0

    @cached_property
    def features(self):
        """The LSTM's inputs for each clip: list of (T_clip, 128)."""
        return [self.silero.features(clip.audio) for clip in self.clips]

    @property
    def windows(self):
        """The number of windows in all clips."""
        return sum(len(vectors) for vectors in self.features)

    @cached_property
    def calibration_frames(self):
        """The clips for calibration as voices, (T, B, 128), with zeros after the end of a clip."""
        clips = [self.features[k] for k in np.flatnonzero(self.calibrates)]
        return lay_out(clips, schedule([len(v) for v in clips], len(clips)), len(clips))[0]

    def float_outputs(self, model):
        """Return the outputs of ``model`` in float64: list of (T_clip, 128)."""
        turns = schedule([len(vectors) for vectors in self.features], len(self.features))
        frames, _, _ = lay_out(self.features, turns, len(self.features))
        return pick_up(floating.run(model, frames)[0], turns)

    @cached_property
    def dense_outputs(self):
        """Outputs of the dense float LSTM: list of (T_clip, 128)."""
        return self.float_outputs(self.silero.lstm)

    def decisions(self, outputs):
        """Return whether each window holds speech: list of (T_clip,) bool."""
        return [self.silero.probability(y) >= THRESHOLD for y in outputs]

    def changed(self, outputs):
        """Return for each clip the number of windows whose decision differs from the dense float network's."""
        pairs = zip(self.decisions(outputs), self.decisions(self.dense_outputs), strict=True)
        return np.array([np.count_nonzero(ours != dense) for ours, dense in pairs])

    def kept(self, changed, which=None):
        """Return the share of unchanged decisions, over all clips or over those in the mask ``which``."""
        which = np.ones(len(self.clips), bool) if which is None else which
        lengths = np.array([len(vectors) for vectors in self.features])
        return float(1 - changed[which].sum() / lengths[which].sum())
