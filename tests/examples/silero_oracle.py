# SPDX-License-Identifier: Apache-2.0
"""Run the package's own ONNX graph in onnxruntime, to check `examples.silero_vad.network`.

The package's ONNX files and its safetensors file hold the same network from different training runs. So the graph
runs twice: with its own weights, against our network with these weights; and with the weights of the safetensors file,
against our network.

``python tests/examples/silero_oracle.py`` writes the golden vectors from the second run.
"""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from examples.silero_vad.clips import load_all
from examples.silero_vad.network import Silero, package_file, windows

GOLDEN = Path(__file__).parent / "data" / "silero_vad.npz"
IOFG, IFGO = [0, 2, 3, 1], [0, 3, 1, 2]  # indices that take ONNX's gate order to PyTorch's, and back

NAMES = {
    "stft.forward_basis_buffer": "stft_conv.weight",
    **{f"encoder.{k}.{part}": f"conv{k + 1}.{part}" for k in range(4) for part in ("weight", "bias")},
    "output.weight": "final_conv.weight",
    "output.bias": "final_conv.bias",
}
WEIGHT_IH, WEIGHT_HH, BIASES = "onnx::LSTM_209", "onnx::LSTM_210", "onnx::LSTM_211"


def graph():
    """Return the package's ONNX model that takes all windows of a clip in one call and has an LSTM node."""
    return onnx.load(package_file("silero_vad_16k_sequence.onnx"))


def _regate(tensor, order):
    """Permute the four gates stacked along the first axis of (512, ...)."""
    return tensor.reshape(4, 128, *tensor.shape[1:])[order].reshape(tensor.shape)


def tensors_of(model):
    """Return the graph's weights with the names and the gate order of the safetensors file."""
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    bias_ih, bias_hh = np.split(tensors[BIASES][0], 2)
    recurrent = {"weight_ih": tensors[WEIGHT_IH][0], "weight_hh": tensors[WEIGHT_HH][0],
                 "bias_ih": bias_ih, "bias_hh": bias_hh}
    return {**{ours: tensors[theirs] for theirs, ours in NAMES.items()},
            **{f"lstm_cell.{name}": _regate(value, IOFG) for name, value in recurrent.items()}}


def transplant(model, tensors):
    """Put ``tensors``, named and ordered as in the safetensors file, into the graph."""
    weights = {theirs: tensors[ours] for theirs, ours in NAMES.items()}
    cell = {name: _regate(tensors[f"lstm_cell.{name}"], IFGO)
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    weights[WEIGHT_IH], weights[WEIGHT_HH] = cell["weight_ih"][None], cell["weight_hh"][None]
    weights[BIASES] = np.concatenate([cell["bias_ih"], cell["bias_hh"]])[None]
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))
    return model


def probabilities(model, audio):
    """Return the probabilities (T,) of a clip in onnxruntime, float32."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    zero = np.zeros((1, 1, 128), np.float32)
    inputs = {"input": np.ascontiguousarray(windows(audio)), "h": zero, "c": zero}
    return session.run(["speech_probs"], inputs)[0].reshape(-1)


def golden():
    """Return the probabilities of every bundled clip, by the graph with the weights of the safetensors file."""
    model = transplant(graph(), Silero.load().tensors)
    return {clip.name: probabilities(model, clip.audio) for clip in load_all()}


if __name__ == "__main__":
    np.savez_compressed(GOLDEN, **golden())
