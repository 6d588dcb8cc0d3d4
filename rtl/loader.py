# SPDX-License-Identifier: Apache-2.0
"""Loader: takes an image, one word after another, and refuses a wrong one."""

import enum
from typing import Any

from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.crc import catalog
from amaranth.lib.wiring import In, Out

from openese.rtl.attributes import fanout
from openese.rtl.bundles import Bundle
from openese.rtl.config import Config, bits_for
from openese.rtl.program import Instruction

__all__ = ["MAGIC", "VERSION", "HEADER_WORDS", "Section", "ImageError", "Lines", "LoadPort", "Loader"]

#: First word of an image, "OESE" in memory order.
MAGIC = int.from_bytes(b"OESE", "little")
#: Version of the image format and of the register map.
VERSION = 1
#: Words in front of the first section: magic, version, fingerprint, number of sections, CRC-32 of these.
HEADER_WORDS = 5


class Section(enum.IntEnum):
    """What a section fills. A section is: identifier, first line, lines, payload, CRC-32 of all these."""

    MANIFEST = 0
    PROGRAM = 1
    ORDER = 2
    POINTERS = 3
    WEIGHTS = 4
    PARAMETERS = 5
    TABLES = 6
    STREAM = 7


class ImageError(enum.IntEnum):
    """Why an image was refused; the detail is the section's number."""

    NONE = 0
    MAGIC = 1
    VERSION = 2
    FINGERPRINT = 3
    HEADER_CRC = 4
    SECTION = 5
    LENGTH = 6
    SECTION_CRC = 7


class Lines:
    """The lines of each section, in the image and in the machine.

    Attributes
    ----------
    bits, depth, words : dict
        By section: bits of a line, lines of its memory, 32-bit words of a line in the image. The machine keeps neither
        the manifest nor weights to be streamed.
    width : int
        Bits of the longest line in whole words.
    """

    def __init__(self, config: Config) -> None:
        memories = {
            Section.MANIFEST: (32, 1 << 24),
            Section.PROGRAM: (32 * Instruction(config).words, config.program_depth),
            Section.ORDER: (config.groups * config.line_bits, config.column_depth),
            Section.POINTERS: (config.pes * config.count_bits, config.column_depth),
            Section.WEIGHTS: (config.pes * config.entry_bits, config.entry_depth),
            Section.PARAMETERS: (config.slices * config.parameter_line_bits, config.parameter_lines),
            Section.TABLES: (2 * config.table_bits, 1 << config.table_index_bits),
            Section.STREAM: (config.stream_bits, 1 << 24),
        }
        self.bits = {section: bits for section, (bits, _) in memories.items()}
        self.depth = {section: depth for section, (_, depth) in memories.items()}
        self.words = {section: -(-bits // 32) for section, bits in self.bits.items()}
        self.width = 32 * max(self.words.values())

    def select(self, line: Any, section: Section) -> Any:
        """The bits of the loader's ``line`` that are a complete line of ``section``."""
        start = self.width - 32 * self.words[section]
        return line[start:start + self.bits[section]]


class LoadPort(Bundle):
    """Writes of lines, from the loader to the memories.

    Members
    -------
    line : Out(Lines.width) — words of the current line, in the upper bits; see `Lines.select`.
    address : Out(24) — number of the line.
    writes : Out(len(Section)) — a pulse for each line, in the bit of its `Section`.
    """

    def __init__(self, config):
        super().__init__({"line": Out(Lines(config).width), "address": Out(24), "writes": Out(len(Section))})


class Loader(wiring.Component):
    """Checks an image's header and the CRC-32 of every section, and writes its lines to the memories.

    A line is as many 32-bit words as it needs, lowest first. After an error the loader ignores every further word. Only
    a complete and correct image sets ``loaded``. A reset makes the loader expect a new image.

    Latency: one word a cycle, always. Cost: a shift register of the longest line, a CRC-32.

    Members
    -------
    word : In(32) — next word of the image.
    word_valid : In(1) — there is one.
    loaded : Out(1) — an image is complete and correct.
    loading : Out(1) — an image is neither complete nor refused.
    error : Out(bits_for(max(ImageError))) — the `ImageError`.
    error_section : Out(8) — number of the section in which it was found.
    line : Out(Lines.width) — words of the current line, in the upper bits; see `Lines.select`.
    address : Out(24) — number of the line.
    writes : Out(len(Section)) — a pulse for each line, in the bit of its `Section`.
    """

    def __init__(self, config):
        self._config = config
        self._lines = Lines(config)
        super().__init__({
            "word": In(32),
            "word_valid": In(1),
            "loaded": Out(1),
            "loading": Out(1),
            "error": Out(bits_for(max(ImageError))),
            "error_section": Out(8),
            **LoadPort(config).ports(),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.crc = crc = catalog.CRC32_ISO_HDLC(data_width=32).create()
        number = Signal(8)
        crc_clear = Signal(init=1)
        line_complete = Signal()
        written = Signal(range(len(Section)))
        checked = Signal(32)
        line = Signal.like(self.line, reset_less=True)
        m.d.comb += [
            crc.start.eq(crc_clear),
            crc.data.eq(self.word),
            crc.valid.eq(self.word_valid),
            checked.eq(crc.crc),
            self.line.eq(line),
            self.loading.eq(~self.loaded & (self.error == 0)),
        ]
        with m.If(line_complete):
            m.d.comb += self.writes.eq(1 << written)
        m.d.sync += [crc_clear.eq(0), line_complete.eq(0)]
        with m.If(line_complete):
            m.d.sync += self.address.eq(self.address + 1)

        def refuse(error):
            m.d.sync += [self.error.eq(error), self.error_section.eq(number)]
            m.next = "REFUSED"

        with m.FSM():
            total = self._header(m, refuse, checked, crc_clear)
            section, left, word_index = self._section(m, refuse)
            self._payload(m, section, left, word_index, line, line_complete, written)
            with m.State("SECTION_CRC"):
                with m.If(self.word_valid):
                    m.d.sync += number.eq(number + 1)
                    with m.If(self.word != checked):
                        refuse(ImageError.SECTION_CRC)
                    with m.Else():
                        m.d.sync += crc_clear.eq(1)
                        m.next = "SECTION"
                        with m.If(number + 1 == total):
                            m.d.sync += self.loaded.eq(1)
                            m.next = "LOADED"
            with m.State("LOADED"):
                pass
            with m.State("REFUSED"):
                pass
        return m

    def _header(self, m, refuse, checked, crc_clear):
        """States of the image's header. Returns the number of sections."""
        total = Signal(8)
        countable = Signal()
        for state, following, wanted, error in (
                ("MAGIC", "VERSION", MAGIC, ImageError.MAGIC),
                ("VERSION", "FINGERPRINT", VERSION, ImageError.VERSION),
                ("FINGERPRINT", "SECTIONS", self._config.fingerprint, ImageError.FINGERPRINT),
                ("SECTIONS", "HEADER_CRC", None, None)):
            with m.State(state):
                with m.If(self.word_valid):
                    m.next = following
                    if wanted is None:
                        m.d.sync += [total.eq(self.word), countable.eq((self.word != 0) & ~self.word[8:].any())]
                    else:
                        with m.If(self.word != wanted):
                            refuse(error)
        with m.State("HEADER_CRC"):
            with m.If(self.word_valid):
                m.d.sync += crc_clear.eq(1)
                m.next = "SECTION"
                with m.If(self.word != checked):
                    refuse(ImageError.HEADER_CRC)
                with m.Elif(~countable):
                    refuse(ImageError.LENGTH)
        return total

    def _section(self, m, refuse):
        """States of a section's header. Returns the section, its lines, and the word of a line."""
        section = Signal(range(len(Section)))
        left = Signal(24)
        depth = Signal(range(max(self._lines.depth.values()) + 1))
        room = Signal(signed(len(depth) + 1))  # for the section's lines; it may begin beyond its memory
        word_index = Signal(range(max(self._lines.words.values())))
        with m.State("SECTION"):
            with m.If(self.word_valid):
                m.d.sync += section.eq(self.word)
                m.next = "ADDRESS"
                with m.If(self.word >= len(Section)):
                    refuse(ImageError.SECTION)
        with m.State("ADDRESS"):
            with m.Switch(section):
                for key, lines in self._lines.depth.items():
                    with m.Case(key):
                        m.d.comb += depth.eq(lines)
            with m.If(self.word_valid):
                m.d.sync += [self.address.eq(self.word), room.eq(depth - self.word[:24])]
                m.next = "LINES"
                with m.If(self.word[24:].any()):
                    refuse(ImageError.LENGTH)
        with m.State("LINES"):
            with m.If(self.word_valid):
                m.d.sync += [left.eq(self.word), word_index.eq(0)]
                m.next = "PAYLOAD"
                with m.If(self.word == 0):
                    m.next = "SECTION_CRC"
                with m.If(self.word[24:].any() | (self.word[:24] > room)):
                    refuse(ImageError.LENGTH)
        return section, left, word_index

    def _payload(self, m, section, left, word_index, line, line_complete, written):
        """State of a section's lines: words are shifted into ``line`` until it is complete."""
        with m.State("PAYLOAD"):
            last = Signal()
            with m.Switch(section):
                for key, words in self._lines.words.items():
                    with m.Case(key):
                        m.d.comb += last.eq(word_index == words - 1)
            shifts = Signal(attrs=fanout(128))
            m.d.comb += shifts.eq(self.word_valid)
            with m.If(shifts):
                m.d.sync += line.eq(Cat(line, self.word)[32:])
            with m.If(self.word_valid):
                m.d.sync += word_index.eq(word_index + 1)
                with m.If(last):
                    m.d.sync += [word_index.eq(0), line_complete.eq(1), written.eq(section), left.eq(left - 1)]
                    with m.If(left == 1):
                        m.next = "SECTION_CRC"
