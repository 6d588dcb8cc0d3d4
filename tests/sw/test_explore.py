# SPDX-License-Identifier: Apache-2.0
"""The search finds what trying everything finds, its commands build what it tells, and its page shows it."""

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from models import random_model, speech_like
from test_cli import folder, openese  # noqa: F401  fixtures

import openese as package
from openese.rtl.config import Config, preset
from openese.rtl.targets.capacity import ultra_rams
from openese.rtl.targets.devices import device
from openese.sw.bench.layer import paper_layer, quantized_layer
from openese.sw.compile import CompiledNetwork
from openese.sw.cycles.model import at_rest, estimate
from openese.sw.explore.explore import explore, machine_file
from openese.sw.explore.goal import ExploreError, Goal
from openese.sw.explore.guess import Guesses
from openese.sw.explore.pools import processes
from openese.sw.explore.problem import Problem, _other_memories, timed_machine
from openese.sw.explore.search import search
from openese.sw.explore.space import structures, word_lengths
from openese.sw.model.network import Network
from openese.sw.pack.schedule import schedule
from openese.sw.whole.engine import Recorded

SEED = 31
SMALL = {"pes": (4, 8), "channels": (2,), "groups": (1,), "slices": (2, 4), "weight_bits": (8, 12),
         "activation_bits": (12,)}
PYNQ = device("pynq-z2")


def stack():
    return random_model(SEED, 6, (16, 8), 12, head=3, peephole=True)


def problem(goal=None, **changes):
    part = Network.of(stack())
    frames = speech_like(SEED, 30, 2, 6)
    recorded = Recorded(frames, np.full(2, 30), part.start(2))
    return Problem({"net": part}, {"net": recorded}, PYNQ, goal or Goal(), **{"fill": 0.9, **changes})


# -- guesses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("density", [1.0, 0.3])
@pytest.mark.parametrize("changes", [{}, {"groups": 2}, {"pes": 16, "groups": 4}, {"pes": 2, "banks": 3},
                                     {"cells": "lstm+gru+gru_before", "groups": 2},
                                     {"forward": True, "channels": 1, "pes": 16, "groups": 4}])
def test_guesses_are_the_schedule_s(changes, density):
    config = preset("tiny").replace(**changes)
    grus = random_model(SEED, 6, ("before", 16), (12, 8), ("gru", 9), ("before", 12))
    model = Network.of(grus if config.gru else stack()).model
    guesses = Guesses((model,))
    pruned = package.prune(model, density, config)
    quantized, = package.quantize(pruned, speech_like(SEED, 4, 1, 6), config.replace(weight_bits=18)).models
    plan = schedule(quantized, config.replace(weight_bits=18))
    needs = guesses.needs(config, density)
    for name in ("column_depth", "cell_rows", "vector_depth"):
        assert needs[name] == plan.needs[name] or (name == "column_depth" and density < 1), name
    assert needs["entry_depth"] <= plan.needs["entry_depth"] <= 1.2 * needs["entry_depth"]
    assert needs["accumulator_rows"] <= plan.needs["accumulator_rows"]
    work, = guesses.work(config.row_pes, config.groups, density)
    assert work.total == max(sum(operation.encoded.nonzeros for operation in plan.operations))
    cycles = estimate(plan).cycles_per_step
    assert 0.5 * cycles < guesses.steady(config, density) <= cycles
    assert guesses.at_rest(config, density) <= at_rest(plan)


@pytest.mark.parametrize("forward", [False, True])
@pytest.mark.parametrize("changes, inputs, layers", [
    ({}, 3, [("gru", 24)]), ({}, 3, [(24, 8)]), ({"pes": 2}, 9, [9, 16]),
    ({"pes": 2}, 8, [("before", 24), ("gru", 9)]),
    ({"pes": 16, "groups": 4, "slices": 4}, 8, [("before", 48), ("before", 16), ("before", 64)]),
    ({"pes": 64, "groups": 8}, 40, [(4, 4), (24, 8), (16, 8)]), ({"pes": 64, "groups": 8}, 8, [16, 48, 9]),
    ({"pes": 32, "groups": 4}, 8, [("tanh", 48), ("relu", 24), ("none", 48)]),
    ({"pes": 4, "channels": 2}, 20, [("none", 64)]), ({"pes": 16, "slices": 2, "channels": 4}, 20, [16, ("relu", 9)])])
def test_no_candidate_takes_fewer_cycles_than_its_guess(changes, inputs, layers, forward):
    """Also if rows are many or few, and with each kind of layer."""
    config = Config(**{"name": "any", "pes": 1, "channels": 1, "cells": "lstm+gru+gru_before+dense", "weight_bits": 18,
                       "cell_bits": 27, "entry_depth": 32768, "column_depth": 1024, "vector_depth": 1024,
                       "cell_rows": 128, "accumulator_rows": 1024, "forward": forward, **changes})
    model = random_model(SEED, inputs, *layers)
    guesses = Guesses((model,))
    quantized, = package.quantize(model, speech_like(SEED, 4, 1, inputs), config).models
    plan = schedule(quantized, config)
    assert 0.5 * estimate(plan).cycles_per_step < guesses.steady(config, 1.0) <= estimate(plan).cycles_per_step
    assert 0.6 * at_rest(plan) < guesses.at_rest(config, 1.0) <= at_rest(plan)


@pytest.mark.parametrize("slices, width", [(16, 8), (16, 2), (4, 2)])
def test_a_guess_is_near_also_if_the_slices_are_few(slices, width):
    """The products of a projection wait for the cells, and `W_r` y for these."""
    config = Config(name="few", pes=16, channels=8, slices=slices, slice_width=width, entry_depth=16384,
                    column_depth=1024, vector_depth=2048, cell_rows=64)
    model = package.prune(paper_layer(inputs=50, cells=512, outputs=256), 0.3, config).model
    guess = Guesses((model,)).steady(config, 1.0)
    cycles = estimate(schedule(quantized_layer(model, config), config)).cycles_per_step
    assert 0.9 * cycles < guess <= cycles


@pytest.mark.parametrize("changes", [
    {}, {"weight_bits": 8, "activation_bits": 12}, {"entry_depth": 4096, "column_depth": 512, "banks": 2},
    {"groups": 4, "pes": 16, "channels": 32, "activation_bits": 12, "cell_rows": 64},
    {"groups": 4, "pes": 16, "channels": 1, "cell_rows": 64, "forward": True},
    {"stream": True, "index_bits": 4, "entry_depth": 128, "vector_depth": 1024}])
def test_a_machine_is_timed_as_one_of_any_depth_and_width(changes):
    config = preset("tiny").replace(**changes)
    cycles = []
    for machine in (config, timed_machine(config)):
        pruned = package.prune(stack(), 0.4, machine)
        quantized, = package.quantize(pruned, speech_like(SEED, 4, 1, 6), machine).models
        plan = schedule(quantized, machine)
        cycles.append((estimate(plan).cycles_per_step, at_rest(plan), sum(
            operation.encoded.nonzeros.sum() for operation in plan.operations)))
    if cycles[0][2] == cycles[1][2]:  # no weight rounds to zero
        assert cycles[0] == cycles[1]
    else:
        assert config.weight_bits == 8


@pytest.mark.parametrize("pes, channels, partly", [(2048, 1, True), (128, 32, False), (64, 64, False)])
def test_other_memories_fit_the_ultra_rams(pes, channels, partly):
    """Where there are too few for the weights of all PEs, those of some are in block RAM."""
    config = preset("ese").replace(pes=pes, channels=channels, slices=32, entry_depth=1024)
    board, found = device("vcu118"), set()
    for changes in _other_memories(config, board, 0.9):
        other = config.replace(**changes)
        assert ultra_rams(other, board.family) <= 0.9 * board.urams and other.block_channels >= 0
        assert other not in found
        found.add(other)
    assert any(other.block_weights for other in found) == partly
    assert any(other.ultra_weights and not other.block_weights for other in found) != partly
    assert any(other.ultra_channels for other in found) != partly
    assert len({other.wide_pointers for other in found}) == 1


def test_every_structure_is_there_once_and_can_be_built():
    goal = Goal()
    found = list(structures(Guesses((Network.of(stack()).model,)), goal, PYNQ, "lstm", {"pes": (4, 8)}))
    assert len(found) == len(set(found)) > 100
    assert {config.pes for config in found} == {4, 8} and all(isinstance(config, Config) for config in found)
    assert len(word_lengths({})) == 6 and word_lengths({"weight_bits": (5,), "activation_bits": (9,)}) == [
        {"weight_bits": 5, "activation_bits": 9}]
    assert {config.channels for config in structures(
        Guesses((Network.of(stack()).model,)), Goal("latency", 1e-5), PYNQ, "lstm", {})} == {1}


def test_values_are_forwarded_where_the_time_at_rest_counts():
    """With one accumulator for each sum, since none waits."""
    guesses, latency = Guesses((Network.of(stack()).model,)), Goal("latency", 1e-5)
    found = list(structures(guesses, latency, PYNQ, "lstm", {"pes": (4,), "groups": (1,), "slices": (4,)}))
    assert {(config.forward, config.accumulator_rows) for config in found} == {(False, 96), (False, 128), (True, 48)}
    assert not any(config.forward for config in structures(guesses, Goal(), PYNQ, "lstm", {"pes": (4,)}))
    assert all(config.forward for config in structures(guesses, latency, PYNQ, "lstm", {"forward": (1,)}))
    assert all(timed_machine(config).forward == config.forward for config in found)


# -- the search -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("goal", [Goal(), Goal("latency", 1e-5)], ids=["throughput", "latency"])
def test_it_finds_what_trying_all_finds(goal):
    """All candidates through the cycle model, without any guess: none is much better than the front."""
    asked = problem(goal)
    given = SMALL | {"channels": (1, 2)}
    with processes(asked, 1) as pool:
        found = search(asked, pool, cells="lstm", densities=(1.0, 0.5), given=given)
    everything = list(structures(asked.guesses, goal, PYNQ, "lstm", given))
    assert {config.forward for config in everything} == ({False, True} if goal.at_rest else {False})
    _, _, guesses = asked.all_sized(everything, (1.0, 0.5), word_lengths(given))
    assert 0 < found.counts["timed"] < found.counts["considered"] == len(everything) * 2 * 2
    front = [(goal.seconds(one.config, one.cycles(goal)), one.share, one.loss) for one in found.front]
    for guess in guesses:
        needs, cycles = asked.timed(timed_machine(guess.config), guess.density)
        config = asked.holding(guess.config, needs)
        seconds = goal.seconds(config, cycles)
        loss = found.losses[guess.density, config.weight_bits, config.activation_bits]
        if goal.reached(config, cycles):
            assert any(seconds * 1.05 >= a and guess.share + 0.02 >= b and loss * 1.1 >= c for a, b, c in front), guess
    assert found.winner in found.front and found.counts["not reached"] == 0


def test_it_is_the_same_every_time_and_with_any_number_of_processes():
    asked = problem(Goal("latency", 1e-5))
    results = []
    for jobs in (1, 2):
        with processes(asked, jobs) as pool:
            results.append(search(asked, pool, cells="lstm", densities=(1.0, 0.5), given=SMALL | {"slices": (4,)}))
    assert results[0] == results[1]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc, to see which processes there are")
def test_processes_end_with_the_one_that_began_them(tmp_path):
    script = tmp_path / "search.py"
    script.write_text(
        "import os, sys\nsys.path[:0] = sys.argv[1:]\n"
        "from test_explore import problem\nfrom openese.rtl.config import preset\n"
        "from openese.sw.explore.pools import processes\n"
        "if __name__ == '__main__':\n"
        "    with processes(problem(), 2) as pool:\n"
        "        pool.map('rounding_loss', [(preset('tiny'),)] * 2)\n"
        "        print(*pool._executor._processes, flush=True)\n"
        "        os.kill(os.getpid(), 9)\n")
    tests = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, script, tests.parent, tests, tests / "sw"], stdout=subprocess.PIPE,
                          text=True)
    children = [Path("/proc") / number for number in done.stdout.split()]
    assert done.returncode == -9 and children
    end = time.monotonic() + 30
    while any(child.exists() and "zombie" not in (child / "status").read_text() for child in children):
        assert time.monotonic() < end, "a process is left"
        time.sleep(0.1)


def test_the_best_of_a_goal_that_can_be_reached():
    frames = speech_like(SEED, 30, 2, 6)
    free = explore(stack(), PYNQ, goal=Goal("latency", 1e-5), given=SMALL, calibrate=frames)
    least = [one for one in free.found.front if one.loss <= 1.02 * min(one.loss for one in free.found.front)]
    assert free.found.winner.share == min(one.share for one in least)
    assert free.density is None and free.found.winner.at_rest / 200e6 <= 1e-5
    limited = explore(stack(), PYNQ, goal=Goal("latency", 1e-5), given=SMALL, calibrate=frames, max_loss=0.01)
    assert limited.found.winner.loss <= 0.01
    assert limited.found.winner.share <= free.found.winner.share
    voices = explore(stack(), PYNQ, goal=Goal("voices", 40), given=SMALL | {"channels": (8, 16)})
    assert voices.machine.banks * voices.machine.channels >= 40
    assert "random numbers" in " ".join(voices.notes)


def test_the_loss_and_the_cycles_are_those_of_compiling():
    frames = speech_like(SEED, 30, 2, 6)
    found = explore(stack(), PYNQ, given=SMALL, calibrate=frames, densities=(0.5,)).found.winner
    compiled = package.compile(stack(), found.config, density=0.5, calibrate=frames)
    load, = compiled.summary.loads
    assert found.loss == pytest.approx(compiled.pruning_error.relative)
    assert (found.steady, found.at_rest) == (load.cycles_per_step, load.cycles_at_rest)


@pytest.mark.parametrize("wrong, message", [
    ({"goal": Goal("latency", 1e-7)}, "no machine reaches an answer within 0.1 us at 200 MHz within 90% of the XC7Z0"),
    ({"goal": Goal("voices", 10**9)}, "no machine that is tried holds 1,000,000,000 live voices"),
    ({"given": {"pes": (3,)}}, "no machine has such fields"),
    ({"given": {"entry_depth": (64,)}}, "entry_depth: cannot be set; what can is pes, channels,"),
    ({"max_loss": 0.1}, "the largest loss needs real frames"),
    ({"max_loss": 0.0001, "calibrate": speech_like(SEED, 30, 2, 6), "given": SMALL}, "the least loss is 0.00"),
    ({"densities": (0.5, 2)}, "density must be above 0 and at most 1, which prunes nothing; not 2"),
    ({"densities": ()}, "density: give one at least"),
    ({"fill": 0.0}, "the share of the device must be above 0"),
    ({"fill": 0.001}, "no machine that holds the network takes at most 0% of the XC7Z020"),
    ({"most": 0}, "at least one candidate"),
    ({"calibrate": np.zeros((4, 6))}, "every number is zero"),
    ({"calibrate": np.ones((4, 5))}, "expected frames .T, B, 6., found .4, 1, 5."),
    ({"carry": {"a": "b"}, "calibrate": np.ones((4, 6))}, "carry goes with a whole network"),
    ({"select": "lstm"}, "this network is no file"),
    ({"loss": "nowhere:loss", "given": SMALL}, "nowhere:loss: cannot be imported: ModuleNotFoundError"),
])
def test_what_cannot_be_found_is_refused(wrong, message):
    with pytest.raises(ExploreError, match=message):
        explore(stack(), PYNQ, **wrong)


@pytest.mark.parametrize("wrong", [{"kind": "speed"}, {"kind": "latency", "wanted": 0.0}, {"clock": -1.0},
                                   {"kind": "voices"}, {"period": float("nan")}])
def test_goals_that_are_none(wrong):
    with pytest.raises(ExploreError, match="must be"):
        Goal(**wrong)


def test_most_candidates_are_the_most():
    found = explore(stack(), PYNQ, given=SMALL | {"channels": (1, 2, 4)}, most=3).found
    assert found.counts["timed"] >= 3 and found.counts["not reached"] > 0
    assert sum(found.counts[name] for name in ("too large", "too slow", "beaten", "timed", "not reached")) == (
        found.counts["considered"])


# -- the commands -----------------------------------------------------------------------------------------


def test_the_commands_that_it_tells_build_the_best(folder, openese):  # noqa: F811
    """All of them, from the network to the Verilog, and the network runs on it."""
    said = openese("explore net.npz --device pynq-z2 --calibrate x.npy --max-loss 0.5 --density 1,0.6 --jobs 1 "
                   "--try pes=4 --try channels=1,2 --try slices=2 --json found.json -o best.html")
    result = json.loads(Path("found.json").read_text())
    told = [line.strip() for line in said.splitlines() if line.startswith("  openese ")]
    assert told == result["commands"] and len(told) == 2
    for line in told:
        words = shlex.split(line)
        subprocess.run([sys.executable, "-m", *words], check=True, capture_output=True)
    compiled = CompiledNetwork.load("best.img")
    load, = compiled.summary.loads
    assert compiled.config.name == "best"
    assert {**compiled.config.fields(), "name": ""} == {**result["winner"]["machine"], "name": ""}
    assert load.cycles_per_step == result["winner"]["cycles_per_step"]
    assert (Path("best-build") / "openese_top.v").exists() or list(Path("best-build").glob("*.v"))
    assert compiled.run(np.load("x.npy")).shape == (40, 12)
    for figure in (f"{result['counts']['considered']:,} candidates", "best ", "best.toml: the machine"):
        assert figure in said


def test_of_an_image_the_integers_are_the_network(folder, openese):  # noqa: F811
    openese("compile net.npz --preset tiny --density 0.5 --calibrate x.npy -o net.img")
    said = openese("explore net.img --device pynq-z2 --latency 20 --jobs 1 --try pes=4 --try groups=1 --try slices=2 "
                   "--calibrate x.npy -o best.html")
    told = [shlex.split(line) for line in said.splitlines() if line.startswith("  openese ")]
    assert told[0] == ["openese", "import", "net.img", "-o", "best.npz"]
    for words in told[:2]:
        openese(" ".join(words[1:]))
    assert CompiledNetwork.load("best.img").run(np.load("x.npy")) == pytest.approx(
        CompiledNetwork.load("net.img").run(np.load("x.npy")), abs=0.01)
    openese("import net.img --select lstm0 -o other.npz", 2,
            "--select and --ignore take parts of a file to import; this is one of ours")


def test_your_own_loss(folder, openese):  # noqa: F811
    """It is called with machines and densities, and decides."""
    Path("mine.py").write_text(
        "import numpy as np, openese\n"
        "def loss(machine, density):\n"
        "    network = openese.load('net.npz')\n"
        "    compiled = openese.compile(network, machine, density=density, calibrate=np.load('x.npy'))\n"
        "    return 100 - 10 * machine.weight_bits + (0 if density is None else 1)\n"
        "def broken(machine, density):\n    raise KeyError('corpus')\n"
        "def nothing(machine, density):\n    return float('nan')\n")
    fixed = "--device pynq-z2 --latency 20 --jobs 1 --try pes=4 --try slices=2 --try activation_bits=16"
    openese(f"explore net.npz {fixed} --loss mine:loss --max-loss nan -o p.html", 2,
            "the largest loss must be a number, not nan")
    openese(f"explore net.npz {fixed} --loss mine:loss --max-loss -15 --density 1,0.5 --json f.json -o p.html")
    found = json.loads(Path("f.json").read_text())
    assert found["winner"]["machine"]["weight_bits"] in (12, 16) and found["winner"]["loss"] <= -15
    assert {row["loss"] for row in found["losses"]} == {20, 21, -20, -19, -60, -59}
    openese(f"explore net.npz {fixed} --loss mine:broken -o p.html", 2, "--loss mine:broken: KeyError: 'corpus'")
    openese(f"explore net.npz {fixed} --loss mine:nothing -o p.html", 2,
            "--loss mine:nothing: returned nan; expected a number, the less the better")


@pytest.mark.parametrize("line, error", [
    ("explore net.npz --device pynq-z2 --latency 5 --throughput -o p.html",
     "--latency and --throughput exclude each other: each is a goal"),
    ("explore net.npz --device pynq-z2 --density 1,x -o p.html",
     "Invalid value: --density '1,x': expected numbers with commas between them"),
    ("explore net.npz --device pynq-z2 --try pes=4,x -o p.html", "--try pes=x: expected FIELD=N, with a whole number"),
    ("explore net.npz --device pynq-z2 --try pes=4 --try pes=8 -o p.html", "--try pes=8: pes is given twice"),
    ("explore net.npz --device pynq-z2 --max-loss 0.1 -o p.html",
     "the largest loss needs real frames (--calibrate), or a function of yours (--loss): on random numbers the loss "
     "says nothing"),
    ("explore net.npz --device pynq-z2 --jobs 2 --scheduler tcp://127.0.0.1:1 -o p.html",
     "--jobs goes without --scheduler, whose workers do the work"),
    ("report net.npz -o p.html",
     "net.npz: for no machine yet; openese explore finds one, openese compile compiles for one"),
    ("explore net.npz --device pynq-z2 -o net.npz", "--output net.npz would overwrite an input of this command"),
])
def test_bad_use_is_one_line(folder, openese, line, error):  # noqa: F811
    openese(line, 2, error)


def test_without_plotly(folder, openese, monkeypatch):  # noqa: F811
    monkeypatch.setitem(sys.modules, "plotly", None)
    openese("explore net.npz --device pynq-z2 -o p.html", 2,
            "the package 'plotly' is missing: pip install 'openese[explore]'")


def test_the_machine_file_is_the_machine(tmp_path):
    from openese.sw.cli.options import read_config
    config = preset("ku115").replace(stream=False, banks=3, cells="lstm+gru")
    (tmp_path / "m.toml").write_text(machine_file(config, "m"))
    assert read_config(tmp_path / "m.toml") == config.replace(name="m")
