# SPDX-License-Identifier: Apache-2.0
"""The integer reference against the same equations in Python's unlimited integers, one number at a time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import random_quantized, random_state

from openese.rtl.activation import Activation
from openese.rtl.config import preset
from openese.sw.model.quantized import activation_table
from openese.sw.model.state import ChannelState
from openese.sw.reference.machine import AccumulatorOverflow, Reference, accumulate

TINY = preset("tiny")
GRU = TINY.replace(name="grus", cells="lstm+gru+gru_before")


def rs(value, shift):
    return (value + (1 << (shift - 1))) >> shift if shift else value


def sat(value, bits):
    return max(-(1 << (bits - 1)), min((1 << (bits - 1)) - 1, value))


def evaluate(table, argument):
    index, fraction = divmod(argument + 2 ** 19, 512)
    left, right = int(table[index]), int(table[min(index + 1, 2047)])
    return left + rs((right - left) * fraction, 9)


class ScalarMachine:
    """One voice of a machine with 12-bit weights, 16-bit activations and 24-bit cells."""

    def __init__(self, model, state):
        self.model = model
        self.c = [c.tolist() for c, _ in state]
        self.y = [y.tolist() for _, y in state]
        self.saturations = {"cell": 0, "output": 0}

    def reset(self):
        self.c = [[0] * len(c) for c in self.c]
        self.y = [[0] * len(y) for y in self.y]

    def step(self, x):
        for number, (layer, formats) in enumerate(zip(self.model.layers, self.model.formats, strict=True)):
            m = []
            before = self.y[number]
            cell = self.gru_cell if layer.cell == "gru" else self.cell
            if not layer.reset_after:
                # All cells need r . h of all others before any h changes.
                self.rh = [self.reset_first(layer, formats, h, x, before, c) for h, c in enumerate(self.c[number])]
            for h in range(layer.cells):
                self.c[number][h], of_m = cell(layer, formats, h, x, before, self.c[number][h])
                m.append(of_m)
            x = m if layer.w_ym is None else self.project(layer, formats, m)
            self.y[number] = x
        return x

    def gate(self, layer, formats, gate, h, x, y, c):
        total = sum((int(w) << layer.align_x[gate]) * v for w, v in zip(layer.w_x[gate, h], x, strict=True))
        total += sum((int(w) << layer.align_r[gate]) * v for w, v in zip(layer.w_r[gate, h], y, strict=True))
        assert -(1 << 35) <= total < 1 << 35
        z = sat(rs(total, formats.gate_shift[gate]), 24) + int(layer.bias[gate, h])
        if layer.peephole is not None and gate != 2:
            weight = int(layer.peephole[{0: 0, 1: 1, 3: 2}[gate], h])
            z += sat(rs(weight * c, 10 + layer.peephole_select), 24)
        function = layer.g_activation if gate == 2 else "sigmoid"
        table = self.model.tanh_table if function == "tanh" else self.model.sigmoid_table
        return evaluate(table, sat(z, 20))

    def cell(self, layer, formats, h, x, y, c):
        i, f, g = (self.gate(layer, formats, gate, h, x, y, c) for gate in range(3))
        fraction = 20 - layer.cell_select
        product = rs(i * g, 32 - fraction)
        added = sat(product, 24)
        total = sat(rs(f * c, 16), 24) + added
        c = sat(total, 24)
        self.saturations["cell"] += added != product or c != total
        o = self.gate(layer, formats, 3, h, x, y, c)
        squashed = evaluate(self.model.tanh_table, sat(rs(c << 8, fraction + 8 - 16), 20))
        return c, sat(rs(o * squashed, 17), 16)

    @staticmethod
    def gru_sum(layer, formats, h, accumulator, bias, *products):
        """The sum of products of rows with vectors, with its bias; a product is a matrix, a gate and a vector."""
        exact = 0
        for matrix, gate, vector in products:
            align = getattr(layer, f"align_{matrix}")[gate]
            row = getattr(layer, f"w_{matrix}")[gate, h]
            exact += sum((int(w) << align) * v for w, v in zip(row, vector, strict=True))
        assert -(1 << 35) <= exact < 1 << 35
        return sat(rs(exact, formats.gate_shift[accumulator]), 24) + int(bias[h])

    def gru_gate(self, layer, formats, h, gate, x, y):
        total = self.gru_sum(layer, formats, h, gate, layer.bias[gate], ("x", gate, x), ("r", gate, y))
        return evaluate(self.model.sigmoid_table, sat(total, 20))

    def reset_first(self, layer, formats, h, x, y, before):
        r = self.gru_gate(layer, formats, h, 0, x, y)
        return sat(rs(sat(rs(r * before, 16), 24), 4), 16)

    def gru_cell(self, layer, formats, h, x, y, before):
        r, z = (self.gru_gate(layer, formats, h, gate, x, y) for gate in range(2))
        if layer.reset_after:
            n_x = self.gru_sum(layer, formats, h, 2, layer.bias[2], ("x", 2, x))
            n_h = self.gru_sum(layer, formats, h, 3, layer.bias_rn, ("r", 2, y))
            of_n = n_x + sat(rs(r * n_h, 16), 24)
        else:
            of_n = self.gru_sum(layer, formats, h, 2, layer.bias[2], ("x", 2, x), ("r", 2, self.rh))
        n = 8 * evaluate(self.model.tanh_table, sat(of_n, 20))
        exact = sat(rs(z * (before - n), 16), 24) + n
        after = sat(exact, 24)
        self.saturations["cell"] += after != exact
        return after, sat(rs(after, 4), 16)

    def project(self, layer, formats, m):
        y = []
        for row in layer.w_ym:
            exact = rs(sum(int(w) * v for w, v in zip(row, m, strict=True)),
                       layer.w_ym_fraction + 15 - layer.y_fraction)
            y.append(sat(exact, 16))
            self.saturations["output"] += y[-1] != exact
        return y


SHAPES = [(3, (4,)), (2, ((5, 3),)), (4, ((6, 2), 3)), (1, (3, (4, 5), 2)),
          (3, (("gru", 4),)), (2, (("gru", 3), (4, 2), ("gru", 5))),
          (3, (("before", 4),)), (2, (("before", 3), (4, 2), ("gru", 3), ("before", 5)))]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2 ** 32 - 1), st.sampled_from(SHAPES), st.booleans(), st.booleans())
def test_equals_scalar_integers(seed, shape, peephole, junk_tables):
    """Voices that come, go and are reset, in formats filled to the brim: every y, c and counter."""
    inputs, layers = shape
    model = random_quantized(seed, GRU, inputs, *layers, peephole=peephole, junk_tables=junk_tables)
    rng = np.random.default_rng(seed)
    reference = Reference(model, channels=3)
    states = [random_state(rng, model) for _ in range(3)]
    scalars = [ScalarMachine(model, state) for state in states]
    for channel, state in enumerate(states):
        reference.set_state(channel, state)
    for _ in range(6):
        x = rng.integers(-1 << 15, 1 << 15, (3, inputs))
        active, reset = rng.random(3) < 0.7, rng.random(3) < 0.2
        y = reference.step(x, active, reset)
        for channel, scalar in enumerate(scalars):
            if reset[channel]:
                scalar.reset()
            expected = scalar.step(x[channel].tolist()) if active[channel] else [0] * model.outputs
            assert y[channel].tolist() == expected
            assert [c.tolist() for c, _ in reference.get_state(channel)] == scalar.c
            assert [y.tolist() for _, y in reference.get_state(channel)] == scalar.y
    for name, count in reference.saturations.items():
        assert count == sum(scalar.saturations[name] for scalar in scalars)


def test_the_random_models_reach_every_clamp():
    """Else the test above would prove little."""
    seen = {"z": [], "m": []}
    saturations = {"cell": 0, "output": 0}
    for seed in range(10):
        model = random_quantized(seed, TINY, 4, (6, 5))
        rng = np.random.default_rng(seed)
        reference = Reference(model, 1)
        reference.set_state(0, random_state(rng, model))
        for _ in range(3):
            reference.step(rng.integers(-1 << 15, 1 << 15, (1, 4)),
                           observe=lambda _, tensor, values: seen.get(tensor, []).append(values))
        for name, count in reference.saturations.items():
            saturations[name] += count
    for tensor, bits in (("z", TINY.argument_bits), ("m", TINY.activation_bits)):
        values = np.concatenate([np.ravel(part) for part in seen[tensor]])
        assert values.max() == (1 << (bits - 1)) - 1
        assert values.min() <= -(1 << (bits - 1)) + 1
    assert min(saturations.values()) > 0


def test_run_is_step_by_step():
    model = random_quantized(2, TINY, 3, (5, 4), 3)
    rng = np.random.default_rng(2)
    frames = rng.integers(-1 << 15, 1 << 15, (7, 2, 3))
    active, reset = rng.random((7, 2)) < 0.6, rng.random((7, 2)) < 0.3
    whole, single = Reference(model, 2), Reference(model, 2)
    y = whole.run(frames[:4], active[:4], reset[:4]), whole.run(frames[4:], active[4:], reset[4:])
    expected = [single.step(*step) for step in zip(frames, active, reset, strict=True)]
    np.testing.assert_array_equal(np.concatenate(y), expected)


@pytest.mark.parametrize("watch", [False, True])
def test_channels_that_are_never_active_are_only_reset(watch):
    """They are not computed unless someone watches; either way the others do not change."""
    model = random_quantized(7, TINY, 3, (5, 4), 3)
    rng = np.random.default_rng(7)
    few, single = Reference(model, 5), Reference(model, 5)
    for channel in range(5):
        state = random_state(rng, model)
        few.set_state(channel, state)
        single.set_state(channel, state)
    for used in ([1, 3], [], [4], [0, 1, 2, 3, 4]):
        frames = rng.integers(-1 << 15, 1 << 15, (6, 5, 3))
        active, reset = rng.random((6, 5)) < 0.7, rng.random((6, 5)) < 0.2
        active[:, [channel for channel in range(5) if channel not in used]] = False
        y = few.run(frames, active, reset, **({"observe": lambda *_: None} if watch else {}))
        expected = [single.step(*step) for step in zip(frames, active, reset, strict=True)]
        np.testing.assert_array_equal(y, expected)
        for held, wanted in zip((*few.c, *few.y), (*single.c, *single.y), strict=True):
            np.testing.assert_array_equal(held, wanted)
    assert few.saturations == single.saturations and few.saturations["cell"] > 0


def test_an_overflow_is_told_for_its_channel():
    model = random_quantized(3, TINY, 3, 5)
    reference = Reference(model, 4)
    reference._layers[0]._scale_x *= 2.0 ** 20
    frames = np.full((2, 4, 3), 1 << 14)
    for channel, active in ((1, [False, True, True, False]), (0, [True] * 4)):
        with pytest.raises(AccumulatorOverflow, match=rf"row \d+, channel {channel}: sum -?\d+ does not fit"):
            reference.run(frames, np.array([active] * 2))


def test_states_of_several_channels_at_once():
    model = random_quantized(5, TINY, 3, (5, 4), 6)
    rng = np.random.default_rng(5)
    whole, single = Reference(model, 4), Reference(model, 4)
    states = [random_state(rng, model) for _ in range(2)]
    for channel, state in zip((3, 1), states, strict=True):
        single.set_state(channel, state)
    whole.set_states([3, 1], [ChannelState(*map(np.stack, zip(*layer, strict=True)))
                              for layer in zip(*states, strict=True)])
    for held, wanted in zip((*whole.c, *whole.y), (*single.c, *single.y), strict=True):
        np.testing.assert_array_equal(held, wanted)
    for layer, found in zip(single.get_state(1), whole.get_states([0, 1]), strict=True):
        np.testing.assert_array_equal(found.c[1], layer.c)
        np.testing.assert_array_equal(found.y[1], layer.y)
        assert not found.c[0].any()
    with pytest.raises(ValueError, match=r"c of layer 'lstm0': expected shape \(1, 5\), found \(2, 5\)"):
        whole.set_states([2], whole.get_states([0, 1]))


def test_channels_do_not_touch_each_other():
    model = random_quantized(3, TINY, 3, (5, 4), 6)
    rng = np.random.default_rng(3)
    frames = rng.integers(-1 << 15, 1 << 15, (9, 4, 3))
    together = Reference(model, 4).run(frames)
    for channel in range(4):
        np.testing.assert_array_equal(Reference(model, 1).run(frames[:, channel:channel + 1])[:, 0],
                                      together[:, channel])


def test_a_voice_moves_with_its_state():
    """A state read from one channel and written to another machine's goes on there as if nothing happened."""
    model = random_quantized(4, TINY, 3, (5, 4), 6)
    frames = np.random.default_rng(4).integers(-1 << 15, 1 << 15, (10, 1, 3))
    stay, leave, arrive = Reference(model, 1), Reference(model, 1), Reference(model, 3)
    leave.run(frames[:5])
    state = leave.get_state(0)
    arrive.set_state(2, state)
    leave.step(frames[0])
    y = [arrive.step(np.repeat(x, 3, axis=0), active=[False, False, True]) for x in frames[5:]]
    np.testing.assert_array_equal(np.stack(y)[:, 2], stay.run(frames)[5:, 0])
    assert not np.stack(y)[:, :2].any()


def test_lookup_at_both_ends():
    """The last sample is its own right neighbour; halves between samples round up."""
    table = np.arange(2048) * 3 - 3000
    for argument in (-(1 << 19), -1, 0, 1, 255, 256, 257, (1 << 19) - 512, (1 << 19) - 1):
        assert Activation.model(TINY, table, argument) == evaluate(table, argument)
    assert Activation.model(TINY, table, (1 << 19) - 1) == table[-1]
    assert Activation.model(TINY, table, -(1 << 19)) == table[0]


def test_tables_hold_one_exactly():
    sigmoid, tanh = activation_table("sigmoid", 4, TINY), activation_table("tanh", 3, TINY)
    assert sigmoid[1024] == 1 << 15 and tanh[1024] == 0
    assert sigmoid[-1] == tanh[-1] == 1 << 16
    assert tanh[0] == -(1 << 16) and sigmoid[0] == 0
    np.testing.assert_array_equal(sigmoid[1:1024] + sigmoid[:1024:-1], 1 << 16)


@given(st.integers(0, 2 ** 32 - 1))
def test_accumulate_is_exact(seed):
    rng = np.random.default_rng(seed)
    weights = rng.integers(-1 << 18, 1 << 18, (3, 50))
    vectors = rng.integers(-1 << 27, 1 << 27, (2, 50))
    expected = [[sum(a * b for a, b in zip(row, vector, strict=True)) for row in weights.tolist()]
                for vector in vectors.tolist()]
    assert accumulate(weights.astype(float), vectors, 54).tolist() == expected


def test_accumulate_refuses_what_does_not_fit():
    weights = np.array([[1.0, 1.0], [1.0, -1.0]])
    assert accumulate(weights, np.array([[64, 63]]), 8).tolist() == [[127, 1]]
    assert accumulate(weights, np.array([[-64, -64]]), 8).tolist() == [[-128, 0]]
    with pytest.raises(AccumulatorOverflow, match=r"row 0, channel 1: sum 128 does not fit 8-bit"):
        accumulate(weights, np.array([[0, 0], [64, 64]]), 8)
    with pytest.raises(AccumulatorOverflow, match=r"row 1, channel 0: sum -129 does not fit 8-bit"):
        accumulate(weights, np.array([[-64, 65]]), 8)


def test_refuses_what_the_machine_cannot_take():
    model = random_quantized(5, TINY, 3, (5, 4))
    reference = Reference(model, 2)
    zeros = np.zeros((2, 3), np.int64)
    with pytest.raises(ValueError, match=r"channels and banks must be at least 1, not 0 and 1"):
        Reference(model, 0)
    with pytest.raises(ValueError, match=r"x: values must be within -32768..32767, found 0..32768"):
        reference.step(zeros + np.array([0, 0, 32768]))
    with pytest.raises(ValueError, match=r"x: expected integers, found type float64"):
        reference.step(zeros.astype(float))
    with pytest.raises(ValueError, match=r"x: expected shape \(2, 3\), found \(3, 2\)"):
        reference.step(zeros.T)
    with pytest.raises(ValueError, match=r"active: expected shape \(2,\), found \(3,\)"):
        reference.step(zeros, active=[True] * 3)
    with pytest.raises(ValueError, match=r"frames: expected shape \(T, 2, 3\), found \(2, 3\)"):
        reference.run(zeros)
    with pytest.raises(ValueError, match=r"state: expected 1 layers, found 2"):
        reference.set_state(0, reference.get_state(0) * 2)
    c, y = reference.get_state(0)[0]
    with pytest.raises(ValueError, match=r"c of layer 'lstm0': values must be within -8388608..8388607"):
        reference.set_state(0, [(c + (1 << 23), y)])
    with pytest.raises(ValueError, match=r"y of layer 'lstm0': expected shape \(4,\), found \(5,\)"):
        reference.set_state(0, [(c, c)])


def test_a_wider_accumulator_than_float64_is_refused():
    config = TINY.replace(weight_bits=18, activation_bits=18, row_nonzeros=1 << 20)
    with pytest.raises(ValueError, match=r"accumulator_bits must be at most 54 .*, not 55"):
        Reference(random_quantized(6, config, 2, 3), 1)
