# SPDX-License-Identifier: Apache-2.0
"""Networks: directions, lengths, initial states, on the float model and on the integer reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from import_tools import run_float
from models import random_model, speech_like

from openese.rtl.config import preset
from openese.sw.model.layers import Dense, Model, ModelError
from openese.sw.model.network import Direction, Network, Stage, reverse_sequences
from openese.sw.model.state import LayerState
from openese.sw.quantize.choose import quantize
from openese.sw.reference import floating
from openese.sw.reference.machine import Reference
from openese.sw.run.runners import FloatRunner, MachineRunner

SEED = 11


def body(seed, inputs, *layers):
    model = random_model(seed, inputs, *layers)
    return Model(layers=model.layers, name=f"m{seed}")


def network(initial=False, head=True):
    """Forward, then both directions (one of two layers), then a reverse one, then a head."""
    rng = np.random.default_rng(SEED)
    stages = [[body(1, 3, 5)], [body(2, 5, (4, 2)), body(3, 5, 4, 3)], [body(4, 5, 6)]]
    made = []
    for number, models in enumerate(stages):
        directions = []
        for way, model in enumerate(models):
            state = tuple(LayerState(rng.uniform(-0.5, 0.5, (1, layer.cells)),
                                     rng.uniform(-0.5, 0.5, (1, layer.outputs))) for layer in model.layers)
            directions.append(Direction(model, way == 1 or number == 2,
                                        state if initial and number != 1 else None))
        made.append(Stage(tuple(directions)))
    dense = Dense(weight=rng.normal(size=(2, 6)), bias=rng.normal(size=2)) if head else None
    return Network(stages=tuple(made), head=dense, name="net")


def alone(net, x):
    """One sequence (T, I), as the definition has it: whole, turned round by slicing."""
    for stage in net.stages:
        parts = []
        for direction in stage.directions:
            turn = slice(None, None, -1 if direction.reverse else 1)
            y, _ = floating.run(direction.model, x[turn, None], list(direction.start(1)))
            parts.append(y[turn, 0])
        x = np.concatenate(parts, axis=1)
    return x if net.head is None else net.head(x)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.booleans(), st.booleans())
def test_a_batch_is_its_sequences(lengths, initial, head):
    net = network(initial, head)
    x = np.random.default_rng(SEED).normal(size=(9, len(lengths), 3))
    y, _ = run_float(net, x, lengths=lengths)
    for voice, length in enumerate(lengths):
        np.testing.assert_allclose(y[:length, voice], alone(net, x[:length, voice]), atol=1e-12)
        assert not y[length:, voice].any()


def test_padding_is_not_read():
    net = network()
    x = np.random.default_rng(SEED).normal(size=(6, 2, 3))
    other = x.copy()
    other[4:, 1] = 1e6
    y, wanted = (run_float(net, frames, lengths=[6, 4])[0] for frames in (other, x))
    np.testing.assert_array_equal(y, wanted)


def test_state_goes_on():
    net = Network.of(random_model(1, 3, 5, (4, 2)))
    x = np.random.default_rng(SEED).normal(size=(8, 2, 3))
    whole, end = run_float(net, x)
    first, state = run_float(net, x[:5])
    second, last = run_float(net, x[5:], initial=state)
    np.testing.assert_allclose(np.concatenate([first, second]), whole, atol=1e-12)
    np.testing.assert_allclose(last[0][1].c, end[0][1].c, atol=1e-12)


def test_the_state_of_one_voice_starts_all():
    net, x = network(head=False), np.random.default_rng(SEED).normal(size=(6, 3, 3))
    _, states = run_float(net, x[:, :1])
    every = [tuple(LayerState(*(np.repeat(part, 3, axis=0) for part in layer)) for layer in state) for state in states]
    np.testing.assert_array_equal(run_float(net, x, initial=states)[0], run_float(net, x, initial=every)[0])


def test_reverse_sequences():
    x = np.arange(8.0).reshape(4, 2, 1)
    np.testing.assert_array_equal(reverse_sequences(x, np.array([4, 2]))[:, :, 0].T,
                                  [[6, 4, 2, 0], [3, 1, 5, 7]])


def test_plain_networks_are_one_model():
    model = random_model(1, 3, 5, 4, head=2)
    net = Network.of(model)
    assert net.plain and net.model.head is model.head and net.model.layers == model.layers
    assert not network().plain
    with pytest.raises(ModelError, match="not one stack of forward layers.*3 stages of 4 models"):
        _ = network().model


@pytest.mark.parametrize("net", [network(), network(initial=True, head=False),
                                 Network.of(random_model(1, 3, 5, head=2))])
def test_saved_and_loaded(tmp_path, net):
    net.save(tmp_path / "n.npz")
    back = Network.load(tmp_path / "n.npz")
    assert back.name == net.name and back.plain == net.plain
    x = np.random.default_rng(SEED).normal(size=(5, 2, 3))
    np.testing.assert_array_equal(run_float(back, x)[0], run_float(net, x)[0])


def test_map_changes_every_model():
    net = network()
    changed = net.map(lambda model: Model(layers=model.layers, name="x"))
    assert [direction.model.name for direction in changed.directions] == ["x"] * 4
    assert [direction.reverse for direction in changed.directions] == [False, False, True, True]


def test_each_direction_is_fed_what_it_meets():
    net = network()
    x = np.random.default_rng(SEED).normal(size=(5, 2, 3))
    runners = [FloatRunner(direction.model) for direction in net.directions]
    fed = list(net.fed(x, runners, [5, 3]))
    assert [direction.model.name for direction, _ in fed] == ["m1", "m2", "m3", "m4"]
    np.testing.assert_array_equal(fed[2][1], reverse_sequences(fed[1][1], np.array([5, 3])))
    state = runners[3].run(fed[3][1], np.array([5, 3]), net.directions[3].start(2))[0]
    np.testing.assert_allclose(net.head(reverse_sequences(state, np.array([5, 3])))[0],
                               run_float(net, x, lengths=[5, 3])[0][0])


def test_given_states_reach_what_a_direction_is_fed():
    net = network()
    x = np.random.default_rng(SEED).normal(size=(5, 2, 3))
    runners = [FloatRunner(direction.model) for direction in net.directions]
    states = net.start(2)
    changed = [tuple(LayerState(c + 1, y - 1) for c, y in state) for state in states]
    plain, fed = (list(net.fed(x, runners, [5, 3], initial)) for initial in (states, changed))
    np.testing.assert_array_equal(fed[0][1], plain[0][1])
    wanted = runners[0].run(x, np.array([5, 3]), changed[0])[0]
    np.testing.assert_array_equal(fed[1][1], wanted)
    assert abs(fed[3][1] - plain[3][1]).max() > 0.01


def machines(net, x, channels, lengths=None):
    config = preset("tiny")
    runners = [FloatRunner(direction.model) for direction in net.directions]
    return [MachineRunner(Reference(quantize(direction.model, frames, config), channels))
            for direction, frames in net.fed(x, runners, lengths)]


@pytest.mark.parametrize("channels", [1, 2, 8])
def test_machine_runs_any_batch(channels):
    """Bit for bit the same for any number of channels, and near the float model."""
    net = network(initial=True, head=False)
    lengths = [30, 12, 0, 29, 30]
    x = speech_like(SEED, 30, 5, 3)
    runners = machines(net, x, channels, lengths)
    y, states = net.run(x, runners, lengths)
    exact, exact_states = run_float(net, x, lengths=lengths)
    assert abs(y - exact).max() < 0.02 * abs(exact).max()
    for state, wanted in zip(states, exact_states, strict=True):
        for layer, layer_wanted in zip(state, wanted, strict=True):
            assert abs(layer.c - layer_wanted.c).max() < 0.02
    one = net.run(x[:, 1:2], machines(net, x, 1, lengths), lengths[1:2])[0]
    np.testing.assert_array_equal(y[:, 1:2], one)


def test_input_saturations_are_counted():
    net = Network.of(random_model(1, 3, 5))
    x = speech_like(SEED, 20, 2, 3)
    runner, = machines(net, x, 2)
    net.run(x, [runner])
    before = runner.input_saturations
    huge = LayerState(np.full((2, 5), 1e6), np.full((2, 5), 1.5))
    net.run(np.zeros((1, 2, 3)), [runner], initial=[(huge,)])
    assert runner.input_saturations == before + 20
    net.run(1e6 * x, [runner])
    assert runner.input_saturations > before + 70


def test_errors_name_what_and_where(tmp_path):
    a, b = body(1, 3, 5), body(2, 4, 2)
    with pytest.raises(ModelError, match="one or two directions, not 0"):
        Stage(())
    with pytest.raises(ModelError, match=r"directions of a stage take different inputs: \[3, 4\]"):
        Stage((Direction(a), Direction(b)))
    with pytest.raises(ModelError, match="has no stages"):
        Network(stages=())
    with pytest.raises(ModelError, match="stage 1 takes 4 inputs, but the stage before it gives 5"):
        Network(stages=(Stage((Direction(a),)), Stage((Direction(b),))))
    with pytest.raises(ModelError, match="head belongs to the network"):
        Direction(random_model(1, 3, 5, head=2))
    with pytest.raises(ModelError, match=r"head weight: expected .* = \(any, 5\), found \(2, 4\)"):
        Network(stages=(Stage((Direction(a),)),), head=Dense(weight=np.ones((2, 4)), bias=np.ones(2)))
    with pytest.raises(ModelError, match="2 initial states for 1 layers"):
        Direction(a, initial=floating.initial_state(a, 1) * 2)
    with pytest.raises(ModelError, match=r"layer 'lstm0' initial c: expected shape \(B, H\) = \(1, 5\)"):
        Direction(a, initial=(LayerState(np.ones((1, 4)), np.ones((1, 5))),))
    with pytest.raises(ModelError, match="initial y: not all numbers are finite"):
        Direction(a, initial=(LayerState(np.ones((1, 5)), np.full((1, 5), np.inf)),))
    two, three = (tuple(floating.initial_state(a, voices)) for voices in (2, 3))
    with pytest.raises(ModelError, match="'m1' has initial states for 2 voices, but the frames have 3: give frames of "
                                         "2 voices, or a network with the initial state of 1 voice"):
        Direction(a, initial=two).start(3)
    net, x = Network.of(a), np.ones((4, 3, 3))
    with pytest.raises(ModelError, match="initial states of model 'm1' are for 2 voices, but the frames have 3: give "
                                         "states of 3 voices, or of 1"):
        run_float(net, x, initial=[two])
    for states in ([], [three, three]):
        with pytest.raises(ModelError, match=f"network 'm1' has 1 directions, but there are initial states for "
                                             f"{len(states)}: give one for each direction"):
            run_float(net, x, initial=states)
    with pytest.raises(ModelError, match="layer 'lstm0' initial c: expected real numbers"):
        run_float(net, x, initial=[(LayerState("abc", "d"),)])
    with pytest.raises(ModelError, match=r"initial c: expected shape \(B, H\) = \(5, 5\), found \(5,\)"):
        run_float(net, x, initial=[(LayerState(np.ones(5), np.ones(5)),)])


@pytest.mark.parametrize("x, lengths, reason", [
    (np.ones((4, 3)), None, r"x: expected shape \(T, B, I\)"),
    (np.ones((4, 2, 5)), None, r"= \(any, any, 3\), found \(4, 2, 5\)"),
    (np.full((4, 2, 3), np.nan), None, "x: not all numbers are finite"),
    (np.ones((4, 2, 3)), [4], "lengths: expected 2 whole numbers"),
    (np.ones((4, 2, 3)), [4, 5], "of 0 to 4"), (np.ones((4, 2, 3)), [1.5, 2], "whole numbers")])
def test_bad_sequences(x, lengths, reason):
    with pytest.raises(ModelError, match=reason):
        run_float(network(), x, lengths=lengths)


@pytest.mark.parametrize("change, reason", [
    (lambda arrays: arrays.pop("stage0.direction0.layer0.w_x"), "w_x' is missing"),
    (lambda arrays: arrays.pop("stage0.direction0.layer0.bias"), "bias"),
    (lambda arrays: arrays.pop("stage0.direction0.layer0.initial_c"), "initial states need the keys"),
    (lambda arrays: arrays.pop("head.bias"), "head needs both keys"),
    (lambda arrays: arrays.update(junk=np.ones(1)), "unknown key 'junk'"),
    (lambda arrays: arrays.update({"stage1.direction0.junk": np.ones(1)}), "unknown key 'junk'"),
    (lambda arrays: arrays.update({"stage9.direction0.junk": np.ones(1)}), "one or two directions, not 0")])
def test_bad_files(tmp_path, change, reason):
    network(initial=True).save(tmp_path / "n.npz")
    with np.load(tmp_path / "n.npz") as archive:
        arrays = dict(archive)
    change(arrays)
    with pytest.raises(ModelError, match=reason):
        Network.from_arrays(arrays)
