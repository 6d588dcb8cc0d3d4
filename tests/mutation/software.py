# SPDX-License-Identifier: Apache-2.0
"""``nox -s mutate_software -- MODULE ...``: how many small faults in the software the tests notice.

Cosmic Ray makes the mutations; places in the code are chosen at random, then one of the mutations of the place. The
choice depends on the text of the line alone, so a mutation stays in the sample when other lines change. The mutated
module exists in the memory of a process alone. Each mutation meets the tests that run its line, the fastest first.
"""

import ast
import contextlib
import hashlib
import importlib
import importlib.machinery
import json
import os
import sys
import time
from collections import Counter
from functools import cache
from pathlib import Path
from typing import NamedTuple

import click
import pytest
from cosmic_ray.ast import get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names
from rich.console import Console

from .__main__ import judged_in_parallel, scores, table
from .engine import in_a_process
from .equal import EQUAL

__all__ = ["MODULES", "Mutation", "main", "mutations"]


def _sw(*names):
    return tuple(f"tests/sw/test_{name}.py" for name in names)


#: By module: the files of tests that may notice.
MODULES = {
    "sw/quantize/calibrate.py": _sw("calibrate", "quantize"),
    "sw/quantize/choose.py": _sw("choices", "quantize", "requantize", "quantized"),
    "sw/quantize/compare.py": _sw("compare", "quantize"),
    "sw/pack/encode.py": _sw("encode", "level", "image"),
    "sw/pack/schedule.py": _sw("schedule", "image", "level"),
    "sw/pack/image.py": _sw("image"),
    "sw/cycles/blocks.py": _sw("cycles"),
    "sw/cycles/model.py": (*_sw("cycles"), "tests/sim/test_models.py"),
    "sw/cycles/stream.py": (*_sw("cycles"), "tests/sim/test_models.py"),
}

# The other operators need names of variables.
_WITHOUT_NAMES = [name for name in operator_names() if "Variable" not in name]
_PATIENCE, _SLOWER = 60, 20
# Of modules that are there already, pytest says that it cannot rewrite their assertions.
_ONCE = ("-x", "-W", "ignore::pytest.PytestAssertRewriteWarning")
_EQUAL = {(equal.module, equal.before, equal.after) for equal in EQUAL}
# Tests of machines of the paper's size take minutes for each mutation.
_UNLESS = "not papers"


class Mutation(NamedTuple):
    """A mutated module.

    Attributes
    ----------
    key : str
        The line's text, the place in it, and the operator.
    line : int
    operator : str
        Cosmic Ray's.
    before, after : str
        The lines that differ.
    code : str
        The mutated module.
    """

    key: str
    line: int
    operator: str
    before: str
    after: str
    code: str


class _Bare(ast.NodeTransformer):
    """Without what no test runs, annotations and docstrings, and without zip's checks of its own program."""

    def visit_Call(self, node):
        self.generic_visit(node)
        node.keywords = [keyword for keyword in node.keywords if keyword.arg != "strict"]
        return node

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


def _differing(code, mutated):
    """The lines of both that differ, each as one text."""
    both = [text.splitlines() for text in (code, mutated)]
    for _ in range(2):  # what they share in front, then behind
        while all(both) and both[0][0] == both[1][0]:
            both = [lines[1:] for lines in both]
        both = [lines[::-1] for lines in both]
    return tuple(" ".join(line.strip() for line in lines) for lines in both)


def mutations(code, count, seed):
    """``count`` `Mutation` of ``code`` at different places."""
    def rank(*parts):
        return hashlib.sha256(repr((seed, *parts)).encode()).digest()

    texts, alike, numbers = code.splitlines(), Counter(), {}
    for number, text in enumerate(texts, 1):
        numbers[number] = (text.strip(), alike[text.strip()])
        alike[text.strip()] += 1
    places = {(*numbers[line], column - len(texts[line - 1]) + len(texts[line - 1].lstrip())): (line, column)
              for line, column in _places(code)}
    bare, found = _bare(code), []
    for key in sorted(places, key=rank):
        if len(found) == count:
            break
        place, used = places[key], Counter()
        choices = []
        for name, occurrence in _places(code)[place]:
            choices.append((rank(key, name, used[name]), name, occurrence, used[name]))
            used[name] += 1
        _, name, occurrence, variant = min(choices)
        mutated = mutate_code(code, get_operator(name)(), occurrence)
        try:
            changes = mutated is not None and _bare(mutated) != bare
        except SyntaxError:
            continue
        if changes:
            operator = name.removeprefix("core/")
            found.append(Mutation(repr((*key, operator, variant)), place[0], operator, *_differing(code, mutated),
                                  mutated))
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
    # Hardware imports none of these modules, except the top.
    others = [name for name in sys.modules if not name.startswith(("openese.sw", "openese.sim", "_")) and
              getattr(sys.modules[name], "__file__", None) and "tests" not in sys.modules[name].__file__]
    return {"passed": watch.passed, "failed": watch.failed, "status": int(status), "others": others}


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
        numbers = {mutation.key: number for number, mutation in enumerate(self.mutations, 1)}
        entries = map(json.loads, self._results.read_text().splitlines())
        return {numbers[entry["key"]]: entry for entry in entries
                if entry["block"] == self.name and entry["key"] in numbers}

    def prepare(self, again=False):
        """Find the tests of each line, and their times; once for a state of the module and the tests, or ``again``."""
        from coverage import CoverageData

        texts = [self._code, *(Path(name).read_text() for name in MODULES[self.name])]
        name = f"{self.name.replace('/', '-')}-{hashlib.sha256(repr(texts).encode()).hexdigest()[:16]}"
        place = self._folder / f"{name}.json"
        os.environ["OPENESE_CACHE"] = str(self._folder / "cache")
        if not place.exists():
            data = self._folder / f"{name}.coverage"
            os.environ["COVERAGE_FILE"] = str(data)
            # What was imported before is not measured, of which coverage warns.
            cover = ["--cov", "--cov-context=test", "--cov-report=", "-k", _UNLESS, "-W", "default"]
            whole = in_a_process(lambda: _run(MODULES[self.name], options=cover), 3600)
            if not whole or whole["status"]:
                raise RuntimeError(f"{self.name}: its tests fail without a mutation: {whole}")
            measured = CoverageData(str(data))
            measured.read()
            lines = {}
            for file in measured.measured_files():
                if file.endswith(self.name):
                    for line, contexts in measured.contexts_by_lineno(file).items():
                        lines.setdefault(line, set()).update(context.split("|")[0] for context in contexts)
            place.write_text(json.dumps({"times": whole["passed"], "others": whole["others"],
                                         "lines": {line: sorted(filter(None, lines[line])) for line in lines}}))
        kept = json.loads(place.read_text())
        self._times, self._lines = kept["times"], kept["lines"]
        for name in kept["others"]:  # need not be imported for each mutation
            with contextlib.suppress(ImportError):
                importlib.import_module(name)

    def _tests(self, line):
        """The tests that run ``line``, or all if it runs while the module is imported."""
        chosen = [test for test in self._lines.get(str(line), []) if test in self._times] or list(self._times)
        return sorted(chosen, key=self._times.get)

    def run(self, number):
        """Judge one mutation; returns its entry."""
        mutation, began = self.mutations[number - 1], time.monotonic()
        if (self.name, mutation.before, mutation.after) in _EQUAL:
            result, by = "same", "judgement"
        else:
            tests = self._tests(mutation.line)
            seconds = max(_PATIENCE, _SLOWER * sum(map(self._times.get, tests)))
            judged = in_a_process(lambda: _run(tests, self.name, mutation.code, _ONCE), seconds)
            result = "killed" if judged is None or judged["status"] else "survived"
            by = "time" if judged is None else judged["failed"] or f"status {judged['status']}"
        what = f"{mutation.operator} {self.name}:{mutation.line}: {mutation.before} => {mutation.after}"
        return {"block": self.name, "mutation": number, "key": mutation.key, "what": what, "result": result,
                "by": None if result == "survived" else by, "seconds": round(time.monotonic() - began, 1)}

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
