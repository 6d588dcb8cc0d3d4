# SPDX-License-Identifier: Apache-2.0
"""The packets of the serial link, as both of its ends use them.

A packet is whole 32-bit words, lowest byte first: a header, up to `DEPTH` words of payload, the CRC-32 of both. On the
line it stands between two `END` bytes, as in RFC 1055 (SLIP): a receiver that has lost its place resynchronizes at the
next one.
"""

import enum
import zlib
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["DEPTH", "END", "ESCAPE", "ESCAPED_END", "ESCAPED_ESCAPE", "PROTOCOL", "Kind", "Packet", "decode", "encode"]

#: Version of the protocol.
PROTOCOL = 1
#: Words of payload that a packet may have.
DEPTH = 512

END, ESCAPE = 0xC0, 0xDB
ESCAPED_END, ESCAPED_ESCAPE = 0xDC, 0xDD


class Kind(enum.IntEnum):
    """Kind of a request. The kind of its answer is the request's plus `ANSWER`."""

    HELLO = 0
    REGISTERS = 1
    FRAMES = 2
    ANSWER = 0x80
    REFUSED = 0xFF


class Packet(NamedTuple):
    """Kind, number of the request, words of payload (uint32)."""

    kind: int
    sequence: int
    payload: NDArray[np.uint32]


def encode(kind: int, sequence: int, payload: ArrayLike = ()) -> bytes:
    """The bytes of a packet on the line.

    Raises
    ------
    ValueError
        If the payload has more than `DEPTH` words.
    """
    words = np.asarray(payload, "<u4")
    if len(words) > DEPTH:
        raise ValueError(f"a packet has at most {DEPTH} words, not {len(words)}")
    body = bytes([kind, sequence]) + len(words).to_bytes(2, "little") + words.tobytes()
    body += zlib.crc32(body).to_bytes(4, "little")
    escaped = body.replace(bytes([ESCAPE]), bytes([ESCAPE, ESCAPED_ESCAPE])).replace(
        bytes([END]), bytes([ESCAPE, ESCAPED_END]))
    return bytes([END]) + escaped + bytes([END])


def decode(line: bytes) -> Packet | None:
    """The packet between two `END` bytes, which are not part of ``line``; None if it is not complete and correct."""
    body = bytearray()
    escaped = False
    for byte in line:
        if escaped:
            if byte not in (ESCAPED_END, ESCAPED_ESCAPE):
                return None
            body.append(END if byte == ESCAPED_END else ESCAPE)
            escaped = False
        elif byte == ESCAPE:
            escaped = True
        else:
            body.append(byte)
    words = int.from_bytes(body[2:4], "little")
    if escaped or words > DEPTH or len(body) != 8 + 4 * words:
        return None
    if zlib.crc32(body[:-4]) != int.from_bytes(body[-4:], "little"):
        return None
    return Packet(body[0], body[1], np.frombuffer(bytes(body[4:-4]), "<u4"))
