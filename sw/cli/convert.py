# SPDX-License-Identifier: Apache-2.0
"""Commands from a trained network to an image: import, prune, quantize, pack, and compile, which does them all."""

from collections.abc import Sequence
from pathlib import Path

import click

from openese.rtl.config import Config
from openese.sw import files, importers
from openese.sw import prune as pruning
from openese.sw.cli import show, whole
from openese.sw.cli.machines import status
from openese.sw.cli.memory import return_freed_memory
from openese.sw.cli.options import (
    NEW_FILE,
    PATH,
    calibrate_option,
    carry_option,
    dense_option,
    density_help,
    file_output_option,
    ignore_option,
    keep_inputs,
    machine_options,
    output_option,
    parse_density,
    select_option,
    trust_option,
)
from openese.sw.compile import CompiledNetwork, QuantizedNetwork, pack_together, placed, random_frames
from openese.sw.compile import compile as compile_network
from openese.sw.compile import pack as pack_network
from openese.sw.compile import prune as prune_network
from openese.sw.compile import quantize as quantize_network
from openese.sw.model.network import Network
from openese.sw.model.sequences import Sequences
from openese.sw.pack.image import write_memory_files
from openese.sw.whole import arrays, torch_export
from openese.sw.whole.network import first_calls, open_host

__all__ = ["compile_", "import_", "pack", "prune", "quantize"]


@click.command("import")
@click.argument("file", type=PATH)
@click.option("--output", "-o", type=NEW_FILE, metavar="PATH", help="The .npz file to write.")
@select_option
@ignore_option
@click.option("--list", "only_list", is_flag=True,
              help="List everything in the file with its place, and what can be selected, and write nothing.")
@click.option("--calibrate", type=PATH, metavar="INPUTS",
              help="With --list --trust: inputs of one call, with which PyTorch exports a program.")
@trust_option
def import_(file: Path, output: Path | None, select: str | None, ignore: Sequence[str], only_list: bool,
            calibrate: Path | None, trust: bool) -> None:
    """Read trained LSTMs and GRUs alone from FILE, or list what is in it.

    FILE is of PyTorch, ONNX, Keras, safetensors or NumPy, or a quantized network or an image, whose integers become
    the weights. `openese compile` takes a whole network.

    \b
    Examples:
      openese import net.onnx --list
      openese import net.onnx --select encoder/LSTM,encoder/LSTM_1 -o net.npz
      openese import checkpoint.pt --select model.lstm,model.linear -o net.npz
    """
    if calibrate is not None and not (only_list and trust):
        raise click.UsageError("--calibrate goes with --list --trust; compile takes it too")
    if only_list:
        if output is not None or select is not None or ignore:
            raise click.UsageError("--list shows everything and writes nothing: leave out --output, --select and "
                                   "--ignore")
        _list(file, trust, calibrate)
        return
    if output is None:
        raise click.UsageError("import needs --output PATH, or --list")
    keep_inputs(output, file)
    kind = files.kind(file)
    if kind in ("images", "quantized"):
        if select is not None or ignore:
            raise click.UsageError("--select and --ignore take parts of a file to import; this is one of ours")
        network = (CompiledNetwork if kind == "images" else QuantizedNetwork).load(file).network
    else:
        network = importers.load(file, select, ignore=ignore)
    network.save(output)
    show.network(network)


def _list(file: Path, trust: bool, calibrate: Path | None) -> None:
    program = None if trust else torch_export.program(file)
    host = None if program is not None else open_host(
        file, trust, lambda: () if calibrate is None else [arrays.read(calibrate)])
    if host is not None:
        show.ports(host.inputs, host.outputs)
        show.items(host.items)
        return
    entries = importers.entries(file)
    if program is not None:
        click.echo(f"openese: {file.name} is a {program}: these are its tensors, read without running it", err=True)
    show.entries(entries)


@click.command()
@click.argument("network", type=PATH)
@click.option("--density", multiple=True, required=True, metavar="D", help=density_help)
@file_output_option
@machine_options("demo")
@dense_option
@click.option("--global", "unbalanced", is_flag=True,
              help="Keep the largest weights of a matrix wherever they lie, to compare.")
@click.option("--equal", is_flag=True,
              help="Keep the same number of weights on every PE, not the same share. It is faster if the sizes of the "
                   "network are not multiples of the PEs, but some rows stay denser than others.")
def prune(network: Path, density: Sequence[str], output: Path, config: Config, dense: str, unbalanced: bool,
          equal: bool) -> None:
    """Set the smallest weights of NETWORK to zero.

    Every PE of the machine keeps the same share of its weights of every matrix.

    \b
    Examples:
      openese prune net.npz --density 0.1 --preset ese -o sparse.npz
      openese prune net.npz --density w_x=0.2 --density w_r=0.1 -o sparse.npz
    """
    if unbalanced and equal:
        raise click.UsageError("--global and --equal exclude each other: leave one out")
    keep_inputs(output, network)
    given = placed(files.load_network(network), config, dense)
    sparse = prune_network(given, parse_density(density, given), config, not unbalanced, equal, dense)
    sparse.save(output)
    rows = _counts(sparse, config)
    show.counts(rows)
    _warn(rows, density)


def _counts(network: Network, config: Config) -> list[pruning.MatrixCounts]:
    return [row for direction in network.directions
            for row in pruning.report(direction.model, config.pes, config.groups)]


def _warn(rows: Sequence[pruning.MatrixCounts], density: Sequence[str]) -> None:
    """Name the matrices that lost all weights, unless a density of zero was asked for."""
    if all(float(value.rpartition("=")[2]) > 0 for value in density):
        show.empty(rows)


@click.command()
@click.argument("network", type=PATH)
@output_option
@machine_options("demo")
@calibrate_option
@click.option("--tables", type=PATH, metavar="QUANTIZED",
              help="Take the tables of this quantized network, so that one image can hold both.")
@dense_option
def quantize(network: Path, output: Path, config: Config, calibrate: Path | None, tables: Path | None,
             dense: str) -> None:
    """Turn NETWORK into integers.

    Number formats are chosen on real frames, such as the machine will meet.

    \b
    Example:
      openese quantize sparse.npz --preset demo --calibrate speech.npy -o quantized.npz
    """
    keep_inputs(output, network, calibrate, tables)
    given = files.load_network(network)
    files.check_place(output, given, ".npz")
    sequences = _calibration(given, calibrate)
    other = QuantizedNetwork.load(tables) if tables is not None else None
    with status() as tell:
        tell("choosing number formats")
        quantized = quantize_network(given, sequences.frames, config, sequences.lengths, tables=other, dense=dense)
    quantized.save(output)
    show.guess("FRAMES", calibrate)
    for model in quantized.models:
        show.quantized(model)


@click.command()
@click.argument("quantized", type=PATH, nargs=-1, required=True)
@output_option
@click.option("--hex", "folder", type=PATH, metavar="FOLDER",
              help="Also write memory files for $readmemh and Vivado.")
def pack(quantized: Sequence[Path], output: Path, folder: Path | None) -> None:
    """Pack QUANTIZED into a memory image.

    Several networks share one machine: each frame names the network that it is for. Unless the machine holds so many
    models already, the image is for one that does; build it by `openese build --for IMAGE`.

    \b
    Examples:
      openese pack quantized.npz -o net.img
      openese pack first.npz second.npz -o both.img
    """
    keep_inputs(output, *quantized)
    networks = [QuantizedNetwork.load(path) for path in quantized]
    files.check_place(output, networks[0].given, ".img")
    compiled = pack_together(networks)[0] if len(networks) > 1 else pack_network(networks[0])
    compiled.save(output)
    for image in compiled.images:
        show.image(image)
    if folder is not None:
        for number, image in enumerate(compiled.images):
            write_memory_files(image, folder if len(compiled.images) == 1 else folder / str(number))


@click.command("compile")
@click.argument("file", type=PATH)
@output_option
@select_option
@ignore_option
@click.option("--density", multiple=True, metavar="D", help=density_help + " Without it nothing is pruned.")
@machine_options("demo")
@click.option("--calibrate", type=PATH, multiple=True, metavar="INPUTS",
              help="Real input, on which number formats are chosen: all inputs of a whole network by name (.npz), or "
                   "one array (.npy); frames for LSTMs alone. May be repeated for a whole network, for several calls.")
@dense_option
@carry_option
@trust_option
def compile_(file: Path, output: Path, select: str | None, ignore: Sequence[str], density: Sequence[str],
             config: Config, calibrate: Sequence[Path], dense: str, carry: Sequence[str], trust: bool) -> None:
    """Prune, quantize and pack the network in FILE.

    A file with a graph (ONNX, Keras) becomes a whole network: the machine computes the LSTMs and GRUs, the
    network's own runtime computes the rest. Other files hold LSTMs and GRUs alone.

    \b
    Examples:
      openese compile net.onnx --preset demo --density 0.1 --calibrate inputs.npz -o net
      openese compile vad.onnx --preset demo --calibrate calls.npz --carry stateN=state -o vad
      openese compile checkpoint.pt --select lstm --preset demo --calibrate frames.npy -o net.img
    """
    keep_inputs(output, file, *calibrate)
    return_freed_memory()
    host = None
    if select is None:
        host = open_host(file, trust, lambda: [call for path in calibrate[:1]
                                               for call in first_calls(arrays.read(path), whole.parse_carry(carry))],
                         config, dense)
    if host is not None:
        if ignore:
            raise click.UsageError("--ignore goes with a file without a graph; a whole network leaves nothing out")
        whole.compile_file(host, output, config, density, calibrate, carry)
        return
    if carry:
        raise click.UsageError("--carry goes with a whole network; LSTMs alone have no outputs to carry")
    if len(calibrate) > 1:
        raise click.UsageError("--calibrate is given twice; several files go with a whole network")
    network = placed(importers.load(file, select, ignore=ignore), config, dense)
    files.check_place(output, network, ".img")
    show.notes(network)
    sequences = _calibration(network, calibrate[0] if calibrate else None)
    with status() as tell:
        compiled = compile_network(network, config, density=parse_density(density, network) if density else None,
                                   calibrate=sequences.frames, lengths=sequences.lengths, dense=dense, tell=tell)
        tell("counting cycles")
        summary = compiled.summary
    compiled.save(output)
    show.guess("FRAMES", calibrate)
    for image in compiled.images:
        show.image(image, memories=False)
    show.head(compiled.network)
    if density:
        _warn(_counts(compiled.network, config), density)
    show.summary(summary)


def _calibration(network: Network, path: Path | None) -> Sequences:
    if path is not None:
        sequences = Sequences.load(path, network.inputs, network.batch_first)
        if not sequences.frames.any():
            raise click.UsageError(f"--calibrate {path}: every number is zero; number formats need real input")
        return sequences
    return Sequences(random_frames(network))
