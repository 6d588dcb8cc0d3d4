# SPDX-License-Identifier: Apache-2.0
"""Tables of the reference that are made from the code: presets, registers, commands."""

import inspect
import json
import re
import textwrap
from functools import partial

import click

from docs.markdown import DOCS, table
from docs.results.fpga import TITLES, synthesized
from openese.rtl import registers
from openese.rtl.config import PRESETS, PURPOSES
from openese.rtl.targets.devices import DEVICES, RESOURCES
from openese.rtl.targets.logic import FILE
from openese.sw.cli import openese

__all__ = ["TABLES"]


def purposes():
    """What each preset is for, and its size."""
    return table(["preset", "for", "PEs x channels", "multipliers", "weights on the chip"], [
        [f"`{config.name}`", PURPOSES[config.name], f"{config.pes} x {config.channels}", f"{config.multipliers:,}",
         f"{config.pes * config.entry_depth:,}" if not config.stream else "read from memory, or "
         f"{config.pes * config.entry_depth:,}"] for config in PRESETS.values()])


def capacities():
    """The memories of each preset."""
    return table(["preset", "entries per PE", "entry bits", "columns", "vector columns", "cells", "accumulators per PE",
                  "column groups"], [
        [f"`{config.name}`", f"{config.entry_depth:,}", f"{config.weight_bits} + {config.index_bits}",
         f"{config.column_depth:,}", f"{config.vector_depth:,}", f"{config.cell_rows * config.row_pes:,}",
         f"{config.accumulator_rows:,}", config.groups] for config in PRESETS.values()])


def synthesis():
    """What Yosys counts for each preset that is synthesized."""
    kinds = ("LUT", "BRAM", "URAM", "DSP")
    rows = [[f"`{name}`", TITLES[family], *(f"{figures['total'].get(kind, 0):,}" for kind in kinds)]
            for family, machines in synthesized().items() for name, figures in machines.items()]
    order = list(PRESETS)
    rows.sort(key=lambda row: order.index(row[0].strip("`")))
    return table(["preset", "family", "LUT", "block RAM", "UltraRAM", "DSP"], rows)


def devices():
    """FPGAs and boards, with the source of their numbers."""
    return table(["name", "FPGA", *(title for title in RESOURCES.values()), "source"], [
        [f"`{held.name}`", held.fpga, *(f"{there:,}" for there in held.resources.values()), held.source]
        for held in DEVICES.values()])


def logic():
    """How far the model of LUTs and registers is from Yosys."""
    return table(["preset", "family", "LUTs", "LUTs as memory", "registers"], [
        [f"`{name}`", TITLES[family], *(f"{100 * error:+.1f} %" for error in found.values())]
        for family, fit in json.loads(FILE.read_text()).items() for name, found in fit["compared"].items()])


def _paragraphs(text):
    """A help text as Markdown; a verbatim paragraph becomes a line and a block of code."""
    for paragraph in inspect.cleandoc(text or "").split("\n\n"):
        if not paragraph.startswith("\b"):
            yield " ".join(paragraph.split())
            continue
        title, *lines = paragraph.removeprefix("\b\n").splitlines()
        language = "sh" if lines[0].strip().startswith("openese ") else "text"
        yield f"{title}\n\n```{language}\n" + textwrap.dedent("\n".join(lines)) + "\n```"


#: The options that choose a machine beside ``--preset``. They are described once.
_MACHINE = ("--config", "--for", "--set")


def _options(command):
    """Names and meanings of a command's options, as its help has them."""
    context = click.Context(command)
    records = [option.get_help_record(context) for option in command.params if isinstance(option, click.Option)]
    return [[cell.replace("|", "\\|") for cell in (f"`{names}`", re.sub(r"\s+", " ", text))]
            for names, text in filter(None, records)]


def _of_machine(option):
    return option[0].strip("`").startswith(_MACHINE)


def machine_options():
    """The options that every command with a machine takes."""
    return table(["option", "meaning"], [option for option in _options(openese.commands["build"])
                                         if _of_machine(option) or "--preset" in option[0]])


def overview():
    """The help of the command itself."""
    return "\n\n".join(_paragraphs(openese.help)) + "\n"


def commands():
    """Every command with its usage, options and examples; those for the machine by a link."""
    parts = []
    for name, command in openese.commands.items():
        context = click.Context(command, info_name=f"openese {name}")
        usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
        parts.append(f"## openese {name}\n\n```text\n{usage}\n```\n")
        parts.append("\n\n".join(_paragraphs(command.help)) + "\n")
        options = _options(command)
        if any(map(_of_machine, options)):
            options = [[names, f"{text.rstrip()} Or [another option](#the-machine)." if "--preset" in names else text]
                       for names, text in options if not _of_machine([names])]
        if options:
            parts.append(table(["option", "meaning"], options))
        parts.extend(f"{paragraph}\n" for paragraph in _paragraphs(command.epilog) if paragraph)
    return "\n".join(filter(None, parts))


_DRIVER = DOCS.parent / "rtl" / "targets" / "driver"


def results():
    """What functions of the host library in C return."""
    found = re.findall(r'_\((\w+), (-?\d+), "(.*)"\)', (_DRIVER / "openese.h").read_text())
    return table(["result", "number", "meaning"], [[f"`OPENESE_{name}`", number, text]
                                                   for name, number, text in found])


def functions(name):
    """The functions of a header, as its comments have them."""
    text = (_DRIVER / name).read_text()
    rows = []
    comment = r"/\* ((?:(?!\*/).)*?) \*/\n"
    for said, prototypes in re.findall(comment + r"((?:(?:int|const char \*) ?\w+\([^;]*\);\n)+)", text, re.S):
        names = [" ".join(prototype.split()) for prototype in prototypes.split(";")[:-1]]
        rows.append(["<br>".join(f"`{one}`" for one in names), " ".join(said.split())])
    return table(["function", "meaning"], rows)


#: By page and marker.
TABLES = {
    ("reference/registers.md", "registers"): registers.markdown,
    ("reference/host.md", "results"): results,
    **{("reference/host.md", part): partial(functions, f"{part}.h") for part in
       ("openese_host", "openese", "openese_dma")},
    ("reference/presets.md", "purposes"): purposes,
    ("reference/presets.md", "capacities"): capacities,
    ("reference/presets.md", "synthesis"): synthesis,
    ("reference/devices.md", "devices"): devices,
    ("reference/devices.md", "logic"): logic,
    ("reference/command.md", "overview"): overview,
    ("reference/command.md", "machine_options"): machine_options,
    ("reference/command.md", "commands"): commands,
}
