# SPDX-License-Identifier: Apache-2.0
"""The paper's benchmark layer (section 6): an LSTMP of 153 inputs, 1024 cells and 512 outputs with peepholes.

Its weights are random: only the places of the non-zeros decide about time.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from openese.rtl.config import Config
from openese.sw.cycles.load import CLOCK
from openese.sw.model.layers import GRU, Layer, Model
from openese.sw.model.quantized import QuantizedLayer, QuantizedModel, activation_table, m_fraction
from openese.sw.pack.schedule import Schedule, schedule
from openese.sw.prune import prune

__all__ = ["CELLS", "CLOCK", "INPUTS", "OUTPUTS", "PAPER", "PAPER_MULTIPLIERS", "gru_layer", "paper_layer",
           "planned", "quantized_layer", "random_frames"]

INPUTS, CELLS, OUTPUTS = 153, 1024, 512

PAPER_MULTIPLIERS = 1024

#: The paper's table (32 voices, 1024 multipliers): cycles at `CLOCK`, in theory and measured.
PAPER = {"w_x": (2285, 4 * 1072), "w_r": (7462, 8050), "w_ym": (1638, 3132)}


def paper_layer(seed: int = 0, inputs: int = INPUTS, cells: int = CELLS, outputs: int = OUTPUTS) -> Model:
    """The dense layer, or one of another size, with random weights."""
    rng = np.random.default_rng(seed)
    layer = Layer(
        name="paper", w_x=rng.normal(scale=inputs ** -0.5, size=(4, cells, inputs)),
        w_r=rng.normal(scale=outputs ** -0.5, size=(4, cells, outputs)), bias=rng.normal(size=(4, cells)),
        peephole=rng.normal(scale=0.3, size=(3, cells)),
        w_ym=rng.normal(scale=cells ** -0.5, size=(outputs, cells)))
    return Model(layers=(layer,), name="paper")


def gru_layer(seed: int = 0, inputs: int = INPUTS, cells: int = CELLS, reset_after: bool = True) -> Model:
    """A dense GRU with the paper layer's inputs and cells, or others, and random weights."""
    rng = np.random.default_rng(seed)
    layer = Layer(
        name="gru", cell=GRU.name, reset_after=reset_after,
        w_x=rng.normal(scale=inputs ** -0.5, size=(3, cells, inputs)),
        w_r=rng.normal(scale=cells ** -0.5, size=(3, cells, cells)), bias=rng.normal(size=(3, cells)),
        bias_rn=rng.normal(size=cells) if reset_after else None)
    return Model(layers=(layer,), name="gru")


def quantized_layer(model: Model, config: Config) -> QuantizedModel:
    """A model in fixed formats that suit `paper_layer` and stacks of layers, without calibration."""
    layers: list[QuantizedLayer] = []
    for layer in model.layers:
        y_fraction = m_fraction(config) if layer.w_ym is None else config.activation_bits - 2
        layers.append(_quantized(layer, layers[-1].y_fraction if layers else y_fraction - 3, y_fraction, config))
    return QuantizedModel(
        layers=tuple(layers), config=config, sigmoid_range=4, tanh_range=3, name=model.name,
        sigmoid_table=activation_table("sigmoid", 4, config), tanh_table=activation_table("tanh", 3, config))


def _quantized(layer: Layer, x_fraction: int, y_fraction: int, config: Config) -> QuantizedLayer:
    fraction = config.weight_bits - 1

    def integers(values: NDArray[Any], fraction: int, limit: int) -> NDArray[np.int32]:
        return np.clip(np.round(np.ldexp(values, fraction)), -limit, limit).astype(np.int32)

    def weights(values: NDArray[Any]) -> NDArray[np.int32]:
        """Non-zeros stay non-zero."""
        rounded = integers(values, fraction, (1 << fraction) - 1)
        return np.where((rounded == 0) & (values != 0), 1, rounded).astype(np.int32)

    gates, is_gru = len(layer.gates), layer.kind is GRU
    bias = np.stack([integers(values, 15 + (gate == 2), (1 << 19) - 1) for gate, values in enumerate(layer.bias)])
    return QuantizedLayer(
        name=layer.name, cell=layer.cell, reset_after=layer.reset_after, w_x=weights(layer.w_x), w_r=weights(layer.w_r),
        w_ym=None if layer.w_ym is None else weights(layer.w_ym), bias=bias,
        peephole=None if layer.peephole is None else integers(layer.peephole, 14, (1 << 15) - 1),
        bias_rn=None if layer.bias_rn is None else integers(layer.bias_rn, 16, (1 << 19) - 1),
        x_fraction=x_fraction, y_fraction=y_fraction, w_x_fraction=(fraction,) * gates,
        w_r_fraction=(fraction,) * gates, w_ym_fraction=None if layer.w_ym is None else fraction,
        align_x=(y_fraction - x_fraction,) * gates, align_r=(0,) * gates,
        cell_select=0 if is_gru else config.cell_fraction_max - 16,
        peephole_select=0 if is_gru else 15 - config.peephole_shift_base)


def random_frames(plan: Schedule, count: int) -> NDArray[np.int64]:
    """Frames (T, C, I) over a quarter of the range of x."""
    limit = 1 << (plan.config.activation_bits - 3)
    return np.random.default_rng(1).integers(-limit, limit, (count, plan.config.channels, plan.model.inputs))


def planned(config: Config, density: float, balanced: bool = True, order: bool = True) -> Schedule:
    """The layer at ``density`` on a machine. With ``order`` the columns are in the packer's order."""
    sparse = prune(paper_layer(), density, config.pes, config.groups, balanced=balanced)
    return schedule(quantized_layer(sparse, config), config, balance=order)
