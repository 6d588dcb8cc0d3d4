# SPDX-License-Identifier: Apache-2.0
"""Core: the blocks that compute, and the wires between them."""

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from openese.rtl.array import PEArray
from openese.rtl.assemble import Assemble
from openese.rtl.broadcast import Broadcast
from openese.rtl.bundles import DrainPort, FramePort, StreamPort, ValidPort
from openese.rtl.controller import Controller
from openese.rtl.frames import Beats, FrameInput, FrameOutput
from openese.rtl.interfaces import Column
from openese.rtl.loader import Lines, Section
from openese.rtl.registers import COUNTERS
from openese.rtl.state_access import StateAccess, StatePort
from openese.rtl.vector_memory import VectorMemory, share_ports
from openese.rtl.weight_stream import Burst, StreamFetch

__all__ = ["Core"]


class Core(wiring.Component):
    """Controller, broadcast, array with slices, vector memory and frames.

    Latency: a step of the program. Cost: its blocks; the multiplexers of the vector memory's ports.

    Members
    -------
    run : In(1) — carry out the program; see `Controller`.
    idle : Out(1) — nothing is under way.
    waiting_frame : Out(1) — the controller waits for a frame.
    frames : In(Beats) — frames in.
    results : Out(Beats) — frames out.
    frame_midway : In(1) — on leaving reset: a frame is under way; drop its rest.
    frame_short : Out(1) — a frame was dropped because it was too short.
    frame_long : Out(1) — a frame was dropped because it was too long.
    frame_sent : Out(1) — a frame was sent.
    line : In(Lines.width) — a line from the loader.
    address : In(24) — its number.
    writes : In(len(Section)) — write it, in the bit of its section.
    events : Out(counters) — increments of `openese.rtl.registers.COUNTERS` in this cycle, by name, 24 bits each.
    state_select : In(Select) — one number of a voice's state, while ``idle``; see `StateAccess`.
    state_write : In(1) — set it to ``state_data``.
    state_data : In(32) — the value to set.
    state_value : Out(signed(32)) — the number.
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
            "waiting_frame": Out(1),
            "frames": In(Beats(config)),
            "results": Out(Beats(config)),
            "frame_midway": In(1),
            "frame_short": Out(1),
            "frame_long": Out(1),
            "frame_sent": Out(1),
            "line": In(self._lines.width),
            "address": In(24),
            "writes": In(len(Section)),
            "events": Out(wiring.Signature(events)),
            **StatePort().flip().ports("state_"),
            **(streaming if config.stream else {}),
        })

    def elaborate(self, platform):
        m = Module()
        config = self._config
        m.submodules.controller = controller = Controller(config)
        m.submodules.frame_input = frame_input = FrameInput(config)
        m.submodules.vectors = vectors = VectorMemory(config)
        m.submodules.broadcast = broadcast = Broadcast(config)
        m.submodules.array = array = PEArray(config)
        m.submodules.assemble = assemble = Assemble(config)
        m.submodules.frame_output = frame_output = FrameOutput(config)
        m.submodules.state = state = StateAccess(config)
        wiring.connect(m, wiring.flipped(self.frames), frame_input.beats)
        wiring.connect(m, frame_output.beats, wiring.flipped(self.results))
        self._load(m, controller, broadcast, array)
        self._control(m, controller, frame_input, broadcast, array, assemble, frame_output)
        self._vectors(m, vectors, frame_input, broadcast, array, assemble, frame_output, state)
        self._state(m, state, vectors, array, assemble)
        if config.stream:
            self._stream(m, controller, frame_input, array)
        self._count(m, controller, broadcast, array, assemble, frame_output)
        m.d.comb += [
            self.frame_short.eq(frame_input.short),
            self.frame_long.eq(frame_input.long),
            self.frame_sent.eq(frame_output.sent),
        ]
        return m

    def _load(self, m, controller, broadcast, array):
        targets = {
            Section.PROGRAM: (controller.program, controller.program_valid),
            Section.ORDER: (broadcast.order, broadcast.order_valid),
            Section.POINTERS: (array.pointers, array.pointers_valid),
            Section.WEIGHTS: (array.weights, array.weights_valid),
            Section.PARAMETERS: (array.parameters, array.parameters_valid),
            Section.TABLES: (array.tables, array.tables_valid),
        }
        for section, (port, valid) in targets.items():
            m.d.comb += [
                port.address.eq(self.address),
                port.data.eq(self._lines.select(self.line, section)),
                valid.eq(self.writes[section]),
            ]

    def _control(self, m, controller, frame_input, broadcast, array, assemble, frame_output):
        instruction = controller.instruction
        m.d.comb += [
            controller.run.eq(self.run),
            self.idle.eq(controller.idle),
            self.waiting_frame.eq(controller.waiting_frame),
            frame_input.format.eq(controller.format),
            frame_input.count.eq(instruction.count),
            frame_input.bases[0].eq(instruction.src_base),
            frame_input.bases[1].eq(instruction.dst_base),
        ]
        FramePort(self._config).connect(m, frame_input, controller, "", "frame_")
        m.d.comb += [
            broadcast.start.eq(controller.multiply),
            broadcast.count.eq(instruction.count),
            broadcast.order_base.eq(instruction.order_base),
            broadcast.src_base.eq(controller.src_base),
            broadcast.follow.eq(instruction.follow),
            broadcast.clear.eq(controller.clear),
            broadcast.operation.eq(controller.operation),
            broadcast.full.eq(array.full),
            broadcast.lines_done.eq(assemble.lines_done),
            controller.multiply_busy.eq(broadcast.busy),
            array.context.eq(controller.context),
            array.context_valid.eq(controller.context_valid),
            array.context_operation.eq(controller.operation),
            controller.operation_done.eq(array.done),
            assemble.start.eq(controller.assemble),
            assemble.instruction.eq(instruction),
            assemble.acc_base.eq(controller.acc_base),
            assemble.settings.eq(controller.settings),
            assemble.go.eq(controller.assemble_go),
            controller.assemble_busy.eq(assemble.busy),
            frame_output.start.eq(controller.output),
            frame_output.count.eq(instruction.count),
            frame_output.src_base.eq(instruction.src_base),
            frame_output.active.eq(controller.output_active),
            frame_output.go.eq(~assemble.busy),
            controller.output_busy.eq(frame_output.busy),
        ]

    def _vectors(self, m, vectors, frame_input, broadcast, array, assemble, frame_output, state):
        config = self._config
        ValidPort(Column(config)).connect(m, broadcast, array, "column")
        m.d.comb += array.activations.eq(broadcast.activations)
        DrainPort(config).connect(m, assemble, array)
        m.d.comb += [
            array.control.eq(assemble.control),
            assemble.columns.eq(array.columns),
            broadcast.columns.eq(vectors.columns),
            frame_output.columns.eq(vectors.columns),
            frame_output.read_grant.eq(~broadcast.read_valid),
            vectors.read_line.eq(broadcast.read_line),
            frame_input.midway.eq(self.frame_midway),
            frame_input.hold.eq(assemble.write_valid | state.bank.any()),
        ]
        share_ports(m, config, vectors, broadcast, frame_output, frame_input, assemble, state)

    def _stream(self, m, controller, frame_input, array):
        """Lines from memory go where the loader's went."""
        m.submodules.fetch = fetch = StreamFetch(self._config)
        wiring.connect(m, fetch.decisions, controller.decisions)
        wiring.connect(m, fetch.bursts, wiring.flipped(self.bursts))
        m.d.comb += [
            fetch.run.eq(self.run),
            fetch.frame_complete.eq(frame_input.complete),
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

    def _state(self, m, state, vectors, array, assemble):
        StatePort().connect(m, wiring.flipped(self), state, "state_", "")
        m.d.comb += [
            state.columns.eq(vectors.columns),
            state.cells.eq(array.cells),
            assemble.state_row.eq(state.cell_row),
            assemble.state_beat.eq(state.cell_beat),
            array.cell_write.eq(state.cell_write),
            array.cell_data.eq(state.data),
        ]

    def _count(self, m, controller, broadcast, array, assemble, frame_output):
        m.d.comb += [
            self.events.cycles.eq(self.run),
            self.events.steps.eq(controller.step),
            self.events.busy.eq(array.busy),
            self.events.padding.eq(array.padding),
            self.events.hazard.eq(array.hazard),
            self.events.drain.eq(assemble.drain & self.run),
            self.events.full.eq(broadcast.blocked_full),
            self.events.follow.eq(broadcast.blocked_follow),
            self.events.frame.eq(controller.waiting_frame),
            self.events.output.eq(frame_output.blocked),
            self.events.saturated.eq(array.saturated),
        ]
        if self._config.stream:
            m.d.comb += self.events.starved.eq(array.starved)
