/* SPDX-License-Identifier: Apache-2.0 */
/* The way to a machine in Verilator: AXI4-Lite accesses and AXI4-Stream beats of its Verilog, cycle by cycle. */
#ifndef SIMULATED_H
#define SIMULATED_H

#include "openese.h"

/* A machine out of reset, in a library that sim/build.py makes; NULL: it cannot be used, which is said on stderr. */
const openese_io *simulated_open(const char *library);
void simulated_close(void);
/* The share of the cycles, 0 to 1, in which the bus partners are ready. */
void simulated_pace(double share);
/* The next frame loses so many beats at its end, the one with TLAST among them. */
void simulated_lose(size_t beats);

#endif
