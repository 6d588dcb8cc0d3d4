// SPDX-License-Identifier: Apache-2.0
//
// For Yosys's techmap: ECP5's LUTs, those in carry chains too, as its own LUTs, which it writes as one expression each.
// As the multiplexers of its simulation models they would be seven times the Verilog.

module LUT4(input A, B, C, D, output Z);
  parameter [15:0] INIT = 16'h0000;
  \$lut #(.WIDTH(4), .LUT(INIT)) lut (.A({D, C, B, A}), .Y(Z));
endmodule

module LUT2(input A, B, output Z);
  parameter [3:0] INIT = 4'h0;
  \$lut #(.WIDTH(2), .LUT(INIT)) lut (.A({B, A}), .Y(Z));
endmodule
