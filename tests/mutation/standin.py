# SPDX-License-Identifier: Apache-2.0
"""Puts a mutated netlist in the place of a block, in Amaranth's simulator and in Verilog, whatever test makes it.

While it is `installed`, every block of its class whose description is the same is replaced. Other blocks of the
class, with other widths, stay.
"""

import contextlib
import ctypes
import functools
from unittest import mock

import amaranth.sim
import pytest
from amaranth.hdl import ClockSignal, Instance, Module, ResetInserter, ResetSignal, Signal

from openese.rtl.emit import VerilogPlatform

from .netlist import SELECT, WIDTH, description, ports_of

__all__ = ["StandIn"]


class _Object(ctypes.Structure):  # cxxrtl_object
    _fields_ = [("type", ctypes.c_uint32), ("flags", ctypes.c_uint32), ("width", ctypes.c_size_t),
                ("lsb_at", ctypes.c_size_t), ("depth", ctypes.c_size_t), ("zero_at", ctypes.c_size_t),
                ("curr", ctypes.POINTER(ctypes.c_uint32)), ("next", ctypes.POINTER(ctypes.c_uint32)),
                ("outline", ctypes.c_void_p), ("attrs", ctypes.c_void_p)]


class _Design:
    """One instance of the netlist."""

    def __init__(self, library, ports, number):
        self._library = library
        self._handle = library.cxxrtl_create(library.cxxrtl_design_create())
        inputs, outputs = ([(self._port(name), width) for name, width, is_input in ports if is_input == way]
                           for way in (True, False))
        assert all(port is not None for port, _ in outputs)
        self._inputs = [(index, port, width) for index, (port, width) in enumerate(inputs) if port is not None]
        self._outputs = [(port.curr, range(1, -(-width // 32))) for port, width in outputs]
        self._written = [None] * len(inputs)
        self._clock, self._reset = self._port("clk"), self._port("rst")
        self._write(self._port(SELECT), WIDTH, number)

    def _port(self, name):
        parts = ctypes.c_size_t()
        found = self._library.cxxrtl_get_parts(self._handle, name.encode(), ctypes.byref(parts))
        return found.contents if found else None

    @staticmethod
    def _write(port, width, value):
        if port is not None:
            for chunk in range(-(-width // 32)):
                port.next[chunk] = value >> 32 * chunk & 0xFFFFFFFF

    def _step(self, values):
        written = self._written
        for index, port, width in self._inputs:
            if values[index] != written[index]:
                self._write(port, width, values[index])
        self._written = values
        self._library.cxxrtl_step(self._handle)

    def _read(self):
        values = []
        for chunks, more in self._outputs:
            value = chunks[0]
            for chunk in more:
                value |= chunks[chunk] << 32 * chunk
            values.append(value)
        return values

    def evaluate(self, values):
        """The outputs with inputs of these ``values``."""
        self._step(values)
        return self._read()

    def edge(self, values, reset):
        """The outputs behind a rising edge."""
        self._write(self._reset, 1, reset)
        self._step(values)
        for level in (1, 0):
            self._write(self._clock, 1, level)
            self._library.cxxrtl_step(self._handle)
        return self._read()


class StandIn:
    """The netlist instead of the blocks that are as ``block``.

    Parameters
    ----------
    block : Elaboratable
    netlist : Netlist
    number : int
        The mutation; 0 is none.
    """

    def __init__(self, block, netlist, number):
        self._class = type(block)
        self._original = self._class.elaborate
        self._block = block
        self._netlist, self._number = netlist, number
        self._waiting = []
        #: How many blocks were replaced.
        self.used = 0

    @functools.cached_property
    def _wanted(self):
        return description(self._block, self._original)

    @functools.cached_property
    def _library(self):
        library = ctypes.CDLL(str(self._netlist.library))
        library.cxxrtl_design_create.restype = ctypes.c_void_p
        library.cxxrtl_create.restype, library.cxxrtl_create.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
        library.cxxrtl_step.argtypes = [ctypes.c_void_p]
        library.cxxrtl_get_parts.restype = ctypes.POINTER(_Object)
        library.cxxrtl_get_parts.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.POINTER(ctypes.c_size_t)]
        return library

    @contextlib.contextmanager
    def installed(self):
        """Replace blocks in the ``with`` block. A simulation in Amaranth of anything else is skipped."""
        stand_in, original, netlist = self, self._original, self._netlist

        def elaborate(block, platform):
            if description(block, original) != stand_in._wanted:
                return original(block, platform)
            stand_in.used += 1
            m = Module()
            # The block has a clock, and may have a reset of its own.
            clocked, reset = Signal(name="clocked"), Signal(name="reset")
            m.d.sync += clocked.eq(1)
            resets.append((clocked, reset))
            if isinstance(platform, VerilogPlatform):
                ports = {f"{'i' if is_input else 'o'}_{name}": value for name, value, is_input in ports_of(block)}
                choice = Signal(WIDTH)
                m.submodules.choice = Instance(netlist.choice, **{f"o_{SELECT}": choice})
                m.submodules.mutant = Instance(netlist.module, i_clk=ClockSignal(), i_rst=ResetSignal() | reset,
                                               **{f"i_{SELECT}": choice}, **ports)
            else:
                stand_in._waiting.append((block, reset))
            return m

        def insert(inserter, fragment, domain, driven):
            original_insert(inserter, fragment, domain, driven)
            signals = [signal for signal, _, _ in driven.chunks()]
            for clocked, reset in resets:
                if any(signal is clocked for signal in signals):
                    assert "comb" not in fragment.statements, "a block has one reset of its own"
                    fragment.add_statements("comb", reset.eq(inserter.controls[domain]))

        def begin(simulation, toplevel, **named):
            stand_in._waiting.clear()
            original_begin(simulation, toplevel, **named)
            if not stand_in._waiting:
                pytest.skip("simulates another block")
            for block, reset in stand_in._waiting:
                stand_in._attach(simulation, block, reset)

        resets = []
        original_begin, original_insert = amaranth.sim.Simulator.__init__, ResetInserter._insert_control
        with mock.patch.object(self._class, "elaborate", elaborate), \
                mock.patch.object(ResetInserter, "_insert_control", insert), \
                mock.patch.object(amaranth.sim.Simulator, "__init__", begin):
            yield

    def _attach(self, simulation, block, inserted):
        """Let a process of ``simulation`` carry out the netlist for ``block``; ``inserted`` resets it alone."""
        ports = ports_of(block)
        design = _Design(self._library, self._netlist.ports, self._number)
        inputs = [value for _, value, is_input in ports if is_input]
        outputs = [(value, value.shape()) for _, value, is_input in ports if not is_input]
        shown = [None] * len(outputs)
        domains = simulation._design.fragment.domains

        async def run(ctx):
            clock, reset = domains["sync"].clk, domains["sync"].rst
            trigger = ctx.edge(clock, 1).changed(*inputs).sample(reset | inserted)

            def show(values):
                for place, value in enumerate(values):
                    if value != shown[place]:
                        shown[place] = value
                        signal, shape = outputs[place]
                        negative = shape.signed and value >> shape.width - 1
                        ctx.set(signal, value - (1 << shape.width) if negative else value)

            show(design.evaluate([value.init for value in inputs]))
            async for edge, *values, resets in trigger:
                show(design.edge(values, resets) if edge else design.evaluate(values))

        simulation.add_process(run)
