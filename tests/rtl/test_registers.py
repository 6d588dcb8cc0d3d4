# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""ControlRegisters: cycle by cycle as a model of the table has it, whatever the bus and the blocks around it do."""

import pytest
from amaranth.hdl import DomainRenamer, Elaboratable, Module, ResetInserter, Signal, Value
from bench import TINY, cycles, generator, get, pause, put, raw, seeds, simulate

from openese.rtl.axi import OKAY, SLVERR, AXI4LiteSubordinate
from openese.rtl.core import Core
from openese.rtl.frames import FrameGuard
from openese.rtl.loader import MAGIC, VERSION, Loader
from openese.rtl.registers import ADDRESS, COUNTERS, REGISTERS, Access, Control, ControlRegisters, Interrupt, Status
from openese.rtl.watchdog import Watchdog
from openese.rtl.weight_stream import StreamReader

CONFIGS = {"resident": TINY, "stream": TINY.replace(index_bits=4, stream=True), "models": TINY.replace(models=3)}
NAMES = {address >> 2: name for name, address in ADDRESS.items()}
WRITABLE = {register.name for register in REGISTERS if register.access is not Access.READ}
READABLE = {register.name for register in REGISTERS if register.access is not Access.WRITE}


class Registers(Elaboratable):
    """The registers without their bus and the blocks that they serve. These are ports alone.

    Attributes
    ----------
    accesses, inputs, outputs : dict of Signal
        By name: driven by the bus, by the blocks, and by the registers.
    """

    def __init__(self, config):
        self.config = config
        self.bus = bus = AXI4LiteSubordinate(12, ADDRESS["STATE_DATA"] >> 2)
        self.core, self.loader, self.guard, self.watchdog = Core(config), Loader(config), FrameGuard(config), Watchdog()
        self.reader = StreamReader(config) if config.stream else None
        core, loader, guard, watchdog, reader = self.core, self.loader, self.guard, self.watchdog, self.reader
        self.accesses = {name: getattr(bus, name) for name in (
            "write", "write_address", "write_data", "read_asked", "read", "read_address")}
        self.inputs = {
            **{name: getattr(core, name) for name in (
                "idle", "waiting_frame", "frame_short", "frame_long", "frame_bank", "state_value", "state_writing")},
            "state_valid": core.state_value_valid,
            "frame_sent": guard.sent, "out_valid": guard.o.valid, "out_ready": guard.o.ready, "midway": guard.midway,
            "core_moves": core.moves, "frame_valid": core.frames.valid, "stalled": watchdog.stalled,
            "cause": watchdog.cause,
            **{name: getattr(loader, name) for name in ("loaded", "loading", "error", "error_section")},
            **{f"event_{name}": getattr(core.events, name) for name in COUNTERS},
        }
        self.outputs = {
            "write_known": bus.write_known, "read_data": bus.read_data, "read_known": bus.read_known,
            "read_wait": bus.read_wait, "write_wait": bus.write_wait, "write_hold": bus.write_hold,
            "core_reset": Signal(init=1), "load": Signal(), "irq": Signal(), "run": core.run,
            "select": Value.cast(core.state_select), "state_write": core.state_write, "state_data": core.state_data,
            "restart": core.state_restart, "wanted": core.state_wanted, "take": core.state_take,
            **{name: getattr(watchdog, name) for name in ("works", "moves", "waits", "clear")},
            "word": loader.word, "word_valid": loader.word_valid}
        if config.models > 1:
            self.inputs |= {"models": core.models, "model_size": core.model_size}
            self.outputs["model"] = core.model_select
        if reader:
            self.inputs |= {"stream_error": reader.error, "stream_error_line": reader.error_line,
                            "reader_idle": reader.idle, "r_valid": reader.bus.r.valid}
            self.outputs["base"] = reader.base

    def ports(self):
        """Name, value and whether it is an input, of each port."""
        return [(name, Value.cast(value), signals is not self.outputs)
                for signals in (self.accesses, self.inputs, self.outputs) for name, value in signals.items()]

    def elaborate(self, platform):
        m = Module()
        registers = ControlRegisters(self.config, self.bus, self.core, self.loader, self.guard, self.watchdog,
                                     self.reader)
        registers.elaborate(m, *(self.outputs[name] for name in ("core_reset", "load", "irq")))
        return DomainRenamer({"core": "sync"})(ResetInserter({"core": self.outputs["core_reset"]})(m))


class Served(Elaboratable):
    """The registers behind their bus."""

    def __init__(self, config):
        self.registers = Registers(config)

    def __getattr__(self, name):
        return getattr(self.registers, name)

    def elaborate(self, platform):
        m = Module()
        m.submodules.bus = self.bus
        m.submodules.registers = self.registers
        return m


class Model:
    """What the registers hold, and what a cycle's accesses and inputs make of them."""

    def __init__(self, config):
        self.config = config
        self.run = self.select = self.enabled = self.pending = self.high = self.base = self.model = 0
        self.core_reset, self.load, self.usable = 1, 0, 0
        self.resets = [False] * 3
        self.taken = 0
        self.data = self.loads = self.state_written = self.selected = self.asked = self.take = self.read = 0
        self.before = {"loaded": 0, "refused": 0, "failed": 0, "stalled": 0}
        self.counters, self.counted = dict.fromkeys(COUNTERS, 0), dict.fromkeys(COUNTERS, 0)

    def exists(self, name):
        return name is not None and (self.config.stream or not name.startswith("STREAM")) and (
            self.config.models > 1 or not name.startswith("MODEL"))

    def outputs(self):
        return {"core_reset": self.core_reset, "load": self.load, "run": self.run, "select": self.select,
                "state_write": self.state_written, "word_valid": self.loads,
                "restart": int(self.selected or not self.usable),
                "wanted": int(self.asked and self.usable), "take": self.take,
                "irq": int(self.pending & self.enabled != 0), "base": self.base, "model": self.model}

    def watched(self, row):
        """What the watchdog is told."""
        outstanding = self.core_reset and not row["reader_idle"]
        rests = row["idle"] and not row["out_valid"] and not self.core_reset
        clears = row["write"] and NAMES.get(row["write_address"]) == "CONTROL" and row["write_data"] & Control.RESET
        return {
            "works": int(row["loaded"] and outstanding if self.core_reset else row["midway"] or not rests),
            "moves": int(row["core_moves"] or self.taken),
            "waits": int(row["event_starved"] != 0 or outstanding) | (row["out_valid"] and not row["out_ready"]) << 1
            | (row["midway"] and not row["frame_valid"]) << 2,
            "clear": int(bool(clears or self.load))}

    def of_state(self, row):
        """What an access has to wait for."""
        number = NAMES.get(row["read_address"]) == "STATE_DATA" and self.usable
        return {"read_wait": int(number and (self.state_written or self.selected or not row["state_valid"])),
                "write_wait": int(self.state_written or row["state_writing"]),
                "write_hold": int(row["read_asked"] or self.read)}

    def write_known(self, name):
        return self.exists(name) and name in WRITABLE and bool(self.usable or not name.startswith("STATE"))

    def read_known(self, name):
        return self.exists(name) and name in READABLE and bool(name != "STATE_DATA" or self.usable)

    def value(self, name, row):
        """What a register reads as."""
        counter, _, half = name.rpartition("_")
        if counter.lower() in COUNTERS:
            return self.high if half == "HIGH" else self.counters[counter.lower()] & 0xFFFFFFFF
        config = self.config
        status = {Status.LOADED: row["loaded"], Status.LOADING: row["loading"],
                  Status.IDLE: self.usable, Status.WAITING_FRAME: row["waiting_frame"],
                  Status.OUTPUT_BLOCKED: row["out_valid"] and not row["out_ready"], Status.STALLED: row["stalled"]}
        return {
            "ID": MAGIC, "VERSION": VERSION, "FINGERPRINT": config.fingerprint,
            "CAPACITY": config.pes | config.channels << 16 | config.groups << 24, "BANKS": config.banks,
            "CONTROL": self.run,
            "STATUS": sum(flag for flag, is_set in status.items() if is_set),
            "IMAGE_ERROR": row["error"] | row["error_section"] << 8, "INTERRUPT": self.pending,
            "INTERRUPT_ENABLE": self.enabled, "STATE_SELECT": self.select,
            "STATE_DATA": row["state_value"] & 0xFFFFFFFF,
            "STREAM_BASE_LOW": self.base & 0xFFFFFFFF, "STREAM_BASE_HIGH": self.base >> 32,
            "STALL": row["cause"],
            "STREAM_ERROR": row["stream_error"] | row["stream_error_line"] << 8,
            "MODELS": config.models | row["models"] << 8 | self.model << 16, "MODEL_SIZE": row["model_size"],
        }[name]

    def advance(self, row):
        """The next cycle: effects of a write, of a read, of events."""
        write = NAMES.get(row["write_address"]) if row["write"] else None
        write = write if self.exists(write) else None
        data = row["write_data"]
        control = Control(data & 7) if write == "CONTROL" else Control(0)
        read = NAMES.get(row["read_address"]) if row["read"] else None
        if read in {f"{name.upper()}_LOW" for name in COUNTERS}:
            self.high = self.counters[read[:-4].lower()] >> 32

        now = {"loaded": row["loaded"], "refused": int(row["error"] != 0), "failed": int(row["stream_error"] != 0),
               "stalled": row["stalled"]}
        events = {Interrupt.FRAME_SENT: row["frame_sent"], Interrupt.FRAME_SHORT: row["frame_short"],
                  Interrupt.FRAME_LONG: row["frame_long"], Interrupt.FRAME_BANK: row["frame_bank"],
                  **{flag: now[name] and not self.before[name] for flag, name in (
                      (Interrupt.IMAGE_LOADED, "loaded"), (Interrupt.IMAGE_REFUSED, "refused"),
                      (Interrupt.STREAM_FAILED, "failed"), (Interrupt.STALLED, "stalled"))}}
        cleared = data if write == "INTERRUPT" else 0
        self.pending = self.pending & ~cleared | sum(flag for flag, happens in events.items() if happens)
        self.before = now

        for name in COUNTERS:
            if self.core_reset:
                self.counters[name] = self.counted[name] = 0
            else:
                self.counters[name] += self.counted[name]
                self.counted[name] = row[f"event_{name}"]
        waits = self.of_state(row)["read_wait"]
        if write == "STATE_SELECT" and self.usable:
            self.select = data
        elif self.state_written or self.take:
            self.select = self.select & ~0xFFFF | self.select + 1 & 0xFFFF
        self.selected = int(write == "STATE_SELECT" and self.usable)
        self.asked = int(row["read_asked"] and waits)
        self.take = int(row["read"] and read == "STATE_DATA" and self.usable)
        self.read = row["read_asked"]
        if write == "INTERRUPT_ENABLE":
            self.enabled = data & 0b11111111
        if write == "MODELS":
            self.model = data >> 16 & 0xFF
        if write == "STREAM_BASE_LOW":
            self.base = self.base >> 32 << 32 | data & ~0xFFF
        if write == "STREAM_BASE_HIGH":
            self.base = self.base & 0xFFFFFFFF | data << 32
        if write == "CONTROL":
            self.run = int(Control.RUN in control and Control.LOAD not in control)
        self.state_written = int(write == "STATE_DATA" and self.usable)
        self.data, self.loads = data, int(write == "LOAD")
        self.taken = int((row["out_valid"] and row["out_ready"]) or row["r_valid"])
        rests = row["idle"] and not row["out_valid"] and not self.core_reset
        self.usable = int(rests)
        outstanding = self.core_reset and not row["reader_idle"]
        self.core_reset = int(not row["loaded"] or Control.RESET in control or self.load or any(self.resets)
                              or outstanding)
        self.resets = [Control.RESET in control or self.load, *self.resets[:-1]]
        self.load = int(Control.LOAD in control)


class Bench:
    """Random accesses, random blocks; every cycle is recorded."""

    def __init__(self, config, rng):
        #: How often the core rests.
        self.config, self.rng, self.quiet = config, rng, 0.99
        self.dut = dut = Served(config)
        self.rows = []
        #: How often an input is 1 or takes another value.
        self.chances = dict.fromkeys(dut.inputs, 0.5) | dict.fromkeys(
            ("frame_sent", "frame_short", "frame_long", "frame_bank", "error", "stream_error"), 0.05) | {
            "idle": self.quiet, "out_valid": 1 - self.quiet, "stalled": 0.1, "loaded": 0.998, "reader_idle": 0.7}
        self.seen = dut.accesses | dut.inputs | dut.outputs

    def address(self):
        """A register's, twice in three; the states' and the control's more often than others'."""
        rng = self.rng
        names = list(ADDRESS) + ["STATE_SELECT", "STATE_DATA", "STATE_DATA", "CONTROL", "INTERRUPT"] * 4
        return ADDRESS[rng.choice(names)] if rng.random() < 0.67 else int(rng.integers(1 << 10)) << 2

    async def record(self, ctx):
        signals = list(self.seen.values())
        async for _, _, *values in ctx.tick().sample(*signals):
            self.rows.append({"stream_error": 0, "stream_error_line": 0, "reader_idle": 1, "base": 0, "r_valid": 0,
                              "models": 1, "model_size": 0, "model": 0,
                              **dict(zip(self.seen, values, strict=True))})

    async def blocks(self, ctx):
        rng = self.rng
        while True:
            for name, signal in self.dut.inputs.items():
                chance = self.chances[name]
                shape = raw(signal).shape().width
                ctx.set(signal, int(rng.integers(1 << shape)) if shape > 1 and rng.random() < chance
                        else int(rng.random() < chance) if shape == 1 else 0)
            await ctx.tick()

    def run(self, accesses, stalls):
        dut, rng = self.dut, self.rng
        answers = []

        async def write(ctx):
            for _ in range(accesses):
                await pause(ctx, rng, stalls)
                await put(ctx, dut.bus.bus.aw, {"addr": self.address(), "prot": 0})

        async def write_data(ctx):
            for _ in range(accesses):
                await pause(ctx, rng, stalls)
                await put(ctx, dut.bus.bus.w, {"data": int(rng.integers(1 << 32)), "strb": 15})

        async def responses(ctx):
            for _ in range(accesses):
                await pause(ctx, rng, stalls)
                answers.append(await get(ctx, dut.bus.bus.b))

        async def read(ctx):
            for _ in range(accesses):
                await pause(ctx, rng, stalls)
                await put(ctx, dut.bus.bus.ar, {"addr": self.address(), "prot": 0})

        async def read_data(ctx):
            for _ in range(accesses):
                await pause(ctx, rng, stalls)
                await get(ctx, dut.bus.bus.r)

        simulate(dut, write, write_data, responses, read, read_data, background=[self.blocks, self.record],
                 limit=100 * accesses)
        return answers


@seeds(2)
@pytest.mark.parametrize("stalls", [0.0, 0.6])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_registers_are_the_table(config, stalls, seed):
    bench = Bench(config, generator(seed))
    answers = bench.run(150, stalls)
    model = Model(config)
    written, given, asked = [], [], None
    for row in bench.rows:
        outputs = model.outputs() | model.watched(row) | model.of_state(row)
        assert {name: row[name] for name in outputs} == outputs
        if row["word_valid"]:
            assert row["word"] == model.data
        if row["state_write"]:
            assert row["state_data"] == model.data
        if row["write"]:
            name = NAMES.get(row["write_address"])
            assert row["write_known"] == model.write_known(name), name
            written.append(OKAY if row["write_known"] else SLVERR)
        if asked:
            name, known, value = asked
            assert row["read_known"] == known, name
            if known:
                assert row["read_data"] == value, name
                given.append(name)
        asked = None
        if row["read"]:
            name = NAMES.get(row["read_address"])
            known = model.read_known(name)
            asked = name, known, model.value(name, row) if known else None
        model.advance(row)
    assert written[:len(answers)] == answers
    assert {OKAY, SLVERR} <= set(answers)
    assert {"CONTROL", "INTERRUPT", "STATE_SELECT", "STATE_DATA"} <= set(given)


def test_a_counter_is_read_in_two_halves_of_one_moment():
    dut = Served(TINY)
    halves = []

    async def bench(ctx):
        ctx.set(dut.loader.loaded, 1)
        ctx.set(dut.core.events.busy, 0xFFFFFF)
        await cycles(ctx, 600)
        ctx.set(dut.core.events.busy, 0)
        await cycles(ctx, 2)
        for name in ("BUSY_LOW", "BUSY_HIGH", "CYCLES_LOW", "BUSY_HIGH"):
            await put(ctx, dut.bus.bus.ar, {"addr": ADDRESS[name], "prot": 0})
            halves.append((await get(ctx, dut.bus.bus.r)).data)

    simulate(dut, bench, limit=1000)
    low, high, _, other = halves
    # The core's reset ends in the cycle after the image is loaded.
    assert high << 32 | low == 599 * 0xFFFFFF and high > 0
    assert other == 0, "the upper half is that of the counter whose lower half was read"


def test_both_halves_of_every_counter():
    """A few events of each kind: the lower half has them all, and no bit of the upper half is set."""
    dut = Served(TINY)
    found = {}

    async def bench(ctx):
        ctx.set(dut.loader.loaded, 1)
        await cycles(ctx, 5)
        events = {name: getattr(dut.core.events, name) for name in COUNTERS}
        for event in events.values():
            ctx.set(event, (1 << len(event)) - 1)
        await cycles(ctx, 3)
        for event in events.values():
            ctx.set(event, 0)
        await cycles(ctx, 2)
        for name, event in events.items():
            for half in ("LOW", "HIGH"):
                await put(ctx, dut.bus.bus.ar, {"addr": ADDRESS[f"{name.upper()}_{half}"], "prot": 0})
                found[name, half] = (await get(ctx, dut.bus.bus.r)).data
            assert found[name, "LOW"] == 3 * ((1 << len(event)) - 1), name

    simulate(dut, bench, limit=2000)
    assert len(found) == 2 * len(COUNTERS)
    assert not any(value for (_, half), value in found.items() if half == "HIGH")
