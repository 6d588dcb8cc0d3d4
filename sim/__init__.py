# SPDX-License-Identifier: Apache-2.0
"""The emitted Verilog, running: a fast harness that Python drives, and what cocotb benches stand on."""

if __name__ == "sim":
    raise ImportError("this package is imported as openese.sim")
