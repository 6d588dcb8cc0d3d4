# SPDX-License-Identifier: Apache-2.0
"""How well phones are recognized: right frames, and the edit distance of phone sequences."""

from dataclasses import dataclass

import numpy as np
from rapidfuzz.distance import Levenshtein

from openese.sw.speech.features import with_differences
from openese.sw.speech.phones import collapse, decode
from openese.sw.speech.recognizer import DELAY, delayed

__all__ = ["Score", "compare", "edits", "given", "score"]


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
    right = frames = wrong = 0
    for found, truth in zip(logits, phones, strict=True):
        largest = found[DELAY:].argmax(axis=1)
        right += int(np.count_nonzero(largest == truth))
        frames += len(truth)
        wrong += Levenshtein.distance(collapse(largest), collapse(truth))
    decoded, counts = _decoded(logits, phones, penalty)
    total = int(counts.sum())
    return Score(right / frames, wrong / total, int(decoded.sum()) / total, total)


def edits(logits, phones, penalties):
    """Edits of the decoded path of each utterance with each penalty (P, N), and its phones (N,)."""
    wanted = [collapse(truth) for truth in phones]
    found = [[Levenshtein.distance(collapse(path), right) for path in decode(answers[DELAY:], penalties)]
             for answers, right in zip(logits, wanted, strict=True)]
    return np.array(found).T, np.array(list(map(len, wanted)))


def _decoded(logits, phones, penalty):
    """The same with one penalty: (N,) and (N,)."""
    (found,), counts = edits(logits, phones, [penalty])
    return found, counts


def compare(logits, others, phones, penalties):
    """Phone error rates of two networks' decoded paths on the same utterances, each with a penalty of its own, and how
    well the second's distance from the first is known.

    Returns
    -------
    dict
        ``phones``, their number; ``errors``, of both; ``more``, how many more the second has, as a share of the
        phones; ``deviation``, the standard error of that, over the utterances.
    """
    (ours, counts), (theirs, _) = (
        _decoded(found, phones, penalty) for found, penalty in zip((logits, others), penalties, strict=True))
    total = int(counts.sum())
    more = (theirs.sum() - ours.sum()) / total
    spread = np.sqrt(np.sum((theirs - ours - more * counts) ** 2)) / total
    return {"phones": total, "errors": [float(found.sum() / total) for found in (ours, theirs)], "more": float(more),
            "deviation": float(spread)}
