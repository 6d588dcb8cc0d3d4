# SPDX-License-Identifier: Apache-2.0
"""Vivado: packaged IP, with its driver."""

from openese.rtl.targets import write_files
from openese.rtl.targets.component import component, user_interface
from openese.rtl.targets.driver import driver
from openese.rtl.targets.vivado import constraints, settings
from openese.rtl.verilog import TOP, verilog

__all__ = ["write", "files"]


def files(config):
    """The files of the IP: texts by path.

    With ``component.xml`` the folder is an IP repository. Or ``package.tcl`` makes Vivado package the same IP.
    """
    sources = driver(config)
    types = {path: kind for path, (kind, _) in sources.items()}
    return {
        "component.xml": component(config, types),
        f"hdl/{TOP}.v": verilog(config),
        "constraints/openese.xdc": constraints("openese.xdc"),
        "constraints/openese_ooc.xdc": constraints("openese_ooc.xdc"),
        **user_interface(config),
        **{path: text for path, (_, text) in sources.items()},
        "package.tcl": constraints("package.tcl"),
        "settings.tcl": settings(config, types),
    }


def write(config, folder):
    """Write the packaged IP into ``folder``."""
    write_files(folder, files(config))
