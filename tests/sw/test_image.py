# SPDX-License-Identifier: Apache-2.0
"""Images hold models exactly, and a wrong one is refused by name of what is wrong."""

import zlib

import numpy as np
import pytest
from models import random_quantized

from openese.rtl.config import Config, preset
from openese.rtl.loader import HEADER_WORDS, Lines, Section
from openese.sw.pack.image import ImageFormatError, pack, parse, read, write_memory_files
from openese.sw.pack.schedule import CapacityError, schedule

TINY = preset("tiny")
STREAM = TINY.replace(name="streaming", index_bits=4, entry_depth=128, stream=True)
GROUPS = Config(name="groups", pes=8, channels=1, groups=2, slices=2, index_bits=3)
SHAPES = {
    "one layer": (5, 9),
    "projection": (5, (9, 6)),
    "two layers": (5, (9, 6), 7),
}


def same(model, other):
    """Whether two quantized models are equal in everything that the machine computes with."""
    fields = ("x_fraction", "y_fraction", "w_x_fraction", "w_r_fraction", "w_ym_fraction", "align_x", "align_r",
              "cell_select", "peephole_select", "g_activation", "name")
    arrays = ("w_x", "w_r", "w_ym", "bias", "peephole")
    return (np.array_equal(model.sigmoid_table, other.sigmoid_table)
            and np.array_equal(model.tanh_table, other.tanh_table) and model.config == other.config
            and all(getattr(a, f) == getattr(b, f) for a, b in zip(model.layers, other.layers, strict=True)
                    for f in fields)
            and all(np.array_equal(getattr(a, f), getattr(b, f)) if getattr(a, f) is not None
                    else getattr(b, f) is None
                    for a, b in zip(model.layers, other.layers, strict=True) for f in arrays))


@pytest.fixture(scope="module")
def image():
    return pack(schedule(random_quantized(1, TINY, 5, (9, 6), 7), TINY))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("config", [TINY, STREAM, GROUPS], ids=lambda config: config.name)
def test_a_file_gives_the_model_back(config, shape, tmp_path):
    model = random_quantized(2, config, *shape, peephole=shape != (5, 9))
    image = pack(schedule(model, config, stream=config.stream))
    image.save(tmp_path / "m.oese")
    loaded = read(tmp_path / "m.oese")
    assert (tmp_path / "m.oese").stat().st_size == image.bytes
    assert same(loaded.model(), model)
    assert loaded.manifest == image.manifest or loaded.manifest["operations"] == image.manifest["operations"]


@pytest.mark.parametrize("bits", range(2, 19))
def test_weights_of_every_width_are_kept(bits):
    config = TINY.replace(name="width", weight_bits=bits)
    model = random_quantized(bits, config, 5, (9, 6), 7)
    assert same(parse(pack(schedule(model, config)).words(everything=True).tobytes()).model(), model)


def test_sections_fill_whole_lines(image):
    lines = Lines(TINY)
    for section, words in image.sections.items():
        assert words.shape[1] == lines.words[section]
        assert len(words) <= lines.depth[section]


def flipped(data, word):
    changed = bytearray(data)
    changed[4 * word] ^= 1
    return bytes(changed)


@pytest.mark.parametrize(("damage", "message"), [
    (lambda data: data[:3], "not a memory image"),
    (lambda data: b"\x7fELF" + data[4:], "not a memory image"),
    (lambda data: flipped(data, 1), "image format version 0; this program reads 1"),
    (lambda data: flipped(data, 2), "the header is damaged"),
    (lambda data: flipped(data, HEADER_WORDS + 5), r"section 0 \(manifest\) is damaged"),
    (lambda data: flipped(data, len(data) // 4 - 9), r"section \d \(tables\) is damaged"),
    (lambda data: data[:-8], r"truncated in section \d \(tables\): 2 words"),
    (lambda data: data + b"\0\0\0\0", "4 bytes after the last section"),
])
def test_damage_is_named(image, damage, message):
    data = image.words(everything=True).astype("<u4").tobytes()
    with pytest.raises(ImageFormatError, match=message):
        parse(damage(data))


def test_every_damaged_byte_is_noticed(image):
    """Any single bit, anywhere: refused, never a traceback of another kind."""
    data = image.words(everything=True).astype("<u4").tobytes()
    for position in np.random.default_rng(0).integers(0, len(data), 200):
        changed = bytearray(data)
        changed[position] ^= 1 << int(position) % 8
        with pytest.raises(ImageFormatError):
            parse(bytes(changed))


def resealed(words, start, stop):
    """``words`` with a new CRC behind a section."""
    words[stop] = zlib.crc32(words[start:stop].tobytes())
    return words.tobytes()


def test_sections_that_the_reader_would_lose_are_refused(image):
    """The machine takes parts of memories; a file for this program has each of them once, and whole."""
    words = image.words(everything=True).astype("<u4")
    tables = len(words) - image.sections[Section.TABLES].size - 4
    moved = words.copy()
    moved[tables + 1] = 3
    with pytest.raises(ImageFormatError, match=r"\(tables\) begins at line 3"):
        parse(resealed(moved, tables, len(moved) - 1))
    twice = np.concatenate([words, words[tables:]])
    twice[3] += 1
    with pytest.raises(ImageFormatError, match=r"\(tables\): there is one already"):
        parse(resealed(twice, 0, 4))


def test_missing_sections_are_named(image):
    del image.sections[Section.TABLES]
    with pytest.raises(ImageFormatError, match="no section tables"):
        parse(image.words(everything=True).astype("<u4").tobytes())


def test_memory_files_hold_the_memories(tmp_path):
    """``$readmemh`` files, read back, are the entries of each PE."""
    model = random_quantized(3, TINY, 5, (9, 6))
    plan = schedule(model, TINY)
    image = pack(plan)
    paths = write_memory_files(image, tmp_path)
    names = {path.name for path in paths}
    assert {"program.mem", "order.mem", "tables.mem", "weights_pe0.mem", "pointers_pe3.mem"} <= names
    for pe in range(TINY.pes):
        lines = [int(line, 16) for line in (tmp_path / f"weights_pe{pe}.mem").read_text().split()]
        weights = np.concatenate([operation.encoded.weights[:, pe] for operation in plan.operations]).astype(int)
        skips = np.concatenate([operation.encoded.skips[:, pe] for operation in plan.operations]).astype(int)
        assert lines == ((weights & 0xFFF) | skips << 12).tolist()


def test_what_is_short_is_named():
    with pytest.raises(CapacityError, match=r"does not fit config 'tiny'.*entry_depth \d+ \(has 1024, \d+ short\)"
                                            r".*preset .*demo.* should hold it"):
        schedule(random_quantized(4, TINY, 40, 60), TINY)


def test_streaming_is_chosen_when_weights_do_not_fit():
    big, small = (random_quantized(5, STREAM, 8, cells) for cells in (40, 6))
    assert schedule(big, STREAM).streamed and not schedule(small, STREAM).streamed
    with pytest.raises(CapacityError, match="config 'tiny' cannot stream"):
        schedule(random_quantized(5, TINY, 8, 6), TINY, stream=True)


def test_a_preset_that_streams_is_advised():
    """Weights that no preset holds on the chip can be read from memory."""
    tight = preset("ese").replace(name="tight", entry_depth=16)
    with pytest.raises(CapacityError, match="preset .*ese_stream should hold it"):
        schedule(random_quantized(4, tight, 300, 700), tight)
