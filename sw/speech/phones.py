# SPDX-License-Identifier: Apache-2.0
"""The phones: silence and the 39 of the CMU dictionary, and how frames become a sequence of them."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["PHONES", "SILENCE", "collapse", "decode"]

SILENCE = "SIL"
PHONES = (SILENCE, "AA", "AE", "AH", "AO", "AW", "AY", "B", "CH", "D", "DH", "EH", "ER", "EY", "F", "G", "HH", "IH",
          "IY", "JH", "K", "L", "M", "N", "NG", "OW", "OY", "P", "R", "S", "SH", "T", "TH", "UH", "UW", "V", "W", "Y",
          "Z", "ZH")


def collapse(frames: NDArray[np.integer]) -> list[int]:
    """The phones of frames (T,): runs of the same become one, silence is left out."""
    changes = np.flatnonzero(np.diff(frames, prepend=-1))
    return [int(phone) for phone in frames[changes] if PHONES[phone] != SILENCE]


def decode(logits: NDArray[np.floating], penalty: float = 0.0) -> NDArray[np.intp]:
    """The phone of each frame: the path of largest sum, less ``penalty`` for each change of phone.

    No language model: every change costs the same. Without a penalty it is each frame's largest.

    Parameters
    ----------
    logits : (T, phones)
        Logarithms of the posteriors, up to a constant for each frame.
    penalty : float
        In nats.

    Returns
    -------
    intp (T,)
    """
    steps, phones = logits.shape
    stay = np.arange(phones)
    origin = np.empty((steps, phones), np.intp)
    score = np.zeros(phones)
    for t in range(steps):
        best = int(np.argmax(score))
        origin[t] = np.where(score >= score[best] - penalty, stay, best)
        score = np.maximum(score, score[best] - penalty) + logits[t]
    path = np.empty(steps, np.intp)
    last = int(np.argmax(score))
    for t in range(steps - 1, -1, -1):
        path[t] = last
        last = int(origin[t, last])
    return path
