# SPDX-License-Identifier: Apache-2.0
"""Load-balance-aware pruning: every PE keeps the same number of weights of every matrix.

Row r belongs to PE row ``r % (pes // groups)``, and column j to column group ``j % groups``. The weights of a matrix
on one PE are its *slice*. Each slice keeps its ``int(density * slice_size)`` weights of largest magnitude, so no PE
waits for another. Among equal magnitudes, the first in row-major order stay. If the sizes of a matrix are not
multiples of the PEs, slices differ in size. Then each keeps its own share, or, with ``equal``, the same number. The
identity of a dense layer stays as it is.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openese.sw.model.arrays import FloatArray
from openese.sw.model.layers import Layer, Model

__all__ = ["TENSORS", "Density", "MatrixCounts", "PruneError", "check_projections", "densities", "format_report",
           "keep_mask", "prune", "report", "slice_counts"]

TENSORS = ("w_x", "w_r", "w_ym")

Density = float | Mapping[str, float] | Mapping[str, float | Mapping[str, float]]
"""One density for all matrices, a mapping by tensor (``{"w_x": 0.2, "w_r": 0.1}``), or a mapping by layer name, with
a density or a mapping by tensor for each layer. Tensors and layers that are not in a mapping stay dense."""


class PruneError(ValueError):
    """A density, a number of PEs or a setting of a `Pruner` is invalid; the message names it."""


class MatrixCounts(NamedTuple):
    """The non-zeros of one matrix: their number, and the smallest and largest number on a PE."""

    layer: str
    matrix: str
    shape: tuple[int, int]
    nonzeros: int
    smallest: int
    largest: int

    @property
    def density(self) -> float:
        """Share of the elements that are not zero."""
        return self.nonzeros / (self.shape[0] * self.shape[1])


def _row_pes(pes: int, groups: int) -> int:
    if pes < 1 or groups < 1 or pes % groups:
        raise PruneError(f"pes must be a positive multiple of groups, not {pes} with {groups} groups")
    return pes // groups


def _checked(owner: str, density: object) -> float:
    if isinstance(density, bool) or not isinstance(density, (int, float)) or not 0 <= density <= 1:
        raise PruneError(f"density of {owner} must be a number between 0 and 1, not {density!r}")
    return float(density)


def _by_tensor(owner: str, density: object) -> dict[str, float]:
    if not isinstance(density, Mapping):
        return dict.fromkeys(TENSORS, _checked(owner, density))
    for key in density:
        if key not in TENSORS:
            raise PruneError(f"density of {owner}: {key!r} is none of {', '.join(TENSORS)}")
    return {tensor: _checked(f"{owner} {tensor}", density.get(tensor, 1.0)) for tensor in TENSORS}


def densities(names: Sequence[str], density: Density) -> dict[str, dict[str, float]]:
    """Return the density of each tensor of each named layer.

    Raises
    ------
    PruneError
        If a density is not between 0 and 1, or a name is unknown.
    """
    if not isinstance(density, Mapping) or all(key in TENSORS for key in density):
        return dict.fromkeys(names, _by_tensor("the model", density))
    for key in density:
        if key not in names:
            raise PruneError(f"density: {key!r} is neither a tensor ({', '.join(TENSORS)}) "
                             f"nor a layer ({', '.join(names)})")
    return {name: _by_tensor(f"layer {name!r}", density.get(name, 1.0)) for name in names}


def check_projections(layers: Sequence[Layer], density: Density) -> None:
    """Raise `PruneError` if ``density`` names a projection that no such layer has."""
    if not isinstance(density, Mapping):
        return
    if "w_ym" in density and not any(layer.w_ym is not None for layer in layers):
        raise PruneError("density of w_ym: no layer has a projection")
    for name, value in density.items():
        named = [layer for layer in layers if layer.name == name]
        if named and isinstance(value, Mapping) and "w_ym" in value and all(layer.w_ym is None for layer in named):
            raise PruneError(f"density of layer {name!r} w_ym: it has no projection")


def _keep_largest(magnitudes: NDArray[Any], count: int) -> NDArray[np.bool_]:
    """Return a flat mask of the ``count`` largest; among equal ones the first stay."""
    keep = np.zeros(magnitudes.size, bool)
    if count == 0:
        return keep
    threshold = np.partition(magnitudes, magnitudes.size - count)[magnitudes.size - count]
    np.greater(magnitudes, threshold, out=keep)
    ties = np.flatnonzero(magnitudes == threshold)
    keep[ties[:count - np.count_nonzero(keep)]] = True
    return keep


def _equal_counts(sizes: Sequence[int], density: float) -> list[int]:
    """The same number of weights to keep in every slice that has as many: the one that is nearest to the density."""
    kept = [sum(min(size, number) for size in sizes) for number in range(max(sizes) + 1)]
    number = int(np.argmin(np.abs(np.array(kept) - density * sum(sizes))))
    return [min(size, number) for size in sizes]


def keep_mask(values: NDArray[Any], density: float, pes: int, groups: int = 1, balanced: bool = True,
              equal: bool = False) -> NDArray[np.bool_]:
    """Return the mask of the weights that stay.

    Parameters
    ----------
    values : array (rows, columns)
        The weights of one matrix.
    density : float
        The share of weights to keep in each slice.
    pes, groups : int
        The machine's PEs and column groups.
    balanced : bool
        False keeps the largest weights of the whole matrix: magnitude pruning, for comparison.
    equal : bool
        All slices keep the same number of weights, as far as they have as many: that nearest to the density. The
        machine is faster if slices differ in size; rows of small slices then stay denser than others.

    Returns
    -------
    bool (rows, columns)

    Raises
    ------
    PruneError
        If the density is not between 0 and 1, ``pes`` is not a multiple of ``groups``, or ``equal`` is not
        ``balanced``.
    """
    row_pes = _row_pes(pes, groups)
    if equal and not balanced:
        raise PruneError("pruning cannot be both equal for all PEs and unbalanced: leave one of the two out")
    density = _checked("a matrix", density)
    if not balanced:
        row_pes = groups = 1
    keep = np.zeros(values.shape, bool)
    places = [(slice(pe, None, row_pes), slice(group, None, groups))
              for pe in range(min(row_pes, values.shape[0])) for group in range(min(groups, values.shape[1]))]
    slices = [np.abs(values[place]).ravel() for place in places]
    sizes = [part.size for part in slices]
    counts = _equal_counts(sizes, density) if equal else [int(density * size) for size in sizes]
    for place, part, count in zip(places, slices, counts, strict=True):
        keep[place] = _keep_largest(part, count).reshape(keep[place].shape)
    return keep


def prune(model: Model, density: Density, pes: int, groups: int = 1, balanced: bool = True,
          equal: bool = False) -> Model:
    """Return a copy of ``model`` whose smallest weights are zero.

    Parameters
    ----------
    model : Model
    density : float or mapping
        The share of weights to keep; see `Density`. Each gate has its own matrices W_x and W_r.
    pes, groups, balanced, equal
        As for `keep_mask`.

    Raises
    ------
    PruneError
        If a density is not between 0 and 1, a name is unknown, or ``pes`` is not a multiple of ``groups``.
    """
    by_layer = densities([layer.name for layer in model.layers], density)

    def pruned(layer: Layer, tensor: str) -> FloatArray | None:
        values = getattr(layer, tensor)
        if values is None:
            return None
        kept = np.zeros_like(values)
        for before, after in zip(*(array if array.ndim == 3 else array[None] for array in (values, kept)), strict=True):
            keep = keep_mask(before, by_layer[layer.name][tensor], pes, groups, balanced, equal)
            np.copyto(after, before, where=keep)
        kept.setflags(write=False)
        return kept

    layers = []
    for layer in model.layers:
        if layer.is_identity:
            layers.append(layer)
            continue
        tensors: dict[str, Any] = {tensor: pruned(layer, tensor) for tensor in TENSORS}
        layers.append(dataclasses.replace(layer, **tensors))
    return dataclasses.replace(model, layers=tuple(layers))


def slice_counts(values: NDArray[Any], pes: int, groups: int = 1) -> NDArray[np.int64]:
    """Return the number of non-zeros (pes // groups, groups) in each slice of a matrix (rows, columns)."""
    row_pes = _row_pes(pes, groups)
    counts = np.zeros((row_pes, groups), np.int64)
    rows, columns = np.nonzero(values)
    np.add.at(counts, (rows % row_pes, columns % groups), 1)
    return counts


def report(model: Model, pes: int, groups: int = 1) -> list[MatrixCounts]:
    """Return the number of non-zeros of each matrix, with the smallest and largest number on a PE."""
    rows = []
    for layer in model.layers:
        for matrix in layer.matrices():
            counts = slice_counts(matrix.values, pes, groups)
            shape = (matrix.values.shape[0], matrix.values.shape[1])
            rows.append(MatrixCounts(layer.name, matrix.label, shape, int(counts.sum()),
                                     int(counts.min()), int(counts.max())))
    return rows


def format_report(rows: list[MatrixCounts]) -> str:
    """Return the rows of `report` as a table."""
    lines = [f"{'layer':<12} {'matrix':<8} {'size':>10} {'non-zeros':>10} {'density':>8} "
             f"{'per PE, min..max':>17}"]
    for row in rows:
        size = f"{row.shape[0]}x{row.shape[1]}"
        lines.append(f"{row.layer:<12} {row.matrix:<8} {size:>10} {row.nonzeros:>10} {row.density:>8.2%} "
                     f"{row.smallest:>8}..{row.largest}")
    return "\n".join(lines)
