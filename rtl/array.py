# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""The array of PEs."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .act_queue import ActQueue
from .config import bits_for
from .emit import instantiate
from .interfaces import BLOCKS, MAX_OPERATIONS, Column, Context, LineWrite, activations
from .pe import PE
from .spmat_read import SpmatRead
from .spmv import SpMV

__all__ = ["PEArray"]


class PEArray(wiring.Component):
    """``groups`` x ``row_pes`` PEs behind one broadcast (paper, section 4).

    PE number ``group * row_pes + row`` takes the columns of its group and the rows ``r % row_pes == row``.

    Latency: `column_delay` cycles from ``column`` to ``activations`` being due; `input_delay` from all inputs to
    the PEs; `drain_delay` from ``drain`` to ``drained``; `full_delay` from a queue's level to ``full``;
    `done_delay` from the end of an operation being at the accumulators to ``done``; `release_delay` from the
    last line of a block being read to ``released``.
    Cost: the PEs, two registers a broadcast bit, a counter a PE.

    Members
    -------
    column, column_valid, activations, context... : see `PE`; activations for every group.
    full : no more columns, please.
    done : pulses when all PEs have completed an operation.
    busy, padding, hazard : how many PEs did so, in one cycle.
    weights, pointers : a line for all PEs, from the loader or the stream.
    streamed, written : see `SpmatRead`. ``released`` : pulses when all PEs are through a block. ``starved`` : how
        many wait for an entry.
    """

    column_delay = PE.column_delay
    input_delay = 1
    drain_delay = input_delay + SpMV.drain_delay
    full_delay = ActQueue.full_delay + 1
    done_delay = SpMV.latency + 1
    release_delay = SpmatRead.release_delay + 1

    def __init__(self, config):
        self._config = config
        count = bits_for(config.pes)
        streaming = {"streamed": In(1), "written": In(config.position_bits), "released": Out(1), "starved": Out(count)}
        super().__init__({
            "column": In(Column(config)),
            "column_valid": In(1),
            "activations": In(data.ArrayLayout(activations(config), config.groups)),
            "context": In(Context(config)),
            "context_valid": In(1),
            "context_operation": In(bits_for(MAX_OPERATIONS - 1)),
            "full": Out(1),
            "drain": In(1),
            "drain_address": In(bits_for(config.accumulator_rows - 1)),
            "drained": Out(config.pes * config.channels * config.accumulator_bits),
            "done": Out(1),
            "busy": Out(count),
            "padding": Out(count),
            "hazard": Out(count),
            "weights": In(LineWrite(bits_for(config.entry_depth - 1), config.pes * config.entry_bits)),
            "weights_valid": In(1),
            "pointers": In(LineWrite(bits_for(config.column_depth - 1), config.pes * config.count_bits)),
            "pointers_valid": In(1),
            **(streaming if config.stream else {}),
        })

    def elaborate(self, platform):
        m = Module()
        config = self._config
        registered = {}
        streaming = ("streamed", "written") if config.stream else ()
        for name in ("column", "column_valid", "activations", "context", "context_valid",
                     "context_operation", "drain", "drain_address", *streaming):
            port = getattr(self, name)
            registered[name] = Signal(port.shape(), name=f"{name}_registered",
                                      reset_less=not name.endswith("valid") and name != "drain")
            m.d.sync += registered[name].eq(port)

        pes = [PE(config) for _ in range(config.pes)]
        for index, pe in enumerate(pes):
            m.submodules[f"pe{index}"] = instantiate(platform, pe)
            for name, value in registered.items():
                if name == "activations":
                    value = value[index // config.row_pes]
                m.d.comb += getattr(pe, name).eq(value)
            for name, bits in (("weights", config.entry_bits), ("pointers", config.count_bits)):
                line = getattr(self, name)
                m.d.comb += [
                    getattr(pe, name).address.eq(line.address),
                    getattr(pe, name).data.eq(line.data.word_select(index, bits)),
                    getattr(pe, f"{name}_valid").eq(getattr(self, f"{name}_valid")),
                ]
            m.d.comb += self.drained.word_select(index, len(pe.drained)).eq(pe.drained)

        m.d.sync += self.full.eq(Cat(pe.full for pe in pes).any())
        m.d.comb += self.done.eq(self._join(m, "done", [pe.done for pe in pes], MAX_OPERATIONS))
        counted = ["busy", "padding", "hazard"]
        if config.stream:
            m.d.comb += self.released.eq(self._join(m, "released", [pe.released for pe in pes], BLOCKS))
            counted.append("starved")
        for name in counted:
            m.d.sync += getattr(self, name).eq(self._count(m, name, [getattr(pe, name) for pe in pes]))
        return m

    def _join(self, m, name, pulses, most):
        """Pulses once for every pulse that all PEs have given; none is more than ``most`` ahead."""
        waiting = []
        everyone = Signal(name=f"{name}_everyone")
        for index, pulse in enumerate(pulses):
            ahead = Signal(range(most + 1), name=f"{name}_ahead{index}")
            m.d.sync += ahead.eq(ahead + pulse - everyone)
            waiting.append(ahead != 0)
        m.d.comb += everyone.eq(Cat(waiting).all())
        return everyone

    def _count(self, m, name, bits):
        """Number of ones, in registered steps of eight."""
        level = 0
        values = bits
        while len(values) > 8:
            sums = []
            for start in range(0, len(values), 8):
                part = values[start:start + 8]
                total = Signal(range(8 ** (level + 1) + 1), name=f"{name}{level}_{start}")
                m.d.sync += total.eq(sum(part))
                sums.append(total)
            values = sums
            level += 1
        return sum(values)
