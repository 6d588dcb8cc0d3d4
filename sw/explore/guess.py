# SPDX-License-Identifier: Apache-2.0
"""What a network needs of a machine, by arithmetic alone: which candidates are worth the cycle model.

Counts of weights are exact, since pruning leaves every PE its share. Memories are what the schedule takes, without the
zeros that pad the weights. Cycles are those that nothing can hide.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from openese.rtl.config import Config
from openese.sw.model.layers import DENSE, GRU, Layer, Model
from openese.sw.pack.schedule import PHASES

__all__ = ["Guesses", "Work"]

# Cycles, at least: from a read of sums to a line of y, with a table and without; from a cell's first gates to those
# that need its state; from a line of y to the first product of its columns. `forward` saves some of the last.
_TABLE, _PLAIN, _STATE, _READ, _FORWARDED = 24, 11, 16, 14, 5


@dataclass(frozen=True)
class Work:
    """The work of one model on the PEs of a machine.

    Attributes
    ----------
    lines : tuple of dict
        By layer, for each of its tensors the weights of the fullest PE.
    total : int
        Weights of the fullest PE over all matrices.
    """

    lines: tuple[Mapping[str, int], ...]
    total: int


class Guesses:
    """Guesses for the models of a network.

    Parameters
    ----------
    models : sequence of `Model`
        One for each image.
    """

    def __init__(self, models: tuple[Model, ...]) -> None:
        self._models = models
        self._nonzeros = {(number, position, tensor, gate): np.asarray(matrix) != 0
                          for number, model in enumerate(models) for position, layer in enumerate(model.layers)
                          for tensor, gate, matrix in layer.matrices()}
        self.work = cache(self._work)

    def _work(self, row_pes: int, groups: int, density: float) -> tuple[Work, ...]:
        """The work of each model, at a density; 1 prunes nothing."""
        found = []
        for number, model in enumerate(self._models):
            lines, total = [], np.zeros((row_pes, groups), np.int64)
            for position, layer in enumerate(model.layers):
                of_layer: dict[str, NDArray[np.int64]] = {}
                for tensor, gate, _ in layer.matrices():
                    kept = _kept(self._nonzeros[number, position, tensor, gate], row_pes, groups, density)
                    matrix = "w_rn" if (tensor, gate) == ("w_r", "n") and not layer.reset_after else tensor
                    of_layer[matrix] = of_layer.get(matrix, 0) + kept
                    total += kept
                lines.append({tensor: int(counts.max()) for tensor, counts in of_layer.items()})
            found.append(Work(tuple(lines), int(total.max())))
        return tuple(found)

    def needs(self, config: Config, density: float) -> dict[str, int]:
        """By capacity field, what the network needs; of accumulators the least."""
        each = [_needs(model, work, config) for model, work in zip(
            self._models, self.work(config.row_pes, config.groups, density), strict=True)]
        return {name: max(needs[name] for needs in each) for name in each[0]}

    def accumulators(self, config: Config, at_rest: bool) -> list[int]:
        """Numbers of accumulators that are worth a try.

        With few of them `W_r` y waits for the frame, and a row's sums wait for each other. At rest this takes much
        longer, so few are not tried. With ``forward`` no sum waits, so more than one for each row are not tried either.
        """
        least = ahead = 0
        for model in self._models:
            gates, rest = _sums(model, config)
            least = max(least, 2 * max(gates) + rest)
            ahead = max(ahead, sum(gates) + gates[-1] + rest)
        ahead = max(least, ahead)
        if config.forward:
            return [ahead] if at_rest else sorted({least, ahead})
        return sorted({2 * ahead, PHASES * ahead} if at_rest else {least, ahead, PHASES * ahead})

    def steady(self, config: Config, density: float) -> float:
        """Cycles of a step through all images in steady state, at least."""
        total = 0.0
        for model, work in zip(self._models, self.work(config.row_pes, config.groups, density), strict=True):
            array, loops = 0, []
            parts: list[tuple[_Part, int]] = []
            for layer, lines in zip(model.layers, work.lines, strict=True):
                products = _products(layer, lines, config)
                own = [(part, products[part.tensor]) for part in _parts(layer)]
                array += sum(products.values()) + sum(part.sums(config) for part, _ in own)
                if "w_r" in products:  # it waits for y, and the layer's next step for it
                    loops.append(_follow([*own, (own[0][0], products["w_r"])], config))
                parts += own
            total += max(array, _follow(parts, config) + parts[-1][0].busy(config), *loops)
        return total

    def at_rest(self, config: Config, density: float) -> float:
        """Cycles from a frame to its answer through all images, at least."""
        total = 0.0
        for model, work in zip(self._models, self.work(config.row_pes, config.groups, density), strict=True):
            parts = []
            for layer, lines in zip(model.layers, work.lines, strict=True):
                products = _products(layer, lines, config)
                parts += [(part, products[part.tensor]) for part in _parts(layer)]
            total += parts[0][1] + _follow(parts, config) + parts[-1][0].until(0, config)
        return total


class _Part(NamedTuple):
    """An element-wise part of a layer, behind the product of ``tensor``: for each row so many operations.

    ``drains`` of them read sums. With ``states``, the last two wait for the others.
    """

    tensor: str
    size: int
    operations: int
    drains: int
    table: bool = True
    states: bool = False

    def sums(self, config: Config) -> int:
        """Accumulators that it reads, for one phase."""
        return _rows(self.size, config) * self.drains

    def until(self, product: int, config: Config) -> int:
        """Cycles from its first read of sums to that of the next part, whose ``product`` takes its lines."""
        read = _READ - _FORWARDED * config.forward
        return max(self._lines(max(product, -(-self.size // config.write_columns)), config) + read,
                   self.sums(config) + product, self._cells(config) + read)

    def busy(self, config: Config) -> int:
        """Cycles from its first read of sums to that of the next part, which does not wait for it."""
        return max(self._lines(_rows(self.size, config) * config.row_writes, config),
                   self._cells(config))

    def _lines(self, count: int, config: Config) -> int:
        """Cycles until its lines are there, written in so many cycles from the first on."""
        operations = (self.operations - 2) * config.beats + _STATE if self.states else 0
        return operations + (_TABLE if self.table else _PLAIN) + count

    def _cells(self, config: Config) -> int:
        """Cycles until all operations are done."""
        return _rows(self.size, config) * self.operations * config.beats + (_TABLE if self.table else _PLAIN)


def _parts(layer: Layer) -> list[_Part]:
    """The element-wise parts of a layer, in their order."""
    size = layer.w_x.shape[1]
    if layer.kind is DENSE:
        return [_Part("w_x", size, 1, 1, table=False)]
    if not layer.reset_after:
        return [_Part("w_x", size, 1, 1), _Part("w_rn", size, 2, 2)]
    cells = _Part("w_x", size, 4 if layer.kind is GRU else 5, 4, states=True)
    return [cells] if layer.w_ym is None else [cells, _Part("w_ym", layer.outputs, 1, 1, table=False)]


def _follow(parts: Sequence[tuple[_Part, int]], config: Config) -> int:
    """Cycles from the first part to the last, each of which waits for a product."""
    return sum(part.until(product, config) for (part, _), (_, product) in pairwise(parts))


def _products(layer: Layer, lines: Mapping[str, int], config: Config) -> dict[str, int]:
    """Cycles of a layer's products: a weight of each PE and a column of each group in a cycle."""
    return {tensor: max(each, -(-_columns(layer, tensor) // config.groups)) for tensor, each in lines.items()}


def _rows(size: int, config: Config) -> int:
    return -(-size // config.row_pes)


def _columns(layer: Layer, tensor: str) -> int:
    return {"w_x": layer.inputs, "w_r": layer.feedback}.get(tensor, layer.cells)


def _gate_rows(layer: Layer, config: Config) -> int:
    """Accumulators of a layer's gates, for one phase."""
    return (1 if layer.kind is DENSE else 4) * _rows(layer.w_x.shape[1], config)


def _sums(model: Model, config: Config) -> tuple[list[int], int]:
    """Accumulators of each layer's gates, and those of the largest projection and of dense layers at the end."""
    layers = model.layers
    tails = next((number for number, layer in enumerate(layers[::-1]) if layer.kind is not DENSE), 0)
    pivot = len(layers) - tails
    projected = max(_rows(layer.outputs, config) * (layer.w_ym is not None) for layer in layers)
    return ([_gate_rows(layer, config) for layer in layers[:pivot]],
            projected + sum(_gate_rows(layer, config) for layer in layers[pivot:]))


def _kept(nonzeros: NDArray[np.bool_], row_pes: int, groups: int, density: float) -> NDArray[np.int64]:
    """Weights of a matrix on each PE (row_pes, groups) after pruning, as `openese.sw.prune.keep_mask` leaves them."""
    rows, columns = nonzeros.shape
    height, width = -(-rows // row_pes), -(-columns // groups)
    padded = np.zeros((height * row_pes, width * groups), bool)
    padded[:rows, :columns] = nonzeros
    counts = padded.reshape(height, row_pes, width, groups).sum(axis=(0, 2), dtype=np.int64)
    if density == 1:
        return counts
    down = -(-(rows - np.arange(row_pes)) // row_pes)
    across = -(-(columns - np.arange(groups)) // groups)
    return np.minimum(counts, (density * (down[:, None] * across)).astype(np.int64))


def _needs(model: Model, work: Work, config: Config) -> dict[str, int]:
    groups, layers = config.groups, model.layers

    def lines(size: int) -> int:
        return -(-_rows(size, config) * config.row_pes // groups) * groups

    inner = [layer.kind is DENSE and layer is not layers[-1] for layer in layers]  # their y is neither kept nor sent
    m = sum(lines(layer.outputs if dense else layer.cells) for layer, dense in zip(layers, inner, strict=True)
            if dense or layer.w_ym is not None or not layer.reset_after)
    y = sum(lines(layer.outputs) for layer, dense in zip(layers, inner, strict=True) if not dense)
    gates, rest = _sums(model, config)
    return {
        "entry_depth": 0 if config.stream else sum(sum(held.values()) for held in work.lines),
        "column_depth": sum(-(-_columns(layer, tensor) // groups)
                            for layer, held in zip(layers, work.lines, strict=True) for tensor in held),
        "vector_depth": 2 * (-(-model.inputs // config.write_columns) * config.write_columns) + m + config.banks * y,
        "cell_rows": sum(-(-_rows(layer.outputs, config) // config.dense_rows) if layer.kind is DENSE
                         else _rows(layer.cells, config) for layer in layers),
        "accumulator_rows": 2 * max(gates) + rest,
    }
