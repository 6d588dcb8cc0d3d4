# SPDX-License-Identifier: Apache-2.0
"""The campaign of files from elsewhere: every importer under a fuzzer, in a process with a limit on memory."""

import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from machines import TINY
from models import random_model, random_quantized

from openese.sw.model.network import Network
from openese.sw.pack.image import pack
from openese.sw.pack.schedule import schedule

from .engine import campaign
from .fuzz import SLOWEST

__all__ = ["KINDS", "seed_files"]

#: Seconds of one case.
SECONDS = 20


def _saved(save, name):
    """The bytes of what ``save(path)`` writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        save(path)
        return path.read_bytes()


def npz_files():
    """Networks of ours, and arrays with the names of others."""
    network = Network.of(random_model(1, 2, (3, 2), 2, peephole=True, head=2))
    yield _saved(network.save, "model.npz")
    rng = np.random.default_rng(1)
    kaldi = {"w_gifo_x": rng.normal(size=(12, 2)), "w_gifo_r": rng.normal(size=(12, 3)), "bias": rng.normal(size=12)}
    yield _saved(lambda path: np.savez(path, **kaldi), "model.npz")


def safetensors_files():
    """A state dict of PyTorch's names, and Kaldi's."""
    from safetensors.numpy import save

    rng = np.random.default_rng(2)
    yield save({"lstm.weight_ih_l0": rng.normal(size=(12, 2)), "lstm.weight_hh_l0": rng.normal(size=(12, 3)),
                "lstm.bias_ih_l0": rng.normal(size=12), "lstm.bias_hh_l0": rng.normal(size=12),
                "head.weight": rng.normal(size=(2, 3)), "head.bias": rng.normal(size=2)})
    yield save({"w_gifo_x": rng.normal(size=(12, 2)), "w_gifo_r": rng.normal(size=(12, 3)),
                "bias": rng.normal(size=12)})


def torch_files():
    """A state dict, a whole module, both formats, and TorchScript."""
    import torch

    torch.manual_seed(1)
    module = torch.nn.Sequential(torch.nn.LSTM(2, 3))
    lstm = torch.nn.LSTM(2, 3, bidirectional=True)
    for value, named in ((lstm.state_dict(), {}), (module, {}),
                         (lstm.state_dict(), {"_use_new_zipfile_serialization": False})):
        file = io.BytesIO()
        torch.save(value, file, **named)
        yield file.getvalue()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = io.BytesIO()
        torch.jit.save(torch.jit.script(torch.nn.LSTM(2, 3)), file)
    yield file.getvalue()


def _keras(suffix):
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    layers = keras.layers
    model = keras.Sequential([keras.Input((None, 2)), layers.LSTM(3, return_sequences=True), layers.Dense(2)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield _saved(model.save, f"model{suffix}")


def keras_files():
    """A model in Keras's archive."""
    yield from _keras(".keras")


def h5_files():
    """A model in the older file of Keras."""
    yield from _keras(".h5")


def onnx_files():
    """An LSTM node with a linear layer behind it."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(3)
    tensors = {"W": rng.normal(size=(1, 12, 2)), "R": rng.normal(size=(1, 12, 3)), "B": rng.normal(size=(1, 24)),
               "K": rng.normal(size=(3, 2)), "axes": np.array([1])}
    tensors = {name: value if name == "axes" else value.astype(np.float32) for name, value in tensors.items()}
    nodes = [helper.make_node("LSTM", ["X", "W", "R", "B"], ["Y", "Yh", "Yc"], name="lstm", hidden_size=3),
             helper.make_node("Squeeze", ["Y", "axes"], ["S"]), helper.make_node("MatMul", ["S", "K"], ["Z"])]
    for taken in (nodes[:1], nodes):
        graph = helper.make_graph(taken, "g", [helper.make_tensor_value_info("X", TensorProto.FLOAT, None)],
                                  [helper.make_tensor_value_info(taken[-1].output[0], TensorProto.FLOAT, None)],
                                  [numpy_helper.from_array(value, name) for name, value in tensors.items()])
        yield helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()


def image_files():
    """Images for a small machine."""
    for seed, shape in ((1, (3, 5)), (2, (3, (5, 2), 4))):
        yield pack(schedule(random_quantized(seed, TINY, *shape), TINY)).words(everything=True).tobytes()


#: By suffix: what writes the first files, and the packages that it takes.
KINDS = {".npz": (npz_files, []), ".safetensors": (safetensors_files, ["safetensors"]),
         ".pt": (torch_files, ["torch"]), ".keras": (keras_files, ["keras", "torch", "h5py"]),
         ".h5": (h5_files, ["keras", "torch", "h5py"]), ".onnx": (onnx_files, ["onnx"]), ".img": (image_files, [])}


def seed_files(suffix, folder):
    """Write the first files of a kind into ``folder``, unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    if not any(folder.iterdir()):
        for number, data in enumerate(KINDS[suffix][0]()):
            (folder / f"first{number}").write_bytes(data)


def fuzz(suffix, seed, seconds, folder):
    """Fuzz one kind of file; returns counts. Raises AssertionError with the file that fails."""
    corpus = folder / "corpus" / suffix[1:]
    crashes = folder / "crashes"
    crashes.mkdir(parents=True, exist_ok=True)
    seed_files(suffix, corpus)
    before = set(crashes.iterdir())
    done = subprocess.run(
        [sys.executable, "-m", "soak.fuzz", corpus, crashes, suffix, str(seconds), str(seed)], text=True,
        errors="replace", capture_output=True, timeout=10 * seconds + 10 * SLOWEST, env={
            **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))})
    said = done.stderr + done.stdout
    if done.returncode:
        kept = []
        for path in set(crashes.iterdir()) - before:
            kept.append(path.with_name(f"{path.name}{suffix}"))
            shutil.move(path, kept[-1])
        raise AssertionError(f"{suffix}: {said[-3000:]}\n" + "\n".join(
            f"nox -s soak -- --replay {path}" for path in kept))
    runs = re.search(r"stat::number_of_executed_units: (\d+)|Done (\d+) runs", said)
    assert runs, said[-2000:]
    return {f"{suffix} files": int(runs[1] or runs[2])}


@campaign("files", "a file of any kind with any bytes is read or refused, in bounded memory and time", share=2)
def files(case):
    kinds = [suffix for suffix, (_, packages) in KINDS.items() if all(map(find_spec, packages))]
    return fuzz(kinds[case.number % len(kinds)], case.seed + case.number + 1, SECONDS, case.folder)
