# SPDX-License-Identifier: Apache-2.0
"""Random models for tests: in floating point, and straight in integers at the edges of their formats."""

import numpy as np

from openese.rtl.config import Config
from openese.rtl.program import ACTIVATIONS
from openese.sw.model.layers import Dense, Layer, Model
from openese.sw.model.quantized import QuantizedLayer, QuantizedModel, activation_table, m_fraction, row_limit
from openese.sw.model.state import ChannelState

__all__ = ["random_dense", "random_gru", "random_layer", "random_model", "random_quantized", "random_state",
           "speech_like"]


def random_layer(rng, name, inputs, cells, outputs=None, *, peephole=False, g_activation="tanh", scale=1.0):
    """A layer whose pre-activations are of the order of ``scale``; with ``outputs``, a projection."""
    size = cells if outputs is None else outputs
    spread = scale / np.sqrt(inputs + size)
    return Layer(
        name=name, g_activation=g_activation,
        w_x=rng.normal(scale=spread, size=(4, cells, inputs)),
        w_r=rng.normal(scale=spread, size=(4, cells, size)),
        bias=rng.normal(scale=0.5, size=(4, cells)),
        peephole=rng.normal(scale=0.3, size=(3, cells)) if peephole else None,
        w_ym=None if outputs is None else rng.normal(scale=1 / np.sqrt(cells), size=(outputs, cells)))


def random_gru(rng, name, inputs, cells, *, reset_after=True, scale=1.0):
    """A GRU layer whose pre-activations are of the order of ``scale``."""
    spread = scale / np.sqrt(inputs + cells)
    return Layer(
        name=name, cell="gru", reset_after=reset_after,
        w_x=rng.normal(scale=spread, size=(3, cells, inputs)), w_r=rng.normal(scale=spread, size=(3, cells, cells)),
        bias=rng.normal(scale=0.5, size=(3, cells)),
        bias_rn=rng.normal(scale=0.5, size=cells) if reset_after else None)


def random_dense(rng, name, inputs, outputs, activation="none", scale=1.0):
    """A dense layer whose sums are of the order of ``scale``."""
    return Layer(name=name, cell="dense", activation=activation,
                 w_x=rng.normal(scale=scale / np.sqrt(inputs), size=(1, outputs, inputs)),
                 bias=rng.normal(scale=0.5, size=(1, outputs)))


def random_model(seed, inputs, *layers, peephole=False, g_activation="tanh", head=None, scale=1.0):
    """A model of ``layers``, each H or (H, P), ("gru", H), ("before", H) of a GRU with the reset before the product, or
    (activation, P) of a dense layer; ``head`` is the size of a dense head."""
    rng = np.random.default_rng(seed)
    made = []
    for number, sizes in enumerate(layers):
        cells, outputs = sizes if isinstance(sizes, tuple) else (sizes, None)
        size = made[-1].outputs if made else inputs
        made.append(random_gru(rng, f"gru{number}", size, outputs, reset_after=cells == "gru", scale=scale)
                    if cells in ("gru", "before") else
                    random_dense(rng, f"dense{number}", size, outputs, cells, scale) if cells in ACTIVATIONS else
                    random_layer(rng, f"lstm{number}", size, cells, outputs, peephole=peephole,
                                 g_activation=g_activation, scale=scale))
    dense = None
    if head is not None:
        dense = Dense(weight=rng.normal(size=(head, made[-1].outputs)), bias=rng.normal(size=head))
    return Model(layers=tuple(made), head=dense, name=f"random{seed}")


def speech_like(seed, steps, voices, inputs):
    """Frames (T, B, I) that, as speech features, change slowly and are now loud, now quiet."""
    rng = np.random.default_rng(seed)
    frames = rng.normal(size=(steps, voices, inputs))
    for t in range(1, steps):
        frames[t] = 0.8 * frames[t - 1] + 0.6 * frames[t]
    cycles = np.linspace(0, 2 * np.pi * steps / 40, steps)[:, None, None]
    return frames * np.exp(np.sin(cycles + rng.uniform(0, 2 * np.pi, (voices, 1))))


def _random_aligned(rng, config, rows, widths):
    """Integers for each of ``widths`` columns, and their alignments, that no row can overflow together."""
    high = (1 << (config.weight_bits - 1)) - 1
    aligns = [int(n) for n in rng.permutation([0, rng.integers(0, 1 << config.align_bits)])][:len(widths)]
    parts = [rng.integers(-high, high + 1, (rows, width)) * (rng.random((rows, width)) < 0.5)
             for width in widths]
    for part in parts:
        part[rng.random(part.shape) < 0.1] = high
    budget = sum(np.abs(part).sum(axis=1) << align for part, align in zip(parts, aligns, strict=True))
    shrink = np.minimum(1.0, (row_limit(config) - 1) / np.maximum(budget, 1))[:, None]
    return [np.trunc(part * shrink).astype(np.int64) for part in parts], aligns


def _random_quantized_layer(rng, config, name, inputs, cells, outputs, peephole, x_fraction):
    size = cells if outputs is None else outputs
    y_fraction = m_fraction(config) if outputs is None else int(rng.integers(8, 16))
    gates = [_random_aligned(rng, config, cells, (inputs, size)) for _ in range(4)]
    aligns = np.array([aligns for _, aligns in gates])
    fractions = rng.integers(20, 30, (4, 1)) - aligns - [x_fraction, y_fraction]
    w_ym = None
    if outputs is not None:
        w_ym = _random_aligned(rng, config, outputs, (cells, 1))[0][0]
    return QuantizedLayer(
        name=name, g_activation=str(rng.choice(["tanh", "sigmoid"])),
        w_x=np.stack([parts[0] for parts, _ in gates]), w_r=np.stack([parts[1] for parts, _ in gates]),
        align_x=aligns[:, 0], align_r=aligns[:, 1],
        w_x_fraction=fractions[:, 0], w_r_fraction=fractions[:, 1],
        bias=rng.integers(-1 << (config.argument_bits - 1), 1 << (config.argument_bits - 1), (4, cells)),
        peephole=rng.integers(-1 << (config.peephole_bits - 1), 1 << (config.peephole_bits - 1), (3, cells))
        if peephole else None,
        w_ym=w_ym, w_ym_fraction=None if outputs is None else y_fraction - m_fraction(config) + 11,
        x_fraction=x_fraction, y_fraction=y_fraction,
        cell_select=int(rng.integers(0, 8)), peephole_select=int(rng.integers(0, 8)))


def _random_quantized_gru(rng, config, name, inputs, cells, x_fraction, reset_after):
    y_fraction = m_fraction(config)
    gates = [_random_aligned(rng, config, cells, (inputs, cells)) for _ in range(2 + (not reset_after))]
    if reset_after:
        (n_x,), align_x = _random_aligned(rng, config, cells, (inputs,))
        (n_h,), align_r = _random_aligned(rng, config, cells, (cells,))
        gates.append(([n_x, n_h], [align_x[0], align_r[0]]))
    aligns = np.array([aligns for _, aligns in gates])
    sums = np.broadcast_to(rng.integers(20, 30, (3, 1)), (3, 2)).copy()
    if reset_after:
        sums[2, 1] = rng.integers(20, 30)
    fractions = sums - aligns - [x_fraction, y_fraction]

    def biases(*shape):
        return rng.integers(-1 << (config.argument_bits - 1), 1 << (config.argument_bits - 1), shape)

    return QuantizedLayer(
        name=name, cell="gru", w_x=np.stack([parts[0] for parts, _ in gates]),
        w_r=np.stack([parts[1] for parts, _ in gates]), align_x=aligns[:, 0], align_r=aligns[:, 1],
        w_x_fraction=fractions[:, 0], w_r_fraction=fractions[:, 1], bias=biases(3, cells),
        bias_rn=biases(cells) if reset_after else None, reset_after=reset_after,
        x_fraction=x_fraction, y_fraction=y_fraction, cell_select=0, peephole_select=0)


def _random_quantized_dense(rng, config, name, inputs, outputs, activation, x_fraction):
    (weights,), (align,) = _random_aligned(rng, config, outputs, (inputs,))
    table = {"sigmoid": 4, "tanh": 3}.get(activation)
    y_fraction = int(rng.integers(8, 16)) if table is None else m_fraction(config)
    argument = y_fraction if table is None else config.argument_bits - 1 - table
    fraction = argument + int(rng.integers(4, 16)) - align - x_fraction
    return QuantizedLayer(
        name=name, cell="dense", activation=activation, w_x=weights[None], w_x_fraction=(fraction,), align_x=(align,),
        w_r_fraction=(), align_r=(), x_fraction=x_fraction, y_fraction=y_fraction, cell_select=0, peephole_select=0,
        bias=rng.integers(-1 << (config.argument_bits - 1), 1 << (config.argument_bits - 1), (1, outputs)))


def random_quantized(seed, config: Config, inputs, *layers, peephole=True, junk_tables=False):
    """A model of integers that fill their formats, so that sums clamp, cells and outputs saturate.

    ``layers`` are as those of `random_model`. With ``junk_tables``, any samples instead of sigmoid and tanh.
    """
    rng = np.random.default_rng(seed)
    made = []
    for number, sizes in enumerate(layers):
        x_fraction = made[-1].y_fraction if made else int(rng.integers(8, 16))
        size = made[-1].outputs if made else inputs
        cells, outputs = sizes if isinstance(sizes, tuple) else (sizes, None)
        made.append(
            _random_quantized_gru(rng, config, f"gru{number}", size, outputs, x_fraction, cells == "gru")
            if cells in ("gru", "before") else
            _random_quantized_dense(rng, config, f"dense{number}", size, outputs, cells, x_fraction)
            if cells in ACTIVATIONS else
            _random_quantized_layer(rng, config, f"lstm{number}", size, cells, outputs, peephole, x_fraction))
    tables = {"sigmoid": activation_table("sigmoid", 4, config), "tanh": activation_table("tanh", 3, config)}
    if junk_tables:
        limit = 1 << (config.table_bits - 1)
        tables = {name: rng.integers(-limit, limit, len(table)) for name, table in tables.items()}
    return QuantizedModel(layers=tuple(made), config=config, sigmoid_range=4, tanh_range=3,
                          sigmoid_table=tables["sigmoid"], tanh_table=tables["tanh"], name=f"integers{seed}")


def random_state(rng, model):
    """A state of one voice, for `Reference.set_state`: any numbers that fit, many of them the largest."""
    def full_scale(size, bits):
        low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
        numbers = rng.integers(low, high + 1, size)
        return np.where(rng.random(size) < 0.5, rng.choice([low, high], size), numbers)

    return [ChannelState(full_scale(layer.cells, model.config.cell_bits),
                         full_scale(layer.feedback, model.config.activation_bits)) for layer in model.layers]
