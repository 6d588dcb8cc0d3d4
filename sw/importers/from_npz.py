# SPDX-License-Identifier: Apache-2.0
"""Import ``.npz`` files: models and networks of OpenESE, and arrays with the names in `tensors`."""

import io
import math
import zipfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from openese.sw.importers.assembly import Part
from openese.sw.importers.base import (
    Entry,
    Importer,
    ImportRefused,
    Source,
    open_zip,
    printable,
    read_member,
    read_start,
)
from openese.sw.importers.parameters import Stored, read
from openese.sw.importers.tensors import TensorSource
from openese.sw.model.network import Network

__all__ = ["IMPORTER", "NativeSource", "arrays_source"]

#: Bytes of a member in which numpy's description of the array ends.
_HEADER = 1 << 16


class NativeSource(Source):
    """A model or network that OpenESE saved; it is loaded whole."""

    expected = "a network of OpenESE"

    def __init__(self, path: Path, network: Network) -> None:
        self.path = path
        self._network = network

    def entries(self) -> list[Entry]:
        layers = [layer for direction in self._network.directions for layer in direction.model.layers]
        return [Entry(self._network.name, "model", f"{self._network.inputs} -> {self._network.outputs}, "
                                                   f"{len(layers)} layers")]

    def default(self) -> list[str]:
        return [self._network.name]

    def parts(self, names: Sequence[str]) -> list[Part]:
        raise NotImplementedError("a network that OpenESE saved is loaded whole")

    def load(self, select: str | Sequence[str] | None = None, ignore: Sequence[str] = ()) -> Network:
        self._ignore_nothing(ignore)
        self._names(select)
        return self._network


def arrays_source(path: Path, tensors: Mapping[str, Stored]) -> Source:
    """Return the source for arrays with the keys of `Network.save` or the names in `tensors`."""
    if any(key.endswith("layer0.w_x") for key in tensors):
        try:
            arrays = {name: read(name, tensor) for name, tensor in tensors.items()}
        except ImportRefused as error:
            raise ImportRefused(f"{path.name}: {str(error).removeprefix(f'{path.name}: ')}") from None
        return NativeSource(path, Network.from_arrays(arrays, path.stem))
    return TensorSource(path, tensors)


def _open(path: Path) -> Source:
    with open_zip(path) as archive:
        return arrays_source(path, {printable(name.removesuffix(".npy")): _stored(path, archive, name)
                                    for name in archive.namelist() if name.endswith(".npy")})


def _stored(path: Path, archive: zipfile.ZipFile, name: str) -> Stored:
    """Return the array of a ``.npy`` member, which is read on demand. Its length is checked before that."""
    where, size = f"{path.name}: {name}", archive.getinfo(name).file_size
    try:
        file = io.BytesIO(read_start(archive, name, _HEADER))
        major, _ = npy.read_magic(file)
        header = npy.read_array_header_1_0 if major == 1 else npy.read_array_header_2_0
        shape, fortran, dtype = header(file)
    except ImportRefused:
        raise
    except Exception as error:  # numpy parses the header as Python, and fails in as many ways
        raise ImportRefused(f"{where}: not a .npy array ({type(error).__name__})") from None
    if dtype.hasobject:
        raise ImportRefused(f"{where}: Python objects are not read, because reading them runs code; "
                            f"save arrays of numbers")
    start, count = file.tell(), math.prod(shape)
    if size - start != count * dtype.itemsize:
        raise ImportRefused(f"{where}: the file is damaged: shape {shape} of {dtype} needs "
                            f"{count * dtype.itemsize:,} bytes, not {size - start:,}")
    kind = dtype.name if dtype.kind == "f" else str(dtype)
    return Stored(shape, kind, partial(_read, path, name, start, shape, fortran, dtype))


def _read(path: Path, name: str, start: int, shape: tuple[int, ...], fortran: bool,
          dtype: np.dtype[Any]) -> NDArray[Any]:
    with open_zip(path) as archive:
        data = read_member(archive, name)[start:]
    count = math.prod(shape)
    if len(data) != count * dtype.itemsize:
        raise ImportRefused(f"{path.name}: {name}: the file is damaged: it has {len(data):,} bytes")
    array = np.frombuffer(data, dtype, count) if dtype.itemsize else np.zeros(count, dtype)
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)


def _sniff(head: bytes, members: Sequence[str]) -> bool:
    return bool(members) and all(name.endswith(".npy") for name in members)


IMPORTER = Importer(name="NumPy .npz", suffixes=(".npz",), sniff=_sniff, open=_open)
