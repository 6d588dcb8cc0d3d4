# SPDX-License-Identifier: Apache-2.0
"""Import ONNX models: LSTM nodes anywhere in the graph, and the linear layers after them.

ONNX has the gate order i, o, f, c, two biases Wb and Rb, which are added, and the peepholes i, o, f. An LSTM node
that the machine cannot compute is refused with the reason. Two attributes are rewritten into weights with the same
result: ``input_forget`` (1 - sigmoid(z) = sigmoid(-z)) and the inner scale of a ``ScaledTanh``.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openese.sw.importers.assembly import Linear, Part, Recurrent, Track
from openese.sw.importers.base import LIMIT, Entry, Importer, ImportRefused, Source, require
from openese.sw.importers.onnx_graph import Graph, Node, linear_weight, read_attributes
from openese.sw.model.arrays import FloatArray
from openese.sw.model.layers import Dense, Layer
from openese.sw.model.state import LayerState

__all__ = ["IMPORTER"]

_INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
_GATES = [0, 2, 3, 1]
_PEEPHOLES = [0, 2, 1]
_DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
_DEFAULTS = ("Sigmoid", "Tanh", "Tanh")
#: Activations that have alpha or beta, with ONNX's defaults.
_ALPHA = {"affine": 1.0, "leakyrelu": 0.01, "thresholdedrelu": 1.0, "scaledtanh": 1.0, "hardsigmoid": 0.2,
          "elu": 1.0}
_BETA = {"affine": 0.0, "scaledtanh": 1.0, "hardsigmoid": 0.5}
#: The sigmoid of a sum beyond this is within 1.2e-7 of 0 or 1; the tanh is closer.
_CLIP_WITHOUT_EFFECT = 16.0
_RECURRENT = ("GRU", "RNN", "LSTM", "DynamicQuantizeLSTM", "AttnLSTM")


class _Lstm:
    """An LSTM node with checked attributes.

    Raises
    ------
    ImportRefused
        If the machine cannot compute the node.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self.attributes = read_attributes(node.graph.onnx, node.proto)
        _check_types(self.attributes)
        direction = self.attributes.get("direction", "forward")
        if direction not in _DIRECTIONS:
            raise ImportRefused(f"direction {direction!r} is none of {', '.join(_DIRECTIONS)}")
        self.ways = _DIRECTIONS[direction]
        self.batch_first = self.attributes.get("layout", 0) == 1
        for name in ("W", "R", "B", "P"):
            if self._given(name) and node.graph.constant(self._given(name)) is None:
                raise ImportRefused(f"{name} is computed by the graph; export the model with constant weights")
        self._gates = [_gate_activations(values) for values in self._activations()]
        clip = self.attributes.get("clip", 0.0)
        without_effect = _CLIP_WITHOUT_EFFECT / min(1.0, *(scale for _, scale in self._gates))
        if 0 < clip < without_effect:
            raise ImportRefused(f"clip {clip:g}: the machine does not clip sums; export without clip, or with "
                                f"{without_effect:g} or more, which changes nothing")

    def _given(self, name: str) -> str:
        return self.node.input(_INPUTS.index(name))

    def _activations(self) -> list[list[tuple[str, float, float]]]:
        """Return name, alpha and beta of the functions f, g and h in each direction."""
        names = self.attributes.get("activations") or list(_DEFAULTS) * len(self.ways)
        if len(names) != 3 * len(self.ways):
            raise ImportRefused(f"expected {3 * len(self.ways)} activations, 3 for each direction, found {len(names)}")
        alphas, betas = (iter(self.attributes.get(f"activation_{key}") or ()) for key in ("alpha", "beta"))
        full = [(name, next(alphas, _ALPHA[name.lower()]) if name.lower() in _ALPHA else 1.0,
                 next(betas, _BETA[name.lower()]) if name.lower() in _BETA else 1.0) for name in names]
        return [full[n:n + 3] for n in range(0, len(full), 3)]

    def tensor(self, name: str, letters: str, shape: tuple[int, ...]) -> FloatArray | None:
        """Return a constant input as float32 or float64; a 0 in ``shape`` stands for any size."""
        constant = self.node.graph.constant(self._given(name)) if self._given(name) else None
        if constant is None:
            return None
        array = constant.array
        if array.ndim != len(shape) or any(want not in (0, got)
                                           for want, got in zip(shape, array.shape, strict=True)):
            wanted = ", ".join(str(size or "any") for size in shape)
            raise ImportRefused(f"{name}: expected shape ({letters}) = ({wanted}), found {array.shape}")
        return array if array.dtype == np.float64 else array.astype(np.float32)

    def build(self) -> Recurrent:
        """Return the node as one row of one or two directions."""
        ways = len(self.ways)
        r = self.tensor("R", "directions, 4H, H", (ways, 0, 0))
        cells = self.attributes.get("hidden_size") or (r.shape[2] if r is not None else 0)
        r = self.tensor("R", "directions, 4H, H", (ways, 4 * cells, cells))
        w = self.tensor("W", "directions, 4H, I", (ways, 4 * cells, 0))
        if w is None or r is None or not cells:
            raise ImportRefused("W and R are missing")
        b = self.tensor("B", "directions, 8H", (ways, 8 * cells))
        b = np.zeros((ways, 8 * cells), w.dtype) if b is None else b
        p = self.tensor("P", "directions, 3H", (ways, 3 * cells))
        initial = self._initial(cells)
        row = []
        for d, reverse in enumerate(self.ways):
            g_activation, scale = self._gates[d]
            gates = _scaled(w[d].reshape(4, cells, -1)[_GATES], r[d].reshape(4, cells, cells)[_GATES],
                            b[d].reshape(2, 4, cells).sum(axis=0)[_GATES], scale)
            peephole = None if p is None or not p[d].any() else p[d].reshape(3, cells)[_PEEPHOLES]
            if self.attributes.get("input_forget"):
                gates = [_coupled(tensor) for tensor in gates]
                peephole = None if peephole is None else _coupled(peephole)
            name = self.node.name if ways == 1 else f"{self.node.name}.{'reverse' if reverse else 'forward'}"
            layer = Layer(name=name, w_x=gates[0], w_r=gates[1], bias=gates[2], peephole=peephole,
                          g_activation=g_activation)
            row.append((Track(layer, reverse, initial[d]),))
        return Recurrent(self.node.name, (tuple(row),), tuple(self._notes()))

    def _initial(self, cells: int) -> list[LayerState | None]:
        states = {}
        for name in ("initial_h", "initial_c"):
            if not self._given(name) or self.node.graph.is_zero(self._given(name)):
                continue
            shape = (0, len(self.ways), cells) if self.batch_first else (len(self.ways), 0, cells)
            array = self.tensor(name, "directions, B, H", shape)
            if array is not None:
                states[name] = array.swapaxes(0, 1) if self.batch_first else array
        if not states:
            return [None] * len(self.ways)
        zero = np.zeros_like(next(iter(states.values())))
        c, h = states.get("initial_c", zero), states.get("initial_h", zero)
        return [LayerState(np.asarray(c[d], np.float64), np.asarray(h[d], np.float64))
                for d in range(len(self.ways))]

    def _notes(self) -> list[str]:
        name, graph, notes = self.node.name, self.node.graph, []
        through: set[str] = set()
        for tensor in ("W", "R", "B", "P"):
            constant = graph.constant(self._given(tensor)) if self._given(tensor) else None
            through |= constant.through if constant is not None else set()
        if "DequantizeLinear" in through:
            notes.append(f"{name}: quantized weights are converted to floating point")
        notes += [f"{name}: {kind} weights are converted to float32, without rounding"
                  for kind in ("float16", "bfloat16") if kind in through]
        if self._given("sequence_lens"):
            notes.append(f"{name}: sequence_lens is ignored; give the lengths with the frames (array 'lengths')")
        for tensor in ("initial_h", "initial_c"):
            if self._given(tensor) and not graph.is_zero(self._given(tensor)) \
                    and graph.constant(self._given(tensor)) is None:
                notes.append(f"{name}: {tensor} is computed by the graph and is taken as zero; in Python, pass "
                             f"Network.run(..., initial=...)")
        if self.attributes.get("clip", 0.0) > 0:
            notes.append(f"{name}: clip {self.attributes['clip']:g} is dropped; it changes nothing")
        if self.attributes.get("input_forget"):
            notes.append(f"{name}: input_forget: gate f gets the negated weights of gate i")
        return notes


def _check_types(attributes: dict[str, Any]) -> None:
    """Refuse attributes of an LSTM node that have another type than ONNX gives them."""
    for names, kind, text in ((("direction", "activations"), str, "text"),
                              (("layout", "hidden_size", "input_forget"), int, "a whole number"),
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
    return [w_x * factors[:, None, None], w_r * factors[:, None, None], bias * factors[:, None]]


def _coupled(tensor: FloatArray) -> FloatArray:
    """Return ``tensor`` with gate f replaced by the negated gate i."""
    return np.concatenate([tensor[:1], -tensor[:1], tensor[2:]])


class _OnnxSource(Source):
    """The LSTM nodes of a model, and the linear nodes that read their outputs."""

    expected = ("an LSTM node; export the LSTM as one operator, not as MatMul and Sigmoid nodes, "
                "and before it is quantized")

    def __init__(self, path: Path, graph: Graph) -> None:
        self.path = path
        self._nodes: dict[str, Node] = {}
        self._lstms: dict[str, _Lstm | str] = {}
        for scope, proto in graph.walk():
            if proto.op_type in (*_RECURRENT, "MatMul", "Gemm"):
                node = Node(self._unique(scope, proto), proto, scope)
                if proto.op_type in ("MatMul", "Gemm") and linear_weight(node) is None:
                    continue
                self._nodes[node.name] = node
                scope.nodes.update({name: node for name in proto.output if name} if proto.op_type in (
                    "LSTM", "MatMul", "Gemm") else {})
        for node in self._nodes.values():
            if node.kind in _RECURRENT:
                self._lstms[node.name] = self._check(node)

    def _unique(self, scope: Graph, proto: Any) -> str:
        name = proto.name or next((output for output in proto.output if output), proto.op_type)
        if name in self._nodes:
            name = f"{scope.prefix}{name}"
        return name if name not in self._nodes else f"{name}#{len(self._nodes)}"

    def _check(self, node: Node) -> _Lstm | str:
        """Return the LSTM, or the reason why it is refused."""
        if node.kind != "LSTM" or node.proto.domain not in ("", "ai.onnx"):
            kind = f"{node.proto.domain}.{node.kind}" if node.proto.domain else node.kind
            return f"a {kind} is not an LSTM of the ONNX standard, and the machine does not compute it"
        try:
            return _Lstm(node)
        except ImportRefused as error:
            return str(error)

    def entries(self) -> list[Entry]:
        entries = []
        for node in self._nodes.values():
            lstm = self._lstms.get(node.name)
            if lstm is not None:
                entries.append(Entry(node.name, node.kind, self._summary(node),
                                     lstm if isinstance(lstm, str) else None))
            elif (before := self._before(node)) is not None:
                weight = linear_weight(node)
                sizes = "" if weight is None else f"{weight.shape[1]} -> {weight.shape[0]}, "
                entries.append(Entry(node.name, node.kind, f"{sizes}after {before.name!r}"))
        return entries

    def default(self) -> list[str]:
        usable = [name for name, lstm in self._lstms.items() if isinstance(lstm, _Lstm)]
        before = {name: self._before(node) for name, node in self._nodes.items()}
        starts = [name for name in usable if before[name] is None]
        if len(starts) != 1:
            return []
        chain = starts
        while True:
            after = [name for name, node in before.items() if node is not None and node.name == chain[-1]]
            if len(after) != 1 or after[0] not in usable and after[0] in self._lstms:
                break
            chain.append(after[0])
        return chain if set(usable) <= set(chain) else []

    def parts(self, names: Sequence[str]) -> list[Part]:
        return [self._part(self._nodes[name]) for name in names]

    def _before(self, node: Node) -> Node | None:
        """Return the node whose outputs, complete and in order, are this node's input."""
        labels = node.graph.labels(node.input(0))
        rows = labels.rows if labels is not None else None
        if rows is None or labels is None:
            return None
        if node.kind != "LSTM":
            return labels.source
        layout = read_attributes(node.graph.onnx, node.proto).get("layout", 0)
        steps, voices = rows.shape[::-1] if layout == 1 and rows.ndim == 2 else (rows.shape + (1, 1))[:2]
        order = np.arange(steps * voices).reshape(steps, voices)
        return labels.source if np.array_equal(rows, order.T if layout == 1 else order) else None

    def _part(self, node: Node) -> Part:
        lstm = self._lstms.get(node.name)
        try:
            return lstm.build() if isinstance(lstm, _Lstm) else _linear(node)
        except ImportRefused as error:
            raise ImportRefused(f"{self.path.name}: {node.kind} {node.name!r}: {error}") from None

    def _summary(self, node: Node) -> str:
        weights = node.graph.constant(node.input(1))
        attributes = read_attributes(node.graph.onnx, node.proto)
        sizes = f"{weights.array.shape[2]} -> {weights.array.shape[1] // 4}, " \
            if weights is not None and weights.array.ndim == 3 else ""
        before = self._before(node)
        return (f"{sizes}{attributes.get('direction', 'forward')}"
                + (", peepholes" if node.kind == "LSTM" and node.input(7) else "")
                + (f", after {before.name!r}" if before is not None else ""))


def _linear(node: Node) -> Linear:
    weight = linear_weight(node)
    if weight is None:
        raise ImportRefused("the matrix is computed by the graph; export the model with constant weights")
    bias: NDArray[Any] = np.zeros(weight.shape[0], np.float32)
    if node.kind == "MatMul":
        added = node.graph.bias_of(node)
        bias = bias if added is None else added
    else:
        attributes = read_attributes(node.graph.onnx, node.proto)
        weight = weight * np.float32(attributes.get("alpha", 1.0))
        if node.input(2):
            constant = node.graph.constant(node.input(2))
            if constant is None:
                raise ImportRefused("the bias is computed by the graph; export the model with constant weights")
            bias = constant.array * np.float32(attributes.get("beta", 1.0))
            bias = np.broadcast_to(bias, (1, weight.shape[0]))[0]
    labels = node.graph.labels(node.input(0))
    partial = labels is not None and labels.rows is not None and labels.rows.size < labels.total
    notes = (f"{node.name}: the graph applies it to some frames only; here it is applied to every frame",)
    return Linear(node.name, Dense(weight=weight.astype(np.float32), bias=bias.astype(np.float32)),
                  notes if partial else ())


def _open(path: Path) -> Source:
    onnx = require("onnx", "onnx", "ONNX models")
    for part in ("onnx.numpy_helper", "onnx.reference", "onnx.inliner", "onnx.shape_inference"):
        require(part, "onnx", "ONNX models")
    if path.stat().st_size > LIMIT:
        raise ImportRefused(f"{path.name}: {path.stat().st_size:,} bytes; at most {LIMIT:,} are read")
    try:
        model = onnx.load(path, load_external_data=False)
        if not model.opset_import or not model.graph.node:
            raise ImportRefused(f"{path.name}: not an ONNX model")
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
    except ImportRefused:
        raise
    except Exception as error:
        raise ImportRefused(f"{path.name}: not an ONNX model ({type(error).__name__})") from None
    try:
        model = onnx.shape_inference.infer_shapes(model)
    except Exception:  # inferred shapes are optional
        pass
    return _OnnxSource(path, Graph(onnx, model.graph, path, model.opset_import))


IMPORTER = Importer(name="ONNX", suffixes=(".onnx",), open=_open, sniff=lambda head, members: False)
