# SPDX-License-Identifier: Apache-2.0
"""Read files of ``torch.save`` and ``torch.jit.save`` without running code from them.

A PyTorch file is a pickle with raw tensors beside it. A pickle is a program: it names functions and classes, and
unpickling imports and calls them. This reader never imports a name from the file. It has its own code for tensors,
storages, arrays and a few containers; every other name becomes an inert `Stub` that only stores its state. A whole
saved model therefore needs none of its classes, a TorchScript archive needs no interpreter, and neither needs PyTorch.
"""

import io
import math
import pickle
import pickletools
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openese.sw.importers.base import LIMIT, ImportRefused, open_zip, read_member, zip_members
from openese.sw.importers.parameters import Stored

__all__ = ["LEGACY_MAGIC", "Array", "Stub", "read_archive"]

#: First bytes of the format before PyTorch 1.6: a pickled magic number.
LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."

_PICKLE_LIMIT = 256 << 20
#: Memory that the objects of a pickle may take: so much, or so many times the file's size.
_OBJECTS, _OBJECTS_RATIO = 512 << 20, 16
#: Axes of an array that numpy 1 has at most.
_DIMENSIONS = 32
#: Elements of a tensor that may repeat those stored, by strides of zero, as often as it likes.
_REPEATED = 1 << 16
_DTYPES = {"Double": "<f8", "Float": "<f4", "Half": "<f2", "BFloat16": "<u2", "Long": "<i8", "Int": "<i4",
           "Short": "<i2", "Char": "i1", "Byte": "u1", "Bool": "?"}
_TYPE_NAMES = {"Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16"}
#: Bytes of an element of types that are only named.
_OTHER_SIZES = {"ComplexFloat": 8, "ComplexDouble": 16, "ComplexHalf": 4, "QInt8": 1, "QUInt8": 1, "QInt32": 4,
                "storage.Untyped": 1}
_NUMPY = re.compile(r"[fiubc]\d{1,2}")


class Stub:
    """An object of a class that is not imported. ``origin`` is the class's name, ``state`` the pickled state."""

    origin = ""
    state: dict[Any, Any]

    def __new__(cls, *arguments: Any, **named: Any) -> "Stub":
        stub = super().__new__(cls)
        stub.__dict__["state"] = dict(enumerate(arguments))
        return stub

    def __init__(self, *arguments: Any, **named: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        parts = state if isinstance(state, tuple) else (state,)
        for part in parts:
            if isinstance(part, dict):
                self.__dict__["state"].update(part)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.__dict__["state"][key] = value

    def append(self, value: Any) -> None:
        """Add an element of a list-like object."""
        self.__dict__["state"][len(self.__dict__["state"])] = value

    def extend(self, values: Any) -> None:
        """Add elements of a list-like object."""
        for value in values:
            self.append(value)


class _NumpyType:
    """A type of numpy: its code, such as f4, and its byte order."""

    def __init__(self, code: Any = "", *ignored: Any) -> None:
        self.name = code if isinstance(code, str) and _NUMPY.fullmatch(code) else ""

    def __setstate__(self, state: Any) -> None:
        if self.name and isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">"):
            self.name = state[1] + self.name


class Array:
    """An array of numpy; ``stored`` is None until the pickle has given its contents."""

    stored: Stored | None = None

    def __init__(self, *ignored: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            return
        _, shape, kind, fortran, data = state
        if not isinstance(kind, _NumpyType) or not kind.name or not isinstance(data, bytes):
            return
        values: NDArray[Any] = np.frombuffer(data, np.dtype(kind.name)).reshape(shape, order="F" if fortran else "C")
        self.stored = Stored(values.shape, values.dtype.name, lambda: values)


class _Storage(NamedTuple):
    """The memory of tensors: the name of the element type, and a function that reads the bytes."""

    kind: str
    read: Callable[[], bytes]


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *ignored: Any) -> Any:
    """Return a tensor on a storage, as ``torch._utils._rebuild_tensor_v2`` does."""
    if not isinstance(storage, _Storage) or len(size) != len(stride) or len(size) > _DIMENSIONS or not all(
            isinstance(number, int) and number >= 0 for number in (offset, *size, *stride)):
        raise ImportRefused("the file is damaged: a tensor has no storage, or an invalid size or stride")
    return Stored(tuple(size), _TYPE_NAMES.get(storage.kind, storage.kind),
                  lambda: _elements(storage, offset, tuple(size), tuple(stride)))


def _elements(storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> NDArray[Any]:
    data, dtype = storage.read(), np.dtype(_DTYPES[storage.kind])
    if len(data) % dtype.itemsize:
        raise ImportRefused(f"the file is damaged: {len(data)} bytes are no whole number of {storage.kind} elements")
    memory: NDArray[Any] = np.frombuffer(data, dtype)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if math.prod(size) and last >= memory.size:
        raise ImportRefused(f"the file is damaged: a tensor of shape {size} reaches beyond its {memory.size} stored "
                            f"elements")
    if math.prod(size) * memory.itemsize > LIMIT:
        raise ImportRefused(f"a tensor of shape {size} has {math.prod(size) * memory.itemsize:,} bytes; "
                            f"at most {LIMIT:,} are read")
    if math.prod(size) > max(_REPEATED, 4 * memory.size):
        raise ImportRefused(f"a tensor of shape {size} repeats its {memory.size:,} stored elements more than 4 times; "
                            "save it as tensor.contiguous()")
    steps = [step * memory.itemsize for step in stride]
    array = np.lib.stride_tricks.as_strided(memory[offset:], size, steps, writeable=False)
    if storage.kind == "BFloat16":
        array = np.left_shift(array, 16, dtype=np.uint32).view(np.float32)
    return np.array(array)


def _known() -> dict[str, Any]:
    """Return the code for the names that are not stubs, made anew because a pickle can set its attributes."""
    def tensor(*arguments: Any) -> Any:
        return _tensor(*arguments)

    def typed(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Any:
        kind = getattr(rest[2] if len(rest) > 2 else None, "origin", "unknown").removeprefix("torch.")
        return _tensor(storage, offset, size, stride)._replace(type=kind)

    def first(value: Any, *ignored: Any) -> Any:
        return value

    def of_class(rebuild: Any, kind: Any, arguments: Any, *ignored: Any) -> Any:
        return rebuild(*arguments) if rebuild in (tensor, typed, first) else Stub()

    def text(value: Any, encoding: Any) -> Any:
        return value.encode("latin1") if isinstance(value, str) and encoding == "latin1" else Stub()

    def buffered(data: Any, kind: Any, shape: Any, order: Any) -> Any:
        held = Array()
        held.__setstate__((1, shape, kind, order == "F", bytes(data) if isinstance(data, bytearray) else data))
        return held

    array, kind = type("Array", (Array,), {}), type("NumpyType", (_NumpyType,), {})
    names = {
        "torch._utils._rebuild_tensor_v2": tensor, "torch._utils._rebuild_tensor_v3": typed,
        "torch._utils._rebuild_qtensor": tensor, "torch._tensor._rebuild_from_type_v2": of_class,
        "torch._utils._rebuild_parameter": first, "torch._utils._rebuild_parameter_with_state": first,
        "torch.jit._pickle.restore_type_tag": first, "collections.OrderedDict": OrderedDict,
        "builtins.set": set, "__builtin__.set": set, "builtins.dict": dict, "__builtin__.dict": dict,
        "_codecs.encode": text, "numpy.dtype": kind,
    }
    for core in ("core", "_core"):
        names |= {f"numpy.{core}.multiarray._reconstruct": array, f"numpy.{core}.numeric._frombuffer": buffered}
    return names


class _Inert(pickle.Unpickler):
    """An unpickler that imports nothing.

    Parameters
    ----------
    file : binary file
    storage : callable
        ``storage(kind, key, identity)`` returns the `_Storage` for a persistent identity.
    """

    def __init__(self, file: IO[bytes], storage: Callable[[str, str, tuple[Any, ...]], _Storage]) -> None:
        super().__init__(file, encoding="utf-8")
        self._storage = storage
        self._known = _known()

    def find_class(self, module: str, name: str) -> Any:
        origin = f"{module}.{name}"
        if origin not in self._known:
            self._known[origin] = type("Stub", (Stub,), {"origin": origin})
        return self._known[origin]

    def persistent_load(self, identity: Any) -> Any:
        if isinstance(identity, tuple) and identity[:1] == ("module",) and len(identity) > 1:
            return identity[1]
        if not isinstance(identity, tuple) or identity[:1] != ("storage",) or len(identity) < 3:
            raise ImportRefused("the file is damaged: a persistent object in it is not a tensor storage")
        origin = getattr(identity[1], "origin", "")
        kind = origin.removeprefix("torch.").removesuffix("Storage")
        return self._storage(kind, str(identity[2]), identity)


#: Bytes that the objects of a pickle's operations take at most, beside their text; the others move references.
_SIZES = {"EMPTY_SET": 216, "EMPTY_DICT": 250, "EMPTY_LIST": 120, "MARK": 120, "REDUCE": 500, "NEWOBJ": 500,
          "NEWOBJ_EX": 500, "OBJ": 500, "INST": 500, "BUILD": 250, "GLOBAL": 1500, "STACK_GLOBAL": 1500}


#: Entries of a memo beyond those that a pickle has written.
_SPARE = 1 << 16


def _unpickle(file: IO[bytes], storage: Callable[[str, str, tuple[Any, ...]], _Storage], size: int) -> Any:
    """Return the next object of ``file``, which is part of a file of ``size`` bytes.

    Lengths, indices and the memory for the objects are checked before it is read.
    """
    start, needed, limit, entries = file.tell(), 0, max(_OBJECTS, _OBJECTS_RATIO * size), _SPARE
    try:
        for operation, argument, _ in pickletools.genops(file):
            if "PUT" in operation.name:
                entries += 1
                if int(str(argument)) > entries:
                    raise ImportRefused(f"the pickle is damaged: it asks for a memo of {int(str(argument)):,} entries")
            needed += _SIZES.get(operation.name, 32) + (4 * len(argument) if isinstance(argument, str) else 0)
            if needed > limit:
                raise ImportRefused(f"the objects in the pickle would take more than {limit:,} bytes of memory; "
                                    f"save only the model's weights: torch.save(model.state_dict(), path)")
        end = file.tell()
        file.seek(start)
        if end - start > _PICKLE_LIMIT:
            raise ImportRefused(f"the pickle has {end - start:,} bytes; at most {_PICKLE_LIMIT:,} are read")
        return _Inert(io.BytesIO(file.read(end - start)), storage).load()
    except ImportRefused:
        raise
    except Exception as error:
        raise ImportRefused(f"the pickle is damaged ({type(error).__name__}: {error})") from None


def read_archive(path: Path) -> Any:
    """Return the object in a PyTorch file, with `Stub` for modules and `Stored` for tensors.

    Raises
    ------
    ImportRefused
        If the file is damaged, big-endian or not a PyTorch file; the message starts with its name.
    """
    try:
        if zip_members(path):
            return _read_zip(path)
        with open(path, "rb") as file:
            return _read_legacy(file, path)
    except ImportRefused as error:
        raise ImportRefused(f"{path.name}: {str(error).removeprefix(f'{path.name}: ')}") from None
    except RecursionError:
        raise ImportRefused(f"{path.name}: the contents are nested too deeply to be read") from None


def _read_zip(path: Path) -> Any:
    with open_zip(path) as archive:
        names = archive.namelist()
        roots = [name.removesuffix("data.pkl") for name in names
                 if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise ImportRefused("not a PyTorch archive: it has no data.pkl")
        root = roots[0]
        if f"{root}byteorder" in names and read_member(archive, f"{root}byteorder", 16).strip() != b"little":
            raise ImportRefused("the tensors are big-endian; save the model again on a little-endian computer")

        def storage(kind: str, key: str, identity: tuple[Any, ...]) -> _Storage:
            def read() -> bytes:
                with open_zip(path) as reopened:
                    return read_member(reopened, f"{root}data/{key}")
            return _Storage(kind, read)

        return _unpickle(io.BytesIO(read_member(archive, f"{root}data.pkl", _PICKLE_LIMIT)), storage,
                         path.stat().st_size)


def _read_legacy(file: IO[bytes], path: Path) -> Any:
    """Read the format before PyTorch 1.6: magic, version, system, object, storage keys, storages."""
    if file.read(len(LEGACY_MAGIC)) != LEGACY_MAGIC:
        raise ImportRefused("not a PyTorch file")
    size = path.stat().st_size
    places: dict[str, tuple[int, int]] = {}
    kinds: dict[str, str] = {}

    def storage(kind: str, key: str, identity: tuple[Any, ...]) -> _Storage:
        view = identity[5] if len(identity) > 5 else None
        if view is not None:
            raise ImportRefused("storages are views of other storages; save the model again with PyTorch 1.6 or later")
        kinds[key] = kind

        def read() -> bytes:
            place, length = places[key]
            with open(path, "rb") as reopened:
                reopened.seek(place)
                return reopened.read(length)

        return _Storage(kind, read)

    version, _system, saved, keys = (_unpickle(file, storage, size) for _ in range(4))
    if version != 1001 or not isinstance(keys, list) or set(map(str, keys)) != set(kinds):
        raise ImportRefused("not a PyTorch file of a known version; save the model again with PyTorch 1.6 or later")
    for key in map(str, keys):
        element = np.dtype(_DTYPES[kinds[key]]).itemsize if kinds[key] in _DTYPES else _OTHER_SIZES.get(kinds[key])
        if element is None:
            raise ImportRefused(f"a tensor has type {kinds[key]}, which is not supported; save only the LSTM's "
                                f"weights: torch.save(lstm.state_dict(), path)")
        length = int.from_bytes(file.read(8), "little") * element
        places[key] = file.tell(), length
        if length > size - file.tell():
            raise ImportRefused("the file is cut short; copy or save it again")
        file.seek(length, io.SEEK_CUR)
    return saved
