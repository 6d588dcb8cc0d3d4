# SPDX-License-Identifier: Apache-2.0
"""The example of a first network: its task, and the whole program."""

import re

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs PyTorch: the extra `train`")

import openese  # noqa: E402
from examples.first_network import __main__ as example  # noqa: E402


def test_the_gate_follows_the_last_pulse():
    torch.manual_seed(1)
    frames, gate = example.batch(voices=40)
    assert frames.shape == (60, 40, 8) and gate.shape == (60, 40, 1)
    opening, closing = frames[..., 0] > 0.5, frames[..., 1] > 0.5
    # The noise rarely looks like a pulse, or hides one.
    assert (gate[..., 0] == 1)[opening].float().mean() > 0.9
    assert (gate[..., 0] == 0)[closing & ~opening].float().mean() > 0.9
    changed = torch.diff(gate[..., 0], dim=0) != 0
    assert (opening | closing)[1:][changed].float().mean() > 0.9


@pytest.mark.sim
def test_the_program(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    example.main()
    *stages, last = capsys.readouterr().out.splitlines()
    right = [float(re.search(r"([0-9.]+)% of the frames right", line)[1]) for line in stages]
    assert len(right) == 4 and min(right) > 95 and right[2] == right[3]
    assert last == "0 of 3840 outputs of the Verilog differ from the reference."
    weights = openese.load(example.FOLDER / "detector.pt", "lstm").model.layers[0]
    assert np.count_nonzero(weights.w_r) <= example.DENSITY * weights.w_r.size
    assert openese.CompiledNetwork.load(example.FOLDER / "detector.img").config.name == "demo"
