# SPDX-License-Identifier: Apache-2.0
"""The networks of the zoo."""

from dataclasses import replace

import openese
from examples.zoo.ocr import Ocr
from examples.zoo.phonemes import Phonemes
from examples.zoo.speaker import Speaker
from examples.zoo.vad import Browser, Cell, Sequence, Streaming

__all__ = ["exhibits"]

#: As `ese_stream`, for one voice: it simulates faster.
_ONE_VOICE = replace(openese.preset("ese_stream"), name="ese_stream, 1 channel", channels=1, slice_width=1)
#: The same with GRU cells.
_ONE_VOICE_GRU = replace(_ONE_VOICE, name="ese_stream, 1 channel, GRU", cells="lstm+gru")
_DENSE = replace(openese.preset("demo"), name="demo, dense layers", cells="lstm+dense", entry_depth=17408)


def exhibits(vad_web, folder):
    """Return all networks.

    Parameters
    ----------
    vad_web : Path or None
        The package ``@ricky0123/vad-web`` as ``npm pack`` writes it.
    folder : Path
        For files out of it.
    """
    web = {"package": "@ricky0123/vad-web", "machine": "demo", "archive": vad_web, "folder": folder}
    return [
        Streaming("silero-vad", "silero_vad.onnx", "demo"),
        Sequence("silero-vad", "silero_vad_16k_sequence.onnx", "demo"),
        Sequence("silero-vad", "silero_vad_16k_sequence.onnx", _DENSE, also="its decoder"),
        Cell("silero-vad", "silero_vad_16k.safetensors", "demo"),
        Browser(file="silero_vad_v5.onnx", samples=512, states={"state": (2, 1, 128)}, **web),
        Browser(file="silero_vad_legacy.onnx", samples=1536, states={"h": (2, 1, 64), "c": (2, 1, 64)}, **web),
        Ocr("ddddocr", "common.onnx", _ONE_VOICE),
        Speaker("resemblyzer", "pretrained.pt", _ONE_VOICE),
        Phonemes("g2p-en", "checkpoint20.npz", _ONE_VOICE_GRU),
    ]
