# SPDX-License-Identifier: Apache-2.0
"""How well phones are recognized: right frames, and the edit distance of phone sequences."""

from dataclasses import dataclass

import numpy as np
from rapidfuzz.distance import Levenshtein

from sw.speech.features import with_differences
from sw.speech.phones import collapse, decode
from sw.speech.recognizer import DELAY, delayed

__all__ = ["Score", "given", "score"]


@dataclass(frozen=True)
class Score:
    """Shares, in 0 to 1.

    Attributes
    ----------
    frames : of the frames whose largest logit is right.
    errors : phone error rate of the frames' largest logits: edits by phones, silence left out.
    decoded : phone error rate of the decoded path.
    phones : how many there are.
    """

    frames: float
    errors: float
    decoded: float
    phones: int


def given(utterances):
    """What the network is given of each utterance (T + DELAY, 153)."""
    return [delayed(with_differences(values.astype(np.float32))) for values in utterances.values]


def score(logits, phones, penalty):
    """`Score` of logits (T + DELAY, 40) of each utterance against its phones (T,)."""
    right = frames = edits = decoded = total = 0
    for found, truth in zip(logits, phones, strict=True):
        heard = found[DELAY:]
        largest = heard.argmax(axis=1)
        right += int(np.count_nonzero(largest == truth))
        frames += len(truth)
        wanted = collapse(truth)
        total += len(wanted)
        edits += Levenshtein.distance(collapse(largest), wanted)
        decoded += Levenshtein.distance(collapse(decode(heard, penalty)), wanted)
    return Score(right / frames, edits / total, decoded / total, total)
