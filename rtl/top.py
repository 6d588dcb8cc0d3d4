# SPDX-License-Identifier: Apache-2.0
"""Top: the machine's pins, and the wires to the core, its registers, the loader and the memory."""

from amaranth.hdl import ClockDomain, DomainRenamer, Module, ResetInserter, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from openese.rtl.attributes import fanout
from openese.rtl.axi import AXI4LiteSubordinate
from openese.rtl.bundles import ValidPort
from openese.rtl.core import Core
from openese.rtl.fifo import Fifo
from openese.rtl.frames import FrameBeat, FrameGuard, beat_bytes
from openese.rtl.loader import Loader, LoadPort
from openese.rtl.registers import ADDRESS, ControlRegisters
from openese.rtl.watchdog import Watchdog
from openese.rtl.weight_stream import StreamReader

__all__ = ["ADDRESS_WIDTH", "Top"]

#: Byte address bits of the register bus.
ADDRESS_WIDTH = 12
#: Beats that may wait for the core.
_ARRIVED = 2


#: Fields of the channels of a bus, and their widths; None: the width that the machine chooses.
_AXI_LITE = {"aw": {"addr": None, "prot": 3}, "w": {"data": 32, "strb": 4}, "b": {"resp": 2},
             "ar": {"addr": None, "prot": 3}, "r": {"data": 32, "resp": 2}}
_AXI_READ = {"ar": {"addr": 64, "len": 8, "size": 3, "burst": 2, "id": 1, "lock": 1, "cache": 4, "prot": 3, "qos": 4},
             "r": {"data": None, "resp": 2, "last": 1, "id": 1}}
#: Channels of both that the machine drives.
_DRIVEN = {"s_axi": ("b", "r"), "m_axi": ("ar",)}


def _bus_ports(prefix, channels, width):
    """Pins of a bus under their AXI names."""
    pins = {}
    for channel, fields in channels.items():
        there, back = (Out, In) if channel in _DRIVEN[prefix] else (In, Out)
        pins[f"{prefix}_{channel}valid"] = there(1)
        pins[f"{prefix}_{channel}ready"] = back(1)
        for field, bits in fields.items():
            pins[f"{prefix}_{channel}{field}"] = there(bits or width)
    return pins


def _axi_stream_ports(prefix, config, there, back):
    """Pins of an AXI4-Stream under their AXI names."""
    return {
        f"{prefix}_tdata": there(8 * beat_bytes(config)),
        f"{prefix}_tlast": there(1),
        f"{prefix}_tvalid": there(1),
        f"{prefix}_tready": back(1),
    }


class Top(wiring.Component):
    """The machine: the core behind its registers, and the module that Verilog users instantiate.

    The core is in reset until an image is loaded. CONTROL.RESET and CONTROL.LOAD reset it again; the latter also resets
    the loader. Everything runs on ``aclk``; ``aresetn`` is synchronous to it, and takes effect a cycle later.

    Latency: a step of the program. Cost: the core; the loader; the registers of `ControlRegisters`.

    Members
    -------
    aclk : In(1) — the clock.
    aresetn : In(1) — reset, active low, synchronous to the clock.
    irq : Out(1) — an enabled interrupt is pending.
    s_axi_* : AXI4-Lite subordinate of 32 bits — the registers.
    s_axis_* : AXI4-Stream receiver of channels x activation_bits, in whole bytes — frames in; see `Beats`.
    m_axis_* : AXI4-Stream transmitter, likewise — frames out.
    m_axi_* : AXI4 manager, read channels, of stream_bits — the memory of streamed weights, if the machine streams them.
    """

    def __init__(self, config):
        self.config = config
        super().__init__({
            "aclk": In(1),
            "aresetn": In(1),
            "irq": Out(1),
            **_bus_ports("s_axi", _AXI_LITE, ADDRESS_WIDTH),
            **_axi_stream_ports("s_axis", config, In, Out),
            **_axi_stream_ports("m_axis", config, Out, In),
            **(_bus_ports("m_axi", _AXI_READ, config.stream_bits) if config.stream else {}),
        })

    def elaborate(self, platform):
        m = Module()
        m.domains.sync = sync_domain = ClockDomain("sync")
        m.domains.core = core_domain = ClockDomain("core")
        core_reset = Signal(init=1, attrs=fanout(256))
        load = Signal(attrs=fanout(256))
        # No pin goes further than to a register or the memory of a queue.
        reset = Signal(init=1, reset_less=True, attrs=fanout(256))
        m.d.sync += reset.eq(~self.aresetn)
        m.d.comb += [
            sync_domain.clk.eq(self.aclk),
            sync_domain.rst.eq(reset),
            core_domain.clk.eq(self.aclk),
            core_domain.rst.eq(core_reset),
        ]
        core = Core(self.config)
        loader = Loader(self.config)
        m.submodules.core = DomainRenamer("core")(core)
        m.submodules.loader = ResetInserter(load)(loader)
        m.submodules.bus = bus = AXI4LiteSubordinate(ADDRESS_WIDTH, ADDRESS["STATE_DATA"] >> 2)
        m.submodules.guard = guard = FrameGuard(self.config)
        arrived = Fifo(core.frames.payload.shape(), _ARRIVED)
        m.submodules.arrived = DomainRenamer("core")(arrived)
        wiring.connect(m, arrived.o, core.frames)
        ValidPort(FrameBeat(self.config)).connect(m, core, guard, "result", "i")
        m.d.comb += [
            core.results_waiting.eq(guard.level),
            core.results_blocked.eq(guard.o.valid & ~guard.o.ready),
            guard.abort.eq(core_reset),
            guard.accepted.eq(arrived.i_valid),
            guard.last.eq(self.s_axis_tlast),
            core.frame_midway.eq(guard.midway),
        ]
        self._connect(m, bus.bus, arrived, core_reset, guard.o)
        LoadPort(self.config).connect(m, loader, core)
        reader = None
        if self.config.stream:
            m.submodules.reader = reader = StreamReader(self.config)
            self._connect_reader(m, reader, core, core_reset)
        m.submodules.watchdog = watchdog = Watchdog()
        registers = ControlRegisters(self.config, bus, core, loader, guard, watchdog, reader)
        registers.elaborate(m, core_reset, load, self.irq)
        return m

    def _connect_reader(self, m, reader, core, core_reset):
        wiring.connect(m, core.bursts, reader.bursts)
        m.d.comb += [
            reader.flush.eq(core_reset),
            core.stream_line.eq(reader.line),
            core.stream_valid.eq(reader.line_valid),
        ]
        self._connect_bus(m, "m_axi", _AXI_READ, reader.bus)

    def _connect(self, m, bus, arrived, core_reset, results):
        self._connect_bus(m, "s_axi", _AXI_LITE, bus)
        m.d.comb += [
            arrived.i.data.eq(self.s_axis_tdata),
            arrived.i.last.eq(self.s_axis_tlast),
            arrived.i_valid.eq(self.s_axis_tvalid & self.s_axis_tready),
            self.s_axis_tready.eq((arrived.level != _ARRIVED) & ~core_reset),
            self.m_axis_tdata.eq(results.payload.data),
            self.m_axis_tlast.eq(results.payload.last),
            self.m_axis_tvalid.eq(results.valid),
            results.ready.eq(self.m_axis_tready),
        ]

    def _connect_bus(self, m, prefix, channels, bus):
        """Wires between the pins of a bus and its streams."""
        for channel, fields in channels.items():
            port = getattr(bus, channel)
            drives = channel in _DRIVEN[prefix]
            wires = [("valid", port.valid, drives), ("ready", port.ready, not drives)]
            for field in fields:
                value = getattr(port.payload, field) if len(fields) > 1 else port.payload
                wires.append((field, value, drives))
            for name, value, out in wires:
                pin = getattr(self, f"{prefix}_{channel}{name}")
                m.d.comb += pin.eq(value) if out else value.eq(pin)
