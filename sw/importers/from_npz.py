# SPDX-License-Identifier: Apache-2.0
"""``.npz``: this project's own models, and any trainer's arrays under the names of `tensors`."""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from openese.sw.importers.assembly import Part
from openese.sw.importers.base import Entry, Importer, ImportRefused, Source, open_zip, read_member
from openese.sw.importers.tensors import TensorSource, stored
from openese.sw.model.network import Network

__all__ = ["IMPORTER", "NativeSource", "arrays_source"]


class NativeSource(Source):
    """A model or network of this project: there is one thing in it, and it is whole."""

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
        raise NotImplementedError("a network of this project is taken whole")

    def load(self, select: str | Sequence[str] | None = None) -> Network:
        self._names(select)
        return self._network


def arrays_source(path: Path, arrays: dict[str, NDArray[Any]]) -> Source:
    """The source for arrays under this project's own keys, or under the names of `tensors`."""
    if any(key.endswith("layer0.w_x") for key in arrays):
        return NativeSource(path, Network.from_arrays(arrays, path.stem))
    return TensorSource(path, {name: stored(array) for name, array in arrays.items()})


def _open(path: Path) -> Source:
    with open_zip(path) as archive:
        return arrays_source(path, {
            name.removesuffix(".npy"): _array(read_member(archive, name), f"{path.name}: {name}")
            for name in archive.namelist() if name.endswith(".npy")})


def _array(data: bytes, where: str) -> NDArray[Any]:
    """A ``.npy`` member, checked against its own length before anything of its claimed size is made."""
    try:
        file = io.BytesIO(data)
        major, _ = npy.read_magic(file)
        header = npy.read_array_header_1_0 if major == 1 else npy.read_array_header_2_0
        shape, fortran, dtype = header(file)
    except Exception as error:  # numpy parses the header as Python, and fails in as many ways
        raise ImportRefused(f"{where}: not a .npy array ({type(error).__name__})") from None
    if dtype.hasobject:
        raise ImportRefused(f"{where}: Python objects are not read, since that would run code from the file")
    count, rest = math.prod(shape), data[file.tell():]
    if len(rest) != count * dtype.itemsize:
        raise ImportRefused(f"{where}: {shape} of {dtype} needs {count * dtype.itemsize:,} bytes, "
                            f"not {len(rest):,}")
    array = np.frombuffer(rest, dtype, count) if dtype.itemsize else np.zeros(count, dtype)
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)


def _sniff(head: bytes, members: Sequence[str]) -> bool:
    return bool(members) and all(name.endswith(".npy") for name in members)


IMPORTER = Importer(name="NumPy .npz", suffixes=(".npz",), sniff=_sniff, open=_open)
