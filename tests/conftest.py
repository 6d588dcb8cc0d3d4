# SPDX-License-Identifier: Apache-2.0
"""Settings of all tests."""

import os

import pytest
from hypothesis import settings

# Small matrices gain nothing from threads, and lose much where cores are few; torch and its kin count as well.
for library in ("OPENBLAS", "OMP"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")

# A busy machine is no failure.
settings.register_profile("openese", deadline=None)
settings.load_profile("openese")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Long tests begin first, so that parallel runs end together."""
    def place(item):
        return 0 if item.get_closest_marker("slow") else 1 if item.get_closest_marker("sim") else 2

    items.sort(key=place)
