# SPDX-License-Identifier: Apache-2.0
"""Import trained LSTMs and GRUs: one module for each kind of file, behind one interface.

>>> from openese.sw import importers
>>> importers.entries("model.onnx")            # the layers in the file
>>> network = importers.load("model.onnx")     # or load("model.onnx", "encoder,decoder")

Files are not trusted. An importer runs no code from a file, unpacks nothing to disk, and unpacks no more than a
limit in memory. It opens no second file, except the tensor files of an ONNX model and the shards of an index, which
must be in the same folder.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from openese.sw.importers import from_keras, from_npz, from_onnx, from_safetensors, from_torch
from openese.sw.importers.base import Entry, Importer, ImportRefused, zip_members
from openese.sw.model.network import Network

__all__ = ["IMPORTERS", "Entry", "ImportRefused", "Importer", "entries", "find", "load"]

#: All importers. The first one that recognizes a file reads it.
IMPORTERS = (from_npz.IMPORTER, from_safetensors.IMPORTER, from_torch.IMPORTER, from_keras.IMPORTER,
             from_onnx.IMPORTER)


def find(path: str | os.PathLike[str]) -> Importer:
    """Return the importer for the file at ``path``, chosen by the contents, else by the suffix.

    Raises
    ------
    ImportRefused
        If no importer reads this kind of file.
    OSError
        If the file cannot be read.
    """
    path = Path(path)
    with open(path, "rb") as file:
        head = file.read(64)
    members = zip_members(path)
    for importer in IMPORTERS:
        if importer.sniff(head, members):
            return importer
    for importer in IMPORTERS:
        if path.name.lower().endswith(importer.suffixes):
            return importer
    known = ", ".join(f"{importer.name} ({' '.join(importer.suffixes)})" for importer in IMPORTERS)
    raise ImportRefused(f"{path.name}: of no known kind; openese reads {known}")


def entries(path: str | os.PathLike[str]) -> list[Entry]:
    """List the layers in the file at ``path``: those that `load` takes, and those that it refuses.

    Raises
    ------
    ImportRefused
        If the file is damaged or of an unknown kind.
    OSError
        If the file cannot be opened.
    """
    try:
        return find(path).entries(Path(path))
    except RecursionError:
        raise ImportRefused(f"{Path(path).name}: the contents are nested too deeply to be read") from None


def load(path: str | os.PathLike[str], select: str | Sequence[str] | None = None, *,
         ignore: str | Sequence[str] = ()) -> Network:
    """Return the network in the file at ``path``.

    Parameters
    ----------
    path : path
    select : str or sequence of str, optional
        Names of `entries`, as a sequence or as one string with commas; several are stacked in this order.
        You do not need it if the file has one LSTM or GRU, or one chain of them and linear layers.
    ignore : str or sequence of str
        Tensors or modules of a file without a graph that have no effect. Without it, a tensor that is not understood
        is refused. Each must be needed.

    Raises
    ------
    ImportRefused
        If the file or a selected layer cannot be imported; the message names it and gives the reason.
    ModelError
        If shapes of weights do not fit each other, or a weight is not finite.
    OSError
        If the file cannot be opened.
    """
    try:
        return find(path).load(Path(path), select, (ignore,) if isinstance(ignore, str) else tuple(ignore))
    except RecursionError:
        raise ImportRefused(f"{Path(path).name}: the contents are nested too deeply to be read") from None
