# SPDX-License-Identifier: Apache-2.0
"""Settings of all tests."""

import os

from hypothesis import settings

# Small matrices gain nothing from threads, and lose much where cores are few.
for library in ("OPENBLAS", "OMP"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")

# A busy machine is no failure.
settings.register_profile("openese", deadline=None)
settings.load_profile("openese")
