# SPDX-License-Identifier: Apache-2.0
"""Where packages keep the models that come with them."""

from importlib.util import find_spec
from pathlib import Path

__all__ = ["package_folder"]


def package_folder(name):
    """The folder of an installed package, which is not imported."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"the package {name!r} is not installed: run `nox -s zoo`")
    return Path(spec.submodule_search_locations[0])
