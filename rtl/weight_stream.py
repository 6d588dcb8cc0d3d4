# SPDX-License-Identifier: Apache-2.0
"""Streamed weights: models larger than the chip are read from memory in every step (paper, section 5.3)."""

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from openese.rtl.bundles import StreamPort, ValidPort
from openese.rtl.config import bits_for
from openese.rtl.fifo import Fifo
from openese.rtl.interfaces import BLOCKS
from openese.rtl.program import Opcode, Take
from openese.rtl.program_reader import ProgramReader, program_line

__all__ = ["PAGE", "AXI4ReadSignature", "Burst", "StreamFetch", "StreamReader", "burst_lines", "ring_lead"]

#: Line numbers within the memory that holds the weights.
LINE_BITS = 24

#: Bytes of a page: no AXI burst crosses its end.
PAGE = 4096


def burst_lines(config):
    """Lines of the longest burst: within a page, and no more than a block."""
    return min(64, PAGE * 8 // config.stream_bits, config.entry_depth // BLOCKS)


def ring_lead(config):
    """Lines that a PE may be ahead of the PE that is furthest behind, and still find its line, sooner or later.

    `StreamFetch` stops when less than a longest burst is free, and a block is free only when all PEs have passed all of
    its lines.
    """
    return config.entry_depth - burst_lines(config) - config.entry_depth // BLOCKS + 1


class Burst(data.StructLayout):
    """Lines to read.

    Fields
    ------
    line : 24 — the first.
    lines : bits_for(burst_lines) — how many.
    """

    def __init__(self, config):
        super().__init__({"line": LINE_BITS, "lines": bits_for(burst_lines(config))})


class AXI4ReadSignature(wiring.Signature):
    """The read channels of an AXI4 bus, seen by the manager: one identifier, 64-bit addresses.

    Members
    -------
    ar : Out(stream(address)) — ``addr``, ``len``, ``size``, ``burst``, ``id``, ``lock``, ``cache``, ``prot``, ``qos``.
    r : In(stream(data)) — ``data``, ``resp``, ``last``, ``id``.
    """

    def __init__(self, data_width):
        super().__init__({
            "ar": Out(stream.Signature(data.StructLayout({
                "addr": 64, "len": 8, "size": 3, "burst": 2, "id": 1, "lock": 1, "cache": 4, "prot": 3, "qos": 4}))),
            "r": In(stream.Signature(data.StructLayout({"data": data_width, "resp": 2, "last": 1, "id": 1}))),
        })


class StreamFetch(wiring.Component):
    """Walks the step program ahead of the controller and asks for the lines of each MULTIPLY.

    The weight memories are one ring for the stream. The block asks for lines while there is room for them. There is
    room again when all PEs have read a block to its end. The weights behind a ``FRAME TRY`` depend on its success, so
    this block decides whether it takes a frame, and the controller follows.

    Latency: `delay` cycles from an instruction to the one behind it, at least; `written_delay` from ``arrived`` to
    ``written``, which is not registered. Cost: that of `ProgramReader`.

    Attributes
    ----------
    ahead : int
        Decisions that may be ahead of the controller.

    Members
    -------
    run : In(1) — carry out the program, as for the controller.
    streamed : Out(1) — the program says that the weights are streamed.
    written : Out(position_bits) — lines written so far, modulo twice the depth.
    frame_complete : In(1) — pulses when a frame has come in.
    frame_model : In(model_bits) — its model. Only if the machine holds several.
    decisions : Out(stream(1)) — for each ``FRAME TRY``, in order: it takes a frame.
    bursts : Out(stream(Burst)) — to `StreamReader`.
    arrived : In(1) — pulses for each line that it reads.
    released : In(1) — pulses when all PEs have read a block.
    write_address : Out(bits_for(entry_depth - 1)) — address for the line that arrives.
    program : In(program_line) — line of the program.
    program_valid : In(1) — write the line.
    """

    delay = ProgramReader.delay
    written_delay = 0
    #: Decisions that may be ahead of the controller.
    ahead = 7

    def __init__(self, config):
        self._config = config
        super().__init__({
            "run": In(1),
            **StreamPort(config).ports(),
            "frame_complete": In(1),
            **({"frame_model": In(config.model_bits)} if config.models > 1 else {}),
            "decisions": Out(stream.Signature(1)),
            "bursts": Out(stream.Signature(Burst(config))),
            "arrived": In(1),
            "released": In(1),
            "write_address": Out(bits_for(config.entry_depth - 1)),
            **ValidPort(program_line(config)).flip().ports("program"),
        })

    def elaborate(self, platform):
        m = Module()
        config = self._config
        reader = ProgramReader(config)
        current = reader.instruction
        decided = Fifo(1, self.ahead + 1)
        wiring.connect(m, decided.o, wiring.flipped(self.decisions))
        reader.elaborate(m, self.program, self.program_valid)
        m.submodules.decided = decided
        frames = Signal(3)
        take = Signal()
        missed = Signal(init=1)
        before = Signal.like(self.written)
        m.d.comb += [
            self.write_address.eq(before),
            self.written.eq(before + self.arrived),
        ]
        m.d.sync += [frames.eq(frames + self.frame_complete - take), before.eq(self.written)]
        model, next_model = self._models(m, take)
        line, left, has_room = self._requests(m)

        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.run):
                    m.next = "FETCH"
            reader.fetch(m)
            with m.State("EXECUTE"):
                with m.Switch(current.opcode):
                    with m.Case(Opcode.FORMAT):
                        m.d.sync += self.streamed.eq(current.streamed)
                        if config.models > 1:
                            reader.keep_routines(m)
                        m.next = "OFF"
                        with m.If(current.streamed):
                            reader.advance(m)
                    with m.Case(Opcode.FRAME):
                        trying = current.when == Take.TRY
                        with m.If(trying & (decided.level < self.ahead)):
                            m.d.comb += [take.eq(self.run & (frames != 0)), decided.i.eq(take),
                                         decided.i_valid.eq(1)]
                            m.d.sync += missed.eq(~take)
                            reader.advance(m)
                        with m.If(~trying):
                            m.d.comb += take.eq(missed & self.run & (frames != 0))
                            with m.If(~missed | take):
                                reader.advance(m)
                        if config.models > 1:
                            with m.If(take):
                                reader.take(m, next_model, trying)
                    with m.Case(Opcode.MULTIPLY):
                        with m.If(reader.skips(missed, Const(0)) | (current.entry_lines == 0)):
                            reader.end_multiply(m)
                        with m.Else():
                            m.d.sync += [line.eq(current.entry_base), left.eq(current.entry_lines)]
                            m.next = "REQUEST"
                    with m.Case(Opcode.JUMP):
                        with m.If(reader.skips(missed, Const(0))):
                            reader.advance(m)
                        with m.Else():
                            reader.follow_jump(m, model)
                    with m.Default():
                        reader.advance(m)
            with m.State("REQUEST"):
                m.d.comb += self.bursts.valid.eq(has_room)
                with m.If(self.bursts.valid & self.bursts.ready & (left == self.bursts.payload.lines)):
                    reader.end_multiply(m)
            with m.State("OFF"):
                pass
        return m

    def _models(self, m, take):
        """The model of the last frame that was taken, and of the next. There are two buffers for frames."""
        model, into, out = Signal(self._config.model_bits), Signal(), Signal()
        if self._config.models == 1:
            return model, model
        held = [Signal.like(model, name=f"held{k}") for k in range(2)]
        with m.If(self.frame_complete):
            m.d.sync += [Array(held)[into].eq(self.frame_model), into.eq(~into)]
        with m.If(take):
            m.d.sync += [model.eq(Array(held)[out]), out.eq(~out)]
        return model, Array(held)[out]

    def _requests(self, m):
        """Cut an operation's lines into bursts that stay within their page, as far as there is room."""
        config = self._config
        longest = burst_lines(config)
        block = config.entry_depth // BLOCKS
        line = Signal(LINE_BITS)
        left = Signal(LINE_BITS)
        taken = Signal(bits_for(config.entry_depth))
        in_page = Signal(bits_for(longest))
        sent = self.bursts.valid & self.bursts.ready
        burst = self.bursts.payload
        m.d.comb += [
            in_page.eq(longest - line[:longest.bit_length() - 1]),
            burst.line.eq(line),
            burst.lines.eq(Mux(left < in_page, left, in_page)),
        ]
        with m.If(sent):
            m.d.sync += [line.eq(line + burst.lines), left.eq(left - burst.lines)]
        m.d.sync += taken.eq(taken + Mux(sent, burst.lines, 0) - Mux(self.released, block, 0))
        return line, left, taken <= config.entry_depth - longest


class StreamReader(wiring.Component):
    """Reads bursts of lines over AXI4, several at a time, and hands their lines on in order.

    All transfers have the same identifier, so they come back in order. There is always room for the lines that were
    asked for, so ``rready`` never falls. A burst ends with the line that was asked for last, whatever RLAST says. A
    line that comes with an error or a wrong RLAST stops the stream. The error and the number of the line stay until the
    next ``flush``.

    Latency: `delay` cycle from a burst to its address, and from a beat to its line. Cost: a register of one line,
    FIFOs of bursts and of `addresses` addresses.

    Attributes
    ----------
    most : int
        Bursts that may be outstanding.
    addresses : int
        Addresses that may wait for the memory.

    Members
    -------
    base : In(64) — byte address of line 0, a multiple of 4096.
    flush : In(1) — forget everything.
    idle : Out(1) — nothing is outstanding.
    bursts : In(stream(Burst)) — the lines to read.
    line : Out(stream_bits) — a line.
    line_valid : Out(1) — there is one.
    error : Out(3) — RRESP of the first read that failed, and above it whether RLAST was wrong; 0: none.
    error_line : Out(24) — number of its line.
    bus : Out(AXI4ReadSignature(stream_bits)) — the memory.
    """

    delay = 1
    #: Bursts that may be outstanding.
    most = 2 * BLOCKS - 1
    addresses = 2

    def __init__(self, config):
        self._config = config
        super().__init__({
            "base": In(64),
            "flush": In(1),
            "idle": Out(1),
            "bursts": In(stream.Signature(Burst(config))),
            "line": Out(config.stream_bits),
            "line_valid": Out(1),
            "error": Out(3),
            "error_line": Out(LINE_BITS),
            "bus": Out(AXI4ReadSignature(config.stream_bits)),
        })

    def elaborate(self, platform):
        m = Module()
        config = self._config
        m.submodules.asked = asked = Fifo(Burst(config), self.most + 1)
        size = (config.stream_bits // 8).bit_length() - 1
        bus = self.bus
        address = bus.ar.payload
        m.submodules.addresses = addresses = Fifo(data.StructLayout({"addr": 64, "len": 8}), self.addresses)
        accepts = Signal()
        beats = Signal(bits_for(burst_lines(config)))
        answered = bus.r.valid & bus.r.ready
        at_end = beats + 1 == asked.o.payload.lines
        last = answered & at_end
        error = Cat(bus.r.payload.resp, bus.r.payload.last != at_end)
        m.d.comb += [
            accepts.eq(~self.flush & (self.error == 0) & (addresses.level != self.addresses)
                       & (asked.level < self.most)),
            self.bursts.ready.eq(accepts),
            asked.i.eq(self.bursts.payload),
            asked.i_valid.eq(self.bursts.valid & accepts),
            asked.o.ready.eq(last),
            bus.r.ready.eq(1),
            addresses.i.addr.eq(self.base + Cat(*[0] * size, self.bursts.payload.line)),
            addresses.i.len.eq(self.bursts.payload.lines - 1),
            addresses.i_valid.eq(self.bursts.valid & accepts),
            bus.ar.valid.eq(addresses.o.valid),
            addresses.o.ready.eq(bus.ar.ready),
            address.addr.eq(addresses.o.payload.addr),
            address.len.eq(addresses.o.payload.len),
            address.size.eq(size),
            address.burst.eq(1),
            address.cache.eq(0b0011),
            self.idle.eq((asked.level == 0) & ~bus.ar.valid),
        ]
        m.d.sync += [
            self.line_valid.eq(answered & ~self.flush & (self.error == 0) & (error == 0)),
            self.line.eq(bus.r.payload.data),
        ]
        with m.If(answered):
            m.d.sync += beats.eq(Mux(last, 0, beats + 1))
            with m.If((self.error == 0) & (error != 0) & ~self.flush):
                m.d.sync += [self.error.eq(error), self.error_line.eq(asked.o.payload.line + beats)]
        with m.If(self.flush):
            m.d.sync += [self.error.eq(0), self.error_line.eq(0)]
        return m
