# SPDX-License-Identifier: Apache-2.0
"""Loader: a right image arrives line by line, a wrong one is refused by the name of what is wrong."""

import zlib

import numpy as np
import pytest
from amaranth.hdl import ResetInserter, Signal
from bench import TINY, cycles, generator, pause, raw, seeds, simulate, trace

from openese.rtl.loader import HEADER_WORDS, MAGIC, VERSION, ImageError, Lines, Loader, Section

CONFIGS = {
    "tiny": TINY,
    "wide": TINY.replace(pes=8, slices=8, groups=1, channels=4),
}


def crc(words):
    return zlib.crc32(np.array(words, "<u4").tobytes())


def header(config, count):
    words = [MAGIC, VERSION, config.fingerprint, count]
    return [*words, crc(words)]


def section(number, first, lines):
    """A section of ``lines``, each a list of words."""
    words = [int(number), first, len(lines), *(word for line in lines for word in line)]
    return [*words, crc(words)]


class Image:
    """Random sections and the writes that must come of them."""

    def __init__(self, config, rng, kinds):
        lines = Lines(config)
        self.words = header(config, len(kinds))
        self.writes = []
        self.starts = []
        for kind in kinds:
            count = int(rng.integers(0, 6))
            first = int(rng.integers(0, min(lines.depth[kind], 1000) - count + 1))
            payload = rng.integers(0, 1 << 32, (count, lines.words[kind])).tolist()
            self.starts.append(len(self.words))
            self.words += section(kind, first, payload)
            for number, line in enumerate(payload):
                value = sum(word << (32 * k) for k, word in enumerate(line))
                self.writes.append((1 << kind, first + number, value & ((1 << lines.bits[kind]) - 1)))


def load(config, images, rng=None, pauses=0.0):
    """What the loader does with each of ``images``, reset in between: (writes, loaded, error, section)."""
    dut = Loader(config)
    lines = Lines(config)
    reset = Signal()
    watch, seen = trace(dut.writes, dut.address, raw(dut.line))
    results, starts = [], []

    async def bench(ctx):
        for words in images:
            ctx.set(reset, 1)
            await ctx.tick()
            ctx.set(reset, 0)
            starts.append(len(seen) + 1)
            for word in words:
                if pauses:
                    ctx.set(dut.word_valid, 0)
                    # What stands on the port between two words does not count.
                    ctx.set(dut.word, int(rng.integers(1 << 32)))
                    await pause(ctx, rng, pauses)
                ctx.set(dut.word, int(word))
                ctx.set(dut.word_valid, 1)
                await ctx.tick()
            ctx.set(dut.word_valid, 0)
            await cycles(ctx, 2)
            loaded, error = ctx.get(dut.loaded), ImageError(ctx.get(dut.error))
            assert ctx.get(dut.loading) == (not loaded and error is ImageError.NONE)
            results.append((loaded, error, ctx.get(dut.error_section)))

    simulate(ResetInserter(reset)(dut), bench, limit=10 * sum(map(len, images)) + 100, background=[watch])
    writes = [[] for _ in images]
    for cycle, (bits, address, line) in enumerate(seen):
        if bits:
            kind = Section(bits.bit_length() - 1)
            unused = lines.width - 32 * lines.words[kind]
            image = sum(cycle >= start for start in starts) - 1
            writes[image].append((bits, address, line >> unused & ((1 << lines.bits[kind]) - 1)))
    return [(written, *result) for written, result in zip(writes, results, strict=True)]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("pauses", [0.0, 0.5])
@seeds(1)
def test_lines_of_all_sections(config, pauses, seed):
    rng = generator(seed)
    images = [Image(config, rng, [*Section, *rng.choice(list(Section), 4)]) for _ in range(3)]
    results = load(config, [image.words for image in images], rng, pauses)
    assert results == [(image.writes, 1, ImageError.NONE, 0) for image in images]


def test_an_image_is_loaded_with_its_last_word():
    rng = generator(0)
    words = Image(TINY, rng, list(Section)).words
    lengths = [len(words), *rng.integers(0, len(words), 8).tolist(), len(words) - 1, len(words)]
    results = load(TINY, [words[:length] for length in lengths])
    assert [result[1:] for result in results] == [
        (int(length == len(words)), ImageError.NONE, 0) for length in lengths]


@seeds(1)
def test_every_wrong_word_of_the_header_is_named(seed):
    rng = generator(seed)
    errors = [ImageError.MAGIC, ImageError.VERSION, ImageError.FINGERPRINT, ImageError.HEADER_CRC,
              ImageError.HEADER_CRC]
    assert len(errors) == HEADER_WORDS
    images = [Image(TINY, rng, [Section.ORDER]).words for _ in range(32 * HEADER_WORDS)]
    for number, words in enumerate(images):
        words[number % HEADER_WORDS] ^= 1 << number // HEADER_WORDS
    assert load(TINY, images) == [([], 0, error, 0) for error in errors] * 32


@seeds(1)
def test_a_wrong_word_of_a_section_is_found(seed):
    """Any bit of the payload or of the CRC; the lines have been written, but nothing is loaded."""
    rng = generator(seed)
    images = [Image(TINY, rng, [Section.MANIFEST, Section.WEIGHTS, Section.ORDER]) for _ in range(8)]
    wrong = [k % 3 for k in range(len(images))]
    for image, number in zip(images, wrong, strict=True):
        end = [*image.starts, len(image.words)][number + 1]
        image.words[int(rng.integers(image.starts[number] + 3, end))] ^= 1 << int(rng.integers(32))
    results = load(TINY, [image.words for image in images])
    assert [result[1:] for result in results] == [(0, ImageError.SECTION_CRC, number) for number in wrong]
    assert all(len(result[0]) <= len(image.writes) for result, image in zip(results, images, strict=True))


def test_every_bit_of_the_crc_counts():
    images = [header(TINY, 1) + section(Section.TABLES, 0, []) for _ in range(32)]
    for bit, words in enumerate(images):
        words[-1] ^= 1 << bit
    assert load(TINY, images) == [([], 0, ImageError.SECTION_CRC, 0)] * 32


def test_the_crc_is_of_all_words_so_far_in_a_section():
    """A section with the CRC of others, or of the header as well, is refused."""
    first, second = (section(Section.MANIFEST, number, [[number]]) for number in range(2))
    start = header(TINY, 2)
    images = [start + [*first[:-1], wrong] + second for wrong in (
        crc(start + first[:-1]), crc(first[:-2]), crc(first), crc([]), second[-1])]
    images.append(start + first + [*second[:-1], crc(first + second[:-1])])
    assert [result[1:] for result in load(TINY, images)] == [
        (0, ImageError.SECTION_CRC, number) for number in (0, 0, 0, 0, 0, 1)]


def test_as_many_sections_as_are_counted():
    """No less and no more; an error has the number of its section."""
    images, expected = [], []
    for count, error in ((85, ImageError.NONE), (170, ImageError.NONE), (255, ImageError.SECTION_CRC)):
        images.append(header(TINY, count) + section(Section.TABLES, 0, []) * count)
        images[-1][-1] ^= error != ImageError.NONE
        expected.append(([], int(not error), error, count - 1 if error else 0))
    assert load(TINY, images) == expected


def test_sections_of_any_length_at_any_line():
    """Lengths and first lines of every magnitude; the image ends before the section, and is not refused."""
    images, expected = [], []
    for bit in range(2, 24):
        images.append(header(TINY, 1) + [int(Section.MANIFEST), (1 << bit) - 2, 1 << bit, 5, 6, 7])
        expected.append(([(1 << Section.MANIFEST, (1 << bit) - 2 + k, 5 + k) for k in range(3)],
                         0, ImageError.NONE, 0))
    assert load(TINY, images) == expected


def test_words_that_are_too_large_are_refused_whichever_bit_says_so():
    start = header(TINY, 1)
    images = [start + [1 << bit, 0, 0] for bit in range(3, 32)]
    expected = [([], 0, ImageError.SECTION, 0)] * len(images)
    for bit in range(24, 32):
        images += [start + [int(Section.MANIFEST), 1 << bit, 0, 0], start + [int(Section.MANIFEST), 0, 1 << bit, 0]]
    expected += [([], 0, ImageError.LENGTH, 0)] * 16
    for kind, depth in Lines(TINY).depth.items():
        for bit in range(depth.bit_length() - 1, 24):
            images += [start + [int(kind), 1 << bit, 1, 0], start + [int(kind), 1, 1 << bit, 0]]
            expected += [([], 0, ImageError.LENGTH, 0)] * 2
    assert load(TINY, images) == expected


def test_a_number_of_sections_that_cannot_be_is_refused():
    """With the right CRC: none, or more than are counted."""
    images = []
    counts = (0, 257, *(1 << bit for bit in range(8, 32)))
    for count in counts:
        words = Image(TINY, generator(0), [Section.ORDER]).words
        words[3] = count
        words[4] = crc(words[:4])
        images.append(words)
    assert load(TINY, images) == [([], 0, ImageError.LENGTH, 0)] * len(counts)


def test_an_unknown_section_is_refused():
    known = section(Section.TABLES, 0, [])
    assert load(TINY, [
        header(TINY, 2) + known + section(len(Section), 0, []),
        header(TINY, 1) + section(0x100 + Section.TABLES, 0, []),
        header(TINY, 1) + known,
    ]) == [
        ([], 0, ImageError.SECTION, 1),
        ([], 0, ImageError.SECTION, 0),
        ([], 1, ImageError.NONE, 0),
    ]


def test_lines_beyond_the_memory_are_refused():
    """The last line fits, one more does not, wherever the section begins; nothing is written."""
    lines = Lines(TINY)
    images, expected = [], []
    for kind in Section:
        depth = lines.depth[kind]
        if depth == 1 << 24:
            # It goes nowhere.
            continue
        ones = sum(1 << (32 * k) for k in range(lines.words[kind])) & ((1 << lines.bits[kind]) - 1)
        images.append(header(TINY, 1) + section(kind, depth - 1, [[1] * lines.words[kind]]))
        expected.append(([(1 << kind, depth - 1, ones)], 1, ImageError.NONE, 0))
        for first, count in ((depth - 1, 2), (depth, 1), (0, depth + 1), (1 << 24, 1), (1, 1 << 24),
                             ((1 << 24) - 1, 1), (0, 0xFFFFFFFF), (0xFFFFFFFF, 1), (1, (1 << 24) - 1)):
            images.append(header(TINY, 1) + [int(kind), first, count, 1, 1, 1])
            expected.append(([], 0, ImageError.LENGTH, 0))
    assert load(TINY, images) == expected


def test_the_room_behind_a_line_counts_all_its_bits():
    """As many lines as are left are taken, one more is refused; the images end before them."""
    start, depth = header(TINY, 1), Lines(TINY).depth[Section.MANIFEST]
    firsts = [1 << bit for bit in range(24)]
    images = [start + [int(Section.MANIFEST), first, depth - first + more] for first in firsts for more in (0, 1)]
    assert load(TINY, images) == [([], 0, ImageError.NONE, 0), ([], 0, ImageError.LENGTH, 0)] * len(firsts)


def test_words_after_the_image_or_an_error_are_ignored():
    image = Image(TINY, generator(0), [Section.ORDER, Section.TABLES])
    assert load(TINY, [image.words + image.words, [0, *image.words], image.words]) == [
        (image.writes, 1, ImageError.NONE, 0),
        ([], 0, ImageError.MAGIC, 0),
        (image.writes, 1, ImageError.NONE, 0),
    ]
