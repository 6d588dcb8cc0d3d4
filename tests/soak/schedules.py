# SPDX-License-Identifier: Apache-2.0
"""Frames at any time: while W_r y is multiplied ahead of them, before and after, with whatever makes it stale."""

from collections import Counter

import numpy as np
from pairs import COUNTED, Measured, predicted

from openese.rtl.frames import BANK_SHIFT, frame_beats
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
    """Frames at any time, between events that make W_r y stale: every word and every state is the reference's.

    Returns how many there were, by name.
    """
    voices = Voices(rng, plan)
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


def random_times(rng, plan):
    """The cycle model has the cycles of the last answer and all counters, whenever frames of whatever voices come."""
    machine = Measured(plan)
    link, channels = machine._link, plan.config.channels
    shape = (FRAMES, channels)
    longest = estimate(plan).latency
    x = rng.integers(-99, 99, (*shape, plan.model.inputs))
    banks = np.where(rng.random(FRAMES) < 0.5, 0, rng.integers(plan.banks, size=FRAMES))
    active = rng.random(shape) < rng.choice([0.5, 1.0])
    reset = (rng.random(shape) < 0.5) & (rng.random((FRAMES, 1)) < 0.25)
    reset[np.unique(banks, return_index=True)[1]] = True  # no voice has a state yet
    header = active | reset << 1
    header[:, 0] |= banks << BANK_SHIFT
    before = machine.counters()
    start, offered = link.cycles, []
    for number in range(FRAMES):
        if number:
            link.clock(int(rng.integers(0, rng.choice([5, longest, 2 * longest]))))
        offered.append(link.cycles - start + READY)
        link.send_frames(header[number:number + 1], x[number:number + 1].transpose(0, 2, 1))
    _, y = link.receive_frames(FRAMES, plan.model.outputs)
    cycles, after = link.cycles - start, machine.counters()
    reference = Reference(plan.model, channels, banks=plan.banks)
    assert (y.transpose(0, 2, 1) == [reference.step(*frame, bank=bank) for *frame, bank in zip(
        x, active, reset, banks.tolist(), strict=True)]).all()
    run = simulate(plan, offered, anew=np.flatnonzero(reset.any(axis=1)).tolist(), banks=banks.tolist())
    assert cycles == run.sent[-1] - READY
    assert {name: after[name] - before[name] for name in COUNTED} == predicted(run)[1]
    link.close()
