# SPDX-License-Identifier: Apache-2.0
"""Find LSTMs among the named arrays of a state dict, a safetensors file or an ``.npz``.

Three families of names are recognized. PREFIX ends with a dot, or is empty.

PyTorch, gate order i, f, g, o along the first axis, ``K`` counting stacked layers:

====================================  ==================  =========================================
``PREFIX.weight_ih_lK``               (4H, I)             the backward direction ends in ``_reverse``
``PREFIX.weight_hh_lK``               (4H, P)
``PREFIX.bias_ih_lK, bias_hh_lK``     (4H,)               added; absent with ``bias=False``
``PREFIX.weight_hr_lK``               (P, H)              absent without ``proj_size``
``PREFIX.weight_ih, weight_hh, ...``                      an ``nn.LSTMCell``
``NAME_orig`` and ``NAME_mask``                           multiplied; from ``torch.nn.utils.prune``
====================================  ==================  =========================================

Kaldi's ``LstmProjectedStreams``, gate order g, i, f, o along the first axis:

====================================  ==================  =========================================
``PREFIX.w_gifo_x``                   (4H, I)
``PREFIX.w_gifo_r``                   (4H, P)
``PREFIX.bias``                       (4H,)
``PREFIX.peephole_i_c, _f_c, _o_c``   (H,)                all three or none
``PREFIX.w_r_m``                      (P, H)              absent without projection
====================================  ==================  =========================================

The names of the ESE paper, one array for each gate; its gate c is gate g elsewhere:

====================================  ==================  =========================================
``PREFIX.w_ix, w_fx, w_cx, w_ox``     (H, I)
``PREFIX.w_ir, w_fr, w_cr, w_or``     (H, P)
``PREFIX.b_i, b_f, b_c, b_o``         (H,)
``PREFIX.w_ic, w_fc, w_oc``           (H,)                all three or none
``PREFIX.w_ym``                       (P, H)              absent without projection
====================================  ==================  =========================================

LSTMs of the last two families whose prefixes differ only in a number at the end (``layer0``,
``layer1``, ...) are stacked in the order of these numbers. ``NAME.weight`` (K, P), with an optional
``NAME.bias`` (K,), can be selected as the linear layer after an LSTM with P outputs.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openese.sw.importers.assembly import Linear, Part, Recurrent, Track
from openese.sw.importers.base import LIMIT, Entry, ImportRefused, Source
from openese.sw.model.arrays import FloatArray
from openese.sw.model.layers import Dense, Layer

__all__ = ["Stored", "TensorSource", "stored"]

#: Attributes of a module beside its tensors: ``class``, ``mode``, ``dropout``, ``batch_first``.
Attributes = Mapping[str, Any]

_FLOATS = ("float16", "bfloat16", "float32", "float64")
_TORCH = re.compile(r"(weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)"
                    r"(?:_l(\d{1,3})(_reverse)?)?(_orig|_mask)?")
_KALDI = ("w_gifo_x", "w_gifo_r", "bias", "peephole_i_c", "peephole_f_c", "peephole_o_c", "w_r_m")
_PAPER = tuple(f"w_{gate}{of}" for gate in "ifco" for of in "xr") + tuple(f"b_{gate}" for gate in "ifco") + (
    "w_ic", "w_fc", "w_oc", "w_ym")
_RECURRENT = re.compile(r"(LSTM|GRU|RNN)(Cell)?$")


class Stored(NamedTuple):
    """A tensor that is read on demand: its shape, the name of its type, and a function that reads it."""

    shape: tuple[int, ...]
    type: str
    read: Callable[[], NDArray[Any]]


def stored(array: NDArray[Any]) -> Stored:
    """Return an array in memory as `Stored`."""
    return Stored(array.shape, str(array.dtype), lambda: array)


@dataclass(frozen=True)
class _Group:
    """The tensors under one prefix, by their names without it, and the attributes of their module."""

    name: str
    tensors: Mapping[str, Stored]
    attributes: Attributes

    @property
    def label(self) -> str:
        return self.name or "lstm"

    def values(self, name: str, shape: tuple[int, ...] | None = None) -> FloatArray:
        """Return a tensor's values as float32 or float64.

        Raises
        ------
        ImportRefused
            If the tensor is missing, too large, or of another type or shape.
        """
        tensor = self.tensors.get(name)
        if tensor is None:
            raise ImportRefused(f"{self.label}: {name} is missing")
        if tensor.type not in _FLOATS:
            raise ImportRefused(f"{self.label}: {name} has type {tensor.type}, not floating point; "
                                f"import the model before it is quantized")
        if shape is not None and tensor.shape != shape:
            raise ImportRefused(f"{self.label}: {name}: expected shape {shape}, found {tensor.shape}")
        if 8 * math.prod(tensor.shape) > LIMIT:
            raise ImportRefused(f"{self.label}: {name} has shape {tensor.shape}; at most {LIMIT // 8:,} numbers "
                                f"are read")
        array = tensor.read()
        return array if array.dtype == np.float64 else array.astype(np.float32)


class _TorchGroup(_Group):
    """Tensors with the names of ``nn.LSTM`` or ``nn.LSTMCell``."""

    def values(self, name: str, shape: tuple[int, ...] | None = None) -> FloatArray:
        if f"{name}_orig" in self.tensors:
            return super().values(f"{name}_orig", shape) * super().values(f"{name}_mask", shape)
        return super().values(name, shape)

    def shape(self, name: str) -> tuple[int, ...] | None:
        tensor = self.tensors.get(name) or self.tensors.get(f"{name}_orig")
        return tensor.shape if tensor else None

    @property
    def suffixes(self) -> list[tuple[str, ...]]:
        """The suffixes of the tensors' names: for each stacked layer, one for each direction."""
        matches = [match for match in map(_TORCH.fullmatch, self.tensors) if match and match[2]]
        if not matches:
            return [("",)]
        ways = ("", "_reverse") if any(match[3] for match in matches) else ("",)
        count = 1 + max(int(match[2]) for match in matches)
        return [tuple(f"_l{k}{way}" for way in ways) for k in range(count)]

    @property
    def kind(self) -> str:
        for attribute in (self.attributes.get("mode"), self.attributes.get("class")):
            match = re.match("LSTM|GRU|RNN", str(attribute).rpartition(".")[2])
            if match:
                return str(match[0]) + self.cell
        hh, hr = self.shape(f"weight_hh{self.suffixes[0][0]}"), self.shape(f"weight_hr{self.suffixes[0][0]}")
        if hh is None or len(hh) != 2 or 0 in hh:
            return "?"
        gates = hh[0] / (hr[1] if hr is not None and len(hr) == 2 and hr[1] else hh[1])
        kinds: dict[float, str] = {4: "LSTM", 3: "GRU", 1: "RNN"}
        return kinds.get(gates, "?") + self.cell

    @property
    def cell(self) -> str:
        return "Cell" if self.suffixes == [("",)] else ""

    @property
    def problem(self) -> str | None:
        kind = self.kind.removesuffix("Cell")
        if kind == "?":
            return (f"weight_hh has shape {self.shape('weight_hh' + self.suffixes[0][0])}; an LSTM has (4H, H), "
                    f"or (4H, P) with a projection")
        return None if kind == "LSTM" else f"a {kind} is not an LSTM: the machine has no {kind} cell"

    @property
    def sizes(self) -> tuple[int, int]:
        """The number of inputs, and of the outputs of all directions."""
        first, last = self.suffixes[0][0], self.suffixes[-1]
        inputs, outputs = self.shape(f"weight_ih{first}"), self.shape(f"weight_hh{last[0]}")
        return (inputs or (0,))[-1], (outputs or (0,))[-1] * len(last)

    def build(self) -> Recurrent:
        rows = []
        for k, ways in enumerate(self.suffixes):
            name = self.label if len(self.suffixes) == 1 else f"{self.label}.{k}"
            rows.append(tuple((Track(self.layer(way, name), way.endswith("_reverse")),) for way in ways))
        return Recurrent(self.label, tuple(rows), tuple(self.notes()))

    def layer(self, suffix: str, name: str) -> Layer:
        w_r = self.values(f"weight_hh{suffix}")
        if w_r.ndim != 2 or w_r.shape[0] % 4:
            raise ImportRefused(f"{self.label}: weight_hh{suffix}: expected shape (4H, P), found {w_r.shape}")
        cells, rows = w_r.shape[0] // 4, w_r.shape[0]
        w_x = self.values(f"weight_ih{suffix}")
        if w_x.ndim != 2 or w_x.shape[0] != rows:
            raise ImportRefused(f"{self.label}: weight_ih{suffix}: expected shape ({rows}, I), "
                                f"found {w_x.shape}")
        bias: FloatArray = np.zeros(rows, np.float32)
        for tensor in ("bias_ih", "bias_hh"):
            if self.shape(tensor + suffix) is not None:
                bias = bias + self.values(tensor + suffix, (rows,))
        projection = f"weight_hr{suffix}"
        return Layer(name=name, w_x=w_x.reshape(4, cells, -1), w_r=w_r.reshape(4, cells, -1),
                     bias=bias.reshape(4, cells),
                     w_ym=self.values(projection) if self.shape(projection) is not None else None)

    def notes(self) -> list[str]:
        notes = []
        if self.attributes.get("batch_first") is True:
            notes.append(f"{self.label}: batch_first is ignored; give frames as (T, B, I), time first")
        dropout = self.attributes.get("dropout")
        if isinstance(dropout, float) and dropout > 0:
            notes.append(f"{self.label}: dropout {dropout:g} is ignored; it acts only in training")
        return notes + _type_notes(self)


class _LstmpGroup(_Group):
    """Tensors of one layer with the names of Kaldi or of the paper."""

    kind = "LSTMP"
    problem = None

    @property
    def sizes(self) -> tuple[int, int]:
        layer_x = self.tensors.get("w_gifo_x") or self.tensors["w_ix"]
        layer_r = self.tensors.get("w_gifo_r") or self.tensors.get("w_ir")
        return (layer_x.shape or (0,))[-1], ((layer_r.shape if layer_r else ()) or (0,))[-1]

    def build(self) -> Recurrent:
        layer = self._kaldi() if "w_gifo_x" in self.tensors else self._paper()
        return Recurrent(self.label, (((Track(layer),),),), tuple(_type_notes(self)))

    def _kaldi(self) -> Layer:
        bias = self.values("bias")
        if bias.ndim != 1 or bias.size % 4 or not bias.size:
            raise ImportRefused(f"{self.label}: bias: expected shape (4H,), found {bias.shape}")
        cells = bias.size // 4
        order = [1, 2, 0, 3]
        parts: dict[str, Any] = {}
        for tensor, ours in (("w_gifo_x", "w_x"), ("w_gifo_r", "w_r")):
            values = self.values(tensor)
            if values.ndim != 2 or values.shape[0] != 4 * cells:
                raise ImportRefused(f"{self.label}: {tensor}: expected shape ({4 * cells}, any), "
                                    f"found {values.shape}")
            parts[ours] = values.reshape(4, cells, -1)[order]
        return Layer(name=self.label, bias=bias.reshape(4, cells)[order], **parts,
                     peephole=self._peepholes([f"peephole_{gate}_c" for gate in "ifo"], cells),
                     w_ym=self.values("w_r_m") if "w_r_m" in self.tensors else None)

    def _paper(self) -> Layer:
        cells = (self.tensors["w_ix"].shape or (0,))[0]
        parts: dict[str, Any] = {}
        for of, ours in (("x", "w_x"), ("r", "w_r")):
            columns = (self.values(f"w_i{of}").shape or (0,))[-1]
            parts[ours] = np.stack([self.values(f"w_{gate}{of}", (cells, columns)) for gate in "ifco"])
        return Layer(name=self.label, bias=np.stack([self.values(f"b_{gate}", (cells,)) for gate in "ifco"]),
                     **parts, peephole=self._peepholes([f"w_{gate}c" for gate in "ifo"], cells),
                     w_ym=self.values("w_ym") if "w_ym" in self.tensors else None)

    def _peepholes(self, names: Sequence[str], cells: int) -> FloatArray | None:
        if not any(name in self.tensors for name in names):
            return None
        return np.stack([self.values(name, (cells,)) for name in names])


def _type_notes(group: _Group) -> list[str]:
    halves = sorted({tensor.type for tensor in group.tensors.values()} & {"float16", "bfloat16"})
    return [f"{group.label}: {kind} weights are converted to float32, without rounding" for kind in halves]


class TensorSource(Source):
    """The LSTMs and linear layers among named tensors.

    Parameters
    ----------
    path : Path
        The file.
    tensors : mapping of str to Stored
    modules : mapping of str to mapping, optional
        Attributes of the modules that hold the tensors, by prefix.
    """

    expected = ("tensors with the names of nn.LSTM (weight_ih_l0, weight_hh_l0, ...), of Kaldi (w_gifo_x, ...) or of "
                "the ESE paper (w_ix, ...)")

    def __init__(self, path: Path, tensors: Mapping[str, Stored],
                 modules: Mapping[str, Attributes] | None = None) -> None:
        self.path = path
        self._tensors = tensors
        self._modules = modules or {}
        self._lstms: dict[str, _TorchGroup | _LstmpGroup] = {}
        for prefix, group in _grouped(tensors).items():
            attributes = self._modules.get(prefix, {})
            if any(_TORCH.fullmatch(name) and name.startswith("weight_hh") for name in group):
                lstm: _TorchGroup | _LstmpGroup = _TorchGroup(prefix, group, attributes)
            elif "w_gifo_x" in group or "w_ix" in group:
                lstm = _LstmpGroup(prefix, group, attributes)
            else:
                continue
            self._lstms[lstm.label] = lstm

    def entries(self) -> list[Entry]:
        entries = [Entry(lstm.label, lstm.kind, _summary(lstm), lstm.problem) for lstm in self._lstms.values()]
        for prefix, attributes in self._modules.items():
            kind = str(attributes.get("class", "")).rpartition(".")[2]
            if prefix not in self._lstms and _RECURRENT.search(kind) and "quantized" in attributes["class"]:
                entries.append(Entry(prefix, kind, problem=f"{attributes['class']} packs its weights; "
                                                           f"import the model before it is quantized"))
        outputs = {lstm.sizes[1] for lstm in self._lstms.values() if lstm.problem is None}
        for name, weight in self._linear().items():
            if weight.shape[1] in outputs:
                entries.append(Entry(name, "Linear", f"{weight.shape[1]} -> {weight.shape[0]}, a head for "
                                                     f"an LSTM with {weight.shape[1]} outputs"))
        return entries

    def default(self) -> list[str]:
        usable = [lstm for lstm in self._lstms.values() if lstm.problem is None]
        if len(usable) == 1:
            return [usable[0].label]
        numbered = {}
        for lstm in usable:
            match = re.fullmatch(r"(.*?)(\d+)", lstm.name)
            if isinstance(lstm, _TorchGroup) or not match:
                return []
            numbered[int(match[2])] = match[1], lstm.label
        stems = {stem for stem, _ in numbered.values()}
        return [numbered[n][1] for n in sorted(numbered)] if len(stems) == 1 else []

    def parts(self, names: Sequence[str]) -> list[Part]:
        try:
            return [self._lstms[name].build() if name in self._lstms else self._dense(name) for name in names]
        except ImportRefused as error:
            raise ImportRefused(f"{self.path.name}: {error}") from None

    def _linear(self) -> dict[str, Stored]:
        linear = {}
        for name, tensor in self._tensors.items():
            prefix, _, last = name.rpartition(".")
            kind = str(self._modules.get(prefix, {}).get("class", "Linear"))
            if last == "weight" and prefix and prefix not in self._lstms and len(tensor.shape) == 2 \
                    and kind.endswith("Linear"):
                linear[prefix] = tensor
        return linear

    def _dense(self, name: str) -> Linear:
        group = _Group(name, {field: self._tensors[f"{name}.{field}"] for field in ("weight", "bias")
                              if f"{name}.{field}" in self._tensors}, {})
        weight = group.values("weight")
        bias = group.values("bias") if "bias" in group.tensors else np.zeros(weight.shape[0], weight.dtype)
        return Linear(name, Dense(weight=weight, bias=bias), tuple(_type_notes(group)))


def _grouped(tensors: Mapping[str, Stored]) -> dict[str, dict[str, Stored]]:
    """Group the tensors that have names of an LSTM by their prefixes."""
    groups: dict[str, dict[str, Stored]] = {}
    for name, tensor in tensors.items():
        prefix, _, last = name.rpartition(".")
        if _TORCH.fullmatch(last) or last in _KALDI or last in _PAPER:
            groups.setdefault(prefix, {})[last] = tensor
    return groups


def _summary(lstm: _TorchGroup | _LstmpGroup) -> str:
    inputs, outputs = lstm.sizes
    text = f"{inputs} -> {outputs}"
    if isinstance(lstm, _TorchGroup):
        count, ways = len(lstm.suffixes), len(lstm.suffixes[0])
        text += f", {count} layers" if count > 1 else ""
        text += ", bidirectional" if ways == 2 else ""
        text += ", projected" if lstm.shape(f"weight_hr{lstm.suffixes[0][0]}") is not None else ""
    else:
        text += ", peepholes" if {"peephole_i_c", "w_ic"} & set(lstm.tensors) else ""
        text += ", projected" if {"w_r_m", "w_ym"} & set(lstm.tensors) else ""
    return text
