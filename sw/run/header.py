# SPDX-License-Identifier: Apache-2.0
"""A C header with the sizes and formats of an image, for the host library in C (`rtl/targets/driver/`)."""

import os
import re
import zlib
from collections.abc import Iterable
from pathlib import Path

from openese.output import write_text
from openese.rtl.loader import Section
from openese.sw.pack.image import Image, read
from openese.sw.run.device import state_runs

__all__ = ["HeaderError", "write_header"]

_FIELDS_A_LINE = 12
#: Fraction bits with which every integer of a machine is a float of 32 bits, exactly.
_FRACTIONS = range(-100, 101)


class HeaderError(ValueError):
    """No header can be written. The message says why."""


def write_header(path: str | os.PathLike[str], output: str | os.PathLike[str]) -> None:
    """Write a C header that describes an image.

    It defines ``<name>_image`` and the macros ``<NAME>_WORDS``, ``<NAME>_MEMORY``, ``<NAME>_BUFFERS``,
    ``<NAME>_INPUTS``, ``<NAME>_OUTPUTS`` and ``<NAME>_STATE``, where the name is that of ``output``, without suffix.

    Parameters
    ----------
    path : str or Path
        The image.
    output : str or Path
        The header.

    Raises
    ------
    HeaderError
        The name does not begin a name in C, or a format is beyond the floats of C.
    ImageFormatError
        The file is not an image, or is damaged.
    OSError
        A file cannot be read or written.
    """
    image = read(path)
    if Path(path).read_bytes() != image.words(everything=True).astype("<u4").tobytes():
        raise HeaderError(f"{os.fspath(path)}: not as this program writes it; pack the network anew")
    write_text(output, _header(image, Path(output).stem))


def _header(image: Image, name: str) -> str:
    if not re.fullmatch(r"(?!openese)[a-z][a-z0-9_]*", name, re.IGNORECASE):
        raise HeaderError(f"names in C begin with the name of the header, which {name!r} cannot be: use letters, "
                          "digits and _, a letter first, and not openese")
    config, upper = image.config, name.upper()
    words = image.words(everything=True)
    first, streamed = _stream(image, len(words))
    crc = zlib.crc32(words.astype("<u4").tobytes())
    models, sizes = [], []
    lines = [f"/* Sizes and formats of the image {name} for the machine {config.name}; written by openese header. */",
             f"#ifndef {upper}_H", f"#define {upper}_H", "", '#include "openese_host.h"', "",
             f"#if OPENESE_CONFIG_FINGERPRINT != 0x{config.fingerprint:08X}u",
             f'#error "{name}.h and openese_hw.h are for two machines; openese build --for IMAGE writes the latter"',
             "#endif", ""]
    for number in range(len(image.parts)):
        text, entry, size = _model(image.select(number), f"{name}_{number}")
        lines += text
        models.append(entry)
        sizes.append(size)
    inputs, outputs, state = (max(size) for size in zip(*sizes, strict=True))
    banks = int(image.manifest.get("banks", 1))
    most = f"{max(inputs, outputs)}u"
    lines += _table(f"openese_model {name}_models[{len(models)}]", models, 1)
    lines += [f"static const openese_image {name}_image = {{",
              f"    {len(words)}u, 0x{crc:08X}u, {first}u, {streamed}u, {banks}u,",
              f"    {most}, {state}u, {len(models)}u, {name}_models", "};", "",
              "/* Words of the file; the most columns of a frame and of an answer, and numbers of a state. */",
              f"#define {upper}_WORDS {len(words)}u", f"#define {upper}_INPUTS {inputs}u",
              f"#define {upper}_OUTPUTS {outputs}u", f"#define {upper}_STATE {state}u", "",
              "/* Of uint64_t, for openese_setup. */",
              f"#define {upper}_MEMORY(voices, frames, steps) \\",
              f"    OPENESE_MEMORY({most}, {state}u, {banks}u, {len(models)}u, voices, frames, steps)",
              f"#define {upper}_BUFFERS(steps) OPENESE_BUFFERS({most}, steps)", "", "#endif", ""]
    return "\n".join(lines)


def _model(image: Image, prefix: str) -> tuple[list[str], str, tuple[int, int, int]]:
    """The tables of one model; its entry in the table of all; its inputs, outputs and numbers of state."""
    model, config = image.model(), image.config
    fractions = [int(fraction) for fraction in model.input_fractions]
    for what, fraction in [*((f"input {k}", fraction) for k, fraction in enumerate(fractions)),
                           ("the output", model.layers[-1].y_fraction)]:
        if fraction not in _FRACTIONS:
            raise HeaderError(f"{what} of model {model.name!r} has {fraction} fraction bits; the library takes "
                              f"{_FRACTIONS[0]} to {_FRACTIONS[-1]}")
    banked = [word for _, _, word, _ in state_runs(image, config.channels)] if config.banks > 1 else []
    runs, state = [], 0
    for place, (number, name, word, count) in enumerate(state_runs(image, 0)):
        fraction, bits = ((model.formats[number].cell_fraction, config.cell_bits) if name == "c" else
                          (model.layers[number].y_fraction, config.activation_bits))
        step = banked[place] - word if banked else 0
        runs.append(f"{{0x{word:08X}u, 0x{step:08X}u, {count}u, {fraction}, {bits}}}")
        state += count
    lines = _table(f"int16_t {prefix}_fractions[{len(fractions)}]", map(str, fractions), _FIELDS_A_LINE)
    if runs:
        lines += _table(f"openese_run {prefix}_runs[{len(runs)}]", runs, 1)
    entry = (f"{{{_text(model.name)}, {model.inputs}u, {model.outputs}u, {prefix}_fractions, "
             f"{model.layers[-1].y_fraction}, {f'{prefix}_runs' if runs else 'NULL'}, {len(runs)}u, {state}u}}")
    return lines, entry, (model.inputs, model.outputs, state)


def _stream(image: Image, words: int) -> tuple[int, int]:
    """The first of the streamed weights among the words of the file, and how many there are."""
    if Section.STREAM not in image.sections:
        return 0, 0
    order = list(image.sections)
    behind = order[order.index(Section.STREAM):]
    # Each section has three words in front and one behind.
    first = words - sum(image.sections[section].size + 4 for section in behind) + 3
    return first, image.sections[Section.STREAM].size


def _table(declaration: str, entries: Iterable[str], a_line: int) -> list[str]:
    rows = list(entries)
    lines = [", ".join(rows[start:start + a_line]) for start in range(0, len(rows), a_line)]
    return [f"static const {declaration} = {{", *(f"    {line}," for line in lines), "};"]


def _text(text: str) -> str:
    """Text as a string of C."""
    escaped = "".join(chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\?' else f"\\{byte:03o}"
                      for byte in text.encode())
    return f'"{escaped}"'
