# SPDX-License-Identifier: Apache-2.0
"""Measure a network on a machine against its own runtime: the error of every output, and what it means."""

import warnings

import numpy as np

import openese
from openese.rtl.config import machine_config

__all__ = ["DENSITIES", "Measurement"]

#: Tried one after the other, until the first at which the network's task is lost.
DENSITIES = tuple(percent / 100 for percent in range(90, 0, -10))


class Measurement:
    """One exhibit on its machine.

    Parameters
    ----------
    exhibit : `Exhibit`
    tell : callable
        Called with a phrase about each stage as it begins.
    """

    def __init__(self, exhibit, tell):
        self._exhibit, self._tell = exhibit, tell
        self._calibration, self._tests, self._shown = exhibit.examples()
        tell("its own runtime")
        self._wanted = exhibit.run(exhibit.original(), self._tests)
        self._reference = None

    def figures(self, simulate):
        """Return the figures of the dense network, and of the sparsest one that keeps its task.

        Raises
        ------
        ValueError
            If a number of the Verilog is not that of the reference.
        """
        with self._offload(1.0, "float") as network:
            floats = self._exhibit.run(network, self._tests)
            layers = [(layer.inputs, layer.cells or layer.outputs) for part in network.networks.values()
                      for direction in part.directions for layer in direction.model.layers]
        shares = self._scan()
        rows = [self._row(1.0)]
        for density in sorted(shares):
            row = self._row(density)
            if self._keeps(row["kept"], row["total"]):
                rows.append(row)
                break
        if simulate:
            rows[-1]["verilog"] = self._simulated(rows[-1]["density"])
        exhibit = self._exhibit
        return {"package": exhibit.package, "file": exhibit.file, "also": exhibit.also, "layers": layers,
                "machine": machine_config(exhibit.machine).name, "asks": exhibit.asks,
                "least": exhibit.least, "float_difference": _largest(floats.outputs, self._wanted.outputs),
                "one_shot": shares, "rows": rows}

    def _scan(self):
        """Return the share of answers kept in floating point, by density, as far as the task is kept."""
        shares = {}
        for density in DENSITIES:
            self._tell(f"pruned to {density:.0%}, in floating point")
            with self._offload(density, "float") as network:
                kept, total = self._exhibit.kept(self._exhibit.run(network, self._tests), self._wanted)
            if not self._keeps(kept, total):
                break
            shares[density] = kept / total
        return shares

    def _keeps(self, kept, total):
        return kept >= self._exhibit.least * total

    def _row(self, density):
        self._tell(f"{density:.0%}, number formats and the reference")
        exhibit = self._exhibit
        with self._offload(density, "reference") as network:
            found = exhibit.run(network, self._tests)
            self._reference = exhibit.run(network, self._shown)
            size = sum(image.bytes for part in network.parts.values() for image in part.images)
        kept, total = exhibit.kept(found, self._wanted)
        return {"density": density, "bytes": size,
                "errors": {name: _relative(found.outputs[name], self._wanted.outputs[name]) for name in found.outputs},
                "kept": kept, "total": total, "detail": exhibit.detail(found, self._wanted), "verilog": None}

    def _simulated(self, density):
        """Return how many numbers the Verilog computes as the reference did in the last row."""
        self._tell(f"{density:.0%}, the Verilog")
        with self._offload(density, "sim") as network:
            verilog = self._exhibit.run(network, self._shown)
        numbers = 0
        for name, arrays in self._reference.outputs.items():
            for ours, theirs in zip(verilog.outputs[name], arrays, strict=True):
                if not np.array_equal(ours, theirs):
                    raise ValueError(f"{self._exhibit.name}, output {name}: {np.count_nonzero(ours != theirs)} of "
                                     f"{theirs.size} numbers of the Verilog differ from the reference's")
                numbers += theirs.size
        return numbers

    def _offload(self, density, backend):
        examples = self._shown if backend == "float" else self._calibration  # without number formats, any will do
        with warnings.catch_warnings():  # some packages use one of the rates that their network is for
            warnings.filterwarnings("ignore", "calibrate gives .* no input but zeros")
            return openese.offload(self._exhibit.network(), self._exhibit.machine, backend=backend,
                                   density=None if density == 1 else density,
                                   calibrate=lambda network: self._exhibit.run(network, examples))


def _flat(arrays):
    return np.concatenate([np.ravel(array) for array in arrays]).astype(np.float64)


def _relative(found, wanted):
    """Return the RMS difference of arrays, relative to the RMS of those that are wanted."""
    found, wanted = _flat(found), _flat(wanted)
    return float(np.sqrt(np.mean((found - wanted)**2) / np.mean(wanted**2)))


def _largest(found, wanted):
    return float(max(np.abs(_flat(found[name]) - _flat(wanted[name])).max() for name in wanted))
