// SPDX-License-Identifier: Apache-2.0
// ECP5's PLL, as far as a simulation that counts cycles and not seconds needs it: the clock as it comes.
module EHXPLLL #(
  parameter PLLRST_ENA = "", INTFB_WAKE = "", STDBY_ENABLE = "", DPHASE_SOURCE = "",
            OUTDIVIDER_MUXA = "", OUTDIVIDER_MUXB = "", OUTDIVIDER_MUXC = "", OUTDIVIDER_MUXD = "",
            FEEDBK_PATH = "", CLKOP_ENABLE = "",
            CLKI_DIV = 1, CLKFB_DIV = 1, CLKOP_DIV = 1, CLKOP_CPHASE = 0, CLKOP_FPHASE = 0
) (
  input CLKI, CLKFB, RST, STDBY, PHASESEL0, PHASESEL1, PHASEDIR, PHASESTEP, PHASELOADREG, PLLWAKESYNC, ENCLKOP,
  output CLKOP,
  output reg LOCK
);
  reg [3:0] cycles = 0;
  assign CLKOP = CLKI;
  initial LOCK = 0;
  always @(posedge CLKI) begin
    cycles <= cycles + 1;
    if (&cycles) LOCK <= 1;
  end
endmodule
