# SPDX-License-Identifier: Apache-2.0
"""The element-wise part of an LSTM cell, beside the PEs whose rows it drains (paper: AdderTree, ElemMul, Assemble).

`settings` has the words that control a slice and its stages, `slice` the block, `shared` the memories that all its
lanes use, and `lane` the arithmetic, one function a box of the paper.
"""

from openese.rtl.elementwise.settings import Beat, Kind, Settings, SliceControl, Stages, rows_ahead
from openese.rtl.elementwise.slice import CellStep, Slice, parameter_line, slice_members

__all__ = ["Beat", "CellStep", "Kind", "Settings", "Slice", "SliceControl", "Stages", "parameter_line",
           "rows_ahead", "slice_members"]
