# SPDX-License-Identifier: Apache-2.0
"""The simulator and its bus partners, on a stand-in for the machine that can be told to misbehave."""

from pathlib import Path

import numpy as np
import pytest

from openese.rtl.config import preset
from openese.rtl.registers import ADDRESS
from openese.sim import build
from openese.sim.simulator import BusError, SimulationError, Simulator, StuckError
from openese.sim.verilator import ToolError

pytestmark = pytest.mark.sim

CONFIG = preset("tiny").replace(name="stand-in", channels=1, slice_width=1)
SOURCE = Path(__file__).with_name("stand_in.v")
PACES = [(1, 1), (0.3, 1), (1, 0.3), (0.4, 0.5)]


@pytest.fixture(scope="module")
def made():
    with Simulator(CONFIG, sources=[SOURCE], patience=1000, trace=True) as simulator:
        yield simulator


@pytest.fixture
def simulator(made):
    made.pace()
    made.reset()
    return made


def frames(seed, count, columns):
    rng = np.random.default_rng(seed)
    header = rng.integers(0, 4, (count, 1)).astype(np.uint16)
    return header, rng.integers(-32768, 32767, (count, columns, 1)).astype(np.int16)


def test_registers(simulator):
    simulator.write(0x000, 0xFEDCBA98)
    assert simulator.read(0x000) == 0xFEDCBA98
    assert not simulator.irq
    simulator.write(0x000, 1)
    assert simulator.irq


@pytest.mark.parametrize("valid, ready", PACES)
def test_load_writes_every_word_once_and_in_order(simulator, valid, ready):
    simulator.pace(valid, ready, seed=3)
    words = np.random.default_rng(3).integers(0, 1 << 32, 500, np.uint32)
    simulator.load(0x010, words)
    assert simulator.read(0x014) == 500
    assert simulator.read(0x010) == int(np.arange(500) @ words.astype(object)) % (1 << 32)


def test_an_error_answer_names_the_access(simulator):
    with pytest.raises(BusError, match="^write 1 of 3 to 0x100 answered SLVERR$"):
        simulator.load(0x100, [1, 2, 3])
    with pytest.raises(BusError, match="^read of 0x104 answered SLVERR$"):
        simulator.read(0x104)
    assert simulator.read(0x000) == 0


@pytest.mark.parametrize("valid, ready", PACES)
def test_frames(simulator, valid, ready):
    simulator.pace(valid, ready, seed=4)
    header, columns = frames(4, 30, 7)
    received_header, received = simulator.run_frames(header, columns, 7)
    np.testing.assert_array_equal(received_header, header & 1)
    np.testing.assert_array_equal(received, columns + 1)


def test_pace_slows_the_stream(simulator):
    spent = []
    for share in (1, 0.5):
        simulator.pace(valid=share, seed=5)
        first = simulator.cycles
        simulator.run_frames(*frames(5, 100, 9), 9)
        spent.append(simulator.cycles - first)
    assert spent[0] < 1010
    assert 1900 < spent[1] < 2100


def test_the_same_seed_gives_the_same_cycles(simulator):
    spent = []
    for _ in range(2):
        simulator.reset()
        simulator.pace(0.5, 0.5, seed=6)
        first = simulator.cycles
        simulator.run_frames(*frames(6, 20, 5), 5)
        spent.append(simulator.cycles - first)
    assert spent[0] == spent[1]


def test_frames_can_be_received_in_parts_and_dropped_by_a_reset(simulator):
    header, columns = frames(7, 6, 3)
    simulator.send_frames(header, columns)
    for start in (0, 2):
        np.testing.assert_array_equal(simulator.receive_frames(2, 3)[1], columns[start:start + 2] + 1)
    simulator.reset()
    with pytest.raises(StuckError):
        simulator.receive_frames(1, 3)


@pytest.mark.parametrize("header, columns", [((4, 2), (4, 3, 2)), ((4, 1), (5, 3, 1)), ((4, 1), (4, 3))])
def test_frames_of_the_wrong_shape_are_refused(simulator, header, columns):
    with pytest.raises(SimulationError, match=r"^frames must be headers \(T, 1\) and columns \(T, I, 1\)"):
        simulator.send_frames(np.zeros(header), np.zeros(columns))


def test_a_frame_of_another_length_is_refused(simulator):
    with pytest.raises(SimulationError, match="^frame 0 of 2 received has 5 beats; a header and 3 columns take 4$"):
        simulator.run_frames(*frames(8, 2, 4), 3)


def test_gives_up_and_says_what_it_waits_for(simulator):
    with pytest.raises(StuckError, match="nothing moved for 1000 cycles: 0 frames sent; "
                                         "frame 0, beat 0 out waits for m_axis_tvalid$"):
        simulator.receive_frames(1, 1)
    simulator.pace(ready=0)
    simulator.send_frames(*frames(9, 1, 4))
    with pytest.raises(StuckError, match="frame 0, beat 1 in waits for s_axis_tready$"):
        simulator.drain()
    simulator.pace()
    simulator.write(0x040, 1)
    with pytest.raises(StuckError, match="write 1 of 2 to 0x010 waits for s_axi_awready$"):
        simulator.load(0x010, [1, 2])


def test_an_offered_beat_must_stay(simulator):
    simulator.write(0x040, 2)
    simulator.pace(ready=0.5)
    with pytest.raises(SimulationError, match="m_axis: an offered beat changed before it was taken$"):
        simulator.run_frames(*frames(10, 5, 5), 5)


@pytest.mark.parametrize("behaviour", [
    {"latency": 0}, {"latency": 60}, {"latency": 3, "jitter": 40}, {"share": 0.3, "outstanding": 2},
    {"latency": 5, "jitter": 40, "share": 0.6, "interleave": True},
])
def test_memory_answers_every_burst(simulator, behaviour):
    contents = np.random.default_rng(11).integers(0, 256, 1 << 14, np.uint8)
    simulator.attach_memory(contents, base=0x4000, **behaviour)
    simulator.write(0x020, 0x4000 + 1024)
    simulator.write(0x024, 50)
    while simulator.read(0x028) < 200:
        pass
    assert simulator.read(0x02C) == contents[1024:1024 + 200 * 64:64].sum(dtype=int)
    assert simulator.read(0x030) == 0


def test_memory_errors(simulator):
    simulator.attach_memory(np.zeros(4096, np.uint8), base=0x4000, error=(0x4000 + 130, 0x4000 + 131))
    for address, errors in ((0x4000, 1), (0x4000 - 256, 5)):
        simulator.write(0x020, address)
        simulator.write(0x024, 1)
        simulator.clock(200)
        assert simulator.read(0x030) == errors


@pytest.mark.parametrize("address, rule", [(0x4F40, "burst of 4 beats at 0x4f40 crosses 4 KiB$"),
                                           (0x4020, "burst at 0x4020 is not aligned to 64 bytes$")])
def test_a_burst_that_axi_forbids(simulator, address, rule):
    simulator.attach_memory(np.zeros(4096, np.uint8), base=0x4000)
    simulator.write(0x020, address)
    with pytest.raises(SimulationError, match=rule):
        simulator.write(0x024, 1)


def test_memory_contents_must_be_bytes(simulator):
    with pytest.raises(SimulationError, match="^memory contents must be contiguous uint8, not float64$"):
        simulator.attach_memory(np.zeros(4))


def test_trace_writes_a_window(simulator, tmp_path):
    simulator.clock(10)
    first = simulator.cycles
    with simulator.trace(tmp_path / "window.vcd"):
        simulator.clock(5)
    simulator.clock(10)
    lines = (tmp_path / "window.vcd").read_text().splitlines()
    times = [int(line[1:]) for line in lines if line.startswith("#")]
    assert times == [5000 * first + 2500 * edge for edge in range(10)]
    assert any("m_axis_tvalid" in line for line in lines)


def test_a_machine_of_another_configuration_is_refused():
    with pytest.raises(SimulationError, match="^s_axis_tdata takes 2 bytes in Verilator; config 'tiny' has beats of"):
        Simulator(preset("tiny"), sources=[SOURCE], trace=True)


def test_verilog_that_is_wrong(tmp_path):
    (tmp_path / "openese.v").write_text("module openese(input aclk);\nassign = aclk;\nendmodule\n")
    with pytest.raises(ToolError, match="^Verilator failed: %Error: .*openese.v:2:.* \\(all of it: "):
        build.library([tmp_path / "openese.v"])


def test_the_machine_itself():
    config = preset("tiny")
    with Simulator(config) as simulator:
        assert simulator.read(ADDRESS["FINGERPRINT"]) == config.fingerprint
        with pytest.raises(SimulationError, match="^machine 'tiny' has no AXI4 master m_axi$"):
            simulator.attach_memory(np.zeros(64, np.uint8))
        with pytest.raises(SimulationError, match="^this simulator was made without trace=True$"):
            with simulator.trace("nowhere.vcd"):
                pass


def test_machines_of_one_kind_can_be_closed_in_any_order():
    machines = [Simulator(preset("tiny")) for _ in range(3)]
    for number in (2, 0, 1):
        machines[number].clock(10)
        machines[number].close()
    with Simulator(preset("tiny")) as simulator:
        assert simulator.read(ADDRESS["ID"]) == int.from_bytes(b"OESE", "little")
