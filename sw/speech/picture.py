# SPDX-License-Identifier: Apache-2.0
"""Draw a recording and its phones: the spectrogram above the posteriorgram."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from openese.output import replacing
from openese.sw.speech.audio import AudioError
from openese.sw.speech.features import HOP, RATE, spectrogram
from openese.sw.speech.phones import PHONES, SILENCE

if TYPE_CHECKING:
    from openese.sw.speech.recognizer import Transcript

__all__ = ["draw"]

_DPI = 100
_FAINTEST = -70  # dB below the loudest


def draw(title: str, audio: Any, transcript: "Transcript", path: Path) -> None:
    """Write a PNG of a recording and its transcript.

    Parameters
    ----------
    title : str
        The name of the recording.
    audio : float (samples,)
        At 16 kHz.
    transcript : Transcript
    path : Path
        The file to write.

    Raises
    ------
    AudioError
        If matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise AudioError("drawing pictures needs the package 'matplotlib': pip install openese[speech]") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    seconds = len(transcript.logits) * HOP / RATE
    figure, (heard, said) = pyplot.subplots(2, 1, figsize=(max(8.0, min(30.0, 3 * seconds)), 8), sharex=True,
                                            height_ratios=(1, 1.7), layout="constrained")
    level = 10 * np.log10(spectrogram(audio).T + 1e-10)
    heard.imshow(level - level.max(), origin="lower", aspect="auto", cmap="magma", vmin=_FAINTEST,
                 extent=(0, seconds, 0, RATE / 2000))
    heard.set(ylabel="kHz")
    heard.set_title(f"Spectrogram of {title}, with the recognized phones above", loc="left", pad=18)
    said.imshow(transcript.posteriors.T, origin="lower", aspect="auto", interpolation="nearest", cmap="Blues",
                vmin=0, vmax=1, extent=(0, seconds, -0.5, len(PHONES) - 0.5))
    said.set_yticks(range(len(PHONES)), PHONES, fontsize=7)
    said.set(xlabel="seconds")
    said.set_title("Probability of each phone", loc="left")
    for phone in transcript.phones:
        heard.axvline(phone.start, color="white", lw=0.4)
        if phone.name != SILENCE:
            heard.text((phone.start + phone.stop) / 2, RATE / 2000 + 0.1, phone.name, ha="center", va="bottom",
                       fontsize=7)
    with replacing(path) as file:
        figure.savefig(file, dpi=_DPI, format=path.suffix[1:] or "png")
    pyplot.close(figure)
