# SPDX-License-Identifier: Apache-2.0
"""Files of a whole network's inputs and outputs: arrays by name in an ``.npz``, or one array in a ``.npy``."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openese.output import replacing
from openese.sw.model.layers import read_npz
from openese.sw.whole.host import Arrays, HostError, Port

__all__ = ["check_output", "load", "read", "save"]


def read(path: str | os.PathLike[str]) -> Arrays | NDArray[Any]:
    """The arrays of an ``.npz`` by name, or the array of a ``.npy``. Nothing in the file is executed.

    Raises
    ------
    HostError
        The file is no ``.npy`` or ``.npz``.
    ModelError
        An ``.npz`` is damaged or too large.
    OSError
        The file cannot be read.
    """
    with open(path, "rb") as file:
        zipped = file.read(2) == b"PK"
    if zipped:
        return read_npz(path)
    try:
        array: NDArray[Any] = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, MemoryError) as error:
        raise HostError(f"{os.fspath(path)}: not a .npy or .npz of numbers ({error})") from None
    return array


def load(path: str | os.PathLike[str], ports: Sequence[Port]) -> Arrays:
    """The inputs ``ports`` in a file, as `read`.

    Raises
    ------
    HostError
        The file has one array and the network several inputs, or as for `read`.
    """
    given = read(path)
    if isinstance(given, dict):
        return given
    if len(ports) != 1:
        raise HostError(f"{os.fspath(path)}: one array, but the network has the inputs "
                        f"{', '.join(port.text() for port in ports)}; give them by name in an .npz")
    return {ports[0].name: given}


def check_output(path: Path, ports: Sequence[Port]) -> None:
    """Raise `HostError` unless ``path`` can take the outputs ``ports``."""
    if path.suffix != ".npz" and len(ports) != 1:
        raise HostError(f"{path}: the network has the outputs {', '.join(port.name for port in ports)}; give the "
                        f"output a name that ends in .npz")


def save(path: Path, outputs: Arrays) -> None:
    """Write outputs by name as an ``.npz``, or one output as a ``.npy``."""
    plain = {name: array.astype(str) if array.dtype == object else array for name, array in outputs.items()}
    with replacing(path) as file:
        if path.suffix == ".npz":
            np.savez(file, **plain)  # type: ignore[arg-type]
        else:
            np.save(file, next(iter(plain.values())))
