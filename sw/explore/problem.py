# SPDX-License-Identifier: Apache-2.0
"""What is asked of one candidate: its size, its cycles, its loss. A `Problem` goes to other processes and computers."""

import importlib
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from itertools import product
from typing import Any

import numpy as np

from openese.rtl.config import DEPTHS, Config
from openese.rtl.targets.capacity import block_rams, multipliers, resources, ultra_rams
from openese.rtl.targets.devices import Device
from openese.rtl.targets.logic import Amount
from openese.rtl.targets.memories import BLOCK_RAMS
from openese.sw.compile import QuantizedNetwork, output_error, prune, quantize
from openese.sw.cycles.load import MachineLoad, model_load
from openese.sw.cycles.model import at_rest, estimate
from openese.sw.estimate import holding
from openese.sw.explore.detail import Detail, detail
from openese.sw.explore.goal import ExploreError, Goal
from openese.sw.explore.guess import Guesses
from openese.sw.model.network import Network
from openese.sw.model.quantized import QuantizedModel
from openese.sw.pack.schedule import CapacityError, schedule
from openese.sw.quantize.choose import requantize
from openese.sw.reference.machine import Reference
from openese.sw.run.runners import FloatRunner, MachineRunner
from openese.sw.whole.engine import Recorded

__all__ = ["Guess", "Measured", "Problem", "Timed", "share_of", "timed_machine"]

_LUT_SHARES = (0, 0.2, 0.4, 0.7)  # of the channels, whose accumulators are in LUT RAM
_ATTEMPTS = 3  # to give a machine the memories that it turns out to need


@dataclass(frozen=True)
class Guess:
    """A candidate, before the cycle model runs.

    Attributes
    ----------
    config : `Config`
        With the least memories that hold the network.
    density : float
        1 prunes nothing.
    share : float
        Of the resource of the device of which it takes most.
    cycles : float
        It takes at least as many.
    """

    config: Config
    density: float
    share: float
    cycles: float


@dataclass(frozen=True)
class Timed:
    """A candidate's time.

    Attributes
    ----------
    config : `Config`
        With the memories that the schedule takes.
    share : float
        As in `Guess`.
    cycles : int
        Of a step in steady state, or from a frame to its answer at rest, by the cycle model.
    """

    config: Config
    share: float
    cycles: int


@dataclass(frozen=True)
class Measured:
    """A candidate as `openese.compile` makes it.

    Attributes
    ----------
    config : `Config`
    density : float
    loads : tuple of `MachineLoad`
        One for each image.
    resources : dict of str to `Amount`
        What the machine takes of the device.
    share : float
    loss : float
    """

    config: Config
    density: float
    loads: tuple[MachineLoad, ...]
    resources: Mapping[str, Amount]
    share: float
    loss: float

    @property
    def fits(self) -> bool:
        """Whether the machine holds all images, and the cycle model ran on them."""
        return all(not load.short and load.cycles_per_step for load in self.loads)

    @property
    def steady(self) -> int:
        """Cycles of a step in steady state, of all images."""
        return sum(load.cycles_per_step or 0 for load in self.loads)

    @property
    def at_rest(self) -> int:
        """Cycles from a frame to its answer, of all images."""
        return sum(load.cycles_at_rest or 0 for load in self.loads)

    def cycles(self, goal: Goal) -> int:
        """Those that count for a goal."""
        return self.at_rest if goal.at_rest else self.steady

    def all_shares(self, device: Device) -> float:
        """The sum of the shares of all resources of the device."""
        there = device.resources
        return sum(amount.number / there[name] for name, amount in self.resources.items() if there[name])


def share_of(taken: Mapping[str, Amount], device: Device) -> float:
    """The share of the resource of which a machine takes most."""
    there = device.resources
    return max((math.inf if not there[name] else amount.number / there[name])
               for name, amount in taken.items() if amount.number)


def _other_memories(config: Config, device: Device, fill: float) -> Iterator[dict[str, int | bool]]:
    """Memories of a machine that can be in LUT RAM or UltraRAM, or shared, in the place of block RAMs."""
    channels = sorted({round(config.channels * share) for share in _LUT_SHARES})
    shared = _sharing(config, device)
    for weights in _ultra_weights(config, device, fill):
        free = fill * device.urams - ultra_rams(config.replace(**weights), device.family)
        # As many channels as UltraRAMs of 72 bits hold.
        held = min(config.channels, int(free // config.pes) * 72 // config.accumulator_bits)
        for ultra, count in product(sorted({0, held // 2, held}), channels):
            if (weights or shared or ultra or count) and ultra + count <= config.channels:
                yield {**weights, "wide_pointers": shared, "ultra_channels": ultra, "lut_channels": count}


def _sharing(config: Config, device: Device) -> bool:
    """Whether shared pointers take fewer block RAMs."""
    wide = config.replace(wide_pointers=True)
    return block_rams(wide, device.family) < block_rams(config, device.family)


def _ultra_weights(config: Config, device: Device, fill: float) -> Iterator[dict[str, int | bool]]:
    """Weights in block RAM; in UltraRAM; or in both, if there are too few UltraRAMs for all PEs."""
    yield {}
    there, all_of_them = int(fill * device.urams), config.replace(ultra_weights=True)
    needed = ultra_rams(all_of_them, device.family)
    if needed <= there:
        yield {"ultra_weights": True}
    elif others := there // (needed // config.pes * config.slices):  # PEs of each tile
        yield {"ultra_weights": True, "block_weights": config.tile_pes - others}


def timed_machine(config: Config) -> Config:
    """A machine of the same cycles with room for any network. Candidates that share it are timed once."""
    if config.stream:  # its ring's depth and its entries' width decide too
        return config.replace(name="timed")
    roomy = {name: 1 << 16 for name in DEPTHS} | {"entry_depth": 1 << 20, "cell_rows": 4096, "program_depth": 256,
                                                  "accumulator_rows": config.accumulator_rows}
    machine = config.replace(name="timed", banks=1, weight_bits=16, activation_bits=16, **BLOCK_RAMS, **roomy)
    same = machine.beat_columns == config.beat_columns
    return machine if same else machine.replace(activation_bits=config.activation_bits)


@dataclass(frozen=True, eq=False)
class Problem:
    """A network, an FPGA and a goal.

    Attributes
    ----------
    parts : dict of str to `Network`
        What the machine computes, in floating point.
    recorded : dict of str to `Recorded`
        For each part the frames on which number formats are chosen and the loss is measured.
    device : `Device`
    goal : `Goal`
    fill : float
        The most of any resource of the device that a machine may take.
    loss : str, optional
        ``"module:function"``: the user's own function of a machine and a density, which returns the loss.
    paths : tuple of str
        Folders in which the module is looked for first.
    """

    parts: Mapping[str, Network]
    recorded: Mapping[str, Recorded]
    device: Device
    goal: Goal
    fill: float = 1.0
    loss: str | None = None
    paths: tuple[str, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        return {item.name: getattr(self, item.name) for item in fields(self)}  # not what was kept for speed

    @cached_property
    def guesses(self) -> Guesses:
        """By arithmetic alone."""
        return Guesses(tuple(direction.model for part in self.parts.values() for direction in part.directions))

    # -- size --------------------------------------------------------------------------------------

    def all_sized(self, configs: Iterable[Config], densities: Iterable[float], words: Iterable[Mapping[str, int]],
                  others: bool = True) -> tuple[int, int, list[Guess]]:
        """`sized` of several machines together."""
        found = [self.sized(config, densities, words, others) for config in configs]
        return (sum(large for large, _, _ in found), sum(slow for _, slow, _ in found),
                [guess for _, _, several in found for guess in several])

    def sized(self, config: Config, densities: Iterable[float], words: Iterable[Mapping[str, int]],
              others: bool = True) -> tuple[int, int, list[Guess]]:
        """The candidates of a machine that fit the device and may reach the goal, with these word lengths and
        densities. Also the numbers of those that do not fit, and of those that are too slow.

        ``others``: with memories in LUT RAM and UltraRAM, where block RAMs are short.
        """
        large = slow = 0
        found = []
        most = self.fill * self.device.multipliers
        guess = self.guesses.at_rest if self.goal.at_rest else self.guesses.steady
        densities = tuple(densities)
        for lengths in words:
            try:
                worded = config.replace(**lengths)
            except ValueError:
                continue
            if multipliers(worded, self.device.family) > most:
                large += len(densities)
                continue
            for density in densities:
                cycles = guess(worded, density)
                if not self.goal.reached(worded, cycles):
                    slow += 1
                    continue
                held, taken = self._smallest(self.holding(worded, self.guesses.needs(worded, density)), others)
                if held is None or taken > self.fill:
                    large += 1
                else:
                    found.append(Guess(held, density, taken, cycles))
        return large, slow, found

    def _smallest(self, config: Config | None, others: bool) -> tuple[Config | None, float]:
        """A machine, or the same with other kinds of memory if it takes a smaller share of the device; and this share,
        infinite where nothing fits."""
        if config is None:
            return None, math.inf
        best, least = config, self._share(config)
        device = self.device
        if others and block_rams(config, device.family) >= min(least, self.fill) * device.block_rams:
            least_rams = config.replace(lut_channels=config.channels, ultra_weights=bool(device.urams),
                                        wide_pointers=_sharing(config, device))
            if block_rams(least_rams, device.family) > self.fill * device.block_rams:
                return best, least
            for changes in _other_memories(config, device, self.fill):
                other = config.replace(**changes)
                taken = self._share(other)
                if taken < least:
                    best, least = other, taken
        return best, least

    def _share(self, config: Config) -> float:
        """`share_of` a machine, infinite where its block RAMs alone, which are quickly counted, are too many."""
        device = self.device
        if block_rams(config, device.family) > self.fill * device.block_rams:
            return math.inf
        return share_of(resources(config, device.family), device)

    @staticmethod
    def holding(config: Config, needs: Mapping[str, int]) -> Config | None:
        """A machine with larger memories where it needs them; None if there is none of the same PEs."""
        if config.stream:  # the weights stay in memory
            needs = {name: need for name, need in needs.items() if name != "entry_depth"}
        changes = holding(config, needs)
        return None if changes is None else config.replace(**changes)

    # -- time --------------------------------------------------------------------------------------

    def timed(self, config: Config, density: float) -> tuple[dict[str, int], int]:
        """What the network needs of a `timed_machine`, and the cycles that count for the goal.

        0 cycles if it cannot be scheduled.
        """
        needs: dict[str, int] = {}
        cycles = 0
        try:
            for model in self._models(config, density):
                plan = schedule(model, config)
                needs = {name: max(need, needs.get(name, 0)) for name, need in plan.needs.items()}
                cycles += at_rest(plan) if self.goal.at_rest else estimate(plan).cycles_per_step
        except CapacityError as error:
            return error.needs, 0
        return needs, cycles

    def _models(self, config: Config, density: float) -> tuple[QuantizedModel, ...]:
        return self._pruned_models(config.pes, config.groups, density, _widths(config))

    @cached_property
    def _pruned_models(self) -> Callable[..., tuple[QuantizedModel, ...]]:
        formats: dict[Any, tuple[QuantizedModel, ...]] = {}

        @lru_cache(maxsize=4)
        def models(pes: int, groups: int, density: float, widths: tuple[Any, ...]) -> tuple[QuantizedModel, ...]:
            machine = _of_widths(pes, groups, widths)
            if widths not in formats:
                formats[widths] = tuple(model for part in self.parts.values()
                                        for model in _quantized_for_time(part, machine).models)
            if density == 1:
                return formats[widths]
            pruned = [direction.model for part in self.parts.values()
                      for direction in prune(part, density, machine).directions]
            return tuple(requantize(model, old) for model, old in zip(pruned, formats[widths], strict=True))

        return models

    # -- loss --------------------------------------------------------------------------------------

    def pruning_loss(self, config: Config, density: float) -> float:
        """The error of pruning alone."""
        if density == 1:
            return 0.0
        return max(self._error(name, _in_floats(prune(part, density, config))) for name, part in self.parts.items())

    def rounding_loss(self, config: Config) -> float:
        """The error of integers alone."""
        return self._compiled(config, 1.0)[1]

    def own_loss(self, config: Config, density: float) -> float:
        """What the user's function returns.

        Raises
        ------
        ExploreError
            It is not there, fails, or returns no number.
        """
        assert self.loss is not None
        return own_loss(self.loss, self.paths)(config, None if density == 1 else density)

    def _compiled(self, config: Config, density: float) -> tuple[dict[str, QuantizedNetwork], float]:
        """The parts as compiling quantizes them, and their error. Machines that prune and round alike share them."""
        # Without pruning it is the same for any number of PEs.
        pes, groups = (1, 1) if density == 1 else (config.pes, config.groups)
        return self._quantized_parts(pes, groups, density, _widths(config))

    @cached_property
    def _quantized_parts(self) -> Callable[..., tuple[dict[str, QuantizedNetwork], float]]:
        @lru_cache(maxsize=4)
        def quantized(pes: int, groups: int, density: float, widths: tuple[Any, ...]
                      ) -> tuple[dict[str, QuantizedNetwork], float]:
            machine = _of_widths(pes, groups, widths)
            parts = {}
            for name, part in self.parts.items():
                given, recorded = part if density == 1 else prune(part, density, machine), self.recorded[name]
                parts[name] = quantize(given, recorded.frames, machine, recorded.lengths, recorded.initial)
            return parts, max(self._error(name, _on_reference(part)) for name, part in parts.items())

        return quantized

    def _error(self, name: str, runners: Callable[[int], Any]) -> float:
        recorded = self.recorded[name]
        return output_error(self.parts[name], runners, recorded.frames, recorded.lengths, recorded.initial).relative

    # -- all of it ---------------------------------------------------------------------------------

    def measured(self, config: Config, density: float, loss: float | None = None) -> Measured:
        """A candidate as compiling makes it, with larger memories if it turns out to need them.

        ``loss`` is that of the user's function, if it is known.
        """
        quantized, error = self._compiled(config, density)
        for _ in range(_ATTEMPTS):
            loads = tuple(replace(model_load(model, config), name=name) for name, part in quantized.items()
                          for model in part.models)
            needs = {name: max(load.memories[name][0] for load in loads) for name in loads[0].memories}
            held = self.holding(config, needs)
            if held is None or held == config:
                break
            config = held
        if self.loss is None:
            loss = error
        elif loss is None:
            loss = self.own_loss(config, density)
        taken = resources(config, self.device.family)
        return Measured(config, density, loads, taken, share_of(taken, self.device), loss)

    def detailed(self, config: Config, density: float) -> tuple[Detail, ...]:
        """What a page shows of a candidate: one for each image."""
        return tuple(detail(name if len(part.models) == 1 else f"{name}, {number}", schedule(model, config),
                            model.report)
                     for name, part in self._compiled(config, density)[0].items()
                     for number, model in enumerate(part.models, 1))


#: The fields of a machine on which number formats depend.
_WIDTHS = ("weight_bits", "activation_bits", "cell_bits", "align_bits", "row_nonzeros", "cells")


def _widths(config: Config) -> tuple[Any, ...]:
    return tuple(getattr(config, name) for name in _WIDTHS)


def _of_widths(pes: int, groups: int, widths: tuple[Any, ...]) -> Config:
    """A machine of these `_WIDTHS`."""
    return Config(name="formats", pes=pes, groups=groups, channels=1, vector_depth=4096,
                  **dict(zip(_WIDTHS, widths, strict=True)))


def _quantized_for_time(part: Network, machine: Config) -> QuantizedNetwork:
    """On random frames: number formats do not decide about time."""
    return quantize(part, np.random.default_rng(1).normal(size=(2, part.voices or 1, part.inputs)), machine)


def _on_reference(part: QuantizedNetwork) -> Callable[[int], list[MachineRunner]]:
    return lambda voices: [MachineRunner(Reference(model, voices)) for model in part.models]


def _in_floats(part: Network) -> Callable[[int], list[FloatRunner]]:
    return lambda voices: [FloatRunner(direction.model) for direction in part.directions]


def own_loss(name: str, paths: Iterable[str]) -> Callable[[Config, float | None], float]:
    """The user's function, which is their own code.

    Raises
    ------
    ExploreError
        There is no such module or function. The function raises it if it fails, or returns no number.
    """
    for path in paths:
        if path not in sys.path:
            sys.path.insert(0, path)
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:
        raise ExploreError(f"--loss {name}: cannot be imported: {type(error).__name__}: {error}") from error

    def loss(config: Config, density: float | None) -> float:
        try:
            value = float(found(config, density))
        except Exception as error:
            raise ExploreError(f"--loss {name}: {type(error).__name__}: {error}") from error
        if not math.isfinite(value):
            raise ExploreError(f"--loss {name}: returned {value}; expected a number, the less the better")
        return value

    return loss
