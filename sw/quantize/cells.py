# SPDX-License-Identifier: Apache-2.0
"""Which kinds of cells a machine computes."""

from openese.rtl.config import Config
from openese.sw.model.layers import LSTM, CellKind

__all__ = ["unsupported"]


def unsupported(kind: CellKind, reset_after: bool = True, machine: Config | None = None) -> str | None:
    """Why no machine, or not this one, computes layers of a kind; None if it does."""
    return None if kind is LSTM else f"{kind.title} layers are not quantized yet"
