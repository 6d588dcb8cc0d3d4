# SPDX-License-Identifier: Apache-2.0
"""Measures a GRU of the paper layer's inputs and cells: on the emitted Verilog, and with the cycle model.

`gru` returns a dictionary with the keys ``machine``, ``layer``, ``rtl``, ``model_cycles``, ``model_difference`` and
``matrices`` of `openese.sw.bench.run`, without the paper's figures. ``machine`` has ``cells``, and ``deeper`` with the
capacities that the layer needs beyond the preset's.
"""

from collections.abc import Callable
from typing import Any

from openese.rtl.config import Config
from openese.sw.bench.layer import gru_layer, quantized_layer
from openese.sw.bench.machine import measured
from openese.sw.bench.report import by_matrix
from openese.sw.cycles.model import estimate
from openese.sw.model.layers import GRU
from openese.sw.model.quantized import cells_with
from openese.sw.pack.schedule import Schedule, schedule
from openese.sw.prune import prune

__all__ = ["gru", "gru_plan"]

_STEP = 1024  # lines by which the weight memory is made deeper; the others double


def gru_plan(config: Config, density: float = 0.1, reset_after: bool = True, **sizes: int) -> Schedule:
    """The layer on a machine with cells of GRUs, whose memories are made deeper if they must.

    Parameters
    ----------
    config : Config
    density : float
        The layer's share of weights kept.
    reset_after : bool
        As of `openese.sw.model.layers.Layer`.
    **sizes : int
        ``inputs`` and ``cells``, if they are others.
    """
    machine = config.replace(cells=cells_with("lstm", GRU, reset_after))
    sparse = prune(gru_layer(**sizes, reset_after=reset_after), density, config.pes, config.groups)
    deepest = machine.replace(entry_depth=1 << 20, column_depth=1 << 16, vector_depth=1 << 16)
    needs = schedule(quantized_layer(sparse, deepest), deepest, stream=False).needs
    for name in ("column_depth", "vector_depth"):
        if needs[name] > getattr(config, name):
            machine = machine.replace(**{name: 1 << (needs[name] - 1).bit_length()})
    if needs["entry_depth"] > config.entry_depth and not config.stream:
        machine = machine.replace(entry_depth=-(-needs["entry_depth"] // _STEP) * _STEP)
    return schedule(quantized_layer(sparse, machine), machine)


def gru(config: Config, density: float = 0.1, reset_after: bool = True,
        tell: Callable[[str], None] = lambda stage: None) -> dict[str, Any]:
    """Measure the layer. The module's docstring lists the keys of the result; `gru_plan` has the parameters.

    Raises
    ------
    CapacityError
        The layer does not fit the machine.
    """
    tell("placing the layer")
    plan = gru_plan(config, density, reset_after)
    tell("the emitted Verilog")
    steady = measured(plan)[0]
    tell("the cycle model")
    predicted = estimate(plan)
    matrices = [operation.encoded for operation in plan.operations]
    deeper = {name: getattr(plan.config, name) for name in ("entry_depth", "column_depth", "vector_depth")
              if getattr(plan.config, name) != getattr(config, name)}
    return {
        "machine": {"preset": config.name, "pes": config.pes, "channels": config.channels, "groups": config.groups,
                    "multipliers": config.multipliers, "cells": plan.config.cells, "deeper": deeper},
        "layer": {"density": density, "inputs": plan.model.inputs, "cells": plan.model.outputs,
                  "nonzeros": int(sum(matrix.nonzeros.sum() for matrix in matrices)),
                  "entries_per_pe": sum(matrix.lines for matrix in matrices),
                  "padding": sum(m.padding for m in matrices) / sum(int(m.lengths.sum()) for m in matrices)},
        "rtl": steady, "model_cycles": predicted.cycles_per_step,
        "model_difference": predicted.cycles_per_step / steady["cycles_per_step"] - 1,
        "matrices": by_matrix(plan, predicted)}
