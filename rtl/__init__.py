# SPDX-License-Identifier: Apache-2.0
"""The machine, in Amaranth: one block a file, and the Verilog and packages that come out of it."""

import sys

# Only `python -m rtl.build` may come by this name: what else is imported would be loaded a second time.
if __name__ == "rtl" and sys.argv[0] != "-m":
    raise ImportError("this package is imported as openese.rtl")
