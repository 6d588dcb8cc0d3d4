# SPDX-License-Identifier: Apache-2.0
"""Quantization: accuracy against floating point, and the choices that calibration makes."""

import dataclasses
import json
import re
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import random_gru, random_model, speech_like

from openese.rtl.config import preset
from openese.rtl.fixed import to_fixed
from openese.sw.model.layers import Model
from openese.sw.model.quantized import QuantizedModel, QuantizeError, row_limit
from openese.sw.model.report import Report
from openese.sw.pack.image import pack, read
from openese.sw.pack.schedule import schedule
from openese.sw.prune import prune
from openese.sw.quantize.calibrate import max_fraction
from openese.sw.quantize.choose import quantize, requantize
from openese.sw.reference import floating
from openese.sw.reference.machine import Reference

TINY = preset("tiny")
GRU = TINY.replace(name="grus", cells="lstm+gru+gru_before")


def output_error(model, quantized, frames):
    """RMS difference of the integer reference from floating point at y, as a share of y's RMS."""
    exact, _ = floating.run(model, frames)
    x, _ = quantized.quantize_input(frames)
    y = quantized.dequantize_output(Reference(quantized, frames.shape[1]).run(x))
    return np.sqrt(np.mean((y - exact) ** 2) / np.mean(exact ** 2))


def changed(layer, **tensors):
    """``layer`` with functions applied to its tensors."""
    return dataclasses.replace(layer, **{name: function(np.array(getattr(layer, name)))
                                         for name, function in tensors.items()})


def with_first_column(value):
    """A function that fills the weights of the first input with ``value``."""
    return lambda w: np.concatenate([np.full_like(w[..., :1], value), w[..., 1:]], axis=2)


def row_sums(layer):
    w_x, w_r = (np.abs(weights.astype(int)) << np.reshape(align, (4, 1, 1))
                for weights, align in ((layer.w_x, layer.align_x), (layer.w_r, layer.align_r)))
    return w_x.sum(axis=2) + w_r.sum(axis=2)


# -- accuracy ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers, peephole, g_activation, bound", [
    ((24,), False, "tanh", 0.003),
    (((32, 16),), True, "tanh", 0.003),
    (((32, 16),), True, "sigmoid", 0.003),
    (((32, 16), (24, 12), 16), True, "tanh", 0.005),
])
@pytest.mark.parametrize("seed", [1, 2, 5])
def test_close_to_floating_point(layers, peephole, g_activation, bound, seed):
    """On frames that calibration has not seen: 12-bit weights cost a few parts in a thousand."""
    model = random_model(seed, 20, *layers, peephole=peephole, g_activation=g_activation)
    quantized = quantize(model, speech_like(seed, 60, 4, 20), TINY)
    fresh = speech_like(seed + 100, 120, 4, 20)
    assert output_error(model, quantized, fresh) < bound


@pytest.mark.parametrize("layers, bound", [
    ((("gru", 24),), 0.003), ((("gru", 32), (24, 12), ("gru", 16)), 0.005),
    ((("before", 24),), 0.003), ((("before", 32), (24, 12), ("before", 16)), 0.005)])
@pytest.mark.parametrize("seed", [1, 2])
def test_grus_are_close_to_floating_point(layers, bound, seed):
    model = random_model(seed, 20, *layers, peephole=True)
    quantized = quantize(model, speech_like(seed, 60, 4, 20), GRU)
    assert output_error(model, quantized, speech_like(seed + 100, 120, 4, 20)) < bound
    again = requantize(model, quantized)
    for before, after in zip(quantized.layers, again.layers, strict=True):
        for tensor in ("w_x", "w_r", "bias", "bias_rn"):
            np.testing.assert_array_equal(getattr(after, tensor), getattr(before, tensor))


def test_a_gru_that_hardly_forgets_keeps_its_bits():
    """Its state has more bits than y, so it follows floating point where z is near 1, and a step moves it by less
    than a bit of y."""
    model = random_model(4, 6, ("gru", 12), scale=0.5)
    layer = changed(model.layers[0], bias=lambda b: b + np.array([[0], [7.5], [0]]))
    model, frames = Model(layers=(layer,)), speech_like(4, 400, 2, 6)
    quantized = quantize(model, frames, GRU.replace(weight_bits=16))
    moves = np.abs(np.diff(floating.run(model, frames)[0], axis=0))
    assert np.median(moves) < 2 * 2.0 ** -15 * 2 ** 3
    assert output_error(model, quantized, frames) < 0.002


def test_the_products_of_n_have_formats_of_their_own():
    """One is a thousand times the other; in one accumulator they could not meet."""
    model = random_model(6, 8, ("gru", 10))
    layer = changed(model.layers[0], w_x=lambda w: w * np.array([1, 1, 1000])[:, None, None])
    frames = speech_like(6, 40, 2, 8) / 1000
    quantized, = quantize(Model(layers=(layer,)), frames, GRU).layers
    for weights in (quantized.w_x, quantized.w_r):
        assert np.abs(weights[2]).max() > 500
    assert quantized.align_x[2] == quantized.align_r[2] == 0


def test_the_products_of_n_meet_if_the_reset_is_before():
    """Then they are sums of one accumulator, like those of the other gates."""
    model = random_model(6, 8, ("before", 10))
    quantized = quantize(model, speech_like(6, 40, 2, 8), GRU)
    layer, = quantized.layers
    sums, = quantized.formats
    assert layer.accumulators == ("r", "z", "n") and len(sums.accumulator_fraction) == len(sums.gate_shift) == 3
    of_y = [w + align + layer.y_fraction for w, align in zip(layer.w_r_fraction, layer.align_r, strict=True)]
    assert list(sums.accumulator_fraction) == of_y
    report = {tensor.tensor: tensor for tensor in quantized.report.tensors}
    assert report["rh"].bits == TINY.activation_bits and report["rh"].rms_error < 1e-3 and "n_h" not in report


def test_more_weight_bits_are_closer():
    model = prune(random_model(3, 20, (32, 16), peephole=True), 0.5, 4)
    frames = speech_like(3, 60, 4, 20)
    errors = [output_error(model, quantize(model, frames, TINY.replace(weight_bits=bits)), frames)
              for bits in (6, 9, 12, 15)]
    assert errors[0] > 3 * errors[1] > 9 * errors[2] and errors[2] > errors[3]
    assert errors[0] < 0.2


@pytest.mark.parametrize("widths", [
    {"weight_bits": 4, "activation_bits": 12, "cell_bits": 16},
    {"weight_bits": 18, "activation_bits": 18, "cell_bits": 27},
    {"weight_bits": 8, "activation_bits": 12, "cell_bits": 14},
])
def test_other_widths(widths):
    model = random_model(4, 12, (16, 8), 12, peephole=True)
    frames = speech_like(4, 40, 3, 12)
    quantized = quantize(model, frames, TINY.replace(**widths))
    assert max(np.abs(layer.w_x).max() for layer in quantized.layers) < 1 << (widths["weight_bits"] - 1)
    bound = 8 * 2.0 ** -min(widths["weight_bits"], widths["activation_bits"], widths["cell_bits"] - 4)
    assert output_error(model, quantized, frames) < max(bound, 1e-4)


def test_a_large_cell_state_has_room():
    """Forget gates that never forget let c grow past 100; its format follows."""
    model = random_model(5, 6, 12)
    layer = changed(model.layers[0], bias=lambda b: b + np.array([[3], [9], [2], [0]]))
    model = Model(layers=(layer,))
    frames = speech_like(5, 200, 2, 6)
    quantized = quantize(model, frames, TINY)
    c = next(row for row in quantized.report.tensors if row.tensor == "c")
    assert max(-c.minimum, c.maximum) > 100
    assert quantized.formats[0].cell_fraction == c.fraction == 13
    assert c.saturated == 0 and quantized.report.saturations["cell"] == 0
    assert output_error(model, quantized, frames) < 0.005


# -- choices -----------------------------------------------------------------------------------------------


def test_the_papers_table_ranges_are_measurably_worse():
    """Sigmoid on [-64, 64] and tanh on [-128, 128], as the paper, against [-16, 16] and [-8, 8]."""
    model = random_model(6, 20, (32, 16), peephole=True)
    frames = speech_like(6, 60, 4, 20)
    config = TINY.replace(weight_bits=16)
    measured = quantize(model, frames, config)
    paper = quantize(model, frames, config, sigmoid_range=6, tanh_range=7)
    assert (measured.sigmoid_range, measured.tanh_range) == (4, 3)
    errors = measured.report.table_errors
    assert errors["sigmoid"]["6"] > 3 * errors["sigmoid"]["4"]
    assert errors["tanh"]["7"] > 50 * errors["tanh"]["3"]
    assert errors["sigmoid"]["4"] < 1e-5 and errors["tanh"]["3"] < 1e-5
    assert output_error(model, paper, frames) > 5 * output_error(model, measured, frames)


def test_a_bias_beyond_a_table_widens_it():
    model = random_model(7, 8, 12)
    layer = changed(model.layers[0], bias=lambda b: np.concatenate([b[:1] - 40, b[1:]]),
                    w_x=lambda w: np.concatenate([w[:1] * 0 + 5, w[1:]]))
    frames = np.abs(speech_like(7, 40, 3, 8))
    quantized = quantize(Model(layers=(layer,)), frames, TINY)
    assert quantized.sigmoid_range == 6
    bias = next(row for row in quantized.report.tensors if row.tensor == "bias[i]")
    assert bias.saturated == 0


def test_outliers_among_the_weights_are_clipped_where_that_is_better():
    """A few huge weights on an input that hardly moves must not cost all others their precision."""
    model = random_model(8, 40, 24)
    model = Model(layers=(changed(model.layers[0], w_x=with_first_column(30)),))
    frames = speech_like(8, 60, 4, 40)
    frames[..., 0] *= 1e-4
    quantized = quantize(model, frames, TINY)
    unclipped = max_fraction(30, TINY.weight_bits)
    assert min(quantized.layers[0].w_x_fraction) > unclipped
    rows = {row.tensor: row for row in quantized.report.tensors}
    assert rows["w_x[i]"].saturated == 24
    assert output_error(model, quantized, frames) < 0.01


def test_frames_to_come_may_be_twice_as_loud():
    """With 16-bit weights the rounding of x is felt, and a format that clips new frames would look better."""
    model = random_model(6, 20, (32, 16), peephole=True)
    frames = speech_like(6, 60, 4, 20)
    quantized = quantize(model, frames, TINY.replace(weight_bits=16))
    assert quantized.quantize_input(2 * frames)[1] == 0
    assert output_error(model, quantized, speech_like(106, 120, 4, 20)) < 0.001


def test_outliers_among_the_inputs_are_clipped_where_that_is_better():
    """Values that drown in a saturated gate anyway."""
    model = random_model(9, 8, 16, scale=0.5)
    layer = changed(model.layers[0], w_x=lambda w: with_first_column(4)(w * 300))
    frames = speech_like(9, 64, 4, 8) * 1e-3
    frames[..., 0] = 30 * (np.random.default_rng(9).random((64, 4)) < 0.01)
    model = Model(layers=(layer,))
    quantized = quantize(model, frames, TINY)
    assert quantized.layers[0].x_fraction > max_fraction(30, 16)
    x = next(row for row in quantized.report.tensors if row.tensor == "x")
    assert x.saturated > 0
    assert quantized.quantize_input(frames)[1] == x.saturated


@cache
def spread():
    """A model whose inputs reach from 2**-14 to 8, as the powers of bands do, with weights that make up for it."""
    model = random_model(21, 16, (24, 12), 5)
    sizes = np.ldexp(1.0, np.linspace(-14, 3, 16).round().astype(int))
    model = dataclasses.replace(model, layers=(changed(model.layers[0], w_x=lambda w: w / sizes / 4),))
    return model, speech_like(21, 64, 4, 16) * sizes


def test_inputs_of_very_different_size_are_scaled_apart():
    model, frames = spread()
    quantized = quantize(model, frames, TINY)
    exponents = quantized.layers[0].x_exponents
    assert exponents[0] - exponents[-1] >= 15
    assert output_error(model, quantized, frames) < 0.01
    plain = dataclasses.replace(quantized, layers=(dataclasses.replace(quantized.layers[0], x_exponents=()),))
    assert output_error(model, plain, frames) > 0.1
    exact = model.layers[0].w_x
    np.testing.assert_allclose(quantized.floating_point().layers[0].w_x, exact, atol=0.01 * np.abs(exact).max())
    assert quantized.report.outputs[0].rms_error < 0.01 * quantized.report.outputs[0].rms_output


def test_scaled_inputs_stay_in_files_and_with_other_weights(tmp_path):
    model, frames = spread()
    quantized = quantize(model, frames, TINY)
    again = requantize(model, quantized)
    quantized.save(tmp_path / "model.npz")
    image = pack(schedule(quantized, TINY))
    image.save(tmp_path / "model.img")
    for other in (again, QuantizedModel.load(tmp_path / "model.npz"), read(tmp_path / "model.img").model()):
        assert other.layers[0].x_exponents == quantized.layers[0].x_exponents
        assert np.array_equal(other.layers[0].w_x, quantized.layers[0].w_x)
        assert np.array_equal(other.quantize_input(frames)[0], quantized.quantize_input(frames)[0])


def test_inputs_that_are_never_used_get_the_most_room():
    model, frames = spread()
    frames = frames.copy()
    frames[..., 3] = 0
    exponents = quantize(model, frames, TINY).layers[0].x_exponents
    assert exponents[3] == min(exponents)


def test_inputs_of_one_size_are_not_scaled():
    model = random_model(6, 20, (32, 16), peephole=True)
    assert quantize(model, speech_like(6, 60, 4, 20), TINY).layers[0].x_exponents == ()


def test_binary_points_that_cannot_meet_give_way():
    """x with few fraction bits and small w_r: their products are further apart than alignment can shift."""
    model = random_model(10, 8, 16)
    layer = changed(model.layers[0], w_r=lambda w: w / 8)
    frames = speech_like(10, 60, 4, 8) * 2000
    layer = changed(layer, w_x=lambda w: w / 20)
    quantized = quantize(Model(layers=(layer,)), frames, TINY)
    integers = quantized.layers[0]
    assert max(integers.align_x) == 7 and max(integers.align_r) == 0
    assert output_error(Model(layers=(layer,)), quantized, frames) < 0.05


def test_rows_that_could_overflow_lose_bits():
    """Twelve-bit weights of full scale, a thousand to a row, exceed what the accumulators are proven for."""
    rng = np.random.default_rng(11)
    model = random_model(11, 1500, 4)
    layer = changed(model.layers[0], w_x=lambda w: rng.choice([-0.1, 0.1], w.shape))
    model = Model(layers=(layer,))
    frames = speech_like(11, 20, 2, 1500) / 10
    quantized = quantize(model, frames, TINY)
    sums = row_sums(quantized.layers[0])
    assert row_limit(TINY) / 4 < sums.max() < row_limit(TINY)
    assert max(quantized.layers[0].w_x_fraction) < max_fraction(0.1, TINY.weight_bits)


@pytest.mark.parametrize("sizes, zeros", [
    *(((8, 4), zeros) for zeros in (("w_x",), ("w_r",), ("w_x", "w_r"), ("w_x", "w_r", "w_ym", "bias"))),
    *((("gru", 8), zeros) for zeros in (("w_x",), ("w_r",), ("w_x", "w_r", "bias", "bias_rn"))),
    *((("before", 8), zeros) for zeros in (("w_x",), ("w_r",), ("w_x", "w_r", "bias")))])
def test_matrices_of_zeros(sizes, zeros):
    model = random_model(12, 6, sizes, peephole=True)
    layer = changed(model.layers[0], **dict.fromkeys(zeros, lambda w: w * 0))
    model = Model(layers=(layer,))
    frames = speech_like(12, 20, 2, 6)
    quantized = quantize(model, frames, GRU)
    exact, _ = floating.run(model, frames)
    y = quantized.dequantize_output(Reference(quantized, 2).run(quantized.quantize_input(frames)[0]))
    np.testing.assert_allclose(y, exact, atol=2e-3)


def test_frames_of_zeros():
    model = random_model(13, 6, (8, 4), 5)
    quantized = quantize(model, np.zeros((5, 1, 6)), TINY)
    assert output_error(model, quantized, np.zeros((20, 2, 6))) < 0.01


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2 ** 32 - 1), st.floats(-9, 9), st.floats(-9, 9), st.floats(-9, 9),
       st.sampled_from([(5, 3), ("gru", 5), ("before", 5)]))
def test_any_scale_gives_formats_that_hold(seed, of_x, of_w_x, of_w_r, sizes):
    """Whatever the magnitudes: a model that obeys all rules, or one sentence that says what does not."""
    model = random_model(seed, 4, sizes, peephole=True)
    layer = changed(model.layers[0], w_x=lambda w: w * 10.0 ** of_w_x, w_r=lambda w: w * 10.0 ** of_w_r)
    frames = speech_like(seed, 8, 2, 4) * 10.0 ** of_x
    try:
        quantized = quantize(Model(layers=(layer,)), frames, GRU)
    except QuantizeError as error:
        assert re.search("(meet in|fits) no 36-bit accumulator with at least", str(error))
        assert max(of_x + of_w_x, of_w_r) > 3
    else:
        assert quantized.layers[0].row_sums().max() < row_limit(TINY)


def test_the_same_input_gives_the_same_integers(tmp_path):
    for name in ("first", "second"):
        quantize(random_model(14, 6, (8, 4)), speech_like(14, 30, 3, 6), TINY).save(tmp_path / name)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


@given(st.floats(-1e6, 1e6), st.integers(-8, 30))
def test_to_fixed_rounds_half_up(value, fraction):
    integer = int(to_fixed(value, fraction))
    assert -0.5 <= integer - value * 2.0 ** fraction <= 0.5
    assert to_fixed([-1.5, -0.5, 0.5, 1.5], 0).tolist() == [-1, 0, 1, 2]
    assert int(to_fixed(1e300, fraction)) == 1 << 62


@given(st.floats(1e-9, 1e9), st.integers(2, 18))
def test_max_fraction_is_the_most_that_fits(peak, bits):
    fraction = max_fraction(peak, bits)
    limit = (1 << (bits - 1)) - 1
    assert peak * 2.0 ** fraction <= limit < peak * 2.0 ** (fraction + 1)


def test_wrong_frames_are_named():
    model = random_model(15, 6, 8)
    for shape in ((10, 6), (10, 2, 5), (0, 2, 6)):
        with pytest.raises(QuantizeError, match=r"^frames: expected shape \(T, B, 6\), found \("):
            quantize(model, np.zeros(shape), TINY)
    frames = np.zeros((4, 2, 6))
    frames[3, 1, 2] = np.inf
    gru, before = (Model(layers=(random_gru(np.random.default_rng(0), "a", 3, 5, reset_after=after),))
                   for after in (True, False))
    with pytest.raises(QuantizeError, match=r"^layer 'a': a GRU, but config 'tiny' has cells 'lstm'"):
        quantize(gru, np.zeros((4, 1, 3)), TINY)
    with pytest.raises(QuantizeError, match=r"^layer 'a': a GRU with the reset before the product, but config 'tiny' "
                                            r"has cells 'lstm[+]gru'. Take .+ 'lstm[+]gru[+]gru_before'$"):
        quantize(before, np.zeros((4, 1, 3)), TINY.replace(cells="lstm+gru"))
    with pytest.raises(QuantizeError, match=r"^layer 'a' bias_rn: expected shape None, found \(5,\)"):
        requantize(gru, quantize(before, np.ones((4, 1, 3)), GRU))
    with pytest.raises(QuantizeError, match=r"^frames\[3, 1, 2\] is not a finite number$"):
        quantize(model, frames, TINY)


# -- report ------------------------------------------------------------------------------------------------


def test_the_report_says_what_was_measured():
    model = random_model(16, 6, (8, 4), 5, peephole=True)
    frames = speech_like(16, 30, 3, 6)
    quantized = quantize(model, frames, TINY)
    report = quantized.report
    rows = {(row.layer, row.tensor): row for row in report.tensors}
    assert len(rows) == len(report.tensors)
    assert [row.tensor for row in report.tensors if row.layer == "lstm1"][-8:] == [
        "x", "z[i]", "z[f]", "z[g]", "z[o]", "c", "m", "y"]
    x, w_r = rows["lstm0", "x"], rows["lstm0", "w_r[g]"]
    assert (x.minimum, x.maximum, x.count) == (frames.min(), frames.max(), frames.size)
    assert w_r.fraction == quantized.layers[0].w_r_fraction[2]
    weights = quantized.layers[0].w_r[2] * 2.0 ** -w_r.fraction
    np.testing.assert_allclose(w_r.rms_error, np.sqrt(np.mean((weights - model.layers[0].w_r[2]) ** 2)))
    exact, _ = floating.run(model, frames)
    assert report.outputs[1].rms_output == pytest.approx(np.sqrt(np.mean(exact ** 2)))
    assert report.outputs[1].rms_error / report.outputs[1].rms_output == pytest.approx(
        output_error(model, quantized, frames))
    assert Report.from_dict(json.loads(json.dumps(report.to_dict()))) == report
    assert len(str(report).splitlines()) == 1 + len(report.tensors) + 2 + 2 + 1
