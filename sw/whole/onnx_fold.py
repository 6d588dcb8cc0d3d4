# SPDX-License-Identifier: Apache-2.0
"""Fold linear nodes before an LSTM node into its input weights, which is exact.

A node is folded if nothing else reads its output, if its constants are fixed, and if the LSTM node gets no more inputs
by it. Nodes that only turn axes may stand between; they stay.
"""

import dataclasses
from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from openese.sw.importers.assembly import Row
from openese.sw.importers.base import ImportRefused
from openese.sw.importers.onnx_graph import Graph, read_attributes
from openese.sw.model.arrays import Float64Array
from openese.sw.model.layers import ModelError
from openese.sw.whole.onnx_scope import Scope, Taken

__all__ = ["Step", "by_element", "fold", "turned_axes"]

#: All inputs of an LSTM share a number format. A fold may let their scales differ, or move them off zero, by this.
_MOST_SPREAD = 16.0


class Step(NamedTuple):
    """x = ``matrix`` @ u + ``offset``, with u the tensor ``data``; a ``matrix`` of one axis is a diagonal."""

    data: str
    matrix: Float64Array
    offset: Float64Array


def fold(scope: Scope, taken: Taken) -> None:
    """Fold what can be folded into the first LSTM node of ``taken``."""
    reads = Counter(scope.reads())
    reader, axis, rank = taken.nodes[0], 2, 3
    gain = np.ones(taken.rows[0][0][0].layer.inputs)
    while True:
        name = reader.input[0]
        node = scope.producer(name)
        if node is None or reads[name] != 1:
            return
        turned = turned_axes(scope.graph, node, axis, rank)
        if turned is not None:
            reader, (axis, rank) = node, turned
            continue
        try:
            step = _step(scope.graph, node, name, axis, rank, len(gain))
            if step is None:
                return
            if np.abs(gain * step.offset).max() > _MOST_SPREAD:
                return
            gain = (np.linalg.norm(gain[:, None] * step.matrix, axis=0) if step.matrix.ndim == 2
                    else np.abs(gain * step.matrix))
            used = gain[gain > 0]
            if not used.size or used.max() > _MOST_SPREAD * used.min():
                return
            row = _folded(taken.rows[0], step)
        except (ImportRefused, ModelError):
            return
        taken.rows[0] = row
        taken.folded.append(node)
        reader.input[0] = step.data
        scope.remove([node])


def turned_axes(graph: Graph, node: Any, axis: int, rank: int) -> tuple[int, int] | None:
    """The place of an axis of a node's output in its first input, and the input's rank.

    None if the node does more than turn, add or drop axes of size 1 in places that the file fixes.
    """
    if node.domain not in ("", "ai.onnx"):
        return None
    attributes = read_attributes(graph.onnx, node)
    if node.op_type == "Identity":
        return axis, rank
    if node.op_type == "Transpose":
        order = attributes.get("perm", list(range(rank))[::-1])
        return (order[axis], rank) if sorted(order) == list(range(rank)) else None
    if node.op_type in ("Squeeze", "Unsqueeze"):
        given = graph.fixed(node.input[1]) if len(node.input) > 1 else attributes.get("axes")
        if given is None:
            return None
        axes = np.ravel(given).astype(int).tolist()
        longer = rank if node.op_type == "Unsqueeze" else rank + len(axes)
        kept = [number for number in range(longer) if number not in axes and number - longer not in axes]
        if len(kept) + len(axes) != longer:
            return None
        if node.op_type == "Squeeze":
            return kept[axis], longer
        return (kept.index(axis), len(kept)) if axis in kept else None
    return None


def _step(graph: Graph, node: Any, name: str, axis: int, rank: int, features: int) -> Step | None:
    """What a node computes of each vector along ``axis``; None if it is not linear, or mixes vectors."""
    if node.domain not in ("", "ai.onnx"):
        return None
    attributes = read_attributes(graph.onnx, node)
    if node.op_type in ("Add", "Sub", "Mul", "Div"):
        return by_element(graph, node, axis, rank, features)
    if node.op_type == "MatMul" and axis == rank - 1:
        matrix = graph.fixed(node.input[1])
        if matrix is None or matrix.ndim != 2 or matrix.shape[1] != features or len(matrix) > features:
            return None
        return Step(node.input[0], matrix.T.astype(np.float64), np.zeros(features))
    if node.op_type == "Gemm" and (axis, rank) == (1, 2) and not attributes.get("transA"):
        matrix = graph.fixed(node.input[1])
        bias = graph.fixed(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1)
        if matrix is None or matrix.ndim != 2 or bias is None:
            return None
        matrix = (matrix if attributes.get("transB") else matrix.T).astype(np.float64)
        if matrix.shape[0] != features or matrix.shape[1] > features or not (
                bias.size == 1 or bias.size == features == bias.shape[-1]):
            return None
        offset = np.broadcast_to(bias.astype(np.float64).ravel() * attributes.get("beta", 1.0), (features,))
        return Step(node.input[0], matrix * attributes.get("alpha", 1.0), offset)
    if node.op_type == "BatchNormalization" and axis == 1:
        return _normalization(graph, node, attributes, features)
    return None


def _normalization(graph: Graph, node: Any, attributes: dict[str, Any], features: int) -> Step | None:
    if attributes.get("training_mode") or not attributes.get("spatial", 1) or any(node.output[1:]):
        return None
    given = [graph.fixed(name) for name in node.input[1:5]]
    values = [array.astype(np.float64) for array in given if array is not None and array.shape == (features,)]
    if len(values) != 4 or (values[3] < 0).any():
        return None
    scale, bias, mean, variance = values
    factor = scale / np.sqrt(variance + attributes.get("epsilon", 1e-5))
    return Step(node.input[0], factor, bias - mean * factor)


def by_element(graph: Graph, node: Any, axis: int, rank: int, features: int) -> Step | None:
    """A sum or product with a constant that is the same for all frames."""
    constants = [graph.fixed(name) for name in node.input]
    number = next((number for number, array in enumerate(constants) if array is not None), None)
    if number is None or all(array is not None for array in constants):
        return None
    array, data = constants[number], node.input[1 - number]
    assert array is not None
    sizes = graph.sizes(data)
    wide = [rank - array.ndim + place for place, size in enumerate(array.shape) if size != 1]
    if array.ndim > rank or wide not in ([], [axis]):
        return None
    if (array.ndim == rank or wide) and (sizes is None or len(sizes) != rank):
        return None  # the constant may add axes to the data
    if wide and (sizes is None or sizes[axis] != features or array.size != features):
        return None  # the constant may repeat the data
    values = np.broadcast_to(array.astype(np.float64).ravel(), (features,))
    ones, zeros = np.ones(features), np.zeros(features)
    if node.op_type == "Add":
        return Step(data, ones, values)
    if node.op_type == "Sub":
        return Step(data, ones, -values) if number == 1 else Step(data, -ones, values)
    if node.op_type == "Mul":
        return Step(data, values, zeros)
    return Step(data, 1 / values, zeros) if number == 1 and values.all() else None


def _folded(row: Row, step: Step) -> Row:
    """The row that reads the step's data."""
    tracks = []
    for (track,) in row:
        layer = track.layer
        w_x = layer.w_x.astype(np.float64)
        bias = layer.bias + w_x @ step.offset
        w_x = w_x @ step.matrix if step.matrix.ndim == 2 else w_x * step.matrix
        layer = dataclasses.replace(layer, w_x=w_x.astype(layer.w_x.dtype), bias=bias.astype(layer.bias.dtype))
        tracks.append((track._replace(layer=layer),))
    return tuple(tracks)
