# SPDX-License-Identifier: Apache-2.0
"""``python -m docs.results.performance [FILE ...]``: tables and plots of what ``openese bench --json`` measured.

The files replace performance.json, which keeps the results by preset. Without files, tables and plots are made of
performance.json.
"""

import json
import sys
from functools import cache
from pathlib import Path

from docs.markdown import table, update

__all__ = ["DATA", "TABLES", "plot"]

HERE = Path(__file__).parent
DATA = HERE / "performance.json"

#: One step of the layer as the paper measured it, and by its theory: cycles, share of busy multipliers.
_PAPER = {"ESE, measured on an FPGA": (16_540, "68.9 %, padding included"), "ESE, its theory": (11_400, "")}
#: The paper's other computers: microseconds of one step of 32 voices, dense and sparse.
_PEERS = {"Core i7-5930K": (6017.3, 3569.9), "Titan X (Pascal)": (240.3, 287.4)}


@cache
def _results():
    return json.loads(DATA.read_text())


def _percent(share):
    return f"{share:.1%}".replace("%", " %")


def steps():
    """A step of the paper's layer, by machine."""
    rows = [(name, "32 x 32", f"{cycles:,}", f"{cycles / 200:.1f}", busy, "")
            for name, (cycles, busy) in _PAPER.items()]
    for name, result in _results().items():
        machine, rtl = result["machine"], result["rtl"]
        rows.append((f"`{name}`", f"{machine['pes']} x {machine['channels']}", f"**{rtl['cycles_per_step']:,.0f}**",
                     f"{rtl['microseconds_at_200_mhz']:.1f}", _percent(rtl["busy"]),
                     f"{rtl['rest_cycles']:,}"))
    return table(["machine", "PEs x channels", "cycles per step", "us at 200 MHz", "multipliers busy",
                  "cycles at rest"], rows)


def matrices():
    """The same step on `ese`, by matrix, beside the paper's."""
    found = _results()["ese"]["matrices"]
    rows = [(f"`{name}`", f"{row['cycles']:,}", _percent(row["busy"]), f"{row['paper_cycles']:,}",
             f"{row['paper_theory_cycles'] / row['paper_cycles']:.0%}".replace("%", " %"))
            for name, row in found.items()]
    return table(["matrix", "cycles, `ese`", "multipliers busy", "cycles, ESE", "multipliers busy, ESE"], rows)


def counters():
    """Where a multiplier's time goes, in cycles per step."""
    names = ("busy", "padding", "hazard", "drain")
    rows = []
    for name, result in _results().items():
        found, pes = result["rtl"]["counters"], result["machine"]["pes"]
        shares = [found[key] / (1 if key == "drain" else pes) for key in names]
        rest = result["rtl"]["cycles_per_step"] - sum(shares)
        rows.append((f"`{name}`", *(f"{share:,.0f}" for share in (*shares, rest))))
    return table(["preset", "non-zeros", "padding", "hazards", "drains", "waiting, and turns between products"], rows)


def memories():
    """Weights from memories of different speed, read in every step."""
    rows = [(f"{row['memory']['latency']} to {row['memory']['latency'] + row['memory']['jitter']}",
             f"{row['memory']['share']:.0%}".replace("%", " %"), f"{row['cycles_per_step']:,.0f}",
             f"{row['lines']:,}", _percent(row["busy"])) for row in _results()["ese_stream"]["memories"]]
    return table(["latency of the memory, cycles", "cycles in which it gives a line", "cycles per step",
                  "lines per step", "multipliers busy"], rows)


def density():
    """Cycles by density, by the cycle model."""
    by_density = {}
    for row in _results()["ese"]["density_sweep"]:
        by_density.setdefault(row["density"], {})[row["balanced"]] = row
    return table(["density", "balanced, cycles", "multipliers busy", "speedup", "unbalanced, cycles", "speedup"], [
        (f"{share:.0%}".replace("%", " %"), f"{rows[True]['cycles']:,}", _percent(rows[True]["busy"]),
         f"{rows[True]['speedup']:.1f}", f"{rows[False]['cycles']:,}", f"{rows[False]['speedup']:.1f}")
        for share, rows in by_density.items()])


def queues():
    """Cycles by the depth of the queues, by the cycle model."""
    return table(["`queue_depth`", "the packer's order", "natural order"],
                 [(row["queue_depth"], f"{row['cycles']:,}", f"{row['natural']:,}")
                  for row in _results()["ese"]["queue_sweep"]])


def pes():
    """Cycles by the number of PEs, by the cycle model."""
    return table(["PEs", "column groups", "cycles per step", "multipliers busy", "speedup"],
                 [(row["pes"], row["groups"], f"{row['cycles']:,}", _percent(row["busy"]), f"{row['speedup']:.1f}")
                  for row in _results()["ese"]["pe_sweep"]])


def processors():
    """The same step on processors."""
    result = _results()["ese"]
    cpu, step = result["cpu"], result["rtl"]["microseconds_at_200_mhz"]
    titles = {"dense": "numpy, dense, float32", "sparse": "scipy, sparse (CSR), float32",
              "torch": "PyTorch, dense, without peepholes"}
    processor = result["machine"]["processor"].partition(",")[0]
    rows = [(f"{processor}, one thread: {title}", f"{1e6 * seconds:,.0f}", f"{1e6 * seconds / step:,.0f}")
            for key, title in titles.items() if (seconds := cpu[f"{key}_step_seconds"]) is not None]
    rows += [(f"{name}, {kind} (the paper's figure)", f"{taken:,.0f}", f"{taken / step:,.0f}")
             for name, both in _PEERS.items() for kind, taken in zip(("dense", "sparse"), both, strict=True)]
    return table(["computer", "us per step", "times `ese` at 200 MHz"], rows)


def software():
    """How long the tools take."""
    result = _results()["ese"]
    found, rtl = result["software"], result["rtl"]
    rows = [("prune, quantize and pack the paper's layer", f"{found['total_seconds']:.1f} s")]
    if large := found["large"]:
        rows.append((f"the same for {large['weights'] / 1e6:.0f} million weights",
                     f"{large['total_seconds']:.0f} s, {large['peak_bytes'] / 1e9:.1f} GB of memory"))
    rows += [("run the reference", f"{found['reference_frames_per_second']:,.0f} frames of one voice per second"),
             ("write the Verilog of `ese`", f"{rtl['emission_seconds']:.0f} s, {rtl['verilog_lines']:,} lines"),
             ("build its simulator", f"{rtl['build_seconds']:.0f} s"),
             ("simulate it", f"{rtl['cycles_per_second']:,.0f} cycles per second")]
    return table(["task", f"on an {result['machine']['processor']}"], rows)


#: By page and marker.
TABLES = {("results/index.md", make.__name__): make
          for make in (steps, matrices, counters, memories, density, pes, processors, software)}
TABLES["explain/architecture.md", "queues"] = queues


def plot(folder: Path) -> None:
    """Draw the plots of the page, as SVG."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"svg.hashsalt": "openese", "svg.fonttype": "none", "axes.grid": True, "grid.alpha": 0.3})
    ese = _results()["ese"]

    def figure(name, draw, x, y):
        figure, axes = pyplot.subplots(figsize=(6.4, 3.6), layout="constrained")
        draw(axes)
        axes.set(xlabel=x, ylabel=y)
        axes.legend()
        figure.savefig(folder / f"performance-{name}.svg", metadata={"Date": None})
        pyplot.close(figure)

    def by_density(axes):
        for balanced, title in ((True, "balanced"), (False, "unbalanced")):
            rows = [row for row in ese["density_sweep"] if row["balanced"] is balanced]
            axes.plot([row["density"] for row in rows], [row["speedup"] for row in rows], "o-", label=title)
        shares = [row["density"] for row in ese["density_sweep"]]
        axes.plot(shares, [1 / share for share in shares], "k:", label="1 / density")
        axes.plot([0.1, 0.1], [6.2, 5.5], "x", color="gray", label="the paper at 10 %")
        axes.set(xscale="log", yscale="log")

    def by_pes(axes):
        rows = ese["pe_sweep"]
        axes.plot([row["pes"] for row in rows], [row["speedup"] for row in rows], "o-", label="cycle model")
        axes.plot([row["pes"] for row in rows], [row["pes"] / rows[0]["pes"] for row in rows], "k:", label="ideal")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)

    figure("density", by_density, "density", "speedup over dense")
    figure("pes", by_pes, "PEs", f"speedup over {ese['pe_sweep'][0]['pes']} PEs")


if __name__ == "__main__":
    if sys.argv[1:]:
        measured = [json.loads(Path(path).read_text()) for path in sys.argv[1:]]
        DATA.write_text(json.dumps({result["machine"]["preset"]: result for result in measured}, indent=1) + "\n")
    update(TABLES)
    plot(HERE)
