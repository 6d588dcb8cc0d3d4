# SPDX-License-Identifier: Apache-2.0
"""The cycle model: what every PE does in each cycle, and why it waits.

The model walks the same `openese.sw.pack.schedule.Schedule` as the machine, cycle by cycle and block by block. It keeps
only the values that decide about time: columns and their pointers, addresses of accumulators, levels of queues. All
PEs are one numpy array. The latencies come from the blocks of `rtl`, so the counters agree with the machine's to the
cycle, as the tests check.

The model assumes that the receiver of frames is always ready, and that frames come in at a beat a cycle.
"""

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count, pairwise, repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openese.rtl.array import PEArray
from openese.rtl.controller import Controller
from openese.rtl.frames import frame_beats
from openese.rtl.interfaces import BLOCKS, MAX_OPERATIONS
from openese.rtl.program import Kin, Opcode, Source, Take
from openese.rtl.spmat_read import SpmatRead, column_lead
from openese.rtl.spmv import SpMV
from openese.rtl.weight_stream import StreamFetch, StreamReader
from openese.sw.cycles.blocks import (
    Activity,
    ArrayModel,
    AssembleModel,
    BroadcastModel,
    FrameInputModel,
    FrameOutputModel,
    Part,
    part,
)
from openese.sw.cycles.stream import Memory, StreamModel, routine, skipped
from openese.sw.model.arrays import Int64Array
from openese.sw.pack.schedule import Schedule

__all__ = ["MEMORY", "PATIENCE", "READY", "Activity", "Memory", "Span", "StuckError", "Timeline", "Estimate",
           "simulate", "estimate", "at_rest"]


#: From this cycle on the controller waits for a first frame.
READY = 16

#: The default memory for streamed weights.
MEMORY = Memory()

#: Cycles without a move, beyond the latency of the memory, after which the model takes the machine for stuck.
PATIENCE = 10_000

_BLOCK = 4096  # cycles converted at a time


class StuckError(RuntimeError):
    """Nothing moves any more though work is under way. The message says in which cycle, and what waits for what."""


@dataclass(frozen=True)
class Span:
    """The cycles of one instruction.

    Attributes
    ----------
    instruction : int
        Its number in ``Schedule.instructions``.
    step : int
        Frames that were taken before its issue.
    label : str
        Its work and the number of the layer: ``"w_x 0"``, ``"elementwise 1"``, ...
    issued : int
        The cycle in which the controller started it.
    start, stop : int
        The first cycle of its work, and the cycle after the last. MULTIPLY works from the first entry on any PE until
        all PEs have passed the end; ELEMENTWISE and PROJECT from the first drain until the last column is written;
        OUTPUT from the first beat until the last is taken.
    """

    instruction: int
    step: int
    label: str
    issued: int
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class Timeline:
    """The machine's work, cycle by cycle.

    Attributes
    ----------
    plan : Schedule
    activity : uint8 (cycles, pes)
        `Activity` of each PE.
    broadcast : uint8 (cycles,)
        EMPTY if a column or an end was sent in the cycle, else the `Activity` with the reason for the wait.
    drained : int64 (drains,)
        Cycles in which Assemble drained accumulators.
    spans : tuple of Span
        The finished instructions in the order of their issue.
    begun, computed : tuple of int
        By step: the cycle in which its first element-wise part began, and the cycle in which its OUTPUT was issued.
    offered, sent : tuple of int
        By frame: the cycle in which its first beat was offered, and the cycle after its last beat was taken.
    """

    plan: Schedule
    activity: NDArray[np.uint8]
    broadcast: NDArray[np.uint8]
    drained: Int64Array
    spans: tuple[Span, ...]
    begun: tuple[int, ...]
    computed: tuple[int, ...]
    offered: tuple[int, ...]
    sent: tuple[int, ...]

    @property
    def cycles(self) -> int:
        """The number of cycles."""
        return len(self.activity)

    @property
    def latencies(self) -> list[int]:
        """Cycles from the offer of each frame to the end of its output frame."""
        return [sent - offered for offered, sent in zip(self.offered, self.sent, strict=False)]

    def counters(self, start: int = 0, stop: int | None = None) -> dict[str, int]:
        """`openese.rtl.registers.COUNTERS` of the cycles from ``start`` to before ``stop``, without ``saturated``."""
        stop = self.cycles if stop is None else stop
        pes = np.bincount(self.activity[start:stop].ravel(), minlength=len(Activity))
        broadcast = np.bincount(self.broadcast[start:stop], minlength=len(Activity))
        return {
            "cycles": stop - start,
            "steps": sum(start <= cycle < stop for cycle in self.computed),
            "busy": int(pes[Activity.BUSY]),
            "padding": int(pes[Activity.PADDING]),
            "hazard": int(pes[Activity.HAZARD]),
            "starved": int(pes[Activity.STARVED]),
            "drain": int(((self.drained >= start) & (self.drained < stop)).sum()),
            "full": int(broadcast[Activity.FULL]),
            "follow": int(broadcast[Activity.FOLLOW]),
            "frame": int(broadcast[Activity.FRAME]),
            "output": 0,
        }

    def causes(self, start: int, stop: int) -> dict[str, Int64Array]:
        """By matrix label, cycles by `Activity` and PE, (len(Activity), pes), from ``start`` to before ``stop``."""
        labels = [span.label for span in self.spans if self._multiplies(span)]
        ends = self.activity == Activity.END
        ended = np.zeros((stop - start, ends.shape[1]), np.int32)
        np.cumsum(ends[start:stop - 1], axis=0, out=ended[1:])
        ended += np.count_nonzero(ends[:start], axis=0)
        pes = np.broadcast_to(np.arange(ended.shape[1]), ended.shape)
        result: dict[str, Int64Array] = {}
        for number in range(int(ended.min()), int(ended.max()) + 1):
            # An operation that has not finished has the label of the same operation of the last step that has.
            steps = -(-max(0, number + 1 - len(labels)) // self._operations())
            label = labels[number - steps * self._operations()]
            now = ended == number
            table = result.setdefault(label, np.zeros((len(Activity), ended.shape[1]), np.int64))
            np.add.at(table, (self.activity[start:stop][now], pes[now]), 1)
        return result

    def matrices(self, start: int, stop: int) -> dict[str, int]:
        """By matrix label, cycles of the operations that end in these cycles, each from the end of the one before."""
        result: dict[str, int] = {}
        before = 0
        for span in filter(self._multiplies, self.spans):
            if start < span.stop <= stop:
                result[span.label] = result.get(span.label, 0) + span.stop - before
            before = span.stop
        return result

    def _multiplies(self, span: Span) -> bool:
        return bool(self.plan.instructions[span.instruction]["opcode"] == Opcode.MULTIPLY)

    def _operations(self) -> int:
        """The number of operations of a step in steady state."""
        instructions = self.plan.instructions
        opcodes = [instruction["opcode"] for instruction in instructions]
        if self.plan.config.models == 1:
            begin = opcodes.index(Opcode.ELEMENTWISE)
            return opcodes[begin:opcodes.index(Opcode.JUMP, begin)].count(Opcode.MULTIPLY)

        def of(name: str) -> int:
            """The operations from a routine on to its turn."""
            begin = routine(instructions, self.plan.number, name)
            end = next(number for number in range(begin, len(opcodes)) if instructions[number].get("turn"))
            return opcodes[begin:end + 1].count(Opcode.MULTIPLY)

        return of("early") + of("late")


@dataclass(frozen=True, eq=False)
class Estimate:
    """The time of a model on a machine.

    Attributes
    ----------
    cycles_per_step : int
        In steady state, with frames always available.
    counters : dict
        `openese.rtl.registers.COUNTERS` of one step in steady state.
    matrices : dict
        By matrix label, the array's cycles in that step; the sum is ``cycles_per_step``.
    causes : dict
        By matrix label, cycles of that step by `Activity` and PE, (len(Activity), pes). The sum over labels and
        activities is ``cycles_per_step`` for each PE.
    spans : tuple of Span
        The instructions at work in that step. Cycle 0 is its first.
    plan : Schedule
    memory : Memory
        The source of streamed weights.
    """

    cycles_per_step: int
    counters: dict[str, int]
    matrices: dict[str, int]
    causes: dict[str, Int64Array]
    spans: tuple[Span, ...]
    plan: Schedule
    memory: Memory

    @cached_property
    def latency(self) -> int:
        """Cycles from the offer of a frame to the end of its output frame on a machine at rest.

        It is not the machine's first frame, and it starts no voice anew.
        """
        return at_rest(self.plan, self.memory)

    @property
    def idle(self) -> Int64Array:
        """Cycles of the step by `Activity` and PE, (len(Activity), pes)."""
        return np.sum(list(self.causes.values()), axis=0)

    @property
    def busy(self) -> float:
        """The share of the multipliers' cycles that multiply non-zeros of the model."""
        work = sum(int(operation.encoded.nonzeros.sum()) for operation in self.plan.operations)
        return work / (self.plan.config.pes * self.cycles_per_step)


def simulate(plan: Schedule | Sequence[Schedule], offered: Iterable[int], memory: Memory = MEMORY,
             anew: Collection[int] = (), banks: Sequence[int] = (), models: Sequence[int] = ()) -> Timeline:
    """Run frames until the last output frame is sent and the machine is at rest again.

    Parameters
    ----------
    plan : Schedule, or a sequence of them
        A model, or all models of a machine, in the order of their numbers.
    offered : iterable of int
        The cycle from which each frame is offered. The controller starts its program in cycle 0, and waits for a frame
        from cycle `READY` at the latest.
    memory : Memory
        The source of streamed weights.
    anew : collection of int
        Numbers of the frames that start a voice anew, or that follow a write of y by the host. The first frame is
        number 0.
    banks : sequence of int
        The bank of voices of each frame. Frames beyond its end are of bank 0.
    models : sequence of int
        The number of each frame's model. Frames beyond its end are of the first model in ``plan``.

    Raises
    ------
    StuckError
        The machine would never send all frames.
    """
    frames = list(offered)
    walk = _Walk([plan] if isinstance(plan, Schedule) else plan, iter(frames), memory, anew, banks, models)
    while len(walk.output.spans) < len(frames) or walk.cycle < walk.output.spans[-1][1] or not walk.rests:
        walk.step()
    return walk.result()


def estimate(plan: Schedule, most: int = 10, memory: Memory = MEMORY) -> Estimate:
    """The time of one step in steady state.

    All frames are of one bank. The model runs steps until two in a row take the same time, or until they alternate
    between two times, and at most ``most``. The result is the last one, or the longer one of the last two. Streamed
    weights come from ``memory``.

    Raises
    ------
    StuckError
        The machine would never end a step.
    """
    walk = _Walk([plan], repeat(READY), memory)
    lengths: list[int] = []
    while len(lengths) < most and not _settled(lengths):
        known = len(walk.begun)
        while len(walk.begun) == known:
            walk.step()
        lengths = np.diff(walk.begun).tolist()
    timeline = walk.result()
    last = 3 if _settled(lengths) and lengths[-1] != lengths[-2] else 2
    start, stop = max(pairwise(walk.begun[-last:]), key=lambda step: step[1] - step[0])
    spans = tuple(replace(span, issued=span.issued - start, start=span.start - start, stop=span.stop - start)
                  for span in timeline.spans if span.stop > start and span.start < stop)
    return Estimate(
        cycles_per_step=stop - start, counters=timeline.counters(start, stop), matrices=timeline.matrices(start, stop),
        causes=timeline.causes(start, stop), spans=spans, plan=plan, memory=memory)


def at_rest(plan: Schedule, memory: Memory = MEMORY) -> int:
    """`Estimate.latency`, without an estimate."""
    first = simulate(plan, [READY], memory).cycles
    return simulate(plan, [READY, first + READY], memory).latencies[1]


def _settled(lengths: list[int]) -> bool:
    """Whether the last steps take the same time, or alternate between two times."""
    return any(len(lengths) >= 2 * period and lengths[-period:] == lengths[-2 * period:-period] for period in (1, 2))


def _operations_of(plans: Sequence[Schedule]) -> tuple[dict[int, Part], list[str]]:
    """The operation of each MULTIPLY, by its number in the program; and a label for each instruction."""
    instructions = plans[0].instructions
    operations = {(operation.order_base, len(operation.encoded.order)): (plan, operation)
                  for plan in plans for operation in plan.operations}
    begins = {instruction.get("begin") for instruction in instructions}
    parts, labels = {}, []
    layer = -1
    for number, instruction in enumerate(instructions):
        opcode = instruction["opcode"]
        again = instruction.get("reset_before") and not instruction.get("resets")
        begins_layer = (opcode == Opcode.ELEMENTWISE and not again) or (
            opcode == Opcode.PROJECT and instruction.get("dense"))
        layer = -1 if number in begins else layer + bool(begins_layer)
        label = f"{opcode.name.lower()} {layer}"
        if opcode == Opcode.MULTIPLY and (instruction["order_base"], instruction["count"]) in operations:
            plan, operation = operations[instruction["order_base"], instruction["count"]]
            parts[number] = part(operation.encoded, instruction, plan.config)
            label = f"{operation.matrix} {operation.layer}"
        labels.append(label)
    return parts, labels


class _Walk:
    """A walk through the schedule: the controller, and the blocks that it starts."""

    def __init__(self, plans: Sequence[Schedule], offered: Iterator[int], memory: Memory, anew: Collection[int] = (),
                 banks: Sequence[int] = (), models: Sequence[int] = ()) -> None:
        self._plan = plan = plans[0]
        self._anew, self._banks, self._models = anew, banks, models
        self._several = plan.config.models > 1
        config = plan.config
        self._parts, self._labels = _operations_of(plans)
        self.cycle = 0
        self.array = ArrayModel(config)
        self.broadcast = BroadcastModel()
        self.assemble = AssembleModel(config)
        self.input = FrameInputModel(offered, (frame_beats(config, plan.instructions[self._model(frame)]["count"]) - 1
                                               for frame in count()),
                                     config.write_columns // config.beat_columns, config.write_lines)
        self.output = FrameOutputModel(config)
        self.stream = StreamModel(plan.instructions, config, memory, self._model) if plan.streamed else None
        # The last cycle in which anything moved; the lines that the memory had given by then.
        self._moved = self._lines = 0
        self._patience = PATIENCE + memory.latency
        # Signals on their way between blocks.
        self._status = [Activity.START] * BroadcastModel.delay
        self._sending: deque[tuple[int, Int64Array | None]] = deque()
        self._full = deque([False] * PEArray.full_delay)
        self._drains: deque[int | None] = deque([None] * SpMV.read_delay)
        self._completed = deque([0] * (PEArray.join_delay(config) + Controller.done_delay))
        self._lead = column_lead(config)
        self._granted = deque([True] * (1 + self._lead))
        self._releases: deque[int] = deque()  # the cycles in which buffers of frames are free
        delay = StreamReader.delay + StreamFetch.written_delay + PEArray.input_delay + SpmatRead.written_delay
        self._written = deque([0] * delay)
        self._released = deque([0] * (SpmatRead.release_delay - 1 + PEArray.join_delay(config)))
        # The controller: its place in the program, and the cycle in which it executes that instruction.
        self._counter, self._execute = 0, Controller.delay
        self._multiplying = self._clearing = False
        self._missed, self._stale, self._made = True, False, False
        # The bank and model of the last frame, and whether those of the one before were the same.
        self._voices, self._alone = (0, 0), True
        # The model of the step that Assemble works on; the instruction behind the last FRAME TRY that took a frame.
        self._assembled: int | None = None
        self._back = 0
        # By ELEMENTWISE: whether it is the first of a step.
        self._firsts: list[bool] = []
        self._begins = False
        self.rests = False
        self._held = False, False  # what products ahead of a frame wait for, as it was a cycle ago
        self._bank = self._sent = self._steps = 0
        self._issued: list[tuple[int, int, int]] = []
        self._computed: list[int] = []

    @property
    def begun(self) -> list[int]:
        """The cycles in which the first element-wise part of each step began."""
        begun = [cycle for opcode, cycle in self.assemble.begun if opcode == Opcode.ELEMENTWISE]
        return [cycle for cycle, first in zip(begun, self._firsts, strict=False) if first]

    def _model(self, frame: int) -> int:
        """The model of a frame, by its number."""
        return self._models[frame] if frame < len(self._models) else self._plan.number

    def step(self) -> None:
        """One cycle."""
        cycle, array, broadcast, assemble = self.cycle, self.array, self.broadcast, self.assemble
        sending, assembling, answering = broadcast.busy, assemble.busy(cycle), self.output.busy
        ready, coming, partial = self.input.ready, self.input.coming, self.input.partial
        writes = assemble.writes(cycle)
        while self._sending and self._sending[0][0] == cycle:
            array.arrive(self._sending.popleft()[1])
        self._full.append(array.full())
        source = self.input if broadcast.of_frame else assemble
        cause, counts = broadcast.step(self._full.popleft(), source.lines_readable)
        if cause is Activity.EMPTY:
            self._sending.append((cycle + BroadcastModel.delay, counts))
        self._drains.append(assemble.drains(cycle))
        array.step(self._status[cycle], self._drains.popleft(), self._written[0] if self.stream else None)
        self._completed.append(array.completed)
        completed = self._completed.popleft()
        assemble.step(cycle, completed)
        self.output.step(cycle, not assembling, assemble.lines_done, writes, self._granted.popleft())
        self._granted.append(counts is None)
        complete = self.input.step(cycle, writes)
        if self.stream:
            self._step_stream(self.stream, complete)
        waits = self._control(sending, assembling, answering, ready, coming, partial, completed)
        if self._releases and self._releases[0] == cycle:
            self._releases.popleft()
            self.input.release()
        self.rests = waits is Activity.FRAME and self._sent == completed and not (assembling or answering)
        self._status.append(waits if cause is None else cause)
        self._watch(cause, assembling or answering or self.input.busy)
        self.cycle += 1

    def _watch(self, cause: Activity | None, others: bool) -> None:
        """Notice what moves in this cycle. ``others``: a block that nothing stalls is at work.

        Raises
        ------
        StuckError
            Nothing has moved for too long.
        """
        lines = self.stream.lines if self.stream else 0
        moves = others or cause is Activity.EMPTY or lines != self._lines or self.array.moves
        if moves or self._status[-1] is Activity.FRAME:
            self._moved, self._lines = self.cycle, lines
        elif self.cycle - self._moved > self._patience:
            lacks = np.flatnonzero(self.array.activity[-1] == ~Activity.STARVED).tolist()
            raise StuckError(
                f"the machine is stuck since cycle {self._moved}: PEs {lacks} wait for streamed lines beyond line "
                f"{lines}, and the broadcast waits ({self._status[-1].name})")

    def _step_stream(self, stream: StreamModel, complete: bool) -> None:
        self._released.append(self.array.passed // (self._plan.config.entry_depth // BLOCKS))
        stream.step(self.cycle, complete, self._released.popleft())
        self._written.popleft()
        self._written.append(stream.lines)

    def _control(self, sending: bool, assembling: bool, answering: bool, ready: bool, coming: bool,
                 partial: bool, completed: int) -> Activity:
        """One cycle of the controller; returns the reason why it starts no operation."""
        instruction = self._plan.instructions[self._counter]
        sent, assembled = self._held
        self._held = answering and not ready, assembling
        if self._multiplying:
            if not sending and not (instruction["release"] and partial):
                self._multiplying = False
                if instruction["release"]:
                    self._releases.append(self.cycle + self._lead)
                if instruction.get("turn"):
                    self._counter = self._back - 1
                self._next()
            return Activity.START
        if self._clearing and not assembling:
            self._clearing = False
            self._next()
        if self._clearing or self.cycle < self._execute:
            return Activity.START
        match instruction["opcode"]:
            case Opcode.FRAME:
                follow = bool(instruction.get("follow"))
                return self._frame(instruction["when"] == Take.TRY, follow, ready or coming and follow)
            case Opcode.MULTIPLY:
                waits = None
                if instruction["source"] == Source.INPUT:
                    waits = Activity.START if partial and not instruction["follow"] else None
                elif instruction.get("sent") and (sent or assembled and not instruction["follow"]):
                    waits = Activity.OUTPUT
                return self._multiply(instruction, completed, waits)
            case Opcode.ELEMENTWISE | Opcode.PROJECT:
                if assembling:
                    return Activity.ASSEMBLE
                if instruction["sent"] and answering:
                    return Activity.OUTPUT
                self._issue()
                self.assemble.start(instruction, self._base(instruction), self._sent)
                if instruction["opcode"] == Opcode.ELEMENTWISE:
                    self._bank ^= instruction["acc_offset"] != 0 and not instruction.get("resets")
                    self._assembled = self._voices[1]
                    self._firsts.append(self._begins)
                    self._begins = False
            case Opcode.OUTPUT:
                if answering:
                    return Activity.OUTPUT
                self._issue()
                self._computed.append(self.cycle)
                self.output.start(frame_beats(self._plan.config, instruction["count"]) - 1, not assembling)
            case Opcode.CLEAR:
                if assembling and not (instruction.get("turn") and not self._made) or (
                        self._made and self._sent != completed):
                    return Activity.ASSEMBLE
                if self._made:
                    self._issue()
                    self.assemble.clear(self.cycle)
                    self._clearing = True
                    return Activity.START
            case Opcode.JUMP if not skipped(instruction, self._missed, self._stale):
                late = instruction.get("turn")
                self._counter = (self._routine("late") if late else instruction["src_base"]) - 1
        self._next()
        return Activity.START

    def _routine(self, name: str) -> int:
        """The first instruction of a routine of the last frame's model."""
        return routine(self._plan.instructions, self._voices[1], name)

    def _frame(self, trying: bool, follow: bool, ready: bool) -> Activity:
        if trying and self.stream:
            decision = self.stream.decision(self.cycle)
            if decision is None:
                return Activity.START
            ready = decision
        if (trying or self._missed) and ready:
            self.input.take()
            voices = self._banks[self._steps] if self._steps < len(self._banks) else 0, self._model(self._steps)
            self._alone, self._voices = voices == self._voices, voices
            self._stale |= not trying and (not self._made or self._steps in self._anew or not self._alone)
            self._steps += 1
            self._begins = True
            passed = int(self._plan.config.forward and not trying and follow and not self._stale)
            if self._several:
                self._back = self._counter + 1
                self._counter = self._routine("early" if trying else "begin") - 1
            self._counter += passed
        elif self._missed and not trying:
            return Activity.FRAME
        if trying:
            self._missed, self._stale, self._made = not ready, False, False
        self._next()
        return Activity.START

    def _multiply(self, instruction: dict[str, Any], completed: int, waits: Activity | None) -> Activity:
        ahead = bool(instruction.get("sent"))
        kin = instruction.get("kin", Kin.ANY)
        if (skipped(instruction, self._missed, self._stale) or ahead and not self._alone
                or kin == (Kin.OTHER if self._alone else Kin.SAME)):
            if instruction.get("turn"):
                self._counter = self._back - 1
            self._next()
        elif self._sent - completed == MAX_OPERATIONS:
            return Activity.OPERATIONS
        elif waits is not None:
            return waits
        else:
            self._issue()
            operation = self._parts[self._counter]
            self.array.append(operation, self._base(instruction))
            self.broadcast.start(operation, bool(instruction["follow"]) and not (
                self._several and instruction["source"] == Source.RECURRENT and self._assembled != self._voices[1]),
                instruction["source"] == Source.INPUT)
            self._made |= ahead
            self._sent += 1
            self._multiplying = True
        return Activity.START

    def _next(self) -> None:
        self._counter += 1
        self._execute = self.cycle + Controller.delay

    def _issue(self) -> None:
        self._issued.append((self._counter, self._steps, self.cycle))

    def _base(self, instruction: dict[str, Any]) -> int:
        return int(instruction["acc_base"] + self._bank * instruction.get("acc_offset", 0))

    def result(self) -> Timeline:
        """The timeline so far."""
        activity = np.empty((len(self.array.activity), self._plan.config.pes), np.uint8)
        for start in range(0, len(activity), _BLOCK):
            items = np.array(self.array.activity[start:start + _BLOCK])
            activity[start:start + _BLOCK] = np.where(items >= 0, Activity.BUSY, ~items)
        return Timeline(
            plan=self._plan, activity=activity,
            broadcast=np.array(self._status[BroadcastModel.delay:], np.uint8),
            drained=np.array(self.assemble.drained, np.int64), spans=tuple(self._spans(activity)),
            begun=tuple(self.begun), computed=tuple(self._computed), offered=tuple(self.input.offered),
            sent=tuple(stop for _, stop in self.output.spans))

    def _spans(self, activity: NDArray[np.uint8]) -> Iterator[Span]:
        assembled = iter(self.assemble.spans)
        times = {Opcode.MULTIPLY: iter(_operation_times(activity)), Opcode.ELEMENTWISE: assembled,
                 Opcode.PROJECT: assembled, Opcode.CLEAR: assembled, Opcode.OUTPUT: iter(self.output.spans)}
        for number, step, issued in self._issued:
            span = next(times[self._plan.instructions[number]["opcode"]], None)
            if span:
                yield Span(number, step, self._labels[number], issued, *span)


def _operation_times(activity: NDArray[np.uint8]) -> list[tuple[int, int]]:
    """By finished operation: the cycle of its first entry on any PE, and the cycle after its end on the last PE."""
    passed = activity == Activity.END
    count = int(passed.sum(axis=0).min())
    ends = np.stack([np.flatnonzero(column)[:count] for column in passed.T], axis=1)
    starts = ends.copy()
    for pe, column in enumerate(activity.T):
        entries = np.flatnonzero(column <= Activity.PADDING)
        before = np.concatenate([[0], ends[:-1, pe]])[:count]
        first = np.append(entries, len(activity))[np.searchsorted(entries, before)]
        starts[:, pe] = np.minimum(first, ends[:, pe])
    return list(zip(starts.min(axis=1).tolist(), (ends.max(axis=1) + 1).tolist(), strict=True))
