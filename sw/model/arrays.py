# SPDX-License-Identifier: Apache-2.0
"""Types of arrays, by their numbers."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Float64Array", "FloatArray", "Int64Array", "IntArray"]

FloatArray = NDArray[np.floating[Any]]
Float64Array = NDArray[np.float64]
IntArray = NDArray[np.integer[Any]]
Int64Array = NDArray[np.int64]
