# SPDX-License-Identifier: Apache-2.0
"""The operator of onnxruntime that calls an engine in place of LSTM nodes.

`OPERATOR` with the number n of LSTM nodes that it stands for is the type of a node with these inputs: x (T, B, I), the
lengths int32 (B,), then h and c (D, B, H) of each LSTM node in order. An input that is left out is `NOTHING`. The
outputs are y (T, D, B, H) of the last LSTM node, or y (T, 1, B, P) of dense layers behind it, then the final h and c of
each. With n = 0 it stands for dense layers alone: x (..., I) and y (..., P). The attribute ``call`` names the part.
"""

import functools
import itertools
import signal
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openese.sw.importers.base import require
from openese.sw.importers.onnx_graph import bodies
from openese.sw.model.layers import DENSE
from openese.sw.model.network import Network
from openese.sw.model.state import LayerState, State, zero_state
from openese.sw.whole.engine import Engine
from openese.sw.whole.host import Arrays, HostError

__all__ = ["DOMAIN", "MOST", "NOTHING", "OPERATOR", "PlainSession", "Session", "operators"]

DOMAIN = "openese"
OPERATOR = "OpeneseLstm"
#: The most LSTM nodes that one operator stands for.
MOST = 16
#: The shape of an input that is left out: no real input has this rank.
NOTHING = (0, 0)
_WHAT = "whole ONNX networks"

#: Releases of onnxruntime-extensions whose compiled code takes an operator's results as arrays, not only as lists.
_TAKE_ARRAYS = ("0.15.",)

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

    Attributes
    ----------
    types : dict of str to str
        As of `PlainSession`.
    calls : tuple of str
        The names of the parts that the operators call.

    Raises
    ------
    HostError
        If onnxruntime does not load the model.
    """

    def __init__(self, model: Any, name: str) -> None:
        self._name = name
        self._key = str(next(_keys))
        self._calls: dict[str, _Call] = {}
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._options: Any = None
        self._error: BaseException | None = None
        self._working = False
        extensions = require("onnxruntime_extensions", "onnx", _WHAT)
        attributes = []
        _declare()
        for number, node in enumerate(operators(model.graph)):
            attribute, = node.attribute
            attributes.append(attribute)
            self._calls[f"{self._key}/{number}"] = _Call(attribute.s.decode())
        for attribute, key in zip(attributes, self._calls, strict=True):
            attribute.s = key.encode()
        data = model.SerializeToString()
        for attribute, call in zip(attributes, self._calls.values(), strict=True):
            attribute.s = call.part.encode()
        _sessions[self._key] = self
        self._session = PlainSession(data, name, extensions.get_library_path())
        self.types = self._session.types
        self.calls = tuple(dict.fromkeys(call.part for call in self._calls.values()))

    def run(self, feeds: Arrays, engine: Engine) -> Arrays:
        """Run the network.

        Raises
        ------
        HostError
            onnxruntime fails. An error of the engine is raised as it is.
        """
        with self._lock:
            self._engine, self._error, self._options = engine, None, self._session.options()
            failure, outputs = None, {}
            restore = self._defer_interrupt()
            try:
                outputs = self._session.run(feeds, self._options)
            except HostError as error:
                failure = error
            finally:
                restore()
                kept, self._engine, self._error = self._error, None, None
        for raised in (kept, failure):
            if raised is not None:
                raise raised
        return outputs

    def call(self, key: str, x: Array, lengths: Array, states: Sequence[Array]) -> tuple[Array, ...]:
        """One call of the operator. It never raises, since an exception here would end the process."""
        try:
            self._working = True
            if self._error is None and self._engine is not None:
                result = self._calls[key].answer(self._engine, x, lengths, states)
                self._working = False
                return result
        except BaseException as error:
            self._stop(error)
        self._working = False
        return _nothing(states)

    def _stop(self, error: BaseException) -> None:
        self._error = self._error or error
        self._options.terminate = True

    def _defer_interrupt(self) -> Callable[[], Any]:
        """In the main thread, Ctrl-C is what it was while the engine works, and else stops the run.

        An exception that is raised in onnxruntime's own call of the operator would end the process. What is returned
        makes Ctrl-C what it was.
        """
        before = signal.getsignal(signal.SIGINT)
        if not callable(before) or threading.current_thread() is not threading.main_thread():
            return bool

        def interrupt(number: int, frame: FrameType | None) -> None:
            if self._working:
                before(number, frame)
            else:
                self._stop(KeyboardInterrupt())

        signal.signal(signal.SIGINT, interrupt)
        return lambda: signal.signal(signal.SIGINT, before)


class PlainSession:
    """A session of onnxruntime.

    Parameters
    ----------
    model : bytes or str
        A model, or the path of one.
    name : str
        Of the network, for messages.
    library : str, optional
        With more operators.

    Attributes
    ----------
    types : dict of str to str
        The type of each input and output, as onnxruntime names it: ``tensor(float)``.

    Raises
    ------
    HostError
        If onnxruntime does not load the model.
    """

    def __init__(self, model: bytes | str, name: str, library: str | None = None) -> None:
        self._name, self._runtime = name, require("onnxruntime", "onnx", _WHAT)
        options = self._runtime.SessionOptions()
        options.log_severity_level = 4
        options.add_session_config_entry("session.disable_prepacking", "1")  # a second copy of the weights
        # Threads that wait in a loop take cores from the engine, which computes while they have nothing to do.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if library is not None:
            options.register_custom_ops_library(library)
        else:  # an original, which few calls run, gives all its memory back when it is dropped
            options.enable_cpu_mem_arena = options.enable_mem_pattern = False
        try:
            self._session = self._runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"],
                                                           enable_fallback=0)
        except Exception as error:  # the classes of onnxruntime's errors have no common base
            raise HostError(f"{name}: onnxruntime does not load it: {_short(error)}") from None
        outputs = self._session.get_outputs()
        self._outputs = [output.name for output in outputs]
        values = (*self._session.get_inputs(), *self._session.get_overridable_initializers(), *outputs)
        self.types = {value.name: value.type for value in values}

    def options(self) -> Any:
        """Options for one run."""
        options = self._runtime.RunOptions()
        options.log_severity_level = 4
        return options

    def run(self, feeds: Arrays, options: Any = None) -> Arrays:
        """All outputs by name.

        Raises
        ------
        HostError
            If onnxruntime fails.
        """
        try:
            values = self._session.run(None, feeds, options or self.options())
        except Exception as error:  # the classes of onnxruntime's errors have no common base
            raise HostError(f"{self._name}: onnxruntime: {_short(error)}") from None
        return dict(zip(self._outputs, values, strict=True))


def _nothing(states: Sequence[Array]) -> tuple[Array, ...]:
    """Outputs of an operator in a run that has failed."""
    return (np.zeros((1, 1, 1, 1), np.float32), *(np.zeros((1, 1, 1), np.float32) for _ in states))


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


class _Result(np.ndarray[Any, Any]):
    """An array in which onnxruntime-extensions finds itself where it asks for a list: ``flatten().tolist()``."""

    def flatten(self, *order: Any) -> "_Result":
        return self

    def tolist(self) -> Any:
        return self.view(np.ndarray)


@functools.cache
def _declare() -> None:
    """Register the operators, all at once and in a domain of their own: sessions point to them, and an operator that is
    added to a domain later moves the others in memory."""
    extensions = require("onnxruntime_extensions", "onnx", _WHAT)
    types = extensions.PyCustomOpDef

    def body(x: Array, lengths: Array, *states: Array, call: str) -> tuple[Array, ...]:
        session = _sessions.get(call.split("/")[0])
        results = _nothing(states) if session is None else session.call(call, x, lengths, states)
        if extensions.__version__.startswith(_TAKE_ARRAYS):
            return tuple(result.view(_Result) for result in results)
        return results

    for lstms in range(MOST + 1):
        extensions.onnx_op(op_type=f"{DOMAIN}::{OPERATOR}{lstms}",
                           inputs=[types.dt_float, types.dt_int32] + [types.dt_float] * (2 * lstms),
                           outputs=[types.dt_float] * (1 + 2 * lstms), attrs={"call": types.dt_string})(body)


class _Call:
    """The call of an operator, with the name of its part."""

    def __init__(self, part: str) -> None:
        self.part = part
        self._network: Network | None = None
        self._places: list[list[tuple[int, int]]] = []

    def answer(self, engine: Engine, x: Array, lengths: Array, states: Sequence[Array]) -> tuple[Array, ...]:
        """The operator's outputs."""
        name, part = self.part, engine.parts[self.part]
        if part is not self._network:
            self._network, self._places = part, _places(part)
        if not self._places:
            return (self._dense(engine, x),)
        if x.ndim != 3:
            raise HostError(f"{name}: the input of an LSTM has the shape {x.shape}, not (T, B, I)")
        steps, voices, _ = x.shape
        if not steps or not voices:  # an empty result of an operator in Python damages memory
            raise HostError(f"{name}: the input of an LSTM is empty: its shape is {x.shape}; give frames of a sequence")
        counts = None if lengths.shape == NOTHING else lengths
        y, after = engine.call(name, x, counts, self._initial(part, states, voices))
        last = part.stages[-1].directions[0].model.layers[-1]
        ways = 1 if last.kind is DENSE else len(self._places[-1])
        outputs = [np.ascontiguousarray(y.reshape(steps, voices, ways, -1).swapaxes(1, 2), np.float32)]
        for row in self._places:
            ends = [after[direction][layer] for direction, layer in row]
            outputs += [np.array([end.y for end in ends], np.float32), np.array([end.c for end in ends], np.float32)]
        if counts is not None:
            # onnxruntime's final states of a sequence without a frame are zero, whatever its initial states are
            for output in outputs[1:]:
                output[:, counts == 0] = 0
        return tuple(outputs)

    def _dense(self, engine: Engine, x: Array) -> Array:
        """The output of dense layers alone: every vector is a voice."""
        if not x.size:  # an empty result of an operator in Python damages memory
            raise HostError(f"{self.part}: the input of a dense layer is empty: its shape is {x.shape}")
        return np.ascontiguousarray(engine.call_dense(self.part, x), np.float32)

    def _initial(self, part: Network, states: Sequence[Array], voices: int) -> tuple[State, ...] | None:
        """The states before the first frame, for each direction of the part."""
        if all(given.shape == NOTHING for given in states):
            return None
        initial: list[list[Any]] = [[zero_state(layer, voices) for layer in direction.model.layers]
                                    for direction in part.directions]
        for row, h, c in zip(self._places, states[::2], states[1::2], strict=True):
            first = part.directions[row[0][0]].model.layers[row[0][1]]
            ys = self._given("initial_h", h, (len(row), voices, first.outputs))
            cs = self._given("initial_c", c, (len(row), voices, first.cells))
            for way, (direction, layer) in enumerate(row):
                initial[direction][layer] = LayerState(cs[way], ys[way])
        return tuple(tuple(state) for state in initial)

    def _given(self, name: str, given: Array, wanted: tuple[int, ...]) -> Array:
        if given.shape == NOTHING:
            return np.zeros(wanted)
        if given.shape != wanted:
            raise HostError(f"{self.part}: {name} has the shape {given.shape}, not (directions, B, H) = {wanted}")
        return given.astype(np.float64)


def _places(part: Network) -> list[list[tuple[int, int]]]:
    """For each LSTM node of a part, the place of its directions' layers: number of the direction, of the layer."""
    places: list[list[tuple[int, int]]] = []
    number = 0
    for stage in part.stages:
        if len(stage.directions) == 2:
            places.append([(number, 0), (number + 1, 0)])
        else:
            places += [[(number, place)] for place, layer in enumerate(stage.directions[0].model.layers)
                       if layer.feedback]
        number += len(stage.directions)
    return places
