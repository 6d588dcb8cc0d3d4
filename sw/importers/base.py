# SPDX-License-Identifier: Apache-2.0
"""The interface of all importers, their limits, and their error."""

import importlib
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from openese.sw.importers.assembly import Part, assemble
from openese.sw.model.network import Network

__all__ = ["LIMIT", "Entry", "ImportRefused", "Importer", "Source", "listed", "open_zip", "printable",
           "read_member", "read_start", "require", "zip_members"]

#: The largest size of one archive member or one tensor, in bytes.
LIMIT = 2 << 30

_ZIP_ERRORS = (zipfile.BadZipFile, NotImplementedError, ValueError)


class ImportRefused(ValueError):
    """A file or a layer cannot be imported; the message says why, names the place, and says what to do."""


@dataclass(frozen=True)
class Entry:
    """A layer in a file that can be selected, or that is refused.

    Attributes
    ----------
    name : str
        The name that ``select`` takes: an attribute path, a node name or a layer name.
    kind : str
        The layer's class in its framework: ``LSTM``, ``LSTMCell``, ``Linear``, ``GRU`` and so on.
    summary : str
        Sizes and directions, as text.
    problem : str, optional
        The reason why the layer is refused.
    elsewhere : bool
        Whether it is no part of a layer that can be selected, and only named.
    """

    name: str
    kind: str
    summary: str = ""
    problem: str | None = None
    elsewhere: bool = False


@dataclass(frozen=True)
class Importer:
    """The reader of one kind of file.

    Attributes
    ----------
    name : str
        The kind of file, as messages name it.
    suffixes : tuple of str
        File name endings in lower case. They decide if no importer recognizes the contents.
    sniff : callable
        ``sniff(head, members)`` tells whether a file with these first bytes, or an archive with these member
        names, is of this kind.
    open : callable
        ``open(path)`` returns the `Source`.
    """

    name: str
    suffixes: tuple[str, ...]
    sniff: Callable[[bytes, Sequence[str]], bool]
    open: Callable[[Path], "Source"]

    def entries(self, path: Path) -> list[Entry]:
        """List the layers in the file at ``path``."""
        return self.open(path).entries()

    def load(self, path: Path, select: str | Sequence[str] | None = None, ignore: Sequence[str] = ()) -> Network:
        """Return the network in the file at ``path``; see `Source.load`."""
        return self.open(path).load(select, ignore)


class Source(ABC):
    """An opened file.

    Attributes
    ----------
    path : Path
    expected : str
        The layers that the importer recognizes, for the message about a file without one.
    """

    path: Path
    expected: ClassVar[str]

    @abstractmethod
    def entries(self) -> list[Entry]:
        """List the layers that can be selected, and recurrent layers that are refused."""

    @abstractmethod
    def default(self) -> list[str]:
        """Return the names to load without a selection; none if the choice is not clear."""

    @abstractmethod
    def parts(self, names: Sequence[str]) -> list[Part]:
        """Return the named layers in this order.

        Raises
        ------
        ImportRefused
            If a layer cannot be imported.
        """

    def load(self, select: str | Sequence[str] | None = None, ignore: Sequence[str] = ()) -> Network:
        """Return the network made of the layers in ``select`` (a sequence, or a string with commas).

        ``ignore`` names tensors of a file without a graph that have no effect; see `tensors.TensorSource`.

        Raises
        ------
        ImportRefused
            If a name is unknown, refused or given twice, or if ``select`` is missing and the choice is not clear.
        ModelError
            If the layers do not fit each other.
        """
        self._ignore_nothing(ignore)
        return assemble(self.parts(self._names(select)), self.path.stem)

    def _ignore_nothing(self, ignore: Sequence[str]) -> None:
        if ignore:
            raise ImportRefused(f"{self.path.name}: --ignore {ignore[0]}: only tensors of a file without a graph can "
                                f"be ignored")

    def _names(self, select: str | Sequence[str] | None) -> list[str]:
        there = self.entries()
        entries = {entry.name: entry for entry in there if not entry.elsewhere}
        usable = [entry.name for entry in entries.values() if entry.problem is None]
        file = self.path.name
        if not usable:
            if not entries:
                raise ImportRefused(f"{file}: no LSTM or GRU found; expected {self.expected}")
            refused = next(iter(entries.values()))
            raise ImportRefused(f"{file}: no layer that can be imported: {refused.kind} {refused.name!r}: "
                                f"{refused.problem}")
        refusals = [f"{entry.kind} {entry.name!r}" for entry in entries.values() if entry.problem is not None]
        if select is None:
            names = self.default()
            if not names:
                raise ImportRefused(f"{file}: select one of {listed(usable)}, or several to stack them "
                                    f"(--select NAME,NAME)"
                                    + (f"; {', '.join(refusals)} cannot be imported" if refusals else ""))
            return names
        names = [name.strip() for name in select.split(",")] if isinstance(select, str) else list(select)
        for name in names:
            if any(entry.elsewhere and entry.name == name for entry in there):
                raise ImportRefused(f"{file}: {name!r} is no layer that can be selected; select from {listed(usable)}")
            if name not in entries:
                raise ImportRefused(f"{file}: no layer is named {name!r}; select from {listed(usable)}")
            if entries[name].problem is not None:
                raise ImportRefused(f"{file}: {entries[name].kind} {name!r}: {entries[name].problem}")
            if names.count(name) > 1:
                raise ImportRefused(f"{file}: {name!r} is selected {names.count(name)} times; select it once")
        return names


def listed(names: Sequence[str]) -> str:
    """Return the first eight of ``names`` as text, and the number of the others."""
    shown = ", ".join(repr(name) for name in names[:8])
    return shown + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def printable(name: str) -> str:
    """Return a name of a file with control characters and line ends escaped."""
    return name if name.isprintable() else ascii(name)[1:-1]


def require(module: str, extra: str, what: str) -> Any:
    """Import an optional library.

    Parameters
    ----------
    module : str
        The name of the library.
    extra : str
        The extra of ``openese`` that installs it.
    what : str
        The files that need it, for the message.

    Raises
    ------
    ImportRefused
        If the library is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ImportRefused(f"reading {what} needs the '{extra}' extra: "
                            f"pip install openese[{extra}]") from None


def zip_members(path: Path) -> list[str]:
    """Return the names of the members of a zip archive; none for another file.

    Raises
    ------
    ImportRefused
        If the archive is damaged.
    """
    try:
        if not zipfile.is_zipfile(path):
            return []
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except _ZIP_ERRORS as error:
        raise ImportRefused(f"{path.name}: the zip archive is damaged ({error}); copy or save it again") from None


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip archive for `read_member`; nothing is extracted to disk.

    Raises
    ------
    ImportRefused
        If the archive is damaged, or declares members of more than `LIMIT` and more than four times its size.
    """
    try:
        archive = zipfile.ZipFile(path)
    except _ZIP_ERRORS as error:
        raise ImportRefused(f"{path.name}: the zip archive is damaged ({error}); copy or save it again") from None
    size = path.stat().st_size
    for info in archive.infolist():
        if info.compress_size > size:  # so much memory would be taken
            archive.close()
            raise ImportRefused(f"{path.name}: the zip archive is damaged (member {info.filename!r} has "
                                f"{info.compress_size:,} bytes, the archive {size:,}); copy or save it again")
    declared = sum(info.file_size for info in archive.infolist())
    limit = max(LIMIT, 4 * size)
    if declared > limit:
        archive.close()
        raise ImportRefused(f"{path.name}: the archive of {size:,} bytes unpacks to {declared:,} "
                            f"bytes; at most {limit:,} are read")
    return archive


def read_member(archive: zipfile.ZipFile, name: str, limit: int = LIMIT) -> bytes:
    """Return a member's bytes. The declared size is checked before anything is unpacked.

    Raises
    ------
    ImportRefused
        If the member is missing, larger than ``limit`` bytes, encrypted or damaged.
    """
    where = Path(archive.filename or "archive").name
    try:
        size = archive.getinfo(name).file_size
    except KeyError:
        raise ImportRefused(f"{where}: the archive has no member {name!r}; save the model again") from None
    if size > limit:
        raise ImportRefused(f"{where}: member {name!r} unpacks to {size:,} bytes; at most {limit:,} are read")
    return read_start(archive, name, limit)


def read_start(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """Return the first ``limit`` bytes of a member that is there.

    Raises
    ------
    ImportRefused
        If the member is encrypted or damaged.
    """
    try:
        with archive.open(name) as file:
            return file.read(limit)
    except (*_ZIP_ERRORS, zlib.error, RuntimeError, EOFError, OSError) as error:
        raise ImportRefused(f"{Path(archive.filename or 'archive').name}: member {name!r} cannot be read "
                            f"({error})") from None
