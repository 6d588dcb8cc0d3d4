# SPDX-License-Identifier: Apache-2.0
"""The step program: the instructions that the controller carries out for every frame.

A model is run by a short list of instructions in the image. Another model, another number of layers or another order of
the work is therefore a write, not a synthesis. The packer, the controller and the cycle model share the instruction's
layout, which is defined here.

One step of a layer is at most five kinds of instruction (in the terms of section 4 of the paper), and two more hold the
program together:

=============  ==================================================================================
MULTIPLY       broadcast ``count`` columns of one stored matrix: ``W_x x``, ``W_r y'`` or ``W_ym m``
ELEMENTWISE    once the array is done: gates, cell state and ``m`` of all cells, or a dense layer's ``y``, row by row
PROJECT        once the array is done: round the projection's sums to ``y``, or a dense layer's ``y``, row by row
OUTPUT         as they are written: send ``count`` columns of ``y`` as one frame
FRAME          take the next input frame, or go on without one (``TRY``)
CLEAR          once all is done: clear the accumulators, if products were made ahead of a frame
JUMP           go on with the instruction ``src_base``, or in the program of the next frame's model
=============  ==================================================================================

``FORMAT`` comes first, once for each model.

A dense layer is an ELEMENTWISE if it comes before the FRAME TRY of its step, and a PROJECT if it comes behind it. Only
an ELEMENTWISE begins a step, and has banks of accumulators that alternate.

A GRU with the reset before the product takes two ELEMENTWISE. The first drains the sums of r alone and writes r . h'. A
MULTIPLY adds the product of r . h' to the sums of n. The second drains these and the sums of z, and writes h. The banks
of accumulators alternate behind it.

A machine for several models has a program for each. The products for the next frame are multiplied while a step is
computed, and the frame may be of another model. So they are two routines of a program, which the program of any model
uses: a ``FRAME TRY`` that takes a frame goes on with the early routine of the frame's model, whose last MULTIPLY goes
back behind the ``FRAME TRY``. A ``JUMP`` with ``turn`` goes on with the late routine, which leads to the step of that
model. A ``FRAME WAIT`` that takes a frame goes on at the beginning of the model's program.
"""

import enum
from typing import Any

from amaranth.hdl import Shape
from amaranth.lib import data

from openese.rtl.config import Config, bits_for

__all__ = ["Opcode", "Take", "When", "Source", "Instruction", "Kin", "ACTIVATIONS", "GATES", "ROUTINES"]

GATES = ("i", "f", "g", "o")

#: Functions of a dense layer, by ``activation`` of its instruction: those from 2 on are tables.
ACTIVATIONS = ("none", "relu", "sigmoid", "tanh")

#: Places of a model's program that those of other models go on with.
ROUTINES = ("begin", "early", "late")


class Opcode(enum.IntEnum):
    """The work of an instruction."""

    FORMAT = 0
    FRAME = 1
    MULTIPLY = 2
    ELEMENTWISE = 3
    PROJECT = 4
    OUTPUT = 5
    JUMP = 6
    CLEAR = 7


class Take(enum.IntEnum):
    """``when`` of a FRAME, which lets the next frame's work run early.

    ``TRY`` takes a frame if there is one. ``WAIT`` waits for a frame, unless the last ``TRY`` took one.
    """

    WAIT = 0
    TRY = 1


class When(enum.IntEnum):
    """``when`` of a MULTIPLY or JUMP: always, or only in a step that began in this way.

    ``TAKEN``: the last ``FRAME TRY`` took a frame. ``MISSED``: it did not. ``STALE``: the products of y that were made
    since then are not those of the frame that ``FRAME WAIT`` took: it starts a voice anew, follows a write of y by the
    host, or is of another bank or model; or there are no such products.
    """

    ALWAYS = 0
    TAKEN = 1
    MISSED = 2
    STALE = 3


class Kin(enum.IntEnum):
    """``kin`` of a MULTIPLY: for any frame, or only for one whose model and bank are those of the frame before
    (``SAME``), or are not (``OTHER``). The y of other voices is complete before the step before ends. For resident
    weights alone: `StreamFetch` does not look at it.
    """

    ANY = 0
    SAME = 1
    OTHER = 2


class Source(enum.IntEnum):
    """The columns that a MULTIPLY broadcasts."""

    INPUT = 0
    RECURRENT = 1
    COMPUTED = 2


class Instruction(data.StructLayout):
    """Fields of an instruction of a machine of capacity ``config``.

    Attributes
    ----------
    words : int
        32-bit words of one instruction in a memory image.
    """

    words: int

    def __init__(self, config: Config) -> None:
        line = bits_for(config.vector_depth // config.groups)
        column = bits_for(config.column_depth)
        accumulator = bits_for(config.accumulator_rows - 1)
        super().__init__({
            "opcode": 3,
            "when": 2,
            "source": 2,
            # MULTIPLY: wait for column after column of the frame that comes in, or of the ELEMENTWISE or PROJECT that
            # is under way. FRAME: a frame that is coming in will do.
            "follow": 1,
            # MULTIPLY: the input frame is not needed any more afterwards.
            "release": 1,
            # MULTIPLY: rows are gate-interleaved (row = 4 * cell + gate), each gate with its alignment.
            "gated": 1,
            # MULTIPLY: columns, per group; OUTPUT: columns of y; FORMAT: columns of x.
            "count": bits_for(config.vector_depth),
            "order_base": column,
            # Vector memory lines; FORMAT: of the two input buffers; JUMP: an instruction.
            "src_base": max(line, bits_for(config.program_depth - 1)),
            "dst_base": line,
            # First line of the weights; in the memory that they are streamed from, if they are.
            "entry_base": 24 if config.stream else bits_for(config.entry_depth - 1),
            **({"entry_lines": 24, "streamed": 1} if config.stream else {}),
            # Accumulators: row r of phase q is at base + bank * offset + q * stride + r.
            "acc_base": accumulator,
            "acc_offset": accumulator,
            "phase_stride": accumulator,
            "phase_last": 3,
            "align": data.ArrayLayout(config.align_bits, 4),
            # ELEMENTWISE and PROJECT.
            "rows": bits_for(config.dense_rows * config.cell_rows),
            "cell_base": bits_for(config.cell_rows - 1),
            "shift": data.ArrayLayout(5, 4),
            "cell_argument_shift": 5,
            "peephole_select": 3,
            "cell_select": 3,
            "g_sigmoid": 1,
            # ELEMENTWISE: the cells are those of a GRU.
            **({"gru": 1} if config.gru else {}),
            # ELEMENTWISE of a GRU: its reset is before the product. It is the first of the two, which writes r . h'.
            **({"reset_before": 1, "resets": 1} if config.gru_before else {}),
            # ELEMENTWISE and PROJECT: it is a dense layer, with a bias, and with the function `ACTIVATIONS`.
            **({"dense": 1, "activation": 2} if config.dense else {}),
            # ELEMENTWISE and PROJECT: what is written is y, which a voice that is not active keeps.
            "masked": 1,
            # ELEMENTWISE and PROJECT: it is the y that OUTPUT sends, and stays while it is being sent. MULTIPLY:
            # products of y ahead of the next frame. They are made if the last two frames were of the same bank, when
            # that y is sent or the next frame is there, and when it is complete or the columns follow it.
            "sent": 1,
            **({
                # MULTIPLY, ELEMENTWISE and PROJECT: the vector is y, of which every bank has one.
                "banked": 1,
                # FORMAT: lines from a bank's y to the next bank's, and the banks.
                "bank_lines": line,
                "banks": bits_for(config.banks),
            } if config.banks > 1 else {}),
            **({
                # FORMAT: the model's number, its columns of y that are sent, and the models.
                "model": config.model_bits,
                "outputs": bits_for(config.vector_depth),
                "models": bits_for(config.models),
                # FORMAT: where the model's program begins, and its early and late routine.
                **{name: bits_for(config.program_depth - 1) for name in ROUTINES},
                # MULTIPLY: go back behind the FRAME TRY. JUMP: go on with the late routine of the frame's model.
                # CLEAR: wait for nothing if there is nothing to clear.
                "turn": 1,
                # MULTIPLY: `Kin`.
                "kin": 2,
            } if config.models > 1 else {}),
        })
        self.words = -(-Shape.cast(self).width // 32)

    def pack(self, **fields: Any) -> int:
        """The instruction as an unsigned integer; fields not named are zero.

        Raises
        ------
        ValueError
            If a field does not exist or its value does not fit.
        """
        word = 0
        for name, value in fields.items():
            if name not in self.members:
                raise ValueError(f"an instruction has no field {name!r}")
            field = self[name]
            width = Shape.cast(field.shape).width
            if isinstance(field.shape, data.ArrayLayout):
                element = Shape.cast(field.shape.elem_shape).width
                values = list(value)
            else:
                element, values = width, [value]
            for index, item in enumerate(values):
                if not 0 <= int(item) < 1 << element:
                    raise ValueError(f"instruction field {name} holds 0..{(1 << element) - 1}, not {item}")
                word |= int(item) << (field.offset + index * element)
        return word
