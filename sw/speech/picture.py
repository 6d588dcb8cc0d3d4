# SPDX-License-Identifier: Apache-2.0
"""A recording and what was recognized in it: the spectrogram over the posteriorgram."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from openese.sw.speech.audio import AudioError
from openese.sw.speech.features import HOP, RATE, spectrogram
from openese.sw.speech.phones import PHONES, SILENCE

if TYPE_CHECKING:
    from openese.sw.speech.recognizer import Transcript

__all__ = ["draw"]

_DPI = 100
_FAINTEST = -70  # dB below the loudest


def draw(title: str, audio: Any, transcript: "Transcript", path: Path) -> None:
    """Write a PNG.

    Raises
    ------
    AudioError
        Without matplotlib.
    """
    try:
        import matplotlib
    except ImportError:
        raise AudioError("pictures need the package 'matplotlib': pip install openese[speech]") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    seconds = len(transcript.logits) * HOP / RATE
    figure, (heard, said) = pyplot.subplots(2, 1, figsize=(max(8.0, min(30.0, 3 * seconds)), 8), sharex=True,
                                            height_ratios=(1, 1.7), layout="constrained")
    level = 10 * np.log10(spectrogram(audio).T + 1e-10)
    heard.imshow(level - level.max(), origin="lower", aspect="auto", cmap="magma", vmin=_FAINTEST,
                 extent=(0, seconds, 0, RATE / 2000))
    heard.set(ylabel="kHz")
    heard.set_title(f"What is heard: {title}", loc="left", pad=18)
    said.imshow(transcript.posteriors.T, origin="lower", aspect="auto", interpolation="nearest", cmap="Blues",
                vmin=0, vmax=1, extent=(0, seconds, -0.5, len(PHONES) - 0.5))
    said.set_yticks(range(len(PHONES)), PHONES, fontsize=7)
    said.set(xlabel="seconds")
    said.set_title("What is recognized: probability of each phone; above, the phones of the decoded path", loc="left")
    for phone in transcript.phones:
        heard.axvline(phone.start, color="white", lw=0.4)
        if phone.name != SILENCE:
            heard.text((phone.start + phone.stop) / 2, RATE / 2000 + 0.1, phone.name, ha="center", va="bottom",
                       fontsize=7)
    figure.savefig(path, dpi=_DPI)
    pyplot.close(figure)
