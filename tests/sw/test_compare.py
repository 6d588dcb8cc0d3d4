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
from openese.sw.quantize.choose import quantize
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


@pytest.mark.parametrize("work", [lambda: compare.compare(MODEL, QUANTIZED, FRAMES, LENGTHS, state(0), {}),
                                  lambda: quantize(MODEL, FRAMES, TINY)], ids=["compare", "quantize"])
def test_one_layer_at_a_time_is_laid_out_for_products(work, monkeypatch):
    """Of each reference, whatever the model's size."""
    kinds = (floating.FloatLayer, machine._Cell)
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
