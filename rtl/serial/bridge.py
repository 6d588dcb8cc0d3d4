# SPDX-License-Identifier: Apache-2.0
"""The machine's end of the serial link: packets become register accesses and frames."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.crc import catalog
from amaranth.lib.wiring import In, Out

from openese.rtl.axi import OKAY, AXI4LiteSignature
from openese.rtl.frames import Beats, beat_bytes
from openese.rtl.serial.packets import DEPTH, END, ESCAPE, ESCAPED_END, ESCAPED_ESCAPE, PROTOCOL, Kind

__all__ = ["Header", "PacketReceiver", "PacketTransmitter", "SerialBridge"]


class Header(data.StructLayout):
    """First word of a packet.

    Fields
    ------
    kind : 8 — a `Kind`.
    sequence : 8 — number of the request.
    words : 16 — words of payload.
    """

    def __init__(self):
        super().__init__({"kind": 8, "sequence": 8, "words": 16})


class PacketReceiver(wiring.Component):
    """Finds packets among bytes, and keeps a packet that is complete and correct.

    Invalid packets are ignored: the sender will miss the answer. Bytes that come while a packet is kept are ignored
    too, up to the next `END`.

    Latency: 2 cycles from a packet's last byte. Cost: one memory of `DEPTH` words, a CRC-32, some 90 registers.

    Members
    -------
    i : In(8) — a byte from the line.
    i_valid : In(1) — there is one; at least 2 cycles apart.
    header : Out(Header) — header of the packet that is kept.
    valid : Out(1) — a packet is kept.
    release : In(1) — drop it.
    address : In(range(DEPTH)) — word of its payload.
    data : Out(32) — that word, two cycles later.
    """

    def __init__(self):
        super().__init__({
            "i": In(8),
            "i_valid": In(1),
            "header": Out(Header()),
            "valid": Out(1),
            "release": In(1),
            "address": In(range(DEPTH)),
            "data": Out(32),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.crc = crc = catalog.CRC32_ISO_HDLC(data_width=8).create()
        m.submodules.payload = payload = memory.Memory(shape=32, depth=DEPTH, init=[])
        write = payload.write_port()
        read = payload.read_port()
        escaped = Signal()
        byte = Signal(8)
        byte_valid = Signal()
        count = Signal(2)  # bytes of a word
        words = Signal(range(DEPTH + 3))
        word = Signal(32, reset_less=True)
        m.d.comb += [
            crc.data.eq(byte),
            crc.valid.eq(byte_valid),
            write.addr.eq(words - 1),
            write.data.eq(Cat(word[8:], byte)),
            write.en.eq(byte_valid & (count == 3) & (words != 0) & (words <= DEPTH)),
            read.addr.eq(self.address),
            read.en.eq(1),
            byte.eq(self.i),
        ]
        m.d.sync += self.data.eq(read.data)  # the memory's output register
        with m.If(escaped):
            m.d.comb += byte.eq(Mux(self.i == ESCAPED_END, END, ESCAPE))
        with m.If(byte_valid):
            m.d.sync += [word.eq(Cat(word[8:], byte)), count.eq(count + 1)]
            with m.If(count == 3):
                m.d.sync += words.eq(words + 1)
                with m.If(words == 0):
                    m.d.sync += self.header.eq(Cat(word[8:], byte))

        def begin():
            m.d.comb += crc.start.eq(1)
            m.d.sync += [count.eq(0), words.eq(0), escaped.eq(0)]
            m.next = "PACKET"

        whole = (count == 0) & (words == self.header.words + 2) & crc.match_detected
        with m.FSM():
            with m.State("LOST"):
                with m.If(self.i_valid & (self.i == END)):
                    begin()
            with m.State("PACKET"):
                with m.If(self.i_valid):
                    with m.If(self.i == END):
                        with m.If((words != 0) & whole):
                            m.d.sync += self.valid.eq(1)
                            m.next = "KEPT"
                        with m.Else():
                            begin()
                    with m.Elif(escaped & (self.i != ESCAPED_END) & (self.i != ESCAPED_ESCAPE)):
                        m.next = "LOST"
                    with m.Elif(~escaped & (self.i == ESCAPE)):
                        m.d.sync += escaped.eq(1)
                    with m.Else():
                        m.d.comb += byte_valid.eq(1)
                        m.d.sync += escaped.eq(0)
                        with m.If(words == DEPTH + 2):
                            m.next = "LOST"
            with m.State("KEPT"):
                with m.If(self.release):
                    m.d.sync += self.valid.eq(0)
                    m.next = "LOST"
        return m


class PacketTransmitter(wiring.Component):
    """Sends packets: the given header, and the payload written before.

    A packet can be sent again: the payload stays until it is overwritten.

    Latency: 2 cycles from ``start`` to the first byte. Cost: one memory of `DEPTH` words, a CRC-32, some 90 registers.

    Members
    -------
    start : In(1) — send a packet; only while not ``busy``.
    header : In(Header) — its header.
    busy : Out(1) — a packet is being sent.
    address : In(range(DEPTH)) — word of the payload.
    data : In(32) — its value.
    write : In(1) — write it.
    o : Out(stream(8)) — bytes to the line.
    """

    def __init__(self):
        super().__init__({
            "start": In(1),
            "header": In(Header()),
            "busy": Out(1),
            "address": In(range(DEPTH)),
            "data": In(32),
            "write": In(1),
            "o": Out(stream.Signature(8)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.crc = crc = catalog.CRC32_ISO_HDLC(data_width=8).create()
        m.submodules.payload = payload = memory.Memory(shape=32, depth=DEPTH, init=[])
        write = payload.write_port()
        read = payload.read_port()
        left = Signal(range(DEPTH + 1))
        following = Signal(range(DEPTH + 1))
        word = Signal(32)
        count = Signal(2)
        summed = Signal()  # the word is the CRC
        second = Signal()  # of two bytes that stand for one
        byte = word[:8]
        special = (byte == END) | (byte == ESCAPE)
        sent = self.o.valid & self.o.ready
        m.d.comb += [
            write.addr.eq(self.address),
            write.data.eq(self.data),
            write.en.eq(self.write),
            read.addr.eq(following),
            read.en.eq(1),
            crc.data.eq(byte),
        ]
        with m.FSM() as fsm:
            with m.State("IDLE"):
                with m.If(self.start):
                    m.d.comb += crc.start.eq(1)
                    m.d.sync += [word.eq(self.header), left.eq(self.header.words), following.eq(0), summed.eq(0)]
                    m.next = "BEGIN"
            with m.State("BEGIN"):
                m.d.comb += [self.o.valid.eq(1), self.o.payload.eq(END)]
                with m.If(sent):
                    m.next = "WORD"
            with m.State("WORD"):
                m.d.comb += [self.o.valid.eq(1), self.o.payload.eq(byte)]
                with m.If(second):
                    m.d.comb += self.o.payload.eq(Mux(byte == END, ESCAPED_END, ESCAPED_ESCAPE))
                with m.Elif(special):
                    m.d.comb += self.o.payload.eq(ESCAPE)
                with m.If(sent):
                    m.d.sync += second.eq(special & ~second)
                    with m.If(~special | second):
                        m.d.comb += crc.valid.eq(~summed)
                        m.d.sync += [word.eq(word >> 8), count.eq(count + 1)]
                        with m.If(count == 3):
                            m.next = "NEXT"
            with m.State("NEXT"):
                m.d.sync += [word.eq(read.data), following.eq(following + 1), left.eq(left - 1)]
                m.next = "WORD"
                with m.If(summed):
                    m.next = "END"
                with m.Elif(left == 0):
                    m.d.sync += [word.eq(crc.crc), summed.eq(1)]
            with m.State("END"):
                m.d.comb += [self.o.valid.eq(1), self.o.payload.eq(END)]
                with m.If(sent):
                    m.next = "IDLE"
        m.d.comb += self.busy.eq(~fsm.ongoing("IDLE"))
        return m


class SerialBridge(wiring.Component):
    """Carries out the requests of a serial link, one after another, and answers each.

    A request with the number of the request before is a repetition, because its answer was lost. The bridge sends the
    answer again and does nothing twice. HELLO begins anew, whatever its number.

    - HELLO: answers protocol version, `DEPTH`, and 32-bit words of a beat, in one word.
    - REGISTERS: commands of (bit 31: write; 30..16: times less one; 11..0: byte address). Behind a write come its
      words, all for the same address. Answers the number of accesses that were refused (15..0) and the place of the
      first such command (31..16), then the values read.
    - FRAMES: a word (bit 31: the last beat has TLAST; 15..0: beats wanted), then beats. Answers a word (bit 31: the
      last beat has TLAST; 30: a frame is part-way in; 29..16: beats that follow; 15..0: beats that were taken), then
      beats. It is over when all beats are in and as many out as were wanted, or a frame's last is out, or the answer is
      full, or nothing has moved for ``patience`` cycles.

    `openese.rtl.serial.packets` is the model of the bytes on the line.

    Latency: 4 cycles from a request to its first access, 3 to 6 for each. Cost: the two packet blocks; a register of
    one beat each way.

    Members
    -------
    i : In(8) — a byte from the line.
    i_valid : In(1) — there is one.
    o : Out(stream(8)) — bytes to the line.
    bus : Out(AXI4LiteSignature(12)) — the machine's registers.
    frames : Out(Beats) — frames into the machine.
    results : In(Beats) — frames out of it.
    """

    def __init__(self, config, *, patience=1 << 16):
        self._config = config
        self._patience = patience
        self.beat_words = -(-beat_bytes(config) // 4)
        super().__init__({
            "i": In(8),
            "i_valid": In(1),
            "o": Out(stream.Signature(8)),
            "bus": Out(AXI4LiteSignature(12)),
            "frames": Out(Beats(config)),
            "results": In(Beats(config)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.receiver = receiver = PacketReceiver()
        m.submodules.transmitter = transmitter = PacketTransmitter()
        wiring.connect(m, transmitter.o, wiring.flipped(self.o))
        request = receiver.header
        answer = Signal(Header())
        seen = Signal()
        place = Signal(range(DEPTH + 1))  # in the request's payload
        at_end = place == request.words
        m.d.comb += [
            receiver.i.eq(self.i),
            receiver.i_valid.eq(self.i_valid),
            receiver.address.eq(place),
            transmitter.header.eq(answer),
            transmitter.address.eq(answer.words),
        ]

        def put(word):
            """The next word of the answer."""
            m.d.comb += [transmitter.data.eq(word), transmitter.write.eq(1)]
            m.d.sync += answer.words.eq(answer.words + 1)

        summary = Signal(32)
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += place.eq(0)
                with m.If(receiver.valid):
                    m.next = "BEGIN"
                    with m.If(seen & (request.sequence == answer.sequence) & (request.kind != Kind.HELLO)):
                        m.next = "ANSWER"
            with m.State("BEGIN"):
                m.d.sync += [seen.eq(1), answer.sequence.eq(request.sequence), answer.words.eq(1), summary.eq(0),
                             answer.kind.eq(request.kind | Kind.ANSWER)]
                with m.Switch(request.kind):
                    with m.Case(Kind.HELLO):
                        m.d.sync += summary.eq(PROTOCOL | self.beat_words << 8 | DEPTH << 16)
                        m.next = "SUMMARY"
                    with m.Case(Kind.REGISTERS):
                        m.next = "FETCH"
                    with m.Case(Kind.FRAMES):
                        m.next = "FRAMES"
                    with m.Default():
                        m.d.sync += [answer.kind.eq(Kind.REFUSED), answer.words.eq(0)]
                        m.next = "ANSWER"
            self._registers(m, receiver.data, place, at_end, answer, summary, put)
            self._frames(m, receiver.data, place, request.words, answer, summary, put)
            with m.State("SUMMARY"):
                m.d.comb += [transmitter.address.eq(0), transmitter.data.eq(summary), transmitter.write.eq(1)]
                m.next = "ANSWER"
            with m.State("ANSWER"):
                m.d.comb += transmitter.start.eq(1)
                m.next = "SEND"
            with m.State("SEND"):
                with m.If(~transmitter.busy):
                    m.d.comb += receiver.release.eq(1)
                    m.next = "RELEASE"
            with m.State("RELEASE"):
                m.next = "IDLE"
        return m

    def _registers(self, m, word, place, at_end, answer, summary, put):
        """REGISTERS: command after command."""
        bus = self.bus
        times = Signal(15)
        address = Signal(12)
        command = Signal.like(place)
        value = Signal(32)
        owed = Signal(2)  # address and data still to be taken
        refused, first = summary[:16], summary[16:]

        def judge(resp):
            with m.If(resp != OKAY):
                m.d.sync += refused.eq(refused + 1)
                with m.If(refused == 0):
                    m.d.sync += first.eq(command)

        def again(state):
            m.d.sync += times.eq(times - 1)
            m.next = state
            with m.If(times == 0):
                m.next = "FETCH"

        m.d.comb += [
            bus.aw.payload.addr.eq(address),
            bus.ar.payload.addr.eq(address),
            bus.w.payload.data.eq(value),
            bus.w.payload.strb.eq(0b1111),
        ]
        with m.State("FETCH"):
            m.next = "FETCHED"
            with m.If(at_end):
                m.next = "SUMMARY"
        with m.State("FETCHED"):
            m.next = "COMMAND"
        with m.State("COMMAND"):
            m.d.sync += [address.eq(word), times.eq(word[16:31]), command.eq(place), place.eq(place + 1)]
            m.next = "READ"
            with m.If(word[31]):
                m.next = "FETCH_VALUE"
        with m.State("FETCH_VALUE"):
            m.next = "FETCHED_VALUE"
            with m.If(at_end):
                m.next = "SUMMARY"
        with m.State("FETCHED_VALUE"):
            m.next = "VALUE"
        with m.State("VALUE"):
            m.d.sync += [value.eq(word), place.eq(place + 1), owed.eq(0b11)]
            m.next = "WRITE"
        with m.State("WRITE"):
            m.d.comb += [bus.aw.valid.eq(owed[0]), bus.w.valid.eq(owed[1]), bus.b.ready.eq(owed == 0)]
            m.d.sync += owed.eq(owed & ~Cat(bus.aw.ready, bus.w.ready))
            with m.If(bus.b.valid & bus.b.ready):
                judge(bus.b.payload)
                again("FETCH_VALUE")
        with m.State("READ"):
            m.d.comb += bus.ar.valid.eq(1)
            with m.If(bus.ar.ready):
                m.next = "READ_DATA"
        with m.State("READ_DATA"):
            m.d.comb += bus.r.ready.eq(1)
            with m.If(bus.r.valid):
                judge(bus.r.payload.resp)
                with m.If(answer.words != DEPTH):
                    put(bus.r.payload.data)
                again("READ")

    def _frames(self, m, word, place, total, answer, summary, put):
        """FRAMES: beats in and out, until nothing moves."""
        words = self.beat_words
        bits = len(self.frames.payload.data)
        offered, last_in, wanted = Signal(32 * words), Signal(), Signal(16)
        taken, given, midway = Signal(16), Signal(14), Signal()
        part_in, part_out = Signal(range(words + 1)), Signal(range(words + 1))
        fetched = Signal(range(3))  # cycles since the address of a word was there
        found, ended = Signal(32 * words), Signal()
        quiet = Signal(range(self._patience))
        exchanging, moves = Signal(), Signal()
        at_end = place == total
        room = Signal()  # for a beat in the answer; right whenever no beat is on its way there
        satisfied = (given >= wanted) | ended | ~room
        m.d.comb += [
            self.frames.payload.data.eq(offered[:bits]),
            self.results.ready.eq(exchanging & room & ~ended & (part_out == 0)),
            moves.eq((self.frames.valid & self.frames.ready) | (self.results.valid & self.results.ready)),
        ]
        m.d.sync += room.eq(given < (DEPTH - 1) // words)
        # A beat that is offered stays so, whatever else happens.
        m.d.sync += self.frames.valid.eq(self.frames.valid & ~self.frames.ready)
        with m.State("FRAMES"):
            m.next = "FRAMES_FETCHED"
        with m.State("FRAMES_FETCHED"):
            m.next = "EXCHANGE_BEGIN"
        with m.State("EXCHANGE_BEGIN"):
            m.d.sync += [last_in.eq(word[31]), wanted.eq(word), place.eq(1), taken.eq(0), given.eq(0), ended.eq(0),
                         fetched.eq(0), part_in.eq(0), room.eq(1), quiet.eq(self._patience - 1)]
            m.next = "EXCHANGE"
        with m.State("EXCHANGE"):
            m.d.comb += exchanging.eq(1)
            m.d.sync += quiet.eq(Mux(moves, self._patience - 1, quiet - (quiet != 0)))
            with m.If(~self.frames.valid & ~at_end):
                m.d.sync += fetched.eq(fetched + 1)
                with m.If(fetched == 2):
                    m.d.sync += [offered.eq(Cat(offered, word)[32:]), part_in.eq(part_in + 1), place.eq(place + 1),
                                 fetched.eq(0)]
                    with m.If(part_in == words - 1):
                        m.d.sync += [part_in.eq(0), self.frames.valid.eq(1), taken.eq(taken + 1)]
                        ends = last_in & (place + 1 == total)
                        m.d.sync += [self.frames.payload.last.eq(ends), midway.eq(~ends)]
            with m.If(self.results.valid & self.results.ready):
                m.d.sync += [found.eq(self.results.payload.data), ended.eq(self.results.payload.last),
                             part_out.eq(words), given.eq(given + 1)]
            with m.Elif(part_out != 0):
                put(found[:32])
                m.d.sync += [found.eq(found >> 32), part_out.eq(part_out - 1)]
            with m.Elif((at_end & satisfied) | (quiet == 0)):
                m.d.sync += summary.eq(Cat(taken, given, midway, ended))
                m.next = "SUMMARY"
