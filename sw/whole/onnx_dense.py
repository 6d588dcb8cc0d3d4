# SPDX-License-Identifier: Apache-2.0
"""Take dense nodes before and behind LSTM nodes into their part, for machines with dense layers.

A dense layer is a MatMul or Gemm with a constant matrix, sums and products with constants, and perhaps Relu, Sigmoid or
Tanh. Nothing else may read what is between. Nodes that only move frames and voices may lie between the layer and the
LSTM node. They stay in the graph, and move the outputs of the operator instead, or its inputs. Behind LSTM nodes with
lengths, dense nodes stay with the host.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openese.sw.importers.base import ImportRefused
from openese.sw.importers.onnx_graph import EXTENTS, Graph, is_moving, read_attributes
from openese.sw.model.arrays import Float64Array
from openese.sw.model.layers import DENSE, Layer, ModelError
from openese.sw.whole.onnx_fold import by_element
from openese.sw.whole.onnx_scope import Scope, Taken

__all__ = ["Chain", "take_behind", "take_chain", "take_front"]

_FUNCTIONS = {"Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh"}
_MOST_LABELS = 1 << 22
#: Stand-ins for the open sizes of a tensor, one after another.
_OPEN = (5, 7, 3, 2)


#: The shape in front of the features, and the row of each place there.
_Places = tuple[tuple[int, ...], NDArray[Any]]


class _Found(NamedTuple):
    """A dense layer, its nodes, and the tensors that it reads and writes."""

    layer: Layer
    nodes: list[Any]
    data: str
    output: str


class Chain(NamedTuple):
    """Dense layers that follow each other, with no LSTM node beside them.

    Attributes
    ----------
    layers : list of Layer
    nodes : list of NodeProto
    data, end : str
        The tensors that they read and give: vectors along their last axis.
    """

    layers: list[Layer]
    nodes: list[Any]
    data: str
    end: str


def take_chain(scope: Scope) -> Chain | None:
    """Find the next dense nodes of a scope that follow each other; None if there are none."""
    reads = Counter(scope.reads())
    for node in scope.nodes:
        affine = None
        try:
            affine = _affine(scope.graph, node, None)
        except ImportRefused:
            continue
        if affine is None:
            continue
        name, features = node.input[0], affine[0].shape[1]
        found: list[_Found] = []
        layer = _dense_of(scope, reads, node, name, features)
        while layer is not None:
            found.append(layer)
            name, features = layer.output, layer.layer.outputs
            layer = _dense(scope, reads, name, features)
        if found:
            return Chain([one.layer for one in found], [node for one in found for node in one.nodes], found[0].data,
                         name)
    return None


def take_behind(scope: Scope, taken: Taken) -> None:
    """Take the dense nodes that follow the last LSTM node of ``taken``."""
    reads = Counter(scope.reads())
    last = taken.nodes[-1]
    if not last.output[0] or len(last.input) > 4 and last.input[4]:
        return  # behind the end of a sequence a dense layer has its bias, but the operator gives zeros
    moves, name = _moves(scope, reads, last.output[0])
    row = taken.rows[-1]
    features = sum(track.layer.outputs for (track,) in row)
    found: list[_Found] = []
    while (layer := _dense(scope, reads, name, features)) is not None:
        found.append(layer)
        name, features = layer.output, layer.layer.outputs
    if not found or not _stay(scope.graph, moves, last, (len(row), features), taken):
        return
    taken.dense.setdefault(len(taken.nodes), []).extend(layer.layer for layer in found)
    taken.moves, taken.end = moves, name
    if moves:
        moves[-1].output[0] = name
    _absorb(scope, taken, found)


def take_front(scope: Scope, taken: Taken) -> None:
    """Take the dense nodes with a function that feed the first LSTM node of ``taken``."""
    reads = Counter(scope.reads())
    first = taken.nodes[0]
    moves: list[Any] = []
    name = first.input[0]
    while True:
        node = scope.producer(name)
        if node is None or reads[name] != 1:
            return
        if node.op_type in _FUNCTIONS and node.domain in ("", "ai.onnx"):
            break
        if not _moving(scope.graph, node):
            return
        moves.insert(0, node)
        name = node.input[0]
    features = taken.rows[0][0][0].layer.inputs
    found: list[_Found] = []
    output = name
    while (layer := _dense_before(scope, reads, name, features)) is not None:
        found.insert(0, layer)
        name, features = layer.data, layer.layer.inputs
    sizes = scope.graph.sizes(output)
    if not found or sizes is None:
        return
    lead = tuple(size or stand_in for size, stand_in in zip(sizes[:-1], _OPEN, strict=False))
    if not _same_rows(*(_rows(scope.graph, moves, np.arange(np.prod(lead) * n).reshape(*lead, n), output, n)
                        for n in (found[-1].layer.outputs, features))):
        return
    taken.dense.setdefault(0, [])[:0] = [layer.layer for layer in found]
    (moves[0] if moves else first).input[0] = name
    _absorb(scope, taken, found)


def _absorb(scope: Scope, taken: Taken, found: Sequence[_Found]) -> None:
    nodes = [node for layer in found for node in layer.nodes]
    taken.absorbed += nodes
    scope.remove(nodes)


# -- one layer ---------------------------------------------------------------------------------------------


def _dense(scope: Scope, reads: Counter[str], name: str, features: int) -> _Found | None:
    """The dense layer that alone reads a tensor."""
    node = _reader(scope, reads, name)
    return None if node is None or not node.input or node.input[0] != name else _dense_of(scope, reads, node, name,
                                                                                            features)


def _dense_of(scope: Scope, reads: Counter[str], node: Any, name: str, features: int) -> _Found | None:
    """The dense layer that begins with a node."""
    nodes, output = [node], node.output[0]
    while (following := _reader(scope, reads, output)) is not None and (
            following.op_type in ("Add", "Sub", "Mul", "Div", *_FUNCTIONS)):
        if len(nodes) > 1 and nodes[-1].op_type in _FUNCTIONS:
            break
        before = _layer(scope.graph, [*nodes, following], name, features)
        if before is None:
            break
        nodes.append(following)
        output = following.output[0]
    layer = _layer(scope.graph, nodes, name, features)
    return None if layer is None else _Found(layer, nodes, name, output)


def _dense_before(scope: Scope, reads: Counter[str], name: str, outputs: int) -> _Found | None:
    """The dense layer with a function that gives a tensor which nothing else reads."""
    nodes: list[Any] = []
    output = name
    while True:
        node = scope.producer(name)
        if node is None or reads[name] != 1 or node.domain not in ("", "ai.onnx"):
            return None
        if bool(nodes) == (node.op_type in _FUNCTIONS):
            return None
        nodes.insert(0, node)
        if node.op_type in ("MatMul", "Gemm"):
            break
        if node.op_type not in ("Add", "Sub", "Mul", "Div", *_FUNCTIONS):
            return None
        data = [given for given in node.input if scope.graph.fixed(given) is None]
        if len(data) != 1:
            return None
        name, = data
    layer = _layer(scope.graph, nodes, node.input[0], None)
    return None if layer is None or layer.outputs != outputs else _Found(layer, nodes, node.input[0], output)


def _layer(graph: Graph, nodes: Sequence[Any], data: str, features: int | None) -> Layer | None:
    """The layer that nodes compute of the vectors along the last axis of ``data``, each of ``features`` numbers if that
    is known."""
    try:
        affine = _affine(graph, nodes[0], features)
        if affine is None:
            return None
        matrix, bias = affine
        function, name = "none", nodes[0].output[0]
        for node in nodes[1:]:
            if node.op_type in _FUNCTIONS:
                function = _FUNCTIONS[node.op_type]
            else:
                sizes = graph.sizes(name)
                step = None if sizes is None else by_element(graph, node, len(sizes) - 1, len(sizes), len(bias))
                if step is None or step.data != name:
                    return None
                matrix, bias = step.matrix[:, None] * matrix, step.matrix * bias + step.offset
            name = node.output[0]
        title = str(nodes[0].name or nodes[0].output[0])
        return Layer(name=graph.prefix + title, cell=DENSE.name, w_x=matrix[None].astype(np.float32),
                     bias=bias[None].astype(np.float32), activation=function)
    except (ImportRefused, ModelError):
        return None


def _affine(graph: Graph, node: Any, features: int | None) -> tuple[Float64Array, Float64Array] | None:
    """Matrix (K, P) and bias (K,) of a MatMul or Gemm with a constant matrix."""
    if node.op_type not in ("MatMul", "Gemm") or node.domain not in ("", "ai.onnx"):
        return None
    attributes = read_attributes(graph.onnx, node)
    sizes, matrix = graph.sizes(node.input[0]), graph.fixed(node.input[1])
    if matrix is None or matrix.dtype != np.float32 or matrix.ndim != 2 or attributes.get("transA"):
        return None
    if sizes is None or len(sizes) < 2:
        return None
    matrix = (matrix if attributes.get("transB") else matrix.T).astype(np.float64)
    if features is not None and matrix.shape[1] != features:
        return None
    bias = np.zeros(len(matrix))
    if node.op_type == "Gemm":
        matrix = matrix * attributes.get("alpha", 1.0)
        if len(node.input) > 2 and node.input[2]:
            given = graph.fixed(node.input[2])
            if given is None or given.size not in (1, len(matrix)) or given.size != (given.shape or (1,))[-1]:
                return None
            bias = bias + given.astype(np.float64).ravel() * attributes.get("beta", 1.0)
    return matrix, bias


# -- nodes that only move ----------------------------------------------------------------------------------


def _reader(scope: Scope, reads: Counter[str], name: str) -> Any:
    """The node of this scope that alone reads a tensor; None if there is none."""
    if reads[name] != 1:
        return None
    return next((node for node in scope.nodes if name in node.input), None)


def _moving(graph: Graph, node: Any) -> bool:
    return node.op_type not in ("Slice", "Gather", "Cast", "Dropout") and is_moving(graph, node)


def _moves(scope: Scope, reads: Counter[str], name: str) -> tuple[list[Any], str]:
    """The nodes behind a tensor that only move its elements, and the tensor behind them."""
    moves = []
    while (node := _reader(scope, reads, name)) is not None and node.input[0] == name and _moving(scope.graph, node):
        if any(reads[other] for other in node.output[1:]):
            break
        moves.append(node)
        name = node.output[0]
    return moves, name


def _stay(graph: Graph, moves: Sequence[Any], last: Any, sizes: tuple[int, int], taken: Taken) -> bool:
    """Whether nodes move the frames and voices of the dense layers' outputs as they do those of an LSTM node: first
    ``sizes``, its directions, then the outputs of the last layer."""
    ways, outputs = sizes
    cells = taken.rows[-1][0][0].layer.outputs
    given = graph.sizes(taken.nodes[0].input[0])
    steps, voices = given[:2] if given is not None and len(given) == 3 else (None, None)
    for t, b in EXTENTS[:1 if steps and voices else None]:
        lead = steps or t, voices or b
        if np.prod(lead) * max(ways * cells, outputs) > _MOST_LABELS:
            return False
        before = np.arange(np.prod(lead) * ways * cells).reshape(*lead, ways, cells).swapaxes(1, 2)
        after = np.arange(np.prod(lead) * outputs).reshape(*lead, 1, outputs).swapaxes(1, 2)
        if not _same_rows(*(_rows(graph, moves, array, last.output[0], n) for array, n in (
                (before, ways * cells), (after, outputs)))):
            return False
    return True


def _same_rows(first: _Places | None, second: _Places | None) -> bool:
    return first is not None and second is not None and first[0] == second[0] and np.array_equal(first[1], second[1])


def _rows(graph: Graph, moves: Sequence[Any], array: NDArray[Any], name: str, features: int) -> _Places | None:
    """The shape in front of the features, and the row of each place there; None unless every row is whole and in
    order."""
    for node in moves:
        others = {given: graph.fixed(given) for given in node.input[1:] if given}
        if any(value is None for value in others.values()):
            return None
        try:
            array = graph.evaluate(node, node.output[0], {name: array, **others})  # type: ignore[dict-item]
        except ImportRefused:
            return None
        name = node.output[0]
    if array.shape[-1:] != (features,):
        return None
    flat = array.reshape(-1, features)
    rows = flat[:, 0] // features
    if not np.array_equal(flat, rows[:, None] * features + np.arange(features)):
        return None
    return array.shape[:-1], rows
