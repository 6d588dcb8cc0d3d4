# SPDX-License-Identifier: Apache-2.0
"""Bundles: the ports that two blocks have in common, declared once and connected as a whole."""

from amaranth.hdl import signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from openese.rtl.config import bits_for
from openese.rtl.interfaces import Context

__all__ = ["Bundle", "ActivityPort", "CellsPort", "ContextPort", "DrainPort", "FramePort", "StreamPort", "ValidPort"]


class Bundle(wiring.Signature):
    """Ports that belong together, as the block that starts a transfer has them; ``flip()`` is the other end.

    A block has them among its own ports, each under a prefix and its name here. A nested interface of Amaranth would
    put two underscores between the two, and so into the Verilog.
    """

    def port(self, prefix, name):
        """A block's name for the port ``name``."""
        return prefix + name

    def ports(self, prefix=""):
        """The members for a block's signature."""
        return {self.port(prefix, name): member for name, member in self.members.items()}

    def connect(self, m, first, second, prefix="", second_prefix=None):
        """Connect ``first``, which has these ports, with ``second``, which has the other end of them.

        Parameters
        ----------
        m : Module
        first, second : Component
            A block that connects its own ports passes ``wiring.flipped(self)``.
        prefix, second_prefix : str
            Prefix of the ports' names in ``first``, and in ``second`` if it is another.

        Raises
        ------
        wiring.ConnectionError
            If a block has a port of another direction or shape.
        """
        second_prefix = prefix if second_prefix is None else second_prefix
        for name, member in self.members.items():
            ends = []
            for block, port, wanted in ((first, self.port(prefix, name), member),
                                        (second, self.port(second_prefix, name), member.flip())):
                has = block.signature.members[port]
                if has != wanted:
                    raise wiring.ConnectionError(f"port {port} of {block!r} is {has!r}, not {wanted!r}")
                ends.append(getattr(block, port))
            source, sink = ends if member.flow == Out else reversed(ends)
            m.d.comb += sink.eq(source)


class ValidPort(Bundle):
    """A payload that cannot be held up. Its prefix is its name: ``column``, ``column_valid``.

    Members
    -------
    payload : Out(shape) — the payload, in a port that is named as the prefix alone.
    valid : Out(1) — there is one.
    """

    def __init__(self, shape):
        super().__init__({"payload": Out(shape), "valid": Out(1)})

    def port(self, prefix, name):
        return prefix if name == "payload" else f"{prefix}_{name}"


class ContextPort(Bundle):
    """The context of an operation, before its first column.

    Members
    -------
    context : Out(Context) — the context.
    context_valid : Out(1) — set it.
    context_operation : Out(operation_bits) — number of the operation.
    """

    def __init__(self, config):
        super().__init__({
            "context": Out(Context(config)),
            "context_valid": Out(1),
            "context_operation": Out(config.operation_bits),
        })


class DrainPort(Bundle):
    """A row of accumulators to read and clear.

    Members
    -------
    drain : Out(1) — read and clear a row.
    drain_address : Out(bits_for(accumulator_rows - 1)) — its address.
    """

    def __init__(self, config):
        super().__init__({"drain": Out(1), "drain_address": Out(bits_for(config.accumulator_rows - 1))})


class ActivityPort(Bundle):
    """The number of PEs, out of ``pes``, that do something in a cycle.

    Members
    -------
    busy : Out(bits_for(pes)) — PEs that multiply an entry.
    padding : Out(bits_for(pes)) — PEs that a padding entry passes.
    hazard : Out(bits_for(pes)) — PEs in which an entry waits for its accumulator.
    """

    def __init__(self, pes=1):
        count = bits_for(pes)
        super().__init__({"busy": Out(count), "padding": Out(count), "hazard": Out(count)})


class StreamPort(Bundle):
    """The position of streamed weights.

    Members
    -------
    streamed : Out(1) — the weights are streamed.
    written : Out(position_bits) — lines written so far, modulo twice the depth.
    """

    def __init__(self, config):
        super().__init__({"streamed": Out(1), "written": Out(config.position_bits)})


class CellsPort(Bundle):
    """The cell states of ``slices`` slices for the host, lane by lane.

    Members
    -------
    cells : Out(array(slices * slice_width, signed(cell_bits))) — cell states at the row and beat of the slices'
        control.
    cell_write : In(slices * slice_width) — lanes whose cell state is set at the row and beat of the control some
        cycles ago; see `Slice`.
    cell_data : In(signed(cell_bits)) — the value to set.
    """

    def __init__(self, config, slices=1):
        lanes = slices * config.slice_width
        super().__init__({
            "cells": Out(data.ArrayLayout(signed(config.cell_bits), lanes)),
            "cell_write": In(lanes),
            "cell_data": In(signed(config.cell_bits)),
        })


class FramePort(Bundle):
    """The oldest complete frame of `FrameInput`.

    Members
    -------
    ready : Out(1) — there is one.
    coming : Out(1) — there is none, but a frame is coming in. It can be taken like one that is complete.
    partial : Out(1) — the frame that was taken is still coming in.
    broken : Out(1) — it came to an end with the wrong length.
    buffer : Out(1) — the buffer it lies in.
    active : Out(channels) — voices that are active in it.
    reset : Out(channels) — voices that start anew with it.
    bank : Out(bank_bits) — their bank. Only if the machine has several.
    model : Out(model_bits) — their model. Only if the machine holds several.
    take : In(1) — take it; the next frame becomes the oldest.
    release : In(1) — free the buffer of the frame taken before.
    drop : In(1) — forget the frame that is ``broken``.
    """

    def __init__(self, config):
        super().__init__({
            "ready": Out(1),
            "coming": Out(1),
            "partial": Out(1),
            "broken": Out(1),
            "buffer": Out(1),
            "active": Out(config.channels),
            "reset": Out(config.channels),
            **({"bank": Out(config.bank_bits)} if config.banks > 1 else {}),
            **({"model": Out(config.model_bits)} if config.models > 1 else {}),
            "take": In(1),
            "release": In(1),
            "drop": In(1),
        })
