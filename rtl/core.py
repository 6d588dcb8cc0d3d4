# SPDX-License-Identifier: Apache-2.0
"""Core: the blocks that compute, and the wires between them."""

from typing import NamedTuple

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from openese.rtl.array import PEArray
from openese.rtl.assemble import Assemble
from openese.rtl.broadcast import Broadcast
from openese.rtl.bundles import DrainPort, FramePort, StreamPort, ValidPort
from openese.rtl.config import bits_for
from openese.rtl.controller import Controller
from openese.rtl.frames import Beats, FrameBeat, FrameGuard, FrameInput, FrameOutput
from openese.rtl.interfaces import Column
from openese.rtl.loader import Lines, LoadPort, Section
from openese.rtl.program import Source
from openese.rtl.registers import COUNTERS
from openese.rtl.state_access import StateAccess, StatePort
from openese.rtl.vector_memory import VectorMemory, share_ports
from openese.rtl.weight_stream import Burst, StreamFetch

__all__ = ["Core"]


class Blocks(NamedTuple):
    """The blocks of the core, by their names in the Verilog."""

    controller: Controller
    frame_input: FrameInput
    vectors: VectorMemory
    broadcast: Broadcast
    array: PEArray
    assemble: Assemble
    frame_output: FrameOutput
    state: StateAccess


class Core(wiring.Component):
    """Controller, broadcast, array with slices, vector memory and frames.

    Latency: a step of the program. Cost: its blocks; the multiplexers of the vector memory's ports.

    Members
    -------
    run : In(1) — carry out the program; see `Controller`.
    idle : Out(1) — nothing is under way, and every frame has been given to ``result``.
    moves : Out(1) — an entry, a column, a row, a beat or a streamed line has passed, a cycle ago.
    waiting_frame : Out(1) — the controller waits for a frame.
    frames : In(Beats) — frames in.
    result : Out(FrameBeat) — a beat of the frames out.
    result_valid : Out(1) — there is one.
    results_waiting : In(bits_for(FrameGuard.depth)) — beats that wait for the receiver, in the queue at the pins.
    results_blocked : In(1) — the receiver does not take one.
    frame_midway : In(1) — on leaving reset: a frame is under way; drop its rest.
    frame_short : Out(1) — a frame was dropped because it was too short.
    frame_long : Out(1) — a frame was dropped because it was too long.
    frame_bank : Out(1) — a frame was dropped because its bank or model is not there.
    models : Out(bits_for(models)) — models of the image. Only if the machine holds several, as the next two.
    model_select : In(8) — the model that ``model_size`` is of.
    model_size : Out(32) — columns of its frames, and in the upper half of its answers; 0 if there is no such model.
    line : In(Lines.width) — a line from the loader.
    address : In(24) — its number.
    writes : In(len(Section)) — write it, in the bit of its section.
    events : Out(counters) — increments of `openese.rtl.registers.COUNTERS` in this cycle, by name, 24 bits each.
    state_select : In(Select) — the next number of a voice's state, while ``idle``; see `StateAccess`.
    state_restart : In(1) — forget what is read ahead.
    state_write : In(1) — set the next number to ``state_data``.
    state_data : In(32) — the value to set.
    state_writing : Out(1) — a c is on its way to its memory.
    state_wanted : In(1) — the next number is asked for.
    state_take : In(1) — ``state_value`` is taken.
    state_value : Out(signed(32)) — the next number.
    state_value_valid : Out(1) — it is there.
    bursts : Out(stream(Burst)) — to `StreamReader`. Only if the machine streams weights, as the next two.
    stream_line : In(stream_bits) — a line from it.
    stream_valid : In(1) — there is one.
    """

    def __init__(self, config):
        self._config = config
        self._lines = Lines(config)
        events = {name: Out(24) for name in COUNTERS}
        streaming = {
            "bursts": Out(stream.Signature(Burst(config))),
            "stream_line": In(config.stream_bits),
            "stream_valid": In(1),
        }
        super().__init__({
            "run": In(1),
            "idle": Out(1),
            "moves": Out(1),
            "waiting_frame": Out(1),
            "frames": In(Beats(config)),
            **ValidPort(FrameBeat(config)).ports("result"),
            "results_waiting": In(bits_for(FrameGuard.depth)),
            "results_blocked": In(1),
            "frame_midway": In(1),
            "frame_short": Out(1),
            "frame_long": Out(1),
            "frame_bank": Out(1),
            **({"models": Out(bits_for(config.models)), "model_select": In(8), "model_size": Out(32)}
               if config.models > 1 else {}),
            **LoadPort(config).flip().ports(),
            "events": Out(wiring.Signature(events)),
            **StatePort().flip().ports("state_"),
            **(streaming if config.stream else {}),
        })

    def elaborate(self, platform):
        m = Module()
        config = self._config
        blocks = Blocks(Controller(config), FrameInput(config), VectorMemory(config), Broadcast(config),
                        PEArray(config), Assemble(config), FrameOutput(config), StateAccess(config))
        for name, block in blocks._asdict().items():
            m.submodules[name] = block
        wiring.connect(m, wiring.flipped(self.frames), blocks.frame_input.beats)
        self._load(m, blocks)
        self._frames_in(m, blocks)
        self._operations(m, blocks)
        self._rows(m, blocks)
        self._frames_out(m, blocks)
        self._vectors(m, blocks)
        self._state(m, blocks)
        if config.stream:
            self._stream(m, blocks)
        if config.models > 1:
            self._sizes(m, blocks.controller)
        self._count(m, blocks)
        m.d.comb += [
            self.frame_short.eq(blocks.frame_input.short),
            self.frame_long.eq(blocks.frame_input.long),
            self.frame_bank.eq(blocks.frame_input.wrong_bank),
        ]
        return m

    def _load(self, m, blocks):
        """Lines from the loader to the memories."""
        array_sections = (Section.POINTERS, Section.WEIGHTS, Section.PARAMETERS, Section.TABLES)
        for section, block in ((Section.PROGRAM, blocks.controller), (Section.ORDER, blocks.broadcast),
                               *((section, blocks.array) for section in array_sections)):
            name = section.name.lower()
            port, valid = getattr(block, name), getattr(block, f"{name}_valid")
            m.d.comb += [
                port.address.eq(self.address),
                port.data.eq(self._lines.select(self.line, section)),
                valid.eq(self.writes[section]),
            ]

    def _frames_in(self, m, blocks):
        """Controller and FrameInput."""
        controller, frame_input = blocks.controller, blocks.frame_input
        m.d.comb += [
            controller.run.eq(self.run),
            self.idle.eq(controller.idle & ~self.result_valid),
            self.waiting_frame.eq(controller.waiting_frame),
            frame_input.format.eq(controller.format),
            frame_input.count.eq(controller.instruction.count),
            frame_input.bases[0].eq(controller.instruction.src_base),
            frame_input.bases[1].eq(controller.instruction.dst_base),
        ]
        if self._config.banks > 1:
            m.d.comb += frame_input.banks.eq(controller.instruction.banks)
        if self._config.models > 1:
            m.d.comb += [frame_input.index.eq(controller.instruction.model),
                         frame_input.models.eq(controller.instruction.models)]
        FramePort(self._config).connect(m, frame_input, controller, "", "frame_")

    def _operations(self, m, blocks):
        """MULTIPLY: Controller, Broadcast and PEArray."""
        controller, broadcast, array = blocks.controller, blocks.broadcast, blocks.array
        instruction = controller.instruction
        m.d.comb += [
            broadcast.start.eq(controller.multiply),
            broadcast.count.eq(instruction.count),
            broadcast.order_base.eq(instruction.order_base),
            broadcast.src_base.eq(controller.src_base),
            broadcast.follow.eq(controller.follow if self._config.models > 1 else instruction.follow),
            broadcast.clear.eq(controller.clear),
            broadcast.operation.eq(controller.operation),
            broadcast.full.eq(array.full),
            broadcast.of_frame.eq(instruction.source == Source.INPUT),
            broadcast.lines_computed.eq(blocks.assemble.lines_coming),
            broadcast.lines_received.eq(blocks.frame_input.lines_done),
            controller.multiply_busy.eq(broadcast.busy),
            array.context.eq(controller.context),
            array.context_valid.eq(controller.context_valid),
            array.context_operation.eq(controller.operation),
            controller.operation_done.eq(array.done),
        ]

    def _rows(self, m, blocks):
        """ELEMENTWISE, PROJECT and CLEAR: Controller and Assemble."""
        controller, assemble = blocks.controller, blocks.assemble
        m.d.comb += [
            assemble.start.eq(controller.assemble),
            assemble.instruction.eq(controller.instruction),
            assemble.dst_base.eq(controller.dst_base),
            assemble.acc_base.eq(controller.acc_base),
            assemble.settings.eq(controller.settings),
            assemble.go.eq(controller.assemble_go),
            controller.assemble_busy.eq(assemble.busy),
            controller.state_written.eq(blocks.state.bank.any()),
            controller.state_writing.eq(blocks.state.writing),
        ]

    def _frames_out(self, m, blocks):
        """OUTPUT: Controller and FrameOutput, which follows Assemble line by line."""
        controller, frame_output = blocks.controller, blocks.frame_output
        ValidPort(FrameBeat(self._config)).connect(m, frame_output, wiring.flipped(self), "beat", "result")
        m.d.comb += [
            frame_output.level.eq(self.results_waiting),
            frame_output.start.eq(controller.output),
            frame_output.count.eq(controller.instruction.count),
            frame_output.src_base.eq(controller.output_base),
            frame_output.active.eq(controller.output_active),
            frame_output.complete.eq(~blocks.assemble.busy),
            frame_output.lines_done.eq(blocks.assemble.lines_done),
            frame_output.write_valid.eq(blocks.assemble.write_valid),
            frame_output.write_columns.eq(blocks.assemble.write_columns),
            controller.output_busy.eq(frame_output.busy),
        ]
        if self._config.banks > 1:
            m.d.comb += frame_output.bank.eq(controller.output_bank)
        if self._config.models > 1:
            m.d.comb += frame_output.model.eq(controller.output_model)

    def _vectors(self, m, blocks):
        """Columns: out of the vector memory to the array and to FrameOutput; from Assemble and FrameInput into it."""
        config = self._config
        _, frame_input, vectors, broadcast, array, assemble, frame_output, state = blocks
        ValidPort(Column(config)).connect(m, broadcast, array, "column")
        m.d.comb += array.activations.eq(broadcast.activations)
        DrainPort(config).connect(m, assemble, array)
        m.d.comb += [
            array.control.eq(assemble.control),
            assemble.columns.eq(array.columns),
            broadcast.columns.eq(vectors.columns),
            frame_output.columns.eq(vectors.banks),
            frame_output.read_grant.eq(~broadcast.read_valid),
            vectors.read_line.eq(broadcast.read_line),
            frame_input.midway.eq(self.frame_midway),
            frame_input.hold.eq(assemble.write_valid | state.bank.any()),
        ]
        share_ports(m, config, vectors, broadcast, frame_output, frame_input, assemble, state)

    def _stream(self, m, blocks):
        """Lines from memory, in the place of the loader's."""
        controller, array = blocks.controller, blocks.array
        m.submodules.fetch = fetch = StreamFetch(self._config)
        wiring.connect(m, fetch.decisions, controller.decisions)
        wiring.connect(m, fetch.bursts, wiring.flipped(self.bursts))
        m.d.comb += [
            fetch.run.eq(self.run),
            fetch.frame_complete.eq(blocks.frame_input.complete),
            *([fetch.frame_model.eq(blocks.frame_input.complete_model)] if self._config.models > 1 else []),
            fetch.arrived.eq(self.stream_valid),
            fetch.released.eq(array.released),
            fetch.program.eq(controller.program),
            fetch.program_valid.eq(controller.program_valid),
            controller.streamed.eq(fetch.streamed),
        ]
        StreamPort(self._config).connect(m, fetch, array)
        with m.If(fetch.streamed):
            m.d.comb += [
                array.weights.address.eq(fetch.write_address),
                array.weights.data.eq(self.stream_line),
                array.weights_valid.eq(self.stream_valid),
            ]

    def _sizes(self, m, controller):
        """Keep the sizes of the models for the host."""
        instruction = controller.instruction
        sizes = [Signal(32, name=f"size{k}") for k in range(self._config.models)]
        with m.If(controller.format):
            m.d.sync += [
                Array(sizes)[instruction.model].eq(Cat(instruction.count, Const(0, 16 - len(instruction.count)),
                                                       instruction.outputs)),
                self.models.eq(instruction.models),
            ]
        m.d.comb += self.model_size.eq(Mux(self.model_select < self._config.models,
                                           Array(sizes)[self.model_select[:self._config.model_bits]], 0))

    def _state(self, m, blocks):
        """The host's access to c and y."""
        state, array, assemble = blocks.state, blocks.array, blocks.assemble
        StatePort().connect(m, wiring.flipped(self), state, "state_", "")
        m.d.comb += [
            state.columns.eq(blocks.vectors.columns),
            state.cells.eq(array.cells),
            assemble.state_row.eq(state.cell_row),
            assemble.state_beat.eq(state.cell_beat),
            array.cell_write.eq(state.cell_write),
            array.cell_data.eq(state.cell_data),
        ]
        if self._config.banks > 1:
            m.d.comb += assemble.state_bank.eq(state.cell_bank)

    def _count(self, m, blocks):
        """Increments of the counters, by their names; whether anything moves."""
        controller, broadcast, array = blocks.controller, blocks.broadcast, blocks.array
        passing = [array.busy.any(), array.padding.any(), broadcast.column_valid, blocks.assemble.drain,
                   self.frames.valid & self.frames.ready, self.result_valid]
        if self._config.stream:
            passing.append(self.stream_valid)
        m.d.sync += self.moves.eq(Cat(passing).any())
        counted = {
            "cycles": self.run,
            "steps": controller.step,
            "busy": array.busy,
            "padding": array.padding,
            "hazard": array.hazard,
            "drain": blocks.assemble.drain & self.run,
            "full": broadcast.blocked_full,
            "follow": broadcast.blocked_follow,
            "frame": controller.waiting_frame & controller.idle & self.run,
            "output": self.results_blocked,
            "saturated": array.saturated,
            **({"starved": array.starved} if self._config.stream else {}),
        }
        m.d.comb += [getattr(self.events, name).eq(increment) for name, increment in counted.items()]
