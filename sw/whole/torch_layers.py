# SPDX-License-Identifier: Apache-2.0
"""PyTorch networks with their LSTMs and GRUs on a machine, and their linear layers if it has dense layers.

PyTorch's own layer goes on checking inputs, packing sequences and ordering states. Only its kernel, ``lstm``, ``gru``
or that of a cell, is replaced by a call of the machine, so every feature of the layer stays what it is.

Each ``nn.Linear`` is a part, which computes every vector for itself. In an ``nn.Sequential`` the linear layers that
follow each other are one part, with the ReLU, sigmoid or tanh behind each.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from openese.rtl.config import Config
from openese.sw.importers.tensors import TensorSource, stored
from openese.sw.model.layers import DENSE, GRU, LSTM, CellKind, Layer, Model
from openese.sw.model.network import Network
from openese.sw.model.quantized import unsupported
from openese.sw.model.state import LayerState, State
from openese.sw.training.lstmp import LSTMP
from openese.sw.training.lstmp import State as TensorState
from openese.sw.training.pruner import is_dense, root_name
from openese.sw.whole.host import HostError, Item
from openese.sw.whole.offload import Switch, Taken

__all__ = ["take"]

_RECURRENT = re.compile(r"LSTM|GRU|RNN")
#: The names of PyTorch's kernels, by kind of cell.
_KERNELS = {LSTM: ("lstm", "lstm_cell"), GRU: ("gru", "gru_cell")}
#: The functions of dense layers.
_FUNCTIONS: dict[type[nn.Module], str] = {nn.ReLU: "relu", nn.Sigmoid: "sigmoid", nn.Tanh: "tanh"}
_NAMES = {name for names in _KERNELS.values() for name in names}


class _NoGradient(torch.autograd.Function):
    """Tensors that a machine computed: nothing can be trained through them."""

    @staticmethod
    def forward(ctx: Any, compute: Callable[[], tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
        return compute()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise HostError("a machine has no gradients: train the original network, and offload it again")


class _Link:
    """What a layer on a machine knows: its part, the switch, and the weights that the part holds."""

    def __init__(self, name: str, switch: Switch, weights: Sequence[Tensor],
                 part: Callable[[Sequence[Tensor]], Network]) -> None:
        self.name = name
        self.switch = switch
        self.part = part
        self.runs = self.computes = False  # whether its forward pass ran, and its kernel
        self.used: list[Tensor] | None = None  # other weights than the part's, met in the calibration
        self.keep(weights)

    def keep(self, weights: Sequence[Tensor]) -> None:
        """Take ``weights`` as those of the part."""
        self._weights = [weight.detach().cpu().clone() for weight in weights]
        self._seen: Any = None

    def check(self, weights: Sequence[Tensor]) -> None:
        """See that the layer still has the weights of its part.

        Raises
        ------
        HostError
            The weights have changed since the network was offloaded.
        """
        self.computes = True
        seen = [(weight.data_ptr(), weight._version, weight.dtype) for weight in weights]
        if seen == self._seen:
            return
        if [weight.shape for weight in weights] != [kept.shape for kept in self._weights]:
            raise HostError(f"{self.name}: it computes a layer with other weights than its own, which cannot be "
                            f"offloaded")
        same = all(torch.equal(weight.detach().cpu(), kept.to(weight.dtype))
                   for weight, kept in zip(weights, self._weights, strict=True))
        if same:
            self._seen = seen
        elif self.switch.records:
            self.used = [weight.detach().cpu().clone() for weight in weights]
        else:
            raise HostError(f"{self.name}: the weights have changed since the network was offloaded; offload it again")

    def call(self, x: Tensor, lengths: Tensor | None, states: tuple[State, ...], dtype: torch.dtype
             ) -> tuple[Tensor, tuple[State, ...]]:
        """Outputs (T, B, P) of x (T, B, I), on its device; and the states."""
        self._check_runs()
        y, after = self.switch.call(self.name, _array(x), None if lengths is None else lengths.numpy(), states)
        return torch.from_numpy(y).to(x.device, dtype), after

    def dense(self, x: Tensor, layers: Sequence[Any]) -> Tensor:
        """Outputs (..., P) of x (..., I) behind linear layers."""
        weights = [weight for layer in layers for weight in _weights(layer)]
        self.runs = True
        self.check(weights)
        self._check_runs()
        if not x.numel():
            return x.new_zeros(*x.shape[:-1], layers[-1].out_features)

        def compute() -> tuple[Tensor, ...]:
            return torch.from_numpy(self.switch.call_dense(self.name, _array(x))).to(x.device, _result_type(x)),

        result: tuple[Tensor, ...] = _NoGradient.apply(compute, x, *weights)
        return result[0]

    def _check_runs(self) -> None:
        if torch.jit.is_tracing() or torch.compiler.is_compiling():
            raise HostError(f"{self.name}: a layer on a machine cannot be traced or exported; export the original "
                            f"network")


def _array(values: Tensor) -> Any:
    values = values.detach().cpu()
    return (values if values.dtype == torch.float64 else values.float()).numpy()


def _states(part: Network, hidden: Sequence[Tensor]) -> tuple[State, ...]:
    """The states of all directions from PyTorch's h (L, B, P) and c (L, B, H); of a GRU, from h alone."""
    rows = iter(zip(*map(_array, hidden if len(hidden) == 2 else [*hidden, *hidden]), strict=True))
    return tuple(tuple(LayerState(c, h) for h, c in (next(rows) for _ in direction.model.layers))
                 for direction in part.directions)


def _hidden(states: tuple[State, ...], like: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """PyTorch's h and c; the reverse of `_states`."""
    flat = [layer for state in states for layer in state]
    h, c = (torch.from_numpy(np.stack(values)).to(like.device, dtype)
            for values in ([layer.y for layer in flat], [layer.c for layer in flat]))
    return h, c


class _Kernel(TorchFunctionMode):
    """Computes PyTorch's kernels on a machine."""

    def __init__(self, link: _Link) -> None:
        super().__init__()
        self._link = link

    def __torch_function__(self, function: Any, types: Any, arguments: Sequence[Any] = (),
                           named: Mapping[str, Any] | None = None) -> Any:
        kernel = getattr(function, "__name__", "")
        if kernel not in _NAMES or named:
            return function(*arguments, **(named or {}))
        gru = kernel in _KERNELS[GRU]
        if kernel.endswith("_cell"):
            x, held, *four = arguments
            given = (held,) if gru else held
            states = self._gradless(lambda: self._cell(x, given), x, given,
                                    [weight for weight in four if weight is not None])
            return states[0] if gru else states
        x, second, third, fourth, *rest = arguments
        if isinstance(fourth, (list, tuple)):  # packed
            hidden, weights = third, fourth
            lengths = (second[None] > torch.arange(int(second[0]))[:, None]).sum(1)
        else:
            hidden, weights, lengths = second, third, None
            rest = [fourth, *rest]
        hidden = (hidden,) if gru else hidden
        _, layers, dropout, training, *_ = rest
        if training and dropout and layers > 1:
            raise HostError(f"{self._link.name}: dropout acts between its layers in training mode, and a machine has "
                            f"none; call eval()")
        if lengths is None:
            results = self._gradless(lambda: self._sequences(x, hidden, batch_first=rest[-1]), x, hidden, weights)
        else:
            results = self._gradless(lambda: self._packed(x, second, lengths, hidden), x, hidden, weights)
        return results[:2] if gru else results

    def _gradless(self, compute: Callable[[], tuple[Tensor, ...]], x: Tensor, hidden: Sequence[Tensor],
                  weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
        self._link.check(weights)
        results: tuple[Tensor, ...] = _NoGradient.apply(compute, x, *hidden, *weights)
        return results

    def _run(self, x: Tensor, lengths: Tensor | None, hidden: Sequence[Tensor], dtype: torch.dtype
             ) -> tuple[Tensor, Tensor, Tensor]:
        part = self._link.switch.engine.parts[self._link.name]
        y, after = self._link.call(x, lengths, _states(part, hidden), dtype)
        return y, *_hidden(after, x, dtype)

    def _sequences(self, x: Tensor, hidden: Sequence[Tensor], batch_first: bool) -> tuple[Tensor, ...]:
        y, h, c = self._run(x.transpose(0, 1) if batch_first else x, None, hidden, _result_type(x))
        return y.transpose(0, 1) if batch_first else y, h, c

    def _packed(self, data: Tensor, batch_sizes: Tensor, lengths: Tensor, hidden: Sequence[Tensor]
                ) -> tuple[Tensor, ...]:
        there = torch.arange(int(batch_sizes[0])) < batch_sizes[:, None]
        x = data.new_zeros(*there.shape, data.shape[1])
        x[there.to(data.device)] = data
        y, h, c = self._run(x, lengths, hidden, _result_type(data))
        return y[there.to(data.device)], h, c

    def _cell(self, x: Tensor, hidden: Sequence[Tensor]) -> tuple[Tensor, ...]:
        _, h, c = self._run(x[None], None, [state[None] for state in hidden], x.dtype)
        return h[0], c[0]


def _result_type(x: Tensor) -> torch.dtype:
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


class _MachineLayer:
    """In front of the class of an ``nn.LSTM``, an ``nn.GRU`` or one of their cells."""

    _link: _Link

    def forward(self, *arguments: Any, **named: Any) -> Any:
        self._link.runs = True
        with _Kernel(self._link):
            return super().forward(*arguments, **named)  # type: ignore[misc]

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, part={self._link.name!r}"  # type: ignore[misc]


class _MachineLSTMP:
    """In front of `LSTMP`."""

    _link: _Link

    def forward(self, x: Tensor, state: TensorState | None = None) -> tuple[Tensor, TensorState]:
        weights = _weights(self)
        if state is None:
            state = TensorState(*(x.new_zeros(x.shape[1], weights[1].shape[size]) for size in (1, 2)))

        def compute() -> tuple[Tensor, ...]:
            y, after = self._link.call(x, None, ((LayerState(_array(state.c), _array(state.y)),),), x.dtype)
            h, c = _hidden(after, x, x.dtype)
            return y, c[0], h[0]

        self._link.check(weights)
        y, c, last = _NoGradient.apply(compute, x, *state, *weights)
        return y, TensorState(c, last)


class _MachineLinear:
    """In front of the class of an ``nn.Linear``."""

    _link: _Link

    def forward(self, x: Tensor) -> Tensor:
        return self._link.dense(x, [self])

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, part={self._link.name!r}"  # type: ignore[misc]


class _MachineSequential:
    """In front of the class of an ``nn.Sequential``, some of whose layers a machine computes together."""

    _runs: dict[int, tuple[_Link, int]]  # by the place of the first layer: the part, and its number of layers

    def forward(self, x: Any) -> Any:
        layers: list[Any] = list(self)  # type: ignore[call-overload]
        place = 0
        while place < len(layers):
            link, count = self._runs.get(place, (None, 1))
            together = layers[place:place + count]
            place += count
            if link is None:
                x = together[0](x)
                continue
            if any(map(_hooked, together)):
                raise HostError(f"{link.name}: a layer has a hook, but the machine computes it together with others; "
                                f"register hooks before the network is offloaded")
            x = link.dense(x, [layer for layer in together if isinstance(layer, nn.Linear)])
        return x


class _Network:
    """A copy of a network, with layers that call ``switch``."""

    def __init__(self, network: nn.Module, switch: Switch, machine: Config) -> None:
        self.network, self._switch = network, switch
        self.missing = {kind: unsupported(kind, config=machine) for kind in _KERNELS}
        self.parts: dict[str, Network] = {}
        self._links: dict[str, tuple[_Link, str]] = {}  # by part: the path of the layer, or of the Sequential
        self._kinds: dict[str, type[nn.Module]] = {}  # by path, before the layer was replaced
        self._dense: dict[str, str] = {}  # by path, the part of a linear layer or of a function behind it
        self._reasons: dict[str, str] = {}  # by path, why PyTorch computes a layer
        for path, module in network.named_modules():
            kind = _kind(module)
            if kind is not None and not self.missing[kind]:
                self._take_recurrent(path, module)
            elif machine.dense and isinstance(module, nn.TransformerEncoderLayer):
                self._reasons.update(dict.fromkeys([f"{path}.linear1".lstrip("."), f"{path}.linear2".lstrip(".")],
                                                   "it may compute the whole Transformer layer in one kernel"))
            elif machine.dense and type(module).forward is nn.Sequential.forward:
                self._take_runs(path, module)
            elif machine.dense and path not in self._dense and path not in self._reasons and is_dense(module):
                self._take_dense(path, module)

    def _link(self, name: str, path: str, module: nn.Module, mixin: type, weights: Sequence[Tensor],
              part: Callable[[Sequence[Tensor]], Network]) -> _Link:
        self.parts[name] = part(weights)
        link = _Link(name, self._switch, weights, part)
        self._links[name] = link, path
        kind = self._kinds.setdefault(path, type(module))
        if type(module) is kind:
            module.__class__ = type(f"Machine{kind.__name__}", (mixin, kind), {"__module__": kind.__module__})
        return link

    def _take_recurrent(self, path: str, module: nn.Module) -> None:
        _refresh(module)
        mixin = _MachineLSTMP if isinstance(module, LSTMP) else _MachineLayer
        module._link = self._link(path or root_name(module), path, module, mixin, _weights(module),
                                  partial(_part, path, module))

    def _take_dense(self, path: str, module: nn.Module) -> None:
        _refresh(module)
        name = path or root_name(module)
        self._dense[path] = name
        module._link = self._link(name, path, module, _MachineLinear, _weights(module),
                                  partial(_dense_part, name, [name], [module]))

    def _take_runs(self, path: str, module: Any) -> None:
        """Take the linear layers of a Sequential that follow each other, two layers or more."""
        runs: dict[int, tuple[_Link, int]] = {}
        named, place = list(module.named_children()), 0
        while place < len(named):
            count = _together([layer for _, layer in named[place:]])
            together = named[place:place + count]
            if count > 1:
                paths = [f"{path}.{name}" if path else name for name, _ in together]
                linear = [at for at, (_, layer) in zip(paths, together, strict=True) if isinstance(layer, nn.Linear)]
                name = linear[0] if len(linear) == 1 else f"{linear[0]} to {linear[-1]}"
                layers = [layer for _, layer in together]
                for layer in layers:
                    _refresh(layer)
                weights = [weight for layer in layers if isinstance(layer, nn.Linear) for weight in _weights(layer)]
                self._dense.update(dict.fromkeys(paths, name))
                runs[place] = self._link(name, path, module, _MachineSequential, weights,
                                         partial(_dense_part, name, linear, layers)), count
            place += max(1, count)
        if runs:
            module._runs = runs

    # -- after the calibration -----------------------------------------------------------------

    def settle(self) -> bool:
        """Correct the parts by what ran; tells whether they changed."""
        changed = False
        for name, (link, path) in list(self._links.items()):
            if link.used is not None:
                self.parts[name] = link.part(link.used)
                link.keep(link.used)
                link.used, changed = None, True
            module = self.network.get_submodule(path)
            if isinstance(module, _MachineLayer | _MachineLSTMP):
                if link.runs and not link.computes:
                    self._reasons[path] = "it has a forward pass of its own, which is no kernel of PyTorch"
                    changed |= self.parts.pop(name, None) is not None
            elif not link.runs:
                self._give_back(name, path, module)
                changed = True
        return changed

    def _give_back(self, name: str, path: str, module: Any) -> None:
        """Leave to PyTorch a linear layer that did not run; of a Sequential that did not run, take each alone."""
        del self.parts[name], self._links[name]
        paths = [at for at, part in self._dense.items() if part == name]
        for at in paths:
            del self._dense[at]
        if isinstance(module, nn.Sequential):
            module._runs = {place: (link, count) for place, (link, count) in module._runs.items() if link.name != name}
            for at in paths:
                layer = self.network.get_submodule(at)
                if isinstance(layer, nn.Linear):
                    self._take_dense(at, layer)
            return
        module.__class__ = self._kinds.pop(path)
        self._reasons[path] = "the calibration does not call it"

    def items(self) -> list[Item]:
        """Every layer with its place."""
        items = []
        for path, module in self.network.named_modules():
            name, kind = path or root_name(module), self._kinds.get(path, type(module)).__name__
            cell = _kind(module)
            if path in self._reasons:
                items.append(Item(name, kind, "host", f"PyTorch: {self._reasons[path]}"))
            elif path in self._dense:
                items.append(Item(name, kind, "machine", f"part {self._dense[path]}"))
            elif name in self.parts and cell is not None:
                items.append(Item(name, kind, "machine", f"part {name}"))
            elif any(path.startswith(f"{part}.") for part in self.parts):
                items.append(Item(name, kind, "folded", "into the weights"))
            elif isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
                reason = f"a {kind} is no LSTM or GRU, the machine has no such cell" if cell is None else (
                    self.missing[cell])
                items.append(Item(name, kind, "host", f"PyTorch: {reason}"))
            elif _RECURRENT.search(kind) and not any(f"{part}.".startswith(f"{path}.") for part in self.parts):
                items.append(Item(name, kind, "host", f"PyTorch: {kind} is a cell of its own class, not nn.LSTM or "
                                                      f"nn.GRU"))
            elif not any(True for _ in module.children()) or next(module.parameters(recurse=False), None) is not None:
                items.append(Item(path or kind, kind, "host", "PyTorch"))
        return items


def take(network: nn.Module, switch: Switch, machine: Config) -> Taken:
    """Copy a network, with layers that call ``switch`` in place of its LSTMs and GRUs, and of its linear layers.

    Layers of which the machine has no cells stay with PyTorch.

    Raises
    ------
    HostError
        The network cannot be copied, or is a program of TorchScript.
    """
    if isinstance(network, torch.jit.ScriptModule):
        raise HostError(f"{type(network).__name__} is a TorchScript program, whose layers cannot be replaced; offload "
                        f"the network that it was made from, or compile its file")
    held = _Network(_plain(_copy(network)).eval(), switch, machine)
    taken = Taken(held.network, held.parts, held.items(), lambda inputs: _run(held.network, inputs))
    outside = _Outside({name for kind, names in _KERNELS.items() if not held.missing[kind] for name in names})

    def settle() -> bool:
        changed = held.settle()
        taken.items[:] = held.items()
        if outside.calls and not changed:
            taken.items.append(Item(outside.calls[0].removesuffix("_cell"), "function", "host",
                                    "PyTorch: an LSTM or GRU that is no module of the network; keep it as an attribute "
                                    "or in nn.ModuleList"))
        return changed

    taken.recording, taken.settle = lambda: outside, settle
    return taken


class _Outside(TorchFunctionMode):
    """Keeps the ``kernels`` that PyTorch computes, which are those of no module of the network."""

    def __init__(self, kernels: Set[str]) -> None:
        super().__init__()
        self._kernels = kernels
        self.calls: list[str] = []

    def __torch_function__(self, function: Any, types: Any, arguments: Sequence[Any] = (),
                           named: Mapping[str, Any] | None = None) -> Any:
        if getattr(function, "__name__", "") in self._kernels:
            self.calls.append(function.__name__)
        return function(*arguments, **(named or {}))


def _copy(network: nn.Module) -> nn.Module:
    """A deep copy; tensors that autograd made become plain ones, which `copy.deepcopy` refuses to do."""
    memo: dict[int, Any] = {}
    kept = []

    def visit(value: Any, depth: int = 0) -> None:
        if isinstance(value, Tensor) and not value.is_leaf:
            memo[id(value)] = value.detach().clone()
            kept.append(value)
        elif isinstance(value, Mapping) and depth < 4:
            for held in value.values():
                visit(held, depth + 1)
        elif isinstance(value, (list, tuple)) and depth < 4:
            for held in value:
                visit(held, depth + 1)

    for module in network.modules():
        visit(vars(module))
    try:
        copied: nn.Module = copy.deepcopy(network, memo)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise HostError(f"{type(network).__name__} cannot be copied: {type(error).__name__}: {reason}") from error
    return copied


def _plain(network: nn.Module) -> nn.Module:
    """The network without `torch.compile`, which cannot look into a machine."""
    network = getattr(network, "_orig_mod", network)
    for parent in network.modules():
        for name, child in parent._modules.items():
            parent._modules[name] = getattr(child, "_orig_mod", child)
    return network


def _refresh(module: nn.Module) -> None:
    """Let masks and norms of PyTorch compute the weights, which may lag behind the last step of an optimizer."""
    for hook in module._forward_pre_hooks.values():
        if type(hook).__module__.startswith("torch.nn.utils."):
            with torch.no_grad():
                hook(module, ())


def _kind(module: nn.Module) -> CellKind | None:
    """The kind of cell of a layer that a machine may compute; None for another layer."""
    if isinstance(module, (nn.LSTM, nn.LSTMCell, LSTMP)):
        return LSTM
    return GRU if isinstance(module, (nn.GRU, nn.GRUCell)) else None


def _names(module: nn.Module) -> list[str]:
    if isinstance(module, nn.RNNBase):
        return [name for names in module._all_weights for name in names]
    if isinstance(module, LSTMP):
        return ["w_x", "w_r", "bias", "peephole", "w_ym"]
    if isinstance(module, nn.Linear):
        return ["weight", "bias"]
    return ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]


def _weights(module: Any) -> list[Tensor]:
    """The weights as the forward pass uses them, in the order of the kernel's arguments."""
    return [weight for weight in (getattr(module, name) for name in _names(module)) if weight is not None]


def _part(path: str, module: Any, weights: Sequence[Tensor]) -> Network:
    """The network of one layer, with the layers' names of `Pruner`."""
    names = [name for name in _names(module) if getattr(module, name) is not None]
    arrays = {name: _array(weight) for name, weight in zip(names, weights, strict=True)}
    label = path or root_name(module)
    if isinstance(module, LSTMP):
        return Network.of(Model(layers=(Layer(name=label, **arrays),), name=label))
    network = TensorSource(Path("network"), {f"{label}.{name}": stored(array) for name, array in arrays.items()}
                           ).load([label])
    if isinstance(module, nn.RNNCellBase):
        return replace(network, name=label)
    ways = ("", "_reverse") if module.bidirectional else ("",)
    numbered = iter([f"l{layer}{way}" for layer in range(module.num_layers) for way in ways])

    def named(model: Model) -> Model:
        layers = tuple(replace(layer, name=".".join(filter(None, (path, next(numbered))))) for layer in model.layers)
        return replace(model, layers=layers)

    return replace(network.map(named), name=label)


def _hooked(module: nn.Module) -> bool:
    """Whether a module has hooks of the user. Those of PyTorch compute weights."""
    before = [hook for hook in module._forward_pre_hooks.values()
              if not type(hook).__module__.startswith("torch.nn.utils.")]
    return bool(before or module._forward_hooks)


def _together(layers: Sequence[nn.Module]) -> int:
    """How many of the first layers of a Sequential a machine computes as one part: linear ones, and the function behind
    each."""
    count = 0
    while count < len(layers) and is_dense(layers[count]) and not _hooked(layers[count]):
        count += 1
        if count < len(layers) and type(layers[count]) in _FUNCTIONS and not _hooked(layers[count]):
            count += 1
    return count


def _dense_part(label: str, names: Sequence[str], layers: Sequence[nn.Module], weights: Sequence[Tensor]) -> Network:
    """The network of linear layers, each perhaps with its function behind it."""
    given = iter(weights)
    made: list[Layer] = []
    for layer in layers:
        if isinstance(layer, nn.Linear):
            weight = _array(next(given))
            bias = np.zeros(len(weight), weight.dtype) if layer.bias is None else _array(next(given))
            made.append(Layer(name=names[len(made)], cell=DENSE.name, w_x=weight[None], bias=bias[None]))
        else:
            made[-1] = replace(made[-1], activation=_FUNCTIONS[type(layer)])
    return Network.of(Model(layers=tuple(made), name=label))


def _run(network: nn.Module, inputs: Any) -> Any:
    """Call a network with the inputs of one call."""
    parameter = next((weight for weight in network.parameters() if weight.is_floating_point()), None)

    def tensor(value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return value
        given = torch.from_numpy(np.ascontiguousarray(value))
        if parameter is None:
            return given
        return given.to(parameter.device, parameter.dtype if given.is_floating_point() else None)

    with torch.no_grad():
        if isinstance(inputs, Mapping):
            return network(**{name: tensor(value) for name, value in inputs.items()})
        return network(*map(tensor, inputs if isinstance(inputs, tuple) else (inputs,)))
