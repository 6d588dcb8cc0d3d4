# SPDX-License-Identifier: Apache-2.0
"""Plan a whole ONNX network: take out the LSTM and GRU nodes that the machine computes, and give everything a place."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from openese.rtl.config import Config
from openese.sw.importers.assembly import Recurrent, Track, assemble
from openese.sw.importers.base import ImportRefused
from openese.sw.importers.onnx_graph import Graph, Node, named_nodes, read_attributes
from openese.sw.importers.onnx_recurrent import INPUTS, RECURRENT, RecurrentNode, read_recurrent
from openese.sw.model.layers import GRU, ModelError
from openese.sw.model.network import Network
from openese.sw.model.quantized import unsupported
from openese.sw.whole.host import Item
from openese.sw.whole.onnx_dense import take_behind, take_chain, take_front
from openese.sw.whole.onnx_fold import fold
from openese.sw.whole.onnx_fuse import fuse
from openese.sw.whole.onnx_operator import DOMAIN, NOTHING, OPERATOR
from openese.sw.whole.onnx_scope import Scope, Taken

__all__ = ["Plan"]


class Plan:
    """The plan of a network.

    Parameters
    ----------
    model : ModelProto
        It becomes the model of the host.
    graph : Graph
        Of the model, with inferred shapes.
    machine : Config, optional
        Nodes of which it has no cells stay with the host; without one, dense nodes too.

    Attributes
    ----------
    parts : dict of str to Network
    items : tuple of Item
    fixed : set of str
        Initializers that decide the plan, so that no input can take their place.
    equivalent : bytes or None
        A model with the same outputs that onnxruntime runs, if it does not run the LSTM nodes as they are.
    """

    def __init__(self, model: Any, graph: Graph, machine: Config | None = None) -> None:
        self._machine = machine
        self.parts: dict[str, Network] = {}
        self.equivalent: bytes | None = None
        self._onnx, self._model = graph.onnx, model
        self._nodes = named_nodes(graph)
        self._top = Scope(graph)
        self._places: dict[int, tuple[str, str]] = {}
        self._of_part: dict[str, str] = {}
        self._turned: list[tuple[Scope, Any]] = []
        self._used = {name for node in self._nodes for name in (*node.proto.input, *node.proto.output)}
        unused, unread = self._dead(), Counter(self._top.reads())
        lstms = self._find()
        self._normalize(lstms)
        for scope in self._top.scopes():
            for taken in scope.taken:
                fold(scope, taken)
            if machine is not None and machine.dense:
                for taken in scope.taken:
                    take_front(scope, taken)
                    take_behind(scope, taken)
            fuse(scope)
        self._replace()
        dead = self._dead()
        for scope in self._top.scopes():
            scope.nodes = [node for node in scope.nodes if id(node) not in dead]
        read = set(self._top.reads())
        self.items = (*(self._node_item(node, unused, dead) for node in self._nodes),
                      *(item for scope in self._top.scopes() for item in self._tensor_items(scope, unread, read)))
        self.fixed = {name for name in graph.tensors if graph.consulted(name)}
        self._write(read)

    # -- which nodes are taken -----------------------------------------------------------------

    def _find(self) -> list[RecurrentNode]:
        """The nodes that the machine computes, each put into its scope's ``taken``."""
        scopes = {id(node): scope for scope in self._top.scopes() for node in scope.nodes}
        found = []
        for node in self._nodes:
            if node.kind not in RECURRENT:
                continue
            lstm = read_recurrent(node)
            try:
                if isinstance(lstm, RecurrentNode):
                    row = lstm.row()
                    problem = next(filter(None, (unsupported(lstm.kind, track.layer.reset_after, self._machine)
                                                 for (track,) in row)), None)
                    if problem is None:
                        scopes[id(node.proto)].taken.append(Taken([node.proto], [row], [node.name]))
                        found.append(lstm)
                        continue
                    lstm = problem
            except (ImportRefused, ModelError) as error:
                lstm = str(error)
            self._places[id(node.proto)] = "host", f"onnxruntime: {lstm}"
            if node.proto.domain in ("", "ai.onnx") and read_attributes(self._onnx, node.proto).get("layout") == 1:
                self._turned.append((scopes[id(node.proto)], node.proto))
        return found

    def _dead(self) -> set[int]:
        """The ids of nodes whose outputs reach no output of the network."""
        reads = Counter(self._top.reads())
        producers: dict[str, list[tuple[Scope, Any]]] = {}
        waiting = []
        for scope in self._top.scopes():
            for node in scope.nodes:
                waiting.append((scope, node))
                for name in node.output:
                    producers.setdefault(name, []).append((scope, node))
        dead: set[int] = set()
        while waiting:
            scope, node = waiting.pop()
            if id(node) in dead or any(reads[name] for name in node.output if name):
                continue
            read = list(scope.node_reads(node, without=dead))
            dead.update(map(id, (node, *scope.inside(node))))
            for name in read:
                reads[name] -= 1
                if not reads[name]:
                    waiting += producers.get(name, ())
        return dead

    # -- recurrent nodes as onnxruntime has them: frames in front, in float32 --------------------

    def _normalize(self, lstms: list[RecurrentNode]) -> None:
        by_node = {id(lstm.node.proto): lstm for lstm in lstms}
        foreign = False
        for scope in self._top.scopes():
            for taken in scope.taken:
                lstm = by_node[id(taken.nodes[0])]
                weights = lstm.node.graph.constant(lstm.given("W"))
                kind = weights.array.dtype.name if weights is not None else "float32"
                if kind != "float32" or lstm.batch_first:
                    taken.nodes[0] = self._normal(scope, taken.nodes[0], lstm.batch_first, kind)
                    foreign |= kind not in ("float32", "float16") or lstm.batch_first
        for scope, node in self._turned:
            self._normal(scope, node, True, "float32")
        if foreign or self._turned:
            self._top.write()
            self.equivalent = self._model.SerializeToString()

    def _normal(self, scope: Scope, node: Any, batch_first: bool, kind: str) -> Any:
        """Put a node in float32 with frames in front in place of ``node``, between nodes that convert."""
        make, types = self._onnx.helper.make_node, self._onnx.TensorProto
        core = type(node)()
        core.CopyFrom(node)
        kept = [attribute for attribute in core.attribute if attribute.name != "layout"]
        core.ClearField("attribute")
        core.attribute.extend(kept)
        before: list[Any] = []
        after: list[Any] = []
        for number, name in enumerate(node.input):
            if not name or INPUTS[number] == "sequence_lens":
                continue
            if batch_first and INPUTS[number] in ("X", "initial_h", "initial_c"):
                before.append(make("Transpose", [name], [self._fresh("turned")], perm=[1, 0, 2]))
                name = before[-1].output[0]
            if kind != "float32":
                before.append(make("Cast", [name], [self._fresh("cast")], to=types.FLOAT))
                name = before[-1].output[0]
            core.input[number] = name
        for number, name in enumerate(node.output):
            if not name:
                continue
            if batch_first:
                core.output[number] = self._fresh("frames")
                order = [2, 0, 1, 3] if number == 0 else [1, 0, 2]
                after.insert(0, make("Transpose", [core.output[number]], [name], perm=order))
            if kind != "float32":
                name = core.output[number] if batch_first else name
                core.output[number] = self._fresh("single")
                after.insert(0, make("Cast", [core.output[number]], [name], to=getattr(types, _TYPES[kind])))
        place = scope.position(node)
        scope.nodes[place:place + 1] = [*before, core, *after]
        scope.origin[id(core)] = node
        return core

    # -- operators in place of nodes -------------------------------------------------------------

    def _replace(self) -> None:
        digests: dict[bytes, str] = {}
        nothing: dict[str, str] = {}
        for scope in self._top.scopes():
            for taken in scope.taken:
                part = digests.setdefault(_digest(taken), taken.name)
                if part not in self.parts:
                    self.parts[part] = taken.network()
                for node in taken.nodes:
                    origin = scope.origin.get(id(node), node)
                    self._places[id(origin)] = "machine", part
                    self._of_part.update({name: part for name in (*origin.input[1:4], *origin.input[7:]) if name})
                for node in taken.absorbed:
                    self._places[id(node)] = "machine", part
                    self._of_part.update({name: part for name in node.input if name})
                for node in taken.folded:
                    self._places[id(node)] = "folded", f"into {part!r}"
                    self._of_part.update({name: part for name in node.input if name})
                scope.put(taken, self._operator(scope, taken, part, nothing))
        recurrent = any(node.kind in RECURRENT for node in self._nodes)
        if self._machine is not None and self._machine.dense and not recurrent:
            self._replace_dense(self._top, nothing)
        for label, name in nothing.items():
            array = np.zeros(NOTHING, np.int32 if label == "lengths" else np.float32)
            self._top.graph.proto.initializer.append(self._onnx.numpy_helper.from_array(array, name))

    def _replace_dense(self, scope: Scope, nothing: dict[str, str]) -> None:
        """Put operators in place of the dense nodes of a network without LSTM nodes. In bodies they are the gates of
        cells in single operations."""
        while (chain := take_chain(scope)) is not None:
            names = [layer.name for layer in chain.layers]
            part = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
            self.parts[part] = assemble([Recurrent(layer.name, (((Track(layer),),),)) for layer in chain.layers], part)
            for node in chain.nodes:
                self._places[id(node)] = "machine", part
                self._of_part.update({name: part for name in node.input if name})
            nothing.setdefault("lengths", self._fresh("no_lengths"))
            sizes = scope.graph.sizes(chain.end)
            if sizes is not None:
                scope.shapes[chain.end] = sizes
            scope.nodes.insert(scope.position(chain.nodes[-1]), self._onnx.helper.make_node(
                f"{OPERATOR}0", [chain.data, nothing["lengths"]], [chain.end], domain=DOMAIN,
                name=self._fresh("machine"), call=part))
            scope.remove(chain.nodes)

    def _operator(self, scope: Scope, taken: Taken, part: str, nothing: dict[str, str]) -> Any:
        read = set(scope.reads())

        def given(node: Any, label: str, number: int) -> str:
            if number < len(node.input) and node.input[number]:
                return str(node.input[number])
            if label not in nothing:
                nothing[label] = self._fresh(f"no_{label}")
            return nothing[label]

        def output(node: Any, number: int) -> str:
            name = node.output[number] if number < len(node.output) else ""
            return str(name) if name in read else self._fresh("unread")

        first, last = taken.nodes[0], taken.nodes[-1]
        inputs = [first.input[0], given(first, "lengths", 4)]
        outputs = [output(last, 0)]
        if taken.end is not None and not taken.moves:
            outputs[0] = taken.end
        for node, row in zip(taken.nodes, taken.rows, strict=True):
            state = given(node, "state", 5)
            inputs += [state, state if row[0][0].layer.kind is GRU else given(node, "state", 6)]
            outputs += [output(node, 1), output(node, 2)]
            scope.shapes.update({name: (len(row), None, row[0][0].layer.cells) for name in outputs[-2:]})
        scope.shapes[outputs[0]] = ((None, 1, None, taken.behind[-1].outputs) if taken.behind else
                                    (None, len(row), None, row[0][0].layer.cells))
        return self._onnx.helper.make_node(f"{OPERATOR}{len(taken.nodes)}", inputs, outputs, domain=DOMAIN,
                                           name=self._fresh("machine"), call=part)

    # -- the result ------------------------------------------------------------------------------

    def _node_item(self, node: Node, unused: set[int], dead: set[int]) -> Item:
        key = id(node.proto)
        if key in unused:
            place, detail = "unused", "nothing reads it"
        elif key in self._places:
            place, detail = self._places[key]
        elif key in dead:
            place, detail = "folded", "into the weights of the machine's parts"
        else:
            place, detail = "host", "onnxruntime"
        return Item(node.path, node.kind, place, detail)  # type: ignore[arg-type]

    def _tensor_items(self, scope: Scope, unread: Counter[str], read: set[str]) -> Iterator[Item]:
        for name in scope.graph.tensors:
            if not unread[name]:
                yield Item(f"{scope.graph.prefix}{name}", "initializer", "unused", "nothing reads it")
            elif name in read:
                yield Item(f"{scope.graph.prefix}{name}", "initializer", "host", "onnxruntime")
            elif name in self._of_part:
                yield Item(f"{scope.graph.prefix}{name}", "initializer", "machine", self._of_part[name])
            else:
                yield Item(f"{scope.graph.prefix}{name}", "initializer", "folded",
                           "into the weights of the machine's parts")

    def _write(self, read: set[str]) -> None:
        for scope in self._top.scopes():
            proto = scope.graph.proto
            kept = [tensor for tensor in proto.initializer if tensor.name in read]
            gone = {tensor.name for tensor in proto.initializer} - read
            held = type(proto)()
            held.initializer.extend(kept)
            if scope is self._top:
                held.input.extend(value for value in proto.input if value.name not in gone | self.fixed)
                proto.ClearField("input")
                proto.input.MergeFrom(held.input)
            proto.ClearField("initializer")
            proto.initializer.MergeFrom(held.initializer)
            proto.ClearField("value_info")
            self._write_shapes(scope)
        self._top.write()  # copies the bodies: last
        if DOMAIN not in (opset.domain for opset in self._model.opset_import):
            self._model.opset_import.append(self._onnx.helper.make_opsetid(DOMAIN, 1))

    def _write_shapes(self, scope: Scope) -> None:
        """Tell the ranks of the operators' outputs, which onnxruntime wants to know in bodies."""
        proto, helper = scope.graph.proto, self._onnx.helper
        outputs = {value.name: value for value in proto.output}
        for name, shape in scope.shapes.items():
            info = helper.make_tensor_value_info(name, self._onnx.TensorProto.FLOAT, shape)
            if name not in outputs:
                proto.value_info.append(info)
            elif not outputs[name].type.tensor_type.HasField("shape"):
                outputs[name].type.CopyFrom(info.type)

    def _fresh(self, label: str) -> str:
        name = f"openese.{label}.{len(self._used)}"
        while name in self._used:
            name += "_"
        self._used.add(name)
        return name


_TYPES = {"float64": "DOUBLE", "float16": "FLOAT16", "bfloat16": "BFLOAT16"}


def _digest(taken: Taken) -> bytes:
    """Equal for nodes that compute the same."""
    digest = hashlib.sha256()
    for number in range(len(taken.rows) + 1):
        layers = [(1, False, layer) for layer in taken.dense.get(number, ())]
        layers += [(len(row), track.reverse, track.layer) for row in taken.rows[number:number + 1] for (track,) in row]
        for ways, reverse, layer in layers:
            arrays = [getattr(layer, tensor) for tensor in layer.kind.tensors]
            settings = [getattr(layer, setting) for setting in layer.kind.settings]
            digest.update(repr((ways, reverse, layer.cell, settings, layer.inputs, layer.outputs,
                                [array is not None for array in arrays])).encode())
            for array in arrays:
                if array is not None:
                    digest.update(np.ascontiguousarray(array).data)
    return digest.digest()
