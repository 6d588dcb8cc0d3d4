# SPDX-License-Identifier: Apache-2.0
"""Import PyTorch state dicts, checkpoints, whole saved models, TorchScript archives, and modules in memory.

A state dict may be split into `shards`. The importer finds tensors by their attribute paths in any container.
`torch_archive` reads them: it runs no code from the file and does not need PyTorch.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from openese.sw.importers.base import Importer, ImportRefused, Source, printable, zip_members
from openese.sw.importers.shards import SUFFIX, find_index, sharded
from openese.sw.importers.tensors import Stored, TensorSource, stored
from openese.sw.importers.torch_archive import LEGACY_MAGIC, Array, Stub, read_archive

__all__ = ["IMPORTER", "from_module"]

_DEEPEST = 100
_ATTRIBUTES = ("mode", "dropout", "batch_first", "variational")
_TRANSPARENT = ("_parameters", "_buffers", "_modules")
#: Attributes of modules that only refer to parameters once more.
_REFERENCES = ("_flat_weights", "_flat_weight_refs")
_MANGLED = re.compile(r"___torch_mangle_\d+\.")
_EXPORTED = ("/models/model.json", "serialized_exported_program.json")
_WHOLE = "compile the whole network with --trust, or save its state dict: torch.save(model.state_dict(), path)"


class _Place(NamedTuple):
    """A place in a tree of containers: the place above, the own name, and the number of places above."""

    above: "_Place | None"
    name: str
    depth: int

    @property
    def path(self) -> str:
        if self.depth > _DEEPEST:
            raise ImportRefused(f"tensors are nested more than {_DEEPEST} levels deep; save only the model's weights: "
                                f"torch.save(model.state_dict(), path)")
        names, place = [], self
        while place.above is not None:
            names.append(place.name)
            place = place.above
        return ".".join(reversed(names))

    def inside(self, key: Any, number: int) -> "_Place":
        """Return the place of the item with ``key``, the ``number``-th of a container."""
        parts = key if isinstance(key, tuple) else (key,)
        plain = all(isinstance(part, (str, int)) and part != "" for part in parts)
        return _Place(self, printable(".".join(map(str, parts))) if parts and plain else f"({number})", self.depth + 1)


class _Walk:
    """The tensors in a tree of containers and modules by path, and the attributes of the modules.

    Every container is visited once, so that the work is bounded by the file's size, also where objects point at their
    owners.
    """

    def __init__(self, root: Any) -> None:
        self.tensors: dict[str, Stored] = {}
        self.modules: dict[str, dict[str, Any]] = {}
        self.packed: list[str] = []
        self._seen: dict[int, str] = {}
        waiting: list[Iterator[tuple[Any, _Place]]] = [iter([(root, _Place(None, "", 0))])]
        while waiting:
            item = next(waiting[-1], None)
            if item is None:
                waiting.pop()
            else:
                waiting.append(self._visit(*item))

    def _visit(self, value: Any, place: _Place) -> Iterator[tuple[Any, _Place]]:
        """Note a tensor or module, and return what is inside of a container."""
        if isinstance(value, Array):
            value = value.stored
        if isinstance(value, Stored):
            if place.path in self.tensors:
                raise ImportRefused(f"two tensors are named {place.path!r}; save them under different names")
            self.tensors[place.path] = value
            self._seen[id(value)] = ""
        elif isinstance(value, (Stub, dict, list, tuple)):
            if id(value) not in self._seen:
                if isinstance(value, Stub) and _is_module(value):
                    self._seen[id(value)] = place.path
                    self.modules[place.path] = _attributes(value)
                    return self._module(value.state, place)
                self._seen[id(value)] = ""
                return self._items(value, place)
        return iter(())

    def _items(self, value: Any, place: _Place) -> Iterator[tuple[Any, _Place]]:
        if isinstance(value, Stub):
            if value.origin == "torch.ScriptObject" and "_all_weight_values" in place.path:
                self.packed.append(place.path.rpartition("._all_weight_values")[0])
            value = value.state
        if isinstance(value, dict):
            return ((inner, place.inside(key, number)) for number, (key, inner) in enumerate(list(dict.items(value))))
        return ((inner, place.inside(number, number)) for number, inner in enumerate(list(value))
                if id(inner) not in self._seen)  # a list of parameters names tensors that have names already

    def _module(self, state: dict[Any, Any], place: _Place) -> Iterator[tuple[Any, _Place]]:
        """Yield what a module holds; of its other attributes, tensors and modules that are not held already."""
        for group in _TRANSPARENT:
            for value, inside in self._items(state[group], place) if isinstance(state.get(group), dict) else ():
                if isinstance(value, Stub) and _is_module(value) and id(value) in self._seen:
                    self.modules[inside.path] = {**_attributes(value), "same": self._seen[id(value)]}
                else:
                    yield value, inside
        for number, (name, value) in enumerate(list(state.items())):
            if name not in _TRANSPARENT and name not in _REFERENCES and id(value) not in self._seen:
                yield value, place.inside(name, number)


def _is_module(stub: Stub) -> bool:
    return stub.origin.startswith("__torch__.") or ("_modules" in stub.state and "_parameters" in stub.state)


def _attributes(module: Stub) -> dict[str, Any]:
    return {"class": _MANGLED.sub("", module.origin).removeprefix("__torch__."),
            **{name: module.state[name] for name in _ATTRIBUTES if name in module.state}}


def _open(path: Path) -> Source:
    index = find_index(path)
    if index is not None:
        return TensorSource(index.with_name(index.name.removesuffix(SUFFIX)),
                            sharded(index, lambda shard: _walk(shard).tensors))
    members = zip_members(path)
    if _exported(members):
        raise ImportRefused(f"{path.name}: a program of torch.export, which is not run here; {_WHOLE}")
    walk = _walk(path)
    refused = {name: ("quantized layer", "its weights are packed by torch.ao.quantization.quantize_dynamic; save the "
                                        "network before it is quantized") for name in walk.packed}
    source = TensorSource(path, walk.tensors, walk.modules, refused)
    if any(name.count("/") == 2 and name.split("/")[1] == "constants" for name in members) and all(
            entry.elsewhere for entry in source.entries()):
        frozen = f"its weights are constants in its code (torch.jit.freeze), which is not run here; {_WHOLE}"
        return TensorSource(path, walk.tensors, walk.modules, {"": ("TorchScript", frozen)})
    return source


def _walk(path: Path) -> _Walk:
    root = read_archive(path)
    try:
        return _Walk(root)
    except ImportRefused as error:
        raise ImportRefused(f"{path.name}: {error}") from None


def from_module(module: Any, name: str = "model") -> Source:
    """Open a ``torch.nn.Module`` in memory as a source: ``from_module(net).load("encoder.lstm")``."""
    tensors = {key: stored(value.detach().cpu().numpy()) for key, value in module.state_dict().items()
               if hasattr(value, "detach")}
    modules = {path: {"class": f"{type(child).__module__}.{type(child).__qualname__}",
                      **{key: getattr(child, key) for key in _ATTRIBUTES
                         if isinstance(getattr(child, key, None), (str, float, bool))}}
               for path, child in module.named_modules()}
    return TensorSource(Path(f"{name}.pt"), tensors, modules)


def _exported(members: Iterable[str]) -> bool:
    return any(name.endswith(_EXPORTED) for name in members)


def _sniff(head: bytes, members: Any) -> bool:
    return head.startswith(LEGACY_MAGIC) or _exported(members) or any(
        name.count("/") == 1 and name.endswith("/data.pkl") for name in members)


IMPORTER = Importer(name="PyTorch", suffixes=(".pt", ".pth", ".ckpt", ".jit", ".bin", ".bin" + SUFFIX), sniff=_sniff,
                    open=_open)
