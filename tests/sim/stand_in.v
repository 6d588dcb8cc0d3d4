// SPDX-License-Identifier: Apache-2.0
// A machine of one channel that does what the tests of the simulator ask of it: it adds 1 to every column,
// keeps registers, reads a memory, answers with errors, and breaks the rules of its buses when told.
//
// 0x000 scratch, its bit 0 is irq    0x010 sum of index * word written here    0x014 words written there
// 0x020 first address of bursts      0x024 bursts to read, each of 4 beats     0x028 beats read
// 0x02c sum of the lowest bytes of the beats read      0x030 beats answered with an error
// 0x040 bit 0: takes no write any more; bit 1: changes a beat while it is offered
// Other addresses answer SLVERR.

module openese(
    input aclk, input aresetn, output irq,
    input [11:0] s_axi_awaddr, input s_axi_awvalid, output s_axi_awready,
    input [31:0] s_axi_wdata, input [3:0] s_axi_wstrb, input s_axi_wvalid, output s_axi_wready,
    output reg [1:0] s_axi_bresp, output reg s_axi_bvalid, input s_axi_bready,
    input [11:0] s_axi_araddr, input s_axi_arvalid, output s_axi_arready,
    output reg [31:0] s_axi_rdata, output reg [1:0] s_axi_rresp, output reg s_axi_rvalid, input s_axi_rready,
    input [15:0] s_axis_tdata, input s_axis_tlast, input s_axis_tvalid, output s_axis_tready,
    output [15:0] m_axis_tdata, output reg m_axis_tlast, output reg m_axis_tvalid, input m_axis_tready,
    output [31:0] m_axi_araddr, output [7:0] m_axi_arlen, output [2:0] m_axi_arsize, output [1:0] m_axi_arburst,
    output [1:0] m_axi_arid, output m_axi_arvalid, input m_axi_arready,
    input [511:0] m_axi_rdata, input [1:0] m_axi_rresp, input [1:0] m_axi_rid, input m_axi_rlast,
    input m_axi_rvalid, output m_axi_rready);

  reg [31:0] scratch, sum, count, address, bursts, beats, bytes, errors;
  reg [1:0] vice;

  wire write = s_axi_awvalid & s_axi_wvalid & !s_axi_bvalid & !vice[0];
  assign s_axi_awready = write, s_axi_wready = write, s_axi_arready = !s_axi_rvalid, irq = scratch[0];

  wire burst = m_axi_arvalid & m_axi_arready;
  assign m_axi_araddr = address, m_axi_arlen = 3, m_axi_arsize = 6, m_axi_arburst = 1;
  assign m_axi_arid = bursts[1:0], m_axi_arvalid = bursts != 0, m_axi_rready = 1;

  always @(posedge aclk)
    if (!aresetn) begin
      {scratch, sum, count, address, bursts, beats, bytes, errors, vice} <= 0;
      {s_axi_bvalid, s_axi_rvalid} <= 0;
    end else begin
      if (s_axi_bready) s_axi_bvalid <= 0;
      if (burst) {address, bursts} <= {address + 32'd256, bursts - 32'd1};
      if (m_axi_rvalid) begin
        beats <= beats + 1;
        if (m_axi_rresp != 0) errors <= errors + 1;
        else bytes <= bytes + m_axi_rdata[7:0];
      end
      if (write) begin
        s_axi_bvalid <= 1;
        s_axi_bresp <= 0;
        case (s_axi_awaddr)
          12'h000: scratch <= s_axi_wdata;
          12'h010: {sum, count} <= {sum + count * s_axi_wdata, count + 32'd1};
          12'h020: address <= s_axi_wdata;
          12'h024: bursts <= s_axi_wdata;
          12'h040: vice <= s_axi_wdata[1:0];
          default: s_axi_bresp <= 2;
        endcase
      end
      if (s_axi_rready) s_axi_rvalid <= 0;
      if (s_axi_arvalid & !s_axi_rvalid) begin
        s_axi_rvalid <= 1;
        s_axi_rresp <= 0;
        case (s_axi_araddr)
          12'h000: s_axi_rdata <= scratch;
          12'h010: s_axi_rdata <= sum;
          12'h014: s_axi_rdata <= count;
          12'h028: s_axi_rdata <= beats;
          12'h02c: s_axi_rdata <= bytes;
          12'h030: s_axi_rdata <= errors;
          default: s_axi_rresp <= 2;
        endcase
      end
    end

  reg first, turn;
  reg [15:0] column;
  wire next = !m_axis_tvalid | m_axis_tready;
  assign s_axis_tready = next, m_axis_tdata = column ^ {15'd0, turn & vice[1]};
  always @(posedge aclk)
    if (!aresetn) {first, m_axis_tvalid, turn} <= 3'b100;
    else begin
      turn <= !turn;
      if (next) begin
        m_axis_tvalid <= s_axis_tvalid;
        m_axis_tlast <= s_axis_tlast;
        column <= first ? s_axis_tdata & 1 : s_axis_tdata + 1;
        if (s_axis_tvalid) first <= s_axis_tlast;
      end
    end
endmodule
