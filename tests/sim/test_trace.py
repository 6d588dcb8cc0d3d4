# SPDX-License-Identifier: Apache-2.0
"""Waveforms of the emitted machine: what they say is what its counters say."""

import numpy as np
import pytest
from models import random_quantized

from openese.rtl.config import preset
from openese.sim.simulator import Simulator
from openese.sim.trace import TraceError, samples, save_view, signals
from openese.sw.pack.image import pack
from openese.sw.pack.schedule import schedule
from openese.sw.reference.machine import Reference
from openese.sw.run.device import Device
from openese.sw.run.traced import TracedDevice

pytestmark = pytest.mark.sim
CONFIG = preset("tiny")


#: Cycles until the products ahead of the next frame are made.
_REST = 2000


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A waveform of steps 2 and 3, the outputs of six, and what the counters say of those two."""
    path = tmp_path_factory.mktemp("trace") / "steps.vcd"
    model = random_quantized(1, CONFIG, 5, (9, 6))
    x = np.random.default_rng(1).integers(-1 << 15, 1 << 15, (6, CONFIG.channels, 5))
    with Simulator(CONFIG, trace=True) as simulator:
        device = Device(simulator, pack(schedule(model, CONFIG)))
        y = [device.run(x[:2])]
        simulator.clock(_REST)
        before = device.counters()
        with simulator.trace(path):
            y += [device.run(x[2:4])]
            simulator.clock(_REST)
        save_view(path)
    with Simulator(CONFIG) as simulator:
        device = Device(simulator, pack(schedule(model, CONFIG)))
        device.run(x[:2])
        simulator.clock(_REST)
        y_plain = device.run(x[2:4])
        simulator.clock(_REST)
        after = device.counters()
    expected = np.array([(reference := Reference(model, CONFIG.channels)).step(x[0])])
    expected = np.concatenate([expected, [reference.step(frame) for frame in x[1:4]]])
    np.testing.assert_array_equal(np.concatenate(y), expected)
    np.testing.assert_array_equal(y_plain, expected[2:])
    return path, {name: after[name] - before[name] for name in ("busy", "padding", "drain", "steps")}


def test_a_waveform_counts_as_the_counters_do(run):
    path, counted = run
    names = ("core.array.busy", "core.array.padding", "core.assemble.drain", "core.controller.step")
    totals = np.array(list(samples(path, names))).sum(axis=0)
    assert dict(zip(("busy", "padding", "drain", "steps"), totals.tolist(), strict=True)) == counted
    assert counted["busy"] > 0 and counted["steps"] == 2


def test_steps_are_traced_out_of_several_runs(tmp_path):
    path = tmp_path / "steps.vcd"
    model = random_quantized(1, CONFIG, 5, (9, 6))
    x = np.random.default_rng(1).integers(-1 << 15, 1 << 15, (6, CONFIG.channels, 5))
    with Simulator(CONFIG, trace=True) as simulator:
        machine = TracedDevice(Device(simulator, pack(schedule(model, CONFIG))), simulator, path, range(2, 4))
        y = [machine.run(x[:1]), machine.run(x[1:5]), machine.run(x[5:])]
    np.testing.assert_array_equal(np.concatenate(y), Reference(model, CONFIG.channels).run(x))
    assert machine.written and sum(step for step, in samples(path, ("core.controller.step",))) == 2


def test_the_pins_show_every_beat(run):
    values = np.array(list(samples(run[0], ("m_axis_tvalid", "m_axis_tready", "m_axis_tlast"))))
    assert np.count_nonzero(values[:, :2].all(axis=1)) == 2 * 7
    assert np.count_nonzero(values.all(axis=1)) == 2


def test_the_view_names_signals_that_there_are(run):
    path = run[0]
    known = signals(path)
    lines = save_view(path).read_text().splitlines()
    traces = [line.removeprefix("TOP.openese.").partition("[")[0] for line in lines if line.startswith("TOP.")]
    assert len(traces) > 30, "two groups of signals are missing"
    assert set(traces) <= known.keys()


def test_only_some_signals(tmp_path):
    path = tmp_path / "some.vcd"
    with Simulator(CONFIG, trace=True) as simulator:
        with simulator.trace(path, ("aclk", "core.array.busy")):
            simulator.clock(10)
        assert signals(path).keys() == {"aclk", "core.array.busy"}
        with simulator.trace(path):
            simulator.clock(10)
        assert len(signals(path)) > 1000
    assert len(list(samples(path, ("core.array.busy",)))) == 10


def test_a_signal_that_there_is_not(run):
    with pytest.raises(TraceError, match="there is no signal core.nothing$"):
        list(samples(run[0], ["core.nothing"]))
