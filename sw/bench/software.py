# SPDX-License-Identifier: Apache-2.0
"""Measures the speed of the host's programs.

``prune_seconds``, ``quantize_seconds`` (calibrated on 32 frames), ``pack_seconds`` (place, encode and pack) and
``total_seconds``: times for the paper's layer. ``pack_to_csc``: the time to place and encode, over SciPy's time to
convert the same dense integer matrices to CSC. ``reference_frames_per_second``: frames of one voice that the integer
reference computes, with as many voices at once as the machine has. ``reference_to_torch``: its time over the time of
PyTorch's float LSTM; null without PyTorch. ``large``: for a model of 100 million weights ``weights``,
``float32_bytes``, seconds as above, ``peak_bytes`` of a process that does nothing else, and ``memory_ratio`` of
``peak_bytes`` to ``float32_bytes``.
"""

import json
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np
from scipy.sparse import csc_array

from openese.rtl.config import Config, preset
from openese.sw.bench.layer import INPUTS, paper_layer
from openese.sw.bench.processor import seconds, torch_step
from openese.sw.model.layers import Layer, Model
from openese.sw.model.quantized import QuantizedModel
from openese.sw.pack.image import pack
from openese.sw.pack.schedule import schedule
from openese.sw.prune import prune
from openese.sw.quantize.choose import quantize
from openese.sw.reference.machine import Reference

__all__ = ["large_model", "software"]

_FRAMES = 32
_LARGE_LAYERS, _LARGE_SIZE = 3, 2048  # of as many inputs as cells
_LARGE_DENSITY = 0.1


def _stages(model: Model, config: Config, density: float) -> tuple[QuantizedModel, dict[str, float]]:
    """The quantized model, and the seconds of every stage. Memory of ``model`` is freed if the caller drops it."""
    times = {}
    began = total = time.perf_counter()

    def lap(stage: str) -> None:
        nonlocal began
        now = time.perf_counter()
        times[f"{stage}_seconds"], began = now - began, now

    sparse = prune(model, density, config.pes, config.groups)
    lap("prune")
    frames = np.random.default_rng(0).standard_normal((_FRAMES, 1, model.inputs))
    del model
    quantized = quantize(sparse, frames, config)
    lap("quantize")
    pack(schedule(quantized, config)).words()
    lap("pack")
    return quantized, {**times, "total_seconds": time.perf_counter() - total}


def _csc_seconds(quantized: QuantizedModel) -> float:
    layer = quantized.layers[0]
    assert layer.w_ym is not None
    matrices = [layer.w_x.reshape(-1, layer.inputs), layer.w_r.reshape(-1, layer.outputs), layer.w_ym]
    return seconds(lambda: [csc_array(matrix) for matrix in matrices])


def software(config: Config, density: float, large: bool) -> dict[str, Any]:
    """The module's figures."""
    dense = paper_layer()
    quantized, times = min((_stages(dense, config, density) for _ in range(2)), key=lambda run: run[1]["total_seconds"])
    result: dict[str, Any] = dict(times)
    result["pack_to_csc"] = seconds(lambda: schedule(quantized, config)) / _csc_seconds(quantized)
    reference = Reference(quantized, config.channels)
    x = np.zeros((config.channels, INPUTS), np.int64)
    step = seconds(lambda: reference.step(x), 10)
    result["reference_frames_per_second"] = config.channels / step
    torch = torch_step(config.channels)
    result["reference_to_torch"] = torch and step / seconds(torch, 10)
    result["large"] = large_model() if large else None
    return result


def large_model() -> dict[str, Any]:
    """The figures of the large model, from a process that does nothing else."""
    done = subprocess.run([sys.executable, "-m", __name__], capture_output=True, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def _large() -> dict[str, Any]:
    size = _LARGE_SIZE
    config = preset("ese_stream").replace(cell_rows=256, column_depth=16384, vector_depth=16384, accumulator_rows=1024)
    rng = np.random.default_rng(0)

    def matrix() -> np.ndarray[Any, np.dtype[np.float32]]:
        return rng.standard_normal((4, size, size), np.float32) * np.float32(size ** -0.5)

    def model() -> Model:
        return Model(layers=tuple(Layer(name=f"lstm{k}", w_x=matrix(), w_r=matrix(), bias=rng.normal(size=(4, size)))
                                  for k in range(_LARGE_LAYERS)), name="large")

    weights = 8 * size * size * _LARGE_LAYERS
    times = _stages(model(), config, _LARGE_DENSITY)[1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"weights": weights, "float32_bytes": 4 * weights, **times, "peak_bytes": peak,
            "memory_ratio": peak / (4 * weights)}


if __name__ == "__main__":
    print(json.dumps(_large()))
