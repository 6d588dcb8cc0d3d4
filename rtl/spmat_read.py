# SPDX-License-Identifier: Apache-2.0
"""SpmatRead: fetches the encoded weights of one PE."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from .config import bits_for
from .interfaces import MAX_OPERATIONS, Entry, LineWrite, Token

__all__ = ["SpmatRead"]


class SpmatRead(wiring.Component):
    """Turns tokens into entries, one entry a cycle and without a gap between columns (paper: SpmatRead).

    The weights of an operation lie one after another from its ``entry_base``, so an address is the previous
    one plus one, except at the first column of an operation.

    Latency: `delay` cycles from token to entry. Cost: one memory of ``entry_depth`` x ``entry_bits`` with
    its output register, an address counter and a count.

    Members
    -------
    tokens : from the ActQueue.
    entries : to SpMV. While ``ready`` is low everything holds.
    base, base_valid, base_operation : sets the ``entry_base`` of an operation before its first token.
    load, load_valid : write port of the weight memory.
    """

    delay = 3

    def __init__(self, config):
        self._config = config
        address = bits_for(config.entry_depth - 1)
        super().__init__({
            "tokens": In(stream.Signature(Token(config))),
            "entries": Out(stream.Signature(Entry(config))),
            "base": In(address),
            "base_valid": In(1),
            "base_operation": In(bits_for(MAX_OPERATIONS - 1)),
            "load": In(LineWrite(address, config.entry_bits)),
            "load_valid": In(1),
        })

    @staticmethod
    def model(counts, base):
        """Addresses of the entries of one operation: ``(address, first of its column)`` pairs."""
        addresses = []
        for count in counts:
            addresses += [(base + len(addresses) + k, k == 0) for k in range(count)]
        return [(base + index, first) for index, (_, first) in enumerate(addresses)]

    def elaborate(self, platform):
        m = Module()
        config = self._config
        m.submodules.weights = weights = memory.Memory(
            shape=config.entry_bits, depth=config.entry_depth, init=[])
        m.submodules.bases = bases = memory.Memory(
            shape=len(self.base), depth=MAX_OPERATIONS, init=[])
        base_write = bases.write_port()
        base_read = bases.read_port(domain="comb")
        write = weights.write_port()
        read = weights.read_port()
        token = self.tokens.payload
        go = self.entries.ready

        address = Signal(len(self.base), reset_less=True)
        left = Signal(config.count_bits)
        fresh = Signal(init=1)
        stages = [Signal(Entry(config), name=f"stage{k}") for k in range(3)]
        valids = Signal(3)
        fetch = stages[0]

        m.d.comb += [
            base_write.addr.eq(self.base_operation),
            base_write.data.eq(self.base),
            base_write.en.eq(self.base_valid),
            base_read.addr.eq(token.operation),
            write.addr.eq(self.load.address),
            write.data.eq(self.load.data),
            write.en.eq(self.load_valid),
            read.addr.eq(address),
            read.en.eq(go),
            self.tokens.ready.eq(go & (left == 0)),
            self.entries.valid.eq(valids[2]),
            self.entries.payload.eq(stages[2]),
        ]

        with m.If(go):
            m.d.sync += [
                valids.eq((valids << 1) | (left != 0) | self.tokens.valid),
                fetch.first.eq(0),
                fetch.fresh.eq(0),
                fetch.end.eq(0),
                stages[1].eq(stages[0]),
                stages[2].eq(stages[1]),
                stages[2].weight.eq(read.data[:config.weight_bits]),
                stages[2].skip.eq(read.data[config.weight_bits:]),
            ]
            with m.If(left != 0):
                m.d.sync += [address.eq(address + 1), left.eq(left - 1)]
            with m.Elif(self.tokens.valid):
                m.d.sync += [
                    fetch.operation.eq(token.operation),
                    fetch.end.eq(token.end),
                    fetch.first.eq(~token.end),
                    fetch.fresh.eq(fresh),
                    fresh.eq(token.end),
                ]
                with m.If(~token.end):
                    m.d.sync += [
                        address.eq(Mux(fresh, base_read.data, address + 1)),
                        left.eq(token.count - 1),
                    ]
        return m
