# SPDX-License-Identifier: Apache-2.0
"""ProgramReader: the step program's memory, and the part of a state machine that walks it."""

from amaranth.hdl import Array, Module, Mux, Signal
from amaranth.lib import memory

from openese.rtl.config import bits_for
from openese.rtl.interfaces import LineWrite
from openese.rtl.program import ROUTINES, Instruction, Kin, When

__all__ = ["ProgramReader", "program_line"]


def program_line(config):
    """A write of one instruction, from the loader."""
    return LineWrite(bits_for(config.program_depth - 1), 32 * Instruction(config).words)


class ProgramReader:
    """Fetches and decodes instructions, for `Controller` and `StreamFetch`, which both walk the program.

    This is no module of its own. `elaborate` adds the memory to the module of the block that walks the program. Within
    that block's state machine, `fetch` adds the states before ``EXECUTE``, and `advance` or `jump` ends an instruction.

    Latency: `delay` cycles from an instruction to the one behind it, at least. Cost: one memory of ``program_depth``
    instructions.

    Attributes
    ----------
    instruction : Signal(Instruction)
        The instruction to carry out in state ``EXECUTE``.
    counter : Signal(bits_for(program_depth - 1))
        Its number.
    """

    delay = 3

    def __init__(self, config):
        instruction = Instruction(config)
        self.instruction = Signal(instruction, name="current")
        self._config = config
        #: The instruction behind the last FRAME TRY that took a frame, for a program of several models.
        self._back = Signal(bits_for(config.program_depth - 1), name="back")
        self._routines = {name: [Signal.like(self._back, name=f"{name}{k}") for k in range(config.models)]
                          for name in ROUTINES}
        self.counter = Signal(bits_for(config.program_depth - 1), name="counter")
        self._memory = memory.Memory(shape=32 * instruction.words, depth=config.program_depth, init=[])
        read = self._memory.read_port()
        self._read = read

    def elaborate(self, m: Module, load, load_valid):
        """Add the memory, which ``load`` (a `program_line`) fills."""
        m.submodules.program = self._memory
        write = self._memory.write_port()
        m.d.comb += [
            self._read.addr.eq(self.counter),
            self._read.en.eq(1),
            write.addr.eq(load.address),
            write.data.eq(load.data),
            write.en.eq(load_valid),
        ]

    def fetch(self, m: Module, back=None):
        """Add the states ``FETCH`` and ``DECODE``, which lead to ``EXECUTE``. ``back`` says that the instruction before
        is to be carried out first.
        """
        with m.State("FETCH"):
            m.next = "DECODE"
            if back is not None:
                with m.If(back):
                    m.d.sync += self.counter.eq(self.counter - 1)
                    m.next = "FETCH"
        with m.State("DECODE"):
            m.d.sync += self.instruction.eq(self._read.data)
            m.next = "EXECUTE"

    def advance(self, m: Module, passed=0):
        """Go on with the next instruction; ``passed`` says that it is passed over."""
        m.d.sync += self.counter.eq(self.counter + (1 + passed))
        m.next = "FETCH"

    def jump(self, m: Module, address):
        """Go on with the instruction at ``address``."""
        m.d.sync += self.counter.eq(address)
        m.next = "FETCH"

    # -- several models ------------------------------------------------------------------------

    def keep_routines(self, m: Module):
        """Keep the places of a model's routines, which a FORMAT names."""
        m.d.sync += [Array(places)[self.instruction.model].eq(self.instruction[name])
                     for name, places in self._routines.items()]

    def take(self, m: Module, model, early, passed=0):
        """A FRAME takes a frame of ``model``: go on with its early routine, or at the beginning of its program, whose
        first instruction is ``passed`` over or not."""
        m.d.sync += self._back.eq(self.counter + 1)
        begin = Array(self._routines["begin"])[model]
        if self._config.forward:
            begin += passed
        self.jump(m, Mux(early, Array(self._routines["early"])[model], begin))

    def kin(self, alone):
        """Whether a MULTIPLY is for the last frame, given whether that has the model and bank of the frame before."""
        kin = self.instruction.kin
        return ~((kin == Kin.SAME) & ~alone) & ~((kin == Kin.OTHER) & alone)

    def end_multiply(self, m: Module):
        """Go on behind a MULTIPLY, which may be the end of an early routine."""
        self.advance(m)
        if self._config.models > 1:
            with m.If(self.instruction.turn):
                self.jump(m, self._back)

    def follow_jump(self, m: Module, model):
        """Go on where a JUMP leads to, while the last frame taken is of ``model``."""
        target = self.instruction.src_base
        if self._config.models > 1:
            target = Mux(self.instruction.turn, Array(self._routines["late"])[model], target)
        self.jump(m, target)

    def skips(self, missed, stale):
        """Whether a MULTIPLY or JUMP is passed over, given whether the last ``FRAME TRY`` found no frame, and whether
        products of y are stale; see `When`.
        """
        when = self.instruction.when
        return ((when == When.TAKEN) & missed) | ((when == When.MISSED) & ~missed) | ((when == When.STALE) & ~stale)
