# SPDX-License-Identifier: Apache-2.0
"""The paper's design space, by the cycle model."""

from typing import Any

from openese.rtl.config import Config
from openese.sw.bench.layer import CELLS, OUTPUTS, planned
from openese.sw.cycles.model import estimate
from openese.sw.pack.schedule import CapacityError

__all__ = ["density_sweep", "pe_sweep", "queue_sweep"]

DENSITIES = (1.0, 0.7, 0.5, 0.3, 0.2, 0.15, 0.1, 0.07, 0.05)
QUEUE_DEPTHS = (16, 32, 64, 128, 256)
PES = (8, 16, 32, 64, 128, 256, 512)
_STEPS = 4  # the most steps of a run of the cycle model


def _roomy(config: Config) -> Config:
    """The machine with weight memories for any density. They do not change its timing."""
    return config.replace(entry_depth=1 << 19, stream=False)


def density_sweep(config: Config) -> list[dict[str, Any]]:
    """Sweep densities, with balanced and unbalanced pruning."""
    rows = []
    dense = 0
    for density in DENSITIES:
        for balanced in (True, False):
            predicted = estimate(planned(_roomy(config), density, balanced), most=_STEPS)
            dense = dense or predicted.cycles_per_step
            rows.append({"density": density, "balanced": balanced, "cycles": predicted.cycles_per_step,
                         "busy": predicted.busy, "speedup": dense / predicted.cycles_per_step})
    return rows


def queue_sweep(config: Config, density: float) -> list[dict[str, Any]]:
    """Sweep depths of the ActQueues."""
    rows = []
    for depth in QUEUE_DEPTHS:
        deep = _roomy(config).replace(queue_depth=depth)

        def cycles(balanced: bool, order: bool, deep: Config = deep) -> int:
            return estimate(planned(deep, density, balanced, order), most=_STEPS).cycles_per_step

        rows.append({"queue_depth": depth, "cycles": cycles(True, True), "natural": cycles(True, False),
                     "unbalanced": cycles(False, True)})
    return rows


def pe_sweep(config: Config, density: float) -> list[dict[str, Any]]:
    """Sweep numbers of PEs with the same channels; each has the number of column groups that is fastest."""
    rows: list[dict[str, Any]] = []
    for pes in PES:
        best: dict[str, Any] = {}
        for groups in (1, 2, 4, 8):
            try:
                machine = _scaled(config, pes, groups)
                predicted = estimate(planned(machine, density), most=_STEPS)
            except (CapacityError, ValueError):
                continue
            if not best or predicted.cycles_per_step < best["cycles"]:
                best = {"pes": pes, "groups": groups, "cycles": predicted.cycles_per_step, "busy": predicted.busy}
        if best:
            rows.append({**best, "speedup": (rows[0] if rows else best)["cycles"] / best["cycles"]})
    return rows


def _scaled(config: Config, pes: int, groups: int) -> Config:
    """The machine with another number of PEs, the same element-wise lanes a PE, and memories for the layer."""
    row_pes = pes // groups
    gates = 4 * -(-CELLS // row_pes)
    return _roomy(config).replace(
        pes=pes, groups=groups, slices=row_pes, slice_width=min(config.channels, 2 * groups),
        accumulator_rows=min(4096, _power(2 * gates + 8 * -(-OUTPUTS // row_pes))),
        cell_rows=max(2, _power(-(-CELLS // row_pes))), column_depth=2048, vector_depth=4096)


def _power(number: int) -> int:
    return 1 << (number - 1).bit_length()
