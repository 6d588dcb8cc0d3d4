# SPDX-License-Identifier: Apache-2.0
"""Measure the cost of cutting a network: the time that is neither the machine's part nor the rest of the network."""

import json
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime

import openese
from examples.silero_vad.clips import CLIPS, load_all
from examples.silero_vad.network import package_file, windows
from examples.zoo.ocr import prepared
from examples.zoo.packages import package_folder
from examples.zoo.pictures import picture

__all__ = ["CUTS", "cut"]

_VOICES, _STEPS = 8, 100
_COLUMNS = 8  # of pixels in a step of ddddocr
_REPEATS = 5


class _Timed:
    """A function that keeps the seconds of a core that each call takes, and what it was called with."""

    def __init__(self, function):
        self._function, self.seconds, self.calls = function, [], []

    def __call__(self, *arguments):
        self.calls.append(arguments)
        start = process_time()
        result = self._function(*arguments)
        self.seconds.append(process_time() - start)
        return result


def _silero(folder):
    """Return Silero's file, its preset, what it carries, and a window of every voice for each step."""
    heard = np.concatenate([windows(clip.audio) for clip in load_all(CLIPS)])[:_VOICES * _STEPS]
    return package_file("silero_vad.onnx"), "demo", {"stateN": "state"}, {
        "input": heard.reshape(_VOICES, _STEPS, -1).swapaxes(0, 1), "sr": np.array(16000),
        "state": np.zeros((2, _VOICES, 128), np.float32)}


def _ddddocr(folder):
    """Return ddddocr's file with a free number of pictures, its preset, and pictures of as many steps."""
    model = onnx.load(package_folder("ddddocr") / "common.onnx")
    (given,) = model.graph.input
    given.type.tensor_type.shape.dim[0].dim_param = "pictures"
    path = folder / "pictures.onnx"
    onnx.save(model, path)
    rows = [np.concatenate([prepared(picture(seed)[1]) for seed in range(first, first + _VOICES)], axis=3)
            for first in range(0, _VOICES**2, _VOICES)]
    return path, "ese_stream", {}, {given.name: np.concatenate([row[..., :_COLUMNS * _STEPS] for row in rows])}


#: By the names in the results.
CUTS = {"silero-vad: silero_vad.onnx": _silero, "ddddocr: common.onnx": _ddddocr}


def cut(name, tell):
    """Return the seconds of a core that each part of a run takes on the reference; of each call the least counts."""
    tell("the cost of the cut")
    with TemporaryDirectory() as folder, ExitStack() as stack:
        path, preset, carry, inputs = CUTS[name](Path(folder))
        compiled = openese.compile(path, preset, calibrate=inputs, carry=carry)
        engine = compiled.engine({part: stack.enter_context(network.machines("reference"))
                                  for part, network in compiled.parts.items()})
        runs = [_run(compiled.host, engine, path, inputs, carry) for _ in range(_REPEATS)]
    machine, others, own, lstms = np.min(runs, axis=0).sum(axis=1).tolist()
    rest = own - lstms
    return {"voices": _VOICES, "steps": _STEPS, "machine_seconds": machine, "rest_seconds": rest,
            "cut_seconds": others - rest, "share": (others - rest) / machine}


def _run(host, engine, path, inputs, carry):
    """Return seconds call by call: of the LSTMs, of all else, of the original network, and of its own LSTMs."""
    lstms, whole, original = _Timed(engine.call), _Timed(host.run), _Timed(_runner(_session(path)))
    timed = SimpleNamespace(parts=engine.parts, call=lstms)
    _feed(lambda feeds: whole(feeds, timed), inputs, carry)
    replayed = iter(lstms.calls)

    def alternate(feeds):
        outputs = original(feeds)
        engine.call(*next(replayed))  # takes the processor's caches, as between two calls of the whole network
        return outputs
    _feed(alternate, inputs, carry)
    machine = np.array(lstms.seconds).reshape(len(whole.seconds), -1).sum(axis=1)
    return machine, whole.seconds - machine, original.seconds, _own_lstms(path, inputs, carry)


def _feed(run, inputs, carry):
    """Call a network with all inputs."""
    if not carry:
        run(inputs)
        return
    feeds = dict(inputs)
    for frame in inputs["input"]:
        outputs = run({**feeds, "input": frame})
        feeds.update({given: outputs[output] for output, given in carry.items()})


def _session(path, **options):
    """Return onnxruntime's session for a file, with the host's options, and more ``options``."""
    held = onnxruntime.SessionOptions()
    held.add_session_config_entry("session.disable_prepacking", "1")
    held.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for option, value in {"log_severity_level": 4, **options}.items():
        setattr(held, option, value)
    return onnxruntime.InferenceSession(str(path), held, providers=["CPUExecutionProvider"])


def _runner(session):
    """Return a function from inputs to outputs by name."""
    names = [output.name for output in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(None, feeds), strict=True))


def _own_lstms(path, inputs, carry):
    """Return the seconds that the LSTMs of the original network take in its own runtime, call by call."""
    with TemporaryDirectory() as folder:
        session = _session(path, intra_op_num_threads=1, enable_profiling=True,  # one thread: seconds of one core
                           profile_file_prefix=str(Path(folder) / "profile"))
        _feed(_runner(session), inputs, carry)
        events = json.loads(Path(session.end_profiling()).read_text())
    calls = [event for event in events if event["name"] == "model_run"]
    lstms = [event for event in events if event.get("args", {}).get("op_name") == "LSTM"
             and event["name"].endswith("_kernel_time")]
    return [sum(lstm["dur"] for lstm in lstms if call["ts"] <= lstm["ts"] < call["ts"] + call["dur"]) / 1e6
            for call in calls]
