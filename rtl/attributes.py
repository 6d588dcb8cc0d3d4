# SPDX-License-Identifier: Apache-2.0
"""Advice to synthesis about a signal or a memory, for the cases in which its own choice would be worse.

The names are Vivado's; Yosys knows ``ram_style`` and ``use_dsp``. They change nothing in the meaning of the Verilog.
"""

__all__ = ["BLOCK_RAM", "LUT_RAM", "LUT_RAM_ROWS", "ULTRA_RAM", "DSP", "DISTANCE", "block_ram", "fanout"]

#: A memory that is read without a clock, or is shallow.
LUT_RAM = {"ram_style": "distributed"}
#: Rows of a LUT RAM at its deepest, on Xilinx's FPGAs.
LUT_RAM_ROWS = 64
BLOCK_RAM = {"ram_style": "block"}
#: A memory of UltraScale+ of 4,096 rows, in which nothing stands at first.
ULTRA_RAM = {"ram_style": "ultra"}
#: A product, and what is added to it, in the registers of a DSP slice.
DSP = {"use_dsp": "yes"}
#: A register that is there for the way across the chip: it must not end in a shift register, nor be one with another
#: register that gets the same.
DISTANCE = {"shreg_extract": "no", "keep": "true"}


def block_ram(depth):
    """For a memory that belongs in block RAM if it has at least the depth of one at its widest."""
    return BLOCK_RAM if depth >= 512 else {}


def fanout(most):
    """For a signal with many loads: it is copied, so that each copy drives at most ``most`` of them."""
    return {"max_fanout": str(most)}
