# SPDX-License-Identifier: Apache-2.0
"""Random PyTorch networks with LSTMs and GRUs: what people put before, between and behind them."""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn.utils import rnn

__all__ = ["Block", "Case", "flat", "random_network"]

SIZE = 6  # of everything between the layers, so that they can be put together in any order


class Case(NamedTuple):
    """A network, the inputs of two calls, and words for what is in it."""

    network: nn.Module
    inputs: dict
    longer: dict
    features: frozenset


def flat(outputs):
    """The tensors in outputs of any structure."""
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    if isinstance(outputs, dict):
        outputs = list(outputs.values())
    return [tensor for output in outputs for tensor in flat(output)] if isinstance(outputs, (list, tuple)) else []


class Block(nn.Module):
    """The block of a CRNN: an LSTM both ways, and a linear layer on all frames of all voices as one batch."""

    def __init__(self, inputs, cells, outputs):
        super().__init__()
        self.rnn, self.embedding = nn.LSTM(inputs, cells, bidirectional=True), nn.Linear(2 * cells, outputs)

    def forward(self, x):
        y = self.rnn(x)[0]
        steps, voices, size = y.size()
        return self.embedding(y.view(steps * voices, size)).view(steps, voices, -1)


class Recurrent(nn.Module):
    """An LSTM or GRU of any kind, and a linear layer back to `SIZE`."""

    def __init__(self, batch_first, packed, gru, **options):
        super().__init__()
        self.packed, self.gru = packed, gru
        self.lstm = (nn.GRU if gru else nn.LSTM)(SIZE, 7, batch_first=batch_first, **options)
        wide = (options.get("proj_size") or 7) * (1 + self.lstm.bidirectional)
        self.back = nn.Linear(wide, SIZE)

    def forward(self, x, lengths=None, state=None):
        if self.packed and lengths is not None:
            first = self.lstm.batch_first
            packed = rnn.pack_padded_sequence(x, lengths, first, enforce_sorted=False)
            y, state = self.lstm(packed, state)
            y = rnn.pad_packed_sequence(y, first, total_length=x.shape[1 if first else 0])[0]
        else:
            y, state = self.lstm(x, state)
        return self.back(y), state


class Cells(nn.Module):
    """A loop over time around a cell."""

    def __init__(self, batch_first, bias, gru):
        super().__init__()
        self.time, self.gru = 1 if batch_first else 0, gru
        self.cell, self.back = (nn.GRUCell if gru else nn.LSTMCell)(SIZE, 5, bias=bias), nn.Linear(5, SIZE)

    def forward(self, x, lengths=None, state=None):
        outputs, held = [], None
        for frame in x.unbind(self.time):
            held = self.cell(frame, held)
            outputs.append(self.back(held if self.gru else held[0]))
        return torch.stack(outputs, self.time), held


class Between(nn.Module):
    """A layer between LSTMs."""

    def __init__(self, kind, batch_first):
        super().__init__()
        self.kind, self.time = kind, 1 if batch_first else 0
        if kind in ("linear", "relu", "residual", "concat"):
            self.layer = nn.Linear(2 * SIZE if kind == "concat" else SIZE, SIZE)
        elif kind == "norm":
            self.layer = nn.LayerNorm(SIZE)
            nn.init.uniform_(self.layer.weight, 0.5, 2)
        elif kind == "batch norm":
            self.layer = nn.BatchNorm1d(SIZE)
            self.layer.running_mean.normal_()
            self.layer.running_var.uniform_(0.5, 2)
        elif kind == "convolution":
            self.layer = nn.Conv1d(SIZE, SIZE, 3, padding=1)
        elif kind == "gru":
            self.layer = nn.GRU(SIZE, SIZE, batch_first=batch_first)
        elif kind == "dropout":
            self.layer = nn.Dropout(0.5)
        elif kind == "attention":
            self.layer = nn.Linear(SIZE, 1)

    def forward(self, x):
        kind = self.kind
        if kind == "residual":
            return x + self.layer(x).tanh()
        if kind == "concat":
            return self.layer(torch.cat([x, x.sin()], -1))
        if kind == "relu":
            return self.layer(x).relu()
        if kind in ("batch norm", "convolution"):
            first = x if self.time else x.transpose(0, 1)
            y = self.layer(first.transpose(1, 2)).transpose(1, 2)
            return y if self.time else y.transpose(0, 1)
        if kind == "gru":
            return self.layer(x)[0]
        if kind == "flip":
            return x.flip(self.time)
        if kind == "attention":
            return x * self.layer(x).softmax(self.time)
        if kind == "view":
            a, b, c = x.size()
            return x.reshape(a * b, c).mul(2).view(a, b, -1)
        return self.layer(x)


KINDS = ("linear", "relu", "residual", "concat", "norm", "batch norm", "convolution", "gru", "dropout", "flip",
         "attention", "view")


class Network(nn.Module):
    """A front, recurrent layers with others between, and a head."""

    def __init__(self, blocks, head, batch_first, with_state, as_dict):
        super().__init__()
        self.front, self.blocks, self.out = nn.Linear(4, SIZE), nn.ModuleList(blocks), nn.Linear(SIZE, 3)
        self.head, self.time, self.with_state, self.as_dict = head, 1 if batch_first else 0, with_state, as_dict

    def forward(self, x, lengths=None, h=None, c=None):
        y, last, first = self.front(x).relu(), None, True
        for block in self.blocks:
            if isinstance(block, (Recurrent, Cells)):
                given = h if block.gru else (h, c)
                y, last = block(y, lengths, given if first and h is not None else None)
                first = False
            else:
                y = block(y)
        if self.head == "last":
            y = y.select(self.time, -1)
        elif self.head == "mean":
            y = y.mean(self.time)
        elif self.head == "max":
            y = y.amax(self.time)
        y = self.out(y)
        if not self.with_state:
            return y
        states = last if isinstance(last, tuple) else (last,)  # of a GRU h alone
        return {"y": y, **dict(zip("hc", states, strict=False))} if self.as_dict else (y, last)


def random_network(seed, grus=False):
    """A network of a seed, in evaluation mode; ``grus``: with GRUs for all LSTMs."""
    torch.manual_seed(seed)

    def choose(*values):
        return values[int(torch.randint(len(values), ()))]

    batch_first, packed = choose(False, True), choose(False, False, False, True)
    features, blocks = {"batch first" if batch_first else "time first"}, []
    for _ in range(choose(1, 1, 2, 3)):
        while choose(False, True):
            kind = choose(*KINDS)
            features.add(kind)
            blocks.append(Between(kind, batch_first))
        if choose(*[False] * 4, True):
            gru = choose(False, True) or grus
            features.add("GRU cell" if gru else "cell")
            blocks.append(Cells(batch_first, choose(False, True), gru))
            continue
        options = {"num_layers": choose(1, 1, 2), "bidirectional": choose(False, False, True),
                   "bias": choose(True, True, True, False), "proj_size": choose(*[0] * 9, 4)}
        gru = choose(False, False, True) or grus
        if gru:
            features.add("GRU")
            del options["proj_size"]
        usual = {"num_layers": 1, "bidirectional": False, "bias": True, "proj_size": 0}
        features |= {name for name, value in options.items() if value != usual[name]}
        blocks.append(Recurrent(batch_first, packed, gru, **options))
    if choose(False, True):
        kind = choose(*KINDS)
        features.add(kind)
        blocks.append(Between(kind, batch_first))
    packed = packed and any(isinstance(block, Recurrent) for block in blocks)
    head, with_state = choose("all", "last", "mean", "max"), choose(False, True)
    features.add(f"head on {head}")
    network = Network(blocks, head, batch_first, with_state, choose(False, True)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)
    first = next(block for block in blocks if isinstance(block, (Recurrent, Cells)))
    given = isinstance(first, Recurrent) and choose(False, False, True)

    def inputs(steps, voices):
        called = {"x": torch.randn(*((voices, steps) if batch_first else (steps, voices)), 4)}
        if packed:
            called["lengths"] = torch.randint(1, steps + 1, (voices,))
            called["lengths"][0] = steps
        if given:
            lstm = first.lstm
            count = lstm.num_layers * (1 + lstm.bidirectional)
            called["h"] = torch.rand(count, voices, lstm.proj_size or 7) - 0.5
            if not first.gru:
                called["c"] = torch.randn(count, voices, 7)
        return called

    words = {"packed": packed, "states in": given, "states out": with_state}
    features |= {word for word, there in words.items() if there}
    return Case(network, inputs(choose(5, 8), choose(1, 2, 3)), inputs(9, 4), frozenset(features))
