# SPDX-License-Identifier: Apache-2.0
"""Images hold models exactly, and a wrong one is refused by name of what is wrong."""

import dataclasses
import json
import tracemalloc
import zlib

import numpy as np
import pytest
from models import random_quantized

from openese.rtl.config import Config, preset
from openese.rtl.loader import HEADER_WORDS, Lines, Section
from openese.sw.files import FileError, verify_image
from openese.sw.pack import image as image_module
from openese.sw.pack.image import Image, ImageFormatError, pack, parse, read, write_memory_files
from openese.sw.pack.schedule import CapacityError, schedule

TINY = preset("tiny")
STREAM = TINY.replace(name="streaming", index_bits=4, entry_depth=128, stream=True)
GROUPS = Config(name="groups", pes=8, channels=1, groups=2, slices=2, index_bits=3)
SHAPES = {
    "one layer": (5, 9),
    "projection": (5, (9, 6)),
    "two layers": (5, (9, 6), 7),
}
GRUS = (5, ("gru", 9), (8, 6), ("gru", 7))
BEFORE = (5, ("before", 9), (8, 6), ("gru", 7), ("before", 6))


def same(model, other):
    """Whether two quantized models are equal in everything that the machine computes with."""
    fields = ("x_fraction", "y_fraction", "w_x_fraction", "w_r_fraction", "w_ym_fraction", "align_x", "align_r",
              "cell_select", "peephole_select", "g_activation", "name", "cell", "reset_after")
    arrays = ("w_x", "w_r", "w_ym", "bias", "peephole", "bias_rn")
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


@pytest.mark.parametrize("config, shape", [
    *((config, shape) for config in (TINY, STREAM, GROUPS) for shape in SHAPES.values()),
    *((config.replace(cells="lstm+gru"), GRUS) for config in (TINY, STREAM, GROUPS)),
    *((config.replace(cells="lstm+gru+gru_before"), BEFORE) for config in (TINY, STREAM, GROUPS))], ids=str)
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


@pytest.mark.parametrize("bits", [1, 700])
def test_lines_may_be_packed_in_any_blocks(bits, image, monkeypatch):
    """Also in blocks of less than a line."""
    model = image.model()
    monkeypatch.setattr(image_module, "_BLOCK_BITS", bits)
    again = pack(schedule(model, TINY))
    assert (again.words(everything=True) == image.words(everything=True)).all()
    assert same(again.model(), model)


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
    sections = {section: lines for section, lines in image.sections.items() if section is not Section.TABLES}
    image = dataclasses.replace(image, sections=sections)
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


def test_memory_files_of_a_tile_hold_the_pointers_of_its_pes(tmp_path):
    """Group after group, as the machine has them."""
    config = TINY.replace(pes=8, groups=2, slices=2, wide_pointers=True)
    plan = schedule(random_quantized(3, config, 5, (9, 6)), config)
    write_memory_files(pack(plan), tmp_path)
    counts = np.concatenate([operation.encoded.counts for operation in plan.operations])
    assert not (tmp_path / "pointers_pe0.mem").exists()
    for tile in range(2):
        pes = [group * 4 + tile * 2 + row for group in range(2) for row in range(2)]
        lines = [int(line, 16) for line in (tmp_path / f"pointers_tile{tile}.mem").read_text().split()]
        assert lines == [sum(int(count) << place * config.count_bits for place, count in enumerate(line))
                         for line in counts[:, pes]]


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
    with pytest.raises(CapacityError, match="preset .*ese_stream.* should hold it"):
        schedule(random_quantized(4, tight, 300, 700), tight)


def sparse(model):
    """The model with hardly any weights."""
    thin = {name: getattr(model.layers[0], name) * 0 for name in ("w_x", "w_r")}
    return dataclasses.replace(model, layers=(dataclasses.replace(model.layers[0], **thin),))


def forged(image, change):
    """The bytes of the image with another manifest and valid CRCs."""
    manifest = json.loads(json.dumps(image.manifest))
    manifest = change(manifest) or manifest
    return Image(image.config, manifest, image.sections).words(everything=True).astype("<u4").tobytes()


def setting(value, *path):
    """A change of a manifest: the field at ``path``, or without it if ``value`` is `KeyError`."""
    def change(manifest):
        for step in path[:-1]:
            manifest = manifest[step]
        if value is KeyError:
            del manifest[path[-1]]
        else:
            manifest[path[-1]] = value
    return change


WRONG = {
    "no layers": (setting(KeyError, "layers"), "it: 'layers' is missing"),
    "empty layers": (setting([], "layers"), "layers must be a list that is not empty"),
    "layer of another type": (setting(3, "layers", 0), r"layers\[0\] must be an object, not 3"),
    "unknown field": (setting(1, "layers", 0, "spam"), r"layers\[0\]: 'spam' is unknown"),
    "name": (setting(5, "name"), "name must be text, not 5"),
    "huge inputs": (setting(1 << 40, "layers", 0, "inputs"), r"layers\[0\].inputs must be a whole number from 1 to"),
    "no cells": (setting(0, "layers", 0, "cells"), r"layers\[0\].cells must be"),
    "more cells": (setting(40, "layers", 0, "cells"), "rows of cells have"),
    "fraction": (setting(1.5, "layers", 0, "x_fraction"), r"x_fraction must be a whole number .* not 1.5"),
    "too few exponents": (setting([1], "layers", 0, "x_exponents"), "x_exponents must have one number for each of"),
    "an exponent": (lambda manifest: setting([0.5] * manifest["layers"][0]["inputs"], "layers", 0, "x_exponents")(
        manifest), r"x_exponents\[0\] must be a whole number from"),
    "exponents within": (setting([0] * 6, "layers", 1, "x_exponents"), r"layers\[1\]: 'x_exponents' is unknown"),
    "three gates": (setting([1, 2, 3], "layers", 0, "align_x"), "align_x must have one number for each gate, not 3"),
    "y_line": (setting(65536 + 4, "layers", 0, "y_line"), r"layers\[0\].y_line must be a whole number from 0 to 250"),
    "cell_base": (setting(32, "layers", 1, "cell_base"), r"cell_base must be a whole number from 0 to 30, not 32"),
    "sizes of a stack": (setting(5, "layers", 1, "inputs"), r"layers\[1\].inputs must be the 6 outputs"),
    "activation": (setting("relu", "layers", 0, "g_activation"), "g_activation must be tanh or sigmoid, not 'relu'"),
    "projection": (setting(1, "layers", 0, "projection"), "projection must be true or false, not 1"),
    "matrix": (setting("w_z", "operations", 0, "matrix"), r"operations\[0\].matrix: layer 0 has no matrix 'w_z'"),
    "layer number": (setting(2, "operations", 0, "layer"), r"operations\[0\].layer must be"),
    "lines": (setting(1 << 20, "operations", 0, "lines"), r"operations\[0\].lines must be"),
    "overlap": (setting(0, "operations", 2, "entry_base"), "its lines of weights begin at"),
    "gap": (lambda manifest: manifest["operations"].pop() and None, "columns of layer . w_r end at|its columns"),
    "columns": (setting(1, "operations", 0, "columns"), "end at 1, not|begin at"),
    "needs": (setting(KeyError, "needs", "entry_depth"), "needs: 'entry_depth' is missing"),
    "ranges": (setting(20, "tanh_range"), "tanh_range must be a whole number from 0 to 19"),
    "config field": (setting(5, "config", "spam"), "config: 'spam' is unknown"),
    "config type": (setting("4", "config", "pes"), "config: Config pes must be a whole number, not '4'"),
    "config truth": (setting(True, "config", "index_bits"), "config: Config index_bits must be a whole number"),
    "huge config": (setting(1 << 40, "config", "pes"), "config: Config pes must be between 1 and 32768"),
    "a list": (lambda manifest: [manifest], "it must be an object"),
    "of a mebibyte": (setting("x" * (1 << 20), "name"), "at most 1,048,576 are read"),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_manifest_is_named(image, change, message):
    with pytest.raises(ImageFormatError, match=message):
        parse(forged(image, change))


def test_a_gru_has_six_blocks_of_weights():
    """W_x has no rows for n_h, and W_r none for n_x: only the weights take entries."""
    model = random_quantized(2, TINY.replace(cells="lstm+gru"), *GRUS)
    operations = pack(schedule(model, model.config)).manifest["operations"]
    for number, layer in enumerate(model.layers):
        for matrix in ("w_x", "w_r"):
            assert np.count_nonzero(getattr(layer, matrix)) == sum(
                part["nonzeros"] for part in operations if (part["layer"], part["matrix"]) == (number, matrix))


@pytest.mark.parametrize(("change", "message"), [
    (setting("lstm", "layers", 0, "cell"), r"layers\[0\].cell must be gru where it is given, not 'lstm'"),
    (setting("gru", "layers", 1, "cell"), r"layers\[1\].peephole must be false of a GRU, not True"),
    (setting(3, "layers", 0, "cell_select"), r"layers\[0\].cell_select must be 0 of a GRU, not 3"),
    (setting("sigmoid", "layers", 0, "g_activation"), r'g_activation must be "tanh" of a GRU'),
    (setting([0] * 4, "layers", 0, "align_x"), "align_x must have one number for each gate, not 4"),
    (setting(KeyError, "layers", 0, "cell"), "w_x_fraction must have one number for each gate, not 3"),
    (setting("gru", "config", "cells"), "config: Config cells must be one of lstm, lstm[+]gru, .+, not 'gru'"),
])
def test_grus_of_a_manifest_are_checked(change, message):
    config = TINY.replace(cells="lstm+gru")
    image = pack(schedule(random_quantized(2, config, *GRUS), config))
    with pytest.raises(ImageFormatError, match=message):
        parse(forged(image, change))


def test_the_reset_before_the_product_splits_w_r():
    """Its gates r and z are multiplied ahead of a frame, n after r . h': every weight is in one of the two."""
    model = random_quantized(2, TINY.replace(cells="lstm+gru+gru_before"), *BEFORE)
    part = pack(schedule(model, model.config)).manifest
    held = {(one["layer"], one["matrix"]): one["nonzeros"] for one in part["operations"]}
    for number, layer in enumerate(model.layers):
        assert ("reset_after" in part["layers"][number]) == (not layer.reset_after)
        if not layer.reset_after:
            assert held[number, "w_r"] == np.count_nonzero(layer.w_r[:2])
            assert held[number, "w_rn"] == np.count_nonzero(layer.w_r[2])


@pytest.mark.parametrize(("change", "message"), [
    (setting(True, "layers", 0, "reset_after"), r"layers\[0\].reset_after must be false where it is given, not True"),
    (setting(KeyError, "layers", 0, "reset_after"), r"operations\[\d+\].matrix: layer 0 has no matrix 'w_rn'"),
    (setting(False, "layers", 1, "reset_after"), r"layers\[1\]: 'reset_after' is unknown"),
    (setting(False, "layers", 2, "reset_after"), r"operations: columns of layer 2 w_rn end at 0, not 7")])
def test_grus_with_the_reset_before_the_product_are_checked(change, message):
    config = TINY.replace(cells="lstm+gru+gru_before")
    image = pack(schedule(random_quantized(2, config, *BEFORE), config))
    with pytest.raises(ImageFormatError, match=message):
        parse(forged(image, change))


@pytest.mark.parametrize(("change", "message"), [
    (setting(4, "banks"), "banks must be a whole number from 1 to 3, not 4"),
    (setting(KeyError, "banks"), "it: 'banks' is missing"),
    (setting(11, "bank_lines"), "bank_lines must be a whole number from 12"),
    (setting(255, "bank_lines"), "banks: 3 banks end at line 532 of the vector memory, which has 256")])
def test_banks_of_a_manifest_are_checked(change, message):
    config = TINY.replace(name="banks", banks=3)
    image = pack(schedule(random_quantized(1, config, 5, 9), config))
    assert parse(image.words(everything=True).astype("<u4").tobytes()).manifest["bank_lines"] == 12
    with pytest.raises(ImageFormatError, match=message):
        parse(forged(image, change))


def test_places_of_vectors_are_those_of_whole_writes():
    """A machine that writes several lines at once cannot begin at any line."""
    config = GROUPS.replace(forward=True)
    image = pack(schedule(random_quantized(1, config, 5, 9, 7), config))
    place = image.manifest["layers"][1]["y_line"]
    assert config.write_lines == 2 and place % 2 == 0
    message = rf"layers\[1\].y_line must be a multiple of 2, the lines that the machine writes at once, not {place - 1}"
    with pytest.raises(ImageFormatError, match=message):
        parse(forged(image, setting(place - 1, "layers", 1, "y_line")))


def test_deep_manifests_are_refused(image):
    words = image.words(everything=True).astype("<u4")
    size = int(words[HEADER_WORDS + 2])
    start, stop = HEADER_WORDS, HEADER_WORDS + 3 + size
    words[start + 3:stop] = np.frombuffer((b'{"a":' * 10000)[:4 * size].ljust(4 * size), "<u4")
    with pytest.raises(ImageFormatError, match=r"section 0 \(manifest\): is not JSON"):
        parse(resealed(words, start, stop))
    deep = np.frombuffer(b"[" * 100000 + b"]" * 100000, "<u4")
    body = np.concatenate([[0, 0, len(deep)], deep]).astype("<u4")
    crc = np.array([zlib.crc32(body.tobytes())], "<u4")
    with pytest.raises(ImageFormatError, match=r"section 0 \(manifest\): is not JSON"):
        parse(np.concatenate([words[:start], body, crc, words[stop + 1:]]).astype("<u4").tobytes())


def test_any_field_may_be_anything(image):
    """Refused in one line, or harmless: it decodes, or says that it cannot."""
    rng = np.random.default_rng(5)

    def paths(value, path=()):
        if isinstance(value, (dict, list)):
            for key in value if isinstance(value, dict) else range(len(value)):
                yield from paths(value[key], (*path, key))
        yield path

    every = [path for path in paths(json.loads(json.dumps(image.manifest))) if path]
    values = [None, -1, 0, 1, 7, 2.5, 1e300, "x", [], {}, [1] * 4, True, 1 << 70, float("nan"), [[]]]
    for number in rng.permutation(len(every) * len(values))[:1200]:
        path, value = every[number // len(values)], values[number % len(values)]
        try:
            parse(forged(image, setting(value, *path))).model()
        except ImageFormatError as error:
            assert "\n" not in str(error)


def test_memory_is_bounded_before_it_is_taken(tmp_path):
    """A manifest may not ask for matrices that are out of all proportion to its image."""
    config = Config(name="large", pes=4, channels=1, vector_depth=65536, cell_rows=4096, column_depth=16,
                    entry_depth=1024, accumulator_rows=4096)
    image = pack(schedule(sparse(random_quantized(1, config, 5, 2000)), config))

    def change(manifest):
        manifest["layers"][0]["inputs"] = manifest["operations"][0]["columns"] = 60000

    refused_in_little_memory(forged(image, change), image.bytes)
    wide = Config(name="wide", pes=32768, channels=1, slices=1, slice_width=1, vector_depth=65536, cell_rows=2,
                  column_depth=65536)
    image = pack(schedule(sparse(random_quantized(1, wide, 5, 3)), wide))

    def widen(manifest):
        manifest["layers"][0]["inputs"] = manifest["operations"][0]["columns"] = 20000

    refused_in_little_memory(forged(image, widen), image.bytes)


def refused_in_little_memory(data, size):
    tracemalloc.start()
    with pytest.raises(ImageFormatError, match="the matrices would take .* bytes, too many for an image"):
        parse(data)
    assert tracemalloc.get_traced_memory()[1] < 8 * size
    tracemalloc.stop()


@pytest.mark.parametrize(("path", "value", "message"), [
    (("layers", 1, "y_line"), 1, r"first in layers\[1\].y_line of the manifest, 1 for"),
    (("operations", 1, "nonzeros"), 7, r"first in operations\[1\].nonzeros of the manifest, 7 for"),
    (("needs", "vector_depth"), 7, "first in needs.vector_depth of the manifest, 7 for"),
])
def test_verify_finds_a_manifest_that_was_changed(image, path, value, message):
    verify_image(parse(image.words(everything=True).tobytes()))
    with pytest.raises(FileError, match=message):
        verify_image(parse(forged(image, setting(value, *path))))


def test_verify_compares_streamed_weights():
    image = pack(schedule(random_quantized(2, STREAM, 5, 9), STREAM, stream=True))
    verify_image(image)
    image.sections[Section.PROGRAM][1] ^= 1
    with pytest.raises(FileError, match="first in section program"):
        verify_image(image)
