# SPDX-License-Identifier: Apache-2.0
"""Files of sequences: input, calibration frames, and output.

A ``.npy`` holds one sequence (T, I), or several of one length side by side (T, B, I). A ``.npz`` holds
``frames`` (T, B, I) and ``lengths`` (B,), for sequences of several lengths, padded to the longest.
"""

import io
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openese.output import replacing
from openese.sw.model.arrays import FloatArray
from openese.sw.model.layers import read_npz

__all__ = ["SequenceError", "Sequences"]


class SequenceError(ValueError):
    """A file does not hold sequences. The message names the file and the reason."""


@dataclass(frozen=True, eq=False)
class Sequences:
    """Sequences side by side.

    Attributes
    ----------
    frames : float64 (T, B, I)
    lengths : integers (B,), optional
        Frames of each sequence; T by default.
    alone : bool
        Whether the file has a single sequence without the axis B.
    """

    frames: FloatArray
    lengths: NDArray[Any] | None = None
    alone: bool = False

    @classmethod
    def load(cls, path: str | os.PathLike[str], inputs: int | None = None, batch_first: bool = False) -> "Sequences":
        """Read a ``.npy`` or ``.npz`` of frames with ``inputs`` features. Nothing in the file is executed.

        With ``batch_first``, as of `Network`, a ``.npy`` with three axes is refused, since they may be (B, T, I).

        Raises
        ------
        SequenceError
            The file has another kind, shape or type, or a number that is not finite.
        OSError
            The file cannot be read.
        """
        frames, lengths, named = _arrays(path)
        if frames.dtype.kind not in "fiu":
            raise SequenceError(f"{os.fspath(path)}: frames must be real numbers, not {frames.dtype}")
        if frames.ndim not in (2, 3):
            raise SequenceError(f"{os.fspath(path)}: frames must be (T, I) or (T, B, I), not {frames.shape}")
        if not frames.size:
            raise SequenceError(f"{os.fspath(path)}: no frames: the shape is {frames.shape}")
        if inputs is not None and frames.shape[-1] != inputs:
            raise SequenceError(f"{os.fspath(path)}: frames of shape {frames.shape} have {frames.shape[-1]} features; "
                                f"the network takes {inputs}")
        if batch_first and frames.ndim == 3 and not named:
            raise SequenceError(f"{os.fspath(path)}: the file's network takes (batch, time, features), but frames are "
                                f"(T, B, I) here, time first; save them as an .npz with the array 'frames', which has "
                                f"this order, not as a .npy of shape {frames.shape}")
        if not np.isfinite(frames).all():
            place = np.argwhere(~np.isfinite(frames))[0].tolist()
            raise SequenceError(f"{os.fspath(path)}: frames{place} is not a finite number")
        alone = frames.ndim == 2
        if lengths is not None:
            steps, voices = len(frames), 1 if alone else frames.shape[1]
            if lengths.shape != (voices,) or lengths.dtype.kind not in "iu" or not (
                    (lengths >= 0) & (lengths <= steps)).all():
                swapped = "; frames seem to be (B, T, I), give (T, B, I)" if lengths.shape == (steps,) != (voices,) \
                    else ""
                raise SequenceError(f"{os.fspath(path)}: lengths must be {voices} whole numbers from 0 to {steps}, "
                                    f"not {lengths.tolist()}{swapped}")
        return cls(np.asarray(frames[:, None] if alone else frames, np.float64), lengths, alone)

    def machine_steps(self, channels: int) -> int:
        """Steps of a machine with ``channels`` channels that runs the sequences, as `runners.MachineRunner` does."""
        steps, voices, _ = self.frames.shape
        lengths = np.full(voices, steps) if self.lengths is None else np.asarray(self.lengths)
        return sum(int(lengths[first:first + channels].max()) for first in range(0, voices, channels))

    def save(self, path: str | os.PathLike[str], outputs: FloatArray) -> None:
        """Write ``outputs`` (T, B, P) as a ``.npy`` in float32, without the axis B if the frames have none; as a
        ``.npz`` with the lengths if ``path`` ends so."""
        with replacing(path) as file:
            if os.fspath(path).endswith(".npz"):
                lengths = np.full(outputs.shape[1], len(outputs)) if self.lengths is None else self.lengths
                np.savez(file, frames=outputs.astype(np.float32), lengths=lengths)
            else:
                np.save(file, (outputs[:, 0] if self.alone else outputs).astype(np.float32))


def _arrays(path: str | os.PathLike[str]) -> tuple[NDArray[Any], NDArray[Any] | None, bool]:
    """Return the frames, the lengths, and whether the file names them."""
    with open(path, "rb") as file:
        zipped = file.seekable() and file.read(2) == b"PK"
        piped = None if file.seekable() else io.BytesIO(file.read())
    if zipped:
        arrays = read_npz(path)
        if "frames" not in arrays or arrays.keys() - {"frames", "lengths"}:
            raise SequenceError(f"{os.fspath(path)}: expected the arrays 'frames' and 'lengths', "
                                f"found {', '.join(map(repr, arrays))}")
        return arrays["frames"], arrays.get("lengths"), True
    try:
        return np.load(piped or path, allow_pickle=False), None, False
    except (ValueError, EOFError, MemoryError) as error:
        raise SequenceError(f"{os.fspath(path)}: not a .npy or .npz of numbers ({error})") from None
