# SPDX-License-Identifier: Apache-2.0
"""A cocotb bench with the work of `openese.sw.bench.speed` in the harness, to compare their speed."""

import json
import os
import time
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
from cocotb.utils import get_sim_time

from openese.rtl.registers import ADDRESS, Control
from openese.sim.testbench import PERIOD, TB
from openese.sw.bench.speed import IMAGE, RESULT, STEPS
from openese.sw.pack.image import Image, read


@cocotb.test()
async def speed(dut: Any) -> None:
    """Load an image and run `STEPS` frames of zeros."""
    image: Image = read(Path(os.environ[IMAGE]))
    tb = await TB.start(dut)
    began, cycle = time.perf_counter(), get_sim_time("ns") / PERIOD
    await tb.write(ADDRESS["CONTROL"], Control.LOAD)
    await tb.load(ADDRESS["LOAD"], image.words())
    await tb.write(ADDRESS["CONTROL"], Control.RUN)
    model = image.model()
    columns = np.zeros((model.inputs, tb.config.channels), np.int16)
    for _ in range(STEPS):
        await tb.send_frame(np.full(tb.config.channels, 3), columns)
    for _ in range(STEPS):
        await tb.receive_frame(model.outputs)
    cycles = get_sim_time("ns") / PERIOD - cycle
    Path(RESULT).write_text(json.dumps(cycles / (time.perf_counter() - began)))
