# SPDX-License-Identifier: Apache-2.0
"""Files of PyTorch that are programs: TorchScript, ``torch.export`` and pickled networks.

To load such a file is to run code from it, so it is opened only if the user trusts it. PyTorch's own exporters then
write it as ONNX. What they write is compared with the program itself, on other numbers and other sizes than those that
it was exported with.
"""

import inspect
import io
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from openese.rtl.config import Config
from openese.sw.importers import find
from openese.sw.importers.base import ImportRefused, require, zip_members
from openese.sw.importers.torch_archive import Stub, read_archive
from openese.sw.whole.host import Host
from openese.sw.whole.onnx_operator import PlainSession

__all__ = ["Inputs", "open_program", "program", "quiet", "without_trust"]

#: The inputs of one call: by name, or the array of a network of one input.
Inputs = Mapping[str, ArrayLike] | NDArray[Any]

_SCRIPT, _EXPORTED, _PICKLED = "TorchScript program", "program of torch.export", "pickled network"
_OPSET = 17
_RELATIVE = 1e-4  # error of an exported network by the largest number of an output
_NESTED = 4
_TOGETHER = 6  # axes of inputs that change their size together


def program(path: Path) -> str | None:
    """The kind of program in a file of PyTorch; None for another file. Nothing of the file is run.

    Raises
    ------
    ImportRefused
        The file is damaged.
    OSError
        The file cannot be read.
    """
    members = zip_members(path)
    inner = {name.partition("/")[2] for name in members}
    if "constants.pkl" in inner and any(name.startswith("code/") for name in inner):
        return _SCRIPT
    if "models/model.json" in inner or "serialized_exported_program.json" in {*members, *inner}:
        return _EXPORTED
    if find(path).name == "PyTorch" and any(_pickled(read_archive(path))):
        return _PICKLED
    return None


def without_trust(kind: str) -> str:
    """What a message says about a `program` that is not run."""
    return "" if kind == _EXPORTED else ". --select takes its LSTMs alone and runs nothing"


def _pickled(value: Any, depth: int = 0) -> Iterator[Stub]:
    """The networks among pickled objects."""
    if isinstance(value, Stub) and "_modules" in value.state:
        yield value
    elif isinstance(value, Mapping) and depth < _NESTED:
        for held in value.values():
            yield from _pickled(held, depth + 1)
    elif isinstance(value, (list, tuple)) and depth < _NESTED:
        for held in value:
            yield from _pickled(held, depth + 1)


class _Leaf(NamedTuple):
    """A tensor among arguments or outputs: its name, and the way to it."""

    name: str
    tensor: Any


def open_program(path: Path, examples: Sequence[Inputs], machine: Config | None = None) -> Host:
    """Run a program, export it as ONNX, and open that.

    Parameters
    ----------
    path : path
        A file that the user trusts.
    examples : sequence of mapping of str to array, or array
        The network's inputs by the names of the parameters of its ``forward``, to be tried in this order. The tensors
        of a parameter that is a tuple are ``name.0``, ``name.1``.
    machine : Config, optional
        Layers of which it has no cells stay with the host.

    Raises
    ------
    ImportRefused
        The file cannot be loaded, the inputs do not fit, or neither exporter writes the network as it is.
    """
    torch = require("torch", "train", "programs of PyTorch")
    given = None  # an example that is in the file
    with quiet():
        try:
            kind = program(path)
            if kind == _SCRIPT:
                network = torch.jit.load(path, map_location="cpu").eval()
            elif kind == _EXPORTED:
                exported = torch.export.load(path)
                network, given = _module(exported), exported.example_inputs
            else:
                network = _only_network(path)
        except ImportRefused:
            raise
        except Exception as error:
            raise ImportRefused(f"{path.name}: PyTorch does not load it ({_line(error)}); load it in the program that "
                                f"saved it, and use openese.offload there") from None
    if not hasattr(network, "forward"):
        raise ImportRefused(f"{path.name}: the program has no method 'forward', so nothing says what it takes; save a "
                            f"module that calls it")
    if given is not None:
        examples = examples or [_named(network, *given)]
    if not examples:
        raise ImportRefused(f"{path.name}: PyTorch needs an example of the inputs ({', '.join(_parameters(network))}) "
                            f"to export the program; give --calibrate INPUTS (calibrate=)")
    for number, example in enumerate(examples):
        try:
            flat = _Flat.around(network, example, path.name, () if given is None else tuple(given[1]))
            break
        except ImportRefused:
            if number == len(examples) - 1:
                raise
    with tempfile.TemporaryDirectory(prefix="openese-") as folder:
        file = Path(folder) / f"{path.stem}.onnx"
        with quiet():
            _export(flat, file, path.name)
        from openese.sw.whole.onnx_host import open_file
        host = open_file(file, machine=machine)
        host.load_original()
        return host


def _module(exported: Any) -> Any:
    """The module of a program of ``torch.export``, its cells as layers of one step."""
    import torch

    kernels = {torch.ops.aten.lstm_cell.default: _cell, torch.ops.aten.gru_cell.default: _gru_cell}
    module = exported.module()
    for node in module.graph.nodes:
        if node.op == "call_function" and node.target in kernels:
            node.target = kernels[node.target]
    module.recompile()
    module.train = module.eval = lambda mode=True: module  # it has one mode, and refuses to be told
    return module


def _only_network(path: Path) -> Any:
    """The network that a pickle holds, its cells as layers of one step."""
    import torch

    found: dict[int, Any] = {}

    def visit(value: Any, depth: int = 0) -> None:
        if isinstance(value, torch.nn.Module):
            found[id(value)] = value
        elif isinstance(value, (Mapping, list, tuple)) and depth < _NESTED:
            for held in value.values() if isinstance(value, Mapping) else value:
                visit(held, depth + 1)

    visit(torch.load(path, map_location="cpu", weights_only=False))
    networks = [value for value in found.values() if next(value.parameters(), None) is not None]
    if len(networks) != 1:
        kinds = ", ".join(type(value).__name__ for value in networks) or "none"
        raise ImportRefused(f"{path.name}: has {len(networks)} networks ({kinds}); save one of them alone: "
                            f"torch.save(network, path)")
    network = networks[0].eval()
    network = network.module if isinstance(network, torch.nn.DataParallel) else network
    for name, module in network.named_modules():
        if type(module).forward is torch.nn.LSTMCell.forward:
            module.forward = partial(_one_step, module)
        elif type(module).forward is torch.nn.GRUCell.forward:
            module.forward = partial(_one_gru_step, module)
        if isinstance(module, torch.nn.LSTM) and module.proj_size:
            raise ImportRefused(f"{path.name}: {name or 'the LSTM'} has projections (proj_size), which an LSTM of ONNX "
                                f"does not have; use openese.offload in Python")
    return network


def _named(network: Any, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Example arguments as inputs by name."""
    given = {**dict(zip(_parameters(network), arguments, strict=False)), **keywords}
    return {leaf.name: leaf.tensor.numpy() for name, value in given.items() if value is not None
            for leaf in _flatten(value, name)}


def _cell(x: Any, hidden: Any, *weights: Any) -> Any:
    """The kernel ``lstm_cell`` by the kernel ``lstm``: the exporters write the operations of a cell one by one."""
    import torch

    given = [weight for weight in weights if weight is not None]
    _, h, c = torch.lstm(x[None], tuple(state[None] for state in hidden), given, len(given) > 2, 1, 0.0, False, False,
                         False)
    return h[0], c[0]


def _one_step(cell: Any, input: Any, hx: Any = None) -> Any:
    """The forward pass of ``nn.LSTMCell`` with `_cell`."""
    one = input.dim() == 1
    x = input[None] if one else input
    if hx is None:
        hx = (x.new_zeros(x.shape[0], cell.hidden_size),) * 2
    states = [state[None] if one else state for state in hx]
    h, c = _cell(x, states, cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh)
    return (h[0], c[0]) if one else (h, c)


def _gru_cell(x: Any, hidden: Any, *weights: Any) -> Any:
    """The kernel ``gru_cell`` by the kernel ``gru``."""
    import torch

    given = [weight for weight in weights if weight is not None]
    return torch.gru(x[None], hidden[None], given, len(given) > 2, 1, 0.0, False, False, False)[1][0]


def _one_gru_step(cell: Any, input: Any, hx: Any = None) -> Any:
    """The forward pass of ``nn.GRUCell`` with `_gru_cell`."""
    one = input.dim() == 1
    x = input[None] if one else input
    if hx is None:
        hx = x.new_zeros(x.shape[0], cell.hidden_size)
    h = _gru_cell(x, hx[None] if hx.dim() == 1 else hx, cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh)
    return h[0] if one else h


def _parameters(network: Any) -> dict[str, Any]:
    """The parameters of ``forward``, with their defaults."""
    schema = getattr(network.forward, "schema", None)
    if schema is not None:
        return {argument.name: argument.default_value if argument.has_default_value() else inspect.Parameter.empty
                for argument in schema.arguments[1:]}
    return {name: parameter.default for name, parameter in inspect.signature(network.forward).parameters.items()
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)}


def _nested(name: str, given: Mapping[str, Any]) -> Any:
    """The value of a parameter: a tensor, or a tuple of the tensors that ``name.0``, ``name.1``, ... name."""
    if name in given:
        return given[name]
    parts = {key[len(name) + 1:].partition(".")[0] for key in given if key.startswith(f"{name}.")}
    return tuple(_nested(f"{name}.{part}", given) for part in sorted(parts, key=lambda part: (len(part), part)))


def _flatten(value: Any, name: str = "") -> Iterator[_Leaf]:
    """The tensors in outputs by name: keys of a dict, fields, or ``output``, ``output.0``, ``output.1``."""
    import torch

    if isinstance(value, torch.Tensor):
        yield _Leaf(name or "output", value)
        return
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        for key, held in value.items():
            yield from _flatten(held, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (list, tuple)):
        for number, held in enumerate(value):
            yield from _flatten(held, f"{name or 'output'}.{number}")
    elif value is not None:
        raise ImportRefused(f"output {name or 'output'!r} is of type {type(value).__name__}, not a tensor")


class _Flat:
    """A network as a function from tensors to tensors, each with a name.

    ``module`` and ``arguments`` are what an exporter takes. ``python`` is False for TorchScript, which only one reads;
    ``exported`` is True for a program of ``torch.export``.
    """

    def __init__(self, network: Any, example: dict[str, Any], keywords: Sequence[str]) -> None:
        import torch

        self.module, self.example, self._keywords = network, example, keywords
        self.exported = isinstance(network, torch.fx.GraphModule)  # checks its arguments before its forward pass
        self._parameters, self._forward = _parameters(network), network if self.exported else network.forward
        with torch.no_grad():
            names = [leaf.name for leaf in _flatten(self._call(example))]
        self.outputs = [f"{name}.next" if name in example else name for name in names]  # ONNX has one space of names
        self.python = not isinstance(network, torch.jit.ScriptModule)
        if self.exported:
            self.module = torch.nn.Module()
            self.module.network = network
        if self.python:
            self.module.forward = self._on_tensors

    def _on_tensors(self, *tensors: Any) -> tuple[Any, ...]:
        outputs = self._call(dict(zip(self.example, tensors, strict=True)))
        return tuple(leaf.tensor for leaf in _flatten(outputs))

    def _called(self, tensors: Mapping[str, Any]) -> list[Any]:
        """The arguments of a call by position, up to the last that is given."""
        names = list(self._parameters)
        given = {key.partition(".")[0] for key in tensors}
        names = names[:1 + max((names.index(name) for name in given), default=-1)]
        return [_nested(name, tensors) if name in given else self._parameters[name] for name in names]

    def _call(self, tensors: Mapping[str, Any]) -> Any:
        by_name = {name: _nested(name, tensors) for name in self._keywords}
        return self._forward(*self._called({name: tensor for name, tensor in tensors.items()
                                            if name.partition(".")[0] not in by_name}), **by_name)

    def arguments(self, tensors: Mapping[str, Any]) -> tuple[Any, ...]:
        """What the module takes for these tensors."""
        return tuple(tensors.values()) if self.python else tuple(self._called(tensors))

    @classmethod
    def around(cls, network: Any, inputs: Inputs, file: str, keywords: Sequence[str] = ()) -> "_Flat":
        """Give a network the inputs of a call. Parameters in ``keywords`` can only be given by name.

        Raises
        ------
        ImportRefused
            A name is missing or unknown, or the network does not take the inputs.
        """
        import torch

        parameters = _parameters(network)
        known = ", ".join(parameters)
        if not isinstance(inputs, Mapping):
            needed = [name for name, default in parameters.items() if default is inspect.Parameter.empty]
            if len(needed) != 1:
                raise ImportRefused(f"{file}: the network has the inputs {known}; give them by name")
            inputs = {needed[0]: inputs}
        for name in inputs:
            if name.partition(".")[0] not in parameters:
                raise ImportRefused(f"{file}: {name!r} is no input of the network; its inputs are {known}")
        for name, default in parameters.items():
            if default is inspect.Parameter.empty and not any(key.partition(".")[0] == name for key in inputs):
                raise ImportRefused(f"{file}: the input {name} is missing; the tensors of a tuple are {name}.0, "
                                    f"{name}.1")
        own = next((weight.dtype for weight in network.parameters() if weight.is_floating_point()), torch.float32)
        example = {}
        for name in sorted(inputs, key=lambda name: list(parameters).index(name.partition(".")[0])):
            tensor = torch.from_numpy(np.array(inputs[name]))
            example[name] = tensor.to(own) if tensor.is_floating_point() else tensor
        try:
            with quiet():
                return cls(network, example, keywords)
        except ImportRefused as error:
            raise ImportRefused(f"{file}: {error}") from None
        except Exception as error:
            raise ImportRefused(f"{file}: the network does not take these inputs ({_line(error)})") from None

    def run(self, tensors: Mapping[str, Any]) -> list[NDArray[Any]]:
        """The outputs for other inputs."""
        import torch

        with torch.no_grad():
            outputs = self._call({name: value.clone() for name, value in tensors.items()})
            return [leaf.tensor.float().numpy() if leaf.tensor.dtype == torch.bfloat16 else leaf.tensor.numpy()
                    for leaf in _flatten(outputs)]


_Axis = tuple[str, int]
_Sizes = Callable[[int], int]


def _resized(tensors: Mapping[str, Any], axes: Sequence[_Axis], size: _Sizes) -> dict[str, Any]:
    """The tensors with other sizes of some axes, filled by what they have."""
    import torch

    changed = dict(tensors)
    for name, axis in axes:
        old = changed[name].shape[axis]
        changed[name] = changed[name].index_select(axis, torch.arange(size(old)) % old)
    return changed


def _export(flat: _Flat, file: Path, name: str) -> None:
    """Write a network as ONNX, by the first exporter that writes it as it is.

    Raises
    ------
    ImportRefused
        None does; with the first reason.
    """
    reasons = []
    exporters = (_by_trace, _by_dynamo) if flat.python else (_by_trace,)
    # A trace fixes sizes that a program of torch.export leaves open.
    for exporter in reversed(exporters) if flat.exported else exporters:
        try:
            exporter(flat, file)
            _settle(flat, file)
            return
        except Exception as error:
            reasons.append(_line(error))
    raise ImportRefused(f"{name}: PyTorch cannot write it as ONNX ({reasons[0]}); use openese.offload in Python")


def _by_trace(flat: _Flat, file: Path) -> None:
    import torch

    axes = {name: {axis: f"{name}.{axis}" for axis in range(tensor.dim())} for name, tensor in flat.example.items()}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.onnx.export(flat.module, flat.arguments(flat.example), file, dynamo=False, opset_version=_OPSET,
                          input_names=list(flat.example), output_names=flat.outputs, dynamic_axes=axes)
    own = Path(torch.__file__).parent
    for warning in caught:
        if issubclass(warning.category, torch.jit.TracerWarning) and own not in Path(warning.filename).parents:
            raise ValueError(f"{Path(warning.filename).name} line {warning.lineno}: {warning.message}")


def _by_dynamo(flat: _Flat, file: Path) -> None:
    import torch

    axes = tuple({axis: torch.export.Dim.AUTO for axis in range(tensor.dim())} for tensor in flat.example.values())
    torch.onnx.export(flat.module, flat.arguments(flat.example), file, dynamo=True, verbose=False, external_data=False,
                      input_names=list(flat.example), output_names=flat.outputs, dynamic_shapes={"tensors": axes})


def _settle(flat: _Flat, file: Path) -> None:
    """Find the axes of the inputs that may have other sizes in ONNX, and fix all others.

    A size is tried in onnxruntime first, and not in PyTorch where it has no effect: PyTorch reads beyond its memory for
    states of a wrong size. TorchScript has no checks at all, so with several inputs it keeps the sizes of the example.

    Raises
    ------
    ValueError
        The exported network differs from the program.
    """
    onnx = require("onnx", "onnx", "whole networks")
    session = PlainSession(str(file), file.stem)
    missing = flat.example.keys() - session.types.keys()
    if missing:
        raise ValueError(f"input {min(missing)!r} does not reach an output")

    def check(tensors: Mapping[str, Any]) -> list[NDArray[Any]]:
        found = list(session.run({name: tensor.numpy() for name, tensor in tensors.items()}).values())
        if at_first and all(np.array_equal(ours, before) for ours, before in zip(found, at_first, strict=True)):
            raise ValueError("these sizes have no effect in ONNX")
        for name, ours, theirs in zip(flat.outputs, found, flat.run(tensors), strict=True):
            _compare(name, ours, theirs)
        return found

    at_first: list[NDArray[Any]] = []
    checked = check(flat.example)
    for factor in (-1.0, 0.5):  # a branch that depends on numbers would show
        check({name: tensor * factor if tensor.dtype.is_floating_point else tensor
               for name, tensor in flat.example.items()})
    at_first.extend(checked)
    several = len(flat.example) > 1
    groups = {} if several and not flat.python else _free_axes(flat.example, check)
    wide = flat.example
    for group, size in groups.items():
        wide = _resized(wide, group, size)
    model = onnx.load(file)
    at_last = checked
    if groups:
        at_last = check(wide)
    names = {axis: f"size{number}" for number, group in enumerate(groups) for axis in group}
    for port in model.graph.input:
        for axis, (size, place) in enumerate(zip(flat.example[port.name].shape, port.type.tensor_type.shape.dim,
                                                 strict=True)):
            place.Clear()
            if (port.name, axis) in names:
                place.dim_param = names[port.name, axis]
            else:
                place.dim_value = size
    for port, first, last in zip(model.graph.output, at_first, at_last, strict=True):
        del port.type.tensor_type.shape.dim[:]
        for axis, (size, other) in enumerate(zip(first.shape, last.shape, strict=True)):
            place = port.type.tensor_type.shape.dim.add()
            if size == other:
                place.dim_value = size
            else:
                place.dim_param = f"{port.name}.{axis}"
    onnx.save(model, file)


def _free_axes(example: Mapping[str, Any], check: Callable[[Mapping[str, Any]], Any]
               ) -> dict[tuple[_Axis, ...], _Sizes]:
    """Axes that may have other sizes, with one of these; those that change together are a group."""
    by_size: dict[int, list[_Axis]] = {}
    for name, tensor in example.items():
        for axis, size in enumerate(tensor.shape):
            by_size.setdefault(size, []).append((name, axis))
    found: dict[tuple[_Axis, ...], _Sizes] = {}

    def attempt(group: tuple[_Axis, ...], size: int) -> _Sizes | None:
        """A larger size that fits, if a smaller one fits too."""
        fitting: list[_Sizes] = []
        for changes in _other_sizes(size):
            change = next((change for change in changes if _fits(check, _resized(example, group, change))), None)
            if change is None:
                return None
            fitting.append(change)
        return fitting[0]

    for size, axes in by_size.items():
        left = list(axes)
        for count in range(1, min(len(axes), _TOGETHER) + 1):  # a group has no axis that it does not need
            for group in combinations(axes, count):
                change = attempt(group, size) if size and set(group) <= set(left) else None
                if change is not None:
                    left = [axis for axis in left if axis not in group]
                    found[group] = change
    return found


def _other_sizes(size: int) -> list[list[_Sizes]]:
    """One more or twice as many; and one less or half as many, if that leaves any."""
    more: list[_Sizes] = [lambda old: old + 1, lambda old: 2 * old]
    less: list[_Sizes] = [lambda old: old - 1, lambda old: old // 2]
    return [more, less] if size > 1 else [more]


def _fits(check: Callable[[Mapping[str, Any]], Any], tensors: Mapping[str, Any]) -> bool:
    try:
        check(tensors)
    except Exception:
        return False
    return True


def _compare(name: str, ours: NDArray[Any], theirs: NDArray[Any]) -> None:
    """Raises ValueError if an output of an exported network is not the program's."""
    if ours.shape != theirs.shape:
        raise ValueError(f"output {name!r} has the shape {ours.shape} in ONNX, and {theirs.shape} in PyTorch")
    if theirs.dtype.kind == "f":
        finite = theirs[np.isfinite(theirs)]
        bound = _RELATIVE if theirs.dtype.itemsize > 2 else 100 * _RELATIVE
        same = np.allclose(ours, theirs, rtol=0, atol=bound * max(float(np.abs(finite).max(initial=0)), 1e-6),
                           equal_nan=True)
    else:
        same = np.array_equal(ours, theirs)
    if not same:
        raise ValueError(f"output {name!r} has other numbers in ONNX than in PyTorch")


def _line(error: BaseException) -> str:
    """The first sentence of an error."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "").partition(". ")[0]
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """Without what PyTorch prints, warns and logs, from C++ too."""
    before = logging.root.manager.disable
    sys.stdout.flush()
    kept = [os.dup(number) for number in (1, 2)]
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        logging.disable(logging.ERROR)
        for number in (1, 2):
            os.dup2(nothing, number)
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        for number, old in zip((1, 2), kept, strict=True):
            os.dup2(old, number)
            os.close(old)
        os.close(nothing)
