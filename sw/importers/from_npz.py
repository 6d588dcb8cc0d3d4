# SPDX-License-Identifier: Apache-2.0
"""Import ``.npz`` files: models and networks of OpenESE, and arrays with the names in `tensors`."""

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


def arrays_source(path: Path, arrays: dict[str, NDArray[Any]]) -> Source:
    """Return the source for arrays with the keys of `Network.save` or the names in `tensors`."""
    if any(key.endswith("layer0.w_x") for key in arrays):
        return NativeSource(path, Network.from_arrays(arrays, path.stem))
    return TensorSource(path, {name: stored(array) for name, array in arrays.items()})


def _open(path: Path) -> Source:
    with open_zip(path) as archive:
        return arrays_source(path, {
            name.removesuffix(".npy"): _array(read_member(archive, name), f"{path.name}: {name}")
            for name in archive.namelist() if name.endswith(".npy")})


def _array(data: bytes, where: str) -> NDArray[Any]:
    """Return the array of a ``.npy`` member. Its length is checked before memory is allocated."""
    try:
        file = io.BytesIO(data)
        major, _ = npy.read_magic(file)
        header = npy.read_array_header_1_0 if major == 1 else npy.read_array_header_2_0
        shape, fortran, dtype = header(file)
    except Exception as error:  # numpy parses the header as Python, and fails in as many ways
        raise ImportRefused(f"{where}: not a .npy array ({type(error).__name__})") from None
    if dtype.hasobject:
        raise ImportRefused(f"{where}: Python objects are not read, because reading them runs code; "
                            f"save arrays of numbers")
    count, rest = math.prod(shape), data[file.tell():]
    if len(rest) != count * dtype.itemsize:
        raise ImportRefused(f"{where}: the file is damaged: shape {shape} of {dtype} needs "
                            f"{count * dtype.itemsize:,} bytes, not {len(rest):,}")
    array = np.frombuffer(rest, dtype, count) if dtype.itemsize else np.zeros(count, dtype)
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)


def _sniff(head: bytes, members: Sequence[str]) -> bool:
    return bool(members) and all(name.endswith(".npy") for name in members)


IMPORTER = Importer(name="NumPy .npz", suffixes=(".npz",), sniff=_sniff, open=_open)
