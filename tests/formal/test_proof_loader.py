# SPDX-License-Identifier: Apache-2.0
"""Loader: an image is loaded if and only if all of it is right, whatever came before the last reset.

The CRC-32 is Amaranth's. Its result is free here; when it starts, and the words that it gets, are part of the proof.
"""

from enum import IntEnum, auto
from types import SimpleNamespace
from unittest import mock

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from openese.rtl import loader
from openese.rtl.loader import HEADER_WORDS, MAGIC, VERSION, ImageError, Lines, Loader, Section
from tests.formal.engine import implies, proof
from tests.formal.sizes import SMALL, describe

MACHINE = describe(SMALL, "pes", "channels", "program_depth", "entry_depth")


class Expect(IntEnum):
    """The word of an image that comes next: behind the header, a section's head, payload and CRC-32."""

    IDENTIFIER = HEADER_WORDS
    FIRST = auto()
    COUNT = auto()
    PAYLOAD = auto()
    CHECK = auto()
    END = auto()
    WRONG = auto()


class OpenCRC(wiring.Component):
    """In place of the CRC-32."""

    start: In(1)
    data: In(32)
    valid: In(1)
    crc: Out(32)

    def elaborate(self, platform):
        return Module()


def opened(h):
    """The block, and the ports of its CRC-32."""
    crc = OpenCRC()
    kind = SimpleNamespace(CRC32_ISO_HDLC=lambda data_width: SimpleNamespace(create=lambda: crc))
    dut = Loader(SMALL)
    with mock.patch.object(loader, "catalog", kind):
        h.add(dut)
    h.expose(crc.crc)
    return dut, crc


class Format:
    """The image format, word by word.

    Attributes
    ----------
    expect : Signal
        Number of a word of the header, or `Expect`.
    error : Signal
        The `ImageError`.
    section, first, index : Signal
        Of the section: identifier, number of the next line, words of it that have come.
    """

    def __init__(self, h, word, valid, crc):
        m = h.m
        lines = Lines(SMALL)
        self.expect, self.error = Signal(range(len(Expect) + HEADER_WORDS)), Signal(3)
        self.section, self.first, self.index = Signal(3), Signal(24), Signal(4)
        self.number = Signal(8)
        total, possible, left = Signal(8), Signal(), Signal(24)
        fresh = Signal(init=1)
        m.d.sync += fresh.eq(0)
        h.prove(implies(self.expect != Expect.WRONG, crc.start == fresh), crc.data == word, crc.valid == valid)

        def wrong(error):
            m.d.sync += [self.expect.eq(Expect.WRONG), self.error.eq(error)]

        def check(condition, error, following):
            m.d.sync += self.expect.eq(following)
            with m.If(~condition):
                wrong(error)

        with m.If(valid), m.Switch(self.expect):
            with m.Case(0):
                check(word == MAGIC, ImageError.MAGIC, 1)
            with m.Case(1):
                check(word == VERSION, ImageError.VERSION, 2)
            with m.Case(2):
                check(word == SMALL.fingerprint, ImageError.FINGERPRINT, 3)
            with m.Case(3):
                m.d.sync += [total.eq(word), possible.eq((word != 0) & (word < 256)), self.expect.eq(4)]
            with m.Case(4):
                m.d.sync += fresh.eq(1)
                check(possible, ImageError.LENGTH, Expect.IDENTIFIER)
                with m.If(word != crc.crc):
                    wrong(ImageError.HEADER_CRC)
            with m.Case(Expect.IDENTIFIER):
                m.d.sync += self.section.eq(word)
                check(word < len(Section), ImageError.SECTION, Expect.FIRST)
            with m.Case(Expect.FIRST):
                m.d.sync += self.first.eq(word)
                check(word < 1 << 24, ImageError.LENGTH, Expect.COUNT)
            with m.Case(Expect.COUNT):
                m.d.sync += [left.eq(word), self.index.eq(0), self.expect.eq(Expect.PAYLOAD)]
                with m.If(word == 0):
                    m.d.sync += self.expect.eq(Expect.CHECK)
                for section in Section:
                    beyond = (word >= 1 << 24) | (self.first + word > lines.depth[section])
                    with m.If((self.section == section) & beyond):
                        wrong(ImageError.LENGTH)
            with m.Case(Expect.PAYLOAD):
                m.d.sync += self.index.eq(self.index + 1)
                with m.If(self.ends(lines)):
                    m.d.sync += [self.index.eq(0), self.first.eq(self.first + 1), left.eq(left - 1)]
                    with m.If(left == 1):
                        m.d.sync += self.expect.eq(Expect.CHECK)
            with m.Case(Expect.CHECK):
                m.d.sync += [self.number.eq(self.number + 1), fresh.eq(1), self.expect.eq(Expect.IDENTIFIER)]
                with m.If(self.number + 1 == total):
                    m.d.sync += self.expect.eq(Expect.END)
                with m.If(word != crc.crc):
                    wrong(ImageError.SECTION_CRC)

    def ends(self, lines):
        """The word of the payload that comes is the last of its line."""
        ends = 0
        for section, words in lines.words.items():
            ends |= (self.section == section) & (self.index == words - 1)
        return ends


@proof("Loader", "after a reset, whatever came before: `loaded` if and only if header, fingerprint and every CRC-32 "
       "are right and every section fits its memory; otherwise the error of the first wrong word. The result of the "
       "CRC unit is free", MACHINE)
def test_loaded(h):
    dut, crc = opened(h)
    image = Format(h, dut.word, dut.word_valid, crc)
    h.prove(dut.loaded == (image.expect == Expect.END), dut.error == image.error,
            (dut.error != 0) == (image.expect == Expect.WRONG), dut.loading == ~(dut.loaded | (dut.error != 0)))
    h.refute(implies(image.expect == Expect.CHECK, image.index != 0), dut.error == 0)
    h.cover(dut.loaded & (image.number == 2), dut.error == ImageError.LENGTH)


@proof("Loader", "a line is written when its last word has come: to its own memory, at its own address, with the words "
       "as they came", MACHINE)
def test_lines(h):
    dut, crc = opened(h)
    m = h.m
    lines = Lines(SMALL)
    image = Format(h, dut.word, dut.word_valid, crc)
    ends = dut.word_valid & (image.expect == Expect.PAYLOAD) & image.ends(lines)
    written = h.past(ends)
    words = [dut.word]  # of payloads, the latest first
    for _ in range(max(lines.words.values())):
        word = Signal(32, reset_less=True)
        with m.If(dut.word_valid & (image.expect == Expect.PAYLOAD)):
            m.d.sync += word.eq(words[-1])
        words.append(word)
    h.prove((dut.writes != 0) == written, implies(written, dut.writes == (1 << h.past(image.section))),
            implies(written, dut.address == h.past(image.first)))
    for section in (Section.TABLES, Section.WEIGHTS):
        count = lines.words[section]
        for k in range(count):
            bits = min(32, lines.bits[section] - 32 * k)
            own = lines.select(dut.line, section)[32 * k:32 * k + bits]
            h.prove(implies(dut.writes[section], own == words[count - k][:bits]))
    h.refute(dut.writes[Section.ORDER] == 0, implies(dut.writes[Section.TABLES], dut.address == 0))
    h.cover(dut.writes[Section.PROGRAM] & (dut.address == 3))
