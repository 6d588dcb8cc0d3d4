# SPDX-License-Identifier: Apache-2.0
"""Streamed operations run to their end: the criterion of `level`, on all small cases and on hard models."""

from itertools import product

import numpy as np
import pytest
from uneven import MODES, STREAMED, uneven

from openese.rtl.act_queue import ActQueue
from openese.rtl.config import PRESETS
from openese.rtl.weight_stream import LINE_BITS, ring_lead
from openese.sw.pack import schedule as schedule_module
from openese.sw.pack.encode import decode, encode
from openese.sw.pack.level import level, missing_entries, target_lead
from openese.sw.pack.schedule import CapacityError, schedule


def all_end(counts, depth, block, longest, limit):
    """Which of the operations ``counts`` (cases, slots, pes), each run twice, end on a machine of this ring and queue.

    The machine is reduced to what can hold it up. A line is asked for while there is room for a longest burst, a block
    is free when all PEs have passed it, and a slot is sent while no queue has ``limit`` tokens. Everything moves as far
    as it can. What moves never takes anything from another, so the order does not matter.
    """
    cases, slots, pes = counts.shape
    passed = np.cumsum(counts, axis=1)
    lines = passed[:, -1].max(axis=1)
    end = np.repeat(lines[:, None, None], pes, axis=2)
    once = np.concatenate([passed, end], axis=1)
    need = np.concatenate([once, once + lines[:, None, None]], axis=1)
    last = len(need[0])
    has_token = np.tile(np.concatenate([counts > 0, np.ones((cases, 1, pes), bool)], axis=1), (1, 2, 1))
    is_end = np.zeros(last, bool)
    is_end[[slots, last - 1]] = True
    before = np.concatenate([np.zeros((cases, 1, pes), int), need[:, :-1]], axis=1)
    tokens = np.concatenate([np.zeros((cases, 1, pes), int), np.cumsum(has_token, axis=1)], axis=1)

    place, slot, sent = np.zeros((cases, pes), int), np.zeros((cases, pes), int), np.zeros(cases, int)
    case, pe = np.arange(cases)[:, None], np.arange(pes)
    while True:
        written = np.minimum(2 * lines, depth - longest + 1 + place.min(axis=1) // block * block)
        here = np.minimum(slot, last - 1)
        works = (slot < last) & (slot < sent[:, None])
        target = need[case, here, pe]
        new_place = np.where(works, np.minimum(target, np.maximum(place, written[:, None])), place)
        new_slot = slot + (works & (new_place == target))
        here = np.minimum(new_slot, last - 1)
        begun = (new_place > before[case, here, pe]) & ~is_end[here] & (new_slot < last)
        waiting = tokens[case, sent[:, None], pe] - tokens[case, np.minimum(new_slot, sent[:, None]), pe] - (
            begun & (new_slot < sent[:, None]))
        new_sent = sent + ((waiting.max(axis=1) < limit) & (sent < last))
        if (new_place == place).all() and (new_slot == slot).all() and (new_sent == sent).all():
            return (slot == last).all(axis=1)
        place, slot, sent = new_place, new_slot, new_sent


def every_operation(slots, pes, numbers):
    return np.array(list(product(numbers, repeat=slots * pes))).reshape(-1, slots, pes)


def levelled(cases, lead, limit):
    return np.array([counts + missing_entries(counts, lead, limit) for counts in cases])


@pytest.mark.parametrize("limit", [1, 2])
@pytest.mark.parametrize(("depth", "block", "longest"), [(4, 1, 1), (6, 2, 1), (6, 1, 2), (6, 2, 2)])
@pytest.mark.parametrize("cases", [every_operation(4, 2, (0, 1, 4)), every_operation(4, 3, (0, 5))],
                         ids=["two PEs", "three PEs"])
def test_every_small_operation_ends(cases, depth, block, longest, limit):
    lead = depth - longest - block + 1
    # Some do not end as they are, and with one more line of lead some of those of two PEs still do not.
    assert not all_end(cases, depth, block, longest, limit).all()
    assert all_end(levelled(cases, lead, limit), depth, block, longest, limit).all()
    if limit == 1 and cases.shape[2] == 2:
        assert not all_end(levelled(cases, lead + 1, limit), depth, block, longest, limit).all()


def test_no_column_becomes_longer_than_the_longest():
    cases = every_operation(4, 2, (0, 1, 4))
    for limit in (1, 2, 3):
        assert levelled(cases, 2, limit).max() == 4


@pytest.mark.parametrize("config", [config for config in PRESETS.values() if config.stream] + [STREAMED])
def test_the_target_fulfils_the_criterion(config):
    assert 0 < target_lead(config) < ring_lead(config)
    assert ActQueue.limit(config) >= 1


def test_levelling_keeps_the_matrix():
    rng = np.random.default_rng(4)
    matrix = rng.integers(-2000, 2000, (4, 32, 90)) * (rng.random((4, 32, 90)) < 0.4)
    matrix[:, ::4, :45] = 0
    matrix[:, 1::4, 45:] = 0
    encoded = encode(matrix, STREAMED)
    result = level(encoded, STREAMED)
    assert result.padding > encoded.padding
    assert result.lines == result.lengths.max()
    assert (result.counts.sum(axis=0) == result.lengths).all()
    assert (decode(result, STREAMED) == matrix).all()


def test_a_level_matrix_stays_as_it_is():
    encoded = encode(np.ones((4, 32, 90), int), STREAMED)
    assert level(encoded, STREAMED) is encoded


@pytest.mark.parametrize("mode", MODES)
def test_uneven_models_are_levelled_when_streamed(mode):
    quantized = uneven(mode)
    plan = schedule(quantized, STREAMED, stream=True)
    limit = ActQueue.limit(STREAMED)
    for operation in plan.operations:
        passed = operation.encoded.counts.cumsum(axis=0)
        if len(passed) >= limit:
            lead = passed.max(axis=1)[:len(passed) - limit + 1] - 1 - passed.min(axis=1)[limit - 1:]
            assert lead.max() <= target_lead(STREAMED)


def test_more_lines_than_a_machine_can_address_are_refused(monkeypatch):
    assert LINE_BITS == 24
    monkeypatch.setattr(schedule_module, "LINE_BITS", 10)
    with pytest.raises(CapacityError, match="w_x of layer 0 ends at line [0-9]+ of the streamed weights, a machine "
                                            "addresses 1023"):
        schedule(uneven("unbalanced"), STREAMED, stream=True)
