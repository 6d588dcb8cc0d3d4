# SPDX-License-Identifier: Apache-2.0
"""Layers in float64, with which every integer result is compared.

Sizes: gates G, steps T, voices B (batch), inputs I, cells H, outputs P.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from openese.sw.model.arrays import Float64Array
from openese.sw.model.layers import DENSE, GRU, LSTM, CellKind, Layer, Model, activate
from openese.sw.model.quantized import sigmoid
from openese.sw.model.state import LayerState, initial_state
from openese.sw.reference.products import multiply, prepare

__all__ = ["Cells", "FloatDense", "FloatGru", "FloatLayer", "FloatLstm", "LayerObserver", "Observer", "run"]

LayerObserver = Callable[[str, Float64Array], None]
"""Called with ``x``, ``z`` ((G, B, H)), ``c``, ``m`` or ``y`` and its value; for a GRU with ``n_h`` or ``rh`` (B, H)
too. Of a dense layer, c is (B, 0), and z (1, B, P)."""

Observer = Callable[[int, str, Float64Array], None]
"""`LayerObserver` with the layer's number in front."""

_BLOCK = 256  # vectors of x in one product


def _ignore(layer: int, tensor: str, values: Float64Array) -> None:
    pass


class Cells(NamedTuple):
    """The results of the cells.

    Attributes
    ----------
    z : (G, B, H)
        The arguments of the gates' functions.
    c, m : (B, H)
        For a GRU, both are h. For a dense layer, c is (B, 0), and m is y.
    n_h : (B, H), optional
        Of a GRU with ``reset_after``: the sums of n that r multiplies.
    rh : (B, H), optional
        Of a GRU without: r times the old h.
    """

    z: Float64Array
    c: Float64Array
    m: Float64Array
    n_h: Float64Array | None = None
    rh: Float64Array | None = None


class FloatLayer(ABC):
    """One layer, with matrices prepared for products.

    Attributes
    ----------
    w_x : (G * H, I), w_r : (G * H, P), w_ym : (P, H) or None
        Results of `products.prepare`. The w_r of a dense layer is (P, 0).
    outputs : int
        P.
    """

    def __init__(self, layer: Layer) -> None:
        self.w_x, self.w_r = prepare(layer.w_x), prepare(layer.w_r)
        self.w_ym = None if layer.w_ym is None else prepare(layer.w_ym)
        self.outputs = layer.outputs
        self._bias = layer.bias.astype(np.float64)[:, None, :]

    @staticmethod
    def of(layer: Layer) -> "FloatLayer":
        """The layer by its kind."""
        kinds: dict[CellKind, Callable[[Layer], FloatLayer]] = {LSTM: FloatLstm, GRU: FloatGru, DENSE: FloatDense}
        return kinds[layer.kind](layer)

    @abstractmethod
    def step(self, products: Float64Array, state: LayerState) -> Cells:
        """Compute the cells from W_x x (B, G * H) and the old state."""

    def project(self, m: Float64Array) -> Float64Array:
        """y (B, P) of m (B, H)."""
        return m if self.w_ym is None else multiply(m, self.w_ym)

    def after(self, cells: Cells, y: Float64Array) -> LayerState:
        """The state after a step."""
        return LayerState(cells.c, y[:, :self.w_r.shape[1]])

    def run(self, x: Float64Array, state: LayerState, observe: LayerObserver) -> tuple[Float64Array, LayerState]:
        """Run all steps of x (T, B, I); returns y (T, B, P) and the state after the last."""
        steps, voices, inputs = x.shape
        y = np.empty((steps, voices, self.outputs))
        block = max(1, _BLOCK // max(1, voices))
        for start in range(0, steps, block):
            frames = x[start:start + block]
            ahead = multiply(frames.reshape(-1, inputs), self.w_x)
            for t, products in enumerate(ahead.reshape(len(frames), voices, self.w_x.shape[0]), start):
                cells = self.step(products, state)
                y[t] = self.project(cells.m)
                state = self.after(cells, y[t])
                seen = {"x": x[t], "z": cells.z, "c": cells.c, "m": cells.m, "y": y[t]}
                seen |= {} if cells.n_h is None else {"n_h": cells.n_h}
                seen |= {} if cells.rh is None else {"rh": cells.rh}
                for tensor, values in seen.items():
                    observe(tensor, values)
        return y, state


class FloatLstm(FloatLayer):
    """An LSTM layer."""

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer)
        self._peephole = None if layer.peephole is None else layer.peephole.astype(np.float64)
        self._g_activation = np.tanh if layer.g_activation == "tanh" else sigmoid

    def step(self, products: Float64Array, state: LayerState) -> Cells:
        """Compute the cells from W_x x (B, 4H) and the old state."""
        return self.cells(products + multiply(state.y, self.w_r), state.c)

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


class FloatGru(FloatLayer):
    """A GRU layer. Both parts of its state are h: ``c`` is the old h of the sum, ``y`` that of the products."""

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer)
        self.reset_after = layer.reset_after
        self._bias_rn = None if layer.bias_rn is None else layer.bias_rn.astype(np.float64)

    def step(self, products: Float64Array, state: LayerState) -> Cells:
        """Compute the cells from W_x x (B, 3H) and the old state."""
        if self.reset_after:
            return self.cells(products, multiply(state.y, self.w_r), state.c)
        split = 2 * state.y.shape[1]
        of_gates = multiply(state.y, self.w_r[:split])
        rh = self.reset(products, of_gates, state.y)
        recurrent = np.concatenate([of_gates, multiply(rh, self.w_r[split:])], axis=1)
        return self.cells(products, recurrent, state.c)._replace(rh=rh)

    def reset(self, products: Float64Array, recurrent: Float64Array, y: Float64Array) -> Float64Array:
        """r times y (B, H), from the products of gate r, which come first in W_x x and W_r y (B, ...)."""
        cells = y.shape[1]
        return sigmoid(products[:, :cells] + recurrent[:, :cells] + self._bias[0]) * y

    def cells(self, products: Float64Array, recurrent: Float64Array, h: Float64Array) -> Cells:
        """Compute the cells from W_x x and W_r y (B, 3H) and the old h (B, H). Without ``reset_after``, the recurrent
        product of n is that of `reset`."""
        z, recurrent = (sums.reshape(len(sums), 3, -1).transpose(1, 0, 2) for sums in (products, recurrent))
        z = z + self._bias
        n_h = None
        if self.reset_after:
            z[:2] += recurrent[:2]
            n_h = recurrent[2] + self._bias_rn
            z[2] += sigmoid(z[0]) * n_h
        else:
            z += recurrent
        update = sigmoid(z[1])
        h = update * h + (1 - update) * np.tanh(z[2])
        return Cells(z, h, h, n_h)


class FloatDense(FloatLayer):
    """A dense layer."""

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer)
        self._activation = layer.activation

    def step(self, products: Float64Array, state: LayerState) -> Cells:
        """Compute y from W_x x (B, P); there is no state."""
        z = products + self._bias[0]
        return Cells(z[None], state.c, activate(self._activation, z))


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
        frames, end = FloatLayer.of(layer).run(frames, start, partial(observe, number))
        after.append(end)
    return frames, after


def _checked(model: Model, voices: int, state: Sequence[LayerState]) -> list[LayerState]:
    if len(state) != len(model.layers):
        raise ValueError(f"state: expected {len(model.layers)} layers, found {len(state)}")
    checked = [LayerState(np.asarray(c, np.float64), np.asarray(y, np.float64)) for c, y in state]
    for layer, held in zip(model.layers, checked, strict=True):
        for name, array, size in (("c", held.c, layer.cells), ("y", held.y, layer.feedback)):
            if array.shape != (voices, size):
                raise ValueError(f"state of layer {layer.name!r}, {name}: expected shape ({voices}, {size}), "
                                 f"found {array.shape}")
    return checked
