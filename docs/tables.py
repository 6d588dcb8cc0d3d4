# SPDX-License-Identifier: Apache-2.0
"""``python -m docs.tables``: brings the tables of these pages that are made from the code up to date.

A table stands between ``<!-- marker -->`` and ``<!-- /marker -->``.
"""

from pathlib import Path

from docs import accuracy
from rtl import registers
from rtl.config import PRESETS

__all__ = ["TABLES", "with_table"]

ROOT = Path(__file__).parent


def presets():
    """The table of the presets."""
    lines = ["| preset | PEs x channels | multipliers | column groups | entry bits | entries a PE | weights |",
             "|---|---|---|---|---|---|---|"]
    for config in PRESETS.values():
        weights = "resident, or streamed" if config.stream else "resident"
        lines.append(f"| `{config.name}` | {config.pes} x {config.channels} | {config.multipliers:,} | "
                     f"{config.groups} | {config.weight_bits} + {config.index_bits} | "
                     f"{config.entry_depth:,} | {weights} |")
    return "\n".join(lines) + "\n"


#: By page and marker.
TABLES = {
    ("registers.md", "registers"): registers.markdown,
    ("architecture.md", "presets"): presets,
    **accuracy.TABLES,
}


def with_table(text, marker, table):
    """A page's ``text`` with ``table`` between the markers.

    Raises
    ------
    ValueError
        If it does not have them.
    """
    begin, end = f"<!-- {marker} -->\n", f"<!-- /{marker} -->"
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"no markers {marker}")
    return before + begin + table + end + after


if __name__ == "__main__":
    for (page, marker), table in TABLES.items():
        path = ROOT / page
        path.write_text(with_table(path.read_text(), marker, table()))
