# SPDX-License-Identifier: Apache-2.0
"""Dense layers: models, floating point, formats, the reference, images, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
from machines import DENSE, TINY
from models import random_dense, random_model, random_quantized, speech_like

import openese
from openese.rtl.fixed import round_shift, saturate
from openese.sw.cli import main
from openese.sw.model.layers import Dense, Layer, Model, ModelError
from openese.sw.model.network import Direction, Network, Stage
from openese.sw.model.quantized import QuantizedModel, QuantizeError
from openese.sw.model.state import initial_state
from openese.sw.pack.image import ImageFormatError, pack, parse
from openese.sw.pack.schedule import CapacityError, schedule
from openese.sw.prune import prune, slice_counts
from openese.sw.quantize.choose import quantize, requantize
from openese.sw.reference.floating import run
from openese.sw.reference.machine import Reference
from openese.sw.run.device import state_runs
from openese.sw.run.runners import FloatRunner

FUNCTIONS = {"none": lambda z: z, "relu": lambda z: np.maximum(z, 0), "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
             "tanh": np.tanh}
SHAPES = [
    (("none", 7),), (("relu", 24), ("tanh", 16), ("none", 9)), (("tanh", 20), 24), (24, ("none", 9)),
    ((32, 16), ("sigmoid", 12), ("gru", 16), ("relu", 20), ("none", 5))]


@pytest.mark.parametrize("activation", FUNCTIONS)
def test_a_dense_layer_is_affine_with_a_function(activation):
    layer = random_dense(np.random.default_rng(3), "dense", 4, 6, activation)
    x = np.random.default_rng(4).normal(size=(5, 2, 4))
    y, state = run(Model(layers=(layer,)), x)
    np.testing.assert_allclose(y, FUNCTIONS[activation](x @ layer.w_x[0].T + layer.bias[0]), rtol=1e-12)
    assert [part.shape for part in state[0]] == [(2, 0), (2, 0)]
    assert (layer.inputs, layer.cells, layer.outputs, layer.feedback) == (4, 0, 6, 0)
    assert [matrix.label for matrix in layer.matrices()] == ["w_x[y]"]
    assert (layer.weights, layer.parameters) == (24, 30)


@pytest.mark.parametrize("changes, message", [
    ({"activation": "gelu"}, "activation: expected none, relu, sigmoid or tanh, found 'gelu'"),
    ({"w_r": np.ones((1, 3, 3))}, "w_r: a dense layer has none"),
    ({"peephole": np.ones((3, 3))}, "peephole: a dense layer has none"),
    ({"w_ym": np.ones((2, 3))}, "w_ym: a dense layer has none"),
    ({"g_activation": "sigmoid"}, "g_activation: a dense layer has none"),
    ({"bias": None}, "bias: it is missing"),
    ({"bias": np.ones((1, 4))}, "bias: expected shape (1, H) = (1, 3), found (1, 4)"),
    ({"w_x": np.ones((4, 3, 2))}, "w_x: expected shape (1, H, I) = (1, any, any), found (4, 3, 2)")])
def test_wrong_dense_layers_are_named(changes, message):
    fields = {"name": "first", "cell": "dense", "w_x": np.ones((1, 3, 2)), "bias": np.ones((1, 3))} | changes
    with pytest.raises(ModelError) as error:
        Layer(**fields)
    assert str(error.value) == f"layer 'first' {message}"


def test_an_lstm_has_no_activation():
    with pytest.raises(ModelError, match="^layer 'a' activation: an LSTM has none$"):
        Layer(name="a", w_x=np.ones((4, 1, 1)), w_r=np.ones((4, 1, 1)), bias=np.ones((4, 1)), activation="relu")


def test_a_file_gives_the_layers_back(tmp_path):
    model = random_model(3, 5, ("relu", 7), 6, ("none", 4))
    model.save(tmp_path / "net.npz")
    again = Network.load(tmp_path / "net.npz").model
    for before, after in zip(model.layers, again.layers, strict=True):
        assert (after.cell, after.activation, after.name) == (before.cell, before.activation, before.name)
        np.testing.assert_array_equal(after.w_x, before.w_x)
        np.testing.assert_array_equal(after.bias, before.bias)


def test_a_head_becomes_a_layer():
    """A layer of the last model if that runs forwards, else a stage of its own."""
    model = random_model(3, 5, 6, head=4)
    head = Dense(weight=model.head.weight, bias=model.head.bias, activation="tanh")
    forward, back = (Direction(Model(layers=model.layers), reverse) for reverse in (False, True))
    state = initial_state(model, 1)
    both = Dense(weight=np.concatenate([head.weight] * 2, axis=1), bias=head.bias, activation="sigmoid")
    x = speech_like(1, 7, 2, 5)
    for network, shape in (
            (Network(stages=(Stage((forward,)),), head=head), [2]),
            (Network(stages=(Stage((back,)),), head=head), [1, 1]),
            (Network(stages=(Stage((forward, back)),), head=both), [1, 1, 1]),
            (Network(stages=(Stage((replace(forward, initial=tuple(state)),)),), head=head), [2])):
        whole = network.with_dense_head()
        assert [len(direction.model.layers) for direction in whole.directions] == shape
        assert whole.head is None and whole.with_dense_head() is whole
        again = whole.with_host_head()
        assert [len(direction.model.layers) for direction in again.directions] == [1] * len(network.directions)
        assert (again.head.activation, again.directions[0].initial is None) == (
            network.head.activation, network.directions[0].initial is None)
        found, wanted = (one.run(x, [FloatRunner(each.model) for each in one.directions], [7, 4])[0]
                         for one in (whole, network))
        np.testing.assert_allclose(found, wanted, rtol=1e-12)
        np.testing.assert_allclose(again.run(x, [FloatRunner(each.model) for each in again.directions], [7, 4])[0],
                                   wanted, rtol=1e-12)
    named = Network.of(Model(layers=(random_dense(np.random.default_rng(0), "head", 3, 2),),
                             head=Dense(weight=np.ones((1, 2)), bias=np.ones(1))))
    assert [layer.name for layer in named.with_dense_head().model.layers] == ["head", "head_"]


def test_a_head_with_an_activation_is_saved(tmp_path):
    head = Dense(weight=np.ones((2, 6)), bias=np.ones(2), activation="relu")
    Model(layers=random_model(3, 5, 6).layers, head=head).save(tmp_path / "net.npz")
    assert Network.load(tmp_path / "net.npz").head.activation == "relu"
    with pytest.raises(ModelError, match="^head activation: expected none, relu, sigmoid or tanh, found 'gelu'$"):
        Dense(weight=np.ones((2, 6)), bias=np.ones(2), activation="gelu")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_close_to_floating_point(shape, tmp_path):
    """On frames that calibration has not seen; a layer is one to requantize, and to save."""
    model = random_model(2, 20, *shape, peephole=True)
    quantized = quantize(model, speech_like(2, 60, 4, 20), DENSE)
    x = speech_like(102, 120, 4, 20)
    exact = run(model, x)[0]
    y = quantized.dequantize_output(Reference(quantized, 4).run(quantized.quantize_input(x)[0]))
    assert np.sqrt(np.mean((y - exact) ** 2)) < 0.003 * max(1.0, np.sqrt(np.mean(exact ** 2)))
    assert quantized.report.outputs[-1].rms_error < 0.003 * max(1.0, quantized.report.outputs[-1].rms_output)
    again = requantize(model, quantized)
    quantized.save(tmp_path / "quantized.npz")
    loaded = QuantizedModel.load(tmp_path / "quantized.npz")
    for before, *after in zip(quantized.layers, again.layers, loaded.layers, strict=True):
        for layer in after:
            np.testing.assert_array_equal(layer.w_x, before.w_x)
            np.testing.assert_array_equal(layer.bias, before.bias)
            assert layer.activation == before.activation
    x_integers = quantized.quantize_input(x)[0]
    real = run(quantized.floating_point(), np.ldexp(x_integers.astype(float), -quantized.input_fractions))[0]
    assert np.sqrt(np.mean((real - exact) ** 2)) < 0.003 * max(1.0, np.sqrt(np.mean(exact ** 2)))


@pytest.mark.parametrize("of_x, of_w", [(1e-6, 1e5), (1e5, 1e-6), (1e4, 1e3), (1e-4, 1e-5), (1, 0)])
@pytest.mark.parametrize("activation", FUNCTIONS)
def test_any_scale_of_a_sum_without_a_table_has_formats(activation, of_x, of_w):
    layer = random_dense(np.random.default_rng(1), "dense", 8, 5, activation)
    frames = speech_like(1, 30, 2, 8) * of_x
    small = of_x * of_w
    layer = Layer(name="dense", cell="dense", activation=activation, w_x=layer.w_x * of_w, bias=layer.bias * small)
    model = Model(layers=(layer,))
    try:
        quantized = quantize(model, frames, DENSE)
    except QuantizeError as error:
        assert activation in ("sigmoid", "tanh") and small > 1e3 and "fits no 36-bit accumulator" in str(error)
        return
    exact = run(model, frames)[0]
    y = quantized.dequantize_output(Reference(quantized, 2).run(quantized.quantize_input(frames)[0]))
    assert np.abs(y - exact).max() <= 0.01 * max(np.abs(exact).max(), 1e-12 if activation in ("none", "relu") else 1)


@pytest.mark.parametrize("activation", ["none", "relu"])
def test_a_sum_without_a_table_is_rounded_before_its_bias(activation):
    model = random_quantized(5, DENSE, 6, (activation, 9))
    layer, formats = model.layers[0], model.formats[0]
    x = np.random.default_rng(1).integers(-(1 << 15), 1 << 15, (40, 2, 6))
    sums = (x @ layer.w_x[0].T.astype(np.int64)) << layer.align_x[0]
    z = saturate(round_shift(sums, formats.gate_shift[0]), 24) + layer.bias[0]
    reference = Reference(model, 2)
    wanted = saturate(np.maximum(z, 0) if activation == "relu" else z, 16)
    np.testing.assert_array_equal(reference.run(x), wanted)
    clamped = np.count_nonzero((z > 32767) | ((z < -32768) & (activation == "none")))
    assert reference.saturations == {"cell": 0, "output": clamped} and clamped


def test_machines_without_dense_layers_refuse_them():
    model = random_model(1, 5, 6, ("none", 3))
    lacks = ("^layer 'dense1': a dense layer, but config 'tiny' has cells '{}'. Take a machine with cells '{}'$")
    for cells, wanted in (("lstm", "lstm[+]dense"), ("lstm+gru", "lstm[+]gru[+]dense")):
        with pytest.raises(QuantizeError, match=lacks.format(cells.replace("+", "[+]"), wanted)):
            quantize(model, speech_like(1, 9, 1, 5), TINY.replace(cells=cells))
    quantized = random_quantized(1, DENSE, 5, ("none", 3))
    with pytest.raises(QuantizeError, match="a dense layer, but config 'tiny'"):
        schedule(quantized, TINY)


def test_a_dense_layer_is_pruned_as_others_are():
    model = prune(random_model(1, 32, (16, 8), ("none", 12)), 0.25, 4)
    counts = slice_counts(model.layers[1].w_x[0] != 0, 4)
    assert counts.min() == counts.max() == 6


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "tanh"])
def test_an_identity_is_exact(activation):
    """It stays one in integers and under pruning, so that the layer gives its function of each input."""
    identity = Layer(name="alone", cell="dense", activation=activation, w_x=np.eye(9)[None], bias=np.zeros((1, 9)))
    model = Model(layers=(*random_model(5, 6, 9).layers, identity, random_dense(np.random.default_rng(1), "y", 9, 4)))
    pruned = prune(model, 0.1, 4)
    assert identity.is_identity and [layer.is_identity for layer in pruned.layers] == [False, True, False]
    assert np.count_nonzero(pruned.layers[2].w_x) < 9
    for scale in (1.0, 0.01):
        below, *above = model.layers
        scaled = Model(layers=(replace(below, w_x=below.w_x * scale), *above))
        quantized = quantize(scaled, speech_like(5, 60, 2, 6), DENSE).layers[1]
        np.testing.assert_array_equal(quantized.w_x[0], np.eye(9) * 2.0 ** quantized.w_x_fraction[0])


@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
def test_an_image_gives_the_model_back(shape):
    model = random_quantized(2, DENSE, 5, *shape)
    image = parse(pack(schedule(model, DENSE)).words(everything=True).tobytes())
    for before, after in zip(model.layers, image.model().layers, strict=True):
        for tensor in ("w_x", "w_r", "bias"):
            np.testing.assert_array_equal(getattr(after, tensor), getattr(before, tensor))
        for field in ("name", "cell", "activation", "x_fraction", "y_fraction", "w_x_fraction", "align_x"):
            assert getattr(after, field) == getattr(before, field)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_an_image_with_banks_and_its_header(shape):
    """Only the y that is kept or sent is in every bank."""
    config = DENSE.replace(banks=3, vector_depth=512)
    model = random_quantized(2, config, 5, *shape)
    image = parse(pack(schedule(model, config)).words(everything=True).tobytes())
    assert image.manifest["banks"] == 3
    runs = list(state_runs(image, 2))
    assert len(runs) == 2 * sum(layer.feedback > 0 for layer in model.layers)
    assert sum(count for *_, count in runs) == sum(layer.cells + layer.feedback for layer in model.layers)


def test_four_rows_of_biases_take_a_cell_row():
    """36 outputs on 4 PEs are 9 rows; they take accumulators, and 3 cell rows."""
    plan = schedule(random_quantized(1, DENSE, 5, 8, ("none", 36)), DENSE)
    assert plan.needs["cell_rows"] == 2 + 3 and plan.places[1].rows == 9
    with pytest.raises(CapacityError, match=r"needs .*cell_rows 33 \(has 32, 1 short\)"):
        schedule(random_quantized(1, DENSE, 1, ("none", 4 * 4 * 32 + 1)),
                 DENSE.replace(accumulator_rows=1024, vector_depth=2048, entry_depth=4096))


def test_the_host_as_a_way_out():
    """Named where a network fits with its last dense layer on the host, which then computes it."""
    small = DENSE.replace(cell_rows=4)
    tight = random_model(2, 5, 12, ("relu", 4), head=6)
    fits = random_model(2, 5, 12, ("relu", 4))
    x = speech_like(1, 20, 2, 5)
    way = r' short\).*; it fits with its last dense layer on the host: --dense host of openese compile or quantize, ' \
          r'dense="host" in Python$'
    with pytest.raises(CapacityError, match=way) as error:
        openese.compile(tight, small, calibrate=x)
    assert error.value.needs["cell_rows"] == 5
    compiled = openese.compile(tight, small, calibrate=x, dense="host")
    assert len(compiled.images[0].model().layers) == 2 and compiled.network.head is not None
    whole = openese.compile(tight, DENSE, calibrate=x).network
    pruned = openese.prune(whole, 0.5, small, dense="host")
    assert pruned.head is not None and pruned.head.weight.shape == (6, 4)
    for network in (fits, random_model(2, 5, 16, head=6), random_model(2, 5, ("relu", 20), ("none", 60))):
        with pytest.raises(CapacityError, match=" short\\)[^-]*$"):
            openese.compile(network, small.replace(cell_rows=2), calibrate=x)
    turned = Direction(Model(layers=random_model(2, 5, 8).layers), True)
    for machine in (DENSE.replace(vector_depth=64), DENSE.replace(vector_depth=16)):
        stage = Network(stages=(Stage((turned,)),), head=random_model(3, 5, 8, head=70).head)
        with pytest.raises(CapacityError) as error:
            openese.compile(stage, machine, calibrate=x)
        assert ("--dense host" in str(error.value)) == (machine.vector_depth == 64)


@pytest.mark.parametrize("field, value, message", [
    ("activation", "gelu", r"layers\[1\].activation must be none, relu, sigmoid or tanh, not 'gelu'"),
    ("cell", "lstm", r"layers\[1\].cell must be gru or dense where it is given, not 'lstm'"),
    ("cells", 3, r"layers\[1\].cells must be a whole number from 0 to 0, not 3"),
    ("peephole", True, r"layers\[1\].peephole must be false of a dense layer, not True"),
    ("align_r", [0], r"layers\[1\].align_r must be \[\] of a dense layer, not \[0\]"),
    ("outputs", 200, "15 rows of cells have 60 lines of parameters, not 12"),
    ("cell_base", 99, r"layers\[1\].cell_base must be a whole number from 0 to 31"),
    ("activation", None, r"layers\[1\]: 'activation' is missing")])
def test_a_manifest_is_checked(field, value, message):
    image = pack(schedule(random_quantized(2, DENSE, 5, 8, ("tanh", 9)), DENSE))
    manifest = json.loads(json.dumps(image.manifest))
    manifest["layers"][1][field] = value
    if value is None:
        del manifest["layers"][1][field]
    forged = type(image)(image.config, manifest, image.sections)
    with pytest.raises(ImageFormatError, match=message):
        parse(forged.words(everything=True).tobytes())


def test_a_head_is_on_the_machine_or_on_the_host(tmp_path, capsys):
    """Both give the same outputs; with several directions, the head is an image of its own."""
    machine = TINY.replace(cells="lstm+dense")
    model = random_model(3, 10, (8, 5), head=6)
    frames = speech_like(3, 40, 2, 10)
    exact = model.head(run(Model(layers=model.layers), frames)[0])
    for place, kinds in (("machine", ["lstm", "dense"]), ("host", ["lstm"])):
        compiled = openese.compile(model, machine, calibrate=frames, dense=place)
        assert [layer.cell for layer in compiled.images[0].model().layers] == kinds
        assert np.sqrt(np.mean((compiled.run(frames) - exact) ** 2)) < 0.01 * np.sqrt(np.mean(exact**2))
    assert [layer.cell for layer in openese.compile(model, TINY, calibrate=frames).images[0].model().layers] == ["lstm"]
    with pytest.raises(ValueError, match="^dense must be machine or host, not 'both'$"):
        openese.compile(model, machine, dense="both")
    turned = Network(stages=(Stage((Direction(Model(layers=model.layers), True),)),), head=model.head)
    compiled = openese.compile(turned, machine, calibrate=frames)
    compiled.save(tmp_path / "turned")
    again = openese.CompiledNetwork.load(tmp_path / "turned")
    assert len(again.images) == 2 and again.network.head is None
    np.testing.assert_array_equal(again.run(frames), compiled.run(frames))


def test_the_command_has_the_head_on_the_machine_or_on_the_host(tmp_path, capsys):
    random_model(3, 10, (8, 5), head=6).save(tmp_path / "net.npz")
    np.save(tmp_path / "x.npy", speech_like(3, 30, 2, 10))
    of_machine = ["--preset", "tiny", "--set", "cells=lstm+dense"]
    for place, wanted in (("machine", "head "), ("host", "does not hold the dense head")):
        path = str(tmp_path / f"{place}.img")
        assert main(["compile", str(tmp_path / "net.npz"), *of_machine, "--dense", place, "--calibrate",
                     str(tmp_path / "x.npy"), "-o", path]) == 0
        assert wanted in capsys.readouterr().out
    assert main(["prune", str(tmp_path / "net.npz"), *of_machine, "--density", "head=0.5", "-o",
                 str(tmp_path / "sparse.npz")]) == 0
    layers = Network.load(tmp_path / "sparse.npz").model.layers
    assert layers[1].density < 0.5 < layers[0].density == 1
