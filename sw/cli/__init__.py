# SPDX-License-Identifier: Apache-2.0
"""The command line: a command for each step from a trained network to the machine, and for the machine itself.

Errors are one line on stderr and exit status 2; ``--debug`` shows where they came from.
"""

import os
import sys
from collections.abc import Sequence

try:
    import click

    from openese.extras import MissingExtra, missing
    from openese.sw.cli import convert, estimate, explore, hardware, inspect, run, transcribe
except KeyboardInterrupt:  # the imports take a second
    print("openese: interrupted", file=sys.stderr)
    sys.exit(130)

__all__ = ["main", "openese"]


class _InOrder(click.Group):
    """Lists its commands in the order in which they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_InOrder, context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 100})
@click.version_option(package_name="openese")
@click.option("--debug", is_flag=True, help="Show where an error came from.")
def openese(debug: bool) -> None:
    """Take a trained network to the OpenESE machine, and run it there.

    \b
    A whole network, whose LSTMs and GRUs the machine computes:
      openese import net.onnx --list
      openese compile net.onnx --preset demo --density 0.1 --calibrate inputs.npz -o net
      openese run net inputs.npz -o out.npz --against net.onnx

    \b
    LSTMs and GRUs alone:
      openese compile net.pt --preset demo --density 0.1 --calibrate speech.npy -o net.img
      openese run net.img speech.npy -o out.npy

    \b
    LSTMs and GRUs alone, step by step:
      openese import net.pt -o net.npz
      openese prune net.npz --preset demo --density 0.1 -o sparse.npz
      openese quantize sparse.npz --preset demo --calibrate speech.npy -o quantized.npz
      openese pack quantized.npz -o net.img

    \b
    Before any of this: which machine, how fast, how many voices, which FPGA:
      openese estimate net.onnx --all --density 0.1
      openese estimate net.onnx --preset demo --device kv260
      openese explore net.onnx --device kv260 --calibrate inputs.npz --max-loss 0.05 -o net.html

    \b
    The hardware that runs the image:
      openese build --for net.img -o build

    Inputs of a whole network are .npz files with its arrays by name, with the axes of its file. Frames of
    LSTMs alone are .npy arrays (T, I) of one voice or (T, B, I) of several, or .npz files with the arrays
    frames (T, B, I) and lengths (B,). LSTMs with backward layers become a folder, with one file for each
    direction, where others become a file.
    """


for _command in (convert.compile_, convert.import_, convert.prune, convert.quantize, convert.pack, inspect.info,
                 inspect.verify, run.run, transcribe.transcribe, estimate.estimate, explore.explore, explore.report,
                 inspect.presets, estimate.devices, hardware.build, hardware.header, hardware.bench_, hardware.synth,
                 hardware.board):
    openese.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller
            setattr(sys, name, open(os.devnull, "w"))
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
        if "--debug" in given and not isinstance(error, click.ClickException):
            raise
        return _failed(*_explained(error))
    return 0


def _explained(error: Exception) -> tuple[str, int]:
    """One line and an exit status: 2 for bad use or bad input, 1 for an error of the program itself."""
    if isinstance(error, (click.MissingParameter, click.NoSuchOption)) and error.ctx is not None:
        return f"{error.format_message()} ({error.ctx.command_path} --help shows the use)", 2
    if isinstance(error, click.ClickException):
        return error.format_message(), 2
    if isinstance(error, OSError) and error.strerror:
        return (f"{error.filename}: " if error.filename else "") + error.strerror, 2
    if isinstance(error, ModuleNotFoundError) and missing(error):
        return str(missing(error)), 2
    if isinstance(error, (ValueError, MissingExtra)):
        return str(error), 2
    if isinstance(error, MemoryError):
        return "not enough memory", 1
    return f"{type(error).__name__}: {error} (an error of this program: --debug shows where)", 1


def _failed(reason: str, status: int) -> int:
    click.echo(f"openese: {' '.join(reason.split())}", err=True)
    return status
