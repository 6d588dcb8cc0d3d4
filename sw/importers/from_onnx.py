# SPDX-License-Identifier: Apache-2.0
"""Import ONNX models: LSTM nodes anywhere in the graph, and the linear layers after them.

An LSTM node that the machine cannot compute is refused with the reason.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openese.sw.importers.assembly import Linear, Part, Recurrent
from openese.sw.importers.base import LIMIT, Entry, Importer, ImportRefused, Source, require
from openese.sw.importers.onnx_graph import Graph, Node, inferred, linear_weight, named_nodes, read_attributes
from openese.sw.importers.onnx_lstm import RECURRENT, Lstm, read_lstm
from openese.sw.model.layers import Dense
from openese.sw.model.state import LayerState

__all__ = ["IMPORTER", "open_model"]


class _OnnxSource(Source):
    """The LSTM nodes of a model, and the linear nodes that read their outputs."""

    expected = ("an LSTM node; export the LSTM as one operator, not as MatMul and Sigmoid nodes, "
                "and before it is quantized")

    def __init__(self, path: Path, graph: Graph) -> None:
        self.path = path
        self._nodes: dict[str, Node] = {}
        self._lstms: dict[str, Lstm | str] = {}
        for node in named_nodes(graph):
            if node.kind in RECURRENT or node.kind in ("MatMul", "Gemm") and linear_weight(node) is not None:
                self._nodes[node.name] = node
                if node.kind in ("LSTM", "MatMul", "Gemm"):
                    node.graph.nodes.update({name: node for name in node.proto.output if name})
        for node in self._nodes.values():
            if node.kind in RECURRENT:
                self._lstms[node.name] = read_lstm(node)

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
        usable = [name for name, lstm in self._lstms.items() if isinstance(lstm, Lstm)]
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
            return _recurrent(lstm) if isinstance(lstm, Lstm) else _linear(node)
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


def _recurrent(lstm: Lstm) -> Recurrent:
    """Return the node as one row of one or two directions, with its initial states."""
    name, graph, notes = lstm.node.name, lstm.node.graph, lstm.notes()
    if lstm.given("sequence_lens"):
        notes.append(f"{name}: sequence_lens is ignored; give the lengths with the frames (array 'lengths')")
    states = {}
    for tensor in ("initial_h", "initial_c"):
        if not lstm.given(tensor) or graph.is_zero(lstm.given(tensor)):
            continue
        array = lstm.tensor(tensor)
        if array is not None:
            states[tensor] = np.asarray(array.swapaxes(0, 1) if lstm.batch_first else array, np.float64)
        else:
            notes.append(f"{name}: {tensor} is computed by the graph and is taken as zero; in Python, pass "
                         f"Network.run(..., initial=...)")
    row = lstm.row()
    if states:
        zero = np.zeros_like(next(iter(states.values())))
        c, h = states.get("initial_c", zero), states.get("initial_h", zero)
        row = tuple((track._replace(initial=LayerState(c[d], h[d])),) for d, (track,) in enumerate(row))
    return Recurrent(name, (row,), tuple(notes))


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


def open_model(path: Path) -> Any:
    """Return the ModelProto in a file, with its functions inlined. Tensors in other files are not read yet.

    Raises
    ------
    ImportRefused
        If the file is too large, or is not an ONNX model.
    """
    onnx = require("onnx", "onnx", "ONNX models")
    for part in ("onnx.numpy_helper", "onnx.reference", "onnx.inliner", "onnx.shape_inference"):
        require(part, "onnx", "ONNX models")
    if path.stat().st_size > LIMIT:
        raise ImportRefused(f"{path.name}: {path.stat().st_size:,} bytes; at most {LIMIT:,} are read")
    try:
        model = onnx.load(path, load_external_data=False)
        if not model.opset_import or not model.graph.node:
            raise ImportRefused(f"{path.name}: not an ONNX model")
        return onnx.inliner.inline_local_functions(model) if model.functions else model
    except ImportRefused:
        raise
    except Exception as error:
        raise ImportRefused(f"{path.name}: not an ONNX model ({type(error).__name__})") from None


def _open(path: Path) -> Source:
    onnx = require("onnx", "onnx", "ONNX models")
    model = open_model(path)
    return _OnnxSource(path, Graph(onnx, model.graph, path, model.opset_import, inferred(onnx, model)))


IMPORTER = Importer(name="ONNX", suffixes=(".onnx",), open=_open, sniff=lambda head, members: False)
