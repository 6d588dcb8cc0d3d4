# SPDX-License-Identifier: Apache-2.0
"""From a network to the best machine for it, and the page about it."""

import json
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from openese.rtl.config import Config
from openese.rtl.targets.devices import Device
from openese.rtl.targets.devices import device as named_device
from openese.sw import files
from openese.sw.compile import random_frames
from openese.sw.estimate import Opened, open_network, opened, presets_for
from openese.sw.explore.detail import Detail
from openese.sw.explore.goal import ExploreError, Goal
from openese.sw.explore.pools import cluster, processes
from openese.sw.explore.problem import Problem, own_loss
from openese.sw.explore.search import Found, Tell, search
from openese.sw.explore.space import DENSITIES, SETTABLE
from openese.sw.model.layers import Model
from openese.sw.model.network import Network
from openese.sw.model.sequences import Sequences
from openese.sw.whole import arrays
from openese.sw.whole.engine import Recorded, Recorder
from openese.sw.whole.host import Host, Item, why_no_parts
from openese.sw.whole.network import first_calls, open_host, run_calls

__all__ = ["Explored", "FILL", "commands", "explore", "machine_file", "recorded_of"]

#: The most of a resource of the device that a machine may take. A full device does not route.
FILL = 0.9

_ARRAYS = "calibrate"


@dataclass(frozen=True, eq=False)
class Explored:
    """The best machine for a network, and what else was found.

    Attributes
    ----------
    network : str
    device : `Device`
    goal : `Goal`
    found : `Found`
    details : tuple of `Detail`
        Of the best, one for each image.
    items : tuple of Item
        What lies where, of a whole network.
    notes : tuple of str
        What has to be known of the numbers.
    loss : str
        What the loss is, for people.
    folder : bool
        Whether the network becomes a folder when it is compiled.
    """

    network: str
    device: Device
    goal: Goal
    found: Found
    details: tuple[Detail, ...]
    items: tuple[Item, ...]
    notes: tuple[str, ...]
    loss: str
    folder: bool = False

    @property
    def machine(self) -> Config:
        """The best."""
        return self.found.winner.config

    @property
    def density(self) -> float | None:
        """Its density; None if nothing is pruned."""
        return None if self.found.winner.density == 1 else self.found.winner.density

    def page(self, lines: Sequence[str]) -> str:
        """The page, with the command lines that build the best.

        Raises
        ------
        ModuleNotFoundError
            Plotly is not installed.
        """
        from openese.sw.explore.page import explored_page
        return explored_page(self.network, self.goal, self.device, self.found, self.details, lines, self.notes,
                             self.loss)

    def to_dict(self) -> dict[str, Any]:
        """All figures, for JSON."""
        goal, found = self.goal, self.found

        def row(one: Any) -> dict[str, Any]:
            return {"machine": one.config.fields(), "density": one.density, "loss": one.loss, "share": one.share,
                    "cycles_per_step": one.steady, "cycles_at_rest": one.at_rest,
                    "microseconds_per_step": one.steady / goal.clock * 1e6,
                    "microseconds_at_rest": one.at_rest / goal.clock * 1e6,
                    "frames_per_second": one.config.channels * goal.clock / one.steady,
                    "resources": {name: amount.number for name, amount in one.resources.items()}}

        return {"network": self.network, "device": self.device.name, "clock": goal.clock, "period": goal.period,
                "goal": {"kind": goal.kind, "wanted": goal.wanted if goal.bounded else None},
                "loss": self.loss, "notes": list(self.notes), "counts": dict(found.counts),
                "losses": [{"density": density, "weight_bits": weights, "activation_bits": activations, "loss": loss}
                           for (density, weights, activations), loss in found.losses.items()],
                "winner": row(found.winner), "front": [row(one) for one in found.front]}


def explore(network: str | os.PathLike[str] | Network | Model, device: str | Device, *, goal: Goal | None = None,
            max_loss: float | None = None, densities: Sequence[float] | None = None,
            given: Mapping[str, Sequence[Any]] | None = None, calibrate: Any = None, lengths: ArrayLike | None = None,
            carry: Mapping[str, str] | None = None, loss: str | None = None, fill: float = FILL, most: int = 400,
            jobs: int | None = 1, scheduler: str | None = None, select: str | None = None,
            ignore: str | Sequence[str] = (), trust: bool = False,
            tell: Tell = lambda stage, total: lambda done: None) -> Explored:
    """Search for the machine that is best for a network on an FPGA.

    Parameters
    ----------
    network : path, `Network` or `Model`
        A file to import, or a network that is not pruned for another machine. Of an image or a quantized network the
        integers are the weights.
    device : str or `Device`
        An FPGA or board of `openese.rtl.targets.devices.DEVICES`.
    goal : `Goal`, optional
        By default the most frames a second.
    max_loss : float, optional
        The most loss that is good enough.
    densities : sequence of float, optional
        1 prunes nothing. By default 1, and with ``max_loss`` several.
    given : mapping of str to sequence, optional
        Values of the machine's fields, in the place of those that are tried.
    calibrate : optional
        Real input, on which number formats are chosen and the loss is measured: frames (T, B, I), or the inputs of a
        whole network by name, or a list of these. Without it both are of random numbers.
    lengths : integers (B,), optional
        Of frames that are padded.
    carry : mapping of str to str, optional
        Outputs of a whole network that are inputs of its next call.
    loss : str, optional
        ``"module:function"``: a function of yours of a `Config` and a density (None prunes nothing), which returns the
        loss, for example the error rate of a network that `openese.offload` makes. The module is imported, and runs,
        in every process of the search.
    fill : float
        The most of any resource of the device that a machine may take.
    most : int
        The most candidates that the cycle model runs on.
    jobs : int, optional
        Processes; None: one for each core.
    scheduler : str, optional
        The address of a Dask scheduler, whose workers are used in the place of processes.
    select, ignore, trust
        As for `openese.compile`.
    tell : callable
        Called with the name of a stage and the number of its steps, None if it is not known; returns what is called
        with steps that are done.

    Returns
    -------
    Explored

    Raises
    ------
    ValueError
        Nothing is good enough, or an argument is wrong; the message says which.
    OSError
        If a file cannot be read.
    """
    board = named_device(device) if isinstance(device, str) else device
    goal = goal or Goal()
    given = {name: tuple(values) for name, values in (given or {}).items()}
    _check(given, densities, max_loss, fill, most)
    if max_loss is not None and calibrate is None and loss is None:
        raise ExploreError("the largest loss needs real frames (--calibrate), or a function of yours (--loss): on "
                           "random numbers the loss says nothing")
    found, recorded, whole = recorded_of(network, calibrate, lengths, carry, select, ignore, trust)
    if loss is not None:
        own_loss(loss, (os.getcwd(),))  # refused before hours of work
    problem = Problem(found.floating(), recorded, board, goal, fill, loss, (os.getcwd(),) if loss else ())
    wanted = tuple(densities) if densities is not None else DENSITIES if max_loss is not None else (1.0,)
    with cluster(problem, scheduler) if scheduler is not None else processes(problem, jobs) as pool:
        result = search(problem, pool, cells=str(presets_for(found)[0].cells), densities=wanted, given=given,
                        max_loss=max_loss, most=most, tell=tell)
        details, = pool.map("detailed", [(result.winner.config, result.winner.density)])
    notes = ["Cycles are those of the cycle model. The clock is an assumption; nothing here ran on an FPGA."]
    if loss is None:
        notes.append("The loss is the RMS difference of the machine's outputs from the network's, as a share of the "
                     "RMS of these, " + ("on the frames that were given." if calibrate is not None else
                                         "on random numbers in the place of real frames: a guess."))
        if any(density != 1 for density in wanted):
            notes.append("It is of pruning without training; a network that is trained at its density has less.")
    else:
        notes.append(f"The loss is what {loss} returns.")
    if any(item.place == "host" for item in found.items):
        notes.append("The host computes a part of the network, which takes time of its own.")
    return Explored(found.name, board, goal, result, details, found.items, tuple(notes),
                    loss or "RMS error of the outputs",
                    whole or any(not part.plain for part in problem.parts.values()))


def _check(given: Mapping[str, Sequence[Any]], densities: Sequence[float] | None, max_loss: float | None,
           fill: float, most: int) -> None:
    for name in given:
        if name not in SETTABLE:
            raise ExploreError(f"{name}: cannot be set; what can is {', '.join(SETTABLE)}. The depths of memories "
                               f"follow from the network")
    for density in densities or ():
        if not 0 < density <= 1:
            raise ExploreError(f"density must be above 0 and at most 1, which prunes nothing; not {density:g}")
    if densities is not None and not densities:
        raise ExploreError("density: give one at least")
    if max_loss is not None and not math.isfinite(max_loss):
        raise ExploreError(f"the largest loss must be a number, not {max_loss}")
    if not 0 < fill <= 1:
        raise ExploreError(f"the share of the device must be above 0 and at most 1, not {fill:g}")
    if most < 1:
        raise ExploreError(f"at least one candidate must be timed, not {most}")


# -- the network and its frames ----------------------------------------------------------------------------


def recorded_of(network: str | os.PathLike[str] | Network | Model, calibrate: Any, lengths: ArrayLike | None,
                carry: Mapping[str, str] | None, select: str | None, ignore: str | Sequence[str], trust: bool,
                ) -> tuple[Opened, dict[str, Recorded], bool]:
    """A network that is open, frames for each of its parts, and whether it is a whole network with a host.

    The frames are random if none are given.

    ``calibrate`` may also be the paths of files.
    """
    host = None
    if isinstance(network, (str, os.PathLike)):
        host = _host(Path(network), calibrate, carry, select, ignore, trust)
        found = open_network(network, select, ignore, trust) if host is None else Opened(
            host.name, host.parts, host.items)
    elif select is not None or ignore:
        raise ExploreError("select and ignore take parts of a file; this network is no file")
    else:
        found = opened(network)
    parts = found.floating()
    if host is None and carry:
        raise ExploreError("carry goes with a whole network; LSTMs alone have no outputs to carry")
    if host is not None and lengths is not None:
        raise ExploreError("lengths: a whole network has an input for them; give it by name in calibrate")
    if calibrate is None:
        return found, {name: _random(part) for name, part in parts.items()}, host is not None
    calls = calibrate if isinstance(calibrate, (list, tuple)) else [calibrate]
    if host is not None:
        return found, _recorded(host, [arrays.load(call, host.inputs) if isinstance(call, Path) else call
                                       for call in calls], dict(carry or {})), True
    if len(calls) > 1 or len(parts) > 1:
        raise ExploreError("calibrate: LSTMs alone take one array of frames")
    (name, part), frames = next(iter(parts.items())), calls[0]
    if isinstance(frames, Path):
        sequences = Sequences.load(frames, part.inputs, part.batch_first)
        frames, lengths = sequences.frames, sequences.lengths
    x = np.asarray(frames, np.float64)
    x = x[:, None] if x.ndim == 2 else x
    if x.ndim != 3 or x.shape[2] != part.inputs:
        raise ExploreError(f"calibrate: expected frames (T, B, {part.inputs}), found {x.shape}")
    if not x.any():
        raise ExploreError("calibrate: every number is zero; number formats need real input")
    counts = np.full(x.shape[1], len(x), np.intp) if lengths is None else np.asarray(lengths, np.intp)
    return found, {name: Recorded(x, counts, part.start(x.shape[1]))}, False


def _host(path: Path, calibrate: Any, carry: Mapping[str, str] | None, select: str | None,
          ignore: str | Sequence[str], trust: bool) -> Host | None:
    kind = files.kind(path)
    if kind == "whole":
        raise ExploreError(f"{path}: a compiled network; give the file that it was compiled from")
    if kind is not None or select is not None:
        return None
    calls = calibrate if isinstance(calibrate, (list, tuple)) else [] if calibrate is None else [calibrate]

    def examples() -> list[Any]:
        return [call for given in calls[:1]
                for call in first_calls(arrays.read(given) if isinstance(given, Path) else given, dict(carry or {}))]

    host = open_host(path, trust, examples)
    if host is None:
        return None
    if ignore:
        raise ExploreError("ignore goes with a file without a graph; a whole network leaves nothing out")
    if not host.parts:
        raise ExploreError(f"{host.name}: nothing that the machine can compute: {why_no_parts(host.items)}")
    return host


def _recorded(host: Host, calls: Sequence[Any], carry: Mapping[str, str]) -> dict[str, Recorded]:
    """What each part of a whole network gets when it runs in floating point."""
    recorder = Recorder(host.parts)
    for call in calls:
        named = call if isinstance(call, Mapping) else {host.inputs[0].name: np.asarray(call)}
        run_calls(host, named, recorder, carry)
    return {name: recorder.recorded(name) or _random(part) for name, part in host.parts.items()}


def _random(part: Network) -> Recorded:
    frames = random_frames(part)
    return Recorded(frames, np.full(frames.shape[1], len(frames), np.intp), part.start(frames.shape[1]))


# -- how it is built ---------------------------------------------------------------------------------------


def machine_file(config: Config, name: str) -> str:
    """The text of a TOML file for ``--config``."""
    fields = config.replace(name=name).fields()
    return "".join(f"{field} = {json.dumps(value)}\n" for field, value in fields.items())


def commands(file: Path, machine: Path, density: float | None, calibrate: Sequence[Path] = (),
             options: Sequence[str] = (), whole: bool = False) -> list[str]:
    """The command lines that build the best machine for the network in ``file``.

    Parameters
    ----------
    file : Path
    machine : Path
        The `machine_file`. What is built stands beside it.
    density : float, optional
    calibrate : sequence of Path
    options : sequence of str
        Others of `openese compile`, such as ``--select``.
    whole : bool
        Whether the network becomes a folder.
    """
    stem = machine.with_suffix("")
    lines = []
    if files.kind(file) in ("images", "quantized"):
        network = stem.with_suffix(".npz")
        lines.append(["openese", "import", str(file), "-o", str(network)])
        file = network
    image = stem if whole else stem.with_suffix(".img")
    lines.append(["openese", "compile", str(file), *options, "--config", str(machine),
                  *(["--density", f"{density:g}"] if density is not None else []),
                  *(word for path in calibrate for word in ("--calibrate", str(path))), "-o", str(image)])
    lines.append(["openese", "build", "--for", str(image), "-o", f"{stem}-build"])
    return [shlex.join(line) for line in lines]
