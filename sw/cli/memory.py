# SPDX-License-Identifier: Apache-2.0
"""The memory of a command's process."""

import ctypes
from contextlib import suppress

__all__ = ["return_freed_memory"]

_M_MMAP_THRESHOLD = -3
_LARGE = 1 << 23  # bytes; smaller blocks come and go in every step, where giving them back takes time


def return_freed_memory() -> None:
    """Let the C library give every large block back to the system when it is freed.

    glibc alone keeps blocks of up to 32 MiB once it has seen some freed: the matrices of a large network. Other C
    libraries are left as they are.
    """
    with suppress(OSError, AttributeError, TypeError):  # no C library by this way, or one without this function
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE)
