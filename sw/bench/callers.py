# SPDX-License-Identifier: Apache-2.0
"""Live callers on a machine: those that it is fast enough for, and those whose states it holds.

`callers` returns for each machine a dictionary with these keys: ``preset``, ``channels``, ``banks``;
``cycles_per_step`` of the paper's layer at `DENSITY` in steady state (cycle model); ``fast_enough``: voices of a frame
every `PERIOD` seconds that the steps of a second serve at an assumed clock of 200 MHz; ``held``: voices whose
states the machine holds; ``share``: of the machine's time that these take.
"""

from collections.abc import Callable, Iterable
from typing import Any

from openese.rtl.config import PRESETS, Config
from openese.sw.bench.layer import planned
from openese.sw.cycles.load import PERIOD, voices_served
from openese.sw.cycles.model import estimate

__all__ = ["DENSITY", "MACHINES", "PERIOD", "callers"]

DENSITY = 0.1

#: Presets with several channels that hold the paper's layer.
MACHINES = tuple(PRESETS[name] for name in ("ese", "ku060", "ku060_voices", "ku115"))


def callers(machines: Iterable[Config] = MACHINES,
            tell: Callable[[str], None] = lambda text: None) -> list[dict[str, Any]]:
    """The figures of each machine; see above. ``tell`` gets the name of the machine that is next.

    Raises
    ------
    CapacityError
        A machine does not hold the paper's layer.
    """
    result = []
    for config in machines:
        tell(config.name)
        plan = planned(config, DENSITY)
        cycles = estimate(plan).cycles_per_step
        fast_enough = voices_served(config, cycles)
        held = plan.banks * config.channels
        result.append({
            "preset": config.name, "channels": config.channels, "banks": plan.banks, "cycles_per_step": cycles,
            "fast_enough": fast_enough, "held": held, "share": min(1.0, held / fast_enough)})
    return result
