# SPDX-License-Identifier: Apache-2.0
"""The canonical model: stacked LSTM, GRU and dense layers, and a dense head.

Importers make models, and every later stage takes them. An object checks its shapes and values when it is made. Its
arrays are read-only; read-only arrays are not copied.

Sizes: gates G, inputs I, cells H, outputs P. Gate order i, f, g, o of an LSTM (g is the paper's "c" gate), and r, z, n
of a GRU. A dense layer has the one "gate" y.
"""

import dataclasses
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from openese.output import replacing
from openese.rtl.program import ACTIVATIONS
from openese.sw.model.arrays import FloatArray

__all__ = ["CELLS", "DENSE", "GATES", "GRU", "HEAD_KEYS", "G_ACTIVATIONS", "LSTM", "TENSORS", "CellKind", "Dense",
           "Layer", "LayerTensors", "Matrix", "Model", "ModelError", "activate", "dense_layer", "frozen",
           "layer_arrays", "read_npz", "required"]


class CellKind(NamedTuple):
    """A kind of layer: its gates, and the attributes of `Layer` that its layers may have.

    Attributes
    ----------
    name : str
        As in ``Layer.cell``.
    title : str
        For people.
    gates : tuple of str
        In the order of the first axis of ``w_x``, ``w_r`` and ``bias``.
    tensors : tuple of str
        The arrays of a layer; ``w_x``, ``w_r`` and ``bias`` are always there, if they are among them.
    settings : tuple of str
        The attributes that are not arrays.
    """

    name: str
    title: str
    gates: tuple[str, ...]
    tensors: tuple[str, ...]
    settings: tuple[str, ...]

    @property
    def a_title(self) -> str:
        """The title with its article."""
        return f"{'an' if self is LSTM else 'a'} {self.title}"


LSTM = CellKind("lstm", "LSTM", ("i", "f", "g", "o"), ("w_x", "w_r", "bias", "peephole", "w_ym"), ("g_activation",))
GRU = CellKind("gru", "GRU", ("r", "z", "n"), ("w_x", "w_r", "bias", "bias_rn"), ("reset_after",))
DENSE = CellKind("dense", "dense layer", ("y",), ("w_x", "bias"), ("activation",))
CELLS = {kind.name: kind for kind in (LSTM, GRU, DENSE)}

GATES = LSTM.gates
TENSORS = tuple(dict.fromkeys(tensor for kind in CELLS.values() for tensor in kind.tensors))
G_ACTIVATIONS = ("tanh", "sigmoid")
_REQUIRED = ("w_x", "w_r", "bias")
_SETTINGS: dict[str, Any] = {"g_activation": "tanh", "reset_after": True, "activation": "none"}

_Scalar = TypeVar("_Scalar", bound=np.generic)


class ModelError(ValueError):
    """A model is not valid. The message names the layer and the tensor, and what was expected and found."""


class Matrix(NamedTuple):
    """One matrix of a layer: ``values`` (rows, columns); ``gate`` is None for ``w_ym``."""

    tensor: str
    gate: str | None
    values: FloatArray

    @property
    def label(self) -> str:
        """The tensor's name with its gate, as ``w_x[i]`` or ``w_ym``."""
        return self.tensor if self.gate is None else f"{self.tensor}[{self.gate}]"


def _tensor(owner: str, tensor: str, value: ArrayLike) -> FloatArray:
    """A read-only array of finite floats; float32 and float64 keep their type, other reals become float64."""
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise ModelError(f"{owner} {tensor}: expected real numbers, found type {array.dtype}")
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float64)
    finite = np.isfinite(array)
    if not finite.all():
        index = tuple(int(n) for n in np.argwhere(~finite)[0])
        raise ModelError(f"{owner} {tensor}{list(index)}: {array[index]} is not a finite number")
    return frozen(array)


def frozen(array: NDArray[_Scalar]) -> NDArray[_Scalar]:
    """A read-only array in C order: ``array`` itself if it and its bases are read-only, else a copy."""
    base: Any = array
    while isinstance(base, np.ndarray) and not base.flags.writeable:
        base = base.base
    if base is None and array.flags.c_contiguous:
        return array
    array = np.array(array, order="C")
    array.setflags(write=False)
    return array


def _expect(owner: str, tensor: str, array: NDArray[Any], letters: str, sizes: tuple[int | None, ...],
            error: type[ValueError] = ModelError) -> None:
    """Refuse ``array`` unless its shape is ``sizes``, where None is any size of at least one."""
    right = array.ndim == len(sizes) and all(
        actual == size if size is not None else actual > 0
        for actual, size in zip(array.shape, sizes, strict=False))
    if not right:
        expected = ", ".join("any" if size is None else str(size) for size in sizes)
        raise error(f"{owner} {tensor}: expected shape ({letters}) = ({expected}), found {array.shape}")


class LayerTensors:
    """The tensors of a layer, in real numbers or in integers, and the sizes that follow from them."""

    name: str
    w_x: NDArray[Any]
    w_r: NDArray[Any]
    bias: NDArray[Any]
    peephole: NDArray[Any] | None
    w_ym: NDArray[Any] | None
    g_activation: str
    cell: str = LSTM.name
    bias_rn: NDArray[Any] | None = None
    reset_after: bool = True
    activation: str = "none"

    @property
    def kind(self) -> CellKind:
        """The kind of layer."""
        return CELLS[self.cell]

    @property
    def gates(self) -> tuple[str, ...]:
        """The names of the gates, in the order of the first axis of ``w_x``, ``w_r`` and ``bias``."""
        return self.kind.gates

    @property
    def inputs(self) -> int:
        """I, the size of x."""
        return self.w_x.shape[2]

    @property
    def cells(self) -> int:
        """H, the size of c and m; 0 of a dense layer."""
        return 0 if self.kind is DENSE else self.w_x.shape[1]

    @property
    def outputs(self) -> int:
        """P, the size of y."""
        return self.w_x.shape[1] if self.w_ym is None else self.w_ym.shape[0]

    @property
    def feedback(self) -> int:
        """The size of the y that the next step needs: P, or 0 of a dense layer."""
        return 0 if self.kind is DENSE else self.outputs

    @property
    def _owner(self) -> str:
        return f"layer {self.name!r}"

    def _check(self, converted: Callable[[str, str, ArrayLike], NDArray[Any]], error: type[ValueError]) -> None:
        """Convert the tensors, and raise ``error`` if they do not fit each other or the kind of layer."""
        if self.cell not in CELLS:
            *names, last = CELLS
            raise error(f"{self._owner} cell: expected {', '.join(names)} or {last}, found {self.cell!r}")
        for name in (*TENSORS, *_SETTINGS):
            self._check_kind(name, error)
        for tensor in self.kind.tensors:
            value = getattr(self, tensor)
            if value is None and tensor in required(self.kind):
                raise error(f"{self._owner} {tensor}: it is missing")
            if value is not None:
                object.__setattr__(self, tensor, converted(self._owner, tensor, value))
        if self.g_activation not in G_ACTIVATIONS:
            raise error(f"{self._owner} g_activation: expected {' or '.join(G_ACTIVATIONS)}, "
                        f"found {self.g_activation!r}")
        _check_activation(self._owner, self.activation, error)
        gates = len(self.gates)
        _expect(self._owner, "w_x", self.w_x, f"{gates}, H, I", (gates, None, None), error)
        cells = self.w_x.shape[1]
        if self.w_ym is not None:
            _expect(self._owner, "w_ym", self.w_ym, "P, H", (None, cells), error)
        if self.kind is DENSE:
            # No columns: nothing of the step before is multiplied.
            object.__setattr__(self, "w_r", frozen(np.zeros((1, cells, 0), self.w_x.dtype)))
        _expect(self._owner, "w_r", self.w_r, f"{gates}, H, P", (gates, cells, self.feedback), error)
        _expect(self._owner, "bias", self.bias, f"{gates}, H", (gates, cells), error)
        if self.peephole is not None:
            _expect(self._owner, "peephole", self.peephole, "3, H", (3, cells), error)
        if self.cell == GRU.name:
            self._check_reset(error)

    def _check_kind(self, name: str, error: type[ValueError]) -> None:
        """Raise ``error`` if the attribute is set, and belongs to layers of another kind."""
        kind, value, default = self.kind, getattr(self, name), _SETTINGS.get(name)
        if name == "w_r" and value is not None and not np.size(value):  # of a dense layer
            return
        if name not in (*kind.tensors, *kind.settings) and (value is not None if default is None else value != default):
            raise error(f"{self._owner} {name}: {kind.a_title} has none")

    def _check_reset(self, error: type[ValueError]) -> None:
        if not isinstance(self.reset_after, bool):
            raise error(f"{self._owner} reset_after: expected True or False, found {self.reset_after!r}")
        if self.reset_after != (self.bias_rn is not None):
            raise error(f"{self._owner} bias_rn: " + (
                "it is missing; a GRU with reset_after has it" if self.reset_after else
                "a GRU without reset_after has none; add it to the bias of n"))
        if self.bias_rn is not None:
            _expect(self._owner, "bias_rn", self.bias_rn, "H", (self.cells,), error)


def _check_activation(owner: str, activation: str, error: type[ValueError]) -> None:
    if activation not in ACTIVATIONS:
        raise error(f"{owner} activation: expected {', '.join(ACTIVATIONS[:-1])} or {ACTIVATIONS[-1]}, "
                    f"found {activation!r}")


def required(kind: CellKind) -> tuple[str, ...]:
    """The tensors that a layer of a kind must have."""
    return tuple(tensor for tensor in _REQUIRED if tensor in kind.tensors)


def _nonzeros(matrices: Iterator[Matrix]) -> int:
    return sum(int(np.count_nonzero(matrix.values)) for matrix in matrices)


@dataclass(frozen=True, eq=False, kw_only=True)
class Layer(LayerTensors):
    """One layer: an LSTM with the paper's cell, a GRU, or a dense layer.

    A GRU computes, from x, the previous output h' and the sigmoid s (``*`` is element by element)::

        r = s(W_r x + R_r h' + b_r)
        z = s(W_z x + R_z h' + b_z)
        n = tanh(W_n x + b_n + r * (R_n h' + bias_rn))        with reset_after
        n = tanh(W_n x + b_n + R_n (r * h'))                  without
        h = (1 - z) * n + z * h'

    A dense layer computes ``y = activation(w_x[0] x + bias[0])``. It keeps nothing from step to step.

    Attributes
    ----------
    name : str
        Unique in its model; errors and reports use it.
    w_x : ndarray (G, H, I)
        Input weights of the gates: i, f, g, o of an LSTM (G = 4), and r, z, n of a GRU (G = 3). Of a dense layer
        (1, P, I).
    w_r : ndarray (G, H, P)
        LSTM and GRU, which must have it: recurrent weights, which multiply the previous output. A dense layer has
        (1, P, 0).
    bias : ndarray (G, H)
        One bias per gate and cell (frameworks with two: their sum, except for gate n of a GRU with ``reset_after``).
        Of a dense layer (1, P).
    peephole : ndarray (3, H), optional
        LSTM: diagonal peepholes of i, f (which see the old c) and o (which sees the new c).
    w_ym : ndarray (P, H), optional
        LSTM: projection. Without it the output is m, and P == H.
    g_activation : str
        LSTM: ``"tanh"`` or ``"sigmoid"``.
    cell : str
        ``"lstm"``, ``"gru"`` or ``"dense"``.
    bias_rn : ndarray (H,), optional
        GRU with ``reset_after``, which must have it: the recurrent bias of n.
    reset_after : bool
        GRU: whether r multiplies the product of R_n and h' (PyTorch, Keras, ONNX with ``linear_before_reset``) or h'.
    activation : str
        Dense layer: ``"none"``, ``"relu"``, ``"sigmoid"`` or ``"tanh"``.

    Raises
    ------
    ModelError
        A shape is wrong, a value is not finite, the cell or the activation is unknown, or an attribute belongs to
        another kind of layer. The message names the layer, the tensor, and the shapes or the index.
    """

    name: str
    w_x: FloatArray
    w_r: FloatArray = cast(FloatArray, None)
    bias: FloatArray
    peephole: FloatArray | None = None
    w_ym: FloatArray | None = None
    g_activation: str = "tanh"
    cell: str = LSTM.name
    bias_rn: FloatArray | None = None
    reset_after: bool = True
    activation: str = "none"

    def __post_init__(self) -> None:
        if not self.name or not isinstance(self.name, str):
            raise ModelError(f"layer name must be a non-empty string, not {self.name!r}")
        self._check(_tensor, ModelError)

    def for_scaled_input(self, exponents: Sequence[int]) -> "Layer":
        """The same layer for inputs ``x[i] * 2**exponents[i]``; without exponents, this layer."""
        if not len(exponents):
            return self
        return dataclasses.replace(self, w_x=np.ldexp(self.w_x, np.negative(exponents)))

    @cached_property
    def is_identity(self) -> bool:
        """Whether the layer is dense and gives its function of each input: the matrix is the identity, without bias."""
        return (self.kind is DENSE and self.inputs == self.outputs and not self.bias.any()
                and np.array_equal(self.w_x[0], np.eye(self.inputs)))

    def matrices(self) -> Iterator[Matrix]:
        """The layer's matrices: w_x and w_r of each gate in turn, then w_ym."""
        for number, gate in enumerate(self.gates):
            yield Matrix("w_x", gate, self.w_x[number])
            if self.feedback:
                yield Matrix("w_r", gate, self.w_r[number])
        if self.w_ym is not None:
            yield Matrix("w_ym", None, self.w_ym)

    @cached_property
    def weights(self) -> int:
        """Elements of all matrices, zeros included."""
        return sum(matrix.values.size for matrix in self.matrices())

    @cached_property
    def nonzeros(self) -> int:
        """Elements of all matrices that are not zero."""
        return _nonzeros(self.matrices())

    @property
    def density(self) -> float:
        """Share of the matrices' elements that are not zero."""
        return self.nonzeros / self.weights

    @property
    def parameters(self) -> int:
        """Weights, biases and peepholes, zeros included."""
        return self.weights + sum(tensor.size for tensor in (self.bias, self.peephole, self.bias_rn)
                                  if tensor is not None)


def layer_arrays(layer: Layer) -> dict[str, ArrayLike]:
    """The attributes of the layer's kind that are set, as `Model.save` writes them."""
    names = ("name", *layer.kind.tensors, *layer.kind.settings)
    arrays = {} if layer.kind is LSTM else {"cell": layer.cell}
    return arrays | {name: getattr(layer, name) for name in names if getattr(layer, name) is not None}


@dataclass(frozen=True, eq=False, kw_only=True)
class Dense:
    """A dense head: ``activation(weight @ y + bias)``. The host computes it; `Network.with_dense_head` makes it a layer
    of the machine.

    Attributes
    ----------
    weight : ndarray (K, P)
    bias : ndarray (K,)
    activation : str
        ``"none"``, ``"relu"``, ``"sigmoid"`` or ``"tanh"``.

    Raises
    ------
    ModelError
        A shape is wrong, a value is not finite, or the activation is unknown.
    """

    weight: FloatArray
    bias: FloatArray
    activation: str = "none"

    def __post_init__(self) -> None:
        _check_activation("head", self.activation, ModelError)
        for tensor in ("weight", "bias"):
            object.__setattr__(self, tensor, _tensor("head", tensor, getattr(self, tensor)))
        _expect("head", "weight", self.weight, "K, P", (None, None))
        _expect("head", "bias", self.bias, "K", (self.weight.shape[0],))

    def __call__(self, y: FloatArray) -> FloatArray:
        """The head's output (..., K) for y (..., P)."""
        return activate(self.activation, y @ self.weight.T + self.bias)

    def arrays(self) -> dict[str, ArrayLike]:
        """The keys of `Model.save` and their values."""
        activation = {} if self.activation == "none" else {"head.activation": self.activation}
        return {"head.weight": self.weight, "head.bias": self.bias, **activation}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "Dense | None":
        """The head in a mapping with the keys of `arrays`; None if it has none of them.

        Raises
        ------
        ModelError
            A key is missing, or the head is not valid.
        """
        if not any(key in arrays for key in HEAD_KEYS):
            return None
        if not all(key in arrays for key in HEAD_KEYS[:2]):
            raise ModelError("head needs both keys 'head.weight' and 'head.bias'")
        return cls(weight=arrays["head.weight"], bias=arrays["head.bias"],
                   activation=str(arrays.get("head.activation", "none")))


def dense_layer(name: str, head: Dense) -> Layer:
    """The dense layer that computes the same as a head."""
    return Layer(name=name, cell=DENSE.name, w_x=head.weight[None], bias=head.bias[None], activation=head.activation)


def activate(function: str, z: NDArray[Any]) -> NDArray[Any]:
    """A function of `ACTIVATIONS`, element by element, without overflow."""
    match function:
        case "relu":
            return np.maximum(z, 0.0)
        case "sigmoid":
            return 0.5 * (1.0 + np.tanh(0.5 * z))
        case "tanh":
            return np.tanh(z)
    return z


@dataclass(frozen=True, eq=False, kw_only=True)
class Model:
    """Layers in the order in which data meets them, and an optional head.

    ``save`` and ``load`` use an ``.npz`` with these keys, for layer ``k`` counted from 0:

    ==========================  ============================  ==================================
    key                         shape                         may be absent
    ==========================  ============================  ==================================
    ``name``                    string                        yes: the file's name without suffix
    ``layerK.name``             string                        yes: ``layerK``
    ``layerK.cell``             ``lstm``, ``gru``, ``dense``  yes: ``lstm``
    ``layerK.w_x``              (G, H, I)
    ``layerK.w_r``              (G, H, P)                     dense layers have none
    ``layerK.bias``             (G, H)
    ``layerK.peephole``         LSTM: (3, H), order i, f, o   yes: no peepholes
    ``layerK.w_ym``             LSTM: (P, H)                  yes: no projection, P == H
    ``layerK.g_activation``     LSTM: ``tanh``, ``sigmoid``   yes: ``tanh``
    ``layerK.bias_rn``          GRU: (H,)                     without ``reset_after``
    ``layerK.reset_after``      GRU: boolean                  yes: true
    ``layerK.activation``       dense: ``none``, ``relu``,    yes: ``none``
                                ``sigmoid``, ``tanh``
    ``head.weight``             (K, P)                        yes, with ``head.bias``
    ``head.bias``               (K,)                          yes, with ``head.weight``
    ``head.activation``         as of a dense layer           yes: ``none``
    ``batch_first``             boolean                       yes: false
    ==========================  ============================  ==================================

    ``batch_first`` tells that the file which the model comes from has frames (B, T, I). Here they are (T, B, I).

    Raises
    ------
    ModelError
        There is no layer, two layers have one name, or a size does not fit the layer before.
    """

    layers: tuple[Layer, ...]
    head: Dense | None = None
    name: str = "model"
    batch_first: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        if not self.layers:
            raise ModelError(f"model {self.name!r} has no layers")
        names = [layer.name for layer in self.layers]
        for name in names:
            if names.count(name) > 1:
                raise ModelError(f"model {self.name!r} has {names.count(name)} layers named {name!r}")
        for before, layer in zip(self.layers, self.layers[1:], strict=False):
            gates = len(layer.gates)
            _expect(f"layer {layer.name!r}", "w_x", layer.w_x, f"{gates}, H, P of {before.name!r}",
                    (gates, layer.w_x.shape[1], before.outputs))
        if self.head is not None:
            _expect("head", "weight", self.head.weight, f"K, P of {names[-1]!r}", (None, self.outputs))

    @property
    def inputs(self) -> int:
        """I of the first layer."""
        return self.layers[0].inputs

    @property
    def outputs(self) -> int:
        """P of the last layer."""
        return self.layers[-1].outputs

    @property
    def weights(self) -> int:
        """Elements of all layers' matrices, zeros included."""
        return sum(layer.weights for layer in self.layers)

    @property
    def nonzeros(self) -> int:
        """Elements of all layers' matrices that are not zero."""
        return sum(layer.nonzeros for layer in self.layers)

    @property
    def density(self) -> float:
        """Share of the layers' matrix elements that are not zero."""
        return self.nonzeros / self.weights

    @property
    def parameters(self) -> int:
        """Weights, biases and peepholes of the layers, zeros included; without the head."""
        return sum(layer.parameters for layer in self.layers)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to ``path`` as an ``.npz`` with the keys above."""
        arrays: dict[str, ArrayLike] = {"name": self.name}
        for number, layer in enumerate(self.layers):
            arrays.update({f"layer{number}.{key}": value for key, value in layer_arrays(layer).items()})
        if self.head is not None:
            arrays.update(self.head.arrays())
        if self.batch_first:
            arrays["batch_first"] = True
        with replacing(path) as file:
            np.savez(file, **cast(Any, arrays))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Model":
        """Read a model from an ``.npz`` with the keys above. Nothing in the file is executed.

        Raises
        ------
        ModelError
            The file is not an ``.npz``, a key is missing or unknown, or a layer is not valid.
        OSError
            The file cannot be read.
        """
        stem = os.path.splitext(os.path.basename(path))[0]
        return cls.from_arrays(read_npz(path), stem)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], name: str = "model") -> "Model":
        """A model from a mapping with the keys above. Without a key ``name`` its name is ``name``."""
        count = 1 + max((int(m[1]) for m in map(_LAYER_KEY.match, arrays) if m), default=-1)
        known = {"name", "batch_first", *HEAD_KEYS}
        known.update(f"layer{number}.{field}" for number in range(count) for field in _LAYER_KEYS)
        for key in arrays:
            if key not in known:
                raise ModelError(f"unknown key {key!r}; a layer has {', '.join(_LAYER_KEYS)}")
        if not count:
            raise ModelError("no layers: key 'layer0.w_x' is missing")
        return cls(layers=tuple(_layer_from(arrays, number) for number in range(count)),
                   head=Dense.from_arrays(arrays), name=str(arrays.get("name", name)),
                   batch_first=bool(arrays.get("batch_first", False)))


#: Keys of a head in a file.
HEAD_KEYS = ("head.weight", "head.bias", "head.activation")
_LAYER_KEYS = ("name", "cell", *TENSORS, *_SETTINGS)
_LAYER_KEY = re.compile(r"layer(0|[1-9][0-9]{0,3})\.")


def _flag(key: str, value: NDArray[Any]) -> bool:
    if value.shape or value.dtype != np.bool_:
        raise ModelError(f"key {key!r}: expected one boolean, found shape {value.shape} of type {value.dtype}")
    return bool(value)


def _layer_from(arrays: Mapping[str, NDArray[Any]], number: int) -> Layer:
    fields: dict[str, Any] = {"name": f"layer{number}"}
    for field in _LAYER_KEYS:
        key = f"layer{number}.{field}"
        if key in arrays:
            fields[field] = (str(arrays[key]) if field in ("name", "cell", "g_activation", "activation") else
                             _flag(key, arrays[key]) if field == "reset_after" else arrays[key])
        elif field in required(CELLS.get(fields.get("cell", LSTM.name), LSTM)):
            raise ModelError(f"key {key!r} is missing")
    return Layer(**fields)


# An archive may unpack to so many bytes, or to so many times its own size.
_UNPACKED, _RATIO = 1 << 28, 16


def read_npz(path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    """All arrays of an ``.npz`` by name. Nothing in the file is executed.

    Raises
    ------
    ModelError
        The file is not an ``.npz`` of plain arrays, or unpacks to more than 256 MiB and 16 times its size.
    OSError
        The file cannot be read.
    """
    with open(path, "rb") as file:
        try:
            size = os.fstat(file.fileno()).st_size
            with zipfile.ZipFile(file) as members:
                declared = sum(member.file_size for member in members.infolist())
                packed = max((member.compress_size for member in members.infolist()), default=0)
            if packed > size:  # so much memory would be taken
                raise ValueError(f"an array of {packed:,} bytes in a file of {size:,}")
            limit = max(_UNPACKED, _RATIO * size)
            if declared > limit:
                raise ValueError(f"it unpacks to {declared:,} bytes; at most {limit:,} are read")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                arrays = {key: archive[key] for key in archive.files}
        except Exception as error:  # numpy parses headers as Python, and fails in as many ways
            raise ModelError(f"{os.fspath(path)}: not an .npz of plain arrays ({error})") from None
    for key, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise ModelError(f"{os.fspath(path)}: not an .npz of plain arrays ({key!r} is no array)")
    return arrays
