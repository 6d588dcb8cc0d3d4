# SPDX-License-Identifier: Apache-2.0
"""Commands about the hardware: build its files, estimate its resources, run the board, measure the machine."""

import json
import threading
from contextlib import suppress
from pathlib import Path

import click
from rich.console import Console

from openese.output import write_text
from openese.rtl.config import PRESETS, Config
from openese.rtl.targets import TARGETS
from openese.rtl.targets import build as build_target
from openese.sw import bench
from openese.sw.cli import show
from openese.sw.cli.options import NEW_FILE, PATH, file_output_option, keep_inputs, machine_options
from openese.sw.run.header import write_header

__all__ = ["bench_", "board", "build", "header", "synth"]


@click.command(short_help="Write the Verilog of a machine, for a tool or a board.",
               epilog="\b\nTargets:\n" + "\n".join(f"  {name:8} {target.summary}" for name, target in TARGETS.items()))
@machine_options(None)
@click.option("-o", "--output", type=PATH, required=True, metavar="FOLDER",
              help="Folder to write to; it is made if it is not there.")
@click.option("--target", type=click.Choice(list(TARGETS)), default="verilog", show_default=True,
              help="A tool or a board; see below.")
def build(config: Config, output: Path, target: str) -> None:
    """Write the Verilog of a machine, and the files that a tool or a board needs beside it.

    \b
    Examples:
      openese build --preset ese -o build
      openese build --preset ese --set channels=4 --target ip -o build
      openese build --for net.img --target ulx3s -o build
    """
    with Console(stderr=True).status(f"writing {target}"):
        build_target(config, output, target)
    click.echo(f"{output}: {config.pes} PEs x {config.channels} channels, target {target}", err=True)


@click.command()
@click.argument("image", type=PATH)
@file_output_option
def header(image: Path, output: Path) -> None:
    """Write a C header that describes IMAGE, for a program with the host library.

    It has sizes, formats and places of states. Names in it begin with the name of the file. A program needs the header
    and the image; `openese build --target c --for IMAGE` writes the library.

    \b
    Examples:
      openese header net.img -o net.h
      openese build --for net.img --target c -o .
    """
    keep_inputs(output, image)
    write_header(image, output)


@click.command(short_help="Estimate the FPGA resources of a machine with Yosys.")
@machine_options("")
@click.option("--family", metavar="NAME",
              help="Estimate for one family of FPGAs alone: xcu, xcup, xcu_dsp, xc7 or ecp5.")
@click.option("--update", is_flag=True, help="Make the figures the baselines of their presets.")
def synth(config: Config | None, family: str | None, update: bool) -> None:
    """Estimate the FPGA resources of a machine with Yosys, block by block.

    Without a machine, all presets that have a baseline are estimated. Figures of a preset are compared with its
    baseline.

    \b
    Examples:
      openese synth --preset tiny --family xcu
      openese synth --for net.img --family ecp5
    """
    from openese.sim.synthesis.baselines import Baselines
    from openese.sim.synthesis.estimate import report
    from openese.sim.synthesis.families import FAMILIES
    if family is not None and family not in FAMILIES:
        raise click.UsageError(f"--family: no family {family!r}; there are {', '.join(FAMILIES)}")
    if update and config is not None and config != PRESETS.get(config.name):
        raise click.UsageError("--update: only presets have baselines")
    if update and not Baselines.PATH.exists():
        raise click.UsageError("--update needs a checkout of the project: an installed package has no baselines")
    if not report([config] if config else (), [family] if family else (), update=update):
        raise click.ClickException("figures differ from their baselines by more than their tolerance")


@click.command()
@machine_options("ulx3s")
def board(config: Config) -> None:
    """Run the ULX3S board in Verilator.

    The board's serial port is a pseudo-terminal of this computer, whose name is printed. Ctrl-C ends the board.

    \b
    Example:
      openese board
      openese run net.img speech.npy -o out.npy --backend serial --port /dev/pts/3
    """
    from openese.sim.board import BoardSimulator
    with Console(stderr=True).status("building the simulator"):
        running = BoardSimulator(config)
    with running, suppress(KeyboardInterrupt):
        print(running.port, flush=True)
        threading.Event().wait()


@click.command("bench", short_help="Measure the paper's layer on a machine's Verilog.")
@machine_options("ese")
@click.option("--json", "path", type=NEW_FILE, metavar="FILE", help="Also write all figures as JSON.")
@click.option("--sweeps/--no-sweeps", default=True,
              help="Also over densities, queue depths and PEs (cycle model).")
@click.option("--thorough", is_flag=True,
              help="Also figures that take minutes more: a waveform, cocotb, a model of 100 million weights.")
@click.option("--latency", is_flag=True,
              help="Instead: one voice at rest, for published shapes, beside published figures (cycle model; with "
                   "--thorough also on the Verilog).")
@click.option("--voices", is_flag=True,
              help="Instead: live callers that machines with several channels serve, hold, and page (cycle model; with "
                   "--thorough a page also on the Verilog).")
@click.option("--cell", type=click.Choice(["lstm", "gru", "gru_before"]), default="lstm", show_default=True,
              help="gru: instead, a GRU of 153 inputs and 1,024 cells, on the machine with GRU cells. gru_before: with "
                   "the reset before the product.")
def bench_(config: Config, path: Path | None, sweeps: bool, thorough: bool, latency: bool, voices: bool,
           cell: str) -> None:
    """Measure the paper's layer on the emitted Verilog, beside the paper.

    \b
    Examples:
      openese bench --preset ese --json bench.json
      openese bench --preset latency --latency
      openese bench --voices
      openese bench --preset ese --cell gru
    """
    named = [name for name, given in (("--latency", latency), ("--voices", voices), (f"--cell {cell}", cell != "lstm"))
             if given]
    if len(named) > 1:
        raise click.UsageError(f"{' and '.join(named)} are {len(named)} benches; name one")
    if cell != "lstm":
        _gru(config, path, cell == "gru")
        return
    if latency:
        _latency(config, path, thorough)
        return
    if voices:
        _voices(path, thorough)
        return
    with Console(stderr=True).status("building") as status:
        result = bench.run(config, sweep=sweeps, trace=thorough, cocotb=thorough, large=thorough,
                           tell=status.update)
    if path is not None:
        write_text(path, json.dumps(result, indent=2) + "\n")
    show.bench(result)
    if not result["rtl"]["bit_exact"]:
        raise click.ClickException("the machine's words differ from the reference's")


def _gru(config: Config, path: Path | None, reset_after: bool) -> None:
    """``openese bench --cell gru`` or ``gru_before``."""
    with Console(stderr=True).status("building") as status:
        result = bench.gru(config, reset_after=reset_after, tell=status.update)
    if path is not None:
        write_text(path, json.dumps(result, indent=2) + "\n")
    show.gru(result)
    if not result["rtl"]["bit_exact"]:
        raise click.ClickException("the machine's words differ from the reference's")


def _voices(path: Path | None, measure: bool) -> None:
    """``openese bench --voices``, of all presets that hold the paper's layer and more than one voice."""
    with Console(stderr=True).status("placing the layer") as status:
        result = bench.callers(measure=measure, tell=status.update)
    if path is not None:
        write_text(path, json.dumps(result, indent=2) + "\n")
    show.callers(result)
    if any(row["measured"] and not row["measured"]["exact"] for row in result):
        raise click.ClickException("the machine's words differ from the reference's")


def _latency(config: Config, path: Path | None, measure: bool) -> None:
    """``openese bench --latency``."""
    with Console(stderr=True).status("building") as status:
        result = bench.latencies(config, measure=measure, tell=status.update)
    if path is not None:
        write_text(path, json.dumps(result, indent=2) + "\n")
    show.latency(result)
    if any(shape["exact"] is False for shape in result["shapes"]):
        raise click.ClickException("the machine's words differ from the reference's")
