# SPDX-License-Identifier: Apache-2.0
"""The memory image: a model packed for one machine, in one file.

An image is a sequence of 32-bit little-endian words. The header has magic, version, fingerprint of the configuration,
number of sections, and the CRC-32 of these four. Each section has identifier, first line, number of lines, payload, and
the CRC-32 of these four. A line is one address of all memories of its kind, lowest PE first, in whole words. The
machine checks the same fields as `read`, in the same order.
"""

import json
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openese.output import replacing, replacing_folder
from openese.rtl.config import Config
from openese.rtl.loader import HEADER_WORDS, MAGIC, VERSION, Lines, Section
from openese.sw.model.arrays import Int64Array, IntArray
from openese.sw.model.layers import CELLS, DENSE, GRU, LSTM
from openese.sw.model.quantized import (
    GRU_BEFORE_PLACES,
    GRU_PLACES,
    QuantizedLayer,
    QuantizedModel,
    QuantizeError,
    weight_type,
)
from openese.sw.pack.encode import EncodedMatrix, EncodeError, decode
from openese.sw.pack.manifest import FIELDS, LAYER_FORMATS, ManifestError, check_manifest, read_config, read_json
from openese.sw.pack.schedule import Schedule, cell_rows, instruction_words

__all__ = ["Image", "ImageFormatError", "pack", "read", "write_memory_files"]

_SECTION_WORDS = 3  # identifier, first line, lines
_BLOCK_BITS = 1 << 20  # packed or unpacked at a time


class ImageFormatError(ValueError):
    """A file is not an image, or is damaged. The message says what is wrong and where."""


@dataclass(frozen=True, eq=False)
class Image:
    """A memory image.

    Attributes
    ----------
    config : Config
        The machine that it is packed for.
    manifest : dict
        A description of the contents, for the host.
    sections : dict
        By section, uint32 (lines, words), from line 0; without the manifest. Streamed weights are section STREAM,
        others WEIGHTS.
    which : int
        The number of the model that the image stands for, if it holds several; see `select`.
    """

    config: Config
    manifest: dict[str, Any]
    sections: dict[Section, NDArray[np.uint32]]
    which: int = 0

    def words(self, everything: bool = False) -> NDArray[np.uint32]:
        """The words (n,) for the machine; with ``everything``, also the sections for the host alone."""
        sections = {Section.MANIFEST: _manifest_words(self.manifest), **self.sections}
        if not everything:
            sections = {section: lines for section, lines in sections.items()
                        if section not in (Section.MANIFEST, Section.STREAM)}
        header = np.array([MAGIC, VERSION, self.config.fingerprint, len(sections)], np.uint32)
        parts = [header, _crc(header)]
        for section, lines in sections.items():
            body = np.concatenate([np.array([section, 0, len(lines)], np.uint32), lines.reshape(-1)])
            parts += [body, _crc(body)]
        return np.concatenate(parts)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the image to a file."""
        with replacing(path) as file:
            file.write(self.words(everything=True).astype("<u4").tobytes())

    @property
    def bytes(self) -> int:
        """Size of the file in bytes."""
        return 4 * len(self.words(everything=True))

    @property
    def parts(self) -> tuple[Mapping[str, Any], ...]:
        """For each model, its part of the manifest."""
        return tuple(self.manifest.get("models", (self.manifest,)))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the models."""
        return tuple(part["name"] for part in self.parts)

    @property
    def part(self) -> Mapping[str, Any]:
        """The model's part of the manifest."""
        return self.parts[self.which]

    def select(self, model: int | str) -> "Image":
        """The same image, which stands for another of its models, given by name or number.

        Raises
        ------
        ValueError
            There is no such model. The message lists those that there are.
        """
        number = self.names.index(model) if model in self.names else model
        if not isinstance(number, int) or not 0 <= number < len(self.names):
            there = ", ".join(f"{name!r} ({number})" for number, name in enumerate(self.names))
            raise ValueError(f"no model {model!r} in the image; there are {there}")
        return replace(self, which=number)

    def model(self) -> QuantizedModel:
        """The quantized model, exactly as it was packed, from the memories' contents.

        Raises
        ------
        ImageFormatError
            Manifest and memories do not agree, or a number breaks a rule of the formats.
        """
        try:
            return _Unpacker(self).model()
        except (EncodeError, QuantizeError) as error:
            raise ImageFormatError(f"image {self.part['name']!r}: {error}") from None

    def models(self) -> list[QuantizedModel]:
        """All models of the image; raises as `model`."""
        return [self.select(number).model() for number in range(len(self.parts))]


def _crc(words: NDArray[np.uint32]) -> NDArray[np.uint32]:
    return np.array([zlib.crc32(words.astype("<u4").tobytes())], np.uint32)


def _manifest_words(manifest: dict[str, Any]) -> NDArray[np.uint32]:
    text = json.dumps(manifest, separators=(",", ":")).encode()
    return np.frombuffer(text + b" " * (-len(text) % 4), "<u4").astype(np.uint32).reshape(-1, 1)


def _to_lines(values: NDArray[Any], bits: int, words: int) -> NDArray[np.uint32]:
    """(lines, n) numbers of ``bits`` bits side by side, as (lines, words)."""
    result = np.zeros((len(values), words), np.uint32)
    block = max(1, _BLOCK_BITS // max(1, values.shape[1] * bits))
    for start in range(0, len(values), block):
        part = values[start:start + block].astype(np.uint64)
        planes = (part[:, :, None] >> np.arange(bits, dtype=np.uint64)) & np.uint64(1)
        flat = np.zeros((len(part), 32 * words), np.uint8)
        flat[:, :values.shape[1] * bits] = planes.reshape(len(part), -1)
        result[start:start + block] = np.packbits(flat, axis=1, bitorder="little").view("<u4")
    return result


def _from_lines(lines: NDArray[np.uint32], bits: int, count: int) -> Int64Array:
    """The inverse of `_to_lines`: (lines, count) unsigned numbers."""
    result = np.zeros((len(lines), count), np.int64)
    weights = np.int64(1) << np.arange(bits, dtype=np.int64)
    block = max(1, _BLOCK_BITS // max(1, count * bits))
    for start in range(0, len(lines), block):
        part = np.ascontiguousarray(lines[start:start + block].astype("<u4"))
        planes = np.unpackbits(part.view(np.uint8), axis=1, bitorder="little")[:, :count * bits]
        result[start:start + block] = planes.reshape(len(part), count, bits) @ weights
    return result


def _signed(values: Int64Array, bits: int) -> Int64Array:
    return values - ((values >> (bits - 1)) << bits)


def _unsigned(values: NDArray[Any], bits: int) -> Int64Array:
    return np.asarray(values, np.int64) & ((1 << bits) - 1)


def pack(placed: Schedule | Sequence[Schedule]) -> Image:
    """Pack a placed model into an image, or all models of `openese.sw.pack.together.schedule_all`."""
    plans = [placed] if isinstance(placed, Schedule) else list(placed)
    plan = plans[0]
    config = plan.config
    lines = Lines(config)
    matrices = [operation.encoded for of_model in plans for operation in of_model.operations]
    columns: dict[Section, tuple[Iterable[NDArray[Any]], int]] = {
        Section.ORDER: ((np.maximum(matrix.order, 0) // config.groups for matrix in matrices), config.line_bits),
        Section.POINTERS: ((matrix.counts for matrix in matrices), config.count_bits),
        Section.STREAM if plan.streamed else Section.WEIGHTS: (
            (_entries(matrix, config) for matrix in matrices), config.entry_bits),
        Section.PARAMETERS: ([_parameters(plans)], config.parameter_bits),
        Section.TABLES: ([_tables(plan.model, config)], config.table_bits),
    }
    sections = {Section.PROGRAM: instruction_words(plan)}
    sections |= {section: np.concatenate([_to_lines(values, bits, lines.words[section]) for values in parts])
                 for section, (parts, bits) in columns.items()}
    return Image(config, _manifest(plans), sections)


def _entries(matrix: EncodedMatrix, config: Config) -> Int64Array:
    """Weight and skip of each entry, (lines, PEs)."""
    return _unsigned(matrix.weights, config.weight_bits) | matrix.skips.astype(np.int64) << config.weight_bits


def _parameters(plans: Sequence[Schedule]) -> Int64Array:
    """Pairs of bias and peephole. A line is a cell row, gate and PE row of a slice; it has the pairs of all slices."""
    config = plans[0].config
    placed = [one for plan in plans for one in zip(plan.model.layers, plan.places, strict=True)]
    rows = max(place.cells + cell_rows(layer, config) for layer, place in placed)
    pairs = np.zeros((rows, 4, config.row_pes), np.int64)
    for layer, place in placed:
        if layer.kind is DENSE:
            # Four rows take the places of the gates of a cell row.
            flat = pairs[place.cells:].reshape(-1)
            flat[:layer.outputs] = _unsigned(layer.bias[0], config.argument_bits)
            continue
        bias = np.zeros((4, place.rows * config.row_pes), np.int64)
        peephole = np.zeros_like(bias)
        bias[:, :layer.cells] = layer.by_accumulator("bias")
        if layer.peephole is not None:
            peephole[[0, 1, 3], :layer.cells] = layer.peephole
        pair = _unsigned(bias, config.argument_bits)
        pair |= _unsigned(peephole, config.peephole_bits) << config.argument_bits
        pairs[place.cells:place.cells + place.rows] = pair.reshape(4, place.rows, -1).transpose(1, 0, 2)
    beside = config.parameter_line_bits // config.parameter_bits
    shape = (rows, 4, config.slices, config.rows_per_slice // beside, beside)
    return pairs.reshape(shape).transpose(0, 1, 3, 2, 4).reshape(-1, config.slices * beside)


def _tables(model: QuantizedModel, config: Config) -> Int64Array:
    """Pairs of an even and an odd sample of the sigmoid, then of the tanh."""
    both = np.concatenate([model.sigmoid_table, model.tanh_table]).reshape(-1, 2)
    return _unsigned(both, config.table_bits)


def _manifest(plans: Sequence[Schedule]) -> dict[str, Any]:
    plan = plans[0]
    parts = [_part(one) for one in plans]
    banks = {"banks": plan.banks, "bank_lines": plan.bank_lines} if plan.config.banks > 1 else {}
    common = {"config": plan.config.fields(), "needs": plan.needs, **banks}
    whole = common | ({"models": parts} if plan.config.models > 1 else parts[0])
    return {name: whole[name] for name in FIELDS if name in whole}


def _part(plan: Schedule) -> dict[str, Any]:
    """The part of a manifest that describes one model."""
    model = plan.model
    layers = []
    for layer, place in zip(model.layers, plan.places, strict=True):
        fields = {name: getattr(layer, name) for name in LAYER_FORMATS}
        sizes = {"inputs": layer.inputs, "cells": layer.cells, "outputs": layer.outputs,
                 "peephole": layer.peephole is not None, "projection": layer.w_ym is not None}
        if layer.x_exponents:
            fields["x_exponents"] = layer.x_exponents
        if layer.kind is not LSTM:
            fields["cell"] = layer.cell
        if layer.kind is DENSE:
            fields["activation"] = layer.activation
        if not layer.reset_after:
            fields["reset_after"] = False
        layers.append(fields | sizes | {"cell_base": place.cells, "m_line": place.m_line, "y_line": place.y_line})
    operations = [{
        "layer": operation.layer, "matrix": operation.matrix, "part": operation.part,
        "first": int(operation.columns[0]), "columns": len(operation.columns),
        "order_base": operation.order_base, "slots": len(operation.encoded.order),
        "entry_base": operation.entry_base, "lines": operation.encoded.lines,
        "entries_min": int(operation.encoded.lengths.min()), "entries_max": int(operation.encoded.lengths.max()),
        "nonzeros": int(operation.encoded.nonzeros.sum()), "padding": operation.encoded.padding,
    } for operation in plan.operations]
    return {"name": model.name, "sigmoid_range": model.sigmoid_range, "tanh_range": model.tanh_range,
            "layers": layers, "operations": operations, **({"batch_first": True} if model.batch_first else {})}


def read(path: str | os.PathLike[str]) -> Image:
    """Read an image from a file, and check it.

    Raises
    ------
    ImageFormatError
        The file is not an image, has another version, is truncated, or has a CRC that does not match.
    OSError
        The file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            _check_magic(head := file.read(4 * HEADER_WORDS))
            data = head + file.read()
        return parse(data)
    except ImageFormatError as error:
        raise ImageFormatError(f"{os.fspath(path)}: {error}") from None


def parse(data: bytes) -> Image:
    """Read an image from the bytes of a file; raises `ImageFormatError` as `read`."""
    _check_magic(data)
    words = np.frombuffer(data[:len(data) // 4 * 4], "<u4").astype(np.uint32)
    version, fingerprint, count = (int(word) for word in words[1:4])
    if version != VERSION:
        raise ImageFormatError(f"image format version {version}; this program reads {VERSION}")
    if words[4] != _crc(words[:4])[0]:
        raise ImageFormatError("the header is damaged (CRC mismatch)")
    payloads: dict[Section, NDArray[np.uint32]] = {}
    position = HEADER_WORDS
    lines: Lines | None = None
    for number in range(count):
        section, payload, position = _parse_section(words, position, number, lines)
        if section in payloads:
            raise ImageFormatError(f"section {number} ({section.name.lower()}): there is one already")
        payloads[section] = payload
        if section is Section.MANIFEST:
            manifest, config = _parse_manifest(payload)
            lines = Lines(config)
            if config.fingerprint != fingerprint:
                raise ImageFormatError(f"fingerprint {fingerprint:08x} is not that of its own configuration "
                                       f"({config.fingerprint:08x})")
    if 4 * position != len(data):
        raise ImageFormatError(f"{len(data) - 4 * position} bytes after the last section")
    either = {Section.WEIGHTS, Section.STREAM}
    missing = [section.name.lower() for section in Section
               if section not in payloads and not (section in either and either & payloads.keys())]
    if missing:
        raise ImageFormatError(f"no section {', '.join(missing)}")
    del payloads[Section.MANIFEST]
    try:
        check_manifest(manifest, config, {section: len(payload) for section, payload in payloads.items()}, len(data))
    except ManifestError as error:
        raise ImageFormatError(f"section 0 (manifest): {error}") from None
    return Image(config, manifest, payloads)


def _check_magic(data: bytes) -> None:
    if len(data) < 4 * HEADER_WORDS or data[:4] != MAGIC.to_bytes(4, "little"):
        raise ImageFormatError("not a memory image (it does not begin with 'OESE')")


def _parse_section(words: NDArray[np.uint32], position: int, number: int,
                   lines: Lines | None) -> tuple[Section, NDArray[np.uint32], int]:
    """The section at word ``position``, and the position of the next. ``lines`` is None before the manifest."""
    where = f"section {number}"
    if position + _SECTION_WORDS > len(words):
        raise ImageFormatError(f"truncated in {where}")
    identifier, first, count = (int(word) for word in words[position:position + _SECTION_WORDS])
    if identifier not in list(Section):
        raise ImageFormatError(f"{where}: unknown kind {identifier}")
    section = Section(identifier)
    where += f" ({section.name.lower()})"
    if (section is Section.MANIFEST) != (lines is None):
        raise ImageFormatError(f"{where}: the manifest must come first, and once")
    width = 1 if lines is None else lines.words[section]
    end = position + _SECTION_WORDS + count * width
    if end + 1 > len(words):
        raise ImageFormatError(f"truncated in {where}: {end + 1 - len(words)} words are missing")
    if words[end] != _crc(words[position:end])[0]:
        raise ImageFormatError(f"{where} is damaged (CRC mismatch)")
    if first:
        raise ImageFormatError(f"{where} begins at line {first}; this program reads whole memories, from line 0")
    if lines is not None and count > lines.depth[section]:
        raise ImageFormatError(f"{where}: {count} lines, the memory has {lines.depth[section]}")
    return section, words[position + _SECTION_WORDS:end].reshape(count, width), end + 1


def _parse_manifest(payload: NDArray[np.uint32]) -> tuple[dict[str, Any], Config]:
    try:
        manifest = read_json(payload.astype("<u4").tobytes())
        return manifest, read_config(manifest)
    except ManifestError as error:
        raise ImageFormatError(f"section 0 (manifest): {error}") from None


class _Unpacker:
    """Reads a model back from an image's memories."""

    def __init__(self, image: Image) -> None:
        self._image = image
        self._part = image.part
        self._config = image.config

    def _values(self, section: Section, bits: int, count: int) -> Int64Array:
        return _from_lines(self._image.sections[section], bits, count)

    def model(self) -> QuantizedModel:
        config, manifest = self._config, self._part
        self._order = self._values(Section.ORDER, config.line_bits, config.groups)
        self._counts = self._values(Section.POINTERS, config.count_bits, config.pes)
        pairs = self._pairs()
        tables = self._values(Section.TABLES, config.table_bits, 2).reshape(2, -1)
        sigmoid, tanh = _signed(tables, config.table_bits).astype(np.int32)
        layers = [self._layer(number, fields, pairs) for number, fields in enumerate(manifest["layers"])]
        return QuantizedModel(layers=tuple(layers), config=config, name=manifest["name"],
                              sigmoid_range=manifest["sigmoid_range"], tanh_range=manifest["tanh_range"],
                              sigmoid_table=sigmoid, tanh_table=tanh, batch_first="batch_first" in manifest)

    def _pairs(self) -> Int64Array:
        """The parameter words (cell rows, gates, PE rows)."""
        config = self._config
        beside = config.parameter_line_bits // config.parameter_bits
        values = self._values(Section.PARAMETERS, config.parameter_bits, config.slices * beside)
        shape = (-1, 4, config.rows_per_slice // beside, config.slices, beside)
        return values.reshape(shape).transpose(0, 1, 3, 2, 4).reshape(-1, 4, config.row_pes)

    def _layer(self, number: int, fields: dict[str, Any], pairs: Int64Array) -> QuantizedLayer:
        config = self._config
        if fields.get("cell") == DENSE.name:
            return self._dense(number, fields, pairs)
        cells = fields["cells"]
        rows = -(-cells // config.row_pes)
        pair = pairs[fields["cell_base"]:fields["cell_base"] + rows].transpose(1, 0, 2).reshape(4, -1)[:, :cells]
        bias = _signed(pair & ((1 << config.argument_bits) - 1), config.argument_bits)
        peephole = _signed(pair >> config.argument_bits, config.peephole_bits)[[0, 1, 3]]
        shapes: dict[str, tuple[int, ...]] = {"w_x": (4, cells, fields["inputs"]), "w_r": (4, cells, fields["outputs"])}
        if fields["projection"]:
            shapes["w_ym"] = (fields["outputs"], cells)
        kind, bias_rn, reset_after = CELLS[fields.get("cell", LSTM.name)], None, "reset_after" not in fields
        if not reset_after:
            shapes["w_rn"] = shapes["w_r"]
        matrices = {name: self._matrix(number, name, shape) for name, shape in shapes.items()}
        if kind is GRU:
            bias, bias_rn = bias[:3], bias[3] if reset_after else None
            matrices = self._gru_matrices(number, matrices, GRU_PLACES if reset_after else GRU_BEFORE_PLACES)
        return QuantizedLayer(bias=bias, peephole=peephole if fields["peephole"] else None,
                              w_x=matrices["w_x"], w_r=matrices["w_r"], w_ym=matrices.get("w_ym"),
                              x_exponents=tuple(fields.get("x_exponents", ())), cell=kind.name, bias_rn=bias_rn,
                              reset_after=reset_after, **{name: fields[name] for name in LAYER_FORMATS})

    @staticmethod
    def _gru_matrices(number: int, matrices: dict[str, IntArray],
                      places: dict[str, tuple[list[int], list[int]]]) -> dict[str, IntArray]:
        """w_x and w_r of a GRU (3, H, columns) from its matrices by accumulator (4, H, columns)."""
        tensors: dict[str, IntArray] = {}
        for name, matrix in matrices.items():
            gates, accumulators = places[name]
            if np.delete(matrix, accumulators, axis=0).any():
                raise EncodeError(f"layer {number} {name}: a GRU has weights in the sums of the other matrix")
            tensor = tensors.setdefault(name[:3], np.zeros((3, *matrix.shape[1:]), matrix.dtype))
            tensor[gates] = matrix[accumulators]
        return tensors

    def _dense(self, number: int, fields: dict[str, Any], pairs: Int64Array) -> QuantizedLayer:
        flat = pairs[fields["cell_base"]:].reshape(-1)[:fields["outputs"]]
        bias = _signed(flat & ((1 << self._config.argument_bits) - 1), self._config.argument_bits)
        return QuantizedLayer(bias=bias[None], cell=DENSE.name, activation=fields["activation"],
                              w_x=self._matrix(number, "w_x", (fields["outputs"], fields["inputs"]))[None],
                              x_exponents=tuple(fields.get("x_exponents", ())),
                              **{name: fields[name] for name in LAYER_FORMATS})

    def _matrix(self, layer: int, name: str, shape: tuple[int, ...]) -> IntArray:
        matrix = np.zeros(shape, weight_type(self._config.weight_bits))
        for operation in self._part["operations"]:
            if (operation["layer"], operation["matrix"]) == (layer, name):
                first, columns = operation["first"], operation["columns"]
                matrix[..., first:first + columns] = decode(self._encoded(operation, shape[:-1]), self._config)
        return matrix

    def _encoded(self, operation: dict[str, Any], rows: tuple[int, ...]) -> EncodedMatrix:
        config = self._config
        slots = slice(operation["order_base"], operation["order_base"] + operation["slots"])
        lines = slice(operation["entry_base"], operation["entry_base"] + operation["lines"])
        order = self._order[slots] * config.groups + np.arange(config.groups)
        counts = self._counts[slots]
        lengths = counts.sum(axis=0)
        section = Section.STREAM if Section.STREAM in self._image.sections else Section.WEIGHTS
        entries = _from_lines(self._image.sections[section][lines], config.entry_bits, config.pes)
        weights = _signed(entries & ((1 << config.weight_bits) - 1), config.weight_bits)
        weights, skips = weights.astype(weight_type(config.weight_bits)), entries >> config.weight_bits
        return EncodedMatrix((*rows, operation["columns"]), order, counts, weights, skips.astype(np.int16), lengths,
                             lengths)


def write_memory_files(image: Image, folder: str | os.PathLike[str]) -> list[Path]:
    """Write each memory's contents for ``$readmemh``: one file a memory, one hexadecimal number a line.

    Weights and pointers have a file for each PE, or pointers one for each tile if the machine has `wide_pointers`.
    Parameters have one for each slice, the rest one each. Returns the paths.
    """
    config = image.config
    lines = Lines(config)
    pointers = ("pointers_tile", config.slices) if config.wide_pointers else ("pointers_pe", config.pes)
    split = {
        Section.WEIGHTS: ("weights_pe", config.pes), Section.STREAM: ("stream", 1), Section.POINTERS: pointers,
        Section.PARAMETERS: ("parameters_slice", config.slices),
        Section.ORDER: ("order", 1), Section.PROGRAM: ("program", 1), Section.TABLES: ("tables", 1),
    }
    names = []
    with replacing_folder(folder) as beside:
        for section, (name, parts) in split.items():
            if section not in image.sections:
                continue
            # A tile has PEs of every group.
            groups = config.groups if name == "pointers_tile" else 1
            bits = lines.bits[section] // parts // groups
            digits = -(-bits * groups // 4)
            numbers = [int.from_bytes(line.astype("<u4").tobytes(), "little") for line in image.sections[section]]
            for part in range(parts):
                names.append(f"{name}{part}.mem" if parts > 1 else f"{name}.mem")
                words = (sum((number >> (group * parts + part) * bits & (1 << bits) - 1) << group * bits
                             for group in range(groups)) for number in numbers)
                (beside / names[-1]).write_text("".join(f"{word:0{digits}x}\n" for word in words))
    return [Path(folder) / name for name in names]
