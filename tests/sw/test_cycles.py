# SPDX-License-Identifier: Apache-2.0
"""The cycle model, held against the counters of the emitted machine."""

import numpy as np
import pytest
from machines import DENSE, GROUPS, GRU, STREAM, TINY
from models import random_model, speech_like
from pairs import COUNTED, Measured, predicted
from uneven import MODES, scaled_paper_layer, uneven
from uneven import STREAMED as UNEVEN

from openese.rtl.config import Config, preset
from openese.rtl.interfaces import BLOCKS
from openese.sw.bench.callers import paged
from openese.sw.cycles import model as model_module
from openese.sw.cycles.model import PATIENCE, READY, Activity, Memory, StuckError, estimate, simulate
from openese.sw.cycles.pages import page_cycles
from openese.sw.cycles.stream import StreamModel
from openese.sw.pack import schedule as schedule_module
from openese.sw.pack.schedule import schedule
from openese.sw.prune import prune
from openese.sw.quantize.choose import quantize

NARROW = Config(name="narrow", pes=8, channels=4, slices=2, slice_width=1, index_bits=2, entry_depth=4096,
                column_depth=512, vector_depth=512, cell_rows=32, accumulator_rows=512, queue_depth=64)
VOICE = Config(name="voice", pes=32, channels=1, groups=4, slices=4, entry_depth=1024, column_depth=256,
               vector_depth=512, cell_rows=32, accumulator_rows=256)
NARROW_GRU, VOICE_GRU = (config.replace(name=f"{config.name}-grus", cells="lstm+gru+gru_before")
                         for config in (NARROW, VOICE))
STREAM_SHALLOW = STREAM.replace(name="shallow", entry_depth=128)
FORWARD, NARROW_FORWARD, VOICE_FORWARD = (
    config.replace(name=f"{config.name}-forward", cells="lstm+gru+gru_before+dense", forward=True)
    for config in (GROUPS, NARROW, VOICE))

SMALL = [
    pytest.param(TINY, 0.3, True, 5, [(8, 6)], id="projection"),
    pytest.param(TINY, 0.1, True, 20, [30], id="no-projection"),
    pytest.param(TINY, 0.05, True, 20, [(30, 12)], id="sparse"),
    pytest.param(TINY, 1.0, True, 3, [(8, 4)], id="dense"),
    pytest.param(TINY, 0.3, False, 20, [(30, 12)], id="unbalanced"),
    pytest.param(TINY, 0.4, True, 7, [(9, 5), (9, 5), (9, 5)], id="stack"),
    pytest.param(TINY, 0.4, True, 7, [9, (9, 6)], id="mixed-stack"),
    pytest.param(TINY, 1.0, True, 1, [(1, 1)], id="least"),
    pytest.param(TINY, 0.5, True, 60, [(16, 14)], id="many-inputs"),
    pytest.param(GROUPS, 0.3, True, 7, [(20, 9)], id="groups"),
    pytest.param(GROUPS, 0.2, False, 30, [(40, 12)], id="unbalanced-groups"),
    pytest.param(GROUPS, 0.3, True, 6, [24, 24], id="grouped-stack"),
    pytest.param(NARROW, 0.2, True, 40, [(100, 50)], id="narrow-slices"),
    pytest.param(NARROW, 0.2, True, 20, [60, 60], id="narrow-stack"),
    pytest.param(VOICE, 0.3, True, 20, [(90, 40)], id="one-voice"),
    pytest.param(VOICE, 0.3, True, 12, [60, 60], id="one-voice-stack"),
    pytest.param(GRU, 0.3, True, 20, [("gru", 30)], id="gru"),
    pytest.param(GRU, 0.4, True, 7, [("gru", 9), (9, 5), ("gru", 12)], id="gru-stack"),
    pytest.param(NARROW_GRU, 0.2, True, 20, [("gru", 60), 60], id="narrow-gru"),
    pytest.param(VOICE_GRU, 0.3, True, 12, [("gru", 90)], id="one-voice-gru"),
    pytest.param(GRU, 0.3, True, 20, [("before", 30)], id="before"),
    pytest.param(GRU, 0.4, True, 7, [("before", 9), ("gru", 8), (9, 5), ("before", 12)], id="before-stack"),
    pytest.param(NARROW_GRU, 0.2, True, 20, [60, ("before", 60)], id="narrow-before"),
    pytest.param(VOICE_GRU, 0.3, True, 12, [("before", 90)], id="one-voice-before"),
    pytest.param(STREAM_SHALLOW.replace(cells="lstm+gru+gru_before+dense"), 0.4, True, 9,
                 [("before", 12), ("relu", 12), ("before", 10), ("none", 7)], id="streamed-before"),
    pytest.param(DENSE, 0.4, True, 20, [(30, 12), ("none", 9)], id="dense-head"),
    pytest.param(DENSE, 0.5, True, 9, [("relu", 30), ("tanh", 12), ("none", 5)], id="dense-alone"),
    pytest.param(GROUPS.replace(cells="lstm+dense"), 0.5, True, 7, [("sigmoid", 12), 9, ("tanh", 20), ("none", 6)],
                 id="dense-around"),
    pytest.param(NARROW.replace(cells="lstm+dense"), 0.3, True, 20, [("relu", 60), (60, 30), ("relu", 40), 30],
                 id="dense-between"),
    pytest.param(STREAM_SHALLOW.replace(cells="lstm+dense"), 0.4, True, 9, [("relu", 12), 12, ("none", 10)],
                 id="streamed-dense"),
    pytest.param(FORWARD, 0.3, True, 7, [(20, 9)], id="forward"),
    pytest.param(FORWARD, 0.2, False, 30, [(40, 12)], id="forward-unbalanced"),
    pytest.param(FORWARD, 0.3, True, 6, [28, 24], id="forward-stack"),
    pytest.param(FORWARD, 0.4, True, 7, [("before", 28), ("gru", 30), (9, 5), ("tanh", 20), ("none", 6)],
                 id="forward-mixed-stack"),
    pytest.param(NARROW_FORWARD, 0.2, True, 20, [60, 60, ("relu", 40)], id="narrow-forward"),
    pytest.param(NARROW_FORWARD, 0.2, True, 20, [("gru", 60), ("before", 60)], id="narrow-forward-grus"),
    pytest.param(VOICE_FORWARD, 0.3, True, 12, [90, (60, 40)], id="one-voice-forward"),
    pytest.param(VOICE_FORWARD, 0.3, True, 12, [("gru", 90), ("before", 60)], id="one-voice-forward-grus"),
    pytest.param(STREAM_SHALLOW, 0.3, True, 20, [(30, 12)], id="streamed"),
    pytest.param(STREAM_SHALLOW, 0.4, True, 9, [(12, 10), (12, 10), (12, 10)], id="streamed-stack"),
    pytest.param(STREAM, 0.6, False, 20, [(30, 12)], id="streamed-unbalanced"),
]


def planned(config, density, balanced, inputs, layers):
    model = prune(random_model(7, inputs, *layers, peephole=True), density, config.pes, config.groups,
                  balanced=balanced)
    quantized = quantize(model, speech_like(1, 4, config.channels, inputs), config)
    return schedule(quantized, config, stream=config.stream)


@pytest.mark.sim
@pytest.mark.parametrize("config", [TINY, GROUPS], ids=lambda config: config.name)
def test_a_page_takes_the_cycles_of_the_model(config):
    plan = planned(config, 0.4, True, 7, [9, (9, 6), 20])
    out, into = page_cycles(plan)
    assert paged(plan) == {"page_out": out, "page_in": into, "exact": True}


@pytest.mark.sim
@pytest.mark.parametrize("config, density, balanced, inputs, layers", SMALL)
def test_it_agrees_with_the_machine_to_the_cycle(config, density, balanced, inputs, layers):
    plan = planned(config, density, balanced, inputs, layers)
    machine = Measured(plan)
    first, total = machine.run(1)
    assert (first, total) == predicted(simulate(plan, [READY]))
    # The second of two runs meets a machine that has answered all it was sent.
    later, more = machine.run(1)
    run = simulate(plan, [READY, 2000 + 4 * first])
    assert run.latencies == [first, later]
    assert predicted(run)[1] == {name: total[name] + more[name] for name in COUNTED}
    assert Measured(plan).run(6) == predicted(simulate(plan, [READY] * 6))


@pytest.mark.sim
def test_it_agrees_with_a_slow_memory():
    plan = planned(STREAM_SHALLOW, 0.3, True, 20, [(30, 12)])
    machine = Measured(plan, latency=200)
    assert machine.run(5) == predicted(simulate(plan, [READY] * 5, Memory(latency=200)))


@pytest.mark.sim
def test_it_agrees_with_the_papers_machine():
    plan = planned(preset("ese"), 0.1, True, 153, [(320, 256)])
    machine = Measured(plan)
    assert machine.run(5) == predicted(simulate(plan, [READY] * 5))


@pytest.mark.sim
@pytest.mark.parametrize("mode", MODES)
def test_it_agrees_where_pes_are_uneven(mode):
    plan = schedule(uneven(mode), UNEVEN, stream=True)
    assert Measured(plan).run(4) == predicted(simulate(plan, [READY] * 4))


@pytest.mark.parametrize("mode", MODES)
def test_a_stuck_machine_is_an_error(mode, monkeypatch):
    monkeypatch.setattr(schedule_module, "level", lambda encoded, config: encoded)
    plan = schedule(uneven(mode), UNEVEN, stream=True)
    with pytest.raises(StuckError, match=r"stuck since cycle \d+: PEs \[.+\] wait for streamed lines beyond line \d+, "
                                         r"and the broadcast waits \(FULL\)"):
        estimate(plan)
    with pytest.raises(StuckError):
        simulate(plan, [READY])


def test_a_machine_without_frames_is_not_stuck():
    plan = schedule(uneven("skew"), UNEVEN, stream=True)
    run = simulate(plan, [READY, 2 * PATIENCE])
    assert run.sent[1] > 2 * PATIENCE


def test_the_papers_layer_ends_where_pes_are_uneven():
    """Rows of different size and magnitude pruning, which does not balance the PEs."""
    plan = schedule(scaled_paper_layer(0.2), preset("ese_stream"), stream=True)
    lines = sum(operation.encoded.lines for operation in plan.operations)
    assert lines < estimate(plan).cycles_per_step < 1.1 * lines


@pytest.mark.parametrize("config, density, balanced, inputs, layers", SMALL)
def test_every_cycle_of_a_step_has_its_cause(config, density, balanced, inputs, layers):
    plan = planned(config, density, balanced, inputs, layers)
    estimated = estimate(plan)
    assert (estimated.idle.sum(axis=0) == estimated.cycles_per_step).all()
    assert sum(estimated.matrices.values()) == estimated.cycles_per_step
    assert estimated.matrices.keys() == estimated.causes.keys()
    # Where Assemble sets the pace, PEs may still catch up some entries a step.
    entries = sum(op.encoded.nonzeros.sum() + op.encoded.padding for op in plan.operations)
    assert estimated.counters["busy"] + estimated.counters["padding"] == pytest.approx(entries, rel=2e-2)
    assert estimated.counters["steps"] == 1
    assert estimated.idle[Activity.END].tolist() == [len(plan.operations)] * config.pes
    assert 0 < estimated.busy <= 1
    # At rest W_x is left between a frame and its answer; the machine's first frame needs W_r too.
    first = simulate(plan, [READY]).latencies[0]
    assert estimated.matrices["w_x 0"] / 2 < estimated.latency <= first
    alone = not any(layer.feedback for layer in plan.model.layers)
    assert (estimated.latency == first) == (plan.streamed or alone)
    works = {name for name, table in estimated.causes.items() if table[Activity.BUSY].any()}
    assert works == {f"{op.matrix} {op.layer}" for op in plan.operations if op.encoded.nonzeros.any()}


def test_a_slow_memory_starves_the_array():
    plan = planned(STREAM_SHALLOW, 0.3, True, 20, [(30, 12)])
    fast, slow, gaps = (estimate(plan, memory=memory) for memory in (
        Memory(latency=1), Memory(latency=500), Memory(latency=1, share=0.4)))
    assert fast.cycles_per_step < min(slow.cycles_per_step, gaps.cycles_per_step)
    assert slow.counters["starved"] > 0
    lines = sum(op.encoded.lines for op in plan.operations)
    assert gaps.cycles_per_step > lines / 0.45


def test_a_decision_is_there_a_cycle_after_it_is_made():
    """So it does not matter whether the controller asks for it before the fetch's cycle or behind it."""
    plan, first = planned(STREAM_SHALLOW, 0.3, True, 20, [(30, 12)]), []
    for behind in (0, 1):
        stream, cycle = StreamModel(plan.instructions, plan.config, Memory(latency=1), lambda frame: 0), 0
        while True:
            asked = stream.decision(cycle) if not behind else None
            stream.step(cycle, cycle == 0, stream.lines * BLOCKS // STREAM_SHALLOW.entry_depth)
            if behind:
                asked = stream.decision(cycle)
            if asked is not None:
                break
            cycle += 1
            assert cycle < 10_000
        first.append((cycle, asked))
    assert first[0] == first[1]


def test_the_timeline_is_in_order():
    plan = planned(TINY, 0.3, True, 20, [(30, 12)])
    run = simulate(plan, [READY] * 4)
    for span in run.spans:
        assert span.issued < span.start <= span.stop <= run.cycles
    array = [span for span in run.spans if span.label.startswith("w_")]
    assert all(one.stop <= other.stop for one, other in zip(array, array[1:], strict=False))
    spans = {(span.label, span.step): span for span in run.spans}
    assert spans["elementwise 0", 1].start > spans["w_r 0", 1].stop
    assert spans["w_ym 0", 2].start > spans["elementwise 0", 1].start
    assert spans["project 0", 2].start > spans["w_ym 0", 2].stop
    assert spans["output 0", 2].start > spans["w_ym 0", 2].start
    assert spans["output 0", 2].stop > spans["project 0", 2].stop
    assert [span.stop for span in run.spans if span.label == "output 0"] == list(run.sent)
    assert run.causes(0, 1).keys() == {array[0].label}


@pytest.mark.parametrize("config, density, balanced, inputs, layers",
                         [case for case in SMALL if case.id in ("least", "many-inputs", "narrow-stack")])
def test_an_estimate_is_of_steps_that_repeat(config, density, balanced, inputs, layers):
    plan = planned(config, density, balanced, inputs, layers)
    lengths = np.diff(simulate(plan, [READY] * 9).begun).tolist()
    alternate = {number for number in range(3, 8) if lengths[number - 1:number + 1] == lengths[number - 3:number - 1]}
    steady = next(number for number in range(1, 8) if lengths[number] == lengths[number - 1] or number in alternate)
    for most in range(1, steady + 2):
        pair = lengths[most - 2:most] if most - 1 in alternate else lengths[most - 1:most]
        assert estimate(plan, most=most).cycles_per_step == max(pair)
    assert estimate(plan).cycles_per_step == max(pair)


@pytest.mark.parametrize("config, density, balanced, inputs, layers", SMALL)
def test_a_machine_at_work_is_never_stuck(config, density, balanced, inputs, layers, monkeypatch):
    """However little patience there is with it."""
    plan = planned(config, density, balanced, inputs, layers)
    simulated = simulate(plan, [READY] * 3).sent
    monkeypatch.setattr(model_module, "PATIENCE", 40)
    assert simulate(plan, [READY] * 3).sent == simulated
