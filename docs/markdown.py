# SPDX-License-Identifier: Apache-2.0
"""Tables in Markdown, and the places in a page where they go: between ``<!-- marker -->`` and ``<!-- /marker -->``."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

__all__ = ["DOCS", "table", "update", "with_table"]

DOCS = Path(__file__).parent


def table(columns: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """A table with the headings ``columns``."""
    columns = list(columns)
    lines = ["| " + " | ".join(map(str, columns)) + " |", "|" + "---|" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)]) + "\n"


def with_table(text: str, marker: str, content: str) -> str:
    """The page ``text`` with ``content`` between the markers.

    Raises
    ------
    ValueError
        If the page does not have both markers.
    """
    begin, end = f"<!-- {marker} -->\n", f"<!-- /{marker} -->"
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"no markers {marker}")
    return before + begin + content + end + after


def update(tables: Mapping[tuple[str, str], Callable[[], str]]) -> None:
    """Write tables into their pages; a key is the page's path in ``docs/`` and the marker."""
    for (page, marker), content in tables.items():
        path = DOCS / page
        path.write_text(with_table(path.read_text(), marker, content()))
