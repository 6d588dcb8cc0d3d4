# SPDX-License-Identifier: Apache-2.0
"""The bench, on a machine and a layer that are small enough for a test."""

import pytest
from machines import STREAM, TINY

from openese.sw.bench.gru import gru_plan
from openese.sw.bench.layer import paper_layer, quantized_layer
from openese.sw.bench.machine import MEMORIES, measured, traced
from openese.sw.cycles.model import estimate
from openese.sw.pack.schedule import schedule
from openese.sw.prune import prune

pytestmark = pytest.mark.sim


def plan(config, sizes=(8, 24, 12), density=0.4, **options):
    sparse = prune(paper_layer(0, *sizes), density, config.pes, config.groups)
    return schedule(quantized_layer(sparse, config), config, **options)


def test_measured_as_predicted_and_as_traced():
    of_tiny = plan(TINY)
    result, = measured(of_tiny)
    predicted = estimate(of_tiny)
    assert result["bit_exact"] and result["memory"] is None
    assert result["cycles_per_step"] == predicted.cycles_per_step
    assert result["busy"] == pytest.approx(predicted.busy)
    assert result["one_voice_cycles"] == result["rest_cycles"] == predicted.latency
    in_waveform = traced(of_tiny)
    assert in_waveform["cycles_per_step"] == result["cycles_per_step"]
    assert in_waveform["busy"] == pytest.approx(result["busy"], rel=1e-3)


@pytest.mark.parametrize("reset_after, cells", [(True, "lstm+gru"), (False, "lstm+gru+gru_before")])
def test_a_gru_is_measured_as_predicted(reset_after, cells):
    of_gru = gru_plan(TINY, 0.4, reset_after, inputs=8, cells=24)
    assert (of_gru.config.cells, of_gru.config.entry_depth) == (cells, TINY.entry_depth)
    result, = measured(of_gru)
    predicted = estimate(of_gru)
    assert result["bit_exact"] and result["cycles_per_step"] == predicted.cycles_per_step
    assert gru_plan(TINY, 1.0, inputs=20, cells=60).config.entry_depth == 4096


def test_weights_from_each_memory():
    results = measured(plan(STREAM, (40, 32, 16), 1.0, stream=True))
    assert [row["memory"] for row in results] == list(MEMORIES)
    assert all(row["bit_exact"] for row in results)
    # This layer reads a line in nearly every cycle, and the ring holds a quarter of them: a slower memory is felt.
    assert results[-1]["cycles_per_step"] > 1.05 * results[0]["cycles_per_step"]
