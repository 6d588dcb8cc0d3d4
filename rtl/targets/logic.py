# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""LUTs and registers of a machine, by a model of each block.

A block's registers and its LUTs of logic are a sum of terms: sizes that follow from the `Config`, times coefficients
that `openese.sim.synthesis.fit` finds on small machines that Yosys synthesizes. LUTs that are memory follow from the
memories, but for shift registers, which are terms too. ``logic.json`` has the coefficients, and how far the model was
from Yosys on machines that were not fitted.
"""

import json
from collections.abc import Mapping
from functools import cache
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

from openese.rtl.assemble import Assemble
from openese.rtl.config import Config, bits_for
from openese.rtl.elementwise.settings import Beat, Settings, Stages, adds_drained
from openese.rtl.frames import beat_bytes
from openese.rtl.interfaces import Context
from openese.rtl.loader import Lines
from openese.rtl.program import Instruction
from openese.rtl.targets.memories import FAMILIES, memories, of_any_depth, ways

__all__ = ["EXACT", "FILE", "FITTED", "LIKE", "Amount", "Block", "blocks", "logic", "taken"]

#: The coefficients.
FILE = Path(__file__).with_name("logic.json")

#: The resources that are fitted: LUTs, LUTs that are memory, registers. The LUTs of a fit are those that are no memory.
FITTED = ("LUT", "LUTRAM", "FF")

#: Terms that are numbers of registers or LUTs, and need no coefficient.
EXACT = ("adders", "choices", "picked", "read", "registers")

#: Families that have the coefficients of another, whose logic is the same.
LIKE = {"xcup": "xcu"}

_SHIFT_REGISTER = 3  # registers one behind another that Yosys makes one of


class Amount(NamedTuple):
    """A number, and how far such numbers were from Yosys's at most, as a share, on machines that were not fitted."""

    number: float
    error: float

    @property
    def least(self) -> float:
        """The number, less the error."""
        return self.number if not self.error else int(self.number * (1 - self.error))

    @property
    def most(self) -> float:
        """The number and the error."""
        return self.number if not self.error else ceil(self.number * (1 + self.error))


class Block(NamedTuple):
    """A block of a machine.

    Attributes
    ----------
    count : int
        Instances.
    terms : dict
        By resource of `FITTED` and name, the sizes with which an instance grows.
    memory : float
        LUTs that an instance's memories take.
    """

    count: int
    terms: dict[str, dict[str, float]]
    memory: float

    def taken(self, coefficients: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        """What an instance takes of each of `FITTED`."""
        sums = {resource: sum(self.terms[resource][name] * each
                              for name, each in coefficients.get(resource, {}).items()) for resource in FITTED}
        memory = sums["LUTRAM"] + self.memory
        return {"LUT": sums["LUT"] + memory, "LUTRAM": memory, "FF": sums["FF"]}


class _Terms(NamedTuple):
    """Terms of an instance's LUTs of logic, registers, and shift registers. Each has a constant, too."""

    luts: dict[str, float] = {}
    registers: dict[str, float] = {}
    shifts: dict[str, float] = {}


def blocks(config: Config, family: str) -> dict[str, Block]:
    """The blocks of a machine, by the names of `openese.sim.synthesis.estimate.BLOCKS`. A PE has nothing but blocks.

    Parameters
    ----------
    config : Config
    family : str
        A key of `openese.rtl.targets.memories.FAMILIES`.
    """
    found = {**_pe(config, family), **_slice(config, family), **_shared(config, family), **_interface(config)}
    # StreamFetch keeps little of the program.
    held = {name: [] if name == "StreamFetch" else [memory.mapped(FAMILIES[family]) for memory in these]
            for name, these in memories(config).items()}
    result = {}
    for name, (count, terms) in found.items():
        mapped = held.get(name, [])
        result[name] = Block(count, {
            "LUT": {"one": 1, **terms.luts, "choices": sum(memory.choices for memory in mapped)},
            "LUTRAM": {"one": 1, **terms.shifts},
            "FF": {"one": 1, **terms.registers, "read": sum(memory.registers for memory in mapped)}},
            sum(memory.luts for memory in mapped))
    return result


def _pe(config: Config, family: str) -> dict[str, tuple[int, _Terms]]:
    count, position, entry = config.count_bits, config.position_bits, config.entry_bits
    pointers = count * config.tile_pes if config.wide_pointers else count
    row = bits_for(config.accumulator_rows - 1)
    channels, stream = config.channels, int(config.stream)
    columns, sums = channels * config.activation_bits, channels * config.accumulator_bits
    depth = bits_for(config.queue_depth)
    # The column twice, and the sum before; at the multiplier the column, the product, and the sum after.
    registers = 2 * columns + sums
    adders = sums
    if FAMILIES[family].packs:
        adders = 0
    else:
        registers += channels * config.operand_bits + 2 * columns + sums
    if config.forward:  # the sum that is read, or one of the two before, of which one is kept; and three comparisons
        in_luts = config.lut_channels * config.accumulator_bits
        adders, registers = adders + sums + in_luts + 3 * row // 2, registers + sums
    found = {
        "PtrRead": _Terms({"count": pointers, "one": config.tile_pes if config.wide_pointers else 1},
                          {"count": pointers}),
        "ActQueue": _Terms({"depth": depth}, {"depth": depth}),
        "SpmatRead": _Terms(
            {"position": position, "count": count, "streams": stream, "streamed": stream * position},
            {"position": position, "count": count, "entry": entry, "streams": stream, "streamed": stream * position},
            {"streams": stream}),
        "SpMV": _Terms(
            {"adders": adders, "channels": channels, "row": row,
             "operand": config.operand_bits,
             # A product of two multipliers, or of one that is too narrow.
             "split": channels * config.operand_bits * (config.operand_bits > FAMILIES[family].state_bits)},
            {"registers": registers, "row": row, "operand": config.operand_bits}),
    }
    counts = dict.fromkeys(found, config.pes) | ({"PtrRead": config.slices} if config.wide_pointers else {})
    return {name: (counts[name], terms) for name, terms in found.items()}


#: LUTs of four inputs that choose one of so many bits of an array; Yosys needs more of them than it might.
_ARRAYS = {1: 0, 2: 1, 4: 4, 8: 9, 16: 30}


def _array(count: int, inputs: int) -> int:
    """As `ways`, for arrays in logic. Their sizes are powers of two."""
    return ways(count, inputs) if inputs == 6 else _ARRAYS.get(count, 2 * count)


def _slice(config: Config, family: str) -> dict[str, tuple[int, _Terms]]:
    width, groups, sums = config.slice_width, config.groups, config.accumulator_bits
    picks = Stages.of(config).picks
    near = config.beats // picks
    # Of a lane and group: the lanes that are picked from, in one stage or two.
    inputs = FAMILIES[family].lut_inputs
    choice = near * _array(picks, inputs) + _array(near, inputs)
    picked = near + (near > 1) if config.beats > 1 or groups == 1 else 0
    adders = width * (groups - 1) * sums
    held = 0 if adds_drained(config) else groups * config.lanes * sums
    registers = held + config.lanes * config.activation_bits + width * groups * sums * picked + adders
    if config.forward:  # the c that is coming; where a row is one beat, what a gate leaves for the next two, too
        values = config.cell_bits + (config.table_bits + config.cell_bits + 6) * (config.beats == 1)
        adders += width * 3 * values // 2
    lanes = {"lanes": width, "sums": width * sums, "cells": width * config.cell_bits,
             "outputs": width * config.activation_bits, "gru": width * config.gru, "denses": width * config.dense}
    pes = config.tile_pes
    context = Context(config).size
    lines = (pes * (config.entry_bits + config.count_bits) + bits_for(config.entry_depth - 1)
             + bits_for(config.column_depth - 1) + config.parameter_line_bits + bits_for(config.parameter_lines - 1))
    arrived = (groups * config.channels * config.activation_bits + context + lines + config.cell_bits + width
               + Beat(config).size)
    several = int(pes > 1)
    stream = int(config.stream)
    found = {
        "Activation": _Terms({"lanes": width}, {"lanes": width}),
        "Slice": _Terms(
            {**lanes, "picked": width * groups * sums * choice, "adders": adders,
             "flags": width * _array(max(1, config.channels // width), inputs), "channels": config.channels},
            {**lanes, "registers": registers, "channels": config.channels},
            {"lanes": width, "outputs": width * config.activation_bits, "gru": width * config.gru}),
        "Tile": _Terms({"several": several, "joined": several * pes, "streamed": several * stream * pes},
                       {"registers": arrived, "several": several, "joined": several * pes, "streams": stream,
                        "streamed": stream * config.position_bits}),
    }
    return {name: (config.slices, terms) for name, terms in found.items()}


@cache
def _picking(config: Config) -> tuple[int, int, list[int]]:
    """How Assemble picks the columns of a row: its writes, steps and waits. Making an Assemble takes a while."""
    assemble = Assemble(config)
    return config.row_writes, assemble.picks, assemble.waits


def _shared(config: Config, family: str) -> dict[str, tuple[int, _Terms]]:
    """The blocks that serve all PEs and slices."""
    channels, groups, width = config.channels, config.groups, config.slice_width
    columns = groups * channels * config.activation_bits
    row, line, vector = bits_for(config.accumulator_rows - 1), config.line_bits, bits_for(config.vector_depth)
    tile_pes, slices, stream = config.tile_pes, config.slices, int(config.stream)
    lanes = slices * width
    order, context = bits_for(config.column_depth - 1), Context(config).size
    instruction = Instruction(config).size
    writes, picks, waits = _picking(of_any_depth(config))
    few = picks == 1
    written = columns * config.write_lines  # bits that are written in a cycle
    # Registers one behind another, by bank and channel; from so many on Yosys makes one shift register of them.
    chains = [1 + wait for wait in waits]
    parts = writes // 4
    least = _SHIFT_REGISTER if FAMILIES[family].shifts else sum(chains) + 1
    inputs = FAMILIES[family].lut_inputs
    counts = {"slices": slices, "counts": slices * bits_for(tile_pes), "lanes": slices * bits_for(width)}
    found = {
        "PEArray": _Terms({**counts, "streams": stream * slices, "streamed": stream * slices * bits_for(tile_pes)},
                          {**counts, "context": context, "streams": stream * slices}),
        "Assemble": _Terms(
            {"picked": written * (_array(writes, inputs) if few else parts * _array(4, inputs) + _array(parts, inputs)),
             "row": row, "line": line, "channels": channels, "groups": groups, "columns": columns,
             "dense": int(config.dense)},
            {"picked": (not few) * written * parts,
             "registers": config.activation_bits * sum(chain for chain in chains if chain < least),
             "settings": Settings(config).size + channels, "row": row, "line": line,
             "cell row": bits_for(config.cell_rows - 1), "dense": int(config.dense)},
            {"registers": config.activation_bits * sum(chain >= least for chain in chains)}),
        "Broadcast": _Terms({"order": order, "vector": vector, "lines": groups * line},
                            {"columns": columns, "order": order, "vector": vector, "lines": groups * line}),
        "Controller": _Terms(
            {"instruction": instruction, "channels": channels, "banks": config.bank_bits, "streams": stream,
             "program": bits_for(config.program_depth - 1), "line": line, "row": row},
            {"instruction": instruction, "channels": channels, "banks": config.bank_bits, "streams": stream,
             "context": context, "line": line}),
        "StateAccess": _Terms({"cells": config.cell_bits * ways(lanes, inputs),
                               "columns": config.activation_bits * ways(groups * channels, inputs), "lanes": lanes,
                               "channels": channels}, {"cells": config.cell_bits}),
        "VectorMemory": _Terms({"channels": groups * channels}, {"columns": columns}),
        "Core": _Terms({"columns": written, "lines": groups * line, "channels": channels,
                        "streamed": stream * config.stream_bits, "banks": config.bank_bits}),
    }
    if config.stream:
        found["StreamFetch"] = _Terms()
    return {name: (1, terms) for name, terms in found.items()}


def _interface(config: Config) -> dict[str, tuple[int, _Terms]]:
    """The blocks between the core and the pins."""
    channels, groups = config.channels, config.groups
    line, vector = config.line_bits, bits_for(config.vector_depth)
    beat = 8 * beat_bytes(config)
    banks, stream = config.bank_bits, int(config.stream)
    found = {
        "FrameInput": _Terms({"channels": channels, "vector": vector, "line": line, "groups": groups, "banks": banks},
                             {"channels": channels, "vector": vector, "line": line, "banks": banks}),
        "FrameOutput": _Terms({"beat": beat, "vector": vector, "line": line, "groups": groups,
                               "parts": beat * (config.write_columns // config.beat_columns - 1)},
                              {"beat": beat, "channels": channels, "vector": vector, "line": line, "banks": banks}),
        "Loader": _Terms({}, {"line": Lines(config).width}),
        "AXI4LiteSubordinate": _Terms(),
        "FrameGuard": _Terms({"beat": beat}),
        "Watchdog": _Terms(),
        "Top": _Terms({"beat": beat, "counts": bits_for(config.pes), "streams": stream},
                      {"counts": bits_for(config.pes), "channels": channels, "streams": stream}),
    }
    if config.stream:
        found["StreamReader"] = _Terms({}, {"line": config.stream_bits})
    return {name: (1, terms) for name, terms in found.items()}


@cache
def _fitted() -> dict[str, Any]:
    fitted: dict[str, Any] = json.loads(FILE.read_text())
    return fitted


def taken(config: Config, family: str, coefficients: Mapping[str, Any]) -> dict[str, float]:
    """What a machine takes of each of `FITTED`, by coefficients of its blocks."""
    totals = dict.fromkeys(FITTED, 0.0)
    for name, block in blocks(config, family).items():
        for resource, each in block.taken(coefficients.get(name, {})).items():
            totals[resource] += block.count * each
    return totals


def logic(config: Config, family: str) -> dict[str, Amount]:
    """LUTs, those of them that are memory, and registers of a machine, as Yosys would map them to a family.

    Parameters
    ----------
    config : Config
    family : str
        A key of `openese.rtl.targets.memories.FAMILIES`.
    """
    coefficients, errors = _fitted()[LIKE.get(family, family)]["blocks"], _fitted()[family]["errors"]
    return {resource: Amount(round(total), errors[resource])
            for resource, total in taken(config, family, coefficients).items()}
