# SPDX-License-Identifier: Apache-2.0
"""What the zoo knows about a network: its file or module, its examples, and what its outputs are for."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import onnxruntime

import openese

__all__ = ["Exhibit", "Outcome", "Tapped", "onnx_session"]


@dataclass
class Outcome:
    """What a network says about examples.

    Attributes
    ----------
    outputs : dict of str to list of ndarray
        Every output of the network, call by call.
    answers : list
        What the outputs are for, such as the decision for each window, or the text of each picture.
    """

    outputs: dict
    answers: list


class Tapped:
    """A session of onnxruntime, or its stand-in, that keeps all outputs of every call."""

    def __init__(self, session):
        self._session = session
        self._names = [output.name for output in session.get_outputs()]
        self.outputs = {name: [] for name in self._names}

    def run(self, names, feeds):
        values = dict(zip(self._names, self._session.run(None, feeds), strict=True))
        for name, value in values.items():
            self.outputs[name].append(value)
        return [values[name] for name in names or self._names]

    def get_inputs(self):
        return self._session.get_inputs()


@dataclass(frozen=True)
class Exhibit(ABC):
    """A network of another package.

    Attributes
    ----------
    package, file : str
        The package, and the file in it.
    machine : str or `openese.Config`
    asks : str
        What is counted: *decisions*.
    least : float
        The share of answers that must be those of the original network, for its task to be kept.
    also : str
        What of the network is on the machine besides LSTMs and GRUs.
    """

    package: str
    file: str
    machine: str | openese.Config
    asks: str
    least: float
    also: str = field(default="", kw_only=True)

    @property
    def name(self):
        return f"{self.package}: {self.file}" + (f", with {self.also}" if self.also else "")

    @abstractmethod
    def network(self):
        """Return what `openese.offload` takes: the path of a file, or a module of PyTorch."""

    def original(self):
        """Return the network in its own runtime."""
        return onnx_session(self.network())

    @abstractmethod
    def examples(self):
        """Return the examples for calibration, the others, and one of the others for the Verilog."""

    @abstractmethod
    def run(self, network, examples):
        """Return the `Outcome` of a network for examples."""

    def kept(self, found, wanted):
        """Return how many of the answers are those of the original network, and how many there are."""
        return sum(a == b for a, b in zip(found.answers, wanted.answers, strict=True)), len(wanted.answers)

    def detail(self, found, wanted):
        """Return more about the meaning of a difference; empty if there is no more to say."""
        return ""


def onnx_session(path):
    """Return onnxruntime's session for a file, with one thread and without its warnings."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    return onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
