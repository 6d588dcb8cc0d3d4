# SPDX-License-Identifier: Apache-2.0
"""The paper's cell in float64: what every integer result is measured against.

Sizes: steps T, voices B (batch), inputs I, cells H, outputs P.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .model import Layer, Model

__all__ = ["FloatReference", "LayerState", "Observer", "initial_state", "run", "sigmoid"]

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


class _Cell:
    """One layer, its weights laid out for one product a step."""

    def __init__(self, number: int, layer: Layer) -> None:
        self._number = number
        self._weights = np.concatenate([layer.w_x, layer.w_r], axis=2, dtype=np.float64)
        self._weights = self._weights.reshape(4 * layer.cells, -1).T
        self._bias = layer.bias.astype(np.float64)[:, None, :]
        self._peephole = None if layer.peephole is None else layer.peephole.astype(np.float64)
        self._projection = None if layer.w_ym is None else layer.w_ym.astype(np.float64).T
        self._g_activation = np.tanh if layer.g_activation == "tanh" else sigmoid

    def step(self, x: Float64Array, state: LayerState, observe: Observer) -> LayerState:
        sums = np.concatenate([x, state.y], axis=1) @ self._weights
        z = sums.reshape(len(x), 4, -1).transpose(1, 0, 2) + self._bias
        if self._peephole is not None:
            z[0] += self._peephole[0] * state.c
            z[1] += self._peephole[1] * state.c
        c = sigmoid(z[1]) * state.c + sigmoid(z[0]) * self._g_activation(z[2])
        if self._peephole is not None:
            z[3] += self._peephole[2] * c
        m = sigmoid(z[3]) * np.tanh(c)
        y = m if self._projection is None else m @ self._projection
        for tensor, values in (("x", x), ("z", z), ("c", c), ("m", m), ("y", y)):
            observe(self._number, tensor, values)
        return LayerState(c, y)


class FloatReference:
    """A model that takes one step at a time.

    Parameters
    ----------
    model : `Model`
    """

    def __init__(self, model: Model) -> None:
        self._layers = [_Cell(number, layer) for number, layer in enumerate(model.layers)]

    def step(self, x: Float64Array, state: Sequence[LayerState],
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
        for layer, before in zip(self._layers, state, strict=True):
            after.append(layer.step(x, before, observe))
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
    reference = FloatReference(model)
    for t in range(steps):
        y[t], now = reference.step(frames[t], now, observe)
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
