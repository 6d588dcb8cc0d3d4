# SPDX-License-Identifier: Apache-2.0
"""The machine: everything between AXI4-Lite, frames in and frames out."""

from amaranth.hdl import Cat, ClockDomain, Const, DomainRenamer, Module, Mux, ResetInserter, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from openese.rtl.array import PEArray
from openese.rtl.assemble import Assemble
from openese.rtl.axi import AXI4LiteSubordinate
from openese.rtl.broadcast import Broadcast
from openese.rtl.controller import Controller
from openese.rtl.frames import Beats, FrameGuard, FrameInput, FrameOutput
from openese.rtl.loader import MAGIC, VERSION, Lines, Loader, Section
from openese.rtl.registers import ADDRESS, COUNTER_BASE, COUNTERS, REGISTERS, Access, Interrupt
from openese.rtl.state_access import Select, StateAccess
from openese.rtl.vector_memory import VectorMemory
from openese.rtl.weight_stream import Burst, StreamFetch, StreamReader

__all__ = ["ADDRESS_WIDTH", "Core", "Top"]

#: Byte address bits of the register bus.
ADDRESS_WIDTH = 12


_AXI_LITE = {"aw": {"addr": None, "prot": 3}, "w": {"data": 32, "strb": 4}, "b": {"resp": 2},
             "ar": {"addr": None, "prot": 3}, "r": {"data": 32, "resp": 2}}


def _axi_lite_ports(prefix, address_width):
    """Pins of an AXI4-Lite subordinate under their AXI names."""
    pins = {}
    for channel, fields in _AXI_LITE.items():
        there, back = (Out, In) if channel in "br" else (In, Out)
        pins[f"{prefix}_{channel}valid"] = there(1)
        pins[f"{prefix}_{channel}ready"] = back(1)
        for field, width in fields.items():
            pins[f"{prefix}_{channel}{field}"] = there(width or address_width)
    return pins


_AXI_READ = {"ar": {"addr": 64, "len": 8, "size": 3, "burst": 2, "id": 1, "lock": 1, "cache": 4, "prot": 3, "qos": 4},
             "r": {"data": None, "resp": 2, "last": 1, "id": 1}}


def _axi_read_ports(prefix, data_width):
    """Pins of the read channels of an AXI4 manager under their AXI names."""
    pins = {}
    for channel, fields in _AXI_READ.items():
        there, back = (In, Out) if channel == "r" else (Out, In)
        pins[f"{prefix}_{channel}valid"] = there(1)
        pins[f"{prefix}_{channel}ready"] = back(1)
        for field, width in fields.items():
            pins[f"{prefix}_{channel}{field}"] = there(width or data_width)
    return pins


def _axi_stream_ports(prefix, config, there, back):
    """Pins of an AXI4-Stream under their AXI names."""
    return {
        f"{prefix}_tdata": there(config.channels * config.activation_bits),
        f"{prefix}_tlast": there(1),
        f"{prefix}_tvalid": there(1),
        f"{prefix}_tready": back(1),
    }


class Core(wiring.Component):
    """All that computes: controller, broadcast, array, element-wise slices, vectors and frames.

    Members
    -------
    run, idle, waiting_frame : see `Controller`.
    frames, results : the two streams.
    load_* : line writes from the loader.
    events : increments of the counters this cycle, by name.
    bursts, stream_line, stream_valid : to and from `StreamReader`, where weights can be streamed.
    state_* : one number of a voice's state, while ``idle``; see `StateAccess`.
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
            "state_select": In(Select()),
            "state_write": In(1),
            "state_data": In(32),
            "state_value": Out(signed(32)),
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
            controller.frame_ready.eq(frame_input.ready),
            controller.frame_buffer.eq(frame_input.buffer),
            controller.frame_active.eq(frame_input.active),
            controller.frame_reset.eq(frame_input.reset),
            frame_input.take.eq(controller.frame_take),
            frame_input.release.eq(controller.frame_release),
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
        m.d.comb += [
            array.column.eq(broadcast.column),
            array.column_valid.eq(broadcast.column_valid),
            array.activations.eq(broadcast.activations),
            array.drain.eq(assemble.drain),
            array.drain_address.eq(assemble.drain_address),
            array.control.eq(assemble.control),
            assemble.columns.eq(array.columns),
            broadcast.columns.eq(vectors.columns),
            frame_output.columns.eq(vectors.columns),
            frame_output.read_grant.eq(~broadcast.read_valid),
            vectors.read_line.eq(broadcast.read_line),
            frame_input.midway.eq(self.frame_midway),
            frame_input.hold.eq(assemble.write_valid | state.bank.any()),
        ]
        with m.If(~broadcast.read_valid):
            line = Mux(frame_output.busy, frame_output.read_line, state.line)
            m.d.comb += [bank_line.eq(line) for bank_line in vectors.read_line]
        # The write port belongs to Assemble, then to the host's state access, then to the frames.
        for group in range(config.groups):
            m.d.comb += vectors.write_columns[group].eq(frame_input.write_column)
        m.d.comb += [
            vectors.write_line.eq(frame_input.write_line),
            vectors.write_bank.eq(Mux(frame_input.write_valid, frame_input.write_bank, 0)),
            vectors.write_channels.eq((1 << config.channels) - 1),
        ]
        with m.If(assemble.write_valid):
            m.d.comb += [
                vectors.write_line.eq(assemble.write_line),
                vectors.write_bank.eq((1 << config.groups) - 1),
                vectors.write_channels.eq(assemble.write_channels),
                vectors.write_columns.eq(assemble.write_columns),
            ]
        with m.Elif(state.bank.any()):
            m.d.comb += [
                vectors.write_line.eq(state.line),
                vectors.write_bank.eq(state.bank),
                vectors.write_channels.eq(state.write_channels),
                vectors.write_columns.eq(state.data[:config.activation_bits].replicate(
                    config.groups * config.channels)),
            ]

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
            array.streamed.eq(fetch.streamed),
            array.written.eq(fetch.written),
        ]
        with m.If(fetch.streamed):
            m.d.comb += [
                array.weights.address.eq(fetch.write_address),
                array.weights.data.eq(self.stream_line),
                array.weights_valid.eq(self.stream_valid),
            ]

    def _state(self, m, state, vectors, array, assemble):
        m.d.comb += [
            state.select.eq(self.state_select),
            state.write.eq(self.state_write),
            state.data.eq(self.state_data),
            self.state_value.eq(state.value),
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


class Top(wiring.Component):
    """The core behind its registers.

    The core is held in reset until an image is loaded; CONTROL.RESET and CONTROL.LOAD reset it again, the
    latter with the loader. Everything runs on ``aclk``; ``aresetn`` is synchronous to it.
    """

    def __init__(self, config):
        self.config = config
        super().__init__({
            "aclk": In(1),
            "aresetn": In(1),
            "irq": Out(1),
            **_axi_lite_ports("s_axi", ADDRESS_WIDTH),
            **_axi_stream_ports("s_axis", config, In, Out),
            **_axi_stream_ports("m_axis", config, Out, In),
            **(_axi_read_ports("m_axi", config.stream_bits) if config.stream else {}),
        })

    def elaborate(self, platform):
        m = Module()
        m.domains.sync = sync_domain = ClockDomain("sync")
        m.domains.core = core_domain = ClockDomain("core")
        core_reset, load = Signal(init=1), Signal()
        m.d.comb += [
            sync_domain.clk.eq(self.aclk),
            sync_domain.rst.eq(~self.aresetn),
            core_domain.clk.eq(self.aclk),
            core_domain.rst.eq(core_reset),
        ]
        core = Core(self.config)
        loader = Loader(self.config)
        m.submodules.core = DomainRenamer("core")(core)
        m.submodules.loader = ResetInserter(load)(loader)
        m.submodules.bus = bus = AXI4LiteSubordinate(ADDRESS_WIDTH)
        m.submodules.guard = guard = FrameGuard(self.config)
        wiring.connect(m, core.results, guard.i)
        m.d.comb += [
            guard.abort.eq(core_reset),
            guard.accepted.eq(self.s_axis_tvalid & self.s_axis_tready),
            guard.last.eq(self.s_axis_tlast),
            core.frame_midway.eq(guard.midway),
        ]
        self._connect(m, bus.bus, core, guard.o)
        m.d.comb += [
            core.line.eq(loader.line),
            core.address.eq(loader.address),
            core.writes.eq(loader.writes),
        ]
        reader = None
        if self.config.stream:
            m.submodules.reader = reader = StreamReader(self.config)
            self._connect_reader(m, reader, core, core_reset)
        self._registers(m, bus, core, loader, reader, core_reset, load)
        return m

    def _connect_reader(self, m, reader, core, core_reset):
        wiring.connect(m, core.bursts, reader.bursts)
        m.d.comb += [
            reader.flush.eq(core_reset),
            core.stream_line.eq(reader.line),
            core.stream_valid.eq(reader.line_valid),
        ]
        for channel, fields in _AXI_READ.items():
            port = getattr(reader.bus, channel)
            to_memory = channel == "ar"
            pairs = [("valid", port.valid, to_memory), ("ready", port.ready, not to_memory)]
            pairs += [(field, getattr(port.payload, field), to_memory) for field in fields]
            for name, value, drives in pairs:
                pin = getattr(self, f"m_axi_{channel}{name}")
                m.d.comb += pin.eq(value) if drives else value.eq(pin)

    def _connect(self, m, bus, core, results):
        for channel, fields in _AXI_LITE.items():
            port = getattr(bus, channel)
            to_manager = channel in "br"
            pairs = [(f"{channel}valid", port.valid, to_manager), (f"{channel}ready", port.ready, not to_manager)]
            for field in fields:
                value = port.payload if channel == "b" else getattr(port.payload, field)
                pairs.append((f"{channel}{field}", value, to_manager))
            for name, value, drives in pairs:
                pin = getattr(self, f"s_axi_{name}")
                m.d.comb += pin.eq(value) if drives else value.eq(pin)
        m.d.comb += [
            core.frames.payload.data.eq(self.s_axis_tdata),
            core.frames.payload.last.eq(self.s_axis_tlast),
            core.frames.valid.eq(self.s_axis_tvalid),
            self.s_axis_tready.eq(core.frames.ready),
            self.m_axis_tdata.eq(results.payload.data),
            self.m_axis_tlast.eq(results.payload.last),
            self.m_axis_tvalid.eq(results.valid),
            results.ready.eq(self.m_axis_tready),
        ]

    def _registers(self, m, bus, core, loader, reader, core_reset, load):
        config = self.config
        run = Signal()
        select, state_busy = Signal(Select()), Signal(range(StateAccess.delay + 1))
        interrupts, enabled, pending = Signal(len(Interrupt)), Signal(len(Interrupt)), Signal(len(Interrupt))
        was_loaded, was_refused, failed = Signal(), Signal(), Signal()
        stream_error = reader.error != 0 if reader else Const(0)
        stream_failed = stream_error & ~failed
        outstanding = ~reader.idle if reader else Const(0)
        writes = {r.name: Signal(name=f"write_{r.name.lower()}") for r in REGISTERS
                  if r.access is not Access.READ and (reader or not r.name.startswith("STREAM"))}
        reset = writes["CONTROL"] & bus.write_data[1]
        state_write = writes["STATE_DATA"]
        usable, state_written = Signal(), Signal()
        # What comes over the bus goes on a cycle later, so that the bus ends here.
        data, loads = Signal(32, reset_less=True), Signal()
        for name, signal in writes.items():
            m.d.comb += signal.eq(bus.write & (bus.write_address == ADDRESS[name] >> 2))
        m.d.comb += [
            bus.write_known.eq(Cat(writes.values()).any() & (usable | ~(state_write | writes["STATE_SELECT"]))),
            bus.hold.eq(state_busy != 0),
            core.state_select.eq(select),
            core.state_data.eq(data),
            core.state_write.eq(state_written),
            core.run.eq(run),
            loader.word.eq(data),
            loader.word_valid.eq(loads),
            interrupts.eq(Cat(core.frame_sent, loader.loaded & ~was_loaded, (loader.error != 0) & ~was_refused,
                              core.frame_short, core.frame_long, stream_failed)),
            self.irq.eq((pending & enabled).any()),
        ]
        m.d.sync += [
            usable.eq(core.idle & ~core_reset),
            data.eq(bus.write_data),
            loads.eq(writes["LOAD"]),
            load.eq(writes["CONTROL"] & bus.write_data[2]),
            state_written.eq(state_write & usable),
            # What was asked of the memory must come back before the core may ask for more.
            core_reset.eq(~loader.loaded | reset | load | (core_reset & outstanding)),
            failed.eq(stream_error),
            was_loaded.eq(loader.loaded),
            was_refused.eq(loader.error != 0),
            pending.eq(Mux(writes["INTERRUPT"], pending & ~bus.write_data, pending) | interrupts),
        ]
        with m.If(writes["STATE_SELECT"] | state_write):
            m.d.sync += state_busy.eq(StateAccess.delay)
        with m.Elif(state_busy != 0):
            m.d.sync += state_busy.eq(state_busy - 1)
        with m.If(writes["STATE_SELECT"]):
            m.d.sync += select.eq(bus.write_data)
        with m.If(writes["CONTROL"]):
            m.d.sync += run.eq(bus.write_data[0] & ~bus.write_data[2])
        with m.If(writes["INTERRUPT_ENABLE"]):
            m.d.sync += enabled.eq(bus.write_data)

        values = {
            "ID": MAGIC,
            "VERSION": VERSION,
            "FINGERPRINT": config.fingerprint,
            "CAPACITY": config.pes | config.channels << 16 | config.groups << 24,
            "CONTROL": run,
            "STATUS": Cat(loader.loaded, loader.loading, core.idle & ~core_reset, core.waiting_frame,
                          core.results.valid & ~core.results.ready),
            "IMAGE_ERROR": Cat(loader.error, Signal(8 - len(loader.error)), loader.error_section),
            "INTERRUPT": pending,
            "INTERRUPT_ENABLE": enabled,
            "STATE_SELECT": select,
            "STATE_DATA": core.state_value,
        }
        if reader:
            values |= {
                "STREAM_BASE_LOW": reader.base[:32],
                "STREAM_BASE_HIGH": reader.base[32:],
                "STREAM_ERROR": Cat(reader.error, Const(0, 6), reader.error_line),
            }
            base = Signal(64)
            m.d.comb += reader.base.eq(base)
            for name, half in (("STREAM_BASE_LOW", base[:32]), ("STREAM_BASE_HIGH", base[32:])):
                with m.If(writes[name]):
                    m.d.sync += half.eq(bus.write_data)
        high = Signal(32)
        with m.Switch(bus.read_address):
            for name, value in values.items():
                with m.Case(ADDRESS[name] >> 2):
                    m.d.comb += [bus.read_data.eq(value), bus.read_known.eq(usable if name == "STATE_DATA" else 1)]
            for index, name in enumerate(COUNTERS):
                counter = Signal(64, name=f"count_{name}")
                with m.Case((COUNTER_BASE >> 2) + 2 * index):
                    m.d.comb += [bus.read_data.eq(counter), bus.read_known.eq(1)]
                    with m.If(bus.read):
                        m.d.sync += high.eq(counter[32:])
                with m.Case((COUNTER_BASE >> 2) + 2 * index + 1):
                    m.d.comb += [bus.read_data.eq(high), bus.read_known.eq(1)]
                self._counter(m, counter, getattr(core.events, name))

    def _counter(self, m, counter, increment):
        counted = Signal.like(increment)  # a carry chain of 64 bits stands behind a register
        m.d.core += [counted.eq(increment), counter.eq(counter + counted)]
