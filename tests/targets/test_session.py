# SPDX-License-Identifier: Apache-2.0
"""The host library in C at the emitted Verilog, under the sanitizers of the compiler: every word is the reference's.

The program session.c carries out a script; ``OPENESE_SESSIONS=N`` makes random scripts N times as long.
"""

import os
import subprocess

import numpy as np
import pytest
from machines import DENSE, MIXED, TINY
from models import random_quantized
from programs import RESULTS, ROOT, compiled, files

from openese.rtl.frames import BANK_SHIFT
from openese.rtl.registers import ADDRESS, Control
from openese.rtl.watchdog import Stall
from openese.sim.build import emitted, library
from openese.sw.model.state import ChannelState
from openese.sw.pack.image import pack
from openese.sw.pack.schedule import schedule
from openese.sw.pack.together import schedule_all
from openese.sw.reference.machine import Reference

pytestmark = pytest.mark.sim

ROUNDS = 15 * int(os.environ.get("OPENESE_SESSIONS", "1"))
OK, BUSY = RESULTS["OK"], RESULTS["BUSY"]
BANKED = TINY.replace(name="banks", banks=3, vector_depth=512)
SOURCES = ROOT / "tests" / "targets" / "session.c", ROOT / "examples" / "c_host" / "simulated.c"


class Program:
    """The program for an image, at the Verilog of its machine."""

    def __init__(self, folder, image):
        files(folder, image.config, image)
        self.image, self.models = image, image.models()
        self.library = library([emitted(image.config)])
        self.folder = folder
        self.path = compiled(folder, "session", *SOURCES, sanitize=True)

    def run(self, script, voices=8, frames=4, steps=2, patience=200, dma=False):
        """The answers to the lines of a script."""
        arguments = [self.path, self.library, self.folder / "net.img", voices, frames, steps, patience, int(dma)]
        done = subprocess.run(list(map(str, arguments)), input="".join(f"{line}\n" for line in script), text=True,
                              capture_output=True, timeout=300)
        assert done.returncode == 0, done.stderr
        answers = [line.split() for line in done.stdout.splitlines()]
        assert len(answers) == len(script)
        return answers


@pytest.fixture(scope="module", params=["dense", *MIXED])
def program(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "dense":
        image = pack(schedule(random_quantized(4, DENSE, 5, ("relu", 7), (9, 6), ("tanh", 5)), DENSE))
    else:
        config = MIXED[request.param]
        shapes = [(5, 9), (11, (12, 8), 7), (3, ("gru", 8)) if config.gru else (3, 4)]
        models = [random_quantized(number, config, *shape) for number, shape in enumerate(shapes)]
        image = pack(schedule_all(models, config, stream=config.stream))
    return Program(folder, image)


@pytest.fixture(scope="module")
def banked(tmp_path_factory):
    return Program(tmp_path_factory.mktemp("banked"),
                   pack(schedule(random_quantized(4, BANKED, 5, (9, 6)), BANKED)))


def size(model):
    """Numbers of a voice's state."""
    return sum(layer.cells + layer.feedback for layer in model.layers if layer.feedback)


def flat(model, state):
    """A voice's numbers in the layers' states; dense layers have none."""
    return [int(number) for layer, parts in zip(model.layers, state, strict=True) if layer.feedback
            for part in parts for number in part]


def states(model, numbers):
    """The layers' states in a voice's numbers."""
    layers, start = [], 0
    for layer in model.layers:
        if not layer.feedback:
            layers.append(ChannelState(np.zeros(layer.cells, np.int64), np.zeros(0, np.int64)))
            continue
        middle, stop = start + layer.cells, start + layer.cells + layer.feedback
        layers.append(ChannelState(np.array(numbers[start:middle]), np.array(numbers[middle:stop])))
        start = stop
    return layers


class Live:
    """A random script, and what it must answer: each voice has a reference of its own."""

    def __init__(self, models, seed, voices, frames):
        self.rng = np.random.default_rng(seed)
        self.models, self.voices, self.frames = models, voices, frames
        self.script, self.wanted = [], []
        self.callers = {}  # by number: model, reference, frames, answers
        self.say("start", wanted=[OK])

    def say(self, name, first=0, second=0, *numbers, wanted):
        self.script.append(" ".join(map(str, (name, first, second, *numbers))))
        self.wanted.append(wanted)

    def open(self):
        free = [number for number in range(self.voices) if number not in self.callers]
        number, model = int(self.rng.choice(free)), int(self.rng.integers(len(self.models)))
        self.callers[number] = model, Reference(self.models[model], 1), [], []
        self.say("open", number, model, wanted=[OK])

    def push(self, number):
        which, _, frames, answers = self.callers[number]
        model, fits = self.models[which], len(self.callers[number][2]) + len(answers) < self.frames
        if self.rng.random() < 0.5:
            x = self.rng.integers(-32768, 32768, model.inputs)
            self.say("push_integers", number, 0, *x, wanted=[OK if fits else RESULTS["FULL"]])
        else:
            spread = 2.0 ** (17 - model.layers[0].x_fraction)  # some are clamped
            real = self.rng.normal(scale=spread / 2, size=model.inputs).astype(np.float32)
            x = model.quantize_input(real)[0]
            self.say("push", number, 0, *(float(value).hex() for value in real),
                     wanted=[OK if fits else RESULTS["FULL"]])
        if fits:
            frames.append(x)

    def run(self):
        self.say("run", wanted=[OK])
        for _, reference, frames, answers in self.callers.values():
            answers += [reference.step(x[None])[0] for x in frames]
            frames.clear()

    def take(self, number):
        which, _, _, answers = self.callers[number]
        if not answers:
            self.say("take", number, wanted=[RESULTS["EMPTY"]])
        elif self.rng.random() < 0.5:
            self.say("take_integers", number, wanted=[OK, *answers.pop(0).tolist()])
        else:
            y = self.models[which].dequantize_output(answers.pop(0))
            self.say("take", number, wanted=[OK, *y.tolist()])

    def states(self, number):
        which, reference, _, _ = self.callers[number]
        model = self.models[which]
        count = size(model)
        if self.rng.random() < 0.4:
            numbers = [int(self.rng.integers(-32768, 32768)) for _ in range(count)]
            reference.set_state(0, states(model, numbers))
            self.say("set_state", number, count, *numbers, wanted=[OK])
        else:
            self.say("get_state", number, count, wanted=[OK, *flat(model, reference.get_state(0))])

    def round(self):
        rng = self.rng
        while len(self.callers) < self.voices and rng.random() < 0.7:
            self.open()
        for _ in range(3):
            for number in self.callers:
                if rng.random() < 0.6:
                    self.push(number)
            if rng.random() < 0.5:
                self.say("poll", wanted=None)
        gone = [number for number in self.callers if rng.random() < 0.05]
        for number in gone:  # some with frames under way
            self.say("close", number, wanted=[OK])
            del self.callers[number]
        self.run()
        for number, (*_, answers) in list(self.callers.items()):
            for _ in range(int(rng.integers(0, len(answers) + 2))):
                self.take(number)
            if rng.random() < 0.2:
                self.states(number)


def numbers_of(words):
    return [float.fromhex(word) if "x" in word else int(word) for word in words]


@pytest.mark.parametrize(("voices", "steps", "dma", "pace"), [(4, 1, False, 100), (20, 3, False, 60), (7, 2, True, 80)],
                         ids=["fit", "paged", "dma"])
def test_every_word_is_that_of_the_reference(program, voices, steps, dma, pace):
    live = Live(program.models, voices, voices, 4)
    live.say("pace", 0, pace, wanted=[OK])
    for _ in range(ROUNDS):
        live.round()
    live.say("statistics", wanted=None)
    answers = program.run(live.script, voices, 4, steps, dma=dma)
    for line, answer, wanted in zip(live.script, answers, live.wanted, strict=True):
        if wanted is None:
            assert int(answer[0]) in (OK, BUSY), line
        else:
            assert numbers_of(answer) == wanted, line
    _, made, frames, moves = map(int, answers[-1])
    assert made <= frames
    if voices == 20:
        assert moves > 10  # there are fewer places for each model
    # Voices share steps.
    if program.image.config.channels > 1:
        assert made < frames


def test_a_reset_begins_anew(banked):
    model, x = banked.models[0], [7] * 5
    first = Reference(model, 1).step([x])[0].tolist()
    for dma in (False, True):
        script = ["start 0 0", "open 0 0", "open 1 0", *["push_integers 0 0 7 7 7 7 7"] * 3, "poll 0 0",
                  "push_integers 1 0 7 7 7 7 7", "reset 0 0", "push_integers 1 0 7 7 7 7 7",
                  "push_integers 0 0 7 7 7 7 7", "run 0 0", "take_integers 1 0"]
        answers = banked.run(script, dma=dma)
        assert numbers_of(answers[-1]) == [OK, *first]
        assert numbers_of(answers[-2]) == [OK]
        # And so does a start: another program was there before.
        again = ["start 0 0", "open 0 0", *["push_integers 0 0 7 7 7 7 7"] * 3, "poll 0 0", *script[:3], *script[-4:]]
        assert numbers_of(banked.run(again, dma=dma)[-1]) == [OK, *first]


def test_what_the_machine_reports(banked):
    """Frames that others send into the machine's stream, and what becomes of those of the host."""
    lead = ["start 0 0", "open 0 0", "push_integers 0 0 1 2 3 4 5"]
    for frame, result in (((3, 1), "FRAME_SHORT"), ((9, 1), "FRAME_LONG"), ((6, 1 | 3 << BANK_SHIFT), "FRAME_BANK")):
        script = [lead[0], f"send {frame[0]} {frame[1]}", *lead[1:], "poll 0 0", "run 0 0"]
        # The host's own frame is computed; the machine's report is seen while it waits.
        results = [int(line[0]) for line in banked.run(script)]
        assert RESULTS[result] in results[-2:]
    # The host waits for an answer, and gets that of another frame.
    script = [lead[0], f"send 6 {1 | 2 << BANK_SHIFT}", *lead[1:], "run 0 0"]
    assert int(banked.run(script)[-1][0]) == RESULTS["OTHER_FRAME"]
    # No run: nothing is computed.
    script = [*lead, f"write {ADDRESS['CONTROL']} 0", "run 0 0", "reset 0 0", lead[2], "run 0 0"]
    assert [int(line[0]) for line in banked.run(script, patience=20)[-4:]] == [RESULTS["TIMEOUT"], OK, OK, OK]
    # Damage on the way.
    script = ["damage 100 1", "start 0 0", "damage 100 1", "start 0 0"]
    assert [int(line[0]) for line in banked.run(script)] == [OK, RESULTS["OTHER_IMAGE"], OK, OK]


def test_a_stall_is_told_with_its_cause(banked):
    """The watchdog's patience is shorter than the host's."""
    script = ["start 0 0", "open 0 0", "lose 0 2", "push_integers 0 0 1 2 3 4 5", "run 0 0",
              f"read 0 {ADDRESS['STALL']}", "reset 0 0"]
    answers = banked.run(script, patience=400)
    assert int(answers[-3][0]) == RESULTS["STALLED"]
    assert numbers_of(answers[-2]) == [OK, Stall.FRAME]


@pytest.mark.parametrize("dma", [False, True])
def test_a_frame_that_lost_its_last_beats_costs_no_other(banked, dma):
    """A reset ends it."""
    model = banked.models[0]
    script = ["start 0 0", "open 0 0", "lose 0 2", "push_integers 0 0 1 2 3 4 5", "run 0 0", "reset 0 0",
              "push_integers 0 0 1 2 3 4 5", "run 0 0", "take_integers 0 0"]
    answers = banked.run(script, patience=20, dma=dma)
    assert [int(line[0]) for line in answers[4:8]] == [RESULTS["TIMEOUT"], OK, OK, OK]
    assert numbers_of(answers[-1]) == [OK, *Reference(model, 1).step([[1, 2, 3, 4, 5]])[0].tolist()]


def test_a_machine_without_an_image_is_told(banked):
    """It has refused what was loaded."""
    script = ["start 0 0", "open 0 0", f"write {ADDRESS['CONTROL']} {int(Control.LOAD)}", f"write {ADDRESS['LOAD']} 1",
              "reset 0 0", "run 0 0", "start 0 0", "open 0 0", "push_integers 0 0 1 2 3 4 5", "run 0 0"]
    results = [int(line[0]) for line in banked.run(script, patience=20)]
    assert results == [OK, OK, OK, OK, RESULTS["NO_IMAGE"], RESULTS["NO_IMAGE"], OK, OK, OK, OK]


def test_a_dma_that_fails_is_told(banked):
    script = ["start 0 0", "open 0 0", "fail 0 1", "push_integers 0 0 1 2 3 4 5", "run 0 0", "run 0 0", "reset 0 0",
              "push_integers 0 0 1 2 3 4 5", "run 0 0", "take_integers 0 0"]
    answers = banked.run(script, dma=True)
    assert [int(line[0]) for line in answers[4:9]] == [RESULTS["DMA"], RESULTS["DMA"], OK, OK, OK]
    assert numbers_of(answers[-1]) == [OK, *Reference(banked.models[0], 1).step([[1, 2, 3, 4, 5]])[0].tolist()]


def test_states_that_do_not_fit(banked):
    script = ["start 0 0", "open 0 0", "get_state 0 14", "set_state 0 14 " + "0 " * 14,
              "set_state 0 15 8388608 " + "0 " * 14, "set_state 0 15 " + "0 " * 14 + "-32769",
              "push_integers 0 0 1 2 3 4 5", "set_state 0 15 " + "0 " * 15, "get_state 0 15", "run 0 0",
              "set_state 0 15 8388607 " + "0 " * 13 + "-32768", "get_state 0 15"]
    results = [int(line[0]) for line in banked.run(script)]
    assert results == [OK, OK, *[RESULTS["RANGE"]] * 4, OK, BUSY, OK, OK, OK, OK]
    assert numbers_of(banked.run(script)[-1]) == [OK, 8388607, *[0] * 13, -32768]
