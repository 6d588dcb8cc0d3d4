# SPDX-License-Identifier: Apache-2.0
"""Silero VAD in four files of two packages: it decides for every window of audio whether somebody speaks.

The package ``silero-vad`` brings its own code around the network, which runs here as it is, with the machine in place
of onnxruntime's session. ``@ricky0123/vad-web`` does the same in JavaScript, of which `Browser` repeats the chunks.
"""

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch

from examples.silero_vad.clips import CLIPS, load_all
from examples.silero_vad.network import SAMPLE_RATE, THRESHOLD, Silero, package_file
from examples.zoo.exhibit import Exhibit, Outcome, Tapped
from examples.zoo.packages import archive_member

__all__ = ["Browser", "Cell", "Sequence", "Streaming"]


@dataclass(frozen=True)
class _Vad(Exhibit):
    asks: str = "decisions"
    least: float = 0.99

    def network(self):
        return package_file(self.file)

    def examples(self):
        clips = [(clip.audio, SAMPLE_RATE) for clip in load_all(CLIPS)]
        return clips[::2], clips[1::2], [min(clips[1::2], key=lambda clip: len(clip[0]))]


def _decisions(probabilities):
    return [bool(probability >= THRESHOLD) for clip in probabilities for probability in np.ravel(clip)]


@dataclass(frozen=True)
class Streaming(_Vad):
    """The package's streaming network for 16 and 8 kHz, a window a call, in the package's wrapper."""

    def examples(self):
        return tuple(both_rates(clips) for clips in super().examples())

    def run(self, network, examples):
        from silero_vad.utils_vad import OnnxWrapper
        wrapper = OnnxWrapper(str(self.network()), force_onnx_cpu=True)
        wrapper.session = session = Tapped(network)
        probabilities = [wrapper.audio_forward(torch.from_numpy(audio)[None], rate).numpy()
                         for audio, rate in examples]
        return Outcome(session.outputs, _decisions(probabilities))


def both_rates(clips):
    """Return clips of 16 kHz, and the same at 8 kHz."""
    return [*clips, *((halved(audio), rate // 2) for audio, rate in clips)]


def halved(audio):
    """Return audio at half its rate: a windowed sinc cuts what is above, and every second sample stays."""
    taps = np.arange(-32, 33)
    return np.convolve(audio, np.sinc(taps / 2) / 2 * np.hanning(len(taps) + 2)[1:-1], "same")[::2].astype(np.float32)


@dataclass(frozen=True)
class Sequence(_Vad):
    """The package's network for whole recordings, in one call, in the package's wrapper."""

    def run(self, network, examples):
        from silero_vad.sequence_vad import SileroVADSequence
        wrapper = SileroVADSequence(self.network())
        wrapper.session = session = Tapped(network)
        return Outcome(session.outputs, _decisions([wrapper.audio_forward(audio, rate) for audio, rate in examples]))


@dataclass(frozen=True)
class Cell(_Vad):
    """The package's file without a graph: its tensors in PyTorch's cell; `Silero` computes the rest in NumPy."""

    @property
    def _silero(self):
        return _silero(package_file(self.file))

    def network(self):
        cell = torch.nn.LSTMCell(128, 128)
        cell.load_state_dict({name.removeprefix("lstm_cell."): torch.from_numpy(value)
                              for name, value in self._silero.tensors.items() if name.startswith("lstm_cell.")})
        return cell

    def original(self):
        return self.network()

    @torch.no_grad()
    def run(self, network, examples):
        outputs = []
        for audio, _ in examples:
            state, y = None, []
            for frame in torch.from_numpy(self._silero.features(audio).astype(np.float32)):
                state = network(frame[None], state)
                y.append(state[0].numpy())
            outputs.append(np.concatenate(y))
        return Outcome({"h": outputs}, _decisions(map(self._silero.probability, outputs)))


@cache
def _silero(path):
    return Silero.load(path)


@dataclass(frozen=True)
class Browser(_Vad):
    """A network of ``@ricky0123/vad-web``, called as the package's JavaScript does: chunk by chunk, with its states."""

    archive: Path | None = None  # what `npm pack` wrote
    folder: Path | None = None
    samples: int = 512
    states: dict = field(default_factory=dict)  # shapes by the names of inputs, in the order of the outputs

    def network(self):
        return archive_member(self.archive, f"dist/{self.file}", self.folder)

    def run(self, network, examples):
        session = Tapped(network)
        probabilities = []
        for audio, rate in examples:
            states = {name: np.zeros(shape, np.float32) for name, shape in self.states.items()}
            chunks = audio[:len(audio) // self.samples * self.samples].reshape(-1, 1, self.samples)
            for chunk in chunks:
                probability, *after = session.run(None, {"input": chunk, "sr": np.array(rate), **states})
                probabilities.append(probability)
                states = dict(zip(states, after, strict=True))
        return Outcome(session.outputs, _decisions(probabilities))
