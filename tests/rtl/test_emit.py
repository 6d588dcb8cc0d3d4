# SPDX-License-Identifier: Apache-2.0
"""Emitted Verilog: blocks and memories written once."""

import re

import pytest
from amaranth.hdl import Module
from amaranth.lib import memory, wiring
from bench import TINY

from openese.rtl.emit import emit
from openese.rtl.pe import PE
from openese.rtl.tile import Tile
from openese.rtl.top import Top


class Holder(wiring.Component):
    """Nothing but a memory."""

    def __init__(self, init=(), transparent=False):
        self._init, self._transparent = init, transparent
        super().__init__({})

    def elaborate(self, platform):
        m = Module()
        m.submodules.storage = storage = memory.Memory(shape=8, depth=4, init=self._init)
        write = storage.write_port()
        storage.read_port(transparent_for=(write,) if self._transparent else ())
        return m


def instances(text, module):
    return len(re.findall(rf"(?m)^  {module} \S+ \($", text))


def test_a_repeated_block_is_written_once():
    text = emit(Top(TINY), "machine")
    assert re.findall(r"(?m)^module (tile|pe|elementwise)\(", text) == ["elementwise", "pe", "tile"]
    assert instances(text, "tile") == TINY.slices
    names = re.findall(r"(?m)^module (\S+?) ?\(", text)
    assert len(names) == len(set(names))
    assert not re.search(r"words\[\d+\] =", text), "memories start with zeros by a loop"


def test_a_tile_has_the_pes_of_all_its_rows_and_groups():
    text = emit(Tile(TINY.replace(pes=16, groups=2, slices=4)), "machine")
    assert instances(text, "pe") == 4
    assert instances(text, "elementwise") == 1


@pytest.mark.parametrize("holder, said", [(Holder(init=[0, 3]), "contents"), (Holder(transparent=True), "transparent")])
def test_a_memory_that_is_not_for_synthesis_tools_is_refused(holder, said):
    with pytest.raises(ValueError, match=f"4 rows.*{said}"):
        emit(holder, "machine")


def test_channels_have_accumulators_in_the_memory_that_is_asked_for():
    """A memory a kind; the last rows in LUTs are apart. UltraRAM has no first contents."""
    config = TINY.replace(channels=8, accumulator_rows=144, lut_channels=3, ultra_channels=4, ultra_weights=True)
    bits, text = config.accumulator_bits, emit(PE(config, ultra=True), "machine")
    modules = dict(re.findall(r"(?ms)^module (memory_\w+)\(\n(.*?)^endmodule", text))
    kinds = {f"memory_{rows}_{kind}": kind for rows, kind in (
        (f"144x{bits}_s", "block"), (f"128x{3 * bits}_a", "distributed"), (f"16x{3 * bits}_a", "distributed"),
        (f"144x{4 * bits}_s", "ultra"), (f"{config.entry_depth}x{config.entry_bits}_s", "ultra"))}
    for name, kind in kinds.items():
        assert instances(text, name) == 1 and f'ram_style = "{kind}"' in modules[name]
        assert ("initial" in modules[name]) == (kind != "ultra")


def test_attributes_stay_with_what_they_are_said_of():
    text = emit(Top(TINY.replace(accumulator_rows=512)), "machine")
    attributes = re.findall(r"\(\* (\w+) = (\S+) \*\)(?: \(\*.*\*\))*\s+(\w+)(?: \[\S+\])? +(\S+)", text)
    said = {}
    for attribute, value, kind, name in attributes:
        said.setdefault((attribute, value.strip('"')), []).append((kind, name.rstrip(";")))
    assert {kind for kind, _ in said["use_dsp", "yes"]} == {"reg"}
    names = {name for _, name in said["use_dsp", "yes"]}
    assert {f"product_{channel}" for channel in range(TINY.channels)} < names
    assert {("reg", "entries__ready"), ("reg", "drain")} < set(said["max_fanout", "64"])
    assert ("reg", "words") in said["ram_style", "block"] and ("reg", "words") in said["ram_style", "distributed"]
    assert not re.search(r"(\(\* .* \*\))\s+\1", text), "an attribute whose wire is gone"
