# SPDX-License-Identifier: Apache-2.0
"""What the reads and operations of a step cost in energy, as a range between two published processes.

No FPGA was measured. The energies are those of the operations alone, in chips made for nothing else; the module's
`LEFT_OUT` says what a machine takes beside them. They serve to compare machines and networks with each other.
"""

from collections.abc import Mapping
from typing import NamedTuple

from openese.rtl.config import Config

__all__ = ["LEFT_OUT", "PROCESSES", "Joules", "Process", "energies", "total"]

#: What the figures do not contain.
LEFT_OUT = ("clock, registers, wires and leakage; the controller; the states of the cells; pins, the memory's "
            "controller and the host; that an FPGA's logic takes 7 to 14 times the energy of an ASIC's")

_WORD = 64  # bits of the accesses to memories in the sources


class Process(NamedTuple):
    """Energies of a process, in picojoules.

    Attributes
    ----------
    add : float
        Of an adder, for each bit. The source has 8 and 32 bits; this is the 32.
    multiply : float
        Of a multiplier, for each product of one bit with one bit, from 32 x 32 bits.
    memory : float
        Of a bit read or written in an SRAM of 8 KB, near the 4.5 KB of a block RAM.
    dram : float
        Of a bit that comes from DDR3 or DDR4 memory. HBM2 takes a fifth to a third of it, by the later source.
    source : str
    """

    add: float
    multiply: float
    memory: float
    dram: float
    source: str


#: From the least to the most energy.
PROCESSES = {
    "7 nm": Process(0.03 / 32, 1.48 / 32**2, 7.5 / _WORD, 1300 / _WORD,
                    "N. P. Jouppi et al., Ten Lessons From Three Generations Shaped Google's TPUv4i, ISCA 2021, "
                    "table 2"),
    "45 nm": Process(0.1 / 32, 3.1 / 32**2, 10 / _WORD, 1300 / _WORD,
                     "M. Horowitz, Computing's Energy Problem (and what we can do about it), ISSCC 2014"),
}


class Joules(NamedTuple):
    """A range of energy in joules, from the first of `PROCESSES` to the last."""

    least: float
    most: float


def energies(config: Config, reads: Mapping[str, int], multiplications: Mapping[str, int],
             stream_bytes: int = 0) -> dict[str, Joules]:
    """The energy of a step, by what it is spent on.

    Parameters
    ----------
    config : Config
    reads, multiplications : mapping
        Of a step, as in `openese.sw.cycles.load.MachineLoad`. Each product of a weight is added to an accumulator,
        which is read and written.
    stream_bytes : int
        Bytes of weights that a step reads from memory outside. They are written on the chip, and read there.

    Returns
    -------
    dict of str to `Joules`
        Empty if there are no counts.
    """
    if not reads or not multiplications:
        return {}
    width = config.activation_bits
    kept_bits = {
        "weights": reads["weights"] * config.entry_bits + 8 * stream_bytes,
        "pointers": reads["pointers"] * config.count_bits,
        "columns": reads["columns"] * width,
        "accumulators": 2 * reads["accumulators"] * config.accumulator_bits,
        "tables": reads["tables"] * config.table_bits,
    }
    bit_products = {
        "weights": config.weight_bits * width,
        "tables": config.table_bits * config.fraction_bits,
        "cells": config.cell_bits * config.table_bits,
        "peepholes": config.cell_bits * config.peephole_bits,
    }
    amounts = {f"memory: {name}": (bits, "memory") for name, bits in kept_bits.items()}
    amounts["memory outside: weights"] = (8 * stream_bytes, "dram")
    amounts["multiplications"] = (sum(number * bit_products[name] for name, number in multiplications.items()),
                                  "multiply")
    amounts["additions"] = (multiplications["weights"] * config.accumulator_bits, "add")
    return {name: Joules(*(amount * getattr(process, kind) * 1e-12 for process in PROCESSES.values()))
            for name, (amount, kind) in amounts.items() if amount}


def total(spent: Mapping[str, Joules]) -> Joules:
    """All of `energies`."""
    return Joules(sum(one.least for one in spent.values()), sum(one.most for one in spent.values()))
