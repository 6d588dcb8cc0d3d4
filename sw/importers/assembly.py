# SPDX-License-Identifier: Apache-2.0
"""From parts, as the sources name them, to a network of stages, as the host runs them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from ..float_reference import initial_state
from ..model import Dense, Layer, Model, ModelError
from ..network import Direction, LayerState, Network, Stage

__all__ = ["Linear", "Part", "Recurrent", "Track", "assemble"]


class Track(NamedTuple):
    """One layer in one direction, with the state it starts from, if that is not zero."""

    layer: Layer
    reverse: bool = False
    initial: LayerState | None = None


@dataclass(frozen=True)
class Recurrent:
    """An LSTM as its source holds it: for each stacked layer, the one or two tracks side by side."""

    name: str
    layers: tuple[tuple[Track, ...], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Linear:
    """A linear layer: the head if it comes last, else folded into the LSTM after it.

    ``activation`` names what the source applies to its outputs; only the last may have one.
    """

    name: str
    dense: Dense
    notes: tuple[str, ...] = ()
    activation: str | None = None


Part = Recurrent | Linear


def assemble(parts: Sequence[Part], name: str) -> Network:
    """A network of ``parts`` in their order.

    Layers that only run forward and follow each other become one `Model`: the unit that the machine
    runs in one step. A linear layer before an LSTM layer is multiplied into that layer's ``w_x`` and
    bias, which is exact; one at the end is the head.

    Raises
    ------
    ModelError
        If sizes do not fit, naming both parts, or if there is no LSTM.
    """
    rows: list[tuple[Track, ...]] = []
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
            if part.activation is not None:
                if number < len(parts) - 1:
                    raise ModelError(f"{part.name!r} has the activation {part.activation!r} and stands "
                                     f"before {parts[number + 1].name!r}: only linear layers may")
                notes.append(f"{part.name}: its activation {part.activation!r} is left to the host")
            linear = part.dense if linear is None else _compose(linear, part.dense)
            continue
        first, *others = part.layers
        if linear is not None:
            first = tuple(track._replace(layer=_fold(linear, track.layer)) for track in first)
            notes.append(f"the linear layer before {part.name!r} is multiplied into its input weights")
            linear = None
        rows += [first, *others]
    if not rows:
        raise ModelError("a network needs at least one LSTM")
    return Network(stages=tuple(_stages(rows, name)), head=linear, name=name, notes=tuple(notes))


def _sizes(part: Part) -> tuple[int, int]:
    if isinstance(part, Linear):
        return part.dense.weight.shape[1], part.dense.weight.shape[0]
    return part.layers[0][0].layer.inputs, sum(track.layer.outputs for track in part.layers[-1])


def _compose(first: Dense, second: Dense) -> Dense:
    return Dense(weight=second.weight @ first.weight, bias=second(first.bias))


def _fold(linear: Dense, layer: Layer) -> Layer:
    return replace(layer, w_x=layer.w_x @ linear.weight, bias=layer.bias + layer.w_x @ linear.bias)


def _stages(rows: Iterable[tuple[Track, ...]], name: str) -> list[Stage]:
    """Stages in order; a run of forward-only layers is one stage."""
    groups: list[list[tuple[Track, ...]]] = []
    for row in rows:
        plain = len(row) == 1 and not row[0].reverse
        if plain and groups and len(groups[-1][0]) == 1 and not groups[-1][0][0].reverse:
            groups[-1].append(row)
        else:
            groups.append([row])
    stages = []
    for number, group in enumerate(groups):
        label = name if len(groups) == 1 else f"{name}.stage{number}"
        stages.append(Stage(tuple(_direction(tracks, label) for tracks in zip(*group, strict=True))))
    return stages


def _direction(tracks: Sequence[Track], label: str) -> Direction:
    reverse = tracks[0].reverse
    model = Model(layers=tuple(track.layer for track in tracks), name=label + (".reverse" if reverse else ""))
    initial = None
    if any(track.initial is not None for track in tracks):
        voices = max(track.initial.c.shape[0] for track in tracks if track.initial is not None)
        initial = tuple(track.initial or zero for track, zero in
                        zip(tracks, initial_state(model, voices), strict=True))
    return Direction(model=model, reverse=reverse, initial=initial)
