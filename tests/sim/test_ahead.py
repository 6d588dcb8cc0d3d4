# SPDX-License-Identifier: Apache-2.0
"""Frames at any time: while W_r y is multiplied ahead of them, before and after, with whatever makes it stale.

``OPENESE_SCHEDULES=N`` runs N random models, ten on each of N / 10 random machines.
"""

import os

import numpy as np
import pytest
from machines import GROUPS, STREAM, TINY
from models import random_quantized
from pairs import COUNTED, Measured, predicted
from soak.hardware import random_config

from openese.rtl.frames import BANK_SHIFT, frame_beats
from openese.rtl.registers import ADDRESS, Control
from openese.sim.simulator import Simulator
from openese.sw.cycles.model import READY, estimate, simulate
from openese.sw.model.quantized import QuantizeError
from openese.sw.pack.image import pack
from openese.sw.pack.schedule import CapacityError, schedule
from openese.sw.reference.machine import Reference
from openese.sw.run.device import Device

pytestmark = pytest.mark.sim

COUNT = int(os.environ.get("OPENESE_SCHEDULES", "0"))
#: Models on one machine.
SHARE = 10
EVENTS = 25
COMMON = (TINY, GROUPS, STREAM, TINY.replace(name="banked", banks=4, vector_depth=512))


def machine(number):
    """One of the common machines, or a random one."""
    if number < len(COMMON):
        return COMMON[number]
    config = random_config(np.random.default_rng([number, 22]))
    return config.replace(name=f"random{number}", banks=1 << int(number % 4 == 0))


def random_plan(rng, config):
    """A model of one to four layers in the machine's memories, or None if it holds none of twenty."""
    for _ in range(20):
        layers = [int(rng.integers(1, 21)) for _ in range(int(rng.integers(1, 5)))]
        shape = [(cells, int(rng.integers(1, cells + 1))) if rng.random() < 0.5 else cells for cells in layers]
        seed = int(rng.integers(1 << 30))
        try:
            return schedule(random_quantized(seed, config, int(rng.integers(1, 25)), *shape,
                                             peephole=bool(seed & 2), junk_tables=seed % 2 == 0), config)
        except (CapacityError, QuantizeError):
            continue
    return None


class Voices:
    """A machine and its reference. The reference computes a frame when it is known that the machine has taken it."""

    def __init__(self, rng, plan):
        self.rng, self.plan, self.model = rng, plan, plan.model
        self.link = Simulator(plan.config, scramble=int(rng.integers(1, 1 << 30)))
        self.device = Device(self.link, pack(plan))
        self.channels, self.banks = plan.config.channels, plan.banks
        self.longest = 2 * estimate(plan).latency
        self.runs = True
        self.begin()

    def begin(self):
        """All voices begin from a state of the host, or with the next frame."""
        self.reference = Reference(self.model, self.channels, banks=self.banks)
        self.waiting, self.expected, self.taken, self.bank = [], [], 0, 0
        self.fresh = self.rng.random(self.banks) < 0.7
        for bank in np.flatnonzero(~self.fresh).tolist():
            for channel in range(self.channels):
                self.write_state(bank * self.channels + channel, share=1)

    def frame(self):
        """Send a frame, and go on for a while."""
        limit = 1 << (self.model.config.activation_bits - 1)
        x = self.rng.integers(-limit, limit, (self.channels, self.model.inputs))
        active = self.rng.random(self.channels) < self.rng.choice([0.3, 0.8, 1.0])
        anew = self.rng.random(self.channels) < self.rng.choice([0, 0, 0, 0.3])
        if self.rng.random() < 0.4:
            self.bank = int(self.rng.integers(self.banks))
        anew |= self.fresh[self.bank]
        self.fresh[self.bank] = False
        header = active | anew.astype(int) << 1
        header[0] |= self.bank << BANK_SHIFT
        self.link.send_frames(header[None], x.T[None])
        self.waiting.append((x, active, anew, self.bank))
        self.pause()

    def pause(self):
        self.link.clock(int(self.rng.integers(0, self.rng.choice([10, self.longest]))))

    def wrong_frame(self):
        """A frame that is too short or too long."""
        config = self.plan.config
        right = frame_beats(config, self.model.inputs)
        beats = int(self.rng.choice([n for n in range(1, right + 9) if n != right]))
        last = np.arange(beats) == beats - 1
        self.link.send_beats(self.rng.integers(-99, 99, (beats, config.beat_columns * self.channels)),
                             last.astype(np.uint8))
        self.pause()

    def run_or_stop(self):
        self.runs = not self.runs
        self.link.write(ADDRESS["CONTROL"], Control.RUN if self.runs else 0)
        self.pause()

    def rest(self):
        """Wait until the machine can go on no further; the reference takes the same steps."""
        if self.runs:
            self.link.drain()
            self.link.clock(20)
        self.device._rest()
        steps = self.device.counters()["steps"]
        for now in self.waiting[:steps - self.taken]:
            self.expected.append((now[1], now[3], self.reference.step(*now[:3], bank=now[3])))
        del self.waiting[:steps - self.taken]
        self.taken = steps

    def write_state(self, voice=None, share=0.2):
        """Write some numbers of a voice's state, or all."""
        voice = int(self.rng.integers(self.banks * self.channels)) if voice is None else voice
        if self.fresh[voice // self.channels]:
            return
        self.rest()
        state = self.reference.get_state(voice)
        names = [name for name in ("c", "y") if share == 1 or self.rng.random() < 0.6]
        for layer, name, words in self.device._places(voice):
            values = np.array(getattr(state[layer], name))
            state[layer] = state[layer]._replace(**{name: values})
            bits = self.model.config.cell_bits if name == "c" else self.model.config.activation_bits
            for index, word in enumerate(words):
                if name in names and self.rng.random() <= share:
                    values[index] = self.rng.integers(-1 << (bits - 1), 1 << (bits - 1))
                    self.link.access([(ADDRESS["STATE_SELECT"], int(word)),
                                      (ADDRESS["STATE_DATA"], int(values[index]) & 0xFFFFFFFF)])
        self.reference.set_state(voice, state)
        self.pause()

    def reset(self):
        """Drop everything."""
        self.check()
        self.link.write(ADDRESS["CONTROL"], Control.RUN)
        self.runs = True
        self.device.reset()
        self.begin()

    def check(self):
        """Every word so far must be the reference's, and so must all states."""
        if not self.runs:
            self.run_or_stop()
        self.rest()
        assert not self.waiting
        header, columns = self.link.receive_frames(len(self.expected), self.model.outputs)
        for number, (active, bank, y) in enumerate(self.expected):
            assert (header[number] == active + bank * (1 << BANK_SHIFT) * (np.arange(self.channels) == 0)).all(), number
            assert (columns[number].T == y).all(), number
        self.expected = []
        for voice in np.flatnonzero(np.repeat(~self.fresh, self.channels)).tolist():
            state = self.reference.get_state(voice)
            self.device._fresh[voice] = False
            for found, layer in zip(self.device.get_state(voice), state, strict=True):
                assert (found.c == layer.c).all() and (found.y == layer.y).all()


def random_events(rng, plan):
    """Frames at any time, between events that make W_r y stale."""
    voices = Voices(rng, plan)
    events = [voices.frame] * 12 + [voices.run_or_stop] * 2 + [
        voices.write_state, voices.write_state, voices.wrong_frame, voices.pause, voices.check, voices.reset]
    for number in rng.integers(len(events), size=EVENTS):
        if events[number] == voices.frame and not voices.runs and len(voices.waiting) >= 2:
            voices.run_or_stop()  # the buffers are full
        events[number]()
    voices.check()
    voices.link.close()


def random_times(rng, plan):
    """The cycle model has the cycles of the last answer and all counters, whenever frames come."""
    machine = Measured(plan)
    link, inputs, channels = machine._link, plan.model.inputs, plan.config.channels
    longest = estimate(plan).latency
    before = machine.counters()
    start, offered, anew = link.cycles, [], []
    for number in range(8):
        if number:
            link.clock(int(rng.integers(0, rng.choice([5, longest, 2 * longest]))))
        anew.append(number == 0 or bool(rng.random() < 0.25))
        offered.append(link.cycles - start + READY)
        link.send_frames(np.full((1, channels), 1 + 2 * anew[-1]), rng.integers(-99, 99, (1, inputs, channels)))
    link.receive_frames(8, plan.model.outputs)
    cycles, after = link.cycles - start, machine.counters()
    run = simulate(plan, offered, anew=np.flatnonzero(anew).tolist())
    assert cycles == run.sent[-1] - READY
    assert {name: after[name] - before[name] for name in COUNTED} == predicted(run)[1]


@pytest.mark.parametrize("number", range(max(len(COMMON), COUNT // SHARE)))
def test_frames_at_any_time(number):
    config = machine(number)
    planned = []
    for seed in range(SHARE if COUNT else 2):
        rng = np.random.default_rng([number, seed])
        plan = random_plan(rng, config)
        if plan is None:
            break
        random_events(rng, plan)
        if not plan.streamed:
            random_times(rng, plan)
        planned.append(plan)
    assert planned or number >= len(COMMON)
