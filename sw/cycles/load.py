# SPDX-License-Identifier: Apache-2.0
"""The share of a machine that one model takes: of its memories, and of its time."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from openese.rtl.config import Config
from openese.rtl.loader import Section
from openese.rtl.program import Opcode
from openese.sw.cycles.model import estimate
from openese.sw.model.layers import DENSE, GRU, LSTM
from openese.sw.model.quantized import TABLES, QuantizedModel
from openese.sw.pack.image import Image, pack
from openese.sw.pack.schedule import CapacityError, Schedule, schedule
from openese.sw.pack.together import schedule_all

__all__ = ["CLOCK", "PERIOD", "MachineLoad", "drained_rows", "image_load", "model_load", "voices_served"]

#: The clock in hertz that is assumed: the paper's. Nothing here shows that an FPGA build reaches it.
CLOCK = 200e6

#: Seconds from a voice's frame to the next, as speech has them.
PERIOD = 0.01

# Entries of a PE in one step up to which the cycle model runs: it takes some 50 us a cycle, and walks a few steps.
_CYCLE_MODEL_ENTRIES = 100_000
_SAMPLES = 2  # of a table, for each value
#: By kind of cell, values that a cell takes from the tables in a step, and products of these and the state: of an LSTM
#: four gates and tanh(c), and i . g, f . c' and o . tanh(c); of a GRU three gates, and z . (h' - n) and a product of r.
_CELLS = {LSTM: (5, 3), GRU: (3, 2)}
_PEEPHOLES = 3


@dataclass(frozen=True)
class MachineLoad:
    """The share of a machine that one model takes. A step computes all channels of the machine at once.

    Attributes
    ----------
    name : str
        Of the model.
    memories : dict
        By field of `Config`, such as ``entry_depth``: lines taken, lines that there are.
    bytes : int, optional
        Size of the image. None where the model does not fit.
    streamed : bool
        Whether the weights are read from memory in every step, so that they take no ``entry_depth``.
    stream_bytes : int
        Bytes of weights read from memory in every step.
    banks : int
        Banks of voices whose states have room.
    least_cycles : int
        No step takes fewer: the entries of the fullest PE.
    cycles_per_step : int, optional
        By the cycle model, when frames are always there. None where the model does not fit, or is too large for the
        cycle model.
    cycles_at_rest : int, optional
        By the cycle model, from the first beat of a frame to the last beat of its answer, when the machine has nothing
        else to do. None likewise.
    nonzeros : int
        Weights of the model that are not zero.
    reads : dict
        By kind, values read from the machine's memories in a step: ``weights`` with their padding, ``pointers``,
        ``columns`` of x, m and y, ``accumulators``, ``tables``. Empty where the model does not fit.
    multiplications : dict
        By kind, products of a step of all channels: ``weights``, ``tables`` (to interpolate), ``cells`` and
        ``peepholes``. Empty likewise.
    """

    name: str
    memories: Mapping[str, tuple[int, int]]
    bytes: int | None = None
    streamed: bool = False
    stream_bytes: int = 0
    banks: int = 1
    least_cycles: int = 0
    cycles_per_step: int | None = None
    cycles_at_rest: int | None = None
    nonzeros: int = 0
    reads: Mapping[str, int] = field(default_factory=dict)
    multiplications: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def short(self) -> dict[str, int]:
        """By field of `Config`, the lines that are missing; empty if the model fits."""
        return {name: taken - there for name, (taken, there) in self.memories.items() if taken > there}


def voices_served(config: Config, cycles: int, clock: float = CLOCK, period: float = PERIOD) -> int:
    """Live voices, of a frame every ``period`` seconds, that steps of so many cycles serve."""
    return int(config.channels * period * clock / cycles)


def model_load(model: QuantizedModel, config: Config) -> MachineLoad:
    """The load of a model that is not packed yet.

    Raises
    ------
    CapacityError
        The model does not fit for another reason than the size of a memory.
    QuantizeError
        The model is quantized for other widths.
    """
    try:
        plan = schedule(model, config)
    except CapacityError as error:
        if not error.needs:
            raise
        nonzeros = sum(int(np.count_nonzero(matrix)) for layer in model.layers
                       for matrix in (layer.w_x, layer.w_r, layer.w_ym) if matrix is not None)
        return MachineLoad(model.name, _memories(error.needs, config), nonzeros=nonzeros, streamed=config.stream,
                           least_cycles=max(error.needs["entry_depth"], -(-nonzeros // config.pes)))
    return _load(plan, pack(plan).bytes)


def image_load(image: Image) -> MachineLoad:
    """The load of a packed model on the machine that it is packed for. Memories and size are of all models in the
    image."""
    plans = schedule_all(image.models(), image.config, stream=Section.STREAM in image.sections)
    return _load(plans[image.which], image.bytes)


def _memories(needs: Mapping[str, int], config: Config) -> dict[str, tuple[int, int]]:
    return {name: (need, getattr(config, name)) for name, need in needs.items()}


def _load(plan: Schedule, size: int) -> MachineLoad:
    """The load of a plan whose image has ``size`` bytes; the cycle model runs where that is quick."""
    config = plan.config
    lines = sum(operation.encoded.lines for operation in plan.operations)
    steady = rest = None
    drained = drained_rows(plan)
    if lines <= _CYCLE_MODEL_ENTRIES:
        times = estimate(plan)
        steady, rest, drained = times.cycles_per_step, times.latency, times.counters["drain"]
    return MachineLoad(
        name=plan.model.name, memories=_memories(plan.needs, config), bytes=size, streamed=plan.streamed,
        stream_bytes=lines * config.stream_bits // 8 if plan.streamed else 0, banks=plan.banks, least_cycles=lines,
        cycles_per_step=steady, cycles_at_rest=rest,
        nonzeros=sum(int(operation.encoded.nonzeros.sum()) for operation in plan.operations),
        reads=_reads(plan, drained), multiplications=_multiplications(plan))


def drained_rows(plan: Schedule) -> int:
    """Rows of accumulators that are read out in a step, on each PE, of a machine with this model alone."""
    return sum(_sums(held) * held["rows"] * (held["phase_last"] + 1)
               for held in plan.instructions if held["opcode"] in (Opcode.ELEMENTWISE, Opcode.PROJECT))


def _sums(instruction: Mapping[str, Any]) -> int:
    """Sums of a row that an ELEMENTWISE or PROJECT drains."""
    if instruction.get("dense") or instruction["opcode"] == Opcode.PROJECT:
        return 1
    if instruction.get("reset_before"):
        return 1 if instruction.get("resets") else 2
    return 4


def _table_values(plan: Schedule) -> int:
    of_layers = (layer.outputs * (layer.activation in TABLES) if layer.kind is DENSE else
                 layer.cells * _CELLS[layer.kind][0] for layer in plan.model.layers)
    return sum(of_layers) * plan.config.channels


def _reads(plan: Schedule, drained: int) -> dict[str, int]:
    config = plan.config
    parts = [operation.encoded for operation in plan.operations]
    nonzeros = sum(int(part.nonzeros.sum()) for part in parts)
    return {
        "weights": sum(int(part.lengths.sum()) for part in parts),
        "pointers": sum(part.counts.size for part in parts),
        "columns": sum(part.order.size for part in parts) * config.channels,
        "accumulators": (nonzeros + drained * config.pes) * config.channels,
        "tables": _SAMPLES * _table_values(plan),
    }


def _multiplications(plan: Schedule) -> dict[str, int]:
    channels = plan.config.channels
    cells = sum(layer.cells * _CELLS[layer.kind][1] for layer in plan.model.layers if layer.kind is not DENSE)
    with_peepholes = sum(layer.cells for layer in plan.model.layers if layer.peephole is not None)
    return {
        "weights": sum(int(operation.encoded.nonzeros.sum()) for operation in plan.operations) * channels,
        "tables": _table_values(plan),
        "cells": cells * channels,
        "peepholes": _PEEPHOLES * with_peepholes * channels,
    }
