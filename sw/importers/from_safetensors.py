# SPDX-License-Identifier: Apache-2.0
"""Import ``.safetensors`` files, also in `shards`: arrays with the names in `tensors` or the keys of `Network.save`."""

import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openese.sw.importers.base import Importer, ImportRefused, Source, printable, require
from openese.sw.importers.from_npz import arrays_source
from openese.sw.importers.shards import SUFFIX, find_index, sharded
from openese.sw.importers.tensors import Stored, TensorSource

__all__ = ["IMPORTER"]

_TYPES = {"F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8", "I8": "i1", "U8": "u1", "I16": "<i2", "I32": "<i4",
          "I64": "<i8"}
_NAMES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}


def _open(path: Path) -> Source:
    index = find_index(path)
    if index is None:
        return arrays_source(path, _tensors(path))
    return TensorSource(index.with_name(index.name.removesuffix(SUFFIX)), sharded(index, _tensors))


def _tensors(path: Path) -> dict[str, Stored]:
    """Return the tensors of one file; each is read on demand. The library checks the header."""
    safetensors = require("safetensors", "safetensors", "safetensors files")
    try:
        with safetensors.safe_open(str(path), "numpy"):
            pass
    except safetensors.SafetensorError as error:
        raise ImportRefused(f"{path.name}: not a safetensors file ({error})") from None
    with open(path, "rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length))
    return {printable(name): _stored(path, 8 + length + view["data_offsets"][0], view["dtype"], tuple(view["shape"]))
            for name, view in header.items() if name != "__metadata__"}


def _stored(path: Path, offset: int, kind: str, shape: tuple[int, ...]) -> Stored:
    return Stored(shape, _NAMES.get(kind, kind), partial(_read, path, offset, kind, shape))


def _read(path: Path, offset: int, kind: str, shape: tuple[int, ...]) -> NDArray[Any]:
    if kind not in _TYPES:
        raise ImportRefused(f"{path.name}: numbers of type {kind} are not read")
    array: NDArray[Any] = np.fromfile(path, _TYPES[kind], math.prod(shape), offset=offset).reshape(shape)
    return (array.astype(np.uint32) << 16).view(np.float32) if kind == "BF16" else array


def _sniff(head: bytes, members: Sequence[str]) -> bool:
    return head[8:9] == b"{" and head[6:8] == b"\0\0"


IMPORTER = Importer(name="safetensors", suffixes=(".safetensors", ".safetensors" + SUFFIX), open=_open, sniff=_sniff)
