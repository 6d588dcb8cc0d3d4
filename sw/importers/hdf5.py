# SPDX-License-Identifier: Apache-2.0
"""Find damage in an HDF5 file from which the HDF5 library would not return.

The library follows the free list of a local heap and the objects of a global heap without noticing that it makes no
progress. Both are found by their signatures, wherever they lie in the file.
"""

import mmap
import struct
from collections.abc import Iterator

__all__ = ["endless"]

_LOCAL = struct.Struct("<4sB3xQQQ")  # signature, version, size of the data, first free block, address of the data
_GLOBAL = struct.Struct("<4sB3xQ")  # signature, version, size with this header
_BLOCK = struct.Struct("<QQ")  # a free block: next free block, size
_OBJECT = struct.Struct("<HH4xQ")  # an object of a global heap: index, references, size
_LAST = 1  # as the next free block


def endless(data: bytes | mmap.mmap) -> str | None:
    """Return what would keep the library busy for ever in the bytes of a file, with its place; None if nothing."""
    for start in _places(data, b"HEAP"):
        if _local_repeats(data, start):
            return f"the free list of the local heap at byte {start} is a circle"
    for start in _places(data, b"GCOL"):
        if _global_stands(data, start):
            return f"the global heap at byte {start} has an object of no size"
    return None


def _places(data: bytes | mmap.mmap, signature: bytes) -> Iterator[int]:
    start = data.find(signature)
    while start >= 0:
        yield start
        start = data.find(signature, start + 1)


def _local_repeats(data: bytes | mmap.mmap, start: int) -> bool:
    if start + _LOCAL.size > len(data):
        return False
    _, _, size, free, address = _LOCAL.unpack_from(data, start)
    seen: set[int] = set()
    while free != _LAST and free + _BLOCK.size <= size and address + free + _BLOCK.size <= len(data):
        if free in seen:
            return True
        seen.add(free)
        free, _ = _BLOCK.unpack_from(data, address + free)
    return False


def _global_stands(data: bytes | mmap.mmap, start: int) -> bool:
    if start + _GLOBAL.size > len(data):
        return False
    _, _, size = _GLOBAL.unpack_from(data, start)
    place, end = start + _GLOBAL.size, min(start + size, len(data))
    while place + _OBJECT.size <= end:
        index, _, length = _OBJECT.unpack_from(data, place)
        step = length if index == 0 else _OBJECT.size + -(-length // 8) * 8
        if step == 0:
            return True
        place += step
    return False
