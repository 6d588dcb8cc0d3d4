# SPDX-License-Identifier: Apache-2.0
"""Whole networks in ONNX files: onnxruntime runs the graph, with operators in place of the LSTM nodes."""

import gc
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from openese.rtl.config import Config
from openese.sw.importers.base import LIMIT, ImportRefused, require
from openese.sw.importers.from_onnx import check_text, open_model
from openese.sw.importers.onnx_graph import Graph, bodies, inferred, named_nodes
from openese.sw.importers.onnx_recurrent import RECURRENT
from openese.sw.model.network import Network
from openese.sw.whole.engine import Engine
from openese.sw.whole.host import Arrays, Host, HostError, Item, Port, checked_inputs
from openese.sw.whole.onnx_operator import DOMAIN, MOST, OPERATOR, PlainSession, Session, operators
from openese.sw.whole.onnx_plan import Plan

__all__ = ["OnnxHost", "open_file"]

_FILE = "host.onnx"
_NAME = "openese.name"
#: Operators that onnxruntime brings itself.
_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc")
_TYPES = {"float": "float32", "double": "float64", "float16": "float16", "bool": "bool", "string": "str",
          **{f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}}


class OnnxHost(Host):
    """A whole network in an ONNX file; see `Host`. `open_file` and `load` make one."""

    kind = "onnx"
    runtime = "onnxruntime"
    extra = "onnx"

    def __init__(self, model: Any, name: str, parts: dict[str, Network], items: tuple[Item, ...],
                 source: bytes | str | None = None) -> None:
        self.name, self.parts, self.items = name, parts, items
        self._model, self._source = model, source
        self._original: PlainSession | None = None
        self._session = Session(model, name)
        self.calls = self._session.calls
        tensors = {tensor.name for tensor in model.graph.initializer}
        types = self._session.types
        self.inputs = tuple(_port(value, types, name, value.name in tensors) for value in model.graph.input)
        self.outputs = tuple(_port(value, types, name) for value in model.graph.output)
        self._recurrent = any(node.op_type in _KINDS for node in _nodes(model.graph))

    def run(self, inputs: Mapping[str, ArrayLike], engine: Engine) -> Arrays:
        """All outputs by name; see `Host.run`."""
        feeds = checked_inputs(self.inputs, inputs)
        if self._recurrent:
            _check_full(feeds)
        return self._session.run(feeds, engine)

    def original(self, inputs: Mapping[str, ArrayLike]) -> Arrays:
        """All outputs of the file, computed by onnxruntime alone; see `Host.original`."""
        feeds = checked_inputs(self.inputs, inputs)
        _check_full(feeds)
        return self.load_original().run(feeds)

    def drop_original(self) -> None:
        """Free the session that `original` runs; see `Host.drop_original`."""
        self._original = None

    def load_original(self) -> PlainSession:
        """The session that `original` runs. It is made once, so call this before the file goes away."""
        if self._source is None:
            raise HostError(f"{self.name}: the original network is not here; open its file")
        if self._original is None:
            self._original = PlainSession(self._source, self.name)
        return self._original

    def save(self, folder: Path) -> None:
        """Write ``host.onnx``; see `Host.save`."""
        del self._model.metadata_props[:]
        self._model.metadata_props.add(key=_NAME, value=self.name)
        (folder / _FILE).write_bytes(self._model.SerializeToString())

    @classmethod
    def load(cls, folder: Path, trust: bool = False, parts: Collection[str] = ()) -> "OnnxHost":
        """Read ``host.onnx``; see `Host.load`."""
        onnx = require("onnx", "onnx", "whole ONNX networks")
        path = folder / _FILE
        try:
            if path.stat().st_size > LIMIT:
                raise HostError(f"{path}: {path.stat().st_size:,} bytes; at most {LIMIT:,} are read")
            model = onnx.load(path, load_external_data=False)
            check_text(model)
            _check_domains(Graph(onnx, model.graph, path, model.opset_import), path.name, (*_DOMAINS, DOMAIN))
            if not all(map(_sound, operators(model.graph))) or any(
                    tensor.data_location == tensor.EXTERNAL for tensor in _tensors(model.graph)):
                raise HostError(f"{path}: changed since it was written; compile the network again")
            named = next((entry.value for entry in model.metadata_props if entry.key == _NAME), folder.stem)
            return cls(model, named, {}, ())
        except OSError as error:
            raise HostError(f"{path}: {error.strerror}; compile the network again") from None
        except HostError:
            raise
        except ImportRefused as error:
            raise HostError(str(error)) from None
        except Exception as error:  # damaged fields have any type
            raise HostError(f"{path}: not a network ({type(error).__name__}); compile it again") from None


_KINDS = tuple(kind.rsplit(".", 1)[-1] for kind in RECURRENT)


def open_file(path: Path, trust: bool = False, machine: Config | None = None) -> OnnxHost:
    """Open a whole network for a machine, or for any. No file of this kind is a program, so ``trust`` changes nothing.

    Raises
    ------
    ImportRefused
        The file is damaged or too large, has operators that onnxruntime does not bring, or onnxruntime does not load
        it.
    """
    onnx = require("onnx", "onnx", "whole ONNX networks")
    for module in ("onnxruntime", "onnxruntime_extensions"):
        require(module, "onnx", "whole ONNX networks")
    try:
        return _opened(onnx, open_model(path), path, machine)
    except HostError as error:
        raise ImportRefused(str(error)) from None
    except (ImportRefused, OSError, MemoryError):
        raise
    except Exception as error:  # damaged fields have any type
        raise ImportRefused(f"{path.name}: damaged ({type(error).__name__}: {error}); export it again") from None


def _opened(onnx: Any, model: Any, path: Path, machine: Config | None) -> OnnxHost:
    _check_domains(Graph(onnx, model.graph, path, model.opset_import), path.name, _DOMAINS)
    _read_external(Graph(onnx, model.graph, path, model.opset_import), model, path)
    if model.ir_version < 4:  # the first in which an input may replace an initializer
        model.ir_version = 4
        tensors = {tensor.name for tensor in model.graph.initializer}
        kept = [value for value in model.graph.input if value.name not in tensors]
        del model.graph.input[:]
        model.graph.input.extend(kept)
    twin = inferred(onnx, model)
    for value, known in zip(model.graph.output, twin.output, strict=True):
        value.type.CopyFrom(known.type)
    plan = Plan(model, Graph(onnx, model.graph, path, model.opset_import, twin), machine)
    source = plan.equivalent or str(path.resolve())
    PlainSession(source, path.stem)
    parts, items = plan.parts, plan.items
    # Read again, since the tensors that were taken out stay in the memory of a message that had them.
    model = onnx.ModelProto.FromString(model.SerializeToString())
    del plan
    gc.collect()  # graphs refer to themselves
    return OnnxHost(model, path.stem, parts, items, source)


def _port(value: Any, types: dict[str, str], name: str, optional: bool = False) -> Port:
    found = types.get(value.name, "")
    kind = _TYPES.get(found.removeprefix("tensor(").removesuffix(")"))
    if kind is None:
        raise HostError(f"{name}: {value.name!r} is {found or 'nothing'}, not a tensor of numbers or text; take it out "
                        f"of the network's inputs and outputs")
    tensor = value.type.tensor_type
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in tensor.shape.dim)
    return Port(value.name, kind, shape if tensor.HasField("shape") else None, optional)


def _check_domains(graph: Graph, file: str, known: tuple[str, ...]) -> None:
    for node in named_nodes(graph):
        if node.proto.domain not in known:
            raise ImportRefused(f"{file}: node {node.path!r} is the operator {node.kind}, which onnxruntime does not "
                                f"have; export the network with operators of the ONNX standard")


def _read_external(graph: Graph, model: Any, path: Path) -> None:
    """Read tensors in other files of the folder into the model."""
    tensors = [tensor for tensor in _tensors(model.graph) if tensor.data_location == tensor.EXTERNAL]
    total = path.stat().st_size
    for tensor in tensors:
        array = graph.read_external(tensor)
        total += array.nbytes
        if total > LIMIT:
            raise ImportRefused(f"{path.name}: its tensors have more than {LIMIT:,} bytes")
        tensor.raw_data = array.tobytes()
        tensor.ClearField("external_data")
        tensor.data_location = tensor.DEFAULT


def _nodes(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        yield node
        for _, body in bodies(node):
            yield from _nodes(body)


def _tensors(graph: Any) -> Iterator[Any]:
    """All tensors of a graph and its bodies."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors) if attribute.HasField("t") else attribute.tensors
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
        for _, body in bodies(node):
            yield from _tensors(body)


def _sound(node: Any) -> bool:
    """Whether an operator is one that `Plan` writes."""
    lstms = node.op_type.removeprefix(OPERATOR)
    return (node.op_type.startswith(OPERATOR) and lstms.isdecimal() and int(lstms) <= MOST
            and [attribute.name for attribute in node.attribute] == ["call"])


def _check_full(feeds: Arrays) -> None:
    """onnxruntime ends the process at an LSTM that gets no sequence."""
    for name, array in feeds.items():
        if not array.size:
            raise HostError(f"input {name!r} is empty; give an LSTM at least one sequence of one frame")
