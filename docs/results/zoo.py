# SPDX-License-Identifier: Apache-2.0
"""``python -m docs.results.zoo``: the tables of networks of other packages, from zoo.json, by `examples.zoo`."""

import json
from collections import Counter
from pathlib import Path

from docs.markdown import table, update

__all__ = ["DATA", "TABLES", "results"]

DATA = Path(__file__).with_name("zoo.json")


def _held():
    return json.loads(DATA.read_text())


def _percent(share, digits):
    return f"{100 * share:.{digits}g} %"


def _layers(layers):
    counts = Counter(f"{inputs} -> {cells}" for inputs, cells in layers)
    return ", ".join(f"{count} x {shape}" if count > 1 else shape for shape, count in counts.items())


def results(networks):
    """What each network keeps of its task, dense and at the lowest density that keeps it."""
    rows = []
    for found in networks.values():
        for row in found["rows"]:
            errors = ", ".join(f"`{output}` {_percent(error, 2)}" for output, error in row["errors"].items())
            kept = f"{row['kept']:,} of {row['total']:,} {found['asks']}"
            also = f", with {found['also']}" if found.get("also") else ""
            rows.append((f"{found['package']}: `{found['file']}`{also}", _layers(found["layers"]), found["machine"],
                         _percent(row["density"], 3), f"{row['bytes']:,} B", errors,
                         "; ".join(filter(None, (kept, row["detail"]))),
                         "" if row["verilog"] is None else f"{row['verilog']:,}"))
    return table(["network", "layers", "machine", "density", "images", "error of each output", "kept",
                  "numbers of the Verilog, all equal"], rows)


def cut(measured):
    """The time of a whole network, by what takes it."""
    rows = [(f"`{name}`", f"{found['voices']} x {found['steps']}", f"{found['machine_seconds']:.2f} s",
             f"{found['rest_seconds']:.2f} s", f"{found['cut_seconds']:.2f} s", _percent(found["share"], 2))
            for name, found in measured.items()]
    return table(["network", "voices x steps", "LSTMs on the reference", "the rest, in onnxruntime", "the cut",
                  "the cut, of the LSTMs' time"], rows)


TABLES = {("results/index.md", "zoo"): lambda: results(_held()["networks"]),
          ("results/index.md", "zoo-cut"): lambda: cut(_held()["cut"])}

if __name__ == "__main__":
    update(TABLES)
