# SPDX-License-Identifier: Apache-2.0
"""The clips on the simulated machine. All that the main job knows of the hardware's host side is here."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rtl.config import Config
from rtl.registers import ADDRESS, COUNTERS, Control
from sim.simulator import Simulator
from sw.image import Image

__all__ = ["Heard", "Trace", "loaded", "run", "trace"]

CHUNK = 4  # frames between two looks at the clock


@dataclass(frozen=True)
class Heard:
    """What the machine said.

    Attributes
    ----------
    headers : ndarray, (T, channels)
        Of the frames that came out: 1 where a channel was active.
    outputs : ndarray, (T, channels, P)
        Integers.
    counters : dict of str to int
        The machine's own, by the names of `rtl.registers.COUNTERS`.
    cycles_per_second : float
        Of the simulation.
    """

    headers: np.ndarray
    outputs: np.ndarray
    counters: dict[str, int]
    cycles_per_second: float


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
        Cycles at which a frame was done.
    """

    cycles: np.ndarray
    busy: np.ndarray
    steps: np.ndarray


def loaded(config: Config, image: Image) -> Simulator:
    """A simulated machine with an image in it; builds the simulator unless it was built before."""
    simulator = Simulator(config)
    simulator.load(ADDRESS["LOAD"], image.words())
    return simulator


def _counter(simulator: Simulator, name: str) -> int:
    low = simulator.read(ADDRESS[f"{name.upper()}_LOW"])
    return low | simulator.read(ADDRESS[f"{name.upper()}_HIGH"]) << 32


def _start(simulator: Simulator, frames: np.ndarray, active: np.ndarray, reset: np.ndarray) -> None:
    simulator.write(ADDRESS["CONTROL"], Control.RESET)
    simulator.write(ADDRESS["CONTROL"], Control.RUN)
    simulator.send_frames(active | reset << 1, frames.transpose(0, 2, 1))


def run(simulator: Simulator, frames: np.ndarray, active: np.ndarray, reset: np.ndarray, outputs: int,
        progress: Callable[[int], None]) -> Heard:
    """Send all frames (T, channels, I) with their masks (T, channels), and take what comes out.

    Parameters
    ----------
    outputs : int
        P, columns of a frame that comes out.
    progress : callable
        Called now and then with the number of frames received since the last call.
    """
    _start(simulator, frames, active, reset)
    began, first = time.perf_counter(), simulator.cycles
    received = []
    for left in range(len(frames), 0, -CHUNK):
        received.append(simulator.receive_frames(min(CHUNK, left), outputs))
        progress(min(CHUNK, left))
    speed = (simulator.cycles - first) / (time.perf_counter() - began)
    simulator.write(ADDRESS["CONTROL"], 0)
    headers, columns = (np.concatenate(parts) for parts in zip(*received, strict=True))
    counters = {name: _counter(simulator, name) for name in COUNTERS}
    return Heard(headers, columns.transpose(0, 2, 1), counters, speed)


def trace(simulator: Simulator, frames: np.ndarray, active: np.ndarray, reset: np.ndarray, start: int,
          stop: int, interval: int) -> Trace:
    """Send frames, and look at the counters every ``interval`` cycles between ``start`` and ``stop``.

    The frames need not all be taken: the simulator is of no use for others afterwards.
    """
    _start(simulator, frames, active, reset)
    first = simulator.cycles
    simulator.clock(start)
    seen = []
    while simulator.cycles - first < stop:
        began = simulator.cycles
        busy = simulator.read(ADDRESS["BUSY_LOW"])
        seen.append((began - first - start, busy, simulator.read(ADDRESS["STEPS_LOW"])))
        simulator.clock(interval - (simulator.cycles - began))
    cycles, busy, steps = np.array(seen).T
    share = np.diff(busy) / (np.diff(cycles) * simulator.config.pes)
    return Trace(cycles, share, cycles[1:][np.diff(steps) > 0])
