# SPDX-License-Identifier: Apache-2.0
"""The engine that hosts call, and the pipeline of whole networks, with a host of a few lines of numpy."""

import numpy as np
import pytest
from models import random_model, speech_like

from openese.rtl.config import preset
from openese.sw.model.layers import ModelError
from openese.sw.model.network import Direction, Network, Stage
from openese.sw.prune import PruneError
from openese.sw.whole.engine import Engine, Recorder, float_runners
from openese.sw.whole.host import Host, HostError, Item, Port, checked_inputs
from openese.sw.whole.network import compile_host, differences, prune_parts, run_calls

CONFIG = preset("tiny")
STEPS, VOICES, INPUTS, CELLS = 14, 3, 5, 8


def part(seed, inputs=INPUTS, reverse=False):
    model = random_model(seed, inputs, CELLS)
    return Network(stages=(Stage((Direction(model, reverse),)),), name=f"part{seed}")


def engine(parts):
    return Engine(parts, float_runners(parts))


class NumpyHost(Host):
    """Doubles x, runs the part ``first``, adds a residual, and runs ``second`` where it is told to."""

    kind, runtime, extra, name = "numpy", "numpy", "none", "small"
    inputs = (Port("x", "float32", ("steps", "voices", INPUTS)), Port("h", "float64", ("voices", CELLS)),
              Port("c", "float64", ("voices", CELLS)), Port("twice", "int64", ()))
    outputs = (Port("y", "float64", ("steps", "voices", CELLS)), Port("hn", "float64", ("voices", CELLS)),
               Port("cn", "float64", ("voices", CELLS)), Port("best", "int64", ("steps", "voices")))
    items = (Item("first", "LSTM", "machine", "first"), Item("second", "LSTM", "machine", "second"))

    def __init__(self):
        self.parts = {"first": part(3), "second": part(4, CELLS)}
        self.calls = tuple(self.parts)

    def run(self, inputs, engine):
        given = checked_inputs(self.inputs, inputs)
        state = type(self.parts["first"].directions[0].start(1)[0])(given["c"], given["h"])
        y, states = engine.call("first", 2 * given["x"], None, ((state,),))
        if given["twice"]:
            y = y + engine.call("second", y)[0]
        return {"y": y, "hn": states[0][0].y, "cn": states[0][0].c, "best": y.argmax(axis=2)}

    def original(self, inputs):
        return self.run(inputs, engine({"first": part(3), "second": part(4, CELLS)}))

    def drop_original(self):
        pass

    def save(self, folder):
        raise NotImplementedError

    @classmethod
    def load(cls, folder):
        raise NotImplementedError


def given(seed=1, twice=1, steps=STEPS):
    rng = np.random.default_rng(seed)
    return {"x": speech_like(seed, steps, VOICES, INPUTS).astype(np.float32), "twice": np.array(twice),
            "h": rng.uniform(-0.5, 0.5, (VOICES, CELLS)), "c": rng.normal(size=(VOICES, CELLS))}


def test_the_engine_runs_parts_by_name():
    parts = {"a": part(1), "b": part(2, reverse=True)}
    x = speech_like(1, STEPS, VOICES, INPUTS)
    lengths = [STEPS, 3, 0]
    for name, network in parts.items():
        wanted, states = network.run(x, float_runners(parts)[name], lengths)
        found, after = engine(parts).call(name, x, lengths)
        np.testing.assert_array_equal(found, wanted)
        np.testing.assert_array_equal(after[0][0].c, states[0][0].c)
    with pytest.raises(ModelError, match="shape"):
        engine(parts).call("a", x[:, :, 1:])


def test_the_recorder_joins_calls_that_go_on():
    recorder = Recorder({"a": part(1)})
    x = speech_like(2, STEPS, VOICES, INPUTS)
    _, state = recorder.call("a", x[:1])
    for t in range(1, STEPS):
        rounded = tuple(tuple(type(layer)(*(held.astype(np.float32) for held in layer)) for layer in direction)
                        for direction in state)
        _, state = recorder.call("a", x[t:t + 1], None, rounded)
    found = recorder.recorded("a")
    assert found.lengths.tolist() == [STEPS] * VOICES
    np.testing.assert_array_equal(found.frames, x)
    assert not any(held.any() for held in found.initial[0][0])


def test_the_recorder_keeps_sequences_apart():
    recorder = Recorder({"a": part(1), "b": part(2, reverse=True), "never": part(3)})
    x = speech_like(2, STEPS, VOICES, INPUTS)
    start = part(1).directions[0].start(VOICES)
    other = tuple(type(layer)(layer.c + 0.5, layer.y) for layer in start)
    recorder.call("a", x, [5, STEPS, 0], (other,))
    recorder.call("a", 2 * x[:7])
    for _ in range(2):
        recorder.call("b", x)
    found = recorder.recorded("a")
    assert found.lengths.tolist() == [STEPS, 7, 7, 7, 5]
    np.testing.assert_array_equal(found.frames[:, 0], x[:, 1])
    np.testing.assert_array_equal(found.frames[:5, 4], x[:5, 0])
    assert not found.frames[5:, 4].any()
    assert found.initial[0][0].c[:, 0].tolist() == [0.5, 0, 0, 0, 0.5]
    assert len(recorder.recorded("b").lengths) == 2 * VOICES
    assert recorder.recorded("never") is None


def test_a_whole_network_is_calibrated_on_what_reaches_each_part():
    host = NumpyHost()
    compiled = compile_host(host, CONFIG, calibrate=given())
    errors = {row.name: row for row in compiled.differences}
    assert errors.keys() == {"y", "hn", "cn", "best"}
    assert all(errors[name].error.rms_error < 0.01 * errors[name].error.rms_output for name in ("y", "hn", "cn"))
    assert errors["best"].error is None and errors["best"].total == STEPS * VOICES
    found = compiled.run(given(7))
    for name, wanted in host.original(given(7)).items():
        if wanted.dtype.kind == "f":
            np.testing.assert_allclose(found[name], wanted, atol=0.02)


def test_a_part_that_no_call_reaches_is_calibrated_on_random_numbers():
    compiled = compile_host(NumpyHost(), CONFIG, calibrate=[given(twice=0), given(2, twice=0)])
    assert compiled.parts["second"].calibration is not None
    assert compiled.run(given(3))["y"].shape == (STEPS, VOICES, CELLS)
    assert compile_host(NumpyHost(), CONFIG).differences == ()


def test_initial_states_are_part_of_the_calibration():
    loud = given()
    loud["c"] = loud["c"] * 20
    quiet = compile_host(NumpyHost(), CONFIG, calibrate=given())
    fitted = compile_host(NumpyHost(), CONFIG, calibrate=loud)
    wanted = NumpyHost().original(loud)
    errors = [float(np.abs(compiled.run(loud)["cn"] - wanted["cn"]).max()) for compiled in (quiet, fitted)]
    assert errors[1] < 0.05 and errors[1] < errors[0]


def test_carried_states_over_calls():
    host = NumpyHost()
    whole = given(5, twice=0)
    calls = {**whole, "x": whole["x"][:, None]}
    parts = engine(host.parts)
    carry = {"hn": "h", "cn": "c"}
    steps, once = run_calls(host, calls, parts, carry), run_calls(host, whole, parts, carry)
    np.testing.assert_allclose(steps["y"][:, 0], once["y"], atol=1e-12)
    np.testing.assert_allclose(steps["cn"], once["cn"], atol=1e-12)
    several = {**calls, "twice": np.zeros(STEPS, np.int64)}
    np.testing.assert_array_equal(run_calls(host, several, parts, carry)["y"], steps["y"])
    with pytest.raises(HostError, match="different numbers of calls.*x 14, twice 2"):
        run_calls(host, {**calls, "twice": np.zeros(2, np.int64)}, parts, carry)
    with pytest.raises(HostError, match="no calls"):
        run_calls(host, {**calls, "x": calls["x"][:0]}, parts, carry)


def test_densities_name_matrices_or_layers_of_any_part():
    parts = NumpyHost().parts
    layers = {name: network.directions[0].model.layers[0].name for name, network in parts.items()}
    assert len(set(layers.values())) == 1  # the same name in both parts
    half = prune_parts(parts, 0.5, CONFIG)
    assert all(network.directions[0].model.layers[0].density == pytest.approx(0.5, abs=0.05)
               for network in half.values())
    with pytest.raises(PruneError, match="'other' is neither a matrix"):
        prune_parts(parts, {"other": 0.5}, CONFIG)


@pytest.mark.parametrize(("change", "reason"), [
    (lambda held: held.pop("h"), "the input h float64"),
    (lambda held: held.update(q=1), "'q' is no input"),
    (lambda held: held.update(x=held["x"][..., 1:]), "found the shape"),
    (lambda held: held.update(x=held["x"][0]), "found the shape"),
    (lambda held: held.update(twice=0.5), "do not fit int64"),
    (lambda held: held.update(twice=np.array("a")), "expected numbers"),
])
def test_inputs_that_do_not_fit(change, reason):
    held = given()
    change(held)
    with pytest.raises(HostError, match=reason):
        checked_inputs(NumpyHost.inputs, held)


def test_numbers_that_fit_are_converted_and_text_is_kept():
    port = Port("t", "str", (None,))
    assert checked_inputs((port,), {"t": np.array(["a"])})["t"].dtype == object
    assert checked_inputs(NumpyHost.inputs, {**given(), "twice": np.float64(1)})["twice"].dtype == np.int64
    with pytest.raises(HostError, match="expected text"):
        checked_inputs((port,), {"t": np.zeros(1)})


def test_differences_of_all_kinds():
    rows = differences([{"a": np.array([1.0, 2.0]), "b": np.array([1, 2]), "t": np.array(["x"], object)}],
                       [{"a": np.array([1.0, 4.0]), "b": np.array([1, 3]), "t": np.array(["x"], object)}])
    assert [(row.name, row.different, row.total) for row in rows] == [("a", 1, 2), ("b", 1, 2), ("t", 0, 1)]
    assert rows[0].error.max_error == 2 and rows[1].error is None
    infinite, missing = np.array([-np.inf, np.nan, 3.0]), np.array([-np.inf, np.nan, 4.0])
    same, other, gone = differences([{"a": infinite, "b": infinite, "c": missing}],
                                    [{"a": infinite, "b": missing, "c": np.array([-np.inf, 1.0, 4.0])}])
    assert (same.different, same.error.rms_error, same.error.rms_output) == (0, 0, pytest.approx(3**0.5))
    assert (other.different, other.error.max_error, gone.different, gone.error.max_error) == (1, 1, 1, np.inf)
    with pytest.raises(HostError, match="has the shape"):
        differences([{"a": np.zeros(2)}], [{"a": np.zeros(3)}])


def test_zeros_tell_nothing_about_number_formats():
    recorder = Recorder({"a": part(1), "b": part(2)})
    x = np.zeros((4, VOICES, INPUTS))
    recorder.call("a", x)
    assert not recorder.reached("a") and recorder.recorded("a") is None
    _, states = recorder.call("b", x + 1)
    recorder.call("a", x, initial=states)  # a decoder that only has a state
    assert recorder.reached("a") and recorder.recorded("a").frames.shape == (4, 2 * VOICES, INPUTS)
    host = NumpyHost()
    zeros = {"x": x, "h": np.zeros((VOICES, CELLS)), "c": np.zeros((VOICES, CELLS)), "twice": 0}
    assert compile_host(host, CONFIG, calibrate=zeros).guessed == ("first", "second")
    compiled = compile_host(host, CONFIG, calibrate=[zeros, given()])
    assert (compiled.guessed, compiled.clamped) == ((), 0)


def test_a_state_that_no_machine_has_is_counted():
    wide = given()
    wide["h"][0, :3] = 2, -3, 0.9
    assert compile_host(NumpyHost(), CONFIG, calibrate=wide).clamped == 2


@pytest.mark.parametrize("shape", [(0, 2, INPUTS), (3, 0, INPUTS), (0, 0, INPUTS)])
def test_nothing_is_run_as_nothing(shape):
    parts = {"a": part(1), "b": part(2, reverse=True)}
    recorder = Recorder(parts)
    for name in parts:
        y, states = recorder.call(name, np.zeros(shape))
        assert y.shape == (*shape[:2], CELLS) and states[0][0].c.shape == (shape[1], CELLS)
        assert recorder.recorded(name) is None
