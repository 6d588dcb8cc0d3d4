# SPDX-License-Identifier: Apache-2.0
"""The counters in a machine's Verilog are about what they say."""

import re

import pytest
from machines import STREAM, TINY

from covered.__main__ import hardware, software
from covered.machine import Counted


@pytest.fixture
def counted(tmp_path):
    return Counted(tmp_path)


def counts_of(path, counts):
    """A file as Verilator writes it, of counts by page and line."""
    lines = ["# SystemC::Coverage-3"]
    for (page, line, place), count in counts.items():
        fields = {"f": path, "l": line, "n": place, "page": f"{page}/block", "o": place, "h": "top.x"}
        lines.append("C '" + "".join(f"\x01{key}\x02{value}" for key, value in fields.items()) + f"' {count}")
    return "\n".join(lines) + "\n"


def test_every_state_machine_has_counters(counted):
    """Of the states that Amaranth has, and the transitions that its Verilog has."""
    path = counted.emitted(STREAM)
    text = path.read_text().splitlines()
    _, points, starts, idle = counted._known[path]
    assert sum(bool(re.match(r"  reg \[\d+:0\] fsm_state ", line)) for line in text) == len(
        {name for name, *what in points.values()})
    covers = [number for number, line in enumerate(text, 1) if line.startswith("  cover property")]
    assert covers == sorted(points)
    for line, (name, *_) in points.items():
        assert text[starts[name] - 1].startswith(f"module {name}(")
        assert starts[name] < line and "endmodule" not in text[starts[name]:line]
    of_output = [what for name, *what in points.values() if name == "openese_core_frame_output"]
    assert of_output == [["IDLE"], ["HEADER"], ["READ"], ["LAND"], ["IDLE", "HEADER"], ["HEADER", "READ"],
                         ["READ", "LAND"], ["LAND", "IDLE"]]
    assert idle and all("begin end" in text[number - 1] for number in idle)


def test_counts_are_added_by_place(counted, tmp_path):
    """Over instances and runs; where Yosys begins is left out."""
    path = counted.emitted(TINY)
    _, points, starts, idle = counted._known[path]
    state, arc = list(points)[0], next(line for line, what in points.items() if len(what) == 3)
    first = starts["pe_spmv"] + 9
    (tmp_path / "data" / "1.dat").write_text(counts_of(path, {
        ("v_line", first, 1): 0, ("v_branch", first + 1, 1): 0, ("v_branch", first + 1, 2): 5, ("v_user", state, 1): 3,
        ("v_user", arc, 1): 0, ("v_line", min(idle), 1): 1}))
    (tmp_path / "data" / "2.dat").write_text(counts_of(path, {
        ("v_line", first, 1): 2, ("v_branch", first + 1, 1): 0, ("v_user", state, 1): 4}))
    found = counted.counts()["tiny"]
    assert {name: (block["lines"], block["ran"]) for name, block in found.items() if block["lines"]} == {
        "pe_spmv": (3, 2)}
    name, *what = points[state]
    assert found[name]["states"] == {what[0]: 7}
    assert found[points[arc][0]]["transitions"] == {" -> ".join(points[arc][1:]): 0}
    figures = hardware({"one": found, "other": found})
    assert figures["machines"] == {"one": {"lines": 3, "ran": 2}, "other": {"lines": 3, "ran": 2}}
    assert figures["blocks"]["pe_spmv"] == {"lines": 6, "ran": 4}
    assert figures["state_machines"][name]["states"] == {what[0]: 14}


def test_software_is_summed_by_folder():
    def file(statements, ran, branches, taken):
        return {"summary": {"num_statements": statements, "covered_lines": ran, "num_branches": branches,
                            "covered_branches": taken}}

    found = software({"files": {"rtl/pe.py": file(5, 5, 0, 0), "openese/sw/pack/level.py": file(10, 9, 4, 3),
                                "openese/sw/pack/image.py": file(20, 20, 6, 6), "sw/extra.py": file(1, 1, 0, 0),
                                "rtl/targets/driver/build.py": file(3, 3, 1, 1)}})
    assert found == {
        "sw/pack": {"statements": 30, "ran": 29, "branches": 10, "branches_ran": 9},
        "rtl": {"statements": 5, "ran": 5, "branches": 0, "branches_ran": 0},
        "rtl/targets": {"statements": 3, "ran": 3, "branches": 1, "branches_ran": 1},
        "sw": {"statements": 1, "ran": 1, "branches": 0, "branches_ran": 0}}
