# SPDX-License-Identifier: Apache-2.0
"""Compares the harness with cocotb: simulated cycles a second, for the same work on the same Verilog."""

import json
import os
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np

from openese.rtl.config import preset
from openese.sw.bench.layer import paper_layer, quantized_layer
from openese.sw.pack.image import pack
from openese.sw.pack.schedule import schedule
from openese.sw.prune import prune
from openese.sw.run.device import Device

__all__ = ["IMAGE", "RESULT", "STEPS", "cocotb_speed"]

IMAGE = "OPENESE_IMAGE"  # environment variable: path of the image
RESULT = "speed.json"  # in the working folder: simulated cycles a second of real time
STEPS = 4
_PRESET = "demo"
_SIZES = (16, 64, 32)  # inputs, cells, outputs: small enough to be loaded under cocotb
_DENSITY = 0.5


def cocotb_speed() -> dict[str, object]:
    """Load an image and run frames on preset `demo`, in `openese.sw.bench.cocotb_bench` and in the harness.

    Returns
    -------
    dict
        ``pes``, ``channels``, ``cycles_per_second``, ``harness_cycles_per_second``, ``ratio``.
    """
    from openese.sim import benches
    from openese.sim.simulator import Simulator

    config = preset(_PRESET)
    sparse = prune(paper_layer(0, *_SIZES), _DENSITY, config.pes, config.groups)
    image = pack(schedule(quantized_layer(sparse, config), config))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layer.img"
        image.save(path)
        with mock.patch.dict(os.environ, {IMAGE: str(path)}):
            benches.run("openese.sw.bench.cocotb_bench", config, Path(folder), log=Path(folder) / "log")
        under_cocotb = json.loads((Path(folder) / RESULT).read_text())
    with Simulator(config) as link:
        began, cycle = time.perf_counter(), link.cycles
        device = Device(link, image)
        device.run(np.zeros((STEPS, config.channels, device.model.inputs), np.int64))
        harness = (link.cycles - cycle) / (time.perf_counter() - began)
    return {"pes": config.pes, "channels": config.channels, "cycles_per_second": under_cocotb,
            "harness_cycles_per_second": harness, "ratio": harness / under_cocotb}
