# SPDX-License-Identifier: Apache-2.0
"""A simulator that reports its progress, and traces of the machine's counters within steps."""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from openese import Config, Simulator
from openese.rtl.registers import ADDRESS, Control

__all__ = ["Trace", "Watched", "trace"]

CHUNK = 4  # frames between two reports of progress


class Watched(Simulator):
    """A simulator that reports its progress and speed.

    Attributes
    ----------
    progress : callable
        Called with the number of frames received since the last call; set it before a run.
    cycles_per_second : float
        The speed of the last `run_frames`.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.progress: Callable[[int], None] = lambda frames: None
        self.cycles_per_second = 0.0

    def run_frames(self, header, columns, outputs):
        """Run frames as `Simulator.run_frames` does; the machine receives them as fast as it can."""
        began, first = perf_counter(), self.cycles
        self.send_frames(header, columns)
        received = []
        for left in range(len(header), 0, -CHUNK):
            received.append(self.receive_frames(min(CHUNK, left), outputs))
            self.progress(min(CHUNK, left))
        self.cycles_per_second = (self.cycles - first) / (perf_counter() - began)
        headers, columns = (np.concatenate(parts) for parts in zip(*received, strict=True))
        return headers, columns


@dataclass(frozen=True)
class Trace:
    """The busy share of the multipliers over time, and the ends of steps.

    Attributes
    ----------
    cycles : ndarray, (n + 1,)
        The limits of the intervals, from 0.
    busy : ndarray, (n,)
        The share of multiplier cycles spent on weights in each interval.
    steps : ndarray
        The cycles at which steps end.
    """

    cycles: np.ndarray
    busy: np.ndarray
    steps: np.ndarray


def trace(simulator: Simulator, frames: np.ndarray, start: int, stop: int, interval: int) -> Trace:
    """Start all voices anew, and read the counters every ``interval`` cycles from ``start`` to ``stop``.

    Parameters
    ----------
    simulator : Simulator
        The simulator is in reset at the end.
    frames : ndarray, (T, channels, I)
        Frames for at least ``stop`` cycles. The rest is discarded.
    start, stop, interval : int
        In cycles.
    """
    header = np.ones(frames.shape[:2], np.uint16)
    header[0] = 3
    simulator.write(ADDRESS["CONTROL"], Control.RESET | Control.RUN)
    simulator.send_frames(header, frames.transpose(0, 2, 1))
    first = simulator.cycles
    simulator.clock(start)
    readings = []
    while simulator.cycles - first < stop:
        now = simulator.cycles
        busy, steps = simulator.read(ADDRESS["BUSY_LOW"]), simulator.read(ADDRESS["STEPS_LOW"])
        readings.append((now - first - start, busy, steps))
        simulator.clock(interval - (simulator.cycles - now))
    simulator.reset()
    cycles, busy, steps = np.array(readings).T
    share = np.diff(busy) / (np.diff(cycles) * simulator.config.pes)
    return Trace(cycles, share, cycles[1:][np.diff(steps) > 0])
