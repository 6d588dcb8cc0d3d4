# SPDX-License-Identifier: Apache-2.0
"""Fan-out: the cells that each net of a machine drives, across its hierarchy."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

from openese.sim.synthesis.families import Family
from openese.sim.synthesis.yosys import Module

__all__ = ["KINDS", "Net", "nets"]

#: What drives a net: a register or a block RAM; logic, or a memory of LUTs; a pin of the machine.
KINDS = ("register", "logic", "pin")


class Net(NamedTuple):
    """A net of the machine. Nets of a module's instances are one net of each kind: the one with the most loads.

    Attributes
    ----------
    block : str
        The block with the driver.
    name : str
        Its name in the Verilog, as far as Yosys keeps it.
    kind : str
        One of `KINDS`.
    loads : int
        Cells that it drives. A cell counts once. Clocks do not count.
    """

    block: str
    name: str
    kind: str
    loads: int


@dataclass
class _Summary:
    """A module from outside.

    ``pins`` has, for each bit of a port, the number of the net inside; constants have none. ``loads`` and ``drivers``
    are by that number. Two ports with the same number are one net.
    """

    pins: dict[str, list[int | None]]
    outputs: set[str]
    loads: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    drivers: dict[int, tuple[str, str, str]] = field(default_factory=dict)


def nets(netlist: dict[str, Module], top: str, family: Family, block: Callable[[str], str]) -> list[Net]:
    """The nets of a machine, those with the most loads first.

    Parameters
    ----------
    netlist : dict
        The mapped modules by name.
    top : str
        The module of the machine.
    family : Family
    block : callable
        The block of a module's name.
    """
    most: dict[tuple[str, str, str], int] = {}

    def keep(driver: tuple[str, str, str], loads: int) -> None:
        most[driver] = max(most.get(driver, 0), loads)

    @cache
    def visit(name: str) -> _Summary:
        module = netlist[name]
        directions = {pin: port["direction"] for pin, port in module["ports"].items()}
        cells = [(cell, visit(cell["type"]) if cell["type"] in netlist else None) for cell in module["cells"].values()]
        one = _Joined()
        for cell, below in cells:
            for first, second in _through(cell, below) if below else ():
                one.join(first, second)
        found = _Summary({pin: [one.find(bit) if isinstance(bit, int) else None for bit in port["bits"]]
                          for pin, port in module["ports"].items()},
                         {pin for pin, direction in directions.items() if direction == "output"})
        for cell, below in cells:
            if below:
                _count_instance(cell, below, one, found)
            else:
                _count_cell(cell, module.get("names", {}), block(name), family, one, found)
        outside = {bit for bits in found.pins.values() for bit in bits}
        for bit, driver in found.drivers.items():
            if bit not in outside:
                keep(driver, found.loads[bit])
        return found

    machine = visit(top)
    for pin, bits in machine.pins.items():
        for index, bit in enumerate(bits):
            if bit is None:
                continue
            if bit in machine.drivers:
                keep(machine.drivers[bit], machine.loads[bit])
            elif pin not in machine.outputs:
                keep((block(top), f"{pin}[{index}]" if len(bits) > 1 else pin, "pin"), machine.loads[bit])
    return sorted((Net(*driver, loads) for driver, loads in most.items()), key=lambda net: (-net.loads, net))


class _Joined:
    """Nets that are one, since a module in between passes them through."""

    def __init__(self) -> None:
        self._parents: dict[int, int] = {}

    def find(self, bit: int) -> int:
        while bit in self._parents:
            bit = self._parents[bit]
        return bit

    def join(self, first: int, second: int) -> None:
        first, second = self.find(first), self.find(second)
        if first != second:
            self._parents[first] = second


def _through(cell: Module, below: _Summary) -> list[tuple[int, int]]:
    """The pairs of outer nets that are one net inside."""
    first: dict[int, int] = {}
    pairs = []
    for pin, bits in cell["connections"].items():
        for outer, inner in zip(bits, below.pins[pin], strict=True):
            if isinstance(outer, int) and inner is not None:
                pairs.append((first.setdefault(inner, outer), outer))
    return [(one, other) for one, other in pairs if one != other]


def _count_instance(cell: Module, below: _Summary, one: _Joined, found: _Summary) -> None:
    """Add the loads that an instance has, once for each of its nets, and the nets that it drives."""
    counted = set()
    for pin, bits in cell["connections"].items():
        for outer, inner in zip(bits, below.pins[pin], strict=True):
            if not isinstance(outer, int) or inner is None:
                continue
            bit = one.find(outer)
            if inner not in counted:
                found.loads[bit] += below.loads.get(inner, 0)
                counted.add(inner)
            if inner in below.drivers:
                found.drivers[bit] = below.drivers[inner]


def _count_cell(cell: Module, names: dict[str, str], block: str, family: Family, one: _Joined,
                found: _Summary) -> None:
    """Add a cell of the family."""
    kind = "logic" if cell["type"] in family.logic else "register"
    loaded = set()
    for pin, bits in cell["connections"].items():
        wires = [bit for bit in bits if isinstance(bit, int)]
        if cell["port_directions"][pin] == "output":
            for bit in wires:
                found.drivers[one.find(bit)] = (block, names.get(str(bit), ""), kind)
        elif pin not in family.clocks.get(cell["type"], ()):
            loaded |= {one.find(bit) for bit in wires}
    for bit in loaded:
        found.loads[bit] += 1
