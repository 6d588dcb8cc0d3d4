# SPDX-License-Identifier: Apache-2.0
"""``python -m examples.c_host`` compiles serve.c, runs it at the Verilog in Verilator, and compares every answer."""

import shutil
import subprocess
from pathlib import Path

import click
import numpy as np

import openese
from openese.sim.build import emitted, library
from openese.sw.run.header import write_header

__all__ = ["JOINS", "build", "expected", "main", "serve"]

HERE = Path(__file__).parent
#: Two channels of three banks: six places.
MACHINE = openese.preset("tiny").replace(name="banks", banks=3, vector_depth=512)
INPUTS, CELLS, CALLERS = 8, 16, 4
JOINS = 5  # the turn in which the last caller joins
SANITIZERS = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def compile_network(folder: Path) -> openese.Image:
    """Write net.img: a small LSTM with random weights."""
    rng = np.random.default_rng(1)
    layer = openese.Layer(name="lstm", bias=np.zeros((4, CELLS)), w_x=rng.normal(size=(4, CELLS, INPUTS)),
                          w_r=rng.normal(scale=0.3, size=(4, CELLS, CELLS)))
    compiled = openese.compile(openese.Model(layers=(layer,)), MACHINE, density=0.5,
                               calibrate=rng.normal(size=(50, 2, INPUTS)))
    compiled.save(folder / "net.img")
    return compiled.images[0]


def build(folder: Path, compiler: str, sanitize: bool) -> Path:
    """Compile serve.c with the host library and the header of net.img; returns the program.

    Raises
    ------
    click.ClickException
        There is no such compiler, or it fails.
    """
    if not shutil.which(compiler):
        raise click.ClickException(f"there is no compiler {compiler!r}: apt install gcc, or choose one by --compiler")
    openese.build(MACHINE, folder, target="c")
    write_header(folder / "net.img", folder / "net.h")
    program = folder / "serve"
    done = subprocess.run([compiler, "-std=c99", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Werror",
                           *(SANITIZERS if sanitize else ()), f"-I{folder}", *map(str, sorted(folder.glob("*.c"))),
                           str(HERE / "serve.c"), str(HERE / "simulated.c"), "-o", str(program), "-lm", "-ldl"],
                          text=True, capture_output=True)
    if done.returncode:
        raise click.ClickException(f"{compiler} failed: {done.stderr.strip().splitlines()[0]}")
    return program


def serve(program: Path, frames: np.ndarray) -> np.ndarray:
    """The answers (n, P) to frames (T, callers, I), in the order in which the program takes them.

    Raises
    ------
    click.ClickException
        The program fails.
    """
    folder = program.parent
    frames.astype("<f4").tofile(folder / "frames.f32")
    done = subprocess.run([str(program), str(library([emitted(MACHINE)])), str(folder / "net.img"),
                           str(folder / "frames.f32"), str(folder / "answers.f32")], text=True, capture_output=True)
    if done.returncode:
        raise click.ClickException(f"serve failed: {done.stderr.strip() or f'exit status {done.returncode}'}")
    return np.fromfile(folder / "answers.f32", "<f4").reshape(-1, CELLS)


def expected(image: openese.Image, frames: np.ndarray) -> np.ndarray:
    """The answers of the reference (n, P), in the same order: each caller has one for itself."""
    model = image.model()
    answers = {}
    for caller in range(CALLERS):
        first = JOINS if caller == CALLERS - 1 else 0
        x = model.quantize_input(frames[first:, caller].astype(np.float32))[0]
        for turn, y in enumerate(openese.Reference(model, 1).run(x[:, None])[:, 0], first):
            answers[turn, caller] = model.dequantize_output(y)
    return np.array([answers[place] for place in sorted(answers)])


@click.command()
@click.option("--turns", type=click.IntRange(1), default=40, show_default=True, help="The frames of each caller.")
@click.option("--compiler", default="gcc", show_default=True, help="A C compiler.")
@click.option("--sanitize/--no-sanitize", default=True, show_default=True,
              help="Compile with AddressSanitizer and UBSan.")
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), default=Path("build/c_host"),
              show_default=True, help="The folder for all files.")
def main(turns: int, compiler: str, sanitize: bool, output: Path) -> None:
    """Compile serve.c, run it at the Verilog, and compare every answer with the reference."""
    output.mkdir(parents=True, exist_ok=True)
    image = compile_network(output)
    program = build(output, compiler, sanitize)
    frames = np.random.default_rng(2).normal(size=(turns, CALLERS, INPUTS))
    answers, wanted = serve(program, frames), expected(image, frames)
    if answers.shape != wanted.shape or (answers != wanted).any():
        raise click.ClickException("the answers are not those of the reference")
    click.echo(f"{len(answers)} answers to {CALLERS} callers, all equal to the reference")


if __name__ == "__main__":
    main()
