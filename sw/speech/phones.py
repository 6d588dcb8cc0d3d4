# SPDX-License-Identifier: Apache-2.0
"""The 40 phones (silence and the 39 of the CMU dictionary), and the decoder that finds them in frames."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["PHONES", "SILENCE", "collapse", "decode"]

SILENCE = "SIL"
PHONES = (SILENCE, "AA", "AE", "AH", "AO", "AW", "AY", "B", "CH", "D", "DH", "EH", "ER", "EY", "F", "G", "HH", "IH",
          "IY", "JH", "K", "L", "M", "N", "NG", "OW", "OY", "P", "R", "S", "SH", "T", "TH", "UH", "UW", "V", "W", "Y",
          "Z", "ZH")


def collapse(frames: NDArray[np.integer]) -> list[int]:
    """Return the phones of frames (T,): equal neighbours become one phone, and silence is dropped."""
    changes = np.flatnonzero(np.diff(frames, prepend=-1))
    return [int(phone) for phone in frames[changes] if PHONES[phone] != SILENCE]


def decode(logits: NDArray[np.floating], penalty: ArrayLike = 0.0) -> NDArray[np.intp]:
    """Return the phone of each frame on the path with the largest sum of logits minus penalties.

    Each change of phone costs the same penalty; there is no language model. With penalty zero, each frame has its
    largest logit.

    Parameters
    ----------
    logits : float (T, phones)
        Logarithms of the posteriors, with any constant added to a frame.
    penalty : float or array (...)
        The cost of a change of phone, in nats. An array gives one path for each of its elements.

    Returns
    -------
    intp (..., T)
        Indices into `PHONES`.
    """
    costs = np.asarray(penalty, np.float64)[..., None]
    steps, phones = logits.shape
    stay = np.arange(phones)
    origin = np.empty((steps, *costs.shape[:-1], phones), np.intp)
    score = np.zeros((*costs.shape[:-1], phones))
    for t in range(steps):
        best = score.argmax(axis=-1, keepdims=True)
        changed = score.max(axis=-1, keepdims=True) - costs
        origin[t] = np.where(score >= changed, stay, best)
        score = np.maximum(score, changed) + logits[t]
    path = np.empty((steps, *costs.shape[:-1]), np.intp)
    last = score.argmax(axis=-1)
    for t in range(steps - 1, -1, -1):
        path[t] = last
        last = np.take_along_axis(origin[t], last[..., None], axis=-1)[..., 0]
    return np.moveaxis(path, 0, -1)
