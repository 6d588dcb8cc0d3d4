# SPDX-License-Identifier: Apache-2.0
"""The recognizer that is shipped: a memory image of the paper's size, and the host's work before and after it.

Beside this file lie ``recognizer.img``, the image of an LSTMP 153/1024/512 with peepholes for preset ``ese``;
``recognizer.npz``, the linear layer after it, ``head.weight`` (40, 512) and ``head.bias`` (40,);
``recognizer.json``, a record of their training, of their errors, and of the head's number formats on a machine with
dense layers; and in a checkout, but not in the installed package, ``dense.npz``, the network of the same size that was
never pruned and trained equally long, rounded to float16.
`examples/recognizer` makes them.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from openese.output import replacing_folder, write_text
from openese.rtl.config import Config
from openese.sw.cycles.model import estimate
from openese.sw.model.arrays import FloatArray
from openese.sw.model.layers import DENSE as DENSE_LAYER
from openese.sw.model.layers import Dense, Model, dense_layer, read_npz
from openese.sw.model.network import Network, Runner
from openese.sw.pack.image import Image, pack
from openese.sw.pack.image import read as read_image
from openese.sw.pack.schedule import schedule
from openese.sw.quantize.choose import dense_in_formats
from openese.sw.run.runners import FloatRunner, Machine, MachineRunner
from openese.sw.speech.features import FEATURES, HOP, RATE, count_windows, features
from openese.sw.speech.phones import PHONES, SILENCE, decode

__all__ = ["CLOCK", "DELAY", "DENSE", "Phone", "Recognizer", "Transcript", "delayed", "side_by_side"]

DELAY = 5  # frames of the future that the network hears: its answers come later by as many
CLOCK = 200e6  # Hz: the paper's
_SHIPPED = Path(__file__).parent
DENSE = _SHIPPED / "dense.npz"  # the network that was not pruned


def delayed(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Features (T, 153) and silence after them, until the last frame is answered: (T + DELAY, 153)."""
    return np.pad(values, ((0, DELAY), (0, 0)))


def side_by_side(sequences: Sequence[NDArray[Any]]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Sequences (T, I) padded to the longest, (T, B, I), and their lengths (B,)."""
    lengths = np.array([len(sequence) for sequence in sequences], np.intp)
    frames = np.zeros((int(lengths.max()), len(sequences), sequences[0].shape[1]))
    for voice, sequence in enumerate(sequences):
        frames[:len(sequence), voice] = sequence
    return frames, lengths


@dataclass(frozen=True)
class Phone:
    """A phone, and its beginning and end in seconds."""

    name: str
    start: float
    stop: float


@dataclass(frozen=True, eq=False)
class Transcript:
    """The phones that were recognized in a recording.

    Attributes
    ----------
    logits : (T, 40)
        The head's outputs: one for each phone, in each frame of 10 ms.
    phones : tuple of `Phone`
        With silence among them.
    """

    logits: FloatArray
    phones: tuple[Phone, ...]

    @property
    def posteriors(self) -> FloatArray:
        """Probability of each phone in each frame (T, 40)."""
        powers = np.exp(self.logits - self.logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    @property
    def text(self) -> str:
        """The phones without silence."""
        return " ".join(phone.name for phone in self.phones if phone.name != SILENCE)


@dataclass(frozen=True, eq=False)
class Recognizer:
    """An image that recognizes phones, with its head and its record.

    Attributes
    ----------
    image : `Image`
    head : `Dense`
        (40, P). The host computes it, or the machine if that has dense layers; see `on`.
    penalty : float
        For `phones.decode`.
    record : dict
        Its training and its errors.
    """

    image: Image
    head: Dense
    penalty: float
    record: dict[str, Any]

    @staticmethod
    def dense(folder: Path = _SHIPPED) -> Model:
        """The network that was not pruned, to compare with.

        Raises
        ------
        ModelError, OSError
            For a file that is missing or damaged.
        """
        return Model.load(folder / "dense.npz")

    @classmethod
    def load(cls, folder: Path = _SHIPPED) -> "Recognizer":
        """The recognizer in a folder; by default the one that is shipped.

        Raises
        ------
        ImageFormatError, ModelError, OSError
            For files that are missing, damaged, or of another version.
        """
        record = json.loads((folder / "recognizer.json").read_text())
        arrays = read_npz(folder / "recognizer.npz")
        head = Dense(weight=arrays["head.weight"], bias=arrays["head.bias"])
        return cls(read_image(folder / "recognizer.img"), head, float(record["penalty"]), record)

    def save(self, folder: Path) -> None:
        """Write the files that `load` reads."""
        arrays: dict[str, Any] = {"head.weight": self.head.weight, "head.bias": self.head.bias}
        with replacing_folder(folder) as beside:
            self.image.save(beside / "recognizer.img")
            np.savez(beside / "recognizer.npz", **arrays)
            write_text(beside / "recognizer.json", json.dumps(self.record, indent=2) + "\n")

    def on(self, config: Config) -> "Recognizer":
        """The recognizer for another machine. On a machine with dense layers, the image gives the logits: the head is
        its last layer.

        Raises
        ------
        CapacityError, QuantizeError
            If the machine cannot hold it, or has other number formats.
        """
        model = self.image.model()
        if config.dense and not self.whole:
            head = dense_in_formats(dense_layer("head", self.head), model.layers[-1].y_fraction, **self.record["head"],
                                    config=config)
            model = dataclasses.replace(model, layers=(*model.layers, head), config=config)
        return Recognizer(pack(schedule(model, config)), self.head, self.penalty, self.record)

    @property
    def whole(self) -> bool:
        """Whether the image has the head too, so that the host does nothing between features and logits."""
        return bool(self.image.part["layers"][-1].get("cell") == DENSE_LAYER.name)

    def cycles_per_step(self) -> int:
        """Cycles in which the machine takes a frame of every voice, by the cycle model."""
        return estimate(schedule(self.image.model(), self.image.config)).cycles_per_step

    @cached_property
    def floating_point(self) -> Model:
        """The model whose weights are exactly those of the image, with the head if the image does not have it."""
        return dataclasses.replace(self.image.model().floating_point(), head=None if self.whole else self.head)

    @staticmethod
    def machine_steps(recordings: Sequence[ArrayLike], channels: int) -> int:
        """Steps in which a machine of so many channels recognizes recordings."""
        lengths = [count_windows(np.size(recording)) + DELAY for recording in recordings]
        return sum(max(lengths[first:first + channels]) for first in range(0, len(lengths), channels))

    def run(self, recordings: Sequence[ArrayLike], machine: Machine,
            advance: Callable[[int], None] = lambda steps: None) -> list[Transcript]:
        """Recognize recordings (samples,) at 16 kHz on a machine with the image in it, side by side on its voices."""
        return self._run(recordings, self.floating_point, MachineRunner(machine, advance), self.penalty)

    @property
    def dense_penalty(self) -> float:
        """The penalty for `dense`, chosen on the same speech as ``penalty``."""
        return float(self.record["penalties"]["dense"])

    def penalty_for(self, model: Model) -> float:
        """The penalty for another network of the same phones: `dense_penalty` if it is not pruned."""
        return self.dense_penalty if all(layer.density > 0.99 for layer in model.layers) else self.penalty

    def run_float(self, recordings: Sequence[ArrayLike], model: Model | None = None,
                  penalty: float | None = None) -> list[Transcript]:
        """Recognize recordings in floating point.

        Parameters
        ----------
        recordings : sequence of array (samples,)
        model : `Model`, optional
            Another network of the same phones than the image's.
        penalty : float, optional
            Another penalty than the image's.

        Raises
        ------
        ValueError
            For a model that takes other features, or gives other outputs than phones.
        """
        model = model or self.floating_point
        outputs = model.outputs if model.head is None else len(model.head.weight)
        if outputs != len(PHONES) or model.inputs != FEATURES:
            raise ValueError(f"model {model.name!r} does not take {FEATURES} features and give {len(PHONES)} phones")
        return self._run(recordings, model, FloatRunner(model), self.penalty if penalty is None else penalty)

    @staticmethod
    def _run(recordings: Sequence[ArrayLike], model: Model, runner: Runner, penalty: float) -> list[Transcript]:
        frames, lengths = side_by_side([delayed(features(recording)) for recording in recordings])
        logits, _ = Network.of(model).run(frames, [runner], lengths)
        return [_transcript(logits[DELAY:length, voice], penalty) for voice, length in enumerate(lengths)]


def _transcript(logits: FloatArray, penalty: float) -> Transcript:
    path = decode(logits, penalty)
    limits = [*np.flatnonzero(np.diff(path, prepend=-1)).tolist(), len(path)]
    return Transcript(logits, tuple(Phone(PHONES[path[first]], first * HOP / RATE, last * HOP / RATE)
                                    for first, last in pairwise(limits)))
