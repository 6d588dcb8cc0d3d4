# SPDX-License-Identifier: Apache-2.0
# The common parts of the block designs of boards.

# Adds the machine as openese_0, and dma for its frames: one transfer of the memory is one frame.
proc add_machine {settings} {
  create_bd_cell -type ip -vlnv [dict get $settings vlnv] openese_0
  create_bd_cell -type ip -vlnv xilinx.com:ip:axi_dma dma
  set frame_bits [dict get $settings frame_bits]
  set_property -dict [list CONFIG.c_include_sg {0} CONFIG.c_sg_length_width {26} CONFIG.c_mm2s_burst_size {16} \
    CONFIG.c_s2mm_burst_size {16} CONFIG.c_m_axi_mm2s_data_width [expr {max(32, $frame_bits)}] \
    CONFIG.c_m_axis_mm2s_tdata_width $frame_bits CONFIG.c_m_axi_s2mm_data_width [expr {max(32, $frame_bits)}]] \
    [get_bd_cells dma]
  connect_bd_intf_net [get_bd_intf_pins dma/M_AXIS_MM2S] [get_bd_intf_pins openese_0/s_axis]
  connect_bd_intf_net [get_bd_intf_pins openese_0/m_axis] [get_bd_intf_pins dma/S_AXIS_S2MM]
  # The machine sends whole words only and has no TKEEP.
  create_bd_cell -type ip -vlnv xilinx.com:ip:xlconstant keep
  set frame_bytes [expr {$frame_bits / 8}]
  set_property -dict [list CONFIG.CONST_WIDTH $frame_bytes CONFIG.CONST_VAL [expr {(1 << $frame_bytes) - 1}]] \
    [get_bd_cells keep]
  connect_bd_net [get_bd_pins keep/dout] [get_bd_pins dma/s_axis_s2mm_tkeep]
}

# What the machine and its DMA read and write in memory: interface pins.
proc memory_masters {settings} {
  return [concat {dma/M_AXI_MM2S dma/M_AXI_S2MM} [expr {[dict get $settings stream] ? "openese_0/m_axi" : ""}]]
}

# Address spaces of the same.
proc memory_spaces {settings} {
  return [concat {dma/Data_MM2S dma/Data_S2MM} [expr {[dict get $settings stream] ? "openese_0/m_axi" : ""}]]
}

# Adds a SmartConnect between interface pins.
proc add_bus {name from to {clocks 1}} {
  create_bd_cell -type ip -vlnv xilinx.com:ip:smartconnect $name
  set_property -dict [list CONFIG.NUM_SI [llength $from] CONFIG.NUM_MI [llength $to] CONFIG.NUM_CLKS $clocks] \
    [get_bd_cells $name]
  foreach pins [list $from $to] side {S M} {
    for {set k 0} {$k < [llength $pins]} {incr k} {
      connect_bd_intf_net [get_bd_intf_pins [lindex $pins $k]] [get_bd_intf_pins [format $name/$side%02d_AXI $k]]
    }
  }
}

# The machine's registers and the DMA's, in an address space of the host.
proc assign_registers {settings space base} {
  assign_bd_address -offset $base -range [dict get $settings register_range] \
    -target_address_space [get_bd_addr_spaces $space] [get_bd_addr_segs openese_0/s_axi/registers] -force
  assign_bd_address -offset [format 0x%08X [expr {$base + 0x10000}]] -range 0x00010000 \
    -target_address_space [get_bd_addr_spaces $space] [get_bd_addr_segs dma/S_AXI_LITE/Reg] -force
}

# The board's memory, at address 0 of each address space.
proc assign_memory {spaces segment size} {
  foreach space $spaces {
    assign_bd_address -offset 0x00000000 -range $size -target_address_space [get_bd_addr_spaces $space] \
      [get_bd_addr_segs $segment] -force
  }
}

# Validates the block design; builds up to the bitstream unless the script's argument is "design".
proc finish {design here} {
  global argv
  validate_bd_design
  save_bd_design
  if {[lindex $argv 0] eq "design"} {
    return
  }
  make_wrapper -files [get_files $design.bd] -top -import
  set_property top ${design}_wrapper [current_fileset]
  update_compile_order -fileset sources_1
  launch_runs impl_1 -to_step write_bitstream
  wait_on_run impl_1
  open_run impl_1
  report_utilization -hierarchical -file [file join $here utilization.txt]
  report_timing_summary -max_paths 10 -file [file join $here timing.txt]
  report_power -file [file join $here power.txt]
  write_hw_platform -fixed -include_bit -force -file [file join $here $design.xsa]
}
