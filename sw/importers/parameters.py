# SPDX-License-Identifier: Apache-2.0
"""The parameters of a module, out of the tensors that stand for them in a file.

A file does not always hold a parameter ``NAME`` itself. These are computed as the network computes them in evaluation:

=========================================================  =====================================================
``NAME_orig, NAME_mask``                                   the product: ``torch.nn.utils.prune``
``NAME_g, NAME_v``                                         weight norm, g v / |v|: ``torch.nn.utils.weight_norm``
``parametrizations.NAME.original0, .original1``            g and v of the parametrization
``NAME_orig, NAME_u, NAME_v``                              spectral norm, w / (u w v)
``parametrizations.NAME.original, .0._u, .0._v``           spectral norm as a parametrization
``NAME_raw``                                               itself: AWD-LSTM and fastai
``NAME, NAME_scale`` for every parameter of the module     w exp(scale): icefall
=========================================================  =====================================================

Beside any of the first six, a tensor ``NAME`` is the copy that the last training step left. It is not read.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openese.sw.importers.base import LIMIT, ImportRefused
from openese.sw.model.arrays import FloatArray

__all__ = ["FLOATS", "Parameter", "Stored", "owner", "read", "resolve", "stored"]

#: Names of the types that are read.
FLOATS = ("float16", "bfloat16", "float32", "float64")
_PARAMETRIZED = re.compile(r"parametrizations\.([^.]+)\.(.+)")
#: What `resolve` knows behind a name, the longest first.
_ENDINGS = ("_mask", "_orig", "_raw", "_scale", "_g", "_u", "_v")


class Stored(NamedTuple):
    """A tensor that is read on demand: its shape, the name of its type, and a function that reads it."""

    shape: tuple[int, ...]
    type: str
    read: Callable[[], NDArray[Any]]


def stored(array: NDArray[Any]) -> Stored:
    """Return an array in memory as `Stored`."""
    return Stored(array.shape, str(array.dtype), lambda: array)


def read(name: str, tensor: Stored) -> NDArray[Any]:
    """Return the contents of a tensor.

    Raises
    ------
    ImportRefused
        If they are damaged, or numpy has no such array.
    """
    try:
        return tensor.read()
    except ImportRefused:
        raise
    except (ValueError, OverflowError, MemoryError) as error:
        raise ImportRefused(f"{name} of shape {tensor.shape} cannot be read ({error})") from None


@dataclass(frozen=True)
class Parameter:
    """A parameter of a module.

    Attributes
    ----------
    shape : tuple of int
    tensors : tuple of str
        Names of all tensors that stand for it.
    read : callable
        Returns the values in float32 or float64. It raises `ImportRefused`, without the module's name.
    note : str
        How it is computed; empty for a tensor that is the parameter itself.
    """

    shape: tuple[int, ...]
    tensors: tuple[str, ...]
    read: Callable[[], FloatArray]
    note: str = ""


def owner(name: str) -> str:
    """Return the parameter for which the tensor ``name`` of a module stands, if its name alone decides."""
    match = _PARAMETRIZED.fullmatch(name)
    if match:
        return match[1]
    ending = next((ending for ending in _ENDINGS if name.endswith(ending)), "")
    return name.removesuffix(ending)


def resolve(tensors: Mapping[str, Stored]) -> dict[str, Parameter]:
    """Return the parameters of a module by name, out of its tensors by their names without its prefix.

    A tensor that stands for no parameter in a known way is in none of them.
    """
    names = dict.fromkeys([*map(owner, tensors), *(name for name in tensors if "." not in name)])
    plain = {name for name in names if name in tensors and not name.endswith("_scale")}
    scaled = bool(plain) and all(_is_scale(tensors.get(f"{name}_scale")) for name in plain)
    inside = Counter(match[1] for match in map(_PARAMETRIZED.fullmatch, tensors) if match)
    parameters = {}
    for name in names:
        ways = _ways(tensors, name, inside[name])
        copy = (name,) if name in tensors else ()
        if len(ways) == 1:
            way = ways[0]
            parameters[name] = Parameter(way.shape, way.tensors + copy, way.read, way.note)
        elif not ways and scaled and name in plain:
            parameters[name] = _scaled(tensors, name)
        elif not ways and copy:
            parameters[name] = Parameter(tensors[name].shape, copy, partial(_values, tensors, name))
    return parameters


def _ways(tensors: Mapping[str, Stored], name: str, inside: int) -> list[Parameter]:
    """Return the computations of a parameter for which all tensors are there, and no more of a parametrization."""
    under = f"parametrizations.{name}."
    ways = [
        _pruned(tensors, f"{name}_orig", f"{name}_mask"),
        _weight_norm(tensors, f"{name}_g", f"{name}_v"),
        _weight_norm(tensors, f"{under}original0", f"{under}original1") if inside == 2 else None,
        _spectral(tensors, f"{name}_orig", f"{name}_u", f"{name}_v"),
        _spectral(tensors, f"{under}original", f"{under}0._u", f"{under}0._v") if inside == 3 else None,
        _raw(tensors, f"{name}_raw"),
    ]
    return [way for way in ways if way is not None]


def _values(tensors: Mapping[str, Stored], name: str) -> FloatArray:
    tensor = tensors[name]
    if tensor.type not in FLOATS:
        raise ImportRefused(f"{name} has type {tensor.type}, not floating point; import the model before it is "
                            f"quantized")
    if 8 * math.prod(tensor.shape) > LIMIT:
        raise ImportRefused(f"{name} has shape {tensor.shape}; at most {LIMIT // 8:,} numbers are read")
    array = read(name, tensor)
    return array.astype(np.float64 if array.dtype.itemsize == 8 else np.float32, copy=False)


def _raw(tensors: Mapping[str, Stored], raw: str) -> Parameter | None:
    if raw not in tensors:
        return None
    return Parameter(tensors[raw].shape, (raw,), lambda: _values(tensors, raw),
                     "the weights before dropout are read (_raw); dropout of weights acts only in training")


def _pruned(tensors: Mapping[str, Stored], original: str, mask: str) -> Parameter | None:
    if original not in tensors or mask not in tensors or tensors[original].shape != tensors[mask].shape \
            or tensors[mask].type not in FLOATS:
        return None
    return Parameter(tensors[original].shape, (original, mask),
                     lambda: _values(tensors, original) * _values(tensors, mask))


def _is_scale(tensor: Stored | None) -> bool:
    return tensor is not None and tensor.shape in ((), (1,)) and tensor.type in FLOATS


def _scaled(tensors: Mapping[str, Stored], name: str) -> Parameter:
    def read() -> FloatArray:
        return _values(tensors, name) * np.exp(_values(tensors, f"{name}_scale").reshape(()))
    return Parameter(tensors[name].shape, (name, f"{name}_scale"), read,
                     "every weight is multiplied by the exponential of its _scale, as icefall does")


def _weight_norm(tensors: Mapping[str, Stored], magnitude: str, direction: str) -> Parameter | None:
    if magnitude not in tensors or direction not in tensors:
        return None
    size, shape = tensors[magnitude].shape, tensors[direction].shape
    if size and (len(size) != len(shape)
                 or not all(given in (1, whole) for given, whole in zip(size, shape, strict=True))):
        return None
    axes = tuple(axis for axis in range(len(shape)) if not size or size[axis] != shape[axis])

    def read() -> FloatArray:
        g, v = _values(tensors, magnitude), _values(tensors, direction)
        norm = np.sqrt(np.sum(np.square(v, dtype=np.float64), axis=axes, keepdims=True))
        weight: FloatArray = (v * (g / norm)).astype(v.dtype)
        return weight

    return Parameter(shape, (magnitude, direction), read, "weight norm is computed")


def _spectral(tensors: Mapping[str, Stored], original: str, left: str, right: str) -> Parameter | None:
    if not {original, left, right} <= tensors.keys() or len(tensors[original].shape) != 2:
        return None
    shape = tensors[original].shape
    sizes = tensors[left].shape + tensors[right].shape
    if sizes not in (shape, shape[::-1]):
        return None

    def read() -> FloatArray:
        weight, u, v = (_values(tensors, name) for name in (original, left, right))
        matrix = (weight if sizes == shape else weight.T).astype(np.float64)
        normed: FloatArray = (weight / (u @ matrix @ v)).astype(weight.dtype)
        return normed

    return Parameter(shape, (original, left, right), read, "spectral norm is computed, as in evaluation")
