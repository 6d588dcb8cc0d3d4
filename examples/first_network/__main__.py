# SPDX-License-Identifier: Apache-2.0
"""``python -m examples.first_network`` trains a network in PyTorch, prunes it, compiles it, and runs its Verilog.

A pulse on the first input opens a gate, and a pulse on the second input closes it. All inputs are noisy. For every
frame the network says whether the gate is open, so it must remember the last pulse.
"""

from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

import openese

MACHINE, DENSITY, UPDATES = openese.preset("demo"), 0.2, 300
FOLDER = Path("build/first_network")


class Detector(torch.nn.Module):
    """An LSTM with a linear head: frames (T, B, 8) -> logits (T, B, 1)."""

    def __init__(self):
        super().__init__()
        self.lstm = torch.nn.LSTM(8, 32)
        self.head = torch.nn.Linear(32, 1)

    def forward(self, frames):
        return self.head(self.lstm(frames)[0])


def batch(voices=32, steps=60):
    """Return frames (T, B, 8), and for each frame whether the gate is open, (T, B, 1)."""
    opening, closing = torch.rand(2, steps, voices, 1) < 0.1
    gate = torch.zeros(steps, voices, 1)  # closed before the first pulse
    for t in range(steps):
        gate[t] = torch.where(opening[t], 1, torch.where(closing[t], 0, gate[t - 1]))
    noise = 0.2 * torch.randn(steps, voices, 8)
    return noise + torch.nn.functional.pad(torch.cat([opening, closing], dim=2), (0, 6)), gate


def train(network, pruner=None):
    """Train on `UPDATES` batches; ``pruner`` lowers the density during training."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(UPDATES):
        frames, gate = batch()
        optimizer.zero_grad()
        binary_cross_entropy_with_logits(network(frames), gate).backward()
        optimizer.step()
        if pruner:
            pruner.step()


def main():
    """Print the share of frames with the right answer after each stage."""
    torch.manual_seed(1)
    torch.set_num_threads(1)
    network = Detector()
    frames, gate = batch(voices=64)

    def report(stage, logits):
        print(f"{stage:<24}{np.mean((logits > 0) == gate.numpy()):.1%} of the frames right")

    train(network)
    report("PyTorch, dense", network(frames).detach().numpy())
    pruner = openese.Pruner(network, DENSITY, MACHINE, steps=UPDATES // 2)
    train(network, pruner)
    pruner.make_permanent()
    report(f"PyTorch, density {DENSITY:.0%}", network(frames).detach().numpy())

    FOLDER.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), FOLDER / "detector.pt")
    compiled = openese.compile(FOLDER / "detector.pt", MACHINE, select="lstm,head", calibrate=batch()[0].numpy())
    compiled.save(FOLDER / "detector.img")
    outputs = compiled.run(frames.numpy())
    report("reference", outputs)
    verilog = compiled.run(frames.numpy(), backend="sim")
    report("Verilog", verilog)
    print(f"{np.count_nonzero(verilog != outputs)} of {outputs.size} outputs of the Verilog differ from the reference.")


if __name__ == "__main__":
    main()
