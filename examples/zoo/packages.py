# SPDX-License-Identifier: Apache-2.0
"""Find the models in installed packages."""

from importlib.util import find_spec
from pathlib import Path

__all__ = ["package_folder"]


def package_folder(name):
    """Return the folder of an installed package, without importing it.

    Raises
    ------
    ValueError
        If the package is not installed.
    """
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"the package {name!r} is not installed; `nox -s zoo` installs it")
    return Path(spec.submodule_search_locations[0])
