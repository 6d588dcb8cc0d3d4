# SPDX-License-Identifier: Apache-2.0
"""ddddocr reads the text of small pictures: convolutions, a bidirectional LSTM, a class for each column of pixels.

The package itself is not imported, because that needs OpenCV. Its characters are read from its source, and pictures
are prepared and classes joined as its engine does.
"""

import ast
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from examples.zoo.exhibit import Exhibit, Outcome, Tapped
from examples.zoo.packages import package_folder
from examples.zoo.pictures import picture

__all__ = ["Ocr", "prepared", "text"]

_ROWS = 64


@dataclass(frozen=True)
class Ocr(Exhibit):
    """ddddocr's network."""

    asks: str = "texts"
    least: float = 1.0
    calibration: int = 6
    tests: int = 10

    def network(self):
        return package_folder("ddddocr") / self.file

    def examples(self):
        pictures = [picture(seed) for seed in range(self.calibration + self.tests)]
        tests = pictures[self.calibration:]
        return pictures[:self.calibration], tests, [min(tests, key=lambda pair: pair[1].width)]

    def run(self, network, examples):
        session = Tapped(network)
        (given,) = (value.name for value in session.get_inputs())
        return Outcome(session.outputs, [text(session.run(None, {given: prepared(image)})[0][:, 0], _characters())
                                         for _, image in examples])


def prepared(image):
    """Return a picture as the network takes it: (1, 1, 64, columns), from 0 to 1."""
    columns = int(image.width * (_ROWS / image.height))
    grey = image.resize((columns, _ROWS), Image.Resampling.LANCZOS).convert("L")
    return np.asarray(grey, np.float32)[None, None] / 255


def text(scores, characters):
    """Return the text that scores (T, classes) spell: the best class each, repeated ones once, without class 0."""
    best = scores.argmax(axis=1)
    return "".join(characters[number] for number, before in zip(best, [0, *best], strict=False)
                   if number and number != before)


@cache
def _characters():
    """Return the characters of all classes, from the package's source, of which nothing is executed."""
    tree = ast.parse((package_folder("ddddocr") / "charsets.py").read_text(encoding="utf-8"))
    return next(ast.literal_eval(node.value) for node in tree.body
                if isinstance(node, ast.Assign) and node.targets[0].id == "CHARSET_BETA")
