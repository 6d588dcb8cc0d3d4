# SPDX-License-Identifier: Apache-2.0
"""What all importers share: their interface, their limits, their way to say no."""

import importlib
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openese.sw.importers.assembly import Part, assemble
from openese.sw.model.network import Network

__all__ = ["LIMIT", "Entry", "ImportRefused", "Importer", "Source", "listed", "open_zip", "read_member",
           "require", "zip_members"]

#: Bytes that one member of an archive, or one tensor, may unpack to.
LIMIT = 2 << 30

_ZIP_ERRORS = (zipfile.BadZipFile, NotImplementedError, ValueError)


class ImportRefused(ValueError):
    """A file, or something in it, that is not taken: the message says what, where and what would do."""


@dataclass(frozen=True)
class Entry:
    """One thing in a file that can be selected, or the reason why it cannot.

    Attributes
    ----------
    name : str
        What ``select`` takes: an attribute path, a node name, a layer name.
    kind : str
        As its source calls it: ``LSTM``, ``LSTMCell``, ``Linear``, ``GRU`` and so on.
    summary : str
        Sizes, directions, and what follows, for people.
    problem : str, optional
        Why it is refused.
    """

    name: str
    kind: str
    summary: str = ""
    problem: str | None = None


@dataclass(frozen=True)
class Importer:
    """One kind of file.

    Attributes
    ----------
    name : str
        For people and messages.
    suffixes : tuple of str
        File name endings, lower case; they decide where contents do not.
    sniff : callable
        ``sniff(head, members)``: whether the first bytes, or a zip archive's member names, are of this kind.
    open : callable
        ``open(path)`` gives the `Source`.
    """

    name: str
    suffixes: tuple[str, ...]
    sniff: Callable[[bytes, Sequence[str]], bool]
    open: Callable[[Path], "Source"]

    def entries(self, path: Path) -> list[Entry]:
        """What is in the file at ``path``."""
        return self.open(path).entries()

    def load(self, path: Path, select: str | Sequence[str] | None = None) -> Network:
        """The network in the file at ``path``, of the names in ``select`` or of the clear default."""
        return self.open(path).load(select)


class Source(ABC):
    """An opened file."""

    path: Path

    @abstractmethod
    def entries(self) -> list[Entry]:
        """Everything that can be selected, and what is like it but refused."""

    @abstractmethod
    def default(self) -> list[str]:
        """The names that are taken where none is selected; empty where that is not clear."""

    @abstractmethod
    def parts(self, names: Sequence[str]) -> list[Part]:
        """The named things, in that order, with what the file says comes between and after them."""

    def load(self, select: str | Sequence[str] | None = None) -> Network:
        """The network made of the names in ``select`` (a sequence, or a string with commas).

        Raises
        ------
        ImportRefused
            For a name that is not there, is refused or is given twice, and where none is selected and
            the file does not say which.
        """
        return assemble(self.parts(self._names(select)), self.path.stem)

    def _names(self, select: str | Sequence[str] | None) -> list[str]:
        entries = {entry.name: entry for entry in self.entries()}
        usable = [entry.name for entry in entries.values() if entry.problem is None]
        file = self.path.name
        if not usable:
            if not entries:
                raise ImportRefused(f"{file}: no LSTM in it; one written out in single operations is not "
                                    f"recognized")
            refused = next(iter(entries.values()))
            raise ImportRefused(f"{file}: no LSTM that can be taken; {refused.kind} {refused.name!r}: "
                                f"{refused.problem}")
        if select is None:
            names = self.default()
            if not names:
                raise ImportRefused(f"{file}: select one of {listed(usable)}, or several to stack them")
            return names
        names = [name.strip() for name in select.split(",")] if isinstance(select, str) else list(select)
        for name in names:
            if name not in entries:
                raise ImportRefused(f"{file}: nothing named {name!r}; there is {listed(usable)}")
            if entries[name].problem is not None:
                raise ImportRefused(f"{file}: {entries[name].kind} {name!r}: {entries[name].problem}")
            if names.count(name) > 1:
                raise ImportRefused(f"{file}: {name!r} is selected {names.count(name)} times")
        return names


def listed(names: Sequence[str]) -> str:
    """The first few of ``names``, and how many more there are."""
    shown = ", ".join(repr(name) for name in names[:8])
    return shown + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def require(module: str, extra: str, what: str) -> Any:
    """Import an optional library.

    Raises
    ------
    ImportRefused
        If it is not installed: one line that says what to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ImportRefused(f"reading {what} needs the '{extra}' extra: "
                            f"pip install openese[{extra}]") from None


def zip_members(path: Path) -> list[str]:
    """Names of the members of a zip archive; none for another file.

    Raises
    ------
    ImportRefused
        If it is damaged.
    """
    try:
        if not zipfile.is_zipfile(path):
            return []
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except _ZIP_ERRORS as error:
        raise ImportRefused(f"{path.name}: damaged archive ({error})") from None


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip archive for `read_member`; nothing is ever extracted to disk.

    Raises
    ------
    ImportRefused
        If it is damaged, or declares to unpack to much more than it is.
    """
    try:
        archive = zipfile.ZipFile(path)
    except _ZIP_ERRORS as error:
        raise ImportRefused(f"{path.name}: damaged archive ({error})") from None
    declared = sum(info.file_size for info in archive.infolist())
    if declared > max(LIMIT, 4 * path.stat().st_size):
        archive.close()
        raise ImportRefused(f"{path.name}: {path.stat().st_size:,} bytes that unpack to {declared:,} "
                            f"are not read")
    return archive


def read_member(archive: zipfile.ZipFile, name: str, limit: int = LIMIT) -> bytes:
    """A member's bytes, refused by its declared size before anything is unpacked.

    Raises
    ------
    ImportRefused
        If it is not there, too large, encrypted or damaged.
    """
    where = Path(archive.filename or "archive").name
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise ImportRefused(f"{where}: member {name!r} is missing") from None
    if info.file_size > limit:
        raise ImportRefused(f"{where}: member {name!r} unpacks to {info.file_size:,} bytes; "
                            f"at most {limit:,} are read")
    try:
        with archive.open(info) as file:
            return file.read(limit)
    except (*_ZIP_ERRORS, zlib.error, RuntimeError, EOFError, OSError) as error:
        raise ImportRefused(f"{where}: member {name!r} cannot be read ({error})") from None
