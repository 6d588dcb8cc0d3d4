# SPDX-License-Identifier: Apache-2.0
"""Training runs that can be resumed, with the same result for the same seed and packages.

A *run* trains a network for a number of updates, from random weights or from the end of another run. The dense and
the sparse networks branch off one run, so all see the same number of frames. On a GPU, the thousands of small kernels
of an update are recorded once as a CUDA graph.
"""

import json
import time
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch.nn.functional import cross_entropy, softmax
from torch.utils.data import DataLoader, Dataset

from examples.recognizer.network import Recognizer
from openese import Pruner
from openese.output import replacing, write_text
from openese.sw.speech.features import STATIC, with_differences
from openese.sw.speech.recognizer import DELAY
from openese.sw.training import fast_products

__all__ = ["MACHINE", "Batches", "Run", "load", "train"]

MACHINE = "ese"

_IGNORED = -100
_SAVE_EVERY = 40  # updates
_CLIP = 1.0  # norm of the gradient
_BETAS = (0.9, 0.98)  # parameters of Adam
_WARM_UP = 50  # updates
_LOADERS = 4  # processes that prepare pieces for a GPU


@dataclass(frozen=True)
class Run:
    """A run of the training.

    Attributes
    ----------
    name : str
    cells, outputs : int
    updates : int
    rate : float
        The learning rate of Adam at the start.
    decay : bool
        Whether the rate falls linearly to zero; else it is constant.
    parent : str, optional
        The run to continue from. Its optimizer continues too, if its rate is constant.
    teacher : str, optional
        The run whose network is the teacher: half of the loss is the labels', half the teacher's (Hinton et al.,
        2015).
    density : float or mapping, optional
        As for `Pruner`; dense by default.
    balanced : bool
    falling : float
        The share of updates in which the density falls.
    stage : int
        The number of runs before this one.
    seed : int
    layers : int
    both : bool
        As for `Recognizer`.
    """

    name: str
    cells: int
    outputs: int
    updates: int
    rate: float
    decay: bool
    parent: str | None = None
    teacher: str | None = None
    density: float | dict | None = None
    balanced: bool = True
    falling: float = 0.4
    stage: int = 0
    seed: int = 1
    layers: int = 1
    both: bool = False


class Batches:
    """Random pieces of utterances, the same for the same seed and update.

    Parameters
    ----------
    sources : sequence of (Utterances, share)
    batch, steps : int
        The number of pieces in a batch, and of frames in a piece.
    """

    def __init__(self, sources, batch, steps):
        self._sources = [utterances for utterances, _ in sources]
        shares = np.array([share for _, share in sources], float)
        self._shares = shares / shares.sum()
        self._weights = []
        for utterances in self._sources:
            lengths = np.array([len(phones) for phones in utterances.phones], float)
            self._weights.append(np.cumsum(lengths) / lengths.sum())
        self._batch, self._steps = batch, steps

    def __call__(self, seed, update):
        """Return features (T, B, 153) and the delayed phones (T, B), which are -100 for frames without a label."""
        rng = np.random.default_rng([seed, update])
        values = np.zeros((self._batch, self._steps, STATIC), np.float32)
        labels = np.full((self._batch, self._steps), _IGNORED)
        for row, source in enumerate(rng.choice(len(self._sources), self._batch, p=self._shares)):
            number = int(np.searchsorted(self._weights[source], rng.random()))
            piece, phones = self._sources[source].values[number], self._sources[source].phones[number]
            start = 0 if rng.random() < 0.2 else int(rng.integers(0, max(1, len(phones) + DELAY - self._steps + 1)))
            part = piece[start:start + self._steps]
            values[row, :len(part)] = part
            spoken = phones[start:start + self._steps - DELAY]
            labels[row, DELAY:DELAY + len(spoken)] = spoken
            self._hide(rng, values[row, :len(part)])
        features = with_differences(values).transpose(1, 0, 2)
        return torch.from_numpy(np.ascontiguousarray(features)), torch.from_numpy(np.ascontiguousarray(labels.T))

    @staticmethod
    def _hide(rng, values):
        """Set some bands, or some frames, to their means."""
        if rng.random() < 0.5:
            first, width = int(rng.integers(0, STATIC - 1)), int(rng.integers(1, 9))
            values[:, first:first + width] = 0
        if rng.random() < 0.3:
            first, width = int(rng.integers(0, len(values))), int(rng.integers(1, 11))
            values[first:first + width] = 0


class _Pieces(Dataset):
    """The pieces of a run, from update ``first`` to the end."""

    def __init__(self, batches, run, first):
        self._batches, self._first, self._left = batches, first, run.updates - first
        # A run gets other pieces than its parent.
        self._seed = run.seed + 1000 * run.stage

    def __len__(self):
        return self._left

    def __getitem__(self, number):
        return self._batches(self._seed, self._first + number)


class _Training:
    """A run in progress."""

    def __init__(self, run, folder, device):
        self.run, self._folder, self._device = run, folder, torch.device(device)
        self._products = fast_products() if self._device.type == "cpu" else torch.bfloat16
        self._graph = None
        torch.manual_seed(run.seed)
        self.network = self._network(run.parent)
        self._optimizer = torch.optim.Adam(self.network.parameters(), lr=run.rate, betas=_BETAS)
        self._warm_up = _WARM_UP
        self._keep_moments()
        self._teacher = None if run.teacher is None else self._network(run.teacher).requires_grad_(False)
        self.pruner = None if run.density is None else Pruner(
            self.network, run.density, MACHINE, balanced=run.balanced, steps=int(run.falling * run.updates))
        self.curve, self.seconds = [], 0.0
        if self._state_file.exists():
            self._resume(_stored(self._state_file))

    def _network(self, name):
        """Return the trained network of a run; without a name, one with random weights."""
        network = Recognizer(self.run.cells, self.run.outputs, self._products, self.run.layers, self.run.both)
        if name is not None:
            network.load_state_dict(_stored(self._folder / f"{name}.pt"))
        return network.to(self._device)

    def _keep_moments(self):
        """Load the optimizer of the parent, if it is saved."""
        moments = self._folder / f"{self.run.parent}.optimizer"
        if self.run.parent is not None and moments.exists():
            self._optimizer.load_state_dict(_stored(moments))
            self._warm_up = 0

    @property
    def _state_file(self):
        return self._folder / f"{self.run.name}.state"

    def _resume(self, state):
        self.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.curve, self.seconds = state["curve"], state["seconds"]
        if self.pruner:
            self.pruner.load_state_dict(state["pruner"])

    def save(self):
        """Save the state for a resumed run."""
        state = {"network": self.network.state_dict(), "optimizer": self._optimizer.state_dict(), "curve": self.curve,
                 "seconds": self.seconds, "pruner": self.pruner.state_dict() if self.pruner else {}}
        _save(state, self._state_file)

    def _rate(self):
        update, run = len(self.curve), self.run
        left = 1 - update / run.updates if run.decay else 1.0
        warm = min(1.0, (update + 1) / self._warm_up) if self._warm_up else 1.0
        return run.rate * left * warm

    def _loss(self, x, labels):
        logits, labels = self.network(x).flatten(0, 1), labels.flatten()
        loss = cross_entropy(logits, labels, ignore_index=_IGNORED)
        if self._teacher is None:
            return loss
        labelled = labels != _IGNORED
        with torch.no_grad():
            targets = softmax(self._teacher(x).flatten(0, 1), dim=-1)
        distances = cross_entropy(logits, targets, reduction="none") * labelled
        return (loss + distances.sum() / labelled.sum()) / 2

    def _gradients(self, x, labels):
        """Compute new gradients, and return the loss."""
        if self._device.type == "cpu":
            self._optimizer.zero_grad()
            loss = self._loss(x, labels)
            loss.backward()
            return loss
        if self._graph is None:
            self._record(x, labels)
        x_buffer, labels_buffer, loss = self._buffers
        x_buffer.copy_(x, non_blocking=True)
        labels_buffer.copy_(labels, non_blocking=True)
        self._graph.replay()
        return loss

    def _record(self, x, labels):
        """Record the forward and backward pass of one update as a CUDA graph."""
        x_buffer, labels_buffer = x.to(self._device), labels.to(self._device)
        parameters = list(self.network.parameters())
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # libraries choose their algorithms before the recording
            torch.autograd.grad(self._loss(x_buffer, labels_buffer), parameters)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        # Nodes that accumulate gradients stay in the stream of their first use, so this is the same stream.
        with torch.cuda.graph(self._graph, stream=side):
            loss = self._loss(x_buffer, labels_buffer)
            gradients = torch.autograd.grad(loss, parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient  # each replay writes there
        self._buffers = x_buffer, labels_buffer, loss.detach()

    def update(self, x, labels):
        """Make one step of the optimizer."""
        began = self._now()
        self._optimizer.param_groups[0]["lr"] = self._rate()
        loss = self._gradients(x, labels)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), _CLIP)
        self._optimizer.step()
        if self.pruner:
            self.pruner.step()
        self.curve.append(loss.item())
        self.seconds += self._now() - began

    def _now(self):
        """Return seconds: processor time on a CPU, elapsed time on a GPU."""
        return time.process_time() if self._device.type == "cpu" else time.perf_counter()

    def finish(self):
        """Make masks permanent, and write the network and the record of its training."""
        if self.pruner:
            self.pruner.make_permanent()
        name = "cpu" if self._device.type == "cpu" else torch.cuda.get_device_name(self._device)
        record = {"run": asdict(self.run), "device": name, "products": str(self._products).removeprefix("torch."),
                  "seconds": round(self.seconds), "curve": [round(loss, 4) for loss in self.curve]}
        write_text(self._folder / f"{self.run.name}.json", json.dumps(record) + "\n")
        if not self.run.decay:
            state = self._optimizer.state_dict()
            _save(state, self._folder / f"{self.run.name}.optimizer")
        _save(self.network.cpu().state_dict(), self._folder / f"{self.run.name}.pt")
        self._state_file.unlink()


def load(run, folder):
    """Return the trained network of a run, and the record of its training.

    Raises
    ------
    FileNotFoundError
        If the run is not finished.
    """
    network = Recognizer(run.cells, run.outputs, layers=run.layers, both=run.both)
    network.load_state_dict(_stored(folder / f"{run.name}.pt"))
    return network, json.loads((folder / f"{run.name}.json").read_text())


def train(run, folder, batches, advance=lambda updates, loss: None, device="cpu"):
    """Train a run, or continue an interrupted one; a finished run is left alone.

    Parameters
    ----------
    run : `Run`
    folder : Path
        The folder for the states of this run and its parent.
    batches : `Batches`
    advance : callable
        Called with the number of updates done and the last loss.
    device : str
        ``cpu`` or ``cuda``; either can continue a run of the other.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / f"{run.name}.pt").exists():
        return
    training = _Training(run, folder, device)
    pieces = _Pieces(batches, run, len(training.curve))
    loaders = {} if device == "cpu" else {"num_workers": _LOADERS, "pin_memory": True, "prefetch_factor": 8}
    for x, labels in DataLoader(pieces, batch_size=None, **loaders):
        training.update(x, labels)
        advance(len(training.curve), training.curve[-1])
        if len(training.curve) % _SAVE_EVERY == 0:
            training.save()
    training.save()
    training.finish()


def _stored(path):
    return torch.load(path, weights_only=True, map_location="cpu")


def _save(state, path):
    """Write a file of PyTorch completely or not at all."""
    with replacing(path) as file:
        torch.save(state, file)
