# SPDX-License-Identifier: Apache-2.0
"""The pipeline in Python: stages as those of single models, objects in files, measured figures."""

import numpy as np
import pytest
from models import random_model, speech_like
from test_network import network

import openese
from openese.rtl.config import preset
from openese.sw import compile as pipeline
from openese.sw.cycles import load as load_module
from openese.sw.cycles.model import estimate
from openese.sw.files import FileError, verify_image
from openese.sw.model.network import Direction, Network, Stage
from openese.sw.model.state import LayerState, initial_state
from openese.sw.pack.schedule import schedule
from openese.sw.prune import prune as prune_model
from openese.sw.quantize.choose import quantize as quantize_model
from openese.sw.reference.machine import Reference
from openese.sw.run.runners import FloatRunner, MachineRunner

SEED = 17
TINY = preset("tiny")


@pytest.fixture(scope="module")
def plain():
    return random_model(SEED, 6, (16, 8), 12, head=3, peephole=True)


@pytest.fixture(scope="module")
def frames():
    return speech_like(SEED, 30, 5, 6)


@pytest.fixture(scope="module")
def compiled(plain, frames):
    return openese.compile(plain, "tiny", density=0.5, calibrate=frames)


@pytest.fixture(scope="module")
def both():
    """A network of several directions, compiled, and frames for it."""
    frames = speech_like(SEED, 30, 3, 3)
    return openese.compile(network(), TINY, calibrate=frames, lengths=[30, 20, 7]), frames


def test_stages_are_those_of_single_models(plain, frames, compiled):
    sparse = openese.prune(plain, 0.5, TINY)
    wanted = prune_model(plain, 0.5, TINY.pes, TINY.groups)
    assert all(np.array_equal(found.w_r, layer.w_r)
               for found, layer in zip(sparse.model.layers, wanted.layers, strict=True))
    quantized = openese.quantize(sparse, frames, "tiny")
    model = quantize_model(wanted, frames, TINY)
    assert quantized.models[0].report == model.report and quantized.config is TINY
    packed = openese.pack(quantized)
    verify_image(packed.images[0], [model])
    assert np.array_equal(packed.images[0].words(True), compiled.images[0].words(True))


def test_a_network_is_pruned_model_by_model():
    """By the name of a layer that only one of the models has."""
    sparse = openese.prune(network(), {"lstm1": 0.5}, "tiny")
    densities = {layer.name: layer.density for layer in sparse.directions[2].model.layers}
    assert densities["lstm0"] == 1 and densities["lstm1"] < 0.6
    assert all(layer.density == 1 for number in (0, 1, 3) for layer in sparse.directions[number].model.layers)
    with pytest.raises(openese.sw.prune.PruneError, match="'other' is neither a tensor"):
        openese.prune(network(), {"other": 0.5}, "tiny")


def test_a_run_is_that_of_the_reference(plain, frames, compiled):
    image = compiled.images[0]
    wanted, _ = compiled.network.run(frames, [MachineRunner(Reference(image.model(), 2))])
    assert np.array_equal(compiled.run(frames), wanted) and wanted.shape == (30, 5, 3)
    np.testing.assert_allclose(compiled.run(frames[:, 1]), wanted[:, 1])
    short = compiled.run(frames, [30, 3, 0, 7, 30])
    np.testing.assert_allclose(short[:3, 1], wanted[:3, 1])
    assert not short[3:, 1].any()


def test_frames_of_one_voice_need_no_axis_for_it(plain, frames):
    one, same = (openese.quantize(plain, given, "tiny") for given in (frames[:, 0], frames[:, :1]))
    assert one.models[0].report == same.models[0].report


def test_padding_counts_for_nothing(plain, frames):
    """Neither for the formats nor for the measured errors, however much there is."""
    padded = np.concatenate([frames, np.full((70, 5, 6), 1e3)])
    with_padding = openese.quantize(plain, padded, "tiny", lengths=[30] * 5)
    assert with_padding.models[0].report == openese.quantize(plain, frames, "tiny").models[0].report
    given = speech_like(SEED, 80, 3, 3)
    junk = np.where(np.arange(80)[:, None, None] < np.array([70, 66, 64])[:, None], given, 1e3)
    several = [openese.quantize(network(), x, TINY, lengths=[70, 66, 64]) for x in (given, junk, junk[:70])]
    assert several[0].error == several[1].error == several[2].error
    assert all(a.report == b.report for one in several[1:] for a, b in zip(several[0].models, one.models, strict=True))
    with pytest.raises(ValueError, match="lengths: every sequence is empty"):
        openese.quantize(plain, frames, "tiny", lengths=[0] * 5)
    with pytest.raises(ValueError, match="lengths: expected 5 whole numbers of 0 to 30"):
        openese.quantize(plain, frames, "tiny", lengths=[31, 1, 1, 1, 1])


def test_what_was_saved_is_loaded(plain, frames, compiled, tmp_path):
    compiled.save(tmp_path / "net.img")
    bare = openese.CompiledNetwork.load(tmp_path / "net.img")
    whole = openese.CompiledNetwork.load(tmp_path / "net.img", compiled.network)
    assert np.array_equal(bare.images[0].words(True), compiled.images[0].words(True))
    assert np.array_equal(whole.run(frames), compiled.run(frames))
    assert bare.run(frames).shape == (30, 5, 12)
    assert (bare.summary.error, bare.summary.calibration) == (None, None)
    quantized = openese.quantize(plain, frames, "tiny")
    quantized.save(tmp_path / "q.npz")
    found = openese.QuantizedNetwork.load(tmp_path / "q.npz")
    assert found.error == quantized.error and found.config == TINY
    assert np.array_equal(openese.pack(found).images[0].words(), openese.pack(quantized).images[0].words())
    assert found.network.head is not None and found.network.inputs == 6


def test_several_directions_are_a_folder(both, tmp_path):
    found, frames = both
    found.save(tmp_path / "images")
    loaded = openese.CompiledNetwork.load(tmp_path / "images")
    assert np.array_equal(loaded.run(frames), found.run(frames))
    exact, _ = network().run(frames, [FloatRunner(direction.model) for direction in network().directions])
    assert np.abs(found.run(frames) - exact).max() < 0.01
    (tmp_path / "images" / "2.img").unlink()
    with pytest.raises(FileError, match="2.img is missing; the network has 4 directions"):
        openese.CompiledNetwork.load(tmp_path / "images")


def test_the_summary_is_measured(plain, frames, compiled):
    summary = compiled.summary
    quantized = openese.quantize(openese.prune(plain, 0.5, "tiny"), frames, "tiny").models[0]
    difference = compiled.run(frames) - Network.of(quantized.floating_point()).run(
        frames, [FloatRunner(quantized.floating_point())])[0]
    assert 0 < summary.error.rms_error < summary.error.max_error < 0.01 * summary.error.rms_output * 10
    assert np.abs(difference).max() < 0.05
    assert (summary.error.steps, summary.error.voices) == summary.calibration == (30, 5)
    load, = summary.loads
    times = estimate(schedule(compiled.images[0].model(), TINY))
    assert (load.cycles_per_step, load.cycles_at_rest) == (times.cycles_per_step, times.latency)
    assert load.least_cycles <= load.cycles_per_step and load.bytes == compiled.images[0].bytes
    assert load.memories == {name: (need, getattr(TINY, name))
                             for name, need in compiled.images[0].manifest["needs"].items()}


def test_the_error_of_a_plain_network_is_that_of_its_outputs(plain, frames):
    """Against the network before the head, on all calibration frames."""
    body = openese.Model(layers=plain.layers, name="body")
    found = openese.compile(body, "tiny", calibrate=frames)
    exact, _ = Network.of(body).run(frames, [FloatRunner(body)])
    difference = found.run(frames) - exact
    error = found.summary.error
    assert error.rms_error == pytest.approx(np.sqrt(np.mean(difference**2)))
    assert error.max_error == pytest.approx(np.abs(difference).max())
    assert error.rms_output == pytest.approx(np.sqrt(np.mean(exact**2)))


def test_the_error_of_several_directions_is_measured_end_to_end(both):
    found, frames = both
    body = Network(stages=network().stages)
    exact, _ = body.run(frames, [FloatRunner(direction.model) for direction in body.directions], [30, 20, 7])
    seen = openese.CompiledNetwork(found.images, body).run(frames, [30, 20, 7])
    there = np.arange(30)[:, None] < [30, 20, 7]
    assert found.error.rms_error == pytest.approx(np.sqrt(np.mean((seen - exact)[there]**2)))
    assert len(found.summary.loads) == 4


def run_from(net, models, x, lengths, states):
    """Outputs in floating point and in integers, from given states, and the numbers clamped on the way in."""
    exact, _ = net.run(x, [FloatRunner(direction.model) for direction in net.directions], lengths, states)
    runners = [MachineRunner(Reference(model, x.shape[1])) for model in models]
    y, _ = net.run(x, runners, lengths, states)
    return exact, y, [runner.input_saturations for runner in runners]


def test_formats_hold_the_initial_states():
    """Of each direction, also one that runs backwards, and of its projection."""
    net, lengths = network(head=False), [30, 20, 7]
    rng, x = np.random.default_rng(SEED), speech_like(SEED, 30, 3, 3)
    states = [tuple(LayerState(20 * rng.normal(size=(3, layer.cells)),
                               (1 if layer.w_ym is None else 6) * rng.uniform(-1, 1, (3, layer.outputs)))
                    for layer in direction.model.layers) for direction in net.directions]
    found = openese.quantize(net, x, "tiny", lengths, states)
    exact, y, clamped = run_from(net, found.models, x, lengths, states)
    assert clamped == [0, 0, 0, 0]
    assert found.error.rms_error == pytest.approx(np.sqrt(np.mean(((y - exact)**2)[
        np.arange(30)[:, None] < lengths])))
    assert found.error.rms_error < 0.01 * found.error.rms_output
    for model, state in zip(found.models, states, strict=True):
        assert model.report.saturations == {"cell": 0, "output": 0, "initial": 0}
        for formats, layer, (c, wanted) in zip(model.formats, model.layers, state, strict=True):
            assert np.abs(c).max() * 8 < 2.0 ** (TINY.cell_bits - 1 - formats.cell_fraction)
            if layer.w_ym is not None:
                assert np.abs(wanted).max() * 2 < 2.0 ** (TINY.activation_bits - 1 - layer.y_fraction)
    alone = openese.quantize(net, x, "tiny", lengths)
    exact, y, clamped = run_from(net, alone.models, x, lengths, states)
    assert sum(clamped) > 0 and np.sqrt(np.mean((y - exact)**2)) > 10 * found.error.rms_error


def test_a_network_is_calibrated_from_its_own_initial_states():
    given = network(initial=True, head=False)
    x = speech_like(SEED, 30, 3, 3)
    same = openese.quantize(network(head=False), x, "tiny", None, given.start(3))
    found = openese.quantize(given, x, "tiny")
    assert [model.report for model in found.models] == [model.report for model in same.models]
    assert found.error == same.error
    assert found.models[0].report != openese.quantize(network(head=False), x, "tiny").models[0].report


def test_states_of_a_plain_network_are_of_its_one_direction(plain, frames):
    state = tuple(LayerState(np.full((1, layer.cells), 60.0), np.full((1, layer.outputs), 1.5))
                  for layer in plain.layers)
    found = openese.quantize(plain, frames, "tiny", initial=[state])
    exact, y, clamped = run_from(Network.of(openese.Model(layers=plain.layers)), found.models, frames, None, [state])
    assert found.error.rms_error == pytest.approx(np.sqrt(np.mean((y - exact)**2)))
    # y of 1.5 fits only where there is a projection.
    assert clamped == [5 * 12] and found.models[0].report.saturations["initial"] == 5 * 12
    rows = {(row.layer, row.tensor): row for row in found.models[0].report.tensors}
    assert rows["lstm0", "c"].maximum >= 60 and rows["lstm0", "c"].fraction == 14
    with pytest.raises(ValueError, match="initial states of model 'random17' are for 2 voices, but the frames have 5"):
        openese.quantize(plain, frames, "tiny", initial=[tuple(initial_state(plain, 2))])


def test_more_voices_with_states_of_their_own_than_the_error_is_measured_on():
    body = openese.Model(layers=random_model(SEED, 3, 5).layers, name="body")
    voices = pipeline._ERROR_VOICES + 4
    state = LayerState(np.random.default_rng(SEED).normal(size=(voices, 5)), np.zeros((voices, 5)))
    net = Network(stages=(Stage((Direction(body, initial=(state,)),)),))
    found = openese.compile(net, "tiny")
    assert found.summary.calibration == (64, voices) and found.error.voices == pipeline._ERROR_VOICES
    with pytest.raises(ValueError, match="model 'body' has initial states for 20 voices, but the frames have 8"):
        openese.compile(net, "tiny", calibrate=np.zeros((3, 8, 3)))


def test_no_cycle_model_for_what_would_take_minutes(compiled, monkeypatch):
    monkeypatch.setattr(load_module, "_CYCLE_MODEL_ENTRIES", 10)
    load, = openese.CompiledNetwork(compiled.images).summary.loads
    assert (load.cycles_per_step, load.cycles_at_rest) == (None, None) and load.least_cycles > 10


def test_without_frames_formats_are_chosen_on_random_numbers(plain):
    found = openese.compile(plain, "tiny")
    assert found.summary.calibration == (64, 8)
    same = openese.compile(plain, "tiny", calibrate=pipeline.random_frames(Network.of(plain)))
    assert np.array_equal(found.images[0].words(), same.images[0].words())


def test_another_machine_of_the_same_formats(plain, frames):
    quantized = openese.quantize(plain, frames, "tiny")
    found = openese.pack(quantized, "demo")
    assert found.config == preset("demo")
    assert np.array_equal(found.run(frames), openese.pack(quantized).run(frames))


def test_a_file_is_imported(plain, frames, compiled, tmp_path):
    plain.save(tmp_path / "net.npz")
    stages = []
    found = openese.compile(tmp_path / "net.npz", "tiny", density=0.5, calibrate=frames, tell=stages.append)
    assert np.array_equal(found.images[0].words(), compiled.images[0].words())
    assert stages == ["pruning", "choosing number formats", "packing", "measuring the error of pruning"]


def test_parts_must_fit_each_other(plain, frames, compiled, both, tmp_path):
    other = openese.compile(random_model(SEED, 5, 8), "tiny")
    with pytest.raises(FileError, match="part 0 has 6 inputs and 12 outputs, but direction 0 of the network has 5"):
        openese.CompiledNetwork(compiled.images, other.network)
    with pytest.raises(FileError, match="the network has 4 directions, but the number of parts is 1"):
        openese.CompiledNetwork(compiled.images, network())
    quantized = openese.quantize(plain, frames, TINY.replace(channels=4))
    wide = openese.pack(quantized)
    with pytest.raises(FileError, match="the parts of a network are for several machines: tiny .*, tiny"):
        openese.CompiledNetwork((*both[0].images[:3], wide.images[0]), network())


def test_bad_arguments_are_named(plain, frames, compiled):
    with pytest.raises(ValueError, match="no preset 'huge'; there are tiny, demo, ese"):
        openese.compile(plain, "huge")
    with pytest.raises(ValueError, match="backend must be one of reference, sim, not 'gpu'"):
        compiled.run(frames, backend="gpu")
    with pytest.raises(ValueError, match="select and ignore take parts of a file; this network is no file"):
        openese.compile(plain, "tiny", select="lstm")


@pytest.mark.sim
def test_the_verilog_gives_the_same(compiled, both, frames):
    assert np.array_equal(compiled.run(frames[:8], backend="sim"), compiled.run(frames[:8]))
    found, frames = both
    assert np.array_equal(found.run(frames[:8], [8, 4, 0], "sim"), found.run(frames[:8], [8, 4, 0]))


def test_pruning_has_an_error_of_its_own(plain, frames):
    """Against the network that was given; the other error is of the integers alone."""
    body = openese.Model(layers=plain.layers, name="body")
    found = openese.compile(body, "tiny", density=0.2, calibrate=frames)
    exact, _ = Network.of(body).run(frames, [FloatRunner(body)])
    difference = found.run(frames) - exact
    error = found.summary.pruning_error
    assert error.rms_error == pytest.approx(np.sqrt(np.mean(difference**2)))
    assert error.rms_output == pytest.approx(np.sqrt(np.mean(exact**2)))
    assert error.rms_error > 10 * found.summary.error.rms_error
    assert openese.compile(body, "tiny", calibrate=frames).summary.pruning_error is None


@pytest.mark.parametrize("values, reason", [
    (np.ones((3, 2, 6)) * 1j, "expected real numbers, found complex128"),
    (np.ones((3, 2, 6), bool), "expected real numbers, found bool"),
    (np.full((3, 2, 6), "1"), "expected real numbers, found <U1"), ("x.npy", "expected real numbers, found <U5"),
    ([[[1.0], [1.0, 2.0]]], "the rows have different lengths")])
def test_frames_are_real_numbers(plain, compiled, values, reason):
    for use in (lambda: openese.compile(plain, "tiny", calibrate=values), lambda: compiled.run(values)):
        with pytest.raises(ValueError, match=f"frames: {reason}"):
            use()


def test_other_things_are_no_network(plain, frames):
    for given, reason in ((3, "not int"), ("net.npz", "not str: read it by openese.load"),
                          (plain.layers[0], "not Layer")):
        with pytest.raises(TypeError, match=f"expected a Network or Model, {reason}"):
            openese.quantize(given, frames, "tiny")
    with pytest.raises(TypeError, match="expected a QuantizedNetwork, as openese.quantize gives it, not Model"):
        openese.pack(plain)
    with pytest.raises(FileError, match="not none"):
        openese.CompiledNetwork(())
    with pytest.raises(ValueError, match="layer 'a' w_r: it is missing"):
        openese.Layer(name="a", w_x=np.ones((4, 2, 2)), w_r=None, bias=np.ones((4, 2)))


@pytest.mark.parametrize("machine", ["huge", None, ["tiny"], 3])
def test_a_machine_is_a_preset_or_a_config(machine):
    for use in (openese.preset, lambda name: openese.build(name, "a"), openese.Simulator):
        with pytest.raises(ValueError, match="no preset .*; there are tiny, demo"):
            use(machine)


@pytest.mark.parametrize("name", ["", " ", "a\nb", "a */ b"])
def test_the_name_of_a_machine_is_a_line_of_text(name):
    """It stands in comments of Tcl and C."""
    with pytest.raises(ValueError, match="Config name must be a line of text"):
        TINY.replace(name=name)
