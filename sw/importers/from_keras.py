# SPDX-License-Identifier: Apache-2.0
"""Import Keras models from ``.keras`` archives and whole-model ``.h5`` files, without Keras.

Both hold the layers' configuration as JSON and the weights as HDF5. The importer reads nothing else and never runs
custom objects or lambdas. (The HDF5 library may hang on a file that was damaged on purpose.) Keras has the gate order
i, f, c, o along the last axis, kernels (I, 4H) and (H, 4H), and one bias (4H,).
"""

import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from openese.sw.importers.assembly import Linear, Part, Recurrent, Stack, Track
from openese.sw.importers.base import LIMIT, Entry, Importer, ImportRefused, Source, open_zip, read_member, require
from openese.sw.model.arrays import FloatArray
from openese.sw.model.layers import Dense, Layer

__all__ = ["IMPORTER", "cell_problem", "keras_layer"]

_MODELS = ("Sequential", "Functional", "Model")
_PASSING = ("InputLayer", "Dropout", "SpatialDropout1D", "GaussianNoise", "GaussianDropout", "Masking")
_OTHERS = re.compile(r"GRU|SimpleRNN|ConvLSTM|CuDNN|RNN|LSTM")


class _Weights:
    """The arrays of an HDF5 file; links and data outside of the file are refused."""

    def __init__(self, file: Any, h5py: Any, name: str) -> None:
        self._file, self._h5py, self._name = file, h5py, name

    def group(self, path: str) -> Any:
        """Return the group or dataset at ``path``; only hard links are followed."""
        try:
            return self._follow(path)
        except (RuntimeError, KeyError, OSError, UnicodeDecodeError) as error:
            raise ImportRefused(f"{self._name}: {path!r} is damaged ({error})") from None

    def _follow(self, path: str) -> Any:
        here = self._file
        for step in path.split("/"):
            if not isinstance(here, self._h5py.Group) or step not in here:
                raise ImportRefused(f"{self._name}: no weights at {path!r}")
            if not isinstance(here.get(step, getlink=True), self._h5py.HardLink):
                raise ImportRefused(f"{self._name}: {path!r} links to another place; links are not followed")
            here = here[step]
        return here

    def array(self, path: str) -> FloatArray:
        data = self.group(path)
        if not isinstance(data, self._h5py.Dataset) or data.external or data.is_virtual:
            raise ImportRefused(f"{self._name}: {path!r} is not an array in the file itself; other files are not read")
        if data.dtype.kind != "f":
            raise ImportRefused(f"{self._name}: {path!r} has type {data.dtype}, not floating point; "
                                f"import the model before it is quantized")
        if data.size * 8 > LIMIT:
            raise ImportRefused(f"{self._name}: {path!r} has shape {data.shape}; at most {LIMIT // 8:,} numbers "
                                f"are read")
        try:
            array: FloatArray = data[()]
        except (RuntimeError, OSError, ValueError) as error:
            raise ImportRefused(f"{self._name}: {path!r} is damaged ({error})") from None
        return array if array.dtype == np.float64 else array.astype(np.float32)

    def vars(self, path: str) -> list[FloatArray]:
        """Return the numbered arrays in group ``path`` of a ``.keras`` file."""
        return [self.array(f"{path}/{name}") for name in sorted(self.group(path), key=int)]

    def named(self, layer: str) -> list[FloatArray]:
        """Return the arrays of ``layer`` in a ``.h5`` file, in the order of its list."""
        group = self.group(f"model_weights/{layer}")
        try:
            names = list(group.attrs["weight_names"])
        except (RuntimeError, OSError) as error:
            raise ImportRefused(f"{self._name}: {layer!r} is damaged ({error})") from None
        return [self.array(f"model_weights/{layer}/{name.decode() if isinstance(name, bytes) else name}")
                for name in names]


@dataclass(frozen=True)
class _Node:
    """A layer: its configuration, the layers that feed it, and the HDF5 group of its weights."""

    name: str
    kind: str
    config: Mapping[str, Any]
    feeds_from: tuple[str, ...]
    group: str

    @property
    def inner(self) -> "_Node":
        """The layer inside a TimeDistributed wrapper; another layer is its own inner layer."""
        if self.kind != "TimeDistributed":
            return self
        layer = self.config["layer"]
        return _Node(self.name, layer["class_name"], layer["config"], self.feeds_from, f"{self.group}/layer")

    @property
    def dense(self) -> bool:
        return self.inner.kind == "Dense"

    @property
    def linear(self) -> bool:
        return self.dense and _called(self.inner.config.get("activation")) == "linear"


def _called(function: Any) -> str:
    """Return the name of an activation, which Keras writes as a string or as an object."""
    if function is None:
        return "linear"
    if isinstance(function, str):
        return function
    held = function.get("config")
    return held if isinstance(held, str) else str(function.get("class_name"))


def _cells(node_kind: str, config: Mapping[str, Any], group: str) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Yield the configuration and the weights' group of each LSTM cell in an LSTM or RNN layer."""
    if node_kind == "LSTM":
        yield config, f"{group}/cell"
        return
    cell: Mapping[str, Any] = config["cell"] if node_kind == "RNN" else {"class_name": node_kind}
    if cell["class_name"] == "LSTMCell":
        yield cell["config"], f"{group}/cell"
    elif cell["class_name"] == "StackedRNNCells":
        for number, inner in enumerate(cell["config"]["cells"]):
            if inner["class_name"] != "LSTMCell":
                raise ImportRefused(f"a {inner['class_name']} is not an LSTM cell, and the machine does not compute it")
            yield inner["config"], f"{group}/cell/cells/lstm_cell{f'_{number}' if number else ''}"
    else:
        raise ImportRefused(f"a {cell['class_name']} is not an LSTM cell, and the machine does not compute it")


def _ways(node: _Node) -> list[tuple[str, Mapping[str, Any], str, bool]]:
    """Return kind, configuration and weights' group of each direction, and whether it runs backwards."""
    if node.kind != "Bidirectional":
        return [(node.kind, node.config, node.group, node.config.get("go_backwards") is True)]
    if node.config.get("merge_mode") != "concat":
        raise ImportRefused(f"merge_mode {node.config.get('merge_mode')!r} is not supported; only 'concat' is")
    forward = node.config["layer"]
    backward = node.config.get("backward_layer") or forward
    if forward["config"].get("go_backwards") is True:
        raise ImportRefused("go_backwards in the forward layer of a Bidirectional layer is not supported")
    return [(forward["class_name"], forward["config"], f"{node.group}/forward_layer", False),
            (backward["class_name"], backward["config"], f"{node.group}/backward_layer", True)]


def cell_problem(config: Mapping[str, Any]) -> str | None:
    """Why the machine does not compute an LSTM cell with this configuration; None if it does."""
    for key, computed in (("activation", "tanh"), ("recurrent_activation", "sigmoid")):
        found = _called(config.get(key))
        if found != computed:
            return f"{key} {found!r}: the machine computes only {computed!r} there"
    return None


def keras_layer(name: str, kernel: FloatArray, recurrent: FloatArray, bias: FloatArray | None = None) -> Layer:
    """The layer with the weights of an LSTM cell of Keras: kernels (I, 4H) and (H, 4H), and a bias (4H,).

    Raises
    ------
    ImportRefused
        A shape is another one.
    """
    cells = recurrent.shape[0]
    if kernel.ndim != 2 or kernel.shape[1] != 4 * cells or recurrent.shape != (cells, 4 * cells):
        raise ImportRefused(f"kernels: expected shapes (I, 4H) and (H, 4H), found {kernel.shape} and {recurrent.shape}")
    if bias is None:
        bias = np.zeros(4 * cells, kernel.dtype)
    if bias.shape != (4 * cells,):
        raise ImportRefused(f"bias: expected shape ({4 * cells},), found {bias.shape}")
    return Layer(name=name, w_x=kernel.T.reshape(4, cells, -1), w_r=recurrent.T.reshape(4, cells, cells),
                 bias=bias.reshape(4, cells))


def _problem(node: _Node) -> str | None:
    try:
        for kind, config, group, _ in _ways(node):
            for cell, _ in _cells(kind, config, group):
                problem = cell_problem(cell)
                if problem is not None:
                    return problem
    except ImportRefused as error:
        return str(error)
    return None


class _KerasSource(Source):
    """The layers of a Keras model.

    Parameters
    ----------
    path : Path
    model : mapping
        The model's configuration, ``class_name`` and ``config``.
    weights : _Weights
    named : bool
        Whether the weights have layer names, as in ``.h5``, or class names, as in ``.keras``.
    """

    expected = "a layer of class LSTM, Bidirectional(LSTM), or RNN with LSTMCell"

    def __init__(self, path: Path, model: Mapping[str, Any], weights: _Weights, named: bool) -> None:
        self.path = path
        self._weights = weights
        self._named = named
        self._nodes = {node.name: node for node in _nodes(model, "", "")}
        self._lstms = [node for node in self._nodes.values() if _is_recurrent(node)]
        self._entries = self._list_entries()

    def entries(self) -> list[Entry]:
        return self._entries

    def _list_entries(self) -> list[Entry]:
        entries = []
        for node in self._nodes.values():
            if node in self._lstms:
                entries.append(Entry(node.name, node.kind, _summary(node), _problem(node)))
            elif node.dense and self._predecessor(node) is not None:
                entries.append(Entry(node.name, "Dense", f"{node.inner.config.get('units')} outputs, "
                                                         f"{_called(node.inner.config.get('activation'))}"))
            elif _OTHERS.search(node.kind):
                entries.append(Entry(node.name, node.kind, problem=f"a {node.kind} is not an LSTM, and the machine "
                                                                   f"does not compute it"))
        return entries

    def default(self) -> list[str]:
        starts = [node for node in self._lstms if self._predecessor(node) is None]
        if len(starts) != 1:
            return []
        chain = [starts[0]]
        while True:
            after = self._successors(chain[-1])
            if len(after) != 1 or not (after[0] in self._lstms or after[0].dense):
                break
            chain.append(after[0])
            if after[0].dense and not after[0].linear:
                break
        return [node.name for node in chain] if all(node in chain for node in self._lstms) else []

    def parts(self, names: Sequence[str]) -> list[Part]:
        return [self._part(self._nodes[name]) for name in names]

    def _successors(self, node: _Node) -> list[_Node]:
        """Return the layers that read this one's output, directly or through layers that pass it on."""
        successors = []
        for other in self._nodes.values():
            if other.feeds_from[:1] == (node.name,):
                successors += self._successors(other) if other.kind in _PASSING else [other]
        return successors

    def _predecessor(self, node: _Node) -> _Node | None:
        """Return the LSTM or linear layer whose output this one reads."""
        before = self._nodes[node.feeds_from[0]] if node.feeds_from else None
        if before is None or before in self._lstms:
            return before
        if before.linear:
            return before if self._predecessor(before) is not None else None
        return self._predecessor(before) if before.kind in _PASSING else None

    def _part(self, node: _Node) -> Part:
        try:
            if node.dense:
                return self._dense(node)
            row = tuple(self._stack(node, number) for number in range(len(_ways(node))))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
            raise ImportRefused(f"{self.path.name}: {node.kind} {node.name!r}: {_reason(error)}") from None
        return Recurrent(node.name, (row,), tuple(_notes(node)))

    def _stack(self, node: _Node, number: int) -> Stack:
        kind, config, group, reverse = _ways(node)[number]
        cells = list(_cells(kind, config, group))
        places = [self._arrays(node, place, cell, number, n) for n, (cell, place) in enumerate(cells)]
        return tuple(Track(keras_layer(node.name if len(cells) == 1 else f"{node.name}.{n}", *arrays), reverse)
                     for n, arrays in enumerate(places))

    def _arrays(self, node: _Node, place: str, cell: Mapping[str, Any], way: int, n: int) -> list[FloatArray]:
        count = 3 if cell.get("use_bias", True) else 2
        if not self._named:
            return self._weights.vars(f"{place}/vars")[:count]
        arrays = self._weights.named(node.name)
        start = way * len(arrays) // len(_ways(node)) + n * count
        return arrays[start:start + count]

    def _dense(self, node: _Node) -> Linear:
        arrays = (self._weights.named(node.name) if self._named
                  else self._weights.vars(f"{node.inner.group}/vars"))
        activation = _called(node.inner.config.get("activation"))
        bias = arrays[1] if len(arrays) > 1 else np.zeros(arrays[0].shape[-1], arrays[0].dtype)
        return Linear(node.name, Dense(weight=arrays[0].T, bias=bias),
                      activation=None if activation == "linear" else activation)


def _is_recurrent(node: _Node) -> bool:
    layer = node.config.get("layer", {}).get("class_name", "") if node.kind == "Bidirectional" else node.kind
    if layer != "RNN":
        return layer == "LSTM"
    config = node.config["layer"]["config"] if node.kind == "Bidirectional" else node.config
    return config.get("cell", {}).get("class_name") in ("LSTMCell", "StackedRNNCells")


def _summary(node: _Node) -> str:
    try:
        ways = _ways(node)
        units = [cell.get("units") for cell, _ in _cells(*ways[0][:3])]
    except ImportRefused:
        return ""
    text = " -> ".join(f"{n} cells" for n in units)
    if len(ways) == 2:
        return f"{text}, bidirectional"
    return text + (", backwards" if ways[0][3] else "")


def _notes(node: _Node) -> list[str]:
    notes = []
    for kind, config, group, reverse in _ways(node):
        dropouts = [cell.get(key, 0) for cell, _ in _cells(kind, config, group)
                    for key in ("dropout", "recurrent_dropout")]
        if any(dropouts):
            notes.append(f"{node.name}: dropout {max(dropouts):g} is ignored; it acts only in training")
        if node.kind != "Bidirectional" and reverse:
            notes.append(f"{node.name}: go_backwards: outputs are in the order of the inputs; "
                         f"Keras returns them in reverse order")
        if config.get("return_sequences") is False:
            notes.append(f"{node.name}: return_sequences=False is ignored; outputs are for all frames, and Keras "
                         f"returns the last output of each direction")
        if config.get("stateful") is True:
            notes.append(f"{node.name}: stateful is ignored; every run starts with zero state, unless you pass "
                         f"Network.run(..., initial=...) in Python")
    return list(dict.fromkeys(notes))


def _nodes(model: Mapping[str, Any], prefix: str, group: str) -> Iterator[_Node]:
    """Yield all layers of a model, also of nested models, whose layers have the model's name in front."""
    config = model["config"]
    layers = config if isinstance(config, list) else config["layers"]
    used: dict[str, int] = {}
    before: tuple[str, ...] = ()
    for layer in layers:
        kind, name = layer["class_name"], prefix + layer["config"]["name"]
        stem = _snake_case(kind)
        used[stem] = used.get(stem, -1) + 1
        place = f"{group}layers/{stem}{f'_{used[stem]}' if used[stem] else ''}"
        if "inbound_nodes" in layer:
            feeds = tuple(prefix + source for source in _sources(layer["inbound_nodes"]))
        else:
            feeds = before
        if kind in _MODELS:
            yield from _nodes(layer, f"{name}/", f"{place}/")
        yield _Node(name, kind, layer["config"], feeds, place)
        before = (name,)


def _sources(inbound: Any) -> Iterator[str]:
    """Yield the names of the layers that feed a layer, from Keras 3 objects or Keras 2 lists."""
    if isinstance(inbound, dict):
        history = inbound.get("config", {}).get("keras_history") if "class_name" in inbound else None
        if history:
            yield str(history[0])
        else:
            for key, value in inbound.items():
                if key != "kwargs" or isinstance(value, dict):
                    yield from _sources(value)
    elif isinstance(inbound, list):
        if len(inbound) >= 3 and isinstance(inbound[0], str) and isinstance(inbound[1], int):
            yield inbound[0]
        else:
            for value in inbound:
                yield from _sources(value)


def _snake_case(name: str) -> str:
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def _open(path: Path) -> Source:
    h5py = require("h5py", "keras", "Keras models")
    try:
        if path.suffix.lower() == ".keras" or _is_zip(path):
            with open_zip(path) as archive:
                model = json.loads(read_member(archive, "config.json", 64 << 20))
                file = h5py.File(io.BytesIO(read_member(archive, "model.weights.h5")), "r")
            return _KerasSource(path, model, _Weights(file, h5py, path.name), named=False)
        file = h5py.File(path, "r")
        if "model_config" not in file.attrs:
            raise ImportRefused(f"{path.name}: the file holds weights only, without the model's layers; "
                                f"save the whole model as .keras")
        model = json.loads(file.attrs["model_config"])
        return _KerasSource(path, model, _Weights(file, h5py, path.name), named=True)
    except (ImportRefused, RecursionError):
        raise
    except (KeyError, TypeError, AttributeError, ValueError, OSError, RuntimeError) as error:
        raise ImportRefused(f"{path.name}: the file cannot be read as a Keras model ({_reason(error)}); "
                            f"save it again with model.save('model.keras')") from None


def _reason(error: Exception) -> str:
    """Return the text of an exception; a KeyError's text is only the key."""
    return f"key {error} is missing" if isinstance(error, KeyError) else str(error)


def _is_zip(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"PK"


IMPORTER = Importer(name="Keras", suffixes=(".keras", ".h5", ".hdf5"), open=_open,
                    sniff=lambda head, members: head.startswith(b"\x89HDF") or "model.weights.h5" in members)
