# SPDX-License-Identifier: Apache-2.0
# Timing exceptions inside the machine, by names below its top: in a packaged IP Vivado applies them to every instance.
# There is one clock, and aresetn is synchronous to it, so nothing else is excepted.

# Number formats and voices of an ELEMENTWISE or PROJECT instruction: they are set before its first row is drained and
# stay until its last row is written, and they fan out to all slices.
set_multicycle_path 4 -setup -from [get_cells {core/assemble*/settings_reg[*]}]
set_multicycle_path 3 -hold -from [get_cells {core/assemble*/settings_reg[*]}]

# The host reads a voice's state through muxes over all slices and channels: a number in every fourth cycle.
set_multicycle_path 4 -setup -to [get_cells {core/state/cell_value_reg[*] core/state/y_value_reg[*]}]
set_multicycle_path 3 -hold -to [get_cells {core/state/cell_value_reg[*] core/state/y_value_reg[*]}]

# The loader's line number for the function tables is in the way of their arguments. A pair of samples takes two words
# of the image, so the number is there for two cycles when the pair is written.
set_multicycle_path 2 -setup -from [get_cells {core/array/tile*/tables_address_arrived_reg[*]}]
set_multicycle_path 1 -hold -from [get_cells {core/array/tile*/tables_address_arrived_reg[*]}]
