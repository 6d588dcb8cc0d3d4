# SPDX-License-Identifier: Apache-2.0
"""Keras networks whose LSTM, GRU and Dense layers are computed by an engine.

A layer stays the Keras layer that it is; only its loop over time is replaced, or the product of a Dense layer. Keras
itself handles initial and final states, stateful layers, wrappers, and what the next layer gets.
"""

import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openese.rtl.config import Config
from openese.sw.importers.from_keras import cell_problem, keras_gru, keras_layer
from openese.sw.model.layers import DENSE, GRU, LSTM, CellKind, Layer, Model
from openese.sw.model.network import Network
from openese.sw.model.quantized import unsupported
from openese.sw.model.state import LayerState, State
from openese.sw.whole.engine import Engine
from openese.sw.whole.host import HostError, Item

__all__ = ["MachineLayers", "copy_model", "import_keras", "replace", "to_numpy"]

_INSTALL = "pip install 'openese[keras]'"
_BACKENDS = ("torch", "tensorflow", "jax")
_Array = NDArray[Any]
Place = Literal["machine", "host"]


def import_keras() -> Any:
    """The module ``keras``, on an installed backend; the variable ``KERAS_BACKEND`` of the environment names another.

    Raises
    ------
    HostError
        Keras or its backend is not installed.
    """
    if importlib.util.find_spec("keras") is None:
        raise HostError(f"a Keras network runs in Keras, which is not installed: {_INSTALL}")
    if "keras" not in sys.modules and "KERAS_BACKEND" not in os.environ:
        installed = [name for name in _BACKENDS if importlib.util.find_spec(name) is not None]
        if not installed:
            raise HostError("Keras needs PyTorch, TensorFlow or JAX, and none is installed: pip install torch")
        os.environ["KERAS_BACKEND"] = installed[0]
    try:
        keras = importlib.import_module("keras")
    except ImportError as error:
        raise HostError(f"Keras does not start on {os.environ.get('KERAS_BACKEND')} ({error}); install this backend, "
                        f"or name another one in KERAS_BACKEND") from None
    if not keras.__version__.startswith("3."):
        raise HostError(f"Keras {keras.__version__} is installed; networks run in Keras 3: {_INSTALL}")
    return keras


class MachineLayers:
    """The layers of a Keras network that an engine computes.

    Attributes
    ----------
    names : list of str
        The path of each of these layers. A layer that is called several times is one part.
    layers : list of keras.Layer
    parts : dict of str to `Network`
        Their networks, by name.
    items : tuple of `Item`
        Every layer and weight with its place.
    engine : `Engine`, optional
        Computes the parts. With None, as it is at first, the layers compute as Keras does.
    failure : Exception, optional
        The last error of the engine. Keras raises it with another text.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.layers: list[Any] = []
        self.parts: dict[str, Network] = {}
        self.items: tuple[Item, ...] = ()
        self.engine: Engine | None = None
        self.failure: Exception | None = None

    def call(self, name: str, x: _Array, mask: _Array | None, initial: State) -> tuple[_Array, State]:
        """Outputs (B, T, P) for x (B, T, I), and the state after the last frame of each voice.

        A frame that ``mask`` (B, T) leaves out repeats the output before it; that of the first frame is zero.
        """
        assert self.engine is not None
        with self._kept(name):
            if mask is None:
                y, states = self.engine.call(name, x.swapaxes(0, 1), None, (initial,))
                return y.swapaxes(0, 1), states[0]
            counts = mask.sum(axis=1)
            order = np.argsort(~mask, axis=1, kind="stable")[:, :counts.max(initial=0)]
            frames = np.take_along_axis(x, order[:, :, None], axis=1)
            frames[np.arange(order.shape[1]) >= counts[:, None]] = 0
            y, states = self.engine.call(name, frames.swapaxes(0, 1), counts, (initial,))
        held = np.concatenate([np.zeros((1, *y.shape[1:])), y]).swapaxes(0, 1)
        return np.take_along_axis(held, np.cumsum(mask, axis=1)[:, :, None], axis=1), states[0]

    def call_dense(self, name: str, x: _Array) -> _Array:
        """Outputs (..., P) for x (..., I)."""
        assert self.engine is not None
        with self._kept(name):
            return self.engine.call_dense(name, x)

    @contextmanager
    def _kept(self, name: str) -> Iterator[None]:
        """Keep an error of the engine, and name the part in it."""
        try:
            yield
        except Exception as error:
            self.failure = HostError(f"{name}: {error}") if isinstance(error, ValueError) else error
            raise self.failure from error


def replace(model: Any, like: Any = None, machine: Config | None = None, parts: Collection[str] | None = None
            ) -> MachineLayers:
    """Let an engine compute the LSTMs and GRUs of a Keras network, in place, and its Dense layers if the machine has
    dense layers.

    The network is called, predicts and evaluates as before, without graphs or compilation. Its weights, its
    configuration and its saved form stay the same. A layer that the machine cannot compute stays with Keras, and
    ``items`` has the reason.

    Parameters
    ----------
    model : keras.Model or keras.Layer
    like : keras.Model or keras.Layer, optional
        The network of which ``model`` is a copy, whose layers give the names. Keras numbers those of a copy anew.
    machine : Config, optional
        Layers of which it has no cells stay with Keras; without one, Dense layers too.
    parts : collection of str, optional
        The names of the layers to take, which have no weights any more. The result then has no ``parts``, only their
        names.

    Raises
    ------
    HostError
        The network has no weights yet.
    """
    keras = import_keras()
    if not model.built:
        raise HostError(f"{model.name}: the network has no weights yet; call it once on inputs")
    taken = MachineLayers()
    items: list[Item] = []
    inside: dict[int, tuple[Place, str]] = {}
    names = [name for name, _ in _layers(keras, model if like is None else like)]
    for name, (_, layer) in zip(names, _layers(keras, model), strict=True):
        found = None if id(layer) in inside else _recurrent(keras, layer, machine)
        place, detail = inside.get(id(layer), ("host", "keras"))
        wanted = name in parts if parts is not None else found is not None or machine is not None and machine.dense
        if found is not None and found.problem is not None:
            detail = found.problem
        elif wanted and id(layer) not in inside and (found is not None or _is_dense(keras, layer)):
            place, detail = "machine", name
            taken.names.append(name)
            taken.layers.append(layer)
            if parts is None:
                taken.parts[name] = (_part(keras, name, found.cells) if found is not None else
                                     _dense_part(keras, name, layer))
            if found is not None:
                _take(keras, taken, name, layer, found.cells)
            else:
                layer.call = _product(keras, taken, name, layer)
        if place == "machine" or id(layer) in inside or (found is not None and found.whole):
            inside.update((id(inner), (place, detail)) for inner in layer._layers)
        shown = _both(keras, layer, machine) if isinstance(layer, keras.layers.Bidirectional) else (place, detail)
        items.append(Item(name, type(layer).__name__, *shown))
        items += _weights(name + "/", layer, place, detail if place == "machine" else "keras")
    if isinstance(model, keras.Model):
        items += _weights("", model, "host", "keras")
    taken.items = tuple(items)
    if taken.names:
        for nested in model._flatten_layers():
            if isinstance(nested, keras.Model):
                nested.run_eagerly, nested.jit_compile = True, False
                nested.predict_function = nested.test_function = nested.train_function = None
    return taken


def _part(keras: Any, name: str, held: list[Any]) -> Network:
    layers = [_layer(keras, cell, name if len(held) == 1 else f"{name}.{number}") for number, cell in enumerate(held)]
    return Network.of(Model(layers=tuple(layers), name=name))


def _dense_part(keras: Any, name: str, layer: Any) -> Network:
    weight = to_numpy(keras, layer.kernel).T
    bias = to_numpy(keras, layer.bias) if layer.use_bias else np.zeros(len(weight), weight.dtype)
    made = Layer(name=name, cell=DENSE.name, w_x=weight[None], bias=bias[None],
                 activation=_function(keras, layer) or "none")
    return Network.of(Model(layers=(made,), name=name))


def _both(keras: Any, layer: Any, machine: Config | None) -> tuple[Place, str]:
    """The place of a Bidirectional, whose directions are layers of their own."""
    both = [_recurrent(keras, inner, machine) for inner in (layer.forward_layer, layer.backward_layer)]
    problems = [inner.problem if inner is not None else "it is not recurrent" for inner in both]
    return ("host", next(filter(None, problems))) if any(problems) else ("machine", "both directions")


def _weights(prefix: str, layer: Any, place: Place, detail: str) -> list[Item]:
    return [Item(prefix + weight.name, "weight", place, detail) for weight in _own_weights(layer)]


def copy_model(model: Any) -> Any:
    """A copy of a network with layers of its own and equal weights, compiled as the network is.

    Raises
    ------
    HostError
        Keras cannot copy it.
    """
    keras = import_keras()
    for copy in (_cloned, _saved_and_loaded):
        with suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the optimizer's state, and PyTorch's tensors lack a keyword of NumPy's
            twin = copy(keras, model)
            if _equal(keras, model, twin):
                return twin
    raise HostError(f"{model.name}: Keras cannot copy the network, because its configuration does not tell all of it; "
                    f"give its classes get_config and from_config, and register them "
                    f"(keras.saving.register_keras_serializable)")


def _cloned(keras: Any, model: Any) -> Any:
    twin = keras.models.clone_model(model)
    for ours, theirs in zip(twin.weights, model.weights, strict=True):
        ours.assign(theirs)
    if model.compiled and not twin.compiled:
        twin.compile_from_config(model.get_compile_config())
    return twin


def _saved_and_loaded(keras: Any, model: Any) -> Any:
    load, arguments = model.__reduce__()
    return load(*arguments)


def _equal(keras: Any, model: Any, twin: Any) -> bool:
    ours, theirs = twin.weights, model.weights
    return (not {id(weight) for weight in ours} & {id(weight) for weight in theirs} and len(ours) == len(theirs)
            and all(np.array_equal(to_numpy(keras, mine), to_numpy(keras, other))
                    for mine, other in zip(ours, theirs, strict=True))
            and [type(layer) for _, layer in _layers(keras, model)]
            == [type(layer) for _, layer in _layers(keras, twin)])


def to_numpy(keras: Any, tensor: Any) -> _Array:
    """A tensor or variable as an array; float16 and bfloat16 become float32.

    Raises
    ------
    HostError
        The tensor has no numbers: it is part of a graph or of a compiled function.
    """
    try:
        if keras.backend.standardize_dtype(tensor.dtype) in ("float16", "bfloat16"):
            tensor = keras.ops.cast(tensor, "float32")
        return np.asarray(keras.ops.convert_to_numpy(tensor))
    except Exception as error:
        raise HostError(f"the machine needs numbers, and found a tensor of a graph or a compiled function "
                        f"({type(error).__name__}); compile the network with run_eagerly=True and jit_compile=False"
                        ) from None


# -- what the machine computes ---------------------------------------------------------------------


class _Recurrent(NamedTuple):
    """The cells of a layer, and why the machine does not compute the layer.

    With ``whole`` its cells stay with Keras too.
    """

    cells: list[Any]
    problem: str | None
    whole: bool = False


def _recurrent(keras: Any, layer: Any, machine: Config | None) -> _Recurrent | None:
    """None for a layer that is not recurrent."""
    rnn, kind = keras.layers.RNN, type(layer).__name__
    if _kind(keras, layer) is not None:
        return _Recurrent([layer], _missing(keras, layer, machine) or _cell_problem(keras, layer))
    if not isinstance(layer, rnn):
        return None
    held = list(layer.cell.cells) if isinstance(layer.cell, keras.layers.StackedRNNCells) else [layer.cell]
    others = [type(inner).__name__ for inner in held if _kind(keras, inner) is None]
    problem = next(filter(None, (_missing(keras, inner, machine) for inner in held)), None)
    if others:
        other = kind if type(layer) is not rnn else others[0]
        problem = f"a {other} is no LSTM or GRU, and the machine does not compute it"
    if problem is not None:
        compiled = keras.backend.backend() == "jax"  # which traces the loop around the cells
        return _Recurrent([], problem, whole=compiled)
    known = (rnn, keras.layers.LSTM, keras.layers.GRU)
    if type(layer).call not in [one.call for one in known] or type(layer).inner_loop not in [
            one.inner_loop for one in known]:
        return _Recurrent(held, f"{kind} has a loop of its own", whole=True)
    if vars(layer).keys() & {"call", "inner_loop"}:
        return _Recurrent(held, "its loop is replaced already", whole=True)
    return _Recurrent(held, next(filter(None, (_cell_problem(keras, inner) for inner in held)), None))


def _is_dense(keras: Any, layer: Any) -> bool:
    """Whether a layer computes what a dense layer of a machine does, and perhaps another function of it."""
    dense = keras.layers.Dense
    return (isinstance(layer, dense) and type(layer).call is dense.call and "call" not in vars(layer)
            and getattr(layer, "quantization_mode", None) is None)


def _function(keras: Any, layer: Any) -> str | None:
    """The function of a Dense layer, if a machine computes it."""
    known = {keras.activations.linear: "none", keras.activations.relu: "relu", keras.activations.sigmoid: "sigmoid",
             keras.activations.tanh: "tanh"}
    return "none" if layer.activation is None else next((name for function, name in known.items()
                                                         if layer.activation is function), None)


def _kind(keras: Any, cell: Any) -> CellKind | None:
    """The kind of a cell; None for another layer."""
    if isinstance(cell, keras.layers.LSTMCell):
        return LSTM
    return GRU if isinstance(cell, keras.layers.GRUCell) else None


def _missing(keras: Any, cell: Any, machine: Config | None) -> str | None:
    """Why the machine has no such cell; None if it has, and for a layer that is no LSTM or GRU cell."""
    kind = _kind(keras, cell)
    return None if kind is None else unsupported(kind, kind is LSTM or bool(cell.reset_after), machine)


def _cell_problem(keras: Any, cell: Any) -> str | None:
    known, kind = keras.layers.LSTMCell if _kind(keras, cell) is LSTM else keras.layers.GRUCell, type(cell)
    if kind.call is not known.call or kind.build is not known.build or "call" in vars(cell):
        return f"{kind.__name__} has a step of its own"
    problem = cell_problem(known.__name__, known.get_config(cell))
    if problem is None:
        for key in ("activation", "recurrent_activation"):
            function = getattr(cell, key)
            if function not in (keras.activations.tanh, keras.activations.sigmoid):
                return f"{key} is a function of your own, {function.__name__!r}"
    return problem


def _layer(keras: Any, cell: Any, name: str) -> Any:
    weights = [cell.kernel, cell.recurrent_kernel, *([cell.bias] if cell.use_bias else [])]
    arrays = [to_numpy(keras, weight) for weight in weights]
    if _kind(keras, cell) is GRU:
        return keras_gru(name, bool(cell.reset_after), *arrays)
    return keras_layer(name, *arrays)


def _layers(keras: Any, model: Any) -> Iterator[tuple[str, Any]]:
    """Every layer and operation once, by its path, outer layers first."""
    seen = {id(model)}
    used: set[str] = set()

    def walk(layer: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        for inner in (*getattr(layer, "operations", ()), *getattr(layer, "_layers", ())):
            if id(inner) in seen:
                continue
            seen.add(id(inner))
            name, number = prefix + inner.name, 1
            while name in used:
                name, number = f"{prefix}{inner.name}:{number}", number + 1
            used.add(name)
            yield name, inner
            yield from walk(inner, f"{name}/")

    if isinstance(model, keras.Model):
        yield from walk(model, "")
    else:
        yield model.name, model
        yield from walk(model, f"{model.name}/")


def _own_weights(layer: Any) -> list[Any]:
    inner = {id(weight) for child in getattr(layer, "_layers", ()) for weight in child.weights}
    return [weight for weight in getattr(layer, "weights", ()) if id(weight) not in inner]


# -- layers in the network ------------------------------------------------------------------------


def _take(keras: Any, machine: MachineLayers, name: str, layer: Any, held: list[Any]) -> None:
    """Put the engine in place of the loop of a layer with the cells ``held``, or of the step of a cell."""
    kinds = [_kind(keras, cell) for cell in held]
    if _kind(keras, layer) is not None:
        layer.call = _step(keras, machine, name, layer, kinds)
        return
    layer.inner_loop = _loop(keras, machine, name, layer, kinds)
    if hasattr(layer, "use_cudnn"):
        layer.use_cudnn = False  # Bidirectional would compute both layers in one call of cuDNN


def _loop(keras: Any, machine: MachineLayers, name: str, layer: Any, kinds: Sequence[CellKind | None]) -> Any:
    by_keras = layer.inner_loop

    def inner_loop(sequences: Any, initial_state: Any, mask: Any, training: Any = False) -> tuple[Any, Any, Any]:
        if machine.engine is None or _symbolic():
            return by_keras(sequences, initial_state, mask=mask, training=training)
        _check_inference(name, training)
        flat_mask = [held for held in keras.tree.flatten(mask) if held is not None]
        kept = _mask(keras, name, flat_mask[0]) if flat_mask else None
        if kept is not None and layer.unroll and layer.go_backwards:
            raise HostError(f"{name}: Keras has no rule for unroll=True with go_backwards=True and a mask; make it "
                            f"with unroll=False")
        x = _real(keras, sequences)
        if layer.go_backwards:
            x, kept = x[:, ::-1], kept if kept is None else kept[:, ::-1]
        y, after = machine.call(name, x, kept, _state(keras, initial_state, len(x), kinds))
        if kept is not None and layer.zero_output_for_mask:
            y = np.where(kept[:, :, None], y, 0)
        dtype = layer.compute_dtype
        states = keras.tree.pack_sequence_as(initial_state, [_tensor(keras, held, dtype)
                                                             for held in _flat(after, kinds)])
        return _tensor(keras, y[:, -1], dtype), _tensor(keras, y, dtype), states

    return inner_loop


def _step(keras: Any, machine: MachineLayers, name: str, cell: Any, kinds: Sequence[CellKind | None]) -> Any:
    by_keras = cell.call

    def call(inputs: Any, states: Any, training: Any = False) -> tuple[Any, Any]:
        if machine.engine is None or _symbolic():
            return by_keras(inputs, states, training=training)
        _check_inference(name, training)
        x = _real(keras, inputs)
        _, after = machine.call(name, x[:, None], None, _state(keras, states, len(x), kinds))
        held = [_tensor(keras, part, cell.compute_dtype) for part in _flat(after, kinds)]
        return held[0], keras.tree.pack_sequence_as(states, held)

    return call


def _product(keras: Any, machine: MachineLayers, name: str, layer: Any) -> Any:
    by_keras, known = layer.call, _function(keras, layer) is not None

    def call(inputs: Any, training: Any = None) -> Any:
        if machine.engine is None or _symbolic():
            return by_keras(inputs, training=training)
        _check_inference(name, training)
        x = _real(keras, inputs)
        if not x.size:
            return by_keras(inputs, training=training)
        y = _tensor(keras, machine.call_dense(name, x), layer.compute_dtype)
        return y if known else layer.activation(y)

    return call


def _symbolic() -> bool:
    """Whether Keras only asks for shapes."""
    from keras.src.backend.common.symbolic_scope import in_symbolic_scope

    return bool(in_symbolic_scope())


def _check_inference(name: str, training: Any) -> None:
    if training:
        raise HostError(f"{name}: layers on the machine do not train; train the network before its layers are replaced")


def _real(keras: Any, tensor: Any) -> _Array:
    array = to_numpy(keras, tensor)
    return array if array.dtype.kind == "f" else array.astype(np.float32)


def _mask(keras: Any, name: str, mask: Any) -> _Array:
    array = to_numpy(keras, mask).astype(bool)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2:
        raise HostError(f"{name}: expected a mask of shape (B, T), found {array.shape}")
    return array


def _state(keras: Any, states: Any, voices: int, kinds: Sequence[CellKind | None]) -> State:
    """The states of cells of these kinds: h and c of an LSTM, h of a GRU."""
    flat = (np.broadcast_to(held, (voices, held.shape[-1]))
            for held in (_real(keras, held) for held in keras.tree.flatten(states)))
    rows = []
    for kind in kinds:
        y = next(flat)
        rows.append(LayerState(y if kind is GRU else next(flat), y))
    return tuple(rows)


def _flat(state: State, kinds: Sequence[CellKind | None]) -> list[_Array]:
    """The reverse of `_state`."""
    return [held for layer, kind in zip(state, kinds, strict=True)
            for held in ((layer.y,) if kind is GRU else (layer.y, layer.c))]


def _tensor(keras: Any, array: _Array, dtype: str) -> Any:
    return keras.ops.cast(keras.ops.convert_to_tensor(array if dtype == "float64" else array.astype(np.float32)), dtype)
