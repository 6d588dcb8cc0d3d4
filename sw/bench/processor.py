# SPDX-License-Identifier: Apache-2.0
"""The machine's step, for as many voices, on this computer's processor: dense and sparse.

``dense_step_seconds``: numpy's BLAS in float32; `nox -s bench` sets it to one thread. ``sparse_step_seconds``: SciPy's
CSR in float32, at the density of the machine's layer. ``torch_step_seconds``: PyTorch's LSTM of the same size, which
has no peepholes. ``..._times_the_machine``: each of them over the machine's step at 200 MHz. The values of PyTorch are
null where it is not installed.
"""

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from openese.sw.bench.layer import CELLS, INPUTS, OUTPUTS
from openese.sw.model.layers import Model

__all__ = ["processor", "seconds", "torch_step"]


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Seconds of the shortest of several runs."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def _step(gates: Any, projection: Any, voices: int) -> Callable[[], NDArray[np.float32]]:
    """A step of the cell with these matrices, of any type that ``@`` takes."""
    inputs = np.ones((INPUTS + OUTPUTS, voices), np.float32)
    state = np.ones((CELLS, voices), np.float32)
    peephole = np.full((3, CELLS, 1), 0.1, np.float32)

    def step() -> NDArray[np.float32]:
        i, f, g, o = (gates @ inputs).reshape(4, CELLS, voices)
        cell = state / (1 + np.exp(-f - peephole[1] * state)) + np.tanh(g) / (1 + np.exp(-i - peephole[0] * state))
        result: NDArray[np.float32] = projection @ (np.tanh(cell) / (1 + np.exp(-o - peephole[2] * cell)))
        return result

    return step


def torch_step(voices: int, steps: int = 1) -> Callable[[], object] | None:
    """A function that runs ``steps`` steps of PyTorch's LSTM of that size; None if PyTorch is not installed."""
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(1)
    layer = torch.nn.LSTM(INPUTS, CELLS, proj_size=OUTPUTS)
    x = torch.zeros(steps, voices, INPUTS)

    def step() -> object:
        with torch.inference_mode():
            return layer(x)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has no faster way for projections, said once
        step()
    return step


def processor(dense: Model, sparse: Model, voices: int, microseconds: float) -> dict[str, float | None]:
    """The module's figures; the machine takes ``microseconds`` for a step of ``voices`` voices."""
    result: dict[str, float | None] = {}
    of_dense, of_sparse = ((np.concatenate([layer.w_x, layer.w_r], axis=2).reshape(4 * CELLS, -1).astype(np.float32),
                            np.asarray(layer.w_ym, np.float32)) for layer in (dense.layers[0], sparse.layers[0]))
    result["dense_step_seconds"] = seconds(_step(*of_dense, voices), 50)
    result["sparse_step_seconds"] = seconds(_step(csr_array(of_sparse[0]), csr_array(of_sparse[1]), voices), 50)
    torch = torch_step(voices)
    result["torch_step_seconds"] = torch and seconds(torch, 50)
    for name in ("dense", "sparse", "torch"):
        taken = result[f"{name}_step_seconds"]
        result[f"{name}_times_the_machine"] = taken and taken * 1e6 / microseconds
    return result
