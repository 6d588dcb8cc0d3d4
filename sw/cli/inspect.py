# SPDX-License-Identifier: Apache-2.0
"""Commands that look: at a file, at the soundness of an image, at the machines there are."""

from collections.abc import Sequence
from pathlib import Path

import click

from openese.sw import files, importers
from openese.sw.cli import show, whole
from openese.sw.cli.options import PATH, trust_option
from openese.sw.compile import CompiledNetwork, QuantizedNetwork

__all__ = ["info", "presets", "verify"]


@click.command()
@click.argument("path", type=PATH)
@trust_option
def info(path: Path, trust: bool) -> None:
    """Show the contents of PATH.

    PATH is a network, a quantized or compiled network, or a file to import.

    \b
    Examples:
      openese info net.img
      openese info checkpoint.pt
    """
    kind = files.kind(path)
    if kind == "whole":
        whole.info(path, trust)
    elif kind == "images":
        for image in CompiledNetwork.load(path).images:
            show.image(image)
    elif kind == "quantized":
        for model in QuantizedNetwork.load(path).models:
            show.quantized(model)
    elif kind == "network":
        show.network(files.load_network(path))
    else:
        show.entries(importers.entries(path))


@click.command()
@click.argument("image", type=PATH)
@click.option("--quantized", type=PATH, multiple=True, metavar="PATH",
              help="The quantized network that the image should hold. If it holds several, once for each, in their "
                   "order.")
@trust_option
def verify(image: Path, quantized: Sequence[Path], trust: bool) -> None:
    """Check that IMAGE, or every image of a whole network, is sound.

    Its format, manifest and CRCs are checked, and that it decodes to a model that packs into the same bytes again.

    \b
    Example:
      openese verify net.img --quantized quantized.npz
    """
    if files.kind(image) == "whole":
        if quantized:
            raise click.UsageError("--quantized goes with an image; this is a whole network")
        whole.verify(image, trust)
        return
    images = CompiledNetwork.load(image).images
    given = [model for path in quantized for model in QuantizedNetwork.load(path).models]
    held = sum(len(one.names) for one in images)
    if quantized and len(given) != held:
        raise files.FileError(f"{image} holds {held} model{'s' if held > 1 else ''}, "
                              f"{', '.join(map(str, quantized))} {len(given)}")
    for one in images:
        wanted, given = given[:len(one.names)], given[len(one.names):]
        files.verify_image(one, wanted)
        show.verified(one, f", holds the quantized model{'s' if len(wanted) > 1 else ''}" if wanted else "")


@click.command()
def presets() -> None:
    """List the machines that have a name.

    Any of them can be changed by --set FIELD=N, or in a TOML file for --config.

    \b
    Example:
      openese presets
    """
    show.presets()
