# SPDX-License-Identifier: Apache-2.0
"""Several models in one machine: any mixture of models, banks and masks gives the words of each model's reference.

``OPENESE_MIXTURES=N`` computes N steps on each machine.
"""

import os
from dataclasses import replace

import numpy as np
import pytest
from machines import MIXED
from models import random_quantized, random_state
from pairs import COUNTED

from openese.rtl.frames import BANK_SHIFT, MODEL_SHIFT
from openese.rtl.registers import ADDRESS, Interrupt
from openese.sim.simulator import Simulator
from openese.sw.cycles.model import READY, simulate
from openese.sw.pack.image import pack
from openese.sw.pack.together import schedule_all
from openese.sw.reference.machine import Reference
from openese.sw.run.device import Device
from openese.sw.run.voices import Voices

pytestmark = pytest.mark.sim

STEPS = int(os.environ.get("OPENESE_MIXTURES", "150"))
SHAPES = [(5, 9), (20, (12, 8)), (7, 12, 9), (11, (12, 8), 9, (16, 12)), (3, 4)]
GRUS = [(6, ("gru", 9)), (5, 7, ("gru", 8))]
BEFORE = [(6, ("before", 9)), (5, ("before", 7), ("gru", 8), ("before", 5))]
DENSE = [(9, (12, 8), ("none", 7)), (6, ("relu", 9), ("tanh", 5)), (4, ("sigmoid", 6), 5, ("relu", 9), ("none", 3))]


class Mixture:
    """Random models in a machine, and a reference for each."""

    def __init__(self, config, seed, pace=False):
        self.rng = rng = np.random.default_rng(seed)
        self.config = config
        shapes = SHAPES + GRUS * config.gru + BEFORE * config.gru_before + DENSE * config.dense
        shapes = [shapes[k] for k in rng.choice(len(shapes), config.models, replace=False)]
        self.models = [replace(random_quantized(int(rng.integers(1 << 30)), config, *shape), name=f"model {number}")
                       for number, shape in enumerate(shapes)]
        self.plans = schedule_all(self.models, config, stream=config.stream)
        self.link = Simulator(config, scramble=seed)
        if config.stream:
            self.link.place(np.zeros(1, np.uint8), latency=60, jitter=20 * pace)
        if pace:
            self.link.pace(0.6, 0.6, seed)
        self.device = Device(self.link, pack(self.plans))
        self.devices = [self.device.of(model.name) for model in self.models]
        self.references = [Reference(model, config.channels, banks=self.device.banks) for model in self.models]
        self.fresh = np.ones((config.models, self.device.banks), bool)

    def frame(self, resets=0.1):
        """Send a frame of any model and bank. Returns the header and the words that must come back."""
        rng, channels = self.rng, self.config.channels
        number, bank = int(rng.integers(len(self.models))), int(rng.integers(self.device.banks))
        limit = 1 << (self.config.activation_bits - 1)
        x = rng.integers(-limit, limit, (channels, self.models[number].inputs))
        active = rng.random(channels) < 0.8
        anew = (rng.random(channels) < resets) | self.fresh[number, bank]
        self.fresh[number, bank] = False
        header = active.astype(int)
        header[0] |= bank << BANK_SHIFT | number << MODEL_SHIFT
        self.link.send_frames((header | anew << 1)[None], x.T[None])
        return header, self.references[number].step(x, active, anew, bank=bank), number

    def check(self, sent):
        for header, wanted, number in sent:
            found, columns = self.link.receive_frames(1, self.models[number].outputs)
            assert (found[0] == header).all()
            assert (columns[0].T == wanted).all()

    def same_states(self):
        for number, (device, reference) in enumerate(zip(self.devices, self.references, strict=True)):
            for voice in range(self.device.banks * self.config.channels):
                if self.fresh[number, voice // self.config.channels]:
                    continue
                device._fresh[voice] = False
                for found, wanted in zip(device.get_state(voice), reference.get_state(voice), strict=True):
                    assert (found.c == wanted.c).all() and (found.y == wanted.y).all()


@pytest.mark.parametrize("config", MIXED.values(), ids=MIXED)
def test_a_random_mixture_is_exact(config):
    """Frames in a row and late, through links that pause, with states that the host sets in between."""
    done = part = 0
    while done < STEPS:
        mixture = Mixture(config, part + 1, pace=part % 2 == 1)
        until = min(STEPS, done + max(75, STEPS // 10))
        while done < until:
            sent = []
            for _ in range(int(mixture.rng.integers(1, 30))):
                sent.append(mixture.frame())
                if mixture.rng.random() < 0.15:
                    mixture.link.clock(int(mixture.rng.integers(3000)))
            mixture.check(sent)
            done += len(sent)
            number, voice = int(mixture.rng.integers(3)), int(mixture.rng.integers(2 * config.channels))
            if not mixture.fresh[number, voice // config.channels]:
                state = random_state(mixture.rng, mixture.models[number])
                mixture.devices[number].set_state(voice, state)
                mixture.references[number].set_state(voice, state)
        mixture.same_states()
        part += 1


@pytest.mark.parametrize("config", MIXED.values(), ids=MIXED)
def test_the_cycle_model_knows_mixtures(config):
    mixture = Mixture(config, 5)
    mixture.link.clock(config.accumulator_rows + 2 * READY)

    def counters():
        before, now = {}, mixture.device.counters()
        while any(before.get(name) != now[name] for name in COUNTED):
            mixture.link.clock(500)
            before, now = now, mixture.device.counters()
        return now

    before, start = counters(), mixture.link.cycles
    sent = [mixture.frame(resets=0) for _ in range(16)]
    mixture.check(sent)
    cycles = mixture.link.cycles - start
    after = counters()
    names = [(int(header[0]) >> BANK_SHIFT & 63, int(header[0]) >> MODEL_SHIFT) for header, _, _ in sent]
    anew = [number for number, name in enumerate(names) if name not in names[:number]]
    run = simulate(mixture.plans, [READY] * len(sent), anew=anew, banks=[bank for bank, _ in names],
                   models=[model for _, model in names])
    assert run.sent[-1] - run.offered[-1] == cycles
    found = run.counters()
    assert {name: after[name] - before[name] for name in COUNTED} == {name: found[name] for name in COUNTED}


def test_a_frame_of_no_model_is_dropped_and_reported():
    mixture = Mixture(MIXED["tiny"], 3)
    mixture.check([mixture.frame()])
    header = np.ones((1, 2), int)
    header[0, 0] |= 3 << MODEL_SHIFT
    mixture.link.send_frames(header, np.ones((1, 9, 2), int))
    mixture.link.drain()
    mixture.link.clock(100)
    assert mixture.link.read(ADDRESS["INTERRUPT"]) & Interrupt.FRAME_BANK
    mixture.check([mixture.frame() for _ in range(4)])


def test_registers_tell_the_models_and_their_sizes():
    mixture = Mixture(MIXED["tiny"], 4)
    mixture.link.clock(50)  # the program has begun
    assert mixture.link.read(ADDRESS["MODELS"]) == 3 | 3 << 8
    for number, model in enumerate(mixture.models):
        mixture.link.write(ADDRESS["MODELS"], number << 16)
        assert mixture.link.read(ADDRESS["MODEL_SIZE"]) == model.inputs | model.outputs << 16
    mixture.link.write(ADDRESS["MODELS"], 3 << 16)
    assert mixture.link.read(ADDRESS["MODEL_SIZE"]) == 0


def test_each_model_has_voices_of_its_own():
    """Callers of two models in turn; the same objects on the references give the same answers."""
    mixture = Mixture(MIXED["tiny"], 6)
    answers = []
    for machines in (mixture.devices, mixture.references):
        rng = np.random.default_rng(1)
        voices = [Voices(machine) for machine in machines]
        callers = [(number, voices[number].open()) for number in (0, 1, 2, 1, 0, 0, 1, 2, 0, 0)]
        heard = []
        for _ in range(3):
            for number, caller in callers:
                caller.push(rng.normal(size=(int(rng.integers(3)), mixture.models[number].inputs)))
            for number in rng.permutation(3):
                voices[number].run()
            heard += [caller.take() for _, caller in callers]
        answers.append(heard)
    assert all((found == wanted).all() for found, wanted in zip(*answers, strict=True))


def test_a_machine_for_several_models_runs_one():
    config = MIXED["tiny"]
    model = random_quantized(7, config, 5, 9)
    device = Device(Simulator(config), pack(schedule_all([model], config)))
    reference = Reference(model, config.channels, banks=device.banks)
    x = np.random.default_rng(7).integers(-99, 99, (6, config.channels, 5))
    assert (device.run(x, banks=[0, 1, 1, 0, 0, 1]) == reference.run(x, banks=[0, 1, 1, 0, 0, 1])).all()
    with pytest.raises(ValueError, match=r"no model 'other' in the image; there are 'integers7' \(0\)"):
        device.of("other")
