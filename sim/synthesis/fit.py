# SPDX-License-Identifier: Apache-2.0
"""``python -m openese.sim.synthesis.fit``: finds the coefficients of `openese.rtl.targets.logic`, and writes them.

Yosys synthesizes small machines that differ in every size. The coefficients are least squares of the relative errors of
each block, and none is negative. Then the model is compared with the baselines of the presets, none of which is fitted.
Its error is the largest of these, and of the machines that are fitted.
It takes half an hour of one core; what was synthesized before is in the cache. Run it after a change of the hardware,
when the baselines are new.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from scipy.optimize import nnls

from openese.output import write_text
from openese.rtl.config import PRESETS, Config
from openese.rtl.targets.logic import EXACT, FILE, FITTED, LIKE, Block, blocks, taken
from openese.sim.build import locked
from openese.sim.synthesis.baselines import Baselines
from openese.sim.synthesis.estimate import estimate, synthesized

__all__ = ["DESIGNS", "compared", "fitted", "main"]

Figures = Mapping[str, Mapping[str, float]]
"""By block, the figures of an instance, as `estimate` gives them."""

_LEAST = 20  # of a block's figure, below which an error counts as one of a block of this size
_RIDGE, _PRIOR = 1e-4, 0.01  # pull a coefficient that no machine tells to zero, and to that of another family

#: The machines that are synthesized.
DESIGNS = tuple(Config(name=f"design{number}", **fields) for number, fields in enumerate[dict[str, Any]]((
    dict(pes=2, channels=1, slices=1, slice_width=1, weight_bits=8, activation_bits=12, cell_bits=20, index_bits=4,
         align_bits=2, queue_depth=16, entry_depth=1024, column_depth=256, vector_depth=512, cell_rows=32,
         accumulator_rows=128, row_nonzeros=256, program_depth=32),
    dict(pes=4, channels=16, slices=4, slice_width=2, entry_depth=4096, column_depth=512, vector_depth=1024,
         cell_rows=32, accumulator_rows=256),
    dict(pes=8, channels=2, groups=2, slices=2, slice_width=1, entry_depth=2048, column_depth=1024, vector_depth=4096,
         cell_rows=64, accumulator_rows=512),
    dict(pes=2, channels=8, slices=1, slice_width=4, weight_bits=16, align_bits=3, cell_bits=27, row_nonzeros=1024,
         queue_depth=64, entry_depth=1024, column_depth=2048, vector_depth=2048, cell_rows=64, accumulator_rows=512,
         program_depth=128),
    dict(pes=8, channels=8, slices=2, slice_width=4, weight_bits=8, activation_bits=8, cell_bits=16, index_bits=6,
         align_bits=1, row_nonzeros=128, queue_depth=16, entry_depth=512, column_depth=256, vector_depth=256,
         cell_rows=16, accumulator_rows=64),
    dict(pes=4, channels=4, slices=2, slice_width=2, index_bits=4, stream=True, entry_depth=1024, column_depth=1024,
         vector_depth=1024, cell_rows=32, accumulator_rows=256, banks=4),
    dict(pes=16, channels=2, groups=2, slices=4, slice_width=2, activation_bits=18, entry_depth=8192, column_depth=512,
         vector_depth=1024, cell_rows=32, accumulator_rows=256, row_nonzeros=256),
    dict(pes=2, channels=32, slices=1, slice_width=8, weight_bits=8, activation_bits=12, align_bits=2, cell_bits=20,
         entry_depth=2048, column_depth=2048, vector_depth=2048, cell_rows=32, accumulator_rows=256),
    dict(pes=32, channels=1, groups=4, slices=4, slice_width=1, entry_depth=1024, column_depth=512, vector_depth=4096,
         cell_rows=16, accumulator_rows=512),
    dict(pes=16, channels=16, slices=8, slice_width=2, activation_bits=14, queue_depth=16, entry_depth=1024,
         column_depth=1024, vector_depth=1024, cell_rows=64, accumulator_rows=256, index_bits=5),
    dict(pes=4, channels=2, queue_depth=16, column_depth=256, vector_depth=256, cell_rows=32, accumulator_rows=128,
         cells="lstm+gru"),
    dict(pes=4, channels=8, slices=2, slice_width=4, queue_depth=16, column_depth=256, vector_depth=256, cell_rows=32,
         accumulator_rows=128, cells="lstm+dense"),
)))


def _target(block: Block, figures: Mapping[str, float], resource: str) -> float:
    """The part of a block's figure that the terms are to make up."""
    figure = figures.get(resource, 0)
    if resource == "LUT":
        return figure - figures.get("LUTRAM", 0)
    return figure - block.memory if resource == "LUTRAM" else figure


def fitted(machines: Sequence[tuple[Config, Figures]], family: str,
           like: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Coefficients by block, resource and term.

    Parameters
    ----------
    machines : sequence of (Config, figures)
        The figures by block.
    family : str
        A key of `openese.rtl.targets.memories.FAMILIES`.
    like : dict, optional
        Coefficients of another family. What the machines do not tell is in proportion to these.
    """
    coefficients: dict[str, dict[str, dict[str, float]]] = {}
    modelled = [(blocks(config, family), figures) for config, figures in machines]
    for name in dict.fromkeys(name for _, figures in modelled for name in figures):
        rows = [(model[name], figures[name]) for model, figures in modelled if name in figures]
        coefficients[name] = {
            resource: _solved(rows, resource, (like or {}).get(name, {}).get(resource, {})) for resource in FITTED}
    return coefficients


def _solved(rows: Sequence[tuple[Block, Mapping[str, float]]], resource: str,
            like: Mapping[str, float]) -> dict[str, float]:
    """The coefficients of a block's terms for one resource."""
    exact = {term: 1.0 for term in rows[0][0].terms[resource] if term in EXACT}
    terms = [term for term in rows[0][0].terms[resource] if term not in exact]
    sizes = np.array([[block.terms[resource][term] for term in terms] for block, _ in rows], float)
    scale = np.maximum(np.abs(sizes).max(axis=0), 1e-9)
    figure = "FF" if resource == "FF" else "LUT"
    weight = 1 / np.maximum([figures.get(figure, 0) for _, figures in rows], _LEAST)
    wanted = np.array([_target(block, figures, resource) - sum(block.terms[resource][term] for term in exact)
                       for block, figures in rows])
    prior = np.array([like.get(term, 0) for term in terms])
    alike = (sizes @ prior).sum()
    if alike > 0:
        prior *= max(0, wanted.sum()) / alike
    ridge = _PRIOR if like else _RIDGE
    unit = np.median(weight)  # of a coefficient times its term, as an error
    known = np.vstack([sizes / scale * weight[:, None], ridge * unit * np.eye(len(terms))])
    found = nnls(known, np.concatenate([wanted * weight, ridge * unit * prior * scale]))[0]
    there = np.abs(sizes).max(axis=0) > 0
    # A term that none of these machines has is as in the other family.
    told = np.where(there, found, prior)
    return exact | {term: float(f"{each / size:.4g}")
                    for term, each, size in zip(terms, told, np.where(there, scale, 1), strict=True) if each > 1e-3}


def compared(machines: Sequence[tuple[Config, Figures]], family: str,
             coefficients: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """By machine and resource, how far the model is from Yosys, as a share."""
    errors = {}
    for config, figures in machines:
        totals = taken(config, family, coefficients)
        real = {resource: sum(block["instances"] * block.get(resource, 0) for block in figures.values())
                for resource in FITTED}
        errors[config.name] = {resource: totals[resource] / real[resource] - 1 for resource in FITTED}
    return errors


class _Family(NamedTuple):
    """How a family is fitted: the designs, those of which only some blocks are synthesized, the family that it is like,
    and the blocks that differ from its blocks."""

    designs: Sequence[int]
    parts: Mapping[int, tuple[str, ...]]
    like: str | None = None
    blocks: tuple[str, ...] = ()


#: Where GRUs are, and where dense layers are; the latter of one family, which the others follow.
_GRU: Mapping[int, tuple[str, ...]] = {10: ("Slice",)}
_DENSE: Mapping[int, tuple[str, ...]] = {11: ("Slice", "Assemble")}
_FAMILIES = {
    "xcu": _Family(range(10), {**_GRU, **_DENSE}),
    # Only their multipliers differ, which take in registers and adders here.
    "xc7": _Family((0, 1, 3, 4, 7, 9), _GRU, "xcu", ("SpMV", "Activation", "Slice")),
    "ecp5": _Family((0, 1, 4), _GRU, "xcu"),
}


def _coefficients(family: str, known: Mapping[str, Any]) -> tuple[list[tuple[Config, Figures]], dict[str, Any]]:
    """The machines of a family that were synthesized as a whole, and its coefficients; ``known`` has those of other
    families."""
    machines: list[tuple[Config, Figures]] = []
    how = _FAMILIES[family]
    parts = {**how.parts, **dict.fromkeys(how.designs, how.blocks)}
    for number, some in sorted(parts.items()):
        config = DESIGNS[number]
        with Console(stderr=True).status(f"synthesizing {config.name} for {family}"):
            machines.append((config, synthesized(config, family, some) if some else estimate(config, family)["blocks"]))
    like = known[how.like]["blocks"] if how.like else None
    own = fitted(machines, family, like)
    whole = [machine for number, machine in zip(sorted(parts), machines, strict=True) if not parts[number]]
    return whole, {**(like or {}), **own}


def _known() -> dict[str, Any]:
    """The file."""
    known: dict[str, Any] = json.loads(FILE.read_text()) if FILE.exists() else {}
    return known


def main(arguments: Sequence[str] | None = None) -> None:
    """Synthesize, fit, compare, and write the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--family", choices=[*_FAMILIES, *LIKE], action="append", help="this family alone")
    asked = parser.parse_args(arguments)
    for family in asked.family or [*_FAMILIES, *LIKE]:
        known = _known()
        machines, coefficients = _coefficients(family, known) if family in _FAMILIES else (
            [], known[LIKE[family]]["blocks"])
        presets = [(PRESETS[name], figures["blocks"]) for name, figures in Baselines().figures(family).items()]
        errors = compared(presets, family, coefficients)
        of_all = errors | compared(machines, family, coefficients)
        for name, off in of_all.items():
            Console().print(f"{family} {name}: " + ", ".join(f"{resource} {error:+.1%}"
                                                             for resource, error in off.items()))
        least = known[LIKE[family]]["errors"] if family in LIKE else dict.fromkeys(FITTED, 0.0)
        found = {
            "errors": {resource: round(max(least[resource], *(abs(off[resource]) for off in of_all.values())), 4)
                       for resource in FITTED},
            "compared": {name: {resource: round(error, 4) for resource, error in off.items()}
                         for name, off in errors.items()},
            **({} if family in LIKE else {"blocks": coefficients})}
        with locked(FILE):  # other families may be fitted at the same time
            write_text(FILE, json.dumps(_known() | {family: found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
