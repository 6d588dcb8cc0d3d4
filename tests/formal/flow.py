# SPDX-License-Identifier: Apache-2.0
"""Where secrets flow: beside every gate of an and-inverter graph, a gate that says whether the first depends on one.

An AND passes a secret on unless its other input is 0. If both inputs may be secret, it passes either on: so may say too
much, never too little. What no secret ever reaches, this shows for any two runs that differ in secrets alone.
"""

from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Graph", "follow"]


@dataclass
class Graph:
    """An and-inverter graph. A literal is twice the number of a node, plus 1 if it is inverted; node 0 is false.

    Attributes
    ----------
    inputs : int
        Nodes 1 to ``inputs``.
    latches : list of int
        The literal that each of the following nodes takes over; all start with 0.
    gates : list of tuple of int
        Two literals for each node behind the latches.
    outputs : list of int
        Literals.
    """

    inputs: int
    latches: list[int] = field(default_factory=list)
    gates: list[tuple[int, int]] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)

    @property
    def first(self) -> int:
        """Node of the first gate."""
        return self.inputs + len(self.latches) + 1

    def both(self, left: int, right: int) -> int:
        """Literal of the AND of two literals."""
        if 0 in (left, right):
            return 0
        if 1 in (left, right):
            return max(left, right) if min(left, right) == 1 else min(left, right)
        self.gates.append((left, right))
        return 2 * (self.first + len(self.gates) - 1)

    def any(self, literals: list[int]) -> int:
        """Literal of the OR of some literals."""
        result = 1
        for literal in literals:
            result = self.both(result, literal ^ 1)
        return result ^ 1

    @classmethod
    def read(cls, path: Path) -> "Graph":
        """From a binary AIGER file."""
        with path.open("rb") as file:
            magic, _, inputs, latches, outputs, gates = file.readline().split()
            assert magic == b"aig", magic
            graph = cls(int(inputs))
            graph.latches = [int(file.readline()) for _ in range(int(latches))]
            graph.outputs = [int(file.readline()) for _ in range(int(outputs))]

            def number():
                shift = value = 0
                while (byte := file.read(1)[0]) & 0x80:
                    value |= (byte & 0x7F) << shift
                    shift += 7
                return value | byte << shift

            for index in range(int(gates)):
                left = 2 * (graph.first + index) - number()
                graph.gates.append((left, left - number()))
        return graph

    def write(self, path: Path) -> None:
        """As a binary AIGER file."""
        counts = self.inputs, len(self.latches), len(self.outputs), len(self.gates)
        data = bytearray(f"aig {self.first - 1 + len(self.gates)} {' '.join(map(str, counts))}\n".encode())
        for literal in (*self.latches, *self.outputs):
            data += b"%d\n" % literal
        for node, gate in enumerate(self.gates, self.first):
            right, left = sorted(gate)
            for delta in (2 * node - left, left - right):
                while delta > 0x7F:
                    data.append(delta & 0x7F | 0x80)
                    delta >>= 7
                data.append(delta)
        path.write_bytes(data)


def follow(graph: Graph, secrets: set[int]) -> tuple[Graph, list[int]]:
    """Add to a graph the gates that say where ``secrets`` flow.

    Parameters
    ----------
    graph : Graph
    secrets : set of int
        Inputs, counted from 0.

    Returns
    -------
    Graph
        With a latch for each latch that a secret may reach.
    list of int
        For each output, the literal that says whether it depends on a secret.
    """
    first = graph.first
    reached = {index + 1 for index in secrets}
    before = -1
    while before != len(reached):
        before = len(reached)
        reached.update(node for node, gate in enumerate(graph.gates, first)
                       if gate[0] >> 1 in reached or gate[1] >> 1 in reached)
        reached.update(node for node, literal in enumerate(graph.latches, graph.inputs + 1) if literal >> 1 in reached)

    kept = [node for node in range(graph.inputs + 1, first) if node in reached]
    result = Graph(graph.inputs, [0] * (len(graph.latches) + len(kept)))
    # Literals of the old nodes in the new graph, and of whether they are secret.
    new = [2 * node for node in range(first)]
    secret = {index + 1: 1 for index in secrets}
    secret |= {node: 2 * (first + place) for place, node in enumerate(kept)}

    def value(literal):
        return new[literal >> 1] ^ (literal & 1)

    def is_secret(literal):
        return secret.get(literal >> 1, 0)

    for node, (left, right) in enumerate(graph.gates, first):
        new.append(result.both(value(left), value(right)))
        if left >> 1 in reached and right >> 1 in reached:
            secret[node] = result.any([is_secret(left), is_secret(right)])
        elif left >> 1 in reached:
            secret[node] = result.both(is_secret(left), value(right))
        elif right >> 1 in reached:
            secret[node] = result.both(is_secret(right), value(left))
    result.latches = [value(literal) for literal in graph.latches]
    result.latches += [is_secret(graph.latches[node - graph.inputs - 1]) for node in kept]
    result.outputs = [value(literal) for literal in graph.outputs]
    return result, [is_secret(literal) for literal in graph.outputs]
