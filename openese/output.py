# SPDX-License-Identifier: Apache-2.0
"""Files that are written whole or not at all.

A file is written beside its place and renamed when it is complete. A full disk, an error or a crash leaves the old file
as it was.
"""

import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

__all__ = ["replacing", "replacing_folder", "write_text"]


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A new file, open for binary writing, that takes the place of ``path`` at the end of the ``with`` block.

    After an error the new file is gone and ``path`` is as it was. A device or pipe is written to at the end.

    Raises
    ------
    OSError
        The file cannot be written. The error names ``path``.
    """
    place = Path(os.path.realpath(path))
    with _naming(path):
        if place.exists() and not place.is_file() and not place.is_dir():
            with tempfile.TemporaryFile() as file:
                yield file
                file.seek(0)
                with open(place, "wb") as device:
                    shutil.copyfileobj(file, device)
            return
        if place.is_dir():
            raise IsADirectoryError(errno.EISDIR, "Is a directory", os.fspath(path))
        beside = place.with_name(f".{place.name[:200]}.{secrets.token_hex(4)}.part")
        with _removed_on_error(beside):
            with open(beside, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if place.exists():
                shutil.copymode(place, beside)
            beside.replace(place)


@contextmanager
def replacing_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A new folder whose files are moved into the folder ``path`` at the end of the ``with`` block.

    ``path`` is made if it is not there; its other files stay. After an error the new files are gone, and ``path`` is as
    it was.

    Raises
    ------
    OSError
        A file cannot be written. The error names ``path``.
    """
    place = Path(os.path.realpath(path))
    beside = place.with_name(f".{place.name[:200]}.{secrets.token_hex(4)}.part")
    with _naming(path):
        if place.exists() and not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "Not a directory", os.fspath(path))
        place.parent.mkdir(parents=True, exist_ok=True)
        with _removed_on_error(beside):
            beside.mkdir()
            yield beside
            if not place.exists():
                beside.rename(place)
                return
            for file in sorted(beside.rglob("*")):
                target = place / file.relative_to(beside)
                if file.is_dir():
                    target.mkdir(exist_ok=True)
                else:
                    file.replace(target)
            shutil.rmtree(beside)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` in UTF-8, with the same line ends on every system, as by `replacing`."""
    with replacing(path) as file:
        file.write(text.encode())


@contextmanager
def _removed_on_error(path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with suppress(OSError):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        raise


@contextmanager
def _naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Errors of the system that name no file, or the new one, name ``path``."""
    try:
        yield
    except OSError as error:
        named = str(error.filename or "")
        if named and ".part" not in named:
            raise
        if error.errno is None:  # of numpy, when a write falls short
            raise OSError(errno.ENOSPC, f"cannot be written whole: {error}", os.fspath(path)) from None
        raise type(error)(error.errno, error.strerror, os.fspath(path)) from None
