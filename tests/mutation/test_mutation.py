# SPDX-License-Identifier: Apache-2.0
"""The score of tests means something: a mutation is noticed, no mutation is not, and what changes nothing is found."""

import re

import pytest
from amaranth.hdl import Module, Mux, ResetInserter, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from openese.rtl.emit import emit
from openese.rtl.fifo import Fifo

pytest.importorskip("pyosys", reason="needs the extra 'synth'")
from mutation import engine  # noqa: E402
from mutation.__main__ import scores  # noqa: E402
from mutation.equivalence import same, same_after_reset  # noqa: E402
from mutation.netlist import SELECT, WIDTH, Netlist  # noqa: E402
from mutation.standin import StandIn  # noqa: E402


@pytest.fixture
def campaign(tmp_path):
    return engine.Campaign("fifo", tmp_path, 6, 3)


@pytest.mark.slow
def test_mutations_of_a_fifo(campaign):
    """Six mutations; each is killed by a test that passes without it, or changes nothing."""
    campaign.prepare()
    entries = [campaign.run(number) for number in range(1, 7)]
    for entry in entries:
        campaign.keep(entry)
        assert entry["result"] in ("killed", "same"), entry
    assert sum(entry["result"] == "killed" for entry in entries) >= 3
    assert campaign.known() == {entry["mutation"]: entry for entry in entries}
    assert scores(entries)["fifo"]["score"] == 1.0


@pytest.mark.slow
def test_a_netlist_has_the_reset_of_its_block(campaign):
    """That which only this block has."""
    dut, reset, levels = Fifo(8, 8), Signal(), []

    async def bench(ctx):
        ctx.set(dut.i_valid, 1)
        for resets in (0, 0, 1, 0):
            ctx.set(reset, resets)
            await ctx.tick()
            levels.append(ctx.get(dut.level))

    stand_in = campaign.stand_in(0)
    with stand_in.installed():
        simulator = Simulator(ResetInserter(reset)(dut))
        simulator.add_clock(1e-6)
        simulator.add_testbench(bench)
        simulator.run()
    assert (stand_in.used, levels) == (1, [1, 2, 0, 1])


class Turning(wiring.Component):
    """A register that starts with ones turns by a bit each cycle."""

    o: Out(4)

    def elaborate(self, platform):
        m = Module()
        turned = Signal(4, init=0b1011)
        m.d.sync += turned.eq(turned.rotate_left(1))
        m.d.comb += self.o.eq(turned)
        return m


@pytest.mark.slow
def test_a_netlist_starts_as_its_block(tmp_path):
    """Behind mutated outputs of registers too."""
    netlist, shown = Netlist(Turning(), tmp_path / "turning", 8, 1), []
    assert len({line for line in netlist.mutations if " -port Q " in line}) > 1
    dut = Turning()

    async def bench(ctx):
        for _ in range(4):
            shown.append(ctx.get(dut.o))
            await ctx.tick()

    with StandIn(Turning(), netlist, 0).installed():
        simulator = Simulator(dut)
        simulator.add_clock(1e-6)
        simulator.add_testbench(bench)
        simulator.run()
    assert shown == [0b1011, 0b0111, 0b1110, 0b1101]


def test_a_machine_has_the_mutation(campaign):
    """The Verilog of a machine around the netlist has all mutations, and chooses one when it starts."""
    with StandIn(Fifo(8, 8), campaign.netlist, 5).installed():
        text = emit(Fifo(8, 8), "top")
    assert re.findall(rf"\.{SELECT}\((\w+)\)", text) == ["choice", "choice"]
    assert f"  {campaign.netlist.module} " in text and f"module {campaign.netlist.choice}(" in campaign.netlist.verilog


def test_equivalence(campaign):
    """Mutation 7 is none; the first ones change something."""
    for compared in (same, same_after_reset):
        assert not all(compared(campaign.netlist, number) for number in range(1, 7))
        assert compared(campaign.netlist, 7)


class Shown(wiring.Component):
    """Its value counts while it is valid. The highest bit of ``i`` is never 1."""

    i: In(4)
    valid: Out(1)
    value: Out(4)

    def elaborate(self, platform):
        m = Module()
        m.d.sync += [self.valid.eq(self.i[0]), self.value.eq(Mux(self.i[0], self.i ^ self.i[3], ~self.i))]
        return m


def test_a_contract_hides_what_does_not_count(tmp_path):
    """The result of the NOT, which is never valid, and a bit of the XOR that is always 0; but not bits of the value."""
    contract = {"value": "valid"}, ("~i[3]",)
    for case, found in ((), set()), (contract, {"$not", "$xor"}):
        netlist = Netlist(Shown(), tmp_path / str(len(case)), 16, 1, *case)
        kinds = {cell: kind for kind, cell in re.findall(r"cell (\$\w+) (\S+)",
                                                         (netlist.folder / "golden.il").read_text())}
        changes = {kinds[re.search(r"-cell (\S+)", netlist.mutations[number - 1])[1]]:
                   same_after_reset(netlist, number) for number in (4, 9, 10)}
        assert changes.keys() == {"$not", "$xor", "$dff"}
        assert {kind for kind, same in changes.items() if same} == found


def test_a_netlist_has_its_mutations(campaign):
    lines = campaign.netlist.mutations
    assert len(set(lines)) == 6
    for number, line in enumerate(lines, 1):
        assert f"-ctrl {SELECT} {WIDTH} {number} " in line
        assert "fifo.py" in campaign.netlist.place(number)
    assert f"input [{WIDTH - 1}:0] {SELECT}" in (campaign.folder / "mutated.v").read_text()
