# SPDX-License-Identifier: Apache-2.0
"""Frames at any time: while W_r y is multiplied ahead of them, before and after, with whatever makes it stale.

The campaign ``configurations`` of the soak does the same on random machines.
"""

import numpy as np
import pytest
from machines import DENSE, GROUPS, GRU, STREAM, TINY
from soak.hardware import random_models
from soak.schedules import random_events, random_times

pytestmark = pytest.mark.sim

MACHINES = (TINY, GROUPS, STREAM, GRU, DENSE,
            GROUPS.replace(name="forward", forward=True),
            TINY.replace(name="banked", banks=4, vector_depth=512, models=2, program_depth=128))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("number", range(len(MACHINES)), ids=[config.name for config in MACHINES])
def test_frames_at_any_time(number, seed):
    rng = np.random.default_rng([number, seed])
    found, _ = random_models(rng, MACHINES[number])
    random_events(rng, found.plans)
    if not found.plans[0].streamed:
        random_times(rng, found.plans)
