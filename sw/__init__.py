# SPDX-License-Identifier: Apache-2.0
"""From a trained network to a memory image, and through the machine: import, prune, quantize, pack, run."""

if __name__ == "sw":
    raise ImportError("this package is imported as openese.sw")
