# SPDX-License-Identifier: Apache-2.0
"""Keras networks from files: Keras computes all but the LSTMs."""

import json
import math
import re
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from openese.rtl.config import Config
from openese.sw.importers.base import ImportRefused, open_zip, read_member, require
from openese.sw.importers.from_keras import read_archive
from openese.sw.whole.engine import Engine
from openese.sw.whole.host import RECURRENT, Arrays, Host, HostError, Port, checked_inputs
from openese.sw.whole.keras_layers import MachineLayers, import_keras, replace, to_numpy

__all__ = ["KerasHost", "open_file"]

_FILE = "host.keras"
_SPARE = 1 << 20
#: What a file may name. Keras itself looks for more, and some of it reads files or runs code.
_MODULES = re.compile(r"keras(\.(layers|models|initializers|regularizers|constraints|activations|dtype_policies"
                      r"|quantizers|losses|metrics|optimizers"
                      r"|src\.(layers|models|ops|dtype_policies|quantizers)\..*))?")
_OFFLOAD = "openese.offload takes the network in the program that has the class"
_PROGRAMS = ("Lambda", "__lambda__", "TorchModuleWrapper", "TFSMLayer", "JaxLayer", "FlaxLayer", "__typespec__")


class KerasHost(Host):
    """A Keras network in which an engine computes the LSTMs.

    A stateful layer begins from zero in every `run`. Weights of float16 and bfloat16 are computed in the machine's
    formats; outputs of these types are given in float32.

    Parameters
    ----------
    model : keras.Model
        It becomes the host's own.
    name : str
    machine : `MachineLayers`
    path : Path, optional
        The file that `original` reads.
    trust : bool
        Whether code in the file may run.
    """

    kind = "keras"
    runtime = "keras"
    extra = "keras"

    def __init__(self, model: Any, name: str, machine: MachineLayers, path: Path | None = None,
                 trust: bool = False) -> None:
        self.name = name
        self.inputs, self.outputs = _ports(model, name)
        self.calls = tuple(machine.names)
        self.parts = machine.parts
        self.items = machine.items
        self._model, self._machine = model, machine
        self._path, self._trust = path, trust
        self._untouched: Any = None

    def run(self, inputs: Mapping[str, ArrayLike], engine: Engine) -> Arrays:
        """See `Host.run`."""
        self._machine.engine = engine
        try:
            return self._call(self._model, inputs)
        finally:
            self._machine.engine = None

    def original(self, inputs: Mapping[str, ArrayLike]) -> Arrays:
        """See `Host.original`."""
        if self._path is None:
            raise HostError(f"{self.name}: a compiled network has no original; give the file that it was compiled from")
        if self._untouched is None:
            self._untouched = _load(self._path, self._trust)
        return self._call(self._untouched, inputs)

    def drop_original(self) -> None:
        """See `Host.drop_original`."""
        self._untouched = None

    def _call(self, model: Any, inputs: Mapping[str, ArrayLike]) -> Arrays:
        keras = import_keras()
        arrays = checked_inputs(self.inputs, inputs)
        single = isinstance(model, keras.Sequential)
        self._machine.failure = None
        try:
            with _inference(keras), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for layer in model._flatten_layers():
                    if getattr(layer, "stateful", False) and hasattr(layer, "reset_state"):
                        layer.reset_state()
                tensors = [keras.ops.convert_to_tensor(array) for array in arrays.values()]
                given = tensors[0] if single else keras.tree.pack_sequence_as(model.input, tensors)
                outputs = keras.tree.flatten(model(given, training=False))
                return {port.name: to_numpy(keras, tensor) for port, tensor in zip(self.outputs, outputs, strict=True)}
        except Exception as error:
            raise self._machine.failure or HostError(
                f"{self.name}: Keras on {keras.backend.backend()}: {_reason(error)}") from error

    def save(self, folder: Path) -> None:
        """Write ``host.keras``, in which the weights of the parts are NaN."""
        with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            whole = Path(place) / _FILE
            self._model.save(whole)
            with zipfile.ZipFile(whole) as source, \
                    zipfile.ZipFile(folder / _FILE, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as target:
                for info in source.infolist():
                    with source.open(info) as data, target.open(info.filename, "w", force_zip64=True) as written:
                        while block := data.read(1 << 20):
                            written.write(block)

    @classmethod
    def load(cls, folder: Path, trust: bool = False, parts: Collection[str] = ()) -> "KerasHost":
        """Read what `save` wrote; see `open_file` for ``trust``."""
        path = folder / _FILE
        try:
            model = _load(path, trust)
        except (ImportRefused, OSError) as error:
            raise HostError(str(error)) from None
        return cls(model, folder.name, replace(model, parts=parts), trust=trust)


def open_file(path: Path, trust: bool = False, machine: Config | None = None) -> KerasHost:
    """Open a ``.keras`` file, or a ``.h5`` file with the network's architecture.

    Parameters
    ----------
    path : Path
    trust : bool
        Whether code in the file may run. Without it a file with a Lambda layer is refused.
    machine : Config, optional
        Layers of which it has no cells stay with Keras.

    Raises
    ------
    ImportRefused
        The file is damaged, has layers that are not of Keras, or is a program and not trusted.
    HostError
        Keras is not installed, or the network has no inputs of its own.
    """
    model = _load(path, trust)
    layers = replace(model, machine=machine)
    _forget(layers)
    return KerasHost(model, path.stem, layers, path, trust)


def _forget(machine: MachineLayers) -> None:
    """Make the weights of the parts NaN, so that a result that Keras computes with them cannot be taken for right."""
    for layer in machine.layers:
        for weight in layer.weights:
            weight.assign(np.full(weight.shape, np.nan, np.float32))


def _load(path: Path, trust: bool) -> Any:
    """The network in a file, as Keras loads it, after the checks of files that are not trusted."""
    keras = import_keras()
    try:
        archive = read_archive(path)
        held = archive.weights.check()
        model = _renewed(archive.model)
        for place, found in _objects(model, path.name):
            problem = _foreign(keras, found, trust)
            if problem is not None:
                raise ImportRefused(f"{path.name}: {place!r} is {problem}")
    except RecursionError:
        raise ImportRefused(f"{path.name}: the contents are nested too deeply to be read") from None
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ImportRefused(f"{path.name}: the description of the network is damaged ({error}); save it "
                            f"again") from None
    old = model != archive.model
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        suffix = ".h5" if archive.named else ".keras"
        named = path
        if old or path.suffix != suffix:  # by which Keras tells the two kinds of file
            named = Path(folder) / f"model{suffix}"
            _copy(path, named, model if old else None)
        try:
            with _bounded(keras, held):
                loaded = keras.saving.load_model(named, compile=False, safe_mode=not trust)
        except Exception as error:
            advice = "; save it as .keras, which holds more kinds of layers" if archive.named else ""
            raise ImportRefused(f"{path.name}: Keras cannot load the network: {_reason(error)}{advice}") from None
    if archive.named:
        _check_order(keras, archive.weights, loaded, path.name)
    if not loaded.built:
        raise ImportRefused(f"{path.name}: the network was saved before it had weights; call it once on inputs, and "
                            f"save it again")
    return loaded


def _renewed(held: Any) -> Any:
    """A configuration of Keras 2 without the options that Keras 3 does not know, where they have no effect."""
    if isinstance(held, list):
        return [_renewed(inner) for inner in held]
    if not isinstance(held, dict):
        return held
    renewed = {key: _renewed(inner) for key, inner in held.items()
               if not (key == "time_major" and inner is False)}
    if str(held.get("module")).endswith("keras.src.engine.functional"):
        renewed["module"] = "keras.src.models.functional"
    if held.get("class_name") in RECURRENT and isinstance(held.get("inbound_nodes"), list):
        renewed["inbound_nodes"] = [_renewed_call(call) for call in held["inbound_nodes"]]
        shape = (held.get("build_config") or {}).get("input_shape")
        if isinstance(shape, list) and shape and isinstance(shape[0], list):
            renewed["build_config"] = {"input_shape": shape[0]}
    return renewed


def _renewed_call(call: Any) -> Any:
    """A call of Keras 2 with the input and initial states in one list, as Keras 3 has it."""
    if not isinstance(call, list) or len(call) < 2:
        return call
    tensors = [{"class_name": "__keras_tensor__",
                "config": {"shape": [None], "dtype": "float32", "keras_history": history[:3]}} for history in call]
    return {"args": tensors[:1], "kwargs": {"initial_state": tensors[1:]}}


def _check_order(keras: Any, weights: Any, model: Any, name: str) -> None:
    """Refuse a ``.h5`` file whose weights Keras gives to other directions than their names have.

    Keras goes by the order, which has frozen weights last, and Keras 2 does not save what is frozen in a Bidirectional.
    """
    for layer in model.layers:
        both = [inner for inner in layer._flatten_layers() if isinstance(inner, keras.layers.Bidirectional)]
        if not both:
            continue
        forward = {id(weight) for inner in both for weight in inner.forward_layer.weights}
        names = {inner.forward_layer.name for inner in both}
        read = [id(weight) in forward for weight in (*layer.trainable_weights, *layer.non_trainable_weights)]
        if read != [not names.isdisjoint(path.split("/")) for path in weights.names(layer.name)]:
            raise ImportRefused(f"{name}: the weights of {layer.name!r} are in another order than Keras reads them; "
                                f"save the network as .keras, or with no layer frozen")


def _copy(path: Path, target: Path, model: Any) -> None:
    """Copy a file of Keras, with another configuration if ``model`` is given."""
    if model is None:
        shutil.copyfile(path, target)
    elif target.suffix == ".h5":
        shutil.copyfile(path, target)
        h5py = require("h5py", "keras", "Keras models")
        with h5py.File(target, "r+") as file:
            file.attrs["model_config"] = json.dumps(model)
    else:
        with open_zip(path) as source, zipfile.ZipFile(target, "w") as copy:
            for info in source.infolist():
                content = (json.dumps(model).encode() if info.filename == "config.json"
                           else read_member(source, info.filename))
                copy.writestr(info.filename, content)


@contextmanager
def _bounded(keras: Any, held: int) -> Iterator[None]:
    """Refuse a network whose layers take far more memory than the ``held`` numbers of its file."""
    plain, made = keras.Variable.__init__, 0

    def counted(self: Any, initializer: Any, shape: Any = None, *arguments: Any, **named: Any) -> None:
        nonlocal made
        made += 0 if shape is None else math.prod(shape if isinstance(shape, Sequence) else [shape])
        if made > 4 * held + _SPARE:
            raise ImportRefused(f"its layers have more than {made:,} weights, and the file holds {held:,}")
        plain(self, initializer, shape, *arguments, **named)

    keras.Variable.__init__ = counted
    try:
        yield
    finally:
        keras.Variable.__init__ = plain


def _objects(held: Any, place: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every object in a configuration, with the name of its layer; not the optimizer and loss of the model itself."""
    if isinstance(held, Mapping):
        if "class_name" in held:
            config = held.get("config")
            if isinstance(config, Mapping) and isinstance(config.get("name"), str):
                place = config["name"]
            yield place, held
        for key, inner in held.items():
            if key != "compile_config":
                yield from _objects(inner, place)
    elif isinstance(held, list):
        for inner in held:
            yield from _objects(inner, place)


def _foreign(keras: Any, held: Mapping[str, Any], trust: bool) -> str | None:
    """What an object is if it is no plain part of Keras, and what to do; None if it is one."""
    kind, module, registered = (held.get(key) for key in ("class_name", "module", "registered_name"))
    config = held.get("config")
    if kind in _PROGRAMS:
        return None if trust else (f"a {'Lambda' if kind == '__lambda__' else kind}, which is a program; --trust runs "
                                   f"it, for files that you trust")
    if keras.saving.get_registered_object(registered) is not None:
        return None
    if kind == "function":
        name = config if isinstance(config, str) else ""
        if ">" in name or not any(hasattr(getattr(keras, home), name)
                                  for home in ("activations", "initializers", "regularizers", "constraints")):
            return f"a function of its own, {name!r}, and the file does not hold it; {_OFFLOAD}"
    elif module is not None and not (isinstance(module, str) and _MODULES.fullmatch(module)):
        return f"of a class that is not of Keras, {registered or kind!r}; {_OFFLOAD}"
    elif registered is not None and registered != kind:
        return f"of a class that is not of Keras, {registered!r}; {_OFFLOAD}"
    elif isinstance(config, Mapping) and isinstance(config.get("vocabulary"), str):
        return "a layer that reads a vocabulary from another file; save the network with the vocabulary in it"
    return None


def _ports(model: Any, name: str) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    keras = import_keras()
    inputs, outputs = (getattr(model, key, None) for key in ("inputs", "outputs"))
    if not inputs or not outputs:
        raise HostError(f"{name}: the network is a class of its own, and the file does not tell its inputs; "
                        f"{_OFFLOAD}")
    for tensor in inputs:
        if getattr(tensor, "sparse", False) or getattr(tensor, "ragged", False):
            raise HostError(f"{name}: the input {tensor.name!r} is sparse or ragged, which openese does not feed")
    return (tuple(_port(keras, tensor.name, tensor) for tensor in inputs),
            tuple(map(_port, [keras] * len(outputs), _output_names(keras, model), outputs)))


def _port(keras: Any, name: str, tensor: Any) -> Port:
    held = keras.backend.standardize_dtype(tensor.dtype)
    kind = {"float16": "float32", "bfloat16": "float32", "string": "str"}.get(held, held)
    return Port(name, kind, tuple(tensor.shape))


def _output_names(keras: Any, model: Any) -> list[str]:
    """The keys of outputs in a dictionary; else the layers that give them, numbered where one gives several."""
    count = len(model.outputs)
    if isinstance(model, keras.Sequential):
        return [model.layers[-1].name]
    if isinstance(model.output, dict):
        keyed = _keys(keras.tree.pack_sequence_as(model.output, list(range(count))), "")
        return [name for _, name in sorted(keyed)]
    makers = [tensor._keras_history.operation.name for tensor in model.outputs]
    return [maker if makers.count(maker) == 1 else f"{maker}:{makers[:number].count(maker)}"
            for number, maker in enumerate(makers)]


def _keys(held: Any, prefix: str) -> Iterator[tuple[int, str]]:
    if isinstance(held, int):
        yield held, prefix
        return
    for key, inner in held.items() if isinstance(held, dict) else enumerate(held):
        yield from _keys(inner, f"{prefix}/{key}" if prefix else str(key))


def _inference(keras: Any) -> AbstractContextManager[Any]:
    """Without the graph that PyTorch keeps for training."""
    if keras.backend.backend() != "torch":
        return nullcontext()
    import torch

    return torch.no_grad()


def _reason(error: Exception) -> str:
    """The text of an error of Keras in one line, without what it adds about arguments."""
    text = re.sub("\x1b\\[[0-9;]*m", "", str(error))
    text = re.sub(r"Exception encountered when calling [^\n]*\n+", "", text).split("\n\nArguments received by")[0]
    text = text.split("Exception encountered: ")[-1].split("Please ensure")[0]
    line = " ".join(text.split()).rstrip(".")
    return (line[:400] + " ...") if len(line) > 400 else line or type(error).__name__
