# SPDX-License-Identifier: Apache-2.0
"""The program and the places of a model, and the choices that only decide about time."""

import math
from itertools import product

import numpy as np
import pytest
from machines import GROUPS, STREAM, TINY
from models import random_quantized

from openese.rtl.program import Opcode, Source, Take, When
from openese.rtl.spmv import SpMV
from openese.sw.cycles.model import estimate
from openese.sw.pack import schedule as schedule_module
from openese.sw.pack.encode import encode
from openese.sw.pack.schedule import PHASES, schedule

WIDE = TINY.replace(name="wide", accumulator_rows=512, vector_depth=512, column_depth=512, entry_depth=4096,
                    cell_rows=64, row_nonzeros=4096)


def operation_of(plan, instruction):
    return next(operation for operation in plan.operations if operation.order_base == instruction["order_base"]
                and len(operation.encoded.order) == instruction["count"])


def listing(plan):
    """The program, a line for each instruction."""
    lines = []
    for instruction in plan.instructions:
        opcode = instruction["opcode"]
        words = [opcode.name.lower()]
        if opcode is Opcode.MULTIPLY:
            operation = operation_of(plan, instruction)
            words = [f"{operation.matrix} {operation.layer}.{operation.part}"]
        if "when" in instruction:
            words.append((Take if opcode is Opcode.FRAME else When)(instruction["when"]).name.lower())
        words += [name for name in ("follow", "release", "masked", "sent") if instruction.get(name)]
        lines.append(" ".join(words))
    return lines


#: By name: a shape, and its programs with W_r ahead of a late frame and without.
PROGRAMS = {
    "a layer": ((5, 9), """
        format / frame wait follow / jump stale / w_x 0.0 always follow release /
        elementwise masked sent / frame try / w_x 0.0 taken release / output / w_r 0.0 taken follow / jump taken /
        w_r 0.0 always follow sent / jump / clear / w_r 0.0 always / jump""", """
        format / frame wait / w_x 0.0 always release / w_r 0.0 always /
        elementwise masked sent / frame try / w_x 0.0 taken release / output / w_r 0.0 taken follow / jump taken /
        frame wait / w_x 0.0 always release / w_r 0.0 always follow / jump"""),
    "a projection": ((40, (12, 8)), """
        format / frame wait follow / jump stale / w_x 0.0 always follow / w_x 0.1 always release /
        elementwise / frame try / w_x 0.0 taken / w_ym 0.0 always follow / project masked sent / output /
        w_x 0.1 taken release / w_r 0.0 taken follow / jump taken /
        w_r 0.0 always follow sent / jump / clear / w_r 0.0 always / jump""", """
        format / frame wait / w_x 0.0 always / w_x 0.1 always release / w_r 0.0 always /
        elementwise / frame try / w_x 0.0 taken / w_ym 0.0 always follow / project masked sent / output /
        w_x 0.1 taken release / w_r 0.0 taken follow / jump taken /
        frame wait / w_x 0.0 always / w_x 0.1 always release / w_r 0.0 always follow / jump"""),
    "layers": ((40, 12, 9), """
        format / frame wait follow / jump stale / w_x 0.0 always follow release /
        elementwise masked / w_r 1.0 taken / w_x 1.0 always follow /
        elementwise masked sent / frame try / w_x 0.0 taken release / w_r 0.0 taken / output / jump taken /
        w_r 0.0 always sent / w_r 1.0 always follow sent / jump /
        clear / w_r 0.0 always / w_r 1.0 always / jump""", """
        format / frame wait / w_x 0.0 always release / w_r 0.0 always /
        elementwise masked / w_r 1.0 always / w_x 1.0 always follow /
        elementwise masked sent / frame try / w_x 0.0 taken release / w_r 0.0 taken / output / jump taken /
        frame wait / w_x 0.0 always release / w_r 0.0 always / jump"""),
    "projections": ((40, (12, 8), 9, (16, 12)), """
        format / frame wait follow / jump stale / w_x 0.0 always follow release /
        elementwise / w_r 1.0 taken / w_ym 0.0 always follow / project masked / w_r 1.1 taken /
        w_x 1.0 always follow /
        elementwise masked / w_r 2.0 taken / w_x 2.0 always follow /
        elementwise / frame try / w_x 0.0 taken release / w_r 0.0 taken / w_ym 2.0 always follow /
        project masked sent / output / w_r 0.1 taken / jump taken /
        w_r 0.0 always sent / w_r 0.1 always sent / w_r 1.0 always sent / w_r 1.1 always sent /
        w_r 2.0 always follow sent / jump /
        clear / w_r 0.0 always / w_r 0.1 always / w_r 1.0 always / w_r 1.1 always / w_r 2.0 always / jump""", """
        format / frame wait / w_x 0.0 always release / w_r 0.0 always / w_r 0.1 always /
        elementwise / w_r 1.0 always / w_ym 0.0 always follow / project masked / w_r 1.1 always /
        w_x 1.0 always follow /
        elementwise masked / w_r 2.0 always / w_x 2.0 always follow /
        elementwise / frame try / w_x 0.0 taken release / w_r 0.0 taken / w_ym 2.0 always follow /
        project masked sent / output / w_r 0.1 taken / jump taken /
        frame wait / w_x 0.0 always release / w_r 0.0 always / w_r 0.1 always / jump"""),
}


def jumps(plan):
    """The instruction that each jump leads to, as in `listing`."""
    lines = listing(plan)
    return [lines[instruction["src_base"]] for instruction in plan.instructions
            if instruction["opcode"] is Opcode.JUMP]


@pytest.mark.parametrize("shape, ahead, plain", PROGRAMS.values(), ids=PROGRAMS)
@pytest.mark.parametrize("config", [WIDE, WIDE.replace(name="wide stream", index_bits=4, stream=True),
                                    GROUPS.replace(name="many", entry_depth=4096)], ids=lambda config: config.name)
def test_the_program_keeps_the_array_busy(shape, ahead, plain, config):
    """What needs no y runs while the cells are computed, and a tail of it while y is."""
    plan = schedule(random_quantized(3, config, *shape), config, stream=config.stream)
    assert listing(plan) == " ".join((plain if config.stream else ahead).split()).split(" / ")
    loop = next(line for line in listing(plan) if line.startswith("elementwise"))
    begin = next(line for line in listing(plan) if line.startswith("w_x"))
    assert jumps(plan) == ([loop, loop] if config.stream else ["clear", loop, "frame wait follow", begin])
    for instruction in plan.instructions:
        lines = operation_of(plan, instruction).encoded.lines if instruction["opcode"] is Opcode.MULTIPLY else None
        assert instruction.get("entry_lines") == (lines if config.stream else None)
    assert plan.instructions[0].get("streamed", 0) == config.stream


def regions_in_order(regions):
    """Regions (first, size) that follow each other from 0 on; returns their end."""
    end = 0
    for first, size in sorted(regions):
        assert first == end and size > 0
        end += size
    return end


@pytest.mark.parametrize("shape", [shape for shape, *_ in PROGRAMS.values()], ids=PROGRAMS)
@pytest.mark.parametrize("config", [WIDE, GROUPS.replace(name="many", entry_depth=4096)],
                         ids=lambda config: config.name)
def test_places_neither_overlap_nor_leave_gaps(shape, config):
    model = random_quantized(3, config, *shape)
    plan = schedule(model, config)
    lines = {size: -(-size // config.groups) for size in range(100)}
    rows = {size: -(-size // config.row_pes) for size in range(100)}
    needs = plan.needs
    assert needs["column_depth"] == regions_in_order(
        (operation.order_base, len(operation.encoded.order)) for operation in plan.operations)
    assert needs["entry_depth"] == regions_in_order(
        (operation.entry_base, operation.encoded.lines) for operation in plan.operations)
    vectors = [(plan.instructions[0][name], lines[model.inputs]) for name in ("src_base", "dst_base")]
    gate_rows, output_rows = [], 0
    for layer, place in zip(model.layers, plan.places, strict=True):
        assert (place.rows, place.output_rows) == (rows[layer.cells], rows[layer.outputs])
        vectors.append((place.m_line, place.rows * config.row_pes // config.groups))
        gate_rows.append(4 * place.rows)
        if layer.w_ym is None:
            assert place.y_line == place.m_line
        else:
            vectors.append((place.y_line, place.output_rows * config.row_pes // config.groups))
            output_rows = max(output_rows, place.output_rows)
    assert needs["vector_depth"] == regions_in_order(vectors) * config.groups
    assert needs["cell_rows"] == regions_in_order((place.cells, place.rows) for place in plan.places)
    assert needs["program_depth"] == len(plan.instructions)
    # A bank for each layer; two for the last one if its y follows its rows.
    alternates = len(gate_rows) == 1 or model.layers[-1].w_ym is None
    columns = {}
    computed = -1
    for instruction in plan.instructions:
        if instruction["opcode"] not in (Opcode.MULTIPLY, Opcode.ELEMENTWISE, Opcode.PROJECT):
            continue
        phases = instruction["phase_last"] + 1
        computed += instruction["opcode"] is Opcode.ELEMENTWISE
        if instruction["opcode"] is Opcode.ELEMENTWISE or instruction.get("gated"):
            gate_phases = phases
            number = computed if instruction["opcode"] is Opcode.ELEMENTWISE else operation_of(plan, instruction).layer
            rows = gate_rows[number]
            second = alternates and number == len(gate_rows) - 1
            assert (instruction["acc_base"], instruction["acc_offset"], instruction["phase_stride"]) == (
                sum(gate_rows[:number]) * phases, second * rows * phases, rows)
        else:
            all_gates = (sum(gate_rows) + alternates * gate_rows[-1]) * gate_phases
            assert (instruction["acc_base"], instruction["phase_stride"]) == (all_gates, output_rows)
            assert needs["accumulator_rows"] == all_gates + output_rows * phases
        if instruction["opcode"] is not Opcode.MULTIPLY:
            continue
        operation = operation_of(plan, instruction)
        layer, place = model.layers[operation.layer], plan.places[operation.layer]
        columns.setdefault((operation.layer, operation.matrix), {})[operation.part] = operation.columns
        offset = operation.columns[0] // config.groups
        if operation.matrix == "w_ym":
            expected = {"source": Source.COMPUTED, "src_base": place.m_line + offset}
        elif operation.matrix == "w_r":
            expected = {"source": Source.COMPUTED if instruction["sent"] else Source.RECURRENT,
                        "src_base": place.y_line + offset, "align": layer.align_r}
        elif operation.layer:
            expected = {"source": Source.COMPUTED, "align": layer.align_x,
                        "src_base": plan.places[operation.layer - 1].y_line + offset}
        else:
            expected = {"source": Source.INPUT, "align": layer.align_x, "src_base": offset,
                        "dst_base": lines[model.inputs] + offset}
        assert {name: instruction[name] for name in expected} == expected
    for (layer, name), parts in columns.items():
        whole = np.concatenate([parts[part] for part in sorted(parts)])
        np.testing.assert_array_equal(whole, np.arange(getattr(model.layers[layer], name).shape[-1]))
        assert all(part[0] % config.groups == 0 for part in parts.values())


@pytest.mark.parametrize("shape, number, name, rows", [
    ((60, (24, 8)), 0, "w_x", 0), ((20, (24, 60), (16, 20)), 0, "w_r", 5), ((20, (12, 20), (24, 60)), 1, "w_r", 0),
    ((9, (12, 8), (12, 24), (24, 60)), 2, "w_r", 0), ((20, (12, 8), (16, 20)), 0, "w_r", 5)])
@pytest.mark.parametrize("config", [WIDE, WIDE.replace(name="groups", pes=8, groups=2, channels=1, slices=2)],
                         ids=lambda config: config.name)
def test_the_tail_lasts_until_y_comes(shape, number, name, rows, config):
    """In columns of mean length; half of the columns at most. Nothing follows y behind the last layer of several, so
    there the tail lasts until all ``rows`` of y are computed."""
    model = random_quantized(3, config, *shape)
    plan = schedule(model, config)
    parts = [operation for operation in plan.operations if (operation.layer, operation.matrix) == (number, name)]
    matrix = getattr(model.layers[number], name)
    mean = max(1.0, np.count_nonzero(matrix) / matrix.shape[-1] / config.row_pes)
    wait = SpMV.latency * config.beats + 60
    if rows:
        row = max((SpMV.latency - 1) * config.beats, config.row_pes // config.groups)
        wait += (rows - 1) * row
    tail = min(math.ceil(wait / mean) * config.groups, matrix.shape[-1] // 2)
    assert len(parts) == 2
    assert len(parts[0].columns) == (matrix.shape[-1] - tail) // config.groups * config.groups


def test_a_matrix_of_few_columns_has_no_tail():
    """Fewer than two of each group; nor has one that follows a layer without projection."""
    config = WIDE.replace(name="four groups", pes=16, groups=4, channels=1, slices=1)
    for shape, parts in (((7, (9, 6)), 1), ((8, (9, 6)), 2), ((30, 9), 1)):
        plan = schedule(random_quantized(3, config, *shape), config)
        assert sum(operation.matrix == "w_x" for operation in plan.operations) == parts


@pytest.mark.parametrize("density, index_bits", [(0.9, 4), (0.2, 1)])
def test_hazards_are_those_of_their_definition(density, index_bits):
    """A PE's entry waits until the last one of the same accumulator is `SpMV.latency` entries back."""
    config = TINY.replace(name="hazards", index_bits=index_bits)
    rng = np.random.default_rng(4)
    matrix = rng.integers(1, 99, (4, 8, 20)) * (rng.random((4, 8, 20)) < density)
    matrix[:, :, ::7] = 0
    encoded = encode(matrix, config)
    found = schedule_module._hazards(encoded, config)
    assert len(found) == PHASES == SpMV.latency - 1
    for phases in range(1, PHASES + 1):
        waits = np.zeros(config.pes)
        for pe in range(config.pes):
            last, entry, used = {}, 0, 0
            for count in encoded.counts[:, pe]:
                row = -1
                used += count > 0
                for _ in range(count):
                    weight, skip = encoded.weights[entry, pe], encoded.skips[entry, pe]
                    row += (skip + 1) << (index_bits if weight == 0 else 0)
                    if weight:
                        place = row, used % phases
                        waits[pe] += max(0, SpMV.latency - (entry - last.get(place, -99)))
                        last[place] = entry
                    entry += 1
        assert found[phases - 1] == pytest.approx(waits)


def test_hazards_of_a_large_matrix_are_counted_on_a_sample(monkeypatch):
    encoded = encode(np.ones((4, 8, 40), int), TINY)
    whole = np.array(schedule_module._hazards(encoded, TINY))
    monkeypatch.setattr(schedule_module, "SAMPLE", 10)
    assert np.array(schedule_module._hazards(encoded, TINY)) == pytest.approx(whole, rel=0.1)


@pytest.mark.parametrize("shape", [(40, (12, 8)), (100, (4, 3)), (16, (60, 4)), (60, 4, 30), (10, (8, 4), (40, 20))],
                         ids=str)
def test_the_numbers_of_phases_are_the_fastest(shape, monkeypatch):
    """By the cycle model, to a fiftieth."""
    model = random_quantized(3, WIDE, *shape)
    chosen = estimate(schedule(model, WIDE)).cycles_per_step
    best = math.inf
    for phases in product(range(1, PHASES + 1), repeat=2):
        monkeypatch.setattr(schedule_module._Scheduler, "_choose_phases",
                            lambda scheduler, rows, ahead, phases=phases: (*phases, 0.0))
        best = min(best, estimate(schedule(model, WIDE)).cycles_per_step)
    assert chosen <= 1.02 * best


def test_phases_take_no_more_accumulators_than_there_are():
    """Two banks of 4 rows of gates for each phase; three phases are the fastest here."""
    model = random_quantized(3, WIDE, 200, 4)
    assert [schedule(model, WIDE.replace(accumulator_rows=depth)).needs["accumulator_rows"]
            for depth in (16, 32)] == [16, 24]


@pytest.mark.parametrize("changes", [{"accumulator_rows": 32}, {"program_depth": 32}], ids=str)
def test_products_ahead_of_a_frame_need_room(changes):
    """Six layers of eight gate rows, and another bank for the last; the longer program."""
    model = random_quantized(3, WIDE, 8, *[8] * 6)
    assert "clear" in listing(schedule(model, WIDE))
    assert "clear" not in listing(schedule(model, WIDE.replace(**changes)))


def test_products_ahead_of_a_frame_may_not_slow_the_steps(monkeypatch):
    """With fewer accumulators there is only room for one phase, and its hazards take longer."""
    model = random_quantized(3, WIDE, 100, 4, 4, 4, 4)
    config = WIDE.replace(accumulator_rows=32)
    assert "clear" not in listing(schedule(model, config))
    monkeypatch.setattr(schedule_module, "SLOWER", 2)
    assert "clear" in listing(schedule(model, config))


@pytest.mark.parametrize("config", [TINY, STREAM], ids=lambda config: config.name)
def test_a_program_is_words_of_its_instructions(config):
    plan = schedule(random_quantized(3, config, 5, (9, 6)), config, stream=config.stream)
    words = schedule_module.instruction_words(plan)
    layout = schedule_module.Instruction(config)
    for row, fields in zip(words, plan.instructions, strict=True):
        assert sum(int(word) << (32 * place) for place, word in enumerate(row)) == layout.pack(**fields)
    assert words.shape == (len(plan.instructions), layout.words)
