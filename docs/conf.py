# SPDX-License-Identifier: Apache-2.0
"""The site that ``nox -s docs`` builds: the Markdown of the repository, and the reference from the docstrings.

Sphinx reads the repository from its root, so every relative link means the same on the site and on GitHub. A broken
link, an undocumented public name and a public name that is missing in the reference are warnings, and warnings fail.
"""

import importlib
import inspect
import pkgutil
from importlib import metadata
from pathlib import Path

from amaranth.lib import wiring
from docutils import nodes
from sphinx.addnodes import download_reference
from sphinx.ext.autodoc.mock import mock, undecorate
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging

import openese
import openese.rtl

ROOT = Path(__file__).parent.parent

project = "OpenESE"
author = "The OpenESE contributors"
release = metadata.version("openese")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**.md", "examples/**.md"]
exclude_patterns = [".*", "build", "constraints", "openese", "rtl", "sim", "sw", "tests"]

html_theme = "furo"
html_title = "OpenESE"
html_show_copyright = False
html_copy_source = False

myst_heading_anchors = 4

autodoc_typehints = "none"  # the docstrings have the types, and the shapes of arrays
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_mock_imports = ["torch"]  # it is large, and only its names are needed
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Ports", "Fields"]
default_role = "py:obj"
# A reference to a public name must lead somewhere. Other names, as those of numpy, may be plain text.
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!openese\.\w+$).*"), ("py:.*", r"openese\.(rtl|sw|sim)")]
# A short name in a docstring, as `weights`, may stand for several; it leads to one of them.
suppress_warnings = ["ref.python"]

_LANGUAGES = {".py": "python", ".md": "markdown", ".h": "c", ".c": "c", ".tcl": "tcl", ".xdc": "tcl", ".json": "json"}

_shown = set()
_log = logging.getLogger(__name__)


def _blocks():
    """The hardware blocks: the public components of `openese.rtl`."""
    for module in pkgutil.walk_packages(openese.rtl.__path__, "openese.rtl."):
        found = importlib.import_module(module.name)
        for name in getattr(found, "__all__", ()):
            member = getattr(found, name)
            if inspect.isclass(member) and issubclass(member, wiring.Component) and member.__module__ == module.name:
                yield f"{module.name}.{name}", member


def _members_and_fields(app, what, name, block, options, lines):
    """The sections Members of a block and Fields of a word, a line for each; Napoleon would take it for a type."""
    for section, title in (("Members", "Ports"), ("Fields", "Fields")):
        if section in lines:
            _list(lines, section, title)


def _list(lines, section, title):
    first = lines.index(section) + 2
    last = next((number for number in range(first, len(lines)) if not lines[number].strip()), len(lines))
    entries = []
    for line in lines[first:last]:
        if line[:1].isspace():
            entries[-1] += f" {line.strip()}"
        else:
            names, _, meaning = line.partition(" : ")
            entries.append(f"- ``{names}``: {meaning}")
    lines[first - 2:last] = [title, "-" * len(title), *entries, ""]


def _parameters(app, what, name, block, options, signature, result):
    """The parameters of a block are those of its ``__init__``; its metaclass hides them."""
    if what == "class" and issubclass(block, wiring.Component):
        found = inspect.signature(block.__init__)
        return str(found.replace(parameters=list(found.parameters.values())[1:])), None
    return None


def _members(name, owner):
    """The public methods and properties that a class of this project defines itself or inherits from another."""
    for base in inspect.getmro(owner):
        if base.__module__.startswith("openese."):
            for member, value in vars(base).items():
                if not member.startswith("_") and (callable(value) or isinstance(
                        value, (property, classmethod, staticmethod))):
                    yield f"{name}.{member}", getattr(owner, member)


def _check_reference(app, env):
    """Warn of each public name without a docstring, and of each that no page of the reference has."""
    with mock(autodoc_mock_imports):
        public = {f"openese.{name}": undecorate(getattr(openese, name)) for name in openese.__all__}
    for name, value in list(public.items()):
        if inspect.isclass(value):
            public.update(_members(name, value))
    public.update(_blocks())
    documented = env.domains["py"].objects
    for name, value in public.items():
        if not inspect.getdoc(value):
            _log.warning("%s has no docstring", name, type="reference")
        elif name not in documented:
            _log.warning("%s is missing in docs/reference", name, type="reference")


class SourceLinks(SphinxPostTransform):
    """Leads a link to a file of the repository to a page that shows the file, in place of a download."""

    default_priority = 5  # before the downloads are collected

    def run(self, **kwargs):
        for link in list(self.document.findall(download_reference)):
            path = self.env.relfn2path(link["reftarget"], self.env.docname)[0]
            _shown.add(path)
            uri = self.app.builder.get_relative_uri(self.env.docname, f"source/{path}")
            link.replace_self(nodes.reference("", "", *link.children, refuri=uri, internal=True))


def _source_pages(app):
    """The pages that `SourceLinks` leads to."""
    for path in sorted(_shown):
        text = (ROOT / path).read_text()
        language = _LANGUAGES.get(Path(path).suffix, "text")
        body = f"<h1>{path}</h1>" + app.builder.highlighter.highlight_block(text, language)
        yield f"source/{path}", {"title": path, "body": body}, "page.html"


def _front_page(app):
    """``index.html`` at the top of the site leads to the first page."""
    first = app.builder.get_target_uri(root_doc)
    (Path(app.outdir) / "index.html").write_text(
        f'<!DOCTYPE html><title>OpenESE</title><meta http-equiv="refresh" content="0; url={first}">'
        f'<a href="{first}">OpenESE</a>\n')


def setup(app):
    app.connect("autodoc-process-docstring", _members_and_fields, priority=400)  # before Napoleon
    app.connect("autodoc-process-signature", _parameters)
    app.connect("env-check-consistency", _check_reference)
    app.connect("build-finished", lambda app, error: error or _front_page(app))
    app.connect("html-collect-pages", _source_pages)
    app.add_post_transform(SourceLinks)
    return {"parallel_read_safe": True, "parallel_write_safe": False}  # `_shown` is one process's
