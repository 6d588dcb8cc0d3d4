# SPDX-License-Identifier: Apache-2.0
"""The driver in C, compiled here, at the registers of the simulated machine."""

import ctypes
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from machines import STREAM, TINY
from models import random_quantized

from openese.rtl.loader import ImageError, Section
from openese.rtl.registers import ADDRESS, REGISTERS, Control, Interrupt, Status
from openese.rtl.targets.driver import driver, header
from openese.rtl.watchdog import Stall, Watchdog
from openese.sim.simulator import Simulator
from openese.sw.pack.image import pack
from openese.sw.pack.schedule import schedule
from openese.sw.reference.machine import Reference

BASE = 0x44A00000
OK, NO_MACHINE, OTHER_VERSION, OTHER_CONFIG, REFUSED, SHORT, BUSY, UNALIGNED, NO_STREAM = range(0, -9, -1)

HOOKS = """
#include <stdint.h>
extern uint32_t (*hook_read)(uintptr_t);
extern void (*hook_write)(uintptr_t, uint32_t);
#define OPENESE_READ(address) hook_read(address)
#define OPENESE_WRITE(address, value) hook_write(address, value)
"""


def compiled(config, folder):
    """The driver for ``config`` as a library, whose accesses go to ``hook_read`` and ``hook_write``."""
    for path, (_, text) in driver(config).items():
        (folder / path.rpartition("/")[2]).write_text(text)
    (folder / "hooks.h").write_text(HOOKS)
    (folder / "hooks.c").write_text("#include \"hooks.h\"\nuint32_t (*hook_read)(uintptr_t);\n"
                                    "void (*hook_write)(uintptr_t, uint32_t);\n")
    subprocess.run(["gcc", "-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror", "-fPIC", "-shared",
                    "-include", "hooks.h", "openese.c", "hooks.c", "-o", "driver.so"], cwd=folder, check=True)
    return ctypes.CDLL(folder / "driver.so")


class Driver:
    """The compiled driver, on the registers of ``machine``."""

    def __init__(self, config, machine, folder):
        self._library = compiled(config, folder)
        self._machine = machine
        self.handle = ctypes.c_size_t()
        self._failure = None
        self._hooks = (ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_size_t)(self._read),
                       ctypes.CFUNCTYPE(None, ctypes.c_size_t, ctypes.c_uint32)(self._write))
        for name, hook in zip(("hook_read", "hook_write"), self._hooks, strict=True):
            ctypes.c_void_p.in_dll(self._library, name).value = ctypes.cast(hook, ctypes.c_void_p).value

    def _read(self, address):
        try:
            return self._machine.read(address - BASE)
        except Exception as error:
            self._failure = error
            return 0

    def _write(self, address, value):
        try:
            self._machine.write(address - BASE, value)
        except Exception as error:
            self._failure = error

    def __call__(self, name, *arguments, result=ctypes.c_int):
        function = getattr(self._library, f"openese_{name}")
        function.restype = result
        value = function(ctypes.byref(self.handle), *arguments)
        if self._failure:
            raise self._failure
        return value

    def load(self, words):
        words = np.ascontiguousarray(words, np.uint32)
        return self("load", words.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(len(words)))

    def counter(self, name):
        return self("counter", ctypes.c_uint32(ADDRESS[f"{name}_LOW"]), result=ctypes.c_uint64)

    def get_state(self, cell, channel, index, count):
        values = (ctypes.c_int32 * count)()
        assert self("get_state", cell, channel, index, values, ctypes.c_size_t(count)) == OK
        return list(values)

    def set_state(self, cell, channel, index, values):
        array = (ctypes.c_int32 * len(values))(*values)
        assert self("set_state", cell, channel, index, array, ctypes.c_size_t(len(values))) == OK


class Parts:
    """A simulated machine, its driver and a model with its reference."""

    def __init__(self, config, folder, shape=(5, (9, 6)), stream=None):
        self.machine = Simulator(config)
        self.driver = Driver(config, self.machine, folder)
        self.model = random_quantized(4, config, *shape)
        self.image = pack(schedule(self.model, config, stream=stream))
        self.reference = Reference(self.model, config.channels)
        self.rng = np.random.default_rng(4)

    def step(self, steps, reset):
        """Both take the same steps, through the streams; every word must be equal."""
        x = self.rng.integers(-32768, 32768, (steps, 2, self.model.inputs)).astype(np.int16)
        header = np.ones((steps, 2), np.uint16)
        anew = np.zeros((steps, 2), bool)
        if reset:
            header[0] |= 2
            anew[0] = True
        _, y = self.machine.run_frames(header, x.transpose(0, 2, 1), self.model.outputs)
        expected = [self.reference.step(now, np.ones(2, bool), new) for now, new in zip(x, anew, strict=True)]
        assert (y.transpose(0, 2, 1) == np.array(expected)).all()


@pytest.fixture
def parts(tmp_path):
    made = Parts(TINY, tmp_path)
    yield made
    made.machine.close()


def test_the_header_is_the_register_table(tmp_path):
    config = STREAM.replace(models=2)
    lines = [line.split(maxsplit=2)[1:] for line in header(config).splitlines() if line.startswith("#define")]
    defined = {name: int(value[0].split()[0].rstrip("u"), 0) for name, *value in lines if value}
    for register in REGISTERS:
        assert defined[f"OPENESE_{register.name}"] == register.address
    for flags, name in ((Control, "CONTROL"), (Status, "STATUS"), (Interrupt, "INTERRUPT"), (Stall, "STALL")):
        for flag in flags:
            assert defined[f"OPENESE_{name}_{flag.name}"] == flag
    assert defined["OPENESE_CAPACITY_CHANNELS"] == 0xFF0000 and defined["OPENESE_CAPACITY_CHANNELS_SHIFT"] == 16
    assert defined["OPENESE_CONFIG_FINGERPRINT"] == config.fingerprint
    assert "OPENESE_STREAM_ERROR" not in header(TINY) and "OPENESE_MODEL_SIZE" not in header(TINY)


def test_the_example_of_the_documentation_compiles(tmp_path):
    compiled(TINY, tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "guide" / "vivado.md").read_text()
    example, = re.findall(r"```c\n(.*?)```", page, re.S)
    (tmp_path / "example.c").write_text(example)
    subprocess.run(["gcc", "-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-c", "example.c"], cwd=tmp_path,
                   check=True)


@pytest.mark.sim
def test_loads_and_runs(parts):
    driver = parts.driver
    assert driver("init", ctypes.c_size_t(BASE)) == OK
    assert driver.load(parts.image.words()) == OK
    driver("run", result=None)
    parts.step(5, reset=True)
    assert driver.counter("STEPS") == 5 and driver.counter("CYCLES") > 5
    assert driver("status", result=ctypes.c_uint32) & Status.IDLE
    driver("enable", ctypes.c_uint32(Interrupt.FRAME_SENT), result=None)
    assert parts.machine.irq and driver("interrupts", result=ctypes.c_uint32) & Interrupt.FRAME_SENT
    driver("clear", ctypes.c_uint32(Interrupt.FRAME_SENT), result=None)
    assert not parts.machine.irq
    driver("reset", result=None)
    assert driver.counter("STEPS") == 0
    driver("run", result=None)
    parts.step(2, reset=True)
    driver("stop", result=None)
    assert not parts.machine.read(ADDRESS["CONTROL"]) & Control.RUN


@pytest.mark.sim
def test_a_stall_is_read(parts):
    driver = parts.driver
    assert driver("init", ctypes.c_size_t(BASE)) == OK and driver.load(parts.image.words()) == OK
    driver("run", result=None)
    parts.step(1, reset=True)
    assert driver("stall", result=ctypes.c_uint32) == 0
    driver("enable", ctypes.c_uint32(Interrupt.STALLED), result=None)
    parts.machine.send_beats(np.zeros((2, TINY.channels), np.int32), np.zeros(2, np.uint8))
    parts.machine.clock(Watchdog.limit + 100)
    assert parts.machine.irq and driver("status", result=ctypes.c_uint32) & Status.STALLED
    assert driver("stall", result=ctypes.c_uint32) == Stall.FRAME
    driver("reset", result=None)
    assert driver("stall", result=ctypes.c_uint32) == 0


@pytest.mark.sim
def test_states(parts):
    driver = parts.driver
    assert driver("init", ctypes.c_size_t(BASE)) == OK and driver.load(parts.image.words()) == OK
    driver("run", result=None)
    parts.step(3, reset=True)
    parts.machine.clock(100)  # a step may end after its answer
    layer, place = parts.reference.get_state(1)[0], parts.image.manifest["layers"][0]
    cell, output = place["cell_base"] * TINY.row_pes, place["y_line"] * TINY.groups
    cells, outputs = driver.get_state(1, 1, cell, 9), driver.get_state(0, 1, output, 6)
    assert cells == list(layer.c) and outputs == list(layer.y) and min(cells) < 0
    others = driver.get_state(0, 0, output, 6)
    driver.set_state(0, 1, output, [-1234, *outputs[:0:-1]])
    driver.set_state(1, 1, cell + 2, cells[4:1:-1])
    assert driver.get_state(0, 1, output, 6) == [-1234, *outputs[:0:-1]]
    assert driver.get_state(1, 1, cell, 9) == [*cells[:2], *cells[4:1:-1], *cells[5:]]
    assert driver.get_state(0, 0, output, 6) == others


@pytest.mark.sim
def test_refuses_what_is_wrong(parts, tmp_path):
    driver, words = parts.driver, parts.image.words()
    assert driver("init", ctypes.c_size_t(BASE)) == OK
    wrong = words.copy()
    wrong[-1] ^= 1
    assert driver.load(wrong) == REFUSED
    assert driver("image_error", result=ctypes.c_uint32) & 0xFF == ImageError.SECTION_CRC
    assert driver.load(words[:-1]) == SHORT
    assert driver.load(words) == OK
    assert driver("image_error", result=ctypes.c_uint32) == 0
    assert driver("set_stream", ctypes.c_uint64(4096)) == NO_STREAM
    (tmp_path / "other").mkdir()
    other = Driver(TINY.replace(queue_depth=32), parts.machine, tmp_path / "other")
    assert other("init", ctypes.c_size_t(BASE)) == OTHER_CONFIG
    # At a place where there are no registers of a machine.
    parts.machine.read = lambda address: 0
    assert driver("init", ctypes.c_size_t(BASE)) == NO_MACHINE


@pytest.mark.sim
def test_streams(tmp_path):
    parts = Parts(STREAM, tmp_path, stream=True)
    driver = parts.driver
    lines = parts.image.sections[Section.STREAM].astype("<u4").view(np.uint8).reshape(-1)
    address = parts.machine.place(lines)
    assert driver("init", ctypes.c_size_t(BASE)) == OK
    assert driver("set_stream", ctypes.c_uint64(address + 64)) == UNALIGNED
    assert driver("set_stream", ctypes.c_uint64(address)) == OK
    assert driver.load(parts.image.words()) == OK
    driver("run", result=None)
    parts.step(4, reset=True)
    assert driver("stream_error", result=ctypes.c_uint32) == 0
    parts.machine.close()
