# SPDX-License-Identifier: Apache-2.0
"""LSTM and GRU nodes of ONNX: which of them the machine computes, and their weights.

ONNX has the gate order i, o, f, c of an LSTM, two biases Wb and Rb, which are added, and the peepholes i, o, f. Two
attributes are rewritten into weights with the same result: ``input_forget`` (1 - sigmoid(z) = sigmoid(-z)) and the
inner scale of a ``ScaledTanh``. The gates of a GRU are z, r, h.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from openese.sw.importers.assembly import Row, Track
from openese.sw.importers.base import ImportRefused
from openese.sw.importers.onnx_graph import Node, read_attributes
from openese.sw.model.arrays import FloatArray
from openese.sw.model.layers import GRU, LSTM, CellKind, Layer

__all__ = ["CELLS", "INPUTS", "RECURRENT", "Gru", "Lstm", "RecurrentNode", "read_recurrent"]

INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
_WEIGHTS = ("W", "R", "B", "P")
_GATES = [0, 2, 3, 1]
_GRU_GATES = [1, 0, 2]
_PEEPHOLES = [0, 2, 1]
_DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
#: Activations that have alpha or beta, with ONNX's defaults.
_ALPHA = {"affine": 1.0, "leakyrelu": 0.01, "thresholdedrelu": 1.0, "scaledtanh": 1.0, "hardsigmoid": 0.2,
          "elu": 1.0}
_BETA = {"affine": 0.0, "scaledtanh": 1.0, "hardsigmoid": 0.5}
#: The sigmoid of a sum beyond this is within 1.2e-7 of 0 or 1; the tanh is closer.
_CLIP_WITHOUT_EFFECT = 16.0
#: Operators that the importer and the plan of a whole network decide about.
RECURRENT = ("GRU", "RNN", "LSTM", "com.microsoft.DynamicQuantizeLSTM", "com.microsoft.AttnLSTM")


class RecurrentNode(ABC):
    """An LSTM or GRU node that the machine computes.

    Attributes
    ----------
    kind : CellKind
    node : Node
    cells : int
        H.
    ways : tuple of bool
        For each direction, whether it runs backwards.
    batch_first : bool
        Whether the node has the axis of the batch in front (``layout=1``).

    Raises
    ------
    ImportRefused
        If the machine cannot compute the node.
    """

    kind: ClassVar[CellKind]
    _functions: ClassVar[tuple[str, ...]]  # of one direction, as ONNX has them without the attribute

    def __init__(self, node: Node) -> None:
        self.node = node
        self.attributes = read_attributes(node.graph.onnx, node.proto)
        _check_types(self.attributes)
        direction = self.attributes.get("direction", "forward")
        if direction not in _DIRECTIONS:
            raise ImportRefused(f"direction {direction!r} is none of {', '.join(_DIRECTIONS)}")
        self.ways = _DIRECTIONS[direction]
        self.batch_first = self.attributes.get("layout", 0) == 1
        for name in _WEIGHTS:
            if self.given(name) and node.graph.constant(self.given(name)) is None:
                raise ImportRefused(f"{name} is computed by the graph; export the model with constant weights")
        self._check_functions()
        self.cells = self._check_shapes()

    def given(self, name: str) -> str:
        """The tensor that the node reads as this input of ONNX's LSTM; empty if it is left out."""
        return self.node.input(INPUTS.index(name))

    def computed_states(self) -> list[str]:
        """Return those of initial_h and initial_c that nodes compute, and not as zero."""
        graph = self.node.graph
        names = [name for name in ("initial_h", "initial_c") if self.given(name)]
        return [name for name in names if graph.is_computed(self.given(name)) and not graph.is_zero(self.given(name))
                and graph.constant(self.given(name)) is None]

    @abstractmethod
    def _check_functions(self) -> None:
        """Refuse activations and a clip that the machine does not compute."""

    def _activations(self) -> list[list[tuple[str, float, float]]]:
        """Return name, alpha and beta of the functions in each direction."""
        names, each = self.attributes.get("activations") or list(self._functions) * len(self.ways), len(self._functions)
        if len(names) != each * len(self.ways):
            raise ImportRefused(f"expected {each * len(self.ways)} activations, {each} for each direction, found "
                                f"{len(names)}")
        alphas, betas = (iter(self.attributes.get(f"activation_{key}") or ()) for key in ("alpha", "beta"))
        full = [(name, next(alphas, _ALPHA[name.lower()]) if name.lower() in _ALPHA else 1.0,
                 next(betas, _BETA[name.lower()]) if name.lower() in _BETA else 1.0) for name in names]
        return [full[n:n + each] for n in range(0, len(full), each)]

    def _check_shapes(self) -> int:
        """Return H, after a check of the constants' shapes; a 0 stands for any size."""
        found = {name: self.node.graph.constant(self.given(name)) for name in INPUTS[1:] if self.given(name)}
        shapes = {name: constant.array.shape for name, constant in found.items() if constant is not None}
        if "W" not in shapes or "R" not in shapes or len(shapes["R"]) != 3:
            raise ImportRefused("W and R are missing, or have not three axes")
        ways, gates = len(self.ways), len(self.kind.gates)
        cells = self.attributes.get("hidden_size") or shapes["R"][2]
        state = (0, ways, cells) if self.batch_first else (ways, 0, cells)
        for name, letters, wanted in (("R", f"directions, {gates}H, H", (ways, gates * cells, cells)),
                                      ("W", f"directions, {gates}H, I", (ways, gates * cells, 0)),
                                      ("B", f"directions, {2 * gates}H", (ways, 2 * gates * cells)),
                                      ("P", "directions, 3H", (ways, 3 * cells)),
                                      ("initial_h", "directions, B, H", state),
                                      ("initial_c", "directions, B, H", state)):
            shape = shapes.get(name, wanted)
            if len(shape) != len(wanted) or any(want not in (0, got) for want, got in zip(wanted, shape, strict=True)):
                sizes = ", ".join(str(size or "any") for size in wanted)
                raise ImportRefused(f"{name}: expected shape ({letters}) = ({sizes}), found {shape}")
        if not cells or not shapes["W"][2]:
            raise ImportRefused(f"{self.kind.title} without cells or inputs")
        return int(cells)

    def tensor(self, name: str) -> FloatArray | None:
        """Return a constant input as float32 or float64; None if it is left out or computed by the graph."""
        constant = self.node.graph.constant(self.given(name)) if self.given(name) else None
        if constant is None:
            return None
        return constant.array if constant.array.dtype == np.float64 else constant.array.astype(np.float32)

    def row(self) -> Row:
        """Return one or two directions, from zero states."""
        ways, gates = len(self.ways), len(self.kind.gates)
        w, r, b, p = (self.tensor(name) for name in _WEIGHTS)
        if w is None or r is None:
            raise ImportRefused("W and R are missing")
        b = np.zeros((ways, 2 * gates * self.cells), w.dtype) if b is None else b
        row = []
        for d, reverse in enumerate(self.ways):
            name = self.node.name if ways == 1 else f"{self.node.name}.{'reverse' if reverse else 'forward'}"
            layer = self._layer(d, name, w[d].reshape(gates, self.cells, -1), r[d].reshape(gates, self.cells, -1),
                                b[d].reshape(2, gates, self.cells), None if p is None else p[d])
            row.append((Track(layer, reverse),))
        return tuple(row)

    @abstractmethod
    def _layer(self, way: int, name: str, w: FloatArray, r: FloatArray, b: FloatArray, p: FloatArray | None) -> Layer:
        """The layer of one direction: ONNX's W and R with an axis of gates, Wb and Rb (2, gates, H), and P (3H,)."""

    def notes(self) -> list[str]:
        """Return what a user should know about the weights."""
        name, notes = self.node.name, []
        through: set[str] = set()
        for tensor in _WEIGHTS:
            constant = self.node.graph.constant(self.given(tensor)) if self.given(tensor) else None
            through |= constant.through if constant is not None else set()
        if "DequantizeLinear" in through:
            notes.append(f"{name}: quantized weights are converted to floating point")
        notes += [f"{name}: {kind} weights are converted to float32, without rounding"
                  for kind in ("float16", "bfloat16") if kind in through]
        return notes


class Lstm(RecurrentNode):
    """An LSTM node."""

    kind = LSTM
    _functions = ("Sigmoid", "Tanh", "Tanh")

    def _check_functions(self) -> None:
        self._gates = [_gate_activations(values) for values in self._activations()]
        clip = self.attributes.get("clip", 0.0)
        without_effect = _CLIP_WITHOUT_EFFECT / min(1.0, *(abs(scale) or 1.0 for _, scale in self._gates))
        if 0 < clip < without_effect:
            raise ImportRefused(f"clip {clip:g}: the machine does not clip sums; export without clip, or with "
                                f"{without_effect:g} or more, which changes nothing")

    def _layer(self, way: int, name: str, w: FloatArray, r: FloatArray, b: FloatArray, p: FloatArray | None) -> Layer:
        g_activation, scale = self._gates[way]
        gates = _scaled(w[_GATES], r[_GATES], b.sum(axis=0)[_GATES], scale)
        peephole = None if p is None or not p.any() else p.reshape(3, self.cells)[_PEEPHOLES]
        if self.attributes.get("input_forget"):
            gates = [_coupled(tensor) for tensor in gates]
            peephole = None if peephole is None else _coupled(peephole)
        return Layer(name=name, w_x=gates[0], w_r=gates[1], bias=gates[2], peephole=peephole, g_activation=g_activation)

    def notes(self) -> list[str]:
        """Return what a user should know about the weights."""
        name, notes = self.node.name, super().notes()
        if self.attributes.get("clip", 0.0) > 0:
            notes.append(f"{name}: clip {self.attributes['clip']:g} is dropped; it changes nothing")
        if self.attributes.get("input_forget"):
            notes.append(f"{name}: input_forget: gate f gets the negated weights of gate i")
        return notes


class Gru(RecurrentNode):
    """A GRU node."""

    kind = GRU
    _functions = ("Sigmoid", "Tanh")

    def _check_functions(self) -> None:
        for (f, *_), (g, *_) in self._activations():
            for found, computed, gates in ((f, "Sigmoid", "gates z, r"), (g, "Tanh", "gate h")):
                if found.lower() != computed.lower():
                    raise ImportRefused(f"activation {found} of the {gates}: the machine computes only {computed} "
                                        f"there")
        if self.attributes.get("clip", 0.0) > 0:
            raise ImportRefused(f"clip {self.attributes['clip']:g}: the machine does not clip sums; export without "
                                f"clip")
        for name in ("initial_c", "P"):
            if self.given(name):
                raise ImportRefused(f"it has an input {name!r}, which a GRU of ONNX has not")

    def _layer(self, way: int, name: str, w: FloatArray, r: FloatArray, b: FloatArray, p: FloatArray | None) -> Layer:
        w, r, b = w[_GRU_GATES], r[_GRU_GATES], b[:, _GRU_GATES]
        after = bool(self.attributes.get("linear_before_reset"))
        of_n = b[0, 2:] if after else b[0, 2:] + b[1, 2:]
        return Layer(name=name, cell=GRU.name, w_x=w, w_r=r, bias=np.concatenate([b[0, :2] + b[1, :2], of_n]),
                     bias_rn=b[1, 2] if after else None, reset_after=after)


#: The classes of nodes by their operators.
CELLS: dict[str, type[RecurrentNode]] = {"LSTM": Lstm, "GRU": Gru}


def read_recurrent(node: Node) -> RecurrentNode | str:
    """Return the LSTM or GRU that a recurrent node is, or the reason why the machine does not compute it."""
    if node.kind not in CELLS:
        return f"a {node.kind} is not an LSTM or GRU of the ONNX standard, and the machine does not compute it"
    try:
        return CELLS[node.kind](node)
    except ImportRefused as error:
        return str(error)


def _check_types(attributes: dict[str, Any]) -> None:
    """Refuse attributes of a node that have another type than ONNX gives them."""
    for names, kind, text in ((("direction", "activations"), str, "text"),
                              (("layout", "hidden_size", "input_forget", "linear_before_reset"), int, "a whole number"),
                              (("activation_alpha", "activation_beta", "clip"), (int, float), "a number")):
        for name in names:
            value = attributes.get(name)
            several = name.startswith("activation")
            if value is not None and (isinstance(value, list) is not several or not all(
                    isinstance(item, kind) for item in (value if several else [value]))):
                raise ImportRefused(f"attribute {name} must be {'several times ' * several}{text}, "
                                    f"not {str(value)[:60]}")


def _gate_activations(functions: Sequence[tuple[str, float, float]]) -> tuple[str, float]:
    """Return the activation of gate g and the scale of its argument, after a check of f and h."""
    (f, *_), (g, g_alpha, g_beta), (h, h_alpha, h_beta) = functions
    if f.lower() != "sigmoid":
        raise ImportRefused(f"activation {f} of the gates i, o, f: the machine computes only Sigmoid there")
    if h.lower() != "tanh" and (h.lower(), h_alpha, h_beta) != ("scaledtanh", 1.0, 1.0):
        raise ImportRefused(f"activation {h} of the cell's output: the machine computes only Tanh there")
    if g.lower() in ("tanh", "sigmoid"):
        return g.lower(), 1.0
    if g.lower() == "scaledtanh" and g_alpha == 1.0:
        return "tanh", g_beta
    raise ImportRefused(f"activation {g} of the cell's input: the machine computes only Tanh, Sigmoid and "
                        f"ScaledTanh with alpha 1 there")


def _scaled(w_x: FloatArray, w_r: FloatArray, bias: FloatArray, scale: float) -> list[FloatArray]:
    """Return the gates' tensors, those of gate g multiplied by ``scale``."""
    factors = np.array([1.0, 1.0, scale, 1.0], w_x.dtype)
    with np.errstate(invalid="ignore", over="ignore"):  # the layer refuses what is not finite
        return [w_x * factors[:, None, None], w_r * factors[:, None, None], bias * factors[:, None]]


def _coupled(tensor: FloatArray) -> FloatArray:
    """Return ``tensor`` with gate f replaced by the negated gate i."""
    return np.concatenate([tensor[:1], -tensor[:1], tensor[2:]])
