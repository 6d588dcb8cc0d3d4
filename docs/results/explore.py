# SPDX-License-Identifier: Apache-2.0
"""``python -m docs.results.explore FOLDER [NAME ...]``: the searches for machines that docs/results shows.

It runs all of them, or those that are named, leaves their pages in FOLDER, writes explore.json, and makes the tables of
it. The tables alone are made by ``python -m docs.tables``.
"""

import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np

from docs.markdown import DOCS, table, update

__all__ = ["DATA", "TABLES"]

DATA = Path(__file__).parent / "explore.json"

_ROOT = DOCS.parent
_CLIPS = ("cards-001", "cards-002", "cards-004", "goforward")


def _speech(folder):
    """Features of recorded speech, as the recognizer gets them."""
    from openese.sw.speech.audio import read
    from openese.sw.speech.features import features
    from openese.sw.speech.recognizer import delayed, side_by_side
    clips = [read(_ROOT / "examples" / "silero_vad" / "clips" / f"{name}.wav") for name in _CLIPS]
    frames, lengths = side_by_side([delayed(features(clip)) for clip in clips])
    np.savez(folder / "speech.npz", frames=frames, lengths=lengths)


def _three(folder):
    """Three layers of 480 cells with random weights."""
    from openese.sw.bench.latency import SHAPES
    from openese.sw.model.network import Network
    shape, = (shape for shape in SHAPES if shape.name == "3 x 480")
    Network.of(shape.model()).save(folder / "3x480.npz")


_RECOGNIZER = ("sw", "speech", "recognizer.img")

#: By name: what makes the files, and the command line.
SEARCHES = {
    "recognizer": (_speech, [str(_ROOT.joinpath(*_RECOGNIZER)), "--device", "xcku060", "--throughput", "--calibrate",
                             "speech.npz", "--max-loss", "0.02", "--density", "1"]),
    "3x480": (_three, ["3x480.npz", "--device", "aws-f1", "--latency", "3", "--density", "0.1"]),
}


def run(folder, name):
    """Run a search; its figures, with the time of a processor that it takes."""
    make, arguments = SEARCHES[name]
    make(folder)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "openese", "explore", *arguments, "-o", f"{name}.html", "--json",
                    f"{name}.json"], cwd=folder, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = json.loads((folder / f"{name}.json").read_text())
    del result["commands"]  # they name this computer's folders
    return result | {"processor_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)}


def _front(name):
    result = json.loads(DATA.read_text())[name]
    forwards = any(one["machine"].get("forward") for one in result["front"])

    def row(one):
        machine = one["machine"]
        best = "**" if one == result["winner"] else ""
        cells = [f"{machine['pes']} x {machine['channels']}", machine["groups"],
                 f"{machine['slices']} x {machine['slice_width']}",
                 *(["yes" if machine.get("forward") else "no"] * forwards), f"{100 * one['density']:g} %",
                 f"{machine['weight_bits']} / {machine['activation_bits']}",
                 f"{one['cycles_at_rest']:,}", f"{one['microseconds_at_rest']:.2f}", f"{one['cycles_per_step']:,}",
                 f"{one['frames_per_second']:,.0f}", f"{100 * one['share']:.0f} %", f"{100 * one['loss']:.2g} %"]
        return [f"{best}{cell}{best}" for cell in cells]

    return table(["PEs x channels", "groups", "slices x width", *["forward"] * forwards, "density",
                  "bits of weights / activations", "cycles at rest", "us", "cycles of a step", "frames a second",
                  "share of the device", "loss"],
                 map(row, result["front"]))


def _effort():
    names = {"recognizer": "the recognizer, XCKU060, most frames a second", "3x480": "3 x 480, XCVU9P, 3 us"}
    return table(["search", "candidates", "do not fit", "too slow", "cannot be better", "in the cycle model",
                  "compiled", "seconds of a processor"],
                 [[names[name], *(f"{result['counts'][kind]:,}" for kind in (
                     "considered", "too large", "too slow", "beaten", "timed", "measured")),
                   result["processor_seconds"]] for name, result in json.loads(DATA.read_text()).items()])


TABLES = {
    ("results/index.md", "explored recognizer"): lambda: _front("recognizer"),
    ("results/index.md", "explored 3x480"): lambda: _front("3x480"),
    ("results/index.md", "explored effort"): _effort,
}

if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[2:] or SEARCHES:
        kept = json.loads(DATA.read_text()) if DATA.exists() else {}
        DATA.write_text(json.dumps(kept | {name: run(folder, name)}, indent=1) + "\n")
    update(TABLES)
