# SPDX-License-Identifier: Apache-2.0
"""Types of arrays, by their numbers, and arrays of real numbers from users."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Float64Array", "FloatArray", "Int64Array", "IntArray", "real_array"]

FloatArray = NDArray[np.floating[Any]]
Float64Array = NDArray[np.float64]
IntArray = NDArray[np.integer[Any]]
Int64Array = NDArray[np.int64]


def real_array(name: str, values: ArrayLike, error: type[ValueError]) -> Float64Array:
    """The ``values`` in float64.

    Raises
    ------
    error
        They are not an array of real numbers. The message begins with ``name``.
    """
    try:
        array = np.asarray(values)
    except ValueError:
        raise error(f"{name}: the rows have different lengths") from None
    if array.dtype.kind not in "fiu" and array.size:
        raise error(f"{name}: expected real numbers, found {array.dtype}")
    return array.astype(np.float64, copy=False)
