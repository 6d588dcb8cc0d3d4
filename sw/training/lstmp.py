# SPDX-License-Identifier: Apache-2.0
"""The paper's cell for training: an LSTM with peepholes and projection, and a backward pass of its own.

Autograd on a loop over steps keeps dozens of small nodes for each step. Here one node holds the whole sequence. Its
backward pass goes through time once for the small products that depend on each other, and computes each weight
gradient as one product over all steps. This is several times faster on a CPU.

The layer can also train on the machine's arithmetic. The integer reference then computes the forward pass, and the
backward pass uses its values as if nothing were rounded (straight-through estimation).

Sizes: steps T, batch B, inputs I, cells H, outputs P. Gate order i, f, g, o.
"""

from __future__ import annotations

import math
import time
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from openese.rtl.config import Config
from openese.sw.model.layers import GATES, Layer, Model
from openese.sw.model.quantized import QuantizedModel, m_fraction
from openese.sw.model.state import LayerState
from openese.sw.quantize.choose import quantize, requantize
from openese.sw.reference.machine import Reference

__all__ = ["LSTMP", "State", "fast_products"]

_MEASURED = 32, 512, 2048  # voices, outputs and gates of the timed products
_GAIN = 1.3  # bfloat16 must be faster by this factor


@cache
def fast_products() -> torch.dtype:
    """Return the type in which this processor multiplies matrices faster, measured once.

    This is ``torch.bfloat16`` if the processor has instructions for it. Else it is ``torch.float32``, which is then
    ten times as fast.
    """
    def seconds(dtype: torch.dtype) -> float:
        batch, columns, rows = _MEASURED
        weights, forward, backward = (torch.ones(shape, dtype=dtype)
                                      for shape in ((rows, columns), (batch, columns), (batch, rows)))
        times = []
        for _ in range(5):
            began = time.perf_counter()
            torch.mm(forward, weights.T)
            torch.mm(backward, weights)
            torch.mm(backward.T, forward)
            times.append(time.perf_counter() - began)
        return min(times)

    return torch.bfloat16 if _GAIN * seconds(torch.bfloat16) < seconds(torch.float32) else torch.float32


class State(NamedTuple):
    """The state of a layer between steps: c (B, H) and y (B, P)."""

    c: Tensor
    y: Tensor


class _Sequence(torch.autograd.Function):
    """All steps of a layer. Products are in ``dtype``, all other numbers in the type of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w_x: Tensor, w_r: Tensor, bias: Tensor, peephole: Tensor | None,
                w_ym: Tensor | None, c: Tensor, y: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        steps, batch, _ = x.shape
        cells, outputs = c.shape[1], y.shape[1]
        x_low, w_x_low, w_r_low = x.to(dtype), w_x.to(dtype).flatten(0, 1), w_r.to(dtype).flatten(0, 1)
        w_ym_low = None if w_ym is None else w_ym.to(dtype)
        from_x = x_low @ w_x_low.T
        flat = bias.flatten()
        gates = x.new_empty(steps, batch, 4, cells)
        cell = x.new_empty(steps + 1, batch, cells)
        squashed = x.new_empty(steps, batch, cells)  # tanh c
        m = x_low.new_empty(steps, batch, cells)
        output = x_low.new_empty(steps + 1, batch, outputs)
        cell[0], output[0] = c, y
        for t in range(steps):
            z = torch.add(flat, from_x[t], out=gates[t].view(batch, -1)).add_(output[t] @ w_r_low.T)
            i, f, g, o = z.view(batch, 4, cells).unbind(1)
            if peephole is not None:
                i.addcmul_(cell[t], peephole[0])
                f.addcmul_(cell[t], peephole[1])
            gates[t, :, :2].sigmoid_()
            g.tanh_()
            torch.mul(f, cell[t], out=cell[t + 1]).addcmul_(i, g)
            if peephole is not None:
                o.addcmul_(cell[t + 1], peephole[2])
            o.sigmoid_()
            torch.tanh(cell[t + 1], out=squashed[t])
            m[t] = o * squashed[t]
            output[t + 1] = m[t] if w_ym_low is None else m[t] @ w_ym_low.T
        ctx.save_for_backward(x_low, w_x_low, w_r_low, peephole, w_ym_low, gates, cell, squashed, m, output)
        return output[1:].to(x.dtype), cell[-1].clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, w_x, w_r, peephole, w_ym, gates, cell, squashed, m, output = ctx.saved_tensors
        of_output, of_cell = gradients
        steps, batch, cells = squashed.shape
        exact = of_output.dtype
        dz = x.new_empty(steps, batch, 4 * cells)
        dy_all = None if w_ym is None else x.new_empty(steps, batch, output.shape[2])
        dpeephole = None if peephole is None else torch.zeros_like(peephole)
        dz_t = of_output.new_empty(batch, 4, cells)
        dc = of_cell.clone()
        back = torch.zeros_like(of_output[0])
        for t in range(steps - 1, -1, -1):
            i, f, g, o = gates[t].unbind(1)
            dy = of_output[t] + back
            if w_ym is None or dy_all is None:
                dm = dy
            else:
                dy_all[t] = dy
                dm = (dy_all[t] @ w_ym).to(exact)
            to_i, to_f, to_g, to_o = dz_t.unbind(1)
            torch.mul(dm, squashed[t], out=to_o).mul_(o - o * o)
            dc.addcmul_(dm * o, 1 - squashed[t] * squashed[t])
            if peephole is not None:
                dc.addcmul_(to_o, peephole[2])
            torch.mul(dc, g, out=to_i).mul_(i - i * i)
            torch.mul(dc, cell[t], out=to_f).mul_(f - f * f)
            torch.mul(dc, i, out=to_g).mul_(1 - g * g)
            dc.mul_(f)
            if peephole is not None and dpeephole is not None:
                dc.addcmul_(to_i, peephole[0]).addcmul_(to_f, peephole[1])
                dpeephole[0] += (to_i * cell[t]).sum(0)
                dpeephole[1] += (to_f * cell[t]).sum(0)
                dpeephole[2] += (to_o * cell[t + 1]).sum(0)
            dz[t] = dz_t.view(batch, -1)
            back = (dz[t] @ w_r).to(exact)

        def over_steps(rows: Tensor, columns: Tensor) -> Tensor:
            return (rows.flatten(0, 1).T @ columns.flatten(0, 1)).to(exact)

        needed = ctx.needs_input_grad
        return (
            (dz @ w_x).to(exact) if needed[0] else None,
            over_steps(dz, x).view(4, cells, -1) if needed[1] else None,
            over_steps(dz, output[:-1]).view(4, cells, -1) if needed[2] else None,
            dz.sum((0, 1), dtype=exact).view(4, cells) if needed[3] else None,
            dpeephole,
            None if dy_all is None else over_steps(dy_all, m),
            dc, back, None)


class _MachineSequence(_Sequence):
    """All steps of a layer by the integer reference. The backward pass uses its values as real numbers."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w_x: Tensor, w_r: Tensor, bias: Tensor, peephole: Tensor | None,
                w_ym: Tensor | None, c: Tensor, y: Tensor, machine: QuantizedModel) -> tuple[Tensor, Tensor]:
        layer, formats, real = machine.layers[0], machine.formats[0], machine.floating_point().layers[0]

        def tensor(values: ArrayLike, fraction: int | NDArray[np.int64] = 0) -> Tensor:
            return torch.from_numpy(np.ldexp(np.asarray(values, np.float64), -fraction)).to(x.dtype)

        reference = Reference(machine, x.shape[1])
        before, _ = machine.quantize_state([LayerState(c.detach().numpy(), y.detach().numpy())])
        reference.set_states(range(x.shape[1]), before)
        seen: dict[str, list[NDArray[np.int64]]] = {name: [] for name in ("x", "z", "c", "m", "y")}
        seen["c"].append(reference.c[0].copy())
        seen["y"].append(reference.y[0].copy())
        reference.run(machine.quantize_input(x.detach().numpy())[0],
                      observe=lambda _, name, values: seen[name].append(values))
        z = np.stack(seen["z"]).transpose(0, 2, 1, 3)
        gates = torch.stack([
            (torch.tanh if name == "g" else torch.sigmoid)(tensor(z[:, :, gate], formats.argument_fraction[gate]))
            for gate, name in enumerate(GATES)], dim=2)
        cell = tensor(np.stack(seen["c"]), formats.cell_fraction)
        output = tensor(np.stack(seen["y"]), layer.y_fraction)
        ctx.save_for_backward(
            tensor(np.stack(seen["x"]), machine.input_fractions),
            tensor(real.w_x).flatten(0, 1), tensor(real.w_r).flatten(0, 1),
            None if real.peephole is None else tensor(real.peephole), None if real.w_ym is None else tensor(real.w_ym),
            gates, cell, torch.tanh(cell[1:]), tensor(np.stack(seen["m"]), m_fraction(machine.config)), output)
        return output[1:].clone(), cell[-1].clone()


class LSTMP(nn.Module):
    """An LSTM layer with optional peepholes and projection, and the parameter names of `openese.Layer`.

    Parameters
    ----------
    inputs, cells : int
        I and H.
    outputs : int, optional
        P, the size of the projection. Without it there is no projection, and P is H.
    peepholes : bool
    products : torch.dtype
        The type of matrix products; `fast_products` returns the faster one. ``torch.bfloat16`` is two to five times
        as fast on a CPU with instructions for it, and ten times as slow on others. Weights, sums over steps and the
        cell state keep their own type.

    Attributes
    ----------
    w_x (4, H, I), w_r (4, H, P), bias (4, H) : Parameter
    peephole (3, H), w_ym (P, H) : Parameter or None

    Raises
    ------
    ValueError
        If a size is less than one.
    """

    def __init__(self, inputs: int, cells: int, outputs: int | None = None, peepholes: bool = True,
                 products: torch.dtype = torch.float32) -> None:
        super().__init__()
        size = cells if outputs is None else outputs
        if min(inputs, cells, size) < 1:
            raise ValueError(f"sizes must be at least 1, not {inputs} inputs, {cells} cells, {size} outputs")
        self.products = products
        self.w_x = nn.Parameter(torch.empty(4, cells, inputs))
        self.w_r = nn.Parameter(torch.empty(4, cells, size))
        self.bias = nn.Parameter(torch.zeros(4, cells))
        self.peephole = nn.Parameter(torch.zeros(3, cells)) if peepholes else None
        self.w_ym = None if outputs is None else nn.Parameter(torch.empty(outputs, cells))
        self._formats: QuantizedModel | None = None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set weights to uniform numbers within 1 / sqrt(columns), biases of gate f to one, and others to zero."""
        for weight in (self.w_x, self.w_r, self.w_ym):
            if weight is not None:
                nn.init.uniform_(weight, -1 / math.sqrt(weight.shape[-1]), 1 / math.sqrt(weight.shape[-1]))
        nn.init.zeros_(self.bias)
        nn.init.ones_(self.bias[1])

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return the outputs y (T, B, P) for x (T, B, I), and the state after the last step.

        Parameters
        ----------
        x : Tensor (T, B, I)
        state : State, optional
            The state before the first step; zero by default.

        Raises
        ------
        ValueError
            If x has another shape.
        """
        if x.dim() != 3 or x.shape[2] != self.w_x.shape[2] or not x.numel():
            raise ValueError(f"x: expected shape (T, B, {self.w_x.shape[2]}), found {tuple(x.shape)}")
        if state is None:
            state = State(x.new_zeros(x.shape[1], self.w_x.shape[1]), x.new_zeros(x.shape[1], self.w_r.shape[2]))
        tensors = (x, self.w_x, self.w_r, self.bias, self.peephole, self.w_ym, *state)
        if self._formats is None:
            y, c = _Sequence.apply(*tensors, self.products)
        else:
            y, c = _MachineSequence.apply(*tensors, self.quantized())
        return y, State(c, y[-1])

    def quantize(self, frames: ArrayLike, config: Config) -> None:
        """Switch the forward pass to the machine's arithmetic, computed by `openese.Reference`.

        This works on a CPU only. Masks of a `Pruner` stay active. Call it again to choose new number formats.

        Parameters
        ----------
        frames : array (T, B, I)
            Calibration frames. The number formats are chosen on them with the present weights.
        config : Config
            The machine.

        Raises
        ------
        QuantizeError
            If `openese.sw.quantize.choose.quantize` finds no formats.
        """
        self._formats = quantize(self._model(), frames, config)

    def quantized(self) -> QuantizedModel:
        """Return the layer in integers, as the forward pass uses it.

        Raises
        ------
        ValueError
            If `quantize` was not called.
        QuantizeError
            If a row could overflow in the chosen formats, because weights have grown.
        """
        if self._formats is None:
            raise ValueError("the layer has no number formats; call quantize(frames, config) first")
        return requantize(self._model(), self._formats)

    def _model(self) -> Model:
        return Model(layers=(self.layer(),), name="lstmp")

    def layer(self, name: str = "lstm") -> Layer:
        """Return the parameters as an `openese.Layer`."""
        def array(weight: Tensor | None) -> Any:
            return None if weight is None else weight.detach().cpu().numpy()

        return Layer(name=name, w_x=array(self.w_x), w_r=array(self.w_r), bias=array(self.bias),
                     peephole=array(self.peephole), w_ym=array(self.w_ym))
