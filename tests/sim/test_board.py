# SPDX-License-Identifier: Apache-2.0
"""The board in Verilator, driven by the real host program over a pseudo-terminal, through all that befalls a cable.

The Verilog is the very same that goes to place and route, from the pins on, for a smaller machine.
"""

import os
import pty
import threading
import time

import numpy as np
import pytest
from models import random_quantized, random_state

from openese.rtl.config import preset
from openese.rtl.registers import ADDRESS
from openese.rtl.targets import ulx3s
from openese.sim.board import BoardSimulator
from openese.sw.cli import main
from openese.sw.pack.image import pack
from openese.sw.pack.schedule import schedule
from openese.sw.reference.machine import Reference
from openese.sw.run.device import Device
from openese.sw.run.serial_link import LinkError, SerialLink

pytestmark = pytest.mark.sim

CONFIG = preset("tiny")
SHAPE = (5, (9, 6), 7)


@pytest.fixture(scope="module")
def board():
    with BoardSimulator(CONFIG) as board:
        yield board


@pytest.fixture(scope="module")
def image():
    return pack(schedule(random_quantized(1, CONFIG, *SHAPE), CONFIG))


def frames(rng, steps):
    return rng.integers(-1 << 15, 1 << 15, (steps, CONFIG.channels, SHAPE[0]))


def test_the_command_line_runs_a_model_on_it(board, image, tmp_path):
    """Every word is the reference's."""
    image.save(tmp_path / "net.img")
    np.save(tmp_path / "in.npy", np.random.default_rng(1).normal(size=(12, 3, SHAPE[0])))
    assert main(["run", str(tmp_path / "net.img"), str(tmp_path / "in.npy"), "-o", str(tmp_path / "out.npy"),
                 "--backend", "serial", "--port", board.port, "--check"]) == 0
    assert np.load(tmp_path / "out.npy").shape == (12, 3, SHAPE[-1])


def test_the_command_line_runs_whole_networks(board, tmp_path, monkeypatch, capsys):
    """A network of one part, with a state in and out, on the board; one of two parts on the Verilog."""
    onnx = pytest.importorskip("onnx", reason="needs the extra `onnx`")
    pytest.importorskip("onnxruntime_extensions", reason="needs the extra `onnx`")
    monkeypatch.chdir(tmp_path)
    rng, make, real = np.random.default_rng(6), onnx.helper.make_node, onnx.TensorProto.FLOAT
    tensors = {f"{tensor}{number}": rng.normal(size=shape, scale=0.4).astype(np.float32)
               for number, inputs in ((0, 5), (1, 7)) for tensor, shape in
               (("W", (1, 28, inputs)), ("R", (1, 28, 7)), ("B", (1, 56)))}
    nodes = [make("LSTM", ["x", "W0", "R0", "B0", "", "h"], ["a", "last"], "first", hidden_size=7),
             make("Squeeze", ["a", "axis"], ["b"]), make("Relu", ["b"], ["y"]),
             make("LSTM", ["y", "W1", "R1", "B1"], ["z"], "second", hidden_size=7)]
    shapes = {"x": (None, None, 5), "h": (1, None, 7), "last": (1, None, 7), "y": (None, None, 7),
              "z": (None, 1, None, 7)}
    ports = {name: onnx.helper.make_tensor_value_info(name, real, shape) for name, shape in shapes.items()}
    np.savez("in.npz", x=rng.normal(size=(6, 3, 5)), h=rng.uniform(-0.5, 0.5, (1, 3, 7)))
    for name, count, output, options in (("one", 3, "y", ["--backend", "serial", "--port", board.port]),
                                         ("two", 4, "z", ["--backend", "sim"])):
        graph = onnx.helper.make_graph(nodes[:count], name, [ports["x"], ports["h"]], [ports[output], ports["last"]],
                                       [onnx.numpy_helper.from_array(array, tensor) for tensor, array in
                                        (tensors | {"axis": np.array([1])}).items()])
        onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8),
                  f"{name}.onnx")
        assert main(["compile", f"{name}.onnx", "--preset", "tiny", "--calibrate", "in.npz", "-o", name]) == 0
        assert main(["run", name, "in.npz", "-o", "reference.npz", "--against", f"{name}.onnx"]) == 0
        assert main(["run", name, "in.npz", "-o", "found.npz", "--check", *options]) == 0
        with np.load("reference.npz") as wanted, np.load("found.npz") as found:
            assert wanted[output].std() > 0.05
            for tensor in (output, "last"):
                np.testing.assert_array_equal(found[tensor], wanted[tensor])
    capsys.readouterr()
    assert main(["run", "two", "in.npz", "-o", "x.npz", "--backend", "serial", "--port", board.port]) == 2
    assert "--backend serial needs 2 --port, not 1" in capsys.readouterr().err


def test_words_of_another_width():
    """Beats of 4 x 12 bits take two words of a packet."""
    config = CONFIG.replace(name="narrow", activation_bits=12, channels=4)
    model = random_quantized(2, config, *SHAPE)
    with BoardSimulator(config) as board, SerialLink(board.port, config) as link:
        device, reference = Device(link, pack(schedule(model, config))), Reference(model, config.channels)
        x = np.random.default_rng(2).integers(-1 << 11, 1 << 11, (5, config.channels, SHAPE[0]))
        assert (device.run(x) == reference.run(x)).all()


@pytest.mark.parametrize(("fast", "requests"), [(True, 20), (False, 4)])
def test_the_line_counts_what_passes(fast, requests):
    """Requests of 14 bytes and answers of 18, some of them escaped, at the pins' pace."""
    divisor = ulx3s.FAST_DIVISOR if fast else round(ulx3s.CLOCK / ulx3s.BAUD)
    with BoardSimulator(CONFIG) as board, SerialLink(board.port, CONFIG, timeout=60) as link:
        board.fast = fast
        link.read(ADDRESS["ID"])  # the switch is looked at between requests
        before = board.line()
        for _ in range(requests):
            link.read(ADDRESS["ID"])
        passed = board.line().since(before)
    assert 14 * requests <= passed.received <= 17 * requests and 18 * requests <= passed.sent <= 22 * requests
    bits = 10 * (passed.received + passed.sent)
    assert 0.9 <= passed.cycles / (bits * divisor) <= 1.1


def test_spoiled_bytes_are_survived(board, image):
    """Dropped, doubled, changed and made up: words are still right, and nothing is done twice."""
    rng = np.random.default_rng(2)
    with SerialLink(board.port, CONFIG) as link:
        device, reference = Device(link, image), Reference(image.model(), CONFIG.channels)
        before = board.spoiled
        board.spoil(0.004)
        try:
            for _ in range(8):
                x = frames(rng, 4)
                assert (device.run(x) == reference.run(x)).all()
                for state, expected in zip(device.get_state(1), reference.get_state(1), strict=True):
                    assert (state.c == expected.c).all() and (state.y == expected.y).all()
                state = random_state(rng, image.model())
                for machine in (device, reference):
                    machine.set_state(0, state)
        finally:
            board.spoil(0)
        assert board.spoiled > before and link.repeated > 0
        assert device.counters()["steps"] == 32


def test_a_state_takes_a_packet(board, image):
    """Numbers of a run are one command."""
    with SerialLink(board.port, CONFIG) as link:
        device, reference = Device(link, image), Reference(image.model(), CONFIG.channels)
        state = random_state(np.random.default_rng(4), image.model())
        device.run(frames(np.random.default_rng(4), 1))
        before = link._sequence
        for machine in (device, reference):
            machine.set_state(1, state)
        # Two packets more: each asks whether the machine is idle.
        assert link._sequence == before + 2
        device._held.clear()
        for found, expected in zip(device.get_state(1), state, strict=True):
            assert (found.c == expected.c).all() and (found.y == expected.y).all()
        assert link._sequence == before + 4


def test_a_cable_pulled_in_the_middle_of_a_frame(board, image):
    """The host says so; plugged in again, frames that were part-way are given up, and the image is still there."""
    rng = np.random.default_rng(3)
    with SerialLink(board.port, CONFIG) as link:
        device = Device(link, image)
        cut = threading.Timer(0.3, board.unplug)
        cut.start()
        with pytest.raises(LinkError, match="the port is gone|no answer"):
            while True:
                device.run(frames(rng, 50))
        cut.join()
    board.plug()
    with SerialLink(board.port, CONFIG) as link:
        steps = link.read(ADDRESS["STEPS_LOW"])
        assert steps > 0
        # Half a frame, and nobody takes what comes out.
        link._exchange(np.ones((2, 1), np.uint32), False, 0)
        device._link = link
        device.reset()
        reference = Reference(image.model(), CONFIG.channels)
        x = frames(rng, 5)
        assert (device.run(x) == reference.run(x)).all()


def test_refused_accesses_are_named(board):
    with SerialLink(board.port, CONFIG) as link:
        with pytest.raises(LinkError, match="write to register 0x000 was refused"):
            link.access([(ADDRESS["INTERRUPT_ENABLE"], 3), (0x000, 1), (0xFFC, None)])
        assert link.read(ADDRESS["INTERRUPT_ENABLE"]) == 3
        with pytest.raises(LinkError, match="read of register 0xffc was refused"):
            link.access([(ADDRESS["ID"], None), (0xFFC, None)])
        link.write(ADDRESS["INTERRUPT_ENABLE"], 0)


def test_a_machine_of_another_size_is_refused(board):
    with pytest.raises(LinkError, match="has words a beat 1, config 'wide' needs 4"):
        SerialLink(board.port, CONFIG.replace(name="wide", channels=8))


def test_a_port_where_nobody_answers(tmp_path):
    near, far = pty.openpty()
    try:
        start = time.monotonic()
        with pytest.raises(LinkError, match="no answer to HELLO, asked 2 times"):
            SerialLink(os.ttyname(far), CONFIG, timeout=0.05, tries=2)
        assert time.monotonic() - start < 5
    finally:
        os.close(near)
        os.close(far)
    with pytest.raises(LinkError, match="cannot be opened"):
        SerialLink(str(tmp_path / "none"), CONFIG)
