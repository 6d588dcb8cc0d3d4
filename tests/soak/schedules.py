# SPDX-License-Identifier: Apache-2.0
"""Frames at any time: while W_r y is multiplied ahead of them, before and after, with whatever makes it stale."""

from collections import Counter

import numpy as np
from pairs import COUNTED, Measured, predicted

from openese.rtl.frames import BANK_SHIFT, MODEL_SHIFT, frame_beats
from openese.rtl.registers import ADDRESS, Control
from openese.sim.simulator import Simulator
from openese.sw.cycles.model import READY, estimate, simulate
from openese.sw.pack.image import pack
from openese.sw.reference.machine import Reference
from openese.sw.run.device import Device

__all__ = ["random_events", "random_times"]

#: Frames and other events of a model; frames of a model whose times are compared.
EVENTS, FRAMES = 25, 8


class Voices:
    """A machine and its reference. The reference computes a frame when it is known that the machine has taken it."""

    def __init__(self, rng, plans):
        self.rng, self.plans, self.config = rng, plans, plans[0].config
        self.link = Simulator(self.config, scramble=int(rng.integers(1, 1 << 30)))
        self.device = Device(self.link, pack(plans))
        self.devices = [self.device.of(number) for number in range(len(plans))]
        self.channels, self.banks = self.config.channels, plans[0].banks
        self.longest = 2 * estimate(plans[0]).latency
        self.runs = True
        self.begin()

    def begin(self):
        """All voices begin from a state of the host, or with the next frame."""
        self.references = [Reference(plan.model, self.channels, banks=self.banks) for plan in self.plans]
        self.waiting, self.expected, self.taken, self.named = [], [], 0, (0, 0)
        self.fresh = self.rng.random((len(self.plans), self.banks)) < 0.7
        for number, bank in np.argwhere(~self.fresh).tolist():
            for channel in range(self.channels):
                self.write_state(number, bank * self.channels + channel, share=1)

    def frame(self):
        """Send a frame, and go on for a while."""
        limit = 1 << (self.config.activation_bits - 1)
        if self.rng.random() < 0.4:
            self.named = int(self.rng.integers(len(self.plans))), int(self.rng.integers(self.banks))
        number, bank = self.named
        x = self.rng.integers(-limit, limit, (self.channels, self.plans[number].model.inputs))
        active = self.rng.random(self.channels) < self.rng.choice([0.3, 0.8, 1.0])
        anew = self.rng.random(self.channels) < self.rng.choice([0, 0, 0, 0.3])
        anew |= self.fresh[self.named]
        self.fresh[self.named] = False
        header = active | anew.astype(int) << 1
        header[0] |= bank << BANK_SHIFT | number << MODEL_SHIFT
        self.link.send_frames(header[None], x.T[None])
        self.waiting.append((self.named, x, active, anew))
        self.pause()

    def pause(self):
        self.link.clock(int(self.rng.integers(0, self.rng.choice([10, self.longest]))))

    def wrong_frame(self):
        """A frame that is too short or too long."""
        right = {frame_beats(self.config, plan.model.inputs) for plan in self.plans}
        beats = int(self.rng.choice([n for n in range(1, max(right) + 9) if n not in right]))
        last = np.arange(beats) == beats - 1
        self.link.send_beats(self.rng.integers(-99, 99, (beats, self.config.beat_columns * self.channels)),
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
        for (number, bank), *now in self.waiting[:steps - self.taken]:
            header = now[1].astype(int)
            header[0] |= bank << BANK_SHIFT | number << MODEL_SHIFT
            self.expected.append((number, header, self.references[number].step(*now, bank=bank)))
        del self.waiting[:steps - self.taken]
        self.taken = steps

    def write_state(self, number=None, voice=None, share=0.2):
        """Write some numbers of a voice's state, or all."""
        if voice is None:
            number, voice = int(self.rng.integers(len(self.plans))), int(self.rng.integers(self.banks * self.channels))
        if self.fresh[number, voice // self.channels]:
            return
        self.rest()
        state = self.references[number].get_state(voice)
        names = [name for name in ("c", "y") if share == 1 or self.rng.random() < 0.6]
        for layer, name, word, count in self.devices[number]._runs(voice):
            values = np.array(getattr(state[layer], name))
            state[layer] = state[layer]._replace(**{name: values})
            bits = self.config.cell_bits if name == "c" else self.config.activation_bits
            for index in range(count):
                if name in names and self.rng.random() <= share:
                    values[index] = self.rng.integers(-1 << (bits - 1), 1 << (bits - 1))
                    self.link.access([(ADDRESS["STATE_SELECT"], word + index),
                                      (ADDRESS["STATE_DATA"], int(values[index]) & 0xFFFFFFFF)])
        self.references[number].set_state(voice, state)
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
        for frame, (number, wanted, y) in enumerate(self.expected):
            header, columns = self.link.receive_frames(1, self.plans[number].model.outputs)
            assert (header[0] == wanted).all(), frame
            assert (columns[0].T == y).all(), frame
        self.expected = []
        for number, voice in np.argwhere(np.repeat(~self.fresh, self.channels, axis=1)).tolist():
            state = self.references[number].get_state(voice)
            self.devices[number]._fresh[voice] = False
            for found, layer in zip(self.devices[number].get_state(voice), state, strict=True):
                assert (found.c == layer.c).all() and (found.y == layer.y).all()


def random_events(rng, plans):
    """Frames at any time, between events that make W_r y stale: every word and every state is the reference's.

    Returns how many there were, by name.
    """
    voices = Voices(rng, plans)
    events = [voices.frame] * 12 + [voices.run_or_stop] * 2 + [
        voices.write_state, voices.write_state, voices.wrong_frame, voices.pause, voices.check, voices.reset]
    names = {voices.frame: "frames", voices.write_state: "states", voices.wrong_frame: "wrong frames",
             voices.reset: "resets"}
    done = Counter()
    for number in rng.integers(len(events), size=EVENTS):
        if events[number] == voices.frame and not voices.runs and len(voices.waiting) >= 2:
            voices.run_or_stop()  # the buffers are full
        events[number]()
        if events[number] in names:
            done[names[events[number]]] += 1
    voices.check()
    voices.link.close()
    return done


def random_times(rng, plans):
    """The cycle model has the cycles of the last answer and all counters, whenever frames of whatever voices come."""
    machine = Measured(plans)
    link, channels, banks = machine._link, plans[0].config.channels, plans[0].banks
    longest = estimate(plans[0]).latency
    shape = (FRAMES, channels)
    models, of = (np.where(rng.random(FRAMES) < 0.5, 0, rng.integers(count, size=FRAMES)).tolist()
                  for count in (len(plans), banks))
    active = rng.random(shape) < rng.choice([0.5, 1.0])
    reset = (rng.random(shape) < 0.5) & (rng.random((FRAMES, 1)) < 0.25)
    named = list(zip(models, of, strict=True))
    reset[[named.index(name) for name in set(named)]] = True  # no voice has a state yet
    header = active | reset << 1
    header[:, 0] |= np.left_shift(of, BANK_SHIFT) | np.left_shift(models, MODEL_SHIFT)
    x = [rng.integers(-99, 99, (channels, plans[number].model.inputs)) for number in models]
    before = machine.counters()
    start, offered = link.cycles, []
    for number in range(FRAMES):
        if number:
            link.clock(int(rng.integers(0, rng.choice([5, longest, 2 * longest]))))
        offered.append(link.cycles - start + READY)
        link.send_frames(header[number:number + 1], x[number].T[None])
    references = [Reference(plan.model, channels, banks=banks) for plan in plans]
    for number, (model, bank) in enumerate(named):
        _, y = link.receive_frames(1, plans[model].model.outputs)
        assert (y[0].T == references[model].step(x[number], active[number], reset[number], bank=bank)).all()
    cycles, after = link.cycles - start, machine.counters()
    run = simulate(plans, offered, anew=np.flatnonzero(reset.any(axis=1)).tolist(), banks=of, models=models)
    assert cycles == run.sent[-1] - READY
    assert {name: after[name] - before[name] for name in COUNTED} == predicted(run)[1]
    link.close()
