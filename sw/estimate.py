# SPDX-License-Identifier: Apache-2.0
"""What a network takes of a machine, and the machine of an FPGA, without any hardware and without calibration.

Number formats do not decide about time, so they are chosen on two random frames. Only the places of the weights do
that are not zero: these are the network's own, pruned if a density is given.
"""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from openese.rtl.config import PRESETS, Config, machine_config
from openese.rtl.targets.capacity import resources
from openese.rtl.targets.devices import Device
from openese.rtl.targets.devices import device as named_device
from openese.rtl.targets.logic import Amount
from openese.sw import files, importers
from openese.sw.compile import CompiledNetwork, QuantizedNetwork, quantize
from openese.sw.cycles.load import CLOCK, PERIOD, MachineLoad, image_load, model_load, voices_served
from openese.sw.energy import LEFT_OUT, PROCESSES, Joules, energies, total
from openese.sw.model.layers import LSTM, Model
from openese.sw.model.network import Network
from openese.sw.model.quantized import cells_with
from openese.sw.prune import Density
from openese.sw.whole.host import Item, why_no_parts
from openese.sw.whole.network import CompiledWhole, open_host, prune_parts

__all__ = ["Estimated", "EstimateError", "Opened", "estimate", "estimate_opened", "holding",
           "open_network", "opened", "presets_for"]

Part = Network | QuantizedNetwork | CompiledNetwork
_FRAMES = 2  # random ones, for number formats
_STEPS = tuple(16 << k for k in range(9))  # sizes of memories that are no powers of two are multiples of one of these


class EstimateError(ValueError):
    """Something cannot be estimated; the message says what is wrong, and what to do."""


@dataclass(frozen=True)
class Opened:
    """A network whose machine parts are known.

    Attributes
    ----------
    name : str
    parts : dict of str to network
        By name, in floating point, quantized or packed.
    items : tuple of Item
        Everything in a file with a graph, with its place; what the host computes of another network.
    """

    name: str
    parts: Mapping[str, Part]
    items: tuple[Item, ...] = ()

    @property
    def machine(self) -> Config | None:
        """The machine that the parts are made for; None for a network in floating point."""
        part = next(iter(self.parts.values()))
        return None if isinstance(part, Network) else part.config

    def floating(self) -> dict[str, Network]:
        """The parts in floating point."""
        return {name: part if isinstance(part, Network) else part.network for name, part in self.parts.items()}


@dataclass(frozen=True)
class Estimated:
    """What a network takes of a machine, and the machine of an FPGA.

    Attributes
    ----------
    network : str
        The name of the network.
    machine : `Config`
    loads : tuple of `MachineLoad`
        Of each image. A machine holds one image at a time.
    weights : int
        Weights of all images, zeros included.
    items : tuple of Item
        What lies where, as `Host.items`.
    device : `Device`, optional
    resources : dict
        What the machine takes of the FPGA, by the names of `openese.rtl.targets.devices.RESOURCES`: of each the
        ``number``, and from ``least`` to ``most``. Empty without a device.
    clock : float
        In hertz.
    period : float
        Seconds from a voice's frame to the next.
    """

    network: str
    machine: Config
    loads: tuple[MachineLoad, ...]
    weights: int
    items: tuple[Item, ...] = ()
    device: Device | None = None
    resources: Mapping[str, Amount] = field(default_factory=dict)
    clock: float = CLOCK
    period: float = PERIOD

    @cached_property
    def short(self) -> dict[str, dict[str, float]]:
        """What is short, and by how much: memories of the machine by image, resources of the device by its name."""
        lacking: dict[str, dict[str, float]] = {load.name: dict(load.short) for load in self.loads if load.short}
        if self.device is not None:
            there = self.device.resources
            over = {name: taken.number - there[name] for name, taken in self.resources.items()
                    if taken.number > there[name]}
            if over:
                lacking[self.device.name] = over
        return lacking

    @property
    def fits(self) -> bool:
        """Whether the machine holds each image, and the device the machine."""
        return not self.short

    @property
    def density(self) -> float:
        """Share of the weights that are not zero."""
        return sum(load.nonzeros for load in self.loads) / max(1, self.weights)

    @property
    def least_cycles(self) -> int:
        """No frame takes fewer cycles: the sum over the images."""
        return sum(load.least_cycles for load in self.loads)

    @property
    def cycles_per_step(self) -> int | None:
        """Cycles of a frame through all images, one after another, when frames are always there; None if one of them is
        not known."""
        return _sum(load.cycles_per_step for load in self.loads)

    @property
    def cycles_at_rest(self) -> int | None:
        """Cycles from a frame to its answer, through all images, of machines that have nothing else to do; None
        likewise."""
        return _sum(load.cycles_at_rest for load in self.loads)

    @property
    def frames_per_second(self) -> float | None:
        """Frames of one voice in a second; the machine's other channels compute as many each, in the same time."""
        return None if self.cycles_per_step is None else self.clock / self.cycles_per_step

    @property
    def voices_fast_enough(self) -> int | None:
        """Live voices, of a frame every ``period``, that the steps of a second serve."""
        if self.cycles_per_step is None:
            return None
        return voices_served(self.machine, self.cycles_per_step, self.clock, self.period)

    @property
    def voices_held(self) -> int:
        """Voices whose states the machine holds. The host can exchange states, so that a machine serves more."""
        return self.machine.channels * min(load.banks for load in self.loads)

    @property
    def busy(self) -> float | None:
        """The share of the multipliers' cycles that multiply weights of the network."""
        if self.cycles_per_step is None:
            return None
        return sum(load.nonzeros for load in self.loads) / (self.machine.pes * self.cycles_per_step)

    @property
    def bytes(self) -> int | None:
        """Size of all images; None if one does not fit."""
        return _sum(load.bytes for load in self.loads)

    @property
    def stream_bytes(self) -> int:
        """Bytes of weights read from memory in every step."""
        return sum(load.stream_bytes for load in self.loads)

    def counts(self, kind: str) -> dict[str, int]:
        """``"reads"`` or ``"multiplications"`` of a step through all images; empty if one does not fit."""
        held = [getattr(load, kind) for load in self.loads]
        return {name: sum(counts[name] for counts in held) for name in held[0]} if all(held) else {}

    @property
    def energies(self) -> dict[str, Joules]:
        """Joules of a step's reads and operations, by kind, as `openese.sw.energy` has them; empty if an image does not
        fit. A step computes all channels."""
        return energies(self.machine, self.counts("reads"), self.counts("multiplications"), self.stream_bytes)

    def to_dict(self) -> dict[str, Any]:
        """All figures, for JSON."""
        config, there = self.machine, {} if self.device is None else self.device.resources
        return {
            "network": self.network, "weights": self.weights, "density": self.density,
            "machine": {"name": config.name, **{name: value for name, value in config.fields().items()
                                                if name != "name"}},
            "clock": self.clock, "period": self.period, "fits": self.fits, "short": self.short,
            **self._figures(self),
            "frames_per_second": self.frames_per_second, "voices_fast_enough": self.voices_fast_enough,
            "voices_held": self.voices_held, "busy": self.busy, "energy": self._energy(),
            "images": [{"name": load.name, "memories": {name: list(pair) for name, pair in load.memories.items()},
                        "banks": load.banks, "nonzeros": load.nonzeros, **self._figures(load)} for load in self.loads],
            "device": None if self.device is None else {
                "name": self.device.name, "fpga": self.device.fpga, "source": self.device.source,
                "resources": {name: {"taken": taken.number, "least": taken.least, "most": taken.most,
                                     "there": there[name], "share": _share(taken.number, there[name])}
                              for name, taken in self.resources.items()}},
            "host": [item._asdict() if hasattr(item, "_asdict") else vars(item) for item in self.items
                     if item.place in ("host", "refused")],
        }

    def _energy(self) -> dict[str, Any] | None:
        spent = self.energies
        return {"processes": {name: process.source for name, process in PROCESSES.items()}, "left_out": LEFT_OUT,
                "total": total(spent)._asdict(),
                "joules": {name: one._asdict() for name, one in spent.items()}} if spent else None

    def _figures(self, of: "Estimated | MachineLoad") -> dict[str, Any]:
        """The figures that an image has, and all of them together."""
        def microseconds(cycles: int | None) -> float | None:
            return None if cycles is None else cycles / self.clock * 1e6

        reads, products = ((of.counts("reads"), of.counts("multiplications")) if isinstance(of, Estimated)
                           else (of.reads, of.multiplications))
        return {
            "least_cycles": of.least_cycles, "cycles_per_step": of.cycles_per_step,
            "cycles_at_rest": of.cycles_at_rest, "microseconds_per_step": microseconds(of.cycles_per_step),
            "microseconds_at_rest": microseconds(of.cycles_at_rest), "bytes": of.bytes,
            "stream_bytes": of.stream_bytes, "reads": dict(reads), "multiplications": dict(products)}


def _sum(values: Iterator[int | None]) -> int | None:
    known = list(values)
    return None if None in known else sum(value or 0 for value in known)


def _share(taken: float, there: float) -> float | None:
    return taken / there if there else None


def holding(config: Config, needs: Mapping[str, int]) -> dict[str, int] | None:
    """The least values of the fields of ``config`` that are smaller than ``needs`` by field, so that it holds them;
    None if no machine of the same PEs does."""
    changes = {}
    for name, need in needs.items():
        if need > getattr(config, name):
            value = _least(config, name, need)
            if value is None:
                return None
            changes[name] = value
    return changes


def _least(config: Config, name: str, need: int) -> int | None:
    """The least value of a field, of ``need`` or more, that a machine may have."""
    for value in sorted({1 << (need - 1).bit_length(), *(-(-need // step) * step for step in _STEPS)}):
        try:
            config.replace(**{name: value})
        except ValueError:
            continue
        return value
    return None


def open_network(path: str | os.PathLike[str], select: str | None = None, ignore: str | Sequence[str] = (),
                 trust: bool = False) -> Opened:
    """Open a file to import, or a network that was saved in any stage.

    A file with a graph is opened whole, as `openese.compile` opens it.

    Parameters
    ----------
    path : path
    select, ignore, trust
        As for `openese.compile`.

    Raises
    ------
    EstimateError
        Nothing in the file is for the machine, or an option does not go with the file.
    ValueError
        Naming what is wrong with the file.
    OSError
        If it cannot be read.
    """
    path = Path(path)
    kind = files.kind(path)
    if kind in ("whole", "images", "quantized") and (select is not None or ignore):
        raise EstimateError(f"{path}: select and ignore take parts of a file to import; this is compiled or quantized")
    if kind == "whole":
        return opened(CompiledWhole.load(path, trust))
    if kind == "images":
        return opened(CompiledNetwork.load(path))
    if kind == "quantized":
        return opened(QuantizedNetwork.load(path))
    host = open_host(path, trust) if select is None else None
    if host is None:
        return opened(importers.load(path, select, ignore=ignore))
    if ignore:
        raise EstimateError("ignore goes with a file without a graph; a whole network leaves nothing out")
    if not host.parts:
        raise EstimateError(f"{host.name}: nothing that the machine can compute: {why_no_parts(host.items)}")
    return Opened(host.name, host.parts, host.items)


def presets_for(network: Opened) -> list[Config]:
    """All presets; for a network with GRUs or dense layers, with these."""
    layers = [layer for part in network.floating().values() for direction in part.directions
              for layer in direction.model.layers]
    cells = LSTM.name
    for layer in layers:
        cells = cells_with(cells, layer.kind, layer.reset_after)
    if cells == LSTM.name:
        return list(PRESETS.values())
    return [config.replace(cells=cells, name=f"{config.name} with cells={cells}") for config in PRESETS.values()]


def opened(network: Part | Model | CompiledWhole) -> Opened:
    """A network that is in memory."""
    if isinstance(network, CompiledWhole):
        rest = Item(network.host.name, "network", "host", f"{network.host.runtime}: all but the machine's parts")
        return Opened(network.host.name, network.parts, network.host.items or (rest,))
    if isinstance(network, Model):
        network = Network.of(network)
    if not isinstance(network, (Network, QuantizedNetwork, CompiledNetwork)):
        raise TypeError(f"expected a path or a network, not {type(network).__name__}")
    whole = network if isinstance(network, Network) else network.network
    items = () if whole.head is None else (
        Item("head", "Dense", "host", f"a dense layer of {whole.head.weight.shape[0]} outputs"),)
    return Opened(whole.name, {whole.name: network}, items)


def estimate(network: str | os.PathLike[str] | Part | Model | CompiledWhole, machine: str | Config | None = None, *,
             device: str | Device | None = None, density: Density | None = None, clock: float = CLOCK,
             period: float = PERIOD, select: str | None = None, ignore: str | Sequence[str] = (),
             trust: bool = False) -> Estimated:
    """What a network takes of a machine, and the machine of an FPGA. Needs no calibration, and takes seconds.

    Parameters
    ----------
    network : path or network
        A file to import, or a network in floating point, quantized or compiled. One that is compiled for ``machine`` is
        estimated as it is.
    machine : str or `Config`, optional
        By default the machine that the network is made for.
    device : str or `Device`, optional
        An FPGA or board of `openese.rtl.targets.devices.DEVICES`.
    density : float or mapping, optional
        As for `openese.prune`. Without it nothing is pruned.
    clock : float
        In hertz.
    period : float
        Seconds from a live voice's frame to the next.
    select, ignore, trust
        As for `openese.compile`.

    Returns
    -------
    `Estimated`

    Raises
    ------
    ValueError
        Naming what is wrong with the file, the machine, the device or the density.
    OSError
        If a file cannot be read.
    """
    if isinstance(network, (str, os.PathLike)):
        found = open_network(network, select, ignore, trust)
    elif select is not None or ignore:
        raise EstimateError("select and ignore take parts of a file; this network is no file")
    else:
        found = opened(network)
    if machine is None and found.machine is None:
        raise EstimateError("machine: this network is for no machine yet; give a preset's name or a Config")
    config = found.machine if machine is None else machine_config(machine)
    assert config is not None
    return estimate_opened(found, config, device=named_device(device) if isinstance(device, str) else device,
                           density=density, clock=clock, period=period)


def estimate_opened(network: Opened, config: Config, *, device: Device | None = None, density: Density | None = None,
                    clock: float = CLOCK, period: float = PERIOD) -> Estimated:
    """`estimate` of a network that is open."""
    for name, value in (("clock", clock), ("period", period)):
        if not (math.isfinite(value) and value > 0):
            raise EstimateError(f"{name} must be greater than zero, not {value}")
    if density is not None and network.machine is not None:
        raise EstimateError(f"density: {network.name} is quantized or compiled, and is estimated as it is")
    floating = network.floating()
    if density is not None:
        floating = prune_parts(floating, density, config)
    loads: list[MachineLoad] = []
    for name, part in network.parts.items():
        try:
            held = _loads(part, floating[name], config)
        except ValueError as error:
            raise type(error)(str(error) if repr(name) in str(error) else f"{name}: {error}") from error
        loads += [replace(load, name=name if len(held) == 1 else f"{name}, {number} of {len(held)}")
                  for number, load in enumerate(held, 1)]
    weights = sum(layer.weights for part in floating.values() for direction in part.directions
                  for layer in direction.model.layers)
    return Estimated(
        network=network.name, machine=config, loads=tuple(loads), weights=weights, items=network.items, device=device,
        resources={} if device is None else resources(config, device.family), clock=clock, period=period)


def _loads(part: Part, floating: Network, config: Config) -> list[MachineLoad]:
    """The load of each direction of a part."""
    if not isinstance(part, Network) and part.config.fingerprint == config.fingerprint:
        return [image_load(image) for image in part.images] if isinstance(part, CompiledNetwork) else [
            model_load(model, config) for model in part.models]
    frames = np.random.default_rng(1).normal(size=(_FRAMES, floating.voices or 1, floating.inputs))
    return [model_load(model, config) for model in quantize(floating, frames, config).models]
