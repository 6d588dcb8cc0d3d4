# SPDX-License-Identifier: Apache-2.0
"""Options that several commands share; the machine above all, which every command takes in the same way."""

import difflib
import functools
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import click

from openese.rtl.config import FLAGS, PRESETS, Config
from openese.rtl.targets.devices import Device, device
from openese.sw import files
from openese.sw.compile import PLACES, CompiledNetwork, QuantizedNetwork
from openese.sw.model.layers import Layer
from openese.sw.model.network import Network
from openese.sw.prune import TENSORS, Density
from openese.sw.whole.network import CompiledWhole

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["NEW_FILE", "NEW_PATH", "PATH", "DeviceName", "Positive", "calibrate_option", "carry_option", "dense_option",
           "density_help", "file_output_option", "ignore_option", "keep_inputs", "machine_options", "output_option",
           "parse_densities", "parse_density", "parse_settings", "read_config", "select_option", "trust_option"]


class Positive(click.ParamType):
    """A number greater than zero."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and number > 0):
            self.fail(f"expected a number greater than zero, not {value!r}", param, ctx)
        return number


class DeviceName(click.ParamType):
    """The name of a device, or of its FPGA."""

    name = "device"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Device:
        if isinstance(value, Device):
            return value
        try:
            return device(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _Path(click.Path):
    """A path that is not empty; with ``new`` one to write, in a folder that is there."""

    def __init__(self, *, new: bool = False, folder: bool = True) -> None:
        super().__init__(dir_okay=folder, path_type=Path)
        self._new = new

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not str(value):
            self.fail("the path is empty", param, ctx)
        path = Path(str(super().convert(value, param, ctx)))
        if self._new and not path.parent.is_dir():
            self.fail(f"there is no folder {str(path.parent)!r}", param, ctx)
        return path


PATH = _Path()
NEW_PATH = _Path(new=True)
NEW_FILE = _Path(new=True, folder=False)
_FIELDS = {field.name: field.type for field in fields(Config) if field.name != "name"}

output_option = click.option("--output", "-o", type=NEW_PATH, required=True, metavar="PATH",
                             help="The file to write; a folder for a whole network, or one of several directions.")
file_output_option = click.option("--output", "-o", type=NEW_FILE, required=True, metavar="PATH",
                                  help="The file to write.")
select_option = click.option("--select", metavar="NAMES",
                             help="The parts to take, by their names in `import --list`. Several, with commas between "
                                  "them, are stacked.")
ignore_option = click.option("--ignore", multiple=True, metavar="NAME",
                             help="A tensor or module that has no effect, in a file without a graph, where import "
                                  "refuses it. May be repeated.")
calibrate_option = click.option("--calibrate", type=PATH, metavar="FRAMES",
                                help="Real frames, on which number formats are chosen.")
carry_option = click.option("--carry", multiple=True, metavar="OUTPUT=INPUT",
                            help="An output of a whole network that is an input of its next call. The other inputs "
                                 "may have an axis of calls in front. May be repeated.")
trust_option = click.option("--trust", is_flag=True,
                            help="Run the code in FILE: a TorchScript program, a pickled module, a Lambda layer.")
dense_option = click.option("--dense", type=click.Choice(PLACES), default="machine", show_default=True,
                            help="Where dense layers are computed that a machine with dense layers (cells=lstm+dense) "
                                 "could compute: the head, and those of whole ONNX networks.")
density_help = ("Share of the weights to keep: 0.1, or for some matrices w_r=0.1, LAYER=0.2 or LAYER.w_ym=0.5. May be "
                "repeated.")

_F = TypeVar("_F", bound=Callable[..., Any])


def machine_options(default: str | None) -> Callable[[_F], _F]:
    """A decorator that adds the options for the machine, and passes the machine as argument ``config``.

    Parameters
    ----------
    default : str, optional
        The preset that is taken if no option is given; without it the user has to name a machine, unless the command
        says so by ``default=""``: then ``config`` is None.
    """
    taken = f"  [default: {default}]" if default else ""
    options = [
        click.option("--preset", "machine_preset", metavar="NAME",
                     help=f"The machine: a preset of `openese presets`.{taken}"),
        click.option("--config", "machine_file", metavar="FILE",
                     help="The machine: a TOML file with the fields of a configuration, and perhaps the key preset, "
                          "whose fields it changes."),
        click.option("--for", "machine_of", type=PATH, metavar="PATH",
                     help="The machine: the one that an image, a folder of images or a quantized network is made for."),
        click.option("--set", "machine_settings", multiple=True, metavar="FIELD=N",
                     help="Another value for a field of the preset or the --config file, as weight_bits=8 or "
                          "cells=lstm+gru. May be repeated."),
    ]

    def decorate(command: _F) -> _F:
        @functools.wraps(command)
        def wrapped(*arguments: Any, machine_preset: str | None, machine_file: str | None, machine_of: Path | None,
                    machine_settings: Sequence[str], **rest: Any) -> Any:
            config = _machine(default, machine_preset, machine_file, machine_of, machine_settings)
            return command(*arguments, config=config, **rest)

        for option in reversed(options):
            wrapped = option(wrapped)
        return wrapped  # type: ignore[return-value]

    return decorate


def _machine(default: str | None, preset: str | None, file: str | None, part: Path | None,
             settings: Sequence[str]) -> Config | None:
    given = [option for option, value in (("--preset", preset), ("--config", file), ("--for", part))
             if value is not None]
    if len(given) > 1:
        raise click.UsageError(f"{' and '.join(given)} exclude each other: each names the machine")
    if part is not None:
        if settings:
            raise click.UsageError("--set does not go with --for, which takes the very machine that a file is made for")
        return _machine_of(part)
    if file is not None:
        if not file:
            raise click.UsageError("--config: the path is empty")
        config = PRESETS[file] if file in PRESETS else read_config(Path(file))
    elif preset is not None:
        config = _preset("--preset", preset)
    elif default:
        config = PRESETS[default]
    elif default is None:
        raise click.UsageError("the machine is missing: give --preset NAME, --config FILE or --for PATH")
    elif settings:
        raise click.UsageError("--set needs --preset NAME or --config FILE")
    else:
        return None
    changes: dict[str, Any] = {}
    for setting in settings:
        field, value = _setting(setting)
        if field in changes:
            raise click.UsageError(f"--set {setting}: {field} is set twice")
        changes[field] = value
    changed = config.replace(**changes)
    return config if changed == config else changed.replace(name=f"{config.name} with {', '.join(settings)}")


def _preset(where: str, name: object) -> Config:
    if not isinstance(name, str) or name not in PRESETS:
        raise click.UsageError(f"{where}: no preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]


def _known(where: str, name: str) -> None:
    """Raise unless ``name`` is a field that can be set."""
    if name not in _FIELDS:
        near = difflib.get_close_matches(name, _FIELDS, 1)
        there = f"did you mean {near[0]}?" if near else f"there are {', '.join(_FIELDS)}"
        raise click.UsageError(f"{where}: no field {name!r} that can be set; {there}")


def _setting(text: str, option: str = "--set") -> tuple[str, int | str]:
    name, _, value = text.partition("=")
    _known(f"{option} {text}", name)
    if name == "cells" and value:
        return name, value
    if not (value.isascii() and value.isdecimal()):
        raise click.UsageError(f"{option} {text}: expected FIELD=N, with a whole number")
    if name in FLAGS and value not in ("0", "1"):
        raise click.UsageError(f"{option} {text}: {name} is 0 or 1")
    return name, int(value)


def parse_settings(settings: Sequence[str]) -> dict[str, tuple[int | str, ...]]:
    """The values of --try FIELD=N,N,... by field.

    Raises
    ------
    click.UsageError
    """
    given: dict[str, tuple[int | str, ...]] = {}
    for setting in settings:
        name, _, values = setting.partition("=")
        if name in given:
            raise click.UsageError(f"--try {setting}: {name} is given twice")
        given[name] = tuple(_setting(f"{name}={value}", "--try")[1] for value in values.split(","))
    return given


def read_config(path: Path) -> Config:
    """The machine in a TOML file.

    Its keys are the fields of `Config`. With the key ``preset``, the others change that preset's fields. The name, if
    none is given, is the file's.

    Raises
    ------
    click.UsageError, ValueError
        For a file that is no TOML, an unknown key, or a value that a machine cannot have; they name the file.
    OSError
        If it cannot be read.
    """
    if path.suffix != ".toml" and not path.exists():
        raise click.UsageError(f"--config {path}: no such file, and no preset; presets are {', '.join(PRESETS)}")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{path}: not TOML: {error}") from None
    base = _preset(f"{path}: preset", values.pop("preset")) if "preset" in values else None
    name = values.pop("name", path.stem)
    if not isinstance(name, str):
        raise click.UsageError(f"{path}: name must be text, not {name!r}")
    for field, value in values.items():
        _known(str(path), field)
        wanted, kind = (("true or false", bool) if field in FLAGS else ("text", str) if field == "cells"
                        else ("a whole number", int))
        if type(value) is not kind:
            raise click.UsageError(f"{path}: {field} must be {wanted}, not {value!r}")
    missing = [] if base else [field for field in ("pes", "channels") if field not in values]
    if missing:
        raise click.UsageError(f"{path}: {' and '.join(missing)} must be given, or a preset")
    try:
        return base.replace(name=name, **values) if base else Config(name=name, **values)
    except ValueError as error:
        raise click.UsageError(f"{path}: {error}") from None


def _machine_of(path: Path) -> Config:
    kind = files.kind(path)
    if kind == "images":
        return CompiledNetwork.load(path).config
    if kind == "quantized":
        return QuantizedNetwork.load(path).config
    if kind == "whole":
        return CompiledWhole.load(path).config
    what = "a network in floating point, which is for no machine yet" if kind == "network" else "not made for a machine"
    raise click.UsageError(f"--for {path}: {what}; expected a compiled or a quantized network")


def keep_inputs(output: Path, *inputs: Path | None, option: str = "--output") -> None:
    """Raise `click.UsageError` if ``output`` is one of the files that a command reads, or lies in an input folder under
    the name of one of its files."""
    for given in inputs:
        if given is None or not given.exists():
            continue
        for file in [given, *given.iterdir()] if given.is_dir() else [given]:
            if output.exists() and output.samefile(file):
                raise click.UsageError(f"{option} {output} would overwrite an input of this command")


def parse_density(values: Sequence[str], network: Network) -> Density:
    """The density of `openese.prune` for a network; see `parse_densities`."""
    return parse_densities(values, [layer for direction in network.directions for layer in direction.model.layers])


def parse_densities(values: Sequence[str], held: Sequence[Layer]) -> Density:
    """The density of `openese.prune` for layers: one number, or numbers by matrix, or by layer.

    Raises
    ------
    click.BadParameter
    """
    parsed: dict[str, float] = {}
    for value in values:
        name, named, number = value.rpartition("=")
        if named and not name:
            raise click.BadParameter(f"--density {value!r}: expected a number, or NAME=number")
        if name in parsed:
            raise click.BadParameter(f"--density {value!r}: {name or 'a density for all matrices'} is given twice")
        try:
            parsed[name] = float(number)
        except ValueError:
            raise click.BadParameter(f"--density {value!r}: expected a number, or NAME=number") from None
    if "" in parsed:
        if len(parsed) > 1:
            raise click.BadParameter("--density: one number for all, or only numbers with names")
        return parsed[""]
    if parsed.keys() <= set(TENSORS):
        return parsed
    if parsed.keys() & set(TENSORS):
        raise click.BadParameter("--density: either matrices alone, or layers; for a matrix of a layer LAYER.w_x=0.5")
    there = {layer.name: [name for name in TENSORS if getattr(layer, name) is not None] for layer in held}
    layers: dict[str, dict[str, float]] = {}
    for name, share in sorted(parsed.items(), key=lambda item: "." in item[0]):  # a matrix's own density wins
        layer, _, tensor = name.rpartition(".")
        if layer and tensor in TENSORS and name not in there:
            layers.setdefault(layer, {})[tensor] = share
        else:
            layers[name] = dict.fromkeys(there.get(name, TENSORS), share)
    return layers
