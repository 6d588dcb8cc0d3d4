# SPDX-License-Identifier: Apache-2.0
"""Whole networks on a machine: compile, run, save and load.

>>> from openese.sw.whole import network
>>> host = network.open_host("net.onnx")                            # what lies where: host.items
>>> compiled = network.compile_host(host, "demo", density=0.2, calibrate={"x": frames})
>>> compiled.run({"x": frames})                                     # outputs by name
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from openese.output import replacing_folder
from openese.rtl.config import Config, machine_config
from openese.sw import files, importers
from openese.sw.compile import (
    CompiledNetwork,
    OutputError,
    QuantizedNetwork,
    Summary,
    on_machine,
    packed,
    prune,
    quantize,
    random_frames,
)
from openese.sw.compile import compile as compile_network
from openese.sw.importers import ImportRefused
from openese.sw.model.layers import DENSE, Model
from openese.sw.model.network import Network
from openese.sw.prune import TENSORS, Density, PruneError
from openese.sw.reference.machine import Reference
from openese.sw.run.runners import MachineRunner
from openese.sw.whole import torch_export
from openese.sw.whole.engine import Engine, Recorder
from openese.sw.whole.host import Arrays, Host, HostError, why_no_parts

__all__ = ["CompiledWhole", "Difference", "check_place", "compile", "compile_host", "differences", "first_calls",
           "open_host", "original_calls", "pack_parts", "prune_parts", "quantize_parts", "run_calls", "same_numbers",
           "without_dense"]

#: The module of each kind of host, with a function ``open_file(path, trust, machine)``, and its class.
_HOSTS = {"onnx": ("openese.sw.whole.onnx_host", "OnnxHost"),
          "keras": ("openese.sw.whole.keras_host", "KerasHost")}
#: The kind of host for what each importer reads; a file of another importer has no graph.
_KINDS = {"ONNX": "onnx", "Keras": "keras"}
_VERSION = 1
_BLOCK = 1 << 20  # numbers of an output that are compared at once
#: The inputs of one call: by name, or the array of a network of one input.
Call = Mapping[str, ArrayLike] | NDArray[Any]


@dataclass(frozen=True)
class Difference:
    """One output of a whole network, against the original network in its own runtime.

    Attributes
    ----------
    name : str
    error : `OutputError`, optional
        Of an output of floating-point numbers; its steps are 1, its voices the count of numbers.
    different, total : int
        Elements that differ, and all elements: what tells about whole numbers and text.
    """

    name: str
    error: OutputError | None
    different: int
    total: int


def check_place(place: Path) -> None:
    """Raise `FileError` if ``place`` is neither free, nor an empty folder, nor a whole network."""
    if place.exists() and not (place.is_dir() and (not any(place.iterdir()) or (place / files.WHOLE).is_file())):
        raise files.FileError(f"{place}: there already, and no whole network; a whole network becomes a folder "
                              f"of its own")


@dataclass(frozen=True, eq=False)
class CompiledWhole:
    """A whole network whose LSTMs and GRUs are packed for a machine.

    Attributes
    ----------
    host : `Host`
    parts : dict of str to `CompiledNetwork`
        By the names that the host calls.
    carry : dict of str to str
        Outputs that are inputs of the next call: the output's name, the input's name.
    differences : tuple of `Difference`
        At every output, on the calibration inputs. Empty where it was not calibrated.
    guessed : tuple of str
        Parts that no calibration input reached, or only zeros, so that their number formats are a guess.
    clamped : int
        Numbers of frames and states on the calibration inputs that did not fit their formats: of a state h that begins
        outside of -1..1.
    """

    host: Host
    parts: dict[str, CompiledNetwork]
    carry: dict[str, str] = field(default_factory=dict)
    differences: tuple[Difference, ...] = ()
    guessed: tuple[str, ...] = ()
    clamped: int = 0

    @property
    def config(self) -> Config:
        """The machine."""
        return next(iter(self.parts.values())).config

    @cached_property
    def summaries(self) -> dict[str, Summary]:
        """The figures of each part."""
        return {name: part.summary for name, part in self.parts.items()}

    def engine(self, machines: Mapping[str, Sequence[Any]], advance: Callable[[int], None] = lambda steps: None
               ) -> Engine:
        """The engine that computes the parts on machines, one for each image of a part."""
        return Engine({name: part.network for name, part in self.parts.items()},
                      {name: [MachineRunner(machine, advance) for machine in machines[name]] for name in self.parts})

    @contextmanager
    def session(self, backend: str = "reference") -> Iterator[Callable[[Mapping[str, ArrayLike]], Arrays]]:
        """A function from inputs to outputs, for many calls; its machines are closed at the end of the ``with`` block.

        Raises
        ------
        ValueError
            For an unknown backend.
        """
        with ExitStack() as stack:
            machines = {name: stack.enter_context(part.machines(backend)) for name, part in self.parts.items()}
            engine = self.engine(machines)
            yield lambda inputs: run_calls(self.host, inputs, engine, self.carry)

    def run(self, inputs: Call, backend: str = "reference") -> Arrays | NDArray[Any]:
        """Run the whole network.

        Parameters
        ----------
        inputs : mapping of str to array, or array
            All inputs by name; an array for a network of one input. The axes are those of the network's file.
        backend : str
            As of `CompiledNetwork.run`.

        Returns
        -------
        dict of str to ndarray, or ndarray
            All outputs by name; for an array, the array of a network of one output.

        Raises
        ------
        ValueError
            Inputs do not fit, or the backend is unknown.
        """
        named = _named(self.host, inputs)
        with self.session(backend) as run:
            outputs = run(named)
        return outputs if isinstance(inputs, Mapping) or len(outputs) > 1 else next(iter(outputs.values()))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a folder: the host's file, the images, and ``network.json``, which tells how they belong together."""
        place = Path(path)
        check_place(place)
        manifest = {"version": _VERSION, "host": self.host.kind, "name": self.host.name, "carry": self.carry,
                    "parts": {name: f"part{number}" for number, name in enumerate(self.parts)}}
        with replacing_folder(place) as folder:
            self.host.save(folder)
            for number, part in enumerate(self.parts.values()):
                part.save(folder / (f"part{number}.img" if part.network.plain else f"part{number}"))
            (folder / files.WHOLE).write_text(json.dumps(manifest, indent=1) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str], trust: bool = False) -> "CompiledWhole":
        """Read what `save` wrote.

        Parameters
        ----------
        path : path
        trust : bool
            Whether code in the host's file may run. Without it a host that is a program is refused.

        Raises
        ------
        FileError, HostError, ImageFormatError, ModelError, OSError
            Naming the file and what is wrong with it.
        """
        folder = Path(path)
        manifest = _manifest(folder)
        module, name = _HOSTS[manifest["host"]]
        host = getattr(import_module(module), name).load(folder, trust, manifest["parts"])
        parts = {}
        for part, file in manifest["parts"].items():
            image = folder / f"{file}.img"
            parts[part] = CompiledNetwork.load(image if image.is_file() else folder / file)
        if set(host.calls) != parts.keys():
            raise files.FileError(f"{folder / files.WHOLE}: the parts are not those that the host's file calls; "
                                  f"compile the network again")
        machines = {part.config.fingerprint for part in parts.values()}
        if len(machines) > 1:
            raise files.FileError(f"{folder}: the parts are for several machines; compile the network again")
        return cls(host, parts, dict(manifest["carry"]))


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / files.WHOLE
    if path.stat().st_size > 1 << 24:
        raise files.FileError(f"{path}: too large for the description of a network")
    try:
        manifest = json.loads(path.read_text())
        sound = (manifest["version"] == _VERSION and manifest["host"] in _HOSTS and manifest["parts"]
                 and all(isinstance(held, dict) and all(isinstance(value, str) for value in held.values())
                         for held in (manifest["carry"], manifest["parts"]))
                 and list(manifest["parts"].values()) == [f"part{n}" for n in range(len(manifest["parts"]))])
    except (ValueError, KeyError, TypeError, RecursionError):
        sound = False
    if not sound:
        raise files.FileError(f"{path}: not the description of a whole network; compile the network again")
    return dict(manifest)


def open_host(path: str | os.PathLike[str], trust: bool = False,
              examples: Callable[[], Sequence[Call]] = tuple, machine: Config | None = None,
              dense: str = "machine") -> Host | None:
    """Open a file that holds a whole network; None for a file without a graph.

    Parameters
    ----------
    path : path
    trust : bool
        Whether code in the file may run. Without it a file that is a program is refused.
    examples : callable
        Returns inputs of one call, several to try. A program of PyTorch is exported with the first that it takes.
    machine : Config, optional
        Layers of which it has no cells stay with the host. Without it, no machine lacks a kind of cell.
    dense : str
        ``"machine"``: on a machine with dense layers, those of an ONNX network beside its LSTMs and GRUs are on the
        machine, and each Dense layer of a Keras network. ``"host"``: they stay with the host.

    Raises
    ------
    ImportRefused
        The file is damaged, is a program and not trusted, or needs a library that is not installed.
    OSError
        The file cannot be read.
    """
    if machine is not None:
        machine = without_dense(machine, dense)
    program = torch_export.program(Path(path))
    if program is not None:
        if not trust:
            raise ImportRefused(f"{Path(path).name}: a {program} is code, which runs when it is opened; if you know "
                                f"where it comes from, trust it (--trust)"
                                f"{torch_export.without_trust(program)}")
        return torch_export.open_program(Path(path), examples(), machine)
    kind = _KINDS.get(importers.find(path).name)
    if kind is None:
        return None
    host: Host = import_module(_HOSTS[kind][0]).open_file(Path(path), trust, machine)
    return host


def without_dense(machine: Config, dense: str) -> Config:
    """The machine without dense layers, unless ``dense`` names it as their place.

    Raises
    ------
    ValueError
        For another place than those of `openese.sw.compile.PLACES`.
    """
    if on_machine(dense, machine):
        return machine
    return machine.replace(cells="+".join(kind for kind in machine.cells.split("+") if kind != DENSE.name))


def first_calls(inputs: Call, carry: Mapping[str, str]) -> list[Call]:
    """The inputs of one call among those of `run_calls`: with ``carry``, an axis of calls may stand in front."""
    if not carry or not isinstance(inputs, Mapping):
        return [inputs]
    arrays = {name: np.asarray(value) for name, value in inputs.items()}
    return [{name: array[0] if array.ndim and len(array) and name not in carry.values() else array
             for name, array in arrays.items()}, inputs]


@overload
def compile(network: Network | Model, machine: str | Config, *, density: Density | None = None,
            calibrate: ArrayLike | None = None, lengths: ArrayLike | None = None,
            dense: str = "machine", tell: Callable[[str], None] = ...) -> CompiledNetwork: ...


@overload
def compile(network: str | os.PathLike[str], machine: str | Config, *, density: Density | None = None,
            calibrate: Any = None, lengths: ArrayLike | None = None, select: str | None = None,
            ignore: str | Sequence[str] = (), carry: Mapping[str, str] | None = None, trust: bool = False,
            dense: str = "machine", tell: Callable[[str], None] = ...) -> CompiledNetwork | CompiledWhole: ...


def compile(network: Any, machine: str | Config, *, density: Density | None = None, calibrate: Any = None,
            lengths: ArrayLike | None = None, select: str | None = None, ignore: str | Sequence[str] = (),
            carry: Mapping[str, str] | None = None, trust: bool = False, dense: str = "machine",
            tell: Callable[[str], None] = lambda stage: None) -> Any:
    """Import, prune, quantize and pack a network.

    Parameters
    ----------
    network : path, `Network` or `Model`
        A file with a graph (ONNX, Keras; a program of PyTorch with ``trust``) is compiled whole. Of another file, and
        with ``select``, the LSTMs alone are compiled, as `openese.load` reads them.
    machine : str or `Config`
        A preset's name, or a machine of your own.
    density : float or mapping, optional
        As for `prune`; without it nothing is pruned.
    calibrate : optional
        Real input, on which number formats are chosen. Without it they are chosen on random numbers, which is a guess.
        For LSTMs alone frames (T, B, I) or (T, I). For a whole network its inputs by name, with the axes of its file;
        one array for a network of one input; a list of these for several calls.
    lengths : integers (B,), optional
        Of calibration frames that are padded to the longest; for LSTMs alone.
    select : str, optional
        What to take from a file, as for `openese.load`.
    ignore : str or sequence of str
        Tensors of a file without a graph that have no effect, as for `openese.load`.
    carry : mapping of str to str, optional
        Outputs of a whole network that are inputs of its next call; see `run_calls`.
    trust : bool
        Whether code in the file may run.
    dense : str
        Where dense layers are computed that the machine could compute, ``"machine"`` or ``"host"``: of a whole network
        as for `open_host`, else the head, as for `openese.prune`.
    tell : callable
        Called with the name of each stage as it begins.

    Returns
    -------
    `CompiledWhole`, or `CompiledNetwork` for LSTMs alone

    Raises
    ------
    ValueError
        Naming what is wrong with the file, the input or the density, or what the machine lacks.
    OSError
        If the file cannot be read.
    """
    if isinstance(network, (str, os.PathLike)) and select is None:
        first = calibrate[0] if isinstance(calibrate, (list, tuple)) and calibrate else calibrate
        host = open_host(network, trust, lambda: () if first is None else first_calls(first, carry or {}),
                         machine_config(machine), dense)
        if host is not None:
            if lengths is not None:
                raise HostError("lengths: a whole network has an input for them; give it by name in calibrate")
            if ignore:
                raise HostError("ignore: a whole network leaves nothing out")
            return compile_host(host, machine, density=density, calibrate=calibrate, carry=carry, tell=tell)
    if carry:
        raise HostError("carry: only a whole network has outputs to carry, and this is not one")
    return compile_network(network, machine, density=density, calibrate=calibrate, lengths=lengths, select=select,
                           ignore=ignore, dense=dense, tell=tell)


def prune_parts(parts: Mapping[str, Network], density: Density, config: Config) -> dict[str, Network]:
    """Prune every part; see `openese.prune`. A mapping may name the layers of all parts.

    Raises
    ------
    PruneError
        For a density outside 0..1, or an unknown name.
    """
    if not isinstance(density, Mapping) or density.keys() <= set(TENSORS):
        return {name: prune(part, density, config) for name, part in parts.items()}
    layers = {name: [layer.name for direction in part.directions for layer in direction.model.layers]
              for name, part in parts.items()}
    known = [layer for names in layers.values() for layer in names]
    unknown = [name for name in density if name not in known]
    if unknown:
        raise PruneError(f"density: {unknown[0]!r} is neither a matrix ({', '.join(TENSORS)}) nor a layer "
                         f"({', '.join(map(repr, known))})")
    return {name: prune(part, {layer: density[layer] for layer in layers[name] if layer in density}, config)
            if any(layer in density for layer in layers[name]) else part for name, part in parts.items()}


def quantize_parts(recorder: Recorder, config: Config, tell: Callable[[str], None] = lambda stage: None
                   ) -> dict[str, QuantizedNetwork]:
    """Quantize the parts of a recorder on what it recorded; on random numbers where it recorded nothing.

    Raises
    ------
    QuantizeError
        Naming the part.
    """
    quantized = {}
    for name, part in recorder.parts.items():
        tell(f"{name}: choosing number formats")
        recorded = recorder.recorded(name)
        with _naming(name):
            if recorded is None:
                quantized[name] = quantize(part, random_frames(part), config)
            else:
                quantized[name] = quantize(part, recorded.frames, config, recorded.lengths, recorded.initial)
    return quantized


def pack_parts(quantized: dict[str, QuantizedNetwork], tell: Callable[[str], None] = lambda stage: None
               ) -> dict[str, CompiledNetwork]:
    """Pack the parts of `quantize_parts`. Each is taken out of ``quantized``, which saves memory.

    Raises
    ------
    CapacityError
        Naming the part.
    """
    compiled = {}
    recurrent = any(layer.kind is not DENSE for network in quantized.values() for model in network.models
                    for layer in model.layers)
    for name in list(quantized):
        tell(f"{name}: packing")
        network = quantized.pop(name)
        with _naming(name):
            compiled[name] = packed(network, network.config, every=recurrent)
    return compiled


@contextmanager
def _naming(part: str) -> Iterator[None]:
    """Put the name of a part in front of an error that does not have it."""
    try:
        yield
    except ValueError as error:
        raise type(error)(str(error) if repr(part) in str(error) else f"{part}: {error}") from error


def compile_host(host: Host, machine: str | Config, *, density: Density | None = None,
                 calibrate: Call | Sequence[Call] | None = None, carry: Mapping[str, str] | None = None,
                 tell: Callable[[str], None] = lambda stage: None) -> CompiledWhole:
    """Prune, quantize and pack the parts of a host, and measure the error at its outputs.

    Parameters
    ----------
    host : `Host`
    machine : str or `Config`
    density : float or mapping, optional
        As for `openese.prune`; without it nothing is pruned.
    calibrate : mapping, array, or sequence of them, optional
        The network's inputs by name, or the array of a network of one input, for one call or several. Without it
        number formats are chosen on random numbers, which is a guess.
    carry : mapping of str to str, optional
        Outputs that are inputs of the next call. Inputs then have an axis of calls in front; see `run_calls`.
    tell : callable
        Called with the name of each stage as it begins.

    Raises
    ------
    HostError, ValueError
        Naming what is wrong with the network or the inputs, or what the machine lacks.
    """
    config = machine_config(machine)
    if not host.parts:
        raise HostError(f"{host.name}: no LSTM or GRU that the machine can compute: {why_no_parts(host.items)}")
    parts = host.parts
    if density is not None:
        tell("pruning")
        parts = prune_parts(parts, density, config)
    recorder = Recorder(parts)
    given: Sequence[Call] = [calibrate] if isinstance(calibrate, (Mapping, np.ndarray)) else calibrate or ()
    calls = [_named(host, call) for call in given]
    carried = _checked_carry(host, carry or {})
    tell("running the original network")  # first, and dropped, since its weights take much memory
    wanted = [original_calls(host, call, carried) for call in calls]
    host.drop_original()
    for number, call in enumerate(calls):
        tell(f"running the network in floating point ({number + 1} of {len(calls)})")
        run_calls(host, call, recorder, carried)
    quantized = quantize_parts(recorder, config, tell)
    guessed = tuple(name for name in parts if not recorder.reached(name))
    del recorder, parts  # frames, and weights before pruning
    tell("measuring the error at the outputs")
    engine = _reference(quantized)  # before anything is packed: images take more memory
    measured = differences([run_calls(host, call, engine, carried) for call in calls], wanted)
    clamped = engine.input_saturations
    del wanted, engine
    return CompiledWhole(host, pack_parts(quantized, tell), carried, measured, guessed, clamped)


def _reference(quantized: Mapping[str, QuantizedNetwork]) -> Engine:
    """The engine that computes quantized parts on the reference."""
    return Engine({name: part.network for name, part in quantized.items()},
                  {name: [MachineRunner(Reference(model, part.config.channels)) for model in part.models]
                   for name, part in quantized.items()})


def _named(host: Host, inputs: Call) -> Mapping[str, ArrayLike]:
    if isinstance(inputs, Mapping):
        return inputs
    if len(host.inputs) != 1:
        raise HostError(f"the network has the inputs {', '.join(port.text() for port in host.inputs)}; give them by "
                        f"name")
    return {host.inputs[0].name: np.asarray(inputs)}


def _checked_carry(host: Host, carry: Mapping[str, str]) -> dict[str, str]:
    outputs, inputs = ([port.name for port in ports] for ports in (host.outputs, host.inputs))
    for output, given in carry.items():
        if output not in outputs:
            raise HostError(f"carry: {output!r} is no output of the network; its outputs are {', '.join(outputs)}")
        if given not in inputs:
            raise HostError(f"carry: {given!r} is no input of the network; its inputs are {', '.join(inputs)}")
    if len(set(carry.values())) < len(carry):
        raise HostError("carry: two outputs are carried to one input")
    return dict(carry)


def run_calls(host: Host, inputs: Mapping[str, ArrayLike], engine: Engine, carry: Mapping[str, str]) -> Arrays:
    """Call a network once, or several times one after another.

    With ``carry``, an input with one axis more than the network's has the values of each call along its first axis;
    another input is the same in every call, and a carried input is that of the first call. Outputs then have the axis
    of calls in front; a carried output is that of the last call.

    Raises
    ------
    HostError
        Inputs do not fit, or have different numbers of calls.
    """
    return _calls(host, inputs, carry, lambda call: host.run(call, engine))


def original_calls(host: Host, inputs: Mapping[str, ArrayLike], carry: Mapping[str, str]) -> Arrays:
    """The outputs of the original network, as `run_calls`."""
    return _calls(host, inputs, carry, host.original)


def _calls(host: Host, inputs: Mapping[str, ArrayLike], carry: Mapping[str, str],
           run: Callable[[Mapping[str, ArrayLike]], Arrays]) -> Arrays:
    ranks = {port.name: len(port.shape) for port in host.inputs if port.shape is not None}
    arrays = {name: np.asarray(value) for name, value in inputs.items()}
    several = {name: len(array) for name, array in arrays.items()
               if name not in carry.values() and array.ndim == ranks.get(name, -1) + 1}
    if not carry or not several:
        return run(arrays)
    if len(set(several.values())) > 1:
        raise HostError(f"the inputs have different numbers of calls along their first axis: "
                        f"{', '.join(f'{name} {count}' for name, count in several.items())}")
    outputs: list[Arrays] = []
    for number in range(next(iter(several.values()))):
        call = {name: array[number] if name in several else array for name, array in arrays.items()}
        if outputs:
            call.update({given: outputs[-1][output] for output, given in carry.items()})
        outputs.append(run(call))
    if not outputs:
        raise HostError("the inputs have no calls: the first axis is empty")
    return {name: outputs[-1][name] if name in carry else _stacked(name, [call[name] for call in outputs])
            for name in outputs[0]}


def _stacked(name: str, values: Sequence[NDArray[Any]]) -> NDArray[Any]:
    if len({value.shape for value in values}) > 1:
        raise HostError(f"output {name!r} has other shapes in other calls, which do not fit into one array")
    return np.stack(values)


def same_numbers(found: NDArray[Any], wanted: NDArray[Any]) -> NDArray[np.bool_]:
    """Which elements are equal; what is not a number on both sides is."""
    same: NDArray[np.bool_] = found == wanted
    return same | (np.isnan(found) & np.isnan(wanted)) if wanted.dtype.kind == "f" else same


def _difference(name: str, pairs: Sequence[tuple[NDArray[Any], NDArray[Any]]]) -> Difference:
    """The difference over pairs of arrays, measured in blocks, which need little memory."""
    total, different, power, squares, largest = 0, 0, 0.0, 0.0, 0.0
    real = pairs[0][1].dtype.kind == "f"
    for given, exact in pairs:
        ours, theirs = np.ravel(given), np.ravel(exact)
        for start in range(0, theirs.size, _BLOCK):
            mine, other = ours[start:start + _BLOCK], theirs[start:start + _BLOCK]
            total += other.size
            same = same_numbers(mine, other)
            different += int(np.count_nonzero(~same))
            if real:
                with np.errstate(invalid="ignore"):
                    error = np.where(same, 0, mine.astype(np.float64) - other)
                error[np.isnan(error)] = np.inf  # a number on one side only
                power += float(np.square(other, dtype=np.float64, where=np.isfinite(other), out=np.zeros(other.size)
                                         ).sum())
                squares += float(np.square(error).sum())
                largest = max(largest, float(np.abs(error).max()))
    error_of = OutputError((power / total)**0.5, (squares / total)**0.5, largest, 1, total) if real and total else None
    return Difference(name, error_of, different, total)


def differences(found: Sequence[Arrays], wanted: Sequence[Arrays]) -> tuple[Difference, ...]:
    """Each output over all calls against the original network's.

    Raises
    ------
    HostError
        An output has another shape than the original's.
    """
    rows = []
    for name in wanted[0] if wanted else ():
        for ours, theirs in zip(found, wanted, strict=True):
            if ours[name].shape != theirs[name].shape:
                raise HostError(f"output {name!r} has the shape {ours[name].shape}, the original {theirs[name].shape}")
        rows.append(_difference(name, [(ours[name], theirs[name]) for ours, theirs in zip(found, wanted, strict=True)]))
    return tuple(rows)
