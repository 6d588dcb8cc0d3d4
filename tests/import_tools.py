# SPDX-License-Identifier: Apache-2.0
"""What the tests of the importers share."""

import numpy as np

from sw.network import Network
from sw.runners import FloatRunner


def run_float(network: Network, x, **named):
    """The float model of a network over whole sequences: outputs and final states."""
    return network.run(x, [FloatRunner(direction.model) for direction in network.directions], **named)


def assert_close(found, expected):
    """Equal to 1e-5, absolutely for small numbers and relatively for large ones."""
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
