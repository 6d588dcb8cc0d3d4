# SPDX-License-Identifier: Apache-2.0
"""Every writer leaves what was there when it cannot finish, and nothing half done."""

import os
import resource
from contextlib import contextmanager

import numpy as np
import pytest
from models import random_model, random_quantized

import openese
from openese.output import replacing, replacing_folder, write_text
from openese.rtl.config import preset
from openese.rtl.targets import write_files
from openese.sw.model.network import Direction, Network, Stage
from openese.sw.model.sequences import Sequences
from openese.sw.pack.image import pack, write_memory_files
from openese.sw.pack.schedule import schedule

TINY = preset("tiny")
MODEL = random_model(1, 5, (9, 6), 7)
QUANTIZED = random_quantized(1, TINY, 5, (9, 6), 7)
IMAGE = pack(schedule(QUANTIZED, TINY))
BOTH = Network(stages=(Stage((Direction(MODEL), Direction(MODEL, reverse=True))),))
COMPILED = openese.CompiledNetwork((IMAGE, IMAGE), BOTH)

FILES = {
    "network": MODEL.save, "network of several models": BOTH.save, "quantized": QUANTIZED.save, "image": IMAGE.save,
    "outputs": lambda path: Sequences(np.zeros((9, 1, 5))).save(path, np.zeros((500, 1, 5))),
    "text": lambda path: write_text(path, "x" * 5000),
}
FOLDERS = {
    "images": COMPILED.save, "memories": lambda path: write_memory_files(IMAGE, path),
    "of a target": lambda path: write_files(path, {"ip/a.v": "a", "openese.v": "x" * 5000}),
}


@contextmanager
def full_disk(size=1000):
    """No file may become longer than ``size``."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("save", FILES.values(), ids=FILES)
def test_a_full_disk_keeps_the_old_file(save, tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with full_disk(), pytest.raises(OSError, match="File too large|cannot be written whole") as error:
        save(path)
    assert error.value.filename == str(path)
    assert contents(tmp_path) == {"file": b"old"}
    save(path)
    assert path.stat().st_size > 1000 and os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("save", FOLDERS.values(), ids=FOLDERS)
def test_a_full_disk_keeps_the_old_folder(save, tmp_path):
    save(tmp_path / "folder")
    if save != COMPILED.save:  # which refuses a folder with other files
        (tmp_path / "folder" / "note").write_text("of the user")
    before = contents(tmp_path)
    assert max(map(len, before.values())) > 1000
    with full_disk(), pytest.raises(OSError, match="File too large"):
        save(tmp_path / "folder")
    assert contents(tmp_path) == before and os.listdir(tmp_path) == ["folder"]
    save(tmp_path / "folder")
    assert contents(tmp_path) == before and os.listdir(tmp_path) == ["folder"]


def test_links_modes_and_devices_are_respected(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "real").chmod(0o640)
    (tmp_path / "link").symlink_to("real")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "new"
    assert (tmp_path / "real").stat().st_mode & 0o777 == 0o640
    QUANTIZED.save("/dev/null")
    assert os.path.exists("/dev/null") and not os.path.isfile("/dev/null")


def test_places_that_cannot_be_written_are_named(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(FileNotFoundError) as error, replacing(tmp_path / "none" / "x"):
        pass
    assert error.value.filename == str(tmp_path / "none" / "x")
    with pytest.raises(IsADirectoryError), replacing(tmp_path):
        pass
    with pytest.raises(NotADirectoryError), replacing_folder(tmp_path / "file"):
        pass
    with pytest.raises(KeyError), replacing(tmp_path / "file") as file:
        file.write(b"half")
        raise KeyError("an error of the caller")
    assert contents(tmp_path) == {"file": b"old"}
