# SPDX-License-Identifier: Apache-2.0
"""Analyse an ONNX graph around its recurrent nodes: constants, and the outputs that feed each input."""

import graphlib
import math
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openese.sw.importers.base import LIMIT, ImportRefused

__all__ = ["EXTENTS", "Affine", "Constant", "Graph", "Labels", "Node", "bodies", "inferred", "is_moving",
           "linear_weight", "named_nodes", "read_attributes"]

Array = NDArray[Any]

#: Operators on constants that are evaluated; none returns more elements than it reads.
_FOLDED = {"Constant", "Identity", "Cast", "QuantizeLinear", "DequantizeLinear", "Transpose", "Unsqueeze",
           "Squeeze", "Reshape", "Flatten", "Concat", "Slice", "Split"}
_DEQUANTIZE = 19  # version
#: Operators that keep all elements of their first input in their order.
_RESHAPING = {"Identity", "Unsqueeze", "Squeeze", "Reshape", "Flatten", "Dropout", "Cast"}
#: Operators that only move or drop elements of their first input.
_MOVING = _RESHAPING | {"Transpose", "Slice", "Gather"}
#: Operators whose output is zero if their first input is zero.
_KEEPING_ZERO = (_MOVING - {"Dropout"}) | {"Expand", "Tile", "Split"}
_MOST_LABELS = 1 << 24
#: Stand-ins for numbers of frames and voices that the file leaves open. What holds for all of them holds.
EXTENTS = ((5, 7), (11, 3), (1, 5), (5, 1), (1, 1))


class Constant(NamedTuple):
    """A constant tensor, and the types and operators that it was computed through."""

    array: Array
    through: frozenset[str]


class Labels(NamedTuple):
    """The origin of each element of a tensor, as the index ``(t * B + b) * features + f`` into a node's output.

    ``source`` is that node, an LSTM, a GRU or the last linear node; ``total`` is T * B. At a ``root``, a linear node
    that reads neither, T and B may be exchanged.
    """

    array: Array
    features: int
    total: int
    source: "Node"
    root: bool = False

    @property
    def rows(self) -> Array | None:
        """The index ``t * B + b`` of each row; None unless the last axis holds all features in order."""
        if not self.array.ndim or self.array.shape[-1] != self.features:
            return None
        rows = self.array // self.features
        in_order = (self.array % self.features == np.arange(self.features)).all()
        return rows[..., 0] if in_order and (rows == rows[..., :1]).all() else None


class Affine(NamedTuple):
    """What a node adds to or multiplies with each vector of features.

    ``first`` tells whether the constant is the node's first input: c - x and x - c differ.
    """

    kind: str
    constant: Array
    first: bool


class Node(NamedTuple):
    """A node, the name that selects it, and its graph."""

    name: str
    proto: Any
    graph: "Graph"

    @property
    def kind(self) -> str:
        """The operator, with its domain if it is not one of the ONNX standard."""
        domain = self.proto.domain
        return str(self.proto.op_type) if domain in ("", "ai.onnx") else f"{domain}.{self.proto.op_type}"

    @property
    def bodies(self) -> list["Graph"]:
        """The graphs in the node."""
        number = next(number for number, proto in enumerate(self.graph.protos) if proto is self.proto)
        return self.graph.inner.get(number, [])

    @property
    def path(self) -> str:
        """The name in the file, after the names of the nodes around it."""
        return f"{self.graph.prefix}{_label(self.proto)}"

    def input(self, number: int) -> str:
        """Return the name of an input; empty if the node leaves it out."""
        return self.proto.input[number] if number < len(self.proto.input) else ""


def _label(proto: Any) -> str:
    return str(proto.name or next((output for output in proto.output if output), proto.op_type))


def named_nodes(graph: "Graph") -> list[Node]:
    """Return all nodes of a graph and its bodies, each with a name of its own."""
    nodes: dict[str, Node] = {}
    for scope, proto in graph.walk():
        node = Node(_label(proto), proto, scope)
        name = node.path if node.name in nodes else node.name
        name = f"{name}#{len(nodes)}" if name in nodes else name
        nodes[name] = node._replace(name=name)
    return list(nodes.values())


def read_attributes(onnx: Any, proto: Any) -> dict[str, Any]:
    """Return a node's attributes by name, with text as str."""
    values = {}
    for attribute in proto.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            value = value.decode(errors="replace")
        elif isinstance(value, list):
            value = [item.decode(errors="replace") if isinstance(item, bytes) else item for item in value]
        values[attribute.name] = value
    return values


def bodies(proto: Any) -> Iterator[tuple[str, Any]]:
    """Yield the graphs in the attributes of a node, each with the attribute's name."""
    for attribute in proto.attribute:
        for body in [attribute.g] if attribute.HasField("g") else attribute.graphs:
            yield attribute.name, body


def inferred(onnx: Any, model: Any) -> Any:
    """Return the model's graph, without large tensors, with the shapes that follow from the network's inputs.

    Shapes that the file only claims are not in it: no runtime checks them.
    """
    twin = type(model)(ir_version=model.ir_version, opset_import=model.opset_import)
    graph = twin.graph
    for field in ("name", "node", "input", "output"):
        held = getattr(model.graph, field)
        setattr(graph, field, held) if isinstance(held, str) else getattr(graph, field).extend(held)
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= _MOST_SHAPE_NUMBERS and tensor.data_location != tensor.EXTERNAL:
            graph.initializer.append(tensor)
        else:
            graph.initializer.add(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type)
    _drop_claims(graph)
    try:
        return onnx.shape_inference.infer_shapes(twin).graph
    except Exception:  # inferred shapes are optional
        return graph


#: Larger tensors are no shapes.
_MOST_SHAPE_NUMBERS = 1024


def _drop_claims(graph: Any, body: bool = False) -> None:
    """Drop the shapes of all tensors but the inputs of the network, which onnxruntime checks."""
    graph.ClearField("value_info")
    for value in (*graph.output, *(graph.input if body else ())):
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    for node in graph.node:
        for _, inner in bodies(node):
            _drop_claims(inner, body=True)


def _check_nodes(onnx: Any, path: Path, proto: Any, opsets: Any) -> None:
    """Raise `ImportRefused` if a node has fewer inputs or outputs than its operator, or if nodes read each other in a
    circle."""
    version = next((opset.version for opset in opsets if opset.domain in ("", "ai.onnx")), None)
    for node in proto.node:
        if version is None or node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type):
            continue
        try:
            schema = onnx.defs.get_schema(node.op_type, version)
        except onnx.defs.SchemaError:
            continue
        for what, names, least, formal in (("input", node.input, schema.min_input, schema.inputs),
                                           ("output", node.output, schema.min_output, schema.outputs)):
            single = least and formal[0].option == onnx.defs.OpSchema.FormalParameterOption.Single
            if len(names) < least or single and not names[0]:
                there = f"{sum(map(bool, names))} of its {least} {what}s" if any(names) else f"no {what}"
                raise ImportRefused(f"{path.name}: the file is damaged: the {node.op_type} node {node.name!r} has "
                                    f"{there}")
    makers = {name: number for number, node in enumerate(proto.node) for name in node.output if name}
    reads = {number: {makers[name] for name in node.input if name in makers}
             for number, node in enumerate(proto.node)}
    try:
        graphlib.TopologicalSorter(reads).prepare()
    except graphlib.CycleError as error:
        first = proto.node[error.args[1][0]]
        raise ImportRefused(f"{path.name}: the file is damaged: the {first.op_type} node {first.name!r} reads its own "
                            f"output") from None


class Graph:
    """A graph, or the body of an If, Loop or Scan node.

    Parameters
    ----------
    onnx : module
    proto : GraphProto
    path : Path
        The file. External tensors are in its folder.
    opsets : sequence of OperatorSetIdProto
    twin : GraphProto, optional
        The same graph with inferred shapes.
    outer : Graph, optional
        The graph around a body.
    prefix : str
        Makes names of nodes in a body unique.
    """

    def __init__(self, onnx: Any, proto: Any, path: Path, opsets: Any, twin: Any = None,
                 outer: "Graph | None" = None, prefix: str = "") -> None:
        self.onnx, self.proto, self.path, self.opsets = onnx, proto, path, opsets
        self.outer, self.prefix = outer, prefix
        _check_nodes(onnx, path, proto, opsets)
        self.tensors = {tensor.name: tensor for tensor in proto.initializer}
        #: LSTM, GRU, MatMul and Gemm nodes by their outputs' names. The importer fills it in.
        self.nodes: dict[str, Node] = {}
        self._constants: dict[str, Constant | None] = {}
        self._tail_of: set[int] = set()
        self._tails: dict[str, list[Any]] = {}
        #: All nodes in order, and the bodies of each by its number.
        self.protos = list(proto.node)
        self.inner: dict[int, list[Graph]] = {}
        self.producers = {name: node for node in self.protos for name in node.output if name}
        labels: set[str] = set()
        for number, node in enumerate(self.protos):
            twins = [] if twin is None else [body for _, body in bodies(twin.node[number])]
            for place, (attribute, body) in enumerate(bodies(node)):
                label = f"{prefix}{node.name or f'{node.op_type}_{number}'}.{attribute}"
                label = f"{label}#{len(labels)}" if label in labels else label
                labels.add(label)
                inner = Graph(onnx, body, path, opsets, twins[place] if twins else None, self, f"{label}/")
                self.inner.setdefault(number, []).append(inner)
        values = [] if twin is None else [*twin.input, *twin.output, *twin.value_info]
        self._shapes = {value.name: value.type.tensor_type.shape for value in values
                        if value.type.tensor_type.HasField("shape")}

    def walk(self) -> Iterator[tuple["Graph", Any]]:
        """Yield all nodes of this graph and of the bodies in it, each with its graph."""
        for number, node in enumerate(self.protos):
            yield self, node
            for inner in self.inner.get(number, ()):
                yield from inner.walk()

    @cached_property
    def readers(self) -> dict[str, list[Any]]:
        """The nodes that read each tensor, themselves or in their bodies; None for an output of the graph."""
        readers: dict[str, list[Any]] = {value.name: [None] for value in self.proto.output}
        for number, node in enumerate(self.protos):
            for name in (*node.input, *(name for inner in self.inner.get(number, ()) for name in inner.readers)):
                readers.setdefault(name, []).append(node)
        return readers

    def sizes(self, name: str) -> tuple[int | None, ...] | None:
        """Return the inferred shape of a tensor, with None for an open size; None if the rank is open."""
        if name in self.tensors:
            return tuple(self.tensors[name].dims)
        if name in self._shapes:
            return tuple(dim.dim_value or None for dim in self._shapes[name].dim)
        return self.outer.sizes(name) if self.outer is not None and name not in self.producers else None

    def consulted(self, name: str) -> bool:
        """Whether the value of this initializer was asked for."""
        return name in self._constants

    def fixed(self, name: str) -> Array | None:
        """Return the value of ``name`` if it is constant and no input of the network can take its place."""
        top = self
        while top.outer is not None:
            top = top.outer
        if name in top.tensors and any(value.name == name for value in top.proto.input):
            return None
        constant = self.constant(name)
        return None if constant is None else constant.array

    # -- constants -----------------------------------------------------------------------------

    def constant(self, name: str) -> Constant | None:
        """Return the value of ``name`` if it is constant, else None.

        Raises
        ------
        ImportRefused
            If the constant is too large, or cannot be read or computed.
        """
        if name not in self._constants:
            self._constants[name] = None
            self._constants[name] = self._find_constant(name)
        return self._constants[name]

    def _find_constant(self, name: str) -> Constant | None:
        if name in self.tensors:
            array = self._read(self.tensors[name])
            return Constant(array, frozenset([str(array.dtype)]))
        node = self.producers.get(name)
        if node is None:
            return self.outer.constant(name) if self.outer is not None else None
        sparse = any(attribute.name == "sparse_value" for attribute in node.attribute)
        if node.op_type not in _FOLDED or node.domain not in ("", "ai.onnx") or sparse:
            return None
        values = {given: self.constant(given) for given in node.input if given}
        known = {given: value for given, value in values.items() if value is not None}
        if len(known) < len(values):
            return None
        through = frozenset([node.op_type]).union(*(value.through for value in known.values()))
        array = self.evaluate(node, name, {given: value.array for given, value in known.items()})
        return Constant(array, through | {str(array.dtype)} if node.op_type == "Constant" else through)

    def evaluate(self, node: Any, name: str, values: dict[str, Array]) -> Array:
        """Return one output of ``node`` for these inputs, computed by ONNX's reference evaluator."""
        if 8 * sum(values[given].size for given in node.input if given) > LIMIT:
            raise ImportRefused(f"{self.path.name}: constant {name!r} is computed from more than {LIMIT // 8:,} "
                                f"numbers; export the model with constant weights")
        helper = self.onnx.helper
        free = [helper.make_empty_tensor_value_info(given) for given in values]
        graph = helper.make_graph([node], "constant", free, [helper.make_empty_tensor_value_info(name)])
        opsets = self.opsets
        if node.op_type == "DequantizeLinear":
            # The evaluator has no older version; what those take means the same in this one.
            version = max(opset.version for opset in opsets if opset.domain in ("", "ai.onnx"))
            opsets = [helper.make_opsetid("", max(version, _DEQUANTIZE))]
        model = helper.make_model(graph, opset_imports=opsets)
        try:
            return np.asarray(self.onnx.reference.ReferenceEvaluator(model).run(None, values)[0])
        except Exception as error:
            raise ImportRefused(f"{self.path.name}: constant {name!r} cannot be computed "
                                f"({type(error).__name__}: {error})") from None

    def _read(self, tensor: Any) -> Array:
        try:
            if tensor.data_location == tensor.EXTERNAL:
                return self.read_external(tensor)
            return np.asarray(self.onnx.numpy_helper.to_array(tensor))
        except ImportRefused:
            raise
        except Exception as error:
            raise ImportRefused(f"{self.path.name}: tensor {tensor.name!r} cannot be read "
                                f"({error})") from None

    def read_external(self, tensor: Any) -> Array:
        keys = {entry.key: entry.value for entry in tensor.external_data}
        base = self.path.resolve().parent
        file = (base / keys.get("location", "")).resolve()
        if not file.is_relative_to(base):
            raise ImportRefused(f"{self.path.name}: tensor {tensor.name!r} is stored in {keys.get('location')!r}, "
                                f"outside of the model's folder, and is not read")
        dtype = np.dtype(self.onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
        length = math.prod(tensor.dims) * dtype.itemsize
        if not file.is_file():
            raise ImportRefused(f"{self.path.name}: the file {keys.get('location')!r} with tensor {tensor.name!r} is "
                                f"missing; put it beside the model")
        if not 0 < length <= LIMIT:
            raise ImportRefused(f"{self.path.name}: tensor {tensor.name!r} has {length:,} bytes; "
                                f"1 to {LIMIT:,} are read")
        with open(file, "rb") as stream:
            stream.seek(int(keys.get("offset", 0)))
            data = stream.read(length)
        if len(data) != length:
            raise ImportRefused(f"{self.path.name}: {file.name} is too short for tensor {tensor.name!r}; "
                                f"copy it again")
        return np.frombuffer(data, dtype).reshape(tuple(tensor.dims))

    def is_computed(self, name: str) -> bool:
        """Whether a node computes ``name``; else it is an input or an initializer."""
        return name in self.producers or self.outer is not None and self.outer.is_computed(name)

    def is_zero(self, name: str) -> bool:
        """Whether all elements of ``name`` are zero, for any shape that it can have."""
        constant = self.constant(name)
        if constant is not None:
            return not constant.array.any()
        node = self.producers.get(name)
        if node is None:
            return self.outer.is_zero(name) if self.outer is not None else False
        if node.op_type == "ConstantOfShape":
            value = read_attributes(self.onnx, node).get("value")
            return value is None or not self.onnx.numpy_helper.to_array(value).any()
        if node.op_type == "Concat":
            return all(self.is_zero(given) for given in node.input)
        return node.op_type in _KEEPING_ZERO and self.is_zero(node.input[0])

    # -- the origin of inputs ------------------------------------------------------------------

    def origins(self, name: str) -> list[Labels]:
        """Return the origin of ``name``'s elements, if all come from one LSTM, GRU or linear node; else nothing.

        One for each of `EXTENTS`.
        """
        found = [self._labels(name, extent) for extent in EXTENTS]
        known = [labels for labels in found if labels is not None]
        return known if len(known) == len(found) else []

    def _labels(self, name: str, extent: tuple[int, int]) -> Labels | None:
        proto = self.producers.get(name)
        if proto is None:
            return self.outer._labels(name, extent) if self.outer is not None else None
        node = self.nodes.get(name)
        if node is not None:
            return (self._linear_labels(node, extent) if node.kind in ("MatMul", "Gemm")
                    else self._recurrent_labels(node, name, extent))
        if id(proto) in self._tail_of:  # of a linear node, whose vectors it keeps
            return self._labels(next(given for given in proto.input if self.constant(given) is None), extent)
        if not is_moving(self, proto):
            return None
        before = self._labels(proto.input[0], extent)
        if before is None or proto.op_type in ("Dropout", "Cast"):
            return before
        others = {given: self.constant(given) for given in proto.input[1:] if given}
        known = {given: value.array for given, value in others.items() if value is not None}
        largest = max((value.size for value in known.values()), default=1)
        if len(known) < len(others) or before.array.size * largest > _MOST_LABELS:
            return None
        try:
            return before._replace(array=self.evaluate(proto, name, {proto.input[0]: before.array, **known}))
        except ImportRefused:
            return None

    def tail(self, node: Node) -> list[Affine]:
        """Return the sums and products with constants that follow a linear node, with nothing else that reads it.

        `origins` passes over them.
        """
        weight = linear_weight(node)
        name, found, protos, passed = node.proto.output[0], [], [], []
        while weight is not None:
            readers = self.readers.get(name, [])
            if len(readers) != 1 or readers[0] is None:
                break
            proto = readers[0]
            passed.append(proto)
            affine = self._affine(proto, name, weight.shape[0])
            if affine is not None:
                self._tail_of.add(id(proto))
                found.append(affine)
                protos += passed
                passed = []
            elif proto.op_type not in _RESHAPING or not is_moving(self, proto) or proto.input[0] != name:
                break
            name = proto.output[0]
        self._tails[node.name] = protos
        return found

    def tail_nodes(self, node: Node) -> list[Any]:
        """Return the nodes of a `tail`, and those between that keep the order of elements."""
        return self._tails.get(node.name, [])

    def _affine(self, proto: Any, name: str, size: int) -> Affine | None:
        """What ``proto`` does to the vectors of ``size`` features in ``name``; None if it is not the same for all."""
        sizes = self.sizes(name)
        if proto.op_type not in ("Add", "Sub", "Mul", "Div") or proto.domain not in ("", "ai.onnx"):
            return None
        other = next((given for given in proto.input if given != name), "")
        constant = self.constant(other) if other else None
        if constant is None or sizes is None or sizes[-1:] != (size,) or constant.array.ndim > len(sizes) or (
                constant.array.size not in (1, *constant.array.shape[-1:])) or constant.array.size not in (1, size):
            return None
        first = proto.input[0] != name
        return None if proto.op_type == "Div" and first else Affine(proto.op_type, constant.array.ravel(), first)

    def _linear_labels(self, node: Node, extent: tuple[int, int]) -> Labels | None:
        weight = linear_weight(node)
        if weight is None:
            return None
        outputs, before = weight.shape[0], self._labels(node.input(0), extent)
        if before is not None:
            rows = before.rows
            if rows is None or weight.shape[1] != before.features:
                return None
            return Labels(rows[..., None] * outputs + np.arange(outputs), outputs, before.total, node, before.root)
        sizes = self.sizes(node.proto.output[0])  # of a linear node that reads neither LSTM nor GRU
        if sizes is None or len(sizes) not in (2, 3):
            return None
        stand_ins = extent if len(sizes) == 3 else (math.prod(extent),)
        shape = [size or stand_in for size, stand_in in zip(sizes, stand_ins, strict=False)]
        if math.prod(shape) * outputs > _MOST_LABELS:
            return None
        array = np.arange(math.prod(shape) * outputs).reshape(*shape, outputs)
        return Labels(array, outputs, math.prod(shape), node, root=True)

    def _recurrent_labels(self, node: Node, name: str, extent: tuple[int, int]) -> Labels | None:
        output = list(node.proto.output).index(name)
        attributes = read_attributes(self.onnx, node.proto)
        weights = self.constant(node.input(2))
        if weights is None or weights.array.ndim != 3:
            return None
        ways, _, cells = weights.array.shape
        batch_first = attributes.get("layout", 0) == 1
        steps, voices = self._extent(node.input(0), batch_first, extent)
        features = ways * cells
        if steps * voices * features > _MOST_LABELS:
            return None
        array = np.arange(steps * voices * features).reshape(steps, voices, ways, cells)
        if output == 0:
            order = (1, 0, 2, 3) if batch_first else (0, 2, 1, 3)
            return Labels(array.transpose(order), features, steps * voices, node)
        if output == 1 and ways == 1:
            last = array[0 if attributes.get("direction") == "reverse" else -1]
            return Labels(last if batch_first else last.swapaxes(0, 1), features, steps * voices, node)
        return None

    def _extent(self, name: str, batch_first: bool, extent: tuple[int, int]) -> tuple[int, int]:
        """Return the frames and voices of a node's input; ``extent`` stands in for those that the file leaves open."""
        sizes = self.sizes(name)
        if sizes is None or len(sizes) != 3:
            return extent
        steps, voices = sizes[1::-1] if batch_first else sizes[:2]
        return steps or extent[0], voices or extent[1]


def is_moving(graph: Graph, proto: Any) -> bool:
    """Whether a node only moves or drops elements of its first input, or rounds them to another type of real number."""
    if proto.domain not in ("", "ai.onnx"):
        return False
    if proto.op_type == "Dropout":  # with the mode of training as a third input
        mode = graph.constant(proto.input[2]) if len(proto.input) > 2 and proto.input[2] else None
        return len(proto.input) < 3 or not proto.input[2] or mode is not None and not mode.array.any()
    if proto.op_type == "Cast":
        types = graph.onnx.TensorProto
        return read_attributes(graph.onnx, proto).get("to") in (types.FLOAT, types.DOUBLE, types.FLOAT16,
                                                                types.BFLOAT16)
    return proto.op_type in _MOVING


def linear_weight(node: Node) -> Array | None:
    """Return the matrix (K, P) of a MatMul or Gemm, without a Gemm's factor alpha; None if it is not constant."""
    constant = node.graph.constant(node.input(1))
    if constant is None or constant.array.ndim != 2:
        return None
    attributes = read_attributes(node.graph.onnx, node.proto)
    if node.kind == "Gemm" and attributes.get("transA"):
        return None
    return constant.array if node.kind == "Gemm" and attributes.get("transB") else constant.array.T
