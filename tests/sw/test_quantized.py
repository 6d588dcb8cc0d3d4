# SPDX-License-Identifier: Apache-2.0
"""The quantized model: every rule of its formats, and its file."""

import dataclasses
import json

import numpy as np
import pytest
from models import random_model, random_quantized, speech_like

from openese.rtl.config import preset
from openese.sw.model.quantized import QuantizedLayer, QuantizedModel, QuantizeError, row_limit
from openese.sw.quantize.choose import quantize
from openese.sw.reference.machine import Reference

TINY = preset("tiny")

MODEL = random_quantized(17, TINY, 3, (5, 4), 6)
FIRST, SECOND = MODEL.layers
GRUS = random_quantized(17, TINY.replace(name="grus", cells="lstm+gru"), 3, ("gru", 5))
BEFORE = random_quantized(17, TINY.replace(name="before", cells="lstm+gru+gru_before"), 3, ("before", 5))


def filled(array, index, value):
    array = np.array(array)
    array[index] = value
    return array


def with_first(**changes):
    return dataclasses.replace(MODEL, layers=(dataclasses.replace(FIRST, **changes), SECOND))


def with_second(**changes):
    return dataclasses.replace(MODEL, layers=(FIRST, dataclasses.replace(SECOND, **changes)))


def with_gru(**changes):
    return dataclasses.replace(GRUS, layers=(dataclasses.replace(GRUS.layers[0], **changes),))


def with_before(**changes):
    return dataclasses.replace(BEFORE, layers=(dataclasses.replace(BEFORE.layers[0], **changes),))


def moved(fractions, by):
    return tuple(fraction + by for fraction in fractions)


@pytest.mark.parametrize("make, message", [
    (lambda: with_first(w_x=filled(FIRST.w_x, (1, 2, 0), -2048)),
     "layer 'lstm0' w_x[1, 2, 0]: -2048 is not within -2047..2047"),
    (lambda: with_first(w_ym=filled(FIRST.w_ym, (3, 4), 2048)),
     "layer 'lstm0' w_ym[3, 4]: 2048 is not within -2047..2047"),
    (lambda: with_first(bias=filled(FIRST.bias, (0, 1), 1 << 19)),
     "layer 'lstm0' bias[0, 1]: 524288 is not within -524288..524287"),
    (lambda: with_first(peephole=filled(FIRST.peephole, (2, 1), -32769)),
     "layer 'lstm0' peephole[2, 1]: -32769 is not within -32768..32767"),
    (lambda: with_first(w_x=FIRST.w_x.astype(float)),
     "layer 'lstm0' w_x: expected integers, found type float64"),
    (lambda: with_first(bias=FIRST.bias.astype(np.int64) << 20),
     "layer 'lstm0' bias: values do not fit 32 bits"),
    (lambda: with_first(w_r=FIRST.w_r[..., :3]),
     "layer 'lstm0' w_r: expected shape (4, H, P) = (4, 5, 4), found (4, 5, 3)"),
    (lambda: with_first(w_x=FIRST.w_x[0]), "layer 'lstm0' w_x: expected shape (4, H, I) = (4, any, any), found (5, 3)"),
    (lambda: with_first(align_x=(0, 1)),
     "layer 'lstm0' align_x: expected one for each of i, f, g, o, found (0, 1)"),
    (lambda: with_first(w_ym_fraction=None),
     "layer 'lstm0' w_ym and w_ym_fraction come together or not at all"),
    (lambda: with_first(g_activation="relu"),
     "layer 'lstm0' g_activation: expected tanh or sigmoid, found 'relu'"),
    (lambda: with_first(align_x=(8, 0, 0, 0)), "layer 'lstm0' align_x[i] must be between 0 and 7, not 8"),
    (lambda: with_first(align_r=(*FIRST.align_r[:3], -1)),
     "layer 'lstm0' align_r[o] must be between 0 and 7, not -1"),
    (lambda: with_first(w_r_fraction=(FIRST.w_r_fraction[0] + 1, *FIRST.w_r_fraction[1:])),
     "layer 'lstm0' gate i: products of x have "),
    (lambda: with_first(w_x_fraction=moved(FIRST.w_x_fraction, 40),
                        w_r_fraction=moved(FIRST.w_r_fraction, 40)),
     "layer 'lstm0' gate_shift[i] must be between 0 and 31, not "),
    (lambda: with_first(w_x_fraction=moved(FIRST.w_x_fraction, -20),
                        w_r_fraction=moved(FIRST.w_r_fraction, -20)),
     "layer 'lstm0' gate_shift[i] must be between 0 and 31, not -"),
    (lambda: with_first(cell_select=8), "layer 'lstm0' cell_select must be between 0 and 7, not 8"),
    (lambda: with_first(peephole_select=-1), "layer 'lstm0' peephole_select must be between 0 and 7, not -1"),
    (lambda: with_first(w_ym_fraction=FIRST.w_ym_fraction + 30),
     "layer 'lstm0' output_shift must be between 0 and 31, not 41"),
    (lambda: with_second(y_fraction=14, w_r_fraction=moved(SECOND.w_r_fraction, 1)),
     "layer 'lstm1' y_fraction must be 15 without projection, not 14"),
    (lambda: with_second(x_fraction=SECOND.x_fraction + 1, w_x_fraction=moved(SECOND.w_x_fraction, -1)),
     f"layer 'lstm1' x_fraction {FIRST.y_fraction + 1} must be y_fraction {FIRST.y_fraction} of layer"),
    (lambda: with_first(x_exponents=(1, 2)),
     "layer 'lstm0' x_exponents: expected one for each of 3 inputs, found 2"),
    (lambda: with_second(x_exponents=(0,) * 4),
     "layer 'lstm1' must have no x_exponents: its input is layer 'lstm0'"),
    (lambda: dataclasses.replace(MODEL, layers=(SECOND, FIRST)),
     "layer 'lstm0' has 3 inputs, layer 'lstm1' before it 6 outputs"),
    (lambda: dataclasses.replace(MODEL, layers=()), "model 'integers17' has no layers"),
    (lambda: dataclasses.replace(MODEL, tanh_table=MODEL.tanh_table[1:]),
     "tanh_table: expected shape (2048,), found (2047,)"),
    (lambda: dataclasses.replace(MODEL, sigmoid_table=filled(MODEL.sigmoid_table, 7, 1 << 17)),
     "model sigmoid_table[7]: 131072 is not within -131072..131071"),
    (lambda: dataclasses.replace(MODEL, sigmoid_range=20), "sigmoid_range must be between 0 and 19, not 20"),
    (lambda: MODEL.check_fits(TINY.replace(cell_bits=25, name="wide")),
     "model 'integers17' was quantized for cell_bits 24; config 'wide' has 25"),
    (lambda: with_gru(bias_rn=None), "layer 'gru0' bias_rn: it is missing"),
    (lambda: with_gru(bias_rn=filled(GRUS.layers[0].bias_rn, 3, -1 - (1 << 19))),
     "layer 'gru0' bias_rn[3]: -524289 is not within -524288..524287"),
    (lambda: with_gru(peephole=np.zeros((3, 5), int)), "layer 'gru0' peephole: a GRU has none"),
    (lambda: with_gru(cell_select=1), "layer 'gru0' cell_select must be 0 of a GRU, not 1"),
    (lambda: with_gru(y_fraction=14, w_r_fraction=moved(GRUS.layers[0].w_r_fraction, 1)),
     "layer 'gru0' y_fraction must be 15 without projection, not 14"),
    (lambda: with_gru(w_x_fraction=moved(GRUS.layers[0].w_x_fraction, 1)),
     "layer 'gru0' gate r: products of x have "),
    (lambda: with_gru(w_r_fraction=(*GRUS.layers[0].w_r_fraction[:2], 60)),
     "layer 'gru0' gate_shift[n_h] must be between 0 and 31, not "),
    (lambda: dataclasses.replace(GRUS, config=TINY),
     "layer 'gru0': a GRU, but config 'tiny' has cells 'lstm'. Take a machine with cells 'lstm+gru'"),
    (lambda: GRUS.check_fits(TINY), "layer 'gru0': a GRU, but config 'tiny' has cells 'lstm'"),
    (lambda: with_before(bias_rn=np.zeros(5, int)), "layer 'gru0' bias_rn: a GRU without reset_after has none"),
    (lambda: with_before(w_r_fraction=(*BEFORE.layers[0].w_r_fraction[:2], 60)),
     "layer 'gru0' gate n: products of x have "),
    (lambda: with_before(w_r=np.full((3, 5, 5), 2047), align_r=(0, 0, 7),
                         w_r_fraction=moved(BEFORE.layers[0].w_r_fraction, 0)), "layer 'gru0' gate "),
    (lambda: BEFORE.check_fits(TINY.replace(cells="lstm+gru+dense")),
     "layer 'gru0': a GRU with the reset before the product, but config 'tiny' has cells 'lstm+gru+dense'. Take a "
     "machine with cells 'lstm+gru+gru_before+dense'"),
    (lambda: MODEL.quantize_input([[0, np.nan, 0]]), "x[0, 1]: nan is not a finite number"),
])
def test_every_rule_has_its_message(make, message):
    with pytest.raises(QuantizeError) as error:
        make()
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_the_accumulator_bound_is_exact():
    """A row may sum to one below the limit, with the worst activations, and not to the limit."""
    limit = row_limit(TINY)
    w_x = np.zeros((4, 1, 600), np.int64)
    w_x[2, 0, :512] = 2047
    w_x[2, 0, 512] = limit - 1 - 512 * 2047
    fields = {"name": "edge", "w_r": np.zeros((4, 1, 1), int), "bias": np.zeros((4, 1), int),
              "x_fraction": 15, "y_fraction": 15, "w_x_fraction": (11,) * 4, "w_r_fraction": (11,) * 4,
              "align_x": (0,) * 4, "align_r": (0,) * 4, "cell_select": 0, "peephole_select": 0}
    model = dataclasses.replace(MODEL, layers=(QuantizedLayer(w_x=w_x, **fields),))
    reference = Reference(model, 2)
    reference.step(np.repeat([[-32768], [32767]], 600, axis=1))
    w_x[2, 0, 513] = -1
    with pytest.raises(QuantizeError, match=rf"layer 'edge' gate g row 0: weights sum to {limit}, which can "
                                            rf"overflow 36-bit accumulators \(must be below {limit}\)"):
        dataclasses.replace(MODEL, layers=(QuantizedLayer(w_x=w_x, **fields),))
    w_ym = np.full((2, 5), 2047)
    with pytest.raises(QuantizeError, match=r"w_ym row 0: weights sum to 10235"):
        dataclasses.replace(MODEL, config=TINY.replace(row_nonzeros=4), layers=(dataclasses.replace(
            FIRST, w_x=FIRST.w_x * 0, w_r=FIRST.w_r[:, :, :2] * 0, w_ym=w_ym),))


@pytest.mark.parametrize("layers, cells", [
    (((8, 4), 5), "lstm"), ((("gru", 8), (6, 4), ("gru", 5)), "lstm+gru"),
    ((("before", 8), (6, 4), ("gru", 5), ("before", 3)), "lstm+gru+gru_before")])
def test_the_file_gives_the_model_back(layers, cells, tmp_path):
    path = tmp_path / "quantized"
    model = quantize(random_model(18, 6, *layers, peephole=True, head=2), speech_like(18, 20, 2, 6),
                     TINY.replace(cells=cells))
    model.save(path)
    again = QuantizedModel.load(path)
    for before, after in zip(model.layers, again.layers, strict=True):
        for field in dataclasses.fields(before):
            np.testing.assert_array_equal(getattr(after, field.name), getattr(before, field.name))
    assert (again.name, again.config, again.report) == (model.name, model.config, model.report)
    assert (again.sigmoid_range, again.tanh_range, again.formats) == (4, 3, model.formats)
    np.testing.assert_array_equal(again.tanh_table, model.tanh_table)
    np.testing.assert_array_equal(again.head.weight, model.head.weight)
    again.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_wrong_files_are_refused(tmp_path):
    MODEL.save(tmp_path / "model")
    with np.load(tmp_path / "model") as archive:
        arrays = dict(archive)
    manifest = json.loads(str(arrays["manifest"]))

    def saved(name, **changes):
        np.savez(tmp_path / f"{name}.npz", **{**arrays, **changes})
        return tmp_path / f"{name}.npz"

    with pytest.raises(QuantizeError, match="quantized model has version 2, this program reads 1"):
        QuantizedModel.load(saved("later", manifest=json.dumps({**manifest, "openese-quantized": 2})))
    with pytest.raises(QuantizeError, match=r"w_x\[0, 0, 0\]: 9999 is not within"):
        QuantizedModel.load(saved("rule", **{"layer0.w_x": filled(arrays["layer0.w_x"], (0, 0, 0), 9999)}))
    random_model(19, 3, 4).save(tmp_path / "float.npz")
    (tmp_path / "text.npz").write_text("hello")
    broken = [{**manifest, "layers": [{}]}, {**manifest, "config": {"pes": 3}}, []]
    for path in (*(saved(f"broken{n}", manifest=json.dumps(fields)) for n, fields in enumerate(broken)),
                 saved("json", manifest="{"), tmp_path / "float.npz"):
        with pytest.raises(QuantizeError, match=rf"{path.name}: not a quantized model \("):
            QuantizedModel.load(path)
    with pytest.raises(QuantizeError, match=r"text.npz: not an .npz"):
        QuantizedModel.load(tmp_path / "text.npz")
