# SPDX-License-Identifier: Apache-2.0
"""SpMV: one multiplier and one accumulator memory for every channel of a PE."""

from typing import NamedTuple

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from openese.rtl.attributes import BLOCK_RAM, DSP, LUT_RAM, LUT_RAM_ROWS, ULTRA_RAM, block_ram, fanout
from openese.rtl.bundles import ActivityPort, ContextPort, DrainPort
from openese.rtl.config import bits_for
from openese.rtl.interfaces import Context, Entry, activations

__all__ = ["SpMV"]


class Following(NamedTuple):
    """The entry behind the decoded one, whose row's address is ``offset + row``."""

    valid: Signal
    offset: Signal
    row: Signal


class Decoded(NamedTuple):
    """An entry at stage 4: the address of its row, its aligned weight, the activations of its column."""

    valid: Signal
    padding: Signal
    end: Signal
    address: Signal
    operand: Signal
    values: Signal
    following: Following


class UnderWay(NamedTuple):
    """The row that is read, at stage 4, and the row that is written, at stage 7. ``clears``: it is written with zero,
    found out a stage before."""

    read_address: Signal
    write_address: Signal
    writes: Value
    clears: Value


class Forwards(NamedTuple):
    """Whether the value of a row comes from the row of two or of three cycles before, at stage 5, or from that of one
    cycle before, at stage 6."""

    second: Signal
    third: Signal
    first: Signal


class SpMV(wiring.Component):
    """Multiplies each entry with its column's activations and adds the products to the entry's row (paper: SpMV).

    All channels work on the same entry, so decoding, addressing and hazards exist once for each PE. An accumulator is
    read, added to and written back over `latency` cycles. An entry waits while its row is on its way back; the packer
    spreads short matrices over several *phases*, which are summed when drained, so this is rare. A drain takes one
    cycle of the accumulators' read port and clears the row. An entry that follows it into the same row waits too. With
    ``forward`` no entry waits: it takes the new value of its row from the registers.

    Latency: `delay` cycles from an entry to its row being readable; `done_delay` from an operation's end to ``done``,
    and at least `turn_delay` more to ``drain``; `drain_delay` from there to ``drained``. Cost: for each channel a
    multiplier-adder of 19 x 16 + 36 bits and a memory of ``accumulator_rows`` x ``accumulator_bits``, in block RAM, LUT
    RAM or UltraRAM; for each PE four row comparators, three of them of a sum.

    Attributes
    ----------
    latency : int
        Cycles from an accumulator's read address to the first cycle in which its new value can be read.

    Members
    -------
    entries : In(stream(Entry)) — from SpmatRead.
    columns : In(stream(activations)) — from the ActQueue. One is taken with the first entry of its column.
    context : In(Context) — context of an operation, before its first entry.
    context_valid : In(1) — set the context.
    context_operation : In(operation_bits) — number of its operation.
    drain : In(1) — read and clear a row, `read_delay` cycle later. It must name neither a row with entries under way
        then, nor a row whose clearing is under way: the same row again only `latency` cycles later. With ``forward``
        it may name a row whose entry was read two cycles before or more.
    drain_address : In(bits_for(accumulator_rows - 1)) — the row's address.
    drained : Out(channels * accumulator_bits) — the row, channel 0 lowest.
    done : Out(1) — pulses when all sums of an operation are in place for a drain that comes `turn_delay` cycles later.
        It is not registered.
    busy : Out(1) — an entry was multiplied.
    padding : Out(1) — a padding entry passed.
    hazard : Out(1) — an entry waited for its accumulator.
    """

    #: Cycles from an accumulator's read address to the first cycle in which its new value can be read.
    latency = 4
    delay = 6
    #: Cycles from ``drain`` to the read of its row.
    read_delay = 1
    #: Least cycles from ``done`` to ``drain``.
    turn_delay = 2
    drain_delay = read_delay + 2

    def __init__(self, config):
        self._config = config
        super().__init__({
            "entries": In(stream.Signature(Entry(config))),
            "columns": In(stream.Signature(activations(config))),
            **ContextPort(config).flip().ports(),
            **DrainPort(config).flip().ports(),
            "drained": Out(config.channels * config.accumulator_bits),
            "done": Out(1),
            **ActivityPort().ports(),
        })

    @classmethod
    def done_delay(cls, config):
        """Cycles from an operation's end to ``done``. The end is a cycle behind the last entry, whose sum is written
        while a drain is on its way. With ``forward`` the sum may still be under way then.
        """
        return 0 if config.forward else cls.delay - 1 - cls.read_delay - cls.turn_delay

    @staticmethod
    def model(accumulator, context, columns, index_bits):
        """Add one operation to ``accumulator``, in place.

        Parameters
        ----------
        accumulator : int64 (rows, channels)
        context : mapping with the fields of `Context`
        columns : list of ``(activations (channels,), [(weight, skip), ...])``
        index_bits : int
            Of the machine.

        Returns
        -------
        int64 (rows, channels)
            ``accumulator``.
        """
        phase = 0
        for values, entries in columns:
            row = -1
            for weight, skip in entries:
                row += skip + 1 if weight else (skip + 1) << index_bits
                if not weight:
                    continue
                align = context["align"][row & 3]
                address = context["acc_base"] + phase * context["phase_stride"] + row
                accumulator[address] += (weight << align) * values
            phase = 0 if phase == context["phase_last"] else phase + 1
        return accumulator

    def elaborate(self, platform):
        m = Module()
        # It is found out a cycle ahead: a register drives the enables of the stages before the accumulators.
        go = Signal(init=1, attrs=fanout(64))
        decoded = self._decode(m, go)
        under_way, forwards = self._hazards(m, go, decoded)
        end = self.entries.valid & self.entries.payload.end if self._config.forward else decoded.end
        m.d.comb += self.done.eq(end & go)
        self._multiply(m, go, decoded, under_way, forwards)
        return m

    def _context(self, m, operation):
        """The contexts of the operations under way; returns that of ``operation``."""
        m.submodules.contexts = contexts = memory.Memory(
            shape=Context(self._config), depth=1 << self._config.operation_bits, init=[], attrs=LUT_RAM)
        write = contexts.write_port()
        read = contexts.read_port(domain="comb")
        m.d.comb += [
            write.addr.eq(self.context_operation),
            write.data.eq(self.context),
            write.en.eq(self.context_valid),
            read.addr.eq(operation),
        ]
        return read.data

    def _decode(self, m, go):
        """Stages 3 and 4: the entry's row, then its accumulator's address and its aligned weight."""
        config = self._config
        entry = self.entries.payload
        context = self._context(m, entry.operation)
        takes = Signal(attrs=fanout(128))
        m.d.comb += [
            self.entries.ready.eq(go),
            takes.eq(go & self.entries.valid & entry.first),
            self.columns.ready.eq(takes),
        ]
        row = Signal(config.count_bits, reset_less=True)
        phase = Signal(3, reset_less=True)
        offset = Signal(bits_for(config.accumulator_rows - 1), reset_less=True)
        weight = Signal(signed(config.weight_bits), reset_less=True)
        align = Signal(Context(config)["align"].shape, reset_less=True)
        valid = Signal()
        end = Signal()
        padding = Signal()
        values = Signal(activations(config), name="_values", reset_less=True)
        is_padding = entry.weight == 0
        bridged = (1 << config.index_bits) - 1
        step = Mux(is_padding, Cat(Const(bridged, config.index_bits), entry.skip), entry.skip)
        with m.If(go):
            m.d.sync += [
                valid.eq(self.entries.valid & ~entry.end),
                end.eq(self.entries.valid & entry.end),
                padding.eq(is_padding),
                weight.eq(entry.weight),
                align.eq(context.align),
            ]
            with m.If(self.entries.valid):
                m.d.sync += row.eq(Mux(entry.first, 0, row + 1) + step)
                with m.If(entry.fresh | (entry.first & (phase == context.phase_last))):
                    m.d.sync += [phase.eq(0), offset.eq(context.acc_base)]
                with m.Elif(entry.first):
                    m.d.sync += [phase.eq(phase + 1), offset.eq(offset + context.phase_stride)]
            with m.If(takes):
                m.d.sync += values.eq(self.columns.payload)

        decoded = Decoded(
            valid=Signal(name="row_valid"), padding=Signal(name="_padding"), end=Signal(name="_end"),
            address=Signal.like(offset, name="_address"),
            operand=Signal(signed(config.operand_bits), name="_operand", reset_less=True),
            values=values, following=Following(Signal(name="_follows"), offset, row))
        m.d.comb += decoded.following.valid.eq(valid & ~padding)
        with m.If(go):
            m.d.sync += [
                decoded.valid.eq(decoded.following.valid),
                decoded.padding.eq(valid & padding),
                decoded.end.eq(end),
                decoded.address.eq(offset + row),
                decoded.operand.eq(weight << align[row[:2]]),
            ]
        return decoded

    def _hazards(self, m, go, decoded):
        """Stages 4 to 7: which rows are under way, and whether an entry has to wait for one of them. Returns them, and
        its `Forwards`."""
        row_valid, address, following = decoded.valid, decoded.address, decoded.following
        forward = self._config.forward
        # Stage 5, 6 and 7: where the rows under way are.
        addresses = [Signal.like(address, name=f"address{k}", reset_less=True) for k in (5, 6, 7)]
        live = Signal(3)
        drains = Signal(2, attrs=fanout(128))
        met = Signal(3)
        drain, drain_address = Signal(), Signal.like(self.drain_address, reset_less=True)
        m.d.sync += [drain.eq(self.drain), drain_address.eq(self.drain_address)]

        # What an entry meets is found out a cycle ahead: for the one behind, and for the one that is there and that a
        # drain gets ahead of. What it has met is then three cycles away from being written, or two, or one.
        under_way = ((row_valid, address), *zip(live[:2], addresses[:2], strict=True))
        behind = Cat(valid & following.valid & _adds_up(following.offset, following.row, place)
                     for valid, place in under_way)
        drained = drain & row_valid & (address == drain_address)
        m.d.sync += [
            met.eq(Mux(go, behind, Cat(drained, met))),
            go.eq(~((0 if forward else Mux(go, behind.any(), drained | met[0] | met[1])) | self.drain)),
        ]

        read_address = Signal.like(address)
        m.d.comb += read_address.eq(Mux(drain, drain_address, address))
        m.d.sync += [
            addresses[0].eq(read_address),
            addresses[1].eq(addresses[0]),
            addresses[2].eq(addresses[1]),
            live.eq((live << 1) | drain | (row_valid & go)),
            drains.eq((drains << 1) | drain),
            self.busy.eq(row_valid & go),
            self.padding.eq(decoded.padding & go),
            self.hazard.eq(0 if forward else met.any() & ~drain),
        ]
        forwards = None
        if forward:
            # A drain meets rows in the cycle of its read. It is at least two cycles behind an entry of its row.
            behind_drain = self._met(drain_address, live, addresses)
            met5, met6 = Signal(3, attrs=fanout(128)), Signal(attrs=fanout(128))
            m.d.sync += [met5.eq(Mux(drain, behind_drain, met)), met6.eq(met5[0])]
            forwards = Forwards(met5[1], met5[2], met6)
        return UnderWay(read_address, addresses[2], live[2], drains[1]), forwards

    @staticmethod
    def _met(address, live, addresses):
        """Which rows under way are that at ``address``."""
        return Cat(valid & (place == address) for valid, place in zip(live, addresses, strict=True))

    def _multiply(self, m, go, decoded, under_way, forwards):
        """Stages 4 to 7: read and multiply, add, write back."""
        config = self._config
        weight = Signal.like(decoded.operand, name="weight5", reset_less=True)
        m.d.sync += weight.eq(decoded.operand)
        reads, writes = self._accumulators(m, under_way)
        for channel in range(config.channels):
            value4 = Signal(signed(config.activation_bits), reset_less=True, name=f"value4_{channel}")
            value5 = Signal.like(value4, name=f"value5_{channel}")
            product = Signal(signed(config.operand_bits + config.activation_bits), reset_less=True,
                             name=f"product_{channel}", attrs=DSP)
            before = Signal(signed(config.accumulator_bits), reset_less=True, name=f"before_{channel}")
            after = Signal.like(before, name=f"after_{channel}", attrs=DSP)
            with m.If(go):
                m.d.sync += value4.eq(decoded.values[channel])
            read, added = reads[channel], before
            if forwards:
                written = Signal.like(after, name=f"written_{channel}", reset_less=True)
                m.d.sync += written.eq(after)
                read = Mux(forwards.second, after, Mux(forwards.third, written, read))
                added = Mux(forwards.first, after, before)
            with m.If(under_way.clears):
                m.d.sync += after.eq(0)
            with m.Else():
                m.d.sync += after.eq(added + product)
            m.d.sync += [
                value5.eq(value4),
                product.eq(weight * value5),
                before.eq(read),
            ]
            m.d.comb += [
                writes[channel].eq(after),
                self.drained.word_select(channel, config.accumulator_bits).eq(before),
            ]

    def _accumulators(self, m, under_way):
        """The memories of the accumulators, one for all channels of a kind: simulators then find a row in one place.
        Returns what each channel reads, and what it writes."""
        config = self._config
        rows, block = config.accumulator_rows, config.block_channels
        reads, writes = [], []
        for name, channels, attributes in (
                ("accumulators", block, block_ram(rows) if block == config.channels else BLOCK_RAM),
                ("ultra_accumulators", config.ultra_channels, ULTRA_RAM)):
            if channels:
                storage = self._memory(m, name, channels, rows, attributes)
                read = storage.read_port()
                write = storage.write_port()
                m.d.comb += [
                    read.addr.eq(under_way.read_address),
                    read.en.eq(1),
                    write.addr.eq(under_way.write_address),
                    write.en.eq(under_way.writes),
                ]
                reads += [read.data[channel] for channel in range(channels)]
                writes += [write.data[channel] for channel in range(channels)]
        if config.lut_channels:
            self._lut_accumulators(m, under_way, reads, writes)
        return reads, writes

    def _memory(self, m, name, channels, rows, attributes):
        m.submodules[name] = storage = memory.Memory(
            shape=data.ArrayLayout(signed(self._config.accumulator_bits), channels), depth=rows, init=[],
            attrs=attributes)
        return storage

    def _lut_accumulators(self, m, under_way, reads, writes):
        """Those in LUT RAM. The last rows may be a memory of their own: 32 rows take half the LUTs of 64."""
        channels, rows = self._config.lut_channels, self._config.accumulator_rows
        last = rows % LUT_RAM_ROWS
        lengths = [rows - last, last] if rows > last and 0 < last <= LUT_RAM_ROWS // 2 else [rows]
        read_row = Signal(data.ArrayLayout(signed(self._config.accumulator_bits), channels), name="lut_row",
                          reset_less=True)
        row = Signal.like(read_row, name="lut_sums")
        for part, length in enumerate(lengths):
            storage = self._memory(m, f"lut_accumulators{part or ''}", channels, length, LUT_RAM)
            read = storage.read_port(domain="comb")
            write = storage.write_port()
            m.d.comb += [
                read.addr.eq(under_way.read_address),
                write.addr.eq(under_way.write_address),
                write.data.eq(row),
                write.en.eq(under_way.writes & self._is_in(under_way.write_address, part, lengths)),
            ]
            with m.If(self._is_in(under_way.read_address, part, lengths)):
                m.d.sync += read_row.eq(read.data)
        reads += [read_row[channel] for channel in range(channels)]
        writes += [row[channel] for channel in range(channels)]

    @staticmethod
    def _is_in(address, part, lengths):
        """Whether an address is in this part of two."""
        return 1 if len(lengths) == 1 else (address >= lengths[0]) == part


def _adds_up(first, second, total):
    """Whether ``total`` is the sum of ``first`` and ``second`` in its width, without the carries of an adder. It is
    where the carry that each place needs equals the carry that the place below gives.
    """
    first, second = (value[:len(total)] for value in (first, second))
    needed = first ^ second ^ total
    given = (first & second) | ((first | second) & ~total)
    return (needed == (given << 1)[:len(total)])
