# SPDX-License-Identifier: Apache-2.0
"""Silero VAD at 16 kHz in numpy, except the LSTM, which becomes a model for the machine.

The network decides for every window of 512 samples (32 ms) whether somebody speaks:

    audio -> windows with 64 samples of context -> STFT magnitude -> four convolutions with ReLU
          -> LSTM 128 -> 128 -> ReLU -> weighted sum -> sigmoid -> probability

Only the LSTM has a state. `Silero.features` computes its inputs for all windows of a clip at once, and
`Silero.probability` turns its outputs into probabilities. The weights come from the package ``silero-vad`` (MIT
licence). The package is not imported, because that needs torch.
"""

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from safetensors.numpy import load_file

import openese

__all__ = ["SAMPLE_RATE", "WINDOW", "THRESHOLD", "MissingWeights", "Silero", "package_file", "windows"]

SAMPLE_RATE = 16000
WINDOW = 512
CONTEXT = 64
THRESHOLD = 0.5
PACKAGE = "silero-vad"
VERSION = "6.2.3"
STFT_HOP = 128
STFT_PAD = 64

_SHAPES = {
    "stft_conv.weight": (258, 1, 256),
    "conv1.weight": (128, 129, 3), "conv1.bias": (128,),
    "conv2.weight": (64, 128, 3), "conv2.bias": (64,),
    "conv3.weight": (64, 64, 3), "conv3.bias": (64,),
    "conv4.weight": (128, 64, 3), "conv4.bias": (128,),
    "final_conv.weight": (1, 128, 1), "final_conv.bias": (1,),
}


class MissingWeights(ValueError):
    """The package with the weights is not installed, or lacks a file or tensor; the message names it."""


def package_file(name):
    """Return the path of a data file of the installed ``silero-vad`` package, without importing it.

    Parameters
    ----------
    name : str
        A file in the package's data folder, such as ``silero_vad_16k.safetensors``.

    Raises
    ------
    MissingWeights
        If the package or the file is missing; the message says how to install it.
    """
    install = f"pip install --no-deps {PACKAGE}=={VERSION}"
    try:
        package = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise MissingWeights(f"{PACKAGE} is not installed: {install}") from None
    path = Path(str(package.locate_file(f"silero_vad/data/{name}")))
    if not path.is_file():
        raise MissingWeights(f"{PACKAGE} {package.version} has no {name}: {install}")
    return path


def windows(audio):
    """Cut audio into the network's windows.

    Parameters
    ----------
    audio : ndarray, (samples,), float
        Samples from -1 to 1 at 16 kHz.

    Returns
    -------
    ndarray, (T, 576), float32
        Each window has 64 samples of context and 512 new samples, with zeros before the first sample and
        after the last. ``T = ceil(samples / 512)``.
    """
    count = -(-len(audio) // WINDOW)
    padded = np.zeros(CONTEXT + count * WINDOW, dtype=np.float32)
    padded[CONTEXT:CONTEXT + len(audio)] = audio
    return sliding_window_view(padded, CONTEXT + WINDOW)[::WINDOW]


def convolve(x, weight, bias, stride=1):
    """Return the one-dimensional convolution of torch, with one zero on either side of ``x``.

    Parameters
    ----------
    x : ndarray, (T, channels, n)
    weight : ndarray, (filters, channels, 3)
    bias : ndarray, (filters,)
    stride : int

    Returns
    -------
    ndarray, (T, filters, (n - 1) // stride + 1)
    """
    taps = sliding_window_view(np.pad(x, ((0, 0), (0, 0), (1, 1))), 3, axis=2)[:, :, ::stride]
    return np.einsum("tcnk,fck->tfn", taps, weight, optimize=True) + bias[:, None]


def relu(x):
    return np.maximum(x, 0)


@dataclass(frozen=True)
class Silero:
    """The network.

    Attributes
    ----------
    tensors : dict of str to ndarray, float32
        All weights, by their names in the safetensors file.
    lstm : Model
        One layer, 128 -> 128, without peepholes or projection.

    Raises
    ------
    MissingWeights
        If a tensor is missing or has another shape; the message names the first one.
    """

    tensors: dict
    lstm: openese.Model

    def __post_init__(self):
        for name, shape in _SHAPES.items():
            held = self.tensors[name].shape if name in self.tensors else "no such tensor"
            if held != shape:
                raise MissingWeights(f"Silero {name}: expected {shape}, found {held}")

    @classmethod
    def load(cls, path=None):
        """Return the network in a safetensors file, by default the one of the package ``silero-vad``."""
        path = path or package_file("silero_vad_16k.safetensors")
        return cls(load_file(path), openese.load(path, "lstm_cell").model)

    def features(self, audio):
        """Return the LSTM's inputs (T, 128), float64, one row for each window of ``audio``."""
        x = self.magnitude(audio)
        for name, stride in [("conv1", 1), ("conv2", 2), ("conv3", 2), ("conv4", 1)]:
            x = relu(convolve(x, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"], stride))
        return x[:, :, 0]

    def magnitude(self, audio):
        """Return STFT magnitudes of the windows, (T, 129 bins of 62.5 Hz, 4 instants 8 ms apart), float64."""
        # In float32, processors add in different orders, and the sixth digit of a probability differs.
        padded = np.pad(windows(audio).astype(np.float64), ((0, 0), (0, STFT_PAD)), mode="reflect")
        basis = self.tensors["stft_conv.weight"][:, 0]
        spectra = sliding_window_view(padded, basis.shape[1], axis=1)[:, ::STFT_HOP] @ basis.T
        real, imaginary = np.split(spectra.transpose(0, 2, 1), 2, axis=1)
        return np.hypot(real, imaginary)

    def probability(self, y):
        """Return the probability of speech (...) for LSTM outputs (..., 128)."""
        weight, bias = self.tensors["final_conv.weight"][0, :, 0], self.tensors["final_conv.bias"][0]
        return 1 / (1 + np.exp(-(relu(y) @ weight + bias)))
