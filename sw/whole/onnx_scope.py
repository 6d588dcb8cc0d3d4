# SPDX-License-Identifier: Apache-2.0
"""Graphs and bodies whose nodes change, and the LSTM nodes that are taken out of them."""

import heapq
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from typing import Any

from openese.sw.importers.assembly import Recurrent, Row, Track, assemble
from openese.sw.importers.onnx_graph import Graph
from openese.sw.model.layers import Layer
from openese.sw.model.network import Network

__all__ = ["Scope", "Taken"]


@dataclass(eq=False)
class Taken:
    """LSTM nodes that become one operator, each fed by the one before it.

    Attributes
    ----------
    nodes : list of NodeProto
        In float32, with frames in front.
    rows : list of Row
        The weights of each node.
    names : list of str
    folded : list of NodeProto
        Nodes before the first that are in its weights, and nodes between that only move numbers.
    dense : dict of int to list of Layer
        Dense layers before the node of a number, or behind the last.
    absorbed : list of NodeProto
        The nodes of the dense layers.
    moves : list of NodeProto
        Nodes between the last LSTM node and the dense layers behind it, which stay behind the operator.
    end : str or None
        What the dense layers behind the last node give.
    """

    nodes: list[Any]
    rows: list[Row]
    names: list[str]
    folded: list[Any] = field(default_factory=list)
    dense: dict[int, list[Layer]] = field(default_factory=dict)
    absorbed: list[Any] = field(default_factory=list)
    moves: list[Any] = field(default_factory=list)
    end: str | None = None

    @property
    def name(self) -> str:
        """Of the part."""
        return self.names[0] if len(self.names) == 1 else f"{self.names[0]} to {self.names[-1]}"

    def network(self) -> Network:
        """The part."""
        parts = []
        for number in range(len(self.nodes) + 1):
            parts += [Recurrent(layer.name, (((Track(layer),),),)) for layer in self.dense.get(number, ())]
            parts += [Recurrent(name, (row,)) for name, row in zip(self.names[number:number + 1],
                                                                  self.rows[number:number + 1], strict=True)]
        return assemble(parts, self.name)

    @property
    def behind(self) -> list[Layer]:
        """The dense layers behind the last node."""
        return self.dense.get(len(self.nodes), [])

    def join(self, after: "Taken", moves: list[Any]) -> None:
        """Take the nodes of another, which the last of these feeds, with ``moves`` between that change nothing."""
        for number, layers in after.dense.items():
            self.dense.setdefault(len(self.nodes) + number, []).extend(layers)
        self.folded += [*self.moves, *moves, *after.folded]
        self.absorbed += after.absorbed
        self.moves, self.end = after.moves, after.end
        self.nodes += after.nodes
        self.rows += after.rows
        self.names += after.names


class Scope:
    """A graph or body whose nodes change.

    Attributes
    ----------
    graph : Graph
        As it is in the file.
    nodes : list of NodeProto
        As they are now, in order.
    taken : list of Taken
    origin : dict of int to NodeProto
        The node of the file, by the id of a node that took its place.
    shapes : dict of str to tuple
        Of the operators' outputs; None is an open size.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes = list(graph.protos)
        self.taken: list[Taken] = []
        self.origin: dict[int, Any] = {}
        self.shapes: dict[str, tuple[int | None, ...]] = {}
        self._held = list(self.nodes)  # an id stays a node's own while the node is held
        self._inner = {id(self.nodes[number]): [Scope(body) for body in inner]
                       for number, inner in graph.inner.items()}

    def scopes(self) -> Iterator["Scope"]:
        """This scope and those in it, inner ones first."""
        for node in self.nodes:
            for scope in self._inner.get(id(node), ()):
                yield from scope.scopes()
        yield self

    def inside(self, node: Any) -> Iterator[Any]:
        """The nodes in the bodies of a node."""
        for scope in self._inner.get(id(node), ()):
            for inner in scope.scopes():
                yield from inner.nodes

    def node_reads(self, node: Any, without: Set[int] = frozenset()) -> Iterator[str]:
        """The names that a node reads, also in its bodies, each as often as it is read.

        What the nodes with the ids ``without`` read does not count.
        """
        yield from (name for name in node.input if name)
        for scope in self._inner.get(id(node), ()):
            yield from scope.reads(without)

    def reads(self, without: Set[int] = frozenset()) -> Iterator[str]:
        """The names that are read in this scope and those in it, as of `node_reads`."""
        for node in self.nodes:
            if id(node) not in without:
                yield from self.node_reads(node, without)
        yield from (output.name for output in self.graph.proto.output)

    def position(self, node: Any) -> int:
        """The number of a node."""
        return next(number for number, other in enumerate(self.nodes) if other is node)

    def producer(self, name: str) -> Any:
        """The node of this scope with this output; None if there is none."""
        return next((node for node in self.nodes if name in node.output), None)

    def remove(self, nodes: list[Any]) -> None:
        """Take nodes out."""
        self._held += nodes
        gone = {id(node) for node in nodes}
        self.nodes = [node for node in self.nodes if id(node) not in gone]

    def put(self, taken: Taken, operator: Any) -> None:
        """Put an operator in place of the nodes that it stands for."""
        self.nodes.insert(self.position(taken.nodes[-1]), operator)
        self.remove(taken.nodes + taken.folded)
        if len(taken.nodes) > 1 or taken.absorbed:
            self._sort()

    def _sort(self) -> None:
        """Put each node behind those whose outputs it reads, and else keep the order."""
        producers = {name: number for number, node in enumerate(self.nodes) for name in node.output if name}
        readers: dict[int, list[int]] = {}
        missing = []
        for number, node in enumerate(self.nodes):
            before = {producers[name] for name in self.node_reads(node) if name in producers}
            missing.append(len(before))
            for other in before:
                readers.setdefault(other, []).append(number)
        ready = [number for number, count in enumerate(missing) if not count]
        order = []
        while ready:
            number = heapq.heappop(ready)
            order.append(self.nodes[number])
            for reader in readers.get(number, ()):
                missing[reader] -= 1
                if not missing[reader]:
                    heapq.heappush(ready, reader)
        self.nodes = order

    def write(self) -> None:
        """Put the nodes of this scope and those in it into their graphs."""
        for scope in self.scopes():
            held = type(scope.graph.proto)()
            held.node.extend(scope.nodes)
            scope.graph.proto.ClearField("node")
            scope.graph.proto.node.MergeFrom(held.node)
