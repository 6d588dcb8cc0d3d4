# SPDX-License-Identifier: Apache-2.0
# Called by the tools that build a board support package: writes where the machine's registers are.
proc generate {drv_handle} {
  xdefine_include_file $drv_handle "xparameters.h" "OPENESE" \
    "NUM_INSTANCES" "DEVICE_ID" "C_S_AXI_BASEADDR" "C_S_AXI_HIGHADDR"
}
