# SPDX-License-Identifier: Apache-2.0
# Builds a design for a board with a Zynq around the machine, up to the bitstream: vivado -mode batch -source zynq.tcl
# The processors reach the registers; frames go from their memory into the machine and back by DMA, and so do streamed
# weights. Pins, their standards and the memory's timing come from the board files alone.
# With "-tclargs design" it stops when the block design is validated.

set here [file dirname [file normalize [info script]]]
source [file join $here settings.tcl]
source [file join $here machine.tcl]
set board [dict get $settings board]
set design openese_[dict get $board name]

create_project $design [file join $here project] -part [dict get $board part] -force
set_property board_part [dict get $board board_part] [current_project]
if {[dict get $board connections] ne ""} {
  set_property board_connections [dict get $board connections] [current_project]
}
set_property ip_repo_paths [file join $here ip] [current_project]
update_ip_catalog
create_bd_design $design

# The processors, with one clock for the machine.
set kind [dict get $board processors]
create_bd_cell -type ip -vlnv xilinx.com:ip:$kind ps
if {$kind eq "zynq_ultra_ps_e"} {
  apply_bd_automation -rule xilinx.com:bd_rule:zynq_ultra_ps_e -config {apply_board_preset {1}} [get_bd_cells ps]
  set_property -dict [list CONFIG.PSU__USE__M_AXI_GP0 {1} CONFIG.PSU__MAXIGP0__DATA_WIDTH {32} \
    CONFIG.PSU__USE__M_AXI_GP1 {0} CONFIG.PSU__USE__M_AXI_GP2 {0} CONFIG.PSU__USE__S_AXI_GP2 {1} \
    CONFIG.PSU__USE__IRQ0 {1} CONFIG.PSU__FPGA_PL0_ENABLE {1} \
    CONFIG.PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ [dict get $board megahertz]] [get_bd_cells ps]
  set control ps/M_AXI_HPM0_FPD
  set memory ps/S_AXI_HP0_FPD
  set segment ps/SAXIGP2/HP0_DDR_LOW
  lassign {ps/pl_clk0 ps/pl_resetn0 ps/pl_ps_irq0} clock reset interrupt
  set clocked {ps/maxihpm0_fpd_aclk ps/saxihp0_fpd_aclk}
} else {
  apply_bd_automation -rule xilinx.com:bd_rule:processing_system7 \
    -config {make_external {FIXED_IO, DDR} apply_board_preset {1} Master {Disable} Slave {Disable}} [get_bd_cells ps]
  set_property -dict [list CONFIG.PCW_USE_M_AXI_GP0 {1} CONFIG.PCW_USE_S_AXI_HP0 {1} \
    CONFIG.PCW_USE_FABRIC_INTERRUPT {1} CONFIG.PCW_IRQ_F2P_INTR {1} CONFIG.PCW_EN_CLK0_PORT {1} \
    CONFIG.PCW_FPGA0_PERIPHERAL_FREQMHZ [dict get $board megahertz]] [get_bd_cells ps]
  set control ps/M_AXI_GP0
  set memory ps/S_AXI_HP0
  set segment ps/S_AXI_HP0/HP0_DDR_LOWOCM
  lassign {ps/FCLK_CLK0 ps/FCLK_RESET0_N ps/IRQ_F2P} clock reset interrupt
  set clocked {ps/M_AXI_GP0_ACLK ps/S_AXI_HP0_ACLK}
}

add_machine $settings
add_bus memory_bus [memory_masters $settings] $memory
add_bus control_bus $control {openese_0/s_axi dma/S_AXI_LITE}

create_bd_cell -type ip -vlnv xilinx.com:ip:proc_sys_reset reset
connect_bd_net [get_bd_pins $reset] [get_bd_pins reset/ext_reset_in]
set pins [concat reset/slowest_sync_clk $clocked {
  openese_0/aclk dma/s_axi_lite_aclk dma/m_axi_mm2s_aclk dma/m_axi_s2mm_aclk memory_bus/aclk control_bus/aclk
}]
connect_bd_net [get_bd_pins $clock] {*}[lmap pin $pins {get_bd_pins $pin}]
set pins {openese_0/aresetn dma/axi_resetn memory_bus/aresetn control_bus/aresetn}
connect_bd_net [get_bd_pins reset/peripheral_aresetn] {*}[lmap pin $pins {get_bd_pins $pin}]

# One interrupt each: the machine, frames sent, frames received.
create_bd_cell -type ip -vlnv xilinx.com:ip:xlconcat interrupts
set_property CONFIG.NUM_PORTS {3} [get_bd_cells interrupts]
foreach pin {openese_0/irq dma/mm2s_introut dma/s2mm_introut} k {0 1 2} {
  connect_bd_net [get_bd_pins $pin] [get_bd_pins interrupts/In$k]
}
connect_bd_net [get_bd_pins interrupts/dout] [get_bd_pins $interrupt]

assign_registers $settings ps/Data [dict get $board registers]
assign_memory [memory_spaces $settings] $segment [dict get $board memory]
finish $design $here
