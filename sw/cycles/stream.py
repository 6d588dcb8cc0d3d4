# SPDX-License-Identifier: Apache-2.0
"""The cycle model of streamed weights: StreamFetch, StreamReader and the memory."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from openese.rtl.config import Config
from openese.rtl.interfaces import BLOCKS
from openese.rtl.program import Opcode, Take, When
from openese.rtl.weight_stream import StreamFetch, StreamReader, burst_lines

__all__ = ["Memory", "StreamModel"]


@dataclass(frozen=True)
class Memory:
    """A memory that gives up to one line a cycle, in order.

    Attributes
    ----------
    latency : int
        Cycles from a burst's address to its first line.
    share : float
        Share of the cycles, 0 to 1, at random, in which it gives a line that is due.
    outstanding : int
        Bursts that it accepts before it answers the first.
    """

    latency: int = 60
    share: float = 1.0
    outstanding: int = 64


def skipped(instruction: dict[str, Any], missed: bool, stale: bool = False) -> bool:
    """Whether a MULTIPLY or JUMP is passed over, as in `openese.rtl.program_reader.ProgramReader`."""
    holds = {When.ALWAYS: True, When.TAKEN: not missed, When.MISSED: missed, When.STALE: stale}
    return not holds[instruction.get("when", When.ALWAYS)]


def routine(instructions: Sequence[dict[str, Any]], model: int, name: str) -> int:
    """The first instruction of a routine of a model, see `openese.rtl.program.ROUTINES`."""
    return int(instructions[model][name])


class StreamModel:
    """Requests the lines of the program from a memory, as far as there is room for them.

    Attributes
    ----------
    lines : int
        Lines that the memory has given.
    """

    def __init__(self, instructions: tuple[dict[str, Any], ...], config: Config, memory: Memory,
                 model: Callable[[int], int]) -> None:
        self._instructions = instructions
        self._model = model  # of a frame, by its number
        self._begun = self._back = 0  # frames that were taken; the instruction behind the last FRAME TRY
        self._memory = memory
        self._chance = np.random.default_rng(1)
        self._block = config.entry_depth // BLOCKS
        self._longest = burst_lines(config)
        self._room = config.entry_depth - self._longest
        # StreamFetch: its place in the program, and the cycle in which it executes that instruction.
        self._counter, self._execute = 0, StreamFetch.delay
        self._frames = 0
        self._missed = True
        self._decisions: deque[tuple[int, bool]] = deque()
        self._line = self._left = self._taken = self._released = 0
        # StreamReader and the memory: lines of the bursts whose addresses wait, and of the bursts under way.
        self._addresses: deque[int] = deque()
        self._asked = 0
        self._bursts: deque[tuple[int, int]] = deque()
        self._beats = 0
        self.lines = 0

    def decision(self, cycle: int) -> bool | None:
        """Take the decision whether the next frame is in time; None if there is none yet."""
        if not self._decisions or self._decisions[0][0] >= cycle:
            return None
        return self._decisions.popleft()[1]

    def step(self, cycle: int, complete: bool, released: int) -> None:
        """One cycle. ``complete``: a frame completes in it; ``released``: blocks of the ring that were freed so far."""
        requesting = self._left > 0
        sent = self._request(cycle, requesting and self._taken <= self._room)
        self._taken += sent - self._block * (released - self._released)
        self._released = released
        if requesting:
            if not self._left:
                self._end_multiply(cycle)
        elif cycle >= self._execute:
            self._carry_out(cycle)
        self._frames += complete

    def _request(self, cycle: int, wanted: bool) -> int:
        """One cycle of the reader and the memory; returns the number of lines that they accept."""
        accepting = len(self._bursts) < self._memory.outstanding
        asked = self._asked
        if self._bursts and self._bursts[0][0] <= cycle and self._gives():
            self.lines += 1
            self._beats += 1
            if self._beats == self._bursts[0][1]:
                self._bursts.popleft()
                self._beats = 0
                self._asked -= 1
        sent = 0
        if wanted and len(self._addresses) < StreamReader.addresses and asked < StreamReader.most:
            sent = min(self._left, self._longest - self._line % self._longest)
            self._line += sent
            self._left -= sent
            self._asked += 1
        if self._addresses and accepting:
            self._bursts.append((cycle + self._memory.latency, self._addresses.popleft()))
        if sent:
            self._addresses.append(sent)
        return sent

    def _gives(self) -> bool:
        return self._memory.share >= 1 or self._chance.random() < self._memory.share

    def _carry_out(self, cycle: int) -> None:
        instruction = self._instructions[self._counter]
        trying = instruction.get("when") == Take.TRY
        match instruction["opcode"]:
            case Opcode.FRAME if trying:
                if len(self._decisions) == StreamFetch.ahead:
                    return
                self._decisions.append((cycle, self._frames > 0))
                self._missed = not self._frames
                if not self._missed:
                    self._take("early")
            case Opcode.FRAME if self._missed:
                if not self._frames:
                    return
                self._take("begin")
            case Opcode.MULTIPLY:
                if not skipped(instruction, self._missed) and instruction["entry_lines"]:
                    self._line, self._left = instruction["entry_base"], instruction["entry_lines"]
                else:
                    self._end_multiply(cycle)
                return
            case Opcode.JUMP if not skipped(instruction, self._missed):
                self._counter = (routine(self._instructions, self._model(self._begun - 1), "late")
                                 if instruction.get("turn") else instruction["src_base"]) - 1
        self._next(cycle)

    def _take(self, name: str) -> None:
        self._frames -= 1
        self._begun += 1
        if "begin" in self._instructions[0]:
            self._back = self._counter + 1
            self._counter = routine(self._instructions, self._model(self._begun - 1), name) - 1

    def _end_multiply(self, cycle: int) -> None:
        if self._instructions[self._counter].get("turn"):
            self._counter = self._back - 1
        self._next(cycle)

    def _next(self, cycle: int) -> None:
        self._counter += 1
        self._execute = cycle + StreamFetch.delay
