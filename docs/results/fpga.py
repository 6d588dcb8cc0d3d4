# SPDX-License-Identifier: Apache-2.0
"""Tables of synthesis results, from ``tests/baselines/synth.json``, which ``nox -s synth`` writes."""

import json

from docs.markdown import DOCS, table
from openese.rtl.config import PRESETS

__all__ = ["TABLES", "TITLES", "synthesized"]

#: Resources of an XCKU060, and what the paper's machine takes of them (its table 4).
XCKU060 = {"LUT": 331_680, "LUTRAM": 146_880, "FF": 663_360, "BRAM": 1_080, "DSP": 2_760}
PAPER = {"LUT": 293_920, "LUTRAM": 69_939, "FF": 453_068, "BRAM": 947, "DSP": 1_504}
TITLES = {"xcu": "UltraScale", "xcup": "UltraScale+", "xcu_dsp": "UltraScale, adders in DSPs", "xc7": "7 series",
          "ecp5": "ECP5"}
_PE = ("PtrRead", "ActQueue", "SpmatRead", "SpMV", "PE")
_SLICE = ("Activation", "Slice")
_KINDS = ("LUT", "LUTRAM", "FF", "BRAM", "DSP")


def synthesized():
    """The baselines, by family and preset."""
    return json.loads((DOCS.parent / "tests" / "baselines" / "synth.json").read_text())


def _machines():
    """Family, preset and figures of each synthesized machine."""
    for family, machines in synthesized().items():
        for name, figures in machines.items():
            yield family, name, figures


def resources():
    """What the presets take, and the paper's machine."""
    def levels(depth, blocks):
        return max(depth[block]["luts"] for block in blocks if block in depth)

    rows = []
    for family, name, figures in _machines():
        total, depth = figures["total"], figures["depth"]
        rows.append([f"`{name}`", TITLES[family], *(f"{total.get(kind, 0):,}" for kind in (*_KINDS, "URAM")),
                     f"{total['LUT'] / PRESETS[name].multipliers:.0f}",
                     *(levels(depth, blocks) for blocks in (_PE, _SLICE, depth))])
    rows.append(["ESE, placed and routed", "UltraScale", *(f"{PAPER[kind]:,}" for kind in _KINDS), "0",
                 f"{PAPER['LUT'] / 1024:.0f}", "", "", ""])
    return table(["machine", "family", "LUT", "of them memory", "FF", "block RAM", "DSP", "UltraRAM",
                  "LUT per multiplier", "LUT levels: PE", "slice", "all"], rows)


def shares():
    """How much of the paper's FPGA the machines for it take."""
    machines = [(f"`{name}`, {TITLES[family]}", figures["total"]) for family, name, figures in _machines()
                if PRESETS[name].multipliers in (1024, 2048) and family in ("xcu", "xcu_dsp")]
    return table(["% of an XCKU060", *(f"{kind} ({there:,})" for kind, there in XCKU060.items())],
                 [[name, *(f"{100 * total[kind] / there:.0f}" for kind, there in XCKU060.items())]
                  for name, total in (*machines, ("ESE, placed and routed", PAPER))])


def blocks():
    """What each block of `ese` takes."""
    found = synthesized()
    plain, packed = found["xcu"]["ese"]["blocks"], found["xcu_dsp"]["ese"]["blocks"]
    rows = []
    for block, taken in plain.items():
        instances, after = taken["instances"], packed[block]
        rows.append([block, instances, *(f"{taken.get(kind, 0):,}" for kind in _KINDS),
                     f"{taken.get('LUT', 0) * instances / 1024:.1f}", f"{after.get('LUT', 0):,}",
                     f"{after.get('LUT', 0) * instances / 1024:.1f}"])
    return table(["block", "instances", "LUT", "of them memory", "FF", "block RAM", "DSP", "LUT per multiplier",
                  "adders in DSPs: LUT", "LUT per multiplier"], rows)


#: By page and marker.
TABLES = {
    ("results/index.md", "resources"): resources,
    ("results/index.md", "shares"): shares,
    ("results/fpga.md", "blocks"): blocks,
}
