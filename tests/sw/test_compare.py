# SPDX-License-Identifier: Apache-2.0
"""Both references side by side: layer after layer gives what the whole models give, step by step."""

import dataclasses
import gc

import numpy as np
import pytest
from models import random_model, speech_like

from openese.rtl.config import preset
from openese.sw.model.layers import Model
from openese.sw.model.state import LayerState
from openese.sw.quantize import compare
from openese.sw.quantize.choose import quantize, requantize
from openese.sw.reference import floating, machine
from openese.sw.reference.machine import Reference

TINY = preset("tiny")
MODEL = random_model(3, 12, (16, 8), 10, (12, 6), peephole=True, scale=3)
MODEL = Model(layers=tuple(dataclasses.replace(layer, bias=layer.bias / 100) for layer in MODEL.layers))
FRAMES = 2 * speech_like(3, 40, 3, 12)
LENGTHS = np.full(3, 40)
# On frames so quiet that those above saturate.
QUANTIZED = quantize(MODEL, FRAMES / 1000, TINY)


def observed(run):
    """What a reference shows, {(layer, tensor): [values of each step]}."""
    seen = {}
    run(lambda layer, tensor, values: seen.setdefault((layer, tensor), []).append(values))
    return {key: np.array(values) for key, values in seen.items()}


def state(scale):
    rng = np.random.default_rng(3)
    return tuple(LayerState(*(scale * rng.normal(size=(3, size)) for size in (layer.cells, layer.outputs)))
                 for layer in MODEL.layers)


@pytest.mark.parametrize("held", [1, 500, 1 << 18])
@pytest.mark.parametrize("scale", [0, 0.1], ids=["from zero", "from a state"])
def test_layer_after_layer_equals_the_whole_models(held, scale, monkeypatch):
    monkeypatch.setattr(compare, "_BLOCK_NUMBERS", held)
    start = state(scale)
    report = compare.compare(MODEL, QUANTIZED, FRAMES, LENGTHS, start, {})
    machine = Reference(QUANTIZED, 3)
    integers, unfit = QUANTIZED.quantize_state(start)
    machine.c, machine.y = [layer.c for layer in integers], [layer.y for layer in integers]
    exact = observed(lambda observe: floating.run(MODEL, FRAMES, start, observe))
    integers = observed(lambda observe: machine.run(QUANTIZED.quantize_input(FRAMES)[0], observe=observe))
    assert report.saturations == machine.saturations | {"initial": unfit} and sum(machine.saturations.values()) > 0
    assert (unfit > 0) == (scale > 0)
    rows = {(row.layer, row.tensor): row for row in report.tensors}
    for number, (layer, error) in enumerate(zip(QUANTIZED.layers, report.outputs, strict=True)):
        for tensor, fraction in (("x", layer.x_fraction), ("m", 15),
                                 ("c", QUANTIZED.formats[number].cell_fraction), ("y", layer.y_fraction)):
            row, values = rows[layer.name, tensor], exact[number, tensor]
            whole = np.append(values, getattr(start[number], tensor, values))
            assert (row.minimum, row.maximum, row.count) == (
                pytest.approx(whole.min()), pytest.approx(whole.max()), values.size)
            difference = np.ldexp(integers[number, tensor].astype(float), -fraction) - values
            assert row.rms_error == pytest.approx(np.sqrt(np.mean(difference ** 2)))
        assert error.max_error == pytest.approx(np.abs(difference).max())


def row_by_definition(tensor, exact, integers, bits, fraction, held):
    """A row of the report from all values of a tensor; ``held`` are values that widen the range only."""
    high = 2 ** (bits - 1) - 1
    low = -high if tensor.startswith("w_") else -high - 1
    rounded = np.floor(exact * 2.0 ** fraction + 0.5)
    whole = np.append(exact, held)
    expected = np.clip(exact, low / 2.0 ** fraction, high / 2.0 ** fraction) if tensor[0] == "z" else exact
    return {"bits": bits, "fraction": fraction, "count": exact.size, "minimum": whole.min(), "maximum": whole.max(),
            "saturated": ((rounded < low) | (rounded > high)).sum(),
            "rms_error": np.sqrt(np.mean((integers / 2.0 ** fraction - expected) ** 2))}


@pytest.mark.parametrize("sign", [1, -1])
def test_every_row_equals_its_definition(sign):
    """On tensors with values beyond their formats, zeros, and values too small for them."""
    rng = np.random.default_rng(5)

    def changed(values):
        """Peepholes and w_ym have one sign, so only their zeros make the range reach zero."""
        sizes = rng.choice([0, 1e-6, 1, 1, 40], values.shape)
        return sizes * (sign * np.abs(values) if values.ndim == 2 and values.shape[0] != 4 else values)

    tensors = ("w_x", "w_r", "bias", "peephole", "w_ym")
    layers = [dataclasses.replace(layer, **{name: changed(getattr(layer, name)) for name in tensors
                                            if getattr(layer, name) is not None}) for layer in MODEL.layers]
    model = Model(layers=tuple(layers))
    quantized = requantize(model, QUANTIZED)
    report = compare.compare(model, quantized, FRAMES, LENGTHS, state(30), {})
    exact = observed(lambda observe: floating.run(model, FRAMES, state(30), observe))
    machine = Reference(quantized, 3)
    start = quantized.quantize_state(state(30))[0]
    machine.c, machine.y = [layer.c for layer in start], [layer.y for layer in start]
    integers = observed(lambda observe: machine.run(quantized.quantize_input(FRAMES)[0], observe=observe))
    wanted = {}
    for number, (layer, whole, formats) in enumerate(zip(layers, quantized.layers, quantized.formats, strict=True)):
        name = layer.name
        for n, gate in enumerate("ifgo"):
            for tensor, fractions in (("w_x", whole.w_x_fraction), ("w_r", whole.w_r_fraction)):
                wanted[name, f"{tensor}[{gate}]"] = (getattr(layer, tensor)[n], getattr(whole, tensor)[n],
                                                     TINY.weight_bits, fractions[n], [])
            wanted[name, f"bias[{gate}]"] = (layer.bias[n], whole.bias[n], TINY.argument_bits,
                                             formats.argument_fraction[n], [])
            wanted[name, f"z[{gate}]"] = (exact[number, "z"][:, n], integers[number, "z"][:, n], TINY.argument_bits,
                                          formats.argument_fraction[n], [])
        wanted[name, "peephole"] = (layer.peephole, whole.peephole, TINY.peephole_bits, formats.peephole_fraction, [])
        if layer.w_ym is not None:
            wanted[name, "w_ym"] = (layer.w_ym, whole.w_ym, TINY.weight_bits, whole.w_ym_fraction, [])
        for tensor, bits, fraction in (
                ("x", TINY.activation_bits, whole.x_fraction), ("c", TINY.cell_bits, formats.cell_fraction),
                ("m", TINY.activation_bits, 15), ("y", TINY.activation_bits, whole.y_fraction)):
            wanted[name, tensor] = (exact[number, tensor], integers[number, tensor], bits, fraction,
                                    getattr(state(30)[number], tensor, []))
    rows = {(row.layer, row.tensor): row for row in report.tensors}
    assert rows.keys() == wanted.keys()
    for key, values in wanted.items():
        expected = row_by_definition(key[1], *values)
        found = {name: getattr(rows[key], name) for name in expected}
        assert found == {name: pytest.approx(value, rel=1e-9, abs=1e-15) for name, value in expected.items()}, key
    assert sum(row.saturated > 0 for row in report.tensors) > 20
    for number, error in enumerate(report.outputs):
        y, fraction = exact[number, "y"], quantized.layers[number].y_fraction
        difference = integers[number, "y"] / 2.0 ** fraction - y
        assert (error.rms_output, error.rms_error, error.max_error) == pytest.approx(
            (np.sqrt(np.mean(y ** 2)), np.sqrt(np.mean(difference ** 2)), np.abs(difference).max()))
    assert (report.steps, report.voices) == FRAMES.shape[:2]


@pytest.mark.parametrize("work", [lambda: compare.compare(MODEL, QUANTIZED, FRAMES, LENGTHS, state(0), {}),
                                  lambda: quantize(MODEL, FRAMES, TINY)], ids=["compare", "quantize"])
def test_one_layer_at_a_time_is_laid_out_for_products(work, monkeypatch):
    """Of each reference, whatever the model's size."""
    kinds = (floating.FloatLstm, machine._Cell)
    most = dict.fromkeys(kinds, 0)
    gc.collect()

    def counted(kind):
        inner = kind.__init__

        def count(self, *arguments):
            inner(self, *arguments)
            alive = sum(type(one) is kind for one in gc.get_objects())
            most[kind] = max(most[kind], alive)
        return count

    for kind in kinds:
        monkeypatch.setattr(kind, "__init__", counted(kind))
    work()
    assert most == dict.fromkeys(kinds, 1)
