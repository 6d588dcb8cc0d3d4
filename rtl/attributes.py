# SPDX-License-Identifier: Apache-2.0
"""What synthesis is told about a signal or a memory, where its own choice could be another.

The names are Vivado's; Yosys knows the first two. They change nothing of what the Verilog means.
"""

__all__ = ["LUT_RAM", "DSP", "DISTANCE", "block_ram", "fanout"]

#: A memory that is read without a clock.
LUT_RAM = {"ram_style": "distributed"}
#: A product, and what is added to it, in the registers of a DSP slice.
DSP = {"use_dsp": "yes"}
#: A register that is there for the way across the chip: it must not end in a shift register.
DISTANCE = {"shreg_extract": "no"}


def block_ram(depth):
    """For a memory that belongs in block RAM as soon as it has the depth of one at its widest."""
    return {"ram_style": "block"} if depth >= 512 else {}


def fanout(most):
    """For a register, or a signal, that many others follow: it is copied, so that each drives ``most`` at most."""
    return {"max_fanout": str(most)}
