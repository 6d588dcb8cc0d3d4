# SPDX-License-Identifier: Apache-2.0
"""The driver in C, compiled here, at the registers of the simulated machine."""

import ctypes
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from machines import MIXED, STREAM, TINY
from models import random_quantized
from programs import COMPILERS, RESULTS, Io, compiled, files

from openese.rtl.loader import ImageError, Section
from openese.rtl.registers import ADDRESS, REGISTERS, Control, Interrupt, Status
from openese.rtl.targets.driver import header
from openese.rtl.watchdog import Stall
from openese.sim.simulator import BusError, Simulator
from openese.sw.pack.image import pack
from openese.sw.pack.schedule import schedule
from openese.sw.pack.together import schedule_all
from openese.sw.reference.machine import Reference

OK = RESULTS["OK"]


class Driver:
    """The compiled driver, on the registers of ``machine``."""

    def __init__(self, config, machine, folder):
        files(folder, config)
        self.library = ctypes.CDLL(str(compiled(folder, "driver.so", library=True)))
        self.machine = machine
        self.handle = ctypes.c_void_p()
        self._failure = None
        self._io = Io(read=Io.READ(self._read), write=Io.WRITE(self._write))

    def _read(self, _, address, value):
        try:
            value[0] = self.machine.read(address)
        except BusError:
            return RESULTS["BUS"]
        except Exception as error:
            self._failure = error
        return OK

    def _write(self, _, address, value):
        try:
            self.machine.write(address, value)
        except BusError:
            return RESULTS["BUS"]
        except Exception as error:
            self._failure = error
        return OK

    def __call__(self, name, *arguments):
        result = getattr(self.library, f"openese_{name}")(ctypes.byref(self.handle), *arguments)
        if self._failure:
            raise self._failure
        return result

    def init(self):
        return self("init", ctypes.byref(self._io))

    def load(self, words):
        words = np.ascontiguousarray(words, np.uint32)
        return self("load", words.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(len(words)))

    def counter(self, name):
        value = ctypes.c_uint64()
        assert self("counter", ctypes.c_uint32(ADDRESS[f"{name}_LOW"]), ctypes.byref(value)) == OK
        return value.value

    def get(self, name):
        value = ctypes.c_uint32()
        assert self("get", ctypes.c_uint32(ADDRESS[name]), ctypes.byref(value)) == OK
        return value.value

    def put(self, name, value):
        assert self("put", ctypes.c_uint32(ADDRESS[name]), ctypes.c_uint32(value)) == OK

    def get_state(self, select, count):
        values = (ctypes.c_int32 * count)()
        assert self("get_state", ctypes.c_uint32(select), values, ctypes.c_size_t(count)) == OK
        return list(values)

    def set_state(self, select, values):
        array = (ctypes.c_int32 * len(values))(*values)
        assert self("set_state", ctypes.c_uint32(select), array, ctypes.c_size_t(len(values))) == OK


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
    defined = {name: int(value[0].split()[0].rstrip("u"), 0) for name, *value in lines
               if value and not value[0].startswith("_(")}
    for register in REGISTERS:
        assert defined[f"OPENESE_{register.name}"] == register.address
    for error in ImageError:
        assert f"_({error.name}, {error.value})" in header(config)
    for flags, name in ((Control, "CONTROL"), (Status, "STATUS"), (Interrupt, "INTERRUPT"), (Stall, "STALL")):
        for flag in flags:
            assert defined[f"OPENESE_{name}_{flag.name}"] == flag
    assert defined["OPENESE_CAPACITY_CHANNELS"] == 0xFF0000 and defined["OPENESE_CAPACITY_CHANNELS_SHIFT"] == 16
    assert defined["OPENESE_CONFIG_FINGERPRINT"] == config.fingerprint
    assert "OPENESE_STREAM_ERROR" not in header(TINY) and "OPENESE_MODEL_SIZE" not in header(TINY)


@pytest.mark.parametrize("compiler", COMPILERS or [None])
@pytest.mark.parametrize("config", [TINY, STREAM.replace(models=2)], ids=["plain", "stream and models"])
def test_every_compiler_takes_the_library_without_a_warning(config, compiler, tmp_path):
    files(tmp_path, config)
    compiled(tmp_path, "driver.so", library=True, compiler=compiler, optimize="-O3")  # finds the most


@pytest.mark.skipif(not shutil.which("nm"), reason="needs nm: apt install binutils")
def test_the_library_allocates_nothing(tmp_path):
    """It calls nothing but what its page says."""
    files(tmp_path, STREAM.replace(models=2))
    path = compiled(tmp_path, "driver.so", library=True, optimize="-O2")
    symbols = subprocess.run(["nm", "-D", "-u", str(path)], text=True, capture_output=True, check=True).stdout
    called = {line.split()[-1].partition("@")[0] for line in symbols.splitlines()}
    foreign = {name for name in called if not name.startswith("_")}
    assert foreign <= {"memcpy", "memset", "strcmp", "floor", "ldexp"} and "ldexp" in foreign


@pytest.mark.parametrize("page", ["vivado", "host"])
def test_the_examples_of_the_documentation_compile(page, tmp_path):
    files(tmp_path, TINY, pack(schedule(random_quantized(4, TINY, 5, 9), TINY)))
    text = (Path(__file__).parents[2] / "docs" / "guide" / f"{page}.md").read_text()
    examples = re.findall(r"```c\n(.*?)```", text, re.S)
    assert examples
    for number, example in enumerate(examples):
        (tmp_path / f"example{number}.c").write_text(example)
    compiled(tmp_path, "examples.so", library=True)


def test_results_have_names(tmp_path):
    library = Driver(TINY, None, tmp_path).library
    library.openese_text.restype = library.openese_image_text.restype = ctypes.c_char_p
    assert len(RESULTS) > 20 and len(set(RESULTS.values())) == len(RESULTS)
    for name, number in RESULTS.items():
        assert library.openese_text(number).decode().startswith(f"{name}: ")
    assert library.openese_text(7) == b"no result of this library"
    for error in ImageError:
        assert library.openese_image_text(error.value | 0x300).decode() == error.name


def test_mapped_registers(tmp_path):
    library = Driver(TINY, None, tmp_path).library
    registers, value = (ctypes.c_uint32 * 4)(1, 2, 3, 4), ctypes.c_uint32()
    assert library.openese_mapped_write(registers, ctypes.c_uint32(8), ctypes.c_uint32(9)) == OK
    assert library.openese_mapped_read(registers, ctypes.c_uint32(8), ctypes.byref(value)) == OK
    assert value.value == 9 and list(registers) == [1, 2, 9, 4]


@pytest.mark.sim
def test_loads_and_runs(parts):
    driver = parts.driver
    assert driver.init() == OK
    assert driver.load(parts.image.words()) == OK
    driver.put("CONTROL", Control.RUN)
    parts.step(5, reset=True)
    assert driver.counter("STEPS") == 5 and driver.counter("CYCLES") > 5
    driver.put("INTERRUPT_ENABLE", Interrupt.FRAME_SENT)
    assert parts.machine.irq and driver.get("INTERRUPT") & Interrupt.FRAME_SENT
    driver.put("INTERRUPT", Interrupt.FRAME_SENT)
    assert not parts.machine.irq
    models = ctypes.c_uint32()
    assert driver("models", ctypes.byref(models)) == OK and models.value == 1
    assert driver("model_size", ctypes.c_uint32(0), None, None) == RESULTS["NO_MODEL"]


@pytest.mark.sim
def test_states(parts):
    driver = parts.driver
    assert driver.init() == OK and driver.load(parts.image.words()) == OK
    driver.put("CONTROL", Control.RUN)
    parts.step(3, reset=True)
    parts.machine.clock(100)  # a step may end after its answer
    layer, place = parts.reference.get_state(1)[0], parts.image.manifest["layers"][0]
    cell, output = place["cell_base"] * TINY.row_pes | 1 << 31 | 1 << 16, place["y_line"] * TINY.groups | 1 << 16
    cells, outputs = driver.get_state(cell, 9), driver.get_state(output, 6)
    assert cells == list(layer.c) and outputs == list(layer.y) and min(cells) < 0
    others = driver.get_state(output & 0xFFFF, 6)
    driver.set_state(output, [-1234, *outputs[:0:-1]])
    driver.set_state(cell + 2, cells[4:1:-1])
    assert driver.get_state(output, 6) == [-1234, *outputs[:0:-1]]
    assert driver.get_state(cell, 9) == [*cells[:2], *cells[4:1:-1], *cells[5:]]
    assert driver.get_state(output & 0xFFFF, 6) == others


@pytest.mark.sim
def test_states_only_at_rest(parts):
    driver = parts.driver
    assert driver.init() == OK and driver.load(parts.image.words()) == OK
    driver.put("CONTROL", Control.RUN)
    parts.machine.send_beats(np.ones((2, TINY.channels), np.int32), np.zeros(2, np.uint8))
    parts.machine.clock(100)
    values = (ctypes.c_int32 * 1)()
    for name in ("get_state", "set_state"):
        assert driver(name, ctypes.c_uint32(0), values, ctypes.c_size_t(1)) == RESULTS["BUSY"]
    # The bus says so too.
    assert driver("put", ctypes.c_uint32(ADDRESS["STATE_SELECT"]), ctypes.c_uint32(0)) == RESULTS["BUS"]
    assert driver("get", ctypes.c_uint32(0xF00), ctypes.byref(ctypes.c_uint32())) == RESULTS["BUS"]


@pytest.mark.sim
def test_refuses_what_is_wrong(parts, tmp_path):
    driver, words = parts.driver, parts.image.words()
    assert driver.init() == OK
    wrong = words.copy()
    wrong[-1] ^= 1
    assert driver.load(wrong) == RESULTS["REFUSED"]
    assert driver.get("IMAGE_ERROR") & 0xFF == ImageError.SECTION_CRC
    assert driver.load(words[:-1]) == RESULTS["SHORT"]
    assert driver.load(words) == OK
    assert driver.get("IMAGE_ERROR") == 0
    assert driver.load(parts.image.words(everything=True)) == OK  # the machine drops the manifest
    assert driver("set_stream", ctypes.c_uint64(4096)) == RESULTS["NO_STREAM"]
    (tmp_path / "other").mkdir()
    other = Driver(TINY.replace(queue_depth=32), parts.machine, tmp_path / "other")
    assert other.init() == RESULTS["OTHER_CONFIG"]
    # At a place where there are no registers of a machine.
    parts.machine.read = lambda address: 0
    assert driver.init() == RESULTS["NO_MACHINE"]
    parts.machine.read = lambda address: 0x4553454F
    assert driver.init() == RESULTS["OTHER_VERSION"]


@pytest.mark.sim
def test_models(tmp_path):
    config = MIXED["tiny"]
    models = [random_quantized(number, config, *shape) for number, shape in enumerate([(5, 9), (7, 12, 9)])]
    image = pack(schedule_all(models, config))
    with Simulator(config) as machine:
        driver = Driver(config, machine, tmp_path)
        assert driver.init() == OK and driver.load(image.words()) == OK
        driver.put("CONTROL", Control.RUN)
        machine.clock(config.accumulator_rows + 100)
        count, inputs, outputs = (ctypes.c_uint32() for _ in range(3))
        assert driver("models", ctypes.byref(count)) == OK and count.value == 2
        for number, model in enumerate(models):
            assert driver("model_size", ctypes.c_uint32(number), ctypes.byref(inputs), ctypes.byref(outputs)) == OK
            assert (inputs.value, outputs.value) == (model.inputs, model.outputs)
        for number in (2, config.models, 1 << 24):
            assert driver("model_size", ctypes.c_uint32(number), ctypes.byref(inputs),
                          ctypes.byref(outputs)) == RESULTS["NO_MODEL"]


@pytest.mark.sim
def test_streams(tmp_path):
    parts = Parts(STREAM, tmp_path, stream=True)
    driver = parts.driver
    lines = parts.image.sections[Section.STREAM].astype("<u4").view(np.uint8).reshape(-1)
    address = parts.machine.place(lines)
    assert driver.init() == OK
    assert driver("set_stream", ctypes.c_uint64(address + 64)) == RESULTS["UNALIGNED"]
    assert driver("set_stream", ctypes.c_uint64(address)) == OK
    assert driver.load(parts.image.words()) == OK
    driver.put("CONTROL", Control.RUN)
    parts.step(4, reset=True)
    assert driver.get("STREAM_ERROR") == 0
    parts.machine.close()
