# SPDX-License-Identifier: Apache-2.0
"""The way of a network to a machine: prune, quantize, pack; or `compile`, which does all three.

A stage takes a `Network` and works on each of its directions, since a machine runs one model. Frames are real numbers:
(T, B, I) for B voices of T steps, or (T, I) for one voice.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from openese.rtl.config import Config, machine_config
from openese.sw import files, importers
from openese.sw.cycles.load import MachineLoad, image_load
from openese.sw.model.arrays import FloatArray, real_array
from openese.sw.model.layers import DENSE, Model, ModelError
from openese.sw.model.network import Network, Runner
from openese.sw.model.quantized import QuantizedModel, QuantizeError
from openese.sw.model.state import LayerState, State
from openese.sw.pack.image import Image
from openese.sw.pack.image import pack as pack_image
from openese.sw.pack.image import read as read_image
from openese.sw.pack.schedule import schedule
from openese.sw.pack.together import naming_host, schedule_all
from openese.sw.prune import Density, check_projections
from openese.sw.prune import prune as prune_model
from openese.sw.quantize.choose import quantize as quantize_model
from openese.sw.reference.machine import Reference
from openese.sw.run.device import Device
from openese.sw.run.runners import FloatRunner, Machine, MachineRunner

__all__ = ["BACKENDS", "PLACES", "CompiledNetwork", "OutputError", "QuantizedNetwork", "Summary", "compile",
           "on_machine", "output_error", "pack", "pack_together", "packed", "placed", "prune", "quantize",
           "random_frames"]

#: Where the dense head of a network is computed.
PLACES = ("machine", "host")
#: What `CompiledNetwork.run` can run on.
BACKENDS = ("reference", "sim")
CALIBRATION_STEPS, CALIBRATION_VOICES, CALIBRATION_SEED = 64, 8, 1
# A network of several directions is run end to end to find its error, on at most this much.
_ERROR_STEPS, _ERROR_VOICES, _ERROR_PRODUCTS = 256, 16, 1 << 32


@dataclass(frozen=True)
class OutputError:
    """The machine's integers against floating point, at the outputs of a network before its head.

    Attributes
    ----------
    rms_output, rms_error, max_error : float
        RMS of the outputs in floating point; RMS and maximum of the difference.
    steps, voices : int
        The frames on which they were measured.
    """

    rms_output: float
    rms_error: float
    max_error: float
    steps: int
    voices: int

    @property
    def relative(self) -> float:
        """RMS of the difference, as a share of that of the outputs."""
        return self.rms_error / max(self.rms_output, 1e-30)


@dataclass(frozen=True)
class Summary:
    """The figures that tell whether a compiled network is good enough.

    Attributes
    ----------
    machine : `Config`
    error : `OutputError`, optional
        Against the same weights in floating point, on the calibration frames. None for images from a file, which does
        not hold it.
    calibration : (int, int), optional
        Steps and voices that number formats were chosen on. None likewise.
    loads : tuple of `MachineLoad`
        One for each image.
    pruning_error : `OutputError`, optional
        Against the network before `compile` pruned it, on the first of the calibration frames: the cost of pruning and
        integers together. None if `compile` did not prune.
    """

    machine: Config
    error: OutputError | None
    calibration: tuple[int, int] | None
    loads: tuple[MachineLoad, ...]
    pruning_error: OutputError | None = None


@dataclass(frozen=True, eq=False)
class QuantizedNetwork:
    """A network in integers.

    Attributes
    ----------
    models : tuple of `QuantizedModel`
        One for each direction, in their order.
    given : `Network`, optional
        The network that was quantized. None for one model from a file.
    error : `OutputError`, optional
        On the calibration frames.

    Raises
    ------
    FileError
        If the models are for several machines, or do not fit the network.
    """

    models: tuple[QuantizedModel, ...]
    given: Network | None = None
    error: OutputError | None = None

    def __post_init__(self) -> None:
        _check_parts([model.config for model in self.models], [(m.inputs, m.outputs) for m in self.models], self.given)

    @cached_property
    def network(self) -> Network:
        """In floating point: the network that was quantized, or, for one model from a file, that of its integers."""
        return self.given or Network.of(self.models[0].floating_point())

    @property
    def config(self) -> Config:
        """The machine."""
        return self.models[0].config

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a file, or a folder if the network is not plain."""
        files.save(Path(path), self.given, self.models, ".npz")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "QuantizedNetwork":
        """Read what `save` wrote.

        Raises
        ------
        FileError, QuantizeError, ModelError, OSError
            Naming the file and what is wrong with it.
        """
        network, models = files.load(Path(path), QuantizedModel.load, ".npz")
        return cls(tuple(models), network, _reported_error(models))


@dataclass(frozen=True, eq=False)
class CompiledNetwork:
    """A network packed for a machine: one image for each direction.

    Attributes
    ----------
    images : tuple of `Image`
        In the order of the network's directions.
    given : `Network`, optional
        The network in floating point. None for one image from a file.
    error, calibration, pruning_error
        As in `Summary`.

    Raises
    ------
    FileError
        If the images are for several machines, or do not fit the network.
    """

    images: tuple[Image, ...]
    given: Network | None = None
    error: OutputError | None = None
    calibration: tuple[int, int] | None = None
    pruning_error: OutputError | None = None

    def __post_init__(self) -> None:
        layers = [image.part["layers"] for image in self.images]
        _check_parts([image.config for image in self.images],
                     [(held[0]["inputs"], held[-1]["outputs"]) for held in layers], self.given)

    @cached_property
    def network(self) -> Network:
        """In floating point: the network that was compiled, or, for one image from a file, that of its integers.

        A single image does not hold the head, which runs on the host.
        """
        return self.given or Network.of(self.images[0].model().floating_point())

    @property
    def config(self) -> Config:
        """The machine."""
        return self.images[0].config

    @cached_property
    def summary(self) -> Summary:
        """The figures that decide. The cycle model takes a second or two for a machine of the paper's size."""
        return Summary(self.config, self.error, self.calibration, tuple(map(image_load, self.images)),
                       self.pruning_error)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an image file, or a folder if the network is not plain. An image file does not hold the head."""
        files.save(Path(path), self.given, self.images, ".img")

    @classmethod
    def load(cls, path: str | os.PathLike[str], network: Network | None = None,
             model: int | str | None = None) -> "CompiledNetwork":
        """Read what `save` wrote.

        Parameters
        ----------
        path : path
        network : `Network`, optional
            In the place of the saved one, for its head.
        model : int or str, optional
            Of an image of several models, the name or number of one. Without it the first.

        Raises
        ------
        FileError, ImageFormatError, ModelError, OSError
            Naming the file and what is wrong with it. `ValueError`, if there is no such model.
        """
        saved, images = files.load(Path(path), read_image, ".img")
        if model is not None:
            images = [image.select(model) for image in images]
        return cls(tuple(images), network or saved)

    def run(self, frames: ArrayLike, lengths: ArrayLike | None = None, backend: str = "reference") -> FloatArray:
        """Run sequences from the zero state.

        Parameters
        ----------
        frames : array (T, B, I) or (T, I)
            Any number of voices; those beyond the machine's channels follow in turns.
        lengths : integers (B,), optional
            Frames of each sequence, where they are padded to the longest.
        backend : str
            ``"reference"``, the integer model in numpy, or ``"sim"``, the Verilog in Verilator. Both give the same
            numbers.

        Returns
        -------
        y : float64 (T, B, K) or (T, K)
            Outputs of the network, after its head where `network` has one.

        Raises
        ------
        ValueError
            For another backend, or frames or lengths that do not fit.
        """
        x = real_array("frames", frames, ModelError)
        with self.machines(backend) as machines:
            runners = [MachineRunner(machine) for machine in machines]
            y, _ = self.network.run(x[:, None] if x.ndim == 2 else x, runners, lengths)
        return y[:, 0] if x.ndim == 2 else y

    @contextmanager
    def machines(self, backend: str = "reference") -> Iterator[list[Machine]]:
        """A machine for each image, with the image in it; closed at the end of the ``with`` block."""
        if backend not in BACKENDS:
            raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, not {backend!r}")
        if backend == "reference":
            yield [Reference(image.model(), image.config.channels) for image in self.images]
            return
        from openese.sim.simulator import Simulator
        with ExitStack() as stack:
            yield [Device(stack.enter_context(Simulator(image.config)), image) for image in self.images]


def prune(network: Network | Model, density: Density, machine: str | Config, balanced: bool = True,
          equal: bool = False, dense: str = "machine") -> Network:
    """A copy of ``network`` with its smallest weights set to zero.

    Parameters
    ----------
    network : `Network` or `Model`
    density : float or mapping
        Share of the weights that stay: one number, or numbers by matrix or by layer; see `openese.sw.prune.Density`.
    machine : str or `Config`
        Every PE of it keeps the same share of its weights of every matrix.
    balanced : bool
        False keeps the largest weights of a matrix wherever they lie, to compare.
    equal : bool
        Every PE keeps the same number of weights, even if the sizes of a matrix are not multiples of the PEs. The
        machine is then faster. Some rows stay denser than others.
    dense : str
        ``"machine"``: on a machine with dense layers, the head is a layer of it, which is pruned too. ``"host"``: the
        head stays with the host.

    Raises
    ------
    PruneError
        For a density outside 0..1, an unknown name, or a projection that the layer does not have.
    """
    config = machine_config(machine)
    network = placed(_network(network), config, dense)
    layers = [layer for direction in network.directions for layer in direction.model.layers]
    names = [layer.name for layer in layers]
    check_projections(layers, density)

    def of(model: Model) -> Density:
        if not isinstance(density, Mapping) or not density.keys() <= set(names):
            return density
        return {name: density[name] for name in density if name in [layer.name for layer in model.layers]}

    return network.map(lambda model: prune_model(model, of(model), config.pes, config.groups, balanced, equal))


def random_frames(network: Network) -> FloatArray:
    """Normally distributed numbers (T, B, I), for want of real frames. Number formats chosen on them are a guess."""
    rng = np.random.default_rng(CALIBRATION_SEED)
    return rng.normal(size=(CALIBRATION_STEPS, network.voices or CALIBRATION_VOICES, network.inputs))


def quantize(network: Network | Model, frames: ArrayLike, machine: str | Config, lengths: ArrayLike | None = None,
             initial: Sequence[State] | None = None, tables: QuantizedNetwork | None = None,
             dense: str = "machine") -> QuantizedNetwork:
    """Turn a network into integers, its number formats chosen on calibration frames.

    Parameters
    ----------
    network : `Network` or `Model`
    frames : array (T, B, I) or (T, I)
        Real input, such as the network will meet.
    machine : str or `Config`
    lengths : integers (B,), optional
        Frames of each sequence, where they are padded to the longest.
    initial : sequence of State, optional
        The states before the first frame, one for each direction of the network, as `Network.run` takes them. By
        default the network's own, which are zero unless it has others.
    tables : QuantizedNetwork, optional
        Take the tables of this network, so that both fit one image: a machine has one table of each function.
    dense : str
        As for `prune`.

    Raises
    ------
    QuantizeError, ModelError
        For frames, lengths or states of the wrong shape, or weights that no format of the machine can hold.
    """
    config = machine_config(machine)
    network = placed(_network(network), config, dense)
    x: FloatArray = real_array("frames", frames, QuantizeError)
    x = x[:, None] if x.ndim == 2 else x
    if x.ndim != 3:
        raise QuantizeError(f"frames: expected shape (T, B, {network.inputs}), found {x.shape}")
    starts = network.start(x.shape[1], initial)
    ranges = {} if tables is None else {name: getattr(tables.models[0], name)
                                        for name in ("sigmoid_range", "tanh_range")}
    if network.plain:
        models = [quantize_model(network.model, x, config, lengths=lengths, initial=starts[0], **ranges)]
        return QuantizedNetwork(tuple(models), network, _reported_error(models))
    runners = [FloatRunner(direction.model) for direction in network.directions]
    models = [quantize_model(direction.model, fed, config, lengths=lengths, initial=start, **ranges)
              for (direction, fed), start in zip(network.fed(x, runners, lengths, starts), starts, strict=True)]
    return QuantizedNetwork(tuple(models), network, output_error(network, _on_reference(models), x, lengths, starts))


def pack_together(networks: Sequence[QuantizedNetwork], machine: str | Config | None = None,
                  ) -> tuple[CompiledNetwork, ...]:
    """One image of several networks, which share the memories of a machine.

    Parameters
    ----------
    networks : sequence of `QuantizedNetwork`
        Plain networks of different names, for the same machine, with the same tables.
    machine : str or `Config`, optional
        Another machine of the same number formats. By default it is the networks' own, with as many ``models`` as
        there are networks if it holds fewer.

    Returns
    -------
    tuple of `CompiledNetwork`
        One for each network. All have the same image, which stands for the network's model; each can save it.

    Raises
    ------
    CapacityError
        If the machine cannot hold them together: what is short.
    FileError
        If a network is not plain, or the networks are for several machines.
    """
    for network in networks:
        if len(network.models) > 1:
            raise files.FileError(f"network {network.network.name!r} has {len(network.models)} directions; an image of "
                                  "several models holds networks of one")
    _check_machines([network.config for network in networks], "the networks of one image")
    config = networks[0].config if machine is None else machine_config(machine)
    if machine is None and config.models < len(networks):
        config = config.replace(models=len(networks))
    models = [network.models[0] for network in networks]
    with naming_host(models, config):
        image = pack_image(schedule_all(models, config))
    return tuple(CompiledNetwork((image.select(number),), network.given, network.error, _calibration(network))
                 for number, network in enumerate(networks))


def pack(quantized: QuantizedNetwork, machine: str | Config | None = None) -> CompiledNetwork:
    """The images of a quantized network.

    Parameters
    ----------
    quantized : `QuantizedNetwork`
    machine : str or `Config`, optional
        Another machine of the same number formats than the network was quantized for.

    Raises
    ------
    CapacityError
        If the machine cannot hold it: what is short, and which preset would do.
    """
    if not isinstance(quantized, QuantizedNetwork):
        raise TypeError(f"expected a QuantizedNetwork, as openese.quantize gives it, not {type(quantized).__name__}")
    return packed(quantized, quantized.config if machine is None else machine_config(machine))


def packed(quantized: QuantizedNetwork, config: Config, every: bool = False) -> CompiledNetwork:
    """As `pack`. ``every`` tells that the host could take all dense layers, and not only a last one behind others."""
    images = []
    recurrent = any(layer.kind is not DENSE for model in quantized.models for layer in model.layers)
    for model in quantized.models:
        with naming_host([model], config, every or recurrent and len(model.layers) == 1):
            images.append(pack_image(schedule(model, config)))
    return CompiledNetwork(tuple(images), quantized.given, quantized.error, _calibration(quantized))


def _calibration(quantized: QuantizedNetwork) -> tuple[int, int] | None:
    """Steps and voices that number formats were chosen on."""
    report = quantized.models[0].report
    return None if report is None else (report.steps, report.voices)


def compile(network: str | os.PathLike[str] | Network | Model, machine: str | Config, *,
            density: Density | None = None, calibrate: ArrayLike | None = None, lengths: ArrayLike | None = None,
            select: str | None = None, ignore: str | Sequence[str] = (), dense: str = "machine",
            tell: Callable[[str], None] = lambda stage: None) -> CompiledNetwork:
    """Import, prune, quantize and pack a network.

    Parameters
    ----------
    network : path, `Network` or `Model`
        A file is read by `openese.load`.
    machine : str or `Config`
        A preset's name, or a machine of your own.
    density : float or mapping, optional
        As for `prune`; without it nothing is pruned.
    calibrate : array (T, B, I) or (T, I), optional
        Real frames on which number formats are chosen. Without it they are chosen on random numbers, which is a guess.
    lengths : integers (B,), optional
        Of the calibration frames, where they are padded to the longest.
    select : str, optional
        What to take from a file, as for `openese.load`.
    ignore : str or sequence of str
        Tensors of a file without a graph that have no effect, as for `openese.load`.
    dense : str
        As for `prune`.
    tell : callable
        Called with the name of each stage as it begins.

    Raises
    ------
    ValueError
        Naming what is wrong with the file, the frames or the density, or what the machine lacks.
    OSError
        If the file cannot be read.
    """
    config = machine_config(machine)
    if isinstance(network, (str, os.PathLike)):
        network = importers.load(network, select, ignore=ignore)
        if network.batch_first and lengths is None and calibrate is not None and np.ndim(calibrate) == 3:
            raise ValueError("calibrate: the file's network takes (batch, time, features), but frames are (T, B, I) "
                             "here: give lengths too, which tell the axes apart, or the network of openese.load")
    elif select is not None or ignore:
        raise ValueError("select and ignore take parts of a file; this network is no file")
    given = network = placed(_network(network), config, dense)
    if density is not None:
        tell("pruning")
        network = prune(given, density, config, dense=dense)
    tell("choosing number formats")
    frames: ArrayLike = random_frames(network) if calibrate is None else calibrate
    quantized = quantize(network, frames, config, lengths, dense=dense)
    tell("packing")
    compiled = pack(quantized)
    if density is None:
        return compiled
    tell("measuring the error of pruning")
    x = np.asarray(frames, np.float64)
    x = x[:, None] if x.ndim == 2 else x
    pruning = output_error(given, _on_reference(quantized.models), x, lengths, given.start(x.shape[1]))
    return replace(compiled, pruning_error=pruning)


def placed(network: Network, config: Config, dense: str = "machine") -> Network:
    """The network with its head as a layer of the machine, if that has dense layers and ``dense`` says so; else the
    last dense layer is the host's head.

    Raises
    ------
    ValueError
        For another place than those of `PLACES`.
    """
    return network.with_dense_head() if on_machine(dense, config) else network.with_host_head()


def on_machine(dense: str, config: Config) -> bool:
    """Whether a machine computes dense layers for which ``dense`` names the place.

    Raises
    ------
    ValueError
        For another place than those of `PLACES`.
    """
    if dense not in PLACES:
        raise ValueError(f"dense must be {' or '.join(PLACES)}, not {dense!r}")
    return config.dense and dense == "machine"


def _network(network: Network | Model) -> Network:
    if isinstance(network, Model):
        return Network.of(network)
    if not isinstance(network, Network):
        read = ": read it by openese.load" if isinstance(network, (str, os.PathLike)) else ""
        raise TypeError(f"expected a Network or Model, not {type(network).__name__}{read}")
    return network


def _check_machines(configs: Sequence[Config], what: str) -> None:
    """Raises `FileError` unless all are for one machine."""
    machines = {config.fingerprint: f"{config.name} ({config.fingerprint:08x})" for config in configs}
    if len(machines) > 1:
        raise files.FileError(f"{what} are for several machines: {', '.join(machines.values())}")


def _check_parts(configs: Sequence[Config], sizes: Sequence[tuple[int, int]], network: Network | None) -> None:
    """Raises `FileError` unless parts are for one machine, and one for each direction of the network, of its size."""
    if not sizes:
        raise files.FileError("a network has one part for each direction, not none")
    _check_machines(configs, "the parts of a network")
    wanted = sizes[:1] if network is None else [(d.model.inputs, d.model.outputs) for d in network.directions]
    if len(wanted) != len(sizes):
        raise files.FileError(f"the network has {len(wanted)} directions, but the number of parts is {len(sizes)}")
    for number, (part, size) in enumerate(zip(sizes, wanted, strict=True)):
        if part != size:
            raise files.FileError(f"part {number} has {part[0]} inputs and {part[1]} outputs, but direction {number} "
                                  f"of the network has {size[0]} and {size[1]}")


def _reported_error(models: Sequence[QuantizedModel]) -> OutputError | None:
    """The error that the quantizer measured, of a network of one direction."""
    report = models[0].report
    if len(models) > 1 or report is None:
        return None
    last = report.outputs[-1]
    return OutputError(last.rms_output, last.rms_error, last.max_error, report.steps, report.voices)


def _on_reference(models: Sequence[QuantizedModel]) -> Callable[[int], list[Runner]]:
    return lambda voices: [MachineRunner(Reference(model, voices)) for model in models]


def output_error(network: Network, runners: Callable[[int], Sequence[Runner]], x: FloatArray,
                 lengths: ArrayLike | None, starts: Sequence[State]) -> OutputError:
    """The error of a network end to end, on the first of the frames.

    Parameters
    ----------
    network : `Network`
        In floating point.
    runners : callable
        Returns what is compared with it: a runner for each of its directions, for so many voices.
    x : array (T, B, I)
    lengths : integers (B,), optional
    starts : sequence of State
        As `Network.start` returns them.
    """
    weights = sum(layer.weights for direction in network.directions for layer in direction.model.layers)
    counts = np.full(x.shape[1], len(x)) if lengths is None else np.asarray(lengths)
    chosen = np.flatnonzero(counts)[:_ERROR_VOICES]
    voices = len(chosen)
    steps = int(min(counts.max(), _ERROR_STEPS, max(1, _ERROR_PRODUCTS // (voices * weights))))
    x, counts = x[:steps, chosen], np.minimum(counts[chosen], steps)
    states = [tuple(LayerState(c[chosen], y[chosen]) for c, y in start) for start in starts]
    body = Network(stages=network.stages, name=network.name)
    exact, _ = body.run(x, [FloatRunner(direction.model) for direction in network.directions], counts, states)
    found, _ = body.run(x, runners(voices), counts, states)
    there = np.arange(steps)[:, None] < counts
    exact, difference = exact[there], (found - exact)[there]
    return OutputError(float(np.sqrt(np.mean(exact**2))), float(np.sqrt(np.mean(difference**2))),
                       float(np.abs(difference).max()), steps, voices)
