# SPDX-License-Identifier: Apache-2.0
"""The register map: one table for the hardware, the host and the documentation."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, ValueLike

from openese.rtl.config import Config
from openese.rtl.loader import MAGIC, VERSION
from openese.rtl.state_access import Select
from openese.rtl.watchdog import Stall, Watchdog
from openese.rtl.weight_stream import PAGE

__all__ = ["Access", "Field", "Register", "REGISTERS", "COUNTERS", "Control", "ControlRegisters", "Status", "Interrupt",
           "ADDRESS", "markdown", "registers"]


class Access(enum.Enum):
    """How a register may be used."""

    READ = "r"
    WRITE = "w"
    READ_WRITE = "rw"
    CLEAR = "rw1c"


class Control(enum.IntFlag):
    """Bits of CONTROL."""

    RUN = 1
    RESET = 2
    LOAD = 4


class Status(enum.IntFlag):
    """Bits of STATUS."""

    LOADED = 1
    LOADING = 2
    IDLE = 4
    WAITING_FRAME = 8
    OUTPUT_BLOCKED = 16
    STALLED = 32


class Interrupt(enum.IntFlag):
    """Bits of INTERRUPT and INTERRUPT_ENABLE."""

    FRAME_SENT = 1
    IMAGE_LOADED = 2
    IMAGE_REFUSED = 4
    FRAME_SHORT = 8
    FRAME_LONG = 16
    STREAM_FAILED = 32
    STALLED = 64
    FRAME_BANK = 128


@dataclass(frozen=True)
class Field:
    """Bits ``low + width - 1 .. low`` of a register."""

    name: str
    low: int
    width: int
    text: str

    def __str__(self) -> str:
        if self.width == 1:
            return f"bit {self.low} {self.name}: {self.text}"
        return f"bits {self.low + self.width - 1}..{self.low} {self.name}: {self.text}"


@dataclass(frozen=True)
class Register:
    """One 32-bit register at byte ``address``. One without ``fields`` is a number of 32 bits."""

    name: str
    address: int
    access: Access
    text: str
    fields: tuple[Field, ...] = ()


def _flags(flags: type[enum.IntFlag], texts: Sequence[str]) -> tuple[Field, ...]:
    """A field for each member of an ``IntFlag``, with its text."""
    return tuple(Field(str(flag.name), flag.bit_length() - 1, 1, text) for flag, text in zip(flags, texts, strict=True))


#: 64-bit counters since the last reset, in the order of their addresses.
COUNTERS = {
    "cycles": "cycles while RUN is set",
    "steps": "frames computed",
    "busy": "multiplications of real entries, summed over the PEs (times channels: multiplier cycles)",
    "padding": "padding entries, summed over the PEs",
    "hazard": "cycles a PE waited for its own accumulator, summed over the PEs",
    "drain": "cycles in which the accumulators were read out instead (all PEs at once)",
    "full": "cycles the broadcast waited for a full ActQueue",
    "follow": "cycles the broadcast waited for m or y to be computed",
    "starved": "cycles a PE waited for streamed weights, summed over the PEs",
    "frame": "cycles, while RUN is set, in which the machine was idle and waited for a frame",
    "output": "cycles the receiver did not take a frame",
    "saturated": "cell states and outputs that were clamped, cells that only fill a row included",
}

_INTERRUPTS = _flags(Interrupt, [
    "a frame was sent", "an image was loaded", "an image was refused", "a frame was dropped since TLAST came early",
    "a frame was dropped since TLAST came late", "a weight could not be read",
    "nothing has moved for long though work is under way, see STALL",
    "a frame was dropped since it names a bank or a model that is not there"])

_FIXED = [
    Register("ID", 0x000, Access.READ, "`0x4553454F`: OESE"),
    Register("VERSION", 0x004, Access.READ, f"{VERSION}: of the registers and the image format"),
    Register("FINGERPRINT", 0x008, Access.READ, "of the configuration; an image must carry the same"),
    Register("CAPACITY", 0x00C, Access.READ, "", (
        Field("PES", 0, 16, "PEs"), Field("CHANNELS", 16, 8, "channels"), Field("GROUPS", 24, 8, "column groups"))),
    Register("BANKS", 0x010, Access.READ, "banks of voices"),
    Register("MODELS", 0x014, Access.READ_WRITE, "if the machine may hold several models", (
        Field("MOST", 0, 8, "models that an image may hold; cannot be written"),
        Field("LOADED", 8, 8, "models of the image, soon after RUN is set; 0: not yet; cannot be written"),
        Field("SELECT", 16, 8, "the model that MODEL_SIZE is of"))),
    Register("MODEL_SIZE", 0x018, Access.READ, "of the selected model; 0: there is none", (
        Field("INPUTS", 0, 16, "columns of its frames"), Field("OUTPUTS", 16, 16, "columns of its answers"))),
    Register("CONTROL", 0x020, Access.READ_WRITE, "", _flags(Control, [
        "compute frames", "abandon everything but the image and the cell states; reads as 0",
        "abandon the image too and expect a new one; reads as 0"])),
    Register("STATUS", 0x024, Access.READ, "", _flags(Status, [
        "an image is loaded", "one is being loaded", "nothing is under way, and every frame has been sent",
        "waiting for a frame", "the receiver of frames does not take one",
        f"nothing has moved for {Watchdog.limit:,} cycles though work is under way"])),
    Register("IMAGE_ERROR", 0x028, Access.READ, "", (
        Field("REASON", 0, 8, "why the image was refused, see the image format; 0: it was not"),
        Field("SECTION", 8, 8, "in which of its sections"))),
    Register("LOAD", 0x02C, Access.WRITE, "next word of the image"),
    Register("INTERRUPT", 0x030, Access.CLEAR, "write ones to clear", _INTERRUPTS),
    Register("INTERRUPT_ENABLE", 0x034, Access.READ_WRITE, "which of INTERRUPT raise `irq`", _INTERRUPTS),
    Register("STATE_SELECT", 0x040, Access.READ_WRITE,
             "the next number of a voice's state; written only while nothing is under way (else SLVERR)", (
                 Field("INDEX", 0, 16, "of c: cell row x PE rows + PE row; of y: its column in the vector memory"),
                 Field("CHANNEL", 16, 8, "the channel"), Field("BANK", 24, 6, "of c: the bank"),
                 Field("CELL", 31, 1, "1: the cell state c, 0: y"))),
    Register("STATE_DATA", 0x044, Access.READ_WRITE,
             "that number, signed, only while nothing is under way (else SLVERR); INDEX then grows by one"),
    Register("STREAM_BASE_LOW", 0x048, Access.READ_WRITE,
             "byte address of the streamed weights, if the machine can stream them; its lower 12 bits are 0"),
    Register("STREAM_BASE_HIGH", 0x04C, Access.READ_WRITE, "its upper half"),
    Register("STREAM_ERROR", 0x050, Access.READ, "the stream stops at an error, until RESET", (
        Field("RESPONSE", 0, 2, "RRESP of the read that failed; 0: none"),
        Field("LAST", 2, 1, "RLAST of the read was wrong"), Field("LINE", 8, 24, "its line"))),
    Register("STALL", 0x054, Access.READ, "what the work waited for when it stalled last, until RESET", _flags(Stall, [
        "streamed weights", "the receiver of frames", "the rest of a frame"])),
]

COUNTER_BASE = 0x080

REGISTERS = _FIXED + [
    Register(f"{name.upper()}_{half}", COUNTER_BASE + 8 * index + offset, Access.READ,
             text if half == "LOW" else f"upper half of {name}, as it was when the lower was read")
    for index, (name, text) in enumerate(COUNTERS.items())
    for half, offset in (("LOW", 0), ("HIGH", 4))
]

ADDRESS = {register.name: register.address for register in REGISTERS}


#: Cycles of a reset of the core, at least: what the tiles, whose reset comes later, have on the way must arrive in it.
_RESET = 4
#: Bits of a register's word address that choose last when it is read.
_LAST_BITS = 2


def registers(config: Config) -> list[Register]:
    """The registers of a machine of ``config``."""
    absent = (*(() if config.stream else ("STREAM",)), *(() if config.models > 1 else ("MODEL",)))
    return [register for register in REGISTERS if not register.name.startswith(absent)]


def markdown() -> str:
    """The table of the documentation."""
    lines = ["| address | name | access | meaning |", "|---|---|---|---|"]
    for r in REGISTERS:
        meaning = "<br>".join([*filter(None, [r.text]), *map(str, r.fields)])
        lines.append(f"| 0x{r.address:03x} | {r.name} | {r.access.value} | {meaning} |")
    return "\n".join(lines) + "\n"


def _bit(word: Any, flag: enum.IntFlag) -> Value:
    """The bit of ``word`` that is ``flag``."""
    bit: Value = word[flag.bit_length() - 1]
    return bit


class ControlRegisters:
    """The registers in hardware, made from `REGISTERS`.

    This is no module of its own: `elaborate` adds the registers to the module that has the blocks they serve. The
    counters are in the domain ``core``, so the core's reset clears them; everything else is in ``sync``.

    Latency: a write reaches its block a cycle later. A read is answered a cycle later. Cost: 64 bits a counter, with
    its carry chain behind a register; four words on the way to the bus, each with a multiplexer over a quarter of the
    registers.

    Parameters
    ----------
    config : Config
    bus : AXI4LiteSubordinate
        The source of reads and writes.
    core : Core
    loader : Loader
    guard : FrameGuard
        The way out of the core's frames.
    watchdog : Watchdog
    reader : StreamReader or None
        None if the machine cannot stream weights. It then has no STREAM register. A machine that holds one model has no
        MODEL register.
    """

    def __init__(self, config: Config, bus: Any, core: Any, loader: Any, guard: Any, watchdog: Any,
                 reader: Any) -> None:
        self._config = config
        self._bus, self._core, self._loader, self._reader = bus, core, loader, reader
        self._guard, self._watchdog = guard, watchdog
        self._writable = [register.name for register in registers(config) if register.access is not Access.READ]

    def elaborate(self, m: Module, core_reset: Signal, load: Signal, irq: Signal) -> None:
        """Add the registers to ``m``.

        Parameters
        ----------
        m : Module
        core_reset, load : Signal
            Driven here: the core's reset, and the loader's. The core is in reset until an image is loaded.
        irq : Signal
            Driven here: an enabled interrupt is pending.
        """
        bus, core, loader, watchdog = self._bus, self._core, self._loader, self._watchdog
        run = Signal()
        usable = Signal()
        select = Signal(Select())
        enabled, pending = Signal(len(Interrupt)), Signal(len(Interrupt))
        writes = self._decode(m, usable)
        resets = Signal(_RESET - 1)
        # Values written go on a cycle later, so that the bus ends here.
        data, loads = Signal(32, reset_less=True), Signal()
        m.d.comb += [
            core.state_data.eq(data),
            core.run.eq(run),
            loader.word.eq(data),
            loader.word_valid.eq(loads),
        ]
        control = writes["CONTROL"]
        reset = control & _bit(bus.write_data, Control.RESET)
        outstanding = ~self._reader.idle if self._reader else Const(0)
        rests = core.idle & ~self._guard.o.valid & ~core_reset
        m.d.sync += [
            usable.eq(rests),
            data.eq(bus.write_data),
            loads.eq(writes["LOAD"]),
            load.eq(control & _bit(bus.write_data, Control.LOAD)),
            resets.eq(Cat(reset | load, resets)),
            # The memory's answers must all come back before the core may ask for more.
            core_reset.eq(~loader.loaded | reset | load | resets.any() | (core_reset & outstanding)),
        ]
        self._interrupts(m, writes["INTERRUPT"], enabled, pending, irq)
        self._watch(m, core_reset, rests, outstanding, reset | load)
        self._state(m, writes, usable, select)
        with m.If(control):
            m.d.sync += run.eq(_bit(bus.write_data, Control.RUN) & ~_bit(bus.write_data, Control.LOAD))
        with m.If(writes["INTERRUPT_ENABLE"]):
            m.d.sync += enabled.eq(bus.write_data)
        self._read(m, usable, {
            **self._capacity(),
            "CONTROL": run,
            "STATUS": Cat(loader.loaded, loader.loading, usable, core.waiting_frame,
                          self._guard.o.valid & ~self._guard.o.ready, watchdog.stalled),
            "IMAGE_ERROR": Cat(loader.error, Signal(8 - len(loader.error)), loader.error_section),
            "INTERRUPT": pending,
            "INTERRUPT_ENABLE": enabled,
            "STATE_SELECT": select,
            "STATE_DATA": core.state_value,
            "STALL": watchdog.cause,
            **(self._stream(m, writes) if self._reader else {}),
            **(self._models(m, writes["MODELS"]) if self._config.models > 1 else {}),
        })

    def _decode(self, m: Module, usable: Signal) -> dict[str, Signal]:
        """A pulse for each register that is written; the bus's answer to writes."""
        bus = self._bus
        writes = {name: Signal(name=f"write_{name.lower()}") for name in self._writable}
        for name, signal in writes.items():
            m.d.comb += signal.eq(bus.write & (bus.write_address == ADDRESS[name] >> 2))
        of_state = writes["STATE_DATA"] | writes["STATE_SELECT"]
        m.d.comb += bus.write_known.eq(Cat(writes.values()).any() & (usable | ~of_state))
        return writes

    def _state(self, m: Module, writes: dict[str, Signal], usable: Signal, select: Signal) -> None:
        """STATE_SELECT and STATE_DATA: the numbers of a state, one after another.

        While a c is on its way nothing is written but the next number: a reset would lose it. While there is a read,
        nothing is written: a number that is taken counts a cycle later, and one that is waited for would never come.
        """
        bus, core = self._bus, self._core
        written, selected, asked = Signal(), Signal(), Signal()
        take, read = Signal(), Signal()
        number = (bus.read_address == ADDRESS["STATE_DATA"] >> 2) & usable
        m.d.comb += [
            core.state_select.eq(select),
            core.state_write.eq(written),
            core.state_restart.eq(selected | ~usable),
            core.state_wanted.eq(asked & usable),
            core.state_take.eq(take),
            bus.read_wait.eq(number & (written | selected | ~core.state_value_valid)),
            bus.write_wait.eq(written | core.state_writing),
            bus.write_hold.eq(bus.read_asked | read),
        ]
        m.d.sync += [
            take.eq(bus.read & number),
            read.eq(bus.read_asked),
            written.eq(writes["STATE_DATA"] & usable),
            selected.eq(writes["STATE_SELECT"] & usable),
            asked.eq(bus.read_asked & bus.read_wait),
        ]
        with m.If(writes["STATE_SELECT"] & usable):
            m.d.sync += select.eq(bus.write_data)
        with m.Elif(written | take):
            m.d.sync += select.index.eq(select.index + 1)

    def _capacity(self) -> dict[str, int]:
        """The registers that say which machine this is."""
        config = self._config
        return {
            "ID": MAGIC,
            "VERSION": VERSION,
            "FINGERPRINT": config.fingerprint,
            "CAPACITY": config.pes | config.channels << 16 | config.groups << 24,
            "BANKS": config.banks,
        }

    def _interrupts(self, m: Module, write: Signal, enabled: Signal, pending: Signal, irq: Signal) -> None:
        """INTERRUPT: bits are set by their events, and cleared by ones that are written."""
        loader, stalled = self._loader, self._watchdog.stalled
        interrupts = Signal(len(Interrupt))
        was_loaded, was_refused, failed, was_stalled = Signal(), Signal(), Signal(), Signal()
        stream_error = self._reader.error != 0 if self._reader else Const(0)
        m.d.comb += [
            interrupts.eq(Cat(self._guard.sent, loader.loaded & ~was_loaded, (loader.error != 0) & ~was_refused,
                              self._core.frame_short, self._core.frame_long, stream_error & ~failed,
                              stalled & ~was_stalled, self._core.frame_bank)),
            irq.eq((pending & enabled).any()),
        ]
        m.d.sync += [
            failed.eq(stream_error),
            was_loaded.eq(loader.loaded),
            was_refused.eq(loader.error != 0),
            was_stalled.eq(stalled),
            pending.eq(Mux(write, pending & ~self._bus.write_data, pending) | interrupts),
        ]

    def _watch(self, m: Module, core_reset: Signal, rests: Value, outstanding: Value, clear: Value) -> None:
        """What the watchdog sees. In a reset the core waits for the answers of the memory alone."""
        core, guard, watchdog, reader = self._core, self._guard, self._watchdog, self._reader
        taken = Signal()  # of the pins
        m.d.sync += taken.eq((guard.o.valid & guard.o.ready) | (reader.bus.r.valid if reader else 0))
        m.d.comb += [
            watchdog.works.eq(Mux(core_reset, self._loader.loaded & outstanding, ~rests | guard.midway)),
            watchdog.moves.eq(core.moves | taken),
            watchdog.waits.eq(Cat(core.events.starved.any() | (core_reset & outstanding),
                                  guard.o.valid & ~guard.o.ready, guard.midway & ~core.frames.valid)),
            watchdog.clear.eq(clear),
        ]

    def _models(self, m: Module, write: Signal) -> dict[str, ValueLike]:
        """The MODEL registers: the models of the image, and the sizes of one."""
        core = self._core
        select = Signal(8)
        with m.If(write):
            m.d.sync += select.eq(self._bus.write_data[16:])
        m.d.comb += core.model_select.eq(select)
        return {"MODELS": Cat(Const(self._config.models, 8), core.models, Const(0, 8 - len(core.models)), select),
                "MODEL_SIZE": core.model_size}

    def _stream(self, m: Module, writes: dict[str, Signal]) -> dict[str, ValueLike]:
        """The STREAM registers: the memory's base address, and the first read that failed."""
        reader = self._reader
        page = PAGE.bit_length() - 1
        base = Signal(64 - page)
        m.d.comb += reader.base.eq(Cat(Const(0, page), base))
        with m.If(writes["STREAM_BASE_LOW"]):
            m.d.sync += base[:32 - page].eq(self._bus.write_data[page:])
        with m.If(writes["STREAM_BASE_HIGH"]):
            m.d.sync += base[32 - page:].eq(self._bus.write_data)
        return {
            "STREAM_BASE_LOW": reader.base[:32],
            "STREAM_BASE_HIGH": reader.base[32:],
            "STREAM_ERROR": Cat(reader.error, Const(0, 5), reader.error_line),
        }

    def _read(self, m: Module, usable: Value, values: dict[str, Any]) -> None:
        """The bus's answer to reads: a register's value, or half of a counter. Reading a counter's lower half keeps the
        upper one.

        The address's bits choose in two steps, with registers between, so that synthesis cannot merge the choice with
        the constants. The lowest bits come last: with them alone the halves of a counter differ.
        """
        bus = self._bus
        high = Signal(32)
        known = Signal()
        words = {ADDRESS[name] >> 2: value for name, value in values.items()}
        uppers = {}
        for index, name in enumerate(COUNTERS):
            counter = Signal(64, name=f"count_{name}")
            increment = getattr(self._core.events, name)
            counted = Signal.like(increment)  # a carry chain of 64 bits stands behind a register
            m.d.core += [counted.eq(increment), counter.eq(counter + counted)]
            low = (COUNTER_BASE >> 2) + 2 * index
            words |= {low: counter[:32], low + 1: high}
            uppers[low] = counter[32:]
        with m.If(bus.read):
            with m.Switch(bus.read_address):
                with m.Case(*uppers):
                    m.d.sync += high.eq(_chosen(uppers, bus.read_address))
        lasts = Signal(_LAST_BITS)
        groups = {}
        for group in range(1 << _LAST_BITS):
            groups[group] = kept = Signal(32, name=f"group_{group}")
            m.d.sync += kept.eq(_chosen({word: value for word, value in words.items()
                                         if word % (1 << _LAST_BITS) == group}, bus.read_address))
        m.d.comb += [bus.read_data.eq(_chosen(groups, lasts)), bus.read_known.eq(known)]
        m.d.sync += [lasts.eq(bus.read_address), known.eq(0)]
        with m.Switch(bus.read_address):
            with m.Case(ADDRESS["STATE_DATA"] >> 2):
                m.d.sync += known.eq(usable)
            with m.Case(*words):
                m.d.sync += known.eq(1)


def _chosen(values: dict[int, ValueLike], address: Value, bit: int = 0) -> ValueLike:
    """The value of an ``address`` that is among the ``values``: a tree of choices of one in two."""
    if all(value is values[min(values)] for value in values.values()):
        return values[min(values)]
    sides = [{place: value for place, value in values.items() if place >> bit & 1 == side} for side in (0, 1)]
    found = [_chosen(side, address, bit + 1) for side in sides if side]
    return Mux(address[bit], found[1], found[0]) if len(found) == 2 else found[0]
