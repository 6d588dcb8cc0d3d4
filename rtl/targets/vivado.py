# SPDX-License-Identifier: Apache-2.0
"""The common parts of the Vivado targets: names, hand-written scripts, and the settings for these scripts.

The scripts and constraints in ``constraints/`` are copied unchanged. All values that depend on the configuration are in
``settings.tcl``, a dictionary beside them.
"""

import dataclasses
from pathlib import Path

from openese.rtl.config import Config
from openese.rtl.loader import VERSION
from openese.rtl.registers import Access, registers
from openese.rtl.targets.buses import buses, ports
from openese.rtl.top import ADDRESS_WIDTH
from openese.rtl.verilog import TOP

__all__ = ["PART", "BOARD_PART", "PERIOD", "CORE", "ACCESS", "core", "parameters", "constraints",
           "settings"]

#: The paper's device: Kintex UltraScale KU060, slower of the two common speed grades.
PART = "xcku060-ffva1156-2-e"
#: The device on the KCU105.
BOARD_PART = "xcku040-ffva1156-2-e"
#: The clock period of ``constraints/openese_ooc.xdc`` in ns.
PERIOD = "5.000"

#: Names of the packaged IP.
CORE = {"vendor": "openese", "library": "accelerators", "name": TOP, "version": f"{VERSION}.0",
        "taxonomy": "/UserIP", "vendor_display_name": "OpenESE", "company_url": "https://arxiv.org/abs/1612.00694"}
#: The machine is written for the block RAMs and DSP slices of these families. It was not on such a device yet.
DEVICE_FAMILIES = ("artix7", "kintex7", "virtex7", "zynq", "kintexu", "virtexu", "kintexuplus", "virtexuplus",
                   "zynquplus", "artixuplus")

#: IP-XACT's words for access.
ACCESS = {Access.READ: "read-only", Access.WRITE: "write-only", Access.READ_WRITE: "read-write",
          Access.CLEAR: "read-write"}

_CONSTRAINTS = Path(__file__).parents[2] / "constraints"


def core(config):
    """`CORE`, with a display name and a description of this configuration."""
    weights = "resident or streamed" if config.stream else "resident"
    return {**CORE, "display_name": f"OpenESE {config.name}",
            "description": f"Sparse LSTM accelerator: {config.pes} PEs x {config.channels} channels, {weights} weights"}


def parameters(config):
    """The fields of ``config`` and its fingerprint: format and value by name in capitals.

    The formats are IP-XACT's: ``long``, ``bool`` or ``bitString``.
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


def constraints(name):
    """Text of the hand-written file ``name``."""
    return (_CONSTRAINTS / name).read_text(encoding="utf-8")


def _word(value, indent):
    """A dictionary, a list or text as a word of Tcl, on several lines if it is too long for one."""
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


def settings(config, driver_files, **more):
    """The text of ``settings.tcl``: the dictionary ``settings`` for the scripts of ``constraints/``.

    Parameters
    ----------
    config : Config
    driver_files : dict
        The driver's files: type by path.
    **more
        Further values, by their names.
    """
    about = core(config)
    widths = {port.name: port.width for port in ports(config)}
    values = {
        **about,
        "vlnv": ":".join(about[part] for part in ("vendor", "library", "name", "version")),
        "families": [word for family in DEVICE_FAMILIES for word in (family, "Beta")],
        "part": PART,
        "period": PERIOD,
        "stream": int(config.stream),
        "frame_bits": widths["s_axis_tdata"],
        "register_range": 1 << ADDRESS_WIDTH,
        "buses": {bus.name: {"vlnv": f"xilinx.com:{bus.library}:{bus.kind}_rtl:1.0", "ports": list(bus.ports.values()),
                             "clocked": int(bus.clocked),
                             # Vivado sets the clock's parameters when it associates the buses.
                             "parameters": {} if bus.kind == "clock" else bus.parameters}
                  for bus in buses(config).values()},
        "registers": {register.name: {
            "offset": f"0x{register.address:03X}", "access": ACCESS[register.access], "description": register.text,
            "fields": {field.name: {"low": field.low, "width": field.width, "description": field.text}
                       for field in register.fields}} for register in registers(config)},
        "parameters": {name: {"format": kind, "value": value} for name, (kind, value) in parameters(config).items()},
        "driver_files": driver_files,
        **more,
    }
    return ("# SPDX-License-Identifier: Apache-2.0\n"
            f"# Preset {config.name}, written by python -m rtl.build.\nset settings {_word(values, '')}\n")
