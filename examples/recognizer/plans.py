# SPDX-License-Identifier: Apache-2.0
"""What is trained, on how much: the full plan, and a small one that only shows that everything works."""

from dataclasses import dataclass, replace

from examples.recognizer.corpus import PARTS
from examples.recognizer.train import Run

__all__ = ["FULL", "SMALL", "Plan"]


@dataclass(frozen=True)
class Plan:
    """Runs of training, and the parts of the corpus that they need.

    Attributes
    ----------
    folder : str
        Below the working folder; plans do not mix.
    shares : dict
        Part of the corpus -> its share of what is trained on.
    shards : dict
        Part -> shards of it.
    batch, steps : int
    runs : tuple of `Run`
        In order.
    dense, sparse : str
        The runs that are compared; the sparse one is shipped.
    """

    folder: str
    shares: dict
    shards: dict
    batch: int
    steps: int
    runs: tuple
    dense: str
    sparse: str

    def run(self, name):
        """The run of a name."""
        return next(run for run in self.runs if run.name == name)

    def way(self, name):
        """The runs that lead to one, itself the last."""
        run = self.run(name)
        return (*(self.way(run.parent) if run.parent else ()), run)


def _branches(base, updates, density):
    """Runs from a base: dense and sparse, equally long, at a falling rate."""
    return (base, *(replace(base, name=name, updates=updates, decay=True, parent=base.name, density=share, stage=1)
                    for name, share in (("dense", None), (f"sparse-{round(100 * density):02d}", density))))


_SHARES = {"espeak-train": 0.5, "flite-train": 0.2, "prompts-train": 0.3}
_SMALL_PARTS = (*_SHARES, "espeak-dev", "prompts-dev", "espeak-test", "prompts-test")

FULL = Plan("paper", _SHARES, {name: part.shards for name, part in PARTS.items()}, 32, 128,
            _branches(Run("base", 1024, 512, updates=640, rate=2e-3, decay=False), 4000, 0.1),
            "dense", "sparse-10")
SMALL = Plan("small", _SHARES, dict.fromkeys(_SMALL_PARTS, 1), 16, 96,
             _branches(Run("base", 128, 64, updates=60, rate=4e-3, decay=False), 40, 0.1),
             "dense", "sparse-10")
