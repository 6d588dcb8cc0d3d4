# SPDX-License-Identifier: Apache-2.0
"""Trained LSTMs as people have them: one small module for each kind of file, behind one interface.

>>> from sw import importers
>>> importers.entries("model.onnx")            # what is in it
>>> network = importers.load("model.onnx")     # or load("model.onnx", "encoder,decoder")

Files are not trusted: nothing in them is run, nothing is unpacked beyond a limit or outside of memory,
and no other file is opened because one of them says so, but for the tensors that an ONNX file keeps
beside itself.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from openese.sw.importers import from_keras, from_npz, from_onnx, from_safetensors, from_torch
from openese.sw.importers.base import Entry, Importer, ImportRefused, zip_members
from openese.sw.model.network import Network

__all__ = ["IMPORTERS", "Entry", "ImportRefused", "Importer", "entries", "find", "load"]

#: In the order in which a file is offered to them.
IMPORTERS = (from_npz.IMPORTER, from_safetensors.IMPORTER, from_torch.IMPORTER, from_keras.IMPORTER,
             from_onnx.IMPORTER)


def find(path: str | os.PathLike[str]) -> Importer:
    """The importer for the file at ``path``: by its contents, else by its suffix.

    Raises
    ------
    ImportRefused
        If there is none.
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
        if path.suffix.lower() in importer.suffixes:
            return importer
    known = ", ".join(f"{importer.name} ({' '.join(importer.suffixes)})" for importer in IMPORTERS)
    raise ImportRefused(f"{path.name}: of no known kind; known are {known}")


def entries(path: str | os.PathLike[str]) -> list[Entry]:
    """What can be selected in the file at ``path``, and what is refused.

    Raises
    ------
    ImportRefused
        For a file that cannot be read as what it is.
    OSError
        If the file cannot be opened.
    """
    try:
        return find(path).entries(Path(path))
    except RecursionError:
        raise ImportRefused(f"{Path(path).name}: nested too deeply") from None


def load(path: str | os.PathLike[str], select: str | Sequence[str] | None = None) -> Network:
    """The network in the file at ``path``.

    Parameters
    ----------
    path : path
    select : str or sequence of str, optional
        Names of `entries`, or one string with commas between them; several are stacked in their order.
        Without it, what the file leaves no doubt about.

    Raises
    ------
    ImportRefused
        For what is not taken, by name and reason.
    ModelError
        For weights that cannot be: shapes that do not fit, numbers that are not finite.
    OSError
        If the file cannot be opened.
    """
    try:
        return find(path).load(Path(path), select)
    except RecursionError:
        raise ImportRefused(f"{Path(path).name}: nested too deeply") from None
