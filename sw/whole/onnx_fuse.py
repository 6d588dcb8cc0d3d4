# SPDX-License-Identifier: Apache-2.0
"""Fuse LSTM nodes that follow each other, with nothing between that changes a number, into one part."""

from collections import Counter
from typing import Any

import numpy as np

from openese.sw.importers.base import ImportRefused
from openese.sw.importers.onnx_graph import EXTENTS, Graph, is_moving
from openese.sw.whole.onnx_operator import MOST
from openese.sw.whole.onnx_scope import Scope, Taken

__all__ = ["fuse"]

_MOST_LABELS = 1 << 24


def fuse(scope: Scope) -> None:
    """Join the ``taken`` of a scope where one feeds the other alone."""
    for after in list(scope.taken):
        reads = Counter(scope.reads())
        moves: list[Any] = []
        name = after.nodes[0].input[0]
        while True:
            before = next((taken for taken in scope.taken if name == (taken.end or taken.nodes[-1].output[0])), None)
            node = scope.producer(name)
            if reads[name] != 1 or node is None and before is None:
                break
            if before is not None:
                if before is not after and len(before.nodes) + len(after.nodes) <= MOST \
                        and _fits(scope, before, after, moves[::-1]):
                    before.join(after, moves)
                    scope.taken.remove(after)
                break
            if any(taken.nodes[-1] is node for taken in scope.taken):
                break
            if node.op_type in ("Slice", "Gather") or not is_moving(scope.graph, node) or any(
                    reads[other] for other in node.output[1:]):
                break
            moves.append(node)
            name = node.input[0]


def _fits(scope: Scope, before: Taken, after: Taken, moves: list[Any]) -> bool:
    """Whether ``after`` reads the outputs of ``before`` in order, with the same lengths, and nothing else of it."""
    source, reader = before.nodes[-1], after.nodes[0]
    row = before.rows[-1]
    ways, cells = (1, before.behind[-1].outputs) if before.behind else (len(row), row[0][0].layer.outputs)
    inputs = after.dense[0][0].inputs if after.dense.get(0) else after.rows[0][0][0].layer.inputs
    if ways * cells != inputs or _lengths(source) != _lengths(reader):
        return False
    sizes = scope.graph.sizes(before.nodes[0].input[0])
    steps, voices = sizes[:2] if sizes is not None and len(sizes) == 3 else (None, None)
    moves = [*before.moves, *moves]
    return (all(_in_order(scope.graph, moves, source.output[0], steps or t, voices or b, ways, cells)
                for t, b in EXTENTS[:1 if steps and voices else None])
            and not _depends(scope, before, after))


def _lengths(node: Any) -> str:
    return str(node.input[4]) if len(node.input) > 4 else ""


def _in_order(graph: Graph, moves: list[Any], name: str, steps: int, voices: int, ways: int, cells: int) -> bool:
    if steps * voices * ways * cells > _MOST_LABELS:
        return False
    labels = np.arange(steps * voices * ways * cells).reshape(steps, voices, ways * cells)
    array = labels.reshape(steps, voices, ways, cells).swapaxes(1, 2)
    for node in moves:
        others = {given: graph.fixed(given) for given in node.input[1:] if given}
        if node.op_type not in ("Cast", "Dropout"):
            if any(value is None for value in others.values()):
                return False
            try:
                array = graph.evaluate(node, node.output[0], {node.input[0]: array, **others})  # type: ignore[dict-item]
            except ImportRefused:
                return False
    return np.array_equal(array, labels)


def _depends(scope: Scope, before: Taken, after: Taken) -> bool:
    """Whether ``after`` reads, besides x, what is computed from ``before``: they cannot be one operator then."""
    groups = {id(node): taken for taken in scope.taken for node in taken.nodes}
    reached = {name for node in before.nodes for name in node.output[1:] if name}
    size = -1
    while len(reached) > size:
        size = len(reached)
        for node in scope.nodes:
            if any(name in reached for name in scope.node_reads(node)):
                group = groups.get(id(node))
                if group is after or group is before:
                    return True
                members = group.nodes if group else [node]
                reached.update(name for member in members for name in member.output if name)
    return False
