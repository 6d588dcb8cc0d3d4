# SPDX-License-Identifier: Apache-2.0
"""Models in several files, as Hugging Face saves large ones: ``NAME-00001-of-00002.SUFFIX`` and so on.

The index, ``NAME.SUFFIX.index.json``, names the file of each tensor. The index, or a shard beside it, stands for the
whole model. Shards are read from the folder of the index only.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from openese.sw.importers.base import ImportRefused, listed, printable
from openese.sw.importers.tensors import Stored

__all__ = ["SUFFIX", "find_index", "sharded"]

#: Ends the name of an index, after the suffix of its shards.
SUFFIX = ".index.json"

_LIMIT = 64 << 20
_SHARD = re.compile(r"(.+)-\d{5}-of-(\d{5})(\.\w+)")


def find_index(path: Path) -> Path | None:
    """Return the index for an index or a shard, and None for a file that is a whole model.

    Raises
    ------
    ImportRefused
        If there is no index beside a shard.
    """
    if path.name.endswith(SUFFIX):
        return path
    shard = _SHARD.fullmatch(path.name)
    if shard is None or int(shard[2]) < 2:
        return None
    index = path.with_name(f"{shard[1]}{shard[3]}{SUFFIX}")
    if not index.is_file():
        raise ImportRefused(f"{path.name}: one of {int(shard[2])} shards, but there is no {index.name} beside it; put "
                            f"the index and all shards into one folder")
    return index


def sharded(index: Path, read: Callable[[Path], Mapping[str, Stored]]) -> dict[str, Stored]:
    """Return the tensors in all shards of an index.

    Parameters
    ----------
    index : Path
    read : callable
        Returns the tensors in a shard by printable names.

    Raises
    ------
    ImportRefused
        If the index and the shards do not fit, or a shard is missing or in another folder.
    """
    if index.stat().st_size > _LIMIT:
        raise ImportRefused(f"{index.name}: {index.stat().st_size:,} bytes; at most {_LIMIT:,} are read")
    try:
        shards = json.loads(index.read_bytes())["weight_map"]
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
            raise TypeError("weight_map is no table of file names")
    except (ValueError, KeyError, TypeError) as error:
        raise ImportRefused(f"{index.name}: not an index of shards ({type(error).__name__}: {error})") from None
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
    held = {name: read(index.with_name(name)) for name in files}
    shards = {printable(tensor): name for tensor, name in shards.items()}
    lost = [tensor for tensor, name in shards.items() if tensor not in held[name]]
    if lost:
        raise ImportRefused(f"{index.name}: {shards[lost[0]]} has no tensor {lost[0]!r}; copy the shards again")
    doubled = [tensor for name, tensors in held.items() for tensor in tensors if shards.get(tensor) != name]
    if doubled:
        raise ImportRefused(f"{index.name}: {doubled[0]!r} is in a shard that the index does not name for it; "
                            f"save the model again")
    return {tensor: held[name][tensor] for tensor, name in shards.items()}
