# SPDX-License-Identifier: Apache-2.0
"""A device in the simulator that writes a waveform of some of its steps."""

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from openese.sim.simulator import Simulator
from openese.sim.trace import save_view
from openese.sw.model.arrays import Int64Array
from openese.sw.run.device import Device

__all__ = ["TracedDevice"]


class TracedDevice:
    """A device that writes a waveform of some of its steps, with a view of it beside, for GTKWave or Surfer.

    Parameters
    ----------
    device : `Device`
        Its link is ``simulator``.
    simulator : `Simulator`
        Made with ``trace=True``.
    path : str or Path
        Of the VCD file.
    steps : range
        The steps to trace, counted from 0. The machine comes to rest before the first and after the last.

    Attributes
    ----------
    written : bool
        Whether the file is written.
    """

    def __init__(self, device: Device, simulator: Simulator, path: str | Path, steps: range) -> None:
        self.model, self.channels = device.model, device.channels
        self.get_states, self.set_states = device.get_states, device.set_states
        self.counters = device.counters
        self._device, self._simulator, self._path, self._steps = device, simulator, path, steps
        self._done = 0
        self.written = False

    def run(self, frames: ArrayLike, active: ArrayLike | None = None) -> Int64Array:
        """Run steps as `Device.run`, without ``reset``."""
        x = np.asarray(frames)
        start, stop = (min(max(edge - self._done, 0), len(x)) for edge in (self._steps.start, self._steps.stop))
        self._done += len(x)

        def part(first: int, last: int) -> Int64Array:
            return self._device.run(x[first:last], None if active is None else np.asarray(active)[first:last])

        if start >= stop:
            return part(0, len(x))
        before = part(0, start)
        with self._simulator.trace(self._path):
            during = part(start, stop)
        save_view(self._path)
        self.written = True
        return np.concatenate([before, during, part(stop, len(x))])
