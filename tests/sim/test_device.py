# SPDX-License-Identifier: Apache-2.0
"""The device on the simulated machine: every word as the reference has it, whatever happens in between."""

import zlib

import numpy as np
import pytest
from machines import DENSE, GROUPS, GRU, STREAM, TINY
from models import random_quantized, random_state
from pairs import Both
from uneven import MODES, uneven
from uneven import STREAMED as UNEVEN

from openese.rtl.frames import BANK_SHIFT, frame_beats
from openese.rtl.loader import HEADER_WORDS, Lines, Section
from openese.rtl.registers import ADDRESS, Control, Interrupt, Status
from openese.rtl.watchdog import Stall, Watchdog
from openese.sim.simulator import BusError, Simulator, StuckError
from openese.sw.cycles.model import READY, estimate, simulate
from openese.sw.model.state import LayerState
from openese.sw.pack import schedule as schedule_module
from openese.sw.pack.image import pack
from openese.sw.pack.schedule import schedule
from openese.sw.reference.machine import Reference
from openese.sw.run.device import Device, DeviceError
from openese.sw.run.runners import MachineRunner

pytestmark = pytest.mark.sim

SHAPES = {
    "one layer": (5, 9),
    "projection": (5, (9, 6)),
    "two layers": (5, 9, 7),
    "three projections": (5, (9, 6), (7, 5), (8, 3)),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("config", [TINY, GROUPS], ids=lambda config: config.name)
@pytest.mark.parametrize("pace", [{}, {"valid": 0.2, "ready": 0.3, "seed": 5}], ids=["free", "paced"])
def test_equals_the_reference(config, shape, pace):
    both = Both(config, shape, seed=len(shape), peephole=len(shape) != 3, pace=pace)
    both.step(6)
    both.step(6, both.rng.random((6, config.channels)) < 0.6, both.rng.random((6, config.channels)) < 0.3)
    both.step(3)
    counters = both.device.counters()
    assert counters["steps"] == 15
    assert counters["saturated"] == sum(both.reference.saturations.values())


def fifteen_steps(both):
    """Voices join, leave and start anew, and one gets another state."""
    channels = both.device.channels
    both.step(6)
    both.step(6, both.rng.random((6, channels)) < 0.6, both.rng.random((6, channels)) < 0.3)
    both.same_states()
    state = random_state(both.rng, both.model)
    for machine in (both.device, both.reference):
        machine.set_state(1, state)
    both.step(3)
    both.same_states()


@pytest.mark.parametrize("shape", [
    (5, ("gru", 8)), (3, ("gru", 7), ("gru", 6)), (5, ("gru", 8), (8, 5), ("gru", 4)), (4, 6, ("gru", 5)),
    (5, ("before", 8)), (3, ("before", 7), ("before", 6)), (5, ("gru", 8), ("before", 8), (8, 5), ("before", 4)),
    (4, ("before", 6), 5)], ids=str)
@pytest.mark.parametrize("pace", [{}, {"valid": 0.2, "ready": 0.3, "seed": 5}], ids=["free", "paced"])
def test_grus_equal_the_reference(shape, pace):
    """GRUs of both kinds, alone and in stacks with LSTMs; states go in and out. Where tables are random, all cells of a
    row are of the model, since others count too when they are clamped."""
    both = Both(GRU, shape, seed=len(shape), pace=pace)
    fifteen_steps(both)
    counters = both.device.counters()
    assert counters["steps"] == 15
    assert counters["saturated"] == sum(both.reference.saturations.values())


@pytest.mark.parametrize("shape", [
    (5, ("none", 9)), (5, ("relu", 9), ("tanh", 6), ("none", 18)), (4, ("relu", 9), 6),
    (5, (9, 6), ("sigmoid", 5), ("none", 3)), (3, ("tanh", 6), ("gru", 5), ("relu", 4), (6, 3)),
    (5, 6, ("relu", 5), 4, ("none", 9))], ids=str)
@pytest.mark.parametrize("pace", [{}, {"valid": 0.2, "ready": 0.3, "seed": 5}], ids=["free", "paced"])
def test_dense_layers_equal_the_reference(shape, pace):
    """Dense layers alone, before, between and behind LSTMs and GRUs; states go in and out."""
    both = Both(DENSE, shape, seed=len(shape), pace=pace)
    fifteen_steps(both)
    assert both.device.counters()["steps"] == 15


@pytest.mark.parametrize("widths", [
    {"activation_bits": 8}, {"activation_bits": 12, "channels": 1}, {"activation_bits": 17, "weight_bits": 17},
    {"activation_bits": 18, "weight_bits": 18, "channels": 4, "cell_bits": 27}], ids=str)
def test_word_lengths_of_all_kinds(widths):
    """Beats carry words of ``activation_bits`` side by side, and weights keep all their bits."""
    config = TINY.replace(name="widths", **widths)
    both = Both(config, SHAPES["projection"], seed=5)
    both.step(6, both.rng.random((6, config.channels)) < 0.7, both.rng.random((6, config.channels)) < 0.3)
    state = random_state(both.rng, both.model)
    for machine in (both.device, both.reference):
        machine.set_state(0, state)
    both.step(2)
    assert [np.concatenate(layer).tolist() for layer in both.device.get_state(0)] == [
        np.concatenate(layer).tolist() for layer in both.reference.get_state(0)]


@pytest.mark.parametrize("config, shape", [
    (TINY.replace(name="banks", banks=3, vector_depth=512), SHAPES["one layer"]),
    (GROUPS.replace(name="banks of groups", banks=2, vector_depth=512), SHAPES["three projections"])], ids=["3", "2"])
def test_banks_of_voices(config, shape):
    """Frames of banks in any order; a bank's states stay while the others compute, and the host sets any of them."""
    both = Both(config, shape, seed=3)
    assert both.device.banks == config.banks
    for _ in range(3):
        masks = [both.rng.random((10, config.channels)) < share for share in (0.7, 0.2)]
        both.step(10, *masks, both.rng.integers(0, config.banks, 10))
        both.same_states()
        voice = int(both.rng.integers(config.banks * config.channels))
        state = random_state(both.rng, both.model)
        for machine in (both.device, both.reference):
            machine.set_state(voice, state)
    # A frame of a bank that there is not is dropped, and named.
    frame = both.frames(1).transpose(0, 2, 1)
    header = np.zeros((1, config.channels), int)
    header[0, 0] = 1 | config.banks << BANK_SHIFT
    both.link.send_frames(header, frame)
    both.link.clock(5 * frame.shape[1] + 100)
    assert both.link.read(ADDRESS["INTERRUPT"]) & Interrupt.FRAME_BANK
    both.step(4, banks=both.rng.integers(0, config.banks, 4))
    both.same_states()


def test_a_model_has_as_many_banks_as_its_y_have_room():
    config = TINY.replace(name="short", banks=8, vector_depth=64)
    both = Both(config, SHAPES["one layer"], seed=3)
    assert both.device.banks == 4
    both.step(8, banks=np.arange(8) % 4)
    with pytest.raises(ValueError, match="banks must be from 0 to 3, not 4"):
        both.device.run(both.frames(1), banks=4)


@pytest.mark.parametrize("changes, columns", [
    ({"pes": 16, "groups": 4, "channels": 2, "slices": 2}, 4),
    ({"groups": 2, "channels": 32, "slices": 1, "activation_bits": 17}, 1)], ids=["a line", "half a line"])
def test_beats_of_several_columns(changes, columns):
    """Frames whose columns fill their last beat, and frames whose columns do not; the receiver stalls."""
    config = TINY.replace(name="beats", **changes)
    assert config.beat_columns == columns
    for inputs, outputs in ((8, 12), (9, 10), (3, 1)):
        both = Both(config, (inputs, (12, outputs)), seed=inputs)
        for pace in ({}, {"valid": 0.3, "ready": 0.2, "seed": outputs}):
            both.link.pace(**pace)
            both.step(4, both.rng.random((4, config.channels)) < 0.7, both.rng.random((4, config.channels)) < 0.3)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("traits", [{}, {"jitter": 40, "share": 0.6}], ids=["steady", "gaps"])
def test_streamed_equals_resident(shape, traits):
    """Weights read from memory in every step give the same words; the memory may be slow."""
    both = Both(STREAM, shape, seed=7, stream=True)
    both.link.place(both.link._memory, **traits)
    both.step(8, both.rng.random((8, 2)) < 0.7)
    resident = Both(STREAM, shape, seed=7, stream=False)
    resident.step(8, resident.rng.random((8, 2)) < 0.7)
    # Resident weights of y are multiplied before the next frame comes, so once more.
    for machine in (both, resident):
        machine.link.clock(2000)
    ahead = sum(int(operation.encoded.nonzeros.sum())
                for operation in schedule(resident.model, STREAM, stream=False).operations if operation.matrix == "w_r")
    assert resident.device.counters()["busy"] - both.device.counters()["busy"] == ahead


@pytest.mark.parametrize("mode", MODES)
def test_uneven_models_run_to_their_end(mode):
    model = uneven(mode)
    x = np.random.default_rng(2).integers(-2000, 2000, (3, UNEVEN.channels, model.inputs))
    with Simulator(UNEVEN) as link:
        device = Device(link, pack(schedule(model, UNEVEN, stream=True)))
        assert (device.run(x) == Reference(model, UNEVEN.channels).run(x)).all()


@pytest.mark.parametrize("config", [TINY, GROUPS], ids=lambda config: config.name)
def test_a_reset_in_any_cycle_of_a_step_leaves_nothing(config):
    """A tile leaves the reset later than the controller: nothing that was on its way may count for the next step."""
    both = Both(config, (5, (9, 6)))
    link, channels = both.link, config.channels
    both.step(1)
    frame = both.frames(1).transpose(0, 2, 1)
    length = estimate(schedule(both.model, config)).latency
    for cycles in range(0, length, 3):
        link.write(ADDRESS["CONTROL"], Control.RUN)
        link.send_frames(np.ones((1, channels), np.int32), frame)
        link.clock(cycles)
        link.write(ADDRESS["CONTROL"], Control.RESET | Control.RUN)
        link.abandon()
        assert not any(both.device.counters()[name] for name in ("steps", "busy", "padding", "hazard")), cycles
        both.step(2, reset=np.array([[True], [False]]) & np.ones((2, channels), bool))


def stall_of(link):
    """STALL, after the time that the watchdog waits; the interrupt says the same."""
    link.write(ADDRESS["INTERRUPT_ENABLE"], Interrupt.STALLED)
    assert not link.irq and not link.read(ADDRESS["STATUS"]) & Status.STALLED
    link.clock(Watchdog.limit + 1000)
    assert link.irq == bool(link.read(ADDRESS["STATUS"]) & Status.STALLED)
    return Stall(link.read(ADDRESS["STALL"])) if link.irq else None


def test_a_forged_image_that_deadlocks_is_noticed_and_survived(monkeypatch):
    model = uneven("skew")
    with monkeypatch.context() as patched:
        patched.setattr(schedule_module, "level", lambda encoded, config: encoded)
        forged = pack(schedule(model, UNEVEN, stream=True))
    x = np.random.default_rng(2).integers(-2000, 2000, (3, UNEVEN.channels, model.inputs))
    with Simulator(UNEVEN, patience=20_000) as link:
        device = Device(link, forged)
        with pytest.raises(StuckError):
            device.run(x)
        assert stall_of(link) is Stall.STREAM
        link.write(ADDRESS["CONTROL"], Control.RESET | Control.RUN)
        assert link.read(ADDRESS["STALL"]) == 0 and not link.read(ADDRESS["STATUS"]) & Status.STALLED
        link.abandon()
        device = Device(link, pack(schedule(model, UNEVEN, stream=True)))
        device.reset()
        assert (device.run(x) == Reference(model, UNEVEN.channels).run(x)).all()


def test_a_stall_has_its_cause():
    both = Both(TINY, (5, 9))
    both.step(2)
    link = both.link
    assert stall_of(link) is None, "a machine that waits for a frame has no work"
    link.send_beats(np.zeros((2, TINY.channels), np.int32), np.zeros(2, np.uint8))
    assert stall_of(link) is Stall.FRAME
    # The frame ends, too short; the machine goes on.
    link.send_beats(np.zeros((1, TINY.channels), np.int32), np.ones(1, np.uint8))
    both.step(1)
    assert not link.read(ADDRESS["STATUS"]) & Status.STALLED
    link.write(ADDRESS["INTERRUPT"], Interrupt.STALLED)
    blocked(both)
    assert not link.irq
    link.clock(Watchdog.limit + 1000)
    link.pace(1.0, 0.1)
    assert link.irq and Stall(link.read(ADDRESS["STALL"])) is Stall.OUTPUT


def blocked(both):
    """Let a frame be computed that nobody takes."""
    patience, both.link.patience = both.link.patience, 2000
    both.link.pace(1.0, 0.0)
    with pytest.raises(StuckError):
        both.device.run(both.frames(1))
    both.link.patience = patience


def test_a_frame_is_under_way_until_it_is_sent():
    """While a receiver takes nothing, or little, the machine is not idle and has sent no frame."""
    both = Both(TINY, (5, 40))
    both.step(1)
    link = both.link
    link.write(ADDRESS["INTERRUPT_ENABLE"], Interrupt.FRAME_SENT)
    link.write(ADDRESS["INTERRUPT"], Interrupt.FRAME_SENT)
    blocked(both)
    # Now the receiver takes some beats, as the reader of registers takes some answers.
    link.pace(1.0, 0.1)
    assert not Status(link.read(ADDRESS["STATUS"])) & Status.IDLE
    assert not link.irq
    link.pace(1.0, 1.0)
    link.clock(2000)
    status = Status(link.read(ADDRESS["STATUS"]))
    assert Status.OUTPUT_BLOCKED not in status and Status.IDLE in status
    assert link.irq


@pytest.mark.parametrize("cell", [0, 1])
@pytest.mark.parametrize("offset", range(0, 12, 3))
def test_a_state_is_right_as_soon_as_it_is_answered(cell, offset):
    both = Both(TINY, (8, 16))
    both.step(1)
    link, index = both.link, 9
    column = both.image.manifest["layers"][0]["y_line"] * TINY.groups + index
    link.clock(200)
    link.write(ADDRESS["STATE_SELECT"], (index if cell else column) | cell << 31)
    header = np.ones((1, TINY.channels), np.int32)
    link.send_frames(header, both.frames(1).transpose(0, 2, 1))
    link.clock(offset)
    refused = 0
    for _ in range(5000):
        try:
            first = link.read(ADDRESS["STATE_DATA"])
        except BusError:
            refused += 1
        else:
            if refused:
                break
    else:
        pytest.fail(f"{refused} of 5000 reads are refused")
    link.clock(200)
    select = (index if cell else column) | cell << 31
    assert link.access([(ADDRESS["STATE_SELECT"], None), (ADDRESS["STATE_SELECT"], select),
                        (ADDRESS["STATE_DATA"], None)]) == [select + 1, first]


BANKED = TINY.replace(name="banks", banks=3, vector_depth=512)


@pytest.mark.parametrize("name", ["c", "y"])
def test_a_number_of_a_state_takes_four_cycles(name):
    """With the bus partners always ready; a write takes one."""
    both = Both(TINY, (5, 40))
    both.step(1)
    both.device._rest()
    word, count = next((word, count) for _, kind, word, count in both.device._runs(1) if kind == name)
    state = getattr(both.reference.get_state(1)[0], name)
    link, times = both.link, {}

    def took(accesses):
        link.clock(50)  # no number is on its way
        start = link.cycles
        values = link.access([(ADDRESS["STATE_SELECT"], word), *accesses])
        return link.cycles - start, values

    for numbers in (count // 2, count):
        read, values = took([(ADDRESS["STATE_DATA"], None)] * numbers)
        assert [value - (value >> 31 << 32) for value in values] == state[:numbers].tolist()
        written, _ = took([(ADDRESS["STATE_DATA"], value) for value in values])
        times[numbers] = read, written
    read, written = np.subtract(times[count], times[count // 2]) / (count - count // 2)
    assert (read, written) == (4, 1)
    assert times[count][0] <= 4 * count + 20 and times[count][1] <= count + 8
    both.same_states()
    both.step(2)


def numbers_done(both, first):
    """Numbers of a run that were read or written since the word ``first`` was selected."""
    return both.link.read(ADDRESS["STATE_SELECT"]) - first


@pytest.mark.parametrize("name", ["c", "y"])
@pytest.mark.parametrize("config", [TINY, BANKED, GROUPS], ids=lambda config: config.name)
def test_a_frame_comes_while_a_state_is_written(config, name):
    """It sees the numbers whose writes were taken, all of them; the others are refused."""
    both = Both(config, (5, (30, 21)), seed=3)
    rng, link, device, seen = both.rng, both.link, both.device, set()
    banks = device.banks
    both.step(banks, banks=np.arange(banks))
    for delay in range(0, 40, 3):
        link.pace(*((0.6, 0.6) if delay % 2 else (0.1, 0.3)), seed=delay + 1)  # the frame's first beat ends the rest
        voice = int(rng.integers(banks * config.channels))
        bank = voice // config.channels if rng.random() < 0.7 else int(rng.integers(banks))
        link.clock(int(rng.choice([0, 400])))
        device._rest()
        word, count = next((word, count) for _, kind, word, count in device._runs(voice) if kind == name)
        limit = 1 << (config.cell_bits if name == "c" else config.activation_bits) - 1
        values = rng.integers(-limit, limit, count)
        x = both.frames(1)
        header = np.ones((1, config.channels), np.int32)
        header[0, 0] |= bank << BANK_SHIFT
        link.write(ADDRESS["STATE_SELECT"], word)
        for index, value in enumerate((values & 0xFFFFFFFF).tolist()):
            if index == delay // 2:
                link.send_frames(header, x.transpose(0, 2, 1))
            try:
                link.write(ADDRESS["STATE_DATA"], value)
            except BusError:
                break
        done = numbers_done(both, word)
        seen.add(done)
        state = both.reference.get_state(voice)
        getattr(state[0], name)[:done] = values[:done]
        both.reference.set_state(voice, state)
        expected = both.reference.step(x[0], np.ones(config.channels, bool), bank=bank)
        _, y = link.receive_frames(1, both.model.outputs)
        assert (y[0].T == expected).all()
        device._held.clear()
    assert len(seen) > 2
    both.same_states()


@pytest.mark.parametrize("name", ["c", "y"])
def test_a_frame_comes_while_a_state_is_read(name):
    """Every number that is given is that of before the frame; then reading goes on with those of after it."""
    both = Both(BANKED, (5, (30, 21)), seed=4)
    rng, link, device = both.rng, both.link, both.device
    both.step(3, banks=np.arange(3))
    seen = set()
    for delay in range(12):
        link.pace(*((1.0, 1.0) if delay % 2 else (0.6, 0.6)), seed=delay + 1)
        device._rest()
        word, count = next((word, count) for _, kind, word, count in device._runs(3) if kind == name)
        states = [getattr(both.reference.get_state(3)[0], name)]
        link.write(ADDRESS["STATE_SELECT"], word)
        x = both.frames(1)
        both.reference.step(x[0], np.ones(2, bool), bank=1)
        states.append(getattr(both.reference.get_state(3)[0], name))
        before = 0
        for index in range(count):
            if index == delay:
                link.send_frames([[1 | 1 << BANK_SHIFT, 1]], x.transpose(0, 2, 1))
                link.clock(delay // 3)
            while True:
                try:
                    value = link.read(ADDRESS["STATE_DATA"])
                    break
                except BusError:
                    if len(states) == 2:
                        states.pop(0)
                        before = index
                    link.clock(int(rng.integers(1, 9)))
            assert value - (value >> 31 << 32) == states[0][index]
        assert numbers_done(both, word) == count
        seen.add(before)
        link.receive_frames(1, both.model.outputs)
    assert len(seen) > 1


def test_a_reset_right_after_a_write_does_not_lose_it():
    both = Both(BANKED, (5, 9))
    both.step(3, banks=np.arange(3))
    state = random_state(both.rng, both.model)
    for machine in (both.device, both.reference):
        machine.set_state(4, state)
    both.link.write(ADDRESS["CONTROL"], Control.RESET | Control.RUN)
    both.device._rest()
    both.device._held.clear()
    found, = both.device.get_state(4)
    assert (found.c == state[0].c).all()


def test_a_misaligned_stream_base_is_rounded_down():
    both = Both(STREAM, (5, 9), stream=True)
    base = both.link.read(ADDRESS["STREAM_BASE_LOW"])
    both.link.write(ADDRESS["STREAM_BASE_LOW"], base | 0x7C0)
    assert both.link.read(ADDRESS["STREAM_BASE_LOW"]) == base
    both.step(2)


def test_a_failed_read_is_named_and_survived():
    both = Both(STREAM, (9, (30, 12)), stream=True)
    both.step(2)
    both.link.patience = 5000
    both.link.place(both.link._memory, error=(40 * 8, 41 * 8))
    with pytest.raises(StuckError):
        both.device.run(both.frames(2))
    assert both.link.read(ADDRESS["STREAM_ERROR"]) == 40 << 8 | 2
    assert both.link.read(ADDRESS["INTERRUPT"]) & Interrupt.STREAM_FAILED
    both.link.place(both.link._memory, error=(0, 0))
    both.device.reset()
    both.reference = Reference(both.model, 2)
    both.step(3)


@pytest.mark.parametrize("config", [TINY, GROUPS], ids=lambda config: config.name)
def test_states_are_read_and_written(config):
    both = Both(config, (5, (9, 6), 7), seed=3)
    both.step(2)
    for channel in range(config.channels):
        for state, expected in zip(both.device.get_state(channel), both.reference.get_state(channel), strict=True):
            assert (state.c == expected.c).all() and (state.y == expected.y).all()
    state = random_state(both.rng, both.model)
    for machine in (both.device, both.reference):
        machine.set_state(config.channels - 1, state)
    both.step(3)
    with pytest.raises(ValueError, match="expected shape"):
        both.device.set_state(0, [type(layer)(c=layer.c[1:], y=layer.y) for layer in state])


def test_a_state_is_written_right_after_a_load():
    """The machine first clears its accumulators; the device waits for it."""
    both = Both(TINY, (5, (9, 6), 7), seed=3)
    state = random_state(both.rng, both.model)
    for machine in (both.device, both.reference):
        machine.set_state(1, state)
        machine.set_state(0, state)
    both.step(3)
    both.device.reset()
    both.device.set_state(1, state)


def test_a_carried_state_is_read_but_not_written_again():
    """One step a call, as a network is run that keeps its state itself."""
    both = Both(TINY, (5, (9, 6), 7), seed=3)
    accesses = []
    access = both.link.access

    def counted(words):
        words = list(words)
        accesses.extend(value for address, value in words if address == ADDRESS["STATE_DATA"])
        return access(words)

    both.link.access = counted
    numbers = sum(layer.cells + layer.outputs for layer in both.model.layers)
    runners = [MachineRunner(machine) for machine in (both.device, both.reference)]
    states = [runner.zero_state(2) for runner in runners]
    lengths = np.array([1, 1])
    for number in range(7):
        accesses.clear()
        x = both.rng.normal(size=(1, 2, 5))
        if number == 3:
            lengths = np.array([0, 1])
        if number == 5:  # another state for voice 1
            states = [tuple(LayerState(c * [[1], [-1]], y) for c, y in state) for state in states]
        (y, states[0]), (wanted, states[1]) = (runner.run(x, lengths, state)
                                               for runner, state in zip(runners, states, strict=True))
        np.testing.assert_array_equal(y, wanted)
        for state, expected in zip(*states, strict=True):
            np.testing.assert_array_equal(state.c, expected.c)
            np.testing.assert_array_equal(state.y, expected.y)
        read = accesses.count(None)
        assert read == numbers * lengths.sum()
        assert len(accesses) - read == (numbers if number == 5 else 0)
    both.device.reset()
    for machine in (both.device, both.reference):
        machine.set_states([0, 1], both.model.quantize_state(states[0])[0])
    both.step(2)


@pytest.mark.parametrize("steps", [1, 40])
def test_cycles_of_steps_leave_out_loads_and_states(steps):
    """As `openese run` prints them: all cycles but those in which the machine waits for a frame."""
    both = Both(TINY, (10, (24, 12), 12), seed=1)
    runner = MachineRunner(both.device)
    runner.run(both.rng.normal(size=(steps, 2, 10)), np.array([steps, steps]), runner.zero_state(2))
    counters = both.device.counters()
    run = simulate(schedule(both.model, TINY), [READY] * steps)
    assert counters["steps"] == steps
    assert counters["cycles"] - counters["frame"] == run.cycles - run.counters()["frame"]


def test_a_reset_in_the_middle_of_a_step():
    """Frames under way are lost as a whole, and nothing of them is left."""
    both = Both(TINY, (5, (9, 6)))
    for cycles in (3, 30, 120, 333):
        both.link.send_frames(np.full((4, 2), 1, np.uint16), both.frames(4).transpose(0, 2, 1).astype(np.int16))
        both.link.clock(cycles)
        both.device.reset()
        both.reference = Reference(both.model, 2)
        both.step(2)


def test_wrong_images_are_refused_and_the_next_is_taken():
    both = Both(TINY, (5, 9))
    words = both.image.words()
    damaged = words.copy()
    damaged[len(damaged) // 2] ^= 4
    foreign = pack(schedule(random_quantized(1, GROUPS, 5, 9), GROUPS)).words()
    for wrong, message in [
        (damaged, r"wrong section crc in section \d"), (foreign, "wrong fingerprint"), (words[:-5], "truncated"),
        (words[::-1], "wrong magic"), (np.concatenate([words[:1], words[:1] * 0 + 9, words[2:]]), "wrong version"),
    ]:
        with pytest.raises(DeviceError, match=message):
            both.device.load(wrong)
        both.device.load(words)
        both.reference = Reference(both.model, 2)
        both.step(2)


def test_the_machine_checks_every_field_of_an_image():
    """Where the CRCs are right, the host's own checks aside; a section without lines is none that is missing."""
    both = Both(TINY, (5, 9))
    words = both.image.words()
    sections = []
    start = HEADER_WORDS
    while start < len(words):
        size = 4 + int(words[start + 2]) * Lines(TINY).words[Section(int(words[start]))]
        sections.append(words[start:start + size])
        start += size

    def image(*fields, lines=0, header=()):
        """All sections, and one more of the ``fields`` with ``lines`` words, in the right order and with CRCs."""
        made = [[*words[:3], len(sections) + 1]]
        for number, value in header:
            made[0][number] = value
        made.append(sections[0][:-1] if not fields else [*fields, *[0] * lines])
        parts = [np.array(part, np.uint32) for part in made]
        sealed = [np.append(part, np.uint32(zlib.crc32(part.tobytes()))) for part in parts]
        return np.concatenate([sealed[0], *sections, sealed[1]])

    wrong_crc = words.copy()
    wrong_crc[HEADER_WORDS - 1] ^= 1
    last = len(sections)
    for wrong, message in [
        (wrong_crc, "wrong header crc"), (image(header=[(3, 0)]), "wrong length"),
        (image(header=[(3, 1 << 8)]), "wrong length"), (image(99, 0, 0), f"wrong section in section {last}"),
        (image(Section.ORDER, 1 << 24, 0), f"wrong length in section {last}"),
        (image(Section.ORDER, TINY.column_depth - 1, 2, lines=2), f"wrong length in section {last}"),
    ]:
        with pytest.raises(DeviceError, match=message):
            both.device.load(wrong)
    both.device.load(image(Section.ORDER, TINY.column_depth, 0))
    both.reference = Reference(both.model, 2)
    both.step(2)


@pytest.mark.parametrize("config", [TINY, GROUPS], ids=lambda config: config.name)
def test_frames_of_the_wrong_length_are_dropped(config):
    both = Both(config, (5, 9))
    both.step(1)
    right = frame_beats(config, 5)
    for beats, interrupt in ((right - 2, Interrupt.FRAME_SHORT), (right - 1, Interrupt.FRAME_SHORT),
                             (right + 1, Interrupt.FRAME_LONG), (right + 3, Interrupt.FRAME_LONG),
                             (1, Interrupt.FRAME_SHORT)):
        last = np.zeros(beats, np.uint8)
        last[-1] = 1
        both.link.send_beats(np.ones((beats, config.beat_columns * config.channels), np.uint16), last)
        both.link.drain()
        both.link.clock(10)
        assert both.link.read(ADDRESS["INTERRUPT"]) & interrupt
        both.link.write(ADDRESS["INTERRUPT"], interrupt)
        both.step(2)


def test_another_machine_is_refused():
    image = pack(schedule(random_quantized(1, GROUPS, 5, 9), GROUPS))
    with pytest.raises(DeviceError, match="the machine's FINGERPRINT is"):
        Device(Simulator(TINY), image)


def test_activations_that_do_not_fit_are_refused():
    both = Both(TINY, (5, 9))
    with pytest.raises(ValueError, match="does not fit 16 bits"):
        both.device.run(np.full((1, 2, 5), 40000))
    with pytest.raises(ValueError, match="expected shape"):
        both.device.run(np.zeros((1, 2, 4), int))
