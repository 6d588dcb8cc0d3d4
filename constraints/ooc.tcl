# SPDX-License-Identifier: Apache-2.0
# Synthesizes and implements the machine alone, for its figures: vivado -mode batch -source ooc.tcl
# Reports and checkpoints go to reports/ beside this file. It fails where the timing is not met.

set here [file dirname [file normalize [info script]]]
source [file join $here settings.tcl]
set reports [file join $here reports]
file mkdir $reports

read_verilog [file join $here openese.v]
read_xdc -mode out_of_context [file join $here openese_ooc.xdc]
read_xdc [file join $here openese.xdc]

synth_design -top openese -part [dict get $settings part] -mode out_of_context
write_checkpoint -force [file join $reports synthesis.dcp]
report_utilization -hierarchical -file [file join $reports synthesis_utilization.txt]
report_exceptions -file [file join $reports exceptions.txt]

opt_design
place_design
phys_opt_design
route_design
write_checkpoint -force [file join $reports implementation.dcp]
report_utilization -file [file join $reports utilization.txt]
report_utilization -hierarchical -file [file join $reports utilization_hierarchical.txt]
report_timing_summary -max_paths 10 -file [file join $reports timing.txt]
report_design_analysis -logic_level_distribution -file [file join $reports logic_levels.txt]
report_high_fanout_nets -max_nets 50 -file [file join $reports fanout.txt]
report_power -file [file join $reports power.txt]

set slack [get_property SLACK [get_timing_paths -max_paths 1 -setup]]
puts "worst setup slack: $slack ns"
if {$slack < 0} {
  error "the clock of [dict get $settings period] ns is missed by [expr {-$slack}] ns: [file join $reports timing.txt]"
}
