# SPDX-License-Identifier: Apache-2.0
"""The output of the commands: tables, for any width of terminal, and plain in a pipe."""

import math
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from openese.rtl.config import PRESETS, PURPOSES
from openese.rtl.targets.capacity import resources
from openese.rtl.targets.devices import DEVICES, RESOURCES
from openese.rtl.targets.logic import Amount
from openese.sw.compile import OutputError, Summary
from openese.sw.cycles.load import MachineLoad
from openese.sw.energy import PROCESSES, total
from openese.sw.estimate import Estimated, holding
from openese.sw.explore.explore import Explored
from openese.sw.importers import Entry
from openese.sw.model.arrays import FloatArray
from openese.sw.model.layers import DENSE, GRU
from openese.sw.model.network import Network
from openese.sw.model.quantized import QuantizedModel
from openese.sw.pack.image import Image
from openese.sw.prune import MatrixCounts
from openese.sw.reference.machine import Reference
from openese.sw.run.runners import Machine
from openese.sw.speech.recognizer import CLOCK, Recognizer
from openese.sw.whole.host import RECURRENT, Item, Port
from openese.sw.whole.network import Difference

__all__ = ["bench", "counts", "devices", "differences", "empty", "entries", "error", "estimated", "estimates",
           "explored", "guess", "head", "image", "items", "line", "network", "notes", "places", "ports", "presets",
           "quantized", "ran", "real_time", "summary", "transcripts", "verified"]

_PIPE_WIDTH = 140
_LEAST_WIDTH = 80  # numbers in narrower columns break; a narrow terminal wraps the lines


def _console() -> Console:
    width = max(shutil.get_terminal_size().columns, _LEAST_WIDTH) if sys.stdout.isatty() else _PIPE_WIDTH
    return Console(markup=False, highlight=False, width=width)


def line(text: str) -> None:
    """One line of plain text."""
    _console().print(text, soft_wrap=True)


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]], width: int | None = None) -> None:
    """A table; a column whose name ends in a space is of text, the others of numbers.

    ``width`` is that of a table which is not for a terminal.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.strip(), justify="left" if column.endswith(" ") else "right",
                         overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console = _console()
    if width is not None and not sys.stdout.isatty():
        console.width = max(console.width, width)
    console.print(table)


def notes(network: Network) -> None:
    """The notes of the importer."""
    for note in network.notes:
        line(f"note: {note}")


def entries(listed: Sequence[Entry]) -> None:
    """The parts of a file that can be selected."""
    if not listed:
        line("nothing that looks like an LSTM or GRU")
        return
    _table(["name ", "kind ", "contents "], [(entry.name, entry.kind, _contents(entry)) for entry in listed])


def _contents(entry: Entry) -> str:
    if entry.problem:
        return f"refused: {entry.problem}"
    return f"elsewhere, not part of a layer that can be selected: {entry.summary}".removesuffix(": ") \
        if entry.elsewhere else entry.summary


def ports(inputs: Sequence[Port], outputs: Sequence[Port]) -> None:
    """Inputs and outputs of a whole network."""
    for title, held in (("inputs", inputs), ("outputs", outputs)):
        line(f"{title}: {', '.join(port.text() for port in held)}")


def items(held: Sequence[Item]) -> None:
    """Everything in a file, with its place."""
    rows = [(item.name, item.kind, item.place, item.detail) for item in held]
    width = sum(max(map(len, column)) + 2 for column in zip(*rows, strict=True))
    _table(["name ", "kind ", "place ", " "], rows, width)
    if any(item.place == "machine" and item.kind.startswith("GRU") for item in held):
        line("note: only a machine with cells lstm+gru computes a GRU (--set cells=lstm+gru), and one with "
             "lstm+gru+gru_before a GRU with the reset before the product")


def places(held: Sequence[Item]) -> None:
    """How many things of a file have which place, and the recurrent ones that the machine does not take."""
    counts = Counter(item.place for item in held)
    line("places: " + ", ".join(f"{place} {count:,}" for place, count in counts.items()))
    for item in held:
        if item.place == "host" and item.kind in RECURRENT:
            line(f"note: {item.kind} {item.name!r} stays on the host: {item.detail}")


def differences(rows: Sequence[Difference]) -> None:
    """Every output of a whole network against the original."""
    if not rows:
        return
    line("outputs against the original network in its own runtime:")
    _table(["output ", "RMS", "RMS error", "relative", "at most", "different", "of"],
           [(row.name, *(("", "", "", "") if row.error is None else (
               f"{row.error.rms_output:.3g}", f"{row.error.rms_error:.3g}",
               f"{row.error.rms_error / row.error.rms_output:.2%}" if row.error.rms_output else "",
               f"{row.error.max_error:.3g}")), f"{row.different:,}", f"{row.total:,}") for row in rows])


def network(model: Network) -> None:
    """Layers and directions of a model, and the notes of its import."""
    rows = []
    for number, stage in enumerate(model.stages):
        for direction in stage.directions:
            for layer in direction.model.layers:
                traits = [name for name, has in (
                    ("GRU cells", layer.kind is GRU), ("dense", layer.kind is DENSE),
                    (layer.activation, layer.activation != "none"), ("peepholes", layer.peephole is not None),
                    ("projection", layer.w_ym is not None), ("sigmoid g", layer.g_activation == "sigmoid"),
                    ("initial state", direction.initial is not None)) if has]
                rows.append((number, layer.name, "reverse" if direction.reverse else "forward", layer.inputs,
                             layer.cells, layer.outputs, f"{layer.weights:,}", f"{layer.density:.1%}",
                             ", ".join(traits)))
    head = "" if model.head is None else f", then a dense head of {model.head.weight.shape[0]}"
    if model.head is not None and model.head.activation != "none":
        head += f" with {model.head.activation}"
    line(f"{model.name}: {model.inputs} inputs, {model.outputs} outputs{head}")
    _table(["stage", "layer ", "direction ", "inputs", "cells", "outputs", "weights", "density", "with "],
           rows)
    notes(model)


def counts(rows: Sequence[MatrixCounts]) -> None:
    """Non-zeros of each matrix, and how evenly they lie on the PEs."""
    _table(["layer ", "matrix ", "size", "non-zeros", "density", "per PE, least", "most"],
           [(row.layer, row.matrix, f"{row.shape[0]}x{row.shape[1]}", f"{row.nonzeros:,}",
             f"{row.density:.2%}", row.smallest, row.largest) for row in rows])


def head(model: Network) -> None:
    """A note that an image does not hold the head, if a plain network has one."""
    if model.plain and model.head is not None:
        line("note: the image does not hold the dense head, which runs on the host: save the network by "
             "`openese import`, and give it to `openese run` as --model NETWORK")


def empty(rows: Sequence[MatrixCounts]) -> None:
    """A warning on stderr that names matrices without any weight, if there are such."""
    names = [f"{row.layer} {row.matrix}" for row in rows if not row.nonzeros]
    if names:
        click.echo(f"openese: no weight is left in {', '.join(names)}: the density is too low for these matrices",
                   err=True)


def quantized(model: QuantizedModel) -> None:
    """The formats of a quantized model, and their errors on the calibration frames."""
    measured = model.report
    config = model.config
    line(f"{model.name}: {config.weight_bits}-bit weights, {config.activation_bits}-bit activations, "
         f"for machine {config.name}")
    if measured is None:
        return
    _table(["layer ", "tensor ", "least", "most", "bits", "fraction", "saturated", "of", "RMS error"],
           [(row.layer, row.tensor, f"{row.minimum:.4g}", f"{row.maximum:.4g}", row.bits, row.fraction,
             f"{row.saturated:,}", f"{row.count:,}", f"{row.rms_error:.2g}") for row in measured.tensors])
    for output in measured.outputs:
        line(f"{output.layer}: output differs from floating point by RMS {output.rms_error:.3g}, at most "
             f"{output.max_error:.3g}, of RMS {output.rms_output:.3g}")
    line(f"saturations in {_frames(measured.steps, measured.voices)}: "
         f"{measured.saturations['cell']:,} cell, {measured.saturations['output']:,} output, "
         f"{measured.saturations.get('initial', 0):,} initial")


def _parameters(layer: Mapping[str, Any]) -> int:
    """Numbers in a layer that is not pruned, from its sizes in a manifest."""
    cells, outputs = layer["cells"], layer["outputs"]
    if layer.get("cell") == DENSE.name:
        return int(outputs * (layer["inputs"] + 1))
    if layer.get("cell") == GRU.name:
        return int(3 * cells * (layer["inputs"] + outputs) + (3 if "reset_after" in layer else 4) * cells)
    return int(4 * cells * (layer["inputs"] + outputs + 1) + layer["peephole"] * 3 * cells
               + layer["projection"] * outputs * cells)


def image(held: Image, memories: bool = True) -> None:
    """The contents of an image, and, with ``memories``, the shares of the machine's memories that they take."""
    config = held.config
    layers = [layer for part in held.parts for layer in part["layers"]]
    line(f"{', '.join(held.names)}: {held.bytes:,} bytes for machine {config.name} ({config.pes} PEs x "
         f"{config.channels} channels, fingerprint {config.fingerprint:08x}); "
         f"dense in float32 {4 * sum(map(_parameters, layers)):,} bytes")
    several = len(held.parts) > 1
    _table([*(["model "] if several else []), "layer ", "matrix ", "columns", "non-zeros", "per PE, least", "most",
            "padding"],
           [(*([f"{number} {part['name']}"] if several else []), part["layers"][row["layer"]]["name"],
             f"{row['matrix']} part {row['part'] + 1}",
             row["columns"], f"{row['nonzeros']:,}", row["entries_min"], row["entries_max"],
             f"{row['padding'] / max(1, row['padding'] + row['nonzeros']):.1%}")
            for number, part in enumerate(held.parts) for row in part["operations"]])
    if several:
        line(f"the machine holds up to {config.models} models: openese build --for writes it; "
             "openese run --name runs one")
    if memories:
        _table(["memory ", "taken", "of", "share"],
               [(name, f"{need:,}", f"{getattr(config, name):,}", f"{need / getattr(config, name):.0%}")
                for name, need in held.manifest["needs"].items()])


def verified(held: Image, more: str = "") -> None:
    """That an image is sound."""
    line(f"{', '.join(held.names)}: {held.bytes:,} bytes, all CRCs match, packs into the same bytes again{more}")


def guess(what: str, calibrate: object) -> None:
    """Tell on standard error that number formats are a guess, where nothing was given to calibrate on."""
    if not calibrate:
        click.echo(f"openese: no --calibrate {what}: number formats are chosen on random numbers, a guess", err=True)


def ran(machines: Sequence[Machine], input_saturations: int) -> None:
    """The counters of the machines after a run."""
    for machine in machines:
        counters = getattr(machine, "counters", None)
        if counters is not None:
            seen, config = counters(), machine.model.config
            steps, cycles = max(1, seen["steps"]), seen["cycles"] - seen["frame"]
            line(f"{machine.model.name}: {seen['steps']:,} steps, {cycles / steps:,.0f} cycles each, "
                 f"multipliers busy {seen['busy'] / max(1, cycles * config.pes):.1%}, "
                 f"saturations {seen['saturated']:,}")
        elif isinstance(machine, Reference):
            seen = machine.saturations
            line(f"{machine.model.name}: saturations {seen['cell']:,} cell, {seen['output']:,} output")
    if input_saturations:
        line(f"saturations {input_saturations:,} input")


def transcripts(title: str, rows: Mapping[str, str]) -> None:
    """Rows of text about a recording: the words that are spoken, the phones that a network recognizes."""
    line(title)
    _table(["by ", "words or phones "], list(rows.items()))


def _frames(steps: int, voices: int) -> str:
    return f"{steps:,} step{'s' if steps > 1 else ''} x {voices:,} voice{'s' if voices > 1 else ''}"


def _error(title: str, error: OutputError) -> str:
    return (f"{title}: RMS {error.rms_error:.3g}, at most {error.max_error:.3g}, of outputs of RMS "
            f"{error.rms_output:.3g}; measured on {_frames(error.steps, error.voices)}")


def summary(figures: Summary) -> None:
    """The figures that tell whether a compiled network is good enough."""
    if figures.error is not None:
        error = figures.error
        line(_error("error against floating point", error))
    if figures.pruning_error is not None:
        line(_error("error against the network before pruning", figures.pruning_error))
    if figures.calibration is not None:
        line(f"calibrated on {_frames(*figures.calibration)}")
    for load in figures.loads:
        name = f"{load.name}: " if len(figures.loads) > 1 else ""
        if load.cycles_per_step is None:
            line(f"{name}cycles a step: {load.least_cycles:,} at least; the model is too large for the cycle model")
        else:
            line(f"{name}cycles a step: {load.cycles_per_step:,} in steady state; {load.cycles_at_rest:,} from a frame "
                 "to its answer at rest (cycle model)")
        shares = [f"{field} {taken / there:.0%}" for field, (taken, there) in load.memories.items()]
        if load.streamed:
            shares[0] = "weights from memory in every step"
        line(f"{name}memories taken: {', '.join(shares)}")


def presets() -> None:
    """The machines that have a name."""
    _table(["preset ", "PEs", "channels", "multipliers", "weights", "weight bits", "cells", "columns", "for "],
           [(config.name, config.pes, config.channels, f"{config.multipliers:,}",
             "from memory" if config.stream else f"{config.pes * config.entry_depth:,}", config.weight_bits,
             f"{config.row_pes * config.cell_rows:,}", f"{config.column_depth:,}", PURPOSES[config.name])
            for config in PRESETS.values()])
    line("weights: encoded weights on the chip, zeros that pad them included; cells: of all layers together; columns: "
         "of all weight matrices together")


def devices() -> None:
    """The FPGAs and boards that machines are compared with."""
    _table(["device ", "FPGA ", *RESOURCES, "source "],
           [(held.name, held.fpga, *(f"{there:,}" for there in held.resources.values()), held.source)
            for held in DEVICES.values()])
    line(f"{', '.join(f'{name}: {title}' for name, title in RESOURCES.items())}. A block RAM has 36 Kbit, of an ECP5 "
         "18; a LUT has six inputs, of an ECP5 four.")


#: For people: the fields of `Config` that a network takes room of.
_MEMORIES = {"entry_depth": "weights of a PE", "column_depth": "columns", "vector_depth": "vector columns",
             "cell_rows": "cells of a PE row", "accumulator_rows": "accumulators of a PE",
             "program_depth": "instructions"}


def estimated(found: Estimated) -> None:
    """What a network takes of a machine, and the machine of an FPGA."""
    config = found.machine
    line(f"{found.network}: {found.weights:,} weights, {found.density:.1%} of them not zero; machine {config.name}, "
         f"{config.pes} PEs x {config.channels} channels; clock {found.clock / 1e6:g} MHz (assumed)")
    if found.items:
        places(found.items)
        for item in found.items:
            if item.kind in ("Dense", "network") and item.place == "host":
                line(f"note: the host computes {item.name!r}: {item.detail}")
    several = len(found.loads) > 1
    if several:
        _images(found)
    rows: list[tuple[str, ...]] = [("fits", "yes" if found.fits else "no")]
    if not several:
        rows += _taken(found.loads[0])
    rows += _times(found) + _work(found)
    if found.device is not None:
        there = found.device.resources
        rows += [(f"{RESOURCES[name]} of the {found.device.fpga} ({name}){_range(taken)}", f"{taken.number:,.12g}",
                  f"{there[name]:,}", f"{taken.number / there[name]:.0%}" if there[name] else "")
                 for name, taken in found.resources.items()]
    _table(["figure ", "value", "of", "share"], [(*row, *[""] * (4 - len(row))) for row in rows])
    for load in found.loads:
        _lacks(load, found)
    if found.device is not None and found.device.name in found.short:
        lacking = found.short[found.device.name]
        line(f"the machine does not fit the {found.device.fpga}: it lacks "
             f"{', '.join(f'{amount:,.12g} {RESOURCES[name]}' for name, amount in lacking.items())}")
    elif found.device is not None:
        there = found.device.resources
        tight = [f"{RESOURCES[name]}, up to {taken.most:,} of {there[name]:,}"
                 for name, taken in found.resources.items() if taken.most > there[name]]
        if tight:
            line(f"note: it may not fit the {found.device.fpga}: {'; '.join(tight)}")
    else:
        line(f"devices that the machine fits: {', '.join(_fitting(found)) or 'none'}")


def _taken(load: MachineLoad) -> list[tuple[str, ...]]:
    """The share of each memory that a model takes."""
    rows: list[tuple[str, ...]] = []
    for name, (taken, there) in load.memories.items():
        streamed = load.streamed and name == "entry_depth"
        rows.append((f"{_MEMORIES[name]} ({name})", *(
            ("from memory",) if streamed else (f"{taken:,}", f"{there:,}", f"{taken / there:.0%}"))))
    return rows


def _range(taken: Amount) -> str:
    """The range of a number that is not exact."""
    return f", {taken.least:,} to {taken.most:,}" if taken.error else ""


def _images(found: Estimated) -> None:
    """The images of a network of several, one line each."""
    line(f"{len(found.loads)} images; a machine holds one at a time. The figures below the first table are of all of "
         f"them, one after another.")
    _table(["image ", "fits ", "cycles a step", "at rest", "bytes", "fullest memory ", "share"],
           [(load.name, "no" if load.short else "yes", _cycles(load.cycles_per_step), _cycles(load.cycles_at_rest),
             _cycles(load.bytes), *_fullest(load)) for load in found.loads])


def _fullest(load: MachineLoad) -> tuple[str, str]:
    shares = {name: taken / there for name, (taken, there) in load.memories.items()}
    name = max(shares, key=lambda name: shares[name])
    return name, f"{shares[name]:.0%}"


def _cycles(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _times(found: Estimated) -> list[tuple[str, ...]]:
    steady, rest, channels = found.cycles_per_step, found.cycles_at_rest, found.machine.channels
    if steady is None or rest is None or found.frames_per_second is None or found.voices_fast_enough is None:
        least = "the cycle model does not run" if found.fits else "it does not fit"
        return [(f"cycles a step, at least ({least})", f"{found.least_cycles:,}")]
    return [
        (f"cycles a step of {_voices(channels)}, in steady state", f"{steady:,}"),
        ("the same in microseconds", f"{steady / found.clock * 1e6:,.2f}"),
        ("cycles from a frame to its answer, at rest, one voice or all", f"{rest:,}"),
        ("the same in microseconds", f"{rest / found.clock * 1e6:,.2f}"),
        ("frames a second, one voice", f"{found.frames_per_second:,.0f}"),
        (f"frames a second, {_voices(channels)}", f"{channels * found.frames_per_second:,.0f}"),
        (f"live voices, a frame every {found.period * 1e3:g} ms", f"{found.voices_fast_enough:,}"),
        ("voices whose states the machine holds", f"{found.voices_held:,}"),
        ("multipliers busy", "", "", f"{found.busy:.1%}"),
    ]


def _voices(count: int) -> str:
    return f"{count:,} voice{'s' if count > 1 else ''}"


def _work(found: Estimated) -> list[tuple[str, ...]]:
    if found.bytes is None:
        return []
    streamed = [("bytes of weights from memory in a step", f"{found.stream_bytes:,}")] if found.stream_bytes else []
    return [
        (f"bytes of the image{'s' if len(found.loads) > 1 else ''}", f"{found.bytes:,}"), *streamed,
        *((f"reads in a step: {name}", f"{count:,}") for name, count in found.counts("reads").items()),
        *((f"multiplications in a step: {name}", f"{count:,}")
          for name, count in found.counts("multiplications").items()),
        *_energy(found)]


def _energy(found: Estimated) -> list[tuple[str, ...]]:
    """What these reads and multiplications cost."""
    spent = found.energies
    if not spent:
        return []
    least, most = total(spent)
    first, *_, last = PROCESSES
    return [(f"their energy in microjoules, in an ASIC of {first} to {last}",
             f"{least * 1e6:,.4g} to {most * 1e6:,.4g}")]


def _lacks(load: MachineLoad, found: Estimated) -> None:
    """What a machine lacks for an image, and how it gets it."""
    if not load.short:
        return
    lacking = ", ".join(f"{name} {amount:,}" for name, amount in load.short.items())
    changes = holding(found.machine, {name: taken for name, (taken, _) in load.memories.items()})
    advice = ("no machine of these PEs holds it" if changes is None else
              f"this holds it: {' '.join(f'--set {name}={value}' for name, value in changes.items())}")
    line(f"{load.name} does not fit: it lacks {lacking}; {advice}")


def _fitting(found: Estimated) -> list[str]:
    """The devices that a machine fits."""
    fitting = []
    for held in DEVICES.values():
        if all(taken.number <= held.resources[name]
               for name, taken in resources(found.machine, held.family).items()):
            fitting.append(held.name)
    return fitting


def estimates(found: Sequence[Estimated]) -> None:
    """A network on several machines, one line each."""
    first = found[0]
    line(f"{first.network}: {first.weights:,} weights; clock {first.clock / 1e6:g} MHz (assumed); a frame every "
         f"{first.period * 1e3:g} ms of each live voice")
    if first.items:
        places(first.items)
    device = first.device
    shares = {} if device is None else {name: f"of {name}" for name, there in device.resources.items()
                                        if there and any(one.resources[name].number for one in found)}
    columns = ["machine ", "PEs x channels", "cycles", "us", "at rest", "us at rest", "live", "held", "busy",
               *shares.values(), *(["smallest device "] if device is None else []), "fits "]
    rows = [(one.machine.name, f"{one.machine.pes} x {one.machine.channels}", *_line(one),
             *([f"{one.resources[name].number / device.resources[name]:.0%}" for name in shares] if device is not None
               else _fitting(one)[:1] or ["none"]), _verdict(one)) for one in found]
    _table(columns, rows, sum(max(map(len, column)) + 2 for column in zip(columns, *rows, strict=True)))
    line("cycles and us: a step of all channels in steady state; at rest: from a frame to its answer; live: voices of "
         "that period that the steps serve; held: voices whose states the machine keeps")


def explored(found: Explored) -> None:
    """What a search found."""
    goal, device, counts = found.goal, found.device, found.found.counts
    line(f"{found.network} on the {device.title}: {goal}; clock {goal.clock / 1e6:g} MHz (assumed)")
    line(f"{counts['considered']:,} candidates: {counts['too large']:,} do not fit, {counts['too slow']:,} are too "
         f"slow, {counts['beaten']:,} cannot be better, {counts['timed']:,} ran in the cycle model"
         + (f", {counts['not reached']:,} were not reached (--most)" if counts["not reached"] else ""))
    for note in found.notes:
        line(f"note: {note}")
    if found.items:
        places(found.items)
    shares = [name for name in RESOURCES if device.resources[name] and found.found.winner.resources[name].number]
    columns = ["", "PEs x channels", "groups", "slices x width", "weights", "activations", "density", "us at rest",
               "us a step", "frames/s", *(f"of {name}" for name in shares), "loss"]
    rows = [("best" if one == found.found.winner else "", f"{one.config.pes} x {one.config.channels}",
             one.config.groups, f"{one.config.slices} x {one.config.slice_width}", one.config.weight_bits,
             one.config.activation_bits, f"{one.density:g}", f"{one.at_rest / goal.clock * 1e6:,.2f}",
             f"{one.steady / goal.clock * 1e6:,.2f}", f"{one.config.channels * goal.clock / one.steady:,.0f}",
             *(f"{one.resources[name].number / device.resources[name]:.0%}" for name in shares), f"{one.loss:.3g}")
            for one in found.found.front]
    _table(columns, rows,
           sum(max(len(str(cell)) for cell in column) + 2 for column in zip(columns, *rows, strict=True)))


def _verdict(one: Estimated) -> str:
    """Whether it fits; otherwise how many times as much it would need."""
    needs: dict[str, float] = {}
    for load in one.loads:
        for name in load.short:
            taken, there = load.memories[name]
            needs[name] = max(taken / there, needs.get(name, 0))
    if one.device is not None:
        held = one.device.resources
        needs |= {name: one.resources[name].number / held[name] if held[name] else math.inf
                  for name in one.short.get(one.device.name, ())}
    return "no: " + ", ".join(f"{name} x {times:.3g}" for name, times in needs.items()) if needs else "yes"


def _line(one: Estimated) -> tuple[str, ...]:
    """The times of a network on a machine."""
    steady, rest = one.cycles_per_step, one.cycles_at_rest
    if steady is None or rest is None:
        return f">= {one.least_cycles:,}", "", "", "", "", "", ""
    return (f"{steady:,}", f"{steady / one.clock * 1e6:,.1f}", f"{rest:,}", f"{rest / one.clock * 1e6:,.1f}",
            f"{one.voices_fast_enough:,}", f"{one.voices_held:,}", f"{one.busy:.0%}")


def real_time(shipped: Recognizer, voices: int) -> None:
    """The speed of the machine at 200 MHz."""
    config, cycles = shipped.image.config, shipped.cycles_per_step()
    seconds = cycles / CLOCK
    line(f"{config.pes} PEs x {config.channels} channels: {cycles:,} cycles for 10 ms of {config.channels} voices, "
         f"{1e6 * seconds:.1f} us at 200 MHz: real-time factor {100 * seconds:.4f}"
         f"{f', {-(-voices // config.channels)} turns' if voices > config.channels else ''}")


def error(outputs: FloatArray, exact: FloatArray) -> None:
    """The difference of outputs from those of the network in floating point."""
    difference = outputs - exact
    line(f"against floating point: RMS error {np.sqrt(np.mean(difference**2)):.3g}, at most "
         f"{np.abs(difference).max(initial=0):.3g}, of RMS {np.sqrt(np.mean(exact**2)):.3g}")


def bench(result: Mapping[str, Any]) -> None:
    """What `openese.sw.bench.run` measured, beside the paper."""
    machine, rtl, layer = result["machine"], result["rtl"], result["layer"]
    line(f"{machine['preset']}: {machine['pes']} PEs x {machine['channels']} channels, LSTMP 153/1024/512 at density "
         f"{layer['density']:g}, {layer['entries_per_pe']:,} entries per PE, {layer['padding']:.1%} of them padding")
    rows = [
        ("cycles a step", f"{rtl['cycles_per_step']:,.1f}", "16,540"),
        ("microseconds at 200 MHz", f"{rtl['microseconds_at_200_mhz']:.1f}", "82.7"),
        ("multipliers busy on non-zeros", f"{rtl['busy']:.1%}", "68.9 % with padding"),
        ("cycles of the cycle model", f"{result['model_cycles']:,}", ""),
        ("a frame at rest, cycles", f"{rtl['rest_cycles']:,}", ""),
        ("one voice at rest, cycles", f"{rtl['one_voice_cycles']:,}", ""),
        ("words equal to the reference", f"{rtl['words']:,} of {rtl['words']:,}" if rtl["bit_exact"] else "NO", ""),
        ("image against float32", f"{layer['float32_bytes'] / layer['image_bytes']:.1f} x smaller", "20 x"),
    ]
    if "trace" in result:
        rows.append(("cycles a step, counted in a waveform", f"{result['trace']['cycles_per_step']:,.1f}", ""))
        rows.append(("busy, counted in a waveform", f"{result['trace']['busy']:.1%}", ""))
    rows += [(f"{name}, cycles", f"{row['cycles']:,}", f"{row['paper_cycles']:,}" if "paper_cycles" in row else "")
             for name, row in result["matrices"].items()]
    rows += [(f"{name}, PE cycles a step", f"{value:,.1f}", "") for name, value in rtl["counters"].items()]
    _table(["measured ", "here", "the paper"], rows)
    if "memories" in result:
        _table(["latency", "jitter", "share", "cycles a step", "a line", "cycle model"],
               [(*row["memory"].values(), f"{row['cycles_per_step']:,.1f}", f"{row['cycles_per_line']:.3f}",
                 f"{row['model_cycles']:,}") for row in result["memories"]])
    for title in ("density_sweep", "queue_sweep", "pe_sweep"):
        if title in result:
            _table(list(result[title][0]), ([f"{value:.3g}" if isinstance(value, float) else str(value)
                                             for value in row.values()] for row in result[title]))
    _host(result)


def gru(result: Mapping[str, Any]) -> None:
    """What `openese.sw.bench.gru` measured."""
    machine, rtl, layer = result["machine"], result["rtl"], result["layer"]
    deeper = "".join(f", {name} {depth:,}" for name, depth in machine["deeper"].items())
    line(f"{machine['preset']} with cells {machine['cells']}{deeper}: {machine['pes']} PEs x {machine['channels']} "
         f"channels, GRU {layer['inputs']}/{layer['cells']} at density {layer['density']:g}, "
         f"{layer['entries_per_pe']:,} entries per PE, {layer['padding']:.1%} of them padding")
    _table(["measured ", ""], [
        ("cycles a step", f"{rtl['cycles_per_step']:,.1f}"),
        ("microseconds at 200 MHz", f"{rtl['microseconds_at_200_mhz']:.1f}"),
        ("multipliers busy on non-zeros", f"{rtl['busy']:.1%}"),
        ("cycles of the cycle model", f"{result['model_cycles']:,}"),
        ("a frame at rest, cycles", f"{rtl['rest_cycles']:,}"),
        ("one voice at rest, cycles", f"{rtl['one_voice_cycles']:,}"),
        ("words equal to the reference", f"{rtl['words']:,} of {rtl['words']:,}" if rtl["bit_exact"] else "NO"),
        *((f"{name}, cycles", f"{row['cycles']:,}") for name, row in result["matrices"].items()),
        *((f"{name}, PE cycles a step", f"{value:,.1f}") for name, value in rtl["counters"].items())])


def latency(result: Mapping[str, Any]) -> None:
    """What `openese.sw.bench.latencies` found, beside the figures of others."""
    machine = result["machine"]
    line(f"{machine['preset']}: {machine['pes']} PEs x {machine['channels']} channels, {machine['multipliers']:,} "
         f"multipliers; weights of {machine['weights']} bits, activations of {machine['activations']}; density "
         f"{result['density']:g}, random weights")
    if machine["deeper"]:
        deeper = ", ".join(f"{name} {depth:,}" for name, depth in machine["deeper"].items())
        line(f"with memories that hold all networks: {deeper}")
    line("cycles from the first beat of a frame to the last beat of its answer, without a host; us at assumed clocks")
    _table(["network ", "weights", "at rest", "us, 200 MHz", "us, 300 MHz", "starts voices", "steady", "Verilog"],
           [(shape["name"], f"{shape['weights']:,}", f"{shape['rest']:,}",
             *(f"{time:.2f}" for time in shape["microseconds"].values()), f"{shape['starts']:,}",
             f"{shape['steady']:,}", "" if shape["measured"] is None else f"{shape['measured']:,}")
            for shape in result["shapes"]])
    _table(["as published ", "network ", "us", "multipliers", "bits ", "density ", "the time includes ", "source "],
           [(peer["name"], peer["shape"], f"{peer['microseconds']:.1f}", f"{peer['multipliers']:,}", peer["bits"],
             peer["density"], peer["included"], peer["source"]) for peer in result["peers"]])


def callers(result: Sequence[Mapping[str, Any]]) -> None:
    """What `openese.sw.bench.callers` found."""
    line("the paper's layer at a density of 0.1; each voice has a frame every 10 ms; 200 MHz is an assumed clock")
    _table(["machine ", "channels", "banks", "cycles a step", "voices it is fast enough for", "voices it holds",
            "of its time", "out, cycles", "in, cycles", "pages a second", "Verilog"],
           [(row["preset"], str(row["channels"]), str(row["banks"]), f"{row['cycles_per_step']:,}",
             f"{row['fast_enough']:,}", f"{row['held']:,}", f"{row['share']:.1%}", f"{row['page_out']:,}",
             f"{row['page_in']:,}", f"{row['pages_per_second']:,}", _paged(row["measured"])) for row in result])


def _paged(measured: Mapping[str, Any] | None) -> str:
    return "" if measured is None else f"{measured['page_out']:,}, {measured['page_in']:,}"


def _host(result: Mapping[str, Any]) -> None:
    """This computer's part of `openese.sw.bench.run`."""
    machine, rtl, software, cpu = result["machine"], result["rtl"], result["software"], result["cpu"]

    def known(value: float | None, form: str) -> str:
        return "not installed" if value is None else form.format(value)

    line(f"on {machine['processor']}:")
    rows = [
        ("a dense step, numpy", f"{cpu['dense_step_seconds'] * 1e3:.2f} ms",
         f"{cpu['dense_times_the_machine']:.0f} x the machine at 200 MHz"),
        ("a sparse step, scipy", f"{cpu['sparse_step_seconds'] * 1e3:.2f} ms",
         f"{cpu['sparse_times_the_machine']:.0f} x"),
        ("a dense step, torch, no peepholes",
         known(cpu["torch_step_seconds"] and cpu["torch_step_seconds"] * 1e3, "{:.2f} ms"),
         known(cpu["torch_times_the_machine"], "{:.0f} x")),
        ("prune, quantize, pack", f"{software['total_seconds']:.2f} s",
         " + ".join(f"{software[f'{stage}_seconds']:.2f}" for stage in ("prune", "quantize", "pack"))),
        ("place and encode, over CSC of scipy", f"{software['pack_to_csc']:.1f} x", ""),
        ("reference, frames a second", f"{software['reference_frames_per_second']:,.0f}",
         known(software["reference_to_torch"], "{:.1f} x the time of torch")),
        ("Verilog, lines", f"{rtl['verilog_lines']:,}", f"in {rtl['emission_seconds']:.1f} s"),
        ("simulation, cycles a second", f"{rtl['cycles_per_second']:,.0f}",
         f"after {rtl['build_seconds']:.0f} s of building"),
    ]
    if "cocotb" in result:
        rows.append(("harness over cocotb", f"{result['cocotb']['ratio']:.0f} x",
                     f"{result['cocotb']['pes']} x {result['cocotb']['channels']}"))
    if software["large"]:
        large = software["large"]
        rows.append((f"{large['weights']:,} weights", f"{large['total_seconds']:.0f} s",
                     f"{large['memory_ratio']:.1f} x their float32 size in memory"))
    _table(["software ", "", "which is "], rows)
