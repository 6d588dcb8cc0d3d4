# SPDX-License-Identifier: Apache-2.0
"""PE: one processing element, its decoder shared by all channels."""

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from openese.rtl.act_queue import ActQueue
from openese.rtl.bundles import ActivityPort, ContextPort, DrainPort, StreamPort, ValidPort
from openese.rtl.config import bits_for
from openese.rtl.interfaces import Column, Token, activations
from openese.rtl.ptr_read import PtrRead, pointer_line
from openese.rtl.spmat_read import SpmatRead, column_lead, weight_line
from openese.rtl.spmv import SpMV

__all__ = ["PE", "pe_members"]


def pe_members(config, pes=1):
    """Ports of a block of ``pes`` PEs: a line has a word for each PE, a count is of all PEs."""
    streaming = {**StreamPort(config).flip().ports(), "released": Out(1), "starved": Out(bits_for(pes))}
    return {
        **ValidPort(Column(config)).flip().ports("column"),
        **ContextPort(config).flip().ports(),
        "full": Out(1),
        **DrainPort(config).flip().ports(),
        "done": Out(1),
        **ActivityPort(pes).ports(),
        **ValidPort(weight_line(config, pes)).flip().ports("weights"),
        **ValidPort(pointer_line(config, pes)).flip().ports("pointers"),
        **(streaming if config.stream else {}),
    }


class PE(wiring.Component):
    """PtrRead -> ActQueue -> SpmatRead -> SpMV (paper, figure of the channel), for all channels at once.

    ::

        column --> PtrRead --> ActQueue --tokens--> SpmatRead --entries--> SpMV --> drained
        activations -------------^   '---columns-----------------------------^

    With `wide_pointers` PtrRead is in the `Tile` and serves all of its PEs. A PE then takes ``token``, with its
    ``token_valid``, in the place of columns and pointers. Activations come `column_lead` cycles later.

    Latency: `column_delay` cycles from a column to its activations at the input; from there at least
    ``ActQueue.delay + SpmatRead.delay + SpMV.delay``. Cost: that of its blocks.

    Parameters
    ----------
    config : Config
    ultra : bool
        Its weights are in UltraRAM.

    Members
    -------
    column : In(Column) — a column of the broadcast, or the end of an operation.
    column_valid : In(1) — there is one. It cannot be held up.
    activations : In(activations) — its activations, `column_delay` cycles later.
    context : In(Context) — context of an operation, before its first column.
    context_valid : In(1) — set the context.
    context_operation : In(operation_bits) — number of its operation.
    full : Out(1) — the queue takes no more columns than its margin.
    drain : In(1) — read and clear a row; see `SpMV`.
    drain_address : In(bits_for(accumulator_rows - 1)) — the row's address.
    drained : Out(channels * accumulator_bits) — the row, channel 0 lowest.
    done : Out(1) — pulses when all sums of an operation are in place, or with ``forward`` when they will be once it
        has been joined with that of other PEs.
    busy : Out(1) — an entry was multiplied.
    padding : Out(1) — a padding entry passed.
    hazard : Out(1) — an entry waited for its accumulator.
    weights : In(weight_line) — line of the weight memory.
    weights_valid : In(1) — write the line.
    pointers : In(pointer_line) — line of the pointer memory.
    pointers_valid : In(1) — write the line.
    streamed : In(1) — the weights are streamed. Only if the machine streams weights, as the next three.
    written : In(position_bits) — lines written so far, modulo twice the depth.
    released : Out(1) — pulses when a block has been read.
    starved : Out(1) — an entry waits for its line.
    """

    @staticmethod
    def column_delay(config):
        """Cycles from a column to its activations."""
        return PtrRead.delay + column_lead(config)

    def __init__(self, config, ultra=False):
        self.config = config
        self._ultra = ultra
        members = pe_members(config)
        if config.wide_pointers:
            for name in ("column", "pointers"):
                del members[name], members[f"{name}_valid"]
            members |= ValidPort(Token(config)).flip().ports("token")
        super().__init__({
            **members,
            "activations": In(activations(config)),
            "drained": Out(config.channels * config.accumulator_bits),
        })

    @property
    def module_name(self):
        """Name of the Verilog module, shared by all instances."""
        return "ultra_pe" if self._ultra else "pe"

    def elaborate(self, platform):
        m = Module()
        config = self.config
        ports = wiring.flipped(self)
        ptr_read = None if config.wide_pointers else PtrRead(config)
        if ptr_read is not None:
            m.submodules.ptr_read = ptr_read
        m.submodules.act_queue = queue = ActQueue(config)
        m.submodules.spmat_read = spmat_read = SpmatRead(config, self._ultra)
        m.submodules.spmv = spmv = SpMV(config)

        wiring.connect(m, queue.tokens, spmat_read.tokens)
        wiring.connect(m, queue.columns, spmv.columns)
        wiring.connect(m, spmat_read.entries, spmv.entries)
        if ptr_read is None:
            ValidPort(Token(config)).connect(m, ports, queue, "token", "i")
        else:
            ValidPort(Column(config)).connect(m, ports, ptr_read, "column", "i")
            ValidPort(pointer_line(config)).connect(m, ports, ptr_read, "pointers", "load")
            m.d.comb += [queue.i.eq(ptr_read.o[0]), queue.i_valid.eq(ptr_read.o_valid)]
        m.d.comb += [
            queue.activations.eq(self.activations),
            self.full.eq(queue.full),
            spmat_read.base.eq(self.context.entry_base),
            spmat_read.base_valid.eq(self.context_valid),
            spmat_read.base_operation.eq(self.context_operation),
        ]
        ValidPort(weight_line(config)).connect(m, ports, spmat_read, "weights", "load")
        ContextPort(config).connect(m, ports, spmv)
        DrainPort(config).connect(m, ports, spmv)
        m.d.comb += [
            self.drained.eq(spmv.drained),
            self.done.eq(spmat_read.ends if config.forward else spmv.done),
        ]
        ActivityPort().connect(m, spmv, ports)
        if config.stream:
            m.d.comb += spmat_read.stop.eq(self.context.entry_stop)
            StreamPort(config).connect(m, ports, spmat_read)
            m.d.comb += [
                self.released.eq(spmat_read.released),
                self.starved.eq(spmat_read.starved),
            ]
        return m
