# SPDX-License-Identifier: Apache-2.0
"""``python -m docs.tables``: brings the tables of these pages that are made from the code up to date.

A table stands between ``<!-- marker -->`` and ``<!-- /marker -->``.
"""

import json
from pathlib import Path

from docs import accuracy
from openese.rtl import registers
from openese.rtl.config import PRESETS

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


#: What an XCKU060 has, and what of it the paper's machine takes (its table 4).
XCKU060 = {"LUT": 331_680, "FF": 663_360, "BRAM": 1_080, "DSP": 2_760}
PAPER = {"LUT": 293_920, "LUTRAM": 69_939, "FF": 453_068, "BRAM": 947, "DSP": 1_504}
_FAMILIES = {"xcu": "xcu", "xcu_dsp": "xcu, DSPs packed", "ecp5": "ecp5"}


def _synthesized():
    """The baselines of `openese.sim.synthesis.estimate`, by family and preset."""
    return json.loads((ROOT.parent / "tests" / "baselines" / "synth.json").read_text())


def _row(*cells):
    return f"| {' | '.join(map(str, cells))} |"


def _head(*headings):
    return [_row(*headings), "|---" * len(headings) + "|"]


def resources():
    """What the presets take, and the paper's machine."""
    lines = _head("preset", "family", "LUT", "a multiplier", "of them memory", "FF", "block RAM", "DSP",
                  "LUT levels: PE", "slice", "all")
    for family, machines in _synthesized().items():
        for name, figures in machines.items():
            total = figures["total"]
            depth = {unit: levels["luts"] for unit, levels in figures["depth"].items()}
            lines.append(_row(
                f"`{name}`", _FAMILIES[family], f"{total['LUT']:,}", f"{total['LUT'] / PRESETS[name].multipliers:.1f}",
                *(f"{total.get(kind, 0):,}" for kind in ("LUTRAM", "FF", "BRAM", "DSP")),
                depth["PE"], depth["Slice"], max(depth.values())))
    lines.append(_row("the paper's, placed and routed", "XCKU060", f"{PAPER['LUT']:,}", f"{PAPER['LUT'] / 1024:.1f}",
                      *(f"{PAPER[kind]:,}" for kind in ("LUTRAM", "FF", "BRAM", "DSP")), "", "", ""))
    return "\n".join(lines) + "\n"


def shares():
    """How much of the paper's FPGA the machines of its size take."""
    lines = _head("of an XCKU060, in %", *(f"{kind} ({there:,})" for kind, there in XCKU060.items()))
    machines = [(f"`{name}`, {_FAMILIES[family]}", figures["total"]) for family, found in _synthesized().items()
                for name, figures in found.items() if PRESETS[name].multipliers == 1024 and family.startswith("xcu")]
    for name, total in (*machines, ("the paper's, placed and routed", PAPER)):
        lines.append(_row(name, *(f"{100 * total[kind] / there:.0f}" for kind, there in XCKU060.items())))
    return "\n".join(lines) + "\n"


def blocks():
    """What each block of `ese` takes."""
    found = _synthesized()
    plain, packed = found["xcu"]["ese"]["blocks"], found["xcu_dsp"]["ese"]["blocks"]
    lines = _head("block", "instances", "LUT", "of them memory", "FF", "block RAM", "DSP", "LUT a multiplier",
                  "DSPs packed: LUT", "FF", "LUT a multiplier")
    for block, taken in plain.items():
        number, after = taken["instances"], packed[block]
        lines.append(_row(
            block, number, *(f"{taken.get(kind, 0):,}" for kind in ("LUT", "LUTRAM", "FF", "BRAM", "DSP")),
            f"{taken.get('LUT', 0) * number / 1024:.1f}", f"{after.get('LUT', 0):,}", f"{after.get('FF', 0):,}",
            f"{after.get('LUT', 0) * number / 1024:.1f}"))
    return "\n".join(lines) + "\n"


#: By page and marker.
TABLES = {
    ("registers.md", "registers"): registers.markdown,
    ("architecture.md", "presets"): presets,
    **accuracy.TABLES,
    ("resources.md", "resources"): resources,
    ("resources.md", "shares"): shares,
    ("resources.md", "blocks"): blocks,
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
