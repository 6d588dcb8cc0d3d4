# SPDX-License-Identifier: Apache-2.0
"""Waveforms: signals cycle by cycle, and a view for GTKWave or Surfer.

A signal's name is its path below the top, as ``core.array.busy``. Verilator adds a number to a scope with the name of
a signal; the path leaves it out.
"""

import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from vcd.gtkw import GTKWSave
from vcd.reader import TokenKind, tokenize

from openese.output import write_text
from openese.sim.build import TOP

__all__ = ["TraceError", "samples", "save_view", "signals"]

#: The view's groups: title, and signals in the order of a column's way through the machine.
_VIEW = (
    ("frames", ("s_axis_tvalid", "s_axis_tready", "s_axis_tlast", "m_axis_tvalid", "m_axis_tready", "m_axis_tlast")),
    ("memory", ("m_axi_arvalid", "m_axi_arready", "m_axi_araddr", "m_axi_rvalid", "m_axi_rready")),
    ("controller", ("core.controller.multiply", "core.controller.assemble", "core.controller.output",
                    "core.controller.step", "core.controller.waiting_frame")),
    ("broadcast", ("core.broadcast.column_valid", "core.broadcast.full", "core.broadcast.blocked_full",
                   "core.broadcast.blocked_follow")),
    ("array", ("core.array.busy", "core.array.padding", "core.array.hazard", "core.array.full", "core.array.done",
               "core.array.starved")),
    ("PE 0", ("core.array.tile0.pe0.column_valid", "core.array.tile0.pe0.token_valid", "core.array.tile0.pe0.full",
              "core.array.tile0.pe0.busy", "core.array.tile0.pe0.padding", "core.array.tile0.pe0.hazard",
              "core.array.tile0.pe0.drain", "core.array.tile0.pe0.drain_address", "core.array.tile0.pe0.done")),
    ("element-wise", ("core.assemble.busy", "core.assemble.drain", "core.assemble.drain_address",
                      "core.assemble.write_valid", "core.assemble.write_line")),
)


class TraceError(ValueError):
    """A waveform lacks a signal. The message names both."""


def signals(path: str | Path) -> dict[str, tuple[str, int]]:
    """Identifier and width in bits of every signal of a VCD file, by the signal's name."""
    known: dict[str, tuple[str, int]] = {}
    scopes: list[str] = []
    with open(path, "rb") as file:
        for token in tokenize(file):
            if token.kind is TokenKind.SCOPE:
                scopes.append(re.sub(r"\$\d+$", "", token.scope.ident))
            elif token.kind is TokenKind.UPSCOPE:
                scopes.pop()
            elif token.kind is TokenKind.VAR and TOP in scopes:
                name = ".".join([*scopes[scopes.index(TOP) + 1:], token.var.reference])
                known[name] = (token.var.id_code, token.var.size)
            elif token.kind is TokenKind.ENDDEFINITIONS:
                break
    return known


def samples(path: str | Path, names: Sequence[str]) -> Iterator[tuple[int, ...]]:
    """Values of the signals ``names`` in every cycle: those just before the rising edge of ``aclk`` that ends it.

    Raises
    ------
    TraceError
        The file has no such signal.
    """
    known = signals(path)
    for name in ("aclk", *names):
        if name not in known:
            raise TraceError(f"{path}: there is no signal {name}")
    clock = known["aclk"][0]
    now = {known[name][0]: 0 for name in ("aclk", *names)}
    wanted = [known[name][0] for name in names]
    with open(path, "rb") as file:
        before = tuple(now[code] for code in wanted)
        for token in tokenize(file):
            if token.kind is TokenKind.CHANGE_TIME:
                before = tuple(now[code] for code in wanted)
            elif token.kind in (TokenKind.CHANGE_SCALAR, TokenKind.CHANGE_VECTOR):
                change = token.scalar_change if token.kind is TokenKind.CHANGE_SCALAR else token.vector_change
                if change.id_code in now:
                    value = change.value if isinstance(change.value, int) else int(change.value or "0", 2)
                    if change.id_code == clock and value and not now[clock]:
                        yield before
                    now[change.id_code] = value


def save_view(path: str | Path) -> Path:
    """Write a view (``.gtkw``) beside the VCD file ``path``, and return the view's path."""
    path = Path(path)
    known = signals(path)
    view = path.with_suffix(".gtkw")
    text = io.StringIO()
    save = GTKWSave(text)
    save.dumpfile(str(path.resolve()))
    save.treeopen(f"TOP.{TOP}.")
    for title, names in _VIEW:
        there = [name for name in names if name in known]
        if there:
            with save.group(title):
                for name in there:
                    width = known[name][1]
                    save.trace(f"TOP.{TOP}.{name}" + (f"[{width - 1}:0]" if width > 1 else ""),
                               datafmt="dec" if width > 1 else "hex")
    write_text(view, text.getvalue())
    return view
