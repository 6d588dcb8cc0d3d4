# SPDX-License-Identifier: Apache-2.0
"""Tables of the explanations, computed on random weights of the paper's layer, pruned to 10 %."""

import importlib
import inspect
import json
import pkgutil
from functools import cache
from pathlib import Path

import numpy as np
from amaranth.lib import wiring

import openese.rtl
from docs.markdown import table
from openese.rtl.broadcast import Broadcast
from openese.rtl.config import preset
from openese.rtl.controller import Controller
from openese.rtl.fifo import Fifo
from openese.rtl.frames import FrameGuard, FrameOutput
from openese.sw import bench
from openese.sw.pack.encode import column_order
from openese.sw.pack.schedule import schedule
from openese.sw.prune import prune
from tests import formal
from tests.formal.engine import PROOFS
from tests.mutation.equal import EQUAL

__all__ = ["TABLES"]

_DEPTHS = (8, 16, 32, 64)


@cache
def _pruned():
    return prune(bench.paper_layer(), 0.1, preset("ese").pes)


def _entries(matrix):
    """Non-zeros of each column on each of 32 PEs."""
    return np.count_nonzero(matrix.reshape(-1, 32, matrix.shape[1]), axis=0).T


def _cycles(counts, depth):
    """Cycles until the last PE is through, by queues of ``depth`` alone: no latencies, no drains."""
    sent, done = 0, [[0] * depth for _ in counts.T]
    for column in counts:
        sent = max(sent + 1, max(times[-depth] for times in done))
        for pe in np.flatnonzero(column):
            done[pe].append(max(sent, done[pe][-1]) + int(column[pe]))
    return max(times[-1] for times in done)


def ideas():
    """What free empty columns, stacked gates and the packer's order save, by queue depth."""
    layer = _pruned().layers[0]
    w_ym, gates = _entries(layer.w_ym), [_entries(matrix) for matrix in layer.w_r]
    stacked = sum(gates)
    columns = {
        "`W_ym`, an empty column costs a cycle": [np.maximum(w_ym, 1)], "`W_ym`, empty columns are free": [w_ym],
        "`W_ym`, in the packer's order too": [w_ym[column_order(w_ym)]],
        "`W_r`, gate after gate": [np.maximum(gate, 1) for gate in gates], "`W_r`, gates stacked": [stacked],
        "`W_r`, in the packer's order too": [stacked[column_order(stacked)]]}
    return table(["cycles with queues of", *_DEPTHS], [
        [title, *(f"{sum(_cycles(counts, depth) for counts in products):,}" for depth in _DEPTHS)]
        for title, products in columns.items()])


def padding():
    """Padding entries by the width of the skip."""
    found = {}
    for bits in (3, 4, 5, 6):
        config = preset("ese").replace(index_bits=bits, entry_depth=16384)
        plan = schedule(bench.quantized_layer(_pruned(), config), config)
        encoded = [operation.encoded for operation in plan.operations]
        found[bits] = sum(part.padding for part in encoded) / sum(part.nonzeros.sum() for part in encoded)
    return table(["`index_bits`", *found], [
        ["padding entries per 100 weights", *(f"{100 * share:.2g}" for share in found.values())]])


def proofs():
    """The proofs of tests/formal, as their harnesses describe themselves."""
    for file in sorted(Path(formal.__path__[0]).glob("test_*.py")):
        importlib.import_module(f"tests.formal.{file.stem}")
    return [PROOFS[place] for place in sorted(PROOFS)]


def proved():
    """What each proof claims, about which machine, and for runs of which length."""
    return table(["block", "claim", "proved for", "machine"], [
        [proof.block, proof.claim, "every run" if proof.bound is None else f"runs of up to {proof.bound} cycles",
         proof.machine] for proof in proofs()])


def unproved():
    """The blocks that no proof is about."""
    names = {name for proof in proofs() for name in proof.block.split(", ")}
    blocks = set()
    for module in pkgutil.walk_packages(openese.rtl.__path__, "openese.rtl."):
        if ".targets" in module.name or module.name.endswith(".build"):
            continue
        blocks |= {(name, module.name) for name, value in vars(importlib.import_module(module.name)).items()
                   if inspect.isclass(value) and issubclass(value, wiring.Component) and
                   value.__module__ == module.name}
    return table(["block", "file in `rtl/`"], [
        [name, f"`{module.removeprefix('openese.rtl.').replace('.', '/')}.py`"]
        for name, module in sorted(blocks) if name not in names])


def at_rest():
    """The stages of a frame before its first column and behind the last line of y, from the blocks' delays."""
    return table(["stage", "cycles"], [
        ["queue at the pins of `s_axis`", Fifo.delay],
        ["FrameInput: the header; the columns come in while the step begins", 1],
        ["Controller: from FRAME to JUMP, from JUMP to MULTIPLY; with `forward` from FRAME to MULTIPLY",
         f"{2 * Controller.delay}, or {Controller.delay}"],
        ["Broadcast: from MULTIPLY to its first column", Broadcast.delay],
        ["the step: until the last line of y is written", "see the cycle model"],
        ["FrameOutput: from the write of a line to its beat", FrameOutput.write_delay],
        ["FrameGuard: queue at the pins of `m_axis`", FrameGuard.delay],
    ])


def _recorded(name):
    """What a program wrote: a copy of its file in build/."""
    return json.loads(Path(__file__).with_name(f"{name}.json").read_text())


def _scores(title, name):
    record = _recorded(name)
    rows = []
    for part, counts in record["scores"].items():
        score = "" if counts["score"] is None else f"{100 * counts['score']:.0f} %"
        rows.append([f"`{part}`", sum(counts[key] for key in ("killed", "survived", "same", "error")), counts["same"],
                     counts["killed"], counts["survived"], score])
    return f"Seed {record['seed']}.\n\n" + table(
        [title, "mutations", "no change", "killed", "survived", "score"], rows)


def mutation():
    """How many mutations of each block the tests notice."""
    return _scores("block", "mutation")


def mutation_software():
    """How many mutations of each module the tests notice."""
    return _scores("module", "mutation_software")


def equal():
    """The mutations that are judged equal."""
    return table(["module", "line", "mutation", "why nothing changes"], [
        [f"`{Path(one.module).name}`", *(f"`{text}`".replace("|", r"\|") for text in (one.before, one.after)),
         one.reason] for one in EQUAL])


def _share(ran, of):
    return f"{100 * ran / of:.1f} %" if of else ""


def lines():
    """The lines of each machine's Verilog that ran, and the blocks in which some did not."""
    found = _recorded("coverage")["hardware"]

    def rows(part):
        return [[f"`{name}`", f"{counts['lines']:,}", f"{counts['ran']:,}",
                 _share(counts["ran"], counts["lines"])] for name, counts in part.items() if counts["lines"]]

    blocks = {name.removeprefix("openese_").removeprefix("core_"): counts for name, counts in found["blocks"].items()
              if counts["ran"] < counts["lines"]}
    return "\n\n".join(table([title, "lines", "ran", "share"], rows(part))
                       for title, part in (("machine", found["machines"]), ("block, all machines", blocks)))


def state_machines():
    """The states and transitions that tests reached, and the names of the others."""
    rows = []
    for name, fsm in _recorded("coverage")["hardware"]["state_machines"].items():
        never = [f"`{what}`" for counts in fsm.values() for what, count in counts.items() if not count]
        rows.append([f"`{name.removeprefix('openese_').removeprefix('core_')}`",
                     *(f"{sum(map(bool, counts.values()))} of {len(counts)}" for counts in fsm.values()),
                     ", ".join(never) or "none"])
    return table(["block", "states", "transitions", "never reached"], rows)


def software():
    """The statements and branches of the software that tests ran."""
    return table(["folder", "statements", "ran", "branches", "taken"], [
        [f"`{folder}/`", f"{counts['statements']:,}", _share(counts["ran"], counts["statements"]),
         f"{counts['branches']:,}", _share(counts["branches_ran"], counts["branches"])]
        for folder, counts in _recorded("coverage")["software"].items() if counts["statements"]])


def soak():
    """What the campaigns did."""
    record = _recorded("soak")
    campaigns = record["campaigns"]
    minutes = sum(figures["seconds"] for figures in campaigns.values()) / 60
    rows = [[name, f"{figures['cases']:,}", ", ".join(f"{count:,} {key}" for key, count in figures["counts"].items()),
             figures["failures"]] for name, figures in campaigns.items()]
    return f"Seed {record['seed']}, {minutes:.0f} minutes of one process.\n\n" + table(
        ["campaign", "cases", "what was done", "failures"], rows)


_COVERAGE = {("explain/strength.md", "lines"): lines, ("explain/strength.md", "state_machines"): state_machines,
             ("explain/strength.md", "software"): software}

#: By page and marker.
TABLES = {("explain/strength.md", "mutation"): mutation, ("explain/strength.md", "soak"): soak,
          ("explain/strength.md", "mutation_software"): mutation_software, ("explain/strength.md", "equal"): equal,
          ("explain/proved.md", "proved"): proved, ("explain/proved.md", "unproved"): unproved,
          ("explain/timing.md", "at_rest"): at_rest,
          ("explain/paper.md", "ideas"): ideas, ("explain/architecture.md", "padding"): padding}
if Path(__file__).with_name("coverage.json").exists():
    TABLES |= _COVERAGE
