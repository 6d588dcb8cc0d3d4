# SPDX-License-Identifier: Apache-2.0
"""LSTMs and GRUs among named tensors, by the names of PyTorch, of Kaldi and of the ESE paper.

Every tensor under a cell's prefix must be understood. One that is not may be a LayerNorm inside the cell, an adapter or
a gate that other cells do not have; an import without it would be wrong. So it blocks the cell until the user says that
it does nothing.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from openese.sw.importers.assembly import Recurrent, Track
from openese.sw.importers.base import ImportRefused, listed
from openese.sw.importers.parameters import FLOATS, Parameter, Stored, owner, resolve
from openese.sw.model.arrays import FloatArray
from openese.sw.model.layers import CELLS, GRU, CellKind, Layer
from openese.sw.model.state import LayerState

__all__ = ["Attributes", "Blocker", "Cell", "Group", "LstmpCell", "TorchCell", "cell_of", "type_notes",
           "with_outside"]

#: Attributes of a module beside its tensors: ``class``, ``mode``, ``dropout``, ``batch_first``, ``variational``,
#: and ``same``, the path of the same module elsewhere.
Attributes = Mapping[str, Any]

_TORCH = re.compile(r"(weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)(?:_l(\d{1,3})(_reverse)?)?")
_MLX = {"Wx": "weight_ih", "Wh": "weight_hh"}
_MLX_GRU = {**_MLX, "b": "bias_ih"}
_KALDI = ("w_gifo_x", "w_gifo_r", "bias", "peephole_i_c", "peephole_f_c", "peephole_o_c", "w_r_m")
_PAPER = tuple(f"w_{gate}{of}" for gate in "ifco" for of in "xr") + tuple(f"b_{gate}" for gate in "ifco") + (
    "w_ic", "w_fc", "w_oc", "w_ym")
#: The recurrent weights beside the weights of x.
_RECURRENT = {"w_gifo_x": "w_gifo_r", "w_ix": "w_ir", "w_x": "w_r"}
#: Names of the peepholes of one gate, where other cells have PyTorch's names.
_PEEPHOLES = ("weight_c{}", "weight_c_{}", "w_c{}", "W_c{}", "w_{}c", "W_{}c", "peephole_{}", "peephole_{}_c", "p_{}")
_LAYER = ("w_x", "w_r", "bias", "peephole", "w_ym")
#: Classes whose code is known.
_OWN = re.compile(r"torch\.nn\.modules\.rnn\.(LSTM|GRU)(Cell)?|"
                  r"torch\.nn\.utils\.parametrize\.Parametrized(LSTM|GRU)(Cell)?|openese\.sw\.training\.lstmp\.LSTMP")
_SCALED = re.compile(r"(.*\.)?ScaledLSTM")
_NORMS = re.compile(r"(^|[._])(ln|bn|layer_?norm|batch_?norm|norm|gamma|beta)", re.IGNORECASE)


class Blocker(NamedTuple):
    """Tensors or modules that keep a layer from being imported, and the reason. The user may ignore them."""

    names: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Group:
    """The tensors under one prefix.

    Attributes
    ----------
    name : str
        The prefix without its dot; empty for the file itself.
    tensors : mapping of str to Stored
        By their names without the prefix.
    full : mapping of str to str
        Their names in the file.
    attributes : Attributes
        Of the module with this prefix.
    label : str
        The name that messages have and ``select`` takes.
    """

    name: str
    tensors: Mapping[str, Stored]
    full: Mapping[str, str]
    attributes: Attributes
    label: str

    @cached_property
    def parameters(self) -> dict[str, Parameter]:
        return resolve(self.tensors)

    def shape(self, name: str) -> tuple[int, ...] | None:
        parameter = self.parameters.get(name)
        return parameter.shape if parameter else None

    def values(self, name: str, shape: tuple[int, ...] | None = None) -> FloatArray:
        """Return a parameter's values as float32 or float64.

        Raises
        ------
        ImportRefused
            If the parameter is missing, too large, or of another type or shape.
        """
        parameter = self.parameters.get(name)
        if parameter is None:
            raise ImportRefused(f"{self.label}: {name} is missing")
        if shape is not None and parameter.shape != shape:
            raise ImportRefused(f"{self.label}: {name}: expected shape {shape}, found {parameter.shape}")
        try:
            return parameter.read()
        except ImportRefused as error:
            raise ImportRefused(f"{self.label}: {error}") from None

    def unread(self, names: Iterable[str]) -> list[str]:
        """Return the tensors that stand for none of the parameters ``names``."""
        read = {tensor for name in names if name in self.parameters for tensor in self.parameters[name].tensors}
        return [name for name in self.tensors if name not in read]

    def notes(self, names: Iterable[str]) -> list[str]:
        """Return how the parameters ``names`` are computed, and the types that are converted."""
        there = [self.parameters[name] for name in names if name in self.parameters]
        computed = dict.fromkeys(parameter.note for parameter in there if parameter.note)
        return [f"{self.label}: {note}" for note in computed] + type_notes(
            self.label, [self.tensors[tensor] for parameter in there for tensor in parameter.tensors])


def type_notes(label: str, tensors: Iterable[Stored]) -> list[str]:
    """Return a note for each kind of half-precision numbers among ``tensors``."""
    halves = sorted({tensor.type for tensor in tensors} & {"float16", "bfloat16"})
    return [f"{label}: {kind} weights are converted to float32, without rounding" for kind in halves]


@dataclass(frozen=True)
class Cell(Group):
    """An LSTM or GRU, of one or several layers.

    Attributes
    ----------
    states : mapping of str to (str, Stored)
        Initial states that the file has for this cell alone, ``h`` and for an LSTM ``c``: names in the file, and
        tensors.
    outside : tuple of Blocker
        What the file has around the cell.
    """

    states: Mapping[str, tuple[str, Stored]] | None = None
    outside: tuple[Blocker, ...] = ()

    @property
    def kind(self) -> str:
        """The class, as far as the tensors tell."""
        return "LSTM"

    @property
    def refusal(self) -> str | None:
        """Why this is no LSTM or GRU, or not one that can be read; None if it is one."""
        return None

    @property
    def article(self) -> str:
        """The class with its article, for messages."""
        return f"{'an' if self.kind.startswith('L') else 'a'} {self.kind.removesuffix('Cell')}"

    @property
    def used(self) -> list[str]:
        """Names of the parameters that `build` reads."""
        raise NotImplementedError

    @property
    def sizes(self) -> tuple[int, int]:
        """The number of inputs, and of the outputs of all directions."""
        raise NotImplementedError

    @property
    def summary(self) -> str:
        raise NotImplementedError

    def build(self) -> Recurrent:
        """Return the layers.

        Raises
        ------
        ImportRefused
            If a tensor is missing, or has another shape or type.
        """
        raise NotImplementedError

    @cached_property
    def blockers(self) -> list[Blocker]:
        """What must be understood or ignored before the cell can be taken."""
        origin = str(self.attributes.get("class", ""))
        found = list(self.outside)
        known = _OWN.fullmatch(origin) or (_SCALED.fullmatch(origin) and any(
            name.endswith("_scale") for name in self.tensors))
        if origin and not known and self.refusal is None:
            found.append(Blocker((self.label,), f"its class {origin} is not PyTorch's, so the file does not tell what "
                                                f"it computes"))
        unread = self.unread(self.used)
        if unread:
            found.append(Blocker(tuple(self.full[name] for name in unread), self._meaning(unread)))
        return found

    def _meaning(self, unread: Sequence[str]) -> str:
        if any(name.startswith("parametrizations.") for name in unread):
            return ("a parametrization that is not known here; call "
                    "torch.nn.utils.parametrize.remove_parametrizations before saving")
        if any(_NORMS.search(name) for name in unread):
            return "normalization inside the cell, which the machine does not compute"
        if any(len(self.tensors[name].shape) == 2 and 1 not in self.tensors[name].shape
               and name.startswith(tuple(form.partition("{")[0] for form in _PEEPHOLES)) for name in unread):
            return "peepholes as matrices; the machine has one peephole for each cell"
        return f"not those of {self.article}, so their effect is not known"

    @property
    def problem(self) -> str | None:
        """Why the cell cannot be taken, and what to do; None if it can."""
        if self.refusal is not None:
            return self.refusal
        for name in self.used:
            for tensor in self.parameters[name].tensors if name in self.parameters else ():
                if self.tensors[tensor].type not in FLOATS:
                    return (f"{tensor} has type {self.tensors[tensor].type}, not floating point; import the model "
                            f"before it is quantized")
        for names, reason in self.blockers:
            if names == (self.label,):
                return f"{reason}; if it computes {self.article}, give --ignore {self.label}"
            return (f"{listed(names)} beside its weights: {reason}; give --ignore NAME for each that has no effect")
        return None


@dataclass(frozen=True)
class TorchCell(Cell):
    """Tensors with the names of ``nn.LSTM``, ``nn.GRU`` or their cells."""

    @cached_property
    def suffixes(self) -> list[tuple[str, ...]]:
        """The suffixes of the parameters' names: for each stacked layer, one for each direction."""
        matches = [match for match in map(_TORCH.fullmatch, self.parameters) if match and match[2]]
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
                return str(match[0]) + self._cell
        kinds: dict[float, str] = {4: "LSTM", 3: "GRU", 1: "RNN"}
        gates = self._gates(self.suffixes[0][0])
        return "?" if gates is None else kinds.get(gates, "?") + self._cell

    @property
    def cell_kind(self) -> CellKind | None:
        """The kind of cell; None for another one."""
        return CELLS.get(self.kind.removesuffix("Cell").lower())

    @property
    def is_gru(self) -> bool:
        """Whether it is a GRU."""
        return self.cell_kind is GRU

    def _gates(self, suffix: str) -> float | None:
        """The rows of ``weight_hh`` by the number of cells; None if it has not two axes."""
        hh, hr = self.shape(f"weight_hh{suffix}"), self.shape(f"weight_hr{suffix}")
        if hh is None or len(hh) != 2 or 0 in hh:
            return None
        return hh[0] / (hr[1] if hr is not None and len(hr) == 2 and hr[1] else hh[1])

    @property
    def _cell(self) -> str:
        return "Cell" if self.suffixes == [("",)] else ""

    @property
    def refusal(self) -> str | None:
        kind = self.kind.removesuffix("Cell")
        if kind == "RNN":
            return "an RNN is no LSTM or GRU: the machine has no RNN cell"
        for name in [f"weight_{of}{way}" for ways in self.suffixes for way in ways for of in ("ih", "hh")]:
            if name not in self.parameters:
                unread = [tensor for tensor in self.tensors if owner(tensor) == name]
                if any(tensor.startswith("parametrizations.") for tensor in unread):
                    return f"{name}: {self._meaning(unread)}: {listed(unread)}"
                return f"{name} is missing" + (f", and cannot be computed from {listed(unread)}" if unread else "")
        shape = self.shape("weight_hh" + self.suffixes[0][0])
        if kind == "?":
            return (f"weight_hh has shape {shape}; an LSTM has (4H, H), or (4H, P) with a projection, and a GRU "
                    f"(3H, H)")
        sizes = "a GRU has (3H, H)" if self.is_gru else "an LSTM has (4H, H), or (4H, P) with a projection"
        wrong = [way for ways in self.suffixes for way in ways if self._gates(way) != (3 if self.is_gru else 4)]
        return f"weight_hh{wrong[0]} has shape {self.shape(f'weight_hh{wrong[0]}')}; {sizes}" if wrong else None

    @property
    def used(self) -> list[str]:
        return [name for ways in self.suffixes for way in ways
                for name in (f"weight_ih{way}", f"weight_hh{way}", *([] if self.is_gru else [f"weight_hr{way}"]),
                             *self._biases(way), *self._peepholes(way))]

    def _biases(self, suffix: str) -> list[str]:
        names = ("bias_ih", "bias_hh") if suffix or not self.is_gru else ("bias_ih", "bias_hh", "bhn")
        both = [name + suffix for name in names if name + suffix in self.parameters]
        if self.is_gru:  # of one bias for both products, nobody knows whether r multiplies its part of n
            return both
        return both or [name for name in (f"bias{suffix}",) if name in self.parameters]

    def _peepholes(self, suffix: str) -> list[str]:
        """Return the names of the peepholes: one for i, f and o together, or three; none if there is no one way."""
        if self.is_gru:
            return []
        rows = (self.shape(f"weight_hh{suffix}") or (0,))[0]
        cells = rows // 4
        names = [[f"weight_ch{suffix}"]] if self.shape(f"weight_ch{suffix}") in ((3 * cells,), (3 * cells, 1)) else []
        for form in _PEEPHOLES:
            three = [form.format(gate) + suffix for gate in "ifo"]
            if all(self.shape(name) in ((cells,), (1, cells), (cells, 1)) for name in three):
                names.append(three)
        return names[0] if len(names) == 1 else []

    @property
    def sizes(self) -> tuple[int, int]:
        first, last = self.suffixes[0][0], self.suffixes[-1]
        inputs, outputs = self.shape(f"weight_ih{first}"), self.shape(f"weight_hh{last[0]}")
        return (inputs or (0,))[-1], (outputs or (0,))[-1] * len(last)

    @property
    def summary(self) -> str:
        inputs, outputs = self.sizes
        count, ways, first = len(self.suffixes), len(self.suffixes[0]), self.suffixes[0][0]
        return (f"{inputs} -> {outputs}" + (f", {count} layers" if count > 1 else "")
                + (", bidirectional" if ways == 2 else "") + (", peepholes" if self._peepholes(first) else "")
                + (", projected" if self.shape(f"weight_hr{first}") is not None else "")
                + (f", initial states {' and '.join(name for name, _ in self.states.values())}" if self.states else ""))

    def build(self) -> Recurrent:
        rows, states = [], iter(self._initial())
        for k, ways in enumerate(self.suffixes):
            name = self.label if len(self.suffixes) == 1 else f"{self.label}.{k}"
            rows.append(tuple((Track(self._layer(way, name), way.endswith("_reverse"), next(states)),)
                              for way in ways))
        return Recurrent(self.label, tuple(rows), tuple(self._notes()), self.attributes.get("batch_first") is True)

    def _layer(self, suffix: str, name: str) -> Layer:
        gates = 3 if self.is_gru else 4
        w_r = self.values(f"weight_hh{suffix}")
        if w_r.ndim != 2 or w_r.shape[0] % gates:
            raise ImportRefused(f"{self.label}: weight_hh{suffix}: expected shape ({gates}H, P), found {w_r.shape}")
        cells, rows = w_r.shape[0] // gates, w_r.shape[0]
        w_x = self.values(f"weight_ih{suffix}")
        if w_x.ndim != 2 or w_x.shape[0] != rows:
            raise ImportRefused(f"{self.label}: weight_ih{suffix}: expected shape ({rows}, I), "
                                f"found {w_x.shape}")
        if self.is_gru:
            return self._gru(suffix, name, w_x.reshape(3, cells, -1), w_r.reshape(3, cells, -1))
        bias: FloatArray = np.zeros(rows, np.float32)
        for tensor in self._biases(suffix):
            bias = bias + self.values(tensor, (rows,))
        peepholes, projection = self._peepholes(suffix), f"weight_hr{suffix}"
        return Layer(name=name, w_x=w_x.reshape(4, cells, -1), w_r=w_r.reshape(4, cells, -1),
                     bias=bias.reshape(4, cells),
                     peephole=np.concatenate([self.values(tensor).reshape(-1, cells) for tensor in peepholes])
                     if peepholes else None,
                     w_ym=self.values(projection) if self.shape(projection) is not None else None)

    def _gru(self, suffix: str, name: str, w_x: FloatArray, w_r: FloatArray) -> Layer:
        cells = w_r.shape[1]
        held = {tensor: self.values(tensor, (cells if tensor == "bhn" else 3 * cells,))
                for tensor in self._biases(suffix)}
        zero: FloatArray = np.zeros(3 * cells, w_x.dtype)
        bias = held.get(f"bias_ih{suffix}", zero).reshape(3, cells)
        recurrent = held.get(f"bias_hh{suffix}", zero).reshape(3, cells)
        return Layer(name=name, cell=GRU.name, w_x=w_x, w_r=w_r, bias_rn=held.get("bhn", recurrent[2]),
                     bias=np.concatenate([bias[:2] + recurrent[:2], bias[2:]]))

    def _initial(self) -> list[LayerState | None]:
        """Return the initial states of all layers and directions, in PyTorch's order."""
        count = len(self.suffixes) * len(self.suffixes[0])
        if self.states is None:
            return [None] * count
        held = Group(self.name, {name: tensor for name, tensor in self.states.values()}, {}, {}, self.label)
        h, c = (held.values(self.states[state][0]).reshape(count, 1, -1) for state in ("hh" if self.is_gru else "hc"))
        return [LayerState(c[number], h[number]) for number in range(count)]

    def _notes(self) -> list[str]:
        notes = []
        if self.attributes.get("batch_first") is True:
            notes.append(f"{self.label}: batch_first: the file's network takes (batch, time, features); give frames "
                         f"as (T, B, I), time first")
        dropout = self.attributes.get("dropout")
        if isinstance(dropout, float) and dropout > 0:
            notes.append(f"{self.label}: dropout {dropout:g} is ignored; it acts only in training")
        names = [name for ways in self.suffixes for way in ways for name in
                 [*(name for name in self._biases(way) if name == f"bias{way}"), *self._peepholes(way)]]
        if names:
            notes.append(f"{self.label}: {', '.join(names)} as in most cells of this kind: gates in the order i, f, g, "
                         f"o" + (", and o sees the new cell state through its peephole"
                                 if any(map(self._peepholes, self.suffixes[0])) else "")
                         + "; check the code of the cell")
        if self.states is not None:
            notes.append(f"{self.label}: starts from {' and '.join(name for name, _ in self.states.values())}")
        return notes + self.notes(self.used)


@dataclass(frozen=True)
class LstmpCell(Cell):
    """Tensors of one layer with the names of Kaldi, of the paper, or of `openese.LSTMP`."""

    @property
    def kind(self) -> str:
        return "LSTMP"

    @property
    def used(self) -> list[str]:
        return list(next(names for names in (_KALDI, _PAPER, _LAYER) if names[0] in self.parameters))

    @property
    def numbered(self) -> bool:
        """Whether layers of these names form a stack in the order of the numbers in their prefixes."""
        return self.used[0] != "w_x"

    @property
    def sizes(self) -> tuple[int, int]:
        of_x = self.used[0]
        return (self.shape(of_x) or (0,))[-1], (self.shape(_RECURRENT[of_x]) or (0,))[-1]

    @property
    def summary(self) -> str:
        inputs, outputs = self.sizes
        there = set(self.parameters)
        return (f"{inputs} -> {outputs}" + (", peepholes" if {"peephole_i_c", "w_ic", "peephole"} & there else "")
                + (", projected" if {"w_r_m", "w_ym"} & there else ""))

    def build(self) -> Recurrent:
        make = {"w_gifo_x": self._from_kaldi, "w_ix": self._from_paper, "w_x": self._from_layer}
        layer = make[self.used[0]]()
        return Recurrent(self.label, (((Track(layer),),),), tuple(self.notes(self.used)))

    def _from_kaldi(self) -> Layer:
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
                     w_ym=self.values("w_r_m") if "w_r_m" in self.parameters else None)

    def _from_paper(self) -> Layer:
        cells = (self.shape("w_ix") or (0,))[0]
        parts: dict[str, Any] = {}
        for of, ours in (("x", "w_x"), ("r", "w_r")):
            columns = (self.values(f"w_i{of}").shape or (0,))[-1]
            parts[ours] = np.stack([self.values(f"w_{gate}{of}", (cells, columns)) for gate in "ifco"])
        return Layer(name=self.label, bias=np.stack([self.values(f"b_{gate}", (cells,)) for gate in "ifco"]),
                     **parts, peephole=self._peepholes([f"w_{gate}c" for gate in "ifo"], cells),
                     w_ym=self.values("w_ym") if "w_ym" in self.parameters else None)

    def _from_layer(self) -> Layer:
        parts: dict[str, Any] = {name: self.values(name) for name in _LAYER
                                 if name in self.parameters or name in ("w_x", "w_r", "bias")}
        return Layer(name=self.label, **parts)

    def _peepholes(self, names: Sequence[str], cells: int) -> FloatArray | None:
        if not any(name in self.parameters for name in names):
            return None
        return np.stack([self.values(name, (cells,)) for name in names])


def cell_of(group: Group) -> Cell | None:
    """Return the cell under a prefix; None if its tensors have no names of one."""
    if {"Wx", "Wh"} <= group.tensors.keys():
        names = _MLX_GRU if {"b", "bhn"} <= group.tensors.keys() else _MLX
        group = replace(group, tensors={names.get(name, name): tensor for name, tensor in group.tensors.items()},
                        full={names.get(name, name): full for name, full in group.full.items()})
    made = {field: getattr(group, field) for field in ("name", "tensors", "full", "attributes", "label")}
    if any(match and match[1] in ("weight_ih", "weight_hh") for match in map(_TORCH.fullmatch, group.parameters)):
        return TorchCell(**made)
    known = set(group.parameters)
    ours = "w_x" in known and (group.shape("w_x") or ())[:1] == (4,) and "w_r" in known
    return LstmpCell(**made) if ours or {"w_gifo_x", "w_ix"} & known else None


def with_outside(cell: Cell, *blockers: Blocker) -> Cell:
    """Return ``cell`` with more that blocks it."""
    return replace(cell, outside=(*cell.outside, *blockers))
