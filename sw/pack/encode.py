# SPDX-License-Identifier: Apache-2.0
"""Interleaved compressed sparse columns: encodes a matrix as the PEs read it, and decodes it again.

Row ``r`` of a matrix is on PE row ``r % row_pes``; column ``j`` is in group ``j % groups``. A PE's part of a column is
a list of entries in the order of its local rows. An entry is a weight and the number of zero rows since the previous
entry. Padding entries of weight zero bridge a gap that is too long for this number (paper, section 4.1). Their number
counts in units of ``2**index_bits`` rows, so one bridges almost any gap. A pointer is the number of entries of a
column on a PE.

The local row is ``4 * (cell // row_pes) + gate`` for the stacked gates, and ``row // row_pes`` for a projection.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openese.rtl.config import Config
from openese.sw.model.arrays import Int64Array, IntArray
from openese.sw.model.quantized import weight_type

__all__ = ["EncodeError", "EncodedMatrix", "Entries", "encode", "decode", "entries", "column_order", "order_window"]


#: The least and the most columns among which `column_order` chooses once the PEs are at work.
ORDER_LEAST = 8
ORDER_WINDOW = 64

_BLOCK = 1 << 18  # entries encoded or decoded at a time
_NARROW = 1 << 31  # places that integers of 32 bits can number


def order_window(config: Config) -> int:
    """The most columns of a group among which a machine's order chooses: two rows of Assemble's output."""
    return min(ORDER_WINDOW, max(ORDER_LEAST, 2 * config.row_pes // config.groups))


class EncodeError(ValueError):
    """A matrix cannot be encoded, or an encoded matrix is not valid. The message says where."""


@dataclass(frozen=True, eq=False)
class EncodedMatrix:
    """One matrix, encoded for all PEs.

    Attributes
    ----------
    shape : tuple
        The matrix's: (4, H, columns) stacked gates, or (rows, columns).
    order : int64 (slots, groups)
        Column that each group gets in each slot, or -1 for none.
    counts : int64 (slots, pes)
        The pointers: entries of the slot's column on each PE.
    weights : int16 or int32 (lines, pes)
        The entries of each PE in order, in `weight_type`; zeros fill the rest.
    skips : int16 (lines, pes)
        The zero rows before each entry.
    lengths : int64 (pes,)
        Entries of each PE, padding included.
    nonzeros : int64 (pes,)
        Entries of each PE that are weights.
    """

    shape: tuple[int, ...]
    order: Int64Array
    counts: Int64Array
    weights: IntArray
    skips: NDArray[np.int16]
    lengths: Int64Array
    nonzeros: Int64Array

    @property
    def lines(self) -> int:
        """Lines of the weight memory: the entries of the PE with the most."""
        return len(self.weights)

    @property
    def padding(self) -> int:
        """Padding entries on all PEs."""
        return int(self.lengths.sum() - self.nonzeros.sum())


def _locate(matrix: NDArray[Any], config: Config) -> tuple[IntArray, IntArray, IntArray, NDArray[Any]]:
    """PE, local row, column and value of every non-zero, by PE, then column, then local row.

    Integers have 32 bits where the matrix has fewer than 2**31 places: `encode` holds many arrays of this size.
    """
    gates = matrix if matrix.ndim == 3 else matrix[None]
    stacked, rows, columns = gates.shape
    lanes, slots = -(-rows // config.row_pes), -(-columns // config.groups)
    padded = np.zeros((stacked, lanes * config.row_pes, slots * config.groups), matrix.dtype)
    padded[:, :rows, :columns] = gates
    # Group, PE row, column of the group, cell or row of the PE, gate.
    placed = padded.reshape(stacked, lanes, config.row_pes, slots, config.groups).transpose(4, 2, 3, 1, 0).reshape(-1)
    place: IntArray = np.flatnonzero(placed)
    values = placed[place]
    if placed.size < _NARROW:
        place = place.astype(np.int32)
    column, local = np.divmod(place, place.dtype.type(lanes * stacked))
    pe, column = np.divmod(column, place.dtype.type(slots))
    column *= config.groups
    column += pe // config.row_pes
    return pe, local, column, values


def column_order(counts: Int64Array, window: int = ORDER_WINDOW, first: int = 2) -> Int64Array:
    """An order of columns that keeps the PEs level, so shallow queues keep all of them busy.

    It is greedy. Among the ``window`` columns that have waited longest, the next is the one after which the PEs'
    numbers of entries so far differ least (sum of squares). The window keeps the order near the order in which columns
    are computed. It begins with ``first`` columns: later ones are sent early only if the PEs have work until they are
    computed, at one column a cycle. A PE has less than the mean; two standard deviations of a count are allowed for.

    Parameters
    ----------
    counts : int64 (columns, pes)
        Entries of each column on each PE.
    window, first : int

    Returns
    -------
    int64 (columns,)
        A permutation of the columns.
    """
    columns = len(counts)
    excess = counts - counts.mean(axis=1, keepdims=True)
    work = np.arange(columns) * (counts.mean() if counts.size else 0.0)
    reaches = first - 1 + np.maximum(np.arange(columns) + 1, work - 2 * np.sqrt(work)).astype(np.int64)
    norms = (excess * excess).sum(axis=1)
    level = np.zeros(counts.shape[1])
    waiting = np.arange(0)
    following = 0
    order = np.empty(columns, np.int64)
    for position in range(columns):
        reach = min(columns, position + window, int(reaches[position]))
        waiting = np.append(waiting, np.arange(following, reach))
        following = reach
        best = int(np.argmin(norms[waiting] + 2 * (excess[waiting] @ level)))
        column = waiting[best]
        order[position] = column
        level += excess[column]
        waiting = np.delete(waiting, best)
    return order


def encode(matrix: NDArray[Any], config: Config, balance: bool = True) -> EncodedMatrix:
    """Encode a matrix for all PEs.

    Parameters
    ----------
    matrix : integers (4, H, columns) or (rows, columns)
        Stacked gates i, f, g, o, or a projection.
    config : Config
        The machine.
    balance : bool
        Put the columns in `column_order`. Columns without entries are left out in any case.

    Returns
    -------
    EncodedMatrix

    Raises
    ------
    EncodeError
        A weight does not fit ``weight_bits``.
    """
    limit = 1 << (config.weight_bits - 1)
    if matrix.size and (matrix.max() >= limit or matrix.min() < -limit):
        worst = matrix.max() if matrix.max() >= limit else matrix.min()
        raise EncodeError(f"a weight of {worst} does not fit {config.weight_bits} bits")
    pe, local, column, values = _locate(matrix, config)
    columns = matrix.shape[-1]
    # The entries of a column on a PE are a run.
    first = np.ones(len(pe), bool)
    first[1:] = (pe[1:] != pe[:-1]) | (column[1:] != column[:-1])
    gap = local.copy()
    gap[1:] -= np.where(first[1:], 0, local[:-1] + 1)
    padding = _bridges(gap, config)
    starts = np.flatnonzero(first)
    counts = np.zeros((columns, config.pes), np.int64)
    nonzeros = np.zeros_like(counts)
    nonzeros[column[starts], pe[starts]] = np.diff(starts, append=len(pe))
    counts[column[starts], pe[starts]] = np.add.reduceat(padding, starts, dtype=np.int64)
    counts += nonzeros

    order = _slots(counts, config, balance)
    position = np.full(columns, -1, np.int64)
    for group in range(config.groups):
        used = order[:, group] >= 0
        position[order[used, group]] = np.flatnonzero(used)
    lengths = counts.sum(axis=0)
    weights = np.zeros((int(lengths.max()), config.pes), weight_type(config.weight_bits))
    skips = np.zeros(weights.shape, np.int16)
    keys = pe[starts].astype(np.int64) * columns + position[column[starts]]
    some = max(1, config.pes * _BLOCK // max(1, len(pe)))
    bounds = np.append(0, np.cumsum(nonzeros.sum(axis=0)))[[*range(0, config.pes, some), config.pes]]
    for begin, end in pairwise(bounds.tolist()):
        runs = slice(*np.searchsorted(starts, [begin, end]))
        by_slot = begin + _runs_in_order(starts[runs] - begin, end - begin, keys[runs])
        _fill(weights, skips, pe[by_slot], values[by_slot], gap[by_slot], padding[by_slot], config)
    return EncodedMatrix(matrix.shape, order, _slot_counts(counts, order, config), weights, skips, lengths,
                         nonzeros.sum(axis=0))


def _fill(weights: IntArray, skips: NDArray[np.int16], pe: IntArray, values: IntArray, gap: IntArray,
          padding: IntArray, config: Config) -> None:
    """Write all entries of some PEs, by PE and in the order of their addresses, each behind its padding."""
    line = np.cumsum(padding + 1)
    first = np.flatnonzero(np.diff(pe, prepend=-1))
    line -= np.repeat(line[first] - padding[first], np.diff(first, append=len(pe)))
    place = line * config.pes + pe
    weights.reshape(-1)[place] = values
    skips.reshape(-1)[place] = gap & ((1 << config.index_bits) - 1)
    # All bridges of a gap are full but the one in front of the weight.
    most = 1 << config.index_bits
    for behind in range(1, int(padding.max(initial=0)) + 1):
        bridge = padding >= behind
        left = (gap[bridge] >> config.index_bits) - (padding[bridge] - 1) * most
        skips.reshape(-1)[place[bridge] - behind * config.pes] = left - 1 if behind == 1 else most - 1


def _runs_in_order(starts: Int64Array, size: int, keys: Int64Array) -> Int64Array:
    """Indices that sort the runs of ``size`` entries by ``keys`` (runs,); runs begin at ``starts``."""
    lengths = np.diff(starts, append=size)
    order = np.argsort(keys)
    lengths, starts = lengths[order], starts[order]
    indices = np.arange(size)
    indices += np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
    return indices


def _bridges(gap: IntArray, config: Config) -> IntArray:
    """Padding entries in front of a weight after ``gap`` zero rows: each bridges up to ``4**index_bits``."""
    units = gap >> config.index_bits
    return -(-units >> config.index_bits)


def _slots(counts: Int64Array, config: Config, balance: bool) -> Int64Array:
    """The column (slots, groups) that each group takes in each slot."""
    orders = []
    for group in range(config.groups):
        columns = np.arange(group, len(counts), config.groups)
        pes = slice(group * config.row_pes, (group + 1) * config.row_pes)
        columns = columns[counts[columns, pes].any(axis=1)]
        if balance:
            columns = columns[column_order(counts[columns, pes], order_window(config), 1 if config.forward else 2)]
        orders.append(columns)
    order = np.full((max(map(len, orders)), config.groups), -1, np.int64)
    for group, columns in enumerate(orders):
        order[:len(columns), group] = columns
    return order


def _slot_counts(counts: Int64Array, order: Int64Array, config: Config) -> Int64Array:
    result = np.zeros((len(order), config.pes), np.int64)
    for group in range(config.groups):
        pes = slice(group * config.row_pes, (group + 1) * config.row_pes)
        used = order[:, group] >= 0
        result[used, pes] = counts[order[used, group], pes]
    return result


@dataclass(frozen=True, eq=False)
class Entries:
    """All entries of an encoded matrix, PE by PE in the order of their addresses.

    Attributes
    ----------
    pe, line : int64 (entries,)
        The place of an entry.
    slot : int64 (entries,)
        The slot of its column.
    row : int64 (entries,)
        Local row of a weight; for padding, the last row that it bridges.
    weight : int32 (entries,)
        Zero for padding.
    """

    pe: Int64Array
    line: Int64Array
    slot: Int64Array
    row: Int64Array
    weight: NDArray[np.int32]


def entries(encoded: EncodedMatrix, config: Config, pes: range | None = None) -> Entries:
    """The entries that the pointers of ``encoded`` count, of all PEs or of ``pes``.

    Raises
    ------
    EncodeError
        The pointers count more entries than there are.
    """
    pes = range(config.pes) if pes is None else pes
    counts = encoded.counts[:, pes.start:pes.stop].T
    lengths = counts.sum(axis=1)
    if lengths.max(initial=0) > encoded.lines:
        worst = int(lengths.argmax())
        raise EncodeError(f"PE {pes[worst]}: pointers name {lengths[worst]} entries, there are {encoded.lines}")
    pe = np.repeat(pes, lengths)
    line = np.arange(len(pe)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    slot = np.repeat(np.tile(np.arange(counts.shape[1]), len(pes)), counts.ravel())
    weight = encoded.weights[line, pe].astype(np.int32)
    advance = encoded.skips[line, pe].astype(np.int64) + 1
    position = np.cumsum(np.where(weight == 0, advance << config.index_bits, advance))
    sizes = counts[counts > 0]
    starts = np.cumsum(sizes) - sizes
    before = np.where(starts > 0, position[starts - 1], 0) if len(starts) else starts
    return Entries(pe, line, slot, position - np.repeat(before, sizes) - 1, weight)


def decode(encoded: EncodedMatrix, config: Config) -> IntArray:
    """The matrix, exactly as `encode` got it.

    Raises
    ------
    EncodeError
        Pointers and entries do not fit together, or an entry is outside of the matrix.
    """
    matrix = np.zeros(encoded.shape, encoded.weights.dtype)
    some = max(1, _BLOCK // max(1, encoded.lines))
    for first in range(0, config.pes, some):
        _write(matrix, encoded, entries(encoded, config, range(first, min(first + some, config.pes))), config)
    return matrix


def _write(matrix: IntArray, encoded: EncodedMatrix, listed: Entries, config: Config) -> None:
    """Write the weights among some entries of a matrix into it."""
    real = listed.weight != 0
    pe, local, weight = listed.pe[real], listed.row[real], listed.weight[real]
    column = encoded.order[listed.slot[real], pe // config.row_pes]
    gates = matrix.ndim == 3
    row = (local >> 2 if gates else local) * config.row_pes + pe % config.row_pes
    wrong = np.flatnonzero((row >= encoded.shape[-2]) | (column < 0) | (column >= encoded.shape[-1]))
    if len(wrong):
        raise EncodeError(f"PE {pe[wrong[0]]}: an entry lies outside of the {encoded.shape} matrix")
    if gates:
        matrix[local & 3, row, column] = weight
    else:
        matrix[row, column] = weight
