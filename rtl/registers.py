# SPDX-License-Identifier: Apache-2.0
"""The register map: one table for the hardware, the host and the documentation."""

import enum
from dataclasses import dataclass

from openese.rtl.loader import VERSION

__all__ = ["Access", "Field", "Register", "REGISTERS", "COUNTERS", "Control", "Status", "Interrupt", "ADDRESS",
           "markdown"]


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
class Field:
    """Bits ``low + width - 1 .. low`` of a register."""

    name: str
    low: int
    width: int
    text: str

    def __str__(self):
        if self.width == 1:
            return f"bit {self.low} {self.name}: {self.text}"
        return f"bits {self.low + self.width - 1}..{self.low} {self.name}: {self.text}"


@dataclass(frozen=True)
class Register:
    """One 32-bit register at byte ``address``. One without ``fields`` is a number of 32 bits."""

    name: str
    address: int
    access: Access
    text: str
    fields: tuple[Field, ...] = ()


def _flags(flags, texts):
    """A field for each member of an ``IntFlag``, with its text."""
    return tuple(Field(flag.name, flag.bit_length() - 1, 1, text) for flag, text in zip(flags, texts, strict=True))


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

_INTERRUPTS = _flags(Interrupt, [
    "a frame was sent", "an image was loaded", "an image was refused", "a frame was dropped since TLAST came early",
    "a frame was dropped since TLAST came late", "a weight could not be read"])

_FIXED = [
    Register("ID", 0x000, Access.READ, "`0x4553454F`: OESE"),
    Register("VERSION", 0x004, Access.READ, f"{VERSION}: of the registers and the image format"),
    Register("FINGERPRINT", 0x008, Access.READ, "of the configuration; an image must carry the same"),
    Register("CAPACITY", 0x00C, Access.READ, "", (
        Field("PES", 0, 16, "PEs"), Field("CHANNELS", 16, 8, "channels"), Field("GROUPS", 24, 8, "column groups"))),
    Register("CONTROL", 0x020, Access.READ_WRITE, "", _flags(Control, [
        "compute frames", "abandon everything but the image and the cell states; reads as 0",
        "abandon the image too and expect a new one; reads as 0"])),
    Register("STATUS", 0x024, Access.READ, "", _flags(Status, [
        "an image is loaded", "one is being loaded", "nothing is under way", "waiting for a frame",
        "the receiver of frames does not take one"])),
    Register("IMAGE_ERROR", 0x028, Access.READ, "", (
        Field("REASON", 0, 8, "why the image was refused, see the image format; 0: it was not"),
        Field("SECTION", 8, 8, "in which of its sections"))),
    Register("LOAD", 0x02C, Access.WRITE, "next word of the image"),
    Register("INTERRUPT", 0x030, Access.CLEAR, "write ones to clear", _INTERRUPTS),
    Register("INTERRUPT_ENABLE", 0x034, Access.READ_WRITE, "which of INTERRUPT raise `irq`", _INTERRUPTS),
    Register("STATE_SELECT", 0x040, Access.READ_WRITE,
             "one number of a voice's state, only while nothing is under way (else SLVERR)", (
                 Field("INDEX", 0, 16, "of c: cell row x PE rows + PE row; of y: its column in the vector memory"),
                 Field("CHANNEL", 16, 8, "the voice"),
                 Field("CELL", 31, 1, "1: the cell state c, 0: y"))),
    Register("STATE_DATA", 0x044, Access.READ_WRITE, "that number, signed"),
    Register("STREAM_BASE_LOW", 0x048, Access.READ_WRITE,
             "byte address of the streamed weights, a multiple of 4096; only where weights can be streamed"),
    Register("STREAM_BASE_HIGH", 0x04C, Access.READ_WRITE, "its upper half"),
    Register("STREAM_ERROR", 0x050, Access.READ, "the stream stops at an error, until RESET", (
        Field("RESPONSE", 0, 2, "RRESP of the read that failed; 0: none"), Field("LINE", 8, 24, "its line"))),
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
    for r in REGISTERS:
        meaning = "<br>".join([*filter(None, [r.text]), *map(str, r.fields)])
        lines.append(f"| 0x{r.address:03x} | {r.name} | {r.access.value} | {meaning} |")
    return "\n".join(lines) + "\n"
