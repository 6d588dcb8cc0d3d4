# SPDX-License-Identifier: Apache-2.0
"""The interface of a host: a network around its machine parts, in its own runtime."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from openese.sw.model.network import Network
from openese.sw.whole.engine import Engine

__all__ = ["RECURRENT", "Arrays", "Host", "HostError", "Item", "Port", "checked_inputs", "why_no_parts"]

#: Kinds of items that are recurrent, whose place a user wants to know.
RECURRENT = frozenset(["LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "SimpleRNN", "Bidirectional",
                       "com.microsoft.DynamicQuantizeLSTM", "ConvLSTM2D"])

_RUNTIMES = ("keras", "onnxruntime", "PyTorch")  # details of items that have no reason

#: Inputs or outputs of a network, by their names.
Arrays = dict[str, NDArray[Any]]


class HostError(ValueError):
    """A network cannot be run, or its inputs do not fit; the message names the place and says what to do."""


class Port(NamedTuple):
    """An input or output of a network.

    ``type`` is the name of a numpy type, or ``"str"``. ``shape`` has a number for a fixed size, a text or None for a
    free one; it is None where the file does not tell it. An ``optional`` input has a value in the file.
    """

    name: str
    type: str
    shape: tuple[int | str | None, ...] | None
    optional: bool = False

    def text(self) -> str:
        """As people read it: ``x float32 (batch, 40)``."""
        if self.shape is None:
            return f"{self.name} {self.type}"
        sizes = ", ".join("any" if size is None else str(size) for size in self.shape)
        return f"{self.name} {self.type} ({sizes})"


@dataclass(frozen=True)
class Item:
    """A node, layer or tensor of a file, and its place.

    Attributes
    ----------
    name, kind : str
        As the file has them: ``/lstm/LSTM`` and ``LSTM``.
    place : str
        ``machine``, ``folded`` (its arithmetic is in the weights of a machine part), ``host``, ``refused``, or
        ``unused`` (nothing in the file reads it).
    detail : str
        The part, the runtime or the reason.
    """

    name: str
    kind: str
    place: Literal["machine", "folded", "host", "refused", "unused"]
    detail: str = ""


def why_no_parts(items: Iterable[Item]) -> str:
    """Why no item is a machine part: the first reason that an item has."""
    written_out = set()
    for item in items:
        if item.place in ("host", "refused") and item.detail not in ("", *_RUNTIMES):
            return f"{item.kind} {item.name!r}: {item.detail}"
        if item.detail == "onnxruntime":
            written_out.add(item.kind)
    if written_out >= {"Sigmoid", "Tanh"}:
        return ("it has no LSTM or GRU operator; a cell in single operations, also in a Loop or Scan, is not "
                "recognized (nn.LSTMCell, TensorFlow's Masking or unroll=True, JAX): in PyTorch or Keras use "
                "openese.offload; of another framework give the weights to openese.Layer (the guide, 'LSTMs and GRUs "
                "alone', 'From NumPy')")
    return "it has no LSTM or GRU"


class Host(ABC):
    """A whole network whose machine parts are taken out.

    Attributes
    ----------
    kind : str
        Names the class in a saved network.
    runtime : str
        The library that computes all but the parts.
    extra : str
        The extra of ``openese`` that installs it.
    name : str
        Of the network.
    inputs, outputs : tuple of `Port`
    calls : tuple of str
        The names of the parts.
    parts : dict of str to `Network`
        In floating point, by name. Empty after `load`.
    items : tuple of `Item`
        Everything in the file, with its place.
    """

    kind: ClassVar[str]
    runtime: ClassVar[str]
    extra: ClassVar[str]
    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    calls: tuple[str, ...]
    parts: dict[str, Network]
    items: tuple[Item, ...]

    @abstractmethod
    def run(self, inputs: Mapping[str, ArrayLike], engine: Engine) -> Arrays:
        """All outputs by name, with ``engine`` for the parts.

        Raises
        ------
        HostError
            Inputs do not fit, or the runtime fails.
        """

    @abstractmethod
    def original(self, inputs: Mapping[str, ArrayLike]) -> Arrays:
        """All outputs of the file as it is, in its own runtime. Not for a host that `load` returned."""

    @abstractmethod
    def drop_original(self) -> None:
        """Free the memory that `original` takes. A network whose file is gone has no `original` after that."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write into ``folder`` what `load` needs, without the weights of the parts."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, trust: bool = False, parts: Collection[str] = ()) -> "Host":
        """Read what `save` wrote for a network with these ``parts``. With ``trust`` code in it may run.

        Raises
        ------
        HostError
            A file is missing or damaged.
        """


def checked_inputs(ports: tuple[Port, ...], inputs: Mapping[str, ArrayLike]) -> Arrays:
    """The inputs as arrays of the ports' types.

    Raises
    ------
    HostError
        A name is missing or unknown, a shape does not fit, or a type cannot hold the numbers.
    """
    known = [port.name for port in ports]
    for name in inputs:
        if name not in known:
            raise HostError(f"{name!r} is no input of the network; its inputs are "
                            f"{', '.join(port.text() for port in ports)}")
    arrays = {}
    for port in ports:
        if port.name not in inputs and port.optional:
            continue
        if port.name not in inputs:
            raise HostError(f"the input {port.text()} is missing")
        array = np.asarray(inputs[port.name])
        if port.shape is not None and (array.ndim != len(port.shape) or any(
                isinstance(size, int) and size != found for size, found in zip(port.shape, array.shape, strict=True))):
            raise HostError(f"input {port.text()}: found the shape {array.shape}")
        arrays[port.name] = _typed(array, port)
    return arrays


def _typed(array: NDArray[Any], port: Port) -> NDArray[Any]:
    if port.type == "str":
        if array.dtype.kind not in "OUS":
            raise HostError(f"input {port.text()}: expected text, found {array.dtype}")
        return array.astype(object)
    wanted = np.dtype(port.type)
    if array.dtype == wanted:
        return array
    if array.dtype.kind not in "fiub":
        raise HostError(f"input {port.text()}: expected numbers, found {array.dtype}")
    typed = array.astype(wanted)
    if wanted.kind in "iub" and not np.array_equal(typed, array):
        raise HostError(f"input {port.text()}: {array.dtype} numbers do not fit {wanted} without a change")
    return typed
