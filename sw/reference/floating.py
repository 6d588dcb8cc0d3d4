# SPDX-License-Identifier: Apache-2.0
"""The paper's cell in float64, with which every integer result is compared.

Sizes: steps T, voices B (batch), inputs I, cells H, outputs P.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from openese.sw.model.arrays import Float64Array
from openese.sw.model.layers import Layer, Model
from openese.sw.model.quantized import sigmoid
from openese.sw.model.state import LayerState, initial_state
from openese.sw.reference.products import multiply, prepare

__all__ = ["Cells", "FloatLayer", "LayerObserver", "Observer", "run"]

LayerObserver = Callable[[str, Float64Array], None]
"""Called with ``x``, ``z`` ((4, B, H)), ``c``, ``m`` or ``y`` and its value."""

Observer = Callable[[int, str, Float64Array], None]
"""`LayerObserver` with the layer's number in front."""

_BLOCK = 256  # vectors of x in one product


def _ignore(layer: int, tensor: str, values: Float64Array) -> None:
    pass


class Cells(NamedTuple):
    """The results of the cells: ``z`` (4, B, H), ``c`` and ``m`` (B, H)."""

    z: Float64Array
    c: Float64Array
    m: Float64Array


class FloatLayer:
    """One layer, with matrices prepared for products.

    Attributes
    ----------
    w_x : (4H, I), w_r : (4H, P), w_ym : (P, H) or None
        Results of `products.prepare`.
    """

    def __init__(self, layer: Layer) -> None:
        self.w_x, self.w_r = prepare(layer.w_x), prepare(layer.w_r)
        self.w_ym = None if layer.w_ym is None else prepare(layer.w_ym)
        self._bias = layer.bias.astype(np.float64)[:, None, :]
        self._peephole = None if layer.peephole is None else layer.peephole.astype(np.float64)
        self._g_activation = np.tanh if layer.g_activation == "tanh" else sigmoid

    def cells(self, sums: Float64Array, c: Float64Array) -> Cells:
        """Compute the cells from the sums of products (B, 4H) and the old c (B, H)."""
        z = sums.reshape(len(sums), 4, -1).transpose(1, 0, 2) + self._bias
        if self._peephole is not None:
            z[0] += self._peephole[0] * c
            z[1] += self._peephole[1] * c
        c = sigmoid(z[1]) * c + sigmoid(z[0]) * self._g_activation(z[2])
        if self._peephole is not None:
            z[3] += self._peephole[2] * c
        return Cells(z, c, sigmoid(z[3]) * np.tanh(c))

    def project(self, m: Float64Array) -> Float64Array:
        """y (B, P) of m (B, H)."""
        return m if self.w_ym is None else multiply(m, self.w_ym)

    def run(self, x: Float64Array, state: LayerState, observe: LayerObserver) -> tuple[Float64Array, LayerState]:
        """Run all steps of x (T, B, I); returns y (T, B, P) and the state after the last."""
        steps, voices, inputs = x.shape
        y = np.empty((steps, *state.y.shape))
        block = max(1, _BLOCK // max(1, voices))
        for start in range(0, steps, block):
            frames = x[start:start + block]
            ahead = multiply(frames.reshape(-1, inputs), self.w_x)
            for t, products in enumerate(ahead.reshape(len(frames), voices, self.w_x.shape[0]), start):
                z, c, m = self.cells(products + multiply(state.y, self.w_r), state.c)
                state = LayerState(c, self.project(m))
                y[t] = state.y
                for tensor, values in (("x", x[t]), ("z", z), ("c", c), ("m", m), ("y", state.y)):
                    observe(tensor, values)
        return y, state


def run(model: Model, x: ArrayLike, state: Sequence[LayerState] | None = None,
        observe: Observer = _ignore) -> tuple[Float64Array, list[LayerState]]:
    """Run a model over all frames, layer by layer, so only one layer is prepared for products at a time.

    Parameters
    ----------
    x : array (T, B, I)
    state : one `LayerState` per layer, optional
        Zeros by default.
    observe : `Observer`, optional
        Gets the inner values of every layer at every step, layer by layer.

    Returns
    -------
    y : ndarray (T, B, P)
        Output of the last layer.
    state : list of `LayerState`
        After the last step.

    Raises
    ------
    ValueError
        Frames or state have the wrong shape.
    """
    frames = np.asarray(x, np.float64)
    if frames.ndim != 3 or frames.shape[2] != model.inputs:
        raise ValueError(f"frames: expected shape (T, B, {model.inputs}), found {frames.shape}")
    voices = frames.shape[1]
    before = initial_state(model, voices) if state is None else _checked(model, voices, state)
    after = []
    for number, (layer, start) in enumerate(zip(model.layers, before, strict=True)):
        frames, end = FloatLayer(layer).run(frames, start, partial(observe, number))
        after.append(end)
    return frames, after


def _checked(model: Model, voices: int, state: Sequence[LayerState]) -> list[LayerState]:
    if len(state) != len(model.layers):
        raise ValueError(f"state: expected {len(model.layers)} layers, found {len(state)}")
    checked = [LayerState(np.asarray(c, np.float64), np.asarray(y, np.float64)) for c, y in state]
    for layer, held in zip(model.layers, checked, strict=True):
        for name, array, size in (("c", held.c, layer.cells), ("y", held.y, layer.outputs)):
            if array.shape != (voices, size):
                raise ValueError(f"state of layer {layer.name!r}, {name}: expected shape ({voices}, {size}), "
                                 f"found {array.shape}")
    return checked
