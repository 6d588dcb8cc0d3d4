# SPDX-License-Identifier: Apache-2.0
"""The operator of onnxruntime that calls an engine in place of LSTM nodes.

`OPERATOR` with the number n of LSTM nodes that it stands for is the type of a node with these inputs: x (T, B, I), the
lengths int32 (B,), then h and c (D, B, H) of each LSTM node in order. An input that is left out is `NOTHING`. The
outputs are y (T, D, B, H) of the last LSTM node, then the final h and c of each. The attribute ``call`` names the part.
"""

import functools
import itertools
import signal
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openese.sw.importers.base import require
from openese.sw.importers.onnx_graph import bodies
from openese.sw.model.network import Network
from openese.sw.model.state import LayerState, State
from openese.sw.whole.engine import Engine
from openese.sw.whole.host import Arrays, HostError

__all__ = ["DOMAIN", "NOTHING", "OPERATOR", "Session", "operators", "plain_session", "run_plain"]

DOMAIN = "ai.onnx.contrib"
OPERATOR = "OpeneseLstm"
#: The shape of an input that is left out: no real input has this rank.
NOTHING = (0, 0)
_WHAT = "whole ONNX networks"

Array = NDArray[Any]
_sessions: "weakref.WeakValueDictionary[str, Session]" = weakref.WeakValueDictionary()
_keys = itertools.count()


class Session:
    """A session of onnxruntime whose operators call an engine.

    Parameters
    ----------
    model : ModelProto
        Each session gives the attributes ``call`` values of its own, so that sessions do not mix.
    name : str
        Of the network, for messages.

    Raises
    ------
    HostError
        If onnxruntime does not load the model.
    """

    def __init__(self, model: Any, name: str) -> None:
        self._name = name
        self._key = str(next(_keys))
        self._calls: dict[str, str] = {}
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._options: Any = None
        self._error: BaseException | None = None
        extensions = require("onnxruntime_extensions", "onnx", _WHAT)
        attributes = []
        for node in operators(model.graph):
            _declare(int(node.op_type.removeprefix(OPERATOR)))
            attributes.append(next(attribute for attribute in node.attribute if attribute.name == "call"))
        for number, attribute in enumerate(attributes):
            key = f"{self._key}/{number}"
            self._calls[key] = attribute.s.decode()
            attribute.s = key.encode()
        data = model.SerializeToString()
        for attribute, part in zip(attributes, self._calls.values(), strict=True):
            attribute.s = part.encode()
        _sessions[self._key] = self
        self._session = plain_session(data, name, extensions.get_library_path())

    @property
    def calls(self) -> tuple[str, ...]:
        """The names of the parts that the operators call."""
        return tuple(dict.fromkeys(self._calls.values()))

    @property
    def types(self) -> dict[str, str]:
        """The type of each input and output, as onnxruntime names it: ``tensor(float)``."""
        session = self._session
        values = (*session.get_inputs(), *session.get_overridable_initializers(), *session.get_outputs())
        return {value.name: value.type for value in values}

    def run(self, feeds: Arrays, engine: Engine) -> Arrays:
        """Run the network.

        Raises
        ------
        HostError
            onnxruntime fails. An error of the engine is raised as it is.
        """
        runtime = require("onnxruntime", "onnx", _WHAT)
        with self._lock:
            self._engine, self._error, self._options = engine, None, runtime.RunOptions()
            self._options.log_severity_level = 4
            failure, values = "", []
            try:
                with _deferred_interrupt(self._stop):
                    values = self._session.run(None, feeds, self._options)
            except Exception as error:  # the classes of onnxruntime's errors have no common base
                failure = _short(error)
            finally:
                kept, self._engine, self._error = self._error, None, None
        if kept is not None:
            raise kept
        if failure:
            raise HostError(f"{self._name}: onnxruntime: {failure}")
        return dict(zip((output.name for output in self._session.get_outputs()), values, strict=True))

    def call(self, key: str, x: Array, lengths: Array, states: Sequence[Array]) -> tuple[Array, ...]:
        """One call of the operator. It never raises, since an exception here would end the process."""
        name = self._calls.get(key, "")
        try:
            if self._error is None and self._engine is not None:
                with _restored_interrupt():
                    return _answer(self._engine, name, x, lengths, states)
        except BaseException as error:
            self._stop(error)
        return (np.zeros((0, 0, 0, 0), np.float32), *(np.zeros((0, 0, 0), np.float32) for _ in states))

    def _stop(self, error: BaseException) -> None:
        self._error = self._error or error
        self._options.terminate = True


def plain_session(model: bytes | str, name: str, library: str | None = None) -> Any:
    """A session of onnxruntime for a model, or for the path of one.

    Raises
    ------
    HostError
        If onnxruntime does not load the model.
    """
    runtime = require("onnxruntime", "onnx", _WHAT)
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    if library is not None:
        options.register_custom_ops_library(library)
    try:
        return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the classes of onnxruntime's errors have no common base
        raise HostError(f"{name}: onnxruntime does not load it: {_short(error)}") from None


def run_plain(session: Any, feeds: Arrays, name: str) -> Arrays:
    """Run a session of `plain_session`.

    Raises
    ------
    HostError
        If onnxruntime fails.
    """
    options = require("onnxruntime", "onnx", _WHAT).RunOptions()
    options.log_severity_level = 4
    try:
        values = session.run(None, feeds, options)
    except Exception as error:  # the classes of onnxruntime's errors have no common base
        raise HostError(f"{name}: onnxruntime: {_short(error)}") from None
    return dict(zip((output.name for output in session.get_outputs()), values, strict=True))


def _short(error: Exception) -> str:
    """The first line of an error of onnxruntime, without its number."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return text.split("] : ", 1)[-1][:400]


def operators(graph: Any) -> Iterator[Any]:
    """The operators in a graph and its bodies."""
    for node in graph.node:
        if node.domain == DOMAIN:
            yield node
        for _, body in bodies(node):
            yield from operators(body)


@functools.cache
def _declare(lstms: int) -> None:
    """Register the operator for this number of LSTM nodes; sessions that are made later know it."""
    extensions = require("onnxruntime_extensions", "onnx", _WHAT)
    types = extensions.PyCustomOpDef

    def body(x: Array, lengths: Array, *states: Array, call: str) -> tuple[Array, ...]:
        session = _sessions.get(call.split("/")[0])
        if session is None:
            return (np.zeros((0, 0, 0, 0), np.float32), *(np.zeros((0, 0, 0), np.float32) for _ in states))
        return session.call(call, x, lengths, states)

    extensions.onnx_op(op_type=f"{OPERATOR}{lstms}",
                       inputs=[types.dt_float, types.dt_int32] + [types.dt_float] * (2 * lstms),
                       outputs=[types.dt_float] * (1 + 2 * lstms), attrs={"call": types.dt_string})(body)


def _places(part: Network) -> list[list[tuple[int, int]]]:
    """For each LSTM node of a part, the place of its directions' layers: number of the direction, of the layer."""
    places: list[list[tuple[int, int]]] = []
    number = 0
    for stage in part.stages:
        if len(stage.directions) == 2:
            places.append([(number, 0), (number + 1, 0)])
        else:
            places += [[(number, layer)] for layer in range(len(stage.directions[0].model.layers))]
        number += len(stage.directions)
    return places


def _answer(engine: Engine, name: str, x: Array, lengths: Array, states: Sequence[Array]) -> tuple[Array, ...]:
    part = engine.parts[name]
    places = _places(part)
    if x.ndim != 3:
        raise HostError(f"{name}: the input of an LSTM has the shape {x.shape}, not (T, B, I)")
    voices = x.shape[1]
    counts = None if lengths.shape == NOTHING else lengths
    initial = _initial(name, part, places, states, voices)
    y, after = engine.call(name, x, counts, initial)
    last = [after[direction][layer] for direction, layer in places[-1]]
    outputs = [y.reshape(len(y), voices, len(last), last[0].y.shape[1]).swapaxes(1, 2)]
    running = np.full(voices, len(x) > 0) if counts is None else counts > 0
    for row in places:
        ends = [after[direction][layer] for direction, layer in row]
        for values in ([end.y for end in ends], [end.c for end in ends]):
            # onnxruntime's final states of a sequence without a frame are zero, whatever its initial states are
            outputs.append(np.where(running[:, None], np.stack(values), 0.0))
    return tuple(np.ascontiguousarray(output, np.float32) for output in outputs)


def _initial(name: str, part: Network, places: list[list[tuple[int, int]]], states: Sequence[Array],
             voices: int) -> tuple[State, ...]:
    """The states before the first frame, for each direction of the part."""
    initial = [[LayerState(np.zeros((voices, layer.cells)), np.zeros((voices, layer.outputs)))
                for layer in direction.model.layers] for direction in part.directions]
    for number, row in enumerate(places):
        for tensor, label, given in (("y", "initial_h", states[2 * number]),
                                     ("c", "initial_c", states[2 * number + 1])):
            if given.shape == NOTHING:
                continue
            cells = part.directions[row[0][0]].model.layers[row[0][1]].cells
            if given.shape != (len(row), voices, cells):
                raise HostError(f"{name}: {label} has the shape {given.shape}, not (directions, B, H) = "
                                f"({len(row)}, {voices}, {cells})")
            for (direction, layer), values in zip(row, given, strict=True):
                held = initial[direction][layer]
                initial[direction][layer] = held._replace(**{tensor: values.astype(np.float64)})
    return tuple(tuple(state) for state in initial)


@contextmanager
def _deferred_interrupt(stop: Callable[[BaseException], None]) -> Iterator[None]:
    """In the main thread, Ctrl-C stops the run: raised anywhere in an operator it would end the process."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    _interrupt[0] = before
    signal.signal(signal.SIGINT, lambda number, frame: stop(KeyboardInterrupt()))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        _interrupt[0] = None


#: The handler of Ctrl-C around the run that is under way in the main thread.
_interrupt: list[Any] = [None]


@contextmanager
def _restored_interrupt() -> Iterator[None]:
    """While the engine works, Ctrl-C is what it was."""
    if threading.current_thread() is not threading.main_thread() or _interrupt[0] is None:
        yield
        return
    deferred = signal.getsignal(signal.SIGINT)
    try:
        signal.signal(signal.SIGINT, _interrupt[0])
        yield
    finally:
        signal.signal(signal.SIGINT, deferred)
