# SPDX-License-Identifier: Apache-2.0
"""Import Keras models from ``.keras`` archives and whole-model ``.h5`` files, without Keras.

Both hold the layers' configuration as JSON and the weights as HDF5. The importer reads nothing else and never runs
custom objects or lambdas. (The HDF5 library may not return from a file with damage that `hdf5` does not find.) Keras
has the gate order i, f, c, o of an LSTM along the last axis, kernels (I, 4H) and (H, 4H), and one bias (4H,). The
gates of a GRU are z, r, h; with ``reset_after`` it has two biases (2, 3H), of x and of the previous output.
"""

import io
import json
import mmap
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from openese.rtl.program import ACTIVATIONS
from openese.sw.importers.assembly import Linear, Part, Recurrent, Stack, Track
from openese.sw.importers.base import (
    LIMIT,
    Entry,
    Importer,
    ImportRefused,
    Source,
    listed,
    open_zip,
    read_member,
    require,
)
from openese.sw.importers.hdf5 import endless
from openese.sw.model.arrays import FloatArray
from openese.sw.model.layers import GRU, Dense, Layer

__all__ = ["IMPORTER", "Archive", "cell_problem", "keras_gru", "keras_layer", "read_archive"]

_MODELS = ("Sequential", "Functional", "Model")
_PASSING = ("Dropout", "SpatialDropout1D", "GaussianNoise", "GaussianDropout", "AlphaDropout", "Identity")
_OTHERS = re.compile(r"GRU|SimpleRNN|ConvLSTM|CuDNN|RNN|LSTM")
_CELLS = ("LSTMCell", "GRUCell")
_MOST_LAYERS = 10_000
_WHOLE = "'openese compile' takes the whole network"


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

    def check(self) -> int:
        """The count of numbers; a file with links, data in other files, or more than `LIMIT` bytes is refused."""
        total = numbers = 0
        waiting, seen = [self._file], {self._file}
        while waiting:
            group = waiting.pop()
            for name in group:
                path = f"{group.name}/{name}".strip("/")
                held = self.group(path)
                if isinstance(held, self._h5py.Group):
                    if held not in seen:
                        seen.add(held)
                        waiting.append(held)
                    continue
                total += self._own(path).nbytes
                numbers += held.size
                if total > LIMIT:
                    raise ImportRefused(f"{self._name}: more than {LIMIT:,} bytes of weights")
        return numbers

    def _own(self, path: str) -> Any:
        data = self.group(path)
        if not isinstance(data, self._h5py.Dataset) or data.external or data.is_virtual:
            raise ImportRefused(f"{self._name}: {path!r} is not an array in the file itself; other files are not read")
        return data

    def array(self, path: str) -> FloatArray:
        data = self._own(path)
        halved = data.dtype == np.dtype("V2")  # bfloat16, which HDF5 does not know
        if data.dtype.kind != "f" and not halved:
            raise ImportRefused(f"{self._name}: {path!r} has type {data.dtype}, not floating point; "
                                f"import the model before it is quantized")
        if data.size * 8 > LIMIT:
            raise ImportRefused(f"{self._name}: {path!r} has shape {data.shape}; at most {LIMIT // 8:,} numbers "
                                f"are read")
        try:
            array = data[()]
        except (RuntimeError, OSError, ValueError) as error:
            raise ImportRefused(f"{self._name}: {path!r} is damaged ({error})") from None
        if halved:
            return (array.view("<u2").astype(np.uint32) << 16).view(np.float32)
        return array if array.dtype == np.float64 else array.astype(np.float32)

    def vars(self, path: str) -> list[FloatArray]:
        """Return the numbered arrays in group ``path`` of a ``.keras`` file."""
        return [self.array(f"{path}/{name}") for name in sorted(self.group(path), key=int)]

    def names(self, layer: str) -> list[str]:
        """Return the names of the arrays of ``layer`` in a ``.h5`` file, in the order of its list."""
        group = self.group(f"model_weights/{layer}")
        try:
            return [name.decode() if isinstance(name, bytes) else str(name) for name in group.attrs["weight_names"]]
        except (RuntimeError, OSError) as error:
            raise ImportRefused(f"{self._name}: {layer!r} is damaged ({error})") from None

    def named(self, layer: str) -> dict[tuple[str, ...], dict[str, str]]:
        """Return the paths of the arrays of ``layer`` in a ``.h5`` file, by their group and their own name."""
        groups: dict[tuple[str, ...], dict[str, str]] = {}
        for name in self.names(layer):
            *place, own = name.split("/")
            groups.setdefault(tuple(place), {})[own.split(":")[0]] = f"model_weights/{layer}/{name}"
        return groups


@dataclass(frozen=True)
class Archive:
    """The contents of a model's file.

    Attributes
    ----------
    path : Path
    model : mapping
        The model's configuration, ``class_name`` and ``config``.
    weights : _Weights
    named : bool
        Whether the weights have layer names, as in ``.h5``, or class names, as in ``.keras``.
    """

    path: Path
    model: Mapping[str, Any]
    weights: _Weights
    named: bool


#: An output of a layer: the layer's name, and the number of the output.
_Tensor = tuple[str, int]


@dataclass(frozen=True)
class _Node:
    """A layer: its configuration, the tensors that each of its calls reads, and the HDF5 group of its weights."""

    name: str
    kind: str
    config: Mapping[str, Any]
    calls: tuple[tuple[_Tensor, ...], ...]
    group: str

    @property
    def text(self) -> str:
        return f"{self.kind} {self.name!r}"

    @property
    def inner(self) -> "_Node":
        """The layer inside a TimeDistributed wrapper; another layer is its own inner layer."""
        if self.kind != "TimeDistributed":
            return self
        layer = self.config["layer"]
        return _Node(self.name, layer["class_name"], layer["config"], self.calls, f"{self.group}/layer")

    @property
    def source(self) -> _Tensor | None:
        """The only tensor that the layer reads, if it is called once."""
        return self.calls[0][0] if len(self.calls) == 1 and len(self.calls[0]) == 1 else None

    @property
    def passing(self) -> bool:
        """Whether the layer's output is its input."""
        return self.kind in _PASSING or (self.kind == "Activation"
                                         and _called(self.config.get("activation")) == "linear")

    @property
    def dense(self) -> bool:
        return self.inner.kind == "Dense"

    @property
    def affine(self) -> bool:
        """Whether the layer is dense, with a function that machines with dense layers compute."""
        return self.dense and _called(self.inner.config.get("activation")) in ("linear", *ACTIVATIONS)

    @property
    def recurrent(self) -> bool:
        """Whether the layer is made of LSTM or GRU cells, as far as its class tells."""
        kind, config = self.kind, self.config
        if kind == "Bidirectional":
            kind, config = config["layer"]["class_name"], config["layer"]["config"]
        return kind in ("LSTM", "GRU") or (kind == "RNN" and config.get("cell", {}).get("class_name") in (
            *_CELLS, "StackedRNNCells"))


def _called(function: Any) -> str:
    """Return the name of an activation, which Keras writes as a string or as an object."""
    if function is None:
        return "linear"
    if isinstance(function, str):
        return function
    held = function.get("config")
    return held if isinstance(held, str) else str(function.get("class_name"))


class _Cell(NamedTuple):
    """An LSTM or GRU cell in a layer: its configuration and the HDF5 group of its weights."""

    kind: str
    config: Mapping[str, Any]
    group: str

    @property
    def arrays(self) -> int:
        """The number of its arrays of weights."""
        return 3 if self.config.get("use_bias", True) else 2

    def layer(self, name: str, arrays: Sequence[FloatArray]) -> Layer:
        if self.kind == "GRUCell":
            return keras_gru(name, self.config["reset_after"], *arrays)
        return keras_layer(name, *arrays)


def _cells(node_kind: str, config: Mapping[str, Any], group: str) -> Iterator[_Cell]:
    """Yield each cell of an LSTM, GRU or RNN layer."""
    if node_kind in ("LSTM", "GRU"):
        yield _Cell(f"{node_kind}Cell", config, f"{group}/cell")
        return
    cell: Mapping[str, Any] = config["cell"] if node_kind == "RNN" else {"class_name": node_kind}
    if cell["class_name"] in _CELLS:
        yield _Cell(cell["class_name"], cell["config"], f"{group}/cell")
    elif cell["class_name"] == "StackedRNNCells":
        counts = dict.fromkeys(_CELLS, 0)
        for inner in cell["config"]["cells"]:
            kind = inner["class_name"]
            if kind not in _CELLS:
                raise ImportRefused(f"a {kind} is not an LSTM or GRU cell, and the machine does not compute it")
            number = f"_{counts[kind]}" if counts[kind] else ""
            yield _Cell(kind, inner["config"], f"{group}/cell/cells/{_snake_case(kind)}{number}")
            counts[kind] += 1
    else:
        raise ImportRefused(f"a {cell['class_name']} is not an LSTM or GRU cell, and the machine does not compute it")


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


def cell_problem(kind: str, config: Mapping[str, Any]) -> str | None:
    """Why the machine does not compute a cell of class ``kind`` with this configuration; None if it does."""
    for key, computed in (("activation", "tanh"), ("recurrent_activation", "sigmoid")):
        found = _called(config.get(key))
        if found != computed:
            return f"{key} {found!r}: the machine computes only {computed!r} there"
    if kind == "GRUCell" and not isinstance(config.get("reset_after"), bool):
        return "its configuration does not tell reset_after; load and save the model again with Keras 3"
    return None


def _checked_cells(kernel: FloatArray, recurrent: FloatArray, gates: int) -> int:
    """H of kernels (I, ``gates`` x H) and (H, ``gates`` x H), which are refused if they have other shapes."""
    cells = recurrent.shape[0]
    if kernel.ndim != 2 or kernel.shape[1] != gates * cells or recurrent.shape != (cells, gates * cells):
        raise ImportRefused(f"kernels: expected shapes (I, {gates}H) and (H, {gates}H), "
                            f"found {kernel.shape} and {recurrent.shape}")
    return cells


def keras_layer(name: str, kernel: FloatArray, recurrent: FloatArray, bias: FloatArray | None = None) -> Layer:
    """The layer with the weights of an LSTM cell of Keras: kernels (I, 4H) and (H, 4H), and a bias (4H,).

    Raises
    ------
    ImportRefused
        A shape is another one.
    """
    cells = _checked_cells(kernel, recurrent, 4)
    if bias is None:
        bias = np.zeros(4 * cells, kernel.dtype)
    if bias.shape != (4 * cells,):
        raise ImportRefused(f"bias: expected shape ({4 * cells},), found {bias.shape}")
    return Layer(name=name, w_x=kernel.T.reshape(4, cells, -1), w_r=recurrent.T.reshape(4, cells, cells),
                 bias=bias.reshape(4, cells))


def keras_gru(name: str, reset_after: bool, kernel: FloatArray, recurrent: FloatArray,
              bias: FloatArray | None = None) -> Layer:
    """The layer with the weights of a GRU cell of Keras: kernels (I, 3H) and (H, 3H), and a bias (3H,), or (2, 3H) with
    ``reset_after``.

    Raises
    ------
    ImportRefused
        A shape is another one.
    """
    cells = _checked_cells(kernel, recurrent, 3)
    shape = (2, 3 * cells) if reset_after else (3 * cells,)
    bias = np.zeros(shape, kernel.dtype) if bias is None else bias
    if bias.shape != shape:
        raise ImportRefused(f"bias: expected shape {shape}, found {bias.shape}")
    order = [1, 0, 2]
    of_x, *of_y = bias.reshape(-1, 3, cells)[:, order]
    return Layer(name=name, cell=GRU.name, w_x=kernel.T.reshape(3, cells, -1)[order],
                 w_r=recurrent.T.reshape(3, cells, cells)[order], reset_after=reset_after,
                 bias=np.concatenate([of_x[:2] + of_y[0][:2], of_x[2:]]) if reset_after else of_x,
                 bias_rn=of_y[0][2] if reset_after else None)


def _problem(node: _Node) -> str | None:
    if any(len(call) > 1 for call in node.calls):
        return "it is called with initial states or a mask that the network computes"
    try:
        for kind, config, group, _ in _ways(node):
            for cell in _cells(kind, config, group):
                problem = cell_problem(cell.kind, cell.config)
                if problem is not None:
                    return problem
    except ImportRefused as error:
        return str(error)
    return None


class _KerasSource(Source):
    """The layers of a Keras model."""

    expected = "a layer of class LSTM or GRU, Bidirectional of one, or RNN with LSTMCell or GRUCell"

    def __init__(self, archive: Archive) -> None:
        self.path = archive.path
        self._weights = archive.weights
        self._named = archive.named
        self._nodes = {node.name: node for node in _nodes(archive.model, "", "")}
        if len(self._nodes) > _MOST_LAYERS:
            raise ImportRefused(f"{len(self._nodes):,} layers; at most {_MOST_LAYERS:,} are read")
        self._ends = _ends(archive.model, list(self._nodes))
        self._feeders = {node.name: self._first(node) for node in self._nodes.values()}
        self._readers: dict[str, list[_Node]] = {name: [] for name in self._nodes}
        for name, feeder in self._feeders.items():
            if feeder is not None and not self._nodes[name].passing:
                self._readers[feeder.name].append(self._nodes[name])
        self._entries = self._list_entries()

    def entries(self) -> list[Entry]:
        return self._entries

    def _list_entries(self) -> list[Entry]:
        entries = []
        alone = not any(node.recurrent for node in self._nodes.values())
        for node in self._nodes.values():
            if node.recurrent:
                entries.append(Entry(node.name, node.kind, _summary(node), _problem(node)))
            elif node.dense and (self._beside(node) or alone and node.affine):
                entries.append(Entry(node.name, "Dense", f"{node.inner.config.get('units')} outputs, "
                                                         f"{_called(node.inner.config.get('activation'))}"))
            elif node.inner is not node and node.inner.recurrent:
                entries.append(Entry(node.name, node.kind,
                                     problem=f"it runs over an axis behind another one; {_WHOLE}"))
            elif _OTHERS.search(node.inner.kind):
                entries.append(Entry(node.name, node.kind, problem=f"a {node.inner.kind} is no LSTM or GRU, and the "
                                                                   f"machine does not compute it"))
        return entries

    def _beside(self, dense: _Node) -> bool:
        """Whether a chain leads from a recurrent layer to this one, or of dense layers from it to a recurrent layer."""
        before: _Node | None = dense
        for _ in self._nodes:
            before = None if before is None else self._feeders[before.name]
            if before is None or not before.affine:
                break
        after = [dense]
        for _ in self._nodes:
            if len(after) != 1 or not after[0].affine:
                break
            after = self._readers[after[0].name]
        return any(node.recurrent for node in (*after[:1], *([before] if before else [])))

    def default(self) -> list[str]:
        """The layers of a file that is one chain.

        Raises
        ------
        ImportRefused
            The file is more than one chain.
        """
        nodes = [node for node in self._nodes.values() if node.kind != "InputLayer" and not node.passing]
        starts = [node for node in nodes if self._feeders[node.name] is None]
        chain = starts[:1]
        while chain and len(after := self._readers[chain[-1].name]) == 1 and after[0] not in chain:
            chain += after
        problem = self._more_than(chain, nodes)
        if problem is not None:
            raise ImportRefused(f"{self.path.name}: not only one chain of recurrent and linear layers ({problem}); "
                                f"{_WHOLE}, and --select takes layers of it: "
                                f"{listed([entry.name for entry in self._entries if entry.problem is None])}")
        return [node.name for node in chain]

    def _more_than(self, chain: Sequence[_Node], nodes: Sequence[_Node]) -> str | None:
        """What a file has beside a chain that can be imported; None if there is nothing."""
        for node in nodes:
            if not node.recurrent and not node.dense:
                return node.text
            if node.recurrent and (problem := _problem(node)) is not None:
                return f"{node.text}: {problem}"
            if node not in chain:
                return f"{node.text} is beside the others"
            if node.source is None and self._feeders[node.name] is None and len(node.calls) > 1:
                return f"{node.text} is called {len(node.calls)} times"
            if node.dense and not node.affine and node is not chain[-1]:
                return f"{node.text} has the activation {_called(node.inner.config.get('activation'))!r}"
        for before, after in zip(chain, chain[1:], strict=False):
            problem = self._between(before, after)
            if problem is not None:
                return problem
        if self._ends is not None and [self._origin(end) for end in self._ends] != [(chain[-1].name, 0)]:
            return "its outputs are not those of the last layer alone"
        return None

    def parts(self, names: Sequence[str]) -> list[Part]:
        for before, after in zip(names, names[1:], strict=False):
            problem = self._between(self._nodes[before], self._nodes[after])
            if problem is not None:
                raise ImportRefused(f"{self.path.name}: {before!r} and {after!r} cannot be stacked: {problem}; "
                                    f"{_WHOLE}")
        first, *others = (self._part(self._nodes[name]) for name in names)
        left = [node.text for node in self._nodes.values()
                if node.name not in names and node.kind not in ("InputLayer", *_MODELS) and not node.passing]
        if left:
            shown = ", ".join(left[:8]) + (f" and {len(left) - 8} more" if len(left) > 8 else "")
            first = replace(first, notes=(*first.notes, f"left out: {shown}; {_WHOLE}"))
        return [first, *others]

    def _between(self, before: _Node, after: _Node) -> str | None:
        """Why ``after`` cannot be stacked on ``before``; None if it reads the outputs of ``before``."""
        if len(after.calls) > 1:
            return f"{after.text} is called {len(after.calls)} times"
        if after.source is None or self._origin(after.source) != (before.name, 0):
            lies = [node.text for node in self._ahead(after) if not node.passing and before in self._ahead(node)]
            return (f"{', '.join(lies)} lies between them" if lies
                    else f"{after.text} does not read the outputs of {before.text}")
        if len(before.calls) > 1:
            return f"{before.text} is called {len(before.calls)} times"
        if before.recurrent and after.recurrent:
            if before.kind != "Bidirectional" and before.config.get("go_backwards") is True:
                return f"{before.text} has go_backwards, so its outputs come last frame first"
            if not _sequences(before):
                return f"{before.text} has return_sequences=False, so it gives one frame"
        return None

    def _ahead(self, node: _Node) -> list[_Node]:
        """All layers from which a path leads to this one."""
        found: dict[str, _Node] = {}
        waiting = [node]
        while waiting:
            for name in [name for call in waiting.pop().calls for name, _ in call]:
                if name in self._nodes and name not in found:
                    found[name] = self._nodes[name]
                    waiting.append(found[name])
        return list(found.values())

    def _origin(self, tensor: _Tensor) -> _Tensor:
        """The tensor that a tensor equals, behind layers that pass it on."""
        for _ in self._nodes:
            node = self._nodes.get(tensor[0])
            if node is None or not node.passing or node.source is None:
                break
            tensor = node.source
        return tensor

    def _first(self, node: _Node) -> _Node | None:
        """The layer whose output a layer reads first; None for an input of the model."""
        if not node.calls or not node.calls[0]:
            return None
        before = self._nodes.get(self._origin(node.calls[0][0])[0])
        return None if before is None or before.kind == "InputLayer" else before

    def _part(self, node: _Node) -> Part:
        try:
            if node.dense:
                return self._dense(node)
            row = tuple(self._stack(node, number) for number in range(len(_ways(node))))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
            raise ImportRefused(f"{self.path.name}: {node.text}: {_reason(error)}") from None
        return Recurrent(node.name, (row,), tuple(_notes(node)), batch_first=True)

    def _stack(self, node: _Node, number: int) -> Stack:
        kind, config, group, reverse = _ways(node)[number]
        cells = list(_cells(kind, config, group))
        if self._named:
            arrays = self._named_cells(node, number, [cell.config for cell in cells])
        else:
            arrays = [self._counted(cell.group, cell.arrays) for cell in cells]
        return tuple(Track(cell.layer(node.name if len(cells) == 1 else f"{node.name}.{n}", held), reverse)
                     for n, (cell, held) in enumerate(zip(cells, arrays, strict=True)))

    def _named_cells(self, node: _Node, number: int, cells: Sequence[Mapping[str, Any]]) -> list[list[FloatArray]]:
        """The arrays of each cell in one direction, by names: a ``.h5`` file lists trainable weights first."""
        groups = self._groups(node, "recurrent_kernel")
        if node.kind == "Bidirectional":
            way = node.config.get("backward_layer") if number else node.config["layer"]
            name = (way or node.config["layer"])["config"]["name"]
            groups = _with(groups, name, ("forward_", "backward_")[number] + name) or groups
        found = [groups] if len(cells) == 1 else [_with(groups, cell["name"]) for cell in cells]
        if any(len(places) != 1 for places in found) or len({*map(tuple, found)}) != len(found):
            raise ImportRefused("the names of the weights do not tell them apart; save the model as .keras")
        return [self._arrays(groups[next(iter(places))], "kernel", "recurrent_kernel", "bias") for places in found]

    def _groups(self, node: _Node, key: str) -> dict[tuple[str, ...], dict[str, str]]:
        """The groups of weights of one layer that have an array ``key``."""
        outer, *nested = node.name.split("/")
        groups = {place: held for place, held in self._weights.named(outer).items() if key in held}
        for name in nested:
            groups = _with(groups, name) or groups
        return groups

    def _counted(self, place: str, count: int) -> list[FloatArray]:
        arrays = self._weights.vars(f"{place}/vars")
        if len(arrays) != count:
            raise ImportRefused(f"{len(arrays)} arrays of weights, where the layer has {count}; {_WHOLE}")
        return arrays

    def _arrays(self, held: Mapping[str, str], *names: str) -> list[FloatArray]:
        others = [name for name in held if name not in names]
        if others:
            raise ImportRefused(f"it also has the weights {', '.join(others)}; {_WHOLE}")
        return [self._weights.array(held[name]) for name in names if name in held]

    def _dense(self, node: _Node) -> Linear:
        if self._named:
            groups = list(self._groups(node, "kernel").values())
            if len(groups) != 1:
                raise ImportRefused("the names of the weights do not tell them apart; save the model as .keras")
            arrays = self._arrays(groups[0], "kernel", "bias")
        else:
            arrays = self._counted(node.inner.group, 2 if node.inner.config.get("use_bias", True) else 1)
        activation = _called(node.inner.config.get("activation"))
        bias = arrays[1] if len(arrays) > 1 else np.zeros(arrays[0].shape[-1], arrays[0].dtype)
        return Linear(node.name, Dense(weight=arrays[0].T, bias=bias),
                      activation=None if activation == "linear" else activation)


def _with(groups: Mapping[tuple[str, ...], dict[str, str]], *names: str) -> dict[tuple[str, ...], dict[str, str]]:
    return {place: held for place, held in groups.items() if {*names} & {*place}}


def _sequences(node: _Node) -> bool:
    return _ways(node)[0][1].get("return_sequences") is True


def _summary(node: _Node) -> str:
    try:
        ways = _ways(node)
        units = [cell.config.get("units") for cell in _cells(*ways[0][:3])]
    except ImportRefused:
        return ""
    text = " -> ".join(f"{n} cells" for n in units)
    if len(ways) == 2:
        return f"{text}, bidirectional"
    return text + (", backwards" if ways[0][3] else "")


def _notes(node: _Node) -> list[str]:
    notes = []
    if len(node.calls) > 1:
        notes.append(f"{node.name}: called {len(node.calls)} times with the same weights; this is one call")
    for kind, config, group, reverse in _ways(node):
        dropouts = [cell.config.get(key, 0) for cell in _cells(kind, config, group)
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
    if isinstance(config, Mapping) and "layers" not in config:
        raise ImportRefused(f"the network is a class of its own, {model['class_name']!r}, and the file does not list "
                            f"its layers; openese.offload takes it in the program that has the class")
    used: dict[str, int] = {}
    before: tuple[_Tensor, ...] = ()
    for layer in config if isinstance(config, list) else config["layers"]:
        kind, name = layer["class_name"], prefix + layer["config"]["name"]
        stem = _snake_case(kind)
        if not str(layer.get("module")).startswith("keras.src.ops."):  # operations have no weights, nor a place there
            used[stem] = used.get(stem, -1) + 1
        place = f"{group}layers/{stem}{f'_{used[stem]}' if used.get(stem) else ''}"
        if "inbound_nodes" in layer:
            calls = tuple(tuple((prefix + source, number) for source, number in _sources(call))
                          for call in layer["inbound_nodes"])
        else:
            calls = (before,) if before else ()
        if kind in _MODELS:
            yield from _nodes(layer, f"{name}/", f"{place}/")
        yield _Node(name, kind, layer["config"], calls, place)
        before = ((name, 0),)


def _sources(call: Any) -> Iterator[_Tensor]:
    """Yield the tensors that a call of a layer reads, from Keras 3 objects or Keras 2 lists."""
    if isinstance(call, dict):
        history = call.get("config", {}).get("keras_history") if "class_name" in call else None
        if history:
            yield str(history[0]), int(history[2])
        else:
            for value in call.values():
                yield from _sources(value)
    elif isinstance(call, list):
        if len(call) >= 3 and isinstance(call[0], str) and isinstance(call[1], int) and isinstance(call[2], int):
            yield call[0], call[2]
            yield from _sources(call[3:])
        else:
            for value in call:
                yield from _sources(value)


def _ends(model: Mapping[str, Any], names: Sequence[str]) -> list[_Tensor] | None:
    """The outputs of a model; None if it does not tell them."""
    config = model["config"]
    if isinstance(config, list) or "output_layers" not in config:
        return [(names[-1], 0)] if names else None
    return list(_sources(config["output_layers"]))


def _snake_case(name: str) -> str:
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def read_archive(path: Path) -> Archive:
    """Read the configuration of a model and open its weights.

    Raises
    ------
    ImportRefused
        The file is damaged or too large, holds weights alone, or h5py is not installed.
    """
    h5py = require("h5py", "keras", "Keras models")
    try:
        if path.suffix.lower() == ".keras" or _is_zip(path):
            with open_zip(path) as archive:
                model = json.loads(read_member(archive, "config.json", 64 << 20))
                held = read_member(archive, "model.weights.h5")
                _check_structure(held)
                file = h5py.File(io.BytesIO(held), "r")
            return Archive(path, model, _Weights(file, h5py, path.name), named=False)
        with open(path, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            _check_structure(mapped)
        file = h5py.File(path, "r")
        if "model_config" not in file.attrs:
            raise ImportRefused(f"{path.name}: the file holds weights only, without the model's layers; "
                                f"save the whole model as .keras")
        model = json.loads(file.attrs["model_config"])
        return Archive(path, model, _Weights(file, h5py, path.name), named=True)
    except _DAMAGE as error:
        raise _damaged(path, error) from None


def _check_structure(data: bytes | mmap.mmap) -> None:
    damage = endless(data)
    if damage is not None:
        raise ImportRefused(f"the file is damaged: {damage}")


_DAMAGE = (KeyError, TypeError, AttributeError, ValueError, OSError, RuntimeError)


def _damaged(path: Path, error: Exception) -> Exception:
    if isinstance(error, RecursionError):
        return error
    if isinstance(error, ImportRefused):
        return error if str(error).startswith(path.name) else ImportRefused(f"{path.name}: {error}")
    return ImportRefused(f"{path.name}: the file cannot be read as a Keras model ({_reason(error)}); save it again "
                         f"with model.save('model.keras')")


def _open(path: Path) -> Source:
    archive = read_archive(path)
    try:
        return _KerasSource(archive)
    except _DAMAGE as error:
        raise _damaged(path, error) from None


def _reason(error: Exception) -> str:
    """Return the text of an exception; a KeyError's text is only the key."""
    return f"key {error} is missing" if isinstance(error, KeyError) else str(error)


def _is_zip(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"PK"


IMPORTER = Importer(name="Keras", suffixes=(".keras", ".h5", ".hdf5"), open=_open,
                    sniff=lambda head, members: head.startswith(b"\x89HDF") or "model.weights.h5" in members)
