# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""The machine's ports, grouped into buses by their names."""

import functools
import re
from dataclasses import dataclass
from typing import NamedTuple

from amaranth.lib.wiring import In

from openese.rtl.top import ADDRESS_WIDTH, Top
from openese.rtl.weight_stream import StreamReader, burst_lines

__all__ = ["Port", "Bus", "ports", "buses"]


class Port(NamedTuple):
    """A port of the top module; ``width`` in bits."""

    name: str
    direction: str
    width: int


@dataclass(frozen=True)
class Bus:
    """Ports that belong together.

    Attributes
    ----------
    name : str
        The common prefix of its ports, or the name of its single port.
    library, kind : str
        Parts of the name of its definition in Vivado, ``xilinx.com:library:kind:1.0``.
    master : bool
        Whether the machine starts the transfers, or drives the signal.
    ports : dict
        Physical name by logical name.
    parameters : dict
        The definition's other parameters, as text.
    """

    name: str
    library: str
    kind: str
    master: bool
    ports: dict[str, str]
    parameters: dict[str, str]

    @property
    def clocked(self):
        """Whether it is a bus with transfers on the clock ``aclk``."""
        return self.library == "interface"


@functools.cache
def ports(config):
    """Every `Port` of the machine, in the order of its definition."""
    return tuple(Port(name, "in" if member.flow is In else "out", member.shape)
                 for name, member in Top(config).signature.members.items())


def _parameters(config, name):
    widths = {port.name: port.width for port in ports(config)}
    if name == "s_axi":
        return {"PROTOCOL": "AXI4LITE", "DATA_WIDTH": "32", "ADDR_WIDTH": str(ADDRESS_WIDTH)}
    if name == "m_axi":
        return {"PROTOCOL": "AXI4", "READ_WRITE_MODE": "READ_ONLY", "DATA_WIDTH": str(config.stream_bits),
                "ADDR_WIDTH": str(widths["m_axi_araddr"]), "MAX_BURST_LENGTH": str(burst_lines(config)),
                "NUM_READ_OUTSTANDING": str(StreamReader.most), "SUPPORTS_NARROW_BURST": "0"}
    return {"TDATA_NUM_BYTES": str(widths[f"{name}_tdata"] // 8), "HAS_TREADY": "1", "HAS_TLAST": "1",
            "HAS_TKEEP": "0", "HAS_TSTRB": "0", "TDEST_WIDTH": "0", "TID_WIDTH": "0", "TUSER_WIDTH": "0"}


def buses(config):
    """Every `Bus` of the machine, by name."""
    grouped = {}
    for port in ports(config):
        match = re.fullmatch(r"(([sm])_(axis|axi))_(\w+)", port.name)
        if match:
            name, side, kind, logical = match.groups()
            bus = grouped.setdefault(name, Bus(name, "interface", "axis" if kind == "axis" else "aximm", side == "m",
                                             {}, _parameters(config, name)))
            bus.ports[logical.upper()] = port.name
    clock = {"ASSOCIATED_BUSIF": ":".join(grouped), "ASSOCIATED_RESET": "aresetn"}
    signals = [Bus("aclk", "signal", "clock", False, {"CLK": "aclk"}, clock),
               Bus("aresetn", "signal", "reset", False, {"RST": "aresetn"}, {"POLARITY": "ACTIVE_LOW"}),
               Bus("irq", "signal", "interrupt", True, {"INTERRUPT": "irq"}, {"SENSITIVITY": "LEVEL_HIGH"})]
    return {**{signal.name: signal for signal in signals}, **grouped}
