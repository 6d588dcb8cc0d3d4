# SPDX-License-Identifier: Apache-2.0
"""The figures of synthesis: known circuits are counted right, and what grows is found."""

import re

import pytest

from openese.rtl.config import preset
from openese.rtl.verilog import verilog
from openese.sim.synthesis import estimate
from openese.sim.synthesis.baselines import MEASURED, Baselines, changes
from openese.sim.synthesis.depth import Depths
from openese.sim.synthesis.families import FAMILIES
from openese.sim.synthesis.fanout import Net, nets
from openese.sim.synthesis.yosys import SynthesisError

pytest.importorskip("pyosys", reason="needs the extra 'synth'")

# Two PEs, in each a register, a function of all bits and an adder in front of another; beside them a memory.
CIRCUIT = """
module pe(clk, rst, i, o);
  /* verilator no_inline_module */
  input clk, rst; input [35:0] i; output reg [15:0] o; reg [35:0] held;
  always @(posedge clk) begin held <= i; o <= {16{^held}} & (held[15:0] + held[31:16]); end
endmodule

module memory_64x8_a(clk, write_address, write_enable, write_data, read0_address, read0_data);
  input clk, write_enable; input [5:0] write_address, read0_address; input [7:0] write_data; output [7:0] read0_data;
  reg [7:0] words [0:63];
  assign read0_data = words[read0_address];
  always @(posedge clk) if (write_enable) words[write_address] <= write_data;
endmodule

module openese(aclk, a, b, o, x, y);
  input aclk; input [35:0] a, b; output [31:0] o; input [14:0] x; output reg [7:0] y;
  wire [7:0] read;
  pe one (.clk(aclk), .rst(1'b0), .i(a), .o(o[15:0]));
  pe two (.clk(aclk), .rst(1'b0), .i(b), .o(o[31:16]));
  memory_64x8_a storage (.clk(aclk), .write_address(x[5:0]), .write_enable(x[6]), .write_data(x[14:7]),
                         .read0_address(x[5:0]), .read0_data(read));
  always @(posedge aclk) y <= read;
endmodule
"""


@pytest.fixture
def estimated(monkeypatch, tmp_path):
    monkeypatch.setenv("OPENESE_CACHE", str(tmp_path))
    monkeypatch.setattr(estimate, "verilog", lambda config: CIRCUIT)
    return lambda family: estimate.estimate(preset("tiny"), family)


@pytest.mark.parametrize(("family", "least", "most"), [("xcu", 3, 4), ("ecp5", 3, 5)])
def test_a_circuit_is_counted(estimated, family, least, most):
    figures = estimated(family)
    one, top = figures["blocks"]["PE"], figures["blocks"]["Top"]
    assert (one["instances"], one["FF"], top["FF"]) == (2, 52, 8)
    assert "LUTRAM" not in one and top["LUTRAM"] >= 8
    assert figures["total"]["FF"] == 2 * 52 + 8
    assert figures["total"]["LUT"] == 2 * one["LUT"] + top["LUT"]
    # The function of 36 bits takes 2 or 3 levels, and one more gates the sum; a chain adds.
    assert least <= figures["depth"]["PE"]["luts"] <= most
    assert figures["depth"]["PE"]["chains"] == 1
    assert figures["depth"]["Top"]["luts"] >= 1
    # A bit of `held` drives the function and the adder; each bit of the sum is gated by the function.
    assert figures["fanout"]["PE"]["logic"] >= 16 > figures["fanout"]["PE"]["register"] >= 2
    assert 2 <= figures["fanout"]["Top"]["pin"] <= 32  # an address of the memory
    assert figures["nets"][0][-1] == max(max(loads.values()) for loads in figures["fanout"].values())


def test_an_output_that_follows_an_input_is_refused(monkeypatch, estimated):
    monkeypatch.setattr(estimate, "verilog", lambda config: CIRCUIT.replace(
        "output reg [15:0] o;", "output [15:0] o; assign o = i[15:0] ^ held[15:0];").replace(
        "o <= {16{^held}} & (held[15:0] + held[31:16]);", ""))
    with pytest.raises(SynthesisError, match="module pe: an output follows an input"):
        estimated("xcu")


def test_every_module_belongs_to_a_block():
    streaming = preset("tiny").replace(name="streaming", index_bits=4, stream=True)
    for module in re.findall(r"(?m)^module (?!memory_)(\w+)", verilog(streaming)):
        assert estimate._block(module)


def test_what_grows_is_found():
    figures = {"total": {"LUT": 1000, "BRAM": 4}, "depth": {"PE": {"luts": 5, "chains": 2}},
               "fanout": {"PE": {"register": 200, "logic": 30}, "Top": {"pin": 4}},
               "blocks": {"PE": {"instances": 4, "LUT": 200}, "Top": {"instances": 1, "LUT": 200}}}
    same = {"total": {"LUT": 1030, "BRAM": 4}, "depth": {"PE": {"luts": 5, "chains": 2}},
            "fanout": {"PE": {"register": 208, "logic": 22}, "Top": {"pin": 4}},
            "blocks": {"PE": {"instances": 4, "LUT": 208}, "Top": {"instances": 1, "LUT": 192}}}
    assert changes(figures, same) == []
    worse = {"total": {"LUT": 1031, "BRAM": 4.5}, "depth": {"PE": {"luts": 6, "chains": 2}},
             "fanout": {"PE": {"register": 209, "logic": 30}, "Top": {"pin": 513}},
             "blocks": {"PE": {"instances": 4, "LUT": 209}, "Top": {"instances": 1, "LUT": 180}}}
    assert changes(figures, worse) == [
        ("machine", "LUT", 1000, 1031), ("machine", "BRAM", 4, 4.5), ("PE (depth)", "luts", 5, 6),
        ("PE (fanout)", "register", 200, 209), ("Top (fanout)", "pin", 4, 513), ("PE", "LUT", 200, 209),
        ("Top", "LUT", 200, 180)]


def test_the_clock_of_a_shift_register_is_no_path():
    """The output of preset `latency`'s slices is a shift register's."""
    register = {"type": "SRL16E", "connections": {"CLK": [2], "D": [3], "Q": [4]},
                "port_directions": {"CLK": "input", "D": "input", "Q": "output"}}
    ports = {"clk": {"direction": "input", "bits": [2]}, "o": {"direction": "output", "bits": [4]}}
    netlist = {"unit": {"ports": ports, "cells": {"r": register}}}
    assert not Depths(netlist, "unit", FAMILIES["xcu"], {}, str).combinational


def cell(kind, **pins):
    """A cell; upper-case pins drive."""
    return {"type": kind, "connections": {pin: [bit] if isinstance(bit, int) else bit for pin, bit in pins.items()},
            "port_directions": {pin: "output" if pin in ("O", "Q", "o", "p") else "input" for pin in pins}}


def port(direction, *bits):
    return {"direction": direction, "bits": list(bits)}


#: A register that drives two LUTs in its module; the outputs of one of them and of a wire that only passes.
PART = {"ports": {"clk": port("input", 2), "i": port("input", 3), "w": port("input", 9), "o": port("output", 5),
                  "p": port("output", 9)},
        "cells": {"r": cell("FDRE", C=2, D=3, CE=["1"], R=3, Q=4), "a": cell("LUT1", I0=4, O=5),
                  "b": cell("LUT2", I0=4, I1=4, O=6), "c": cell("FDRE", C=2, D=6, CE=9, Q=7)},
        "names": {"4": "kept", "5": "given"}}
#: Two parts; the first one's output drives the second one's inputs and a pin.
WHOLE = {"ports": {"aclk": port("input", 2), "x": port("input", 3), "y": port("output", 4)},
         "cells": {"one": cell("part", clk=2, i=3, w=["0"], o=4, p=["x"]),
                   "two": cell("part", clk=2, i=4, w=4, o=5, p=6),
                   "end": cell("FDRE", C=2, D=5, CE=6, R=["0"], Q=7)},
         "names": {}}


def test_fan_out_is_counted_across_modules():
    found = nets({"part": PART, "whole": WHOLE}, "whole", FAMILIES["xcu"], str)
    # `given` of the first: D, R and the enable in the second, and what its wire passes it to. A cell counts once.
    assert found == [Net("part", "given", "logic", 3), Net("part", "kept", "register", 2), Net("part", "", "logic", 1),
                     Net("whole", "x", "pin", 1), Net("part", "", "register", 0), Net("whole", "", "register", 0),
                     Net("whole", "aclk", "pin", 0)]


def test_a_path_ends_in_its_block():
    depths = Depths({"part": PART, "whole": WHOLE}, "whole", FAMILIES["xcu"], {}, str)
    assert depths.ends == {"part": (1, 0), "whole": (1, 0)}


def test_every_baseline_is_measured_again():
    for family, names in MEASURED.items():
        assert set(Baselines().machines(family)) <= set(names)


def test_two_processes_save_their_baselines_in_one_file(tmp_path):
    """Each has read the file before the other saves."""
    file = tmp_path / "synth.json"
    file.write_text("{}")
    one, other = Baselines(file), Baselines(file)
    one.update(preset("tiny"), "xcu", {"total": {"LUT": 1}})
    other.update(preset("demo"), "xcu", {"total": {"LUT": 2}})
    assert other.machines("xcu") == Baselines(file).machines("xcu") == ["tiny", "demo"]
    assert [path.name for path in tmp_path.iterdir()] == ["synth.json"]


def test_only_presets_have_baselines(tmp_path):
    file = tmp_path / "synth.json"
    file.write_text("{}")
    figures = {"total": {"LUT": 1000}, "depth": {}, "fanout": {}, "blocks": {}}
    Baselines(file).update(preset("tiny"), "xcu", figures)
    grown = {**figures, "total": {"LUT": 2000}}
    assert Baselines(file).changes(preset("tiny"), "xcu", grown) == [("machine", "LUT", 1000, 2000)]
    deeper = preset("tiny").replace(queue_depth=32)
    assert Baselines(file).changes(deeper, "xcu", grown) == []
    with pytest.raises(ValueError, match="only presets have baselines, and 'tiny' was changed"):
        Baselines(file).update(deeper, "xcu", figures)
    with pytest.raises(ValueError, match="in a checkout of the project only"):
        Baselines(tmp_path / "none.json").update(preset("tiny"), "xcu", figures)
