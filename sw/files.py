# SPDX-License-Identifier: Apache-2.0
"""What stages hand to each other as files: one for a plain network, a folder for any other.

A plain network is one model, so it is one file. Any other is a folder with ``network.npz``, the network
in floating point (what runs which way, and the head), and one file for each of its directions, in their
order: ``0.npz``, ``1.npz``, ... quantized or ``0.img``, ``1.img``, ... packed.
"""

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from openese.rtl.config import Config
from openese.rtl.loader import MAGIC
from openese.sw.model.arrays import FloatArray
from openese.sw.model.layers import Model
from openese.sw.model.network import Network
from openese.sw.model.quantized import QuantizedModel
from openese.sw.pack.image import Image, pack
from openese.sw.pack.image import read as read_image
from openese.sw.pack.schedule import schedule
from openese.sw.prune import Density, prune
from openese.sw.quantize.choose import quantize
from openese.sw.run.runners import FloatRunner

__all__ = ["BundleError", "kind", "load_images", "load_quantized", "pack_model", "prune_network",
           "quantize_network", "random_frames", "save", "verify_image"]

CALIBRATION_STEPS, CALIBRATION_VOICES, CALIBRATION_SEED = 64, 8, 1


class BundleError(ValueError):
    """A folder or file that holds something else than was expected."""


class _Saved(Protocol):
    def save(self, path: Path) -> None: ...


_T = TypeVar("_T")


def prune_network(network: Network, density: Density, config: Config, balanced: bool = True) -> Network:
    """`prune.prune`, of each model of a network; a mapping by layer names may name layers of any.

    Raises
    ------
    PruneError
        As `prune.prune`.
    """
    names = [layer.name for direction in network.directions for layer in direction.model.layers]

    def of(model: Model) -> Density:
        if not isinstance(density, Mapping) or not density.keys() <= set(names):
            return density
        return {name: density[name] for name in density if name in [layer.name for layer in model.layers]}

    return network.map(lambda model: prune(model, of(model), config.pes, config.groups, balanced))


def random_frames(network: Network) -> FloatArray:
    """Normally distributed numbers (T, B, I), for want of real frames: formats chosen on them are a guess."""
    rng = np.random.default_rng(CALIBRATION_SEED)
    return rng.normal(size=(CALIBRATION_STEPS, CALIBRATION_VOICES, network.inputs))


def quantize_network(network: Network, frames: ArrayLike, config: Config,
                     lengths: ArrayLike | None = None) -> list[QuantizedModel]:
    """`quantize.quantize`, of each model of a network, on what reaches it of ``frames`` (T, B, I)."""
    if network.plain:
        return [quantize(network.model, frames, config)]
    runners = [FloatRunner(direction.model) for direction in network.directions]
    return [quantize(direction.model, fed, config)
            for direction, fed in network.fed(frames, runners, lengths)]


def pack_model(model: QuantizedModel, config: Config | None = None) -> Image:
    """The image of a quantized model for ``config``, by default the machine that it was quantized for.

    Raises
    ------
    CapacityError
        If the machine cannot hold it.
    """
    return pack(schedule(model, config or model.config))


def save(path: Path, network: Network | None, parts: Sequence[_Saved], suffix: str) -> None:
    """Write parts, one for each direction of ``network``: one file at ``path``, or a folder.

    Without a network there is one part.
    """
    if network is None or network.plain:
        parts[0].save(path)
        return
    path.mkdir(exist_ok=True)
    network.save(path / "network.npz")
    for number, part in enumerate(parts):
        part.save(path / f"{number}{suffix}")


def _load(path: Path, read: Callable[[Path], _T], suffix: str) -> tuple[Network | None, list[_T]]:
    if not path.is_dir():
        return None, [read(path)]
    network = Network.load(path / "network.npz")
    count = len(network.directions)
    for number in range(count):
        if not (path / f"{number}{suffix}").is_file():
            raise BundleError(f"{path}: {number}{suffix} is missing; the network has {count} directions")
    return network, [read(path / f"{number}{suffix}") for number in range(count)]


def load_quantized(path: Path) -> tuple[Network | None, list[QuantizedModel]]:
    """The quantized models at ``path``, and the network that they belong to if it is not plain.

    Raises
    ------
    BundleError
        If one is missing.
    QuantizeError, ModelError, OSError
        For files that cannot be read as what they should be.
    """
    return _load(path, QuantizedModel.load, ".npz")


def load_images(path: Path) -> tuple[Network | None, list[Image]]:
    """The images at ``path``, as `load_quantized`; raises ImageFormatError for a damaged one."""
    return _load(path, read_image, ".img")


def verify_image(image: Image, wanted: QuantizedModel | None = None) -> None:
    """Check that what an image decodes to packs into the same bytes, and is ``wanted``.

    Raises
    ------
    BundleError
        If not, naming the first difference.
    ImageFormatError, EncodeError, QuantizeError
        If it cannot be decoded.
    """
    model = image.model()
    again = pack_model(model)
    if not np.array_equal(again.words(), image.words()):
        raise BundleError(f"image {model.name!r} decodes, but packs into other bytes: another packer made it")
    if wanted is None:
        return
    if len(wanted.layers) != len(model.layers):
        raise BundleError(f"image {model.name!r} has {len(model.layers)} layers, "
                          f"the quantized model {len(wanted.layers)}")
    for held, layer in zip(model.layers, wanted.layers, strict=True):
        for field in fields(layer):
            if not np.array_equal(getattr(held, field.name), getattr(layer, field.name)):
                raise BundleError(f"image {model.name!r} differs from the quantized model in "
                                  f"layer {layer.name!r} {field.name}")
    if not all(np.array_equal(getattr(model, name), getattr(wanted, name))
               for name in ("sigmoid_table", "tanh_table")):
        raise BundleError(f"image {model.name!r} differs from the quantized model in its tables")


def kind(path: Path) -> str | None:
    """``"images"``, ``"quantized"`` or ``"network"`` for what this project writes; else None."""
    if path.is_dir():
        return "images" if (path / "0.img").exists() else "quantized" if (path / "0.npz").exists() else None
    with open(path, "rb") as file:
        if file.read(4) == MAGIC.to_bytes(4, "little"):
            return "images"
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        members = archive.namelist()
    if "manifest.npy" in members:
        return "quantized"
    return "network" if any(name.endswith("layer0.w_x.npy") for name in members) else None
