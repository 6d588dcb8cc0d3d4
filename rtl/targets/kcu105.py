# SPDX-License-Identifier: Apache-2.0
"""Vivado: a design for the KCU105 around the packaged IP."""

from openese.rtl.targets import TargetError, ip, write_files
from openese.rtl.targets.buses import ports
from openese.rtl.targets.vivado import constraints, settings

__all__ = ["write"]


def write(config, folder):
    """Write the packaged IP into ``ip/``, and ``kcu105.tcl``, which builds the block design.

    Raises
    ------
    TargetError
        The AXI DMA does not support the width of a frame's beats.
    """
    bits = {port.name: port.width for port in ports(config)}["s_axis_tdata"]
    if bits not in (8, 16, 32, 64, 128, 256, 512, 1024):
        raise TargetError(f"a beat of frames has {bits} bits; AXI DMA wants a power of two between 8 and 1024")
    write_files(folder, {
        **{f"ip/{path}": text for path, text in ip.files(config).items()},
        "kcu105.tcl": constraints("kcu105.tcl"),
        "settings.tcl": settings(config, {}),
    })
