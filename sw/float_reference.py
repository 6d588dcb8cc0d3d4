# SPDX-License-Identifier: Apache-2.0
"""The paper's cell in float64: what every integer result is measured against.

Sizes: steps T, voices B (batch), inputs I, cells H, outputs P.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .model import Layer, Model

__all__ = ["LayerState", "Observer", "initial_state", "run", "sigmoid", "step"]

Float64Array = NDArray[np.float64]

Observer = Callable[[int, str, NDArray[np.float64]], None]
"""Called with a layer's number, ``x``, ``z`` ((4, B, H)), ``c``, ``m`` or ``y``, its value."""


class LayerState(NamedTuple):
    """What a layer keeps from step to step: ``c`` (B, H) and ``y`` (B, P)."""

    c: Float64Array
    y: Float64Array


def sigmoid(x: ArrayLike) -> Float64Array:
    """The logistic function, without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * np.asarray(x, np.float64)))


def initial_state(model: Model, voices: int) -> list[LayerState]:
    """The state before the first step: all zeros."""
    return [LayerState(np.zeros((voices, layer.cells)), np.zeros((voices, layer.outputs)))
            for layer in model.layers]


def _ignore(layer: int, tensor: str, values: Float64Array) -> None:
    pass


def _layer_step(number: int, layer: Layer, x: Float64Array, state: LayerState,
                observe: Observer) -> LayerState:
    z = x @ layer.w_x.transpose(0, 2, 1) + state.y @ layer.w_r.transpose(0, 2, 1) + layer.bias[:, None, :]
    if layer.peephole is not None:
        z[0] += layer.peephole[0] * state.c
        z[1] += layer.peephole[1] * state.c
    g = np.tanh(z[2]) if layer.g_activation == "tanh" else sigmoid(z[2])
    c = sigmoid(z[1]) * state.c + sigmoid(z[0]) * g
    if layer.peephole is not None:
        z[3] += layer.peephole[2] * c
    m = sigmoid(z[3]) * np.tanh(c)
    y = m if layer.w_ym is None else m @ layer.w_ym.T
    for tensor, values in (("x", x), ("z", z), ("c", c), ("m", m), ("y", y)):
        observe(number, tensor, values)
    return LayerState(c, y)


def step(model: Model, x: Float64Array, state: Sequence[LayerState],
         observe: Observer = _ignore) -> tuple[Float64Array, list[LayerState]]:
    """One step of all layers.

    Parameters
    ----------
    x : ndarray (B, I)
    state : one `LayerState` per layer
    observe : `Observer`, optional
        Sees the inner values of every layer.

    Returns
    -------
    y : ndarray (B, P) of the last layer
    state : list of `LayerState`
    """
    after = []
    for number, (layer, before) in enumerate(zip(model.layers, state, strict=True)):
        after.append(_layer_step(number, layer, x, before, observe))
        x = after[-1].y
    return x, after


def run(model: Model, x: ArrayLike, state: Sequence[LayerState] | None = None,
        observe: Observer = _ignore) -> tuple[Float64Array, list[LayerState]]:
    """All steps of some voices.

    Parameters
    ----------
    x : array (T, B, I)
    state : one `LayerState` per layer, optional
        Zeros by default.
    observe : `Observer`, optional
        Sees the inner values of every layer at every step.

    Returns
    -------
    y : ndarray (T, B, P) of the last layer
    state : list of `LayerState`, after the last step

    Raises
    ------
    ValueError
        For frames or a state of the wrong shape.
    """
    frames = np.asarray(x, np.float64)
    if frames.ndim != 3 or frames.shape[2] != model.inputs:
        raise ValueError(f"frames: expected shape (T, B, {model.inputs}), found {frames.shape}")
    steps, voices, _ = frames.shape
    now = initial_state(model, voices) if state is None else _checked(model, voices, state)
    y = np.empty((steps, voices, model.outputs))
    for t in range(steps):
        y[t], now = step(model, frames[t], now, observe)
    return y, now


def _checked(model: Model, voices: int, state: Sequence[LayerState]) -> list[LayerState]:
    if len(state) != len(model.layers):
        raise ValueError(f"state: expected {len(model.layers)} layers, found {len(state)}")
    checked = [LayerState(np.asarray(c, np.float64), np.asarray(y, np.float64)) for c, y in state]
    for layer, found in zip(model.layers, checked, strict=True):
        for name, array, size in (("c", found.c, layer.cells), ("y", found.y, layer.outputs)):
            if array.shape != (voices, size):
                raise ValueError(f"state of layer {layer.name!r}, {name}: expected shape ({voices}, {size}), "
                                 f"found {array.shape}")
    return checked
