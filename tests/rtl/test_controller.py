# SPDX-License-Identifier: Apache-2.0
"""Controller: random programs, carried out in order, against blocks that take their time."""

from dataclasses import replace

import pytest
from amaranth.lib.data import ArrayLayout
from bench import TINY, cycles, generator, raw, seeds, simulate
from models import random_quantized

from openese.rtl.controller import Controller
from openese.rtl.interfaces import MAX_OPERATIONS
from openese.rtl.program import Instruction, Kin, Opcode, Source, Take, When
from openese.sw.pack.together import schedule_all

#: Holds three models.
SEVERAL = TINY.replace(name="several", models=3, program_depth=128)
FORMATS = ("cell_argument_shift", "peephole_select", "cell_select", "g_sigmoid")


def random_program(rng, config, length, others=True):
    """FORMAT, then a loop of anything that begins with a FRAME; fields have all their bits.

    With ``others`` there are CLEARs and more JUMPs in it.
    """
    members = Instruction(config).members

    def number(shape):
        if isinstance(shape, ArrayLayout):
            return [number(shape.elem_shape) for _ in range(shape.length)]
        return int(rng.integers(1 << shape))

    program = [{"opcode": Opcode.FORMAT, "count": number(members["count"])},
               {"opcode": Opcode.FRAME, "when": Take.WAIT}]
    for _ in range(length):
        opcode = rng.choice([Opcode.MULTIPLY] * 5 + [Opcode.ELEMENTWISE, Opcode.PROJECT, Opcode.OUTPUT])
        program.append({name: number(shape) for name, shape in members.items()} | {
            "opcode": Opcode(opcode), "when": When(int(rng.integers(4))), "source": Source(int(rng.integers(3))),
            "src_base": number(config.line_bits), "dst_base": number(config.line_bits)})
    more = [Opcode.CLEAR] * int(rng.integers(4)) + [Opcode.JUMP] * int(rng.integers(4)) if others else []
    for extra in [*({"opcode": opcode} for opcode in more), {"opcode": Opcode.FRAME, "when": Take.TRY}]:
        program.insert(int(rng.integers(2, len(program) + 1)), extra)
    tries = len(program) - 1
    program.append({"opcode": Opcode.JUMP, "src_base": 1})
    # Every other jump goes on, and past no TRY: else no frame would be taken any more.
    for place in range(len(program) - 2, -1, -1):
        if program[place]["opcode"] is Opcode.FRAME:
            tries = place
        elif program[place]["opcode"] is Opcode.JUMP:
            target = int(rng.integers(place + 1, max(tries, place + 1) + 1))
            program[place] = {"opcode": Opcode.JUMP, "when": When(int(rng.integers(4))), "src_base": target}
    program[1]["follow"] = int(rng.integers(2))
    return program


class Reference:
    """What a program does next, as soon as it is known whether a FRAME TRY got its frame."""

    def __init__(self, config, program, frames):
        self.rows = config.accumulator_rows
        self.fields = Instruction(config).members
        self.program = program
        self.frames = frames
        self.counter = 0
        self.missed = True
        self.stale = self.made = False
        #: The host has written a state since the FRAME that the controller waits in was reached.
        self.written = False
        self.bank = 0
        self.voices = self.step = (0, 0, 0)
        #: Assemble has begun a step; the last frame was of the same model as the one before.
        self.began, self.alone = False, True
        self.back = 0
        self.buffer = 0
        self.taken = 0
        #: The instruction of the last event.
        self.instruction = None
        #: The FRAME WAIT that took the last frame.
        self.frame = None

    def drop(self):
        """The frame breaks off, as the last operation that reads it ends."""
        assert self.instruction["opcode"] is Opcode.MULTIPLY and self.instruction["release"]
        self.counter, self.stale, self.made = self.frame, True, True

    def next(self, kind):
        """The next event, given that it is of ``kind``: what it must show."""
        while True:
            instruction = self.instruction = self.program[self.counter]
            opcode = instruction["opcode"]
            self.counter += 1
            if opcode is Opcode.JUMP:
                if not self.skips(instruction):
                    self.counter = (self.program[self.voices[2]]["late"] if instruction.get("turn")
                                    else instruction["src_base"])
            elif opcode is Opcode.FORMAT:
                return "format", instruction["count"]
            elif opcode is Opcode.FRAME:
                if instruction["when"] == Take.TRY:
                    self.missed, self.stale, self.made = kind != "take early", False, False
                    if self.missed:
                        continue
                elif not self.missed:
                    continue
                self.alone = self.frames[self.taken][2] == self.voices[2]
                if instruction["when"] != Take.TRY:
                    self.stale |= (self.written or self.frames[self.taken][1] != 0 or not self.made
                                   or not self.alone)
                    self.written = False
                self.voices, self.buffer = self.frames[self.taken], self.taken % 2
                self.taken += 1
                self.frame = self.counter - 1
                if "begin" in self.program[0]:
                    self.back = self.counter
                    self.counter = self.program[self.voices[2]]["early" if kind == "take early" else "begin"]
                return kind, None
            elif opcode is Opcode.MULTIPLY:
                kin = instruction.get("kin", Kin.ANY)
                if (self.skips(instruction) or (instruction.get("sent") and not self.alone)
                        or kin == (Kin.OTHER if self.alone else Kin.SAME)):
                    self.counter = self.back if instruction.get("turn") else self.counter
                    continue
                self.made |= bool(instruction.get("sent"))
                self.counter = self.back if instruction.get("turn") else self.counter
                return "multiply", self.multiply(instruction)
            elif opcode is Opcode.OUTPUT:
                return "output", (instruction["count"], instruction["src_base"], self.step[0])
            elif opcode is Opcode.CLEAR:
                if not self.made:
                    continue
                return "clear", None
            else:
                return "assemble", self.assemble(instruction)

    def skips(self, instruction):
        holds = {When.ALWAYS: True, When.TAKEN: not self.missed, When.MISSED: self.missed, When.STALE: self.stale}
        return not holds[instruction["when"] if "when" in instruction else When.ALWAYS]

    def place(self, instruction):
        return (instruction["acc_base"] + self.bank * instruction.get("acc_offset", 0)) % self.rows

    def multiply(self, instruction):
        second = instruction["source"] is Source.INPUT and self.buffer
        clear = self.voices[1] if instruction["source"] is Source.RECURRENT else 0
        context = {name: instruction[name] for name in ("entry_base", "phase_stride", "phase_last")}
        align = [int(value) for value in instruction.get("align", [0])]
        context["align"] = align if instruction.get("gated") else align[:1] * 4
        others = "turn" in self.fields and instruction["source"] is Source.RECURRENT and (
            not self.began or self.voices[2] != self.step[2])
        return (instruction["dst_base" if second else "src_base"], clear, instruction["count"],
                instruction["order_base"], {**context, "acc_base": self.place(instruction)},
                int(bool(instruction["follow"] and not others)))

    def assemble(self, instruction):
        place = instruction["acc_base"]
        if instruction["opcode"] is Opcode.ELEMENTWISE:
            place = self.place(instruction)
            self.bank ^= instruction["acc_offset"] != 0
            self.step, self.began = self.voices, True
        return (place, instruction["rows"], [instruction.get(name, 0) for name in FORMATS], list(instruction["shift"]),
                *self.step[:2])


class Bench:
    """The controller among blocks that are busy for random times."""

    def __init__(self, config, rng, program, frames, slow=1):
        self.config = config
        self.rng = rng
        self.slow, self.most = slow, 0
        self.dut = Controller(config)
        self.program = program
        self.frames = frames
        self.reference = Reference(config, program, frames)
        self.sent = self.done = self.waited = self.written = self.drops = 0
        self.longest = int(rng.integers(1, 25))

    def time(self):
        return int(self.rng.integers(1, self.longest + 1))

    async def load(self, ctx):
        layout = Instruction(self.config)
        ctx.set(self.dut.program_valid, 1)
        for address, fields in enumerate(self.program):
            ctx.set(self.dut.program, {"address": address, "data": layout.pack(**fields)})
            await ctx.tick()
        ctx.set(self.dut.program_valid, 0)

    async def run(self, ctx, limit):
        """Drive the blocks and compare every event, until the frames are used up."""
        dut, rng = self.dut, self.rng
        await self.load(ctx)
        multiply = assemble = output = 0
        target, queue = None, []
        clearing = took = frame_ready = False
        partial = broken = 0  # cycles in which the frame that was taken still comes in, and is broken
        idle = [False, False]
        for _ in range(limit):
            was_ready, was_partial = frame_ready, partial > 0
            there = self.reference.taken < len(self.frames) and not (partial or broken)
            ready = frame_ready = there and rng.random() < 0.3
            coming = there and not ready and rng.random() < 0.3
            runs = rng.random() < 0.9
            ctx.set(dut.run, runs)
            # A write begins while the machine is idle, and takes effect two cycles later.
            written = idle[0] and rng.random() < 0.1
            ctx.set(dut.state_written, written)
            writing = rng.random() < 0.1
            ctx.set(dut.state_writing, writing)
            ctx.set(dut.frame_ready, ready)
            ctx.set(dut.frame_coming, coming)
            ctx.set(dut.frame_partial, partial > 0)
            ctx.set(dut.frame_broken, broken > 0)
            coming &= ctx.get(dut.instruction.follow)
            if ctx.get(dut.waiting_frame):
                assert not ((ready or coming) and runs) and not ctx.get(dut.frame_take)
                self.waited += 1
            if self.reference.taken < len(self.frames):
                active, reset, model = self.frames[self.reference.taken]
                ctx.set(dut.frame_active, active)
                ctx.set(dut.frame_reset, reset)
                if self.config.models > 1:
                    ctx.set(dut.frame_model, model)
            ctx.set(dut.frame_buffer, self.reference.taken % 2)
            ctx.set(dut.multiply_busy, multiply > 0)
            ctx.set(dut.assemble_busy, assemble > 0)
            ctx.set(dut.output_busy, output > 0)
            # Operations complete in order, some time after their last column.
            finished = bool(queue) and queue[0] == 0 and rng.random() < 0.5
            ctx.set(dut.operation_done, finished)
            clears = ctx.get(dut.assemble) and ctx.get(dut.instruction.opcode) == Opcode.CLEAR
            for kind in ("format", "multiply", "assemble", "output"):
                if ctx.get(getattr(dut, kind)):
                    self.check(ctx, "clear" if kind == "assemble" and clears else kind)
            assert not (ctx.get(dut.frame_release) and (partial or broken))
            if ctx.get(dut.frame_drop):
                assert broken
                self.reference.drop()
                broken, self.drops = 0, self.drops + 1
            elif broken:
                broken -= 1
            elif partial:
                partial -= 1
                broken = 0 if partial else int(rng.integers(2)) * 200
            takes = ctx.get(dut.frame_take)
            if takes:
                assert (ready or coming and ctx.get(dut.instruction.when) == Take.WAIT) and ctx.get(dut.run)
                partial = 0 if ready else self.time()
                self.check(ctx, "take early" if ctx.get(dut.instruction.when) == Take.TRY else "take")
            if written:
                self.written += 1
                if takes or took:
                    self.reference.stale = True
                else:
                    self.reference.written = True
            took = takes
            if ctx.get(dut.multiply):
                assert multiply == 0
                assert not (clearing and assemble), "the accumulators are still being cleared"
                if ctx.get(dut.instruction.sent):
                    assert not (output and not was_ready), "y would be sent late"
                    assert ctx.get(dut.instruction.follow) or not assemble, "y is not complete"
                if ctx.get(dut.instruction.source) == Source.INPUT:
                    assert ctx.get(dut.instruction.follow) or not was_partial, "x is not complete"
                multiply = self.time() + 1
                queue.append(self.slow * self.time())
                self.sent += 1
                self.most = max(self.most, self.sent - self.done)
                assert self.sent - self.done <= MAX_OPERATIONS
            if ctx.get(dut.output):
                assert output == 0
                output = self.time() + 1
            if ctx.get(dut.assemble):
                assert assemble == 0
                assert not writing, "a c of the host would be late"
                clearing = clears
                assert not clears or self.sent == self.done, "sums would be cleared under way"
                assert not (output and ctx.get(dut.instruction.sent)), "y would change while it is sent"
                assemble, target = self.time() + 1, self.sent
            elif assemble:
                ready = ctx.get(dut.assemble_go)
                if target is not None:
                    assert ready == (self.done >= target), "go is exactly: all sent before are done"
                    target = None if ready else target
                if target is not None:
                    assemble += 1
            assert ctx.get(dut.step) == ctx.get(dut.output)
            idle = [idle[1], ctx.get(dut.idle)]
            if idle[1]:
                assert not (assemble or output or multiply)
            await ctx.tick()
            multiply, assemble, output = (max(0, left - 1) for left in (multiply, assemble, output))
            if finished:
                queue.pop(0)
                self.done += 1
            elif queue:
                queue[0] = max(0, queue[0] - 1)
        assert self.reference.taken == len(self.frames), "the program has come to a stop"
        assert self.waited

    def check(self, ctx, kind):
        dut = self.dut
        instruction = dut.instruction
        if kind == "format":
            got = ctx.get(instruction.count)
        elif kind in ("take", "take early", "clear"):
            got = None
        elif kind == "multiply":
            assert ctx.get(dut.context_valid)
            assert ctx.get(dut.operation) == self.sent % (1 << self.config.operation_bits)
            context = ctx.get(dut.context)
            fields = {name: context[name] for name in ("entry_base", "phase_stride", "phase_last")}
            got = (ctx.get(dut.src_base), ctx.get(dut.clear), ctx.get(instruction.count),
                   ctx.get(instruction.order_base),
                   {**fields, "align": list(context.align), "acc_base": context.acc_base},
                   ctx.get(dut.follow if self.config.models > 1 else instruction.follow))
        elif kind == "output":
            got = (ctx.get(instruction.count), ctx.get(dut.src_base), ctx.get(dut.output_active))
        else:
            settings = ctx.get(dut.settings)
            got = (ctx.get(dut.acc_base), ctx.get(instruction.rows), [settings[name] for name in FORMATS],
                   list(settings.shift), settings.active, settings.reset)
        assert (kind, got) == self.reference.next(kind)
        assert ctx.get(raw(instruction)) == Instruction(self.config).pack(**self.reference.instruction)


@seeds(6)
def test_random_programs(seed):
    rng = generator(seed)
    program = random_program(rng, TINY, int(rng.integers(4, 30)))
    frames = [(*rng.integers(0, 1 << TINY.channels, 2).tolist(), 0) for _ in range(12)]
    bench = Bench(TINY, rng, program, frames)
    simulate(bench.dut, lambda ctx: bench.run(ctx, 6000), limit=8000)


@pytest.mark.parametrize("forward", [False, True])
def test_a_frame_that_breaks_off(forward):
    """The controller goes back to the FRAME, and all that was made for it is stale; a whole one goes on."""
    rng = generator(0)
    config = TINY.replace(forward=forward)
    program = [{"opcode": Opcode.FORMAT}, {"opcode": Opcode.FRAME, "when": Take.WAIT, "follow": 1},
               {"opcode": Opcode.JUMP, "when": When.STALE, "src_base": 6},
               {"opcode": Opcode.MULTIPLY, "source": Source.INPUT, "follow": 1},
               {"opcode": Opcode.MULTIPLY, "source": Source.INPUT, "release": 1},
               {"opcode": Opcode.JUMP, "src_base": 8},
               {"opcode": Opcode.CLEAR}, {"opcode": Opcode.JUMP, "src_base": 3},
               {"opcode": Opcode.ELEMENTWISE}, {"opcode": Opcode.FRAME, "when": Take.TRY},
               {"opcode": Opcode.MULTIPLY, "sent": 1, "follow": 1}, {"opcode": Opcode.JUMP, "src_base": 1}]
    layout = Instruction(config).members
    program = [{name: [0] * shape.length if isinstance(shape, ArrayLayout) else 0 for name, shape in layout.items()}
               | fields for fields in program]
    bench = Bench(config, rng, program, [(3, 0, 0)] * 30)
    simulate(bench.dut, lambda ctx: bench.run(ctx, 8000), limit=10_000)
    assert 3 < bench.drops < 25


@pytest.mark.parametrize("forward", [False, True])
@seeds(3)
def test_the_program_of_several_models(seed, forward):
    """Frames of random models, in time or late, on the program that the packer writes for all."""
    rng = generator(seed)
    config = SEVERAL.replace(forward=forward)
    models = [replace(random_quantized(seed, config, 5, *shape, peephole=False), name=str(shape))
              for shape in ([(9, 6)], [7], [4, (8, 5), 6])]
    plans = schedule_all(models, config if seed else config.replace(program_depth=64))
    frames = [(*rng.integers(0, 1 << config.channels, 2).tolist(), int(rng.integers(3))) for _ in range(40)]
    bench = Bench(config, rng, plans[0].instructions, frames)
    bench.longest = 8
    simulate(bench.dut, lambda ctx: bench.run(ctx, 12000), limit=16000)


@seeds(2)
def test_operations_that_end_late(seed):
    """As many as there may be are under way, and no more."""
    rng = generator(seed)
    bench = Bench(TINY, rng, random_program(rng, TINY, 20, others=False), [(3, 0, 0)] * 3, slow=12)
    bench.longest = 5
    simulate(bench.dut, lambda ctx: bench.run(ctx, 5000), limit=8000)
    assert bench.most == MAX_OPERATIONS


def test_a_program_of_all_instructions_there_are():
    rng = generator(0)
    program = random_program(rng, TINY, TINY.program_depth - 4, others=False)
    assert len(program) == TINY.program_depth
    bench = Bench(TINY, rng, program, [(3, 0, 0)] * 4)
    simulate(bench.dut, lambda ctx: bench.run(ctx, 6000), limit=8000)


async def load(ctx, dut, program):
    """Write the fields of each instruction into the program."""
    ctx.set(dut.program_valid, 1)
    for address, fields in enumerate(program):
        ctx.set(dut.program, {"address": address, "data": Instruction(TINY).pack(**fields)})
        await ctx.tick()
    ctx.set(dut.program_valid, 0)


@pytest.mark.parametrize("release", [0, 1])
def test_a_buffer_is_released_after_the_last_column_is_sent(release):
    dut = Controller(TINY)
    program = [{"opcode": Opcode.MULTIPLY, "release": release}, {"opcode": Opcode.FRAME, "when": Take.WAIT}]
    seen = []

    async def bench(ctx):
        await load(ctx, dut, program)
        ctx.set(dut.run, 1)
        while not ctx.get(dut.multiply):
            await ctx.tick()
        await ctx.tick()
        ctx.set(dut.multiply_busy, 1)
        for _ in range(10):
            assert not ctx.get(dut.frame_release)
            await ctx.tick()
        ctx.set(dut.multiply_busy, 0)
        for _ in range(10):
            seen.append(ctx.get(dut.frame_release))
            await ctx.tick()
        assert ctx.get(dut.waiting_frame) and ctx.get(dut.idle)

    simulate(dut, bench, limit=100)
    assert seen == [release, *[0] * 9]


def test_a_cleared_run_keeps_the_program_from_starting():
    dut = Controller(TINY)

    async def bench(ctx):
        ctx.set(dut.program, {"address": 0, "data": Instruction(TINY).pack(opcode=Opcode.FORMAT)})
        ctx.set(dut.program_valid, 1)
        await ctx.tick()
        ctx.set(dut.program_valid, 0)
        for _ in range(10):
            assert ctx.get(dut.idle) and not ctx.get(dut.format)
            await ctx.tick()
        ctx.set(dut.run, 1)
        for _ in range(10):
            if ctx.get(dut.format):
                return
            await cycles(ctx, 1)
        raise AssertionError("the program has not started")

    simulate(dut, bench, limit=100)


@pytest.mark.parametrize("late", [0, 1])
def test_an_instruction_goes_on_as_soon_as_it_can(late):
    """In the cycle in which all that it waits for is over, after an odd or an even number of cycles."""
    dut = Controller(TINY)
    program = [{"opcode": Opcode.FORMAT}, {"opcode": Opcode.FRAME, "when": Take.WAIT},
               {"opcode": Opcode.MULTIPLY, "source": Source.INPUT, "release": 1}, {"opcode": Opcode.ELEMENTWISE},
               {"opcode": Opcode.MULTIPLY, "sent": 1}, {"opcode": Opcode.CLEAR}, {"opcode": Opcode.PROJECT},
               {"opcode": Opcode.OUTPUT}, {"opcode": Opcode.MULTIPLY, "sent": 1},
               {"opcode": Opcode.FRAME, "when": Take.WAIT}]

    async def bench(ctx):
        async def once(signal, delay=0, **inputs):
            """With these inputs ``signal`` comes ``delay`` cycles later, and not before."""
            for _ in range(8 + late):
                assert not ctx.get(signal)
                await ctx.tick()
            for name, value in inputs.items():
                ctx.set(getattr(dut, name), value)
            for _ in range(delay):
                assert not ctx.get(signal)
                await ctx.tick()
                ctx.set(dut.operation_done, 0)
            assert ctx.get(signal)
            await ctx.tick()

        await load(ctx, dut, program)
        ctx.set(dut.run, 1)
        await once(dut.frame_take, frame_ready=1, frame_partial=1)
        ctx.set(dut.frame_ready, 0)
        ctx.set(dut.multiply_busy, 1)
        await once(dut.multiply, frame_partial=0)
        ctx.set(dut.assemble_busy, 1)
        await once(dut.frame_release, multiply_busy=0, operation_done=1)
        ctx.set(dut.operation_done, 0)
        await once(dut.assemble, assemble_busy=0)
        ctx.set(dut.assemble_busy, 1)
        await once(dut.multiply, 1, assemble_busy=0)
        await once(dut.assemble, 1, operation_done=1)
        ctx.set(dut.assemble_busy, 1)
        await once(dut.assemble, 3, assemble_busy=0)
        ctx.set(dut.output_busy, 1)
        await once(dut.output, output_busy=0)
        ctx.set(dut.output_busy, 1)
        await once(dut.multiply, 1, frame_ready=1)
        ctx.set(dut.run, 0)
        await once(dut.frame_take, run=1)

    simulate(dut, bench, limit=500)
