# SPDX-License-Identifier: Apache-2.0
"""Estimates are what compiling gives: the same cycles, the same shares of the machine, without calibration."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from models import random_model, speech_like
from test_cli import folder, openese  # noqa: F401  fixtures
from test_network import network

import openese as package
from openese.rtl.config import PRESETS, preset
from openese.sw.bench.callers import callers
from openese.sw.cycles.load import drained_rows, model_load
from openese.sw.cycles.model import estimate as cycles_of
from openese.sw.energy import energies, total
from openese.sw.estimate import holding
from openese.sw.model.network import Network
from openese.sw.pack.schedule import schedule

SEED = 29
TINY = preset("tiny")


def stack(*, peephole=True):
    return random_model(SEED, 6, (16, 8), 12, head=3, peephole=peephole)


def without_bytes(load, name):
    """A load, but for its name and the size of its image, in which numbers of formats have more or fewer digits."""
    return dataclasses.replace(load, name=name, bytes=None)


@pytest.mark.parametrize("density", [None, 0.3, {"lstm1": 0.5}])
def test_the_figures_of_compiling_without_calibration(density):
    frames = speech_like(SEED, 60, 4, 6)
    compiled = package.compile(stack(), "tiny", density=density, calibrate=frames)
    found = package.estimate(stack(), "tiny", density=density)
    load, = compiled.summary.loads
    mine, = found.loads
    if density is not None and not isinstance(density, dict):  # a dense matrix has weights that round to zero
        assert without_bytes(mine, "") == without_bytes(load, "")
    assert mine.memories == load.memories
    assert (mine.cycles_per_step, mine.cycles_at_rest) == (load.cycles_per_step, load.cycles_at_rest)
    assert abs(mine.bytes - load.bytes) < 100
    assert found.fits and found.cycles_per_step == load.cycles_per_step


def test_a_compiled_network_is_estimated_as_it_is(tmp_path):
    compiled = package.compile(network(), "tiny", density=0.5)
    compiled.save(tmp_path / "images")
    for given in (compiled, tmp_path / "images"):
        found = package.estimate(given)
        assert found.machine.name == "tiny" and len(found.loads) == 4
        assert [without_bytes(load, "") for load in found.loads] == [
            without_bytes(load, "") for load in compiled.summary.loads]
        assert [load.bytes for load in found.loads] == [load.bytes for load in compiled.summary.loads]
        assert found.cycles_per_step == sum(load.cycles_per_step for load in found.loads)
    assert package.estimate(compiled, "demo").machine.name == "demo"
    with pytest.raises(ValueError, match="density: .* is quantized or compiled, and is estimated as it is"):
        package.estimate(compiled, density=0.5)


@pytest.mark.parametrize("changes", [{}, {"groups": 2}, {"slice_width": 1}])
def test_reads_and_products_are_those_that_the_machine_counts(changes):
    config = TINY.replace(**changes)
    quantized, = package.quantize(package.prune(stack(), 0.3, config), speech_like(SEED, 4, 1, 6), config).models
    plan = schedule(quantized, config)
    load, counters = model_load(quantized, config), cycles_of(plan).counters
    assert load.multiplications["weights"] == counters["busy"] * config.channels
    assert load.reads["weights"] == counters["busy"] + counters["padding"]
    assert drained_rows(plan) == counters["drain"]
    assert load.multiplications["peepholes"] == 3 * (16 + 12) * config.channels
    assert load.multiplications["cells"] == 3 * (16 + 12) * config.channels


def test_streamed_weights_are_read_in_every_step():
    config = TINY.replace(stream=True, entry_depth=128, weight_bits=12, index_bits=4)
    model = random_model(SEED, 40, 48)
    load, = package.estimate(model, config, density=0.5).loads
    assert load.streamed and load.stream_bytes == load.least_cycles * 4 * 16 // 8
    assert package.estimate(random_model(SEED, 6, 8), config).stream_bytes == 0


def test_what_is_short_and_what_would_hold_it():
    model = random_model(SEED, 300, 140)
    found = package.estimate(model, "tiny", device="aws-f1")
    load, = found.loads
    assert not found.fits and found.cycles_per_step is None and found.least_cycles > 10_000
    assert load.short.keys() >= {"entry_depth", "column_depth", "cell_rows"}
    sparse = package.prune(model, 0.5, TINY)
    taken = package.estimate(sparse, "tiny").loads[0].memories["entry_depth"][0]
    with pytest.raises(ValueError, match=f"does not fit config 'tiny': needs entry_depth {taken} "):
        package.compile(sparse, "tiny")
    changes = holding(TINY, {name: taken for name, (taken, _) in load.memories.items()})
    assert package.estimate(model, TINY.replace(**changes), density=0.1).fits
    assert holding(TINY, {"cell_rows": 5000}) is None


def test_a_device_that_is_too_small_is_named():
    found = package.estimate(stack(), "ese", device="pynq-z2")
    assert found.loads[0].short == {} and not found.fits
    assert found.short["pynq-z2"]["BRAM"] == 833 - 140 and found.short["pynq-z2"]["DSP"] == 1216 - 220
    assert found.short["pynq-z2"]["LUT"] == found.resources["LUT"].number - 53_200


def test_voices_and_times():
    found = package.estimate(stack(), "tiny", clock=100e6, period=0.02)
    assert found.voices_fast_enough == int(2 * 0.02 * 100e6 / found.cycles_per_step)
    assert found.frames_per_second == 100e6 / found.cycles_per_step
    assert found.voices_held == 2
    assert 0 < found.busy < 1
    assert package.estimate(stack(), TINY.replace(banks=2)).voices_held == 4
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="clock must be greater than zero"):
            package.estimate(stack(), "tiny", clock=wrong)


def test_the_paper_s_layer_is_the_benchmark_s():
    """The paper's machine, by the way of users and by that of the benchmark."""
    row, = callers([preset("ese")])
    from openese.sw.bench.layer import paper_layer
    found = package.estimate(paper_layer(), "ese", density=0.1)
    assert (found.cycles_per_step, found.voices_fast_enough, found.voices_held) == (
        row["cycles_per_step"], row["fast_enough"], row["held"])


# -- the command ------------------------------------------------------------------------------------------


def test_the_command_shows_and_writes_the_figures(folder, openese):  # noqa: F811
    said = openese("estimate net.npz --preset tiny --device kv260 --density 0.5 --clock 150 --json out.json")
    result = json.loads(Path("out.json").read_text())
    found = package.estimate(folder / "net.npz", "tiny", density=0.5, device="kv260", clock=150e6)
    assert result == json.loads(json.dumps(found.to_dict()))
    for figure in (f"{found.cycles_per_step:,}", f"{found.voices_fast_enough:,}", "note: the host computes 'head'",
                   "block RAMs of the XCK26", "150 MHz (assumed)"):
        assert figure in said
    assert result["device"]["resources"]["DSP"] == {
        "taken": 32, "least": 32, "most": 32, "there": 1248, "share": 32 / 1248}
    luts = result["device"]["resources"]["LUT"]
    assert luts["least"] < luts["taken"] < luts["most"] and f"(LUT), {luts['least']:,} to {luts['most']:,} " in said


def test_all_presets(folder, openese):  # noqa: F811
    said = openese("estimate both.npz --all --json out.json")
    assert all(f"\n{name} " in said for name in PRESETS)
    assert [one["machine"]["name"] for one in json.loads(Path("out.json").read_text())] == list(PRESETS)
    assert "of LUT" not in said
    said = openese("estimate net.npz --all --device pynq-z2")
    assert "of LUT" in said and "no: LUT x" in said


def test_gru_layers(folder, openese):  # noqa: F811
    """Their cycles are those of the compiled network; presets get the cells."""
    rng = np.random.default_rng(SEED)
    layer = package.Layer(name="gru", cell="gru", w_x=rng.normal(size=(3, 16, 6)), w_r=rng.normal(size=(3, 16, 16)),
                          bias=rng.normal(size=(3, 16)), bias_rn=rng.normal(size=16))
    model = package.Model(layers=(layer,))
    machine = TINY.replace(cells="lstm+gru")
    load, = package.compile(model, machine, density=0.5, calibrate=speech_like(SEED, 20, 2, 6)).summary.loads
    found, = package.estimate(model, machine, density=0.5).loads
    assert without_bytes(found, "") == without_bytes(load, "")
    assert found.multiplications["cells"] == 2 * 16 * 2 and found.multiplications["tables"] == 3 * 16 * 2
    assert package.estimate(model, machine, device="kv260").resources["LUT"].number > package.estimate(
        stack(), "tiny", device="kv260").resources["LUT"].number
    model.save("gru.npz")
    assert "demo with cells=lstm+gru" in openese("estimate gru.npz --all")
    before = dataclasses.replace(layer, reset_after=False, bias_rn=None)
    package.Model(layers=(before,)).save("before.npz")
    assert "demo with cells=lstm+gru+gru_before" in openese("estimate before.npz --all")
    openese("estimate gru.npz --preset tiny", 2, "model: layer 'gru': a GRU, but config 'tiny' has cells 'lstm'. Take "
            "a machine with cells 'lstm+gru'")


def test_images_and_several_directions(folder, openese):  # noqa: F811
    openese("compile both.npz --preset tiny --calibrate x3.npy -o both")
    said = openese("estimate both")
    assert said.count(", 4 of 4") == 1 and "4 images; a machine holds one at a time" in said
    openese("prune net.npz --density 0.2 --preset tiny -o sparse.npz")
    openese("quantize sparse.npz --preset tiny --calibrate x.npy -o q.npz")
    assert "machine tiny" in openese("estimate q.npz")
    openese("estimate q.npz --density 0.5", 2, "density: random13 is quantized or compiled, and is estimated as it is")


def test_too_large_for_every_machine(folder, openese):  # noqa: F811
    random_model(SEED, 300, 140).save("large.npz")
    said = openese("estimate large.npz --preset tiny")
    assert "does not fit: it lacks" in said and "this holds it: --set entry_depth=" in said


def test_the_devices(openese):  # noqa: F811
    said = openese("devices")
    assert all(f"\n{name} " in said for name in ("kv260", "ulx3s-85f", "aws-f2")) and "DS890" in said


@pytest.mark.parametrize("line, reason", [
    ("estimate absent.npz", "absent.npz: No such file or directory"),
    ("estimate x.npy", "x.npy: of no known kind; openese reads"),
    ("estimate net.npz --all --preset tiny", "--all takes every preset; leave out --preset, --config, --for and --set"),
    ("estimate net.npz --device vu9", "Invalid value for '--device': no device 'vu9'; "),
    ("estimate net.npz --clock 0", "Invalid value for '--clock': expected a number greater than zero, not '0'"),
    ("estimate net.npz --period soon", "Invalid value for '--period': expected a number greater than zero, not 'soon'"),
    ("estimate net.npz --density 2", "density of the model must be a number between 0 and 1, not 2.0"),
    ("estimate net.npz --json net.npz", "--json net.npz would overwrite an input of this command"),
    ("estimate net.npz --preset huge", "--preset: no preset 'huge'; there are tiny"),
    ("estimate .", ".: Is a directory")])
def test_refusals_are_one_line(folder, capsys, line, reason):  # noqa: F811
    from openese.sw import cli
    assert cli.main(line.split()) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"openese: {reason}") and said.count("\n") == 1, said


def test_in_python_the_machine_must_be_known():
    with pytest.raises(ValueError, match="machine: this network is for no machine yet"):
        package.estimate(stack())
    with pytest.raises(ValueError, match="select and ignore take parts of a file"):
        package.estimate(stack(), "tiny", select="lstm0")
    with pytest.raises(TypeError, match="expected a path or a network, not int"):
        package.estimate(3, "tiny")
    assert np.isclose(package.estimate(stack(), "tiny", density=0.5).density, 0.5, atol=0.05)


def test_energy_of_a_step():
    """By hand, for a step whose counts are known; the sources' energies of 32 bits and of 64-bit accesses."""
    machine = TINY.replace(weight_bits=8, activation_bits=12)
    reads = {"weights": 100, "pointers": 10, "columns": 20, "accumulators": 300, "tables": 40}
    products = {"weights": 250, "tables": 20, "cells": 12, "peepholes": 6}
    bits = (100 * machine.entry_bits + 10 * machine.count_bits + 20 * 12 + 2 * 300 * machine.accumulator_bits
            + 40 * machine.table_bits)
    bit_products = 250 * 8 * 12 + 20 * 18 * 9 + 12 * machine.cell_bits * 18 + 6 * machine.cell_bits * 16
    adds = 250 * machine.accumulator_bits
    least, most = total(energies(machine, reads, products))
    assert least == pytest.approx(1e-12 * (bits * 7.5 / 64 + bit_products * 1.48 / 1024 + adds * 0.03 / 32))
    assert most == pytest.approx(1e-12 * (bits * 10 / 64 + bit_products * 3.1 / 1024 + adds * 0.1 / 32))
    streamed = energies(machine, reads, products, 1000)
    assert streamed["memory outside: weights"].least == pytest.approx(8000 * 1300 / 64 * 1e-12)
    assert streamed["memory: weights"].most == pytest.approx((100 * machine.entry_bits + 8000) * 10 / 64 * 1e-12)
    assert energies(machine, {}, {}) == {}


def test_energies_compare_alike_in_both_processes():
    """Both processes' ratios of two machines or networks are within 30 % of the ratios' mean."""
    wide = TINY.replace(entry_depth=4096, activation_bits=16)
    of = {name: total(package.estimate(stack(), machine, density=density).energies) for name, machine, density in (
        ("sparse", wide, 0.1), ("dense", wide, None), ("narrow", wide.replace(weight_bits=8, activation_bits=12), 0.1),
        ("streamed", wide.replace(index_bits=4, entry_depth=128, stream=True), None))}
    for name, other in (("dense", "sparse"), ("narrow", "sparse"), ("streamed", "dense")):
        ratios = [of[name][end] / of[other][end] for end in (0, 1)]
        assert ratios == pytest.approx([sum(ratios) / 2] * 2, rel=0.3), name
    assert of["dense"].least > 3 * of["sparse"].least
    assert of["narrow"].most < of["sparse"].most and of["dense"].most < of["streamed"].most


def test_the_command_tells_the_energy(openese, tmp_path):  # noqa: F811
    Network.of(stack()).save(tmp_path / "net.npz")
    path = tmp_path / "out.json"
    shown = openese(f"estimate {tmp_path}/net.npz --preset tiny --density 0.3 --json {path}")
    energy = json.loads(path.read_text())["energy"]
    assert energy["total"]["least"] == pytest.approx(sum(one["least"] for one in energy["joules"].values()))
    assert f"{energy['total']['least'] * 1e6:,.4g} to {energy['total']['most'] * 1e6:,.4g}" in shown
    assert "registers" in energy["left_out"] and set(energy["processes"]) == {"7 nm", "45 nm"}
