# SPDX-License-Identifier: Apache-2.0
"""Import ``.safetensors`` files: arrays with the names in `tensors` or the keys of `Network.save`."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openese.sw.importers.base import LIMIT, Importer, ImportRefused, Source, require
from openese.sw.importers.from_npz import arrays_source
from openese.sw.importers.tensors import Stored, TensorSource

__all__ = ["IMPORTER"]

_TYPES = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "I8": "i1", "U8": "u1", "I16": "<i2", "I32": "<i4",
          "I64": "<i8"}
_NAMES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}


def _open(path: Path) -> Source:
    safetensors = require("safetensors", "safetensors", "safetensors files")
    if path.stat().st_size > LIMIT:
        raise ImportRefused(f"{path.name}: {path.stat().st_size:,} bytes; at most {LIMIT:,} are read")
    try:
        views = safetensors.deserialize(path.read_bytes())
    except safetensors.SafetensorError as error:
        raise ImportRefused(f"{path.name}: not a safetensors file ({error})") from None
    tensors = {name: _stored(view) for name, view in views}
    if any(name.endswith("layer0.w_x") for name in tensors):
        return arrays_source(path, {name: tensor.read() for name, tensor in tensors.items()})
    return TensorSource(path, tensors)


def _stored(view: dict[str, Any]) -> Stored:
    kind, shape, data = view["dtype"], tuple(view["shape"]), view["data"]

    def read() -> NDArray[Any]:
        if kind == "BF16":
            return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32).reshape(shape)
        return np.frombuffer(data, _TYPES[kind]).reshape(shape)

    return Stored(shape, _NAMES.get(kind, kind), read)


IMPORTER = Importer(name="safetensors", suffixes=(".safetensors",), open=_open,
                    sniff=lambda head, members: head[8:9] == b"{" and head[6:8] == b"\0\0")
