# SPDX-License-Identifier: Apache-2.0
"""The simulated machine as the program watches it: while it runs, and from within a step."""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from openese.rtl.config import Config
from openese.rtl.registers import ADDRESS, Control
from openese.sim.simulator import Simulator

__all__ = ["Trace", "Watched", "trace"]

CHUNK = 4  # frames between two looks at what has been received


class Watched(Simulator):
    """A simulator that tells how far it is, and how fast.

    Attributes
    ----------
    progress : callable
        Called with the number of frames received since the last call; does nothing at first.
    cycles_per_second : float
        Of the last `run_frames`.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.progress: Callable[[int], None] = lambda frames: None
        self.cycles_per_second = 0.0

    def run_frames(self, header, columns, outputs):
        """As `Simulator.run_frames`: frames are sent as fast as the machine takes them."""
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
    """How busy the multipliers were, and when steps ended.

    Attributes
    ----------
    cycles : ndarray, (n + 1,)
        Limits of the intervals, from 0.
    busy : ndarray, (n,)
        Share of the multiplier cycles of each interval that went to weights.
    steps : ndarray
        Cycles at which a step was done.
    """

    cycles: np.ndarray
    busy: np.ndarray
    steps: np.ndarray


def trace(simulator: Simulator, frames: np.ndarray, start: int, stop: int, interval: int) -> Trace:
    """Start all voices anew, and look at the counters every ``interval`` cycles from ``start`` to ``stop``.

    Parameters
    ----------
    frames : ndarray, (T, channels, I)
        Enough for ``stop`` cycles. What is left of them then is dropped: the simulator ends in reset.
    """
    header = np.ones(frames.shape[:2], np.uint16)
    header[0] = 3
    simulator.write(ADDRESS["CONTROL"], Control.RESET | Control.RUN)
    simulator.send_frames(header, frames.transpose(0, 2, 1))
    first = simulator.cycles
    simulator.clock(start)
    seen = []
    while simulator.cycles - first < stop:
        now = simulator.cycles
        busy, steps = simulator.read(ADDRESS["BUSY_LOW"]), simulator.read(ADDRESS["STEPS_LOW"])
        seen.append((now - first - start, busy, steps))
        simulator.clock(interval - (simulator.cycles - now))
    simulator.reset()
    cycles, busy, steps = np.array(seen).T
    share = np.diff(busy) / (np.diff(cycles) * simulator.config.pes)
    return Trace(cycles, share, cycles[1:][np.diff(steps) > 0])
