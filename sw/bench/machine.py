# SPDX-License-Identifier: Apache-2.0
"""Measures the layer on the emitted Verilog."""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from openese.rtl.verilog import verilog
from openese.sw.bench.layer import CLOCK, random_frames
from openese.sw.cycles.model import estimate
from openese.sw.model.arrays import Int64Array
from openese.sw.pack.image import Image, pack
from openese.sw.pack.schedule import Schedule
from openese.sw.reference.machine import Reference
from openese.sw.run.device import Device

__all__ = ["MEMORIES", "measured", "traced"]

_WARM, _MEASURED = 4, 8  # frames that fill the pipeline, and frames that are measured
_TRACED = 2
_FOLLOWING = 2  # frames after the traced ones: the very last step is shorter
_PINS = ("m_axis_tvalid", "m_axis_tready", "m_axis_tlast")

#: Memories of streamed weights: latency of a line in cycles, the most cycles that chance adds, and the share of cycles
#: in which the memory gives a line.
MEMORIES: tuple[dict[str, Any], ...] = (
    {"latency": 60, "jitter": 0, "share": 1.0},
    {"latency": 60, "jitter": 60, "share": 0.95},
    {"latency": 60, "jitter": 60, "share": 0.9},
)


class _Measurement:
    """One machine with the layer in it, its first frames, and the reference's words for them."""

    def __init__(self, plan: Schedule, image: Image, link: Any, frames: Int64Array,
                 expected: Int64Array) -> None:
        self.link = link
        self._plan = plan
        self._frames, self._expected = frames, expected
        self.device = Device(link, image)
        self._rest()

    def _rest(self) -> None:
        """Run until the accumulators are clear."""
        self.link.clock(2 * self._plan.config.accumulator_rows)

    def at_rest(self, voices: int) -> tuple[int, bool]:
        """Cycles of the second frame of ``voices``, and whether all words are the reference's."""
        self.device.reset()
        self._rest()
        active = np.arange(self._plan.config.channels) < voices
        first = self.device.run(self._frames[:1], active[None])
        self.link.clock(8 * estimate(self._plan).latency)
        start = self.link.cycles
        second = self.device.run(self._frames[1:2], active[None])
        cycles = self.link.cycles - start
        y = np.concatenate([first, second])
        return cycles, bool((y[:, active] == self._expected[:2, active]).all())

    def run(self, count: int) -> tuple[dict[str, int], bool]:
        """The counters after ``count`` frames, and whether all words are the reference's."""
        self.device.reset()
        self._rest()
        y = self.device.run(self._frames[:count])
        return self.device.counters(), bool((y == self._expected[:count]).all())


def _frames(plan: Schedule, count: int) -> tuple[Int64Array, Int64Array]:
    """Random frames (T, C, I), and the reference's words (T, C, P) for them."""
    frames = random_frames(plan, count)
    return frames, Reference(plan.model, plan.config.channels).run(frames)


def measured(plan: Schedule) -> list[dict[str, Any]]:
    """The figures of the machine with the layer; with streamed weights, for each of `MEMORIES`."""
    from openese.sim.simulator import Simulator

    config = plan.config
    image = pack(plan)
    frames, expected = _frames(plan, _WARM + _MEASURED)
    began = time.perf_counter()
    lines = len(verilog(config).splitlines())
    emission = time.perf_counter() - began
    began = time.perf_counter()
    link = Simulator(config)
    build = time.perf_counter() - began
    results = []
    for memory in MEMORIES if config.stream else (None,):
        if memory is not None:
            link.place(np.zeros(0, np.uint8), **memory)
        measurement = _Measurement(plan, image, link, frames, expected)
        together, exact = measurement.at_rest(config.channels)
        alone, exact_alone = measurement.at_rest(1)
        began, cycles = time.perf_counter(), link.cycles
        (before, exact_before), (after, exact_after) = measurement.run(_WARM), measurement.run(_WARM + _MEASURED)
        speed = (link.cycles - cycles) / (time.perf_counter() - began)
        counters = {name: (after[name] - before[name]) / _MEASURED for name in before}
        # The machine's waits for the host's frames are no part of the step.
        counters["cycles"] -= counters["frame"]
        counters["frame"] = 0
        per_step = counters["cycles"]
        results.append({
            "memory": memory, "cycles_per_step": per_step, "busy": counters["busy"] / config.pes / per_step,
            "counters": counters, "microseconds_at_200_mhz": per_step / CLOCK * 1e6,
            "bit_exact": exact and exact_alone and exact_before and exact_after, "words": int(expected.size),
            "rest_cycles": together, "one_voice_cycles": alone, "verilog_lines": lines,
            "emission_seconds": emission, "build_seconds": build, "cycles_per_second": speed,
        })
    link.close()
    return results


def traced(plan: Schedule) -> dict[str, Any]:
    """Cycles and busy multipliers of a step, counted in a waveform instead of by the machine."""
    from openese.sim.simulator import Simulator
    from openese.sim.trace import samples

    config = plan.config
    frames, expected = _frames(plan, _WARM + _TRACED + 1 + _FOLLOWING)
    outputs = plan.model.outputs
    with tempfile.TemporaryDirectory() as folder, Simulator(config, trace=True) as link:
        measurement = _Measurement(plan, pack(plan), link, frames, expected)
        measurement.device.reset()
        link.clock(2 * config.accumulator_rows)
        link.send_frames(np.where(np.arange(len(frames))[:, None] == 0, 3, 1) * np.ones(config.channels, int),
                         frames.transpose(0, 2, 1))
        link.receive_frames(_WARM, outputs)
        path = Path(folder) / "steps.vcd"
        pes = [f"core.array.tile{tile}.pe{pe}.busy" for tile in range(config.slices)
               for pe in range(config.pes // config.slices)]
        with link.trace(path, ("aclk", *_PINS, *pes)):
            link.receive_frames(_TRACED + 1, outputs)
        ends, busy = [], []
        for cycle, values in enumerate(samples(path, (*_PINS, *pes))):
            busy.append(sum(values[3:]))
            if all(values[:3]):
                ends.append(cycle)
    cycles = ends[-1] - ends[0]
    return {"steps": len(ends) - 1, "cycles_per_step": cycles / (len(ends) - 1),
            "busy": sum(busy[ends[0] + 1:ends[-1] + 1]) / cycles / config.pes}
