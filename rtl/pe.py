# SPDX-License-Identifier: Apache-2.0
"""PE: one processing element, its decoder shared by all channels."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from openese.rtl.act_queue import ActQueue
from openese.rtl.config import bits_for
from openese.rtl.interfaces import MAX_OPERATIONS, Column, Context, LineWrite, activations
from openese.rtl.ptr_read import PtrRead
from openese.rtl.spmat_read import SpmatRead
from openese.rtl.spmv import SpMV

__all__ = ["PE", "pe_members"]


def pe_members(config, pes=1):
    """Members of `PE` that what holds ``pes`` of them has too: a line has a word for each, a count is of all."""
    count = bits_for(pes)
    streaming = {"streamed": In(1), "written": In(config.position_bits), "released": Out(1), "starved": Out(count)}
    return {
        "column": In(Column(config)),
        "column_valid": In(1),
        "context": In(Context(config)),
        "context_valid": In(1),
        "context_operation": In(bits_for(MAX_OPERATIONS - 1)),
        "full": Out(1),
        "drain": In(1),
        "drain_address": In(bits_for(config.accumulator_rows - 1)),
        "done": Out(1),
        "busy": Out(count),
        "padding": Out(count),
        "hazard": Out(count),
        "weights": In(LineWrite(bits_for(config.entry_depth - 1), pes * config.entry_bits)),
        "weights_valid": In(1),
        "pointers": In(LineWrite(bits_for(config.column_depth - 1), pes * config.count_bits)),
        "pointers_valid": In(1),
        **(streaming if config.stream else {}),
    }


class PE(wiring.Component):
    """PtrRead -> ActQueue -> SpmatRead -> SpMV (paper, figure of the channel), for all channels at once.

    ::

        column --> PtrRead --> ActQueue --tokens--> SpmatRead --entries--> SpMV --> drained
        activations -------------^   '---columns-----------------------------^

    Latency: `column_delay` cycles from a column to its activations being due; then at least
    ``ActQueue 1 + SpmatRead.delay + SpMV.delay``. Cost: see the blocks.

    Members
    -------
    column, column_valid : the broadcast; its ``activations`` follow `column_delay` cycles later.
    context, context_valid, context_operation : context of an operation, before its first column.
    full : hold the broadcast.
    drain, drain_address, drained : see `SpMV`.
    done, busy, padding, hazard : see `SpMV`.
    weights, weights_valid, pointers, pointers_valid : from the loader.
    streamed, written, released, starved : where weights can be streamed; see `SpmatRead`.
    """

    column_delay = PtrRead.delay

    def __init__(self, config):
        self.config = config
        super().__init__({
            **pe_members(config),
            "activations": In(activations(config)),
            "drained": Out(config.channels * config.accumulator_bits),
        })

    @property
    def module_name(self):
        """Name of the Verilog module, shared by all instances."""
        return "pe"

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.ptr_read = ptr_read = PtrRead(config)
        m.submodules.act_queue = queue = ActQueue(config)
        m.submodules.spmat_read = spmat_read = SpmatRead(config)
        m.submodules.spmv = spmv = SpMV(config)

        context = Signal(Context(config), reset_less=True)
        context_valid = Signal()
        context_operation = Signal.like(self.context_operation)
        m.d.sync += [
            context.eq(self.context),
            context_valid.eq(self.context_valid),
            context_operation.eq(self.context_operation),
        ]
        wiring.connect(m, queue.tokens, spmat_read.tokens)
        wiring.connect(m, queue.columns, spmv.columns)
        wiring.connect(m, spmat_read.entries, spmv.entries)
        m.d.comb += [
            ptr_read.i.eq(self.column),
            ptr_read.i_valid.eq(self.column_valid),
            ptr_read.load.eq(self.pointers),
            ptr_read.load_valid.eq(self.pointers_valid),
            queue.i.eq(ptr_read.o),
            queue.i_valid.eq(ptr_read.o_valid),
            queue.activations.eq(self.activations),
            self.full.eq(queue.full),
            spmat_read.base.eq(context.entry_base),
            spmat_read.base_valid.eq(context_valid),
            spmat_read.base_operation.eq(context_operation),
            spmat_read.load.eq(self.weights),
            spmat_read.load_valid.eq(self.weights_valid),
            spmv.context.eq(context),
            spmv.context_valid.eq(context_valid),
            spmv.context_operation.eq(context_operation),
            spmv.drain.eq(self.drain),
            spmv.drain_address.eq(self.drain_address),
            self.drained.eq(spmv.drained),
            self.done.eq(spmv.done),
            self.busy.eq(spmv.busy),
            self.padding.eq(spmv.padding),
            self.hazard.eq(spmv.hazard),
        ]
        if config.stream:
            m.d.comb += [
                spmat_read.stop.eq(context.entry_stop),
                spmat_read.streamed.eq(self.streamed),
                spmat_read.written.eq(self.written),
                self.released.eq(spmat_read.released),
                self.starved.eq(spmat_read.starved),
            ]
        return m
