# SPDX-License-Identifier: Apache-2.0
"""The host library in C: its numbers and its frames, with a machine in Python behind it; and its header."""

import ctypes
import re
import zlib

import numpy as np
import pytest
from machines import DENSE, GROUPS, STREAM, TINY
from models import random_model, random_quantized
from programs import RESULTS, Io, compiled, files

from openese.rtl.config import Config
from openese.rtl.fixed import saturate, to_fixed
from openese.rtl.frames import BANK_SHIFT, MODEL_SHIFT, beat_bytes, pack_frames, unpack_frames
from openese.rtl.loader import MAGIC, VERSION, Section
from openese.rtl.registers import ADDRESS, Interrupt, Status
from openese.sw.cli import main
from openese.sw.pack.image import Image, pack, read
from openese.sw.pack.schedule import schedule
from openese.sw.pack.together import schedule_all
from openese.sw.quantize.choose import quantize
from openese.sw.reference.machine import Reference
from openese.sw.run.header import HeaderError, write_header

OK, BUSY = RESULTS["OK"], RESULTS["BUSY"]

GLUE = """
#include "net.h"
const openese_image *glue_image(void) { return &net_image; }
size_t glue_host(void) { return sizeof(openese_host); }
size_t glue_memory(unsigned voices, unsigned frames, unsigned steps) { return NET_MEMORY(voices, frames, steps); }
size_t glue_buffers(unsigned steps) { return NET_BUFFERS(steps); }
"""


class Setup(ctypes.Structure):
    """``openese_setup``."""

    _fields_ = [("image", ctypes.c_void_p), ("io", ctypes.POINTER(Io)), ("voices", ctypes.c_uint32),
                ("frames", ctypes.c_uint32), ("steps", ctypes.c_uint32), ("patience", ctypes.c_uint32),
                ("memory", ctypes.c_void_p), ("buffers", ctypes.c_void_p), ("memory_count", ctypes.c_size_t),
                ("buffers_count", ctypes.c_size_t)]


class Machine:
    """A machine in Python: registers as far as the host needs them, and steps by the reference."""

    def __init__(self, image):
        self.config = config = image.config
        self.references = [Reference(model, config.channels, banks=int(image.manifest.get("banks", 1)))
                           for model in image.models()]
        self.registers = {"ID": MAGIC, "VERSION": VERSION, "FINGERPRINT": config.fingerprint,
                          "STATUS": Status.LOADED | Status.IDLE}
        self.names = {address: name for name, address in ADDRESS.items()}
        self.asked, self.answers, self.broken = [], [], {}
        self.banks, self.selected = [], []  # of frames; words of STATE_SELECT
        self.waits = self.abandoned = 0
        self.reports = True
        self.io = Io(read=Io.READ(self._read), write=Io.WRITE(self._write), send=Io.FRAME(self._send),
                     receive=Io.FRAME(self._receive), received=Io.RECEIVED(self._received),
                     abandon=Io.PLAIN(self._abandon), wait=Io.PLAIN(self._wait))

    def _read(self, _, address, value):
        value[0] = int(self.registers.get(self.names[address], 0))
        return self.broken.get(f"read {self.names[address]}", OK)

    def _write(self, _, address, value):
        if self.names[address] == "STATE_SELECT":
            self.selected.append(value)
        if self.names[address] == "INTERRUPT":
            self.registers["INTERRUPT"] = self.registers.get("INTERRUPT", 0) & ~value
        return self.broken.get(f"write {self.names[address]}", OK)

    def _send(self, _, frame, size):
        if "send" in self.broken:
            return self.broken["send"]
        config = self.config
        if size == beat_bytes(config):  # the end of a frame that was cut
            self.registers["INTERRUPT"] = self.registers.get("INTERRUPT", 0) | (Interrupt.FRAME_SHORT * self.reports)
            return OK
        beats = np.ctypeslib.as_array(frame, (size,)).reshape(-1, beat_bytes(config))
        first, _ = unpack_frames(config, beats, 0)
        number = (int(first[0]) & 0xFFFF) >> MODEL_SHIFT if config.models > 1 else 0
        reference = self.references[number]
        header, x = unpack_frames(config, beats, reference.model.inputs)
        assert (pack_frames(config, header, x) == beats).all()  # bits that mean nothing are 0
        bank = (int(header[0]) >> BANK_SHIFT) % 64
        assert not any(header[1:] >> 2)
        self.banks.append(bank)
        y = reference.step(x.T, header & 1, header >> 1 & 1, bank=bank)
        self.answers.append(pack_frames(config, header & ~2, y.T).reshape(-1))
        return OK

    def _receive(self, _, frame, size):
        if len(self.asked) == self.broken.get("receives", 99):
            return BUSY
        self.asked.append((frame, size))
        return OK

    def _received(self, _, size):
        if "received" in self.broken:
            return self.broken["received"]
        if not self.asked or not self.answers:
            return BUSY
        (frame, room), answer = self.asked.pop(0), self.answers.pop(0)
        assert room == len(answer)
        ctypes.memmove(frame, np.ascontiguousarray(answer).ctypes.data, room)
        size[0] = self.broken.get("size", room)
        return OK

    def _abandon(self, _):
        self.abandoned += 1
        self.asked.clear()
        self.answers.clear()
        return self.broken.get("abandon", OK)

    def _wait(self, _):
        self.waits += 1
        return self.broken.get("wait", OK)


class Host:
    """The compiled library with an image, at a `Machine`."""

    def __init__(self, folder, image, voices=4, frames=3, steps=2, patience=20, compile_=True):
        if compile_:
            files(folder, image.config, image)
            (folder / "glue.c").write_text(GLUE)
            compiled(folder, "host.so", library=True)
            image = read(folder / "net.img")
        self.library = ctypes.CDLL(str(folder / "host.so"))
        for name in ("glue_image", "glue_host", "glue_memory", "glue_buffers"):
            getattr(self.library, name).restype = ctypes.c_size_t
        self.machine, self.image, self.words = Machine(image), image, image.words(everything=True)
        sizes = self.library.glue_memory(voices, frames, steps), self.library.glue_buffers(steps)
        self.memory = [np.full(size + 1, 0xA5A5A5A5A5A5A5A5, np.uint64) for size in sizes]
        self.host = ctypes.create_string_buffer(self.library.glue_host())
        self.setup = Setup(self.library.glue_image(), ctypes.pointer(self.machine.io), voices, frames, steps, patience,
                           *(part.ctypes.data for part in self.memory), *sizes)

    def __call__(self, name, *arguments):
        result = getattr(self.library, f"openese_host_{name}")(self.host, *arguments)
        assert all(part[-1] == 0xA5A5A5A5A5A5A5A5 for part in self.memory)  # nothing is written behind it
        return result

    def start(self):
        return self("start", ctypes.byref(self.setup), self.words.ctypes.data_as(ctypes.c_void_p),
                    ctypes.c_size_t(len(self.words)))

    def open(self, model=0):
        voice = ctypes.c_uint32()
        assert self("open", ctypes.c_uint32(model), ctypes.byref(voice)) == OK
        return voice

    def push(self, voice, x):
        return self("push", voice, (ctypes.c_float * len(x))(*x))

    def push_integers(self, voice, x):
        return self("push_integers", voice, (ctypes.c_int32 * len(x))(*map(int, x)))

    def take(self, voice, count, integers=False):
        y = ((ctypes.c_int32 if integers else ctypes.c_float) * count)()
        result = self("take_integers" if integers else "take", voice, y)
        return (result, list(y)) if result == OK else (result, None)

    def count(self, voice):
        values = ctypes.c_uint32(), ctypes.c_uint32(), ctypes.c_uint64()
        assert self("count", voice, *map(ctypes.byref, values)) == OK
        return tuple(value.value for value in values)


def image_of(config, *shapes, seed=1):
    models = [random_quantized(seed + number, config, *shape) for number, shape in enumerate(shapes)]
    return pack(schedule_all(models, config) if config.models > 1 else schedule(models[0], config))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder with the library for one model on `TINY`, and its image."""
    folder = tmp_path_factory.mktemp("tiny")
    image = image_of(TINY, (5, (9, 6)))
    Host(folder, image)
    return folder, read(folder / "net.img")


@pytest.fixture
def host(tiny):
    made = Host(*tiny, compile_=False)
    assert made.start() == OK
    return made


WIDE = Config(name="wide", pes=64, channels=16, groups=8, slices=2, activation_bits=18, cell_bits=24, entry_depth=1024,
              column_depth=512, vector_depth=512, cell_rows=32, accumulator_rows=128, queue_depth=16)


@pytest.mark.parametrize("config", [
    TINY.replace(name="nine", activation_bits=9, banks=2, vector_depth=512),
    TINY.replace(name="thirteen", activation_bits=13, channels=8, models=2, program_depth=128, column_depth=512,
                 vector_depth=512, entry_depth=2048, accumulator_rows=256),
    GROUPS.replace(name="fifteen", activation_bits=15, models=2, banks=3, program_depth=128, vector_depth=1024,
                   column_depth=512, entry_depth=2048, accumulator_rows=256), WIDE], ids=lambda config: config.name)
def test_frames_are_those_of_the_reference(config, tmp_path):
    """Words of any width, column groups that take several beats, banks and models: every word is right."""
    rng = np.random.default_rng(1)
    if config is WIDE:
        assert config.beat_columns < config.groups
    image = image_of(config, (5, (9, 6)), (3, 7))
    places = config.channels * int(image.manifest.get("banks", 1))
    host = Host(tmp_path, image, voices=2 * places)
    assert host.start() == OK
    models = image.models()
    limit = 1 << (config.activation_bits - 1)
    callers = []
    for number in range(places * len(models)):
        model = models[number % len(models)]
        callers.append((host.open(number % len(models)), model, Reference(model, 1)))
    for _ in range(4):
        wanted = []
        for voice, model, reference in callers:
            wanted.append([])
            for _ in range(int(rng.integers(0, 3))):
                x = rng.choice([rng.integers(-limit, limit), -limit, limit - 1, 0, -1], model.inputs)
                assert host.push_integers(voice, x) == OK
                wanted[-1].append(reference.step(x[None])[0].tolist())
        assert host("run") == OK
        for (voice, model, _), answers in zip(callers, wanted, strict=True):
            for answer in answers:
                assert host.take(voice, model.outputs, integers=True) == (OK, answer)
            assert host.take(voice, model.outputs)[0] == RESULTS["EMPTY"]


def test_numbers_are_rounded_as_in_python(tiny):
    library = Host(*tiny, compile_=False).library
    function = library.openese_quantize
    function.argtypes = [ctypes.c_double, ctypes.c_int, ctypes.c_int, ctypes.POINTER(ctypes.c_int32)]
    rng = np.random.default_rng(2)
    number = ctypes.c_int32()
    for fraction, bits in ((0, 8), (13, 16), (17, 18), (-3, 12), (25, 27), (90, 16), (-90, 16)):
        scale = 2.0 ** -fraction
        halves = (np.arange(-300, 300) + 0.5) * scale
        edge = 2.0 ** (bits - 1) * scale
        values = np.concatenate([
            halves, np.nextafter(halves, np.inf), np.nextafter(halves, -np.inf), rng.normal(scale=edge, size=300),
            [0.0, -0.0, edge, -edge, edge - scale / 2, -edge - scale / 2, np.nextafter(edge - scale / 2, 0),
             np.nextafter(-edge - scale / 2, -np.inf), 5e-324, -5e-324, 1.7e308, -1.7e308]])
        exact = to_fixed(values, fraction)
        wanted = saturate(exact, bits)
        for value, whole, result in zip(values.tolist(), exact, wanted, strict=True):
            assert function(value, fraction, bits, ctypes.byref(number)) == (whole != result), (value, fraction, bits)
            assert number.value == result, (value, fraction, bits)
    for value in (np.inf, -np.inf, np.nan):
        assert function(value, 3, 16, ctypes.byref(number)) == RESULTS["NOT_FINITE"]


def test_floats_go_in_and_out_by_the_formats_of_the_image(tmp_path):
    """Inputs of very different size, each with fraction bits of its own."""
    rng = np.random.default_rng(3)
    scales = np.array([1000.0, 1.0, 1e-3])
    network = random_model(3, 3, (8, 5))
    layer = network.layers[0]
    object.__setattr__(layer, "w_x", layer.w_x / scales)
    frames = rng.normal(size=(60, 1, 3)) * scales
    model = quantize(network, frames, TINY)
    assert len(set(model.input_fractions.tolist())) > 1
    host = Host(tmp_path, pack(schedule(model, TINY)))
    assert host.start() == OK
    voice, reference = host.open(), Reference(model, 1)
    loud = frames[:, 0].astype(np.float32)
    loud[3:6] *= 100
    saturations = 0
    for x in loud:
        integers, saturated = model.quantize_input(x)
        saturations += saturated
        assert host.push(voice, x.tolist()) == OK and host("run") == OK
        wanted = model.dequantize_output(reference.step(integers[None])[0])
        result, y = host.take(voice, model.outputs)
        assert result == OK and y == wanted.tolist() and host.count(voice) == (0, 0, saturations)
    assert saturations > 3


def test_voices_come_and_go(host):
    voices = [host.open() for _ in range(4)]
    assert host("open", ctypes.c_uint32(0), ctypes.byref(ctypes.c_uint32())) == RESULTS["NO_ROOM"]
    assert host("open", ctypes.c_uint32(1), ctypes.byref(ctypes.c_uint32())) == RESULTS["NO_MODEL"]
    x = [0.5] * 5
    for _ in range(3):
        assert host.push(voices[0], x) == OK
    assert host.push(voices[0], x) == RESULTS["FULL"] and host.count(voices[0]) == (3, 0, 0)
    assert host("run") == OK
    assert host.push(voices[0], x) == RESULTS["FULL"] and host.count(voices[0]) == (0, 3, 0)
    assert host.take(voices[0], 6)[0] == OK and host.push(voices[0], x) == OK
    for value in (np.nan, np.inf, -np.inf):
        assert host.push(voices[1], [0, 0, 0, 0, value]) == RESULTS["NOT_FINITE"]
    assert host.push_integers(voices[1], [0, 0, 0, 0, 32768]) == RESULTS["RANGE"]
    assert host.push_integers(voices[1], [-32769, 0, 0, 0, 0]) == RESULTS["RANGE"]
    assert host.count(voices[1]) == (0, 0, 0)
    assert host("close", voices[0]) == OK
    again = host.open()  # the same memory, another voice
    assert again.value & 0xFFFF == voices[0].value & 0xFFFF and again.value != voices[0].value
    unknown = (voices[0], ctypes.c_uint32(0), ctypes.c_uint32(0xFFFFFFFF), ctypes.c_uint32(4))
    for voice in unknown:
        assert host("close", voice) == host.push(voice, x) == host.take(voice, 6)[0] == RESULTS["CLOSED"]
        assert host.push_integers(voice, [0] * 5) == host.take(voice, 6, True)[0] == RESULTS["CLOSED"]
        for name in ("get_state", "set_state"):
            assert host(name, voice, (ctypes.c_int32 * 15)(), ctypes.c_size_t(15)) == RESULTS["CLOSED"]
    # The frames of the closed voice are gone; the new voice starts from zero.
    reference = Reference(host.image.model(), 1)
    assert host.push_integers(again, [9] * 5) == OK and host("run") == OK
    assert host.take(again, 6, True) == (OK, reference.step([[9] * 5])[0].tolist())


def test_a_closed_voice_leaves_nothing_to_who_takes_its_place(host):
    """Its step is under way when it goes."""
    first = host.open()
    host.machine.broken["received"] = BUSY
    assert host.push_integers(first, [7] * 5) == OK and host("poll") == BUSY
    assert host("close", first) == OK
    second = host.open()
    del host.machine.broken["received"]
    reference = Reference(host.image.model(), 1)
    assert host.push_integers(second, [3] * 5) == OK and host("run") == OK
    assert host.take(second, 6, True) == (OK, reference.step([[3] * 5])[0].tolist())
    assert host.take(second, 6)[0] == RESULTS["EMPTY"]


def test_the_bank_whose_frame_came_first_is_first(tmp_path):
    config = TINY.replace(name="nine", activation_bits=9, banks=2, vector_depth=512)
    host = Host(tmp_path, image_of(config, (5, (9, 6))))
    assert host.start() == OK
    voices = [host.open() for _ in range(4)]
    # The first two voices have the first bank.
    for order, banks in (([0, 1, 2, 3], [0, 1]), ([3, 0, 1, 2], [1, 0]), ([1, 3, 1, 3], [0, 1, 0, 1]),
                         ([2, 2, 0, 2], [1, 1, 0, 1])):
        host.machine.banks.clear()
        for number in order:
            assert host.push_integers(voices[number], [number] * 5) == OK
        assert host("run") == OK
        assert host.machine.banks == banks
        for voice in voices:
            while host.take(voice, 6)[0] == OK:
                pass


def test_who_was_used_longest_ago_makes_room(host):
    """Two places, three voices. The state that goes out is the one that comes in again, once."""
    first, second, third = (host.open() for _ in range(3))

    def turn(*voices):
        host.machine.selected.clear()
        for voice in voices:
            assert host.push_integers(voice, [1] * 5) == OK
        assert host("run") == OK
        for voice in voices:
            assert host.take(voice, 6)[0] == OK
        return {(word >> 16) % 256 for word in host.machine.selected}

    assert turn(first, second) == turn(first) == set()
    assert turn(third) == {1} and len(host.machine.selected) == 2  # c and y of the second go out
    assert turn(second) == {0} and len(host.machine.selected) == 4  # those of the first go out, of the second come in
    state = (ctypes.c_int32 * 15)()
    assert host("get_state", second, state, ctypes.c_size_t(15)) == OK
    assert turn(second) == turn(third) == set()  # what was read stays in the machine too
    # A state that the caller brings need not go in before it goes out.
    brought = (ctypes.c_int32 * 15)(*range(15))
    assert host("set_state", second, brought, ctypes.c_size_t(15)) == OK
    assert turn(third) == set() and turn(first) == {0} and len(host.machine.selected) == 2
    assert host("get_state", second, state, ctypes.c_size_t(15)) == OK and list(state) == list(range(15))


def test_models_by_name(tmp_path):
    config = TINY.replace(name="two", models=2, program_depth=128, column_depth=512, vector_depth=512,
                          entry_depth=2048, accumulator_rows=256)
    models = [random_quantized(1, config, 5, 9), random_quantized(2, config, 3, 7)]
    object.__setattr__(models[0], "name", 'a "name" \\ with ??/ and */ and ü')
    host = Host(tmp_path, pack(schedule_all(models, config)))
    assert host.start() == OK
    number = ctypes.c_uint32()
    for wanted, model in enumerate(models):
        assert host("model", model.name.encode(), ctypes.byref(number)) == OK and number.value == wanted
    assert host("model", b"third", ctypes.byref(number)) == RESULTS["NO_MODEL"]


def test_a_model_without_state(tmp_path):
    """Dense layers have none; voices take turns all the same."""
    host = Host(tmp_path, image_of(DENSE, (5, ("tanh", 4))), voices=5)
    assert host.start() == OK
    model, voices = host.image.model(), [host.open() for _ in range(5)]
    reference = Reference(model, 1)
    for turn in range(2):
        for number, voice in enumerate(voices):
            assert host.push_integers(voice, [100 * number + turn] * 5) == OK
        assert host("run") == OK
        for number, voice in enumerate(voices):
            wanted = reference.step([[100 * number + turn] * 5])[0].tolist()
            assert host.take(voice, 4, integers=True) == (OK, wanted)
            nothing = (ctypes.c_int32 * 1)()
            assert host("get_state", voice, nothing, ctypes.c_size_t(0)) == OK
            assert host("set_state", voice, nothing, ctypes.c_size_t(0)) == OK
            assert host("get_state", voice, nothing, ctypes.c_size_t(1)) == RESULTS["RANGE"]


def test_one_answer_at_a_time(tiny):
    """A DMA may take one buffer alone, and only later."""
    host = Host(*tiny, compile_=False, steps=3)
    host.machine.broken["receives"] = 1
    assert host.start() == OK
    voice, reference = host.open(), Reference(host.image.model(), 1)
    for k in range(3):
        assert host.push_integers(voice, [k] * 5) == OK
    assert host("run") == OK
    for k in range(3):
        assert host.take(voice, 6, True) == (OK, reference.step([[k] * 5])[0].tolist())


@pytest.mark.parametrize(("broken", "result"), [
    ({"send": RESULTS["DMA"]}, "DMA"), ({"received": RESULTS["DMA"]}, "DMA"), ({"size": 3}, "OTHER_FRAME"),
    ({"received": BUSY}, "TIMEOUT"), ({"send": BUSY}, "TIMEOUT"), ({"receives": 0}, "TIMEOUT"),
    ({"received": BUSY, "wait": RESULTS["BUS"]}, "BUS"),
    ({"received": BUSY, "read INTERRUPT": RESULTS["BUS"]}, "BUS")], ids=str)
def test_an_error_stays_until_a_reset(host, broken, result):
    voice = host.open()
    assert host.push_integers(voice, [1] * 5) == OK and host("run") == OK
    host.machine.broken.update(broken)
    assert host.push_integers(voice, [2] * 5) == OK
    assert host("run") == RESULTS[result]
    host.machine.broken.clear()
    assert host("run") == host("poll") == RESULTS[result]
    assert host("get_state", voice, (ctypes.c_int32 * 15)(), ctypes.c_size_t(15)) == RESULTS[result]
    assert host("reset") == OK and host.machine.abandoned > 1
    # The answer that came is there; the frame is not, and the voice starts from zero.
    reference = Reference(host.image.model(), 1)
    assert host.take(voice, 6, True) == (OK, reference.step([[1] * 5])[0].tolist())
    assert host.push_integers(voice, [3] * 5) == OK and host("run") == OK
    assert host.take(voice, 6, True) == (OK, reference.step([[3] * 5], reset=[True])[0].tolist())
    assert host.take(voice, 6)[0] == RESULTS["EMPTY"]


@pytest.mark.parametrize(("cause", "status", "result"), [
    (Interrupt.FRAME_SHORT, 0, "FRAME_SHORT"), (Interrupt.FRAME_LONG, 0, "FRAME_LONG"),
    (Interrupt.FRAME_BANK, 0, "FRAME_BANK"), (Interrupt.STREAM_FAILED, 0, "STREAM_FAILED"),
    (Interrupt.STALLED, Status.STALLED, "STALLED"), (0, Status.STALLED, "STALLED"),
    (Interrupt.STALLED, 0, "TIMEOUT"), (Interrupt.FRAME_SENT, 0, "TIMEOUT")])
def test_what_the_machine_reports_is_told(host, cause, status, result):
    host.machine.broken["received"] = BUSY
    host.machine.registers["INTERRUPT"] = cause
    host.machine.registers["STATUS"] |= status
    assert host.push_integers(host.open(), [1] * 5) == OK
    assert host("run") == RESULTS[result]
    assert not host.machine.registers["INTERRUPT"] & (cause or 0)
    assert host.machine.waits <= 20


def test_the_end_of_a_cut_frame_is_no_error(tiny):
    """It may be reported late, as a frame that is too short; a report after the first answer is one of an error."""
    host = Host(*tiny, compile_=False)
    host.machine.reports = False
    assert host.start() == OK
    host.machine.registers["INTERRUPT"] = Interrupt.FRAME_SHORT
    voice = host.open()
    assert host.push_integers(voice, [1] * 5) == OK == host("run")
    assert not host.machine.registers["INTERRUPT"]
    host.machine.registers["INTERRUPT"] = Interrupt.FRAME_SHORT
    host.machine.broken["received"] = BUSY
    assert host.push_integers(voice, [1] * 5) == OK and host("run") == RESULTS["FRAME_SHORT"]
    assert host("reset") == OK and host.push_integers(voice, [1] * 5) == OK
    host.machine.registers["INTERRUPT"] = Interrupt.FRAME_SHORT
    assert host("run") == RESULTS["TIMEOUT"]


def test_a_reset_that_fails_is_told(host):
    host.machine.registers["STATUS"] = Status.LOADED
    assert host("reset") == RESULTS["TIMEOUT"] == host("run")
    host.machine.registers["STATUS"] |= Status.IDLE
    assert host("reset") == OK == host("run")


def test_a_start_that_fails_is_told(tiny):
    def fails(change=lambda host: None, **sizes):
        host = Host(*tiny, compile_=False, **sizes)
        change(host)
        result = host.start()
        assert result != OK and host("run") == host("poll") == result  # and nothing can be opened
        if host.setup.memory_count:
            assert host("open", ctypes.c_uint32(0), ctypes.byref(ctypes.c_uint32())) in (OK, RESULTS["NO_ROOM"])
        return result

    for size in ("voices", "frames", "steps", "patience"):
        assert fails(**{size: 0}) == RESULTS["NO_MEMORY"]
    for count in ("memory_count", "buffers_count"):
        assert fails(lambda host, count=count: setattr(host.setup, count,
                                                       getattr(host.setup, count) - 1)) == RESULTS["NO_MEMORY"]
    assert fails(lambda host: setattr(host.setup, "voices", 65536)) == RESULTS["NO_MEMORY"]
    assert fails(lambda host: host.words.__setitem__(-1, 0)) == RESULTS["OTHER_IMAGE"]
    assert fails(lambda host: setattr(host, "words", host.words[:-1])) == RESULTS["OTHER_IMAGE"]
    for name, result in (("ID", "NO_MACHINE"), ("VERSION", "OTHER_VERSION"), ("FINGERPRINT", "OTHER_CONFIG")):
        assert fails(lambda host, name=name: host.machine.registers.update({name: 0})) == RESULTS[result]
    assert fails(lambda host: host.machine.registers.update(STATUS=Status.IDLE)) == RESULTS["REFUSED"]
    assert fails(lambda host: host.machine.registers.update(STATUS=Status.LOADING)) == RESULTS["SHORT"]
    assert fails(lambda host: host.machine.broken.update(abandon=RESULTS["DMA"])) == RESULTS["DMA"]
    assert fails(lambda host: host.machine.broken.update({"write LOAD": RESULTS["BUS"]})) == RESULTS["BUS"]


def test_streamed_weights_need_a_memory(tmp_path):
    image = pack(schedule(random_quantized(4, STREAM, 5, 9), STREAM, stream=True))
    host = Host(tmp_path, image)
    assert host.start() == RESULTS["NO_STREAM"]
    text = (tmp_path / "net.h").read_text()
    first, count = map(int, re.search(r"0x[0-9A-F]{8}u, (\d+)u, (\d+)u", text).groups())
    assert (host.words[first:first + count] == read(tmp_path / "net.img").sections[Section.STREAM].ravel()).all()


# -- the header --------------------------------------------------------------------------------------------------------


def test_the_command_writes_a_header(tmp_path, capsys):
    image = image_of(TINY, (5, 9))
    image.save(tmp_path / "my net.img")
    assert main(["header", str(tmp_path / "my net.img"), "-o", str(tmp_path / "voice.h")]) == 0
    text = (tmp_path / "voice.h").read_text()
    assert "static const openese_image voice_image" in text and "#define VOICE_MEMORY(voices, frames, steps)" in text
    for name in ("my net.h", "2nd.h", "openese.h", "OpenESE_host.h"):
        assert main(["header", str(tmp_path / "my net.img"), "-o", str(tmp_path / name)]) == 2
        assert not (tmp_path / name).exists()
        assert "use letters, digits and _" in capsys.readouterr().err
    assert main(["header", str(tmp_path / "my net.img"), "-o", str(tmp_path / "my net.img")]) == 2


def test_a_header_for_another_machine_does_not_compile(tmp_path):
    files(tmp_path, TINY.replace(queue_depth=32))
    image_of(TINY, (5, 9)).save(tmp_path / "net.img")
    write_header(tmp_path / "net.img", tmp_path / "net.h")
    (tmp_path / "glue.c").write_text('#include "net.h"\nconst openese_image *here(void);\n'
                                     "const openese_image *here(void) { return &net_image; }\n")
    with pytest.raises(AssertionError, match="are for two machines"):
        compiled(tmp_path, "glue.so", library=True)


def test_an_image_in_other_words_has_no_header(tmp_path):
    image = image_of(TINY, (5, 9))
    Image(image.config, {**image.manifest, "needs": {**image.manifest["needs"], "entry_depth": 12345}},
          image.sections).save(tmp_path / "net.img")
    data = (tmp_path / "net.img").read_bytes().replace(b'"entry_depth":12345', b'"entry_depth": 1234')
    manifest = 4 * (5 + 3 + int.from_bytes(data[28:32], "little"))
    data = data[:manifest] + zlib.crc32(data[20:manifest]).to_bytes(4, "little") + data[manifest + 4:]
    (tmp_path / "net.img").write_bytes(data)
    read(tmp_path / "net.img")  # it is sound
    with pytest.raises(HeaderError, match="not as this program writes it"):
        write_header(tmp_path / "net.img", tmp_path / "net.h")


def test_formats_beyond_floats_have_no_header(tmp_path):
    model = random_quantized(4, TINY, 5, 9)
    object.__setattr__(model.layers[0], "x_exponents", (0, 0, 200, 0, 0))
    pack(schedule(model, TINY)).save(tmp_path / "net.img")
    with pytest.raises(HeaderError, match="input 2 of model 'integers4' has 2.. fraction bits"):
        write_header(tmp_path / "net.img", tmp_path / "net.h")
