# SPDX-License-Identifier: Apache-2.0
"""Vivado: designs for boards around the packaged IP."""

from openese.rtl.targets import TargetError, ip, write_files
from openese.rtl.targets.buses import ports
from openese.rtl.targets.vivado import BOARD_PART, constraints, settings

__all__ = ["BOARDS", "write"]

_ZYNQ = "zynq.tcl"

#: By target: the script, and what it finds as ``board`` in the settings. Parts and connectors are those of the board
#: files. ``registers`` is the address of the machine's registers, ``memory`` the size of the memory that it can reach.
BOARDS = {
    "kcu105": ("kcu105.tcl", {"part": BOARD_PART, "board_part": "xilinx.com:kcu105:part0:1.7"}),
    "kv260": (_ZYNQ, {
        "name": "kv260", "part": "xck26-sfvc784-2LV-c", "board_part": "xilinx.com:kv260_som:part0:1.4",
        "connections": ["som240_1_connector", "xilinx.com:kv260_carrier:som240_1_connector:1.3"],
        "processors": "zynq_ultra_ps_e", "megahertz": 150, "registers": "0xA0000000", "memory": "0x80000000"}),
    "pynq-z2": (_ZYNQ, {
        "name": "pynq_z2", "part": "xc7z020clg400-1", "board_part": "tul.com.tw:pynq-z2:part0:1.0", "connections": [],
        "processors": "processing_system7", "megahertz": 100, "registers": "0x43C00000", "memory": "0x20000000"}),
}


def write(config, folder, board):
    """Write the packaged IP into ``ip/``, and the scripts that build the block design of ``board``.

    Raises
    ------
    TargetError
        The AXI DMA does not support the width of a frame's beats.
    """
    bits = {port.name: port.width for port in ports(config)}["s_axis_tdata"]
    if bits not in (8, 16, 32, 64, 128, 256, 512, 1024):
        raise TargetError(f"a beat of frames has {bits} bits; AXI DMA wants a power of two between 8 and 1024")
    script, about = BOARDS[board]
    write_files(folder, {
        **{f"ip/{path}": text for path, text in ip.files(config).items()},
        **{name: constraints(name) for name in (script, "machine.tcl")},
        "settings.tcl": settings(config, {}, board=about),
    })
