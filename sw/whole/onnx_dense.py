# SPDX-License-Identifier: Apache-2.0
"""Take dense nodes before and behind LSTM nodes into their part, for machines with dense layers.

A dense layer is a MatMul or Gemm with a constant matrix or a Conv with a constant kernel of one element, sums and
products with constants, and perhaps Relu, Sigmoid or Tanh. Behind an LSTM node, one of these functions alone is a dense
layer whose matrix is the identity, if another layer of the machine follows. Nothing else may read what is between.
Nodes that only move frames and voices may lie between the layers and the LSTM node. They stay in the graph, and move
the outputs of the operator instead, or its inputs. Behind LSTM nodes with lengths, dense nodes stay with the host.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeGuard

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


class _Affine(NamedTuple):
    """The matrix (K, P) and bias (K,) of a node for the vectors along one axis of a tensor of ``rank`` axes."""

    matrix: Float64Array
    bias: Float64Array
    axis: int
    rank: int


class _Found(NamedTuple):
    """A dense layer, its nodes, the tensors that it reads and writes, and the axis of its vectors.

    The axis of a function alone is None: it takes each number for itself.
    """

    layer: Layer
    nodes: list[Any]
    data: str
    output: str
    axis: int | None


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
        if affine is None or affine.axis != affine.rank - 1:
            continue
        name, features = node.input[0], affine.matrix.shape[1]
        found: list[_Found] = []
        layer = _dense_of(scope, reads, node, name, features)
        while layer is not None and layer.axis == affine.axis:
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
    row = taken.rows[-1]
    name, features = str(last.output[0]), sum(track.layer.outputs for (track,) in row)
    steps: list[Any] = []
    ends: list[tuple[int, str]] = []
    while True:
        moves, name = _moves(scope, reads, name)
        steps += moves
        layer = _dense(scope, reads, name, features) or _function(scope, reads, name, features)
        if layer is None:
            break
        steps.append(layer)
        name, features = layer.output, layer.layer.outputs
        if layer.axis is not None:
            ends.append((len(steps), name))
    if any(map(_is_layer, steps)) and reads[name] == 1 and any(other.nodes[0].input[0] == name
                                                               for other in scope.taken):
        ends.append((len(steps), name))
    for count, end in reversed(ends):
        if _stay(scope.graph, steps[:count], last, len(row), taken):
            _put_behind(scope, taken, steps[:count], end)
            return


def _put_behind(scope: Scope, taken: Taken, steps: Sequence[Any], end: str) -> None:
    found = [step for step in steps if _is_layer(step)]
    moves = [step for step in steps if not _is_layer(step)]
    taken.dense.setdefault(len(taken.nodes), []).extend(layer.layer for layer in found)
    taken.moves, taken.end = moves, end
    name = taken.nodes[-1].output[0]
    for node in moves:
        node.input[0], name = name, node.output[0]
    if moves:
        moves[-1].output[0] = end
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
        if found and layer.axis != found[0].axis:
            break
        found.insert(0, layer)
        name, features = layer.data, layer.layer.inputs
    sizes = scope.graph.sizes(output)
    if not found or sizes is None or found[0].axis is None:
        return
    axis = found[0].axis
    lead = tuple(size or stand_in
                 for size, stand_in in zip((*sizes[:axis], *sizes[axis + 1:]), _OPEN, strict=False))
    if not _same_rows(*(_rows(scope.graph, moves, _vectors(np.arange(np.prod(lead)).reshape(lead), axis, n), n)
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


def _function(scope: Scope, reads: Counter[str], name: str, features: int) -> _Found | None:
    """The layer of the identity with the function that alone reads a tensor."""
    node = _reader(scope, reads, name)
    if node is None or node.op_type not in _FUNCTIONS or node.domain not in ("", "ai.onnx") or (
            features**2 > _MOST_LABELS):
        return None
    layer = Layer(name=_title(scope.graph, node), cell=DENSE.name, w_x=np.eye(features, dtype=np.float32)[None],
                  bias=np.zeros((1, features), np.float32), activation=_FUNCTIONS[node.op_type])
    return _Found(layer, [node], name, node.output[0], None)


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
    found = _layer(scope.graph, nodes, name, features)
    return None if found is None else _Found(found[0], nodes, name, output, found[1])


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
        if node.op_type in ("MatMul", "Gemm", "Conv"):
            break
        if node.op_type not in ("Add", "Sub", "Mul", "Div", *_FUNCTIONS):
            return None
        data = [given for given in node.input if scope.graph.fixed(given) is None]
        if len(data) != 1:
            return None
        name, = data
    found = _layer(scope.graph, nodes, node.input[0], None)
    if found is None or found[0].outputs != outputs:
        return None
    return _Found(found[0], nodes, node.input[0], output, found[1])


def _layer(graph: Graph, nodes: Sequence[Any], data: str, features: int | None) -> tuple[Layer, int] | None:
    """The layer that nodes compute of the vectors along an axis of ``data``, each of ``features`` numbers if that is
    known; and the axis."""
    try:
        affine = _affine(graph, nodes[0], features)
        if affine is None:
            return None
        matrix, bias, axis, rank = affine
        function, name = "none", nodes[0].output[0]
        for node in nodes[1:]:
            if node.op_type in _FUNCTIONS:
                function = _FUNCTIONS[node.op_type]
            else:
                step = by_element(graph, node, axis, rank, len(bias))
                if step is None or step.data != name:
                    return None
                matrix, bias = step.matrix[:, None] * matrix, step.matrix * bias + step.offset
            name = node.output[0]
        return Layer(name=_title(graph, nodes[0]), cell=DENSE.name, w_x=matrix[None].astype(np.float32),
                     bias=bias[None].astype(np.float32), activation=function), axis
    except (ImportRefused, ModelError):
        return None


def _title(graph: Graph, node: Any) -> str:
    return graph.prefix + str(node.name or node.output[0])


def _affine(graph: Graph, node: Any, features: int | None) -> _Affine | None:
    """What a MatMul, Gemm or Conv with a constant matrix computes of vectors of ``features`` numbers, if that is
    known."""
    if node.op_type == "Conv" and node.domain in ("", "ai.onnx"):
        return _convolution(graph, node, features)
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
    return _Affine(matrix, bias, len(sizes) - 1, len(sizes))


def _convolution(graph: Graph, node: Any, features: int | None) -> _Affine | None:
    """What a Conv computes of the channels, if its kernel has one element."""
    attributes = read_attributes(graph.onnx, node)
    if attributes.get("group", 1) != 1 or any(attributes.get("pads", ())) or set(attributes.get("strides", ())) - {1}:
        return None
    kernel = graph.fixed(node.input[1])
    if kernel is None or kernel.dtype != np.float32 or kernel.ndim < 3 or set(kernel.shape[2:]) != {1}:
        return None
    outputs, inputs = kernel.shape[:2]
    bias = graph.fixed(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(outputs)
    if bias is None or bias.shape != (outputs,) or features not in (None, inputs):
        return None
    return _Affine(kernel.reshape(outputs, inputs).astype(np.float64), bias.astype(np.float64), 1, kernel.ndim)


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


def _is_layer(step: Any) -> TypeGuard[_Found]:
    return isinstance(step, _Found)


def _stay(graph: Graph, steps: Sequence[Any], last: Any, ways: int, taken: Taken) -> bool:
    """Whether dense layers, and nodes that move, behind an LSTM node of ``ways`` directions do the same if all layers
    come first: each layer reads whole vectors, and the vectors of the last come to the same places."""
    cells = taken.rows[-1][0][0].layer.outputs
    given = graph.sizes(taken.nodes[0].input[0])
    frames, voices = given[:2] if given is not None and len(given) == 3 else (None, None)
    layers = [step.layer for step in steps if _is_layer(step)]
    most, outputs = max(ways * cells, *(layer.outputs for layer in layers)), layers[-1].outputs
    for t, b in EXTENTS[:1 if frames and voices else None]:
        lead = frames or t, voices or b
        if np.prod(lead) * most > _MOST_LABELS:
            return False
        labels = np.arange(np.prod(lead) * ways * cells).reshape(*lead, ways, cells).swapaxes(1, 2)
        wanted = _passed(graph, steps, labels, ways * cells)
        labels = np.arange(np.prod(lead) * outputs).reshape(*lead, 1, outputs).swapaxes(1, 2)
        found = _passed(graph, [step for step in steps if not _is_layer(step)], labels, outputs)
        if wanted is None or found is None or not np.array_equal(wanted, found):
            return False
    return True


def _passed(graph: Graph, steps: Sequence[Any], array: NDArray[Any], features: int) -> NDArray[Any] | None:
    """Labels ``row * features + feature`` behind dense layers and nodes that move; None if a layer reads something
    else than rows of features in order."""
    for step in steps:
        if not _is_layer(step):
            moved = _moved(graph, step, array)
            if moved is None:
                return None
            array = moved
        elif step.axis is not None:
            if array.ndim <= step.axis:
                return None
            rows = _whole(np.moveaxis(array, step.axis, -1), features)
            if rows is None:
                return None
            features = step.layer.outputs
            array = _vectors(rows, step.axis, features)
    return array


def _vectors(rows: NDArray[Any], axis: int, features: int) -> NDArray[Any]:
    """Labels ``row * features + feature`` with the features along an axis."""
    return np.moveaxis(rows[..., None] * features + np.arange(features), -1, axis)


def _whole(array: NDArray[Any], features: int) -> NDArray[Any] | None:
    """The row at each place in front of the last axis; None unless every row is whole and in order."""
    if array.shape[-1:] != (features,):
        return None
    rows: NDArray[Any] = array[..., 0] // features
    return rows if np.array_equal(array, rows[..., None] * features + np.arange(features)) else None


def _same_rows(first: NDArray[Any] | None, second: NDArray[Any] | None) -> bool:
    return first is not None and second is not None and np.array_equal(first, second)


def _rows(graph: Graph, moves: Sequence[Any], array: NDArray[Any], features: int) -> NDArray[Any] | None:
    """The row at each place behind nodes that move, as of `_whole`."""
    moved = _passed(graph, moves, array, features)
    return None if moved is None else _whole(moved, features)


def _moved(graph: Graph, node: Any, array: NDArray[Any]) -> NDArray[Any] | None:
    """The output of a node that moves; None if its other inputs are not constant, or do not fit."""
    others = {given: graph.fixed(given) for given in node.input[1:] if given}
    if any(value is None for value in others.values()):
        return None
    try:
        return graph.evaluate(node, node.output[0], {node.input[0]: array, **others})  # type: ignore[dict-item]
    except ImportRefused:
        return None
