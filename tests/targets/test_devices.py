# SPDX-License-Identifier: Apache-2.0
"""The table of FPGAs: what a data sheet says twice agrees, and every device is found by its names."""

import pytest

from openese.rtl.config import preset
from openese.rtl.targets.capacity import FPGAS, block_rams
from openese.rtl.targets.devices import DEVICES, RESOURCES, device

#: Largest distributed RAM, as the data sheets give it, in units of so many bits.
DISTRIBUTED = {"kv260": (3.5, 1 << 20), "zcu104": (6.2, 1 << 20), "kcu105": (7_050, 1 << 10),
               "xcku060": (9_180, 1 << 10), "u50": (24.6, 1 << 20), "aws-f1": (36.1, 1 << 20),
               "aws-f2": (36.7, 1 << 20), "arty-a7-100t": (1_188, 1 << 10), "ulx3s-85f": (669, 1_000)}


@pytest.mark.parametrize("name", DEVICES)
def test_numbers_of_a_device_agree_with_each_other(name):
    held = DEVICES[name]
    assert held.name == name and held.resources.keys() == RESOURCES.keys()
    # Every LUT has one register beside it on an ECP5, two on the others.
    assert held.ffs == held.luts * (1 if held.family == "ecp5" else 2)
    assert any(document in held.source for document in ("DS", "FPGA-DS"))
    if name in DISTRIBUTED:
        size, unit = DISTRIBUTED[name]
        # Of the six LUTs of an ECP5's memory, four hold 16 bits each.
        bits = held.lutrams * 64 / (6 if held.family == "ecp5" else 1)
        assert round(bits / unit, 1 if size < 100 else 0) == size


def test_a_device_is_found_by_board_and_by_fpga():
    assert device("KCU105") is device("xcku040") is DEVICES["kcu105"]
    with pytest.raises(ValueError, match="no device 'xcku0600'; did you mean xcku060"):
        device("xcku0600")
    with pytest.raises(ValueError, match="no device '5'; there are ulx3s-85f, pynq-z2"):
        device("5")


def test_the_fpgas_of_targets_are_devices():
    assert {fpga.device for fpga in FPGAS.values()} <= DEVICES.keys()


def test_every_family_counts_memories():
    assert {block_rams(preset("tiny"), held.family) for held in DEVICES.values()} == {16.5, 42}
