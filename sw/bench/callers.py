# SPDX-License-Identifier: Apache-2.0
"""Live callers on a machine: those that it is fast enough for, those whose states it holds, and those that a host can
page out and in.

`callers` returns for each machine a dictionary with these keys: ``preset``, ``channels``, ``banks``;
``cycles_per_step`` of the paper's layer at `DENSITY` in steady state (cycle model); ``fast_enough``: voices of a frame
every `PERIOD` seconds that the steps of a second serve at an assumed clock of 200 MHz; ``held``: voices whose
states the machine holds; ``share``: of the machine's time that these take; ``page_out``, ``page_in``: cycles in which
the state of a voice is read and written (cycle model; a bus that never waits, a machine at rest); ``pages_per_second``:
voices paged out and in at that clock; ``measured``: ``page_out`` and ``page_in`` on the emitted Verilog, and ``exact``:
every number equals the reference's. It is null where it was not measured.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from openese.rtl.config import PRESETS, Config
from openese.sw.bench.layer import planned, random_frames
from openese.sw.cycles.load import CLOCK, PERIOD, voices_served
from openese.sw.cycles.model import estimate
from openese.sw.cycles.pages import page_cycles
from openese.sw.model.state import ChannelState
from openese.sw.pack.image import pack
from openese.sw.pack.schedule import Schedule
from openese.sw.reference.machine import Reference
from openese.sw.run.device import Device

__all__ = ["DENSITY", "MACHINES", "PERIOD", "callers", "paged"]

DENSITY = 0.1

#: Presets with several channels that hold the paper's layer.
MACHINES = tuple(PRESETS[name] for name in ("ese", "ku060", "ku060_voices", "ku115"))

#: Whose Verilog pages a voice.
_MEASURED = "ese"


def callers(machines: Iterable[Config] = MACHINES, measure: bool = False,
            tell: Callable[[str], None] = lambda text: None) -> list[dict[str, Any]]:
    """The figures of each machine; see above. ``tell`` gets the name of the machine that is next.

    With ``measure``, the Verilog of `ese` pages a voice.

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
        out, into = page_cycles(plan)
        result.append({
            "preset": config.name, "channels": config.channels, "banks": plan.banks, "cycles_per_step": cycles,
            "fast_enough": fast_enough, "held": held, "share": min(1.0, held / fast_enough),
            "page_out": out, "page_in": into, "pages_per_second": int(CLOCK / (out + into)),
            "measured": paged(plan) if measure and config.name == _MEASURED else None})
    return result


def paged(plan: Schedule) -> dict[str, Any]:
    """The cycles of the Verilog in which the state of a voice is read, and that of another is written."""
    from openese.sim.simulator import Simulator

    config, model = plan.config, plan.model
    last = config.channels - 1
    x = random_frames(plan, 2)
    reference = Reference(model, config.channels)
    with Simulator(config) as link:
        device = Device(link, pack(plan))
        words = [device.run(x[:1])]
        link.clock(8 * estimate(plan).latency)
        times = [link.cycles]
        state = device.get_state(last)
        times.append(link.cycles)
        device.set_state(0, _turned(state))
        times.append(link.cycles)
        words.append(device.run(x[1:]))
        after = device.get_state(0)
    expected = [reference.run(x[:1])]
    kept = reference.get_state(last)
    reference.set_state(0, _turned(kept))
    expected.append(reference.run(x[1:]))
    exact = np.array_equal(words, expected) and _equal(state, kept) and _equal(after, reference.get_state(0))
    return {"page_out": times[1] - times[0], "page_in": times[2] - times[1], "exact": exact}


def _turned(state: Iterable[ChannelState]) -> list[ChannelState]:
    """Another state: the same numbers from the last to the first."""
    return [ChannelState(c[::-1], y[::-1]) for c, y in state]


def _equal(state: Iterable[ChannelState], other: Iterable[ChannelState]) -> bool:
    return all(np.array_equal(c, c_other) and np.array_equal(y, y_other)
               for (c, y), (c_other, y_other) in zip(state, other, strict=True))
