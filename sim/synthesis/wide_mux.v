// SPDX-License-Identifier: Apache-2.0
// For Yosys's techmap: a choice among rows of many bits as choices among rows of 16. Its own way of taking the bits
// apart takes a time that grows with the square of all that there is to choose from.

(* techmap_celltype = "$shiftx" *)
module wide_mux (A, B, Y);
  parameter A_SIGNED = 0;
  parameter B_SIGNED = 0;
  parameter A_WIDTH = 1;
  parameter B_WIDTH = 1;
  parameter Y_WIDTH = 1;
  parameter [B_WIDTH-1:0] _TECHMAP_CONSTMSK_B_ = 0;
  parameter [B_WIDTH-1:0] _TECHMAP_CONSTVAL_B_ = 0;
  localparam LOW = $clog2(Y_WIDTH);  // bits of B that are zero where whole rows are chosen
  localparam ROWS = A_WIDTH >> LOW;
  localparam [B_WIDTH-1:0] ZEROS = (1 << LOW) - 1;

  (* force_downto *) input [A_WIDTH-1:0] A;
  (* force_downto *) input [B_WIDTH-1:0] B;
  (* force_downto *) output [Y_WIDTH-1:0] Y;

  genvar part, row;
  generate
    if (B_SIGNED || Y_WIDTH <= 16 || Y_WIDTH % 16 || A_WIDTH != ROWS << LOW
        || (_TECHMAP_CONSTMSK_B_ & ~_TECHMAP_CONSTVAL_B_ & ZEROS) != ZEROS)
      wire _TECHMAP_FAIL_ = 1;
    else
      for (part = 0; part < Y_WIDTH / 16; part = part + 1) begin : parts
        (* force_downto *) wire [16*ROWS-1:0] rows;
        for (row = 0; row < ROWS; row = row + 1)
          assign rows[16*row +: 16] = A[(row << LOW) + 16 * part +: 16];
        \$shiftx #(.A_SIGNED(A_SIGNED), .B_SIGNED(0), .A_WIDTH(16 * ROWS), .B_WIDTH(B_WIDTH - LOW + 4), .Y_WIDTH(16))
          pick (.A(rows), .B({B[B_WIDTH-1:LOW], 4'b0}), .Y(Y[16*part +: 16]));
      end
  endgenerate
endmodule
