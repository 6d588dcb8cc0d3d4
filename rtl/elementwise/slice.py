# SPDX-License-Identifier: Apache-2.0
"""Slice: gates, cell state and output of the cells on some PE rows."""

from typing import NamedTuple

import numpy as np
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from openese.rtl.activation import Activation, table_line
from openese.rtl.attributes import fanout
from openese.rtl.bundles import CellsPort, ValidPort
from openese.rtl.config import bits_for
from openese.rtl.elementwise.lane import Lane, Shared
from openese.rtl.elementwise.settings import Beat, Settings, Stages, adds_drained
from openese.rtl.elementwise.shared import (
    cell_memory,
    elem_mul_shifts,
    exchanges,
    hidden_selects,
    parameter_memory,
    pre_activation_shifts,
)
from openese.rtl.fixed import round_shift, saturate
from openese.rtl.interfaces import LineWrite
from openese.rtl.program import ACTIVATIONS

__all__ = ["CellStep", "Slice", "parameter_line", "slice_members"]


def parameter_line(config, slices=1):
    """A write of a line of the parameter memories of ``slices`` slices."""
    return LineWrite(bits_for(config.parameter_lines - 1), slices * config.parameter_line_bits)


def slice_members(config, slices=1):
    """Ports of `Slice` that a block of ``slices`` slices also has: a line has the words of all."""
    return {
        "saturated": Out(bits_for(slices * config.slice_width)),
        **CellsPort(config, slices).ports(),
        **ValidPort(parameter_line(config, slices)).flip().ports("parameters"),
        **ValidPort(table_line(config)).flip().ports("tables"),
    }


class CellStep(NamedTuple):
    """Result of `Slice.model`.

    Attributes
    ----------
    arguments : int64 (gates, ...)
        Table arguments of i, f, g and o, or of r, z and n.
    cell : int64 (...)
        The cell state; h of a GRU.
    m : int64 (...)
        m in Q15; y of a GRU.
    saturated : bool (...)
        Cells whose state was clamped.
    n_h : int64 (...), optional
        Of a GRU: the sum that r multiplies.
    rh : int64 (...), optional
        Of a GRU with the reset before the product: r . h' in the format of y.
    """

    arguments: np.ndarray
    cell: np.ndarray
    m: np.ndarray
    saturated: np.ndarray
    n_h: np.ndarray | None = None
    rh: np.ndarray | None = None


class Slice(wiring.Component):
    """Gates, cell state and output of the cells on ``rows_per_slice`` PE rows (paper: Assemble, AdderTree, ElemMul,
    Sigmoid, Tanh).

    A local row of a gate is drained from all PEs at once and held. Its lanes (PE rows x channels) then pass one
    pipeline, ``slice_width`` a cycle::

        hold -> AdderTree -> sum of phases -> shift -> + bias + peephole -> table -> ElemMul -> + -> c, m

    For a cell row the gates come in the order g, i, f, and when c is written, tanh(c) and o. Between these, gates of
    another row may come. Small memories keep the values that one gate leaves for the next (g, then i . g; tanh c). Such
    a value can be read two cycles later. Phases of a gate come one after the other, without other beats between them.

    With ``forward``, c is read before it is in its memory. Where all lanes pass at once, a value that one gate leaves
    can be read by the next, and the AdderTree begins at the PEs' registers.

    The cells of a GRU pass the same pipeline, if the machine has them. The gates of a row come in the order n_h, r, and
    `r_delay` cycles later n_x and z. r multiplies n_h, which is kept, and the product is added to n_x in the place of a
    peephole's. z multiplies the old h less n, to which n is added.

    A GRU with the reset before the product, if the machine has it, passes the pipeline twice: r alone, which multiplies
    the old h and leaves it as it is, and later n_x and z.

    A row of a projection, or of a dense layer if the machine has them, passes the pipeline alone, to the bias or to the
    table.

    Latency, from ``beat``: `y_delay` to y, `table_delay` to the y of a dense layer with a table, `m_delay` to m,
    `h_delay` to the y of a GRU, `c_delay` to the first beat that reads the new c, `cells_delay` and
    `cell_write_delay` to what the host reads and writes; see `Stages`. Cost:
    for each lane of ``slice_width`` three multipliers (peephole, interpolation, ElemMul), a barrel shifter of
    ``accumulator_bits``, three choices among three or four, four memories of a value a beat (six with GRUs), and a
    multiplexer over as many; for each slice the tables of `Activation`, the cell states and the parameters. Dense
    layers add 25 LUTs and a level of logic to each lane, for the choice of y.

    Members
    -------
    drained : In(groups * lanes * accumulator_bits) — a row of every PE served, group after group, PE row after PE row.
    capture : In(1) — hold the row.
    beat : In(Beat) — the pipeline's control.
    settings : In(Settings) — number formats and voices. They are constant while beats are in the pipeline.
    columns : Out(lanes * activation_bits) — m or y of the row, complete one cycle after the last beat's delay.
    saturated : Out(bits_for(slice_width)) — lanes whose cell state or output was clamped, for one cycle.
    cells : Out(array(slice_width, signed(cell_bits))) — cell states at the row and beat of ``beat``, `cells_delay`
        cycles later.
    cell_write : In(slice_width) — lanes whose cell state is set at the row and beat of ``beat``, `cell_write_delay`
        cycles ago, which was not valid.
    cell_data : In(signed(cell_bits)) — the value to set.
    parameters : In(parameter_line) — line of the parameter memory: (bias, peephole) pairs, gate by gate.
    parameters_valid : In(1) — write the line.
    tables : In(table_line) — pair of samples; see `Activation`.
    tables_valid : In(1) — write the pair.
    """

    def __init__(self, config):
        self.config = config
        stages = Stages.of(config)
        self.y_delay, self.m_delay, self.c_delay = stages.y_delay, stages.m_delay, stages.c_delay
        self.table_delay = stages.table_delay
        self.h_delay, self.r_delay = stages.h_delay, stages.r_delay
        super().__init__({
            "drained": In(config.groups * config.lanes * config.accumulator_bits),
            "capture": In(1),
            "beat": In(Beat(config)),
            "settings": In(Settings(config)),
            "columns": Out(config.lanes * config.activation_bits),
            **slice_members(config),
        })

    @property
    def module_name(self):
        """Name of the Verilog module, shared by all instances."""
        return "elementwise"

    @staticmethod
    def model(config, sums, cell, bias, peephole, settings, sigmoid, tanh):
        """One step of some cells, in the integers of the hardware.

        Parameters
        ----------
        sums : int64 (4, ...) accumulators of i, f, g, o, or of r, z, n_x, n_h.
        cell : int64 (...) cell state.
        bias : int64 (4, ...) at the format of table arguments; peephole : int64 (3, ...) of i, f, o, or None.
            Both broadcast against the cells.
        settings : mapping with the fields of `Settings` but the voices. With ``gru``, the cells are those of a GRU.
        sigmoid, tanh : 2048 samples each.

        Returns
        -------
        `CellStep`
        """
        def product(gate, state):
            shift = config.peephole_shift_base + settings["peephole_select"]
            return saturate(round_shift(peephole[gate] * state, shift), config.sum_bits)

        def narrow(arguments):
            return saturate(arguments, config.argument_bits)

        shift = np.reshape(settings["shift"], (4,) + (1,) * (np.ndim(sums) - 1))
        arguments = saturate(round_shift(sums, shift), config.sum_bits) + bias
        if settings.get("gru"):
            return Slice._model_gru(config, arguments, cell, sigmoid, tanh)
        if peephole is not None:
            arguments[0] += product(0, cell)
            arguments[1] += product(1, cell)
        arguments[:3] = narrow(arguments[:3])
        i, f = Activation.model(config, sigmoid, arguments[:2])
        g = Activation.model(config, sigmoid if settings["g_sigmoid"] else tanh, arguments[2])

        fraction = config.cell_fraction_max - settings["cell_select"]
        exact = round_shift(i * g, 2 * config.gate_fraction - fraction)
        added = saturate(exact, config.cell_bits)
        kept = saturate(round_shift(f * cell, config.gate_fraction), config.cell_bits)
        state = saturate(kept + added, config.cell_bits)
        saturated = (added != exact) | (state != kept + added)

        if peephole is not None:
            arguments[3] += product(2, state)
        arguments[3] = narrow(arguments[3])
        o = Activation.model(config, sigmoid, arguments[3])
        argument = round_shift(state << config.cell_argument_left, settings["cell_argument_shift"])
        squashed = Activation.model(config, tanh, narrow(argument))
        m = round_shift(o * squashed, 2 * config.gate_fraction - (config.activation_bits - 1))
        return CellStep(arguments, state, saturate(m, config.activation_bits), saturated)

    @staticmethod
    def _model_gru(config, arguments, cell, sigmoid, tanh):
        """`model` from the sums with their biases on."""
        n_h = arguments[3]
        r, z = Activation.model(config, sigmoid, saturate(arguments[:2], config.argument_bits))
        arguments[2] += saturate(round_shift(r * n_h, config.gate_fraction), config.sum_bits)
        arguments = saturate(arguments[:3], config.argument_bits)
        n = Activation.model(config, tanh, arguments[2]) << (config.hidden_fraction - config.gate_fraction)
        kept = saturate(round_shift(z * (cell - n), config.gate_fraction), config.cell_bits)
        state = saturate(kept + n, config.cell_bits)
        y = round_shift(state, config.hidden_fraction - (config.activation_bits - 1))
        return CellStep(arguments, state, saturate(y, config.activation_bits), state != kept + n, n_h)

    @staticmethod
    def model_reset(config, sums, cell, bias, shift, sigmoid):
        """r . h' of some cells of a GRU with the reset before the product, in the integers of the hardware.

        Its second pass is `model` with the product of r . h' in the sums of n_x, and sums and a bias of n_h of 0.

        Parameters
        ----------
        sums : int64 (...) accumulators of r.
        cell : int64 (...) h'.
        bias : int64 (...) at the format of table arguments; broadcasts against the cells.
        shift : int, as in `Settings`.
        sigmoid : 2048 samples.

        Returns
        -------
        int64 (...) in the format of y.
        """
        argument = saturate(saturate(round_shift(sums, shift), config.sum_bits) + bias, config.argument_bits)
        r = Activation.model(config, sigmoid, argument)
        product = saturate(round_shift(r * cell, config.gate_fraction), config.cell_bits)
        return saturate(round_shift(product, config.hidden_fraction - (config.activation_bits - 1)),
                        config.activation_bits)

    @staticmethod
    def model_dense(config, sums, bias, settings, sigmoid, tanh):
        """Some rows of a dense layer, in the integers of the hardware.

        Parameters
        ----------
        sums : int64 (...) accumulators.
        bias : int64 (...) in the format of y, or of table arguments. Broadcasts against the sums.
        settings : mapping with ``shift``, of which the first is used, and the number ``activation``.
        sigmoid, tanh : 2048 samples each.

        Returns
        -------
        z : int64 (...) the sums with the bias; y : int64 (...); saturated : bool (...) where y was clamped.
        """
        function = ACTIVATIONS[settings["activation"]]
        z = saturate(round_shift(sums, settings["shift"][0]), config.sum_bits) + bias
        if function in ("none", "relu"):
            exact = np.maximum(z, 0) if function == "relu" else z
            y = saturate(exact, config.activation_bits)
            return z, y, y != exact
        z = saturate(z, config.argument_bits)
        value = Activation.model(config, sigmoid if function == "sigmoid" else tanh, z)
        shift = config.gate_fraction - (config.activation_bits - 1)
        y = saturate(round_shift(value << max(0, -shift), max(0, shift)), config.activation_bits)
        return z, y, np.zeros(y.shape, bool)

    def elaborate(self, platform):
        m = Module()
        config = self.config
        # The first one picks the lanes out of the row.
        control = [Signal(Beat(config), name=f"beat{k}", attrs=fanout(128) if k == 0 else {})
                   for k in range(Stages.of(config).cell + 1)]
        m.d.sync += control[0].eq(self.beat)
        m.d.sync += [after.eq(before) for before, after in zip(control, control[1:], strict=False)]

        held = self.drained
        if not adds_drained(config):
            held = Signal.like(self.drained, name="held", reset_less=True)
            with m.If(self.capture):
                m.d.sync += held.eq(self.drained)

        m.submodules.activation = activation = Activation(config, config.slice_width)
        ValidPort(table_line(config)).connect(m, wiring.flipped(self), activation, "tables", "load")
        cells = cell_memory(m, config, control, self.settings)
        m.d.comb += self.cells.eq(cells.read)
        parameters = parameter_memory(m, config, control, self.parameters, self.parameters_valid,
                                      self.settings.peephole_select)
        columns = Signal.like(self.columns, reset_less=True)
        shared = Shared(
            control, self.settings, held, cells, parameters,
            shifts=pre_activation_shifts(m, config, control, self.settings),
            elem_mul_shifts=elem_mul_shifts(m, config, control, self.settings),
            exchanges=exchanges(m, config, control, cells, self.settings),
            hidden_selects=hidden_selects(m, config, control, self.settings) if config.gru else None,
            activation=activation, host_write=self.cell_write, host_data=self.cell_data, columns=columns)
        m.d.comb += self.columns.eq(columns)
        m.d.sync += self.saturated.eq(sum(Lane(config, shared, index).elaborate(m)
                                          for index in range(config.slice_width)))
        return m
