# SPDX-License-Identifier: Apache-2.0
"""Mutations of the software: the sample, and the list of those that are judged equal."""

from pathlib import Path

import pytest

from mutation.equal import EQUAL

CODE = '''"""Adds."""


def add(a: int, b: int) -> int:
    """Add."""
    return a + b


def total(numbers):
    result = 0
    for number, one in zip(numbers, numbers, strict=True):
        if number > 3 and one:
            result = add(result, number)
    return result
'''


@pytest.fixture
def mutations():
    pytest.importorskip("cosmic_ray", reason="only nox -s mutate_software installs it")
    from mutation.software import mutations
    return mutations


def test_a_mutation_is_one_change_of_what_runs(mutations):
    found = mutations(CODE, 100, 1)
    assert len({mutation.key for mutation in found}) == len(found) > 5
    for mutation in found:
        assert mutation.before in CODE and mutation.after in mutation.code and mutation.before != mutation.after
        assert CODE.splitlines()[mutation.line - 1].strip() == mutation.before
        assert "int" not in mutation.before and "strict=False" not in mutation.after
        compile(mutation.code, "mutated", "exec")


def test_the_sample_stays_when_other_lines_change(mutations):
    some = mutations(CODE, 4, 1)
    moved = mutations("# A line.\n" + CODE.replace("result = 0", "result = add(0, 0)"), 100, 1)
    kept = [mutation for mutation in some if "result = 0" not in mutation.before]
    assert len(kept) >= 3
    for mutation in kept:
        assert mutation.key in {other.key for other in moved}
    assert [mutation.key for mutation in mutations(CODE, 4, 2)] != [mutation.key for mutation in some]


@pytest.mark.parametrize("equal", EQUAL, ids=lambda equal: equal.after[:60])
def test_what_is_judged_equal_is_in_the_module(equal):
    lines = [line.strip() for line in Path(equal.module).read_text().splitlines()]
    assert equal.before in lines and equal.after not in lines
    assert equal.reason.endswith(".")
