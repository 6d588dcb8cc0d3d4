# SPDX-License-Identifier: Apache-2.0
"""The files that the stages write: one for a plain network, a folder for any other.

A plain network is one model, so it is one file. Any other network is a folder with ``network.npz``, the network in
floating point (the order and direction of its models, and the head), and one file for each of its directions, in their
order: ``0.npz``, ``1.npz``, ... quantized or ``0.img``, ``1.img``, ... packed.

A whole network is a folder of `openese.sw.whole`.
"""

import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from openese.output import replacing_folder
from openese.rtl.loader import MAGIC, Section
from openese.sw import importers
from openese.sw.model.layers import ModelError
from openese.sw.model.network import Network
from openese.sw.model.quantized import QuantizedModel
from openese.sw.pack.image import Image, pack
from openese.sw.pack.together import schedule_all

__all__ = ["WHOLE", "FileError", "check_kind", "check_place", "kind", "load", "load_network", "save", "verify_image"]

#: In the folder of a whole network, tells how its files belong together.
WHOLE = "network.json"


class FileError(ValueError):
    """A file or folder that does not hold what it should; the message names it."""


class _Saved(Protocol):
    def save(self, path: Path) -> None: ...


_T = TypeVar("_T")


def check_place(path: Path, network: Network | None, suffix: str) -> None:
    """Raise `FileError` if `save` cannot write there: a folder in the place of a file, a file in the place of a folder,
    or a folder with files that are not replaced, so that parts of two networks would mix.

    Commands that compute for long ask this first. Without a network there is one part.
    """
    if network is None or network.plain:
        if path.is_dir():
            raise FileError(f"{path}: a folder; the network has one direction and becomes a file of its own")
        return
    count = len(network.directions)
    if path.exists() and not path.is_dir():
        raise FileError(f"{path}: a file; the network has {count} directions and becomes a folder")
    ours = {"network.npz", *(f"{number}{suffix}" for number in range(count))}
    others = sorted(file.name for file in path.iterdir() if file.name not in ours) if path.is_dir() else []
    if others:
        raise FileError(f"{path}: a folder with other files, such as {others[0]}; give a new folder")


def save(path: Path, network: Network | None, parts: Sequence[_Saved], suffix: str) -> None:
    """Write parts, one for each direction of ``network``: one file at ``path``, or a folder.

    Without a network there is one part.

    Raises
    ------
    FileError
        As `check_place`.
    OSError
    """
    check_place(path, network, suffix)
    if network is None or network.plain:
        parts[0].save(path)
        return
    with replacing_folder(path) as folder:
        network.save(folder / "network.npz")
        for number, part in enumerate(parts):
            part.save(folder / f"{number}{suffix}")


def load(path: Path, read: Callable[[Path], _T], suffix: str) -> tuple[Network | None, list[_T]]:
    """The parts at ``path``, each by ``read``, and the network that they belong to if it is not plain.

    Raises
    ------
    FileError
        If a part is missing.
    ModelError, OSError
        For a network that cannot be read, and all that ``read`` raises.
    """
    check_kind(path, "images" if suffix == ".img" else "quantized")
    if not path.is_dir():
        return None, [read(path)]
    network = Network.load(path / "network.npz")
    count = len(network.directions)
    for number in range(count):
        if not (path / f"{number}{suffix}").is_file():
            raise FileError(f"{path}: {number}{suffix} is missing; the network has {count} directions")
    return network, [read(path / f"{number}{suffix}") for number in range(count)]


def kind(path: Path) -> str | None:
    """``"whole"``, ``"images"``, ``"quantized"`` or ``"network"`` for a file or folder of this project; else None.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    if path.is_dir():
        if (path / WHOLE).exists():
            return "whole"
        return "images" if (path / "0.img").exists() else "quantized" if (path / "0.npz").exists() else None
    with open(path, "rb") as file:
        if file.read(4) == MAGIC.to_bytes(4, "little"):
            return "images"
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
    except zipfile.BadZipFile:
        return None
    if "manifest.npy" in members:
        return "quantized"
    return "network" if any(name.endswith("layer0.w_x.npy") for name in members) else None


_KINDS = {"whole": "a whole network", "images": "an image, or a folder of images", "quantized": "a quantized network",
          "network": "a network in floating point"}


def check_kind(path: Path, wanted: str) -> None:
    """Raise `FileError` if the file or folder is known to be of another kind than ``wanted``, one of `kind`."""
    found = kind(path)
    if found is not None and found != wanted:
        raise FileError(f"{path}: {_KINDS[found]}; expected {_KINDS[wanted]}")
    if found is None and path.is_dir():
        raise FileError(f"{path}: a folder of other things; expected {_KINDS[wanted]}")
    suffixes = {suffix for importer in importers.IMPORTERS for suffix in importer.suffixes}
    if found is None and wanted == "network" and path.suffix.lower() in suffixes - {".npz"}:
        raise FileError(f"{path}: a file to import: first run openese import {path} -o NET.npz")


def load_network(path: Path) -> Network:
    """The network in a file that `Network.save` wrote.

    Raises
    ------
    FileError, ModelError
        For another file, naming it.
    OSError
        If it cannot be read.
    """
    check_kind(path, "network")
    try:
        return Network.load(path)
    except ModelError as error:
        raise error if str(path) in str(error) else ModelError(f"{path}: {error}") from None


def _first(packed: Image, image: Image) -> str:
    """The place of the first difference of two images, for people."""
    there, wanted = (json.loads(json.dumps(held.manifest)) for held in (image, packed))
    for key, value in wanted.items():
        if there[key] == value:
            continue
        rows = ([(f"[{number}]", *pair) for number, pair in enumerate(zip(there[key], value, strict=False))]
                if isinstance(value, list) else [("", there[key], value)])
        for number, held, other in rows:
            if isinstance(other, dict):
                for name in other:
                    if held[name] != other[name]:
                        return f"{key}{number}.{name} of the manifest, {held[name]} for {other[name]}"
        return f"{key} of the manifest"
    return next((f"section {section.name.lower()}" for section, lines in packed.sections.items()
                 if section not in image.sections or not np.array_equal(lines, image.sections[section])),
                "the order of its sections")


def verify_image(image: Image, wanted: Sequence[QuantizedModel] = ()) -> None:
    """Check that an image decodes to models that pack into the same bytes again, manifest and streamed weights
    included, and, if there are ``wanted`` models, that it holds these, in their order.

    Raises
    ------
    FileError
        If not, naming the first difference.
    ImageFormatError
        If it cannot be decoded.
    """
    models = image.models()
    again = pack(schedule_all(models, image.config, stream=Section.STREAM in image.sections))
    if not np.array_equal(again.words(everything=True), image.words(everything=True)):
        raise FileError(f"image {', '.join(map(repr, image.names))} decodes, but packs into other bytes, first in "
                        f"{_first(again, image)}: another packer made it")
    for model, other in zip(models, wanted, strict=False):
        _check_same(model, other)


def _check_same(model: QuantizedModel, wanted: QuantizedModel) -> None:
    """Raises `FileError` unless a model of an image is ``wanted``."""
    if len(wanted.layers) != len(model.layers):
        raise FileError(f"image {model.name!r} has {len(model.layers)} layers, "
                        f"the quantized model {len(wanted.layers)}")
    for held, layer in zip(model.layers, wanted.layers, strict=True):
        for field in fields(layer):
            if not np.array_equal(getattr(held, field.name), getattr(layer, field.name)):
                raise FileError(f"image {model.name!r} differs from the quantized model in "
                                f"layer {layer.name!r} {field.name}")
    if not all(np.array_equal(getattr(model, name), getattr(wanted, name))
               for name in ("sigmoid_table", "tanh_table")):
        raise FileError(f"image {model.name!r} differs from the quantized model in its tables")
