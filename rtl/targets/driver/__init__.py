# SPDX-License-Identifier: Apache-2.0
"""The host's side in C: hand-written files, and ``openese_hw.h``, which is generated from the register table."""

from importlib import resources

from openese.rtl.config import BANK_SHIFT, MODEL_SHIFT
from openese.rtl.frames import beat_bytes
from openese.rtl.loader import MAGIC, VERSION, ImageError
from openese.rtl.registers import registers
from openese.rtl.targets.vivado import CORE, parameters

__all__ = ["driver", "header", "library"]

_FOLDER = f"drivers/{CORE['name']}_v{CORE['version'].replace('.', '_')}"
#: Path in the driver and type, as IP-XACT or Vivado calls it, of the hand-written files.
_FILES = {"openese.mdd": ("data", "mdd"), "openese.tcl": ("data", "tclSource"), "Makefile": ("src", "unknown"),
          **{f"openese{part}.{end}": ("src", "cSource") for part in ("", "_host", "_dma") for end in "ch"}}


def header(config):
    """Text of ``openese_hw.h``: addresses, fields and the configuration."""
    lines = ["/* SPDX-License-Identifier: Apache-2.0 */",
             f"/* Registers of the OpenESE machine, preset {config.name}; written by python -m rtl.build. */",
             "#ifndef OPENESE_HW_H", "#define OPENESE_HW_H", "",
             f"#define OPENESE_MAGIC 0x{MAGIC:08X}u", f"#define OPENESE_REGISTER_VERSION {VERSION}u", ""]
    for name, (_, value) in parameters(config).items():
        number = {"true": "1", "false": "0"}.get(value, value)
        lines.append(f"#define OPENESE_CONFIG_{name} {number}u")
    lines += ["", "/* Beats of frames, and the fields of a header. */",
              f"#define OPENESE_BEAT_COLUMNS {config.beat_columns}u",
              f"#define OPENESE_BEAT_BYTES {beat_bytes(config)}u",
              f"#define OPENESE_BANK_SHIFT {BANK_SHIFT}u", f"#define OPENESE_MODEL_SHIFT {MODEL_SHIFT}u", "",
              "/* Why an image is refused: IMAGE_ERROR_REASON. */",
              f"#define OPENESE_IMAGE_REASONS(_) {' '.join(f'_({one.name}, {one.value})' for one in ImageError)}", ""]
    for register in registers(config):
        name = f"OPENESE_{register.name}"
        lines.append(f"#define {name} 0x{register.address:03X}u" + (f" /* {register.text} */" if register.text else ""))
        for field in register.fields:
            mask = (1 << field.width) - 1 << field.low
            lines.append(f"#define {name}_{field.name} 0x{mask:08X}u /* {field.text} */")
            if field.width > 1:
                lines.append(f"#define {name}_{field.name}_SHIFT {field.low}u")
    return "\n".join([*lines, "", "#endif", ""])


def library(config):
    """The C files: texts by name."""
    here = resources.files(__name__)
    files = {name: here.joinpath(name).read_text(encoding="utf-8") for name, (_, kind) in _FILES.items()
             if kind == "cSource"}
    return {**files, "openese_hw.h": header(config)}


def driver(config):
    """The files of the driver for board support packages: type and text by path."""
    here = resources.files(__name__)
    sources = {name: here.joinpath(name).read_text(encoding="utf-8") for name in _FILES} | library(config)
    return {f"{_FOLDER}/{folder}/{name}": (kind, sources[name])
            for name, (folder, kind) in {**_FILES, "openese_hw.h": ("src", "cSource")}.items()}
