# SPDX-License-Identifier: Apache-2.0
"""All measurements in one dictionary."""

import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from openese.rtl.config import Config
from openese.sw.bench import sweeps
from openese.sw.bench.layer import PAPER, PAPER_MULTIPLIERS, paper_layer, planned
from openese.sw.bench.machine import measured, traced
from openese.sw.bench.processor import processor
from openese.sw.bench.software import software
from openese.sw.bench.speed import cocotb_speed
from openese.sw.cycles.model import Estimate, Memory, estimate
from openese.sw.pack.image import pack
from openese.sw.pack.schedule import Schedule
from openese.sw.prune import prune

__all__ = ["by_matrix", "run"]


def run(config: Config, density: float = 0.1, *, sweep: bool = True, trace: bool = False, cocotb: bool = False,
        large: bool = False, tell: Callable[[str], None] = lambda stage: None) -> dict[str, Any]:
    """Measure a machine. The package's docstring lists the keys of the result.

    Parameters
    ----------
    config : Config
    density : float
        The layer's share of weights kept.
    sweep : bool
        Also sweep densities, queue depths and PEs with the cycle model.
    trace, cocotb, large : bool
        Also measurements that take minutes: on a waveform, under cocotb, and of a model with 100 million weights.
    tell : callable
        Called with the name of each measurement when it begins.

    Raises
    ------
    CapacityError
        The layer does not fit the machine.
    """
    plan = planned(config, density)
    tell("the emitted Verilog")
    machines = measured(plan)
    steady = machines[0]
    tell("the cycle model")
    predicted = estimate(plan)
    result: dict[str, Any] = {
        "machine": {"preset": config.name, "pes": config.pes, "channels": config.channels, "groups": config.groups,
                    "multipliers": config.multipliers, "processor": _processor_name()},
        "layer": _layer(plan, density),
        "rtl": steady,
        "model_cycles": predicted.cycles_per_step,
        "model_difference": predicted.cycles_per_step / steady["cycles_per_step"] - 1,
        "matrices": by_matrix(plan, predicted),
    }
    if config.multipliers == PAPER_MULTIPLIERS:
        for name, row in result["matrices"].items():
            row["paper_theory_cycles"], row["paper_cycles"] = PAPER[name]
    if config.stream:
        lines = sum(operation.encoded.lines for operation in plan.operations)
        result["memories"] = [{**machine, "lines": lines, "cycles_per_line": machine["cycles_per_step"] / lines,
                               "model_cycles": estimate(plan, memory=_memory(machine["memory"])).cycles_per_step}
                              for machine in machines]
    if trace:
        tell("a waveform")
        result["trace"] = traced(plan)
    tell("this processor")
    dense = paper_layer()
    result["cpu"] = processor(dense, prune(dense, density, config.pes, config.groups),
                              config.channels, steady["microseconds_at_200_mhz"])
    tell("the host's software")
    result["software"] = software(config, density, large)
    if cocotb:
        tell("cocotb")
        result["cocotb"] = cocotb_speed()
    if sweep:
        for name, work in (("density_sweep", lambda: sweeps.density_sweep(config)),
                           ("queue_sweep", lambda: sweeps.queue_sweep(config, density)),
                           ("pe_sweep", lambda: sweeps.pe_sweep(config, density))):
            tell(name.replace("_", " "))
            result[name] = work()
    return result


def _memory(traits: Mapping[str, Any]) -> Memory:
    """The cycle model's memory that is most like it. It answers in order, so its latency is the longest."""
    return Memory(latency=traits["latency"] + traits["jitter"], share=traits["share"])


def _layer(plan: Schedule, density: float) -> dict[str, Any]:
    layer = paper_layer().layers[0]
    floats = sum(np.size(getattr(layer, name)) for name in ("w_x", "w_r", "w_ym", "bias", "peephole"))
    matrices = [operation.encoded for operation in plan.operations]
    return {"density": density, "nonzeros": int(sum(matrix.nonzeros.sum() for matrix in matrices)),
            "entries_per_pe": sum(matrix.lines for matrix in matrices),
            "padding": sum(m.padding for m in matrices) / sum(int(m.lengths.sum()) for m in matrices),
            "image_bytes": pack(plan).bytes, "float32_bytes": 4 * floats}


def by_matrix(plan: Schedule, predicted: Estimate) -> dict[str, dict[str, float]]:
    """By matrix of a layer: ``cycles`` of the array in a step, ``entries_per_pe`` and ``busy``."""
    result: dict[str, dict[str, float]] = {}
    for label, cycles in predicted.matrices.items():
        row = result.setdefault(label.split()[0], {"cycles": 0, "entries_per_pe": 0, "busy": 0.0})
        row["cycles"] += cycles
    for operation in plan.operations:
        row = result[operation.matrix]
        row["entries_per_pe"] += operation.encoded.lines
        row["busy"] += float(operation.encoded.nonzeros.sum()) / plan.config.pes
    for row in result.values():
        row["busy"] /= row["cycles"]
    return result


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} threads" if names else platform.machine()
