# SPDX-License-Identifier: Apache-2.0
"""The machines among which a search goes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import product
from typing import Any

from openese.rtl.config import DEPTHS, Config
from openese.rtl.targets.devices import Device
from openese.sw.explore.goal import Goal
from openese.sw.explore.guess import Guesses

__all__ = ["DENSITIES", "SETTABLE", "WORDS", "structures", "word_lengths"]

#: Densities that are tried where a loss limits them.
DENSITIES = (1.0, 0.7, 0.5, 0.3, 0.2, 0.1)

#: Word lengths that are tried.
WORDS: Mapping[str, tuple[int, ...]] = {"weight_bits": (8, 12, 16), "activation_bits": (12, 16)}

#: Fields that a user can set. The depths of memories follow from the network.
SETTABLE = tuple(field.name for field in fields(Config) if field.name not in ("name", "models", *DEPTHS))

_PES = tuple(1 << k for k in range(2, 13))
_CHANNELS = tuple(1 << k for k in range(7))
_GROUPS = (1, 2, 4, 8)
# Lanes of all slices, as a share of the PE rows: 4 as one slice a PE row with four lanes, the others with two or one.
_LANES = (4.0, 2.0, 1.0, 0.5, 0.25, 0.125)
_MOST_MULTIPLIERS = 1 << 14


def word_lengths(given: Mapping[str, Sequence[Any]]) -> list[dict[str, int]]:
    """Combinations of word lengths."""
    values = {name: tuple(given.get(name, lengths)) for name, lengths in WORDS.items()}
    return [dict(zip(values, combination, strict=True)) for combination in product(*values.values())]


def structures(guesses: Guesses, goal: Goal, device: Device, cells: str, given: Mapping[str, Sequence[Any]]
               ) -> Iterator[Config]:
    """All machines but for the depths of memories and the word lengths, each once.

    Parameters
    ----------
    guesses : `Guesses`
    goal : `Goal`
    device : `Device`
        It has fewer multipliers than those of machines that are left out.
    cells : str
        Kinds of cells.
    given : mapping of str to sequence
        Values of fields in the place of those that are tried.
    """
    # What is forwarded takes LUTs for each channel. It saves cycles of a frame at rest, few of a busy array.
    forward = (False, True) if goal.at_rest else (False,)
    others = {"cells": (cells,), "forward": forward, **{name: tuple(values) for name, values in given.items()
                                    if name not in ("pes", "channels", "groups", "slices", "slice_width", *WORDS)}}
    # One voice is answered no sooner by a machine that computes others beside it.
    channels = given.get("channels", (1,) if goal.at_rest else _CHANNELS)
    seen = set()
    for pes, voices, groups in product(given.get("pes", _PES), channels, given.get("groups", _GROUPS)):
        if pes % groups or pes * voices > min(_MOST_MULTIPLIERS, 2 * device.multipliers):
            continue
        for lanes, combination in product(_lanes(pes // groups, given), product(*others.values())):
            rest = {"banks": goal.banks(voices), **dict(zip(others, combination, strict=True)), **lanes}
            try:
                config = _shallow(pes, voices, groups, rest)
                for rows in guesses.accumulators(config, goal.at_rest):
                    deeper = next(_with_rows(config, rows))
                    if deeper not in seen:
                        seen.add(deeper)
                        yield deeper
            except (ValueError, StopIteration):
                continue


def _shallow(pes: int, channels: int, groups: int, rest: Mapping[str, Any]) -> Config:
    """A machine with the least memories."""
    columns = pes if rest.get("forward") else groups  # that may be written in a cycle
    depths = {"entry_depth": 1024 if rest.get("stream") else 16, "column_depth": 16, "vector_depth": 2 * columns,
              "cell_rows": 2, "accumulator_rows": 16, "program_depth": 64}
    return Config(name="explored", pes=pes, channels=channels, groups=groups, **{**depths, **rest})


def _with_rows(config: Config, rows: int) -> Iterator[Config]:
    """A machine with so many accumulators at least."""
    for value in sorted({1 << (rows - 1).bit_length(), -(-rows // 16) * 16}):
        try:
            yield config.replace(accumulator_rows=value)
        except ValueError:
            continue


def _lanes(row_pes: int, given: Mapping[str, Sequence[Any]]) -> list[dict[str, int]]:
    """Slices and their width."""
    if "slices" in given or "slice_width" in given:
        return [{"slices": slices, "slice_width": width} for slices, width in product(
            given.get("slices", (0,)), given.get("slice_width", (0,)))]
    found = []
    for lanes in _LANES:
        width = 4 if lanes == 4 else 0
        slices = row_pes if lanes == 4 else int(row_pes * lanes / 2)
        if slices:
            found.append({"slices": slices, "slice_width": width})
    return found
