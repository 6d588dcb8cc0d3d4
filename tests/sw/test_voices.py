# SPDX-License-Identifier: Apache-2.0
"""Live voices: each gets the answers of its own frames in order, however many share the machine."""

import numpy as np
import pytest
from machines import TINY
from models import random_quantized

from openese.sw.model.quantized import QuantizeError
from openese.sw.pack.image import pack
from openese.sw.pack.schedule import schedule
from openese.sw.reference.machine import Reference
from openese.sw.run.device import Device
from openese.sw.run.voices import VoiceClosed, Voices

CONFIG = TINY.replace(name="voices", banks=3, vector_depth=512)


def alone(model, frames, state=None):
    """The answers to frames (n, I) of a voice that has the machine for itself, and its state afterwards."""
    machine = Reference(model, 1)
    if state is not None:
        machine.set_state(0, model.quantize_state(state)[0])
    y = machine.run(model.quantize_input(frames)[0][:, None])
    return model.dequantize_output(y[:, 0]), model.dequantize_state(machine.get_state(0))


def same(first, second):
    return all((a == b).all() for one, other in zip(first, second, strict=True)
               for a, b in zip(one, other, strict=True))


def live(machine, model, rng, rounds, most):
    """Voices come, send frames, look at their states, go; every answer is compared."""
    voices = Voices(machine)
    callers = []
    for _ in range(rounds):
        while len(callers) < most and rng.random() < 0.7:
            begin = alone(model, rng.normal(size=(3, model.inputs)))[1] if rng.random() < 0.3 else None
            callers.append((voices.open(begin), begin, [], []))
        for voice, _, sent, _ in callers:
            if rng.random() < 0.6:
                frames = rng.normal(size=(int(rng.integers(1, 4)), model.inputs))
                voice.push(frames if len(frames) > 1 else frames[0])
                sent.extend(frames)
        voices.run()
        for caller in list(callers):
            voice, begin, sent, got = caller
            assert not voice.waiting
            got.extend(voice.take())
            wanted, state = alone(model, np.reshape(sent, (-1, model.inputs)), begin)
            assert np.array_equal(np.reshape(got, wanted.shape), wanted)
            if rng.random() < 0.3:
                assert same(voice.state(), state)
            if rng.random() < 0.1:
                voice.close()
                callers.remove(caller)
    return voices


@pytest.mark.parametrize("most", [4, 6, 20], ids=["room", "full", "more than places"])
@pytest.mark.parametrize("seed", range(3))
def test_every_voice_gets_its_own_answers(seed, most):
    rng = np.random.default_rng(seed)
    model = random_quantized(seed, CONFIG, 5, (9, 6), 7)
    voices = live(Reference(model, 2, banks=3), model, rng, 25, most)
    assert voices.places == 6 and (voices.moves > 10) == (most > 6)
    assert voices.frames > voices.steps


@pytest.mark.sim
def test_voices_on_the_verilog():
    from openese.sim.simulator import Simulator

    model = random_quantized(4, CONFIG, 5, 9)
    with Simulator(CONFIG) as link:
        voices = live(Device(link, pack(schedule(model, CONFIG))), model, np.random.default_rng(4), 8, 8)
    assert voices.moves > 0


def test_steps_are_full_and_the_oldest_frame_is_first():
    model = random_quantized(1, CONFIG, 5, 9)
    voices = Voices(Reference(model, 2, banks=3))
    callers = [voices.open() for _ in range(6)]
    for voice in callers:
        voice.push(np.zeros((10, 5)))
    voices.run()
    assert (voices.steps, voices.frames, voices.moves) == (30, 60, 0)


def test_a_closed_voice_frees_its_place_and_keeps_its_answers():
    model = random_quantized(1, CONFIG, 5, 9)
    voices = Voices(Reference(model, 1))
    first = voices.open()
    first.push(np.ones((2, 5)))
    voices.run()
    first.push(np.ones(5))
    first.close()
    first.close()
    assert not first.waiting
    voices.run()
    assert len(first.take()) == 2 and len(first.take()) == 0
    for refused in (lambda: first.push(np.ones(5)), first.state):
        with pytest.raises(VoiceClosed):
            refused()
    second = voices.open()
    assert not any(np.any(part) for layer in second.state() for part in layer)
    second.push(np.ones((2, 5)))
    voices.run()
    assert voices.moves == 0 and np.array_equal(second.take(), alone(model, np.ones((2, 5)))[0])


def test_wrong_frames_are_refused_and_change_nothing():
    model = random_quantized(1, CONFIG, 5, 9)
    voice = Voices(Reference(model, 1)).open()
    with pytest.raises(ValueError, match=r"frames must have shape \(5,\) or \(n, 5\), not \(2, 4\)"):
        voice.push(np.zeros((2, 4)))
    with pytest.raises(QuantizeError, match="not a finite number"):
        voice.push(np.full(5, np.nan))
    voice.push(np.full((1, 5), 1e9))
    assert (voice.waiting, voice.saturations) == (1, 5)
