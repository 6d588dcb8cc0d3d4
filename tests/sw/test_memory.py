# SPDX-License-Identifier: Apache-2.0
"""From a trained model to its image in little more memory than the model: what lets large ones through."""

import platform
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from openese.rtl.config import preset
from openese.sw.model.layers import Layer, Model
from openese.sw.pack.encode import encode
from openese.sw.pack.image import pack
from openese.sw.pack.schedule import schedule
from openese.sw.prune import prune
from openese.sw.quantize.choose import quantize

LAYERS, SIZE = 3, 448


def large_model():
    rng = np.random.default_rng(1)

    def weights():
        values = rng.standard_normal((4, SIZE, SIZE), np.float32)
        values *= np.float32(SIZE ** -0.5)
        values.setflags(write=False)
        return values

    return Model(layers=tuple(Layer(name=f"lstm{number}", w_x=weights(), w_r=weights(),
                                    bias=rng.standard_normal((4, SIZE))) for number in range(LAYERS)))


def test_all_stages_keep_within_three_times_the_weights():
    """With what was there before, and the dense model gone once it is pruned."""
    config = preset("ese_stream").replace(column_depth=1 << 13, vector_depth=1 << 12, cell_rows=64)
    frames = np.random.default_rng(2).standard_normal((8, 1, SIZE))
    tracemalloc.start()
    try:
        model = large_model()
        size = 4 * model.weights
        model = prune(model, 0.1, config.pes, config.groups)
        image = pack(schedule(quantize(model, frames, config), config))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert image.bytes < size / 10
    assert peak < 3 * size


def test_encoding_takes_little_more_than_the_entries():
    """40 bytes for each weight of a dense matrix, 4 of which stay."""
    matrix = np.random.default_rng(3).integers(1, 1 << 11, (4, 640, 640)).astype(np.int16)
    tracemalloc.start()
    try:
        encoded = encode(matrix, preset("ese"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert encoded.lines * 32 == matrix.size
    assert peak < 40 * matrix.size


def test_reading_an_image_back_goes_matrix_by_matrix():
    """All at once take 20 times the bytes of the weights."""
    config = preset("ese_stream").replace(column_depth=1 << 13, vector_depth=1 << 12, cell_rows=64)
    rng = np.random.default_rng(4)
    layers = [Layer(name=f"lstm{number}", w_x=rng.uniform(-1, 1, (4, 320, 320)), w_r=rng.uniform(-1, 1, (4, 320, 320)),
                    bias=np.zeros((4, 320))) for number in range(3)]
    image = pack(schedule(quantize(Model(layers=layers), np.zeros((1, 1, 320)), config), config))
    tracemalloc.start()
    try:
        model = image.model()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * sum(layer.w_x.nbytes + layer.w_r.nbytes for layer in model.layers)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to")
def test_commands_give_freed_matrices_back():
    """A matrix that was freed below one that stays is not kept by the C library."""
    program = """
import os

import numpy as np
from openese.sw.cli.memory import return_freed_memory

def resident():
    with open("/proc/self/statm") as file:
        return os.sysconf("SC_PAGE_SIZE") * int(file.read().split()[1])

return_freed_memory()
np.ones(3 << 20)  # from then on glibc alone keeps blocks of this size
before = resident()
held = [np.ones(2 << 20) for _ in range(4)]
del held[:3]
print(resident() - before)
"""
    kept = int(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout)
    assert kept < 1.5 * (2 << 20) * 8
