# SPDX-License-Identifier: Apache-2.0
"""The command line: one command for each step of the way from a trained model to the machine.

Errors are one line on stderr and exit status 2; ``--debug`` shows where they came from.
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from openese.rtl.config import PRESETS, Config
from openese.sw import bench, files, importers
from openese.sw.cli import show
from openese.sw.model.arrays import FloatArray
from openese.sw.model.network import Network, check_sequences
from openese.sw.model.quantized import QuantizedModel
from openese.sw.model.sequences import Sequences
from openese.sw.pack.image import Image, write_memory_files
from openese.sw.prune import TENSORS, Density
from openese.sw.prune import report as prune_report
from openese.sw.reference.machine import Reference
from openese.sw.run.device import Device
from openese.sw.run.runners import FloatRunner, Machine, MachineRunner
from openese.sw.run.serial_link import BAUD, SerialLink

if TYPE_CHECKING:
    from openese.sw.speech.recognizer import Recognizer, Transcript

__all__ = ["main", "openese"]

PATH = click.Path(path_type=Path)

output_option = click.option("--output", "-o", type=PATH, required=True, metavar="PATH",
                             help="What to write.")
select_option = click.option("--select", metavar="NAMES",
                             help="What to take, by the names of `import --list`; several, with commas, are "
                                  "stacked.")
preset_option = click.option("--preset", type=click.Choice(sorted(PRESETS)), default="demo",
                             show_default=True, help="The machine.")
set_option = click.option("--set", "settings", multiple=True, metavar="FIELD=N",
                          help="Another value for a field of the machine's configuration, as weight_bits=8.")
calibrate_option = click.option("--calibrate", type=PATH, metavar="FRAMES",
                                help="Real frames, on which number formats are chosen.")
density_help = ("Share of the weights that stay: 0.1, or for some matrices w_r=0.1, LAYER=0.2 or "
                "LAYER.w_ym=0.5. May be repeated.")


@click.group(context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 100})
@click.version_option(package_name="openese")
@click.option("--debug", is_flag=True, help="Show where an error came from.")
def openese(debug: bool) -> None:
    """Take a trained LSTM to the OpenESE machine, and run it there.

    \b
    The short way:
      openese compile net.onnx --preset demo --density 0.1 --calibrate speech.npy -o net.img
      openese run net.img speech.npy -o out.npy

    \b
    The same, step by step:
      openese import net.onnx -o net.npz
      openese prune net.npz --preset demo --density 0.1 -o sparse.npz
      openese quantize sparse.npz --preset demo --calibrate speech.npy -o quantized.npz
      openese pack quantized.npz -o net.img

    Frames are .npy arrays (T, I) of one voice or (T, B, I) of several, or .npz files with the arrays
    frames (T, B, I) and lengths (B,). A network with backward layers becomes a folder, with one file for
    each direction, wherever any other becomes a file.
    """


@openese.command("import")
@click.argument("file", type=PATH)
@click.option("--output", "-o", type=PATH, metavar="PATH", help="The .npz to write.")
@select_option
@click.option("--list", "only_list", is_flag=True, help="List what can be selected, and write nothing.")
def import_(file: Path, output: Path | None, select: str | None, only_list: bool) -> None:
    """Read a trained LSTM from FILE into a model.

    FILE is of PyTorch, ONNX, Keras, safetensors or NumPy; nothing in it is executed.

    \b
    Examples:
      openese import net.onnx --list
      openese import net.onnx --select encoder/LSTM,encoder/LSTM_1 -o net.npz
      openese import checkpoint.pt --select model.lstm,model.linear -o net.npz
    """
    if only_list:
        show.entries(importers.entries(file))
        return
    if output is None:
        raise click.UsageError("import needs --output PATH, or --list")
    network = importers.load(file, select)
    network.save(output)
    show.network(network)


@openese.command()
@click.argument("model", type=PATH)
@click.option("--density", multiple=True, required=True, metavar="D", help=density_help)
@output_option
@preset_option
@set_option
@click.option("--global", "unbalanced", is_flag=True,
              help="Keep the largest weights of a matrix wherever they lie, to compare.")
def prune(model: Path, density: Sequence[str], output: Path, preset: str, settings: Sequence[str],
          unbalanced: bool) -> None:
    """Set the smallest weights of MODEL to zero.

    Every PE of the machine keeps the same number of weights of every matrix.

    \b
    Examples:
      openese prune net.npz --density 0.1 --preset ese -o sparse.npz
      openese prune net.npz --density w_x=0.2 --density w_r=0.1 -o sparse.npz
    """
    config = _config(preset, settings)
    network = files.prune_network(Network.load(model), _density(density), config, not unbalanced)
    network.save(output)
    show.counts([row for direction in network.directions
                 for row in prune_report(direction.model, config.pes, config.groups)])


@openese.command()
@click.argument("model", type=PATH)
@output_option
@preset_option
@set_option
@calibrate_option
def quantize(model: Path, output: Path, preset: str, settings: Sequence[str], calibrate: Path | None) -> None:
    """Turn MODEL into integers.

    Number formats are chosen on real frames, as the machine will meet them.

    \b
    Example:
      openese quantize sparse.npz --preset demo --calibrate speech.npy -o quantized.npz
    """
    network = Network.load(model)
    models = _quantized(network, calibrate, _config(preset, settings))
    files.save(output, network, models, ".npz")
    for quantized in models:
        show.quantized(quantized)


@openese.command()
@click.argument("quantized", type=PATH)
@output_option
@click.option("--hex", "folder", type=PATH, metavar="FOLDER",
              help="Also write memory files for $readmemh and Vivado.")
def pack(quantized: Path, output: Path, folder: Path | None) -> None:
    """Pack QUANTIZED into a memory image.

    \b
    Example:
      openese pack quantized.npz -o net.img
    """
    network, models = files.load_quantized(quantized)
    images = [files.pack_model(model) for model in models]
    _save_images(output, network, images)
    if folder is not None:
        for number, image in enumerate(images):
            write_memory_files(image, folder if len(images) == 1 else folder / str(number))


@openese.command("compile")
@click.argument("file", type=PATH)
@output_option
@select_option
@click.option("--density", multiple=True, metavar="D", help=density_help + " Nothing is pruned without it.")
@preset_option
@set_option
@calibrate_option
def compile_(file: Path, output: Path, select: str | None, density: Sequence[str], preset: str,
             settings: Sequence[str], calibrate: Path | None) -> None:
    """All of it: import, prune, quantize and pack FILE.

    \b
    Example:
      openese compile net.onnx --preset demo --density 0.1 --calibrate speech.npy -o net.img
    """
    config = _config(preset, settings)
    network = importers.load(file, select)
    show.notes(network)
    if density:
        network = files.prune_network(network, _density(density), config)
    models = _quantized(network, calibrate, config)
    _save_images(output, network, [files.pack_model(model) for model in models])


@openese.command()
@click.argument("path", type=PATH)
def info(path: Path) -> None:
    """Say what PATH holds.

    That is a model, a quantized model, an image, or a file to import.

    \b
    Examples:
      openese info net.img
      openese info checkpoint.pt
    """
    kind = files.kind(path)
    if kind == "images":
        for image in files.load_images(path)[1]:
            show.image(image)
    elif kind == "quantized":
        for model in files.load_quantized(path)[1]:
            show.quantized(model)
    elif kind == "network":
        show.network(Network.load(path))
    else:
        show.entries(importers.entries(path))


@openese.command()
@click.argument("image", type=PATH)
@click.option("--quantized", type=PATH, metavar="PATH", help="The quantized model that it should hold.")
def verify(image: Path, quantized: Path | None) -> None:
    """Check that IMAGE is whole.

    Format and CRCs are checked, and that what it decodes to packs into the same bytes again.

    \b
    Example:
      openese verify net.img --quantized quantized.npz
    """
    _, images = files.load_images(image)
    wanted: Sequence[QuantizedModel | None] = [None] * len(images)
    if quantized is not None:
        wanted = files.load_quantized(quantized)[1]
    for held, packed in zip(images, wanted, strict=True):
        files.verify_image(held, packed)
        show.line(f"{held.manifest['name']}: {held.bytes:,} bytes, all CRCs match, packs into the same bytes "
                  f"again{'' if packed is None else ', holds the quantized model'}")


@openese.command()
@click.argument("image", type=PATH)
@click.argument("frames", type=PATH)
@output_option
@click.option("--backend", type=click.Choice(["reference", "sim", "serial"]), default="reference", show_default=True,
              help="The machine's twin in numpy, its Verilog in Verilator, or a board.")
@click.option("--port", "ports", multiple=True, metavar="PORT",
              help="The board's serial port, as /dev/ttyUSB0; one for each direction of the network.")
@click.option("--baud", type=int, default=BAUD, show_default=True, help="Bits a second on it.")
@click.option("--model", type=PATH, metavar="MODEL",
              help="The model in floating point: apply its head, and tell the error against it.")
@click.option("--check", is_flag=True, help="Also run the reference, and fail unless every output word is "
                                            "the same.")
@click.option("--trace", type=PATH, metavar="FILE",
              help="Write a waveform (VCD) of some steps of the Verilog, and a view of it for GTKWave beside it.")
@click.option("--trace-steps", default="0:2", show_default=True, metavar="FIRST:STOP", help="Which steps.")
def run(image: Path, frames: Path, output: Path, backend: str, ports: Sequence[str], baud: int, model: Path | None,
        check: bool, trace: Path | None, trace_steps: str) -> None:
    """Run FRAMES through IMAGE.

    The outputs are a .npy array, (T, P) or (T, B, P) as the frames.

    \b
    Examples:
      openese run net.img speech.npy -o out.npy
      openese run net.img speech.npy -o out.npy --backend sim --check --model sparse.npz
      openese run net.img speech.npy -o out.npy --backend serial --port /dev/ttyUSB0
      openese run net.img speech.npy -o out.npy --backend sim --trace wave.vcd --trace-steps 10:12
    """
    window = _trace_window(backend, trace, trace_steps)
    packed, images = files.load_images(image)
    exact = Network.load(model) if model is not None else None
    network = exact or packed
    sequences = Sequences.load(frames)
    with ExitStack() as stack:
        if backend == "serial":
            if len(ports) != len(images):
                raise click.UsageError(f"--backend serial needs {len(images)} --port, not {len(ports)}")
            machines: list[Machine] = [Device(stack.enter_context(SerialLink(port, held.config, baud=baud)), held)
                                       for port, held in zip(ports, images, strict=True)]
        else:
            machines = [_machine(held, backend, stack, *window) for held in images]
        y = _run(network, machines, sequences, backend)
    if check:
        twins: list[Machine] = [Reference(held.model(), held.config.channels) for held in images]
        _check(y, _run(network, twins, sequences, "reference"))
    sequences.save(output, y)
    if exact is not None:
        runners = [FloatRunner(direction.model) for direction in exact.directions]
        show.error(y, exact.run(sequences.frames, runners, sequences.lengths)[0])


@openese.command()
@click.argument("files", type=PATH, nargs=-1, required=True, metavar="FILE...")
@click.option("--output", "-o", type=PATH, metavar="PATH",
              help="Draw what was heard and recognized: a PNG, or a folder for several files.")
@click.option("--backend", type=click.Choice(["reference", "sim"]), default="reference", show_default=True,
              help="The machine's twin in numpy, or its Verilog in Verilator, and then both are compared.")
@click.option("--preset", type=click.Choice(sorted(PRESETS)), default="ese", show_default=True, help="The machine.")
@set_option
@click.option("--beside", type=PATH, metavar="MODEL",
              help="The model of the same phones in floating point whose transcript is shown too.  "
                   "[default: the network before it was pruned]")
def transcribe(files: Sequence[Path], output: Path | None, backend: str, preset: str, settings: Sequence[str],
               beside: Path | None) -> None:
    """Recognize the phones in recordings.

    The network has the size of the ESE paper's, 10 % of its weights, and is part of this program. Recordings, up to as
    many as the machine has voices, run side by side.

    \b
    Examples:
      openese transcribe speech.wav -o speech.png
      openese transcribe speech.wav --backend sim --set channels=1
    """
    from openese.sw.speech import audio, recognizer
    shipped = recognizer.Recognizer.load().on(_config(preset, settings))
    recordings = [audio.read(path) for path in files]
    with ExitStack() as stack:
        machine = _machine(shipped.image, backend, stack, voices=len(files))
        found = _recognized(shipped, recordings, machine, backend)
    if backend == "sim":
        twin = _recognized(shipped, recordings, _reference(shipped.image, len(files)), "reference")
        _check(np.concatenate([one.logits for one in found]), np.concatenate([one.logits for one in twin]))
    rows = {"machine": found, "the same weights in float": shipped.run_float(recordings)}
    if beside is None:
        rows["dense, in float"] = shipped.run_float(recordings, shipped.dense(), shipped.dense_penalty)
    else:
        rows[beside.stem] = shipped.run_float(recordings, Network.load(beside).model)
    for number, path in enumerate(files):
        show.transcripts(path.name, {name: transcripts[number] for name, transcripts in rows.items()})
    show.real_time(shipped, len(files))
    if output is not None:
        _draw(output, files, recordings, found)


def _recognized(shipped: "Recognizer", recordings: Sequence[FloatArray], machine: Machine,
                title: str) -> "list[Transcript]":
    """Transcripts, with a progress bar."""
    with _progress(title, shipped.machine_steps(recordings, machine.channels)) as advance:
        return shipped.run(recordings, machine, advance)


def _draw(output: Path, files: Sequence[Path], recordings: Sequence[FloatArray],
          found: "Sequence[Transcript]") -> None:
    """One PNG, or a folder of them."""
    from openese.sw.speech import picture
    if len(files) > 1:
        output.mkdir(parents=True, exist_ok=True)
    for number, (path, recording, transcript) in enumerate(zip(files, recordings, found, strict=True)):
        target = output if len(files) == 1 else output / f"{number:02d}-{path.stem}.png"
        picture.draw(path.name, recording, transcript, target)


@openese.command("bench")
@click.option("--preset", type=click.Choice(sorted(PRESETS)), default="ese", show_default=True, help="The machine.")
@click.option("--json", "path", type=PATH, metavar="FILE", help="Also write everything as JSON.")
@click.option("--sweeps/--no-sweeps", default=True,
              help="Also over densities, queue depths and PEs (cycle model).")
@click.option("--thorough", is_flag=True,
              help="Also what takes minutes more: a waveform, cocotb, a model of 100 million weights.")
def bench_(preset: str, path: Path | None, sweeps: bool, thorough: bool) -> None:
    """Measure the paper's layer on the emitted Verilog, beside the paper.

    \b
    Example:
      openese bench --preset ese --json bench.json
    """
    with Console(stderr=True).status("building") as status:
        result = bench.run(PRESETS[preset], sweep=sweeps, trace=thorough, cocotb=thorough, large=thorough,
                           tell=status.update)
    if path is not None:
        path.write_text(json.dumps(result, indent=2) + "\n")
    show.bench(result)
    if not result["rtl"]["bit_exact"]:
        raise click.ClickException("the machine's words differ from the reference's")


def _config(preset: str, settings: Sequence[str]) -> Config:
    """The preset with some of its fields replaced."""
    changes = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        if name not in Config.__dataclass_fields__ or name == "name" or not value.isdecimal():
            raise click.BadParameter(f"--set {setting!r}: expected FIELD=N, with one of the fields "
                                     f"{', '.join(sorted(Config.__dataclass_fields__.keys() - {'name'}))}")
        changes[name] = int(value)
    return PRESETS[preset].replace(**changes) if changes else PRESETS[preset]


def _density(values: Sequence[str]) -> Density:
    """What `prune` takes: one number, or numbers by matrix, or by layer."""
    parsed: dict[str, float] = {}
    for value in values:
        name, _, number = value.rpartition("=")
        try:
            parsed[name] = float(number)
        except ValueError:
            raise click.BadParameter(f"--density {value!r}: expected a number, or NAME=number") from None
    if "" in parsed:
        if len(parsed) > 1:
            raise click.BadParameter("--density: one number for all, or only numbers with names")
        return parsed[""]
    if parsed.keys() <= set(TENSORS):
        return parsed
    layers: dict[str, dict[str, float]] = {}
    for name, share in parsed.items():
        layer, _, tensor = name.rpartition(".")
        if layer and tensor in TENSORS:
            layers.setdefault(layer, {})[tensor] = share
        else:
            layers[name] = dict.fromkeys(TENSORS, share)
    return layers


def _quantized(network: Network, calibrate: Path | None, config: Config) -> list[QuantizedModel]:
    if calibrate is None:
        click.echo("openese: no --calibrate FRAMES: formats are chosen on random numbers, a guess", err=True)
        sequences = Sequences(files.random_frames(network))
    else:
        sequences = Sequences.load(calibrate)
    with Console(stderr=True).status("choosing number formats"):
        return files.quantize_network(network, sequences.frames, config, sequences.lengths)


def _save_images(path: Path, network: Network | None, images: Sequence[Image]) -> None:
    files.save(path, network, images, ".img")
    for image in images:
        show.image(image)


def _trace_window(backend: str, trace: Path | None, steps: str) -> tuple[Path | None, range]:
    """What to trace, and where to."""
    first, _, stop = steps.partition(":")
    if not (first.isdecimal() and stop.isdecimal() and int(first) < int(stop)):
        raise click.BadParameter(f"--trace-steps {steps!r}: expected FIRST:STOP, two numbers, the second larger")
    if trace is not None and backend != "sim":
        raise click.UsageError("--trace needs --backend sim: only the Verilog has a waveform")
    return trace, range(int(first), int(stop))


def _machine(image: Image, backend: str, stack: ExitStack, trace: Path | None = None,
             steps: range = range(0), voices: int | None = None) -> Machine:
    """A machine with the image in it, which writes a ``trace`` of some ``steps``; ``stack`` closes it.

    The twin in numpy has no more channels than ``voices``.
    """
    if backend == "reference":
        return _reference(image, voices)
    from openese.sim.simulator import Simulator
    with Console(stderr=True).status("building the simulator"):
        simulator = stack.enter_context(Simulator(image.config, trace=trace is not None))
    device = Device(simulator, image)
    if trace is None:
        return device
    from openese.sw.run.traced import TracedDevice
    return TracedDevice(device, simulator, trace, steps)


def _reference(image: Image, voices: int | None = None) -> Reference:
    """The machine's twin, with as many of its channels as ``voices`` need."""
    return Reference(image.model(), min(image.config.channels, voices or image.config.channels))


def _run(network: Network | None, machines: Sequence[Machine], sequences: Sequences,
         title: str) -> FloatArray:
    """Outputs of all sequences, with a progress bar; without a network, of the one machine's model."""
    channels = machines[0].channels
    with _progress(title, len(machines) * sequences.machine_steps(channels)) as advance:
        runners = [MachineRunner(machine, advance) for machine in machines]
        if network is not None:
            y, _ = network.run(sequences.frames, runners, sequences.lengths)
        else:
            x, lengths = check_sequences(sequences.frames, sequences.lengths, machines[0].model.inputs)
            y, _ = runners[0].run(x, lengths, runners[0].zero_state(x.shape[1]))
    show.ran(machines, sum(runner.input_saturations for runner in runners))
    return y


@contextmanager
def _progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr, where that is a terminal; what it gives is called with steps done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True,
                  disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(title, total=total)
        yield lambda steps: progress.advance(task, steps)


def _check(found: FloatArray, wanted: FloatArray) -> None:
    different = int(np.count_nonzero(found != wanted))
    if different:
        raise files.BundleError(f"{different:,} of {found.size:,} output words differ from the reference's")
    show.line(f"all {found.size:,} output words are the reference's")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        openese.main(given, prog_name="openese", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except (click.Abort, KeyboardInterrupt):
        return _failed("interrupted", 130)
    except BrokenPipeError:
        sys.stderr.close()
        return 141
    except Exception as error:
        if "--debug" in given:
            raise
        return _failed(*_explained(error))
    return 0


def _explained(error: Exception) -> tuple[str, int]:
    """One line and an exit status: 2 for bad use or bad input, 1 for an error of the program itself."""
    if isinstance(error, click.ClickException):
        return error.format_message(), 2
    if isinstance(error, OSError) and error.strerror:
        return (f"{error.filename}: " if error.filename else "") + error.strerror, 2
    if isinstance(error, ValueError):
        return str(error), 2
    if isinstance(error, MemoryError):
        return "not enough memory", 1
    return f"{type(error).__name__}: {error} (an error of this program: --debug shows where)", 1


def _failed(reason: str, status: int) -> int:
    click.echo(f"openese: {' '.join(reason.split())}", err=True)
    return status
