# SPDX-License-Identifier: Apache-2.0
"""``python -m docs.performance [FILE ...]``: makes performance.md and its plots of what ``openese bench --json`` wrote.

The files given become performance.json, by preset; without any, the page is made of that again.
"""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["DATA", "PAGE", "page", "plot"]

HERE = Path(__file__).parent
DATA = HERE / "performance.json"
PAGE = HERE / "performance.md"

#: The paper's peers (its table of one step of 32 voices): microseconds dense and sparse, watts.
_PEERS = {"Core i7-5930K": (6017.3, 3569.9, "111, 38"), "Titan X (Pascal)": (240.3, 287.4, "202, 136")}


def _table(columns, rows):
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)]) + "\n"


def page(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The page of ``results``, by preset."""
    ese = results["ese"]
    parts = [
        f"""# Performance

*Made by `python -m docs.performance` of [performance.json](performance.json); do not edit.*

The layer is the paper's: an LSTMP of 153 inputs, 1024 cells and 512 outputs with peepholes, of random weights pruned
to {ese["layer"]["density"]:.0%}, the same number on every PE; 12-bit weights, 16-bit activations. It runs on the
emitted Verilog in Verilator, and every word that comes out is compared with the integer reference. Cycles are the
machine's own counters', in steady state. **No FPGA build stands behind these figures:** microseconds are cycles at the
paper's 200 MHz.

## A step

""",
        _steps(results),
        "\nThe paper needs 16,540 cycles with 1,024 multipliers (82.7 us), 11,400 in theory (57.0 us).\n",
        _trace(results),
        "\n## By matrix\n\n", _matrices(ese),
        "\n## Where a multiplier's time goes\n\n", _counters(results),
        _memories(results.get("ese_stream")),
        "\n## Density\n\nBy the cycle model. An unbalanced layer keeps its largest weights wherever they lie, as by "
        "global magnitude;\nall PEs then wait for the fullest.\n\n"
        "![Speedup over the dense layer, by density](performance-density.svg)\n\n",
        _density(ese),
        "\n## Queues\n\nBy the cycle model, at 10 %: how deep an ActQueue must be, and what the packer's order of the "
        "columns is worth.\n\n"
        "![Cycles a step by queue depth](performance-queues.svg)\n\n",
        _table(["depth", "cycles a step", "columns in natural order", "unbalanced pruning"],
               [(row["queue_depth"], f"{row['cycles']:,}", f"{row['natural']:,}", f"{row['unbalanced']:,}")
                for row in ese["queue_sweep"]]),
        f"\n## PEs\n\nBy the cycle model, at 10 % and with {ese['machine']['channels']} channels, each with as many "
        "column groups as serve it best.\n\n![Speedup by PEs](performance-pes.svg)\n\n",
        _table(["PEs", "column groups", "cycles a step", "busy on non-zeros",
                f"speedup over {ese['pe_sweep'][0]['pes']} PEs"],
               [(row["pes"], row["groups"], f"{row['cycles']:,}", f"{row['busy']:.1%}", f"{row['speedup']:.1f}")
                for row in ese["pe_sweep"]]),
        "\n## This computer, beside it\n\n", _cpu(ese),
        "\n## The host's software\n\n", _software(ese),
        "\n## Verilog, and its simulation\n\n", _simulation(results),
        """
## To reproduce

```sh
nox -s bench                                  # all of it: 8 minutes on two idle cores
openese bench --preset ese --json ese.json    # one machine: minutes
```

`openese bench` prints tables and writes JSON, whose keys [`sw/bench`](../sw/bench/__init__.py) documents; `python -m
docs.performance FILE ...` makes this page of such files. Times of software and simulation depend on the computer, and
on what else it does; cycles do not.
"""]
    return re.sub(r"(?<=\d)%", " %", "".join(parts))


def _steps(results):
    rows = []
    for name, result in results.items():
        machine, rtl = result["machine"], result["rtl"]
        words = f"{rtl['words']:,} of {rtl['words']:,}" if rtl["bit_exact"] else "no"
        rows.append((f"`{name}`", f"{machine['pes']} x {machine['channels']}", f"**{rtl['cycles_per_step']:,.0f}**",
                     f"{rtl['microseconds_at_200_mhz']:.1f}", f"{rtl['busy']:.1%}", f"{result['model_cycles']:,}",
                     f"{rtl['first_frame_cycles']:,}", f"{rtl['one_voice_cycles']:,}", words))
    return _table(["preset", "PEs x channels", "cycles a step", "us at 200 MHz", "multipliers busy on non-zeros",
                   "cycle model", "a frame at rest", "one voice at rest", "words equal to the reference"], rows)


def _trace(results):
    said = [f"{result['trace']['cycles_per_step']:,.0f} cycles and {result['trace']['busy']:.1%} on `{name}`"
            for name, result in results.items() if "trace" in result]
    text = "\nCounted in a waveform instead, from the pins and from what the PEs say in every cycle: "
    return (f"{text}{', '.join(said)}.\n" if said else "") + """
*At rest* is from the first beat of a frame to the last beat of its answer, of a machine that has nothing else to do.
"""


def _matrices(result):
    rows = [(f"`{name}`", f"{row['entries_per_pe']:,}", f"{row['cycles']:,}", f"{row['busy']:.1%}",
             f"{row['paper_theory_cycles']:,}", f"{row['paper_cycles']:,}",
             f"{row['paper_theory_cycles'] / row['paper_cycles']:.0%}") for name, row in result["matrices"].items()]
    total = {key: sum(row[key] for row in result["matrices"].values())
             for key in ("entries_per_pe", "cycles", "paper_theory_cycles", "paper_cycles")}
    rows.append(("array, in all", f"{total['entries_per_pe']:,}", f"{total['cycles']:,}",
                 f"{result['rtl']['busy']:.1%}", f"{total['paper_theory_cycles']:,}", f"{total['paper_cycles']:,}",
                 f"{total['paper_theory_cycles'] / total['paper_cycles']:.0%}"))
    return _table(["", "entries on the fullest PE", "array cycles", "busy on non-zeros", "the paper, in theory",
                   "the paper, measured", "the paper, busy"], rows) + """
The four gates are one matrix here; the paper multiplies them one after the other. Its cycles are its microseconds at
200 MHz, its theory counts padding as work, and its 16,540 cycles have the first fetch of a step besides.
"""


def _counters(results):
    names = ("busy", "padding", "hazard", "drain")
    rows = []
    for name, result in results.items():
        counters, pes = result["rtl"]["counters"], result["machine"]["pes"]
        shares = [counters[key] / (1 if key == "drain" else pes) for key in names]
        rest = result["rtl"]["cycles_per_step"] - sum(shares)
        rows.append((f"`{name}`", *(f"{share:,.0f}" for share in shares), f"{rest:,.0f}"))
    return _table(["preset", "non-zeros", "padding", "hazards", "drains", "waiting for columns, and turns"], rows)


def _memories(result):
    if not result:
        return ""
    rows = [(f"{row['memory']['latency']} to {row['memory']['latency'] + row['memory']['jitter']}",
             f"{row['memory']['share']:.0%}", f"{row['cycles_per_step']:,.0f}", f"{row['cycles_per_line']:.3f}",
             f"{row['model_cycles']:,}", f"{row['busy']:.1%}", "yes" if row["bit_exact"] else "NO")
            for row in result["memories"]]
    lines, machine = result["memories"][0]["lines"], result["machine"]
    return f"""
## Weights from memory

Preset `{machine['preset']}`: {lines:,} lines of 512 bits a step, read from a simulated AXI4 memory in every step.

""" + _table(["latency, cycles", "gives a line in so many cycles", "cycles a step", "cycles a line", "cycle model",
              "busy on non-zeros", "bit exact"], rows)


def _density(result):
    by_density = {}
    for row in result["density_sweep"]:
        by_density.setdefault(row["density"], {})[row["balanced"]] = row
    return _table(["density", "balanced, cycles", "busy", "speedup", "unbalanced, cycles", "busy", "speedup"],
                  [(f"{density:.0%}", *(text for balanced in (True, False) for text in (
                      f"{rows[balanced]['cycles']:,}", f"{rows[balanced]['busy']:.1%}",
                      f"{rows[balanced]['speedup']:.1f}"))) for density, rows in by_density.items()]
                  ) + """
The paper's figure has 6.2 for balanced and 5.5 for unbalanced pruning at 10 %. Random weights, as here, are nearly
balanced by chance; those of a trained network are not.
"""


def _known(value, form):
    return "not measured" if value is None else form.format(value)


def _cpu(result):
    cpu, step = result["cpu"], result["rtl"]["microseconds_at_200_mhz"]
    rows = [(title, _known(cpu[f"{key}_step_seconds"] and cpu[f"{key}_step_seconds"] * 1e6, "{:,.0f}"),
             _known(cpu[f"{key}_times_the_machine"], "{:,.0f}"))
            for key, title in (("dense", "numpy, dense, float32"), ("sparse", "scipy CSR, 10 % dense, float32"),
                               ("torch", "PyTorch, dense, without peepholes"))]
    rows += [(f"{name}, {kind} (the paper's figure)", f"{taken:,.1f}", f"{taken / step:,.0f}")
             for name, (dense, sparse, _) in _PEERS.items() for kind, taken in (("dense", dense), ("sparse", sparse))]
    return (f"One step of 32 voices; {result['machine']['processor']}, one thread.\n\n"
            + _table(["", "us", f"over `ese` at 200 MHz ({step:.1f} us)"], rows))


def _software(result):
    software, layer = result["software"], result["layer"]
    rows = [("prune, quantize (calibrated on 32 frames) and pack the layer, seconds",
             f"{software['total_seconds']:.2f} ({software['prune_seconds']:.2f} + {software['quantize_seconds']:.2f} + "
             f"{software['pack_seconds']:.2f})"),
            ("place and encode it, over scipy's conversion of the same matrices to CSC",
             f"{software['pack_to_csc']:.1f} x"),
            ("its image, against float32",
             f"{layer['image_bytes']:,} bytes, {layer['float32_bytes'] / layer['image_bytes']:.1f} x smaller"),
            ("integer reference, frames a second", f"{software['reference_frames_per_second']:,.0f}"),
            ("its time over that of PyTorch's float LSTM", _known(software["reference_to_torch"], "{:.1f} x"))]
    if software["large"]:
        large = software["large"]
        rows += [(f"prune, quantize and pack {large['weights'] / 1e6:.0f} million weights, seconds",
                  f"{large['total_seconds']:.0f} ({large['prune_seconds']:.0f} + {large['quantize_seconds']:.0f} + "
                  f"{large['pack_seconds']:.0f})"),
                 ("memory for that, over their float32 size", f"{large['memory_ratio']:.1f} x")]
    return _table(["", ""], rows)


def _simulation(results):
    rows = [(f"`{name}`", f"{rtl['verilog_lines']:,}", f"{rtl['emission_seconds']:.1f}", f"{rtl['build_seconds']:.0f}",
             f"{rtl['cycles_per_second']:,.0f}")
            for name, rtl in ((name, result["rtl"]) for name, result in results.items())]
    text = _table(["preset", "lines of Verilog", "written in, seconds", "simulator built in, seconds",
                   "simulated cycles a second"], rows)
    for result in results.values():
        if "cocotb" in result:
            cocotb = result["cocotb"]
            text += (f"\nThe harness of `openese run --backend sim` is {cocotb['ratio']:.0f} times as fast as the "
                     f"same work under cocotb, on {cocotb['pes']} x {cocotb['channels']} "
                     f"({cocotb['harness_cycles_per_second']:,.0f} against {cocotb['cycles_per_second']:,.0f} cycles a "
                     "second).\n")
    return text


def plot(results: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    """The page's plots, as SVG."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"svg.hashsalt": "openese", "svg.fonttype": "none", "axes.grid": True, "grid.alpha": 0.3})
    ese = results["ese"]

    def figure(name, draw, x, y):
        figure, axes = pyplot.subplots(figsize=(6.4, 3.6), layout="constrained")
        draw(axes)
        axes.set(xlabel=x, ylabel=y)
        axes.legend()
        figure.savefig(folder / f"performance-{name}.svg", metadata={"Date": None})
        pyplot.close(figure)

    def density(axes):
        for balanced, title in ((True, "balanced"), (False, "unbalanced")):
            rows = [row for row in ese["density_sweep"] if row["balanced"] is balanced]
            axes.plot([row["density"] for row in rows], [row["speedup"] for row in rows], "o-", label=title)
        shares = [row["density"] for row in ese["density_sweep"]]
        axes.plot(shares, [1 / share for share in shares], "k:", label="1 / density")
        axes.plot([0.1, 0.1], [6.2, 5.5], "x", color="gray", label="the paper at 10 %")
        axes.set(xscale="log", yscale="log")

    def queues(axes):
        for key, title in (("cycles", "balanced, packer's order"), ("natural", "balanced, natural order"),
                           ("unbalanced", "unbalanced")):
            rows = ese["queue_sweep"]
            axes.plot([row["queue_depth"] for row in rows], [row[key] for row in rows], "o-", label=title)
        axes.set_xscale("log", base=2)

    def pes(axes):
        rows = ese["pe_sweep"]
        axes.plot([row["pes"] for row in rows], [row["speedup"] for row in rows], "o-", label="cycle model")
        axes.plot([row["pes"] for row in rows], [row["pes"] / rows[0]["pes"] for row in rows], "k:", label="ideal")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)

    figure("density", density, "density", "speedup over dense")
    figure("queues", queues, "depth of an ActQueue, columns", "cycles a step")
    figure("pes", pes, "PEs", f"speedup over {ese['pe_sweep'][0]['pes']} PEs")


def main(paths):
    """Make the page of the files, or of what was kept of them."""
    if paths:
        found = [json.loads(Path(path).read_text()) for path in paths]
        DATA.write_text(json.dumps({result["machine"]["preset"]: result for result in found}, indent=1) + "\n")
    results = json.loads(DATA.read_text())
    PAGE.write_text(page(results))
    plot(results, HERE)


if __name__ == "__main__":
    main(sys.argv[1:])
