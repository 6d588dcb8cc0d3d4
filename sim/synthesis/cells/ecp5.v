// SPDX-License-Identifier: Apache-2.0
//
// The cells of ECP5 that Yosys has only as black boxes, in the modes that it maps to here: a block RAM with ports of 9, 18
// or 36 bits, without output registers or a reset, both at one clock, zeros at the start; and a multiplier without
// registers. Another mode ends the simulation. After Lattice's FPGA-TN-02204 (memories) and FPGA-TN-02205 (sysDSP).
//
// What one port reads where the other writes is not defined: here it is the complement of what was there.

module DP16KD(
  input DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9, DIA8, DIA7, DIA6, DIA5, DIA4, DIA3, DIA2, DIA1,
  DIA0,
  input ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2, ADA1, ADA0,
  input CEA, OCEA, CLKA, WEA, RSTA, CSA2, CSA1, CSA0,
  output DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9, DOA8, DOA7, DOA6, DOA5, DOA4, DOA3, DOA2, DOA1,
  DOA0,
  input DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7, DIB6, DIB5, DIB4, DIB3, DIB2, DIB1,
  DIB0,
  input ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2, ADB1, ADB0,
  input CEB, OCEB, CLKB, WEB, RSTB, CSB2, CSB1, CSB0,
  output DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9, DOB8, DOB7, DOB6, DOB5, DOB4, DOB3, DOB2, DOB1,
  DOB0
);
  parameter DATA_WIDTH_A = 18, DATA_WIDTH_B = 18, REGMODE_A = "NOREG", REGMODE_B = "NOREG";
  parameter RESETMODE = "SYNC", ASYNC_RESET_RELEASE = "SYNC", CSDECODE_A = "0b000", CSDECODE_B = "0b000";
  parameter WRITEMODE_A = "NORMAL", WRITEMODE_B = "NORMAL", CLKAMUX = "CLKA", CLKBMUX = "CLKB", GSR = "ENABLED";

  // A lane is a byte and its ninth bit. A port of 36 bits has the data pins of both.
  localparam LANES_A = DATA_WIDTH_A / 9, LANES_B = DATA_WIDTH_B / 9;
  reg [8:0] lanes [0:2047];
  reg [35:0] read_a, read_b;
  integer k;

  initial begin
    for (k = 0; k < 2048; k = k + 1) lanes[k] = 9'h0;
    read_a = 36'h0;
    read_b = 36'h0;
    if (9 * LANES_A != DATA_WIDTH_A || 9 * LANES_B != DATA_WIDTH_B || REGMODE_A != "NOREG" || REGMODE_B != "NOREG"
        || CLKAMUX != "CLKA" || CLKBMUX != "CLKB" || CSDECODE_A != "0b000" || CSDECODE_B != "0b000"
        || WRITEMODE_A == "WRITETHROUGH" || WRITEMODE_B == "WRITETHROUGH")
      $fatal(1, "DP16KD in a mode without a model");
  end

  wire [13:0] address_a = {
      ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2, ADA1, ADA0};
  wire [13:0] address_b = {
      ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2, ADB1, ADB0};
  wire [35:0] write_a = {
      DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7, DIB6, DIB5, DIB4, DIB3, DIB2, DIB1,
      DIB0, DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9, DIA8, DIA7, DIA6, DIA5, DIA4, DIA3, DIA2,
      DIA1, DIA0};
  wire [35:0] write_b = {
      18'h0, DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7, DIB6, DIB5, DIB4, DIB3, DIB2,
      DIB1, DIB0};
  wire [10:0] first_a = address_a[13:3] & ~(LANES_A - 11'd1), first_b = address_b[13:3] & ~(LANES_B - 11'd1);
  wire on_a = CEA && !{CSA2, CSA1, CSA0}, on_b = CEB && !{CSB2, CSB1, CSB0};
  // The lowest address bits of a port of more than one lane enable its lanes.
  wire [3:0] enable_a = {4{on_a && WEA}} & (LANES_A == 1 ? 4'd1 : address_a[3:0] & 4'd15 >> (4 - LANES_A));
  wire [3:0] enable_b = {4{on_b && WEB}} & (LANES_B == 1 ? 4'd1 : address_b[3:0] & 4'd15 >> (4 - LANES_B));

  // Is a lane written by the port whose first lane is given?
  function hit(input [10:0] lane, input [10:0] first, input [3:0] enable);
    hit = lane - first < 4 && enable[lane[1:0] - first[1:0]];
  endfunction

  always @(posedge CLKA) begin
    if (RSTA || RSTB) $fatal(1, "DP16KD: a reset is not modelled");
    for (k = 0; k < 4; k = k + 1) begin
      if (on_a && k < LANES_A && (!WEA || WRITEMODE_A == "READBEFOREWRITE"))
        read_a[9 * k +: 9] <= lanes[first_a | k[10:0]] ^ {9{hit(first_a | k[10:0], first_b, enable_b)}};
      if (on_b && k < LANES_B && (!WEB || WRITEMODE_B == "READBEFOREWRITE"))
        read_b[9 * k +: 9] <= lanes[first_b | k[10:0]] ^ {9{hit(first_b | k[10:0], first_a, enable_a)}};
      if (enable_a[k]) lanes[first_a | k[10:0]] <= write_a[9 * k +: 9];
      if (enable_b[k]) lanes[first_b | k[10:0]] <= write_b[9 * k +: 9];
    end
  end

  assign {
      DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9, DOB8, DOB7, DOB6, DOB5, DOB4, DOB3, DOB2, DOB1,
      DOB0} = LANES_B == 4 ? read_b[35:18] : read_b[17:0];
  assign {
      DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9, DOA8, DOA7, DOA6, DOA5, DOA4, DOA3, DOA2, DOA1,
      DOA0} = LANES_B == 4 ? read_b[17:0] : read_a[17:0];
endmodule

module MULT18X18D(
  input A17, A16, A15, A14, A13, A12, A11, A10, A9, A8, A7, A6, A5, A4, A3, A2, A1, A0,
  input B17, B16, B15, B14, B13, B12, B11, B10, B9, B8, B7, B6, B5, B4, B3, B2, B1, B0,
  input C17, C16, C15, C14, C13, C12, C11, C10, C9, C8, C7, C6, C5, C4, C3, C2, C1, C0,
  input SIGNEDA, SIGNEDB, SOURCEA, SOURCEB,
  output P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24, P23, P22, P21, P20, P19, P18, P17, P16, P15, P14,
  P13, P12, P11, P10, P9, P8, P7, P6, P5, P4, P3, P2, P1, P0
);
  wire [17:0] a = {
      A17, A16, A15, A14, A13, A12, A11, A10, A9, A8, A7, A6, A5, A4, A3, A2, A1, A0};
  wire [17:0] b = {
      B17, B16, B15, B14, B13, B12, B11, B10, B9, B8, B7, B6, B5, B4, B3, B2, B1, B0};
  wire signed [35:0] long_a = {{18{SIGNEDA & A17}}, a}, long_b = {{18{SIGNEDB & B17}}, b};
  assign {
      P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24, P23, P22, P21, P20, P19, P18, P17, P16, P15, P14,
      P13, P12, P11, P10, P9, P8, P7, P6, P5, P4, P3, P2, P1, P0} = long_a * long_b;
endmodule
