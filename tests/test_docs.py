# SPDX-License-Identifier: Apache-2.0
"""The documentation agrees with the code: its tables are generated, its examples run, its links lead somewhere.

An example is a fenced block whose language is followed by ``example``: ``python example`` is executed, and
of ``sh example`` every line must be an ``openese`` command that succeeds. The examples of a page follow one
another, in one namespace and one empty folder; ``sim`` marks those that need a simulator, ``torch`` those that need
PyTorch, ``onnx`` those that need onnxruntime; ``slow`` a page that takes more than ten seconds.
"""

import ast
import json
import re
import shlex
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

import openese
from docs.markdown import DOCS, with_table
from docs.results import performance
from docs.tables import TABLES
from openese.rtl.loader import ImageError, Section
from openese.sw.cli import main

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob(".github/**/*.md"), *ROOT.glob("docs/**/*.md"),
                *ROOT.glob("examples/**/*.md")])


def name(page):
    return str(page.relative_to(ROOT))


def examples(page):
    """Language, words after it, line and text of each example."""
    for token in MarkdownIt().parse(page.read_text()):
        language, *words = token.info.split() or [""]
        if token.type == "fence" and "example" in words:
            yield language, words, token.map[0] + 1, token.content


def slug(heading):
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def anchors(page):
    tokens = MarkdownIt().parse(page.read_text())
    return {slug(text.content) for opens, text in zip(tokens, tokens[1:], strict=False)
            if opens.type == "heading_open"}


def links(page):
    """Targets of the links and pictures of a page."""
    for token in MarkdownIt().enable("table").parse(page.read_text()):
        for child in token.children or []:
            if child.type in ("link_open", "image"):
                yield child.attrs.get("href") or child.attrs["src"]


@pytest.mark.parametrize(("page", "marker"), TABLES, ids=[marker for _, marker in TABLES])
def test_tables_are_up_to_date(page, marker):
    text = (DOCS / page).read_text()
    assert text == with_table(text, marker, TABLES[page, marker]()), "python -m docs.tables updates it"


@pytest.mark.parametrize("member", [*ImageError, *Section], ids=lambda member: member.name)
def test_the_image_format_has_every(member):
    assert f"| {member.value} | {member.name} |" in (DOCS / "reference" / "image.md").read_text()


def with_examples():
    """The pages that have examples; one that needs a simulator is marked."""
    for page in PAGES:
        words = [word for _, found, _, _ in examples(page) for word in found]
        if words:
            marks = [getattr(pytest.mark, word) for word in ("sim", "slow") if word in words]
            yield pytest.param(page, id=name(page), marks=marks)


# PyTorch warns so of its own LSTM.
@pytest.mark.filterwarnings("ignore:Converting a tensor to a Python boolean might cause the trace to be incorrect")
@pytest.mark.parametrize("page", list(with_examples()))
def test_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if any("torch" in words for _, words, _, _ in examples(page)):
        pytest.importorskip("torch", reason="the examples train, which needs PyTorch: the extra `train`")
    if any("onnx" in words for _, words, _, _ in examples(page)):
        pytest.importorskip("onnxruntime_extensions", reason="the examples run ONNX files: the extra `onnx`")
    namespace = {"__name__": "__example__"}
    for language, _, line, text in examples(page):
        if language == "python":
            exec(compile("\n" * line + text, str(page), "exec"), namespace)
            continue
        for command in text.splitlines():
            program, *arguments = shlex.split(command, comments=True)
            assert (language, program) == ("sh", "openese"), f"{name(page)} line {line}"
            assert main(arguments) == 0, command


def test_the_first_page_is_short():
    lines = [line for *_, text in examples(DOCS / "start" / "first-network.md") for line in text.splitlines() if line]
    assert 40 < len(lines) <= 60


@pytest.mark.parametrize("page", PAGES, ids=[name(page) for page in PAGES])
def test_links_lead_somewhere(page):
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{name(page)}: {link}"
        assert not anchor or anchor in anchors(target), f"{name(page)}: {link}"


def test_measured_machines_gave_the_words_of_the_reference():
    results = json.loads(performance.DATA.read_text()).values()
    assert all(run["bit_exact"] for result in results for run in (result["rtl"], *result.get("memories", ())))


def test_every_file_of_the_hardware_is_described():
    page = (DOCS / "reference" / "blocks.md").read_text()
    rtl = ROOT / "rtl"
    files = {str(path.relative_to(rtl)) for path in rtl.rglob("*.py") if path.name != "__init__.py"}
    assert not [file for file in sorted(files) if not file.startswith("targets/") and f"`{file}`" not in page]
    assert set(re.findall(r"`([a-z_/]+\.py)`", page)) <= files


def test_every_public_name_is_described():
    overview = (DOCS / "reference" / "python.md").read_text().partition("\n## ")[0]
    assert not [name for name in openese.__all__ if f"`{name}`" not in overview]


def said():
    """The texts that the program can say; `…` stands where a value is filled in."""
    for folder in ("rtl", "sim", "sw"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


def test_quoted_messages_are_those_of_the_program():
    quoted = re.findall(r"^### `(.+)`$", (DOCS / "start" / "questions.md").read_text(), re.MULTILINE)
    assert len(quoted) > 20
    everything = "\n".join(said())
    assert not [message for message in quoted if message.removesuffix("…") not in everything]
