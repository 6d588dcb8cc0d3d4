# SPDX-License-Identifier: Apache-2.0
"""Campaigns on the emitted Verilog in Verilator: every word against the reference, whatever else happens."""

from collections import Counter
from dataclasses import replace
from typing import NamedTuple
from unittest import mock

import numpy as np
from machines import GROUPS, GRU, STREAM, TINY
from models import random_quantized, random_state
from pairs import Both, Measured, predicted

from openese.rtl.config import Config
from openese.rtl.frames import BANK_SHIFT, frame_beats
from openese.rtl.loader import Section
from openese.rtl.program import ACTIVATIONS
from openese.rtl.registers import ADDRESS, REGISTERS, Access, Control, Interrupt, Status
from openese.sim.lint import lint
from openese.sim.simulator import BusError, StuckError
from openese.sw.cycles.model import READY, simulate
from openese.sw.model.quantized import QuantizeError
from openese.sw.pack.image import Image, ImageFormatError, parse
from openese.sw.pack.schedule import CapacityError, Schedule
from openese.sw.pack.together import schedule_all
from openese.sw.reference.machine import Reference
from openese.sw.run.device import DeviceError

from .engine import campaign
from .schedules import random_events, random_times

__all__ = ["random_config", "random_models", "random_shape"]

#: Machines of the campaigns that are not about configurations.
MACHINES = (TINY, GRU, GROUPS, STREAM)
#: Models that a random machine runs, which takes ten seconds to build and more.
MODELS = 3
#: Its simulator runs for less time than a compiler takes to optimize it.
BUILD = ("OPT_FAST=-O0", "OPT_SLOW=-O0", "OPT_GLOBAL=-O0")


def random_config(rng):
    """A legal machine of at most 16 multipliers."""
    def power(low, high):
        return 1 << int(rng.integers(low, high + 1))

    while True:
        pes = power(0, 3)
        fields = {
            "pes": pes, "channels": power(0, 4 - pes.bit_length() + 1), "groups": power(0, 2),
            "slices": power(0, 2) if rng.random() < 0.6 else 0,
            "slice_width": power(0, 3) if rng.random() < 0.6 else 0,
            "weight_bits": int(rng.integers(2, 19)), "activation_bits": int(rng.integers(8, 19)),
            "cell_bits": int(rng.integers(14, 28)), "index_bits": int(rng.integers(1, 8)),
            "align_bits": int(rng.integers(1, 4)), "queue_depth": power(4, 6), "entry_depth": power(7, 12),
            "column_depth": power(6, 9), "vector_depth": power(6, 9), "cell_rows": power(2, 5),
            "accumulator_rows": 16 * int(rng.integers(2, 33)), "row_nonzeros": power(4, 9),
            "program_depth": power(5, 8),
            "stream": bool(rng.random() < 0.4), "banks": int(rng.integers(1, 5) if rng.random() < 0.4 else 1),
            "models": int(rng.integers(2, 5) if rng.random() < 0.3 else 1)}
        if rng.random() < 0.4:
            fields["lut_channels"] = int(rng.integers(0, fields["channels"] + 1))
            fields["ultra_channels"] = int(rng.integers(0, fields["channels"] - fields["lut_channels"] + 1))
        fields["forward"] = bool(rng.random() < 0.4)
        grus, dense = rng.choice(["", "+gru", "+gru+gru_before"], p=[0.5, 0.25, 0.25]), "+dense" * (rng.random() < 0.4)
        cells = f"lstm{grus}{dense}"
        fields |= {"cells": cells, **({"cell_bits": int(rng.integers(24, 28))} if "gru" in cells else {})}
        if fields["stream"]:  # an AXI4 data width
            wide = [width for width in (8, 16, 32) if 32 <= width * pes <= 1024 and 1 <= width - fields["index_bits"]
                    and 2 <= width - fields["index_bits"] <= 18]
            fields["stream"] = bool(wide)
            if wide:
                fields["weight_bits"] = int(rng.choice(wide)) - fields["index_bits"]
        if rng.random() < 0.3:
            fields |= {"wide_pointers": True, "ultra_weights": bool(rng.random() < 0.5)}
        try:
            config = Config(name="random", **fields)
        except ValueError:
            continue
        return config.replace(block_weights=int(rng.integers(config.tile_pes))) if config.ultra_weights else config


def random_shape(rng, config):
    """Inputs and layers, and whether with peepholes, of a random model; it may be too large."""
    layers = [int(rng.integers(1, 25)) for _ in range(int(rng.integers(1, 5)))]
    shape = [(cells, int(rng.integers(1, cells + 1))) if rng.random() < 0.5 else cells for cells in layers]
    if config.gru:
        kinds = ["gru", *(["before"] if config.gru_before else [])]
        shape = [(str(rng.choice(kinds)), cells) if rng.random() < 0.6 else other
                 for cells, other in zip(layers, shape, strict=True)]
    if config.dense:
        shape = [(str(rng.choice(ACTIVATIONS)), outputs) if rng.random() < 0.5 else other
                 for outputs, other in zip(layers, shape, strict=True)]
    return (int(rng.integers(1, 25)), *shape), bool(rng.random() < 0.6)


class Found(NamedTuple):
    """Random models that a machine holds: what `Both` makes the first from, and the schedules of all."""

    shape: tuple
    seed: int
    stream: bool | None
    peephole: bool
    plans: tuple[Schedule, ...]


def random_models(rng, config):
    """Random models that the machine holds, or None; and how many times they were too large.

    All have the function tables of the first.
    """
    for refused in range(20):
        stream = bool(rng.random() < 0.7) if config.stream else None
        junk = bool(rng.random() < 0.5)
        made = [(*random_shape(rng, config), 2 * int(rng.integers(1 << 29)) + (not junk))
                for _ in range(int(rng.integers(1, config.models + 1)))]
        try:
            models = [random_quantized(seed, config, *shape, peephole=peephole, junk_tables=junk)
                      for shape, peephole, seed in made]
            plans = schedule_all([replace(model, name=f"model {number}", sigmoid_table=models[0].sigmoid_table,
                                          tanh_table=models[0].tanh_table) for number, model in enumerate(models)],
                                 config, stream=stream)
        except (CapacityError, QuantizeError):
            continue
        shape, peephole, seed = made[0]
        return Found(shape, seed, stream, peephole, tuple(plans)), refused
    return None, 20


def random_pair(rng, config, found):
    """A `Both` of the first of random models."""
    return Both(config, *found[:4], random_pace(rng), int(rng.integers(1, 1 << 30)))


def random_pace(rng):
    """Pauses of the bus partners, or none."""
    if rng.random() < 0.4:
        return None
    return {"valid": float(rng.choice([1.0, 0.7, 0.2])), "ready": float(rng.choice([1.0, 0.7, 0.2])),
            "seed": int(rng.integers(1 << 20))}


def masks(rng, steps, channels):
    """Which voices are active, and which start anew."""
    return rng.random((steps, channels)) < rng.choice([0.3, 0.7, 1.0]), rng.random((steps, channels)) < 0.3


def random_steps(rng, both, done):
    """Steps of voices that join, leave and start anew."""
    steps = int(rng.integers(1, 8))
    both.step(steps, *masks(rng, steps, both.device.channels), rng.integers(0, both.device.banks, steps))
    done["steps"] += steps


def cut_off(rng, both, done):
    """A reset at any time of a step."""
    x = both.frames(3).transpose(0, 2, 1)
    both.link.send_frames(np.full((3, both.device.channels), 1, np.uint16), x)
    both.link.clock(int(rng.integers(0, 600)))
    both.device.reset()
    both.reference = Reference(both.model, both.device.channels, banks=both.device.banks)
    both.step(1)
    done["resets"] += 1


def states(rng, both, done):
    """The state of a voice is read, and another one is written."""
    voice = int(rng.integers(both.device.banks * both.device.channels))
    for state, expected in zip(both.device.get_state(voice), both.reference.get_state(voice), strict=True):
        assert (state.c == expected.c).all() and (state.y == expected.y).all()
    state = random_state(rng, both.model)
    for machine in (both.device, both.reference):
        machine.set_state(voice, state)
    both.step(1)
    done["states"] += 1


def wrong_frame(rng, both, done):
    """A frame of the wrong length or for no bank is dropped and reported; the voices do not notice."""
    config = both.image.config
    right = frame_beats(config, both.model.inputs)
    bank = int(rng.integers(both.device.banks) if rng.random() < 0.7 else rng.integers(64))
    known = bank < both.device.banks
    beats = int(rng.choice([n for n in range(1, right + 9) if n != right or not known]))
    words = rng.integers(-128, 128, (beats, config.beat_columns * config.channels))
    words[0, 0] = words[0, 0] & 3 | bank << BANK_SHIFT  # of the first model
    last = np.zeros(beats, np.uint8)
    last[-1] = 1
    link = both.link
    link.write(ADDRESS["INTERRUPT"], 0xFFFFFFFF)
    link.send_beats(words, last)
    link.drain()
    link.clock(10)
    raised = Interrupt(link.read(ADDRESS["INTERRUPT"]))
    dropped = known or beats == 1  # for its length
    assert (Interrupt.FRAME_SHORT in raised, Interrupt.FRAME_LONG in raised, Interrupt.FRAME_BANK in raised) == (
        dropped and beats < right, dropped and beats > right, not dropped)
    both.step(1)
    done["wrong frames"] += 1


def saturations(rng, both, done):
    """Counters of steps and of clamped values, of steps since a reset."""
    both.device.reset()
    both.reference = Reference(both.model, both.device.channels, banks=both.device.banks)
    steps = int(rng.integers(1, 6))
    both.step(steps, *masks(rng, steps, both.device.channels))
    counters = both.device.counters()
    clamped = sum(both.reference.saturations.values())
    assert counters["steps"] == steps
    # With tables of any numbers, the cells that only fill a row may be clamped too.
    assert counters["saturated"] >= clamped if both.seed % 2 == 0 else counters["saturated"] == clamped
    done["steps"] += steps


EPISODES = (random_steps, random_steps, cut_off, states, wrong_frame, saturations)


@campaign("configurations", "a machine of any legal configuration is clean Verilog, gives the reference's words for "
          "frames at any time and any pace, and takes the cycles of the cycle model", share=4)
@mock.patch("openese.sim.build._OPTIMIZE", BUILD)
def configurations(case):
    rng, done = case.rng, Counter()
    config = random_config(rng)
    try:
        lint(config)
        done["machines"] += 1
        done["with banks"] += config.banks > 1
        done["for several models"] += config.models > 1
        done["with forwarding"] += config.forward
        for _ in range(MODELS):
            found, refused = random_models(rng, config)
            done["too large"] += refused
            if found is None:
                break
            done.update(random_events(rng, found.plans))
            with (both := random_pair(rng, config, found)).link:
                for episode in rng.choice(len(EPISODES), 3):
                    EPISODES[episode](rng, both, done)
            done["models"] += len(found.plans)
            if found.plans[0].streamed:
                frames = int(rng.integers(1, 6))
                measured = Measured(found.plans).run(frames)
                assert measured == predicted(simulate(found.plans, [READY] * frames)), "the cycle model is wrong"
            else:
                random_times(rng, found.plans)
            done["runs of the cycle model"] += 1
    except Exception as error:
        error.add_note(f"machine {config}")
        raise
    return done


def some_pair(rng, machines=MACHINES):
    """A random model on one of the common machines."""
    found = None
    while found is None:
        config = machines[int(rng.integers(len(machines)))]
        found, _ = random_models(rng, config)
    return random_pair(rng, config, found)


@campaign("steps", "voices join, leave, start anew and are reset in any phase of a step", share=2)
def steps(case):
    done = Counter()
    with (both := some_pair(case.rng)).link:
        for episode in case.rng.choice(len(EPISODES), 20):
            EPISODES[episode](case.rng, both, done)
    return done


@campaign("isolation", "the words of a voice do not depend on the other voices")
def isolation(case):
    rng, done = case.rng, Counter()
    with (both := some_pair(rng, [TINY, GRU, STREAM])).link:
        channels = both.device.channels
        kept = int(rng.integers(channels))
        for _ in range(3):
            steps = int(rng.integers(2, 9))
            active, reset = masks(rng, steps, channels)
            x = both.frames(steps)
            seen = []
            for _ in range(2):
                both.device.reset()
                seen.append(both.device.run(x, active, reset)[:, kept])
                others = np.arange(channels) != kept
                x[:, others] = both.frames(steps)[:, others]
                for mask, new in zip((active, reset), masks(rng, steps, channels), strict=True):
                    mask[:, others] = new[:, others]
            assert (seen[0] == seen[1]).all()
            done["pairs"] += 1
    return done


#: Registers that may be written at any time without an influence on a word.
HARMLESS = ("INTERRUPT", "INTERRUPT_ENABLE", "STATE_SELECT")


@campaign("registers", "any access at any time is answered, and no word of a frame changes by reads and harmless "
          "writes")
def registers(case):
    rng, done = case.rng, Counter()
    with (both := some_pair(rng)).link:
        link, channels = both.link, both.device.channels
        known = {register.address: register for register in REGISTERS}
        for _ in range(4):
            steps = int(rng.integers(1, 6))
            active, reset = masks(rng, steps, channels)
            if both.device._fresh.any():
                reset[0] |= both.device._fresh
                both.device._fresh[:] = False
            x = both.frames(steps)
            link.send_frames(active | reset.astype(int) << 1, x.transpose(0, 2, 1))
            expected = [both.reference.step(*now) for now in zip(x, active, reset, strict=True)]
            for _ in range(int(rng.integers(5, 60))):
                link.clock(int(rng.integers(0, 20)))
                address = int(rng.choice(list(known))) if rng.random() < 0.8 else int(rng.integers(0, 1024)) * 4
                register = known.get(address)
                writes = rng.random() < 0.4 and (register is None or register.access is Access.READ
                                                 or register.name in HARMLESS)
                try:
                    if writes:
                        link.write(address, int(rng.integers(1 << 32)))
                    else:
                        link.read(address)
                    assert register is not None, f"0x{address:03x} is no register but answers OKAY"
                    assert not writes or register.access is not Access.READ, f"{register.name} takes a write"
                except BusError:
                    allowed = (register is None or writes and register.access is Access.READ
                               or not writes and register.access is Access.WRITE
                               or register.name.startswith(("STATE_", "STREAM_"))
                               or register.name.startswith("MODEL") and both.device.model.config.models == 1)
                    assert allowed, f"{register.name} is refused"
                done["accesses"] += 1
            header, y = link.receive_frames(steps, both.model.outputs)
            assert (header == active).all() and (y.transpose(0, 2, 1) == np.array(expected)).all()
            done["steps"] += steps
    return done


@campaign("control", "after any writes to CONTROL and LOAD at any time, a load makes the machine work again")
def control(case):
    rng, done = case.rng, Counter()
    with (both := some_pair(rng)).link:
        link = both.link
        for _ in range(6):
            link.send_frames(np.ones((2, both.device.channels), np.int32), both.frames(2).transpose(0, 2, 1))
            words = both.image.words()
            for _ in range(int(rng.integers(1, 8))):
                link.clock(int(rng.integers(0, 200)))
                if rng.random() < 0.6:
                    link.write(ADDRESS["CONTROL"], int(rng.integers(0, 8)))
                else:
                    start = int(rng.integers(len(words)))
                    link.load(ADDRESS["LOAD"], words[start:start + int(rng.integers(1, 40))])
                done["writes"] += 1
            recover(both)
    return done


def recover(both):
    """Load the right image; words are right again."""
    both.device.load(both.image.words())
    both.link.abandon()
    both.reference = Reference(both.model, both.device.channels, banks=both.device.banks)
    both.device.reset()
    both.step(2)


@campaign("bus", "a memory may be slow, mix bursts, fail or give a wrong RLAST: the words are right, or the error is "
          "named and a reset recovers")
def bus(case):
    rng, done = case.rng, Counter()
    while True:
        both = some_pair(rng, [STREAM])
        if Section.STREAM in both.image.sections:
            break
        both.link.close()
    with both.link:
        link, size = both.link, both.link._memory.size
        for _ in range(6):
            link.place(link._memory, latency=int(rng.integers(0, 200)), jitter=int(rng.integers(0, 80)),
                       share=float(rng.choice([1.0, 0.6, 0.2])), outstanding=int(rng.integers(1, 20)),
                       interleave=bool(rng.random() < 0.5), seed=int(rng.integers(1 << 20)))
            both.step(2)
            done["steps"] += 2
            line = STREAM.stream_bits // 8
            # RLAST comes early or is missing: either ends the reading there.
            address = int(rng.integers(size // line)) * line
            fault = {"error": (address, address + line)} if rng.random() < 0.5 else {
                "wrong_last": (address, address + line)}
            link.place(link._memory, **fault)
            link.patience = 50_000
            # The ring may hold the weights of several steps.
            frames = 3 + STREAM.entry_depth * line // size
            try:
                both.device.run(both.frames(frames))
                raise AssertionError(f"{fault} is not noticed in {frames} frames")
            except StuckError:
                pass
            error = link.read(ADDRESS["STREAM_ERROR"])
            assert error & 7, f"{fault} is not named: {error:#x}"
            assert error >> 8 == address // line, f"{fault}: line {error >> 8}"
            assert bool(error & 4) == ("wrong_last" in fault)
            assert link.read(ADDRESS["INTERRUPT"]) & Interrupt.STREAM_FAILED
            link.write(ADDRESS["INTERRUPT"], 0xFFFFFFFF)
            link.patience = 1_000_000
            link.place(link._memory, error=(0, 0), wrong_last=(0, 0))
            both.device.reset()
            both.reference = Reference(both.model, both.device.channels, banks=both.device.banks)
            both.step(2)
            done["faults"] += 1
    return done


def damaged(rng, words):
    """A copy of ``words`` with some of them changed, removed, doubled or exchanged."""
    copy = words.copy()
    for _ in range(int(rng.integers(1, 4))):
        at, other = (int(n) for n in rng.integers(0, len(copy), 2))
        kind = int(rng.integers(5))
        if kind == 0:
            copy[at] ^= np.uint32(1 << int(rng.integers(32)))
        elif kind == 1:
            copy[at] = rng.integers(1 << 32)
        elif kind == 2:
            copy = np.delete(copy, np.arange(at, min(at + int(rng.integers(1, 9)), len(copy))))
        elif kind == 3:
            copy = np.insert(copy, at, copy[other])
        else:
            copy[[at, other]] = copy[[other, at]]
    return copy


@campaign("damage", "a damaged image is refused, by the software and by the machine, which then takes the right one")
def damage(case):
    rng, done = case.rng, Counter()
    with (both := some_pair(rng)).link:
        whole, words = both.image.words(everything=True), both.image.words()
        for _ in range(300):
            copy = damaged(rng, whole)
            if np.array_equal(copy, whole):
                continue
            try:
                parse(copy.astype("<u4").tobytes())
                raise AssertionError("a damaged image is read")
            except ImageFormatError as error:
                assert "\n" not in str(error)
            done["read"] += 1
        for _ in range(12):
            copy = damaged(rng, words)
            # What comes behind the last section is no part of the image.
            if np.array_equal(copy[:len(words)], words):
                continue
            try:
                both.device.load(copy)
                raise AssertionError("a damaged image is loaded")
            except DeviceError:
                pass
            recover(both)
            done["loaded"] += 1
    return done


def forged(rng, image):
    """The image with random lines in some of its memories, and valid CRCs."""
    sections = {name: lines.copy() for name, lines in image.sections.items()}
    names = [name for name in sections if name is not Section.STREAM]
    for name in rng.permutation(names)[:int(rng.integers(1, 4))]:
        lines = sections[Section(name)]
        count = int(rng.integers(1, len(lines) + 1))
        rows = rng.choice(len(lines), count, replace=False)
        lines[rows] = rng.integers(0, 1 << 32, (count, lines.shape[1]))
        if name == Section.PROGRAM and rng.random() < 0.5:
            lines[rows] &= rng.integers(0, 1 << 32, lines.shape[1], np.uint32)
    return Image(image.config, image.manifest, sections)


@campaign("forgery", "a machine with random programs, pointers and weights breaks no rule of a bus, answers its "
          "registers, and takes the right image afterwards", share=1.5)
def forgery(case):
    rng, done = case.rng, Counter()
    with (both := some_pair(rng)).link:
        link = both.link
        for _ in range(15):
            image = forged(rng, both.image)
            if both.model.config.stream:  # a forged program may read from it
                link.place(np.zeros(1 << 20, np.uint8) if link._memory is None else link._memory)
            try:
                image.model()
            except ImageFormatError as error:
                assert "\n" not in str(error)
            link.write(ADDRESS["CONTROL"], Control.LOAD)
            link.load(ADDRESS["LOAD"], image.words())
            assert link.read(ADDRESS["STATUS"]) & Status.LOADED
            link.write(ADDRESS["CONTROL"], Control.RUN)
            link.send_frames(np.ones((3, both.device.channels), np.int32), both.frames(3).transpose(0, 2, 1))
            link.clock(int(rng.integers(0, 4000)))
            for name in ("STATUS", "STALL", "STEPS_LOW", "IMAGE_ERROR"):
                link.read(ADDRESS[name])
            link.write(ADDRESS["CONTROL"], Control.RESET | Control.LOAD)
            recover(both)
            done["images"] += 1
    return done
