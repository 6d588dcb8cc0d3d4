# SPDX-License-Identifier: Apache-2.0
"""The ULX3S, as far as place and route, which takes too long for a test: its sources, and where its pins are."""

import re

import pytest

from openese.rtl.config import preset
from openese.rtl.targets import TARGETS, TargetError, ulx3s
from openese.rtl.verilog import TOP, verilog

TINY = preset("tiny")


def test_the_machine_is_the_one_of_every_target():
    files = ulx3s.sources(TINY)
    assert files[f"{TOP}.v"] == verilog(TINY)
    assert files == ulx3s.sources(TINY)


def test_every_pin_is_placed_where_the_board_has_it():
    pytest.importorskip("amaranth_boards", reason="needs the extra 'ulx3s'")
    ports = re.search(r"module ulx3s\((.*?)\);", ulx3s.sources(TINY)["ulx3s.v"], re.S)[1]
    placed = re.findall(r'LOCATE COMP "(\w+)(?:\[\d\])?" SITE "(\w+)";', ulx3s.constraints())
    assert {name for name, _ in placed} == {name.strip() for name in ports.split(",")}
    assert {("clk25", "G2"), ("rx", "M1"), ("tx", "L4"), ("dip", "E8"), ("led", "H3")} <= set(placed)
    assert len({site for _, site in placed}) == len(placed)
    assert 'FREQUENCY PORT "clk25" 25 MHZ;' in ulx3s.constraints()


def test_a_machine_that_streams_is_refused(tmp_path):
    with pytest.raises(TargetError, match="config 'ese_stream' reads weights from memory"):
        TARGETS["ulx3s"].write(preset("ese_stream"), tmp_path)
    assert not list(tmp_path.iterdir())
