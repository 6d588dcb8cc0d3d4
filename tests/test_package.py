# SPDX-License-Identifier: Apache-2.0
"""The package as users meet it: a light import, no module under two names, and a wheel beside foreign folders."""

import doctest
import importlib.metadata
import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest

import openese

ROOT = Path(__file__).parents[1]
# Writes, at the end of a process, the names of all modules by their real file.
REPORT = """
import atexit, json, os, sys
def report():
    names = {}
    for name, module in list(sys.modules.items()):
        if getattr(module, "__file__", None):
            names.setdefault(os.path.realpath(module.__file__), []).append(name)
    with open(os.environ["OPENESE_REPORT"], "w") as file:
        json.dump(names, file)
atexit.register(report)
"""


def run(*command, folder, **environment):
    """Runs a process without this checkout on its path; its standard output."""
    settings = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    done = subprocess.run([str(part) for part in command], cwd=folder, env={**settings, **environment}, text=True,
                          capture_output=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def check_names(tmp_path, *command, folder, home=ROOT, wanted):
    """Runs a process, and checks that it has loaded no module of the project at ``home`` under two names."""
    (tmp_path / "site").mkdir(exist_ok=True)
    (tmp_path / "site" / "sitecustomize.py").write_text(REPORT)
    report = tmp_path / "report.json"
    run(*command, folder=folder, OPENESE_REPORT=str(report), PYTHONPATH=str(tmp_path / "site"))
    tops = [os.path.realpath(home / name) for name in ("openese", "rtl", "sw", "sim")]
    names = {file: names for file, names in json.loads(report.read_text()).items()
             if any(file.startswith(top + os.sep) for top in tops)}
    assert {file: several for file, several in names.items() if len(several) > 1} == {}
    loaded = {name for several in names.values() for name in several}
    assert loaded.issuperset(wanted)
    assert all(name == "__main__" or name.split(".")[0] == "openese" for name in loaded)


# -- the import --------------------------------------------------------------------------------------------


def test_the_import_is_light():
    """No package but Python's own; well below 0.3 s on any machine."""
    script = ("import sys, time; before = set(sys.modules); began = time.perf_counter(); import openese; "
              "print(time.perf_counter() - began, *(set(sys.modules) - before))")
    seconds, *modules = run(sys.executable, "-c", script, folder=ROOT).split()
    assert float(seconds) < 0.3
    heavy = {"numpy", "scipy", "amaranth", "click", "rich", "torch"}
    assert not heavy & {name.split(".")[0] for name in modules}
    assert not any(name.startswith("openese.") for name in modules)


def test_the_docstring_runs():
    assert doctest.testmod(openese).failed == 0


def test_names_that_need_an_extra_say_so(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("openese.sw.training")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(vars(openese), "Pruner", raising=False)
    with pytest.raises(ImportError, match=r"the package 'torch' is missing: pip install 'openese\[train\]'"):
        _ = openese.Pruner


@pytest.mark.parametrize("name", openese.__all__)
def test_every_public_name_is_there_and_says_what_it_is_for(name):
    if name in ("LSTMP", "Pruner", "distill", "scan"):
        pytest.importorskip("torch", reason="training needs the extra `train`")
    found = getattr(openese, name)
    assert name in dir(openese)
    assert found is openese.PRESETS or found.__doc__


def test_the_version_is_the_packages():
    assert openese.__version__ == importlib.metadata.version("openese")


def test_other_names_are_refused():
    with pytest.raises(AttributeError, match="module 'openese' has no attribute 'compil'"):
        openese.compil  # noqa: B018


# -- one name for each module ------------------------------------------------------------------------------


def test_the_command_loads_no_module_twice(tmp_path):
    check_names(tmp_path, sys.executable, "-m", "openese", "build", "--preset", "tiny", "-o", tmp_path / "hdl",
                folder=ROOT, wanted=["openese.rtl.top", "openese.sw.cli", "__main__"])


def test_building_from_a_checkout_loads_no_module_twice(tmp_path):
    check_names(tmp_path, sys.executable, "-m", "rtl.build", "--config", "tiny", "--target", "ip", "-o",
                tmp_path / "hdl", folder=ROOT, wanted=["openese.rtl.top", "openese.rtl.targets.ip", "__main__"])
    assert (tmp_path / "hdl" / "hdl" / "openese.v").exists()


@pytest.mark.parametrize("name", ["rtl", "sw", "sim", "rtl.config", "sw.cli", "sim.simulator"])
def test_no_folder_is_imported_by_its_own_name(name):
    script = f"import {name}"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode and f"this package is imported as openese.{name.split('.')[0]}" in done.stderr


# -- the wheel ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The project's wheel; its build needs hatchling, of the extra `dev`, and no index."""
    pytest.importorskip("hatchling", reason="the wheel needs hatchling: the extra `dev`")
    folder = tmp_path_factory.mktemp("wheel")
    script = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    name = run(sys.executable, "-c", script, folder, folder=ROOT).split()[-1]
    return folder / name


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Python of an environment in which OpenESE comes from the wheel, and its dependencies from this environment."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    here = {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
    (site / "dependencies.pth").write_text("\n".join(sorted(here)) + "\n")
    return folder / "bin" / "python"


def test_the_wheel_holds_openese_alone(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"openese"}
    for name in ("__init__.py", "__main__.py", "py.typed", "rtl/top.py", "sw/cli/__init__.py", "sim/harness.cpp",
                 "constraints/zynq.tcl", "rtl/targets/driver/openese.c", "sw/speech/recognizer.img"):
        assert f"openese/{name}" in names
    assert not any(name.endswith(("dense.npz", ".pyc")) for name in names)
    assert wheel.stat().st_size < 3e6


def test_the_wheel_works_beside_foreign_folders(installed, tmp_path):
    """In a folder with a user's rtl.py, sw.py, sim and constraints: compile a model, emit its Verilog, run it."""
    for name in ("rtl.py", "sw.py", "sim/__init__.py", "constraints/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("raise ImportError('a file of the user, not of OpenESE')\n")
    (tmp_path / "make.py").write_text(
        "import numpy as np, openese\n"
        "rng = np.random.default_rng(1)\n"
        "layer = openese.Layer(name='lstm', bias=np.zeros((4, 16)), w_x=rng.normal(scale=0.2, size=(4, 16, 8)),\n"
        "                      w_r=rng.normal(scale=0.2, size=(4, 16, 16)))\n"
        "openese.Model(layers=(layer,)).save('net.npz')\n"
        "np.save('speech.npy', rng.normal(size=(50, 3, 8)))\n"
        "print(openese.__file__)\n")
    home = Path(run(installed, "make.py", folder=tmp_path).strip()).parents[1]
    assert home.is_relative_to(installed.parents[1])
    openese = (installed, "-m", "openese")
    check_names(tmp_path, *openese, "compile", "net.npz", "--preset", "tiny", "--density", "0.5", "--calibrate",
                "speech.npy", "-o", "net.img", folder=tmp_path, home=home, wanted=["openese.sw.compile"])
    check_names(tmp_path, *openese, "build", "--for", "net.img", "--target", "kcu105", "-o", "hdl", folder=tmp_path,
                home=home, wanted=["openese.rtl.top", "openese.rtl.targets.boards"])
    assert all((tmp_path / "hdl" / name).exists() for name in ("ip/hdl/openese.v", "kcu105.tcl", "machine.tcl"))
    check_names(tmp_path, *openese, "run", "net.img", "speech.npy", "-o", "out.npy", "--check", folder=tmp_path,
                home=home, wanted=["openese.sw.reference.machine"])
    assert np.load(tmp_path / "out.npy").shape == (50, 3, 16)
