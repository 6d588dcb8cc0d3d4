# SPDX-License-Identifier: Apache-2.0
"""Checks an image's manifest: the types of its fields, their ranges, and that they agree with the machine's memories.

An image from elsewhere may say anything. Whoever reads a manifest that passed needs no checks, and no array made from
it is larger than `dense_limit` allows.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from openese.rtl.config import LATER_FIELDS, Config
from openese.rtl.loader import Section
from openese.rtl.program import ACTIVATIONS
from openese.sw.model.layers import DENSE, GRU, LSTM, CellKind

__all__ = ["FIELDS", "LAYER_FORMATS", "ManifestError", "check_manifest", "dense_limit", "read_config", "read_json"]

#: Fields of a manifest in their order. With several models, those that describe one are in an object for each.
FIELDS = ("name", "config", "sigmoid_range", "tanh_range", "layers", "operations", "models", "needs", "banks",
          "bank_lines", "batch_first")

#: Fields of a layer that a `QuantizedLayer` has too.
LAYER_FORMATS = ("name", "x_fraction", "y_fraction", "w_x_fraction", "w_r_fraction", "w_ym_fraction", "align_x",
                 "align_r", "cell_select", "peephole_select", "g_activation")

_LONGEST = 1 << 20  # bytes of JSON: a few hundred for each layer and operation
_FRACTION = 2000  # more than any float64 needs
_NEEDS = ("entry_depth", "column_depth", "vector_depth", "cell_rows", "accumulator_rows", "program_depth")
_OF_MODEL = ("name", "sigmoid_range", "tanh_range", "layers", "operations")
_NUMBER = (0, 1 << 48)
# Matrices may be this many times as large as the image, which holds their non-zeros alone, but this much in any case.
_SPARSITY, _SMALL = 256, 1 << 26


class ManifestError(ValueError):
    """A manifest is not valid. The message names the field, the rule and the value."""


def dense_limit(size: int) -> int:
    """The most bytes that the matrices of an image of ``size`` bytes may have, with their zeros."""
    return max(_SMALL, _SPARSITY * size)


def read_json(text: bytes) -> dict[str, Any]:
    """The object in JSON.

    Raises
    ------
    ManifestError
        The text is longer than any manifest, or no JSON object.
    """
    if len(text) > _LONGEST:
        raise ManifestError(f"has {len(text):,} bytes; at most {_LONGEST:,} are read")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"is not JSON: {error}") from None
    return _object("it", value)


def read_config(manifest: Mapping[str, Any]) -> Config:
    """The machine in a manifest.

    Raises
    ------
    ManifestError
        It is not valid.
    """
    fields = _object("config", manifest.get("config"))
    later = dict.fromkeys(LATER_FIELDS) | fields
    _object("config", later, {field.name for field in dataclasses.fields(Config)})
    try:
        return Config(**fields)
    except ValueError as error:
        raise ManifestError(f"config: {error}") from None


def check_manifest(manifest: Mapping[str, Any], config: Config, lines: Mapping[Section, int], size: int) -> None:
    """Check all of a manifest but its config.

    Parameters
    ----------
    manifest : mapping
    config : Config
        Its machine.
    lines : mapping
        Lines of each section in the image.
    size : int
        Bytes of the image.

    Raises
    ------
    ManifestError
        Naming the field.
    """
    several = config.models > 1
    common = {"config", "needs", *(["banks", "bank_lines"] if config.banks > 1 else [])}
    _object("it", {name: value for name, value in manifest.items() if several or name != "batch_first"},
            {*common, "models"} if several else {*common, *_OF_MODEL})
    needs = _object("needs", manifest["needs"], set(_NEEDS))
    for name, value in needs.items():
        _whole(f"needs.{name}", value, *_NUMBER)
    parts = {f"models[{number}].": part for number, part in enumerate(_list("models", manifest["models"]))} if (
        several) else {"": manifest}
    if len(parts) > config.models:
        raise ManifestError(f"models: there are {len(parts)}, the machine holds {config.models} at most")
    for where, part in parts.items():
        if several:
            _object(where[:-1], {name: value for name, value in _object(where[:-1], part).items()
                                 if name != "batch_first"}, set(_OF_MODEL))
        _check_model(where, part, config)
    names = [part["name"] for part in parts.values()]
    if len(set(names)) < len(names):
        raise ManifestError(f"models: two have the name {_shown(max(names, key=names.count))}")
    layers = [layer for part in parts.values() for layer in part["layers"]]
    if config.banks > 1:
        # A dense layer's y is in every bank only if it is sent.
        _check_banks(manifest, [layer for part in parts.values() for layer in part["layers"]
                                if layer.get("cell") != DENSE.name or layer is part["layers"][-1]], config)
    _check_sections(layers, config, lines)
    dense = sum(_dense(layer, config) for layer in layers)
    if dense > dense_limit(size):
        raise ManifestError(f"layers: the matrices would take {dense:,} bytes, too many for an image of {size:,} bytes")
    regions = _Regions()
    for where, part in parts.items():
        _check_operations(where, _list(f"{where}operations", part["operations"]), part["layers"], lines, regions)
    _in_order(regions.orders, "lines of order", None)
    _in_order(regions.entries, "lines of weights", None)


@dataclasses.dataclass
class _Regions:
    """Lines of order and of weights that operations take: first, number, and name of the operation."""

    orders: list[tuple[int, int, str]] = dataclasses.field(default_factory=list)
    entries: list[tuple[int, int, str]] = dataclasses.field(default_factory=list)


def _check_model(where: str, part: Mapping[str, Any], config: Config) -> None:
    """Check the fields of one model, but its operations."""
    if part.get("batch_first", True) is not True:
        raise ManifestError(f"{where}batch_first must be true where it is given, not {_shown(part['batch_first'])}")
    _text(f"{where}name", part["name"])
    for name in ("sigmoid_range", "tanh_range"):
        _whole(f"{where}{name}", part[name], 0, config.argument_bits - 1)
    layers = _list(f"{where}layers", part["layers"])
    for number, layer in enumerate(layers):
        _check_layer(f"{where}layers[{number}]", layer, layers[number - 1] if number else None, config)


def _check_layer(where: str, layer: Any, before: Mapping[str, Any] | None, config: Config) -> None:
    sizes, places = ("inputs", "cells", "outputs"), ("cell_base", "m_line", "y_line")
    scaled = {"x_exponents"} if before is None and isinstance(layer, dict) and "x_exponents" in layer else set()
    others = {kind.name: kind for kind, there in ((GRU, config.gru), (DENSE, config.dense)) if there}
    cell = {"cell"} if others and isinstance(layer, dict) and "cell" in layer else set()
    kind = _kind(where, layer, others) if cell else LSTM
    of_kind = {"activation"} if kind is DENSE else set()
    if kind is GRU and config.gru_before and "reset_after" in layer:
        of_kind = {"reset_after"}
        if layer["reset_after"] is not False:
            raise ManifestError(f"{where}.reset_after must be false where it is given, not "
                                f"{_shown(layer['reset_after'])}")
    _object(where, layer, {*LAYER_FORMATS, *sizes, *places, "peephole", "projection", *scaled, *cell, *of_kind})
    if kind is not LSTM:
        _check_other(where, layer, kind)
    _text(f"{where}.name", layer["name"])
    if layer["g_activation"] not in ("tanh", "sigmoid"):
        raise ManifestError(f"{where}.g_activation must be tanh or sigmoid, not {layer['g_activation']!r}")
    for name in ("peephole", "projection"):
        if not isinstance(layer[name], bool):
            raise ManifestError(f"{where}.{name} must be true or false, not {layer[name]!r}")
    for name in ("x_fraction", "y_fraction", *(["w_ym_fraction"] if layer["projection"] else [])):
        _whole(f"{where}.{name}", layer[name], -_FRACTION, _FRACTION)
    if not layer["projection"] and layer["w_ym_fraction"] is not None:
        raise ManifestError(f"{where}.w_ym_fraction must be null without projection, not {layer['w_ym_fraction']!r}")
    for name, low, high in (("w_x_fraction", -_FRACTION, _FRACTION), ("w_r_fraction", -_FRACTION, _FRACTION),
                            ("align_x", 0, (1 << config.align_bits) - 1), ("align_r", 0, (1 << config.align_bits) - 1)):
        if kind is DENSE and name in ("w_r_fraction", "align_r"):
            if layer[name] != []:
                raise ManifestError(f"{where}.{name} must be [] of a dense layer, not {_shown(layer[name])}")
            continue
        if len(_list(f"{where}.{name}", layer[name])) != len(kind.gates):
            raise ManifestError(f"{where}.{name} must have one number for each gate, not {len(layer[name])}")
        for gate, value in enumerate(layer[name]):
            _whole(f"{where}.{name}[{gate}]", value, low, high)
    for name in ("cell_select", "peephole_select"):
        _whole(f"{where}.{name}", layer[name], 0, 7)
    for name in ("inputs", "outputs"):
        _whole(f"{where}.{name}", layer[name], 1, config.vector_depth)
    _whole(f"{where}.cells", layer["cells"], *((0, 0) if kind is DENSE else (1, config.cell_rows * config.row_pes)))
    for name in scaled:
        if len(_list(f"{where}.{name}", layer[name])) != layer["inputs"]:
            raise ManifestError(f"{where}.{name} must have one number for each of {layer['inputs']} inputs, not "
                                f"{len(layer[name])}")
        for feature, value in enumerate(layer[name]):
            _whole(f"{where}.{name}[{feature}]", value, -_FRACTION, _FRACTION)
    if before is not None and layer["inputs"] != before["outputs"]:
        raise ManifestError(f"{where}.inputs must be the {before['outputs']} outputs of the layer before, "
                            f"not {layer['inputs']}")
    if kind is not DENSE and not layer["projection"] and layer["outputs"] != layer["cells"]:
        raise ManifestError(f"{where}.outputs must be the {layer['cells']} cells without projection, "
                            f"not {layer['outputs']}")
    _whole(f"{where}.cell_base", layer["cell_base"], 0, max(0, config.cell_rows - _cell_rows(layer, config)))
    if _cell_rows(layer, config) > config.cell_rows:
        raise ManifestError(f"{where}.outputs: the biases of {layer['outputs']} take {_cell_rows(layer, config)} cell "
                            f"rows, there are {config.cell_rows}")
    for name, columns in (("m_line", layer["cells"]), ("y_line", layer["outputs"])):
        _whole(f"{where}.{name}", layer[name], 0, (config.vector_depth - columns) // config.groups)
        if layer[name] % config.write_lines:
            raise ManifestError(f"{where}.{name} must be a multiple of {config.write_lines}, the lines that the "
                                f"machine writes at once, not {layer[name]}")


def _kind(where: str, layer: Mapping[str, Any], kinds: Mapping[str, CellKind]) -> CellKind:
    """The kind of a layer that is no LSTM, one of ``kinds``."""
    if not isinstance(layer["cell"], str) or layer["cell"] not in kinds:
        raise ManifestError(f"{where}.cell must be {' or '.join(kinds)} where it is given, not "
                            f"{_shown(layer['cell'])}")
    return kinds[layer["cell"]]


def _check_other(where: str, layer: Mapping[str, Any], kind: CellKind) -> None:
    """Check a layer that is no LSTM for what only those have."""
    for name, only in (("peephole", False), ("projection", False), ("cell_select", 0), ("peephole_select", 0),
                       ("g_activation", "tanh")):
        if layer[name] != only:
            raise ManifestError(f"{where}.{name} must be {json.dumps(only)} of {kind.a_title}, not "
                                f"{_shown(layer[name])}")
    if kind is DENSE and layer["activation"] not in ACTIVATIONS:
        raise ManifestError(f"{where}.activation must be {', '.join(ACTIVATIONS[:-1])} or {ACTIVATIONS[-1]}, not "
                            f"{_shown(layer['activation'])}")


def _cell_rows(layer: Mapping[str, Any], config: Config) -> int:
    """Cell rows that a layer takes."""
    if layer.get("cell") == DENSE.name:
        return -(-layer["outputs"] // (config.row_pes * config.dense_rows))
    return int(-(-layer["cells"] // config.row_pes))


def _check_banks(manifest: Mapping[str, Any], layers: list[Any], config: Config) -> None:
    """The y of all banks lie in the vector memory, and not in each other."""
    _whole("banks", manifest["banks"], 1, config.banks)
    # Rows are written as a whole.
    ends = [layer["y_line"] + -(-layer["outputs"] // config.row_pes) * config.row_pes // config.groups
            for layer in layers]
    first = min(layer["y_line"] for layer in layers)
    lines = config.vector_depth // config.groups
    _whole("bank_lines", manifest["bank_lines"], max(ends) - first, max(max(ends) - first, lines - 1))
    end = max(ends) + (manifest["banks"] - 1) * manifest["bank_lines"]
    if end > lines:
        raise ManifestError(f"banks: {manifest['banks']} banks end at line {end} of the vector memory, "
                            f"which has {lines}")


def _check_sections(layers: list[Any], config: Config, lines: Mapping[Section, int]) -> None:
    """Tables are whole, and there are parameters for all cells."""
    if lines[Section.TABLES] != 1 << config.table_index_bits:
        raise ManifestError(f"the tables have {lines[Section.TABLES]} lines, not {1 << config.table_index_bits}")
    if lines[Section.ORDER] != lines[Section.POINTERS]:
        raise ManifestError(f"there are {lines[Section.ORDER]} lines of order, but {lines[Section.POINTERS]} of "
                            "pointers")
    of_row = 4 * config.rows_per_slice * config.parameter_bits // config.parameter_line_bits
    rows = max(layer["cell_base"] + _cell_rows(layer, config) for layer in layers)
    if lines[Section.PARAMETERS] != rows * of_row:
        raise ManifestError(f"{rows} rows of cells have {rows * of_row} lines of parameters, not "
                            f"{lines[Section.PARAMETERS]}")


def _check_operations(within: str, operations: list[Any], layers: list[Any], lines: Mapping[Section, int],
                      taken: _Regions) -> None:
    """Every column of every matrix is in one operation. The lines of memories that operations take are added to
    ``taken``.
    """
    counts = ("part", "entries_min", "entries_max", "nonzeros", "padding")
    columns = {(number, name): layer[size] for number, layer in enumerate(layers)
               for name, size in _matrices(layer).items()}
    found: dict[tuple[int, str], list[tuple[int, int, str]]] = {key: [] for key in columns}
    weights = lines.get(Section.WEIGHTS, lines.get(Section.STREAM, 0))
    for number, operation in enumerate(operations):
        where = f"{within}operations[{number}]"
        _object(where, operation, {"layer", "matrix", "first", "columns", "order_base", "slots", "entry_base", "lines",
                                   *counts})
        for name in counts:
            _whole(f"{where}.{name}", operation[name], *_NUMBER)
        _whole(f"{where}.layer", operation["layer"], 0, len(layers) - 1)
        key = operation["layer"], _text(f"{where}.matrix", operation["matrix"])
        if key not in columns:
            raise ManifestError(f"{where}.matrix: layer {key[0]} has no matrix {key[1]!r}")
        _whole(f"{where}.first", operation["first"], 0, columns[key] - 1)
        _whole(f"{where}.columns", operation["columns"], 1, columns[key] - operation["first"])
        found[key].append((operation["first"], operation["columns"], where))
        for base, length, depth, regions in (("order_base", "slots", lines[Section.ORDER], taken.orders),
                                             ("entry_base", "lines", weights, taken.entries)):
            _whole(f"{where}.{base}", operation[base], 0, depth)
            _whole(f"{where}.{length}", operation[length], 0, depth - operation[base])
            if operation[length]:
                regions.append((operation[base], operation[length], where))
    for (layer, name), parts in found.items():
        _in_order(parts, f"columns of layer {layer} {name}", columns[layer, name], within)


def _matrices(layer: Mapping[str, Any]) -> dict[str, str]:
    """By matrix of a layer, the field that has its number of columns."""
    matrices = {"w_x": "inputs"}
    if layer.get("cell") != DENSE.name:
        matrices["w_r"] = "outputs"
    if "reset_after" in layer:
        matrices["w_rn"] = "cells"
    if layer["projection"]:
        matrices["w_ym"] = "cells"
    return matrices


def _in_order(parts: list[tuple[int, int, str]], what: str, total: int | None, within: str = "") -> None:
    """Raises unless parts (start, length, name) do not overlap; with a ``total``, they must fill it."""
    end = 0
    for start, length, where in sorted(parts):
        if start < end or (total is not None and start > end):
            raise ManifestError(f"{where}: its {what} begin at {start}; those before it end at {end}")
        end = start + length
    if total is not None and end != total:
        raise ManifestError(f"{within}operations: {what} end at {end}, not {total}")


def _dense(layer: Mapping[str, Any], config: Config) -> int:
    """Bytes of a layer's matrices when they are packed: with rows for all PEs, and a count for each column and PE."""
    def of(stacked: int, rows: int, columns: int) -> int:
        padded = -(-rows // config.row_pes) * config.row_pes
        return columns * (stacked * padded * (2 if config.weight_bits <= 16 else 4) + 8 * config.pes)

    cells, outputs = layer["cells"], layer["outputs"]
    if layer.get("cell") == DENSE.name:
        return of(1, outputs, layer["inputs"])
    stacked = sum(layer[size] for name, size in _matrices(layer).items() if name != "w_ym")
    return of(4, cells, stacked) + (of(1, outputs, cells) if layer["projection"] else 0)


def _object(where: str, value: Any, keys: set[str] | None = None) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ManifestError(f"{where} must be an object, not {_shown(value)}")
    if keys is not None and value.keys() != keys:
        wrong = sorted(value.keys() ^ keys)[0]
        raise ManifestError(f"{where}: {wrong!r} is {'missing' if wrong in keys else 'unknown'}")
    return value


def _list(where: str, value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise ManifestError(f"{where} must be a list that is not empty, not {_shown(value)}")
    return value


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ManifestError(f"{where} must be text, not {_shown(value)}")
    return value


def _whole(where: str, value: Any, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ManifestError(f"{where} must be a whole number from {low} to {high}, not {_shown(value)}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
