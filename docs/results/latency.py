# SPDX-License-Identifier: Apache-2.0
"""``python -m docs.results.latency [FILE ...]``: tables of what ``openese bench --latency --json`` found.

The files replace latency.json, which keeps the results by preset. Without files, the tables are made of latency.json.
"""

import json
import sys
from functools import cache
from pathlib import Path

from docs.markdown import table, update

__all__ = ["DATA", "TABLES"]

DATA = Path(__file__).parent / "latency.json"


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
            rows.append((shape["name"], f"`{name}`", f"{machine['multipliers']:,}", f"**{shape['rest']:,}**", *times,
                         f"{shape['starts']:,}", f"{shape['steady']:,}"))
    order = [shape["name"] for shape in next(iter(_results().values()))["shapes"]]
    rows.sort(key=lambda row: order.index(row[0]))
    return table(["network", "machine", "multipliers", "cycles at rest", "us at 200 MHz", "us at 300 MHz",
                  "cycles, starts voices", "cycles, steady"], rows)


def peers():
    """What others publish for the same networks."""
    found = next(iter(_results().values()))["peers"]
    return table(["machine", "network", "us", "multipliers", "numbers", "density", "the time includes"],
                 [(f"[{peer['name']}]({peer['source']})", peer["shape"], peer["microseconds"],
                   f"{peer['multipliers']:,}", peer["bits"], peer["density"], peer["included"]) for peer in found])


#: By page and marker.
TABLES = {("results/index.md", make.__name__): make for make in (latency, peers)}

if __name__ == "__main__":
    if sys.argv[1:]:
        found = [json.loads(Path(path).read_text()) for path in sys.argv[1:]]
        DATA.write_text(json.dumps({result["machine"]["preset"]: result for result in found}, indent=1) + "\n")
    update(TABLES)
