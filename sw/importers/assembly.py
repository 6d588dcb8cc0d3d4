# SPDX-License-Identifier: Apache-2.0
"""Assemble the layers that an importer read into a network of stages."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from openese.rtl.program import ACTIVATIONS
from openese.sw.model.layers import Dense, Layer, Model, ModelError, dense_layer
from openese.sw.model.network import Direction, Network, Stage
from openese.sw.model.state import LayerState, initial_state

__all__ = ["Linear", "Part", "Recurrent", "Row", "Stack", "Track", "assemble"]


class Track(NamedTuple):
    """A layer in one direction; ``initial`` is the state before the first frame, None for zero."""

    layer: Layer
    reverse: bool = False
    initial: LayerState | None = None


#: Layers of one direction, each fed by the one before it.
Stack = tuple[Track, ...]
#: One or two stacks that read the same input; their outputs are concatenated.
Row = tuple[Stack, ...]


@dataclass(frozen=True)
class Recurrent:
    """An LSTM or GRU of a file: rows, each fed by the one before it, and notes for the user.

    ``batch_first`` tells that the file's own network takes frames (B, T, I).
    """

    name: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    batch_first: bool = False


@dataclass(frozen=True)
class Linear:
    """A linear layer: the head if it comes last. Else it is multiplied into the layer after it, or is a dense layer if
    it has an activation.

    ``activation`` names the activation of its outputs in the file. Only the last layer may have one that is not among
    `ACTIVATIONS`.
    """

    name: str
    dense: Dense
    notes: tuple[str, ...] = ()
    activation: str | None = None


Part = Recurrent | Linear


@np.errstate(over="ignore", invalid="ignore")  # Layer refuses numbers that are not finite
def assemble(parts: Sequence[Part], name: str) -> Network:
    """Build the network of ``parts`` in their order.

    Consecutive forward layers become one `Model`, which the machine runs in one step. A linear layer
    before another layer is multiplied into its ``w_x`` and bias, which is exact, or becomes a dense layer if it has an
    activation. A linear layer at the end becomes the head, or the last dense layer if there are no others.

    Raises
    ------
    ModelError
        If there is no layer, if sizes do not fit (the message names both parts), or if a linear layer before another
        has an activation that no machine computes.
    """
    rows: list[Row] = []
    notes: list[str] = []
    linear: Dense | None = None
    before: tuple[str, int] | None = None
    for number, part in enumerate(parts):
        inputs, outputs = _sizes(part)
        if before is not None and before[1] != inputs:
            raise ModelError(f"{part.name!r} takes {inputs} inputs, but {before[0]!r} before it "
                             f"gives {before[1]}")
        before = part.name, outputs
        notes.extend(part.notes)
        if isinstance(part, Linear):
            linear = part.dense if linear is None else _compose(linear, part.dense)
            last = number == len(parts) - 1
            if part.activation in ACTIVATIONS:
                linear = replace(linear, activation=part.activation)
            elif part.activation is not None:
                if not last:
                    raise ModelError(f"{part.name!r} before {parts[number + 1].name!r} has the activation "
                                     f"{part.activation!r}; the machine runs only linear layers without activation, or "
                                     f"with {', '.join(ACTIVATIONS[1:])}, there")
                notes.append(f"{part.name}: the activation {part.activation!r} is not part of the network; "
                             f"apply it to the outputs")
            if linear.activation != "none" and not last or last and not rows:
                rows.append(((Track(dense_layer(part.name, linear)),),))
                linear = None
            continue
        first, *others = part.rows
        if linear is not None:
            first = tuple(_folded(linear, stack) for stack in first)
            notes.append(f"the linear layer before {part.name!r} is multiplied into its input weights")
            linear = None
        rows += [first, *others]
    if not rows:
        raise ModelError("no layer is selected; select at least one")
    return Network(stages=tuple(_stages(rows, name)), head=linear, name=name, notes=tuple(notes),
                   batch_first=any(isinstance(part, Recurrent) and part.batch_first for part in parts))


def _sizes(part: Part) -> tuple[int, int]:
    if isinstance(part, Linear):
        return part.dense.weight.shape[1], part.dense.weight.shape[0]
    return part.rows[0][0][0].layer.inputs, sum(stack[-1].layer.outputs for stack in part.rows[-1])


def _compose(first: Dense, second: Dense) -> Dense:
    return Dense(weight=second.weight @ first.weight, bias=second(first.bias))


def _folded(linear: Dense, stack: Stack) -> Stack:
    layer = stack[0].layer
    layer = replace(layer, w_x=layer.w_x @ linear.weight, bias=layer.bias + layer.w_x @ linear.bias)
    return (stack[0]._replace(layer=layer), *stack[1:])


def _stages(rows: Iterable[Row], name: str) -> list[Stage]:
    """Return the stages in order; consecutive rows of one forward stack become one stage."""
    groups: list[Row] = []
    for row in rows:
        if groups and _forward_only(row) and _forward_only(groups[-1]):
            groups[-1] = (groups[-1][0] + row[0],)
        else:
            groups.append(row)
    labels = [name] if len(groups) == 1 else [f"{name}.stage{number}" for number in range(len(groups))]
    return [Stage(tuple(_direction(stack, label) for stack in row))
            for row, label in zip(groups, labels, strict=True)]


def _forward_only(row: Row) -> bool:
    return len(row) == 1 and not row[0][0].reverse


def _direction(stack: Stack, label: str) -> Direction:
    reverse = stack[0].reverse
    model = Model(layers=tuple(track.layer for track in stack), name=label + (".reverse" if reverse else ""))
    given = [track.initial for track in stack if track.initial is not None]
    if not given:
        return Direction(model=model, reverse=reverse)
    zero = initial_state(model, given[0].c.shape[0])
    initial = tuple(track.initial or nothing for track, nothing in zip(stack, zero, strict=True))
    return Direction(model=model, reverse=reverse, initial=initial)
