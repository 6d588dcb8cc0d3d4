# SPDX-License-Identifier: Apache-2.0
"""Import ``.safetensors`` files: arrays with the names in `tensors` or the keys of `Network.save`.

A model may be split into shards, which ``NAME.safetensors.index.json`` lists. The index, or a shard beside its index,
stands for the whole model. Shards are read from the folder of the index only.
"""

import json
import math
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openese.sw.importers.base import Importer, ImportRefused, Source, listed, printable, require
from openese.sw.importers.from_npz import arrays_source
from openese.sw.importers.tensors import Stored, TensorSource

__all__ = ["IMPORTER"]

_TYPES = {"F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8", "I8": "i1", "U8": "u1", "I16": "<i2", "I32": "<i4",
          "I64": "<i8"}
_NAMES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
_INDEX = ".safetensors.index.json"
_INDEX_LIMIT = 64 << 20
_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}\.safetensors")


def _open(path: Path) -> Source:
    shard = _SHARD.fullmatch(path.name)
    if shard and path.with_name(shard[1] + _INDEX).is_file():
        path = path.with_name(shard[1] + _INDEX)
    if path.name.endswith(_INDEX):
        return TensorSource(path.with_name(path.name.removesuffix(_INDEX)), _sharded(path))
    return arrays_source(path, _tensors(path))


def _sharded(index: Path) -> dict[str, Stored]:
    """Return the tensors in all shards of an index."""
    if index.stat().st_size > _INDEX_LIMIT:
        raise ImportRefused(f"{index.name}: {index.stat().st_size:,} bytes; at most {_INDEX_LIMIT:,} are read")
    try:
        shards = json.loads(index.read_bytes())["weight_map"]
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
            raise TypeError("weight_map is no table of file names")
    except (ValueError, KeyError, TypeError) as error:
        raise ImportRefused(f"{index.name}: not an index of safetensors ({type(error).__name__}: {error})") from None
    files = list(dict.fromkeys(shards.values()))
    outside = [name for name in files if name != Path(name).name or name in ("", ".", "..")]
    if outside:
        raise ImportRefused(f"{index.name}: {outside[0]!r} is not in the folder of the index; other files are not read")
    absent = [name for name in files if not index.with_name(name).is_file()]
    if absent:
        raise ImportRefused(f"{index.name}: {listed(absent)} missing; put all shards beside the index")
    links = [name for name in files if index.with_name(name).resolve().parent != index.resolve().parent]
    if links:
        raise ImportRefused(f"{index.name}: {links[0]!r} links to another folder; links are not followed")
    held = {name: _tensors(index.with_name(name)) for name in files}
    shards = {printable(tensor): name for tensor, name in shards.items()}
    lost = [tensor for tensor, name in shards.items() if tensor not in held[name]]
    if lost:
        raise ImportRefused(f"{index.name}: {shards[lost[0]]} has no tensor {lost[0]!r}; copy the shards again")
    doubled = [tensor for name, tensors in held.items() for tensor in tensors if shards.get(tensor) != name]
    if doubled:
        raise ImportRefused(f"{index.name}: {doubled[0]!r} is in a shard that the index does not name for it; "
                            f"save the model again")
    return {tensor: held[name][tensor] for tensor, name in shards.items()}


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


IMPORTER = Importer(name="safetensors", suffixes=(".safetensors", _INDEX), open=_open, sniff=_sniff)
