# SPDX-License-Identifier: Apache-2.0
"""Vivado scripts run by a real Tcl, with stubs for Vivado's own commands."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

__all__ = ["COMMANDS", "Call", "run"]

STUBS = Path(__file__).with_name("stubs.tcl")

#: Commands and their switches, as in the Tcl command reference (UG835) and, for ipx:: and ipgui::, in UG1118: 0 for a
#: switch that stands alone, 1 for one that a value follows.
COMMANDS = {
    "add_files": {"-norecurse": 0, "-fileset": 1},
    "apply_bd_automation": {"-rule": 1, "-config": 1},
    "apply_board_connection": {"-board_interface": 1, "-ip_intf": 1, "-diagram": 1},
    "assign_bd_address": {"-offset": 1, "-range": 1, "-target_address_space": 1, "-force": 0},
    "close_project": {},
    "connect_bd_intf_net": {},
    "connect_bd_net": {},
    "create_bd_cell": {"-type": 1, "-vlnv": 1},
    "create_bd_design": {},
    "create_clock": {"-name": 1, "-period": 1},
    "create_project": {"-in_memory": 0, "-part": 1, "-force": 0},
    "current_fileset": {},
    "current_project": {},
    "get_bd_addr_segs": {},
    "get_bd_addr_spaces": {},
    "get_bd_cells": {},
    "get_bd_intf_pins": {},
    "get_bd_pins": {},
    "get_cells": {},
    "get_files": {},
    "get_ports": {},
    "get_property": {},
    "get_timing_paths": {"-max_paths": 1, "-setup": 0},
    "ipgui::add_param": {"-name": 1, "-component": 1, "-parent": 1},
    "ipgui::add_page": {"-name": 1},
    "ipgui::get_pagespec": {"-name": 1, "-component": 1},
    "ipx::add_address_block": {},
    "ipx::add_bus_parameter": {},
    "ipx::add_field": {},
    "ipx::add_file": {},
    "ipx::add_file_group": {"-type": 1},
    "ipx::add_memory_map": {},
    "ipx::add_register": {},
    "ipx::add_user_parameter": {},
    "ipx::associate_bus_interfaces": {"-busif": 1, "-clock": 1, "-reset": 1},
    "ipx::check_integrity": {},
    "ipx::create_xgui_files": {},
    "ipx::current_core": {},
    "ipx::get_bus_interfaces": {"-quiet": 0, "-of_objects": 1},
    "ipx::get_bus_parameters": {"-quiet": 0, "-of_objects": 1},
    "ipx::get_memory_maps": {"-quiet": 0, "-of_objects": 1},
    "ipx::infer_bus_interface": {},
    "ipx::package_project": {"-root_dir": 1, "-vendor": 1, "-library": 1, "-taxonomy": 1, "-import_files": 0,
                             "-force": 0},
    "ipx::remove_memory_map": {},
    "ipx::save_core": {},
    "ipx::update_checksums": {},
    "launch_runs": {"-to_step": 1},
    "make_wrapper": {"-files": 1, "-top": 0, "-import": 0},
    "open_run": {},
    "opt_design": {},
    "phys_opt_design": {},
    "place_design": {},
    "read_verilog": {},
    "read_xdc": {"-mode": 1},
    "report_design_analysis": {"-logic_level_distribution": 0, "-file": 1},
    "report_exceptions": {"-file": 1},
    "report_high_fanout_nets": {"-max_nets": 1, "-file": 1},
    "report_power": {"-file": 1},
    "report_timing_summary": {"-max_paths": 1, "-file": 1},
    "report_utilization": {"-hierarchical": 0, "-file": 1},
    "route_design": {},
    "save_bd_design": {},
    "set_multicycle_path": {"-setup": 0, "-hold": 0, "-from": 1, "-to": 1},
    "set_property": {"-dict": 1},
    "synth_design": {"-top": 1, "-part": 1, "-mode": 1},
    "update_compile_order": {"-fileset": 1},
    "update_ip_catalog": {},
    "validate_bd_design": {},
    "wait_on_run": {},
    "write_checkpoint": {"-force": 0},
    "write_hw_platform": {"-fixed": 0, "-include_bit": 0, "-force": 0, "-file": 1},
    "xdefine_include_file": {},
}


class Call(NamedTuple):
    """A command, its switches with their values (True where there is none) and its other words."""

    name: str
    switches: dict
    words: list

    @classmethod
    def parse(cls, line):
        name, *rest = [bytes.fromhex(word).decode() for word in line.split(",")]
        switches, words = {}, []
        rest = iter(rest)
        for word in rest:
            if word in COMMANDS[name]:
                switches[word] = next(rest) if COMMANDS[name][word] else True
            else:
                assert not (word.startswith("-") and word[1:2].isalpha()), f"{name} has no switch {word}"
                words.append(word)
        return cls(name, switches, words)


def run(script, folder, *arguments, slack="0.1"):
    """What ``script`` calls, in order, when it runs in ``folder``.

    Raises
    ------
    RuntimeError
        With what Tcl says, where the script stops with an error.
    """
    tclsh = shutil.which("tclsh")
    assert tclsh, "these tests run Tcl scripts: apt install tcl"
    commands, record = folder / "commands", folder / "record"
    commands.write_text("\n".join(COMMANDS))
    done = subprocess.run([tclsh, STUBS, script, commands, record, *arguments], cwd=folder, text=True,
                          capture_output=True, env={**os.environ, "SLACK": slack})
    if done.returncode:
        raise RuntimeError(done.stderr)
    return [Call.parse(line) for line in record.read_text().splitlines()]
