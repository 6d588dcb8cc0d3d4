# SPDX-License-Identifier: Apache-2.0
"""Products with and without the zeros are the same."""

import numpy as np
import pytest
from scipy.sparse import issparse

from openese.sw.reference import products
from openese.sw.reference.products import multiply, prepare, replace_values, stored_values

RNG = np.random.default_rng(1)


def sparse(shape, density):
    return RNG.integers(-2047, 2048, shape) * (RNG.random(shape) < density)


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64])
@pytest.mark.parametrize("voices", [1, 3, 64, 150])
def test_compressed_rows_give_the_same(dtype, voices, monkeypatch):
    matrix = sparse((4, 31, 40), 0.1).astype(dtype)
    matrix[2, 5] = 0
    vectors = RNG.integers(-1 << 15, 1 << 15, (voices, 40)).astype(np.float64)
    dense = prepare(matrix)
    monkeypatch.setattr(products, "SPARSE_SIZE", 0)
    compressed = prepare(matrix)
    assert issparse(compressed) and not issparse(dense)
    expected = vectors.astype(np.int64) @ matrix.reshape(-1, 40).T.astype(np.int64)
    for weights in (dense, compressed):
        np.testing.assert_array_equal(multiply(vectors, weights), expected)
        np.testing.assert_array_equal(multiply(vectors, weights[31:62]), expected[:, 31:62])
        doubled = replace_values(weights, 2 * stored_values(weights))
        np.testing.assert_array_equal(multiply(vectors, doubled), 2 * expected)


def test_only_large_and_sparse_matrices_are_compressed():
    assert issparse(prepare(sparse((512, 512), 0.1)))
    assert not issparse(prepare(sparse((512, 511), 0.1)))
    assert not issparse(prepare(sparse((512, 512), 0.2)))
