# SPDX-License-Identifier: Apache-2.0
"""The models of the zoo: their files, front ends and runtimes, and the meaning of an error for their task."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch

from examples.silero_vad.network import THRESHOLD, Silero, package_file
from examples.silero_vad.network import windows as speech_windows
from examples.zoo import mel
from examples.zoo.packages import package_folder

__all__ = ["Exhibit", "exhibits"]


@dataclass(frozen=True)
class Exhibit(ABC):
    """A model in the zoo.

    Attributes
    ----------
    name : str
    file : Path
    select : str
        The layers to import.
    preset : str
        The machine.
    """

    name: str
    file: Path
    select: str
    preset: str

    @abstractmethod
    def features(self, audio):
        """Return the LSTM's inputs for a clip: (T, B, I), B sequences."""

    @abstractmethod
    def runtime(self, frames):
        """Return the outputs (T, B, P) of the original runtime for inputs (T, B, I), after the head."""

    @abstractmethod
    def meaning(self, outputs, exact):
        """Return a phrase about the task's result with ``outputs`` in place of ``exact``, both a list by clip."""


class _Vad(Exhibit):
    """A voice-activity detector, which decides for each frame whether somebody speaks."""

    @abstractmethod
    def probability(self, y):
        """Return the probability of speech for the LSTM's outputs."""

    def meaning(self, outputs, exact):
        same = [(self.probability(a) >= THRESHOLD) == (self.probability(b) >= THRESHOLD)
                for a, b in zip(outputs, exact, strict=True)]
        return f"{np.mean(np.concatenate(same)):.1%} of decisions kept"


class SileroSafetensors(_Vad):
    """Silero VAD from its safetensors file. The runtime is PyTorch's LSTMCell."""

    @property
    def _silero(self):
        return Silero.load(self.file)

    def features(self, audio):
        return self._silero.features(audio)[:, None]

    def probability(self, y):
        return self._silero.probability(y)

    def runtime(self, frames):
        cell = torch.nn.LSTMCell(128, 128)
        cell.load_state_dict(_part("lstm_cell", {
            name: torch.from_numpy(value) for name, value in self._silero.tensors.items()}))
        state, outputs = None, []
        with torch.no_grad():
            for frame in torch.from_numpy(np.asarray(frames, np.float32)):
                state = cell(frame, state)
                outputs.append(state[0].numpy())
        return np.stack(outputs)


class SileroOnnx(_Vad):
    """Silero VAD from its ONNX graph, from another training run. The runtime is onnxruntime on the whole graph."""

    def _run(self, name, **feeds):
        model = onnx.load(self.file)
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
        return self._session(model).run([name], feeds)[0]

    def features(self, audio):
        zero = np.zeros((1, 1, 128), np.float32)
        windows = np.ascontiguousarray(speech_windows(audio))
        return self._run(self._node().input[0], input=windows, h=zero, c=zero)

    def _node(self):
        return next(node for node in onnx.load(self.file).graph.node if node.op_type == "LSTM")

    def runtime(self, frames):
        model, node = onnx.load(self.file), self._node()
        graph = model.graph
        del graph.node[:], graph.input[:], graph.output[:]
        graph.node.append(node)
        names = (node.input[0], "h", "c")
        graph.input.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
                           for name in names)
        graph.output.append(onnx.helper.make_empty_tensor_value_info(node.output[0]))
        zero = np.zeros((1, frames.shape[1], 128), np.float32)
        return self._session(model).run(None, dict(zip(names, (frames, zero, zero), strict=True)))[0][:, 0]

    def _session(self, model):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(model.SerializeToString(), options)

    def probability(self, y):
        tensors = {tensor.name: onnx.numpy_helper.to_array(tensor)
                   for tensor in onnx.load(self.file).graph.initializer}
        weight, bias = tensors["output.weight"][0, :, 0], tensors["output.bias"][0]
        return 1 / (1 + np.exp(-(np.maximum(y, 0) @ weight + bias)))


class Resemblyzer(Exhibit):
    """Resemblyzer, which tells speakers apart: 3 layers and a linear head, a unit vector for each 160 frames."""

    def features(self, audio):
        return mel.windows(mel.spectrogram(mel.normalized(audio)))

    def runtime(self, frames):
        state = torch.load(self.file, weights_only=True, map_location="cpu")["model_state"]
        lstm, linear = torch.nn.LSTM(40, 256, 3), torch.nn.Linear(256, 256)
        for name, module in (("lstm", lstm), ("linear", linear)):
            module.load_state_dict(_part(name, state))
        with torch.no_grad():
            return linear(lstm(torch.from_numpy(np.asarray(frames, np.float32)))[0]).numpy()

    def meaning(self, outputs, exact):
        cosines = np.concatenate([(self._embedding(a) * self._embedding(b)).sum(axis=1)
                                  for a, b in zip(outputs, exact, strict=True)])
        return f"cosine of embeddings {cosines.mean():.4f}, least {cosines.min():.4f}"

    def _embedding(self, y):
        raw = np.maximum(y[-1], 0)
        return raw / np.linalg.norm(raw, axis=1, keepdims=True)


def _part(name, tensors):
    """Return the tensors of one module of a state dict, by their names in the module."""
    return {key.removeprefix(f"{name}."): value for key, value in tensors.items()
            if key.startswith(f"{name}.")}


def exhibits():
    """Return all models of the zoo from their packages.

    Raises
    ------
    ValueError
        If a package is not installed.
    """
    return [
        SileroSafetensors("Silero VAD, safetensors", package_file("silero_vad_16k.safetensors"),
                          "lstm_cell", "demo"),
        SileroOnnx("Silero VAD, ONNX", package_file("silero_vad_16k_sequence.onnx"), "/recurrent/LSTM", "demo"),
        Resemblyzer("Resemblyzer, PyTorch", package_folder("resemblyzer") / "pretrained.pt",
                    "model_state.lstm,model_state.linear", "ese"),
    ]
