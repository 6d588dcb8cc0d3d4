# SPDX-License-Identifier: Apache-2.0
"""Score recognized phones: the share of right frames, and the edit distance of phone sequences."""

from dataclasses import dataclass

import numpy as np
from rapidfuzz.distance import Levenshtein

from openese.sw.speech.features import with_differences
from openese.sw.speech.phones import collapse, decode
from openese.sw.speech.recognizer import DELAY, delayed

__all__ = ["Score", "compare", "edits", "frames_of", "score"]


@dataclass(frozen=True)
class Score:
    """The scores of a test.

    Attributes
    ----------
    frames : float
        The share of frames whose largest logit is right.
    errors : float
        The phone error rate (edits by phones, without silence) of the frames' largest logits.
    decoded : float
        The phone error rate of the decoded path.
    phones : int
        The number of phones.
    """

    frames: float
    errors: float
    decoded: float
    phones: int


def frames_of(utterances):
    """Return the network's inputs (T + DELAY, 153) for each utterance."""
    return [delayed(with_differences(values.astype(np.float32))) for values in utterances.values]


def score(logits, phones, penalty):
    """Return the `Score` of each utterance's logits (T + DELAY, 40) against its phones (T,)."""
    right = frames = wrong = 0
    for answers, truth in zip(logits, phones, strict=True):
        largest = answers[DELAY:].argmax(axis=1)
        right += int(np.count_nonzero(largest == truth))
        frames += len(truth)
        wrong += Levenshtein.distance(collapse(largest), collapse(truth))
    decoded, counts = _edits(logits, phones, penalty)
    total = int(counts.sum())
    return Score(right / frames, wrong / total, int(decoded.sum()) / total, total)


def edits(logits, phones, penalties):
    """Return the edits (P, N) of each utterance's decoded path with each penalty, and its number of phones (N,)."""
    spoken = [collapse(truth) for truth in phones]
    distances = [[Levenshtein.distance(collapse(path), right) for path in decode(answers[DELAY:], penalties)]
                 for answers, right in zip(logits, spoken, strict=True)]
    return np.array(distances).T, np.array(list(map(len, spoken)))


def _edits(logits, phones, penalty):
    """Return the edits (N,) with one penalty, and the numbers of phones (N,)."""
    (distances,), counts = edits(logits, phones, [penalty])
    return distances, counts


def compare(logits, others, phones, penalties):
    """Compare the phone error rates of two networks' decoded paths on the same utterances.

    Parameters
    ----------
    logits, others : list of ndarray, (T + DELAY, 40)
        The logits of the first and of the second network.
    phones : list of ndarray, (T,)
    penalties : (float, float)
        The decoder penalty of each network.

    Returns
    -------
    dict
        ``phones``, the number of phones; ``errors``, both phone error rates; ``more``, the second rate minus the
        first; ``deviation``, the standard error of ``more`` over the utterances.
    """
    (first, counts), (second, _) = (
        _edits(answers, phones, penalty) for answers, penalty in zip((logits, others), penalties, strict=True))
    total = int(counts.sum())
    more = (second.sum() - first.sum()) / total
    spread = np.sqrt(np.sum((second - first - more * counts) ** 2)) / total
    return {"phones": total, "errors": [float(wrong.sum() / total) for wrong in (first, second)], "more": float(more),
            "deviation": float(spread)}
