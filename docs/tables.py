# SPDX-License-Identifier: Apache-2.0
"""``python -m docs.tables``: brings the tables of these pages that are made from the code up to date.

A table stands between ``<!-- marker -->`` and ``<!-- /marker -->``.
"""

import json
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


def resources():
    """What the presets take, as the baselines of `sim.synth` have it."""
    found = json.loads((ROOT.parent / "tests" / "baselines" / "synth.json").read_text())
    headings = ("preset", "family", "LUT", "a multiplier", "of them memory", "FF", "block RAM", "DSP", "LUT levels: PE",
                "slice", "all")
    lines = [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    for family, machines in found.items():
        for name, figures in machines.items():
            total = figures["total"]
            each = total["LUT"] / PRESETS[name].multipliers
            depths = [figures["depth"][unit]["luts"] for unit in ("PE", "Slice")]
            lines.append(f"| `{name}` | {family} | {total['LUT']:,} | {each:.1f} | {total.get('LUTRAM', 0):,} | "
                         f"{total['FF']:,} | {total['BRAM']:,} | {total['DSP']:,} | {depths[0]} | {depths[1]} | "
                         f"{max(depth['luts'] for depth in figures['depth'].values())} |")
    return "\n".join(lines) + "\n"


#: By page and marker.
TABLES = {
    ("registers.md", "registers"): registers.markdown,
    ("architecture.md", "presets"): presets,
    **accuracy.TABLES,
    ("resources.md", "resources"): resources,
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
