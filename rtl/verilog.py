# SPDX-License-Identifier: Apache-2.0
"""The Verilog of a configuration."""

from openese.rtl.emit import emit
from openese.rtl.top import Top

__all__ = ["TOP", "verilog"]

#: Name of the top module.
TOP = "openese"


def verilog(config):
    """Verilog of the machine, module `TOP`: the same text for the same ``config`` and versions of Python and Amaranth.

    Another version of Python may give some signals other names.
    """
    return emit(Top(config), TOP)
