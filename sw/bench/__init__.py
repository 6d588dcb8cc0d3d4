# SPDX-License-Identifier: Apache-2.0
"""Measures the paper's benchmark layer: on the emitted Verilog, with the cycle model, and on this processor.

`run` returns a dictionary with these keys:

``machine``
    ``preset``, ``pes``, ``channels``, ``groups``, ``multipliers``, ``processor`` (of this computer).
``layer``
    ``density``, ``nonzeros``, ``entries_per_pe`` (on the fullest PE), ``padding`` (share of all PEs' entries),
    ``image_bytes``, ``float32_bytes``.
``rtl``
    In steady state, from the machine's own counters: ``cycles_per_step``, ``busy`` (share of multiplier cycles on
    non-zeros), ``counters`` of one step, ``microseconds_at_200_mhz``. ``bit_exact`` (every word equals the
    reference's), ``words``. ``rest_cycles`` and ``one_voice_cycles``: cycles of a machine at rest from the first beat
    of a frame to the last beat of the output frame, with all voices and with one; the frame starts no voice anew.
    ``verilog_lines``,
    ``emission_seconds`` to write them, ``build_seconds`` of the simulator if it was not in the cache,
    ``cycles_per_second`` simulated. ``memory``: the memory of streamed weights, or null.
``model_cycles``, ``model_difference``
    The cycle model's prediction of ``cycles_per_step``, and its relative error.
``memories``
    With streamed weights: a dictionary as ``rtl`` for every memory, with ``lines`` a step and ``cycles_per_line``.
``trace``
    With ``trace``: ``cycles_per_step`` and ``busy``, counted in a waveform of two steps from the pins and from the PEs'
    signals.
``cocotb``
    With ``cocotb``: ``cycles_per_second`` of a smaller machine under cocotb, ``harness_cycles_per_second`` of the same
    machine in the harness, and their ``ratio``.
``matrices``
    By matrix: ``cycles`` of the array in a step, ``entries_per_pe``, ``busy``, and for machines with the paper's number
    of multipliers the paper's ``paper_cycles`` and ``paper_theory_cycles``.
``density_sweep``
    By density, balanced and unbalanced: ``cycles``, ``busy``, and ``speedup`` over the dense layer (cycle model).
``queue_sweep``
    By queue depth, at 10 %: ``cycles`` with the packer's column order, in ``natural`` order, and of an ``unbalanced``
    layer (cycle model).
``pe_sweep``
    By PEs and column groups: ``cycles``, ``busy``, ``speedup`` over the smallest machine (cycle model).
``software``
    See `openese.sw.bench.software`.
``cpu``
    See `openese.sw.bench.processor`.
"""

from openese.sw.bench.callers import callers
from openese.sw.bench.gru import gru
from openese.sw.bench.latency import latencies
from openese.sw.bench.layer import CELLS, INPUTS, OUTPUTS, paper_layer, quantized_layer
from openese.sw.bench.report import run

__all__ = ["CELLS", "INPUTS", "OUTPUTS", "callers", "gru", "latencies", "paper_layer", "quantized_layer", "run"]
