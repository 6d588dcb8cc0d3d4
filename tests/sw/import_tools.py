# SPDX-License-Identifier: Apache-2.0
"""Helpers for the tests of the importers."""

import io
import zipfile

import numpy as np

from openese.sw import importers
from openese.sw.importers import ImportRefused
from openese.sw.model.layers import ModelError
from openese.sw.model.network import Network
from openese.sw.run.runners import FloatRunner


def run_float(network: Network, x, **named):
    """Return the outputs and final states of a network in floating point over whole sequences."""
    return network.run(x, [FloatRunner(direction.model) for direction in network.directions], **named)


def assert_close(values, expected):
    """Check that values are equal within 1e-5, absolute for small numbers and relative for large ones."""
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-5)


def damaged(data, count):
    """Yield ``count`` copies of ``data`` with a few bytes changed, removed or inserted, the same in every run."""
    rng = np.random.default_rng(len(data))
    for _ in range(count):
        copy = bytearray(data)
        for at in rng.integers(0, len(data), rng.integers(1, 6)):
            kind = rng.integers(0, 3)
            if kind == 0:
                copy[at:at + 1] = rng.bytes(1)
            elif kind == 1:
                del copy[at:at + int(rng.integers(1, 20))]
            else:
                copy[at:at] = rng.bytes(int(rng.integers(1, 9)))
        yield bytes(copy)


def assert_survives(path, damages=30):
    """Check that damaged copies of a file are read or refused, and never fail in another way.

    A zip archive notices most damage itself, so its small members are damaged too.
    """
    target = path.with_name(f"damaged{path.suffix}")
    copies = list(damaged(path.read_bytes(), damages))
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        for name in [name for name in members if name.endswith((".pkl", ".json", ".npy", ".h5"))][:3]:
            for copy in damaged(members[name], damages // 2):
                buffer = io.BytesIO()
                with zipfile.ZipFile(buffer, "w") as archive:
                    for other, data in members.items():
                        archive.writestr(other, copy if other == name else data)
                copies.append(buffer.getvalue())
    for copy in copies:
        target.write_bytes(copy)
        for read in (importers.entries, importers.load):
            try:
                read(target)
            except (ImportRefused, ModelError):
                pass
