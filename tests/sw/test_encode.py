# SPDX-License-Identifier: Apache-2.0
"""Encoding keeps every weight, pads where it must, and orders columns so that the PEs stay level."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openese.rtl.config import Config, preset
from openese.sw.pack import encode as encode_module
from openese.sw.pack.encode import EncodeError, column_order, decode, encode, order_window

TINY = preset("tiny")
CONFIGS = [
    TINY,
    TINY.replace(name="narrow index", index_bits=1),
    TINY.replace(name="one PE", pes=1, slices=1),
    Config(name="groups", pes=8, channels=1, groups=2, slices=2, index_bits=3),
]


def sparse(rng, shape, density):
    """Weights of all sizes, none zero but by chance of ``density``."""
    return rng.integers(1, 2048, shape) * rng.choice([-1, 1], shape) * (rng.random(shape) < density)


@settings(max_examples=80, deadline=None)
@given(config=st.sampled_from(CONFIGS), gates=st.booleans(), rows=st.integers(1, 70), columns=st.integers(1, 20),
       density=st.sampled_from([0, 0.01, 0.1, 0.5, 1]), balance=st.booleans(), seed=st.integers(0, 1000))
def test_decoding_gives_the_matrix_back(config, gates, rows, columns, density, balance, seed):
    shape = (4, rows, columns) if gates else (rows, columns)
    matrix = sparse(np.random.default_rng(seed), shape, density)
    encoded = encode(matrix, config, balance)
    assert (decode(encoded, config) == matrix).all()
    assert encoded.nonzeros.sum() == np.count_nonzero(matrix)
    assert (encoded.counts.sum(axis=0) == encoded.lengths).all()
    assert encoded.lines == encoded.lengths.max(initial=0)


@pytest.mark.parametrize(("gap", "padding"), [(0, 0), (3, 0), (4, 1), (15, 1), (19, 1), (20, 2), (35, 2), (36, 3)])
def test_one_padding_entry_bridges_many_rows(gap, padding):
    """With 2 index bits an entry skips up to 3 rows, a padding entry 4, 8, 12 or 16."""
    config = TINY.replace(index_bits=2, pes=1, slices=1)
    matrix = np.zeros((64, 1), int)
    matrix[gap, 0] = 5
    encoded = encode(matrix, config)
    assert encoded.padding == padding
    assert (decode(encoded, config) == matrix).all()


def test_rows_and_columns_are_interleaved():
    """Row r is on PE r % row_pes of group j % groups; local rows of gates are 4 * (r // row_pes) + gate."""
    config = Config(name="groups", pes=8, channels=1, groups=2, slices=2, index_bits=6)
    matrix = np.zeros((4, 12, 6), int)
    matrix[2, 9, 5] = 7
    encoded = encode(matrix, config)
    pe = 9 % 4 + 4 * (5 % 2)
    assert encoded.lengths.tolist() == [int(p == pe) for p in range(8)]
    assert (encoded.weights[0, pe], encoded.skips[0, pe]) == (7, 4 * (9 // 4) + 2)
    assert encoded.order.tolist() == [[-1, 5]]


def test_empty_columns_are_left_out():
    matrix = np.zeros((8, 5), int)
    matrix[:, [1, 3]] = 1
    encoded = encode(matrix, TINY)
    assert sorted(encoded.order[:, 0].tolist()) == [1, 3]


def test_order_keeps_the_pes_level():
    """The most that any PE is ahead of the mean is less than half, though the first columns keep their order."""
    rng = np.random.default_rng(0)
    counts = np.stack([np.bincount(rng.integers(0, 1024, 1638), minlength=1024) for _ in range(32)], axis=1)

    def spread(order):
        level = np.cumsum(counts[order], axis=0)
        return np.abs(level - level.mean(axis=1, keepdims=True)).max()

    order = column_order(counts)
    assert sorted(order.tolist()) == list(range(1024))
    assert spread(order) < spread(np.arange(1024)) / 2


def test_columns_stay_in_order_if_they_need_not_balance():
    matrix = np.tile(np.arange(1, 30) * (np.arange(29) % 3 > 0), (8, 1))
    matrix[::4, :15] = matrix[1::4, 15:] = 0
    kept, balanced = (encode(matrix, TINY, balance).order[:, 0].tolist() for balance in (False, True))
    assert kept == sorted(balanced) != balanced


@pytest.mark.parametrize(("pes", "groups", "window"), [
    (2, 1, 8), (4, 1, 8), (8, 1, 16), (16, 1, 32), (32, 1, 64), (64, 1, 64), (32, 2, 16), (64, 4, 8), (256, 2, 64)])
def test_the_window_of_columns_is_two_rows_of_outputs(pes, groups, window):
    """Between 8 columns and 64."""
    assert order_window(TINY.replace(pes=pes, groups=groups, channels=1, slices=1)) == window


def test_the_places_of_a_small_matrix_take_32_bits(monkeypatch):
    """A large one has many; what is encoded is the same."""
    matrix = sparse(np.random.default_rng(3), (4, 12, 10), 0.5)
    narrow = encode(matrix, TINY)
    for most, dtype in ((encode_module._NARROW, np.int32), (4 * 12 * 10 + 1, np.int32), (4 * 12 * 10, np.int64)):
        monkeypatch.setattr(encode_module, "_NARROW", most)
        assert [part.dtype for part in encode_module._locate(matrix, TINY)[:3]] == [dtype] * 3
        assert (encode(matrix, TINY).weights == narrow.weights).all()


@pytest.mark.parametrize("worst", [2048, 5000, -2049])
def test_a_weight_that_does_not_fit_is_refused(worst):
    with pytest.raises(EncodeError, match=f"a weight of {worst} does not fit 12 bits"):
        encode(np.array([[3, worst, -3]]), TINY)


def test_pointers_beyond_the_entries_are_refused():
    encoded = encode(np.ones((8, 3), int), TINY)
    encoded.counts[0, 2] += 100
    with pytest.raises(EncodeError, match="PE 2: pointers name"):
        decode(encoded, TINY)


def test_an_entry_outside_of_the_matrix_is_refused():
    encoded = encode(np.ones((8, 3), int), TINY)
    encoded.skips[0, 1] = 40
    with pytest.raises(EncodeError, match="PE 1: an entry lies outside"):
        decode(encoded, TINY)


def test_an_entry_of_a_slot_without_a_column_is_refused():
    encoded = encode(np.ones((8, 3), int), TINY)
    encoded.order[1, 0] = -1
    with pytest.raises(EncodeError, match="PE 0: an entry lies outside"):
        decode(encoded, TINY)
