# SPDX-License-Identifier: Apache-2.0
"""The cell for training and the pruner, against PyTorch, autograd and the machine's software."""

import copy
import time
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from openese.rtl.config import preset
from openese.sw.importers import from_torch
from openese.sw.model.layers import Model
from openese.sw.prune import PruneError, prune, report, slice_counts
from openese.sw.quantize.choose import QuantizeError
from openese.sw.reference.floating import run
from openese.sw.reference.machine import Reference

torch = pytest.importorskip("torch", reason="training needs PyTorch: the extra `train`")

from openese.sw.training import LSTMP, Pruner, fast_products, scan  # noqa: E402
from openese.sw.training.lstmp import State  # noqa: E402
from openese.sw.training.pruner import find_weights  # noqa: E402

SIZES = [(7, 12, 5, True), (7, 12, 5, False), (7, 12, None, True), (7, 12, None, False)]
T, B = 6, 3


def cell(inputs, cells, outputs, peepholes, seed=1):
    """Return a layer in float64 with random weights, biases and peepholes."""
    torch.manual_seed(seed)
    layer = LSTMP(inputs, cells, outputs, peepholes, products=torch.float64).double()
    for parameter in (layer.bias, layer.peephole):
        if parameter is not None:
            torch.nn.init.normal_(parameter, std=0.5)
    return layer


def start(layer):
    cells, outputs = layer.w_x.shape[1], layer.w_r.shape[2]
    return State(torch.randn(B, cells, dtype=torch.float64, requires_grad=True),
                 torch.randn(B, outputs, dtype=torch.float64, requires_grad=True))


def plain_loop(layer, x, state):
    """Run the cell of the paper step by step under autograd."""
    c, y = state
    outputs = []
    peephole = torch.zeros(3, c.shape[1], dtype=x.dtype) if layer.peephole is None else layer.peephole
    for frame in x:
        i, f, g, o = (frame @ w_x.T + y @ w_r.T + bias
                      for w_x, w_r, bias in zip(layer.w_x, layer.w_r, layer.bias, strict=True))
        i, f = torch.sigmoid(i + peephole[0] * c), torch.sigmoid(f + peephole[1] * c)
        c = f * c + i * torch.tanh(g)
        m = torch.sigmoid(o + peephole[2] * c) * torch.tanh(c)
        y = m if layer.w_ym is None else m @ layer.w_ym.T
        outputs.append(y)
    return torch.stack(outputs), State(c, y)


def gradients(layer, state, x, answer):
    """Return the gradients of a loss that depends on all outputs and on the last state."""
    y, (c, last) = answer
    loss = (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum() + (c**2).sum() + last.sum()
    return torch.autograd.grad(loss, [x, *state, *layer.parameters()])


@pytest.mark.parametrize("sizes", SIZES)
def test_gradients_equal_those_of_the_plain_loop(sizes):
    layer = cell(*sizes)
    x, state = torch.randn(T, B, sizes[0], dtype=torch.float64, requires_grad=True), start(layer)
    ours, plain = layer(x, state), plain_loop(layer, x, state)
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-12)
    torch.testing.assert_close(gradients(layer, state, x, ours), gradients(layer, state, x, plain), rtol=0, atol=1e-10)


@pytest.mark.parametrize("outputs", [None, 5])
def test_without_peepholes_it_is_torch_lstm(outputs):
    layer = cell(7, 12, outputs, peepholes=False)
    lstm = torch.nn.LSTM(7, 12, proj_size=outputs or 0).double()
    with torch.no_grad():
        lstm.weight_ih_l0.copy_(layer.w_x.flatten(0, 1))
        lstm.weight_hh_l0.copy_(layer.w_r.flatten(0, 1))
        lstm.bias_ih_l0.copy_(layer.bias.flatten())
        lstm.bias_hh_l0.zero_()
        if outputs:
            lstm.weight_hr_l0.copy_(layer.w_ym)
    x = torch.randn(T, B, 7, dtype=torch.float64)
    y, (c, last) = layer(x)
    right, (last_right, c_right) = lstm(x)
    torch.testing.assert_close((y, c, last), (right, c_right[0], last_right[0]), rtol=0, atol=1e-12)
    for given in (y, right):
        given.square().sum().backward()
    torch.testing.assert_close(layer.w_r.grad.flatten(0, 1), lstm.weight_hh_l0.grad, rtol=0, atol=1e-10)
    torch.testing.assert_close(layer.w_x.grad.flatten(0, 1), lstm.weight_ih_l0.grad, rtol=0, atol=1e-10)


def test_products_in_bfloat16_are_near():
    exact = LSTMP(20, 32, 16)
    near = copy.deepcopy(exact)
    near.products = torch.bfloat16
    x = torch.randn(T, B, 20)
    results = []
    for layer in (exact, near):
        y, _ = layer(x)
        y.square().mean().backward()
        results.append((y.detach(), layer.w_r.grad))
    (y, of_r), (y_near, of_r_near) = results
    assert 0 < (y - y_near).norm() / y.norm() < 0.02
    assert (of_r - of_r_near).norm() / of_r.norm() < 0.05
    assert near.w_r.grad.dtype == torch.float32


@pytest.mark.parametrize(("slow", "chosen"), [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)])
def test_products_are_in_the_type_that_is_faster(slow, chosen, monkeypatch):
    monkeypatch.setattr(torch, "mm", lambda rows, columns: time.sleep(0.002 if rows.dtype == slow else 0))
    assert fast_products.__wrapped__() is chosen


@pytest.mark.parametrize("sizes", SIZES)
def test_the_exported_layer_computes_the_same(sizes):
    layer = cell(*sizes)
    x = torch.randn(T, B, sizes[0], dtype=torch.float64)
    expected, _ = layer(x)
    outputs, _ = run(Model(layers=(layer.layer(),)), x.numpy())
    np.testing.assert_allclose(outputs, expected.detach().numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("sizes", [(0, 4, None), (4, 0, None), (4, 4, 0)])
def test_sizes_are_checked(sizes):
    with pytest.raises(ValueError, match="sizes must be at least 1"):
        LSTMP(*sizes)


@pytest.mark.parametrize("shape", [(T, B), (T, B, 8), (0, B, 7)])
def test_input_is_checked(shape):
    with pytest.raises(ValueError, match=r"x: expected shape \(T, B, 7\)"):
        LSTMP(7, 12)(torch.zeros(shape))


def same(network, model):
    """Whether an LSTMP has the weights of a model's only layer."""
    held, layer = network.layer(model.layers[0].name), model.layers[0]
    return all(np.array_equal(getattr(held, name), getattr(layer, name)) for name in ("w_x", "w_r", "w_ym"))


@pytest.mark.parametrize("density", [0.1, {"w_x": 0.5, "w_r": 0.1}, {"lstm": {"w_ym": 0.25}}])
@pytest.mark.parametrize("balanced", [True, False])
def test_pruning_at_once_equals_the_command(density, balanced):
    layer = LSTMP(30, 48, 16)
    expected = prune(Model(layers=(layer.layer(),)), density, 8, balanced=balanced)
    pruner = Pruner(layer, density, machine="demo", balanced=balanced)
    pruner.make_permanent()
    assert same(layer, expected)
    assert {name for name, _ in layer.named_parameters()} == {"w_x", "w_r", "bias", "peephole", "w_ym"}


def train(network, optimizer, after=lambda: None, steps=20):
    """Train for a few steps."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.randn(5, 4, 10, generator=generator)
        loss = (network(x)[0] - 0.3).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        after()


@pytest.mark.parametrize("make", [lambda: LSTMP(10, 32, 16), lambda: torch.nn.LSTM(10, 32, proj_size=16)],
                         ids=["LSTMP", "nn.LSTM"])
def test_density_falls_while_training_and_stays_balanced(make):
    torch.manual_seed(1)
    network = make()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    pruner = Pruner(network, 0.25, machine="demo", steps=12, every=2)
    seen = []

    def after():
        pruner.step()
        per_pe = [pair for matrices in next(iter(pruner.counts().values())).values() for pair in matrices]
        assert all(smallest == largest for smallest, largest in per_pe)
        seen.append(sum(largest for _, largest in per_pe))

    train(network, optimizer, after)
    assert seen == sorted(seen, reverse=True) and seen[0] > 2 * seen[11] and seen[11] == seen[-1]
    pruner.make_permanent()
    source = Model(layers=(network.layer(),)) if isinstance(network, LSTMP) else from_torch.from_module(
        network).load().model
    counts = report(source, 8)
    assert len(counts) == 9 and all(row.smallest == row.largest for row in counts)
    assert all(abs(row.density - 0.25) < 0.05 for row in counts)


def test_density_falls_from_its_present_value():
    network = LSTMP(10, 32, 16)
    Pruner(network, 0.25, machine="demo").make_permanent()
    kept = network.w_r.detach() != 0
    pruner = Pruner(network, 0.125, machine="demo", steps=12, every=2)
    assert torch.equal(network.w_r != 0, kept)
    seen = []

    def after():
        pruner.step()
        seen.append(int(torch.count_nonzero(network.w_r_mask)))
        assert not (network.w_r_mask.bool() & ~kept).any()

    train(network, torch.optim.Adam(network.parameters(), lr=1e-2), after)
    assert seen == sorted(seen, reverse=True) and seen[0] <= int(kept.sum()) == 2 * seen[-1]


def test_pruned_weights_get_no_gradient():
    network = LSTMP(10, 32, 16)
    pruner = Pruner(network, 0.25, machine="demo")
    before = network.w_r_orig.detach().clone()
    train(network, torch.optim.SGD(network.parameters(), lr=0.1), pruner.step)
    held = network.w_r_mask == 0
    assert held.any() and torch.equal(network.w_r_orig[held], before[held])
    assert not torch.equal(network.w_r_orig[~held], before[~held])


@pytest.mark.parametrize("make", [lambda: LSTMP(10, 32, 16), lambda: torch.nn.LSTM(10, 32, num_layers=2)],
                         ids=["LSTMP", "nn.LSTM"])
def test_weights_are_exchanged_for_those_with_large_gradients(make):
    torch.manual_seed(1)
    network = make()
    module, name, *_ = find_weights(network)[0]
    pruner = Pruner(network, 0.25, machine="demo", every=5, exchange=0.4, exchange_steps=40)
    counts, changed = pruner.counts(), []

    def after():
        kept = getattr(module, f"{name}_mask").bool()
        gradient = getattr(module, name).grad if len(changed) < 40 else None
        pruner.step()
        now = getattr(module, f"{name}_mask").bool()
        new = now & ~kept
        if new.any():
            assert gradient[new].abs().mean() > 1.5 * gradient[~now].abs().mean()
            assert not getattr(module, name)[new].any()
        assert pruner.counts() == counts
        changed.append(int(new.sum()))

    train(network, torch.optim.Adam(network.parameters(), lr=1e-2), after, steps=50)
    exchanges = changed[4:39:5]
    assert sum(changed) == sum(exchanges) and all(exchanges) and exchanges[-1] < exchanges[0] / 3
    pruner.make_permanent()
    assert {parameter for parameter, _ in network.named_parameters()} == {
        parameter for parameter, _ in make().named_parameters()}


@pytest.mark.parametrize("exchange", [{}, {"exchange": 0.2, "exchange_steps": 30}])
def test_density_moves_from_one_matrix_to_another(exchange):
    torch.manual_seed(1)
    network = LSTMP(10, 32, 16)
    Pruner(network, 0.25, machine="demo").make_permanent()
    before = {name: int(torch.count_nonzero(getattr(network, name))) for name in ("w_x", "w_r", "w_ym")}
    pruner = Pruner(network, {"w_x": 0.25, "w_r": 0.125, "w_ym": 0.5}, machine="demo", steps=20, every=2, **exchange)
    seen = []

    def after():
        pruner.step()
        seen.append({name: int(getattr(network, f"{name}_mask").sum()) for name in before})

    train(network, torch.optim.Adam(network.parameters(), lr=1e-2), after, steps=40)
    for name, factor in (("w_x", 1), ("w_r", 0.5), ("w_ym", 2)):
        numbers = [row[name] for row in seen]
        assert numbers == sorted(numbers, reverse=factor < 1) and numbers[0] == before[name]
        assert numbers[19] == numbers[-1] == factor * before[name]
        assert len(set(numbers)) == 1 if factor == 1 else len(set(numbers)) > 4
    pruner.make_permanent()
    assert int(torch.count_nonzero(network.w_ym)) == 2 * before["w_ym"]
    per_pe = slice_counts((network.w_ym != 0).numpy(), 8)
    assert per_pe.min() == per_pe.max()


@pytest.mark.parametrize("options", [{"exchange": 0.2, "exchange_steps": 4}, {"density": {"w_ym": 0.5}, "steps": 4}])
def test_nothing_grows_without_gradients(options):
    network = LSTMP(10, 32, 16)
    Pruner(network, 0.25, machine="demo").make_permanent()
    pruner = Pruner(network, machine="demo", every=2, **{"density": 0.25} | options)
    pruner.step()
    with pytest.raises(PruneError, match="lstm: w_.* has no gradient; call backward.. before step"):
        pruner.step()


def test_layers_of_torch_have_names():
    network = torch.nn.ModuleDict({"a": torch.nn.LSTM(8, 16, num_layers=2, bidirectional=True),
                                   "b": torch.nn.LSTMCell(8, 16), "c": LSTMP(8, 16)})
    pruner = Pruner(network, {"a.l1_reverse": 0.5, "b": {"w_r": 0.25}}, machine="tiny")
    counts = pruner.counts()
    assert set(counts) == {"a.l0", "a.l0_reverse", "a.l1", "a.l1_reverse", "b", "c"}
    assert counts["a.l1_reverse"] == {"w_x": [(64, 64)] * 4, "w_r": [(32, 32)] * 4}
    assert counts["b"] == {"w_x": [(32, 32)] * 4, "w_r": [(16, 16)] * 4}
    assert counts["a.l0"]["w_x"] == [(32, 32)] * 4


def test_training_goes_on_from_a_saved_state():
    def begin():
        torch.manual_seed(1)
        network = LSTMP(10, 32, 16)
        return SimpleNamespace(network=network, optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
                               pruner=Pruner(network, 0.25, machine="demo", steps=10, every=3))

    whole, first, second = begin(), begin(), begin()
    train(whole.network, whole.optimizer, whole.pruner.step, steps=4)
    train(first.network, first.optimizer, first.pruner.step, steps=4)
    second.network.load_state_dict(first.network.state_dict())
    second.pruner.load_state_dict(first.pruner.state_dict())
    for part in (whole, second):
        train(part.network, part.optimizer, part.pruner.step, steps=6)
        part.pruner.make_permanent()
    assert same(second.network, Model(layers=(whole.network.layer(),)))


def test_no_permanence_before_the_density_is_reached():
    pruner = Pruner(LSTMP(10, 32), 0.25, machine="demo", steps=5)
    with pytest.raises(PruneError, match=r"the pruner is at step 0 of 5; call step\(\)"):
        pruner.make_permanent()


@pytest.mark.parametrize(("network", "arguments", "message"), [
    (torch.nn.Linear(3, 3), {}, "Linear has no LSTM or GRU to prune"),
    (LSTMP(4, 8), {"steps": -1}, "steps and exchange_steps must be at least 0 and every at least 1, not -1, 0 and 10"),
    (LSTMP(4, 8), {"every": 0}, "every at least 1"),
    (LSTMP(4, 8), {"exchange": 1.0}, "exchange must be a share of at least 0 and below 1, not 1.0"),
    (LSTMP(4, 8), {"exchange": 0.1}, "must both be zero or both be positive, not 0.1 and 0"),
    (LSTMP(4, 8), {"density": 1.5}, "between 0 and 1"),
    (LSTMP(4, 8), {"density": {"gru": 0.5}}, "'gru' is neither a tensor"),
    (LSTMP(4, 8), {"machine": "nothing"}, "no preset 'nothing'"),
])
def test_bad_arguments_are_refused(network, arguments, message):
    with pytest.raises(ValueError, match=message):
        Pruner(network, **{"density": 0.5, "machine": "tiny", **arguments})


def test_a_scan_finds_the_matrix_that_matters():
    torch.manual_seed(1)
    network = torch.nn.ModuleDict({"lstm": LSTMP(16, 32, 16)})
    before = copy.deepcopy(network.state_dict())
    lstm, x = network["lstm"], torch.randn(T, B, 16)
    with torch.no_grad():
        lstm.w_r.mul_(0.01)
        before["lstm.w_r"].mul_(0.01)
        right, _ = lstm(x)
    sensitivity = scan(network, lambda: float((lstm(x)[0] - right).square().mean()), [0.5, 0.25, 1.0], machine="tiny")
    assert sensitivity.densities == (1.0, 0.5, 0.25)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    errors = sensitivity.errors
    assert set(errors) == {("lstm", "w_x"), ("lstm", "w_r"), ("lstm", "w_ym")}
    assert all(row[0] == 0 < row[1] < row[2] for row in errors.values())
    assert errors["lstm", "w_r"][2] < 0.01 * errors["lstm", "w_x"][1]
    assert sensitivity.sizes["lstm", "w_ym"] == 512
    proposed = sensitivity.propose(0.6)
    assert proposed["lstm"]["w_r"] == 0.25 and proposed["lstm"]["w_x"] > 0.25
    kept = sum(sensitivity.sizes["lstm", tensor] * density for tensor, density in proposed["lstm"].items())
    assert kept <= 0.6 * sum(sensitivity.sizes.values())
    Pruner(network, proposed, machine="tiny")
    with pytest.raises(PruneError, match="below the lowest of the scan, 0.25"):
        sensitivity.propose(0.2)


def test_a_scan_needs_something_to_prune():
    with pytest.raises(PruneError, match="Linear has no LSTM"):
        scan(torch.nn.Linear(3, 3), lambda: 0.0, [0.5], machine="tiny")


# -- the machine's arithmetic --------------------------------------------------------------------------------


def on_machine(sizes, bits=12):
    """Return a layer in the machine's arithmetic, and frames."""
    layer = cell(*sizes).float()
    x = torch.randn(T, B, sizes[0], requires_grad=True)
    layer.quantize(x.detach().numpy(), preset("demo").replace(weight_bits=bits))
    return layer, x


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("bits", [12, 5])
def test_the_forward_pass_is_the_reference(sizes, bits):
    layer, x = on_machine(sizes, bits)
    first, state = layer(x)
    second, (c, last) = layer(x, state)
    model = layer.quantized()
    reference = Reference(model, B)
    frames = model.quantize_input(x.detach().numpy())[0]
    for outputs in (first, second):
        assert np.array_equal(outputs.detach().numpy() * 2.0**model.layers[0].y_fraction, reference.run(frames))
    assert np.array_equal(c.detach().numpy() * 2.0**model.formats[0].cell_fraction, reference.c[0])
    assert torch.equal(last, second[-1])


@pytest.mark.parametrize("sizes", SIZES)
def test_gradients_through_the_machine_equal_the_plain_loop_up_to_rounding(sizes):
    layer, x = on_machine(sizes)
    state = State(torch.zeros(B, 12, requires_grad=True), torch.zeros(B, sizes[2] or 12, requires_grad=True))
    machine, plain = (gradients(layer, state, x, run(x, state)) for run in (layer, partial(plain_loop, layer)))
    for ours, exact in zip(machine, plain, strict=True):
        torch.testing.assert_close(ours, exact, rtol=0, atol=0.01 * float(exact.abs().max()))


def test_gradients_where_inputs_are_scaled():
    layer = cell(7, 12, 5, True).float()
    sizes = 2.0 ** torch.linspace(-14, 3, 7)
    with torch.no_grad():
        layer.w_x /= sizes / 4
    x = (torch.randn(T, B, 7) * sizes).requires_grad_()
    layer.quantize(x.detach().numpy(), preset("demo"))
    assert layer.quantized().layers[0].x_exponents
    state = State(torch.zeros(B, 12, requires_grad=True), torch.zeros(B, 5, requires_grad=True))
    machine, plain = (gradients(layer, state, x, run(x, state)) for run in (layer, partial(plain_loop, layer)))
    for ours, exact in zip(machine, plain, strict=True):
        torch.testing.assert_close(ours, exact, rtol=0, atol=0.02 * float(exact.abs().max()))


def test_training_in_the_machine_s_arithmetic_compensates_few_bits():
    exact = cell(7, 12, 5, True).float()
    x = torch.randn(20, 8, 7)
    wanted = exact(x)[0].detach()
    layer = copy.deepcopy(exact)
    layer.quantize(x.numpy(), preset("demo").replace(weight_bits=4))
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-3)
    errors = []
    for _ in range(40):
        error = (layer(x)[0] - wanted).square().mean()
        errors.append(error.item())
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    assert min(errors) < 0.6 * errors[0]


def test_pruned_weights_stay_zero_in_the_machine_s_arithmetic():
    layer, x = on_machine((8, 16, 8, True))
    pruner = Pruner(layer, 0.25, machine="tiny")
    layer(x)[0].square().sum().backward()
    torch.optim.SGD(layer.parameters(), lr=0.1).step()
    layer(x)
    masks = pruner.counts()["lstm"]
    for row in report(layer.quantized().floating_point(), 4):
        assert row.largest <= max(most for _, most in masks[row.matrix.split("[")[0]]) and row.density <= 0.25


def test_formats_must_be_chosen_and_still_fit():
    layer = cell(7, 12, 5, True).float()
    with pytest.raises(ValueError, match=r"no number formats; call quantize\(frames, config\) first"):
        layer.quantized()
    with pytest.raises(QuantizeError, match=r"frames: expected shape \(T, B, 7\)"):
        layer.quantize(np.zeros((3, 2, 6)), preset("demo"))
