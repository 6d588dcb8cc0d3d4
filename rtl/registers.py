# SPDX-License-Identifier: Apache-2.0
"""The register map: one table for the hardware, the host and the documentation."""

import enum
from dataclasses import dataclass

from .loader import VERSION

__all__ = ["Access", "Register", "REGISTERS", "COUNTERS", "Control", "Status", "Interrupt", "ADDRESS", "markdown"]


class Access(enum.Enum):
    """How a register may be used."""

    READ = "r"
    WRITE = "w"
    READ_WRITE = "rw"
    CLEAR = "rw1c"


class Control(enum.IntFlag):
    """Bits of CONTROL."""

    RUN = 1
    RESET = 2
    LOAD = 4


class Status(enum.IntFlag):
    """Bits of STATUS."""

    LOADED = 1
    LOADING = 2
    IDLE = 4
    WAITING_FRAME = 8
    OUTPUT_BLOCKED = 16


class Interrupt(enum.IntFlag):
    """Bits of INTERRUPT and INTERRUPT_ENABLE."""

    FRAME_SENT = 1
    IMAGE_LOADED = 2
    IMAGE_REFUSED = 4
    FRAME_SHORT = 8
    FRAME_LONG = 16
    STREAM_FAILED = 32


@dataclass(frozen=True)
class Register:
    """One 32-bit register at byte ``address``."""

    name: str
    address: int
    access: Access
    text: str


#: 64-bit counters since the last reset, in the order of their addresses.
COUNTERS = {
    "cycles": "cycles while RUN is set",
    "steps": "frames computed",
    "busy": "multiplications of real entries, summed over the PEs (times channels: multiplier cycles)",
    "padding": "padding entries, summed over the PEs",
    "hazard": "cycles a PE waited for its own accumulator, summed over the PEs",
    "drain": "cycles in which the accumulators were read out instead (all PEs at once)",
    "full": "cycles the broadcast waited for a full ActQueue",
    "follow": "cycles the broadcast waited for m or y to be computed",
    "starved": "cycles a PE waited for streamed weights, summed over the PEs",
    "frame": "cycles the controller waited for a frame",
    "output": "cycles the receiver did not take a frame",
    "saturated": "cell states and outputs that were clamped",
}

_FIXED = [
    Register("ID", 0x000, Access.READ, "`0x4553454F`: OESE"),
    Register("VERSION", 0x004, Access.READ, f"{VERSION}: of the registers and the image format"),
    Register("FINGERPRINT", 0x008, Access.READ, "of the configuration; an image must carry the same"),
    Register("CAPACITY", 0x00C, Access.READ, "PEs in bits 15..0, channels in 23..16, column groups in 31..24"),
    Register("CONTROL", 0x020, Access.READ_WRITE,
             "bit 0 RUN: compute frames; bit 1 RESET: abandon everything but the image and the cell states; "
             "bit 2 LOAD: abandon the image too and expect a new one. RESET and LOAD read as 0"),
    Register("STATUS", 0x024, Access.READ,
             "bit 0 an image is loaded; 1 one is being loaded; 2 nothing is under way; 3 waiting for a frame; "
             "4 the receiver of frames does not take one"),
    Register("IMAGE_ERROR", 0x028, Access.READ,
             "why the image was refused (7..0) and in which of its sections (15..8); see the image format"),
    Register("LOAD", 0x02C, Access.WRITE, "next word of the image"),
    Register("INTERRUPT", 0x030, Access.CLEAR,
             "bit 0 a frame was sent; 1 an image was loaded; 2 it was refused; 3 a frame was dropped since TLAST "
             "came early; 4 since it came late; 5 a weight could not be read. Write ones to clear"),
    Register("INTERRUPT_ENABLE", 0x034, Access.READ_WRITE, "which of these raise `irq`"),
    Register("STATE_SELECT", 0x040, Access.READ_WRITE,
             "one number of a voice's state, only while nothing is under way (else SLVERR): index in 15..0, channel "
             "in 23..16; bit 31: 1 the cell state, index = cell row x PE rows + PE row; 0 y, index = its column in "
             "the vector memory"),
    Register("STATE_DATA", 0x044, Access.READ_WRITE, "that number, signed"),
    Register("STREAM_BASE_LOW", 0x048, Access.READ_WRITE,
             "byte address of the streamed weights, a multiple of 4096; only where weights can be streamed"),
    Register("STREAM_BASE_HIGH", 0x04C, Access.READ_WRITE, "its upper half"),
    Register("STREAM_ERROR", 0x050, Access.READ,
             "RRESP of the read that failed (1..0; 0: none) and its line (31..8). The stream stops until RESET"),
]

COUNTER_BASE = 0x080

REGISTERS = _FIXED + [
    Register(f"{name.upper()}_{half}", COUNTER_BASE + 8 * index + offset, Access.READ,
             text if half == "LOW" else f"upper half of {name}, as it was when the lower was read")
    for index, (name, text) in enumerate(COUNTERS.items())
    for half, offset in (("LOW", 0), ("HIGH", 4))
]

ADDRESS = {register.name: register.address for register in REGISTERS}


def markdown():
    """The table of the documentation."""
    lines = ["| address | name | access | meaning |", "|---|---|---|---|"]
    lines += [f"| 0x{r.address:03x} | {r.name} | {r.access.value} | {r.text} |" for r in REGISTERS]
    return "\n".join(lines) + "\n"
