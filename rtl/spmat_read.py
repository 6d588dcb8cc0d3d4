# SPDX-License-Identifier: Apache-2.0
"""SpmatRead: fetches the encoded weights of one PE."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from openese.rtl.attributes import LUT_RAM, ULTRA_RAM, block_ram
from openese.rtl.bundles import StreamPort, ValidPort
from openese.rtl.config import bits_for
from openese.rtl.distance import join_delay
from openese.rtl.interfaces import BLOCKS, Entry, LineWrite, Token

__all__ = ["SpmatRead", "column_lead", "weight_line"]


def weight_line(config, pes=1):
    """A write of a line of the weight memories of ``pes`` PEs."""
    return LineWrite(bits_for(config.entry_depth - 1), pes * config.entry_bits)


def column_lead(config):
    """Cycles by which a column's token is in its queue before its activations: with ``forward``, its first entry is
    fetched meanwhile.
    """
    return SpmatRead.delay if config.forward else 0


class SpmatRead(wiring.Component):
    """Turns tokens into entries, one entry a cycle, without a gap between columns (paper: SpmatRead).

    The weights of an operation lie one after another from its ``entry_base``. Streamed weights lie in a ring: an entry
    waits until its line is ``written``. At the end of a streamed operation the block skips the lines that only other
    PEs need, so every PE passes every line.

    Latency: `delay` cycles from a token to its first entry; `release_delay` from the turn of the last line of a block
    to ``released``, if entries are taken; `written_delay` from ``written`` to the entry.
    Cost: one memory of ``entry_depth`` x ``entry_bits`` with its output register, an address counter, a count; five
    comparators of positions if the machine streams weights.

    Parameters
    ----------
    config : Config
    ultra : bool
        The memory is in UltraRAM.

    Members
    -------
    tokens : In(stream(Token)) — from the ActQueue.
    entries : Out(stream(Entry)) — to SpMV. Everything holds while ``ready`` is low.
    base : In(position_bits) — ``entry_base`` of an operation, before its first token.
    base_valid : In(1) — set it.
    base_operation : In(operation_bits) — number of the operation. Streamed operations are numbered one
        after another from 0.
    load : In(weight_line) — line of the weight memory.
    load_valid : In(1) — write the line.
    ends : Out(1) — pulses `join_delay` cycles before an operation's end is taken, or more if a drain comes between.
        Only with ``forward``.
    stop : In(position_bits) — ``entry_stop`` of the operation, set with ``base`` at least two cycles before its first
        token. Only if the machine streams weights, as the next four.
    streamed : In(1) — the weights are streamed.
    written : In(position_bits) — lines written so far, modulo twice the depth.
    released : Out(1) — pulses when the last line of a block is read; its lines may be overwritten.
    starved : Out(1) — an entry waits for its line.
    """

    delay = 3
    release_delay = 1
    written_delay = 1

    def __init__(self, config, ultra=False):
        self._config = config
        self._ultra = ultra
        streaming = {
            "stop": In(config.position_bits),
            **StreamPort(config).flip().ports(),
            "released": Out(1),
            "starved": Out(1),
        }
        super().__init__({
            "tokens": In(stream.Signature(Token(config))),
            "entries": Out(stream.Signature(Entry(config))),
            "base": In(config.position_bits),
            "base_valid": In(1),
            "base_operation": In(config.operation_bits),
            **ValidPort(weight_line(config)).flip().ports("load"),
            **({"ends": Out(1)} if config.forward else {}),
            **(streaming if config.stream else {}),
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
        token = self.tokens.payload
        go = self.entries.ready
        left = Signal(config.count_bits)
        none = Signal(init=1)  # left == 0
        fresh = Signal(init=1)
        position = Signal(config.position_bits, reset_less=not config.stream)
        takes, skips, finishes = (Signal(name=name) for name in ("takes", "skips", "finishes"))
        stages = [Signal(Entry(config), name=f"stage{k}") for k in range(3)]
        valids = Signal(3)
        fetch = stages[0]
        address, encoded, base = self._memories(m, token, go)
        # A stream goes on where it is.
        jumps = fresh & ~self.streamed if config.stream else fresh
        where = Mux(jumps, base, position)
        m.d.comb += [
            self.tokens.ready.eq(go & none & (takes | finishes)),
            self.entries.valid.eq(valids[2]),
            self.entries.payload.eq(stages[2]),
        ]
        self._choose(m, token, none, position, where, takes, skips, finishes)
        if config.forward:
            told = len(stages) - 1 - join_delay(config)
            m.d.comb += self.ends.eq(valids[told] & stages[told].end & go)
        with m.If(go):
            m.d.sync += [
                valids.eq((valids << 1) | takes | finishes),
                fetch.first.eq(takes & none),
                fetch.fresh.eq(takes & fresh),
                fetch.end.eq(finishes),
                stages[1].eq(stages[0]),
                stages[2].eq(stages[1]),
                stages[2].weight.eq(encoded[:config.weight_bits]),
                stages[2].skip.eq(encoded[config.weight_bits:]),
            ]
            with m.If(takes | skips):
                m.d.sync += [address.eq(where), position.eq(where + 1), fresh.eq(0)]
            with m.If(finishes):
                m.d.sync += fresh.eq(1)
            with m.If(none):
                m.d.sync += fetch.operation.eq(token.operation)
                with m.If(takes):
                    m.d.sync += [left.eq(token.count - 1), none.eq(token.count == 1)]
            with m.Elif(takes):
                m.d.sync += [left.eq(left - 1), none.eq(left == 1)]
        return m

    def _memories(self, m, token, go):
        """The weights, and the bases of operations. Returns the weights' address, the line read there two cycles later,
        and the base of the token's operation."""
        config = self._config
        m.submodules.weights = weights = memory.Memory(
            shape=config.entry_bits, depth=config.entry_depth, init=[],
            attrs=ULTRA_RAM if self._ultra else block_ram(config.entry_depth))
        m.submodules.bases = bases = memory.Memory(
            shape=config.position_bits, depth=1 << config.operation_bits, init=[], attrs=LUT_RAM)
        base_write = bases.write_port()
        base_read = bases.read_port(domain="comb")
        write = weights.write_port()
        read = weights.read_port()
        address = Signal(len(read.addr), reset_less=True)
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
        ]
        return address, read.data, base_read.data

    def _choose(self, m, token, none, position, where, takes, skips, finishes):
        """What happens next, while entries are taken: ``takes`` an entry, ``skips`` a line that only other PEs need, or
        ``finishes`` an operation."""
        go = self.entries.ready
        wants = ~none | (self.tokens.valid & ~token.end)
        ends = none & self.tokens.valid & token.end
        if not self._config.stream:
            m.d.comb += [takes.eq(wants), finishes.eq(ends)]
            return
        there, beyond = self._ahead(m, position, go & (takes | skips), go & finishes)
        block = where[:bits_for(self._config.entry_depth // BLOCKS - 1)]
        m.d.comb += [
            takes.eq(wants & there),
            skips.eq(ends & beyond & there),
            finishes.eq(ends & ~beyond),
        ]
        # The last line of a block has its turn, and is read as soon as entries are taken.
        ends_block = Signal()
        with m.If(go):
            m.d.sync += ends_block.eq((takes | skips) & self.streamed & block.all())
        m.d.comb += self.released.eq(ends_block & go)
        m.d.sync += self.starved.eq(go & wants & ~there)

    def _ahead(self, m, position, advances, finishes):
        """Whether the entry at ``position`` is there, and whether the operation has lines beyond it, found out a cycle
        ahead: where it will be then is here, or one further."""
        m.submodules.stops = stops = memory.Memory(
            shape=len(position), depth=1 << self._config.operation_bits, init=[], attrs=LUT_RAM)
        write = stops.write_port()
        stop, next_stop = (stops.read_port(domain="comb") for _ in range(2))
        operation = Signal(self._config.operation_bits)
        following = Signal.like(operation, init=1)
        m.d.comb += [
            write.addr.eq(self.base_operation),
            write.data.eq(self.stop),
            write.en.eq(self.base_valid),
            stop.addr.eq(operation),
            next_stop.addr.eq(following),
        ]
        advanced, finished, next_beyond = (Signal(name=name) for name in ("advanced", "finished", "next_beyond"))

        # Both are kept, with or without a step, and chosen from a cycle later: what steps is known late in a cycle.
        def apart(name, limit):
            here, further = (Signal(name=f"{name}_{where}") for where in ("here", "further"))
            m.d.sync += [
                here.eq(self.streamed & (position != limit)),
                further.eq(self.streamed & ((position + 1)[:len(position)] != limit)),
            ]
            return Mux(advanced, further, here)

        resident = Signal()
        m.d.sync += [
            operation.eq(operation + finishes),
            following.eq(following + finishes),
            advanced.eq(advances),
            resident.eq(~self.streamed),
            finished.eq(finishes),
            # Beyond the end of the operation that follows, should this one have ended.
            next_beyond.eq(self.streamed & (position != next_stop.data)),
        ]
        return resident | apart("there", self.written), Mux(finished, next_beyond, apart("beyond", stop.data))
