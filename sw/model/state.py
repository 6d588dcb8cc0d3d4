# SPDX-License-Identifier: Apache-2.0
"""The state that a voice keeps from step to step, in real numbers and in the machine's integers.

Sizes: voices B, cells H, outputs P.
"""

from typing import NamedTuple

import numpy as np

from openese.sw.model.arrays import Float64Array, Int64Array
from openese.sw.model.layers import Layer, Model

__all__ = ["ChannelState", "LayerState", "State", "initial_state", "zero_state"]


class LayerState(NamedTuple):
    """The state of one layer: ``c`` (B, H) and ``y`` (B, P). For a GRU, both are h; a machine keeps more bits in c.
    A dense layer keeps nothing: (B, 0) both."""

    c: Float64Array
    y: Float64Array


State = tuple[LayerState, ...]
"""The state of voices, layer by layer."""


class ChannelState(NamedTuple):
    """The state of one voice in one layer, in the machine's integers: ``c`` (H,) and ``y`` (P,)."""

    c: Int64Array
    y: Int64Array


def zero_state(layer: Layer, voices: int) -> LayerState:
    """A layer's state before the first step."""
    return LayerState(np.zeros((voices, layer.cells)), np.zeros((voices, layer.feedback)))


def initial_state(model: Model, voices: int) -> list[LayerState]:
    """The state before the first step: all zeros."""
    return [zero_state(layer, voices) for layer in model.layers]
