# SPDX-License-Identifier: Apache-2.0
"""What a page shows of an image on its machine: who works when, and what numbers are lost."""

from collections.abc import Mapping
from dataclasses import dataclass

from openese.sw.cycles.model import Span, estimate
from openese.sw.model.arrays import Int64Array
from openese.sw.model.report import Report
from openese.sw.pack.schedule import Schedule

__all__ = ["Detail", "detail"]


@dataclass(frozen=True, eq=False)
class Detail:
    """An image in steady state.

    Attributes
    ----------
    name : str
    cycles : int
        Of a step.
    causes : dict of str to int64 (activities, pes)
        By matrix, cycles of a step by `openese.sw.cycles.model.Activity` and PE.
    spans : tuple of Span
        The instructions at work in the step.
    report : `Report`, optional
        Saturations and errors, by layer and tensor. None if no frames were given.
    """

    name: str
    cycles: int
    causes: Mapping[str, Int64Array]
    spans: tuple[Span, ...]
    report: Report | None = None


def detail(name: str, plan: Schedule, report: Report | None = None) -> Detail:
    """The detail of a plan, by the cycle model."""
    found = estimate(plan)
    return Detail(name, found.cycles_per_step, found.causes, found.spans, report)
