# SPDX-License-Identifier: Apache-2.0
# Builds a design for the KCU105 around the machine, up to the bitstream: vivado -mode batch -source kcu105.tcl
# A host reaches the registers and the board's memory over PCIe; frames go from that memory into the machine and back by
# DMA, and so do streamed weights. Pins, their standards and the memory's timing come from the board files alone.
# With "-tclargs design" it stops when the block design is validated.

set here [file dirname [file normalize [info script]]]
source [file join $here settings.tcl]
set design openese_kcu105
set board xilinx.com:kcu105:part0:1.7
# Boards with the first memory, EDY4016AABG-DR-F, want ddr4_sdram_DR here.
set memory ddr4_sdram_062
set memory_size 0x80000000

create_project $design [file join $here project] -part [dict get $settings board_part] -force
set_property board_part $board [current_project]
set_property ip_repo_paths [file join $here ip] [current_project]
update_ip_catalog
create_bd_design $design

# PCI Express: four lanes of generation 3 fill 256 bits at 125 MHz, and this clock, axi_aclk, is the machine's.
create_bd_cell -type ip -vlnv xilinx.com:ip:xdma xdma_0
apply_board_connection -board_interface pci_express_x4 -ip_intf xdma_0/pcie_mgt -diagram $design
apply_board_connection -board_interface pcie_perstn -ip_intf xdma_0/RST.sys_rst_n -diagram $design
apply_bd_automation -rule xilinx.com:bd_rule:xdma -config {
  accel {1} auto_level {IP Level} axi_clk {Maximum Data Width} axi_intf {AXI Memory Mapped} bar_size {1 (Megabytes)}
  bypass_size {Disable} c2h {1} cache_size {32k} h2c {1} lane_width {X4} link_speed {8.0 GT/s (PCIe Gen 3)}
} [get_bd_cells xdma_0]
set_property -dict [list CONFIG.axi_data_width {256_bit} CONFIG.axisten_freq {125} CONFIG.xdma_num_usr_irq {1}] \
  [get_bd_cells xdma_0]

# The board's memory, 2 GB, behind a controller with a clock of its own.
create_bd_cell -type ip -vlnv xilinx.com:ip:ddr4 ddr4_0
apply_bd_automation -rule xilinx.com:bd_rule:board \
  -config [list Board_Interface "$memory ( DDR4 SDRAM )" Manual_Source Auto] [get_bd_intf_pins ddr4_0/C0_DDR4]
apply_bd_automation -rule xilinx.com:bd_rule:board \
  -config {Board_Interface {default_sysclk_300 ( 300 MHz System differential clock )} Manual_Source {Auto}} \
  [get_bd_intf_pins ddr4_0/C0_SYS_CLK]
apply_bd_automation -rule xilinx.com:bd_rule:board \
  -config {Board_Interface {reset ( FPGA Reset )} Manual_Source {New External Port (ACTIVE_HIGH)}} \
  [get_bd_pins ddr4_0/sys_rst]
set_property -dict [list CONFIG.C0.DDR4_AxiSelection {true} CONFIG.C0.DDR4_AxiDataWidth {512}] [get_bd_cells ddr4_0]
create_bd_cell -type ip -vlnv xilinx.com:ip:proc_sys_reset memory_reset
connect_bd_net [get_bd_pins ddr4_0/c0_ddr4_ui_clk] [get_bd_pins memory_reset/slowest_sync_clk]
connect_bd_net [get_bd_pins ddr4_0/c0_ddr4_ui_clk_sync_rst] [get_bd_pins memory_reset/ext_reset_in]
connect_bd_net [get_bd_pins memory_reset/peripheral_aresetn] [get_bd_pins ddr4_0/c0_ddr4_aresetn]

# The machine, and the DMA for its frames: one transfer of the memory is one frame.
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
connect_bd_net [get_bd_pins openese_0/irq] [get_bd_pins xdma_0/usr_irq_req]

# Who reads and writes the memory; who is written to by the host.
set readers [list xdma_0/M_AXI dma/M_AXI_MM2S dma/M_AXI_S2MM]
if {[dict get $settings stream]} {
  lappend readers openese_0/m_axi
}
create_bd_cell -type ip -vlnv xilinx.com:ip:smartconnect memory_bus
set_property -dict [list CONFIG.NUM_SI [llength $readers] CONFIG.NUM_MI {1} CONFIG.NUM_CLKS {2}] \
  [get_bd_cells memory_bus]
for {set k 0} {$k < [llength $readers]} {incr k} {
  connect_bd_intf_net [get_bd_intf_pins [lindex $readers $k]] [get_bd_intf_pins [format memory_bus/S%02d_AXI $k]]
}
connect_bd_intf_net [get_bd_intf_pins memory_bus/M00_AXI] [get_bd_intf_pins ddr4_0/C0_DDR4_S_AXI]
create_bd_cell -type ip -vlnv xilinx.com:ip:smartconnect control_bus
set_property -dict [list CONFIG.NUM_SI {1} CONFIG.NUM_MI {2}] [get_bd_cells control_bus]
connect_bd_intf_net [get_bd_intf_pins xdma_0/M_AXI_LITE] [get_bd_intf_pins control_bus/S00_AXI]
connect_bd_intf_net [get_bd_intf_pins control_bus/M00_AXI] [get_bd_intf_pins openese_0/s_axi]
connect_bd_intf_net [get_bd_intf_pins control_bus/M01_AXI] [get_bd_intf_pins dma/S_AXI_LITE]

connect_bd_net [get_bd_pins xdma_0/axi_aclk] [get_bd_pins openese_0/aclk] [get_bd_pins dma/s_axi_lite_aclk] \
  [get_bd_pins dma/m_axi_mm2s_aclk] [get_bd_pins dma/m_axi_s2mm_aclk] [get_bd_pins memory_bus/aclk] \
  [get_bd_pins control_bus/aclk]
connect_bd_net [get_bd_pins ddr4_0/c0_ddr4_ui_clk] [get_bd_pins memory_bus/aclk1]
connect_bd_net [get_bd_pins xdma_0/axi_aresetn] [get_bd_pins openese_0/aresetn] [get_bd_pins dma/axi_resetn] \
  [get_bd_pins memory_bus/aresetn] [get_bd_pins control_bus/aresetn]

# Where the host finds what: in its BAR, and for everyone in the memory.
assign_bd_address -offset 0x00000000 -range [dict get $settings register_range] \
  -target_address_space [get_bd_addr_spaces xdma_0/M_AXI_LITE] [get_bd_addr_segs openese_0/s_axi/registers] -force
assign_bd_address -offset 0x00010000 -range 0x00010000 \
  -target_address_space [get_bd_addr_spaces xdma_0/M_AXI_LITE] [get_bd_addr_segs dma/S_AXI_LITE/Reg] -force
set spaces [list xdma_0/M_AXI dma/Data_MM2S dma/Data_S2MM]
if {[dict get $settings stream]} {
  lappend spaces openese_0/m_axi
}
foreach space $spaces {
  assign_bd_address -offset 0x00000000 -range $memory_size -target_address_space [get_bd_addr_spaces $space] \
    [get_bd_addr_segs ddr4_0/C0_DDR4_MEMORY_MAP/C0_DDR4_ADDRESS_BLOCK] -force
}
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
