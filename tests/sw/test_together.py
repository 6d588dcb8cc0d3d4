# SPDX-License-Identifier: Apache-2.0
"""Several models in one image: their places, their program, what is refused, and the time that they take in turn."""

import json
import zlib
from dataclasses import replace

import numpy as np
import pytest
from machines import GROUPS, STREAM, TINY
from models import random_model, random_quantized

import openese
from openese.rtl.config import BANK_SHIFT, MODEL_SHIFT, Config
from openese.rtl.program import Opcode
from openese.sw.cli import main
from openese.sw.cycles.model import READY, estimate, simulate
from openese.sw.files import FileError, verify_image
from openese.sw.model.network import Network
from openese.sw.pack.image import ImageFormatError, pack, parse
from openese.sw.pack.schedule import CapacityError, schedule
from openese.sw.pack.together import schedule_all

MODELS = TINY.replace(name="models", models=3, banks=2, program_depth=128, vector_depth=512, entry_depth=4096,
                      column_depth=512, cell_rows=64)
SHAPES = [(5, 9), (20, (12, 8)), (7, 12, 9)]


def members(config, shapes=SHAPES, **options):
    return schedule_all([replace(random_quantized(seed, config, *shape), name=f"model {seed}")
                         for seed, shape in enumerate(shapes)], config, **options)


@pytest.mark.parametrize("config", [MODELS, GROUPS.replace(name="groups of models", models=3, program_depth=128),
                                    STREAM.replace(name="streamed models", models=3, column_depth=512)],
                         ids=lambda config: config.name)
def test_an_image_holds_all_models_as_they_are(config):
    plans = members(config, stream=config.stream)
    image = pack(plans)
    again = parse(image.words(everything=True).astype("<u4").tobytes())
    assert again.names == ("model 0", "model 1", "model 2")
    for plan, found in zip(plans, again.models(), strict=True):
        assert found.inputs == plan.model.inputs
        for layer, wanted in zip(found.layers, plan.model.layers, strict=True):
            assert all(np.array_equal(getattr(layer, name), getattr(wanted, name))
                       for name in ("w_x", "w_r", "w_ym", "bias", "peephole"))
    verify_image(again, [plan.model for plan in plans])
    with pytest.raises(FileError, match="image 'model 0' differs from the quantized model"):
        verify_image(again, [plans[1].model, plans[0].model, plans[2].model])
    assert again.select("model 2").select(1).model().inputs == 20


def test_models_share_what_holds_nothing_between_two_steps():
    """Inputs, m and accumulators as the largest needs; weights, columns, cells and y of all."""
    plans = members(MODELS)
    alone = [schedule(plan.model, MODELS) for plan in plans]
    needs = plans[0].needs
    for name in ("entry_depth", "column_depth", "cell_rows"):
        # The tail of an early matrix may cost some padding.
        assert needs[name] == pytest.approx(sum(plan.needs[name] for plan in alone), rel=0.02)
    y = sum(-(-layer.outputs // 4) * 4 for plan in plans for layer in plan.model.layers)
    assert needs["vector_depth"] == 2 * 20 + 12 + MODELS.banks * y
    assert needs["accumulator_rows"] < sum(plan.needs["accumulator_rows"] for plan in alone)
    regions = [range(place.y_line, place.y_line + 4 * place.output_rows) for plan in plans for place in plan.places]
    assert len({line for region in regions for line in region}) == y == plans[0].bank_lines


@pytest.mark.parametrize("depth, ahead", [(128, True), (64, False)])
def test_a_short_program_has_no_products_ahead_of_a_frame(depth, ahead):
    plans = members(MODELS.replace(program_depth=depth), [(5, (9, 6), 7), (20, (12, 8)), (7, 12, 9)])
    program = plans[0].instructions
    assert len(program) <= depth
    assert any(instruction.get("sent") and instruction["opcode"] is Opcode.MULTIPLY
               for instruction in program) == ahead


def test_accumulators_decide_about_the_layouts():
    """With few, the models have fewer phases, and at last none fits."""
    rows = [members(MODELS.replace(accumulator_rows=depth))[0].needs["accumulator_rows"] for depth in (128, 64, 32)]
    assert rows == sorted(rows, reverse=True) and rows[-1] <= 32 < rows[0]
    with pytest.raises(CapacityError, match=r"an image of models 'model 0', 'model 1', 'model 2' does not fit "
                                            r"config 'models': needs accumulator_rows \d+ \(has 16, \d+ short\)"):
        members(MODELS.replace(accumulator_rows=16))


def test_what_does_not_fit_together_is_refused():
    small = MODELS.replace(entry_depth=256)
    with pytest.raises(CapacityError, match=r"does not fit config 'models': needs entry_depth \d+ \(has 256.*"
                                            r"; preset .* with models=3 should hold it"):
        members(small)
    with pytest.raises(CapacityError, match="config 'models' holds 2 models at most, not the 3 .*: set models to 3"):
        members(MODELS.replace(models=2))
    model = random_quantized(1, MODELS, 5, 9)
    with pytest.raises(CapacityError, match="need different names, and two have 'integers1'"):
        schedule_all([model, model], MODELS)
    other = replace(random_quantized(2, MODELS, 5, 9, junk_tables=True), name="other")
    with pytest.raises(CapacityError, match="'integers1' and 'other' have different sigmoid tables .*one: quantize"):
        schedule_all([model, other], MODELS)
    with pytest.raises(CapacityError, match="config 'models' cannot stream weights"):
        members(MODELS, stream=True)


def test_the_first_word_of_a_header_names_the_model():
    assert (BANK_SHIFT, MODEL_SHIFT) == (2, 8)
    with pytest.raises(ValueError, match="Config models of 4 takes activation_bits of at least 11, not 10: the first "
                                         "word"):
        Config(name="narrow", pes=4, channels=2, activation_bits=10, models=4)
    one, plain = Config(name="one", pes=4, channels=2, models=1), Config(name="x", pes=4, channels=2)
    assert one.fingerprint == plain.fingerprint and "models" not in one.fields()


def forged(image, change):
    """The image with another manifest, its CRCs right."""
    manifest = json.loads(json.dumps(image.manifest))
    change(manifest)
    words = replace(image, manifest=manifest).words(everything=True)
    assert words[4] == zlib.crc32(words[:4].tobytes())
    return words.astype("<u4").tobytes()


@pytest.mark.parametrize("change, message", [
    (lambda it: it.update(models=[]), "models must be a list that is not empty"),
    (lambda it: it["models"].append(it["models"][0]), "models: there are 4, the machine holds 3 at most"),
    (lambda it: it["models"][1].update(name="model 0"), "models: two have the name 'model 0'"),
    (lambda it: it["models"][1].pop("layers"), r"models\[1\]: 'layers' is missing"),
    (lambda it: it["models"][2]["layers"][0].update(cells=0), r"models\[2\].layers\[0\].cells must be"),
    (lambda it: it["models"][1]["operations"].pop(), r"models\[1\].operations: columns of layer 0 w_ym end at"),
    (lambda it: it["models"][1]["operations"][0].update(
        order_base=it["models"][0]["operations"][0]["order_base"]), "lines of order begin at"),
    (lambda it: it.update(name="models"), "it: 'name' is unknown"),
    (lambda it: it.update(bank_lines=9), "bank_lines must be a whole number from"),
])
def test_a_wrong_manifest_is_refused(change, message):
    with pytest.raises(ImageFormatError, match=message):
        parse(forged(pack(members(MODELS)), change))


@pytest.mark.parametrize("config, shapes", [
    (MODELS, [(20, (12, 8)), (7, 12, 9)]), (MODELS, [(20, (32, 16)), (7, 40)]),
    (GROUPS.replace(name="groups of models", models=3, program_depth=128, column_depth=512, vector_depth=512,
                    entry_depth=2048),
     [(20, (32, 28), (27, 10), 18), (9, 22)])], ids=["small", "larger", "groups"])
def test_switching_costs_no_time(config, shapes):
    """Frames of two models in turn take the time of both, to a hundredth."""
    plans = members(config, shapes)
    own = sum(estimate(plan).cycles_per_step for plan in plans)
    begun = simulate(plans, [READY] * 16, models=[0, 1] * 8).begun
    assert begun[12] - begun[4] <= 1.01 * 4 * own


def test_the_commands_of_several_models(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    for name, inputs, cells in (("first", 8, 16), ("second", 5, 12)):
        network = Network.of(replace(random_model(1, inputs, cells), name=name))
        frames = rng.normal(size=(30, 2, inputs))
        np.save(f"{name}.npy", frames)
        network.save(f"{name}.npz")

    def command(*words, status=0):
        found = main(words)
        printed = capsys.readouterr()
        assert found == status, printed
        return printed.err if status else printed.out

    quantize = ("--preset", "tiny", "--calibrate")
    command("quantize", "first.npz", *quantize, "first.npy", "-o", "a.npz")
    command("quantize", "second.npz", *quantize, "second.npy", "-o", "b.npz", "--tables", "a.npz")
    assert "up to 2 models" in command("pack", "a.npz", "b.npz", "-o", "both.img")
    assert "second" in command("info", "both.img")
    assert "holds the quantized models" in command("verify", "both.img", "--quantized", "a.npz", "--quantized", "b.npz")
    assert "holds 2 models" in command("verify", "both.img", "--quantized", "a.npz", status=2)
    assert "choose one by --name" in command("run", "both.img", "second.npy", "-o", "y.npy", status=2)
    assert "no model 'third'" in command("run", "both.img", "second.npy", "-o", "y.npy", "--name", "third", status=2)
    command("run", "both.img", "second.npy", "-o", "y.npy", "--name", "second", "--model", "second.npz")
    command("pack", "b.npz", "-o", "b.img")
    command("run", "b.img", "second.npy", "-o", "alone.npy")
    assert (np.load("y.npy") == np.load("alone.npy")).all()


def test_networks_are_packed_together():
    first, second = (openese.quantize(replace(random_model(seed, 5, 9), name=f"net{seed}"),
                                      np.random.default_rng(seed).normal(size=(20, 3, 5)), "tiny") for seed in (1, 2))
    second = openese.quantize(second.given, np.random.default_rng(2).normal(size=(20, 3, 5)), "tiny", tables=first)
    both = openese.pack_together([first, second])
    frames = np.random.default_rng(3).normal(size=(12, 3, 5))
    for together, quantized in zip(both, (first, second), strict=True):
        assert together.config.models == 2
        assert (together.run(frames) == openese.pack(quantized).run(frames)).all()
        assert together.summary.loads[0].cycles_per_step > 0
    other = openese.quantize(first.given, frames, "demo")
    with pytest.raises(FileError, match="are for several machines"):
        openese.pack_together([first, other])
