# SPDX-License-Identifier: Apache-2.0
"""The machine, in Amaranth: one block a file, and the Verilog and packages that are written from it.

Data meets the blocks in this order:

- `frames` takes a frame into `vector_memory`, which `broadcast` reads column by column;
- `array` is the PEs, in `tile`; a PE is `ptr_read`, `act_queue`, `spmat_read` and `spmv`, in `pe`;
- `assemble` drains the PEs into the slices of `elementwise`, which compute gates, cell states and outputs with the
  tables of `activation`, and writes the results to `vector_memory`;
- `frames` sends them.

`controller` carries out the `program`; `core` wires these blocks. Around it, `loader` takes an image, `registers`
serves the host over `axi`, `state_access` reads and writes single states, and `weight_stream` reads weights from
memory; `top` has the pins. `serial` puts the machine behind a UART.

All blocks share `config` (capacity and widths), `fixed` (rounding), `interfaces` (words between blocks), `bundles`
(ports that two blocks have in common), `fifo` and `program_reader`. `emit` and `verilog` write the Verilog. `targets`
and `build` write the files that tools and boards need with it.
"""

import sys

# Only `python -m rtl.build` may come by this name: what else is imported would be loaded a second time.
if __name__ == "rtl" and sys.argv[0] != "-m":
    raise ImportError("this package is imported as openese.rtl")
