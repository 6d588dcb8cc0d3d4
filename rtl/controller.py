# SPDX-License-Identifier: Apache-2.0
"""Controller: carries out the step program (paper: LSTM controller)."""

from typing import NamedTuple

from amaranth.hdl import Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from openese.rtl.bundles import FramePort, ValidPort
from openese.rtl.config import bits_for
from openese.rtl.elementwise import Settings
from openese.rtl.interfaces import MAX_OPERATIONS, Context
from openese.rtl.program import Instruction, Opcode, Source, Take
from openese.rtl.program_reader import ProgramReader, program_line

__all__ = ["Controller"]


class Bank(NamedTuple):
    """A bank of voices: its ``number``, the ``offset`` of its y in lines of the vector memory, and its ``model``.

    On a machine with one bank number and offset have no bits, on one for one model the model has none.
    """

    number: Signal
    offset: Signal
    model: Signal

    @classmethod
    def new(cls, config, name):
        """Registers for a machine of capacity ``config``."""
        return cls(Signal(config.bank_bits, name=f"{name}_bank"),
                   Signal(config.line_bits if config.banks > 1 else 0, name=f"{name}_offset"),
                   Signal(config.model_bits, name=f"{name}_model"))


class State(NamedTuple):
    """The controller's registers, beside the instruction.

    Attributes
    ----------
    active, reset : Signal(channels)
        Voices of the step whose columns are sent.
    step_active, step_reset : Signal(channels)
        Voices of the step that Assemble works on.
    buffer : Signal
        The buffer of the frame that was taken.
    missed : Signal
        The last ``FRAME TRY`` found no frame.
    stale : Signal
        The products of y that the frame needs are still to be made; see `When`.
    made : Signal
        Products of y are made ahead of the next frame.
    frame : Signal
        The ``FRAME WAIT`` that took the last frame.
    alone : Signal
        The last frame had the bank and model of the frame before, so the next one is taken to have them too.
    bank : Signal
        The bank of gate accumulators that fills.
    sent : Signal(3)
        Operations sent so far, modulo 8.
    room : Signal
        Another operation may be sent.
    settled : Signal
        All operations are complete.
    sending, assembling : Signal
        A cycle ago, y was being sent and the next frame was not there; Assemble was at work.
    voices, step_voices : Bank
        Bank of the voices of the step whose columns are sent, and of the step that Assemble works on.
    begun : Signal
        Assemble has begun a step. Only used if the machine holds several models.
    passes, passed : Signal
        A FRAME takes a frame and passes over the JUMP behind it; it did so a cycle ago. Only used with ``forward``.
    """

    active: Signal
    reset: Signal
    step_active: Signal
    step_reset: Signal
    buffer: Signal
    missed: Signal
    stale: Signal
    made: Signal
    frame: Signal
    alone: Signal
    bank: Signal
    sent: Signal
    room: Signal
    settled: Signal
    sending: Signal
    assembling: Signal
    voices: Bank
    step_voices: Bank
    begun: Signal
    passes: Signal
    passed: Signal


class Controller(wiring.Component):
    """Carries out the instructions of `openese.rtl.program` in order, without waiting for the work that they start.

    A MULTIPLY occupies the controller until its last column is sent. Every other instruction occupies it only until it
    is taken. The array works off its queues, Assemble its rows and the output its columns while the next columns are
    already on their way. Gates with an ``acc_offset`` have two banks of accumulators that alternate: one fills while
    the other is drained. A CLEAR occupies the controller until all accumulators are clear.

    With ``forward``, a FRAME that takes a frame whose products of y are there passes over the JUMP behind it.

    A frame may be taken while it comes in. If its length proves wrong, the controller goes back to wait for the next
    frame, at the end of the MULTIPLY that releases it. The products that were made are then stale.

    Other blocks read the fields that they need from ``instruction``. The ports below give the values that depend on the
    frame or on earlier instructions.

    Latency: `delay` cycles from an instruction to the one behind it, at least; `done_delay` cycle from
    ``operation_done`` to a decision that depends on it. Cost: that of `ProgramReader`.

    Members
    -------
    run : In(1) — carry out the program. While it is 0 the controller stops before it takes the next frame.
    idle : Out(1) — nothing is under way.
    instruction : Out(Instruction) — the instruction that is carried out.
    frame_ready : In(1) — there is a complete frame.
    frame_coming : In(1) — there is none, but one is coming in.
    frame_partial : In(1) — the frame that was taken is still coming in.
    frame_broken : In(1) — the frame that was taken had a wrong length.
    frame_buffer : In(1) — the buffer it lies in.
    frame_active : In(channels) — voices that are active in it.
    frame_reset : In(channels) — voices that start anew with it.
    frame_bank : In(bank_bits) — their bank. Only if the machine has several, as ``output_bank``.
    frame_model : In(model_bits) — their model. Only if the machine holds several, as ``output_model`` and ``follow``.
    frame_take : Out(1) — take it.
    frame_release : Out(1) — the frame taken before is not needed any more.
    frame_drop : Out(1) — forget the frame that is broken.
    state_written : In(1) — the host has written a y.
    state_writing : In(1) — a c that the host has written is on its way to its memory.
    format : Out(1) — ``instruction`` has the size of a model's frame and the two buffers.
    multiply : Out(1) — start the broadcast of an operation.
    multiply_busy : In(1) — its end is not sent yet.
    src_base : Out(line_bits) — first line of the operation's source.
    follow : Out(1) — its columns are still to be written.
    clear : Out(channels) — channels whose activations are zero in it.
    operation : Out(operation_bits) — its number.
    context : Out(Context) — its context for the PEs.
    context_valid : Out(1) — set the context.
    operation_done : In(1) — the array has completed an operation.
    assemble : Out(1) — start Assemble on ``instruction``.
    assemble_busy : In(1) — Assemble is at work.
    assemble_go : Out(1) — the operations that it drains are complete.
    acc_base : Out(bits_for(accumulator_rows - 1)) — first accumulator of the operation, or of the rows that are
        drained.
    dst_base : Out(line_bits) — first line that Assemble writes.
    settings : Out(Settings) — number formats and voices for the slices.
    output : Out(1) — start the output of a frame.
    output_busy : In(1) — the output still reads columns.
    output_base : Out(line_bits) — first line of its columns.
    output_active : Out(channels) — voices that are active in that frame.
    output_bank : Out(bank_bits) — their bank.
    output_model : Out(model_bits) — their model.
    step : Out(1) — a step is complete: its frame goes out.
    waiting_frame : Out(1) — the controller waits for a frame.
    program : In(program_line) — line of the program.
    program_valid : In(1) — write the line.
    streamed : In(1) — the weights are streamed. Only if the machine streams weights, as the next.
    decisions : In(stream(1)) — for each ``FRAME TRY``: `StreamFetch` has decided that it takes a frame.
    """

    delay = ProgramReader.delay
    done_delay = 1

    def __init__(self, config):
        self._config = config
        streaming = {"streamed": In(1), "decisions": In(stream.Signature(1))}
        super().__init__({
            "run": In(1),
            "idle": Out(1),
            "instruction": Out(Instruction(config)),
            **FramePort(config).flip().ports("frame_"),
            "state_written": In(1),
            "state_writing": In(1),
            "format": Out(1),
            "multiply": Out(1),
            "multiply_busy": In(1),
            "src_base": Out(config.line_bits),
            **({"follow": Out(1)} if config.models > 1 else {}),
            "clear": Out(config.channels),
            "operation": Out(config.operation_bits),
            "context": Out(Context(config)),
            "context_valid": Out(1),
            "operation_done": In(1),
            "assemble": Out(1),
            "assemble_busy": In(1),
            "assemble_go": Out(1),
            "acc_base": Out(bits_for(config.accumulator_rows - 1)),
            "dst_base": Out(config.line_bits),
            "settings": Out(Settings(config)),
            "output": Out(1),
            "output_busy": In(1),
            "output_base": Out(config.line_bits),
            "output_active": Out(config.channels),
            **({"output_bank": Out(config.bank_bits)} if config.banks > 1 else {}),
            **({"output_model": Out(config.model_bits)} if config.models > 1 else {}),
            "step": Out(1),
            "waiting_frame": Out(1),
            **ValidPort(program_line(config)).flip().ports("program"),
            **(streaming if config.stream else {}),
        })

    def elaborate(self, platform):
        m = Module()
        reader = ProgramReader(self._config)
        current = reader.instruction
        state = State(
            *(Signal(self._config.channels) for _ in range(4)),
            buffer=Signal(name="_buffer"), missed=Signal(init=1, name="_missed"), stale=Signal(init=1, name="_stale"),
            bank=Signal(name="_bank"), sent=Signal(3, name="_sent"), room=Signal(name="_room"),
            settled=Signal(name="_settled"), made=Signal(name="_made"),
            frame=Signal.like(reader.counter, name="_frame"), alone=Signal(init=1, name="_alone"),
            sending=Signal(name="_sending"), assembling=Signal(name="_assembling"),
            voices=Bank.new(self._config, "voices"), step_voices=Bank.new(self._config, "step_voices"),
            begun=Signal(name="_begun"), passes=Signal(name="_passes"), passed=Signal(name="_passed"))
        several = self._config.models > 1
        self._describe(m, current, state)
        reader.elaborate(m, self.program, self.program_valid)
        m.d.comb += self.instruction.eq(current)
        self._track_operations(m, state)
        with m.FSM() as fsm:
            with m.State("IDLE"):
                with m.If(self.run & ~self.assemble_busy):
                    reader.jump(m, 0)
            # A y that the host has begun to write before a frame was taken is still to be noticed.
            reader.fetch(m, state.passed & self.state_written if self._config.forward else None)
            with m.State("EXECUTE"):
                with m.Switch(current.opcode):
                    with m.Case(Opcode.FORMAT):
                        m.d.comb += self.format.eq(1)
                        if several:
                            reader.keep_routines(m)
                        reader.advance(m)
                    with m.Case(Opcode.FRAME):
                        self._frame(m, reader, state)
                    with m.Case(Opcode.MULTIPLY):
                        self._multiply(m, reader, state)
                    with m.Case(Opcode.ELEMENTWISE, Opcode.PROJECT):
                        self._assemble(m, reader, state)
                    with m.Case(Opcode.OUTPUT):
                        with m.If(~self.output_busy):
                            m.d.comb += [self.output.eq(1), self.step.eq(1)]
                            reader.advance(m)
                    with m.Case(Opcode.JUMP):
                        with m.If(reader.skips(state.missed, state.stale)):
                            reader.advance(m)
                        with m.Else():
                            reader.follow_jump(m, state.voices.model)
                    with m.Case(Opcode.CLEAR):
                        # What comes behind it reads y, which must be complete.
                        complete = ~self.assemble_busy
                        if several:
                            complete |= current.turn
                        with m.If(complete & ~state.made):
                            reader.advance(m)
                        with m.Elif(~self.assemble_busy & ~self.state_writing & state.settled):
                            m.d.comb += self.assemble.eq(1)
                            m.next = "CLEAR"
            with m.State("CLEAR"):
                with m.If(~self.assemble_busy):
                    reader.advance(m)
            with m.State("BROADCAST"):
                with m.If(~self.multiply_busy & ~(current.release & self.frame_partial)):
                    with m.If(current.release & self.frame_broken):
                        m.d.comb += self.frame_drop.eq(1)
                        m.d.sync += [state.stale.eq(1), state.made.eq(1)]
                        reader.jump(m, state.frame)
                    with m.Else():
                        m.d.comb += self.frame_release.eq(current.release)
                        reader.end_multiply(m)
        with m.If(self.state_written):
            m.d.sync += state.stale.eq(1)
        m.d.comb += self.idle.eq((fsm.ongoing("IDLE") | self.waiting_frame)
                                 & ~self.assemble_busy & ~self.output_busy)
        return m

    def _describe(self, m, current, state):
        """The values that depend on the frame, the bank or earlier operations."""
        elementwise = current.opcode == Opcode.ELEMENTWISE
        src_offset, dst_offset = self._offsets(m, current, state, elementwise)
        bank = state.bank & (elementwise | (current.opcode == Opcode.MULTIPLY))
        use_second = (current.source == Source.INPUT) & state.buffer & (current.opcode == Opcode.MULTIPLY)
        m.d.comb += [
            self.src_base.eq(Mux(use_second, current.dst_base, current.src_base) + src_offset),
            self.dst_base.eq(current.dst_base + dst_offset),
            self.clear.eq(Mux(current.source == Source.RECURRENT, state.reset, 0)),
            self.acc_base.eq(current.acc_base + Mux(bank, current.acc_offset, 0)),
            self.context.acc_base.eq(self.acc_base),
            self.context.phase_stride.eq(current.phase_stride),
            self.context.phase_last.eq(current.phase_last),
            *(align.eq(Mux(current.gated, own, current.align[0]))
              for align, own in zip(self.context.align, current.align, strict=True)),
            self.settings.shift.eq(current.shift),
            self.settings.cell_argument_shift.eq(current.cell_argument_shift),
            self.settings.peephole_select.eq(current.peephole_select),
            self.settings.cell_select.eq(current.cell_select),
            self.settings.g_sigmoid.eq(current.g_sigmoid),
            *([self.settings.gru.eq(current.gru)] if self._config.gru else []),
            *([self.settings.reset_before.eq(current.reset_before)] if self._config.gru_before else []),
            *([self.settings.dense.eq(current.dense), self.settings.activation.eq(current.activation)]
              if self._config.dense else []),
            self.settings.active.eq(Mux(elementwise, state.active, state.step_active)),
            self.settings.reset.eq(Mux(elementwise, state.reset, state.step_reset)),
            self.output_base.eq(current.src_base + state.step_voices.offset),
            self.output_active.eq(state.step_active),
        ]
        if self._config.models > 1:
            # Assemble writes the y of its own model alone.
            others = ~state.begun | (state.voices.model != state.step_voices.model)
            m.d.comb += [
                self.follow.eq(current.follow & ~((current.source == Source.RECURRENT) & others)),
                self.output_model.eq(state.step_voices.model),
            ]

        if not self._config.stream:
            m.d.comb += self.context.entry_base.eq(current.entry_base)
            return
        # In a stream, an operation's lines begin where those of the operation before end.
        position = Signal(self._config.position_bits)
        begin = Mux(self.streamed, position, current.entry_base)
        m.d.comb += [
            self.context.entry_base.eq(begin),
            self.context.entry_stop.eq(begin + current.entry_lines),
        ]
        with m.If(self.multiply):
            m.d.sync += position.eq(self.context.entry_stop)

    def _offsets(self, m, current, state, elementwise):
        """Lines from the first bank's y to that of the voices, for a source and for the vector that is written."""
        if self._config.banks == 1:
            return 0, 0
        voices, step_voices = state.voices, state.step_voices
        lines = Signal.like(current.bank_lines)
        with m.If(self.format):
            m.d.sync += lines.eq(current.bank_lines)
        # Written out, since synthesis tools take a DSP slice for a product.
        m.d.sync += voices.offset.eq(sum(Mux(bit, lines << place, 0) for place, bit in enumerate(voices.number)))
        m.d.comb += [
            self.settings.bank.eq(Mux(elementwise, voices.number, step_voices.number)),
            self.output_bank.eq(step_voices.number),
        ]
        source = voices.offset
        if self._config.dense:
            # A dense layer behind the FRAME TRY reads the y of the step, not that of the next frame's voices.
            source = Mux(current.source == Source.COMPUTED, step_voices.offset, source)
        return (Mux(current.banked, source, 0),
                Mux(current.banked, Mux(elementwise, voices.offset, step_voices.offset), 0))

    def _track_operations(self, m, state):
        """Number the operations. Assemble may begin when those sent before it was started are complete."""
        done = Signal(3)
        target = Signal(3)
        m.d.sync += done.eq(done + self.operation_done)
        with m.If(self.assemble):
            m.d.sync += target.eq(state.sent)
        difference = Signal(3)
        m.d.comb += [
            difference.eq(done - target),
            self.assemble_go.eq(~difference[-1]),
            state.room.eq((state.sent - done)[:3] != MAX_OPERATIONS),
            state.settled.eq(state.sent == done),
            self.operation.eq(state.sent),
        ]
        # They rise long before an instruction asks for them, and are kept so that the way to a MULTIPLY is short.
        m.d.sync += [
            state.sending.eq(self.output_busy & ~self.frame_ready),
            state.assembling.eq(self.assemble_busy),
        ]

    def _frame(self, m, reader, state):
        """FRAME: take the voices of the step whose work begins."""
        current = reader.instruction
        trying = current.when == Take.TRY
        wanted = trying | state.missed
        available = (self.frame_ready | (self.frame_coming & current.follow & ~trying)) & self.run
        undecided = Const(0)
        if self._config.stream:
            following = self.streamed & trying
            undecided = following & ~self.decisions.valid
            available = Mux(following, self.decisions.valid & self.decisions.payload, available)
            m.d.comb += self.decisions.ready.eq(following)
        m.d.comb += [
            self.frame_take.eq(wanted & available),
            self.waiting_frame.eq(wanted & ~available & ~trying),
        ]
        with m.If(trying):
            m.d.sync += [state.missed.eq(~available), state.stale.eq(0), state.made.eq(0)]
        other = Const(0)
        with m.If(self.frame_take):
            m.d.sync += [
                state.active.eq(self.frame_active),
                state.reset.eq(self.frame_reset),
                state.buffer.eq(self.frame_buffer),
                state.frame.eq(reader.counter),
            ]
            if self._config.banks > 1:
                other = self.frame_bank != state.voices.number
                m.d.sync += [state.voices.number.eq(self.frame_bank), state.alone.eq(~other)]
            if self._config.models > 1:
                other |= self.frame_model != state.voices.model
                m.d.sync += [state.voices.model.eq(self.frame_model), state.alone.eq(~other)]
            with m.If(~trying & (~state.made | self.frame_reset.any() | other)):
                m.d.sync += state.stale.eq(1)
        passed = 0
        if self._config.forward:
            # Behind a FRAME with `follow` is the JUMP of a frame that products of y do not fit.
            fits = state.made & ~state.stale & ~self.state_written & ~self.frame_reset.any()
            passed = state.passes
            m.d.comb += passed.eq(self.frame_take & ~trying & current.follow & fits & ~other)
            m.d.sync += state.passed.eq(passed)
        with m.If(~self.waiting_frame & ~undecided):
            reader.advance(m, passed)
        if self._config.models > 1:
            with m.If(self.frame_take):
                reader.take(m, self.frame_model, trying, passed)

    def _multiply(self, m, reader, state):
        """MULTIPLY: send the operation, unless the frame came too early or too late for it."""
        current = reader.instruction
        waits = ((current.sent & (state.sending | (state.assembling & ~current.follow)))
                 | ((current.source == Source.INPUT) & self.frame_partial & ~current.follow))
        skips = reader.skips(state.missed, state.stale) | (current.sent & ~state.alone)
        if self._config.models > 1:
            skips |= ~reader.kin(state.alone)
        with m.If(skips):
            reader.end_multiply(m)
        with m.Elif(state.room & ~waits):
            with m.If(current.sent):
                m.d.sync += state.made.eq(1)
            m.d.comb += [self.multiply.eq(1), self.context_valid.eq(1)]
            m.d.sync += state.sent.eq(state.sent + 1)
            m.next = "BROADCAST"

    def _assemble(self, m, reader, state):
        """ELEMENTWISE or PROJECT. Neither may overwrite the y that is being sent, nor overtake a c of the host."""
        current = reader.instruction
        with m.If(~self.assemble_busy & ~self.state_writing & ~(current.sent & self.output_busy)):
            m.d.comb += self.assemble.eq(1)
            alternates = current.acc_offset != 0
            if self._config.gru_before:
                alternates &= ~current.resets
            with m.If(current.opcode == Opcode.ELEMENTWISE):
                m.d.sync += [
                    state.bank.eq(state.bank ^ alternates),
                    state.step_active.eq(state.active),
                    state.step_reset.eq(state.reset),
                    state.step_voices.number.eq(state.voices.number),
                    state.step_voices.offset.eq(state.voices.offset),
                ]
                if self._config.models > 1:
                    m.d.sync += [state.step_voices.model.eq(state.voices.model), state.begun.eq(1)]
            reader.advance(m)
