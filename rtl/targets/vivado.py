# SPDX-License-Identifier: Apache-2.0
"""What the Vivado targets share: the names of things, the hand-written scripts and the settings that these read.

The scripts and constraints lie in ``constraints/`` and are copied as they are. All that depends on the configuration
is in ``settings.tcl``, a dictionary that is written beside them.
"""

import dataclasses
from pathlib import Path

from openese.rtl.config import Config
from openese.rtl.loader import VERSION
from openese.rtl.registers import REGISTERS, Access
from openese.rtl.targets.buses import buses, ports
from openese.rtl.top import ADDRESS_WIDTH
from openese.rtl.verilog import TOP

__all__ = ["PART", "BOARD_PART", "PERIOD", "CORE", "ACCESS", "core", "parameters", "registers", "constraints",
           "settings"]

#: The paper's device: Kintex UltraScale KU060, slower of the two common speed grades.
PART = "xcku060-ffva1156-2-e"
#: The KCU105's device.
BOARD_PART = "xcku040-ffva1156-2-e"
#: Of ``constraints/openese_ooc.xdc``, in ns.
PERIOD = "5.000"

#: What the packaged IP is called.
CORE = {"vendor": "openese", "library": "accelerators", "name": TOP, "version": f"{VERSION}.0",
        "taxonomy": "/UserIP", "vendor_display_name": "OpenESE", "company_url": "https://arxiv.org/abs/1612.00694"}
#: Families whose block RAM and DSP slices the machine is written for; it has not been on any of them yet.
DEVICE_FAMILIES = ("kintexu", "virtexu", "kintexuplus", "virtexuplus", "zynquplus")

#: IP-XACT's words.
ACCESS = {Access.READ: "read-only", Access.WRITE: "write-only", Access.READ_WRITE: "read-write",
          Access.CLEAR: "read-write"}

_CONSTRAINTS = Path(__file__).parents[2] / "constraints"


def core(config):
    """`CORE`, with what is said about this configuration."""
    weights = "resident or streamed" if config.stream else "resident"
    return {**CORE, "display_name": f"OpenESE {config.name}",
            "description": f"Sparse LSTM accelerator: {config.pes} PEs x {config.channels} channels, {weights} weights"}


def parameters(config):
    """Format and value of every field of ``config``, by name in capitals, and its fingerprint.

    Formats and values are IP-XACT's: ``long``, ``bool`` or ``bitString``.
    """
    values = {}
    for field in dataclasses.fields(Config):
        value = getattr(config, field.name)
        if isinstance(value, bool):
            values[field.name.upper()] = ("bool", str(value).lower())
        elif isinstance(value, int):
            values[field.name.upper()] = ("long", str(value))
    values["FINGERPRINT"] = ("bitString", f"0x{config.fingerprint:08X}")
    return values


def registers(config):
    """The registers that a machine of ``config`` has."""
    return [register for register in REGISTERS if config.stream or not register.name.startswith("STREAM")]


def constraints(name):
    """Text of the hand-written file ``name``."""
    return (_CONSTRAINTS / name).read_text(encoding="utf-8")


def _word(value, indent):
    """``value``, a dictionary, a list or text, as a word of Tcl; broken where it would be too long for a line."""
    if not isinstance(value, (dict, list)):
        text = str(value)
        return text if text and all(letter.isalnum() or letter in "_.:/-" for letter in text) else "{" + text + "}"
    deeper = indent + "  "
    if isinstance(value, dict):
        words = [f"{key} {_word(item, deeper)}" for key, item in value.items()]
    else:
        words = [_word(item, deeper) for item in value]
    line = "{" + " ".join(words) + "}"
    if len(indent) + len(line) <= 80:
        return line
    return "{\n" + "".join(f"{deeper}{word}\n" for word in words) + indent + "}"


def settings(config, driver_files):
    """``settings.tcl``: the dictionary ``settings`` for the scripts of ``constraints/``.

    Parameters
    ----------
    config : Config
    driver_files : dict
        Type by path of the files of the driver.
    """
    about = core(config)
    widths = {port.name: port.width for port in ports(config)}
    values = {
        **about,
        "vlnv": ":".join(about[part] for part in ("vendor", "library", "name", "version")),
        "families": [word for family in DEVICE_FAMILIES for word in (family, "Beta")],
        "part": PART,
        "board_part": BOARD_PART,
        "period": PERIOD,
        "stream": int(config.stream),
        "frame_bits": widths["s_axis_tdata"],
        "register_range": 1 << ADDRESS_WIDTH,
        "buses": {bus.name: {"vlnv": f"xilinx.com:{bus.library}:{bus.kind}_rtl:1.0", "ports": list(bus.ports.values()),
                             "clocked": int(bus.clocked),
                             # What the association of the buses with their clock sets is left to it.
                             "parameters": {} if bus.kind == "clock" else bus.parameters}
                  for bus in buses(config).values()},
        "registers": {register.name: {
            "offset": f"0x{register.address:03X}", "access": ACCESS[register.access], "description": register.text,
            "fields": {field.name: {"low": field.low, "width": field.width, "description": field.text}
                       for field in register.fields}} for register in registers(config)},
        "parameters": {name: {"format": kind, "value": value} for name, (kind, value) in parameters(config).items()},
        "driver_files": driver_files,
    }
    return ("# SPDX-License-Identifier: Apache-2.0\n"
            f"# Preset {config.name}, written by python -m rtl.build.\nset settings {_word(values, '')}\n")
