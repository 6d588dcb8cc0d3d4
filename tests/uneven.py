# SPDX-License-Identifier: Apache-2.0
"""Models whose PEs have uneven work, for machines that stream weights."""

from dataclasses import replace

import numpy as np

from openese.rtl.config import Config, preset
from openese.sw.bench.layer import paper_layer, quantized_layer
from openese.sw.model.layers import Layer, Model
from openese.sw.prune import prune
from openese.sw.quantize.choose import quantize

__all__ = ["MODES", "STREAMED", "uneven", "scaled_paper_layer"]

STREAMED = Config(name="small-stream", pes=4, channels=2, index_bits=4, entry_depth=128, column_depth=512,
                  vector_depth=512, cell_rows=32, accumulator_rows=256, queue_depth=16, stream=True)

#: ``unbalanced``: PE 0 has denser rows. ``skew``: PE 0 has the first half of the columns, the others have the second.
MODES = ["unbalanced", "skew"]


def uneven(mode):
    """A quantized layer of 128 inputs and 32 cells for `STREAMED`."""
    rng = np.random.default_rng(1)
    w_x, w_r = rng.normal(size=(4, 32, 128)), rng.normal(size=(4, 32, 32)) * 0.1
    first_pe = np.arange(32) % 4 == 0
    if mode == "skew":
        first_half = np.arange(128) < 64
        w_x[:, first_pe] *= first_half
        w_x[:, ~first_pe] *= ~first_half
    else:
        w_x *= rng.random(w_x.shape) < np.where(first_pe, 0.35, 0.2)[None, :, None]
    model = Model(layers=(Layer(name="uneven", w_x=w_x, w_r=w_r, bias=np.zeros((4, 32))),), name=mode)
    return quantize(model, rng.normal(size=(6, STREAMED.channels, 128)), STREAMED)


def scaled_paper_layer(sigma):
    """The paper's layer for ``ese_stream``: rows scaled by exp(N(0, ``sigma``)), matrices pruned by magnitude."""
    layer = paper_layer().layers[0]
    scale = np.exp(np.random.default_rng(3).normal(0, sigma, (1, layer.cells, 1)))
    model = Model(layers=(replace(layer, w_x=layer.w_x * scale, w_r=layer.w_r * scale),), name="scaled")
    return quantized_layer(prune(model, 0.1, 1), preset("ese_stream"))
