# SPDX-License-Identifier: Apache-2.0
"""Load-balance-aware pruning against its definition, slice by slice."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import random_model

from openese.sw.model.layers import Layer, Model
from openese.sw.prune import PruneError, format_report, prune, report, slice_counts


def equal_counts(sizes, density):
    """One weight more for each slice that has one, as long as their number comes nearer to the density."""
    counts, wanted = [0] * len(sizes), density * sum(sizes)
    while True:
        more = [min(size, count + 1) for size, count in zip(sizes, counts, strict=True)]
        if abs(sum(more) - wanted) >= abs(sum(counts) - wanted):
            return counts
        counts = more


def kept_by_definition(values, density, row_pes, groups, equal):
    """Mask of the weights that stay, by sorting each slice."""
    slices = {}
    for r, c in np.ndindex(values.shape):
        slices.setdefault((r % row_pes, c % groups), []).append((-abs(values[r, c]), r, c))
    keep = np.zeros(values.shape, bool)
    ordered = [sorted(elements) for _, elements in sorted(slices.items())]
    sizes = [len(elements) for elements in ordered]
    counts = equal_counts(sizes, density) if equal else [int(density * size) for size in sizes]
    for elements, count in zip(ordered, counts, strict=True):
        for _, r, c in elements[:count]:
            keep[r, c] = True
    return keep


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2 ** 32 - 1), sizes=st.tuples(*[st.integers(1, 11)] * 3),
       density=st.sampled_from([0, 0.05, 0.1, 0.29, 1 / 3, 0.5, 0.9, 1]),
       row_pes=st.sampled_from([1, 2, 4, 8, 16]), groups=st.sampled_from([1, 2, 4]), coarse=st.booleans(),
       equal=st.booleans())
def test_equals_the_definition(seed, sizes, density, row_pes, groups, coarse, equal):
    """Sizes that are no multiples of the PEs, and, where weights are coarse, many of one magnitude."""
    model = random_model(seed, sizes[0], (sizes[1], sizes[2]), scale=5)
    if coarse:
        layer = model.layers[0]
        model = Model(layers=(Layer(name="coarse", w_x=layer.w_x.round(), w_r=layer.w_r.round(),
                                    bias=layer.bias, w_ym=layer.w_ym.round()),))
    pruned = prune(model, density, row_pes * groups, groups, equal=equal)
    for before, after in zip(model.layers[0].matrices(), pruned.layers[0].matrices(), strict=True):
        keep = kept_by_definition(before.values, density, row_pes, groups, equal)
        np.testing.assert_array_equal(after.values, np.where(keep, before.values, 0))


def test_the_papers_layer():
    """W_ym at 10 % leaves 1638 weights on each of 32 PEs; every matrix is perfectly balanced."""
    rng = np.random.default_rng(5)
    layer = Layer(name="ese", w_x=rng.normal(size=(4, 1024, 153)).astype(np.float32),
                  w_r=rng.normal(size=(4, 1024, 512)).astype(np.float32), bias=np.zeros((4, 1024)),
                  w_ym=rng.normal(size=(512, 1024)).astype(np.float32))
    model = Model(layers=(layer,))
    rows = report(prune(model, 0.1, 32), 32)
    assert {row.matrix: (row.smallest, row.largest) for row in rows} == {
        **{f"w_x[{gate}]": (489, 489) for gate in "ifgo"},
        **{f"w_r[{gate}]": (1638, 1638) for gate in "ifgo"}, "w_ym": (1638, 1638)}
    loose = report(prune(model, 0.1, 32, balanced=False), 32)
    assert all(row.smallest < row.largest for row in loose)
    assert sum(row.nonzeros for row in loose) == 4 * int(0.1 * 1024 * 153) + 4 * 52428 + 52428


def test_equal_pruning_levels_pes_of_different_sizes():
    """Ten rows on four PEs: two have three rows, two have two."""
    model = random_model(6, 8, 10)
    shares, equal = (report(prune(model, 0.4, 4, equal=equal), 4) for equal in (False, True))
    assert {(row.smallest, row.largest) for row in shares if row.matrix.startswith("w_x")} == {(6, 9)}
    assert {(row.smallest, row.largest) for row in equal if row.matrix.startswith("w_x")} == {(8, 8)}
    with pytest.raises(PruneError, match="both equal for all PEs and unbalanced"):
        prune(model, 0.4, 4, balanced=False, equal=True)


def test_global_pruning_keeps_the_largest_of_a_matrix():
    model = random_model(6, 8, 16)
    pruned = prune(model, 0.25, 4, balanced=False).layers[0]
    for before, after in zip(model.layers[0].matrices(), pruned.matrices(), strict=True):
        kept = np.abs(after.values[after.values != 0])
        assert kept.size == before.values.size // 4
        assert kept.min() > np.abs(before.values[after.values == 0]).max()


def test_the_rest_of_a_model_stays():
    model = random_model(7, 8, (16, 8), peephole=True, g_activation="sigmoid", head=3)
    pruned = prune(model, 0.5, 4)
    before, after = model.layers[0], pruned.layers[0]
    np.testing.assert_array_equal(after.bias, before.bias)
    np.testing.assert_array_equal(after.peephole, before.peephole)
    assert (after.name, after.g_activation, pruned.head) == (before.name, before.g_activation, model.head)
    assert after.w_x.dtype == before.w_x.dtype


def densities(model):
    """Density of w_x, w_r and w_ym of each layer."""
    return [tuple(None if tensor is None else np.count_nonzero(tensor) / tensor.size
                  for tensor in (layer.w_x, layer.w_r, layer.w_ym)) for layer in model.layers]


def test_densities_by_tensor_and_layer():
    model = random_model(8, 8, (16, 8), 16)
    assert densities(prune(model, {"w_x": 0.5, "w_ym": 0.25}, 4)) == [(0.5, 1, 0.25), (0.5, 1, None)]
    assert densities(prune(model, {"lstm1": 0.25}, 4)) == [(1, 1, 1), (0.25, 0.25, None)]
    assert densities(prune(model, {"lstm0": {"w_r": 0.5}, "lstm1": 0}, 4)) == [(1, 0.5, 1), (0, 0, None)]


@pytest.mark.parametrize("density, pes, groups, message", [
    (1.5, 4, 1, "density of the model must be a number between 0 and 1, not 1.5"),
    (float("nan"), 4, 1, "density of the model must be a number between 0 and 1, not nan"),
    ("0.1", 4, 1, "density of the model must be a number between 0 and 1, not '0.1'"),
    (True, 4, 1, "density of the model must be a number between 0 and 1, not True"),
    ({"w_x": -1}, 4, 1, "density of the model w_x must be a number between 0 and 1, not -1"),
    ({"lstm0": {"w_x": 2}}, 4, 1, "density of layer 'lstm0' w_x must be a number between 0 and 1, not 2"),
    ({"lstm0": {"w_z": 1}}, 4, 1, "density of layer 'lstm0': 'w_z' is none of w_x, w_r, w_ym"),
    ({"lstm9": 1}, 4, 1, "density: 'lstm9' is neither a tensor (w_x, w_r, w_ym) nor a layer (lstm0, lstm1)"),
    (0.1, 4, 3, "pes must be a positive multiple of groups, not 4 with 3 groups"),
    (0.1, 0, 1, "pes must be a positive multiple of groups, not 0 with 1 groups"),
])
def test_nonsense_is_named(density, pes, groups, message):
    with pytest.raises(PruneError) as error:
        prune(random_model(9, 3, 4, 4), density, pes, groups)
    assert str(error.value) == message


def test_slice_counts():
    values = np.zeros((5, 6))
    values[[0, 2, 4, 1], [0, 2, 1, 5]] = 1
    np.testing.assert_array_equal(slice_counts(values, 4, 2), [[2, 1], [0, 1]])
    np.testing.assert_array_equal(slice_counts(values, 8)[:, 0], [1, 1, 1, 0, 1, 0, 0, 0])


def test_the_report_as_a_table():
    lines = format_report(report(prune(random_model(10, 8, (16, 8)), 0.25, 4), 4)).splitlines()
    assert len(lines) == 10
    assert lines[1].split() == ["lstm0", "w_x[i]", "16x8", "32", "25.00%", "8..8"]
