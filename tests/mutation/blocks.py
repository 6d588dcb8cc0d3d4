# SPDX-License-Identifier: Apache-2.0
"""The blocks that are mutated, and the tests that may notice."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from openese.rtl.act_queue import ActQueue
from openese.rtl.assemble import Assemble
from openese.rtl.axi import AXI4LiteSubordinate
from openese.rtl.broadcast import Broadcast
from openese.rtl.config import preset
from openese.rtl.controller import Controller
from openese.rtl.elementwise import Slice
from openese.rtl.fifo import Fifo
from openese.rtl.frames import FrameGuard, FrameInput, FrameOutput
from openese.rtl.loader import Loader
from openese.rtl.pe import PE
from openese.rtl.ptr_read import PtrRead
from openese.rtl.spmat_read import SpmatRead
from openese.rtl.spmv import SpMV
from openese.rtl.state_access import StateAccess
from openese.rtl.vector_memory import VectorMemory
from openese.rtl.weight_stream import StreamFetch, StreamReader

# Its ports are in the test of the registers.
sys.path.append(str(Path(__file__).parents[1] / "rtl"))
from test_registers import Registers  # noqa: E402

__all__ = ["BLOCKS", "Block"]

# As the tests of the blocks have them.
TINY = preset("tiny")
SMALL = TINY.replace(column_depth=64)
STREAM = TINY.replace(index_bits=4, entry_depth=128, stream=True)
LINES = TINY.replace(pes=16, groups=2, slices=2, slice_width=8, forward=True)  # four lines are written in a cycle


_ON_TINY = tuple(f"tests/sw/test_cycles.py::test_it_agrees_with_the_machine_to_the_cycle[{name}]" for name in (
    "projection", "no-projection", "sparse", "dense", "unbalanced", "stack", "mixed-stack", "least", "many-inputs"))
_ON_TINY += tuple(f"tests/sim/test_device.py::test_{name}" for name in (
    *(f"equals_the_reference[{pace}-tiny-{shape}]" for pace in ("free", "paced")
      for shape in ("one layer", "projection", "two layers", "three projections")),
    "a_reset_in_any_cycle_of_a_step_leaves_nothing[tiny]", "a_reset_in_the_middle_of_a_step",
    "a_frame_is_under_way_until_it_is_sent",
    *(f"a_state_is_right_as_soon_as_it_is_answered[{offset}-{cell}]" for offset in (0, 3, 6, 9) for cell in (0, 1)),
    "states_are_read_and_written[tiny]", "a_state_is_written_right_after_a_load",
    "a_carried_state_is_read_but_not_written_again",
    "cycles_of_steps_leave_out_loads_and_states[1]", "cycles_of_steps_leave_out_loads_and_states[40]",
    "wrong_images_are_refused_and_the_next_is_taken", "frames_of_the_wrong_length_are_dropped[tiny]"))


@dataclass(frozen=True)
class Block:
    """A block with the widths of its tests.

    Attributes
    ----------
    make : callable
        Makes it.
    tests : tuple of str
        Files of tests in which it runs in Amaranth's simulator.
    machine : tuple of str
        Tests of the emitted Verilog of a machine that has the block.
    of_a_pe : bool
        The block is part of another that is mutated too: they are not in one machine.
    qualified : dict of str to str
        When outputs count, and
    assumed : tuple of str
        what the surroundings keep; see `netlist.contract`.
    """

    make: object
    tests: tuple
    machine: tuple = _ON_TINY
    of_a_pe: bool = False
    qualified: dict = field(default_factory=dict)
    assumed: tuple = ()


def _rtl(*names):
    return tuple(f"tests/rtl/test_{name}.py" for name in names)


#: When outputs of Assemble count.
_ASSEMBLE = {
    "drain_address": "drain", "write_line": "write_valid", "write_channels": "write_valid",
    "write_columns": "write_valid", "control.beat.kind": "control.beat.valid",
    "control.beat.first": "control.beat.valid", "control.beat.last": "control.beat.valid",
    "control.beat.row": "control.beat.valid | ~busy", "control.beat.beat": "control.beat.valid | ~busy"}

BLOCKS = {
    "act_queue": Block(lambda: ActQueue(TINY), _rtl("act_queue", "pe"), of_a_pe=True),
    "ptr_read": Block(lambda: PtrRead(TINY), _rtl("ptr_read", "array"), of_a_pe=True),
    "spmat_read": Block(lambda: SpmatRead(TINY), _rtl("spmat_read", "pe"), of_a_pe=True),
    "spmv": Block(lambda: SpMV(TINY), _rtl("spmv", "pe"), of_a_pe=True),
    "pe": Block(lambda: PE(TINY), _rtl("pe", "array")),
    "slice": Block(lambda: Slice(TINY), _rtl("elementwise", "assemble")),
    "assemble": Block(lambda: Assemble(TINY), _rtl("assemble"), qualified=_ASSEMBLE, assumed=("~(start & busy)",)),
    "assemble_forward": Block(lambda: Assemble(LINES), _rtl("assemble"), (), qualified=_ASSEMBLE,
                              assumed=("~(start & busy)",)),
    "controller": Block(lambda: Controller(TINY), _rtl("controller"), qualified={
        "src_base": "multiply | output", "clear": "multiply", "operation": "multiply", "context": "multiply",
        "acc_base": "multiply | assemble", "dst_base": "assemble", "settings": "assemble", "output_base": "output",
        "output_active": "output", "assemble_go": "assemble_busy"}),
    "broadcast": Block(lambda: Broadcast(SMALL), _rtl("broadcast"), (), qualified={
        "column": "column_valid", "read_line": "read_valid"}, assumed=("~(start & busy)",)),
    "frame_input": Block(lambda: FrameInput(TINY), _rtl("frames")),
    "frame_output": Block(lambda: FrameOutput(TINY), _rtl("frames")),
    "frame_input_lines": Block(lambda: FrameInput(LINES), _rtl("frames"), ()),
    "frame_output_lines": Block(lambda: FrameOutput(LINES), _rtl("frames"), ()),
    "frame_guard": Block(lambda: FrameGuard(TINY), _rtl("frames")),
    "loader": Block(lambda: Loader(TINY), _rtl("loader")),
    "stream_reader": Block(lambda: StreamReader(STREAM), _rtl("weight_stream"), ()),
    "stream_fetch": Block(lambda: StreamFetch(STREAM), _rtl("weight_stream"), (), qualified={
        "decisions__payload": "decisions__valid", "bursts__payload": "bursts__valid"}),
    "registers": Block(lambda: Registers(TINY), _rtl("registers"), ()),
    "axi_lite": Block(lambda: AXI4LiteSubordinate(12), _rtl("axi", "registers")),
    "fifo": Block(lambda: Fifo(8, 8), _rtl("fifo"), ()),
    "vector_memory": Block(lambda: VectorMemory(TINY), _rtl("vector_memory")),
    "vector_memory_lines": Block(lambda: VectorMemory(LINES), _rtl("vector_memory"), ()),
    "state_access": Block(lambda: StateAccess(TINY), _rtl("state_access")),
}
