# SPDX-License-Identifier: Apache-2.0
"""Networks: stacks of layers that run forwards, backwards, or in both directions.

A `Network` is a sequence of stages. A stage has one or two directions side by side, and each direction is a `Model`.
The host feeds a reverse direction its sequences back to front, reverses its outputs again, and concatenates the
directions for the next stage. A plain stack of forward layers is one stage with one direction. It runs on a machine
frame by frame, as speech arrives; any other network needs whole sequences.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from openese.output import replacing
from openese.sw.model.arrays import FloatArray, real_array
from openese.sw.model.layers import DENSE, HEAD_KEYS, Dense, Model, ModelError, dense_layer, layer_arrays, read_npz
from openese.sw.model.state import LayerState, State, initial_state, zero_state

__all__ = ["Direction", "Network", "Runner", "Stage", "check_sequences",
           "reverse_sequences", "spread_state"]


class Runner(Protocol):
    """Runs one model over whole sequences: the float model, the integer reference, or the machine."""

    def run(self, x: FloatArray, lengths: NDArray[np.intp], state: State) -> tuple[FloatArray, State]:
        """Outputs (T, B, P), zero from ``lengths[b]`` on, and each voice's state after its last frame."""


def reverse_sequences(x: FloatArray, lengths: NDArray[np.intp]) -> FloatArray:
    """Each sequence of ``x`` (T, B, ...) back to front within its own length; the padding stays."""
    time = np.arange(x.shape[0])[:, None]
    source = np.where(time < lengths, lengths - 1 - time, time)
    return x[source, np.arange(x.shape[1])]


@dataclass(frozen=True, eq=False)
class Direction:
    """A model, and whether it runs forwards.

    Attributes
    ----------
    model : Model
        Without a head.
    reverse : bool
        Whether the model gets its sequences back to front.
    initial : State, optional
        The state of each layer before the first frame: of one voice, for all voices, or of each voice of a batch.
        Zero by default.

    Raises
    ------
    ModelError
        The model has a head, or the initial state does not fit it.
    """

    model: Model
    reverse: bool = False
    initial: State | None = None

    def __post_init__(self) -> None:
        if self.model.head is not None:
            raise ModelError(f"model {self.model.name!r}: a head belongs to the network, not to a direction")
        if self.initial is not None:
            object.__setattr__(self, "initial", _checked_state(self.model, self.initial))

    @property
    def voices(self) -> int | None:
        """The number of voices for which the model has initial states. None if it runs any number."""
        held = None if self.initial is None else len(self.initial[0].c)
        return None if held == 1 else held

    def start(self, voices: int, given: State | None = None) -> State:
        """The state of ``voices`` voices before their first frame: ``given``, or the initial state.

        Parameters
        ----------
        voices : int
        given : State, optional
            Of each voice, or of one voice, for all.

        Raises
        ------
        ModelError
            The state does not fit the model, or is for another number of voices.
        """
        if given is not None:
            return spread_state(self.model, given, voices)
        if self.initial is None:
            return tuple(initial_state(self.model, voices))
        if self.voices not in (None, voices):
            raise ModelError(f"model {self.model.name!r} has initial states for {self.voices} voices, but the frames "
                             f"have {voices}: give frames of {self.voices} voices, or a network with the initial "
                             f"state of 1 voice, from which all start")
        return spread_state(self.model, self.initial, voices)


def spread_state(model: Model, state: State, voices: int) -> State:
    """A copy of a ``state`` of each voice, or of one voice for all, in float64.

    Raises
    ------
    ModelError
        The state does not fit the model, or is for another number of voices.
    """
    checked = _checked_state(model, state)
    held = len(checked[0].c)
    if held not in (1, voices):
        raise ModelError(f"initial states of model {model.name!r} are for {held} voices, but the frames have "
                         f"{voices}: give states of {voices} voices, or of 1, from which all start")
    return tuple(LayerState(*(np.broadcast_to(part, (voices, part.shape[1])).copy() for part in layer))
                 for layer in checked)


def _checked_state(model: Model, state: State) -> State:
    if len(state) != len(model.layers):
        raise ModelError(f"model {model.name!r}: {len(state)} initial states for {len(model.layers)} layers")
    voices = len(np.atleast_1d(state[0][0]))
    checked = []
    for layer, (c, y) in zip(model.layers, state, strict=True):
        tensors = []
        for tensor, value, size, shape in (("c", c, layer.cells, "B, H"), ("y", y, layer.feedback, "B, P")):
            owner = f"layer {layer.name!r} initial {tensor}"
            array = real_array(owner, value, ModelError)
            if array.shape != (voices, size):
                raise ModelError(f"{owner}: expected shape ({shape}) = ({voices}, {size}), found {array.shape}")
            if not np.isfinite(array).all():
                raise ModelError(f"{owner}: not all numbers are finite")
            tensors.append(array)
        checked.append(LayerState(*tensors))
    return tuple(checked)


@dataclass(frozen=True, eq=False)
class Stage:
    """One or two directions with the same input. Their outputs are concatenated in order.

    Raises
    ------
    ModelError
        There are no directions, more than two, or two with different numbers of inputs.
    """

    directions: tuple[Direction, ...]

    def __post_init__(self) -> None:
        if len(self.directions) not in (1, 2):
            raise ModelError(f"a stage has one or two directions, not {len(self.directions)}")
        inputs = {direction.model.inputs for direction in self.directions}
        if len(inputs) > 1:
            raise ModelError(f"the directions of a stage take different inputs: {sorted(inputs)}")

    @property
    def inputs(self) -> int:
        """I, the size of x."""
        return self.directions[0].model.inputs

    @property
    def outputs(self) -> int:
        """The sum of the directions' outputs."""
        return sum(direction.model.outputs for direction in self.directions)


@dataclass(frozen=True, eq=False, kw_only=True)
class Network:
    """Stages in the order in which data meets them, and an optional head.

    ``save`` writes a plain stack as `Model.save` does, and ``load`` reads both. Any other network has the keys of
    `Model` behind ``stageS.directionD.``, for stage ``S`` from 0 and direction ``D`` 0 or 1, and these:

    ======================================  ============  ==================================
    key                                     shape         may be absent
    ======================================  ============  ==================================
    ``name``                                string        yes: the file's name without suffix
    ``stageS.directionD.reverse``           bool          yes: forward
    ``stageS.directionD.layerK.initial_c``  (B, H)        yes, with ``initial_y``: zero
    ``stageS.directionD.layerK.initial_y``  (B, P)        yes, with ``initial_c``: zero
    ``head.weight``, ``head.bias``          (K, P), (K,)  yes, both
    ``head.activation``                     string        yes: ``none``
    ``batch_first``                         boolean       yes: false
    ======================================  ============  ==================================

    Attributes
    ----------
    stages : tuple of Stage
    head : Dense, optional
        The host applies it to the last stage's outputs.
    name : str
    notes : tuple of str
        An importer's remarks on the file. They are not saved.
    batch_first : bool
        Whether the file's own network takes frames (B, T, I). Here frames are (T, B, I) all the same.

    Raises
    ------
    ModelError
        There is no stage, or a size does not fit the stage before.
    """

    stages: tuple[Stage, ...]
    head: Dense | None = None
    name: str = "model"
    notes: tuple[str, ...] = ()
    batch_first: bool = False

    def __post_init__(self) -> None:
        if not self.stages:
            raise ModelError(f"network {self.name!r} has no stages")
        for number, (before, stage) in enumerate(zip(self.stages, self.stages[1:], strict=False), 1):
            if stage.inputs != before.outputs:
                raise ModelError(f"stage {number} takes {stage.inputs} inputs, but the stage before it "
                                 f"gives {before.outputs}")
        if self.head is not None and self.head.weight.shape[1] != self.outputs:
            raise ModelError(f"head weight: expected shape (K, P) = (any, {self.outputs}), "
                             f"found {self.head.weight.shape}")

    @classmethod
    def of(cls, model: Model) -> "Network":
        """The plain network with this model."""
        body = Model(layers=model.layers, name=model.name)
        return cls(stages=(Stage((Direction(body),)),), head=model.head, name=model.name,
                   batch_first=model.batch_first)

    @property
    def inputs(self) -> int:
        """I of the first stage."""
        return self.stages[0].inputs

    @property
    def outputs(self) -> int:
        """Outputs of the last stage, before the head."""
        return self.stages[-1].outputs

    @property
    def directions(self) -> tuple[Direction, ...]:
        """All directions, stage by stage."""
        return tuple(direction for stage in self.stages for direction in stage.directions)

    @property
    def voices(self) -> int | None:
        """The number of voices for which the directions have initial states. None if they run any number."""
        return next((direction.voices for direction in self.directions if direction.voices is not None), None)

    @property
    def plain(self) -> bool:
        """Whether the network is a stack of forward layers that starts from zero: one `Model`."""
        return (len(self.directions) == 1 and not self.directions[0].reverse
                and self.directions[0].initial is None)

    @property
    def model(self) -> Model:
        """The model of a plain network, with the head.

        Raises
        ------
        ModelError
            The network is not plain.
        """
        if not self.plain:
            raise ModelError(f"network {self.name!r} is not one stack of forward layers that starts from "
                             f"zero, but {len(self.stages)} stages of {len(self.directions)} models")
        return Model(layers=self.directions[0].model.layers, head=self.head, name=self.name,
                     batch_first=self.batch_first)

    def with_dense_head(self) -> "Network":
        """The network with a last dense layer in place of its head; without a head, this network.

        The layer is the last of the last stage if that is one forward model, else a stage of its own.
        """
        if self.head is None:
            return self
        last = self.stages[-1].directions
        alone = len(last) == 1 and not last[0].reverse
        before = last[0].model.layers if alone else ()
        name = "head"
        while name in [layer.name for layer in before]:
            name += "_"
        layer = dense_layer(name, self.head)
        model = Model(layers=(*before, layer), name=last[0].model.name if alone else f"{self.name}.{name}")
        initial = last[0].initial if alone else None
        if initial is not None:
            initial = (*initial, zero_state(layer, len(initial[0].c)))
        stages = self.stages[:-1] if alone else self.stages
        return replace(self, stages=(*stages, Stage((Direction(model, initial=initial),))), head=None)

    def with_host_head(self) -> "Network":
        """The network with the last dense layer as its head; the reverse of `with_dense_head`.

        A network stays as it is if it has a head, ends with another layer, or has no LSTM or GRU.
        """
        last = self.stages[-1].directions
        layers = last[0].model.layers
        recurrent = any(layer.kind is not DENSE for direction in self.directions for layer in direction.model.layers)
        if self.head is not None or len(last) > 1 or layers[-1].kind is not DENSE or not recurrent:
            return self
        layer, stages = layers[-1], self.stages[:-1]
        if len(layers) > 1:
            initial = last[0].initial
            stages = (*stages, Stage((replace(last[0], model=replace(last[0].model, layers=layers[:-1]),
                                              initial=None if initial is None else initial[:-1]),)))
        return replace(self, stages=stages,
                       head=Dense(weight=layer.w_x[0], bias=layer.bias[0], activation=layer.activation))

    def map(self, change: Callable[[Model], Model]) -> "Network":
        """The network with ``change`` of each model in the model's place; pruning uses this."""
        return Network(stages=tuple(Stage(tuple(Direction(change(d.model), d.reverse, d.initial)
                                                for d in stage.directions)) for stage in self.stages),
                       head=self.head, name=self.name, notes=self.notes, batch_first=self.batch_first)

    def run(self, x: ArrayLike, runners: Sequence[Runner], lengths: ArrayLike | None = None,
            initial: Sequence[State] | None = None) -> tuple[FloatArray, tuple[State, ...]]:
        """Run whole sequences through all stages and the head.

        Parameters
        ----------
        x : array (T, B, I)
            Sequences side by side, padded to the longest.
        runners : sequence of Runner
            One for each of ``directions``, in their order.
        lengths : array (B,), optional
            Frames of each sequence; T by default.
        initial : sequence of State, optional
            One for each of ``directions``, instead of the direction's own: of each voice, or of one voice for all.

        Returns
        -------
        y : array (T, B, outputs), or (T, B, K) with a head
            Zero from ``lengths[b]`` on.
        state : tuple of State
            The state of each direction after the last frame that it gets.

        Raises
        ------
        ModelError
            Shapes, lengths or states do not fit.
        """
        x, counts = check_sequences(x, lengths, self.inputs)
        states = list(self.start(x.shape[1], initial))
        number = 0
        for stage in self.stages:
            outputs = []
            for direction in stage.directions:
                fed = reverse_sequences(x, counts) if direction.reverse else x
                y, states[number] = runners[number].run(fed, counts, states[number])
                outputs.append(reverse_sequences(y, counts) if direction.reverse else y)
                number += 1
            x = np.concatenate(outputs, axis=2)
        if self.head is not None:
            x = self.head(x) * (np.arange(x.shape[0])[:, None] < counts)[:, :, None]
        return x, tuple(states)

    def start(self, voices: int, initial: Sequence[State] | None = None) -> tuple[State, ...]:
        """The state of each direction before the first frame: ``initial`` as of `run`, or its own.

        Raises
        ------
        ModelError
            The number of states is not that of the directions, or one does not fit.
        """
        if initial is None:
            return tuple(direction.start(voices) for direction in self.directions)
        if len(initial) != len(self.directions):
            raise ModelError(f"network {self.name!r} has {len(self.directions)} directions, but there are initial "
                             f"states for {len(initial)}: give one for each direction, stage by stage")
        return tuple(direction.start(voices, state)
                     for direction, state in zip(self.directions, initial, strict=True))

    def fed(self, x: ArrayLike, runners: Sequence[Runner], lengths: ArrayLike | None = None,
            initial: Sequence[State] | None = None) -> Iterator[tuple[Direction, FloatArray]]:
        """Each direction with its input (T, B, I), on which it is calibrated. Arguments are those of `run`."""
        x, counts = check_sequences(x, lengths, self.inputs)
        states = self.start(x.shape[1], initial)
        number = 0
        for stage in self.stages:
            for direction in stage.directions:
                yield direction, reverse_sequences(x, counts) if direction.reverse else x
            if stage is self.stages[-1]:
                return
            part = slice(number, number + len(stage.directions))
            x = Network(stages=(stage,)).run(x, runners[part], counts, states[part])[0]
            number = part.stop

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the network to ``path`` as an ``.npz`` with the keys above."""
        if self.plain:
            self.model.save(path)
            return
        arrays: dict[str, ArrayLike] = {"name": self.name}
        for s, stage in enumerate(self.stages):
            for d, direction in enumerate(stage.directions):
                arrays.update({f"stage{s}.direction{d}.{key}": value
                               for key, value in _direction_arrays(direction).items()})
        if self.head is not None:
            arrays.update(self.head.arrays())
        if self.batch_first:
            arrays["batch_first"] = True
        with replacing(path) as file:
            np.savez(file, **cast(Any, arrays))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Network":
        """Read a file of `save` or of `Model.save`. Nothing in the file is executed.

        Raises
        ------
        ModelError
            The file is neither, or a model is not valid.
        OSError
            The file cannot be read.
        """
        return cls.from_arrays(read_npz(path), os.path.splitext(os.path.basename(path))[0])

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], name: str = "model") -> "Network":
        """A network from a mapping with the keys above. Without a key ``name`` its name is ``name``."""
        parts: dict[tuple[int, int], dict[str, NDArray[Any]]] = {}
        rest = {}
        for key, value in arrays.items():
            match = _KEY.fullmatch(key)
            if match:
                parts.setdefault((int(match[1]), int(match[2])), {})[match[3]] = value
            else:
                rest[key] = value
        if not parts:
            return cls.of(Model.from_arrays(arrays, name))
        unknown = sorted(rest.keys() - {"name", "batch_first", *HEAD_KEYS})
        if unknown:
            raise ModelError(f"unknown key {unknown[0]!r}")
        head = Dense.from_arrays(rest)
        stages: list[Stage] = []
        for s in range(1 + max(s for s, _ in parts)):
            directions = [_direction_from(parts[key]) for key in sorted(parts) if key[0] == s]
            stages.append(Stage(tuple(directions)))
        return cls(stages=tuple(stages), head=head, name=str(rest.get("name", name)),
                   batch_first=bool(rest.get("batch_first", False)))


_KEY = re.compile(r"stage(0|[1-9][0-9]{0,3})\.direction([01])\.(.+)")
_INITIAL = re.compile(r"layer([0-9]+)\.initial_([cy])")


def _direction_arrays(direction: Direction) -> dict[str, Any]:
    arrays: dict[str, Any] = {"name": direction.model.name, "reverse": direction.reverse}
    for number, row in enumerate(direction.model.layers):
        arrays.update({f"layer{number}.{key}": value for key, value in layer_arrays(row).items()})
    for number, layer in enumerate(direction.initial or ()):
        arrays[f"layer{number}.initial_c"], arrays[f"layer{number}.initial_y"] = layer
    return arrays


def _direction_from(arrays: Mapping[str, NDArray[Any]]) -> Direction:
    initial = {key: value for key, value in arrays.items() if _INITIAL.fullmatch(key)}
    model = Model.from_arrays({key: value for key, value in arrays.items()
                               if key not in initial and key != "reverse"})
    state = None
    if initial:
        needed = [f"layer{number}.initial_{tensor}" for number in range(len(model.layers)) for tensor in "cy"]
        if sorted(needed) != sorted(initial):
            raise ModelError(f"model {model.name!r}: initial states need the keys {', '.join(needed)}")
        state = tuple(LayerState(initial[f"layer{number}.initial_c"], initial[f"layer{number}.initial_y"])
                      for number in range(len(model.layers)))
    return Direction(model=model, reverse=bool(arrays.get("reverse", False)), initial=state)


def check_sequences(x: ArrayLike, lengths: ArrayLike | None,
                    inputs: int) -> tuple[FloatArray, NDArray[np.intp]]:
    """Sequences (T, B, ``inputs``) in float64 with zero padding, and their lengths (B,), by default all T.

    Raises
    ------
    ModelError
        The shape is wrong, a number is not finite, or the lengths do not fit.
    """
    frames = real_array("x", x, ModelError)
    if frames.ndim != 3 or frames.shape[2] != inputs:
        raise ModelError(f"x: expected shape (T, B, I) = (any, any, {inputs}), found {frames.shape}")
    if not np.isfinite(frames).all():
        raise ModelError("x: not all numbers are finite")
    steps, voices = frames.shape[:2]
    counts = np.full(voices, steps) if lengths is None else np.asarray(lengths)
    if counts.shape != (voices,) or counts.dtype.kind not in "iu" or ((counts < 0) | (counts > steps)).any():
        raise ModelError(f"lengths: expected {voices} whole numbers of 0 to {steps}, found {counts.tolist()}")
    padding = np.arange(steps)[:, None] >= counts
    return np.where(padding[:, :, None], 0.0, frames), counts.astype(np.intp)
