# SPDX-License-Identifier: Apache-2.0
"""The recognizer for training: the paper's cell, and a linear layer that returns the logits of the phones."""

import numpy as np
import torch
from torch import nn

from openese import LSTMP, Dense, Model, Network
from openese.sw.model.layers import read_npz
from openese.sw.model.network import Direction, Stage
from openese.sw.speech.features import FEATURES
from openese.sw.speech.phones import PHONES

__all__ = ["Recognizer", "logits", "save_rounded"]


class Recognizer(nn.Module):
    """153 features -> LSTMP layers with peepholes -> 40 logits.

    Parameters
    ----------
    cells, outputs : int
        H and P of each LSTMP.
    products : torch.dtype
        As for `LSTMP`.
    layers : int
        The number of stacked forward layers.
    both : bool
        Whether a backward LSTMP runs beside a single forward layer.
    """

    def __init__(self, cells, outputs, products=torch.float32, layers=1, both=False):
        super().__init__()
        self.lstm = LSTMP(FEATURES, cells, outputs, products=products)
        self.above = nn.ModuleList(LSTMP(outputs, cells, outputs, products=products) for _ in range(1, layers))
        self.back = nn.ModuleList([LSTMP(FEATURES, cells, outputs, products=products)] if both else [])
        self.head = nn.Linear((1 + both) * outputs, len(PHONES))

    def forward(self, x):
        """Return logits (T, B, 40) for features (T, B, 153); all sequences have the same length."""
        back = [layer(x.flip(0))[0].flip(0) for layer in self.back]
        for layer in (self.lstm, *self.above):
            x, _ = layer(x)
        return self.head(torch.cat([x, *back], dim=-1))

    def _head(self):
        return Dense(weight=self.head.weight.detach().numpy().copy(), bias=self.head.bias.detach().numpy().copy())

    def model(self, name):
        """Return the `Model` of a recognizer without a backward layer."""
        layers = [self.lstm.layer("lstmp"), *(layer.layer(f"lstmp{n}") for n, layer in enumerate(self.above, 1))]
        return Model(layers=tuple(layers), head=self._head(), name=name)

    def network(self, name):
        """Return the `Network` of a recognizer."""
        if not self.back:
            return Network.of(self.model(name))
        ways = ((self.lstm, False), (self.back[0], True))
        directions = [Direction(Model(layers=(layer.layer("lstmp"),), name=f"{name}-{way}"), way)
                      for layer, way in ways]
        return Network(stages=(Stage(tuple(directions)),), head=self._head(), name=name)


@torch.no_grad()
def logits(network, sequences, batch=32):
    """Return the logits (T, 40) of each sequence of features (T, 153); sequences of similar lengths run together.

    The network must not have a backward layer, which would start in the padding.
    """
    order = sorted(range(len(sequences)), key=lambda number: len(sequences[number]))
    results = [None] * len(sequences)
    for first in range(0, len(order), batch):
        numbers = order[first:first + batch]
        padded = np.zeros((len(sequences[numbers[-1]]), len(numbers), FEATURES), np.float32)
        for column, number in enumerate(numbers):
            padded[:len(sequences[number]), column] = sequences[number]
        outputs = network(torch.from_numpy(padded)).numpy()
        for column, number in enumerate(numbers):
            results[number] = outputs[:len(sequences[number]), column]
    return results


def save_rounded(model, path):
    """Write a `Model` in float16, compressed: half the size of `Model.save`, and the same recognition."""
    model.save(path)
    np.savez_compressed(path, **{
        key: array.astype(np.float16) if array.dtype.kind == "f" else array for key, array in read_npz(path).items()})
