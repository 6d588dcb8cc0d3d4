# SPDX-License-Identifier: Apache-2.0
"""``python -m docs.results.latency [FILE ...]``: tables and a plot of what ``openese bench --latency --json`` found.

The files replace latency.json, which keeps the results by preset. Without files, tables and plot are made of
latency.json.
"""

import json
import sys
from functools import cache
from pathlib import Path

from docs.markdown import table, update

__all__ = ["DATA", "TABLES", "plot"]

HERE = Path(__file__).parent
DATA = HERE / "latency.json"


@cache
def _results():
    return json.loads(DATA.read_text())


def latency():
    """One voice at rest, by network and machine."""
    rows = []
    for name, result in _results().items():
        machine = result["machine"]
        for shape in result["shapes"]:
            times = (f"{time:.1f}" for time in shape["microseconds"].values())
            rows.append((shape["name"], f"`{name}`", f"{machine['multipliers']:,}", f"**{shape['rest']:,}**",
                         "" if shape["measured"] is None or not shape["exact"] else f"{shape['measured']:,}", *times,
                         f"{shape['starts']:,}", f"{shape['steady']:,}"))
    order = [shape["name"] for shape in next(iter(_results().values()))["shapes"]]
    rows.sort(key=lambda row: order.index(row[0]))
    return table(["network", "machine", "multipliers", "cycles at rest", "in the Verilog", "us at 200 MHz",
                  "us at 300 MHz", "cycles, starts voices", "cycles, steady"], rows)


def peers():
    """What others publish for the same networks."""
    found = next(iter(_results().values()))["peers"]
    return table(["machine", "network", "us", "multipliers", "numbers", "density", "the time includes"],
                 [(f"[{peer['name']}]({peer['source']})", peer["shape"], peer["microseconds"],
                   f"{peer['multipliers']:,}", peer["bits"], peer["density"], peer["included"]) for peer in found])


#: By page and marker.
TABLES = {("results/index.md", make.__name__): make for make in (latency, peers)}


def plot(folder: Path) -> None:
    """Draw the times at rest of the page, by network, as SVG."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot, ticker

    pyplot.rcParams.update({"svg.hashsalt": "openese", "svg.fonttype": "none", "axes.grid": True, "grid.alpha": 0.3})
    networks = [shape["name"] for shape in next(iter(_results().values()))["shapes"]]
    figure, axes = pyplot.subplots(figsize=(6.4, 3.8), layout="constrained")
    for name, result in _results().items():
        multipliers = result["machine"]["multipliers"]
        for clock, style in (("200", "o"), ("300", "s")):
            axes.plot(networks, [shape["microseconds"][clock] for shape in result["shapes"]], style,
                      label=f"{name}, {multipliers:,} multipliers, at {clock} MHz")
    published = {}
    for peer in next(iter(_results().values()))["peers"]:
        published.setdefault((peer["name"], peer["multipliers"]), []).append(peer)
    for style, ((name, multipliers), rows) in zip("x+1234", published.items(), strict=False):
        axes.plot([row["shape"] for row in rows], [row["microseconds"] for row in rows], style, color="black",
                  label=f"{name}, {multipliers:,} multipliers, as published")
    axes.set(yscale="log", ylabel="us from frame to answer")
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(ticker.NullLocator())
    pyplot.setp(axes.get_xticklabels(), rotation=30, ha="right")
    figure.legend(fontsize="small", loc="outside upper center", ncols=2)
    figure.savefig(folder / "latency.svg", metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    if sys.argv[1:]:
        found = [json.loads(Path(path).read_text()) for path in sys.argv[1:]]
        DATA.write_text(json.dumps({result["machine"]["preset"]: result for result in found}, indent=1) + "\n")
    update(TABLES)
    plot(HERE)
