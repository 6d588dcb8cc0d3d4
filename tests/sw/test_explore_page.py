# SPDX-License-Identifier: Apache-2.0
"""The pages of explore and report: complete without a network, as Chromium shows them."""

import html
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from test_cli import folder, openese  # noqa: F401  fixtures

from openese.rtl.targets.devices import device
from openese.rtl.targets.logic import Amount
from openese.sw.compile import CompiledNetwork, QuantizedNetwork
from openese.sw.cycles.model import Activity

plotly = pytest.importorskip("plotly", reason="needs Plotly: pip install 'openese[explore]'")
from openese.sw.explore.page import _WAITS, _of_device  # noqa: E402  needs Plotly

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))),
                None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")


def ours(page):
    """The page without Plotly's script."""
    from plotly.offline import get_plotlyjs
    text = Path(page).read_text()
    assert text.count(get_plotlyjs()) == 1
    return text.replace(get_plotlyjs(), "")


def shown(page, tmp_path):
    """What Chromium makes of it without a network: the document, and what it would have fetched or found wrong."""
    log = tmp_path / "chromium.log"
    with log.open("w") as said:
        found = subprocess.run(
            [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
             "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--v=0",
             "--virtual-time-budget=20000", "--dump-dom", Path(page).resolve().as_uri()],
            stdout=subprocess.PIPE, stderr=said, text=True, check=True, timeout=120).stdout
    return found, [line for line in log.read_text().splitlines() if "CONSOLE" in line]


def figures(document):
    """By name, the figures that Plotly has drawn."""
    parts = re.split(r'<div id="([a-z]+(?:-\d+)?)" class="plotly-graph-div', document)
    return {name: part for name, part in zip(parts[1::2], parts[2::2], strict=True) if 'class="main-svg"' in part}


def check_self_contained(page):
    text = ours(page)
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:)""", text) and "@import" not in text and "url(" not in text
    assert not re.search(r"https?://", re.sub(r"http://www\.w3\.org/\S+", "", text))


def test_every_activity_of_a_pe_has_a_name():
    assert _WAITS.keys() | {Activity.BUSY} == set(Activity)


def test_large_numbers_have_all_their_digits():
    of_all = _of_device(device("aws-f1"), {"FF": Amount(1_274_182, 0.01), "BRAM": Amount(1_697.5, 0)})
    assert "<td>1,274,182</td>" in of_all and "<td>1,697.5</td>" in of_all


@needs_chromium
def test_the_page_of_a_search(folder, openese, tmp_path):  # noqa: F811
    openese("explore both.npz --device pynq-z2 --jobs 1 --try pes=4 --try channels=1,2 --try slices=2 "
            "--try activation_bits=12 -o page.html")
    check_self_contained("page.html")
    document, wrong = shown("page.html", tmp_path)
    assert not wrong
    drawn = figures(document)
    assert drawn.keys() == {"front", *(f"{kind}-{number}" for kind in ("balance", "timeline", "errors")
                                       for number in range(4))}
    assert drawn["front"].count('class="point"') >= 3 and "the best" in drawn["front"]
    assert "<image" in drawn["balance-0"] or "hm" in drawn["balance-0"]
    for label in ("products of w_x 0", "drain: sums are read out", "element-wise", "output"):
        assert label in document
    told = html.unescape(re.search(r"<pre>(.*?)</pre>", document, re.S)[1]).splitlines()
    assert told == ["openese compile both.npz --config page.toml -o page",
                    "openese build --for page -o page-build"]


@needs_chromium
def test_the_page_of_an_image(folder, openese, tmp_path):  # noqa: F811
    openese("compile net.npz --preset tiny --density 0.5 --calibrate x.npy -o net.img")
    assert openese("report net.img --device pynq-z2 --calibrate x.npy -o page.html") == "page.html: the page\n"
    check_self_contained("page.html")
    document, wrong = shown("page.html", tmp_path)
    assert not wrong
    assert figures(document).keys() == {"balance-0", "timeline-0", "errors-0"}
    load, = CompiledNetwork.load("net.img").summary.loads
    text = html.unescape(document)
    for figure in (f"{load.cycles_per_step:,}", f"{load.cycles_at_rest:,}", "pes&nbsp;=&nbsp;4", "XC7Z020",
                   "lstm0", "entry_depth"):
        assert figure.replace("&nbsp;", "\xa0") in text, figure


def test_the_errors_are_those_of_the_quantizer(folder, openese):  # noqa: F811
    """A quantized network has them; of an image they are measured on frames, of the same weights."""
    openese("quantize net.npz --preset tiny --calibrate x.npy -o q.npz")
    openese("pack q.npz -o q.img")
    pages = {}
    for name, line in (("q", "report q.npz -o q.html"), ("img", "report q.img -o img.html"),
                       ("frames", "report q.img --calibrate x.npy -o frames.html")):
        openese(line)
        pages[name] = ours(f"{name}.html")
    assert "Not measured: give frames by --calibrate" in pages["img"] and "errors-0" not in pages["img"]
    report = QuantizedNetwork.load("q.npz").models[0].report
    for row in report.tensors:
        assert f"<td>{row.saturated:,} of {row.count:,}</td><td>{row.rms_error:.3g}</td>" in pages["q"]
    # Against the integers' own weights nothing is lost in these, and the same in the activations' formats.
    weights = re.search(r"<td>lstm0</td><td>w_x\[i\]</td>.*?</tr>", pages["frames"])[0]
    assert weights.endswith("<td>0</td></tr>") and "40 steps of 1 voices" in pages["frames"]


def test_frames_of_another_size_are_refused(folder, openese):  # noqa: F811
    openese("compile net.npz --preset tiny --calibrate x.npy -o net.img")
    np.save("wrong.npy", np.ones((4, 5)))
    openese("report net.img --calibrate wrong.npy -o p.html", 2,
            "wrong.npy: frames of shape (4, 5) have 5 features; the network takes 6")
