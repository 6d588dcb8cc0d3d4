# SPDX-License-Identifier: Apache-2.0
"""``nox -s mutate_software -- MODULE ...``: how many small faults in the software the tests notice.

Cosmic Ray makes the mutations; places in the code are chosen at random, then one of the mutations of the place. The
mutated module exists in the memory of a process alone. Each mutation meets the tests that run its line, the fastest
first.
"""

import ast
import importlib
import importlib.machinery
import json
import os
import random
import time
from functools import cache
from pathlib import Path

import click
import pytest
from cosmic_ray.ast import get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names
from rich.console import Console

from .__main__ import judged_in_parallel, scores, table
from .engine import finish, start

__all__ = ["MODULES", "main", "mutations"]


def _sw(*names):
    return tuple(f"tests/sw/test_{name}.py" for name in names)


#: By module: the files of tests that may notice.
MODULES = {
    "sw/quantize/calibrate.py": _sw("calibrate", "quantize"),
    "sw/quantize/choose.py": _sw("quantize", "requantize", "calibrate", "quantized"),
    "sw/quantize/compare.py": _sw("compare"),
    "sw/pack/encode.py": _sw("encode", "level", "image"),
    "sw/pack/schedule.py": _sw("image", "level", "encode", "compile"),
    "sw/pack/image.py": _sw("image"),
    "sw/cycles/blocks.py": _sw("cycles"),
    "sw/cycles/model.py": _sw("cycles"),
    "sw/cycles/stream.py": _sw("cycles"),
}

# The other operators need names of variables.
_WITHOUT_NAMES = [name for name in operator_names() if "Variable" not in name]
_OTHERS = ("amaranth.sim", "amaranth.lib.crc.catalog", "scipy.sparse", "openese.rtl.top")
_PATIENCE, _SLOWER = 120, 20
# Tests of machines of the paper's size take minutes for each mutation.
_UNLESS = "not papers"


class _Bare(ast.NodeTransformer):
    """Without annotations and docstrings, which no test runs."""

    def visit_AnnAssign(self, node):
        self.generic_visit(node)
        node.annotation = ast.Constant(None)
        return node

    def visit_arg(self, node):
        node.annotation = None
        return node

    def visit_FunctionDef(self, node):
        self.generic_visit(node)
        node.returns = None
        return node

    def visit_Expr(self, node):
        return ast.Pass() if isinstance(node.value, ast.Constant) else self.generic_visit(node)


def _bare(code):
    return ast.dump(_Bare().visit(ast.parse(code)))


@cache
def _places(code):
    """By place in the code, the operators and the occurrences of each that change it."""
    def walk(node):  # in the order in which occurrences count
        yield node
        for child in getattr(node, "children", []):
            yield from walk(child)

    nodes, places = list(walk(get_ast(code))), {}
    for name in _WITHOUT_NAMES:
        operator, occurrence = get_operator(name)(), 0
        for node in nodes:
            for start_at, _ in operator.mutation_positions(node):
                places.setdefault(start_at, []).append((name, occurrence))
                occurrence += 1
    return places


def mutations(code, count, seed):
    """``count`` mutations of ``code`` at different places: line, operator, and the mutated code."""
    chance = random.Random(seed)
    places = sorted(_places(code))
    chance.shuffle(places)
    bare, found = _bare(code), []
    for place in places:
        if len(found) == count:
            break
        name, occurrence = chance.choice(_places(code)[place])
        mutated = mutate_code(code, get_operator(name)(), occurrence)
        try:
            changes = mutated is not None and _bare(mutated) != bare
        except SyntaxError:
            continue
        if changes:
            found.append((place[0], name.removeprefix("core/"), mutated))
    return found


class _Watch:
    """A plugin of pytest: the times of tests that passed, and the first that failed."""

    def __init__(self):
        self.passed, self.failed = {}, None

    def pytest_runtest_logreport(self, report):
        if report.when == "call" and report.passed:
            self.passed[report.nodeid] = report.duration
        if report.failed and self.failed is None:
            self.failed = report.nodeid


def _put(module, code):
    """Let imports of ``module`` in this process take ``code``."""
    original = importlib.machinery.SourceFileLoader.get_code

    def get_code(self, name):
        path = self.get_filename(name)
        return compile(code, path, "exec") if path.endswith(f"openese/{module}") else original(self, name)

    importlib.machinery.SourceFileLoader.get_code = get_code


def _run(tests, module=None, code=None, options=()):
    if code is not None:
        _put(module, code)
    watch = _Watch()
    status = pytest.main(["-q", "--no-header", "-p", "no:cacheprovider", *options, *tests], plugins=[watch])
    return {"passed": watch.passed, "failed": watch.failed, "status": int(status)}


class Campaign:
    """The mutations of one module; as `engine.Campaign`."""

    def __init__(self, module, folder, count, seed):
        self.name, self._folder = module, folder
        self._code = Path(module).read_text()
        self.mutations = mutations(self._code, count, seed)
        self._results = folder / "results.jsonl"

    def known(self):
        """The results so far, by number."""
        if not self._results.exists():
            return {}
        wanted = {number: [line, operator] for number, (line, operator, _) in enumerate(self.mutations, 1)}
        entries = map(json.loads, self._results.read_text().splitlines())
        return {entry["mutation"]: entry for entry in entries
                if entry["block"] == self.name and [entry["line"], entry["operator"]] == wanted.get(entry["mutation"])}

    def prepare(self, again=False):
        """Find the tests of each line, and their times; once, or ``again``."""
        from coverage import CoverageData

        place = self._folder / f"{self.name.replace('/', '-')}.tests.json"
        if again or not place.exists():
            data = self._folder / f"{self.name.replace('/', '-')}.coverage"
            os.environ["COVERAGE_FILE"] = str(data)
            # What was imported before is not measured, of which coverage warns.
            cover = ["--cov", "--cov-context=test", "--cov-report=", "-k", _UNLESS, "-W", "default"]
            whole = finish(*start(lambda: _run(MODULES[self.name], options=cover)), 3600)
            if not whole or whole["status"]:
                raise RuntimeError(f"{self.name}: its tests fail without a mutation: {whole}")
            measured = CoverageData(str(data))
            measured.read()
            lines = {}
            for file in measured.measured_files():
                if file.endswith(self.name):
                    for line, contexts in measured.contexts_by_lineno(file).items():
                        lines.setdefault(line, set()).update(context.split("|")[0] for context in contexts)
            place.write_text(json.dumps({"times": whole["passed"],
                                         "lines": {line: sorted(filter(None, lines[line])) for line in lines}}))
        for name in _OTHERS:  # need not be imported for each mutation
            importlib.import_module(name)
        kept = json.loads(place.read_text())
        self._times, self._lines = kept["times"], kept["lines"]

    def _tests(self, line):
        """The tests that run ``line``, or all if it runs while the module is imported."""
        chosen = [test for test in self._lines.get(str(line), []) if test in self._times] or list(self._times)
        return sorted(chosen, key=self._times.get)

    def run(self, number):
        """Judge one mutation; returns its entry."""
        line, operator, code = self.mutations[number - 1]
        tests, began = self._tests(line), time.monotonic()
        seconds = max(_PATIENCE, _SLOWER * sum(map(self._times.get, tests)))
        judged = finish(*start(lambda: _run(tests, self.name, code, ["-x"])), seconds)
        killed = judged is None or judged["status"] != 0
        by = "time" if judged is None else judged["failed"] or f"status {judged['status']}"
        return {"block": self.name, "mutation": number, "line": line, "operator": operator,
                "what": f"{operator} {Path(self.name).name}:{line}", "result": "killed" if killed else "survived",
                "by": by if killed else None, "seconds": round(time.monotonic() - began, 1)}

    def keep(self, entry):
        """Add an entry to the results."""
        with self._results.open("a") as file:
            file.write(json.dumps(entry) + "\n")


@click.command()
@click.argument("modules", nargs=-1, type=click.Choice(list(MODULES)))
@click.option("--count", type=click.IntRange(min=1), default=50, show_default=True, help="Mutations of each module.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
@click.option("--resume", is_flag=True, help="Keep the results of a run before, and judge the rest.")
@click.option("--again", is_flag=True, help="Judge those again that survived. Implies --resume.")
@click.option("--jobs", type=click.IntRange(min=1), default=os.cpu_count(), show_default=True)
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), default=Path("build", "mutate-software"),
              show_default=True)
def main(modules, count, seed, resume, again, jobs, folder):
    """Mutate MODULES, or all, and run their tests on each mutation."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if not (resume or again):
        (folder / "results.jsonl").unlink(missing_ok=True)
    campaigns = (Campaign(name, folder, count, seed) for name in modules or MODULES)
    entries = judged_in_parallel(campaigns, again, jobs, folder, seed)
    Console().print(table(scores(entries)))


if __name__ == "__main__":
    main()
