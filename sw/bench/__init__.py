# SPDX-License-Identifier: Apache-2.0
"""The paper's benchmark layer, measured: on the emitted Verilog, by the cycle model, and on this processor.

`run` returns a dictionary; its keys:

``machine``
    ``preset``, ``pes``, ``channels``, ``groups``, ``multipliers``, ``processor`` (of this computer).
``layer``
    ``density``, ``nonzeros``, ``entries_per_pe`` (of the fullest), ``padding`` (share of the entries of all PEs),
    ``image_bytes``, ``float32_bytes``.
``rtl``
    In steady state, from the machine's own counters: ``cycles_per_step``, ``busy`` (share of multiplier cycles on
    non-zeros), ``counters`` of one step, ``microseconds_at_200_mhz``. ``bit_exact`` (every word equals the
    reference), ``words``. ``first_frame_cycles`` and ``one_voice_cycles``: of a machine at rest, from the first beat
    of a frame to the last of its answer, with all voices and with one. ``verilog_lines``,
    ``emission_seconds`` to write them, ``build_seconds`` of the simulator where it is not there yet,
    ``cycles_per_second`` simulated. ``memory``: what weights were streamed from, or null.
``model_cycles``, ``model_difference``
    The cycle model's prediction of ``cycles_per_step``, and how far off it is, as a share.
``memories``
    Where weights are streamed: such a dictionary as ``rtl`` for every memory; ``lines`` a step, ``cycles_per_line``.
``trace``
    With ``trace``: ``cycles_per_step`` and ``busy`` counted in a waveform of two steps, from the pins and from what the
    PEs say in every cycle.
``cocotb``
    With ``cocotb``: ``cycles_per_second`` of a smaller machine under cocotb, ``harness_cycles_per_second`` of the
    same in the harness, and their ``ratio``.
``matrices``
    By matrix: ``cycles`` of the array in a step, ``entries_per_pe``, ``busy``; the paper's ``paper_cycles`` and
    ``paper_theory_cycles`` where the machine has as many multipliers as the paper's.
``density_sweep``
    By density, balanced and unbalanced: ``cycles``, ``busy``, and ``speedup`` over the dense layer (cycle model).
``queue_sweep``
    By queue depth, at 10 %: ``cycles`` with the packer's column order, in ``natural`` order, and of an ``unbalanced``
    layer (cycle model).
``pe_sweep``
    By PEs, and column groups: ``cycles``, ``busy``, ``speedup`` over the fewest (cycle model).
``software``
    See `openese.sw.bench.software`.
``cpu``
    See `openese.sw.bench.processor`.
"""

from openese.sw.bench.layer import CELLS, INPUTS, OUTPUTS, paper_layer, quantized_layer
from openese.sw.bench.report import run

__all__ = ["CELLS", "INPUTS", "OUTPUTS", "paper_layer", "quantized_layer", "run"]
