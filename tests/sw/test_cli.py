# SPDX-License-Identifier: Apache-2.0
"""The command line, from a model to outputs, and how it says no."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from import_tools import run_float
from models import random_model, speech_like
from test_network import network

from openese.rtl.config import FLAGS, PRESETS, PURPOSES, preset
from openese.rtl.verilog import verilog
from openese.sw import cli
from openese.sw.compile import CompiledNetwork, QuantizedNetwork
from openese.sw.cycles.model import estimate
from openese.sw.model.network import Network
from openese.sw.model.sequences import Sequences
from openese.sw.pack.schedule import schedule

SEED = 13
CONFIG = preset("tiny")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to work in, with a plain model, one that is not, and frames for both."""
    monkeypatch.chdir(tmp_path)
    random_model(SEED, 6, (16, 8), 12, head=3, peephole=True).save("net.npz")
    network().save("both.npz")
    np.save("x.npy", speech_like(SEED, 40, 1, 6)[:, 0])
    np.savez("xs.npz", frames=speech_like(SEED, 30, 5, 6), lengths=[30, 20, 10, 0, 7])
    np.save("x3.npy", speech_like(SEED, 30, 3, 3))
    np.save("nan.npy", np.where(np.arange(240).reshape(40, 6) == 13, np.nan, 0.5))
    np.save("zero.npy", np.zeros((40, 6)))
    Path("net.pt").write_bytes(b"")
    return tmp_path


@pytest.fixture
def openese(capsys):
    """Runs a command line: its standard output, after a check of status and standard error."""
    def run(line, status=0, error=""):
        found = cli.main(line.split())
        printed = capsys.readouterr()
        assert (found, printed.err) == (status, error and f"openese: {error}\n")
        return printed.out
    return run


def outputs_close(path, model, frames):
    exact, _ = run_float(Network.load(model), frames.frames, lengths=frames.lengths)
    found = np.load(path)
    np.testing.assert_allclose(found[:, None] if frames.alone else found, exact, atol=0.01)


def test_step_by_step(folder, openese):
    assert "16.67%" in openese("prune net.npz --density 0.2 --preset tiny -o sparse.npz")
    assert "RMS error" in openese("quantize sparse.npz --preset tiny --calibrate x.npy -o q.npz")
    assert "fingerprint" in openese("pack q.npz -o net.img --hex hex")
    assert any(Path("hex").iterdir())
    assert "holds the quantized model" in openese("verify net.img --quantized q.npz")
    assert "against floating point" in openese("run net.img x.npy -o y.npy --model sparse.npz --check")
    outputs_close("y.npy", "sparse.npz", Sequences.load("x.npy"))


def test_all_at_once_is_the_same(folder, openese):
    openese("prune net.npz --density 0.2 --preset tiny -o sparse.npz")
    openese("quantize sparse.npz --preset tiny --calibrate x.npy -o q.npz")
    openese("pack q.npz -o steps.img")
    openese("compile net.npz --density 0.2 --preset tiny --calibrate x.npy -o once.img")
    assert Path("once.img").read_bytes() == Path("steps.img").read_bytes()


def test_sequences_of_several_lengths(folder, openese):
    openese("compile net.npz --preset tiny --calibrate xs.npz -o net.img")
    openese("run net.img xs.npz -o y.npy --model net.npz")
    outputs_close("y.npy", "net.npz", Sequences.load("xs.npz"))
    assert np.load("y.npy").shape == (30, 5, 3)
    openese("run net.img xs.npz -o bare.npy")
    assert np.load("bare.npy").shape == (30, 5, 12)


def test_both_directions_are_a_folder(folder, openese):
    openese("prune both.npz --density 0.5 --preset tiny -o sparse.npz")
    openese("quantize sparse.npz --preset tiny --calibrate x3.npy -o q")
    openese("pack q -o images")
    assert sorted(path.name for path in Path("images").iterdir()) == [
        "0.img", "1.img", "2.img", "3.img", "network.npz"]
    assert openese("verify images --quantized q").count("holds the quantized model") == 4
    openese("run images x3.npy -o y.npy")
    outputs_close("y.npy", "sparse.npz", Sequences.load("x3.npy"))
    for path, word in (("q", "RMS error"), ("images", "fingerprint"), ("sparse.npz", "reverse")):
        assert word in openese(f"info {path}")


def test_import_and_list(folder, openese):
    rng = np.random.default_rng(SEED)
    cells = {f"{name}.weight_{of}": rng.normal(size=(8, size)) for name in ("a", "b")
             for of, size in (("ih", 3), ("hh", 2))}
    np.savez("cells.npz", **cells)
    listed = openese("import cells.npz --list")
    assert "LSTMCell" in listed and listed == openese("info cells.npz")
    openese("import cells.npz -o m.npz", 2,
            "cells.npz: select one of 'a', 'b', or several to stack them (--select NAME,NAME)")
    assert "a: " not in openese("import cells.npz --select b -o m.npz")
    assert Network.load("m.npz").directions[0].model.layers[0].name == "b"
    openese("import cells.npz", 2, "import needs --output PATH, or --list")


@pytest.mark.parametrize("densities, kept", [
    ("--density 0.5", {"w_x": 0.5, "w_r": 0.5}), ("--density w_x=0.25", {"w_x": 0.25, "w_r": 1}),
    ("--density lstm0=0.25", {"w_x": 0.25, "w_r": 0.25}),
    ("--density lstm0.w_r=0.5 --density lstm1=0", {"w_x": 1, "w_r": 0.5})])
def test_densities(folder, openese, densities, kept):
    openese(f"prune net.npz {densities} --preset tiny -o sparse.npz")
    layer = Network.load("sparse.npz").model.layers[0]
    for tensor, share in kept.items():
        assert np.mean(getattr(layer, tensor) != 0) == pytest.approx(share, abs=0.1)


def test_widths_can_be_set(folder, openese):
    openese("compile net.npz --preset tiny --set weight_bits=8 --set channels=4 --calibrate x.npy -o net.img")
    assert "8-bit weights" in openese("quantize net.npz --set weight_bits=8 --calibrate x.npy -o q.npz")


@pytest.mark.parametrize("text, reason", [
    ("pes = ", "not TOML: "),
    ("pes = 4", "channels must be given, or a preset"),
    ("preset = 'huge'", "preset: no preset 'huge'; there are tiny"),
    ("preset = 4", "preset: no preset 4; there are tiny"),
    ("preset = 'tiny'\nchanels = 4", "no field 'chanels' that can be set; did you mean channels?"),
    ("preset = 'tiny'\nchannels = 4.0", "channels must be a whole number, not 4.0"),
    ("preset = 'tiny'\nchannels = true", "channels must be a whole number, not True"),
    ("preset = 'tiny'\nstream = 1", "stream must be true or false, not 1"),
    ("preset = 'tiny'\nname = 1", "name must be text, not 1"),
    ("preset = 'tiny'\nchannels = 3", "Config channels must be a power of two, not 3"),
    ("[machine]\npes = 4", "no field 'machine' that can be set; there are pes, channels"),
    (b"\xff\xfe", "not TOML: "),
])
def test_bad_config_files(folder, capsys, text, reason):
    Path("machine.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert cli.main("quantize net.npz --config machine.toml -o a".split()) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"openese: machine.toml: {reason}") and error.count("\n") == 1


def test_a_machine_by_any_option_is_the_same(folder, openese):
    """A preset with --set, a TOML file with and without a preset, and what was made for it."""
    Path("changed.toml").write_text('preset = "tiny"\nchannels = 4\n')
    tiny = {field: getattr(CONFIG, field) for field in CONFIG.__dataclass_fields__ if field not in ("name", *FLAGS)}
    lines = [f"{field} = {json.dumps(value)}"
             for field, value in {**tiny, "channels": 4, "slices": 0, "slice_width": 0}.items()]
    Path("whole.toml").write_text("\n".join([*lines, *(f"{flag} = false" for flag in FLAGS), 'name = "mine"']))
    openese("quantize both.npz --preset tiny --set channels=4 --calibrate x3.npy -o q")
    openese("pack q -o images")
    wanted = CONFIG.replace(channels=4)
    options = ["--preset tiny --set channels=4", "--config tiny --set channels=4", "--config changed.toml",
               "--config whole.toml", "--for images", "--for images/0.img", "--for q", "--for q/1.npz"]
    for option in options:
        openese(f"quantize net.npz {option} --calibrate x.npy -o found.npz")
        assert QuantizedNetwork.load("found.npz").config.fingerprint == wanted.fingerprint, option
    assert QuantizedNetwork.load("found.npz").config.name == "tiny with channels=4"
    openese("quantize net.npz --config whole.toml --set channels=2 --calibrate x.npy -o found.npz")
    found = QuantizedNetwork.load("found.npz").config
    assert (found.name, found.fingerprint) == ("mine with channels=2", CONFIG.fingerprint)


def test_a_folder_for_several_machines_is_refused(folder, openese):
    for name, settings in (("two", ""), ("four", " --set channels=4")):
        openese(f"compile both.npz --preset tiny{settings} --calibrate x3.npy -o {name}")
    Path("two/1.img").write_bytes(Path("four/1.img").read_bytes())
    assert cli.main("build --for two -o hdl".split()) == 2


def test_every_command_for_a_machine_takes_it_in_the_same_way(openese):
    for command in ("compile", "prune", "quantize", "bench", "synth", "board", "transcribe", "build"):
        text = openese(f"{command} --help")
        for option in ("--preset NAME", "--config FILE", "--for PATH", "--set FIELD=N"):
            assert option in text, command


@pytest.mark.parametrize("size", [0, 3, 60, 2000, -30])
def test_damaged_files_are_no_machine(folder, openese, capsys, size):
    """Whatever is left of a quantized network or an image: one line, and no traceback."""
    openese("quantize net.npz --preset tiny --calibrate x.npy -o q.npz")
    openese("pack q.npz -o net.img")
    for name in ("q.npz", "net.img"):
        Path(name).write_bytes(Path(name).read_bytes()[:size])
        assert cli.main(["build", "--for", name, "-o", "hdl"]) == 2
        error = capsys.readouterr().err
        assert name in error and error.count("\n") == 1


def test_presets_are_listed(openese):
    text = openese("presets")
    assert all(name in text for name in PRESETS) and "1,024" in text
    assert PURPOSES.keys() == PRESETS.keys()


def test_build_for_an_image(folder, openese, capsys):
    openese("compile net.npz --preset tiny --set channels=4 --calibrate x.npy -o net.img")
    assert cli.main("build --for net.img --target ip -o hdl".split()) == 0
    assert capsys.readouterr().err == "hdl: 4 PEs x 4 channels, target ip\n"
    assert Path("hdl/hdl/openese.v").read_text() == verilog(CONFIG.replace(channels=4))


def test_compile_ends_with_the_figures_that_decide(folder, openese):
    text = openese("compile net.npz --density 0.2 --preset tiny --calibrate x.npy -o net.img")
    end = text[text.index("error against"):]
    assert "RMS 0.229; measured on 40 steps x 1 voice\n" in end
    assert "error against the network before pruning: RMS 0.0" in end
    assert "calibrated on 40 steps x 1 voice\n" in end
    image = CompiledNetwork.load("net.img").images[0]
    found = estimate(schedule(image.model(), image.config))
    assert (f"cycles a step: {found.cycles_per_step:,} in steady state; {found.latency:,} from a frame to its answer "
            "at rest") in end
    need = image.manifest["needs"]["entry_depth"]
    assert f"memories taken: entry_depth {need / 1024:.0%}, column_depth" in end


def test_compile_of_several_directions_measures_the_whole(folder, openese):
    end = openese("compile both.npz --preset tiny --calibrate x3.npy -o both")
    assert "measured on 30 steps x 3 voices" in end and end.count("memories taken") == 4


def test_without_calibration_it_says_so(folder, openese):
    openese("compile net.npz --preset tiny -o net.img", 0,
            "no --calibrate FRAMES: number formats are chosen on random numbers, a guess")


@pytest.mark.parametrize("line, reason", [
    ("fly", "No such command 'fly'."),
    ("prune", "Missing argument 'NETWORK'."),
    ("prune net.npz -o a", "Missing option '--density'."),
    ("prune net.npz --density much -o a",
     "Invalid value: --density 'much': expected a number, or NAME=number"),
    ("prune net.npz --density 0.5 --density w_x=1 -o a",
     "Invalid value: --density: one number for all, or only numbers with names"),
    ("prune net.npz --density 2 -o a", "density of the model must be a number between 0 and 1, not 2.0"),
    ("prune absent.npz --density 0.5 -o a", "absent.npz: No such file or directory"),
    ("prune x.npy --density 0.5 -o a", "x.npy: not an .npz of plain arrays"),
    ("prune net.npz --preset huge --density 0.5 -o a",
     "--preset: no preset 'huge'; there are tiny, demo, ese"),
    ("compile net.npz --set weight_bits=99 -o a", "Config weight_bits must be between 2 and 18, not 99"),
    ("compile net.npz --set pes -o a",
     "--set pes: expected FIELD=N, with a whole number"),
    ("compile net.npz --set cells=gru -o a",
     "Config cells must be one of lstm, lstm+gru, lstm+gru+gru_before, lstm+dense, lstm+gru+dense, "
     "lstm+gru+gru_before+dense, not 'gru'"),
    ("bench --cell gru --latency", "--latency and --cell gru are 2 benches; name one"),
    ("bench --latency --voices", "--latency and --voices are 2 benches; name one"),
    ("compile net.npz --set pes=-1 -o a", "--set pes=-1: expected FIELD=N, with a whole number"),
    ("compile net.npz --set name=1 -o a", "--set name=1: no field 'name' that can be set; there are pes, channels"),
    ("compile net.npz --set chanels=4 -o a",
     "--set chanels=4: no field 'chanels' that can be set; did you mean channels?"),
    ("compile net.npz --preset tiny --for q.npz -o a", "--preset and --for exclude each other: each names the machine"),
    ("compile net.npz --config a.toml --for q.npz -o a", "--config and --for exclude each other"),
    ("compile net.npz --for q.npz --set pes=4 -o a", "--set does not go with --for"),
    ("compile net.npz --for absent.img -o a", "absent.img: No such file or directory"),
    ("compile net.npz --for net.npz -o a", "--for net.npz: a network in floating point, which is for no machine yet"),
    ("compile net.npz --for x.npy -o a", "--for x.npy: not made for a machine; expected a compiled or a"),
    ("compile net.npz --config absent.toml -o a", "absent.toml: No such file or directory"),
    ("compile net.npz --config huge -o a", "--config huge: no such file, and no preset; presets are tiny, demo"),
    ("build -o a", "the machine is missing: give --preset NAME, --config FILE or --for PATH"),
    ("build --preset tiny", "Missing option '-o' / '--output'."),
    ("synth --family gw2a", "--family: no family 'gw2a'; there are xcu, xcup, xcu_dsp, xc7, ecp5"),
    ("synth --set pes=8", "--set needs --preset NAME or --config FILE"),
    ("synth --update --preset tiny --set pes=8", "--update: only presets have baselines"),
    ("compile net.npz --calibrate x3.npy -o a",
     "x3.npy: frames of shape (30, 3, 3) have 3 features; the network takes 6"),
    ("compile x.npy -o a", "x.npy: of no known kind"),
    ("run net.npz x.npy -o a", "net.npz: a network in floating point; expected an image, or a folder of images"),
    ("run x.npy x.npy -o a", "x.npy: not a memory image"),
    ("pack net.npz -o a", "net.npz: a network in floating point; expected a quantized network"),
    ("pack net.img -o a", "net.img: an image, or a folder of images; expected a quantized network"),
    ("prune net.img --density 0.5 -o a", "net.img: an image, or a folder of images; expected a network in floating"),
    ("quantize q.npz -o a", "q.npz: a quantized network; expected a network in floating point"),
    ("prune net.pt --density 0.5 -o a", "net.pt: a file to import: first run openese import net.pt -o NET.npz"),
    ("prune xs.npz --density 0.5 -o a", "xs.npz: unknown key 'frames'; a layer has name, cell, w_x"),
    ("run q.npz x.npy -o a", "q.npz: a quantized network; expected an image"),
    ("verify .", ".: a folder of other things; expected an image, or a folder of images"),
    ("run net.img x.npy -o a --model net.img", "net.img: an image, or a folder of images; expected a network"),
    ("run net.img x.npy -o a --port /dev/ttyUSB0", "--port needs --backend serial"),
    ("run net.img x.npy -o a --backend sim --trace w.vcd --trace-steps 40:41",
     "--trace-steps 40:41: the run has 40 steps"),
    ("run net.img nan.npy -o a", "nan.npy: frames[2, 1] is not a finite number"),
    ("compile net.npz --calibrate nan.npy -o a", "nan.npy: frames[2, 1] is not a finite number"),
    ("compile net.npz --calibrate zero.npy -o a", "--calibrate zero.npy: every number is zero"),
    ("run net.img x.npy -o absent/a", "Invalid value for '--output' / '-o': there is no folder 'absent'"),
    ("run net.img x.npy -o .", "Invalid value for '--output' / '-o': File '.' is a directory."),
    ("compile net.npz -o absent/a", "Invalid value for '--output' / '-o': there is no folder 'absent'"),
    ("compile both.npz -o net.img", "net.img: a file; the network has 4 directions and becomes a folder"),
    ("compile both.npz -o .", ".: a folder with other files, such as both.npz; give a new folder"),
    ("compile net.npz -o .", ".: a folder; the network has one direction and becomes a file"),
    ("quantize net.npz -o .", ".: a folder; the network has one direction and becomes a file"),
    ("import net.npz --list -o a", "--list shows everything and writes nothing"),
    ("build --preset tiny --set pes=4 --set pes=8 -o a", "--set pes=8: pes is set twice"),
    ("build --preset tiny --set stream=2 -o a", "--set stream=2: stream is 0 or 1"),
    ("prune net.npz --density =0.5 -o a", "--density '=0.5': expected a number, or NAME=number"),
    ("prune net.npz --density w_x=0.5 --density layer0=1 -o a",
     "--density: either matrices alone, or layers; for a matrix of a layer LAYER.w_x=0.5"),
    ("verify absent.img", "absent.img: No such file or directory"),
    ("run . x.npy -o a", ".: a folder of other things; expected an image, or a folder of images"),
    ("info absent", "absent: No such file or directory"),
])
def test_errors_are_one_line(folder, capsys, line, reason):
    if "net.img" in line or "q.npz" in line and "--for" not in line:
        assert cli.main("quantize net.npz --preset tiny --calibrate x.npy -o q.npz".split()) == 0
        assert cli.main("pack q.npz -o net.img".split()) == 0
        capsys.readouterr()
    before = {file: file.read_bytes() for file in folder.iterdir()}
    assert cli.main(line.split()) == 2
    error = capsys.readouterr().err
    assert reason in error and error.startswith("openese: ") and error.count("\n") == 1
    assert {file: file.read_bytes() for file in folder.iterdir()} == before


def test_a_model_that_does_not_fit_says_what_would(folder, capsys):
    random_model(1, 64, 128).save("large.npz")
    np.save("x64.npy", speech_like(1, 8, 1, 64)[:, 0])
    assert cli.main("compile large.npz --preset tiny --calibrate x64.npy -o a".split()) == 2
    error = capsys.readouterr().err
    assert "does not fit config 'tiny'" in error and "short" in error and "preset demo" in error


@pytest.mark.parametrize("damage, reason", [
    (lambda data: b"JUNK" + data[4:], "not a memory image"),
    (lambda data: data[:-40], "truncated"),
    (lambda data: data[:2000] + bytes([data[2000] ^ 1]) + data[2001:], "damaged (CRC mismatch)")])
@pytest.mark.parametrize("command", ["verify bad.img", "run bad.img x.npy -o y.npy", "info bad.img"])
def test_damaged_images(folder, openese, capsys, damage, reason, command):
    openese("compile net.npz --preset tiny --calibrate x.npy -o net.img")
    Path("bad.img").write_bytes(damage(Path("net.img").read_bytes()))
    if command.startswith("info") and reason.startswith("not"):
        reason = "of no known kind"
    assert cli.main(command.split()) == 2
    assert reason in capsys.readouterr().err


def test_verify_tells_another_model(folder, openese):
    for density, name in (("0.5", "a"), ("0.25", "b")):
        openese(f"prune net.npz --density {density} --preset tiny -o {name}.npz")
        openese(f"quantize {name}.npz --preset tiny --calibrate x.npy -o {name}.q.npz")
    openese("pack a.q.npz -o a.img")
    assert cli.main("verify a.img --quantized b.q.npz".split()) == 2


@pytest.mark.parametrize("data, reason", [
    (b"", "not a .npy or .npz of numbers"), (b"junk", "not a .npy or .npz of numbers"),
    (np.array([["a"]]), "frames must be real numbers, not <U1"),
    (np.array([[None]]), "not a .npy or .npz of numbers"),
    (np.ones(3), "frames must be (T, I) or (T, B, I), not (3,)"),
    (np.ones((0, 3)), "no frames: the shape is (0, 3)"),
    ({"x": np.ones(3)}, "expected the arrays 'frames' and 'lengths', found 'x'")])
def test_bad_frames(folder, capsys, openese, data, reason):
    openese("compile net.npz --preset tiny --calibrate x.npy -o net.img")
    if isinstance(data, bytes):
        Path("bad").write_bytes(data)
    else:
        with open("bad", "wb") as file:
            np.savez(file, **data) if isinstance(data, dict) else np.save(file, data)
    assert cli.main("run net.img bad -o y.npy".split()) == 2
    assert f"openese: bad: {reason}" in capsys.readouterr().err


@pytest.mark.parametrize("lengths", [3, "abc", ["a"] * 5, np.ones(5), [31] * 5, [-1] * 5, [1, 2], [[1] * 5]], ids=str)
def test_bad_lengths(folder, capsys, openese, lengths):
    openese("compile net.npz --preset tiny --calibrate x.npy -o net.img")
    np.savez("bad.npz", frames=np.load("xs.npz")["frames"], lengths=lengths)
    for command in ("run net.img bad.npz -o y.npy", "compile net.npz --preset tiny --calibrate bad.npz -o c.img"):
        assert cli.main(command.split()) == 2
        assert "openese: bad.npz: lengths must be 5 whole numbers from 0 to 30, not" in capsys.readouterr().err


@pytest.mark.parametrize(("command", "reason"), [
    ("--debug", "Missing command"),
    ("build --preset tiny --set groups=0 -o b", "Config groups must be a power of two, not 0"),
    ("build --preset tiny --set pes=1099511627776 -o b", "Config pes must be between 1 and 32768, not 1099511627776"),
    ("run net.img x.npy -o y.npy --backend serial --port /dev/null --baud 0", "'--baud': 0 is not in the range"),
    ("prune net.npz --preset tiny --density 0.5 --density 0.1 -o p.npz", "a density for all matrices is given twice"),
    ("prune net.npz --preset tiny --density w_x=0.5 --density w_x=0.1 -o p.npz", "w_x is given twice"),
    ("prune net.npz --preset tiny --density lstm1.w_ym=0.5 -o p.npz", "'lstm1' w_ym: it has no projection"),
    ("prune flat.npz --preset tiny --density w_ym=0.5 -o p.npz", "density of w_ym: no layer has a projection"),
    ("run net.img x.npy -o net.img", "--output net.img would overwrite an input"),
    ("run net.img x.npy -o ./x.npy", "--output x.npy would overwrite an input"),
    ("prune net.npz --preset tiny --density 0.1 -o net.npz", "--output net.npz would overwrite an input"),
    ("pack q.npz -o q.npz", "--output q.npz would overwrite an input"),
])
def test_bad_use_is_no_error_of_the_program(folder, capsys, openese, command, reason):
    random_model(SEED, 6, 16).save("flat.npz")
    openese("quantize net.npz --preset tiny --calibrate x.npy -o q.npz")
    openese("pack q.npz -o net.img")
    before = {path: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    capsys.readouterr()
    assert cli.main(command.split()) == 2
    assert reason in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in Path().iterdir() if path.is_file()}


def test_densities_of_a_layer_and_of_its_matrices(folder, openese):
    openese("prune net.npz --preset tiny --density lstm1.w_r=0.25 --density lstm1=0.5 -o p.npz")
    layer = Network.load("p.npz").model.layers[1]
    assert np.count_nonzero(layer.w_r) == layer.w_r.size // 4 and np.count_nonzero(layer.w_x) == layer.w_x.size // 2


@pytest.mark.parametrize("command", ["prune net.npz --preset tiny --density w_ym=0.0001 -o p.npz",
                                     "compile net.npz --preset tiny --density w_ym=0.0001 --calibrate x.npy -o n.img"])
def test_empty_matrices_are_named(folder, capsys, openese, command):
    assert cli.main(command.split()) == 0
    assert "openese: no weight is left in lstm0 w_ym: the density is too low" in capsys.readouterr().err


@pytest.mark.parametrize("value", [5e-324, 1e-310, 1e-300])
def test_frames_of_hardly_anything(folder, openese, value):
    np.save("quiet.npy", np.full((30, 5, 6), value))
    openese("compile net.npz --preset tiny --calibrate quiet.npy -o net.img")


def test_outputs_may_go_to_a_device(folder, openese):
    openese("quantize net.npz --preset tiny --calibrate x.npy -o /dev/null")


def test_deep_manifests_of_quantized_models(folder, capsys):
    np.savez("deep.npz", manifest="[" * 100_000)
    assert cli.main(["pack", "deep.npz", "-o", "net.img"]) == 2
    assert "openese: deep.npz: not a quantized model" in capsys.readouterr().err


def test_unexpected_errors(folder, capsys, monkeypatch):
    """Not a traceback, and not the status of bad input; with --debug the error itself."""
    monkeypatch.setattr(cli.show, "network", lambda found: 1 / 0)
    assert cli.main("import net.npz -o m.npz".split()) == 1
    error = capsys.readouterr().err
    assert error == ("openese: ZeroDivisionError: division by zero "
                     "(an error of this program: --debug shows where)\n")
    with pytest.raises(ZeroDivisionError):
        cli.main("--debug import net.npz -o m.npz".split())


@pytest.mark.parametrize("command", ["", *sorted(cli.openese.commands)])
def test_help_teaches(openese, command):
    text = openese(f"{command} --help")
    assert f"openese {command or 'compile'} " in text
    if command:
        assert "Example" in text


def test_help_of_nothing(capsys):
    assert cli.main([]) == 2
    assert "Commands:" in capsys.readouterr().err


def test_module_and_its_status(folder):
    found = subprocess.run([sys.executable, "-m", "openese", "info", "absent"], capture_output=True, text=True,
                           cwd=Path(cli.__file__).parents[1])
    assert (found.returncode, found.stdout, found.stderr.count("\n")) == (2, "", 1)


@pytest.mark.sim
def test_simulated(folder, openese):
    """Plain and in both directions: every word of the Verilog's outputs is the reference's."""
    openese("compile net.npz --density 0.2 --preset tiny --calibrate xs.npz -o net.img")
    assert "output words are the reference's" in openese("run net.img xs.npz -o y.npy --backend sim --check")
    openese("compile both.npz --preset tiny --calibrate x3.npy -o both")
    assert "cycles each" in openese("run both x3.npy -o y.npy --backend sim --check")
    outputs_close("y.npy", "both.npz", Sequences.load("x3.npy"))


@pytest.mark.sim
def test_board_prints_its_port_and_ends_by_ctrl_c(tmp_path):
    # A shell starts its background jobs with the signal ignored, and so would be whatever they start.
    with subprocess.Popen([sys.executable, "-m", "openese", "board", "--preset", "tiny"], text=True,
                          stdout=subprocess.PIPE, cwd=Path(cli.__file__).parents[2],
                          preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) as process:
        try:
            port = process.stdout.readline().strip()
            assert Path(port).is_char_device()
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        finally:
            process.kill()


def test_usage_errors_say_where_the_use_is_shown(folder, openese):
    openese("prune net.npz", 2, "Missing option '--density'. (openese prune --help shows the use)")


@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_a_closed_stream_is_no_error(closed):
    assert subprocess.run(f"{sys.executable} -m openese presets {closed}", shell=True, cwd=Path(__file__).parents[2],
                          capture_output=True).returncode == 0


def test_a_missing_extra_is_named(folder, openese, monkeypatch):
    monkeypatch.setattr("openese.sw.cli.show.presets", lambda: __import__("pyosys"))
    monkeypatch.setitem(sys.modules, "pyosys", None)
    openese("presets", 2, "the package 'pyosys' is missing: pip install 'openese[synth]'")


def test_outputs_with_lengths_are_frames_again(folder, openese):
    openese("compile net.npz --preset tiny --calibrate x.npy -o net.img")
    openese("run net.img xs.npz -o y.npz")
    openese("run net.img xs.npz -o y.npy")
    again = Sequences.load("y.npz")
    assert again.lengths.tolist() == [30, 20, 10, 0, 7]
    np.testing.assert_array_equal(again.frames, np.load("y.npy"))


def test_frames_from_a_pipe(folder, openese):
    openese("compile net.npz --preset tiny --calibrate x.npy -o net.img")
    openese("run net.img x.npy -o a.npy")
    done = subprocess.run(f"cat x.npy | {sys.executable} -m openese run net.img /dev/stdin -o b.npy", shell=True,
                          capture_output=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])})
    assert done.returncode == 0
    assert Path("a.npy").read_bytes() == Path("b.npy").read_bytes()


def test_a_folder_takes_only_the_same_parts_again(folder, openese, capsys):
    for _ in range(2):
        assert cli.main("quantize both.npz --preset tiny --calibrate x3.npy -o parts".split()) == 0
    capsys.readouterr()
    openese("compile both.npz --preset tiny --calibrate x3.npy -o parts", 2,
            "parts: a folder with other files, such as 0.npz; give a new folder")


def test_compile_says_that_an_image_has_no_head(folder, openese):
    note = "note: the image does not hold the dense head, which runs on the host"
    assert note in openese("compile net.npz --preset tiny --calibrate x.npy -o net.img")
    assert note not in openese("compile both.npz --preset tiny --calibrate x3.npy -o both.img")


@pytest.mark.parametrize("text", ["", "\ufeff"])
def test_config_files_of_any_editor(folder, openese, capsys, text):
    Path("a.toml").write_text(text + 'preset = "tiny"\n', encoding="utf-8")
    assert cli.main("build --config a.toml -o out".split()) == 0


def test_an_empty_path_is_refused(folder, capsys):
    for line in (["build", "--preset", "tiny", "-o", ""], ["build", "--config", "", "-o", "a"], ["info", ""]):
        assert cli.main(line) == 2
        assert "the path is empty" in capsys.readouterr().err


def test_a_narrow_terminal_breaks_no_number(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "30")
    assert cli.main(["presets"]) == 0
    assert "327,680" in capsys.readouterr().out


def test_ctrl_c_while_it_starts():
    script = ("import builtins; real = builtins.__import__\n"
              "def stop(name, *rest):\n"
              "    if name == 'scipy.sparse' or name == 'rich.table': raise KeyboardInterrupt\n"
              "    return real(name, *rest)\n"
              "builtins.__import__ = stop\n"
              "import openese.sw.cli")
    done = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "openese: interrupted\n")


def test_baselines_are_updated_in_a_checkout_only(openese, monkeypatch, tmp_path):
    monkeypatch.setattr("openese.sim.synthesis.baselines.Baselines.PATH", tmp_path / "absent")
    openese("synth --preset tiny --update", 2,
            "--update needs a checkout of the project: an installed package has no baselines")
