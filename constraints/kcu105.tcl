# SPDX-License-Identifier: Apache-2.0
# Builds a design for the KCU105 around the machine, up to the bitstream: vivado -mode batch -source kcu105.tcl
# A host reaches the registers and the board's memory over PCIe; frames go from that memory into the machine and back by
# DMA, and so do streamed weights. Pins, their standards and the memory's timing come from the board files alone.
# With "-tclargs design" it stops when the block design is validated.

set here [file dirname [file normalize [info script]]]
source [file join $here settings.tcl]
source [file join $here machine.tcl]
set design openese_kcu105
set board [dict get $settings board]
# Boards with the first memory, EDY4016AABG-DR-F, want ddr4_sdram_DR here.
set memory ddr4_sdram_062
set memory_size 0x80000000

create_project $design [file join $here project] -part [dict get $board part] -force
set_property board_part [dict get $board board_part] [current_project]
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

add_machine $settings
connect_bd_net [get_bd_pins openese_0/irq] [get_bd_pins xdma_0/usr_irq_req]

# Who reads and writes the memory; who is written to by the host.
add_bus memory_bus [concat xdma_0/M_AXI [memory_masters $settings]] ddr4_0/C0_DDR4_S_AXI 2
add_bus control_bus xdma_0/M_AXI_LITE {openese_0/s_axi dma/S_AXI_LITE}

connect_bd_net [get_bd_pins xdma_0/axi_aclk] [get_bd_pins openese_0/aclk] [get_bd_pins dma/s_axi_lite_aclk] \
  [get_bd_pins dma/m_axi_mm2s_aclk] [get_bd_pins dma/m_axi_s2mm_aclk] [get_bd_pins memory_bus/aclk] \
  [get_bd_pins control_bus/aclk]
connect_bd_net [get_bd_pins ddr4_0/c0_ddr4_ui_clk] [get_bd_pins memory_bus/aclk1]
connect_bd_net [get_bd_pins xdma_0/axi_aresetn] [get_bd_pins openese_0/aresetn] [get_bd_pins dma/axi_resetn] \
  [get_bd_pins memory_bus/aresetn] [get_bd_pins control_bus/aresetn]

# Where the host finds what: in its BAR, and for everyone in the memory.
assign_registers $settings xdma_0/M_AXI_LITE 0x00000000
assign_memory [concat xdma_0/M_AXI [memory_spaces $settings]] \
  ddr4_0/C0_DDR4_MEMORY_MAP/C0_DDR4_ADDRESS_BLOCK $memory_size
finish $design $here
