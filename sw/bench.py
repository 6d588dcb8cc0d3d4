# SPDX-License-Identifier: Apache-2.0
"""The paper's benchmark layer, measured: on the emitted Verilog, by the cycle model, and on this processor.

The layer is the paper's (section 6): an LSTMP of 153 inputs, 1024 cells and 512 outputs with peepholes, of random
weights, since only where the non-zeros lie decides about time. `run` returns a dictionary; its keys:

``machine``
    ``preset``, ``pes``, ``channels``, ``multipliers``, ``processor`` (of this computer).
``layer``
    ``density``, ``nonzeros``, ``entries_per_pe`` (of the fullest), ``image_bytes``, ``float32_bytes``.
``rtl``
    ``cycles_per_step`` in steady state, ``first_frame_cycles`` from its first beat to its last answer, ``busy``
    (share of multiplier cycles on non-zeros), ``bit_exact`` (every word equals the reference), ``words``,
    ``microseconds_at_200_mhz``, ``counters`` of one step, ``build_seconds``, ``cycles_per_second`` simulated.
``model_cycles``
    The cycle model's prediction of ``cycles_per_step``.
``matrices``
    By matrix: array cycles of a step, and the paper's.
``density_sweep``
    By density, balanced and unbalanced: ``cycles``, ``busy``, and ``speedup`` over the dense layer (cycle model).
``order_sweep``
    By queue depth: cycles with the packer's column order and in natural order (cycle model).
``software``
    Seconds to prune and to place and pack the layer; reference frames a second.
``processor``
    Seconds of one step of 32 voices in numpy, dense float32, and the ratio to the machine at 200 MHz.
"""

import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtl.config import Config

from .cycle_model import estimate
from .device import Device
from .image import pack
from .model import Layer, Model
from .prune import prune
from .quantized import QuantizedLayer, QuantizedModel, activation_table
from .reference import Reference
from .schedule import Schedule, schedule

__all__ = ["INPUTS", "CELLS", "OUTPUTS", "PAPER_CYCLES", "paper_layer", "quantized_layer", "run"]

INPUTS, CELLS, OUTPUTS = 153, 1024, 512

#: Measured microseconds of the paper's table (32 voices, 1024 multipliers), in cycles at 200 MHz.
PAPER_CYCLES = {"w_x": 4 * 1072, "w_r": 8050, "w_ym": 3132}

_CLOCK = 200e6
_WARM, _MEASURED = 4, 8  # frames that fill the pipeline, and frames that are measured


def paper_layer(seed: int = 0) -> Model:
    """The layer, dense, with random weights."""
    rng = np.random.default_rng(seed)
    layer = Layer(
        name="paper", w_x=rng.normal(scale=INPUTS ** -0.5, size=(4, CELLS, INPUTS)),
        w_r=rng.normal(scale=OUTPUTS ** -0.5, size=(4, CELLS, OUTPUTS)), bias=rng.normal(size=(4, CELLS)),
        peephole=rng.normal(scale=0.3, size=(3, CELLS)),
        w_ym=rng.normal(scale=CELLS ** -0.5, size=(OUTPUTS, CELLS)))
    return Model(layers=(layer,), name="paper")


def quantized_layer(model: Model, config: Config) -> QuantizedModel:
    """A model of one layer in fixed formats that suit `paper_layer`; nothing is calibrated."""
    layer = model.layers[0]
    high = (1 << (config.weight_bits - 1)) - 1

    def integers(values: NDArray[Any], fraction: int, limit: int) -> NDArray[np.int32]:
        return np.clip(np.round(np.ldexp(values, fraction)), -limit, limit).astype(np.int32)

    def weights(values: NDArray[Any]) -> NDArray[np.int32]:
        """A weight that is there stays there."""
        rounded = integers(values, 11, high)
        return np.where((rounded == 0) & (values != 0), 1, rounded).astype(np.int32)

    assert layer.peephole is not None and layer.w_ym is not None
    bias = np.stack([integers(values, 15 + (gate == 2), (1 << 19) - 1) for gate, values in enumerate(layer.bias)])
    quantized = QuantizedLayer(
        name=layer.name, w_x=weights(layer.w_x), w_r=weights(layer.w_r), w_ym=weights(layer.w_ym), bias=bias,
        peephole=integers(layer.peephole, 14, (1 << 15) - 1), x_fraction=11, y_fraction=14,
        w_x_fraction=(11,) * 4, w_r_fraction=(11,) * 4, w_ym_fraction=11, align_x=(3,) * 4, align_r=(0,) * 4,
        cell_select=config.cell_fraction_max - 16, peephole_select=15 - config.peephole_shift_base)
    return QuantizedModel(
        layers=(quantized,), config=config, sigmoid_range=4, tanh_range=3, name=model.name,
        sigmoid_table=activation_table("sigmoid", 4, config), tanh_table=activation_table("tanh", 3, config))


def _plan(config: Config, density: float, balanced: bool = True, order: bool = True) -> Schedule:
    sparse = prune(paper_layer(), density, config.pes, config.groups, balanced=balanced)
    return schedule(quantized_layer(sparse, config), config, balance=order)


def _roomy(config: Config) -> Config:
    """The machine with weight memories for any density; they do not change its timing."""
    return config.replace(entry_depth=1 << 19, stream=False)


def _measure(plan: Schedule) -> dict[str, Any]:
    """Run the layer on the emitted Verilog."""
    from sim.simulator import Simulator

    config = plan.config
    began = time.perf_counter()
    link = Simulator(config)
    build = time.perf_counter() - began
    device = Device(link, pack(plan))
    reference = Reference(plan.model, config.channels)
    rng = np.random.default_rng(1)
    frames = rng.integers(-1 << 13, 1 << 13, (_WARM + _MEASURED, config.channels, INPUTS))
    expected = np.array([reference.step(x) for x in frames])
    link.clock(2 * config.accumulator_rows)
    exact, totals = True, []
    began, cycles = time.perf_counter(), link.cycles
    first = 0
    for count in (1, _WARM, _WARM + _MEASURED):
        device.reset()
        link.clock(2 * config.accumulator_rows)
        start = link.cycles
        y = device.run(frames[:count])
        first = first or link.cycles - start
        exact &= bool((y == expected[:count]).all())
        totals.append(device.counters())
    speed = (link.cycles - cycles) / (time.perf_counter() - began)
    link.close()
    counters = {name: (totals[2][name] - totals[1][name]) / _MEASURED for name in totals[0]}
    counters["cycles"] -= (totals[2]["frame"] - totals[1]["frame"]) / _MEASURED
    counters["frame"] = 0
    per_step = counters["cycles"]
    return {
        "cycles_per_step": per_step, "first_frame_cycles": first, "bit_exact": exact, "words": int(expected.size),
        "busy": counters["busy"] / config.pes / per_step, "microseconds_at_200_mhz": per_step / _CLOCK * 1e6,
        "counters": counters, "build_seconds": build, "cycles_per_second": speed,
    }


def _by_matrix(matrices: dict[str, int]) -> dict[str, dict[str, int]]:
    result = {name: {"cycles": 0, "paper_cycles": cycles} for name, cycles in PAPER_CYCLES.items()}
    for label, cycles in matrices.items():
        result[label.split()[0]]["cycles"] += cycles
    return result


def _density_sweep(config: Config) -> list[dict[str, Any]]:
    rows = []
    dense = 0
    for density in (1.0, 0.5, 0.3, 0.2, 0.1, 0.05):
        for balanced in (True, False):
            found = estimate(_plan(_roomy(config), density, balanced), most=4)
            dense = dense or found.cycles_per_step
            rows.append({"density": density, "balanced": balanced, "cycles": found.cycles_per_step,
                         "busy": found.busy, "speedup": dense / found.cycles_per_step})
    return rows


def _order_sweep(config: Config) -> list[dict[str, Any]]:
    rows = []
    for depth in (16, 32, 64):
        deep = _roomy(config).replace(queue_depth=depth)
        ordered, natural = (estimate(_plan(deep, 0.1, order=order), most=4).cycles_per_step for order in (True, False))
        rows.append({"queue_depth": depth, "ordered": ordered, "natural": natural})
    return rows


def _seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """The shortest of some runs."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def _software(config: Config, density: float) -> dict[str, float]:
    dense = paper_layer()
    sparse = prune(dense, density, config.pes, config.groups)
    quantized = quantized_layer(sparse, config)
    reference = Reference(quantized, config.channels)
    x = np.zeros((config.channels, INPUTS), np.int64)
    return {
        "prune_seconds": _seconds(lambda: prune(dense, density, config.pes, config.groups)),
        "place_and_pack_seconds": _seconds(lambda: pack(schedule(quantized, config)).words()),
        "reference_frames_per_second": config.channels / _seconds(lambda: reference.step(x)),
    }


def _processor(microseconds: float) -> dict[str, float]:
    """One step of 32 voices on this processor, dense, in float32."""
    layer = paper_layer().layers[0]
    assert layer.w_ym is not None
    gates = np.concatenate([layer.w_x, layer.w_r], axis=2).reshape(4 * CELLS, -1).astype(np.float32)
    projection = layer.w_ym.astype(np.float32)
    inputs = np.ones((gates.shape[1], 32), np.float32)
    state = np.ones((CELLS, 32), np.float32)

    def step() -> NDArray[np.float32]:
        i, f, g, o = (gates @ inputs).reshape(4, CELLS, 32)
        cell = state / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
        return projection @ (np.tanh(cell) / (1 + np.exp(-o)))

    seconds = _seconds(step, 20)
    return {"dense_step_seconds": seconds, "times_the_machine": seconds * 1e6 / microseconds}


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} threads" if names else platform.machine()


def run(config: Config, density: float = 0.1, sweeps: bool = True) -> dict[str, Any]:
    """All of it, or without the sweeps; see the module for the keys.

    Raises
    ------
    CapacityError
        If the machine cannot hold the layer.
    """
    plan = _plan(config, density)
    image = pack(plan)
    predicted = estimate(plan)
    measured = _measure(plan)
    matrices = paper_layer().layers[0]
    floats = sum(np.size(getattr(matrices, name)) for name in ("w_x", "w_r", "w_ym", "bias", "peephole"))
    result: dict[str, Any] = {
        "machine": {"preset": config.name, "pes": config.pes, "channels": config.channels,
                    "multipliers": config.multipliers, "processor": _processor_name()},
        "layer": {"density": density, "nonzeros": int(sum(o.stream.nonzeros.sum() for o in plan.operations)),
                  "entries_per_pe": sum(o.stream.lines for o in plan.operations),
                  "image_bytes": image.bytes, "float32_bytes": 4 * floats},
        "rtl": measured,
        "model_cycles": predicted.cycles_per_step,
        "matrices": _by_matrix(predicted.matrices),
        "software": _software(config, density),
        "processor": _processor(measured["microseconds_at_200_mhz"]),
    }
    if sweeps:
        result["density_sweep"] = _density_sweep(config)
        result["order_sweep"] = _order_sweep(config)
    return result
