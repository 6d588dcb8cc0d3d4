# SPDX-License-Identifier: Apache-2.0
"""Frames in and out: columns of activations, as many a beat as the memory has banks, behind a header that names the
voices.
"""

import numpy as np
from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from openese.rtl.attributes import fanout
from openese.rtl.bundles import FramePort, ValidPort
from openese.rtl.config import BANK_SHIFT, MODEL_SHIFT, bits_for
from openese.rtl.elementwise.shared import delayed
from openese.rtl.fifo import Fifo
from openese.rtl.interfaces import activations
from openese.rtl.spmat_read import column_lead
from openese.rtl.vector_memory import VectorMemory, lines_of

__all__ = ["BANK_SHIFT", "MODEL_SHIFT", "Beats", "FrameBeat", "FrameGuard", "FrameInput", "FrameOutput", "beat_bytes",
           "frame_beats", "pack_beats", "pack_frames", "unpack_beats", "unpack_frames"]


def beat_bytes(config):
    """Bytes of a beat: ``beat_columns * channels`` words of ``activation_bits``, side by side without gaps, in whole
    bytes.
    """
    return -(-config.beat_columns * config.channels * config.activation_bits // 8)


def frame_beats(config, columns):
    """Beats of a frame of ``columns`` columns, with its header."""
    return 1 + -(-columns // config.beat_columns)


def FrameBeat(config):
    """A beat of a frame: ``beat_columns`` columns of activations.

    With N channels, ``data`` has channel c of the beat's column k in bits ``activation_bits * (k * N + c)`` and up;
    bits above the last word are zero. ``last`` marks the last beat of a frame. In this beat, the words behind the
    frame's last column are ignored on the way in and zero on the way out.

    The first beat is the header, in the words of column 0; the other words are as behind the last column. Bit 0 of a
    channel says that the voice is active in this step; bit 1, on the way in, that it starts anew. Bits 2 to 7 of the
    first channel number the bank of voices. On a machine that holds several models, bits 8 and up of the first channel
    number the model. `pack_frames` and `unpack_frames` are the host's side.
    """
    return data.StructLayout({"data": 8 * beat_bytes(config), "last": 1})


def Beats(config):
    """AXI4-Stream beats; see `FrameBeat`."""
    return stream.Signature(FrameBeat(config))


def pack_beats(config, words):
    """Beats for the words of a beat.

    Parameters
    ----------
    config : Config
    words : integers (..., beat_columns * channels)
        Activations or headers; their lowest ``activation_bits`` count.

    Returns
    -------
    uint8 (..., beat_bytes)
        ``data`` of each beat, lowest byte first.
    """
    values = (np.asarray(words).astype(np.int64) & ((1 << config.activation_bits) - 1)).astype(np.uint64)
    size = beat_bytes(config)
    lines = np.zeros((*values.shape[:-1], size // 4 + 2), np.uint64)  # 32 bits each, and what reaches into the next
    for word in range(config.beat_columns * config.channels):
        place, shift = divmod(word * config.activation_bits, 32)
        lines[..., place] |= values[..., word] << np.uint64(shift)
    lines[..., 1:] |= lines[..., :-1] >> np.uint64(32)
    return lines.astype("<u4").view(np.uint8)[..., :size]


def unpack_beats(config, beats):
    """The words of beats: the inverse of `pack_beats`.

    Parameters
    ----------
    config : Config
    beats : uint8 (..., at least beat_bytes)

    Returns
    -------
    int32 (..., beat_columns * channels)
        Signed.
    """
    size = beat_bytes(config)
    padded = np.zeros((*np.shape(beats)[:-1], 4 * (size // 4 + 2)), np.uint8)
    padded[..., :size] = beats[..., :size]
    lines = padded.view("<u4").astype(np.uint64)
    pairs = lines[..., :-1] | lines[..., 1:] << np.uint64(32)
    bits = config.activation_bits
    words = np.empty((*pairs.shape[:-1], config.beat_columns * config.channels), np.int32)
    for word in range(words.shape[-1]):
        place, shift = divmod(word * bits, 32)
        words[..., word] = (pairs[..., place] >> np.uint64(shift)) & np.uint64((1 << bits) - 1)
    return words - (words >> (bits - 1) << bits)


def pack_frames(config, header, columns):
    """Beats of frames.

    Parameters
    ----------
    config : Config
    header : integers (..., channels)
        Per channel: bit 0 active, bit 1 reset.
    columns : integers (..., I, channels)
        Activations.

    Returns
    -------
    uint8 (..., frame_beats, beat_bytes)
    """
    header, columns = np.asarray(header), np.asarray(columns)
    count, channels = columns.shape[-2:]
    beats = frame_beats(config, count)
    words = np.zeros((*header.shape[:-1], beats * config.beat_columns, channels), np.int64)
    words[..., 0, :] = header
    words[..., config.beat_columns:config.beat_columns + count, :] = columns
    return pack_beats(config, words.reshape(*header.shape[:-1], beats, config.beat_columns * channels))


def unpack_frames(config, beats, columns):
    """Headers and columns of frames: the inverse of `pack_frames`.

    Parameters
    ----------
    config : Config
    beats : uint8 (..., frame_beats, at least beat_bytes)
    columns : int
        Columns of a frame, P.

    Returns
    -------
    header : int32 (..., channels)
    columns : int32 (..., P, channels)
    """
    words = unpack_beats(config, beats)
    words = words.reshape(*words.shape[:-2], words.shape[-2] * words.shape[-1] // config.channels, config.channels)
    return words[..., 0, :], words[..., config.beat_columns:config.beat_columns + columns, :]


def _beats_of(config, count):
    """The beats for ``count`` columns, as hardware."""
    return (count + (config.beat_columns - 1)) >> (config.beat_columns.bit_length() - 1)


class FrameInput(wiring.Component):
    """Takes frames into two buffers of the vector memory.

    A frame whose ``last`` is not on its last beat, or whose bank or model is not there, is dropped as a whole and
    reported. The next frame is taken from the beat behind the dropped frame's ``last``.

    If no frame is complete, one may be taken while it comes in. Its columns are read as ``lines_done`` tells. If its
    length proves wrong, it is ``broken`` until ``drop``; it has no buffer then, and needs no release.

    Latency: none; a beat is written in the cycle in which it is accepted. Cost: a header and a count.

    Members
    -------
    beats : In(Beats) — the frames. Not ready while both buffers are full, or while ``hold`` is set.
    format : In(1) — take ``count`` and ``bases``.
    index : In(model_bits) — the model whose ``count`` it is. The last model's comes last. Only if the machine holds
        several models, as ``models``, ``complete_model`` and ``model``.
    models : In(bits_for(models)) — models.
    count : In(bits_for(vector_depth)) — columns of a frame.
    bases : In(line_bits).array(2) — first lines of the two buffers.
    banks : In(bits_for(banks)) — banks of voices. Only if the machine has several, as ``bank``.
    hold : In(1) — the write port is taken.
    midway : In(1) — on leaving reset: a frame is under way; drop its rest.
    complete : Out(1) — pulses when a frame has come in as a whole.
    complete_model : Out(model_bits) — its model.
    ready : Out(1) — there is a complete frame.
    coming : Out(1) — there is none, but a frame is coming in. It can be taken like one that is complete.
    partial : Out(1) — the frame that was taken is still coming in.
    broken : Out(1) — it came to an end with the wrong length.
    lines_done : Out(line_bits + 1) — its lines that can be read two cycles later; all if it is not ``partial``.
    buffer : Out(1) — the buffer that the oldest one lies in.
    active : Out(channels) — voices that are active in it.
    reset : Out(channels) — voices that start anew with it.
    bank : Out(bank_bits) — their bank.
    model : Out(model_bits) — their model.
    take : In(1) — take it; the next frame becomes the oldest.
    release : In(1) — free the buffer of the frame taken before.
    drop : In(1) — forget the frame that is ``broken``.
    short : Out(1) — a frame was dropped because it was too short.
    long : Out(1) — a frame was dropped because it was too long.
    wrong_bank : Out(1) — a frame was dropped because its bank or model is not there.
    write_valid : Out(1) — write the columns of a beat to the vector memory.
    write_line : Out(line_bits) — their line, or the first of them.
    write_bank : Out(write_columns) — their banks.
    write_columns : Out(array(beat_columns, activations)) — the columns; column k is for bank k modulo ``beat_columns``.
    """

    def __init__(self, config):
        self._config = config
        line = config.line_bits
        super().__init__({
            "beats": In(Beats(config)),
            "format": In(1),
            **({"index": In(config.model_bits), "models": In(bits_for(config.models))} if config.models > 1 else {}),
            "count": In(bits_for(config.vector_depth)),
            "bases": In(line).array(2),
            **({"banks": In(bits_for(config.banks))} if config.banks > 1 else {}),
            "hold": In(1),
            "midway": In(1),
            "complete": Out(1),
            **({"complete_model": Out(config.model_bits)} if config.models > 1 else {}),
            **FramePort(config).ports(),
            "lines_done": Out(line + 1),
            "short": Out(1),
            "long": Out(1),
            "wrong_bank": Out(1),
            "write_valid": Out(1),
            "write_line": Out(line),
            "write_bank": Out(config.write_columns),
            "write_columns": Out(data.ArrayLayout(activations(config), config.beat_columns)),
        })

    def elaborate(self, platform):
        m = Module()
        config = self._config
        counts = [Signal.like(self.count, name="count" if config.models == 1 else f"count{k}")
                  for k in range(config.models)]
        count = counts[0] if config.models == 1 else Signal.like(self.count)
        bases = [Signal.like(base, name=f"base{k}") for k, base in enumerate(self.bases)]
        formatted = Signal()
        index = Signal.like(self.count)
        fill, oldest = Signal(), Signal()
        complete, occupied = Signal(2), Signal(2)
        finished, fails = Signal(), Signal()
        # A frame is taken while it comes in; and until it is complete or dropped.
        early, claimed = Signal(), Signal(name="_claimed")
        active = [Signal(config.channels, name=f"active{k}") for k in range(2)]
        reset = [Signal(config.channels, name=f"reset{k}") for k in range(2)]
        bank = [Signal(config.bank_bits, name=f"bank{k}") for k in range(2)]
        model = [Signal(config.model_bits, name=f"model{k}") for k in range(2)]
        named, known = self._bank(m)
        if config.models > 1:
            named_model, known_model = self._model(m)
            known &= known_model
        # With `forward` the last columns are read so much later.
        released = delayed(m, self.release, column_lead(config), reset_less=False)
        word = self.beats.payload.data
        accepted = self.beats.valid & self.beats.ready
        parts = config.write_columns // config.beat_columns  # beats for all banks
        part_bits = (parts - 1).bit_length()
        written = lines_of(config, (index + self.write_valid)[part_bits:])
        with m.If(self.format):
            if config.models == 1:
                m.d.sync += [count.eq(_beats_of(config, self.count)), formatted.eq(1)]
            else:
                m.d.sync += [Array(counts)[self.index].eq(_beats_of(config, self.count)),
                             formatted.eq(self.index + 1 == self.models)]
            m.d.sync += [base.eq(value) for base, value in zip(bases, self.bases, strict=True)]

        m.d.comb += [
            self.complete.eq(finished),
            self.ready.eq(complete != 0),
            early.eq(self.take & (complete == 0)),
            self.partial.eq(claimed),
            self.lines_done.eq(Mux(claimed, written, ~Const(0, len(self.lines_done)))),
            self.buffer.eq(oldest),
            self.active.eq(Mux(oldest, active[1], active[0])),
            self.reset.eq(Mux(oldest, reset[1], reset[0])),
            *([self.bank.eq(Mux(oldest, bank[1], bank[0]))] if config.banks > 1 else []),
            *([self.model.eq(Mux(oldest, model[1], model[0])), self.complete_model.eq(Mux(fill, model[1], model[0]))]
              if config.models > 1 else []),
            self.write_line.eq(Mux(fill, bases[1], bases[0]) + lines_of(config, index[part_bits:])),
            self.write_bank.eq(Cat((index[:part_bits] == part).replicate(config.beat_columns)
                                   for part in range(parts))),
            self.write_columns.eq(word),
        ]
        m.d.sync += [
            claimed.eq((claimed | early) & ~finished & ~fails),
            self.broken.eq((self.broken & ~self.drop) | ((claimed | early) & fails)),
            complete.eq(complete + (finished & ~(claimed | early)) - (self.take & ~early)),
            occupied.eq(occupied + finished - released),
            oldest.eq(oldest ^ self.take ^ self.drop),
            fill.eq(fill ^ finished),
        ]
        with m.FSM() as fsm:
            with m.State("START"):
                m.next = "HEADER"
                with m.If(self.midway):
                    m.next = "DISCARD"
            with m.State("HEADER"):
                m.d.comb += self.beats.ready.eq(formatted & (occupied != 2))
                with m.If(accepted):
                    m.d.sync += index.eq(0)
                    self._voices(m, fill, active, reset)
                    if config.banks > 1:
                        m.d.sync += Array(bank)[fill].eq(named)
                    if config.models > 1:
                        m.d.sync += [Array(model)[fill].eq(named_model), count.eq(Array(counts)[named_model])]
                    m.d.comb += self.short.eq(self.beats.payload.last)
                    with m.If(~self.beats.payload.last):
                        m.next = "COLUMNS"
                        with m.If(~known):
                            m.d.comb += self.wrong_bank.eq(1)
                            m.next = "DISCARD"
            with m.State("COLUMNS"):
                m.d.comb += [self.beats.ready.eq(~self.hold), self.write_valid.eq(accepted)]
                with m.If(accepted):
                    m.d.sync += index.eq(index + 1)
                    self._beat(m, index + 1 == count, finished, fails)
            with m.State("DISCARD"):
                m.d.comb += self.beats.ready.eq(1)
                with m.If(accepted & self.beats.payload.last):
                    m.next = "HEADER"
        m.d.comb += self.coming.eq(fsm.ongoing("COLUMNS") & (complete == 0) & ~claimed & ~self.broken)
        return m

    def _bank(self, m):
        """The bank that a header names, and whether the model has it."""
        named = self.beats.payload.data[BANK_SHIFT:8]
        if self._config.banks == 1:
            return named, named == 0
        banks = Signal.like(self.banks)
        with m.If(self.format):
            m.d.sync += banks.eq(self.banks)
        return named, named < banks

    def _model(self, m):
        """The model that a header names, and whether there is one."""
        named = self.beats.payload.data[MODEL_SHIFT:self._config.activation_bits]
        models = Signal.like(self.models)
        with m.If(self.format):
            m.d.sync += models.eq(self.models)
        return named, named < models

    def _voices(self, m, fill, active, reset):
        """Keep the header's flags with the buffer that the frame goes to."""
        channels, bits = range(self._config.channels), self._config.activation_bits
        flags = self.beats.payload.data.word_select
        for buffer in range(2):
            with m.If(fill == buffer):
                m.d.sync += [
                    active[buffer].eq(Cat(flags(c, bits)[0] for c in channels)),
                    reset[buffer].eq(Cat(flags(c, bits)[1] for c in channels)),
                ]

    def _beat(self, m, at_end, finished, fails):
        """A beat was taken, the last that fits if ``at_end``: is the frame of the right length?"""
        last = self.beats.payload.last
        m.d.comb += [
            finished.eq(at_end & last),
            fails.eq(at_end ^ last),
            self.short.eq(~at_end & last),
            self.long.eq(at_end & ~last),
        ]
        with m.If(last):
            m.next = "HEADER"
        with m.Elif(at_end):
            m.next = "DISCARD"


class FrameOutput(wiring.Component):
    """Sends columns of the vector memory as one frame, in the cycles in which the broadcast leaves the read port free.

    It begins before the columns are complete. The columns that are being written are taken on their way into the memory
    if they are the next to be sent, and fill a beat; others are read once they are written.

    Latency: `write_delay` cycle from a write, or `delay` cycles from a read, to the beat. Cost: a register of one beat.
    It is cleared for voices that are away, which takes no LUTs.

    Members
    -------
    beat : Out(FrameBeat) — a beat of the frames.
    beat_valid : Out(1) — there is one.
    level : In(bits_for(FrameGuard.depth)) — beats that wait in the queue of `FrameGuard`.
    start : In(1) — take ``count``, ``src_base`` and ``active``; only while not ``busy``.
    count : In(bits_for(vector_depth)) — columns of the frame.
    src_base : In(line_bits) — line of the first column.
    active : In(channels) — voices in the frame. The others get zeros.
    bank : In(bank_bits) — their bank, for the header. Only if the machine has several.
    model : In(model_bits) — their model, for the header. Only if the machine holds several.
    complete : In(1) — all columns are written.
    lines_done : In(line_bits + 1) — lines of the frame that are written. It counts until ``complete``.
    write_valid : In(1) — the next of them, `Config.write_lines`, are being written, if they are not complete.
    write_columns : In(array(write_columns, activations)) — their columns.
    busy : Out(1) — columns are still to be read.
    read_line : Out(line_bits) — line to read.
    read_grant : In(1) — the read port is free.
    columns : In(array(write_columns, activations)) — the columns read; see `VectorMemory`.
    """

    write_delay = 1
    delay = VectorMemory.delay + write_delay

    def __init__(self, config):
        self._config = config
        line = config.line_bits
        super().__init__({
            **ValidPort(FrameBeat(config)).ports("beat"),
            "level": In(bits_for(FrameGuard.depth)),
            "start": In(1),
            "count": In(bits_for(config.vector_depth)),
            "src_base": In(line),
            "active": In(config.channels),
            **({"bank": In(config.bank_bits)} if config.banks > 1 else {}),
            **({"model": In(config.model_bits)} if config.models > 1 else {}),
            "complete": In(1),
            "lines_done": In(line + 1),
            "write_valid": In(1),
            "write_columns": In(data.ArrayLayout(activations(config), config.write_columns)),
            "busy": Out(1),
            "read_line": Out(line),
            "read_grant": In(1),
            "columns": In(data.ArrayLayout(activations(config), config.write_columns)),
        })

    def elaborate(self, platform):
        m = Module()
        config = self._config
        delay = VectorMemory.delay
        width = config.beat_columns
        parts = config.write_columns // width  # beats of a read
        part_bits = (parts - 1).bit_length()
        left = Signal.like(self.count)
        index = Signal.like(self.count)
        rest = Signal(range(width))  # columns of the last beat; 0: all
        base = Signal.like(self.src_base)
        active = Signal(config.channels)
        bank = Signal(config.bank_bits)
        model = Signal(config.model_bits)
        complete = Signal(name="_complete")
        final = Signal()  # one beat is left
        written, follows = Signal(), Signal()
        read, take = Signal(), Signal()
        reads = Signal(delay, attrs=fanout(128))
        lasts = Signal(delay)
        places = [Signal(max(1, part_bits), name=f"place{k}") for k in range(delay)]  # within the line
        header = Signal()
        landed = Signal(self.beat.shape(), reset_less=True)
        # A place is left for the end of a frame that is cut.
        line = lines_of(config, index[part_bits:])
        room = self.level + sum(reads) + header + self.beat_valid < FrameGuard.depth - 1
        m.d.comb += [
            self.read_line.eq(base + line),
            written.eq(complete | (line < self.lines_done)),
            follows.eq(self.write_valid & ~complete & (line == self.lines_done) & (reads == 0) & ~header
                       if parts == 1 else 0),
            self.beat.eq(landed),
        ]
        last = Mux(reads[-1], lasts[-1], final)
        for column in range(width):
            read_columns = Array(self.columns[part * width + column] for part in range(parts))
            found = read_columns[places[-1]] if part_bits else read_columns[0]
            absent = last & (rest != 0)
            if column < width - 1:  # else it is always so
                absent &= rest <= column
            for channel in range(config.channels):
                beat = landed.data.word_select(column * config.channels + channel, config.activation_bits)
                flags = active[channel] if column == 0 else 0
                if (column, channel) == (0, 0) and config.banks * config.models > 1:
                    flags = Cat(flags, Const(0, BANK_SHIFT - 1), bank)
                    if config.models > 1:
                        flags = Cat(flags, Const(0, MODEL_SHIFT - len(flags)), model)
                with m.If(header | ~active[channel] | absent):
                    m.d.sync += beat.eq(Mux(header, flags, 0))
                with m.Else():
                    m.d.sync += beat.eq(Mux(reads[-1], found[channel], self.write_columns[column][channel])
                                        if parts == 1 else found[channel])
        m.d.sync += [
            self.beat_valid.eq(header | reads[-1] | take),
            landed.last.eq(~header & last),
            reads.eq(Cat(read, reads)),
            lasts.eq(Cat(final, lasts)),
            places[0].eq(index[:part_bits]),
            header.eq(0),
            complete.eq(self.complete | (complete & ~self.start)),
        ]
        m.d.sync += [after.eq(before) for before, after in zip(places, places[1:], strict=False)]
        with m.FSM() as fsm:
            with m.State("IDLE"):
                with m.If(self.start):
                    m.d.sync += [left.eq(_beats_of(config, self.count)), index.eq(0), base.eq(self.src_base),
                                 final.eq(self.count <= width), rest.eq(self.count), active.eq(self.active)]
                    if config.banks > 1:
                        m.d.sync += bank.eq(self.bank)
                    if config.models > 1:
                        m.d.sync += model.eq(self.model)
                    m.next = "HEADER"
            with m.State("HEADER"):
                with m.If(room):
                    m.d.sync += header.eq(1)
                    m.next = "READ"
            with m.State("READ"):
                m.d.comb += [read.eq(self.read_grant & room & written), take.eq(room & follows)]
                with m.If(read | take):
                    m.d.sync += [left.eq(left - 1), final.eq(left == 2), index.eq(index + 1)]
                    with m.If(final):
                        m.next = "LAND"
            with m.State("LAND"):
                with m.If(reads == 0):
                    m.next = "IDLE"
        m.d.comb += self.busy.eq(~fsm.ongoing("IDLE"))
        return m


class FrameGuard(wiring.Component):
    """Keeps the rules of AXI4-Stream on both sides while the core between them is reset.

    A frame that is on its way out when the core is reset ends with a beat of zeros. A beat that was offered stays until
    it is taken. For a frame that is on its way in, ``midway`` tells the core to drop the rest.

    The receiver's ``ready`` ends in the registers of a queue. The core watches ``level``, and writes only while it is
    below `depth` less one.

    Latency: `delay` cycle. Cost: a FIFO of `depth` beats.

    Members
    -------
    i : In(FrameBeat) — a beat of the frames from the core.
    i_valid : In(1) — there is one; not in the cycle after one with ``abort``.
    level : Out(bits_for(FrameGuard.depth)) — beats that wait for the receiver.
    o : Out(Beats) — frames to the receiver.
    abort : In(1) — the core is in reset.
    accepted : In(1) — a beat comes in.
    last : In(1) — it is the last of its frame.
    midway : Out(1) — a frame on its way in has had beats, but not its last.
    sent : Out(1) — the receiver takes the last beat of a frame that is whole.
    """

    delay = Fifo.delay
    depth = 8

    def __init__(self, config):
        super().__init__({
            "i": In(FrameBeat(config)),
            "i_valid": In(1),
            "level": Out(bits_for(self.depth)),
            "o": Out(Beats(config)),
            "abort": In(1),
            "accepted": In(1),
            "last": In(1),
            "midway": Out(1),
            "sent": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        beat = self.i
        m.submodules.beats = beats = Fifo(data.StructLayout({**beat.shape().members, "whole": 1}), self.depth)
        unfinished = Signal()
        # The core was reset within a frame: it ends as soon as there is room.
        closes = Signal(attrs=fanout(128))
        room = beats.level != self.depth
        m.d.comb += [
            self.level.eq(beats.level),
            beats.i.data.eq(Mux(closes, 0, beat.data)),
            beats.i.last.eq(beat.last | closes),
            beats.i.whole.eq(beat.last & ~closes),
            beats.i_valid.eq(Mux(closes, room, self.i_valid & ~self.abort)),
            self.o.valid.eq(beats.o.valid),
            self.o.payload.data.eq(beats.o.payload.data),
            self.o.payload.last.eq(beats.o.payload.last),
            beats.o.ready.eq(self.o.ready),
            self.sent.eq(self.o.valid & self.o.ready & beats.o.payload.whole),
        ]
        with m.If(beats.i_valid):
            m.d.sync += [unfinished.eq(~beats.i.last), closes.eq(0)]
        with m.Elif(self.abort & unfinished):
            m.d.sync += closes.eq(1)
        with m.If(self.accepted):
            m.d.sync += self.midway.eq(~self.last)
        return m
