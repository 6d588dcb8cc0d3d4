# SPDX-License-Identifier: Apache-2.0
"""Levels of logic: LUTs and carry chains on the paths between the registers of a netlist."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import count

from openese.rtl.verilog import TOP
from openese.sim.synthesis.families import Family
from openese.sim.synthesis.yosys import Module, SynthesisError

__all__ = ["Depths"]

#: Pins of a LUT's memory that its outputs follow at once.
_READ_ADDRESS = ("ADDR", "DPRA", "RAD")


@dataclass(frozen=True)
class _Arc:
    """A cell through which signals pass: its input and output bits, and the levels that it adds."""

    sources: list[int]
    sinks: list[int]
    luts: int
    chains: int


class Depths:
    """The most LUTs, and the most carry chains, on the paths to and from every bit of a module.

    Parameters
    ----------
    netlist : dict
        The mapped modules by name.
    top : str
        The module. Modules inside it are flattened, but for ``units``.
    family : Family
    units : dict
        By module, depths that are known. A path that enters a unit ends there, so its outputs must not follow its
        inputs without a register in between.
    block : callable
        The block of a module's name.

    Attributes
    ----------
    ports : dict
        By port, the number of each of its bits; None for a constant.
    combinational : bool
        Whether an output follows an input without a register in between.
    ends : dict
        By block, the most LUTs and the most carry chains of the paths that end in it: at a register, in a unit, or at
        a pin of the machine. The paths within a unit are not among them.

    Raises
    ------
    SynthesisError
        There is a loop of logic without a register.
    """

    def __init__(self, netlist: dict[str, Module], top: str, family: Family, units: dict[str, "Depths"],
                 block: Callable[[str], str]) -> None:
        self._arrival: dict[int, tuple[int, int]] = defaultdict(lambda: (0, 0))
        self._departure: dict[int, tuple[int, int]] = defaultdict(lambda: (0, 0))
        numbers = count()
        cells: list[Module] = []
        # Where paths end: the bit, the block, and the levels that are still to come.
        ends: list[tuple[int, str, tuple[int, int]]] = []

        def flatten(name: str, outside: dict[int, int]) -> dict[int, int]:
            inside: dict[int, int] = defaultdict(lambda: next(numbers), outside)
            for cell in netlist[name]["cells"].values():
                pins = {pin: [inside[bit] for bit in bits if isinstance(bit, int)]
                        for pin, bits in cell["connections"].items()}
                if cell["type"] in netlist and cell["type"] not in units:
                    flatten(cell["type"], {
                        inner: inside[bit] for pin, bits in cell["connections"].items()
                        for inner, bit in zip(netlist[cell["type"]]["ports"][pin]["bits"], bits, strict=True)
                        if isinstance(bit, int) and isinstance(inner, int)})
                elif cell["type"] in units:
                    ends.extend(self._place(cell, inside, units[cell["type"]], block(cell["type"])))
                else:
                    if cell["type"] in family.logic:
                        cells.append({**cell, "connections": pins})
                    ends.extend((bit, block(name), (0, 0)) for bit in _ended(cell, pins, family))
            return inside

        bits = flatten(top, {})
        self.ports = {pin: [bits[bit] if isinstance(bit, int) else None for bit in port["bits"]]
                      for pin, port in netlist[top]["ports"].items()}
        directions = {pin: port["direction"] for pin, port in netlist[top]["ports"].items()}
        carries = {bit for cell in cells if cell["type"] in family.chains
                   for pin, driven in cell["connections"].items() if cell["port_directions"][pin] == "output"
                   for bit in driven}
        arcs = _sorted([arc for cell in cells for arc in _arcs(cell, family, carries)])
        follows = {bit for pin, wires in self.ports.items() if directions[pin] == "input" for bit in wires}
        for arc in arcs:
            if not follows.isdisjoint(arc.sources):
                follows.update(arc.sinks)
            luts, chains = _most(self._arrival[bit] for bit in arc.sources)
            for bit in arc.sinks:
                self._arrival[bit] = _most([self._arrival[bit], (luts + arc.luts, chains + arc.chains)])
        self.combinational = any(bit in follows and bit is not None for pin, wires in self.ports.items()
                                 if directions[pin] == "output" for bit in wires)
        if top == TOP:
            ends.extend((bit, block(top), (0, 0)) for pin, wires in self.ports.items() if directions[pin] == "output"
                        for bit in wires if bit is not None)
        levels: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for bit, name, (luts, chains) in ends:
            arrival = self._arrival[bit]
            levels[name].append((arrival[0] + luts, arrival[1] + chains))
        self.ends = {name: _most(found) for name, found in levels.items()}
        for arc in reversed(arcs):
            luts, chains = _most(self._departure[bit] for bit in arc.sinks)
            for bit in arc.sources:
                self._departure[bit] = _most([self._departure[bit], (luts + arc.luts, chains + arc.chains)])

    def _place(self, cell: Module, inside: dict[int, int], unit: "Depths",
               block: str) -> Iterator[tuple[int, str, tuple[int, int]]]:
        """Begin and end paths at the ports of a unit; gives the ends."""
        for pin, bits in cell["connections"].items():
            for outer, inner in zip(bits, unit.ports[pin], strict=True):
                if not isinstance(outer, int) or inner is None:
                    continue
                bit = inside[outer]
                if cell["port_directions"][pin] == "output":
                    self._arrival[bit] = _most([self._arrival[bit], unit._arrival[inner]])
                else:
                    self._departure[bit] = _most([self._departure[bit], unit._departure[inner]])
                    yield bit, block, unit._departure[inner]


def _most(levels: Iterable[tuple[int, ...]]) -> tuple[int, int]:
    """LUTs and chains, each the most of all."""
    luts, chains = zip((0, 0), *levels, strict=True)
    return max(luts), max(chains)


def _ended(cell: Module, pins: dict[str, list[int]], family: Family) -> Iterator[int]:
    """The bits at which paths end: inputs that no output follows in the same cycle."""
    followed = {bit for arc in _arcs({**cell, "connections": pins}, family, set()) for bit in arc.sources} \
        if cell["type"] in family.logic else set()
    for pin, bits in pins.items():
        if cell["port_directions"][pin] == "input" and pin not in family.clocks.get(cell["type"], ()):
            yield from (bit for bit in bits if bit not in followed)


def _arcs(cell: Module, family: Family, carries: set[int]) -> list[_Arc]:
    """A cell's arcs from inputs to outputs."""
    ways: dict[str, list[int]] = {"input": [], "output": []}
    linked = []
    memory = cell["type"].startswith(("RAM", "TRELLIS_DPR"))
    for pin, bits in cell["connections"].items():
        direction = cell["port_directions"][pin]
        single = cell["type"].endswith("X1S") and pin.startswith("A")  # one address, to read and to write
        if memory and direction == "input" and not (single or pin.startswith(_READ_ADDRESS)):
            continue
        if pin in family.clocks.get(cell["type"], ()):
            continue
        if direction == "input" and cell["type"] in family.chains and pin in family.chain_inputs:
            linked += [bit for bit in bits if bit in carries]
            bits = [bit for bit in bits if bit not in carries]
        ways[direction] += bits
    luts, chain = family.logic[cell["type"]], int(cell["type"] in family.chains)
    return [_Arc(sources, ways["output"], luts, chains)
            for sources, chains in ((ways["input"], chain), (linked, 0)) if sources]


def _sorted(arcs: list[_Arc]) -> list[_Arc]:
    """The arcs, each behind those that drive it."""
    drivers: dict[int, list[int]] = defaultdict(list)
    for number, arc in enumerate(arcs):
        for bit in arc.sinks:
            drivers[bit].append(number)
    sorter = TopologicalSorter({number: {driver for bit in arc.sources for driver in drivers.get(bit, ())}
                                for number, arc in enumerate(arcs)})
    try:
        return [arcs[number] for number in sorter.static_order()]
    except CycleError:
        raise SynthesisError("a loop of logic without a register") from None
