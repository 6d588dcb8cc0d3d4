# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""The blocks of the cycle model: the blocks of `rtl` that decide about time, without their data.

A block's ``step`` is one clock cycle. It reads the other blocks' registers as they were before the cycle.
"""

import enum
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openese.rtl.act_queue import ActQueue
from openese.rtl.array import PEArray
from openese.rtl.assemble import BEFORE, BEHIND, FIRST_ROWS, GRU_BEFORE, GRU_BEHIND, Assemble
from openese.rtl.broadcast import Broadcast
from openese.rtl.config import Config
from openese.rtl.elementwise import Kind, rows_ahead
from openese.rtl.fifo import Fifo
from openese.rtl.frames import FrameGuard
from openese.rtl.program import ACTIVATIONS, Opcode
from openese.rtl.ptr_read import PtrRead
from openese.rtl.spmat_read import SpmatRead, column_lead
from openese.rtl.spmv import SpMV
from openese.rtl.vector_memory import VectorMemory
from openese.sw.model.arrays import Int64Array
from openese.sw.model.quantized import TABLES
from openese.sw.pack.encode import EncodedMatrix, entries

__all__ = ["Activity", "ArrayModel", "AssembleModel", "BroadcastModel", "FrameInputModel", "FrameOutputModel",
           "Part", "part"]


class Activity(enum.IntEnum):
    """A PE's activity in a cycle; from EMPTY on, the reason why it has no column."""

    BUSY = 0
    """An entry is multiplied."""
    PADDING = 1
    """An entry that only bridges a gap passes."""
    HAZARD = 2
    """An entry waits for its accumulator."""
    DRAIN = 3
    """The accumulators are read out."""
    END = 4
    """The end of an operation passes."""
    PASS = 5
    """A streamed line passes that has entries for other PEs only."""
    STARVED = 6
    """The streamed line is not there yet."""
    EMPTY = 7
    """The column has no entry on this PE."""
    FULL = 8
    """No column was sent: the queue of another PE was full."""
    FOLLOW = 9
    """No column was sent: m or y was still being computed."""
    START = 10
    """No column was sent: the controller was between two operations."""
    ASSEMBLE = 11
    """No column was sent: the controller waited for Assemble to take its next instruction."""
    OPERATIONS = 12
    """No column was sent: too many operations were under way."""
    OUTPUT = 13
    """No column was sent: the controller waited for the previous frame to be sent."""
    FRAME = 14
    """No column was sent: the controller waited for a frame."""

Int32Array = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Part:
    """A MULTIPLY from the PEs' side.

    A PE's items are its entries, the streamed lines that only pass, and the end of the operation.

    Attributes
    ----------
    lengths : int64 (pes,)
        Items of each PE.
    last : int64 (pes,)
        Items of the operation's end: the end itself, and the lines that pass before it.
    pe, place : int32 (items,)
        The PE of an item, and its place among the PE's items.
    address : int32 (items,)
        The item's accumulator, counted from the base, or the complement of its `Activity`.
    tokens, columns : int32 (items,)
        Tokens and columns that the PE has taken from its ActQueue when it begins with the item.
    counts : int64 (slots, pes)
        The pointers.
    lines : list of int (slots,)
        Lines of the vector memory that must be written before a slot is sent.
    """

    lengths: Int64Array
    last: Int64Array
    pe: Int32Array
    place: Int32Array
    address: Int32Array
    tokens: Int32Array
    columns: Int32Array
    counts: Int64Array
    lines: list[int]


def part(matrix: EncodedMatrix, instruction: dict[str, Any], config: Config) -> Part:
    """The `Part` of a MULTIPLY ``instruction`` of ``matrix``."""
    counts = matrix.counts
    used = counts > 0
    listed = entries(matrix, config)
    columns = np.cumsum(used, axis=0, dtype=np.int32)[listed.slot, listed.pe]
    phase = (columns - 1) % (instruction["phase_last"] + 1)
    address = phase * instruction["phase_stride"] + listed.row
    address[listed.weight == 0] = ~Activity.PADDING

    # Behind a PE's entries come the streamed lines that only pass, and the end.
    lengths, total = counts.sum(axis=0), used.sum(axis=0)
    last = instruction.get("entry_lines", lengths) - lengths + 1
    pe = np.repeat(np.arange(config.pes), last)
    behind = np.arange(len(pe)) - np.repeat(np.cumsum(last) - last, last)
    is_end = behind == last[pe] - 1
    where = np.cumsum(lengths)[pe]
    lines = np.maximum(matrix.order, 0).max(axis=1) // config.groups + 1
    return Part(
        lengths=lengths + last, last=last,
        pe=np.insert(listed.pe.astype(np.int32), where, pe),
        place=np.insert(listed.line.astype(np.int32), where, lengths[pe] + behind),
        address=np.insert(address.astype(np.int32), where, np.where(is_end, ~Activity.END, ~Activity.PASS)),
        tokens=np.insert(columns, where, total[pe] + is_end), columns=np.insert(columns, where, total[pe]),
        counts=counts, lines=lines.tolist())


class ArrayModel:
    """PtrRead, ActQueue, SpmatRead and SpMV of all PEs.

    A PE is one pipeline, from the fetch of an entry to the read of its accumulator. It moves as a whole or not at all.
    Its stages hold the address of an accumulator, or the complement of an `Activity`.

    Attributes
    ----------
    activity : list of int64 (pes,)
        The stage at the accumulators in each cycle.
    completed : int
        Operations whose end has passed all PEs.
    passed : int
        Streamed lines that have passed all PEs.
    """

    def __init__(self, config: Config) -> None:
        pes = config.pes
        none = np.zeros(pes, np.int64)
        self._limit, self._lead, self._waits = ActQueue.limit(config), column_lead(config), not config.forward
        # By PE and item: the item's address, and the tokens and columns that the PE has taken before it.
        self._address = np.zeros((pes, 1), np.int32)
        self._tokens = np.zeros((pes, 1), np.int32)
        self._columns = np.zeros((pes, 1), np.int32)
        self._offsets = self._offsets_taken = np.arange(pes)
        self._stored = none
        # Items of columns that have arrived; items fetched, after each of the pipeline's last moves.
        self._waiting = none
        self._fetched = [none] * (SpmatRead.delay + 1)
        self._tokens_in, self._columns_in, self._ends_in = none, none, 0
        self._columns_late = deque([none] * self._lead)
        self._highest = 0
        self._pipeline = [none + ~Activity.START] * (SpmatRead.delay + SpMV.delay - SpMV.latency)
        #: The stage at which an operation's end counts: that at the accumulators, or with `forward` one before.
        self._ending = SpmatRead.delay - 1 - PEArray.join_delay(config) if config.forward else -1
        # Accumulators whose new value is not back yet.
        self._nowhere = none + ~Activity.BUSY
        self._under_way = [self._nowhere] * (SpMV.latency - 1)
        self._ends = none
        self._last: deque[Int64Array] = deque()
        self._lines = self._read_lines = none
        self.completed = self.passed = 0
        self.activity: list[Int64Array] = []

    def append(self, added: Part, base: int) -> None:
        """Append the items of the next operation, whose accumulators begin at ``base``."""
        gone = int(self._fetched[-1].min())
        tokens = self._tokens.take(self._offsets_taken + self._stored)
        columns = self._columns.take(self._offsets_taken + self._stored)
        stored = self._stored - gone
        pes, width = len(stored), int((stored + added.lengths).max())
        address = np.where(added.address < 0, added.address, added.address + base)

        def extended(items: Int32Array, ahead: int, values: Int32Array) -> Int32Array:
            result = np.zeros((pes, ahead + width), np.int32)
            result[:, :items.shape[1] - gone] = items[:, gone:]
            result[added.pe, ahead + stored[added.pe] + added.place] = values
            return result

        self._address = extended(self._address, 0, address)
        self._tokens = extended(self._tokens, 1, added.tokens + tokens[added.pe])
        self._columns = extended(self._columns, 1, added.columns + columns[added.pe])
        self._last.append(added.last)
        self._fetched = [count - gone for count in self._fetched]
        self._stored = stored + added.lengths
        self._offsets, self._offsets_taken = np.arange(pes) * width, np.arange(pes) * (width + 1)

    def arrive(self, counts: Int64Array | None) -> None:
        """A column with these pointers, or for None an operation's end, arrives in the ActQueues."""
        if counts is None:
            self._waiting = self._waiting + self._last.popleft()
            self._tokens_in = self._tokens_in + 1
            self._ends_in += 1
        else:
            used = counts > 0
            self._waiting = self._waiting + counts
            self._tokens_in = self._tokens_in + used
            self._columns_in = self._columns_in + used
        self._highest += 1

    def full(self) -> bool:
        """Whether any ActQueue is at its limit."""
        self._columns_late.append(self._columns_in)
        arrived = self._columns_late.popleft()
        limit = self._limit - self._lead
        if self._highest < limit:  # no level has risen by more than what has arrived
            return False
        tokens = self._tokens_in - self._tokens.take(self._offsets_taken + self._fetched[0])
        taken = self._columns.take(self._offsets_taken + self._fetched[-1])
        self._highest = int(np.maximum(tokens, self._columns_in - taken).max())
        return bool(tokens.max() >= self._limit or (arrived - taken).max() >= limit)

    @property
    def moves(self) -> bool:
        """Whether anything was at the accumulators of any PE in the last cycle, be it a drain."""
        items = self.activity[-1]
        return bool((items >= ~Activity.PASS).any())

    def step(self, cause: Activity, drain: int | None, written: int | None) -> None:
        """One cycle.

        ``cause`` is the reason why a PE has no token, ``drain`` the accumulator that is drained, ``written`` the number
        of streamed lines in the memory.
        """
        at_read, ending = self._pipeline[-1], self._pipeline[self._ending]
        if drain is not None:
            self._read(np.full_like(at_read, drain), np.full_like(at_read, ~Activity.DRAIN))
            return
        first, *others = self._under_way
        waits = at_read == first
        for addresses in others:
            waits = waits | (at_read == addresses)
        reads = np.maximum(at_read, self._nowhere)
        if self._waits and waits.any():
            self._move(cause, ~waits, written)
            self._read(np.where(waits, self._nowhere, reads), np.where(waits, ~Activity.HAZARD, at_read))
        else:
            self._move(cause, None, written)
            self._read(reads, at_read)
        if self.completed != self._ends_in:
            ends = self.activity[-1] if self._waits else ending
            self._ends = self._ends + (ends == ~Activity.END)
            self.completed = int(self._ends.min())

    def _read(self, addresses: Int64Array, activity: Int64Array) -> None:
        self._under_way = [addresses, *self._under_way[:-1]]
        self.activity.append(activity)

    def _move(self, cause: Activity, go: NDArray[np.bool_] | None, written: int | None) -> None:
        """Fetch waiting items, and move the pipelines in the mask ``go``, or all."""
        fetched = self._fetched[0]
        fetches = self._waiting > 0
        item = np.where(fetches, self._address.take(self._offsets + fetched, mode="clip"), ~cause)
        if written is not None:
            is_line = fetches & (item != ~Activity.END)
            lacks = is_line & (self._lines >= written)
            if lacks.any():
                item = np.where(lacks & (item != ~Activity.PASS), ~Activity.STARVED, item)
                fetches, is_line = fetches & ~lacks, is_line & ~lacks
            # A line is read when the entry behind it has its turn.
            self._read_lines = self._lines if go is None else np.where(go, self._lines, self._read_lines)
            self._lines = self._lines + (is_line if go is None else is_line & go)
            self.passed = int(self._read_lines.min())
        if go is None:
            self._pipeline = [item, *self._pipeline[:-1]]
            self._fetched = [fetched + fetches, *self._fetched[:-1]]
        else:
            fetches = fetches & go
            self._pipeline = _moved(self._pipeline, item, go)
            self._fetched = _moved(self._fetched, fetched + fetches, go)
        self._waiting = self._waiting - fetches


def _moved(stages: list[Int64Array], first: Int64Array, go: NDArray[np.bool_]) -> list[Int64Array]:
    return [np.where(go, before, stage) for before, stage in zip([first, *stages], stages, strict=False)]


class BroadcastModel:
    """Broadcast, and the pipeline to the ActQueues."""

    #: Cycles from the sending of a column to its arrival in the ActQueues.
    delay = Broadcast.delay - 1 - Broadcast.turns + PEArray.input_delay + PtrRead.delay + ActQueue.delay

    def __init__(self) -> None:
        self._part: Part | None = None
        self._follow = self.of_frame = False
        self._index = 0
        self._turns: list[int | None] = [None] * Broadcast.turns

    @property
    def busy(self) -> bool:
        """Whether the end of an operation has not been sent yet."""
        return self._part is not None

    def start(self, operation: Part, follow: bool, of_frame: bool) -> None:
        """Send the columns of an operation from the next cycle on; with ``follow`` those of the frame that comes in, or
        of the vector that is computed.
        """
        self._part, self._follow, self.of_frame, self._index = operation, follow, of_frame, 0

    def step(self, full: bool, lines_done: float) -> tuple[Activity | None, Int64Array | None]:
        """One cycle; returns EMPTY for a column or an end, the reason of a wait, or None; and the column's pointers."""
        if self._part is None:
            return None, None
        turn, end = self._turns[-1], len(self._part.lines)
        if full:
            waiting = any(index is not None for index in self._turns)
            return (Activity.FULL if waiting else None), None
        if self._follow and turn is not None and turn < end and self._part.lines[turn] > lines_done:
            return Activity.FOLLOW, None
        self._turns = [self._index if self._index <= end else None, *self._turns[:-1]]
        self._index += 1
        if turn is None:
            return None, None
        if turn == end:
            self._part = None
            return Activity.EMPTY, None
        return Activity.EMPTY, self._part.counts[turn]


@cache
def _timing(config: Config) -> Assemble:
    return Assemble(config)


class AssembleModel:
    """Assemble. After an instruction has begun, nothing stalls it.

    Attributes
    ----------
    lines_done, lines_readable : int
        Lines that are written; and those of which columns may be sent.
    drained : list of int
        Cycles in which it drained accumulators.
    begun : list of (int, int)
        By instruction: its opcode, and the cycle in which it began.
    spans : list of (int, int)
        By instruction: the cycle of its first drain, and the cycle after its last write.
    """

    def __init__(self, config: Config) -> None:
        self._beats, self._lead = config.beats, column_lead(config)
        # Whether what an operation leaves for the next can be read two cycles later, instead of one.
        self._late = config.beats == 1 and not config.forward
        self._sums_first = config.forward
        self._rows = config.accumulator_rows
        self._timing = _timing(config)
        self._lines, self._row_writes = config.write_lines, config.row_writes
        self._rows_ahead = rows_ahead(config)
        self._instruction: dict[str, Any] | None = None
        self._base = self._target = self._free = 0
        self._drains: deque[tuple[int, int]] = deque()
        self._writes: deque[int] = deque()
        self._written = False
        self.lines_done = self.lines_readable = 0
        self.drained: list[int] = []
        self.begun: list[tuple[Opcode, int]] = []
        self.spans: list[tuple[int, int]] = []

    def busy(self, cycle: int) -> bool:
        """Whether an instruction is under way."""
        return self._instruction is not None or cycle < self._free

    def start(self, instruction: dict[str, Any], base: int, target: int) -> None:
        """Take an instruction on the accumulators from ``base``, to begin after ``target`` operations."""
        self._instruction, self._base, self._target = instruction, base, target
        self._written = False
        self.lines_done = self.lines_readable = 0

    def clear(self, cycle: int) -> None:
        """Clear all accumulators."""
        first = cycle + 2 + self._timing.turn_delay
        self._drains.extend((first + row, row) for row in range(self._rows))
        self._free = cycle + 2 + self._rows
        self.spans.append((first, first + self._rows))

    def step(self, cycle: int, completed: int) -> None:
        """Begin the waiting instruction if enough operations have ``completed``."""
        if self._instruction is not None and completed >= self._target:
            self.begun.append((self._instruction["opcode"], cycle))
            self._lay_out(self._instruction, cycle)
            self._instruction = None

    def _lay_out(self, instruction: dict[str, Any], cycle: int) -> None:
        """Lay out all operations from ``cycle`` on: see `openese.rtl.assemble.Assemble`."""
        timing, rows = self._timing, instruction["rows"]
        dense = bool(instruction.get("dense"))
        project = dense or instruction["opcode"] == Opcode.PROJECT
        table = dense and ACTIVATIONS[instruction["activation"]] in TABLES
        gru = bool(instruction.get("gru"))
        parts: tuple[tuple[Kind, ...], ...] = (GRU_BEFORE, GRU_BEHIND) if gru else (BEFORE, BEHIND)
        if project:
            parts = (), (Kind.PROJECTION,)
        elif instruction.get("reset_before"):
            parts = (), (Kind.R,) if instruction.get("resets") else GRU_BEHIND
        before, behind = (deque((row, kind) for row in range(rows) for kind in kinds) for kinds in parts)
        leaves: dict[Kind | None, str]
        leaves = {Kind.N_X: "behind"} if gru else {Kind.G: "before", Kind.I: "before", Kind.CELL_TANH: "behind"}
        waiting: deque[int] = deque()  # the cycles from which on a row's c, or r . n_h, can be read
        earliest = cycle
        last: Kind | None = None
        while behind:
            number, kind = behind[0]
            hazard = leaves.get(last) if self._late else None
            begins = len(parts[1]) > 1 and kind is parts[1][0]
            waits = begins and bool(parts[0])
            is_ready = bool(waiting) and waiting[0] <= cycle if waits else begins or earliest <= cycle
            held_up = gru and bool(before) and before[0][0] - number == self._rows_ahead
            can_before = bool(before) and hazard != "before" and not held_up
            lets_go = self._sums_first and waits and number >= FIRST_ROWS and can_before
            if is_ready and hazard != "behind" and not lets_go:
                row, kind = behind.popleft()
                if waits:
                    waiting.popleft()
            elif can_before:
                row, kind = before.popleft()
            else:
                last, cycle = None, cycle + 1
                continue
            if kind is Kind.CELL_TANH:
                phases = 1
            else:
                phases = instruction["phase_last"] + 1
                address = self._base + (row if project else 4 * row + kind)
                self._drains.extend((cycle + phase * self._beats + timing.turn_delay,
                                     address + phase * instruction["phase_stride"]) for phase in range(phases))
            at_last = cycle + (phases - 1) * self._beats
            if parts[0] and kind is parts[0][-1]:
                waiting.append(at_last + (timing.r_delay if gru else timing.c_delay))
            elif kind is parts[1][-1]:
                earliest = cycle + timing.spacing
                first = at_last + timing.write_delay(kind, table)
                self._writes.extend(range(first, first + self._row_writes))
            last, cycle = kind, at_last + self._beats
        self._free = self._writes[-1] + 2
        self.spans.append((self._drains[0][0], self._writes[-1] + 1))

    def drains(self, cycle: int) -> int | None:
        """The accumulator that is drained in this cycle, or None."""
        if not self._drains or self._drains[0][0] != cycle:
            return None
        self.drained.append(cycle)
        return self._drains.popleft()[1]

    def writes(self, cycle: int) -> bool:
        """Whether a line is written in this cycle. Call it once a cycle, before the lines are read."""
        self.lines_done += self._written * self._lines
        self._written = bool(self._writes) and self._writes[0] == cycle
        if self._written:
            self._writes.popleft()
        coming = sum(write <= cycle + self._lead for write in islice(self._writes, self._lead))
        self.lines_readable = self.lines_done + (self._written + coming) * self._lines
        return self._written


class FrameInputModel:
    """FrameInput, behind a queue. Frames are offered from given cycles on, a beat a cycle. ``beats`` are those of each
    frame, without its header; ``parts`` and ``lines`` are the beats of a write of all banks, and its lines.

    Attributes
    ----------
    offered : list of int
        By frame that has begun: the cycle from which on it was offered.
    partial : bool
        The frame that was taken is still coming in.
    lines_readable : float
        Its lines of which columns may be sent; all if it is not ``partial``.
    """

    def __init__(self, offered: Iterator[int], beats: Iterator[int], parts: int, lines: int) -> None:
        self._frames = offered
        self._beats = beats
        self._parts, self._lines = parts, lines
        self._next = next(offered, None)
        self._left = self._received = self._complete = self._occupied = 0
        self.partial = False
        self.lines_readable = math.inf
        self.offered: list[int] = []

    @property
    def ready(self) -> bool:
        """Whether there is a complete frame."""
        return self._complete > 0

    @property
    def coming(self) -> bool:
        """Whether there is none, but one that can be taken is coming in."""
        return self._left > 0 and not self._complete and not self.partial

    @property
    def busy(self) -> bool:
        """Whether a frame is coming in."""
        return self._left > 0

    def take(self) -> None:
        """The step of the oldest frame begins."""
        self.partial = not self._complete
        self._complete -= not self.partial

    def release(self) -> None:
        """The columns of the oldest frame are not needed any more."""
        self._occupied -= 1

    def step(self, cycle: int, hold: bool) -> bool:
        """One cycle, in which the write port may be taken (``hold``); returns whether a frame completes."""
        partial, was_coming = self.partial, self._left > 0
        self._left -= was_coming and not hold
        self._received += was_coming and not hold
        self.lines_readable = self._received // self._parts * self._lines if partial else math.inf
        if was_coming:
            if self._left:
                return False
            self._complete += not partial
            self._occupied += 1
            self.partial = False
            return True
        if self._next is not None and self._next + Fifo.delay <= cycle and self._occupied < 2:
            self.offered.append(self._next)
            self._next = next(self._frames, None)
            self._left, self._received = next(self._beats), 0
        return False


class FrameOutputModel:
    """FrameOutput and FrameGuard. The receiver takes a beat every cycle.

    Attributes
    ----------
    spans : list of (int, int)
        By frame: the cycle of its first beat, and the cycle after its last.
    """

    def __init__(self, config: Config) -> None:
        self._parts, self._lines = config.write_columns // config.beat_columns, config.write_lines
        self._state = "IDLE"
        self._left = self._index = self._level = self._first = 0
        self._complete = False
        self._header = False
        self._reads = [False] * VectorMemory.delay
        self._landed = False
        self.spans: list[tuple[int, int]] = []

    @property
    def busy(self) -> bool:
        """Whether there are beats left to read."""
        return self._state != "IDLE"

    def start(self, beats: int, complete: bool) -> None:
        """Send a header and ``beats`` beats, whose columns may be ``complete`` already."""
        self._state, self._left, self._index, self._complete = "HEADER", beats, 0, complete

    def step(self, cycle: int, complete: bool, lines_done: int, writes: bool, grant: bool) -> None:
        """One cycle.

        ``complete``: all columns are written; ``lines_done``: the number of lines that are; ``writes``: the next
        are being written; ``grant``: the broadcast leaves the read port free.
        """
        if self._state == "IDLE":
            return
        room = self._level + sum(self._reads) + self._header + self._landed < FrameGuard.depth - 1
        line = self._index // self._parts * self._lines
        reading = self._state == "READ" and room
        read = reading and grant and (self._complete or line < lines_done)
        take = (reading and writes and not self._complete and line == lines_done and self._parts == 1
                and not any(self._reads) and not self._header)
        arrives, self._landed = self._landed, self._header or self._reads[-1] or take
        self._complete |= complete
        self._header = self._state == "HEADER"
        if self._header:
            self._state, self._first = "READ", cycle + 2 + FrameGuard.delay
        self._left -= read or take
        self._index += read or take
        if self._state == "LAND" and not any(self._reads):
            self._state = "IDLE"  # and the last beat lands
            self.spans.append((self._first, cycle + 1 + FrameGuard.delay))
        elif (read or take) and not self._left:
            self._state = "LAND"
        self._reads = [read, *self._reads[:-1]]
        self._level += arrives - (self._level > 0)
