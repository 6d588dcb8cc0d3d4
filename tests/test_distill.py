# SPDX-License-Identifier: Apache-2.0
"""Distillation of any network."""

import copy
import itertools

import pytest

from sw.prune import PruneError

torch = pytest.importorskip("torch", reason="training needs PyTorch: the extra `train`")

from sw.training import distill, relative_error  # noqa: E402

PES = 4


def network(seed=1):
    torch.manual_seed(seed)
    return torch.nn.LSTM(6, 16)


def batches(seed=2):
    torch.manual_seed(seed)
    while True:
        yield 2 * torch.randn(12, 8, 6)


def test_relative_error_is_that_of_the_first_tensor():
    right = torch.tensor([3.0, 4.0]), (torch.ones(2), torch.ones(2))
    assert float(relative_error(right, right)) == 0
    assert float(relative_error((torch.tensor([3.0, -1.0]), right[1]), right)) == pytest.approx(1.0)


def test_a_distilled_network_answers_like_the_dense_one():
    dense, sparse, once = network(), network(), network()
    curve = distill(sparse, batches(), 150, 0.3, PES, rate=1e-2)
    distill(once, batches(), 1, 0.3, PES, rate=0.0)
    x = next(batches(3))
    with torch.no_grad():
        error, without = (float(relative_error(found(x), dense(x))) for found in (sparse, once))
    assert error < 0.8 * without and len(curve) == 150
    for name, weights in sparse.named_parameters():
        share = float((weights != 0).float().mean())
        assert share == 1 if name.startswith("bias") else 0.2 < share <= 0.3
    assert not sparse.training and set(sparse.state_dict()) == set(dense.state_dict())


def test_the_dense_network_stays_the_teacher():
    """Answers to learn are those of before, whatever the network becomes."""
    seen, sparse = [], network()
    right = copy.deepcopy(sparse)
    inputs = list(itertools.islice(batches(), 5))

    def loss(found, wanted):
        seen.append(wanted[0])
        return relative_error(found, wanted)

    distill(sparse, inputs, 5, 0.5, PES, loss=loss, progress=lambda updates, value: None)
    for x, wanted in zip(inputs, seen, strict=True):
        with torch.no_grad():
            assert torch.equal(right(x)[0], wanted)


def test_bad_distillations_are_refused():
    with pytest.raises(PruneError, match="updates must be at least 1, not 0"):
        distill(network(), batches(), 0, 0.5, PES)
    with pytest.raises(PruneError, match="batches ended after 3 of 5 updates"):
        distill(network(), itertools.islice(batches(), 3), 5, 0.5, PES)
    with pytest.raises(PruneError, match="Linear has no LSTM"):
        distill(torch.nn.Linear(2, 2), batches(), 5, 0.5, PES)
