# SPDX-License-Identifier: Apache-2.0
"""Live networks on a machine: the LSTMs, GRUs and dense layers of a PyTorch or Keras network, or of an ONNX file.

>>> network = openese.offload(net, "ese", calibrate=frames, density=0.2)
>>> accuracy = evaluate(network, loader)                     # your own loop, on the machine's integers
>>> print(network.report)

A framework gives `Taken`: a copy of the network with a layer that asks a `Switch` in place of every LSTM or GRU. The
layers record their inputs in floating point first, and then compute on the machine.
"""

import os
import sys
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from openese.rtl.config import Config, machine_config
from openese.sw.compile import BACKENDS, CompiledNetwork
from openese.sw.model.arrays import FloatArray
from openese.sw.model.network import Network
from openese.sw.model.state import State
from openese.sw.prune import Density
from openese.sw.run.runners import MachineRunner
from openese.sw.whole.engine import Engine, Recorder, float_runners
from openese.sw.whole.host import Host, HostError, Item, Port, why_no_parts
from openese.sw.whole.network import open_host, pack_parts, prune_parts, quantize_parts, without_dense

__all__ = ["Offloaded", "Session", "Switch", "Taken", "offload"]

_BACKENDS = (*BACKENDS, "float")


class Switch(Engine):
    """The engine that layers call: one that records, then one that computes. A copy is the same switch.

    It warns when the machine had to clamp numbers.
    """

    def __init__(self) -> None:
        super().__init__({}, {})
        self._engine: Engine | None = None
        self._machines: Mapping[str, Sequence[MachineRunner]] = {}
        self._told: set[str] = set()
        self._finish: Callable[[], Any] = bool

    @property
    def engine(self) -> Engine:
        """The present engine.

        Raises
        ------
        HostError
            The network is closed.
        """
        if self._engine is None:
            raise HostError("the network is closed: its machines are gone; offload it again")
        return self._engine

    @property
    def records(self) -> bool:
        """Whether the engine records."""
        return isinstance(self._engine, Recorder)

    def record(self, parts: Mapping[str, Network]) -> Recorder:
        """Record what the parts get; returns the new recorder."""
        self._engine = recorder = Recorder(parts)
        return recorder

    def compute(self, parts: Mapping[str, Network], compiled: Mapping[str, CompiledNetwork], backend: str) -> None:
        """Compute on machines, or in floating point if nothing is compiled."""
        if not compiled:
            self._engine = Engine(parts, float_runners(parts))
            return
        with ExitStack() as stack:
            self._machines = {name: [MachineRunner(machine) for machine in stack.enter_context(part.machines(backend))]
                              for name, part in compiled.items()}
            self._finish = weakref.finalize(self, stack.pop_all().close)
        self._engine = Engine(parts, self._machines)

    def call(self, name: str, x: ArrayLike, lengths: ArrayLike | None = None,
             initial: Sequence[State] | None = None) -> tuple[FloatArray, tuple[State, ...]]:
        """As `Engine.call`."""
        result = self.engine.call(name, x, lengths, initial)
        clamped = sum(runner.input_saturations for runner in self._machines.get(name, ()))
        if clamped and name not in self._told:
            self._told.add(name)
            warnings.warn(f"{name}: {clamped:,} numbers of its inputs and initial states do not fit the number formats "
                          f"and are clamped; calibrate on inputs that are as large. A state h that begins outside of "
                          f"-1..1 never fits", stacklevel=2)
        return result

    def close(self) -> None:
        """Close the machines. The simulators also end when no layer is left that calls them."""
        self._engine = None
        self._finish()

    def __deepcopy__(self, memo: Any) -> "Switch":
        return self


@dataclass
class Taken:
    """A network whose LSTMs and GRUs are taken out.

    Attributes
    ----------
    network : object
        A copy of the user's network, with a layer that calls a `Switch` in place of every LSTM or GRU.
    parts : dict of str to `Network`
        In floating point, by the names that the layers call.
    items : list of `Item`
        Every layer of the network with its place.
    run : callable
        Calls ``network`` once with what the user gave for calibration.
    recording : callable
        A context around the calibration.
    settle : callable
        Called after the calibration: corrects ``parts`` and ``items`` by what ran, and tells whether ``parts`` changed.
    """

    network: Any
    parts: dict[str, Network]
    items: list[Item]
    run: Callable[[Any], Any]
    recording: Callable[[], AbstractContextManager[Any]] = nullcontext
    settle: Callable[[], bool] = bool


@dataclass(eq=False)
class Offloaded:
    """A network whose LSTMs and GRUs a machine computes. It answers to all that the network itself answers to.

    Close it, or use it as a context manager, to end the simulators of ``backend="sim"``. They also end with
    ``network``.

    Attributes
    ----------
    network : object
        The copy of the network: for functions that look at its type.
    machine : `Config`
    backend : str
    networks : dict of str to `Network`
        What is computed for each part, in floating point and pruned.
    parts : dict of str to `CompiledNetwork`
        The same packed for the machine, each with its ``summary``. Empty for the backend ``"float"``.
    items : tuple of `Item`
        Every layer of the network with its place.
    """

    network: Any
    machine: Config
    backend: str
    networks: dict[str, Network]
    parts: dict[str, CompiledNetwork]
    items: tuple[Item, ...]
    close: Callable[[], None] = field(repr=False)

    @property
    def report(self) -> str:
        """The places of all layers, and the figures of each part."""
        layers = [item for item in self.items if item.kind != "weight"]
        widths = [max((len(text) for text in column), default=0)
                  for column in zip(*((item.name, item.kind, item.place) for item in layers), strict=True)]
        lines = ["  ".join([*map(str.ljust, (item.name, item.kind, item.place), widths), item.detail]).rstrip()
                 for item in layers]
        for name, part in self.networks.items():
            models = [direction.model for direction in part.directions]
            density = sum(model.nonzeros for model in models) / sum(model.weights for model in models)
            line = f"part {name}: {part.inputs} -> {part.outputs}, density {100 * density:.1f} %"
            compiled = self.parts.get(name)
            if compiled is not None and compiled.error is not None:
                relative = compiled.error.rms_error / max(compiled.error.rms_output, 1e-30)
                line += f", error {100 * relative:.2g} % of its outputs on {self.machine.name}"
            lines.append(line)
        return "\n".join(lines)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "network":
            raise AttributeError(name)
        return getattr(self.network, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in Offloaded.__dataclass_fields__:
            object.__setattr__(self, name, value)
        else:
            setattr(self.network, name, value)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self.network(*arguments, **named)

    def __enter__(self) -> "Offloaded":
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()


def offload(module: Any, machine: str | Config, *, calibrate: Any, density: Density | None = None,
            backend: str = "reference", carry: Mapping[str, str] | None = None, dense: str = "machine") -> Offloaded:
    """Let a machine compute the LSTMs, GRUs and dense layers of a network; all else stays in its framework.

    The network itself does not change. What comes back behaves as the network, so that your own evaluation tells the
    accuracy on the machine. Layers that the machine cannot compute stay in the framework, and the ``report`` names
    them.

    Parameters
    ----------
    module : torch.nn.Module, keras.Model, or path
        A PyTorch network is copied and set to evaluation mode. Its ``nn.LSTM``, ``nn.GRU``, their cells and `LSTMP`
        compute on the machine, without gradients. A Keras network is copied, and its layers with such cells compute on
        the machine. For an ONNX file the result has ``run``, ``get_inputs`` and ``get_outputs`` of onnxruntime's
        ``InferenceSession``.
    machine : str or `Config`
    calibrate : array, tensor, tuple, dict, list, or callable
        The input of the network on which number formats are chosen: one array or tensor, a tuple of arguments, or a
        dict of named ones. A list has several calls in order; a state that one call returns and the next one gets
        joins them to one sequence. A callable gets the network and runs it: ``lambda net: evaluate(net, loader)``.
    density : float or mapping, optional
        As for `openese.prune`; without it nothing is pruned, and zeros of the weights stay zeros. Layers of PyTorch
        have the names that `Pruner` gives them.
    backend : str
        ``"reference"``, ``"sim"`` (the Verilog in Verilator), or ``"float"``, which prunes but has no integers.
    carry : mapping of str to str, optional
        For a file: outputs that are inputs of the next call, when ``calibrate`` is a list. An input that is carried
        need only be in the first call.
    dense : str
        ``"machine"``: a machine with dense layers computes each ``nn.Linear`` or Keras ``Dense`` too, as a part of its
        own. It computes those of an ``nn.Sequential`` together that follow each other, each perhaps with ReLU, a
        sigmoid or tanh behind it. Of a file as for `openese.compile`. ``"host"``: they stay in the framework.

    Returns
    -------
    Offloaded

    Raises
    ------
    ValueError
        Naming what the network has that cannot be offloaded, or what the machine lacks.
    """
    config = machine_config(machine)
    cells = without_dense(config, dense)
    if backend not in _BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(_BACKENDS)}, not {backend!r}")
    switch = Switch()
    taken = _take(module, switch, carry, cells)
    _check_parts(taken)
    parts, recorder = _recorded(taken, switch, calibrate, density, config)
    unused = [name for name in parts if not recorder.reached(name)]
    if unused:
        warnings.warn(f"calibrate gives {', '.join(unused)} no input but zeros: number formats there are a guess; give "
                      f"inputs that use all of them", stacklevel=2)
    compiled = {} if backend == "float" else pack_parts(quantize_parts(recorder, config))
    switch.compute(parts, compiled, backend)
    return Offloaded(taken.network, config, backend, parts, compiled, tuple(taken.items), switch.close)


def _take(module: Any, switch: Switch, carry: Mapping[str, str] | None, machine: Config) -> Taken:
    if isinstance(module, (str, os.PathLike)):
        host = open_host(module, machine=machine)
        if host is None:
            raise HostError(f"{Path(module).name}: has tensors, but no graph that says how they are used; build the "
                            f"network in its framework, load the tensors, and offload that")
        return _taken_host(host, switch, dict(carry or {}))
    taken = _taken_live(module, switch, machine)
    if taken is None:
        raise TypeError(f"expected a torch.nn.Module, a keras.Model or the path of an ONNX file, not "
                        f"{type(module).__name__}")
    if carry:
        raise HostError("carry is for files; for a network in memory give calibrate a function that passes the states "
                        "on")
    return taken


def _taken_live(module: Any, switch: Switch, machine: Config) -> Taken | None:
    """The network of a framework that is loaded already; none of them is imported in vain."""
    keras, torch = sys.modules.get("keras"), sys.modules.get("torch")
    if keras is not None and isinstance(module, keras.Layer):  # also a torch.nn.Module, where Keras runs on PyTorch
        return _taken_keras(module, switch, machine)
    if torch is not None and isinstance(module, torch.nn.Module):
        from openese.sw.whole import torch_layers
        return torch_layers.take(module, switch, machine)
    return None


def _taken_keras(model: Any, switch: Switch, machine: Config) -> Taken:
    from openese.sw.whole import keras_layers
    copied = keras_layers.copy_model(model)
    layers = keras_layers.replace(copied, like=model, machine=machine)
    layers.engine = switch
    inputs_as_one = type(model).__name__ in ("Functional", "Sequential")  # they take all inputs as one argument

    def run(inputs: Any) -> Any:
        if inputs_as_one:
            several = list(inputs.values()) if isinstance(inputs, Mapping) else inputs
            if isinstance(several, (list, tuple)):
                inputs = several[0] if len(several) == 1 else inputs if isinstance(inputs, Mapping) else list(several)
            return copied(inputs)
        if isinstance(inputs, Mapping):
            return copied(**inputs)
        return copied(*inputs) if isinstance(inputs, tuple) else copied(inputs)

    return Taken(copied, dict(layers.parts), list(layers.items), run)


def _recorded(taken: Taken, switch: Switch, calibrate: Any, density: Density | None, config: Config
              ) -> tuple[dict[str, Network], Recorder]:
    """The pruned parts and what they got in the calibration."""
    for _ in range(3):
        parts = taken.parts if density is None else prune_parts(taken.parts, density, config)
        recorder = switch.record(parts)
        with taken.recording():
            if callable(calibrate):
                calibrate(taken.network)
            else:
                for call in calibrate if isinstance(calibrate, list) else [calibrate]:
                    taken.run(call)
        if not taken.settle():
            return parts, recorder
        _check_parts(taken)
    raise HostError("the weights of a layer change from call to call, so no image can hold them")


def _check_parts(taken: Taken) -> None:
    if not taken.parts:
        raise HostError(f"the network has no LSTM or GRU that the machine can compute: {why_no_parts(taken.items)}")


class Argument(NamedTuple):
    """An input or output, as onnxruntime's ``NodeArg``."""

    name: str
    type: str
    shape: list[int | str | None]


_ONNX_TYPES = {"float32": "float", "float64": "double", "str": "string"}


class Session:
    """A file on a machine, with the interface of onnxruntime's ``InferenceSession``.

    Parameters
    ----------
    host : `Host`
    switch : `Switch`
    """

    def __init__(self, host: Host, switch: Switch) -> None:
        self._host = host
        self._switch = switch

    def run(self, output_names: Sequence[str] | None, input_feed: Mapping[str, ArrayLike],
            run_options: Any = None) -> list[NDArray[Any]]:
        """The outputs in the order of their names; None is all.

        Raises
        ------
        HostError
            Inputs do not fit, an output is unknown, or the network is closed.
        """
        outputs = self._host.run(input_feed, self._switch.engine)
        for name in output_names or ():
            if name not in outputs:
                raise HostError(f"{name!r} is no output of the network; its outputs are {', '.join(outputs)}")
        return [outputs[name] for name in output_names or outputs]

    def get_inputs(self) -> list[Argument]:
        """All inputs."""
        return [_argument(port) for port in self._host.inputs]

    def get_outputs(self) -> list[Argument]:
        """All outputs."""
        return [_argument(port) for port in self._host.outputs]


def _argument(port: Port) -> Argument:
    return Argument(port.name, f"tensor({_ONNX_TYPES.get(port.type, port.type)})", list(port.shape or ()))


def _taken_host(host: Host, switch: Switch, carry: dict[str, str]) -> Taken:
    session = Session(host, switch)
    carried: dict[str, Any] = {}

    def run(inputs: Any) -> None:
        if not isinstance(inputs, Mapping):
            if len(host.inputs) != 1:
                raise HostError(f"the network has the inputs {', '.join(port.text() for port in host.inputs)}; give "
                                f"calibrate a dict with all of them by name")
            inputs = {host.inputs[0].name: np.asarray(inputs)}
        names = [port.name for port in host.outputs]
        for name in carry:
            if name not in names:
                raise HostError(f"carry: {name!r} is no output of the network; its outputs are {', '.join(names)}")
        outputs = dict(zip(names, session.run(names, {**inputs, **carried}), strict=True))
        carried.update({given: outputs[name] for name, given in carry.items()})

    return Taken(session, dict(host.parts), list(host.items), run)
