# SPDX-License-Identifier: Apache-2.0
"""A machine in Verilator beside what predicts it: the reference its words, the cycle model its counters."""

import numpy as np
from models import random_quantized

from openese.rtl.registers import COUNTERS
from openese.sw.cycles.model import READY
from openese.sw.pack.image import pack
from openese.sw.pack.schedule import Schedule, schedule
from openese.sw.reference.machine import Reference
from openese.sw.run.device import Device

__all__ = ["COUNTED", "Both", "Measured", "predicted"]

#: What the cycle model predicts of a run of frames; a machine also counts while it waits for the first, and after.
COUNTED = [name for name in COUNTERS if name not in ("cycles", "frame", "saturated")]


class Both:
    """A device and a reference of the same random model, that take the same steps."""

    def __init__(self, config, shape, seed=1, stream=None, peephole=True, pace=None, scramble=0):
        from openese.sim.simulator import Simulator

        self.seed = seed
        self.model = random_quantized(seed, config, *shape, peephole=peephole, junk_tables=seed % 2 == 0)
        self.link = Simulator(config, scramble=scramble)
        if pace:
            self.link.pace(**pace)
        self.image = pack(schedule(self.model, config, stream=stream))
        self.device = Device(self.link, self.image)
        self.reference = Reference(self.model, config.channels, banks=self.device.banks)
        self.rng = np.random.default_rng(seed)

    def frames(self, steps):
        limit = 1 << (self.model.config.activation_bits - 1)
        return self.rng.integers(-limit, limit, (steps, self.device.channels, self.model.inputs))

    def step(self, steps, active=None, reset=None, banks=0):
        """Both step; every word must be equal."""
        x = self.frames(steps)
        shape = (steps, self.device.channels)
        active = np.ones(shape, bool) if active is None else active
        reset = np.zeros(shape, bool) if reset is None else reset
        expected = [self.reference.step(*now, bank=bank) for *now, bank in zip(
            x, active, reset, np.broadcast_to(banks, steps).tolist(), strict=True)]
        assert (self.device.run(x, active, reset, banks) == np.array(expected)).all()

    def same_states(self):
        """The states of all voices are equal."""
        for voice in range(self.device.banks * self.device.channels):
            found, wanted = (machine.get_state(voice) for machine in (self.device, self.reference))
            assert [np.concatenate(layer).tolist() for layer in found] == [
                np.concatenate(layer).tolist() for layer in wanted], f"voice {voice}"


class Measured:
    """A machine with a model in it, or several, whose counters are read around each run; `run` runs the first model."""

    def __init__(self, placed, **memory):
        from openese.sim.simulator import Simulator

        plan = placed if isinstance(placed, Schedule) else placed[0]
        self._link = Simulator(plan.config)
        if memory:
            self._link.place(np.zeros(1, np.uint8), **memory)
        self._device = Device(self._link, pack(placed))
        self._inputs = plan.model.inputs
        self._link.clock(plan.config.accumulator_rows + 2 * READY)

    def counters(self):
        """The counters of a machine at rest."""
        before, now = {}, self._device.counters()
        while any(before.get(name) != now[name] for name in COUNTED):
            self._link.clock(500)
            before, now = now, self._device.counters()
        return now

    def run(self, frames):
        """Cycles from the offer of ``frames`` frames in a row to the last answer, and the counters until it rests."""
        x = np.random.default_rng(frames).integers(-99, 99, (frames, self._device.channels, self._inputs))
        before = self._device.counters()
        start = self._link.cycles
        self._device.run(x)
        cycles = self._link.cycles - start
        after = self.counters()
        return cycles, {name: after[name] - before[name] for name in COUNTED}


def predicted(run):
    """Of a `Timeline`, what `Measured.run` measures."""
    counters = run.counters()
    return run.sent[-1] - run.offered[-1], {name: counters[name] for name in COUNTED}
