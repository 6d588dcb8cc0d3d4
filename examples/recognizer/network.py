# SPDX-License-Identifier: Apache-2.0
"""The recognizer as it is trained: the paper's cell, and a linear layer that gives the logits of the phones."""

import numpy as np
import torch
from torch import nn

from openese.sw.model.layers import Dense, Model, read_npz
from openese.sw.model.network import Direction, Network, Stage
from openese.sw.speech.features import FEATURES
from openese.sw.speech.phones import PHONES
from openese.sw.training import LSTMP

__all__ = ["Recognizer", "logits", "save_rounded"]


class Recognizer(nn.Module):
    """153 features -> LSTMP with peepholes, one or more on top of each other or two side by side -> 40 logits.

    Parameters
    ----------
    cells, outputs : int
        H and P of each LSTMP.
    products : torch.dtype
        As for `LSTMP`.
    layers : int
    both : bool
        Whether there is a second LSTMP, which hears the sequence back to front; only of one layer.
    """

    def __init__(self, cells, outputs, products=torch.float32, layers=1, both=False):
        super().__init__()
        self.lstm = LSTMP(FEATURES, cells, outputs, products=products)
        self.above = nn.ModuleList(LSTMP(outputs, cells, outputs, products=products) for _ in range(1, layers))
        self.back = nn.ModuleList([LSTMP(FEATURES, cells, outputs, products=products)] if both else [])
        self.head = nn.Linear((1 + both) * outputs, len(PHONES))

    def forward(self, x):
        """Logits (T, B, 40) for features (T, B, 153), sequences of one length."""
        back = [layer(x.flip(0))[0].flip(0) for layer in self.back]
        for layer in (self.lstm, *self.above):
            x, _ = layer(x)
        return self.head(torch.cat([x, *back], dim=-1))

    def _head(self):
        return Dense(weight=self.head.weight.detach().numpy().copy(), bias=self.head.bias.detach().numpy().copy())

    def model(self, name):
        """The model for the machine's software; of what hears in both directions there is only a `network`."""
        layers = [self.lstm.layer("lstmp"), *(layer.layer(f"lstmp{n}") for n, layer in enumerate(self.above, 1))]
        return Model(layers=tuple(layers), head=self._head(), name=name)

    def network(self, name):
        """The same as a `Network`."""
        if not self.back:
            return Network.of(self.model(name))
        ways = ((self.lstm, False), (self.back[0], True))
        directions = [Direction(Model(layers=(layer.layer("lstmp"),), name=f"{name}-{way}"), way)
                      for layer, way in ways]
        return Network(stages=(Stage(tuple(directions)),), head=self._head(), name=name)


@torch.no_grad()
def logits(network, sequences, batch=32):
    """Logits (T, 40) of each sequence of features (T, 153), those of similar lengths side by side; what hears in both
    directions would hear what fills up the shorter ones first."""
    order = sorted(range(len(sequences)), key=lambda number: len(sequences[number]))
    found = [None] * len(sequences)
    for first in range(0, len(order), batch):
        numbers = order[first:first + batch]
        padded = np.zeros((len(sequences[numbers[-1]]), len(numbers), FEATURES), np.float32)
        for column, number in enumerate(numbers):
            padded[:len(sequences[number]), column] = sequences[number]
        given = network(torch.from_numpy(padded)).numpy()
        for column, number in enumerate(numbers):
            found[number] = given[:len(sequences[number]), column]
    return found


def save_rounded(model, path):
    """Write a `Model` in float16, compressed: half of what `Model.save` takes, and as good to listen to."""
    model.save(path)
    np.savez_compressed(path, **{
        key: array.astype(np.float16) if array.dtype.kind == "f" else array for key, array in read_npz(path).items()})
