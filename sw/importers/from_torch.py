# SPDX-License-Identifier: Apache-2.0
"""Import PyTorch state dicts, checkpoints, whole saved models, TorchScript archives, and modules in memory.

The importer finds tensors by their attribute paths in any container. `torch_archive` reads them: it runs no code
from the file and does not need PyTorch.
"""

from pathlib import Path
from typing import Any

from openese.sw.importers.base import Importer, ImportRefused, Source
from openese.sw.importers.tensors import Stored, TensorSource, stored
from openese.sw.importers.torch_archive import LEGACY_MAGIC, Stub, read_archive

__all__ = ["IMPORTER", "from_module"]

_DEEPEST = 32
_MOST = 100_000
_ATTRIBUTES = ("mode", "dropout", "batch_first")
_TRANSPARENT = ("_parameters", "_buffers", "_modules")
_SMALLER = "save only the model's weights: torch.save(model.state_dict(), path)"


class _Walk:
    """The tensors in a tree of containers and modules by path, and the attributes of the modules."""

    def __init__(self) -> None:
        self.tensors: dict[str, Stored] = {}
        self.modules: dict[str, dict[str, Any]] = {}
        self._visited = 0

    def visit(self, value: Any, path: tuple[str, ...] = ()) -> None:
        self._visited += 1
        if self._visited > _MOST:
            raise ImportRefused(f"the file holds more than {_MOST:,} objects; {_SMALLER}")
        if len(path) > _DEEPEST:
            raise ImportRefused(f"objects are nested more than {_DEEPEST} levels deep at {'.'.join(path[:4])}; "
                                f"{_SMALLER}")
        if isinstance(value, Stored):
            self.tensors[".".join(path)] = value
        elif isinstance(value, Stub):
            attributes = {name: value.state[name] for name in _ATTRIBUTES if name in value.state}
            self.modules[".".join(path)] = {"class": value.origin, **attributes}
            self._items(value.state, path)
        elif isinstance(value, dict):
            self._items(value, path)

    def _items(self, items: dict[Any, Any], path: tuple[str, ...]) -> None:
        for name, value in list(dict.items(items)):
            if isinstance(name, str) and name:
                self.visit(value, path if name in _TRANSPARENT else (*path, name))


def _open(path: Path) -> Source:
    walk = _Walk()
    try:
        walk.visit(read_archive(path))
    except ImportRefused as error:
        raise ImportRefused(f"{path.name}: {str(error).removeprefix(f'{path.name}: ')}") from None
    return TensorSource(path, walk.tensors, walk.modules)


def from_module(module: Any, name: str = "model") -> Source:
    """Open a ``torch.nn.Module`` in memory as a source: ``from_module(net).load("encoder.lstm")``."""
    tensors = {key: stored(value.detach().cpu().numpy()) for key, value in module.state_dict().items()
               if hasattr(value, "detach")}
    modules = {path: {"class": f"{type(child).__module__}.{type(child).__qualname__}",
                      **{key: getattr(child, key) for key in _ATTRIBUTES
                         if isinstance(getattr(child, key, None), (str, float, bool))}}
               for path, child in module.named_modules()}
    return TensorSource(Path(f"{name}.pt"), tensors, modules)


def _sniff(head: bytes, members: Any) -> bool:
    return head.startswith(LEGACY_MAGIC) or any(
        name.count("/") == 1 and name.endswith("/data.pkl") for name in members)


IMPORTER = Importer(name="PyTorch", suffixes=(".pt", ".pth", ".ckpt", ".jit", ".bin"), sniff=_sniff,
                    open=_open)
