# SPDX-License-Identifier: Apache-2.0
"""The page of a network that is compiled or quantized, on its own machine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openese.rtl.loader import Section
from openese.rtl.targets.capacity import resources
from openese.rtl.targets.devices import Device
from openese.sw import files
from openese.sw.compile import CompiledNetwork, QuantizedNetwork
from openese.sw.estimate import Opened, estimate_opened, opened
from openese.sw.explore.detail import Detail, detail
from openese.sw.explore.explore import recorded_of
from openese.sw.explore.goal import ExploreError, Goal
from openese.sw.model.network import Network
from openese.sw.model.quantized import QuantizedModel
from openese.sw.model.report import Report
from openese.sw.pack.schedule import Schedule, schedule
from openese.sw.pack.together import schedule_all
from openese.sw.quantize.compare import compare
from openese.sw.run.runners import FloatRunner
from openese.sw.whole import arrays
from openese.sw.whole.engine import Recorded, Recorder
from openese.sw.whole.network import CompiledWhole, run_calls

__all__ = ["report"]


def report(path: Path, *, device: Device | None = None, goal: Goal | None = None, calibrate: Path | None = None,
           trust: bool = False) -> str:
    """The page.

    Parameters
    ----------
    path : Path
        Of an image, a folder of images, a quantized network or a compiled whole network.
    device : `Device`, optional
        An FPGA to compare the machine with.
    goal : `Goal`, optional
        Its clock and period.
    calibrate : Path, optional
        Input, on which saturations and errors are measured.
    trust : bool
        Whether code in the file of a whole network's host may run.

    Raises
    ------
    ValueError
        For a network that is for no machine, or input that does not fit.
    OSError
        If a file cannot be read.
    """
    from openese.sw.explore.page import network_page
    goal = goal or Goal()
    kind = files.kind(path)
    if kind == "whole":
        whole = CompiledWhole.load(path, trust)
        found = opened(whole)
        recorded = {} if calibrate is None else _of_whole(whole, calibrate)
    elif kind in ("images", "quantized"):
        found = opened(CompiledNetwork.load(path) if kind == "images" else QuantizedNetwork.load(path))
        part, = found.parts.values()
        network = part if isinstance(part, Network) else part.network
        recorded = {} if calibrate is None else recorded_of(network, calibrate, None, None, None, (), False)[1]
    else:
        raise ExploreError(f"{path}: for no machine yet; openese explore finds one, openese compile compiles for one")
    config = found.machine
    assert config is not None
    estimated = estimate_opened(found, config, device=device, clock=goal.clock, period=goal.period)
    notes = ["Cycles are those of the cycle model. The clock is an assumption; nothing here ran on an FPGA."]
    return network_page(found.name, config, goal, estimated.loads, _details(found, recorded), device,
                        {} if device is None else resources(config, device.family), notes)


def _of_whole(whole: CompiledWhole, calibrate: Path) -> dict[str, Recorded]:
    """What the parts get when the network runs in floating point."""
    recorder = Recorder({name: part.network for name, part in whole.parts.items()})
    run_calls(whole.host, arrays.load(calibrate, whole.host.inputs), recorder, whole.carry)
    return {name: recorded for name in whole.parts if (recorded := recorder.recorded(name)) is not None}


def _details(found: Opened, recorded: Mapping[str, Recorded]) -> list[Detail]:
    details = []
    for name, part in found.parts.items():
        assert not isinstance(part, Network)
        plans = _plans(part)
        reports: list[Report | None] = [plan.model.report for plan in plans]
        if name in recorded:
            reports = [*_measured(part.network, [plan.model for plan in plans], recorded[name])]
        details += [detail(name if len(plans) == 1 else f"{name}, {number}", plan, measured)
                    for number, (plan, measured) in enumerate(zip(plans, reports, strict=True), 1)]
    return details


def _plans(part: Any) -> list[Schedule]:
    if isinstance(part, QuantizedNetwork):
        return [schedule(model, part.config) for model in part.models]
    return [schedule_all(image.models(), image.config, stream=Section.STREAM in image.sections)[image.which]
            for image in part.images]


def _measured(network: Network, models: list[QuantizedModel], recorded: Recorded) -> list[Report]:
    """Each direction's integers against floating point, on what it gets."""
    directions = network.directions
    runners = [FloatRunner(direction.model) for direction in directions]
    fed = network.fed(recorded.frames, runners, recorded.lengths, recorded.initial)
    return [compare(direction.model, model, x, recorded.lengths, start, {})
            for (direction, x), model, start in zip(fed, models, recorded.initial, strict=True)]
