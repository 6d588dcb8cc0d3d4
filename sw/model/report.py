# SPDX-License-Identifier: Apache-2.0
"""The quantizer's measurements: a table for people, a dict of plain types for programs."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["LayerError", "Report", "TensorReport"]


@dataclass(frozen=True, kw_only=True)
class TensorReport:
    """One tensor: its range in floating point, its format, and the error of the format.

    Attributes
    ----------
    layer, tensor : str
    minimum, maximum : float
        The range of the values: weights, or x, z (pre-activations), c, m and y on the calibration frames. The ranges of
        c and y hold the initial states too.
    bits, fraction : int
        The format: signed, ``bits`` wide, with ``fraction`` bits behind the binary point.
    saturated, count : int
        Values beyond the format, and all values.
    rms_error : float
        Root of the mean squared difference from floating point. For z, both are first clamped to the table's range.
    """

    layer: str
    tensor: str
    minimum: float
    maximum: float
    bits: int
    fraction: int
    saturated: int
    count: int
    rms_error: float


@dataclass(frozen=True, kw_only=True)
class LayerError:
    """The integer reference against floating point at a layer's output y, on the calibration frames.

    Attributes
    ----------
    layer : str
    rms_output : float
        RMS of y in floating point.
    rms_error, max_error : float
        Difference of the reference from it: RMS, and largest magnitude.
    """

    layer: str
    rms_output: float
    rms_error: float
    max_error: float


@dataclass(frozen=True, kw_only=True)
class Report:
    """All measurements on the calibration frames.

    Attributes
    ----------
    steps, voices : int
        Calibration frames: time steps, and sequences side by side.
    tensors : tuple of `TensorReport`
    outputs : tuple of `LayerError`
    table_errors : mapping
        RMS error of the sigmoid and tanh tables on the pre-activations and cell states of the frames, by range:
        ``{"sigmoid": {"4": 5e-6, ...}, "tanh": {...}}``.
    saturations : mapping
        The reference's counters ``cell`` and ``output``, and ``initial``: the numbers of the initial states that do not
        fit.
    """

    steps: int
    voices: int
    tensors: tuple[TensorReport, ...]
    outputs: tuple[LayerError, ...]
    table_errors: Mapping[str, Mapping[str, float]]
    saturations: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """The report in plain types, ready for JSON; `from_dict` reads it back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Report":
        """The report with the `to_dict` ``fields``."""
        return cls(**{**fields, "tensors": tuple(TensorReport(**row) for row in fields["tensors"]),
                      "outputs": tuple(LayerError(**row) for row in fields["outputs"])})

    def __str__(self) -> str:
        """A table."""
        lines = [f"{'layer':<12} {'tensor':<9} {'minimum':>11} {'maximum':>11} {'format':>9} "
                 f"{'saturated':>16} {'RMS error':>10}"]
        for row in self.tensors:
            width, clipped = f"{row.bits}.{row.fraction}", f"{row.saturated}/{row.count}"
            lines.append(f"{row.layer:<12} {row.tensor:<9} {row.minimum:>11.5g} {row.maximum:>11.5g} "
                         f"{width:>9} {clipped:>16} {row.rms_error:>10.3g}")
        for error in self.outputs:
            lines.append(f"{error.layer}: y differs from floating point by RMS {error.rms_error:.3g}, "
                         f"at most {error.max_error:.3g} (RMS of y {error.rms_output:.3g})")
        for function, errors in self.table_errors.items():
            listed = ", ".join(f"{2 ** int(r)}: {error:.2g}" for r, error in errors.items())
            lines.append(f"{function} table, RMS error by range: {listed}")
        lines.append(f"saturations in {self.steps} steps of {self.voices} voices: "
                     f"{self.saturations['cell']} cell, {self.saturations['output']} output, "
                     f"{self.saturations.get('initial', 0)} initial")
        return "\n".join(lines)
