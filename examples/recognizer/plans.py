# SPDX-License-Identifier: Apache-2.0
"""The training plans: the full one, and a small one as a test."""

from dataclasses import dataclass, replace

from examples.recognizer.corpus import PARTS
from examples.recognizer.train import Run

__all__ = ["FULL", "SMALL", "Plan"]


@dataclass(frozen=True)
class Plan:
    """The runs of a training, and the parts of the corpus that they need.

    Attributes
    ----------
    folder : str
        The plan's folder in the working folder.
    shares : dict
        Part of the corpus -> its share of the training data.
    shards : dict
        Part -> the number of its shards.
    wide : dict
        Test -> the number of its shards for the comparison of dense and sparse networks.
    batch, steps : int
    runs : tuple of `Run`
        In order.
    dense, sparse, sparser : str
        The runs to compare. The sparse one becomes the recognizer.
    """

    folder: str
    shares: dict
    shards: dict
    wide: dict
    batch: int
    steps: int
    runs: tuple
    dense: str
    sparse: str
    sparser: str

    def run(self, name):
        """Return the run with this name."""
        return next(run for run in self.runs if run.name == name)

    def way(self, name):
        """Return the runs that lead to this run, which is the last."""
        run = self.run(name)
        return (*(self.way(run.parent) if run.parent else ()), run)


def _runs(base, updates, tuned):
    """Return the runs of a plan: a base, a dense and a sparse branch, and two tunings of each.

    The dense network teaches the sparse ones in their tunings. The sparser network branches off before the last
    tuning. All ways have the same number of updates. ``tuned`` is the updates and the rate of a tuning.
    """
    dense = replace(base, name="dense", updates=updates, decay=True, parent=base.name, stage=1)
    sparse = replace(dense, name="sparse-10", density=0.1)
    dense_tuned = replace(dense, name="dense-tuned", updates=tuned[0], rate=tuned[1], parent=dense.name, stage=2)
    sparse_tuned = replace(dense_tuned, name="sparse-10-tuned", parent=sparse.name, teacher=dense.name, density=0.1)
    dense_last = replace(dense_tuned, name="dense-last", parent=dense_tuned.name, stage=3)
    sparse_last = replace(sparse_tuned, name="sparse-10-last", parent=sparse_tuned.name, stage=3)
    return (base, dense, sparse, dense_tuned, sparse_tuned, dense_last, sparse_last,
            replace(sparse_last, name="sparse-05-last", density=0.05))


_SHARES = {"espeak-train": 0.5, "flite-train": 0.2, "prompts-train": 0.3}
_WIDE = dict.fromkeys(("espeak-test", "espeak-test-clean", "espeak-test-rooms", "flite-test"), 8)
_SMALL_PARTS = (*_SHARES, "espeak-dev", "prompts-dev", "espeak-test", "prompts-test")

FULL = Plan("paper", _SHARES, {name: part.shards for name, part in PARTS.items()}, _WIDE, 32, 128,
            _runs(Run("base", 1024, 512, updates=640, rate=2e-3, decay=False), 4000, (3000, 2e-3)),
            "dense-last", "sparse-10-last", "sparse-05-last")
SMALL = Plan("small", _SHARES, dict.fromkeys(_SMALL_PARTS, 1), {"espeak-test": 1}, 16, 96,
             _runs(Run("base", 128, 64, updates=60, rate=4e-3, decay=False), 40, (20, 2e-3)),
             "dense-last", "sparse-10-last", "sparse-05-last")
