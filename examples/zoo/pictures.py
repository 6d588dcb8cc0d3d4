# SPDX-License-Identifier: Apache-2.0
"""Pictures of random text, tilted, with lines and noise, as those that keep programs out of web pages."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

__all__ = ["picture"]

_LETTERS = list("ABDEFGHLNQRTabdefhmnqrt23456789")  # none that differs from another in its size alone
_HEIGHT, _PITCH, _MARGIN, _BOX = 60, 34, 12, 60


def picture(seed):
    """Return the text of a picture, and the picture, of 60 rows of grey pixels."""
    rng = np.random.default_rng(seed)
    text = "".join(rng.choice(_LETTERS, int(rng.integers(4, 7))))
    image = Image.new("L", (2 * _MARGIN + _PITCH * len(text), _HEIGHT), int(rng.integers(225, 256)))
    draw = ImageDraw.Draw(image)
    for _ in range(2):
        ends = rng.integers(0, [image.width, _HEIGHT] * 2).tolist()
        draw.line(ends, fill=int(rng.integers(120, 200)), width=int(rng.integers(1, 3)))
    for place, letter in enumerate(text):
        box = Image.new("L", (_BOX, _BOX))
        font = ImageFont.load_default(int(rng.integers(34, 44)))
        ImageDraw.Draw(box).text((_BOX / 2, _BOX / 2), letter, fill=255, font=font, anchor="mm")
        left = _MARGIN + _PITCH * place + (_PITCH - _BOX) // 2
        image.paste(int(rng.integers(0, 90)), (int(left + rng.integers(-3, 4)), int(rng.integers(-6, 7))),
                    box.rotate(float(rng.uniform(-12, 12)), Image.Resampling.BICUBIC))
    noisy = np.asarray(image, float) + rng.normal(0, 8, (_HEIGHT, image.width))
    return text, Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
