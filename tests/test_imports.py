# SPDX-License-Identifier: Apache-2.0
"""Which part may import which: the hardware nothing of the host, the simulators nothing of it either."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def imported(path):
    """Every module that a file names in an import, at its top or in a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are absolute"
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def below(module, *packages):
    return any(module == package or module.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize(("folder", "refused"), [
    ("rtl", ("openese.sw", "openese.sim")),
    ("sim", ("openese.sw",)),
])
def test_no_import_goes_back(folder, refused):
    wrong = [f"{path.relative_to(ROOT)} imports {module}" for path in sorted((ROOT / folder).rglob("*.py"))
             for module in imported(path) if below(module, *refused)]
    assert not wrong


def test_the_model_stands_alone():
    wrong = [f"{path.relative_to(ROOT)} imports {module}" for path in sorted((ROOT / "sw" / "model").glob("*.py"))
             for module in imported(path) if below(module, "openese.sw") and not below(module, "openese.sw.model")
             and module != "openese.sw"]
    assert not wrong


def test_the_folders_of_sw_have_no_circle():
    graph = {}
    for path in sorted((ROOT / "sw").rglob("*.py")):
        own = path.relative_to(ROOT / "sw").with_suffix("").parts[0]
        uses = {module.split(".")[2] for module in imported(path) if module.startswith("openese.sw.")}
        graph.setdefault(own, set()).update(uses - {own})
    assert len(graph) > 10
    list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle
