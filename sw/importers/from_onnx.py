# SPDX-License-Identifier: Apache-2.0
"""Import ONNX models: LSTM and GRU nodes anywhere in the graph, and the linear layers after them.

A node that the machine cannot compute is refused with the reason.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openese.sw.importers.assembly import Linear, Part, Recurrent
from openese.sw.importers.base import LIMIT, Entry, Importer, ImportRefused, Source, listed, require
from openese.sw.importers.onnx_graph import (
    Affine,
    Graph,
    Labels,
    Node,
    bodies,
    inferred,
    is_moving,
    linear_weight,
    named_nodes,
    read_attributes,
)
from openese.sw.importers.onnx_recurrent import CELLS, RECURRENT, RecurrentNode, read_recurrent
from openese.sw.model.layers import GRU, Dense
from openese.sw.model.state import LayerState

__all__ = ["IMPORTER", "check_text", "open_model"]


class _OnnxSource(Source):
    """The LSTM and GRU nodes of a model, and the linear nodes before, between and after them."""

    expected = ("an LSTM or GRU node; export it as one operator, not as MatMul and Sigmoid nodes, "
                "and before it is quantized")

    def __init__(self, path: Path, graph: Graph) -> None:
        self.path = path
        self._graph = graph
        self._all = named_nodes(graph)
        self._nodes: dict[str, Node] = {}
        self._lstms: dict[str, RecurrentNode | str] = {}
        self._tails: dict[str, list[Affine]] = {}
        for node in self._all:
            if node.kind in RECURRENT or node.kind in ("MatMul", "Gemm") and linear_weight(node) is not None:
                self._nodes[node.name] = node
                if node.kind in (*CELLS, "MatMul", "Gemm"):
                    node.graph.nodes.update({name: node for name in node.proto.output if name})
        for node in self._nodes.values():
            if node.kind in RECURRENT:
                self._lstms[node.name] = read_recurrent(node)
            else:
                self._tails[node.name] = node.graph.tail(node)
        self._by_proto = {id(node.proto): node for node in self._all}
        self._values: set[str] = set()
        self._before = {name: self._find_before(node) for name, node in self._nodes.items()}

    def entries(self) -> list[Entry]:
        entries = []
        for node in self._nodes.values():
            lstm, before = self._lstms.get(node.name), self._before[node.name]
            if lstm is not None:
                entries.append(Entry(node.name, node.kind, self._summary(node),
                                     lstm if isinstance(lstm, str) else None))
            elif before is not None or self._feeds_lstm(node):
                weight = linear_weight(node)
                sizes = "" if weight is None else f"{weight.shape[1]} -> {weight.shape[0]}"
                entries.append(Entry(node.name, node.kind, sizes + (f", after {before.name!r}" if before else "")))
        return entries

    def default(self) -> list[str]:
        usable = [name for name, lstm in self._lstms.items() if isinstance(lstm, RecurrentNode)]
        if not usable:
            name, problem = next((name, lstm) for name, lstm in self._lstms.items() if isinstance(lstm, str))
            raise ImportRefused(f"{self.path.name}: no layer that can be imported: {self._nodes[name].kind} {name!r}: "
                                f"{problem}")
        whole = "compile takes the whole network"
        roots = list(dict.fromkeys(self._root(name) for name in usable))
        chain = roots[:1]
        while True:
            after = [name for name, node in self._before.items() if node is not None and node.name == chain[-1]]
            if len(after) != 1 or after[0] not in usable and after[0] in self._lstms:
                break
            chain.append(after[0])
        if not set(usable) <= set(chain):
            raise ImportRefused(f"{self.path.name}: the layers {listed(usable)} are not one chain; {whole}, --select "
                                f"NAME,NAME those that follow each other")
        alone = f"{whole}, --select {','.join(chain)} these layers alone"
        for name in chain:
            lstm = self._lstms.get(name)
            if isinstance(lstm, RecurrentNode) and lstm.computed_states():
                raise ImportRefused(f"{self.path.name}: {lstm.kind.title} {name!r} begins in a state that the graph "
                                    f"computes; {alone}")
        rest = [node for nodes in self._left_out(chain) for node in nodes]
        if rest:
            raise ImportRefused(f"{self.path.name}: has more than recurrent and linear layers: {_shown(rest)}; {alone}")
        return chain

    def parts(self, names: Sequence[str]) -> list[Part]:
        for first, second in zip(names, names[1:], strict=False):
            before = self._before[second]
            if before is None or before.name != first:
                raise ImportRefused(f"{self.path.name}: {self._between(self._nodes[first], self._nodes[second])}")
        parts = [self._part(self._nodes[name]) for name in names]
        fronts, others = self._left_out(names)
        notes = [f"left out before {names[0]!r}: {_shown(fronts)}"] if fronts else []
        notes += [f"left out beside and after: {_shown(others)}"] if others else []
        if self._turned(names):
            notes.append("the file has the batch before the frames; here frames come first: (T, B, I)")
            parts = [replace(part, batch_first=True) if isinstance(part, Recurrent) else part for part in parts]
        return [*parts[:-1], replace(parts[-1], notes=(*parts[-1].notes, *notes))]

    # -- what is around the layers ---------------------------------------------------------------

    def _find_before(self, node: Node) -> Node | None:
        """Return the node whose outputs, complete and in order, are this node's input."""
        found = node.graph.origins(node.input(0))
        if not found or any(labels.rows is None for labels in found):
            return None
        if node.kind in CELLS:
            turned = read_attributes(node.graph.onnx, node.proto).get("layout", 0) == 1
            if not all(_in_order(labels, turned) for labels in found):
                return None
        return found[0].source

    def _feeds_lstm(self, node: Node) -> bool:
        after = [name for name, before in self._before.items() if before is not None and before.name == node.name]
        return any(name in self._lstms or self._feeds_lstm(self._nodes[name]) for name in after)

    def _root(self, name: str) -> str:
        while (before := self._before[name]) is not None:
            name = before.name
        return name

    def _between(self, first: Node, second: Node) -> str:
        """Why ``second`` cannot be stacked on ``first``."""
        whole = "compile takes the whole network"
        before = self._before[second.name]
        if before is not None and self._reaches(first, before.input(0), before.graph):
            return f"{before.name!r} is between {first.name!r} and {second.name!r}; select it too"
        if not self._reaches(first, second.input(0), second.graph):
            return f"{second.name!r} does not read what {first.name!r} gives; {whole}"
        producer = self._producer(second.input(0), second.graph)
        while producer is not None and producer.proto is not first.proto:
            nexts = [name for name in producer.proto.input if self._reaches(first, name, producer.graph)]
            if not is_moving(producer.graph, producer.proto) or len(nexts) != 1:
                return (f"between {first.name!r} and {second.name!r} is {producer.kind} {producer.name!r}, which would "
                        f"be left out; {whole}")
            producer = self._producer(nexts[0], producer.graph)
        return f"{second.name!r} does not get the outputs of {first.name!r} frame by frame; {whole}"

    def _producer(self, name: str, graph: Graph | None) -> Node | None:
        while graph is not None and name not in graph.producers:
            graph = graph.outer
        return None if graph is None else self._by_proto[id(graph.producers[name])]

    def _reaches(self, first: Node, name: str, graph: Graph) -> bool:
        return id(first.proto) in self._ancestors(name, graph)

    def _ancestors(self, name: str, graph: Graph) -> set[int]:
        """Return the ids of the nodes that a tensor is computed from."""
        found: set[int] = set()
        waiting = [(name, graph)]
        while waiting:
            node = self._producer(*waiting.pop())
            if node is None or id(node.proto) in found:
                continue
            found.add(id(node.proto))
            waiting += [(given, node.graph) for given in node.proto.input if given]
            waiting += [(given, body) for body in node.bodies for given in body.readers]
        return found

    def _live(self) -> list[Node]:
        """Return the nodes that depend on more than sizes of the network's inputs, and that something reads."""
        values = {value.name for value in self._graph.proto.input} - self._graph.tensors.keys()
        live = []
        for node in self._all:
            if node.graph.outer is not None:
                values |= {value.name for value in node.graph.proto.input}
            given = {*node.proto.input, *(name for body in node.bodies for name in body.readers)}
            random = not given and node.kind != "Constant"
            if node.kind not in ("Shape", "Size") and (random or given & values):
                values |= {name for name in node.proto.output if name}
                if any(name in node.graph.readers for name in node.proto.output):
                    live.append(node)
        self._values = values
        return live

    def _left_out(self, names: Sequence[str]) -> tuple[list[Node], list[Node]]:
        """Return the nodes that importing these layers leaves out: before the first, and all others."""
        live = self._live()
        covered = {id(self._nodes[name].proto) for name in names}
        for name in names:
            node = self._nodes[name]
            covered |= {id(proto) for proto in node.graph.tail_nodes(node)}
            covered |= {id(found.proto) for found in self._way(node, any_way=name != names[0])}
        given = {name for node in live if id(node.proto) in covered for name in node.proto.output if name}
        for node in live:
            moving = node.kind in ("Concat", "Split") or is_moving(node.graph, node.proto)
            if moving and {name for name in node.proto.input if name in self._values} <= given:
                covered.add(id(node.proto))
                given |= {name for name in node.proto.output if name}
        rest = [node for node in live if id(node.proto) not in covered]
        first = self._nodes[names[0]]
        before = self._ancestors(first.input(0), first.graph)
        return ([node for node in rest if id(node.proto) in before],
                [node for node in rest if id(node.proto) not in before])

    def _way(self, node: Node, any_way: bool) -> list[Node]:
        """Return the nodes before a layer that only move its input; all, or those that keep or exchange T and B."""
        found: list[Node] = []
        producer = self._producer(node.input(0), node.graph)
        while producer is not None and is_moving(producer.graph, producer.proto):
            if not any_way and producer.kind not in ("Identity", "Cast", "Dropout") and not _turns(producer):
                break
            found.append(producer)
            producer = self._producer(producer.input(0), producer.graph)
        return found

    def _turned(self, names: Sequence[str]) -> bool:
        """Whether the file has the batch before the frames where its first layer begins."""
        turns = 0
        for name in names:
            turns += sum(map(_turns, self._way(self._nodes[name], any_way=name != names[0])))
            lstm = self._lstms.get(name)
            if isinstance(lstm, RecurrentNode):
                return (turns + lstm.batch_first) % 2 == 1
        return False

    def _part(self, node: Node) -> Part:
        lstm = self._lstms.get(node.name)
        try:
            return _recurrent(lstm) if isinstance(lstm, RecurrentNode) else _linear(node, self._tails[node.name])
        except ImportRefused as error:
            raise ImportRefused(f"{self.path.name}: {node.kind} {node.name!r}: {error}") from None

    def _summary(self, node: Node) -> str:
        weights = node.graph.constant(node.input(1))
        attributes = read_attributes(node.graph.onnx, node.proto)
        sizes = f"{weights.array.shape[2]} -> {weights.array.shape[1] // len(CELLS[node.kind].kind.gates)}, " \
            if weights is not None and weights.array.ndim == 3 and node.kind in CELLS else ""
        before = self._before[node.name]
        return (f"{sizes}{attributes.get('direction', 'forward')}"
                + (", peepholes" if node.kind == "LSTM" and node.input(7) else "")
                + (f", after {before.name!r}" if before is not None else ""))


def _shown(nodes: Sequence[Node]) -> str:
    shown = ", ".join(f"{node.kind} {node.name!r}" for node in nodes[:8])
    return shown + (f" and {len(nodes) - 8} more" if len(nodes) > 8 else "")


def _turns(node: Node) -> bool:
    """Whether a node exchanges the first two of three axes."""
    return node.kind == "Transpose" and read_attributes(node.graph.onnx, node.proto).get("perm") == [1, 0, 2]


def _in_order(labels: Labels, turned: bool) -> bool:
    """Whether rows are the frames of a source in order; of a linear node without an LSTM before it, in either order."""
    rows = labels.rows
    if rows is None or rows.ndim > 2:
        return False
    steps, voices = rows.shape[::-1] if turned and rows.ndim == 2 else (rows.shape + (1, 1))[:2]
    found = rows.T if turned else rows
    order = np.arange(steps * voices)
    return np.array_equal(found.reshape(steps, voices), order.reshape(steps, voices)) or (
        labels.source.kind not in CELLS and labels.root and np.array_equal(found, order.reshape(voices, steps).T))


def _recurrent(lstm: RecurrentNode) -> Recurrent:
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
        h = states.get("initial_h", zero)
        c = h if lstm.kind is GRU else states.get("initial_c", zero)
        row = tuple((track._replace(initial=LayerState(c[d], h[d])),) for d, (track,) in enumerate(row))
    return Recurrent(name, (row,), tuple(notes))


def _linear(node: Node, tail: Sequence[Affine]) -> Linear:
    """Return a linear node with the sums and products that follow it."""
    weight = linear_weight(node)
    if weight is None:
        raise ImportRefused("the matrix is computed by the graph; export the model with constant weights")
    weight = weight.astype(np.float64)
    bias: NDArray[Any] = np.zeros(weight.shape[0])
    if node.kind == "Gemm":
        attributes = read_attributes(node.graph.onnx, node.proto)
        weight *= attributes.get("alpha", 1.0)
        if node.input(2):
            given = node.graph.constant(node.input(2))
            if given is None:
                raise ImportRefused("the bias is computed by the graph; export the model with constant weights")
            if given.array.size != 1 and given.array.shape[-1:] != (given.array.size,):
                raise ImportRefused(f"the bias has the shape {given.array.shape}: it is not the same for all frames")
            bias += given.array.ravel() * attributes.get("beta", 1.0)
    for kind, constant, first in tail:
        if kind in ("Mul", "Div"):
            factor = constant.astype(np.float64) if kind == "Mul" else 1 / constant.astype(np.float64)
            weight, bias = weight * factor[:, None], bias * factor
        else:
            sign = -1.0 if kind == "Sub" and first else 1.0
            weight, bias = sign * weight, sign * bias + (-1.0 if kind == "Sub" and not first else 1.0) * constant
    labels = node.graph.origins(node.input(0))
    partial = any(label.rows is not None and label.rows.size < label.total for label in labels)
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
        check_text(model)
        model = onnx.inliner.inline_local_functions(model) if model.functions else model
        sort_nodes(model.graph)
        return model
    except ImportRefused:
        raise
    except Exception as error:
        raise ImportRefused(f"{path.name}: not an ONNX model ({type(error).__name__})") from None


def sort_nodes(graph: Any) -> None:
    """Put the nodes of a GraphProto, and of the bodies in it, behind those that they read, as ONNX wants them.

    onnxruntime also runs files whose nodes are in another order. Nodes in a circle stay as they are.
    """
    makers = {name: number for number, node in enumerate(graph.node) for name in node.output if name}
    reads = [{makers[name] for name in _read(node) if name in makers} for node in graph.node]
    if any(before >= number for number, others in enumerate(reads) for before in others):
        with suppress(CycleError):
            order = list(TopologicalSorter(dict(enumerate(reads))).static_order())
            nodes = [graph.node[number] for number in order]
            copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
            del graph.node[:]
            graph.node.extend(copies)
    for node in graph.node:
        for _, body in bodies(node):
            sort_nodes(body)


def _read(node: Any) -> Iterator[str]:
    """The names that a node or its bodies read."""
    yield from node.input
    for _, body in bodies(node):
        yield from (output.name for output in body.output)
        for inner in body.node:
            yield from _read(inner)


def check_text(message: Any) -> None:
    """Refuse a message of protobuf with text that is not UTF-8, which libraries expect.

    Raises
    ------
    ValueError
        Naming the field.
    """
    for field, value in message.ListFields():
        values = [value] if isinstance(value, (str, bytes)) or hasattr(value, "ListFields") else value
        if field.type == field.TYPE_STRING and not all(isinstance(text, str) for text in values):
            raise ValueError(f"{field.name} is not text")
        if field.type == field.TYPE_MESSAGE:
            for inner in values:
                check_text(inner)


def _open(path: Path) -> Source:
    onnx = require("onnx", "onnx", "ONNX models")
    model = open_model(path)
    return _OnnxSource(path, Graph(onnx, model.graph, path, model.opset_import, inferred(onnx, model)))


IMPORTER = Importer(name="ONNX", suffixes=(".onnx",), open=_open, sniff=lambda head, members: False)
